"""Laws of noise sums against probabilities that are computed another way."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import secagg
from secagg.dp.audit import NoiseSum
from secagg.dp.audit import laws as laws_module


def weights_of(pmf: dict[int, Fraction]) -> dict[int, float]:
    total = sum(pmf.values())
    return {x: float(p / total) for x, p in pmf.items()}


def gaussian(variance: int, reach: int) -> dict[int, Fraction]:
    """Unnormalised weights as fractions, exact to a double's last digit each."""
    return {x: Fraction(math.exp(-x * x / (2 * variance))) for x in range(-reach, reach + 1)}


def add(first: dict[int, Fraction], second: dict[int, Fraction]) -> dict[int, Fraction]:
    total: dict[int, Fraction] = {}
    for x, p in first.items():
        for y, q in second.items():
            total[x + y] = total.get(x + y, Fraction(0)) + p * q
    return total


@pytest.mark.parametrize(("variance", "sites"), [(1, 1), (1, 3), (2, 5), (5, 2)])
def test_sums_of_discrete_gaussians_match_exact_convolution(variance: int, sites: int) -> None:
    one = gaussian(variance, 9 * math.isqrt(variance) + 9)
    total = one
    for _ in range(sites - 1):
        total = add(total, one)
    exact = weights_of(total)
    found = NoiseSum(law="discrete-gaussian", parameter=variance, sites=sites).histogram
    assert found.width == 1
    for x, p in exact.items():
        if abs(x) <= 30:
            assert found.probabilities[x - found.first] == pytest.approx(p, rel=1e-9, abs=2e-16)


@pytest.mark.parametrize(("variance", "sites"), [(1, 1), (4, 3), (1000, 2)])
def test_skellam_sums_match_the_bessel_function(variance: int, sites: int) -> None:
    special = pytest.importorskip("scipy.special")
    found = NoiseSum(law="skellam", parameter=variance, sites=sites).histogram
    x = np.arange(-20, 21)
    exact = special.ive(np.abs(x), float(variance * sites))
    assert found.probabilities[x - found.first] == pytest.approx(exact, rel=1e-9, abs=2e-16)


@pytest.mark.parametrize(("scale", "shares"), [(1, 1), (3, 4), (50, 10)])
def test_as_many_shares_as_planned_make_one_discrete_laplace(scale: int, shares: int) -> None:
    law = NoiseSum(law="discrete-laplace", parameter=scale, sites=shares, shares=shares)
    x = np.arange(-5 * scale, 5 * scale + 1)
    exact = math.tanh(0.5 / scale) * np.exp(-np.abs(x) / scale)
    found = law.histogram
    assert found.probabilities[x - found.first] == pytest.approx(exact, rel=1e-9, abs=2e-16)
    assert law.variance == pytest.approx(0.5 / math.sinh(0.5 / scale) ** 2, rel=1e-12)


def test_polya_shares_match_a_convolution_of_negative_binomials() -> None:
    # Five survivors of four shares: the difference of two negative binomials of size 5 / 4.
    scale, size = 3, 1.25
    beta = math.exp(-1 / scale)
    mass = [(1 - beta) ** size]
    for k in range(400):
        mass.append(mass[-1] * (size + k) / (k + 1) * beta)
    found = NoiseSum(law="discrete-laplace", parameter=scale, sites=5, shares=4).histogram
    for x in range(15):
        exact = sum(a * b for a, b in zip(mass[x:], mass, strict=False))
        assert found.probabilities[x - found.first] == pytest.approx(exact, rel=1e-9)
        assert found.probabilities[-x - found.first] == pytest.approx(exact, rel=1e-9)


LAWS = [
    NoiseSum(law="discrete-gaussian", parameter=4, sites=3),
    NoiseSum(law="skellam", parameter=3, sites=2),
    NoiseSum(law="skellam", parameter=10**6, sites=50),
    NoiseSum(law="discrete-laplace", parameter=20, sites=10, shares=8),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_moments_agree_with_the_probabilities(law: NoiseSum) -> None:
    second = law.histogram.moment(2)
    assert second == pytest.approx(law.variance, rel=1e-8)
    kurtosis = law.histogram.moment(4) / second**2 - 3
    assert kurtosis == pytest.approx(law.excess_kurtosis, abs=1e-6)
    assert float(law.histogram.probabilities.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_wide_law_in_bins_of_several_levels_is_the_same_law(
    law: NoiseSum, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = law.histogram
    monkeypatch.setattr(laws_module, "_MOST_BINS", 64)
    laws_module._histogram.cache_clear()
    pooled = law.histogram
    laws_module._histogram.cache_clear()
    assert pooled.width > full.width and pooled.width % 2 == 1
    if full.width > 1:
        return
    half = (pooled.width - 1) // 2
    for index in range(-10, 11):
        start = index * pooled.width - half - full.first
        exact = full.probabilities[max(0, start) : max(0, start + pooled.width)].sum()
        assert pooled.probabilities[index - pooled.first] == pytest.approx(exact, abs=1e-14)


def test_counts_fall_into_the_bins_of_their_levels() -> None:
    law = NoiseSum(law="discrete-gaussian", parameter=1)
    histogram = laws_module.Histogram(width=3, first=-2, probabilities=np.full(5, 0.2))
    values: list[int] = [-99, -5, -4, -2, -1, 0, 1, 2, 4, 5, 99]
    # Bins: (-7..-5), (-4..-2), (-1..1), (2..4), (5..7); what lies outside counts at the ends.
    assert histogram.counts(np.array(values)).tolist() == [2, 2, 3, 2, 2]
    assert histogram.centres.tolist() == [-6, -3, 0, 3, 6]
    assert law.histogram.counts(np.array([0, 0, 1])).sum() == 3


BAD: list[dict[str, Any]] = [
    {"law": "skellam", "parameter": 0},
    {"law": "skellam", "parameter": 1.5},
    {"law": "skellam", "parameter": True},
    {"law": "skellam", "parameter": 3, "sites": 0},
    {"law": "discrete-laplace", "parameter": 3, "shares": 0},
    {"law": "laplace", "parameter": 3},
    {"law": "skellam", "parameter": 3, "shares": 2},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_a_law_without_meaning_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        NoiseSum(**fields)
    assert caught.value.rule == "audit"


def test_probabilities_cannot_be_changed_in_the_cache() -> None:
    cached: npt.NDArray[np.float64] = NoiseSum(law="skellam", parameter=3).histogram.probabilities
    with pytest.raises(ValueError, match="read-only"):
        cached[0] = 1.0
