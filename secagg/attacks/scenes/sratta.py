"""Row 13: sites train a network on images, and the server has the sums of each round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

import secagg
from secagg.censoring import censor, risky_neurons
from secagg_protocols.plan import Plan

from .. import columns
from ..attack import Attack, Transcript
from ..finding import ControlRun, Figure, Finding, Measure, Picture, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..sratta import GUESSES, Setting, Sratta
from . import networks
from ._sratta_tally import PICTURES, SAMPLES, Condition, Consortium, Indices, Tally
from .networks import CLASSES, GREY, SIDE, Floats, Network, Shape

SITES: Final = 5
#: Samples of a batch, and local steps in a round.
BATCH: Final = 8
STEPS: Final = 5
RATE: Final = 0.5
#: No coordinate of an update comes near it.
CLIP: Final = 1.0
LEVELS: Final = 1 << 32
#: Norm of an update under noise, about its median without.
L2_CLIP: Final = 2.0
#: Levels of coarser sums, in bits.
COARSER: Final = (8, 12, 16, 20, 24, 32)
COARSE_TRAININGS: Final = 2
#: Coordinates of the real Paillier round in a quick run.
STRETCH: Final = 500


BARE: Final = Condition("no protection")
#: With more samples than a batch holds, some meet a neuron only after others have moved it.
LARGER: Final = Condition("16 images a site", samples=16)
CENSORED: Final = Condition("censoring, q = 2", q=2)
STRICT: Final = Condition("censoring, q = 4, beta = 0.5", q=4, beta=0.5)
NOISY: Final = (
    Condition("noise, epsilon 8", epsilon=8.0),
    Condition("noise, epsilon 2", epsilon=2),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run: consortia, trainings of each, rounds of each, hidden neurons."""

    consortia: int
    trainings: int
    rounds: int
    hidden: int

    @property
    def shape(self) -> Shape:
        """Of the network."""
        return Shape(SIDE * SIDE, self.hidden, CLASSES)


class Sums:
    """Sums of updates as the server of a column gets them.

    Every round is one of the real protocol and its sum is compared with the exact one, but for
    Paillier, where that is done in the first round without protection alone.
    """

    def __init__(self, lab: Lab, column: str, size: Size, condition: Condition) -> None:
        self._lab, self._column, self._condition = lab, column, condition
        self.rounds = 0
        #: Root mean square of a coordinate of the last sum before noise.
        self.spread = 0.0
        epsilon = condition.epsilon
        length = size.shape.length
        self.part = STRETCH if column in columns.PAILLIER and not lab.full else length
        stages = (secagg.ClipLinf(CLIP), secagg.Quantise(LEVELS, rounding="nearest"))
        # The noise column without its noise is the plan that noise is added to.
        base = "semi-honest" if column == "noise" else column
        made = columns.plan(base, SITES, self.part, stages=stages)
        if epsilon:
            made = secagg.dp.calibrate(
                made,
                epsilon=epsilon,
                delta=columns.DELTA,
                # The same records are in every round of every training.
                rounds=size.trainings * size.rounds,
                l2_clip=L2_CLIP,
                adjacency="zero-out",
            )
        self.plan: Plan = made
        self.sites = made.clients

    @property
    def setting(self) -> Setting:
        """What is public of the sums' uncertainty."""
        if self._condition.epsilon:
            return Setting(
                grey=GREY,
                error=0.0,
                noise=math.sqrt(self.plan.pipeline.noise_variance(self.sites)),
            )
        return Setting(grey=GREY, error=_error(self.sites, LEVELS))

    def __call__(self, updates: Floats, net: Network, *label: object) -> Floats:
        """float64[coordinates], the sum over float64[sites, coordinates]."""
        exact = quantised_sum(updates, LEVELS)
        self.spread = float(np.sqrt(np.mean(exact**2)))
        if self._column in columns.PAILLIER and (self.rounds or self._condition != BARE):
            return exact
        done = columns.honest_sum(
            self.plan,
            updates[:, : self.part],
            seed=self._lab.digest("round", *label),
            round=self.rounds,
            model=net.vector.tobytes(),
            plain=self._column == "plain",
        )
        self.rounds += 1
        total = np.asarray(done.total, dtype=np.float64)
        if self._condition.epsilon:
            return total
        if not np.array_equal(total, exact[: self.part]):
            raise LabError("a sum of the protocol differs from the sum of the integers")
        return exact


def _error(sites: int, levels: int) -> float:
    """Most that rounding to the nearest level moves a coordinate of a sum."""
    return sites * 0.5 * CLIP / levels


