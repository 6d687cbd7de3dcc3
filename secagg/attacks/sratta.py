"""Row 13, SRATTA: training samples out of sums of model updates, grouped by site.

Nothing is manipulated: the server keeps what every correct sum gives it. Recovery is analytic, and
grouping rests on which samples activate which neuron (Marchand et al., ICML 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import DecodeError

from ._matching import decompose
from .attack import Attack, Evidence, Keys, Transcript

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

#: Part of a grey step within which a value must lie where it is uncertain: beyond it an image of
#: noise would pass for a sample.
_SURE: Final = 0.25
#: How many guesses are made in each training where nothing is certain.
GUESSES: Final = 16
#: A neuron is taken apart if its change exceeds the uncertainty this much: of less, anything is a
#: sum.
_CLEAR: Final = 100.0


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server knows beside the sums, all of it from the plan and the task.

    grey: samples have values 0, 1/grey, ..., 1; error: most that rounding moves a coordinate of a
    sum; noise: standard deviation of the noise in it.
    """

    grey: int
    error: float
    noise: float = 0.0

    @property
    def reach(self) -> float:
        """How far a coordinate of a sum may be from that of the exact updates."""
        # In 65,000 coordinates one of normal noise exceeds 4.9 deviations once in sixteen times.
        return self.error + 4.9 * self.noise


@dataclass(frozen=True, slots=True)
class Relation:
    """From one neuron in one round: each of ``moved`` shares its site with one of ``movers``."""

    movers: frozenset[int]
    moved: frozenset[int]


def recover(change: Floats, setting: Setting) -> npt.NDArray[np.uint8]:
    """Samples that were alone in moving some neuron.

    change: float64[neurons, inputs + 1], the sum of the updates of a first layer, bias last. For a
    neuron that one sample activated, weights and bias moved by the same factor times the sample
    and times 1. Gives uint8[samples, inputs] in grey values, sorted, each once.
    """
    reach = setting.reach
    bias = change[:, -1]
    size = np.abs(bias)
    # Of a smaller bias the ratio would be too uncertain to tell one grey value from the next.
    clear = size - reach > 2 * reach * setting.grey / _SURE
    # A few units in the last place, for the sites' own arithmetic.
    clear &= size > 1e-11
    ratio = change[clear, :-1] / bias[clear, None]
    tolerance = (reach * (1 + np.abs(ratio))) / (size[clear, None] - reach) + 1e-14 / size[
        clear, None
    ]
    grey = np.rint(ratio * setting.grey)
    fits = np.abs(ratio - grey / setting.grey) <= tolerance
    fits &= (grey >= 0) & (grey <= setting.grey)
    found = grey[fits.all(axis=1) & (grey > 0).any(axis=1)].astype(np.uint8)
    return np.unique(found, axis=0)


def guess(change: Floats, count: int) -> Floats:
    """What looks most like samples, certain or not: float64[up to count, inputs] within 0..1.

    The ratios that leave the range of grey values least, large changes of the bias first.
    """
    bias = change[:, -1]
    moved = bias != 0
    ratio = change[moved, :-1] / bias[moved, None]
    kept: Floats = np.clip(ratio, 0.0, 1.0)
    outside = np.rint(np.abs(ratio - kept).max(axis=1) * 1e6)
    order = np.lexsort((-np.abs(bias[moved]), outside))
    return kept[order[:count]]


def relate(before: Floats, change: Floats, samples: Floats, setting: Setting) -> list[Relation]:
    """What one round says about samples of one site.

    before: float64[neurons, inputs + 1], the first layer that was broadcast; change: as in
    :func:`recover`; samples: float64[samples, inputs].

    A site starts from the broadcast model. A sample that moved a neuron although that model leaves
    the neuron inactive for it (newly active), or did not although it took part and was active
    (newly inactive), found the neuron moved by another sample of its own site, and the first of
    these was active in the broadcast model.
    """
    atoms = np.concatenate([samples, np.ones((len(samples), 1))], axis=1)
    tolerance = float(setting.reach + 1e-14) * np.sqrt(atoms.shape[1])
    clear = np.linalg.norm(change, axis=1) > _CLEAR * tolerance
    coefficients, explained = decompose(change[clear], atoms, tolerance=tolerance)
    moves = coefficients[explained] != 0
    active = (atoms @ before[clear][explained].T > 0).T
    took_part = moves.any(axis=0)
    newly_active = moves & ~active
    newly_inactive = took_part[None, :] & ~moves & active
    unchanged = moves & active
    found = set()
    for movers, moved in zip(unchanged, newly_active | newly_inactive, strict=True):
        if movers.any() and moved.any():
            found.add(Relation(_set(movers), _set(moved)))
    return sorted(found, key=lambda r: (sorted(r.movers), sorted(r.moved)))


