"""Audits that bound epsilon from below: reference values, coverage, power."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.dp.audit import (
    canary_scores,
    clopper_pearson_epsilon,
    clopper_pearson_ratio,
    one_run_audit,
    one_run_epsilon,
    one_run_p_value,
    threshold_audit,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/dp_reference.json").read_text())["cases"]


def cases(category: str) -> list[Any]:
    found = [case for case in GOLDEN if case["category"] == category]
    assert found
    return [pytest.param(case, id=case["id"]) for case in found]


@pytest.mark.parametrize("case", cases("audit_clopper_pearson"))
def test_clopper_pearson_matches_the_reference(case: Any) -> None:
    given, expected = case["inputs"], case["expected"]
    common = {
        "hits": given["tp"],
        "hit_runs": given["pos"],
        "misses": given["fp"],
        "miss_runs": given["neg"],
        "delta": 0.0,
        "alpha": given["alpha"],
    }
    ratio = clopper_pearson_ratio(**common)
    assert ratio == pytest.approx(expected["ratio_lower"], rel=case["rtol"])
    epsilon = clopper_pearson_epsilon(**common)
    assert epsilon == pytest.approx(expected["eps_lower_delta0"], rel=case["rtol"])


@pytest.mark.parametrize("case", cases("audit_one_run"))
def test_one_run_matches_the_reference(case: Any) -> None:
    given, expected = case["inputs"], case["expected"]
    counts = {
        "canaries": given["m"],
        "guesses": given["guesses"],
        "correct": given["correct"],
        "delta": given["delta"],
    }
    epsilon = one_run_epsilon(**counts, alpha=given["p"])
    assert epsilon == pytest.approx(expected["eps_lower"], rel=case["rtol"])
    p_value = one_run_p_value(**counts, epsilon=1.0)
    assert p_value == pytest.approx(expected["p_value_at_eps1"], rel=case["rtol"])


def p_value_in_fractions(m: int, r: int, v: int, odds: int, delta: Fraction) -> Fraction:
    """The theorem term by term; epsilon is ln(odds)."""
    right = Fraction(odds, odds + 1)
    mass = [math.comb(r, k) * right**k * (1 - right) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:], Fraction(0))
    slopes = [sum(mass[v - i : v], Fraction(0)) / i for i in range(1, v + 1)]
    return min(Fraction(1), beta + 2 * m * delta * max(slopes, default=Fraction(0)))


@pytest.mark.parametrize(
    ("m", "r", "v", "odds", "delta"),
    [(20, 20, 18, 2, "1/1000"), (50, 10, 10, 7, "1/100000"), (9, 5, 1, 3, "1/10"), (8, 8, 0, 2, 0)],
)
def test_one_run_p_value_in_exact_arithmetic(
    m: int, r: int, v: int, odds: int, delta: str | int
) -> None:
    exact = p_value_in_fractions(m, r, v, odds, Fraction(delta))
    found = one_run_p_value(
        canaries=m, guesses=r, correct=v, epsilon=math.log(odds), delta=float(Fraction(delta))
    )
    assert found == pytest.approx(float(exact), rel=1e-10)


def test_delta_is_not_forgotten() -> None:
    counts = {"canaries": 1000, "guesses": 100, "correct": 95}
    pure = one_run_epsilon(**counts, delta=0.0, alpha=0.05)
    assert one_run_epsilon(**counts, delta=1e-3, alpha=0.05) < pure - 0.1
    assert one_run_epsilon(canaries=10, guesses=10, correct=5, delta=0.0, alpha=0.05) == 0.0
    runs = {"hits": 200, "hit_runs": 1000, "misses": 0, "miss_runs": 1000}
    without = clopper_pearson_ratio(**runs, delta=0.0, alpha=0.05)
    assert clopper_pearson_ratio(**runs, delta=0.1, alpha=0.05) < 0.6 * without
    assert clopper_pearson_epsilon(**runs, delta=0.5, alpha=0.05) == -math.inf


def test_counts_at_the_ends() -> None:
    nothing = {"hits": 0, "hit_runs": 9, "misses": 9, "miss_runs": 9}
    assert clopper_pearson_ratio(**nothing, delta=0.0, alpha=0.05) == 0.0
    everything = {"hits": 9, "hit_runs": 9, "misses": 9, "miss_runs": 9}
    # The rule of three's exact form: (alpha / 2)^(1 / n).
    assert clopper_pearson_ratio(**everything, delta=0.0, alpha=0.05) == pytest.approx(
        0.025 ** (1 / 9)
    )


def gaussian_delta(epsilon: float, deviation: float) -> float:
    """Balle and Wang (2018), Theorem 8, sensitivity 1."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = 1 / (2 * deviation), epsilon * deviation
    return phi(a - b) - math.exp(epsilon) * phi(-a - b)


