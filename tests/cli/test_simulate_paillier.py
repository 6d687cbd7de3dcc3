"""simulate --protocol paillier: holders, drops, refusals, the report, and the bar."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from typer.testing import CliRunner

from secagg.cli import show
from secagg.cli.app import app
from secagg.sim import holders, scenarios
from secagg.sim.secure import Observer
from secagg.sim.settings import PaillierSettings, Settings
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.paillier import PrivateKey, modulus_proof
from support.paillier_keys import primes, private_key, short_keys

__all__ = ["short_keys"]

pytestmark = pytest.mark.usefixtures("short_keys")
runner = CliRunner()


@cache
def proved_key():
    """The fixed key with its proof, which takes a while to make."""
    p, q = primes(1024)
    return PrivateKey(p, q, proof=modulus_proof.prove(p, q))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, short_keys):
    """Defaults write under the current folder, where a short private key lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.key").write_bytes(proved_key().to_bytes())
    (tmp_path / "private.key").chmod(0o600)
    return tmp_path


def run(*args, code=0):
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "110"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def random(*args, code=0, key="private.key"):
    keys = ["--key", key] if key else []
    fixed = ["--protocol", "paillier", *keys, "--no-figures", "--length", 300]
    return run("simulate", "random", *fixed, *args, code=code)


def report(*args):
    return json.loads(random("--json", *args).stdout)


def test_random_tells_the_whole_story(elsewhere):
    drops = ["--drop", "input:site-1", "--drop", "reveal:holder-0,holder-3"]
    text = " ".join(random("--rounds", 2, *drops).stdout.split())
    for part in (
        "300 coordinates of 20 bits in 8 ciphertexts, 10 sites, 3 of 5 holders open",
        "In the sum: 9 sites; not in it: 1. The sum equals the plain sum exactly.",
        "Opened without holder-0, holder-3.",
        "In all: 2 rounds in 4 exchanges;", "lowest word of its ciphertext",
        "What this run shows", "2 of 2 rounds",
    ):  # fmt: skip
        assert part in text, part
    data = json.loads((elsewhere / "demo-output" / "random" / "report.json").read_text())
    assert data["holds"]
    claims = {claim["text"]: claim["detail"] for claim in data["claims"]}
    assert "the sum equals the plain integer sum in every coordinate" in claims
    assert claims["measured bytes are the plan's count within 1 %"] == (
        "largest difference 0.00% in the 1 of 2 rounds with every site and holder"
    )
    first, second = data["rounds"]
    assert first["gone"] == first["dropped"] == {"site-1": "input"}
    assert first["silent_holders"] == ["holder-0", "holder-3"]
    assert second["returned"] == ["site-1"]
    assert [(e["senders"], e["sender"]) for e in first["exchanges"]] == [
        (9, "site"), (3, "holder"),
    ]  # fmt: skip
    assert data["bytes"] == sum(
        e["site_bytes"] + e["server_bytes"] for r in data["rounds"] for e in r["exchanges"]
    )
    assert second["planned_total"] == sum(
        e["site_bytes"] + e["server_bytes"] for e in second["exchanges"]
    )


def test_no_key_leaves_the_process(elsewhere):
    result = random("--threshold", 4)
    written = (elsewhere / "demo-output" / "random" / "report.json").read_text()
    settings = json.loads(written)["settings"]["paillier"]
    assert settings == {
        "holders": 5, "threshold": 4, "colluding_holders": 0, "key_bits": 1024, "threads": 1,
    }  # fmt: skip
    secret = private_key(1024)
    for text in (written, result.output, repr(PaillierSettings(key=secret))):
        assert str(secret.p) not in text
        assert f"{secret.p:x}" not in text
    made = holders.deal(PaillierSettings(key=secret), signed=False)
    assert "secret" not in repr(made).replace("<secret>", "")


