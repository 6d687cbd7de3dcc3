"""Row 29: two sums of one round, by two sets of holders or by holders that answer twice."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import secagg
from secagg.attacks import columns
from secagg.attacks.arena.controls import changed, without
from secagg.attacks.attack import Frame, Keys, Transcript
from secagg.attacks.finding import ControlRun, Finding, Measure, Verdict
from secagg.attacks.paillier import TwoOpenings
from secagg.attacks.process import LabError
from secagg.attacks.scene import Ints, Lab, Scene
from secagg.attacks.statistics import rate
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.plan import Plan

from .paillier_holders import any_plan, cells_figure, sized_plan
from .paillier_play import (
    LENGTH,
    MOST,
    SITES,
    VICTIM,
    as_frames,
    ask,
    claims,
    encrypted,
    key_parts,
    make_holder,
    masked,
    public_of,
    world_of,
)


def _forgetful(
    _self: Any, _key: bytes, _step: int, _digest: bytes, reply: bytes, **_: Any
) -> bytes:
    """In the place of a journal's claim: nothing is remembered."""
    return reply


class TwoOpeningsScene(Scene):
    """A server that has all sites opened by some holders, and all but one by the others."""

    attack = TwoOpenings
    expected: ClassVar = {
        "plain": Verdict.LEAKS,
        **masked("Two survivor lists of one round are rows 2 and 3."),
        "paillier-one": Verdict.PREVENTED,
        "paillier-threshold": Verdict.PREVENTED,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Plain: subtract. Paillier: every split of the holders against the law."""
        vectors = lab.inputs(SITES, LENGTH, MOST)
        if column == "plain":
            return self._plain(lab, vectors)
        sizes = [(1, 1)]
        if column == "paillier-threshold":
            sizes = [(h, t) for h in range(2, 6) for t in range(1, h + 1)]
            sizes = sizes if lab.full else [(3, 2)]
        cells, tried, won, again, twice = [], 0, 0, 0, 0
        met: Counter[str] = Counter()
        for at, (h, t) in enumerate(sizes):
            for c in range(t):
                met.update(self._built(h, t, c))
            opening = _Openings(any_plan(h, t), vectors, again=at == 0 or lab.full)
            met.update(opening.refused)
            again, twice = again + opening.asked_again, twice + opening.twice
            for c in range(t):
                splits = opening.splits(lab, c)
                leaked, allowed = any(splits), 2 * t <= h + c
                cells.append((h, t, c, leaked))
                if not allowed:
                    # Plans of the other cells are refused, so only these are of the full build.
                    tried, won = tried + len(splits), won + sum(splits)
            lab.step(at + 1, len(sizes))
        wrong = [(h, t, c) for h, t, c, leaked in cells if leaked != (2 * t <= h + c)]
        shut = [(h, t, c) for h, t, c in wrong if 2 * t <= h + c]
        if shut:
            raise LabError(f"holders, threshold, colluders that open nothing: {shut}")
        controls = [self._journal_control(lab, vectors, *sizes[0])]
        controls.append(self._equivocation_control(vectors, *sizes[0]))
        allowed_cells = [leaked for h, t, c, leaked in cells if 2 * t <= h + c]
        if allowed_cells:
            controls.append(
                ControlRun(
                    overrides=("plan.one-opening",),
                    trials=len(allowed_cells),
                    successes=sum(allowed_cells),
                    note=(
                        "Every cell with 2 threshold <= holders + colluders: the victim's vector "
                        "was the difference."
                    ),
                )
            )
        matters = {rule for each in controls if each.expected for rule in each.overrides}
        won += twice
        law = f"{len(cells)} cells: both opened if and only if 2 threshold <= holders + colluders"
        return Finding(
            verdict=Verdict.LEAKS if won else Verdict.PREVENTED,
            tried=(
                "For each combination of holders, threshold and colluding holders "
                f"({len(cells)} in all) a malicious server asked honest holders for the "
                f"sum of all {SITES} sites or of all but one, in every split, and then "
                "each of them for the other sum as well: in the same life, "
                "and after a restart from an older state."
            ),
            seen=(
                f"Asked {again} times for a second sum, holders answered {twice} times. Both sums "
                f"were opened in {len(allowed_cells)} of {len(cells)} combinations, {len(wrong)} "
                "of which differ from the law. Plans for combinations that the law gives away "
                "were refused when they were built. Subtracting the two sums gives the victim's "
                "vector."
            ),
            trials=tried + again,
            successes=won,
            exhaustive=lab.full,
            stopped_by=tuple(sorted(rule for rule in met if rule in matters)),
            also_refused=tuple(sorted(rule for rule in met if rule not in matters)),
            measures=[
                Measure(
                    name="cells that differ from the law",
                    value=float(len(wrong)),
                    predicted=0.0,
                    law=law,
                )
            ],
            controls=controls,
            figures=[cells_figure("Two sums of one round", cells, "2 threshold - holders - c")],
            parameters={"n": SITES, "d": LENGTH, "holders": sizes[-1][0]},
        )

    def _plain(self, lab: Lab, vectors: Ints) -> Finding:
        plan = columns.plan("plain", SITES, LENGTH)
        seed = lab.digest("round")
        sums = [
            columns.honest_sum(plan, vectors, seed=seed, plain=True, drop=drop).total
            for drop in ((), (VICTIM,))
        ]
        arrays = dict(zip(("first", "second"), sums, strict=True))
        found = lab.attack(Transcript(arrays=arrays, public={"victim": VICTIM}))
        won = claims(found, VICTIM, vectors[0])
        return Finding(
            verdict=Verdict.LEAKS if won else Verdict.PREVENTED,
            tried="The server of a plain sum added all sites, and then all but one.",
            seen="The difference is that site's vector; it had received it anyway.",
            trials=1,
            successes=int(won),
            measures=[rate("vectors found", int(won), 1, predicted=1.0)],
            parameters={"n": SITES, "d": LENGTH},
        )

    def _built(self, h: int, t: int, c: int) -> list[str]:
        """The rule by which a plan for such a cell is refused, where the law says it leaks."""
        try:
            sized_plan(h, t, colluding_holders=c)
        except secagg.PlanError as error:
            if 2 * t > h + c:
                raise LabError(f"no plan for {h} holders, {t}, {c}: {error}") from None
            return [f"plan.{error.rule}"]
        if 2 * t <= h + c:
            raise LabError(f"a plan for {h} holders, threshold {t}, {c} colluding was built")
        return []

    def _journal_control(self, lab: Lab, vectors: Ints, h: int, t: int) -> ControlRun:
        """The same holders answer twice where their journal forgets."""
        opening = _Openings(any_plan(h, t), vectors, again=False, most=0)
        weak = changed(secagg.MemoryJournal, claim=_forgetful)
        world, frames = opening.world, list(opening.frames)
        answers: dict[str, list[int]] = {}
        journals = {holder: weak() for holder in world.holders[:t]}
        for name, sites in opening.sets.items():
            inputs = {site: opening.sent[site] for site in sites}
            answers[name] = []
            for holder, journal in journals.items():
                _, answer = ask(world, make_holder(world, holder, journal=journal), inputs)
                if answer:
                    answers[name].append(len(frames))
                    frames.append(Frame(0, holder, "server", answer))
        won = opening.read(lab, frames, answers, Keys())
        return ControlRun(
            overrides=("journal.journal-once",),
            trials=1,
            successes=int(won),
            note="Holders whose journal forgets opened both sums after a restart.",
        )

    def _equivocation_control(self, vectors: Ints, h: int, t: int) -> ControlRun:
        """A holder without this rule refuses the second request by another one."""
        kind = without(Holder, "equivocation")
        opening = _Openings(any_plan(h, t), vectors, again=True, most=1, kind=kind, restart=False)
        return ControlRun(
            overrides=("holder.equivocation",),
            trials=opening.asked_again,
            successes=opening.twice,
            expected=False,
            note=f"In the same life. Refused by {', '.join(sorted(set(opening.refused)))}.",
        )


class _Openings:
    """Answers of real holders to both sets, and the splits that a server makes of them.

    ``again``: every holder is asked for the other set as well, in one life and after a restart.
    ``most``: holders that are asked, all where it is not given. ``kind``: their class.
    ``restart``: whether the second time is also after a restart.
    """

    def __init__(
        self,
        plan: Plan,
        vectors: Ints,
        *,
        again: bool,
        most: int | None = None,
        kind: type[Holder] = Holder,
        restart: bool = True,
    ) -> None:
        self.vectors, self.kind, self.restart = vectors, kind, restart
        #: How often a second answer was asked for, and how often it was given.
        self.asked_again = self.twice = 0
        self.world = world_of(plan, vectors)
        self.sent = encrypted(self.world, plan.roster.names)
        names = list(self.sent)
        self.sets = {"first": names, "second": [name for name in names if name != VICTIM]}
        self.frames = as_frames(self.sent)
        #: By holder and set, where its answer is among the frames.
        self.answers: dict[tuple[str, str], int] = {}
        self.refused: list[str] = []
        for holder in self.world.holders[:most]:
            for name in self.sets:
                self._ask(holder, name, again)

    def _inputs(self, name: str) -> dict[str, bytes]:
        return {site: self.sent[site] for site in self.sets[name]}

    def _ask(self, holder: str, name: str, again: bool) -> None:
        """One life of a holder in which it is asked for one set, and then for the other."""
        journal = secagg.MemoryJournal()
        party = make_holder(self.world, holder, self.kind, journal)
        rules, answer = ask(self.world, party, self._inputs(name))
        if rules or not answer:
            raise LabError(f"an honest request was refused: {rules}")
        self.answers[holder, name] = len(self.frames)
        self.frames.append(Frame(0, holder, "server", answer))
        if not again:
            return
        other = "second" if name == "first" else "first"
        wanted = self._inputs(other)
        restarted = make_holder(self.world, holder, self.kind, journal)
        for who, what in ((party, {}), (restarted, wanted))[: 1 + self.restart]:
            rules, answer = ask(self.world, who, what, list(wanted), wanted)
            self.asked_again += 1
            self.twice += bool(answer)
            parts = {"journal-once": "journal"}
            self.refused += [f"{parts.get(rule, 'holder')}.{rule}" for rule in rules]

    def splits(self, lab: Lab, colluding: int) -> list[bool]:
        """Whether the victim is found, for every number of honest holders that answer the first.

        Honest holders are alike, so their number says all; colluders answer both.
        """
        honest = self.world.holders[colluding:]
        held = Keys(values=key_parts(self.world, self.world.holders[:colluding]))
        found = []
        for count in range(len(honest) + 1):
            answers = {
                "first": [self.answers[name, "first"] for name in honest[:count]],
                "second": [self.answers[name, "second"] for name in honest[count:]],
            }
            found.append(self.read(lab, self.frames, answers, held))
        return found

    def read(
        self, lab: Lab, frames: list[Frame], answers: dict[str, list[int]], keys: Keys
    ) -> bool:
        """Whether the attack finds the victim in these answers, and nothing else reaches it."""
        places = sorted({at for each in answers.values() for at in each})
        first = len(self.sent)
        shown = frames[:first] + [frames[at] for at in places]
        moved = {at: first + new for new, at in enumerate(places)}
        public = public_of(self.world.plan) | self.sets | {"victim": VICTIM}
        public |= {f"{name} answers": [moved[at] for at in each] for name, each in answers.items()}
        found = lab.attack(Transcript(frames=shown, public=public), keys)
        return claims(found, VICTIM, self.vectors[0])


__all__ = ["TwoOpeningsScene"]
