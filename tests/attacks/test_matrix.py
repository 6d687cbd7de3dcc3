"""The matrix: what is run, what is kept, what a broken cell does, and the file of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

import secagg
from secagg.attacks import matrix as m
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import Cell, here
from secagg.attacks.process import LabError
from secagg_protocols.errors import MisuseError

ATTACKS = ("sparse-coordinates", "membership")
COLUMNS = ("plain", "semi-honest")
KEYS = [(attack, column) for attack in ATTACKS for column in COLUMNS]


class Counted(m.Observer):
    """What an observer was told."""

    def __init__(self) -> None:
        self.todo = self.kept = 0
        self.begun: list[tuple[str, str]] = []
        self.ended: list[Cell] = []

    def starts(self, cells: int, kept: int) -> None:
        self.todo, self.kept = cells, kept

    def begins(self, attack: str, column: str) -> None:
        self.begun.append((attack, column))

    def ends(self, cell: Cell) -> None:
        self.ended.append(cell)


class Interrupted(Counted):
    """Somebody presses Ctrl-C when the first cell is done."""

    def ends(self, cell: Cell) -> None:
        super().ends(cell)
        raise KeyboardInterrupt


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Cells run in this process, one after the other, at one commit; what was run is listed."""
    done: list[tuple[str, str]] = []

    def run(attack: str, column: str, **options: Any) -> Cell:
        done.append((attack, column))
        return here(attack, column, separate=False, **options)

    monkeypatch.setattr(m, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(m, "here", run)
    monkeypatch.setattr(m, "_commit", lambda: "abc")
    return done


def run(folder: Path | None = None, observer: m.Observer | None = None, **more: Any) -> m.Matrix:
    options: dict[str, Any] = {"attacks": ATTACKS, "columns": COLUMNS} | more
    return m.run_matrix(folder=folder, observer=observer, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cells").iterdir())


def test_a_run_has_every_cell_and_says_how_it_was_made(ran: list[tuple[str, str]]) -> None:
    watch = Counted()
    found = run(observer=watch, seed=3)
    assert [(c.attack, c.column) for c in found.cells] == KEYS == watch.begun
    assert sorted(ran) == sorted(KEYS)
    assert (watch.todo, watch.kept, len(watch.ended)) == (4, 0, 4)
    assert found.holds and not found.failures
    assert (found.format, found.commit, found.effort, found.seed) == (m.FORMAT, "abc", "quick", 3)
    assert all(c.effort == "quick" and c.seed == 3 and c.digest for c in found.cells)
    assert list(found.columns) == list(COLUMNS)
    assert [row.id for row in found.rows] == list(ATTACKS)
    assert {"secagg", "python", "numpy"} <= set(found.versions)
    assert found.cell("membership", "plain") is found.cells[2]
    assert found.cell("membership", "noise") is None
    assert m.counts(found) == {"leaks": 4}


def test_kept_cells_are_not_run_again(ran: list[tuple[str, str]], tmp_path: Path) -> None:
    first = run(tmp_path, columns=COLUMNS[:1])
    assert files(tmp_path) == ["membership.plain.json", "sparse-coordinates.plain.json"]
    ran.clear()
    watch = Counted()
    second = run(tmp_path, watch)
    assert (watch.todo, watch.kept) == (2, 2)
    assert sorted(ran) == sorted(key for key in KEYS if key[1] == "semi-honest")
    assert [(c.attack, c.column) for c in second.cells] == KEYS
    for attack in ATTACKS:
        assert second.cell(attack, "plain") == first.cell(attack, "plain")
    ran.clear()
    again = run(tmp_path)
    assert ran == [] and again.cells == second.cells


@pytest.mark.parametrize("change", ["effort", "seed", "commit", "version", "broken", "text"])
def test_a_cell_of_another_run_is_run_again(
    ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    one: dict[str, Any] = {"attacks": ATTACKS[:1], "columns": COLUMNS[:1]}
    run(tmp_path, **one)
    path = tmp_path / "cells" / "sparse-coordinates.plain.json"
    if change == "effort":
        one["effort"] = "full"
    elif change == "seed":
        one["seed"] = 1
    elif change == "commit":
        monkeypatch.setattr(m, "_commit", lambda: "def")
    elif change == "version":
        monkeypatch.setattr(secagg, "__version__", "0.0.0")
    elif change == "broken":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(path.read_bytes().replace(b"coordinates", b"coordinate\xff"))
    ran.clear()
    found = run(tmp_path, **one)
    assert ran == KEYS[:1] and found.holds
    ran.clear()
    run(tmp_path, **one)
    assert ran == []


def test_a_changed_working_copy_keeps_nothing(
    ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    kept = {name: (tmp_path / "cells" / name).read_bytes() for name in files(tmp_path)}
    monkeypatch.setattr(m, "_commit", lambda: "abc+")
    ran.clear()
    found = run(tmp_path, attacks=ATTACKS[:1])
    assert len(ran) == 2 and found.commit == "abc+"
    run(tmp_path / "other", attacks=ATTACKS[:1])
    assert not (tmp_path / "other").exists()
    assert {name: (tmp_path / "cells" / name).read_bytes() for name in files(tmp_path)} == kept


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such place"), "ValueError: no such place"),
        (MisuseError("no", rule="laboratory"), "MisuseError: no [laboratory]"),
    ],
)
def test_a_scene_that_raises_is_a_failed_cell_and_the_others_go_on(
    ran: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    real: Callable[..., Cell] = vars(m)["here"]

    def sometimes(attack: str, column: str, **options: Any) -> Cell:
        if (attack, column) == KEYS[1]:
            raise error
        return real(attack, column, **options)

    monkeypatch.setattr(m, "here", sometimes)
    watch = Counted()
    found = run(tmp_path, watch)
    assert len(watch.ended) == 4
    (failed,) = found.failures
    assert (failed.attack, failed.column, failed.verdict) == (*KEYS[1], "failed")
    assert failed.problems == [said] and not found.holds
    assert m.counts(found) == {"leaks": 3, "failed": 1}
    assert files(tmp_path) == sorted(f"{a}.{c}.json" for a, c in KEYS if (a, c) != KEYS[1])
    # What failed is not kept, so it is tried again, and nothing else is.
    monkeypatch.setattr(m, "here", real)
    ran.clear()
    assert run(tmp_path).holds
    assert ran == [KEYS[1]]


def test_a_law_that_does_not_hold_is_a_failed_cell(
    ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secagg.attacks.scenes.aggregate import SparseCoordinatesScene

    def broken(self: object, lab: object, column: str) -> None:
        raise LabError("measured 0.2, the law says 0.3")

    monkeypatch.setattr(SparseCoordinatesScene, "investigate", broken)
    found = run(tmp_path)
    assert [c.verdict for c in found.cells] == ["failed", "failed", "leaks", "leaks"]
    assert found.cells[0].problems == ["failed: measured 0.2, the law says 0.3"]
    assert found.cells[0].expected == "leaks"
    assert files(tmp_path) == ["membership.plain.json", "membership.semi-honest.json"]


def test_a_verdict_that_differs_is_a_failure_that_is_not_kept(
    ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secagg.attacks.scenes.aggregate import SparseCoordinatesScene

    wanted = dict(SparseCoordinatesScene.expected) | {"plain": Verdict.PREVENTED}
    monkeypatch.setattr(SparseCoordinatesScene, "expected", wanted)
    found = run(tmp_path, attacks=ATTACKS[:1])
    assert not found.holds
    (cell,) = found.failures
    assert (cell.column, cell.verdict, cell.expected) == ("plain", "leaks", "prevented")
    assert "verdict leaks, expected prevented" in cell.problems
    assert files(tmp_path) == ["sparse-coordinates.semi-honest.json"]


def test_an_interrupted_run_goes_on(ran: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupted())
    done = files(tmp_path)
    assert done == ["sparse-coordinates.plain.json"]
    ran.clear()
    found = run(tmp_path)
    assert found.holds and sorted(ran) == sorted(KEYS[1:])


def test_unknown_names_are_refused_before_anything_runs(ran: list[tuple[str, str]]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"attacks": (*ATTACKS, "no-such-attack")}, "attack-id"),
        ({"columns": (*COLUMNS, "no-such-protocol")}, "attack-column"),
    ]
    for more, rule in wrong:
        with pytest.raises(MisuseError) as caught:
            run(**more)
        assert caught.value.rule == rule
    assert ran == []


def test_a_run_is_saved_and_read_whole(ran: list[tuple[str, str]], tmp_path: Path) -> None:
    found = run()
    path = tmp_path / m.RESULTS
    m.save(found, path)
    assert m.load(path) == found
    assert [p.name for p in tmp_path.iterdir()] == [m.RESULTS]
    m.save(msgspec.structs.replace(found, seed=9), path)
    assert m.load(path).seed == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: data[:-3],
        lambda data: data.replace(b'"quick"', b"7"),
        lambda data: data.replace(b"leaks", b"lea\xffs"),
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b'"verdict": "leaks"', b'"verdict": "fine"', 1),
    ],
)
def test_another_file_is_refused_by_rule(
    ran: list[tuple[str, str]], tmp_path: Path, change: Any
) -> None:
    path = tmp_path / "some.json"
    m.save(run(attacks=ATTACKS[:1], columns=COLUMNS[:1]), path)
    data = path.read_bytes()
    assert change(data) != data
    path.write_bytes(change(data))
    with pytest.raises(MisuseError) as caught:
        m.load(path)
    assert caught.value.rule == "attack-results"
    assert str(path) in str(caught.value)


