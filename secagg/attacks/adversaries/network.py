"""A network that drops, repeats, delays, reorders, replays, misdirects and damages messages.

It knows addresses and bytes, and no parties. What happens to the i-th message that a fault sees
follows from the seed, the place of the fault and i alone, whatever the messages hold: a schedule
is replayed from its seed, and a failing one can be looked at again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from ..attack import Frame

_UNIT: Final = float(1 << 64)


class Mark(NamedTuple):
    """What was done to which message: the fault, and the message's number in its sight."""

    fault: str
    message: int


class Draw:
    """Numbers for one message, or one batch: they follow from the seed and two counters."""

    __slots__ = ("_at", "_words")

    def __init__(self, seed: int, place: int, number: int, size: int = 8) -> None:
        key = struct.pack("<QII", seed & 0xFFFFFFFFFFFFFFFF, place, number)
        data = hashlib.shake_256(b"secagg network v1" + key).digest(8 * size)
        self._words = struct.unpack(f"<{size}Q", data)
        self._at = 0

    def below(self, limit: int) -> int:
        """An integer in 0..limit-1. The bias of at most limit/2^64 is of no concern here."""
        word: int = self._words[self._at]
        self._at += 1
        return word % limit

    def happens(self, rate: float) -> bool:
        """True with chance ``rate``."""
        return self.below(1 << 64) / _UNIT < rate


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls each message with chance ``rate``, or a whole batch.

    only: the party whose mail it befalls; everybody's where none is named. batch: the one batch
    in which it befalls anything, counted from 1; all of them where it is 0. sender: whose messages
    it befalls; everybody's where none is named.
    """

    rate: float
    only: str = ""
    batch: int = 0
    sender: str = ""
    name: ClassVar[str]
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError("a rate lies in 0..1")

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        """What arrives in the place of a message that the fault befalls."""
        raise NotImplementedError

    def arrange(self, frames: list[Frame], draw: Draw) -> list[Frame]:
        """The order in which a batch arrives that the fault befalls."""
        raise NotImplementedError


class Drop(Fault):
    """A message is lost."""

    name = "drop"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        return []


class Duplicate(Fault):
    """A message arrives twice."""

    name = "duplicate"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        return [frame, frame]


class Delay(Fault):
    """A message arrives with the next batch: after its step is over."""

    name = "delay"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        network.late.append(frame)
        return []


class Flip(Fault):
    """One bit of a message is changed."""

    name = "flip"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        if not frame.data:
            return [frame]
        bit = draw.below(8 * len(frame.data))
        changed = bytearray(frame.data)
        changed[bit // 8] ^= 1 << bit % 8
        return [Frame(frame.round, frame.sender, frame.to, bytes(changed))]


class Replay(Fault):
    """A message to the same party from an earlier round arrives before this one."""

    name = "replay"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        old = network.earlier.get(frame.to, ())
        return [old[draw.below(len(old))], frame] if old else [frame]


class Repeat(Fault):
    """A message that the party had in this round arrives again, after this one."""

    name = "repeat"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        had = network.carried.get(frame.to, ())
        return [frame, had[draw.below(len(had))]] if had else [frame]


class Misdirect(Fault):
    """A message arrives at another party, under its sender's name."""

    name = "misdirect"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        others = sorted({*network.known} - {frame.to})
        if not others:
            return [frame]
        to = others[draw.below(len(others))]
        return [Frame(frame.round, frame.sender, to, frame.data)]


class Relabel(Fault):
    """A message arrives under the name of another sender."""

    name = "relabel"

    def carry(self, frame: Frame, draw: Draw, network: Network) -> list[Frame]:
        others = sorted({*network.known} - {frame.to, frame.sender})
        if not others:
            return [frame]
        return [Frame(frame.round, others[draw.below(len(others))], frame.to, frame.data)]


class Reorder(Fault):
    """The messages of a batch arrive in another order."""

    name = "reorder"
    whole = True

    def arrange(self, frames: list[Frame], draw: Draw) -> list[Frame]:
        key = draw.below(1 << 64)
        order = sorted(
            range(len(frames)),
            key=lambda i: hashlib.sha256(struct.pack("<QI", key, i)).digest(),
        )
        return [frames[i] for i in order]


class Network:
    """Carries batches of messages through faults, one after the other.

    seed: of the schedule. faults: in the order in which they befall a message. earlier: messages
    of earlier rounds, for :class:`Replay`.
    """

    def __init__(self, seed: int, *faults: Fault, earlier: Sequence[Frame] = ()) -> None:
        self.seed, self.faults = seed, faults
        self.earlier = _by_address(earlier)
        #: All that was sent, as it was sent: what the network saw.
        self.seen: list[Frame] = []
        #: The same by recipient, and everybody who ever sent or got a message.
        self.carried: dict[str, list[Frame]] = {}
        self.known: set[str] = set()
        #: Messages for the next batch.
        self.late: list[Frame] = []
        #: What was done, in order.
        self.marks: list[Mark] = []
        self._counts = [0] * len(faults)
        self._batches = 0

    def carry(self, frames: Sequence[Frame]) -> list[Frame]:
        """What arrives of a batch, in order; late messages of the batch before come first."""
        late, self.late = self.late, []
        self._batches += 1
        for frame in frames:
            self.seen.append(frame)
            self.carried.setdefault(frame.to, []).append(frame)
            self.known |= {frame.sender, frame.to}
        flying = list(frames)
        for place, fault in enumerate(self.faults):
            flying = self._through(place, fault, flying)
        return [*late, *flying]

    def _through(self, place: int, fault: Fault, flying: list[Frame]) -> list[Frame]:
        if fault.batch not in {0, self._batches}:
            return flying
        if fault.whole:
            draw = self._next(place)
            if not flying or not draw.happens(fault.rate):
                return flying
            self._mark(place, fault)
            return fault.arrange(flying, draw)
        arrived: list[Frame] = []
        for frame in flying:
            draw = self._next(place)
            fits = fault.only in {"", frame.to} and fault.sender in {"", frame.sender}
            if draw.happens(fault.rate) and fits:
                self._mark(place, fault)
                arrived += fault.carry(frame, draw, self)
            else:
                arrived.append(frame)
        return arrived

    def _next(self, place: int) -> Draw:
        self._counts[place] += 1
        return Draw(self.seed, place, self._counts[place])

    def _mark(self, place: int, fault: Fault) -> None:
        self.marks.append(Mark(fault.name, self._counts[place]))


def _by_address(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    found: dict[str, list[Frame]] = {}
    for frame in frames:
        found.setdefault(frame.to, []).append(frame)
    return found


__all__ = [
    "Delay",
    "Draw",
    "Drop",
    "Duplicate",
    "Fault",
    "Flip",
    "Mark",
    "Misdirect",
    "Network",
    "Relabel",
    "Reorder",
    "Repeat",
    "Replay",
]
