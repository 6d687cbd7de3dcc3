"""Arithmetic, Shamir's sharing and robust recovery over GF(p), p = 2^61 - 1.

Elements are uint64 below p. Arithmetic has a constant shape: no branch and no index depends on
the value of an element. Decoding around wrong shares is the exception; it runs at the server, on
shares that were revealed to it. Sources: Shamir, "How to share a secret" (CACM 22, 1979);
McEliece and Sarwate, "On sharing secrets and Reed-Solomon codes" (CACM 24, 1981).
"""

import numpy as np
from numpy.typing import NDArray

from . import _gf61 as gf
from . import _reed_solomon
from ._checks import check_array, check_integer
from ._gf61 import PRIME, Elements

_UINT64 = (np.dtype(np.uint64),)
_P = np.uint64(PRIME)
# Rows of shares are computed in tiles of about this many elements, which stay in the cache.
_TILE = 1 << 13


class DecodingError(ValueError):
    """More shares are wrong than the redundancy can decode around.

    `columns` holds the indices of the columns concerned; nothing else about the shares is kept.
    """

    def __init__(self, columns: tuple[int, ...]) -> None:
        super().__init__(f"too many wrong shares in {len(columns)} column(s)")
        self.columns = columns

    def __reduce__(self) -> tuple[type["DecodingError"], tuple[tuple[int, ...]]]:
        """Let the error cross a process boundary with its columns."""
        return type(self), (self.columns,)


def add(a: Elements, b: Elements) -> Elements:
    """Return a + b mod p, elementwise with broadcasting. Raises ValueError for elements >= p."""
    _operands(a, b)
    return gf.add(a, b)


def sub(a: Elements, b: Elements) -> Elements:
    """Return a - b mod p, elementwise with broadcasting. Raises ValueError for elements >= p."""
    _operands(a, b)
    return gf.sub(a, b)


def mul(a: Elements, b: Elements) -> Elements:
    """Return a * b mod p, elementwise with broadcasting. Raises ValueError for elements >= p."""
    _operands(a, b)
    return gf.mul(a, b)


def inv(a: Elements) -> Elements:
    """Return 1/a mod p, elementwise. Raises ValueError for elements >= p and for zero."""
    _operands(a)
    if not np.all(a):
        raise ValueError("zero has no inverse")
    return gf.inv(a.reshape(-1)).reshape(a.shape)


def reduce_uniform(words: NDArray[np.uint64]) -> Elements:
    """Turn uniform 64-bit words [k] into uniform field elements, at most k of them, in order.

    Each word gives its low 61 bits, and a word that gives p is dropped (chance 2^-61), so the
    elements are exactly uniform. Raises ValueError for a wrong dtype, shape or layout.
    """
    check_array("words", words, _UINT64, 1)
    low = words & _P
    accepted: Elements = low[low != _P]
    return accepted


