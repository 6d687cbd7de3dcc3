"""Weights against mpmath, tables against weights, and the stated distances against real ones."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import _alias, _laws, sampler

UNIT = 1 << 128
GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "dp_reference.json").read_text(encoding="utf-8")
)["cases"]


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def real(fraction):
    return mpmath.mpf(fraction.numerator) / fraction.denominator


# --- ideal laws by mpmath: probabilities of 0, 1, 2, ... until they are below 1e-50 ---
def normalised(weights):
    found = []
    for x in range(10**7):
        found.append(weights(x))
        if x > 3 and found[-1] < mpmath.mpf(10) ** -50 * found[0]:
            break
    total = found[0] + 2 * mpmath.fsum(found[1:])
    return [weight / total for weight in found]


def gaussian(variance):
    return normalised(lambda x: mpmath.exp(-x * x / (2 * real(variance))))


def laplace(scale):
    q = mpmath.exp(-1 / real(scale))
    return normalised(lambda x: q**x)


def skellam(variance):
    return normalised(lambda x: mpmath.besseli(x, variance))


def polya(scale, shares):
    """By the sum over the pairs that differ by d."""
    r, q = mpmath.mpf(1) / shares, mpmath.exp(mpmath.mpf(-1) / scale)
    single = [mpmath.mpf(1)]
    while single[-1] > mpmath.mpf(10) ** -56:
        k = len(single)
        single.append(single[-1] * q * (k - 1 + r) / k)
    count = len(single)
    return normalised(
        lambda d: mpmath.fsum(single[k] * single[k + d] for k in range(max(count - d, 0)))
    )


def binomial(trials):
    half = trials // 2
    return [mpmath.mpf(math.comb(trials, half + x)) / 2**trials for x in range(half + 1)]


def truncated(scale, size):
    q = mpmath.exp(-1 / real(scale))
    found = [mpmath.fsum(q ** (2 * r + d) for r in range(size - d)) for d in range(size)]
    total = found[0] + 2 * mpmath.fsum(found[1:])
    return [weight / total for weight in found]


def pair(name, *parameters):
    """A law's weights and its probabilities by mpmath, both to be made when they are needed."""
    ours, oracle = {
        "gaussian": (_laws.gaussian, gaussian),
        "laplace": (_laws.laplace, laplace),
        "skellam": (_laws.skellam, skellam),
        "polya": (_laws.polya_difference, polya),
        "binomial": (lambda trials: _laws.binomial(trials // 2), binomial),
        "truncated": (_laws.truncated_geometric_difference, truncated),
    }[name]
    return lambda: ours(*parameters), lambda: oracle(*parameters)


SMALL = {
    "gaussian 0.09": pair("gaussian", Fraction(9, 100)),
    "gaussian 1/1000": pair("gaussian", Fraction(1, 1000)),
    "gaussian 1": pair("gaussian", Fraction(1)),
    "gaussian 4": pair("gaussian", Fraction(4)),
    "gaussian 700/3": pair("gaussian", Fraction(700, 3)),
    "gaussian 1e4": pair("gaussian", Fraction(10**4)),
    "skellam 1": pair("skellam", 1),
    "skellam 4": pair("skellam", 4),
    "skellam 777": pair("skellam", 777),
    "laplace 1/2": pair("laplace", Fraction(1, 2)),
    "laplace 1/1000": pair("laplace", Fraction(1, 1000)),
    "laplace 10": pair("laplace", Fraction(10)),
    "polya 1, 1": pair("polya", 1, 1),
    "polya 3, 7": pair("polya", 3, 7),
    "polya 2, 1000": pair("polya", 2, 1000),
    "binomial 2": pair("binomial", 2),
    "binomial 10": pair("binomial", 10),
    "binomial 1000": pair("binomial", 1000),
    "truncated 5, 1": pair("truncated", Fraction(5), 1),
    "truncated 9/2, 32": pair("truncated", Fraction(9, 2), 32),
}


def decoded(rows):
    """Weights w[x] with P(x) = P(-x) = w[x] / 2^128, from nothing but the rows of a table."""
    count = len(rows)
    bits = count.bit_length() - 1
    capacity = 1 << (127 - bits)
    folded = [0] * count
    for column, (high, low) in enumerate(rows.tolist()):
        assert low % 2 == 0
        below = (high >> bits) * 2**63 + low // 2
        assert 0 <= below < capacity
        folded[column] += below
        folded[high % count] += capacity - below
    return [2 * folded[0], *folded[1:]]


@pytest.mark.parametrize(("make", "ideal"), SMALL.values(), ids=SMALL)
def test_weights_are_those_of_mpmath(make, ideal):
    table, want = _alias.build(make()), ideal()
    found = decoded(table.rows)
    assert table.weights() == found[: table.bound + 1]
    assert found[table.bound] > 0
    assert not any(found[table.bound + 1 :])
    assert found[0] + 2 * sum(found[1:]) == UNIT
    for weight, probability in zip(found[1:], want[1:], strict=False):
        # Each is rounded down, after the tail that is left out has raised all of them by a little.
        assert -1 < UNIT * probability - weight < 1 + mpmath.mpf(10) ** -9
    assert -1 < found[0] - UNIT * want[0] < 2 * table.bound + 1


@pytest.mark.parametrize(("make", "ideal"), SMALL.values(), ids=SMALL)
def test_the_stated_distance_is_an_upper_bound_and_a_tight_one(make, ideal):
    table, want = _alias.build(make()), ideal()
    found = decoded(table.rows)
    size = max(len(found), len(want))
    found += [0] * (size - len(found))
    want += [mpmath.mpf(0)] * (size - len(want))
    gaps = [abs(mpmath.mpf(a) / UNIT - b) for a, b in zip(found, want, strict=True)]
    distance = (gaps[0] + 2 * mpmath.fsum(gaps[1:])) / 2
    assert distance <= table.total_variation + mpmath.mpf(10) ** -48
    # Flooring, of which each point can lose a unit, is nearly all of it.
    assert table.total_variation * UNIT <= 1.1 * 2 * table.bound + 2


def test_the_stated_distance_counts_the_tail_and_the_width_of_the_bounds():
    one = _laws.ONE

    def half(wide, last):
        yield one, one + wide
        yield one // 4, one // 4 + wide
        yield last, last

    exact = _alias.build(_laws.Weights(half(0, 0)))
    assert exact.total_variation * UNIT == pytest.approx(2)
    wide = _alias.build(_laws.Weights(half(one >> 100, 0)))
    assert wide.total_variation == pytest.approx(2.0**-127 + 3 * 2.0**-100 / 1.5, rel=1e-9)
    tail = _alias.build(_laws.Weights(half(0, one >> 129)))
    extra = 2 * 2.0**-129 / 1.5
    assert tail.total_variation == pytest.approx(2.0**-127 + extra, rel=1e-9)
    slow = _alias.build(_laws.Weights(half(0, one >> 129), ratio=one - (one >> 3)))
    assert slow.total_variation == pytest.approx(2.0**-127 + 8 * extra, rel=1e-9)


@pytest.mark.parametrize(
    ("pairs", "ratio", "message"),
    [
        ([(1, 1), (1, 1)], None, "end before"),
        ([(1, 1), (0, 0)], 1, "no bound"),
    ],
)
def test_weights_that_are_not_bounded_make_no_table(pairs, ratio, message):
    scaled = [(low * _laws.ONE, high * _laws.ONE) for low, high in pairs]
    bound = None if ratio is None else ratio * _laws.ONE
    with pytest.raises(ArithmeticError, match=message):
        _alias.build(_laws.Weights(iter(scaled), bound))


# --- tables give every integer weight ---
@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**127), min_size=1, max_size=70), st.integers(0, 60))
def test_any_weights_are_given_exactly(cuts, equal):
    """Weights are the gaps between random cuts of 2^127, some of them nothing."""
    cuts = sorted([*cuts, *[cuts[0]] * equal])
    weights = [high - low for low, high in zip([0, *cuts], [*cuts, 2**127], strict=True)]
    table = _alias.Table(weights, 0.0)
    found = decoded(table.rows)
    assert found[: len(weights)] == [2 * weights[0], *weights[1:]]
    assert not any(found[len(weights) :])


