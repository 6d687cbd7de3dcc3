"""``attack``: the threat laboratory. Every attack is run for real, on every protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.text import Text

from secagg_protocols.errors import MisuseError

from .attack_rules import rules
from .common import (
    EPILOG,
    ExitCode,
    Guarded,
    Titled,
    counted,
    fail,
    mark,
    stderr,
    stdout,
    table,
    write_json,
)

if TYPE_CHECKING:
    from secagg.attacks.finding import Measure
    from secagg.attacks.lab import Cell
    from secagg.attacks.matrix import Matrix

app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    epilog=EPILOG,
    help="The threat laboratory: run attacks for real, with their controls, on every protocol.",
)
_DEFAULT_OUT: Final = Path("attack-output")
#: By verdict: the word, the letter for narrow windows, and the colour.
WORDS: Final = {
    "prevented": ("prevented", "P", "green"),
    "detected": ("detected", "D", "cyan"),
    "leaks": ("leaks", "L", "red"),
    "leaks, bounded": ("leaks, bounded", "B", "yellow"),
    "corrupts": ("corrupts", "C", "magenta"),
    "n/a": ("-", "-", "dim"),
    "failed": ("FAILED", "FAIL", "bold white on red"),
}

Seed = Annotated[int, typer.Option(min=0, help="Everything drawn follows from it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Protocols = Annotated[
    list[str] | None,
    typer.Option("--protocol", metavar="ID", help="Only this protocol; repeatable. See `list`."),
]


@app.command("list", epilog=EPILOG)
def list_attacks(as_json: AsJson = False) -> None:
    """The attacks and the protocols, with who attacks and where each was published."""
    from secagg.attacks.columns import COLUMNS
    from secagg.attacks.matrix import rows_of

    found = rows_of()
    if as_json:
        write_json({"attacks": msgspec.to_builtins(found), "protocols": COLUMNS})
        return
    out = stdout()
    # In a narrow window sources would fold into many lines of a word each.
    wide = out.width >= 120
    heads = ["", "id", "attack", "adversary", *(["source"] if wide else [])]
    shown = table("Attacks", *heads, numbers=[0])
    # What people type stays in one piece.
    shown.columns[1].no_wrap = True
    for row in found:
        source = [row.source] if wide else []
        shown.add_row(str(row.number), row.id, row.title, row.adversary, *source)
    out.print(shown)
    other = table("Protocols", "id", "protocol")
    for column, title in COLUMNS.items():
        other.add_row(column, title)
    out.print(other)
    out.print("Run one with `secagg attack run ID`, all with `secagg attack matrix --quick`.")


@app.command("run", epilog=EPILOG)
def run(
    attack: Annotated[str, typer.Argument(metavar="ID", help="The attack: see `list`.")],
    protocol: Protocols = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few trials: a look in seconds instead of a minute.")
    ] = False,
    seed: Seed = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML report here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one attack on every protocol, with its controls, and say what came of it."""
    from secagg.attacks.columns import COLUMNS
    from secagg.attacks.matrix import run_matrix

    columns = tuple(dict.fromkeys(protocol or COLUMNS))
    if report is not None:
        _require_file(report)
    with _progress(quiet=as_json) as watch:
        matrix = run_matrix(
            attacks=[attack],
            columns=columns,
            effort="quick" if quick else "full",
            seed=seed,
            observer=watch,
        )
    if report is not None:
        write_report(matrix, report)
    if as_json:
        write_json(msgspec.to_builtins(matrix))
    else:
        _show_run(matrix)
        if report is not None:
            stdout().print(Text(f"Report: {report}"))
    _finish(matrix)


