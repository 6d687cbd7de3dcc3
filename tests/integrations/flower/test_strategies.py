"""Strategies of the mean pass; others are refused, with the reason, before anything is sent."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import strategy as flower
from integrations.flower.worlds import WEIGHTS, fed_avg, start_arrays, toy_app

from secagg.integrations.flower import records, strategies
from secagg.integrations.layout import Metrics
from secagg_protocols.errors import MisuseError

LINEAR = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedAdam": {"eta": 0.1},
    "FedAdagrad": {"eta": 0.1},
    "FedYogi": {"eta": 0.1},
    "FedProx": {"proximal_mu": 0.5},
}
OPTIONS = {"QFedAvg": {"client_learning_rate": 0.1}}
NON_LINEAR = [
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
    "QFedAvg",
    "FedXgbBagging",
    "FedXgbCyclic",
]


def refusal(world, strategy, arrays=None, sent=5, **config):
    """What a start with this strategy raises; nothing was sent but the hello, if that."""
    made = world()
    grid = made.grid(toy_app(), record=True, **config)
    with pytest.raises(MisuseError) as caught:
        strategy.start(grid=grid, initial_arrays=arrays or start_arrays(), num_rounds=1)
    assert caught.value.rule == "strategy"
    assert len(made.inner.sent) == sent
    assert not grid.reports
    return str(caught.value)


def passes(world, strategy, **config):
    grid = world().grid(toy_app(), **config)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert [report.outcome for report in grid.reports] == ["done"]
    return grid


@pytest.mark.parametrize("name", LINEAR)
def test_linear_strategies_pass(world, name):
    passes(world, fed_avg(kind=getattr(flower, name), **LINEAR[name]))


@pytest.mark.parametrize("name", NON_LINEAR)
def test_strategies_that_need_single_updates_are_refused_by_name(world, name):
    kind = getattr(flower, name)
    one = ArrayRecord([np.zeros(5)])
    options = OPTIONS.get(name, {})
    strategy = kind() if name == "FedXgbCyclic" else fed_avg(kind=kind, **options)
    text = refusal(world, strategy, one, sent=0, linear=(name,))
    assert text.startswith(f"{name} is refused: {strategies.REFUSED[name]}")


def test_a_subclass_of_a_refused_strategy_is_refused(world):
    class Mine(flower.FedMedian):
        pass

    assert "median" in refusal(world, fed_avg(kind=Mine), sent=0, linear=("Mine",))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: flower.DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, 5),
        lambda inner: flower.DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.1, 5),
        lambda inner: flower.DifferentialPrivacyClientSideAdaptiveClipping(inner, 0.1, 5),
    ],
)
def test_wrappers_that_look_at_single_updates_are_refused(world, wrap):
    assert "clip" in refusal(world, wrap(fed_avg()), sent=0)


def test_a_wrapper_that_adds_its_own_noise_is_refused_until_it_is_vouched_for(world):
    def wrapped():
        return flower.DifferentialPrivacyClientSideFixedClipping(fed_avg(), 0.1, 1.0, 5)

    assert "different updates" in refusal(world, wrapped())


def test_a_vouched_wrapper_passes(world):
    strategy = flower.DifferentialPrivacyClientSideFixedClipping(fed_avg(), 0.1, 1.0, 5)
    passes(world, strategy, linear=("DifferentialPrivacyClientSideFixedClipping",))


def test_what_a_wrapper_wraps_is_looked_at(world):
    inner = fed_avg(kind=flower.FedMedian)
    strategy = flower.DifferentialPrivacyClientSideFixedClipping(inner, 0.0, 1.0, 5)
    assert "FedMedian is refused" in refusal(world, strategy, sent=0)


class Holds(flower.FedAvg):
    """Leaves the work to another strategy, under whatever name."""

    def __init__(self, other, put, **options):
        super().__init__(**options)
        put(self, other)

    def aggregate_train(self, server_round, replies):
        (other,) = list(strategies.inner(self))[1:]
        return other.aggregate_train(server_round, replies)


@pytest.mark.parametrize(
    "put",
    [
        lambda self, other: setattr(self, "base", other),
        lambda self, other: setattr(self, "_all", [other]),
        lambda self, other: setattr(self, "by_round", {1: other}),
    ],
)
def test_what_a_wrapper_holds_anywhere_is_looked_at(world, put):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": 5, "min_available_nodes": 5}
    strategy = Holds(fed_avg(kind=flower.FedMedian), put, **options)
    assert "FedMedian is refused" in refusal(world, strategy, sent=0, linear=("Holds",))


def test_a_wrapper_of_what_passes_passes(world):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": 5, "min_available_nodes": 5}
    passes(world, Holds(fed_avg(), lambda self, other: setattr(self, "base", other), **options))


def test_a_start_of_its_own_is_found_behind_wraps(world):
    class Wrapped(flower.FedAvg):
        @functools.wraps(flower.FedAvg.start)
        def start(self, *args, **options):
            return super().start(*args, **options)

    assert "a start() of its own" in refusal(world, fed_avg(kind=Wrapped))


def test_a_start_of_its_own_is_found_at_the_object(world):
    strategy = fed_avg()
    strategy.start = functools.partial(flower.FedAvg.start, strategy)
    assert "a start() of its own" in refusal(world, strategy)


class Tried(flower.FedAvg):
    """Does with the replies' arrays what ``rule`` says."""

    rule = staticmethod(lambda values, weights: np.average(values, axis=0, weights=weights))

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies if reply.has_content()]
        weights = [float(each["metrics"]["num-examples"]) for each in contents]
        out = {}
        for name in contents[0]["arrays"]:
            values = [each["arrays"][name].numpy() for each in contents]
            out[name] = Array(np.asarray(self.rule(values, weights)))
        return ArrayRecord(out), MetricRecord()


