"""Every rule of a ledger is one method, called from one place, and without it its attack passes."""

from __future__ import annotations

import ast
import inspect

import pytest
from dp.ledger_world import tag

import secagg
from secagg.attacks.arena.ledger_vectors import ATTACKS, made
from secagg.attacks.arena.tables import ledger_table
from secagg.attacks.arena.world import make_plan
from secagg.attacks.rulebook import play_rule
from secagg.dp import ledger as module
from secagg.dp.ledger import Ledger
from secagg_protocols.ledger import LEDGER_RULES
from secagg_protocols.rules import Rule


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.id)
def test_the_rule_refuses_its_attack_with_its_own_error(rule: Rule) -> None:
    with pytest.raises(secagg.SecAggError) as caught:
        ATTACKS[rule.id](Ledger)
    assert caught.value.rule == rule.id
    assert type(caught.value).__name__ == rule.error


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.id)
def test_without_the_rule_its_attack_goes_through_or_meets_a_named_one(rule: Rule) -> None:
    assert play_rule(ledger_table(), rule, Ledger).why == ""


def test_a_plan_without_any_noise_has_no_mechanism_to_charge() -> None:
    """Without the rule there would be nothing to write down."""
    control = type("Control", (Ledger,), {"_check_no_noise": lambda self, *_: None})
    with pytest.raises(secagg.PlanError) as caught:
        made(control).charge(make_plan(), tag(0))
    assert caught.value.rule == "dp-noise"


def test_every_check_is_in_the_table_and_called_from_one_place() -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    defined = [n.name for n in nodes if isinstance(n, ast.FunctionDef) and "_check_" in n.name]
    called = [
        n.func.attr
        for n in nodes
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and n.func.attr.startswith("_check_")
    ]
    table = sorted(rule.method for rule in LEDGER_RULES)
    assert sorted(defined) == sorted(called) == table
    assert set(ATTACKS) == {rule.id for rule in LEDGER_RULES}
