"""A chain of stages with weights and extras, from a site's vector to the ring and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import is_finite

from ..errors import MisuseError, PlanError
from .adaptive import WITHIN, AdaptiveClip
from .base import TILE, Array, ArrayEncoder, Bounds, Encoder, Rand, Stage, Totals
from .clip import ClipL2, ClipLinf, Clipped
from .integers import Integers
from .noise import Noise
from .quantise import Quantise
from .rotate import Rotate

#: Stages that a plan may hold, by the name they have in its file form.
STAGES: Final[dict[str, type[Any]]] = {
    "AdaptiveClip": AdaptiveClip,
    "ClipL2": ClipL2,
    "ClipLinf": ClipLinf,
    "Integers": Integers,
    "Noise": Noise,
    "Quantise": Quantise,
    "Rotate": Rotate,
}

#: Largest weight that a plan may declare.
MOST_WEIGHT: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Range of the integers of one coordinate of one site."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the integers of a sum stand for.

    sum: array of the vector's length, in its units. weight: total weight; a float where it is
    noisy. extras: the other extras' sums in their own units. noise_variance: of each coordinate
    of ``sum``, in units squared.
    """

    sum: Array
    weight: float
    extras: Mapping[str, float]
    noise_variance: float


class Pipeline:
    """Stages composed for a length and a largest weight.

    The weight multiplies where reals become integers (or the integers themselves): a site
    clips, multiplies by its weight and rounds once. Named coordinates after the vector are
    *extras*: with ``max_weight`` above 1 the ``"weight"``, with an adaptive clip the bit
    ``"within"``. Noise is the last stage and covers them too; each unit of an extra is then
    worth ``extra_levels`` levels.
    """

    __slots__ = (
        "_bounds",
        "_needed",
        "_weigh_before",
        "adaptive",
        "extras",
        "length",
        "max_weight",
        "noise",
        "stages",
        "vector",
    )

    def __init__(self, stages: Sequence[Stage], length: int, max_weight: int) -> None:
        self.stages = tuple(stages)
        self.length = length
        self.max_weight = max_weight
        self._needed: dict[int, int] = {}  # bits by number of clients
        if not self.stages:
            raise PlanError("at least one stage", rule="stage-order", field="stages")
        last = self.stages[-1]
        self.noise = last if isinstance(last, Noise) else None
        if any(isinstance(stage, Noise) for stage in self.stages[:-1]):
            raise PlanError("Noise is the last stage", rule="stage-order", field="stages")
        if sum(isinstance(stage, Rotate) for stage in self.stages) > 1:
            raise PlanError("a vector is rotated once", rule="stage-order", field="stages")
        clips = [s for s in self.stages if isinstance(s, (AdaptiveClip, ClipL2, ClipLinf))]
        adaptive = [stage for stage in clips if isinstance(stage, AdaptiveClip)]
        if adaptive and len(clips) > 1:
            # A second clip would be another number of levels in each round, and with it the norm
            # that noise was calibrated to.
            raise PlanError(
                "a clip that adapts is the only clip", rule="stage-order", field="stages"
            )
        self.adaptive = adaptive[0] if adaptive else None
        # Index of the stage before which the weight is applied: the one that rounds, or the
        # end of the chain where the site's numbers are integers from the start.
        self._weigh_before = next(
            (i for i, stage in enumerate(self.stages) if isinstance(stage, Quantise)),
            len(self.stages) - (self.noise is not None),
        )
        given = Bounds(length=length)
        self._bounds: list[Bounds] = []
        for index, stage in enumerate(self.stages):
            if index == self._weigh_before:
                given = given.weighted(max_weight)
            self._bounds.append(given)
            given = stage.bounds(given)
        if self._weigh_before == len(self.stages):
            given = given.weighted(max_weight)
        if not given.integer or given.low is None or given.high is None:
            raise PlanError(
                "the last stage gives real numbers; a ring takes integers (add Quantise)",
                rule="stage-order",
                field="stages",
            )
        self._bounds.append(given)
        self.vector = Span(low=int(given.low), high=int(given.high))
        unit = self._extra_levels
        self.extras: dict[str, Span] = {}
        if max_weight > 1:
            self.extras["weight"] = Span(low=0, high=max_weight * unit)
        if self.adaptive is not None:
            # As heavy as a site may be, so that it stands in one proportion to the vector.
            self.extras[WITHIN] = Span(low=0, high=max_weight * unit)

    def at(self, context: bytes, parameters: bytes) -> Pipeline:
        """The pipeline of one round: its rotation follows from the context, its clip from the
        parameters. :class:`MisuseError` (``round-parameters``) for parameters that state none."""
        stages = tuple(
            stage.at(context, parameters) if isinstance(stage, (AdaptiveClip, Rotate)) else stage
            for stage in self.stages
        )
        return self if stages == self.stages else _InRound(self, stages)

    @property
    def _extra_levels(self) -> int:
        return 1 if self.noise is None else self.noise.extra_levels

    @property
    def bounds(self) -> Bounds:
        """Bounds of one site's integer vector, extras and noise not counted."""
        return self._bounds[-1]

    @property
    def sensitivity(self) -> tuple[float, float]:
        """(L1, L2) norm that one site's integers may have, extras included, noise not counted:
        what leaving the site out changes at most, in levels."""
        bounds = self.bounds
        if bounds.l1 is None or bounds.l2 is None:
            raise PlanError("a stage gives no norm", rule="stage-order", field="stages")
        beside = [max(-span.low, span.high) for span in self.extras.values()]
        return bounds.l1 + sum(beside), math.hypot(bounds.l2, *beside)

    @property
    def total_length(self) -> int:
        """Coordinates that travel: the vector, padded where it is rotated, and its extras."""
        return self.bounds.length + len(self.extras)

    def noise_variance(self, sites: int) -> float:
        """Variance of the noise in each coordinate of a sum over ``sites``, in units squared."""
        if self.noise is None:
            return 0.0
        scale = 1.0
        for stage, given in zip(self.stages, self._bounds, strict=False):
            if isinstance(stage, Quantise):
                scale = stage.scale(given)
        return self.noise.variance(sites) / scale**2

    def sum_span(self, clients: int) -> list[tuple[Span, int]]:
        """Range of the sum over up to ``clients`` sites, with the number of coordinates.

        With noise the range is one that the sum leaves with probability ``2^-wrap_bits`` at
        most, over noise and rotation; without, it cannot leave it.
        """
        spans = [(self.vector, self.bounds.length)] + [(span, 1) for span in self.extras.values()]
        whole = [
            (Span(low=min(0, s.low) * clients, high=max(0, s.high) * clients), count)
            for s, count in spans
        ]
        noise = self.noise
        if noise is None:
            return whole
        total = self.total_length
        tail = noise.radius(clients, 0.0, total)
        wider = [(Span(low=span.low - tail, high=span.high + tail), count) for span, count in whole]
        spread = self.bounds.spread
        if spread is not None:
            # What rounding moved is not random enough to count on; it is small.
            moved = math.ceil(self.bounds.moved * clients)
            half = noise.radius(clients, spread * clients, total) + moved
            if half < wider[0][0].high:
                wider[0] = (Span(low=-half, high=half), self.bounds.length)
        return wider

    def bits_needed(self, clients: int) -> int:
        """Fewest bits a coordinate that hold the range of :meth:`sum_span`."""
        need = self._needed.get(clients)
        if need is None:
            spans = [span for span, _ in self.sum_span(clients)]
            need = max(max(1, (span.high - span.low).bit_length()) for span in spans)
            if any(-span.low > 1 << 63 or span.high >= 1 << 63 for span in spans):
                # The lifted sum is an int64; beyond it is beyond 64 bits for this purpose.
                need = max(65, need)
            self._needed[clients] = need
        return need

    def check_input(self, x: object, weight: object) -> tuple[Array, int]:
        """The vector and weight as they may enter; :class:`MisuseError` otherwise.

        The vector is ``x`` itself, or a copy where its memory has gaps.
        """
        # Not a subclass: a masked array would hide what is under its mask from the checks.
        if type(x) is not np.ndarray:
            raise MisuseError(
                f"the vector is a {type(x).__name__}, a numpy array is needed", rule="input-dtype"
            )
        if x.shape != (self.length,):
            raise MisuseError(
                f"the vector has shape {x.shape}, the plan says ({self.length},)",
                rule="input-shape",
            )
        integer = self._bounds[0].integer or isinstance(self.stages[0], Integers)
        if integer and x.dtype.kind not in "iu":
            raise MisuseError(
                f"this plan sums integers, the vector is {x.dtype}", rule="input-dtype"
            )
        if not integer and x.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise MisuseError(
                f"this plan sums float32 or float64, the vector is {x.dtype}", rule="input-dtype"
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, np.integer)):
            raise MisuseError("a weight is an integer", rule="input-weight")
        lowest = 0 if self.max_weight > 1 else 1
        if not lowest <= weight <= self.max_weight:
            raise MisuseError(
                f"the weight lies outside [{lowest}, {self.max_weight}]", rule="input-weight"
            )
        # The kernels read contiguous, aligned memory; the caller's own array mostly is.
        array = x if x.flags.c_contiguous and x.flags.aligned else x.copy()
        if array.dtype.kind == "f" and not is_finite(array):
            raise MisuseError("the vector has NaN or infinity", rule="input-finite")
        return array, int(weight)

    def check_range(self, x: Array) -> None:
        """What the first stage refuses, without doing the others' work."""
        if isinstance(self.stages[0], Integers):
            self.stages[0].begin(ArrayEncoder(x), lambda: bytes(32), self._bounds[0])

    def begin(self, x: Array, weight: int, rand: Rand) -> Encoder:
        """Start one checked vector; the encoder gives integers, extras last."""
        source: Encoder = ArrayEncoder(x)
        within = True
        for index, stage in enumerate(self.stages):
            if index == self._weigh_before:
                source = _weighted(source, weight)
            if stage is self.noise:
                source = self._with_extras(source, weight, within)
            source = stage.begin(source, rand, self._bounds[index])
            if isinstance(source, Clipped):
                within = source.within
        if self._weigh_before == len(self.stages):
            source = _weighted(source, weight)
        return source if self.noise is not None else self._with_extras(source, weight, within)

    def _with_extras(self, source: Encoder, weight: int, within: bool) -> Encoder:
        values = {"weight": weight, WITHIN: 0 if within else self.max_weight}
        extras = [values[name] * self._extra_levels for name in self.extras]
        return _WithExtras(source, extras)

    def decode(self, total: npt.NDArray[np.int64], count: int) -> Decoded:
        """What the lifted integer sum over ``count`` sites stands for.

        ``total`` is handed over: the sum may lie in its memory.
        """
        end = self.bounds.length
        unit = self._extra_levels
        noisy = self.noise is not None
        extras = {
            name: int(total[end + i]) / unit if noisy else int(total[end + i])
            for i, name in enumerate(self.extras)
        }
        weight = extras.get("weight", count)
        totals = Totals(count=count, weight=weight, extras=extras)
        out: Array = total[:end]
        for stage, given in zip(reversed(self.stages), reversed(self._bounds[:-1]), strict=True):
            out = stage.decode(out, totals, given)
        if WITHIN in extras:
            # Sites add up those that were beyond the clip.
            extras[WITHIN] = count - extras[WITHIN] / self.max_weight
        variance = self.noise_variance(count)
        return Decoded(sum=out, weight=weight, extras=extras, noise_variance=variance)


