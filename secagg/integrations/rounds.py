"""The server's end under a framework: rounds over whatever carries bytes, and their reports."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from secagg.session import Aborted, Finished, ServerSession, SessionEvent, Slot
from secagg_protocols.errors import (
    AuthenticationError,
    MisuseError,
    PeerError,
    SecAggError,
    ThresholdError,
)
from secagg_protocols.events import Aggregate, Dropped, Ignored, Send, next_parameters
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.roster import SERVER_NAME

from . import envelope
from .binding import bound
from .envelope import HELLO, NONCE_SIZE, ORDERS, Reply, Request
from .folder import TRAIN, PartyFolder

log: Final = logging.getLogger("secagg.integrations")

#: Carries requests by party name; returns replies as they come. Silence is a dropout. A vector is
#: asked for in ``Slot.INPUT``, and once more in ``Slot.REVEAL`` of a Paillier sum of which holders
#: lack inputs: a site that cannot make it again is out of that sum, and the round is aborted.
Transport = Callable[[Mapping[str, bytes], Slot], Iterable[tuple[str, bytes]]]
_SESSION_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class ExchangeReport:
    """One exchange. asked, answered: names. out: parties that said they are not in the round.
    seconds: wall time. bytes_out, bytes_in: of the envelopes, as the server saw them."""

    slot: str
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    out: tuple[str, ...]
    seconds: float
    bytes_out: int
    bytes_in: int

    @property
    def silent(self) -> tuple[str, ...]:
        """Parties that were asked and did not answer."""
        return tuple(name for name in self.asked if name not in self.answered)

    def line(self) -> str:
        """One line for a log."""
        text = f"{self.slot}: {len(self.answered)} of {len(self.asked)} answered"
        if self.out:
            text += f", out: {', '.join(self.out)}"
        if self.silent:
            text += f", silent: {', '.join(self.silent)}"
        return f"{text}, {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What became of one round: ``"done"`` or ``"aborted"`` by ``rule``."""

    task: str
    number: int
    outcome: str
    rule: str
    survivors: tuple[str, ...]
    dropped: Mapping[str, str]
    exchanges: tuple[ExchangeReport, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {**asdict(self), "dropped": dict(self.dropped)}

    def line(self) -> str:
        """One line for a log."""
        if self.outcome != "done":
            return (
                f"{self.task} round {self.number} was aborted [{self.rule}], {self.seconds:.1f} s"
            )
        text = f"{self.task} round {self.number}: the sum of {len(self.survivors)} sites"
        if self.dropped:
            text += ", without " + ", ".join(f"{n} ({step})" for n, step in self.dropped.items())
        return f"{text}, {len(self.exchanges)} exchanges, {self.seconds:.1f} s"


class SessionRefusedError(MisuseError):
    """A party takes no part in this session. party: its name, proven. rule: the one it goes by."""

    def __init__(self, party: str, rule: str) -> None:
        super().__init__(f"{party} refuses this session", rule=rule)
        self.party = party


class Rounds:
    """A session of sums, driven over a :data:`Transport`.

    identity: the server's, where the plan signs. folder: keeps the server's journal; without one it
    is in memory. The session itself is in memory: frameworks do not resume a server's program, and
    one that starts again begins a new session. task: what the framework calls the work, such as
    ``"train"``; sites have a plan for each. propose: send the plan along, for sites that pin the
    roster only. threads: cores that opening a sum may use.

    The session's name is drawn at random, so that no run meets the journals of an earlier one.
    ``reports`` has one entry a round.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        identity: Identity | None,
        folder: str | os.PathLike[str] | PartyFolder | None = None,
        task: str = TRAIN,
        propose: bool = False,
        threads: int = 1,
    ) -> None:
        if not isinstance(plan, Plan):
            raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
        if not isinstance(task, str) or not re.fullmatch(r"[a-z]{1,16}", task):
            raise MisuseError("a task is 1 to 16 lower-case letters", rule="arguments")
        if folder is not None and not isinstance(folder, PartyFolder):
            folder = PartyFolder(folder)
        if folder is not None:
            folder.check_member(plan)
            if folder.name != SERVER_NAME:
                # Two parties with one journal would keep each other from answering.
                raise MisuseError(f"the folder is that of {folder.name}", rule="party-folder")
        self.plan, self.task, self.propose = plan, task, propose
        self.session = secrets.token_bytes(_SESSION_SIZE)
        self.reports: list[RoundReport] = []
        self._proposal = dump_plan(plan) if propose else ""
        self._server = ServerSession(
            plan,
            identity=identity if plan.signed else None,
            session=self.session,
            journal=MemoryJournal() if folder is None else folder.journal,
            threads=threads,
        )
        self._nonces: dict[str, bytes] = {}
        self._parameters = b""
        self._exchanges: list[ExchangeReport] = []

    # Who is there.

    def greeting(self, key: str) -> bytes:
        """A request for the unknown party behind ``key``, the framework's name of a connection."""
        self._nonces[key] = secrets.token_bytes(NONCE_SIZE)
        return envelope.pack(self._request(HELLO, nonce=self._nonces[key]))

    def welcome(self, key: str, reply: bytes) -> str:
        """The party's name in the roster, proven by its identity key.

        :class:`PeerError` for a stranger (``roster-member``), a bad signature (``hello``) and bytes
        that are no reply; :class:`SessionRefusedError` where the party refuses this session, with
        the rule that it names.
        """
        nonce = self._nonces.pop(key, None)
        if nonce is None:
            raise MisuseError(f"{key!r} was not greeted", rule="hello")
        found = envelope.unpack(Reply, reply)
        if found.refused and not found.name:
            raise PeerError("a party could not say who it is; its log says why", rule="hello")
        roster = self.plan.roster
        public = dict((*roster.sites, *roster.holders)).get(found.name)
        if public is None:
            raise PeerError("a node is no party of the roster", rule="roster-member")
        envelope.check_hello(public, self._request(HELLO, nonce=nonce), found)
        if found.refused:
            raise SessionRefusedError(found.name, found.refused)
        return found.name

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of sites, then of holders, in roster order."""
        roster = self.plan.roster
        return tuple(name for name, _ in (*roster.sites, *roster.holders))

    @property
    def begun(self) -> bool:
        """Whether a round of this session has begun."""
        return self._server.round >= 0

    # Rounds.

    def run(
        self, model: bytes, transport: Transport, *, settings: bytes = b"", last: bool = False
    ) -> Aggregate:
        """One round over the broadcast ``model``; its aggregate has a mean.

        settings: everything else that all sites are told for it, bound to the round; sites count
        inputs by the model alone. last: no round follows, so that none is prepared.

        Raises what ended the round without a sum (:class:`ThresholdError` where too few sites are
        left); the next round then starts anew, with two exchanges more.
        """
        began = time.perf_counter()
        self._exchanges = []
        try:
            finished = self._round(model, settings, transport, last)
            found = self._sum(finished)
        except BaseException as error:
            with contextlib.suppress(SecAggError):
                self._server.abort()
            rule = error.rule if isinstance(error, SecAggError) else type(error).__name__
            self._report(began, "aborted", rule)
            raise
        self._parameters = next_parameters(self.plan, found, self._parameters)
        self._report(began, "done", "", found)
        return found

    def pass_over(self, error: SecAggError) -> None:
        """Report a round that an adapter does not begin, for a reason of its own; the session stays
        as it is."""
        self._exchanges = []
        self._report(time.perf_counter(), "aborted", error.rule)

    def _sum(self, finished: Finished) -> Aggregate:
        found = finished.aggregate
        if found is None:  # pragma: no cover - the server's session always has the sum
            raise MisuseError("the server has no sum", rule="arguments")
        if found.weight < max(found.weight_floor, 1):
            raise ThresholdError(
                "the total weight is below what a mean needs",
                rule="weight-floor",
                step="mean",
                have=int(found.weight),
                need=found.weight_floor,
            )
        return found

    def _round(self, model: bytes, settings: bytes, transport: Transport, last: bool) -> Finished:
        stands, stated = bound(self.plan, model, settings)
        events = self._server.begin_round(stands, stated or self._parameters, last=last)
        while True:
            for event in events:
                if isinstance(event, Aborted):
                    raise event.error
                if isinstance(event, Finished):
                    return event
            events = self._exchange(events, transport)

    def finish(self, transport: Transport) -> None:
        """End the session: sites get the last result where the plan lets them, and erase what they
        keep. Failures are logged; the results are out already."""
        if self._server.exchange == 0:
            return
        try:
            events = self._exchange(self._server.finish(), transport)
            if any(isinstance(event, Send) for event in events):
                self._carry(events, transport)
        except Exception as error:  # noqa: BLE001 - whatever the transport raises
            log.warning("the session was not ended at all sites: %s", error)

    def _exchange(self, events: list[SessionEvent], transport: Transport) -> list[SessionEvent]:
        self._carry(events, transport)
        return self._server.close_exchange()

    def _carry(self, events: list[SessionEvent], transport: Transport) -> None:
        """Deliver orders and what receiving the reports brings forth, until nothing is left."""
        slot = self._server.slot
        if slot is None:  # pragma: no cover - every caller has just opened an exchange
            raise MisuseError("there is no open exchange", rule="no-exchange")
        began = time.perf_counter()
        asked: list[str] = []
        answered: list[str] = []
        out: list[str] = []
        sent = got = 0
        try:
            while requests := self._requests(events):
                asked += [name for name in requests if name not in asked]
                sent += sum(map(len, requests.values()))
                events = []
                for name, data in transport(requests, slot):
                    got += len(data)
                    if name not in asked:
                        log.warning("secagg: %s answered and was not asked", name)
                        continue
                    reply, more = self._take(name, data)
                    events += more
                    if reply is not None and name not in answered:
                        answered.append(name)
                    if reply is not None and reply.refused and name not in out:
                        out.append(name)
        finally:
            seconds = time.perf_counter() - began
            report = ExchangeReport(
                slot.label, tuple(asked), tuple(answered), tuple(out), seconds, sent, got
            )
            self._exchanges.append(report)
            log.info("secagg %s round %d, %s", self.task, self._server.round, report.line())

    def _requests(self, events: Iterable[SessionEvent]) -> dict[str, bytes]:
        messages: dict[str, list[bytes]] = {}
        for event in events:
            if isinstance(event, Send):
                messages.setdefault(event.to, []).append(event.data)
        return {
            name: envelope.pack(self._request(ORDERS, messages=tuple(found)))
            for name, found in messages.items()
        }

    def _request(self, kind: str, **more: Any) -> Request:
        return Request(
            envelope.VERSION,
            kind,
            self.session,
            self.task,
            self.plan.digest,
            plan=self._proposal,
            **more,
        )

    def _take(self, name: str, data: bytes) -> tuple[Reply | None, list[SessionEvent]]:
        """One reply. Bytes that are none, or of another session, change nothing."""
        try:
            reply = envelope.unpack(Reply, data)
            if (reply.session, reply.task) != (self.session, self.task):
                raise AuthenticationError("a reply of another session", rule="envelope")
        except PeerError as error:
            log.warning("%s: %s", name, error)
            return None, []
        events: list[SessionEvent] = []
        for message in reply.messages:
            for event in self._server.receive(message, sender=name):
                if isinstance(event, Dropped):
                    log.warning("secagg: %s is out of the session: %s", event.site, event.error)
                elif isinstance(event, Ignored):
                    log.debug("secagg: a message of %s was ignored: %s", name, event.error)
                else:
                    events.append(event)
        return reply, events

    def _report(
        self, began: float, outcome: str, rule: str, found: Aggregate | None = None
    ) -> None:
        report = RoundReport(
            self.task,
            max(self._server.round, 0),  # of a first round that was not begun too
            outcome,
            rule,
            () if found is None else found.survivors,
            {} if found is None else dict(found.dropped),
            tuple(self._exchanges),
            time.perf_counter() - began,
        )
        self.reports.append(report)
        log.log(logging.INFO if outcome == "done" else logging.WARNING, "secagg %s", report.line())


__all__ = ["ExchangeReport", "RoundReport", "Rounds", "SessionRefusedError", "Transport"]
