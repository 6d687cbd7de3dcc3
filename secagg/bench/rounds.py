"""Cases of whole rounds: against Flower's functions, and over many clients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

import secagg
from secagg_protocols.masked_sum.costs import round_cost
from secagg_protocols.plan import masked_of

from . import flower, measure, peers, works
from .results import Bar
from .sheet import Case, Sheet

#: Flower's 2^22 levels over [-8, 8] are 2^21 levels per clip of 8: the same step.
LEVELS: Final = peers.RANGE // 2


@dataclass(slots=True)
class Costs:
    """What each party of one round cost, by site; one process ran them all.

    seconds: of CPU, which other work on the machine does not lengthen. server, whole: by the
    clock.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    server: float = 0.0
    whole: float = 0.0
    aggregate: secagg.Aggregate | None = None


def timed_round(plan: secagg.Plan, vector_of: Callable[[str], Any], silent: Iterable[str]) -> Costs:
    """One round of all parties, every message encoded and decoded, each party timed by itself.

    ``silent`` sites do their work and then say nothing from the masked input on.
    """
    common: dict[str, Any] = {"identity": None, "session": "bench", "round": 0, "model": b""}
    hub = secagg.server(plan, journal=secagg.MemoryJournal(), **common)
    parties = {
        name: secagg.client(plan, name, floors=None, journal=secagg.MemoryJournal(), **common)
        for name in plan.roster.names
    }
    costs, gone, masked = Costs(), set(silent), False
    costs.seconds = dict.fromkeys(parties, 0.0)
    costs.sent, costs.received = dict.fromkeys(parties, 0), dict.fromkeys(parties, 0)

    def site(name: str, work: Callable[[], list[Any]]) -> None:
        start = time.process_time()
        events = work()
        costs.seconds[name] += time.process_time() - start
        for event in events:
            if not isinstance(event, secagg.Send) or (masked and name in gone):
                continue
            costs.sent[name] += len(event.data)
            start = time.perf_counter()
            hub.receive(event.data, sender=name)
            costs.server += time.perf_counter() - start

    begun = time.perf_counter()
    with measure.undisturbed():
        hub.start()
        for name, party in parties.items():
            site(name, party.start)
        for step in ("advertise", "share", "input", "reveal"):
            start = time.perf_counter()
            events = hub.close_step()
            costs.server += time.perf_counter() - start
            masked = step != "advertise"
            for event in events:
                if isinstance(event, secagg.Done):
                    costs.aggregate = event.aggregate
                elif isinstance(event, secagg.Send):
                    name, data = event.to, event.data
                    party = parties[name]
                    costs.received[name] += len(data)
                    site(name, lambda p=party, d=data: p.receive(d, sender="server"))  # type: ignore[misc]
                    if step == "share":
                        site(name, lambda p=party, n=name: p.submit(vector_of(n)))  # type: ignore[misc]
    costs.whole = time.perf_counter() - begun
    return costs


def flower_like_plan(clients: int, threshold: int, length: int) -> secagg.Plan:
    """The complete graph, threshold, step, clip and modulus that Flower's round is given."""
    roster, _ = secagg.Roster.generate(f"site-{i}" for i in range(clients))
    return secagg.Plan(
        roster=roster,
        length=length,
        stages=(secagg.ClipLinf(peers.CLIP), secagg.Quantise(LEVELS)),
        protocol=secagg.MaskedSum(share_threshold=threshold, neighbours=clients - 1),
        threat="semi-honest",
        colluding=max(1, clients - threshold - 1),
        max_dropouts=clients // 10 or 1,
        min_honest=2,
        sites_receive=False,  # in Flower's round the sum stays at the server
        suite=secagg.SUITE,
        security_bits=40,
        bits=32,
    )


