"""Quantisation: reals to integers, in levels per clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from secagg_native.quantise import Rounding, dequantise

from ..errors import PlanError
from ..keys import hkdf
from .base import TILE, Array, Bounds, Encoder, Rand, Totals, tiles

Kind = Literal["stochastic", "nearest", "conditional"]

#: Rounding is repeated until the norm is one that it has with this probability at least, for any
#: vector: 1 - BETA of Kairouz, Liu, Steinke (ICML 2021, section 4).
BETA: Final = math.exp(-0.5)
#: Most attempts; all of them fail with probability at most BETA^64 = 2^-46.
ATTEMPTS: Final = 64
#: Norms of conditional rounding are added up in int64.
_MOST_NORM: Final = 1 << 31


def conditional_square(l2: float, length: int, beta: float = BETA) -> float:
    """Largest squared L2 norm that conditional rounding lets through, in levels.

    ``l2``: norm before rounding, in levels. The smaller of what rounding can do at most and of
    what it exceeds with probability ``beta`` at most, which lies in [0, 1) (Kairouz, Liu, Steinke
    2021, Proposition 22).
    """
    root = math.sqrt(length)
    worst = (l2 + root) ** 2
    if beta == 0:
        return worst
    tail = math.sqrt(2 * math.log(1 / beta)) * (l2 + root / 2)
    return min(worst, l2 * l2 + length / 4 + tail)


@dataclass(frozen=True, slots=True)
class Quantise:
    """Round ``x * levels / clip`` to an integer, ``clip`` being that of the stage before.

    ``rounding`` is ``"stochastic"`` (unbiased, from an AES-CTR stream), ``"nearest"`` (half to
    even; biased by at most half a level, no randomness) or ``"conditional"``: stochastic, drawn
    again until the integer vector's norm is at most that of :func:`conditional_square`, which
    noise is calibrated to. After ATTEMPTS draws it truncates towards zero, which cannot exceed
    it: it never aborts on data. Levels count per clip, so bounds, noise and bits stay the same
    when the clip adapts.
    """

    levels: int
    rounding: Kind = "stochastic"

    def __post_init__(self) -> None:
        levels = self.levels
        if type(levels) is not int or not 1 <= levels <= 1 << 52:
            raise PlanError("from 1 to 2^52 levels", rule="quantise-levels", field="levels")
        if type(self.rounding) is not str or self.rounding not in get_args(Kind):
            raise PlanError(
                'rounding is "stochastic", "nearest" or "conditional"',
                rule="quantise-rounding",
                field="rounding",
            )

    def bounds(self, given: Bounds) -> Bounds:
        """Integer range and sensitivity after rounding.

        Rounding may move every coordinate by one level (half a level to the nearest), which
        adds sqrt(d) to the L2 norm unless it is conditional; an integer vector's L1 norm is at
        most its squared L2 norm (Kairouz, Liu, Steinke, ICML 2021).
        """
        unit, low, high, l1, l2 = given.unit, given.low, given.high, given.l1, given.l2
        if given.integer or unit is None or low is None or high is None or l1 is None or l2 is None:
            raise PlanError(
                "Quantise follows a clip; without one the sum has no bound",
                rule="stage-order",
                field="stages",
            )
        move = 0.5 if self.rounding == "nearest" else 1.0
        d = given.length
        units = max(-low, high) / unit
        # Mostly whole multiples of the unit, whose levels are whole; a rotated vector that was
        # clipped by coordinates is not.
        near = abs(units - round(units)) <= 1e-9 * units
        top = round(units) * self.levels if near else math.ceil(units * self.levels) + 1
        if top > 1 << 52:
            # Beyond it float64 cannot hold a level, and rounding would move more than one.
            raise PlanError(
                f"{self.levels} levels at the largest weight make {top} levels, at most 2^52",
                rule="quantise-levels",
                field="levels",
            )
        before = l2 / unit * self.levels
        if self.rounding == "conditional":
            if before + math.sqrt(d) >= _MOST_NORM:
                raise PlanError(
                    f"{self.levels} levels make a norm of {before:.3g} levels, conditional "
                    "rounding takes less than 2^31",
                    rule="quantise-levels",
                    field="levels",
                )
            after_l2 = math.sqrt(conditional_square(before, d))
        else:
            after_l2 = before + move * math.sqrt(d)
        after_l2 = min(after_l2, top * math.sqrt(d))
        after_l1 = min(after_l2 * min(math.sqrt(d), after_l2), float(top) * d)
        return Bounds(
            length=d,
            low=-top,
            high=top,
            l1=after_l1,
            l2=after_l2,
            unit=unit,
            spread=None if given.spread is None else given.spread / unit * self.levels,
            moved=move,
            integer=True,
        )

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """One seed for the whole vector, so that any tile can be made again."""
        after = self.bounds(given)
        if self.rounding == "conditional":
            return self._conditional(x, rand(), given, after)
        seed = rand() if self.rounding == "stochastic" else None
        return _Rounded(x, self._rounding(seed, given, after))

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Levels back to the units of the vector, float64, in the memory of the levels."""
        levels = np.ascontiguousarray(total, dtype=np.int64)
        out: Array = levels.view(np.float64)
        dequantise(levels, out, scale=self.scale(given))
        return out

    def scale(self, given: Bounds) -> float:
        """Levels per unit of the vector."""
        if given.unit is None:
            raise PlanError("Quantise follows a clip", rule="stage-order", field="stages")
        return self.levels / given.unit

    def _rounding(self, seed: bytes | None, given: Bounds, after: Bounds) -> Rounding:
        material = bytes(24) if seed is None else hkdf(seed, b"secagg stochastic rounding v1", 24)
        return Rounding(
            scale=self.scale(given),
            limit=int(after.high or 0),
            key=material[:16],
            nonce=material[16:],
            mode="nearest" if seed is None else "stochastic",
        )

    def _conditional(self, x: Encoder, seed: bytes, given: Bounds, after: Bounds) -> Encoder:
        most = (after.l2 or 0.0) ** 2
        buffer = np.empty(min(TILE, x.length), dtype=np.int64)
        for attempt in range(ATTEMPTS):
            one = hkdf(seed, b"secagg conditional rounding v1" + bytes([attempt]), 32)
            encoder = _Rounded(x, self._rounding(one, given, after))
            # Integers, so the check is exact, whatever rounding the floats before it saw.
            if _square(encoder, buffer) <= most:
                return encoder
        return _Truncated(x, self.scale(given), after)