@app.command("matrix", epilog=EPILOG)
def matrix(
    quick: Annotated[
        bool, typer.Option("--quick", help="Few trials: under two minutes on two cores.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="This attack; repeatable.")
    ] = None,
    protocol: Protocols = None,
    seed: Seed = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; default: one a core.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for matrix.json and report.html.")
    ] = _DEFAULT_OUT,
    as_json: AsJson = False,
) -> None:
    """Run every attack on every protocol. The exit code says whether all is as expected.

    Each cell is kept in the folder as soon as it is done, and a run that was
    interrupted goes on where it stopped. Delete the folder to start anew.
    """
    from secagg.attacks.catalogue import ATTACKS
    from secagg.attacks.columns import COLUMNS
    from secagg.attacks.matrix import RESULTS, check_names, run_matrix, save

    attacks = tuple(dict.fromkeys(only or ATTACKS))
    columns = tuple(dict.fromkeys(protocol or COLUMNS))
    check_names(attacks, columns)
    if out.exists() and not out.is_dir():
        raise MisuseError(f"--out {out} is not a folder", rule="output-file")
    out.mkdir(parents=True, exist_ok=True)
    with _progress(quiet=as_json) as watch:
        found = run_matrix(
            attacks=attacks,
            columns=columns,
            effort="quick" if quick else "full",
            seed=seed,
            workers=workers,
            folder=out,
            observer=watch,
        )
    save(found, out / RESULTS)
    write_report(found, out / "report.html")
    if as_json:
        write_json(msgspec.to_builtins(found))
    else:
        show_matrix(found)
        stdout().print(Text(f"Results: {out / RESULTS}\nReport:  {out / 'report.html'}"))
    _finish(found)


@app.command("report", epilog=EPILOG)
def report(
    results: Annotated[Path, typer.Argument(metavar="FILE", help="A matrix.json.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    pages: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write threat-model.md, claims.md and their figures into this folder as well.",
        ),
    ] = None,
) -> None:
    """Make the HTML report of a saved run, without running anything."""
    from secagg.attacks.matrix import load
    from secagg.attacks.report import FIGURES, claims, threat_model

    found = load(results)
    _require_file(out)
    made = [out]
    if pages is not None:
        if not pages.is_dir():
            raise MisuseError(f"there is no folder {pages}", rule="output-file")
        source = os.path.relpath(results, pages)
        for name, text in (("threat-model.md", threat_model), ("claims.md", claims)):
            (pages / name).write_text(text(found, source=source), encoding="utf-8")
            made.append(pages / name)
        _write_figures(found, pages / FIGURES)
    write_report(found, out)
    stdout().print(Text("Written: " + ", ".join(str(path) for path in made)))
    _finish(found)


app.command("rules", epilog=EPILOG)(rules)


def write_report(found: Matrix, path: Path) -> None:
    """Write the HTML report of a run, whole or not at all."""
    from secagg.attacks.report import page

    trial = path.with_name(f".{path.name}.tmp")
    trial.write_text(page(found), encoding="utf-8")
    trial.replace(path)


def _write_figures(found: Matrix, folder: Path) -> None:
    """A figure of each attack that has one, as an image of its own."""
    from secagg.attacks.report import figure_name, figures, svg

    folder.mkdir(exist_ok=True)
    for attack, drawn in figures(found).items():
        (folder / figure_name(attack)).write_bytes(svg(drawn))


def _require_file(path: Path) -> None:
    """Refuse before minutes of work what could not be written after them."""
    if path.is_dir():
        raise MisuseError(f"{path} is a folder; name a file", rule="output-file")
    if not path.parent.is_dir():
        raise MisuseError(f"there is no folder {path.parent}", rule="output-file")


def _finish(found: Matrix) -> None:
    if not found.holds:
        lines = [f"{c.attack} on {c.column}: {'; '.join(c.problems)}" for c in found.failures]
        fail("not as expected: " + "\n  ".join(lines), ExitCode.MISMATCH)


def show_matrix(found: Matrix) -> None:
    """The matrix as a table, one verdict a cell; by letters where the window is narrow."""
    from secagg.attacks.matrix import counts

    out = stdout()
    shown = _grid(found, list(found.columns), letters=False)
    # Asked without the window's own width, which is what any table would be squeezed into.
    if out.measure(shown, options=out.options.update(width=1000)).maximum > out.width:
        out.print(_grid(found, [str(i + 1) for i in range(len(found.columns))], letters=True))
        protocols = ", ".join(f"{i} {name}" for i, name in enumerate(found.columns, start=1))
        letters = "; ".join(
            f"{letter} {name if word == letter else word}"
            for name, (word, letter, _) in WORDS.items()
        )
        out.print(Text(f"Protocols: {protocols}\nVerdicts: {letters}"))
    else:
        out.print(shown)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts(found).items())
    wrong = len(found.failures)
    ending = "all as expected" if not wrong else f"{wrong} NOT as expected"
    out.print(Text(f"{len(found.cells)} cells in {found.seconds:.0f} s: {said}; {ending}."))


