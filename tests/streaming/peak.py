"""One party in a process of its own, which says how far its memory grew: run by test_memory.py.

Every phase prints one JSON line: the growth of the resident peak over what the process had when
the phase began, and what the bars allow for it, both in bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg import ClipL2, ClipLinf, Done, MemoryJournal, Quantise, Send
from secagg_protocols import hub as hub_module
from secagg_protocols import lift, wire
from secagg_protocols import site as site_module
from secagg_protocols.events import Send as SendEvent
from secagg_protocols.party import Party
from secagg_protocols.result import ring_size
from secagg_protocols.waiting import Waiting

CLIPS = {"linf": ClipLinf(8.0), "l2": ClipL2(8.0)}


def plan_of(options: argparse.Namespace, length: int) -> secagg.Plan:
    names = [f"s{i}" for i in range(options.sites)]
    sites = tuple((name, bytes([i + 1]) * 32) for i, name in enumerate(names))
    return secagg.Plan.recommend(
        secagg.Roster(sites=sites, server=bytes([255]) * 32),
        length=length,
        stages=(CLIPS[options.clip], Quantise(1 << 13)),
        threat="semi-honest",
        colluding=0 if not options.sites_receive else 1,
        max_dropouts=0,
        min_honest=2,
        sites_receive=options.sites_receive,
        neighbours=options.sites - 1,
        max_weight=options.weight,
        bits=20,
    )


def party(plan: secagg.Plan, name: str) -> Any:
    common: dict[str, Any] = {
        "identity": None,
        "session": "memory",
        "round": 0,
        "model": b"",
        "journal": MemoryJournal(),
    }
    if name == "server":
        return secagg.server(plan, **common)
    return secagg.client(plan, name, floors=None, **common)


def vector(plan: secagg.Plan, dtype: Any) -> Any:
    return np.random.default_rng(1).standard_normal(plan.length, dtype=dtype)


# Figures.


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


class Phase:
    """From its start to :meth:`end`, how far the resident peak grew."""

    def __init__(self) -> None:
        gc.collect()
        # Memory that was freed and not given back would hide as much of what follows.
        ctypes.CDLL(None).malloc_trim(0)
        self.base = status("VmRSS")
        # The peak so far is forgotten, so that each phase has its own.
        Path("/proc/self/clear_refs").write_text("5")

    def end(self, name: str, allowed: int) -> None:
        print(json.dumps([name, status("VmHWM") - self.base, allowed]), flush=True)


# Roles.


def run_client(options: argparse.Namespace) -> None:
    """A site from its vector to its packed input."""
    plan = plan_of(options, options.length)
    hub = party(plan, "server")
    hub.start()
    sites = {name: party(plan, name) for name in plan.roster.names}
    for name, site in sites.items():
        deliver(site.start(), hub, name)
    for event in hub.close_step():
        deliver(sites[event.to].receive(event.data), hub, event.to)
    shares = next(event.data for event in hub.close_step() if event.to == "s0")
    site = sites["s0"]
    del hub, sites
    phase = Phase()
    x = vector(plan, options.dtype)
    if options.early:
        site.submit(x, options.weight)
        (sent,) = site.receive(shares)
    else:
        site.receive(shares)
        (sent,) = site.submit(x, options.weight)
    phase.end("client", x.nbytes + len(sent.data))


def record(options: argparse.Namespace) -> None:
    """A whole round whose messages to the server, and the last ones to a site, go to files."""
    plan = plan_of(options, options.length)
    x = vector(plan, options.dtype)
    hub = party(plan, "server")
    sites = {name: party(plan, name) for name in plan.roster.names}

    def keep(step: int, name: str, data: bytes) -> None:
        (options.folder / f"{step}-{name}").write_bytes(data)

    hub.start()
    pending = {name: site.start() for name, site in sites.items()}
    for step in (1, 2, 3, 5):
        for name, events in pending.items():
            for event in events:
                keep(step, name, event.data)
                hub.receive(event.data, sender=name)
        pending = {}
        for event in hub.close_step():
            if isinstance(event, Send):
                if step == 5 and event.to == "s0":
                    keep(6, "s0", event.data)
                    (options.folder / "dump").write_bytes(sites["s0"].dump())
                    break
                if step < 5:
                    pending[event.to] = sites[event.to].receive(event.data)
                if step == 2:
                    pending[event.to] = sites[event.to].submit(x, options.weight)


def run_server(options: argparse.Namespace) -> None:
    """The server of a recorded round, one message in memory at a time."""
    plan = plan_of(options, options.length)
    ring = plan.ring_length * plan.lane.itemsize
    packed = ring_size(plan)
    hub = party(plan, "server")
    hub.start()
    phase = Phase()
    for step in (1, 2, 3, 5):
        for name in plan.roster.names:
            hub.receive((options.folder / f"{step}-{name}").read_bytes(), sender=name)
        if step == 3:
            phase.end("receiving", ring + packed)
            phase = Phase()
        events = hub.close_step()
    result = 8 * plan.ring_length
    # The accumulator was there when this phase began.
    phase.end("opening", result + (packed if options.sites_receive else 0))
    assert isinstance(events[-1], Done)
    if options.sites_receive:
        phase = Phase()
        for event in events[:-1]:
            assert len(event.data) > packed
        phase.end("sending", packed)


def run_result(options: argparse.Namespace) -> None:
    """A site that receives the sum."""
    plan = plan_of(options, options.length)
    data = (options.folder / "6-s0").read_bytes()
    site = party(plan, "s0")
    site.restore(secagg_state(plan, (options.folder / "dump").read_bytes(), site))
    phase = Phase()
    (done,) = site.receive(data)
    assert done.aggregate is not None
    phase.end("result", 8 * plan.ring_length)


def secagg_state(plan: secagg.Plan, dump: bytes, site: Any) -> dict[str, Any]:
    """The dump's content, with a journal that knows of all its steps."""
    from secagg_protocols.dumps import read_dump

    site.journal.claim(site._journal_key, 5, bytes(32), b"")
    return read_dump(dump, plan)


