"""A grid that runs ClientApps in this process: for tests and for debugging, not for data.

It is a real Flower grid: strategies and :class:`SecAggGrid` take it as any other, and the apps are
called as a SuperNode calls them, each node with a Context of its own and messages that share no
memory with the server. ``fault`` makes it lose, repeat or hold back messages and restart nodes.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from secagg_protocols.errors import MisuseError

log: Final = logging.getLogger("secagg.integrations")

FIRST_NODE: Final = 1001
RUN: Final = 1
#: As Flower's SuperNode and SuperLink say them.
_APP_RAISED: Final = 2
_NODE_UNAVAILABLE: Final = 5


class Fault(StrEnum):
    """What becomes of a message, or of the node that gets it. Several may come together."""

    DROP = "drop"  # it never reaches the node
    LOSE = "lose"  # the node handles it, and the reply is lost
    TWICE = "twice"  # it arrives twice, one after the other; the second reply counts
    LATE = "late"  # the reply comes with those of the next call
    RESTART_BEFORE = "restart_before"  # the node forgets its Context first
    RESTART_AFTER = "restart_after"  # the node forgets its Context afterwards


@dataclass(frozen=True)
class Delivery:
    """A message on its way to a node.

    node_id, number: the node, and its index. message: a copy. count: how many messages the node was
    sent before. slot: the message's group id; ``secagg/TASK/ROUND/STEP`` where ours.
    """

    node_id: int
    number: int
    message: Message
    count: int

    @property
    def slot(self) -> str:
        """The message's group id."""
        return str(self.message.metadata.group_id)

    @property
    def task(self) -> str | None:
        """``train`` or ``evaluate`` in an exchange of a sum."""
        return self._part(1)

    @property
    def round(self) -> int | None:
        """Round of the task from 1, in an exchange of a sum."""
        number = self._part(2)
        return None if number is None else int(number)

    @property
    def step(self) -> str | None:
        """What an exchange of a sum is for, such as ``input``; ``hello`` before the first."""
        return "hello" if self.slot == "secagg/hello" else self._part(3)

    def _part(self, index: int) -> str | None:
        parts = self.slot.split("/")
        return parts[index] if len(parts) == 4 and parts[0] == "secagg" else None


Faults = Callable[[Delivery], Iterable[Fault] | Fault | None]


@dataclass
class Node:
    """One node: its app, its configuration, and the Context of the run."""

    app: ClientApp
    config: dict[str, Any]
    context: Context
    count: int = 0
    late: list[Message] = field(default_factory=list)


