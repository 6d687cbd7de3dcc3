"""The rules of a session: each is one method, refuses its attack, and the attack goes through (or
meets the rule that the table names) once exactly that method is overridden."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import secagg.session
from secagg.attacks.arena.controls import without
from secagg.attacks.arena.session_vectors import after_a_round
from secagg.attacks.arena.tables import session_table
from secagg.attacks.rulebook import play_rule
from secagg.session import Agreement, ServerSession, SiteSession, Slot, messages
from secagg.session.rules import RULES
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Dropped
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.rules import Rule
from secagg_protocols.wire import SERVER
from support.sessions import Played, session_plan

ROOT = Path(secagg.session.__file__).parent
#: What an attack comes to: ids of rules that answered it, empty where it went through.
Answers = list[str]


TABLE = session_table()
WORK = [(rule, kind) for rule in RULES for kind in TABLE.kinds(rule)]


def name_of(value: Any) -> str:
    return value.id if isinstance(value, Rule) else value.__name__


@pytest.mark.parametrize(("rule", "kind"), WORK, ids=name_of)
def test_the_rule_and_only_the_rule_stops_its_attack(rule: Rule, kind: type[Any]) -> None:
    row = play_rule(TABLE, rule, kind)
    assert row.why == ""
    assert row.refused == (rule.id,)
    assert set(row.control) == set(rule.also)


@pytest.mark.parametrize("kind", [SiteSession, ServerSession])
def test_a_plan_without_a_limit_has_no_sessions(kind: type[Any]) -> None:
    plan, _ = session_plan()
    open_ended = replace(plan, max_inputs_per_model=None)
    given: dict[str, Any] = {
        "identity": None,
        "session": "s",
        "journal": secagg.MemoryJournal(),
    }
    args = (open_ended,)
    if kind is SiteSession:
        args, given = (open_ended, "site-0"), {**given, "floors": None}
    with pytest.raises(MisuseError, match="release-policy"):
        kind(*args, **given)
    # With the rule off, such a session counts nothing: one model is summed again and again.
    made = without(kind, "release-policy")(*args, **given)
    assert made.plan.max_inputs_per_model is None


def test_a_site_that_lies_about_its_result_is_out() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    assert played.round(b"one") is not None
    for order in played.note("server", played.hub.finish()):
        for report in played.ask(order.to, order.data):
            data = report.data
            if order.to == "site-3":
                liar = played.sites["site-3"]
                agree, _ = liar._frame(messages.AGREE, SERVER, messages.Agree(0, bytes(32)))
                parts = (messages.Part.of(0, [agree], 64),)
                header = messages.Report(played.hub.exchange, parts)
                data = liar._frame(messages.REPORT, SERVER, header)[0] + agree
            events = played.hub.receive(data, sender=order.to)
            dropped = [(e.site, e.error.rule) for e in events if isinstance(e, Dropped)]
            assert dropped == ([("site-3", "agree-digest")] if order.to == "site-3" else [])
    played.deliver(played.note("server", played.hub.close_exchange()))
    assert all(played.of(f"site-{i}", Agreement) for i in range(3))


def test_two_results_are_caught_by_the_smaller_group() -> None:
    """The server gives one site another result; no choice of agreements satisfies it."""
    played, digest = after_a_round(SiteSession)
    victim = played.sites["site-0"]
    assert victim._outcome is not None
    victim._outcome.digest = bytes(32)  # what the server signed for this site alone
    found = []
    for absent in range(4):
        signed = {i: played.agreement(f"site-{i}", 0, digest) for i in range(4) if i != absent}
        fork = SiteSession.load(
            victim.dump(), played.plan, identity=victim.identity, journal=victim.journal
        )
        part = played.agreed("site-0", 0, signed)
        with pytest.raises(SecAggError) as caught:
            fork.receive(played.order("site-0", 99, Slot.CLOSE, 9, (0, part)), sender="server")
        found.append(caught.value.rule)
    assert found == ["agreed-signatures"] * 4


def test_every_rule_is_one_method_that_is_called_from_one_place() -> None:
    defined: list[str] = []
    called: list[str] = []
    for name in ("desk", "site", "site_checks", "server"):
        for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_check_"):
                defined.append(node.name)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_check_"):
                called.append(node.attr)
    wanted = sorted(rule.method for rule in RULES)
    assert sorted(defined) == wanted
    assert sorted(name for name in called if name in defined) == wanted


def test_a_result_frame_of_another_kind_is_no_agreement() -> None:
    played, _ = after_a_round(SiteSession)
    frame = played.order(
        "site-0", 99, Slot.CLOSE, 9, (0, b"SA\x01" + bytes([inner.RESULT.number]) + bytes(100))
    )
    assert played.answers("site-0", frame) == []
    assert not played.of("site-0", Agreement)
