"""Bytes: counted by the plan, measured in rounds, held against the published formula."""

from __future__ import annotations

import pytest

import secagg
from secagg.attacks.arena.world import World, make_plan, sparse_plan
from secagg_protocols.masked_sum import messages
from secagg_protocols.masked_sum.costs import round_cost

PLANS = [
    make_plan(7, length=1000),
    make_plan(7, length=1000, threat="semi-honest"),
    make_plan(7, length=1000, sites_receive=False, max_weight=9),
    make_plan(20, length=3, bits=64),
    sparse_plan(),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_simulated_round_measures_what_the_plan_counts(plan: secagg.Plan) -> None:
    world = World(plan).run()
    cost = round_cost(plan)
    assert world.result is not None
    for step, measured in zip(cost.steps, world.result.traffic, strict=True):
        assert step.step == measured.step
        assert measured.received == plan.clients * step.site_sends
        assert measured.sent == plan.clients * step.site_receives
    measured_total = sum(c.received + c.sent for c in world.result.traffic)
    assert measured_total == cost.server_receives + cost.server_sends
    assert measured_total == plan.clients * cost.site_total


@pytest.mark.parametrize("plan", PLANS)
def test_a_masked_input_costs_its_bits_and_at_most_a_kibibyte(plan: secagg.Plan) -> None:
    world = World(plan).run()
    sizes = {len(f) for kind, _, _, f in world.frames if kind == messages.INPUT.number}
    assert len(sizes) == 1
    assert sizes.pop() <= -(-plan.ring_length * plan.wire_bits // 8) + 1024


def wide_plan(clients: int, length: int, threat: str) -> secagg.Plan:
    """16-bit inputs of ``clients`` sites, as in Bonawitz et al., CCS 2017, section 7."""
    roster = secagg.Roster(
        sites=tuple((f"s{i}", (i + 1).to_bytes(32, "little")) for i in range(clients)),
        server=bytes([255]) * 32,
    )
    return secagg.Plan.recommend(
        roster,
        length=length,
        stages=(secagg.Integers(0, (1 << 16) - 1),),
        threat=threat,  # type: ignore[arg-type]
        colluding=clients // 100,
        max_dropouts=clients // 10,
        neighbours=clients - 1,
    )


@pytest.mark.parametrize(
    ("clients", "length", "threat", "published", "bar"),
    [
        (1 << 10, 1 << 20, "semi-honest", 1.73, 1.81),
        (1 << 14, 1 << 24, "semi-honest", 1.98, 2.06),
        (1 << 10, 1 << 20, "malicious-server", 1.73, 1.86),
        (1 << 14, 1 << 24, "malicious-server", 1.98, 2.11),
    ],
)
def test_expansion_beside_the_published_formula(
    clients: int, length: int, threat: str, published: float, bar: float
) -> None:
    assert secagg.bonawitz17_expansion(clients, length) == pytest.approx(published, abs=0.005)
    ours = round_cost(wide_plan(clients, length, threat)).expansion
    assert published < ours <= bar
