"""Rounding of reals to levels, the way back, and the search for values that are not finite.

No fused multiply-add may appear where the source has a product and a sum, or machines would
disagree: numba leaves floating point exact unless it is told otherwise, and a test holds these
bodies to exact fractions.
"""

from typing import Any

import numpy as np

from ._jit import kernel


@kernel
def stochastic(x: Any, lanes: Any, out: Any, scale: float, top: float) -> None:
    """Write the levels of float [n] into integers [n], rounded by uint32 lanes [n].

    A level is floor(y) + (lane < floor((y - floor(y)) * 2^32)) with y = x*scale, clamped to
    [-top, top]; top is at most 2^62, so that each conversion fits 64 bits.
    """
    for i in range(len(out)):
        y = min(max(np.float64(x[i]) * scale, -top), top)
        below = np.floor(y)
        # For integers, lane < floor(t) is lane + 1 <= t, and float64 holds lane + 1 exactly.
        up = np.float64(lanes[i]) + 1.0 <= (y - below) * 4294967296.0
        out[i] = np.int64(below) + np.int64(up)


@kernel
def nearest(x: Any, out: Any, scale: float, top: float) -> None:
    """Write the integers nearest to x*scale, clamped to [-top, top]; half goes to even."""
    for i in range(len(out)):
        out[i] = np.int64(np.rint(min(max(np.float64(x[i]) * scale, -top), top)))


@kernel
def reals(total: Any, out: Any, scale: float) -> None:
    """Write int64 [n] / scale into float64 [n], which may be the same memory."""
    for i in range(len(out)):
        out[i] = np.float64(total[i]) / scale


@kernel
def largest(words: Any, magnitude: Any) -> Any:
    """Return the largest word & magnitude of words [n], or 0 for none.

    `words`: bit patterns of floats; `magnitude`: all bits but the sign, in the same dtype. Their
    order is then that of the absolute values, with infinity and NaN above all others.
    """
    top = magnitude & ~magnitude
    for i in range(len(words)):
        top = max(top, words[i] & magnitude)
    return top
