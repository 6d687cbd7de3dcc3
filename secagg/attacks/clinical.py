"""Attacks within a simulated study: on its protocol, against what its sites put in."""

from __future__ import annotations

import numpy as np

from secagg.sim.private import PrivateSummation
from secagg.sim.scenarios import Run
from secagg_protocols.errors import MisuseError

from .lab import Cell, here
from .scene import Effort, Ints, Source


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


def source_of(run: Run) -> Source:
    """Vectors of the study's sites, for scenes that ask for vectors.

    They are the integers that the sites put into the round with the longest vectors. A scene that
    wants more sites or coordinates than the study has gets them again from the start, and values
    beyond what the scene's sum can carry are reduced into its range.
    """
    glimpses = run.secure.sight.glimpses
    if not glimpses:
        raise MisuseError("the study has no round whose vectors are known", rule="attack-study")

    def source(n: int, length: int, most: int) -> Ints:
        rows = [np.resize(glimpses[i % len(glimpses)].truth, length) for i in range(n)]
        return np.mod(np.stack(rows).astype(np.int64), most + 1)

    return source


def attack_run(run: Run, name: str, *, effort: Effort = "quick", seed: int = 0) -> Cell:
    """Run an attack on the protocol of a study, against the vectors of its sites."""
    return here(name, column_of(run), effort=effort, seed=seed, source=source_of(run))


__all__ = ["attack_run", "column_of", "source_of"]