def deliver(events: list[Any], hub: Any, name: str) -> None:
    for event in events:
        hub.receive(event.data, sender=name)


# Copies too many, each of which must be seen.


def copied_input() -> None:
    true = Waiting.__init__

    def init(self: Any, array: Any, weight: int, *, shared: bool) -> None:
        true(self, array.copy(), weight, shared=False)

    Waiting.__init__ = init  # type: ignore[method-assign]


def copied_frame() -> None:
    wire.FrameBuffer.__bytes__ = (  # type: ignore[method-assign]
        lambda self: bytes(bytearray(self._file.getbuffer()))
    )


def copied_message() -> None:
    true = Party._authenticate

    def authenticate(self: Any, data: Any, sender: Any) -> Any:
        return true(self, bytearray(data), sender)

    Party._authenticate = authenticate  # type: ignore[method-assign]


def kept_messages() -> None:
    true, kept = Party._authenticate, []

    def authenticate(self: Any, data: Any, sender: Any) -> Any:
        kept.append(data)
        return true(self, data, sender)

    Party._authenticate = authenticate  # type: ignore[method-assign]


def copied_sum() -> None:
    true = hub_module.lift
    hub_module.lift = lambda plan, ring: true(plan, ring.astype(np.uint64))  # type: ignore[attr-defined]


def copied_result() -> None:
    true = site_module.lift_packed  # type: ignore[attr-defined]

    def lift_packed(plan: Any, packed: Any) -> Any:
        return lift.lift(plan, true(plan, packed).view(np.uint64).astype(plan.lane))

    site_module.lift_packed = lift_packed  # type: ignore[attr-defined]


def whole_results() -> None:
    true = SendEvent.__init__
    SendEvent.__init__ = (  # type: ignore[method-assign]
        lambda self, to, *parts: true(self, to, b"".join(parts))
    )


PLANTS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        copied_input,
        copied_frame,
        copied_message,
        kept_messages,
        copied_sum,
        copied_result,
        whole_results,
    )
}
ROLES = {"client": run_client, "record": record, "server": run_server, "result": run_result}


def warm_up(options: argparse.Namespace) -> None:
    """A small round: what is loaded and compiled once is no part of a round's memory."""
    plan = plan_of(options, 70_000)
    x = vector(plan, options.dtype)
    secagg.aggregate(plan, dict.fromkeys(plan.roster.names, x))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--length", type=int, default=4_000_000)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--clip", choices=CLIPS, default="linf")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weight", type=int, default=1)
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--sites-receive", action="store_true")
    parser.add_argument("--plant", choices=PLANTS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parsed()
    warm_up(chosen)
    if chosen.plant:
        PLANTS[chosen.plant]()
    ROLES[chosen.role](chosen)
