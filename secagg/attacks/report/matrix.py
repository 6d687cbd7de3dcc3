"""The report of a matrix: one page to be read by people who decide about a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from secagg.attacks.columns import MASKED
from secagg.attacks.finding import ControlRun, Finding, Measure
from secagg.attacks.lab import Cell
from secagg.attacks.matrix import Matrix, Row

from .figures import figure, worth_drawing
from .html import Content, Html, document, filled, join, rows, tag
from .words import BEYOND, MEANING, NOISE, QUICK, SEES, STRONGER, STUDY, tested

_NA = "n/a"


def page(matrix: Matrix, *, title: str = "Threat report") -> str:
    """A self-contained HTML page of a run."""
    not_stopped = _not_stopped(matrix)
    places = (
        ("study", "The study"),
        *((("open", "What is not stopped"),) if not_stopped else ()),
        ("matrix", "The matrix"),
        ("attacks", "Every attack"),
        ("run", "About this run"),
    )
    return document(
        f"secagg: {title}",
        tag("h1", title),
        _made(matrix),
        _summary(matrix),
        tag("nav", *(tag("a", text, href=f"#{place}") for place, text in places)),
        study(matrix.cells),
        not_stopped,
        tag("h2", "The matrix", id="matrix"),
        legend(matrix.cells),
        grid(matrix),
        tag("p", NOISE) if "noise" in matrix.columns else None,
        tag("h2", "Every attack", id="attacks"),
        *(_attack(matrix, row) for row in matrix.rows),
        _about(matrix),
    )


def _made(matrix: Matrix) -> Html:
    """When and of what the run was made, and whether it is one to decide by."""
    commit = f", commit {matrix.commit}" if matrix.commit else ""
    text = f"{matrix.made}, secagg {matrix.versions.get('secagg', '')}{commit}, {matrix.effort} run"
    return join(tag("p", f"{text}.", class_="soft"), quick([matrix.effort]))


def quick(efforts: Collection[str]) -> Html:
    """A warning where few attempts were made; nothing elsewhere."""
    return tag("p", tag("strong", QUICK)) if "quick" in efforts else join()


def attacked(cells: Sequence[Cell]) -> str:
    """How many combinations were attacked, and what came of them, in words."""
    said = Counter(cell.said for cell in cells)
    none = said.pop(_NA, 0)
    ran = sum(said.values())
    text = f"{ran} {'combination was' if ran == 1 else 'combinations were'} attacked"
    if none:
        text += f", {none} {'does' if none == 1 else 'do'} not apply"
    told = ", ".join(f"{said[name]} {name}" for name in MEANING if said[name])
    return f"{text}: {told}." if told else f"{text}."


def _summary(matrix: Matrix) -> Html:
    text = f"{attacked(matrix.cells)} "
    if matrix.holds:
        same = "Every verdict is the one written down beforehand; a leak that was expected is "
        return tag("p", text, tag("strong", f"{same}still a leak."))
    wrong = [f"{cell.attack} on {cell.column}" for cell in matrix.failures]
    return tag(
        "p",
        text,
        tag("strong", f"{len(wrong)} did NOT come out as expected: ", class_="wrong"),
        " " + ", ".join(wrong),
    )


def study(cells: Sequence[Cell]) -> Html:
    """What the study does, what was tested, and who sees what."""
    text = what_was_tested(cells)
    return join(
        tag("h2", "What the study does", id="study"),
        tag("p", STUDY),
        tag("p", text) if text else None,
        tag("h2", "Who sees what"),
        rows(["Who", "Sees", "Does not see"], [list(row) for row in SEES], "cards"),
    )


def _not_stopped(matrix: Matrix) -> Html:
    """What the strongest masked protocol does not stop, with what does; then what others leak."""
    masked = [name for name in ("malicious-server", *MASKED) if name in matrix.columns]
    if not masked:
        return join()
    column = masked[0]
    found: list[list[Content]] = []
    others: list[list[Content]] = []
    for row in matrix.rows:
        cell = matrix.cell(row.id, column)
        if cell is not None and _works(cell) and cell.finding is not None:
            found.append([link(cell, row.title), verdict(cell), cell.finding.seen, row.remedy])
            continue
        elsewhere = [matrix.cell(row.id, name) for name in matrix.columns if name != "plain"]
        some = [c for c in elsewhere if c is not None and _works(c)]
        if some:
            said = [
                join(f"{matrix.columns[c.column]}: ", link(c, shown(c)), Html("<br>")) for c in some
            ]
            others.append([tag("a", row.title, href=f"#{row.id}"), tag("div", *said)])
    if not found and not others:
        return join()
    parts: list[Content] = [tag("h2", "What secure aggregation does not stop", id="open")]
    if found:
        text = (
            "Secure aggregation hides the parts, and it cannot hide what follows from their sum, "
            f"nor make dishonest parts honest. These attacks work on “{matrix.columns[column]}” as "
            "it stands; the last column names what helps."
        )
        header = ["Attack", "Verdict", "What was seen", "What to do"]
        parts += [tag("p", text), rows(header, found, "cards")]
    if others:
        parts.append(tag("h3", "Only on some protocols"))
        parts.append(rows(["Attack", "Protocols and verdicts"], others, "cards"))
    return join(*parts)


def _works(cell: Cell) -> bool:
    return cell.verdict in {"leaks", "corrupts"}


def is_beyond(cell: Cell) -> bool:
    """Whether the attacker is stronger than what the plan says it withstands."""
    return cell.finding is not None and cell.finding.beyond


def shown(cell: Cell) -> str:
    """The verdict, with a mark where the attacker is beyond what the plan withstands."""
    return f"{cell.said} {BEYOND}" if is_beyond(cell) else cell.said


def titles(matrix: Matrix) -> dict[str, str]:
    """The columns as the matrix heads them."""
    bare = {"plain": " (no protection)"}
    return {name: title + bare.get(name, "") for name, title in matrix.columns.items()}


def what_was_tested(cells: Sequence[Cell]) -> str:
    """How much of the catalogue these cells are; empty where nothing was run."""
    ran = [cell for cell in cells if cell.verdict != _NA]
    return tested(len({cell.attack for cell in ran}), len({cell.column for cell in ran}))


def legend(cells: Sequence[Cell]) -> Html:
    """The verdicts and their meaning."""
    terms = []
    for name, text in MEANING.items():
        if name != "failed":
            terms += [
                tag("dt", tag("span", name, class_=f"verdict {_class(name)}")),
                tag("dd", text),
            ]
    if any(is_beyond(cell) for cell in cells):
        terms += [tag("dt", BEYOND), tag("dd", STRONGER)]
    return tag("dl", *terms)


def grid(matrix: Matrix) -> Html:
    """The matrix in colour; each cell leads to its details."""
    body: list[list[Content]] = []
    for row in matrix.rows:
        line: list[Content] = [join(f"{row.number}. ", tag("a", row.title, href=f"#{row.id}"))]
        for column, title in titles(matrix).items():
            cell = matrix.cell(row.id, column)
            inner = None if cell is None else link(cell, shown(cell))
            klass = "" if cell is None else f"is-{_class(cell.said)}"
            line.append(tag("td", inner, data_title=title, class_=klass or None))
        body.append(line)
    return rows(["Attack", *titles(matrix).values()], body, "cards matrix")


def verdict(cell: Cell) -> Html:
    """A verdict as a word in its colour."""
    wrong = "" if cell.holds else " wrong"
    return tag("span", shown(cell), class_=f"verdict {_class(cell.said)}{wrong}")


def link(cell: Cell, text: str) -> Html:
    """A link to the details of a cell."""
    klass = f"verdict {_class(cell.said)}" + ("" if cell.holds else " wrong")
    return tag("a", text, href=f"#{cell.attack}.{cell.column}", class_=klass)


def _class(name: str) -> str:
    return name.replace("/", "").replace(", ", "-")


def _attack(matrix: Matrix, row: Row) -> Html:
    return tag(
        "section",
        tag("a", "Back to the matrix", href="#matrix", class_="back screen"),
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
    return tag(
        "details",
        *inner,
        id=f"{cell.attack}.{cell.column}",
        class_="is-na" if cell.verdict == _NA else None,
    )


def _finding(cell: Cell, finding: Finding) -> list[Content]:
    every = ", every view there is" if finding.exhaustive else ""
    found: list[Content] = [
        terms(
            ("Tried", finding.tried),
            ("Seen", finding.seen),
            ("Attempts", f"{finding.successes:,} of {finding.trials:,} succeeded{every}"),
            ("Stopped by", ", ".join(finding.stopped_by)),
            ("With", ", ".join(f"{name} = {value}" for name, value in finding.parameters.items())),
            ("Data", cell.data),
            ("Seed", f"{cell.seed}; transcripts {cell.digest[:16]}"),
        )
    ]
    if finding.measures:
        header = ["Measure", "Value", "99 % interval", "Predicted", "Law"]
        found.append(rows(*filled(header, [_measure(each) for each in finding.measures]), "cards"))
    if finding.controls:
        header = ["Weakened copy: switched off", "Succeeded", "As it should", "Note"]
        found.append(rows(*filled(header, [_control(each) for each in finding.controls]), "cards"))
    return [*found, *(figure(drawn) for drawn in finding.figures if worth_drawing(drawn))]


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
