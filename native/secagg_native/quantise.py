"""Quantisation of real vectors to integers in ring lanes, and back."""

import math
import sys
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._checks import LANE_DTYPES, check_array, check_integer, read_only
from .aes_ctr import MAX_POSITION, one

MAX_LIMIT = 1 << 62
# A tile of the keystream is 256 KiB: with its part of input and output it stays in a core's
# second-level cache, and is long enough that calling the kernels costs little beside it.
TILE_VALUES = 1 << 16

_REALS = (np.dtype(np.float32), np.dtype(np.float64))
_INT64 = np.dtype(np.int64)
_FLOAT64 = (np.dtype(np.float64),)
# For each kind of float: all bits but the sign, and infinity. Without its sign, a pattern below
# infinity is finite, and one above it is NaN.
_PATTERNS: dict[np.dtype[Any], tuple[np.unsignedinteger[Any], int]] = {
    np.dtype(np.float32): (np.uint32(0x7FFFFFFF), 0x7F800000),
    np.dtype(np.float64): (np.uint64(0x7FFFFFFFFFFFFFFF), 0x7FF0000000000000),
}


def quantise(
    x: NDArray[np.floating[Any]],
    out: NDArray[np.integer[Any]],
    *,
    scale: float,
    limit: int,
    key: bytes,
    nonce: bytes,
    start: int,
    mode: Literal["stochastic", "nearest"],
) -> None:
    """Write the integers nearest to scale*x into `out`, in two's complement modulo 2^lane.

    `x`: float32 or float64 [n], finite. `out`: uint16, uint32, uint64 or int64 [n], apart from
    `x` in memory. y = float64(x) * scale in levels, clamped to [-limit, limit]; the clamp guards
    against float rounding only, since a clip stage comes before. `limit` is an integer from 1 to
    2^62; where float64 cannot hold it, the clamp is at the largest float64 below it, so that no
    integer ever exceeds `limit`. That limit fits the lane is the caller's concern.

    mode "stochastic": with f = floor(y), y is rounded up exactly when the 32-bit keystream lane
    at position start + i of AES-128-CTR(key, nonce) is below floor((y - f) * 2^32), where y - f
    is computed in float64. The expectation of the result differs from y by less than 2^-32. mode
    "nearest": half to even; `key`, `nonce` and `start` are not used. The same arguments give the
    same integers on every machine, and tiles give what the whole vector gives.

    Raises ValueError for a wrong dtype, shape, layout or argument, and for NaN or infinity in
    `x` ("non-finite"); nothing is then written.
    """
    rounding = Rounding(scale=scale, limit=limit, key=key, nonce=nonce, mode=mode)
    rounding.write(x, out, start if mode == "stochastic" else 0)


class _Scratch(threading.local):
    """A tile of keystream for each thread: new pages at each call would cost half of its time."""

    def __init__(self) -> None:
        self.lanes = np.empty(TILE_VALUES, np.uint32)


_scratch = _Scratch()


class Rounding:
    """A rounding of reals to integers, prepared once and applied to any stretch of a vector.

    The arguments are those of `quantise`, which is the same for one stretch. Raises ValueError
    for an argument that is out of range.
    """

    __slots__ = ("_scale", "_stream", "_top")

    def __init__(
        self,
        *,
        scale: float,
        limit: int,
        key: bytes,
        nonce: bytes,
        mode: Literal["stochastic", "nearest"],
    ) -> None:
        self._scale = _scale(scale)
        self._top = _largest_float(check_integer("limit", limit, 1, MAX_LIMIT))
        if mode not in ("stochastic", "nearest"):
            raise ValueError('mode must be "stochastic" or "nearest"')
        self._stream = one(key, nonce) if mode == "stochastic" else None

    def write(
        self, x: NDArray[np.floating[Any]], out: NDArray[np.integer[Any]], start: int
    ) -> None:
        """Write the integers of `x`, which begins at coordinate `start`, into `out`.

        Arrays and errors are those of `quantise`.
        """
        check_array("x", x, _REALS, 1)
        check_array("out", out, (*LANE_DTYPES, _INT64), 1, writeable=True)
        if len(x) != len(out):
            raise ValueError("x and out must have the same length")
        start = check_integer("start", start, 0, MAX_POSITION - len(x))
        x, out = read_only(x), np.asarray(out)
        if not _is_finite(x):
            raise ValueError("x has non-finite values")

        from .kernels import quantise as kernels

        if self._stream is None:
            kernels.nearest(x, out, self._scale, self._top)
            return
        lanes = _scratch.lanes
        for low in range(0, len(x), TILE_VALUES):
            tile = slice(low, low + TILE_VALUES)
            part = lanes[: len(x) - low]
            self._stream._fill(part, start + low)
            kernels.stochastic(x[tile], part, out[tile], self._scale, self._top)


def dequantise(total: NDArray[np.int64], out: NDArray[np.float64], *, scale: float) -> None:
    """Write float64(total) / scale into `out`: levels back to the units of x.

    `total`: int64 [n]; `out`: float64 [n], apart from `total` in memory or exactly the same
    memory: dequantise(total, total.view(np.float64), scale=scale) needs none of its own, and
    `total` is then overwritten. Integers beyond 2^53 are first rounded to float64.

    Raises ValueError for a wrong dtype, shape or layout, arrays that overlap in any other way, or
    a scale that is not positive; nothing is then written.
    """
    check_array("total", total, (_INT64,), 1)
    check_array("out", out, _FLOAT64, 1, writeable=True)
    if len(total) != len(out):
        raise ValueError("total and out must have the same length")
    scale = _scale(scale)
    if np.may_share_memory(total, out) and _address(total) != _address(out):
        raise ValueError("total and out must be apart in memory, or the same memory")

    from .kernels import quantise as kernels

    kernels.reals(read_only(total), np.asarray(out), scale)


def is_finite(x: NDArray[np.floating[Any]]) -> bool:
    """Tell whether `x` (float32 or float64 [n]) is free of NaN and infinity.

    Raises ValueError for a wrong dtype, shape or layout.
    """
    check_array("x", x, _REALS, 1)
    return _is_finite(read_only(x))


def _is_finite(x: NDArray[np.floating[Any]]) -> bool:
    from .kernels import quantise as kernels

    magnitude, infinity = _PATTERNS[x.dtype]
    return bool(kernels.largest(x.view(magnitude.dtype), magnitude) < infinity)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _scale(scale: float) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.floating | np.integer):
        raise ValueError("scale must be a number")
    # An integer beyond the range of float64 is refused here, before float() would overflow.
    if not 0 < scale <= sys.float_info.max:
        raise ValueError("scale must be finite and positive")
    return float(scale)


def _largest_float(limit: int) -> float:
    """Return the largest float64 that is at most `limit`."""
    top = float(limit)
    return top if int(top) <= limit else math.nextafter(top, 0.0)
