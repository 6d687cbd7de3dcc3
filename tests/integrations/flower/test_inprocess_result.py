"""Under Flower in one process: the model is that of the run without secagg, to quantisation."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from integrations.flower.worlds import (
    WEIGHTS,
    fed_avg,
    level_bound,
    start_arrays,
    step_of,
    toy_app,
    values_of,
)

from secagg.integrations.flower import records, secagg_mod
from secagg_protocols.errors import ThresholdError

ROUNDS = 3
PLAIN = ()


def both(made, strategy, *, rounds=ROUNDS, dtype=np.float64, arrays=None, app=None, **config):
    """The same run with secagg and without; results and strategies."""
    app = app or toy_app
    first, second = strategy(), strategy()
    given = arrays or (lambda: start_arrays(dtype))
    grid = made.grid(app(), rounds=rounds, **config)
    secure = first.start(grid=grid, initial_arrays=given(), num_rounds=rounds)
    plain = second.start(
        grid=made.plain(app(mods=PLAIN)), initial_arrays=given(), num_rounds=rounds
    )
    return grid, secure, plain, second


def show(name, difference, bound):
    print(f"{name}: largest difference {difference:.3g}, bound {bound:.3g}")
    assert difference <= bound


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_fedavg_is_that_of_the_plain_run(world, threat):
    made = world(threat=threat)
    grid, secure, plain, _ = both(made, fed_avg)
    assert [report.outcome for report in grid.reports] == ["done"] * ROUNDS
    # Every round moves the model by a mean that is off by one level a site at most.
    bound = level_bound(made.plan, WEIGHTS, ROUNDS) + 1e-12
    show(f"FedAvg, {threat}", np.abs(values_of(secure) - values_of(plain)).max(), bound)


def test_fedprox_is_that_of_the_plain_run(world):
    made = world()
    _, secure, plain, _ = both(made, lambda: fed_avg(kind=flower.FedProx, proximal_mu=0.5))
    bound = level_bound(made.plan, WEIGHTS, ROUNDS) + 1e-12
    show("FedProx", np.abs(values_of(secure) - values_of(plain)).max(), bound)


def test_fedavgm_is_that_of_the_plain_run(world):
    made = world()
    rate, momentum = 0.7, 0.9
    _, secure, plain, _ = both(
        made,
        lambda: fed_avg(kind=flower.FedAvgM, server_learning_rate=rate, server_momentum=momentum),
    )
    one = level_bound(made.plan, WEIGHTS)
    speed = bound = 0.0
    for _ in range(ROUNDS):  # an error of one level stays in the momentum
        speed = momentum * speed + one
        bound += rate * speed
    show("FedAvgM", np.abs(values_of(secure) - values_of(plain)).max(), bound + 1e-12)


def test_fedadam_is_that_of_the_plain_run(world):
    made = world()
    eta, beta_1, beta_2, tau = 0.1, 0.9, 0.99, 1e-3
    _, secure, plain, after = both(
        made,
        lambda: fed_avg(kind=flower.FedAdam, eta=eta, beta_1=beta_1, beta_2=beta_2, tau=tau),
    )
    # x' = x + eta m / (sqrt(v) + tau): m moves by at most an error of the means, and sqrt(v), a
    # weighted Euclidean norm of the means, by at most that times its weights' norm. The toy app's
    # step does not depend on the model, so errors of a round do not come back through training.
    one = level_bound(made.plan, WEIGHTS)
    worst = 0.0
    m = np.concatenate([np.ravel(value) for value in after.m_t.values()])
    v = np.concatenate([np.ravel(value) for value in after.v_t.values()])
    delta = abs(m) / (1 - beta_1**ROUNDS)  # the same every round
    for number in range(1, ROUNDS + 1):
        first = (1 - beta_1**number) * one
        root = np.sqrt(np.maximum(v - (1 - beta_2) * (ROUNDS - number) * delta**2, 0.0)) - one
        size = (1 - beta_1**number) * (delta + one)
        below = np.maximum(root, 0.0) + tau
        worst += eta * float(np.max(first / below + size * one / below**2))
    show("FedAdam", np.abs(values_of(secure) - values_of(plain)).max(), worst + 1e-12)


@pytest.mark.parametrize("name", ["FedAdagrad", "FedYogi"])
def test_other_adaptive_strategies_are_close(world, name):
    made = world()
    kind = getattr(flower, name)
    _, secure, plain, _ = both(made, lambda: fed_avg(kind=kind, eta=0.1))
    assert np.abs(values_of(secure) - values_of(plain)).max() < 1e-4


# Shapes, types, weights.


def mixed_arrays():
    return ArrayRecord(
        {
            "half": Array(np.full((3,), 0.25, dtype=np.float16)),
            "single": Array(np.full((2, 2), 1.5, dtype=np.float32)),
            "double": Array(np.full((1, 2), -3.0)),
            "scalar": Array(np.asarray(7.0, dtype=np.float32)),
            "steps": Array(np.asarray(1000, dtype=np.int64)),
            "small": Array(np.asarray([1, 2], dtype=np.uint8)),
            "none": Array(np.zeros((0, 4), dtype=np.float32)),
        }
    )


def test_shapes_and_types_stay(world):
    """What the strategy is given has the model's own shapes and types, and so has the site."""
    seen = []

    class Looks(flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            seen.append(list(replies))
            return super().aggregate_train(server_round, seen[-1])

    made = world(length=13)
    grid = made.grid(toy_app(), linear=("Looks",))
    result = fed_avg(kind=Looks).start(grid=grid, initial_arrays=mixed_arrays(), num_rounds=1)
    for reply in seen[0]:
        for name, array in mixed_arrays().items():
            found = reply.content["arrays"][name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape), name
    assert result.arrays["half"].numpy().dtype == np.float16
    half = result.arrays["half"].numpy().astype(np.float64)
    plain = fed_avg().start(
        grid=made.plain(toy_app(mods=PLAIN)), initial_arrays=mixed_arrays(), num_rounds=1
    )
    expected = plain.arrays["half"].numpy().astype(np.float64)
    assert np.abs(half - expected).max() <= 5 * np.finfo(np.float16).eps
    single = result.arrays["single"].numpy() - plain.arrays["single"].numpy()
    bound = level_bound(made.plan, WEIGHTS) + 8 * np.finfo(np.float32).eps * 8
    show("float32", float(np.abs(single).max()), bound)


def test_the_order_of_arrays_in_a_reply_does_not_matter(world):
    def turned(message, context):
        (record,) = message.content.array_records.values()
        number = int(context.node_config["partition-id"])
        out = {name: Array(np.asarray(a.numpy() + number / 4)) for name, a in record.items()}
        content = RecordDict(
            {
                "other name": ArrayRecord(dict(reversed(out.items()))),
                "numbers": MetricRecord({"num-examples": WEIGHTS[number]}),
            }
        )
        return Message(content, reply_to=message)

    made = world()
    _, secure, plain, _ = both(
        made,
        fed_avg,
        rounds=1,
        app=lambda mods=None: (
            toy_app(mods, train=turned) if mods is not None else toy_app(train=turned)
        ),
    )
    expected = values_of(start_arrays()) + np.average(range(5), weights=WEIGHTS) / 4
    assert np.allclose(values_of(secure), expected, atol=1e-6)
    assert np.allclose(values_of(plain)[[1, 2, 3, 4, 0]], expected, atol=1e-9)


def test_the_total_weight_is_exact():
    for total in (5, 6, 7, 452, 3, 0):
        parts = records.shares_of(total, 5)
        assert sum(parts) == total
        assert max(parts) - min(parts) <= 1
        assert all(isinstance(part, int) for part in parts)
    assert math.isclose(sum(records.shares_of(10.5, 4)), 10.5)


def test_other_keys_of_a_strategy_are_taken(world):
    def train(message, context):
        assert set(message.content) == {"model", "settings"}
        number = int(context.node_config["partition-id"])
        record = message.content["model"]
        out = {name: Array(np.asarray(a.numpy() + number / 4)) for name, a in record.items()}
        content = RecordDict(
            {"model": ArrayRecord(out), "m": MetricRecord({"rows": WEIGHTS[number]})}
        )
        return Message(content, reply_to=message)

    made = world()
    for node in made.nodes:
        node["secagg-weight"] = "rows"  # a site says itself what it is weighted by
    grid = made.grid(toy_app(train=train))
    strategy = fed_avg(weighted_by_key="rows", arrayrecord_key="model", configrecord_key="settings")
    result = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    expected = values_of(start_arrays()) + np.average(range(5), weights=WEIGHTS) / 4
    assert np.allclose(values_of(result), expected, atol=1e-6)


def test_a_plan_without_weights_counts_every_site_the_same(world, caplog):
    made = world(max_weight=1)
    with caplog.at_level(logging.INFO, "secagg"):
        grid = made.grid(toy_app())
    assert "every site counts the same" in caplog.text
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    plain = fed_avg(weighted_by_key="one")
    app = toy_app(mods=PLAIN, metrics=["one"])
    grid = made.plain(app)
    for _, node in grid.nodes.items():
        node.app = app

    def ones(message, context, call_next):
        reply = call_next(message, context)
        reply.content["metrics"]["one"] = 1
        return reply

    for node in grid.nodes.values():
        node.app = toy_app(mods=[ones])
    expected = plain.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert np.allclose(values_of(result), values_of(expected), atol=1e-4)


# Metrics.


def test_metrics_in_the_sum_are_the_weighted_means(world):
    made = world(length=7)
    names = ["loss", "accuracy"]
    bounds = {"loss": 5.0, "accuracy": 1.0}
    grid, secure, plain, _ = both(
        made,
        fed_avg,
        app=lambda **options: toy_app(metrics=names, **options),
        metrics=bounds,
    )
    assert len(grid.reports) == ROUNDS
    for number in range(1, ROUNDS + 1):
        mine, theirs = secure.train_metrics_clientapp[number], plain.train_metrics_clientapp[number]
        assert set(mine) == set(theirs) == set(names)
        for name in names:
            bound = 16 * bounds[name] / made.plan.stages[1].levels * 5 / sum(WEIGHTS) + 1e-9
            show(name, abs(mine[name] - theirs[name]), bound)
    bound = level_bound(made.plan, WEIGHTS, ROUNDS) + 1e-12
    show("model", np.abs(values_of(secure) - values_of(plain)).max(), bound)


SECRETS = {"loss": 0.7718281828, "patient": 41.42424242424}


def test_what_is_not_in_the_sum_does_not_reach_the_server(world):
    """Metrics, the weight, arrays and names of a site are in no byte that the server gets."""

    def talks(message, context):
        number = int(context.node_config["partition-id"])
        (record,) = message.content.array_records.values()
        out = {name: Array(np.asarray(a.numpy() + 0.123456789)) for name, a in record.items()}
        content = RecordDict(
            {
                "arrays": ArrayRecord(out),
                "metrics": MetricRecord({**SECRETS, "num-examples": 613 + number}),
            }
        )
        return Message(content, reply_to=message)

    made = world()
    grid = made.grid(toy_app(train=talks), record=True, rounds=2)
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert dict(result.train_metrics_clientapp[1]) == {}
    got = b"".join(made.inner.received)
    assert len(got) > 1000
    for value in (*SECRETS.values(), 0.123456789, *(values_of(start_arrays()) + 0.123456789)):
        for kind in (np.float64, np.float32, np.float16):
            if kind is np.float16 or value == 0:
                continue
            for order in "<>":
                assert (
                    np.asarray(value, dtype=np.dtype(kind).newbyteorder(order)).tobytes() not in got
                )
        assert str(value).encode() not in got
    for name in SECRETS:
        assert name.encode() not in got
    # The same search finds them without secagg, so that it can find something.
    plain = made.plain(toy_app(mods=PLAIN, train=talks))
    plain._record = True
    fed_avg().start(grid=plain, initial_arrays=start_arrays(), num_rounds=1)
    seen = b"".join(plain.received)
    assert b"patient" in seen
    assert np.float64(SECRETS["loss"]).tobytes() in seen


def test_a_metric_that_a_site_has_not_keeps_it_out(world, caplog):
    made = world(length=6)
    apps = [toy_app(metrics=["loss"] if number else []) for number in range(5)]
    grid = made.grid(apps, metrics={"loss": 5.0})
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == tuple(made.names[1:])
    assert "the site has no metric 'loss'" in caplog.text


# Which sites.


def test_a_strategy_that_samples_some_of_the_sites(world, caplog):
    """The others stay in the session, out of the sum, and see nothing of the model."""
    made = world(dropouts=2, min_honest=2)
    grid = made.grid(toy_app(), record=True, rounds=4)
    strategy = fed_avg(fraction_train=0.6, min_train_nodes=3)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=4)
    assert [len(report.survivors) for report in grid.reports] == [3] * 4
    # Sites that were not asked to train stay warm: no round but the first is a cold one.
    assert [len(report.exchanges) for report in grid.reports] == [4, 2, 2, 2]
    chosen = {report.survivors for report in grid.reports}
    assert len(chosen) > 1
    models = [sent for sent in made.inner.sent if b"arraychunk_ids" in sent and b'"w"' in sent]
    assert len(models) == 3 * 4
    assert "the training failed" not in caplog.text