def _square(encoder: Encoder, buffer: Array) -> int:
    """Squared L2 norm of an integer vector."""
    total = 0
    for start, stop in tiles(encoder.length):
        part = buffer[: stop - start]
        encoder.tile(part, start)
        total += int(np.dot(part, part))
    return total


class _Source:
    """Reads reals for integers; a subclass turns a stretch of one into the other."""

    __slots__ = ("buffer", "dtype", "length", "source")

    def __init__(self, source: Encoder) -> None:
        self.source = source
        self.length = source.length
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self.buffer = np.empty(min(TILE, source.length), dtype=source.dtype)

    def tile(self, out: Array, start: int) -> None:
        # Whatever is asked for, reals are held for a stretch that stays in the cache.
        for low, high in tiles(out.shape[0]):
            part = self.buffer[: high - low]
            self.source.tile(part, start + low)
            self.write(part, out[low:high], start + low)

    def write(self, reals: Array, out: Array, start: int) -> None:
        raise NotImplementedError


class _Rounded(_Source):
    __slots__ = ("rounding",)

    def __init__(self, source: Encoder, rounding: Rounding) -> None:
        super().__init__(source)
        self.rounding = rounding

    def write(self, reals: Array, out: Array, start: int) -> None:
        self.rounding.write(reals, out, start)


class _Truncated(_Source):
    """Towards zero: no coordinate grows, so neither does the norm."""

    __slots__ = ("limit", "scale")

    def __init__(self, source: Encoder, scale: float, after: Bounds) -> None:
        super().__init__(source)
        # Floats before this stage may exceed the clip by their last digits. A bound of d / 4
        # above the clip's square is far more than that for any plan that rounds conditionally.
        self.scale = scale
        self.limit = after.high or 0.0

    def write(self, reals: Array, out: Array, start: int) -> None:
        levels = np.trunc(reals.astype(np.float64) * self.scale)
        out[:] = np.clip(levels, -self.limit, self.limit).astype(np.int64).astype(out.dtype)
