"""The report of a matrix: one page to be read by people who decide about a study."""

from __future__ import annotations

from secagg.attacks.finding import ControlRun, Finding, Measure
from secagg.attacks.lab import Cell
from secagg.attacks.matrix import Matrix, Row, counts

from .figures import figure
from .html import Content, Html, document, join, rows, tag
from .words import MEANING, SEES, STUDY, TESTED

_NA = "n/a"


def page(matrix: Matrix, *, title: str = "Threat report") -> str:
    """A self-contained HTML page of a run."""
    return document(
        f"secagg: {title}",
        tag("h1", title),
        _summary(matrix),
        tag(
            "nav",
            *(
                tag("a", text, href=f"#{place}")
                for place, text in (
                    ("study", "The study"),
                    ("open", "What is not stopped"),
                    ("matrix", "The matrix"),
                    ("attacks", "Every attack"),
                    ("run", "About this run"),
                )
            ),
        ),
        study(),
        _not_stopped(matrix),
        tag("h2", "The matrix", id="matrix"),
        legend(),
        grid(matrix),
        tag("h2", "Every attack", id="attacks"),
        *(_attack(matrix, row) for row in matrix.rows),
        _about(matrix),
    )


def _summary(matrix: Matrix) -> Html:
    said = ", ".join(
        f"{count} {'not applicable' if verdict == _NA else verdict}"
        for verdict, count in counts(matrix).items()
    )
    text = (
        f"{len(matrix.rows)} attacks were run on {len(matrix.columns)} protocols: "
        f"{len(matrix.cells)} cells, {said}. "
    )
    if matrix.holds:
        return tag("p", text, tag("strong", "Every cell came out as expected."))
    wrong = [f"{cell.attack} on {cell.column}" for cell in matrix.failures]
    return tag(
        "p",
        text,
        tag("strong", f"{len(wrong)} did NOT come out as expected: ", class_="wrong"),
        " " + ", ".join(wrong),
    )


def study() -> Html:
    """What the study does, and who sees what."""
    return join(
        tag("h2", "What the study does", id="study"),
        tag("p", STUDY),
        tag("p", TESTED),
        tag("h2", "Who sees what"),
        rows(["Who", "Sees", "Does not see"], [list(row) for row in SEES], "cards"),
    )


def _not_stopped(matrix: Matrix) -> Html:
    """What the strongest masked protocol does not stop, with what does."""
    column = "malicious-server" if "malicious-server" in matrix.columns else ""
    found: list[list[Content]] = []
    for row in matrix.rows:
        cell = matrix.cell(row.id, column)
        if cell is not None and cell.verdict in {"leaks", "corrupts"} and cell.finding is not None:
            found.append([link(cell, row.title), verdict(cell), cell.finding.seen, row.remedy])
    if not found:
        return join()
    return join(
        tag("h2", "What secure aggregation does not stop", id="open"),
        tag(
            "p",
            "Secure aggregation hides the parts, and it cannot hide what follows from their sum, "
            "nor make dishonest parts honest. These attacks work on the strongest protocol of the "
            "matrix as it stands; the last column names what helps.",
        ),
        rows(["Attack", "Verdict", "What was seen", "What to do"], found, "cards"),
    )


def legend() -> Html:
    """The verdicts and their meaning."""
    terms = []
    for name, text in MEANING.items():
        if name != "failed":
            terms += [
                tag("dt", tag("span", name, class_=f"verdict {_class(name)}")),
                tag("dd", text),
            ]
    return tag("dl", *terms)


def grid(matrix: Matrix) -> Html:
    """The matrix in colour; each cell leads to its details."""
    body: list[list[Content]] = []
    for row in matrix.rows:
        line: list[Content] = [join(f"{row.number}. ", tag("a", row.title, href=f"#{row.id}"))]
        for column, title in matrix.columns.items():
            cell = matrix.cell(row.id, column)
            inner = None if cell is None else link(cell, cell.said)
            klass = "" if cell is None else f"is-{_class(cell.said)}"
            line.append(tag("td", inner, data_title=title, class_=klass or None))
        body.append(line)
    return rows(["Attack", *matrix.columns.values()], body, "cards matrix")


def verdict(cell: Cell) -> Html:
    """A verdict as a word in its colour."""
    wrong = "" if cell.holds else " wrong"
    return tag("span", cell.said, class_=f"verdict {_class(cell.said)}{wrong}")


