"""Frames and site lists: what travels, byte for byte (``protocols/specs/wire.md``).

A frame is::

    prefix   16 bytes   magic "SA", version, kind, sender, recipient, header length (u32 LE)
    header   msgpack    one fixed struct per kind, canonical
    tail     raw        its exact length follows from plan and header
    trailer  32 or 64   SHA-256, or an Ed25519 signature of that digest

The prefix is fixed so that the trailer is verified before one byte of msgpack is parsed: a
parser that only ever sees authenticated bytes is a small target.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from .errors import DecodeError

VERSION = 1
MAGIC = b"SA"
#: Roster index that stands for the server in a prefix.
SERVER = 0xFFFFFFFF

_PREFIX = struct.Struct("<2sBBIII")
PREFIX_SIZE = _PREFIX.size
DIGEST_SIZE = 32
SIGNATURE_SIZE = 64

Buffer = bytes | bytearray | memoryview


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all headers: fixed fields in a fixed order."""


HeaderT = TypeVar("HeaderT", bound=Header)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, split but not yet believed. Header and tail are views, not copies."""

    kind: int
    sender: int
    recipient: int
    header: memoryview
    tail: memoryview
    trailer: bytes

    def digest(self, context: bytes) -> bytes:
        """SHA-256 over (context, kind, sender, recipient, header, hash of the tail)."""
        return frame_digest(context, self.kind, self.sender, self.recipient, self.header, self.tail)


def frame_digest(
    context: bytes, kind: int, sender: int, recipient: int, header: Buffer, tail: Buffer
) -> bytes:
    """Digest that a trailer carries or signs; ``context`` is 32 bytes."""
    prefix = _PREFIX.pack(MAGIC, VERSION, kind, sender, recipient, len(header))
    state = hashlib.sha256(b"secagg frame v1" + context + prefix)
    state.update(header)
    state.update(hashlib.sha256(tail).digest())
    return state.digest()


def start_frame(
    kind: int, sender: int, recipient: int, header: bytes, tail_size: int, trailer_size: int
) -> tuple[bytearray, memoryview]:
    """A frame's buffer with prefix and header written, and a view of its tail to fill."""
    begin = PREFIX_SIZE + len(header)
    buffer = bytearray(begin + tail_size + trailer_size)
    _PREFIX.pack_into(buffer, 0, MAGIC, VERSION, kind, sender, recipient, len(header))
    buffer[PREFIX_SIZE:begin] = header
    return buffer, memoryview(buffer)[begin : begin + tail_size]


def split_frame(data: Buffer, *, trailer_size: int) -> Frame:
    """Split ``data`` into a frame without believing any of it: views, no copies of the tail.

    Raises :class:`DecodeError` where the bytes cannot be a frame.
    """
    view = memoryview(data)
    if not view.contiguous:
        raise DecodeError("a frame is contiguous bytes", rule="frame")
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    if view.nbytes < PREFIX_SIZE + trailer_size:
        raise DecodeError(f"{view.nbytes} bytes are too few for a frame", rule="frame")
    magic, version, kind, sender, recipient, size = _PREFIX.unpack_from(view)
    if magic != MAGIC or version != VERSION:
        raise DecodeError("not a frame of this version", rule="frame")
    body = view[PREFIX_SIZE : view.nbytes - trailer_size]
    if size > body.nbytes:
        raise DecodeError("the header is longer than the frame", rule="frame")
    return Frame(
        kind=kind,
        sender=sender,
        recipient=recipient,
        header=body[:size],
        tail=body[size:],
        trailer=bytes(view[view.nbytes - trailer_size :]),
    )


_encoder = msgspec.msgpack.Encoder()


def encode_header(header: Header) -> bytes:
    """Canonical msgpack of a header."""
    return _encoder.encode(header)


def decode_header(kind: type[HeaderT], data: Buffer) -> HeaderT:
    """The header in ``data``. That it is the canonical encoding is for the caller to check."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise DecodeError(f"bad {kind.__name__} header", rule="header") from error


def bitmap_size(clients: int) -> int:
    """Bytes of a site list over a roster of ``clients`` sites."""
    return (clients + 7) // 8


def to_bitmap(sites: Iterable[int], clients: int) -> bytes:
    """Site list as a bitmap over the roster, lowest index in the lowest bit."""
    bits = bytearray(bitmap_size(clients))
    for site in sites:
        bits[site >> 3] |= 1 << (site & 7)
    return bytes(bits)


def from_bitmap(data: bytes, clients: int) -> tuple[int, ...]:
    """Sites of a bitmap in ascending order. Unused bits must be zero, so a list has one
    encoding only; unsorted or repeated ids cannot be expressed."""
    if len(data) != bitmap_size(clients):
        raise DecodeError(
            f"a site list of {len(data)} bytes, {bitmap_size(clients)} expected", rule="header"
        )
    value = int.from_bytes(data, "little")
    if value >> clients:
        raise DecodeError("a site list names sites beyond the roster", rule="header")
    sites = []
    for index, byte in enumerate(data):
        sites += [(index << 3) + bit for bit in range(8) if byte >> bit & 1]
    return tuple(sites)
