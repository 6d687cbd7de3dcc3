"""Messages of a session: control frames and bundles (``protocols/specs/session.md``).

A bundle is one control frame followed by inner frames, back to back. The control frame is bound
to the session and says how long each inner frame is and which round it belongs to; the inner
frames are those of the masked sum, each bound to its own round, so nothing that a bundle says
about them has to be believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, Self

import msgspec

from secagg_protocols.errors import DecodeError
from secagg_protocols.events import Step
from secagg_protocols.keys import digest_of
from secagg_protocols.kinds import Kind
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.wire import (
    DIGEST_SIZE,
    PREFIX_SIZE,
    SIGNATURE_SIZE,
    VERSION,
    Buffer,
    Header,
    bitmap_size,
    decode_header,
    flat_view,
    split_frame,
)

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]

#: Most bytes of a round's parameters (clip, rotation seed), which the server states.
MOST_PARAMETERS: Final = 256
#: Most inner frames of one bundle.
MOST_PARTS: Final = 4
#: Most bytes of a control frame's header, lists of sites apart.
MOST_HEADER: Final = 1024


class Slot(IntEnum):
    """What an exchange asks of the sites that are in the round. The first five are its steps."""

    ADVERTISE = 1
    SHARE = 2
    INPUT = 3
    CONSENT = 4
    REVEAL = 5
    FINISH = 6  # the last result goes out, agreements come in
    CLOSE = 7  # the last agreements go out, nothing comes in

    @property
    def label(self) -> str:
        """Name in events and reports."""
        return self.name.lower()


class Part(Header, frozen=True):
    """One inner frame: its round, its size in bytes, and its trailer, which stands for it.

    Two orders that differ in what they carry so differ in what the server signed.
    """

    round: Number
    size: Number
    trailer: Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=SIGNATURE_SIZE)]

    @classmethod
    def of(cls, number: int, pieces: Sequence[bytes], trailer_size: int) -> Self:
        """The entry for a frame in pieces, the last of which ends with its whole trailer."""
        return cls(number, sum(map(len, pieces)), pieces[-1][-trailer_size:])


class Order(Header, frozen=True):
    """Server to site: what this exchange asks for.

    model: SHA-256 of the broadcast model (input slot only). parameters: of the round.
    """

    exchange: Number
    slot: Annotated[int, msgspec.Meta(ge=1, le=7)]
    round: Number
    model: Annotated[bytes, msgspec.Meta(max_length=DIGEST_SIZE)]
    parameters: Annotated[bytes, msgspec.Meta(max_length=MOST_PARAMETERS)]
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=MOST_PARTS)]


class Report(Header, frozen=True):
    """Site to server: the answer to one order."""

    exchange: Number
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=MOST_PARTS)]


class Agree(Header, frozen=True):
    """Site to server: the digest of the result that it was sent. The trailer is the agreement."""

    round: Number
    digest: Digest


class Agreed(Header, frozen=True):
    """Server to site: who agreed on a round's result. Tail: one signature per signer."""

    round: Number
    signers: bytes


class Relay(Header, frozen=True):
    """Server to holder: one site's input, and the model and parameters of its round, without
    which the input is not authentic."""

    round: Number
    model: Digest
    parameters: Annotated[bytes, msgspec.Meta(max_length=MOST_PARAMETERS)]
    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=1)]


class Lacks(Header, frozen=True):
    """Holder to server: inputs of this round that are to be opened and never came."""

    round: Number
    sites: bytes


# Session frames are in no round, so their step says nothing.
ORDER: Final = Kind(64, Step.ADVERTISE, Order, from_site=False, per_round=False)
REPORT: Final = Kind(65, Step.ADVERTISE, Report, from_site=True, per_round=False)
AGREE: Final = Kind(66, Step.REVEAL, Agree, from_site=True, per_round=False)
AGREED: Final = Kind(67, Step.REVEAL, Agreed, from_site=False, per_round=False)
KINDS: Final = {kind.number: kind for kind in (ORDER, REPORT, AGREE, AGREED)}

