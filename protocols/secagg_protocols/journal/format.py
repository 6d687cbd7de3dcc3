"""The bytes of a journal file (``protocols/specs/wire.md``), and what the platform says of one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import sys
from dataclasses import dataclass
from typing import Final, NamedTuple

MAGIC: Final = b"secagg journal 2\n"
ID_SIZE: Final = 16
_CHECK_SIZE: Final = 8

# magic, id, generation, base, inode, version; then a check
_HEAD: Final = struct.Struct("<17s16sQQQI")
#: Bytes before the first record.
HEAD_SIZE: Final = _HEAD.size + _CHECK_SIZE

# kind, size of the data, sequence, name, step, number, digest, series; then a check
_RECORD: Final = struct.Struct("<BIQ32sIQ32s32s")
_BEFORE_DATA: Final = _RECORD.size + _CHECK_SIZE
#: Bytes of a record besides its data.
RECORD_SIZE: Final = _BEFORE_DATA + _CHECK_SIZE

_SECTOR: Final = 512

CLAIM: Final = 1
CLAIM_IN_SERIES: Final = 2
RETIRE: Final = 3
REGISTER: Final = 4

_FS_IOC_GETVERSION: Final = 0x7601 | 2 << 30 | struct.calcsize("l") << 16
_MARK: Final = "user.secagg.journal"


class Place(NamedTuple):
    """Where a file lives. ``version`` tells two owners of one inode number apart, 0: unknown."""

    device: int
    inode: int
    version: int

    def is_stated_by(self, head: Head) -> bool:
        """Whether ``head`` was written to the file at this place."""
        # Device numbers change with a reboot, so a head does not state one.
        versions = {self.version, head.version} - {0}
        return self.inode == head.inode and len(versions) <= 1


@dataclass(frozen=True, slots=True)
class Head:
    """The start of a file.

    id: the journal's, whatever file it is in.
    generation: how often the journal was written anew.
    base: how many operations are not in this file.
    inode, version: where the file was written.
    """

    id: bytes
    generation: int
    base: int
    inode: int
    version: int

    def encode(self) -> bytes:
        """The head's bytes."""
        data = _HEAD.pack(MAGIC, self.id, self.generation, self.base, self.inode, self.version)
        return data + _check(data)


class Entry(NamedTuple):
    """One operation. Fields that a kind does not use are zero."""

    kind: int
    name: bytes
    step: int = 0
    number: int = 0
    digest: bytes = b""
    series: bytes = b""
    data: bytes = b""

    def encode(self, sequence: int) -> bytes:
        """The record of this operation, the ``sequence``-th of its journal."""
        head = _RECORD.pack(
            self.kind,
            len(self.data),
            sequence,
            self.name,
            self.step,
            self.number,
            self.digest,
            self.series,
        )
        head += _check(head)
        return b"".join((head, self.data, _check(head, self.data)))


def read_head(data: bytes) -> Head | None:
    """The head in a file that begins with ``data`` (a byte more than a head, if it has that many).

    ``None`` where the file is new, or is what a crash left of a new one. ``ValueError`` where it
    is damaged or of another kind.
    """
    if len(data) < HEAD_SIZE or (len(data) == HEAD_SIZE and not any(data[_HEAD.size :])):
        # A crash while the file was made leaves a part of the head or blocks not yet written,
        # and nothing else of that size is ours to overwrite.
        if any(data) and data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise ValueError
        return None
    data = data[:HEAD_SIZE]
    magic, name, generation, base, inode, version = _HEAD.unpack(data[: _HEAD.size])
    if magic != MAGIC or data[_HEAD.size :] != _check(data[: _HEAD.size]):
        raise ValueError
    return Head(name, generation, base, inode, version)


def read_entries(data: bytes, start: int, sequence: int) -> tuple[list[Entry], int]:
    """The records in ``data``, which begins at ``start`` of its file, and how many bytes they are.

    The first has number ``sequence + 1``. What a crash cut short at the end is left out: nobody
    acted upon it. ``ValueError`` where a record is damaged or out of sequence.
    """
    found: list[Entry] = []
    at = 0

    def unwritten(end: int) -> bool:
        """Whether the bytes up to ``end``, or a last part of them, never reached the disk.

        A file may grow before its blocks are written, so that it ends in zeros: from the start of
        this record on, or from a sector within it on.
        """
        sector = (start + end - 1) // _SECTOR * _SECTOR - start
        return not any(data[max(at, sector) :])

    while True:
        head = data[at : at + _RECORD.size]
        check = data[at + _RECORD.size : at + _BEFORE_DATA]
        if len(data) - at < _BEFORE_DATA:
            return found, at
        # The head has a check of its own, so damage to a length cannot pose as a cut.
        if check != _check(head):
            if unwritten(at + _BEFORE_DATA):
                return found, at
            raise ValueError
        kind, size, number_of, name, step, number, digest, series = _RECORD.unpack(head)
        if number_of != sequence + len(found) + 1:
            raise ValueError
        stop = at + _BEFORE_DATA + size
        end = stop + _CHECK_SIZE
        if end > len(data):
            return found, at
        content = data[at + _BEFORE_DATA : stop]
        if data[stop:end] != _check(head, check, content):
            if unwritten(end):
                return found, at
            raise ValueError
        found.append(Entry(kind, name, step, number, digest, series, content))
        at = end


def _check(*data: bytes) -> bytes:
    return hashlib.sha256(b"".join(data)).digest()[:_CHECK_SIZE]


# What the platform knows of a file besides its content, and a copy of the content lacks.


def place_of(handle: int) -> Place:
    """Where an open file lives."""
    status = os.fstat(handle)
    version = 0
    if sys.platform == "linux":
        # Not every file system has versions.
        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(handle, _FS_IOC_GETVERSION, bytes(8))
            version = int.from_bytes(answer[:4], sys.byteorder)
    return Place(status.st_dev, status.st_ino, version)


def write_mark(handle: int, name: bytes, sequence: int) -> None:
    """Note beside the content that ``sequence`` operations of journal ``name`` are durable."""
    if sys.platform == "linux":
        # Not every file system has attributes, and the operation is done without.
        with contextlib.suppress(OSError):
            os.setxattr(handle, _MARK, name + sequence.to_bytes(8, "little"))


def read_mark(handle: int) -> tuple[bytes, int] | None:
    """What :func:`write_mark` noted last, ``None`` where nothing is."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            mark = os.getxattr(handle, _MARK)
            return mark[:ID_SIZE], int.from_bytes(mark[ID_SIZE:], "little")
    return None
