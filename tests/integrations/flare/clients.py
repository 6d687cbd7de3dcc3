"""FLARE's own client runner in this process: routing, filters, executors and events are real; only
the connection to a server is not there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import FilterKey
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.utils.event import fire_event_to_components
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.decomposers import common_decomposers
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter

from secagg.integrations.flare import (
    SecAggExecutor,
    SecAggFilter,
    SecAggOrderFilter,
    SecAggState,
    messages,
)
from secagg.integrations.flare.carrier import Clients
from secagg.integrations.folder import PartyFolder
from secagg.integrations.rounds import Rounds

JOB = "job"

flare_decomposers.register()
common_decomposers.register()


class Engine:
    """What the runner and the components ask of FLARE's engine."""

    def __init__(self, root: Path, name: str, components: dict[str, Any], parts: list[Any]) -> None:
        self.components, self.parts = components, parts
        (root / "startup").mkdir(parents=True, exist_ok=True)
        (root / "local").mkdir(exist_ok=True)
        self.workspace = Workspace(str(root), name)
        self.contexts = FLContextManager(engine=self, identity_name=name, job_id=JOB)

    def get_component(self, component_id):
        return self.components.get(component_id)

    def get_workspace(self):
        return self.workspace

    def get_cell(self):
        return None

    def new_context(self):
        return self.contexts.new_context()

    def fire_event(self, event_type, fl_ctx):
        fire_event_to_components(event_type, self.parts, fl_ctx)

    def register_aux_message_handler(self, topic, message_handle_func):
        pass


class Site:
    """A FLARE client with an executor that trains. without: parts that its job lacks."""

    def __init__(
        self, root: Path, name: str, trains: Any, *, without: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        key_in, key_out = FilterKey.DELIMITER + FilterKey.IN, FilterKey.DELIMITER + FilterKey.OUT
        router = TaskRouter()
        router.add_executor(["train", "submit_model"], trains)
        router.add_executor(["secagg"], SecAggExecutor())
        state = SecAggState()
        components = {} if "state" in without else {"secagg_state": state}
        order, report = SecAggOrderFilter(), SecAggFilter()
        config = ClientRunnerConfig(
            router,
            {} if "order" in without else {"train" + key_in: [order]},
            {} if "report" in without else {"train" + key_out: [report]},
            components=components,
        )
        self.engine = Engine(root / "flare" / name, name, components, list(components.values()))
        self.runner = ClientRunner({}, config, JOB, self.engine)

    def task(self, name: str, data: Shareable) -> Shareable:
        """One task in, what would be sent to the server out."""
        with self.engine.new_context() as fl_ctx:
            server = FLContextManager(identity_name="server", job_id=JOB).new_context()
            fl_ctx.set_peer_context(server)
            task = TaskAssignment(name=name, task_id=f"{name}-1", data=copy.deepcopy(data))
            return self.runner._process_task(task, fl_ctx)


def train_data(
    model: dict[str, Any], round_: int = 0, **metrics: float
) -> tuple[Shareable, bytes, bytes]:
    """The data of a task to train, and the model and settings that a session states for it."""
    data = DXO(DataKind.WEIGHTS, data=dict(model), meta={"note": "public"}).to_shareable()
    data.set_header(AppConstants.CURRENT_ROUND, round_)
    setting = messages.Setting("NUM_STEPS_CURRENT_ROUND", tuple(metrics.items()))
    stated = messages.pack_setting(setting)
    data[messages.SETTING] = stated
    return data, *messages.model_of(data, stated)[1:]


class Direct(Clients):
    """Tasks go straight to the clients. change: alters a task's data before it is delivered."""

    runners: dict[str, Site]
    change: Any = None

    def _results(self, tasks, fl_ctx, abort):
        for name, task in tasks.items():
            data = copy.deepcopy(task.data)
            if self.change is not None:
                self.change(name, task.name, data)
            reply = self.runners[name].task(task.name, data)
            self.replies.append((name, task.name, reply))
            yield name, reply


class Server:
    """Rounds over sites in this process, by FLARE's name."""

    def __init__(self, plan: Any, folder: Path, sites: dict[str, Site]) -> None:
        party = PartyFolder(folder)
        self.rounds = Rounds(plan, identity=party.identity, folder=party)
        self.clients = Direct(None, self.rounds, timeout=1, train_timeout=1)
        self.clients.runners = self.sites = sites
        self.clients.replies = self.replies = []

    def round(self, model: dict[str, Any], *, round_=0, change=None, last=False) -> Any:
        data, said, settings = train_data(model, round_, loss=1.0)
        self.clients.find(self.sites, None, None)
        self.clients.change = change

        def transport(requests, slot):
            content = ("train", data)
            names = self.clients.sites
            return self.clients.carry(requests, slot, None, None, train=content, sampled=names)

        return self.rounds.run(said, transport, settings=settings, last=last)
