"""What the attack of row 13 achieved, judged by the images that sites held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..attack import Evidence
from ..finding import Measure, Picture
from ..process import LabError
from ..statistics import CONFIDENCE, auc, clopper_pearson, interval
from . import networks
from .networks import GREY, SIDE, Floats

Indices = npt.NDArray[np.int64]

#: Samples of a site, unless a condition says otherwise.
SAMPLES: Final = 8
#: Shown of each condition, at most.
PICTURES: Final = 8
#: What a person would recognise: an image this well correlated with a true one, and at most half as
#: far from it as from any other of the data set.
ALIKE: Final = 0.9


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
class Draw:
    """What the attack achieved on one draw of images: counts of images, or of pairs of them.

    near: images of sites that are recognised in a sample or guess; chance: images of no site that
    are. seen, unseen: how near the guesses come to images of sites, and to as many others.
    """

    held: int
    others: int
    right: int = 0
    false: int = 0
    near: int = 0
    chance: int = 0
    grouped: int = 0
    pure: int = 0
    pairs: int = 0
    joined: int = 0
    wrongly: int = 0
    each: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    censored: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What the attack achieved under one condition, against the truth."""

    condition: Condition
    draws: list[Draw] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def count(self, what: str) -> int:
        """Sum over all draws of a count of :class:`Draw`, by its name."""
        return int(sum(getattr(draw, what) for draw in self.draws))

    def mean(self, what: str) -> float:
        """Mean over all draws of a list of :class:`Draw`, by its name."""
        return float(np.mean([value for draw in self.draws for value in getattr(draw, what)]))

    @property
    def trainings(self) -> int:
        """That were attacked."""
        return sum(len(draw.each) for draw in self.draws)

    @property
    def successes(self) -> int:
        """Trainings of which at least one true sample came."""
        return sum(part > 0 for draw in self.draws for part in draw.each)

    def add(
        self,
        evidence: Evidence,
        consortium: Consortium,
        accuracy: Sequence[float] = (),
        censored: Sequence[float] = (),
    ) -> None:
        """Judge one consortium's evidence by the images that its sites held.

        accuracy: of each training; censored: parts of neurons, of each site and round.
        """
        images = np.rint(networks.digits()[0] * GREY).astype(np.uint8)
        home = {images[i].tobytes(): site for site, own in enumerate(consortium.held) for i in own}
        found, groups = evidence.arrays["samples"], evidence.arrays["groups"]
        sites = np.array([home.get(row.tobytes(), -1) for row in found], dtype=np.int64)
        true = sites >= 0
        draw = Draw(held=consortium.held.size, others=consortium.rest.size)
        draw.accuracy, draw.censored = list(accuracy), list(censored)
        draw.right, draw.false = int(true.sum()), int((~true).sum())
        by = evidence.arrays["by"].astype(bool)
        draw.each = [float((row & true).sum()) / draw.held for row in by]
        for label in np.unique(groups):
            members = sites[groups == label]
            if len(members) > 1:
                draw.grouped += len(members)
                # A false sample belongs to no site, and to no other false sample.
                draw.pure += int(np.bincount(members[members >= 0], minlength=1).max())
        upper = np.triu_indices(len(sites), 1)
        same = ((sites[:, None] == sites) & true[:, None])[upper]
        together = (groups[:, None] == groups)[upper]
        draw.pairs = int(same.sum())
        draw.joined = int((same & together).sum())
        draw.wrongly = int((together & ~same).sum())
        guesses = evidence.arrays["guesses"].reshape(-1, images.shape[1])
        known = recognised(np.concatenate([found / GREY, guesses]))
        draw.near = len(np.intersect1d(known, consortium.held))
        draw.chance = len(known) - draw.near
        self._compare(draw, guesses, consortium)
        self.draws.append(draw)
        self._show(found, true, guesses, consortium)

    @staticmethod
    def _compare(draw: Draw, points: Floats, consortium: Consortium) -> None:
        """How near the guesses come to images that were trained on, and to as many others."""
        x = networks.digits()[0]
        held = consortium.held.ravel()
        for which, scores in ((held, draw.seen), (consortium.rest[: len(held)], draw.unseen)):
            away = np.linalg.norm(x[which][:, None] - points[None], axis=2)
            scores.extend((-away.min(axis=1)).tolist())

    def _show(
        self, found: npt.NDArray[np.uint8], true: Any, guesses: Floats, consortium: Consortium
    ) -> None:
        x = networks.digits()[0][consortium.held.ravel()]
        attempts, kind = found[true] / GREY, "recovered"
        if not len(attempts):
            # Nothing was recovered: the guess that is nearest to any sample, flattering as it is.
            attempts, kind = guesses, "closest guess"
            away = np.linalg.norm(x[:, None] - attempts[None], axis=2).min(axis=0)
            attempts = attempts[np.argsort(away)]
        for image in attempts[: PICTURES - len(self.pictures)]:
            nearest = x[np.linalg.norm(x - image, axis=1).argmin()]
            self.pictures.append(
                Picture(label=kind, shape=(SIDE, SIDE), true=nearest.tolist(), found=image.tolist())
            )

    def share(self, what: str, good: str, every: str) -> Measure:
        """A part of counts of :class:`Draw`, with its interval over the draws."""
        return part(
            f"{what} ({self.condition.name})",
            [(getattr(draw, good), getattr(draw, every)) for draw in self.draws],
        )

    def measures(self) -> list[Measure]:
        """Its figures, each with the condition in its name. :class:`LabError` for a false sample:
        only a true one has the grey values of an image in every pixel."""
        if self.count("false"):
            raise LabError("a sample that no site held has the grey values of an image")
        name = self.condition.name
        found = [
            self.share("samples recovered exactly", "right", "held"),
            self.share("samples recognisable", "near", "held"),
            self.share("images of no site that were recognised", "chance", "others"),
            self._mean("samples recovered by one training", "each"),
            Measure(
                name=f"false samples ({name})",
                value=float(self.count("false")),
                predicted=0.0,
                law="only a true sample has the grey values of an image in every pixel",
            ),
        ]
        if self.count("grouped"):
            found.append(self.share("purity of groups", "pure", "grouped"))
        if self.count("pairs"):
            found.append(self.share("pairs of one site that were grouped", "joined", "pairs"))
        if any(draw.censored for draw in self.draws):
            found.append(self._mean("neurons that a site censored", "censored"))
        return [*found, self._mean("accuracy on other images", "accuracy")]

    def _mean(self, what: str, values: str) -> Measure:
        means = [float(np.mean(getattr(draw, values))) for draw in self.draws]
        low, high = over_draws(means)
        name = f"{what} ({self.condition.name})"
        return Measure(name=name, value=float(np.mean(means)), low=low, high=high)

    def area(self, bound: float | None, law: str) -> Measure:
        """AUC of the closest guesses, whether an image is one of a site's or not."""
        name = f"AUC of the closest guesses ({self.condition.name})"
        areas = [auc(draw.seen, draw.unseen) for draw in self.draws]
        value = float(np.mean([area for area, _ in areas]))
        low, high = over_draws([area for area, _ in areas])
        if low is None or high is None:
            name += _INDEPENDENT
            if value in {0.0, 1.0}:
                # The error of such an area is estimated as zero. Pairs of which none is used twice
                # were all won, or all lost.
                pairs = sum(min(len(draw.seen), len(draw.unseen)) for draw in self.draws)
                low, high = clopper_pearson(round(value * pairs), pairs)
            else:
                low, high = interval(value, areas[0][1] / math.sqrt(len(areas)))
                low, high = max(0.0, low), min(1.0, high)
        return Measure(name=name, value=value, low=low, high=high, bound=bound, law=law)


