"""Reed-Solomon decoding of Shamir shares: unchecked bodies behind `field.recover_columns`.

The shares of one secret are a codeword of a Reed-Solomon code of length n and dimension t, so up
to floor((n - t)/2) wrong shares are found. Errors are located from the syndromes by the
Berlekamp-Massey algorithm (Massey, "Shift-register synthesis and BCH decoding", IEEE Trans. IT
15, 1969); every answer is then verified by encoding it again, so soundness does not rest on it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import _gf61 as gf
from ._gf61 import PRIME, Elements

Mask = NDArray[np.bool_]


def transfer(base: Elements, targets: Elements) -> Elements:
    """Return the matrix [r, t] that takes values at `base` [t] to values at `targets` [r].

    It belongs to the polynomials of degree below t; no target may lie in `base`. Each entry is
    l(target) * w / (target - base), the barycentric form of Lagrange's formula.
    """
    weights = barycentric(base)
    differences = gf.sub(targets[:, None], base[None, :])
    inverses = gf.inv(differences.reshape(-1)).reshape(differences.shape)
    nodal = gf.product(np.ascontiguousarray(differences.T))
    return gf.mul(gf.mul(inverses, weights), nodal[:, None])


def barycentric(points: Elements) -> Elements:
    """Return 1 / prod_{k != j}(x_j - x_k) for each of the distinct points [n]."""
    differences = gf.sub(points[None, :], points[:, None])
    np.fill_diagonal(differences, 1)
    return gf.inv(gf.product(differences))


def decode(
    points: Elements, shares: Elements, threshold: int
) -> tuple[Elements, Mask, tuple[int, ...]]:
    """Decode each column of `shares` [n, m] on its own.

    Returns (secrets [m], wrong [n, m], indices of the columns that did not decode); the entries
    of such columns are zero and False.
    """
    n, m = shares.shape
    radius = (n - threshold) // 2
    secret = np.zeros(m, np.uint64)
    wrong = np.zeros((n, m), np.bool_)

    def attempt(columns: NDArray[np.intp], suspects: Mask) -> NDArray[np.intp]:
        """Interpolate through holders that are not suspects; return the columns left over.

        A polynomial that agrees with all but `radius` shares is the only one that does.
        """
        base = np.flatnonzero(~suspects)[:threshold]
        others = np.setdiff1d(np.arange(n), base)
        targets = np.concatenate((np.zeros(1, np.uint64), points[others]))
        matrix = transfer(points[base], targets)
        values = gf.matmul(matrix, shares[np.ix_(base, columns)])
        differs = values[1:] != shares[np.ix_(others, columns)]
        decoded = differs.sum(axis=0) <= radius
        secret[columns[decoded]] = values[0, decoded]
        wrong[np.ix_(others, columns[decoded])] = differs[:, decoded]
        left: NDArray[np.intp] = columns[~decoded]
        return left

    failed: list[int] = []
    suspects = np.zeros(n, np.bool_)
    pending = attempt(np.arange(m), suspects)
    checks = parity_checks(points, n - threshold) if len(pending) else None
    while checks is not None and len(pending):
        column = int(pending[0])
        errors = locate_errors(points, checks, shares[:, column], radius)
        if errors is not None:
            # A liar usually lies in every column, so what one column taught is tried on all.
            suspects = suspects | errors
            if n - np.count_nonzero(suspects) < threshold:
                suspects = errors
            pending = attempt(pending, suspects)
        if len(pending) and pending[0] == column:
            failed.append(column)
            pending = pending[1:]
    return secret, wrong, tuple(failed)


def parity_checks(points: Elements, count: int) -> Elements:
    """Return the matrix [count, n] whose product with every codeword is zero.

    Row k holds x_i^k / prod_{j != i}(x_i - x_j).
    """
    rows = np.empty((count, len(points)), np.uint64)
    row = barycentric(points)
    for k in range(count):
        rows[k] = row
        row = gf.mul(row, points)
    return rows


def locate_errors(points: Elements, checks: Elements, column: Elements, radius: int) -> Mask | None:
    """Return which shares of one column are wrong, or None where at most `radius` cannot be."""
    syndromes = gf.matmul(checks, column[:, None])[:, 0]
    locator = shortest_recurrence(syndromes.tolist())
    count = len(locator) - 1
    if count > radius:
        return None
    # The wrong points are the roots of the reversed locator.
    value = np.ones(len(points), np.uint64)
    for coefficient in locator[1:]:
        value = gf.mul_add(value, points, np.uint64(coefficient))
    errors = value == 0
    return errors if np.count_nonzero(errors) == count else None


def shortest_recurrence(sequence: Sequence[int]) -> list[int]:
    """Return [1, c_1, ..., c_L], L least, with s_n + c_1 s_(n-1) + ... + c_L s_(n-L) = 0 mod p.

    Berlekamp-Massey over GF(p) in Python integers, O(len(sequence)^2).
    """
    current, previous = [1], [1]
    length, gap, last = 0, 1, 1
    for n, item in enumerate(sequence):
        terms = zip(current[1 : length + 1], sequence[n - length : n][::-1], strict=False)
        discrepancy = (item + sum(c * s for c, s in terms)) % PRIME
        if not discrepancy:
            gap += 1
            continue
        factor = discrepancy * pow(last, -1, PRIME) % PRIME
        longer = current + [0] * (len(previous) + gap - len(current))
        for i, c in enumerate(previous, gap):
            longer[i] = (longer[i] - factor * c) % PRIME
        if 2 * length <= n:
            length, gap, previous, last = n + 1 - length, 1, current, discrepancy
        else:
            gap += 1
        current = longer
    return (current + [0] * length)[: length + 1]
