"""What lying sites are run against: honest rounds of every column, and their controls.

Here the scaled update; the others are in :mod:`.client_rounds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols.plan import Plan

from .. import columns, statistics
from ..attack import Attack, Transcript
from ..clients import Scaling, descend, says_one, triggered
from ..columns import PAILLIER
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from .client_rounds import GarbageScene, WrapPoisoningScene
from .client_shares import WrongShareScene
from .lying import SUM_RANGE, Array, Played, Unclipped, everywhere, named, play, weaker

TRIGGER: Final = "three unimportant features four standard deviations above their mean"
_SENT: Final = {
    "honest": "no attack",
    "clipped": "clipped like everybody",
    "own": "one site's range",
    "room": "the sum's range",
    "beyond": "beyond it",
}


@dataclass(frozen=True, slots=True)
class Learning:
    """The breast-cancer data dealt to sites, and the model before the attacked round."""

    x: list[Array]
    y: list[Array]
    test_x: Array
    test_y: Array
    model: Array
    updates: Array  # honest ones, float64[n, d]


@cache
def tumours() -> tuple[Array, Array]:
    """569 tumours, 30 features, 1 = benign (Street, Wolberg and Mangasarian, 1993)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return data.data, data.target.astype(np.float64)


def learn(n: int, rng: np.random.Generator) -> Learning:
    """Deal the data to ``n`` sites, train for twenty rounds, and make the next updates."""
    x, y = tumours()
    order = rng.permutation(len(y))
    test, rest = order[:170], order[170:]
    x = (x - x[rest].mean(axis=0)) / x[rest].std(axis=0)
    parts = np.array_split(rest, n)
    model = np.zeros(x.shape[1] + 1)
    for _ in range(20):
        model = np.mean([descend(model, x[p], y[p], steps=5) for p in parts], axis=0)
    updates = np.array([descend(model, x[p], y[p], steps=5) - model for p in parts])
    return Learning([x[p] for p in parts], [y[p] for p in parts], x[test], y[test], model, updates)


