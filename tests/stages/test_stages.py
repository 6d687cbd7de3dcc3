"""Stages of a plan without noise: the contract, and what is each one's own."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from stages.contract import IntegerStageContract, RealInputs, StageContract, seeds

import secagg
from secagg.attacks.arena.world import digest
from secagg_protocols.stages import Bounds, Pipeline
from secagg_protocols.stages.base import TILE


class TestClipLinf(RealInputs, StageContract):
    stage = secagg.ClipLinf(0.75)


class TestClipL2(RealInputs, StageContract):
    stage = secagg.ClipL2(2.5)

    def test_short_vectors_are_not_touched(self) -> None:
        x = np.array([0.3, -0.4])
        np.testing.assert_array_equal(self.run(x), x)

    @pytest.mark.parametrize("size", [1e-300, 1e300, np.finfo(float).max])
    def test_extreme_sizes_neither_overflow_nor_vanish(self, size: float) -> None:
        out = self.run(np.array([size, -size, size]))
        expected = min(size, 2.5 / math.sqrt(3))
        np.testing.assert_allclose(np.abs(out), expected, rtol=1e-12)

    def test_zero_stays_zero(self) -> None:
        np.testing.assert_array_equal(self.run(np.zeros(4)), np.zeros(4))


class TestClipLinfAfterClipL2(RealInputs, StageContract):
    stage = secagg.ClipLinf(0.5)
    before = staticmethod(lambda length: secagg.ClipL2(2.0).bounds(Bounds(length=length)))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        x = rng.normal(size=length)
        return x / np.linalg.norm(x) * 2.0

    def test_the_smaller_norm_stays(self) -> None:
        assert self.stage.bounds(self.before(10_000)).l2 == 2.0


class TestIntegers(IntegerStageContract):
    stage = secagg.Integers(-7, 300)

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.integers(-7, 301, length)

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint64, np.int64])
    def test_every_integer_type_is_taken(self, dtype: Any) -> None:
        x = np.array([0, 1, 300], dtype=dtype)
        np.testing.assert_array_equal(self.run(x), [0, 1, 300])

    @pytest.mark.parametrize("bad", [-8, 301])
    def test_it_refuses_and_never_clips(self, bad: int) -> None:
        x = np.zeros(TILE + 5, dtype=np.int64)
        x[-1] = bad
        with pytest.raises(secagg.MisuseError) as caught:
            self.run(x)
        assert caught.value.rule == "input-range"
        assert str(bad) not in str(caught.value)


class QuantiseContract(IntegerStageContract):
    clip = 1.5
    before = staticmethod(lambda length: secagg.ClipLinf(1.5).bounds(Bounds(length=length)))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        x = rng.uniform(-1.5, 1.5, length)
        x[: length // 3] = rng.choice([-1.5, 1.5, 0.0], length // 3)
        return x


class TestQuantiseNearest(QuantiseContract):
    stage = secagg.Quantise(1000, "nearest")

    def test_each_level_is_the_nearest(self) -> None:
        x = self.inputs(500, np.random.default_rng(7))
        out = self.run(x)
        for value, level in zip(x.tolist(), out.tolist(), strict=True):
            exact = Fraction(value) * 1000 / Fraction(1.5)
            assert abs(exact - level) <= Fraction(1, 2) + Fraction(1, 10**9)


class TestQuantiseStochastic(QuantiseContract):
    stage = secagg.Quantise(3)

    def test_it_rounds_to_a_neighbour_and_without_bias(self) -> None:
        for value in (0.1, -0.1, 0.7499, -1.49, 1e-6):
            exact = value * 3 / 1.5
            out = self.run(np.full(40_000, value))
            assert set(out.tolist()) <= {math.floor(exact), math.ceil(exact)}
            share = exact - math.floor(exact)
            spread = math.sqrt(share * (1 - share) / 40_000)
            assert abs(out.mean() - exact) <= 4.42 * spread + 2**-32

    def test_levels_that_are_whole_stay(self) -> None:
        x = np.array([-1.5, -0.5, 0.0, 0.5, 1.0, 1.5])
        np.testing.assert_array_equal(self.run(x), [-3, -1, 0, 1, 2, 3])

    def test_another_seed_gives_another_rounding(self) -> None:
        x = np.full(200, 0.2)
        other = self.run(x, lambda: digest("other"))
        assert (other != self.run(x)).any()


class TestQuantiseAfterClipL2(QuantiseContract):
    stage = secagg.Quantise(50)
    before = staticmethod(lambda length: secagg.ClipL2(1.5).bounds(Bounds(length=length)))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        x = rng.normal(size=length)
        return x / np.linalg.norm(x) * 1.5


class TestQuantiseWeighted(QuantiseContract):
    """Levels count per clip: a weight multiplies the range, not the resolution."""

    stage = secagg.Quantise(10, "nearest")
    before = staticmethod(
        lambda length: secagg.ClipLinf(1.5).bounds(Bounds(length=length)).weighted(4)
    )

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.uniform(-6.0, 6.0, length)

    def test_the_range_is_levels_times_weight(self) -> None:
        after = self.stage.bounds(self.before(3))
        assert (after.low, after.high) == (-40, 40)


def test_a_pipeline_weighs_between_clip_and_rounding_and_appends_the_weight() -> None:
    pipeline = Pipeline((secagg.ClipLinf(1.0), secagg.Quantise(100, "nearest")), 3, 5)
    x, weight = pipeline.check_input(np.array([0.101, -2.0, 0.5]), 5)
    encoder = pipeline.begin(x, weight, seeds())
    out = np.empty(4, dtype=np.int64)
    encoder.tile(out, 0)
    # 5 x 0.101 is rounded once: 50.5 levels, not five times 10 levels.
    assert out.tolist() in ([50, -500, 250, 5], [51, -500, 250, 5])
    assert pipeline.total_length == 4
    first = int(out[0])
    opened = pipeline.decode(out, 1)  # the integers are handed over
    assert (opened.weight, opened.noise_variance) == (5, 0.0)
    np.testing.assert_allclose(opened.sum, [first / 100, -5.0, 2.5])


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_tiles_across_the_end_of_the_vector_hold_the_extras(start: int, size: int) -> None:
    pipeline = Pipeline((secagg.Integers(0, 9),), 3, 7)
    encoder = pipeline.begin(np.array([1, 2, 3]), 7, seeds())
    stop = min(start + size, 4)
    if start >= stop:
        return
    out = np.empty(stop - start, dtype=np.int64)
    encoder.tile(out, start)
    assert out.tolist() == [7, 14, 21, 7][start:stop]


@pytest.mark.parametrize("lane", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint64, np.int64])
def test_weighted_integers_fill_lanes_modulo_their_width(lane: Any, kind: Any) -> None:
    """A product may be far beyond the lane; what matters is its remainder."""
    pipeline = Pipeline((secagg.Integers(-100, 100),), 4, 1 << 20)
    x = np.array([1, 100, 3, 99], dtype=kind)
    if np.dtype(kind).kind == "i":
        x[2] = -77
    weight = (1 << 19) + 12345
    out = np.empty(5, dtype=lane)
    pipeline.begin(x, weight, seeds()).tile(out[:4], 0)
    modulus = 1 << (8 * out.dtype.itemsize)
    assert out[:4].tolist() == [int(v) * weight % modulus for v in x.tolist()]


@pytest.mark.parametrize("clip", [0.5, 0.1, 1e-60, 1e60, 3.0000001])
@pytest.mark.parametrize("weight", [1, 3])
@pytest.mark.parametrize("first", [secagg.ClipLinf, secagg.ClipL2])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_single_precision_gives_what_its_doubles_give(
    clip: float, weight: int, first: Any, rounding: Any
) -> None:
    """Whether a clip fits into float32 may not show in any level."""
    stages = (first(clip), secagg.Quantise(1 << 20, rounding))
    pipeline = Pipeline(stages, TILE + 7, 3)
    near = np.float32(max(1e-30, min(clip, 1e30)))
    x = np.random.default_rng(8).normal(size=TILE + 7).astype(np.float32) * near
    x[:4] = near, np.nextafter(near, np.float32(np.inf)), -0.0, 1e-45
    found = []
    for vector in (x, x.astype(np.float64)):
        out = np.empty(pipeline.total_length, dtype=np.int64)
        pipeline.begin(vector, weight, seeds()).tile(out, 0)
        found.append(out)
    np.testing.assert_array_equal(*found)
    # A clip beyond all of float32 leaves nothing of the vector but the weight.
    assert clip == 1e60 or len(set(found[0].tolist())) > 3


def test_a_float_vector_with_gaps_or_odd_addresses_is_taken() -> None:
    """Kernels read aligned, contiguous memory; a caller's array may be neither."""
    pipeline = Pipeline((secagg.ClipLinf(9.0), secagg.Quantise(9, "nearest")), 4, 1)
    wanted = np.array([1.0, -2.0, 3.0, 4.0])
    gaps = np.repeat(wanted, 3)[::3]
    odd = np.frombuffer(b"x" + wanted.tobytes(), dtype=np.float64, offset=1)
    assert not odd.flags.aligned
    assert not gaps.flags.c_contiguous
    assert pipeline.check_input(wanted, 1)[0] is wanted
    for x in (gaps, odd):
        array, _ = pipeline.check_input(x, 1)
        assert array.tolist() == wanted.tolist()
        assert not np.shares_memory(array, x)
    gaps[1] = np.nan
    with pytest.raises(secagg.MisuseError) as caught:
        pipeline.check_input(gaps, 1)
    assert caught.value.rule == "input-finite"
