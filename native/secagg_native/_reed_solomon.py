"""Reed-Solomon decoding of Shamir shares: unchecked bodies behind `field.recover_secrets`.

The shares of one limb are a codeword of a Reed-Solomon code of length n and dimension t, so up to
floor((n - t)/2) wrong holders are found. Errors are located from the syndromes by the
Berlekamp-Massey algorithm (McEliece and Sarwate, CACM 24, 1981; Massey, IEEE Trans. IT 15, 1969).

Two random projections keep this far from n*t products for each limb. Whether a column is a codeword
is asked of two random codewords of the dual code, which cost n products each; and the errors of
many columns are located at once, in a random combination of them, whose errors sit wherever one of
the columns has one. Every answer, however it was found, is verified with dual codewords drawn after
it, so soundness does not rest on how errors were located. A column that is no codeword passes with
a chance below 2^-119, whatever its sender knows: the numbers come from the operating system.
"""

import os

import numpy as np
from numpy.typing import NDArray

from . import _gf61 as gf
from ._gf61 import PRIME, Elements

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_P = np.uint64(PRIME)
_DUAL_CODEWORDS = 2
# More parts find many sets of wrong holders sooner, fewer parts a single secret that is spoilt.
_PARTS = 8


def decode(points: Elements, shares: Elements, threshold: int) -> tuple[Elements, Mask, Mask]:
    """Decode each secret of `shares` [n, s, l], its l limbs together.

    Returns (limbs [s, l], wrong [n, s], decoded [s]); the entries of a secret that does not
    decode are zero and False. Errors are located once where those of all secrets together lie
    within the radius; otherwise the secrets are parted, so that whatever the shares are, there
    are fewer than 2s locations of O(n * (n - threshold)) products each.
    """
    n, count, _ = shares.shape
    redundancy = n - threshold
    weights = gf.barycentric(points)
    values, decoded = _through(points, weights, redundancy, shares)
    values[~decoded] = 0
    wrong = np.zeros((n, count), np.bool_)
    pending = [] if decoded.all() else [np.flatnonzero(~decoded)]
    while pending:
        members = pending.pop()
        block = shares if len(members) == count else np.ascontiguousarray(shares[:, members])
        left = members
        located = _locate(points, weights, redundancy, block)
        if located is not None:
            rows, locator = located
            # The locator is zero at the wrong holders, and takes them out of the code.
            fewer = gf.mul(weights, locator)
            found, passed = _through(points, fewer, redundancy - len(rows), block)
            values[members[passed]] = found[passed]
            decoded[members[passed]] = True
            # Holders who were located in one secret alone are wrong in that one.
            marks = (
                _wrong(points, fewer, rows, block if passed.all() else block[:, passed])
                if len(members) > 1
                else True
            )
            wrong[np.ix_(rows, members[passed])] = marks
            left = members[~passed]
        if len(members) > 1:
            pending += [part for part in np.array_split(left, _PARTS) if len(part)]
    return values, wrong, decoded


def _through(
    points: Elements, weights: Elements, redundancy: int, shares: Elements
) -> tuple[Elements, Mask]:
    """Return the secrets [s, l] through the holders whose weight is not zero, and which are right.

    `shares`: [n, s, l]. A secret is right where each limb is orthogonal to random codewords of the
    dual code, which are weight * g(x) with deg g < redundancy.
    """
    n, count, limbs = shares.shape
    checks = _DUAL_CODEWORDS if redundancy else 0
    rows = np.empty((1 + checks, n), np.uint64)
    rows[:1] = gf.lagrange(points, weights, np.zeros(1, np.uint64))
    if checks:
        values = gf.evaluate(_random(checks * redundancy).reshape(checks, redundancy), points)
        for row, column in zip(rows[1:], values.T, strict=True):
            row[:] = gf.mul(weights, np.ascontiguousarray(column))
    product = gf.matmul(rows, shares.reshape(n, count * limbs)).reshape(1 + checks, count, limbs)
    right: Mask = np.all(product[1:] == 0, axis=(0, 2))
    return product[0], right


def _locate(
    points: Elements, weights: Elements, redundancy: int, block: Elements
) -> tuple[Rows, Elements] | None:
    """Return the holders who gave any wrong share of `block` [n, s, l], if few enough did.

    With them comes their locator [n], prod_e(x - x_e) at the points.
    """
    radius = redundancy // 2
    if radius == 0:
        return None
    columns = block.reshape(len(points), -1)
    combination = gf.combine(columns, _random(columns.shape[1]))
    syndromes = gf.syndromes(points, gf.mul(weights, combination), redundancy)
    recurrence = gf.shortest_recurrence(syndromes, radius)
    if recurrence is None:
        return None
    locator = gf.evaluate(np.ascontiguousarray(recurrence[None, ::-1]), points)[:, 0]
    rows = np.flatnonzero(locator == 0)
    return (rows, np.ascontiguousarray(locator)) if len(rows) == len(recurrence) - 1 else None


def _wrong(points: Elements, weights: Elements, rows: Rows, block: Elements) -> Mask:
    """Return which shares [r, s] of the holders `rows` are not on the polynomials of the others.

    `block`: [n, s, l]. Limbs are compared in a random combination, in which errors of several limbs
    cancel each other with a chance below 2^-60.
    """
    n, count, limbs = block.shape
    shares = np.ascontiguousarray(block).reshape(n * count, limbs)
    if limbs > 1:
        shares = gf.combine(shares, _random(limbs))
    shares = shares.reshape(n, count)
    expected = gf.matmul(gf.lagrange(points, weights, points[rows]), shares)
    different: Mask = expected != shares[rows]
    return different


def _random(count: int) -> Elements:
    """Return elements [count] that nobody can foresee, each value with a chance below 2^-60."""
    return np.frombuffer(os.urandom(8 * count), np.uint64) % _P
