"""Servers that would make the sum one site's update, and strategies that pass for linear."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from secagg.integrations import envelope
from secagg.integrations.flower import model_bytes, secagg_mod
from secagg.integrations.flower.carrier import Carrier
from secagg.integrations.flower.records import pack
from secagg_protocols.errors import MisuseError, ThresholdError

from .worlds import WEIGHTS, fed_avg, level_bound, make_world, start_arrays, toy_app, values_of


def idle_app():
    """An app with a second function, which returns the model as it is."""
    app = toy_app()

    @app.train("idle", mods=[secagg_mod])
    def idle(message, context):
        values = MetricRecord({"num-examples": 10})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": values})
        return Message(content, reply_to=message)

    return app


def crafted(monkeypatch, change):
    """A server whose messages to all sites but the first are changed."""
    before = Carrier._message

    def message(self, node, name, order, slot):
        made = before(self, node, name, order, slot)
        if name != "north":
            change(made)
        return made

    monkeypatch.setattr(Carrier, "_message", message)


def test_a_function_of_the_servers_choosing_gets_no_sum(world, monkeypatch):
    crafted(monkeypatch, lambda made: setattr(made.metadata, "message_type", "train.idle"))
    grid = world().grid(idle_app())
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_other_settings_for_some_get_no_sum(world, monkeypatch):
    def change(made):
        if "config" in made.content:
            made.content["config"] = ConfigRecord({"server-round": 1, "lr": 0.0})

    crafted(monkeypatch, change)
    grid = world().grid(toy_app())
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_another_run_configuration_for_some_gets_no_sum(world, caplog):
    made = world()
    grid = made.grid(toy_app(), run_config={"lr": 1.0})
    for index, node in enumerate(made.inner.nodes.values()):
        node.context.run_config = {"lr": 1.0 if index == 0 else 0.0}
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert "stated-settings" in caplog.text
    assert "a run configuration that is not SecAggConfig.run_config" in caplog.text
    assert "context.run_config" not in caplog.text


def test_the_same_run_configuration_is_no_hindrance(world):
    made = world()
    grid = made.grid(toy_app(), run_config={"lr": 0.5, "name": "trial", "deep": True})
    for node in made.inner.nodes.values():
        node.context.run_config = {"name": "trial", "deep": True, "lr": 0.5}
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert [len(report.survivors) for report in grid.reports] == [5, 5]


def test_a_weight_of_the_servers_choosing_gets_no_sum(world):
    def train(message, context):
        rare = 1000 if int(context.node_config["partition-id"]) == 3 else 1
        values = MetricRecord({"num-examples": 10, "rare-disease": rare})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": values})
        return Message(content, reply_to=message)

    grid = world().grid(toy_app(train=train))
    with pytest.raises(ThresholdError):
        fed_avg(weighted_by_key="rare-disease").start(
            grid=grid, initial_arrays=start_arrays(), num_rounds=1
        )


def test_a_site_without_weight_is_in_no_sum(world):
    def train(message, context):
        number = int(context.node_config["partition-id"])
        content = RecordDict(
            {
                "arrays": message.content["arrays"],
                "metrics": MetricRecord({"num-examples": 0 if number == 2 else 10}),
            }
        )
        return Message(content, reply_to=message)

    grid = world().grid(toy_app(train=train))
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == ("north", "south", "west", "centre")


class TwoModels(FedAvg):
    """Sends a second record of arrays, which an app might take for the model."""

    def configure_train(self, *args, **more):
        for message in super().configure_train(*args, **more):
            message.content["another"] = start_arrays()
            yield message


def test_two_models_in_one_message_are_refused(world):
    grid = world().grid(toy_app())
    with pytest.raises(MisuseError) as caught:
        fed_avg(kind=TwoModels).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "one-model"


def test_a_round_number_is_no_other_model(world):
    """Flower counts rounds in the settings; inputs are counted by the model all the same."""

    class Still(FedAvg):
        def aggregate_train(self, server_round, replies):
            super().aggregate_train(server_round, replies)
            return None, None  # the model stays as it is

    grid = world().grid(toy_app(), linear=("Still",))
    with pytest.raises(ThresholdError):
        fed_avg(kind=Still).start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert [report.outcome for report in grid.reports] == ["done", "done", "aborted"]


def median(replies):
    arrays = [reply.content["arrays"] for reply in replies]
    return ArrayRecord(
        {
            name: Array(np.median([each[name].numpy() for each in arrays], axis=0))
            for name in arrays[0]
        }
    )


class Quorum(FedAvg):
    """A median that gives nothing where there are few examples."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        if sum(reply.content["metrics"]["num-examples"] for reply in replies) < 100:
            return None, None
        return median(replies), None


