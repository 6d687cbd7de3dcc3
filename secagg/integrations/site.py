"""The party's end under a framework: one request of the server in, one reply out."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from secagg.session import Aborted, Finished, HolderSession, SessionEvent, SiteSession, Wanted
from secagg_protocols.errors import MisuseError, PeerError, ReleaseError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.keys import seal, unseal
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import Buffer

from . import envelope
from .binding import bound
from .envelope import HELLO, Reply, Request
from .folder import PartyFolder
from .layout import tell_norm

log: Final = logging.getLogger("secagg.integrations")

#: The journal's rule: this was answered before, with other bytes.
ONCE: Final = "journal-once"
#: What a reply says where the reason may speak of the site's data.
OUT: Final = "out"


@dataclass(frozen=True, slots=True)
class Contribution:
    """A site's part of a sum.

    x: real array of shape ``(plan.length,)``. weight: whole, 1 to ``plan.max_weight``. model: the
    bytes of the broadcast model that this site received and made ``x`` from; inputs are counted by
    them. settings: everything else that the server told this site for the round.
    """

    x: Any
    weight: int
    model: Buffer
    settings: bytes = b""

    def __repr__(self) -> str:
        return "Contribution(...)"


class Withheld(Exception):  # noqa: N818 - no error: the site has nothing to add
    """Raised by ``work`` where this site stays out of this round's sum."""


Work = Callable[[Wanted], Contribution]


class _AlreadySent(Exception):  # noqa: N818 - leaves a session as it was
    """Another vector of this round has left this site already."""

    def __init__(self, events: list[SessionEvent], problem: MisuseError) -> None:
        super().__init__()
        self.events, self.problem = events, problem


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to.

    reply: to be carried back. results: of rounds that ended at this site, where the plan lets it
    have them. sent_input: whether the reply holds this site's masked input. error: why the party
    took no part, for this process alone: it may speak of data, and was logged.
    """

    reply: bytes
    task: str = ""
    results: tuple[Finished, ...] = field(default=(), repr=False)
    sent_input: bool = False
    error: Exception | None = field(default=None, repr=False)


class StateStore(Protocol):
    """A framework's own place for a party's sealed state; it is read back by a later process."""

    def get(self, name: str) -> bytes | None:
        """The bytes that were put under ``name``."""

    def put(self, name: str, data: bytes) -> None:
        """Keep ``data`` under ``name``, in place of what was there."""

    def delete(self, name: str) -> None:
        """Forget ``name``, where it is there."""


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session between two requests. serial: of two copies the higher is the newer."""

    serial: int
    session: bytes
    task: str
    digest: bytes
    dump: bytes


_RECORDS: Final = msgspec.msgpack.Decoder(_Record)


