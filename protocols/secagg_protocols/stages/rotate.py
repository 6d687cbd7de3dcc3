"""Rotation: spreads a vector over all coordinates, so that few bits hold what its norm allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from secagg_native.hadamard import padded_size, rotate, unrotate

from ..errors import PlanError
from ..keys import digest_of
from .base import Array, Bounds, Encoder, Rand, Stage, Totals, tiles
from .clip import check_real

_NO_CONTEXT: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Rotate:
    """Randomised Walsh-Hadamard rotation; pads with zeros to a power of two.

    The signs are public and follow from the round's context, so that every site and the server
    have the same. Each coordinate of the rotated vector is sub-Gaussian with parameter
    ``l2 / sqrt(d')`` over the signs (Hoeffding's inequality), which is what a plan with noise
    counts on for its bits. Source: Suresh, Yu, Kumar, McMahan, ICML 2017, section 3; Kairouz,
    Liu, Steinke, ICML 2021, section 4.
    """

    def bounds(self, given: Bounds) -> Bounds:
        """The L2 norm stays; a single coordinate may hold all of it."""
        check_real(given, "Rotate")
        if given.unit is None or given.l2 is None:
            raise PlanError("Rotate follows a clip", rule="stage-order", field="stages")
        if given.spread is not None:
            raise PlanError("a vector is rotated once", rule="stage-order", field="stages")
        d = padded_size(given.length)
        return Bounds(
            length=d,
            low=-given.l2,
            high=given.l2,
            l1=given.l2 * math.sqrt(d),
            l2=given.l2,
            unit=given.unit,
            spread=given.l2 / math.sqrt(d),
        )

    def at(self, context: bytes, parameters: bytes) -> Stage:
        """The rotation of one round."""
        return _Rotation(digest_of(b"secagg rotation v1", context))

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Outside a round the signs are those of a context of zeros."""
        return self.at(_NO_CONTEXT, b"").begin(x, rand, given)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Inverse of :meth:`begin`."""
        return self.at(_NO_CONTEXT, b"").decode(total, totals, given)


@dataclass(frozen=True, slots=True)
class _Rotation(Rotate):
    """With the signs of one round: a key and a nonce of an AES-CTR keystream."""

    material: bytes

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """The one whole-vector copy of a pipeline, float64, rotated in place."""
        whole = np.zeros(padded_size(x.length), dtype=np.float64)
        for start, stop in tiles(x.length):
            x.tile(whole[start:stop], start)
        rotate(whole, self.material[:16], self.material[16:24])
        return _Whole(whole)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Rotate back, in the memory of the sum, and leave the padding out."""
        unrotate(total, self.material[:16], self.material[16:24])
        return total[: given.length]


class _Whole:
    __slots__ = ("array", "dtype", "length")

    def __init__(self, array: Array) -> None:
        self.array = array
        self.length = int(array.shape[0])
        self.dtype: np.dtype[Any] = array.dtype

    def tile(self, out: Array, start: int) -> None:
        out[:] = self.array[start : start + out.shape[0]]