# Of sessions over Paillier sums only. A holder's orders are those of sites, for another role.
RELAY: Final = Kind(68, Step.INPUT, Relay, from_site=False, per_round=False, to="holder")
ANSWER: Final = Kind(
    69, Step.REVEAL, Report, from_site=False, per_round=False, sender="holder", to="server"
)
LACKS: Final = Kind(
    70, Step.REVEAL, Lacks, from_site=False, per_round=False, sender="holder", to="server"
)
PAILLIER_KINDS: Final = KINDS | {kind.number: kind for kind in (RELAY, ANSWER, LACKS)}
_CONTROLS: Final = frozenset(kind.number for kind in (ORDER, REPORT, RELAY, ANSWER))
_INSIDE: Final = frozenset(kind.number for kind in (AGREE, AGREED, LACKS))


def session_context(plan: Plan, session: bytes) -> bytes:
    """What binds the frames of a session that belong to no round."""
    return digest_of(
        b"secagg session context v1",
        bytes([VERSION]),
        plan.digest,
        plan.roster.epoch.to_bytes(4, "little"),
        session,
    )


def agreements_needed(plan: Plan) -> int:
    """Sites that confirm a result together: no two results can both have so many.

    ``share_threshold`` of a masked sum; where holders open the sum, the fewest that exceed half
    of the sites and the colluding ones.
    """
    if isinstance(plan.protocol, PaillierSum):
        return (plan.clients + plan.colluding) // 2 + 1
    return plan.protocol.share_threshold


def largest_control(plan: Plan, kind: Kind, signature: int) -> int:
    """Most bytes of a session frame; ``signature`` is the size of a trailer."""
    tail = agreements_needed(plan) * signature if kind is AGREED else 0
    return PREFIX_SIZE + MOST_HEADER + bitmap_size(plan.clients) + tail + signature


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was split and is not yet believed: views, no copies."""

    control: memoryview
    rest: memoryview

    trailer_size: int

    def parts(
        self, sizes: tuple[Part, ...], most: int | None = None
    ) -> list[tuple[int, memoryview]]:
        """(round, inner frame) as the control frame states them; :class:`DecodeError` where
        the bytes that follow it have other sizes or trailers, or one has more than ``most``."""
        wrong = DecodeError("the parts of a bundle are not those stated", rule="bundle")
        if any(len(part.trailer) != self.trailer_size for part in sizes):
            raise wrong
        if most is not None and any(part.size > most for part in sizes):
            raise DecodeError(f"a part of more than {most} bytes", rule="limits")
        if sum(part.size for part in sizes) != self.rest.nbytes:
            raise wrong
        found, at = [], 0
        for part in sizes:
            frame = self.rest[at : at + part.size]
            if frame[-len(part.trailer) :] != part.trailer:
                raise wrong
            found.append((part.round, frame))
            at += part.size
        return found


def split_bundle(data: Buffer, *, trailer_size: int) -> Bundle:
    """Split the control frame from what follows it, by lengths alone.

    Raises :class:`DecodeError` where the bytes cannot be a bundle.
    """
    view = flat_view(data, PREFIX_SIZE + trailer_size)
    size = PREFIX_SIZE + int.from_bytes(view[PREFIX_SIZE - 4 : PREFIX_SIZE], "little")
    size += trailer_size
    if size > view.nbytes or size > PREFIX_SIZE + MOST_HEADER + trailer_size:
        raise DecodeError("the control frame of a bundle is too long", rule="limits")
    control = view[:size]
    frame = split_frame(control, trailer_size=trailer_size)
    if frame.kind not in _CONTROLS:
        raise DecodeError("a bundle begins with an order or a report", rule="frame")
    return Bundle(control, view[size:], trailer_size)


def read_bundle(data: Buffer, *, trailer_size: int) -> list[tuple[int, memoryview]]:
    """(round, inner frame) of a bundle, for those who only watch: nothing is verified."""
    bundle = split_bundle(data, trailer_size=trailer_size)
    frame = split_frame(bundle.control, trailer_size=trailer_size)
    header: Order | Report | Relay
    if frame.kind == ORDER.number:
        header = decode_header(Order, frame.header)
    elif frame.kind == RELAY.number:
        header = decode_header(Relay, frame.header)
    else:
        header = decode_header(Report, frame.header)
    return bundle.parts(header.parts)


def is_session_frame(data: memoryview) -> bool:
    """Whether the bytes say that they are a frame of this session, not of a round."""
    return data.nbytes > 3 and data[3] in _INSIDE
