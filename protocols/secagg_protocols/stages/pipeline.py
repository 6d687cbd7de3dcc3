"""A chain of stages with weights and extras, from a site's vector to the ring and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import is_finite

from ..errors import MisuseError, PlanError
from .base import TILE, Array, ArrayEncoder, Bounds, Encoder, Rand, Stage, Totals
from .clip import ClipL2, ClipLinf
from .integers import Integers
from .quantise import Quantise

#: Stages that a plan may hold, by the name they have in its file form.
STAGES: Final[dict[str, type[Any]]] = {
    "ClipL2": ClipL2,
    "ClipLinf": ClipLinf,
    "Integers": Integers,
    "Quantise": Quantise,
}

#: Largest weight that a plan may declare.
MOST_WEIGHT: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Range of the integers of one coordinate of one site."""

    low: int
    high: int


class Pipeline:
    """Stages composed for a length and a largest weight.

    The weight multiplies where reals become integers (or the integers themselves): a site
    clips, multiplies by its weight and rounds once. With ``max_weight`` above 1 the weight
    itself is one more coordinate after the vector, the *extra* ``"weight"``.
    """

    __slots__ = ("_bounds", "_weigh_before", "extras", "length", "max_weight", "stages", "vector")

    def __init__(self, stages: Sequence[Stage], length: int, max_weight: int) -> None:
        self.stages = tuple(stages)
        self.length = length
        self.max_weight = max_weight
        if not self.stages:
            raise PlanError("at least one stage", rule="stage-order", field="stages")
        # Index of the stage before which the weight is applied: the one that rounds, or the
        # end of the chain where the site's numbers are integers from the start.
        self._weigh_before = next(
            (i for i, stage in enumerate(self.stages) if isinstance(stage, Quantise)),
            len(self.stages),
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
        self.extras: dict[str, Span] = {}
        if max_weight > 1:
            self.extras["weight"] = Span(low=0, high=max_weight)

    @property
    def bounds(self) -> Bounds:
        """Bounds of one site's integer vector, extras not counted."""
        return self._bounds[-1]

    @property
    def total_length(self) -> int:
        """Coordinates that travel: the vector and its extras."""
        return self.length + len(self.extras)

    def sum_span(self, clients: int) -> list[tuple[Span, int]]:
        """Range of the sum over up to ``clients`` sites, with the number of coordinates."""
        spans = [(self.vector, self.length)] + [(span, 1) for span in self.extras.values()]
        return [
            (Span(low=min(0, s.low) * clients, high=max(0, s.high) * clients), count)
            for s, count in spans
        ]

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

    def begin(self, x: Array, weight: int, rand: Rand) -> Encoder:
        """Start one checked vector; the encoder gives integers, extras last."""
        source: Encoder = ArrayEncoder(x)
        for index, stage in enumerate(self.stages):
            if index == self._weigh_before:
                source = _weighted(source, weight)
            source = stage.begin(source, rand, self._bounds[index])
        if self._weigh_before == len(self.stages):
            source = _weighted(source, weight)
        return _WithExtras(source, [weight] if self.extras else [])

    def decode(self, total: npt.NDArray[np.int64], count: int) -> tuple[Array, int]:
        """(sum in the vector's units, total weight) from the lifted integer sum.

        ``total`` is handed over: the sum may lie in its memory.
        """
        weight = int(total[self.length]) if self.extras else count
        totals = Totals(
            count=count, weight=weight, extras={"weight": weight} if self.extras else {}
        )
        out: Array = total[: self.length]
        for stage, given in zip(reversed(self.stages), reversed(self._bounds[:-1]), strict=True):
            out = stage.decode(out, totals, given)
        return out, weight


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
        for index in range(inside, out.shape[0]):
            out[index] = self.extras[start + index - self.source.length]


__all__ = ["MOST_WEIGHT", "STAGES", "TILE", "Pipeline", "Span"]
