"""Any order of events: messages lost, doubled, late, changed; parties that die at any time.

An honest server and honest sites are stepped by Hypothesis. Whatever happens between them, every
sum is exact, nobody says two things in one place, and nobody is taken for a cheat.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import secagg
from secagg.session import (
    Aborted,
    Agreement,
    Finished,
    ServerSession,
    SiteSession,
    Slot,
    Wanted,
)
from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Dropped, Send
from support.sessions import SERVER, Parcel, session_plan

SURVIVORS, REVEAL = 6, 9
PLACES = st.integers(0, 1 << 16)


@functools.cache
def world(sites: int, threat: str) -> tuple[secagg.Plan, dict[str, secagg.Identity]]:
    return session_plan(threat, sites=sites, length=2)


class Disorder(RuleBasedStateMachine):
    """One session; ``mail`` holds what was sent and has not arrived."""

    @initialize(
        sites=st.integers(4, 6), threat=st.sampled_from(["semi-honest", "malicious-server"])
    )
    def create(self, sites: int, threat: str) -> None:
        self.plan, identities = world(sites, threat)
        self.keys = identities if self.plan.signed else {}
        self.names = self.plan.roster.names
        self.journals = {name: secagg.MemoryJournal() for name in (*self.names, SERVER)}
        self.parties: dict[str, Any] = {
            name: SiteSession(self.plan, name, session="disorder", floors=None, **self.common(name))
            for name in self.names
        }
        self.parties[SERVER] = ServerSession(self.plan, session="disorder", **self.common(SERVER))
        # The newest dump, and the one from before the last call, with what that call sent.
        self.saved = {name: party.dump() for name, party in self.parties.items()}
        self.older = dict(self.saved)
        self.unsent: dict[str, list[Any]] = {name: [] for name in self.parties}
        self.mail: list[tuple[str, str, bytes]] = []  # from, to, message
        self.models = 0
        self.model = b""
        self.broadcast: dict[int, bytes] = {}  # round -> model
        self.over = True  # nothing was begun since the session was ended
        self.said: dict[tuple[str, int, int], bytes] = {}  # (site, kind, round) -> frame
        self.orders: dict[tuple[str, int], bytes] = {}  # (site, exchange) -> order
        self.lists: dict[int, bytes] = {}  # round -> header of its survivors
        self.results: dict[int, bytes] = {}  # round -> digest

    # What parties do, and what must hold whenever they do it.

    def common(self, name: str) -> dict[str, Any]:
        return {"identity": self.keys.get(name), "journal": self.journals[name]}

    @property
    def hub(self) -> Any:
        return self.parties[SERVER]

    def vector(self, site: str, number: int) -> list[int]:
        return [1 << self.names.index(site), number % 1000]

    def call(self, name: str, act: Any) -> list[Any]:
        """One call of a party; its dump is saved, then its messages leave."""
        self.older[name] = self.parties[name].dump()
        events = act()
        self.saved[name] = self.parties[name].dump()
        self.unsent[name] = []
        for event in events:
            self.look(name, event)
            if isinstance(event, Send):
                letter = (name, event.to, event.data)
                self.unsent[name].append(letter)
                self.mail.append(letter)
        return events

    def look(self, name: str, event: Any) -> None:
        if isinstance(event, Send):
            if name == SERVER:
                return
            for inner in self.parcel(event.data).inner:
                place = (name, inner.kind, inner.round)
                first = self.said.setdefault(place, inner.data)
                assert first == inner.data, f"{place} was said in two ways"
        elif isinstance(event, Finished):
            assert self.results.setdefault(event.round, event.digest) == event.digest
            survivors = event.aggregate.survivors
            columns = zip(*(self.vector(s, event.round) for s in survivors), strict=True)
            assert event.aggregate.sum.tolist() == [sum(column) for column in columns]
            assert len(survivors) >= self.plan.min_survivors
        elif isinstance(event, Agreement):
            assert event.digest == self.results[event.round]
        elif isinstance(event, Dropped):
            # An honest site is late, or its earlier life knows more than it does.
            assert name != SERVER, event
            rules = {"late", "journal-once", "journal-retired", "dump-age"}
            assert event.error.rule in rules, event

    def parcel(self, data: bytes) -> Parcel:
        return Parcel.of(data, 64 if self.plan.signed else 32)

    def look_at_order(self, site: str, data: bytes) -> None:
        """An order that arrives, and not one that died with its server."""
        parcel = self.parcel(data)
        known = self.orders.setdefault((site, parcel.exchange), data)
        assert known == data, "two orders for one exchange"
        for inner in parcel.inner:
            if inner.kind == SURVIVORS:
                header = inner.data[16 : 16 + int.from_bytes(inner.data[12:16], "little")]
                assert self.lists.setdefault(inner.round, header) == header

    def submit(self, name: str, how: str = "submit") -> None:
        party = self.parties[name]
        if how == "wait":
            return
        if how == "skip":
            self.call(name, party.skip)
            return
        vector = np.array(self.vector(name, party.round))
        model = self.sent_model(name)
        try:
            self.call(name, lambda: party.submit(vector, model=model))
        except MisuseError as error:
            assert error.rule in {"inputs-per-model", "journal-once", "input-wanted", "ended"}, (
                error
            )
            self.saved[name] = party.dump()
            if party.waits:
                self.call(name, party.skip)

    def sent_model(self, name: str) -> bytes:
        """The model that the site's last order was about; the server keeps what it began."""
        return self.broadcast[self.parties[name].round]

    def receive(
        self, sender: str, to: str, data: bytes, how: str = "submit", *, whole: bool = True
    ) -> None:
        party = self.parties[to]
        if to != SERVER and whole:
            self.look_at_order(to, data)
        events = self.call(to, lambda: party.receive(data, sender=sender))
        if any(isinstance(event, Wanted) for event in events):
            self.submit(to, how)
        if to != SERVER:
            assert party.ended is None, party.ended

    # Steps.

    @property
    def idle(self) -> bool:
        return self.hub.slot in {None, Slot.CLOSE}

    @precondition(lambda self: self.idle)
    @rule(again=st.booleans())
    def begin(self, again: bool) -> None:
        """A round over the next model, or over the last one once more."""
        if not again or not self.model:
            self.models += 1
            self.model = b"model %d" % self.models
        self.call(SERVER, lambda: self.hub.begin_round(self.model))
        self.broadcast[self.hub.round] = self.model
        self.over = False

    @precondition(lambda self: not self.idle)
    @rule()
    def close(self) -> None:
        self.call(SERVER, self.hub.close_exchange)

    @precondition(lambda self: not self.idle)
    @rule(lost=st.sets(PLACES, max_size=2))
    def whole_exchange(self, lost: set[int]) -> None:
        """Everything arrives but a message or two, and the server goes on."""
        if self.mail:
            gone = {place % len(self.mail) for place in lost}
            self.mail = [letter for at, letter in enumerate(self.mail) if at not in gone]
        self.deliver_all()
        self.close()

    def deliver_all(self) -> None:
        while self.mail:
            self.receive(*self.mail.pop(0))

    @precondition(lambda self: self.mail)
    @rule(place=PLACES, how=st.sampled_from(["submit", "submit", "skip", "wait"]))
    def deliver(self, place: int, how: str) -> None:
        self.receive(*self.mail.pop(place % len(self.mail)), how)

    @precondition(lambda self: self.mail)
    @rule(place=PLACES)
    def lose(self, place: int) -> None:
        del self.mail[place % len(self.mail)]

    @precondition(lambda self: self.mail)
    @rule(place=PLACES)
    def double(self, place: int) -> None:
        self.mail.append(self.mail[place % len(self.mail)])

    @precondition(lambda self: self.mail)
    @rule(place=PLACES, byte=PLACES, bit=st.integers(0, 7))
    def change(self, place: int, byte: int, bit: int) -> None:
        """A bit flips on the way. Under a signed plan, and where the transport vouches for the
        sender too, a trailer notices; the changed copy arrives beside the whole one."""
        sender, to, data = self.mail[place % len(self.mail)]
        at = byte % len(data)
        changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        self.receive(sender, to, changed, whole=False)

    @rule(place=PLACES)
    def answer(self, place: int) -> None:
        """A site that took its time gives its vector."""
        name = self.names[place % len(self.names)]
        if self.parties[name].waits:
            self.submit(name)

    @rule()
    def resume(self) -> None:
        self.call(SERVER, self.hub.resume)

    @precondition(lambda self: self.hub.slot is not None and self.hub.slot <= Slot.REVEAL)
    @rule()
    def abort(self) -> None:
        (event,) = self.call(SERVER, self.hub.abort)
        assert isinstance(event, Aborted)

    @precondition(lambda self: self.idle and not self.over)
    @rule()
    def finish(self) -> None:
        self.over = True
        try:
            self.call(SERVER, self.hub.finish)
        except MisuseError as error:
            # The server came back to a moment when its session was ended already.
            assert error.rule == "no-exchange"

    @rule(place=PLACES, in_the_middle=st.booleans())
    def die(self, place: int, in_the_middle: bool) -> None:
        """A party dies and is loaded: from what it saved, or in the middle of its last call,
        whose messages never left while its journal knows of them."""
        name = (*self.names, SERVER)[place % (len(self.names) + 1)]
        dump = self.older[name] if in_the_middle else self.saved[name]
        if in_the_middle:
            if any(letter not in self.mail for letter in self.unsent[name]):
                return  # one of them has arrived, so the dump had been saved
            for letter in self.unsent[name]:
                self.mail.remove(letter)
        self.load(name, dump)

    def load(self, name: str, dump: bytes) -> None:
        kind = ServerSession if name == SERVER else SiteSession
        self.parties[name] = kind.load(dump, self.plan, **self.common(name))
        self.saved[name] = self.older[name] = dump
        self.unsent[name] = []

    def teardown(self) -> None:
        """After any of that, rounds in which everything arrives come to a sum of all sites."""
        if not hasattr(self, "parties"):
            return
        self.mail = []
        if self.hub.slot is not None and self.hub.slot <= Slot.REVEAL:
            self.abort()
        while not self.idle:
            self.close()
        for _ in range(3):
            self.begin(again=False)
            while not self.idle:
                self.deliver_all()
                events = self.call(SERVER, self.hub.close_exchange)
        (finished,) = (event for event in events if isinstance(event, Finished))
        assert finished.aggregate.survivors == self.names
        revealed = {(site, number) for site, kind, number in self.said if kind == REVEAL}
        for site, number in revealed:
            assert number in self.lists, (site, number)


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Disorder,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_a_hundred_steps() -> None:
    run(15, 100)


@pytest.mark.slow
def test_any_order_of_hundreds_of_steps() -> None:
    run(60, 400)
