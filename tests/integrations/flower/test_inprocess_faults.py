"""Sites that leave, come back, restart or are asked twice, at every exchange."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg
from integrations.flower.worlds import (
    WEIGHTS,
    fed_avg,
    level_bound,
    start_arrays,
    step_of,
    toy_app,
    values_of,
)

from secagg.integrations.flower import Delivery, Fault
from secagg_protocols.errors import MisuseError, ThresholdError

THREATS = ["semi-honest", "malicious-server"]
COLD = ["advertise", "share"]
WARM = {"semi-honest": ["input", "reveal"], "malicious-server": ["input", "consent", "reveal"]}
WEST = 3  # its index


def at(number, round_, step, *faults):
    """What happens to one message: that to node ``number`` at a step of a round."""
    met = []

    def fault(delivery: Delivery):
        if (delivery.number, delivery.round, delivery.step) == (number, round_, step):
            met.append(delivery)
            return faults
        return None

    fault.met = met
    return fault


def run(made, rounds=3, app=None, arrays=None, **config):
    grid = made.grid(app or toy_app(), rounds=rounds, **config)
    result = fed_avg(len(made.names)).start(
        grid=grid, initial_arrays=arrays or start_arrays(), num_rounds=rounds
    )
    return grid, result


def expected(grid, made):
    """The model after the rounds, from who was in each sum."""
    value, bound = values_of(start_arrays()), 1e-12
    for report in grid.reports:
        if report.outcome != "done":
            continue
        inside = [made.names.index(name) for name in report.survivors]
        weights = [WEIGHTS[number] for number in inside]
        steps = [np.concatenate([step_of(number, 4), step_of(number, 1)]) for number in inside]
        value = value + np.average(steps, axis=0, weights=weights)
        bound += level_bound(made.plan, weights)
    return value, bound


def check_model(grid, made, result):
    value, bound = expected(grid, made)
    assert np.abs(values_of(result) - value).max() <= bound


@pytest.mark.parametrize("threat", THREATS)
def test_exchanges_of_a_round(world, threat):
    """Two a round, three where the server may be malicious; two more at the start."""
    made = world(threat=threat)
    grid, result = run(made)
    steps = [[each.slot for each in report.exchanges] for report in grid.reports]
    assert steps == [COLD + WARM[threat], WARM[threat], WARM[threat]]
    # One message a site for each, the hello before, and what ends the session.
    ends = 2 if threat == "malicious-server" else 1
    counts = {node.count for node in made.inner.nodes.values()}
    assert counts == {1 + sum(map(len, steps)) + ends}
    check_model(grid, made, result)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.LOSE])
@pytest.mark.parametrize(
    ("threat", "step"), [(threat, step) for threat in THREATS for step in COLD + WARM[threat]]
)
def test_a_dropout_at_every_exchange_of_the_first_round(world, threat, step, fault):
    made = world(threat=threat)
    happens = at(WEST, 1, step, fault)
    grid, result = run(made, rounds=4, fault=happens)
    assert len(happens.met) == 1
    assert [report.outcome for report in grid.reports] == ["done"] * 4
    counted = step in {"consent", "reveal"}  # its input is in the sum already
    assert ("west" in grid.reports[0].survivors) == counted
    assert "west" in grid.reports[-1].survivors
    check_model(grid, made, result)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.LOSE])
@pytest.mark.parametrize(
    ("threat", "step"), [(threat, step) for threat in THREATS for step in WARM[threat]]
)
def test_a_dropout_at_every_exchange_of_a_later_round(world, threat, step, fault):
    made = world(threat=threat)
    happens = at(WEST, 2, step, fault)
    grid, result = run(made, rounds=5, fault=happens)
    assert len(happens.met) == 1
    assert [report.outcome for report in grid.reports] == ["done"] * 5
    assert "west" in grid.reports[-1].survivors
    check_model(grid, made, result)


@pytest.mark.parametrize("kind", [Fault.RESTART_BEFORE, Fault.RESTART_AFTER, Fault.TWICE])
@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("round_", [1, 2])
def test_restarts_and_duplicates_change_nothing(world, threat, kind, round_):
    """At every step of a round at once, and each at another site."""
    made = world(threat=threat)
    steps = (COLD if round_ == 1 else []) + WARM[threat]

    def fault(delivery):
        if delivery.round == round_ and delivery.step == steps[delivery.number % len(steps)]:
            return kind
        return None

    grid, result = run(made, rounds=3, fault=fault)
    assert [len(report.survivors) for report in grid.reports] == [5, 5, 5]
    check_model(grid, made, result)


def test_a_late_reply_changes_nothing(world):
    made = world()
    grid, result = run(made, rounds=4, fault=at(WEST, 2, "input", Fault.LATE))
    assert "west" not in grid.reports[1].survivors
    assert "west" in grid.reports[-1].survivors
    check_model(grid, made, result)


def test_sites_that_are_missing_are_failures_for_the_strategy(world, caplog):
    made = world()
    with caplog.at_level(logging.INFO):
        run(made, rounds=1, fault=at(WEST, 1, "input", Fault.DROP))
    assert "Received 4 results and 1 failures" in caplog.text
    assert "error in reply from node 1004: not in the secure sum of this round" in caplog.text


def drop_two(delivery):
    """Two sites are gone in round 2, and the plan bears one."""
    return Fault.DROP if delivery.round == 2 and delivery.number in {1, WEST} else None


def drop_all(delivery):
    """One site more than the plan bears, in every round."""
    gone = delivery.number in {1, WEST} and delivery.step != "hello"
    return Fault.DROP if gone else None


def test_a_round_without_a_sum_raises(world):
    made = world()
    grid = made.grid(toy_app(), fault=drop_two)
    with pytest.raises(ThresholdError) as caught:
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert [report.outcome for report in grid.reports] == ["done", "aborted"]
    assert grid.reports[-1].rule == caught.value.rule


@pytest.mark.parametrize("threat", THREATS)
def test_a_round_without_a_sum_is_skipped_where_one_says_so(world, threat, caplog):
    made = world(threat=threat)
    grid, result = run(made, rounds=4, fault=drop_two, on_failure="skip_round")
    assert [report.outcome for report in grid.reports] == ["done", "aborted", "done", "done"]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    number = grid.reports[1].number
    assert any(f"train round {number} is skipped" in each.getMessage() for each in warnings)
    assert sorted(result.train_metrics_clientapp) == [1, 3, 4]
    check_model(grid, made, result)  # of three rounds, as if the second had not been


def test_one_line_for_every_exchange_and_every_round(world, caplog):
    made = world()
    with caplog.at_level(logging.INFO, "secagg"):
        run(made, rounds=2)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("secagg train")]
    assert sum("answered" in line for line in lines) >= 6
    assert sum("the sum of 5 sites" in line for line in lines) == 2


def test_a_node_that_comes_back_under_another_id(world, caplog):
    made = world()
    grid = made.grid(toy_app())
    strategy = fed_avg(min_train_nodes=4, min_available_nodes=4)
    first = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    made.inner.offline.add(1004)
    made.inner.add(toy_app(), made.nodes[WEST])
    strategy.start(grid=grid, initial_arrays=first.arrays, num_rounds=1)
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1005, 1006]
    assert "west" in grid.reports[-1].survivors


def test_a_node_that_is_away_is_a_dropout(world):
    made = world()
    grid = made.grid(toy_app())
    strategy = fed_avg(min_train_nodes=4, min_available_nodes=4)
    first = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    made.inner.offline.add(1004)
    second = strategy.start(grid=grid, initial_arrays=first.arrays, num_rounds=1)
    made.inner.offline.clear()
    strategy.start(grid=grid, initial_arrays=second.arrays, num_rounds=3)
    assert [len(report.survivors) for report in grid.reports][:2] == [5, 4]
    assert len(grid.reports[-1].survivors) == 5


def test_more_rounds_than_were_said_are_refused(world):
    made = world()
    grid = made.grid(toy_app(), rounds=1)
    with pytest.raises(MisuseError, match="started for 2 rounds, and the configuration says 1"):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert grid.reports == []
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_a_run_without_any_sum_is_no_success(world, caplog):
    made = world()
    grid = made.grid(toy_app(), fault=drop_all, on_failure="skip_round")
    with pytest.raises(ThresholdError) as caught:
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert caught.value.rule == "no-sum"
    assert [report.outcome for report in grid.reports] == ["aborted"] * 3
    assert caplog.text.count("is skipped") == 3


def test_a_session_that_is_ended_by_hand(world):
    made = world()
    grid = made.grid(toy_app(), rounds=5)
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    before = made.inner.nodes[1001].count
    grid.finish()
    after = made.inner.nodes[1001].count
    assert after > before
    grid.finish()
    assert made.inner.nodes[1001].count == after
    with pytest.raises(MisuseError, match="the session is ended"):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_a_strategy_that_samples_too_few_sites_is_told(world, caplog):
    made = world()
    grid = made.grid(toy_app())
    strategy = fed_avg(fraction_train=0.4, min_train_nodes=2)
    with pytest.raises(ThresholdError, match="sampled 2 sites, and the plan's sums are of 4"):
        strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert [(r.number, r.outcome, r.exchanges) for r in grid.reports] == [(0, "aborted", ())]
    # Nobody was asked for anything but its name, so that no input of the model is used up.
    assert {node.count for node in made.inner.nodes.values()} == {1}


def test_a_round_that_samples_too_few_is_skipped_and_the_next_is_whole(world):
    made = world()
    grid = made.grid(toy_app(), on_failure="skip_round")

    class Uneven(FedAvg):
        def configure_train(self, server_round, *rest):
            self.fraction_train, self.min_train_nodes = (0.4, 2) if server_round == 2 else (1.0, 5)
            return super().configure_train(server_round, *rest)

    strategy = fed_avg(kind=Uneven)
    result = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=4)
    assert [report.outcome for report in grid.reports] == ["done", "aborted", "done", "done"]
    assert [len(report.exchanges) for report in grid.reports] == [4, 0, 2, 2]
    check_model(grid, made, result)


def test_a_failed_strategy_stays_as_it_was(world):
    """FedAvgM after a skipped round: its momentum is that of the rounds that had a sum."""
    made = world()

    def start(grid, rounds):
        strategy = fed_avg(kind=flower.FedAvgM, server_momentum=0.9)
        return strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=rounds)

    secure = start(made.grid(toy_app(), fault=drop_two, on_failure="skip_round"), 3)
    plain = start(made.plain(toy_app(mods=())), 2)
    bound = 2 * 2 * level_bound(made.plan, WEIGHTS) + 1e-12
    assert np.abs(values_of(secure) - values_of(plain)).max() <= bound
