"""Sensitivity after rounding, and what sums show of it: row 31."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import secagg
from secagg.dp import accounting, audit, mechanism_of
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Bounds, Noise, Pipeline, Quantise, Rotate, Totals

from .. import columns, statistics
from ..arena import controls
from ..attack import Attack, Transcript
from ..columns import DELTA, EPSILON
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..noise import UnderstatedSensitivity
from ..process import LabError
from ..scene import Lab, Scene
from .noise_rounds import only_noise

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROUNDING: Final = "feature: rounding counts in the sensitivity"


def _uncounted(stage: Quantise, given: Bounds) -> Bounds:
    """Bounds that forget what rounding adds to the norm."""
    after = Quantise.bounds(stage, given)
    if given.l2 is None or given.unit is None:
        return after
    return dataclasses.replace(after, l2=given.l2 / given.unit * stage.levels)


UncountedQuantise: Final = controls.changed(Quantise, bounds=_uncounted)
_CONTEXT: Final = bytes(range(32))
_NO_TOTALS: Final = Totals(count=1, weight=1.0)
#: So far inside its clip a vector is not scaled down by the last digits of its norm.
_INSIDE: Final = 1 - 1e-9


def worst_vectors(pipeline: Pipeline, levels: int, rng: np.random.Generator) -> list[Floats]:
    """Vectors within a clip of 1 that rounding is likely to make longer.

    Half a level (and a hair) in every coordinate after the rotation, where the direction of
    rounding is most open; all coordinates the same; a single one; a random direction.
    """
    d = pipeline.length
    root, hair = math.sqrt(d), 1e-7
    halves = math.floor(max(levels / root - 0.5, 0.0)) + 0.5 + hair
    wanted = [np.full(d, levels / root), np.zeros(d), rng.normal(size=d)]
    wanted[1][0] = levels
    count = min(d, int((levels * _INSIDE / halves) ** 2))
    wanted.append(np.where(np.arange(d) < count, halves, 0.0))
    rotation = Rotate().at(_CONTEXT, b"")
    found = []
    for y in wanted:
        norm = math.sqrt(float(y @ y))
        x = y * (min(1.0, levels * _INSIDE / norm) if norm else 0.0) / levels
        signs = rng.choice([-1.0, 1.0], size=d)
        found.append(rotation.decode(x * signs, _NO_TOTALS, Bounds(length=d)))
    return found


def encodings(pipeline: Pipeline, x: Floats, seeds: list[bytes]) -> Ints:
    """The integers of one vector under each of these rounding seeds, int64[seeds, d]."""
    rows = np.empty((len(seeds), pipeline.total_length), dtype=np.int64)
    for row, seed in zip(rows, seeds, strict=True):
        pipeline.begin(x, 1, itertools.repeat(seed).__next__).tile(row, 0)
    return rows


class UnderstatedSensitivityScene(Scene):
    """Worst-case vectors through clipping, rotation and rounding, and a plan's noise audited."""

    attack: ClassVar[type[Attack]] = UnderstatedSensitivity
    expected: ClassVar[Mapping[str, Verdict | str]] = only_noise()
    GRID: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 32, 128)
    LENGTHS: ClassVar[tuple[int, ...]] = (16, 256)
    #: So many levels that half a level in each of sixteen coordinates fills the clip.
    AUDITED: ClassVar[int] = 16

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Largest norms against what the plans say, and lower bounds of epsilon."""
        made = columns.plan(
            column, 4, self.AUDITED, stages=(secagg.ClipL2(1.0), secagg.Quantise(4)), l2_clip=1.0
        )
        count = lab.trials(3, 60)
        trials = wins = bad_trials = bad = 0
        lines: dict[str, list[float]] = {}
        for rounding in ("conditional", "stochastic", "nearest"):
            for levels in self.GRID:
                stage = Quantise(levels, rounding)
                weak = UncountedQuantise(levels, rounding)
                for d in self.LENGTHS:
                    ratio, runs, over = self._norms(lab, stage, levels, d, count)
                    trials, wins = trials + runs, wins + over
                    if d == self.LENGTHS[-1]:
                        lines.setdefault(rounding, []).append(ratio)
                    if rounding == "conditional":
                        continue  # it redraws until the norm is what was counted on, whatever it is
                    ratio, runs, over = self._norms(lab, weak, levels, d, count)
                    bad_trials, bad = bad_trials + runs, bad + over
                    if d == self.LENGTHS[-1]:
                        lines.setdefault(f"{rounding}, not counted", []).append(ratio)
        own = next(s for s in made.pipeline.stages if isinstance(s, Quantise))
        ratio, runs, over = self._norms(lab, own, own.levels, made.length, count)
        trials, wins = trials + runs, wins + over
        measures = [
            Measure(
                name="largest norm in the calibrated plan",
                value=ratio,
                predicted=1.0,
                law="at most 1",
                unit="of its sensitivity",
            ),
            *self._audits(lab, made, own.levels),
        ]
        over_claim = measures[1].value > EPSILON
        leaks = bool(wins) or over_claim
        return Finding(
            verdict=Verdict.LEAKS if leaks else Verdict.PREVENTED,
            tried=(
                f"{trials} worst-case vectors went through clipping, rotation and rounding "
                f"({len(self.GRID)} numbers of levels, {len(self.LENGTHS)} lengths, three ways to "
                "round); the norm of what came out was compared with the sensitivity of the plan. "
                "Then a server that knows all other inputs guessed from noisy sums whether a "
                "worst-case vector was in them."
            ),
            seen=(
                f"{wins} vectors were longer than their plan counts on. Where rounding is not "
                f"counted, {bad} of {bad_trials} were. The guesses prove an epsilon of at least "
                f"{measures[1].value:.2f}, the plan claims {EPSILON:g}."
            ),
            trials=trials,
            successes=wins,
            stopped_by=() if leaks else (ROUNDING,),
            measures=measures,
            controls=[
                ControlRun(
                    overrides=(ROUNDING,),
                    trials=bad_trials,
                    successes=bad,
                    note="Quantise.bounds replaced by one that leaves the norm as it was",
                )
            ],
            figures=[
                Figure(
                    title="Largest norm after rounding over the sensitivity",
                    x_label="levels per clip",
                    y_label="norm / sensitivity",
                    log_x=True,
                    series=[
                        Series(
                            name=name,
                            x=[float(levels) for levels in self.GRID],
                            y=values,
                            style="line",
                        )
                        for name, values in lines.items()
                    ],
                    note=f"{self.LENGTHS[-1]} coordinates; above 1 the noise hides too little.",
                )
            ],
            parameters={
                "n": made.clients,
                "d": made.length,
                "epsilon": EPSILON,
                "delta": DELTA,
                "levels": own.levels,
            },
        )

    def _norms(
        self, lab: Lab, stage: Quantise, levels: int, d: int, count: int
    ) -> tuple[float, int, int]:
        """(largest norm over claimed norm, vectors, how many were longer) of one pipeline."""
        stages = (secagg.ClipL2(1.0), Rotate(), stage)
        pipeline = Pipeline(stages, d, 1).at(_CONTEXT, b"")
        claimed = pipeline.bounds.l2 or 0.0
        seeds = [lab.digest("rounding", levels, d, k) for k in range(count)]
        vectors = worst_vectors(pipeline, levels, lab.rng("worst", levels, d))
        rows = np.concatenate([encodings(pipeline, x, seeds) for x in vectors])
        found = lab.attack(Transcript(arrays={"encodings": rows})).arrays["l2"]
        # A claim is a rounded real, a norm the root of a whole number.
        over = int(np.sum(found > claimed * (1 + 1e-12)))
        return float(found.max()) / claimed, len(found), over

    def _audits(self, lab: Lab, made: Plan, levels: int) -> list[Measure]:
        """Lower bounds of epsilon: of the plan, and of noise for the norm before rounding."""
        runs = lab.trials(4_000, 100_000)
        noise = made.pipeline.noise
        if noise is None:
            raise LabError("a plan of the noise column has noise")
        mechanism: Any = mechanism_of(made)
        shares, d = mechanism.shares, made.length
        quiet = Pipeline(made.pipeline.stages[:-1], d, 1).at(_CONTEXT, b"")
        canary = worst_vectors(quiet, levels, lab.rng("canary"))[-1]
        pool = encodings(quiet, canary, [lab.digest("canary", k) for k in range(64)])
        # Rounded to the nearest, half a level and a hair in each coordinate is a whole one: twice
        # the norm that noise of the same multiplier was made for.
        before, after = 0.5 * math.sqrt(d), math.sqrt(d)
        per_norm = noise.variance_levels2 / (made.pipeline.sensitivity[1] ** 2)
        scaled = 64.0  # in finer levels, so that the variance is a whole number
        weak = Noise(
            law=noise.law, variance_levels2=round(per_norm * (before * scaled) ** 2), wrap_bits=20
        )
        moved = np.full((1, d), round(scaled), dtype=np.int64)
        true = accounting.epsilon(
            dataclasses.replace(
                mechanism,
                local_variance_levels2=weak.variance_levels2,
                l2_levels=after * scaled,
            ),
            delta=DELTA,
            rounds=1,
        )
        ours = self._bound(lab, "plan", noise, shares, pool, runs)
        broken = self._bound(lab, "control", weak, shares, moved, runs)
        return [
            Measure(
                name="epsilon that guesses prove, our plan",
                value=ours,
                low=ours,
                predicted=EPSILON,
                law="at most the claim",
            ),
            Measure(
                name="epsilon that guesses prove, rounding to the nearest not counted",
                value=broken,
                low=broken,
                predicted=true,
                law=f"at most what the accountant finds for the true norm; the claim is {EPSILON}",
            ),
        ]

    def _bound(
        self, lab: Lab, label: str, noise: Noise, shares: int, pool: Ints, runs: int
    ) -> float:
        """A lower bound of epsilon at the plan's delta, by guesses about sums of both kinds."""
        d = pool.shape[1]
        sums = np.zeros((4 * runs, d), dtype=np.int64)
        for share in range(shares):
            noise.draws(lab.digest(label, "noise", share)).add(sums.reshape(-1), 0)
        rng = lab.rng(label)
        inside = np.zeros(4 * runs, dtype=bool)
        inside[:runs] = True
        inside[2 * runs :] = rng.permutation(np.arange(2 * runs) < runs)
        sums[inside] += pool[np.arange(inside.sum()) % len(pool)]
        found = lab.attack(
            Transcript(
                arrays={
                    "with": sums[:runs],
                    "without": sums[runs : 2 * runs],
                    "unknown": sums[2 * runs :],
                    "direction": pool.mean(axis=0),
                }
            )
        )
        guess, truth = found.arrays["guess"].astype(bool), inside[2 * runs :]
        epsilon = audit.clopper_pearson_epsilon(
            hits=int(np.sum(guess & truth)),
            hit_runs=int(truth.sum()),
            misses=int(np.sum(guess & ~truth)),
            miss_runs=int((~truth).sum()),
            delta=DELTA,
            alpha=statistics.LEVEL,
        )
        return max(0.0, epsilon)


__all__ = [
    "UncountedQuantise",
    "UnderstatedSensitivityScene",
    "encodings",
    "worst_vectors",
]
