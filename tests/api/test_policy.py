"""A site's policy: what it refuses, what a slip of the pen in it does, what it says of attacks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer
from cli.test_party import built_once, rnd  # noqa: F401 - fixtures
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.attacks.catalogue import ATTACKS
from secagg.censoring import censor
from secagg.cli.common import Guarded
from secagg.cli.policy import app
from secagg.policy import NOT_PREVENTED, Censoring, Policy, load_policy
from secagg_protocols.floors import Floors

MODEL = b"weights of a model"
HASH = hashlib.sha256(MODEL).hexdigest()
WHOLE = f"""
smallest_cohort = 5
malicious_server = true
most_inputs_per_model = 1

[models]
allowed = ["{HASH.upper()}"]

[privacy]
most_epsilon = 4
most_delta = 1e-4

[censoring]
q = 3
beta = 0.5
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return path

    return make


def refused(call):
    with pytest.raises(secagg.MisuseError) as caught:
        call()
    return caught.value


def listing(*models):
    return Floors(models=tuple(hashlib.sha256(each).hexdigest() for each in models))


def noisy(**changes):
    made = make_plan(7, threat="semi-honest", **changes)
    return secagg.dp.calibrate(
        made, epsilon=3.0, delta=1e-5, rounds=1, l2_clip=None, adjacency="zero-out"
    )


def test_a_whole_policy_is_read(write):
    policy = load_policy(write(WHOLE))
    assert policy.floors() == Floors(
        smallest_cohort=5, malicious_server=True, most_inputs_per_model=1, models=(HASH,)
    )
    assert (policy.most_epsilon, policy.most_delta) == (4, 1e-4)
    assert policy.censoring == Censoring(q=3, beta=0.5)


def test_a_floors_file_is_a_policy_and_a_policy_with_tables_is_no_floors_file(write):
    path = write('smallest_cohort = 4\nnoise_variance = 2.5\npaillier_key = "' + "ab" * 32 + '"\n')
    assert load_policy(path) == Policy(limits=Floors.load(path))
    assert refused(lambda: Floors.load(write(WHOLE))).rule == "floors-file"


def test_a_list_of_models_is_a_table_or_a_plain_field(write):
    table = load_policy(write(f'[models]\nallowed = ["{HASH}"]\n'))
    plain = write(f'models = ["{HASH}"]\n')
    assert table == load_policy(plain) == Policy(limits=Floors.load(plain))
    assert table.limits.models == (HASH,)