@pytest.mark.parametrize("signed", [True, False])
def test_one_holder_with_the_whole_key(signed):
    threat = "malicious-server" if signed else "semi-honest"
    data = report("--holders", 1, "--threat", threat)
    assert data["holds"]
    [only] = data["rounds"]
    assert (only["holders"], only["threshold"], only["undisturbed"]) == (1, 1, True)


def test_a_wrong_sum_is_noticed(monkeypatch):
    real = scenarios.reference_sum
    monkeypatch.setattr(scenarios, "reference_sum", lambda *args: real(*args) + 1)
    assert "a comparison failed" in random(code=4).stderr


def test_sums_are_those_of_plain_python_integers():
    run = scenarios.run_random(
        Settings(seed=3, drops=("input:site-2",), paillier=_settings()), sites=5, length=40
    )
    vectors = scenarios.random_vectors(3, 1, run.secure.roster.names, 40, 16)
    expected = sum(int(vectors[f"site-{i}"][0]) for i in (0, 1, 3, 4))
    assert run.lines[0][1:] == (f"{expected:,}", f"{expected:,}")


def _settings(**more):
    return PaillierSettings(key=proved_key(), **more)


def test_training_and_its_weights_and_returning_sites():
    run = scenarios.run_training(
        Settings(drops=("training-1/input:site-01",), paillier=_settings(holders=3)),
        sites=5,
        rounds=2,
    )
    assert run.holds, run.claims
    assert run.secure.records[2].returned == ("site-01",)


@pytest.mark.slow
def test_survival_keeps_who_left_away_and_says_who_compares_nothing():
    drops = ("cox-1/input:inst-01",)
    run = scenarios.run_survival(Settings(drops=drops, paillier=_settings(holders=2)))
    assert run.holds, run.claims
    sets = [record.survivors for record in run.secure.records]
    assert "inst-01" in sets[0]
    assert all("inst-01" not in survivors for survivors in sets[1:])
    assert "can subtract them" in run.notes[-1]


def test_survival_is_one_command(monkeypatch):
    seen = []
    monkeypatch.setattr(scenarios, "run_survival", lambda settings, *_, **__: seen.append(settings))
    args = ["--protocol", "paillier", "--holders", 4, "--colluding-holders", 1, "--threads", 2]
    with pytest.raises(AttributeError):  # of the run that this one does not return
        run("simulate", "survival", *args, "--key-bits", 2048)
    assert seen[0].paillier == PaillierSettings(
        holders=4, colluding_holders=1, threads=2, key_bits=2048
    )