def _set(flags: Flags) -> frozenset[int]:
    return frozenset(np.flatnonzero(flags).tolist())


def group(count: int, relations: list[Relation]) -> Indices:
    """Connected components of samples that must be of one site, int64[count], numbered from 0.

    A relation links where its movers are one sample, or of one component already; links may make
    others usable, so this is repeated.
    """
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    changed = True
    while changed:
        changed = False
        for relation in relations:
            homes = {root(i) for i in relation.movers}
            if len(homes) > 1:
                continue
            home = homes.pop()
            for i in relation.moved:
                other = root(i)
                if other != home:
                    parent[other] = home
                    changed = True
    roots = [root(i) for i in range(count)]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64) if count else np.zeros(0, "i8")


class Sratta(Attack):
    """The server reads samples off the sums of model updates, and tells which share a site."""

    number: ClassVar[int] = 13
    id: ClassVar[str] = "sratta"
    title: ClassVar[str] = "Sample re-attribution (SRATTA)"
    source: ClassVar[str] = "Marchand et al., SRATTA, ICML 2023"
    adversary: ClassVar[str] = "semi-honest server"
    sees: ClassVar[str] = (
        "the models it broadcast, the sum of the updates of each round, and the values a record "
        "may have"
    )
    tests: ClassVar[tuple[str, ...]] = ("feature: distributed noise", "feature: neuron censoring")
    law: ClassVar[str] = (
        "a neuron that one sample of one site activates moves by a multiple of (sample, 1)"
    )
    remedy: ClassVar[str] = (
        "Secure aggregation computes the sum, and the sum itself shows the samples. Add "
        "distributed noise (differential privacy); with few sites noise of this size makes the "
        "model useless, so its accuracy must be measured first. Or let sites censor neurons that "
        "few of their samples activate (secagg.censoring): that costs little and stops exact "
        "copies, but recognisable ones may remain, and it proves nothing. "
        "Larger batches and narrower layers help a little."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Recover from every round of every training, then relate and group all samples.

        arrays ``before`` and ``change``: float64[trainings, rounds, neurons, inputs + 1]; public
        ``setting``: :class:`Setting`. Evidence: ``samples`` uint8[samples, inputs] in grey values,
        ``groups`` int64[samples], ``by`` uint8[trainings, samples] which training showed which,
        and ``guesses`` float64[trainings, GUESSES, inputs], which nothing vouches for.
        """
        before, change, setting = _read(transcript)
        trainings, rounds = change.shape[:2]
        each = [
            _distinct([recover(change[t, r], setting) for r in range(rounds)])
            for t in range(trainings)
        ]
        grey = _distinct(each)
        samples = grey / setting.grey
        relations = [
            relation
            for t in range(trainings)
            for r in range(rounds)
            for relation in relate(before[t, r], change[t, r], samples, setting)
        ]
        shown = [{row.tobytes() for row in found} for found in each]
        guesses = np.full((trainings, GUESSES, change.shape[3] - 1), 0.5)
        for t in range(trainings):
            # The first model is the one of which most is known: no noise has reached it.
            found = guess(change[t, 0], GUESSES)
            guesses[t, : len(found)] = found
        return Evidence(
            arrays={
                "samples": grey,
                "groups": group(len(samples), relations),
                "by": np.array(
                    [[row.tobytes() in one for row in grey] for one in shown], dtype=np.uint8
                ).reshape(trainings, len(grey)),
                "guesses": guesses,
            },
            values={"relations": float(len(relations))},
            note="" if len(grey) else "no neuron's change is a multiple of a possible sample",
        )


def _distinct(parts: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = np.unique(np.concatenate(parts), axis=0)
    return found


def _read(transcript: Transcript) -> tuple[Floats, Floats, Setting]:
    try:
        setting = msgspec.convert(transcript.public["setting"], Setting)
        before, change = transcript.arrays["before"], transcript.arrays["change"]
    except (KeyError, msgspec.MsgspecError) as error:
        raise DecodeError("no rounds of a training", rule="laboratory", sender="") from error
    if before.shape != change.shape or before.ndim != 4:
        raise DecodeError("models and sums of other shapes", rule="laboratory", sender="")
    return before, change, setting


__all__ = ["GUESSES", "Relation", "Setting", "Sratta", "group", "guess", "recover", "relate"]