@pytest.mark.parametrize(
    ("text", "rule", "said"),
    [
        ("smallest_cohrt = 3\n", "floors-file", "smallest_cohrt"),
        ("smallest_cohort = -1\n", "floors-file", "smallest_cohort"),
        ("noise_variance = nan\n", "floors-file", "noise_variance"),
        ("= 3", "floors-file", "policy.toml"),
        ("models = 3\n", "floors-file", "models"),
        ("models = []\n", "floors-file", "models"),
        ('models = ["abc"]\n', "floors-file", "64 hexadecimal"),
        ("[models]\n", "policy-file", "models"),
        ("[models]\nallowed = []\n", "floors-file", "models"),
        ('[models]\nallowed = "all"\n', "floors-file", "models"),
        ('[models]\nallowed = ["abc"]\n', "floors-file", "64 hexadecimal"),
        ("[models]\nallowed = [3]\n", "floors-file", "models"),
        ("[privacy]\n", "policy-file", "privacy"),
        ("privacy = 3\n", "policy-file", "a table"),
        ('[models]\nalowed = ["abc"]\n', "policy-file", "alowed"),
        ("[privacy]\nmost_epsilon = nan\n", "policy-file", "privacy.most_epsilon"),
        ("[privacy]\nmost_epsilon = inf\n", "policy-file", "privacy.most_epsilon"),
        ("[privacy]\nmost_epsilon = 0\n", "policy-file", "privacy.most_epsilon"),
        ("[privacy]\nmost_epsilon = true\n", "policy-file", "privacy.most_epsilon"),
        ("[privacy]\nmost_delta = 0.1\n", "policy-file", "privacy.most_delta"),
        ("[privacy]\nmost_epsilon = 1\nmost_delta = 1.0\n", "policy-file", "privacy.most_delta"),
        ("[censoring]\nq = 0\n", "policy-file", "censoring.q"),
        ("[censoring]\nq = 2.0\n", "policy-file", "censoring.q"),
        ("[censoring]\nbeta = 1.5\n", "policy-file", "censoring.beta"),
        ("[censoring]\ngamma = 1\n", "policy-file", "gamma"),
        ('smallest_cohort = "5"\n', "floors-file", "smallest_cohort is a whole number"),
        ("malicious_server = 1\n", "floors-file", "true or false"),
        ("smalest_cohort = 5\n", "floors-file", "(is it smallest_cohort?)"),
        ("[privacy]\nmost_epsilon = inf\n", "policy-file", "a finite number above 0"),
        ("[roster]\nepoch = 0\n[protocol]\n", "floors-file", "give it as --plan"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(write, text, rule, said):
    error = refused(lambda: load_policy(write(text)))
    assert error.rule == rule
    assert said in str(error)
    assert str(error).count("[" + rule + "]") == 1


def test_an_absent_file_is_refused(tmp_path):
    error = refused(lambda: load_policy(tmp_path / "none"))
    assert error.rule == "floors-file"
    assert "none: No such file or directory [" in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_policy(None),
        lambda: Policy().check("plan.toml"),
        lambda: Policy().check(None),
        lambda: Policy().explain("plan.toml"),
        lambda: Policy().explain(None, "model.bin"),
        lambda: Policy().allow_model("abc"),
        lambda: Policy().allow_model(None),
        lambda: Policy(limits=listing(MODEL)).allow_model(Path("model.bin")),
    ],
)
def test_what_is_no_path_plan_or_model_is_refused(call):
    assert refused(call).rule == "arguments"


def test_a_plan_is_told_from_a_policy(write):
    path = write(secagg.dump_plan(make_plan(7)))
    assert "this is a plan" in str(refused(lambda: load_policy(path)))


def test_demands_are_sentences_in_the_singular_too():
    limits = {"smallest_cohort": 1, "most_rounds": 1, "most_inputs_per_model": 1, "colluding": 1}
    policy = Policy(limits=Floors(**limits), censoring=Censoring(q=1))
    told = {line.setting: line.demands for line in policy.explain() if line.given}
    assert told["smallest_cohort"] == "at least 1 site in every sum"
    assert told["most_rounds"] == "at most 1 round of a session"
    assert told["most_inputs_per_model"] == "at most 1 masked input for one model"
    assert told["colluding"] == "the plan counts on at least 1 colluding site"
    assert "at least 1 sample moved it" in told["censoring"]
    many = Policy(limits=Floors(most_rounds=2)).explain()
    assert "at most 2 rounds of a session" in [line.demands for line in many]


def test_floors_alone_have_no_limit_of_epsilon():
    """Why a site has to call check(): the plan without a claim passes the floors."""
    policy = Policy(most_epsilon=1.0)
    assert policy.limits_claims
    assert not Policy(limits=Floors(smallest_cohort=3)).limits_claims
    policy.floors().check(make_plan(7), 0)
    error = refused(lambda: policy.check(make_plan(7)))
    assert error.rule == "policy-epsilon"
    assert "claims no epsilon (it adds no noise)" in str(error)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=64), st.lists(st.binary(max_size=64), min_size=1, max_size=4))
def test_exactly_the_listed_models_pass(model, listed):
    policy = Policy(limits=listing(*listed))
    if model in listed:
        policy.allow_model(model)
    else:
        assert refused(lambda: policy.allow_model(model)).rule == "model-allowed"
    assert refused(lambda: policy.limits.check_model(None)).rule == "model-allowed"
    Policy().allow_model(model)
    Policy().limits.check_model(None)


