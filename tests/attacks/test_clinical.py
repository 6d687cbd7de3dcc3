"""Attacks within `simulate`: on the protocol of the study, against its data, in its report."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from attacks.test_report import Reader
from typer.testing import CliRunner

from secagg.attacks import clinical
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import Cell, here
from secagg.attacks.scenes.aggregate import SparseCoordinatesScene
from secagg.cli.app import app
from secagg.sim import scenarios
from secagg.sim.scenarios import Run
from secagg.sim.settings import PaillierSettings, Settings
from secagg_protocols.errors import MisuseError
from secagg_protocols.paillier import PrivateKey, modulus_proof
from support.browser import Browser
from support.paillier_keys import primes, short_keys

__all__ = ["short_keys"]

runner = CliRunner()
ID = "sparse-coordinates"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Defaults write under the current folder, and attacks run in this process."""
    monkeypatch.chdir(tmp_path)

    def run(attack: str, column: str, **options: Any) -> Cell:
        return here(attack, column, separate=False, **options)

    monkeypatch.setattr(clinical, "here", run)
    return tmp_path


def simulate(*args: object, code: int = 0, columns: int = 100) -> Any:
    words = ["simulate", *(str(arg) for arg in args)]
    result = runner.invoke(app, words, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def random(*args: object, code: int = 0) -> Any:
    fixed = ("random", "--sites", 6, "--length", 40, "--no-figures")
    return simulate(*fixed, *args, code=code)


def study(threat: str = "semi-honest", sites: int = 6, **settings: Any) -> Run:
    made = Settings(threat=cast(Any, threat), **settings)
    return scenarios.run_random(made, sites=sites, length=40)


def test_the_column_is_the_protocol_of_the_study() -> None:
    assert clinical.column_of(study()) == "semi-honest"
    assert clinical.column_of(study("malicious-server")) == "malicious-server"
    many = study(sites=70, colluding=5, max_dropouts=5, neighbours=40)
    assert clinical.column_of(many) == "sparse"
    # As many neighbours as there are others is the complete graph.
    assert clinical.column_of(study(sites=7, neighbours=6)) == "semi-honest"


@pytest.mark.usefixtures("short_keys")
@pytest.mark.parametrize(("holders", "column"), [(1, "paillier-one"), (3, "paillier-threshold")])
@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_the_column_of_a_paillier_study(holders: int, column: str, threat: str) -> None:
    p, q = primes(1024)
    key = PrivateKey(p, q, proof=modulus_proof.prove(p, q))
    made = study(threat, sites=4, paillier=PaillierSettings(key=key, holders=holders))
    assert clinical.column_of(made) == column
    assert clinical.study_of(made).take(4, 40, 1 << 16).shape == (4, 40)


def vectors(run: Run) -> np.ndarray[Any, Any]:
    """What the sites of a random study put in, from its seed."""
    made = scenarios.random_vectors(run.settings.seed, 1, run.secure.roster.names, 40, 16)
    return np.stack([made[name] for name in run.secure.roster.names])


def test_the_source_gives_the_integers_of_the_sites() -> None:
    run = study(seed=5)
    own = vectors(run)
    most = int(own.max())
    source = clinical.study_of(run).take
    assert source(6, 40, most).tolist() == own.tolist()
    assert source(6, 40, most).dtype == np.int64
    # Fewer sites and coordinates are the first of them.
    assert source(4, 7, most).tolist() == own[:4, :7].tolist()
    # More are the same again; larger values than the scene can sum are reduced into its range.
    more = source(8, 90, 99)
    for i in range(8):
        expected = [int(own[i % 6][j % 40]) % 100 for j in range(90)]
        assert more[i].tolist() == expected
    other = clinical.study_of(study(seed=6)).take(6, 40, most)
    assert other.tolist() != own.tolist()


def test_a_study_without_rounds_has_no_data() -> None:
    empty = SimpleNamespace(secure=SimpleNamespace(sight=SimpleNamespace(glimpses=[])))
    with pytest.raises(MisuseError) as caught:
        clinical.study_of(cast(Run, empty))
    assert caught.value.rule == "attack-study"


def test_the_attack_is_run_on_the_data_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    run = study(seed=3)
    asked: list[np.ndarray[Any, Any]] = []
    real = SparseCoordinatesScene.investigate

    def watched(self: Any, lab: Any, column: str) -> Any:
        asked.append(lab.inputs(6, 40, 1 << 16))
        return real(self, lab, column)

    monkeypatch.setattr(SparseCoordinatesScene, "investigate", watched)
    cell = clinical.attack_run(run, ID, seed=3)
    assert (cell.column, cell.verdict, cell.effort, cell.seed) == (
        "semi-honest",
        "leaks",
        "quick",
        3,
    )
    assert cell.holds and asked[0].tolist() == vectors(run).tolist()


def test_attacks_are_told_and_in_the_report(elsewhere: Path) -> None:
    shown = random("--attack", ID, "--attack", ID, "--seed", 4, "--report")
    assert shown.stdout.count(f"Attack {ID}") == 1
    assert "Tried:" in shown.stdout and "attempts succeeded" in " ".join(shown.stdout.split())
    folder = elsewhere / "demo-output" / "random"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    assert "report.html" in shown.stdout
    (cell,) = json.loads((folder / "report.json").read_text())["attacks"]
    assert (cell["attack"], cell["column"]) == (ID, "malicious-server")
    assert (cell["verdict"], cell["seed"], cell["problems"]) == ("leaks", 4, [])


def test_json_has_the_attacks_and_nothing_else_is_printed(elsewhere: Path) -> None:
    result = random("--json", "--attack", ID, "--attack", "membership", "--threat", "semi-honest")
    data = json.loads(result.stdout)
    assert [cell["attack"] for cell in data["attacks"]] == [ID, "membership"]
    assert {cell["column"] for cell in data["attacks"]} == {"semi-honest"}
    assert result.stderr == ""
    assert "attacks" not in json.loads(random("--json").stdout)
    assert not (elsewhere / "demo-output" / "random" / "report.html").exists()


@pytest.mark.parametrize("scenario", ["random", "survival", "training"])
def test_an_unknown_attack_is_refused_before_the_study_runs(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("the study was run")

    monkeypatch.setattr(scenarios, f"run_{scenario}", unwanted)
    result = simulate(scenario, "--attack", ID, "--attack", "no-such-attack", code=2)
    assert "[attack-id]" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(elsewhere.iterdir()) == []


def test_an_attack_that_is_not_as_expected_ends_with_4(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = dict(SparseCoordinatesScene.expected) | {"malicious-server": Verdict.PREVENTED}
    monkeypatch.setattr(SparseCoordinatesScene, "expected", wanted)
    result = random("--attack", ID, "--report", code=4)
    assert f"attack {ID}: verdict leaks, expected prevented" in result.stderr
    text = (elsewhere / "demo-output" / "random" / "report.html").read_text()
    assert "Not as expected" in text and "expected prevented" in text


def test_an_attack_that_does_not_apply_says_why(elsewhere: Path) -> None:
    result = random("--attack", "key-holder", "--threat", "semi-honest", "--report")
    assert "Attack key-holder" in result.stdout
    text = (elsewhere / "demo-output" / "random" / "report.html").read_text()
    (cell,) = json.loads((elsewhere / "demo-output" / "random" / "report.json").read_text())[
        "attacks"
    ]
    assert cell["verdict"] == "n/a" and len(cell["reason"]) > 20
    shown = " ".join(result.stdout.split())
    assert cell["reason"] in shown and escape(cell["reason"]) in text


def check_page(path: Path, *parts: str) -> None:
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.stack == [] and len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in reader.ids), link
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert "http" not in re.sub(r'content="default-src[^"]*"|http-equiv', "", text)
    for part in parts:
        assert part in text, part


def test_the_page_of_a_study_is_whole(elsewhere: Path) -> None:
    random("--attack", ID, "--report", "--out", "there", "--drop", "input:site-1")
    check_page(
        elsewhere / "there" / "report.html",
        "Sums of random vectors", "Attacks on this study", f'id="{ID}.malicious-server"',
        "What the study does", "Who sees what", "What this run shows", "Round by round",
        "site-1", "1 attack was run",
    )  # fmt: skip
    random("--report", "--out", "bare")
    check_page(elsewhere / "bare" / "report.html", "comparisons hold.")
    assert "Attacks on this study" not in (elsewhere / "bare" / "report.html").read_text()


@pytest.mark.slow
def test_a_browser_shows_a_survival_analysis_and_its_attack(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As people run it: the attack in a process of its own.
    monkeypatch.setattr(clinical, "here", here)
    simulate("survival", "--attack", ID, "--attack", "key-holder", "--report", "--out", "there")
    path = elsewhere / "there" / "report.html"
    place = f"{ID}.malicious-server"
    check_page(path, "A survival analysis over 18 hospitals", f'id="{place}"')
    with Browser() as browser:
        browser.open(path)
        images = "[...document.querySelectorAll('figure img')]"
        browser.wait(f"{images}.length >= 2 && {images}.every(i => i.complete)")
        browser.run(f"document.getElementById('{place}').querySelector('summary').click()")
        browser.wait(f"document.getElementById('{place}').open")
        assert browser.run(f"document.getElementById('{place}').innerText.includes('Tried')")
        for width in (360, 390, 1200):
            browser.open(path, width=width)
            browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.pdf().startswith(b"%PDF")
        assert browser.errors == []


@pytest.mark.slow
def test_a_training_with_noise_is_the_noise_column(elsewhere: Path) -> None:
    result = simulate(
        "training", "--epsilon", 8, "--rounds", 2, "--sites", 10, "--threat", "semi-honest",
        "--attack", ID, "--report", "--json", "--no-figures", "--out", "there",
    )  # fmt: skip
    (cell,) = json.loads(result.stdout)["attacks"]
    assert (cell["column"], cell["problems"]) == ("noise", [])
    check_page(elsewhere / "there" / "report.html", f'id="{ID}.noise"')
