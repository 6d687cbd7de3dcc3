"""The conformance kit on the platform of :mod:`integrations.substra.platform`.

What the kit calls a message is the asset that a site's task reads, and the one that it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from integrations.substra.platform import Platform, ServerNode, SiteNode, Task
from substrafl.algorithms.algo import Algo
from substrafl.remote import remote_data
from substrafl.strategies.schemas import FedAvgSharedState, StrategyName

from secagg.integrations.conformance import (
    Adapter,
    Case,
    Conformance,
    Fault,
    Kind,
    Outcome,
    Wire,
)
from secagg.integrations.conformance.suite import places
from secagg.integrations.folder import PartyFolder
from secagg.integrations.substra import PartyData, SecAggAlgo, SecAggFedAvg
from secagg.integrations.substra.assets import AssetFile, SiteOrders
from secagg_protocols.errors import SecAggError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SLOTS = ("share", "consent", "reveal")
PLAYED: list[tuple[Case, Wire[bytes]]] = []  # what is played now; tasks load their own algorithm


class Schedule(Algo):
    """Trains what the schedule says."""

    strategies = property(lambda self: [StrategyName.FEDERATED_AVERAGING])
    model = None

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> FedAvgSharedState:
        case, wire = PLAYED[-1]
        update = case.train(data_from_opener, min(wire.round, case.rounds - 1))
        return FedAvgSharedState(n_samples=update.weight, parameters_update=[np.array(update.x)])

    def predict(self, data_from_opener: Any, shared_state: Any = None) -> None: ...

    def save_local_state(self, path: Any) -> None:
        path.write_bytes(b"")

    def load_local_state(self, path: Any) -> Any:
        return self


@dataclass
class Wired(Platform):
    """Carries the tasks of sites over the kit's wire."""

    wire: Any = None
    done: int = 0

    def run(self, task: Task, data: Any = None) -> None:
        if data is None:
            self.tasks.append(task)
            self.execute(task)
            return
        number, slot = self.place(task)
        asset = task.inputs.get("shared")
        request = self.path(asset).read_bytes() if asset else b""

        def handle(node: str, message: bytes) -> bytes:
            if asset:
                own = self.new("request", set())
                self.path(own).write_bytes(message)
                task.inputs["shared"] = own
            self.execute(task, data)
            return self.path(task.shared or "").read_bytes()

        self.tasks.append(task)
        found = self.wire.exchange(number, slot, {task.organisation: request}, handle)
        for _, reply in found:
            self.path(task.shared or "").write_bytes(reply)

    def place(self, task: Task) -> tuple[int, str]:
        before = [t.method for t in self.tasks if t.organisation == task.organisation]
        trained = before.count("secagg_train")
        if task.method == "secagg_enter":
            return 0, "advertise"
        if task.method == "secagg_train":
            case = self.wire.case
            return (trained, "input") if trained < case.rounds else (trained - 1, "finish")
        answered = before.count("secagg_answer")
        return (0, "share") if answered == 0 else (trained - 1, SLOTS[1 + (answered - 1) % 2])


class Substra(Adapter[bytes]):
    """One compute plan."""

    name = "substrafl"
    dropouts = 0
    unsupported: ClassVar[dict[str, str]] = {
        "drop": "a task without its input does not run, and the experiment ends",
        "garble": "a task that refuses its input ends the experiment (test_assets.py)",
        "duplicate": "the platform runs a task once (test_reruns.py)",
        "late": "the platform waits for every input of a task",
        "restart": "there is no first question; every task is a new process (test_restarts)",
        "kill": "a task that fails ends the experiment",
        "training": "a training that fails ends the experiment (test_experiment.py)",
        "server-restart": "the aggregation node keeps nothing between two tasks anyway",
        "nodes": "the experiment names its train nodes",
        "strategies": "refused where the strategy is made (test_experiment.py)",
        "weights": "the strategy does not report the total weight",
    }

    def run(self, case: Case, wire: Wire[bytes]) -> Iterator[Outcome]:
        PLAYED.append((case, wire))
        platform = Wired(case.path / "platform", wire=wire)
        nodes = [SiteNode(platform, n.key, PartyData(n.key, n.folder)) for n in case.nodes]
        server = PartyFolder(case.server)
        strategy = SecAggFedAvg(
            SecAggAlgo(Schedule()), server.plan(), server.identity, num_rounds=case.rounds
        )
        failed: SecAggError | None = None
        try:
            node = ServerNode(platform, "aggregation")
            strategy.build_compute_plan(nodes, node, None, case.rounds)
        except SecAggError as error:
            failed = error
        for task in platform.tasks:
            if task.method == "secagg_orders" and platform.path(task.shared or "").exists():
                orders = AssetFile.load(platform.path(task.shared or ""))
                if isinstance(orders, SiteOrders) and orders.arrays is not None:
                    mean = orders.arrays[0].array()
                    yield Outcome(mean, survivors=case.names)
        PLAYED.pop()
        if failed is not None:
            raise failed


class TestSubstra(Conformance):
    adapter = Substra
    threats = ("malicious-server",)
    slow = pytest.mark.slow

    def test_restarts(self, tmp_path: Path) -> None:
        """The kit's restarts without the first question, which Substra has none of."""
        names = ("north", "south", "east", "west")
        cells = [cell for cell in places("malicious-server") if cell[1] != "hello"]
        faults = [
            Fault(Kind.RESTART, names[at % 4], number, slot)
            for at, (number, slot) in enumerate(cells)
        ]
        played = self.play(tmp_path, "malicious-server", rounds=4, faults=faults)
        assert len(played.outcomes) == 4
        assert played.error is None
