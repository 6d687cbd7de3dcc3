"""Row 11: a server that compares the sums of several rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import paillier_sum
from secagg_protocols.errors import PlanError, SecAggError, ThresholdError
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan import Plan

from .. import columns
from ..arena.controls import without
from ..attack import Array, Transcript
from ..cohorts import Disaggregation
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..statistics import interval, within
from .cohort_rounds import MOST, WIDE, open_world, refusals
from .views import counted

#: Sites of the real rounds: the fewest among which three may be missing over fixed data.
SITES: Final = 8
MISSING: Final = 3
#: Of the rounds that are only added up: what the facts page gives figures for.
USERS: Final = 50
ROUNDS: Final = 80
#: Rounds of which the server knows only how often each site took part.
STRETCH: Final = 10
COORDINATES: Final = 60
DRIFTS: Final = (0.0, 0.01, 0.1)


class Sums:
    """What a server keeps of its rounds: the sums, and who was in each."""

    def __init__(self, plan: Plan, lab: Lab, column: str, kind: type[Any] | None = None) -> None:
        self.plan, self.lab, self.column, self.kind = plan, lab, column, kind
        self.vectors = lab.inputs(plan.clients, plan.length, MOST)
        self.journals: dict[str, Any] = {}
        self.sums: list[Array] = []
        self.members: list[list[int]] = []
        self.rules: set[str] = set()
        self.number = 0

    def round(self, lost: Sequence[int], model: bytes) -> None:
        """One round without the inputs of some sites."""
        plan, names = self.plan, self.plan.roster.names
        drop = [names[i] for i in lost]
        self.number += 1
        if self.column == "plain":
            found = columns.honest_sum(
                plan, self.vectors, seed=b"", drop=drop, round=self.number, plain=True
            )
            self._keep(found.total, found.survivors)
            return
        classes = {} if self.kind is None else dict.fromkeys(names, self.kind)
        world = open_world(
            plan,
            self.lab,
            vectors=self.vectors,
            round=self.number,
            model=model,
            journals=self.journals,
            classes=classes,
        )
        try:
            world.run({int(secagg.Step.INPUT): drop})
        except ThresholdError:
            pass  # the sites refused, and too few were left: their log says by which rule
        except SecAggError as error:
            # A Paillier site refuses to whom it was given the vector, and not in a log.
            self.rules.add(f"client.{error.rule}")
        self.rules |= refusals(world)
        if world.result is not None:
            self._keep(world.result.sum, world.result.survivors)

    def _keep(self, total: Any, survivors: Sequence[str]) -> None:
        self.sums.append(np.asarray(total, dtype=np.int64))
        self.members.append([int(name in survivors) for name in self.plan.roster.names])

    def transcript(self) -> Transcript:
        """What the attack is given."""
        return Transcript(
            arrays={
                "sums": np.array(self.sums, dtype=np.int64),
                "members": np.array(self.members, dtype=np.int64),
            }
        )

    def solved(self) -> tuple[dict[int, Array], dict[int, Array]]:
        """Vectors that the sums determine, by site, as they were found and as they are."""
        if not self.sums:
            return {}, {}
        found = self.lab.attack(self.transcript()).arrays
        sure = np.flatnonzero(found["sure"]).tolist()
        return {i: found["found"][i] for i in sure}, {i: self.vectors[i] for i in sure}

    def exact(self) -> int:
        """How many single vectors the sums gave exactly."""
        found, true = self.solved()
        right = sum(np.abs(found[i] - true[i]).max() < 0.5 for i in found)
        if right != len(found):
            raise LabError("a vector that the sums determine came out wrong")
        return int(right)


def spread(members: Array, variances: Array) -> Array:
    """Variance of each least-squares estimate: the diagonal of P+ D (P+)'."""
    inverse = np.linalg.pinv(members.astype(float))
    return np.asarray((inverse**2 * variances).sum(axis=1))


