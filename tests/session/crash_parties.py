"""Parties of a session that live on their disks: what dies in the crash tests and comes back.

A :class:`SiteLife` or :class:`HubLife` is one life of one party. All that it takes over from the
life before is in its folder; it saves before it hands out anything to transmit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import secagg
from secagg.session import (
    Aborted,
    Finished,
    ServerSession,
    SessionEvent,
    SiteSession,
    Slot,
    Store,
    Wanted,
)
from secagg_protocols.errors import MisuseError, PeerError
from secagg_protocols.events import Send

SERVER = "server"
SESSION = "crashes"
LENGTH = 12

#: Every call of a party that may change something outside its process, or wait.
CALLS: list[tuple[Any, str]] = [
    (os, name)
    for name in (
        *("open", "close", "pread", "pwrite", "write", "fsync", "ftruncate", "rename", "replace"),
        *("unlink", "mkdir", "stat", "fstat", "setxattr", "getxattr"),
    )
    if hasattr(os, name)
]
CALLS += [(fcntl, "flock"), (fcntl, "ioctl"), (io, "open")]


def identity(name: str) -> secagg.Identity:
    """The same in every process."""
    return secagg.Identity(name, hashlib.sha256(name.encode()).digest())


def crash_plan(threat: str, sites: int = 5) -> secagg.Plan:
    """The plan of ``sites`` sites that bears one dropout; the same in every process."""
    names = [f"site-{i}" for i in range(sites)]
    roster = secagg.Roster(
        sites=tuple((name, identity(name).public) for name in names),
        server=identity(SERVER).public,
    )
    return secagg.Plan.recommend(
        roster,
        threat=threat,
        length=LENGTH,
        stages=(secagg.Integers(0, 1000),),
        colluding=1,
        max_dropouts=1,
        min_honest=2,
    )


def vector(plan: secagg.Plan, site: str, number: int) -> Any:
    """A site's vector in a round: another life gives the same."""
    return (np.arange(plan.length) * (number + 3) + 37 * plan.roster.index(site)) % 1000


def model_bytes(number: int) -> bytes:
    """The broadcast model, which travels outside of the session."""
    return b"model %d" % number


def model_of(digest: bytes) -> int:
    """The number of a model from its digest."""
    return next(n for n in range(1000) if hashlib.sha256(model_bytes(n)).digest() == digest)


