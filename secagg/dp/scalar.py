"""One coordinate: the exact curves of ``dp-accounting`` for whole shifts.

One-dimensional curves say nothing about vectors, whose worst shift spreads over coordinates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .curves import MARGIN, library

#: Privacy loss that a distribution of ``dp-accounting`` at its usual interval of 1e-4 may span.
_MOST_LOSS = 100.0
#: Above this standard deviation the equivalent Gaussian is as good to parts in a million.
_MOST_STDDEV = 2000.0
#: Rounds beyond which no distribution is composed: it takes up to a minute there, and its rounding
#: errors grow with the rounds.
COMPOSED_ROUNDS = 100_000


def floor(rounds: int) -> float:
    """Absolute error of a composed distribution's delta, an upper bound.

    ``dp-accounting`` truncates tails near 1e-15 (and says so in its figures), and raises a Fourier
    transform to the power ``rounds``, which multiplies its rounding errors: measured against exact
    Gaussian curves, 4e-17 for every round.
    """
    return 1e-14 + 4e-16 * rounds


@dataclass(frozen=True)
class ScalarGaussian:
    """``rounds`` rounds of one discrete Gaussian coordinate, shifted by a whole number."""

    stddev: float
    shift: int
    rate: float
    rounds: int

    @property
    def affordable(self) -> bool:
        """Whether the distribution has few rounds and at most a few million values."""
        ratio = self.shift / self.stddev
        loss = self.rounds * ratio**2 / 2 + 10 * math.sqrt(self.rounds) * ratio
        few = self.rounds <= COMPOSED_ROUNDS
        return few and loss <= _MOST_LOSS and self.stddev <= _MOST_STDDEV

    def epsilon(self, delta: float) -> float:
        return read_epsilon(self._distribution, delta, self.rounds)

    def delta(self, epsilon: float) -> float:
        return read_delta(self._distribution, epsilon, self.rounds)

    def _distribution(self) -> Any:
        return _discrete_gaussian(self.stddev, self.shift, self.rate, self.rounds)


@dataclass(frozen=True)
class ScalarLaplace:
    """``rounds`` rounds of one discrete Laplace coordinate, shifted by a whole number."""

    scale: int
    shift: int
    rounds: int

    @property
    def affordable(self) -> bool:
        """Whether the distribution has few rounds and at most a few million values."""
        few = self.rounds <= COMPOSED_ROUNDS
        return few and self.rounds * self.shift / self.scale <= _MOST_LOSS

    def epsilon(self, delta: float) -> float:
        return read_epsilon(self._distribution, delta, self.rounds)

    def delta(self, epsilon: float) -> float:
        return read_delta(self._distribution, epsilon, self.rounds)

    def _distribution(self) -> Any:
        return _discrete_laplace(self.scale, self.shift, self.rounds)


def read_epsilon(distribution: Callable[[], Any], delta: float, rounds: int) -> float:
    """Epsilon of a distribution, rounded up; infinite where delta is near its error."""
    room = delta * (1 - MARGIN) - floor(rounds)
    if room < delta / 2:
        return math.inf
    made = distribution()
    # At the far end of a distribution the library divides by masses that underflow.
    with library("numpy").errstate(over="ignore", divide="ignore"):
        found = float(made.get_epsilon_for_delta(room))
    return found * (1 + MARGIN)


def read_delta(distribution: Callable[[], Any], epsilon: float, rounds: int) -> float:
    """Delta of a distribution, rounded up."""
    found = float(distribution().get_delta_for_epsilon(epsilon))
    return min(1.0, found * (1 + MARGIN) + floor(rounds))


def _module() -> Any:
    return library("dp_accounting.pld.privacy_loss_distribution")


@functools.lru_cache(maxsize=8)
def _discrete_gaussian(stddev: float, shift: int, rate: float, rounds: int) -> Any:
    made = _module().from_discrete_gaussian_mechanism(stddev, sensitivity=shift, sampling_prob=rate)
    return made.self_compose(rounds) if rounds > 1 else made


@functools.lru_cache(maxsize=8)
def _discrete_laplace(scale: int, shift: int, rounds: int) -> Any:
    made = _module().from_discrete_laplace_mechanism(1 / scale, sensitivity=shift)
    return made.self_compose(rounds) if rounds > 1 else made
