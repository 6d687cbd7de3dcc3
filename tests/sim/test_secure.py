"""The secure sum against the plain one, and what its records say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import secagg
from secagg import MisuseError, PlanError, ReleaseError, Step
from secagg.sim import scenarios, sight, survival
from secagg.sim.local import LocalSessions
from secagg.sim.schedule import (
    draw_schedule,
    next_label,
    parse_drops,
    parse_schedule,
    silent_sites,
)
from secagg.sim.secure import SecureSummation
from secagg.sim.settings import Settings, default_colluding, default_dropouts
from secagg_protocols.stages import Integers
from support.plain_summation import PlainSummation

NAMES = [f"s{i}" for i in range(6)]
LABELS = ["one", "two", "three"]


def secure(names=NAMES, **options) -> SecureSummation:
    roster, identities = secagg.Roster.generate(names)
    given = {"threat": "malicious-server", "colluding": 1, "max_dropouts": 1, **options}
    return SecureSummation(roster, identities, **given)


def integers(seed=0, length=7, high=9):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, high + 1, length) for name in NAMES}


def reals(seed=0, length=7, clip=2.0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-clip, clip, length) for name in NAMES}


def test_counts_equal_the_plain_sum():
    ours = secure()
    for label in LABELS:
        got = ours.counts(integers(), high=9, label=label)
        plain = PlainSummation().counts(integers(), high=9, label=label)
        assert got.survivors == plain.survivors == tuple(NAMES)
        assert got.weight == 6
        assert got.total.dtype == np.int64
        assert np.array_equal(got.total, plain.total)
    assert [record.error for record in ours.records] == [0.0, 0.0, 0.0]
    assert all(record.holds for record in ours.records)


def test_reals_and_weighted_mean_round_to_the_nearest_level():
    ours, plain = secure(), PlainSummation()
    got = ours.reals(reals(), clip=2.0, resolution=2.0**-20, label="one")
    want = plain.reals(reals(), clip=2.0, resolution=2.0**-20, label="one")
    assert np.array_equal(got.total, want.total)
    weights = {name: i + 1 for i, name in enumerate(NAMES)}
    settings = {"clip": 2.0, "resolution": 2.0**-10, "max_weight": 8, "label": "two"}
    mean, summed = ours.weighted_mean(reals(1), weights, **settings)
    want_mean, want_sum = plain.weighted_mean(reals(1), weights, **settings)
    assert summed.weight == want_sum.weight == 21
    assert np.array_equal(summed.total, want_sum.total)
    assert np.array_equal(mean, want_mean)
    for record in ours.records:
        assert 0 < record.error <= record.bound
    # A resolution that does not divide the clip gives levels that are finer, never coarser.
    odd = ours.reals(reals(2), clip=2.0, resolution=0.3, label="three")
    true = sum(reals(2).values())
    assert np.abs(odd.total - true).max() <= 6 * 0.3 / 2
    assert ours.records[-1].holds


def test_what_breaks_a_bound_is_refused_and_not_clipped():
    ours = secure()
    for bad in (2.0 + 1e-9, np.nan, np.inf):
        vectors = {**reals(), "s3": np.full(7, bad)}
        with pytest.raises(MisuseError, match="input-range"):
            ours.reals(vectors, clip=2.0, resolution=0.1, label="one")
    with pytest.raises(MisuseError, match="input-range"):
        ours.counts({**integers(), "s1": np.full(7, 10)}, high=9, label="one")
    with pytest.raises(MisuseError, match="input-dtype"):
        ours.counts(reals(), high=9, label="one")
    with pytest.raises(MisuseError, match="input-shape"):
        ours.counts({**integers(), "s1": np.ones(3, np.int64)}, high=9, label="one")
    with pytest.raises(MisuseError, match="no site"):
        ours.counts({}, high=9, label="one")
    weights = dict.fromkeys(NAMES, 9)
    with pytest.raises(MisuseError, match="input-weight"):
        ours.weighted_mean(reals(), weights, clip=2.0, resolution=0.1, max_weight=8, label="one")
    with pytest.raises(PlanError):
        secure(colluding=5).counts(integers(), high=9, label="one")


def test_a_wrong_sum_is_noticed(monkeypatch):
    real = LocalSessions.play

    def wrong(*args, **options):
        played = real(*args, **options)
        assert played.aggregate is not None
        played.aggregate.sum[0] += 1
        return played

    ours = secure()
    monkeypatch.setattr(LocalSessions, "play", wrong)
    ours.counts(integers(), high=9, label="one")
    ours.reals(reals(), clip=2.0, resolution=2.0**-20, label="two")
    assert [record.holds for record in ours.records] == [False, False]
    assert ours.records[0].error == 1.0


def test_masks_differ_between_runs_of_one_seed():
    words = []
    for _ in range(2):
        run = scenarios.run_random(Settings(seed=5, drop_rate=0.2), sites=8, length=50)
        words.append((run.secure.sight.glimpses[0], run.schedule, run.result, run.lines))
    (first, *rest), (second, *again) = words
    assert rest == again
    assert first.site == second.site
    assert np.array_equal(first.truth, second.truth)
    assert (first.words != second.words).mean() > 0.9


def test_seeds_never_reach_a_secret(monkeypatch):
    """With the seeded generator gone and the random module poisoned, keys are still made."""
    import random

    def refuse(*_, **__):
        raise AssertionError("a secret was drawn from a seeded generator")

    ours = secure()
    monkeypatch.setattr(np.random, "default_rng", refuse)
    monkeypatch.setattr(random, "random", refuse)
    monkeypatch.setattr(random, "getrandbits", refuse)
    monkeypatch.setattr(random, "randbytes", refuse)
    vectors = {name: np.arange(7) for name in NAMES}
    assert ours.counts(vectors, high=9, label="one").total.tolist() == [6 * i for i in range(7)]
    secagg.Roster.generate(NAMES)


def test_survival_by_secure_sums_equals_pooled():
    drops = ("counts/input:inst-33", "cox-2/reveal:inst-01,inst-02,inst-03,inst-04")
    settings = Settings(drops=drops, colluding=1, max_dropouts=5)
    run = scenarios.run_survival(settings)
    assert run.holds, [claim for claim in run.claims if not claim.holds]
    records = run.secure.records
    assert [len(r.survivors) for r in records[:4]] == [17, 17, 17, 13]
    assert len(records[-1].survivors) == 13
    assert run.secure.unused() == ()
    plan = run.secure.plan_for((Integers(0, survival.MAX_PATIENTS),), 4404)
    assert (plan.threat, plan.min_honest, plan.max_dropouts) == ("malicious-server", 3, 5)
    assert 2 * plan.protocol.share_threshold > 18 + plan.colluding
    json.dumps(run.report(), allow_nan=False)


def test_a_site_that_leaves_a_survival_analysis_alone_ends_it():
    """The others would refuse a sum that differs from the last one by a single hospital, so the
    server gives it up."""
    with pytest.raises(ReleaseError, match="fixed-missing"):
        scenarios.run_survival(Settings(drops=("cox-2/input:inst-33",), colluding=1))


# Schedules.


def test_drops_and_files_make_schedules():
    got = parse_drops(["input:s0,s1", "two/5: s2 ,s2", "3/share:s3", "input:s4"], LABELS, NAMES)
    assert got == {
        "one": {Step.INPUT: ("s0", "s1", "s4")},
        "two": {Step.REVEAL: ("s2",)},
        "three": {Step.SHARE: ("s3",)},
    }
    text = '[1]\ninput = ["s0", "s1", "s4"]\n[two]\n5 = ["s2"]\n[three]\nSHARE = ["s3"]\n'
    assert parse_schedule(text, LABELS, NAMES) == got


@pytest.mark.parametrize(
    "text",
    ["s0", "input", "input:", "input:nobody", "six:s0", "6:s0", "0:s0", "four/input:s0",
     "9/input:s0", "/input:s0", ":s0"],
)  # fmt: skip
def test_bad_drops_are_refused(text):
    with pytest.raises(MisuseError, match="drop-schedule"):
        parse_drops([text], LABELS, NAMES)


@pytest.mark.parametrize(
    "text",
    ["x", "one = 3", "[one]\ninput = 's0'", "[one]\ninput = [1]", "[four]\ninput = ['s0']",
     "[one]\nsix = ['s0']", "[one]\ninput = ['nobody']", "[one]\ninput = []"],
)  # fmt: skip
def test_bad_schedule_files_are_refused(text):
    with pytest.raises(MisuseError, match="drop-schedule"):
        parse_schedule(text, LABELS, NAMES)


def test_drawn_schedules_repeat_and_follow_the_rate():
    many = [f"s{i}" for i in range(500)]
    one = draw_schedule(0.1, 3, LABELS, many, list(Step), once=False)
    assert one == draw_schedule(0.1, 3, LABELS, many, list(Step), once=False)
    assert one != draw_schedule(0.1, 4, LABELS, many, list(Step), once=False)
    assert set(one) == set(LABELS)
    counts = [sum(map(len, steps.values())) for steps in one.values()]
    assert all(20 < count < 90 for count in counts)
    once = draw_schedule(0.1, 3, LABELS, many, list(Step), once=True)
    leavers = [site for steps in once.values() for sites in steps.values() for site in sites]
    assert len(set(leavers)) == len(leavers)
    assert 20 < len(leavers) < 90
    assert draw_schedule(0.0, 3, LABELS, many, list(Step), once=True) == {}
    with pytest.raises(MisuseError):
        draw_schedule(1.5, 3, LABELS, many, list(Step), once=True)


def test_labels_count():
    assert [next_label(label) for label in ("cox-1", "round-9", "7", "r01")] == [
        "cox-2",
        "round-10",
        "8",
        "r2",
    ]
    assert [next_label(label) for label in ("counts", "", "round-x", "cox-²")] == [""] * 4


def test_silence_begins_with_the_exchange_that_carries_a_step():
    schedule = {
        "r-2": {Step.ADVERTISE: ("a",), Step.SHARE: ("s",), Step.INPUT: ("i",)},
        "one": {Step.REVEAL: ("v",)},
    }
    silent = [sorted(silent_sites(schedule, "r-1", slot)) for slot in range(1, 6)]
    assert silent == [[], [], ["a"], ["a"], ["a", "s"]]
    silent = [sorted(silent_sites(schedule, "r-2", slot)) for slot in range(1, 6)]
    assert silent == [["a"], ["a", "s"], *[["a", "i", "s"]] * 3]
    assert [sorted(silent_sites(schedule, "one", slot)) for slot in (4, 5)] == [[], ["v"]]
    assert not silent_sites(schedule, "r-3", 3)
    assert not silent_sites({}, "counts", 3)


def test_defaults_make_plans():
    for n in range(4, 120):
        colluding = default_colluding(n)
        most = default_dropouts(n, colluding)
        assert colluding >= 1
        names = [f"s{i}" for i in range(n)]
        secure(names, colluding=colluding, max_dropouts=most).plan_for((Integers(0, 1),), 3)
    assert default_colluding(18, 4, share=3) == 6


# What the server saw.


def test_chi_square_tail_is_scipys():
    from scipy.stats import chi2

    for freedom in (1, 2, 15, 255, 256):
        for statistic in (0.0, 0.01, 1.0, 14.0, 100.0, 254.0, 255.0, 256.0, 300.0, 600.0, 5000.0):
            want = float(chi2.sf(statistic, freedom))
            got = sight.chi_square_tail(statistic, freedom)
            assert got == pytest.approx(want, rel=1e-9, abs=1e-13)
    assert sight.chi_square_tail(1e8, 255) == 0.0


def test_uniformity_tells_noise_from_data():
    rng = np.random.default_rng(0)
    noise = np.bincount(rng.integers(0, 256, 5000), minlength=256)
    test = sight.uniformity(noise)
    assert test is not None
    assert (test.bins, test.count) == (256, 5000)
    assert test.uniform
    few = sight.uniformity(np.bincount(rng.integers(0, 256, 100), minlength=256))
    assert few is not None
    assert (few.bins, few.count) == (16, 200)
    assert few.uniform
    assert sight.uniformity(np.bincount(rng.integers(0, 256, 30), minlength=256)) is None
    data = sight.uniformity(np.bincount(rng.integers(0, 250, 50000), minlength=256))
    assert data is not None
    assert not data.uniform
    assert data.p_text == "< 1e-300" or float(data.p_text) < sight.SIGNIFICANCE


def test_p_values_of_masked_bytes_are_spread_out():
    p_values = []
    for _ in range(12):
        ours = secure()
        ours.counts(integers(length=400), high=9, label="one")
        seen, control = ours.sight.seen, ours.sight.control
        assert seen is not None
        assert control is not None
        assert not control.uniform
        p_values.append(seen.p_value)
    assert max(p_values) > 0.05
    assert min(p_values) < 0.95
    assert not math.isclose(min(p_values), max(p_values))
