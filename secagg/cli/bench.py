"""``bench``: the kernels and rounds beside public peers and the hardware's limits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import ExitCode, counted, fail, stderr, stdout, table

if TYPE_CHECKING:
    from secagg.bench.catalogue import Keeper, Watcher
    from secagg.bench.results import Run

_DEFAULT_OUT = Path("bench-output")


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A look in a minute: smaller rounds, fewer samples.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Run this case; repeat it.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for results.json, performance.md and plots.")
    ] = _DEFAULT_OUT,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="Leave public peers out, installed or not.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Most threads, at most one a core; default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 4 where a bar is missed.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Make page and plots from a saved run."),
    ] = None,
    cases: Annotated[bool, typer.Option("--list", help="List the cases and leave.")] = False,
) -> None:
    """Measure kernels and whole rounds, side by side with peers and limits, in one run.

    Peers are public packages, pinned and unmodified: pip install 'secagg\\[bench]'. What is
    not installed is left out, and the table says so.
    """
    from secagg.bench import catalogue, machine, text
    from secagg.bench.sheet import Given

    if cases:
        _list()
        return
    if report is not None:
        if quick or only or no_peers or threads is not None:
            fail("error: --report makes a page from a saved run and runs nothing", ExitCode.USAGE)
        _refuse_file(out)
        run = _load(report)
        _write_page(run, report, out)
        _finish(run, as_json=as_json, check=check)
        return
    for name in only or ():
        if name not in catalogue.CASES:
            known = ", ".join(catalogue.CASES)
            fail(f"error: no case {name!r}; cases are {known}", ExitCode.USAGE)
    cores = machine.cores()
    if threads is not None and threads > cores:
        be = "is" if cores == 1 else "are"
        fail(f"error: --threads {threads}: there {be} {counted(cores, 'core')}", ExitCode.USAGE)
    _require_kernel()
    _refuse_file(out)
    saved = _writable(out)
    busy = text.busy(machine.load(), cores)
    if busy:
        typer.echo(f"warning: {busy}", err=True)
    given = Given.of("quick" if quick else "full", threads=threads or cores, peers=not no_peers)
    with _keeping(saved) as keep, _progress(quiet=as_json) as watch:
        run = catalogue.run(only or list(catalogue.CASES), given, watch=watch, keep=keep)
    _write_page(run, saved, out)
    _finish(run, as_json=as_json, check=check)


def _require_kernel() -> None:
    """Refuse a forced kernel that this machine cannot run before anything is measured."""
    import secagg_native

    try:
        secagg_native.variant()
    except ValueError as error:
        fail(f"error: {error}", ExitCode.USAGE)


def _list() -> None:
    from rich.text import Text

    from secagg.bench import text
    from secagg.bench.catalogue import CASES

    shown = table("Cases, each with its bars", "case", "what", "asked")
    for case in CASES.values():
        shown.add_row(case.id, Text(case.title), "")
        for bar in case.bars:
            shown.add_row("", Text(bar.text), Text(text.wanted(bar)))
    stdout().print(shown)


def _load(path: Path) -> Run:
    from secagg.bench import results

    try:
        return results.load(path)
    except ValueError as error:
        fail(f"error: {path}: {error}", ExitCode.USAGE)
        raise  # pragma: no cover - fail has left


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        fail(f"error: --out {out}: not a folder", ExitCode.USAGE)


def _writable(out: Path) -> Path:
    """The results file in a folder that is made and tried now, not after twenty minutes."""
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "results.json"
    trial = out / ".results.json.tmp"
    trial.write_bytes(b"")
    trial.unlink()
    return saved


def _save(run: Run, path: Path) -> None:
    from secagg.bench import results

    trial = path.with_name(f".{path.name}.tmp")
    trial.write_bytes(results.encode(run))
    trial.replace(path)


@contextmanager
def _keeping(path: Path) -> Iterator[Keeper]:
    """Save the run after each case; where it is cut short, say what was saved."""
    kept = 0

    def keep(run: Run) -> None:
        nonlocal kept
        _save(run, path)
        kept = len(run.cases)

    try:
        yield keep
    except BaseException:
        # An interrupt too: what was measured until then took minutes.
        saved = f"{counted(kept, 'case')} saved in {path}" if kept else "nothing was saved"
        typer.echo(f"cut short: {saved}", err=True)
        raise


def _write_page(run: Run, source: Path, out: Path) -> None:
    from secagg.bench import frameworks, plots
    from secagg.bench.report import FIGURES, page

    out.mkdir(parents=True, exist_ok=True)
    link = Path(os.path.relpath(source, out)).as_posix()
    drawn: Collection[str] | None = None
    try:
        plots.draw(run, out / FIGURES)
    except ModuleNotFoundError as error:
        drawn = ()
        said = f"no plots: {error.name} is not installed (pip install 'secagg[demo]')"
        stderr().print(said, markup=False)
    # What rounds cost under a framework is measured where that is installed, and kept beside.
    beside = source.with_name("frameworks.json")
    under = frameworks.section(frameworks.load(beside)) if beside.is_file() else ""
    text = page(run, source=link, drawn=drawn, under=under)
    (out / "performance.md").write_text(text, encoding="utf-8")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Watcher]:
    """A bar on stderr that names the case; a line for each where stderr is no terminal."""
    console = stderr()
    if quiet:
        yield lambda name, done, most: None
        return
    if not console.is_terminal:
        yield _say
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def watch(name: str | None, done: int, most: int) -> None:
            progress.update(task, description=name or "done", completed=done, total=most)

        yield watch


def _say(name: str | None, done: int, most: int) -> None:
    if name is not None:
        typer.echo(f"case {done + 1} of {most}: {name}", err=True)


def _finish(run: Run, *, as_json: bool, check: bool) -> None:
    """Print the run; leave with 1 where a case failed, with 4 where ``check`` finds a miss."""
    from secagg.bench import results

    if as_json:
        typer.echo(results.encode(run).decode().rstrip())
    else:
        _show(run)
    failed = [case.id for case in run.cases if case.failed]
    if failed:
        fail(f"error: {counted(len(failed), 'case')} failed: {', '.join(failed)}", ExitCode.BUG)
    missed = [verdict.bar.id for verdict in run.verdicts if verdict.met is False]
    if check and missed:
        fail(f"missed: {', '.join(missed)}", ExitCode.MISMATCH)


def _show(run: Run) -> None:
    from rich.text import Text

    from secagg.bench import text

    # Names and reasons may hold square brackets, which rich takes for markup in a plain string.
    console = stdout()
    shown = table(
        f"secagg {run.version} on {run.machine.cpu}, kernel {run.machine.kernel}, medians of "
        f"at least {run.runs}",
        *("bar", "asked", "measured", "quartiles (extremes)", "verdict"),
        numbers=[2],
    )
    styles = {True: "green", False: "bold red", None: "yellow"}
    for verdict in run.verdicts:
        shown.add_row(
            Text(verdict.bar.id),
            Text(text.wanted(verdict.bar)),
            Text(text.figure(verdict.figure, verdict.bar.unit)),
            text.between(verdict.spread),
            Text(text.outcome(verdict), style=styles[verdict.met]),
        )
    if run.verdicts:
        console.print(shown)
    timings = table("Works", "case", "work", "median", "quartiles", "speed", numbers=[2, 4])
    for case in run.cases:
        for timed in case.timings:
            five = timed.spread
            timings.add_row(
                Text(case.id),
                Text(timed.name),
                text.duration(five.median),
                f"{text.duration(five.first)} to {text.duration(five.third)}",
                Text(text.rate(timed)),
            )
    if timings.row_count:
        console.print(timings)
    for package, reason in run.left_out.items():
        console.print(f"left out, {package}: {reason}", markup=False)
    for case in run.cases:
        for note in case.notes:
            console.print(f"{case.id}: {note}", markup=False)


__all__ = ["bench"]
