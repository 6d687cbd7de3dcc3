"""Accounting: what epsilon and delta a mechanism gives away over its rounds.

Every figure is an upper bound, rounded upward: the smallest of the bounds that hold for the
mechanism. Sources are named at the curves; proofs of our own are in ``docs/dp-proofs.md``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from secagg_protocols.errors import MisuseError, PlanError

from .curves import (
    INTEGER_ORDERS,
    REAL_ORDERS,
    Best,
    Curve,
    Laplace1,
    Loss,
    Pure,
    Renyi,
    discrete_gaussian_divergence,
    discrete_gaussian_tau,
    pure_divergence,
    skellam_divergence,
)
from .gaussian import MOST_ROUNDS, Gaussian, best_equivalent, gaussian_curves, losses
from .mechanisms import (
    CentralDiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplaceSum,
    Mechanism,
    SkellamSum,
    sampler_distance,
)
from .scalar import ScalarGaussian, ScalarLaplace
from .subsampled import SampledGaussian, sampled_divergence

#: Orders of the generic subsampling bound, whose cost grows with the order.
SAMPLED_ORDERS = tuple(order for order in INTEGER_ORDERS if order <= 512)


def epsilon(
    mechanism: Mechanism, *, delta: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Epsilon of ``rounds`` adaptive rounds at a total ``delta``; never below the truth.

    ``sampling_rate`` below 1 is Poisson sampling of sites under the zero-out adjacency, see
    :mod:`secagg.dp.subsampled`; a mechanism whose sensitivity was doubled for ``replace-one`` must
    not be passed with it.

    :raises PlanError: ``noise-too-small`` where no bound gives a finite epsilon.
    :raises MisuseError: ``delta``, ``rounds``, ``sampling-rate`` outside their ranges; ``extra``.
    """
    _check_delta(delta)
    found = curve(mechanism, rounds=rounds, sampling_rate=sampling_rate).epsilon(delta)
    return _finite(found)