def test_the_model_of_a_sampled_sum_is_the_mean_of_the_sampled(world):
    made = world(dropouts=2, min_honest=2)
    grid = made.grid(toy_app())
    strategy = fed_avg(fraction_train=0.6, min_train_nodes=3)
    result = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    inside = [made.names.index(name) for name in grid.reports[0].survivors]
    steps = [np.concatenate([step_of(n, 4), step_of(n, 1)]) for n in inside]
    mean = np.average(steps, axis=0, weights=[WEIGHTS[n] for n in inside])
    bound = level_bound(made.plan, [WEIGHTS[n] for n in inside]) + 1e-12
    show("sampled", np.abs(values_of(result) - values_of(start_arrays()) - mean).max(), bound)


# Evaluation.


def test_evaluation_without_a_plan_is_withheld_and_said_once(world, caplog):
    made = world()
    grid = made.grid(toy_app(), record=True)
    with caplog.at_level(logging.INFO):
        result = fed_avg(fraction_evaluate=1.0).start(
            grid=grid, initial_arrays=start_arrays(), num_rounds=2
        )
    assert result.evaluate_metrics_clientapp == {}
    assert caplog.text.count("the sites' metrics of evaluation are withheld") == 1
    assert caplog.text.count("the sites' metrics of training are withheld") == 1
    assert len(grid.reports) == 2
    kinds = [b"evaluate" in sent for sent in made.inner.sent]
    assert not any(kinds)


