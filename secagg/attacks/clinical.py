"""Attacks within a simulated study: on its protocol, against what its sites put in."""

from __future__ import annotations

import numpy as np

from secagg.sim.private import PrivateSummation
from secagg.sim.scenarios import Run
from secagg_protocols.errors import MisuseError

from .lab import Cell, here
from .scene import Effort, Study


def column_of(run: Run) -> str:
    """The column of the matrix that a simulation's sums belong to."""
    settings = run.settings
    if settings.paillier is not None:
        return "paillier-one" if settings.paillier.holders == 1 else "paillier-threshold"
    if isinstance(run.secure, PrivateSummation):
        return "noise"
    if settings.threat == "malicious-server":
        return settings.threat
    others = len(run.secure.roster.names) - 1
    sparse = any(record.neighbours < others for record in run.secure.records)
    return "sparse" if sparse else "semi-honest"


def study_of(run: Run) -> Study:
    """The integers that a study's sites put into the round with the longest vectors."""
    glimpses = run.secure.sight.glimpses
    if not glimpses:
        raise MisuseError("the study has no round whose vectors are known", rule="attack-study")
    return Study(np.stack([glimpse.truth for glimpse in glimpses]).astype(np.int64))


def attack_run(run: Run, name: str, *, effort: Effort = "quick", seed: int = 0) -> Cell:
    """Run an attack on the protocol of a study, against the vectors of its sites."""
    return here(name, column_of(run), effort=effort, seed=seed, study=study_of(run))


__all__ = ["attack_run", "column_of", "study_of"]