class Nothing(FedAvg):
    """Gives nothing."""

    def aggregate_train(self, server_round, replies):
        return None, None


class Warm(FedAvg):
    """A mean at first, and a median from the second round on."""

    def aggregate_train(self, server_round, replies):
        if server_round < 2:
            return super().aggregate_train(server_round, replies)
        return median(list(replies)), None


class FewExamples(FedAvg):
    """Drops small sites."""

    def aggregate_train(self, server_round, replies):
        large = [r for r in replies if r.content["metrics"]["num-examples"] >= 50]
        return super().aggregate_train(server_round, large)


class OwnStart(FedAvg):
    """Does as it pleases."""

    def start(self, grid, initial_arrays, **_):
        messages = list(self.configure_train(1, initial_arrays, ConfigRecord(), grid))
        return median(list(grid.send_and_receive(messages)))


@pytest.mark.parametrize("kind", [Quorum, Nothing, Warm, FewExamples, OwnStart])
def test_strategies_that_would_silently_become_a_mean_are_refused(world, kind):
    made = world()
    grid = made.grid(toy_app(), record=True)
    with pytest.raises(MisuseError) as caught:
        fed_avg(kind=kind).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "strategy"
    assert not grid.reports


def test_a_strategy_that_is_given_does_not_hide_the_one_that_calls(world):
    made = world()
    grid = made.grid(toy_app(), strategy=fed_avg())
    with pytest.raises(MisuseError) as caught:
        fed_avg(kind=Warm).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "strategy"


