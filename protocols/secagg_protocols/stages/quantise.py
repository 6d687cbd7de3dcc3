"""Quantisation: reals to integers, in levels per clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from secagg_native.quantise import Rounding, dequantise

from ..errors import PlanError
from ..keys import hkdf
from .base import TILE, Array, Bounds, Encoder, Rand, Totals, tiles


@dataclass(frozen=True, slots=True)
class Quantise:
    """Round ``x * levels / clip`` to an integer, ``clip`` being that of the stage before.

    ``rounding`` is ``"stochastic"`` (unbiased, from an AES-CTR stream) or ``"nearest"`` (half
    to even; biased by at most half a level, no randomness). Levels count per clip, so bounds,
    noise and bits stay the same when the clip adapts.
    """

    levels: int
    rounding: Literal["stochastic", "nearest"] = "stochastic"

    def __post_init__(self) -> None:
        levels = self.levels
        if type(levels) is not int or not 1 <= levels <= 1 << 52:
            raise PlanError("from 1 to 2^52 levels", rule="quantise-levels", field="levels")
        if type(self.rounding) is not str or self.rounding not in {"stochastic", "nearest"}:
            raise PlanError(
                'rounding is "stochastic" or "nearest"', rule="quantise-rounding", field="rounding"
            )

    def bounds(self, given: Bounds) -> Bounds:
        """Integer range and sensitivity after rounding.

        Rounding may move every coordinate by one level (half a level to the nearest), which
        adds sqrt(d) to the L2 norm; an integer vector's L1 norm is at most its squared L2 norm
        (Kairouz, Liu, Steinke, ICML 2021).
        """
        unit, low, high, l1, l2 = given.unit, given.low, given.high, given.l1, given.l2
        if given.integer or unit is None or low is None or high is None or l1 is None or l2 is None:
            raise PlanError(
                "Quantise follows a clip; without one the sum has no bound",
                rule="stage-order",
                field="stages",
            )
        scale = self.levels / unit
        move = 1.0 if self.rounding == "stochastic" else 0.5
        d = given.length
        # ``low`` and ``high`` are whole multiples of the unit, so these are whole levels.
        top = round(max(-low, high) / unit) * self.levels
        if top > 1 << 52:
            # Beyond it float64 cannot hold a level, and rounding would move more than one.
            raise PlanError(
                f"{self.levels} levels at the largest weight make {top} levels, at most 2^52",
                rule="quantise-levels",
                field="levels",
            )
        after_l2 = min(l2 * scale + move * math.sqrt(d), top * math.sqrt(d))
        after_l1 = min(after_l2 * min(math.sqrt(d), after_l2), float(top) * d)
        return Bounds(
            length=d, low=-top, high=top, l1=after_l1, l2=after_l2, unit=unit, integer=True
        )

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """One seed for the whole vector, so that any tile can be made again."""
        after = self.bounds(given)
        key = nonce = b""
        if self.rounding == "stochastic":
            material = hkdf(rand(), b"secagg stochastic rounding v1", 24)
            key, nonce = material[:16], material[16:]
        rounding = Rounding(
            scale=self._scale(given),
            limit=int(after.high or 0),
            key=key,
            nonce=nonce,
            mode=self.rounding,
        )
        return _Rounded(x, rounding)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Levels back to the units of the vector, float64, in the memory of the levels."""
        levels = np.ascontiguousarray(total, dtype=np.int64)
        out: Array = levels.view(np.float64)
        dequantise(levels, out, scale=self._scale(given))
        return out

    def _scale(self, given: Bounds) -> float:
        if given.unit is None:
            raise PlanError("Quantise follows a clip", rule="stage-order", field="stages")
        return self.levels / given.unit


class _Rounded:
    __slots__ = ("buffer", "dtype", "length", "rounding", "source")

    def __init__(self, source: Encoder, rounding: Rounding) -> None:
        self.source = source
        self.rounding = rounding
        self.length = source.length
        self.dtype = np.dtype(np.int64)
        self.buffer = np.empty(min(TILE, source.length), dtype=source.dtype)

    def tile(self, out: Array, start: int) -> None:
        # Whatever is asked for, reals are held for a stretch that stays in the cache.
        for low, high in tiles(out.shape[0]):
            part = self.buffer[: high - low]
            self.source.tile(part, start + low)
            self.rounding.write(part, out[low:high], start + low)
