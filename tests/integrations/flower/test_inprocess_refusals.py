"""What is refused at either end, and what the other end gets to know of it: nothing."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from integrations.flower.worlds import (
    NAMES,
    WEIGHTS,
    fed_avg,
    make_plan,
    make_world,
    start_arrays,
    toy_app,
)

import secagg
from secagg.integrations.flower import Fault, InProcessGrid, SecAggConfig, SecAggGrid, secagg_mod
from secagg.integrations.flower import mod as mods
from secagg.integrations.flower.records import (
    SETTING,
    Setting,
    model_of,
    of_user,
    pack,
    settings_of,
    unpack,
)
from secagg.integrations.folder import write_folders
from secagg_protocols.errors import MisuseError, PlanError, SecAggError, ThresholdError
from secagg_protocols.plan_file import dump_plan

TEXT = "patient Doe has 31.41592653"


def one(grid, message):
    (reply,) = grid.send_and_receive([message])
    return reply


def message_to(node, content, kind="train"):
    return Message(content, node, kind)


def plain_content():
    return RecordDict({"arrays": start_arrays(), "config": ConfigRecord({"server-round": 1})})


# Fail closed at the site.


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    "content",
    [
        plain_content,
        RecordDict,
        lambda: RecordDict({"secagg": ConfigRecord({"order": b"..."})}),
        lambda: RecordDict({"secagg": ArrayRecord([np.zeros(3)])}),
    ],
)
def test_a_message_without_protection_is_refused(world, kind, content, caplog):
    ran = []

    def train(message, context):
        ran.append(message)
        return Message(RecordDict(), reply_to=message)

    made = world()
    inner = InProcessGrid(toy_app(train=train), made.nodes)
    reply = one(inner, message_to(1001, content(), kind))
    assert reply.has_error()
    assert reply.error.reason == mods.UNPROTECTED
    assert "[unprotected]" in caplog.text
    assert not ran


@pytest.mark.parametrize("order", [b"", b"\x00", b"\x93\x01\x02\x03", b"\xff" * 500])
def test_bytes_that_are_no_order_are_answered_with_one_text(world, order):
    inner = InProcessGrid(toy_app(), world().nodes)
    content = plain_content()
    content["secagg"] = pack(order)
    reply = one(inner, message_to(1001, content))
    assert reply.error.reason == mods.NOT_IN_ROUND


def test_an_order_for_another_task_is_refused(world):
    """A server cannot pass evaluation off as training: the plans are different ones."""
    made = world(evaluate=2)
    grid = made.grid(toy_app(), evaluate_metrics={"loss": 10.0, "accuracy": 1.0})
    order = grid._evaluate.greeting("x")
    reply = one(made.inner, message_to(1001, RecordDict({"secagg": pack(order)})))
    assert reply.error.reason == mods.NOT_IN_ROUND


def test_queries_pass(world):
    app = toy_app()

    @app.query(mods=[secagg_mod])
    def ask(message, context):
        return Message(RecordDict({"a": MetricRecord({"rows": 3})}), reply_to=message)

    grid = world().grid(app)
    (reply,) = grid.send_and_receive([message_to(1001, RecordDict(), "query")])
    assert reply.content["a"]["rows"] == 3
    assert len(list(grid.push_messages([message_to(1001, RecordDict(), "query")]))) == 1


def test_apps_of_the_older_interface_give_nothing_away(world):
    """There a server asks for the model, or for properties, by messages of other types."""

    class Gives(NumPyClient):
        def get_parameters(self, config):
            raise AssertionError("called")

        def get_properties(self, config):
            raise AssertionError("called")

    app = ClientApp(client_fn=lambda context: Gives().to_client(), mods=[secagg_mod])
    made = world()
    made.grid(app)
    for kind in ("get_parameters", "get_properties", "train", "evaluate"):
        reply = one(made.inner, message_to(1001, RecordDict(), kind))
        assert reply.error.reason == mods.UNPROTECTED


def fails(how):
    """An app whose node 3 fails in some way, with a secret in the text."""

    def train(message, context):
        number = int(context.node_config["partition-id"])
        if number == 3:
            return how(message)
        (record,) = message.content.array_records.values()
        content = RecordDict(
            {
                "arrays": ArrayRecord(dict(record)),
                "metrics": MetricRecord({"num-examples": WEIGHTS[number]}),
            }
        )
        return Message(content, reply_to=message)

    return toy_app(train=train)


def raises(message):
    raise ValueError(TEXT)


def reply_with(arrays, metrics):
    return lambda message: Message(
        RecordDict({"arrays": arrays, **({} if metrics is None else {"m": metrics})}),
        reply_to=message,
    )


FAILURES = {
    "raises": raises,
    "error": lambda message: Message(Error(99, TEXT), reply_to=message),
    "shape": reply_with(ArrayRecord([np.zeros(7)]), MetricRecord({"num-examples": 1})),
    "nothing": lambda message: Message(RecordDict(), reply_to=message),
    "none": lambda message: None,
    "not finite": lambda message: Message(
        RecordDict(
            {
                "arrays": ArrayRecord(
                    {
                        "w": Array(np.full((2, 2), np.nan)),
                        "b": Array(np.asarray(0.0)),
                    }
                ),
                "m": MetricRecord({"num-examples": 4}),
            }
        ),
        reply_to=message,
    ),
    "no weight": reply_with(start_arrays(), MetricRecord({TEXT: 1.0})),
    "half": reply_with(start_arrays(), MetricRecord({"num-examples": 3.5})),
    "heavy": reply_with(start_arrays(), MetricRecord({"num-examples": 10**6})),
    "two": lambda message: Message(
        RecordDict(
            {
                "a": start_arrays(),
                "b": start_arrays(),
                "m": MetricRecord({"num-examples": 4}),
            }
        ),
        reply_to=message,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_at_a_site_says_nothing_to_the_server(world, name, caplog):
    """Its app raises, or replies with what cannot be summed: the site is not in this round, and
    in the next one again."""
    made = world()
    grid = made.grid(fails(FAILURES[name]), record=True, rounds=1)
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == ("north", "south", "east", "centre")
    got = b"".join(made.inner.received)
    for text in (TEXT, "Doe", "31.41", "Traceback", "ValueError", "the app"):
        assert text.encode() not in got
    # What it answers is what any site answers that stays out, whatever the reason.
    (exchange,) = [each for each in grid.reports[0].exchanges if each.slot == "input"]
    assert exchange.out == ("west",)
    if name == "raises":
        assert TEXT in caplog.text  # in the site's own log


def test_all_ways_to_fail_look_the_same_to_the_server(tmp_path):
    sizes = {}
    for number, (name, how) in enumerate(FAILURES.items()):
        made = make_world(tmp_path / str(number))
        grid = made.grid(fails(how), rounds=1)
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
        (exchange,) = [each for each in grid.reports[0].exchanges if each.slot == "input"]
        sizes[name] = exchange.bytes_in
    print(sizes)
    assert max(sizes.values()) - min(sizes.values()) <= 8


def test_a_node_without_a_folder_is_no_party(world, caplog, monkeypatch):
    monkeypatch.delenv(mods.SIMULATION, raising=False)
    made = world()
    made.nodes[3] = {"partition-id": 3}
    strategy = fed_avg(min_train_nodes=4, min_available_nodes=4)
    grid = made.grid(toy_app())
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1005]
    assert "node 1004 did not say who it is" in caplog.text
    assert "does not know which party it is" in caplog.text


def test_in_a_simulation_the_partition_says_which_party(world, monkeypatch):
    made = world()
    monkeypatch.setenv(mods.SIMULATION, str(made.folders["server"].parent))
    for index, node in enumerate(made.nodes):
        node.clear()
        node["partition-id"] = index
    grid = made.grid(toy_app())
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == tuple(NAMES)
    context = Context(1, 1, {"partition-id": 9}, RecordDict(), {})
    with pytest.raises(MisuseError, match="partition 9 is none of the 5 parties"):
        mods.party_folder(context)


def test_the_folder_of_a_node_is_never_that_of_the_run(world, monkeypatch):
    monkeypatch.delenv(mods.SIMULATION, raising=False)
    made = world()
    context = Context(
        1, 1, {"partition-id": 0}, RecordDict(), {"secagg": str(made.folders["north"])}
    )
    with pytest.raises(MisuseError, match="does not know which party it is"):
        mods.party_folder(context)


def test_the_state_in_the_context_is_sealed(world):
    made = world()
    grid = made.grid(toy_app())
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    for node in made.inner.nodes.values():
        record = node.context.state["secagg"]
        assert record
        for value in record.values():
            for plain in (b"north", b"train", grid._train.session, grid._train.plan.digest):
                assert plain not in value


# Other plans, other rosters, other nodes.


def test_a_site_with_another_plan_is_kept_out(world, tmp_path, caplog):
    made = world()
    other = make_plan(made.plan.roster, 5, clip=4.0)
    (made.folders["west"] / "plan.toml").write_text(dump_plan(other))
    grid = made.grid(toy_app())
    strategy = fed_avg(min_train_nodes=4, min_available_nodes=4)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert "west refuses this session [plan-differs]" in caplog.text
    assert grid.reports[0].survivors == ("north", "south", "east", "centre")


def test_a_site_of_another_roster_is_a_stranger(world, tmp_path, caplog):
    made = world()
    stranger = make_world(tmp_path / "elsewhere")
    made.nodes[3] = stranger.nodes[3]
    grid = made.grid(toy_app())
    strategy = fed_avg(min_train_nodes=4, min_available_nodes=4)
    strategy.start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1005]
    assert "node 1004 did not say who it is" in caplog.text


def test_a_name_that_is_in_no_roster_is_a_stranger(world, tmp_path, caplog):
    made = world()
    roster, identities = secagg.Roster.generate(["a", "b", "c", "d", "mallory"])
    folders = write_folders(tmp_path / "elsewhere", make_plan(roster, 5), identities)
    made.nodes.append({"secagg": str(folders["mallory"]), "partition-id": 0})
    grid = made.grid(toy_app())
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert caplog.text.count("node 1006 is kept out") == 1
    assert "[roster-member]" in caplog.text
    assert 1006 not in grid.get_node_ids()


def test_the_second_of_two_nodes_with_one_name_is_kept_out(world, tmp_path, caplog):
    made = world()
    copy = tmp_path / "copy"
    shutil.copytree(made.folders["west"], copy)
    made.nodes.append({"secagg": str(copy), "partition-id": 0})
    grid = made.grid(toy_app())
    fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=2)
    assert caplog.text.count("node 1006 is kept out: node 1004 is west already [one-node]") == 1
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1004, 1005]
    assert [len(report.survivors) for report in grid.reports] == [5, 5]
    made.inner.offline.add(1004)  # once it is gone, the other may take its place
    grid.get_node_ids()
    assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1005, 1006]


def drops_west(delivery):
    return Fault.DROP if delivery.number == 3 else None


def test_nodes_that_say_nothing_are_not_waited_for_for_ever(world, caplog):
    made = world()

    grid = made.grid(toy_app(), fault=drops_west)
    for _ in range(6):
        assert list(grid.get_node_ids()) == [1001, 1002, 1003, 1005]
    assert caplog.text.count("node 1004 did not say who it is") == 3
    assert made.inner.nodes[1004].count == 3
    made.inner.offline.add(1004)
    grid.get_node_ids()
    made.inner.offline.clear()
    made.inner.fault = None
    assert len(list(grid.get_node_ids())) == 5


# Misuse at the server.


def test_messages_for_results_cannot_be_pushed(world):
    grid = world().grid(toy_app())
    for kind in ("train", "evaluate", "train.special"):
        with pytest.raises(MisuseError, match="go through send_and_receive") as caught:
            grid.push_messages([message_to(1001, plain_content(), kind)])
        assert caught.value.rule == "grid-push"


class Personal(flower.FedAvg):
    """Sends every site a model of its own."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            node = message.metadata.dst_node_id
            content = RecordDict(dict(message.content))
            content["config"] = ConfigRecord({"node": node})
            yield Message(content, node, "train")


