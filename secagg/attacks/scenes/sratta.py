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
from ..sratta import Setting, Sratta
from ..statistics import auc, interval, rate
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
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        column: Verdict.PREVENTED if column == "noise" else Verdict.LEAKS
        for column in columns.COLUMNS
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Every condition of the column on the same consortia."""
        size = Size(5, 4, 3, 1000) if lab.full else Size(1, 2, 2, 300)
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
        for again in range(size.trainings):
            training = Training(size, condition, consortium)
            # The same models and batches under every condition.
            rng = lab.rng("training", number, again)
            one = training.run(sums, rng, condition.name, number, again)
            before.append(one[0])
            change.append(one[1])
            tally.accuracy.append(training.accuracy)
            tally.censored += training.censored
        evidence = lab.attack(_transcript(np.stack(before), np.stack(change), sums.setting))
        tally.add(evidence, consortium)
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
        found.append((float(width), tally.right / tally.held))
    return Series(
        name="samples recovered", x=[x for x, _ in found], y=[y for _, y in found], style="line"
    )


def _bare_finding(
    lab: Lab, column: str, size: Size, tallies: Mapping[Condition, Tally], sums: Sums
) -> Finding:
    bare, censored = tallies[BARE], tallies[CENSORED]
    coarse = _coarser(lab, size, sums.sites)
    recovered = bare.right / bare.held
    seen = (
        f"{bare.right} of {bare.held} images were read off the sums exactly, with {bare.false} "
        f"false ones{_grouping(bare)}. The protocol did what it promises: the sum itself shows "
        f"them. Where sites censored neurons that fewer than two of their images activate, "
        f"{censored.right} of {censored.held} were read; accuracy on other images was "
        f"{np.mean(censored.accuracy):.2f} instead of {np.mean(bare.accuracy):.2f}."
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
        trials=len(bare.each),
        successes=bare.successes,
        measures=[
            *(m for tally in tallies.values() for m in tally.measures()),
            *(
                Measure(name=f"samples recovered at 2^{x:.0f} levels per clip", value=y)
                for x, y in zip(coarse.x, coarse.y, strict=True)
            ),
        ],
        figures=[_figure(tallies, bare.pictures), figure],
        parameters=_parameters(size, sums) | {"recovered": round(recovered, 4)},
    )


def _noise_finding(
    lab: Lab, size: Size, tallies: Mapping[Condition, Tally], sums: Mapping[Condition, Sums]
) -> Finding:
    bare, noisy = tallies[BARE], [tallies[condition] for condition in NOISY]
    successes = sum(tally.successes for tally in noisy)
    measures = [m for tally in tallies.values() for m in tally.measures()]
    trials = sum(len(tally.each) for tally in noisy)
    measures.append(rate("trainings with noise that showed a sample", successes, trials))
    for tally in (bare, *noisy):
        area, error = auc(tally.seen, tally.unseen)
        low, high = interval(area, error)
        law = "1/2: guesses are no nearer to images of sites than to others"
        if tally.condition.epsilon:
            # The largest area under any ROC curve that (epsilon, 0) allows.
            most = 1 / (1 + math.exp(-tally.condition.epsilon))
            law += f"; noise allows at most {most:.4f} for a whole site"
        measures.append(
            Measure(
                name=f"AUC of the closest guesses ({tally.condition.name})",
                value=area,
                low=max(0.0, low),
                high=min(1.0, high),
                predicted=0.5 if tally.condition.epsilon else None,
                law=law,
            )
        )
    words = ", ".join(
        f"{tally.right} of {tally.held} with {tally.condition.name}" for tally in noisy
    )
    costs = ", ".join(
        f"{np.mean(tally.accuracy):.2f} with {tally.condition.name}" for tally in noisy
    )
    deviations = ", ".join(f"{sums[c].setting.noise:.2g} ({c.name})" for c in NOISY)
    spread = sums[BARE].spread
    seen = (
        f"Images recovered: {words}; {bare.right} of {bare.held} from the same trainings without "
        f"noise. A coordinate of the sum has noise of standard deviation {deviations}, where "
        f"sums without noise are of the order of {spread:.1g}. That protection has its price "
        f"with so few sites: accuracy on other images was {np.mean(bare.accuracy):.2f} without "
        f"noise and {costs}. "
        f"Noise makes no leak impossible; it bounds it by epsilon and delta."
    )
    return Finding(
        verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
        tried=_tried("noise", size, sums[NOISY[0]])
        + f" Noise is calibrated to epsilon 8 and 2 over all {size.trainings * size.rounds} rounds "
        "that a site takes part in, by discrete Gaussian noise of the sites.",
        seen=seen,
        trials=trials,
        successes=successes,
        stopped_by=() if successes else ("feature: distributed noise",),
        measures=measures,
        controls=[
            ControlRun(
                overrides=("feature: distributed noise",),
                trials=len(bare.each),
                successes=bare.successes,
                note="the same consortia and models, sums without noise",
            )
        ],
        figures=[
            _figure(
                tallies,
                [*bare.pictures[: PICTURES // 2], *noisy[0].pictures[: PICTURES // 2]],
            )
        ],
        parameters=_parameters(size, sums[NOISY[0]]),
    )


def _grouping(tally: Tally) -> str:
    if not tally.grouped:
        return ", too few to tell which share a site"
    return (
        f"; {tally.grouped} of them were put into groups of one site, {tally.pure} of these "
        f"rightly, with {tally.joined} of {tally.pairs} pairs of one site found"
    )


def _tried(column: str, size: Size, sums: Sums) -> str:
    text = (
        f"{sums.sites} sites with {SAMPLES} images each (real handwritten digits of 8 by 8 pixels) "
        f"train a network with {size.hidden} hidden neurons, in batches of {BATCH} with {STEPS} "
        f"local steps a round: {size.consortia} draw(s) of images, {size.trainings} training(s) "
        f"of {size.rounds} rounds each. The server follows the protocol; it divides the summed "
        f"change of each neuron's weights by that of its bias, writes other changes as sums of "
        f"recovered images, and compares what activated which neuron. It knows the models that "
        f"it broadcast, the sums, and that pixels have {GREY + 1} grey values."
    )
    if column in columns.PAILLIER:
        text += (
            f" {sums.rounds} real round over {sums.part:,} of {size.shape.length:,} "
            "coordinates gave the sum of the integers bit for bit; the other sums were made from "
            "the integers directly."
        )
    else:
        text += f" Every sum is that of a real round ({sums.rounds} without other protection)."
    return text


def _figure(tallies: Mapping[Condition, Tally], pictures: list[Picture]) -> Figure:
    def bars(name: str, counts: list[tuple[int, int, int]], style: str) -> Series:
        found = [(i, rate(name, good, all_)) for i, good, all_ in counts if all_]
        return Series(
            name=name,
            x=[float(i) for i, _ in found],
            y=[measure.value for _, measure in found],
            low=[measure.low or 0.0 for _, measure in found],
            high=[measure.high or 0.0 for _, measure in found],
            style=style,
        )

    all_of = list(enumerate(tallies.values()))
    series = [bars("samples recovered", [(i, t.right, t.held) for i, t in all_of], "bars")]
    pure = bars("purity of groups", [(i, t.pure, t.grouped) for i, t in all_of], "points")
    names = "; ".join(f"{i}: {tally.condition.name}" for i, tally in all_of)
    return Figure(
        title="What the sums give away",
        x_label=names,
        y_label="part, with 99 % interval",
        series=[*series, pure] if pure.x else series,
        pictures=pictures,
        note="Pictures: a site's image, and what the server made of the sums.",
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
