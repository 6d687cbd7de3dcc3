"""Row 14: a crafted layer whose bins hold single records."""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np

import secagg
from secagg_protocols.errors import MisuseError
from secagg_protocols.masked_sum import Client
from secagg_protocols.paillier_sum import Client as PaillierClient

from .. import statistics
from ..aggregate import Imprint, alone, private_area
from ..arena.controls import without
from ..arena.paillier_world import PaillierWorld
from ..arena.world import World
from ..attack import Array, Evidence, Transcript
from ..columns import COLUMNS, DELTA, EPSILON, LEAST_SPARSE, PAILLIER, plan
from ..finding import ControlRun, Figure, Finding, Measure, Picture, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from .networks import digits
from .sums import real_sums

_SITES = LEAST_SPARSE


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
    expected: ClassVar[dict[str, Verdict]] = dict.fromkeys(COLUMNS, Verdict.LEAKS)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Recover records from one sum; the law on drawn records, where the bins are exact."""
        small = column in PAILLIER or not lab.full
        bins, each = (64, 2) if small else (256, 4)
        sites = _SITES
        noisy = column == "noise"
        images = digits()[0]
        rng = lab.rng("records")
        picked = rng.permutation(len(images))
        records = images[picked[: sites * each]].reshape(sites, each, -1)
        others = images[picked[sites * each :]]
        measure = np.abs(rng.standard_normal(images.shape[1])) / images.shape[1]
        layer = _Crafted(measure, np.quantile(others @ measure, np.arange(bins) / bins))
        found, total = self._round(lab, column, layer, records)
        true = records.reshape(-1, records.shape[2])
        right, pairs = _matches(found, true)
        heights = np.searchsorted(layer.starts, true @ measure, side="right") - 1
        inside = heights[heights >= 0]
        lone = int((np.bincount(inside, minlength=bins) == 1).sum())
        if not noisy and right != lone:
            raise LabError(f"{right} records recovered, {lone} are alone in their bin")
        controls = self._listed(column, layer)
        share = statistics.rate(
            "records recovered",
            right,
            len(true),
            predicted=None if noisy else lone / len(true),
            law="" if noisy else "those that are alone in their bin",
        )
        if noisy:
            again, _ = _matches(lab.attack(_transcript(total, bins, 1e-9)), true)
            controls.append(
                ControlRun(
                    overrides=("feature: distributed noise",), trials=len(true), successes=again
                )
            )
            told = _told_apart(found, true, others)
            measures = [told, share]
            seen = (
                f"{right} of {len(true)} images were recovered under the noise of epsilon "
                f"{EPSILON:g}; without it {again} are. What the claims tell of who was there has "
                f"AUC {told.value:.3f}, where epsilon allows up to {told.bound:.3f}."
            )
        else:
            measures = [share, self._law(lab)]
            seen = (
                f"{right} of {len(true)} images were recovered pixel by pixel: all that are alone "
                "in their bin. The sum hides whose they are. A site that lists the models it takes "
                "part with refuses this one."
            )
        figures = []
        if pairs:
            shown = [
                Picture(label=str(i + 1), shape=(8, 8), true=a.tolist(), found=b.tolist())
                for i, (a, b) in enumerate(pairs[:8])
            ]
            title = "Records of the sites, and what the server made of the sum"
            figures.append(Figure(title=title, pictures=shown))
        return Finding(
            verdict=Verdict.LEAKS if right or noisy else Verdict.PREVENTED,
            bounded=noisy and measures[0].within_bound,
            tried=(
                f"The server sends a layer of {bins} crafted rows to {sites} sites with {each} "
                "images of digits each, and reads the sum of their gradients."
            ),
            seen=seen,
            trials=len(true),
            successes=right,
            measures=measures,
            controls=controls,
            figures=figures,
            parameters={
                "sites": sites, "images": len(true), "bins": bins, "coordinates": total.size
            },
        )  # fmt: skip

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
    def _listed(column: str, layer: _Crafted) -> list[ControlRun]:
        """A real site that lists the models which it takes part with, and one without that rule.

        `LabError` where the list does not stop the crafted model before anything is sent.
        """
        if column == "plain":
            return []  # such sites have no floors
        ciphertexts = column in PAILLIER
        kind = PaillierWorld if ciphertexts else World
        site: type[Any] = PaillierClient if ciphertexts else Client
        floors = secagg.Floors(models=(hashlib.sha256(b"the model that was reviewed").hexdigest(),))
        made = plan(column, _SITES)

        def joins(of: type[Any]) -> str:
            """Which rule keeps the site out of a round over this model, or whether it is in."""
            try:
                world = kind(made, model=layer.model, floors={"s0": floors}, classes={"s0": of})
            except MisuseError as error:
                return error.rule
            result = world.run().result
            return "in" if result is not None and "s0" in result.survivors else "out"

        if (rule := joins(site)) != "model-allowed":
            raise LabError(f"a site that lists its models says {rule!r} to a crafted one")
        return [
            ControlRun(
                overrides=("client.model-allowed",),
                trials=1,
                successes=int(joins(without(site, "model-allowed")) == "in"),
                note="A site that lists its models refuses this one before it computes anything; "
                "without the rule it is in the sum.",
            )
        ]

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


def _matches(found: Evidence, true: Array) -> tuple[int, list[tuple[Array, Array]]]:
    """True records that a claim equals to 1e-3 of the range, with the claims; where none does,
    the nearest for the figure."""
    claims: Array = found.arrays["records"]
    if not len(claims):
        return 0, []
    gaps = np.abs(true[:, None, :] - claims[None, :, :]).max(axis=2)
    best = gaps.argmin(axis=1)
    hits = gaps.min(axis=1) <= 1e-3
    shown = np.flatnonzero(hits) if hits.any() else np.arange(min(8, len(true)))
    return int(hits.sum()), [(true[i], claims[best[i]].clip(0, 1)) for i in shown]


def _told_apart(found: Evidence, true: Array, others: Array) -> Measure:
    """How well the likeness to a claim tells records of the sites from records of nobody."""
    claims: Array = found.arrays["records"]

    def likeness(records: Array) -> Array:
        if not len(claims):
            return np.zeros(len(records))
        best: Array = np.corrcoef(records, claims)[: len(records), len(records) :].max(axis=1)
        return best

    area, error = statistics.auc(likeness(true), likeness(others[: 4 * len(true)]))
    low, high = statistics.interval(area, error)
    return Measure(
        name="AUC of telling the sites' images from others",
        value=area,
        low=max(low, 0.0),
        high=min(high, 1.0),
        bound=private_area(EPSILON, DELTA),
        law="area under the (epsilon, delta) curve",
    )


__all__ = ["ImprintScene"]