def _round_100(sheet: Sheet) -> None:
    n, t, d = (sheet.sizes[name] for name in ("clients", "threshold", "length"))
    shape = flower.Shape(n, n // 10 or 1, d, t)
    plan = flower_like_plan(n, t, d)
    # A few vectors stand for all: what is timed does not depend on their values.
    vectors = [works.vector(d, peers.CLIP) * np.float32(i / 8) for i in range(1, 9)]
    given = {name: vectors[i % 8] for i, name in enumerate(plan.roster.names)}
    gone = plan.roster.names[: shape.dropped]
    _require_right_sum(plan, given, gone)

    def ours() -> object:
        return secagg.aggregate(plan, given, drop={"input": gone})

    reason = peers.left_out(sheet.given).get("flwr", "")
    if reason:
        found = sheet.alternate({"ours": ours}, seconds=0.0)["ours"]
        sheet.timed("secagg, whole round, all parties", found, n, "clients")
    peers.need(sheet.given, "flwr")
    flower.check_calls(flower.Shape(5, 1, 40, 3))
    parts = flower.parts(shape)
    mine: list[float] = []
    turns: list[list[float]] = []
    one_turn(parts)  # warms up
    for _ in range(sheet.given.runs):
        with measure.undisturbed():
            mine.append(measure.sample(ours))
            turns.append(one_turn(parts))
    composed = [composition(parts, turn) for turn in turns]
    sheet.timed("secagg, whole round, all parties", mine, n, "clients")
    sheet.timed("Flower, whole round, composed of its functions", composed, n, "clients")
    sheet.compare("round-100/flower", composed, mine)
    _list_parts(sheet, parts, turns, f"Flower's round, n = {n}, d = {d:,}")
    _validate(sheet)


#: A function that takes longer is called once a turn, a shorter one in every pass.
_LONG: Final = 0.05
_PASSES: Final = 10


def one_turn(parts: list[flower.Part]) -> list[float]:
    """Seconds of a call of each function.

    Short ones are called one after the other, over and over, as a round does between its masks:
    called alone in a loop they would find everything in the caches, and be faster than they are.
    """
    totals, counts = [0.0] * len(parts), [0] * len(parts)
    for turn in range(_PASSES):
        for index, part in enumerate(parts):
            if turn == 0 or totals[index] < _LONG * counts[index]:
                totals[index] += measure.sample(part.work)
                counts[index] += 1
    return [total / count for total, count in zip(totals, counts, strict=True)]


def composition(parts: list[flower.Part], turn: list[float]) -> float:
    """Seconds of a composed round from those of a call of each function."""
    return sum(part.calls * seconds for part, seconds in zip(parts, turn, strict=True))


def _list_parts(
    sheet: Sheet, parts: list[flower.Part], turns: list[list[float]], title: str
) -> None:
    medians = [measure.spread(one).median for one in zip(*turns, strict=True)]
    totals = [part.calls * median for part, median in zip(parts, medians, strict=True)]
    rows = [
        [
            part.function,
            part.size,
            f"{part.calls:,}",
            f"{median * 1e3:,.4f}",
            f"{total:,.3f}",
            f"{100 * total / sum(totals):.1f} %",
        ]
        for part, median, total in zip(parts, medians, totals, strict=True)
    ]
    rows.append(["all", "", "", "", f"{sum(totals):,.3f}", "100 %"])
    columns = ["function", "size", "calls", "ms a call", "seconds", "share"]
    sheet.listing(title, columns, rows, [2, 3, 4, 5])


def _validate(sheet: Sheet) -> None:
    """Compare a composed round with real ones, in turns, at a size that can be run whole."""
    n, t, d = (sheet.sizes[name] for name in ("real_clients", "real_threshold", "real_length"))
    shape = flower.Shape(n, n // 10 or 1, d, t)
    parts = flower.parts(shape)
    real: list[float] = []
    turns: list[list[float]] = []
    one_turn(parts)  # warms up
    for _ in range(sheet.given.runs):
        with measure.undisturbed():
            turns.append(one_turn(parts))
            real.append(flower.run(shape).seconds)
    composed = [composition(parts, turn) for turn in turns]
    sheet.timed(f"Flower, real round, n = {n}", real, n, "clients")
    sheet.timed(f"Flower, composed round, n = {n}", composed, n, "clients")
    _list_parts(sheet, parts, turns, f"Flower's round, n = {n}, d = {d:,}")
    times, pairs = measure.ratio(composed, real)
    sheet.notes.append(
        f"At n = {n} a real round of Flower takes {measure.spread(real).median:.2f} s, the "
        f"composed one {measure.spread(composed).median:.2f} s: {times:.3f} times as long (single "
        f"turns {pairs.lowest:.3f} to {pairs.highest:.3f})."
    )
    sheet.judge("round-100/composition", abs(times - 1), samples=len(real))


def _require_right_sum(plan: secagg.Plan, given: dict[str, Any], gone: Iterable[str]) -> None:
    """Raise ValueError unless a round gives the sum of its survivors' vectors."""
    found = secagg.aggregate(plan, given, drop={"input": list(gone)})
    levels = _error_in_levels(found, given)
    if levels > len(found.survivors):
        raise ValueError(f"the sum is wrong by {levels} levels")


def _error_in_levels(found: secagg.Aggregate, given: dict[str, Any]) -> float:
    """Largest error of a sum, in levels of the quantisation."""
    total = np.zeros(len(found.sum), dtype=np.float64)
    for name in found.survivors:
        total += given[name]
    return float(np.abs(found.sum - total).max()) * LEVELS / peers.CLIP


# Over many clients.


def _grown_plan(clients: int, length: int, *, sparse: bool) -> secagg.Plan:
    """A tenth of the sites may leave, another tenth may collude with the server."""
    roster, _ = secagg.Roster.generate(f"site-{i}" for i in range(clients))
    tenth = clients // 10 or 1
    return secagg.Plan.recommend(
        roster,
        length=length,
        stages=(secagg.ClipLinf(peers.CLIP), secagg.Quantise(LEVELS)),
        threat="semi-honest",
        colluding=tenth,
        max_dropouts=tenth,
        min_honest=2,
        neighbours=None if sparse else clients - 1,
    )


@dataclass(slots=True)
class _Grown:
    """What rounds of one size gave, over all turns."""

    plan: secagg.Plan
    seconds: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    size: float = 0.0
    error: float = 0.0


#: Graph, clients.
_Size = tuple[str, int]


def _round_1000(sheet: Sheet) -> None:
    length = sheet.sizes["length"]
    vectors = [works.vector(length, peers.CLIP) * np.float32(i / 8) for i in range(1, 9)]
    found: dict[_Size, _Grown] = {
        (graph, n): _Grown(_grown_plan(n, length, sparse=graph == "sparse"))
        for graph in ("sparse", "complete")
        for n in sheet.sizes[graph]
    }
    for _ in range(sheet.sizes["turns"]):
        # Sizes take turns, so that a busy spell of the machine does not meet one size alone.
        for grown in found.values():
            _one_round(grown, vectors)
    largest = found["sparse", max(sheet.sizes["sparse"])]
    n = largest.plan.clients
    sheet.timed(f"whole round of {n:,}, sparse graph", largest.whole, n, "clients")
    sheet.judge("round-1000/finishes", largest.error)
    _list_rounds(sheet, found, length)
    _growth(sheet, found)
    if not peers.left_out(sheet.given).get("flwr"):
        # Its bytes on the wire, complete graph: real small rounds give the size of each piece.
        sheet.line(
            "client-bytes", "Flower, complete graph, sum not returned", _flower_bytes(sheet, length)
        )


def _one_round(grown: _Grown, vectors: list[Any]) -> None:
    names, tenth = grown.plan.roster.names, grown.plan.max_dropouts
    given = {name: vectors[i % len(vectors)] for i, name in enumerate(names)}
    gone = set(names[:: max(2, len(names) // tenth)][:tenth])
    costs = timed_round(grown.plan, given.__getitem__, gone)
    stayed = [name for name in names if name not in gone]
    if costs.aggregate is None or len(costs.aggregate.survivors) != len(stayed):
        raise ValueError("the round came to no result")
    grown.seconds += [costs.seconds[name] for name in stayed]
    grown.server.append(costs.server)
    grown.whole.append(costs.whole)
    sizes = [float(costs.sent[name] + costs.received[name]) for name in stayed]
    grown.size = measure.spread(sizes).median
    grown.error = max(grown.error, _error_in_levels(costs.aggregate, given) / len(stayed))


def _list_rounds(sheet: Sheet, found: dict[_Size, _Grown], length: int) -> None:
    rows: list[list[str]] = []
    for (graph, n), grown in found.items():
        five = measure.spread(grown.seconds)
        rows.append(
            [
                f"{n:,}",
                graph,
                f"{masked_of(grown.plan).neighbours:,}",
                f"{five.median * 1e3:,.1f} ({five.first * 1e3:,.1f} to {five.third * 1e3:,.1f})",
                f"{grown.size:,.0f}",
                f"{round_cost(grown.plan).site_total:,}",
                f"{measure.spread(grown.server).median:,.2f}",
                f"{measure.spread(grown.whole).median:,.2f}",
                f"{grown.error:.2f}",
            ]
        )
    sheet.listing(
        f"Rounds over clients, d = {length:,}, 10 % dropped, 10 % may collude",
        [
            "clients", "graph", "neighbours", "CPU ms a client (quartiles)", "bytes a client",
            "bytes planned", "server s", "whole round s", "error, levels a survivor",
        ],
        rows,
        [0, 2, 3, 4, 5, 6, 7, 8],
    )  # fmt: skip


def _growth(sheet: Sheet, found: dict[_Size, _Grown]) -> None:
    """Plots of client cost over clients, and the exponents with which it grows."""
    rows: list[list[str]] = []
    for graph in ("sparse", "complete"):
        at = sorted(n for kind, n in found if kind == graph)
        grown = [found[graph, n] for n in at]
        points = {float(n): one.seconds for n, one in zip(at, grown, strict=True)}
        sheet.curve("client-seconds", f"secagg, {graph} graph", points)
        sizes = {float(n): one.size for n, one in zip(at, grown, strict=True)}
        sheet.line("client-bytes", f"secagg, {graph} graph, measured", sizes)
        planned = {
            float(n): float(round_cost(one.plan).site_total)
            for n, one in zip(at, grown, strict=True)
        }
        sheet.line("client-bytes", f"secagg, {graph} graph, planned", planned, dashed=True)
        medians = [measure.spread(one.seconds).median for one in grown]
        logs = [math.log(n) for n in at]
        for what, values in (("seconds", medians), ("bytes", list(sizes.values()))):
            intercept, slope, fit = measure.line(logs, values)
            rows.append(
                [
                    graph,
                    what,
                    f"{measure.power(at, values):.2f}",
                    f"{intercept:.4g} + {slope:.4g} ln n",
                    f"{fit:.3f}",
                ]
            )
            if graph == "sparse" and what == "seconds":
                sheet.judge("round-1000/growth", measure.power(at, values))
                best = {float(n): intercept + slope * math.log(n) for n in at}
                name = "sparse graph, best a + b ln n"
                sheet.line("client-seconds", name, best, dashed=True)
    sheet.listing(
        "How a client's cost grows with the number of clients",
        ["graph", "cost", "exponent of n", "best a + b ln n", "R^2 of it"],
        rows,
        [2, 4],
    )


def _flower_bytes(sheet: Sheet, length: int) -> dict[float, float]:
    """Payload bytes that a client of Flower sends and receives, over the number of clients.

    Two real rounds at small sizes give the slope over clients; a coordinate is 8 bytes there.
    """
    small, large = 6, 12
    at = {n: flower.run(flower.Shape(n, 0, 1000, n // 2 + 1)) for n in (small, large)}
    total = {n: ran.sent + ran.received for n, ran in at.items()}
    slope = (total[large] - total[small]) / (large - small)
    start = total[small] - slope * small + 8 * (length - 1000)
    cohorts = sorted({*sheet.sizes["sparse"], *sheet.sizes["complete"]})
    return {float(n): start + slope * n for n in cohorts}


CASES: Final = (
    Case(
        "round-100",
        "A whole round beside Flower's functions",
        _round_100,
        {
            "full": {
                "clients": 100, "threshold": 67, "length": 1_000_000,
                "real_clients": 20, "real_threshold": 14, "real_length": 1_000_000,
            },
            "quick": {
                "clients": 20, "threshold": 14, "length": 50_000,
                "real_clients": 8, "real_threshold": 6, "real_length": 50_000,
            },
            "tiny": {
                "clients": 5, "threshold": 4, "length": 100,
                "real_clients": 4, "real_threshold": 3, "real_length": 100,
            },
        },
        (
            Bar(
                id="round-100/flower",
                text="whole round, n = 100, d = 1M, 10 % dropped, all parties in one process: "
                "times as fast as Flower's functions",
                bar=80,
                peer="flwr",
            ),
            Bar(
                id="round-100/composition",
                text="Flower's composed round against a real one, n = 20: difference as a "
                "fraction of the real one",
                bar=0.15,
                sense="at most",
                peer="flwr",
            ),
        ),
    ),
    Case(
        "round-1000",
        "Rounds of SecAgg+ over many clients",
        _round_1000,
        {
            "full": {
                "length": 100_000, "sparse": [100, 200, 400, 1000], "complete": [50, 100, 200, 400],
                "turns": 3,
            },
            "quick": {"length": 10_000, "sparse": [70, 140], "complete": [20, 60], "turns": 1},
            "tiny": {"length": 100, "sparse": [5, 8], "complete": [5, 8], "turns": 1},
        },
        (
            Bar(
                id="round-1000/finishes",
                text="SecAgg+ round, n = 1,000, d = 100k, 10 % dropped, one process: finishes; "
                "error of the sum in levels a survivor",
                bar=1.0,
                sense="at most",
                unit="levels",
            ),
            Bar(
                id="round-1000/growth",
                text="client cost grows as log n: exponent of n in a client's CPU seconds, n = 100 "
                "to 1,000 (complete graph: about 1)",
                bar=0.5,
                sense="at most",
            ),
        ),
    ),
)  # fmt: skip

__all__ = ["CASES", "Costs", "composition", "flower_like_plan", "timed_round"]
