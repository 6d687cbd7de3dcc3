"""Noise that is used twice, that can be predicted, or that the ring cuts off: rows 33 and 34."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

import secagg
from secagg_protocols.errors import SecAggError
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.lift import lift
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan

from .. import columns, statistics
from ..arena import controls
from ..arena.world import World
from ..attack import Attack, Frame, Transcript
from ..columns import COLUMNS, DELTA, EPSILON
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..noise import NoiseReuse, NoiseWrap
from ..process import LabError
from ..scene import Lab, Scene

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

FRESH: Final = "feature: fresh seeds of the operating system"
BOUND: Final = "feature: noise bound to its round"
ONCE: Final = "journal.journal-once"
ROOM: Final = "feature: room for the noise in the ring"
_SESSION: Final = "laboratory"
_MODEL: Final = b"model"


def only_noise() -> dict[str, Verdict | str]:
    """Rows about noise concern the column that has some."""
    verdicts: dict[str, Verdict | str] = dict.fromkeys(COLUMNS, "this protocol adds no noise")
    return verdicts | {"noise": Verdict.PREVENTED}


def share(
    name: str, hits: int, total: int, *, predicted: float | None = None, law: str = ""
) -> Measure:
    """A proportion of many with its exact 99 % interval (Clopper and Pearson)."""
    return statistics.rate(name, hits, total, predicted=predicted, law=law)


class _Unbound:
    """A pipeline whose stages get the same seeds in every round."""

    def __init__(self, pipeline: Any, seed: bytes) -> None:
        self._pipeline, self._seed = pipeline, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def begin(self, x: Any, weight: int, rand: Callable[[], bytes]) -> Any:
        """As it is, with a seed that no round takes part in."""
        return self._pipeline.begin(x, weight, lambda: self._seed)


def unbound(seed: bytes) -> type[Any]:
    """A site whose noise follows from a seed of the site alone."""
    honest: Any = Client.pipeline
    return controls.changed(
        Client, pipeline=property(lambda site: _Unbound(honest.fget(site), seed))
    )


def _forgets(_journal: Any, *_stored: Any) -> None:
    """In the place of a check: everything passes."""


#: A journal that lets one step be answered in two versions.
ForgetfulJournal: Final = controls.changed(MemoryJournal, _check_journal_once=_forgets)


class NoiseReuseScene(Scene):
    """Two rounds, a site that goes on twice from one stored state, and seeds that are tried."""

    attack: ClassVar[type[Attack]] = NoiseReuse
    expected: ClassVar[Mapping[str, Verdict | str]] = only_noise()
    SITES: ClassVar[int] = 3
    LENGTH: ClassVar[int] = 8
    #: What a clock or a process number gives a careless generator.
    GUESSES: ClassVar[int] = 16
    #: How often a stored state is loaded beside its party.
    FORKS: ClassVar[int] = 24

    plan: Plan
    text: str
    guesses: list[bytes]

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Exact differences, and sums without their noise, over many rounds."""
        self.plan = columns.plan(
            column,
            self.SITES,
            self.LENGTH,
            stages=(secagg.Integers(0, 1000),),
            max_dropouts=0,
        )
        self.text = dump_plan(self.plan)
        rounds = lab.trials(4, 58)
        self.guesses = [
            columns.entropy(_small(k), name)(32)
            for k in range(self.GUESSES)
            for name in self.plan.roster.names
        ]
        trials = wins = taken = forks = 0
        rules: set[str] = set()
        played: list[tuple[int, Ints, columns.Sum]] = []
        for number in range(rounds):
            lab.step(number, rounds)
            played.append(self._round(lab, number, lab.digest("fresh", number)))
            wins += self._known(lab, played[-1])
            frames, refused = self._fork(lab, number, MemoryJournal, self.FORKS)
            rules |= refused
            exact = self._twice(lab, frames, number)
            wins, taken, forks = wins + exact, taken + exact, forks + self.FORKS
            trials += 1 + self.FORKS
        for before, after in itertools.combinations(played, 2):
            wins += self._same(lab, before, after)
            trials += 1
        found = self._controls(lab, lab.trials(2, 20))
        return Finding(
            verdict=Verdict.LEAKS if wins else Verdict.PREVENTED,
            tried=(
                f"In {rounds} rounds the server subtracted every opened sum from every other, "
                f"tried {self.GUESSES} guesses at every site's seed, and had a site go on "
                f"{self.FORKS} more times, with other vectors, from one stored state."
            ),
            seen=(
                f"{wins} of {trials} attempts gave an exact number (pairs of rounds share their "
                f"{rounds} rounds, so they are not independent). {forks - taken} of {forks} other "
                f"vectors were refused ({', '.join(sorted(rules)) or 'by no rule'}). Of the "
                f"controls, {sum(c.successes for c in found)} of "
                f"{sum(c.trials for c in found)} attempts were exact."
            ),
            trials=trials,
            successes=wins,
            stopped_by=() if wins else (FRESH, BOUND, *(f"journal.{r}" for r in sorted(rules))),
            controls=found,
            parameters={
                "n": self.plan.clients,
                "d": self.LENGTH,
                "epsilon": EPSILON,
                "delta": DELTA,
            },
        )

    # Rounds, and what the attack makes of them.

    def _round(
        self, lab: Lab, number: int, seed: bytes, classes: dict[str, Any] | None = None
    ) -> tuple[int, Ints, columns.Sum]:
        """(round, true sum, what the server has) of one honest round."""
        vectors = lab.inputs(self.plan.clients, self.LENGTH, 999, number)
        played = columns.honest_sum(
            self.plan, vectors, seed=seed, round=number, model=_MODEL, classes=classes
        )
        return number, vectors.sum(axis=0), played

    def _same(
        self,
        lab: Lab,
        before: tuple[int, Ints, columns.Sum],
        after: tuple[int, Ints, columns.Sum],
    ) -> int:
        sums = np.array([before[2].total, after[2].total])
        found = lab.attack(Transcript(plan=self.text, arrays={"sums": sums}))
        return int(found.vectors.get("two rounds") == (after[1] - before[1]).tolist())

    def _known(self, lab: Lab, played: tuple[int, Ints, columns.Sum]) -> int:
        number, true, round_ = played
        # The attack reads the round of number 0 of a transcript: these are the frames of one.
        found = lab.attack(
            Transcript(
                plan=self.text,
                session=_SESSION,
                frames=round_.frames,
                models={number: _MODEL},
                public={"guesses": self.guesses, "round": number},
                arrays={"sums": round_.total[None]},
            )
        )
        return int(found.vectors.get("predicted") == true.tolist())

    def _fork(
        self, lab: Lab, number: int, journal: type[Any], count: int
    ) -> tuple[list[Frame], set[str]]:
        """Frames of a round in which s0 goes on ``count`` more times from one dump, and the rules
        that refused."""
        plan = self.plan
        vectors = lab.inputs(plan.clients, self.LENGTH, 999, "fork", number)
        others: list[Any] = []
        kept: dict[str, bytes] = {}

        def edit(kind: int, sender: str, to: str, frame: bytes) -> None:
            if kind == messages.SHARES_FOR.number and to == "s0":
                one = world.parties["s0"]
                dump, kept["shares"] = one.dump(), frame
                # Before the first has sent its vector: then the journal of all is the same.
                others.extend(
                    secagg.load(dump, plan, one.identity, world.journals["s0"], model=_MODEL)
                    for _ in range(count)
                )

        world = World(plan, edit=edit, session=_SESSION, round=number, journals={"s0": journal()})
        for name, party in world.parties.items():
            party._entropy = columns.entropy(lab.digest("fork", number), name)
        for name, row in zip(plan.roster.names, vectors, strict=True):
            world.vectors[name] = row
        world.run()
        frames = [Frame(number, s, to, bytes(data)) for _, s, to, data in world.frames]
        rules = set()
        for k, other in enumerate(others):
            try:
                other.submit(self._second(vectors[0], k))
                events = other.receive(kept["shares"], sender="server")
            except SecAggError as error:
                rules.add(error.rule)
                continue
            frames += [
                Frame(number, "s0", "server", bytes(event.data))
                for event in events
                if isinstance(event, secagg.Send)
            ]
        return frames, rules

    def _second(self, vector: Ints, k: int) -> Ints:
        """What the site sends the k-th time that its state is loaded: another vector each time."""
        return np.asarray((vector * 7 + 3 + 37 * k) % 1000, dtype=np.int64)

    def _twice(self, lab: Lab, frames: list[Frame], number: int) -> int:
        first = lab.inputs(self.plan.clients, self.LENGTH, 999, "fork", number)[0]
        found = lab.attack(
            Transcript(
                plan=self.text,
                session=_SESSION,
                frames=frames,
                models={number: _MODEL},
                public={"round": number},
            )
        )
        claimed = [v for name, v in found.vectors.items() if name.startswith("two inputs:s0:")]
        changes = [(self._second(first, k) - first).tolist() for k in range(self.FORKS)]
        return sum(change in claimed for change in changes)

    def _controls(self, lab: Lab, count: int) -> list[ControlRun]:
        constant = [self._round(lab, r, lab.digest("constant")) for r in range(count + 1)]
        weak = {name: unbound(lab.digest("seed", name)) for name in self.plan.roster.names}
        loose = [self._round(lab, r, lab.digest("constant"), weak) for r in range(count + 1)]
        pick = lab.rng("guess").integers(0, self.GUESSES, count)
        small = [self._round(lab, r, _small(int(k))) for r, k in enumerate(pick)]
        forked = 0
        for number in range(count):
            frames, _ = self._fork(lab, number, ForgetfulJournal, 1)
            forked += self._twice(lab, frames, number)
        pairs = range(count)
        return [
            ControlRun(
                overrides=(FRESH,),
                trials=count,
                successes=sum(self._same(lab, constant[r], constant[r + 1]) for r in pairs),
                expected=False,
                note="a generator that gives the same seed in every round: the context of the "
                "round still makes other noise of it",
            ),
            ControlRun(
                overrides=(FRESH, BOUND),
                trials=count,
                successes=sum(self._same(lab, loose[r], loose[r + 1]) for r in pairs),
                note="noise from a seed that neither changes nor meets the round",
            ),
            ControlRun(
                overrides=(FRESH,),
                trials=count,
                successes=sum(self._known(lab, played) for played in small),
                note=f"seeds out of {self.GUESSES} that a clock would give: the advertised keys "
                "confirm a guess, and the noise is computed and taken off",
            ),
            ControlRun(
                overrides=(ONCE,),
                trials=count,
                successes=forked,
                note="one stored state loaded twice, with different vectors",
            ),
        ]


