"""What a session must do, written anew from the specification in plain Python.

It knows ``protocols/specs/session.md`` and nothing of the package: sets of sites, numbers of
rounds, who may say what when. It has no keys, no bytes and no vectors. Sites are numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

# What a site makes of one exchange.
HERE, DEAF, MUTE = "here", "deaf", "mute"  # deaf: no order reaches it. mute: its report is lost

# The slots, in the order of a round.
ADVERTISE, SHARE, INPUT, CONSENT, REVEAL, FINISH, CLOSE = range(1, 8)

# Kinds of inner frames (wire numbers of the specification).
ADVERT, ADVERTS, SHARES, SHARES_FOR, MASKED, SURVIVORS, SIGNED, CONSENTS, SHOWN, RESULT = range(
    1, 11
)
AGREE, AGREED = 66, 67

# How far a site is in one round.
ADVERTISED, DEALT, SENT, CONSENTED, REVEALED = range(1, 6)

Inner = tuple[int, int]  # (kind, round)
Said = tuple[str, int]  # (event, round)


@dataclass
class Site:
    """What one site holds."""

    held: dict[int, int] = field(default_factory=dict)  # round -> how far
    outcome: int | None = None  # round of the result that it was sent last
    agreed: bool = True
    #: Of its answer to the last order for an input: the round, and what lasts beyond it.
    kept: tuple[int, tuple[Inner, ...]] = (-1, ())


@dataclass
class Round:
    """What the server knows of one round."""

    number: int
    adverts: set[int] = field(default_factory=set)
    dealers: set[int] = field(default_factory=set)
    inputs: set[int] = field(default_factory=set)
    consents: set[int] = field(default_factory=set)
    reveals: set[int] = field(default_factory=set)
    u1: frozenset[int] = frozenset()
    u2: frozenset[int] = frozenset()
    u3: frozenset[int] = frozenset()


@dataclass
class Outcome:
    """A result, and who signed that they got it."""

    number: int
    survivors: frozenset[int]
    delivered: int
    agreed: set[int] = field(default_factory=set)


@dataclass
class Exchange:
    """Everything that can be seen of one exchange."""

    number: int
    round: int
    slot: int
    orders: dict[int, list[Inner]]  # by site that is sent one
    reports: dict[int, list[Inner]]  # by site that the order reaches
    said: dict[int, list[Said]]  # events at sites
    closed: list[tuple[object, ...]] = field(default_factory=list)  # events at the server


class Oracle:
    """A session of ``sites`` sites; ``least`` sites must be in a sum, ``threshold`` must answer.

    ``begin``, then ``play`` once per exchange while ``slot`` is not ``None``.
    """

    def __init__(self, sites: int, *, least: int, threshold: int, signed: bool) -> None:
        self.n, self.least, self.threshold, self.signed = sites, least, threshold, signed
        self.sites = [Site() for _ in range(sites)]
        self.exchange = 0
        self.slot: int | None = None
        self.round = -1
        self.highest = -1  # number of the highest round that was begun
        self.now: Round | None = None
        self.next: Round | None = None
        self.outcome: Outcome | None = None
        self.undelivered: tuple[int, frozenset[int]] = (-1, frozenset())  # a result, who lacks it
        self.sets: list[tuple[int, frozenset[int]]] = []  # finished rounds, with their survivors
        self._orders: dict[int, list[Inner]] = {}

    def copy(self) -> Oracle:
        """An independent twin."""
        twin = copy.copy(self)
        twin.sites = [replace(site, held=dict(site.held)) for site in self.sites]
        twin.now, twin.next = _twin(self.now), _twin(self.next)
        twin.outcome = _twin(self.outcome)
        twin.sets = list(self.sets)
        return twin

    def state(self) -> str:
        """All that the future depends on: what was summed so far is left out."""
        return repr(_plain({k: v for k, v in vars(self).items() if k != "sets"}))

    # The caller.

    def begin(self) -> bool:
        """Begin a round; whether it is cold."""
        cold = self.now is None
        if self.now is None:
            self.highest += 1
            self.now = Round(self.highest)
            self.round = self.highest
            self._open(ADVERTISE, {}, everyone=True)
        else:
            self._open_input()
        return cold

    def finish(self) -> None:
        """End the session."""
        self.now = self.next = None
        self.round = self.highest
        self._open(FINISH, {}, everyone=True)

    def play(self, acts: Mapping[int, str]) -> Exchange:
        """One exchange: orders out, reports back, and the server stops waiting."""
        assert self.slot is not None
        seen = Exchange(self.exchange, self.round, self.slot, dict(self._orders), {}, {})
        for site, order in self._orders.items():
            act = acts.get(site, HERE)
            if act == DEAF:
                continue
            seen.said[site], report = self._hear(site, order)
            if self.slot == CLOSE:
                continue
            seen.reports[site] = report
            if act == HERE:
                # Who answers an order has taken all that it carried.
                self.undelivered = (self.undelivered[0], self.undelivered[1] - {site})
                self._take(site, report)
        seen.closed = self._close()
        return seen

    # A site.

    def _hear(self, site: int, order: list[Inner]) -> tuple[list[Said], list[Inner]]:
        """Events and report of a site that gets this order."""
        mine, slot, number = self.sites[site], self.slot, self.round
        said: list[Said] = []
        report: list[Inner] = []
        if slot in {INPUT, CONSENT, REVEAL}:
            # An order for a later step closes the possibility to give a vector.
            for old, far in list(mine.held.items()):
                if (old, INPUT) < (number, slot) and far < SENT:
                    said.append(("late", old))
                    del mine.held[old]
        for kind, which in order:
            self._hear_part(site, kind, which, said, report)
        if mine.outcome is not None and not mine.agreed:
            mine.agreed = True
            report.append((AGREE, mine.outcome))
        for old, far in list(mine.held.items()):
            if old < number or slot == FINISH:
                if far >= SENT:
                    said.append(("aborted", old))
                del mine.held[old]
        fresh = {ADVERTISE: number, INPUT: number + 1, CONSENT: number + 1}.get(slot or 0)
        if fresh is not None and fresh not in mine.held:
            mine.held[fresh] = ADVERTISED
            report.append((ADVERT, fresh))
        if slot == CONSENT and mine.kept[0] == number and (SIGNED, number) not in report:
            # Its report to the order before did not count, but this may come in time.
            report += mine.kept[1]
        mine.kept = (-1, ())
        if slot == INPUT:
            mine.kept = number, tuple(part for part in report if part[0] in {ADVERT, AGREE})
        return sorted(said), sorted(report)

    def _hear_part(
        self, site: int, kind: int, which: int, said: list[Said], report: list[Inner]
    ) -> None:
        mine = self.sites[site]
        if kind == AGREED:
            if mine.outcome == which:
                said.append(("agreement", which))
                mine.outcome = None
            return
        far = mine.held.get(which)
        if far is None:
            return
        wanted = {
            ADVERTS: ADVERTISED,
            SHARES_FOR: DEALT,
            SURVIVORS: SENT,
            CONSENTS: CONSENTED,
            RESULT: REVEALED,
        }[kind]
        if far != wanted:
            said.append(("ignored", which))  # it missed the message before
            return
        if kind == ADVERTS:
            mine.held[which] = DEALT
            report.append((SHARES, which))
        elif kind == RESULT:
            del mine.held[which]
            said.append(("finished", which))
            if self.signed:
                mine.outcome, mine.agreed = which, False
        elif site not in (self._of(which).u2 if kind == SHARES_FOR else self._of(which).u3):
            del mine.held[which]
            said.append(("late", which))
        elif kind == SHARES_FOR:
            mine.held[which] = SENT
            report.append((MASKED, which))
        elif kind == SURVIVORS and self.signed:
            mine.held[which] = CONSENTED
            report.append((SIGNED, which))
        else:
            mine.held[which] = REVEALED
            report.append((SHOWN, which))

    # The server.

    def _of(self, number: int) -> Round:
        found = next(r for r in (self.now, self.next) if r is not None and r.number == number)
        assert found is not None
        return found

    def _take(self, site: int, report: list[Inner]) -> None:
        for kind, which in report:
            if kind == AGREE:
                if self.outcome is not None and which == self.outcome.number:
                    self.outcome.agreed.add(site)
                continue
            if all(r is None or r.number != which for r in (self.now, self.next)):
                continue  # a setup that was given up
            round_ = self._of(which)
            {
                ADVERT: round_.adverts,
                SHARES: round_.dealers,
                MASKED: round_.inputs,
                SIGNED: round_.consents,
                SHOWN: round_.reveals,
            }[kind].add(site)

    def _close(self) -> list[tuple[object, ...]]:
        slot, now = self.slot, self.now
        if slot == FINISH:
            self._open(CLOSE, {}, everyone=False)
            return []
        if slot == CLOSE:
            self.slot = None
            return []
        assert now is not None
        if slot == ADVERTISE:
            if len(now.adverts) < self.least:
                return self._abort()
            now.u1 = frozenset(now.adverts)
            self._open(SHARE, {site: [(ADVERTS, now.number)] for site in now.u1})
        elif slot == SHARE:
            if len(now.dealers) < self.least:
                return self._abort()
            now.u2 = frozenset(now.dealers)
            self._open_input()
        elif slot == INPUT:
            if len(now.inputs) < self.least:
                return self._abort()
            now.u3 = frozenset(now.inputs)
            told = {site: [(SURVIVORS, now.number)] for site in now.u2}
            if not self.signed:
                return self._open_reveal(told)
            self._open(CONSENT, told, everyone=True)
        elif slot == CONSENT:
            if len(now.consents) < self.threshold:
                return self._abort()
            return self._open_reveal({site: [(CONSENTS, now.number)] for site in now.u3})
        else:
            if len(now.reveals) < self.threshold:
                return self._abort()
            return self._end_round(now)
        return []

    def _abort(self) -> list[tuple[object, ...]]:
        self.now = self.next = self.slot = None
        return [("aborted", self.round)]

    def _open_input(self) -> None:
        assert self.now is not None
        self.round = self.now.number
        self.highest += 1
        self.next = Round(self.highest)
        # U1 hears who shared, U2: the others learn that they were late.
        dealt = {site: [(SHARES_FOR, self.now.number)] for site in self.now.u1}
        self._open(INPUT, dealt, everyone=True)

    def _open_reveal(self, told: dict[int, list[Inner]]) -> list[tuple[object, ...]]:
        """The adverts that are there now are U1 of the next round."""
        following = self.next
        assert following is not None
        if len(following.adverts) < self.least:
            self.next = None
            self._open(REVEAL, told)
            return [("cold", self.highest + 1)]
        following.u1 = frozenset(following.adverts)
        for site in following.u1:
            told.setdefault(site, []).append((ADVERTS, following.number))
        self._open(REVEAL, told)
        return []

    def _end_round(self, now: Round) -> list[tuple[object, ...]]:
        following, self.next, self.slot = self.next, None, None
        cold = False
        if following is not None and len(following.dealers) >= self.least:
            following.u2 = frozenset(following.dealers)
            self.now = following
        else:
            self.now = None
            # That its adverts were too few was said when they were.
            cold = following is not None
        self.sets.append((now.number, now.u3))
        self.undelivered = (now.number, now.u3)
        self.outcome = Outcome(now.number, now.u3, self.exchange + 1)
        gone, left = {}, {}
        for site in range(self.n):
            if site not in now.u1:
                gone[site] = "advertise"
            elif site not in now.u2:
                gone[site] = "share"
            elif site not in now.u3:
                gone[site] = "input"
            elif self.signed and site not in now.consents:
                left[site] = "consent"
            elif site not in now.reveals:
                left[site] = "reveal"
        said: list[tuple[object, ...]] = [("finished", now.number, now.u3, gone, left)]
        if cold:
            said.append(("cold", self.highest + 1))
        return said

    def _open(self, slot: int, parts: dict[int, list[Inner]], *, everyone: bool = False) -> None:
        """Orders of the next exchange, with the agreements and the last result for who lacks it."""
        self.exchange += 1
        self.slot = slot
        orders: dict[int, list[Inner]] = {}
        agreed = self._agreements()
        for site in range(self.n):
            found = [(AGREED, agreed[0])] if agreed is not None and site in agreed[1] else []
            if site in self.undelivered[1]:
                found.append((RESULT, self.undelivered[0]))
            found += parts.get(site, [])
            if found or everyone:
                orders[site] = found
        self._orders = orders

    def _agreements(self) -> tuple[int, frozenset[int]] | None:
        found = self.outcome
        if found is None or not self.signed or found.delivered >= self.exchange:
            return None
        if len(found.agreed) < self.threshold:
            return None
        self.outcome = None
        return found.number, found.survivors


RecordT = TypeVar("RecordT", Round | None, Outcome | None)


def _twin(record: RecordT) -> RecordT:
    """A record with sets of its own; nothing else in it is ever changed."""
    twin = copy.copy(record)
    for name, value in vars(twin).items() if twin is not None else ():
        if isinstance(value, set):
            setattr(twin, name, set(value))
    return twin


def _plain(value: object) -> object:
    """Nested content in one order."""
    if isinstance(value, Site | Round | Outcome):
        return _plain(vars(value))
    if isinstance(value, dict):
        return [(key, _plain(value[key])) for key in sorted(value)]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
