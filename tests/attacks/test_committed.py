"""The committed run of the laboratory is one of today's catalogue, and so are the pages of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from attacks.test_report import Reader

from secagg.attacks import matrix as m
from secagg.attacks.catalogue import ATTACKS, load_scene
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import Verdict
from secagg.attacks.report import FIGURES, claims, figure_name, figures, threat_model
from support.browser import Browser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "threat-matrix.json"
#: Fewest attempts behind "nothing succeeded" of an attack that draws at random.
LEAST_TRIALS = 3000
#: Why fewer decide: nothing is drawn in what refuses them, or each attempt is a long experiment.
FEWER = {
    "sybils": "every threshold below the agreed one is refused by comparison",
    "key-substitution": "in Paillier sums the key is part of the plan, whose digest decides",
    "model-inconsistency": "in Paillier sums the context decides; in SecAgg+ 1,000 rounds of 12",
    "key-holder": "shares below the threshold, in every way that five holders have",
    "bad-modulus": "every kind of modulus of the catalogue, refused by its proof",
    "bad-decryption": "a proof of equality, of soundness error 2^-128, refuses",
    "missing-noise": "a variance over thousands of coordinates of each cohort",
    "timing": "an experiment of thousands of measurements",
    "quantiser": "a mean over 100,000 roundings",
}
#: The longest that a full run may take on two cores.
LONGEST = 3600.0


@pytest.fixture(scope="module")
def committed() -> m.Matrix:
    return m.load(RESULTS)


def test_it_is_a_full_run_of_every_attack_on_every_protocol(committed: m.Matrix) -> None:
    assert committed.effort == "full"
    assert committed.columns == dict(COLUMNS)
    assert [row.id for row in committed.rows] == list(ATTACKS)
    wanted = [(attack, column) for attack in ATTACKS for column in COLUMNS]
    assert [(cell.attack, cell.column) for cell in committed.cells] == wanted
    assert all((c.effort, c.seed) == ("full", committed.seed) for c in committed.cells)
    assert 0 < committed.seconds < LONGEST
    # Of a clean working copy: a run of changed files could not be repeated.
    assert len(committed.commit) == 12 and not committed.commit.endswith("+")


def test_every_cell_holds(committed: m.Matrix) -> None:
    assert [(c.attack, c.column, c.problems) for c in committed.failures] == []
    for cell in committed.cells:
        # What the file says of a cell is judged anew, not believed.
        if cell.verdict == Verdict.NOT_APPLICABLE:
            assert cell.finding is None and len(cell.reason) > 20
            continue
        assert cell.finding is not None, (cell.attack, cell.column)
        assert cell.finding.problems(Verdict(cell.expected)) == []
        assert cell.verdict == cell.finding.verdict
        assert cell.transcripts > 0 and len(cell.digest) == 64


def test_the_catalogue_is_that_of_today(committed: m.Matrix) -> None:
    assert committed.rows == m.rows_of()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_expected_verdicts_are_those_of_today(committed: m.Matrix, attack: str) -> None:
    for column, expected in load_scene(attack).expected.items():
        cell = committed.cell(attack, column)
        assert cell is not None
        if isinstance(expected, Verdict):
            assert cell.expected == expected, column
        else:
            assert (cell.expected, cell.reason) == (Verdict.NOT_APPLICABLE, expected), column


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_row_has_a_control_that_succeeds(committed: m.Matrix, attack: str) -> None:
    mine = [c.finding for c in committed.cells if c.attack == attack and c.finding is not None]
    assert mine
    won = [k for finding in mine for k in finding.controls if k.expected and k.successes]
    assert won, attack
    # Each names what it overrides: rules ("client.step-order") or one feature.
    for control in (k for finding in mine for k in finding.controls):
        assert control.overrides and all(control.overrides)


def test_what_is_called_prevented_was_tried_often_or_in_every_way(committed: m.Matrix) -> None:
    few = [
        (cell.attack, cell.column, cell.finding.trials)
        for cell in committed.cells
        if cell.finding is not None
        and cell.verdict == Verdict.PREVENTED
        and not cell.finding.exhaustive
        and cell.finding.trials < LEAST_TRIALS
    ]
    assert {attack for attack, _, _ in few} <= set(FEWER)


def test_what_leaks_says_how_much(committed: m.Matrix) -> None:
    """By successes, or by measures with an interval or beside a law."""
    for cell in committed.cells:
        if cell.finding is None or cell.verdict != Verdict.LEAKS:
            continue
        measured = any(k.low is not None or k.predicted is not None for k in cell.finding.measures)
        assert cell.finding.successes or measured, (cell.attack, cell.column)
        if cell.finding.bounded:
            assert measured, (cell.attack, cell.column)


def test_every_protocol_stops_something_and_none_everything(committed: m.Matrix) -> None:
    for column in COLUMNS:
        stopped = Counter(c.verdict for c in committed.cells if c.column == column)
        if column != "plain":
            assert stopped[Verdict.PREVENTED] > 0, column
        # No protocol stops everything, and the pages say so.
        assert stopped[Verdict.LEAKS] > 0, column


@pytest.mark.parametrize(
    ("name", "text"), [("threat-model.md", threat_model), ("claims.md", claims)]
)
def test_the_pages_are_made_of_it(committed: m.Matrix, name: str, text: object) -> None:
    made = text(committed, source="../benchmarks/results/threat-matrix.json")  # type: ignore[operator]
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run `make threat`"


def test_the_figures_are_there(committed: m.Matrix) -> None:
    names = {figure_name(attack) for attack in figures(committed)}
    found = {path.name for path in (ROOT / "docs" / FIGURES).glob("threat-*.svg")}
    assert found == names and "threat-sratta.svg" in names


@pytest.mark.slow
def test_the_quick_matrix_and_its_report(tmp_path: Path) -> None:
    """As people run it and look at it. One test, so that the matrix is run once."""
    code = "from secagg.cli import main; main()"
    words = ["attack", "matrix", "--quick", "--workers", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all as expected." in done.stdout
    found = m.load(tmp_path / m.RESULTS)
    assert found.effort == "quick" and found.holds
    assert len(found.cells) == len(ATTACKS) * len(COLUMNS) == 36 * 7
    assert found.rows == m.rows_of()
    path = tmp_path / "report.html"
    reader = Reader(path.read_text(encoding="utf-8"))
    assert reader.stack == [] and len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in reader.ids), link
    look_at(path, found)


def look_at(path: Path, found: m.Matrix) -> None:
    """Open the report in a browser: every cell, on a phone, and on paper."""
    with Browser() as browser:
        browser.open(path)
        table = "document.querySelector('table.matrix')"
        assert browser.run(f"{table}.querySelectorAll('tbody tr').length") == 36
        lines = f"[...{table}.querySelectorAll('tbody tr')]"
        assert browser.run(f"{lines}.every(r => r.querySelectorAll('td a').length == 7)")
        for cell in found.cells:
            place = f"{cell.attack}.{cell.column}"
            link = f"{table}.querySelector('a[href=\"#{place}\"]')"
            beyond = cell.finding is not None and cell.finding.beyond
            assert browser.run(f"{link}.textContent") == cell.said + (" †" if beyond else "")
            assert not browser.run(f"document.getElementById('{place}').open")
            browser.run(f"{link}.click()")
            browser.wait(f"document.getElementById('{place}').open")
            text = browser.run(f"document.getElementById('{place}').innerText")
            wanted = ("Tried", "Seen") if cell.finding is not None else (cell.reason,)
            assert all(part in text for part in wanted), place
            # A second click on its own line closes it.
            browser.run(f"document.getElementById('{place}').querySelector('summary').click()")
            browser.wait(f"!document.getElementById('{place}').open")
        assert browser.run(
            "document.querySelectorAll('img').length > 20 && "
            "[...document.querySelectorAll('img')].every(i => i.alt.length > 5)"
        )
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.wait(
            "[...document.querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 50)"
        )
        for width in (390, 1200):
            browser.open(path, width=width)
            browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert browser.run("document.documentElement.scrollWidth") <= width
        browser.open(path)
        assert browser.pdf().startswith(b"%PDF")
        assert (
            browser.run("document.querySelectorAll('details:not([open]):not(.is-na)').length") == 0
        )
        assert browser.errors == []
