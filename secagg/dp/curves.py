"""Privacy curves, each an upper bound in both directions: epsilon of delta, delta of epsilon.

Only what ``dp-accounting`` lacks is written out here: the Renyi bounds of sums of discrete
Gaussians and of Skellam noise, composition of pure guarantees, and how a pointwise change of the
noise and a distance of the sampler enter a curve. ``dp-accounting`` is loaded when a curve is
evaluated.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from secagg_protocols.errors import MisuseError

if TYPE_CHECKING:
    import numpy as np

#: Relative margin that covers floating error of every formula here and of ``dp-accounting``.
MARGIN = 1e-9

#: Renyi orders. Skellam's bound and subsampling hold at whole orders only.
INTEGER_ORDERS: tuple[int, ...] = (
    *range(2, 129),
    *range(136, 257, 8),
    *(2**k + step * 2 ** (k - 2) for k in range(8, 15) for step in range(1, 5)),
)


def library(name: str) -> Any:
    """A module of ``dp-accounting``, or of what comes with it.

    :raises MisuseError: ``extra`` when it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MisuseError(
            "accountants and audits need the extra dp: pip install 'secagg[dp]'", rule="extra"
        ) from error


def _conversions() -> Any:
    return library("dp_accounting.rdp.rdp_privacy_accountant")


class Curve(Protocol):
    """An upper bound of what a mechanism, with all its rounds, gives away."""

    def epsilon(self, delta: float) -> float:
        """An epsilon that holds at ``delta``; infinite where this bound has none."""
        ...

    def delta(self, epsilon: float) -> float:
        """A delta that holds at ``epsilon``; 1 where this bound has none."""
        ...


@dataclass(frozen=True)
class Renyi:
    """Renyi divergence of all rounds together, at chosen orders.

    ``divergence(order)`` bounds the divergence; conversion by Proposition 12 of arXiv:2004.00010,
    as ``dp-accounting`` computes it. ``continuous`` says that the bound holds at every real order
    above 1, and lets the best one be searched between the grid points.
    """

    divergence: Callable[[float], float]
    orders: Sequence[float] = INTEGER_ORDERS
    continuous: bool = False

    def epsilon(self, delta: float) -> float:
        if delta <= 0:
            return math.inf
        convert = _conversions().compute_epsilon
        return self._best(lambda orders, values: convert(orders, values, delta))

    def delta(self, epsilon: float) -> float:
        convert = _conversions().compute_delta
        found = self._best(lambda orders, values: convert(orders, values, epsilon))
        return min(1.0, found + 1e-300)  # a delta that underflows is still above zero

    def _bounded(self, order: float) -> float:
        """The divergence, rounded up to what the library can convert.

        It takes the logarithm of 1 - e^-divergence, which is 0 below 1e-16, and reads what is below
        zero as no loss at all. No divergence is negative, so one that is found to be has lost
        its digits: it bounds nothing.
        """
        value = self.divergence(order)
        return max(value, 1e-15) if 0 <= value < math.inf else math.inf

    def _best(self, convert: Callable[[list[float], list[float]], tuple[float, float]]) -> float:
        points = [(order, self._bounded(order)) for order in self.orders]
        points = [(order, value) for order, value in points if value < math.inf]
        if not points:
            return math.inf
        orders, values = map(list, zip(*points, strict=True))
        best, order = convert(orders, values)
        if self.continuous and best > 0:
            at = min(range(len(orders)), key=lambda i: abs(orders[i] - order))
            low, high = orders[max(at - 1, 0)], orders[min(at + 1, len(orders) - 1)]
            search = library("scipy.optimize").minimize_scalar(
                lambda a: convert([a], [self._bounded(a)])[0],
                bounds=(low, high),
                method="bounded",
            )
            best = min(best, float(search.fun))
        return best * (1 + MARGIN)


#: Orders at which a bound that holds at every order is first tried.
REAL_ORDERS: tuple[float, ...] = tuple(1 + math.exp(x / 8) for x in range(-32, 97))


