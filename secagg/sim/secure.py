"""`SecureSummation`: every sum of a demonstration is a round of the real protocol.

All parties live in one process, yet every byte between them is encoded and decoded. Identities,
keys and masks come from the operating system; no seed of a demonstration reaches them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from secagg import api
from secagg.sim.schedule import Schedule
from secagg.sim.sight import Sight
from secagg.sim.summing import Array, AsDict, SiteSum
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Aggregate, Step
from secagg_protocols.keys import Identity
from secagg_protocols.masked_sum.costs import round_cost
from secagg_protocols.plan import Plan, Threat
from secagg_protocols.roster import SERVER_NAME, Roster
from secagg_protocols.stages import ClipLinf, Integers, Quantise, Stage


@dataclass(frozen=True, slots=True)
class StepRecord(AsDict):
    """One step of a round, over all sites.

    senders: sites that sent; gone: sites that fell silent here (not those absent from the start);
    site_bytes: bytes from the sites to the server; server_bytes: bytes back; seconds: since the
    step before, all parties together.
    """

    step: str
    senders: int
    gone: tuple[str, ...]
    site_bytes: int
    server_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RoundRecord(AsDict):
    """One round: what happened, what it cost, and whether the sum is right.

    survivors: sites in the sum; dropped: sites that are not, with the step at which they left;
    left: survivors that left after their input was counted. error: largest difference from the
    plain sum over the survivors, in units of the vector (0 means exact); bound: the largest that
    quantisation allows, 0 for integers. planned: bytes that the plan foresees for one site, sent
    and received, where nobody drops out; aborted: why the round has no result.
    """

    number: int
    label: str
    sites: int
    length: int
    bits: int
    threshold: int
    neighbours: int
    plan: str
    survivors: tuple[str, ...]
    dropped: dict[str, str]
    left: dict[str, str]
    weight: int
    steps: tuple[StepRecord, ...]
    seconds: float
    planned: int
    error: float
    bound: float
    aborted: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the sum over the survivors is the plain one, within the bound."""
        return self.aborted is None and self.error <= self.bound

    @property
    def total_bytes(self) -> int:
        """All bytes of the round, both directions."""
        return sum(step.site_bytes + step.server_bytes for step in self.steps)

    @property
    def undisturbed(self) -> bool:
        """Whether every site of the roster stayed to the end."""
        return self.aborted is None and not self.dropped and not self.left


class Observer:
    """Told of a run while it happens. The methods do nothing; override what is wanted."""

    def round_starts(self, label: str, plan: Plan, present: int) -> None:
        """A round begins with ``present`` sites."""

    def message(self, step: Step, sender: str, recipient: str, size: int) -> None:
        """A message of ``size`` bytes was delivered."""

    def round_ends(self, record: RoundRecord) -> None:
        """A round is over, or aborted."""


