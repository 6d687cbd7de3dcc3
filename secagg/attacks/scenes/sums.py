"""Sums of real rounds for scenes that attack sums, held against the plain ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import secagg
from secagg_protocols.plan import Plan

from ..attack import Array
from ..columns import honest_sum
from ..process import LabError
from ..scene import Lab


class Sums(NamedTuple):
    """Sums of real rounds and how far they are from the plain ones; variance of their noise."""

    sums: Array
    variance: float


def real_sums(lab: Lab, made: Plan, column: str, inputs: list[Array], exact: bool) -> Sums:
    """A round of the real protocol for each entry of ``inputs``: float or int [sites, d].

    exact: raise `LabError` where a sum is not the plain sum within the rounding of the plan.
    """
    found, variance = [], 0.0
    for number, vectors in enumerate(inputs):
        seed = lab.digest("round", number, len(inputs))
        total = honest_sum(
            made, vectors, seed=seed, session=f"laboratory {number}", plain=column == "plain"
        )
        variance = total.variance
        if exact:
            gap = float(np.abs(total.total - vectors.sum(axis=0)).max())
            if gap > _rounding(made) * len(vectors):
                raise LabError(f"a sum of {column} is off by {gap}")
        found.append(total.total)
    return Sums(np.asarray(found), variance)


def _rounding(made: Plan) -> float:
    """What rounding may move a coordinate of one site, a little more for doubles."""
    clip = [stage.clip for stage in made.stages if isinstance(stage, secagg.ClipLinf)]
    levels = [stage.levels for stage in made.stages if isinstance(stage, secagg.Quantise)]
    return 0.5001 * clip[0] / levels[0] if levels else 0.0


__all__ = ["Sums", "real_sums"]