def skellam_divergence(*, l1: float, l2: float, variance: float, order: int) -> float:
    """Renyi divergence of Skellam noise of ``variance``, at a whole order above 1.

    The bound of Agarwal, Kairouz and Liu for vectors (arXiv:2110.04995), in levels.
    """
    first = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order * l2**2 / (2 * variance) + min(first, 3 * l1 / (2 * variance))


@functools.lru_cache(maxsize=256)
def discrete_gaussian_tau(*, local_stddev: float, shares: int) -> float:
    """How far a sum of ``shares`` discrete Gaussians is from one (arXiv:2102.06387, Theorem 1).

    Infinite below a standard deviation of 1/2 level, where the theorem does not hold.
    """
    if local_stddev < 0.5:
        return math.inf
    rate = 2 * math.pi**2 * local_stddev**2
    near = min(shares - 1, 1000)
    # The terms fall with k towards exp(-rate), so the first of the rest bounds all that follow.
    total = math.fsum(math.exp(-rate * k / (k + 1)) for k in range(1, near + 1))
    rest = shares - 1 - near
    return 10 * (total + rest * math.exp(-rate * (near + 1) / (near + 2)))


def discrete_gaussian_divergence(
    *, l1_ratio: float, l2_ratio: float, tau: float, dimension: int, order: float
) -> float:
    """Renyi divergence of a sum of discrete Gaussians (arXiv:2102.06387, Proposition 14).

    The ratios are sensitivity over the standard deviation of the whole sum's noise.
    """
    return min(
        order / 2 * l2_ratio**2 + tau * dimension,
        order / 2 * (l2_ratio**2 + 2 * l1_ratio * tau + tau**2 * dimension),
        order / 2 * (l2_ratio + math.sqrt(dimension) * tau) ** 2,
    )


def pure_divergence(*, epsilon: float, order: float) -> float:
    """Renyi divergence of any ``epsilon``-DP mechanism: that of randomised response.

    Bun and Steinke (arXiv:1605.02065), Proposition 3.3, before it is relaxed to
    ``order * epsilon^2 / 2``.
    """
    if order * epsilon < 30:
        # The difference of (e^(a e) + e^((1-a) e)) / (1 + e^e) and 1 as a product, since near 1 the
        # quotient has no digits left to tell a small loss from none.
        rest = 2 * math.sinh(order * epsilon / 2) * math.sinh((order - 1) * epsilon / 2)
        return math.log1p(rest / math.cosh(epsilon / 2)) / (order - 1)
    # The logarithm of the quotient with the largest exponential taken out.
    power = (order - 1) * epsilon
    return (
        power + math.log1p(math.exp((1 - 2 * order) * epsilon)) - math.log1p(math.exp(-epsilon))
    ) / (order - 1)


@dataclass(frozen=True)
class Pure:
    """``rounds`` adaptive rounds of an ``epsilon0``-DP mechanism.

    Optimal composition (Kairouz, Oh and Viswanath, arXiv:1311.0776, Theorem 3.3): nothing is worse
    than randomised response, whose loss after all rounds is a binomial. Every term is positive, so
    tiny deltas lose no digits.
    """

    epsilon0: float
    rounds: int = 1

    def delta(self, epsilon: float) -> float:
        np = library("numpy")
        losses, masses = _response(self.epsilon0, self.rounds)
        above = losses > epsilon
        total = np.sum(masses[above] * -np.expm1(epsilon - losses[above]))
        return min(1.0, float(total) * (1 + MARGIN))

    def epsilon(self, delta: float) -> float:
        basic = self.epsilon0 * self.rounds
        if delta <= 0 or self.delta(0.0) <= delta:
            return 0.0 if self.delta(0.0) <= delta else basic * (1 + MARGIN)
        return smallest(lambda e: self.delta(e) <= delta, basic)