def test_a_permanent_fault_of_the_server_is_not_skipped(world):
    made = world()
    grid = made.grid(toy_app(), on_failure="skip_round")
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    (made.folders["server"] / "journal").unlink()
    with pytest.raises(MisuseError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_an_app_that_exits_is_a_site_that_is_out(world):
    def train(message, context):
        if int(context.node_config["partition-id"]) == 1:
            raise SystemExit("patient 4711")
        return Message(
            RecordDict(
                {
                    "arrays": message.content["arrays"],
                    "metrics": MetricRecord({"num-examples": 3}),
                }
            ),
            reply_to=message,
        )

    made = world()
    grid = made.grid(toy_app(train=train), record=True)
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == ("north", "east", "west", "centre")
    assert np.allclose(values_of(result), values_of(start_arrays()), atol=1e-5)
    assert not any(b"patient 4711" in data for data in made.inner.received)


def first_app(seen):
    """An app that takes the first of everything."""

    def train(message, context):
        seen.append(
            (
                list(message.content),
                list(message.content["config"]),
                message.content["arrays"]["w"].data,
            )
        )
        values = MetricRecord({"num-examples": 10})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": values})
        return Message(content, reply_to=message)

    return toy_app(train=train)


def other_order(made):
    """The same records and arrays, in another order and encoding."""
    if "config" not in made.content:
        return
    config = dict(made.content["config"])
    arrays = {name: array.numpy() for name, array in made.content["arrays"].items()}
    made.content["config"] = ConfigRecord(dict(reversed(config.items())))
    arrays["w"] = np.asfortranarray(arrays["w"]).astype(">f8")
    made.content["arrays"] = ArrayRecord({name: Array(each) for name, each in arrays.items()})
    for name in ("arrays", "config"):  # moved to the end
        made.content[name] = made.content.pop(name)


def test_no_order_and_no_encoding_shows_an_app_whom_it_serves(world, monkeypatch):
    seen = []
    crafted(monkeypatch, other_order)
    grid = world().grid(first_app(seen))
    fed_avg().start(
        grid=grid,
        initial_arrays=start_arrays(),
        num_rounds=1,
        train_config=ConfigRecord({"lr": 0.1, "a": True}),
    )
    assert [len(report.survivors) for report in grid.reports] == [5]
    assert len(seen) == 5
    assert all(each == seen[0] for each in seen)


def test_true_is_not_one(world, monkeypatch):
    def change(made):
        if "config" in made.content:
            made.content["config"]["deep"] = 1

    crafted(monkeypatch, change)
    grid = world().grid(toy_app())
    with pytest.raises(ThresholdError):
        fed_avg().start(
            grid=grid,
            initial_arrays=start_arrays(),
            num_rounds=1,
            train_config=ConfigRecord({"deep": True}),
        )


def test_a_second_model_for_the_sites_gets_no_sum(world, monkeypatch, caplog):
    """The server's own program is not asked whether it sends one model."""
    crafted(monkeypatch, lambda made: made.content.update({"another": start_arrays()}))
    grid = world().grid(toy_app())
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert "[one-model]" in caplog.text


def test_the_bytes_of_a_model_are_those_of_its_values():
    arrays = start_arrays()
    known = model_bytes(arrays)
    values = {name: array.numpy() for name, array in arrays.items()}
    again = {name: Array(np.asfortranarray(each).astype(">f8")) for name, each in values.items()}
    again["b"] = Array(np.asarray(values["b"]))
    assert model_bytes(ArrayRecord(again)) == known
    assert model_bytes(arrays, "evaluate") != known
    again["b"] = Array(np.asarray(values["b"] + 1e-9))
    assert model_bytes(ArrayRecord(again)) != known


def test_a_policy_lists_models_by_these_bytes(tmp_path):
    digest = hashlib.sha256(model_bytes(start_arrays())).hexdigest()
    made = make_world(tmp_path / "parties")
    for name in made.names:
        text = f'smallest_cohort = 3\n[models]\nallowed = ["{digest}"]\n'
        (made.folders[name] / "policy.toml").write_text(text)
    grid = made.grid(toy_app())
    result = fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert len(grid.reports[0].survivors) == 5
    with pytest.raises(ThresholdError):  # the model of the second round is on no list
        fed_avg().start(grid=grid, initial_arrays=result.arrays, num_rounds=1)


def test_a_node_may_be_weighted_by_another_metric_where_it_says_so(world):
    made = world()
    for node in made.nodes:
        node["secagg-weight"] = "rows"
    grid = made.grid(toy_app(metrics=["rows"]))  # values below 1: no whole number
    with pytest.raises(ThresholdError):
        fed_avg(weighted_by_key="rows").start(
            grid=grid, initial_arrays=start_arrays(), num_rounds=1
        )

    def train(message, context):
        number = int(context.node_config["partition-id"])
        values = MetricRecord({"num-examples": 1, "rows": 10 + number})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": values})
        return Message(content, reply_to=message)

    grid = made.grid(toy_app(train=train))
    fed_avg(weighted_by_key="rows").start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == tuple(made.names)


class Outer(FedAvg):
    """Calls another strategy from a method of its own."""

    def begin(self, inner, **arguments):
        return inner.start(**arguments)


def test_a_strategy_within_another_is_tried_too(world):
    grid = world().grid(toy_app())
    arguments = {"grid": grid, "initial_arrays": start_arrays(), "num_rounds": 1}
    with pytest.raises(MisuseError, match="Warm is refused"):
        fed_avg(kind=Outer).begin(fed_avg(kind=Warm), **arguments)
    fed_avg(kind=Outer).begin(fed_avg(), **arguments)
    assert len(grid.reports[0].survivors) == 5


def test_two_messages_for_one_node_are_refused(world):
    grid = world().grid(toy_app(), strategy=fed_avg())
    content = RecordDict({"arrays": start_arrays(), "config": ConfigRecord({"server-round": 1})})
    nodes = [*grid.get_node_ids(), 1001]
    with pytest.raises(MisuseError) as caught:
        grid.send_and_receive([Message(content, node, "train") for node in nodes])
    assert caught.value.rule == "one-kind"


def test_a_node_that_could_not_answer_is_asked_again(world, caplog):
    """Its folder was open to others for a moment."""
    made = world()
    grid = made.grid(toy_app())
    made.folders["west"].chmod(0o755)
    assert 1004 not in grid.get_node_ids()
    assert "node 1004 did not say who it is; its own log may say why" in caplog.text
    made.folders["west"].chmod(0o700)
    assert 1004 in grid.get_node_ids()


def sealed(made):
    """States that sites keep, and what their Contexts hold."""
    files = [path for name in made.names for path in made.folders[name].glob("sessions/*.sealed")]
    kept = [len(node.context.state.get("secagg", {})) for node in made.inner.nodes.values()]
    return len(files), sum(kept)


def bytes_kept(made):
    states = [node.context.state["secagg"] for node in made.inner.nodes.values()]
    return sum(len(data) for record in states for data in record.values())


def nobody(message, context):
    raise RuntimeError("nothing today")


def test_a_session_whose_last_round_fails_is_ended(world, monkeypatch):
    made = world()
    ended = []
    grid = made.grid(toy_app(train=nobody), rounds=1)
    monkeypatch.setattr(grid._train, "finish", ended.append)
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert len(ended) == 1


def test_a_grid_ends_its_sessions_behind_with(world):
    made = world()
    with made.grid(toy_app(), rounds=5) as grid:
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
        size = bytes_kept(made)
    assert bytes_kept(made) < size / 2  # no seeds are kept
    with pytest.raises(MisuseError, match="the session is ended"):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_a_strategy_that_is_started_ends_its_session(world):
    """Nobody says how many rounds there are: Flower's own loop knows it."""
    made = world(evaluate=2)
    grid = made.grid(toy_app(), evaluate_metrics={"loss": 9.0, "accuracy": 1.0})
    sizes = []

    class Watching(FedAvg):
        def configure_train(self, *args):
            sizes.extend([bytes_kept(made)] if grid.reports else [])
            return super().configure_train(*args)

    strategy = fed_avg(kind=Watching, fraction_evaluate=1.0)
    first = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    ended = bytes_kept(made)
    assert ended < sizes[0] / 2  # no seeds are kept
    before = grid._train.session, grid._evaluate.session
    again = strategy.start(grid=grid, initial_arrays=first.arrays, num_rounds=2)
    assert not {grid._train.session, grid._evaluate.session} & set(before)
    assert bytes_kept(made) <= 2 * ended
    assert [(r.task, r.outcome) for r in grid.reports] == [("train", "done")] * 5 + [
        ("evaluate", "done")
    ] * 5
    plain = fed_avg().start(
        grid=made.plain(toy_app(mods=())), initial_arrays=start_arrays(), num_rounds=5
    )
    bound = level_bound(made.plan, WEIGHTS, 5) + 1e-12
    assert np.abs(values_of(again) - values_of(plain)).max() <= bound


def test_a_strategy_that_does_not_evaluate_at_last_ends_that_session_too(world):
    made = world(evaluate=2)
    grid = made.grid(toy_app(), evaluate_metrics={"loss": 9.0, "accuracy": 1.0})
    sizes = []

    class Odd(FedAvg):
        def configure_evaluate(self, server_round, *args):
            sizes.append(bytes_kept(made))
            return super().configure_evaluate(server_round, *args) if server_round % 2 else []

    strategy = fed_avg(kind=Odd, fraction_evaluate=1.0)
    result = strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=4)
    assert [r.task for r in grid.reports] == ["train"] * 4 + ["evaluate"] * 2
    assert bytes_kept(made) < sizes[2] / 2  # no seeds are kept
    ended = grid._train.session, grid._evaluate.session
    strategy.start(grid=grid, initial_arrays=result.arrays, num_rounds=1)
    assert not {grid._train.session, grid._evaluate.session} & set(ended)
    assert {r.outcome for r in grid.reports} == {"done"}


