"""Rounds against one lying site: wrapping sums, garbage and silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_native import packed_size
from secagg_protocols.errors import PlanError
from secagg_protocols.paillier_sum import messages as paillier
from secagg_protocols.plan import Plan

from .. import columns, statistics
from ..arena import controls
from ..arena.world import World
from ..attack import Attack, Transcript
from ..clients import Garbage, WrapPoisoning
from ..columns import COLUMNS, PAILLIER
from ..finding import ControlRun, Figure, Finding, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from .lying import (
    LIAR,
    SUM_RANGE,
    UNBOUNDED,
    Array,
    Played,
    everywhere,
    input_frame,
    is_input,
    named,
    play,
    sites_of,
    tolerance,
    weaker,
)

_STEP: Final = secagg.Step


class WrapPoisoningScene(Scene):
    """Elements that no honest vector has, against the range of the sum; and a ring too small."""

    attack: ClassVar[type[Attack]] = WrapPoisoning
    expected: ClassVar[Mapping[str, Verdict | str]] = everywhere(Verdict.CORRUPTS)
    HIGH: ClassVar[int] = 350
    LENGTH: ClassVar[int] = 4

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Every strategy in real rounds, the law of what is refused, and both controls."""
        high = self.HIGH
        stages = (secagg.Integers(-high, high),)
        made = columns.plan(column, sites_of(column), self.LENGTH, stages=stages)
        n = made.clients
        random = lab.trials(1, 15) if column in PAILLIER else lab.trials(12, 300)
        told = {
            "top": made.pipeline.sum_span(n)[0][0].high,
            "bits": made.wire_bits,
            "tries": random,
            "seed": int(lab.rng("elements").integers(1 << 62)),
        }
        sent = lab.attack(Transcript(public=told)).arrays
        few = column in PAILLIER and not lab.full
        lies = [
            (name, int(e))
            for name in ("room", "flip", "gap", "random")
            for e in sent[name]
            if not (few and name == "flip")
        ]
        counts = {name: [0, 0, 0] for name, _ in lies}  # tried, delivered, wrong
        rules: set[str] = set()
        blamed: set[int] = set()
        for at, (name, element) in enumerate(lies):
            lab.step(at, len(lies))
            out, rest = self._round(lab, column, made, element, at, None)
            counts[name][0] += 1
            counts[name][1] += out.total is not None
            counts[name][2] += self._wrong(made, out, rest)
            self._law(column, made, element, rest, out)
            if out.rule:
                rules.add(named(column, out.rule))
                blamed.add(len(out.suspects))
        tried = sum(c[0] for c in counts.values())
        wrong = sum(c[2] for c in counts.values())
        share = (n * 2 * high + 1) / (1 << made.wire_bits)
        predicted = 1.0 if column in UNBOUNDED else share
        if not statistics.consistent(counts["random"][1], random, predicted):
            raise LabError("uniform elements do not pass as often as the law says")
        # An unprotected sum is added up as integers, so it has no ring to be too small.
        runs = [] if column == "plain" else [self._small_ring(column)]
        if column not in UNBOUNDED:
            weak, rest = self._round(
                lab, column, made, int(sent["gap"][0]), len(lies), weaker(column, "sum-range")
            )
            runs.append(
                ControlRun(
                    overrides=(SUM_RANGE,), trials=1, successes=int(self._wrong(made, weak, rest))
                )
            )
        refused = (
            f"{sum(c[0] - c[1] for c in counts.values())} were refused, with all {max(blamed)} "
            "survivors as suspects. "
            if rules
            else "none was refused. "
        )
        if column == "noise":
            refused += "With noise the range of the sum is not checked, as honest sums leave it. "
        ring = "".join(
            f"Honest vectors: a plan with a ring of 10 bits is refused; without that rule, "
            f"{run.note}."
            for run in runs[:1]
            if run.overrides == ("plan.modulus",)
        )
        return Finding(
            verdict=Verdict.CORRUPTS if wrong else Verdict.DETECTED,
            tried=(
                f"One of {n} sites sends ring elements that its range of {-high} to {high} does "
                f"not allow: two fifths of the sum's range, one that flips a positive sum to the "
                f"other end, one just beyond the range, and {random} random ones."
            ),
            seen=(
                f"{wrong} of {tried} elements came through to a result that no honest vector of "
                f"that site explains, without notice; {refused}{ring}".strip()
            ),
            trials=tried,
            successes=wrong,
            stopped_by=() if wrong else tuple(sorted(rules)),
            also_refused=(
                *(sorted(rules) if wrong else ()),
                *(("plan.modulus",) if ring else ()),
            ),
            measures=[
                statistics.rate(
                    "random elements that pass",
                    counts["random"][1],
                    random,
                    predicted=predicted,
                    law="no rule" if column in UNBOUNDED else "(range of the sum + 1) / 2^b",
                ),
                statistics.rate("wrong results without notice", wrong, tried),
            ],
            controls=runs,
            parameters={"n": n, "bits": made.wire_bits, "high": high},
        )

    def _round(
        self,
        lab: Lab,
        column: str,
        made: Plan,
        element: int,
        number: int,
        server: type[Any] | None,
    ) -> tuple[Played, int]:
        """A round with one element changed; and the exact sum of the others there."""
        vectors = lab.inputs(made.clients, self.LENGTH, 2 * self.HIGH, number) - self.HIGH
        lie = vectors[0].copy()
        lie[0] = element
        seed = lab.digest("round", number)
        out = play(column, made, vectors, seed=seed, lie=lie, server=server)
        return out, int(vectors[1:, 0].sum())

    def _wrong(self, made: Plan, out: Played, rest: int) -> bool:
        """Whether the result says of the lying site what no honest vector could."""
        if not out.silent or out.total is None:
            return False
        implied = float(out.total[0]) - rest
        return abs(implied) > self.HIGH + tolerance(made, made.clients)

    def _law(self, column: str, made: Plan, element: int, rest: int, out: Played) -> None:
        """Refused exactly where the total, lifted into the window, is beyond the range."""
        if column in UNBOUNDED:
            law = True
        else:
            low = -self.HIGH * made.clients
            law = (rest + element - low) % (1 << made.wire_bits) + low <= -low
        if law != (out.total is not None):
            raise LabError("a sum was refused, or not, against the law")

    def _small_ring(self, column: str) -> ControlRun:
        """Honest vectors that sum to 600, in a ring of 10 bits that no plan can have."""
        n = sites_of(column)
        each = 100 if n > 6 else 200
        # So little noise, where there is any, that the wrapped sum can be told from it.
        little = {"epsilon": 40.0} if column == "noise" else {}
        stages = (secagg.Integers(-each, each),)
        whole = columns.plan(column, n, 1, stages=stages, **little)
        told = {item.name: getattr(whole, item.name) for item in fields(whole) if item.init}
        told["bits"] = 10
        try:
            Plan(**told)
        except PlanError as error:
            if error.rule != "modulus":
                raise LabError(f"the plan is refused by {error.rule}") from error
        else:
            raise LabError("a plan whose sum wraps was made")
        weak = controls.without(Plan, "modulus")(**told)
        vectors = np.zeros((weak.clients, 1), dtype=np.int64)
        vectors[: 600 // each] = each
        out = play(column, weak, vectors, seed=bytes(32))
        found = 600 if out.total is None else round(float(out.total[0]))
        return ControlRun(
            overrides=("plan.modulus",),
            trials=1,
            successes=int(abs(found - 600) > tolerance(weak, weak.clients)),
            note=f"honest vectors that sum to 600 come out as {found} modulo 1024",
        )


class GarbageScene(Scene):
    """Random words, unreadable messages and silence, one site or more at a time."""

    attack: ClassVar[type[Attack]] = Garbage
    expected: ClassVar[Mapping[str, Verdict | str]] = everywhere(
        Verdict.DETECTED, plain=Verdict.CORRUPTS, noise=Verdict.CORRUPTS
    )
    LENGTH: ClassVar[int] = 64
    #: With that, at most two thirds of the ring are what honest sums can be, in every column.
    HIGH: ClassVar[int] = 700

    def investigate(self, lab: Lab, column: str) -> Finding:
        """What becomes of the round, act by act, and who is blamed."""
        stages = (secagg.Integers(0, self.HIGH),)
        made = columns.plan(column, sites_of(column), self.LENGTH, stages=stages)
        encrypts = column in PAILLIER
        size = (
            paillier.input_size(made) if encrypts else packed_size(made.ring_length, made.wire_bits)
        )
        trials = lab.trials(1, 4 if encrypts else 40)
        acts: dict[str, list[Played]] = {}
        wrong = 0
        weak: list[bool] = []
        exact = True
        for trial in range(trials):
            lab.step(trial, trials)
            told = {
                "bits": made.wire_bits,
                "length": made.ring_length,
                "bytes": size,
                "seed": int(lab.rng("words", trial).integers(1 << 62)),
            }
            sent = lab.attack(Transcript(public=told)).arrays
            vectors = lab.inputs(made.clients, self.LENGTH, self.HIGH, trial)

            def run(
                act: str,
                vectors: Array = vectors,
                trial: int = trial,
                server: type[Any] | None = None,
                **what: Any,
            ) -> Played:
                seed = lab.digest("round", trial, act)
                out = play(column, made, vectors, seed=seed, server=server, **what)
                acts.setdefault(act, []).append(out)
                return out

            out = run("words", lie=sent["words"])
            wrong += out.silent
            if column not in UNBOUNDED:
                lone = weaker(column, "sum-range")
                seed = lab.digest("round", trial, "words")
                again = play(column, made, vectors, seed=seed, lie=sent["words"], server=lone)
                weak.append(again.silent)
            if column != "plain":
                outs = [run("cut", edit=_instead(sent["cut"].tobytes()))]
                if encrypts:
                    outs.append(run("bytes", edit=_instead(sent["bytes"].tobytes())))
                exact &= all(self._exact(made, vectors, out) for out in outs)
            if not (encrypts and not lab.full and trial):
                for step in _STEPS[column]:
                    one = run(f"one silent at {_STEP(step).label}", drop={step: [LIAR]})
                    exact &= self._exact(made, vectors, one)
            too_many = list(made.roster.names[: made.max_dropouts + 1])
            run("too many silent", drop={int(_STEP.INPUT): too_many})
        if not exact:
            raise LabError("a round that went on without the garbage gave another sum")
        return self._finding(column, made, trials, acts, wrong, weak)

    @staticmethod
    def _rules(column: str, outs: list[Played]) -> set[str]:
        """Rules that ended these rounds, or a party in them."""
        ended = {out.rule for out in outs if out.rule}
        return {
            named(column, rule) for rule in ended.union(*(out.dropped.values() for out in outs))
        }

    def _exact(self, made: Plan, vectors: Array, out: Played) -> bool:
        """Whether the result is the sum of its survivors' vectors."""
        if out.total is None:
            return False
        names = made.roster.names
        rows = [row for name, row in zip(names, vectors, strict=True) if name in out.survivors]
        away = np.abs(out.total - np.sum(rows, axis=0)).max()
        return bool(away <= tolerance(made, len(rows)))

    def _finding(
        self,
        column: str,
        made: Plan,
        trials: int,
        acts: dict[str, list[Played]],
        wrong: int,
        weak: list[bool],
    ) -> Finding:
        words = acts["words"]
        refused = self._rules(column, words)
        rest = [out for act, outs in acts.items() if act != "words" for out in outs]
        others = self._rules(column, rest)
        every = [out for outs in acts.values() for out in outs]
        done = sum(out.total is not None for out in every)
        blamed = [out for act in ("cut", "bytes") for out in acts.get(act, [])]
        namings = sum(LIAR in out.dropped for out in blamed)
        listed = max((len(out.suspects) for out in words), default=0)
        (span, _), *_ = made.pipeline.sum_span(made.clients)
        share = (span.high - span.low + 1) / (1 << made.wire_bits)
        free = column in UNBOUNDED
        predicted = 1.0 if free else share**self.LENGTH
        # Where more pass than the law says, the verdict itself is another one.
        few = wrong < predicted * len(words)
        if few and not statistics.consistent(wrong, len(words), predicted):
            raise LabError("random words pass less often than the law says")
        measures = [
            statistics.rate("rounds with a result, all acts", done, len(every)),
            statistics.rate(
                "random words that pass",
                wrong,
                len(words),
                predicted=predicted,
                law="no rule" if free else "((range of the sum + 1) / 2^b)^d",
            ),
        ]
        if blamed:
            measures.append(
                statistics.rate("unreadable input: culprit named", namings, len(blamed))
            )
        runs = []
        if weak:
            runs.append(ControlRun(overrides=(SUM_RANGE,), trials=len(weak), successes=sum(weak)))
        held = [act for act, outs in acts.items() if all(out.total is None for out in outs)]
        said = (
            f"Random words ended {sum(bool(out.rule) for out in words)} of {len(words)} rounds, "
            f"with up to {listed} suspects and {sum(LIAR in out.dropped for out in words)} times "
            "the site named. "
            if refused
            else ""
        )
        if wrong:
            said += f"Random words went into {wrong} of {len(words)} results without notice. "
        return Finding(
            verdict=Verdict.CORRUPTS if wrong else Verdict.DETECTED,
            # In a round that random words went into, what was refused is something else.
            stopped_by=() if wrong else tuple(sorted(refused)),
            also_refused=tuple(sorted(others | refused if wrong else others - refused)),
            tried=(
                f"One of {made.clients} sites sends {self.LENGTH} random words as its vector, "
                + ("an input that cannot be read, " if blamed else "")
                + f"or falls silent at each step; then {made.max_dropouts + 1} sites fall silent, "
                f"where the plan bears {made.max_dropouts}."
            ),
            seen=said
            + (
                f"Unreadable inputs: the site was named and left out {namings} of "
                f"{len(blamed)} times, and the sum of the others was right. "
                if blamed
                else ""
            )
            + f"{done} of {len(every)} rounds had a result; none in any round of: "
            f"{', '.join(held) or 'no act'}. "
            "One silent site at any step did not change the sum of the others.",
            trials=len(words),
            successes=wrong,
            measures=measures,
            controls=runs,
            figures=[
                Figure(
                    title="Rounds that had a result",
                    x_label=", ".join(f"{i}: {act}" for i, act in enumerate(acts)),
                    y_label="fraction of rounds",
                    series=[
                        Series(
                            name="result",
                            x=[float(i) for i in range(len(acts))],
                            y=[
                                float(np.mean([out.total is not None for out in outs]))
                                for outs in acts.values()
                            ],
                            style="bars",
                        )
                    ],
                )
            ],
            parameters={
                "n": made.clients,
                "d": self.LENGTH,
                "dropouts": made.max_dropouts,
                "rounds": trials,
            },
        )


def _instead(tail: bytes) -> Callable[[World, int, str, str, bytes], list[bytes] | None]:
    """In the place of the lying site's input: one with this tail, under its own seal."""

    def edit(world: World, kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if not is_input(kind) or sender != LIAR:
            return None
        return [input_frame(world, sender, tail)]

    return edit


_MASKED_STEPS: Final = (int(_STEP.ADVERTISE), int(_STEP.SHARE), int(_STEP.INPUT), int(_STEP.REVEAL))
#: Steps at which a site can fall silent.
_STEPS: Final[Mapping[str, tuple[int, ...]]] = {
    column: (int(_STEP.INPUT),) if column == "plain" or column in PAILLIER else _MASKED_STEPS
    for column in COLUMNS
} | {"malicious-server": (*_MASKED_STEPS[:3], int(_STEP.CONSENT), _MASKED_STEPS[3])}

__all__ = ["GarbageScene", "WrapPoisoningScene"]
