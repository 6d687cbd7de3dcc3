"""A round's result as every protocol states it: its digest, its packed form, its message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from secagg_native import bitpack, packed_size

from .keys import digest_of_pieces
from .plan import Plan
from .stages.base import TILE, tiles
from .wire import DIGEST_SIZE, Buffer, FrameBuffer, Header

Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]


class Result(Header, frozen=True):
    """Server to site: digest of the aggregate and the survivors. Tail: the packed sum, where
    sites receive it."""

    digest: Digest
    survivors: bytes


def ring_size(plan: Plan) -> int:
    """Bytes of a packed ring vector."""
    return packed_size(plan.ring_length, plan.wire_bits)


def result_size(plan: Plan) -> int:
    """Bytes of the sum in a :class:`Result`: none where sites do not receive it."""
    return ring_size(plan) if plan.sites_receive else 0


def aggregate_digest(
    round_context: bytes, survivors: bytes, packed: Iterable[Buffer], size: int
) -> bytes:
    """What the server signs of a result: round, survivors, packed ring sum.

    The packed sum comes in pieces, ``size`` bytes together, so that nobody has to hold it.
    """
    return digest_of_pieces(
        b"secagg aggregate v1", round_context, survivors, size=size, pieces=packed
    )


def pack_sum(plan: Plan, ring: Any) -> bytes:
    """The ring sum in the packed form that travels."""
    size = ring_size(plan)
    buffer = FrameBuffer(size)
    with buffer.view(0, size) as view:
        bitpack.pack(ring, plan.wire_bits, view)
    return bytes(buffer)


def packed_tiles(plan: Plan, ring: Any) -> Iterator[memoryview]:
    """The same piece by piece, in one small buffer: each piece is to be used up at once."""
    buffer = memoryview(bytearray(packed_size(TILE, plan.wire_bits)))
    for start, stop in tiles(plan.ring_length):
        piece = buffer[: packed_size(stop - start, plan.wire_bits)]
        bitpack.pack(ring[start:stop], plan.wire_bits, piece)
        yield piece