class SecureSummation:
    """`Summation` by masked sums: one session, a fresh round per call.

    roster, identities: as `Roster.generate` gives them; every round's plan has the whole roster.
    threat, colluding, max_dropouts, neighbours, security_bits, min_honest: see `Plan`.
    schedule: round label -> step -> sites that fall silent there.
    fixed_data: an analysis of fixed data keeps one survivor set: a site that left stays out, is
        silent from step 1 on and counts as a dropout. Otherwise it may return in the next round.

    `records` has one entry per round, an aborted one included; `sight` is what the server saw.
    Reals are rounded to the nearest level, so that a run can be repeated. Errors: those of
    `aggregate`; `MisuseError` for a vector outside its bound, which is refused and never clipped.
    """

    def __init__(
        self,
        roster: Roster,
        identities: Mapping[str, Identity],
        *,
        threat: Threat,
        colluding: int,
        max_dropouts: int,
        neighbours: int | None = None,
        security_bits: int = 40,
        min_honest: int = 3,
        schedule: Schedule | None = None,
        fixed_data: bool = False,
        session: str = "simulation",
        observer: Observer | None = None,
    ) -> None:
        self.roster = roster
        self.records: list[RoundRecord] = []
        self.sight = Sight()
        self._identities = identities
        self._threat: Threat = threat
        self._colluding = colluding
        self._max_dropouts = max_dropouts
        self._neighbours = neighbours
        self._security_bits = security_bits
        self._min_honest = min_honest
        self._schedule = schedule or {}
        self._fixed_data = fixed_data
        self._session = session
        self._observer = observer or Observer()
        self._gone: set[str] = set()
        self._plans: dict[tuple[tuple[Stage, ...], int, int], Plan] = {}

    def plan_for(self, stages: tuple[Stage, ...], length: int, max_weight: int = 1) -> Plan:
        """The plan of rounds of one kind; `PlanError` where the settings cannot keep it."""
        key = (stages, length, max_weight)
        if key not in self._plans:
            self._plans[key] = Plan.recommend(
                self.roster,
                length=length,
                stages=stages,
                threat=self._threat,
                colluding=self._colluding,
                max_dropouts=self._max_dropouts,
                min_honest=self._min_honest,
                neighbours=self._neighbours,
                security_bits=self._security_bits,
                max_weight=max_weight,
                fixed_data=self._fixed_data,
            )
        return self._plans[key]

    def unused(self) -> tuple[str, ...]:
        """Rounds of the schedule that were never run."""
        ran = {record.label for record in self.records}
        return tuple(label for label in self._schedule if label not in ran)

    def counts(self, vectors: Mapping[str, Array], *, high: int, label: str) -> SiteSum:
        """See `Summation.counts`."""
        plan = self.plan_for((Integers(0, high),), _length(vectors))
        return self.sum_with(plan, vectors, {}, label, bound=0.0)

    def reals(
        self,
        vectors: Mapping[str, Array],
        *,
        clip: float,
        resolution: float,
        label: str,
        model: bytes = b"",
    ) -> SiteSum:
        """See `Summation.reals`."""
        _check_clip(vectors, clip)
        stages, step = _quantised(clip, resolution)
        plan = self.plan_for(stages, _length(vectors))
        return self.sum_with(plan, vectors, {}, label, bound=step / 2, model=model)

    def weighted_mean(
        self,
        vectors: Mapping[str, Array],
        weights: Mapping[str, int],
        *,
        clip: float,
        resolution: float,
        max_weight: int,
        label: str,
        model: bytes = b"",
    ) -> tuple[Array, SiteSum]:
        """See `Summation.weighted_mean`."""
        _check_clip(vectors, clip)
        stages, step = _quantised(clip, resolution)
        plan = self.plan_for(stages, _length(vectors), max_weight)
        summed = self.sum_with(plan, vectors, weights, label, bound=step / 2, model=model)
        return summed.total / summed.weight, summed

    def sum_with(
        self,
        plan: Plan,
        vectors: Mapping[str, Array],
        weights: Mapping[str, int],
        label: str,
        *,
        bound: float,
        model: bytes = b"",
    ) -> SiteSum:
        """Run one round of ``plan``, whose roster is this session's, and check its sum.

        weights: by site, or empty where the plan has none. bound: what quantisation may add to a
        coordinate of one site, 0 where the sum must be exact. model: what the server broadcast; it
        binds the masks, so sites that were told different things cannot be summed.
        """
        present = {site: x for site, x in vectors.items() if site not in self._gone}
        if not present:
            raise MisuseError("no site is left to take part", rule="simulation")
        drop: dict[int | str, tuple[str, ...]] = {
            int(step): sites for step, sites in self._schedule.get(label, {}).items()
        }
        tally = _Tally()

        def tap(step: Step, sender: str, recipient: str, data: bytes) -> None:
            begun = time.monotonic()
            tally.add(step, sender, len(data))
            self._observer.message(step, sender, recipient, len(data))
            if step == Step.INPUT and recipient == SERVER_NAME:
                self.sight.see(plan, label, sender, data, present[sender], weights.get(sender, 1))
            # Watching is no part of the protocol, so its time is taken off again. What the server
            # sends opens the step that follows.
            later = sender == SERVER_NAME and step != Step.REVEAL
            tally.watching(Step(step + 1) if later else step, time.monotonic() - begun)

        self._observer.round_starts(label, plan, len(present))
        started = time.monotonic()
        try:
            result = api.aggregate(
                plan,
                present,
                weights={site: weights[site] for site in present} if weights else None,
                drop=drop,
                identities=self._identities,
                session=self._session,
                round=len(self.records),
                model=label.encode() + b"\0" + model,
                tap=tap,
            )
        except SecAggError as error:
            elapsed = time.monotonic() - started
            record = self._record(
                plan, label, present, tally, elapsed, None, (0.0, 0.0), str(error), drop
            )
            self._close(record)
            raise
        elapsed = time.monotonic() - started
        plain = _plain_sum(present, weights, result.survivors)
        gap = float(np.abs(result.sum - plain).max())
        if result.weight != sum(weights.get(site, 1) for site in result.survivors):
            gap = float(np.finfo(np.float64).max)
        # Adding a few hundred doubles may err in the last place of the largest partial sum.
        rounding = 0.0 if bound == 0 else 1e-15 * len(present) * float(np.abs(plain).max())
        allowed = bound * len(result.survivors) + rounding
        record = self._record(plan, label, present, tally, elapsed, result, (gap, allowed))
        self._close(record)
        if self._fixed_data:
            self._gone |= {*result.dropped, *result.left}
        survivors = tuple(site for site in present if site in set(result.survivors))
        return SiteSum(result.sum, survivors, result.weight)

    def _close(self, record: RoundRecord) -> None:
        self.records.append(record)
        self._observer.round_ends(record)

    def _record(
        self,
        plan: Plan,
        label: str,
        present: Collection[str],
        tally: _Tally,
        elapsed: float,
        result: Aggregate | None,
        errors: tuple[float, float],
        aborted: str | None = None,
        drop: Mapping[int | str, tuple[str, ...]] | None = None,
    ) -> RoundRecord:
        # Of an aborted round nobody says who left, so the schedule does.
        departures = {
            site: Step.of(step).label
            for step, sites in sorted((drop or {}).items(), reverse=True)
            for site in sites
        }
        if result:
            departures = {**result.dropped, **result.left}
        seconds = {
            cost.step: max(0.0, cost.seconds - tally.watched.get(Step.of(cost.step), 0.0))
            for cost in (result.traffic if result else ())
        }
        steps = tuple(
            StepRecord(
                step.label,
                tally.senders.get(step, 0),
                tuple(
                    site for site, at in departures.items() if at == step.label and site in present
                ),
                tally.up.get(step, 0),
                tally.down.get(step, 0),
                seconds.get(step.label, 0.0),
            )
            for step in Step
            if (plan.signed or step != Step.CONSENT) and step in tally.up
        )
        return RoundRecord(
            number=len(self.records) + 1,
            label=label,
            sites=len(present),
            length=plan.length,
            bits=plan.wire_bits,
            threshold=plan.protocol.share_threshold,
            neighbours=plan.protocol.neighbours,
            plan=plan.digest.hex(),
            survivors=result.survivors if result else (),
            dropped=dict(result.dropped) if result else {},
            left=dict(result.left) if result else {},
            weight=result.weight if result else 0,
            steps=steps,
            seconds=elapsed - sum(tally.watched.values()),
            planned=round_cost(plan).site_total,
            error=errors[0],
            bound=errors[1],
            aborted=aborted,
        )


