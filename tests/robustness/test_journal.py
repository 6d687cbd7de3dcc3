"""The journal: one contract for all of them, and what a file adds: durability and damage."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import secagg
from secagg import FileJournal, Journal, MemoryJournal, MisuseError

KEY, OTHER = b"k" * 32, b"o" * 32
ONE, TWO = b"1" * 32, b"2" * 32
SERIES, NAME = b"s" * 32, b"n" * 32

Make = Callable[[], Journal]


class JournalContract:
    """What a party may rely on, whatever the journal; subclasses say how to open one."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        raise NotImplementedError

    def test_a_first_claim_returns_its_reply(self, make: Make) -> None:
        assert make().claim(KEY, 1, ONE, b"reply") == b"reply"

    def test_the_same_digest_gets_the_stored_reply(self, make: Make) -> None:
        journal = make()
        journal.claim(KEY, 1, ONE, b"first")
        assert journal.claim(KEY, 1, ONE, b"second") == b"first"

    def test_another_digest_is_refused_and_changes_nothing(self, make: Make) -> None:
        journal = make()
        journal.claim(KEY, 5, ONE, b"first")
        for _ in range(3):
            with pytest.raises(MisuseError) as caught:
                journal.claim(KEY, 5, TWO, b"second")
            assert caught.value.rule == "journal-once"
        assert journal.claim(KEY, 5, ONE, b"") == b"first"
        assert journal.newest(KEY) == 5

    def test_steps_and_keys_are_independent(self, make: Make) -> None:
        journal = make()
        claims = list(itertools.product((KEY, OTHER), (1, 2, 3, 5, 1000), (ONE,)))
        for at, (key, step, digest) in enumerate(claims):
            journal.claim(key, step, digest, b"%d" % at)
        for at, (key, step, digest) in enumerate(claims):
            assert journal.claim(key, step, digest, b"") == b"%d" % at
        journal.claim(KEY, 4, TWO, b"")

    def test_newest_is_the_highest_step_of_the_key(self, make: Make) -> None:
        journal = make()
        assert journal.newest(KEY) == 0
        for step, newest in ((3, 3), (1, 3), (5, 5), (2, 5)):
            journal.claim(KEY, step, ONE, b"")
            assert journal.newest(KEY) == newest
        assert journal.newest(OTHER) == 0

    @pytest.mark.parametrize("reply", [b"", b"\0", b"x" * 100_000, bytes(range(256)) * 9])
    def test_replies_of_any_content_come_back(self, make: Make, reply: bytes) -> None:
        journal = make()
        journal.claim(KEY, 1, ONE, reply)
        assert journal.claim(KEY, 1, ONE, b"other") == reply

    def test_of_many_threads_one_wins(self, make: Make) -> None:
        journal = make()
        won: list[tuple[int, int]] = []
        lost: list[tuple[int, int]] = []
        ready = threading.Barrier(8)

        def claim_all(me: int) -> None:
            ready.wait()
            for step in range(1, 21):
                try:
                    journal.claim(KEY, step, bytes([me]) * 32, bytes([me]))
                    won.append((step, me))
                except MisuseError:
                    lost.append((step, me))

        threads = [threading.Thread(target=claim_all, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(step for step, _ in won) == list(range(1, 21))
        assert len(lost) == 7 * 20
        for step, me in won:
            assert journal.claim(KEY, step, bytes([me]) * 32, b"") == bytes([me])

    # Series.

    def test_what_is_retired_is_dropped_and_refused(self, make: Make) -> None:
        journal = make()
        keys = [bytes([number]) * 32 for number in range(6)]
        for number, key in enumerate(keys):
            journal.claim(key, 1, ONE, b"%d" % number, series=SERIES, number=number)
        assert journal.floor(SERIES) == 0
        journal.retire(SERIES, 4)
        assert journal.floor(SERIES) == 4
        for number, key in enumerate(keys[:4]):
            assert journal.newest(key) == 0
            for digest in (ONE, TWO):
                with pytest.raises(MisuseError) as caught:
                    journal.claim(key, 1, digest, b"", series=SERIES, number=number)
                assert caught.value.rule == "journal-retired"
        for number, key in enumerate(keys[4:], start=4):
            assert journal.newest(key) == 1
            again = journal.claim(key, 1, ONE, b"", series=SERIES, number=number)
            assert again == b"%d" % number

    def test_a_floor_is_never_lowered(self, make: Make) -> None:
        journal = make()
        for below, floor in ((0, 0), (3, 3), (3, 3), (1, 3), (0, 3), (7, 7), (6, 7)):
            journal.retire(SERIES, below)
            assert journal.floor(SERIES) == floor
        with pytest.raises(MisuseError) as caught:
            journal.claim(KEY, 1, ONE, b"", series=SERIES, number=6)
        assert caught.value.rule == "journal-retired"
        assert journal.claim(KEY, 1, ONE, b"new", series=SERIES, number=7) == b"new"

    def test_a_series_is_retired_alone(self, make: Make) -> None:
        journal = make()
        journal.claim(KEY, 1, ONE, b"of no series")
        journal.claim(KEY, 2, ONE, b"of another", series=bytes(32), number=1)
        journal.claim(KEY, 3, ONE, b"of this", series=SERIES, number=1)
        journal.retire(SERIES, 1 << 62)
        assert journal.floor(bytes(32)) == 0
        assert journal.newest(KEY) == 2
        assert journal.claim(KEY, 1, ONE, b"") == b"of no series"
        assert journal.claim(KEY, 2, ONE, b"", series=bytes(32), number=1) == b"of another"
        journal.retire(bytes(32), 2)
        assert journal.newest(KEY) == 1

    # Registers.

    def test_a_register_holds_what_was_swapped_in(self, make: Make) -> None:
        journal = make()
        assert journal.read(NAME) == b""
        old = b""
        for new in (b"one", b"two", b"", b"\0", b"x" * (1 << 20), b"small"):
            journal.swap(NAME, old, new)
            assert journal.read(NAME) == new
            assert journal.read(OTHER) == b""
            old = new

    def test_a_swap_from_another_value_is_refused_and_changes_nothing(self, make: Make) -> None:
        journal = make()
        for stored in (b"", b"stored"):
            for old in {b"", b"old", b"store", b"stored"} - {stored}:
                with pytest.raises(MisuseError) as caught:
                    journal.swap(NAME, old, b"new")
                assert caught.value.rule == "journal-swap"
                assert journal.read(NAME) == stored
            journal.swap(NAME, stored, b"stored")

    def test_registers_and_claims_are_apart(self, make: Make) -> None:
        journal = make()
        journal.claim(NAME, 1, ONE, b"reply", series=NAME, number=2)
        journal.swap(NAME, b"", b"value")
        journal.retire(NAME, 3)
        assert (journal.read(NAME), journal.floor(NAME), journal.newest(NAME)) == (b"value", 3, 0)

    def test_no_count_of_many_threads_is_lost(self, make: Make) -> None:
        journal = make()

        def count() -> None:
            done = 0
            while done < 20:
                old = journal.read(NAME)
                try:
                    journal.swap(NAME, old, b"%d" % (int(old or b"0") + 1))
                    done += 1
                except MisuseError as error:
                    assert error.rule == "journal-swap"

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.read(NAME) == b"80"

    @pytest.mark.parametrize(
        "use",
        [
            lambda j: j.claim(b"short", 1, ONE, b""),
            lambda j: j.claim(KEY, 1, ONE + b"1", b""),
            lambda j: j.claim(KEY, 1, ONE, "text"),
            lambda j: j.claim(KEY, -1, ONE, b""),
            lambda j: j.claim(KEY, 1 << 32, ONE, b""),
            lambda j: j.claim(KEY, True, ONE, b""),
            lambda j: j.claim(KEY, 1, ONE, b"", series=b"short"),
            lambda j: j.claim(KEY, 1, ONE, b"", number=1),
            lambda j: j.claim(KEY, 1, ONE, b"", series=SERIES, number=-1),
            lambda j: j.claim(KEY, 1, ONE, b"", series=SERIES, number=1 << 63),
            lambda j: j.claim(KEY, 1, ONE, b"", series=SERIES, number=1.0),
            lambda j: j.retire(b"", 1),
            lambda j: j.retire(SERIES, -1),
            lambda j: j.retire(SERIES, 1 << 63),
            lambda j: j.read(b"short"),
            lambda j: j.swap(b"short", b"", b""),
            lambda j: j.swap(NAME, b"", b"x" * ((1 << 20) + 1)),
            lambda j: j.swap(NAME, None, b""),
        ],
    )
    def test_arguments_of_another_kind_are_refused(
        self, make: Make, use: Callable[[Journal], Any]
    ) -> None:
        journal = make()
        with pytest.raises(MisuseError) as caught:
            use(journal)
        assert caught.value.rule == "arguments"
        assert (journal.newest(KEY), journal.read(NAME), journal.floor(SERIES)) == (0, b"", 0)


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return MemoryJournal


class TestFileJournal(JournalContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda: FileJournal(tmp_path / "journal")


class TestTwoHandlesOnOneFile(JournalContract):
    """Every other call through another object: both must see one journal."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        class Alternating:
            def __init__(self) -> None:
                path = tmp_path / "journal"
                self.turns = itertools.cycle([FileJournal(path), FileJournal(path)])

            def __getattr__(self, name: str) -> Any:
                return getattr(next(self.turns), name)

        return cast("Make", Alternating)


class TestReopenedFileJournal(JournalContract):
    """Every call through a new object, as after a restart."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        class Reopened:
            def __getattr__(self, name: str) -> Any:
                return getattr(FileJournal(tmp_path / "journal"), name)

        return cast("Make", Reopened)


# Files.


def unmark(path: Path) -> None:
    """As a crash right after the write leaves it: the operation was not yet noted as durable."""
    with contextlib.suppress(OSError):
        os.removexattr(path, "user.secagg.journal")


def has_attributes(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, "user.secagg.journal"))
    except OSError:
        return False


def filled(path: Path, replies: tuple[bytes, ...] = (b"first", b"", b"third" * 9)) -> list[int]:
    """A journal with one record per reply; where each record ends."""
    journal, ends = FileJournal(path), []
    for step, reply in enumerate(replies, start=1):
        journal.claim(KEY, step, ONE, reply)
        ends.append(path.stat().st_size)
    return ends


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        filled(tmp_path / "journal")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


def test_a_record_that_was_cut_anywhere_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    ends = filled(path)
    whole = path.read_bytes()
    for size in range(ends[-2], ends[-1]):
        path.write_bytes(whole[:size])
        unmark(path)
        journal = FileJournal(path)
        assert journal.newest(KEY) == 2
        # Nobody acted upon it, so the step is free, and the file is sound afterwards.
        assert journal.claim(KEY, 3, TWO, b"anew") == b"anew"
        again = FileJournal(path)
        assert again.claim(KEY, 1, ONE, b"") == b"first"
        assert again.claim(KEY, 3, TWO, b"") == b"anew"


#: Operations whose record is the last of a file, by kind; and what they change.
LAST: dict[str, Callable[[Journal], object]] = {
    "claim": lambda j: j.claim(KEY, 3, ONE, b"reply", series=SERIES, number=5),
    "retire": lambda j: j.retire(SERIES, 5),
    "swap": lambda j: j.swap(NAME, b"old", b"new"),
}


def content(journal: FileJournal) -> tuple[Any, ...]:
    return journal.newest(KEY), journal.floor(SERIES), journal.read(NAME)


def with_last(path: Path, kind: str, padding: int = 0) -> tuple[int, Any, Any, bytes]:
    """A journal with that last operation: where its record starts, content before and after it,
    and all bytes."""
    journal = FileJournal(path)
    journal.claim(KEY, 2, ONE, b"x" * padding, series=SERIES, number=4)
    journal.swap(NAME, b"", b"old")
    start, before = path.stat().st_size, content(journal)
    LAST[kind](journal)
    after = content(journal)
    assert after != before
    return start, before, after, path.read_bytes()


@pytest.mark.parametrize("kind", LAST)
def test_a_record_of_any_kind_that_was_cut_is_dropped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "journal"
    start, before, after, whole = with_last(path, kind)
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        unmark(path)
        again = FileJournal(path)
        assert content(again) == before, size
        LAST[kind](again)
        assert content(again) == content(FileJournal(path)) == after
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", LAST)
def test_sectors_that_were_not_written_are_a_crash_and_not_damage(
    tmp_path: Path, kind: str
) -> None:
    """A file that grew before its blocks were written ends in zeros, from any byte of a record."""
    seen = set()
    for padding in range(512):
        path = tmp_path / f"journal-{padding}"
        start, before, after, whole = with_last(path, kind, padding)
        sector = -(-start // 512) * 512
        if sector < len(whole) and any(whole[sector:]):
            seen.add(sector - start)
            path.write_bytes(whole[:sector] + bytes(len(whole) - sector))
            unmark(path)
            again = FileJournal(path)
            assert content(again) == before, padding
            LAST[kind](again)
            assert content(FileJournal(path)) == after
        path.unlink()
    # All but where the record's last bytes are zeros anyway.
    assert len(seen) >= len(whole) - start - 2


def test_a_crash_while_the_file_was_made_leaves_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    FileJournal(path).newest(KEY)
    head = path.read_bytes()
    for size in range(len(head)):
        for start in (head[:size], bytes(size)):
            path.write_bytes(start)
            unmark(path)
            journal = FileJournal(path)
            assert journal.newest(KEY) == 0
            journal.claim(KEY, 1, ONE, b"reply")
            assert FileJournal(path).newest(KEY) == 1


def test_a_journal_that_was_emptied_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path)
    whole = path.read_bytes()
    if not has_attributes(path):
        pytest.skip("this file system keeps no attributes")
    for size in (0, 17, 60):
        path.write_bytes(whole[:size])
        with pytest.raises(MisuseError) as caught:
            FileJournal(path).claim(KEY, 1, TWO, b"anew")
        assert caught.value.rule == "journal-file"
        assert path.read_bytes() == whole[:size]


@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_any_changed_byte_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    journal.claim(OTHER, 1, ONE, b"reply", series=SERIES, number=3)
    journal.retire(SERIES, 2)
    journal.swap(NAME, b"", b"value")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
        for use in (lambda j: j.newest(KEY), lambda j: j.claim(KEY, 9, ONE, b"")):
            with pytest.raises(MisuseError) as caught:
                use(FileJournal(path))
            assert caught.value.rule == "journal-file", at
        # A refusal leaves the evidence as it is.
        assert path.read_bytes()[at] == whole[at] ^ bits
        assert path.stat().st_size == len(whole)


def test_a_removed_byte_or_record_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    ends = filled(path)
    whole = path.read_bytes()
    for at in range(ends[0]):
        path.write_bytes(whole[:at] + whole[at + 1 :])
        with pytest.raises(MisuseError) as caught:
            FileJournal(path).newest(KEY)
        assert caught.value.rule == "journal-file"


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"another file of somebody",
        b"\0" * 200,
        b"SECAGG",
        b"secagg journal 1\n",
        b"secagg journal 3\n",
    ],
)
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(MisuseError) as caught:
        FileJournal(path).claim(KEY, 1, ONE, b"")
    assert caught.value.rule == "journal-file"
    assert path.read_bytes() == content


