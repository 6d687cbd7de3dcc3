"""Scenes of the attacks on what a sum reveals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final

import numpy as np

import secagg

from .. import statistics
from ..aggregate import (
    Membership,
    SparseCoordinates,
    membership_area,
    private_area,
)
from ..attack import Array, Transcript
from ..columns import COLUMNS, DELTA, EPSILON, LEAST_SPARSE, PAILLIER, plan
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from .imprint import ImprintScene
from .sums import real_sums

_LEAKS: Final = dict.fromkeys(COLUMNS, Verdict.LEAKS)
_SITES: Final = LEAST_SPARSE
_NORMAL: Final = NormalDist()
#: Of a count that is not zero, where no study gives them.
_CHANCE: Final = 0.05


class MembershipScene(Scene):
    """A target's update is in the sum or not; the others are normal."""

    attack = Membership
    expected = _LEAKS

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Score sums with and without the target."""
        length = 120
        rng = lab.rng("updates")
        update = rng.standard_normal(length)
        norm = float(np.linalg.norm(update))
        noisy = column == "noise"
        pairs = lab.trials(30 if noisy else 40, 250 if noisy else 300)
        if noisy:
            clip = 1.05 * max(norm, math.sqrt(length) + 3)
            made = plan(column, _SITES, length, l2_clip=clip, sites_receive=False, colluding=0)
        else:
            stages = (secagg.ClipLinf(8.0), secagg.Quantise(1 << 16, rounding="nearest"))
            made = plan(column, _SITES, length, stages=stages)
        draws = [self._draw(rng, update, inside=i < pairs) for i in range(2 * pairs)]
        real = 2 * pairs if noisy else lab.trials(2, 12 if column in PAILLIER else 60)
        sums, variance = real_sums(lab, made, column, draws[:real], exact=not noisy)
        # The sums of all protocols are the plain ones, as those rounds show; the rest is added up.
        rest = np.asarray([draw.sum(axis=0) for draw in draws[real:]])
        every = np.concatenate([sums, rest]) if len(rest) else sums
        order = lab.rng("order").permutation(2 * pairs)
        found = lab.attack(
            Transcript(
                public={"sites": _SITES},
                arrays={"sums": every[order], "update": update},
            )
        )
        scores = np.empty(2 * pairs)
        scores[order] = found.arrays["scores"]
        inside, outside = scores[:pairs], scores[pairs:]
        area, error = statistics.auc(inside, outside)
        spread = math.sqrt(_SITES - 1 + variance)
        law = membership_area(norm, spread)
        # The law's own error: of two normal samples, where the measured one may touch 1.
        error = max(error, math.sqrt(law * (1 - law) / pairs))
        if not statistics.within(area, law, error):
            raise LabError(f"AUC {area:.3f}, the law says {law:.3f}")
        low, high = statistics.interval(area, error)
        bound = private_area(EPSILON, DELTA)
        measures = [
            Measure(
                name="AUC",
                value=area,
                low=low,
                high=min(high, 1.0),
                predicted=law,
                bound=bound if noisy else None,
                law=Membership.law,
            ),
            Measure(name="advantage over a coin", value=2 * area - 1, predicted=2 * law - 1),
        ]
        controls = []
        if noisy:
            if low > bound:
                raise LabError(f"AUC {area:.3f} is above the bound {bound:.3f} of the noise")
            controls.append(self._without_noise(lab, draws, update, law))
        false, true = statistics.roc(inside, outside)
        grid = np.linspace(0.001, 0.999, 60)
        shift = norm / spread
        curve = [_NORMAL.cdf(_NORMAL.inv_cdf(float(x)) + shift) for x in grid]
        figure = Figure(
            title="Telling whether an update is in the sum",
            x_label="false positive rate",
            y_label="true positive rate",
            series=[
                Series(name="measured", x=false, y=true, style="line"),
                Series(name="law", x=grid.tolist(), y=curve, style="line"),
                Series(name="coin", x=[0.0, 1.0], y=[0.0, 1.0], style="line"),
            ],
        )
        seen = (
            f"The score tells sums with the update from sums without it with AUC {area:.3f} "
            f"(law {law:.3f}); half of all guesses are right by chance."
        )
        seen += (
            f" Epsilon {EPSILON:g} allows up to {bound:.3f}"
            + (", and the interval is below it." if high <= bound else "; too few sums to tell.")
            if noisy
            else " Hiding the addends does not change this: the sum itself answers."
        )
        return Finding(
            # A test agrees with the law here, so what the law says is there to be had.
            verdict=Verdict.LEAKS if law > 0.5 else Verdict.PREVENTED,
            bounded=noisy and high <= bound,
            tried=(
                f"{pairs} sums with a known update of one of {_SITES} sites and {pairs} without, "
                f"{length} coordinates; {real} of them by rounds of the real protocol"
                + (", the others added up, since those were exact" if real < 2 * pairs else "")
                + "."
            ),
            seen=seen,
            trials=2 * pairs,
            successes=_right(inside, outside),
            measures=measures,
            controls=controls,
            figures=[figure],
            parameters={"n": _SITES, "d": length},
        )

    @staticmethod
    def _draw(rng: np.random.Generator, update: Array, *, inside: bool) -> Array:
        vectors: Array = rng.standard_normal((_SITES, update.size)).clip(-8, 8)
        vectors[0] = update if inside else 0.0
        return vectors

    @staticmethod
    def _without_noise(lab: Lab, draws: list[Array], update: Array, noisy: float) -> ControlRun:
        """The same sums without noise: the test has to do better than the law with noise."""
        sums = np.asarray([draw.sum(axis=0) for draw in draws])
        found = lab.attack(Transcript(arrays={"sums": sums, "update": update}))
        scores, half = found.arrays["scores"], len(draws) // 2
        area, error = statistics.auc(scores[:half], scores[half:])
        return ControlRun(
            overrides=("feature: distributed noise",),
            trials=len(draws),
            successes=_right(scores[:half], scores[half:]) if area > noisy + error else 0,
            note=f"AUC {area:.3f}",
        )


def _right(inside: Array, outside: Array) -> int:
    """Right guesses of whoever takes the upper half of the scores for those with the update."""
    middle = np.median(np.concatenate([inside, outside]))
    return int((inside > middle).sum() + (outside <= middle).sum())


class SparseCoordinatesScene(Scene):
    """Rare counts: most coordinates are zero at most sites."""

    attack = SparseCoordinates
    expected = _LEAKS

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Count the coordinates that show one site's count."""
        noisy, study = column == "noise", lab.study
        if study is not None and study.counts and (study.vectors.sum(axis=0) == 1).any():
            sites, length = study.vectors.shape
            most = int(study.vectors.max())
            vectors = lab.inputs(max(sites, _SITES), length, most)
        else:
            # A study whose every count has several contributors has nothing to show here.
            study = None
            most, length = 1, lab.trials(300, 2000)
            vectors = (lab.rng("counts").random((_SITES, length)) < _CHANCE).astype(np.int64)
        sites = len(vectors)
        changes: dict[str, Any] = {"stages": (secagg.Integers(0, most),)}
        if noisy:
            changes |= {"sites_receive": False, "colluding": 0}
        made = plan(column, sites, length, **changes)
        sums = real_sums(lab, made, column, [vectors], exact=not noisy)
        spread = math.sqrt(sums.variance)
        found = lab.attack(Transcript(public={"spread": spread}, arrays={"sum": sums.sums[0]}))
        claimed = found.arrays["claimed"]
        # A count of one that nobody else adds to is one person at one site.
        single = vectors.sum(axis=0) == 1
        right, truth = int(single[claimed].sum()), int(single.sum())
        law = None
        if study is None:
            law = sites * _CHANCE * (1 - _CHANCE) ** (sites - 1)
            if not statistics.consistent(truth, length, law):
                raise LabError(f"{truth} of {length} coordinates, the law says {law:.3f}")
        base = truth / length
        precision = statistics.rate("claims that are right", right, max(len(claimed), 1))
        exposed = statistics.rate("coordinates exposed", right, length)
        odds = math.exp(EPSILON) * base
        measures = [
            Measure(
                name=exposed.name,
                value=exposed.value,
                low=exposed.low,
                high=exposed.high,
                predicted=None if noisy else law,
                law="" if noisy or law is None else SparseCoordinates.law,
            ),
            Measure(
                name=precision.name,
                value=precision.value,
                low=precision.low,
                high=precision.high,
                predicted=None if noisy else 1.0,
                # Bayes: epsilon moves the odds of a guess by e^epsilon at most.
                bound=odds / (1 - base + odds) + DELTA if noisy else None,
                law=f"chance {base:.2g}, times what epsilon allows" if noisy else "no count is < 0",
            ),
        ]
        controls = []
        if noisy:
            given = Transcript(public={"spread": 0.0}, arrays={"sum": vectors.sum(axis=0)})
            plain = lab.attack(given).arrays["claimed"]
            controls.append(
                ControlRun(
                    overrides=("feature: distributed noise",),
                    trials=max(len(plain), 1),
                    successes=int(single[plain].sum()),
                )
            )
        seen = (
            f"{right} of {len(claimed)} claims are right: each is one person at one site. Nobody "
            "says which site; who knows the other sites' counts does."
            if not noisy
            else f"{right} of {len(claimed)} claims are right, and {base:.0%} would be by chance: "
            f"the noise (epsilon {EPSILON:g} for the whole vector) leaves little of single counts."
        )
        what = "of which one in twenty is not zero" if study is None else "the study's own"
        return Finding(
            verdict=Verdict.LEAKS if right or noisy else Verdict.PREVENTED,
            bounded=measures[1].within_bound,
            tried=(
                f"{sites} sites with {length} counts each, {what}; a sum of one is claimed to be "
                "one site's count."
            ),
            seen=seen,
            trials=max(len(claimed), 1),
            successes=right,
            measures=measures,
            controls=controls,
            parameters={"sites": sites, "coordinates": length},
        )


__all__ = ["ImprintScene", "MembershipScene", "SparseCoordinatesScene"]
