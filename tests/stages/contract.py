"""The contract of a stage, inherited by every stage's own tests."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import numpy as np
import pytest

from secagg.attacks.arena.world import digest
from secagg_protocols.stages import Bounds, Stage, Totals
from secagg_protocols.stages.base import TILE, ArrayEncoder


def seeds() -> Any:
    """A source of seeds that repeats: stages must take all their randomness from it."""
    count = iter(range(1 << 30))
    return lambda: digest("stage seed", next(count))


class StageContract:
    """Subclasses name the stage, what comes before it, and inputs that it takes."""

    stage: ClassVar[Stage]
    #: Bounds before the stage, as a function of the length.
    before: ClassVar[Any] = staticmethod(lambda length: Bounds(length=length))

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def padded(self, length: int) -> int:
        """Coordinates after the stage."""
        return length

    def run(self, x: np.ndarray[Any, Any], rand: Any = None) -> np.ndarray[Any, Any]:
        given = self.before(len(x))
        encoder = self.stage.begin(ArrayEncoder(x), rand or seeds(), given)
        assert encoder.length == self.stage.bounds(given).length
        out = np.empty(encoder.length, dtype=encoder.dtype)
        encoder.tile(out, 0)
        return out

    @pytest.mark.parametrize("length", [1, 2, 17, TILE, TILE + 1])
    def test_bounds_hold(self, length: int) -> None:
        after = self.stage.bounds(self.before(length))
        assert after.length == self.padded(length)
        for seed in range(20 if length < 100 else 2):
            out = self.run(self.inputs(length, np.random.default_rng(seed))).astype(float)
            assert after.low is None or out.min() >= after.low
            assert after.high is None or out.max() <= after.high
            slack = 1 + 1e-12
            assert after.l1 is None or np.abs(out).sum() <= after.l1 * slack
            assert after.l2 is None or math.sqrt(float(out @ out)) <= after.l2 * slack
            if after.integer:
                assert (out == np.round(out)).all()

    def test_tiles_give_what_the_whole_gives(self) -> None:
        x = self.inputs(5000, np.random.default_rng(1))
        whole = self.run(x)
        encoder = self.stage.begin(ArrayEncoder(x), seeds(), self.before(len(x)))
        cuts = [0, 1, 16, 17, 640, 641, 4999, 5000, *range(8192, encoder.length + 1, 8192)]
        parts = []
        for start, stop in itertools.pairwise(cuts):
            part = np.empty(stop - start, dtype=encoder.dtype)
            encoder.tile(part, start)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        # In any order, and again: an encoder keeps no place.
        again = np.empty(641 - 17, dtype=encoder.dtype)
        encoder.tile(again, 17)
        np.testing.assert_array_equal(again, whole[17:641])

    def test_all_randomness_comes_from_the_seeds(self) -> None:
        x = self.inputs(300, np.random.default_rng(2))
        np.testing.assert_array_equal(self.run(x), self.run(x))

    def test_the_input_is_left_alone(self) -> None:
        x = self.inputs(300, np.random.default_rng(3))
        kept = x.copy()
        self.run(x)
        np.testing.assert_array_equal(x, kept)

    def test_decode_undoes_the_stage_on_a_sum(self) -> None:
        rng = np.random.default_rng(4)
        length, sites = 50, 5
        given = self.before(length)
        total = sum(self.run(self.inputs(length, rng)).astype(float) for _ in range(sites))
        assert np.shape(total) == (self.padded(length),)
        if self.stage.bounds(given).integer:
            total = np.asarray(total).astype(np.int64)
        out = self.stage.decode(np.asarray(total), Totals(count=sites, weight=sites), given)
        assert out.shape == (length,)
        assert np.isfinite(out).all()

    def test_it_is_a_frozen_value_that_a_plan_can_name(self) -> None:
        assert isinstance(self.stage, Stage)
        assert hash(self.stage) == hash(self.stage)
        names = [field.name for field in dataclasses.fields(self.stage)]  # type: ignore[arg-type]
        first = names[0] if names else "anything"
        # Without fields, a slotted dataclass of this Python refuses by an error of its own.
        frozen = dataclasses.FrozenInstanceError
        with pytest.raises(frozen if names else (frozen, TypeError)):
            setattr(self.stage, first, 1)


class IntegerStageContract(StageContract):
    """What every stage that gives integers has to do besides."""

    @pytest.mark.parametrize("lane", [np.uint16, np.uint32, np.uint64])
    def test_lanes_hold_the_integers_modulo_their_width(self, lane: Any) -> None:
        given = self.before(300)
        x = self.inputs(300, np.random.default_rng(5))
        out = np.empty(300, dtype=lane)
        self.stage.begin(ArrayEncoder(x), seeds(), given).tile(out, 0)
        width = 8 * out.dtype.itemsize
        assert out.tolist() == [level % (1 << width) for level in self.run(x).tolist()]


class RealInputs:
    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.normal(size=length) * rng.choice([1e-3, 1.0, 1e6])