def test_one_worker_and_two_give_equal_findings(ran: list[tuple[str, str]]) -> None:
    """Real processes, and the same as in this one: nothing depends on who runs a cell."""
    inside = run(columns=COLUMNS[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "ProcessPoolExecutor", ProcessPoolExecutor)
        runs = [run(columns=COLUMNS[:1], workers=workers) for workers in (1, 2)]
    for other in runs:
        assert [_timeless(c) for c in other.cells] == [_timeless(c) for c in inside.cells]


def _timeless(cell: Cell) -> Cell:
    return msgspec.structs.replace(cell, seconds=0.0)


def _kill(attack: str, column: str, effort: str, seed: int) -> Cell:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_worker_that_is_killed_gives_failed_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "_cell", _kill)
    found = run(columns=COLUMNS[:1], workers=1)
    assert [c.verdict for c in found.cells] == ["failed", "failed"]
    assert all("was ended" in c.problems[0] for c in found.cells)


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


def test_the_commit_tells_of_changes_wherever_they_are(tmp_path: Path) -> None:
    first, second, outside = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder in (first, second, outside):
        folder.mkdir()
    assert m.commit_of([first]) == ""
    (first / "x.py").write_text("1")
    (second / "y.py").write_text("1")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a", "b", ".gitignore")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = m.commit_of([first, second])
    assert len(commit) == 12 and not commit.endswith("+")
    # What lies elsewhere, and what is only cached, is no change of the package.
    (outside / "z.py").write_text("1")
    (first / "__pycache__").mkdir()
    (first / "__pycache__" / "x.pyc").write_text("1")
    assert m.commit_of([first, second]) == commit
    (second / "y.py").write_text("2")
    assert m.commit_of([first, second]) == commit + "+"
    assert m.commit_of([first]) == commit
    (first / "new.py").write_text("1")
    assert m.commit_of([first]) == commit + "+"
    # A package that somebody installed within a project of theirs.
    assert m.commit_of([outside]) == ""


_COMMAND = """
import sys
from secagg.attacks import matrix
from secagg.cli import main
matrix._commit = lambda: "abc"
sys.argv[0] = "secagg"
main()
"""


@pytest.mark.slow
def test_ctrl_c_leaves_whole_cells_and_one_word(tmp_path: Path) -> None:
    """The terminal interrupts the command and all of its processes at once."""
    words = ["attack", "matrix", "--quick", "--json", "--out", str(tmp_path), "--workers", "2"]
    for attack in ATTACKS:
        words += ["--only", attack]
    for column in ("plain", "semi-honest", "malicious-server", "sparse"):
        words += ["--protocol", column]
    command = [sys.executable, "-c", _COMMAND, *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = tmp_path / "cells"
    for _ in range(1200):
        if folder.is_dir() and len(list(folder.glob("*.json"))) >= 2:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert out == "" and said.strip() == "interrupted"
    kept = files(tmp_path)
    assert 2 <= len(kept) < 8 and all(name.endswith(".json") for name in kept)
    stamps = {name: (folder / name).stat().st_mtime_ns for name in kept}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(msgspec.json.decode(done.stdout)["cells"]) == 8
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == stamps