def quantised_sum(updates: Floats, levels: int) -> Floats:
    """The sum of what sites round to the nearest level, exact in integers."""
    whole = np.rint(np.clip(updates, -CLIP, CLIP) * (levels / CLIP)).astype(np.int64)
    total: Floats = whole.sum(axis=0).astype(np.float64) * (CLIP / levels)
    return total


class Training:
    """One federated training over sums, as the server and as the laboratory see it."""

    def __init__(self, size: Size, condition: Condition, consortium: Consortium) -> None:
        self.size, self.condition, self.consortium = size, condition, consortium
        self.accuracy = 0.0
        #: Part of its neurons that each site censored in each round.
        self.censored: list[float] = []

    def run(self, sums: Any, rng: np.random.Generator, *label: object) -> tuple[Floats, Floats]:
        """First layers that were broadcast and their summed changes, one of each round."""
        shape = self.size.shape
        net = Network.initial(shape, rng)
        before, change = [], []
        for number in range(self.size.rounds):
            updates = np.stack([self._update(net, own, rng) for own in self.consortium.held])
            total = sums(updates, net, *label, number)
            before.append(networks.join(net.W, net.b))
            change.append(total[: shape.first].reshape(shape.hidden, -1))
            net = Network.of(shape, net.vector + total / len(updates))
        x, y = networks.digits()
        rest = self.consortium.rest
        self.accuracy = net.accuracy(x[rest], y[rest])
        return np.stack(before), np.stack(change)

    def _update(self, net: Network, own: Indices, rng: np.random.Generator) -> Floats:
        """What one site submits."""
        x, y = networks.digits()
        batches = networks.batches_of(len(own), BATCH, STEPS, rng)
        local = networks.local_training(net, x[own], y[own], batches, RATE)
        vector = local.update.vector
        if self.condition.q:
            rows = vector[: net.shape.first].reshape(net.shape.hidden, -1)
            risky = risky_neurons(local.parts, self.condition.q, self.condition.beta)
            self.censored.append(float(risky.mean()))
            rows[:] = censor(rows, local.parts, self.condition.q, self.condition.beta)
        return vector


