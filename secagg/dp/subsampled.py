"""Poisson sampling: each site takes part in a round by an independent coin of ``rate``.

Both bounds are for the zero-out (add or remove) adjacency and treat both of its directions. They
hold only against those who do not learn who took part, and only if the noise of a round does not
depend on the size of its cohort: noise must be counted for the smallest cohort.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .curves import MARGIN, Renyi, library
from .gaussian import Gaussian
from .scalar import COMPOSED_ROUNDS, read_delta, read_epsilon

#: Values a privacy loss distribution may have; the interval is widened rather than exceed it.
_POINTS = 250_000
#: The widest interval, in epsilon; a distribution that would need a wider one is not made.
_WIDEST = 1e-2
#: Whole orders, at which the Renyi divergence has a closed form.
_ORDERS = (
    *(2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768),
    *(1024, 1536, 2048, 4096, 8192),
)


@dataclass(frozen=True)
class SampledGaussian:
    """``rounds`` rounds of Gaussian noise on a Poisson sample.

    The smallest of three bounds. The privacy loss distribution of ``dp-accounting``, pessimistic at
    any discretisation (connect the dots, arXiv:2207.04380), refined until it stops improving, where
    rounds and losses are few enough. The Renyi bound (arXiv:1908.10530), which also covers deltas
    too small for a distribution in double precision. And the exact curve without sampling, which
    can only help: a mixture with the other law is no further from it.
    """

    multiplier: float
    rate: float
    rounds: int

    def epsilon(self, delta: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        if delta <= 0:
            return math.inf
        bound = self.quick_epsilon(delta)
        if not bound:
            return 0.0
        return min(bound, self._refine(bound, lambda made: read_epsilon(made, delta, self.rounds)))

    def delta(self, epsilon: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        return min(
            self._renyi.delta(epsilon),
            self._unsampled.delta(epsilon),
            self._refine(epsilon, lambda made: read_delta(made, epsilon, self.rounds)),
        )

    def quick_epsilon(self, delta: float) -> float:
        """The bounds that need no distribution."""
        return min(self._renyi.epsilon(delta), self._unsampled.epsilon(delta))

    @property
    def _renyi(self) -> Renyi:
        return Renyi(
            lambda order: self.rounds * _gaussian_divergence(self.multiplier, self.rate, order),
            _ORDERS,
        )

    @property
    def _unsampled(self) -> Gaussian:
        return Gaussian(self.multiplier / math.sqrt(self.rounds))

    def _refine(self, about: float, read: Callable[[Callable[[], Any]], float]) -> float:
        """The value read from ever finer distributions, until it changes by under 0.3 %.

        ``about`` is the size of the epsilon that is asked for or given. Infinite where no
        distribution can be afforded.
        """
        if self.rounds > COMPOSED_ROUNDS or self.multiplier <= 0:
            return math.inf
        finest = self._finest()
        if finest > _WIDEST:
            return math.inf
        # In proportion to the deviation of one round's loss, or of all rounds' where they are few,
        # or to the answer, where rare large losses decide: every value costs the library a loop.
        one = self.rate / self.multiplier * min(0.5, math.sqrt(self.rounds) / 60)
        interval = max(min(_WIDEST, max(one, about / 2000)), finest)
        best = math.inf
        for _ in range(4):
            made = functools.partial(
                _distribution, self.multiplier, self.rate, self.rounds, interval
            )
            value = read(made)
            # Every distribution is a valid bound, so the smallest is kept.
            done = best - value <= 0.003 * best if math.isfinite(best) else value == best
            best = min(best, value)
            interval /= 4
            if done or interval < finest:
                break
        return best

    def _finest(self) -> float:
        """The smallest interval at which one round and all rounds fit the values allowed."""
        z = self.multiplier
        # The loss of one round at tail mass e^-50, and that of all at the tail that is kept.
        one = 2 * (10 / z + 1 / (2 * z * z))
        return max(one, 4 * self.quick_epsilon(1e-14)) / _POINTS


@functools.lru_cache(maxsize=8)
def _distribution(multiplier: float, rate: float, rounds: int, interval: float) -> Any:
    made = library("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=interval
    )
    return made.self_compose(rounds) if rounds > 1 else made


@functools.lru_cache(maxsize=4096)
def _gaussian_divergence(multiplier: float, rate: float, order: float) -> float:
    """Renyi divergence of one round of Gaussian noise on a Poisson sample.

    ``dp-accounting`` has the same sum, but takes the logarithm of what it is near 1: at small rates
    it comes out below zero, and no loss at all is reported.
    """
    if multiplier <= 0:
        return math.inf
    return sampled_divergence(
        lambda j: j / 2 / multiplier / multiplier, rate=rate, order=int(order), factor=1.0
    )


def sampled_divergence(
    divergence: Callable[[int], float], *, rate: float, order: int, factor: float = 3.0
) -> float:
    """Renyi divergence of a mechanism on a Poisson sample, at a whole order of at least 2.

    Theorem 5 of Zhu and Wang (Poisson subsampled Renyi differential privacy, ICML 2019), which asks
    nothing of the mechanism but its ``divergence`` at the whole orders up to this one. ``factor`` 3
    is that theorem's, for the terms above the second; 1 is right where the odd moments are known
    not to be negative, as for Gaussian noise (Theorem 6; Mironov, Talwar and Zhang,
    arXiv:1908.10530).
    """
    if rate == 1:
        return divergence(order)
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    # The moment is sum_j w_j e_j with binomial weights w_j, which add up to 1, and e_0 = e_1 = 1.
    # So what it exceeds 1 by is sum_j w_j (e_j - 1) over j >= 2: positive terms, no digit lost.
    terms = []
    for j in range(2, order + 1):
        comb = math.lgamma(order + 1) - math.lgamma(j + 1) - math.lgamma(order - j + 1)
        weight = comb + j * log_rate + (order - j) * log_rest
        terms.append(weight + _log_excess((j - 1) * divergence(j), factor if j > 2 else 1.0))
    top = max(terms)
    if top == -math.inf:
        return 0.0
    if not top < math.inf:
        return math.inf
    excess = top + math.log(math.fsum(math.exp(term - top) for term in terms))
    total = math.log1p(math.exp(excess)) if excess < 700 else excess
    return total * (1 + MARGIN) / (order - 1)


def _log_excess(power: float, factor: float) -> float:
    """The logarithm of ``factor * e^power - 1``, an upper bound for large powers."""
    if power > 700:
        return math.log(factor) + power
    excess = factor * math.expm1(power) + (factor - 1)
    return math.log(excess) if excess > 0 else -math.inf
