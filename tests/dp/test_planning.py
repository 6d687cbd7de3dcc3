"""Rounding and the search of scale and noise beyond the reference values."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from secagg.dp import accounting, planning, rounding
from secagg_protocols.errors import PlanError

PLAN: dict[str, Any] = {
    "epsilon": 2.0,
    "delta": 1e-5,
    "rounds": 1,
    "dimension": 1024,
    "clients": 50,
    "l2_clip": 1.0,
    "bits": 16,
}


def check(given: dict[str, Any], found: planning.Parameters) -> None:
    assert found.epsilon <= given["epsilon"]
    assert found.epsilon >= 0.99 * given["epsilon"]
    variance = found.local_variance_levels2
    signal = (found.scale * given["l2_clip"] * given["clients"]) ** 2 / given["dimension"]
    total = signal + given["clients"] * (0.25 + variance)
    assert 8 * math.sqrt(total) <= 2.0 ** given["bits"] * (1 + 1e-12)
    assert found.central_noise_multiplier == pytest.approx(
        math.sqrt(given["clients"] * variance) / found.scale / given["l2_clip"]
    )


def randomly(rng: random.Random, *, sampled: bool) -> dict[str, Any]:
    return {
        "epsilon": math.exp(rng.uniform(math.log(0.2), math.log(12))),
        "delta": 10 ** rng.uniform(-10, -4),
        "rounds": rng.choice([1, 3, 30, 300]),
        "dimension": 2 ** rng.randint(0, 20),
        "clients": rng.choice([2, 3, 10, 100, 1000]),
        "l2_clip": 10 ** rng.uniform(-3, 3),
        "bits": rng.randint(14, 30),
        "mechanism": rng.choice(["discrete-gaussian", "skellam"]),
        "sampling_rate": rng.choice([0.01, 0.1, 0.5]) if sampled else 1.0,
    }


@pytest.mark.parametrize("seed", range(60))
def test_random_plans_meet_their_target(seed: int) -> None:
    given = randomly(random.Random(seed), sampled=seed % 15 == 0)
    try:
        found = planning.parameters(**given)
    except PlanError as error:
        assert error.rule == "bits"
        text = str(error)
        # It says how many are needed, and with one more there is a plan.
        need = int(text.split("; ")[1].split(maxsplit=1)[0])
        assert need > given["bits"]
        given["bits"] = need + 1
        found = planning.parameters(**given)
    check(given, found)


def test_more_bits_need_less_noise() -> None:
    multipliers = [
        planning.parameters(**{**PLAN, "bits": bits}).central_noise_multiplier
        for bits in (11, 12, 14, 18, 30)
    ]
    assert multipliers == sorted(multipliers, reverse=True)
    assert multipliers[0] > 1.01 * multipliers[-1]
    # With bits to spare nothing is left of the rounding.
    assert multipliers[-1] == pytest.approx(planning.multiplier(target()), rel=1e-3)


def target(**changes: Any) -> planning.Target:
    fields = {"epsilon": 2.0, "delta": 1e-5, "rounds": 1, "shares": 50, "dimension": 1024}
    return planning.Target(**{**fields, **changes})


def test_a_sampler_too_far_from_its_law_is_refused() -> None:
    # 50 shares of 1024 coordinates, and 1 + e^2: 2.2e-11 is where delta is used up.
    with pytest.raises(PlanError) as caught:
        target(total_variation=2.4e-11)
    assert (caught.value.rule, caught.value.field) == ("sampler-distance", "total_variation")
    paid = planning.finest(
        target(total_variation=1e-11),
        l2_clip=1.0,
        sensitivity=lambda scale: 1000 * scale,
        bits=20,
        needed=lambda scale, stddev: 10.0 + scale,
    )
    free = planning.finest(
        target(),
        l2_clip=1.0,
        sensitivity=lambda scale: 1000 * scale,
        bits=20,
        needed=lambda scale, stddev: 10.0 + scale,
    )
    assert free[0] == pytest.approx(10, rel=1e-3)
    assert math.sqrt(paid[1]) / paid[0] > 1.01 * math.sqrt(free[1]) / free[0]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("epsilon", {"epsilon": 0.0}),
        ("epsilon", {"epsilon": math.inf}),
        ("epsilon", {"epsilon": math.nan}),
        ("delta", {"delta": 0.0}),
        ("delta", {"delta": 1.0}),
        ("mechanism", {"mechanism": "laplace"}),
        ("rounding", {"beta": 1.0}),
        ("rounding", {"beta": -0.1}),
        ("bits", {"bits": 3}),
    ],
)
def test_targets_are_checked(rule: str, changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        planning.parameters(**{**PLAN, **changes})
    assert caught.value.rule == rule


def test_scale_without_room_is_refused() -> None:
    with pytest.raises(PlanError, match="6 are needed"):
        rounding.heuristic_scale(
            local_stddev=1.0, l2_clip=1.0, bits=4, clients=100, dimension=9, k_stddevs=4
        )


def test_rounding_without_conditions_is_the_worst_case() -> None:
    rng = random.Random(5)
    for _ in range(200):
        x = [rng.uniform(-3, 3) for _ in range(rng.randint(1, 6))]
        norm = math.sqrt(math.fsum(value * value for value in x))
        bound = rounding.rounded_l2(norm, beta=0.0, dimension=len(x))
        l1 = rounding.rounded_l1(norm, beta=0.0, dimension=len(x))
        for ups in itertools.product((math.floor, math.ceil), repeat=len(x)):
            y = [up(value) for up, value in zip(ups, x, strict=True)]
            assert math.sqrt(sum(v * v for v in y)) <= bound
            assert sum(abs(v) for v in y) <= l1


@pytest.mark.parametrize("beta", [math.exp(-0.5), 0.1, 0.01])
@pytest.mark.parametrize("dimension", [1, 30, 4096])
def test_rounding_is_accepted_as_often_as_promised(beta: float, dimension: int) -> None:
    rng = random.Random(7)
    x = [rng.gauss(0, 1) for _ in range(dimension)]
    norm = math.sqrt(math.fsum(value * value for value in x))
    bound = rounding.rounded_l2(norm, beta=beta, dimension=dimension)
    trials, accepted = 300, 0
    for _ in range(trials):
        # A value is rounded up with the probability of its fraction, so its mean stays.
        squares = sum(math.floor(value + rng.random()) ** 2 for value in x)
        accepted += squares <= bound**2
    # Ten standard deviations of slack.
    assert accepted / trials >= 1 - beta - 10 * math.sqrt(0.25 / trials) / 2


def test_small_betas_never_beat_the_worst_case() -> None:
    for norm in (0.0, 1.0, 1000.0):
        worst = rounding.rounded_l2(norm, beta=0.0, dimension=64)
        bounds = [rounding.rounded_l2(norm, beta=b, dimension=64) for b in (0.9, 0.1, 1e-9, 1e-300)]
        assert bounds == sorted(bounds)
        assert bounds[-1] <= worst


def test_epsilon_is_the_accountants() -> None:
    found = planning.parameters(**PLAN)
    mechanism = target().at(found.local_variance_levels2, found.l2_levels)
    assert accounting.epsilon(mechanism, delta=1e-5) == found.epsilon
    assert planning.parameters(**PLAN, mechanism="skellam").central_noise_multiplier > (
        found.central_noise_multiplier
    )
