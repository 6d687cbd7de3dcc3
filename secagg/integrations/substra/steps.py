"""The server's side of a session, one task of the aggregation node at a time.

A compute plan is fixed before it runs and has no branches: no site can be left out, and no round
can take two exchanges more. So each step waits for the report of every site, and raises where one
is missing or where a session would go on without it. What happens in which order is in
``docs/integrations/substra.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg.integrations import envelope
from secagg.integrations.envelope import ORDERS, Reply, Request
from secagg.integrations.folder import TRAIN
from secagg.integrations.layout import Layout
from secagg.session import Aborted, Cold, Finished, ServerSession
from secagg_protocols.errors import AuthenticationError, MisuseError, PeerError
from secagg_protocols.events import Aggregate, Dropped, Ignored, Send, next_parameters
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.keys import Identity, digest_of
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.roster import SERVER_NAME

from .assets import Array, Entries, Form, ServerState, SiteReport

log: Final = logging.getLogger("secagg.integrations")
Arrays = dict[str, npt.NDArray[Any]]


class ServerKey:
    """The server's signing seed, as the tasks of the aggregation node carry it.

    It is in the assets of their functions: whoever may read those can sign as this server.
    """

    def __init__(self, identity: Identity) -> None:
        # An identity is not pickled, so that none is by mistake; this one is on purpose.
        self._seed = bytes(identity._key)

    def identity(self) -> Identity:
        """The server's identity."""
        return Identity(SERVER_NAME, self._seed)

    def __repr__(self) -> str:
        return "ServerKey(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServerKey) and other._seed == self._seed

    def __hash__(self) -> int:
        return hash(self.identity().public)


class NodeJournal(MemoryJournal):
    """The server's journal between two tasks: part of its state, since the aggregation node keeps
    nothing of its own. So it does not notice a task that is run again; sites' journals do."""

    def __init__(self, entries: Entries | None = None) -> None:
        super().__init__()
        if entries is None:
            return
        for key, step, series, number, digest, reply in entries.records:
            self._add(key, step, digest, reply, series, number)
        self._floors.update(entries.floors)
        self._registers.update(entries.registers)

    def entries(self) -> Entries:
        """What it holds."""
        rows = ((*place, *self._records[place[0], place[1]]) for place in self._places())
        return Entries(tuple(rows), dict(self._floors), dict(self._registers))


def first_model(start: bytes) -> bytes:
    """What stands for the model that training starts from: 32 bytes."""
    return digest_of(b"secagg substra start v1", start)


def next_model(model: bytes, arrays: Arrays) -> bytes:
    """What stands for ``model`` moved by a mean update: 32 bytes."""
    return digest_of(b"secagg substra model v1", model, Layout.encode(arrays))


def named(arrays: Iterable[npt.NDArray[Any]]) -> Arrays:
    """Arrays of a list under their numbers, which a :class:`Layout` takes for names."""
    return {str(number): np.asarray(array) for number, array in enumerate(arrays)}


def zeros(forms: Iterable[Form]) -> Arrays:
    """Arrays of some forms: what an update is the difference to."""
    return named(np.zeros(form.shape, np.dtype(form.dtype).newbyteorder("=")) for form in forms)


