"""Unchecked arithmetic over GF(2^61 - 1) on C-contiguous uint64 arrays of elements.

Each function makes room for its result and calls a kernel; `field` holds the checked wrappers.
"""

import numpy as np
from numpy.typing import NDArray

Elements = NDArray[np.uint64]

PRIME = (1 << 61) - 1


def add(a: Elements, b: Elements) -> Elements:
    """Return a + b mod p, for arrays of one shape."""
    from .kernels import field

    out = np.empty(a.shape, np.uint64)
    field.add(a.reshape(-1), b.reshape(-1), out.reshape(-1))
    return out


def sub(a: Elements, b: Elements) -> Elements:
    """Return a - b mod p, for arrays of one shape."""
    from .kernels import field

    out = np.empty(a.shape, np.uint64)
    field.sub(a.reshape(-1), b.reshape(-1), out.reshape(-1))
    return out


def mul(a: Elements, b: Elements) -> Elements:
    """Return a * b mod p, for arrays of one shape."""
    from .kernels import field

    out = np.empty(a.shape, np.uint64)
    field.mul(a.reshape(-1), b.reshape(-1), out.reshape(-1))
    return out


def inv(a: Elements) -> Elements:
    """Return 1/a mod p for an array without zeros."""
    from .kernels import field

    out = np.empty(a.shape, np.uint64)
    field.inv(a.reshape(-1), out.reshape(-1))
    return out


def evaluate(coefficients: Elements, points: Elements) -> Elements:
    """Return the values [n, m] of m polynomials [m, t], t >= 1, lowest first, at points [n]."""
    from .kernels import field

    work = np.empty((field.EVALUATE_ROWS, field.TILE), np.uint64)
    out = np.empty((len(points), len(coefficients)), np.uint64)
    field.evaluate(coefficients, points, work, out)
    return out


def matmul(a: Elements, b: Elements) -> Elements:
    """Return the matrix product [r, c] of a [r, k] and b [k, c]."""
    from .kernels import field

    out = np.empty((a.shape[0], b.shape[1]), np.uint64)
    field.matmul(a, b, out)
    return out


def combine(rows: Elements, factors: Elements) -> Elements:
    """Return rows [n, k] times factors [k], as [n]."""
    from .kernels import field

    out = np.empty(len(rows), np.uint64)
    field.combine(rows, factors, out)
    return out


def barycentric(points: Elements) -> Elements:
    """Return 1 / prod_{k != j}(x_j - x_k) for each of the distinct points [n]."""
    from .kernels import field

    out = np.empty(len(points), np.uint64)
    field.derivatives(points, out)
    return inv(out)


def lagrange(points: Elements, weights: Elements, targets: Elements) -> Elements:
    """Return the matrix [r, n] that takes values at the points [n] to values at targets [r].

    It belongs to the polynomials of degree below the number of points whose barycentric weight
    [n], over just these points, is not zero.
    """
    from .kernels import field

    out = np.empty((len(targets), len(points)), np.uint64)
    field.lagrange(points, weights, targets, out)
    return out


def syndromes(points: Elements, terms: Elements, count: int) -> Elements:
    """Return the sums [count] of terms[i] * points[i]^k; the terms [n] are overwritten."""
    from .kernels import field

    out = np.empty(count, np.uint64)
    field.syndromes(points, terms, out)
    return out


def shortest_recurrence(sequence: Elements, limit: int) -> Elements | None:
    """Return [1, c_1, ..., c_L], L least, with s_n + c_1 s_(n-1) + ... + c_L s_(n-L) = 0 mod p.

    None where L exceeds `limit`. Massey, "Shift-register synthesis and BCH decoding", IEEE
    Trans. IT 15, 1969.
    """
    from .kernels import field

    work = np.empty((3, limit + 1), np.uint64)
    length = field.shortest_recurrence(np.ascontiguousarray(sequence[::-1]), work)
    return None if length < 0 else work[0, : length + 1]
