"""``secagg dp audit``: a correct build passes, a broken one does not, and both are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.cli import dp
from secagg.cli.app import app
from secagg.dp.calibration import calibrate
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages import Integers, Noise
from secagg_protocols.stages import noise as noise_stage

#: Few canaries: enough to be counted, and quick.
QUICK = ("--canaries", "64")


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dp", "audit", *map(str, words)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def refused(*words: object) -> str:
    done = run(*words, code=2)
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def made() -> secagg.Plan:
    return calibrate(
        make_plan(5, length=400, stages=(Integers(0, 9),)),
        epsilon=2.0,
        delta=1e-5,
        rounds=1,
        l2_clip=None,
        adjacency="zero-out",
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "plan.toml"
    path.write_text(dump_plan(made()))
    return path


def test_a_correct_build_passes(plan: Path) -> None:
    data = json.loads(run(plan, *QUICK, "--json").stdout)
    assert set(data) == {"digest", "verdict", "false_alarm", "findings"}
    assert (data["verdict"], data["digest"]) == ("consistent", made().digest.hex())
    assert 0 < data["false_alarm"] <= 1e-6 * (1 + 1e-9)
    # The tests that the command knows by name are those that an audit runs, no more and no less.
    assert tuple(row["test"] for row in data["findings"]) == dp.TESTS
    for row in data["findings"]:
        assert row["verdict"] == "consistent"
        assert row["sentence"]
        assert "false_alarm" in row
    rows = {row["test"]: row for row in data["findings"]}
    assert rows["one-run"]["canaries"] >= 64
    assert rows["variance"]["coordinates"] >= 1 << 16


def test_a_build_that_adds_too_little_is_exit_code_4(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sites draw has nine tenths of the variance that the plan says; only a run can tell."""
    real = Noise.draws

    def less(self: Noise, seed: bytes) -> Any:
        quieter = dataclasses.replace(self, variance_levels2=self.variance_levels2 * 9 // 10)
        return real(quieter, seed)

    monkeypatch.setattr(noise_stage.Noise, "draws", less)
    done = run(plan, *QUICK, "--alpha", "1e-5", code=4)
    shown = " ".join(done.stdout.split())
    assert "violates" in shown
    assert "a correct build is accused with probability at most 1e-05" in shown
    assert done.stderr.startswith(f"{plan}: violated, by variance")
    assert len(done.stderr.strip().splitlines()) == 1
    # JSON and exit code say the same.
    done = run(plan, *QUICK, "--kind", "variance", "--json", code=4)
    data = json.loads(done.stdout)
    assert data["verdict"] == "violates"
    (row,) = data["findings"]
    assert row["statistic"] == pytest.approx(0.9, abs=0.03)
    # The claim itself, which is about the plan's text, holds.
    data = json.loads(run(plan, *QUICK, "--kind", "claim,sensitivity", "--json").stdout)
    assert [row["test"] for row in data["findings"]] == ["claim", "sensitivity"]
    assert data["false_alarm"] == 0


def test_a_plan_that_claims_too_much_is_exit_code_4(tmp_path: Path) -> None:
    claims = dict(made().privacy or ()) | {"epsilon": 1.5}
    path = tmp_path / "plan.toml"
    path.write_text(dump_plan(dataclasses.replace(made(), privacy=tuple(claims.items()))))
    assert "violated, by claim" in run(path, *QUICK, code=4).stderr


def test_what_holds_against_no_server_is_exit_code_4(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    claims = dict(made().privacy or ()) | {"sampling_rate": 0.1}
    path.write_text(dump_plan(dataclasses.replace(made(), privacy=tuple(claims.items()))))
    said = run(path, code=4).stderr
    assert "violated: privacy: sampling that it sees hides nothing from the server" in said
    central = calibrate(
        make_plan(5, stages=(Integers(0, 9),), threat="semi-honest"),
        epsilon=2.0,
        delta=1e-5,
        rounds=1,
        l2_clip=None,
        adjacency="zero-out",
        mechanism="central-discrete-gaussian",
        adversary="model-consumer",
    )
    path.write_text(dump_plan(central))
    run(path, *QUICK)
    claims = dict(central.privacy or ()) | {"adversary": "server"}
    path.write_text(dump_plan(dataclasses.replace(central, privacy=tuple(claims.items()))))
    assert "noise that it adds hides nothing" in run(path, code=4).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "luck"), "--kind luck: tests are claim, sensitivity, variance"),
        (("--kind", "variance,luck"), "--kind variance,luck: tests are"),
        (("--kind", ""), "tests are"),
        (("--alpha", "nan"), "--alpha is a number above 1e-09"),
        (("--alpha", "0"), "--alpha is a number above 1e-09"),
        (("--alpha", "-1"), "--alpha is a number above 1e-09"),
        (("--alpha", "0.5"), "--alpha is a number above 1e-09"),
        (("--alpha", "1e-12"), "--alpha is a number above 1e-09"),
        (("--canaries", "63"), "Invalid value for '--canaries'"),
        (("--canaries", "x"), "Invalid value for '--canaries'"),
    ],
    ids=str,
)
def test_bad_usage(plan: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(plan, *words)


def test_plans_without_noise_or_claims(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(dump_plan(make_plan(5)))
    assert "the plan has no noise to audit; secagg dp calibrate" in refused(path)
    for claims, missing in (
        ({}, "adjacency, adversary, epsilon, delta, rounds, sampling_rate"),
        (dict(made().privacy or ()) | {"delta": "small"}, "delta"),
        (dict(made().privacy or ()) | {"rounds": 1.0, "epsilon": 2}, "epsilon, rounds"),
    ):
        odd = dataclasses.replace(made(), privacy=tuple(claims.items()))
        path.write_text(dump_plan(odd))
        assert f"the plan claims no {missing}; secagg dp calibrate does" in refused(path)
    assert "No such file" in refused(tmp_path / "absent.toml")
