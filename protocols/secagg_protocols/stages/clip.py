"""Clipping: the bound on one site's contribution (per coordinate, or of the norm)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import PlanError
from .base import TILE, Array, Bounds, Encoder, Rand, Totals, tiles

_LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)


def check_clip(clip: float) -> float:
    """``clip`` as a float; :class:`PlanError` unless it is a positive finite number."""
    if isinstance(clip, bool) or not isinstance(clip, (int, float)):
        raise PlanError("a clip is a number", rule="clip-range", field="clip")
    try:
        value = float(clip)
    except OverflowError:
        value = math.inf
    # Within these bounds levels per unit, norms and weights stay far from over- and underflow.
    if not 1e-100 <= value <= 1e100:
        raise PlanError("a clip lies in 1e-100..1e100", rule="clip-range", field="clip")
    return value


def check_real(given: Bounds, stage: str) -> None:
    if given.integer:
        raise PlanError(
            f"{stage} takes real numbers; it cannot follow an integer stage",
            rule="stage-order",
            field="stages",
        )


@dataclass(frozen=True, slots=True)
class ClipLinf:
    """Limit every coordinate to [-clip, clip]. Units: those of the vector."""

    clip: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", check_clip(self.clip))

    def bounds(self, given: Bounds) -> Bounds:
        """Range [-clip, clip]; norms follow from the length."""
        check_real(given, "ClipLinf")
        clip, d = self.clip, given.length
        l1, l2 = clip * d, clip * math.sqrt(d)
        return Bounds(
            length=d,
            low=-clip,
            high=clip,
            l1=l1 if given.l1 is None else min(l1, given.l1),
            l2=l2 if given.l2 is None else min(l2, given.l2),
            unit=clip,
        )

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Nothing to compute over the whole vector."""
        return _Limited(x, self.clip)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Clipping is not undone."""
        return total


class _Limited:
    __slots__ = ("clip", "dtype", "length", "source")

    def __init__(self, source: Encoder, clip: float) -> None:
        self.source = source
        self.clip = clip
        self.length = source.length
        # Limits that float32 holds exactly give the same values in half the memory.
        exact = clip <= _LARGEST_FLOAT32 and float(np.float32(clip)) == clip
        self.dtype = source.dtype if exact else np.dtype(np.float64)

    def tile(self, out: Array, start: int) -> None:
        self.source.tile(out, start)
        out.clip(-self.clip, self.clip, out=out)


@dataclass(frozen=True, slots=True)
class ClipL2:
    """Scale the vector down to an L2 norm of at most ``clip``. Units: those of the vector."""

    clip: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", check_clip(self.clip))

    def bounds(self, given: Bounds) -> Bounds:
        """L2 norm at most clip, hence each coordinate too."""
        check_real(given, "ClipL2")
        clip = self.clip
        l1 = clip * math.sqrt(given.length)
        return Bounds(
            length=given.length,
            low=-clip,
            high=clip,
            l1=l1 if given.l1 is None else min(l1, given.l1),
            l2=clip if given.l2 is None else min(clip, given.l2),
            unit=clip,
        )

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """One pass for the norm, scaled by the largest coordinate so that it cannot overflow."""
        buffer = np.empty(min(TILE, x.length), dtype=np.float64)
        largest = 0.0
        for start, stop in tiles(x.length):
            part = buffer[: stop - start]
            x.tile(part, start)
            largest = max(largest, float(part.max()), -float(part.min()))
        if largest == 0.0:
            return Clipped(x, 1.0, 1.0)
        squares = 0.0
        for start, stop in tiles(x.length):
            part = buffer[: stop - start]
            x.tile(part, start)
            part /= largest
            # Not np.dot: a BLAS may split it over threads, which wait for one another on a busy
            # machine, and its last bit may depend on how many there were.
            squares += float(np.einsum("i,i->", part, part))
        root = math.sqrt(squares)
        if largest <= self.clip / root:
            return Clipped(x, 1.0, 1.0)
        return Clipped(x, largest, self.clip / root)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Clipping is not undone."""
        return total


class Clipped:
    """``x / divisor * factor``: two steps, because their quotient may underflow."""

    __slots__ = ("divisor", "dtype", "factor", "length", "source")

    def __init__(self, source: Encoder, divisor: float, factor: float) -> None:
        self.source = source
        self.divisor = divisor
        self.factor = factor
        self.length = source.length
        self.dtype = np.dtype(np.float64)

    @property
    def within(self) -> bool:
        """Whether the vector was within the clip as it came."""
        return self.divisor == 1.0 and self.factor == 1.0

    def tile(self, out: Array, start: int) -> None:
        self.source.tile(out, start)
        if self.divisor != 1.0:
            out /= self.divisor
        if self.factor != 1.0:
            out *= self.factor
