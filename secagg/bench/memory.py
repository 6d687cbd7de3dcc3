"""Peak memory of a client and of the server, each alone in a fresh process.

Peak is the largest resident set (VmHWM) since the counter was reset, less what was resident
before: interpreter, libraries, compiled kernels. A small round warms those up first.
"""

from __future__ import annotations

import contextlib
import gc
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

import secagg

from . import child, works
from .hosting import SERVER, Host, make_party, make_plan
from .results import Bar
from .sheet import Case, NotHereError, Sheet

_MIB: Final = 1 << 20
_STATUS: Final = Path("/proc/self/status")
_RESET: Final = Path("/proc/self/clear_refs")


class Watch:
    """Peak memory from here on. Raises NotHereError where the system does not tell."""

    def __init__(self) -> None:
        gc.collect()
        # "5" sets the peak to what is resident now (proc(5)). Where that is not allowed, the peak
        # so far stays in the figure, which can only make it larger.
        with contextlib.suppress(OSError):
            _RESET.write_text("5")
        self._before = _kib("VmRSS")

    def peak(self) -> int:
        """Bytes that were resident at most, beyond those at the start."""
        return (_kib("VmHWM") - self._before) * 1024


def _kib(field: str) -> int:
    try:
        text = _STATUS.read_text()
    except OSError:
        raise NotHereError("this system does not tell the peak memory of a process") from None
    for row in text.splitlines():
        name, _, value = row.partition(":")
        if name == field:
            return int(value.split()[0])
    raise NotHereError(f"this system does not tell {field}")


def _warm_up() -> None:
    """One small round of all parties: libraries are loaded, kernels compiled, tables made."""
    plan = make_plan(5, 5000, 1 << 16)
    vectors = {name: works.vector(plan.length, 1.0) for name in plan.roster.names}
    secagg.aggregate(plan, vectors, drop={"input": [plan.roster.names[0]]})


def client_peak(clients: int, length: int, levels: int) -> dict[str, int]:
    """Peak of one site that masks; bytes of its vector and of its message."""
    _warm_up()
    plan = make_plan(clients, length, levels)
    site, *others = plan.roster.names
    with Host(plan, [SERVER, *others]) as host:
        own = make_party(plan, site)
        host.start(SERVER)
        for name in others:
            for to, data in host.start(name):
                host.receive(to, name, data)
        for event in own.start():
            host.receive(SERVER, site, event.data)
        for _ in range(2):  # adverts, then shares
            for to, data in host.close_step():
                if to == site:
                    for event in own.receive(bytes(data), sender=SERVER):
                        host.receive(SERVER, site, event.data)
                else:
                    for back, answer in host.receive(to, SERVER, data):
                        host.receive(back, to, answer)
        watch = Watch()
        x = works.vector(length, 1.0)
        (message,) = [event for event in own.submit(x) if isinstance(event, secagg.Send)]
        return {"peak": watch.peak(), "vector": x.nbytes, "message": len(message.data)}


def server_peak(clients: int, length: int, levels: int) -> dict[str, int]:
    """Peaks of the server while it receives and while it opens, one site having left.

    Also bytes of accumulator, of a message, and of the arrays of the result.
    """
    _warm_up()
    plan = make_plan(clients, length, levels)
    names, gone = plan.roster.names, plan.roster.names[-1]
    with Host(plan, list(names)) as host:
        watch = Watch()
        hub = make_party(plan, SERVER)
        hub.start()
        for name in names:
            for _, data in host.start(name):
                hub.receive(data, sender=name)
        for _ in range(2):  # adverts, then shares
            for event in hub.close_step():
                for _, answer in host.receive(event.to, SERVER, event.data):
                    hub.receive(answer, sender=event.to)
        message = 0
        for name in names:
            if name != gone:
                ((_, data),) = host.submit(name)
                message = len(data)
                hub.receive(data, sender=name)
                del data
        receiving = watch.peak()
        for event in hub.close_step():
            for _, answer in host.receive(event.to, SERVER, event.data):
                hub.receive(answer, sender=event.to)
        # The accumulator stays resident; what opening may take beside it is measured from zero.
        accumulator = plan.ring_length * plan.lane.itemsize
        watch = Watch()
        (done,) = [event for event in hub.close_step() if isinstance(event, secagg.Done)]
        opening = watch.peak() + accumulator
        if done.aggregate is None or len(done.aggregate.survivors) != clients - 1:
            raise ValueError("the round came to no result")
        return {
            "receiving": receiving,
            "opening": opening,
            "accumulator": accumulator,
            "message": message,
            "result": array_bytes(done.aggregate),
        }


def array_bytes(aggregate: Any) -> int:
    """Bytes of the arrays that a result holds, each counted once."""
    held = [getattr(aggregate, field.name) for field in fields(aggregate)]
    arrays = [value for value in held if isinstance(value, np.ndarray)]
    return sum({value.__array_interface__["data"][0]: value.nbytes for value in arrays}.values())


def _memory(sheet: Sheet) -> None:
    sizes = {name: sheet.sizes[name] for name in ("clients", "length", "levels")}
    rows: list[list[str]] = []
    client = child.call("memory-client", sizes)
    _enter(
        sheet,
        rows,
        "client",
        client["peak"],
        {"input vector": client["vector"], "packed message": client["message"]},
    )
    server = child.call("memory-server", sizes)
    accumulator = {"accumulator": server["accumulator"]}
    _enter(
        sheet,
        rows,
        "server-receiving",
        server["receiving"],
        {**accumulator, "one message": server["message"]},
    )
    _enter(
        sheet,
        rows,
        "server-opening",
        server["opening"],
        {**accumulator, "result": server["result"]},
    )
    sheet.listing(
        "Peak memory in MiB, libraries and compiled kernels not counted",
        ["party", "peak", "of these", "beyond"],
        rows,
        [1, 3],
    )


def _enter(
    sheet: Sheet, rows: list[list[str]], what: str, peak: int, allowed: dict[str, int]
) -> None:
    """Judge a peak by what lies beyond the arrays that have to be there."""
    beyond = (peak - sum(allowed.values())) / _MIB
    listed = ", ".join(f"{name} {size / _MIB:,.1f}" for name, size in allowed.items())
    rows.append([what.replace("-", ", "), f"{peak / _MIB:,.1f}", listed, f"{beyond:,.1f}"])
    sheet.judge(f"memory/{what}", beyond)


_SIZES: Final = {"clients": 5, "levels": 1 << 16}

CASES: Final = (
    Case(
        "memory",
        "Peak memory of a client and of the server",
        _memory,
        {
            "full": {**_SIZES, "length": 100_000_000},
            "quick": {**_SIZES, "length": 4_000_000},
            "tiny": {**_SIZES, "length": 10_000},
        },
        (
            Bar(
                id="memory/client",
                text="client, d = 100M: peak memory beyond input vector and packed message",
                bar=64,
                sense="at most",
                unit="MiB",
            ),
            Bar(
                id="memory/server-receiving",
                text="server, d = 100M, receiving: peak memory beyond accumulator and one message",
                bar=64,
                sense="at most",
                unit="MiB",
            ),
            Bar(
                id="memory/server-opening",
                text="server, d = 100M, opening: peak memory beyond accumulator and result",
                bar=64,
                sense="at most",
                unit="MiB",
            ),
        ),
    ),
)

__all__ = ["CASES", "Watch", "array_bytes", "client_peak", "server_peak"]
