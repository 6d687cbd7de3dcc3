"""A control is a class whose dictionary holds the overridden checks and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

import secagg
from secagg.attacks.arena import controls
from secagg.attacks.arena.paillier_world import make_plan as paillier_plan
from secagg.attacks.arena.tables import all_tables
from secagg.attacks.arena.world import World, make_plan
from secagg.session import HolderSession, ServerSession, SiteSession
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.paillier_sum import Holder

PLACES = [
    pytest.param(kind, rule, id=f"{table.name}-{kind.__name__}-{rule.id}".replace(" ", "-"))
    for table in all_tables()
    if not table.left_out
    for rule in table.rules
    for kind in table.kinds(rule)
]


@pytest.mark.parametrize(("kind", "rule"), PLACES)
def test_a_control_overrides_the_one_method_of_its_rule(kind: type[Any], rule: Any) -> None:
    control = controls.without(kind, rule.id)
    assert issubclass(control, kind)
    own = {name for name in vars(control) if not name.startswith("__")}
    assert own == controls.overrides(kind, control) == {rule.method}
    assert callable(getattr(kind, rule.method))


@pytest.mark.parametrize("kind", [SiteSession, ServerSession, HolderSession])
def test_sessions_have_their_rules_and_those_of_every_party(kind: type[Any]) -> None:
    for rule in controls.rules_of(kind).values():
        assert controls.overrides(kind, controls.without(kind, rule.id)) == {rule.method}
    assert {"release-policy", "trailer"} <= set(controls.rules_of(kind))


def test_several_rules_at_once() -> None:
    control = controls.without(Client, "graph", "advert-cohort")
    assert controls.overrides(Client, control) == {"_check_graph", "_check_advert_cohort"}


def test_a_control_of_a_control_has_both() -> None:
    control = controls.without(controls.without(Client, "graph"), "floors")
    assert controls.overrides(Client, control) == {"_check_graph", "_check_floors"}


def test_a_plan_without_a_rule_is_built_and_takes_no_attribute() -> None:
    kind = controls.without(secagg.Plan, "insiders")
    plan = make_plan(kind=kind, colluding=0)
    assert plan.sites_receive and plan.colluding == 0
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(plan, "another", 1)
    # A rule of the other protocol's plans belongs to the same class.
    assert paillier_plan(kind=controls.without(secagg.Plan, "fixed-data-holders"), fixed_data=True)


def test_a_feature_is_changed_by_one_method() -> None:
    seen = []

    def start(self: Any) -> Any:
        seen.append(self.name)
        return Client.start(self)

    control = controls.changed(Client, start=start)
    assert controls.overrides(Client, control) == {"start"}
    world = World(make_plan(), classes={"s0": control}).run()
    assert seen == ["s0"]
    assert world.result is not None and world.result.sum.tolist() == world.expected()


@pytest.mark.parametrize(
    "make",
    [
        lambda: controls.without(Client, "no-such-rule"),
        lambda: controls.without(Client, "consent-set"),  # the server's
        lambda: controls.without(Client, "product"),  # a holder's
        lambda: controls.without(Server, "graph"),  # a site's
        lambda: controls.without(Holder, "share-proof"),  # the server's
        lambda: controls.without(Client),
        lambda: controls.without(Client, "graph", "graph"),
        lambda: controls.without(World, "graph"),
        lambda: controls.changed(Client),
        lambda: controls.changed(Client, _check_no_such_rule=lambda self: None),
        lambda: controls.overrides(Client, Server),
    ],
)
def test_what_would_change_nothing_is_refused(make: Any) -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        make()
    assert caught.value.rule == controls.CONTROL_RULE


def test_more_than_a_rule_is_seen_wherever_it_stands() -> None:
    class Beside:
        def _check_floors(self) -> None: ...

    class Between(Beside, controls.without(Client, "graph")):  # type: ignore[misc]
        LIMIT = 3

    assert controls.overrides(Client, Between) == {"_check_graph", "_check_floors", "LIMIT"}
    assert controls.overrides(Client, Client) == set()