def test_a_file_cut_or_rolled_back_while_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    ends = filled(path)
    whole = path.read_bytes()
    for size in (0, 5, 17, ends[0], ends[1], ends[1] + 1, ends[2] - 1):
        path.write_bytes(whole)
        journal = FileJournal(path)
        assert journal.newest(KEY) == 3
        path.write_bytes(whole[:size])
        with pytest.raises(MisuseError) as caught:
            journal.claim(KEY, 3, ONE, b"")
        assert caught.value.rule == "journal-file"


def test_a_file_removed_while_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    journal.newest(KEY)
    path.unlink()
    with pytest.raises(MisuseError) as caught:
        journal.claim(KEY, 4, ONE, b"")
    assert caught.value.rule == "journal-file"


def test_a_full_disk_leaves_the_step_unclaimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    true = os.pwrite

    def short(handle: int, data: bytes, at: int) -> int:
        return true(handle, data[: len(data) // 2], at)

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError, match="short write"):
        journal.claim(KEY, 4, ONE, b"lost")
    monkeypatch.undo()
    # Neither this object nor a new one takes the half record for a claim.
    assert journal.newest(KEY) == 3
    assert FileJournal(path).newest(KEY) == 3
    assert journal.claim(KEY, 4, TWO, b"kept") == b"kept"
    assert FileJournal(path).claim(KEY, 4, TWO, b"") == b"kept"


def test_a_disk_that_does_not_sync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be durable must not be acted upon, so it is undone."""
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    journal.newest(KEY)

    def fail(_: int) -> None:
        raise OSError("no sync")

    monkeypatch.setattr(os, "fsync", fail)
    for use in (
        lambda: journal.claim(KEY, 4, ONE, b"reply"),
        lambda: journal.retire(SERIES, 4),
        lambda: journal.swap(NAME, b"", b"value"),
    ):
        with pytest.raises(OSError, match="no sync"):
            use()
    monkeypatch.undo()
    # None of it happened, to this object or another, and all of it may be tried again.
    for other in (FileJournal(path), journal):
        assert (other.newest(KEY), other.floor(SERIES), other.read(NAME)) == (3, 0, b"")
    assert journal.claim(KEY, 4, ONE, b"later") == b"later"
    journal.retire(SERIES, 4)
    journal.swap(NAME, b"", b"value")
    with pytest.raises(MisuseError):
        FileJournal(path).claim(KEY, 4, TWO, b"")


@pytest.mark.parametrize(
    "use",
    [
        lambda j: j.claim(KEY, 4, ONE, b"later"),
        lambda j: j.newest(KEY),
        lambda j: j.floor(SERIES),
        lambda j: j.read(NAME),
        lambda j: j.retire(SERIES, 1),
        lambda j: j.swap(NAME, b"value", b"value"),
    ],
)
def test_what_another_process_left_unsynced_is_made_durable_first(
    use: Callable[[Journal], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    journal.newest(KEY)
    dying = FileJournal(path)
    dying.newest(KEY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        dying.claim(KEY, 4, ONE, b"reply")
        dying.retire(SERIES, 1)
        dying.swap(NAME, b"", b"value")
    synced = []
    true = os.fsync

    def count(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        true(handle)

    monkeypatch.setattr(os, "fsync", count)
    use(journal)
    assert synced == [path.stat().st_ino]
    use(journal)
    assert len(synced) == 1


def test_both_journals_are_journals() -> None:
    for kind in (MemoryJournal, FileJournal):
        for name in ("claim", "newest", "retire", "floor", "read", "swap"):
            assert callable(getattr(kind, name))
    assert secagg.Journal is Journal
