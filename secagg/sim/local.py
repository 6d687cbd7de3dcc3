"""Sessions of one process: a server and all sites, who hear each other or do not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from secagg.session import (
    Aborted,
    Agreement,
    Cold,
    Finished,
    ServerSession,
    SessionEvent,
    SiteSession,
    Slot,
    Wanted,
)
from secagg.sim.recording import SessionLog, Transcripts
from secagg.sim.records import COLD, WARM, ExchangeRecord
from secagg.sim.summing import Array
from secagg_protocols.errors import BudgetError, MisuseError, PeerError, ReleaseError, SecAggError
from secagg_protocols.events import Aggregate, Send
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME

#: Called with (slot, sender, recipient, bytes) for every bundle that is delivered.
Tap = Callable[[Slot, str, str, bytes], None]
#: Sites that neither hear nor say anything in an exchange of this slot.
Silent = Callable[[Slot], Collection[str]]
#: By site: its vector and its weight.
Inputs = Mapping[str, tuple[Array, int]]


@dataclass(slots=True)
class Played:
    """What came of one round: a result, or the error that stands for it."""

    number: int
    start: str
    why: str
    exchanges: tuple[ExchangeRecord, ...]
    sat_out: tuple[str, ...]
    refused: dict[str, SecAggError]
    aggregate: Aggregate | None
    error: SecAggError | None


class _Session:
    """The parties of one plan, and what the simulation knows of them."""

    def __init__(
        self,
        plan: Plan,
        hub: ServerSession,
        sites: Mapping[str, SiteSession],
        log: SessionLog,
    ) -> None:
        self.plan = plan
        self.hub = hub
        self.sites = sites
        self.log = log
        #: Why the next round starts cold, where it does.
        self.why = "the first round of its session"
        #: Sites that refused something in the last round, with their reason.
        self.refused: dict[str, SecAggError] = {}
        #: Sites that were told of enough others with the same result, by round.
        self.agreed: dict[int, set[str]] = {}


class LocalSessions:
    """One session per plan over one roster, with one journal per site for all of them.

    The sites' release policy spans plans and sessions: it is kept in the journals. A site that is
    silent in an exchange gets no order and gives no report. ``transcripts``: where the parties
    record what they send and receive.
    """

    def __init__(
        self,
        identities: Mapping[str, Identity],
        *,
        session: str,
        tap: Tap,
        transcripts: Transcripts | None = None,
    ) -> None:
        self._identities = identities
        self._session = session
        self._tap = tap
        self._transcripts = transcripts
        self._journals: dict[str, MemoryJournal] = {}
        self._sessions: dict[bytes, _Session] = {}
        self._silent: frozenset[str] = frozenset()
        self._watched = 0.0

    def play(
        self,
        plan: Plan,
        inputs: Inputs,
        model: bytes,
        silent: Silent,
        *,
        last: bool = False,
        label: str = "round",
    ) -> Played:
        """Run one round of ``plan`` over the broadcast ``model``; ``last``: it prepares no other.

        label: what transcripts are called after, where this round is the first of its plan.

        A site that is asked for an input skips the round where it has none, and where its own
        policy does not let it send one. Errors of the round are in what is returned.
        """
        session = self._sessions.get(plan.digest) or self._open(plan, label)
        hub, session.refused = session.hub, {}
        start, why = (WARM, "") if hub.warm else (COLD, session.why)
        session.why = ""
        exchanges: list[ExchangeRecord] = []
        sat_out: tuple[str, ...] = ()
        clock = _Clock()
        events = hub.begin_round(model, last=last)
        number = hub.round
        while hub.slot is not None:
            slot = hub.slot
            exchange, missed = self._exchange(session, events, silent(slot), inputs, model)
            events = hub.close_exchange()
            exchanges.append(replace(exchange, seconds=clock.lap(self._watching())))
            if slot == Slot.INPUT:
                sat_out = missed
            for event in events:
                if isinstance(event, Cold) and event.error is not None:
                    session.why = str(event.error)
                elif isinstance(event, Finished) and event.aggregate is not None:
                    with self._aside():
                        session.log.outcome(event.round, event.aggregate)
        aborted = next((event for event in events if isinstance(event, Aborted)), None)
        done = next((event for event in events if isinstance(event, Finished)), None)
        error = aborted.error if aborted else None
        if aborted:
            session.why = "the round before it was aborted"
            # The server sees silence where sites refuse; their reason is the one that helps.
            error = next(iter(session.refused.values()), error)
        return Played(
            number=number,
            start=start,
            why=why,
            exchanges=tuple(exchanges),
            sat_out=sat_out,
            refused=session.refused,
            aggregate=done.aggregate if done else None,
            error=error,
        )

    def warm(self, plan: Plan) -> bool:
        """Whether the next round of ``plan`` has its setup from the one before."""
        session = self._sessions.get(plan.digest)
        return session is not None and session.hub.warm

    def finish(self, silent: Collection[str]) -> tuple[ExchangeRecord, ...]:
        """End every session: the last results and agreements are delivered."""
        closing: list[ExchangeRecord] = []
        for session in self._sessions.values():
            clock, events = _Clock(), session.hub.finish()
            while events:
                exchange, _ = self._exchange(session, events, silent, {}, b"")
                # Where nothing was signed there is nothing to confirm, and no last exchange.
                last = session.hub.slot == Slot.CLOSE
                events = [] if last else session.hub.close_exchange()
                closing.append(replace(exchange, seconds=clock.lap(self._watching())))
        return tuple(closing)

    def agreed(self, plan: bytes, number: int) -> int:
        """Sites that know of enough others with the same result; ``plan`` is a plan's digest."""
        session = self._sessions.get(plan)
        return len(session.agreed.get(number, ())) if session else 0

    def _open(self, plan: Plan, label: str) -> _Session:
        def journal(name: str) -> MemoryJournal:
            return self._journals.setdefault(name, MemoryJournal())

        identities = self._identities if plan.signed else {}
        hub = ServerSession(
            plan,
            identity=identities.get(SERVER_NAME),
            session=self._session,
            journal=journal(SERVER_NAME),
        )
        sites = {
            name: self._site(plan, name, identities.get(name), journal(name))
            for name in plan.roster.names
        }
        log = SessionLog({})
        if self._transcripts is not None:
            log = self._transcripts.begin(plan, label, self._session)
        return self._sessions.setdefault(plan.digest, _Session(plan, hub, sites, log))

    def _exchange(
        self,
        session: _Session,
        events: list[SessionEvent],
        silent: Collection[str],
        inputs: Inputs,
        model: bytes,
    ) -> tuple[ExchangeRecord, tuple[str, ...]]:
        """Orders out, reports back; also who reported without being asked for a vector."""
        hub, slot = session.hub, session.hub.slot
        if slot is None:
            raise RuntimeError("no exchange is open")  # pragma: no cover - a bug of ours
        senders = up = down = 0
        unasked = []
        orders = [event for event in events if isinstance(event, Send)]
        with self._aside():
            for order in orders:  # also those that nobody will hear
                session.log.sent(SERVER_NAME, order.to, order.data)
        for order in orders:
            if order.to in silent:
                continue
            site, data = order.to, order.data
            down += len(data)
            with self._aside():
                self._tap(slot, SERVER_NAME, site, data)
                session.log.received(SERVER_NAME, site, data)
            wanted, reports = self._answer(session, site, data, inputs, model)
            for report in reports:
                senders, up = senders + 1, up + len(report)
                with self._aside():
                    self._tap(slot, site, SERVER_NAME, report)
                    session.log.sent(site, SERVER_NAME, report)
                    session.log.received(site, SERVER_NAME, report)
                hub.receive(report, sender=site)
                if not wanted:
                    unasked.append(site)
        now = frozenset(silent)
        gone = tuple(name for name in session.plan.roster.names if name in now - self._silent)
        self._silent = now
        record = ExchangeRecord(hub.exchange, slot.label, senders, gone, up, down, 0.0)
        return record, tuple(unasked)

    def _site(
        self, plan: Plan, name: str, identity: Identity | None, journal: MemoryJournal
    ) -> SiteSession:
        return SiteSession(
            plan, name, identity=identity, session=self._session, floors=None, journal=journal
        )

    def _answer(
        self, session: _Session, site: str, data: bytes, inputs: Inputs, model: bytes
    ) -> tuple[bool, list[bytes]]:
        """Hand one order to a site; whether it wanted a vector, and what it reports."""
        party = session.sites[site]
        try:
            events = party.receive(data, sender=SERVER_NAME)
        except (ReleaseError, PeerError) as error:
            session.refused[site] = error
            events = party.take_events()
        wanted = any(isinstance(event, Wanted) for event in events)
        if wanted and site in inputs:
            try:
                events += party.submit(*inputs[site], model=model)
            except (MisuseError, BudgetError) as error:
                # Vectors were checked before, so this is the site's policy: inputs per model,
                # or its budget.
                session.refused[site] = error
        if party.waits:
            events += party.skip()
        for event in events:
            if isinstance(event, Agreement):
                session.agreed.setdefault(event.round, set()).add(site)
        return wanted, [event.data for event in events if isinstance(event, Send)]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        # Watching is no part of the protocol, so its time is taken off again.
        begun = time.monotonic()
        yield
        self._watched += time.monotonic() - begun

    def _watching(self) -> float:
        """Seconds spent watching since the last call."""
        seconds, self._watched = self._watched, 0.0
        return seconds


class _Clock:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self, less: float) -> float:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return max(0.0, seconds - less)


__all__ = ["Inputs", "LocalSessions", "Played", "Silent", "Tap"]