class SiteDesk:
    """One party of a sum, made anew from its folder for every request.

    folder: see :class:`PartyFolder`. threads: cores for masks. memory: a further place for the
    sealed state (a framework's state of a run); the folder has it in any case, so that a party
    whose process died goes on. Requests of one party are answered one at a time, whatever process
    gets them; a site trains outside of that lock.

    ``answer`` never raises for what the server sent or ``work`` did: it replies that this party is
    not in the round, without a reason, and logs the reason here.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | PartyFolder,
        *,
        threads: int = 1,
        memory: StateStore | None = None,
    ) -> None:
        self.folder = folder if isinstance(folder, PartyFolder) else PartyFolder(folder)
        self.name = self.folder.name
        self.role = "holder" if self.folder.holder else "site"
        self._threads = threads
        self._memory = memory

    def __repr__(self) -> str:
        return f"SiteDesk({self.name!r})"

    def plan_for(self, request: Buffer) -> Plan:
        """The plan of the session that a request belongs to; errors as of ``PartyFolder.plan``,
        and ``plan-differs`` where the server goes by another one."""
        return self._plan(envelope.unpack(Request, request))

    def answer(self, request: Buffer, work: Work | None = None) -> Answer:
        """Take one request. work: called where the round waits for this site's vector; without it
        the site stays out of this round's sum, and in the session."""
        try:
            asked = envelope.unpack(Request, request)
        except PeerError as error:
            log.warning("%s: %s", self.name, error)
            return Answer(envelope.pack(_out(b"-", "train")), error=error)
        try:
            if asked.kind == HELLO:
                return Answer(envelope.pack(self._hello(asked)), asked.task)
            return self._orders(asked, work)
        except Exception as error:
            if isinstance(error, SecAggError):
                self._told(error)
            else:  # of a disk, or of a framework's own store
                log.exception("%s could not answer", self.name)
            reply = envelope.pack(_out(asked.session, asked.task))
            return Answer(reply, asked.task, error=error)

    # Requests.

    def _plan(self, asked: Request) -> Plan:
        plan = self.folder.plan(asked.task, asked.plan)
        if plan.digest != asked.digest:
            raise MisuseError(
                f"the server's plan for {asked.task!r} has another digest than this party's: "
                f"{asked.digest.hex()[:8]}… there, {plan.digest.hex()[:8]}… here",
                rule="plan-differs",
            )
        return plan

    def _hello(self, asked: Request) -> Reply:
        base = Reply(envelope.VERSION, asked.session, asked.task, name=self.name)
        try:
            plan = self._plan(asked)
            self._open(asked, plan)  # what floors, roster and identity have to say is said now
        except SecAggError as error:
            # It speaks of configuration, not of data, and the server's operator has to know.
            self._told(error)
            base = msgspec.structs.replace(base, refused=error.rule)
        signature = envelope.sign_hello(self.folder.identity, asked, base.refused)
        return msgspec.structs.replace(base, signature=signature)

    def _orders(self, asked: Request, work: Work | None) -> Answer:
        plan = self._plan(asked)
        sent: list[bytes] = []
        results: list[Finished] = []
        problem: Exception | None = None
        added = False
        for message in asked.messages:
            events, over = self._turn(asked, plan, _taking(message))
            wanted = next((event for event in events if isinstance(event, Wanted)), None)
            if wanted is not None:
                more, failed = self._contribute(asked, plan, message, wanted, work)
                problem, added = failed or problem, failed is None
                events = [event for event in events if event is not wanted] + more
            problem = problem or over or self._left(events)
            self._note(events)
            results += [event for event in events if isinstance(event, Finished)]
            sent += [event.data for event in events if isinstance(event, Send)]
        reply = Reply(
            envelope.VERSION,
            asked.session,
            asked.task,
            refused=OUT if problem is not None else "",
            messages=tuple(sent),
        )
        return Answer(envelope.pack(reply), asked.task, tuple(results), added, problem)

    def _contribute(
        self, asked: Request, plan: Plan, order: bytes, wanted: Wanted, work: Work | None
    ) -> tuple[list[SessionEvent], Exception | None]:
        """Make this site's vector outside of the lock, and submit it, or skip."""
        problem: Exception | None = None
        part: Contribution | None = None
        try:
            if work is None:
                raise Withheld("this site was not asked to train")
            part = work(wanted)
            if not isinstance(part, Contribution):
                kind = type(part).__name__
                raise MisuseError(f"a Contribution is needed, not a {kind}", rule="arguments")
        except Withheld as nothing:
            problem = nothing
            log.info("%s: round %d: %s", self.name, wanted.round, nothing)
        except (Exception, SystemExit) as error:  # user code; its text may speak of patients
            problem = error if isinstance(error, Exception) else RuntimeError("it exited")
            log.exception("%s: round %d: the training failed", self.name, wanted.round)

        def act(session: SiteSession | HolderSession) -> list[SessionEvent]:
            nonlocal problem
            events = session.receive(order, sender=SERVER_NAME)
            if not isinstance(session, SiteSession) or not _wanted(events):
                # The server has gone on meanwhile, or another process has answered.
                problem = problem or Withheld("the round went on without this site")
                return events
            events = [event for event in events if not isinstance(event, Wanted)]
            if problem is None and part is not None:
                try:
                    model = self._bound(plan, wanted, part)
                    events += session.submit(part.x, part.weight, model=model)
                    # Only what was accepted is known to be an array of finite numbers.
                    tell_norm(part.x, plan, f"{self.name}: round {wanted.round}")
                    return events
                except (PeerError, ReleaseError):
                    raise
                except MisuseError as error:
                    if error.rule == ONCE:
                        # Skipping would erase keys that the sum still needs of this site.
                        raise _AlreadySent(events, error) from None
                    problem = error
                except SecAggError as error:
                    problem = error
                log.warning("%s: round %d: %s", self.name, wanted.round, problem)
            return events + session.skip()

        try:
            events, over = self._turn(asked, plan, act)
        except _AlreadySent as sent:
            log.warning("%s: round %d: %s", self.name, wanted.round, sent.problem)
            return sent.events, sent.problem
        return events, problem or over

    def _bound(self, plan: Plan, wanted: Wanted, part: Contribution) -> bytes:
        """What stands for the model; refuses a vector that counts for nothing, and settings that
        are not those which the server stated to all."""
        if isinstance(part.weight, int) and part.weight < 1:
            # A site with no weight hides nobody, and would count as one that does.
            raise MisuseError("the weight of a site is at least 1", rule="weight-range")
        if isinstance(part.weight, int) and part.weight > plan.max_weight:
            raise MisuseError(
                f"the weight is above the plan's max_weight {plan.max_weight}", rule="weight-range"
            )
        model, parameters = bound(plan, part.model, part.settings)
        if plan.pipeline.adaptive is None and parameters != wanted.parameters:
            raise MisuseError(
                "this site was given other settings than the server states", rule="stated-settings"
            )
        return model

    def _left(self, events: Iterable[SessionEvent]) -> Exception | None:
        """Why this party left a round by itself, such as a model that its policy does not list."""
        gone = [event.error for event in events if isinstance(event, Dropped)]
        return next((error for error in gone if error.rule != "late"), None)

    def _note(self, events: Iterable[SessionEvent]) -> None:
        for event in events:
            if isinstance(event, (Dropped, Aborted)):
                log.warning("%s: %s", self.name, event.error)
            elif isinstance(event, Finished):
                log.info("%s: round %d has its sum", self.name, event.round)

    def _told(self, error: Exception) -> None:
        log.warning("%s takes no part: %s", self.name, error)

    # The session between two requests.

    def _turn(
        self,
        asked: Request,
        plan: Plan,
        act: Callable[[SiteSession | HolderSession], list[SessionEvent]],
    ) -> tuple[list[SessionEvent], Exception | None]:
        """Do something with the session, and save it: only then is anything transmitted.

        Returns the events, and why the session is over at this party where it is.
        """
        with self.folder.locked():
            session, serial = self._load(asked, plan)
            fresh = serial == 0
            if fresh:
                # Its first seeds: a process that dies now says the same when it is asked again.
                serial = 1
                self._save(asked, session, serial)
            try:
                events = act(session)
            except SecAggError:
                # That a session ended is kept. One that took an order half-way has no dump, and
                # the one from before is still there.
                with contextlib.suppress(MisuseError):
                    self._save(asked, session, serial + 1)
                raise
            if fresh and events and all(isinstance(event, Ignored) for event in events):
                # Nobody's key is needed to name a session, so such names take no place.
                self.folder.forget_state(_file(asked))
                if self._memory is not None:
                    self._memory.delete(_file(asked))
                return events, session.ended
            self._save(asked, session, serial + 1)
            if fresh:
                for name in self.folder.forget_others(_file(asked)):
                    if self._memory is not None:
                        self._memory.delete(name)
            return events, session.ended

    def _open(self, asked: Request, plan: Plan) -> SiteSession | HolderSession:
        """A session from its beginning."""
        folder = self.folder
        folder.check_member(plan)
        common: dict[str, Any] = {
            "identity": folder.identity if plan.signed else None,
            "session": asked.session,
            "floors": None if folder.policy is None else folder.policy.floors(),
            "journal": folder.journal,
            "threads": self._threads,
        }
        share = folder.share
        if share is not None:
            return HolderSession(plan, folder.name, share=share, **common)
        return SiteSession(plan, folder.name, ledger=folder.ledger(), **common)

    def _load(self, asked: Request, plan: Plan) -> tuple[SiteSession | HolderSession, int]:
        name, folder = _file(asked), self.folder
        copies = [folder.read_state(name)]
        if self._memory is not None:
            copies.append(self._memory.get(name))
        kept, damaged = [], None
        for copy in filter(None, copies):
            try:
                kept.append(self._record(copy))
            except MisuseError as error:
                log.warning("%s: a copy of the state is no good: %s", self.name, error)
                damaged = error
        if not kept and damaged is not None:
            raise damaged
        if not kept:
            return self._open(asked, plan), 0
        record = max(kept, key=lambda found: found.serial)
        if (record.session, record.task) != (asked.session, asked.task):
            raise MisuseError("the kept state is of another session", rule="party-folder")
        if record.digest != plan.digest:
            raise MisuseError("a session goes on with the plan it began with", rule="plan-differs")
        common: dict[str, Any] = {
            "identity": folder.identity if plan.signed else None,
            "journal": folder.journal,
            "floors": None if folder.policy is None else folder.policy.floors(),
            "threads": self._threads,
        }
        share = folder.share
        if share is not None:
            return HolderSession.load(record.dump, plan, share=share, **common), record.serial
        ledger = folder.ledger()
        return SiteSession.load(record.dump, plan, ledger=ledger, **common), record.serial

    def _record(self, sealed: bytes) -> _Record:
        try:
            return _RECORDS.decode(unseal(sealed, self.folder.identity))
        except msgspec.DecodeError:
            raise MisuseError("the kept state is not of this version", rule="dump") from None

    def _save(self, asked: Request, session: SiteSession | HolderSession, serial: int) -> None:
        digest = session.plan.digest
        record = _Record(serial, asked.session, asked.task, digest, session.dump())
        sealed = seal(msgspec.msgpack.encode(record), self.folder.identity)
        name = _file(asked)
        self.folder.write_state(name, sealed)
        if self._memory is not None:
            self._memory.put(name, sealed)


def _taking(message: bytes) -> Callable[[SiteSession | HolderSession], list[SessionEvent]]:
    return lambda session: session.receive(message, sender=SERVER_NAME)


def _wanted(events: Iterable[SessionEvent]) -> bool:
    return any(isinstance(event, Wanted) for event in events)


def _file(asked: Request) -> str:
    """A name for the session's state that no server can make a path of."""
    return hashlib.sha256(asked.task.encode() + b"\0" + asked.session).hexdigest()[:32]


def _out(session: bytes, task: str) -> Reply:
    return Reply(envelope.VERSION, session, task, refused=OUT)


__all__ = ["OUT", "Answer", "Contribution", "SiteDesk", "StateStore", "Withheld", "Work"]