class DisaggregationScene(Scene):
    """Row 11."""

    attack = Disaggregation
    expected: ClassVar[Mapping[str, Verdict | str]] = dict.fromkeys(columns.COLUMNS, Verdict.LEAKS)

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Rounds of training, then the rules about repeated sums, then the law of the errors."""
        training = self._training(lab, column)
        lab.step(1, 4)
        rounds = training.number
        measures, exact = list[Measure](), 0
        if column == "noise":
            measures += [self._noise(training), self._precision(training)]
        else:
            exact = training.exact()
        victims = self._victims(lab, column)
        controls, stopped = list[ControlRun](), list[str]()
        if column != "plain":
            for found, rules in self._rules(lab, column, training):
                controls.append(found)
                stopped += rules
            if not self._compares(column):
                stopped.append(self._no_fixed_data(column))
        lab.step(2, 4)
        figure, known = self._law(lab)
        lab.step(3, 4)
        hidden, sites, hidden_rounds, free = self._hidden(lab)
        measures += known
        measures.append(
            Measure(
                name="memberships found from counts alone",
                value=hidden / sites,
                law=f"{sites} sites, {hidden_rounds} rounds, counts per {STRETCH} rounds",
            )
        )
        noisy = column == "noise"
        return Finding(
            verdict=Verdict.LEAKS if exact or noisy else Verdict.PREVENTED,
            tried=(
                f"{rounds} real rounds over different models, in which the cohort differs by one "
                f"site at a time and {training.plan.clients} sites put in the same vector each "
                "time; least squares over the sums. "
                + self._asked(column)
                + f"Then sums of {USERS} sites over {ROUNDS} and more rounds, added up without a "
                "protocol, since a server has the same sums under any: with vectors that drift "
                "from round to round, and with the cohorts hidden but for how often each site was "
                f"in per {STRETCH} rounds."
            ),
            seen=self._seen(column, exact, victims, stopped, hidden, sites, hidden_rounds, free),
            trials=victims,
            successes=exact,
            also_refused=tuple(dict.fromkeys(stopped)),
            bounded=noisy and measures[1].within_bound,
            measures=measures,
            controls=controls,
            figures=[figure],
            parameters={
                "n": training.plan.clients,
                "rounds": rounds,
                "users": USERS,
                "user rounds": ROUNDS,
            },
        )

    def _asked(self, column: str) -> str:
        if column == "plain":
            return ""
        fixed = (
            ", and over fixed data it asked for cohorts that shrink by one site and for cohorts "
            "that overlap"
            if self._compares(column)
            else ". It proposed a plan of fixed data"
        )
        return f"The server also asked again for one model without one site{fixed}. "

    def _seen(
        self,
        column: str,
        exact: int,
        victims: int,
        met: list[str],
        hidden: int,
        sites: int,
        rounds: int,
        free: str,
    ) -> str:
        first = f"The sums gave the vectors of {exact} of {victims} sites exactly"
        first += (
            ". "
            if column != "noise"
            else ", since noise is in them. It counts as a leak because the difference of two sums "
            "is the lost site's vector behind the noise of these two sums and nothing else, as "
            "measured below. Each such difference says less than the plan's epsilon allows for one "
            "sum; epsilon adds up over the sums. "
        )
        if column == "plain":
            rules = "A plain sum has no rule about it, and its server sees every vector anyway. "
        else:
            again, *fixed = dict.fromkeys(met)
            rules = f"Asking again for the same model was refused ({again}). "
            rules += (
                f"Over fixed data both kinds of cohorts were refused ({', '.join(fixed)}). "
                if self._compares(column)
                else f"A plan of fixed data was refused ({', '.join(fixed)}), since sites cannot "
                "compare sums here. "
            )
        return (
            first + rules + "Between models, secure aggregation does not stop this: each sum is "
            "allowed. The error grows with how much the vectors change between rounds (figure). "
            f"With the cohorts hidden, {hidden} of {sites} sites' memberships followed from counts "
            f"over {rounds} rounds by trying all that is free; {free} What helps is noise with a "
            "ledger over all rounds, or batches of sites that stay together."
        )

    # Real rounds.

    def _plan(self, column: str, *, fixed: bool = False) -> Plan:
        limit: dict[str, Any] = {"fixed_data": True} if fixed else {"max_inputs_per_model": 1}
        if column in columns.PAILLIER:
            return columns.plan(column, 5, **limit)
        if column == "sparse":
            return columns.plan(column, 12, **limit)
        return columns.plan(
            column,
            SITES,
            WIDE if column == "noise" else 5,
            max_dropouts=MISSING,
            protocol=secagg.MaskedSum(share_threshold=SITES - MISSING, neighbours=SITES - 1),
            **limit,
        )

    def _victims(self, lab: Lab, column: str) -> int:
        """Sites that are lost in one round each."""
        return lab.trials(1, 3) if column in columns.PAILLIER else lab.trials(2, SITES)

    def _training(self, lab: Lab, column: str) -> Sums:
        """One input a model: all sites once, then all but one at a time."""
        kept = Sums(self._plan(column), lab, column)
        kept.round([], b"model 0")
        for site in range(self._victims(lab, column)):
            kept.round([site], model=b"model %d" % (site + 1))
        if kept.rules:
            raise LabError(f"training was refused: {', '.join(sorted(kept.rules))}")
        return kept

    def _compares(self, column: str) -> bool:
        return column in {"semi-honest", "malicious-server", "noise"}

    def _no_fixed_data(self, column: str) -> str:
        """The rule that refuses a plan of fixed data where sites cannot compare sums."""
        try:
            self._plan(column, fixed=True)
        except PlanError as error:
            return f"plan.{error.rule}"
        raise LabError("a plan of fixed data was built although sites cannot compare its sums")

    def _rules(self, lab: Lab, column: str, training: Sums) -> list[tuple[ControlRun, list[str]]]:
        """Each rule: the whole build refuses, the control lets the same requests through."""
        last = 0
        overlapping = list[list[int]]()
        for three in itertools.combinations(range(MISSING + 1), MISSING):
            overlapping += [[], list(three)]
        asked = {"inputs-per-model": [[], [last]]}
        if self._compares(column):
            asked |= {"fixed-difference": [[], [last]], "fixed-nested": overlapping}
        kind = paillier_sum.Client if column in columns.PAILLIER else Client
        out = []
        for rule, cohorts in asked.items():
            plan = self._plan(column, fixed=rule != "inputs-per-model")
            again = rule == "inputs-per-model"
            full = training if again else Sums(plan, lab, column)
            sums = len(full.sums)
            weak = Sums(plan, lab, column, without(kind, rule))
            for cohort in cohorts:
                weak.round(cohort, b"model 0")
                # Of the rounds of training, the first one is asked for again.
                if not full.rules and not (again and not cohort):
                    full.round(cohort, b"model 0")
            if len(full.sums) > sums if again else full.solved()[0]:
                raise LabError(f"{rule} refused, and a vector came out all the same")
            if full.rules != {f"client.{rule}"}:
                met = ", ".join(sorted(full.rules)) or "nobody"
                raise LabError(f"{rule} should have refused, and {met} did")
            # With noise, a success is an error that the noise of the sums explains, and no more.
            success = bool(self._noise(weak).value) if column == "noise" else weak.exact() > 0
            note = f"{counted(len(weak.solved()[0]), 'vector')} from {len(weak.sums)} sums"
            run = ControlRun(
                overrides=(f"client.{rule}",), trials=1, successes=int(success), note=note
            )
            out.append((run, [f"client.{rule}"]))
        return out

    def _noise(self, kept: Sums) -> Measure:
        """How far the estimates are from the vectors, against the noise of the sums."""
        found, true = kept.solved()
        members = np.array(kept.members)
        noise = kept.plan.pipeline.noise_variance
        variances = np.array([noise(int(row.sum())) for row in members])
        law = spread(members, variances)
        ratio = np.array([(found[i] - true[i]) ** 2 / law[i] for i in found])
        if not len(ratio):
            raise LabError("the sums determine no site")
        value = float(ratio.mean())
        # Estimates share the noise of the first sum, so that only coordinates are counted.
        error = math.sqrt(2 / ratio.shape[1])
        if not within(value, 1.0, error):
            raise LabError("the error of the differences is not what the noise of the sums gives")
        low, high = interval(value, error)
        return Measure(
            name="squared error of the estimates, in units of the law",
            value=value,
            low=low,
            high=high,
            predicted=1.0,
            law="P+ D (P+)', D the noise of each sum",
        )

    def _precision(self, kept: Sums) -> Measure:
        """One over the squared error, against that of the noise which epsilon counts on."""
        found, true = kept.solved()
        squares = np.array([(found[i] - true[i]) ** 2 for i in found])
        plan = kept.plan
        counts_on = plan.pipeline.noise_variance(plan.min_survivors - plan.colluding)
        value = float(squares.mean())
        # Estimates share the noise of the first sum, so that only coordinates are counted.
        low, high = interval(value, value * math.sqrt(2 / squares.shape[1]))
        found_precision = Measure(
            name="precision of the estimates (1 / variance), in units of what one sum may give",
            value=counts_on / value,
            low=counts_on / high,
            high=counts_on / low,
            bound=1.0,
            law="the noise that epsilon of one sum counts on",
        )
        if not found_precision.within_bound:
            raise LabError("a difference says more than the noise of one sum should allow")
        return found_precision

    # Sums of many sites, over many rounds.

    def _law(self, lab: Lab) -> tuple[Figure, list[Measure]]:
        rng = lab.rng("users")
        vectors = rng.normal(size=(USERS, COORDINATES))
        most = 2 * ROUNDS
        members = (rng.random((most, USERS)) < 0.5).astype(np.int64)
        # All drifts side by side, since the cohorts are the same; each has draws of its own.
        size = (most, USERS, COORDINATES)
        drifted = [vectors + drift * rng.normal(size=size) for drift in DRIFTS]
        sums = np.concatenate([np.einsum("rn,rnd->rd", members, x) for x in drifted], axis=1)
        rounds = range(USERS, most + 1, 10) if lab.full else (USERS, 60, ROUNDS, 120, most)
        found: dict[float, list[tuple[float, float, float]]] = {drift: [] for drift in DRIFTS}
        measures = list[Measure]()
        for count in rounds:
            part = members[:count]
            given = {"sums": sums[:count], "members": part}
            evidence = lab.attack(Transcript(arrays=given)).arrays
            if not evidence["sure"].all():
                continue
            unit = float(spread(part, part.sum(axis=1)).mean())
            for at, drift in enumerate(DRIFTS):
                place = slice(at * COORDINATES, (at + 1) * COORDINATES)
                squares = (evidence["found"][:, place] - vectors) ** 2
                law = unit * drift**2
                found[drift].append((float(count), math.sqrt(squares.mean()), math.sqrt(law)))
                if count == ROUNDS:
                    measures.append(self._measured(drift, squares, law))
        series = list[Series]()
        for drift, points in found.items():
            x, y, law_y = ([row[i] for row in points] for i in range(3))
            series.append(Series(name=f"measured, drift {drift:g}", x=x, y=y))
            if drift:
                series.append(Series(name=f"law, drift {drift:g}", x=x, y=law_y, style="line"))
        return (
            Figure(
                title="Error of the recovered vectors",
                x_label="rounds with random cohorts",
                y_label="root mean squared error (vectors have 1)",
                series=series,
                log_y=True,
                note=f"{USERS} sites, each in a round with probability 1/2; drift is the standard "
                "deviation by which a vector changes from round to round",
            ),
            measures,
        )

    def _measured(self, drift: float, squares: Array, variance: float) -> Measure:
        name = f"error after {ROUNDS} rounds, drift {drift:g}"
        if not drift:
            worst = math.sqrt(float(squares.max()))
            if worst > 1e-9:
                raise LabError("without drift the vectors come out exactly but for rounding")
            return Measure(name=name, value=worst, law="rounding errors alone")
        each = squares.mean(axis=0)
        error = float(each.std(ddof=1)) / math.sqrt(each.size)
        if not within(float(each.mean()), variance, error):
            raise LabError("the error under drift is not what least squares gives")
        low, high = interval(float(each.mean()), error)
        return Measure(
            name=name,
            value=math.sqrt(float(each.mean())),
            low=math.sqrt(max(low, 0.0)),
            high=math.sqrt(high),
            predicted=math.sqrt(variance),
            law="P+ D (P+)'",
        )

    def _hidden(self, lab: Lab) -> tuple[int, int, int, str]:
        """Cohorts known by counts alone: sites found, sites, rounds; and where that ends."""
        sites, rounds = (USERS, 360) if lab.full else (12, ROUNDS)
        members, found = self._counted(lab, sites, rounds)
        got = found.get("members")
        right = 0 if got is None else int((got == members).all(axis=0).sum())
        _, short = self._counted(lab, USERS, ROUNDS)
        free = (
            f"for {USERS} sites and {ROUNDS} rounds it needs the integer program of Lam et al., "
            "which was not run here."
            if "members" not in short
            else ""
        )
        return right, sites, rounds, free

    def _counted(self, lab: Lab, sites: int, rounds: int) -> tuple[Array, dict[str, Array]]:
        rng = lab.rng("counts", sites, rounds)
        members = (rng.random((rounds, sites)) < 0.5).astype(np.int64)
        sums = members @ rng.normal(size=(sites, COORDINATES))
        counts = members.reshape(-1, STRETCH, sites).sum(axis=1)
        transcript = Transcript(
            public={"stretch": STRETCH}, arrays={"sums": sums, "counts": counts}
        )
        return members, lab.attack(transcript).arrays


__all__ = ["DisaggregationScene", "Sums", "spread"]
