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
from .matrix import details, legend, quick, study, terms, verdict

_TITLES = {
    "survival": "A survival analysis over 18 hospitals",
    "training": "A model trained over several hospitals",
    "random": "Sums of random vectors",
    "plan": "Sums under a plan of one's own",
}

#: What the figures of the scenarios show.
_CAPTIONS = {
    "survival": "Survival curves from secure sums, over those from pooled data.",
    "cox": "Cox regression: coefficients from secure sums beside those from pooled data.",
    "masked-words": "What the server received, beside the true values: it looks like noise.",
    "training": "The model in training by secure sums, beside plain federated averaging.",
}


def simulation_page(run: Run, cells: Sequence[Cell] = (), figures: Sequence[Path] = ()) -> str:
    """A self-contained HTML page of a simulation, of attacks on it, and of its figures."""
    title = _TITLES.get(run.scenario, run.scenario)
    return document(
        f"secagg: {title}",
        tag("h1", title),
        quick([cell.effort for cell in cells]),
        _verdict(run, cells),
        study(cells),
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
    held = f"All {len(run.claims)} comparisons hold."
    return tag("p", _came_of(cells), tag("strong", held))


def _came_of(cells: Sequence[Cell]) -> Html:
    """How many attacks were run, and what came of them, each verdict in its colour."""
    ran = [cell for cell in cells if cell.verdict != "n/a"]
    if not ran:
        return join()
    parts: list[Content] = ["1 attack was run" if len(ran) == 1 else f"{len(ran)} attacks were run"]
    for number, (said, cell) in enumerate({cell.said: cell for cell in ran}.items()):
        count = sum(other.said == said for other in ran)
        parts += [", " if number else ": ", f"{count} ", verdict(cell)]
    return join(tag("strong", *parts, "."), " ")


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
    parts: list[Content] = [tag("h2", "Attacks on this study"), legend(cells)]
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
    name = _CAPTIONS.get(path.stem, path.stem.replace("-", " "))
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
