"""Rounding and the joint search of scale and noise, against reference values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dp.golden import CASES, cases

from secagg.dp import accounting, planning, rounding
from secagg.dp.mechanisms import DiscreteGaussianSum, SkellamSum
from secagg_protocols.errors import PlanError

Case = dict[str, Any]


def near(case: Case, value: float) -> Any:
    return pytest.approx(value, rel=case["rtol"])


def planned(case: Case, mechanism: str, **changes: Any) -> planning.Parameters:
    given = {**case["inputs"], **changes}
    return planning.parameters(
        epsilon=given["epsilon"],
        delta=given["delta"],
        rounds=given["steps"],
        dimension=given["dim"],
        clients=given["num_clients"],
        l2_clip=given["l2_clip"],
        bits=given["bits"],
        k_stddevs=given["k_stddevs"],
        beta=given["beta"],
        mechanism=mechanism,
        sampling_rate=given.get("q", 1.0),
    )


def check(found: planning.Parameters, case: Case, mechanism: str) -> None:
    """What is promised of any result: epsilon met and near, bits kept, fields that agree."""
    given = case["inputs"]
    assert 0.99 * given["epsilon"] <= found.epsilon <= given["epsilon"]
    norm = found.scale * given["l2_clip"]
    l2 = rounding.rounded_l2(norm, beta=given["beta"], dimension=given["dim"])
    one: SkellamSum | DiscreteGaussianSum
    if mechanism == "skellam":
        one = SkellamSum(
            local_variance_levels2=found.local_variance_levels2,
            shares=given["num_clients"],
            l1_levels=rounding.rounded_l1(norm, beta=given["beta"], dimension=given["dim"]),
            l2_levels=l2,
            dimension=given["dim"],
        )
    else:
        one = DiscreteGaussianSum(
            local_variance_levels2=found.local_variance_levels2,
            shares=given["num_clients"],
            l2_levels=l2,
            dimension=given["dim"],
        )
    assert found.l2_levels == l2
    epsilon = accounting.epsilon(one, delta=given["delta"], rounds=given["steps"])
    assert found.epsilon == pytest.approx(epsilon, rel=1e-12)
    stddev = math.sqrt(found.local_variance_levels2)
    assert found.local_stddev_levels == stddev
    assert found.local_stddev * found.scale == pytest.approx(stddev)
    signal = (norm * given["num_clients"]) ** 2 / given["dim"]
    total = signal + given["num_clients"] * (0.25 + stddev**2)
    assert 2 * given["k_stddevs"] * math.sqrt(total) <= 2.0 ** given["bits"] * (1 + 1e-12)


@cases("ddgauss_params")
def test_discrete_gaussian_needs_no_more_noise_than_the_reference(case: Case) -> None:
    found, expected = planned(case, "discrete-gaussian"), case["expected"]
    check(found, case, "discrete-gaussian")
    # Equivalent Gaussians need 7 % less noise than the published bound.
    assert found.central_noise_multiplier < 0.95 * expected["central_noise_multiplier"]
    assert found.local_stddev < 0.95 * expected["local_stddev"]
    assert found.scale >= expected["scale"]


@cases("skellam_params")
def test_skellam_needs_no_more_noise_than_the_reference(case: Case) -> None:
    found, expected = planned(case, "skellam"), case["expected"]
    check(found, case, "skellam")
    more = 1 + case["rtol"]
    assert found.central_noise_multiplier <= expected["central_noise_multiplier"] * more
    assert found.local_stddev <= expected["local_stddev"] * more
    assert found.local_stddev_levels <= expected["local_stddev_scaled"] * more
    assert found.scale == near(case, expected["scale"])


@cases("params_must_reject")
@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_too_few_bits_are_refused_with_the_number_needed(case: Case, mechanism: str) -> None:
    assert case["expected"]["must_raise"]
    with pytest.raises(PlanError, match="are needed") as caught:
        planned(case, mechanism)
    assert (caught.value.rule, caught.value.field) == ("bits", "bits")
    need = next(int(word) for word in str(caught.value).split("; ")[1].split() if word.isdigit())
    assert need > case["inputs"]["bits"]
    with pytest.raises(PlanError):
        planned(case, mechanism, bits=need - 1)
    assert planned(case, mechanism, bits=need).epsilon <= case["inputs"]["epsilon"]


@cases("params_min_bits")
def test_minimum_bits(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    found = rounding.minimum_bits(
        noise_multiplier=given["noise_multiplier"],
        clients=given["num_clients"],
        dimension=given["dim"],
        k_stddevs=given["k_stddevs"],
        beta=given["beta"],
    )
    assert found == near(case, expected["min_bits_real"])
    assert math.floor(found) + 1 == expected["first_feasible_integer_bits"]


@cases("rounded_norm")
def test_rounded_norm(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    found = {
        "l2": rounding.rounded_l2(
            given["scaled_l2_norm"], beta=given["beta"], dimension=given["dim"]
        ),
        "l1": rounding.rounded_l1(
            given["scaled_l2_norm"], beta=given["beta"], dimension=given["dim"]
        ),
    }
    assert found["l2"] == near(case, expected["l2"])
    assert found["l1"] == near(case, expected["l1"])


@cases("heuristic_scale")
def test_heuristic_scale(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    k = expected["k_stddevs"]
    assert math.erfc(k / math.sqrt(2)) == pytest.approx(given["modclip_prob"], rel=1e-9)
    # Their multiplier is central; every client adds its share of the variance.
    stddev = given["noise_multiplier"] * given["l2_clip"] / math.sqrt(given["num_clients"])
    common = {
        "l2_clip": given["l2_clip"],
        "clients": given["num_clients"],
        "dimension": given["dim"],
        "k_stddevs": k,
        "rho": given["rho"],
    }
    found = rounding.heuristic_scale(local_stddev=stddev, bits=given["bits"], **common)
    assert found == near(case, expected["scale"])
    # The rule of the modulus is the inverse.
    back = rounding.sum_bits(scale=found, local_stddev_levels=stddev * found, **common)
    assert back == pytest.approx(given["bits"], rel=1e-12)


def test_every_category_has_a_test() -> None:
    here = Path(__file__).parents[1]
    texts = "".join(path.read_text() for path in here.rglob("test_*.py"))
    missing = {case["category"] for case in CASES if f'"{case["category"]}"' not in texts}
    assert not missing
