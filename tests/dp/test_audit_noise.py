"""Tests of noise itself: correct noise passes as often as promised, wrong noise is caught."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import secagg
from secagg.dp.audit import (
    Histogram,
    NoiseSum,
    Report,
    fit_test,
    repeat_test,
    reuse_test,
    sensitivity_check,
    variance_test,
)

Integers = npt.NDArray[np.int64]


def draw(rng: np.random.Generator, law: NoiseSum, shape: Any) -> Integers:
    """The sum of one more textbook sampler per site; none of them uses the law's own table."""
    total = np.zeros(shape, dtype=np.int64)
    for _ in range(law.sites):
        if law.law == "skellam":
            half = law.parameter / 2
            total += rng.poisson(half, shape) - rng.poisson(half, shape)
        elif law.law == "discrete-laplace":
            size, stop = 1 / law.shares, -math.expm1(-1 / law.parameter)
            total += rng.negative_binomial(size, stop, shape)
            total -= rng.negative_binomial(size, stop, shape)
        else:
            reach = 12 * math.isqrt(law.parameter) + 12
            x = np.arange(-reach, reach + 1)
            weights = np.exp(-(x**2) / (2 * law.parameter))
            total += rng.choice(x, size=shape, p=weights / weights.sum())
    return total


LAWS = {
    "gaussian-small": NoiseSum(law="discrete-gaussian", parameter=1),
    "gaussian": NoiseSum(law="discrete-gaussian", parameter=400, sites=5),
    "skellam-small": NoiseSum(law="skellam", parameter=2, sites=2),
    "skellam": NoiseSum(law="skellam", parameter=3000),
    "laplace": NoiseSum(law="discrete-laplace", parameter=4, sites=5, shares=4),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("size", [1, 64, 4096])
def test_correct_noise_is_accused_no_more_often_than_promised(name: str, size: int) -> None:
    law, rng, runs = LAWS[name], np.random.default_rng(5), 200 if size > 64 else 1000
    samples = draw(rng, law, (runs, size))
    results = [variance_test(row, law, false_alarm=0.05) for row in samples]
    accused = sum(result.verdict == "violates" for result in results)
    # 0.05 runs are expected at most; the fixed seed stays within four deviations above it.
    assert accused <= 0.05 * runs + 4 * math.sqrt(0.05 * runs)
    if results[0].method == "chi-square":
        assert accused >= 0.05 * runs - 4 * math.sqrt(0.05 * runs)
    for result in results[:50]:
        assert (result.p_value < 0.05) == (result.verdict == "violates")
    assert variance_test(samples, law).verdict == "consistent"


@pytest.mark.parametrize("name", LAWS)
def test_p_values_of_correct_noise_are_not_too_small(name: str) -> None:
    law, rng = LAWS[name], np.random.default_rng(6)
    values = np.array([variance_test(row, law).p_value for row in draw(rng, law, (400, 256))])
    for level in (0.5, 0.1, 0.01):
        assert (values < level).sum() <= 400 * level + 4 * math.sqrt(400 * level)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_half_or_twice_the_noise_is_caught(name: str, factor: float) -> None:
    law, rng = LAWS[name], np.random.default_rng(7)
    samples = np.rint(draw(rng, law, 65536) * math.sqrt(factor)).astype(np.int64)
    result = variance_test(samples, law)
    assert result.verdict == "violates"
    assert result.p_value < 1e-6
    assert (result.statistic < 1) == (factor < 1)


def test_one_run_of_65536_coordinates_resolves_three_percent() -> None:
    law = NoiseSum(law="discrete-gaussian", parameter=10_000, sites=10)
    rng = np.random.default_rng(8)
    noise = np.rint(rng.normal(0, math.sqrt(law.variance), 65536)).astype(np.int64)
    result = variance_test(noise, law)
    assert result.method == "chi-square" and result.verdict == "consistent"
    # Textbook values: the normal approximation's limits are 1 -+ 4.89 sqrt(2 / 65536).
    assert result.low == pytest.approx(1 - 4.8916 * math.sqrt(2 / 65536), abs=3e-4)
    assert result.high == pytest.approx(1 + 4.8916 * math.sqrt(2 / 65536), abs=3e-4)
    assert variance_test(np.rint(noise * math.sqrt(0.95)).astype(np.int64), law).verdict == (
        "violates"
    )


def test_chi_square_limits_are_the_quantiles_of_the_table() -> None:
    # Upper 2.5 % and lower 2.5 % of chi-square with 100 degrees of freedom, from printed tables.
    law = NoiseSum(law="discrete-gaussian", parameter=10**8)
    result = variance_test(np.ones(100, dtype=np.int64), law, false_alarm=0.05 * 1.01)
    assert result.low == pytest.approx(0.74222, abs=1e-5)
    assert result.high == pytest.approx(1.29561, abs=1e-5)


def test_the_bound_is_little_wider_than_the_chi_square() -> None:
    # The same noise, once by its Gaussian limit and once by the bound that needs no limit.
    near = variance_test(
        np.ones(65536, dtype=np.int64), NoiseSum(law="discrete-gaussian", parameter=100)
    )
    bound = variance_test(np.ones(65536, dtype=np.int64), NoiseSum(law="skellam", parameter=100))
    assert (near.method, bound.method) == ("chi-square", "chernoff")
    assert 1.0 < (bound.high - 1) / (near.high - 1) < 1.15
    assert 1.0 < (1 - bound.low) / (1 - near.low) < 1.15


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("size", [300, 5000])
def test_fit_accuses_correct_noise_no_more_often_than_promised(name: str, size: int) -> None:
    law, rng, runs = LAWS[name], np.random.default_rng(9), 300
    samples = draw(rng, law, (runs, size))
    accused = sum(fit_test(row, law, false_alarm=0.05).verdict == "violates" for row in samples)
    # 0.4 of the rate is spent, so that about 6 of the 15 that are promised are seen.
    assert accused <= 0.05 * runs + 4 * math.sqrt(0.05 * runs)
    assert accused >= 1
    assert fit_test(samples, law).verdict == "consistent"


def test_fit_sees_another_shape_of_the_same_variance() -> None:
    rng = np.random.default_rng(10)
    claimed = NoiseSum(law="discrete-gaussian", parameter=72)
    uniform = rng.integers(-15, 16, 20000) - rng.integers(-1, 2, 20000)
    assert variance_test(uniform, claimed, false_alarm=1e-6).statistic > 0.9
    assert fit_test(uniform, claimed).verdict == "violates"
    # Noise that is moved by a level, and noise that is only ever even.
    good = draw(rng, claimed, 200_000)
    assert fit_test(good, claimed).verdict == "consistent"
    assert fit_test(good + 1, claimed).verdict == "violates"
    assert fit_test(good // 2 * 2, claimed).verdict == "violates"


def test_fit_takes_probabilities_from_elsewhere() -> None:
    rng = np.random.default_rng(11)
    fair = Histogram(width=1, first=-1, probabilities=np.full(3, 1 / 3))
    samples = rng.integers(-1, 2, 3000)
    result = fit_test(samples, fair)
    counts = np.bincount(samples + 1)
    # Pearson's statistic in plain numbers.
    assert result.statistic == pytest.approx(sum((c - 1000) ** 2 / 1000 for c in counts.tolist()))
    assert (result.bins, result.samples, result.verdict) == (3, 3000, "consistent")
    with pytest.raises(secagg.MisuseError, match="add up"):
        fit_test(samples, Histogram(width=1, first=-1, probabilities=np.full(3, 0.3)))
    with pytest.raises(secagg.MisuseError, match="too few"):
        fit_test(samples[:20], fair)


def test_reuse_keeps_its_promise_and_finds_one_site_in_twenty() -> None:
    rng = np.random.default_rng(12)
    law = NoiseSum(law="discrete-laplace", parameter=3, sites=1, shares=1)
    x, y = draw(rng, law, (2000, 200)), draw(rng, law, (2000, 200))
    results = [reuse_test(a, b, false_alarm=0.05) for a, b in zip(x, y, strict=True)]
    accused = sum(result.verdict == "violates" for result in results)
    assert 1 <= accused <= 100 + 4 * 10
    assert all((r.p_value < 0.05) == (r.verdict == "violates") for r in results)

    sites = draw(rng, NoiseSum(law="skellam", parameter=50), (2, 20, 65536))
    assert reuse_test(sites[0].sum(0), sites[1].sum(0)).verdict == "consistent"
    sites[1, 3] = sites[0, 3]
    shared = reuse_test(sites[0].sum(0), sites[1].sum(0))
    assert shared.verdict == "violates"
    assert shared.statistic == pytest.approx(1 / 20, abs=0.02)
    assert reuse_test(sites[0, 0], sites[0, 0]).statistic == pytest.approx(1.0)
    assert reuse_test(sites[0, 0], -sites[0, 0]).verdict == "violates"
    assert reuse_test(np.zeros(4, dtype=np.int64), x[0, :4]).verdict == "consistent"


def test_sensitivity_is_exact() -> None:
    vectors = [np.array([3, -4]), np.array([0, 4])]
    right = sensitivity_check(vectors, l1_levels=7.0, l2_levels=5.0)
    assert (right.l1, right.l2, right.vectors, right.verdict) == (7.0, 5.0, 2, "consistent")
    assert sensitivity_check(vectors, l2_levels=4.99).verdict == "violates"
    assert sensitivity_check(vectors, l1_levels=6.99).verdict == "violates"
    assert sensitivity_check(vectors, l1_levels=6.99, l2_levels=5.0).verdict == "violates"
    assert "L1" not in sensitivity_check(vectors, l2_levels=5.0).sentence()
    with pytest.raises(secagg.MisuseError):
        sensitivity_check(vectors)
    with pytest.raises(secagg.MisuseError):
        sensitivity_check([], l2_levels=1.0)


def test_a_report_accuses_when_one_finding_does() -> None:
    rng = np.random.default_rng(13)
    law = NoiseSum(law="discrete-gaussian", parameter=100)
    noise = draw(rng, law, 4096)
    good = (variance_test(noise, law), fit_test(noise, law))
    report = Report(subject="plan 01ab", findings=good)
    assert report.verdict == "consistent" and report.violations == ()
    assert report.false_alarm == pytest.approx(2e-6)
    bad = variance_test(2 * noise, law)
    report = Report(subject="plan 01ab", findings=(*good, bad))
    assert report.verdict == "violates" and report.violations == (bad,)
    lines = report.lines()
    assert len(lines) == 4
    assert lines[0].startswith("variance: consistent; variance ") and "levels^2" in lines[0]
    assert lines[2].startswith("variance: violates")
    assert lines[-1] == (
        "plan 01ab: violates; a correct build is accused with probability at most 3e-06"
    )
    with pytest.raises(secagg.MisuseError):
        Report(subject="plan", findings=())


@pytest.mark.parametrize("rate", [0.0, 1e-11, 0.6, 1, math.nan, "1e-6"])
def test_a_rate_that_cannot_be_kept_is_refused(rate: Any) -> None:
    law = NoiseSum(law="skellam", parameter=3)
    noise = np.arange(100)
    for test in (variance_test, fit_test):
        with pytest.raises(secagg.MisuseError, match="false_alarm"):
            test(noise, law, false_alarm=rate)
    with pytest.raises(secagg.MisuseError, match="false_alarm"):
        reuse_test(noise, noise, false_alarm=rate)


@pytest.mark.parametrize(
    "samples", [[], [0.5], [1.0, 2.0], ["1"], [1 << 52], [-(1 << 52)]], ids=str
)
def test_samples_are_integers_in_levels(samples: Any) -> None:
    law = NoiseSum(law="skellam", parameter=3)
    for test in (variance_test, fit_test):
        with pytest.raises(secagg.MisuseError, match="samples"):
            test(samples, law)
    with pytest.raises(secagg.MisuseError):
        reuse_test([1, 2], [1])


def test_a_stream_that_begins_anew_is_found_at_its_lag() -> None:
    rng = np.random.default_rng(14)
    law = NoiseSum(law="skellam", parameter=50)
    noise = draw(rng, law, 20_000)
    assert repeat_test(noise).verdict == "consistent"
    noise[16_384:] = noise[: 20_000 - 16_384]
    found = repeat_test(noise)
    assert (found.verdict, found.lag) == ("violates", 16_384)
    assert found.p_value < 1e-6 and "at lag 16384" in found.sentence()
    assert repeat_test(np.zeros(9, dtype=np.int64)).verdict == "consistent"
    with pytest.raises(secagg.MisuseError):
        repeat_test([1])


def test_repeat_keeps_its_promise() -> None:
    rng = np.random.default_rng(15)
    law = NoiseSum(law="discrete-laplace", parameter=3)
    rows = draw(rng, law, (1000, 100))
    results = [repeat_test(row, false_alarm=0.2) for row in rows]
    accused = sum(result.verdict == "violates" for result in results)
    assert accused <= 200 + 4 * 14
    # The bound is no tighter than it has to be, and no useless one.
    assert max(r.statistic / r.high for r in results) > 0.7
    assert all((r.p_value < 0.2) == (r.verdict == "violates") for r in results)
    # The plain sum of products at one lag, for one vector.
    x = rows[0].astype(float)
    lag = results[0].lag
    plain = abs((x[:-lag] * x[lag:]).sum()) / math.sqrt((x[:-lag] ** 2 * x[lag:] ** 2).sum())
    assert results[0].statistic == pytest.approx(plain, rel=1e-9)