@dataclass(frozen=True)
class Steps:
    """What all steps have in common. rounds: sums of the session. start: names the first model."""

    plan: Plan
    key: ServerKey = field(repr=False)
    session: bytes
    rounds: int
    start: bytes
    propose: bool

    def opening(self) -> dict[str, bytes]:
        """The orders of the first exchange, by site. They are the same whenever they are made."""
        return self._requests(
            self._begin(self._new(NodeJournal()), first_model(self.start), b"", 0)
        )

    def take(self, state: ServerState | None, reports: Sequence[SiteReport]) -> ServerState:
        """One step: the reports of all sites in, the orders of the next exchange out.

        state: from the step before; ``None`` in the first. Raises where a report is missing
        (``substra-all``) and what else ends a round: the compute plan ends with it.
        """
        if state is None:
            journal = NodeJournal()
            state = ServerState(
                b"", journal.entries(), 0, first_model(self.start), b"", (), {}, None, False
            )
            server = self._new(journal)
            self._begin(server, state.model, b"", 0)
        else:
            journal = NodeJournal(state.journal)
            server = ServerSession.load(
                state.dump, self.plan, identity=self.key.identity(), journal=journal
            )
        slot = server.slot
        self._receive(server, reports)
        forms = _forms(reports) or state.forms
        events = server.close_exchange()
        for event in events:
            if isinstance(event, Aborted):
                raise event.error
            if isinstance(event, Cold):
                raise MisuseError(
                    "the next round has no setup, and a compute plan has no room for another",
                    rule="substra-all",
                ) from event.error
        size = sum(len(report.reply) for report in reports)
        label = "" if slot is None else slot.label
        log.info(
            "secagg round %d, %s: %d of %d sites, %d bytes",
            server.round,
            label,
            len(reports),
            self.plan.clients,
            size,
        )
        done = next((event for event in events if isinstance(event, Finished)), None)
        if done is None or done.aggregate is None:
            return ServerState(
                server.dump(),
                journal.entries(),
                state.done,
                state.model,
                state.parameters,
                forms,
                self._requests(events),
                None,
                False,
            )
        return self._next_round(server, journal, state, forms, done.aggregate)

    def _next_round(
        self,
        server: ServerSession,
        journal: NodeJournal,
        state: ServerState,
        forms: tuple[Form, ...],
        aggregate: Aggregate,
    ) -> ServerState:
        arrays = mean_arrays(forms, aggregate)
        done = state.done + 1
        model = next_model(state.model, arrays)
        parameters = next_parameters(self.plan, aggregate, state.parameters)
        last = done == self.rounds
        events = server.finish() if last else self._begin(server, model, parameters, done)
        return ServerState(
            server.dump(),
            journal.entries(),
            done,
            model,
            parameters,
            forms,
            self._requests(events),
            tuple(Array.of(array) for array in arrays.values()),
            last,
        )

    def _new(self, journal: NodeJournal) -> ServerSession:
        return ServerSession(
            self.plan, identity=self.key.identity(), session=self.session, journal=journal
        )

    def _begin(
        self, server: ServerSession, model: bytes, parameters: bytes, done: int
    ) -> list[Any]:
        events = server.begin_round(model, parameters, last=done + 1 == self.rounds)
        for event in events:
            if isinstance(event, Aborted):
                raise event.error
        return events

    def _receive(self, server: ServerSession, reports: Sequence[SiteReport]) -> None:
        ignored: PeerError | None = None
        for report in reports:
            reply = envelope.unpack(Reply, report.reply)
            if (reply.session, reply.task) != (self.session, TRAIN):
                raise AuthenticationError("a report of another session", rule="envelope")
            for message in reply.messages:
                # Who sent it is in its signature: in which order the platform hands reports over
                # does not matter.
                for event in server.receive(message):
                    if isinstance(event, Dropped):
                        raise event.error
                    if isinstance(event, Ignored) and isinstance(event.error, PeerError):
                        ignored = event.error
        if server.silent:
            missing = ", ".join(server.silent)
            raise MisuseError(
                f"no report of {missing}: a compute plan cannot go on without", rule="substra-all"
            ) from ignored

    def _requests(self, events: Iterable[Any]) -> dict[str, bytes]:
        proposal = dump_plan(self.plan) if self.propose else ""
        return {
            event.to: envelope.pack(
                Request(
                    envelope.VERSION,
                    ORDERS,
                    self.session,
                    TRAIN,
                    self.plan.digest,
                    plan=proposal,
                    messages=(event.data,),
                )
            )
            for event in events
            if isinstance(event, Send)
        }


def mean_arrays(forms: Iterable[Form], aggregate: Aggregate) -> Arrays:
    """The mean update in the sites' shapes and dtypes.

    :class:`MisuseError` (``weight-floor``) where the total weight is too small for one.
    """
    mean = aggregate.mean
    if mean is None:
        raise MisuseError(
            "the total weight is below its floor; there is no mean", rule="weight-floor"
        )
    base = zeros(forms)
    return Layout.of(base).apply(base, mean)


def _forms(reports: Sequence[SiteReport]) -> tuple[Form, ...]:
    """The forms that the sites state, which are the same at all of them."""
    found = {report.forms for report in reports}
    if len(found) > 1:
        raise MisuseError(
            "the sites' updates have different shapes or dtypes", rule="substra-layout"
        )
    return next(iter(found), ())


__all__ = [
    "Arrays",
    "ServerKey",
    "Steps",
    "first_model",
    "mean_arrays",
    "named",
    "next_model",
    "zeros",
]
