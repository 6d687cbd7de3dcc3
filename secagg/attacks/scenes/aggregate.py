"""Scenes of the attacks on what a sum reveals."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

import secagg
from secagg_protocols.errors import MisuseError
from secagg_protocols.masked_sum import Client
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.plan import Plan

from .. import statistics
from ..aggregate import (
    Imprint,
    Membership,
    SparseCoordinates,
    alone,
    membership_area,
    private_area,
)
from ..arena.controls import without
from ..arena.paillier_world import PaillierWorld
from ..arena.world import World
from ..attack import Array, Evidence, Transcript
from ..columns import COLUMNS, DELTA, EPSILON, LEAST_SPARSE, PAILLIER, honest_sum, plan
from ..finding import ControlRun, Figure, Finding, Measure, Picture, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene

_LEAKS: Final = dict.fromkeys(COLUMNS, Verdict.LEAKS)
_SITES: Final = LEAST_SPARSE
_NORMAL: Final = NormalDist()


class Sums(NamedTuple):
    """Sums of real rounds and how far they are from the plain ones; variance of their noise."""

    sums: Array
    variance: float


def real_sums(lab: Lab, made: Plan, column: str, inputs: list[Array], exact: bool) -> Sums:
    """A round of the real protocol for each entry of ``inputs``: float or int [sites, d].

    exact: raise `LabError` where a sum is not the plain sum within the rounding of the plan.
    """
    found, variance = [], 0.0
    for number, vectors in enumerate(inputs):
        seed = lab.digest("round", number, len(inputs))
        total = honest_sum(
            made, vectors, seed=seed, session=f"laboratory {number}", plain=column == "plain"
        )
        variance = total.variance
        if exact:
            gap = float(np.abs(total.total - vectors.sum(axis=0)).max())
            if gap > _rounding(made) * len(vectors):
                raise LabError(f"a sum of {column} is off by {gap}")
        found.append(total.total)
    return Sums(np.asarray(found), variance)


def _rounding(made: Plan) -> float:
    """What rounding may move a coordinate of one site, a little more for doubles."""
    clip = [stage.clip for stage in made.stages if isinstance(stage, secagg.ClipLinf)]
    levels = [stage.levels for stage in made.stages if isinstance(stage, secagg.Quantise)]
    return 0.5001 * clip[0] / levels[0] if levels else 0.0


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
        pairs = lab.trials(12 if noisy else 40, 250 if noisy else 300)
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
                law=Membership.law,
            ),
            Measure(name="advantage over a coin", value=2 * area - 1, predicted=2 * law - 1),
        ]
        controls = []
        if noisy:
            if area - (high - area) > bound:
                raise LabError(f"AUC {area:.3f} is above the bound {bound:.3f} of the noise")
            measures.append(
                Measure(
                    name=f"largest AUC that epsilon {EPSILON:g} allows",
                    value=bound,
                    law="area under the (epsilon, delta) curve",
                )
            )
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
            f"(law {law:.3f})."
        )
        seen += (
            " The noise keeps it below what epsilon allows."
            if noisy
            else " Hiding the addends does not change this: the sum itself answers."
        )
        return Finding(
            # A test agrees with the law here, so what the law says is there to be had.
            verdict=Verdict.LEAKS if law > 0.5 else Verdict.PREVENTED,
            bounded=noisy,
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
        chance, length = 0.05, lab.trials(300, 2000)
        rng = lab.rng("counts")
        vectors = (rng.random((_SITES, length)) < chance).astype(np.int64)
        stages = (secagg.Integers(0, 1),)
        changes: dict[str, Any] = {"stages": stages}
        if column == "noise":
            changes |= {"sites_receive": False, "colluding": 0}
        made = plan(column, _SITES, length, **changes)
        total = real_sums(lab, made, column, [vectors], exact=column != "noise").sums[0]
        found = lab.attack(Transcript(arrays={"sum": total}))
        claimed = found.arrays["claimed"]
        single = vectors.sum(axis=0) == 1
        right, truth = int(single[claimed].sum()), int(single.sum())
        noisy = column == "noise"
        law = _SITES * chance * (1 - chance) ** (_SITES - 1)
        if not statistics.consistent(truth, length, law):
            raise LabError(f"{truth} of {length} coordinates, the law says {law:.3f}")
        precision = statistics.rate("claims that are right", right, max(len(claimed), 1))
        exposed = statistics.rate(
            "coordinates exposed",
            right,
            length,
            predicted=None if noisy else law,
            law="" if noisy else SparseCoordinates.law,
        )
        controls = []
        if noisy:
            plain = lab.attack(Transcript(arrays={"sum": vectors.sum(axis=0)})).arrays["claimed"]
            controls.append(
                ControlRun(
                    overrides=("feature: distributed noise",),
                    trials=len(plain),
                    successes=int(single[plain].sum()),
                )
            )
        base = truth / length
        seen = (
            f"{right} of {len(claimed)} claims are right: each is one site's count. Nobody says "
            "which site; who knows the other sites' counts does."
            if not noisy
            else f"{right} of {len(claimed)} claims are right, and {base:.0%} would be by chance: "
            f"the noise (epsilon {EPSILON:g} for the whole vector) hides single counts."
        )
        return Finding(
            verdict=Verdict.LEAKS if right or noisy else Verdict.PREVENTED,
            bounded=noisy and precision.low is not None and precision.low <= base,
            tried=(
                f"{_SITES} sites with {length} counts each, of which one in twenty is not zero; "
                "a sum of one is claimed to be one site's count."
            ),
            seen=seen,
            trials=max(len(claimed), 1),
            successes=right,
            measures=[
                exposed,
                Measure(
                    name=precision.name,
                    value=precision.value,
                    low=precision.low,
                    high=precision.high,
                    predicted=base if noisy else 1.0,
                    law="chance" if noisy else "counts are not negative",
                ),
            ],
            controls=controls,
            parameters={"n": _SITES, "d": length, "p": chance},
        )


class _Crafted(NamedTuple):
    """A crafted layer: what all its rows measure, and where its bins begin, ascending."""

    measure: Array
    starts: Array

    def gradient(self, records: Array, out: float) -> Array:
        """A site's gradient: of each row's weights, then of each row's bias.

        The rows' outputs are added up by equal weights ``out`` into one number, whose squared
        distance from zero is the loss, so a record adds the same to every row that it activates.
        """
        heights = records @ self.measure
        active = heights[:, None] >= self.starts[None, :]
        pull = out * np.maximum(heights[:, None] - self.starts[None, :], 0).sum(axis=1)
        shares = (active * (pull * out)[:, None]).T
        flat: Array = np.concatenate([(shares @ records).ravel(), shares.sum(axis=1)])
        return flat

    @property
    def model(self) -> bytes:
        """The model as it is broadcast."""
        return self.measure.tobytes() + self.starts.tobytes()


class ImprintScene(Scene):
    """A crafted layer whose bins are quantiles of what it measures; records of real digits."""

    attack = Imprint
    #: Under noise no record comes out whole; what noise leaves is bounded by its epsilon.
    expected: ClassVar[dict[str, Verdict]] = {**_LEAKS, "noise": Verdict.PREVENTED}

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Recover records from one sum; the law on drawn records, where the bins are exact."""
        small = column in PAILLIER or not lab.full
        bins, each = (64, 2) if small else (256, 4)
        sites = _SITES
        digits = _digits()
        rng = lab.rng("records")
        picked = rng.permutation(len(digits))
        records = digits[picked[: sites * each]].reshape(sites, each, -1)
        public = digits[picked[sites * each :]]
        measure = np.abs(rng.standard_normal(digits.shape[1])) / digits.shape[1]
        layer = _Crafted(measure, np.quantile(public @ measure, np.arange(bins) / bins))
        found, total = self._round(lab, column, layer, records)
        true = records.reshape(-1, records.shape[2])
        right, pairs = _matches(found, true, column == "noise")
        heights = np.searchsorted(layer.starts, true @ measure, side="right") - 1
        inside = heights[heights >= 0]
        lone = int((np.bincount(inside, minlength=bins) == 1).sum())
        law = alone(sites * each, bins)
        noisy = column == "noise"
        if not noisy and right != lone:
            raise LabError(f"{right} records recovered, {lone} are alone in their bin")
        listed = self._listed(column, layer)
        controls = [] if listed is None else [listed]
        if noisy:
            plain = lab.attack(_transcript(total, bins, 1e-9))
            again, _ = _matches(plain, true, False)
            controls.append(
                ControlRun(
                    overrides=("feature: distributed noise",), trials=len(true), successes=again
                )
            )
        share = statistics.rate("records recovered", right, len(true), predicted=law / len(true))
        measures = [
            Measure(
                name=share.name,
                value=share.value,
                low=share.low,
                high=share.high,
                predicted=None if noisy else share.predicted,
                law="" if noisy else Imprint.law,
            )
        ]
        if not noisy:
            measures.append(self._law(lab))
        pictures = [
            Picture(label=f"record {i}", shape=(8, 8), true=a.tolist(), found=b.clip(0, 1).tolist())
            for i, (a, b) in enumerate(pairs[:8])
        ]
        figures = []
        if pictures:
            title = "Records of the sites, and what the server made of the sum"
            figures.append(Figure(title=title, pictures=pictures))
        return Finding(
            verdict=Verdict.LEAKS if right else Verdict.PREVENTED,
            tried=(
                f"The server sends a layer of {bins} crafted rows to {sites} sites with {each} "
                "images of digits each, and reads the sum of their gradients."
            ),
            seen=(
                f"{right} of {len(true)} images were recovered"
                + (
                    f" pixel by pixel: all {lone} that are alone in their bin. The sum hides whose "
                    "they are, and nothing else. A site that lists the models it takes part with "
                    "refuses this one."
                    if not noisy
                    else f" under the noise of epsilon {EPSILON:g}; without it {again} are."
                )
            ),
            trials=len(true),
            successes=right,
            stopped_by=("feature: distributed noise",) if noisy and not right else (),
            measures=measures,
            controls=controls,
            figures=figures,
            parameters={"n": sites, "m": len(true), "k": bins, "d": total.size},
        )

    def _round(
        self, lab: Lab, column: str, layer: _Crafted, records: Array
    ) -> tuple[Evidence, Array]:
        """The attack on the sum of a real round; and the plain sum."""
        bins = len(layer.starts)
        gradients = np.stack([layer.gradient(mine, 1.0 / bins) for mine in records])
        clip = float(2.0 ** math.ceil(math.log2(np.abs(gradients).max())))
        levels = 1 << 34
        if column == "noise":
            norm = float(np.linalg.norm(gradients, axis=1).max())
            made = plan(
                column, len(records), gradients.shape[1], l2_clip=norm, sites_receive=False,
                colluding=0,
            )  # fmt: skip
            floor = 0.0
        else:
            stages = (secagg.ClipLinf(clip), secagg.Quantise(levels, rounding="nearest"))
            made = plan(column, len(records), gradients.shape[1], stages=stages)
            floor = len(records) * clip / levels
        sums = real_sums(lab, made, column, [gradients], exact=column != "noise")
        return lab.attack(_transcript(sums.sums[0], bins, floor)), gradients.sum(axis=0)

    @staticmethod
    def _listed(column: str, layer: _Crafted) -> ControlRun | None:
        """A real site that lists the models which it takes part with, and one without that rule.

        `LabError` where the list does not stop the crafted model before anything is computed.
        """
        if column == "plain":
            return None  # such sites have no floors
        ciphertexts = column in PAILLIER
        kind = PaillierWorld if ciphertexts else World
        site: type[Any] = PaillierClient if ciphertexts else Client
        floors = secagg.Floors(models=(hashlib.sha256(b"the model that was reviewed").hexdigest(),))
        # The noise of a round is no matter of its model.
        made = plan("semi-honest" if column == "noise" else column, _SITES)

        def join(of: type[Any]) -> str:
            try:
                kind(made, model=layer.model, floors={"s0": floors}, classes={"s0": of})
            except MisuseError as error:
                return error.rule
            return ""

        if (rule := join(site)) != "model-allowed":
            raise LabError(f"a site that lists its models says {rule!r} to a crafted one")
        return ControlRun(
            overrides=("client.model-allowed",),
            trials=1,
            successes=int(not join(without(site, "model-allowed"))),
            note="a site that lists its models refuses this one before it computes anything",
        )

    @staticmethod
    def _law(lab: Lab) -> Measure:
        """How many drawn records are alone, where every bin is equally likely."""
        rng, records, bins, repeats = lab.rng("law"), 64, 1024, lab.trials(200, 2000)
        drawn = rng.integers(0, bins, size=(repeats, records))
        lone = [int((np.bincount(row, minlength=bins) == 1).sum()) for row in drawn]
        mean, error = float(np.mean(lone)), float(np.std(lone) / math.sqrt(repeats))
        law = alone(records, bins)
        if not statistics.within(mean, law, error):
            raise LabError(f"{mean} records alone in their bin, the law says {law}")
        low, high = statistics.interval(mean, error)
        return Measure(
            name=f"records alone, of {records} in {bins} bins",
            value=mean,
            low=low,
            high=high,
            predicted=law,
            law=Imprint.law,
        )


