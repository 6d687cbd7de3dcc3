"""A server and its sites with nothing between them: requests go straight to each party's desk.

Every request meets a new desk that knows its folder alone, as under a framework that starts a
process for each message. What is lost, and what a site answers, is the caller's choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.integrations import envelope
from secagg.integrations.folder import write_folders
from secagg.integrations.rounds import Rounds
from secagg.integrations.site import Answer, Contribution, SiteDesk
from secagg.session import Slot, Wanted
from support.sessions import session_plan

SERVER = "server"
#: A policy for proposed plans that sets no limit beyond those of every plan.
OPEN_POLICY = "malicious_server = false\nmin_honest = 2\n"
#: The model of a round that is held.
HELD = b"held model"
#: (party, slot): whether the request reaches it, and whether its reply comes back.
Reach = Callable[[str, Slot], tuple[bool, bool]]
Work = Callable[[Wanted], Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not outlive the machine here. Import it into a module whose tests play rounds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Held(BaseException):
    """The round stops here, with the request in hand."""

    def __init__(self, request: bytes) -> None:
        super().__init__()
        self.request = request


def everybody(name: str, slot: Slot) -> tuple[bool, bool]:
    """Nothing is lost."""
    return True, True


class Memory:
    """A framework's place for states."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def put(self, name: str, data: bytes) -> None:
        self.kept[name] = data


@dataclass
class Call:
    """One request and what it came to."""

    name: str
    slot: Slot
    request: bytes
    answer: Answer


@dataclass
class World:
    """All parties of a plan, each in a folder of its own below ``path``."""

    path: Path
    plan: secagg.Plan
    identities: Mapping[str, secagg.Identity]
    shares: Mapping[str, Any] | None = None
    plans: Mapping[str, secagg.Plan] | None = None
    policy: str | None = None
    propose: bool = False
    task: str = "train"
    server_folder: bool = True
    reach: Reach = everybody
    works: dict[str, Work] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    memories: dict[str, Memory] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    model: bytes = b""
    number: int = -1

    def __post_init__(self) -> None:
        self.folders = write_folders(
            self.path,
            self.plan,
            self.identities,
            shares=self.shares,
            plans=self.plans,
            policy=self.policy,
            propose=self.propose,
        )
        self.rounds = self.new_rounds()

    def new_rounds(self, **more: Any) -> Rounds:
        """Another session over the same folders."""
        given: dict[str, Any] = {
            "identity": self.identities[SERVER],
            "folder": self.folders[SERVER] if self.server_folder else None,
            "task": self.task,
            "propose": self.propose,
        }
        return Rounds((self.plans or {}).get(self.task, self.plan), **(given | more))

    @property
    def names(self) -> tuple[str, ...]:
        return self.plan.roster.names

    def desk(self, name: str) -> SiteDesk:
        """The party as a new process finds it."""
        return SiteDesk(self.folders[name], memory=self.memories.get(name))

    def vector(self, name: str, number: int) -> Any:
        """A site's vector in a round."""
        return np.arange(self.plan.length) % 5 + self.plan.roster.index(name) + number

    def expected(self, survivors: Iterable[str], number: int | None = None) -> Any:
        """The plain weighted sum."""
        at = self.number if number is None else number
        return sum(self.vector(name, at) * self.weights.get(name, 1) for name in survivors)

    def train(self, name: str) -> Work:
        """What a site does where its vector is wanted."""

        def work(wanted: Wanted) -> Contribution:
            vector = self.vector(name, wanted.round)
            return Contribution(vector, self.weights.get(name, 1), self.model)

        return self.works.get(name, work)

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        """One exchange."""
        return list(self.deliver(requests, slot))

    def deliver(self, requests: Mapping[str, bytes], slot: Slot) -> Iterable[tuple[str, bytes]]:
        """Replies as they come."""
        for name, request in requests.items():
            hears, answers = self.reach(name, slot)
            if not hears:
                continue
            work = self.train(name) if slot == Slot.INPUT and name in self.names else None
            answer = self.desk(name).answer(request, work)
            self.calls.append(Call(name, slot, request, answer))
            if answers:
                yield name, answer.reply

    def run(self, *, last: bool = False, model: bytes | None = None) -> secagg.Aggregate:
        """One round."""
        self.model = b"model %d" % len(self.rounds.reports) if model is None else model
        found = self.rounds.run(self.model, self.transport, last=last)
        self.number = self.rounds.reports[-1].number
        return found

    def check(self, found: secagg.Aggregate, *absent: str) -> None:
        """The sum is that of everybody but the absent."""
        assert set(found.survivors) == set(self.names) - set(absent)
        assert np.array_equal(found.sum, self.expected(found.survivors))

    def of(self, name: str, slot: Slot) -> list[Call]:
        """What one party was asked, in one kind of exchange."""
        return [call for call in self.calls if (call.name, call.slot) == (name, slot)]

    def hold(self, slot: Slot, name: str) -> bytes:
        """Run a round until ``name`` is to be asked in ``slot``; the request, not delivered."""

        def transport(requests: Mapping[str, bytes], at: Slot) -> list[tuple[str, bytes]]:
            if at == slot:
                raise Held(requests[name])
            return self.transport(requests, at)

        self.model = HELD
        with pytest.raises(Held) as caught:
            self.rounds.run(self.model, transport)
        return caught.value.request

    def state(self, name: str) -> Path:
        """The sealed state of a party's newest session."""
        files = (self.folders[name] / "sessions").glob("*.sealed")
        return max(files, key=lambda path: path.stat().st_mtime_ns)


def open_reply(data: bytes) -> envelope.Reply:
    return envelope.unpack(envelope.Reply, data)


def open_request(data: bytes) -> envelope.Request:
    return envelope.unpack(envelope.Request, data)


def small(path: Path, threat: Any = "semi-honest", **more: Any) -> World:
    """Four sites, one of which may be missing, and whole numbers."""
    options = {k: more.pop(k) for k in list(more) if k in World.__dataclass_fields__}
    plan, identities = session_plan(threat, **more)
    return World(path, plan, identities, **options)


__all__ = [
    "HELD",
    "SERVER",
    "Call",
    "Memory",
    "Reach",
    "Work",
    "World",
    "everybody",
    "open_reply",
    "open_request",
    "quick",
    "small",
]