def link(cell: Cell, text: str) -> Html:
    """A link to the details of a cell."""
    klass = f"verdict {_class(cell.said)}" + ("" if cell.holds else " wrong")
    return tag("a", text, href=f"#{cell.attack}.{cell.column}", class_=klass)


def _class(name: str) -> str:
    return name.replace("/", "").replace(", ", "-")


def _attack(matrix: Matrix, row: Row) -> Html:
    return tag(
        "section",
        tag("h3", f"{row.number}. {row.title}", id=row.id),
        terms(
            ("Source", row.source),
            ("Attacker", row.adversary),
            ("Is given", row.sees),
            ("Stands against it", ", ".join(row.tests) or "nothing in the sum itself"),
            ("Law", row.law),
            ("What to do", row.remedy),
        ),
        *(
            details(cell, title)
            for column, title in matrix.columns.items()
            if (cell := matrix.cell(row.id, column)) is not None
        ),
    )


def details(cell: Cell, title: str) -> Html:
    """What was tried in a cell, what was seen, its figures and controls."""
    inner: list[Content] = [tag("summary", f"{title}: ", verdict(cell))]
    inner += [tag("p", f"Not as expected: {text}", class_="wrong") for text in cell.problems]
    if cell.finding is None:
        inner.append(tag("p", cell.reason or "There is no finding."))
    else:
        inner += _finding(cell, cell.finding)
    return tag("details", *inner, id=f"{cell.attack}.{cell.column}")


def _finding(cell: Cell, finding: Finding) -> list[Content]:
    every = ", every view there is" if finding.exhaustive else ""
    found: list[Content] = [
        terms(
            ("Tried", finding.tried),
            ("Seen", finding.seen),
            ("Attempts", f"{finding.successes:,} of {finding.trials:,} succeeded{every}"),
            ("Stopped by", ", ".join(finding.stopped_by)),
            ("With", ", ".join(f"{name} = {value}" for name, value in finding.parameters.items())),
            ("Seed", f"{cell.seed}; transcripts {cell.digest[:16]}"),
        )
    ]
    if finding.measures:
        header = ["Measure", "Value", "99 % interval", "Predicted", "Law"]
        found.append(rows(header, [_measure(measure) for measure in finding.measures], "cards"))
    if finding.controls:
        header = ["Weakened copy: switched off", "Succeeded", "As it should", "Note"]
        found.append(rows(header, [_control(control) for control in finding.controls], "cards"))
    return [*found, *(figure(drawn) for drawn in finding.figures)]


def _measure(measure: Measure) -> list[Content]:
    low, high = measure.low, measure.high
    known = low is not None and high is not None
    return [
        measure.name,
        f"{measure.value:.4g} {measure.unit}".strip(),
        f"{low:.4g} to {high:.4g}" if known else "",
        "" if measure.predicted is None else f"{measure.predicted:.4g}",
        measure.law,
    ]


def _control(control: ControlRun) -> list[Content]:
    return [
        ", ".join(control.overrides),
        f"{control.successes:,} of {control.trials:,}",
        ("yes" if control.holds else "NO") + ("" if control.expected else " (stopped elsewhere)"),
        control.note,
    ]


def terms(*pairs: tuple[str, str]) -> Html:
    """Names and what is said of each; those of which nothing is said are left out."""
    return tag("dl", *(join(tag("dt", name), tag("dd", text)) for name, text in pairs if text))


def _about(matrix: Matrix) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in matrix.versions.items())
    again = "secagg attack matrix" + (" --quick" if matrix.effort == "quick" else "")
    return join(
        tag("h2", "About this run", id="run"),
        terms(
            ("Made", matrix.made),
            ("Commit", matrix.commit),
            ("Effort", f"{matrix.effort}, {matrix.seconds:,.0f} s"),
            ("Seed", str(matrix.seed)),
            ("Machine", matrix.system),
            ("Versions", versions),
            ("To repeat it", f"{again} --seed {matrix.seed}"),
        ),
        tag(
            "p",
            "Intervals are at 99 %. Checks of random laws share a chance of one in a thousand to "
            "fail although all hold. “Attempts” count the attack on the full build; the weakened "
            "copies are listed below each cell.",
            class_="soft",
        ),
    )


__all__ = ["details", "grid", "legend", "link", "page", "study", "terms", "verdict"]
