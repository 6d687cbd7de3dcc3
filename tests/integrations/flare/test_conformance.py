"""The conformance kit over FLARE's own client runner, filters and serialisation, in process.

What the kit calls a message is a task's data, or its result, as FLARE's FOBS writes it. The tasks
of an exchange go to the clients without FLARE's task board, which the simulator's tests have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from integrations.flare.site_process import SERVER, Engine, Site, name_of
from nvflare.apis.client import Client
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.utils import fobs

from secagg.integrations.conformance import (
    Adapter,
    Case,
    Conformance,
    Kind,
    Outcome,
    ServerDied,
    Wire,
)
from secagg.integrations.flare import (
    SecAggExecutor,
    SecAggFedAvg,
    SecAggFilter,
    SecAggOrderFilter,
    SecAggState,
    carrier,
    server,
)
from secagg.integrations.flare.messages import ORDER, REPORT
from secagg_protocols.errors import SecAggError


class Schedule(Executor):
    """Trains what the schedule says."""

    def __init__(self, case: Case, wire: Wire[bytes], node: str) -> None:
        super().__init__()
        self.case, self.wire, self.node = case, wire, node

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        base = from_shareable(shareable).data["w"]
        update = self.case.train(self.node, self.wire.round, base)
        meta = {
            MetaKey.NUM_STEPS_CURRENT_ROUND: update.weight,
            MetaKey.INITIAL_METRICS: {"loss": update.metric},
        }
        base += update.x  # in its place, as training does
        return DXO(DataKind.WEIGHTS, {"w": base}, meta).to_shareable()


class Wired(carrier.Clients):
    """Tasks go over the kit's wire, all of an exchange at once."""

    adapter: Flare
    slot = "hello"

    def find(self, listed: Iterable[str], fl_ctx: FLContext, abort: Signal) -> None:
        self.slot = "hello"
        super().find(listed, fl_ctx, abort)

    def carry(self, requests: Any, slot: Any, *args: Any, **options: Any) -> Any:
        self.slot = slot.label
        return super().carry(requests, slot, *args, **options)

    def _results(
        self, tasks: Mapping[str, Any], fl_ctx: FLContext, abort: Signal
    ) -> Iterator[tuple[str, Shareable | None]]:
        requests = {name: fobs.dumps(task.data) for name, task in tasks.items()}
        if requests and requests.keys() <= self.adapter.failed:
            # The law of one message to each party cannot hold: FLARE answers for a program that
            # failed, and the party has to be asked once more.
            self.adapter.unsupported = {**Flare.unsupported, "exchanges": "a program failed"}
        self.adapter.failed = set()
        for node, reply in self.adapter.carried(self.slot, requests):
            result = fobs.loads(reply)
            if node in tasks:
                if result.get_return_code() != ReturnCode.OK and tasks[node].name == "train":
                    self.adapter.failed.add(node)
                yield node, result


class Job(SecAggFedAvg):
    """One process of the server's workflow. What it persists is its last model."""

    adapter: Flare

    def load_model(self) -> Any:
        return self.adapter.first_model()

    def save_model(self, model: Any) -> None:
        self.adapter.saved(model)


class Flare(Adapter[bytes]):
    """A workflow and its clients."""

    name = "NVIDIA FLARE"
    unsupported: ClassVar[dict[str, str]] = {"strategies": "the controller is the strategy"}

    def run(self, case: Case, wire: Wire[bytes]) -> Iterator[Outcome]:
        self.case, self.wire = case, wire
        self.base = case.base
        self.failed: set[str] = set()
        self.outcomes: dict[int, Outcome] = {}
        self.sites: dict[str, Site] = {}
        self.engine = Engine(case.path / "flare" / "server", SERVER, case.server)
        self.engine.clients = [Client(node.key, node.key) for node in case.nodes]
        number = 0
        while number < case.rounds:
            self.dead = False
            self.number = number
            failed = self.process(number)
            reports = self.job.reports
            for at, report in enumerate(reports):
                yield self.outcomes.get(number + at, Outcome(rule=report.rule))
            number += len(reports)
            if failed is not None:
                raise failed

    def process(self, number: int) -> SecAggError | None:
        """The server's process: all rounds from ``number`` on, or until it dies."""
        job = Job(start_round=number, num_rounds=self.case.rounds - number, on_failure="skip_round")
        self.job = job
        job.adapter = Wired.adapter = self
        job.engine, job.fl_ctx = self.engine, self.engine.new_context()
        job.abort_signal = Signal()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(server, "Clients", Wired)
                job.run()
        except ServerDied:
            return None
        except SecAggError as error:
            # A job whose rounds have all failed fails; the kit asks for each.
            return None if error.rule == "no-sum" else error
        return None

    def first_model(self) -> Any:
        from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

        return FLModel(params_type=ParamsType.FULL, params={"w": np.array(self.base)})

    def saved(self, model: Any) -> None:
        report = self.job.reports[-1]
        new = np.array(model.params["w"])
        mean, self.base = new - self.base, new
        weight = model.meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND)
        self.outcomes[self.job.current_round] = Outcome(mean, weight, report.survivors)

    def carried(self, slot: str, requests: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        if self.dead:
            raise ServerDied("the server's process has ended")
        try:
            return self.wire.exchange(self.job.current_round, slot, requests, self.handle)
        except ServerDied:
            self.dead = True
            raise

    # Nodes.

    def handle(self, node: str, message: bytes) -> bytes:
        """The client's process takes a task."""
        if node not in self.sites:
            self.sites[node] = self.site(node)
        task = fobs.loads(message)
        return fobs.dumps(self.sites[node].task(name_of(task), task))

    def site(self, node: str) -> Site:
        folder = next(each.folder for each in self.case.nodes if each.key == node)
        return Site(
            self.case.path / "flare" / node,
            node,
            folder,
            executors={
                "secagg": SecAggExecutor(),
                "train": Schedule(self.case, self.wire, node),
            },
            components={"secagg_state": SecAggState()},
            task_filters={"train": [SecAggOrderFilter()]},
            result_filters={"train": [SecAggFilter()]},
        )

    def restarted(self, node: str) -> None:
        self.sites.pop(node, None)

    # Messages.

    def read(self, message: bytes) -> bytes:
        found = fobs.loads(message)
        data = found.get(ORDER, found.get(REPORT, b""))
        return data if isinstance(data, bytes) else b""

    def replaced(self, message: bytes, data: bytes) -> bytes:
        found = fobs.loads(message)
        found[ORDER if ORDER in found else REPORT] = data
        return fobs.dumps(found)

    def everything(self, message: bytes) -> bytes:
        return message


class TestFlare(Conformance):
    adapter = Flare
    slow = pytest.mark.slow
    fast = frozenset({Kind.DROP})