class SrattaScene(Scene):
    """Sites train on handwritten digits; the server keeps the sums and the broadcast models."""

    attack: ClassVar[type[Attack]] = Sratta
    expected: ClassVar[Mapping[str, Verdict | str]] = dict.fromkeys(columns.COLUMNS, Verdict.LEAKS)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Every condition of the column on the same consortia."""
        # Under noise the verdict rests on intervals over draws, so a quick run has some as well.
        quick = Size(4, 2, 2, 300) if column == "noise" else Size(1, 2, 2, 300)
        size = Size(5, 4, 3, 1000) if lab.full else quick
        larger = (STRICT, LARGER) if lab.full and column == "semi-honest" else ()
        more = NOISY if column == "noise" else larger
        conditions = (BARE, CENSORED, *more)
        tallies, sums = {}, {}
        for done, condition in enumerate(conditions):
            lab.step(done, len(conditions))
            sums[condition] = Sums(lab, column, size, condition)
            tallies[condition] = _attacked(lab, size, condition, sums[condition])
        if column == "noise":
            return _noise_finding(lab, size, tallies, sums)
        return _bare_finding(lab, column, size, tallies, sums[BARE])


def _attacked(lab: Lab, size: Size, condition: Condition, sums: Sums) -> Tally:
    tally = Tally(condition)
    for number in range(size.consortia):
        consortium = Consortium.drawn(sums.sites, condition.samples, lab.rng("consortium", number))
        before, change = [], []
        accuracy, censored = [], []
        for again in range(size.trainings):
            training = Training(size, condition, consortium)
            # The same models and batches under every condition.
            rng = lab.rng("training", number, again)
            one = training.run(sums, rng, condition.name, number, again)
            before.append(one[0])
            change.append(one[1])
            accuracy.append(training.accuracy)
            censored += training.censored
        evidence = lab.attack(_transcript(np.stack(before), np.stack(change), sums.setting))
        tally.add(evidence, consortium, accuracy, censored)
    return tally


def _transcript(before: Floats, change: Floats, setting: Setting) -> Transcript:
    return Transcript(
        public={"setting": msgspec.to_builtins(setting)},
        arrays={"before": before, "change": change},
    )


def _coarser(lab: Lab, size: Size, sites: int) -> Series:
    """Recovered part by the levels that updates are rounded to, on exact integer sums."""
    found = []
    bits = COARSER if lab.full else COARSER[1:5:3]
    consortium = Consortium.drawn(sites, SAMPLES, lab.rng("coarse"))
    for width in bits:
        levels = 1 << width
        pairs = [
            Training(size, BARE, consortium).run(
                lambda updates, *_, levels=levels: quantised_sum(updates, levels),
                lab.rng("coarse", again),
            )
            for again in range(COARSE_TRAININGS)
        ]
        setting = Setting(grey=GREY, error=_error(sites, levels))
        before, change = (np.stack(part) for part in zip(*pairs, strict=True))
        tally = Tally(BARE)
        tally.add(lab.attack(_transcript(before, change, setting)), consortium)
        found.append((float(width), tally.count("right") / tally.count("held")))
    return Series(
        name="samples recovered", x=[x for x, _ in found], y=[y for _, y in found], style="line"
    )


def _bare_finding(
    lab: Lab, column: str, size: Size, tallies: Mapping[Condition, Tally], sums: Sums
) -> Finding:
    bare, censored = tallies[BARE], tallies[CENSORED]
    coarse = _coarser(lab, size, sums.sites)
    seen = (
        f"{_of(bare, 'right')} images were read off the sums exactly, with {bare.count('false')} "
        f"false ones{_grouping(bare)}. The protocol did what it promises: the sum itself shows "
        f"them. Where sites censored neurons that fewer than two of their images activate, "
        f"{_of(censored, 'right')} were read exactly and {censored.count('near')} could be "
        f"recognised; accuracy on other images was {_percent(censored)} instead of "
        f"{_percent(bare)}."
    )
    figure = Figure(
        title="Samples recovered by the levels of rounding",
        x_label="bits of the levels per clip",
        y_label="part of all training samples",
        series=[coarse],
        note="One consortium, sums of exact integers.",
    )
    return Finding(
        verdict=Verdict.LEAKS if bare.successes else Verdict.PREVENTED,
        tried=_tried(column, size, sums),
        seen=seen,
        trials=bare.trainings,
        successes=bare.successes,
        measures=[
            *(m for tally in tallies.values() for m in tally.measures()),
            *(
                Measure(name=f"samples recovered at 2^{x:.0f} levels per clip", value=y)
                for x, y in zip(coarse.x, coarse.y, strict=True)
            ),
        ],
        figures=[_figure(tallies, bare.pictures), figure],
        parameters=_parameters(size, sums),
    )


def _noise_finding(
    lab: Lab, size: Size, tallies: Mapping[Condition, Tally], sums: Mapping[Condition, Sums]
) -> Finding:
    bare, noisy = tallies[BARE], [tallies[condition] for condition in NOISY]
    areas = [bare.area(None, ""), *(_guesses(tally) for tally in noisy)]
    bounded = all(area.within_bound for area in areas[1:])
    successes = sum(tally.successes for tally in noisy)
    each = [_one_noise(tally, area) for tally, area in zip(noisy, areas[1:], strict=True)]
    deviations = " and ".join(f"{sums[c].setting.noise:.2g}" for c in NOISY)
    guessing = max(tally.mean("accuracy") for tally in noisy) < 2 / CLASSES
    seen = (
        ("No sample was recovered" if not successes else "Samples were recovered")
        + f": {'; '.join(each)}. Without noise, the same trainings showed {_of(bare, 'right')}. "
        + (
            "What remains is bounded by epsilon, not impossible. "
            if bounded
            else "These are too few draws to show that the rest is within what epsilon allows. "
        )
        + f"The price: accuracy on other images fell from {_percent(bare)} to "
        + " and ".join(_percent(tally) for tally in noisy)
        + (
            ", near guessing among ten digits: with so few sites, noise of this size makes the "
            "model useless."
            if guessing
            else "."
        )
        + f" A coordinate of the sum has noise of standard deviation {deviations}, where sums "
        f"without noise are of the order of {sums[BARE].spread:.1g}."
    )
    pictures = PICTURES // 2
    return Finding(
        verdict=Verdict.LEAKS,
        bounded=bounded,
        tried=_tried("noise", size, sums[NOISY[0]])
        + f" Noise is calibrated to epsilon 8 and 2 over all {size.trainings * size.rounds} rounds "
        "that a site takes part in, by discrete Gaussian noise of the sites. Besides what is "
        f"certain, the server makes its {GUESSES} best guesses in each training.",
        seen=seen,
        trials=sum(tally.trainings for tally in noisy),
        successes=successes,
        measures=[*areas, *(m for tally in tallies.values() for m in tally.measures())],
        controls=[
            ControlRun(
                overrides=("feature: distributed noise",),
                trials=bare.trainings,
                successes=bare.successes,
                note="the same consortia and models, sums without noise",
            )
        ],
        figures=[
            _figure(
                tallies,
                [*bare.pictures[:pictures], *noisy[0].pictures[:pictures]],
                f"The first {pictures} are of sums without noise, the others of sums with "
                f"{NOISY[0].name}.",
            )
        ],
        parameters=_parameters(size, sums[NOISY[0]]),
    )


def most_of_guesses(epsilon: float, delta: float) -> float:
    """Largest AUC of guesses, images of sites against images of none, under (epsilon, delta).

    Without one site's updates its images are like any other image, so that either wins a
    comparison with chance 1/2, and the guesses lose it with chance 1/2. With its updates they lose
    it with chance (1/2 - delta) / e^epsilon at least (zero-out adjacency; the definition of
    Dwork, McSherry, Nissim and Smith, TCC 2006, with delta).
    """
    return 1 - math.exp(-epsilon) * (0.5 - delta)


def _guesses(tally: Tally) -> Measure:
    """AUC under noise. :class:`LabError` where it is above what the noise allows."""
    most = most_of_guesses(tally.condition.epsilon, columns.DELTA)
    law = "at most 1 - (1/2 - delta) / e^epsilon; 1/2: no nearer to sites' images than to others"
    area = tally.area(most, law)
    if area.low is not None and area.low > most:
        raise LabError(f"AUC {area.value:.3f} is above {most:.3f}, which the noise allows")
    return area


def _one_noise(tally: Tally, area: Measure) -> str:
    return (
        f"with epsilon {tally.condition.epsilon:g}, {_of(tally, 'right')} exactly and "
        f"{tally.count('near')} to be recognised, and the closest guesses tell images of sites "
        f"from others with AUC {area.value:.2f} (99 %: {area.low:.2f} to {area.high:.2f}; at most "
        f"{area.bound:.4g} is allowed)"
    )


def _of(tally: Tally, what: str) -> str:
    return f"{tally.count(what)} of {tally.count('held')}"


def _percent(tally: Tally) -> str:
    return f"{100 * tally.mean('accuracy'):.0f} %"


def _grouping(tally: Tally) -> str:
    if not tally.count("grouped"):
        return ", too few to tell which share a site"
    return (
        f"; {tally.count('grouped')} of them were put into groups of one site, "
        f"{tally.count('pure')} of these rightly, with {tally.count('joined')} of "
        f"{tally.count('pairs')} pairs of one site found"
    )


def _tried(column: str, size: Size, sums: Sums) -> str:
    text = (
        f"{sums.sites} sites with {SAMPLES} images each (real handwritten digits of 8 by 8 pixels) "
        f"train a network with {size.hidden} hidden neurons, in batches of {BATCH} with {STEPS} "
        f"local steps a round. Draws of images: {size.consortia}, each with {size.trainings} "
        f"trainings of {size.rounds} rounds; intervals are over draws, where these differ. The "
        f"server follows the protocol; it divides the summed change of each neuron's weights by "
        f"that of its bias, writes other changes as sums of recovered images, and compares what "
        f"activated which neuron. It knows the models that "
        f"it broadcast, the sums, and that pixels have {GREY + 1} grey values."
    )
    if column in columns.PAILLIER:
        text += (
            f" A real round over {sums.part:,} of {size.shape.length:,} coordinates gave "
            "the sum of the integers bit for bit; the other sums were made from "
            "the integers directly."
        )
    else:
        text += f" Every sum is that of a real round ({sums.rounds} without other protection)."
    return text


def _figure(tallies: Mapping[Condition, Tally], pictures: list[Picture], which: str = "") -> Figure:
    def bars(name: str, good: str, every: str, style: str) -> Series:
        found = [
            (i, tally.share(name, good, every))
            for i, tally in enumerate(tallies.values())
            if tally.count(every)
        ]
        return Series(
            name=name,
            x=[float(i) for i, _ in found],
            y=[measure.value for _, measure in found],
            low=[measure.low or 0.0 for _, measure in found],
            high=[measure.high or 0.0 for _, measure in found],
            style=style,
        )

    series = [bars("samples recovered", "right", "held", "bars")]
    pure = bars("purity of groups", "pure", "grouped", "points")
    names = "; ".join(f"{i}: {tally.condition.name}" for i, tally in enumerate(tallies.values()))
    return Figure(
        title="What the sums give away",
        x_label=names,
        y_label="part, with 99 % interval",
        series=[*series, pure] if pure.x else series,
        pictures=pictures,
        note=f"Pictures: a site's image, and what the server made of the sums. {which}".strip(),
    )


def _parameters(size: Size, sums: Sums) -> dict[str, int | float | str]:
    return {
        "n": sums.sites,
        "d": size.shape.length,
        "samples": SAMPLES,
        "batch": BATCH,
        "steps": STEPS,
        "hidden": size.hidden,
        "rate": RATE,
        "consortia": size.consortia,
        "trainings": size.trainings,
        "rounds": size.rounds,
        "levels": LEVELS,
        "real rounds": sums.rounds,
    }


__all__ = ["Condition", "Consortium", "Size", "SrattaScene", "Sums", "Tally", "Training"]
