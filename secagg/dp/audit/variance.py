"""Variance test: does the noise of a zero-input dry run have the variance that is claimed?

S = sum x_i^2 / (coordinates * claimed variance) is 1 on average for a correct build. Its law is
sharp: one run of 65,536 coordinates rejects noise that is 2.7 % below its claim, at one false
alarm in a million.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from .laws import NoiseSum, Reals
from .report import FALSE_ALARM, Verdict, check_integers, check_probability, special

Method = Literal["chi-square", "chernoff"]

#: The chi-square law stands for S where the noise is this close to a Gaussian, and the sum of
#: squares spreads over this many levels^2: then it is off by less than _MARGIN.
_MOST_KURTOSIS: Final = 1e-3
_LEAST_SPREAD: Final = 1e3
#: Relative allowance on the p-value for what the two conditions leave: half a lattice step of 1 in
#: 1000 standard deviations at 5 of them (0.25 %), and 1e-3 of kurtosis (5^2 * 1e-3 / 4, 0.6 %).
_MARGIN: Final = 0.01
#: Part of a tail's probability that is spent on single coordinates that are too large.
_JUMP: Final = 1 / 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceResult:
    """Result of :func:`variance_test`.

    statistic: S, observed over claimed variance. low, high: S lies between them in a correct
    build, with probability 1 - false_alarm at least. p_value: an upper bound of the two-sided one.
    coordinates: how many were squared, over all sums. claimed_levels2: variance of one coordinate
    of the sum, in levels^2. method: ``"chi-square"`` or the bound, ``"chernoff"``.
    """

    statistic: float
    low: float
    high: float
    p_value: float
    false_alarm: float
    coordinates: int
    claimed_levels2: float
    method: Method
    test: Literal["variance"] = "variance"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where S is outside low..high."""
        return "consistent" if self.low <= self.statistic <= self.high else "violates"

    @property
    def observed_levels2(self) -> float:
        """Observed variance, in levels^2."""
        return self.statistic * self.claimed_levels2

    def sentence(self) -> str:
        """Observed against claimed variance."""
        return (
            f"variance {self.observed_levels2:.6g} levels^2 over {self.coordinates} coordinates "
            f"is {self.statistic:.4f} of the claimed {self.claimed_levels2:.6g} "
            f"({self.low:.4f} to {self.high:.4f} in a correct build; p {_at_most(self.p_value)}, "
            f"false alarms {self.false_alarm:.3g})"
        )


def variance_test(
    samples: Any, law: NoiseSum, *, false_alarm: float = FALSE_ALARM
) -> VarianceResult:
    """Test sums of noise alone, integers in levels of any shape, against ``law``. Two-sided.

    For a law that is Gaussian to all practical purposes (excess kurtosis at most 1e-3, and not a
    small variance with few coordinates) coordinates * S is chi-square with as many degrees of
    freedom. Otherwise both tails are bounded by Chernoff's inequality with the exact moment
    generating function of x^2, min(x, B)^2 for the upper one, where B is so large that any
    coordinate exceeds it only within a twentieth of the tail's probability: heavy tails have no
    such function without it. The bound holds for any number of coordinates, and costs a tenth of
    the test's reach.

    Raises :class:`~secagg.MisuseError` for samples that are no integers, and for a rate outside
    1e-10..0.5.
    """
    flat = check_integers(samples)
    check_probability(false_alarm, "false_alarm")
    claimed = law.variance
    # Exact up to 2^53, and beyond it to 1e-16 of itself.
    statistic = float(np.dot(flat.astype(np.float64), flat.astype(np.float64)))
    statistic /= flat.size * claimed
    spread = math.sqrt(2.0 * flat.size) * claimed
    if law.excess_kurtosis <= _MOST_KURTOSIS and spread >= _LEAST_SPREAD:
        method: Method = "chi-square"
        low, high, p_value = _chi_square(statistic, flat.size, false_alarm)
    else:
        method = "chernoff"
        low, high, p_value = _chernoff(statistic, flat.size, law, false_alarm)
    return VarianceResult(
        statistic=statistic,
        low=low,
        high=high,
        p_value=p_value,
        false_alarm=false_alarm,
        coordinates=flat.size,
        claimed_levels2=claimed,
        method=method,
    )


def _chi_square(statistic: float, size: int, false_alarm: float) -> tuple[float, float, float]:
    functions = special()
    shape, tail = size / 2.0, false_alarm / (2.0 * (1.0 + _MARGIN))
    low = float(functions.gammaincinv(shape, tail)) / shape
    high = float(functions.gammainccinv(shape, tail)) / shape
    below = float(functions.gammainc(shape, statistic * shape))
    above = float(functions.gammaincc(shape, statistic * shape))
    return low, high, min(1.0, 2.0 * (1.0 + _MARGIN) * min(below, above))


def _chernoff(
    statistic: float, size: int, law: NoiseSum, false_alarm: float
) -> tuple[float, float, float]:
    histogram = law.histogram
    ratio = histogram.centres**2 / law.variance
    weights = histogram.probabilities
    tail = false_alarm / 2.0

    # Largest coordinates first: those that use up no more than their part of the tail are capped.
    order = np.argsort(-ratio, kind="stable")
    mass = np.cumsum(weights[order])
    dropped = int(np.searchsorted(mass, _JUMP * tail / size, side="right"))
    jump = size * float(mass[dropped - 1]) if dropped else 0.0
    top = float(ratio[order[dropped]])
    capped = np.minimum(ratio, top)

    def up(t: float) -> float:
        return _log_mean_exp(t * capped, weights)

    def down(t: float) -> float:
        return _log_mean_exp(-t * ratio, weights)

    # P(S >= s) <= exp(size * (up(t) - t s)) for every t > 0, so that any t gives a threshold.
    rare = -math.log(tail - jump) / size
    high = _least(lambda t: (up(t) + rare) / t)
    low = max(0.0, -_least(lambda t: (down(t) - math.log(tail) / size) / t))
    above = jump + math.exp(min(0.0, size * _least(lambda t: up(t) - t * statistic)))
    below = math.exp(min(0.0, size * _least(lambda t: down(t) + t * statistic)))
    return low, high, min(1.0, 2.0 * min(above, below))


def _log_mean_exp(exponents: Reals, weights: Reals) -> float:
    largest = float(exponents.max())
    return largest + math.log(float(np.dot(weights, np.exp(exponents - largest))))


def _least(function: Callable[[float], float]) -> float:
    """Smallest value found over t in 1e-7..1e2, by golden section on log t.

    Every value is a valid bound, so the search decides about sharpness alone.
    """
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = math.log(1e-7), math.log(1e2)
    c, d = b - golden * (b - a), a + golden * (b - a)
    at_c, at_d = function(math.exp(c)), function(math.exp(d))
    best = min(at_c, at_d)
    for _ in range(40):
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - golden * (b - a)
            at_c = function(math.exp(c))
        else:
            a, c, at_c = c, d, at_d
            d = a + golden * (b - a)
            at_d = function(math.exp(d))
        best = min(best, at_c, at_d)
    return best


def _at_most(p_value: float) -> str:
    return f"<= {p_value:.2g}" if p_value >= 1e-300 else "<= 1e-300"
