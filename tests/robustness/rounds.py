"""Small rounds that tests can stop anywhere: plans, a driver by commands, frames by hand."""

from __future__ import annotations

import functools
import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import secagg
from secagg import Aggregate, ClipLinf, Done, Identity, Integers, MemoryJournal, Plan, Roster, Send

SERVER = "server"
SERVER_INDEX = 0xFFFFFFFF
SESSION = "robust"
MODEL = b"broadcast model"
PLANS = ("semi-honest", "malicious-server", "sparse")
#: Rules that stand before a header is parsed: who fails them is nobody yet.
GATES = frozenset({"frame", "limits", "route", "trailer"})


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"site-{index}" for index in range(count))


def identities_of(names: tuple[str, ...], tag: str = "") -> dict[str, Identity]:
    """The same identities in every process and run, so that transcripts can be compared."""
    return {
        name: Identity(name, hashlib.sha256(f"identity {tag} {name}".encode()).digest())
        for name in (*names, SERVER)
    }


def roster_of(identities: dict[str, Identity]) -> Roster:
    sites = tuple((n, i.public) for n, i in identities.items() if n != SERVER)
    return Roster(sites=sites, server=identities[SERVER].public)


@functools.cache
def setup(
    kind: str,
    clients: int = 0,
    length: int = 3,
    high: int = 1000,
    bits: int | None = None,
    max_weight: int = 1,
    max_dropouts: int = 1,
) -> tuple[Plan, dict[str, Identity]]:
    """A plan that bears one colluder and, unless told otherwise, one dropout; its identities."""
    clients = clients or {"semi-honest": 4, "malicious-server": 5, "sparse": 7}[kind]
    identities = identities_of(names_of(clients))
    plan = Plan.recommend(
        roster_of(identities),
        length=length,
        stages=(Integers(0, high),),
        threat="malicious-server" if kind == "malicious-server" else "semi-honest",
        colluding=1,
        max_dropouts=max_dropouts,
        min_honest=2,
        neighbours=4 if kind == "sparse" else clients - 1,
        security_bits=20,
        bits=bits,
        max_weight=max_weight,
    )
    return plan, identities


def entropy_of(name: str, tag: str = "") -> Callable[[int], bytes]:
    """Injected randomness: a function of name and tag only, as after a restart."""
    return lambda size: hashlib.shake_256(f"entropy {tag} {name}".encode()).digest(size)


def vector_of(plan: Plan, name: str) -> np.ndarray[Any, Any]:
    """The vector of a site, the same wherever it is asked for."""
    stage = plan.stages[0]
    generator = np.random.default_rng(list(f"vector {name}".encode()))
    if isinstance(stage, ClipLinf):
        return generator.uniform(-stage.clip, stage.clip, size=plan.length)
    assert isinstance(stage, Integers)
    return generator.integers(stage.low, stage.high, size=plan.length, endpoint=True)


def weight_of(plan: Plan, name: str) -> int:
    return 1 if plan.max_weight == 1 else 1 + plan.roster.index(name) % plan.max_weight


@dataclass
class Delivery:
    """One message on its way."""

    kind: int
    sender: str
    recipient: str
    data: bytes


