"""The report of a simulated study: what it computed, what everybody saw, and attacks on it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from secagg.attacks.columns import COLUMNS
from secagg.attacks.lab import Cell
from secagg.attacks.matrix import Row, rows_of
from secagg.sim.scenarios import Run

from .html import Content, Html, document, join, rows, tag
from .matrix import details, legend, study, terms

_TITLES = {
    "survival": "A survival analysis over 18 hospitals",
    "training": "A model trained over several hospitals",
    "random": "Sums of random vectors",
    "plan": "Sums under a plan of one's own",
}


def simulation_page(run: Run, cells: Sequence[Cell] = (), figures: Sequence[Path] = ()) -> str:
    """A self-contained HTML page of a simulation, of attacks on it, and of its figures."""
    title = _TITLES.get(run.scenario, run.scenario)
    return document(
        f"secagg: {title}",
        tag("h1", title),
        _verdict(run, cells),
        study(),
        tag("h2", "What came out"),
        rows(
            ["What", "By secure sums", "By the reference"],
            [list(line) for line in run.lines],
            "cards",
        ),
        tag("h2", "What this run shows"),
        rows(
            ["Claim", "Holds", "Evidence"],
            [[c.text, "yes" if c.holds else "NO", c.detail] for c in run.claims],
            "cards",
        ),
        *(tag("p", note, class_="soft") for note in run.notes),
        *(_image(path) for path in figures if path.suffix == ".png"),
        _rounds(run),
        _attacks(cells),
        _settings(run),
    )


def _verdict(run: Run, cells: Sequence[Cell]) -> Html:
    wrong = [claim.text for claim in run.claims if not claim.holds]
    wrong += [f"attack {cell.attack}" for cell in cells if not cell.holds]
    if wrong:
        return tag("p", tag("strong", f"Not as expected: {'; '.join(wrong)}", class_="wrong"))
    ran = sum(cell.finding is not None for cell in cells)
    tried = f", and {ran} of {ran} attacks came out as expected" if ran else ""
    return tag("p", tag("strong", f"All {len(run.claims)} comparisons hold{tried}."))


def _rounds(run: Run) -> Html:
    body: list[list[Content]] = [
        [
            record.label,
            f"{len(record.survivors)} of {record.sites}",
            ", ".join(record.gone) or "nobody",
            record.aborted or ("exact" if record.bound == 0 else f"within {record.bound:.2g}"),
            f"{record.total_bytes:,}",
        ]
        for record in run.secure.records
    ]
    header = ["Round", "Sites in the sum", "Fell silent", "Sum", "Bytes"]
    return join(tag("h2", "Round by round"), rows(header, body, "cards"))


def _attacks(cells: Sequence[Cell]) -> Html:
    if not cells:
        return join()
    known: dict[str, Row] = {row.id: row for row in rows_of([cell.attack for cell in cells])}
    parts: list[Content] = [tag("h2", "Attacks on this study"), legend()]
    for cell in cells:
        row = known[cell.attack]
        parts += [
            tag("h3", row.title, id=row.id),
            terms(
                ("Source", row.source),
                ("Attacker", row.adversary),
                ("Is given", row.sees),
                ("What to do", row.remedy),
            ),
            details(cell, COLUMNS[cell.column]),
        ]
    return join(*parts)


def _image(path: Path) -> Html:
    data = base64.b64encode(path.read_bytes()).decode()
    name = path.stem.replace("-", " ")
    return tag(
        "figure",
        tag("img", src=f"data:image/png;base64,{data}", alt=name),
        tag("figcaption", name),
    )


def _settings(run: Run) -> Html:
    every = run.settings.to_dict().items()
    given = {name: value for name, value in every if value not in (None, "")}
    return join(
        tag("h2", "Settings"),
        terms(*((name.replace("_", " "), str(value)) for name, value in given.items())),
    )


__all__ = ["simulation_page"]
