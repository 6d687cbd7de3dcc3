"""AdaptiveClip: the clip follows a quantile, and nothing else moves with it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages.contract import RealInputs, StageContract

import secagg
from secagg.attacks.arena.world import digest, make_plan, people
from secagg_protocols.stages import WITHIN, Noise, Pipeline
from support.noise import CENTRAL, GAUSSIAN

GOLDEN = Path(__file__).parents[1] / "golden" / "dp_reference.json"
ADAPTIVE = secagg.AdaptiveClip(clip=2.0, quantile=0.8, rate=0.1, lowest=0.5, highest=8.0)


def packed(clip: float) -> bytes:
    return struct.pack("<d", clip)


def clip_of(parameters: bytes) -> float:
    (clip,) = struct.unpack("<d", parameters)
    return float(clip)


class TestAdaptiveClip(RealInputs, StageContract):
    stage = secagg.AdaptiveClip(clip=2.5)


def golden_cases() -> list[dict[str, Any]]:
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    found = [case for case in cases if case["category"] == "adaptive_clip_step"]
    assert found
    return found


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["id"])
def test_the_step_is_the_published_one(case: dict[str, Any]) -> None:
    given = case["inputs"]
    stage = secagg.AdaptiveClip(
        clip=given["clip"], quantile=given["target_quantile"], rate=given["lr"]
    )
    found = clip_of(stage.next(packed(given["clip"]), given["below_fraction"]))
    assert found == pytest.approx(case["expected"]["next_clip"], rel=case["rtol"])


def test_steps_agree_with_plain_floats() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        clip, share = float(rng.uniform(0.6, 6.0)), float(rng.uniform(-0.5, 1.5))
        exact = clip * math.e ** (-0.1 * (share - 0.8))
        expected = max(0.5, min(8.0, exact))
        assert clip_of(ADAPTIVE.next(packed(clip), share)) == pytest.approx(expected, rel=1e-12)
    assert ADAPTIVE.next(b"", 0.3) == ADAPTIVE.next(packed(2.0), 0.3)
    # Above the quantile the clip falls, below it rises, at it it stays.
    assert clip_of(ADAPTIVE.next(b"", 0.9)) < 2.0 < clip_of(ADAPTIVE.next(b"", 0.7))
    assert clip_of(ADAPTIVE.next(b"", 0.8)) == 2.0


@pytest.mark.parametrize("share", [-1e300, -50.0, 70.0, 1e300, math.inf, -math.inf])
def test_a_share_that_noise_threw_far_out_moves_the_clip_by_a_factor_of_e(share: float) -> None:
    wide = secagg.AdaptiveClip(clip=2.0, rate=1.0, lowest=1e-6, highest=1e6)
    found = clip_of(wide.next(b"", share))
    assert found == pytest.approx(2.0 * math.exp(-math.copysign(1.0, share)))


def test_the_clip_stays_in_its_range() -> None:
    parameters = b""
    for _ in range(200):
        parameters = ADAPTIVE.next(parameters, 0.0)
    assert clip_of(parameters) == 8.0
    for _ in range(400):
        parameters = ADAPTIVE.next(parameters, 5.0)
    assert clip_of(parameters) == 0.5


def test_the_clip_finds_the_quantile_of_the_norms() -> None:
    norms = np.random.default_rng(7).lognormal(0.5, 0.4, 2000)
    stage = secagg.AdaptiveClip(clip=100.0, quantile=0.7, rate=0.2)
    parameters = b""
    for _ in range(300):
        share = float(np.mean(norms <= stage.read(parameters)))
        parameters = stage.next(parameters, share)
    assert np.mean(norms <= stage.read(parameters)) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(
    "parameters",
    [
        b"\x00",
        bytes(7),
        bytes(8),
        bytes(9),
        packed(math.nan),
        packed(math.inf),
        packed(-math.inf),
        packed(-1.0),
        packed(-0.0),
        packed(2.0) + b"\x00",
        bytes(16),
    ],
)
def test_other_bytes_are_no_clip(parameters: bytes) -> None:
    pipeline = Pipeline((ADAPTIVE, secagg.Quantise(50)), 3, 1)
    for call in (
        lambda: ADAPTIVE.read(parameters),
        lambda: ADAPTIVE.next(parameters, 0.5),
        lambda: ADAPTIVE.same(parameters, b""),
        lambda: pipeline.at(bytes(32), parameters),
    ):
        with pytest.raises(secagg.MisuseError) as caught:
            call()
        assert caught.value.rule == "round-parameters"


def test_parameters_are_read_as_they_were_written() -> None:
    for clip in (0.5, 2.0, 1 / 3, 7.999999999999999):
        assert ADAPTIVE.read(packed(clip)) == clip
        assert len(ADAPTIVE.next(packed(clip), 0.1)) == 8
    assert ADAPTIVE.read(b"") == 2.0
    assert ADAPTIVE.same(packed(1 / 3), packed(math.nextafter(1 / 3, 1.0)))
    assert ADAPTIVE.same(b"", packed(2.0))
    assert not ADAPTIVE.same(packed(2.0), packed(2.0 + 1e-6))


@pytest.mark.parametrize("clip", [0.4999, 8.001, 1e300, 5e-324])
def test_a_party_takes_no_clip_outside_the_plans_range(clip: float) -> None:
    plan = make_plan(stages=(ADAPTIVE, secagg.Quantise(50)))
    name = plan.roster.names[0]
    party = secagg.client(
        plan,
        name,
        identity=people(7)[1][name],
        session="range",
        round=0,
        model=None,
        floors=None,
        journal=secagg.MemoryJournal(),
    )
    with pytest.raises(secagg.MisuseError) as caught:
        party.use_model(b"model", packed(clip))
    assert caught.value.rule == "round-clip"
    party.use_model(b"model", packed(0.5))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"clip": 0.0}, "clip"),
        ({"clip": math.nan}, "clip"),
        ({"clip": True}, "clip"),
        ({"clip": 9.0}, "clip"),
        ({"clip": 0.4}, "clip"),
        ({"lowest": 0.0}, "clip"),
        ({"highest": math.inf}, "clip"),
        ({"lowest": 3.0}, "clip"),
        ({"quantile": 0.0}, "quantile"),
        ({"quantile": 1.01}, "quantile"),
        ({"quantile": math.nan}, "quantile"),
        ({"rate": -0.2}, "rate"),
        ({"rate": "0.2"}, "rate"),
        ({"rate": True}, "rate"),
    ],
)
def test_parameters_of_the_rule_are_checked(changes: dict[str, Any], field: str) -> None:
    good: dict[str, Any] = {"clip": 2.0, "lowest": 0.5, "highest": 8.0}
    with pytest.raises(secagg.PlanError) as caught:
        secagg.AdaptiveClip(**(good | changes))
    assert (caught.value.rule, caught.value.field) == ("clip-range", field)


# The bit.


def encoded(pipeline: Pipeline, x: Any, weight: int, parameters: bytes) -> list[int]:
    """Integers of one site in a round with these parameters."""
    one = pipeline.at(digest("context"), parameters)
    count = iter(range(9))
    array, weight = one.check_input(np.asarray(x, dtype=float), weight)
    out = np.empty(one.total_length, dtype=np.int64)
    one.begin(array, weight, lambda: digest("bit", next(count))).tile(out, 0)
    found: list[int] = out.tolist()
    return found


@pytest.mark.parametrize("noise", [None, CENTRAL])
@pytest.mark.parametrize("weight", [1, 3])
def test_the_bit_says_whether_the_vector_was_within_the_rounds_clip(
    noise: Noise | None, weight: int
) -> None:
    stages = (ADAPTIVE, secagg.Rotate(), secagg.Quantise(50, "conditional"))
    pipeline = Pipeline(stages if noise is None else (*stages, noise), 2, 4)
    assert list(pipeline.extras) == ["weight", WITHIN]
    # As heavy as the largest weight, whatever the site's own is.
    for clip in (0.5, 5.0, 8.0):
        for norm, bit in ((0.999 * clip, 0), (clip, 0), (1.001 * clip, 4), (1e9, 4), (0.0, 0)):
            found = encoded(pipeline, [0.0, norm], weight, packed(clip))
            assert found[-2:] == [weight, bit]


def test_the_number_of_sites_within_comes_out_of_the_sum() -> None:
    pipeline = Pipeline((ADAPTIVE, secagg.Quantise(50)), 2, 4)
    norms = [0.1, 1.9, 2.0, 2.1, 7.0]
    total = np.sum([encoded(pipeline, [0.0, n], 2, b"") for n in norms], axis=0)
    opened = pipeline.at(digest("context"), b"").decode(total, len(norms))
    assert opened.extras == {"weight": 10, WITHIN: 3.0}
    assert opened.weight == 10


def test_a_plan_without_it_has_no_bit() -> None:
    assert WITHIN not in Pipeline((secagg.ClipL2(1.0), secagg.Quantise(5)), 2, 3).extras


# What does not move.


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("rounding", ["conditional", "stochastic", "nearest"])
def test_no_clip_of_a_round_moves_the_sensitivity(rotated: bool, rounding: Any) -> None:
    """Levels count per clip, so the integers of any round are within the plan's own norm."""
    rotate = (secagg.Rotate(),) if rotated else ()
    stages = (ADAPTIVE, *rotate, secagg.Quantise(40, rounding), CENTRAL)
    pipeline = Pipeline(stages, 4, 2)
    l1, l2 = pipeline.sensitivity
    rng = np.random.default_rng(5)
    for clip in (0.5, 0.77, 2.0, 8.0):
        one = pipeline.at(digest("context"), packed(clip))
        assert one.sensitivity == pytest.approx((l1, l2), rel=1e-12)
        assert (one.vector, one.extras) == (pipeline.vector, pipeline.extras)
        assert one.total_length == pipeline.total_length
        for _ in range(40):
            x = rng.normal(size=4) * rng.choice([0.1, 1.0, 100.0])
            out = np.array(encoded(pipeline, x, 2, packed(clip)))
            assert np.abs(out).sum() <= l1
            assert math.sqrt(float(out @ out)) <= l2
            assert np.abs(out[:4]).max() <= pipeline.vector.high