class InProcessGrid(Grid):
    """Runs ClientApps in this process.

    apps: one for all nodes, or one for each. node_configs: what ``--node-config`` says, one mapping
    a node; node ids are 1001, 1002, ... in this order. fault: asked before every delivery; see
    :class:`Fault`. record: keep the bytes of all messages in ``sent`` and ``received``.
    run_config: of the run, as every node's Context has it.

    ``offline`` is the set of node ids that are not there: they are not listed, and messages to them
    are answered as a SuperLink does. :class:`MisuseError` (``arguments``) where apps and nodes do
    not fit.
    """

    def __init__(
        self,
        apps: ClientApp | Sequence[ClientApp],
        node_configs: Sequence[Mapping[str, Any]],
        *,
        fault: Faults | None = None,
        record: bool = False,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self._run_config = dict(run_config or {})
        configs = [dict(config) for config in node_configs]
        chosen = [apps] * len(configs) if isinstance(apps, ClientApp) else list(apps)
        if len(chosen) != len(configs):
            raise MisuseError("one app for all nodes, or one for each", rule="arguments")
        _identify()
        self.fault, self._record = fault, record
        self.nodes: dict[int, Node] = {}
        for app, config in zip(chosen, configs, strict=True):
            self.add(app, config)
        self.offline: set[int] = set()
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._replies: dict[str, Message] = {}
        self._ids = itertools.count(1)
        self._run: Any = None

    def add(self, app: ClientApp, config: Mapping[str, Any]) -> int:
        """One more node; returns its id."""
        node_id = FIRST_NODE + len(self.nodes)
        self.nodes[node_id] = Node(app, dict(config), self._context(node_id, config))
        return node_id

    def restart(self, node_id: int) -> None:
        """The node's process ends and a new one begins: what it kept in its Context is gone."""
        node = self.nodes[node_id]
        node.context = self._context(node_id, node.config)

    def _context(self, node_id: int, config: Mapping[str, Any]) -> Context:
        return Context(
            run_id=RUN,
            node_id=node_id,
            node_config=dict(config),
            state=RecordDict(),
            run_config=dict(self._run_config),
        )

    # Flower's interface.

    def set_run(self, run: Any) -> None:
        """Keep what ``run`` gives back."""
        self._run = run

    @property
    def run(self) -> Any:
        """What ``set_run`` was given."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as ``Message`` makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are there."""
        return [node_id for node_id in self.nodes if node_id not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages now; their replies wait to be pulled."""
        given = []
        for message in list(messages):
            message_id = f"m{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            given.append(message_id)
            for reply in self._deliver(message):
                self._replies[str(reply.metadata.reply_to_message_id)] = reply
        return given

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages, as far as there are any; each is given once."""
        found = [self._replies.pop(each, None) for each in message_ids]
        return [reply for reply in found if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages and return the replies. Nothing waits: what is lost is lost at once."""
        late = [reply for node in self.nodes.values() for reply in node.late]
        for node in self.nodes.values():
            node.late = []
        return late + list(self.pull_messages(self.push_messages(messages)))

    # One message.

    def _deliver(self, message: Message) -> Iterator[Message]:
        node_id = int(message.metadata.dst_node_id)
        node = self.nodes.get(node_id)
        arrived = copy.deepcopy(message)
        if self._record:
            self.sent.append(bytes_of(copy.deepcopy(arrived)))
        if node is None or node_id in self.offline:
            yield Message(Error(_NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
            return
        number = list(self.nodes).index(node_id)
        told = (
            ()
            if self.fault is None
            else self.fault(Delivery(node_id, number, copy.deepcopy(arrived), node.count))
        )
        faults = {told} if isinstance(told, Fault) else set(told or ())
        node.count += 1
        if Fault.DROP in faults:
            return
        if Fault.RESTART_BEFORE in faults:
            self.restart(node_id)
        reply = self._call(node, arrived)
        if Fault.TWICE in faults:
            reply = self._call(node, copy.deepcopy(message))
        if Fault.RESTART_AFTER in faults:
            self.restart(node_id)
        if Fault.LOSE in faults:
            return
        reply = copy.deepcopy(reply)
        if self._record:
            self.received.append(bytes_of(copy.deepcopy(reply)))
        if Fault.LATE in faults:
            node.late.append(reply)
            return
        yield reply

    def _call(self, node: Node, message: Message) -> Message:
        try:
            return node.app(message, node.context)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as a SuperNode does
            return Message(Error(_APP_RAISED, str(error)), reply_to=message)


def bytes_of(message: Message) -> bytes:
    """All bytes of a message as Flower sends them, one part after the other."""
    parts, waiting, seen = [], [message], set()
    while waiting:
        part: Any = waiting.pop()
        parts.append(part.deflate())
        for name, child in (part.children or {}).items():
            if name not in seen:
                seen.add(name)
                waiting.append(child)
    return b"".join(parts)


def _identify() -> None:
    """Flower makes messages only in a process that has a task; in its own it sets one itself."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("task_id", "run_id", "node_id"):
        try:
            getattr(TaskIdentity, name)
        except RuntimeError:
            setattr(TaskIdentity, name, RUN)


__all__ = ["Delivery", "Fault", "InProcessGrid", "Node", "bytes_of"]
