"""A round's exchanges as FLARE tasks."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from nvflare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_copy
from nvflare.apis.signal import Signal

from secagg.integrations.rounds import Rounds
from secagg.session import Slot
from secagg_protocols.errors import PeerError, SecAggError

from .messages import ORDER, TASK, report_in

log: Final = logging.getLogger("secagg.integrations")

#: Seconds between two looks at whether the job was aborted.
_LOOK: Final = 0.2
#: A client that was silent this often when it was asked who it is, is not asked again.
_MOST_SILENCES: Final = 3


class JobAborted(Exception):  # noqa: N818 - the user ended the job
    """The job is ended from outside while a round waits."""


class Clients:
    """The parties behind FLARE's clients, each proven by its identity key, and tasks to them.

    A client's name in FLARE need not be its name in the roster. timeout: seconds of an exchange;
    train_timeout: of the one in which sites train.
    """

    def __init__(
        self, controller: Controller, rounds: Rounds, *, timeout: int, train_timeout: int
    ) -> None:
        self._controller, self._rounds = controller, rounds
        self._timeout, self._train_timeout = timeout, train_timeout
        self._names: dict[str, str] = {}
        self._out: set[str] = set()
        self._silences: dict[str, int] = {}
        self._sites = frozenset(name for name, _ in rounds.plan.roster.sites)

    @property
    def sites(self) -> dict[str, str]:
        """Names in the roster by client name; holders are not in it."""
        return {client: name for client, name in self._names.items() if name in self._sites}

    def find(self, listed: Iterable[str], fl_ctx: FLContext, abort: Signal) -> None:
        """Ask the clients that are not yet known who they are."""
        new = [name for name in listed if name not in self._names and name not in self._out]
        if not new:
            return
        tasks = {name: self._task(self._rounds.greeting(name)) for name in new}
        answered = dict(self._replies(tasks, fl_ctx, abort))
        for client in new:
            report = answered.get(client)
            if report is None:
                self._silent(client, "no answer")
                continue
            try:
                self._claim(client, self._rounds.welcome(client, report))
            except SecAggError as error:
                if isinstance(error, PeerError) and error.rule != "roster-member":
                    # Bytes may have been damaged on their way: it is asked again.
                    self._silent(client, error)
                    continue
                log.warning("secagg: client %s is kept out: %s", client, error)
                self._out.add(client)
        missing = [name for name in self._rounds.parties if name not in self._names.values()]
        if missing:
            log.info("secagg: no client yet for %s", ", ".join(missing))

    def _silent(self, client: str, why: object) -> None:
        self._silences[client] = self._silences.get(client, 0) + 1
        log.warning("secagg: client %s did not say who it is: %s", client, why)
        if self._silences[client] >= _MOST_SILENCES:
            self._out.add(client)

    def _claim(self, client: str, name: str) -> None:
        other = next((other for other, known in self._names.items() if known == name), None)
        if other is not None:
            self._out.add(client)
            log.warning(
                "secagg: client %s is kept out: client %s is %s already [one-client]",
                client,
                other,
                name,
            )
            return
        self._names[client] = name
        log.info("secagg: client %s is %s", client, name)

    def carry(
        self,
        requests: Mapping[str, bytes],
        slot: Slot,
        fl_ctx: FLContext,
        abort: Signal,
        *,
        train: tuple[str, Shareable] | None = None,
        sampled: Iterable[str] = (),
    ) -> Iterator[tuple[str, bytes]]:
        """Orders to parties, their reports as they come. train: the task's name and data for the
        sampled clients, in the exchange in which they train."""
        asked = set(sampled) if slot is Slot.INPUT and train is not None else set()
        clients = {name: client for client, name in self._names.items()}
        tasks, training = {}, {}
        for name, order in requests.items():
            client = clients.get(name)
            if client is None:
                continue
            if client in asked:
                training[client] = order
            tasks[client] = self._task(order, train if client in asked else None)
        for client, report in self._replies(tasks, fl_ctx, abort, training):
            yield self._names[client], report

    def _task(self, order: bytes, train: tuple[str, Shareable] | None = None) -> Task:
        name, content = train or (TASK, Shareable())
        data = make_copy(content)
        data[ORDER] = order
        timeout = self._train_timeout if train is not None else self._timeout
        return Task(name=name, data=data, timeout=timeout)

    def _replies(
        self,
        tasks: Mapping[str, Task],
        fl_ctx: FLContext,
        abort: Signal,
        training: Mapping[str, bytes] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Reports as they come. training: the orders of clients that train. FLARE lets no filter
        see an executor's exception, so that the site's part cannot say that it is out: it is then
        asked by the other task, and stays in the session."""
        failed: dict[str, Task] = {}
        for client, result in self._results(tasks, fl_ctx, abort):
            if result is None:
                log.warning("secagg: client %s did not answer in time", client)
                continue
            report = report_in(result)
            code = result.get_return_code()
            if code == ReturnCode.OK and report is not None:
                yield client, report
            elif code == ReturnCode.OK:
                log.warning("secagg: client %s answered without protection [unprotected]", client)
            else:
                log.warning("secagg: client %s answered with %s", client, code)
                order = (training or {}).get(client)
                if order is not None:
                    failed[client] = self._task(order)
        if failed:
            yield from self._replies(failed, fl_ctx, abort)

    def _results(
        self, tasks: Mapping[str, Task], fl_ctx: FLContext, abort: Signal
    ) -> Iterator[tuple[str, Shareable | None]]:
        """Send each client its own task; results as they come, ``None`` for none in time."""
        found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            found.put((client_task.client.name, client_task.result))
            client_task.result = None

        def done(client: str, task: Task, fl_ctx: FLContext) -> None:
            found.put((client, None))

        for client, task in tasks.items():
            task.result_received_cb, task.task_done_cb = received, partial(done, client)
        open_tasks = dict(tasks)
        for client, task in tasks.items():
            self._controller.send(task=task, fl_ctx=fl_ctx, targets=[client])
        while open_tasks:
            if abort.triggered:
                for task in open_tasks.values():
                    self._controller.cancel_task(task, TaskCompletionStatus.ABORTED, fl_ctx)
                raise JobAborted
            try:
                client, result = found.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if open_tasks.pop(client, None) is None:
                continue
            yield client, result if isinstance(result, Shareable) else None


__all__ = ["Clients", "JobAborted"]
