"""Every security check is one method, called from one place, listed in the table, and it works:
its negative vector is refused by that rule, and no longer refused by it once overridden."""

from __future__ import annotations

import ast
import inspect
import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import secagg
import secagg_protocols
from secagg.attacks.arena.plan_vectors import MASKED_BREAKS
from secagg.attacks.arena.site_vectors import SCENARIOS
from secagg.attacks.arena.tables import masked_table
from secagg.attacks.arena.world import make_plan, people, sparse_plan
from secagg.attacks.rulebook import play_rule
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum.rules import PLAN_RULES, RULES
from secagg_protocols.paillier_sum.rules import RULES as PAILLIER_RULES
from secagg_protocols.roster import Roster
from secagg_protocols.rules import Rule
from secagg_protocols.shared_rules import HUB_RULES, PARTY_RULES, SITE_RULES

ROOT = Path(secagg_protocols.__file__).parent
PARTIES = [rule for rule in RULES if rule.party != "plan"]


TABLE = masked_table()
WORK = [(rule, kind) for rule in RULES for kind in TABLE.kinds(rule)]


def rule_name(value: Any) -> str:
    return f"{value.party}-{value.id}" if isinstance(value, Rule) else value.__name__


@pytest.mark.parametrize(("rule", "kind"), WORK, ids=rule_name)
def test_the_rule_and_only_the_rule_stops_its_attack(rule: Rule, kind: type[Any]) -> None:
    row = play_rule(TABLE, rule, kind)
    assert row.why == ""
    assert row.refused == (rule.id,)
    # A rule that is named as a second line of defence must really be one.
    assert bool(row.control) == bool(rule.also)
    assert set(row.control) <= set(rule.also)


@pytest.mark.parametrize("rule", PLAN_RULES, ids=rule_name)
def test_a_plan_that_breaks_the_rule_names_the_field(rule: Rule) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(**MASKED_BREAKS[rule.id])
    assert caught.value.rule == rule.id
    assert caught.value.field is not None


def test_every_rule_has_a_scenario_and_every_scenario_a_rule() -> None:
    assert set(SCENARIOS) == {(rule.party, rule.id) for rule in PARTIES}
    assert set(MASKED_BREAKS) == {rule.id for rule in PLAN_RULES}
    assert len({(rule.party, rule.id) for rule in RULES}) == len(RULES)


def _checks(tree: ast.AST) -> list[tuple[str, str]]:
    """(class, method) of every check defined in a module."""
    return [
        (node.name, part.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("_check_")
    ]


def _calls(tree: ast.AST) -> list[str]:
    return [
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.startswith("_check_")
    ]


#: Class -> whose rules its checks are; those of a protocol stand in its folder.
HOMES = {
    "Plan": "plan",
    "MaskedRules": "plan",
    "PaillierRules": "plan",
    "Party": "party",
    "SiteParty": "client",
    "ServerParty": "server",
    "ClientChecks": "client",
    "ServerChecks": "server",
    "HolderChecks": "holder",
}
#: Module -> the party that it speaks for; each may call what all parties define.
SPEAKERS = {
    "plan": "plan",
    "party": "party",
    "site": "client",
    "hub": "server",
    "client": "client",
    "server": "server",
    "holder": "holder",
}
PROTOCOLS = {"masked_sum": RULES, "paillier_sum": PAILLIER_RULES}


def test_every_check_is_in_the_table_and_called_from_one_place() -> None:
    found: list[tuple[str, str, str]] = []
    calls: dict[tuple[str, str, str], int] = {}
    # What has a table of its own, or checks values and no messages, is tested where it is made.
    elsewhere = {"journal", "enrolment", "paillier"}
    for path in sorted(ROOT.rglob("*.py")):
        first = path.relative_to(ROOT).with_suffix("").parts[0]
        if first in elsewhere:
            continue
        protocol = first if first in PROTOCOLS else ""
        tree = ast.parse(path.read_text())
        for owner, method in _checks(tree):
            if owner == "InputChecks":
                found += [(protocol, party, method) for party in ("holder", "server")]
            elif owner in HOMES:
                found.append((protocol, HOMES[owner], method))
            else:
                # A roster is checked where it is built, before there is a plan.
                assert (owner, method) == ("Roster", "_check_roster")
        stem = path.stem.removesuffix("_checks")
        # Server and holders take a site's ciphertexts in alike.
        speakers = ["holder", "server"] if stem == "inputs" else [SPEAKERS.get(stem)]
        for speaker, method in itertools.product(speakers, _calls(tree)):
            if method != "_check_roster":
                assert speaker is not None, path
                key = protocol, speaker, method
                calls[key] = calls.get(key, 0) + 1
    shared = {rule for table in (PARTY_RULES, SITE_RULES, HUB_RULES) for rule in table}
    table = {
        ("" if rule in shared or rule.party == "plan" else name, rule.party, rule.method)
        for name, rules in PROTOCOLS.items()
        for rule in rules
    }
    assert sorted(found) == sorted(table)
    # A check that all protocols share may be called by each of them, where each has its moment.
    for protocol, party, method in [key for key in calls if key not in table]:
        assert protocol and ("", party, method) in table
        assert calls.pop((protocol, party, method)) == 1
        calls["", party, method] = 1
    assert calls == dict.fromkeys(table, 1)


def test_no_constructor_argument_or_field_can_switch_a_rule_off() -> None:
    names = {f.name for f in fields(secagg.Plan)} | {f.name for f in fields(Roster)}
    for function in (secagg.client, secagg.server, secagg.load, secagg.aggregate, Client, Server):
        names |= set(inspect.signature(function).parameters)
    assert not [
        n for n in names if any(w in n for w in ("check", "rule", "skip", "unsafe", "verif"))
    ]


def test_a_sparse_plan_of_the_tests_is_one_that_the_rules_allow() -> None:
    assert not sparse_plan().complete


@pytest.mark.parametrize(
    "change",
    [
        {"sites": (("a", bytes(32)), ("a", bytes([1]) * 32))},
        {"sites": (("a", bytes(32)), ("b", bytes(32)))},
        {"sites": (("a", bytes(31)),)},
        {"sites": (("", bytes(32)),)},
        {"sites": (("server", bytes(32)),)},
        {"sites": (("x" * 65, bytes(32)),)},
        {"sites": (("a\nb", bytes(32)),)},
        {"server": bytes(5)},
        {"epoch": -1},
        {"epoch": True},
        {"holders": (("s0", b"h" * 32),)},
    ],
)
def test_a_bad_roster_cannot_be_built(change: dict[str, Any]) -> None:
    good = people(3)[0]
    values = {f.name: getattr(good, f.name) for f in fields(Roster)} | change
    with pytest.raises(secagg.PlanError) as caught:
        Roster(**values)
    assert caught.value.rule == "roster"
