"""The library in a few lines: results, weights, drops, and bad input."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.world import make_plan, people

NAMES = people(7)[0].names
IDENTITIES = people(7)[1]


def vectors(plan: secagg.Plan, dtype: Any = np.int64) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    if np.dtype(dtype).kind == "f":
        return {n: rng.normal(size=plan.length).astype(dtype) for n in NAMES}
    return {n: rng.integers(0, 1000, plan.length).astype(dtype) for n in NAMES}


def test_the_sum_the_mean_and_who_took_part() -> None:
    plan = make_plan(max_weight=50)
    x = vectors(plan)
    weights = {n: 3 * i for i, n in enumerate(NAMES)}
    done = secagg.aggregate(
        plan, x, weights=weights, drop={"input": ["s1"], 5: ["s6"]}, identities=IDENTITIES
    )
    stayed = [n for n in NAMES if n != "s1"]
    assert done.survivors == tuple(stayed)
    assert done.dropped == {"s1": "input"}
    assert done.left == {"s6": "reveal"}
    assert done.weight == sum(weights[n] for n in stayed)
    expected = [sum(weights[n] * int(x[n][i]) for n in stayed) for i in range(plan.length)]
    assert done.sum.dtype == np.int64
    assert done.sum.tolist() == expected
    assert done.mean is not None
    np.testing.assert_array_equal(done.mean, np.array(expected) / done.weight)
    assert done.noise_variance == 0.0
    assert done.suspects == ()
    assert [c.step for c in done.traffic] == ["advertise", "share", "input", "consent", "reveal"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [secagg.ClipLinf(0.7), secagg.ClipL2(1.5)])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_reals_are_clipped_weighed_and_rounded_once(dtype: Any, clip: Any, rounding: Any) -> None:
    plan = make_plan(stages=(clip, secagg.Quantise(1000, rounding)), max_weight=9)
    x = vectors(plan, dtype)
    weights = {n: 1 + i for i, n in enumerate(NAMES)}
    done = secagg.aggregate(plan, x, weights=weights, identities=IDENTITIES)
    for i in range(plan.length):
        exact = Fraction(0)
        for n in NAMES:
            row = [Fraction(float(v)) for v in x[n]]
            if isinstance(clip, secagg.ClipLinf):
                limit = Fraction(clip.clip)
                value = max(-limit, min(limit, row[i]))
            else:
                norm = float(np.linalg.norm(x[n].astype(np.float64)))
                value = row[i] * Fraction(min(1.0, clip.clip / norm))
            exact += weights[n] * value
        level = clip.clip / 1000
        most = len(NAMES) * level * (1 if rounding == "stochastic" else 0.5)
        assert abs(done.sum[i] - float(exact)) <= most * 1.001
    assert done.sum.dtype == np.float64


def test_stochastic_rounding_has_no_bias_over_rounds() -> None:
    plan = make_plan(
        5,
        length=2000,
        stages=(secagg.ClipLinf(1.0), secagg.Quantise(4)),
        threat="semi-honest",
    )
    value = 0.3
    x = {n: np.full(plan.length, value) for n in plan.roster.names}
    sums = secagg.aggregate(plan, x).sum
    # Each site rounds 1.2 levels to 1 or 2: variance 0.16 level^2 a site.
    error = abs(sums.mean() - 5 * value)
    assert error < 6 * (0.25 * (5 * 0.16) ** 0.5) / plan.length**0.5
    assert sums.std() > 0


def test_a_weight_of_zero_counts_and_no_weight_gives_no_mean() -> None:
    plan = make_plan(max_weight=5)
    x = vectors(plan)
    done = secagg.aggregate(plan, x, weights=dict.fromkeys(NAMES, 0), identities=IDENTITIES)
    assert done.weight == 0
    assert done.mean is None
    assert done.sum.tolist() == [0] * plan.length


BAD: list[tuple[str, dict[str, Any], Any, Any, str]] = [
    (
        "nan",
        {"stages": (secagg.ClipL2(1.0), secagg.Quantise(8))},
        np.array([1, 2, 3, 4, np.nan]),
        1,
        "input-finite",
    ),
    (
        "inf",
        {"stages": (secagg.ClipL2(1.0), secagg.Quantise(8))},
        np.array([1, 2, 3, 4, -np.inf]),
        1,
        "input-finite",
    ),
    ("shape", {}, np.zeros(4, dtype=np.int64), 1, "input-shape"),
    ("matrix", {}, np.zeros((5, 1), dtype=np.int64), 1, "input-shape"),
    ("float for counts", {}, np.zeros(5), 1, "input-dtype"),
    (
        "int for reals",
        {"stages": (secagg.ClipL2(1.0), secagg.Quantise(8))},
        np.zeros(5, dtype=np.int64),
        1,
        "input-dtype",
    ),
    (
        "half",
        {"stages": (secagg.ClipL2(1.0), secagg.Quantise(8))},
        np.zeros(5, dtype=np.float16),
        1,
        "input-dtype",
    ),
    ("complex", {}, np.zeros(5, dtype=complex), 1, "input-dtype"),
    ("bool", {}, np.zeros(5, dtype=bool), 1, "input-dtype"),
    ("object", {}, np.zeros(5, dtype=object), 1, "input-dtype"),
    ("list", {}, [0, 0, 0, 0, 0], 1, "input-dtype"),
    ("above", {}, np.array([0, 0, 0, 0, 1001]), 1, "input-range"),
    ("below", {}, np.array([0, 0, 0, 0, -1]), 1, "input-range"),
    ("huge unsigned", {}, np.array([0, 0, 0, 0, 2**64 - 1], dtype=np.uint64), 1, "input-range"),
    ("weight two", {}, np.zeros(5, dtype=np.int64), 2, "input-weight"),
    ("weight zero of one", {}, np.zeros(5, dtype=np.int64), 0, "input-weight"),
    ("weight negative", {"max_weight": 3}, np.zeros(5, dtype=np.int64), -1, "input-weight"),
    ("weight above", {"max_weight": 3}, np.zeros(5, dtype=np.int64), 4, "input-weight"),
    ("weight real", {"max_weight": 3}, np.zeros(5, dtype=np.int64), 1.0, "input-weight"),
    ("weight bool", {"max_weight": 3}, np.zeros(5, dtype=np.int64), True, "input-weight"),
]


@pytest.mark.parametrize(("name", "change", "x", "weight", "rule"), BAD, ids=[b[0] for b in BAD])
def test_bad_input_is_refused_before_anything_is_sent(
    name: str, change: dict[str, Any], x: Any, weight: Any, rule: str
) -> None:
    plan = make_plan(**change)
    sent: list[bytes] = []
    good = np.zeros(5, dtype=np.int64 if isinstance(plan.stages[0], secagg.Integers) else float)
    rows = dict.fromkeys(NAMES, good) | {"s3": x}
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.aggregate(
            plan,
            rows,
            weights={"s3": weight},
            identities=IDENTITIES,
            tap=lambda step, a, b, data: sent.append(data),
        )
    assert caught.value.rule == rule
    assert not sent


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"drop": {6: ["s1"]}}, "drop-schedule"),
        ({"drop": {"masking": ["s1"]}}, "drop-schedule"),
        ({"drop": {1: ["stranger"]}}, "roster-member"),
        ({"weights": {"stranger": 1}}, "roster-member"),
        ({"identities": None}, "identity"),
        ({"identities": IDENTITIES | {"s0": IDENTITIES["s1"]}}, "identity"),
        ({"session": ""}, "session"),
        ({"round": -1}, "session"),
    ],
)
def test_bad_arguments_name_their_rule(options: dict[str, Any], rule: str) -> None:
    plan = make_plan()
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.aggregate(plan, vectors(plan), **({"identities": IDENTITIES} | options))
    assert caught.value.rule == rule


def test_a_stranger_s_vector_is_refused() -> None:
    plan = make_plan()
    with pytest.raises(secagg.MisuseError):
        secagg.aggregate(plan, {"stranger": np.zeros(5, dtype=np.int64)}, identities=IDENTITIES)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_too_few_is_an_error_at_every_step(step: int) -> None:
    plan = make_plan()
    gone = list(NAMES[:3])
    with pytest.raises(secagg.ThresholdError) as caught:
        secagg.aggregate(plan, vectors(plan), drop={step: gone}, identities=IDENTITIES)
    assert caught.value.have == 4
    assert caught.value.need == (6 if step <= 3 else 5)
    assert caught.value.step == secagg.Step(step).label


def test_a_site_without_a_vector_takes_no_part() -> None:
    plan = make_plan()
    x = vectors(plan)
    del x["s4"]
    done = secagg.aggregate(plan, x, identities=IDENTITIES)
    assert done.dropped == {"s4": "advertise"}
    assert done.sum.tolist() == sum(x.values()).tolist()


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan()
    with caplog.at_level(logging.DEBUG):
        secagg.aggregate(plan, vectors(plan), identities=IDENTITIES)
    assert not caplog.records


def test_the_server_sees_words_that_are_uniform() -> None:
    """The masked words of constant vectors fill the ring evenly, and differ between rounds."""
    plan = make_plan(length=4096, stages=(secagg.Integers(0, 255),), bits=16)
    x = dict.fromkeys(NAMES, np.zeros(plan.length, dtype=np.int64))
    seen: dict[int, bytes] = {}
    for number in range(2):

        def tap(step: secagg.Step, a: str, b: str, data: bytes, number: int = number) -> None:
            if step == secagg.Step.INPUT and a == "s2":
                seen[number] = data[17:-64]

        secagg.aggregate(plan, x, identities=IDENTITIES, round=number, tap=tap)
    words = np.frombuffer(seen[0], dtype="<u2")
    counts = np.bincount(words >> 8, minlength=256)
    expected = words.size / 256
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    # 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(chi2 - 255) < 6 * 22.6
    assert seen[0] != seen[1]


def test_floors_files(tmp_path: Any) -> None:
    path = tmp_path / "floors.toml"
    path.write_text("smallest_cohort = 6\nshare_threshold = 5\nmalicious_server = true\n")
    floors = secagg.Floors.load(path)
    plan = make_plan()
    floors.check(plan, 0)
    for change in (
        {"threat": "semi-honest"},
        {"max_dropouts": 2},
    ):
        with pytest.raises(secagg.MisuseError) as caught:
            floors.check(make_plan(**change), 0)
        assert caught.value.rule == "floors"
    with pytest.raises(secagg.MisuseError):
        secagg.Floors(most_rounds=3).check(plan, 3)
    with pytest.raises(secagg.MisuseError):
        secagg.Floors(noise_variance=1.0).check(plan, 0)
    for bad in ("smallest_cohort = true", "min = 3", "min_honest = -1", "x", "malicious_server=1"):
        path.write_text(bad)
        with pytest.raises(secagg.MisuseError) as caught:
            secagg.Floors.load(path)
        assert caught.value.rule == "floors-file"
