"""The grid in this process behaves as Flower's do, and does the harm that it is told to."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from integrations.flower.worlds import fed_avg, start_arrays, toy_app, values_of

from secagg.integrations.flower import Delivery, Fault, InProcessGrid
from secagg.integrations.flower.inprocess import bytes_of
from secagg_protocols.errors import MisuseError


def counting():
    """An app that counts its calls in its Context, and says how many there were."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        record = context.state.setdefault("calls", MetricRecord({"n": 0}))
        record["n"] += 1
        message.content.clear()
        return Message(RecordDict({"m": MetricRecord({"n": record["n"]})}), reply_to=message)

    return app


def to(node, group=""):
    content = RecordDict({"c": ConfigRecord({"x": 1})})
    return Message(content, node, "train", group_id=group)


def counts(grid, *nodes):
    replies = grid.send_and_receive([to(node) for node in nodes])
    return {reply.metadata.src_node_id: reply.content["m"]["n"] for reply in replies}


def test_a_plain_strategy_runs(tmp_path):
    grid = InProcessGrid(toy_app(mods=()), [{"partition-id": number} for number in range(3)])
    result = fed_avg(3).start(grid=grid, initial_arrays=start_arrays(), num_rounds=1)
    assert not np.allclose(values_of(result), values_of(start_arrays()))


def test_nodes_have_contexts_of_their_own_and_messages_are_copies():
    grid = InProcessGrid(counting(), [{}, {}])
    assert counts(grid, 1001) == {1001: 1}
    assert counts(grid, 1001, 1002) == {1001: 2, 1002: 1}
    message = to(1001)
    grid.send_and_receive([message])
    assert message.content["c"]["x"] == 1


def test_an_app_for_every_node():
    with pytest.raises(MisuseError, match="one app for all nodes"):
        InProcessGrid([counting()], [{}, {}])
    assert len(InProcessGrid([counting(), toy_app()], [{}, {}]).nodes) == 2


def test_an_exception_of_an_app_is_told_as_flower_tells_it():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise ValueError("with its text")

    (reply,) = InProcessGrid(app, [{}]).send_and_receive([to(1001)])
    assert reply.has_error()
    assert "with its text" in reply.error.reason


def test_nodes_that_are_away():
    grid = InProcessGrid(counting(), [{}, {}])
    grid.offline.add(1002)
    assert list(grid.get_node_ids()) == [1001]
    (reply,) = grid.send_and_receive([to(1002)])
    assert reply.has_error()
    (reply,) = grid.send_and_receive([to(4)])
    assert reply.has_error()
    grid.offline.clear()
    assert counts(grid, 1002) == {1002: 1}


def test_pushing_and_pulling():
    grid = InProcessGrid(counting(), [{}])
    (given,) = grid.push_messages([to(1001)])
    (reply,) = grid.pull_messages([given])
    assert reply.metadata.reply_to_message_id == given
    assert grid.pull_messages([given]) == []


@pytest.mark.parametrize(
    ("faults", "replies", "calls"),
    [
        ((), 1, 3),
        ({Fault.DROP}, 0, 2),
        ({Fault.LOSE}, 0, 3),
        (Fault.TWICE, 1, 4),
        ([Fault.RESTART_BEFORE], 1, 2),
        ([Fault.RESTART_AFTER], 1, 1),
        ([Fault.RESTART_BEFORE, Fault.TWICE], 1, 3),
        (None, 1, 3),
    ],
)
def test_faults(faults, replies, calls):
    """In the second of three messages."""
    grid = InProcessGrid(
        counting(), [{}], fault=lambda delivery: faults if delivery.count == 1 else None
    )
    counts(grid, 1001)
    assert len(counts(grid, 1001)) == replies
    assert counts(grid, 1001) == {1001: calls}


def test_a_late_reply_comes_with_the_next_ones():
    grid = InProcessGrid(
        counting(), [{}, {}], fault=lambda d: Fault.LATE if d.number == 0 and d.count == 0 else None
    )
    assert counts(grid, 1001, 1002) == {1002: 1}
    replies = [reply.content["m"]["n"] for reply in grid.send_and_receive([to(1001)])]
    assert replies == [1, 2]


def test_what_a_delivery_says():
    seen: list[Delivery] = []
    grid = InProcessGrid(counting(), [{}, {}], fault=seen.append)
    groups = ["", "secagg/hello", "secagg/train/3/input", "someone/train/3/input", "secagg/x"]
    for group in groups:
        grid.send_and_receive([to(1002, group)])
    assert [(d.task, d.round, d.step) for d in seen] == [
        (None, None, None),
        (None, None, "hello"),
        ("train", 3, "input"),
        (None, None, None),
        (None, None, None),
    ]
    assert [(d.node_id, d.number, d.count) for d in seen] == [(1002, 1, n) for n in range(5)]
    assert [d.slot for d in seen] == groups


def test_recorded_bytes():
    grid = InProcessGrid(toy_app(mods=()), [{"partition-id": 0}], record=True)
    content = RecordDict({"arrays": start_arrays(), "config": ConfigRecord({"word": "gold"})})
    (reply,) = grid.send_and_receive([Message(content, 1001, "train")])
    assert start_arrays()["w"].data in grid.sent[0]
    assert b"gold" in grid.sent[0]
    assert reply.content["arrays"]["w"].data in grid.received[0]
    assert bytes_of(reply) == grid.received[0]