def test_different_content_for_different_sites_is_refused(world):
    made = world()
    grid = made.grid(toy_app(), record=True)
    with pytest.raises(MisuseError) as caught:
        fed_avg(kind=Personal).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "one-model"
    assert len(made.inner.sent) == 5  # the hello


def test_different_types_in_one_call_are_refused(world):
    grid = world().grid(toy_app(), strategy=fed_avg())
    messages = [
        message_to(1001, plain_content()),
        message_to(1002, plain_content(), "evaluate"),
    ]
    with pytest.raises(MisuseError) as caught:
        grid.send_and_receive(messages)
    assert caught.value.rule == "one-kind"


def test_a_record_with_our_name_is_refused(world):
    grid = world().grid(toy_app(), strategy=fed_avg())
    content = plain_content()
    content["secagg"] = ConfigRecord({})
    with pytest.raises(MisuseError) as caught:
        grid.send_and_receive([message_to(1001, content)])
    assert caught.value.rule == "record-name"


def test_a_model_that_does_not_fit_the_plan_is_refused_before_training(world):
    made = world(length=6)
    grid = made.grid(toy_app(), record=True)
    with pytest.raises(MisuseError, match="this model has 5 coordinates") as caught:
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert caught.value.rule == "layout"
    assert len(made.inner.sent) == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folder", None),
        ("plan", "plan.toml"),
        ("on_failure", "ignore"),
        ("timeout", 0),
        ("timeout", True),
        ("rounds", 0),
        ("linear", "FedAvg"),
        ("metrics", {"loss": 0}),
        ("evaluate_metrics", {"loss": "1"}),
    ],
)
def test_settings_that_cannot_be_meant(field, value):
    with pytest.raises(PlanError) as caught:
        SecAggConfig(**{"folder": "somewhere", field: value})
    assert (caught.value.rule, caught.value.field) == ("config", field)


