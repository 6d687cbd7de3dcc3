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
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum.rules import PLAN_RULES, RULES
from secagg_protocols.paillier_sum.rules import RULES as PAILLIER_RULES
from secagg_protocols.roster import Roster
from secagg_protocols.rules import Rule
from secagg_protocols.shared_rules import HUB_RULES, PARTY_RULES, SITE_RULES
from support.scenarios import SCENARIOS
from support.world import make_plan, people, sparse_plan

ROOT = Path(secagg_protocols.__file__).parent
PARTIES = [rule for rule in RULES if rule.party != "plan"]


def control(kind: type[Any], rule: Rule) -> type[Any]:
    """The class with exactly one rule switched off."""
    return type(f"{kind.__name__}Without", (kind,), {rule.method: lambda self, *_a, **_k: None})


def owners(rule: Rule) -> list[type[Any]]:
    """Classes to which the rule belongs."""
    return {
        "plan": [secagg.Plan],
        "client": [Client],
        "server": [Server],
        "party": [Client, Server],
    }[rule.party]


def rule_name(rule: Rule) -> str:
    return f"{rule.party}-{rule.id}"


@pytest.mark.parametrize("rule", PARTIES, ids=rule_name)
def test_the_rule_refuses_its_negative_vector(rule: Rule) -> None:
    kind = Server if rule.party == "server" else Client
    answers = SCENARIOS[rule.party, rule.id](kind)
    assert answers and answers[0] == rule.id


@pytest.mark.parametrize("rule", PARTIES, ids=rule_name)
def test_without_the_rule_the_attack_passes_or_meets_a_named_one(rule: Rule) -> None:
    kind = control(Server if rule.party == "server" else Client, rule)
    play = SCENARIOS[rule.party, rule.id]
    if "structure" in rule.also:
        # Nothing is stored under what the attack names, so the control has nothing to look up.
        with pytest.raises(KeyError):
            play(kind)
        return
    answers = play(kind)
    assert rule.id not in answers
    assert set(answers) <= set(rule.also)
    # A rule that is named as a second line of defence must really be one.
    assert bool(answers) == bool(rule.also)


PLAN_BREAKS: dict[str, Any] = {
    "field-types": {"max_dropouts": True},
    "stage-kinds": {"stages": (type("Mine", (secagg.Integers,), {})(0, 1),)},
    "length": {"length": 0},
    "weight": {"max_weight": 0},
    "inputs-limit": {"max_inputs_per_model": 0},
    "threat": {"threat": "honest"},
    "suite": {"suite": "rot13"},
    "security-bits": {"security_bits": 8},
    "honest-survivors": {"min_honest": 6},
    "insiders": {"colluding": 0},
    "graph-shape": {
        "protocol": secagg.MaskedSum(share_threshold=5, neighbours=5),
        "threat": "semi-honest",
    },
    "fixed-data-graph": {
        "n": 12,
        "protocol": secagg.MaskedSum(share_threshold=5, neighbours=6),
        "threat": "semi-honest",
        "colluding": 0,
        "max_dropouts": 4,
        "sites_receive": False,
        "fixed_data": True,
    },
    "share-threshold": {"protocol": secagg.MaskedSum(share_threshold=7, neighbours=6)},
    "one-survivor-set": {"protocol": secagg.MaskedSum(share_threshold=4, neighbours=6)},
    "sparse-threat": {"protocol": secagg.MaskedSum(share_threshold=3, neighbours=4)},
    "sparse-security": {
        "protocol": secagg.MaskedSum(share_threshold=2, neighbours=2),
        "threat": "semi-honest",
    },
    "privacy-noise": {"privacy": (("epsilon", 1.0),)},
    "noise-shares": {
        "stages": (
            secagg.Integers(0, 9),
            secagg.Noise(law="discrete-laplace", scale_levels=5, shares=6),
        )
    },
    "noise-central": {
        "stages": (
            secagg.Integers(0, 9),
            secagg.Noise(law="central-discrete-gaussian", variance_levels2=5),
        )
    },
    "modulus": {"bits": 12},
}


@pytest.mark.parametrize("rule", PLAN_RULES, ids=rule_name)
def test_a_plan_that_breaks_the_rule_cannot_be_built(rule: Rule) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(**PLAN_BREAKS[rule.id])
    assert caught.value.rule == rule.id
    assert caught.value.field is not None


@pytest.mark.parametrize("rule", PLAN_RULES, ids=rule_name)
def test_without_the_rule_that_plan_can_be_built(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secagg.Plan, rule.method, lambda self: None)
    try:
        make_plan(**PLAN_BREAKS[rule.id])
    except secagg.PlanError as error:
        assert error.rule in rule.also
    else:
        assert not rule.also


def test_every_rule_has_a_scenario_and_every_scenario_a_rule() -> None:
    assert set(SCENARIOS) == {(rule.party, rule.id) for rule in PARTIES}
    assert set(PLAN_BREAKS) == {rule.id for rule in PLAN_RULES}
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
