"""Rotate: orthogonal, the same for all parties of a round, and flat for any vector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from stages.contract import RealInputs, StageContract

import secagg
from secagg.attacks.arena.world import digest
from secagg_protocols.stages import Bounds, Pipeline, Stage, Totals
from secagg_protocols.stages.base import TILE, ArrayEncoder


def rotated(x: np.ndarray[Any, Any], context: bytes, stage: Stage | None = None) -> Any:
    """The rotated vector, as the round's stage makes it."""
    given = secagg.ClipL2(10.0).bounds(Bounds(length=len(x)))
    one = stage or secagg.Rotate().at(context, b"")
    encoder = one.begin(ArrayEncoder(x), lambda: bytes(32), given)
    out = np.empty(encoder.length, dtype=encoder.dtype)
    encoder.tile(out, 0)
    return out


def back(y: np.ndarray[Any, Any], context: bytes, length: int) -> Any:
    given = secagg.ClipL2(10.0).bounds(Bounds(length=length))
    stage = secagg.Rotate().at(context, b"")
    return stage.decode(y, Totals(count=1, weight=1), given)


class TestRotate(RealInputs, StageContract):
    stage = secagg.Rotate()
    before = staticmethod(lambda length: secagg.ClipL2(2.0).bounds(Bounds(length=length)))

    def padded(self, length: int) -> int:
        return 1 << (length - 1).bit_length()

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        x = rng.normal(size=length)
        return x / np.linalg.norm(x) * 2.0 * rng.choice([1e-3, 0.5, 1.0 - 1e-9])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 2, 3, 17, 1024, TILE + 1, 70_001])
def test_rotating_back_gives_the_vector(length: int, dtype: Any) -> None:
    x = np.random.default_rng(length).normal(size=length).astype(dtype)
    y = rotated(x, digest("a"))
    assert y.dtype == np.float64
    assert len(y) == 1 << (length - 1).bit_length()
    norm = np.linalg.norm(x.astype(float))
    assert np.linalg.norm(y) == pytest.approx(norm, rel=1e-12)
    again = back(y, digest("a"), length)
    assert again.shape == (length,)
    assert np.abs(again - x).max() <= 1e-12 * norm


def test_it_is_linear_so_a_sum_rotates_back_to_the_sum() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 300))
    y = rotated(a, digest("r")) + rotated(b, digest("r"))
    np.testing.assert_allclose(back(y, digest("r"), 300), a + b, atol=1e-12)


def test_inner_products_stay_so_the_matrix_is_orthogonal() -> None:
    basis = np.array([rotated(row, digest("matrix")) for row in np.eye(32)])
    np.testing.assert_allclose(basis @ basis.T, np.eye(32), atol=1e-14)
    np.testing.assert_allclose(np.abs(basis), 32**-0.5, rtol=1e-12)


def test_the_round_decides_on_the_signs() -> None:
    x = np.random.default_rng(4).normal(size=256)
    np.testing.assert_array_equal(rotated(x, digest(1)), rotated(x, digest(1)))
    assert np.abs(rotated(x, digest(1)) - rotated(x, digest(2))).max() > 0.1
    # Outside a round it is the rotation of a context of zeros, and not no rotation.
    outside = rotated(x, b"", secagg.Rotate())
    np.testing.assert_array_equal(outside, rotated(x, bytes(32)))
    assert np.abs(outside - x).max() > 0.1


def test_all_parties_of_a_round_have_one_rotation_whatever_their_plan_object() -> None:
    stages = (secagg.ClipL2(1.0), secagg.Rotate(), secagg.Quantise(9))
    pipelines = [Pipeline(stages, 20, 1).at(digest("round"), b"") for _ in range(2)]
    assert pipelines[0].stages == pipelines[1].stages
    other = Pipeline(stages, 20, 1).at(digest("another round"), b"")
    assert other.stages != pipelines[0].stages


@pytest.mark.parametrize("kind", ["spike", "flat", "walsh", "decaying"])
def test_coordinates_have_tails_of_the_spread_that_is_claimed(kind: str) -> None:
    """Over 4,000 contexts: beyond s standard units at most 2 exp(-s^2 / 2) of all, for the vectors
    that are worst without the signs."""
    d, contexts = 64, 4000
    x = {
        "spike": np.eye(d)[5],
        "flat": np.ones(d) / math.sqrt(d),
        # A row of the Hadamard matrix: without signs it would all fall into one coordinate.
        "walsh": (-1.0) ** np.array([(i & 43).bit_count() for i in range(d)]) / math.sqrt(d),
        "decaying": 0.8 ** np.arange(d) / math.sqrt(np.sum(0.8 ** (2 * np.arange(d)))),
    }[kind]
    given = secagg.ClipL2(1.0).bounds(Bounds(length=d))
    spread = secagg.Rotate().bounds(given).spread
    assert spread == pytest.approx(1 / math.sqrt(d))
    values = np.concatenate([rotated(x, digest(kind, i)) for i in range(contexts)]) / spread
    assert np.mean(values**2) == pytest.approx(1.0, rel=1e-9)
    total = d * contexts
    for s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0):
        allowed = 2 * math.exp(-s * s / 2)
        # Coordinates of one context depend on each other, so a context counts as one draw.
        slack = 5 * math.sqrt(allowed / contexts)
        assert np.sum(np.abs(values) > s) / total <= allowed + slack
    # And the mean of the moment generating function, by which the window of a plan is chosen.
    for power in (0.5, 1.0, 2.0):
        assert np.mean(np.exp(power * values)) <= math.exp(power**2 / 2) * 1.1


def test_bounds_keep_the_norm_and_pad_the_length() -> None:
    given = secagg.ClipL2(3.0).bounds(Bounds(length=1000))
    after = secagg.Rotate().bounds(given)
    assert (after.length, after.l2, after.low, after.high) == (1024, 3.0, -3.0, 3.0)
    assert after.l1 == 3.0 * 32
    assert after.unit == 3.0


@pytest.mark.parametrize(
    "stages",
    [
        (secagg.Rotate(), secagg.Quantise(9)),
        (secagg.Integers(0, 3), secagg.Rotate()),
        (secagg.ClipL2(1.0), secagg.Quantise(9), secagg.Rotate()),
        (secagg.ClipL2(1.0), secagg.Rotate(), secagg.Rotate(), secagg.Quantise(9)),
        (
            secagg.ClipL2(1.0),
            secagg.Rotate(),
            secagg.ClipLinf(0.5),
            secagg.Rotate(),
            secagg.Quantise(9),
        ),
    ],
)
def test_it_stands_once_between_a_clip_and_rounding(stages: Any) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        Pipeline(stages, 5, 1)
    assert caught.value.rule == "stage-order"


def test_a_clip_after_the_rotation_claims_no_spread() -> None:
    """Clipped coordinates are not those of a rotated vector; their sum may be worse than it."""
    stages = (secagg.ClipL2(1.0), secagg.Rotate(), secagg.ClipLinf(0.25), secagg.Quantise(8))
    pipeline = Pipeline(stages, 64, 1)
    assert pipeline.bounds.spread is None
