"""A session and its oracle side by side: every exchange is compared as it is played."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

import secagg
from secagg.session import Aborted, Agreement, Cold, Finished, SessionEvent, Slot
from secagg_protocols.errors import ThresholdError
from secagg_protocols.events import Dropped, Ignored

from .session_oracle import ADVERTISE, DEAF, HERE, INPUT, MASKED, Exchange, Oracle
from .sessions import SERVER, Parcel, Played

_MAGIC = b"secagg dump 1\n"
Acts = Mapping[int, str]


def vector(index: int, number: int) -> list[int]:
    """No two sets of sites or rounds have the same sum."""
    return [1 << index, number + 1]


def plain_sum(sites: Iterable[int], number: int) -> list[int]:
    """The sum that a round over ``sites`` must have, in plain integers."""
    return [sum(column) for column in zip(*(vector(s, number) for s in sites), strict=True)]


class Walk:
    """One session of the real parties, and the oracle that says what they must do."""

    def __init__(self, plan: secagg.Plan, identities: dict[str, secagg.Identity]) -> None:
        self.names = plan.roster.names
        self.acts: Acts = {}
        self.played = Played(plan, identities, vector=self._vector)
        self.oracle = Oracle(
            plan.clients,
            least=plan.min_survivors,
            threshold=plan.protocol.share_threshold,
            signed=plan.signed,
        )
        self.begun = 0
        self.numbers: list[int] = []  # of the rounds begun, in order
        self.log: list[str] = []  # what to print where they differ

    def _vector(self, site: str, number: int) -> Any:
        return np.array(vector(self.names.index(site), number))

    def fork(self) -> Walk:
        """A twin that goes on by itself; every party goes through its dump."""
        twin = copy.copy(self)
        twin.played = self.played.fork()
        twin.oracle = self.oracle.copy()
        twin.numbers, twin.log = list(self.numbers), list(self.log)
        return twin

    def open(self, rounds: int) -> bool:
        """Begin the next round, or end the session after ``rounds`` of them; whether there is
        anything left to play."""
        if self.begun < rounds:
            cold = self.oracle.begin()
            assert self.played.hub.warm is not cold, self.log
            self.played.begin(b"model %d" % self.begun)
            assert self.oracle.slot == (ADVERTISE if cold else INPUT)
            self.numbers.append(self.played.hub.round)
        elif self.begun == rounds:
            self.oracle.finish()
            self.played.end()
        self.begun += 1
        return self.begun <= rounds + 1

    def exchange(self, acts: Acts) -> Exchange:
        """Play one exchange on both sides and compare all that can be seen of it."""
        played, hub = self.played, self.played.hub
        self.log.append(f"{Slot(self.oracle.slot or 0).label}: {dict(acts)}")
        due = self.oracle.play(acts)
        assert (hub.exchange, hub.round, hub.slot) == (due.number, due.round, due.slot), self.log
        played.said, played.exchanges = [], []

        def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
            act = acts.get(self.names.index(site), HERE)
            return act != DEAF, act == HERE

        played.reach = reach
        closed = played.exchange()
        (seen,) = played.exchanges
        index = self.names.index
        assert sorted(map(index, seen.sent)) == sorted(due.orders), self.log
        for parcels, wanted in ((seen.heard, due.orders), (seen.answered, due.reports)):
            for site, parcel in parcels.items():
                assert _inner(parcel) == sorted(wanted[index(site)]), (site, self.log)
        assert sorted(map(index, seen.answered)) == sorted(due.reports), self.log
        for site in due.said:
            said = sorted(self._said(event, site) for event in played.of(self.names[site], object))
            assert said == _shown(due.said[site]), (site, said, due.said[site], self.log)
        assert [self._closed(event) for event in closed] == due.closed, (closed, self.log)
        assert len(played.of(SERVER, object)) == len(closed), (played.said, self.log)
        return due

    def _said(self, event: SessionEvent, site: int) -> tuple[str, int]:
        """An event of a site in the oracle's words."""
        sets = dict(self.oracle.sets)
        match event:
            case Finished(number, aggregate, _):
                assert aggregate is not None
                assert aggregate.sum.tolist() == plain_sum(sets[number], number), self.log
                assert {self.names.index(s) for s in aggregate.survivors} == sets[number]
                return "finished", number
            case Aborted(number, error):
                assert error.rule == "no-result", self.log
                return "aborted", number
            case Dropped(name, error):
                assert (name, error.rule) == (self.names[site], "late"), (error, self.log)
                return "late", 0  # the event does not say which round it was
            case Ignored(error):
                assert error.rule == "step-order", (error, self.log)
                return "ignored", 0
            case Agreement(number, _, sites):
                assert len(sites) == self.oracle.threshold
                assert {self.names.index(s) for s in sites} <= sets[number]
                return "agreement", number
        raise AssertionError((event, self.log))

    def _closed(self, event: SessionEvent) -> tuple[object, ...]:
        """An event of the server in the oracle's words; sums are compared here."""
        match event:
            case Finished(number, aggregate, _):
                assert aggregate is not None
                inside = frozenset(self.names.index(name) for name in aggregate.survivors)
                assert aggregate.sum.tolist() == plain_sum(inside, number), self.log
                gone, left = (
                    {self.names.index(name): step for name, step in which.items()}
                    for which in (aggregate.dropped, aggregate.left)
                )
                return "finished", number, inside, gone, left
            case Aborted(number, error):
                assert isinstance(error, ThresholdError), (error, self.log)
                return "aborted", number
            case Cold(number, _):
                return "cold", number
        raise AssertionError((event, self.log))

    def state(self) -> tuple[Hashable, ...]:
        """Everything that the parties hold, but for the values of keys, shares and digests.

        A dump is complete (every branch but the last is played from one), so equal states differ
        in nothing that a session decides by. Left out are also what a site keeps to repeat
        itself, since no order is repeated here, and counts of traffic. Journals follow from the
        dumps: a party refuses a dump that does not fit its journal.
        """
        parties = (*self.played.sites.values(), self.played.hub)
        dumps = msgspec.msgpack.encode([_skeleton(party.dump()) for party in parties])
        return self.begun, dumps, self.oracle.state()


