"""Parties with a ledger: what it refuses never reaches the wire, and a crash is charged once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dp.ledger_world import ledger, noisy_plan

import secagg
from secagg.attacks.arena.world import digest, make_plan, people
from secagg_protocols.masked_sum import messages

PLAN = noisy_plan()
VICTIM = "s0"
VECTOR = np.array([7, 1, 250, 0, 3])


class Death(BaseException):
    """The process ends here."""


class Mortal(secagg.MemoryJournal):
    """A journal at whose ``at``-th call the process dies, or the disk fails, before or after it
    was done. It is shared by all lives of its site, as a file is."""

    def __init__(self, at: int = 0, *, after: bool = False, error: Any = None) -> None:
        super().__init__()
        self.at, self.after, self.error = at, after, error or Death()
        self.armed = False

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        dies = False
        if self.armed:
            self.at -= 1
            dies = self.at == 0
        if dies and not self.after:
            raise self.error
        done = getattr(secagg.MemoryJournal, name)(self, *args, **kwargs)
        if dies:
            raise self.error
        return done

    def claim(self, *args: Any, **kwargs: Any) -> bytes:
        return bytes(self.call("claim", *args, **kwargs))

    def newest(self, *args: Any) -> int:
        return int(self.call("newest", *args))

    def read(self, *args: Any) -> bytes:
        return bytes(self.call("read", *args))

    def swap(self, *args: Any) -> None:
        self.call("swap", *args)


class Round:
    """One round in which s0 has a ledger, up to where the keys are shared.

    early: a vector that s0 submits at once, and that waits for the keys.
    """

    def __init__(
        self,
        journal: Any = None,
        *,
        plan: Any = PLAN,
        number: int = 0,
        session: str = "a test",
        identities: dict[str, secagg.Identity] | None = None,
        early: Any = None,
        **budget: Any,
    ) -> None:
        self.plan, self.number = plan, number
        self.journal = secagg.MemoryJournal() if journal is None else journal
        self.ledger = ledger(self.journal, **budget)
        self.identities = people(plan.clients)[1] | (identities or {})
        keys = self.identities if plan.signed else dict[str, secagg.Identity]()
        common: dict[str, Any] = {"session": session, "round": number, "model": b"%d" % number}
        self.hub = secagg.server(
            plan, identity=keys.get("server"), journal=secagg.MemoryJournal(), **common
        )
        self.sites: dict[str, Any] = {
            name: secagg.client(
                plan,
                name,
                identity=keys.get(name),
                floors=None,
                journal=self.journal if name == VICTIM else secagg.MemoryJournal(),
                ledger=self.ledger if name == VICTIM else None,
                _entropy=lambda size, name=name: digest("seed", name, number)[:size],  # type: ignore[misc]
                **common,
            )
            for name in plan.roster.names
        }
        self.wire: list[bytes] = []  # what s0 sent
        self.errors: list[secagg.SecAggError] = []  # that it met
        if early is not None:
            self.sites[VICTIM].submit(early)
        self.hub.start()
        for name, party in self.sites.items():
            self.up(name, party.start())
        for _ in range(2):
            for send in self.hub.close_step():
                try:
                    self.up(send.to, self.sites[send.to].receive(send.data))
                except secagg.SecAggError as error:
                    assert send.to == VICTIM
                    self.errors.append(error)

    def up(self, name: str, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, secagg.Send):
                if name == VICTIM:
                    self.wire.append(event.data)
                self.hub.receive(event.data, sender=name)

    def submit(self, vector: Any = VECTOR) -> None:
        self.up(VICTIM, self.sites[VICTIM].submit(vector))

    def finish(self) -> secagg.Aggregate:
        """The others submit, and the server closes every step."""
        for name, party in self.sites.items():
            if name != VICTIM:
                self.up(name, party.submit(VECTOR))
        while True:
            for event in self.hub.close_step():
                if isinstance(event, secagg.Done):
                    assert event.aggregate is not None
                    return event.aggregate
                if isinstance(event, secagg.Send):
                    self.up(event.to, self.sites[event.to].receive(event.data))

    @property
    def inputs(self) -> list[bytes]:
        """Masked inputs that s0 sent."""
        return [data for data in self.wire if data[3] == messages.INPUT.number]

    @property
    def charged(self) -> int:
        return sum(rounds for _, rounds in self.ledger.entries())

    def reload(self, dump: bytes, **more: Any) -> None:
        """Another life of s0."""
        found = secagg.load(
            dump,
            self.plan,
            self.identities[VICTIM] if self.plan.signed else None,
            self.journal,
            **({"ledger": self.ledger} | more),
        )
        assert isinstance(found, secagg.Client)
        self.sites[VICTIM] = found


def refused(call: Callable[[], Any], rule: str, error: type[Exception] = secagg.BudgetError) -> Any:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.rule == rule  # type: ignore[attr-defined]
    return caught.value


# Refusals.


def test_the_input_that_would_overspend_is_not_sent_and_the_others_go_on() -> None:
    journal = secagg.MemoryJournal()
    for number in range(2):
        play = Round(journal, number=number, epsilon=0.35)
        play.submit()
        assert play.finish().survivors == PLAN.roster.names
        assert (play.charged, len(play.inputs)) == (number + 1, 1)
    play = Round(journal, number=2, epsilon=0.35)
    party = play.sites[VICTIM]
    claimed = journal.newest(party._journal_key)
    refused(play.submit, "budget")
    assert play.inputs == []
    assert play.charged == 2
    assert journal.newest(party._journal_key) == claimed == int(secagg.Step.SHARE)
    assert not party.sent_input
    assert play.finish().survivors == PLAN.roster.names[1:]


def test_no_new_plan_session_epoch_or_key_has_a_new_budget() -> None:
    journal = secagg.MemoryJournal()
    roster, _ = people(7)
    key = secagg.Identity(VICTIM, digest("another key"))
    sites = ((VICTIM, key.public), *roster.sites[1:])
    rotated = secagg.Roster(sites=sites, server=roster.server, epoch=1)
    lives: list[dict[str, Any]] = [
        {},
        {"session": "another one"},
        {"plan": noisy_plan(threat="semi-honest")},
        {"plan": noisy_plan(roster=rotated), "identities": {VICTIM: key}},
        {"plan": noisy_plan(9)},
        {"number": 1},
    ]
    sent = []
    for life in lives:
        play = Round(journal, epsilon=0.45, **life)
        try:
            play.submit()
        except secagg.BudgetError:
            assert play.inputs == []
        sent.append(len(play.inputs))
    assert sent == [1, 1, 1, 1, 0, 0]


def test_a_vector_that_waits_is_refused_when_its_turn_comes() -> None:
    """The vector is there before the keys are shared; the refusal then ends the party."""
    journal = secagg.MemoryJournal()
    Round(journal, epsilon=0.25).submit()
    play = Round(journal, number=1, epsilon=0.25, early=VECTOR)
    assert [error.rule for error in play.errors] == ["budget"]
    assert play.inputs == []
    assert play.charged == 1
    refused(play.submit, "ended", secagg.MisuseError)
    play.reload(play.sites[VICTIM].dump())
    refused(play.submit, "ended", secagg.MisuseError)
    assert play.finish().survivors == PLAN.roster.names[1:]


def test_a_plan_without_noise_lets_nothing_out() -> None:
    play = Round(plan=make_plan(), epsilon=100.0)
    refused(play.submit, "no-noise")
    assert play.inputs == []
    assert play.finish().survivors == PLAN.roster.names[1:]


def test_what_another_rule_refuses_is_not_charged() -> None:
    journal, plan = secagg.MemoryJournal(), noisy_plan(max_inputs_per_model=1)
    first = Round(journal, plan=plan)
    first.submit()
    again = Round(journal, plan=plan, session="a retry")
    refused(again.submit, "inputs-per-model", secagg.MisuseError)
    assert again.inputs == []
    assert again.charged == 1


def test_a_retry_for_the_same_model_is_charged_anew() -> None:
    journal = secagg.MemoryJournal()
    for number, session in enumerate(("one", "two", "three"), 1):
        play = Round(journal, session=session)
        play.submit()
        assert play.charged == number


def test_a_vector_that_changes_while_it_is_sent_costs_one_charge() -> None:
    """Nothing was sent, and the round is charged already when the vector comes again."""
    vector = VECTOR.copy()

    class Changing(secagg.MemoryJournal):
        """Another thread writes to the vector once it is charged."""

        def swap(self, name: bytes, old: bytes, new: bytes) -> None:
            super().swap(name, old, new)
            if self.read(ledger(self)._register):
                vector[0] += 1

    play = Round(Changing(), early=vector)
    assert [error.rule for error in play.errors] == ["input-changed"]
    assert (play.inputs, play.charged) == ([], 1)
    play.submit()
    assert (len(play.inputs), play.charged) == (1, 1)
    assert play.finish().survivors == PLAN.roster.names


# Crashes.


def calls_of_a_submit() -> int:
    journal = Mortal(10**6)
    play = Round(journal)
    journal.armed = True
    play.submit()
    return 10**6 - journal.at


CALLS = calls_of_a_submit()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, CALLS + 1))
def test_a_death_at_any_call_of_the_journal_is_charged_once_and_sends_one_input(
    at: int, after: bool
) -> None:
    journal = Mortal(at, after=after)
    play = Round(journal, epsilon=0.35)
    dump = play.sites[VICTIM].dump()
    journal.armed = True
    with pytest.raises(Death):
        play.submit()
    journal.armed = False
    assert play.inputs == []
    before = play.charged
    assert before <= 1
    # The last call claims the input, so it was charged by then.
    assert before == 1 or at < CALLS
    play.reload(dump)
    play.submit()
    assert play.charged == 1
    # A third life sends the same bytes, and no others.
    play.reload(dump)
    play.submit()
    assert len(set(play.inputs)) == 1
    play.reload(dump)
    refused(lambda: play.submit(VECTOR + 1), "journal-once", secagg.MisuseError)
    assert play.charged == 1
    play.reload(dump)
    play.submit()
    assert play.finish().survivors == PLAN.roster.names


@pytest.mark.parametrize("at", range(1, CALLS + 1))
def test_a_disk_that_fails_at_any_call_sends_nothing_and_the_same_call_again_goes_on(
    at: int,
) -> None:
    journal = Mortal(at, error=OSError(28, "No space left on device"))
    play = Round(journal)
    journal.armed = True
    refused(play.submit, "journal-io", secagg.MisuseError)
    assert play.inputs == []
    play.submit()
    assert play.charged == 1
    assert len(play.inputs) == 1
    assert play.finish().survivors == PLAN.roster.names


def test_a_charge_that_a_crash_lost_stays_spent() -> None:
    """The site never comes back to the round, and its budget has paid for it."""
    journal = Mortal(CALLS)
    play = Round(journal, epsilon=0.25)
    journal.armed = True
    with pytest.raises(Death):
        play.submit()
    journal.armed = False
    following = Round(journal, number=1, epsilon=0.25)
    refused(following.submit, "budget")
    assert following.inputs == []


def test_the_charge_is_durable_before_the_input_is_claimed() -> None:
    order: list[str] = []

    class Told(secagg.MemoryJournal):
        def swap(self, name: bytes, old: bytes, new: bytes) -> None:
            super().swap(name, old, new)
            order.append("charge" if name == play.ledger._register else "swap")

        def claim(self, key: bytes, step: int, *args: Any, **kwargs: Any) -> bytes:
            order.append(f"claim {step}")
            return super().claim(key, step, *args, **kwargs)

    play = Round(Told())
    play.submit()
    assert order == ["claim 1", "claim 2", "swap", "charge", "claim 3"]


# Whose ledger it is.


OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "of another site": (lambda journal: ledger(journal, site="s1"), "ledger-owner"),
    "of other data": (lambda journal: ledger(journal, data="other"), "ledger-owner"),
    "in another journal": (lambda journal: ledger(), "ledger-owner"),
    "text": (lambda journal: "a ledger", "ledger"),
    "a number": (lambda journal: 3, "ledger"),
}


@pytest.mark.parametrize(("other", "rule"), OTHERS.values(), ids=list(OTHERS))
def test_a_party_takes_the_ledger_of_its_data_in_its_journal_and_no_other(
    other: Callable[[Any], Any], rule: str
) -> None:
    journal = secagg.MemoryJournal()
    play = Round(journal)
    dump = play.sites[VICTIM].dump()

    def make() -> None:
        secagg.client(
            PLAN,
            VICTIM,
            identity=play.identities[VICTIM],
            session="s",
            round=0,
            model=b"",
            floors=None,
            journal=journal,
            ledger=other(journal),
        )

    refused(make, rule, secagg.MisuseError)
    refused(lambda: play.reload(dump, ledger=other(journal)), rule, secagg.MisuseError)


def test_a_party_that_had_a_ledger_does_not_go_on_without() -> None:
    play = Round()
    dump = play.sites[VICTIM].dump()
    refused(lambda: play.reload(dump, ledger=None), "ledger", secagg.MisuseError)
    # A party that had none may be given one.
    other = play.sites["s1"]
    kept = ledger(other.journal, site="s1")
    found = secagg.load(other.dump(), PLAN, play.identities["s1"], other.journal, ledger=kept)
    assert isinstance(found, secagg.Client)
    found.submit(VECTOR)
    assert [rounds for _, rounds in kept.entries()] == [1]


def test_a_ledger_of_named_data_goes_with_the_party_of_that_data() -> None:
    journal = secagg.MemoryJournal()
    identity = people(7)[1][VICTIM]
    kept = ledger(journal, data="trial 7")
    common: dict[str, Any] = {"identity": identity, "session": "s", "round": 0, "model": b""}
    made = secagg.client(
        PLAN, VICTIM, floors=None, journal=journal, data="trial 7", ledger=kept, **common
    )
    again = secagg.load(made.dump(), PLAN, identity, journal, ledger=kept)
    assert isinstance(again, secagg.Client)
    assert (again.data, again.ledger) == ("trial 7", kept)
