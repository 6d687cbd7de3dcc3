"""What the attacks on noise are run against: real sums with noise, and samplers made badly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import secagg
from secagg_protocols.errors import SecAggError
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages import Noise

from .. import columns, statistics
from ..arena import controls
from ..attack import Attack, Transcript
from ..columns import EPSILON
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..noise import (
    FIRST,
    NONE,
    SECOND,
    UNIFORM_BITS,
    FloatNoise,
    MissingNoise,
)
from ..process import LabError
from ..scene import Lab, Scene
from .noise_rounds import NoiseReuseScene, NoiseWrapScene, only_noise, share
from .noise_sensitivity import UnderstatedSensitivityScene

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

INTEGER_NOISE: Final = "feature: exact integer noise"
SURVIVORS: Final = "feature: noise for the fewest honest survivors"


def naive_laplace(value: Floats, scale: float, rng: np.random.Generator) -> Floats:
    """The textbook sampler in doubles: the inverse of the distribution function at a uniform."""
    uniform = 1 - rng.random(len(value))  # a multiple of 2^-53 in (0, 1]
    signs = np.where(rng.random(len(value)) < 0.5, -1.0, 1.0)
    noise: Floats = np.copysign(-scale * np.log(uniform), signs)
    return value + noise


def reached(outputs: Floats, value: float) -> Floats:
    """Probability that a double near ``outputs`` is ``value`` plus naive noise of scale 1.

    Near noise z the values of the sampler lie 2^-53 e^|z| apart, at least as far as doubles do.
    An output is hit if one of them lies where additions round to it: in as many gaps of z's
    doubles as its own gap holds, one more for an even significand and one less for an odd one,
    because ties go to even.
    """
    noise = np.abs(outputs - value)
    own = np.spacing(noise)
    between = np.maximum(2.0**-UNIFORM_BITS * np.exp(noise), own)
    gap = np.spacing(np.abs(outputs))
    even = np.fmod(np.abs(outputs) / gap, 2) == 0
    cells = gap / own + np.where(gap > own, np.where(even, 1.0, -1.0), 0.0)
    return np.minimum(1.0, cells * own / between)


class FloatNoiseScene(Scene):
    """Counts of 0 and 1 with noise: integer noise of a real round, and noise in doubles."""

    attack: ClassVar[type[Attack]] = FloatNoise
    expected: ClassVar[Mapping[str, Verdict | str]] = only_noise()
    LENGTH: ClassVar[int] = 4096
    SITES: ClassVar[int] = 4

    def investigate(self, lab: Lab, column: str) -> Finding:
        """How many released values rule out one of two inputs."""
        made = columns.plan(column, self.SITES, self.LENGTH, stages=(secagg.Integers(0, 1),))
        rounds = lab.trials(1, 5)
        ours: list[Array] = []
        for number in range(rounds):
            lab.step(number, rounds)
            ours.append(self._sum(lab, made, number))
        right = np.concatenate(ours)
        holes = self._sum(lab, made, rounds, _even())
        count = lab.trials(8192, 100_000)
        rng = lab.rng("doubles")
        coins = rng.integers(0, 2, count)
        outputs = naive_laplace(coins.astype(np.float64), 1.0, rng)
        found = lab.attack(
            Transcript(public={"inputs": [0.0, 1.0], "scale": 1.0}, arrays={"outputs": outputs})
        )
        broken = self._right(found.arrays["says"], coins)
        chance = 1 - np.where(coins == 0, reached(outputs, 1.0), reached(outputs, 0.0))
        measures = []
        for coin in (0, 1):
            which = coins == coin
            hits, total_, law = int(broken[which].sum()), int(which.sum()), chance[which]
            error = math.sqrt(float(np.sum(law * (1 - law)))) / total_
            if not statistics.within(hits / total_, float(law.mean()), error):
                raise LabError(
                    f"{hits} of {total_} outputs were impossible, the law says {law.mean():.4f}"
                )
            name = f"doubles: outputs of input {coin} that input {1 - coin} cannot give"
            measures.append(
                share(
                    name,
                    hits,
                    total_,
                    predicted=float(law.mean()),
                    law="1 - min(1, gap of the output / gap of the noise)",
                )
            )
        wins = int(right.sum())
        measures.insert(
            0,
            share("integers: outputs that rule out an input", wins, len(right), predicted=0.0),
        )
        return Finding(
            verdict=Verdict.LEAKS if wins else Verdict.PREVENTED,
            tried=(
                f"A site's count of 0 or 1 in each of {self.LENGTH} coordinates was summed with "
                f"noise ({rounds} rounds, {made.clients} sites, the counts of all others known). "
                "For every released value the attack tested whether both counts could have given "
                "it. The same was done to a textbook Laplace sampler in doubles."
            ),
            seen=(
                f"{wins} of {len(right)} sums of integer noise ruled out a count. Where sites "
                f"draw even integers alone, {100 * holes.mean():.0f} % did. Of the "
                "textbook sampler's "
                f"values, {100 * broken.mean():.0f} % were possible under the true "
                "count alone, whatever "
                "epsilon it claims."
            ),
            trials=len(right),
            successes=wins,
            stopped_by=() if wins else (INTEGER_NOISE,),
            measures=measures,
            controls=[
                ControlRun(
                    overrides=(INTEGER_NOISE,),
                    trials=count,
                    successes=int(broken.sum()),
                    note="Laplace noise in doubles by the inverse distribution function",
                ),
                ControlRun(
                    overrides=(INTEGER_NOISE,),
                    trials=len(holes),
                    successes=int(holes.sum()),
                    note="sites whose sampler gives even integers alone",
                ),
            ],
            figures=[self._figure(outputs, broken, chance)],
            parameters={"n": made.clients, "d": self.LENGTH, "epsilon": EPSILON, "scale": 1.0},
        )

    def _sum(self, lab: Lab, made: Plan, number: int, weak: Any = None) -> npt.NDArray[np.bool_]:
        """Which counts of one real round the attack told; weak: a class of its sites."""
        vectors = lab.inputs(made.clients, self.LENGTH, 1, number)
        total = columns.honest_sum(
            made,
            vectors,
            seed=lab.digest("round", number),
            round=number,
            classes=None if weak is None else dict.fromkeys(made.roster.names, weak),
        ).total
        # Anybody may run the sampler, from seeds of their own.
        noise = made.pipeline.noise
        if noise is None:
            raise LabError("a plan of the noise column has noise")
        samples = np.empty(self.LENGTH, dtype=np.int64)
        noise.draws(lab.digest("own", number)).write(samples, 0)
        found = lab.attack(
            Transcript(
                plan=dump_plan(made),
                public={"inputs": [0, 1], "sites": made.clients},
                arrays={
                    "outputs": total.astype(np.float64),
                    "others": vectors[1:].sum(axis=0),
                    "samples": samples if weak is None else 2 * samples,
                },
            )
        )
        return self._right(found.arrays["says"], vectors[0])

    def _right(self, says: Array, truth: Array) -> npt.NDArray[np.bool_]:
        """Which outputs were told rightly; what is told wrongly is a fault of the attack."""
        if np.any(says == NONE) or np.any((says == FIRST) & (truth != 0)):
            raise LabError("the attack rules out the true input")
        if np.any((says == SECOND) & (truth != 1)):
            raise LabError("the attack rules out the true input")
        told: npt.NDArray[np.bool_] = (says == FIRST) | (says == SECOND)
        return told

    def _figure(self, outputs: Floats, broken: Array, chance: Floats) -> Figure:
        edges = np.arange(-3.0, 4.01, 0.25)
        where = np.digitize(outputs, edges)
        x: list[float] = []
        seen: list[float] = []
        low: list[float] = []
        high: list[float] = []
        law: list[float] = []
        for at in range(1, len(edges)):
            inside = where == at
            if inside.sum() < 20:
                continue
            hits, total = int(broken[inside].sum()), int(inside.sum())
            point = share("", hits, total)
            x.append(float(edges[at - 1] + edges[at]) / 2)
            seen.append(point.value)
            low.append(max(point.low or 0.0, 0.0))
            high.append(point.high or 0.0)
            law.append(float(chance[inside].mean()))
        return Figure(
            title="Outputs that only the true input can give",
            x_label="released value (scales of the noise)",
            y_label="share of outputs",
            series=[
                Series(name="noise in doubles", x=x, y=seen, low=low, high=high),
                Series(name="law", x=x, y=law, style="line"),
                Series(name="integer noise", x=x, y=[0.0] * len(x), style="line"),
            ],
            note="The true input is 0 or 1 with equal chance; the other one is its neighbour.",
        )


class _Tapped:
    """A pipeline that keeps a copy of the integers that leave it."""

    def __init__(self, pipeline: Any, kept: list[Ints]) -> None:
        self._pipeline, self._kept = pipeline, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def begin(self, x: Any, weight: int, rand: Any) -> _TappedEncoder:
        """As it is, with every tile copied."""
        return _TappedEncoder(self._pipeline.begin(x, weight, rand), self._kept)


class _TappedEncoder:
    def __init__(self, encoder: Any, kept: list[Ints]) -> None:
        self._encoder, self._kept = encoder, kept
        self.length, self.dtype = encoder.length, encoder.dtype

    def tile(self, out: Array, start: int) -> None:
        self._encoder.tile(out, start)
        self._kept.append(out.view(f"i{out.dtype.itemsize}").astype(np.int64))


def tapped(kept: list[Ints]) -> type[Any]:
    """A site that keeps to the protocol, and remembers what it sent."""
    honest: Any = Client.pipeline
    return controls.changed(
        Client, pipeline=property(lambda site: _Tapped(honest.fget(site), kept))
    )


class _EvenEncoder:
    def __init__(self, encoder: Any, x: Array) -> None:
        self._encoder, self._x = encoder, x
        self.length, self.dtype = encoder.length, encoder.dtype

    def tile(self, out: Array, start: int) -> None:
        self._encoder.tile(out, start)
        # x + noise becomes x + 2 noise, in the ring.
        out[:] = out * out.dtype.type(2) - self._x[start : start + len(out)].astype(out.dtype)


class _Even(_Tapped):
    def begin(self, x: Any, weight: int, rand: Any) -> Any:
        """As it is, with noise twice as large: even integers alone."""
        return _EvenEncoder(self._pipeline.begin(x, weight, rand), np.asarray(x))


def _even() -> type[Any]:
    """A site whose sampler leaves out every odd integer."""
    honest: Any = Client.pipeline
    return controls.changed(Client, pipeline=property(lambda site: _Even(honest.fget(site), [])))


class MissingNoiseScene(Scene):
    """Rounds in which every site drops out that may, while colluding ones know their noise."""

    attack: ClassVar[type[Attack]] = MissingNoise
    expected: ClassVar[Mapping[str, Verdict | str]] = only_noise()
    LENGTH: ClassVar[int] = 2048
    #: (sites, dropouts, colluding): down to a tenth of the sites honest and there.
    COHORTS: ClassVar[tuple[tuple[int, int, int], ...]] = ((6, 1, 1), (20, 17, 1))
    MORE: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (8, 3, 1),
        (10, 3, 2),
        (12, 6, 2),
        (16, 11, 1),
    )

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Residual variance over the claimed one, by cohort."""
        cohorts = self.COHORTS + (self.MORE if lab.full else ())
        rounds = lab.trials(1, 4)
        ours: list[tuple[float, Measure]] = []
        weak: list[tuple[float, Measure]] = []
        trials = wins = bad = opened = asked = 0
        refused: set[str] = set()
        for number, (n, out, c) in enumerate(cohorts):
            lab.step(number, len(cohorts))
            made = self._plan(column, n, out, c)
            honest = made.min_survivors - made.colluding
            noise = made.pipeline.noise
            if noise is None:
                raise LabError("a plan of the noise column has noise")
            claimed = noise.variance(honest)
            for plan, points, left in (
                (made, ours, 1.0),
                (self._for_all(made, noise, honest), weak, honest / n),
            ):
                ratio, error, low = self._residual(lab, plan, claimed, rounds)
                if not statistics.within(ratio, left, error * left):
                    raise LabError(
                        f"{n} sites, {out} dropouts, {c} colluding: variance {ratio:.3f} of the "
                        f"claim, {left:.3f} was predicted"
                    )
                bottom, top = statistics.interval(ratio, error * ratio)
                points.append(
                    (
                        honest / n,
                        Measure(
                            name=f"residual variance, {honest} of {n} sites honest and there"
                            + ("" if points is ours else ", noise for all"),
                            value=ratio,
                            low=bottom,
                            high=top,
                            predicted=left,
                            law="at least 1" if points is ours else "honest survivors / all sites",
                            unit="of the claim",
                        ),
                    )
                )
                wins, bad = wins + (low and points is ours), bad + (low and points is weak)
            trials += 1
            if not number or lab.full:
                rule = self._one_too_few(lab, made)
                asked += 1
                # A sum that opens holds the noise of fewer sites than the claim counts on.
                opened += not rule
                refused |= {f"server.{rule}"} if rule else set()
        return Finding(
            verdict=Verdict.LEAKS if wins or opened else Verdict.PREVENTED,
            tried=(
                f"In {len(cohorts)} cohorts as many sites dropped out as the plan allows, and the "
                "server took off what its colluding sites had added. The variance of the noise "
                f"that was left was measured over {rounds * self.LENGTH} coordinates each. "
                f"Then one site more dropped out ({asked} cohorts)."
            ),
            seen=(
                f"The claimed noise was there in {trials - wins} of {trials} cohorts. With noise "
                f"for all sites, {100 * min(m.value for _, m in weak):.0f} % of it was left in the "
                "cohort that had lost the most. With one dropout more than allowed, "
                f"{opened} of {asked} sums were opened"
                + (f" (refused by {', '.join(sorted(refused))})." if refused else ".")
            ),
            trials=trials + asked,
            successes=wins + opened,
            # A cohort whose noise was all there is the feature's doing, a sum that was not opened
            # that of the rule which refused it.
            stopped_by=(*((SURVIVORS,) if wins < trials else ()), *sorted(refused)),
            measures=[measure for _, measure in (*ours, *weak)],
            controls=[
                ControlRun(
                    overrides=(SURVIVORS,),
                    trials=len(weak),
                    successes=bad,
                    note="the same noise cut among all sites of the roster",
                )
            ],
            figures=[self._figure(ours, weak)],
            parameters={"d": self.LENGTH, "rounds": rounds, "epsilon": EPSILON},
        )

    def _plan(self, column: str, n: int, out: int, c: int) -> Plan:
        enough = min(columns.threshold(n, c), n - out)
        return columns.plan(
            column,
            n,
            self.LENGTH,
            stages=(secagg.Integers(0, 1),),
            max_dropouts=out,
            colluding=c,
            protocol=secagg.MaskedSum(share_threshold=enough, neighbours=n - 1),
        )

    def _for_all(self, made: Plan, noise: Noise, honest: int) -> Plan:
        variance = max(1, round(noise.variance_levels2 * honest / made.clients))
        weak = dataclasses.replace(noise, variance_levels2=variance)
        return dataclasses.replace(made, stages=(*made.stages[:-1], weak))

    def _residual(
        self, lab: Lab, plan: Plan, claimed: float, rounds: int
    ) -> tuple[float, float, bool]:
        """(variance over the claim, its relative standard error, whether it is below 1)."""
        names = plan.roster.names
        stay = names[: plan.min_survivors]
        colluding = stay[len(stay) - plan.colluding :]
        vectors = lab.inputs(plan.clients, plan.length, 1, plan.clients)
        sums, own, true = [], [], []
        for number in range(rounds):
            kept: dict[str, list[Ints]] = {name: [] for name in colluding}
            played = columns.honest_sum(
                plan,
                vectors,
                seed=lab.digest("missing", plan.digest, number),
                drop=names[plan.min_survivors :],
                round=number,
                classes={name: tapped(kept[name]) for name in colluding},
            )
            sums.append(played.total)
            own.append([np.concatenate(kept[name]) for name in colluding])
            true.append(vectors[: len(stay) - len(colluding)].sum(axis=0))
        found = lab.attack(
            Transcript(arrays={"sums": np.array(sums), "own": np.array(own, dtype=np.int64)})
        )
        left = (found.arrays["estimate"] - np.array(true)).astype(np.float64)
        ratio = float(np.mean(left * left)) / claimed
        error = math.sqrt(2 / left.size)
        return ratio, error, ratio < 1 and not statistics.within(ratio, 1.0, error)

    def _one_too_few(self, lab: Lab, plan: Plan) -> str:
        """The rule that refuses a sum after one dropout more; empty where none does."""
        vectors = lab.inputs(plan.clients, plan.length, 1, "few")
        gone = plan.roster.names[plan.min_survivors - 1 :]
        try:
            columns.honest_sum(plan, vectors, seed=lab.digest("few", plan.digest), drop=gone)
        except SecAggError as error:
            return error.rule
        return ""

    def _figure(
        self, ours: list[tuple[float, Measure]], weak: list[tuple[float, Measure]]
    ) -> Figure:
        def points(name: str, found: list[tuple[float, Measure]]) -> Series:
            ordered = sorted(found, key=lambda one: one[0])
            return Series(
                name=name,
                x=[share for share, _ in ordered],
                y=[measure.value for _, measure in ordered],
                low=[measure.low or 0.0 for _, measure in ordered],
                high=[measure.high or 0.0 for _, measure in ordered],
            )

        return Figure(
            title="Noise that is left after dropouts and collusion",
            x_label="honest survivors / all sites",
            y_label="variance / claimed variance",
            series=[
                points("noise for the fewest honest survivors", ours),
                points("noise for all sites", weak),
                Series(
                    name="honest survivors / all sites", x=[0.0, 1.0], y=[0.0, 1.0], style="line"
                ),
            ],
        )


__all__ = [
    "FloatNoiseScene",
    "MissingNoiseScene",
    "NoiseReuseScene",
    "NoiseWrapScene",
    "UnderstatedSensitivityScene",
    "naive_laplace",
    "reached",
    "tapped",
]
