"""The journal among processes that race, and that die between any two system calls."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from robustness import journal_kills
from robustness.journal_kills import OPERATIONS, Model, do

from secagg import FileJournal, MisuseError

KEY = b"k" * 32
ONE = b"1" * 32

# Races.

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


COUNTER = """
import sys
from secagg import FileJournal, MisuseError
path, me, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
journal = FileJournal(path)
name, series = b"n" * 32, bytes([me]) * 32
print("ready", flush=True)
sys.stdin.readline()
lost = 0
for round in range(rounds):
    key = bytes([me]) * 24 + round.to_bytes(8, "little")
    journal.claim(key, 1, b"1" * 32, bytes([me]) * 4000, series=series, number=round)
    while True:
        old = journal.read(name)
        try:
            journal.swap(name, old, b"%d" % (int(old or b"0") + 1))
            break
        except MisuseError as error:
            assert error.rule == "journal-swap"
            lost += 1
    if round % 5 == 4:
        journal.retire(series, round - 1)
print("done", lost, flush=True)
"""


def test_two_processes_lose_and_double_nothing_while_the_file_is_written_anew(
    tmp_path: Path,
) -> None:
    path, rounds = tmp_path / "journal", 300
    watcher = FileJournal(path)
    watcher.newest(KEY)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(path), str(me), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in (1, 2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    count = 0
    while any(process.poll() is None for process in processes):
        # A third handle follows, and sees the count grow.
        now = int(watcher.read(b"n" * 32) or b"0")
        assert now >= count
        count = now
        time.sleep(0.002)
    for process in processes:
        said = process.communicate()[0]
        assert (process.returncode, said.split()[0]) == (0, "done")
    assert watcher._head is not None
    assert watcher._head.generation > 5, "the file was not written anew"
    for journal in (watcher, FileJournal(path)):
        assert journal.read(b"n" * 32) == b"%d" % (2 * rounds)
        for me in (1, 2):
            series = bytes([me]) * 32
            assert journal.floor(series) == rounds - 2
            for number in range(rounds):
                key = bytes([me]) * 24 + number.to_bytes(8, "little")
                assert journal.newest(key) == (number >= rounds - 2)
                if number >= rounds - 2:
                    again = journal.claim(key, 1, ONE, b"", series=series, number=number)
                    assert again == bytes([me]) * 4000
    assert path.stat().st_size < 200_000


# A kill before any system call.


def content(journal: FileJournal) -> Model:
    """All that a journal holds."""
    journal.newest(KEY)
    return Model(dict(journal._records), dict(journal._floors), dict(journal._registers))


@pytest.mark.parametrize(
    "start", ["nothing", pytest.param("a rest", marks=pytest.mark.slow)], ids=["new", "leftover"]
)
def test_a_kill_between_any_two_system_calls_leaves_whole_operations(
    start: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, journal_kills.__file__, str(tmp_path), start],
        check=True,
        capture_output=True,
        text=True,
    )
    runs: list[dict[str, Any]] = json.loads(done.stdout)
    models = [Model({}, {}, {})]
    for operation in OPERATIONS:
        models.append(models[-1].after(operation))
    # The last run was not killed, all others were, and each had a fresh place to die.
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    assert runs[-1]["returned"] == len(OPERATIONS)
    calls: dict[str, int] = {}
    for run in runs[:-1]:
        calls[run["before"]] = calls.get(run["before"], 0) + 1
    assert set(calls) >= {"open", "pwrite", "fsync", "rename", "close", "flock", "setxattr"}
    assert calls["rename"] >= 2, "the file was not written anew"
    assert calls["fsync"] > len(OPERATIONS)
    undone = finished = 0
    for number, run in enumerate(runs):
        path = tmp_path / f"run-{number}" / "journal"
        returned = run["returned"]
        journal = FileJournal(path)
        found = content(journal)
        if found == models[returned]:
            undone += 1
            at = returned
        else:
            assert found == models[returned + 1], run
            finished += 1
            at = returned + 1
        # The same request again returns what is stored, and all goes on from here.
        for operation in OPERATIONS[at:]:
            do(journal, operation)
        for handle in (journal, FileJournal(path)):
            assert content(handle) == models[-1]
        for (key, step), (digest, reply) in models[-1].records.items():
            assert journal.claim(key, step, digest, b"") == reply
            with pytest.raises(MisuseError):
                journal.claim(key, step, bytes(32), b"")
    assert undone > 50
    assert finished > 50
