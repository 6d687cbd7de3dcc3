"""Row 3: another survivor list for each site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from secagg_protocols.events import Step
from secagg_protocols.masked_sum import Client

from ..adversaries.server import Overstate
from ..adversaries.votes import (
    smallest_isolated,
    vote_split,
)
from ..arena.controls import without
from ..arena.table import Table
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..server import VoteSplitting
from .views import (
    CONSENTS,
    NO_LISTS,
    OUTSIDE,
    combined,
    counted,
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

P, L = Verdict.PREVENTED, Verdict.LEAKS


class VoteSplittingScene(Scene):
    """Tells every site another list, so that all sites but a few can be removed from the sum."""

    attack = VoteSplitting
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
        """With consents every view of small plans; without them the smallest set that remains."""
        if column == "plain":
            return in_plain(lab)
        if column == "malicious-server":
            return self._consents(lab)
        return self._isolates(lab, column)

    def _isolates(self, lab: Lab, column: str) -> Finding:
        if column == "sparse":
            plan, c = recommended_sparse(), 2
            made = table(lab, plan, range(c), "recommended")
            smallest, law = self._isolated(lab, made, 1), 1
        else:
            n, c, t = 30, 0, 16
            length = 200 if column == "noise" else 5
            plan = plan_for(column, n, c, n - t, t, length=length)
            made = table(lab, plan, (), "thirty")
            law = smallest_isolated(n, c, t, t)
            smallest = self._isolated(lab, made, law)
        if smallest != law:
            raise LabError(f"{smallest} sites were isolated, the law says {law}")
        promised = plan.min_survivors - c
        leaks = smallest < promised
        measures = [
            Measure(
                name="honest sites whose sum was opened alone",
                value=float(smallest),
                predicted=float(law),
                law="h (1 - (n - m) / (t - c)), rounded up" if plan.complete else "one site",
                unit="sites",
            )
        ]
        figures: list[Figure] = []
        if column == "semi-honest":
            more, figures = self._grid(lab)
            measures += more
        if column == "noise":
            measures.append(residual(made, [self._last], law))
        extra = (
            " With the noise of so few sites in it, the sum is less hidden than the plan says."
            if column == "noise"
            else ""
        )
        t = plan.protocol.share_threshold
        return Finding(
            verdict=L if leaks else P,
            tried=(
                f"The server tells each of {plan.clients} sites another survivor list, all of them "
                "long enough to be believed, so that for all sites but a few enough holders "
                f"believe that they dropped out; t = {t}, {c} sites collude."
            ),
            seen=(
                f"It removed all but {counted(smallest, 'honest site')} from the sum, where "
                f"the plan promises {promised}.{extra}" + OUTSIDE
            ),
            trials=1,
            successes=int(leaks),
            beyond=leaks,
            measures=measures,
            figures=figures,
            controls=[],
            parameters={"n": plan.clients, "t": t, "c": c, "m": plan.min_survivors},
        )

    def _isolated(self, lab: Lab, made: Table, size: int) -> int:
        """Sites in the smallest sum that is opened by isolating ``size`` sites; all where none."""
        self._split(made, size)
        (claims,) = made.claims(lab)
        self._last = claims
        return min(sizes(claims, made.truth), default=len(made.honest))

    @staticmethod
    def _split(made: Table, size: int, policy: str = "enough") -> None:
        plan, n = made.plan, made.plan.clients
        t, owned = plan.protocol.share_threshold, set(range(n)) - set(made.honest)
        holders = [made.server.graph[site] | {site} for site in range(n)]
        if plan.complete:
            most = dict.fromkeys(made.honest, plan.max_dropouts)
        else:
            most = {site: len(holders[site]) - t for site in made.honest}
        missed = vote_split(holders, made.honest[:size], owned, t, most)
        told = {site: frozenset(range(n)) - gone for site, gone in missed.items()}
        lies = ways(told, policy)
        if not plan.complete:
            lies.append(Overstate(Step.INPUT))  # a site of a sparse graph cannot count the others
        made.view(lambda _: lies)

    def _grid(self, lab: Lab) -> tuple[list[Measure], list[Figure]]:
        """The law on a grid, and one site fewer than it allows."""
        cases = [
            (n, c, t, m)
            for n in (range(4, 11) if lab.full else (5, 6))
            for c in range(3)
            for t in range(max(2, c + 1), n)
            for m in range(t, n)
            if m - c >= 2
        ]
        if lab.full:
            cases.append((30, 9, 20, 20))
        else:
            cases = cases[::3]
        mismatches = 0
        for at, (n, c, t, m) in enumerate(cases):
            made = table(lab, plan_for("semi-honest", n, c, n - m, t), range(c), n, c, t, m)
            law = smallest_isolated(n, c, t, m)
            found = self._isolated(lab, made, law)
            # The whole honest set is the sum itself: no vote is needed for it.
            fewer = self._isolated(lab, made, law - 1) if law > 1 else law
            mismatches += found != law or fewer < law
            lab.step(at, len(cases))
        if mismatches:
            raise LabError(f"{mismatches} of {len(cases)} plans do not follow the law of votes")
        levels = list(range(16, 31))
        shown = (16, 17, 18, 20, 22, 26, 30) if lab.full else (16,)
        points = []
        for m in shown:
            made = table(lab, plan_for("semi-honest", 30, 0, 30 - m, 16), (), "level", m)
            points.append(self._isolated(lab, made, smallest_isolated(30, 0, 16, m)))
        if points != [smallest_isolated(30, 0, 16, m) for m in shown]:
            raise LabError("thirty sites do not follow the law of votes")
        figure = Figure(
            title="Honest sites that a list for each site isolates, of 30, t = 16, none colluding",
            x_label="smallest cohort m",
            y_label="sites",
            series=[
                Series(
                    name="law, without consents",
                    x=[float(m) for m in levels],
                    y=[float(smallest_isolated(30, 0, 16, m)) for m in levels],
                    style="line",
                ),
                Series(
                    name="measured",
                    x=[float(m) for m in shown],
                    y=[float(size) for size in points],
                ),
                Series(
                    name="promised by the plan, and kept with consents",
                    x=[float(m) for m in levels],
                    y=[float(m) for m in levels],
                    style="line",
                ),
            ],
            note=f"{len(cases)} smaller plans were attacked as well and follow the law.",
        )
        return [
            Measure(
                name=f"plans (n, c, t, m) of {len(cases)} that do not follow the law",
                value=float(mismatches),
                predicted=0.0,
                law="h (1 - (n - m) / (t - c)), rounded up",
            )
        ], [figure]

    def _consents(self, lab: Lab) -> Finding:
        refused: set[str] = set()
        trials = right = 0
        spare: list[int] = []
        for made, views in every_view(lab, "malicious-server"):
            promised = made.plan.min_survivors - made.plan.colluding
            trials += len(views)
            right += sum(size < promised for opened in views for size in opened)
            spare += [size - promised for opened in views for size in opened]
            refused |= made.refused
            lab.step(trials, trials + 1)
        controls = self._controls(lab)
        decide = {rule for one in controls if one.successes for rule in one.overrides}
        met = set(named(refused))
        return Finding(
            verdict=L if right else P,
            tried=(
                "The server tells each honest site a survivor list of its own, in every way that "
                f"there is for the plans of {which(lab)}, and passes on "
                "consents honestly, too few of them, or filled up with consents on other lists. "
                + combined(lab)
            ),
            seen=(
                f"In {right} of {trials} attempts a sum over fewer honest sites than promised was "
                "opened: a site reveals only after t signatures on the very list that it was told."
            ),
            trials=trials,
            successes=right,
            exhaustive=lab.full,
            stopped_by=tuple(sorted(met & decide)),
            also_refused=tuple(sorted(met - decide)),
            measures=[
                Measure(
                    name="fewest honest sites in an opened sum, beyond those promised",
                    value=float(min(spare)),
                    predicted=0.0,
                    law="at least m - c honest sites",
                    unit="sites",
                )
            ],
            controls=controls,
            parameters=ranges(lab),
        )

    def _controls(self, lab: Lab) -> list[ControlRun]:
        n, t = 8, 5
        found = []
        for rules, policy in (
            (CONSENTS[:1], "few"),
            (CONSENTS[1:], "filled"),
            (CONSENTS, "few"),
        ):
            kind = without(Client, *rules)
            made = table(lab, plan_for("malicious-server", n, 0, n - t, t), (), classes=kind)
            law = smallest_isolated(n, 0, t, t)
            self._split(made, law, policy)
            (claims,) = made.claims(lab)
            sizes_found = sizes(claims, made.truth)
            found.append(
                ControlRun(
                    overrides=tuple(f"client.{rule}" for rule in rules),
                    trials=1,
                    successes=int(any(size < t for size in sizes_found)),
                    note=f"{min(sizes_found, default=n)} of {n} sites isolated, law {law}",
                )
            )
        return found


__all__ = ["VoteSplittingScene"]