EPSILON, DELTA = 2.0, 1e-5
#: Deviation of a Gaussian mechanism of sensitivity 1 at (2, 1e-5), from the reference values.
DEVIATION = 1.99379


def test_the_gaussian_of_these_tests_is_tight() -> None:
    assert gaussian_delta(EPSILON, DEVIATION) == pytest.approx(DELTA, rel=2e-3)


def test_threshold_audit_accepts_the_claim_and_catches_half_the_noise() -> None:
    rng = np.random.default_rng(21)
    empty = rng.normal(0, 1, 200_000)
    canary = rng.normal(0, 1, 200_000)

    def audit(deviation: float, sign: int = 1) -> Any:
        return threshold_audit(
            sign * (canary * deviation + 1),
            sign * empty * deviation,
            claimed_epsilon=EPSILON,
            delta=DELTA,
        )

    right = audit(DEVIATION)
    assert right.verdict == "consistent"
    # It is a test with power: nearly half of the true epsilon is seen.
    assert 0.9 < right.epsilon_lower < EPSILON
    for fault in (audit(DEVIATION / 2), audit(DEVIATION / math.sqrt(10))):
        assert fault.verdict == "violates" and fault.epsilon_lower > EPSILON
    assert "claimed 2 " in fault.sentence()
    # Scores that fall with the canary do not tell anything by themselves.
    assert audit(DEVIATION / 2, -1).epsilon_lower == 0.0


def test_threshold_audit_uses_both_directions() -> None:
    # Empty runs alone reach the low scores: only P(empty <= t) / P(canary <= t) is large.
    rng = np.random.default_rng(22)
    empty = np.where(rng.random(20_000) < 0.05, -1.0, 0.0)
    canary = np.zeros(20_000)
    found = threshold_audit(canary, empty, claimed_epsilon=1.0, delta=0.0)
    assert found.direction == "empty-below" and found.verdict == "violates"
    mirrored = threshold_audit(-empty, -canary, claimed_epsilon=1.0, delta=0.0)
    assert mirrored.direction == "canary-above" and mirrored.verdict == "violates"
    assert mirrored.epsilon_lower == pytest.approx(found.epsilon_lower, abs=0.2)


def test_threshold_audit_keeps_its_promise() -> None:
    # Randomised response at epsilon = 1 exactly: the hardest correct mechanism to clear.
    rng, right = np.random.default_rng(23), math.e / (1 + math.e)
    accused = 0
    for _ in range(1000):
        canary, empty = rng.random(400) < right, rng.random(400) >= right
        accused += (
            threshold_audit(
                canary.astype(float),
                empty.astype(float),
                claimed_epsilon=1.0,
                delta=0.0,
                false_alarm=0.1,
            ).verdict
            == "violates"
        )
    assert 1 <= accused <= 100 + 40


