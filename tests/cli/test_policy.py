"""`party start` with a whole policy in the place of a floors file."""

from __future__ import annotations

import hashlib

from cli.test_party import SITES, built_once, rnd  # noqa: F401 - fixtures

MODEL = b"weights"


def test_a_site_takes_part_only_with_a_listed_model(rnd, tmp_path):  # noqa: F811
    policy, model = tmp_path / "policy.toml", tmp_path / "model"
    listed = hashlib.sha256(MODEL).hexdigest()
    policy.write_text(f'smallest_cohort = 3\n[models]\nallowed = ["{listed}"]\n')
    model.write_bytes(b"crafted")
    refused = rnd.start("a", "--floors", policy, "--model", model, code=2)
    assert "[model-allowed]" in refused.stderr
    assert not rnd.dir("a").exists()
    assert "[model-allowed]" in rnd.start("a", "--floors", policy, code=2).stderr
    model.write_bytes(MODEL)
    rnd.start("a", "--floors", policy, "--model", model)
    # What the site adds to its copy later holds from the next command on.
    copy = rnd.dir("a") / "floors.toml"
    copy.write_text('[models]\nallowed = ["' + "0" * 64 + '"]\n')
    assert "[model-allowed]" in rnd.do("status", "a", code=2).stderr
    copy.write_text("[privacy]\nmost_epsilon = 1\n")
    assert "[policy-epsilon]" in rnd.do("status", "a", code=2).stderr
    copy.write_text("smallest_cohort = 3\n")
    rnd.do("status", "a")


def test_a_misspelt_table_is_refused_and_nothing_is_made(rnd, tmp_path):  # noqa: F811
    policy = tmp_path / "policy.toml"
    policy.write_text("[modles]\n")
    assert "[floors-file]" in rnd.start("a", "--floors", policy, code=2).stderr
    assert not rnd.dir("a").exists()


def test_a_policy_that_censors_says_who_does(rnd, tmp_path):  # noqa: F811
    policy = tmp_path / "policy.toml"
    policy.write_text("smallest_cohort = 3\n")
    assert "censor" not in rnd.start("a", "--floors", policy).stderr
    policy.write_text("[censoring]\nq = 2\n")
    assert "censor before `submit`" in rnd.start(SITES[1], "--floors", policy).stderr
