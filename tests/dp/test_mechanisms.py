"""Mechanisms are values that cannot be wrong."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest

from secagg.dp import mechanisms
from secagg_protocols.errors import PlanError

GOOD: dict[type, dict[str, Any]] = {
    mechanisms.DiscreteGaussianSum: {
        "local_variance_levels2": 100,
        "shares": 3,
        "l2_levels": 5.5,
        "dimension": 8,
        "total_variation": 1e-20,
        "log_ratio": 1e-21,
    },
    mechanisms.SkellamSum: {
        "local_variance_levels2": 100,
        "shares": 3,
        "l1_levels": 10.0,
        "l2_levels": 5.5,
        "dimension": 8,
        "total_variation": 1e-20,
    },
    mechanisms.DiscreteLaplaceSum: {
        "scale_levels": 10,
        "l1_levels": 10.0,
        "dimension": 8,
        "total_variation": 1e-20,
    },
    mechanisms.CentralDiscreteGaussian: {
        "variance_levels2": 100,
        "l2_levels": 5.5,
        "dimension": 8,
        "total_variation": 1e-20,
        "log_ratio": 1e-21,
    },
}
#: A bad value of every kind of field.
WHOLE = (0, -1, 1.0, True, "3")
REAL = (-0.1, math.inf, math.nan, "1", None, True)


@pytest.mark.parametrize("kind", GOOD)
def test_a_mechanism_is_a_frozen_value(kind: Any) -> None:
    one = kind(**GOOD[kind])
    assert one == kind(**GOOD[kind])
    assert len({one, kind(**GOOD[kind])}) == 1
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.dimension = 9
    with pytest.raises(TypeError):
        kind(*GOOD[kind].values())


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (kind, field, value)
        for kind, fields in GOOD.items()
        for field, good in fields.items()
        for value in (WHOLE if isinstance(good, int) else REAL)
    ],
)
def test_every_field_is_checked(kind: Any, field: str, value: object) -> None:
    with pytest.raises(PlanError) as caught:
        kind(**{**GOOD[kind], field: value})
    assert caught.value.rule == "mechanism"
    assert caught.value.field == field


def test_a_total_variation_is_below_one() -> None:
    for kind, fields in GOOD.items():
        with pytest.raises(PlanError, match="total_variation"):
            kind(**{**fields, "total_variation": 1.0})


def test_central_noise_is_a_sum_of_one_share() -> None:
    central = mechanisms.CentralDiscreteGaussian(**GOOD[mechanisms.CentralDiscreteGaussian])
    assert central.as_sum() == mechanisms.DiscreteGaussianSum(
        local_variance_levels2=100,
        shares=1,
        l2_levels=5.5,
        dimension=8,
        total_variation=1e-20,
        log_ratio=1e-21,
    )


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        (mechanisms.DiscreteGaussianSum, 3),
        (mechanisms.SkellamSum, 3),
        (mechanisms.DiscreteLaplaceSum, 1),
        (mechanisms.CentralDiscreteGaussian, 1),
    ],
)
def test_the_samplers_distance_counts_coordinates_and_shares(kind: Any, shares: int) -> None:
    distance = mechanisms.sampler_distance(kind(**GOOD[kind]))
    assert distance == pytest.approx(shares * 8 * 1e-20)
