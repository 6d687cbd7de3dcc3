"""Random and structure-aware mutated messages: nothing but the designed outcomes."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from robustness.malform import BROKEN, Mutator, Station, stations
from robustness.rounds import GATES, SERVER, Round, clone, setup, vector_of

import secagg
from secagg_protocols.masked_sum import messages

FAST, SLOW = 2_000, 100_000
#: What may come out of a round that goes on after a mutated message was believed.
ABORTS = {
    "enough",
    "holders",
    "decoded",
    "commitment",
    "mask-key",
    "sum-range",
    *set().union(*BROKEN.values()),
}


class Fuzz:
    """Feeds mutations to one station and classifies what comes back."""

    def __init__(self, station: Station, seed: int) -> None:
        self.station = station
        self.mutator = Mutator(station, random.Random(seed))
        self.outcomes: Counter[str] = Counter()
        self.kind = station.message.kind
        self.plan = station.round.plan
        self.before = station.party.dump()
        self.party = station.fresh()
        self.believed = 0
        self.done = 0

    def run(self, count: int) -> None:
        for _ in range(count):
            self.one(self.mutator.next())

    def one(self, data: bytes) -> None:
        party, sender = self.party, self.station.message.sender
        self.done += 1
        try:
            events = party.receive(data, sender=sender)
        except secagg.PeerError as error:
            # Only a client may raise, and only for what the server sealed.
            assert self.station.message.recipient != SERVER, data.hex()
            assert error.rule in self.breakable(data), (error, data.hex())
            assert error.sender is not None, (error, data.hex())
            self.outcomes[error.rule] += 1
            self.after_the_end(data, error)
            self.party = self.station.fresh()
            return
        if len(events) == 1 and isinstance(events[0], secagg.Ignored):
            error = events[0].error
            assert isinstance(error, secagg.PeerError), data.hex()
            assert error.rule in GATES | {"step-order"}, (error, data.hex())
            self.outcomes[error.rule] += 1
            if self.done % 64 == 0:
                assert party.dump() == self.before, data.hex()
            return
        for event in events:
            self.outcomes[self.name(event, data)] += 1
        if not events:
            self.outcomes["believed"] += 1
        self.believed += 1
        if self.believed % 100 == 1:
            self.go_on(party)
        self.party = self.station.fresh()

    def name(self, event: Any, data: bytes) -> str:
        if isinstance(event, secagg.Dropped):
            server = self.station.message.recipient == SERVER
            expected = self.station.message.sender if server else self.station.message.recipient
            assert event.site == expected, data.hex()
            assert isinstance(event.error, secagg.PeerError), data.hex()
            rule = event.error.rule
            assert rule in (self.breakable(data) if server else {"late"}), (event, data.hex())
            return rule
        assert isinstance(event, (secagg.Progress, secagg.Send, secagg.Done)), (event, data.hex())
        return "believed"

    def breakable(self, data: bytes) -> set[str]:
        """Sealed as another kind, a message may contradict the one already taken of that kind."""
        return BROKEN[self.kind] | ({"equivocation"} if data[3] != self.kind else set())

    def after_the_end(self, data: bytes, error: secagg.PeerError) -> None:
        """A client that was ended stays so; looked at in a sample."""
        if self.outcomes[error.rule] % 50 != 1:
            return
        for again in (data, self.station.message.data):
            (event,) = self.party.receive(again, sender=SERVER)
            assert isinstance(event, secagg.Ignored)
            assert event.error is error
        with pytest.raises(secagg.MisuseError, match="ended"):
            self.party.submit(vector_of(self.plan, self.party.name))
        assert self.party._secrets is None
        assert not self.party._shares

    def go_on(self, party: Any) -> None:
        """What was believed must not break what follows: the rest of the step and its end, or
        the client's next message."""
        party = clone(party)
        try:
            if self.station.message.recipient == SERVER:
                for message in self.station.others:
                    for event in party.receive(message.data, sender=message.sender):
                        assert not isinstance(event, secagg.Send)
                party.close_step()
            elif self.station.following is not None:
                party.receive(self.station.following.data, sender=SERVER)
        except (secagg.PeerError, secagg.ThresholdError) as error:
            assert error.rule in ABORTS, error
            self.outcomes[f"then {error.rule}"] += 1
        else:
            self.outcomes["then went on"] += 1


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


