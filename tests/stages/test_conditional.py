"""Conditional stochastic rounding: the norm that noise hides is never exceeded, on any vector."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from stages.contract import IntegerStageContract

import secagg
from secagg.attacks.arena.world import digest
from secagg_protocols.stages import Bounds, quantise
from secagg_protocols.stages.base import ArrayEncoder
from secagg_protocols.stages.quantise import conditional_square

CLIP = 1.5


def bounds(length: int, weight: int = 1) -> Bounds:
    return secagg.ClipL2(CLIP).bounds(Bounds(length=length)).weighted(weight)


def encoder_of(x: Any, levels: int, seed: object, weight: int = 1) -> Any:
    stage = secagg.Quantise(levels, "conditional")
    given = bounds(len(x), weight)
    return stage.begin(ArrayEncoder(np.asarray(x, dtype=float)), lambda: digest(seed), given)


def rounded(x: Any, levels: int, seed: object, weight: int = 1) -> list[int]:
    encoder = encoder_of(x, levels, seed, weight)
    out = np.empty(encoder.length, dtype=np.int64)
    encoder.tile(out, 0)
    found: list[int] = out.tolist()
    return found


def largest_square(levels: int, weight: int, length: int) -> float:
    """The bound of Kairouz, Liu and Steinke, Proposition 22, with beta = exp(-1/2)."""
    norm, root = levels * weight, math.sqrt(length)
    return min((norm + root) ** 2, norm**2 + length / 4 + math.sqrt(1.0) * (norm + root / 2))


def worst_vectors(length: int, levels: int, weight: int) -> list[np.ndarray[Any, Any]]:
    """Vectors of the largest norm whose rounding has most to add."""
    unit, norm = CLIP / levels, CLIP * weight
    rng = np.random.default_rng(length)
    flat = np.full(length, norm / math.sqrt(length))
    halves = np.full(length, unit / 2)
    halves *= min(1.0, norm / np.linalg.norm(halves))
    # Half a level everywhere, and what is left of the norm on one coordinate.
    spiked = halves.copy()
    spiked[0] = math.sqrt(max(0.0, norm**2 - float(halves[1:] @ halves[1:])))
    spike = np.zeros(length)
    spike[-1] = -norm
    normal = rng.normal(size=length)
    tiny = np.full(length, unit * 1e-9)
    return [flat, -flat, halves, spiked, spike, normal / np.linalg.norm(normal) * norm, tiny]


class TestQuantiseConditional(IntegerStageContract):
    stage = secagg.Quantise(50, "conditional")
    before = staticmethod(bounds)

    def inputs(self, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        x = rng.normal(size=length)
        return x / np.linalg.norm(x) * CLIP * rng.choice([1e-6, 0.7, 1 - 1e-12])


class TestQuantiseConditionalTruncated(TestQuantiseConditional):
    """The same contract where no draw is ever good enough."""

    @pytest.fixture(autouse=True)
    def _no_attempts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quantise, "ATTEMPTS", 0)


@pytest.mark.parametrize("weight", [1, 7])
@pytest.mark.parametrize("levels", [1, 2, 3, 40, 1000, (1 << 27) - 3])
@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000, 4097])
def test_the_integer_norm_is_never_above_the_bound(length: int, levels: int, weight: int) -> None:
    most = largest_square(levels, weight, length)
    stage = secagg.Quantise(levels, "conditional")
    claimed = stage.bounds(bounds(length, weight))
    assert claimed.l2 is not None
    assert claimed.l1 is not None
    assert claimed.l2 <= math.sqrt(most) * (1 + 1e-12)
    for i, x in enumerate(worst_vectors(length, levels, weight)):
        for seed in range(4):
            out = rounded(x, levels, (i, seed), weight)
            square = sum(v * v for v in out)
            assert square <= claimed.l2**2 * (1 + 1e-15)
            assert sum(abs(v) for v in out) <= claimed.l1 * (1 + 1e-15)
            assert max(map(abs, out)) <= levels * weight
            scale = Fraction(levels) / Fraction(CLIP)
            for v, level in zip(x[:50].tolist(), out[:50], strict=True):
                # A neighbour of the exact level, but for the last digits of a float.
                assert abs(Fraction(v) * scale - level) <= 1 + Fraction(levels * weight, 1 << 50)


@pytest.mark.parametrize("length", [1, 2, 16, 100, 1000, 10_000])
@pytest.mark.parametrize("levels", [1, 30, 2000])
def test_one_attempt_is_accepted_as_often_as_the_bound_says(
    length: int, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "ATTEMPTS", 1)
    attempts = 300 if length < 10_000 else 100
    beta = math.exp(-0.5)
    for i, x in enumerate(worst_vectors(length, levels, 1)):
        kinds = [type(encoder_of(x, levels, (i, seed))).__name__ for seed in range(attempts)]
        share = kinds.count("_Rounded") / attempts
        assert set(kinds) <= {"_Rounded", "_Truncated"}
        assert share >= 1 - beta - 5 * math.sqrt(beta * (1 - beta) / attempts)


def failing_seed(x: Any, levels: int) -> int:
    """A seed whose first draw is beyond the bound."""
    for seed in range(2000):
        if type(encoder_of(x, levels, seed)).__name__ == "_Truncated":
            return seed
    raise AssertionError("every first draw is within the bound")


def test_at_the_cap_it_truncates_towards_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, length = 1, 400
    # Signs alternate, every level is 0.05 of one: a draw has a squared norm near 20.
    x = np.full(length, CLIP / math.sqrt(length)) * (-1.0) ** np.arange(length)
    monkeypatch.setattr(quantise, "conditional_square", lambda l2, length: float(l2 * l2))
    monkeypatch.setattr(quantise, "ATTEMPTS", 1)
    seed = failing_seed(x, levels)
    assert rounded(x, levels, seed) == [0] * length
    # With more draws allowed the same seed may do; it is never an error.
    monkeypatch.setattr(quantise, "ATTEMPTS", 64)
    assert sum(v * v for v in rounded(x, levels, seed)) <= 1


@pytest.mark.parametrize("levels", [1, 3, 1000, 1 << 27])
@pytest.mark.parametrize("length", [1, 5, 333])
def test_truncated_vectors_stay_below_the_clip(
    length: int, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "ATTEMPTS", 0)
    for i, x in enumerate(worst_vectors(length, levels, 1)):
        out = rounded(x, levels, i)
        for value, level in zip((x * (levels / CLIP)).tolist(), out, strict=True):
            # The product of two floats may lie on the other side of an integer.
            near = abs(value - round(value)) < 1e-6
            assert level == math.trunc(value) or (near and abs(level - value) <= 1 + 1e-6)
            assert abs(level) <= abs(value) + 1e-6
        square = sum(v * v for v in out)
        assert square <= levels**2 * (1 + 1e-12)
        assert square <= largest_square(levels, 1, length)


def test_another_attempt_has_another_randomness_and_the_first_good_one_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = 3
    x = np.full(9, CLIP / 3)  # exact levels of 1, so that every draw is the same
    x[0] -= 0.4 * CLIP / levels
    tight = 8.5
    monkeypatch.setattr(quantise, "conditional_square", lambda l2, length: tight)
    seen = {tuple(rounded(x, levels, seed)) for seed in range(60)}
    # Only 0 or 1 in the first place; 1 would make a squared norm of 9, which is beyond the bound.
    assert seen == {(0, 1, 1, 1, 1, 1, 1, 1, 1)}
    monkeypatch.setattr(quantise, "ATTEMPTS", 1)
    kinds = {type(encoder_of(x, levels, seed)).__name__ for seed in range(60)}
    assert kinds == {"_Rounded", "_Truncated"}


@pytest.mark.parametrize(("length", "levels"), [(1, 2), (16, 10), (200, 30)])
def test_the_expectation_is_nearly_the_vector(length: int, levels: int) -> None:
    """Refusing large norms pulls towards zero, by a small part of the norm."""
    rng = np.random.default_rng(length)
    x = rng.normal(size=length)
    x *= CLIP / np.linalg.norm(x)
    exact = x * levels / CLIP
    draws = 3000
    mean = np.mean([rounded(x, levels, ("mean", i)) for i in range(draws)], axis=0)
    share = exact - np.floor(exact)
    spread = np.sqrt(share * (1 - share) / draws) + 1e-9
    # Coordinate by coordinate: sampling error, and at most this part of a level.
    assert (np.abs(mean - exact) <= 5 * spread + 0.05).all()
    along = float(mean @ exact) / float(exact @ exact)
    assert 0.97 <= along <= 1.005 + 5 / math.sqrt(draws * levels)


def test_the_bound_is_the_smaller_of_worst_case_and_tail() -> None:
    for length in (1, 4, 1000):
        for norm in (0.0, 0.5, 3.0, 1e6):
            found = conditional_square(norm, length)
            assert found <= (norm + math.sqrt(length)) ** 2
            assert found == pytest.approx(
                min(
                    (norm + math.sqrt(length)) ** 2,
                    norm**2 + length / 4 + norm + math.sqrt(length) / 2,
                )
            )


def test_norms_that_an_integer_cannot_add_up_are_refused() -> None:
    stage = secagg.Quantise(1 << 31, "conditional")
    with pytest.raises(secagg.PlanError) as caught:
        stage.bounds(bounds(4))
    assert (caught.value.rule, caught.value.field) == ("quantise-levels", "levels")
    with pytest.raises(secagg.PlanError):
        secagg.Quantise(1 << 28, "conditional").bounds(bounds(4, 8))
    assert secagg.Quantise((1 << 31) - 9, "conditional").bounds(bounds(4)).integer
