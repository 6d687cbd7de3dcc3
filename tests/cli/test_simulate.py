"""simulate and demo: small runs, their reports, and the exit code of every ending."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app
from secagg.sim import scenarios, survival, training

runner = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Defaults write under the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args, code=0, columns=100):
    args = [str(arg) for arg in args]
    result = runner.invoke(app, args, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code not in (0, 2):
        assert len(result.stderr.strip().splitlines()) == 1
    return result


def random(*args, code=0):
    return run("simulate", "random", "--length", 200, "--no-figures", *args, code=code)


def report(*args):
    return json.loads(random("--json", *args).stdout)


def test_random_tells_the_whole_story(elsewhere):
    result = run(
        "simulate", "random", "--length", 700, "--rounds", 2,
        "--drop", "input:site-1,site-2", "--drop", "2/reveal:site-3",
    )  # fmt: skip
    for part in (
        "Round round-1: 700 coordinates", "1 advertise", "5 reveal", "site-1, site-2",
        "In the sum: 8 sites", "equals the plain sum exactly", "All rounds", "secure sum",
        "What the server saw", "masked word", "chi-square", "true values (control)",
        "not uniform", "What this run shows", "seconds", "wrote",
    ):  # fmt: skip
        assert part.lower() in result.stdout.lower(), part
    folder = elsewhere / "demo-output" / "random"
    assert (folder / "masked-words.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((folder / "report.json").read_text())
    assert data["holds"]
    assert [len(r["survivors"]) for r in data["rounds"]] == [8, 10]
    assert data["rounds"][0]["dropped"] == {"site-1": "input", "site-2": "input"}
    assert data["rounds"][1]["left"] == {"site-3": "reveal"}
    assert str(elsewhere) not in json.dumps(data)


def test_json_is_json_and_nothing_else(elsewhere):
    data = report("--out", "there")
    assert data["scenario"] == "random"
    assert data["server_saw"]["masked_bytes"]["p_value"] > 1e-9
    assert data["server_saw"]["control_true_bytes"]["p_value"] < 1e-9
    assert data == json.loads((elsewhere / "there" / "report.json").read_text())
    assert [path.name for path in (elsewhere / "there").iterdir()] == ["report.json"]


def test_seed_repeats_data_and_schedule_and_not_masks():
    args = ["--seed", 4, "--drop-rate", 0.15, "--sites", 12, "--rounds", 3]
    first, again, other = report(*args), report(*args), report(*args[2:], "--seed", 5)
    assert first["schedule"] == again["schedule"] != other["schedule"]
    assert first["schedule"]
    survivors = [[r["survivors"] for r in data["rounds"]] for data in (first, again)]
    assert survivors[0] == survivors[1]
    seen, same, new = (data["server_saw"]["example"] for data in (first, again, other))
    assert seen["true_values"] == same["true_values"] != new["true_values"]
    assert seen["masked_words"] != same["masked_words"]
    assert [r["plan"] for r in first["rounds"]] != [r["plan"] for r in again["rounds"]]


def test_schedule_file(elsewhere):
    path = elsewhere / "drops.toml"
    path.write_text('[1]\nshare = ["site-0"]\n[round-2]\ninput = ["site-1"]\n')
    data = report("--schedule", path, "--rounds", 2, "--drop", "round-2/advertise:site-9")
    assert data["rounds"][0]["dropped"] == {"site-0": "share"}
    assert data["rounds"][1]["dropped"] == {"site-1": "input", "site-9": "advertise"}


def test_threats_and_graphs():
    data = report("--threat", "semi-honest")
    steps = [step["step"] for step in data["rounds"][0]["steps"]]
    assert steps == ["advertise", "share", "input", "reveal"]
    sparse = report(
        "--sites", 70, "--threat", "semi-honest", "--neighbours", 40, "--colluding", 5,
        "--max-dropouts", 5, "--drop", "input:site-01,site-02",
    )  # fmt: skip
    assert sparse["rounds"][0]["neighbours"] == 40
    assert len(sparse["rounds"][0]["survivors"]) == 68


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--drop", "foo"], 2, "drop-schedule"),
        (["--drop", "input:nobody"], 2, "no site 'nobody'"),
        (["--drop", "9/input:site-1"], 2, "no round '9'"),
        (["--schedule", "absent.toml"], 2, "absent.toml"),
        (["--sites", 1], 2, "sites"),
        (["--bits", 60], 2, "bits"),
        (["--drop-rate", 2], 2, "drop-rate"),
        (["--threat", "none"], 2, "threat"),
        (["--seed", -1], 2, "seed"),
        (["--sites", 3], 3, "honest-survivors"),
        (["--neighbours", 4], 3, "sparse"),
        (["--max-dropouts", 6], 3, "hint:"),
        (["--colluding", 9], 3, "hint:"),
        (["--drop", "input:site-1,site-2,site-3,site-4"], 5, "too few sites"),
        (["--drop-rate", 1], 5, "too few sites"),
        (["--drop", "advertise:site-1,site-2,site-3,site-4", "--threat", "semi-honest"], 5, "few"),
    ],
)
def test_bad_input_and_bad_ends(args, code, text):
    assert text in random(*args, code=code).stderr


def test_an_aborted_round_shows_how_far_it_came():
    args = ["--drop", "input:site-1,site-2,site-3,site-4"]
    result = random(*args, code=5)
    assert "Aborted" in result.stdout
    assert "3 input" in result.stdout
    assert "--max-dropouts" in result.stderr
    data = json.loads(random(*args, "--json", code=5).stdout)
    assert "too few" in data["aborted"]
    assert data["rounds"][0]["aborted"]


def test_a_failed_comparison_is_exit_code_4(monkeypatch):
    real = scenarios.reference_sum
    monkeypatch.setattr(scenarios, "reference_sum", lambda *a: real(*a) + 1)
    result = random(code=4)
    assert "a comparison failed: the sum equals" in result.stderr
    assert "✗" in result.stdout
    assert json.loads(random("--json", code=4).stdout)["holds"] is False


def test_a_peer_at_fault_is_exit_code_5(monkeypatch):
    def cheated(*_, **__):
        raise secagg.PeerError("bad shares", rule="decoded", suspects=("site-1", "site-2"))

    monkeypatch.setattr("secagg.api.aggregate", cheated)
    text = random(code=5).stderr
    assert "round aborted: bad shares [decoded]; suspects: site-1, site-2" in text


def test_a_missing_extra_is_named(monkeypatch):
    def absent(*_):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(training, "load_training", absent)
    assert "pip install 'secagg[demo]'" in run("simulate", "training", code=2).stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--integers", -5, 300],
        ["--clip", 3, "--levels", 1000, "--max-weight", 50, "--threat", "semi-honest"],
        ["--clip", 2, "--norm", "l2", "--fixed-data"],
    ],
)
def test_a_plan_of_ones_own(elsewhere, options):
    run("plan", "-n", 8, "--dropout", 2, "--length", 300, *options, "--toml", "p.toml")
    args = ["--rounds", 2, "--drop", "input:site-1", "--no-figures", "--json"]
    data = json.loads(run("simulate", "plan", "p.toml", *args).stdout)
    assert data["holds"]
    later = 7 if "--fixed-data" in options else 8
    assert [len(r["survivors"]) for r in data["rounds"]] == [7, later]
    assert all(r["error"] <= r["bound"] for r in data["rounds"])


def test_a_plan_that_is_none_is_refused(elsewhere):
    (elsewhere / "p.toml").write_text("length = 3")
    run("simulate", "plan", "p.toml", code=2)
    run("simulate", "plan", "absent.toml", code=2)
    run("plan", "-n", 5, "--dropout", 0, "--toml", "q.toml")
    text = (elsewhere / "q.toml").read_text().replace("colluding = 1", "colluding = 4")
    (elsewhere / "r.toml").write_text(text)
    assert "honest-survivors" in run("simulate", "plan", "r.toml", code=3).stderr


def test_without_matplotlib_there_are_no_figures_and_all_else(elsewhere, monkeypatch):
    def absent(*_, **__):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr("secagg.sim.figures._figure", absent)
    result = run("simulate", "random", "--length", 200, "--out", "o")
    assert "need matplotlib" in result.stderr
    assert (elsewhere / "o" / "report.json").exists()


def test_survival_with_leavers(elsewhere):
    drops = ["--drop", "input:inst-01,inst-02", "--drop", "cox-19/input:inst-03"]
    result = run("simulate", "survival", *drops, "--out", "s")
    assert "cox-19, which was not run" in result.stdout
    for part in ("hazard ratio, female", "pooled patients", "event times", "Cox coefficients"):
        assert part in result.stdout
    names = sorted(path.name for path in (elsewhere / "s").iterdir())
    assert names == ["cox.png", "masked-words.png", "report.json", "survival.png"]
    data = json.loads((elsewhere / "s" / "report.json").read_text())
    assert all(len(r["survivors"]) == 16 for r in data["rounds"])
    assert data["reference"]["comparison"]["counts_equal"] is True


def test_survival_compares_with_the_pooled_fit(monkeypatch):
    real = survival.reference_cox

    def shifted(sites):
        fit = real(sites)
        fit.coefficients[0] += 1e-3
        return fit

    monkeypatch.setattr(survival, "reference_cox", shifted)
    text = run("simulate", "survival", "--no-figures", code=4).stderr
    assert "Cox coefficients agree" in text
    assert "counts" not in text


def test_survival_that_loses_too_many_aborts():
    drops = ["--drop", "1:inst-01,inst-02,inst-03", "--drop", "cox-2/2:inst-04,inst-05"]
    result = run("simulate", "survival", "--no-figures", *drops, code=5)
    assert "Round cox-2" in result.stdout


def test_training_short(elsewhere):
    args = ["--rounds", 2, "--sites", 5, "--out", "t", "--drop", "training-2/share:site-01"]
    result = run("simulate", "training", *args)
    assert "AUC after round 2 (4 sites)" in result.stdout
    data = json.loads((elsewhere / "t" / "report.json").read_text())
    assert data["reference"]["gap"] <= 0.002
    assert (elsewhere / "t" / "training.png").exists()
    run("simulate", "training", "--rounds", 0, code=2)
    run("simulate", "training", "--sites", 60, code=2)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_keep_within_the_terminal(columns):
    result = run("simulate", "random", "--no-figures", "--rounds", 2, columns=columns)
    assert max(map(len, result.stdout.splitlines())) <= columns


def test_vectors_are_demonstration_data_only():
    one = scenarios.random_vectors(1, 1, ["a", "b"], 50, 16)
    assert np.array_equal(one["a"], scenarios.random_vectors(1, 1, ["a"], 50, 16)["a"])
    assert not np.array_equal(one["a"], one["b"])
    assert one["a"].max() < 1 << 16


@pytest.mark.slow
def test_demo(elsewhere):
    result = run("demo")
    assert "Every result equals its reference." in result.stdout
    assert "✗" not in result.stdout
    folder = elsewhere / "demo-output"
    reports = sorted(path.parent.name for path in folder.glob("*/report.json"))
    steps = ("advertise", "consent", "input", "reveal", "share")
    assert reports == ["survival", *(f"survival-4-dropped-at-{s}" for s in steps), "training"]
    for name in ("survival/survival", "survival/cox", "survival/masked-words", "training/training"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_demo_fails_where_a_reference_differs(monkeypatch):
    real = survival.reference_kaplan_meier

    def shifted(sites):
        curves = real(sites)
        curves.curves[0].deaths[10] += 1
        return curves

    monkeypatch.setattr(survival, "reference_kaplan_meier", shifted)
    result = run("demo", "--no-figures", "--json", code=4)
    data = json.loads(result.stdout)
    assert data["holds"] is False
    assert "event and at-risk counts" in result.stderr
