"""Journal: what must happen at most once in a party's life, outside its dump.

A dump can be loaded twice; a journal cannot. Before a party sends anything that must not be
sent in two versions, it *claims* the step. One record per (key, step): the first claim is
stored durably, a repeated claim with the same digest gets the stored reply back, a claim with
another digest is refused, and the party that made it is ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import Protocol

from .errors import MisuseError

#: Rule of the error that says that a claim may be tried again.
JOURNAL_IO_RULE = "journal-io"
#: Bytes of a journal key.
KEY_SIZE = 32
_MAGIC = b"secagg journal 1\n"
_RECORD = struct.Struct("<I32sI32s")  # reply size, key, step, digest; then a check of these
_HEAD_SIZE = _RECORD.size + 8
_CHECK_SIZE = 8

#: (key, step) -> (digest, reply)
Records = dict[tuple[bytes, int], tuple[bytes, bytes]]


class Journal(Protocol):
    """What a party asks of its journal."""

    def claim(self, setup_context: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
        """Claim ``step`` of ``setup_context`` for ``digest``.

        Empty: store, return ``reply``. Same digest: return the stored reply. Another digest:
        :class:`MisuseError`. On return the record is durable.
        """
        ...

    def newest(self, setup_context: bytes) -> int:
        """The highest step claimed for ``setup_context``, 0 where there is none."""
        ...


def _conflict(step: int) -> MisuseError:
    return MisuseError(
        f"step {step} of this round was already answered with other content", rule="journal-once"
    )


class MemoryJournal:
    """A journal that lives as long as its process: for simulations and tests.

    A real site uses :class:`FileJournal`; with this one, a restart forgets.
    """

    def __init__(self) -> None:
        self._records: Records = {}
        self._lock = threading.Lock()

    def copy(self) -> MemoryJournal:
        """An independent journal with the same records: what a rolled-back copy would hold."""
        other = MemoryJournal()
        with self._lock:
            other._records.update(self._records)
        return other

    def claim(self, setup_context: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
        """See :meth:`Journal.claim`."""
        with self._lock:
            return _claim(self._records, setup_context, step, digest, reply)

    def newest(self, setup_context: bytes) -> int:
        """See :meth:`Journal.newest`."""
        with self._lock:
            return _newest(self._records, setup_context)


def _claim(records: Records, key: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
    stored = records.setdefault((key, step), (digest, reply))
    if stored[0] != digest:
        raise _conflict(step)
    return stored[1]


def _newest(records: Records, key: bytes) -> int:
    return max((step for other, step in records if other == key), default=0)


class FileJournal:
    """An append-only journal in one file, shared safely by processes of one machine.

    Each claim takes an exclusive lock, reads what others appended, and returns only after its
    own record reached the disk (``fsync`` of the file and, when it is new, of its folder). A
    record that a crash cut short was never acted upon, so it is dropped; anything else that
    does not match its check means a damaged file, and the journal refuses to work.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._records: Records = {}
        self._end = 0
        self._place: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def claim(self, setup_context: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
        """See :meth:`Journal.claim`."""
        with self._lock:
            handle = self._open()
            try:
                self._read(handle)
                known = (setup_context, step) in self._records
                answer = _claim(self._records, setup_context, step, digest, reply)
                if not known:
                    try:
                        self._append(handle, setup_context, step, digest, reply)
                    except BaseException:
                        # What was written in part is cut off by the next read. A record that
                        # stayed in memory only would pass for a durable one.
                        del self._records[setup_context, step]
                        raise
                # Also where the record was found: the process that wrote it may have died, or
                # its disk refused, before the record was durable.
                os.fsync(handle)
                return answer
            finally:
                os.close(handle)

    def newest(self, setup_context: bytes) -> int:
        """See :meth:`Journal.newest`."""
        with self._lock:
            handle = self._open()
            try:
                self._read(handle)
            finally:
                os.close(handle)
            return _newest(self._records, setup_context)

    def _open(self) -> int:
        # Once it was there, a journal that is gone is not begun anew.
        create = os.O_CREAT if self._place is None else 0
        try:
            handle = os.open(self.path, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if create:
                raise
            raise MisuseError(f"{self.path} is gone", rule="journal-file") from None
        try:
            # The lock belongs to the open file and goes with it, also when the process dies.
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._begin(handle)
        except BaseException:
            # A handle that stayed open would hold its lock against the next attempt.
            os.close(handle)
            raise
        return handle

    def _begin(self, handle: int) -> None:
        """Check that this is the file it was, or begin it."""
        status = os.fstat(handle)
        place = (status.st_dev, status.st_ino)
        if self._place not in {None, place}:
            raise MisuseError(f"{self.path} was replaced by another file", rule="journal-file")
        if status.st_size < len(_MAGIC):
            # A crash while the file was made leaves a part of the first line, and nothing else
            # of that size is ours to overwrite.
            if os.pread(handle, len(_MAGIC), 0) != _MAGIC[: status.st_size]:
                raise MisuseError(f"{self.path} is not a journal", rule="journal-file")
            os.pwrite(handle, _MAGIC, 0)
            os.fsync(handle)
        if self._place is None:
            # The process that made the file may have died before its name was durable.
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._place = place

    def _read(self, handle: int) -> None:
        size = os.fstat(handle).st_size
        if size < self._end:
            raise MisuseError(f"{self.path} was cut or rolled back", rule="journal-file")
        if self._end == 0:
            if os.pread(handle, len(_MAGIC), 0) != _MAGIC:
                raise MisuseError(f"{self.path} is not a journal", rule="journal-file")
            self._end = len(_MAGIC)
        data = os.pread(handle, size - self._end, self._end)
        at = 0
        while at < len(data):
            head = data[at : at + _RECORD.size]
            if len(data) - at < _HEAD_SIZE or (not any(head) and not any(data[at:])):
                # Also zeros to the end: the file grew before its blocks were written.
                torn = True
            else:
                length, key, step, digest = _RECORD.unpack(head)
                self._verify(head, data[at + _RECORD.size : at + _HEAD_SIZE])
                stop = at + _HEAD_SIZE + length
                torn = stop + _CHECK_SIZE > len(data)
            if torn:
                # Cut short by a crash before the claim returned: nobody acted upon it. The
                # head has a check of its own, so damage to a length cannot pose as a cut.
                os.ftruncate(handle, self._end + at)
                break
            self._verify(data[at:stop], data[stop : stop + _CHECK_SIZE])
            record = (digest, data[at + _HEAD_SIZE : stop])
            if self._records.setdefault((key, step), record) != record:
                raise MisuseError(f"{self.path} answers one step twice", rule="journal-file")
            at = stop + _CHECK_SIZE
        self._end += at

    def _verify(self, data: bytes, check: bytes) -> None:
        if _check(data) != check:
            raise MisuseError(f"{self.path} is damaged", rule="journal-file")

    def _append(self, handle: int, key: bytes, step: int, digest: bytes, reply: bytes) -> None:
        record = _RECORD.pack(len(reply), key, step, digest)
        record += _check(record) + reply
        record += _check(record)
        written = os.pwrite(handle, record, self._end)
        if written != len(record):
            raise OSError(f"{self.path}: short write")
        self._end += len(record)


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECK_SIZE]
