"""The matrix: every attack on every protocol, in parallel, resumable, kept as one JSON file."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

import secagg
from secagg.bench import machine
from secagg_protocols.errors import MisuseError

from .catalogue import ATTACKS, load_attack
from .columns import COLUMNS
from .finding import Verdict
from .lab import Cell, here
from .process import ONE_THREAD
from .scene import Effort

FORMAT: Final = 1
RESULTS: Final = "matrix.json"
#: Verdicts of cells, in the order in which they are counted.
VERDICTS: Final = (*(verdict.value for verdict in Verdict), "failed")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue says of an attack."""

    number: int
    id: str
    title: str
    source: str
    adversary: str
    sees: str
    tests: tuple[str, ...]
    law: str
    remedy: str


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the laboratory.

    made: UTC. commit: of the working copy, empty outside of one. seconds: of this run; kept: cells
    that were there from a run before it.
    """

    format: int
    made: str
    commit: str
    effort: str
    seed: int
    versions: dict[str, str]
    system: str
    seconds: float
    columns: dict[str, str]
    rows: list[Row]
    cells: list[Cell]
    kept: int = 0

    @property
    def holds(self) -> bool:
        """Whether every cell came out as expected."""
        return all(cell.holds for cell in self.cells)

    @property
    def failures(self) -> list[Cell]:
        """The cells that did not."""
        return [cell for cell in self.cells if not cell.holds]

    def cell(self, attack: str, column: str) -> Cell | None:
        """One cell, if it was run."""
        return next((c for c in self.cells if (c.attack, c.column) == (attack, column)), None)


class Observer:
    """Told of a matrix while it runs. The methods do nothing; override what is wanted."""

    def starts(self, cells: int, kept: int) -> None:
        """``cells`` are to be run, ``kept`` are there from a run before."""

    def begins(self, attack: str, column: str) -> None:
        """A cell was handed to a worker."""

    def ends(self, cell: Cell) -> None:
        """A cell is done."""


def rows_of(attacks: Iterable[str] = ATTACKS) -> list[Row]:
    """What the catalogue says of attacks."""
    found = []
    for name in attacks:
        kind = load_attack(name)
        found.append(Row(**{field: getattr(kind, field) for field in Row.__struct_fields__}))
    return found


def check_names(attacks: Sequence[str], columns: Sequence[str]) -> None:
    """`MisuseError` (``attack-id``, ``attack-column``) for a name that is not in the catalogue."""
    for name in attacks:
        load_attack(name)
    for column in columns:
        if column not in COLUMNS:
            raise MisuseError(
                f"there is no protocol {column!r}: they are {', '.join(COLUMNS)}",
                rule="attack-column",
            )


def run_matrix(
    *,
    attacks: Sequence[str] = tuple(ATTACKS),
    columns: Sequence[str] = tuple(COLUMNS),
    effort: Effort = "quick",
    seed: int = 0,
    workers: int | None = None,
    folder: Path | None = None,
    observer: Observer | None = None,
) -> Matrix:
    """Run the cells, and those of ``folder`` that are there from a run like this one no more.

    workers: processes, one a core where none is given. folder: where each cell is kept as soon as
    it is done; a cell of another version, commit, effort or seed, or of a working copy with
    changes, is run again.
    """
    check_names(attacks, columns)
    watch = observer or Observer()
    began = time.perf_counter()
    commit = _commit()
    described = machine.describe()
    versions = {"secagg": secagg.__version__, "python": described.python} | described.packages
    # In a working copy that was changed nobody knows what an older cell was run with.
    kept = _Kept(None if commit.endswith("+") else folder, f"{versions} {commit} {effort} {seed}")
    wanted = [(a, c) for a in attacks for c in columns]
    found = {key: cell for key in wanted if (cell := kept.get(*key)) is not None}
    todo = [key for key in wanted if key not in found]
    watch.starts(len(todo), len(found))
    if todo:
        kept_environment = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)
        # Cells that have started threads or kernels must not be forked.
        context = get_context("spawn")
        over = context.Event()
        pool = ProcessPoolExecutor(
            workers or machine.cores(), mp_context=context, initializer=_listen, initargs=(over,)
        )
        waiting: dict[Future[Cell], tuple[str, str]] = {}
        try:
            with _unheard():
                for key in todo:
                    waiting[pool.submit(_cell, *key, effort, seed)] = key
                    watch.begins(*key)
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    key = waiting.pop(future)
                    try:
                        found[key] = future.result()
                    except BrokenProcessPool:
                        # A worker was killed, and the cells that waited for it with it.
                        found[key] = _failed(*key, effort, seed, "a process of the run was ended")
                    if _commit() == commit:
                        kept.put(found[key])
                    watch.ends(found[key])
        except BaseException:
            # Cells that a worker has taken already cannot be cancelled any more.
            over.set()
            raise
        finally:
            # An interrupted run leaves no cell half written, and starts no other.
            pool.shutdown(wait=True, cancel_futures=True)
            for name, value in kept_environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
    return Matrix(
        format=FORMAT,
        made=machine.now(),
        # Cells load their code when they start, so a change in between is one of the run's code.
        commit=commit if _commit() == commit else commit.rstrip("+") + "+",
        effort=effort,
        seed=seed,
        versions=versions,
        system=f"{described.cpu}, {described.cores} cores, {described.system}",
        seconds=round(time.perf_counter() - began, 1),
        kept=len(wanted) - len(todo),
        columns={column: COLUMNS[column] for column in columns},
        rows=rows_of(attacks),
        cells=[found[key] for key in wanted],
    )


def _cell(attack: str, column: str, effort: Effort, seed: int) -> Cell:
    if _Worker.over is not None and _Worker.over.is_set():
        return _failed(attack, column, effort, seed, "interrupted")
    _Worker.busy = True
    try:
        return here(attack, column, effort=effort, seed=seed)
    except Exception as error:  # noqa: BLE001 - one broken cell must not end the others
        return _failed(attack, column, effort, seed, f"{type(error).__name__}: {error}")
    finally:
        _Worker.busy = False


class _Worker:
    """A terminal interrupts all processes of a command at once; what that means to a worker."""

    busy = False
    over: Event | None = None


def _listen(over: Event) -> None:
    """A worker ends its cell when it is interrupted, and says nothing: the command does."""
    _Worker.over = over
    signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _Worker.busy:
        raise KeyboardInterrupt


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes that begin here ignore interrupts until they listen, and so load in peace."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may say what signals do, and it gets them too.
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _failed(attack: str, column: str, effort: Effort, seed: int, why: str) -> Cell:
    return Cell(
        attack=attack,
        column=column,
        effort=effort,
        seed=seed,
        expected="",
        verdict="failed",
        problems=[why],
    )


class _Kept:
    """Cells of an earlier run, each in a file of its own. A failed cell is never kept."""

    def __init__(self, folder: Path | None, mark: str) -> None:
        self._folder = None if folder is None else folder / "cells"
        self._mark = mark
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, attack: str, column: str) -> Cell | None:
        if self._folder is None:
            return None
        try:
            data = self._path(self._folder, attack, column).read_bytes()
            mark, cell = msgspec.json.decode(data, type=tuple[str, Cell])
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return cell if mark == self._mark else None

    def put(self, cell: Cell) -> None:
        if self._folder is None or not cell.holds:
            return
        path = self._path(self._folder, cell.attack, cell.column)
        trial = path.with_suffix(".tmp")
        trial.write_bytes(msgspec.json.encode((self._mark, cell)))
        trial.replace(path)

    def _path(self, folder: Path, attack: str, column: str) -> Path:
        return folder / f"{attack}.{column}.json"


def _commit() -> str:
    """The commit of the working copy that the package lies in, ``+`` where it was changed."""
    import secagg_native
    import secagg_protocols

    packages = (secagg, secagg_protocols, secagg_native)
    return commit_of([Path(str(package.__file__)).parent for package in packages])


def commit_of(folders: Sequence[Path]) -> str:
    """The commit of folders of one working copy, ``+`` where any of them was changed.

    Empty where they are not under version control. Files that were never added count as a change.
    """
    try:
        if not _git(folders[0], "ls-files", "."):
            # Installed into somebody's project: its commit says nothing about this package.
            return ""
        commit = _git(folders[0], "rev-parse", "--short=12", "HEAD")
        changed = any(
            _git(folder, "status", "--porcelain", "--untracked-files=normal", ".")
            for folder in folders
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def save(matrix: Matrix, path: Path) -> None:
    """Write a run, whole or not at all."""
    trial = path.with_name(f".{path.name}.tmp")
    trial.write_bytes(msgspec.json.format(msgspec.json.encode(matrix), indent=1) + b"\n")
    trial.replace(path)


def load(path: Path) -> Matrix:
    """Read a run. `MisuseError` (rule ``attack-results``) for a file that is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Matrix)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MisuseError(
            f"{path} is no run of the laboratory: {error}", rule="attack-results"
        ) from None
    if found.format != FORMAT:
        raise MisuseError(
            f"{path} has format {found.format}, this version reads {FORMAT}", rule="attack-results"
        )
    for cell in found.cells:
        if cell.verdict not in VERDICTS:
            raise MisuseError(
                f"{path} has a verdict {cell.verdict!r}, which is none", rule="attack-results"
            )
    return found


def counts(matrix: Matrix) -> dict[str, int]:
    """How many cells have each verdict."""
    found = dict.fromkeys(VERDICTS, 0)
    for cell in matrix.cells:
        found[cell.verdict] += 1
    return {name: count for name, count in found.items() if count}


__all__ = [
    "FORMAT",
    "RESULTS",
    "VERDICTS",
    "Matrix",
    "Observer",
    "Row",
    "check_names",
    "commit_of",
    "counts",
    "load",
    "rows_of",
    "run_matrix",
    "save",
]
