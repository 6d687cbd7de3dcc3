"""Rounding by every column's plan, beside rounding made badly: row 36."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import secagg
from secagg_native.quantise import Rounding
from secagg_protocols.errors import MisuseError
from secagg_protocols.keys import hkdf
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Quantise
from secagg_protocols.stages.base import ArrayEncoder

from .. import columns
from ..arena import paillier_world
from ..arena.world import World
from ..attack import Attack, Transcript
from ..columns import COLUMNS, PAILLIER
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..implementation import Quantiser
from ..process import LabError
from ..scene import Lab, Scene

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

UNBIASED: Final = "feature: unbiased rounding"
SEEDS: Final = "feature: secret rounding seeds"
FINITE: Final = "feature: NaN and infinity are refused"
#: Standard errors beyond which a mean is no chance: once in 100,000 times.
MOST_Z: Final = 4.42
#: A prediction this good is no chance.
SURE: Final = 0.99
_CONTEXT: Final = bytes(range(32))


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
        levels, rounded, group, limit = self._rounded(lab, made, lab.digest("rounding"))
        strings = [_CONTEXT, bytes(32), made.digest]
        ours = self._look(lab, levels, rounded, group, limit, strings)
        refused = self._refusals(column, made)
        weak = {
            "always down": self._look(lab, levels, np.floor(levels), group, limit, []),
            "8 random bits": self._look(
                lab, levels, _few_bits(levels, lab.rng("bits")), group, limit, []
            ),
        }
        seed = _stochastic(levels, _CONTEXT, limit)
        known = self._look(lab, levels, seed, group, limit, strings)
        late = self._clipped_late(lab)
        wins = [
            abs(ours["bias z"]) > MOST_Z or abs(ours["group z"]) > MOST_Z,
            ours["predicted"] > SURE,
            ours["beyond"] > 0 or ours["moved"] > 1 + 1e-6,
            *(not rule for rule in refused.values()),
        ]
        rules = tuple(sorted({f"client.{rule}" for rule in refused.values() if rule}))
        biased = [abs(found["group z"]) for found in weak.values()]
        nan = np.array([np.nan, np.inf, -np.inf])
        with np.errstate(invalid="ignore"):
            taken = int(np.sum(np.rint(nan * self.LEVELS).astype(np.int64) != 0))
        return Finding(
            verdict=Verdict.CORRUPTS if any(wins) else Verdict.PREVENTED,
            tried=(
                f"{len(levels)} values went through the plan's clipping and rounding "
                f"({self._kind(made)}), as a server sees them whose other sites all collude. The "
                "attack looked for a mean error, tried public strings of the round as rounding "
                "seeds, and sent NaN and infinity."
            ),
            seen=(
                f"The mean error was {ours['bias']:+.5f} levels ({ours['bias z']:+.2f} standard "
                f"errors; by part of a level at most {abs(ours['group z']):.2f}). The best guess "
                f"of a direction was right in {ours['predicted']:.1%}, chance gives "
                f"{ours['chance']:.1%}. NaN and infinity were refused: "
                f"{', '.join(sorted(set(refused.values()))) or 'no'}."
            ),
            trials=len(wins),
            successes=sum(wins),
            stopped_by=() if any(wins) else (UNBIASED, SEEDS, *rules),
            measures=[
                Measure(
                    name="mean error in standard errors",
                    value=ours["bias z"],
                    low=-MOST_Z,
                    high=MOST_Z,
                    predicted=0.0,
                    law="within 4.42 once in 100,000 times",
                ),
                Measure(
                    name="largest mean error of one part of a level, in standard errors",
                    value=ours["group z"],
                    low=-MOST_Z,
                    high=MOST_Z,
                    predicted=0.0,
                    law="within 4.42 once in 100,000 times",
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
                ControlRun(
                    overrides=(FINITE,),
                    trials=len(nan),
                    successes=taken,
                    note="rounding that turns NaN and infinity into integers without a word",
                ),
                ControlRun(
                    overrides=("feature: clip before rounding",),
                    trials=1,
                    successes=int(abs(late["group z"]) > MOST_Z),
                    note="rounding first, and what exceeds the limit cut off",
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

    def _rounded(self, lab: Lab, made: Plan, seed: bytes) -> tuple[Floats, Floats, Ints, float]:
        """(reals in levels, integers, which part of a level, largest integer) of one vector."""
        stage = self._stage(made)
        rng = lab.rng("values")
        group = rng.integers(0, len(self.PARTS), self.LENGTH)
        root = self.LENGTH**0.5
        whole = rng.integers(-4, 4, self.LENGTH) + round(stage.levels / root / 4)
        y = (whole + np.array(self.PARTS)[group]) * rng.choice([-1.0, 1.0], self.LENGTH)
        # What the columns' first stages make of a vector is left to them; here y is what comes
        # to the rounding, so that its parts of a level are those that are wanted.
        given = made.pipeline._bounds[made.stages.index(stage)]
        reals = y / stage.scale(given)
        if float(np.sqrt(np.dot(reals, reals))) > (given.l2 or 0.0):
            raise LabError("these values are within the clip")
        encoder = stage.begin(ArrayEncoder(reals), lambda: seed, given)
        out = np.empty(self.LENGTH, dtype=np.int64)
        encoder.tile(out, 0)
        levels = reals * stage.scale(given)
        return levels, out.astype(np.float64), group, float(stage.bounds(given).high or 0)

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

    def _clipped_late(self, lab: Lab) -> Mapping[str, float]:
        """Values just below a limit, rounded and then cut at it: those above are cut, and the
        mean falls."""
        rng, limit = lab.rng("late"), 7.5
        levels = np.full(20_000, 7.4)
        up = rng.random(len(levels)) < 0.4
        rounded = np.minimum(np.where(up, 8.0, 7.0), limit)
        return self._look(lab, levels, rounded, np.zeros(len(levels), np.int64), limit, [])

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


def _stochastic(levels: Floats, seed: bytes, limit: float) -> Floats:
    """The plan's own rounding, from a seed that is known."""
    material = hkdf(seed, b"secagg stochastic rounding v1", 24)
    rounding = Rounding(
        scale=1.0, limit=int(limit), key=material[:16], nonce=material[16:], mode="stochastic"
    )
    out = np.empty(len(levels), dtype=np.int64)
    rounding.write(levels, out, 0)
    return out.astype(np.float64)


__all__ = ["MOST_Z", "QuantiserScene"]
