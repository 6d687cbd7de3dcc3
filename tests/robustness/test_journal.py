"""The journal: one contract for all of them, and what a file adds: durability and damage."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import secagg
from secagg import FileJournal, Journal, MemoryJournal, MisuseError

KEY, OTHER = b"k" * 32, b"o" * 32
ONE, TWO = b"1" * 32, b"2" * 32

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

            def claim(self, setup_context: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
                return next(self.turns).claim(setup_context, step, digest, reply)

            def newest(self, setup_context: bytes) -> int:
                return next(self.turns).newest(setup_context)

        return Alternating


class TestReopenedFileJournal(JournalContract):
    """Every call through a new object, as after a restart."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        class Reopened:
            def claim(self, setup_context: bytes, step: int, digest: bytes, reply: bytes) -> bytes:
                return FileJournal(tmp_path / "journal").claim(setup_context, step, digest, reply)

            def newest(self, setup_context: bytes) -> int:
                return FileJournal(tmp_path / "journal").newest(setup_context)

        return Reopened


# Files.


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
        journal = FileJournal(path)
        assert journal.newest(KEY) == 2
        # Nobody acted upon it, so the step is free, and the file is sound afterwards.
        assert journal.claim(KEY, 3, TWO, b"anew") == b"anew"
        again = FileJournal(path)
        assert again.claim(KEY, 1, ONE, b"") == b"first"
        assert again.claim(KEY, 3, TWO, b"") == b"anew"


def test_a_crash_while_the_file_was_made_leaves_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    start = b"secagg journal 1\n"
    for size in range(len(start) + 1):
        path.write_bytes(start[:size])
        journal = FileJournal(path)
        assert journal.newest(KEY) == 0
        journal.claim(KEY, 1, ONE, b"reply")
        assert FileJournal(path).newest(KEY) == 1


@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_any_changed_byte_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "journal"
    filled(path)
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
    [b"hello", b"another file of somebody", b"\0" * 200, b"SECAGG", b"secagg journal 2\n"],
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


def test_a_backup_put_in_place_while_open_is_refused(tmp_path: Path) -> None:
    """A restored older copy, on which another process went on, lacks what was claimed here."""
    path, backup = tmp_path / "journal", tmp_path / "backup"
    FileJournal(path).claim(KEY, 1, ONE, b"")
    shutil.copy(path, backup)
    journal = FileJournal(path)
    journal.claim(KEY, 2, ONE, b"same size")
    backup.rename(path)
    FileJournal(path).claim(KEY, 2, TWO, b"same size")
    with pytest.raises(MisuseError):
        journal.claim(KEY, 3, ONE, b"")


# Processes.

CLAIMER = """
import sys
from secagg import FileJournal, MisuseError
path, me, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
journal = FileJournal(path)
print("ready", flush=True)
sys.stdin.readline()
for step in range(1, count + 1):
    try:
        reply = journal.claim(b"k" * 32, step, bytes([me]) * 32, b"reply %d of %d" % (step, me))
        print("won", step, reply.decode(), flush=True)
    except MisuseError as error:
        print("lost", step, error.rule, flush=True)
"""


def claimer(path: Path, me: int, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(path), str(me), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_one_wins_each_step(tmp_path: Path) -> None:
    path, count = tmp_path / "journal", 60
    processes = [claimer(path, me, count) for me in (1, 2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for step in range(1, count + 1):
        results = [of[step - 1].split()[0] for of in lines]
        assert sorted(results) == ["lost", "won"], step
        winner = results.index("won") + 1
        stored = FileJournal(path).claim(KEY, step, bytes([winner]) * 32, b"")
        assert stored == b"reply %d of %d" % (step, winner)


@pytest.mark.parametrize(
    "times", [3, pytest.param(25, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, times: int) -> None:
    for turn in range(times):
        path = tmp_path / f"journal-{turn}"
        process = claimer(path, 7, 100_000)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        said = [process.stdout.readline() for _ in range(1 + turn % 5)]
        time.sleep(0.0007 * turn)
        process.kill()
        said += process.communicate()[0].splitlines(keepends=True)
        # A line that the kill cut short was not read by anybody.
        whole = [line.split() for line in said if line.endswith("\n")]
        acknowledged = [int(step) for result, step, *_ in whole if result == "won"]
        assert acknowledged
        journal = FileJournal(path)
        for step in acknowledged:
            assert journal.claim(KEY, step, bytes([7]) * 32, b"") == b"reply %d of 7" % step
            with pytest.raises(MisuseError):
                journal.claim(KEY, step, ONE, b"")
        # At most the record that was being acknowledged is there besides them.
        assert journal.newest(KEY) - acknowledged[-1] <= 2


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
    """A claim that may not be durable must not be acted upon; a later one with the same content
    may be, a later one with another content must not win where the record reached the disk."""
    path = tmp_path / "journal"
    filled(path)
    journal = FileJournal(path)
    journal.newest(KEY)

    def fail(_: int) -> None:
        raise OSError("no sync")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no sync"):
        journal.claim(KEY, 4, ONE, b"reply")
    monkeypatch.undo()
    synced = []
    true = os.fsync

    def count(handle: int) -> None:
        synced.append(handle)
        true(handle)

    monkeypatch.setattr(os, "fsync", count)
    assert journal.claim(KEY, 4, ONE, b"later") == b"reply"
    # The record was only in the page cache, so this claim has to make it durable.
    assert synced
    with pytest.raises(MisuseError):
        FileJournal(path).claim(KEY, 4, TWO, b"")


def test_both_journals_are_journals() -> None:
    for kind in (MemoryJournal, FileJournal):
        for name in ("claim", "newest"):
            assert callable(getattr(kind, name))
    assert secagg.Journal is Journal