def _small(k: int) -> bytes:
    return b"seconds since the machine was started" + bytes([k])


def _at_most(name: str, hits: int, total: int, bits: int) -> Measure:
    """A share of sums beside the probability that a plan allows."""
    found = share(name, hits, total, law="at most the plan's probability")
    return msgspec.structs.replace(found, bound=2.0**-bits)


class NoiseWrapScene(Scene):
    """Sums at the edge of what sites may send, in rings of several sizes."""

    attack: ClassVar[type[Attack]] = NoiseWrap
    expected: ClassVar[Mapping[str, Verdict | str]] = only_noise()
    LENGTH: ClassVar[int] = 64
    #: Room in standard deviations of the noise between what the data reach and the ring's end.
    SIGMAS: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """How often a coordinate wraps."""
        made = columns.plan(column, 4, self.LENGTH, stages=(secagg.Integers(0, 1),))
        noise = made.pipeline.noise
        if noise is None:
            raise LabError("a plan of the noise column has noise")
        loose = dataclasses.replace(
            made, stages=(*made.stages[:-1], dataclasses.replace(noise, wrap_bits=10)), bits=None
        )
        sums = lab.trials(500, 5_000)
        top = np.ones((made.clients, self.LENGTH), dtype=np.int64)
        before = self._sums(lab, made, top, sums)
        wins, over, held = self._wraps(lab, before, made)
        _, some, _ = self._wraps(lab, before, loose)
        for count, bits in ((over, noise.wrap_bits), (some, 10)):
            if statistics.binomial_tail(count, sums, 2.0**-bits) < statistics.LEVEL:
                raise LabError(f"{count} of {sums} sums wrapped, the plan allows one in 2^{bits}")
        for number in range(lab.trials(2, 20)):
            played = columns.honest_sum(
                made, top, seed=lab.digest("round", number), round=number
            ).total
            wins += self._claimed(lab, played[None], made.clients, 1 << made.wire_bits)
        deviation = math.sqrt(noise.variance(made.clients))
        x, seen, low, high, law = [], [], [], [], []
        bad = bad_trials = 0
        for room in self.SIGMAS:
            # A ring far wider than the noise, whose window ends this far above the data.
            slack = round(room * deviation)
            size = 1 << math.ceil(math.log2(32 * deviation))
            least = made.clients + slack + 1 - size
            released = (before - least) % size + least
            wrapped = int(np.sum(released != before))
            if self._claimed(lab, released, made.clients, size, before) != wrapped:
                raise LabError("the attack misses wraps, or names others")
            chance = math.erfc((slack + 0.5) / deviation / math.sqrt(2)) / 2
            error = math.sqrt(chance * (1 - chance) / before.size)
            if not statistics.within(wrapped / before.size, chance, error):
                raise LabError(f"{wrapped} of {before.size} wrapped, the law says {chance:.3g}")
            point = share("", wrapped, before.size)
            x.append(slack / deviation)
            seen.append(point.value)
            low.append(max(point.low or 0.0, 0.0))
            high.append(point.high or 0.0)
            law.append(chance)
            bad, bad_trials = bad + wrapped, bad_trials + before.size
        alone = share(
            "ring for the data alone: coordinates that wrapped",
            round(seen[0] * before.size),
            before.size,
            predicted=law[0],
            law="noise above 0",
        )
        return Finding(
            verdict=Verdict.CORRUPTS if wins else Verdict.PREVENTED,
            tried=(
                f"All sites sent the largest value they may, so that every coordinate of {sums} "
                f"sums of {self.LENGTH} coordinates lay at the edge of what the data can reach, "
                "and noise was added."
            ),
            seen=(
                f"{wins} coordinates wrapped in the plan's ring of {made.wire_bits} bits, which "
                f"leaves room of {held:.1f} standard deviations of the noise. In a ring for the "
                f"data alone {100 * alone.value:.0f} % of them did, and nobody was "
                "told that the result "
                "was wrong."
            ),
            trials=before.size,
            successes=wins,
            stopped_by=() if wins else (ROOM,),
            measures=[
                _at_most("sums in which a coordinate wrapped", over, sums, noise.wrap_bits),
                _at_most("the same in a plan that allows one in 1024", some, sums, 10),
                alone,
            ],
            controls=[
                ControlRun(
                    overrides=(ROOM,),
                    trials=bad_trials,
                    successes=bad,
                    note="windows that end none to four standard deviations above the data",
                )
            ],
            figures=[
                Figure(
                    title="Coordinates that wrap",
                    x_label="room above the data (standard deviations of the noise)",
                    y_label="share of coordinates",
                    log_y=True,
                    series=[
                        Series(name="measured", x=x, y=seen, low=low, high=high),
                        Series(name="tail of the noise", x=x, y=law, style="line"),
                    ],
                    note=f"The plan's ring leaves {held:.1f} standard deviations.",
                )
            ],
            parameters={
                "n": made.clients,
                "d": self.LENGTH,
                "bits": made.wire_bits,
                "epsilon": EPSILON,
            },
        )

    def _sums(self, lab: Lab, made: Plan, vectors: Ints, count: int) -> Ints:
        """Noisy sums before the ring, int64[count, d]: the pipeline's integers, added."""
        pipeline = made.pipeline
        total = np.zeros((count, self.LENGTH), dtype=np.int64)
        noise = pipeline.noise
        if noise is None:
            raise LabError("a plan of the noise column has noise")
        for site, row in enumerate(vectors):
            # Coordinates are independent: one long vector of noise is many short ones.
            noise.draws(lab.digest("noise", site)).add(total.reshape(-1), 0)
            total += row
        if pipeline.total_length != self.LENGTH:
            raise LabError("counts travel without padding")
        return total

    def _wraps(self, lab: Lab, before: Ints, made: Plan) -> tuple[int, int, float]:
        """(coordinates that wrapped, sums with such a one, room in standard deviations)."""
        bits = made.wire_bits
        released = np.array([lift(made, (row % (1 << bits)).astype(made.lane)) for row in before])
        wrapped = int(np.sum(released != before))
        told = self._claimed(lab, released, made.clients, 1 << bits, before)
        if told != wrapped:
            raise LabError(f"{wrapped} coordinates wrapped, the attack names {told}")
        noise = made.pipeline.noise
        spread = math.sqrt(noise.variance(made.clients)) if noise is not None else 1.0
        (span, _), *_ = made.pipeline.sum_span(made.clients)
        sums = int(np.sum(np.any(released != before, axis=1)))
        return wrapped, sums, (span.high - made.clients) / spread

    def _claimed(
        self, lab: Lab, released: Array, expected: int, modulus: int, truth: Ints | None = None
    ) -> int:
        """How many coordinates the attack calls wrapped, and restores where the truth is known."""
        found = lab.attack(
            Transcript(
                public={"modulus": modulus},
                arrays={
                    "released": np.asarray(released, dtype=np.int64),
                    "expected": np.full(released.shape, expected, dtype=np.int64),
                },
            )
        )
        wrapped = found.arrays["wrapped"]
        if truth is not None:
            wrapped = wrapped & (found.arrays["before"] == truth)
        return int(wrapped.sum())


__all__ = [
    "ForgetfulJournal",
    "NoiseReuseScene",
    "NoiseWrapScene",
    "only_noise",
    "share",
    "unbound",
]
