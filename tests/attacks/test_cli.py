"""`secagg attack`: what is shown, what is refused, and the exit code of every ending."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from secagg.attacks import matrix as m
from secagg.attacks.catalogue import ATTACKS
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import Cell, here
from secagg.attacks.report import claims, page, threat_model
from secagg.attacks.rulebook import Row, RuleBook
from secagg.attacks.scenes.aggregate import SparseCoordinatesScene
from secagg.cli.app import app

runner = CliRunner()
FIRST, SECOND = "sparse-coordinates", "membership"
TWO = ("--protocol", "plain", "--protocol", "semi-honest")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Defaults write under the current folder, and cells run in this process at one commit."""
    monkeypatch.chdir(tmp_path)

    def run(attack: str, column: str, **options: Any) -> Cell:
        return here(attack, column, separate=False, **options)

    monkeypatch.setattr(m, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(m, "here", run)
    monkeypatch.setattr(m, "_commit", lambda: "abc")
    return tmp_path


def attack(*args: object, code: int = 0, columns: int = 100) -> Any:
    words = ["attack", *(str(arg) for arg in args)]
    result = runner.invoke(app, words, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def plain(text: str) -> str:
    """The text without its line breaks and frames, so that folded words are whole again."""
    return "".join(text.split())


def saved(path: Path, *, wrong: bool = False) -> m.Matrix:
    """A run in a file; ``wrong``: one cell has a verdict that was not expected."""
    found = m.run_matrix(attacks=[FIRST, SECOND], columns=["plain", "semi-honest"])
    if wrong:
        bad = msgspec.structs.replace(
            found.cells[1], expected="prevented", problems=["verdict leaks, expected prevented"]
        )
        found = msgspec.structs.replace(found, cells=[found.cells[0], bad, *found.cells[2:]])
    m.save(found, path)
    return found


@pytest.mark.parametrize("columns", [60, 100])
def test_list_names_every_attack_and_protocol(columns: int) -> None:
    result = attack("list", columns=columns)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    for name in (*ATTACKS, *COLUMNS):
        # In one piece, since it is what people type.
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", result.stdout), name
    assert "secagg attack run ID" in result.stdout


def test_no_text_of_the_list_is_lost_in_a_wide_window() -> None:
    shown = plain(attack("list", columns=400).stdout)
    for row in m.rows_of():
        for text in (row.title, row.adversary, row.source):
            assert plain(text) in shown, text


def test_list_as_json() -> None:
    data = json.loads(attack("list", "--json").stdout)
    assert [row["id"] for row in data["attacks"]] == list(ATTACKS)
    assert [row["number"] for row in data["attacks"]] == list(range(1, 37))
    assert data["attacks"] == json.loads(msgspec.json.encode(m.rows_of()))
    assert data["protocols"] == dict(COLUMNS)


@cache
def noisy() -> Cell:
    """A cell with measures, laws and a control."""
    return here(SECOND, "noise", separate=False)


@pytest.mark.parametrize("columns", [60, 100])
def test_run_tells_what_was_tried_and_seen(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(m, "here", lambda *_, **__: noisy())
    result = attack("run", SECOND, "--quick", "--protocol", "noise", columns=columns)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    shown = plain(result.stdout)
    (row,) = m.rows_of([SECOND])
    cell = noisy()
    assert cell.finding is not None
    texts = [row.title, row.source, row.adversary, row.sees, row.law, row.remedy]
    texts += [cell.finding.tried, cell.finding.seen, cell.digest[:16], COLUMNS["noise"]]
    texts += [measure.name for measure in cell.finding.measures]
    texts += [f"control without {', '.join(c.overrides)}" for c in cell.finding.controls]
    for text in texts:
        assert plain(text) in shown, text
    assert "99%" in shown and "predicted" in shown


def test_run_as_json_repeats_with_its_seed() -> None:
    args = ("run", FIRST, "--quick", "--json", "--protocol", "plain", "--seed")
    first, again, other = (json.loads(attack(*args, seed).stdout) for seed in (4, 4, 5))
    assert first["seed"] == 4 and first["effort"] == "quick"
    for data in (first, again, other):
        assert [c["column"] for c in data["cells"]] == ["plain"]
        assert data["versions"]["secagg"]
    digests = [data["cells"][0]["digest"] for data in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert first["cells"][0]["finding"] == again["cells"][0]["finding"]


def test_run_on_every_protocol_that_is_named_and_once_each(elsewhere: Path) -> None:
    args = (*TWO, "--protocol", "plain", "--report", "made.html")
    result = attack("run", FIRST, "--quick", *args)
    assert result.stdout.count("Tried:") == 2
    assert "Report: made.html" in result.stdout
    text = (elsewhere / "made.html").read_text()
    assert f'id="{FIRST}.plain"' in text and f'id="{FIRST}.semi-honest"' in text
    assert [path.name for path in elsewhere.iterdir()] == ["made.html"]


@pytest.mark.parametrize(
    ("args", "rule"),
    [
        (("run", "no-such-attack"), "attack-id"),
        (("run", FIRST, "--protocol", "tls"), "attack-column"),
        (("run", FIRST, "--report", "."), "output-file"),
        (("run", FIRST, "--report", "absent/report.html"), "output-file"),
        (("matrix", "--only", "no-such-attack"), "attack-id"),
        (("matrix", "--only", FIRST, "--only", "x"), "attack-id"),
        (("matrix", "--protocol", "tls"), "attack-column"),
        (("matrix", "--out", "file"), "output-file"),
        (("report", "file"), "attack-results"),
        (("report", "good.json", "--out", "."), "output-file"),
        (("report", "good.json", "--out", "absent/report.html"), "output-file"),
        (("report", "good.json", "--pages", "absent"), "output-file"),
        (("report", "good.json", "--pages", "file"), "output-file"),
    ],
)
def test_refusals_are_one_line_and_nothing_is_run(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], rule: str
) -> None:
    (elsewhere / "file").write_text("something")
    if "good.json" in args:
        saved(elsewhere / "good.json")
    before = sorted(path.name for path in elsewhere.iterdir())

    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("a cell was run")

    monkeypatch.setattr(m, "here", unwanted)
    result = attack(*args, code=2)
    assert f"[{rule}]" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert sorted(path.name for path in elsewhere.iterdir()) == before


@pytest.mark.parametrize(
    "args", [("run", FIRST, "--seed", -1), ("matrix", "--workers", 0), ("report", "absent.json")]
)
def test_bad_numbers_and_absent_files(args: tuple[object, ...]) -> None:
    assert attack(*args, code=2).stdout == ""


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_matrix_shows_every_verdict_and_leaves_its_files(elsewhere: Path, columns: int) -> None:
    args = ("matrix", "--quick", "--only", FIRST, "--only", SECOND, *TWO, "--out", "there")
    result = attack(*args, columns=columns)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    assert f"{FIRST}  " in result.stdout and f"{SECOND}  " in result.stdout
    assert "4 leaks; all as expected." in " ".join(result.stdout.split())
    assert "there/matrix.json" in result.stdout and "there/report.html" in result.stdout
    found = m.load(elsewhere / "there" / "matrix.json")
    assert found.holds and len(found.cells) == 4
    assert (elsewhere / "there" / "report.html").read_text() == page(found)
    assert sorted(path.name for path in (elsewhere / "there").iterdir()) == [
        "cells", "matrix.json", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_a_whole_matrix_keeps_every_verdict_readable(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """All protocols beside each other, each verdict in one piece, and no name of an attack cut."""
    verdicts = ["prevented", "detected", "leaks", "corrupts", "n/a", "failed", "prevented"]

    def made(name: str, column: str, **options: Any) -> Cell:
        verdict = verdicts[list(COLUMNS).index(column)]
        problems = ["x"] if verdict == "failed" else []
        return Cell(
            attack=name, column=column, effort="quick", seed=0, expected=verdict,
            verdict=verdict, problems=problems,
        )  # fmt: skip

    monkeypatch.setattr(m, "here", made)
    only = ["--only", "understated-sensitivity", "--only", FIRST]
    shown = attack("matrix", "--quick", *only, "--out", "x", code=4, columns=columns).stdout
    assert max(len(line) for line in shown.splitlines()) <= columns
    for name in ("understated-sensitivity", FIRST):
        (line,) = [line for line in shown.splitlines() if name in line]
        words = line.split()[2:]
        narrow = ["P", "D", "L", "C", "-", "FAIL", "!", "P"]
        wide = ["prevented", "detected", "leaks", "corrupts", "-", "FAILED", "!", "prevented"]
        assert words == (wide if columns >= 160 else words) and words in (narrow, wide)
    for title in (*COLUMNS, "prevented", "detected", "leaks", "corrupts"):
        assert plain(title) in plain(shown)


def test_matrix_as_json_is_the_file(elsewhere: Path) -> None:
    result = attack("matrix", "--quick", "--only", FIRST, *TWO, "--json", "--seed", 2)
    data = json.loads(result.stdout)
    assert data == json.loads((elsewhere / "attack-output" / "matrix.json").read_text())
    assert data["seed"] == 2 and data["commit"] == "abc"
    assert str(elsewhere) not in result.stdout


def test_an_interrupted_matrix_goes_on(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("matrix", "--quick", "--only", FIRST, "--only", SECOND, *TWO)
    put = m._Kept.put

    def interrupt(self: Any, cell: Cell) -> None:
        put(self, cell)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m._Kept, "put", interrupt)
        assert attack(*args, code=130).stderr.strip().endswith("interrupted")
    folder = elsewhere / "attack-output"
    assert sorted(path.name for path in folder.iterdir()) == ["cells"]
    assert [path.name for path in (folder / "cells").iterdir()] == [f"{FIRST}.plain.json"]
    result = attack(*args)
    assert "kept from a run before: 1 cell\n" in result.stderr
    assert len(m.load(folder / "matrix.json").cells) == 4


def test_a_verdict_that_differs_ends_with_4_and_is_in_the_report(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = dict(SparseCoordinatesScene.expected) | {"plain": Verdict.PREVENTED}
    monkeypatch.setattr(SparseCoordinatesScene, "expected", wanted)
    for args in (("run", FIRST), ("matrix", "--only", FIRST)):
        result = attack(*args, "--quick", *TWO, code=4)
        assert f"{FIRST} on plain: verdict leaks, expected prevented" in result.stderr
        assert "semi-honest" not in result.stderr.replace("on semi-honest", "semi-honest")
        assert "NOT as expected" in result.stdout
    text = (elsewhere / "attack-output" / "report.html").read_text()
    assert "did NOT come out as expected" in text
    data = json.loads(attack("run", FIRST, "--quick", "--json", *TWO, code=4).stdout)
    assert [bool(c["problems"]) for c in data["cells"]] == [True, False]


def test_a_failed_cell_is_told_while_it_runs_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: object, lab: object, column: str) -> None:
        raise RuntimeError("no [such] place")  # brackets are no markup

    monkeypatch.setattr(SparseCoordinatesScene, "investigate", broken)
    result = attack("run", FIRST, "--quick", "--protocol", "plain", code=4, columns=200)
    assert result.stderr.count("RuntimeError: no [such] place") == 2
    assert "FAILED !" in result.stdout and "RuntimeError: no [such] place" in result.stdout


def test_report_of_a_saved_run(elsewhere: Path) -> None:
    found = saved(elsewhere / "run.json")
    (elsewhere / "docs").mkdir()
    shown = attack("report", "run.json", "--out", "r.html", "--pages", "docs").stdout
    assert all(name in shown for name in ("r.html", "docs/threat-model.md", "docs/claims.md"))
    assert (elsewhere / "r.html").read_text() == page(found)
    for name, text in (("threat-model.md", threat_model), ("claims.md", claims)):
        assert (elsewhere / "docs" / name).read_text() == text(found, source="../run.json")


def test_report_of_a_run_that_is_not_as_expected_is_written_and_ends_with_4(
    elsewhere: Path,
) -> None:
    found = saved(elsewhere / "run.json", wrong=True)
    result = attack("report", "run.json", code=4)
    assert f"{FIRST} on semi-honest: verdict leaks, expected prevented" in result.stderr
    assert (elsewhere / "report.html").read_text() == page(found)


BOOK = RuleBook(
    rows=(
        Row("masked sum", "client", "step-order", "Client", "a step asked for twice",
            ("step-order",), (), ()),
        Row("masked sum", "client", "one-list", "Client", "two lists", ("one-list",), ("roster",),
            ("roster",)),
    ),
    left_out=(("notes", "no class of its own"),),
)  # fmt: skip
BAD = RuleBook(
    rows=(*BOOK.rows, Row("masked sum", "server", "fresh-keys", "Server", "copied keys",
                          (), (), (), "the attack was refused by no rule"))
)  # fmt: skip


@pytest.mark.parametrize("columns", [60, 100])
def test_rules_are_shown_with_what_stopped_each(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("secagg.attacks.rulebook.play_rules", lambda step: BOOK)
    result = attack("rules", columns=columns)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    shown = plain(result.stdout)
    for text in ("step-order", "one-list", "goes through", "met roster", "2 of 2 rules",
                 "Not played: notes: no class of its own"):  # fmt: skip
        assert plain(text) in shown, text
    assert json.loads(attack("rules", "--json").stdout) == json.loads(json.dumps(BOOK.to_dict()))


def test_a_rule_that_does_not_hold_ends_with_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.attacks.rulebook.play_rules", lambda step: BAD)
    result = attack("rules", code=4)
    assert "masked sum, Server, fresh-keys: the attack was refused by no rule" in result.stderr
    assert "2 of 3 rules" in result.stdout
    assert not json.loads(attack("rules", "--json", code=4).stdout)["holds"]


@pytest.mark.slow
def test_every_rule_of_every_table_holds() -> None:
    data = json.loads(attack("rules", "--json").stdout)
    assert data["holds"] and data["held"] == data["rules"] >= 100
    assert all(row["holds"] for row in data["rows"])