@dataclass
class Round:
    """All parties of one round. ``deliveries`` yields each message before it is delivered."""

    plan: Plan
    identities: dict[str, Identity]
    tag: str = ""
    model: bytes | None = MODEL
    silent: dict[str, int] = field(default_factory=dict)  # site -> first kind it does not send
    parties: dict[str, Any] = field(default_factory=dict)
    journals: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Done] = field(default_factory=dict)
    submitted: bool = True

    def __post_init__(self) -> None:
        for name in (*self.plan.roster.names, SERVER):
            self.journals.setdefault(name, MemoryJournal())
            self.parties[name] = self.make(name)

    def identity(self, name: str) -> Identity | None:
        return self.identities[name] if self.plan.signed else None

    def make(self, name: str) -> Any:
        common: dict[str, Any] = {
            "identity": self.identity(name),
            "session": SESSION,
            "round": 0,
            "model": self.model,
            "journal": self.journals[name],
            "_entropy": entropy_of(name, self.tag),
        }
        if name == SERVER:
            return secagg.server(self.plan, **common)
        return secagg.client(self.plan, name, floors=None, **common)

    def reload(self, name: str, dump: bytes | None = None) -> None:
        """Replace a party by what its dump gives, and submit again as a caller has to."""
        party = self.parties[name]
        data = party.dump() if dump is None else dump
        fresh = secagg.load(data, self.plan, self.identity(name), self.journals[name])
        self.parties[name] = fresh
        if name != SERVER and self.submitted:
            self.submit(name)

    def submit(self, name: str) -> list[Any]:
        """Submit where the round still waits for the vector; nothing otherwise."""
        try:
            return self.parties[name].submit(vector_of(self.plan, name), weight_of(self.plan, name))
        except secagg.MisuseError as error:
            if error.rule not in {"input-once", "ended"}:
                raise
            return []

    def deliveries(self) -> Iterator[Delivery]:
        """Run the round; a message is delivered when the caller asks for the next one."""
        hub = self.parties[SERVER]
        hub.start()
        up: list[Delivery] = []
        for name in self.plan.roster.names:
            events = self.parties[name].start()
            if self.submitted:
                events += self.submit(name)
            up += self.sent(name, events)
        while True:
            for message in up:
                yield message
                self.deliver(message)
            events = self.parties[SERVER].close_step()
            down = self.sent(SERVER, events)
            up = []
            for message in down:
                yield message
                up += self.sent(message.recipient, self.deliver(message))
            if SERVER in self.answers:
                return

    def deliver(self, message: Delivery) -> list[Any]:
        events = self.parties[message.recipient].receive(message.data, sender=message.sender)
        if message.recipient != SERVER and not self.submitted:
            return events
        return events

    def sent(self, name: str, events: list[Any]) -> list[Delivery]:
        found = []
        for event in events:
            if isinstance(event, Done):
                self.answers[name] = event
            if isinstance(event, Send):
                number = event.data[3]
                if number >= self.silent.get(name, 99):
                    continue
                found.append(Delivery(number, name, event.to, event.data))
        return found

    def run(self) -> Aggregate:
        for _ in self.deliveries():
            pass
        return self.result()

    def result(self) -> Aggregate:
        aggregate = self.answers[SERVER].aggregate
        assert aggregate is not None
        return aggregate

    def assert_exact(self) -> None:
        """The sum is that of the announced survivors, computed here in plain integers."""
        found = self.result()
        expected = [0] * self.plan.length
        for name in found.survivors:
            weight = weight_of(self.plan, name)
            for at, value in enumerate(vector_of(self.plan, name).tolist()):
                expected[at] += weight * value
        assert found.sum.tolist() == expected
        assert found.weight == sum(weight_of(self.plan, name) for name in found.survivors)


# Frames by hand, from the specification, so that a mistake in the package's own sealing cannot
# hide itself in the tests.


@dataclass(frozen=True)
class Parts:
    """A frame in pieces."""

    kind: int
    sender: int
    recipient: int
    header: bytes
    tail: bytes


def cut_frame(plan: Plan, data: bytes) -> Parts:
    kind, sender, recipient, size = struct.unpack_from("<BIII", data, 3)
    end = len(data) - (64 if plan.signed else 32)
    return Parts(kind, sender, recipient, data[16:][:size], data[16 + size : end])


def context_of(party: Any, kind: int) -> bytes:
    per_round = kind >= 5
    return party.contexts.round if per_round else party.contexts.setup


def seal_frame(plan: Plan, identity: Identity | None, context: bytes, parts: Parts) -> bytes:
    """Prefix, header, tail and a valid trailer of whoever ``identity`` is."""
    prefix = b"SA" + struct.pack(
        "<BBIII", 1, parts.kind, parts.sender, parts.recipient, len(parts.header)
    )
    inner = hashlib.sha256(parts.tail).digest()
    digest = hashlib.sha256(b"secagg frame v1" + context + prefix + parts.header + inner).digest()
    trailer = identity.sign(digest) if plan.signed and identity is not None else digest
    return prefix + parts.header + parts.tail + trailer


def clone(party: Any, journal: Any = None) -> Any:
    """A party with state of its own, far cheaper than a dump and a load.

    Values inside the containers are never changed in place, so one level of copies is enough;
    a test compares clones with loaded dumps.
    """
    twin = object.__new__(type(party))
    for name, value in vars(party).items():
        copy = value.copy() if isinstance(value, (dict, set, list, np.ndarray)) else value
        setattr(twin, name, copy)
    copy = getattr(party.journal, "copy", MemoryJournal)  # a journal file is not copied
    twin.journal = copy() if journal is None else journal
    return twin


def other_byte(random_: random.Random, value: int) -> int:
    return value ^ random_.randrange(1, 256)