@functools.lru_cache(maxsize=64)
def _response(epsilon0: float, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of composed randomised response, and their masses."""
    np, stats = library("numpy"), library("scipy.stats")
    # Outside twenty roots of the rounds there is less than e^-800 (Hoeffding).
    mean, reach = rounds / (1 + math.exp(-epsilon0)), 20 * math.sqrt(rounds) + 1
    wins = np.arange(max(0, math.floor(mean - reach)), min(rounds, math.ceil(mean + reach)) + 1)
    return (2 * wins - rounds) * epsilon0, stats.binom.pmf(
        wins, rounds, 1 / (1 + math.exp(-epsilon0))
    )


def discrete_laplace_delta(*, scale: float, shift: int, epsilon: float) -> float:
    """Exact delta of one coordinate of discrete Laplace noise under a whole shift.

    The likelihood ratio is monotone, so the worst set is a half-line {x <= k}; with
    q = exp(-1/scale) the ratio at 0 <= k <= shift is exp((shift - 2k) / scale).
    """
    if epsilon * scale >= shift:
        return 0.0
    k = math.ceil((shift - epsilon * scale) / 2) - 1
    q = math.exp(-1 / scale)
    # P(X <= k) = 1 - q^(k+1)/(1+q) for k >= 0, and P(X <= k - shift) = q^(shift-k)/(1+q).
    delta = 1 - (q ** (k + 1) + math.exp(epsilon) * q ** (shift - k)) / (1 + q)
    return max(0.0, delta)


@dataclass(frozen=True)
class Laplace1:
    """One round, one coordinate of discrete Laplace noise, exactly."""

    scale: float
    shift: int

    def delta(self, epsilon: float) -> float:
        return discrete_laplace_delta(scale=self.scale, shift=self.shift, epsilon=epsilon) * (
            1 + MARGIN
        )

    def epsilon(self, delta: float) -> float:
        if self.delta(0.0) <= delta:
            return 0.0
        return smallest(lambda e: self.delta(e) <= delta, self.shift / self.scale)


@dataclass(frozen=True)
class Loss:
    """``curve`` for a noise law whose density ratio to the curve's law spans at most ``e^spread``.

    If r <= p/p' <= r * e^spread at every point, then p is (epsilon + spread, delta * e^spread)
    wherever p' is (epsilon, delta): Lemma 1 of docs/dp-proofs.md.
    """

    curve: Curve
    spread: float

    def epsilon(self, delta: float) -> float:
        scaled = delta * math.exp(-min(self.spread, 1e3)) * (1 - MARGIN)
        return math.inf if scaled <= 0 else self.curve.epsilon(scaled) + self.spread

    def delta(self, epsilon: float) -> float:
        if epsilon < self.spread or self.spread > 700:
            return 1.0
        return min(1.0, math.exp(self.spread) * self.curve.delta(epsilon - self.spread))


@dataclass(frozen=True)
class Best:
    """The better of several valid curves, with what the sampler's distance adds.

    A mechanism within total variation ``distance`` of an (epsilon, delta) one is
    (epsilon, delta + distance * (1 + e^epsilon)).
    """

    curves: tuple[Curve, ...]
    distance: float = 0.0

    def epsilon(self, delta: float) -> float:
        if not self.distance:
            return self._epsilon(delta)
        bound = self._epsilon(delta)
        for _ in range(64):
            if bound > 700:
                break
            # Any bound that the curve meets after paying for itself is a valid answer.
            left = delta - self.distance * (1 + math.exp(bound))
            found = self._epsilon(left) if left > 0 else math.inf
            if found <= bound:
                return found
            bound = found * (1 + MARGIN) + 1e-12
        return math.inf

    def delta(self, epsilon: float) -> float:
        extra = self.distance * (1 + math.exp(min(epsilon, 700)))
        return min(1.0, min(curve.delta(epsilon) for curve in self.curves) + extra)

    def _epsilon(self, delta: float) -> float:
        return max(0.0, min(curve.epsilon(delta) for curve in self.curves))


def smallest(holds: Callable[[float], bool], high: float, *, tolerance: float = 1e-10) -> float:
    """The smallest value at which ``holds``, rounded up; it holds at ``high`` or beyond it."""
    low = 0.0
    while not holds(high):
        low, high = high, high * 2 + 1e-6
        if high > 1e9:
            return math.inf
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
