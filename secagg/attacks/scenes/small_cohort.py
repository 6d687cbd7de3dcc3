"""Row 7: how many honest sites a sum has, and what it says of one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import secagg
from secagg_protocols import paillier_sum
from secagg_protocols.errors import PlanError, ThresholdError
from secagg_protocols.masked_sum import Client, Server, messages
from secagg_protocols.plan import Plan

from .. import columns
from ..arena.controls import changed, without
from ..arena.world import World
from ..attack import Array, Transcript
from ..cohorts import SmallCohort
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..statistics import interval, within
from .cohort_rounds import MOST, VICTIM, WIDE, by_name, open_world, refusals, sum_of
from .views import counted


def impatient(kind: type[Any]) -> type[Any]:
    """A server that goes on with as few inputs as it likes, and needs the answers all the same."""

    def enough(server: Any, step: Any, have: int, need: int, who: str) -> None:
        if step != secagg.Step.INPUT:
            kind._check_enough(server, step, have, need, who)

    return changed(kind, _check_enough=enough)


class SmallCohortScene(Scene):
    """Row 7: what is left of a sum when colluding sites take their own vectors out."""

    attack = SmallCohort
    expected: ClassVar[Mapping[str, Verdict | str]] = dict.fromkeys(columns.COLUMNS, Verdict.LEAKS)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """n - 1 colluders, then as many as the plan counts on, then a list that is too short."""
        noisy = column == "noise"
        made = columns.plan(column, 5, WIDE if noisy else 5)
        rounds = lab.trials(1, 3 if column in columns.PAILLIER else 20)
        exact, error = self._alone(lab, column, made, rounds)
        drops, honest = self._planned(lab, column, made)
        lab.step(1, 3)
        measures, figure = self._guesses(lab, honest)
        controls, stopped = list[ControlRun](), list[str]()
        refused_plans, told = 0, None
        if column != "plain":
            refused_plans, met = self._plans(column)
            stopped += met
        lab.step(2, 3)
        if column != "plain":
            rules, full = self._short_list(lab, column, weak=False)
            stopped += sorted(rules)
            _, weak = self._short_list(lab, column, weak=True)
            if full is not None or not rules:
                raise LabError("sites answered for fewer sites than the plan has")
            if column == "sparse":
                _, told = self._short_list(lab, column, weak=False, lie=True)
            rule = "holder.cohort" if column in columns.PAILLIER else "client.survivor-cohort"
            controls.append(
                ControlRun(
                    overrides=(rule,),
                    trials=1,
                    successes=int(weak is not None),
                    note=f"honest sites in the opened sum: {weak}, fewer than its plan allows",
                )
            )
        others = made.clients - 1
        if noisy:
            own = made.pipeline.noise_variance(1)
            spread = math.sqrt(2 / (WIDE * rounds))
            if not within(error / own, 1.0, spread):
                raise LabError("what hides the last honest site is not its own noise")
            low, high = interval(error / own, spread)
            measures.append(
                Measure(
                    name="variance around the vector, in shares of one site's noise",
                    value=error / own,
                    low=low,
                    high=high,
                    predicted=1.0,
                    law="only the honest site's own noise is left",
                )
            )
        return Finding(
            verdict=Verdict.LEAKS if exact or noisy else Verdict.PREVENTED,
            tried=(
                f"{others} of {made.clients} sites told the server their vectors, which it took "
                f"out of the sum; then {made.colluding or 'none'} did, as the plan counts on, in a "
                f"round with {counted(drops, 'dropout')}."
                + (
                    " Plans that leave fewer than min_honest honest sites were built, and the "
                    "server announced a list of sites that is too short."
                    if column != "plain"
                    else ""
                )
            ),
            seen=self._seen(column, made, exact, rounds, honest, refused_plans, told),
            trials=rounds,
            successes=exact,
            also_refused=tuple(dict.fromkeys(stopped)),
            # With the colluding sites of the plan, its noise is what epsilon counts on.
            beyond=noisy,
            measures=measures,
            controls=controls,
            figures=[figure],
            parameters={"n": made.clients, "c": made.colluding, "honest": honest},
        )

    def _seen(
        self,
        column: str,
        made: Plan,
        exact: int,
        rounds: int,
        honest: int,
        plans: int,
        told: int | None,
    ) -> str:
        first = (
            f"The last honest site's vector came out exactly in {exact} of "
            f"{counted(rounds, 'round')}. "
        )
        if column == "noise":
            noisy = made.min_survivors - made.colluding
            first = (
                f"The last honest site's vector came out exactly in {exact} of "
                f"{counted(rounds, 'round')}, since its own noise is in it. It counts as a leak "
                "because nothing else is: this noise has "
                f"1/{noisy} of the variance that the plan's epsilon counts on, as measured below. "
                "Epsilon holds for the colluders of the plan, not for more. "
            )
        lied = (
            f" In a sparse graph its length is the server's word: one that lies about it got the "
            f"sum of {told} honest sites. Its threat, semi-honest, does not cover such a server."
            if told is not None
            else ""
        )
        if column == "plain":
            return first + (
                "A plain sum does not even need the colluders: its server sees every vector. That "
                "the sum of few sites says much of each is so under every protocol (figure)."
            )
        return (
            first + "Secure aggregation does not stop this: it is what the sum itself says. With "
            f"{counted(made.colluding, 'colluding site')}, as the plan counts on, what was "
            f"left was the sum of {honest} honest sites, and whoever reads the plan has to decide "
            f"whether that sum may be known. All {plans} plans of a grid that leave one honest "
            f"site or none were refused, and so was a list of sites that is too short.{lied} What "
            "helps is a larger min_honest, or noise."
        )

    def _alone(self, lab: Lab, column: str, made: Plan, rounds: int) -> tuple[int, float]:
        """Rounds in which the victim's vector was read, and the mean squared error."""
        others = made.roster.names[1:]
        exact, squares = 0, 0.0
        for number in range(rounds):
            vectors = lab.inputs(made.clients, made.length, MOST, number)
            quiet = others if column == "noise" else ()
            total, _ = sum_of(lab, column, made, vectors, round=number, quiet=quiet)
            given = {"sum": total.astype(np.int64), "own": vectors[1:]}
            found = lab.attack(Transcript(public={"honest": [VICTIM]}, arrays=given))
            error = np.asarray(found.vectors[VICTIM]) - vectors[0]
            exact += not error.any()
            squares += float((error.astype(float) ** 2).mean()) / rounds
        return exact, squares

    def _planned(self, lab: Lab, column: str, made: Plan) -> tuple[int, int]:
        """A round as the plan allows it: dropouts, and honest sites whose sum is left."""
        # In a sparse graph some sets of dropouts are too many for one neighbourhood.
        drops = 1 if column == "sparse" else made.max_dropouts
        names, left = made.roster.names, made.clients - drops
        vectors = lab.inputs(made.clients, made.length, MOST, "planned")
        total, _ = sum_of(lab, column, made, vectors, round=1000, drop=names[left:])
        own = vectors[: made.colluding] if made.colluding else np.zeros_like(vectors[:1])
        honest = list(names[made.colluding : left])
        given = {"sum": total.astype(np.int64), "own": own}
        found = lab.attack(Transcript(public={"honest": honest}, arrays=given))
        if found.vectors:
            raise LabError("one honest site was left in a round that the plan allows")
        true = vectors[made.colluding : left].sum(axis=0)
        if column != "noise" and found.arrays["residual"].tolist() != true.tolist():
            raise LabError("what is left of the sum is not the sum of the honest sites")
        return drops, len(honest)

    def _guesses(self, lab: Lab, honest: int) -> tuple[list[Measure], Figure]:
        """How well the mean of h honest sites tells one of them, for vectors of a kind."""
        sizes = list(range(1, 13))
        values, measures = list[float](), list[Measure]()
        for h in sizes:
            rng = lab.rng("correlation", h)
            vectors = rng.integers(0, MOST, size=(h, WIDE), endpoint=True)
            names = [f"s{i}" for i in range(h)]
            given = {"sum": vectors.sum(axis=0), "own": np.zeros((1, WIDE), dtype=np.int64)}
            found = lab.attack(Transcript(public={"honest": names}, arrays=given))
            seen = float(np.corrcoef(found.arrays["guess"], vectors[0])[0, 1])
            law = 1 / math.sqrt(h)
            values.append(seen)
            if h == 1:
                continue
            # Fisher's transform of a correlation is close to normal.
            error = 1 / math.sqrt(WIDE - 3)
            if not within(math.atanh(seen), math.atanh(law), error):
                raise LabError(f"the mean of {h} sites tells more of one than the law says")
            if h == honest:
                low, high = (math.tanh(x) for x in interval(math.atanh(seen), error))
                measures.append(
                    Measure(
                        name=f"correlation of the left-over mean with one of {h} honest sites",
                        value=seen,
                        low=low,
                        high=high,
                        predicted=law,
                        law="1/sqrt(h) for vectors that are alike and independent",
                    )
                )
        x = [float(h) for h in sizes]
        return measures, Figure(
            title="What the sum of h honest sites tells of one of them",
            x_label="honest sites that are left",
            y_label="correlation with the site's vector",
            series=[
                Series(name="measured", x=x, y=values),
                Series(
                    name="law 1/sqrt(h)", x=x, y=[1 / math.sqrt(h) for h in sizes], style="line"
                ),
            ],
        )

    def _plans(self, column: str) -> tuple[int, list[str]]:
        """Plans with too few honest survivors: all of a grid must be refused, by this rule."""
        refused, rules = 0, set[str]()
        n = 12 if column == "sparse" else 5
        for colluding in range(1, n):
            for drops in range(n - colluding + 1):
                left = n - drops - colluding
                try:
                    columns.plan(
                        "semi-honest" if column == "noise" else column,
                        n,
                        colluding=colluding,
                        max_dropouts=drops,
                    )
                except PlanError as error:
                    if (error.rule == "honest-survivors") != (left < 2):
                        raise LabError("a plan was refused for the wrong reason") from error
                    refused += left < 2
                    rules |= {f"plan.{error.rule}"} if left < 2 else set()
                    continue
                if left < 2:
                    raise LabError("a plan with one honest survivor was built")
        return refused, sorted(rules)

    def _short_list(
        self, lab: Lab, column: str, *, weak: bool, lie: bool = False
    ) -> tuple[set[str], int | None]:
        """A server that announces too few sites: rules that refuse, honest sites of its sum."""
        if column in columns.PAILLIER:
            plan = columns.plan(column, 5)
            holders = [name for name, _ in plan.roster.holders]
            kinds = by_name(holders, without(paillier_sum.Holder, "cohort")) if weak else {}
            server = impatient(paillier_sum.Server)
            keep: list[tuple[str, ...]] = [("s0", "s1")]
        else:
            plan, keep = self._short_plan(lab, column)
            sites = plan.roster.names
            kinds = by_name(sites, without(Client, "survivor-cohort")) if weak else {}
            server = impatient(Server)
        rules = set[str]()
        for number, stay in enumerate(keep):
            drop = [name for name in plan.roster.names if name not in stay]
            classes = {**kinds, "server": server}
            world = open_world(plan, lab, round=number, classes=classes)
            if lie:
                world.edit = self._overstate(world)
            try:
                world.run({int(secagg.Step.INPUT): drop})
            except ThresholdError:
                rules |= refusals(world)
                continue
            rules |= refusals(world)
            if world.result is None:
                continue
            own = np.array([world.vectors[name] for name in stay[1 : 1 + plan.colluding]])
            honest = [name for name in stay if name not in stay[1 : 1 + plan.colluding]]
            total = np.asarray(world.result.sum, dtype=np.int64)
            zero = np.zeros((1, plan.length), dtype=np.int64)
            given = {"sum": total, "own": own if own.size else zero}
            self._check_left(lab, column, world, honest, given)
            return rules, len(honest)
        return rules, None

    def _overstate(self, world: World) -> Any:
        """Survivor lists that state as many survivors as the plan asks for."""

        def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
            if kind != messages.SURVIVORS.number:
                return None
            present = world.parts(frame)[0].present
            header = messages.Survivors(present, world.plan.min_survivors)
            return [world.reseal(frame, header=header)]

        return edit

    def _check_left(
        self, lab: Lab, column: str, world: World, honest: list[str], given: dict[str, Array]
    ) -> None:
        found = lab.attack(Transcript(public={"honest": honest}, arrays=given))
        left = np.asarray(found.arrays["guess"]) * len(honest)
        true = sum(world.vectors[name] for name in honest)
        if column != "noise" and np.abs(left - true).max() > 1e-6:
            raise LabError("what is left of the sum is not the sum of the honest sites")

    def _short_plan(self, lab: Lab, column: str) -> tuple[Plan, list[tuple[str, ...]]]:
        """A plan, and lists of sites shorter than it allows whose shares suffice all the same."""
        if column == "sparse":
            protocol = secagg.MaskedSum(share_threshold=3, neighbours=6)
            plan = columns.plan(column, 12, protocol=protocol)
            short = plan.min_survivors - 1
            draws = [lab.rng("short", i).permutation(plan.clients)[:short] for i in range(20)]
            return plan, [tuple(plan.roster.names[i] for i in sorted(draw)) for draw in draws]
        if column == "malicious-server":
            plan = columns.plan(column, 6)
            return plan, [plan.roster.names[: plan.protocol.share_threshold]]
        protocol = secagg.MaskedSum(share_threshold=2, neighbours=4)
        plan = columns.plan(column, 5, protocol=protocol)
        return plan, [plan.roster.names[:2]]


__all__ = ["SmallCohortScene"]
