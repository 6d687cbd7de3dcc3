"""A FLARE client in this process: FLARE's own ClientRunner, filters, router, contexts and
serialisation. What is not FLARE's are the engines, which hold components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FilterKey, ReservedKey
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.workspace import Workspace
from nvflare.app_common.decomposers import common_decomposers
from nvflare.fuel.utils import fobs
from nvflare.private.event import fire_event
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter

JOB = "job"
SERVER = "simulator_server"

flare_decomposers.register()
common_decomposers.register()


class Engine:
    """Holds the components of one end."""

    def __init__(self, root: Path, name: str, folder: Path | None) -> None:
        for part in ("startup", "local"):
            (root / part).mkdir(parents=True, exist_ok=True)
        if folder is not None:
            (root / "local" / "secagg.json").write_text(json.dumps({"folder": str(folder)}))
        self.workspace = Workspace(str(root), name)
        Path(self.workspace.get_run_dir(JOB)).mkdir(exist_ok=True)
        self.components: dict[str, Any] = {}
        self.clients: list[Client] = []
        self.manager = FLContextManager(self, name, JOB, {}, {})

    def get_workspace(self) -> Workspace:
        return self.workspace

    def get_component(self, name: str) -> Any:
        return self.components.get(name)

    def get_clients(self) -> list[Client]:
        return self.clients

    def new_context(self) -> FLContext:
        return self.manager.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        handlers = [each for each in self.components.values() if isinstance(each, FLComponent)]
        fire_event(event_type, handlers, fl_ctx)

    def register_aux_message_handler(self, topic: str, message_handle_func: Any) -> None:
        """Nothing but tasks goes between the ends."""


class Site:
    """One client. task_filters, result_filters: by task name."""

    def __init__(
        self,
        root: Path,
        name: str,
        folder: Path | None,
        *,
        executors: dict[str, Executor],
        components: dict[str, Any],
        task_filters: dict[str, list[Any]],
        result_filters: dict[str, list[Any]],
    ) -> None:
        self.name = name
        self.engine = Engine(root, name, folder)
        self.engine.components = components
        router = TaskRouter()
        for task, executor in executors.items():
            router.add_executor([task], executor)
        key = FilterKey.DELIMITER + FilterKey.IN
        out = FilterKey.DELIMITER + FilterKey.OUT
        config = ClientRunnerConfig(
            router,
            {task + key: found for task, found in task_filters.items()},
            {task + out: found for task, found in result_filters.items()},
            components=components,
        )
        self.runner = ClientRunner({}, config, JOB, self.engine)

    def task(self, name: str, data: Shareable, task_id: str = "1") -> Shareable:
        """Run one task as the client's process does; the data are serialised both ways."""
        with self.engine.new_context() as fl_ctx:
            peer = FLContext()
            peer.set_prop(ReservedKey.IDENTITY_NAME, SERVER, private=False)
            peer.set_prop(ReservedKey.RUN_NUM, JOB, private=False)
            fl_ctx.set_peer_context(peer)
            assigned = TaskAssignment(name, task_id, fobs.loads(fobs.dumps(data)))
            return fobs.loads(fobs.dumps(self.runner._process_task(assigned, fl_ctx)))


def name_of(task: Shareable) -> str:
    """The task's name in its data."""
    return str(task.get_header(ReservedHeaderKey.TASK_NAME))


__all__ = ["JOB", "SERVER", "Engine", "Site", "name_of"]