@contextlib.contextmanager
def wrapped_calls(before: Callable[[str], None]) -> Iterator[None]:
    """Within, ``before(name)`` runs before each call of :data:`CALLS`."""

    def wrap(name: str, call: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            try:
                before(name)
            except BaseException:
                if name == "close":
                    call(*args, **options)  # as the end of a process does
                raise
            return call(*args, **options)

        return counted

    true = [(module, name, getattr(module, name)) for module, name in CALLS]
    try:
        for module, name, call in true:
            setattr(module, name, wrap(name, call))
        yield
    finally:
        for module, name, call in true:
            setattr(module, name, call)


#: How a life does what may fail: ``act()`` alone, or again where the disk failed.
Do = Callable[[Callable[[], Any]], Any]


class OwnDiskError(Exception):
    """The disk failed under what the program around a session keeps."""


class SiteLife:
    """One life of a site."""

    def __init__(
        self, folder: Path, plan: secagg.Plan, name: str, do: Do = lambda act: act()
    ) -> None:
        self.plan, self.name, self.do = plan, name, do
        self.store = Store(folder, identity(name))
        self.session = (
            self.store.load_site(plan) if self.store.saved else self.fresh(self.store.journal)
        )
        self.said: list[SessionEvent] = []
        # Its first seeds are on the disk before anything follows from them.
        self.store.save(self.session)

    def fresh(self, journal: secagg.Journal) -> SiteSession:
        """A session that remembers nothing."""
        return SiteSession(
            self.plan,
            self.name,
            identity=identity(self.name) if self.plan.signed else None,
            session=SESSION,
            floors=None,
            journal=journal,
        )

    def answer(self, order: bytes) -> list[bytes]:
        """Take an order; the reports to transmit."""
        session = self.session
        try:
            events = self.do(lambda: session.receive(order, sender=SERVER))
            wanted = next((event for event in events if isinstance(event, Wanted)), None)
            if wanted is not None:
                events = [event for event in events if event is not wanted]
                events += self._submit(wanted)
        except PeerError:
            self.said += session.take_events()
            self.do(lambda: self.store.save(session))
            raise
        self.said += [event for event in events if not isinstance(event, Send)]
        self.do(lambda: self.store.save(session))
        return [event.data for event in events if isinstance(event, Send)]

    def _submit(self, wanted: Wanted) -> list[SessionEvent]:
        x = vector(self.plan, self.name, wanted.round)
        try:
            model = model_bytes(model_of(wanted.model))
            return list(self.do(lambda: self.session.submit(x, model=model)))
        except MisuseError as error:
            if error.rule != "inputs-per-model":
                raise
            return self.session.skip()


class HubLife:
    """One life of the server, which runs rounds until ``rounds`` of them are over.

    The results are in its folder before the dump that no longer knows of them, as a server has
    to do it that does not want to lose one.
    """

    def __init__(
        self, folder: Path, plan: secagg.Plan, rounds: int, do: Do = lambda act: act()
    ) -> None:
        self.folder, self.plan, self.rounds, self.do = folder, plan, rounds, do
        self.store = Store(folder, identity(SERVER))
        if self.store.saved:
            self.session = self.store.load_server(plan)
        else:
            self.session = ServerSession(
                plan,
                identity=identity(SERVER) if plan.signed else None,
                session=SESSION,
                journal=self.store.journal,
            )
        self.said: list[SessionEvent] = []
        self.outcomes = read_outcomes(folder)
        self.store.save(self.session)

    def orders(self) -> list[Send]:
        """Those of the open exchange, or of the one that is to be opened."""
        session = self.session
        if session.slot is not None:
            return self._sends(session.resume())
        if len(self.outcomes) < self.rounds:
            model = model_bytes(self.model())
            return self._saved(self.do(lambda: session.begin_round(model)))
        return self._saved(self.do(session.finish))

    @property
    def over(self) -> bool:
        """Whether the last orders are out."""
        return self.session.slot == Slot.CLOSE

    def take(self, site: str, report: bytes, *, save: bool) -> None:
        """Take a report. Nothing is transmitted upon it, so nothing has to be saved."""
        self.said += self.session.receive(report, sender=site)
        if save:
            self.do(lambda: self.store.save(self.session))

    def close(self) -> list[Send]:
        """Stop waiting; the orders of the next exchange, none where the round is over."""
        return self._saved(self.do(self.session.close_exchange))

    def abort(self) -> None:
        """Give the round up."""
        self._saved(self.do(self.session.abort))

    def _saved(self, events: list[SessionEvent]) -> list[Send]:
        for event in events:
            if isinstance(event, Finished):
                aggregate = event.aggregate
                assert aggregate is not None
                outcome = {
                    "sum": [int(value) for value in aggregate.sum],
                    "survivors": list(aggregate.survivors),
                    "digest": event.digest,
                }
                self._keep(event.round, outcome)
            elif isinstance(event, Aborted):
                self._keep(event.round, {"rule": event.error.rule, "error": str(event.error)})
        self.said += [event for event in events if not isinstance(event, Send)]
        self.do(lambda: self.store.save(self.session))
        return self._sends(events)

    @staticmethod
    def _sends(events: list[SessionEvent]) -> list[Send]:
        return [event for event in events if isinstance(event, Send)]

    # What the program around the session remembers.

    def _keep(self, number: int, outcome: dict[str, Any]) -> None:
        def write() -> None:
            try:
                if "sum" in self.outcomes.get(number, {}):
                    return  # the life before got so far, and a result stays a result
                model = self.outcomes.get(number, {}).get("model", self.model())
                now = self.outcomes | {number: {"model": model, **outcome}}
                draft = self.folder / "outcomes.new"
                draft.write_bytes(msgspec.msgpack.encode(now))
                draft.replace(self.folder / "outcomes")
                self.outcomes = now
            except OSError as error:
                raise OwnDiskError from error

        self.do(write)

    def model(self) -> int:
        """The model of the next round: after an abort the same one once more."""
        model = tries = 0
        for outcome in self.outcomes.values():
            tries += 1
            if "sum" in outcome or tries == 2:
                model, tries = model + 1, 0
        return model


def read_outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    """By round: model, and sum, survivors and digest, or the rule that ended it."""
    path = folder / "outcomes"
    return msgspec.msgpack.decode(path.read_bytes()) if path.exists() else {}