def delta(
    mechanism: Mechanism, *, epsilon: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Delta of ``rounds`` adaptive rounds at a total ``epsilon``, by the same bounds; at most 1.

    :raises MisuseError: as :func:`epsilon`, and ``epsilon`` where it is negative or not a number.
    """
    if not epsilon >= 0:
        raise MisuseError("epsilon must be at least 0", rule="epsilon")
    return curve(mechanism, rounds=rounds, sampling_rate=sampling_rate).delta(epsilon)


def curve(mechanism: Mechanism, *, rounds: int = 1, sampling_rate: float = 1.0) -> Best:
    """All bounds that hold for ``rounds`` rounds of a mechanism, as one curve.

    :raises MisuseError: ``rounds``, ``sampling-rate``.
    """
    _check_rounds(rounds, least=1)
    if not 0 < sampling_rate <= 1:
        raise MisuseError("a sampling rate is above 0 and at most 1", rule="sampling-rate")
    ideal = mechanism.as_sum() if isinstance(mechanism, CentralDiscreteGaussian) else mechanism
    if isinstance(ideal, DiscreteGaussianSum):
        curves = _discrete_gaussian(ideal, rounds, sampling_rate)
    elif isinstance(ideal, SkellamSum):
        curves = [_skellam(ideal, rounds, sampling_rate)]
    else:
        curves = _discrete_laplace(ideal, rounds, sampling_rate)
    return Best(tuple(curves), distance=rounds * sampler_distance(mechanism))


def compose(charges: Iterable[tuple[Mechanism, int]], *, delta: float) -> float:
    """Epsilon of several mechanisms together, each run a number of rounds, at a total ``delta``.

    Discrete Gaussians compose exactly, by their equivalent Gaussians; pure guarantees by their sum
    or by Renyi divergence; mixtures of kinds by the sum of Renyi divergences at whole orders.
    Without charges the answer is 0.

    :raises PlanError: ``noise-too-small`` where no bound gives a finite epsilon.
    :raises MisuseError: ``delta``, ``rounds``.
    """
    _check_delta(delta)
    counted: Counter[Mechanism] = Counter()
    for mechanism, rounds in charges:
        _check_rounds(rounds)
        counted[mechanism] += rounds
        _check_rounds(counted[mechanism])
    runs = [(mechanism, rounds) for mechanism, rounds in counted.items() if rounds]
    if not runs:
        return 0.0
    if len(runs) == 1:
        return epsilon(runs[0][0], delta=delta, rounds=runs[0][1])
    sums = [
        (one.as_sum() if isinstance(one, CentralDiscreteGaussian) else one, rounds)
        for one, rounds in runs
    ]
    curves: list[Curve] = [
        Renyi(lambda order: math.fsum(rounds * _divergence(one, order) for one, rounds in sums))
    ]
    gaussians = [(one, rounds) for one, rounds in sums if isinstance(one, DiscreteGaussianSum)]
    if len(gaussians) == len(sums):
        curves.append(_composed_gaussians(gaussians))
    laplaces = [(one, rounds) for one, rounds in sums if isinstance(one, DiscreteLaplaceSum)]
    if len(laplaces) == len(sums):
        curves.append(Pure(math.fsum(r * one.l1_levels / one.scale_levels for one, r in laplaces)))
    distance = math.fsum(rounds * sampler_distance(one) for one, rounds in runs)
    return _finite(Best(tuple(curves), distance=distance).epsilon(delta))


def _discrete_gaussian(mechanism: DiscreteGaussianSum, rounds: int, rate: float) -> list[Curve]:
    """Gaussian-equivalent bounds, the published bound, and in one dimension the exact curve."""
    curves = _scalar_gaussian(mechanism, rounds, rate)
    if rate == 1:
        curves += gaussian_curves(mechanism, rounds=rounds)
        published = Renyi(
            lambda order: rounds * _divergence(mechanism, order), REAL_ORDERS, continuous=True
        )
        return [*curves, published]
    best = best_equivalent(mechanism, rounds=rounds)
    if best is not None:
        curves.append(Loss(SampledGaussian(best[0], rate, rounds), best[1]))
    return curves or [_sampled(mechanism, rounds, rate)]


def _scalar_gaussian(mechanism: DiscreteGaussianSum, rounds: int, rate: float) -> list[Curve]:
    """In one dimension: one discrete Gaussian of all the variance, at the largest whole shift."""
    shift = math.floor(mechanism.l2_levels)
    stddev = math.sqrt(mechanism.shares * mechanism.local_variance_levels2)
    spread = losses(mechanism, rounds=rounds)
    exact = ScalarGaussian(stddev, shift, rate, rounds)
    if mechanism.dimension > 1 or shift < 1 or spread > 1 or not exact.affordable:
        return []
    return [Loss(exact, spread)]


def _skellam(mechanism: SkellamSum, rounds: int, rate: float) -> Curve:
    if rate < 1:
        return _sampled(mechanism, rounds, rate)
    return Renyi(lambda order: rounds * _divergence(mechanism, order))


def _discrete_laplace(mechanism: DiscreteLaplaceSum, rounds: int, rate: float) -> list[Curve]:
    pure = mechanism.l1_levels / mechanism.scale_levels
    if rate < 1:
        # Sampling turns a pure guarantee into log(1 + rate (e^pure - 1)), in both directions.
        pure = math.log1p(rate * math.expm1(pure)) if pure < 700 else pure
    curves: list[Curve] = [Pure(pure, rounds)]
    if mechanism.dimension == 1 and rate == 1:
        shift = math.floor(mechanism.l1_levels)
        if rounds == 1:
            curves.append(Laplace1(mechanism.scale_levels, shift))
        exact = ScalarLaplace(mechanism.scale_levels, shift, rounds)
        if rounds > 1 and shift and exact.affordable:
            curves.append(exact)
    return curves


def _sampled(mechanism: DiscreteGaussianSum | SkellamSum, rounds: int, rate: float) -> Renyi:
    """The generic bound of subsampling, which needs no more than Renyi divergences."""
    values: dict[int, float] = {}

    def divergence(order: int) -> float:
        if order not in values:
            values[order] = _divergence(mechanism, order)
        return values[order]

    return Renyi(
        lambda order: rounds * sampled_divergence(divergence, rate=rate, order=int(order)),
        SAMPLED_ORDERS,
    )


def _divergence(
    mechanism: DiscreteGaussianSum | SkellamSum | DiscreteLaplaceSum, order: float
) -> float:
    """Renyi divergence of one round, without the distance of its sampler."""
    if isinstance(mechanism, DiscreteLaplaceSum):
        pure = mechanism.l1_levels / mechanism.scale_levels
        return pure_divergence(epsilon=pure, order=order)
    variance = mechanism.shares * mechanism.local_variance_levels2
    if isinstance(mechanism, SkellamSum):
        return skellam_divergence(
            l1=mechanism.l1_levels, l2=mechanism.l2_levels, variance=variance, order=int(order)
        )
    if not mechanism.l2_levels:
        return 0.0
    l2 = mechanism.l2_levels / math.sqrt(variance)
    tau = discrete_gaussian_tau(
        local_stddev=math.sqrt(mechanism.local_variance_levels2), shares=mechanism.shares
    )
    # Whole numbers have |x| <= x^2, and d coordinates |x|_1 <= sqrt(d) |x|_2.
    l1 = l2 * min(math.sqrt(mechanism.dimension), mechanism.l2_levels)
    found = discrete_gaussian_divergence(
        l1_ratio=l1, l2_ratio=l2, tau=tau, dimension=mechanism.dimension, order=order
    )
    if mechanism.log_ratio:
        # A pointwise ratio within e^r moves a divergence of order a by at most (2a - 1)/(a - 1) r.
        moved = mechanism.dimension * mechanism.shares * mechanism.log_ratio
        found += (2 * order - 1) / (order - 1) * moved
    return found


def _composed_gaussians(runs: list[tuple[DiscreteGaussianSum, int]]) -> Curve:
    """Gaussians of different multipliers compose to one: the squares of 1/multiplier add up."""
    squares, spread = 0.0, 0.0
    for mechanism, rounds in runs:
        best = best_equivalent(mechanism, rounds=rounds)
        if best is None:
            return Gaussian(0.0)
        squares += rounds / best[0] ** 2
        spread += best[1]
    return Loss(Gaussian(1 / math.sqrt(squares) if squares else math.inf), spread)


def _check_rounds(rounds: object, *, least: int = 0) -> None:
    whole = isinstance(rounds, int) and not isinstance(rounds, bool)
    if not whole or not least <= rounds <= MOST_ROUNDS:  # type: ignore[operator]
        raise MisuseError(f"rounds are an integer from {least} to {MOST_ROUNDS}", rule="rounds")


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise MisuseError("delta is at least 0 and below 1", rule="delta")


def _finite(found: float) -> float:
    if not math.isfinite(found):
        raise PlanError(
            "no bound gives a finite epsilon for so little noise", rule="noise-too-small"
        )
    return found
