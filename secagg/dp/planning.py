"""The published calibration, for comparison: plans use :func:`secagg.dp.calibrate`.

As in the literature, the noise of all clients counts, dropouts and colluders included, and the
modulus holds a number of standard deviations of the noisy sum. It is a joint search of scale and
noise: the finest levels whose noisy sum fits a number of bits.

Noise and levels depend on each other: finer levels need less noise for their rounding but more
bits for the same noise. Public code minimises a squared error in epsilon, which ends above its
target or, with too few bits, at a scale where nothing but noise is left. Here the noise that meets
the target is found first, at every scale, and too few bits are an error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from secagg_protocols.errors import PlanError

from . import accounting
from .mechanisms import DiscreteGaussianSum, SkellamSum
from .rounding import l1_of, minimum_bits, rounded_l2, sum_bits

#: Levels per clip above which nothing is gained but bits are spent.
MOST_LEVELS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A scale and the noise that meets a target at it.

    - ``scale``: levels per unit.
    - ``local_variance_levels2``: variance of one client's noise, levels squared.
    - ``local_stddev``, ``local_stddev_levels``: its root, in units and in levels.
    - ``l2_levels``: L2 sensitivity after rounding, levels.
    - ``central_noise_multiplier``: standard deviation of all clients' noise over ``l2_clip``.
    - ``epsilon``: what the accountant reports, at most the target.
    """

    scale: float
    local_variance_levels2: int
    local_stddev: float
    local_stddev_levels: float
    l2_levels: float
    central_noise_multiplier: float
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What has to be met: (epsilon, delta) over ``rounds``, by the noise of ``shares`` sites.

    :raises PlanError: ``epsilon``, ``delta``, ``mechanism`` outside their ranges;
        ``sampler-distance`` where the sampler alone costs more than delta.
    """

    epsilon: float
    delta: float
    rounds: int
    shares: int
    dimension: int
    mechanism: str = "discrete-gaussian"
    sampling_rate: float = 1.0
    total_variation: float = 0.0
    log_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise PlanError("not finite and above 0", rule="epsilon", field="epsilon")
        if not 0 < self.delta < 1:
            raise PlanError("not above 0 and below 1", rule="delta", field="delta")
        if self.mechanism not in {"discrete-gaussian", "skellam"}:
            raise PlanError("no such mechanism", rule="mechanism", field="mechanism")
        distance = self.rounds * self.shares * self.dimension * self.total_variation
        if distance * (1 + math.exp(min(self.epsilon, 700.0))) >= self.delta:
            raise PlanError(
                "the sampler's distance from its law takes all of delta",
                rule="sampler-distance",
                field="total_variation",
            )

    def at(self, variance: int, l2_levels: float) -> DiscreteGaussianSum | SkellamSum:
        """The mechanism with this local variance and this sensitivity, both in levels."""
        if self.mechanism == "skellam":
            return SkellamSum(
                local_variance_levels2=variance,
                shares=self.shares,
                l1_levels=l1_of(l2_levels, dimension=self.dimension),
                l2_levels=l2_levels,
                dimension=self.dimension,
                total_variation=self.total_variation,
            )
        return DiscreteGaussianSum(
            local_variance_levels2=variance,
            shares=self.shares,
            l2_levels=l2_levels,
            dimension=self.dimension,
            total_variation=self.total_variation,
            log_ratio=self.log_ratio,
        )

    def reached(self, variance: int, l2_levels: float) -> float:
        """Epsilon of a local variance and a sensitivity; infinite where no bound has one."""
        try:
            return accounting.epsilon(
                self.at(variance, l2_levels),
                delta=self.delta,
                rounds=self.rounds,
                sampling_rate=self.sampling_rate,
            )
        except PlanError:
            return math.inf


def multiplier(target: Target) -> float:
    """Noise multiplier of the target at levels so fine that rounding and Skellam terms vanish."""
    return _multiplier(
        target.epsilon, target.delta, target.rounds, target.sampling_rate, target.mechanism
    )


@functools.lru_cache(maxsize=64)
def _multiplier(
    epsilon: float, delta: float, rounds: int, sampling_rate: float, mechanism: str
) -> float:
    if mechanism == "skellam":
        return _renyi_multiplier(epsilon, delta, rounds, sampling_rate)
    from .gaussian import gaussian_multiplier

    return gaussian_multiplier(epsilon, delta, rounds, sampling_rate)


def _renyi_multiplier(epsilon: float, delta: float, rounds: int, rate: float) -> float:
    from .curves import INTEGER_ORDERS, Renyi, smallest
    from .subsampled import sampled_divergence

    def reached(z: float) -> float:
        def plain(order: float) -> float:
            return order / (2 * z * z)

        def sampled(order: float) -> float:
            return sampled_divergence(plain, rate=rate, order=int(order))

        if rate == 1:
            return Renyi(lambda a: rounds * plain(a), INTEGER_ORDERS).epsilon(delta)
        return Renyi(lambda a: rounds * sampled(a), accounting.SAMPLED_ORDERS).epsilon(delta)

    return smallest(lambda z: reached(z) <= epsilon, 1.0, tolerance=1e-5)


#: Bits that a scale (levels per unit) and a local standard deviation (levels) need.
BitsRule = Callable[[float, float], float]
#: L2 sensitivity in levels at a scale.
SensitivityRule = Callable[[float], float]


def finest(
    target: Target, *, l2_clip: float, sensitivity: SensitivityRule, bits: int, needed: BitsRule
) -> tuple[float, int]:
    """The scale and whole local variance with the least noise whose sum fits ``bits``.

    ``sensitivity`` and ``needed``, the rule of the modulus, must not fall with the scale.

    :raises PlanError: ``bits``, with the number needed, where no scale fits.
    """
    z = multiplier(target)

    def stddev(scale: float) -> float:
        return z * sensitivity(scale) / math.sqrt(target.shares)

    def fits(scale: float) -> bool:
        return needed(scale, stddev(scale)) <= bits

    # At this scale the whole vector is less than one thousandth of a level.
    coarsest = 1e-3 / l2_clip
    top = MOST_LEVELS / l2_clip
    if not fits(top):
        top = last(fits, coarsest, top) if fits(coarsest) else 0.0
    # Noise is whole: a little coarser scale meets the variance below; that above may not fit.
    found: list[tuple[float, int]] = []
    ideal = stddev(top) ** 2 if top else 0.0
    for variance in (math.floor(ideal), math.ceil(ideal)):
        if variance < 1 or (found and variance > 10_000):
            continue

        def holds(scale: float, variance: int = variance) -> bool:
            enough = needed(scale, math.sqrt(variance)) <= bits
            return enough and target.reached(variance, sensitivity(scale)) <= target.epsilon

        if holds(top):
            found.append((top, variance))
        elif holds(coarsest):
            found.append((last(holds, coarsest, top), variance))
    if not found:
        least = max(math.floor(needed(coarsest, stddev(coarsest))), bits) + 1
        raise PlanError(
            f"{bits} bits cannot hold the noise that epsilon {target.epsilon:g} asks for; "
            f"{least} are needed at least",
            rule="bits",
            field="bits",
        )
    return min(found, key=lambda pair: math.sqrt(pair[1]) / pair[0])


def last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest value at which ``holds``, rounded down by at most parts in a hundred thousand.

    It holds at ``low`` and not at ``high``.
    """
    reach = 1e-4
    # The answer is mostly just below the upper end, and every look may be expensive.
    while high * (1 - reach) > low:
        if holds(high * (1 - reach)):
            low = high * (1 - reach)
            break
        high, reach = high * (1 - reach), min(2 * reach, 0.5)
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def parameters(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    dimension: int,
    clients: int,
    l2_clip: float,
    bits: int,
    k_stddevs: float = 4.0,
    beta: float = math.exp(-0.5),
    mechanism: str = "discrete-gaussian",
    sampling_rate: float = 1.0,
) -> Parameters:
    """The scale and the noise of ``clients`` sites that meet (epsilon, delta) within ``bits``.

    For comparison with published values: the noise of every client is counted, so neither a dropout
    nor a colluder is allowed for. A plan's noise comes from :func:`secagg.dp.calibrate`.

    ``dimension`` is that of the rotated, padded vector; ``k_stddevs`` standard deviations of a
    coordinate of the noisy sum must fit the range of ``bits``; ``beta`` is that of conditional
    rounding. The epsilon of the result is at most the target, and the local variance is whole.

    :raises PlanError: ``bits``, with the number needed, where no scale fits; ``epsilon``,
        ``delta``, ``mechanism`` for a target outside its range.
    """
    target = Target(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        shares=clients,
        dimension=dimension,
        mechanism=mechanism,
        sampling_rate=sampling_rate,
    )

    def sensitivity(scale: float) -> float:
        return rounded_l2(scale * l2_clip, beta=beta, dimension=dimension)

    def needed(scale: float, stddev: float) -> float:
        return sum_bits(
            scale=scale,
            local_stddev_levels=stddev,
            l2_clip=l2_clip,
            clients=clients,
            dimension=dimension,
            k_stddevs=k_stddevs,
        )

    least = minimum_bits(
        noise_multiplier=multiplier(target),
        clients=clients,
        dimension=dimension,
        k_stddevs=k_stddevs,
        beta=beta,
    )
    if bits <= least:
        raise PlanError(
            f"{bits} bits cannot hold the noise; {math.floor(least) + 1} are needed at least",
            rule="bits",
            field="bits",
        )
    scale, variance = finest(
        target, l2_clip=l2_clip, sensitivity=sensitivity, bits=bits, needed=needed
    )
    stddev = math.sqrt(variance)
    l2 = sensitivity(scale)
    return Parameters(
        scale=scale,
        local_variance_levels2=variance,
        local_stddev=stddev / scale,
        local_stddev_levels=stddev,
        l2_levels=l2,
        central_noise_multiplier=stddev * math.sqrt(clients) / scale / l2_clip,
        epsilon=target.reached(variance, l2),
    )
