"""Noise: integers that every site adds to its vector, or the server to the sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from ..errors import PlanError
from ..keys import hkdf
from .base import Array, Bounds, Encoder, Rand, Totals

if TYPE_CHECKING:
    from secagg_native.sampler import Draws, Tables

Law = Literal["discrete-gaussian", "skellam", "discrete-laplace", "central-discrete-gaussian"]

#: Largest variance (levels^2) and largest scale (levels) of one site's noise.
MOST_VARIANCE: Final = {
    "discrete-gaussian": 1 << 40,
    "central-discrete-gaussian": 1 << 40,
    "skellam": 1 << 28,
}
MOST_SCALE: Final = 1 << 14
#: Wrapping is as rare as the plan says, between these powers of two.
WRAP_BITS: Final = (10, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The last stage: integer noise over the vector and its extras.

    law: ``"discrete-gaussian"`` and ``"skellam"``: each site adds noise of variance
        ``variance_levels2``. ``"discrete-laplace"``: each site adds the difference of two Polya
        variables, so that ``shares`` sites together add a discrete Laplace variable of scale
        ``scale_levels``. ``"central-discrete-gaussian"``: the server adds noise of variance
        ``variance_levels2`` to the sum, once; that protects only against those who see what it
        publishes.
    variance_levels2, scale_levels, shares: integers in levels^2, levels and sites; 0 where the
        law has no such parameter.
    wrap_bits: with probability at most 2^-wrap_bits, over noise and rotation, any coordinate of
        a sum leaves the ring's window and wraps. It concerns the result, never privacy.
    extra_levels: levels of one unit of an extra (a weight, the bit of an adaptive clip), which
        get the same noise as a level of the vector.
    weight_floor: a noisy total weight below it gives no mean.

    Source: Kairouz, Liu, Steinke (ICML 2021); Agarwal, Kairouz, Liu (NeurIPS 2021); Canonne,
    Kamath, Steinke (NeurIPS 2020).
    """

    law: Law
    variance_levels2: int = 0
    scale_levels: int = 0
    shares: int = 0
    wrap_bits: int = 20
    extra_levels: int = 1
    weight_floor: int = 1

    def __post_init__(self) -> None:
        if type(self.law) is not str or self.law not in get_args(Law):
            raise PlanError(f"one of {', '.join(get_args(Law))}", rule="noise-law", field="law")
        laplace = self.law == "discrete-laplace"
        ranges = {
            "variance_levels2": (0, 0) if laplace else (1, MOST_VARIANCE[self.law]),
            "scale_levels": (1, MOST_SCALE) if laplace else (0, 0),
            "shares": (1, 1 << 20) if laplace else (0, 0),
            "wrap_bits": WRAP_BITS,
            "extra_levels": (1, 1 << 31),
            "weight_floor": (0, 1 << 52),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                takes = f"an integer from {low} to {high}" if high else f"no {name}"
                raise PlanError(
                    f"{self.law} takes {takes}, not {value!r}",
                    rule="noise-range",
                    field=name,
                )

    @property
    def central(self) -> bool:
        """Whether the server adds the noise, and the sites none."""
        return self.law == "central-discrete-gaussian"

    def tables(self) -> Tables:
        """What one draw of this noise is made from (a site's share, or the server's noise)."""
        return _tables(self.law, self.variance_levels2, self.scale_levels, self.shares)

    def variance(self, sites: int) -> float:
        """Variance of the noise in each coordinate of a sum over ``sites``, in levels^2."""
        if self.law != "discrete-laplace":
            # Of the tables' law; a discrete Gaussian's is below its parameter by a hair.
            return float(self.variance_levels2 * (1 if self.central else sites))
        q = math.exp(-1 / self.scale_levels)
        return 2 * q / (1 - q) ** 2 * sites / self.shares

    def log_mgf(self, x: float, sites: int) -> float:
        """log E exp(x N) of the noise N in a sum over ``sites``, or an upper bound of it.

        A discrete Gaussian is sub-Gaussian with its own parameter (Canonne, Kamath, Steinke
        2020, Corollary 17).
        """
        if self.law == "skellam":
            half = math.sinh(x / 2)
            return 2 * sites * self.variance_levels2 * half * half
        if self.law == "discrete-laplace":
            t = self.scale_levels
            if x * t >= 1:
                return math.inf
            # (1-q)^2 / ((1 - q e^x)(1 - q e^-x)) with q = e^(-1/t), per full set of shares.
            whole = 2 * math.log(-math.expm1(-1 / t))
            part = math.log(-math.expm1(x - 1 / t)) + math.log(-math.expm1(-x - 1 / t))
            return (whole - part) * sites / self.shares
        return x * x * self.variance(sites) / 2

    def radius(self, sites: int, spread: float, coordinates: int) -> int:
        """Half the window that sub-Gaussian signal plus noise leaves with 2^-wrap_bits at most.

        ``spread``: sub-Gaussian parameter of the signal in the sum; ``coordinates``: how many
        there are. Chernoff's bound on both sides of each coordinate, minimised over its
        exponent: radius = min over x of (spread^2 x^2 / 2 + log_mgf(x) + log(2 d / p)) / x.
        """
        log_odds = math.log(2 * coordinates) + self.wrap_bits * math.log(2)
        variance = spread * spread + self.variance(sites)
        # Of a Gaussian of this variance; the others' best exponent lies within a few octaves.
        guess = math.sqrt(2 * log_odds / variance)

        def bound(power: float) -> float:
            x = guess * math.exp2(power)
            return (spread * spread * x * x / 2 + self.log_mgf(x, sites) + log_odds) / x

        low, high = -24.0, 2.0
        for _ in range(100):  # every x gives a valid bound, so the search needs no proof
            third = (high - low) / 3
            if bound(low + third) <= bound(high - third):
                high -= third
            else:
                low += third
        return math.ceil(bound((low + high) / 2))

    def bounds(self, given: Bounds) -> Bounds:
        """Integers stay integers; what noise does to the range is :meth:`radius`."""
        if not given.integer:
            raise PlanError(
                "Noise follows an integer stage (Quantise or Integers)",
                rule="stage-order",
                field="stages",
            )
        return given

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Noise from one seed for the whole vector, so that any tile can be made again."""
        return x if self.central else _Noisy(x, self.draws(rand()))

    def draws(self, seed: bytes) -> Draws:
        """The noise of one vector; coordinate i of it depends on seed and i alone."""
        from secagg_native.sampler import Draws

        return Draws(self.tables(), hkdf(seed, b"secagg noise v1", 32))

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Noise is not undone."""
        return total


@lru_cache(maxsize=16)
def _tables(law: Law, variance: int, scale: int, shares: int) -> Tables:
    from secagg_native import sampler

    if law == "skellam":
        made = sampler.skellam(variance)
    elif law == "discrete-laplace":
        made = sampler.polya_difference(scale, shares)
    else:
        made = sampler.discrete_gaussian(variance)
    return made.tables


class _Noisy:
    __slots__ = ("draws", "dtype", "length", "source")

    def __init__(self, source: Encoder, draws: Draws) -> None:
        self.source = source
        self.draws = draws
        self.length = source.length
        self.dtype: np.dtype[Any] = np.dtype(np.int64)

    def tile(self, out: Array, start: int) -> None:
        self.source.tile(out, start)
        self.draws.add(out, start)
