"""The site's side of a session: every order of the server is answered with one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Self

from secagg.api import AnyClient, load, site_index
from secagg.api import client as new_client
from secagg_protocols.dumps import DUMP_FAULTS, read_dump
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import (
    AuthenticationError,
    DecodeError,
    MisuseError,
    PeerError,
    ReleaseError,
    SecAggError,
)
from secagg_protocols.events import Done, Dropped, Event, Ignored, Send
from secagg_protocols.floors import Floors
from secagg_protocols.journal import Journal
from secagg_protocols.keys import SEED_SIZE, Identity, digest_of
from secagg_protocols.ledger import InputLedger, checked_ledger, require_ledger
from secagg_protocols.masked_sum.messages import CONSENT
from secagg_protocols.party import Entropy, checked_model
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.registers import data_name
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER, Buffer, Frame

from . import messages
from .desk import RETRY
from .events import Aborted, Finished, SessionEvent, Wanted
from .messages import Agree, Order, Part, Slot, is_session_frame, split_bundle
from .site_checks import Answer, Outcome, SiteChecks

#: The journal's step of an agreement, after those of the round it is about.
AGREE_STEP: Final = 6
_BEFORE: Final = (-1, -1, 0)


class SiteSession(SiteChecks):
    """One site over many rounds (``protocols/specs/session.md``), sans-I/O.

    ``receive`` takes an order. What it returns holds either the report to send, or
    :class:`Wanted`: the round waits for this site's vector, and ``submit`` (or ``skip``) returns
    the report. A model that the floors do not list is skipped, with ``Dropped``. The same order
    again gives the same report again. Save ``dump()`` after every call that returned something,
    and before you transmit it. ``round`` is that of the last order, -1 before the first.
    """

    role = "client"
    dump_role = "site session"

    def __init__(
        self,
        plan: Plan,
        site: str,
        *,
        identity: Identity | None,
        session: bytes | str,
        floors: Floors | None,
        journal: Journal,
        data: str = "",
        ledger: InputLedger | None = None,
        membership: Membership | None = None,
        threads: int = 1,
        _entropy: Entropy | None = None,
    ) -> None:
        """Arguments as for :func:`secagg.client`; rounds are numbered by the server's orders.

        data: names this site's data set, where it has several. Inputs per model and the
        releases of fixed data are counted for it, in the journal, over all sessions.
        membership: refuses a plan whose roster is not the newest that the enrolment key signed.
        """
        super().__init__(
            plan,
            site_index(plan, site),
            identity=identity,
            session=session,
            journal=journal,
            membership=membership,
            threads=threads,
            entropy=_entropy,
        )
        if floors is not None and not isinstance(floors, Floors):
            raise MisuseError("floors are Floors (Floors.load reads them)", rule="floors")
        if floors is not None:
            floors.check(plan, 0)
        self.floors = floors
        self.data = data_name(data)
        self.ledger = ledger
        checked_ledger(ledger, self.journal, self.name, self.data)
        self._clients: dict[int, AnyClient] = {}
        # Rounds by which setups are ahead of inputs; a Paillier round has no setup.
        self._ahead = 0 if isinstance(plan.protocol, PaillierSum) else 1
        # Drawn one setup ahead, so that it is in a dump before anything follows from it: a site
        # that dies in the middle of a call derives the same bytes again.
        self._seed = self._entropy(SEED_SIZE)
        self._at = _BEFORE  # exchange, round, slot of the last order
        self.round = -1
        self._answer: Answer | None = None
        self._outcome, self._due = None, None
        self._events: list[SessionEvent] = []

    # Contract.

    @property
    def waits(self) -> bool:
        """Whether the last order waits for ``submit`` or ``skip``."""
        return self._ended is None and self._answer is not None and self._answer.waits

    @property
    def ended(self) -> SecAggError | None:
        """Why this session is over for this site, or ``None`` while it goes on."""
        return self._ended

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[SessionEvent]:
        """Take one order of the server.

        Bytes that are not authentic, or older than the last order, come back as ``Ignored``.
        Authentic bad content raises :class:`PeerError` and ends the session at this site; what
        happened before that is in :meth:`take_events`.
        """
        if self._ended is not None:
            return [*self.take_events(), Ignored(self._ended)]
        try:
            bundle = split_bundle(data, trailer_size=self._trailer_size)
            frame, digest = self._authenticate(bundle.control, sender)
            # Authentic, so what is wrong with it from here on is the server's doing, but for the
            # sizes: what follows the control frame is not yet believed.
            order = self._guard(lambda: self._order(frame))
            parts = bundle.parts(order.parts, self._largest_part)
        except PeerError as error:
            if self._ended is not None:
                raise
            return [Ignored(error)]
        if self._answer is not None and digest == self._answer.digest:
            return self._repeat(self._answer, parts)
        if order.exchange < self._at[0]:
            return [Ignored(self._blame("order-late", "this order is older than the last one"))]
        self._guard(lambda: self._check_order_once(order, digest))
        self._guard(lambda: self._check_order_sequence(order))
        oldest = min(self._clients, default=order.round)
        self._leave_unanswered(order)
        kept = self._answer.lasting(order) if self._answer is not None else []
        self._answer = Answer(digest, order, list(parts), oldest, kept=kept)
        self._at = (order.exchange, order.round, order.slot)
        self.round = order.round
        return self._work(self._answer)

    def submit(self, x: Any, weight: int = 1, *, model: Buffer) -> list[SessionEvent]:
        """Give the vector that the last order waits for; returns the report to send.

        x: float32/float64 (or integers) of shape ``(plan.length,)``. model: the bytes of the
        broadcast model that ``x`` was made from. :class:`MisuseError` for a vector that the plan
        does not allow, another model than the server stated, or one input too many for a model,
        :class:`BudgetError` of the ledger's; ``skip`` then answers without a vector.
        """
        answer = self._waiting()
        model = checked_model(model)
        self._check_stated_model(answer.order, model)
        client = self._clients.get(answer.order.round)
        if client is None:
            raise MisuseError("this site cannot send a vector in this round", rule="input-wanted")

        def act() -> list[Event]:
            client.use_model(model, answer.order.parameters)
            self._watch(client)
            return client.submit(x, weight)

        events = self._guard(act)
        sent = [(client.round, event.data) for event in events if isinstance(event, Send)]
        answer.parts[:0] = sent
        answer.waits = False
        return self._report(answer)

    def skip(self) -> list[SessionEvent]:
        """Answer the last order without a vector: this site is not in this round's sum."""
        answer = self._waiting()
        self._clients.pop(answer.order.round, None)
        answer.waits = False
        return self._report(answer)

    def take_events(self) -> list[SessionEvent]:
        """Events of a call that raised, once."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Leave the session and erase its secrets. Another epoch, or the server, may go on."""
        self._end(MisuseError("the session was closed", rule="closed"))

    # An order, part by part.

    def _leave_unanswered(self, order: Order) -> None:
        """The server went on without this site's vector, so its keys of that round go."""
        if order.slot not in {Slot.INPUT, Slot.CONSENT, Slot.REVEAL}:
            return
        for number, client in list(self._clients.items()):
            passed = (number, Slot.INPUT) < (order.round, order.slot)
            if passed and not client.sent_input:
                text = f"this site's vector came too late; it is not in the sum of round {number}"
                late = PeerError(text, rule="late", sender=self.name)
                self._leave(Dropped(self.name, late), number)

    def _leave(self, event: SessionEvent, number: int) -> None:
        del self._clients[number]  # erased: this site is no longer in that round
        self._events.append(event)

    def _order(self, frame: Frame) -> Order:
        order = self._header(frame, Order)
        self._tail(frame, 0)
        return order

    def _repeat(self, answer: Answer, parts: list[tuple[int, memoryview]]) -> list[SessionEvent]:
        """The same order again: the same report, or what could not be done the first time."""
        if answer.sent:
            return [self._sealed(answer)]
        if answer.waits:
            return self._ask(answer)
        if answer.todo:
            answer.todo = list(parts[-len(answer.todo) :])
        return self._work(answer)

    def _work(self, answer: Answer) -> list[SessionEvent]:
        """Take the parts, prepare what the slot asks for, answer. May be called again after an
        error of the disk: what was done stays done."""
        while answer.todo:
            number, part = answer.todo[0]
            error = self._take(answer, number, memoryview(part))
            if error is not None:
                # Changed on its way: the same order, come whole, is taken from here on.
                return [*self.take_events(), Ignored(error)]
            del answer.todo[0]
        self._agree(answer)
        order = answer.order
        self._prepare(answer, Slot(order.slot), order.round)
        client = self._clients.get(order.round)
        if order.slot == Slot.INPUT and client is not None and client.awaits_input:
            self._guard(lambda: self._check_order_clip(order))
            answer.waits = True
            return self._ask(answer)
        if order.slot == Slot.CLOSE:
            answer.sent = True
            return self.take_events()
        return self._report(answer)

    def _take(self, answer: Answer, number: int, part: memoryview) -> PeerError | None:
        """Give one inner frame to its round; the error where it is not authentic."""
        if is_session_frame(part):
            return self._take_agreed(part)
        client = self._clients.get(number)
        if client is None:
            # A site that lost a round, or skipped it, still gets its messages.
            return None
        try:
            events = self._guard(lambda: client.receive(part))
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # An earlier life of this site answered this step otherwise: it answers no more.
            self._leave(Dropped(self.name, error), number)
            return None
        for event in events:
            if isinstance(event, Ignored):
                if isinstance(event.error, (AuthenticationError, DecodeError)):
                    return event.error
                self._events.append(event)
            elif isinstance(event, Send):
                answer.parts.append((number, event.data))
            elif isinstance(event, Done):
                self._finished(client, event)
            elif isinstance(event, Dropped):
                self._leave(event, number)  # late: its secrets go with it
            else:
                self._events.append(event)
        return None

    def _finished(self, client: AnyClient, done: Done) -> None:
        number = client.round
        self._leave(Finished(number, done.aggregate, done.digest), number)
        self._keep(client, done)

    def _agree(self, answer: Answer) -> None:
        """Say which result this site was sent; one digest a round in its life."""
        outcome = self._outcome
        if outcome is None or outcome.agreed:
            return
        number = outcome.round
        ids = self.index.to_bytes(4, "little"), number.to_bytes(8, "little")
        key = digest_of(b"secagg agreement v1", self._desk_context, *ids)
        try:
            self._on_disk(
                lambda: self.journal.claim(
                    key, AGREE_STEP, outcome.digest, b"", series=self.series, number=number
                )
            )
        except MisuseError as error:
            if error.rule != RETRY:
                # An earlier life of this site was sent another result.
                self._end(error)
            raise
        frame, _ = self._frame(messages.AGREE, SERVER, Agree(number, outcome.digest))
        answer.parts.append((number, frame))
        outcome.agreed = True

    def _take_agreed(self, part: memoryview) -> PeerError | None:
        try:
            frame, _ = self._authenticate(part, None)
        except PeerError as error:
            return error
        agreement = self._guard(lambda: self._on_agreed(frame))
        if agreement is not None:
            self._events.append(agreement)
        return None

    def _prepare(self, answer: Answer, slot: Slot, number: int) -> None:
        """Erase the rounds that are over, and begin the setup that this slot has room for."""
        if slot in {Slot.ADVERTISE, Slot.INPUT, Slot.CONSENT}:
            self._retire(answer.oldest)
        for old, client in list(self._clients.items()):
            if old < number or slot == Slot.FINISH:
                if client.sent_input:
                    text = f"round {old} ended without a result for this site"
                    self._events.append(Aborted(old, self._blame("no-result", text)))
                del self._clients[old]
        if slot == Slot.ADVERTISE:
            # Cold: whatever was prepared for a round that never came is erased.
            self._begin(answer, number)
        elif slot in {Slot.INPUT, Slot.CONSENT}:
            self._begin(answer, number + self._ahead)
        if slot == Slot.CONSENT and not any(data[3] == CONSENT.number for _, data in answer.parts):
            # This site's report to the order before came too late, or never: what was in it for
            # the next round still counts.
            answer.parts += answer.kept
        answer.kept = []

    def _begin(self, answer: Answer, number: int) -> None:
        """Enter a round, once; where it has a setup, advertise for it."""
        party = self._clients.get(number)
        if party is None:
            seeds = [self._seed]
            try:
                party = new_client(
                    self.plan,
                    self.name,
                    floors=self.floors,
                    data=self.data,
                    ledger=self.ledger,
                    identity=self.identity,
                    session=self.session,
                    round=number,
                    model=None,
                    journal=self.journal,
                    threads=self.threads,
                    # Given away once, so that nothing holds it when the round is revealed.
                    _entropy=lambda _: seeds.pop(),
                )
            except MisuseError as error:  # a floor: this site takes part no longer
                self._events.append(Dropped(self.name, error))
                return
            self._seed = self._entropy(SEED_SIZE)
            self._clients[number] = party
        if party.started:
            return
        try:
            events = party.start()
        except MisuseError as error:
            if error.rule == RETRY:
                raise
            # An earlier life of this site advertised for this round, and its keys are lost.
            self._leave(Dropped(self.name, error), number)
            return
        answer.parts += [(number, event.data) for event in events if isinstance(event, Send)]

    # Answers.

    def _waiting(self) -> Answer:
        self._require_alive()
        if self._answer is None or not self._answer.waits:
            raise MisuseError("the server does not wait for a vector now", rule="input-wanted")
        return self._answer

    def _ask(self, answer: Answer) -> list[SessionEvent]:
        """Ask for the vector. A model that the floors do not list is never handed out to train."""
        order = answer.order
        try:
            (self.floors or Floors()).check_model(order.model)
        except MisuseError as error:
            self._events.append(Dropped(self.name, error))
            return self.skip()
        return [*self.take_events(), Wanted(order.round, order.model, order.parameters)]

    def _report(self, answer: Answer) -> list[SessionEvent]:
        answer.sent = True
        return [*self.take_events(), self._sealed(answer)]

    def _sealed(self, answer: Answer) -> Send:
        size = self._trailer_size
        parts = tuple(Part.of(number, [data], size) for number, data in answer.parts)
        header = messages.Report(answer.order.exchange, parts)
        control, _ = self._frame(messages.REPORT, SERVER, header)
        return Send(SERVER_NAME, control, *(data for _, data in answer.parts))

    def _guard(self, act: Callable[[], Any]) -> Any:
        """What ``act`` returns; a peer's fault in it ends the session at this site."""
        try:
            return act()
        except (PeerError, ReleaseError) as error:
            # The release policy, too, ends the analysis and not only this round.
            self._end(error)
            raise

    def _forget(self) -> None:
        self._clients.clear()
        self._seed = b""

    # Storage.

    def _state(self) -> dict[str, Any]:
        answer = self._answer
        half = answer is not None and not (answer.sent or answer.waits)
        if half and self._events and self._ended is None:
            raise MisuseError(
                "an order was taken half-way; give it again, and then save", rule="half-closed"
            )
        outcome = self._outcome
        return {
            "floors": None if self.floors is None else asdict(self.floors),
            "data": self.data,
            "ledger": self.ledger is not None,
            "seed": self._seed,
            "at": list(self._at),
            "clients": [[number, client.dump()] for number, client in self._clients.items()],
            "outcome": None if outcome is None else asdict(outcome),
            "due": self._due,
            "answer": None if self._answer is None else self._answer.dump(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if self.floors is None and state["floors"] is not None:
            self.floors = Floors(**state["floors"])
        require_ledger(self.ledger, kept=state["ledger"])
        self._seed = state["seed"]
        self._at = tuple(state["at"])
        self.round = self._at[1]
        self._due = state["due"] and tuple(state["due"])
        if state["outcome"] is not None:
            self._outcome = Outcome(**state["outcome"])
        if state["answer"] is not None:
            self._answer = Answer.load(state["answer"])
        floor = self._on_disk(lambda: self.journal.floor(self.series))
        for number, data in state["clients"]:
            if number >= floor:
                self._clients[number] = self._load_client(data)
            else:
                # The dump is from before orders that were never answered, and this round is over.
                error = self._blame("no-result", f"round {number} is over")
                self._events.append(Aborted(number, error))

    def _load_client(self, data: bytes) -> AnyClient:
        loaded = load(
            data,
            self.plan,
            self.identity,
            self.journal,
            floors=self.floors,
            ledger=self.ledger,
            threads=self.threads,
        )
        if not isinstance(loaded, AnyClient):
            raise ValueError
        return loaded

    @classmethod
    def load(
        cls,
        data: Buffer,
        plan: Plan,
        *,
        identity: Identity | None,
        journal: Journal,
        floors: Floors | None = None,
        ledger: InputLedger | None = None,
        membership: Membership | None = None,
        threads: int = 1,
    ) -> Self:
        """The session that ``dump()`` wrote, ready for the server's next or last order.

        ``floors=None`` keeps the floors with which the session was made. The masked input is
        not in a dump: where the order that asked for it is repeated, so is :class:`Wanted`, and
        only the same vector gives the same bytes; another one is refused.
        """
        state = read_dump(data, plan)
        try:
            if state["role"] != cls.dump_role:
                raise MisuseError("the dump is not of a site's session", rule="dump")
            name = plan.roster.names[state["index"]]
            made = cls(
                plan,
                name,
                identity=identity,
                session=state["session"],
                floors=floors,
                journal=journal,
                data=state["state"]["data"],
                ledger=ledger,
                membership=membership,
                threads=threads,
            )
        except DUMP_FAULTS:
            raise MisuseError("the dump is not one of this version", rule="dump") from None
        made.restore(state)
        return made


__all__ = ["SiteSession"]
