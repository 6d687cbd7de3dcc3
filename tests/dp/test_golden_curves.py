"""Privacy curves against reference values of other people's software."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.optimize
from dp import exact
from dp.golden import cases, zero_concentrated

from secagg.dp import accounting, curves, gaussian, rounding, scalar, subsampled
from secagg.dp.mechanisms import DiscreteGaussianSum, DiscreteLaplaceSum, SkellamSum

Case = dict[str, Any]


def near(case: Case, value: float) -> Any:
    return pytest.approx(value, rel=case["rtol"])


@cases("analytic_gaussian_sigma")
def test_analytic_gaussian_sigma(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    z = gaussian.gaussian_multiplier(given["epsilon"], given["delta"])
    assert z * given["l2_sensitivity"] == near(case, expected["sigma"])
    # Upward only.
    assert z * given["l2_sensitivity"] >= expected["sigma"]


@cases("gaussian_delta")
def test_gaussian_delta(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["delta"]
    found = gaussian.Gaussian(given["noise_multiplier"]).delta(given["epsilon"])
    assert expected <= found <= expected * (1 + 2 * case["rtol"])


@cases("gaussian_epsilon")
def test_gaussian_epsilon(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["epsilon"]
    found = gaussian.Gaussian(given["noise_multiplier"]).epsilon(given["delta"])
    assert expected <= found == near(case, expected)


@cases("gaussian_composed_sigma")
def test_gaussian_composed_sigma(case: Case) -> None:
    given = case["inputs"]
    z = gaussian.gaussian_multiplier(given["epsilon"], given["delta"], given["rounds"], given["q"])
    assert z == near(case, case["expected"]["noise_multiplier"])


@cases("calibrate_gaussian", "subsampled_overhead")
def test_calibrated_gaussian(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    z = gaussian.gaussian_multiplier(given["epsilon"], given["delta"], given["rounds"], given["q"])
    worse = expected.get("z_rdp", expected.get("z_public_ddg"))
    assert expected["z_pld"] * (1 - case["rtol"]) <= z <= min(worse, expected["z_pld"] * 1.01)


@cases("epsilon_gaussian_composed")
def test_epsilon_gaussian_composed(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    z, rounds = given["noise_multiplier"], given["rounds"]
    if given["q"] == 1:
        found = gaussian.Gaussian(z / math.sqrt(rounds)).epsilon(given["delta"])
    else:
        found = subsampled.SampledGaussian(z, given["q"], rounds).epsilon(given["delta"])
    # Reference and ours are both pessimistic to a part in a few hundred.
    assert found == pytest.approx(expected["epsilon_pld"], rel=3 * case["rtol"])
    assert found < expected["epsilon_rdp"]


@cases("rdp_poisson_gaussian")
def test_rdp_poisson_gaussian(case: Case) -> None:
    given = case["inputs"]
    plain = given["noise_multiplier"]
    for order, expected in zip(given["orders"], case["expected"]["rdp"], strict=True):
        if order == int(order):
            found = subsampled._gaussian_divergence(plain, given["q"], order)
            assert found == pytest.approx(expected, rel=case["rtol"])
            # The generic bound is above the exact divergence of the Gaussian.
            generic = subsampled.sampled_divergence(
                lambda a: a / (2 * plain**2), rate=given["q"], order=int(order)
            )
            assert generic >= expected * (1 - case["rtol"])


@cases("rdp_subsampled_zhu_wang")
def test_rdp_subsampled_zhu_wang(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    z = given["noise_multiplier"]
    found = subsampled.sampled_divergence(
        lambda order: order / (2 * z * z), rate=given["q"], order=given["order"]
    )
    assert found == near(case, expected["rdp"])
    assert found >= expected["rdp_thm6_lower"]


@cases("zcdp_to_epsilon")
def test_zcdp_to_epsilon(case: Case) -> None:
    found = zero_concentrated(case["inputs"]["rho"]).epsilon(case["inputs"]["delta"])
    assert found == near(case, case["expected"]["epsilon"])
    assert found <= case["expected"]["epsilon_bun_steinke"]


@cases("zcdp_to_delta")
def test_zcdp_to_delta(case: Case) -> None:
    found = zero_concentrated(case["inputs"]["rho"]).delta(case["inputs"]["epsilon"])
    assert found == near(case, case["expected"]["delta"])
    assert found <= case["expected"]["delta_standard"]


@cases("epsilon_to_zcdp_rho")
def test_epsilon_to_zcdp_rho(case: Case) -> None:
    given = case["inputs"]
    rho = scipy.optimize.brentq(
        lambda rho: zero_concentrated(rho).epsilon(given["delta"]) - given["epsilon"],
        1e-6,
        10,
        rtol=1e-12,
    )
    assert rho == near(case, case["expected"]["rho"])


@cases("rdp_to_epsilon")
def test_rdp_to_epsilon(case: Case) -> None:
    given = case["inputs"]
    values = dict(zip(given["orders"], given["rdp"], strict=True))
    found = curves.Renyi(values.__getitem__, given["orders"]).epsilon(given["delta"])
    # Ours carries a margin of one part in a billion upward.
    expected = case["expected"]["epsilon"]
    assert expected <= found <= expected * (1 + 2 * case["rtol"])


@cases("rdp_to_delta")
def test_rdp_to_delta(case: Case) -> None:
    given = case["inputs"]
    values = dict(zip(given["orders"], given["rdp"], strict=True))
    found = curves.Renyi(values.__getitem__, given["orders"]).delta(given["epsilon"])
    expected = case["expected"]["delta"]
    assert expected <= found <= expected * (1 + 2 * case["rtol"])


@cases("discrete_gaussian_delta")
def test_discrete_gaussian_delta(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["delta"]
    law = exact.discrete_gaussian(given["sigma"] ** 2)
    assert exact.delta(law, (given["sensitivity"],), given["epsilon"]) == near(case, expected)
    # The curve behind the accountant, as close as its discretisation allows.
    one = scalar.ScalarGaussian(given["sigma"], given["sensitivity"], 1.0, 1)
    assert expected <= one.delta(given["epsilon"])
    assert one.delta(given["epsilon"]) <= case["expected"]["pld_pessimistic"] * 1.00001
    if given["sigma"] == int(given["sigma"]):
        mechanism = DiscreteGaussianSum(
            local_variance_levels2=given["sigma"] ** 2,
            shares=1,
            l2_levels=given["sensitivity"],
            dimension=1,
        )
        found = accounting.delta(mechanism, epsilon=given["epsilon"])
        assert expected <= found <= expected * 1.001


@cases("discrete_gaussian_min_sigma")
def test_discrete_gaussian_min_sigma(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["sigma"]

    def reached(sigma: float) -> float:
        one = scalar.ScalarGaussian(sigma, given["sensitivity"], 1.0, 1)
        return one.epsilon(given["delta"]) - given["epsilon"]

    sigma = scipy.optimize.brentq(reached, expected / 2, expected * 2, rtol=1e-7)
    assert expected * (1 - case["rtol"]) <= sigma <= 1.10 * expected
    # The accountant has whole variances: the first that it accepts is near, too.
    variance = math.floor((expected * (1 - case["rtol"])) ** 2)

    def epsilon(variance: int) -> float:
        mechanism = DiscreteGaussianSum(
            local_variance_levels2=variance, shares=1, l2_levels=given["sensitivity"], dimension=1
        )
        return accounting.epsilon(mechanism, delta=given["delta"])

    assert epsilon(variance) > given["epsilon"]
    first = next(v for v in range(variance, 2 * variance) if epsilon(v) <= given["epsilon"])
    assert first <= (1.10 * expected) ** 2


@cases("discrete_gaussian_pld_composed")
def test_discrete_gaussian_pld_composed(case: Case) -> None:
    given = case["inputs"]
    mechanism = DiscreteGaussianSum(
        local_variance_levels2=given["sigma"] ** 2,
        shares=1,
        l2_levels=given["sensitivity"],
        dimension=1,
    )
    found = accounting.epsilon(
        mechanism, delta=given["delta"], rounds=given["rounds"], sampling_rate=given["q"]
    )
    assert found == near(case, case["expected"]["epsilon"])


@cases("discrete_laplace_delta")
def test_discrete_laplace_delta(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    found = curves.discrete_laplace_delta(
        scale=given["scale"], shift=given["sensitivity"], epsilon=given["epsilon"]
    )
    assert found == near(case, expected["delta"])
    mechanism = DiscreteLaplaceSum(
        scale_levels=int(given["scale"]), l1_levels=given["sensitivity"], dimension=1
    )
    accounted = accounting.delta(mechanism, epsilon=given["epsilon"])
    assert expected["delta"] <= accounted <= expected["delta"] * (1 + 2e-9)
    assert accounting.epsilon(mechanism, delta=0.0) == pytest.approx(expected["pure_epsilon"])


@cases("laplace_delta")
def test_laplace_delta(case: Case) -> None:
    # Ever finer discrete Laplace noise is Laplace noise.
    given, fine = case["inputs"], 10**7
    found = curves.discrete_laplace_delta(
        scale=given["scale"] * fine,
        shift=int(given["sensitivity"] * fine),
        epsilon=given["epsilon"],
    )
    assert found == pytest.approx(case["expected"]["delta"], rel=1e-6)


@cases("laplace_rdp")
def test_laplace_rdp(case: Case) -> None:
    # The bound of a pure guarantee is that of randomised response, which is above Laplace's.
    pure = 1 / case["inputs"]["scale_over_sensitivity"]
    for order, expected in zip(case["inputs"]["orders"], case["expected"]["rdp"], strict=True):
        assert expected <= curves.pure_divergence(epsilon=pure, order=order) <= pure


@cases("laplace_composed_epsilon")
def test_laplace_composed_epsilon(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    mechanism = DiscreteLaplaceSum(
        scale_levels=int(given["noise_multiplier"]), l1_levels=1, dimension=1
    )
    found = accounting.epsilon(mechanism, delta=given["delta"], rounds=given["rounds"])
    assert found == near(case, expected["epsilon_discrete_laplace"])
    assert found >= expected["epsilon_laplace"]


@cases("skellam_rdp_bound")
def test_skellam_rdp_bound(case: Case) -> None:
    given, scale = case["inputs"], case["inputs"]["scale"]
    found = curves.skellam_divergence(
        l1=given["l1_sens"] * scale,
        l2=given["l2_sens"] * scale,
        variance=given["central_var"] * scale**2,
        order=given["order"],
    )
    assert found == near(case, case["expected"]["rdp"])


@cases("skellam_rdp_exact_1d")
def test_skellam_rdp_exact_1d(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    bound = curves.skellam_divergence(
        l1=given["shift"], l2=given["shift"], variance=given["variance"], order=given["order"]
    )
    assert bound == near(case, expected["rdp_bound"])
    true = exact.renyi(exact.skellam(given["variance"]), given["shift"], given["order"])
    assert true == near(case, expected["rdp_exact"])
    assert true <= bound


@cases("skellam_epsilon", "ddgauss_epsilon")
def test_epsilon_of_the_published_bounds(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["epsilon"]
    scale, shares = given["scale"], given["num_clients"]
    norm, beta, dimension = scale * given["l2_clip"], given["beta"], given["dim"]
    l2 = rounding.rounded_l2(norm, beta=beta, dimension=dimension)
    local = (given["central_stddev"] * scale) ** 2 / shares
    assert local == int(local)
    mechanism: SkellamSum | DiscreteGaussianSum
    if case["category"] == "skellam_epsilon":
        mechanism = SkellamSum(
            local_variance_levels2=int(local),
            shares=shares,
            l1_levels=rounding.rounded_l1(norm, beta=beta, dimension=dimension),
            l2_levels=l2,
            dimension=dimension,
        )
    else:
        mechanism = DiscreteGaussianSum(
            local_variance_levels2=int(local), shares=shares, l2_levels=l2, dimension=dimension
        )
    run = {"delta": given["delta"], "rounds": given["steps"], "sampling_rate": given["q"]}
    found = accounting.epsilon(mechanism, **run)
    if isinstance(mechanism, SkellamSum):
        # The same bound; without sampling ours also looks at orders that theirs leaves out.
        assert found == near(case, expected)
    else:
        assert found <= expected
        # The published bound itself, at the reference's orders.
        orders = [*range(2, 129), 256]
        published: curves.Renyi = (
            curves.Renyi(
                lambda order: run["rounds"] * accounting._divergence(mechanism, order), orders
            )
            if given["q"] == 1
            else accounting._sampled(mechanism, run["rounds"], given["q"])
        )
        assert published.epsilon(given["delta"]) == near(case, expected)


@cases("ddgauss_tau")
def test_ddgauss_tau(case: Case) -> None:
    given = case["inputs"]
    found = curves.discrete_gaussian_tau(
        local_stddev=given["local_stddev_scaled"], shares=given["num_clients"]
    )
    assert found == near(case, case["expected"]["tau"])


@cases("ddgauss_rdp")
def test_ddgauss_rdp(case: Case) -> None:
    given = case["inputs"]
    found = curves.discrete_gaussian_divergence(
        l1_ratio=given["l1_scale"],
        l2_ratio=given["l2_scale"],
        tau=given["tau"],
        dimension=given["dim"],
        order=given["order"],
    )
    assert found == near(case, case["expected"]["rdp"])


@cases("sum_of_discrete_gaussians_delta")
def test_sum_of_discrete_gaussians_delta(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]["delta"]
    variance, shares = given["local_sigma"] ** 2, given["n"]
    law = exact.convolved(exact.discrete_gaussian(variance), shares)
    assert exact.delta(law, (given["shift"],), given["epsilon"]) == near(case, expected)
    spread = gaussian.sum_spread(local_variance=variance, shares=shares)
    one = scalar.ScalarGaussian(math.sqrt(shares * variance), given["shift"], 1.0, 1)
    assert curves.Loss(one, spread).delta(given["epsilon"]) >= expected
    if variance >= 1:
        mechanism = DiscreteGaussianSum(
            local_variance_levels2=int(variance),
            shares=shares,
            l2_levels=given["shift"],
            dimension=1,
        )
        assert expected <= accounting.delta(mechanism, epsilon=given["epsilon"]) <= 1.01 * expected


@cases("gaussian_equivalent_accounting")
def test_gaussian_equivalent_accounting(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    variance, shares = given["local_stddev_scaled"] ** 2, given["num_clients"]
    smoothing, count = given["smoothing_s2"] ** 2, given["dim"] * given["rounds"]
    z = math.sqrt(shares * variance - smoothing) / given["l2_sensitivity_scaled"]
    assert z == near(case, expected["z_effective"])
    assert gaussian.Gaussian(z).epsilon(given["delta"]) == near(case, expected["epsilon_gaussian"])
    # One side of the reference's kappa; both sides together are its factor of two.
    assert gaussian.spread(smoothing) == near(case, 2 * expected["kappa"])
    assert count * gaussian.spread(smoothing) == near(case, expected["epsilon_slack"])
    mechanism = DiscreteGaussianSum(
        local_variance_levels2=int(variance),
        shares=shares,
        l2_levels=given["l2_sensitivity_scaled"],
        dimension=given["dim"],
    )
    found = accounting.epsilon(mechanism, delta=given["delta"], rounds=given["rounds"])
    assert found <= expected["epsilon_total"] * (1 + 1e-8)
    # A smaller smoothing wins at little noise, by less than the variance that it gives back.
    assert found >= expected["epsilon_total"] * (1 - 2.25 / (shares * variance) - case["rtol"])


@cases("replace_one_adjacency")
def test_replace_one_adjacency(case: Case) -> None:
    given, expected = case["inputs"], case["expected"]
    mechanism = DiscreteGaussianSum(
        local_variance_levels2=10**6,
        shares=1,
        l2_levels=2 * 10**3 / given["noise_multiplier_wrt_clip"],
        dimension=4,
    )
    found = accounting.epsilon(mechanism, delta=given["delta"])
    assert found == near(case, expected["epsilon"])
    assert found != pytest.approx(expected["buggy_rdp_value_must_not_match"], rel=0.5)
