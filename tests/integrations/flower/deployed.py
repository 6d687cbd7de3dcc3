"""What runs with real processes have in common: their plan, and what they should come to."""

from __future__ import annotations

import sys

import numpy as np

import secagg
from support.flower_processes import EXAMPLE

CLIP, LEVELS = 8.0, 1 << 20


def plan_for(roster, *, dropouts=1):
    """A plan for the example: 31 coordinates and the training loss."""
    return secagg.Plan.recommend(
        roster,
        length=32,
        stages=(secagg.ClipL2(CLIP), secagg.Quantise(LEVELS)),
        threat="malicious-server",
        colluding=1,
        max_dropouts=dropouts,
        max_weight=1000,
    )


def task_of_the_example():
    """The training that the example's hospitals do."""
    if str(EXAMPLE) not in sys.path:
        sys.path.insert(0, str(EXAMPLE))
    from hospitals import task

    return task


def federate(plan, names, reports):
    """Federated averaging without secagg over the survivors that the reports name.

    Returns the model, the mean training loss of each round, and by how much quantisation may move
    a coordinate: less than a level for each site, round and coordinate. The steps of this training
    are too short to spread two models, in the Euclidean norm; of a single coordinate that is not
    true, hence the root of the number of coordinates.
    """
    task = task_of_the_example()
    data = {name: task.hospital(number, len(names)) for number, name in enumerate(names)}
    model, losses, bound = task.initial(), [], 0.0
    for report in reports:
        parts = [(task.train(model, *data[n]), len(data[n][1])) for n in report["survivors"]]
        total = sum(weight for _, weight in parts)
        model = {
            key: np.asarray(sum(new[key] * weight for (new, _), weight in parts) / total)
            for key in model
        }
        losses.append(sum(loss * weight for (_, loss), weight in parts) / total)
        bound += np.sqrt(31) * len(parts) * CLIP / LEVELS / total
    return model, losses, bound


def secrets_of(identities):
    """Seeds of identities as a file or a log would show them."""
    return [bytes(identity._key).hex() for identity in identities.values()]
