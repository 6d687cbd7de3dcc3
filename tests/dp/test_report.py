"""What a plan with noise promises, and what a sum that happened has given away."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.world import make_plan, people
from secagg.dp import accounting
from secagg.dp.calibration import calibrate
from secagg.dp.mechanisms import sampler_distance
from secagg.dp.plan_noise import mechanism_of
from secagg.dp.report import noise_reasons, promise, realised
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.stages import ClipL2, Integers, Noise, Quantise

DELTA = 1e-5
REAL = (ClipL2(2.0), Quantise(1024))
COUNTS = (Integers(0, 20),)


@functools.lru_cache(maxsize=32)
def noisy(law: str = "discrete-gaussian", adjacency: str = "zero-out", **asked: Any) -> secagg.Plan:
    """Seven sites, of which one may be missing and one collude, with noise."""
    counts = asked.pop("counts", law == "discrete-laplace")
    central = law == "central-discrete-gaussian"
    plan = make_plan(
        stages=COUNTS if counts else REAL,
        threat="semi-honest" if central else "malicious-server",
        length=asked.pop("length", 30),
        sites_receive=asked.pop("sites_receive", True),
    )
    given: dict[str, Any] = {"epsilon": 2.0, "delta": DELTA, "rounds": 3}
    given |= {"adversary": "model-consumer" if central else "server"} | asked
    return calibrate(
        plan,
        l2_clip=None if counts else 2.0,
        adjacency=adjacency,  # type: ignore[arg-type]
        mechanism=law,  # type: ignore[arg-type]
        **given,
    )


def changed(plan: secagg.Plan, **claims: Any) -> secagg.Plan:
    """The plan with other claims; ``None`` takes one away."""
    now = dict(plan.privacy or ()) | claims
    pairs = tuple((name, value) for name, value in now.items() if value is not None)
    return dataclasses.replace(plan, privacy=pairs)


LAWS = ("discrete-gaussian", "skellam", "discrete-laplace", "central-discrete-gaussian")


@pytest.mark.parametrize("law", LAWS)
def test_a_promise_is_what_the_accountant_finds(law: str) -> None:
    plan = noisy(law)
    told = promise(plan)
    mechanism = mechanism_of(plan)
    assert told.epsilon_found == accounting.epsilon(mechanism, delta=DELTA, rounds=3)
    assert 0.99 * told.epsilon <= told.epsilon_found <= told.epsilon == 2.0
    assert (told.delta, told.rounds, told.sampling_rate) == (DELTA, 3, 1.0)
    assert (told.mechanism, told.adjacency) == (law, "zero-out")
    # Five of seven are honest and sure to be there.
    assert told.shares == (1 if law == "central-discrete-gaussian" else 5)
    assert told.sampler_delta == pytest.approx(
        3 * sampler_distance(mechanism) * (1 + math.exp(2.0))
    )
    assert 0 < told.sampler_delta < DELTA / 1000
    assert told.wrap_probability == 2.0**-20
    assert told.bits == plan.wire_bits


def test_noise_in_levels_and_units() -> None:
    plan = noisy()
    told = promise(plan)
    quantise, noise = plan.stages[-2], plan.stages[-1]
    assert isinstance(quantise, Quantise)
    assert isinstance(noise, Noise)
    assert told.noise_levels == pytest.approx(math.sqrt(7 * noise.variance_levels2))
    # 2.0 is the clip.
    assert told.noise_units == pytest.approx(told.noise_levels * 2.0 / quantise.levels)
    assert told.l2_levels >= quantise.levels
    counts = promise(noisy("discrete-laplace"))
    assert counts.noise_units == counts.noise_levels
    assert counts.l1_levels == 30 * 20


@pytest.mark.parametrize("law", ["discrete-gaussian", "skellam", "discrete-laplace"])
def test_replace_one_doubles_the_sensitivity(law: str) -> None:
    once, twice = noisy(law), noisy(law, "replace-one")
    other = promise(changed(once, adjacency="replace-one", epsilon=99.0))
    assert other.l1_levels == pytest.approx(2 * promise(once).l1_levels)
    assert other.l2_levels == pytest.approx(2 * promise(once).l2_levels)
    assert promise(twice).noise_units == pytest.approx(2 * promise(once).noise_units, rel=0.02)


@pytest.mark.parametrize(
    "claims",
    [
        *({name: None} for name in ("adjacency", "adversary", "epsilon", "delta", "rounds",
                                    "sampling_rate")),
        {"adjacency": "add-remove"},
        {"adversary": "nobody"},
        {"epsilon": "2"},
        {"epsilon": 2},
        {"delta": 0},
        {"rounds": 3.0},
        # Less than its noise gives: a smaller epsilon or delta, more rounds.
        {"epsilon": 1.9},
        {"delta": 1e-6},
        {"rounds": 4},
        # Sampling hides nothing from the server.
        {"sampling_rate": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_claims_that_are_missing_or_do_not_hold(claims: dict[str, Any]) -> None:
    plan = changed(noisy(), **claims)
    for ask in (promise, noise_reasons):
        with pytest.raises(PlanError) as caught:
            ask(plan)
        assert caught.value.rule in {"dp-claims", "dp-promise"}


def test_less_noise_than_claimed_and_none() -> None:
    plan = noisy()
    noise = plan.stages[-1]
    assert isinstance(noise, Noise)
    less = dataclasses.replace(noise, variance_levels2=int(noise.variance_levels2 * 0.95))
    with pytest.raises(PlanError) as caught:
        promise(dataclasses.replace(plan, stages=(*plan.stages[:-1], less)))
    assert caught.value.rule == "dp-promise"
    bare = dataclasses.replace(plan, stages=plan.stages[:-1], bits=None, privacy=None)
    with pytest.raises(PlanError) as caught:
        promise(bare)
    assert caught.value.rule == "dp-noise"


def test_weaker_claims_hold() -> None:
    weaker = changed(noisy(), epsilon=3.0, delta=1e-4, rounds=2)
    told = promise(weaker)
    assert told.epsilon == 3.0
    assert told.epsilon_found < 2.0


def test_assumptions_are_said() -> None:
    said = " ".join(promise(noisy()).assumes)
    assert "cannot be verified" in said
    assert "that the site took part is not hidden" in said
    assert "sampling" not in said
    assert "against any other" in " ".join(promise(noisy("skellam", "replace-one")).assumes)
    central = " ".join(promise(noisy("central-discrete-gaussian")).assumes)
    assert "the server adds the noise: it sees exact sums" in central.lower()
    assert "cannot be verified" not in central
    sampled = " ".join(
        promise(
            noisy(rounds=20, sampling_rate=0.2, adversary="model-consumer", sites_receive=False)
        ).assumes
    )
    assert "sampling rate 0.2" in sampled
    assert "against it this epsilon does not hold" in sampled


def test_reasons_have_the_numbers() -> None:
    plan = noisy()
    told, lines = promise(plan), noise_reasons(plan)
    assert f"epsilon {told.epsilon_found:.4f} (at most 2)" in lines[0]
    assert "over 3 masked input(s) of a site, retries included" in lines[0]
    assert f"{told.l2_levels:.1f} levels" in lines[1]
    assert f"{told.noise_units:.4g} in the vector's units" in lines[1]
    # 7 sites, 5 honest survivors, one colluder.
    for number in (7 / 5, 7 / 6, 5 / 7):
        assert f"{number:.3f}" in lines[2]
    assert f"{told.bits} bits" in lines[3]
    assert lines[4:] == told.assumes
    central = noise_reasons(noisy("central-discrete-gaussian"))
    assert "dropouts and colluders cost nothing" in central[2]


# What happened.


def summed(plan: secagg.Plan, *missing: str) -> secagg.Aggregate:
    integers = isinstance(plan.stages[0], Integers)
    x = np.ones(plan.length, dtype=np.int64 if integers else np.float64)
    return secagg.aggregate(
        plan,
        {name: x for name in plan.roster.names if name not in missing},
        identities=people(plan.clients)[1],
    )


@pytest.mark.parametrize("law", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("adjacency", ["zero-out", "replace-one"])
def test_more_survivors_bring_more_noise(law: str, adjacency: str) -> None:
    plan = noisy(law, adjacency)
    few, all_ = realised(summed(plan, "s3"), plan), realised(summed(plan), plan)
    assert (few.survivors, few.shares, all_.survivors, all_.shares) == (6, 5, 7, 6)
    assert few.adjacency == all_.adjacency == adjacency
    # At its fewest survivors, a round costs what the plan counts on, and otherwise less.
    assert few.epsilon == accounting.epsilon(mechanism_of(plan), delta=DELTA)
    assert all_.epsilon < 0.95 * few.epsilon
    assert (few.excess, all_.excess) == (pytest.approx(6 / 5), pytest.approx(7 / 5))


def test_realised_epsilon_is_that_of_a_gaussian() -> None:
    # An accountant of others, for the Gaussian that this sum of noises is next to.
    import dp_accounting

    plan = noisy()
    noise = plan.stages[-1]
    assert isinstance(noise, Noise)
    stddev = math.sqrt(6 * noise.variance_levels2)
    z = stddev / plan.pipeline.sensitivity[1]
    found = realised(summed(plan), plan).epsilon
    assert found == pytest.approx(dp_accounting.get_epsilon_gaussian(z, DELTA), rel=1e-3)
    # Just above, never below.
    assert found >= dp_accounting.get_epsilon_gaussian(z, DELTA) * (1 - 1e-9)


def test_noise_that_does_not_grow_with_survivors() -> None:
    laplace = noisy("discrete-laplace")
    few, all_ = realised(summed(laplace, "s0"), laplace), realised(summed(laplace), laplace)
    assert few.epsilon == all_.epsilon
    central = noisy("central-discrete-gaussian")
    few, all_ = realised(summed(central, "s0"), central), realised(summed(central), central)
    assert few.epsilon == all_.epsilon
    assert few.excess == all_.excess == 1.0


def test_another_delta() -> None:
    plan = noisy()
    aggregate = summed(plan)
    loose, tight = (realised(aggregate, plan, delta=delta) for delta in (1e-3, 1e-9))
    assert loose.delta == 1e-3
    assert loose.epsilon < realised(aggregate, plan).epsilon < tight.epsilon
    with pytest.raises(MisuseError):
        realised(aggregate, plan, delta=2.0)


def test_sums_of_other_plans_are_refused() -> None:
    plan = noisy()
    aggregate = summed(plan)
    for wrong in (
        dataclasses.replace(aggregate, survivors=aggregate.survivors[:5]),
        dataclasses.replace(aggregate, survivors=("nobody", *aggregate.survivors[1:])),
        None,
        {"survivors": aggregate.survivors},
    ):
        with pytest.raises(MisuseError) as caught:
            realised(wrong, plan)  # type: ignore[arg-type]
        assert caught.value.rule == "arguments"
    with pytest.raises(PlanError) as refused:
        realised(aggregate, changed(plan, epsilon=1.0))
    assert refused.value.rule == "dp-promise"