def test_one_run_audit_accepts_the_claim_and_catches_missing_noise() -> None:
    # The same mechanism's claim at a delta that is small beside the false-alarm rate.
    delta, low, high = 1e-10, 1.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, DEVIATION) > delta else (low, middle)
    claim = {"claimed_epsilon": high, "delta": delta}
    rng = np.random.default_rng(24)
    coins = rng.random(20_000) < 0.5
    noise = rng.normal(0, 1, 20_000)
    right = one_run_audit(coins + noise * DEVIATION, coins, **claim)
    assert right.verdict == "consistent" and 0.3 < right.epsilon_lower < high
    assert (right.canaries, right.guesses) == (20_000, 2500)
    wrong = one_run_audit(coins + noise * DEVIATION / math.sqrt(20), coins, **claim)
    assert wrong.verdict == "violates" and wrong.epsilon_lower > high
    assert wrong.p_value < 1e-6
    assert "of 2500 guesses about 20000 canaries" in wrong.sentence()
    # At a large delta even perfect guesses prove nothing, so the test refuses to run.
    with pytest.raises(secagg.MisuseError, match="cannot fail"):
        one_run_audit(1.0 * coins, coins, claimed_epsilon=EPSILON, delta=DELTA)


def test_one_run_audit_keeps_its_promise() -> None:
    # A guess per canary, each right with probability e / (1 + e): epsilon is exactly 1.
    rng, right = np.random.default_rng(25), math.e / (1 + math.e)
    accused = 0
    for _ in range(1000):
        coins = rng.random(200) < 0.5
        told = coins ^ (rng.random(200) >= right)
        accused += (
            one_run_audit(
                told.astype(float),
                coins,
                claimed_epsilon=1.0,
                delta=0.0,
                guesses=100,
                false_alarm=0.1,
            ).verdict
            == "violates"
        )
    assert 1 <= accused <= 100 + 40


def test_scores_are_one_for_the_canary_and_zero_without() -> None:
    direction = np.array([3.0, 4.0])
    sums = np.array([[30, 40], [0, 0], [-4, 3]])
    assert canary_scores(sums, direction, norm_levels=50.0).tolist() == [1.0, 0.0, 0.0]
    each = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert canary_scores(sums, each, norm_levels=10.0).tolist() == [3.0, 0.0, 0.3]
    for bad in (np.zeros(2), np.ones(3)):
        with pytest.raises(secagg.MisuseError):
            canary_scores(sums, bad, norm_levels=1.0)
    with pytest.raises(secagg.MisuseError):
        canary_scores(sums, direction, norm_levels=0.0)
    with pytest.raises(secagg.MisuseError):
        canary_scores(sums[0], direction, norm_levels=1.0)


SCORES = np.arange(10.0)
CALLS: list[Any] = [
    lambda: threshold_audit(SCORES[:1], SCORES, claimed_epsilon=1.0, delta=0.0),
    lambda: threshold_audit(SCORES * math.nan, SCORES, claimed_epsilon=1.0, delta=0.0),
    lambda: threshold_audit(SCORES, SCORES, claimed_epsilon=-1.0, delta=0.0),
    lambda: threshold_audit(SCORES, SCORES, claimed_epsilon=math.nan, delta=0.0),
    lambda: threshold_audit(SCORES, SCORES, claimed_epsilon=1.0, delta=1.0),
    lambda: one_run_audit(SCORES, SCORES, claimed_epsilon=1.0, delta=0.0),
    lambda: one_run_audit(SCORES, SCORES[1:] > 4, claimed_epsilon=1.0, delta=0.0),
    lambda: one_run_audit(SCORES, SCORES > 4, claimed_epsilon=1.0, delta=0.0, guesses=11),
    lambda: one_run_audit(SCORES, SCORES > 4, claimed_epsilon=1.0, delta=0.0, guesses=0),
    lambda: one_run_epsilon(canaries=5, guesses=6, correct=1, delta=0.0, alpha=0.1),
    lambda: one_run_p_value(canaries=5, guesses=5, correct=6, epsilon=1.0, delta=0.0),
    lambda: clopper_pearson_ratio(hits=3, hit_runs=2, misses=0, miss_runs=1, delta=0.0, alpha=0.1),
]


@pytest.mark.parametrize("call", CALLS)
def test_what_cannot_be_audited_is_refused(call: Any) -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        call()
    assert caught.value.rule == "audit"