def test_a_plan_of_ones_own(elsewhere):
    key, _ = holders.split(private_key(1024), 3, 2)
    (elsewhere / "key.pub").write_bytes(key.to_bytes())
    made = ["plan", "-n", 6, "--length", 50, "--threat", "semi-honest", "--clip", 1]
    run(*made, "--max-weight", 9, "--key", "key.pub", "--toml", "plan.toml")
    result = run(
        "simulate", "plan", "plan.toml", "--key", "private.key", "--json",
        "--drop", "reveal:holder-2",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert data["holds"]
    assert data["rounds"][0]["silent_holders"] == ["holder-2"]
    assert data["rounds"][0]["weight"] > 6


@pytest.mark.parametrize(
    ("args", "code", "rule"),
    [
        (["--holders", 0], 2, "options"),
        (["--holders", 65], 2, "options"),
        (["--holders", 3, "--threshold", 4], 2, "options"),
        (["--threshold", 0], 2, "options"),
        (["--holders", 5, "--threshold", 2], 3, "one-opening"),
        (["--holders", 4, "--colluding-holders", 4], 3, "holder-threshold"),
        (["--neighbours", 4, "--threat", "semi-honest"], 2, "options"),
        (["--transcripts", "there"], 2, "options"),
        (["--key-bits", 2048], 2, "options"),
        (["--drop", "share:site-1"], 2, "drop-schedule"),
        (["--drop", "reveal:site-1"], 2, "drop-schedule"),
        (["--drop", "input:holder-1"], 2, "drop-schedule"),
        (["--drop", "reveal:holder-9"], 2, "drop-schedule"),
        (["--drop", "reveal:holder-0,holder-1,holder-2"], 5, "enough"),
        (["--drop", "input:site-0,site-1,site-2,site-3"], 5, "enough"),
    ],
)
def test_refusals(args, code, rule, elsewhere):
    result = random(*args, code=code)
    assert f"[{rule}]" in result.stderr
    assert not (elsewhere / "there").exists()
    if rule == "enough" and "reveal" in args[1]:
        assert "lose fewer holders" in result.stderr


@pytest.mark.parametrize(
    "option", ["--holders 3", "--threshold 2", "--key private.key", "--threads 2", "--key-bits 1"]
)
def test_masked_sums_take_no_options_of_holders(option):
    result = run("simulate", "random", *option.split(), code=2)
    assert f"{option.split()[0]} is of a Paillier sum" in result.stderr


def test_noise_and_paillier_do_not_go_together_yet():
    result = run(
        "simulate", "training", "--protocol", "paillier", "--epsilon", 2, "--key", "private.key",
        code=2,
    )  # fmt: skip
    assert "--epsilon goes with --protocol masked" in result.stderr


def test_key_files_that_are_none(elsewhere):
    (elsewhere / "text").write_text("no key")
    assert "[key-bytes]" in random("--key", "text", key=None, code=2).stderr
    assert "No such file" in random("--key", "absent", key=None, code=2).stderr
    (elsewhere / "private.key").chmod(0o644)
    assert "only its owner" in random(code=2).stderr
    public = private_key(1024).public.to_bytes()
    (elsewhere / "public").write_bytes(public)
    assert "[key-bytes]" in random("--key", "public", key=None, code=2).stderr


def test_bad_settings_are_refused_before_a_key_is_made(monkeypatch):
    def unwanted(*_args, **_options):
        raise AssertionError("a key was made")

    monkeypatch.setattr(holders, "generate", unwanted)
    for settings in (
        Settings(paillier=PaillierSettings(threshold=2)),
        Settings(paillier=PaillierSettings(holders=0)),
        Settings(paillier=PaillierSettings(key_bits=1000)),
        Settings(paillier=PaillierSettings(), drops=("share:site-1",)),
        Settings(paillier=PaillierSettings(), neighbours=4, threat="semi-honest"),
    ):
        with pytest.raises((MisuseError, PlanError)):
            scenarios.run_random(settings, sites=5, length=3)


def test_a_new_key_is_searched_for_while_somebody_watches(monkeypatch):
    def generated(bits, *, knowledge_proofs, progress):
        progress(64)
        progress(128)
        return proved_key()

    monkeypatch.setattr(holders, "generate", generated)
    seen = []

    class Watch(Observer):
        def searched(self, candidates):
            seen.append(candidates)

    settings = Settings(paillier=PaillierSettings(holders=1))
    assert scenarios.run_random(settings, Watch(), sites=4, length=3).holds
    assert seen == [64, 128]


@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("threat", ["malicious-server", "semi-honest"])
def test_the_bar_moves_from_nothing_to_all(count, threat):
    """What parties and messages stand for adds up to the work that was announced."""
    parts = []

    class Moved(show.Watch):
        def _advance(self, by, told):
            parts.append((by, told))
            super()._advance(by, told)

    watch = Moved()
    watch.searched(64)
    with watch:
        settings = Settings(threat=threat, paillier=_settings(holders=count))
        scenarios.run_random(settings, watch, sites=4, length=300)
    task = watch._progress.tasks[0]
    assert min(by for by, _ in parts) >= 0
    opened = 0.0 if count > 1 else watch._paillier.rows * watch._paillier.opened
    # One holder decrypts all at once and tells of no progress.
    assert np.isclose(task.completed + opened, task.total, rtol=1e-9)
    if count > 1:
        assert any("opens 6 of 6 ciphertexts" in told for _, told in parts), parts
    assert any("site-0 encrypts" in told for _, told in parts)
