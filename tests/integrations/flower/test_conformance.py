"""The conformance kit over Flower's own grid, messages, ClientApps and strategies, in process.

The schedule's network is a grid between :class:`SecAggGrid` and :class:`InProcessGrid`. A process
that is killed is a fork of this one, in which the ClientApp handles the message.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from secagg.integrations.conformance import (
    Adapter,
    Broken,
    Case,
    Conformance,
    Fault,
    Kind,
    Outcome,
    ServerDied,
    Wire,
    play,
)
from secagg.integrations.conformance.case import NAMES
from secagg.integrations.conformance.faults import CONFIGURATION
from secagg.integrations.conformance.suite import places
from secagg.integrations.flower import InProcessGrid, SecAggConfig, SecAggGrid, secagg_mod
from secagg.integrations.flower.inprocess import bytes_of
from secagg.integrations.flower.records import KEY, pack, unpack
from secagg_protocols.errors import ThresholdError

MODEL = "model"


class WiredGrid(Grid):
    """A grid whose messages go through the schedule's network, one after the other."""

    def __init__(self, inner: InProcessGrid, wire: Wire[Message], nodes: dict[int, str]) -> None:
        self.inner, self.wire, self.keys = inner, wire, nodes
        self.ids = {key: number for number, key in nodes.items()}
        self.first = 0  # the schedule's round in which the server's program began

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        given = {self.keys[int(each.metadata.dst_node_id)]: each for each in messages}
        if not given:
            return []
        group = str(next(iter(given.values())).metadata.group_id).split("/")
        number = self.wire.round if group[1:] == ["hello"] else self.first + int(group[2]) - 1
        found = self.wire.exchange(number, group[-1], given, self.handle)
        return [copy.deepcopy(reply) for _, reply in found]

    def handle(self, node: str, message: Message) -> Message | None:
        return next(iter(self.inner.send_and_receive([copy.deepcopy(message)])), None)

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **named: Any) -> Message:
        return self.inner.create_message(*args, **named)

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


class SeenGrid(SecAggGrid):
    """SecAggGrid, and what it gave to the strategy in each round."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[tuple[list[Message], list[Message]]] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        given = copy.deepcopy(list(messages))
        found = list(super().send_and_receive(messages, timeout=timeout))
        if given:
            self.seen.append((given, copy.deepcopy(found)))
        return found


class Flower(Adapter[Message]):
    """FedAvg over SecAggGrid, for as many rounds as the server's program lives."""

    name = "Flower"
    incompatible: ClassVar = ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan")
    unsupported: ClassVar = {}
    keeps_context: ClassVar[bool] = False

    def run(self, case: Case, wire: Wire[Message]) -> Iterator[Outcome]:
        self.case, self.wire = case, wire
        configs = [
            {"secagg": str(node.folder), "partition-id": at} for at, node in enumerate(case.nodes)
        ]
        self.inner = InProcessGrid(self.app(), configs)
        keys = {number: node.key for number, node in zip(self.inner.nodes, case.nodes, strict=True)}
        self.wired = WiredGrid(self.inner, wire, keys)
        self.numbers = {key: number for number, key in keys.items()}
        outcomes: list[Outcome] = []
        self.model = case.base
        while len(outcomes) < case.rounds:
            outcomes += self.program(case.rounds - len(outcomes), len(outcomes))
        yield from outcomes

    def program(self, rounds: int, first: int) -> list[Outcome]:
        """One life of the server's program."""
        case, self.wired.first, self.wire.round = self.case, first, first
        config = SecAggConfig(folder=case.server, on_failure="skip_round")
        grid = SeenGrid(self.wired, config)
        # FedAvg counts the nodes first and samples afterwards, when there may be one more.
        least = len(case.names) - sum(fault.kind in CONFIGURATION for fault in case.faults)
        kind = getattr(flower, case.strategy) if case.strategy else FedAvg
        strategy = kind(fraction_evaluate=0.0, min_train_nodes=least, min_available_nodes=least)
        start = ArrayRecord({MODEL: Array(np.asarray(self.model))})
        died = []
        try:
            result = strategy.start(grid, start, num_rounds=rounds)
        except ServerDied as error:
            died = [Outcome(rule=error.rule)]
        except ThresholdError as error:
            if error.rule != "no-sum":
                raise
            # The error of the last round: the strategy never saw that one skipped.
            died = [Outcome(rule=grid.reports[-1].rule)]
        outcomes = [self.outcome(grid, at) for at in range(len(grid.seen))]
        moved = sum((each.mean for each in outcomes if each.done), np.zeros(case.length))
        self.model = self.model + moved
        if not died and not np.allclose(result.arrays[MODEL].numpy(), self.model, atol=1e-9):
            raise Broken("exact", "the strategy's model is not moved by the sums")
        return outcomes + died

    def outcome(self, grid: SeenGrid, at: int) -> Outcome:
        """Of one round, by the replies that the strategy got."""
        given, found = grid.seen[at]
        good = [reply for reply in found if not reply.has_error()]
        report = grid.reports[at]
        if not good:
            return Outcome(rule=report.rule)
        base = given[0].content["arrays"][MODEL].numpy()
        means = [reply.content["arrays"][MODEL].numpy() - base for reply in good]
        assert all(np.array_equal(mean, means[0]) for mean in means)
        weight = sum(reply.content["metrics"]["num-examples"] for reply in good)
        nodes = self.wired.keys
        names = tuple(self.case.party(nodes[reply.metadata.src_node_id]) for reply in good)
        assert set(names) == set(report.survivors)
        return Outcome(means[0], weight, names)

    def app(self) -> ClientApp:
        """The sites' app: what a user of Flower writes, with our mod."""
        app = ClientApp()

        @app.train(mods=[secagg_mod])
        def train(message: Message, context: Context) -> Message:
            node = self.case.nodes[int(context.node_config["partition-id"])].key
            base = message.content["arrays"][MODEL].numpy()
            update = self.case.train(node, self.wire.round, base)
            metrics = {"num-examples": update.weight, "loss": update.metric}
            content = RecordDict(
                {
                    "arrays": ArrayRecord({MODEL: Array(base + update.x)}),
                    "metrics": MetricRecord(metrics),
                }
            )
            return Message(content, reply_to=message)

        return app

    # Flower's messages.

    def read(self, message: Message) -> bytes:
        return (unpack(message.content) or b"") if message.has_content() else b""

    def replaced(self, message: Message, data: bytes) -> Message:
        changed = copy.deepcopy(message)
        if changed.has_content():
            changed.content[KEY] = pack(data)
        return changed

    def everything(self, message: Message) -> bytes:
        reason = message.error.reason.encode() if message.has_error() else b""
        return bytes_of(copy.deepcopy(message)) + reason

    def restarted(self, node: str) -> None:
        if not self.keeps_context:
            self.inner.restart(self.numbers[node])


