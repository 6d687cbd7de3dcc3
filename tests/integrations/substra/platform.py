"""The platform as an attacker sees it: every asset on disk with its readers, tasks run one by one.

Each task is what ``function.py`` of substrafl does: the function's own copy of strategy or
algorithm is loaded, reads its inputs from files and writes its outputs to files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from substrafl.nodes.references.local_state import LocalStateRef
from substrafl.nodes.references.shared_state import SharedStateRef
from substrafl.remote.remote_struct import RemoteStruct


@dataclass
class Task:
    """One that ran. shared, local: names of its outputs, or ``None``."""

    organisation: str
    method: str
    struct: Any
    inputs: dict[str, Any]
    shared: str | None
    local: str | None


@dataclass
class Platform:
    """``tamper`` may change a task's inputs (names of assets) before it runs."""

    root: Path
    tamper: Callable[[Task], None] = lambda task: None
    tasks: list[Task] = field(default_factory=list)
    readers: dict[str, frozenset[str]] = field(default_factory=dict)
    functions: list[Path] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)

    def path(self, name: str) -> Path:
        return self.root / "assets" / name

    def new(self, kind: str, readers: set[str]) -> str:
        name = f"{next(self.numbers):03}-{kind}"
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.readers[name] = frozenset(readers)
        return name

    def run(self, task: Task, data: Any = None) -> None:
        self.tamper(task)
        self.tasks.append(task)
        self.execute(task, data)

    def execute(self, task: Task, data: Any = None) -> None:
        """Run a task, also once more."""
        folder = self.root / "functions" / f"{len(self.functions):03}"
        folder.mkdir(parents=True)
        task.struct.save(folder)
        self.functions.append(folder)
        inputs: dict[str, Any] = {}
        for key, found in task.inputs.items():
            if isinstance(found, list):
                inputs[key] = [str(self.path(name)) for name in found]
            elif found is not None:
                inputs[key] = str(self.path(found))
        if data is not None:
            inputs["datasamples"] = data
        outputs = {
            key: str(self.path(name))
            for key, name in (("shared", task.shared), ("local", task.local))
            if name is not None
        }
        RemoteStruct.load(folder).get_remote_instance().generic_function(inputs, outputs, {})


@dataclass
class SiteNode:
    platform: Platform
    organization_id: str
    data: Any
    data_manager_key: str = "manager"
    data_sample_keys: Any = ("sample",)

    def init_states(self, *, operation: Any, authorized_ids: set[str], **_: Any) -> Any:
        local = self.platform.new("local", authorized_ids)
        task = Task(self.organization_id, "initialize", operation.remote_struct, {}, None, local)
        self.platform.run(task)
        return LocalStateRef(key=local, init=True)

    def update_states(
        self,
        operation: Any,
        *,
        authorized_ids: set[str],
        aggregation_id: str,
        local_state: Any = None,
        **_: Any,
    ) -> Any:
        platform = self.platform
        shared = platform.new("shared", authorized_ids | {aggregation_id})
        local = platform.new("local", authorized_ids)
        inputs = {
            "local": local_state and local_state.key,
            "shared": operation.shared_state and operation.shared_state.key,
        }
        struct = operation.remote_struct
        task = Task(self.organization_id, struct._method_name, struct, inputs, shared, local)
        platform.run(task, self.data)
        return LocalStateRef(local), SharedStateRef(shared)

    def register_operations(self, *args: Any, **kwargs: Any) -> None: ...

    def summary(self) -> dict[str, Any]:
        return {}


@dataclass
class ServerNode:
    platform: Platform
    organization_id: str

    def update_states(self, operation: Any, *, authorized_ids: set[str], **_: Any) -> Any:
        shared = self.platform.new("shared", authorized_ids)
        struct = operation.remote_struct
        inputs = {"shared": [ref.key for ref in operation.shared_states]}
        task = Task(self.organization_id, struct._method_name, struct, inputs, shared, None)
        self.platform.run(task)
        return SharedStateRef(shared)

    def register_operations(self, *args: Any, **kwargs: Any) -> None: ...

    def summary(self) -> dict[str, Any]:
        return {}
