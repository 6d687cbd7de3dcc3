"""Every rule of the Paillier sum refuses its negative vector, and no longer once overridden."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import secagg
from secagg_protocols.paillier_sum import Client, Holder, Server
from secagg_protocols.paillier_sum.rules import PLAN_RULES, RULES
from secagg_protocols.rules import Rule
from support.paillier_scenarios import SCENARIOS
from support.paillier_world import dealt, make_plan, people

#: Whose rules are played on which classes.
OWNERS: dict[str, list[type[Any]]] = {
    "client": [Client],
    "server": [Server],
    "holder": [Holder],
    "party": [Client, Server, Holder],
}
PARTIES = [
    pytest.param(rule, kind, id=f"{kind.__name__}-{rule.id}")
    for rule in RULES
    if rule.party != "plan"
    for kind in OWNERS[rule.party]
]


def control(kind: type[Any], rule: Rule) -> type[Any]:
    """The class with exactly one rule switched off."""
    return type(f"{kind.__name__}Without", (kind,), {rule.method: lambda self, *_a, **_k: None})


@pytest.mark.parametrize(("rule", "kind"), PARTIES)
def test_the_rule_refuses_its_negative_vector(rule: Rule, kind: type[Any]) -> None:
    assert SCENARIOS[rule.party, rule.id](kind) == [rule.id]


@pytest.mark.parametrize(("rule", "kind"), PARTIES)
def test_without_the_rule_the_attack_passes_or_meets_a_named_one(
    rule: Rule, kind: type[Any]
) -> None:
    answers = SCENARIOS[rule.party, rule.id](control(kind, rule))
    assert rule.id not in answers
    assert set(answers) <= set(rule.also)
    # A rule that is named as a second line of defence must really be one.
    assert bool(answers) == bool(rule.also)


def key_fields(**changes: Any) -> dict[str, Any]:
    """The protocol of the tests with some fields changed."""
    return {"protocol": dataclasses.replace(make_plan().protocol, **changes)}


class Alike:
    """What passes for a public key wherever it is only used, and was never checked as one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(dealt(3, 2)[0], name)


PLAN_BREAKS: dict[str, dict[str, Any]] = {
    "paillier-fields": key_fields(key=Alike()),
    "key-holders": {"roster": people(4, 2)[0]},
    "holder-threshold": {"threat": "semi-honest", "colluding_holders": 2},
    "one-opening": {"holders": 4, "threshold": 2},
    "knowledge-proofs": {"knowledge_proofs": False},
    "modulus-proof": key_fields(key=dataclasses.replace(dealt(3, 2)[0], proof=b"")),
    "fixed-data-holders": {"fixed_data": True},
}


@pytest.mark.parametrize("rule", PLAN_RULES, ids=lambda rule: rule.id)
def test_a_plan_that_breaks_the_rule_cannot_be_built(rule: Rule) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        make_plan(**PLAN_BREAKS[rule.id])
    assert caught.value.rule == rule.id
    assert caught.value.field is not None


@pytest.mark.parametrize("rule", PLAN_RULES, ids=lambda rule: rule.id)
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
    assert set(PLAN_BREAKS) == {rule.id for rule in PLAN_RULES}
    assert len({(rule.party, rule.id) for rule in RULES}) == len(RULES)
