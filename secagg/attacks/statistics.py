"""Intervals and tests for what the laboratory measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from .finding import Measure

#: Confidence of every interval that is shown.
CONFIDENCE: Final = 0.99
#: Chance that any of the random laws of the whole matrix fails although all of them hold, and the
#: number of checks that share it.
FAMILY_ERROR: Final = 1e-3
FAMILY_SIZE: Final = 500
LEVEL: Final = FAMILY_ERROR / FAMILY_SIZE
_NORMAL: Final = NormalDist()


def binomial_tail(successes: int, trials: int, p: float) -> float:
    """P[X >= successes] for X binomial(trials, p)."""
    if successes <= 0:
        return 1.0
    if p <= 0.0 or successes > trials:
        return 0.0
    if p >= 1.0:
        return 1.0
    if successes <= trials * p:
        # The shorter tail: what is left of the mode is added up and taken off.
        return max(0.0, 1.0 - _upper(trials - successes + 1, trials, 1.0 - p))
    return _upper(successes, trials, p)


def _upper(successes: int, trials: int, p: float) -> float:
    """The tail above the mean, term by term until nothing is added any more."""
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(p)
        + (trials - successes) * math.log1p(-p)
    )
    total, odds = term, p / (1 - p)
    for k in range(successes, trials):
        term *= (trials - k) / (k + 1) * odds
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, total)


def clopper_pearson(
    successes: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson, Biometrika 1934)."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError("successes of at least one trial")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _root(lambda p: binomial_tail(successes, trials, p) - tail)
    high = 1.0
    if successes < trials:
        high = _root(lambda p: tail - (1 - binomial_tail(successes + 1, trials, p)))
    return low, high


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises on 0..1 crosses zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def rate(
    name: str, successes: int, trials: int, *, predicted: float | None = None, law: str = ""
) -> Measure:
    """A proportion with its exact 99 % interval."""
    low, high = clopper_pearson(successes, trials)
    value = successes / trials
    return Measure(name=name, value=value, low=low, high=high, predicted=predicted, law=law)


def consistent(successes: int, trials: int, p: float) -> bool:
    """Whether a count agrees with the chance ``p``: a two-sided exact test at :data:`LEVEL`."""
    upper = binomial_tail(successes, trials, p)
    lower = 1.0 - binomial_tail(successes + 1, trials, p)
    return 2 * min(upper, lower) >= LEVEL


def within(value: float, predicted: float, standard_error: float) -> bool:
    """Whether a mean agrees with a law, of normal error, at :data:`LEVEL`."""
    return abs(value - predicted) <= -_NORMAL.inv_cdf(LEVEL / 2) * standard_error


def interval(value: float, standard_error: float) -> tuple[float, float]:
    """Normal 99 % interval."""
    reach = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * standard_error
    return value - reach, value + reach


def auc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (Hanley and McNeil, Radiology 1982)."""
    a, b = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    if not a.size or not b.size:
        raise ValueError("scores of both kinds")
    order = np.sort(b)
    wins = np.searchsorted(order, a, side="left") + np.searchsorted(order, a, side="right")
    area = float(wins.sum()) / (2 * a.size * b.size)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (
        area * (1 - area) + (a.size - 1) * (first - area**2) + (b.size - 1) * (second - area**2)
    ) / (a.size * b.size)
    return area, math.sqrt(max(spread, 0.0))


def roc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> tuple[list[float], list[float]]:
    """False and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
    a, b = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    cuts = np.unique(np.concatenate([a, b]))[::-1]
    ups, downs = np.sort(a), np.sort(b)
    true = 1 - np.searchsorted(ups, cuts, side="left") / a.size
    false = 1 - np.searchsorted(downs, cuts, side="left") / b.size
    return [0.0, *false.tolist()], [0.0, *true.tolist()]


__all__ = [
    "CONFIDENCE",
    "FAMILY_ERROR",
    "LEVEL",
    "auc",
    "binomial_tail",
    "clopper_pearson",
    "consistent",
    "interval",
    "rate",
    "roc",
    "within",
]
