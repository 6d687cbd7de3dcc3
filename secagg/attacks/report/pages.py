"""Pages of the documentation that are made from a committed run: threat model and claims."""

from __future__ import annotations

from collections.abc import Sequence

from secagg.attacks.finding import Figure, Finding, Measure
from secagg.attacks.lab import Cell
from secagg.attacks.matrix import Matrix, Row

from .matrix import attacked, is_beyond, titles, what_was_tested
from .words import BEYOND, MEANING, NOISE, SEES, STRONGER, STUDY

#: Folder of the figures, beside the pages.
FIGURES = "figures"
#: Verdicts in a narrow table.
MARKS = {
    "prevented": "prevented",
    "detected": "*detected*",
    "leaks": "**leaks**",
    "leaks, bounded": "*leaks, bounded*",
    "corrupts": "**corrupts**",
    "n/a": "–",
    "failed": "FAILED",
}


def threat_model(matrix: Matrix, *, source: str) -> str:
    """``docs/threat-model.md``. source: where the run lies, as the page links to it."""
    lines = [
        "# Threat model",
        "",
        _made(matrix, source),
        "",
        STUDY,
        "",
        what_was_tested(matrix.cells),
        "",
        "## Who sees what",
        "",
        *_table(["who", "sees", "does not see"], [list(row) for row in SEES]),
        "",
        "## The matrix",
        "",
        *(f"- **{name}**: {text}" for name, text in MEANING.items() if name != "failed"),
        "",
        *([f"- {BEYOND}: {STRONGER}", ""] if any(map(is_beyond, matrix.cells)) else []),
        *_matrix(matrix),
        *(["", NOISE] if "noise" in matrix.columns else []),
        "",
        "## Every attack",
    ]
    for row in matrix.rows:
        lines += ["", *_attack(matrix, row)]
    return "\n".join(lines) + "\n"


def claims(matrix: Matrix, *, source: str) -> str:
    """``docs/claims.md``: by protocol, what holds and what does not, each with its evidence."""
    lines = [
        "# Claims",
        "",
        _made(matrix, source),
        "",
        "What each protocol withstood, and what it did not, in this run. A claim that is not on "
        "this page is not made. [The threat model](threat-model.md) tells how each attack was "
        "carried out; `secagg attack run ID` repeats it.",
        "",
        "Secure aggregation hides single vectors. It does not hide what follows from the sum, and "
        "it does not make dishonest vectors honest: the rows under *not stopped* need noise, "
        "cohort rules, checks of models by the sites, or trust.",
    ]
    for column, title in matrix.columns.items():
        mine = [
            (row, cell)
            for row in matrix.rows
            if (cell := matrix.cell(row.id, column)) is not None and cell.finding is not None
        ]
        lines += ["", f"## {title}"]
        for name, verdicts in (
            ("Stopped", ("prevented", "detected")),
            ("Not stopped", ("leaks", "corrupts", "failed")),
        ):
            found = [(row, cell) for row, cell in mine if cell.verdict in verdicts]
            if found:
                lines += ["", f"### {name}", "", *_claims(found, name == "Stopped", column)]
    return "\n".join(lines) + "\n"


def figures(matrix: Matrix) -> dict[str, Figure]:
    """By attack, the first figure of a cell: that of noise, which has both, else of the first."""
    found: dict[str, Figure] = {}
    for cell in matrix.cells:
        if cell.finding is not None and cell.finding.figures:
            if cell.column == "noise":
                found[cell.attack] = cell.finding.figures[0]
            found.setdefault(cell.attack, cell.finding.figures[0])
    return found


def figure_name(attack: str) -> str:
    """The file of an attack's figure, in the folder of figures beside the pages."""
    return f"threat-{attack}.svg"


def _made(matrix: Matrix, source: str) -> str:
    state = f"{len(matrix.failures)} NOT as expected."
    if matrix.holds:
        state = (
            "Every verdict is the one written down beforehand; a leak that was expected is still "
            "a leak."
        )
    return (
        f"<!-- Made by `make threat` from {source}. Do not edit. -->\n"
        f"Made from [a {matrix.effort} run of the laboratory]({source}) of {matrix.made}, seed "
        f"{matrix.seed}: {attacked(matrix.cells)} {state}"
    )