BIG = {
    "gaussian, sigma 1e4": lambda: _laws.gaussian(Fraction(10**8)),
    "gaussian, largest single": lambda: _laws.gaussian(Fraction(sampler._SINGLE_VARIANCE)),
    "gaussian, largest part": lambda: _laws.gaussian(Fraction(2**44, 1448**2 + 1)),
    "skellam, variance 1e8": lambda: _laws.skellam(10**8),
    "laplace, largest single": lambda: _laws.laplace(Fraction(sampler._SINGLE_SCALE)),
    "laplace, largest rest": lambda: _laws.truncated_geometric_difference(Fraction(2**24), 2**15),
    "polya 1000, 100": lambda: _laws.polya_difference(1000, 100),
    "binomial 2^30": lambda: _laws.binomial(2**29),
}


@pytest.mark.parametrize(
    "make", [*(m for m, _ in SMALL.values()), *BIG.values()], ids=[*SMALL, *BIG]
)
def test_tables_give_every_rounded_weight(make):
    low = []
    for x, (lower, upper) in enumerate(make().pairs):
        assert lower <= upper
        # What is left out weighs less than 2^-128, whatever comes after it.
        if x and upper << 128 < low[0] + 2 * sum(low[1:2]):
            break
        low.append(lower)
    table = _alias.build(make())
    total = low[0] + 2 * sum(low[1 : table.bound + 1])
    want = [(lower << 128) // total for lower in low[: table.bound + 1]]
    want[0] = UNIT - 2 * sum(want[1:])
    assert decoded(table.rows)[: table.bound + 1] == want
    assert all(weight << 128 < total + (total >> 6) for weight in low[table.bound + 1 :])
    assert 0 < table.total_variation < 2.0**-107


def test_large_skellam_weights_meet_the_recurrence_of_bessel_functions():
    """2n I_n = z (I_(n-1) - I_(n+1)), and the weights fall: there is but one such sequence."""
    z, found = 10**8, _alias.build(_laws.skellam(10**8)).weights()
    for n in range(2, len(found) - 1):
        gap = 2 * n * found[n] - z * (found[n - 1] - found[n + 1])
        assert abs(gap) <= 2 * n + 2 * z
    assert all(a >= b for a, b in pairwise(found))
    second = 2 * sum(x * x * weight for x, weight in enumerate(found))
    assert second / UNIT == pytest.approx(10**8, rel=1e-14)


# --- bounds of the fixed-point arithmetic ---
@settings(max_examples=150)
@given(st.fractions(min_value=0, max_value=60, max_denominator=10**12))
def test_exponentials_lie_between_their_bounds(y):
    low, high = _laws.exp_minus(y)
    with mpmath.workdps(120):
        assert low <= mpmath.exp(-real(y)) * _laws.ONE <= high
    assert high - low <= 2


@pytest.mark.parametrize("y", [Fraction(10**30), Fraction(1, 10**30), Fraction(177), Fraction(0)])
def test_exponentials_of_extreme_numbers(y):
    low, high = _laws.exp_minus(y)
    with mpmath.workdps(120):
        assert low <= mpmath.exp(-real(y)) * _laws.ONE <= high
    assert high - low <= 2


PAIRS = {
    "gaussian": (
        lambda: _laws.gaussian(Fraction(10**4, 3)),
        lambda x: mpmath.exp(mpmath.mpf(-3 * x * x) / (2 * 10**4)),
    ),
    "skellam": (
        lambda: _laws.skellam(5000),
        lambda x: mpmath.besseli(x, 5000) / mpmath.besseli(0, 5000),
    ),
    "laplace": (
        lambda: _laws.laplace(Fraction(20, 3)),
        lambda x: mpmath.exp(mpmath.mpf(-3 * x) / 20),
    ),
    "polya": (
        lambda: _laws.polya_difference(7, 4),
        lambda d: mpmath.exp(mpmath.mpf(-d) / 7)
        * mpmath.rf(mpmath.mpf(1) / 4, d) / mpmath.factorial(d)
        * mpmath.hyp2f1(0.25, d + 0.25, d + 1, mpmath.exp(mpmath.mpf(-2) / 7))
        / mpmath.hyp2f1(0.25, 0.25, 1, mpmath.exp(mpmath.mpf(-2) / 7)),
    ),
    "binomial": (
        lambda: _laws.binomial(300),
        lambda x: mpmath.mpf(math.comb(600, 300 + x)) / math.comb(600, 300),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "ideal"), PAIRS.values(), ids=PAIRS)
def test_weights_lie_between_their_bounds(make, ideal):
    with mpmath.workdps(120):
        for x, (low, high) in zip(range(301), make().pairs, strict=False):
            if x in (0, 1, 2, 3, 10, 57, 150, 299, 300):
                weight = ideal(x) * _laws.ONE
                # A unit in 10^115 is for mpmath's own rounding.
                assert low <= weight * (1 + mpmath.mpf(10) ** -115)
                assert weight * (1 - mpmath.mpf(10) ** -115) <= high
            assert high - low <= max(1 << 40, high >> 160)


# --- laws of two parts ---
def convolved(tables):
    """Numerators over 2^256 of the law of factor1 * X1 + factor2 * X2."""
    (k, first), (one, second) = tables.parts
    assert one == 1
    a, b = first.weights(), second.weights()
    found = {}
    for i in range(-first.bound, first.bound + 1):
        for j in range(-second.bound, second.bound + 1):
            x = k * i + j
            found[x] = found.get(x, 0) + a[abs(i)] * b[abs(j)]
    assert sum(found.values()) == UNIT**2
    return found


@pytest.mark.parametrize("k", [5, 6, 7, 8])
def test_convolutions_are_within_their_stated_ratio(k):
    """At sigma = 40 the ratio is large enough to be seen; the bound is met within a factor of 3."""
    tables = sampler._convolved_gaussian(Fraction(1600), k)
    found, want = convolved(tables), gaussian(Fraction(1600))
    assert 0 < tables.log_ratio < 0.1
    largest = max(
        abs(mpmath.log(mpmath.mpf(found[x]) / UNIT**2 / want[abs(x)])) for x in range(-240, 241)
    )
    assert tables.log_ratio / 3 < largest <= tables.log_ratio
    assert tables.bound == (k + 1) * tables.parts[0][1].bound


@pytest.mark.parametrize(
    "variance",
    [2**24 + 1, Fraction(2**25 + 1, 2), 10**8, 2**30 + 12345, Fraction(10**13, 7), 2**40, 2**44],
)
def test_large_gaussians_have_a_ratio_that_does_not_count(variance):
    tables = sampler.discrete_gaussian(variance).tables
    (k, table), (one, same) = tables.parts
    assert (one, table) == (1, same)
    # s = sigma / (k^2 + 1) is at least 2, and k the largest for which it is.
    assert 4 * (k * k + 1) ** 2 <= variance < 4 * ((k + 1) ** 2 + 1) ** 2
    s = math.sqrt(variance) / (k * k + 1)
    assert tables.log_ratio == pytest.approx(4 * math.exp(-2 * math.pi**2 * s * s), rel=1e-6)
    assert 0 < tables.log_ratio < 2.0**-110
    assert tables.total_variation == pytest.approx(2 * table.total_variation, rel=1e-12)
    assert table.bits <= 16
    weights = table.weights()
    second = Fraction(2 * sum(x * x * weight for x, weight in enumerate(weights)), UNIT)
    assert float((k * k + 1) * second) == pytest.approx(float(variance), rel=1e-13)


def test_gaussians_up_to_the_limit_of_one_table_are_exact():
    tables = sampler.discrete_gaussian(2**24).tables
    assert len(tables.parts) == 1
    assert tables.log_ratio == 0


@pytest.mark.parametrize(
    ("scale", "k"), [(Fraction(12), 8), (Fraction(7, 3), 3), (Fraction(9), 40)]
)
def test_split_laplace_laws_are_exact(scale, k):
    tables = sampler._split_laplace(scale, k)
    found, want = convolved(tables), laplace(scale)
    far = mpmath.exp(-mpmath.mpf(len(want)) / real(scale))
    distance = far
    for x in range(-max(len(want) - 1, tables.bound), max(len(want) - 1, tables.bound) + 1):
        ideal = want[abs(x)] if abs(x) < len(want) else 0
        distance += abs(mpmath.mpf(found.get(x, 0)) / UNIT**2 - ideal) / 2
    assert distance <= tables.total_variation
    assert tables.total_variation < 2.0**-115
    assert tables.log_ratio == 0


@pytest.mark.parametrize("scale", [513, 2**12, 10**4, 2**16, 2**20 + 7, 2**24])
def test_large_laplace_laws_have_small_tables(scale):
    tables = sampler.discrete_laplace(scale).tables
    (k, multiples), (one, rest) = tables.parts
    assert one == 1
    assert rest.bound == k - 1
    assert max(multiples.bits, rest.bits) <= 16
    assert abs(multiples.bits - rest.bits) <= 1
    variance = sum(
        factor**2 * Fraction(2 * sum(x * x * w for x, w in enumerate(table.weights())), UNIT)
        for factor, table in tables.parts
    )
    assert float(variance) == pytest.approx(sampler.discrete_laplace(scale).variance, rel=1e-12)


@pytest.mark.parametrize(("scale", "shares"), [(1, 2), (2, 3), (3, 4)])
def test_polya_parts_add_up_to_the_discrete_laplace_law(scale, shares):
    """Exact integers: the part's law, convolved with itself, against the table of the whole."""
    (part,) = (table for _, table in sampler.polya_difference(scale, shares).tables.parts)
    (whole,) = (table for _, table in sampler.discrete_laplace(scale).tables.parts)
    weights = part.weights()
    # One large integer for each law, with room for every coefficient of the product.
    room = 128 * shares + 32
    single = sum(
        weights[abs(x)] << (room * (x + part.bound)) for x in range(-part.bound, part.bound + 1)
    )
    product, center = single**shares, part.bound * shares
    total, mask, ideal = Fraction(0), (1 << room) - 1, whole.weights()
    for x in range(-center, center + 1):
        found = Fraction((product >> (room * (x + center))) & mask, UNIT**shares)
        want = Fraction(ideal[abs(x)], UNIT) if abs(x) <= whole.bound else 0
        total += abs(found - want)
    assert float(total / 2) <= shares * part.total_variation + whole.total_variation
    assert part.total_variation < 2.0**-115


# --- golden values and variances ---
MAKERS = {
    "sampler_discrete_gaussian": lambda given: sampler.discrete_gaussian(
        Fraction(str(given["sigma"])) ** 2
    ),
    "sampler_skellam": lambda given: sampler.skellam(int(given["variance"])),
    "sampler_discrete_laplace": lambda given: sampler.discrete_laplace(
        Fraction(str(given["scale"]))
    ),
}
REFERENCE = [case for case in GOLDEN if case["category"] in MAKERS]


def test_there_are_golden_values_of_every_law():
    assert {case["category"] for case in REFERENCE} == set(MAKERS)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["id"])
