"""Calibration: the noise, levels and bits of a plan from (epsilon, delta)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.plan import Plan
from secagg_protocols.stages import (
    AdaptiveClip,
    ClipL2,
    Integers,
    Noise,
    Pipeline,
    Quantise,
    Rotate,
    Stage,
)
from secagg_protocols.stages.noise import MOST_SCALE, MOST_VARIANCE, Law

from . import accounting
from .claims import ADJACENCIES, ADVERSARIES, Adjacency, Adversary, Claims
from .gaussian import gaussian_multiplier
from .mechanisms import Mechanism
from .plan_noise import graph_failure, mechanism_of, mechanism_with

#: Rounding may at most double the norm that noise has to hide: beyond it a plan is of no use.
MOST_INFLATION: Final = 2.0
#: A weight, and the bit of an adaptive clip, have at most this part of the vector's sensitivity.
_EXTRA_PART: Final = 0.25
#: Without weights, the number of sites within a clip gets noise of this part of all sites
#: (Andrew et al. 2021, section 3.1), where that takes less.
_COUNT_NOISE: Final = 1 / 20
#: Rounds that an accountant is asked for at most, with sampling fewer.
MOST_ROUNDS: Final = 1 << 24
_MOST_SAMPLED: Final = 100_000
#: Below it no accountant is exact enough.
_LEAST_EPSILON: Final = 1e-6
#: Beyond it nothing is private, and the sampler's distance weighs on delta.
_MOST_EPSILON: Final = 48.0
#: The noise's integer parameter is found to this part of itself.
_FINE: Final = 2e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What noise has to reach, over all rounds together."""

    epsilon: float
    delta: float
    rounds: int
    sampling_rate: float
    adjacency: Adjacency

    def met_by(self, mechanism: Mechanism) -> bool:
        """Whether the accountant finds at most ``epsilon``."""
        try:
            return self.spent(mechanism) <= self.epsilon
        except PlanError:
            return False

    def spent(self, mechanism: Mechanism) -> float:
        """The accountant's epsilon over all rounds."""
        return accounting.epsilon(
            mechanism, delta=self.delta, rounds=self.rounds, sampling_rate=self.sampling_rate
        )


def calibrate(
    plan: Plan,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    l2_clip: float | None,
    adjacency: Adjacency,
    mechanism: Law = "discrete-gaussian",
    bits: int | Literal["auto"] = "auto",
    sampling_rate: float = 1.0,
    adversary: Adversary = "server",
    wrap_bits: int = 20,
    weight_floor: int | None = None,
) -> Plan:
    """``plan`` with the noise that gives (epsilon, delta) over all its rounds.

    plan: roster, length, dropouts, colluders and weights are taken from it. Its stages say what
        is summed: ``Integers`` stay (counts, with noise on them), an ``AdaptiveClip`` stays, and
        anything else becomes ``ClipL2(l2_clip)``, ``Rotate``, ``Quantise``, ``Noise``.
    epsilon, delta: over all ``rounds`` together, never exceeded and met within 1 %, or for noise
        of a few levels to one whole step of its parameter.
    rounds: masked inputs that a site sends, retries included.
    l2_clip: in the vector's units; ``None`` for integers and for an adaptive clip.
    adjacency: ``"zero-out"`` (a site's input against zeros) or ``"replace-one"`` (against any
        other input, which counts twice).
    mechanism: see :class:`secagg.Noise`. Only ``min_survivors - colluding`` sites' noise counts.
    bits: bits a coordinate; ``"auto"`` takes those with which rounding costs next to nothing.
    sampling_rate: Poisson sampling of sites; below 1 only for ``adversary="model-consumer"``,
        since the server sees who takes part.
    wrap_bits: a sum wraps with probability at most 2^-wrap_bits; this concerns no privacy.
    weight_floor: a noisy total weight below it gives no mean; ``None`` takes three standard
        deviations of its noise in a full sum.

    Raises :class:`PlanError`: ``dp-bits`` for too few bits, with the number needed;
    ``dp-target``, ``dp-adjacency``, ``dp-clip``, ``dp-sampling``, ``dp-noise`` otherwise.
    """
    _check_arguments(plan, epsilon, delta, rounds, adjacency, adversary, sampling_rate, bits)
    if mechanism == "central-discrete-gaussian" and adversary == "server":
        raise PlanError(
            "noise that the server adds hides nothing from it; "
            'adversary="model-consumer" counts only those who see what is published',
            rule="dp-noise",
            field="adversary",
        )
    target = Target(
        epsilon=float(epsilon),
        delta=float(delta),
        rounds=rounds,
        sampling_rate=float(sampling_rate),
        adjacency=adjacency,
    )
    draft = _Draft(plan, _kept(plan, l2_clip), mechanism, target, wrap_bits)
    levels = draft.levels(bits)
    stages, need = draft.fitted(levels, bits)
    *before, noise = stages
    if isinstance(noise, Noise):  # as it is
        if weight_floor is None:
            spread = math.sqrt(noise.variance(plan.clients)) / noise.extra_levels
            weight_floor = math.ceil(3 * spread) if plan.max_weight > 1 else 1
        stages = (*before, dataclasses.replace(noise, weight_floor=weight_floor))
    claims = Claims(
        adjacency=adjacency,
        adversary=adversary,
        delta=target.delta,
        epsilon=target.epsilon,
        rounds=rounds,
        sampling_rate=target.sampling_rate,
    )
    made = dataclasses.replace(
        plan,
        stages=stages,
        bits=need if bits == "auto" else bits,
        privacy=claims.over(plan, mechanism),
    )
    found = target.spent(mechanism_of(made))
    if not found <= target.epsilon:
        raise PlanError(
            f"the sampler's distance from the ideal law leaves epsilon {found:.6g}",
            rule="dp-target",
            field="delta",
        )
    return made


