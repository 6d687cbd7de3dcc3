"""Rows 9 and 10: what the sparse graph of SecAgg+ lets through, over the graphs that are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

import secagg
from secagg_protocols.errors import PlanError, ThresholdError
from secagg_protocols.masked_sum import Server, messages
from secagg_protocols.masked_sum.graph import draw
from secagg_protocols.plan import Plan

from .. import columns
from ..arena.controls import without
from ..arena.world import people
from ..attack import Array, Transcript
from ..cohorts import GraphPartition, NeighbourCapture
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..statistics import LEVEL, binomial_tail, consistent, rate
from .cohort_rounds import COLLUDER, frames, play, public, shares_of
from .views import counted

#: Sites of the drawn graphs, colluding ones and dropouts; what the facts page gives figures for.
SITES: Final = 100
COLLUDING: Final = 33
DROPOUTS: Final = 5
#: A graph that is too sparse: neighbours and share threshold.
WEAK: Final = (10, 6)
#: Graphs in one transcript.
BATCH: Final = 250

_COMPLETE: Final = (
    "Every two sites share a mask here: a secret has all sites as holders, so capture would take "
    "share_threshold colluding sites, and plans with so many are refused (rule share-threshold)."
)
_UNCUT: Final = "Every two sites share a mask here, and a complete graph has no parts."
_NO_GRAPH: Final = "There are no masks between sites, and so no graph."


def at_least(n: int, marked: int, drawn: int, least: int) -> float:
    """Pr[Hyp(n, marked, drawn) >= least], by exact integers."""
    ways = sum(
        math.comb(marked, x) * math.comb(n - marked, drawn - x)
        for x in range(least, min(marked, drawn) + 1)
    )
    return float(Fraction(ways, math.comb(n, drawn)))


def sparse(n: int, neighbours: int, threshold: int, *, weak: bool = False, **changes: Any) -> Plan:
    """A plan over a sparse graph; ``weak`` overrides the rule about its security."""
    return columns.plan(
        "sparse",
        n,
        kind=without(Plan, "sparse-security") if weak else Plan,
        protocol=secagg.MaskedSum(share_threshold=threshold, neighbours=neighbours),
        **changes,
    )


def recommended(
    sites: int = SITES, colluding: int = COLLUDING, max_dropouts: int = DROPOUTS
) -> Plan:
    """What ``Plan.recommend`` chooses for so many sites, colluders and dropouts."""
    return secagg.Plan.recommend(
        people(sites)[0],
        length=5,
        stages=(secagg.Integers(0, 1000),),
        threat="semi-honest",
        colluding=colluding,
        max_dropouts=max_dropouts,
        sites_receive=False,
    )


def graphs(plan: Plan, lab: Lab, count: int, *label: object) -> Array:
    """int16[count, sites, neighbours]: graphs as the server draws them."""
    rows = [draw(plan, lab.digest("graph", *label, i)) for i in range(count)]
    return np.array(rows, dtype=np.int16)


def refused(neighbours: int, threshold: int, **changes: Any) -> tuple[str, ...]:
    """The rule that refuses a plan with such a graph; empty where there is none."""
    fields = {"colluding": COLLUDING, "max_dropouts": DROPOUTS} | changes
    try:
        sparse(SITES, neighbours, threshold, **fields)
    except PlanError as error:
        return (f"plan.{error.rule}",)
    return ()


def whole(rounds: int) -> str:
    """How many rounds, for people."""
    return counted(rounds, "whole round")


class ChoosingServer(Server):
    """Draws a graph as it should and exchanges names, so that colluders surround its victim."""

    victim: ClassVar[int]
    colluding: ClassVar[int]

    @property
    def _graph(self) -> Any:
        return self._chosen

    @_graph.setter
    def _graph(self, drawn: Any) -> None:
        if not drawn:
            self._chosen: Any = drawn
            return
        order = list(range(len(drawn)))
        wanted = [i for i in range(self.colluding) if i not in drawn[self.victim]]
        honest = [i for i in drawn[self.victim] if i >= self.colluding]
        for one, other in zip(honest, wanted, strict=False):
            order[one], order[other] = other, one
        rows = [()] * len(drawn)
        for site, near in enumerate(drawn):
            rows[order[site]] = tuple(sorted(order[peer] for peer in near))
        self._chosen = rows


def _captures(lab: Lab, plan: Plan, rounds: int, **classes: type[Any]) -> tuple[int, int, int]:
    """Rounds with real parties: how many, those with a site opened, sites that were opened."""
    colluding = [f"s{i}" for i in range(plan.colluding)]
    kinds = dict.fromkeys(colluding, COLLUDER) | classes
    opened = hit = 0
    for number in range(rounds):
        world = play(plan, lab, round=number, classes=kinds)
        transcript = Transcript(
            public=public(world),
            frames=[f for f in frames(world, messages.INPUT) if f.sender not in colluding],
        )
        found = lab.attack(transcript, shares_of(world, colluding)).vectors
        right = [name for name, x in found.items() if x == world.vectors[name].tolist()]
        if len(right) != len(found):
            raise LabError("a captured site's vector came out wrong")
        opened += len(right)
        hit += bool(right)
    return rounds, hit, opened


class NeighbourCaptureScene(Scene):
    """Row 9."""

    attack = NeighbourCapture
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": "The server sees every vector: there is nothing to capture.",
        "semi-honest": _COMPLETE,
        "malicious-server": _COMPLETE,
        "sparse": Verdict.LEAKS,
        "paillier-one": _NO_GRAPH,
        "paillier-threshold": _NO_GRAPH,
        "noise": _COMPLETE,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Draw graphs with good and with bad parameters; let a server choose a good one's sites."""
        made = recommended()
        k, t = made.protocol.neighbours, made.protocol.share_threshold  # type: ignore[union-attr]
        draws = lab.trials(120, 3000)
        strong = self._held(lab, made, draws, "recommended")
        lab.step(1, 4)
        broken = int((strong >= t).any(axis=1).sum())
        weak_k, weak_t = WEAK
        weak_plan = sparse(
            SITES, weak_k, weak_t, weak=True, colluding=COLLUDING, max_dropouts=DROPOUTS
        )
        weak = self._held(lab, weak_plan, draws, "weak")
        lab.step(2, 4)
        # One site a draw, since the sites of one graph are not independent.
        captured = int((weak[:, -1] >= weak_t).sum())
        law = at_least(SITES - 1, COLLUDING, weak_k, weak_t)
        if not consistent(captured, draws, law):
            raise LabError(f"{captured} of {draws} captured, the law says {law:.4f} each")
        anybody = int((weak >= weak_t).any(axis=1).sum())
        tried = sparse(24, weak_k, weak_t - 1, weak=True, colluding=8, max_dropouts=4)
        rounds, hit, opened = _captures(lab, tried, lab.trials(3, 20))
        lab.step(3, 4)
        # Of fewer sites there are not colluders enough for a recommended threshold.
        surrounded = made if lab.full else recommended(70, 23, 1)
        victim = {"victim": surrounded.clients - 1, "colluding": surrounded.colluding}
        choosing = type("Choosing", (ChoosingServer,), victim)
        chosen_rounds, chosen_hit, _ = _captures(lab, surrounded, lab.trials(1, 3), server=choosing)
        bound = made.graph_security()
        chance = 2.0**-bound.capture_bits
        if binomial_tail(broken, draws, chance) < LEVEL:
            raise LabError(f"{broken} of {draws} recommended graphs captured, above the bound")
        waits = refused(weak_k, weak_t)
        chooses = refused(k, t, threat="malicious-server")
        return Finding(
            verdict=Verdict.LEAKS if chosen_hit or broken or not waits else Verdict.PREVENTED,
            tried=(
                f"{draws} graphs of {SITES} sites, {COLLUDING} of them colluding, were drawn as "
                f"the server of a round draws them, with the {k} neighbours and the share "
                f"threshold {t} that Plan.recommend chooses. In each, the attack looked for an "
                f"honest site of whose neighbours {t} or more collude. The same was done with "
                f"{weak_k} neighbours and threshold {weak_t}, which no plan accepts, and rounds "
                f"with {tried.clients} real sites were played over such a graph (threshold "
                f"{weak_t - 1}). Beside that, a server that does not follow the protocol put "
                f"colluding sites around its victim in {whole(chosen_rounds)} with "
                f"{surrounded.clients} honest and colluding sites under the recommended plan."
            ),
            seen=(
                "For a semi-honest server, the threat that a sparse plan names, "
                f"{broken} of {draws:,} recommended graphs had a captured site; the bound over all "
                f"sites is 2^-{bound.capture_bits:.1f} a round, and 2^-{bound.security_bits:.1f} "
                "with the split of the graph. In the graph that is too sparse, a given site is "
                f"captured in {captured / draws:.4f} of the draws (law {law:.4f}) and some site "
                f"in {anybody / draws:.2f}; in {whole(rounds)} "
                f"over such a graph {counted(opened, 'vector')} came out exactly. A server that "
                "chooses the neighbours itself captured its victim in "
                f"{chosen_hit} of {whole(chosen_rounds)} with recommended parameters. It is "
                "counted here as a leak, and it is stronger than the semi-honest threat of these "
                "plans, which trusts the server's dice"
                + ("; plans against a malicious server refuse sparse graphs." if chooses else ".")
            ),
            trials=chosen_rounds,
            successes=chosen_hit,
            also_refused=tuple(dict.fromkeys((*waits, *chooses))),
            beyond=not broken,
            measures=[
                msgspec.structs.replace(
                    rate(
                        "some site captured, recommended graph, semi-honest server",
                        broken,
                        draws,
                        law="n Pr[Hyp(n, c, k) >= t]",
                    ),
                    bound=chance,
                ),
                rate(
                    "victim captured, recommended graph, server that chooses it",
                    chosen_hit,
                    chosen_rounds,
                ),
                rate(
                    "a given site captured, graph too sparse",
                    captured,
                    draws,
                    predicted=law,
                    law="Pr[Hyp(n - 1, c, k) >= t]",
                ),
                rate("some site captured, graph too sparse", anybody, draws),
                Measure(
                    name="bound with recommended parameters",
                    value=bound.capture_bits,
                    law="-log2 of n Pr[Hyp(n, c, k) >= t]",
                    unit="bits",
                ),
                Measure(
                    name="a given site, recommended parameters, law",
                    value=at_least(SITES - 1, COLLUDING, k, t),
                ),
            ],
            controls=[
                ControlRun(
                    overrides=("plan.sparse-security",),
                    trials=rounds,
                    successes=hit,
                    note=f"{weak_k} neighbours, threshold {weak_t - 1}, 24 sites, 8 colluding",
                ),
            ],
            figures=[self._figure(weak, strong, weak_k, k)],
            parameters={"n": SITES, "c": COLLUDING, "k": k, "t": t, "drawn": draws},
        )

    def _held(self, lab: Lab, plan: Plan, draws: int, *label: object) -> Array:
        """int16[draws, honest sites]: shares that colluders hold of each."""
        parts = []
        for start in range(0, draws, BATCH):
            count = min(BATCH, draws - start)
            found = lab.attack(
                Transcript(
                    public={"colluding": list(range(COLLUDING))},
                    arrays={"graphs": graphs(plan, lab, count, *label, start)},
                )
            )
            parts.append(found.arrays["held"][:, COLLUDING:])
        return np.concatenate(parts)

    def _figure(self, weak: Array, strong: Array, weak_k: int, k: int) -> Figure:
        series = []
        for held, degree in ((weak, weak_k), (strong, k)):
            rates = [float((held >= t).mean()) for t in range(1, degree + 1)]
            law = [at_least(SITES - 1, COLLUDING, degree, t) for t in range(1, degree + 1)]
            seen = [(t, y) for t, y in enumerate(rates, start=1) if y > 0]
            shown = [(t, y) for t, y in enumerate(law, start=1) if y > 1e-18]
            series += [
                Series(
                    name=f"measured, {degree} neighbours",
                    x=[float(t) for t, _ in seen],
                    y=[y for _, y in seen],
                ),
                Series(
                    name=f"law, {degree} neighbours",
                    x=[float(t) for t, _ in shown],
                    y=[y for _, y in shown],
                    style="line",
                ),
            ]
        return Figure(
            title="A site captured by its neighbours",
            x_label="share threshold t",
            y_label="chance that t neighbours of a site collude",
            series=series,
            log_y=True,
            note=f"{SITES} sites, {COLLUDING} colluding; thresholds without a capture are left out",
        )