#: Of a dump: what only answers a repeated order, and counts of traffic.
_LEFT_OUT = frozenset({"answer", "at", "costs", "received"})


def _inner(parcel: Parcel) -> list[tuple[int, int]]:
    return sorted((inner.kind, inner.round) for inner in parcel.inner)


def _shown(said: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The oracle knows of which round a site is late; the site's event does not say it."""
    return sorted((what, 0 if what in {"late", "ignored"} else number) for what, number in said)


def _skeleton(value: object) -> object:
    """A dump without random bytes and times."""
    if isinstance(value, bytes):
        if not value.startswith(_MAGIC):
            return len(value)
        dump = msgspec.msgpack.decode(value[len(_MAGIC) + 32 :])
        state = {k: v for k, v in dump["state"].items() if k not in _LEFT_OUT}
        return _skeleton(dump | {"state": state})
    if isinstance(value, dict):
        return {key: _skeleton(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_skeleton(item) for item in value]
    return None if isinstance(value, float) else value


@dataclass
class Tree:
    """All sessions that ``choices`` allows: every exchange in every state it can be played in.

    choices: from (what ``choices`` said with the act before, the sites that get an order) to
    the acts that may follow, each with what it wants to be told next time. Sessions share the
    exchanges that they have in common, and where two come to the same state
    (:meth:`Walk.state`) only one is played on, unless ``merge`` is off.
    """

    plan: secagg.Plan
    identities: dict[str, secagg.Identity]
    choices: Callable[[Any], list[tuple[Acts, Any]]]
    first: Any = None
    rounds: int = 3
    merge: bool = True
    exchanges: int = 0  # played
    sessions: int = 0  # patterns that were covered
    finished: int = 0  # exchanges that ended a round with a result
    aborted: int = 0

    def grow(self) -> Tree:
        """Play them all."""
        root = Walk(self.plan, self.identities)
        root.open(self.rounds)
        self._known: dict[Hashable, int] = {}
        self.sessions = self._grow(root, self.first)
        return self

    def _grow(self, walk: Walk, memory: Any) -> int:
        """Sessions from here on, each played or equal to one that was."""
        key: Hashable = (memory, walk.state()) if self.merge else None
        if self.merge and key in self._known:
            return self._known[key]
        count = 0
        choices = self.choices(memory)
        for at, (acts, after) in enumerate(choices):
            branch = walk if at == len(choices) - 1 else walk.fork()
            due = branch.exchange(acts)
            self.exchanges += 1
            kinds = [said[0] for said in due.closed]
            self.finished += "finished" in kinds
            self.aborted += "aborted" in kinds
            if branch.oracle.slot is None and not branch.open(self.rounds):
                assert branch.numbers == sorted(set(branch.numbers)), branch.log
                count += 1
            else:
                count += self._grow(branch, after)
        if self.merge:
            self._known[key] = count
        return count


__all__ = ["MASKED", "Tree", "Walk", "plain_sum", "vector"]
