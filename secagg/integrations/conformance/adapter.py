"""What the author of an adapter writes: how a schedule is run on the framework's real code."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from secagg.integrations import envelope
from secagg_protocols.errors import DecodeError

from .case import Case
from .wire import Message, Wire

_RULE = re.compile(r"[A-Za-z][A-Za-z-]*\Z")


@dataclass(frozen=True)
class Outcome:
    """What the framework said of one round.

    A sum: ``mean``, the weighted mean of the differences, of shape ``(length,)``; ``weight``, the
    total; ``survivors``, names of the sites in it. No sum: ``rule``, what ended the round.
    """

    mean: Any = None
    weight: float | None = None
    survivors: tuple[str, ...] = ()
    rule: str = ""

    @property
    def done(self) -> bool:
        """Whether the framework took the round for a success."""
        return not self.rule

    @property
    def named(self) -> bool:
        """Whether a failure has the name of a rule or of a kind of error, and nothing else."""
        return bool(_RULE.match(self.rule))


class Adapter(ABC, Generic[Message]):
    """Runs schedules on one framework. A new object is made for every schedule.

    ``Message`` is what the framework carries, ``bytes`` unless the methods below say otherwise.

    name: of the framework. dropouts: how many the plan of a schedule bears, 0 for a framework whose
    rounds need every site. unsupported: by feature (``conformance.ALL_FEATURES``, or a kind of
    fault in one exchange, ``"late in hello"``), why the framework cannot do it; tests of these are
    skipped with the reason. incompatible: names of
    strategies that have to be refused, each as ``Case.strategy``. rounding: by how much a
    coordinate of a mean may differ for the framework's own number format.
    """

    name: ClassVar[str] = "framework"
    dropouts: ClassVar[int] = 1
    unsupported: ClassVar[Mapping[str, str]] = {}
    incompatible: ClassVar[tuple[str, ...]] = ()
    rounding: ClassVar[float] = 1e-9

    @abstractmethod
    def run(self, case: Case, wire: Wire[Message]) -> Iterable[Outcome]:
        """Run ``case.rounds`` rounds over ``case.nodes`` and give one outcome for each.

        Every message passes through ``wire.exchange``. A site's training is ``case.train(node,
        wire.round)``. Errors that end the whole run are raised: :class:`SecAggError` where it was
        refused, ``ServerDied`` (of the wire) where the schedule says so and the adapter does not
        begin the server anew.
        """

    def read(self, message: Message) -> bytes:
        """Our bytes in a message, empty where it has none."""
        if not isinstance(message, bytes):
            raise NotImplementedError("messages that are no bytes need a method read")
        return message

    def replaced(self, message: Message, data: bytes) -> Message:
        """A copy of the message with other bytes of ours."""
        if not isinstance(message, bytes):
            raise NotImplementedError("messages that are no bytes need a method replaced")
        return data  # type: ignore[return-value]

    def everything(self, message: Message) -> bytes:
        """All bytes of a message, as the framework sends them."""
        return self.read(message)

    def restarted(self, node: str) -> None:
        """The node's process is gone: forget what it had outside of its party folder."""

    def order(self, request: bytes) -> Hashable:
        """What of our bytes says which step is asked for."""
        try:
            return envelope.unpack(envelope.Request, request).messages
        except DecodeError:
            return request

    def report(self, reply: bytes) -> Hashable:
        """What of our bytes answers the step; something false where it is not answered."""
        try:
            return envelope.unpack(envelope.Reply, reply).messages
        except DecodeError:
            return reply


__all__ = ["Adapter", "Outcome"]