def tried(rule):
    return fed_avg(kind=type("Tried", (Tried,), {"rule": staticmethod(rule)}))


def clipped_mean(values, weights):
    """Only single updates that stand out are changed."""
    limit = 100.0
    short = [v / max(1.0, float(np.linalg.norm(v)) / limit) for v in values]
    return np.average(short, axis=0, weights=weights)


@pytest.mark.parametrize(
    "rule",
    [
        lambda values, weights: np.median(values, axis=0),
        lambda values, weights: np.mean(values, axis=0),  # without the weights
        lambda values, weights: np.max(values, axis=0),
        lambda values, weights: values[0],
        lambda values, weights: np.exp(np.average(np.log(np.abs(values) + 1), axis=0)),
        clipped_mean,
    ],
)
def test_custom_strategies_that_are_not_linear_are_found_out(world, rule):
    assert "its arrays from different updates" in refusal(world, tried(rule))


def flat(values, weights):
    return np.mean(values, axis=0)


def median(values, weights):
    return np.median(values, axis=0)


def as_given(rule):
    """With a result of the type that the replies have."""
    return lambda values, weights: np.asarray(rule(np.stack(values).astype(float), weights)).astype(
        values[0].dtype
    )


COARSE = [
    np.full(5, 0.5, np.float16),
    np.full(5, 3e5, np.float32),
    np.full(5, 3, np.int8),
    np.full(5, 250, np.uint8),
    np.full(5, -7, np.int16),
    np.full(5, 3, np.int64),
]


@pytest.mark.parametrize("values", COARSE, ids=lambda values: str(values.dtype))
@pytest.mark.parametrize("rule", [flat, median])
def test_a_median_is_no_mean_in_coarse_types_either(world, values, rule):
    """Of half precision, bytes and large numbers rounding hides much."""
    text = refusal(world, tried(as_given(rule)), ArrayRecord({"w": Array(values)}))
    assert "its arrays from different updates" in text


@pytest.mark.parametrize("values", COARSE, ids=lambda values: str(values.dtype))
@pytest.mark.parametrize("name", LINEAR)
def test_linear_strategies_pass_in_coarse_types(world, name, values):
    strategy = fed_avg(kind=getattr(flower, name), **LINEAR[name])
    grid = world().grid(toy_app())
    start = ArrayRecord({"w": Array(values)})
    strategy.start(grid=grid, initial_arrays=start, num_rounds=1)
    assert [report.outcome for report in grid.reports] == ["done"]


def trimmed(values, weights):
    """A tenth of the replies at either end is left out: of ten, one."""
    cut = len(values) // 10
    return np.mean(np.sort(values, axis=0)[cut : len(values) - cut], axis=0)


