"""Cold start: a fresh process that takes up a round, masks a vector, and ends.

Frameworks start a process for each message. Its time beyond imports is what is judged: reading
the plan and the dump, loading compiled kernels from their cache, quantising, masking, packing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from . import child, measure
from .results import Bar
from .sheet import Case, Sheet

_SITE: Final = "site-0"


def mask_once(folder: str) -> dict[str, float]:
    """Seconds of imports and of everything after them, in this process."""
    begun = time.perf_counter()
    import numpy as np

    import secagg
    import secagg_native.kernels._jit  # noqa: F401 - brings numba and LLVM, which are imports too

    load_plan, load, send = secagg.load_plan, secagg.load, secagg.Send
    journals = secagg.FileJournal
    imported = time.perf_counter()
    home = Path(folder)
    plan = load_plan((home / "plan.toml").read_text())
    party = load((home / "dump").read_bytes(), plan, None, journals(home / "journal"))
    if not isinstance(party, secagg.Client):
        raise TypeError("the dump is not that of a site")
    (event,) = [e for e in party.submit(np.load(home / "vector.npy")) if isinstance(e, send)]
    (home / "message").write_bytes(event.data)
    return {"imports": imported - begun, "masking": time.perf_counter() - imported}


def prepare(home: Path, clients: int, length: int) -> None:
    """Run a round up to the masked input and leave one site's files in ``home``."""
    import numpy as np

    import secagg

    from . import works

    roster, _ = secagg.Roster.generate(f"site-{i}" for i in range(clients))
    plan = secagg.Plan.recommend(
        roster,
        length=length,
        stages=(secagg.ClipLinf(8.0), secagg.Quantise(1 << 16)),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
    )
    common: dict[str, Any] = {"identity": None, "session": "bench", "round": 0, "model": b""}
    hub = secagg.server(plan, journal=secagg.MemoryJournal(), **common)
    journal = secagg.FileJournal(home / "journal")
    sites = {
        name: secagg.client(
            plan,
            name,
            floors=None,
            journal=journal if name == _SITE else secagg.MemoryJournal(),
            **common,
        )
        for name in roster.names
    }
    hub.start()
    for name, party in sites.items():
        for event in party.start():
            if isinstance(event, secagg.Send):
                hub.receive(event.data, sender=name)
    for _ in range(2):  # adverts, then shares
        for event in hub.close_step():
            if isinstance(event, secagg.Send):
                for answer in sites[event.to].receive(event.data, sender="server"):
                    if isinstance(answer, secagg.Send):
                        hub.receive(answer.data, sender=event.to)
    (home / "plan.toml").write_text(secagg.dump_plan(plan))
    (home / "dump").write_bytes(sites[_SITE].dump())
    np.save(home / "vector.npy", works.vector(length))


def _cold(sheet: Sheet) -> None:
    clients, length, starts = (sheet.sizes[name] for name in ("clients", "length", "starts"))
    found: dict[str, list[float]] = {"imports": [], "masking": [], "whole process": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(starts + 1):
            home = Path(folder) / str(turn)
            home.mkdir()
            prepare(home, clients, length)  # made anew: a journal notices that it was copied
            start = time.perf_counter()
            answer = child.call("cold", {"folder": str(home)})
            whole = time.perf_counter() - start
            shutil.rmtree(home)
            if turn == 0:
                continue  # it has filled the cache folder, if that was empty
            found["imports"].append(answer["imports"])
            found["masking"].append(answer["masking"])
            found["whole process"].append(whole)
    for name, samples in found.items():
        sheet.timed(f"fresh process: {name}", samples)
    five = measure.spread(found["masking"])
    sheet.judge("cold-start/seconds", five.median, spread=five, samples=starts)


CASES: Final = (
    Case(
        "cold-start",
        "Cold start: a fresh process masks one vector",
        _cold,
        {
            "full": {"clients": 10, "length": 100_000, "starts": 7},
            "quick": {"clients": 10, "length": 100_000, "starts": 3},
            "tiny": {"clients": 5, "length": 100, "starts": 1},
        },
        (
            Bar(
                id="cold-start/seconds",
                text="a fresh process with a warm cache folder masks 100,000 coordinates: "
                "seconds beyond its imports",
                bar=1.0,
                sense="at most",
                unit="s",
            ),
        ),
    ),
)

__all__ = ["CASES", "mask_once", "prepare"]