def test_a_plan_for_evaluation_needs_metrics(world):
    with pytest.raises(PlanError, match="evaluate_metrics"):
        SecAggConfig(folder="somewhere", evaluate=world().plan)


def test_arguments_of_the_grid(world):
    made = world()
    config = SecAggConfig(folder=made.folders["server"])
    inner = made.plain(toy_app())
    for arguments in [(None, config), (inner, None), (inner, config, "FedAvg")]:
        with pytest.raises(MisuseError) as caught:
            SecAggGrid(*arguments)
        assert caught.value.rule == "arguments"


def test_too_few_sites_is_loud(world):
    """All sites refuse: the round aborts, it does not end with the model unchanged."""
    made = world()

    def nobody(message, context):
        raise RuntimeError(TEXT)

    grid = made.grid(toy_app(train=nobody))
    with pytest.raises(ThresholdError):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)


def test_a_different_model_at_a_site_keeps_it_out(world, caplog):
    """What arrives differs from what the server states: the site does not add to that sum."""
    made = world()
    grid = made.grid(toy_app())
    inner = made.inner
    send = inner.push_messages

    def changed(messages):
        given = list(messages)
        for message in given:
            if message.metadata.dst_node_id == 1004 and "arrays" in message.content:
                message.content["arrays"] = ArrayRecord(
                    {
                        "w": Array(np.ones((2, 2))),
                        "b": Array(np.asarray(0.0)),
                    }
                )
        return send(given)

    inner.push_messages = changed
    with caplog.at_level(logging.WARNING):
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert grid.reports[0].survivors == ("north", "south", "east", "centre")
    assert "[stated-model]" in caplog.text


