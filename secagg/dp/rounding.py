"""Conditional stochastic rounding: how far it stretches a vector, and the scale that fits.

Quantities named ``levels`` are in integer units, after multiplication by the scale. Formulas of
Kairouz, Liu and Steinke (arXiv:2102.06387, Theorem 1 and Section 4); the feasibility bound is the
limit of their scale equation for ever coarser levels.
"""

from __future__ import annotations

import math

from secagg_protocols.errors import PlanError
from secagg_protocols.stages.quantise import conditional_square


def rounded_l2(l2_levels: float, *, beta: float, dimension: int) -> float:
    """Largest L2 norm, in levels, that conditional rounding lets pass.

    ``l2_levels`` is the norm before rounding. Rounding is repeated until the norm is within this
    bound, which one attempt meets with probability at least ``1 - beta``; with ``beta`` 0 the bound
    is the worst case and the first attempt always meets it.

    :raises PlanError: ``rounding`` where beta is outside [0, 1) or a size is negative.
    """
    _check(l2_levels, beta, dimension)
    return math.sqrt(conditional_square(l2_levels, dimension, beta=beta))


def rounded_l1(l2_levels: float, *, beta: float, dimension: int) -> float:
    """Largest L1 norm, in levels, of a vector of whole numbers within :func:`rounded_l2`."""
    l2 = rounded_l2(l2_levels, beta=beta, dimension=dimension)
    return l1_of(l2, dimension=dimension)


def l1_of(l2_levels: float, *, dimension: int) -> float:
    """Bound of the L1 norm of whole numbers by the L2 norm: |x|_1 <= |x|_2 min(sqrt(d), |x|_2)."""
    return l2_levels * min(math.sqrt(dimension), l2_levels)


def heuristic_scale(
    *,
    local_stddev: float,
    l2_clip: float,
    bits: int,
    clients: int,
    dimension: int,
    k_stddevs: float,
    rho: float = 1.0,
) -> float:
    """Levels per unit at which ``k_stddevs`` of a coordinate of the noisy sum fill ``bits``.

    ``local_stddev`` is one client's noise, in units; ``rho`` 1 is the flatness that a rotation
    gives.

    :raises PlanError: ``bits`` where the rounding errors alone fill the range.
    """
    room = 4.0**bits - clients * k_stddevs**2
    if room <= 0:
        need = math.ceil(math.log2(k_stddevs * math.sqrt(clients)) + 1e-9)
        raise PlanError(
            f"{bits} bits cannot hold {clients} rounded inputs; {need} are needed at least",
            rule="bits",
            field="bits",
        )
    spread = rho * (l2_clip * clients) ** 2 / dimension + clients * local_stddev**2
    return math.sqrt(room) / (2 * k_stddevs * math.sqrt(spread))


def sum_bits(
    *,
    scale: float,
    local_stddev_levels: float,
    l2_clip: float,
    clients: int,
    dimension: int,
    k_stddevs: float,
    rho: float = 1.0,
) -> float:
    """Bits, a real number, that ``k_stddevs`` of a coordinate of the noisy rounded sum fill.

    The inverse of :func:`heuristic_scale`: signal, noise and a quarter of a level squared of
    rounding for every client.
    """
    signal = rho * (scale * l2_clip * clients) ** 2 / dimension
    variance = signal + clients * (0.25 + local_stddev_levels**2)
    return math.log2(2 * k_stddevs * math.sqrt(variance))


def minimum_bits(
    *, noise_multiplier: float, clients: int, dimension: int, k_stddevs: float, beta: float
) -> float:
    """Bits, a real number, that no scale gets below; whole numbers of bits must exceed it.

    With ever coarser levels the sensitivity is that of the rounding itself, and the noise that
    covers it fills the range. ``noise_multiplier`` is the central standard deviation over the L2
    sensitivity after rounding.
    """
    sensitivity = rounded_l2(0.0, beta=beta, dimension=dimension)
    variance = clients / 4 + (noise_multiplier * sensitivity) ** 2
    return math.log2(2 * k_stddevs * math.sqrt(variance))


def _check(l2_levels: float, beta: float, dimension: int) -> None:
    if not 0 <= beta < 1:
        raise PlanError("beta is at least 0 and below 1", rule="rounding", field="beta")
    if not l2_levels >= 0 or dimension < 1:
        raise PlanError("a norm is at least 0 and a dimension at least 1", rule="rounding")
