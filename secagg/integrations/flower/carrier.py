"""How the messages of one round travel over Flower's grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from secagg.integrations.rounds import Rounds
from secagg.session import Slot

from .nodes import Nodes
from .records import KEY, SETTING, Setting, pack, unpack

log: Final = logging.getLogger("secagg.integrations")


class Carrier:
    """The transport of one round: orders to the nodes of the parties, and the strategy's content
    to those that it sampled, in the exchange in which they train."""

    def __init__(
        self,
        grid: Grid,
        nodes: Nodes,
        find: Callable[[], None],
        rounds: Rounds,
        sampled: Mapping[str, Message],
        setting: Setting | None,
        timeout: float | None,
    ) -> None:
        self._grid, self._nodes, self._find = grid, nodes, find
        self._rounds, self._sampled = rounds, sampled
        self._setting, self._timeout = setting, timeout
        self._kind = rounds.task
        for message in sampled.values():
            self._kind = str(message.metadata.message_type)
        self._number = len(rounds.reports) + 1

    def __call__(self, requests: Mapping[str, bytes], slot: Slot) -> Iterator[tuple[str, bytes]]:
        there = set(self._grid.get_node_ids())
        if any(self._nodes.node(name) not in there for name in requests):
            # A node that was started again has another id, and need not wait for the next round.
            self._find()
        nodes = {name: self._nodes.node(name) for name in requests}
        names = {node: name for name, node in nodes.items() if node is not None}
        messages = [self._message(node, name, requests[name], slot) for node, name in names.items()]
        if not messages:
            return
        for reply in self._grid.send_and_receive(messages, timeout=self._timeout):
            name = names.get(int(reply.metadata.src_node_id))
            report = unpack(reply.content) if reply.has_content() else None
            if name is not None and report is not None:
                yield name, report
            elif name is not None and reply.has_content():
                log.warning(
                    "secagg: %s answered without protection; is secagg_mod the first of the mods "
                    "of @app.%s?",
                    name,
                    self._rounds.task,
                )
            elif name is not None:
                log.debug("secagg: %s answered with an error", name)

    def _message(self, node: int, name: str, order: bytes, slot: Slot) -> Message:
        content = RecordDict({KEY: pack(order)})
        like = self._sampled.get(name)
        if slot is Slot.INPUT and like is not None and self._setting is not None:
            for key, record in like.content.items():
                content[key] = record
            content[SETTING] = self._setting.pack()
        return Message(
            content,
            node,
            self._kind,
            ttl=None if like is None else like.metadata.ttl,
            group_id=f"secagg/{self._rounds.task}/{self._number}/{slot.label}",
        )


__all__ = ["Carrier"]
