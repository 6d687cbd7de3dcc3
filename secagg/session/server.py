"""The server's side of a session: rounds that overlap, a few exchanges each."""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from secagg.api import load
from secagg_protocols.dumps import DUMP_FAULTS, read_dump
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError, PeerError, SecAggError, pack_error, unpack_error
from secagg_protocols.events import Done, Dropped, Event, Ignored, Progress
from secagg_protocols.hub import ServerParty
from secagg_protocols.journal import Journal
from secagg_protocols.keys import SEED_SIZE, Identity
from secagg_protocols.masked_sum import Server
from secagg_protocols.party import Entropy
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.registers import data_name
from secagg_protocols.wire import SERVER, Buffer, Frame

from . import messages
from .announced import Announced
from .desk import RETRY
from .events import Aborted, Cold, Finished, SessionEvent
from .messages import (
    MOST_PARAMETERS,
    Agree,
    Slot,
    is_session_frame,
    split_bundle,
)
from .orders import Orders
from .pieces import Outcome, Piece, PieceStore, unpack_pieces


class ServerSession(Orders):
    """The aggregator over many rounds (``protocols/specs/session.md``), sans-I/O.

    ``begin_round`` opens an exchange: it returns one order a site. ``receive`` takes reports,
    ``close_exchange`` stops waiting and returns the orders of the next exchange, or the result
    with ``Finished``. Where the round before left a setup a round takes two exchanges (three
    where the plan signs), else two more. Save ``dump()`` before transmitting anything that a
    call returned; after a load, ``resume`` gives the orders of the open exchange again. ``round``
    is the round under way or the last one, -1 before the first.
    """

    role = "server"
    dump_role = "server session"
    _party_class: ClassVar[type[ServerParty]] = Server

    def __new__(cls, plan: Plan, **_: Any) -> Self:
        """The session of the plan's protocol."""
        made: type[Any] = cls
        if cls is ServerSession and isinstance(getattr(plan, "protocol", None), PaillierSum):
            from .paillier_server import PaillierServerSession  # a subclass of this one

            made = PaillierServerSession
        return cast(Self, object.__new__(made))

    def __init__(
        self,
        plan: Plan,
        *,
        identity: Identity | None,
        session: bytes | str,
        journal: Journal,
        data: str = "",
        membership: Membership | None = None,
        threads: int = 1,
        _entropy: Entropy | None = None,
    ) -> None:
        """Arguments as for :func:`secagg.server`; rounds are numbered by the session itself.

        data: names the fixed data of a plan that says so; all sums of one analysis have one name.
        Sites go by names of their own; this one keeps the server from what they would refuse.
        membership: refuses a plan whose roster is not the newest that the enrolment key signed.
        """
        super().__init__(
            plan,
            SERVER,
            identity=identity,
            session=session,
            journal=journal,
            membership=membership,
            threads=threads,
            entropy=_entropy,
        )
        self.data = data_name(data)
        self._exchange = 0
        self._slot: Slot | None = None  # of the open exchange
        self._current: ServerParty | None = None
        self._following: ServerParty | None = None
        self.round = -1
        self._begun = -1  # the highest round that any site may have heard of
        self._dealt: dict[int, Piece] = {}  # shares of a round that waits for its model
        self._results: dict[int, Piece] = {}  # of the last round, for sites that lack them
        self._reported: set[int] = set()  # in the open exchange
        self._outcome: Outcome | None = None
        self._banned: dict[int, SecAggError] = {}
        self._orders: dict[int, tuple[bytes, ...]] = {}
        self._last = False
        # What closing the running round gave, where the rest of an exchange has to be repeated.
        self._half: dict[int, Piece] | None = None
        self._other: tuple[dict[int, Piece], SecAggError | None] | None = None
        self._done: Done | None = None
        self._announced = Announced(plan, journal, self.data) if plan.fixed_data else None
        self._seed = self._entropy(SEED_SIZE)

    # Rules. Ids, texts and attacks: rules.py.

    def _check_agree_digest(self, site: int, header: Agree, outcome: Outcome) -> None:
        if header.digest != outcome.digest:
            raise PeerError(
                "a site signs another result than the one that it was sent",
                rule="agree-digest",
                sender=self._name(site),
            )

    # Where the session stands.

    @property
    def warm(self) -> bool:
        """Whether the next round has its setup, so that it costs no extra exchanges."""
        return self._slot is None and self._current is not None

    # Contract.

    def begin_round(
        self, model: Buffer, parameters: bytes = b"", *, last: bool = False
    ) -> list[SessionEvent]:
        """Open a round over the broadcast ``model`` (its bytes); returns the orders to send.

        parameters: at most 256 bytes that sites are told and that bind the round. last: no round
        follows, so that none is prepared; one that follows all the same starts cold.

        A server that came back from an older dump, and would say what its journal has otherwise,
        says nothing: the round is ``Aborted`` (``journal-once``), to be begun again.
        """
        self._require_closed()
        if type(parameters) is not bytes or len(parameters) > MOST_PARAMETERS:
            raise MisuseError(f"parameters are at most {MOST_PARAMETERS} bytes", rule="model")
        self._last = last
        warm = self._current is not None
        current = self._current or self._party(self._begun + 1)
        current.use_model(model, parameters)
        try:
            if warm:
                return self._open_input()
            current.start()
            events = self._open_round(current)
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # This server was here before, in a life that its dump does not know of.
            self.round = current.round
            return [self._abort(error)]
        self._seed = self._entropy(SEED_SIZE)
        self._current, self._begun = current, current.round
        return events

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[SessionEvent]:
        """Take one report. Never raises for bytes.

        Authentic bad content is that site's end in this session (``Dropped``); anything else
        that does not fit is ``Ignored`` and changes nothing.
        """
        try:
            bundle = split_bundle(data, trailer_size=self._trailer_size)
            frame, _ = self._authenticate(bundle.control, sender)
            header = self._header(frame, messages.Report)
            self._tail(frame, 0)
            parts = bundle.parts(header.parts, self._largest_part)
        except PeerError as error:
            return [Ignored(error)]
        site = frame.sender
        if site in self._banned:
            return [Ignored(self._banned[site])]
        if header.exchange > self._exchange:
            early = PeerError(
                "there was no such order", rule="report-early", sender=self._name(site)
            )
            return [Ignored(early)]
        if header.exchange == self._exchange:
            self._reported.add(site)
            # Whoever answers an order has taken all that it carried.
            self._results.pop(site, None)
        events: list[SessionEvent] = []
        for number, part in parts:
            events += self._take(site, number, part)
        return events

    def close_exchange(self) -> list[SessionEvent]:
        """Stop waiting for reports; returns orders to send, or what came of the round.

        A round that cannot go on is ``Aborted`` (its ``error`` says why), and the setup that
        was prepared with it is erased: ``begin_round`` then starts cold.
        """
        slot = self._slot
        if slot is None or slot == Slot.CLOSE:
            raise MisuseError("there is no open exchange", rule="no-exchange")
        if slot == Slot.FINISH:
            return self._close_finish()
        try:
            return {
                Slot.ADVERTISE: self._close_adverts,
                Slot.SHARE: self._close_shares,
                Slot.INPUT: self._close_inputs,
                Slot.CONSENT: self._close_consents,
                Slot.REVEAL: self._close_reveals,
            }[slot]()
        except SecAggError as error:
            if error.rule == RETRY:
                raise
            return [self._abort(error)]

    def abort(self, reason: str = "the caller gave up") -> list[SessionEvent]:
        """Give the round under way up. What its sites prepared is erased with it."""
        if not isinstance(reason, str) or not reason.isprintable():
            raise MisuseError("the reason is printable text", rule="arguments")
        if self._current is None or self._slot is None:
            raise MisuseError("no round is under way", rule="no-exchange")
        return [self._abort(MisuseError(reason, rule="abort"))]

    def finish(self) -> list[SessionEvent]:
        """Deliver the last result; returns the orders. Close that exchange too, and deliver what
        that returns: sites that signed the same result are told of each other."""
        self._require_closed()
        if self._begun < 0 or self._slot == Slot.CLOSE:
            raise MisuseError("no round was begun since", rule="no-exchange")
        try:
            events = self._open(Slot.FINISH, {}, number=self._begun, everyone=True)
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # As in begin_round; the numbers were moved on, so that this is said for the first time.
            self._begun += 1
            events = self._open(Slot.FINISH, {}, number=self._begun, everyone=True)
        self._current = self._following = None
        self._dealt = {}
        return events

    # Reports.

    def _take(self, site: int, number: int, part: memoryview) -> list[SessionEvent]:
        if is_session_frame(part):
            return self._take_agree(site, part)
        for party in (self._current, self._following):
            if party is not None and party.round == number:
                events = party.receive(part, sender=self._name(site))
                for dropped in (event for event in events if isinstance(event, Dropped)):
                    self._ban(site, dropped.error)
                if party is self._following:
                    # Its progress would be taken for that of the open exchange, and sites repeat
                    # adverts that may have been lost.
                    events = [event for event in events if not _repeated(event)]
                return list(events)
        return [Ignored(PeerError("its round is over", rule="round-over", sender=self._name(site)))]

    def _take_agree(self, site: int, part: memoryview) -> list[SessionEvent]:
        try:
            frame, _ = self._authenticate(part, self._name(site))
        except PeerError as error:
            return [Ignored(error)]
        try:
            self._on_agree(frame)
        except PeerError as error:
            self._ban(site, error)
            return [Dropped(self._name(site), error)]
        return []

    def _on_agree(self, frame: Frame) -> None:
        header, outcome = self._header(frame, Agree), self._outcome
        self._tail(frame, 0)
        if outcome is None or header.round != outcome.round:
            return
        if frame.sender in outcome.survivors:
            self._check_agree_digest(frame.sender, header, outcome)
            outcome.agreed[frame.sender] = frame.trailer

    def _ban(self, site: int, error: SecAggError) -> None:
        self._banned[site] = error
        for party in (self._current, self._following):
            if party is not None and party.step is not None:
                party.exclude(site, error)

    # Closing an exchange.

    def _close_adverts(self) -> list[SessionEvent]:
        return self._open(Slot.SHARE, self._close_current(), number=self.round, everyone=False)

    def _close_shares(self) -> list[SessionEvent]:
        self._dealt = self._close_current()
        return self._open_input()

    def _close_inputs(self) -> list[SessionEvent]:
        survivors = self._close_current()
        if self._announced is not None:
            announced, names = self._announced, self._names(self._running().survivors)
            self._on_disk(lambda: announced.enter(frozenset(names)))
            for site in self._left_out():
                self._leave_out(self._following, site)
        if self.plan.signed:
            return self._open(Slot.CONSENT, survivors, number=self.round, everyone=True)
        return self._open_reveal(survivors)

    def _close_consents(self) -> list[SessionEvent]:
        return self._open_reveal(self._close_current())

    def _close_reveals(self) -> list[SessionEvent]:
        current, results = self._running(), self._close_current()
        dealt, missing = self._close_following()
        done = self._done
        if done is None:
            raise MisuseError("no round is under way", rule="no-exchange")
        self._results, self._dealt = results, dealt
        delivered = self._exchange + 1
        self._outcome = Outcome(current.round, done.digest, current.survivors, delivered, {})
        self._current, self._following = self._following, None
        self._slot, self._half, self._other, self._done, self._orders = None, None, None, None, {}
        events: list[SessionEvent] = [Finished(current.round, done.aggregate, done.digest)]
        if missing is not None:
            events.append(Cold(self._begun + 1, missing))
        return events

    def _close_finish(self) -> list[SessionEvent]:
        try:
            return self._open(Slot.CLOSE, {}, number=self.round, everyone=False)
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # An earlier life relayed the agreements; nothing else is lost.
            self._slot, self._orders = Slot.CLOSE, {}
            return []

    def _close_current(self) -> dict[int, Piece]:
        """Close the running round's step, once: what comes after it may have to be repeated."""
        if self._half is None:
            current = self._running()
            events = current.close_step()
            self._half = self._pieces(current, events)
            self._done = next((event for event in events if isinstance(event, Done)), None)
        return self._half

    def _close_following(self) -> tuple[dict[int, Piece], SecAggError | None]:
        """Close a step of the next round's setup, once. Where it fails, the next round starts cold
        and the one under way goes on."""
        following = self._following
        if self._other is None:
            try:
                events = following.close_step() if following else []
                self._other = (self._pieces(following, events) if following else {}, None)
            except SecAggError as error:
                if error.rule == RETRY:
                    raise
                self._following, self._other = None, ({}, error)
        return self._other

    def _abort(self, error: SecAggError) -> SessionEvent:
        self._current = self._following = None
        self._slot, self._half, self._other, self._done = None, None, None, None
        self._dealt, self._orders = {}, {}
        return Aborted(self.round, error)

    # Opening one.

    def _open_round(self, current: ServerParty) -> list[SessionEvent]:
        """The first exchange of a round that nothing was prepared for."""
        return self._open(Slot.ADVERTISE, {}, number=current.round, everyone=True)

    def _open_input(self) -> list[SessionEvent]:
        current = self._running()
        following = None if self._last else self._party(current.round + 1)
        if following is not None:
            following.start()
        number, contexts = current.round, current.contexts
        events = self._open(
            Slot.INPUT, self._dealt, number=number, everyone=True, contexts=contexts
        )
        # Also where nothing is prepared: sites advertise before they know that it is the last.
        self._begun = number + 1
        self._following, self._dealt = following, {}
        if following is not None:
            self._seed = self._entropy(SEED_SIZE)
        self._retire(number - 1)
        return events

    def _open_reveal(self, running: dict[int, Piece]) -> list[SessionEvent]:
        adverts, missing = self._close_following()
        events = self._open(Slot.REVEAL, running, number=self.round, everyone=False, also=adverts)
        if missing is not None:
            events.append(Cold(self._begun + 1, missing))
        return events

    def _party(self, number: int) -> ServerParty:
        seed = self._seed
        party = self._party_class(
            self.plan,
            identity=self.identity,
            session=self.session,
            round=number,
            model=None,
            journal=self.journal,
            threads=self.threads,
            entropy=lambda _: seed,
        )
        for site in self._left_out():
            self._leave_out(party, site)
        return party

    def _forget(self) -> None:
        self._current = self._following = None
        self._dealt, self._results, self._orders = {}, {}, {}

    # Storage.

    def _state(self) -> dict[str, Any]:
        if self._half is not None or self._other is not None:
            raise MisuseError(
                "the disk failed while an exchange was closed; close it, and then save",
                rule="half-closed",
            )
        store = PieceStore()
        outcome = self._outcome
        return {
            "exchange": self._exchange,
            "slot": None if self._slot is None else int(self._slot),
            "round": self.round,
            "begun": self._begun,
            "data": self.data,
            "last": self._last,
            "reported": sorted(self._reported),
            "seed": self._seed,
            "parties": [
                None if party is None else party.dump()
                for party in (self._current, self._following)
            ],
            "dealt": store.keep(self._dealt),
            "results": store.keep(self._results),
            "orders": store.keep({site: (0, data) for site, data in self._orders.items()}),
            "outcome": None
            if outcome is None
            else [
                outcome.round,
                outcome.digest,
                list(outcome.survivors),
                outcome.delivered,
                list(outcome.agreed.items()),
            ],
            "banned": [[site, pack_error(error)] for site, error in self._banned.items()],
            "blobs": store.blobs,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        blobs = state["blobs"]
        self._exchange = state["exchange"]
        self._slot = None if state["slot"] is None else Slot(state["slot"])
        self.round = state["round"]
        self._begun = state["begun"]
        self._last = state["last"]
        self._reported = set(state["reported"])
        self._seed = state["seed"]
        self._current, self._following = (
            None if data is None else self._load_party(data) for data in state["parties"]
        )
        self._dealt = unpack_pieces(state["dealt"], blobs)
        self._results = unpack_pieces(state["results"], blobs)
        orders = unpack_pieces(state["orders"], blobs)
        self._orders = {site: data for site, (_, data) in orders.items()}
        if state["outcome"] is not None:
            number, digest, survivors, delivered, agreed = state["outcome"]
            self._outcome = Outcome(number, digest, tuple(survivors), delivered, dict(agreed))
        self._banned = {site: unpack_error(error) for site, error in state["banned"]}

    def _load_party(self, data: bytes) -> ServerParty:
        party = load(data, self.plan, self.identity, self.journal, threads=self.threads)
        if not isinstance(party, ServerParty):
            raise ValueError
        return party

    @classmethod
    def load(
        cls,
        data: Buffer,
        plan: Plan,
        *,
        identity: Identity | None,
        journal: Journal,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> Self:
        """The session that ``dump()`` wrote; ``resume`` gives its open orders again."""
        state = read_dump(data, plan)
        try:
            if state["role"] != cls.dump_role:
                raise MisuseError("the dump is not of a server's session", rule="dump")
            made = cls(
                plan,
                identity=identity,
                session=state["session"],
                journal=journal,
                data=state["state"]["data"],
                membership=membership,
                threads=threads,
            )
        except DUMP_FAULTS:
            raise MisuseError("the dump is not one of this version", rule="dump") from None
        made.restore(state)
        return made


def _repeated(event: Event) -> bool:
    again = isinstance(event, Ignored) and event.error.rule == "step-order"
    return again or isinstance(event, Progress)


__all__ = ["ServerSession"]