def split(coefficients: Elements, points: Elements) -> Elements:
    """Evaluate m polynomials at n points: the Shamir shares of m secrets for n holders.

    `coefficients`: uint64 [m, t], coefficient 0 being the secret and the others uniform (t is the
    threshold); `points`: uint64 [n], distinct and non-zero. Returns shares uint64 [n, m].
    Raises ValueError for a wrong dtype, shape or layout, t = 0, elements >= p, or points that are
    zero or repeated.
    """
    _elements("coefficients", coefficients, 2)
    _points(points)
    m, t = coefficients.shape
    if t == 0:
        raise ValueError("coefficients must have at least one column")
    columns = np.ascontiguousarray(coefficients.T)
    shares = np.empty((len(points), m), np.uint64)
    step = max(1, _TILE // max(1, m))
    for low in range(0, len(points), step):
        x = points[low : low + step, None]
        value = np.broadcast_to(columns[t - 1], (len(x), m))
        for j in range(t - 2, -1, -1):
            value = gf.mul_add(value, x, columns[j])
        shares[low : low + step] = value
    return shares


def lagrange(points: Elements, at: int = 0) -> Elements:
    """Return the weights uint64 [t] with f(at) = sum of weight * f(point), for degree f < t.

    `points`: uint64 [t], distinct and non-zero; 0 <= at < p. Raises ValueError otherwise.
    """
    _points(points)
    place = np.full(1, check_integer("at", at, 0, PRIME - 1), np.uint64)
    if len(points) == 0:
        return np.zeros(0, np.uint64)
    # Row k of column j is at - x_k, and 1 where k = j, so that `at` may be one of the points.
    factors = np.repeat(gf.sub(place, points)[:, None], len(points), axis=1)
    np.fill_diagonal(factors, 1)
    return gf.mul(gf.product(factors), _reed_solomon.barycentric(points))


def interpolate(points: Elements, shares: Elements) -> Elements:
    """Return the secrets uint64 [m] of the shares uint64 [t, m] at `points` uint64 [t].

    All t shares are trusted: `recover` is the function that detects wrong ones. Raises ValueError
    for a wrong dtype, shape or layout, t = 0, elements >= p, or points zero or repeated.
    """
    _shares(points, shares)
    if len(points) == 0:
        raise ValueError("interpolation needs at least one share")
    secrets: Elements = gf.matmul(lagrange(points)[None, :], shares)[0]
    return secrets


def recover_columns(
    points: Elements, shares: Elements, threshold: int
) -> tuple[Elements, NDArray[np.bool_]]:
    """Recover m secrets from n >= threshold shares each, around wrong shares, column by column.

    `points`: uint64 [n], distinct and non-zero; `shares`: uint64 [n, m]. In each column up to
    floor((n - threshold)/2) shares may be wrong. Returns (secret uint64 [m], wrong bool [n, m]),
    wrong[i, j] telling that share i of column j is not on the decoded polynomial. With more wrong
    shares than that, a column fails or, if they were chosen to lie within that distance of
    another polynomial, decodes to the other one: a commitment to the secret has to tell.

    Raises DecodingError, with the failing indices in `.columns`, when a column does not decode;
    ValueError for a wrong dtype, shape or layout, n < threshold, elements >= p, or points zero or
    repeated.
    """
    _shares(points, shares)
    threshold = check_integer("threshold", threshold, 1, PRIME)
    if len(points) < threshold:
        raise ValueError("there are fewer shares than the threshold")
    secret, wrong, failed = _reed_solomon.decode(points, shares, threshold)
    if failed:
        raise DecodingError(failed)
    return secret, wrong


def recover(
    points: Elements, shares: Elements, threshold: int
) -> tuple[Elements, NDArray[np.bool_]]:
    """Recover the m secrets (limbs) of one dealer from n >= threshold holders.

    As `recover_columns`, but row i of `shares` comes from one holder, who is wrong if any of its
    columns is: returns (secret uint64 [m], wrong bool [n]) with at most
    floor((n - threshold)/2) wrong holders over all columns.

    Raises DecodingError when a column does not decode or when more holders are wrong than that
    (`.columns` then holds every column with a wrong share); ValueError as `recover_columns`.
    """
    secret, wrong = recover_columns(points, shares, threshold)
    holders = np.asarray(wrong.any(axis=1))
    if np.count_nonzero(holders) > (len(points) - threshold) // 2:
        raise DecodingError(tuple(np.flatnonzero(wrong.any(axis=0)).tolist()))
    return secret, holders


def _elements(name: str, value: Elements, ndim: int) -> None:
    check_array(name, value, _UINT64, ndim)
    if np.any(value >= _P):
        raise ValueError(f"{name} must hold field elements below 2^61 - 1")


def _operands(*values: Elements) -> None:
    """Check elementwise operands, which may have any layout and any shapes that broadcast."""
    for value in values:
        if not isinstance(value, np.ndarray) or value.dtype not in _UINT64:
            raise ValueError("operands must be numpy arrays of uint64")
        if np.any(value >= _P):
            raise ValueError("operands must be field elements below 2^61 - 1")
    np.broadcast_shapes(*(value.shape for value in values))


def _points(points: Elements) -> None:
    _elements("points", points, 1)
    if not np.all(points):
        raise ValueError("points must not be zero")
    if len(np.unique(points)) != len(points):
        raise ValueError("points must be distinct")


def _shares(points: Elements, shares: Elements) -> None:
    _points(points)
    _elements("shares", shares, 2)
    if len(shares) != len(points):
        raise ValueError("shares must have shape [n, m], with one row for each point")