def test_a_strategy_that_trains_nothing_at_last_ends_its_session(world):
    made = world()
    grid = made.grid(toy_app())
    sizes = []

    class Rests(FedAvg):
        def configure_train(self, server_round, *args):
            sizes.append(bytes_kept(made) if grid.reports else 0)
            return super().configure_train(server_round, *args) if server_round < 3 else []

    fed_avg(kind=Rests).start(grid=grid, initial_arrays=start_arrays(), num_rounds=3)
    assert len(grid.reports) == 2
    assert bytes_kept(made) < sizes[2] / 2  # no seeds are kept


def test_an_error_that_leaves_a_run_ends_its_sessions(world):
    """Where the strategy is started again, that is a further session."""
    made = world(evaluate=2)
    sizes = []

    def fails_later(message, context):
        if len(grid.reports) == 2 * 2:
            sizes.append(bytes_kept(made))
            raise RuntimeError("nothing today")
        (record,) = message.content.array_records.values()
        moved = ArrayRecord(
            {name: Array(np.asarray(each.numpy() + 0.1)) for name, each in record.items()}
        )
        values = MetricRecord({"num-examples": 2})
        return Message(RecordDict({"arrays": moved, "metrics": values}), reply_to=message)

    metrics = {"loss": 9.0, "accuracy": 1.0}
    grid = made.grid(toy_app(train=fails_later), evaluate_metrics=metrics)
    strategy = fed_avg(fraction_evaluate=1.0)
    with pytest.raises(ThresholdError):
        strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=4)
    assert [r.task for r in grid.reports] == ["train"] * 3 + ["evaluate"] * 2
    assert bytes_kept(made) < sizes[0] / 2  # no seeds are kept
    before = grid._train.session, grid._evaluate.session
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert not {grid._train.session, grid._evaluate.session} & set(before)


def test_sessions_that_nobody_named_leave_nothing(world):
    """Orders of made-up sessions: neither the folder nor the Context keeps a state of them."""
    made = world()
    grid = made.grid(toy_app(), strategy=fed_avg())
    assert len(list(grid.get_node_ids())) == 5
    before = sealed(made)
    for number in range(5):
        request = grid._train._request("orders", messages=(b"nothing",))
        request = msgspec.structs.replace(request, session=bytes([number] * 16))
        content = RecordDict({"secagg": pack(envelope.pack(request))})
        made.inner.send_and_receive([Message(content, 1001, "train")])
    assert sealed(made) == before
