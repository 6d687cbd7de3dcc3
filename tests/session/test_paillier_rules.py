"""The rules of a holder's session: each is one method, refuses its attack, and the attack goes
through (or meets the rule that the table names) once exactly that method is overridden."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import secagg.session
from secagg.attacks.arena.holder_session_vectors import Cheating as HolderCheating
from secagg.attacks.arena.tables import session_table
from secagg.attacks.rulebook import play_rule
from secagg.session import Agreement, Finished, HolderSession, Opened, SiteSession, messages
from secagg.session.rules import HOLDER_RULES
from secagg_protocols.errors import EquivocationError, MisuseError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.paillier_sum import messages as inner
from secagg_protocols.rules import Rule
from secagg_protocols.wire import SERVER as SERVER_INDEX
from secagg_protocols.wire import to_bitmap
from support.paillier_keys import short_keys
from support.paillier_sessions import SERVER, Played, session_plan

__all__ = ["short_keys"]
pytestmark = pytest.mark.usefixtures("short_keys")
ROOT = Path(secagg.session.__file__).parent
TABLE = session_table()


class Cheating(HolderCheating):
    """Under the short key of the tests."""

    def __init__(self, holder: type[HolderSession] = HolderSession) -> None:
        super().__init__(holder, session_plan())


@pytest.mark.parametrize("rule", HOLDER_RULES, ids=lambda rule: rule.id)
def test_the_rule_and_only_the_rule_stops_its_attack(rule: Rule) -> None:
    row = play_rule(TABLE, rule, HolderSession)
    assert row.why == ""
    assert row.refused == (rule.id,)
    assert row.control == rule.also


def test_every_rule_is_one_method_that_is_called_from_one_place() -> None:
    defined: list[str] = []
    called: list[str] = []
    for name in ("holder", "holder_checks"):
        for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_check_"):
                defined.append(node.name)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_check_"):
                called.append(node.attr)
    wanted = sorted(rule.method for rule in HOLDER_RULES)
    assert sorted(defined) == sorted(called) == wanted


# What a holder's party refuses ends its session, too.


def test_another_product_than_that_of_the_inputs_ends_the_session() -> None:
    played = Cheating()
    order = played.inputs()
    contexts = played.hub._current.contexts
    names = to_bitmap(range(4), 4)
    request, _ = played.hub._current._frame(inner.OPEN, 4, inner.Open(names, bytes(32)))
    stated = contexts.model_hash, contexts.parameters
    number = played.hub.round
    cheat = played.order(played.hub.exchange, number, request, stated=stated)
    assert played.answers(cheat) == ["product"]
    assert played.answers(order) == ["product"]  # it has ended, and says why
    played.pump(lambda sender, to, data: to == "h0")
    assert isinstance(played.close()[0], Finished)  # the others never heard of it


def test_two_products_in_one_round_are_never_opened() -> None:
    """A holder is restored from a copy, and asked to open a part of what it had opened."""
    played = Cheating()
    played.begin()
    letters: list[bytes] = []

    def look(sender: str, to: str, data: bytes) -> bool:
        if to == "h0":
            letters.append(data)
        return to == "h0"

    played.pump(look)
    fresh = played.parties["h0"].dump()
    played.close()
    order = next(data for _, to, data in played.mail if to == "h0")
    for letter in letters:
        played.answers(letter)
    assert played.answers(order) == [] and len(played.of("h0", Opened)) == 1

    played.load("h0", fresh)
    for letter in letters[:3]:
        played.answers(letter)
    party = played.parties["h0"]._party
    product = party._product.digest(party.contexts.round)
    sites = to_bitmap(party.given, 4)
    request, _ = played.hub._current._frame(inner.OPEN, 4, inner.Open(sites, product))
    contexts = played.hub._current.contexts
    stated = contexts.model_hash, contexts.parameters
    cheat = played.order(played.hub.exchange, played.hub.round, request, stated=stated)
    assert played.answers(cheat) == ["journal-once"]
    assert played.parties["h0"].ended is None
    assert len(played.of("h0", Opened)) == 1
    assert played.answers(cheat) == []  # the empty report again


def test_an_order_asks_for_one_opening() -> None:
    played = Cheating()
    order = played.inputs()
    ((number, request),) = messages.read_bundle(order, trailer_size=64)
    contexts = played.hub._current.contexts
    stated = contexts.model_hash, contexts.parameters
    twice = played.order(played.hub.exchange, number, bytes(request), bytes(request), stated=stated)
    assert played.answers(twice) == [] and len(played.of("h0", Opened)) == 1
    # One that asks for none is answered with nothing.
    empty = played.order(played.hub.exchange + 1, number + 1)
    assert played.answers(empty) == [] and len(played.of("h0", Opened)) == 1


def test_what_is_passed_on_must_be_an_input() -> None:
    played = Cheating()
    order = played.inputs()
    ((number, request),) = messages.read_bundle(order, trailer_size=64)
    contexts = played.hub._current.contexts
    part = messages.Part.of(number, [bytes(request)], 64)
    header = messages.Relay(number, contexts.model_hash, contexts.parameters, (part,))
    frame, _ = played.hub._frame(messages.RELAY, 4, header)
    assert played.answers(frame + bytes(request)) == ["bundle"]
    assert not played.of("h0", Opened)


def test_messages_of_rounds_that_are_over_are_ignored() -> None:
    played = Cheating()
    seen: list[bytes] = []

    def look(sender: str, to: str, data: bytes) -> bool:
        if to == "h0":
            seen.append(data)
        return False

    assert played.round(look) is not None
    before = list(seen)
    assert played.round() is not None
    assert [played.answers(data) for data in before] == [["round-over"]] * 4 + [["order-late"]]
    assert played.round() is not None


def test_a_holder_that_says_what_it_lacks_cannot_ask_for_much() -> None:
    played = Cheating()
    played.begin()
    played.pump(lambda sender, to, data: sender == "s3")
    played.close()
    liar = played.parties["h0"]

    def report(sites: bytes, number: int | None = None) -> bytes:
        number = played.hub.round if number is None else number
        frame, _ = liar._frame(messages.LACKS, SERVER_INDEX, messages.Lacks(number, sites))
        parts = (messages.Part.of(number, [frame], 64),)
        header = messages.Report(played.hub.exchange, parts)
        return liar._frame(messages.ANSWER, SERVER_INDEX, header)[0] + frame

    everyone = to_bitmap(range(4), 4)
    first = played.hub.receive(report(everyone), sender="h0")
    assert [event.to for event in first if isinstance(event, Send)] == ["s0", "s1", "s2"]
    assert played.hub.receive(report(everyone), sender="h0") == []  # they were asked
    (event,) = played.hub.receive(report(everyone, 7), sender="h0")
    assert isinstance(event, Ignored) and event.error.rule == "round-over"
    (event,) = played.hub.receive(report(b"\xff"), sender="h0")
    assert isinstance(event, Dropped) and event.site == "h0"
    assert played.hub.silent == ("h1", "h2")  # what h0 lacks matters no more
    # A site cannot say such a thing at all.
    site = played.parties["s0"]
    frame, _ = site._frame(messages.LACKS, SERVER_INDEX, messages.Lacks(0, everyone))
    header = messages.Report(played.hub.exchange, (messages.Part.of(0, [frame], 64),))
    data = site._frame(messages.REPORT, SERVER_INDEX, header)[0] + frame
    (event,) = played.hub.receive(data, sender="s0")
    assert isinstance(event, Ignored) and event.error.rule == "route"


# Agreements.


def test_a_server_that_gives_two_results_is_not_believed_by_both() -> None:
    """Three of four sites agree (one may collude): the fourth cannot have been sent another."""
    assert messages.agreements_needed(session_plan()) == 3
    played = Played(session_plan())
    assert played.round() is not None
    victim = played.parties["s0"]
    orders: list[tuple[str, str, bytes]] = []
    played.call(SERVER, played.hub.finish)
    played.pump()
    assert victim._outcome is not None
    victim._outcome.digest = bytes(32)  # what the server would have signed for this site alone
    played.close()
    orders = list(played.mail)
    for _, to, data in orders:
        if to == "s0":
            with pytest.raises(SecAggError, match="agreed-signatures"):
                victim.receive(data, sender=SERVER)
    played.mail = [letter for letter in orders if letter[1] != "s0"]
    played.pump()
    assert all(played.of(name, Agreement) for name in ("s1", "s2", "s3"))


@pytest.mark.parametrize(("sites", "colluding", "need"), [(4, 1, 3), (5, 1, 4), (6, 2, 5)])
def test_two_groups_that_agree_have_an_honest_site_in_common(
    sites: int, colluding: int, need: int
) -> None:
    plan = replace(session_plan(sites), colluding=colluding)
    assert messages.agreements_needed(plan) == need
    assert 2 * need > sites + colluding >= 2 * (need - 1)


def test_a_site_that_agrees_on_something_else_is_out() -> None:
    class Liar(SiteSession):
        """Signs another digest than that of its result."""

        def _agree(self, answer: Any) -> None:
            if self._outcome is not None:
                self._outcome.digest = bytes(32)
            super()._agree(answer)

    played = Played(session_plan(), classes={"s3": Liar})
    assert played.round() is not None
    aggregate = played.round()
    assert aggregate is not None and [e.site for e in played.of(SERVER, Dropped)] == ["s3"]
    assert played.of(SERVER, Dropped)[0].error.rule == "agree-digest"
    again = played.round()
    assert again is not None and again.survivors == ("s0", "s1", "s2")
    assert [event.round for event in played.of("s0", Agreement)] == [0]


def test_an_equivocating_server_is_named_with_its_digests() -> None:
    played = Cheating()
    assert played.answers(played.order(1, 0)) == []
    with pytest.raises(EquivocationError) as caught:
        played.parties["h0"].receive(played.order(1, 5), sender=SERVER)
    assert caught.value.sender == SERVER and len(set(caught.value.digests)) == 2
    with pytest.raises(MisuseError, match="ended"):
        played.parties["h0"]._require_alive()
