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
import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

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
    return digest_of_frame(context, kind, sender, recipient, header, hashlib.sha256(tail).digest())


def digest_of_frame(
    context: bytes, kind: int, sender: int, recipient: int, header: Buffer, tail_hash: bytes
) -> bytes:
    """:func:`frame_digest` from the SHA-256 of the tail, for frames that share one tail."""
    prefix = _PREFIX.pack(MAGIC, VERSION, kind, sender, recipient, len(header))
    state = hashlib.sha256(b"secagg frame v1" + context + prefix)
    state.update(header)
    state.update(tail_hash)
    return state.digest()


def frame_head(kind: int, sender: int, recipient: int, header: bytes) -> bytes:
    """Prefix and header: what comes before the tail."""
    return _PREFIX.pack(MAGIC, VERSION, kind, sender, recipient, len(header)) + header


class FrameBuffer:
    """A frame that is being written, in one buffer that becomes the message without a copy.

    A masked input may have hundreds of megabytes, so filling a ``bytearray`` and copying it to
    ``bytes`` would double what a site needs.
    """

    __slots__ = ("_file",)

    def __init__(self, size: int) -> None:
        # The file takes over a bytes object that nobody else holds, and zeros cost no memory
        # until they are written to.
        self._file = io.BytesIO(bytes(size))

    def view(self, start: int, stop: int) -> memoryview:
        """Bytes ``start .. stop`` to fill; to be released before the frame is taken."""
        return self._file.getbuffer()[start:stop]

    def __setitem__(self, where: slice, data: Buffer) -> None:
        with self._file.getbuffer() as view:
            view[where] = data

    def __bytes__(self) -> bytes:
        """The frame: the buffer itself where no view of it is left, else a copy."""
        self._file.seek(0)
        return self._file.read()


def start_frame(
    kind: int, sender: int, recipient: int, header: bytes, tail_size: int, trailer_size: int
) -> tuple[FrameBuffer, memoryview]:
    """A frame's buffer with prefix and header written, and a view of its tail to fill."""
    head = frame_head(kind, sender, recipient, header)
    end = len(head) + tail_size
    buffer = FrameBuffer(end + trailer_size)
    buffer[: len(head)] = head
    return buffer, buffer.view(len(head), end)


def flat_view(data: Buffer, least: int) -> memoryview:
    """The bytes of a message that has at least ``least`` of them; :class:`DecodeError` else."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise DecodeError("a message is bytes", rule="frame")
    view = memoryview(data)
    if not view.contiguous:
        raise DecodeError("a message is contiguous bytes", rule="frame")
    if view.nbytes < least:
        raise DecodeError(f"{view.nbytes} bytes are too few for a message", rule="frame")
    # Only now: a view with a zero in its shape has no bytes and cannot be cast.
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def split_frame(data: Buffer, *, trailer_size: int) -> Frame:
    """Split ``data`` into a frame without believing any of it: views, no copies of the tail.

    Raises :class:`DecodeError` where the bytes cannot be a frame.
    """
    view = flat_view(data, PREFIX_SIZE + trailer_size)
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
    bits = np.zeros(8 * bitmap_size(clients), dtype=np.uint8)
    bits[np.fromiter(sites, dtype=np.intp)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def from_bitmap(data: bytes, clients: int) -> tuple[int, ...]:
    """Sites of a bitmap in ascending order. Unused bits must be zero, so a list has one
    encoding only; unsorted or repeated ids cannot be expressed."""
    if len(data) != bitmap_size(clients):
        raise DecodeError(
            f"a site list of {len(data)} bytes, {bitmap_size(clients)} expected", rule="header"
        )
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    if bits[clients:].any():
        raise DecodeError("a site list names sites beyond the roster", rule="header")
    return tuple(np.flatnonzero(bits).tolist())
