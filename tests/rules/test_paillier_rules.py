"""Every rule of the Paillier sum refuses its negative vector, and no longer once overridden."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import secagg
from secagg.attacks.arena.paillier_vectors import SCENARIOS
from secagg.attacks.arena.paillier_world import dealt, make_plan
from secagg.attacks.arena.plan_vectors import paillier_breaks
from secagg.attacks.arena.tables import paillier_table
from secagg.attacks.rulebook import play_rule
from secagg_protocols.paillier_sum import Client, Holder, Server
from secagg_protocols.paillier_sum.rules import PLAN_RULES, RULES
from secagg_protocols.rules import Rule

TABLE = paillier_table()
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


def test_rules_of_every_party_are_played_on_each() -> None:
    played = {kind for rule, kind in WORK if rule.party == "party"}
    assert played == {Client, Server, Holder}


@pytest.mark.parametrize("rule", PLAN_RULES, ids=rule_name)
def test_a_plan_that_breaks_the_rule_names_the_field(rule: Rule) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(**paillier_breaks()[rule.id])
    assert caught.value.rule == rule.id
    assert caught.value.field is not None


def key_fields(**changes: Any) -> dict[str, Any]:
    """The protocol of the tests with some fields changed."""
    return {"protocol": dataclasses.replace(make_plan().protocol, **changes)}


@pytest.mark.parametrize("colluding", [-1, 2, 3])
def test_fewer_holders_collude_than_it_takes_to_open(colluding: int) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(threat="semi-honest", colluding_holders=colluding)
    assert caught.value.rule == "holder-threshold"


@pytest.mark.parametrize(
    ("holders", "threshold", "colluding", "allowed"),
    [(3, 2, 0, True), (3, 2, 1, False), (4, 3, 1, True), (2, 2, 1, True), (1, 1, 0, True)],
)
def test_no_two_sets_of_holders_open_two_sums(
    holders: int, threshold: int, colluding: int, allowed: bool
) -> None:
    fields: dict[str, Any] = {
        "holders": holders,
        "threshold": threshold,
        "colluding_holders": colluding,
    }
    # Two sets of holders have an honest holder in common, who answers once.
    assert allowed == (2 * threshold - holders > colluding)
    make_plan(**fields, threat="semi-honest")
    if allowed:
        make_plan(**fields)
        return
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(**fields)
    assert caught.value.rule == "one-opening"


@pytest.mark.parametrize("change", ["wrong", "of another key"])
def test_a_proof_that_is_there_is_checked_by_every_plan(change: str) -> None:
    key = dealt(3, 2)[0]
    proof = bytes([key.proof[0] ^ 1]) + key.proof[1:] if change == "wrong" else b"proof"
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(threat="semi-honest", **key_fields(key=dataclasses.replace(key, proof=proof)))
    assert caught.value.rule == "modulus-proof"
    make_plan(threat="semi-honest", **key_fields(key=dataclasses.replace(key, proof=b"")))


def test_every_rule_has_a_scenario_and_every_scenario_a_rule() -> None:
    rules = {(rule.party, rule.id) for rule in RULES if rule.party != "plan"}
    assert set(SCENARIOS) == rules
    assert set(paillier_breaks()) == {rule.id for rule in PLAN_RULES}
    assert len({(rule.party, rule.id) for rule in RULES}) == len(RULES)
