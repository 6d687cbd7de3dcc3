"""The parts of secure aggregation in a FLARE job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType

from secagg_protocols.errors import MisuseError

from .messages import TASK
from .server import SecAggFedAvg
from .site import STATE, SecAggExecutor, SecAggFilter, SecAggOrderFilter, SecAggState


def add_secagg(
    job: FedJob,
    controller: SecAggFedAvg,
    *,
    clients: Sequence[str] = (),
    threads: int = 1,
    poll: float | None = 0.5,
) -> None:
    """Add the controller and what clients need of it to a job, and tell the job that ``secagg`` is
    installed at the parties and does not travel with it.

    Call it after the executor that trains, and after the filters of the task to train, which then
    come before those of the sum. clients: the targets whose apps differ (``job.to(..., name)``);
    empty for one app of all clients. threads: cores for masks at a client. poll: seconds after
    which a client asks for its next task, of which a round has three; ``None`` leaves FLARE's own,
    which is 2.
    """
    if not isinstance(job, FedJob) or not isinstance(controller, SecAggFedAvg):
        raise MisuseError("a FedJob and a SecAggFedAvg are needed", rule="arguments")
    packages = [*job.job.app_packages, "secagg", "secagg_protocols"]
    job.set_app_packages(list(dict.fromkeys(packages)))
    job.to_server(controller)
    if poll is not None:
        if isinstance(poll, bool) or not isinstance(poll, (int, float)) or not 0 < poll < 60:
            raise MisuseError("poll is seconds, above 0 and below 60", rule="arguments")
        job.to_server({"server": {"task_request_interval": poll}})
    train = [controller.task_name]
    parts: list[tuple[Any, dict[str, Any]]] = [
        (SecAggState(threads=threads), {"id": STATE}),
        (SecAggExecutor(), {"tasks": [TASK]}),
        (SecAggOrderFilter(), {"filter_type": FilterType.TASK_DATA, "tasks": train}),
        (SecAggFilter(), {"filter_type": FilterType.TASK_RESULT, "tasks": train}),
    ]
    for part, options in parts:
        if not clients:
            job.to_clients(part, **options)
        for name in clients:
            job.to(part, name, **options)


__all__ = ["add_secagg"]
