"""Rounding by every column's plan, beside rounding made badly: row 36."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import secagg
from secagg_protocols.errors import MisuseError
from secagg_protocols.keys import SEED_SIZE, stage_seed
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Quantise, Rotate, Totals

from .. import columns, statistics
from ..arena import controls, paillier_world
from ..arena.world import World
from ..attack import Attack, Transcript
from ..columns import COLUMNS, PAILLIER
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..implementation import Quantiser
from ..process import LabError
from ..scene import Lab, Scene
from . import rounds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

UNBIASED: Final = "feature: unbiased rounding"
SEEDS: Final = "feature: secret rounding seeds"
#: Standard errors beyond which none of the seven means of a cell is chance, at the level of the
#: whole matrix.
MOST_Z: Final = -NormalDist().inv_cdf(statistics.LEVEL / 2 / 7)
#: A prediction this good is no chance.
SURE: Final = 0.99


class QuantiserScene(Scene):
    """The rounding of every column's plan, beside rounding made badly."""

    attack: ClassVar[type[Attack]] = Quantiser
    expected: ClassVar[Mapping[str, Verdict | str]] = dict.fromkeys(COLUMNS, Verdict.PREVENTED)
    LENGTH: ClassVar[int] = 1 << 17
    LEVELS: ClassVar[int] = 1 << 14
    #: Parts of a level that are looked at one by one: ends, a half, and less than 8 bits tell.
    PARTS: ClassVar[tuple[float, ...]] = (1 / 512, 0.1, 0.25, 0.5, 0.75, 1 - 1 / 512)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Bias, predictions and refusals."""
        made = self._plan(column)
        levels, rounded, group, limit, context = self._rounded(lab, column, made)
        # The context of the round follows from what everybody has.
        strings = [context, bytes(32), made.digest]
        ours = self._look(lab, levels, rounded, group, limit, strings)
        refused = self._refusals(column, made)
        weak = {
            "always down": self._look(lab, levels, np.floor(levels), group, limit, []),
            "8 random bits": self._look(
                lab, levels, _few_bits(levels, lab.rng("bits")), group, limit, []
            ),
        }
        levels_, weaker, *_ = self._rounded(lab, column, made, _predictable(column))
        known = self._look(lab, levels_, weaker, group, limit, strings)
        wins = [
            abs(ours["bias z"]) > MOST_Z or abs(ours["group z"]) > MOST_Z,
            ours["predicted"] > SURE,
            ours["beyond"] > 0 or ours["moved"] > 1 + 1e-6,
            *(not rule for rule in refused.values()),
        ]
        rules = tuple(sorted({f"client.{rule}" for rule in refused.values() if rule}))
        error = abs(ours["bias"] / ours["bias z"]) if ours["bias z"] else 0.0
        bottom, top = statistics.interval(ours["bias"], error)
        biased = [abs(found["group z"]) for found in weak.values()]
        return Finding(
            verdict=Verdict.CORRUPTS if any(wins) else Verdict.PREVENTED,
            tried=(
                f"{len(levels)} values went through the pipeline of one site, from its own seed "
                f"({self._kind(made)}), as a server sees them whose other sites all collude. The "
                "attack looked for a mean error, tried public strings of the round as rounding "
                "seeds, and sent NaN and infinity."
            ),
            seen=(
                f"The mean error was {ours['bias']:+.5f} levels ({ours['bias z']:+.2f} standard "
                f"errors; by part of a level at most {abs(ours['group z']):.2f}). The best guess "
                f"of a direction was right in {100 * ours['predicted']:.1f} %, chance gives "
                f"{100 * ours['chance']:.1f} %. NaN and infinity were refused: "
                f"{', '.join(sorted(set(refused.values()))) or 'no'}."
            ),
            trials=len(wins),
            successes=sum(wins),
            stopped_by=() if any(wins) else (UNBIASED, SEEDS),
            also_refused=rules,
            measures=[
                Measure(
                    name="mean error",
                    value=ours["bias"],
                    low=bottom,
                    high=top,
                    predicted=0.0,
                    law="right on average",
                    unit="levels",
                ),
                Measure(
                    name="largest mean error of one part of a level, in standard errors",
                    value=abs(ours["group z"]),
                    bound=MOST_Z,
                    law="beyond it with a chance of 2 in a million, over all means of the cell",
                ),
                Measure(
                    name="error away from zero, in standard errors",
                    value=ours["outward z"],
                    predicted=0.0,
                    law="conditional rounding leans to zero by less than one standard error of the "
                    "vector",
                ),
                Measure(
                    name="directions guessed from public strings",
                    value=ours["predicted"],
                    predicted=ours["chance"],
                    law="as often as chance",
                ),
            ],
            controls=[
                ControlRun(
                    overrides=(UNBIASED,),
                    trials=len(biased),
                    successes=sum(z > MOST_Z for z in biased),
                    note=" and ".join(weak),
                ),
                ControlRun(
                    overrides=(SEEDS,),
                    trials=1,
                    successes=int(known["predicted"] > SURE),
                    note="a seed that follows from the round's public context",
                ),
            ],
            figures=[self._figure(levels, rounded, weak, group)],
            parameters={"n": made.clients, "d": made.length, "samples": len(levels)},
        )

    def _plan(self, column: str) -> Plan:
        if column == "noise":
            stages: tuple[Any, ...] = (secagg.ClipL2(1.0), secagg.Quantise(4))
            return columns.plan(column, 6, self.LENGTH, stages=stages, l2_clip=1.0)
        return columns.plan(
            column, 4, self.LENGTH, stages=(secagg.ClipL2(1.0), secagg.Quantise(self.LEVELS))
        )

    def _kind(self, made: Plan) -> str:
        return f"{self._stage(made).rounding}, {self._stage(made).levels} levels"

    def _stage(self, made: Plan) -> Quantise:
        return next(stage for stage in made.stages if isinstance(stage, Quantise))

    def _rounded(
        self, lab: Lab, column: str, made: Plan, weak: type[Any] | None = None
    ) -> tuple[Floats, Floats, Ints, float, bytes]:
        """(reals in levels, integers, which part of a level, largest integer, context of the
        round) of one vector that a real site encodes. weak: another class for the sites."""
        stage = self._stage(made)
        rng = lab.rng("values")
        group = rng.integers(0, len(self.PARTS), self.LENGTH)
        root = self.LENGTH**0.5
        whole = rng.integers(-4, 4, self.LENGTH) + round(stage.levels / root / 4)
        y = (whole + np.array(self.PARTS)[group]) * rng.choice([-1.0, 1.0], self.LENGTH)
        rows = np.zeros((made.clients, self.LENGTH))
        seed, name = lab.digest("rounding"), made.roster.names[0]
        world = rounds.arena(made, rows, seed=seed, sites=weak)
        party = world.parties[name]
        pipeline = party.pipeline
        place = made.stages.index(stage)
        given = made.pipeline._bounds[place]
        reals = y / stage.scale(given)
        if float(np.sqrt(np.dot(reals, reals))) > (given.l2 or 0.0):
            raise LabError("these values are within the clip")
        # Before a rotation, so that the parts of a level after it are those that are wanted.
        for before, rotation in enumerate(pipeline.stages):
            if isinstance(rotation, Rotate):
                reals = rotation.decode(
                    reals.copy(), Totals(count=1, weight=1.0), made.pipeline._bounds[before]
                )
        own = columns.entropy(seed, name)(SEED_SIZE)
        out = rounds.encoded(party, reals, own)[: self.LENGTH]
        context, noise = party.contexts.round, made.pipeline.noise
        if noise is not None:
            # What the rounding gave is in the sum beside the site's noise.
            drawn = np.empty(made.ring_length, dtype=np.int64)
            second = stage_seed(own, context, 1) if weak is None else context
            noise.draws(second).write(drawn, 0)
            out = out - drawn[: self.LENGTH]
        limit = float(stage.bounds(given).high or 0)
        return y, out.astype(np.float64), group, limit, context

    def _look(
        self,
        lab: Lab,
        levels: Floats,
        rounded: Floats,
        group: Ints,
        limit: float,
        strings: list[bytes],
    ) -> Mapping[str, float]:
        return lab.attack(
            Transcript(
                public={"limit": limit, "strings": strings},
                arrays={"levels": levels, "rounded": np.asarray(rounded), "group": group},
            )
        ).values

    def _refusals(self, column: str, made: Plan) -> dict[str, str]:
        """By kind of number, the rule by which a site refused it; empty where it did not."""
        kind = paillier_world.PaillierWorld if column in PAILLIER else World
        site = kind(made).parties[made.roster.names[0]]
        found = {}
        for name, value in (("NaN", np.nan), ("infinity", np.inf), ("-infinity", -np.inf)):
            x = np.zeros(made.length)
            x[-1] = value
            try:
                site.submit(x)
            except MisuseError as error:
                found[name] = error.rule
            else:
                found[name] = ""
        return found

    def _figure(
        self, levels: Floats, rounded: Floats, weak: Mapping[str, Any], group: Ints
    ) -> Figure:
        def means(of: Floats) -> list[float]:
            error = (of - levels) * np.where(levels < 0, -1.0, 1.0)
            return [float(error[group == g].mean()) for g in range(len(self.PARTS))]

        x = list(self.PARTS)
        error = [
            2.576 * (part * (1 - part) / max(1, int(np.sum(group == g)))) ** 0.5
            for g, part in enumerate(self.PARTS)
        ]
        ours = means(rounded)
        return Figure(
            title="Mean error of rounding",
            x_label="part of a level",
            y_label="mean error away from zero (levels)",
            series=[
                Series(
                    name="the plan's rounding",
                    x=x,
                    y=ours,
                    low=[y - e for y, e in zip(ours, error, strict=True)],
                    high=[y + e for y, e in zip(ours, error, strict=True)],
                ),
                Series(name="always towards zero", x=x, y=[-part for part in x], style="line"),
                Series(name="no bias", x=x, y=[0.0] * len(x), style="line"),
            ],
        )


def _few_bits(levels: Floats, rng: np.random.Generator) -> Floats:
    """Stochastic rounding from one random byte: parts of a level below 1/256 are lost."""
    low = np.floor(levels)
    up: Floats = low + (rng.integers(0, 256, len(levels)) < np.floor((levels - low) * 256))
    return up


class _Predictable:
    """A pipeline whose stages are seeded with a public string."""

    def __init__(self, pipeline: Any, context: bytes) -> None:
        self._pipeline, self._context = pipeline, context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def begin(self, x: Any, weight: int, rand: Any) -> Any:
        """As it is, with the round's context for a seed."""
        return self._pipeline.begin(x, weight, lambda: self._context)


def _predictable(column: str) -> type[Any]:
    """A site whose rounding follows from the public context of its round."""
    kind = rounds.client_of(column)
    honest: Any = kind.pipeline
    return controls.changed(
        kind,
        pipeline=property(lambda site: _Predictable(honest.fget(site), site.contexts.round)),
    )


__all__ = ["MOST_Z", "QuantiserScene"]
