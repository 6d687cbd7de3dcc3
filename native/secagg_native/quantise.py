"""Quantisation of real vectors to integers in ring lanes, and back."""

import math
import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._checks import LANE_DTYPES, check_array, check_integer
from .aes_ctr import MAX_POSITION, add_keystreams, key_row

MAX_LIMIT = 1 << 62
TILE_VALUES = 1 << 14

_REALS = (np.dtype(np.float32), np.dtype(np.float64))
_INT64 = np.dtype(np.int64)
_FLOAT64 = (np.dtype(np.float64),)


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
    check_array("x", x, _REALS, 1)
    check_array("out", out, (*LANE_DTYPES, _INT64), 1, writeable=True)
    if len(x) != len(out):
        raise ValueError("x and out must have the same length")
    scale = _scale(scale)
    limit = check_integer("limit", limit, 1, MAX_LIMIT)
    if mode == "stochastic":
        keys, nonces = key_row(key, nonce)
        start = check_integer("start", start, 0, MAX_POSITION - len(x))
    elif mode != "nearest":
        raise ValueError('mode must be "stochastic" or "nearest"')
    if not is_finite(x):
        raise ValueError("x has non-finite values")

    top = _largest_float(limit)
    plus = np.ones(1, np.int8)
    y = np.empty(min(len(x), TILE_VALUES), np.float64)
    lanes = np.empty(len(y), np.uint32)
    for low in range(0, len(x), TILE_VALUES):
        tile = x[low : low + TILE_VALUES]
        n = len(tile)
        # A product beyond the largest float64 becomes infinite and is clamped like any other.
        with np.errstate(over="ignore", under="ignore"):
            np.multiply(tile, np.float64(scale), out=y[:n], dtype=np.float64)
        np.clip(y[:n], -top, top, out=y[:n])
        if mode == "nearest":
            q = np.rint(y[:n]).astype(np.int64)
        else:
            floor = np.floor(y[:n])
            # The threshold is at most 2^32: y - floor rounds to 1 for a tiny negative y.
            threshold = ((y[:n] - floor) * 4294967296.0).astype(np.int64)
            lanes[:n] = 0
            add_keystreams(lanes[:n], keys, nonces, plus, start + low)
            q = floor.astype(np.int64)
            q += lanes[:n] < threshold
        np.copyto(out[low : low + n], q, casting="unsafe")


def dequantise(total: NDArray[np.int64], out: NDArray[np.float64], *, scale: float) -> None:
    """Write float64(total) / scale into `out`: levels back to the units of x.

    `total`: int64 [n]; `out`: float64 [n]. Integers beyond 2^53 are first rounded to float64.
    Raises ValueError for a wrong dtype, shape or layout, or a scale that is not positive.
    """
    check_array("total", total, (_INT64,), 1)
    check_array("out", out, _FLOAT64, 1, writeable=True)
    if len(total) != len(out):
        raise ValueError("total and out must have the same length")
    with np.errstate(over="ignore", under="ignore"):
        np.divide(total, _scale(scale), out=out)


def is_finite(x: NDArray[np.floating[Any]]) -> bool:
    """Tell whether `x` (float32 or float64 [n]) is free of NaN and infinity.

    Raises ValueError for a wrong dtype, shape or layout.
    """
    check_array("x", x, _REALS, 1)
    return all(
        bool(np.isfinite(x[low : low + TILE_VALUES]).all()) for low in range(0, len(x), TILE_VALUES)
    )


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