def test_a_plan_below_a_floor_is_refused_by_the_floors_own_rule():
    plan = make_plan(7)
    Policy(limits=Floors(smallest_cohort=6, malicious_server=True)).check(plan, MODEL)
    for floors in (Floors(smallest_cohort=7), Floors(noise_variance=1.0), Floors(min_honest=3)):
        assert refused(lambda floors=floors: Policy(limits=floors).check(plan)).rule == "floors"
    rounds = Policy(limits=Floors(most_rounds=3))
    rounds.check(plan, round_number=2)
    assert refused(lambda: rounds.check(plan, round_number=3)).rule == "floors"


def test_a_claim_that_is_missing_or_too_weak_is_refused():
    plan = noisy()
    Policy(most_epsilon=3.0, most_delta=1e-5).check(plan)
    assert refused(lambda: Policy(most_epsilon=2.99).check(plan)).rule == "policy-epsilon"
    weak = Policy(most_epsilon=3.0, most_delta=1e-6)
    assert refused(lambda: weak.check(plan)).rule == "policy-epsilon"
    assert refused(lambda: Policy(most_epsilon=3.0).check(make_plan(7))).rule == "policy-epsilon"


def test_a_model_that_is_not_listed_is_refused_with_the_plan():
    policy = Policy(limits=Floors(models=(HASH,)))
    policy.check(make_plan(7))  # no model yet
    policy.check(make_plan(7), MODEL)
    assert refused(lambda: policy.check(make_plan(7), b"crafted")).rule == "model-allowed"


def test_every_setting_is_explained_and_every_attack_exists():
    lines = {line.setting: line for line in Policy().explain()}
    assert {f.name for f in fields(Floors)} < set(lines)
    for line in lines.values():
        assert not line.given
        assert line.why
        assert line.missing
        assert set(line.prevents) | set(line.limits) <= set(ATTACKS)
        assert line.prevents or line.limits
        assert not set(line.prevents) & set(line.limits)
        assert not {*line.prevents, *line.limits} & set(NOT_PREVENTED)
    assert set(NOT_PREVENTED) <= set(ATTACKS)


def test_the_page_has_the_same_table():
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    told = {
        row[0]: tuple(tuple(filter(None, cell.strip().split(", "))) for cell in row[1:])
        for row in re.findall(r"^\| `([a-z_.]+)` \|(.*?)\|(.*?)\|$", page, re.MULTILINE)
    }
    assert told == {line.setting: (line.prevents, line.limits) for line in Policy().explain()}


def test_each_claim_has_a_line_of_its_own():
    policy = Policy(most_epsilon=3.0, most_delta=1e-6)
    lines = {line.setting: line.holds for line in policy.explain(noisy()) if line.given}
    assert lines == {"privacy.most_epsilon": True, "privacy.most_delta": False}


def test_lines_say_which_settings_a_plan_falls_short_of(write):
    policy = load_policy(write(WHOLE))
    lines = {line.setting: line for line in policy.explain(noisy(), b"crafted")}
    assert lines["smallest_cohort"].holds is True
    assert lines["malicious_server"].holds is False
    assert lines["models"].holds is False
    assert lines["privacy.most_epsilon"].holds is True
    assert lines["censoring"].holds is None
    assert lines["most_rounds"].holds is None
    assert "3 samples" in lines["censoring"].demands


def test_lines_and_check_agree():
    """Whatever floor is set alone: its line holds exactly where check() does not raise."""
    plan = make_plan(7)
    for name, values in {
        "smallest_cohort": (6, 7),
        "min_honest": (2, 3),
        "share_threshold": (5, 6),
        "colluding": (1, 2),
        "noise_variance": (0.0, 1.0),
    }.items():
        for value, right in zip(values, (True, False), strict=True):
            policy = Policy(limits=Floors(**{name: value}))
            (line,) = [each for each in policy.explain(plan) if each.given]
            assert line.holds is right
            if right:
                policy.check(plan)
            else:
                refused(lambda policy=policy: policy.check(plan))


