"""Exact laws of sums of integer noise, from their characteristic functions.

Every law here is symmetric with a positive characteristic function phi, so that probabilities
follow from one inverse FFT whose terms never cancel: the values of phi on the grid 2 pi j / N are
the transform of the law *folded* modulo N. N leaves less than 1e-17 outside, and an addition of n
sites is phi^n: no normal approximation anywhere.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError

from .report import check_count, check_integers

Reals = npt.NDArray[np.float64]
Name = Literal["discrete-gaussian", "skellam", "discrete-laplace"]

#: Most bins of a histogram; a wider law is told in bins of several levels.
_MOST_BINS: Final = 1 << 20
#: Aliases of the transform below it are left out.
_NEGLIGIBLE: Final = 1e-15


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Probabilities of integers in bins of equal width, symmetric around 0.

    width: levels per bin, odd. first: index of the first bin; bin m holds the integers
    m * width - (width - 1) / 2 .. m * width + (width - 1) / 2. probabilities: float64[bins].
    """

    width: int
    first: int
    probabilities: Reals

    @property
    def centres(self) -> Reals:
        """Middle of every bin, in levels."""
        return (self.first + np.arange(self.probabilities.size, dtype=np.float64)) * self.width

    def moment(self, order: int) -> float:
        """E[x^order], in levels^order."""
        return float(np.dot(self.probabilities, self.centres**order))

    def counts(self, samples: Any) -> npt.NDArray[np.int64]:
        """How many samples fall in every bin; those beyond an end count in the bin at it."""
        flat = check_integers(samples)
        index = (flat + (self.width - 1) // 2) // self.width - self.first
        index.clip(0, self.probabilities.size - 1, out=index)
        return np.bincount(index, minlength=self.probabilities.size).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSum:
    """Law of one coordinate of the sum of ``sites`` independent noises.

    law: of one site's noise. ``"discrete-gaussian"``: pmf ~ exp(-x^2 / (2 parameter)).
        ``"skellam"``: difference of two Poisson(parameter / 2) variables.
        ``"discrete-laplace"``: difference of two Polya(1 / shares, exp(-1 / parameter))
        variables, so that ``shares`` sites make one discrete Laplace of scale ``parameter``.
    parameter: variance in levels^2, or for the Laplace law the scale in levels; whole, >= 1.
    shares: only for the Laplace law, else 1.
    """

    law: Name
    parameter: int
    sites: int = 1
    shares: int = 1

    def __post_init__(self) -> None:
        if self.law not in get_args(Name):
            raise MisuseError(f"the laws are {', '.join(get_args(Name))}", rule="audit")
        if self.law != "discrete-laplace" and self.shares != 1:
            raise MisuseError("only the discrete Laplace law is cut into shares", rule="audit")
        check_count(self.parameter, "parameter", 1)
        check_count(self.sites, "sites", 1)
        check_count(self.shares, "shares", 1)

    @property
    def variance(self) -> float:
        """In levels^2, of one coordinate of the sum; for the discrete Gaussian its parameter.

        A discrete Gaussian's true variance is below its parameter by a relative
        8 pi^2 s exp(-2 pi^2 s), 3e-7 at s = 1: a claim names the parameter.
        """
        if self.law != "discrete-laplace":
            return float(self.parameter) * self.sites
        beta = math.exp(-1.0 / self.parameter)
        one = -math.expm1(-1.0 / self.parameter)
        return 2.0 * beta / (one * one) * self.sites / self.shares

    @property
    def excess_kurtosis(self) -> float:
        """E[x^4] / E[x^2]^2 - 3 of the sum."""
        if self.law == "skellam":
            return 1.0 / self.variance
        if self.law == "discrete-laplace":
            # Fourth over squared second cumulant of a difference of negative binomials of size r:
            # k2 = 2 r b / (1 - b)^2 and k4 = 2 r b (1 + 4 b + b^2) / (1 - b)^4.
            beta = math.exp(-1.0 / self.parameter)
            return (1 + 4 * beta + beta * beta) / (2 * beta * self.sites / self.shares)
        second = self.histogram.moment(2)
        return self.histogram.moment(4) / (second * second) - 3.0

    def characteristic(self, angle: Reals) -> Reals:
        """E[exp(i angle x)]; ``angle`` within -pi..pi."""
        if self.law == "discrete-gaussian":
            # Poisson summation: the transform of samples of a Gaussian is a sum of Gaussians.
            # For variances of at least 1 the first term left out is below 1e-50.
            half = self.parameter / 2.0
            turns = 2.0 * math.pi * np.arange(-3, 4, dtype=np.float64)
            weight = sum(np.exp(-half * (angle + turn) ** 2) for turn in turns)
            return np.asarray(weight / np.exp(-half * turns**2).sum()) ** self.sites
        squared = np.sin(angle / 2.0) ** 2
        if self.law == "skellam":
            return np.asarray(np.exp(-2.0 * self.parameter * self.sites * squared))
        beta = math.exp(-1.0 / self.parameter)
        ratio = 4.0 * beta / math.expm1(-1.0 / self.parameter) ** 2
        return np.asarray(np.exp(-self.sites / self.shares * np.log1p(ratio * squared)))

    @property
    def reach(self) -> int:
        """Levels beyond which less than 1e-17 of the mass lies, on both sides together."""
        if self.law == "discrete-laplace":
            # P(|X| > x) <= 2 E[exp(s X)] exp(-s x) with s = 1 / (2 scale), where the moment
            # generating function of one whole discrete Laplace is below 1.5.
            whole = self.sites / self.shares
            return math.ceil(2 * self.parameter * (41.0 + 0.5 * whole)) + 2
        # Bernstein's bound for a sum of Poisson variables, which the Gaussian's is below.
        return math.ceil(9.0 * math.sqrt(self.variance)) + 40

    @property
    def histogram(self) -> Histogram:
        """Probabilities of the sum, within 1e-15 of the exact ones."""
        return _histogram(self)


@functools.lru_cache(maxsize=8)
def _histogram(law: NoiseSum) -> Histogram:
    span = 2 * law.reach + 1
    width = 1 if span <= _MOST_BINS else (span // _MOST_BINS + 1) | 1
    half = -(-span // (2 * width)) + 1
    # A power of two, so that the transform is fast.
    bins = 1 << (2 * half - 1).bit_length()
    size = bins * width
    turns = np.arange(bins // 2 + 1, dtype=np.float64) / size
    total = law.characteristic(2.0 * math.pi * turns) * _kernel(turns, width)
    # Pooling `width` levels multiplies phi by the Dirichlet kernel; keeping every width-th value
    # then adds up the `width` aliases, of which the far ones no longer count.
    for alias in range(1, width // 2 + 1):
        largest = 0.0
        for side in (-alias, alias):
            there = turns + side / width
            term = law.characteristic(2.0 * math.pi * there) * _kernel(there, width)
            largest = max(largest, float(np.abs(term).max()))
            total += term
        if largest < _NEGLIGIBLE:
            break
    folded = np.fft.irfft(total, bins)
    probabilities = np.fft.fftshift(folded).clip(0.0)
    probabilities /= probabilities.sum()
    probabilities.flags.writeable = False
    return Histogram(width=width, first=-(bins // 2), probabilities=probabilities)


def _kernel(turns: Reals, width: int) -> Reals:
    """Transform of a box of `width` levels, divided by `width`."""
    below = np.sin(math.pi * turns)
    safe = np.where(below == 0.0, 1.0, below)
    return np.where(below == 0.0, 1.0, np.sin(math.pi * width * turns) / (safe * width))
