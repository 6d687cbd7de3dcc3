"""What the attack of row 13 achieved, judged by the images that sites held."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..attack import Evidence
from ..finding import Measure, Picture
from ..statistics import interval, rate
from . import networks
from .networks import GREY, SIDE, Floats

Indices = npt.NDArray[np.int64]

#: Samples of a site, unless a condition says otherwise.
SAMPLES: Final = 8
#: Shown of each condition, at most.
PICTURES: Final = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """What protects the sites: censoring (``q``, ``beta``), noise of ``epsilon``, or nothing.

    samples: of a site.
    """

    name: str
    q: int = 0
    beta: float = 1.0
    epsilon: float = 0.0
    samples: int = SAMPLES


@dataclass(frozen=True, slots=True)
class Consortium:
    """Which images each site holds, int64[sites, samples], and the images that no site holds."""

    held: Indices
    rest: Indices

    @classmethod
    def drawn(cls, sites: int, samples: int, rng: np.random.Generator) -> Consortium:
        """Images at random, none of them twice."""
        order = rng.permutation(len(networks.digits()[0]))
        return cls(order[: sites * samples].reshape(sites, samples), order[sites * samples :])


@dataclass(slots=True)
class Tally:
    """What the attack achieved under one condition, against the truth."""

    condition: Condition
    held: int = 0
    right: int = 0
    false: int = 0
    each: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    censored: list[float] = field(default_factory=list)
    grouped: int = 0
    pure: int = 0
    pairs: int = 0
    joined: int = 0
    wrongly: int = 0
    seen: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    @property
    def successes(self) -> int:
        """Trainings of which at least one true sample came."""
        return sum(part > 0 for part in self.each)

    def add(self, evidence: Evidence, consortium: Consortium) -> None:
        """Judge one consortium's evidence by the images that its sites held."""
        images = np.rint(networks.digits()[0] * GREY).astype(np.uint8)
        home = {images[i].tobytes(): site for site, own in enumerate(consortium.held) for i in own}
        found, groups = evidence.arrays["samples"], evidence.arrays["groups"]
        sites = np.array([home.get(row.tobytes(), -1) for row in found], dtype=np.int64)
        true = sites >= 0
        self.held += consortium.held.size
        self.right += int(true.sum())
        self.false += int((~true).sum())
        by = evidence.arrays["by"].astype(bool)
        self.each += [float((row & true).sum()) / consortium.held.size for row in by]
        for label in np.unique(groups):
            members = sites[groups == label]
            if len(members) > 1:
                self.grouped += len(members)
                # A false sample belongs to no site, and to no other false sample.
                self.pure += int(np.bincount(members[members >= 0], minlength=1).max())
        upper = np.triu_indices(len(sites), 1)
        same = ((sites[:, None] == sites) & true[:, None])[upper]
        together = (groups[:, None] == groups)[upper]
        self.pairs += int(same.sum())
        self.joined += int((same & together).sum())
        self.wrongly += int((together & ~same).sum())
        self._compare(evidence.arrays["guesses"], consortium)
        self._show(found, true, evidence.arrays["guesses"], consortium)

    def _compare(self, guesses: Floats, consortium: Consortium) -> None:
        """How near the guesses come to images that were trained on, and to as many others."""
        x = networks.digits()[0]
        held = consortium.held.ravel()
        points = guesses.reshape(-1, guesses.shape[-1])
        for which, scores in ((held, self.seen), (consortium.rest[: len(held)], self.unseen)):
            away = np.linalg.norm(x[which][:, None] - points[None], axis=2)
            scores.extend((-away.min(axis=1)).tolist())

    def _show(
        self, found: npt.NDArray[np.uint8], true: Any, guesses: Floats, consortium: Consortium
    ) -> None:
        x = networks.digits()[0][consortium.held.ravel()]
        attempts, kind = found[true] / GREY, "recovered"
        if not len(attempts):
            # Nothing was recovered: the guess that is nearest to any sample, flattering as it is.
            attempts, kind = guesses.reshape(-1, guesses.shape[-1]), "closest guess"
            away = np.linalg.norm(x[:, None] - attempts[None], axis=2).min(axis=0)
            attempts = attempts[np.argsort(away)]
        for image in attempts[: PICTURES - len(self.pictures)]:
            nearest = x[np.linalg.norm(x - image, axis=1).argmin()]
            self.pictures.append(
                Picture(
                    label=f"{self.condition.name}: {kind}",
                    shape=(SIDE, SIDE),
                    true=nearest.tolist(),
                    found=image.tolist(),
                )
            )

    def measures(self) -> list[Measure]:
        """Its figures, each with the condition in its name."""
        name = self.condition.name
        found = [
            rate(f"samples recovered ({name})", self.right, self.held),
            _mean(f"samples recovered by one training ({name})", self.each),
            Measure(
                name=f"false samples ({name})",
                value=float(self.false),
                predicted=0.0,
                law="only a true sample has the grey values of an image in every pixel",
            ),
        ]
        if self.grouped:
            found.append(rate(f"purity of groups ({name})", self.pure, self.grouped))
        if self.pairs:
            found.append(
                rate(f"pairs of one site that were grouped ({name})", self.joined, self.pairs)
            )
        if self.censored:
            found.append(_mean(f"neurons that a site censored ({name})", self.censored))
        return [*found, _mean(f"accuracy on other images ({name})", self.accuracy)]


def _mean(name: str, values: list[float]) -> Measure:
    array = np.array(values)
    error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    low, high = interval(float(array.mean()), error)
    if len(array) == 1:
        return Measure(name=name, value=float(array.mean()))
    return Measure(name=name, value=float(array.mean()), low=max(0.0, low), high=min(1.0, high))


__all__ = ["PICTURES", "SAMPLES", "Condition", "Consortium", "Indices", "Tally"]
