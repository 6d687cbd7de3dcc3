"""Every rule of a ledger is one method, called from one place, and without it its attack passes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from dp.ledger_world import DELTA, noisy_plan, tag

import secagg
from secagg.dp import DiscreteGaussianSum
from secagg.dp import ledger as module
from secagg.dp.ledger import MOST_MECHANISMS, Ledger
from secagg_protocols.ledger import LEDGER_RULES
from secagg_protocols.rules import Rule
from support.world import make_plan

PLAN = noisy_plan()


def made(kind: type[Ledger], journal: Any = None, **more: Any) -> Ledger:
    given: dict[str, Any] = {"data": "", "epsilon": 1.0, "delta": DELTA} | more
    return kind(journal or secagg.MemoryJournal(), "s0", **given)


def another_owner(kind: type[Ledger]) -> bool:
    """The budget of other data, in another journal."""
    made(kind, data="other").serve(secagg.MemoryJournal(), "s0", "")
    return True


def another_adjacency(kind: type[Ledger]) -> bool:
    journal = secagg.MemoryJournal()
    made(Ledger, journal).charge(PLAN, tag(0))
    made(kind, journal, adjacency="replace-one").charge(PLAN, tag(1))
    return True


def no_noise(kind: type[Ledger]) -> bool:
    """The server's own noise, which a calibration knows and the site's input has not."""
    central = noisy_plan(law="central-discrete-gaussian", variance=1 << 30, threat="semi-honest")
    made(kind).charge(central, tag(0))
    return True


def one_mechanism_more(kind: type[Ledger]) -> bool:
    charges: dict[Any, int] = {
        DiscreteGaussianSum(
            local_variance_levels2=1 << 60, shares=at, l2_levels=1.0, dimension=1
        ): 1
        for at in range(1, MOST_MECHANISMS + 1)
    }
    kept = made(kind)
    full = module._Kept(charges, (tag(0),), (DELTA, 0.0))
    kept.journal.swap(kept._register, b"", module._pack(full, "zero-out"))
    kept.charge(PLAN, tag(1))
    return True


def overspent(kind: type[Ledger]) -> bool:
    made(kind, epsilon=0.01).charge(PLAN, tag(0))
    return True


ATTACKS: dict[str, Callable[[type[Ledger]], bool]] = {
    "ledger-owner": another_owner,
    "ledger-adjacency": another_adjacency,
    "no-noise": no_noise,
    "ledger-full": one_mechanism_more,
    "budget": overspent,
}


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.id)
def test_the_rule_refuses_its_attack(rule: Rule) -> None:
    with pytest.raises(secagg.SecAggError) as caught:
        ATTACKS[rule.id](Ledger)
    assert caught.value.rule == rule.id
    assert type(caught.value).__name__ == rule.error


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.id)
def test_without_the_rule_its_attack_goes_through(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = type("Control", (Ledger,), {rule.method: lambda self, *_: None})
    if rule.also:
        # Another rule stops it, and the table names it.
        with pytest.raises(secagg.SecAggError) as caught:
            ATTACKS[rule.id](control)
        assert caught.value.rule in rule.also
        return
    assert ATTACKS[rule.id](control) is True


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
