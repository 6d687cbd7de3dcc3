"""The network of a schedule: it carries an adapter's messages, and loses some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from .case import Case
from .faults import KILLS, MESSAGE, Fault, Kind
from .process import in_child

if TYPE_CHECKING:
    from .adapter import Adapter

Message = TypeVar("Message")
#: Handles a request at a node: its key, the request; ``None`` where it says nothing.
Handle = Callable[[str, Message], Message | None]


class ServerDied(Exception):  # noqa: N818 - a thing that happens in a schedule
    """The server's process ends here. The adapter begins a new one from ``case.server``, and the
    round has the outcome ``ServerDied.rule``."""

    rule = "server-died"


@dataclass(frozen=True)
class Delivery:
    """One request to one node. replies: of ours, all that it made, whether or not they arrived.
    everything: all bytes of its replies. arrived: whether a reply to it reached the server in the
    same exchange. fault: what went wrong."""

    round: int
    slot: str
    node: str
    request: bytes
    replies: tuple[bytes, ...] = ()
    everything: tuple[bytes, ...] = ()
    arrived: bool = False
    fault: Kind | None = None

    def line(self) -> str:
        """One line for a failing test."""
        sizes = "+".join(str(len(data)) for data in self.replies) or "nothing"
        fate = "arrived" if self.arrived else "did not arrive"
        wrong = f"  <- {self.fault}" if self.fault else ""
        return (
            f"round {self.round} {self.slot:9} {self.node:16} {len(self.request):5} bytes, "
            f"answered {sizes}, {fate}{wrong}"
        )


@dataclass
class Wire(Generic[Message]):
    """Between the server and the nodes of one schedule.

    ``round``: the round of the exchange that is going on; ``log``: every delivery; ``applied``:
    the faults that took place. children: every message is handled in a forked process, which is
    for adapters whose nodes keep nothing outside of their folders.
    """

    case: Case
    adapter: Adapter[Message]
    children: bool = False
    round: int = 0
    log: list[Delivery] = field(default_factory=list)
    applied: list[Fault] = field(default_factory=list)
    _late: list[tuple[str, Message]] = field(default_factory=list)

    def exchange(
        self, round: int, slot: str, requests: Mapping[str, Message], handle: Handle[Message]
    ) -> list[tuple[str, Message]]:
        """Carry requests by node, and return the replies that arrive, late ones of the exchange
        before first.

        round: of the schedule, from 0. slot: ``hello`` where nodes are asked who they are, else the
        label of the :class:`secagg.session.Slot`. handle: called in this thread, once for every
        time that a request arrives.
        """
        self.round = round
        arrived, self._late = self._late, []
        for node, request in requests.items():
            arrived += self._deliver(round, slot, node, request, handle)
        dies = next((f for f in self.case.faults if self._is(f, round, slot, "")), None)
        if dies is not None:
            self.applied.append(dies)
            self._late = []  # they were on their way to a process that is gone
            raise ServerDied("the server's process ends here")
        return arrived

    def _is(self, fault: Fault, round: int, slot: str, node: str) -> bool:
        kinds = MESSAGE if node else (Kind.SERVER_RESTART,)
        place = (fault.party, fault.round, fault.slot)
        return fault.kind in kinds and place == (node, round, slot) and fault not in self.applied

    def _deliver(
        self, round: int, slot: str, node: str, request: Message, handle: Handle[Message]
    ) -> list[tuple[str, Message]]:
        fault = next((f for f in self.case.faults if self._is(f, round, slot, node)), None)
        kind = None if fault is None else fault.kind
        if fault is not None:
            self.applied.append(fault)
        entry = Delivery(round, slot, node, self.adapter.read(request), fault=kind)
        if fault is not None and kind is Kind.GARBLE_REQUEST:
            request = self._garbled(request, fault.at)
        if kind is Kind.DROP:
            self.log.append(entry)
            return []
        if fault is not None and kind in KILLS:
            said = in_child(lambda: self._read(handle(node, request)), kind, fault.at)
            self.adapter.restarted(node)
            self.log.append(replace(entry, replies=() if said is None else (said,)))
            return []
        made = [self._handled(node, request, handle)]
        if kind is Kind.TWICE:
            made.append(self._handled(node, request, handle))
        replies = [reply for reply in made if reply is not None]
        entry = replace(
            entry,
            replies=tuple(self.adapter.read(reply) for reply in replies),
            everything=tuple(self.adapter.everything(reply) for reply in replies),
            arrived=bool(replies) and kind not in {Kind.LOSE, Kind.LATE},
        )
        self.log.append(entry)
        found = [(node, reply) for reply in replies]
        if kind is Kind.REPEAT:
            found += found
        if fault is not None and kind is Kind.GARBLE_REPLY:
            found = [(node, self._garbled(reply, fault.at)) for reply in replies]
        if kind is Kind.RESTART:
            self.adapter.restarted(node)
        if kind is Kind.LATE:
            self._late += found
        return found if entry.arrived else []

    def _handled(self, node: str, request: Message, handle: Handle[Message]) -> Message | None:
        if not self.children:
            return handle(node, request)
        said = in_child(lambda: self._read(handle(node, request)))
        return None if said is None else self.adapter.replaced(request, said)

    def _read(self, message: Message | None) -> bytes | None:
        return None if message is None else self.adapter.read(message)

    def _garbled(self, message: Message, at: float) -> Message:
        data = bytearray(self.adapter.read(message))
        if data:
            data[min(int(at * len(data)), len(data) - 1)] ^= 0x41
        return self.adapter.replaced(message, bytes(data))


__all__ = ["Delivery", "Handle", "Message", "ServerDied", "Wire"]