def test_the_model_binds_all_that_sites_are_told(world):
    grid = world().grid(toy_app())
    strategy = fed_avg()

    def bytes_for(content, task="train"):
        setting = grid._setting("train", strategy, content)
        return model_of(task, content), settings_of(task, content, setting, {})

    base = bytes_for(plain_content())
    assert base == bytes_for(plain_content())
    other = [bytes_for(plain_content(), "evaluate")]
    for change in (
        {"config": ConfigRecord({"server-round": 2})},
        {"config": ConfigRecord({"server-round": 1, "lr": 0.1})},
        {"config": ConfigRecord({"server-round": 1.0})},
        {"more": ConfigRecord({})},
        {"arrays": ArrayRecord(dict(reversed(start_arrays().items())))},
        {"arrays": start_arrays(np.float32)},
    ):
        other.append(bytes_for(RecordDict({**plain_content(), **change})))
    assert len({base, *other}) == 8


def test_errors_do_not_carry_data(world):
    made = world()
    grid = made.grid(fails(raises), fault=lambda d: None)
    try:
        fed_avg().start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    except SecAggError as error:  # pragma: no cover - the plan bears one dropout
        assert TEXT not in str(error)
    assert TEXT not in repr(grid.reports)


def journey(content):
    """Content as it is after Flower has sent it: taken apart, and put together from bytes."""
    parts = get_all_nested_objects(content)
    data = {name: each.deflate() for name, each in parts.items()}
    return inflate_object_from_contents(content.object_id, data)


def test_the_model_is_the_same_after_a_journey(world):
    grid = world().grid(toy_app())
    values = {
        "z": [True, False],
        "flag": True,
        "empty": [],
        "least": -(2**63),
        "most": 2**64 - 1,
        "big list": [0, 2**64 - 1],
        "tiny": 5e-324,
        "minus": -0.0,
        "inf": float("inf"),
        "text": "größe \x00",
        "texts": ["a", ""],
        "raw": b"\x00\xff",
        "a": 1,
    }
    content = plain_content()
    content["config"] = ConfigRecord(values)
    content["metrics"] = MetricRecord({"x": 1, "a": [1.0, 2.0]})
    content["arrays"] = ArrayRecord(
        {
            "z": Array(np.zeros((0, 3), dtype=np.float16)),
            "a": Array(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
            "s": Array(np.asarray(3, dtype=">i4")),
        }
    )
    setting = grid._setting("train", fed_avg(), content)
    sent = RecordDict({**content, "secagg": pack(b"\x00order"), SETTING: setting.pack()})
    arrived = journey(sent)
    assert unpack(arrived) == b"\x00order"
    found = Setting.unpack(arrived)
    assert (found.arrays, found.weight) == (setting.arrays, setting.weight)
    assert found.metrics.bounds == setting.metrics.bounds
    assert (
        model_of("train", of_user(arrived)),
        settings_of("train", of_user(arrived), found, {}),
    ) == (model_of("train", content), settings_of("train", content, setting, {}))
