"""Noise, budgets, Paillier sums with holders, proposed plans: the plan decides, not the app."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from integrations.flower.worlds import (
    CLIP,
    NAMES,
    WEIGHTS,
    World,
    fed_avg,
    level_bound,
    make_plan,
    start_arrays,
    step_of,
    toy_app,
    values_of,
)

import secagg
from secagg import dp
from secagg.attacks.arena.paillier_world import dealt
from secagg.integrations.flower import Fault, secagg_mod
from secagg.integrations.folder import write_folders
from secagg_protocols.errors import MisuseError, ThresholdError
from support.paillier_keys import short_keys  # noqa: F401

# Noise.


def noisy(plan, rounds=3):
    return dp.calibrate(
        plan,
        epsilon=40.0,
        delta=1e-5,
        rounds=rounds,
        l2_clip=CLIP,
        adjacency="zero-out",
    )


def test_a_plan_with_noise(world):
    """The mean is that of the plain run within the noise that the result states."""
    made = world(max_weight=1, alter=noisy)
    seen = []
    grid = made.grid(toy_app())
    run = grid._train.run

    def spy(*arguments, **options):
        seen.append(run(*arguments, **options))
        return seen[-1]

    grid._train.run = spy
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    deviation = np.sqrt(seen[0].noise_variance) / 5
    assert deviation > 0
    plain = made.plain(toy_app(mods=()))
    # Without weights every site counts the same.
    for node in plain.nodes.values():
        node.app = toy_app(mods=[ones])
    expected = fed_avg().start(grid=plain, initial_arrays=start_arrays(), num_rounds=1)
    off = np.abs(values_of(result) - values_of(expected)).max()
    print(f"noise of {deviation:.3g} in a coordinate of the mean, off by {off:.3g}")
    assert 0 < off < 8 * deviation


def ones(message, context, call_next):
    reply = call_next(message, context)
    reply.content["metrics"]["num-examples"] = 1
    return reply


def test_a_site_whose_budget_is_spent_stays_out_and_says_nothing(world, caplog):
    made = world(max_weight=1, alter=noisy)
    (made.folders["west"] / "budget.toml").write_text("epsilon = 30.0\ndelta = 1e-5\n")
    grid = made.grid(toy_app(), rounds=3, record=True)
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    inside = ["west" in report.survivors for report in grid.reports]
    assert inside[0] is True
    assert inside[-1] is False
    assert [len(report.survivors) for report in grid.reports if "west" not in report.survivors]
    assert "[budget]" in caplog.text
    assert b"budget" not in b"".join(made.inner.received)


# Paillier.

HOLDERS = ["h1", "h2", "h3"]


@pytest.fixture
def paillier(tmp_path, short_keys):  # noqa: F811
    """A world whose sums are encrypted, with three holders as nodes."""
    key, shares = dealt(3, 2, 1024)  # with proofs of knowledge, as the threat demands
    names = NAMES[:4]
    roster, identities = secagg.Roster.generate(names, holders=HOLDERS)
    plan = make_plan(
        roster,
        5,
        threat="malicious-server",
        min_honest=2,
        key=key,
        colluding_holders=0,
    )
    folders = write_folders(
        tmp_path / "parties", plan, identities, shares=dict(zip(HOLDERS, shares, strict=True))
    )
    nodes = [
        {"secagg": str(folders[name]), "partition-id": index}
        for index, name in enumerate([*names, *HOLDERS])
    ]
    return World(plan, folders, names, nodes)


def test_a_paillier_plan_with_holders_as_nodes(paillier, caplog):
    """Holders run the same app; theirs is never called, and the strategy does not see them."""
    trained = set()

    def watch(message, context, call_next):
        trained.add(context.node_config["partition-id"])
        return call_next(message, context)

    grid = paillier.grid(toy_app(mods=[secagg_mod, watch]), rounds=2)
    with caplog.at_level(logging.INFO):
        result = fed_avg(4).start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1004]
    assert trained == {0, 1, 2, 3}
    assert "Sampled 4 nodes (out of 4)" in caplog.text
    assert [report.outcome for report in grid.reports] == ["done", "done"]
    steps = [np.concatenate([step_of(n, 4), step_of(n, 1)]) for n in range(4)]
    expected = values_of(start_arrays()) + 2 * np.average(steps, axis=0, weights=WEIGHTS[:4])
    bound = level_bound(paillier.plan, WEIGHTS[:4], 2) + 1e-12
    assert np.abs(values_of(result) - expected).max() <= bound


def test_a_paillier_round_bears_a_missing_site_and_a_missing_holder(paillier):
    def fault(delivery):
        away = delivery.round == 2 and delivery.number in {2, 6}
        return Fault.DROP if away else None

    grid = paillier.grid(toy_app(), rounds=3, fault=fault)
    fed_avg(4).start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert [len(report.survivors) for report in grid.reports] == [4, 3, 4]


def test_a_paillier_round_without_enough_holders_is_loud(paillier):
    def fault(delivery):
        return Fault.DROP if delivery.step != "hello" and delivery.number in {5, 6} else None

    grid = paillier.grid(toy_app(), fault=fault)
    with pytest.raises(ThresholdError):
        fed_avg(4).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


# Plans that the server proposes.

POLICY = "malicious_server = false\nsmallest_cohort = 3\nmin_honest = 2\nmost_rounds = 100\n"


def proposed(tmp_path, policy=POLICY, **options):
    roster, identities = secagg.Roster.generate(NAMES)
    plan = make_plan(roster, 5, **options)
    folders = write_folders(tmp_path / "p", plan, identities, policy=policy, propose=True)
    nodes = [{"secagg": str(folders[n]), "partition-id": i} for i, n in enumerate(NAMES)]
    return World(plan, folders, NAMES, nodes)


def test_a_proposed_plan_that_the_policies_bear(tmp_path):
    made = proposed(tmp_path)
    grid = made.grid(toy_app(), propose=True)
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert [len(report.survivors) for report in grid.reports] == [5, 5]


def test_a_proposed_plan_that_they_do_not_bear(tmp_path, caplog):
    policy = "smallest_cohort = 5\nmin_honest = 2\nmalicious_server = false\n"
    made = proposed(tmp_path, policy=policy)
    grid = made.grid(toy_app(), propose=True, strategy=fed_avg())
    nobody(grid, "refuses this session [floors]")
    assert [each.getMessage() for each in caplog.records if "is kept out" in each.getMessage()] == [
        f"secagg: node {1001 + at} is kept out: {name} refuses this session [floors]"
        for at, name in enumerate(NAMES)
    ]


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        ("", "malicious_server and min_honest"),
        ("min_honest = 2\n", "malicious_server"),
        ("malicious_server = true\n", "min_honest"),
        ("smallest_cohort = 4\n", "malicious_server and min_honest"),
    ],
)
def test_a_policy_that_leaves_a_proposed_plan_open(tmp_path, caplog, policy, missing):
    grid = proposed(tmp_path, policy=policy).grid(toy_app(), propose=True, strategy=fed_avg())
    nobody(grid, "[plan-pinned]; its log says what its folder lacks")
    assert f"policy.toml says nothing of {missing}; a site" in caplog.text


def test_a_plan_that_was_not_proposed(tmp_path, caplog):
    made = proposed(tmp_path)
    grid = made.grid(toy_app(), strategy=fed_avg())
    nobody(grid, "[plan-pinned]; where sites pin a roster only, the server proposes")


def test_a_plan_in_the_configuration(world, tmp_path):
    made = world()
    other = make_plan(made.plan.roster, 5, clip=4.0)
    grid = made.grid(toy_app(), plan=other, strategy=fed_avg())
    nobody(grid, "[plan-differs]")  # the sites have pinned another one


def nobody(grid, why):
    """The grid gives up, with the reason, and Flower's strategy does not wait for ever."""
    for call in (grid.get_node_ids, lambda: start(grid)):
        with pytest.raises(ThresholdError, match="take part") as caught:
            call()
        assert caught.value.rule == "no-parties"
        assert why in str(caught.value)
    assert grid.reports == []


def start(grid):
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_the_metrics_of_evaluation_have_a_plan(world):
    made = world()
    with pytest.raises(MisuseError):
        made.grid(toy_app(), evaluate_metrics={"loss": 1.0})
    plan = make_plan(made.plan.roster, 3)
    with pytest.raises(MisuseError, match="vectors of length 3"):
        made.grid(toy_app(), evaluate=plan, evaluate_metrics={"loss": 1.0})
