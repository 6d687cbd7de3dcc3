"""Mechanisms: what noise a sum carries and how far one input can move it, as frozen values.

A mechanism knows no epsilon; :mod:`secagg.dp.accounting` interprets it. Everything is in integer
units, *levels*: the noise is an integer vector, and so is the sum to which it is added. The
sensitivities are those of the adjacency that is claimed, after rounding: ``zero-out`` moves the sum
by at most one clipped and rounded input, ``replace-one`` by at most two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from secagg_protocols.errors import PlanError

RULE = "mechanism"


def _positive_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{value!r} is not a positive integer", rule=RULE, field=name)


def _magnitude(name: str, value: object) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < 0:  # type: ignore[arg-type, operator]
        raise PlanError(f"{value!r} is not finite and at least 0", rule=RULE, field=name)


def _probability(name: str, value: object) -> None:
    _magnitude(name, value)
    if value >= 1:  # type: ignore[operator]
        raise PlanError(f"{value!r} is not below 1", rule=RULE, field=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussianSum:
    """Distributed discrete Gaussian noise: ``shares`` honest sites each add an independent draw.

    One site's draw at one coordinate has mass proportional to
    ``exp(-x^2 / (2 * local_variance_levels2))`` on the integers (Canonne, Kamath and Steinke,
    arXiv:2004.00010; sums of them: Kairouz, Liu and Steinke, arXiv:2102.06387).

    - ``local_variance_levels2``: variance parameter of one site's noise, levels squared.
    - ``shares``: sites whose noise is counted; the noise of colluders and dropouts is not.
    - ``l2_levels``: L2 sensitivity of the sum under the adjacency, levels.
    - ``dimension``: coordinates that carry noise.
    - ``total_variation``, ``log_ratio``: what separates one site's sampler from the ideal law at
      one coordinate: the distance, and the pointwise bound on ``|log(p / p_ideal)|``. Both count.

    :raises PlanError: ``mechanism`` with the field at fault.
    """

    local_variance_levels2: int
    shares: int
    l2_levels: float
    dimension: int
    total_variation: float = 0.0
    log_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("local_variance_levels2", "shares", "dimension"):
            _positive_integer(name, getattr(self, name))
        _magnitude("l2_levels", self.l2_levels)
        _probability("total_variation", self.total_variation)
        _magnitude("log_ratio", self.log_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkellamSum:
    """Distributed Skellam noise: the sum of the shares is exactly Skellam again.

    One site's draw is the difference of two Poisson variables, of variance
    ``local_variance_levels2`` altogether (Agarwal, Kairouz and Liu, arXiv:2110.04995).

    Fields as in :class:`DiscreteGaussianSum`; ``l1_levels`` is the L1 sensitivity, levels.

    :raises PlanError: ``mechanism`` with the field at fault.
    """

    local_variance_levels2: int
    shares: int
    l1_levels: float
    l2_levels: float
    dimension: int
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("local_variance_levels2", "shares", "dimension"):
            _positive_integer(name, getattr(self, name))
        _magnitude("l1_levels", self.l1_levels)
        _magnitude("l2_levels", self.l2_levels)
        _probability("total_variation", self.total_variation)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteLaplaceSum:
    """Noise whose sum over the counted sites is exactly discrete Laplace at every coordinate.

    The mass of the sum's noise is proportional to ``exp(-|x| / scale_levels)``. Sites add
    differences of two Polya variables, of which the discrete Laplace law is the sum.

    - ``scale_levels``: scale of the summed noise, levels.
    - ``l1_levels``: L1 sensitivity under the adjacency, levels.
    - ``dimension``: coordinates that carry noise.
    - ``total_variation``: distance of the *summed* noise from its ideal law at one coordinate.

    :raises PlanError: ``mechanism`` with the field at fault.
    """

    scale_levels: int
    l1_levels: float
    dimension: int
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale_levels", "dimension"):
            _positive_integer(name, getattr(self, name))
        _magnitude("l1_levels", self.l1_levels)
        _probability("total_variation", self.total_variation)


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralDiscreteGaussian:
    """Discrete Gaussian noise that the server adds to the sum.

    It protects against those who see only what is published, never against the server. To the
    accountant it is a :class:`DiscreteGaussianSum` of one share; fields as there.

    :raises PlanError: ``mechanism`` with the field at fault.
    """

    variance_levels2: int
    l2_levels: float
    dimension: int
    total_variation: float = 0.0
    log_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("variance_levels2", "dimension"):
            _positive_integer(name, getattr(self, name))
        _magnitude("l2_levels", self.l2_levels)
        _probability("total_variation", self.total_variation)
        _magnitude("log_ratio", self.log_ratio)

    def as_sum(self) -> DiscreteGaussianSum:
        """The same noise, as a sum of one share."""
        return DiscreteGaussianSum(
            local_variance_levels2=self.variance_levels2,
            shares=1,
            l2_levels=self.l2_levels,
            dimension=self.dimension,
            total_variation=self.total_variation,
            log_ratio=self.log_ratio,
        )


Mechanism: TypeAlias = (
    DiscreteGaussianSum | SkellamSum | DiscreteLaplaceSum | CentralDiscreteGaussian
)


def sampler_distance(mechanism: Mechanism) -> float:
    """Total variation of one round's whole noise vector from its ideal law, an upper bound."""
    shares = mechanism.shares if isinstance(mechanism, DiscreteGaussianSum | SkellamSum) else 1
    return shares * mechanism.dimension * mechanism.total_variation
