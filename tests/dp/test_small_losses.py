"""Losses so small that a careless formula loses all its digits, and targets at the edges."""

from __future__ import annotations

import math
import random

import mpmath
import pytest

from secagg.dp import accounting, curves, gaussian, subsampled
from secagg.dp.mechanisms import DiscreteGaussianSum, DiscreteLaplaceSum, SkellamSum
from secagg_protocols.errors import MisuseError, PlanError

MANY = accounting.MOST_ROUNDS


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of Gaussian noise whose sensitivity is ``mu`` deviations, by high precision.

    Very many rounds of very small losses are such noise in the limit.
    """
    with mpmath.workdps(40):

        def reached(epsilon: float) -> mpmath.mpf:
            low, high = -epsilon / mpmath.mpf(mu) - mu / 2, -epsilon / mpmath.mpf(mu) + mu / 2
            return mpmath.ncdf(high) - mpmath.exp(epsilon) * mpmath.ncdf(low)

        if reached(0.0) <= delta:
            return 0.0
        low, high = 0.0, 50.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if reached(middle) > delta else (low, middle)
    return low


def sampled_mu(rate: float, multiplier: float, rounds: int) -> float:
    """Deviations of a sampled Gaussian's loss over many rounds (central limit)."""
    return rate * math.sqrt(rounds * math.expm1(1 / multiplier**2))