class _InRound(Pipeline):
    """A pipeline whose stages were settled for one round: the integers keep their bounds."""

    __slots__ = ()

    def __init__(self, plan: Pipeline, stages: Sequence[Stage]) -> None:
        super().__init__(stages, plan.length, plan.max_weight)
        # A level is the same part of any clip. Spans of the plan's own stages are the ones that
        # were agreed on; the last digits of these may differ.
        self.vector, self.extras, self.adaptive = plan.vector, plan.extras, plan.adaptive


def _weighted(source: Encoder, weight: int) -> Encoder:
    return source if weight == 1 else _Weighted(source, weight)


class _Weighted:
    __slots__ = ("dtype", "length", "source", "weight")

    def __init__(self, source: Encoder, weight: int) -> None:
        self.source = source
        self.weight = weight
        self.length = source.length
        real = source.dtype.kind == "f"
        self.dtype = np.dtype(np.float64) if real else np.dtype(np.int64)

    def tile(self, out: Array, start: int) -> None:
        self.source.tile(out, start)
        if out.dtype.kind == "u":
            # Modulo 2^lane, where a weight may be reduced as well.
            out *= out.dtype.type(self.weight & int(np.iinfo(out.dtype).max))
        else:
            out *= out.dtype.type(self.weight)


class _WithExtras:
    __slots__ = ("dtype", "extras", "length", "source")

    def __init__(self, source: Encoder, extras: list[int]) -> None:
        self.source = source
        self.extras = extras
        self.length = source.length + len(extras)
        self.dtype = np.dtype(np.int64)

    def tile(self, out: Array, start: int) -> None:
        inside = min(out.shape[0], max(0, self.source.length - start))
        if inside:
            self.source.tile(out[:inside], start)
        most = int(np.iinfo(out.dtype).max)
        for index in range(inside, out.shape[0]):
            value = self.extras[start + index - self.source.length]
            out[index] = value & most if out.dtype.kind == "u" else value


__all__ = ["MOST_WEIGHT", "STAGES", "TILE", "Decoded", "Pipeline", "Span"]