class _Tally:
    """Messages and bytes per step, counted where they are delivered."""

    def __init__(self) -> None:
        self.senders: dict[Step, int] = {}
        self.up: dict[Step, int] = {}
        self.down: dict[Step, int] = {}
        self.watched: dict[Step, float] = {}

    def add(self, step: Step, sender: str, size: int) -> None:
        if sender == SERVER_NAME:
            self.down[step] = self.down.get(step, 0) + size
        else:
            self.senders[step] = self.senders.get(step, 0) + 1
            self.up[step] = self.up.get(step, 0) + size

    def watching(self, step: Step, seconds: float) -> None:
        self.watched[step] = self.watched.get(step, 0.0) + seconds


def _length(vectors: Mapping[str, Array]) -> int:
    if not vectors:
        raise MisuseError("no site gave a vector", rule="simulation")
    return int(next(iter(vectors.values())).size)


def _quantised(clip: float, resolution: float) -> tuple[tuple[Stage, ...], float]:
    """Stages for reals within the clip, and the size of a level, at most ``resolution``."""
    levels = max(1, math.ceil(clip / resolution))
    return (ClipLinf(clip), Quantise(levels, "nearest")), clip / levels


def _check_clip(vectors: Mapping[str, Array], clip: float) -> None:
    for vector in vectors.values():
        # Written so that a NaN, which compares false, is refused as well.
        if not bool(np.all(np.abs(vector) <= clip)):
            raise MisuseError(f"a coordinate is not within ±{clip:g}", rule="input-range")


def _plain_sum(
    vectors: Mapping[str, Array], weights: Mapping[str, int], survivors: tuple[str, ...]
) -> Array:
    """What the sum has to be, added in the clear: int64 for integers, float64 for reals."""
    first = vectors[survivors[0]]
    kind = np.int64 if np.issubdtype(first.dtype, np.integer) else np.float64
    total: Array = np.zeros(first.shape, dtype=kind)
    for site in survivors:
        total += vectors[site].astype(kind) * weights.get(site, 1)
    return total


__all__ = ["Observer", "RoundRecord", "SecureSummation", "StepRecord"]