def test_the_unit_of_the_sum_follows_the_rounds_clip() -> None:
    pipeline = Pipeline((ADAPTIVE, secagg.Quantise(1000, "nearest"), GAUSSIAN), 2, 1)
    for clip in (0.5, 2.0, 8.0):
        one = pipeline.at(digest("context"), packed(clip))
        opened = one.decode(np.array([1000, -500, 3], dtype=np.int64), 3)
        np.testing.assert_allclose(opened.sum, [clip, -clip / 2], rtol=1e-15)
        assert opened.noise_variance == pytest.approx(3 * 900 * (clip / 1000) ** 2)


@pytest.mark.parametrize(
    "stages",
    [
        (ADAPTIVE, secagg.ClipL2(5.0), secagg.Quantise(9)),
        (secagg.ClipL2(1.0), ADAPTIVE, secagg.Quantise(9)),
        (secagg.ClipLinf(0.1), ADAPTIVE, secagg.Quantise(9)),
        (ADAPTIVE, secagg.Rotate(), secagg.ClipLinf(0.1), secagg.Quantise(9)),
        (ADAPTIVE, ADAPTIVE, secagg.Quantise(9)),
    ],
)
def test_a_second_clip_would_move_with_every_round_and_is_refused(stages: Any) -> None:
    """Two clips in other proportions in each round: the plan's sensitivity would hold for the
    first one only."""
    with pytest.raises(secagg.PlanError) as caught:
        Pipeline((*stages, GAUSSIAN), 4, 1)
    assert (caught.value.rule, caught.value.field) == ("stage-order", "stages")