def test_a_strategy_is_tried_with_as_many_replies_as_it_gets(world):
    """A tenth of five is none."""
    strategy = tried(trimmed)
    inner = world().plain(toy_app())
    for number, refused in ((5, False), (10, True)):
        while len(inner.nodes) < number:
            inner.add(toy_app(), {})
        strategy.min_train_nodes = strategy.min_available_nodes = number
        messages = list(strategy.configure_train(1, start_arrays(), ConfigRecord(), inner))
        setting = records.Setting("arrays", "num-examples", Metrics())
        if refused:
            with pytest.raises(MisuseError, match="different updates"):
                strategies.check_tried(strategy, messages, setting, max_weight=1)
        else:
            strategies.check_tried(strategy, messages, setting, max_weight=1)


@pytest.mark.parametrize(
    "rule",
    [
        lambda values, weights: np.average(values, axis=0, weights=weights),
        lambda values, weights: np.tanh(np.average(values, axis=0, weights=weights)),
    ],
)
def test_custom_strategies_of_the_mean_pass(world, rule):
    passes(world, tried(rule))


def test_counting_replies_is_no_trouble(world):
    """A mean without weights is what a plan without weights gives."""
    made = world(max_weight=1)
    strategy = tried(lambda values, weights: np.mean(values, axis=0))
    strategy.start(grid=made.grid(toy_app()), initial_arrays=start_arrays(), num_rounds=1)


class Broken(flower.FedAvg):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("a handle that cannot be copied")


def test_a_strategy_that_cannot_be_tried_is_refused(world):
    assert "a handle that cannot be copied" in refusal(world, fed_avg(kind=Broken))


def test_a_strategy_that_cannot_be_tried_may_be_vouched_for(world):
    passes(world, fed_avg(kind=Broken), linear=("Broken",))


def largest(contents, weighted_by_key):
    return MetricRecord({"loss": max(each["metrics"]["loss"] for each in contents)})


def test_an_aggregation_of_metrics_that_is_not_linear_is_refused(world):
    made = world(length=6)
    strategy = fed_avg(train_metrics_aggr_fn=largest)
    grid = made.grid(toy_app(metrics=["loss"]), metrics={"loss": 10.0})
    with pytest.raises(MisuseError, match="its metrics from different updates"):
        strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_an_aggregation_that_misses_withheld_metrics_says_so_before_training(world):
    text = refusal(world, fed_avg(train_metrics_aggr_fn=largest))
    assert "KeyError: 'loss'" in text
    assert "withheld" in text


def test_trying_a_strategy_leaves_it_as_it_was(world, caplog):
    strategy = fed_avg(kind=flower.FedAdam)
    made = world()
    grid = made.grid(toy_app())
    messages = list(strategy.configure_train(1, start_arrays(), ConfigRecord(), grid))
    with caplog.at_level(logging.INFO):
        strategies.check_tried(
            strategy,
            messages,
            grid._setting("train", strategy, messages[0].content),
            max_weight=1000,
        )
    assert strategy.m_t is None
    assert "aggregate_train" not in caplog.text
    assert logging.getLogger("flwr").disabled is False


def test_a_loop_of_ones_own_names_its_strategy(world):
    made = world()
    grid = made.grid(toy_app())
    strategy = fed_avg()
    messages = list(strategy.configure_train(1, start_arrays(), ConfigRecord(), grid))
    with pytest.raises(MisuseError, match=r"give SecAggGrid\(\.\.\., strategy=\.\.\.\)") as caught:
        grid.send_and_receive(messages)
    assert caught.value.rule == "strategy"
    named = made.grid(toy_app(), strategy=strategy)
    messages = list(strategy.configure_train(1, start_arrays(), ConfigRecord(), named))
    replies = list(named.send_and_receive(messages))
    assert len(replies) == 5
    total = sum(reply.content["metrics"]["num-examples"] for reply in replies)
    assert total == sum(WEIGHTS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_types_are_tried_within_their_rounding(world, dtype):
    grid = world().grid(toy_app())
    strategy = fed_avg(kind=flower.FedAvgM, server_momentum=0.9)
    strategy.start(grid=grid, initial_arrays=start_arrays(dtype), num_rounds=1)