#: Plans with a site silent from some kind on, so that lists are also proper parts.
SCENES = [
    ("semi-honest", 99),
    ("malicious-server", 99),
    ("sparse", 99),
    ("semi-honest", 1),
    ("malicious-server", 3),
    ("sparse", 5),
]


def fuzz(kind: int, count: int, seed: int) -> Counter[str]:
    """``count`` inputs for one kind, shared by the plans that send it."""
    scenes = [s for s in SCENES if kind not in {7, 8} or s[0] == "malicious-server"]
    total: Counter[str] = Counter()
    start = 0
    for turn, (plan_kind, gone_before) in enumerate(scenes):
        plan, identities = setup(plan_kind)
        silent = {plan.roster.names[-1]: gone_before}
        station = stations(Round(plan, identities, silent=silent))[kind]
        run = Fuzz(station, seed * 1000 + turn)
        run.run(count // (10 * len(scenes)))
        # Memory is measured once caches and pools are warm.
        start = start or resident()
        run.run(-(-count // len(scenes)) - run.done)
        total += run.outcomes
    grown = resident() - start
    assert grown < 50 << 20, f"{grown} bytes more after {count} inputs"
    return total


Record = Callable[[str, object], None]


def judge(outcomes: Counter[str], count: int, record: Record) -> None:
    inputs = sum(n for name, n in outcomes.items() if not name.startswith("then "))
    assert inputs >= count
    past = inputs - sum(outcomes[rule] for rule in GATES)
    record("histogram", f"{past / inputs:.0%} of {inputs} past the trailer: {dict(outcomes)}")
    assert past >= inputs / 2
    assert outcomes["believed"] > 0
    assert outcomes["then went on"] > 0


def names(kind: int) -> str:
    return messages.KINDS[kind].header.__name__


@pytest.mark.parametrize("kind", range(1, 11), ids=names)
def test_mutated_messages_have_designed_outcomes(kind: int) -> None:
    outcomes = fuzz(kind, FAST, seed=kind)
    judge(outcomes, FAST, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(1, 11), ids=names)
def test_a_hundred_thousand_mutated_messages(kind: int, record_property: Record) -> None:
    outcomes = fuzz(kind, SLOW, seed=100 + kind)
    judge(outcomes, SLOW, record_property)
    # Each rule of the kind was reached and broken, so the mutations are not all shallow.
    assert set(outcomes) >= BROKEN[kind], BROKEN[kind] - set(outcomes)
    assert set(outcomes) >= GATES
    # The stages behind the trailer saw tens of thousands of messages of their own sender.
    assert sum(outcomes[rule] for rule in BROKEN[kind]) > SLOW / 10


def test_the_fuzzer_notices_an_outcome_that_was_not_designed() -> None:
    """A control: a parser that lets another error out is found within a few hundred inputs."""
    plan, identities = setup("semi-honest")
    station = stations(Round(plan, identities))[3]

    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    run = Fuzz(station, seed=1)
    run.party._on_shares = broken
    with pytest.raises(KeyError):
        run.run(500)


def test_the_fuzzer_notices_a_change_of_state() -> None:
    """A control: an ignored message that leaves a trace is found by the sampled dumps."""
    plan, identities = setup("semi-honest")
    station = stations(Round(plan, identities))[1]
    run = Fuzz(station, seed=1)
    true = run.party._authenticate

    def counting(data: bytes, sender: str | None) -> Any:
        run.party._received += 1
        return true(data, sender)

    run.party._authenticate = counting
    with pytest.raises(AssertionError):
        for _ in range(64):
            run.one(b"SA not a message")
