"""Noise: exact to the integer, as wide a window as its tails need, and inside the sensitivity."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
from stages.contract import IntegerStageContract, seeds

import secagg
from secagg.attacks.arena.world import digest
from secagg_native import sampler
from secagg_protocols.stages import Bounds, Noise, Pipeline
from secagg_protocols.stages.base import TILE, ArrayEncoder
from secagg_protocols.stages.noise import MOST_SCALE, MOST_VARIANCE
from support.noise import CENTRAL, GAUSSIAN, LAPLACE, LAWS, SKELLAM, drawn, law_of, pmf, quiet

COUNTS = secagg.Integers(-20, 100)


class NoiseStage(IntegerStageContract):
    """The contract with noise: bounds are those of the signal, and a draw is within its tables."""

    stage: ClassVar[Noise]
    before = staticmethod(lambda length: COUNTS.bounds(Bounds(length=length)))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.integers(COUNTS.low, COUNTS.high + 1, length)

    @pytest.mark.parametrize("length", [1, 2, 17, TILE, TILE + 1])
    def test_bounds_hold(self, length: int) -> None:
        given = self.before(length)
        assert self.stage.bounds(given) == given
        x = self.inputs(length, np.random.default_rng(length))
        assert np.abs(self.run(x) - x).max() <= self.stage.tables().bound

    def test_it_adds_the_samplers_draws_and_nothing_else(self) -> None:
        length = 2 * TILE + 3
        x = self.inputs(length, np.random.default_rng(11))
        expected = x + drawn(self.stage, seeds()(), length)
        np.testing.assert_array_equal(self.run(x), expected)

    def test_another_seed_is_another_noise(self) -> None:
        x = np.zeros(200, dtype=np.int64)
        other = self.run(x, lambda: digest("other"))
        assert (other != self.run(x)).any()
        # Half of the seed is not enough.
        near = [bytes(31) + bytes([i]) for i in range(2)]
        first, second = (self.run(x, lambda seed=seed: seed) for seed in near)
        assert (first != second).any()

    def test_mean_variance_and_tails_are_those_of_the_law(self) -> None:
        count = 400_000
        noise = self.run(np.zeros(count, dtype=np.int64)).astype(float)
        exact = pmf(self.stage)
        reach = len(exact) // 2
        at = np.arange(-reach, reach + 1)
        variance, fourth, eighth = (float(exact @ at.astype(float) ** k) for k in (2, 4, 8))
        assert abs(noise.mean()) <= 6 * math.sqrt(variance / count)
        slack = 6 * math.sqrt((fourth - variance**2) / count)
        assert abs(np.mean(noise**2) - variance) <= slack
        slack = 6 * math.sqrt((eighth - fourth**2) / count)
        assert abs(np.mean(noise**4) - fourth) <= slack
        sites = self.stage.shares or 1
        assert self.stage.variance(sites) / sites == pytest.approx(variance, rel=1e-9)


class TestGaussian(NoiseStage):
    stage = GAUSSIAN


class TestGaussianOfTwoTables(NoiseStage):
    """A deviation beyond one table: the draw is a convolution."""

    stage = Noise(law="discrete-gaussian", variance_levels2=1 << 25)

    def test_it_is_made_of_two_tables(self) -> None:
        assert len(self.stage.tables().parts) == 2

    def test_mean_variance_and_tails_are_those_of_the_law(self) -> None:
        count = 400_000
        noise = self.run(np.zeros(count, dtype=np.int64)) / 2**12.5
        assert abs(noise.mean()) <= 6 / math.sqrt(count)
        assert abs(np.mean(noise**2) - 1) <= 6 * math.sqrt(2 / count)
        assert abs(np.mean(noise**4) - 3) <= 6 * math.sqrt(96 / count)


class TestSkellam(NoiseStage):
    stage = SKELLAM


class TestPolya(NoiseStage):
    stage = LAPLACE


class TestSmallGaussian(NoiseStage):
    stage = Noise(law="discrete-gaussian", variance_levels2=2)


class TestCentral(IntegerStageContract):
    """At a site it adds nothing; the contract of a stage that gives its input back."""

    stage = CENTRAL
    before = staticmethod(lambda length: COUNTS.bounds(Bounds(length=length)))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.integers(COUNTS.low, COUNTS.high + 1, length)

    def test_the_site_adds_nothing(self) -> None:
        x = self.inputs(300, np.random.default_rng(1))
        np.testing.assert_array_equal(self.run(x), x)


# Pipelines.

PIPELINES: dict[str, tuple[tuple[Any, ...], int]] = {
    "counts": ((COUNTS,), 1),
    "weighted counts": ((COUNTS,), 9),
    "rotated": ((secagg.ClipL2(1.5), secagg.Rotate(), secagg.Quantise(200, "conditional")), 1),
    "weighted": ((secagg.ClipL2(1.5), secagg.Rotate(), secagg.Quantise(50, "conditional")), 4),
    "adaptive": (
        (secagg.AdaptiveClip(clip=1.5), secagg.Rotate(), secagg.Quantise(50, "conditional")),
        4,
    ),
}


def vector_for(stages: tuple[Any, ...], length: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(length)
    if stages[0] == COUNTS:
        return rng.integers(COUNTS.low, COUNTS.high + 1, length)
    return rng.normal(size=length)


@pytest.mark.parametrize("lane", [np.int64, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("noise", [*LAWS, TestGaussianOfTwoTables.stage])
@pytest.mark.parametrize("kind", PIPELINES)
def test_a_site_less_its_noise_is_the_same_pipeline_without_it(
    kind: str, noise: Noise, lane: Any
) -> None:
    """In every lane, over tile borders and over the border to the extras."""
    stages, weight = PIPELINES[kind]
    length = TILE + 5
    x = vector_for(stages, length)
    noise = dataclasses.replace(noise, extra_levels=13)
    pipeline = Pipeline((*stages, noise), length, weight).at(digest("context"), b"")
    expected, used = quiet(pipeline, x, weight, lambda i: digest("stage", i))
    if not noise.central:
        expected = expected + drawn(noise, digest("stage", used), len(expected))
    count = iter(range(9))
    encoder = pipeline.begin(*pipeline.check_input(x, weight), lambda: digest("stage", next(count)))
    assert encoder.length == pipeline.total_length == len(expected)
    end = pipeline.total_length
    body = pipeline.bounds.length
    cuts = sorted({0, 1, TILE - 1, TILE, TILE + 3, body - 1, body, end - 1, end})
    parts = []
    for start, stop in itertools.pairwise(cuts):
        part = np.empty(stop - start, dtype=lane)
        encoder.tile(part, start)
        parts.append(part)
    found = np.concatenate(parts)
    np.testing.assert_array_equal(found, expected.astype(lane))
    whole = np.empty(end, dtype=lane)
    encoder.tile(whole, 0)
    np.testing.assert_array_equal(whole, found)


def test_rounding_and_noise_take_different_seeds() -> None:
    """One seed for both would tie the noise to the rounding."""
    taken: list[bytes] = []

    def rand() -> bytes:
        taken.append(digest(len(taken)))
        return taken[-1]

    stages = PIPELINES["rotated"][0]
    pipeline = Pipeline((*stages, GAUSSIAN), 10, 1)
    pipeline.begin(np.zeros(10), 1, rand)
    assert len(set(taken)) == len(taken) == 2


# The window of the ring.


def sum_law(noise: Noise, sites: int) -> np.ndarray[Any, Any]:
    """Exact law of the noise in a sum."""
    one = pmf(noise)
    total = one
    for _ in range(0 if noise.central else sites - 1):
        total = np.convolve(total, one)
    return total


def tail(law: np.ndarray[Any, Any], radius: float, spread: float) -> float:
    """Probability that noise plus a centred Gaussian of deviation ``spread`` is beyond radius."""
    reach = len(law) // 2
    at = np.arange(-reach, reach + 1)
    if spread == 0:
        return float(law[np.abs(at) > radius].sum())
    beyond = scipy.stats.norm.sf((radius - at) / spread) + scipy.stats.norm.sf(
        (radius + at) / spread
    )
    return float(law @ beyond)


def seeds_of(*who: object) -> Any:
    """A source of seeds that follows from whose it is."""
    count = iter(range(1 << 20))
    return lambda: digest(*who, next(count))


SMALL = (
    Noise(law="discrete-gaussian", variance_levels2=1),
    Noise(law="discrete-gaussian", variance_levels2=40),
    Noise(law="skellam", variance_levels2=1),
    Noise(law="skellam", variance_levels2=40),
    Noise(law="discrete-laplace", scale_levels=1, shares=2),
    Noise(law="discrete-laplace", scale_levels=6, shares=2),
    Noise(law="discrete-laplace", scale_levels=6, shares=5),
    Noise(law="central-discrete-gaussian", variance_levels2=40),
)


@pytest.mark.parametrize("noise", SMALL, ids=str)
@pytest.mark.parametrize("sites", [2, 5])
@pytest.mark.parametrize("wrap_bits", [10, 20, 64])
@pytest.mark.parametrize("spread", [0.0, 0.7, 30.0])
def test_the_radius_bounds_the_exact_tail_and_not_by_much(
    noise: Noise, sites: int, wrap_bits: int, spread: float
) -> None:
    if noise.shares > sites:
        return
    noise = dataclasses.replace(noise, wrap_bits=wrap_bits)
    law = sum_law(noise, sites)
    for coordinates in (1, 1 << 20):
        radius = noise.radius(sites, spread, coordinates)
        allowed = 2.0**-wrap_bits / coordinates
        # The law is exact to 2^-120 of itself, which no allowed tail comes near.
        assert allowed > 2.0**-100
        assert tail(law, radius, spread) <= allowed
        # A window of a quarter of the width, two bits less, would wrap more often.
        assert tail(law, radius / 4 - 1, spread) > allowed


def test_the_moment_generating_functions_are_the_laws_own() -> None:
    for noise in SMALL:
        sites = max(2, noise.shares)
        law = sum_law(noise, sites)
        reach = len(law) // 2
        at = np.arange(-reach, reach + 1)
        for x in (1e-3, 0.05, 0.1, 0.8):
            found = noise.log_mgf(x, sites)
            if noise.law == "discrete-laplace" and x * noise.scale_levels >= 1:
                assert found == math.inf
                continue
            exact = math.log(float(law @ np.exp(x * at)))
            assert found >= exact - 1e-12
            if "gaussian" not in noise.law:
                assert found == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("noise", SMALL, ids=str)
def test_a_plan_wraps_as_seldom_as_it_says(noise: Noise) -> None:
    """A quarter of a million rounds of three sites at both ends of their range."""
    rounds, d, sites = 1 << 18, 4, 3
    noise = dataclasses.replace(noise, wrap_bits=10)
    pipeline = Pipeline((secagg.Integers(0, 3), noise), d, 1)
    ((span, count),) = pipeline.sum_span(sites)
    assert (count, pipeline.bits_needed(sites)) == (d, (span.high - span.low).bit_length())
    total = np.zeros((rounds, d), dtype=np.int64)
    for _ in range(1 if noise.central else sites):
        total += sampler.sample(law_of(noise), rounds * d).reshape(rounds, d)
    total[:, : d // 2] += 3 * sites
    wrapped = int(np.count_nonzero(((total < span.low) | (total > span.high)).any(axis=1)))
    expected = rounds * 2.0**-10
    assert wrapped <= expected + 5 * math.sqrt(expected)
    # Two bits fewer would not do.
    quarter = (span.high - span.low + 1) / 8
    middle = (span.high + span.low) / 2
    narrow = (np.abs(total - middle) > quarter).any(axis=1)
    assert np.count_nonzero(narrow) > expected


@pytest.mark.parametrize("noise", [GAUSSIAN, SKELLAM, LAPLACE, CENTRAL])
def test_a_rotated_plan_wraps_as_seldom_as_it_says(noise: Noise) -> None:
    """All sites send the same vector at the clip: the worst sum, over 4,096 rotations."""
    d, sites, rounds, levels = 32, 6, 4096, 400
    noise = dataclasses.replace(noise, wrap_bits=10)
    stages = (secagg.ClipL2(1.0), secagg.Rotate(), secagg.Quantise(levels, "conditional"), noise)
    pipeline = Pipeline(stages, d, 1)
    ((span, count),) = pipeline.sum_span(sites)
    assert count == d
    assert span.high < sites * levels, "the rotation gains nothing"
    x = np.ones(d) / math.sqrt(d)
    wrapped = wide = 0
    for i in range(rounds):
        one = pipeline.at(digest("rotated", i), b"")
        total = np.zeros(d, dtype=np.int64)
        part = np.empty(d, dtype=np.int64)
        if i % 8:
            # Sites' rounding differs by a level; the signal is what is rare.
            one.stages[1].begin(ArrayEncoder(x), lambda: bytes(32), one._bounds[1]).tile(
                real := np.empty(d), 0
            )
            total += np.rint(real * levels * sites).astype(np.int64)
            for s in range(1 if noise.central else sites):
                total += drawn(noise, digest("rotated noise", i, s), d)
        else:
            for s in range(sites):
                rand = seeds_of(i, s)
                one.begin(x, 1, rand).tile(part, 0)
                total += part
            if noise.central:
                total += drawn(noise, digest("central", i), d)
        wrapped += bool(((total < span.low) | (total > span.high)).any())
        wide += bool((np.abs(total) > span.high / 4).any())
    expected = rounds * 2.0**-10
    assert wrapped <= expected + 5 * math.sqrt(expected)
    assert wide > expected


def test_the_window_is_the_smaller_of_both_that_hold() -> None:
    """Few coordinates cannot rely on the rotation: the range itself is smaller."""
    stages = (secagg.ClipL2(1.0), secagg.Rotate(), secagg.Quantise(1000, "conditional"))
    small = Pipeline((*stages, GAUSSIAN), 2, 1)
    ((span, _),) = small.sum_span(4)
    tails = GAUSSIAN.radius(4, 0.0, 2)
    assert span == (type(span))(low=-4000 - tails, high=4000 + tails)
    large = Pipeline((*stages, GAUSSIAN), 4096, 1)
    ((span, _),) = large.sum_span(4)
    assert span.high < 1500
    assert span.low == -span.high


def test_extras_have_windows_of_their_own() -> None:
    stages = (secagg.AdaptiveClip(clip=1.0), secagg.Rotate(), secagg.Quantise(100, "conditional"))
    noise = dataclasses.replace(GAUSSIAN, extra_levels=25)
    pipeline = Pipeline((*stages, noise), 64, 3)
    _, weight, within = pipeline.sum_span(5)
    tails = noise.radius(5, 0.0, 66)
    assert (weight[0].low, weight[0].high, weight[1]) == (-tails, 5 * 75 + tails, 1)
    assert (within[0].low, within[0].high, within[1]) == (-tails, 5 * 75 + tails, 1)


def test_without_noise_a_sum_cannot_leave_its_range() -> None:
    pipeline = Pipeline((secagg.Integers(-3, 9),), 4, 2)
    assert [(s.low, s.high, c) for s, c in pipeline.sum_span(5)] == [(-30, 90, 4), (0, 10, 1)]


# Sensitivity.


def encodings(stages: tuple[Any, ...], weight: int, extra: int, grid: list[Any]) -> Any:
    """Sensitivity, and the integers of every input: extras included, noise not."""
    length = len(grid[0])
    noise = dataclasses.replace(CENTRAL, extra_levels=extra)
    pipeline = Pipeline((*stages, noise), length, weight)
    found = []
    for number, x in enumerate(grid):
        for one in range(0 if weight > 1 else 1, weight + 1):
            array, w = pipeline.check_input(np.asarray(x), one)
            out = np.empty(pipeline.total_length, dtype=np.int64)
            pipeline.begin(array, w, seeds_of(number)).tile(out, 0)
            found.append(out)
    return pipeline.sensitivity, found


REALS = [np.array(x) for x in itertools.product((-9.0, -1.0, -0.3, 0.0, 0.51, 9.0), repeat=3)]
SENSITIVE: dict[str, tuple[tuple[Any, ...], int, int, list[Any], float]] = {
    # stages, largest weight, levels of an extra, inputs, part of the sensitivity that is reached
    "counts": (
        (secagg.Integers(-2, 5),),
        1,
        1,
        [np.array(x) for x in itertools.product((-2, 0, 5), repeat=3)],
        1.0,
    ),
    "weighted counts": (
        (secagg.Integers(-2, 5),),
        4,
        3,
        [np.array(x) for x in itertools.product((-2, 0, 5), repeat=3)],
        1.0,
    ),
    "flat": ((secagg.ClipLinf(0.5), secagg.Quantise(6, "nearest")), 1, 1, REALS, 0.8),
    "flat weighted": ((secagg.ClipLinf(0.5), secagg.Quantise(6, "nearest")), 3, 5, REALS, 0.9),
    "norm": ((secagg.ClipL2(0.5), secagg.Quantise(20)), 1, 1, REALS, 0.85),
    "rotated": (
        (secagg.ClipL2(0.5), secagg.Rotate(), secagg.Quantise(20, "conditional")),
        1,
        1,
        REALS,
        0.93,
    ),
    "adaptive": (
        (secagg.AdaptiveClip(clip=0.5), secagg.Rotate(), secagg.Quantise(20, "conditional")),
        3,
        7,
        REALS,
        0.93,
    ),
}


@pytest.mark.parametrize("kind", SENSITIVE)
def test_no_input_moves_a_sum_by_more_than_the_sensitivity(kind: str) -> None:
    """Exhaustively over a grid: a site against zeros, and a site against any other."""
    stages, weight, extra, grid, reached = SENSITIVE[kind]
    (l1, l2), found = encodings(stages, weight, extra, grid)
    first = [int(np.abs(v).sum()) for v in found]
    squares = [int(v @ v) for v in found]
    assert max(first) <= l1 * (1 + 1e-12)
    assert max(squares) <= l2**2 * (1 + 1e-12)
    assert math.sqrt(max(squares)) >= reached * l2
    matrix = np.array(found[:: max(1, len(found) // 300)])
    apart = matrix[:, None, :] - matrix[None, :, :]
    assert np.abs(apart).sum(axis=2).max() <= 2 * l1
    assert np.sqrt((apart**2).sum(axis=2).max()) <= 2 * l2 * (1 + 1e-12)


def test_extras_count_in_the_sensitivity() -> None:
    stages = (secagg.Integers(0, 3),)
    one = Pipeline((*stages, dataclasses.replace(CENTRAL, extra_levels=5)), 4, 1)
    assert one.sensitivity == (12.0, 6.0)
    two = Pipeline((*stages, dataclasses.replace(CENTRAL, extra_levels=5)), 4, 2)
    assert two.sensitivity == (24.0 + 10.0, math.hypot(12.0, 10.0))


# What it refuses.


@pytest.mark.parametrize(
    ("changes", "rule", "field"),
    [
        ({"law": "gaussian"}, "noise-law", "law"),
        ({"law": 3}, "noise-law", "law"),
        ({"variance_levels2": 0}, "noise-range", "variance_levels2"),
        ({"variance_levels2": -4}, "noise-range", "variance_levels2"),
        ({"variance_levels2": 9.0}, "noise-range", "variance_levels2"),
        ({"variance_levels2": True}, "noise-range", "variance_levels2"),
        ({"variance_levels2": (1 << 40) + 1}, "noise-range", "variance_levels2"),
        ({"scale_levels": 3}, "noise-range", "scale_levels"),
        ({"shares": 2}, "noise-range", "shares"),
        ({"wrap_bits": 9}, "noise-range", "wrap_bits"),
        ({"wrap_bits": 129}, "noise-range", "wrap_bits"),
        ({"extra_levels": 0}, "noise-range", "extra_levels"),
        ({"weight_floor": -1}, "noise-range", "weight_floor"),
        (
            {"law": "discrete-laplace", "variance_levels2": 0, "shares": 2},
            "noise-range",
            "scale_levels",
        ),
        (
            {"law": "discrete-laplace", "variance_levels2": 0, "scale_levels": 5},
            "noise-range",
            "shares",
        ),
        ({"law": "skellam", "variance_levels2": (1 << 28) + 1}, "noise-range", "variance_levels2"),
    ],
)
def test_parameters_out_of_range_are_refused(
    changes: dict[str, Any], rule: str, field: str
) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        Noise(**({"law": "discrete-gaussian", "variance_levels2": 9} | changes))
    assert (caught.value.rule, caught.value.field) == (rule, field)


def test_all_that_a_stage_may_name_the_sampler_can_draw() -> None:
    assert MOST_SCALE <= sampler.MAX_POLYA_SCALE
    assert MOST_VARIANCE["skellam"] <= sampler.MAX_SKELLAM_VARIANCE
    assert MOST_VARIANCE["discrete-gaussian"] <= sampler.MAX_GAUSSIAN_VARIANCE
    assert MOST_VARIANCE["central-discrete-gaussian"] <= sampler.MAX_GAUSSIAN_VARIANCE
    for law in ("discrete-gaussian", "central-discrete-gaussian"):
        tables = Noise(law=law, variance_levels2=MOST_VARIANCE[law]).tables()  # type: ignore[arg-type]
        assert tables.bound < 1 << 62
    assert sampler.MAX_SHARES >= 1 << 20


@pytest.mark.parametrize(
    "stages",
    [
        (secagg.ClipL2(1.0), GAUSSIAN),
        (secagg.ClipL2(1.0), GAUSSIAN, secagg.Quantise(5)),
        (secagg.Integers(0, 4), GAUSSIAN, GAUSSIAN),
        (GAUSSIAN,),
    ],
)
def test_noise_is_the_last_stage_and_follows_integers(stages: Any) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        Pipeline(stages, 4, 1)
    assert (caught.value.rule, caught.value.field) == ("stage-order", "stages")


def test_a_noisy_encoder_shows_no_seed() -> None:
    given = COUNTS.bounds(Bounds(length=3))
    seed = digest("secret")
    encoder: Any = GAUSSIAN.begin(ArrayEncoder(np.zeros(3, dtype=np.int64)), lambda: seed, given)
    for text in (repr(encoder), repr(encoder.draws)):
        assert seed.hex() not in text
        assert repr(seed) not in text
