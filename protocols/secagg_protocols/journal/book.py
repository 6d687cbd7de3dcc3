"""What a journal holds, the rules of its operations, and the journal that lives in memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from ..errors import MisuseError
from ..rules import Rule

#: Rule of the error that says that a claim may be tried again.
JOURNAL_IO_RULE: Final = "journal-io"
#: Bytes of a journal key, of a digest, of a series and of a register's name.
KEY_SIZE: Final = 32
#: Bytes of a register's largest value.
MAX_VALUE: Final = 1 << 20
#: Bytes of the largest reply.
MAX_REPLY: Final = (1 << 32) - 1
_MAX_STEP: Final = (1 << 32) - 1
_MAX_NUMBER: Final = (1 << 63) - 1

#: (key, step) -> (digest, reply)
Records = dict[tuple[bytes, int], tuple[bytes, bytes]]

#: Checks of a journal. Each is one method; ``journal-file`` (not a journal, damaged, another one
#: than before) is part of reading the file at all and is not in the table.
JOURNAL_RULES: Final = (
    Rule(
        "journal-once",
        "party",
        "claim",
        "a step that is claimed again is claimed with the same digest",
        "MisuseError",
        "a site made to answer one step in two versions, by a dump that is loaded twice",
    ),
    Rule(
        "journal-retired",
        "party",
        "claim",
        "the claim's number is not below the floor of its series",
        "MisuseError",
        "an old round answered anew once its records are dropped",
    ),
    Rule(
        "journal-swap",
        "party",
        "swap",
        "the register holds the value that the caller has read",
        "MisuseError",
        "two processes that each count one release, where both see the old count",
    ),
    Rule(
        "journal-copy",
        "party",
        "any",
        "the file is the one that was written, and holds all that was written to it",
        "MisuseError",
        "an older copy of the journal put in its place, which forgets what was answered",
    ),
)


class Journal(Protocol):
    """What parties and sessions ask of their journal. On return, all is durable.

    Besides the claims of steps it holds *registers*: small values under 32-byte names, changed by
    compare-and-set. An ``OSError`` leaves an operation undone, and it may be tried again.
    """

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
        """Claim ``step`` of ``setup_context`` for ``digest``.

        Empty: store, return ``reply``. Same digest: return the stored reply. Another digest:
        :class:`MisuseError` ``journal-once``. The record belongs to ``number`` of ``series`` (32
        bytes; empty: none, it is never dropped); a number below the floor of the series is
        ``journal-retired``.
        """
        ...

    def newest(self, setup_context: bytes) -> int:
        """The highest step claimed for ``setup_context``, 0 where there is none."""
        ...

    def retire(self, series: bytes, below: int) -> None:
        """Raise the floor of ``series`` to ``below`` and drop its records with lower numbers.

        A floor is never lowered: a call with a lower number changes nothing.
        """
        ...

    def floor(self, series: bytes) -> int:
        """The floor of ``series``, 0 where nothing was retired."""
        ...

    def read(self, name: bytes) -> bytes:
        """The value of a register, empty where it is not set."""
        ...

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        """Set a register from ``old`` to ``new`` (at most 1 MiB; empty: not set).

        :class:`MisuseError` ``journal-swap`` where its value is not ``old``.
        """
        ...


class Book:
    """The content of a journal and its rules. Subclasses lock it and store it."""

    def __init__(self) -> None:
        self._records: Records = {}
        # Of each series, the (key, step) of its records by number.
        self._series: dict[bytes, dict[int, list[tuple[bytes, int]]]] = {}
        self._floors: dict[bytes, int] = {}
        self._registers: dict[bytes, bytes] = {}

    # The rules.

    def _check_journal_once(self, stored: bytes, digest: bytes, step: int) -> None:
        if stored != digest:
            raise MisuseError(
                f"step {step} of this round was already answered with other content",
                rule="journal-once",
            )

    def _check_journal_retired(self, series: bytes, number: int) -> None:
        floor = self._floors.get(series, 0)
        if number < floor:
            raise MisuseError(
                f"{number} of this series is over and forgotten: the series is at {floor}",
                rule="journal-retired",
            )

    def _check_journal_swap(self, stored: bytes, old: bytes) -> None:
        if stored != old:
            raise MisuseError(
                "the register changed since it was read; read it again", rule="journal-swap"
            )

    # What changes the content. Arguments were checked.

    def _add(
        self, key: bytes, step: int, digest: bytes, reply: bytes, series: bytes, number: int
    ) -> None:
        self._records[key, step] = (digest, reply)
        if series:
            self._series.setdefault(series, {}).setdefault(number, []).append((key, step))

    def _raise_floor(self, series: bytes, below: int) -> None:
        self._floors[series] = below
        numbers = self._series.get(series, {})
        for number in [n for n in numbers if n < below]:
            for place in numbers.pop(number):
                # A record may have been taken away by hand (a test's copy of a journal).
                self._records.pop(place, None)
        if not numbers:
            self._series.pop(series, None)

    def _set(self, name: bytes, value: bytes) -> None:
        if value:
            self._registers[name] = value
        else:
            self._registers.pop(name, None)

    def _take(self, other: Book) -> None:
        """Take the content of another one."""
        self._records, self._series = other._records, other._series
        self._floors, self._registers = other._floors, other._registers

    # What reads it.

    def _newest(self, key: bytes) -> int:
        return max((step for other, step in self._records if other == key), default=0)

    def _places(self) -> Iterator[tuple[bytes, int, bytes, int]]:
        """(key, step, series, number) of all records."""
        named = {
            place: (series, number)
            for series, numbers in self._series.items()
            for number, places in numbers.items()
            for place in places
        }
        for place in self._records:
            yield (*place, *named.get(place, (b"", 0)))


class MemoryJournal(Book):
    """A journal that lives as long as its process: for simulations and tests.

    A real site uses :class:`FileJournal`; with this one, a restart forgets.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def copy(self) -> MemoryJournal:
        """An independent journal with the same content: what a rolled-back copy would hold."""
        other = MemoryJournal()
        with self._lock:
            for key, step, series, number in self._places():
                other._add(key, step, *self._records[key, step], series, number)
            other._floors.update(self._floors)
            other._registers.update(self._registers)
        return other

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
        with self._lock:
            self._check_journal_retired(series, number)
            stored = self._records.get((setup_context, step))
            if stored is None:
                self._add(setup_context, step, digest, reply, series, number)
                return reply
            self._check_journal_once(stored[0], digest, step)
            return stored[1]

    def newest(self, setup_context: bytes) -> int:
        """See :meth:`Journal.newest`."""
        with self._lock:
            return self._newest(setup_context)

    def retire(self, series: bytes, below: int) -> None:
        """See :meth:`Journal.retire`."""
        check_series(series, below)
        with self._lock:
            if below > self._floors.get(series, 0):
                self._raise_floor(series, below)

    def floor(self, series: bytes) -> int:
        """See :meth:`Journal.floor`."""
        with self._lock:
            return self._floors.get(series, 0)

    def read(self, name: bytes) -> bytes:
        """See :meth:`Journal.read`."""
        check_bytes("a register's name", name)
        with self._lock:
            return self._registers.get(name, b"")

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        """See :meth:`Journal.swap`."""
        check_swap(name, old, new)
        with self._lock:
            self._check_journal_swap(self._registers.get(name, b""), old)
            self._set(name, new)


