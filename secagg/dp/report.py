"""What a plan's noise promises, what it costs, and what a sum that happened has given away."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.events import Aggregate
from secagg_protocols.plan import Plan

from . import accounting
from .claims import Adjacency, Adversary, Claims, noise_of
from .mechanisms import sampler_distance
from .plan_noise import mechanism_of, of_survivors
from .shares import provision


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The claims of a plan with noise, and what the accountant finds for its stages.

    epsilon, delta, rounds: as claimed. epsilon_found: the accountant's, for all rounds.
    shares: honest sites whose noise counts. l1_levels, l2_levels: sensitivity under
    ``adjacency``. noise_levels, noise_units: standard deviation in each coordinate of a full sum,
    in levels and in the vector's units. wrap_probability: of one sum. sampler_delta: what the
    sampler's distance from the ideal law, and the failures of a sparse graph, add to delta over
    all rounds, within ``delta``.
    """

    adjacency: Adjacency
    adversary: Adversary
    mechanism: str
    epsilon: float
    delta: float
    rounds: int
    sampling_rate: float
    epsilon_found: float
    shares: int
    l1_levels: float
    l2_levels: float
    noise_levels: float
    noise_units: float
    wrap_probability: float
    sampler_delta: float
    bits: int

    @property
    def assumes(self) -> list[str]:
        """What the claim rests on, one sentence each."""
        lines = [
            "Noise that sites add cannot be verified: every honest site that counts is one that "
            "runs this software as it is."
            if self.mechanism != "central-discrete-gaussian"
            else "The server adds the noise: it sees exact sums, and only those who see what it "
            "publishes are kept from them."
        ]
        if self.adjacency == "zero-out":
            lines.append(
                "zero-out: what is hidden is a site's input against zeros; that the site took "
                "part is not hidden."
            )
        else:
            lines.append("replace-one: what is hidden is a site's input against any other.")
        if self.sampling_rate < 1:
            lines.append(
                f"model-consumer, sampling rate {self.sampling_rate:g}: sites are drawn "
                "independently in each round, and nobody who sees results learns who was drawn. "
                "The server does, and against it this epsilon does not hold."
            )
        return lines