def _transcript(total: Array, bins: int, floor: float) -> Transcript:
    width = total.size // bins - 1
    return Transcript(
        public={"resolution": floor},
        arrays={"weights": total[: bins * width].reshape(bins, width), "biases": total[-bins:]},
    )


def _matches(found: Evidence, true: Array, loose: bool) -> tuple[int, list[tuple[Array, Array]]]:
    """True records that a claim equals (to 1e-3 of the range; in noise to 0.1), with the claims;
    where none does, the nearest for the figure."""
    claims: Array = found.arrays["records"]
    if not len(claims):
        return 0, []
    gaps = np.abs(true[:, None, :] - claims[None, :, :]).max(axis=2)
    best = gaps.argmin(axis=1)
    hits = gaps.min(axis=1) <= (0.1 if loose else 1e-3)
    shown = np.flatnonzero(hits) if hits.any() else np.arange(min(8, len(true)))
    return int(hits.sum()), [(true[i], claims[best[i]]) for i in shown]


def _digits() -> Array:
    """Handwritten digits of scikit-learn, grey values within 0..1: float64[1797, 64]."""
    from sklearn.datasets import load_digits

    images: Array = load_digits().data / 16.0
    return images


__all__ = ["ImprintScene", "MembershipScene", "SparseCoordinatesScene", "real_sums"]