def test_evaluation_with_a_plan_is_a_sum_of_its_own(world):
    made = world(evaluate=2)
    bounds = {"loss": 10.0, "accuracy": 1.0}
    grid = made.grid(toy_app(), evaluate_metrics=bounds, rounds=2, record=True)
    result = fed_avg(fraction_evaluate=1.0).start(
        grid=grid, initial_arrays=start_arrays(), num_rounds=2
    )
    expected = np.average([1.0 + number for number in range(5)], weights=WEIGHTS)
    for number in (1, 2):
        found = result.evaluate_metrics_clientapp[number]
        assert set(found) == {"loss", "accuracy"}
        assert abs(found["loss"] - expected) < 1e-4
        assert abs(found["accuracy"] - 0.5) < 1e-5
    assert [report.task for report in grid.reports] == ["train", "train", "evaluate", "evaluate"]
    assert {report.outcome for report in grid.reports} == {"done"}


def test_an_evaluation_without_the_mod_gets_no_model(world, caplog):
    """The mod is missing from @app.evaluate: the hello shows it, and nothing is sent there."""
    made = world(evaluate=2)
    app = toy_app(evaluate_mods=[])
    bounds = {"loss": 10.0, "accuracy": 1.0}
    grid = made.grid(app, evaluate_metrics=bounds, on_failure="skip_round", record=True)
    with pytest.raises(ThresholdError, match=r"its app needs @app\.evaluate") as caught:
        fed_avg(fraction_evaluate=1.0).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "no-parties"
    assert caplog.text.count("is kept out") == 5
    # Before anybody trains: a question to each node for each of the two tasks.
    assert grid.reports == []
    assert len(made.inner.sent) == 10


