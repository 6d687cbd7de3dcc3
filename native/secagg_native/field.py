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
    return gf.add(*_operands(a, b))


def sub(a: Elements, b: Elements) -> Elements:
    """Return a - b mod p, elementwise with broadcasting. Raises ValueError for elements >= p."""
    return gf.sub(*_operands(a, b))


def mul(a: Elements, b: Elements) -> Elements:
    """Return a * b mod p, elementwise with broadcasting. Raises ValueError for elements >= p."""
    return gf.mul(*_operands(a, b))


def inv(a: Elements) -> Elements:
    """Return 1/a mod p, elementwise. Raises ValueError for elements >= p and for zero."""
    (values,) = _operands(a)
    if not np.all(values):
        raise ValueError("zero has no inverse")
    return gf.inv(values)


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
    if coefficients.shape[1] == 0:
        raise ValueError("coefficients must have at least one column")
    return gf.evaluate(coefficients, points)


def lagrange(points: Elements, at: int = 0) -> Elements:
    """Return the weights uint64 [t] with f(at) = sum of weight * f(point), for degree f < t.

    `points`: uint64 [t], distinct and non-zero; 0 <= at < p. Raises ValueError otherwise.
    """
    _points(points)
    place = np.full(1, check_integer("at", at, 0, PRIME - 1), np.uint64)
    weights: Elements = gf.lagrange(points, gf.barycentric(points), place)[0]
    return weights


def recover_secrets(
    points: Elements, shares: Elements, threshold: int
) -> tuple[Elements, NDArray[np.bool_], NDArray[np.bool_]]:
    """Recover s secrets of l limbs each from n >= threshold holders, around wrong shares.

    `points`: uint64 [n], distinct and non-zero; `shares`: uint64 [n, s, l]. For each secret up to
    floor((n - threshold)/2) holders may be wrong; a holder is wrong if any of its l shares is.
    Returns (limbs uint64 [s, l], wrong bool [n, s], decoded bool [s]): wrong[i, j] tells that
    holder i is not on the decoded polynomials of secret j. A secret with more wrong holders is not
    decoded, its other entries being zero and False, or, if the shares were chosen to lie within
    that distance of other polynomials, decodes to those: a commitment to the secret has to tell.

    Shares are verified with numbers drawn from the operating system: what is wrong passes for right
    with a chance below 2^-100. Without errors the cost is O(n * (n + s*l)); with errors O(n * (n -
    threshold)) more for each group of secrets whose wrong holders are within the radius together,
    and O(n * (s*l + s * wrong holders)) to tell who is wrong where. Where the wrong holders of
    every secret are others there are at most 2s groups, whatever the shares are.

    Raises ValueError for a wrong dtype, shape or layout, n < threshold, elements >= p, or points
    zero or repeated.
    """
    _shares(points, shares, 3)
    return _reed_solomon.decode(points, shares, _threshold(points, threshold))


def recover_columns(
    points: Elements, shares: Elements, threshold: int
) -> tuple[Elements, NDArray[np.bool_]]:
    """Recover m secrets of one limb each, as `recover_secrets`, or raise if one does not decode.

    `points`: uint64 [n], distinct and non-zero; `shares`: uint64 [n, m]. In each column up to
    floor((n - threshold)/2) shares may be wrong. Returns (secret uint64 [m], wrong bool [n, m]),
    wrong[i, j] telling that share i of column j is not on the decoded polynomial.

    Raises DecodingError, with the failing indices in `.columns`, when a column does not decode;
    ValueError for a wrong dtype, shape or layout, n < threshold, elements >= p, or points zero or
    repeated.
    """
    _shares(points, shares, 2)
    threshold = _threshold(points, threshold)
    secret, wrong, decoded = _reed_solomon.decode(points, shares[:, :, None], threshold)
    if not decoded.all():
        raise DecodingError(tuple(np.flatnonzero(~decoded).tolist()))
    return secret[:, 0], wrong


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
    _shares(points, shares, 2)
    threshold = _threshold(points, threshold)
    limbs, wrong, decoded = _reed_solomon.decode(points, shares[:, None], threshold)
    if not decoded[0]:
        _, apart = recover_columns(points, shares, threshold)
        raise DecodingError(tuple(np.flatnonzero(apart.any(axis=0)).tolist()))
    return limbs[0], wrong[:, 0]


def _elements(name: str, value: Elements, ndim: int) -> None:
    check_array(name, value, _UINT64, ndim)
    if value.max(initial=0) >= _P:
        raise ValueError(f"{name} must hold field elements below 2^61 - 1")


def _operands(*values: Elements) -> tuple[Elements, ...]:
    """Check elementwise operands of any layout, and return them C-contiguous in their common shape.

    Shapes that do not broadcast are numpy's ValueError.
    """
    for value in values:
        if not isinstance(value, np.ndarray) or value.dtype not in _UINT64:
            raise ValueError("operands must be numpy arrays of uint64")
        if value.max(initial=0) >= _P:
            raise ValueError("operands must be field elements below 2^61 - 1")
    return tuple(np.asarray(value, order="C") for value in np.broadcast_arrays(*values))


def _points(points: Elements) -> None:
    _elements("points", points, 1)
    if not np.all(points):
        raise ValueError("points must not be zero")
    # Roster indices come sorted, which spares sorting them.
    if not np.all(points[1:] > points[:-1]) and len(np.unique(points)) != len(points):
        raise ValueError("points must be distinct")


def _shares(points: Elements, shares: Elements, ndim: int) -> None:
    _points(points)
    _elements("shares", shares, ndim)
    if len(shares) != len(points):
        raise ValueError("shares must have one row for each point")


def _threshold(points: Elements, threshold: int) -> int:
    threshold = check_integer("threshold", threshold, 1, PRIME)
    if len(points) < threshold:
        raise ValueError("there are fewer shares than the threshold")
    return threshold