class _Draft:
    """The search for levels and noise."""

    def __init__(self, plan: Plan, kept: Stage, law: Law, target: Target, wrap_bits: int) -> None:
        if law not in get_args(Law):
            raise PlanError(
                f"one of {', '.join(get_args(Law))}", rule="noise-law", field="mechanism"
            )
        self.plan, self.kept, self.law, self.target = plan, kept, law, target
        self.wrap_bits = wrap_bits
        self.real = not isinstance(kept, Integers)
        self.shares = plan.min_survivors - plan.colluding
        self._part = _EXTRA_PART
        twice = 2.0 if target.adjacency == "replace-one" else 1.0
        if law == "discrete-laplace":
            guess = twice * target.rounds / target.epsilon
        else:
            # Standard deviation over sensitivity that Gaussian noise would need in one round.
            z = gaussian_multiplier(
                target.epsilon, target.delta, target.rounds, target.sampling_rate
            )
            if plan.max_weight == 1:
                # Noise of z sensitivities is this part of what one site adds to the count.
                self._part = min(self._part, z / (_COUNT_NOISE * plan.clients))
            shares = 1 if law == "central-discrete-gaussian" else self.shares
            guess = (twice * z) ** 2 / shares
        self._distance = self._sampler_distance()
        # Variance over squared sensitivity, or scale over sensitivity. Noise grows with the
        # sensitivity, so one search tells what others will find.
        self._per_norm = guess
        first = self._start()
        self._per_norm *= self._parameter(first) / self._guess(first)

    def _sampler_distance(self) -> float:
        """What is left, a coordinate, for the sampler's distance from its law (far below it) and
        for the graph of a sparse plan."""
        target, d = self.target, self.pipeline(1, 1).total_length
        counted = (
            1 if self.law in {"discrete-laplace", "central-discrete-gaussian"} else self.shares
        )
        failure = 0.0 if self.law == "central-discrete-gaussian" else graph_failure(self.plan)
        distance = 2.0**-100 + failure / (counted * d)
        least = distance * counted * d * target.rounds * (1 + math.exp(target.epsilon))
        if least > target.delta / 2:
            what = "the graph's failure probability" if failure else "the sampler's distance"
            raise PlanError(
                f"over all rounds {what} takes {least:.2g} of delta; it needs more delta"
                + (", more security_bits or the complete graph" if failure else ""),
                rule="dp-target",
                field="security_bits" if failure else "delta",
            )
        return distance

    def pipeline(self, levels: int, parameter: int) -> Pipeline:
        """Stages with ``levels`` and a noise of ``parameter`` (variance or scale)."""
        return Pipeline(self.stages(levels, parameter), self.plan.length, self.plan.max_weight)

    def stages(self, levels: int, parameter: int) -> tuple[Stage, ...]:
        noise = Noise(
            law=self.law,
            extra_levels=self._extra_levels(levels),
            wrap_bits=self.wrap_bits,
            **(
                {"scale_levels": parameter, "shares": self.shares}
                if self.law == "discrete-laplace"
                else {"variance_levels2": parameter}
            ),
        )
        if not self.real:
            return (self.kept, noise)
        return (self.kept, Rotate(), Quantise(levels, "conditional"), noise)

    def levels(self, bits: int | Literal["auto"]) -> int:
        """Levels per clip: as many as help, or as fit into ``bits``."""
        if not self.real:
            return 1
        most = self._start()
        if bits == "auto" or self._fits(most, bits):
            return most
        least = self._least(most)
        if not self._fits(least, bits):
            raise self._too_few(least, bits)
        # Fewer levels, fewer bits: the largest number that fits.
        low, high = least, most
        while high - low > max(1, low // 1000):
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(middle, bits) else (low, middle)
        return low

    def fitted(self, levels: int, bits: int | Literal["auto"]) -> tuple[tuple[Stage, ...], int]:
        """Stages with their noise, and the bits that they need."""
        least = self._least(self._start()) if self.real else 1
        while True:
            parameter = self._parameter(levels)
            need = self.pipeline(levels, parameter).bits_needed(self.plan.clients)
            if bits == "auto" and need > 64:
                raise self._too_few(levels, 64)
            if bits == "auto" or need <= bits:
                return self.stages(levels, parameter), need
            if levels <= least:
                raise self._too_few(levels, bits)
            # The guess that chose these levels was a hair too low.
            levels = max(least, int(levels * 0.99))

    # Parts of the search.

    def _extra_levels(self, levels: int) -> int:
        """Levels of one unit of an extra: a fixed part of what one site's vector may hold."""
        if self.plan.max_weight == 1 and not isinstance(self.kept, AdaptiveClip):
            return 1
        top = levels * self.plan.max_weight
        if isinstance(self.kept, Integers):
            top = max(abs(self.kept.low), abs(self.kept.high), 1) * self.plan.max_weight
        return max(1, min(1 << 31, round(self._part * top / self.plan.max_weight)))

    def _norm(self, levels: int) -> float:
        l1, l2 = self.pipeline(levels, 1).sensitivity
        return l1 if self.law == "discrete-laplace" else l2

    def _start(self) -> int:
        """Levels from which more of them gain next to nothing."""
        if not self.real:
            return 1
        d = self.pipeline(1, 1).bounds.length
        # A norm in which rounding is lost: its tail, and what it adds over d coordinates.
        norm = max(500.0, 12 * math.sqrt(d))
        # Local noise of 16 levels, so that its integer parameter is fine enough, for noise about
        # as large as the clip; where it is smaller, more levels.
        norm = max(norm, 16 * math.sqrt(self.shares) * max(1.0, self.target.epsilon))
        # An extra of one level is a small part of four.
        fewest = 4 if self.pipeline(1, 1).extras else 1
        high = max(fewest, math.ceil(norm / self.plan.max_weight))
        # No more than the law's largest noise is enough for, even if the guess is somewhat low.
        largest = 0.7 * self._most
        if self._guess(high) <= largest:
            return high
        low = self._least(high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._guess(middle) <= largest else (low, middle)
        return low

    @property
    def _most(self) -> int:
        """Largest parameter of the law."""
        return MOST_SCALE if self.law == "discrete-laplace" else MOST_VARIANCE[self.law]

    def _least(self, enough: int) -> int:
        """Fewest levels with which rounding at most doubles the norm, as it does at ``enough``."""
        low, high = 0, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self._inflation(middle) <= MOST_INFLATION else (middle, high)
            )
        return high

    def _inflation(self, levels: int) -> float:
        bounds = self.pipeline(levels, 1).bounds
        return (bounds.l2 or math.inf) / (levels * self.plan.max_weight)

    def _fits(self, levels: int, bits: int) -> bool:
        try:
            return self.pipeline(levels, self._guess(levels)).bits_needed(self.plan.clients) <= bits
        except PlanError:
            return False

    def _too_few(self, levels: int, bits: int) -> PlanError:
        need = self.pipeline(levels, self._parameter(levels)).bits_needed(self.plan.clients)
        return PlanError(
            f"{bits} bits a coordinate cannot hold this noise and a sum whose rounding is small "
            f"beside it; it takes at least {need}",
            rule="dp-bits",
            field="bits",
        )

    def _guess(self, levels: int) -> int:
        power = 1 if self.law == "discrete-laplace" else 2
        return max(1, math.ceil(self._per_norm * self._norm(levels) ** power))

    def _parameter(self, levels: int) -> int:
        """The smallest variance (or scale) that meets the target, to a few parts in 10,000."""
        most = self._most

        def holds(parameter: int) -> bool:
            pipeline = self.pipeline(levels, parameter)
            noise = pipeline.noise
            return noise is not None and self.target.met_by(
                mechanism_with(pipeline, noise, self.shares, self.target.adjacency, self._distance)
            )

        # From the guess in growing steps to both sides, then halving.
        low, high, step = 0, min(self._guess(levels), most), 1.001
        while not holds(high):
            if high == most:
                raise PlanError(
                    f"this takes {self.law} noise beyond a parameter of {most} in levels; fewer "
                    "rounds or levels, or a larger epsilon, need less",
                    rule="dp-noise",
                    field="epsilon",
                )
            low, high, step = high, min(most, math.ceil(high * step)), step**2
        if not low:
            low = math.floor(high / step)
            while low > 0 and holds(low):
                high, low, step = low, math.floor(low / step**2), step**2
        while high - low > max(1, int(_FINE * high)):
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high


def _kept(plan: Plan, l2_clip: float | None) -> Stage:
    """The first stage of the plan to make: what is summed."""
    first = plan.stages[0]
    own = isinstance(first, (Integers, AdaptiveClip))
    if own != (l2_clip is None):
        raise PlanError(
            "l2_clip is None for integers and for a clip that adapts, a number otherwise",
            rule="dp-clip",
            field="l2_clip",
        )
    return first if l2_clip is None else ClipL2(l2_clip)


def _check_arguments(
    plan: Plan,
    epsilon: float,
    delta: float,
    rounds: int,
    adjacency: str,
    adversary: str,
    sampling_rate: float,
    bits: int | str,
) -> None:
    if not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")

    def refuse(text: str, rule: str, field: str) -> PlanError:
        return PlanError(text, rule=rule, field=field)

    for name, value, low, high in (
        ("epsilon", epsilon, _LEAST_EPSILON, _MOST_EPSILON),
        ("delta", delta, 1e-300, 0.5),
    ):
        if type(value) not in {int, float} and not isinstance(value, np.floating):
            raise refuse(f"a float, not {value!r}", "dp-target", name)
        if not low <= value <= high:
            raise refuse(f"from {low:g} to {high:g}", "dp-target", name)
    most = MOST_ROUNDS if sampling_rate == 1 else _MOST_SAMPLED
    if type(rounds) is not int or not 1 <= rounds <= most:
        raise refuse(f"an int from 1 to {most}, not {rounds!r}", "dp-target", "rounds")
    if type(adjacency) is not str or adjacency not in ADJACENCIES:
        raise refuse(f"one of {', '.join(ADJACENCIES)}", "dp-adjacency", "adjacency")
    if type(adversary) is not str or adversary not in ADVERSARIES:
        raise refuse(f"one of {', '.join(ADVERSARIES)}", "dp-sampling", "adversary")
    if bits != "auto" and (type(bits) is not int or not 1 <= bits <= 64):
        raise refuse(f'"auto", or an int from 1 to 64, not {bits!r}', "dp-bits", "bits")
    rate = sampling_rate
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise refuse("above 0 and at most 1", "dp-sampling", "sampling_rate")
    if rate < 1 and adversary == "server":
        raise refuse(
            "the server sees who takes part, so sampling hides nothing from it; "
            'adversary="model-consumer" counts only those who see the model',
            "dp-sampling",
            "sampling_rate",
        )
    if rate < 1 and plan.sites_receive:
        raise refuse(
            "sites are told who takes part, so sampling hides nothing from those that receive "
            "the sum; with sampling they do not (sites_receive=False)",
            "dp-sampling",
            "sites_receive",
        )
    if rate < 1 and adjacency == "replace-one":
        raise refuse(
            "amplification by sampling is accounted for under zero-out",
            "dp-sampling",
            "adjacency",
        )
