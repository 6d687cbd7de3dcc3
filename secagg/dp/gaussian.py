"""Discrete Gaussian sums, accounted as continuous Gaussians that are post-processed.

The proof of every bound is in ``docs/dp-proofs.md``. In short: a Gaussian of variance s1^2 followed
by a discrete Gaussian of variance s2^2 centred on its value is, point by point, almost a discrete
Gaussian of variance s1^2 + s2^2 at every whole centre, and the second draw is post-processing. So a
vector of discrete Gaussians inherits the exact curve of the Gaussian of variance s1^2, for any
number of adaptive rounds and under subsampling.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from secagg_protocols.errors import MisuseError, PlanError

from .curves import MARGIN, Curve, Loss, library, smallest
from .mechanisms import DiscreteGaussianSum

#: Most rounds: what every bound here was checked up to, and more than any study has.
MOST_ROUNDS = 1 << 24
#: Larger multipliers are counted as this one.
MOST_MULTIPLIER = 1e9

#: Total loss that the choice of the smoothing variance may cost; the best one is taken.
_SPREADS = (1e-9, 1e-6, 1e-4, 1e-2, 0.1, 0.5)


def spread(variance: float) -> float:
    """Bound of log(max/min) over x of the Gaussian sum over Z + x, for ``variance``.

    By Poisson summation the sum is proportional to 1 + 2 sum_m t^(m^2) cos(2 pi m x) with
    t = exp(-2 pi^2 variance): at most 1 + 2t/(1 - t^3), at least 1 - 2t.
    """
    t = math.exp(-2 * math.pi**2 * variance)
    if t >= 0.5:
        return math.inf
    return (math.log1p(2 * t / (1 - t**3)) - math.log1p(-2 * t)) * (1 + MARGIN)


@functools.lru_cache(maxsize=256)
def sum_spread(*, local_variance: float, shares: int) -> float:
    """Bound of log(max/min) of the law of a sum of draws over that of one draw of all variance."""
    near = min(shares - 1, 1000)
    terms = [spread(local_variance * k / (k + 1)) for k in range(1, near + 1)]
    # The terms fall with k, so the last one that is computed bounds all that follow.
    return math.fsum(terms) + (shares - 1 - near) * (terms[-1] if terms else 0.0)


@dataclass(frozen=True)
class Gaussian:
    """Continuous Gaussian noise after all rounds: the exact curve (arXiv:1805.06530, Theorem 8).

    ``multiplier`` is standard deviation over L2 sensitivity; T rounds divide it by sqrt(T).
    """

    multiplier: float

    def epsilon(self, delta: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        room = delta * (1 - self._margin)
        if room <= 0 or self.multiplier <= 0:
            return math.inf
        # The library takes the logarithm of 0 where two nearly equal terms meet on its way.
        with library("numpy").errstate(divide="ignore"):
            found = library("dp_accounting").get_epsilon_gaussian(self._limited, room)
        return float(found) * (1 + MARGIN) + 1e-12

    def delta(self, epsilon: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        if self.multiplier <= 0:
            return 1.0
        log_ndtr = library("scipy.special").log_ndtr
        middle, half = epsilon * self._limited, 1 / (2 * self._limited)
        high = float(log_ndtr(half - middle))
        low = epsilon + float(log_ndtr(-half - middle))
        found = math.exp(high) * -math.expm1(min(low - high, 0.0))
        # A delta that underflows is still above zero.
        return min(1.0, found * (1 + self._margin) + 1e-300)

    @property
    def _limited(self) -> float:
        """Less noise is an upper bound, and keeps the two terms of the formula apart."""
        return min(self.multiplier, MOST_MULTIPLIER)

    @property
    def _margin(self) -> float:
        """The two terms of the formula differ by about one part in ``multiplier``."""
        return MARGIN + 1e-13 * self._limited


def losses(mechanism: DiscreteGaussianSum, *, rounds: int) -> float:
    """What the sum and the sampler lose over all coordinates and rounds, without smoothing."""
    one = sum_spread(local_variance=mechanism.local_variance_levels2, shares=mechanism.shares)
    return rounds * mechanism.dimension * (one + 2 * mechanism.shares * mechanism.log_ratio)


def smoothing_variances(
    mechanism: DiscreteGaussianSum, *, rounds: int
) -> list[tuple[float, float]]:
    """Candidates (variance of the second draw in levels squared, what it loses altogether)."""
    variance = mechanism.shares * mechanism.local_variance_levels2
    count = rounds * mechanism.dimension
    found = []
    for target in _SPREADS:
        smoothing = math.log(4 * count / target) / (2 * math.pi**2)
        if 0 < smoothing < variance:
            found.append((smoothing, count * spread(smoothing)))
        if smoothing < 1e-4 * variance:
            break  # More of the noise could not be gained back by a smaller one.
    return found


def equivalents(mechanism: DiscreteGaussianSum, *, rounds: int) -> list[tuple[float, float]]:
    """Pairs (multiplier of the equivalent Gaussian in one round, loss over all rounds)."""
    if not mechanism.l2_levels:
        return [(math.inf, 0.0)]
    variance = mechanism.shares * mechanism.local_variance_levels2
    base = losses(mechanism, rounds=rounds)
    return [
        (math.sqrt(variance - smoothing) / mechanism.l2_levels, base + loss)
        for smoothing, loss in smoothing_variances(mechanism, rounds=rounds)
        if base + loss < 700
    ]


def gaussian_curves(mechanism: DiscreteGaussianSum, *, rounds: int) -> list[Curve]:
    """The Gaussian-equivalent curves of ``rounds`` rounds, one per candidate smoothing."""
    return [
        Loss(Gaussian(multiplier / math.sqrt(rounds)), loss)
        for multiplier, loss in equivalents(mechanism, rounds=rounds)
    ]


def best_equivalent(mechanism: DiscreteGaussianSum, *, rounds: int) -> tuple[float, float] | None:
    """The pair of :func:`equivalents` that is best without sampling at a usual delta.

    Every pair is valid; where only one can be afforded, this is the one to take.
    """
    return min(
        equivalents(mechanism, rounds=rounds),
        key=lambda pair: Loss(Gaussian(pair[0] / math.sqrt(rounds)), pair[1]).epsilon(1e-6),
        default=None,
    )


def gaussian_multiplier(
    epsilon: float, delta: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Smallest noise multiplier of one round of Gaussian noise that meets (epsilon, delta).

    Standard deviation over L2 sensitivity; within 0.1 % of the smallest that this package's own
    accountant accepts, never below it. ``sampling_rate`` is that of Poisson sampling under the
    zero-out adjacency.

    :raises MisuseError: ``epsilon`` outside 1e-9 to infinity, or too small at this delta to be
        told from 0; ``delta``, ``rounds``, ``sampling-rate`` outside their ranges; ``extra``.
    :raises PlanError: ``dp-sampling`` where a site is so rarely drawn that delta covers it without
        any noise.
    """
    _check_target(epsilon, delta, rounds, sampling_rate)
    plain = _unsampled_multiplier(epsilon, delta) * math.sqrt(rounds)
    if sampling_rate == 1:
        return plain
    drawn = -math.expm1(rounds * math.log1p(-sampling_rate))
    if drawn <= delta:
        raise PlanError(
            f"a site is drawn at all with probability {drawn:.3g}, at most delta: no noise would "
            "do as well, so the target says nothing of those who are drawn",
            rule="dp-sampling",
            field="sampling_rate",
        )
    from .subsampled import SampledGaussian

    # Sampling only helps, so without it the multiplier is too large; the cheap bound comes next.
    high = smallest(
        lambda z: SampledGaussian(z, sampling_rate, rounds).quick_epsilon(delta) <= epsilon,
        plain,
        tolerance=1e-2,
    )

    def holds(z: float) -> bool:
        return SampledGaussian(z, sampling_rate, rounds).epsilon(delta) <= epsilon

    # Distributions are finer for some multipliers than for others, so the accountant's epsilon does
    # not quite fall with the multiplier; halving needs no more than an end that holds.
    low = 0.9 * high
    while holds(low):
        low, high = low * 0.6, low
    while high > low * (1 + 5e-4):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _unsampled_multiplier(epsilon: float, delta: float) -> float:
    """The multiplier of all rounds, accepted by the curve with its margins."""
    with library("numpy").errstate(divide="ignore"):
        found = float(library("dp_accounting").get_sigma_gaussian(epsilon, delta))
    # The margins of the curve are of parts in a billion; so is the step that answers them first.
    step = 10 * MARGIN
    while Gaussian(found).epsilon(delta) > epsilon:
        found *= 1 + step
        step *= 2
        if not found < MOST_MULTIPLIER:
            raise MisuseError(
                f"epsilon {epsilon:g} at delta {delta:g} is too small to be told from 0",
                rule="epsilon",
            )
    return found


def _check_target(epsilon: float, delta: float, rounds: int, sampling_rate: float) -> None:
    if not 1e-9 <= epsilon < math.inf:
        raise MisuseError("epsilon is finite and at least 1e-9", rule="epsilon")
    if not 0 < delta < 1:
        raise MisuseError("delta is above 0 and below 1", rule="delta")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        raise MisuseError(f"rounds are an integer from 1 to {MOST_ROUNDS}", rule="rounds")
    if not 0 < sampling_rate <= 1:
        raise MisuseError("a sampling rate is above 0 and at most 1", rule="sampling-rate")