def test_golden_values(case):
    law, want = MAKERS[case["category"]](case["inputs"]), case["expected"]
    ((factor, table),) = law.tables.parts
    weights = [*table.weights(), 0, 0, 0, 0]
    found = [weight / UNIT for weight in weights[:4]]
    assert factor == 1
    # Absolutely, a weight is a multiple of 2^-128, about 3e-39.
    assert found == pytest.approx(want["pmf_0_1_2_3"], rel=case["rtol"], abs=2e-38)
    assert law.variance == pytest.approx(want["variance"], rel=case["rtol"])
    second = 2 * sum(x * x * weight for x, weight in enumerate(weights))
    assert second / UNIT == pytest.approx(want["variance"], rel=case["rtol"])
    if "excess_kurtosis" in want:
        fourth = 2 * sum(x**4 * weight for x, weight in enumerate(weights))
        kurtosis = Fraction(fourth * UNIT, second**2) - 3
        assert float(kurtosis) == pytest.approx(want["excess_kurtosis"], rel=1e-9)


@pytest.mark.parametrize(
    "law",
    [
        sampler.discrete_gaussian(Fraction(1, 50)),
        sampler.discrete_gaussian(Fraction(1, 3)),
        sampler.discrete_gaussian(Fraction(399, 100)),
        sampler.discrete_gaussian(4),
        sampler.discrete_gaussian(1000),
        sampler.skellam(3),
        sampler.discrete_laplace(Fraction(1, 3)),
        sampler.discrete_laplace(100),
        sampler.polya_difference(1, 9),
        sampler.polya_difference(60, 30),
        sampler.binomial(2),
        sampler.binomial(998),
    ],
    ids=str,
)
def test_variances_are_those_of_the_tables(law):
    ((_, table),) = law.tables.parts
    second = 2 * sum(x * x * weight for x, weight in enumerate(table.weights()))
    assert law.variance == pytest.approx(second / UNIT, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [
        sampler.polya_difference(2**14, 1),
        sampler.polya_difference(2**14, 2**20),
        sampler.skellam(2**28),
        sampler.discrete_laplace(2**24),
        sampler.binomial(2**30),
    ],
    ids=str,
)
def test_the_largest_laws_are_as_exact_as_the_small_ones(law):
    tables = law.tables
    assert 0 < tables.total_variation < 2.0**-106
    assert all(table.bits <= 21 for _, table in tables.parts)
    second = sum(
        Fraction(2 * factor**2 * sum(x * x * w for x, w in enumerate(table.weights())), UNIT)
        for factor, table in tables.parts
    )
    assert float(second) == pytest.approx(law.variance, rel=1e-9)
