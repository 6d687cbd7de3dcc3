"""The secure sum against the plain one, and what its records say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import secagg
from secagg import MisuseError, PlanError, Step, ThresholdError
from secagg.sim import scenarios, sight, survival
from secagg.sim.schedule import draw_schedule, merge, parse_drops, parse_schedule
from secagg.sim.secure import Observer, SecureSummation
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


def drop(label, step, *sites):
    return {label: {Step.of(step): sites}}


@pytest.mark.parametrize("step", [None, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("fixed", [False, True])
def test_counts_equal_the_plain_sum(step, fixed):
    schedule = drop("one", step, "s2") if step else {}
    ours = secure(schedule=schedule, fixed_data=fixed)
    for label in LABELS:
        # Who leaves at step 4 or 5 was counted in that round and is missing from the next.
        counted_first = step in (4, 5) and label == "one"
        out = step and (fixed or label == "one") and not counted_first
        stayed = [n for n in NAMES if not (out and n == "s2")]
        got = ours.counts(integers(), high=9, label=label)
        plain = PlainSummation().counts({n: integers()[n] for n in stayed}, high=9, label=label)
        assert got.survivors == plain.survivors == tuple(stayed)
        assert got.weight == len(stayed)
        assert got.total.dtype == np.int64
        assert np.array_equal(got.total, plain.total)
    assert [record.error for record in ours.records] == [0.0, 0.0, 0.0]
    assert all(record.holds for record in ours.records)
    gone = ours.records[0]
    assert {**gone.dropped, **gone.left} == ({"s2": Step(step).label} if step else {})
    if fixed and step:
        assert ours.records[1].dropped == {"s2": "advertise"}
        assert ours.records[1].sites == 5
        assert not any(entry.gone for entry in ours.records[1].steps)
    assert [entry.gone for entry in gone.steps if entry.gone] == ([("s2",)] if step else [])


def test_absent_sites_count_as_dropouts_of_the_whole_roster():
    schedule = merge(drop("one", 2, "s0"), drop("two", 3, "s1"))
    ours = secure(schedule=schedule, fixed_data=True)
    ours.counts(integers(), high=9, label="one")
    with pytest.raises(ThresholdError):
        ours.counts(integers(), high=9, label="two")
    aborted = ours.records[-1]
    assert aborted.aborted is not None
    assert not aborted.holds
    assert "enough" in aborted.aborted
    free = secure(schedule=schedule)
    for label in LABELS:
        free.counts(integers(), high=9, label=label)
    assert [len(r.survivors) for r in free.records] == [5, 5, 6]


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
    real = secagg.api.aggregate

    def wrong(*args, **options):
        result = real(*args, **options)
        result.sum[0] += 1
        return result

    ours = secure()
    monkeypatch.setattr("secagg.api.aggregate", wrong)
    ours.counts(integers(), high=9, label="one")
    ours.reals(reals(), clip=2.0, resolution=2.0**-20, label="two")
    assert [record.holds for record in ours.records] == [False, False]
    assert ours.records[0].error == 1.0


@pytest.mark.parametrize("threat", ["malicious-server", "semi-honest"])
def test_records_count_every_byte(threat):
    seen = []

    class Counter(Observer):
        def message(self, step, sender, recipient, size):
            seen.append(size)

    ours = secure(threat=threat, observer=Counter())
    ours.counts(integers(), high=9, label="one")
    record = ours.records[0]
    assert record.total_bytes == sum(seen) == record.planned * 6
    assert record.undisturbed
    assert [s.step for s in record.steps] == [
        s.label for s in Step if threat == "malicious-server" or s != Step.CONSENT
    ]
    assert all(step.senders == 6 for step in record.steps)
    assert json.loads(json.dumps(record.to_dict()))["label"] == "one"


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
    drops = ("counts/reveal:inst-01,inst-02", "cox-2/input:inst-33")
    run = scenarios.run_survival(Settings(drops=drops))
    assert run.holds, [claim for claim in run.claims if not claim.holds]
    records = run.secure.records
    assert [len(r.survivors) for r in records[:3]] == [18, 16, 15]
    assert len(records[-1].survivors) == 15
    assert run.secure.unused() == ()
    plan = run.secure.plan_for((Integers(0, survival.MAX_PATIENTS),), 4404)
    assert (plan.threat, plan.min_honest, plan.max_dropouts) == ("malicious-server", 3, 4)
    assert 2 * plan.protocol.share_threshold > 18 + plan.colluding
    json.dumps(run.report(), allow_nan=False)


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
