"""`SecureSummation`: every sum of a demonstration is a round of the real protocol.

All parties live in one process, yet every byte between them is encoded and decoded. Identities,
keys and masks come from the operating system; no seed of a demonstration reaches them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from secagg.session.costs import slots
from secagg.session.messages import Slot, read_bundle
from secagg.sim.holders import Deal
from secagg.sim.local import Inputs, LocalSessions, Played
from secagg.sim.paillier import PaillierRounds
from secagg.sim.recording import Transcripts
from secagg.sim.records import ExchangeRecord, RoundRecord, alone, planned_bytes
from secagg.sim.schedule import Schedule, next_label, silent_sites
from secagg.sim.sight import Sight
from secagg.sim.summing import Array, SiteSum
from secagg_protocols.errors import MisuseError
from secagg_protocols.keys import Identity
from secagg_protocols.masked_sum.messages import INPUT, trailer_size
from secagg_protocols.paillier_sum.costs import round_cost as paillier_cost
from secagg_protocols.plan import MaskedSum, PaillierSum, Plan, Threat
from secagg_protocols.roster import SERVER_NAME, Roster
from secagg_protocols.site import check_input
from secagg_protocols.stages import ClipLinf, Integers, Quantise, Stage


class Observer:
    """Told of a run while it happens. The methods do nothing; override what is wanted."""

    def round_starts(self, label: str, plan: Plan, present: int, exchanges: int) -> None:
        """A round of so many exchanges begins with ``present`` sites."""

    def message(self, slot: Slot, sender: str, recipient: str, size: int) -> None:
        """A message of ``size`` bytes was delivered: the order or the report of an exchange."""

    def searched(self, candidates: int) -> None:
        """So many candidates for the primes of a Paillier key were tested."""

    def work(self, party: str, done: int, most: int) -> None:
        """``party`` has encrypted or opened ``done`` of ``most`` ciphertexts."""

    def round_ends(self, record: RoundRecord) -> None:
        """A round is over, or aborted."""


class SecureSummation:
    """`Summation` by secure sums: one session per plan, a round per call.

    roster, identities: as `Roster.generate` gives them; every round's plan has the whole roster.
    threat, colluding, max_dropouts, neighbours, security_bits, min_honest: see `Plan`.
    schedule: round label -> step -> sites that fall silent in the exchange which carries it, until
        the round is over (see `silent_sites`). A site that misses the adverts or the shares of the
        next round so sits that one out.
    labels: the rounds that there may be; one that none of them follows prepares no other.
    fixed_data: an analysis of fixed data keeps one survivor set: a site that left stays away for
        good and counts as a dropout. The sites themselves refuse sums whose sets of sites would
        show too few of them, over all plans of the analysis.
    transcripts: where all parties record what they send and receive.
    deal: key and holders of Paillier sums; ``None`` for masked sums. Paillier rounds stand alone,
        and a plan of theirs is never one of fixed data: there the simulation itself keeps those
        that left away, and no site compares the sums.

    `records` has one entry per round, an aborted one included; `sight` is what the server saw;
    `closing` the exchanges after `finish`, which ends the sessions.
    Reals are rounded to the nearest level, so that a run can be repeated. Errors: what a session
    aborts with; where sites refuse, theirs (`ReleaseError`, `PeerError`); `MisuseError` for a
    vector outside its bound, which is refused and never clipped.
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
        labels: Sequence[str] = (),
        observer: Observer | None = None,
        transcripts: Transcripts | None = None,
        deal: Deal | None = None,
    ) -> None:
        if deal is not None and transcripts is not None:
            raise MisuseError(
                "transcripts are of masked sums; a Paillier sum has none so far",
                rule="simulation",
            )
        self.roster = roster
        self.records: list[RoundRecord] = []
        self.sight = Sight()
        self._threat: Threat = threat
        self._colluding = colluding
        self._max_dropouts = max_dropouts
        self._neighbours = neighbours
        self._security_bits = security_bits
        self._min_honest = min_honest
        self._schedule = schedule or {}
        self._labels = frozenset(labels)
        self._fixed_data = fixed_data
        self._observer = observer or Observer()
        self.closing: tuple[ExchangeRecord, ...] = ()
        self._deal = deal
        self._sessions: LocalSessions | PaillierRounds
        if deal is None:
            self._sessions = LocalSessions(
                identities, session=session, tap=self._tap, transcripts=transcripts
            )
        else:
            self._sessions = PaillierRounds(
                identities, deal, session=session, tap=self._tap, work=self._observer.work
            )
        self._numbers: dict[str, int] = {}  # label -> number in its session
        self._steady: dict[bytes, bool] = {}  # plan -> whether nobody was missing in its last round
        self._running: tuple[Plan, str, Inputs] | None = None
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
                fixed_data=self._fixed_data and self._deal is None,
                key=None if self._deal is None else self._deal.key,
                colluding_holders=None if self._deal is None else self._deal.colluding_holders,
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
        inputs = {site: (x, weights.get(site, 1)) for site, x in present.items()}
        for x, weight in inputs.values():
            # Every vector is checked before anybody sends anything.
            check_input(plan, x, weight)
        cold = not self._sessions.warm(plan)
        exchanges = alone(plan) if cold else len(slots(plan, cold=False))
        self._observer.round_starts(label, plan, len(present), exchanges)
        self._running = (plan, label, inputs)
        played = self._sessions.play(
            plan,
            inputs,
            label.encode() + b"\0" + model,
            lambda slot: self._gone | silent_sites(self._schedule, label, slot),
            last=self._last(label),
            label=label,
        )
        self._numbers[label] = played.number
        result, gap, allowed = played.aggregate, 0.0, 0.0
        if result is not None:
            plain = _plain_sum(present, weights, result.survivors)
            gap = float(np.abs(result.sum - plain).max())
            if result.weight != sum(weights.get(site, 1) for site in result.survivors):
                gap = float(np.finfo(np.float64).max)
            # Adding a few hundred doubles may err in the last place of the largest partial sum.
            rounding = 0.0 if bound == 0 else 1e-15 * len(present) * float(np.abs(plain).max())
            allowed = bound * len(result.survivors) + rounding
        record = self._record(plan, label, present, played, gap, allowed)
        self.records.append(record)
        self._observer.round_ends(record)
        if result is None:
            raise played.error or MisuseError("the round has no result", rule="simulation")
        if self._fixed_data:
            self._gone |= {*result.dropped, *result.left}
        survivors = tuple(site for site in present if site in set(result.survivors))
        return SiteSum(result.sum, survivors, int(result.weight))

    def _last(self, label: str) -> bool:
        return bool(self._labels) and next_label(label) not in self._labels

    def finish(self) -> None:
        """End the sessions: sites get their last result and confirm it to each other."""
        self.closing = self._sessions.finish(self._gone)

    def agreed(self, record: RoundRecord) -> int:
        """Sites that know, by signatures, that enough others got the same result; none before
        the round that follows, and none where nothing is signed."""
        return self._sessions.agreed(bytes.fromhex(record.plan), self._numbers[record.label])

    @property
    def exchanges(self) -> int:
        """Exchanges of all rounds; those that end the sessions come on top."""
        return sum(len(record.exchanges) for record in self.records)

    @property
    def exchanges_alone(self) -> int:
        """What the same rounds would take if none of them prepared the next."""
        return sum(record.alone for record in self.records)

    @property
    def total_bytes(self) -> int:
        """Bytes of all exchanges, both directions."""
        return sum(r.total_bytes for r in self.records) + sum(e.total_bytes for e in self.closing)

    @property
    def seconds(self) -> float:
        """Of all exchanges."""
        return sum(r.seconds for r in self.records) + sum(e.seconds for e in self.closing)

    def _tap(self, slot: Slot, sender: str, recipient: str, data: bytes) -> None:
        self._observer.message(slot, sender, recipient, len(data))
        if slot != Slot.INPUT or recipient != SERVER_NAME or self._running is None:
            return
        plan, label, inputs = self._running
        if isinstance(plan.protocol, PaillierSum):
            self.sight.see_ciphertexts(plan, label, sender, data, *inputs[sender])
            return
        for _, frame in read_bundle(data, trailer_size=trailer_size(plan)):
            if frame[3] == INPUT.number:
                self.sight.see(plan, label, sender, frame, *inputs[sender])

    def _record(
        self,
        plan: Plan,
        label: str,
        present: Mapping[str, Array],
        played: Played,
        gap: float,
        allowed: float,
    ) -> RoundRecord:
        result = played.aggregate
        survivors = result.survivors if result else ()
        before = self.records[-1].survivors if self.records else survivors
        missing = result is None or bool(result.dropped or result.left)
        steady = self._steady.get(plan.digest, True) and not missing
        self._steady[plan.digest] = not missing
        planned = planned_bytes(plan, played.number, played.exchanges, last=self._last(label))
        total, protocol, rows = planned * len(present), plan.protocol, 0
        if isinstance(protocol, PaillierSum):
            cost = paillier_cost(plan)
            total, rows = cost.server_sends + cost.server_receives, cost.rows
            # Rounds stand alone, so only this one counts.
            steady = not missing and not any(entry.gone for entry in played.exchanges)
        return RoundRecord(
            number=len(self.records) + 1,
            label=label,
            start=played.start,
            why=played.why,
            sites=len(present),
            length=plan.length,
            bits=plan.wire_bits,
            threshold=plan.protocol.share_threshold,
            neighbours=protocol.neighbours if isinstance(protocol, MaskedSum) else 0,
            plan=plan.digest.hex(),
            survivors=survivors,
            dropped=dict(result.dropped) if result else {},
            left=dict(result.left) if result else {},
            sat_out=played.sat_out,
            returned=tuple(site for site in survivors if site not in before),
            refused={site: str(error) for site, error in played.refused.items()},
            weight=int(result.weight) if result else 0,
            exchanges=played.exchanges,
            alone=alone(plan),
            seconds=sum(entry.seconds for entry in played.exchanges),
            planned=planned,
            planned_total=total,
            undisturbed=steady,
            error=gap,
            bound=allowed,
            aborted=None if result else str(played.error),
            holders=protocol.holders if isinstance(protocol, PaillierSum) else 0,
            ciphertexts=rows,
        )


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


__all__ = ["Observer", "SecureSummation"]
