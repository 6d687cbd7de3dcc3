"""The journal in a file: locked, durable, bounded, and aware of copies of itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import MisuseError
from .book import Book, check_bytes, check_claim, check_series, check_swap
from .format import (
    CLAIM,
    CLAIM_IN_SERIES,
    HEAD_SIZE,
    ID_SIZE,
    RECORD_SIZE,
    REGISTER,
    RETIRE,
    Entry,
    Head,
    Place,
    place_of,
    read_entries,
    read_head,
    read_mark,
    write_mark,
)

#: A file is written anew when it has this many bytes more that are dead than that are alive.
SLACK: Final = 1 << 16


class FileJournal(Book):
    """A journal in one file, shared safely by processes of one machine.

    Each operation takes an exclusive lock, reads what others appended, and returns only after its
    own record reached the disk (``fsync`` of the file and, when it is new, of its folder). A
    record that a crash cut short was never acted upon, so it is dropped; anything else that does
    not match its check means a damaged file, and the journal refuses to work.

    What is retired or overwritten is dead. When the dead outgrow the living, the living are
    written to a new file (``.new`` beside it) that takes the old one's name. Other handles follow
    it there, since it has the journal's id and at least the operations that they know of.

    A file states its own inode, and its count of operations is also kept in an extended attribute
    (both where the platform has them), so that an older copy in its place is noticed
    (``journal-copy``). A file with several hard links is never written anew.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._lock = threading.Lock()
        # Of the file that was read last: its head and place, the end of what was read, the end
        # of what is known to be durable, and the count of operations up to there.
        self._head: Head | None = None
        self._place: Place | None = None
        self._end = 0
        self._synced = 0
        self._sequence = 0

    # Operations.

    def claim(
        self,
        setup_context: bytes,
        step: int,
        digest: bytes,
        reply: bytes,
        *,
        series: bytes = b"",
        number: int = 0,
    ) -> bytes:
        """See :meth:`Journal.claim`."""
        check_claim(setup_context, step, digest, reply, series, number)
        with self._held() as handle:
            self._check_journal_retired(series, number)
            stored = self._records.get((setup_context, step))
            if stored is None:
                kind = CLAIM_IN_SERIES if series else CLAIM
                self._append(
                    handle, Entry(kind, setup_context, step, number, digest, series, reply)
                )
                return reply
            self._check_journal_once(stored[0], digest, step)
            self._settle(handle)
            return stored[1]

    def newest(self, setup_context: bytes) -> int:
        """See :meth:`Journal.newest`."""
        with self._held() as handle:
            self._settle(handle)
            return self._newest(setup_context)

    def retire(self, series: bytes, below: int) -> None:
        """See :meth:`Journal.retire`."""
        check_series(series, below)
        with self._held() as handle:
            if below > self._floors.get(series, 0):
                self._append(handle, Entry(RETIRE, series, number=below))
                self._tidy(handle)
            else:
                self._settle(handle)

    def floor(self, series: bytes) -> int:
        """See :meth:`Journal.floor`."""
        with self._held() as handle:
            self._settle(handle)
            return self._floors.get(series, 0)

    def read(self, name: bytes) -> bytes:
        """See :meth:`Journal.read`."""
        check_bytes("a register's name", name)
        with self._held() as handle:
            self._settle(handle)
            return self._registers.get(name, b"")

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        """See :meth:`Journal.swap`."""
        check_swap(name, old, new)
        with self._held() as handle:
            self._check_journal_swap(self._registers.get(name, b""), old)
            if old == new:
                self._settle(handle)
            else:
                self._append(handle, Entry(REGISTER, name, data=new))
                self._tidy(handle)

    # The file.

    def _check_journal_copy(
        self, head: Head, place: Place, mark: tuple[bytes, int] | None, sequence: int
    ) -> None:
        """The file is where it was written, and holds all that is noted beside it."""
        marked, count = mark or (head.id, 0)
        if not place.is_stated_by(head) or marked != head.id or count > sequence:
            raise MisuseError(
                f"{self.path} is a copy or an older state of a journal: what was answered since "
                "is forgotten, and going on could answer one step in two ways; put the file in "
                "use back if it is still there, otherwise this party joins anew, under a new key "
                "in a new roster epoch",
                rule="journal-copy",
            )

    def _refuse(self, why: str) -> MisuseError:
        return MisuseError(f"{self.path} {why}", rule="journal-file")

    @contextlib.contextmanager
    def _held(self) -> Iterator[int]:
        """The file, locked and read."""
        with self._lock:
            handle = self._open()
            try:
                self._load(handle)
                yield handle
            finally:
                os.close(handle)

    def _open(self) -> int:
        while True:
            # Once it was there, a journal that is gone is not begun anew.
            create = os.O_CREAT if self._head is None else 0
            try:
                handle = os.open(self.path, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if create:
                    raise
                raise self._refuse("is gone") from None
            try:
                # The lock belongs to the open file and goes with it, also when the process dies.
                fcntl.flock(handle, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(self.path.stat(), os.fstat(handle)):
                        return handle
            except BaseException:
                # A handle that stayed open would hold its lock against the next attempt.
                os.close(handle)
                raise
            # While this one waited for the lock, another file took the name.
            os.close(handle)

    def _load(self, handle: int) -> None:
        """Read what this object has not read yet, and check that the file is the one it was."""
        place, head = place_of(handle), self._read_head(handle)
        if head is None:
            head = self._begin(handle, place)
        if head == self._head and place == self._place:
            book: Book = self
            start, sequence = self._end, self._sequence
        else:
            self._follow(head)
            book, start, sequence = Book(), HEAD_SIZE, head.base
        size = os.fstat(handle).st_size
        if size < start:
            raise self._refuse("was cut or rolled back")
        data = os.pread(handle, size - start, start)
        if len(data) != size - start:
            raise OSError(f"{self.path}: short read")
        try:
            entries, length = read_entries(data, start, sequence)
            for entry in entries:
                _apply(book, entry)
        except ValueError:
            raise self._refuse("is damaged") from None
        sequence += len(entries)
        self._check_journal_copy(head, place, read_mark(handle), sequence)
        if sequence < self._sequence:
            raise self._refuse("was rolled back")
        if length < len(data):
            os.ftruncate(handle, start + length)
        if book is not self:
            # The process that gave the file its name may have died before that was durable.
            sync_folder(self.path.resolve().parent)
            self._take(book)
            self._synced = 0
        self._head, self._place = head, place
        self._end, self._sequence = start + length, sequence

    def _read_head(self, handle: int) -> Head | None:
        try:
            return read_head(os.pread(handle, HEAD_SIZE + 1, 0))
        except ValueError:
            raise self._refuse("is not a journal of this version, or is damaged") from None

    def _begin(self, handle: int, place: Place) -> Head:
        """Give a new file its head."""
        if self._head is not None or read_mark(handle) is not None:
            raise self._refuse("was emptied")
        head = Head(secrets.token_bytes(ID_SIZE), 0, 0, place.inode, place.version)
        # A short write leaves a part of a head, which the next attempt completes.
        _write(handle, head.encode(), 0)
        os.fsync(handle)
        return head

    def _follow(self, head: Head) -> None:
        """Go over to a file that this object has not read: its first, or the same one anew."""
        known = self._head
        if known and (head.id != known.id or head.generation <= known.generation):
            raise self._refuse("was replaced by another file")

    def _append(self, handle: int, entry: Entry) -> None:
        record = entry.encode(self._sequence + 1)
        try:
            _write(handle, record, self._end)
            os.fsync(handle)
        except BaseException:
            # The operation did not happen. Where that cannot be written either, the next read
            # finds the record, if it is whole, and makes it durable. (A second fsync alone would
            # not: after a failure, the pages of the first may pass for written.)
            with contextlib.suppress(OSError):
                os.ftruncate(handle, self._end)
            raise
        _apply(self, entry)
        self._end += len(record)
        self._sequence += 1
        self._note(handle)

    def _settle(self, handle: int) -> None:
        """Make durable what was read: the process that wrote it may have died before it was."""
        if self._synced < self._end:
            os.fsync(handle)
            self._note(handle)

    def _note(self, handle: int) -> None:
        self._synced = self._end
        if self._head is not None:
            write_mark(handle, self._head.id, self._sequence)

    def _tidy(self, handle: int) -> None:
        """Write the file anew where most of it is dead. The operation before is done without."""
        entries = list(self._entries())
        alive = sum(RECORD_SIZE + len(entry.data) for entry in entries)
        # A new file takes one name, and under another name the old one would go on.
        alone = os.fstat(handle).st_nlink == 1
        if self._end - HEAD_SIZE - alive > alive + SLACK and alone:
            with contextlib.suppress(OSError):
                self._rewrite(entries)

    def _rewrite(self, entries: list[Entry]) -> None:
        if self._head is None:
            return
        # A symbolic link stays one.
        target = self.path.resolve()
        beside = target.with_name(f"{target.name}.new")
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Nobody writes to the new file before its name is durable.
            fcntl.flock(handle, fcntl.LOCK_EX)
            place = place_of(handle)
            # Each live entry was an operation of its own, so this is not negative.
            base = self._sequence - len(entries)
            generation = self._head.generation + 1
            head = Head(self._head.id, generation, base, place.inode, place.version)
            records = (entry.encode(base + at) for at, entry in enumerate(entries, start=1))
            data = b"".join((head.encode(), *records))
            _write(handle, data, 0)
            write_mark(handle, head.id, self._sequence)
            os.fsync(handle)
            beside.rename(target)
            # Until here the old file is the journal, to this object too: should this fail, the
            # next operation follows the name.
            sync_folder(target.parent)
            self._head, self._place = head, place
            self._end = self._synced = len(data)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    def _entries(self) -> Iterator[Entry]:
        """The living, as operations."""
        for series, below in self._floors.items():
            yield Entry(RETIRE, series, number=below)
        for key, step, series, number in self._places():
            digest, reply = self._records[key, step]
            kind = CLAIM_IN_SERIES if series else CLAIM
            yield Entry(kind, key, step, number, digest, series, reply)
        for name, value in self._registers.items():
            yield Entry(REGISTER, name, data=value)


def _apply(book: Book, entry: Entry) -> None:
    """Do an operation that was read or written; ``ValueError`` where none of ours reads so."""
    if entry.kind in {CLAIM, CLAIM_IN_SERIES}:
        series = entry.series if entry.kind == CLAIM_IN_SERIES else b""
        known = book._records.get((entry.name, entry.step))
        if known is None:
            book._add(entry.name, entry.step, entry.digest, entry.data, series, entry.number)
        elif known != (entry.digest, entry.data):
            raise ValueError
    elif entry.kind == RETIRE:
        book._raise_floor(entry.name, entry.number)
    elif entry.kind == REGISTER:
        book._set(entry.name, entry.data)
    else:
        raise ValueError


def _write(handle: int, data: bytes, at: int) -> None:
    if os.pwrite(handle, data, at) != len(data):
        raise OSError("short write to the journal")


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder have reached the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
