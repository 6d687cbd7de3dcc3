"""The accountant against exact convolutions, and its own laws."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from dp import exact
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.dp import accounting, curves, gaussian, scalar, subsampled
from secagg.dp.mechanisms import (
    CentralDiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplaceSum,
    Mechanism,
    SkellamSum,
)
from secagg_protocols.errors import MisuseError, PlanError

DELTAS = (1e-2, 1e-5, 1e-9)


def gaussians(
    variance: int, shares: int, l2: float, dimension: int = 1, **more: float
) -> DiscreteGaussianSum:
    return DiscreteGaussianSum(
        local_variance_levels2=variance, shares=shares, l2_levels=l2, dimension=dimension, **more
    )


VECTOR = gaussians(400, 50, 100.0, 4096)
SKELLAM = SkellamSum(
    local_variance_levels2=400, shares=50, l1_levels=6400.0, l2_levels=100.0, dimension=4096
)
LAPLACE = DiscreteLaplaceSum(scale_levels=40, l1_levels=4.0, dimension=64)
CENTRAL = CentralDiscreteGaussian(variance_levels2=20_000, l2_levels=100.0, dimension=4096)
ALL: tuple[Mechanism, ...] = (VECTOR, SKELLAM, LAPLACE, CENTRAL)


@pytest.mark.parametrize("shares", range(1, 9))
@pytest.mark.parametrize("variance", [1, 2, 3, 4, 6, 9, 16, 25])
def test_discrete_gaussian_sums_are_never_under_reported(variance: int, shares: int) -> None:
    law = exact.convolved(exact.discrete_gaussian(variance), shares)
    for shift in (1, 2, 3, 5, 8, 13, 20):
        mechanism = gaussians(variance, shares, shift)
        for delta in DELTAS:
            epsilon = accounting.epsilon(mechanism, delta=delta)
            assert exact.delta(law, (shift,), epsilon) <= delta
        for epsilon in (0.1, 1.0, 4.0):
            true = exact.delta(law, (shift,), epsilon)
            assert accounting.delta(mechanism, epsilon=epsilon) >= true * (1 - 1e-9)


@pytest.mark.parametrize("shares", range(1, 9))
@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.0, 1.7, 2.5, 5.0])
def test_each_bound_of_a_sum_is_valid_by_itself(sigma: float, shares: int) -> None:
    # Deviations between whole variances are reached through the curves, one after the other.
    law = exact.convolved(exact.discrete_gaussian(sigma**2), shares)
    total = shares * sigma**2
    spread = gaussian.sum_spread(local_variance=sigma**2, shares=shares)
    for shift in (1, 2, 5, 10, 20):
        tau = curves.discrete_gaussian_tau(local_stddev=sigma, shares=shares)
        ratio = shift / math.sqrt(total)
        published = curves.Renyi(
            lambda order, ratio=ratio, tau=tau, shift=shift: curves.discrete_gaussian_divergence(
                l1_ratio=ratio, l2_ratio=ratio, tau=tau, dimension=1, order=order
            ),
            curves.REAL_ORDERS,
        )
        bounds: list[curves.Curve] = [published]
        for smoothing in (0.25, 0.5, 1.0, 2.25):
            if smoothing < total:
                equivalent = gaussian.Gaussian(math.sqrt(total - smoothing) / shift)
                bounds.append(curves.Loss(equivalent, spread + gaussian.spread(smoothing)))
        if shift**2 < 20 * total:
            one = scalar.ScalarGaussian(math.sqrt(total), shift, 1.0, 1)
            bounds.append(curves.Loss(one, spread))
        for bound in bounds:
            for delta in DELTAS:
                epsilon = bound.epsilon(delta)
                # Beyond that the tails of the convolution leave double precision.
                assert epsilon > 250 or exact.delta(law, (shift,), epsilon) <= delta
            for epsilon in (0.5, 2.0):
                assert bound.delta(epsilon) >= exact.delta(law, (shift,), epsilon) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("variance", "shares", "l2", "dimension"),
    [(1, 2, 2, 2), (1, 5, 3, 2), (2, 3, 4, 2), (9, 2, 6, 2), (1, 1, 1.8, 3), (1, 3, 2, 3)],
)
def test_vectors_are_never_under_reported(
    variance: int, shares: int, l2: float, dimension: int
) -> None:
    law = exact.convolved(exact.discrete_gaussian(variance), shares)
    law = law[law > 1e-22]
    mechanism = gaussians(variance, shares, l2, dimension)
    for delta in (1e-2, 1e-5):
        epsilon = accounting.epsilon(mechanism, delta=delta)
        worst = max(
            exact.delta(law, shift, epsilon) for shift in exact.shifts_within(l2, dimension)
        )
        assert worst <= delta
        # And it is not far: the worst whole shift is as long as the bound allows.
        assert accounting.delta(mechanism, epsilon=epsilon) <= delta * 1.001


@pytest.mark.parametrize("mechanism", [gaussians(2, 3, 2.0, 7), gaussians(400, 50, 9.0, 4096)])
def test_equivalents_pay_for_their_smoothing(mechanism: DiscreteGaussianSum) -> None:
    total = mechanism.shares * mechanism.local_variance_levels2
    found = gaussian.equivalents(mechanism, rounds=3)
    assert found
    sums = gaussian.sum_spread(
        local_variance=mechanism.local_variance_levels2, shares=mechanism.shares
    )
    for multiplier, loss in found:
        smoothing = total - (multiplier * mechanism.l2_levels) ** 2
        one = sums + gaussian.spread(smoothing)
        assert loss == pytest.approx(3 * mechanism.dimension * one, rel=1e-6)


@pytest.mark.parametrize("variance", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_spread_of_shifted_gaussian_sums(variance: float) -> None:
    sums = [
        math.fsum(math.exp(-((j - x / 64) ** 2) / (2 * variance)) for j in range(-60, 61))
        for x in range(64)
    ]
    measured = math.log(max(sums) / min(sums))
    assert measured <= gaussian.spread(variance) + 1e-15
    assert measured >= gaussian.spread(variance) * 0.95
    assert gaussian.spread(0.01) == math.inf


@pytest.mark.parametrize("variance", [0.3, 0.4, 0.5, 1.0])
def test_the_smoothing_lemma_point_by_point(variance: float) -> None:
    # The law of a Gaussian of variance 3 followed by a discrete Gaussian centred on it.
    law = exact.discrete_gaussian(3 + variance)
    reach = len(law) // 2
    steps = 4000
    ratios = []
    for k in range(6):
        # The trapezoid rule is exact to rounding for such integrands.
        total = 0.0
        for i in range(-12 * steps // 10, 12 * steps // 10 + 1):
            y = i / (steps / 10)
            weights = sum(
                math.exp(-((j - y) ** 2) / (2 * variance))
                for j in range(math.floor(y) - 12, math.floor(y) + 14)
            )
            kernel = math.exp(-((k - y) ** 2) / (2 * variance)) / weights
            total += math.exp(-(y**2) / 6) / math.sqrt(6 * math.pi) * kernel / (steps / 10)
        ratios.append(math.log(total / law[reach + k]))
    spread = max(ratios) - min(ratios)
    assert spread <= gaussian.spread(variance)
    assert max(abs(r) for r in ratios) <= gaussian.spread(variance)
    # The two laws do differ; the integral is good to about 1e-13.
    assert variance > 0.5 or spread > 1e-9


@pytest.mark.parametrize("variance", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 8])
def test_the_lemma_of_sums_point_by_point(variance: float, shares: int) -> None:
    law = exact.convolved(exact.discrete_gaussian(variance), shares)
    one = exact.discrete_gaussian(variance * shares)
    middle, centre = len(law) // 2, len(one) // 2
    reach = math.ceil(6 * math.sqrt(variance * shares))
    ratios = [math.log(law[middle + k] / one[centre + k]) for k in range(-reach, reach + 1)]
    spread = gaussian.sum_spread(local_variance=variance, shares=shares)
    assert max(ratios) - min(ratios) <= spread
    assert shares > 2 or max(ratios) - min(ratios) >= 0.4 * spread


def test_long_sums_are_bounded_by_their_tail() -> None:
    terms = math.fsum(gaussian.spread(k / (k + 1)) for k in range(1, 30_000))
    assert terms <= gaussian.sum_spread(local_variance=1, shares=30_000) <= terms * 1.03
    tau = 10 * math.fsum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in range(1, 30_000))
    found = curves.discrete_gaussian_tau(local_stddev=1.0, shares=30_000)
    assert tau <= found <= tau * 1.03


@pytest.mark.parametrize("variance", [1, 4, 25])
@pytest.mark.parametrize("shares", [1, 2, 8])
def test_skellam_is_never_under_reported(variance: int, shares: int) -> None:
    law = exact.skellam(variance * shares)
    for shift in (1, 2, 5):
        mechanism = SkellamSum(
            local_variance_levels2=variance,
            shares=shares,
            l1_levels=shift,
            l2_levels=shift,
            dimension=1,
        )
        for delta in DELTAS:
            epsilon = accounting.epsilon(mechanism, delta=delta)
            assert exact.delta(law, (shift,), epsilon) <= delta


@pytest.mark.parametrize("scale", [1, 3, 10])
def test_discrete_laplace_is_never_under_reported(scale: int) -> None:
    law = exact.discrete_laplace(scale)
    for shift in (1, 2, 7):
        mechanism = DiscreteLaplaceSum(scale_levels=scale, l1_levels=shift, dimension=1)
        for delta in (0.0, *DELTAS):
            epsilon = accounting.epsilon(mechanism, delta=delta)
            assert epsilon <= shift / scale * (1 + 1e-8)
            assert exact.delta(law, (shift,), epsilon) <= delta + 1e-15
    # Two coordinates that share the shift: no curve of one coordinate may be used.
    mechanism = DiscreteLaplaceSum(scale_levels=3, l1_levels=4, dimension=2)
    small = exact.discrete_laplace(3)
    small = small[small > 1e-18]
    for delta in (1e-1, 1e-3):
        epsilon = accounting.epsilon(mechanism, delta=delta)
        assert max(exact.delta(small, s, epsilon) for s in [(4, 0), (3, 1), (2, 2)]) <= delta
        assert epsilon == curves.Pure(4 / 3).epsilon(delta)


@pytest.mark.parametrize(("rounds", "shift"), [(2, 3), (3, 2)])
def test_rounds_are_never_under_reported(rounds: int, shift: int) -> None:
    # Independent rounds with the same shift are coordinates of one vector.
    law = exact.convolved(exact.discrete_gaussian(1), 2)
    law = law[law > 1e-22]
    mechanism = gaussians(1, 2, shift)
    epsilon = accounting.epsilon(mechanism, delta=1e-4, rounds=rounds)
    assert exact.delta(law, (shift,) * rounds, epsilon) <= 1e-4
    laplace = exact.discrete_laplace(2)
    laplace = laplace[laplace > 1e-16]
    counted = DiscreteLaplaceSum(scale_levels=2, l1_levels=shift, dimension=1)
    epsilon = accounting.epsilon(counted, delta=1e-4, rounds=rounds)
    assert exact.delta(laplace, (shift,) * rounds, epsilon) <= 1e-4


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize(("variance", "shares", "shift"), [(1, 4, 2), (25, 1, 5), (1, 1, 1)])
def test_sampling_is_never_under_reported(
    rate: float, variance: int, shares: int, shift: int
) -> None:
    law = exact.convolved(exact.discrete_gaussian(variance), shares)
    mechanism = gaussians(variance, shares, shift)
    skellam = SkellamSum(
        local_variance_levels2=variance,
        shares=shares,
        l1_levels=shift,
        l2_levels=shift,
        dimension=1,
    )
    counted = DiscreteLaplaceSum(scale_levels=2, l1_levels=shift, dimension=1)
    laws = [(mechanism, law), (skellam, exact.skellam(variance * shares))]
    laws.append((counted, exact.discrete_laplace(2)))  # type: ignore[arg-type]
    for one, noise in laws:
        for delta in (1e-3, 1e-6):
            epsilon = accounting.epsilon(one, delta=delta, sampling_rate=rate)
            assert exact.sampled_delta(noise, shift, rate, epsilon) <= delta
    # The vector bound of the same noise, which does not use that there is one coordinate.
    best = gaussian.best_equivalent(mechanism, rounds=1)
    assert best is not None
    bound = curves.Loss(subsampled.SampledGaussian(best[0], rate, 1), best[1])
    epsilon = bound.epsilon(1e-4)
    assert exact.sampled_delta(law, shift, rate, epsilon) <= 1e-4


def test_a_shift_between_whole_numbers_is_the_one_below() -> None:
    assert accounting.epsilon(gaussians(25, 1, 3.9), delta=1e-5) == accounting.epsilon(
        gaussians(25, 1, 3.0), delta=1e-5
    )


@pytest.mark.parametrize("mechanism", ALL, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(("rounds", "rate"), [(1, 1.0), (20, 1.0), (20, 0.05)])
def test_delta_is_the_inverse_of_epsilon(mechanism: Mechanism, rounds: int, rate: float) -> None:
    def epsilon(delta: float) -> float:
        return accounting.epsilon(mechanism, delta=delta, rounds=rounds, sampling_rate=rate)

    for delta in (1e-3, 1e-6):
        found = epsilon(delta)
        back = accounting.delta(mechanism, epsilon=found, rounds=rounds, sampling_rate=rate)
        assert back == pytest.approx(delta, rel=0.03)
        assert epsilon(delta / 2) > found


@pytest.mark.parametrize("mechanism", ALL, ids=lambda m: type(m).__name__)
def test_more_rounds_cost_more_and_sampling_costs_less(mechanism: Mechanism) -> None:
    one = accounting.epsilon(mechanism, delta=1e-6)
    ten = accounting.epsilon(mechanism, delta=1e-6, rounds=10)
    sampled = accounting.epsilon(mechanism, delta=1e-6, rounds=10, sampling_rate=0.1)
    assert sampled < ten
    assert one < ten < 10.001 * one


@settings(max_examples=60, deadline=None)
@given(
    multiplier=st.floats(0.3, 1e5),
    delta=st.sampled_from([1e-12, 1e-9, 1e-6, 1e-3]),
)
def test_the_gaussian_curve_never_rounds_down(multiplier: float, delta: float) -> None:
    import mpmath

    curve = gaussian.Gaussian(multiplier)
    with mpmath.workdps(60):

        def true(epsilon: float) -> mpmath.mpf:
            z, e = mpmath.mpf(multiplier), mpmath.mpf(epsilon)
            high = mpmath.ncdf(1 / (2 * z) - e * z)
            return high - mpmath.exp(e) * mpmath.ncdf(-1 / (2 * z) - e * z)

        assert true(curve.epsilon(delta)) <= delta
        assert curve.delta(0.5 / multiplier) >= true(0.5 / multiplier)


@pytest.mark.parametrize("rounds", [1000, 50_000, 100_000])
def test_composed_distributions_never_round_down(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sampling all sites is no sampling, whose curve is known; a transform taken to a high power
    # would be below the truth for what it gets wrong.
    for total in (1.0, 5.0):
        true = gaussian.Gaussian(total)
        found = subsampled.SampledGaussian(total * math.sqrt(rounds), 1.0, rounds)
        with monkeypatch.context() as patch:
            # The distribution alone, as the other bounds are the truth here.
            patch.setattr(subsampled.SampledGaussian, "_unsampled", gaussian.Gaussian(1e-3))
            for delta in (1e-13, 1e-11, 1e-9, 1e-6):
                assert found.epsilon(delta) >= true.epsilon(delta) * (1 - 1e-8)
                assert found.delta(true.epsilon(delta)) >= delta * (1 - 1e-8)
            assert true.epsilon(1e-6) < found.epsilon(1e-6) <= true.epsilon(1e-6) * 1.01
        assert found.epsilon(1e-6) == true.epsilon(1e-6)


def test_the_most_composed_rounds_of_one_coordinate_never_round_down() -> None:
    # So wide a law is as good as continuous.
    rounds = scalar.COMPOSED_ROUNDS
    true = gaussian.Gaussian(2000 / math.sqrt(rounds))
    found = scalar.ScalarGaussian(2000.0, 1, 1.0, rounds)
    assert found.affordable
    for delta in (1e-9, 1e-6, 1e-3):
        assert true.epsilon(delta) * (1 - 1e-9) <= found.epsilon(delta)
        assert found.delta(true.epsilon(delta)) >= delta * (1 - 1e-9)
    # Composing more takes a minute or more.
    assert not scalar.ScalarGaussian(2000.0, 1, 1.0, rounds + 1).affordable
    assert scalar.ScalarLaplace(10**6, 1, rounds).affordable
    assert not scalar.ScalarLaplace(10**6, 1, rounds + 1).affordable


def test_no_shift_gives_nothing_away() -> None:
    still = gaussians(4, 2, 0.0, 8)
    assert accounting.epsilon(still, delta=1e-9, rounds=100) < 1e-6
    assert accounting.compose([(still, 3), (gaussians(9, 2, 0.0, 8), 1)], delta=1e-9) < 1e-6
    quiet = DiscreteLaplaceSum(scale_levels=3, l1_levels=0.0, dimension=1)
    assert accounting.epsilon(quiet, delta=0.0, rounds=100) == 0


@pytest.mark.parametrize("kind", ["gaussian", "skellam", "laplace"])
def test_the_samplers_distance_is_paid_for(kind: str) -> None:
    distance = 1e-9
    made: dict[str, tuple[Mechanism, Mechanism, int]] = {
        "gaussian": (gaussians(400, 2, 9.0, 5), gaussians(400, 2, 9.0, 5, total_variation=1e-9), 2),
        "skellam": (
            SkellamSum(local_variance_levels2=400, shares=2, l1_levels=9, l2_levels=9, dimension=5),
            SkellamSum(
                local_variance_levels2=400,
                shares=2,
                l1_levels=9,
                l2_levels=9,
                dimension=5,
                total_variation=distance,
            ),
            2,
        ),
        "laplace": (
            DiscreteLaplaceSum(scale_levels=20, l1_levels=9, dimension=5),
            DiscreteLaplaceSum(scale_levels=20, l1_levels=9, dimension=5, total_variation=distance),
            1,
        ),
    }
    ideal, real, shares = made[kind]
    rounds = 3
    paid = rounds * 5 * shares * distance
    expected = accounting.delta(ideal, epsilon=1.5, rounds=rounds) + paid * (1 + math.exp(1.5))
    assert accounting.delta(real, epsilon=1.5, rounds=rounds) == pytest.approx(expected, rel=1e-12)
    epsilon = accounting.epsilon(real, delta=1e-6, rounds=rounds)
    assert epsilon > accounting.epsilon(ideal, delta=1e-6, rounds=rounds)
    assert accounting.delta(real, epsilon=epsilon, rounds=rounds) <= 1e-6 * (1 + 1e-9)
    with pytest.raises(PlanError) as caught:
        accounting.epsilon(real, delta=paid, rounds=rounds)
    assert caught.value.rule == "noise-too-small"


def test_the_samplers_pointwise_ratio_is_paid_for() -> None:
    ideal, real = gaussians(400, 2, 9.0, 5), gaussians(400, 2, 9.0, 5, log_ratio=1e-6)
    moved = 2 * 3 * 5 * 2 * 1e-6
    delta = 1e-6 * math.exp(-moved)
    found = accounting.epsilon(real, delta=1e-6, rounds=3)
    assert found == pytest.approx(
        accounting.epsilon(ideal, delta=delta, rounds=3) + moved, rel=1e-9
    )


def test_noise_too_small_is_an_error() -> None:
    with pytest.raises(PlanError) as caught:
        accounting.epsilon(gaussians(100, 1, 1.0, 1), delta=0.0)
    assert caught.value.rule == "noise-too-small"
    # Little noise still has the published bound, where the equivalent Gaussian is void.
    wide = gaussians(1, 1, 3.0, 2**20)
    assert accounting.epsilon(wide, delta=1e-5) < 25


def test_composition() -> None:
    assert accounting.compose([], delta=1e-5) == 0
    assert accounting.compose([(VECTOR, 0)], delta=0.0) == 0
    for one in ALL:
        expected = accounting.epsilon(one, delta=1e-5, rounds=6)
        assert accounting.compose([(one, 2), (one, 4)], delta=1e-5) == expected
    assert accounting.compose([(VECTOR, 1), (CENTRAL, 1)], delta=1e-5) == pytest.approx(
        accounting.epsilon(VECTOR, delta=1e-5, rounds=2), rel=1e-5
    )
    other = gaussians(900, 50, 100.0, 4096)
    exact_sum = gaussian.Gaussian(1 / math.sqrt(3 * 1e4 / 2e4 + 2 * 1e4 / 4.5e4)).epsilon(1e-5)
    found = accounting.compose([(VECTOR, 3), (other, 2)], delta=1e-5)
    assert exact_sum <= found <= exact_sum * 1.001
    pure = [(LAPLACE, 1), (DiscreteLaplaceSum(scale_levels=10, l1_levels=1, dimension=9), 2)]
    assert accounting.compose(pure, delta=1e-9) == pytest.approx(0.3)
    assert accounting.compose(pure, delta=0.0) == pytest.approx(0.3)
    many = [(one, 400 * count) for one, count in pure]
    assert accounting.compose(many, delta=1e-5) < 0.3 * 400 / 2


@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_mixed_composition_costs_more_than_its_parts_and_less_than_their_sum(delta: float) -> None:
    charges = [(VECTOR, 3), (SKELLAM, 2), (LAPLACE, 4), (CENTRAL, 1)]
    found = accounting.compose(charges, delta=delta)
    parts = [accounting.epsilon(m, delta=delta, rounds=r) for m, r in charges]
    assert max(parts) < found
    split = [accounting.epsilon(m, delta=delta / 4, rounds=r) for m, r in charges]
    assert found < sum(split)
    noisy = SkellamSum(
        local_variance_levels2=400,
        shares=50,
        l1_levels=6400.0,
        l2_levels=100.0,
        dimension=4096,
        total_variation=1e-18,
    )
    assert accounting.compose([(VECTOR, 3), (noisy, 2), (LAPLACE, 4)], delta=delta) > (
        accounting.compose([(VECTOR, 3), (SKELLAM, 2), (LAPLACE, 4)], delta=delta)
    )


def test_optimal_composition_against_the_library() -> None:
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    one = pld.from_privacy_parameters(
        common.DifferentialPrivacyParameters(0.25, 0.0), value_discretization_interval=1e-3
    )
    peer = one.self_compose(40).get_epsilon_for_delta(1e-5)
    assert curves.Pure(0.25, 40).epsilon(1e-5) == pytest.approx(peer, rel=1e-3)


def test_very_many_rounds_stay_affordable() -> None:
    rare = DiscreteLaplaceSum(scale_levels=10_000, l1_levels=1, dimension=3)
    million = accounting.epsilon(rare, delta=1e-6, rounds=1_000_000)
    more = accounting.epsilon(rare, delta=1e-6, rounds=1_000_001)
    assert million < more < 1.05 * million
    assert accounting.epsilon(VECTOR, delta=1e-6, rounds=10**7) > 1


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("delta", {"delta": -1e-9}),
        ("delta", {"delta": 1.0}),
        ("delta", {"delta": math.nan}),
        ("rounds", {"delta": 1e-5, "rounds": 0}),
        ("rounds", {"delta": 1e-5, "rounds": 1.5}),
        ("rounds", {"delta": 1e-5, "rounds": True}),
        ("rounds", {"delta": 1e-5, "rounds": 2**24 + 1}),
        ("sampling-rate", {"delta": 1e-5, "sampling_rate": 0.0}),
        ("sampling-rate", {"delta": 1e-5, "sampling_rate": 1.1}),
        ("sampling-rate", {"delta": 1e-5, "sampling_rate": math.nan}),
    ],
)
def test_arguments_are_checked(rule: str, arguments: dict[str, float]) -> None:
    with pytest.raises(MisuseError) as caught:
        accounting.epsilon(VECTOR, **arguments)  # type: ignore[arg-type]
    assert caught.value.rule == rule


def test_other_arguments_are_checked() -> None:
    for epsilon in (-1.0, math.nan):
        with pytest.raises(MisuseError) as caught:
            accounting.delta(VECTOR, epsilon=epsilon)
        assert caught.value.rule == "epsilon"
    with pytest.raises(MisuseError) as caught:
        accounting.compose([(VECTOR, -1)], delta=1e-5)
    assert caught.value.rule == "rounds"


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds", "rate"),
    [(2.0, 1e-5, 1, 1.0), (0.1, 1e-9, 1000, 1.0), (2.0, 1e-5, 1000, 0.01), (6.0, 1e-6, 20, 0.3)],
)
def test_the_multiplier_meets_its_target_closely(
    epsilon: float, delta: float, rounds: int, rate: float
) -> None:
    z = gaussian.gaussian_multiplier(epsilon, delta, rounds, rate)

    def reached(multiplier: float) -> float:
        if rate == 1:
            return gaussian.Gaussian(multiplier / math.sqrt(rounds)).epsilon(delta)
        return subsampled.SampledGaussian(multiplier, rate, rounds).epsilon(delta)

    assert reached(z) <= epsilon < reached(z * 0.999)


def test_a_missing_library_is_named() -> None:
    code = (
        "import sys; sys.modules['dp_accounting'] = None\n"
        "import secagg.dp as dp\n"
        "from secagg_protocols.errors import MisuseError\n"
        "one = dp.DiscreteGaussianSum(local_variance_levels2=9, shares=2, l2_levels=1.0,"
        " dimension=4)\n"
        "try:\n    dp.epsilon(one, delta=1e-5)\n"
        "except MisuseError as error:\n    print(error.rule, 'secagg[dp]' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["extra", "True"]


def test_mechanisms_load_no_heavy_library() -> None:
    code = (
        "import sys; import secagg.dp as dp; dp.SkellamSum; import secagg.dp.accounting\n"
        "print([m for m in ('numpy', 'scipy', 'dp_accounting', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
