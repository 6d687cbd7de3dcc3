"""Row 2: two survivor lists. Rows 1 and 4 are in ``asking``, row 3 in ``voting``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import ClassVar

import secagg
from secagg_protocols.errors import PlanError
from secagg_protocols.masked_sum import Client
from secagg_protocols.masked_sum.graph import draw
from secagg_protocols.plan import masked_of

from .. import columns
from ..adversaries.votes import (
    two_list_law,
    two_lists,
)
from ..arena.controls import without
from ..arena.table import Table
from ..arena.world import people
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..server import SplitView
from .asking import LateUploadScene, ShareBothScene
from .views import (
    CONSENTS,
    NO_LISTS,
    OUTSIDE,
    combined,
    every_view,
    in_plain,
    named,
    plan_for,
    ranges,
    recommended_sparse,
    residual,
    sizes,
    table,
    ways,
    which,
)
from .voting import VoteSplittingScene

P, L = Verdict.PREVENTED, Verdict.LEAKS


class SplitViewScene(Scene):
    """Tells one part of the sites that the victim survived and the other that it dropped."""

    attack = SplitView
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        "plain": L,
        "semi-honest": L,
        "malicious-server": P,
        "sparse": L,
        "paillier-one": NO_LISTS,
        "paillier-threshold": NO_LISTS,
        "noise": L,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Every view of small recommended plans; the law on a grid of plans of all kinds."""
        if column == "plain":
            return in_plain(lab)
        if column == "sparse":
            return self._sparse(lab)
        refused: set[str] = set()
        trials = right = 0
        for made, views in every_view(lab, column):
            trials += len(views)
            right += sum(1 in opened for opened in views)
            refused |= made.refused
            lab.step(trials, trials + 1)
        measures: list[Measure] = []
        figures: list[Figure] = []
        if column == "semi-honest":
            measures, figures = self._law(lab)
        if column == "noise":
            measures = [self._noise_left(lab)]
        signed = column == "malicious-server"
        controls = self._controls(lab, column)
        seen = (
            f"In {right} of {trials} attempts a vector was opened: with 2t above n + c the two "
            "groups together never have t shares of both secrets of one site."
        )
        deciding = self._deciding(controls) if signed else ()
        if deciding:
            seen += (
                " A plan with a lower t is refused. The consents that sites ask for refuse many of "
                "these lists too, but they do not decide: with them switched off the attack still "
                "fails, and with a low t it succeeds although they are on."
            )
        if not signed:
            measure, victims = self._many_dropouts(lab, column)
            measures.append(measure)
            seen += (
                " Plan.recommend chooses such a t where the dropouts that are asked for leave "
                "room. Where they do not, as with 5 sites and 2 dropouts, its plan says so, and "
                f"the attack works as its law says: {measure.value:.0f} of {victims} vectors were "
                "opened there." + OUTSIDE
            )
            trials, right = trials + victims, right + int(measure.value)
        if column == "noise":
            seen += (
                " What the attack opens then is the vector with the site's own share of the "
                "noise in it, far less than the noise of the sum."
            )
        return Finding(
            verdict=L if right else P,
            tried=(
                "The server tells each honest site a survivor list of its own, in every way that "
                f"there is for the recommended plans of {which(lab)}, and "
                "puts together what they reveal and what its colluding sites hold."
                f" {combined(lab)}"
                + (" It passes on consents honestly, too few, or on other lists." if signed else "")
            ),
            seen=seen,
            trials=trials,
            successes=right,
            exhaustive=signed and lab.full,
            stopped_by=deciding,
            also_refused=named(refused),
            beyond=not signed and right > 0,
            measures=measures,
            controls=controls,
            figures=figures,
            parameters=ranges(lab) | {"t": "(n + c) / 2 + 1"},
        )

    @staticmethod
    def _deciding(controls: list[ControlRun]) -> tuple[str, ...]:
        """The rule that refuses a plan with too low a threshold, where the controls show it alone
        decides.

        The sites' consents refuse many of these lists as well; without them the attack fails all
        the same, so they are not what stops it.
        """
        try:
            plan_for("malicious-server", 5, 1, 1, 3)
        except PlanError as error:
            met = f"plan.{error.rule}"
            won = {control.overrides for control in controls if control.successes}
            return (met,) if won == {(met,)} else ()
        return ()

    def _law(self, lab: Lab) -> tuple[list[Measure], list[Figure]]:
        """2t <= n + c over every (n, t, c) that a plan with one dropout can have."""
        most = 14 if lab.full else 6
        cells = [
            (n, t, c)
            for n in range(3, most + 1)
            for c in range(n - 2)
            for t in range(max(2, c + 1), n)
        ]
        mismatches = wins = 0
        largest: dict[int, int] = {}
        for at, (n, t, c) in enumerate(cells):
            made = table(lab, plan_for("semi-honest", n, c, 1, t), range(c), "law", n, t, c)
            told = two_lists(n, c, range(n), range(c), t)
            made.view(lambda _, told=told: ways(told))  # type: ignore[misc]
            opened = 1 in sizes(made.claims(lab)[0], made.truth)
            mismatches += opened != two_list_law(n, c, t)
            wins += opened
            if opened and c == 1:
                largest[n] = max(largest.get(n, 0), t)
            lab.step(at, len(cells))
        if mismatches:
            raise LabError(f"2t <= n + c: {mismatches} of {len(cells)} cells do not follow it")
        sites = sorted(largest)
        figure = Figure(
            title="Largest share threshold that two survivor lists defeat, one site colluding",
            x_label="sites n",
            y_label="share threshold t",
            series=[
                Series(
                    name="law: (n + 1) / 2",
                    x=[float(n) for n in sites],
                    y=[(n + 1) / 2 for n in sites],
                    style="line",
                ),
                Series(
                    name="measured",
                    x=[float(n) for n in sites],
                    y=[float(largest[n]) for n in sites],
                ),
            ],
            note=f"{len(cells)} plans (n, t, c) were attacked, {wins} were defeated; the law "
            "names the same ones.",
        )
        return [
            Measure(
                name=f"plans (n, t, c) of {len(cells)} that do not follow the law",
                value=float(mismatches),
                predicted=0.0,
                law="2t <= n + c",
            ),
            Measure(
                name="plans that were defeated",
                value=float(wins),
                predicted=float(sum(two_list_law(n, c, t) for n, t, c in cells)),
                law="2t <= n + c",
            ),
        ], [figure]

    def _controls(self, lab: Lab, column: str) -> list[ControlRun]:
        n, c, low = 5, 1, 3
        everyone = range(c, n)
        if column != "malicious-server":
            made = table(lab, plan_for(column, n, c, 1, low), range(c), "control")
            return [self._two_lists(lab, made, everyone, ("feature: share threshold",))]
        weak = plan_for(column, n, c, 1, low, kind=without(secagg.Plan, "one-survivor-set"))
        made = table(lab, weak, range(c), "control")
        runs = [self._two_lists(lab, made, everyone, ("plan.one-survivor-set",))]
        for rules in (CONSENTS[:1], CONSENTS[1:], CONSENTS):
            kind = without(Client, *rules)
            made = table(lab, plan_for(column, n, c, 1), range(c), "consents", classes=kind)
            names = tuple(f"client.{rule}" for rule in rules)
            runs.append(self._two_lists(lab, made, everyone, names, expected=False))
        return runs

    @staticmethod
    def _two_lists(
        lab: Lab,
        made: Table,
        victims: Iterable[int],
        overrides: tuple[str, ...],
        *,
        expected: bool = True,
    ) -> ControlRun:
        n, t = made.plan.clients, made.plan.protocol.share_threshold
        colluding = sorted(set(range(n)) - set(made.honest))
        policies = ("few", "filled") if made.plan.signed and not expected else ("enough",)
        trials = right = 0
        for victim, policy in itertools.product(victims, policies):
            told = two_lists(n, victim, range(n), colluding, t)
            made.view(lambda _, told=told, policy=policy: ways(told, policy))  # type: ignore[misc]
        for one in made.claims(lab):
            trials += 1
            right += 1 in sizes(one, made.truth)
        note = f"n = {n}, t = {t}, c = {len(colluding)}"
        if not right:
            note += "; both lists are answered, and 2t > n + c leaves each secret short of shares"
        return ControlRun(
            overrides=overrides, trials=trials, successes=right, expected=expected, note=note
        )

    @staticmethod
    def _many_dropouts(lab: Lab, column: str) -> tuple[Measure, int]:
        """The plan that is recommended where two of five sites may leave; and its victims."""
        asked = secagg.Plan.recommend(
            people(5)[0],
            length=5,
            stages=(secagg.Integers(0, 1000),),
            threat="semi-honest",
            colluding=1,
            max_dropouts=2,
            min_honest=2,
        )
        t = asked.protocol.share_threshold
        made = table(lab, plan_for(column, 5, 1, 2, t), [0], "dropouts")
        for victim in made.honest:
            told = two_lists(5, victim, range(5), [0], t)
            made.view(lambda _, told=told: ways(told))  # type: ignore[misc]
        right = sum(1 in sizes(one, made.truth) for one in made.claims(lab))
        if (right > 0) != two_list_law(5, 1, t):
            raise LabError("the plan for many dropouts does not follow 2t <= n + c")
        found = Measure(
            name=f"sites of 4 opened under the plan for n = 5, c = 1, 2 dropouts (t = {t})",
            value=float(right),
            predicted=4.0 if two_list_law(5, 1, t) else 0.0,
            law="2t <= n + c",
            unit="sites",
        )
        return found, len(made.honest)

    def _noise_left(self, lab: Lab) -> Measure:
        made = table(lab, plan_for("noise", 5, 1, 1, 3, length=400), [0], "noise")
        for victim in made.honest:
            told = two_lists(5, victim, range(5), [0], 3)
            made.view(lambda _, told=told: ways(told))  # type: ignore[misc]
        return residual(made, made.claims(lab), 1)

    def _sparse(self, lab: Lab) -> Finding:
        """The recommended sparse plan, and the law of neighbourhoods on small graphs."""
        plan = recommended_sparse()
        k, t = masked_of(plan).neighbours, plan.protocol.share_threshold
        made = table(lab, plan, range(2), "recommended")
        victims = made.honest if lab.full else made.honest[:4]
        for victim in victims:
            holders = made.server.graph[victim] | {victim}
            told = two_lists(66, victim, holders, range(2), t)
            made.view(lambda _, told=told: ways(told))  # type: ignore[misc]
        right = sum(1 in sizes(one, made.truth) for one in made.claims(lab))
        cells, mismatches = self._sparse_law(lab)
        if mismatches:
            raise LabError(f"2t <= k + 1 + c_v: {mismatches} of {cells} cells do not follow it")
        return Finding(
            verdict=L if right else P,
            tried=(
                f"The server tells the neighbours of a site different things about it, under the "
                f"plan that is recommended for 66 sites, 2 colluding and 3 dropouts: {k} "
                f"neighbours, {t} shares rebuild a secret."
            ),
            seen=(
                f"It opened the vectors of {right} of {len(victims)} sites: 2t = {2 * t} is at "
                f"most k + 1 = {k + 1}." + OUTSIDE
            ),
            trials=len(victims),
            successes=right,
            beyond=right > 0,
            measures=[
                Measure(
                    name=f"plans and neighbourhoods of {cells} that do not follow the law",
                    value=float(mismatches),
                    predicted=0.0,
                    law="2t <= k + 1 + c_v",
                )
            ],
            parameters={"n": 66, "k": k, "t": t, "c": 2},
        )

    @staticmethod
    def _sparse_law(lab: Lab) -> tuple[int, int]:
        shapes = [(12, 6), (12, 8), (14, 8), (16, 6)] if lab.full else [(12, 6)]
        cells = mismatches = 0
        for n, k in shapes:
            for t in range(2, k + 2):
                try:
                    plan = columns.plan(
                        "sparse", n, protocol=secagg.MaskedSum(share_threshold=t, neighbours=k)
                    )
                except PlanError:
                    continue  # its graph is not secure enough for any plan
                for inside in range(4 if lab.full else 2):
                    # The graph follows from the seed, whoever colludes.
                    graph = draw(plan, lab.digest("sites", n, k, t))
                    owned = graph[0][:inside]
                    made = table(lab, plan, owned, n, k, t)
                    told = two_lists(n, 0, {0, *graph[0]}, owned, t)
                    made.view(lambda _, told=told: ways(told))  # type: ignore[misc]
                    opened = 1 in sizes(made.claims(lab)[0], made.truth)
                    cells += 1
                    mismatches += opened != two_list_law(k + 1, inside, t)
        return cells, mismatches


__all__ = ["LateUploadScene", "ShareBothScene", "SplitViewScene", "VoteSplittingScene"]
