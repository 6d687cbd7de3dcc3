"""``simulate training --epsilon``: its report, its table, its figure and its refusals."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from secagg import MisuseError, PlanError
from secagg.cli.app import app
from secagg.cli.common import exit_code
from secagg_protocols.stages import Noise

runner = CliRunner()
SMALL = ("--rounds", 2, "--sites", 10, "--threat", "semi-honest")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Defaults write under the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*args, code=0, columns=100):
    args = ["simulate", "training", *(str(arg) for arg in args)]
    result = runner.invoke(app, args, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_two_epsilons_beside_no_noise(elsewhere):
    two = ["--epsilon", 2, "--epsilon", 8, "--delta", 1e-6, *SMALL]
    assert "no site 'site-3'" in train(*two, "--drop", "2/input:site-3", code=2).stderr
    shown = train(*two, "--drop", "2/input:site-03")
    for part in (
        "epsilon-2-1", "epsilon 8: AUC after round 2 (9 sites)", "spent by the ledgers", "1e-06",
        "zero-out", "discrete-gaussian", "bits a coordinate", "L2 clip of an update",
        "no site spent more than its budget", "WARNING, epsilon 2", "training-privacy.png",
        "within noise and rounding", "The trainings are alternatives",
    ):  # fmt: skip
        assert part in " ".join(shown.stdout.split()), part
    folder = elsewhere / "demo-output" / "training"
    assert (folder / "training-privacy.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / "report.json").read_text())
    assert report["holds"]
    assert len(report["claims"]) == 6
    assert report["schedule"] == {f"epsilon-{e}-2": {"input": ["site-03"]} for e in (2, 8)}
    assert report["unused_rounds_of_the_schedule"] == []
    for made, epsilon in zip(report["result"]["trainings"], (2, 8), strict=True):
        assert made["epsilon"] == epsilon
        assert 0.99 * epsilon < made["epsilon_spent"] <= epsilon
        assert [len(entry["survivors"]) for entry in made["rounds"]] == [10, 9]
        assert 0.5 < made["auc_without"] <= 1
        assert all(entry["error"] <= entry["allowed_gap"] for entry in made["rounds"])


def test_json_and_options(elsewhere):
    text = train(
        "--epsilon", 8, "--clip", 0.5, "--adjacency", "replace-one", "--mechanism", "skellam",
        "--json", "--no-figures", "--out", "there", *SMALL,
    ).stdout  # fmt: skip
    report = json.loads(text)
    assert report == json.loads((elsewhere / "there" / "report.json").read_text())
    (made,) = report["result"]["trainings"]
    asked = (made["clip"], made["adjacency"], made["mechanism"], made["delta"])
    assert asked == (0.5, "replace-one", "skellam", 1e-5)
    assert [path.name for path in (elsewhere / "there").iterdir()] == ["report.json"]


def test_without_epsilon_all_is_as_before():
    report = json.loads(train("--rounds", 1, "--json", "--no-figures").stdout)
    assert [entry["label"] for entry in report["rounds"]] == ["moments", "training-1"]
    assert report["rounds"][0]["sites"] == 10
    assert "trainings" not in report["result"]
    assert report["reference"]["gap"] <= 0.002


def test_transcripts_of_noisy_rounds_verify(elsewhere):
    train("--epsilon", 8, "--no-figures", "--transcripts", "t", *SMALL)
    paths = sorted(str(path) for path in (elsewhere / "t").iterdir())
    assert len(paths) == 11
    result = runner.invoke(app, ["verify", *paths, "--json"])
    verdict = json.loads(result.stdout)
    assert verdict["convictions"] == []
    assert [entry["replay"] for entry in verdict["rounds"] if entry["result"]] == ["confirmed"] * 2


def test_a_build_without_noise_is_a_mismatch(monkeypatch):
    monkeypatch.setattr(Noise, "begin", lambda self, x, rand, given: x)
    result = train("--epsilon", 8, "--no-figures", "--rounds", 4, *SMALL[2:], code=4)
    assert "variance that the plan says" in result.stderr


def code_of(rule):
    return int(exit_code(PlanError("", rule=rule, field="x")))


@pytest.mark.parametrize(
    ("args", "rule"),
    [
        (["--epsilon", 0], "dp-target"),
        (["--epsilon", -1], "dp-target"),
        (["--epsilon", "nan"], "dp-target"),
        (["--epsilon", 8, "--epsilon", "inf"], "dp-target"),
        (["--epsilon", 8, "--delta", 1], "dp-target"),
        (["--epsilon", 8, "--delta", 0], "dp-target"),
        (["--epsilon", 8, "--clip", 0], "clip-range"),
        (["--epsilon", 8, "--clip", "nan"], "clip-range"),
        (["--epsilon", 8, "--mechanism", "central-discrete-gaussian"], "noise-central"),
        (["--epsilon", 8, "--sites", 3], "honest-survivors"),
    ],
)
def test_what_no_plan_can_be_is_one_line_and_an_exit_code(elsewhere, args, rule):
    result = train(*args, "--no-figures", code=code_of(rule))
    assert code_of(rule) in (2, 3)
    assert f"[{rule}]" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "args",
    [["--delta", 1e-5], ["--clip", 1], ["--adjacency", "zero-out"], ["--mechanism", "skellam"]],
)
def test_options_of_the_noise_go_with_epsilon(args):
    result = train(*args, code=int(exit_code(MisuseError("", rule="arguments"))))
    assert f"{args[0]} goes with --epsilon" in result.stderr


@pytest.mark.parametrize("args", [["--adjacency", "add-one"], ["--mechanism", "laplace"]])
def test_unknown_names_are_bad_usage(args):
    assert args[1] in train("--epsilon", 8, *args, code=2).stderr


def test_epsilon_that_is_no_number_is_bad_usage():
    train("--epsilon", "much", code=2)
