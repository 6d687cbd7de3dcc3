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

from .curves import MARGIN, library
from .scalar import read_delta, read_epsilon

#: Values a privacy loss distribution may have; the interval is widened rather than exceed it.
_POINTS = 2_000_000
#: Whole orders, at which the Renyi divergence has a closed form.
_ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True)
class SampledGaussian:
    """``rounds`` rounds of Gaussian noise on a Poisson sample.

    The privacy loss distribution of ``dp-accounting``, pessimistic at any discretisation (connect
    the dots, arXiv:2207.04380), refined until it stops improving; and its Renyi bound, which also
    covers deltas too small for a distribution in double precision.
    """

    multiplier: float
    rate: float
    rounds: int

    def epsilon(self, delta: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        if delta <= 0:
            return math.inf
        bound = self.renyi_epsilon(delta)
        return min(bound, self._refine(bound, lambda made: read_epsilon(made, delta, self.rounds)))

    def delta(self, epsilon: float) -> float:
        if self.multiplier == math.inf:
            return 0.0
        renyi = float(_renyi(*self._key()).get_delta(epsilon)) * (1 + MARGIN)
        return min(
            1.0, renyi, self._refine(epsilon, lambda made: read_delta(made, epsilon, self.rounds))
        )

    def renyi_epsilon(self, delta: float) -> float:
        """The Renyi bound alone, which is quick."""
        return float(_renyi(*self._key()).get_epsilon(delta)) * (1 + MARGIN)

    def _key(self) -> tuple[float, float, int]:
        return self.multiplier, self.rate, self.rounds

    def _refine(self, about: float, read: Callable[[Callable[[], Any]], float]) -> float:
        """The value read from ever finer distributions, until it changes by under 0.3 %.

        ``about`` is the size of the epsilon that is asked for or given.
        """
        finest = self._finest()
        # In proportion to the deviation of one round's loss, or of all rounds' where they are few,
        # or to the answer, where rare large losses decide: every value costs the library a loop.
        one = self.rate / self.multiplier * min(0.5, math.sqrt(self.rounds) / 60)
        interval = max(min(1e-2, max(one, about / 2000)), finest)
        best = math.inf
        for _ in range(4):
            value = read(functools.partial(_distribution, *self._key(), interval))
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
        return max(one, 4 * self.renyi_epsilon(1e-14)) / _POINTS


@functools.lru_cache(maxsize=8)
def _distribution(multiplier: float, rate: float, rounds: int, interval: float) -> Any:
    made = library("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=interval
    )
    return made.self_compose(rounds) if rounds > 1 else made


@functools.lru_cache(maxsize=64)
def _renyi(multiplier: float, rate: float, rounds: int) -> Any:
    accounting = library("dp_accounting")
    event = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(multiplier))
    # The default adjacency (add or remove) is the only one that this accountant gets right.
    return library("dp_accounting.rdp").RdpAccountant(_ORDERS).compose(event, rounds)


def sampled_divergence(divergence: Callable[[int], float], *, rate: float, order: int) -> float:
    """Renyi divergence of a mechanism on a Poisson sample, at a whole order of at least 2.

    Theorem 5 of Zhu and Wang (Poisson subsampled Renyi differential privacy, ICML 2019), which asks
    nothing of the mechanism but its ``divergence`` at the whole orders up to this one.
    """
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    terms = [(order - 1) * log_rest + math.log1p((order - 1) * rate)]
    for j in range(2, order + 1):
        comb = math.lgamma(order + 1) - math.lgamma(j + 1) - math.lgamma(order - j + 1)
        weight = comb + j * log_rate + (order - j) * log_rest + (math.log(3) if j > 2 else 0.0)
        terms.append(weight + (j - 1) * divergence(j))
    top = max(terms)
    if not math.isfinite(top):
        return math.inf
    total = top + math.log(math.fsum(math.exp(term - top) for term in terms))
    return max(total, 0.0) * (1 + MARGIN) / (order - 1)
