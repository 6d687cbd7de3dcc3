"""Shamir shares and their decoding in plain integers: slow, and independent of the kernels."""

import itertools
import random

import numpy as np
from hypothesis import strategies as st

P = 2**61 - 1
EDGES = [0, 1, 2, 2**29 - 1, 2**29, 2**32 - 1, 2**32, 2**32 + 1, 2**60, P - 2, P - 1]
ELEMENTS = st.integers(0, P - 1) | st.sampled_from(EDGES)


def u64(values):
    return np.array(values, np.uint64)


def evaluate(coefficients, x):
    return sum(c * pow(x, j, P) for j, c in enumerate(coefficients)) % P


def instance(seed, n, t, m, points=None):
    rng = random.Random(seed)
    points = points or rng.sample(range(1, 4 * n), n)
    coefficients = [[rng.randrange(P) for _ in range(t)] for _ in range(m)]
    shares = [[evaluate(c, x) for c in coefficients] for x in points]
    return rng, u64(points), coefficients, u64(shares).reshape(n, m)


def interpolate(points, values, place=0):
    """The value at `place` of the polynomial of least degree through the points."""
    total = 0
    for xj, yj in zip(points, values, strict=True):
        term = yj
        for xk in points:
            if xk != xj:
                term = term * (place - xk) * pow(xj - xk, -1, P) % P
        total += term
    return total % P


def nearest(points, values, t):
    """What decoding must give, by trying every polynomial through t shares: the secret and who is
    wrong, or None where no polynomial lies within the radius."""
    n = len(points)
    for rows in itertools.combinations(range(n), t):
        through = [points[i] for i in rows], [values[i] for i in rows]
        wrong = [values[i] != interpolate(*through, points[i]) for i in range(n)]
        if sum(wrong) <= (n - t) // 2:
            return interpolate(*through), wrong
    return None


def spoil(rng, shares, rows, columns):
    bad = shares.copy()
    for i, j in itertools.product(rows, columns):
        bad[i, j] = (int(bad[i, j]) + rng.randrange(1, P)) % P
    return bad