_INDEPENDENT: Final = ", images taken as independent"


def part(name: str, counts: Sequence[tuple[int, int]]) -> Measure:
    """A part of counts (good, all) of each draw, with its interval.

    Images of one draw depend on each other, so the interval is over draws (ratio estimate). Where
    these do not differ, it is the exact one of independent images, and the name says so.
    """
    good, every = (np.array(column, dtype=np.float64) for column in zip(*counts, strict=True))
    value = float(good.sum() / every.sum())
    # What a draw is above or below the common part, in parts of an average draw.
    low, high = over_draws((value + (good - value * every) / every.mean()).tolist())
    if low is None:
        name += _INDEPENDENT
        low, high = clopper_pearson(int(good.sum()), int(every.sum()))
    return Measure(name=name, value=value, low=low, high=high)


def over_draws(values: Sequence[float]) -> tuple[float | None, float | None]:
    """99 % interval, within 0..1, of a mean of independent draws by Student's t.

    ``None`` where there are fewer than two or all are equal: they tell nothing of their spread.
    """
    if len(values) < 2 or np.ptp(values) < 1e-12:
        return None, None
    reach = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def student(freedom: int) -> float:
    """Two-sided 99 % quantile of Student's t, by the finite sums for whole degrees of freedom.

    Abramowitz and Stegun 26.7.3 and 26.7.4.
    """

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        term = math.cos(angle) if freedom % 2 else 1.0
        total = term if freedom > 1 else 0.0
        for k in range(2 + freedom % 2, freedom - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if freedom % 2 else total

    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < CONFIDENCE else (low, middle)
    return high


def recognised(attempts: Floats) -> Indices:
    """Which images of the data set a person would recognise in any of the attempts.

    attempts: float64[attempts, pixels]. See :data:`ALIKE`.
    """

    def centred(rows: Floats) -> Floats:
        rows = rows - rows.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        # An image of one grey value is like nothing.
        plain: Floats = rows / np.where(lengths > 1e-9, lengths, np.inf)
        return plain

    alike = centred(attempts) @ centred(networks.digits()[0]).T
    best = alike.argmax(axis=1)
    second, first = np.partition(alike, -2, axis=1)[:, -2:].T
    clear = (first > ALIKE) & (1 - first <= 0.5 * (1 - second) + 1e-12)
    return np.unique(best[clear]).astype(np.int64)


__all__ = [
    "PICTURES",
    "SAMPLES",
    "Condition",
    "Consortium",
    "Draw",
    "Indices",
    "Tally",
    "over_draws",
    "part",
    "recognised",
    "student",
]