class FlowerKept(Flower):
    """The app's process dies and the SuperNode lives: its Context is the one from before."""

    name = "Flower, SuperNode kept"
    keeps_context: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def soft_disk(monkeypatch: Any) -> None:
    """Processes are killed here, and not the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class TestFlower(Conformance):
    """Every test of the kit. Requests that are lost, and deaths between two writes, are tried in
    each exchange of three rounds; the rest in those of two, of which the second is as the third."""

    adapter = Flower
    slow = pytest.mark.slow
    fast = frozenset({Kind.DROP})
    brief = frozenset(Kind) - {Kind.DROP, Kind.KILL_JOURNAL}
    long = Conformance.long | {"test_more_dropouts_than_the_plan_bears", "test_other_vector"}
    examples = 10
    # What a journal's records are is no matter of Flower's; the reference adapter has this test.
    test_every_record = None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.KILL_JOURNAL, Kind.KILL_STATE, Kind.KILL_REPLY])
def test_an_older_context_beside_a_newer_folder(kind: Kind, tmp_path: Path) -> None:
    """The process dies and the SuperNode keeps the state from before: the folder's is newer."""
    for at, (number, slot) in enumerate(places("malicious-server")[1:]):
        if number < 2:
            fault = Fault(kind, NAMES[at % 4], number, slot)
            played = play(
                FlowerKept, tmp_path, "malicious-server", rounds=number + 3, faults=[fault]
            )
            assert played.wire.applied == [fault]


def test_a_run_of_which_no_round_has_a_sum(tmp_path: Path) -> None:
    """Two rounds fail at the input, and then the model is used up at two sites: the run ends as an
    error, and not with a model that nobody trained."""
    faults = [
        Fault(Kind.DROP, "north", 0, "advertise"),
        Fault(Kind.LATE, "east", 1, "input"),
        Fault(Kind.KILL_BEFORE, "north", 1, "advertise"),
        Fault(Kind.RAISES, "south", 0, ""),
    ]
    played = play(Flower, tmp_path, "malicious-server", rounds=5, faults=faults)
    assert [outcome.done for outcome in played.outcomes] == [False] * 5
