"""The journal stays small, is followed when it is written anew, and refuses copies of itself."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from secagg import FileJournal, MemoryJournal, MisuseError
from secagg.attacks.arena.journal_vectors import ATTACKS
from secagg.attacks.arena.tables import journal_table
from secagg.attacks.rulebook import play_rule
from secagg_protocols.journal import JOURNAL_RULES, file
from secagg_protocols.journal.format import place_of, read_mark
from secagg_protocols.rules import Rule

KEY, OTHER = b"k" * 32, b"o" * 32
ONE, TWO = b"1" * 32, b"2" * 32
SERIES, NAME = b"s" * 32, b"n" * 32


def churn(journal: FileJournal, times: int = 4) -> None:
    """Overwrite a register with 40 kB so often that the file is written anew."""
    for turn in range(times):
        journal.swap(OTHER, journal.read(OTHER), bytes([turn]) * 40_000)


def generation(path: Path) -> int:
    journal = FileJournal(path)
    journal.newest(KEY)
    assert journal._head is not None
    return journal._head.generation


def refused(rule: str, use: Callable[[], object]) -> MisuseError:
    with pytest.raises(MisuseError) as caught:
        use()
    assert caught.value.rule == rule
    return caught.value


# Size.


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_thousand_rounds_leave_a_small_file_and_small_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal: Any = FileJournal(path) if kind == "file" else MemoryJournal()
    watcher: Any = FileJournal(path) if kind == "file" else journal
    largest, held = 0, []
    for number in range(1000):
        key = number.to_bytes(32, "little")
        for step in range(1, 6):
            reply = number.to_bytes(4, "little") * 2500
            journal.claim(key, step, ONE, reply, series=SERIES, number=number)
        journal.swap(NAME, journal.read(NAME), b"%d" % (number + 1))
        journal.retire(SERIES, number)
        if kind == "file":
            largest = max(largest, path.stat().st_size)
        if number == 100:
            tracemalloc.start()
        if number % 100 == 0:
            watcher.newest(key)
            held.append(tracemalloc.get_traced_memory()[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 400_000
    # What is traced begins at round 100; a leak of the replies would be 5 MB per 100 rounds.
    assert held[-1] < held[2] + 100_000
    assert peak < 2_000_000
    assert len(journal._records) == 5
    assert sum(len(numbers) for numbers in journal._series.values()) == 1
    assert journal.floor(SERIES) == 999
    if kind == "file":
        assert generation(path) > 50
        again = FileJournal(path)
        assert (again.read(NAME), again.floor(SERIES)) == (b"1000", 999)
        refused("journal-retired", lambda: again.claim(KEY, 1, ONE, b"", series=SERIES, number=998))


def test_what_was_retired_stays_refused_when_its_record_is_gone_from_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    journal = FileJournal(path)
    journal.claim(KEY, 1, ONE, b"to be forgotten" * 10, series=SERIES, number=3)
    journal.claim(OTHER, 1, ONE, b"kept", series=SERIES, number=4)
    journal.claim(OTHER, 2, ONE, b"of no series")
    journal.retire(SERIES, 4)
    churn(journal)
    assert generation(path) >= 1
    assert b"to be forgotten" not in path.read_bytes()
    again: list[dict[str, Any]] = [{"series": SERIES, "number": 3}, {"series": SERIES, "number": 4}]
    for handle in (journal, FileJournal(path)):
        claim = handle.claim
        refused("journal-retired", partial(claim, KEY, 1, TWO, b"", **again[0]))
        assert handle.newest(KEY) == 0
        assert handle.claim(OTHER, 1, ONE, b"", series=SERIES, number=4) == b"kept"
        assert handle.claim(OTHER, 2, ONE, b"") == b"of no series"
        refused("journal-once", partial(claim, OTHER, 1, TWO, b"", **again[1]))


# A file that is written anew.


def test_handles_follow_a_file_that_was_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, older = FileJournal(path), FileJournal(path)
    journal.claim(KEY, 1, ONE, b"first")
    older.newest(KEY)
    # So often that the older handle also meets an inode number that it has seen before.
    for turn in range(8):
        churn(journal)
        journal.claim(KEY, 2 + turn, ONE, b"%d" % turn)
        refused("journal-once", partial(older.claim, KEY, 2 + turn, TWO, b""))
        assert older.read(OTHER) == journal.read(OTHER)
        if turn % 2:
            older.claim(OTHER, turn, ONE, b"of the older")
            assert journal.claim(OTHER, turn, ONE, b"") == b"of the older"
    assert generation(path) >= 8
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_handle_that_waited_for_the_lock_goes_to_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal, waiting = FileJournal(path), FileJournal(path)
    journal.claim(KEY, 1, ONE, b"")
    journal.swap(OTHER, b"", b"x" * 40_000)
    waiting.newest(KEY)
    opened = threading.Event()
    true = os.open

    def slow(name: Any, *args: Any) -> int:
        handle = true(name, *args)
        if threading.current_thread() is thread:
            opened.set()
        return handle

    monkeypatch.setattr(os, "open", slow)
    thread = threading.Thread(target=lambda: waiting.claim(KEY, 2, ONE, b"late"))
    with journal._held():
        thread.start()
        assert opened.wait(10)
        # With the lock still held, as another process would: a new file takes the name.
        journal._rewrite(list(journal._entries()))
    thread.join(10)
    assert not thread.is_alive()
    assert generation(path) == 1
    assert FileJournal(path).claim(KEY, 2, ONE, b"") == b"late"


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "fsync of the folder"])
def test_an_operation_is_done_though_the_file_could_not_be_written_anew(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal, other = FileJournal(path), FileJournal(path)
    churn(journal, 3)
    name = call.partition(" ")[0]
    true, failures = getattr(os, name), []

    def failing(*args: Any) -> Any:
        renamed = path.stat().st_ino != inode
        if renamed if "folder" in call else (tmp_path / "journal.new").exists():
            failures.append(call)
            raise OSError(errno.ENOSPC, "No space left on device")
        return true(*args)

    inode = path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        journal.swap(OTHER, journal.read(OTHER), b"y" * 40_000)
    assert failures
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]
    assert other.read(OTHER) == journal.read(OTHER) == b"y" * 40_000
    journal.swap(NAME, journal.read(NAME), b"next")
    assert other.read(NAME) == FileJournal(path).read(NAME) == b"next"
    # The next operation wrote it anew, or followed.
    assert generation(path) == 1
    assert path.stat().st_size < 50_000
    assert not (tmp_path / "journal.new").exists()


def test_a_file_with_two_names_is_never_written_anew(tmp_path: Path) -> None:
    """A new file takes one name; under the other one the old journal would go on, and fork."""
    path, name = tmp_path / "journal", tmp_path / "other name"
    journal = FileJournal(path)
    journal.claim(KEY, 1, ONE, b"")
    name.hardlink_to(path)
    churn(journal, 6)
    assert path.samefile(name)
    other = FileJournal(name)
    refused("journal-once", lambda: other.claim(KEY, 1, TWO, b""))
    other.claim(KEY, 2, ONE, b"")
    refused("journal-once", lambda: journal.claim(KEY, 2, TWO, b""))
    name.unlink()
    churn(journal, 1)
    assert generation(path) == 1


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path, link = tmp_path / "folder" / "journal", tmp_path / "link"
    link.symlink_to(path)
    journal = FileJournal(link)
    churn(journal, 6)
    assert link.is_symlink()
    assert generation(path) >= 1
    assert FileJournal(path).read(OTHER) == journal.read(OTHER)


def test_a_journal_may_move_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    FileJournal(tmp_path / "draft" / "journal").claim(KEY, 1, ONE, b"reply")
    (tmp_path / "draft").rename(tmp_path / "folder")
    assert FileJournal(tmp_path / "folder" / "journal").claim(KEY, 1, ONE, b"") == b"reply"


# Copies.


def versions(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        return place_of(handle).version != 0
    finally:
        os.close(handle)


def marks(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        return read_mark(handle) is not None
    finally:
        os.close(handle)


def rename_over(backup: Path, path: Path) -> None:
    backup.rename(path)


def remove_and_copy(backup: Path, path: Path) -> None:
    if not versions(path):
        pytest.skip("this file system may give a copy the same inode, and has no versions")
    path.unlink()
    shutil.copy(backup, path)  # on some file systems this gets the inode number just freed


def remove_and_copy_all(backup: Path, path: Path) -> None:
    if not versions(path):
        pytest.skip("this file system may give a copy the same inode, and has no versions")
    path.unlink()
    shutil.copy2(backup, path)


def write_back(backup: Path, path: Path) -> None:
    if not marks(path):
        pytest.skip("this file system keeps no attributes")
    shutil.copyfile(backup, path)


RESTORES = [rename_over, remove_and_copy, remove_and_copy_all, write_back]


def rolled_back(tmp_path: Path, restore: Callable[[Path, Path], None]) -> tuple[Path, FileJournal]:
    """A journal whose backup was restored after it answered, and a handle that knows it did."""
    path, backup = tmp_path / "journal", tmp_path / "backup"
    journal = FileJournal(path)
    journal.claim(KEY, 1, ONE, b"before")
    shutil.copy2(path, backup)
    journal.claim(KEY, 5, ONE, b"answered")
    restore(backup, path)
    return path, journal


@pytest.mark.parametrize("restore", RESTORES)
def test_a_backup_that_was_put_back_is_refused(
    restore: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    path, journal = rolled_back(tmp_path, restore)
    content = path.read_bytes()
    uses: list[Callable[[FileJournal], object]] = [
        lambda j: j.claim(KEY, 5, TWO, b"anew"),
        lambda j: j.claim(KEY, 1, ONE, b""),
        lambda j: j.newest(KEY),
        lambda j: j.floor(SERIES),
        lambda j: j.read(NAME),
        lambda j: j.retire(SERIES, 1),
        lambda j: j.swap(NAME, b"", b"x"),
    ]
    for use in uses:
        error = refused("journal-copy", partial(use, FileJournal(path)))
        assert "joins anew, under a new key in a new roster epoch" in str(error)
        # Open handles know the file that they had.
        refused("journal-file", partial(use, journal))
    assert path.read_bytes() == content


def test_the_file_in_use_put_back_is_accepted(tmp_path: Path) -> None:
    path, aside, backup = tmp_path / "journal", tmp_path / "aside", tmp_path / "backup"
    journal = FileJournal(path)
    journal.claim(KEY, 1, ONE, b"reply")
    shutil.copy(path, backup)
    path.rename(aside)
    backup.rename(path)
    refused("journal-copy", lambda: FileJournal(path).newest(KEY))
    aside.rename(path)
    assert FileJournal(path).newest(KEY) == journal.newest(KEY) == 1


@pytest.mark.parametrize("how", ["another", "gone", "older", "written back longer"])
def test_a_file_replaced_while_open_is_refused(how: str, tmp_path: Path) -> None:
    path, backup = tmp_path / "journal", tmp_path / "backup"
    writer, journal = FileJournal(path), FileJournal(path)
    churn(writer, 3)
    shutil.copy(path, backup)
    churn(writer, 3)
    assert generation(path) >= 1
    journal.newest(KEY)
    if how == "another":
        FileJournal(tmp_path / "foreign").claim(KEY, 9, ONE, b"")
        (tmp_path / "foreign").rename(path)
    elif how == "gone":
        path.unlink()
    elif how == "older":
        backup.rename(path)
    else:
        path.write_bytes(backup.read_bytes() + bytes(1000))
    refused("journal-file", lambda: journal.claim(KEY, 4, ONE, b""))
    refused("journal-file", lambda: journal.newest(KEY))


# The rules, each alone.


def test_every_rule_has_its_method_and_its_attack() -> None:
    assert {rule.id for rule in JOURNAL_RULES} == set(ATTACKS)
    methods = {name for name in dir(FileJournal) if name.startswith("_check_")}
    assert {rule.method for rule in JOURNAL_RULES} == methods
    sources = "".join(
        path.read_text() for path in sorted(Path(file.__file__).parent.glob("file.py"))
    )
    for rule in JOURNAL_RULES:
        assert sources.count(f"self.{rule.method}(") == 1


@pytest.mark.parametrize("rule", JOURNAL_RULES, ids=lambda rule: rule.id)
def test_a_rule_alone_stops_its_attack(rule: Rule) -> None:
    assert play_rule(journal_table(), rule, FileJournal).why == ""
