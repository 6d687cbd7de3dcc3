"""A long session in a process of its own, which prints what memory it held after each mark.

Run as ``python session_memory.py '{"rounds": ..., ...}'``; prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import secagg
from secagg.session import Finished, ServerSession, SiteSession, Wanted
from secagg_protocols.events import Send
from support.sessions import SERVER, session_plan


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def play(
    *,
    rounds: int,
    marks: Sequence[int],
    sites: int,
    length: int,
    folder: str = "",
    threat: str = "semi-honest",
    leak: str = "",
    trace: bool = False,
) -> dict[str, Any]:
    """Play ``rounds`` rounds; what was held after each of ``marks`` of them.

    folder: journals are files in it; without it they live in memory. leak: what the caller keeps
    on purpose: ``reports`` (every report), ``heads`` (the control frame's header of every
    report) or nothing. trace: count the bytes of all objects, which takes time.
    """
    plan, identities = session_plan(
        threat, sites=sites, length=length, max_dropouts=2, min_honest=3
    )
    keys = identities if plan.signed else {}

    def journal(name: str) -> secagg.MemoryJournal | secagg.FileJournal:
        return secagg.FileJournal(Path(folder, name)) if folder else secagg.MemoryJournal()

    names = plan.roster.names
    journals = {name: journal(name) for name in (*names, SERVER)}
    hub = ServerSession(plan, identity=keys.get(SERVER), session="long", journal=journals[SERVER])
    parties = {
        name: SiteSession(
            plan,
            name,
            identity=keys.get(name),
            session="long",
            floors=None,
            journal=journals[name],
        )
        for name in names
    }
    base = np.arange(length) % 7
    kept: list[bytes] = []

    def exchange(orders: Sequence[Send], number: int, model: bytes) -> None:
        for order in orders:
            party = parties[order.to]
            events = party.receive(order.data, sender=SERVER)
            if any(isinstance(event, Wanted) for event in events):
                events = party.submit(base + names.index(order.to) + number, model=model)
            for event in events:
                if isinstance(event, Send):
                    report = event.data
                    hub.receive(report, sender=order.to)
                    if leak == "reports":
                        kept.append(report)
                    elif leak == "heads":
                        kept.append(report[16 : 16 + int.from_bytes(report[12:16], "little")])

    def one(number: int) -> None:
        model = b"model %d" % number
        events = hub.begin_round(model)
        while hub.slot is not None:
            exchange([event for event in events if isinstance(event, Send)], number, model)
            events = hub.close_exchange()
        (finished,) = (event for event in events if isinstance(event, Finished))
        assert finished.aggregate is not None
        assert finished.aggregate.survivors == names
        total = base * sites + sites * (sites - 1) // 2 + sites * number
        assert np.array_equal(finished.aggregate.sum, total)

    if trace:
        tracemalloc.start()
    began = time.monotonic()
    held: dict[str, list[int]] = {"blocks": [], "resident": [], "registers": [], "disk": []}
    held["traced"] = []
    for number in range(rounds):
        one(number)
        if number + 1 in marks:
            # What CPython keeps for lookups grows to a limit of its own.
            getattr(sys, "_clear_type_cache", int)()
            gc.collect()
            # Exact, and free of charge: each small object of Python's is one block.
            held["blocks"].append(sys.getallocatedblocks())
            held["traced"].append(tracemalloc.get_traced_memory()[0])
            held["resident"].append(resident())
            held["registers"].append(sum(len(j._registers) for j in journals.values()))
            disk = sum(f.stat().st_size for f in Path(folder).rglob("*")) if folder else 0
            held["disk"].append(disk)
    return {
        **held,
        "seconds": time.monotonic() - began,
        "cpu": time.process_time(),
        "kept": len(kept),
    }


if __name__ == "__main__":
    print(json.dumps(play(**json.loads(sys.argv[1]))))