def _grid(found: Matrix, heads: list[str], *, letters: bool) -> Titled:
    shown = table("Attacks and protocols", "", "attack", *heads, numbers=[0])
    shown.columns[1].no_wrap = True
    for row in found.rows:
        cells = []
        for column in found.columns:
            cell = found.cell(row.id, column)
            cells.append(Text("") if cell is None else _verdict(cell, letters=letters))
        shown.add_row(str(row.number), row.id, *cells)
    return shown


def _verdict(cell: Cell, *, letters: bool = False) -> Text:
    word, letter, style = WORDS[cell.said]
    text = letter if letters else word
    return Text(text if cell.holds else f"{text} !", style=style if cell.holds else "bold red")


def _show_run(found: Matrix) -> None:
    out = stdout()
    (row,) = found.rows
    out.print(Text(f"{row.number}. {row.title}", style="bold"))
    for name, text in (
        ("Source", row.source),
        ("Adversary", f"{row.adversary}. Sees: {row.sees}"),
        ("Law", row.law),
        ("What to do", row.remedy),
    ):
        out.print(Text.assemble((f"{name}: ", "bold"), text))
    for cell in found.cells:
        out.print()
        out.print(Text.assemble((found.columns[cell.column], "bold"), ": ", _verdict(cell)))
        show_cell(out, cell)


def show_cell(out: Any, cell: Cell) -> None:
    """What was tried in a cell, and what came of it."""
    finding = cell.finding
    if finding is None:
        out.print(Text(cell.reason or "; ".join(cell.problems)))
        return
    given = ", ".join(f"{name} = {value}" for name, value in finding.parameters.items())
    every = ", every view there is" if finding.exhaustive else ""
    out.print(Text(f"Tried: {finding.tried}"))
    out.print(Text(f"Seen: {finding.seen}"))
    out.print(
        Text(f"{finding.successes:,} of {finding.trials:,} attempts succeeded{every}. {given}")
    )
    if finding.stopped_by:
        out.print(Text(f"Stopped by: {', '.join(finding.stopped_by)}"))
    for measure in finding.measures:
        out.print(Text(f"  {describe_measure(measure)}"))
    for control in finding.controls:
        want = "" if control.expected else " (another rule stops it too)"
        line = (
            f"control without {', '.join(control.overrides)}: {control.successes:,} of "
            f"{control.trials:,} succeeded{want}"
        )
        out.print(Text.assemble("  ", mark(control.holds), f" {line}"))
    if cell.data:
        out.print(Text(f"Data: {cell.data}"))
    out.print(Text(f"Seed {cell.seed}, transcript {cell.digest[:16]}, {cell.seconds:.1f} s"))
    for problem in cell.problems:
        out.print(Text(f"NOT as expected: {problem}", style="bold red"))


def describe_measure(measure: Measure) -> str:
    """A measure in one line."""
    text = f"{measure.name}: {measure.value:.4g}"
    if measure.unit:
        text += f" {measure.unit}"
    if measure.low is not None and measure.high is not None:
        text += f" (99 %: {measure.low:.4g} to {measure.high:.4g})"
    if measure.predicted is not None:
        text += f"; predicted {measure.predicted:.4g}"
    return text + (f" by {measure.law}" if measure.law else "")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """A bar over the cells on stderr, and the name of the cell that ended last."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from secagg.attacks.matrix import Observer

    if quiet:
        yield None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr(),
        transient=True,
    )
    task = bar.add_task("attacks", total=None)

    class Watch(Observer):
        def starts(self, cells: int, kept: int) -> None:
            bar.update(task, total=cells)
            if kept:
                bar.console.print(Text(f"kept from a run before: {counted(kept, 'cell')}"))

        def ends(self, cell: Cell) -> None:
            bar.update(task, advance=1, description=f"{cell.attack} on {cell.column}")
            if not cell.holds:
                said = f"{cell.attack} on {cell.column}: {'; '.join(cell.problems)}"
                bar.console.print(Text(said, style="red"))

    with bar:
        yield Watch()


__all__ = ["app", "describe_measure", "show_cell", "show_matrix", "write_report"]
