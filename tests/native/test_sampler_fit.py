"""Samples against exact probabilities, by chi-square.

Probabilities are computed here, not read from the tables. Seeds are fixed, so that a test which
passes once always passes; one test draws fresh seeds, at a level that a working sampler fails once
in a billion runs for each law.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from secagg_native import sampler
from secagg_native.sampler import Draws

LEVEL = 1e-6
#: Neighbouring values share a bin until so many of the samples are expected in it.
EXPECTED = 25


def gaussian(sigma):
    x = np.arange(int(9 * sigma) + 10, dtype=float)
    return normalised(np.exp(-((x / sigma) ** 2) / 2))


def skellam(variance):
    x = np.arange(int(9 * variance**0.5) + 30, dtype=float)
    return normalised(special.ive(x, float(variance)))


def laplace(scale):
    return normalised(np.exp(-np.arange(int(40 * scale) + 40) / scale))


def polya(scale, shares):
    """Negative binomial variables and their difference, by a plain convolution."""
    k = np.arange(60 * scale)
    single = stats.nbinom.pmf(k, 1 / shares, -np.expm1(-1 / scale))
    return normalised(np.correlate(single, single, "full")[len(k) - 1 :])


def binomial(trials):
    x = np.arange(trials // 2 + 1)
    return normalised(stats.binom.pmf(trials // 2 + x, trials, 0.5))


def normalised(weights):
    return weights / (weights[0] + 2 * weights[1:].sum())


def test_the_bessel_functions_are_exact_enough():
    """Their recurrence holds where the samples of the largest case lie."""
    z, x = 1e8, np.arange(1, 60_000, dtype=float)
    values = special.ive(np.arange(60_001, dtype=float), z)
    gap = values[:-2] - values[2:] - 2 * x / z * values[1:-1]
    assert np.abs(gap / values[1:-1]).max() < 1e-9
    assert values[0] + 2 * special.ive(np.arange(1, 90_000, dtype=float), z).sum() == pytest.approx(
        1, rel=1e-12
    )


def p_value(samples, probabilities):
    """The chi-square p-value of samples for P(x) = P(-x) = probabilities[|x|]."""
    top = len(probabilities) - 1
    both = np.concatenate([probabilities[:0:-1], probabilities])
    counts = np.bincount(np.clip(samples, -top - 1, top + 1) + top + 1, minlength=2 * top + 3)
    expected = len(samples) * np.concatenate([[0], both, [0]])
    # Bins are cut where the running sum of what is expected has grown enough.
    running = np.cumsum(expected)
    edges, last = [0], 0.0
    while last + EXPECTED < running[-1]:
        place = int(np.searchsorted(running, last + EXPECTED)) + 1
        edges.append(place)
        last = running[min(place, len(running)) - 1]
    edges = np.array(edges[:-1])
    want, got = np.add.reduceat(expected, edges), np.add.reduceat(counts, edges)
    assert got.sum() == len(samples)
    assert len(want) > 1
    statistic = ((got - want) ** 2 / want).sum()
    return float(stats.chi2.sf(statistic, len(want) - 1))


def draw(law, count, label):
    out = np.empty(count, np.int64)
    Draws(law.tables, hashlib.sha256(label.encode()).digest()).write(out, 0)
    return out


def whole(parts):
    """The sum of what several sites draw, each from a seed of its own."""

    def sample(law, count, label):
        return sum(draw(law, count, f"{label}, site {site}") for site in range(parts))

    return sample


CASES = {
    "gaussian, sigma 0.3": (sampler.discrete_gaussian(Fraction(9, 100)), lambda: gaussian(0.3)),
    "gaussian, sigma 1": (sampler.discrete_gaussian(1), lambda: gaussian(1)),
    "gaussian, sigma 2": (sampler.discrete_gaussian(4), lambda: gaussian(2)),
    "gaussian, sigma 100": (sampler.discrete_gaussian(10**4), lambda: gaussian(100)),
    "gaussian, sigma 1e4": (sampler.discrete_gaussian(10**8), lambda: gaussian(1e4)),
    "skellam, variance 4": (sampler.skellam(4), lambda: skellam(4)),
    "skellam, variance 1e8": (sampler.skellam(10**8), lambda: skellam(10**8)),
    "laplace, scale 1": (sampler.discrete_laplace(1), lambda: laplace(1)),
    "laplace, scale 10": (sampler.discrete_laplace(10), lambda: laplace(10)),
    "laplace, scale 1e4": (sampler.discrete_laplace(10**4), lambda: laplace(10**4)),
    "polya, scale 5, 3 shares": (sampler.polya_difference(5, 3), lambda: polya(5, 3)),
    "binomial, 100 trials": (sampler.binomial(100), lambda: binomial(100)),
}
SUMS = {
    "3 parts of scale 1": (sampler.polya_difference(1, 3), 3, lambda: laplace(1)),
    "5 parts of scale 10": (sampler.polya_difference(10, 5), 5, lambda: laplace(10)),
}


def check(law, ideal, count, label, sample=draw):
    found = p_value(sample(law, count, label), ideal())
    # A fit that is too good is as suspect as a bad one.
    assert LEVEL < found < 1 - LEVEL


@pytest.mark.parametrize("name", CASES)
def test_ten_million_samples_fit(name):
    law, ideal = CASES[name]
    check(law, ideal, 10**7, name)


@pytest.mark.parametrize("name", SUMS)
def test_ten_million_sums_of_polya_parts_fit_the_discrete_laplace_law(name):
    law, parts, ideal = SUMS[name]
    check(law, ideal, 10**7, name, whole(parts))


@pytest.mark.parametrize("name", CASES)
def test_fresh_seeds_fit(name):
    law, ideal = CASES[name]
    assert p_value(sampler.sample(law, 400_000), ideal()) > 1e-9


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        (sampler.discrete_gaussian(4), lambda: gaussian(2.02)),
        (sampler.discrete_gaussian(10**4), lambda: gaussian(102)),
        (sampler.discrete_gaussian(10**8), lambda: gaussian(1.04e4)),
        (sampler.skellam(4), lambda: gaussian(2)),
        (sampler.discrete_laplace(10), lambda: laplace(10.2)),
        (sampler.polya_difference(5, 3), lambda: polya(5, 4)),
    ],
    ids=lambda value: str(value) if isinstance(value, sampler.Law) else "",
)
def test_samples_of_another_law_do_not_fit(law, wrong):
    assert p_value(draw(law, 400_000, "power"), wrong()) < LEVEL


def test_coordinates_are_independent():
    """Pairs of coordinates at several distances have the product of the laws, at sigma 1."""
    samples = draw(sampler.discrete_gaussian(1), 10**6, "neighbours")
    one = gaussian(1)
    values = np.arange(-3, 4)
    single = one[np.abs(values)]
    single[[0, -1]] += one[4:].sum()
    places = np.clip(samples, -3, 3) + 3
    for lag in (1, 2, 3, 4, 8, 32):
        got = np.bincount(places[:-lag] * 7 + places[lag:], minlength=49)
        want = np.outer(single, single).ravel() * (len(samples) - lag)
        # Overlapping pairs repeat the law of one value, hence their sum is about chi-square(42).
        single_got = np.bincount(places, minlength=7)
        single_want = single * len(samples)
        statistic = ((got - want) ** 2 / want).sum() - (
            (single_got - single_want) ** 2 / single_want
        ).sum()
        assert statistic < stats.chi2.isf(1e-9, 42)