class GraphPartitionScene(Scene):
    """Row 10."""

    attack = GraphPartition
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": "The server sees every vector: a part of the sum is no more.",
        "semi-honest": _UNCUT,
        "malicious-server": _UNCUT,
        "sparse": Verdict.PREVENTED,
        "paillier-one": _NO_GRAPH,
        "paillier-threshold": _NO_GRAPH,
        "noise": _UNCUT,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Take sites out of drawn graphs, and out of real rounds over a ring."""
        made = recommended()
        k = made.protocol.neighbours  # type: ignore[union-attr]
        draws = lab.trials(100, 3000)
        broken = int((self._parts(lab, made, draws, "recommended") > 1).sum())
        lab.step(1, 3)
        few = lab.trials(100, 1000)
        counts: dict[int, int] = {}
        bounds: dict[int, float] = {}
        for degree in (2, 4, 6, 8, 10, 12):
            plan = sparse(SITES, degree, 2, weak=True, colluding=COLLUDING, max_dropouts=DROPOUTS)
            counts[degree] = int((self._parts(lab, plan, few, degree) > 1).sum())
            bounds[degree] = 2.0 ** -plan.graph_security().connectivity_bits
            if binomial_tail(counts[degree], few, min(bounds[degree], 1.0)) < LEVEL:
                raise LabError(f"more graphs of {degree} neighbours fall apart than the bound says")
        lab.step(2, 3)
        rounds, hit, sums, smallest = self._rounds(lab, lab.trials(8, 30))
        stopped = refused(2, 2)
        security = made.graph_security()
        if binomial_tail(broken, draws, 2.0**-security.connectivity_bits) < LEVEL:
            raise LabError(f"{broken} of {draws} recommended graphs fell apart, above the bound")
        return Finding(
            verdict=Verdict.LEAKS if broken or not stopped else Verdict.PREVENTED,
            tried=(
                f"{draws} graphs of {SITES} sites were drawn with the {k} neighbours that "
                f"Plan.recommend chooses; {COLLUDING} colluding sites and {DROPOUTS} dropouts, "
                "chosen at random, were taken out, and the attack looked for parts that no mask "
                "joins. The same was done with 2 to 12 neighbours, and in whole rounds with real "
                "parties on a ring of 12 sites with 2 neighbours, of which two drop out."
            ),
            seen=(
                f"{broken} of {draws} recommended graphs fell apart; the bound is "
                f"2^-{security.connectivity_bits:.1f} a round. With 2 neighbours "
                f"{counts[2]} of {few} do, with 10 {counts[10]} (bound "
                f"{min(bounds[10], 1.0):.3f}). In {whole(rounds)} on the weak ring the "
                f"server read the sums of separate parts in {hit}, {sums} sums in all, each equal "
                "to the true sum of its sites, the smallest part having "
                f"{counted(smallest, 'site')}."
            ),
            trials=draws,
            successes=broken,
            stopped_by=stopped,
            measures=[
                # A bound of 1, as for 8 neighbours or fewer, says nothing.
                msgspec.structs.replace(
                    rate(
                        f"graph falls apart, {degree} neighbours",
                        counts[degree],
                        few,
                        law="at most n (n - k - 1) / 2 times Pr[k random sites are all bad]",
                    ),
                    bound=bounds[degree],
                )
                for degree in counts
                if bounds[degree] < 1
            ]
            + [
                Measure(
                    name="bound with recommended parameters",
                    value=security.connectivity_bits,
                    unit="bits",
                )
            ],
            controls=[
                ControlRun(
                    overrides=("plan.sparse-security",),
                    trials=rounds,
                    successes=hit,
                    note="12 sites, 2 neighbours, 2 dropouts: sums of parts, read exactly",
                )
            ],
            figures=[self._figure(counts, bounds, few)],
            parameters={
                "n": SITES,
                "c": COLLUDING,
                "dropouts": DROPOUTS,
                "k": k,
                "drawn": draws,
            },
        )

    def _parts(self, lab: Lab, plan: Plan, draws: int, *label: object) -> Array:
        """int[draws]: parts of the graph without colluders and dropouts."""
        parts = []
        for start in range(0, draws, BATCH):
            count = min(BATCH, draws - start)
            rng = lab.rng("gone", *label, start)
            gone = np.zeros((count, SITES), dtype=bool)
            for row in gone:
                row[rng.permutation(SITES)[: COLLUDING + DROPOUTS]] = True
            drawn = graphs(plan, lab, count, *label, start)
            found = lab.attack(Transcript(arrays={"graphs": drawn, "gone": gone}))
            parts.append(found.arrays["parts"])
        return np.concatenate(parts)

    def _rounds(self, lab: Lab, rounds: int) -> tuple[int, int, int, int]:
        """Whole rounds: how many, those cut, sums of parts that are right, the smallest part."""
        plan = sparse(12, 2, 2, weak=True)
        hit = sums = 0
        smallest = plan.clients
        for number in range(rounds):
            drop = lab.rng("drop", number).permutation(plan.clients)[:2]
            names = tuple(plan.roster.names[i] for i in drop)
            try:
                world = play(plan, lab, round=number, drop=names)
            except ThresholdError:
                continue  # two neighbours left, and nobody can take back what they shared
            found = lab.attack(
                Transcript(
                    public=public(world), frames=frames(world, messages.INPUT, messages.REVEAL)
                )
            ).vectors
            for part, total in found.items():
                members = part.split(",")
                smallest = min(smallest, len(members))
                if total != sum(world.vectors[name] for name in members).tolist():  # type: ignore[union-attr]
                    raise LabError("the sum of a part came out wrong")
            sums += len(found) if len(found) > 1 else 0
            hit += len(found) > 1
        return rounds, hit, sums, smallest

    def _figure(self, counts: dict[int, int], bounds: dict[int, float], few: int) -> Figure:
        measured = [rate("", counts[k], few) for k in counts]
        seen = [(k, m) for k, m in zip(counts, measured, strict=True) if m.value > 0]
        return Figure(
            title="Graphs that fall apart",
            x_label="neighbours",
            y_label="part of the graphs",
            series=[
                Series(
                    name="measured, with 99 % interval",
                    x=[float(k) for k, _ in seen],
                    y=[m.value for _, m in seen],
                    low=[m.low or 0.0 for _, m in seen],
                    high=[m.high or 0.0 for _, m in seen],
                ),
                Series(
                    name="bound",
                    x=[float(k) for k in bounds],
                    y=[min(bound, 1.0) for bound in bounds.values()],
                    style="line",
                ),
            ],
            log_y=True,
            note=f"{SITES} sites, {COLLUDING} colluding and {DROPOUTS} dropouts taken out",
        )


__all__ = ["GraphPartitionScene", "NeighbourCaptureScene", "at_least", "recommended", "sparse"]