def promise(plan: Plan) -> Promise:
    """What ``plan`` claims, checked against its own stages.

    Raises :class:`PlanError`: ``dp-noise`` for a plan without noise, ``dp-claims`` for claims that
    are missing, ``dp-promise`` for ones that its noise does not keep.
    """
    claims, noise = Claims.of(plan), noise_of(plan)
    mechanism = mechanism_of(plan)
    found = accounting.epsilon(
        mechanism, delta=claims.delta, rounds=claims.rounds, sampling_rate=claims.sampling_rate
    )
    if found > claims.epsilon:
        raise PlanError(
            f"the plan claims epsilon {claims.epsilon:g}, its noise gives {found:.6g}",
            rule="dp-promise",
            field="privacy",
        )
    twice = 2.0 if claims.adjacency == "replace-one" else 1.0
    l1, l2 = plan.pipeline.sensitivity
    return Promise(
        adjacency=claims.adjacency,
        adversary=claims.adversary,
        mechanism=noise.law,
        epsilon=claims.epsilon,
        delta=claims.delta,
        rounds=claims.rounds,
        sampling_rate=claims.sampling_rate,
        epsilon_found=found,
        shares=1 if noise.central else plan.min_survivors - plan.colluding,
        l1_levels=twice * l1,
        l2_levels=twice * l2,
        noise_levels=math.sqrt(noise.variance(plan.clients)),
        noise_units=math.sqrt(plan.pipeline.noise_variance(plan.clients)),
        wrap_probability=2.0**-noise.wrap_bits,
        sampler_delta=claims.rounds * sampler_distance(mechanism) * (1 + math.exp(claims.epsilon)),
        bits=plan.wire_bits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Realised:
    """What one sum has given away, by the sites that were in it.

    epsilon: of this one round at ``delta``. shares: survivors less colluders. excess: variance
    of its noise over what the plan needs. survivors: sites in the sum.
    """

    epsilon: float
    delta: float
    adjacency: Adjacency
    survivors: int
    shares: int
    excess: float


def realised(aggregate: Aggregate, plan: Plan, *, delta: float | None = None) -> Realised:
    """Epsilon of what happened: more survivors than the plan needs bring more noise.

    ``delta``: ``None`` takes the plan's. This is a report: a site's ledger is charged at worst
    case, before anybody knows who survives.

    Raises :class:`PlanError` as :func:`promise`; :class:`MisuseError` (``arguments``) where the
    sum is not of this plan.
    """
    if not isinstance(aggregate, Aggregate):
        raise MisuseError("an Aggregate is needed", rule="arguments")
    claimed = promise(plan)
    survivors = len(aggregate.survivors)
    if not plan.min_survivors <= survivors <= plan.clients or not set(aggregate.survivors) <= set(
        plan.roster.names
    ):
        raise MisuseError("the survivors are not this plan's", rule="arguments")
    at = claimed.delta if delta is None else delta
    mechanism = of_survivors(plan, survivors, claimed.adjacency)
    return Realised(
        epsilon=accounting.epsilon(mechanism, delta=at, sampling_rate=claimed.sampling_rate),
        delta=at,
        adjacency=claimed.adjacency,
        survivors=survivors,
        shares=survivors - plan.colluding,
        excess=1.0 if plan.central_noise else survivors / claimed.shares,
    )


def noise_reasons(plan: Plan) -> list[str]:
    """Why the noise is what it is, one sentence each, for people."""
    told = promise(plan)
    cost = provision(plan.clients, plan.max_dropouts, plan.colluding)
    lines = [
        f"{told.mechanism}, {told.adjacency}, against {told.adversary}: epsilon "
        f"{told.epsilon_found:.4f} (at most {told.epsilon:g}) and delta {told.delta:g} over "
        f"{told.rounds} masked input(s) of a site, retries included.",
        f"Sensitivity {told.l2_levels:.1f} levels (L2, after rounding, extras included); noise of "
        f"{told.noise_levels:.1f} levels in each coordinate of a full sum, {told.noise_units:.4g} "
        "in the vector's units.",
    ]
    noise = noise_of(plan)
    if plan.max_weight > 1:
        spread = told.noise_levels / noise.extra_levels
        lines.append(
            f"Noise of {spread:.4g} in the total weight, of at most "
            f"{plan.max_weight * plan.clients}; below weight_floor {noise.weight_floor} there is "
            "no mean."
        )
    if plan.pipeline.adaptive is not None:
        spread = told.noise_levels / noise.extra_levels / plan.max_weight
        lines.append(f"Noise of {spread:.3g} in the number of sites within the clip.")
    if told.mechanism == "central-discrete-gaussian":
        lines.append("The server adds it once, so dropouts and colluders cost nothing.")
    else:
        lines.append(
            f"{told.shares} honest survivors carry it, so a full sum of {plan.clients} has "
            f"{cost.over_provisioned:.3f} times the variance of one without dropouts and "
            f"colluders. Removing the excess after the fact would leave {cost.removed:.3f}; "
            f"splitting the noise over all sites would leave {cost.left_if_split:.3f} of it in the "
            "worst case, which is no guarantee."
        )
    lines.append(
        f"A sum wraps with probability at most {told.wrap_probability:.2g} ({told.bits} bits a "
        f"coordinate); the sampler{'' if plan.complete else ' and the sparse graph'} add"
        f"{'s' if plan.complete else ''} {told.sampler_delta:.2g} to delta, which is counted."
    )
    return lines + told.assumes


__all__ = ["Promise", "Realised", "noise_reasons", "promise", "realised"]