@pytest.mark.parametrize("epsilon", [1e-14, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("order", [1.02, 2, 17, 1000.5, 16384])
def test_pure_divergence_keeps_its_digits(epsilon: float, order: float) -> None:
    with mpmath.workdps(60):
        e, a = mpmath.mpf(epsilon), mpmath.mpf(order)
        ratio = (mpmath.exp(a * e) + mpmath.exp((1 - a) * e)) / (1 + mpmath.exp(e))
        true = mpmath.log(ratio) / (a - 1)
        found = curves.pure_divergence(epsilon=epsilon, order=order)
        assert abs(found / true - 1) < 1e-14
    assert found <= min(order * epsilon**2 / 2, epsilon) * (1 + 1e-14)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_sampled_divergences_are_at_least_the_sums_they_stand_for(factor: float) -> None:
    rng = random.Random(11)
    for _ in range(150):
        rate, z = 10 ** rng.uniform(-12, -1e-3), 10 ** rng.uniform(-0.5, 6)
        order = rng.choice([2, 3, 5, 17, 64])
        with mpmath.workdps(80):
            q = mpmath.mpf(rate)
            total = (1 - q) ** (order - 1) * (1 + (order - 1) * q)
            for j in range(2, order + 1):
                weight = mpmath.binomial(order, j) * q**j * (1 - q) ** (order - j)
                power = (j * j - j) / (2 * mpmath.mpf(z) ** 2)
                total += (factor if j > 2 else 1) * weight * mpmath.exp(power)
            true = mpmath.log(total) / (order - 1)
            found = subsampled.sampled_divergence(
                lambda j, z=z: j / (2 * z * z),  # type: ignore[misc]
                rate=rate,
                order=order,
                factor=factor,
            )
            assert true <= found <= true * (1 + 3e-9)


def test_the_sampled_gaussian_is_the_librarys_where_that_has_digits() -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    for rate, z in ((0.01, 1.0), (0.3, 5.0), (0.9, 20.0)):
        event = PoissonSampledDpEvent(rate, GaussianDpEvent(z))
        peer = RdpAccountant(subsampled._ORDERS).compose(event, 500).get_epsilon(1e-6)
        found = subsampled.SampledGaussian(z, rate, 500)._renyi.epsilon(1e-6)
        assert found == pytest.approx(peer, rel=1e-8)


def test_extreme_sampled_losses() -> None:
    assert subsampled.sampled_divergence(lambda j: 0.0, rate=0.1, order=8, factor=1.0) == 0
    assert subsampled.sampled_divergence(lambda j: math.inf, rate=0.1, order=8) == math.inf
    assert subsampled.sampled_divergence(lambda j: 3.0 * j, rate=1.0, order=8) == 24
    # Almost every site is drawn, and the moment is far beyond double precision.
    found = subsampled.sampled_divergence(lambda j: 100.0 * j, rate=1 - 1e-12, order=64, factor=1.0)
    assert found == pytest.approx(6400.0, rel=1e-8)
    assert 0 < subsampled.sampled_divergence(lambda j: 1.0, rate=1e-150, order=2) < 1e-299


def test_a_divergence_without_digits_bounds_nothing() -> None:
    for lost in (-1e-17, math.nan, math.inf):
        one = curves.Renyi(lambda order, lost=lost: lost, (2, 3))  # type: ignore[misc]
        assert one.epsilon(1e-6) == math.inf
    # Another order still has its digits, and no other is believed.
    some = curves.Renyi(lambda order: 0.5 if order == 2 else -1e-17, (2, 3))
    assert some.epsilon(1e-6) == curves.Renyi(lambda order: 0.5, (2,)).epsilon(1e-6)
    assert some.delta(20.0) == curves.Renyi(lambda order: 0.5, (2,)).delta(20.0) > 0
    # A loss too small for the library's logarithm is rounded up.
    tiny = curves.Renyi(lambda order: 1e-30, curves.REAL_ORDERS, continuous=True)
    assert tiny.delta(0.0) >= 1e-15
    assert tiny.epsilon(1e-9) > 0


@pytest.mark.parametrize("delta", [1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("rate", [1e-4, 1e-6, 1e-7, 1e-9])
@pytest.mark.parametrize("multiplier", [1.0, 30.0, 1e5])
def test_many_rounds_at_small_rates_are_never_under_reported(
    multiplier: float, rate: float, delta: float, capfd: pytest.CaptureFixture[str]
) -> None:
    true = gaussian_epsilon(sampled_mu(rate, multiplier, MANY), delta)
    one = subsampled.SampledGaussian(multiplier, rate, MANY)
    skellam = SkellamSum(
        local_variance_levels2=10**12,
        shares=1,
        l1_levels=1.4e6 / multiplier,
        l2_levels=1e6 / multiplier,
        dimension=2,
    )
    assert one.epsilon(delta) >= true * 0.99  # the limit is not exact
    assert accounting.epsilon(skellam, delta=delta, rounds=MANY, sampling_rate=rate) >= true * 0.99
    # Nor does a library say on the way that it gave up.
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("delta", [1e-6, 1e-7, 1e-8])
def test_many_small_pure_losses_are_never_under_reported(delta: float) -> None:
    charges = [
        (DiscreteLaplaceSum(scale_levels=10**9 + more, l1_levels=1.0, dimension=2), MANY)
        for more in (0, 1)
    ]
    true = gaussian_epsilon(1e-9 * math.sqrt(2 * MANY), delta)
    assert accounting.compose(charges, delta=delta) >= true * 0.99 > 0
    one = DiscreteLaplaceSum(scale_levels=10**7, l1_levels=1.0, dimension=2)
    for rate in (1.0, 0.01):
        true = gaussian_epsilon(1e-7 * rate * math.sqrt(MANY), delta)
        found = accounting.epsilon(one, delta=delta, rounds=MANY, sampling_rate=rate)
        assert true * 0.99 <= found <= true * 1.01 + 1e-15


@pytest.mark.parametrize(("rate", "shift"), [(1e-300, 1.0), (1e-9, 5.0), (1 - 1e-12, 3.0)])
@pytest.mark.parametrize("delta", [1e-5, 1e-100])
def test_sampling_never_costs_more_than_its_absence(
    rate: float, shift: float, delta: float
) -> None:
    for dimension in (1, 7):
        one = DiscreteGaussianSum(
            local_variance_levels2=900, shares=1, l2_levels=shift, dimension=dimension
        )
        for rounds in (1, 1000):
            plain = accounting.epsilon(one, delta=delta, rounds=rounds)
            found = accounting.epsilon(one, delta=delta, rounds=rounds, sampling_rate=rate)
            # Without sampling more ways to split the noise are tried, which gain a hair.
            assert found <= plain * (1 + 1e-3)


def test_rounds_are_limited() -> None:
    one = DiscreteLaplaceSum(scale_levels=10**7, l1_levels=1.0, dimension=2)
    for call in (
        lambda: accounting.epsilon(one, delta=1e-6, rounds=MANY + 1),
        lambda: accounting.delta(one, epsilon=1.0, rounds=MANY + 1),
        lambda: accounting.compose([(one, MANY), (one, 1)], delta=1e-6),
        lambda: gaussian.gaussian_multiplier(1.0, 1e-6, MANY + 1),
    ):
        with pytest.raises(MisuseError) as caught:
            call()
        assert caught.value.rule == "rounds"


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("epsilon", (1e-13, 1e-5)),  # once without an end
        ("epsilon", (9e-10, 1e-5)),
        ("epsilon", (0.0, 1e-5)),
        ("epsilon", (math.nan, 1e-5)),
        ("epsilon", (math.inf, 1e-5)),
        ("epsilon", (1e-9, 1e-300)),  # beyond what the curve tells from no loss
        ("delta", (1.0, 0.0)),
        ("delta", (1.0, 1.0)),
        ("delta", (1.0, math.nan)),
        ("rounds", (1.0, 1e-5, 0)),
        ("rounds", (1.0, 1e-5, True)),
        ("sampling-rate", (1.0, 1e-5, 1, 0.0)),
        ("sampling-rate", (1.0, 1e-5, 1, math.nan)),
    ],
)
def test_a_multipliers_target_is_checked(rule: str, arguments: tuple[float, ...]) -> None:
    with pytest.raises(MisuseError) as caught:
        gaussian.gaussian_multiplier(*arguments)  # type: ignore[arg-type]
    assert caught.value.rule == rule


@pytest.mark.parametrize("delta", [1e-5, 1e-12, 1e-100])
@pytest.mark.parametrize("epsilon", [1e-9, 1e-7, 1e-3, 30.0])
def test_the_smallest_and_largest_targets_are_met(epsilon: float, delta: float) -> None:
    if epsilon == 1e-9 and delta < 1e-5:
        with pytest.raises(MisuseError):
            gaussian.gaussian_multiplier(epsilon, delta)
        return
    z = gaussian.gaussian_multiplier(epsilon, delta)
    assert gaussian.Gaussian(z).epsilon(delta) <= epsilon
    assert gaussian.Gaussian(z * 0.995).epsilon(delta) > epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta", "rounds", "rate"),
    [
        # Discretisation leaves no sign change between the ends of the search.
        (0.1, 1e-100, 1, 1e-4),
        (1.0, 1e-5, 1, 1 - 1e-12),
        (1.0, 1e-100, 1, 1 - 1e-12),
        # Too many rounds for a distribution.
        (1.0, 1e-5, 10**6, 0.5),
        (1.0, 1e-6, 10**6, 1e-4),
        (1.0, 1e-5, MANY, 1e-8),
        # Little noise, and so wide distributions.
        (20.0, 1e-5, 1, 0.3),
    ],
)
def test_sampled_targets_at_the_edges_are_met(
    epsilon: float, delta: float, rounds: int, rate: float
) -> None:
    z = gaussian.gaussian_multiplier(epsilon, delta, rounds, rate)
    assert subsampled.SampledGaussian(z, rate, rounds).epsilon(delta) <= epsilon
    assert subsampled.SampledGaussian(z * 0.99, rate, rounds).epsilon(delta) > epsilon
    assert z <= gaussian.gaussian_multiplier(epsilon, delta, rounds)


@pytest.mark.parametrize(
    ("delta", "rounds", "rate"),
    [(0.5, 1, 0.1), (0.05, 1, 0.01), (1e-5, 1, 1e-300), (0.5, 6, 0.1), (0.1, 1, 0.1)],
)
def test_who_is_hardly_ever_drawn_needs_no_noise(delta: float, rounds: int, rate: float) -> None:
    with pytest.raises(PlanError) as caught:
        gaussian.gaussian_multiplier(1.0, delta, rounds, rate)
    assert (caught.value.rule, caught.value.field) == ("dp-sampling", "sampling_rate")


def test_who_is_drawn_just_more_often_than_delta_needs_noise() -> None:
    # With probability 0.469, and a search that begins where no noise is almost enough.
    assert 0 < gaussian.gaussian_multiplier(1.0, 0.45, 6, 0.1) < 1