def _matrix(matrix: Matrix) -> list[str]:
    body = []
    for row in matrix.rows:
        cells = [matrix.cell(row.id, column) for column in matrix.columns]
        marks = ["" if cell is None else _mark(cell) for cell in cells]
        body.append([f"{row.number}. [{row.title}](#{anchor(row)})", *marks])
    return _table(["attack", *titles(matrix).values()], body)


def _mark(cell: Cell) -> str:
    return f"{MARKS[cell.said]} {BEYOND}" if is_beyond(cell) else MARKS[cell.said]


def anchor(row: Row) -> str:
    """The anchor of a row's heading, as renderers of Markdown make it."""
    text = f"{row.number}. {row.title}".lower()
    kept = "".join(c for c in text if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _attack(matrix: Matrix, row: Row) -> list[str]:
    lines = [
        f"### {row.number}. {row.title}",
        "",
        f"- Id: `{row.id}`; source: {row.source}",
        f"- Attacker: {row.adversary}; is given: {row.sees}",
        f"- Stands against it: {', '.join(row.tests) or 'nothing in the sum itself'}",
        f"- Law: {row.law}",
        f"- What to do: {row.remedy}",
        "",
    ]
    drawn = figures(matrix).get(row.id)
    if drawn is not None:
        lines += [f"![{drawn.title}]({FIGURES}/{figure_name(row.id)})", ""]
    for column, title in matrix.columns.items():
        cell = matrix.cell(row.id, column)
        if cell is not None:
            lines.append(f"- {title}: {_mark(cell)}. {_said(cell)}")
    return lines


def _said(cell: Cell) -> str:
    finding = cell.finding
    if finding is None:
        return cell.reason or "; ".join(cell.problems)
    parts = [finding.seen, _attempts(finding)]
    if finding.stopped_by:
        parts.append(f"Stopped by {', '.join(f'`{rule}`' for rule in finding.stopped_by)}.")
    if finding.measures:
        parts.append("; ".join(_measure(measure) for measure in finding.measures) + ".")
    return " ".join(parts)


def _attempts(finding: Finding) -> str:
    every = ", every view there is" if finding.exhaustive else ""
    won = [f"{c.successes:,} of {c.trials:,}" for c in finding.controls if c.expected]
    controls = f"; on its control {' and '.join(won)}" if won else ""
    return f"{finding.successes:,} of {finding.trials:,} attempts succeeded{every}{controls}."


def _measure(measure: Measure) -> str:
    text = f"{measure.name} {measure.value:.4g} {measure.unit}".strip()
    if measure.low is not None and measure.high is not None:
        text += f" (99 %: {measure.low:.4g} to {measure.high:.4g})"
    return text if measure.predicted is None else f"{text}, predicted {measure.predicted:.4g}"


def _claims(found: Sequence[tuple[Row, Cell]], stopped: bool, column: str) -> list[str]:
    body = []
    for row, cell in found:
        finding = cell.finding
        if finding is None:
            continue
        by = ", ".join(f"`{rule}`" for rule in finding.stopped_by) if stopped else row.remedy
        attack = f"[{row.title}](threat-model.md#{anchor(row)})"
        body.append([attack, _mark(cell), _attempts(finding), by])
    if column == "plain" and not stopped:
        # What stops an attack elsewhere is no advice for a protocol that protects nothing.
        short = _table(["attack", "verdict", "evidence"], [line[:3] for line in body])
        return ["This protocol protects nothing: use another one.", "", *short]
    return _table(["attack", "verdict", "evidence", "by" if stopped else "what helps"], body)


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [_line(header), _line(["---"] * len(header))]
    return lines + [_line(row) for row in body]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


__all__ = ["FIGURES", "anchor", "claims", "figure_name", "figures", "threat_model"]