# Beside other mods, and what a grid is besides.


def test_mods_of_flower_below_ours(world):
    """Clipping at the site by Flower's own mod, and its wrapper without noise: as without us."""

    def clipped(mods=(secagg_mod,)):
        return toy_app(mods=[*mods, fixedclipping_mod])

    def strategy():
        return flower.DifferentialPrivacyClientSideFixedClipping(fed_avg(), 0.0, 0.5, 5)

    made = world()
    grid, secure, plain, _ = both(made, strategy, rounds=1, app=clipped)
    assert grid.reports[0].survivors == tuple(made.names)
    bound = level_bound(made.plan, WEIGHTS) + 1e-12
    show("clipped", np.abs(values_of(secure) - values_of(plain)).max(), bound)
    assert np.linalg.norm(values_of(secure) - values_of(start_arrays())) <= 0.5 + 1e-6


def test_noise_at_the_site_by_flowers_mod(world):
    def noisy(mods=(secagg_mod,)):
        return toy_app(mods=[*mods, LocalDpMod(1.0, 1.0, 100.0, 1e-5)])

    made = world()
    grid = made.grid(noisy())
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == tuple(made.names)
    assert np.isfinite(values_of(result)).all()


def test_the_rest_of_flowers_interface_is_that_of_the_inner_grid(world):
    made = world()
    grid = made.grid(toy_app())
    assert sorted(info.node_id for info in grid.get_nodes()) == [1001, 1002, 1003, 1004, 1005]
    grid.set_run("a run")
    assert grid.run == made.inner.run == "a run"
    message = grid.create_message(RecordDict(), "query", 1001, "group")
    assert message.metadata.group_id == "group"
    assert list(grid.pull_messages(["nothing"])) == []
    assert grid.send_and_receive([]) == []
