"""The side of a holder of decryption shares in a session over Paillier sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Self

from secagg.api import holder, load
from secagg_protocols.dumps import DUMP_FAULTS, read_dump
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError, PeerError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.floors import Floors
from secagg_protocols.journal import Journal
from secagg_protocols.keys import Identity
from secagg_protocols.kinds import Kind
from secagg_protocols.paillier import KeyShare, PrivateKey
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.paillier_sum.messages import ENCRYPTED
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER, Buffer, Frame, to_bitmap

from . import messages
from .desk import RETRY
from .events import Aborted, Opened, SessionEvent
from .holder_checks import HolderChecks
from .messages import LACKS, ORDER, RELAY, Lacks, Order, Part, Relay, Report, split_bundle

_BEFORE: Final = (-1, -1, 0)


class HolderSession(HolderChecks):
    """One holder over many rounds of a Paillier sum (``protocols/specs/session.md``), sans-I/O.

    ``receive`` takes what the server sends: the sites' inputs one by one, and the order to open
    their product, which is answered with one report. The same order again gives the same report
    again. Save ``dump()`` after every call that returned something, and before you transmit it.
    Memory is one vector of ciphertexts. ``round`` is that of the last message, -1 before the
    first.

    progress: if set, called with (ciphertexts done, all of them) while an answer is computed.
    """

    role = "holder"
    dump_role = "holder session"
    kinds = messages.PAILLIER_KINDS
    progress: Callable[[int, int], None] | None = None

    def __init__(
        self,
        plan: Plan,
        name: str,
        *,
        share: KeyShare | PrivateKey,
        identity: Identity | None,
        session: bytes | str,
        floors: Floors | None,
        journal: Journal,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> None:
        """Arguments as for :func:`secagg.holder`; rounds are numbered by the server.

        membership: refuses a plan whose roster is not the newest that the enrolment key signed.
        """
        # A party of no round, which refuses what every round would.
        first = holder(
            plan,
            name,
            share=share,
            identity=identity,
            session=session,
            round=0,
            model=None,
            floors=floors,
            journal=journal,
            threads=threads,
        )
        super().__init__(
            plan,
            first.index,
            identity=identity,
            session=session,
            journal=journal,
            membership=membership,
            threads=threads,
        )
        self.share = share
        self.floors = floors
        self.round = -1
        self._party: Holder | None = None  # of this round; none where it is out of it
        self._stated = b"", b""
        self._at = _BEFORE
        self._digest = b""
        self._request = b""  # to open a product, of the last order
        self._said: list[tuple[int, bytes]] | None = None  # what answers it, once that is known

    # Contract.

    @property
    def ended(self) -> SecAggError | None:
        """Why this session is over for this holder, or ``None`` while it goes on."""
        return self._ended

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[SessionEvent]:
        """Take one message of the server: a site's input, or an order.

        Bytes that are not authentic, or of an earlier round, come back as ``Ignored``. Authentic
        bad content raises :class:`PeerError` and ends the session at this holder.
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            bundle = split_bundle(data, trailer_size=self._trailer_size)
            frame, digest = self._authenticate(bundle.control, sender)
            # Authentic, so what is wrong with it from here on is the server's doing, but for the
            # sizes: what follows the control frame is not yet believed.
            header = self._guard(lambda: self._control(frame))
            parts = bundle.parts(header.parts, self._largest_part)
        except PeerError as error:
            if self._ended is not None:
                raise
            return [Ignored(error)]
        if isinstance(header, Relay):
            return self._on_relay(header, parts)
        return self._on_order(header, digest, parts)

    def close(self) -> None:
        """Leave the session. Another epoch, or the others, may go on."""
        self._end(MisuseError("the session was closed", rule="closed"))

    def _takes(self, kind: Kind) -> bool:
        return kind in {ORDER, RELAY}

    def _control(self, frame: Frame) -> Order | Relay:
        self._tail(frame, 0)
        if frame.kind == RELAY.number:
            return self._header(frame, Relay)
        return self._header(frame, Order)

    # Inputs.

    def _on_relay(self, relay: Relay, parts: list[tuple[int, memoryview]]) -> list[SessionEvent]:
        if relay.round < self.round:
            return [Ignored(self._blame("round-over", "its round is over"))]
        events = self._enter(relay)
        for number, part in parts:
            events += self._take(number, part)
        if self._request and self._said is None:
            # The order to open came before this input did.
            events += self._answer(ask=False)
        return events

    def _take(self, number: int, part: memoryview) -> list[SessionEvent]:
        party = self._party
        if party is None:
            return [Ignored(self._blame("round-over", "this holder is not in the round"))]
        if number != self.round or part.nbytes < 4 or part[3] != ENCRYPTED.number:
            return [Ignored(self._blame("bundle", "what was passed on is not a site's input"))]
        return list(self._guard(lambda: party.receive(part)))

    def _enter(self, header: Relay | Order) -> list[SessionEvent]:
        """Go on to the round that the server speaks of."""
        stated = header.model, header.parameters
        if header.round == self.round:
            self._guard(lambda: self._check_one_model(stated))
            return []
        last, events = self.round, self._leave()
        self.round, self._stated = header.round, stated
        try:
            self._party = self._new_party()
        except MisuseError as error:  # a floor: this holder takes part no longer
            events.append(Dropped(self.name, error))
        # A dump from before this call may still be in the round before.
        self._retire(last)
        return events

    def _new_party(self) -> Holder:
        party = holder(
            self.plan,
            self.name,
            share=self.share,
            identity=self.identity,
            session=self.session,
            round=self.round,
            model=None,
            floors=self.floors,
            journal=self.journal,
            threads=self.threads,
        )
        # Holders do not see models: inputs that were made for another one are not authentic.
        party.contexts.model_hash, party.contexts.parameters = self._stated
        return party

    def _leave(self) -> list[SessionEvent]:
        """Drop what is left of a round; says so where its inputs were never opened."""
        events: list[SessionEvent] = []
        if self._party is not None and self._said is None and self._party.given:
            text = f"round {self.round} ended and was not opened by this holder"
            events.append(Aborted(self.round, self._blame("no-result", text)))
        self._party, self._request, self._said = None, b"", None
        return events

    # Orders.

    def _on_order(
        self, order: Order, digest: bytes, parts: list[tuple[int, memoryview]]
    ) -> list[SessionEvent]:
        again = digest == self._digest
        if not again and (order.exchange < self._at[0] or order.round < self.round):
            text = "this order is older than the last message"
            return [Ignored(self._blame("order-late", text))]
        if again and order.round < self.round:
            return [Ignored(self._blame("round-over", "its round is over"))]
        events: list[SessionEvent] = []
        if not again:
            self._guard(lambda: self._check_order_once(order, digest))
            self._guard(lambda: self._check_order_sequence(order))
            events += self._enter(order)
            self._at = order.exchange, order.round, order.slot
            self._digest, self._said = digest, None
        if self._said is not None:
            return [self._sealed(self._said)]
        # Also of an order that comes again: its parts may have been changed on their way.
        self._request = next((bytes(part) for number, part in parts if number == self.round), b"")
        return events + self._answer(ask=True)

    def _answer(self, *, ask: bool) -> list[SessionEvent]:
        """Open what the order asks for, or say which inputs are missing (``ask``)."""
        party, request = self._party, self._request
        if party is None or not request:
            self._said = []
            return [self._sealed([])]
        try:
            sites = party.named(request)
        except PeerError as error:
            return [Ignored(error)]
        lacks = set(sites) - set(party.given)
        if lacks:
            return [self._sealed([self._lack(lacks)])] if ask else []
        if set(party.given) - set(sites):
            # No answer in this round, but no verdict either: a server may have lost an input
            # after it was passed on.
            return self._sit_out(self._blame("given", "inputs came that are not to be opened"))
        try:
            answers = self._open(party, request)
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # An earlier life of this holder has opened something else in this round.
            return self._sit_out(error)
        self._said = [(self.round, frame) for frame in answers]
        return [Opened(self.round, self._names(sites)), self._sealed(self._said)]

    def _sit_out(self, error: SecAggError) -> list[SessionEvent]:
        """Leave this round, and say no more about it than an empty report."""
        self._party, self._said = None, []
        return [Dropped(self.name, error), self._sealed([])]

    def _open(self, party: Holder, request: bytes) -> list[bytes]:
        party.progress = self.progress
        events = self._guard(lambda: party.receive(request))
        return [event.data for event in events if isinstance(event, Send)]

    def _lack(self, sites: set[int]) -> tuple[int, bytes]:
        header = Lacks(self.round, to_bitmap(sorted(sites), self.plan.clients))
        frame, _ = self._frame(LACKS, SERVER, header)
        return self.round, frame

    def _sealed(self, parts: list[tuple[int, bytes]]) -> Send:
        size = self._trailer_size
        table = tuple(Part.of(number, [data], size) for number, data in parts)
        control, _ = self._frame(messages.ANSWER, SERVER, Report(self._at[0], table))
        return Send(SERVER_NAME, control, *(data for _, data in parts))

    def _guard(self, act: Callable[[], Any]) -> Any:
        """What ``act`` returns; a peer's fault in it ends the session at this holder."""
        try:
            return act()
        except PeerError as error:
            self._end(error)
            raise

    def _blame(self, rule: str, text: str) -> PeerError:
        return PeerError(text, rule=rule, sender=SERVER_NAME)

    def _forget(self) -> None:
        self._party, self._request, self._said = None, b"", None

    # Storage. The share is no part of a dump, as an identity is not.

    def _state(self) -> dict[str, Any]:
        return {
            "floors": None if self.floors is None else asdict(self.floors),
            "round": self.round,
            "stated": list(self._stated),
            "at": list(self._at),
            "digest": self._digest,
            "request": self._request,
            "said": None if self._said is None else [list(part) for part in self._said],
            "party": None if self._party is None else self._party.dump(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if self.floors is None and state["floors"] is not None:
            self.floors = Floors(**state["floors"])
        self.round = state["round"]
        model, parameters = state["stated"]
        self._stated = model, parameters
        exchange, number, slot = state["at"]
        self._at = exchange, number, slot
        self._digest, self._request = state["digest"], state["request"]
        if state["said"] is not None:
            self._said = [(number, data) for number, data in state["said"]]
        floor = self._on_disk(lambda: self.journal.floor(self.series))
        # Below it, the dump is from before later rounds, and this one is over.
        if state["party"] is not None and self.round >= floor:
            self._party = self._load_party(state["party"])

    def _load_party(self, data: bytes) -> Holder:
        party = load(
            data,
            self.plan,
            self.identity,
            self.journal,
            floors=self.floors,
            share=self.share,
            threads=self.threads,
        )
        if not isinstance(party, Holder):
            raise ValueError
        return party

    @classmethod
    def load(
        cls,
        data: Buffer,
        plan: Plan,
        *,
        share: KeyShare | PrivateKey,
        identity: Identity | None,
        journal: Journal,
        floors: Floors | None = None,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> Self:
        """The session that ``dump()`` wrote, ready for the server's next message or last order.

        ``floors=None`` keeps the floors with which the session was made.
        """
        state = read_dump(data, plan)
        try:
            if state["role"] != cls.dump_role:
                raise MisuseError("the dump is not of a holder's session", rule="dump")
            name, _ = plan.roster.holders[state["index"] - plan.clients]
            made = cls(
                plan,
                name,
                share=share,
                identity=identity,
                session=state["session"],
                floors=floors,
                journal=journal,
                membership=membership,
                threads=threads,
            )
        except DUMP_FAULTS:
            raise MisuseError("the dump is not one of this version", rule="dump") from None
        made.restore(state)
        return made


__all__ = ["HolderSession"]
