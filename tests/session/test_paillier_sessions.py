"""Sessions over Paillier sums: exact sums whatever is lost, whoever dies and comes back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.session import (
    Aborted,
    Agreement,
    Finished,
    HolderSession,
    Opened,
    Recorder,
    ServerSession,
    SiteSession,
    Slot,
    costs,
    messages,
)
from secagg.session.audit import audit
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.paillier_sum.messages import ENCRYPTED, OPEN, OPENED
from secagg_protocols.wire import SERVER as SERVER_INDEX
from support.paillier_keys import short_keys
from support.paillier_sessions import SERVER, Played, session_plan
from support.sessions import session_plan as masked_plan

__all__ = ["short_keys"]
pytestmark = pytest.mark.usefixtures("short_keys")


def control(data: bytes) -> int:
    """The kind of the control frame of a bundle."""
    return data[3]


def kinds(plan: secagg.Plan, data: bytes) -> list[int]:
    """Kinds of the frames in a bundle, the control frame first."""
    trailer = 64 if plan.signed else 32
    return [data[3], *(p[3] for _, p in messages.read_bundle(data, trailer_size=trailer))]


def rules(played: Played, name: str, kind: type[Any] = Dropped) -> list[str]:
    return [event.error.rule for event in played.of(name, kind)]


PLANS: dict[str, dict[str, Any]] = {
    "malicious-server": {},
    "semi-honest": {"threat": "semi-honest", "knowledge_proofs": False},
    "one key": {"holders": 1, "threshold": 1},
    "sums stay at the server": {"sites_receive": False},
}


@pytest.mark.parametrize("reload", [False, True], ids=["kept", "reloaded"])
@pytest.mark.parametrize("which", PLANS)
def test_every_round_is_two_exchanges_and_exact(which: str, reload: bool) -> None:
    """Reloaded: every party goes through its dump after every call."""
    plan = session_plan(**PLANS[which])
    played = Played(plan, reload=reload)
    names = plan.roster.names
    for number in range(2):
        before = played.hub.exchange
        aggregate = played.round()
        assert aggregate is not None and aggregate.survivors == names
        assert played.hub.exchange - before == 2
        assert all(
            [event.sites for event in played.of(holder, Opened)][number:] == [names]
            for holder in played.holders
        )
    played.finish()
    digests = [event.digest for event in played.of(SERVER, Finished)]
    for name in names:
        assert [event.digest for event in played.of(name, Finished)] == digests
        found = [event.aggregate for event in played.of(name, Finished)]
        for number, aggregate in enumerate(found):
            assert (aggregate is not None) == plan.sites_receive
            if aggregate is not None:
                assert aggregate.sum.tolist() == played.expected(names, number)
        agreed = [(event.round, event.digest) for event in played.of(name, Agreement)]
        assert agreed == (list(enumerate(digests)) if plan.signed else [])
    assert not any(rules(played, name) for name in played.names)


def test_the_class_is_that_of_the_plan() -> None:
    played = Played(session_plan())
    assert isinstance(played.hub, ServerSession) and type(played.hub) is not ServerSession
    dump = played.hub.dump()
    loaded = ServerSession.load(dump, played.plan, **played.common(SERVER))
    assert type(loaded) is type(played.hub)
    plan, _keys = masked_plan()
    given: dict[str, Any] = {"identity": None, "session": "s", "journal": secagg.MemoryJournal()}
    assert type(ServerSession(plan, **given)) is ServerSession
    with pytest.raises(MisuseError, match=r"\[protocol\]"):
        HolderSession(plan, "h0", share=played.shares["h0"], floors=None, **given)


# What travels.


def test_a_holder_gets_one_input_at_a_time_and_no_bundle_has_many_parts() -> None:
    played = Played(session_plan())
    seen: list[tuple[str, str, list[int]]] = []

    def look(sender: str, to: str, data: bytes) -> bool:
        seen.append((sender, to, kinds(played.plan, data)))
        return False

    assert played.round(look) is not None and played.round(look) is not None
    to_holder = [found for sender, to, found in seen if to == "h1"]
    relays = [[messages.RELAY.number, ENCRYPTED.number]] * 4
    assert to_holder == [*relays, [messages.ORDER.number, OPEN.number]] * 2
    assert all(len(found) - 1 <= messages.MOST_PARTS for _, _, found in seen)
    answers = [found for sender, _, found in seen if sender == "h1"]
    assert answers == [[messages.ANSWER.number, OPENED.number]] * 2
    # Sites hear of a round once: the order to send, with what became of the round before.
    assert sum(to == "s0" for _, to, _ in seen) == 2


# Parties that are missing.


def test_any_threshold_of_holders_finishes_a_round() -> None:
    played = Played(session_plan())
    assert played.round(lambda sender, to, data: "h0" in {sender, to}) is not None
    assert played.round(lambda sender, to, data: "h2" in {sender, to}) is not None
    # Of the round that it has missed it knows nothing, of the next one everything.
    assert [event.round for event in played.of("h0", Opened)] == [1]
    assert [event.round for event in played.of("h2", Opened)] == [0]


def test_a_round_without_enough_holders_is_aborted_and_the_next_begins_fresh() -> None:
    played = Played(session_plan())
    assert played.round() is not None
    assert played.round(lambda sender, to, data: to in {"h0", "h1"}) is None
    assert rules(played, SERVER, Aborted) == ["enough"]
    assert played.hub.slot is None and played.hub.warm
    again = played.round(model=b"model 1")
    assert again is not None and again.survivors == played.plan.roster.names
    assert [event.round for event in played.of(SERVER, Finished)] == [0, 2]
    # The sites hear of it with the next order, and of the result before it in between.
    for name in played.plan.roster.names:
        assert [(e.round, e.error.rule) for e in played.of(name, Aborted)] == [(1, "no-result")]
        assert [e.round for e in played.of(name, Finished)] == [0]
    assert [e.round for e in played.of("h2", Opened)] == [0, 1, 2]


def test_a_late_answer_of_a_holder_is_ignored() -> None:
    played = Played(session_plan())
    late: list[bytes] = []

    def keep(sender: str, to: str, data: bytes) -> bool:
        if sender == "h2":
            late.append(data)
        return sender == "h2"

    assert played.round(keep) is not None
    (answer,) = late
    (event,) = played.hub.receive(answer, sender="h2")
    assert isinstance(event, Ignored) and event.error.rule == "round-over"
    played.begin()
    (event,) = played.hub.receive(answer, sender="h2")
    assert isinstance(event, Ignored) and event.error.rule == "round-over"


def test_sites_that_are_missing_come_back_and_get_the_last_result_later() -> None:
    played = Played(session_plan())
    assert played.round() is not None
    played.begin()
    played.pump(lambda sender, to, data: to == "s3")
    assert played.hub.silent == ("s3",)
    played.call(SERVER, lambda: played.hub.abort("no more time"))
    assert not played.of("s3", Finished) and played.of("s0", Finished)
    aggregate = played.round(lambda sender, to, data: sender == "s1")
    assert aggregate is not None and aggregate.survivors == ("s0", "s2", "s3")
    assert [event.round for event in played.of("s3", Finished)] == [0]
    assert played.round() is not None
    # Its input came to nobody, so it is told that the round went on without it.
    assert [(e.round, e.error.rule) for e in played.of("s1", Aborted)] == [
        (1, "no-result"),
        (2, "no-result"),
    ]


def test_a_site_that_answers_too_late_or_not_at_all_is_out_of_that_round_only() -> None:
    played = Played(session_plan())
    played.begin()
    orders = {to: data for _, to, data in played.mail}
    played.pump(lambda sender, to, data: to == "s2")
    played.parties["s2"].receive(orders["s2"], sender=SERVER)  # it waits for its vector
    played.close()
    played.pump()
    assert isinstance(played.close()[0], Finished)
    aggregate = played.round()
    assert aggregate is not None and aggregate.survivors == played.plan.roster.names
    assert rules(played, "s2") == ["late"]


def test_too_few_sites_abort_and_a_site_may_skip() -> None:
    played = Played(session_plan())
    assert played.round(lambda sender, to, data: sender in {"s0", "s1"}) is None
    assert rules(played, SERVER, Aborted) == ["enough"]
    played.begin()
    order = next(data for _, to, data in played.mail if to == "s0")
    site = played.parties["s0"]
    assert site.receive(order, sender=SERVER) and site.waits
    played.call("s0", site.skip)
    played.pump(lambda sender, to, data: to == "s0")
    played.close()
    played.pump()
    (finished,) = [e for e in played.close() if isinstance(e, Finished)]
    assert finished.aggregate is not None and finished.aggregate.survivors == ("s1", "s2", "s3")


# Inputs that were lost between server and holders.


@pytest.mark.parametrize("reload", [False, True], ids=["kept", "reloaded"])
def test_inputs_that_holders_lack_are_asked_for_again(reload: bool) -> None:
    """As after the death of a server that has saved an input and not yet passed it on."""
    played = Played(session_plan(), reload=reload)
    played.begin()
    lost = {("h0", 1), ("h1", 1), ("h1", 2)}
    count: dict[str, int] = {}

    def lose(sender: str, to: str, data: bytes) -> bool:
        if control(data) != messages.RELAY.number:
            return False
        count[to] = count.get(to, -1) + 1
        return to == "h2" or (to, count[to]) in lost

    played.pump(lose)
    played.close()
    asked: list[str] = []

    def look(sender: str, to: str, data: bytes) -> bool:
        if to.startswith("s") and sender == SERVER:
            asked.append(to)
        return False

    played.pump(look)
    assert sorted(asked) == ["s0", "s1", "s2", "s3"]  # each once, whoever lacks it
    assert played.hub.silent == ()
    (finished,) = [e for e in played.close() if isinstance(e, Finished)]
    assert finished.aggregate is not None
    assert finished.aggregate.sum.tolist() == played.expected(played.plan.roster.names, 0)
    assert all(played.of(holder, Opened) for holder in played.holders)
    assert played.round() is not None


def test_what_is_asked_for_again_and_lost_again_comes_with_resume() -> None:
    played = Played(session_plan())
    played.begin()
    inputs = 0

    def lose(sender: str, to: str, data: bytes) -> bool:
        nonlocal inputs
        inputs += control(data) == messages.RELAY.number
        return control(data) == messages.RELAY.number and inputs <= 3

    played.pump(lose)
    played.close()
    played.pump(lambda sender, to, data: to == "s0")  # the holders say what they lack
    assert played.hub.silent == ("s0", "h0", "h1", "h2")
    played.call(SERVER, played.hub.resume)
    assert sorted(to for _, to, _ in played.mail) == ["h0", "h1", "h2", "s0"]
    played.pump()
    assert played.hub.silent == ()
    assert isinstance(played.close()[0], Finished)


def test_a_site_that_has_gone_costs_the_holders_that_lack_its_input() -> None:
    played = Played(session_plan())
    played.begin()
    site = played.plan.roster.index("s1")

    def lose(sender: str, to: str, data: bytes) -> bool:
        relay = control(data) == messages.RELAY.number
        inner = kinds_from(played.plan, data) if relay else None
        return to == "h0" and relay and inner == site

    played.pump(lose)
    played.close()
    played.pump(lambda sender, to, data: to == "s1")
    assert played.hub.silent == ("s1", "h0")
    assert isinstance(played.close()[0], Finished)  # the others are enough
    # Nothing of it is left in the next round.
    played.begin()
    assert played.hub.silent == played.plan.roster.names
    assert len(played.hub.resume()) == 4
    played.pump()
    assert played.of("h0", Aborted)[0].round == 0
    assert played.hub.silent == ()


def test_an_abort_forgets_what_holders_lack() -> None:
    played = Played(session_plan())
    played.begin()
    played.pump(lambda sender, to, data: to in {"h0", "h1"})
    played.close()
    played.pump(lambda sender, to, data: to in played.plan.roster.names)
    assert len(played.hub.silent) == 4 + 2
    played.call(SERVER, lambda: played.hub.abort("enough of it"))
    played.begin()
    assert played.hub.silent == played.plan.roster.names
    played.pump()
    assert played.hub.silent == ()
    # Who had inputs that were never opened says so.
    assert rules(played, "h2", Aborted) == [] and rules(played, "h0", Aborted) == []
    played.call(SERVER, lambda: played.hub.abort("once more"))
    assert played.round() is not None
    for holder in played.holders:
        assert [(e.round, e.error.rule) for e in played.of(holder, Aborted)] == [(1, "no-result")]


def test_a_holder_is_asked_by_orders_of_its_own() -> None:
    """Also where a site still lacks a result: it waits for the order of the next round."""
    played = Played(session_plan())
    assert played.round() is not None
    played.begin()
    played.pump(lambda sender, to, data: sender == "s3")
    played.close()
    assert sorted(to for _, to, _ in played.mail) == played.holders
    played.pump()
    assert isinstance(played.close()[0], Finished)


def test_what_comes_again_is_compared_before_it_is_passed_on() -> None:
    played = Played(session_plan())
    played.begin()
    played.pump(lambda sender, to, data: to == "h0")
    played.close()
    reports: list[bytes] = []

    def keep(sender: str, to: str, data: bytes) -> bool:
        if sender == "s2":
            reports.append(data)
        return sender.startswith("s") and sender != SERVER

    played.pump(keep)
    (report,) = reports
    bad = bytearray(report)
    bad[-80] ^= 1  # in the proof, before the trailer
    events = played.hub.receive(bytes(bad), sender="s2")
    assert [e.error.rule for e in events] == ["trailer"] and "s2" in played.hub.silent
    events = played.hub.receive(report, sender="s2")
    assert [event.to for event in events] == ["h0"] and "s2" not in played.hub.silent


def test_orders_of_a_round_that_was_left_behind_are_not_answered() -> None:
    played = Played(session_plan())
    held: list[bytes] = []

    def hold(sender: str, to: str, data: bytes) -> bool:
        if to == "h0" and control(data) == messages.ORDER.number:
            held.append(data)
        return to == "h0" and control(data) == messages.ORDER.number

    assert played.round(hold) is not None
    played.begin()
    played.pump()
    holder = played.parties["h0"]
    (event,) = holder.receive(held[0], sender=SERVER)  # of round 0, for the first time
    assert isinstance(event, Ignored) and event.error.rule == "order-late"
    assert holder.round == 1
    played.close()
    order = next(data for _, to, data in played.mail if to == "h0")
    played.pump()
    assert isinstance(played.close()[0], Finished)
    played.begin()
    played.pump()
    (event,) = holder.receive(order, sender=SERVER)  # of round 1, once more
    assert isinstance(event, Ignored) and event.error.rule == "round-over"
    played.close()
    played.pump()
    assert played.of("h0", Opened)[-1].round == 2


def kinds_from(plan: secagg.Plan, data: bytes) -> int:
    """The sender of the one frame in a relay."""
    ((_, part),) = messages.read_bundle(data, trailer_size=64 if plan.signed else 32)
    return int.from_bytes(part[4:8], "little")


def test_the_order_to_open_may_overtake_the_inputs() -> None:
    played = Played(session_plan())
    played.begin()
    relays: list[tuple[str, str, bytes]] = []

    def hold(sender: str, to: str, data: bytes) -> bool:
        if control(data) == messages.RELAY.number and to != "h2":
            relays.append((sender, to, data))
            return True
        return False

    played.pump(hold)
    played.close()
    mail, played.mail = played.mail, []
    for sender, to, data in mail:
        played.deliver(sender, to, data)
    played.mail = [letter for letter in played.mail if letter[0] == "h2"]  # nobody is asked again
    played.mail += relays
    played.pump()
    assert all(played.of(holder, Opened) for holder in played.holders)
    assert isinstance(played.close()[0], Finished)


def test_a_report_and_a_message_that_come_twice_change_nothing() -> None:
    played = Played(session_plan())
    seen: list[tuple[str, str, bytes]] = []

    def twice(sender: str, to: str, data: bytes) -> bool:
        if (sender, to, data) not in seen:
            seen.append((sender, to, data))
            played.deliver(sender, to, data)
        return False

    assert played.round(twice) is not None and played.round(twice) is not None
    for name in (*played.plan.roster.names, *played.holders):
        assert played.parties[name].ended is None
    assert not rules(played, SERVER)


# Lives before and after.


class Mortal(Played):
    """Parties that die by chance: before their call is saved, or before its mail has left."""

    def __init__(self, plan: secagg.Plan, seed: int) -> None:
        self.chance = random.Random(seed)
        self.deaths = 0
        super().__init__(plan)

    def call(self, name: str, act: Any) -> list[Any]:
        events = act()
        fate = self.chance.random()
        if fate < 0.1:
            self.deaths += 1
            self.load(name, self.saved[name])
            return []
        self.saved[name] = self.parties[name].dump()
        if fate < 0.2:
            self.deaths += 1
            self.load(name, self.saved[name])
            self.said += [(name, e) for e in events if isinstance(e, Finished)]
            return []
        if fate < 0.4:
            self.load(name, self.saved[name])
        self.note(name, events)
        return events

    def deliver(self, sender: str, to: str, data: bytes) -> None:
        super().deliver(sender, to, data)
        party = self.parties[to]
        if to in self.plan.roster.names and party.waits:
            # It died while it made its vector; whoever runs it asks what it was doing.
            x, model = self.vector(to, party.round), self.models[party.round]
            self.call(to, lambda: party.submit(x, model=model))

    def mess(self, sender: str, to: str, data: bytes) -> bool:
        self.chance.shuffle(self.mail)
        if self.chance.random() < 0.05:
            self.mail.append((sender, to, data))
        return self.chance.random() < 0.05

    def play(self, model: bytes) -> None:
        """One round: begun until it is, and closed when nobody is silent, or nobody answers."""
        begun = self.hub.round
        while self.hub.slot is None and self.hub.round == begun:
            self.models[self.hub._begun + 1] = model
            self.call(SERVER, lambda: self.hub.begin_round(model))
        while self.hub.slot is not None:
            for _ in range(4):
                self.pump(self.mess)
                if not self.hub.silent:
                    break
                self.call(SERVER, self.hub.resume)
            self.call(SERVER, self.hub.close_exchange)


def chaos(seed: int, rounds: int) -> Mortal:
    played = Mortal(session_plan(), seed)
    for number in range(rounds):
        played.play(b"model %d" % number)
    # Nobody has lost anything for good.
    played.chance = random.Random()
    played.chance.random = lambda: 1.0  # type: ignore[method-assign]
    played.mail = []
    begun = len(played.of(SERVER, Finished))
    played.play(b"the end")
    last = played.of(SERVER, Finished)[-1]
    assert len(played.of(SERVER, Finished)) == begun + 1
    assert last.aggregate.survivors == played.plan.roster.names
    assert all(played.of(holder, Opened)[-1].round == last.round for holder in played.holders)
    results: dict[int, bytes] = {}
    for name, event in played.said:
        if isinstance(event, Finished):
            assert results.setdefault(event.round, event.digest) == event.digest
            if name == SERVER or event.aggregate is not None:
                found = event.aggregate
                assert found.sum.tolist() == played.expected(found.survivors, event.round)
    for name in (*played.plan.roster.names, *played.holders):
        assert played.parties[name].ended is None
        assert set(rules(played, name)) <= {"late"}
    assert rules(played, SERVER) == []
    return played


def test_any_order_of_losses_and_deaths_keeps_every_sum_exact() -> None:
    played = chaos(1, 4)
    assert played.deaths > 5 and len(played.of(SERVER, Finished)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 14))
def test_any_order_of_losses_and_deaths_long(seed: int) -> None:
    assert chaos(seed, 8).deaths > 10


def test_a_server_from_an_older_dump_says_nothing_twice() -> None:
    played = Played(session_plan())
    assert played.round() is not None
    before = played.hub.dump()
    played.begin(b"one")
    played.pump()
    played.load(SERVER, before)
    (event,) = played.call(SERVER, lambda: played.hub.begin_round(b"another"))
    assert isinstance(event, Aborted) and event.error.rule == "journal-once"
    aggregate = played.round(model=b"another")
    assert aggregate is not None and played.hub.round == 3  # a number that nobody has heard of
    assert all(played.parties[name].ended is None for name in played.plan.roster.names)


def test_a_server_that_collects_others_than_its_life_before_cannot_close_again() -> None:
    played = Played(session_plan())
    played.begin()
    began = played.hub.dump()
    played.pump()
    played.close()
    closed, played.mail = list(played.mail), []
    played.load(SERVER, began)
    played.call(SERVER, played.hub.resume)
    played.pump(lambda sender, to, data: sender == "s3")
    (event,) = played.close()
    assert isinstance(event, Aborted) and event.error.rule == "journal-once"
    for _, holder, data in closed:  # the orders of the life before still arrive
        played.deliver(SERVER, holder, data)
    played.mail = []
    # Its life before has said something else in the exchange after, too: it skips that number.
    assert played.round(model=b"once more") is None
    assert played.round(model=b"once more") is not None


def test_a_server_that_lost_an_input_it_had_passed_on_costs_a_round_and_no_session() -> None:
    """A program that transmits before it saves: holders have an input that is not in the sum."""
    played = Played(session_plan())
    played.begin()
    dump = played.hub.dump()
    played.pump()
    played.load(SERVER, dump)
    played.call(SERVER, played.hub.resume)
    played.pump(lambda sender, to, data: sender == "s3" or to.startswith("h"))
    played.close()
    played.pump()
    assert [rules(played, holder) for holder in played.holders] == [["given"]] * 3
    (event,) = played.close()
    assert isinstance(event, Aborted) and event.error.rule == "enough"
    assert played.round() is not None


def test_a_holder_from_an_older_dump_is_given_what_it_lacks() -> None:
    played = Played(session_plan())
    assert played.round() is not None
    dump = played.parties["h0"].dump()
    played.begin()
    played.pump()
    played.load("h0", dump)
    played.close()
    played.pump()
    assert isinstance(played.close()[0], Finished)
    assert [event.round for event in played.of("h0", Opened)] == [0, 1]
    # Far behind, its rounds are over in its journal, and it goes on with the next.
    assert played.round() is not None
    played.load("h0", dump)
    assert played.round() is not None
    assert played.of("h0", Opened)[-1].round == 3


def test_a_holder_that_died_after_its_answer_gives_the_same_again() -> None:
    played = Played(session_plan())
    played.begin()
    played.pump()
    played.close()
    order = next(data for _, to, data in played.mail if to == "h1")
    dump = played.parties["h1"].dump()
    (opened, first) = played.parties["h1"].receive(order, sender=SERVER)
    assert played.parties["h1"].receive(order, sender=SERVER) == [first]
    played.load("h1", dump)
    assert played.parties["h1"].receive(order, sender=SERVER) == [opened, first]
    assert isinstance(first, Send) and control(first.data) == messages.ANSWER.number


class Failing(secagg.MemoryJournal):
    """A disk that fails under the next claims."""

    failures = 0

    def claim(self, *args: Any, **options: Any) -> bytes:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "no space left")
        return super().claim(*args, **options)


def test_a_call_that_failed_with_the_disk_is_made_again() -> None:
    played = Played(session_plan())
    for name in (SERVER, "h0"):
        played.journals[name] = Failing()
        played.parties[name] = played.fresh(name)
    hub, journal = played.hub, played.journals[SERVER]

    def again(act: Any) -> list[Any]:
        """Each call fails until its disk has room, and then does what it should have done."""
        for failures in (1, 1):
            journal.failures = failures
            with pytest.raises(MisuseError, match="journal-io"):
                act()
        found: list[Any] = act()
        played.note(SERVER, found)
        return found

    for number in range(2):
        played.models[number] = b"model %d" % number
        again(lambda number=number: hub.begin_round(played.models[number]))
        played.pump()
        again(hub.close_exchange)
        order = next(data for _, to, data in played.mail if to == "h0")
        played.journals["h0"].failures = 1
        with pytest.raises(MisuseError, match="journal-io"):
            played.parties["h0"].receive(order, sender=SERVER)
        played.pump()
        assert isinstance(again(hub.close_exchange)[0], Finished)
        assert played.of("h0", Opened)[-1].round == number
    assert not rules(played, SERVER, Aborted) and not rules(played, "h0")


# What is counted, and who is refused.


def test_a_plan_without_a_limit_has_no_sessions() -> None:
    plan = session_plan(max_inputs_per_model=None)
    played = Played.__new__(Played)
    with pytest.raises(MisuseError, match="release-policy"):
        played.__init__(plan)  # type: ignore[misc]
    shares = Played(session_plan()).shares
    common: dict[str, Any] = {"session": "s", "journal": secagg.MemoryJournal(), "floors": None}
    identities = Played(session_plan()).keys
    for kind, name, more in (
        (SiteSession, "s0", {}),
        (HolderSession, "h0", {"share": shares["h0"]}),
    ):
        with pytest.raises(MisuseError, match="release-policy"):
            kind(plan, name, identity=identities[name], **common, **more)


def test_inputs_are_counted_by_model() -> None:
    played = Played(session_plan())
    assert played.round(model=b"table") is not None and played.round(model=b"table") is not None
    with pytest.raises(MisuseError, match="inputs-per-model"):
        played.round(model=b"table")


def test_floors_hold_for_a_holder_and_last_through_its_dump() -> None:
    played = Played(session_plan())
    holder = played.fresh("h0", floors=secagg.Floors(most_rounds=1))
    played.parties["h0"] = holder
    assert played.round() is not None
    played.load("h0", holder.dump())
    assert played.round() is not None
    assert rules(played, "h0") == ["floors"]
    assert [event.round for event in played.of("h0", Opened)] == [0]
    with pytest.raises(MisuseError, match="floors"):
        played.fresh("h0", floors=secagg.Floors(smallest_cohort=4))


def test_a_holder_with_another_share_or_name_is_refused() -> None:
    played = Played(session_plan())
    with pytest.raises(MisuseError, match="own-share"):
        played.fresh("h0", share=played.shares["h1"])
    with pytest.raises(MisuseError, match="roster-member"):
        HolderSession(
            played.plan,
            "s0",
            share=played.shares["h0"],
            identity=None,
            session="s",
            floors=None,
            journal=secagg.MemoryJournal(),
        )


def test_a_holder_that_gives_a_wrong_share_is_out_for_good() -> None:
    class Wrong(HolderSession):
        """Changes one byte of its answer, and signs it."""

        def _open(self, party: Any, request: bytes) -> list[bytes]:
            usual = party._answer

            def other(product: bytes) -> Any:
                rows, proof = usual(product)
                rows = rows.copy()
                rows[0, 0] ^= np.uint64(1)
                return rows, proof

            party._answer = other
            return super()._open(party, request)

    played = Played(session_plan(), classes={"h1": Wrong})
    for _ in range(2):
        assert played.round() is not None
    (dropped,) = played.of(SERVER, Dropped)
    assert (dropped.site, dropped.error.rule) == ("h1", "share-proof")
    assert [event.round for event in played.of("h1", Opened)] == [0]
    assert sum(to == "h1" for _, to, _ in played.sizes) == 4 + 1  # nothing of the second round


def test_a_site_that_sends_what_is_no_input_is_out_for_good() -> None:
    class Copying(SiteSession):
        """Sends its proof for other ciphertexts."""

        def _sealed(self, answer: Any) -> Send:
            for at, (number, data) in enumerate(answer.parts):
                if data[3] == ENCRYPTED.number:
                    client = self._clients[number]
                    tail = bytearray(data[20:-64])
                    tail[5] ^= 1
                    frame, _ = client._frame(ENCRYPTED, SERVER_INDEX, ENCRYPTED.header(), tail)
                    answer.parts[at] = (number, frame)
            return super()._sealed(answer)

    played = Played(session_plan(), classes={"s2": Copying})
    for _ in range(2):
        aggregate = played.round()
        assert aggregate is not None and aggregate.survivors == ("s0", "s1", "s3")
    (dropped,) = played.of(SERVER, Dropped)
    assert dropped.site == "s2"
    assert not any(played.parties[name].ended for name in played.holders)


# Storage and transcripts.


def test_a_store_keeps_a_holder_and_never_its_share(tmp_path: Any) -> None:
    played = Played(session_plan())
    store = secagg.Store(tmp_path / "h0", played.keys["h0"])
    played.journals["h0"] = store.journal
    played.parties["h0"] = played.fresh("h0")
    assert played.round() is not None
    store.save(played.parties["h0"])
    again = secagg.Store(tmp_path / "h0", played.keys["h0"])
    played.journals["h0"] = again.journal
    played.parties["h0"] = again.load_holder(played.plan, share=played.shares["h0"])
    assert played.round() is not None
    assert [event.round for event in played.of("h0", Opened)] == [0, 1]
    dump, share = played.parties["h0"].dump(), played.shares["h0"]
    assert isinstance(share, secagg.paillier.KeyShare)
    size = (share.secret.bit_length() + 7) // 8
    assert share.secret.to_bytes(size, "big") not in dump
    assert share.secret.to_bytes(size, "little") not in dump
    with pytest.raises(MisuseError, match=r"\[dump\]"):
        again.load_site(played.plan)
    with pytest.raises(MisuseError, match=r"\[dump\]"):
        again.load_server(played.plan)
    other = secagg.Store(tmp_path / "h1", played.keys["h1"])
    with pytest.raises(MisuseError, match=r"\[store\]"):
        other.save(played.parties["h0"])


def test_transcripts_are_refused(tmp_path: Any) -> None:
    played = Played(session_plan())
    with pytest.raises(MisuseError, match=r"\[protocol\]"):
        Recorder(tmp_path / "t", played.plan, "s0", "played")
    assert not (tmp_path / "t").exists()
    # One that was made elsewhere is not misread either.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secagg.session.transcript.require_auditable", lambda plan: None)
        with Recorder(tmp_path / "t", played.plan, "s0", "played") as recorder:
            recorder.sent(SERVER, b"x")
    with pytest.raises(MisuseError, match=r"\[protocol\]"):
        audit([tmp_path / "t"])


def test_calls_out_of_order_and_closed_sessions() -> None:
    played = Played(session_plan())
    holder = played.parties["h0"]
    with pytest.raises(MisuseError, match="start-once"):
        holder.start()
    with pytest.raises(MisuseError, match="no-exchange"):
        played.hub.close_exchange()
    played.begin()
    with pytest.raises(MisuseError, match="no-exchange"):
        played.begin()
    holder.close()
    (event,) = holder.receive(b"x", sender=SERVER)
    assert isinstance(event, Ignored) and event.error.rule == "closed"
    played.pump()
    played.close()
    assert played.hub.slot == Slot.REVEAL
    played.pump()
    assert isinstance(played.close()[0], Finished)


def test_bytes_of_anybody_change_nothing() -> None:
    played = Played(session_plan())
    played.begin()
    chance = random.Random(7)

    def changed(sender: str, to: str, data: bytes) -> bool:
        party = played.parties[to]
        bad = bytearray(data)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        for wrong in (bytes(bad), data[:-1], data + b"x", b"", data[:20]):
            try:
                events = party.receive(wrong, sender=sender)
            except SecAggError as error:  # pragma: no cover - a bug of ours
                raise AssertionError(wrong) from error
            assert all(isinstance(event, Ignored) for event in events)
        return False

    played.pump(changed)
    played.close()
    played.pump(changed)
    assert isinstance(played.close()[0], Finished)


def test_nobody_keeps_inputs_nor_rounds_that_are_over() -> None:
    played = Played(session_plan(length=300))
    sizes = []
    for number in range(4):
        played.begin()
        tails: list[bytes] = []

        def look(sender: str, to: str, data: bytes, tails: list[bytes] = tails) -> bool:
            if to == "h0":
                ((_, part),) = messages.read_bundle(data, trailer_size=64)
                tails.append(bytes(part[20:-64]))
            return False

        played.pump(look)
        for name in (SERVER, "h0", "s0"):
            dump = played.parties[name].dump()
            assert len(tails) == 4 and not any(tail[:256] in dump for tail in tails)
        played.close()
        played.pump()
        played.close()
        sizes.append(tuple(len(played.parties[name].dump()) for name in played.names))
        for name in played.names:
            floor = played.journals[name].floor(played.parties[name].series)
            assert number - 1 <= floor + 1 <= number + 1
    assert all(abs(a - b) < 64 for a, b in zip(sizes[2], sizes[3], strict=True)), sizes


def test_a_holder_holds_to_the_newest_signed_roster() -> None:
    played = Played(session_plan())
    enrolment = secagg.Identity.generate("enrolment")
    signed = secagg.SignedRoster.first(played.plan.roster, enrolment=enrolment)
    member = secagg.Membership(
        enrolment.public, identity=played.keys["h0"], journal=secagg.MemoryJournal()
    )
    member.accept(signed)
    holder = played.fresh("h0", membership=member)
    assert holder.name == "h0" and holder.round == -1
    member.accept(signed.change(revoke=["s3"], enrolment=enrolment))
    with pytest.raises(MisuseError, match="plan-epoch"):
        played.fresh("h0", membership=member)
    with pytest.raises(MisuseError, match="plan-epoch"):
        HolderSession.load(holder.dump(), played.plan, membership=member, **played.common("h0"))


def test_progress_is_told_by_sites_and_holders() -> None:
    played = Played(session_plan())
    told: list[tuple[str, int, int]] = []
    for name in ("s0", "h0"):
        party = played.parties[name]
        party.progress = lambda done, most, name=name: told.append((name, done, most))
    assert played.round() is not None
    assert ("s0", 1, 1) in told and ("h0", 1, 1) in told


def test_costs_of_an_exchange_are_those_of_masked_sums() -> None:
    plan = session_plan()
    assert costs.slots(plan, cold=True) == (Slot.INPUT, Slot.REVEAL)
    with pytest.raises(MisuseError, match=r"\[protocol\]"):
        costs.exchange_bytes(plan, Slot.INPUT, exchange=1, round=0, result=False, agreed=False)
