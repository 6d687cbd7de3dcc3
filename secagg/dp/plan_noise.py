"""The mechanism of a plan: what its stages do, as an accountant takes it."""

from __future__ import annotations

import math
from typing import Any

from secagg_protocols.errors import PlanError
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Noise, Pipeline

from .claims import ADJACENCIES, Adjacency, noise_of
from .mechanisms import (
    CentralDiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplaceSum,
    Mechanism,
    SkellamSum,
)


def mechanism_of(plan: Plan, *, adjacency: Adjacency | None = None) -> Mechanism:
    """The noise of one sum of ``plan`` at worst case, as an accountant takes it.

    Built from the plan's stages, never from its claims: the noise of ``min_survivors -
    colluding`` sites, the sensitivity after rounding, extras included. ``adjacency``: ``None``
    takes that of the plan's claims.

    Raises :class:`PlanError`: ``dp-noise`` for a plan without noise, ``dp-adjacency``.
    """
    noise_of(plan)
    claimed = dict(plan.privacy or ()).get("adjacency") if adjacency is None else adjacency
    kind = next((kind for kind in ADJACENCIES if kind == claimed), None)
    if kind is None:
        raise PlanError(
            f"an adjacency is one of {', '.join(ADJACENCIES)}, not {claimed!r}"
            + (", which the plan claims" if adjacency is None else ""),
            rule="dp-adjacency",
            field="privacy" if adjacency is None else "adjacency",
        )
    return with_shares(plan, plan.min_survivors - plan.colluding, kind)


def with_shares(plan: Plan, shares: int, adjacency: Adjacency) -> Mechanism:
    """The noise of one sum of ``plan`` in which ``shares`` honest sites' noise counts."""
    noise = noise_of(plan)
    tables = noise.tables()
    laplace = noise.law == "discrete-laplace"
    # Where the graph of a sparse plan fails, the server sees less than the sum: that is as if the
    # noise were another one with that probability in each round, and counted in the same way.
    counted = 1 if noise.central or laplace else shares
    failure = graph_failure(plan) / (counted * plan.pipeline.total_length)
    return mechanism_with(
        plan.pipeline,
        noise,
        shares,
        adjacency,
        # The distance of a site's share bounds what it adds to that of the sum.
        total_variation=failure + tables.total_variation * (noise.shares if laplace else 1),
        log_ratio=tables.log_ratio,
    )


def of_survivors(plan: Plan, survivors: int, adjacency: Adjacency) -> Mechanism:
    """The noise of a sum that ``survivors`` sites were in, the colluding ones not counted."""
    if noise_of(plan).law == "discrete-laplace":
        # More Polya shares than a whole variable are one and some more: no better bound is known.
        return mechanism_of(plan, adjacency=adjacency)
    return with_shares(plan, survivors - plan.colluding, adjacency)


def graph_failure(plan: Plan) -> float:
    """Probability that one round of a sparse plan opens less than the sum to the server."""
    if plan.complete or plan.central_noise:
        return 0.0
    return math.exp2(-float(plan.graph_security().security_bits))


def mechanism_with(
    pipeline: Pipeline,
    noise: Noise,
    shares: int,
    adjacency: Adjacency,
    total_variation: float = 0.0,
    log_ratio: float = 0.0,
) -> Mechanism:
    twice = 2.0 if adjacency == "replace-one" else 1.0
    l1, l2 = (twice * norm for norm in pipeline.sensitivity)
    common: dict[str, Any] = {
        "dimension": pipeline.total_length,
        "total_variation": total_variation,
    }
    variance = noise.variance_levels2
    if noise.law == "discrete-laplace":
        return DiscreteLaplaceSum(scale_levels=noise.scale_levels, l1_levels=l1, **common)
    if noise.law == "skellam":
        return SkellamSum(
            local_variance_levels2=variance, shares=shares, l1_levels=l1, l2_levels=l2, **common
        )
    if noise.central:
        return CentralDiscreteGaussian(
            variance_levels2=variance, l2_levels=l2, log_ratio=log_ratio, **common
        )
    return DiscreteGaussianSum(
        local_variance_levels2=variance, shares=shares, l2_levels=l2, log_ratio=log_ratio, **common
    )