def journal_failed(error: OSError) -> MisuseError:
    """Nothing was sent and nothing is lost: the same call may be made again."""
    return MisuseError(
        f"the journal's disk failed ({error.strerror}); try again", rule=JOURNAL_IO_RULE
    )


@contextlib.contextmanager
def journal_calls() -> Iterator[None]:
    """Around calls of a journal: what its disk refuses becomes :func:`journal_failed`."""
    try:
        yield
    except OSError as error:
        raise journal_failed(error) from error


def check_bytes(what: str, value: bytes, least: int = KEY_SIZE, most: int = KEY_SIZE) -> None:
    """``value`` is bytes of a length from ``least`` to ``most``."""
    if type(value) is not bytes or not least <= len(value) <= most:
        size = f"{most}" if least == most else f"{least} to {most}"
        raise MisuseError(f"{what} is {size} bytes", rule="arguments")


def _check_number(what: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise MisuseError(f"{what} is an integer from 0 to {most}", rule="arguments")


def check_series(series: bytes, number: int) -> None:
    """Arguments of a retirement."""
    check_bytes("a series", series)
    _check_number("a number in a series", number, _MAX_NUMBER)


def check_claim(
    key: bytes, step: int, digest: bytes, reply: bytes, series: bytes, number: int
) -> None:
    """Arguments of a claim."""
    check_bytes("a journal key", key)
    check_bytes("a digest", digest)
    check_bytes("a reply", reply, 0, MAX_REPLY)
    _check_number("a step", step, _MAX_STEP)
    if series != b"" or number != 0:
        check_series(series, number)


def check_swap(name: bytes, old: bytes, new: bytes) -> None:
    """Arguments of a swap."""
    check_bytes("a register's name", name)
    check_bytes("a register's value", old, 0, MAX_VALUE)
    check_bytes("a register's value", new, 0, MAX_VALUE)