def test_censoring_applies_its_parameters():
    rng = np.random.default_rng(0)
    update, moved = rng.normal(size=(6, 3)), rng.integers(0, 2, size=(5, 6))
    policy = Policy(censoring=Censoring(q=3))
    assert (policy.censor(update, moved) == censor(update, moved, 3)).all()
    assert Policy().censor(update, moved) is update


# The commands, under an application that turns errors into exit codes as the real one does.


@pytest.fixture
def run():
    root = typer.Typer(cls=Guarded)
    root.add_typer(app, name="policy")
    runner = CliRunner()

    def call(*arguments, code=0):
        result = runner.invoke(root, ["policy", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return call


def test_check_tells_every_line_and_then_refuses(run, write, tmp_path):
    (tmp_path / "plan.toml").write_text(secagg.dump_plan(make_plan(7)))
    (tmp_path / "model").write_bytes(MODEL)
    path = write(f'smallest_cohort = 6\n[models]\nallowed = ["{HASH}"]\n')
    with_both = ["--plan", tmp_path / "plan.toml", "--model", tmp_path / "model"]
    told = json.loads(run("check", path, *with_both, "--json").stdout)
    assert told["holds"]
    assert run("check", path, *with_both).stdout.count("✓") == 2
    path.write_text(f'smallest_cohort = 7\n[models]\nallowed = ["{HASH}"]\n')
    result = run("check", path, *with_both, "--json", code=2)
    assert json.loads(result.stdout)["broken"] == ["smallest_cohort"]
    assert "[floors]" in result.stderr
    (tmp_path / "model").write_bytes(b"crafted")
    assert "[model-allowed]" in run("check", path, "--model", tmp_path / "model", code=2).stderr
    run("check", path)
    path.write_text("[modles]\n")
    assert "modles" in run("check", path, code=2).stderr


def test_explain_names_what_is_missing(run, write):
    path = write("most_rounds = 3\n")
    text = re.sub(r"\s+", " ", run("explain", path).stdout)
    assert "at most 3 rounds" in text
    assert "What it leaves open" in text
    assert "whatever model the server" in text
    assert "scaling" in text
    told = json.loads(run("explain", path, "--json").stdout)
    assert [line["setting"] for line in told["settings"] if line["given"]] == ["most_rounds"]
    path.write_text("")
    assert "demands nothing" in run("explain", path).stdout


def test_a_party_does_not_forget_a_limit_of_epsilon(rnd, write, monkeypatch):  # noqa: F811
    """Floors are in the dump; what limits a claim is in the folder's copy of the policy alone."""
    monkeypatch.setattr(Policy, "check", lambda *_, **__: [])  # the plan here claims nothing
    rnd.start("a", "--floors", write("smallest_cohort = 3\n[privacy]\nmost_epsilon = 4\n"))
    copy = rnd.dir("a") / "floors.toml"
    kept = copy.read_bytes()
    rnd.do("status", "a")
    copy.unlink()
    assert "limits epsilon" in rnd.do("status", "a", code=2).stderr
    copy.write_bytes(kept)
    rnd.do("status", "a")
    rnd.start("d", "--floors", write("smallest_cohort = 3\n"))
    (rnd.dir("d") / "floors.toml").unlink()
    rnd.do("status", "d")


@pytest.mark.parametrize(("most", "enough"), [(1, False), (2, True), (9, True)])
def test_a_site_that_sends_less_than_the_plan_allows(most, enough):
    policy = Policy(limits=Floors(most_inputs_per_model=most))
    plan = dataclasses.replace(make_plan(5), max_inputs_per_model=2)
    (line,) = [each for each in policy.check(plan) if each.given]
    assert line.holds is True
    assert line.found == (
        "the plan meets it" if enough else f"the plan allows 2, this site sends {most}"
    )
    (line,) = [each for each in policy.check(noisy()) if each.given]
    assert line.found == f"the plan allows any number, this site sends {most}"
