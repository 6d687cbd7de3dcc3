"""Exact laws of noisy sums by convolution, and their exact deltas. Imports nothing of ours.

Every probability is computed from its definition in double precision; all sums are of positive
terms, so figures are good to about 1e-12 of themselves, and tails are kept down to 1e-200.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.special

Law = np.ndarray  # probabilities of -reach..reach


def discrete_gaussian(variance: float) -> Law:
    reach = math.ceil(30 * math.sqrt(variance)) + 25  # tails for shifts of 20
    x = np.arange(-reach, reach + 1, dtype=float)
    weights = np.exp(-(x**2) / (2 * variance))
    return weights / weights.sum()


def discrete_laplace(scale: float) -> Law:
    reach = math.ceil(400 * scale)
    x = np.arange(-reach, reach + 1, dtype=float)
    weights = np.exp(-np.abs(x) / scale)
    return weights / weights.sum()


def skellam(variance: float) -> Law:
    reach = math.ceil(30 * math.sqrt(variance)) + 60
    x = np.arange(-reach, reach + 1, dtype=float)
    return scipy.special.ive(np.abs(x), variance)


def convolved(law: Law, copies: int) -> Law:
    """Law of the sum of independent copies."""
    total = law
    for _ in range(copies - 1):
        total = np.convolve(total, law)
    return total


def _pair(law: Law, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of noise and of noise plus ``shift`` on one common range."""
    zeros = np.zeros(abs(shift))
    first, second = np.concatenate([law, zeros]), np.concatenate([zeros, law])
    return (first, second) if shift >= 0 else (second, first)


def delta(law: Law, shifts: tuple[int, ...], epsilon: float) -> float:
    """Exact delta between independent coordinates of ``law`` and the same shifted by ``shifts``."""
    p, q = _pair(law, shifts[0])
    for shift in shifts[1:]:
        r, s = _pair(law, shift)
        p, q = np.multiply.outer(p, r).ravel(), np.multiply.outer(q, s).ravel()
        keep = (p > 1e-40) | (q > 1e-40)  # what is dropped only lowers the delta
        p, q = p[keep], q[keep]
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


def sampled_delta(law: Law, shift: int, rate: float, epsilon: float) -> float:
    """The larger of both directions for a shift that happens with probability ``rate``."""
    p, q = _pair(law, shift)
    mixed = (1 - rate) * p + rate * q
    grow = math.exp(epsilon)
    return float(max(np.maximum(mixed - grow * p, 0).sum(), np.maximum(p - grow * mixed, 0).sum()))


def renyi(law: Law, shift: int, order: float) -> float:
    p, q = _pair(law, shift)
    inside = (p > 0) & (q > 0)
    terms = order * np.log(p[inside]) + (1 - order) * np.log(q[inside])
    return float(scipy.special.logsumexp(terms)) / (order - 1)


def shifts_within(l2: float, dimension: int) -> list[tuple[int, ...]]:
    """All whole shifts of that norm at most, up to order and signs."""
    top = math.floor(l2)
    return [
        shift
        for shift in itertools.combinations_with_replacement(range(top, -1, -1), dimension)
        if 0 < sum(x * x for x in shift) <= l2**2 + 1e-9
    ]