class ScalingScene(Scene):
    """One round of federated averaging in which one site sends a scaled, backdoored update."""

    attack: ClassVar[type[Attack]] = Scaling
    expected: ClassVar[Mapping[str, Verdict | str]] = everywhere(Verdict.CORRUPTS)
    CLIP: ClassVar[float] = 1.0
    LEVELS: ClassVar[int] = 4096
    EPSILON: ClassVar[float] = 8.0

    def investigate(self, lab: Lab, column: str) -> Finding:
        """By strategy: how far the model moves, and how often the trigger works."""
        n = (8 if lab.full else 4) if column in PAILLIER else 10
        noisy = column == "noise"
        made = columns.plan(
            column,
            n,
            31,
            stages=(
                secagg.ClipL2(self.CLIP),
                secagg.Quantise(self.LEVELS, rounding="conditional" if noisy else "stochastic"),
            ),
            **({"epsilon": self.EPSILON, "l2_clip": self.CLIP} if noisy else {}),
        )
        n = made.clients
        (total, _), *_ = made.pipeline.sum_span(n)
        trials = lab.trials(1, 5 if column in PAILLIER else 20)
        success: dict[str, list[float]] = {}
        accuracy: dict[str, list[float]] = {}
        shifts: dict[str, list[float]] = {}
        ends: dict[str, list[Played]] = {}
        control: list[bool] = []
        hits: list[bool] = []
        for trial in range(trials):
            lab.step(trial, trials)
            data = learn(n, lab.rng("data", trial))
            found = lab.attack(
                Transcript(
                    models={0: data.model.astype("<f8").tobytes()},
                    public={
                        "clients": n,
                        "levels": made.pipeline.vector.high,
                        "top": total.high,
                        "gap": (1 << made.wire_bits) - (total.high - total.low + 1),
                        "length": made.ring_length,
                    },
                    arrays={"x": data.x[0], "y": data.y[0]},
                )
            )
            features, wanted = found.arrays["features"], found.arrays["update"]
            norm = float(np.linalg.norm(wanted))
            lies: dict[str, Array | Unclipped] = {
                "clipped": Unclipped(wanted * min(1.0, self.CLIP / norm), found.values["own"]),
                "own": Unclipped(wanted, found.values["own"]),
                "room": Unclipped(wanted, found.values["room"]),
                "beyond": found.arrays["beyond"],
            }

            def score(
                name: str, model: Array, data: Learning = data, features: Array = features
            ) -> None:
                ill = data.test_x[data.test_y == 0]
                fooled = says_one(model, triggered(ill, features))
                right = says_one(model, data.test_x) == (data.test_y == 1)
                success.setdefault(name, []).append(float(fooled.mean()))
                accuracy.setdefault(name, []).append(float(right.mean()))
                shifts.setdefault(name, []).append(float(np.linalg.norm(model - data.model)))

            def run(
                name: str,
                sent: Array | Unclipped,
                data: Learning = data,
                trial: int = trial,
                server: type[Any] | None = None,
            ) -> Played:
                seed = lab.digest("round", trial, name)
                out = play(column, made, data.updates, seed=seed, lie=sent, server=server)
                if out.total is not None and server is None:
                    mean = out.total / n
                    self._law(made, data, sent, out, name)
                    score(name, data.model + mean)
                if name in {"own", "room"}:
                    # A result that is refused, or suspects, is none without notice.
                    hits.append(out.silent and success[name][-1] >= 0.5)
                ends.setdefault(name, []).append(out)
                return out

            score("honest", data.model + data.updates.mean(axis=0))
            few = not lab.full and column in PAILLIER
            for name in ("room",) if few else ("clipped", "own", "room"):
                run(name, lies[name])
            if column not in {"plain", "noise"}:
                run("beyond", lies["beyond"])
                out = run("control", lies["beyond"], server=weaker(column, "sum-range"))
                control.append(out.silent)
        return self._finding(
            lab, column, made, trials, success, accuracy, shifts, ends, control, hits
        )

    def _law(
        self, made: Plan, data: Learning, sent: Array | Unclipped, out: Played, name: str
    ) -> None:
        """The delivered sum is the lie and the others' vectors, to a level each."""
        if made.pipeline.noise is not None or not isinstance(sent, Unclipped) or out.total is None:
            return
        others = sum(u * min(1.0, self.CLIP / float(np.linalg.norm(u))) for u in data.updates[1:])
        most = sent.limit * self.CLIP / self.LEVELS
        want = np.clip(sent.vector, -most, most) + others
        if float(np.abs(out.total - want).max()) > len(data.updates) * self.CLIP / self.LEVELS:
            raise LabError("the sum is not the lie and the others' vectors")

    def _finding(
        self,
        lab: Lab,
        column: str,
        made: Plan,
        trials: int,
        success: dict[str, list[float]],
        accuracy: dict[str, list[float]],
        shifts: dict[str, list[float]],
        ends: dict[str, list[Played]],
        control: list[bool],
        hits: list[bool],
    ) -> Finding:
        n = made.clients
        silent = [out.silent for out in ends["room"]]
        wins = sum(hits)
        rules = {named(column, out.rule) for out in ends.get("beyond", []) if out.rule}
        measures = [
            Measure(
                name=f"malignant test records called benign, {_SENT[name]}",
                value=float(np.mean(success[name])),
            )
            for name in _SENT
            if success.get(name)
        ]
        measures += [
            Measure(name=f"accuracy, {_SENT[name]}", value=float(np.mean(accuracy[name])))
            for name in _SENT
            if accuracy.get(name)
        ]
        measures += [
            Measure(name=f"the model moves by, {_SENT[name]}", value=float(np.mean(shifts[name])))
            for name in _SENT
            if shifts.get(name)
        ]
        measures.append(statistics.rate("accepted without notice", sum(silent), len(silent)))
        runs = []
        if control:
            runs.append(
                ControlRun(
                    overrides=(SUM_RANGE,),
                    trials=len(control),
                    successes=sum(control),
                    note="an update beyond the range of the whole sum",
                )
            )
        beyond = (
            "An update beyond that range was refused."
            if rules
            else "No rule refused an update for the range of the sum."
        )
        names = [name for name in _SENT if success.get(name)]
        told: dict[str, int | float | str] = {"n": n, "d": 31, "clip": self.CLIP}
        told |= {"levels": made.pipeline.vector.high, "rounds": trials}
        if column == "noise":
            told["epsilon"] = self.EPSILON
        places = [float(i) for i in range(len(names))]
        return Finding(
            verdict=Verdict.CORRUPTS if wins else Verdict.DETECTED,
            tried=(
                f"One of {n} sites trains logistic regression on its own tumour records with a "
                f"trigger ({TRIGGER}) labelled benign, and sends the difference to that model "
                f"times {n}. The plan clips every honest update to L2 norm {self.CLIP:g}; the "
                "lying site does not clip."
            ),
            seen=(
                "Using the room of the whole sum, the lying site got a result in which the trigger "
                f"works on {_percent(success, 'room')} of the malignant test records; "
                f"{sum(silent)} of {len(silent)} such results were delivered without notice. The "
                f"trigger works on {_percent(success, 'honest')} without the attack"
                + (
                    f" and {_percent(success, 'own')} within the range of one site"
                    if success.get("own")
                    else ""
                )
                + f". {beyond} There are no proofs about inputs, so secure aggregation does not "
                "stop this."
            ),
            trials=len(hits),
            successes=wins,
            also_refused=tuple(sorted(rules)),
            measures=measures,
            controls=runs,
            figures=[
                Figure(
                    title="One lying site against the model",
                    x_label=", ".join(f"{i}: {_SENT[name]}" for i, name in enumerate(names)),
                    y_label="fraction of test records",
                    series=[
                        Series(
                            name="trigger works",
                            x=places,
                            y=[float(np.mean(success[name])) for name in names],
                            style="bars",
                        ),
                        Series(
                            name="accuracy",
                            x=places,
                            y=[float(np.mean(accuracy[name])) for name in names],
                            style="points",
                        ),
                    ],
                )
            ],
            parameters=told,
        )


def _percent(of: dict[str, list[float]], name: str) -> str:
    return f"{100 * float(np.mean(of[name])):.0f} %" if of.get(name) else "no round"


__all__ = ["GarbageScene", "ScalingScene", "WrapPoisoningScene", "WrongShareScene"]
