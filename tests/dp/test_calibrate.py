"""Calibration: never above the target, close below it, or a refusal that says what is missing."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from dp import exact

import secagg
from secagg.attacks.arena.world import people
from secagg.dp import accounting
from secagg.dp.calibration import ADJACENCIES, MOST_INFLATION, calibrate
from secagg.dp.plan_noise import mechanism_of, with_shares
from secagg_protocols.plan_file import dump_plan, load_plan
from secagg_protocols.stages import Noise
from secagg_protocols.stages.noise import MOST_SCALE, MOST_VARIANCE, Law
from secagg_protocols.stages.quantise import conditional_square
from support.noise import pmf

GOLDEN = Path(__file__).parents[1] / "golden" / "dp_reference.json"
REAL = (secagg.ClipL2(1.0), secagg.Quantise(10))
COUNTS = (secagg.Integers(0, 9),)
ADAPTIVE = (secagg.AdaptiveClip(clip=1.0), secagg.Quantise(10))
LAWS: tuple[Law, ...] = get_args(Law)
LOCAL: tuple[Law, ...] = ("discrete-gaussian", "skellam", "discrete-laplace")


def plan_of(n: int = 5, length: int = 100, stages: Any = REAL, **changes: Any) -> secagg.Plan:
    fields: dict[str, Any] = {
        "threat": "semi-honest",
        "colluding": 0,
        "max_dropouts": 0,
        "sites_receive": False,
        "min_honest": 2,
    }
    return secagg.Plan.recommend(
        people(n)[0], length=length, stages=tuple(stages), **(fields | changes)
    )


def made(plan: secagg.Plan, law: Law = "discrete-gaussian", **changes: Any) -> secagg.Plan:
    """Calibrated with common arguments."""
    real = isinstance(plan.stages[0], secagg.ClipL2 | secagg.ClipLinf)
    arguments: dict[str, Any] = {
        "epsilon": 2.0,
        "delta": 1e-5,
        "rounds": 1,
        "l2_clip": 1.0 if real else None,
        "adjacency": "zero-out",
        "mechanism": law,
        "adversary": "model-consumer" if law == "central-discrete-gaussian" else "server",
    }
    return calibrate(plan, **(arguments | changes))


def noise_of(plan: secagg.Plan) -> Noise:
    noise = plan.pipeline.noise
    assert noise is not None
    return noise


def spent(plan: secagg.Plan, **changes: Any) -> float:
    """The accountant's epsilon, of what the plan's stages do and its claims say."""
    claims: dict[str, Any] = dict(plan.privacy or ())
    return accounting.epsilon(
        mechanism_of(plan),
        delta=claims["delta"],
        rounds=claims["rounds"],
        sampling_rate=claims["sampling_rate"],
        **changes,
    )


def one_step_less(plan: secagg.Plan) -> secagg.Plan | None:
    """The plan with the next smaller noise, where there is one."""
    noise = noise_of(plan)
    name = "scale_levels" if noise.law == "discrete-laplace" else "variance_levels2"
    value = getattr(noise, name)
    if value == 1:
        return None
    smaller = dataclasses.replace(noise, **{name: value - 1})
    return dataclasses.replace(plan, stages=(*plan.stages[:-1], smaller), bits=None)


def check_target(plan: secagg.Plan, target: float, close: float = 0.99) -> None:
    """At most the target, and within 1 % of it unless one integer step is more than that."""
    found = spent(plan)
    assert found <= target
    if found < close * target:
        smaller = one_step_less(plan)
        if smaller is not None:
            try:
                assert spent(smaller) > target
            except secagg.PlanError as error:
                # With a step less no bound is finite at all.
                assert error.rule == "noise-too-small"


def check_plan(plan: secagg.Plan, before: secagg.Plan) -> None:
    """What calibration may change, and what it has to leave."""
    noise = noise_of(plan)
    for name in ("roster", "length", "protocol", "colluding", "max_dropouts", "max_weight"):
        assert getattr(plan, name) == getattr(before, name)
    bounds = plan.pipeline.bounds
    claims: dict[str, Any] = dict(plan.privacy or ())
    mechanism: Any = mechanism_of(plan)
    twice = 2 if claims["adjacency"] == "replace-one" else 1
    l1, l2 = plan.pipeline.sensitivity
    honest = plan.clients - plan.max_dropouts - plan.colluding
    if noise.law == "discrete-laplace":
        assert (mechanism.scale_levels, mechanism.l1_levels) == (noise.scale_levels, twice * l1)
        assert noise.shares == honest
    elif noise.central:
        assert (mechanism.variance_levels2, mechanism.l2_levels) == (
            noise.variance_levels2,
            twice * l2,
        )
    else:
        assert mechanism.shares == honest
        assert mechanism.local_variance_levels2 == noise.variance_levels2
        assert mechanism.l2_levels == twice * l2
    assert mechanism.dimension == plan.pipeline.total_length
    assert mechanism.total_variation > 0
    # The joint sensitivity has the vector and every extra in it.
    assert bounds.l2 is not None
    beside = [max(-span.low, span.high) for span in plan.pipeline.extras.values()]
    assert l2 == pytest.approx(math.hypot(bounds.l2, *beside))
    if isinstance(plan.stages[0], secagg.Integers):
        assert plan.stages == (before.stages[0], noise)
    else:
        clip, rotate, quantise, _ = plan.stages
        assert isinstance(rotate, secagg.Rotate)
        assert quantise.rounding == "conditional"
        assert bounds.l2 <= MOST_INFLATION * quantise.levels * plan.max_weight * (1 + 1e-12)
        if isinstance(before.stages[0], secagg.AdaptiveClip):
            assert clip == before.stages[0]
    assert plan.bits_needed <= plan.wire_bits <= 64


def random_case(rng: random.Random, laws: tuple[Law, ...]) -> tuple[secagg.Plan, dict[str, Any]]:
    """A plan that can be built, and what to calibrate it to."""
    kind = rng.choice(["real", "real", "counts", "adaptive"])
    low, high = rng.choice([(0, 1), (0, 9), (-5, 40), (-3, 0)])
    stages: Any = {"real": REAL, "counts": (secagg.Integers(low, high),), "adaptive": ADAPTIVE}
    while True:
        n = rng.choice([3, 4, 5, 8, 13, 30])
        try:
            plan = plan_of(
                n,
                rng.choice([1, 2, 7, 100, 1000, 5000]),
                stages[kind],
                colluding=rng.randint(0, n // 4),
                max_dropouts=rng.randint(0, n // 4),
                max_weight=rng.choice([1, 1, 1, 2, 17]),
            )
            break
        except secagg.PlanError:
            continue
    law = rng.choice(laws)
    return plan, {
        "law": law,
        "epsilon": math.exp(rng.uniform(math.log(0.1), math.log(16))),
        "delta": 10 ** rng.uniform(-9, -3),
        "rounds": int(10 ** rng.uniform(0, 3)),
        "l2_clip": 10 ** rng.uniform(-3, 3) if kind == "real" else None,
        "adjacency": rng.choice(ADJACENCIES),
        "bits": rng.choice(["auto", "auto", "auto", "fixed"]),
    }


def play(rng: random.Random, laws: tuple[Law, ...], **more: Any) -> str:
    """Calibrate one random plan and check it; the law, or the rule of its refusal."""
    plan, case = random_case(rng, laws)
    case |= more
    law, fixed = case.pop("law"), case.pop("bits") == "fixed"
    try:
        result = made(plan, law, **case)
        if fixed:
            # A bit or two less than is best: coarser levels, and more noise for the same target.
            bits = result.wire_bits - rng.randint(0, 2)
            result = made(plan, law, **case, bits=bits)
            assert result.wire_bits == bits
    except secagg.PlanError as error:
        if error.rule == "dp-noise":
            check_out_of_reach(plan, law, case)
        else:
            assert (error.rule, error.field) == ("dp-bits", "bits")
            assert fixed
        return error.rule
    check_plan(result, plan)
    check_target(result, case["epsilon"])
    return law


def coarsest(plan: secagg.Plan) -> int:
    """Fewest levels with which conditional rounding at most doubles the norm."""
    d = 1 << (plan.length - 1).bit_length()
    for levels in range(1, 1 << 20):
        norm = levels * plan.max_weight
        if conditional_square(norm, d) <= (MOST_INFLATION * norm) ** 2:
            return levels
    raise AssertionError("rounding is never small")


def check_out_of_reach(plan: secagg.Plan, law: Law, case: dict[str, Any]) -> None:
    """The law's largest noise does not do for counts; or for any levels whose rounding is small."""
    most = MOST_SCALE if law == "discrete-laplace" else MOST_VARIANCE[law]
    shares = plan.min_survivors - plan.colluding
    parameters: dict[str, int] = (
        {"scale_levels": most, "shares": shares}
        if law == "discrete-laplace"
        else {"variance_levels2": most}
    )
    noise = Noise(law=law, **parameters)
    kept = plan.stages[0]
    middle: tuple[Any, ...] = ()
    if not isinstance(kept, secagg.Integers):
        middle = (secagg.Rotate(), secagg.Quantise(coarsest(plan), "conditional"))
    tried = dataclasses.replace(plan, stages=(kept, *middle, noise), bits=None)
    try:
        found = accounting.epsilon(
            with_shares(tried, shares, case["adjacency"]),
            delta=case["delta"],
            rounds=case["rounds"],
        )
    except secagg.PlanError as error:
        assert error.rule == "noise-too-small"
        return
    assert found > case["epsilon"]


#: The Gaussians are the default; the others take longer, for their tables are larger.
OFTEN: tuple[Law, ...] = ("discrete-gaussian",) * 6 + ("central-discrete-gaussian",) * 3


def test_fifty_random_plans_meet_their_targets() -> None:
    rng = random.Random(50)
    outcomes = [play(rng, (*OFTEN, "skellam")) for _ in range(44)]
    outcomes += [play(rng, ("discrete-laplace",), rounds=1, epsilon=8.0) for _ in range(6)]
    assert {"discrete-gaussian", "central-discrete-gaussian", "skellam"} <= set(outcomes)
    assert sum(outcome in LAWS for outcome in outcomes) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_a_thousand_random_plans_meet_their_targets(part: int) -> None:
    rng = random.Random(1000 + part)
    outcomes = [play(rng, (*OFTEN, "skellam")) for _ in range(47)]
    # Tables of large scales take seconds; one in three may need them.
    outcomes += [play(rng, ("discrete-laplace",))]
    outcomes += [play(rng, ("discrete-laplace",), rounds=2, epsilon=6.0) for _ in range(2)]
    assert sum(outcome in LAWS for outcome in outcomes) >= 38


def sampled(rng: random.Random, rates: tuple[float, ...]) -> str:
    return play(
        rng,
        OFTEN,
        adversary="model-consumer",
        adjacency="zero-out",
        sampling_rate=rng.choice(rates),
        delta=10 ** rng.uniform(-7, -4),
        epsilon=math.exp(rng.uniform(math.log(0.5), math.log(8))),
    )


def test_a_random_plan_with_sampling_meets_its_target() -> None:
    assert sampled(random.Random(2), (0.1,)) in LAWS


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_thirty_random_plans_with_sampling_meet_their_targets(part: int) -> None:
    rng = random.Random(30 + part)
    outcomes = [sampled(rng, (0.01, 0.05, 0.2, 0.5)) for _ in range(3)]
    assert sum(outcome in LAWS for outcome in outcomes) >= 2


@pytest.mark.parametrize("law", ["skellam", "discrete-laplace"])
def test_sampling_amplifies_the_other_laws_too(law: Law) -> None:
    plan = plan_of(stages=COUNTS, length=2)
    options: dict[str, Any] = {"adversary": "model-consumer", "rounds": 5}
    whole = made(plan, law, **options)
    part = made(plan, law, **options, sampling_rate=0.1)
    check_target(part, 2.0)
    parameter = "scale_levels" if law == "discrete-laplace" else "variance_levels2"
    assert getattr(noise_of(part), parameter) < 0.8 * getattr(noise_of(whole), parameter)


# Too few bits.


@pytest.mark.parametrize("stages", [REAL, COUNTS, ADAPTIVE], ids=["real", "counts", "adaptive"])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", [2, 40])
def test_the_bits_that_a_refusal_names_are_the_fewest_that_do(
    law: Law, stages: Any, length: int
) -> None:
    for n, weight, epsilon in ((3, 1, 1.0), (8, 5, 0.7), (30, 1, 8.0)):
        plan = plan_of(n, length, stages, max_weight=weight)
        options: dict[str, Any] = {"epsilon": epsilon}
        with pytest.raises(secagg.PlanError) as caught:
            made(plan, law, bits=3, **options)
        assert (caught.value.rule, caught.value.field) == ("dp-bits", "bits")
        (need,) = map(int, re.findall(r"at least (\d+)", str(caught.value)))
        result = made(plan, law, bits=need, **options)
        assert result.wire_bits == result.bits == need
        check_plan(result, plan)
        check_target(result, epsilon)
        with pytest.raises(secagg.PlanError) as caught:
            made(plan, law, bits=need - 1, **options)
        assert caught.value.rule == "dp-bits"
        assert f"at least {need}" in str(caught.value)


def test_more_bits_cost_less_noise_until_rounding_is_lost() -> None:
    plan = plan_of(20, 4096)
    auto = made(plan)
    relative = []
    for bits in range(auto.wire_bits - 4, auto.wire_bits + 3):
        result = made(plan, bits=bits)
        assert result.bits == bits
        check_target(result, 2.0)
        relative.append(result.noise_variance)
    assert relative == sorted(relative, reverse=True)
    assert relative[0] > 1.02 * relative[-1]
    assert auto.noise_variance <= 1.02 * relative[-1]


def must_reject() -> list[dict[str, Any]]:
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    found = [case for case in cases if case["category"] == "params_must_reject"]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("law", ["skellam", "discrete-gaussian"])
@pytest.mark.parametrize("case", must_reject(), ids=lambda case: case["id"])
def test_what_public_code_answers_with_garbage_is_refused(case: dict[str, Any], law: Law) -> None:
    given = case["inputs"]
    plan = plan_of(given["num_clients"], given["dim"])
    with pytest.raises(secagg.PlanError) as caught:
        made(
            plan,
            law,
            epsilon=float(given["epsilon"]),
            delta=given["delta"],
            rounds=given["steps"],
            l2_clip=given["l2_clip"],
            bits=given["bits"],
        )
    assert (caught.value.rule, caught.value.field) == ("dp-bits", "bits")
    (need,) = map(int, re.findall(r"at least (\d+)", str(caught.value)))
    assert given["bits"] < need <= 30


# Against exact convolutions.


def worst_delta(plan: secagg.Plan, epsilon: float) -> float:
    """Exact delta of one noisy count: sites' tables convolved, over all shifts a site can make."""
    noise, stage = noise_of(plan), plan.stages[0]
    one = pmf(noise)
    law = exact.convolved(one, 1 if noise.central else plan.min_survivors - plan.colluding)
    assert isinstance(stage, secagg.Integers)
    twice = 2 if dict(plan.privacy or ())["adjacency"] == "replace-one" else 1
    most = max(abs(stage.low), abs(stage.high)) * twice
    return max(exact.delta(law, (shift,), epsilon) for shift in range(1, most + 1))


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("most", [1, 7])
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_one_count_agrees_with_exact_convolution(
    n: int, law: Law, most: int, adjacency: str
) -> None:
    for epsilon, delta in ((0.3, 1e-3), (1.0, 1e-5), (4.0, 1e-9)):
        plan = plan_of(n, 1, (secagg.Integers(0, most),), max_dropouts=n // 4, colluding=n // 8)
        result = made(plan, law, epsilon=epsilon, delta=delta, adjacency=adjacency)
        found = worst_delta(result, epsilon)
        assert found <= delta * (1 + 1e-9)
        noise = noise_of(result)
        if law == "discrete-laplace":
            # Its delta falls to nothing at the pure epsilon, so a step less tells how close it is.
            smaller = one_step_less(result)
            assert smaller is None or worst_delta(smaller, epsilon) > delta
        elif noise.variance_levels2 >= 8:
            # Skellam is accounted by its published Renyi bound, which is not tight.
            assert found >= delta / (1e4 if law == "skellam" else 50)
        # All sites together, none of which dropped out, add more noise and hide more.
        alive = dataclasses.replace(result, max_dropouts=0, colluding=0)
        if not noise_of(result).central:
            assert worst_delta(alive, epsilon) <= found


@pytest.mark.parametrize("law", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_two_counts_of_one_site_agree_with_exact_convolution(law: Law, adjacency: str) -> None:
    """A site moves every coordinate at once, which is what the L2 norm is of."""
    plan = plan_of(4, 2, (secagg.Integers(0, 4),))
    result = made(plan, law, epsilon=1.5, delta=1e-4, adjacency=adjacency)
    shift = 8 if adjacency == "replace-one" else 4
    found = exact.delta(exact.convolved(pmf(noise_of(result)), 4), (shift,) * 2, 1.5)
    assert 1e-4 / (1e3 if law == "skellam" else 5) <= found <= 1e-4


def test_two_rounds_of_one_count_agree_with_exact_convolution() -> None:
    """Rounds are more coordinates of the same site."""
    plan = plan_of(4, 1, (secagg.Integers(0, 2),))
    for law in LOCAL:
        result = made(plan, law, epsilon=1.5, delta=1e-4, rounds=2)
        law_of_sum = exact.convolved(pmf(noise_of(result)), 4)
        found = exact.delta(law_of_sum, (2, 2), 1.5)
        assert found <= 1e-4
        if law != "discrete-laplace":  # whose scale of three levels is a step from too little
            assert found >= 1e-4 / 1e3
        check_target(result, 1.5)


# Dropouts, colluders, weights.


def test_noise_is_counted_for_the_sites_that_are_sure_to_add_it() -> None:
    none, some = plan_of(20, 50), plan_of(20, 50, max_dropouts=4, colluding=4)
    first, second = (
        noise_of(made(plan)).variance_levels2 / made(plan).pipeline.sensitivity[1] ** 2
        for plan in (none, some)
    )
    assert second / first == pytest.approx(20 / 12, rel=1e-3)


def test_weights_and_the_bit_are_inside_the_joint_sensitivity() -> None:
    for weight in (2, 17, 1000, 100_000):
        result = made(plan_of(max_weight=weight))
        check_plan(result, plan_of(max_weight=weight))
        bounds, unit = result.pipeline.bounds, noise_of(result).extra_levels
        assert result.pipeline.extras["weight"].high == weight * unit
        # They are a small part of it: a weight costs a few percent of noise.
        assert result.pipeline.sensitivity[1] <= 1.05 * (bounds.l2 or 0)
    adaptive = made(plan_of(stages=ADAPTIVE))
    assert adaptive.pipeline.sensitivity[1] <= 1.05 * (adaptive.pipeline.bounds.l2 or 0)


def test_replace_one_takes_twice_the_noise() -> None:
    first, second = (made(plan_of(), adjacency=kind) for kind in ADJACENCIES)
    norms = [plan.pipeline.sensitivity[1] for plan in (first, second)]
    assert norms[0] == norms[1]
    ratio = noise_of(second).variance_levels2 / noise_of(first).variance_levels2
    assert ratio == pytest.approx(4, rel=1e-3)


def test_the_clip_only_sets_the_unit() -> None:
    plans = [made(plan_of(), l2_clip=clip) for clip in (1e-6, 1.0, 1e9)]
    assert len({noise_of(plan) for plan in plans}) == 1
    assert plans[2].noise_variance / plans[0].noise_variance == pytest.approx(1e30)


def test_a_mechanism_is_built_from_stages_and_not_from_claims() -> None:
    plan = made(plan_of(12, 30, max_dropouts=2))
    lied = dataclasses.replace(plan, privacy=(("adjacency", "zero-out"), ("epsilon", 1e-9)))
    assert mechanism_of(lied) == mechanism_of(plan)
    # More colluders than it was made for: the same claims, and less noise that counts.
    weaker = dataclasses.replace(plan, colluding=5)
    assert weaker.privacy == plan.privacy
    assert spent(weaker) > 1.3 * 2.0
    assert spent(plan) <= 2.0


def test_the_distance_of_every_sites_sampler_counts() -> None:
    for law in LOCAL:
        plan = made(plan_of(8, 3, COUNTS), law)
        tables = noise_of(plan).tables()
        mechanism: Any = mechanism_of(plan)
        sites = getattr(mechanism, "shares", 1)
        assert sites * mechanism.total_variation >= 8 * tables.total_variation


# Claims and files.


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("stages", [REAL, COUNTS, ADAPTIVE], ids=["real", "counts", "adaptive"])
def test_a_calibrated_plan_survives_its_file(law: Law, stages: Any) -> None:
    plan = made(plan_of(6, 4, stages, max_weight=3), law, epsilon=29 / 3, delta=1e-7)
    again = load_plan(dump_plan(plan))
    assert again == plan
    assert again.digest == plan.digest
    assert again.privacy == plan.privacy
    assert mechanism_of(again) == mechanism_of(plan)
    stripped = dataclasses.replace(plan, privacy=None)
    assert stripped.digest != plan.digest


def test_the_claims_name_what_the_noise_was_made_for() -> None:
    before = plan_of(privacy_of_old := 6, 20)
    assert before.clients == privacy_of_old
    plan = made(before, epsilon=1, rounds=7, adjacency="replace-one", delta=1e-6)
    assert dict(plan.privacy or ()) == {
        "adjacency": "replace-one",
        "adversary": "server",
        "delta": 1e-6,
        "epsilon": 1.0,
        "mechanism": "discrete-gaussian",
        "rounds": 7,
        "sampling_rate": 1.0,
    }
    # Calibrated again, the new claims take the place of the old.
    again = made(plan, "skellam", epsilon=3.0, rounds=2)
    assert dict(again.privacy or ())["epsilon"] == 3.0
    assert dict(again.privacy or ())["mechanism"] == "skellam"
    assert noise_of(again).law == "skellam"
    check_target(again, 3.0)


def test_claims_do_not_pass_to_another_number_of_sites() -> None:
    plan = made(plan_of(6, 20))
    roster = dataclasses.replace(people(5)[0], epoch=1)
    with pytest.raises(secagg.PlanError) as caught:
        secagg.plan_for_epoch(plan, roster)
    assert (caught.value.rule, caught.value.field) == ("epoch-privacy", "privacy")
    same = secagg.plan_for_epoch(plan, dataclasses.replace(people(6)[0], epoch=1))
    assert same.privacy == plan.privacy
    assert mechanism_of(same) == mechanism_of(plan)


# Refusals.


@pytest.mark.parametrize(
    ("changes", "rule", "field"),
    [
        ({"epsilon": 0}, "dp-target", "epsilon"),
        ({"epsilon": -1.0}, "dp-target", "epsilon"),
        ({"epsilon": math.nan}, "dp-target", "epsilon"),
        ({"epsilon": math.inf}, "dp-target", "epsilon"),
        ({"epsilon": "2"}, "dp-target", "epsilon"),
        ({"epsilon": True}, "dp-target", "epsilon"),
        ({"delta": 0.0}, "dp-target", "delta"),
        ({"delta": 1.0}, "dp-target", "delta"),
        ({"delta": math.nan}, "dp-target", "delta"),
        ({"rounds": 0}, "dp-target", "rounds"),
        ({"rounds": 2.0}, "dp-target", "rounds"),
        ({"rounds": True}, "dp-target", "rounds"),
        ({"adjacency": "add-remove"}, "dp-adjacency", "adjacency"),
        ({"adversary": "anyone"}, "dp-sampling", "adversary"),
        ({"sampling_rate": 0.0}, "dp-sampling", "sampling_rate"),
        ({"sampling_rate": 1.5}, "dp-sampling", "sampling_rate"),
        ({"sampling_rate": math.nan}, "dp-sampling", "sampling_rate"),
        ({"sampling_rate": 0.1}, "dp-sampling", "sampling_rate"),
        (
            {"sampling_rate": 0.1, "adversary": "model-consumer", "adjacency": "replace-one"},
            "dp-sampling",
            "adjacency",
        ),
        ({"mechanism": "gaussian"}, "noise-law", "mechanism"),
        (
            {"mechanism": "central-discrete-gaussian", "adversary": "server"},
            "dp-noise",
            "adversary",
        ),
        ({"l2_clip": None}, "dp-clip", "l2_clip"),
        ({"l2_clip": 0.0}, "clip-range", "clip"),
        ({"l2_clip": math.inf}, "clip-range", "clip"),
        ({"bits": 0}, "dp-bits", "bits"),
        ({"bits": 65}, "dp-bits", "bits"),
        ({"bits": 16.0}, "dp-bits", "bits"),
        ({"bits": "16"}, "dp-bits", "bits"),
        ({"bits": True}, "dp-bits", "bits"),
        ({"wrap_bits": 3}, "noise-range", "wrap_bits"),
    ],
)
def test_every_refusal_names_its_rule_and_field(
    changes: dict[str, Any], rule: str, field: str
) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        made(plan_of(), **changes)
    assert (caught.value.rule, caught.value.field) == (rule, field)


@pytest.mark.parametrize("stages", [COUNTS, ADAPTIVE])
def test_integers_and_a_clip_that_adapts_take_no_other_clip(stages: Any) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        made(plan_of(stages=stages), l2_clip=1.0)
    assert (caught.value.rule, caught.value.field) == ("dp-clip", "l2_clip")


def test_noise_beyond_what_a_law_can_have_is_refused() -> None:
    with pytest.raises(secagg.PlanError) as caught:
        made(plan_of(stages=COUNTS, length=5000), "discrete-laplace", epsilon=0.1, rounds=1000)
    assert (caught.value.rule, caught.value.field) == ("dp-noise", "epsilon")


def test_something_that_is_no_plan_is_the_callers_mistake() -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        calibrate(
            dump_plan(plan_of()),  # type: ignore[arg-type]
            epsilon=1.0,
            delta=1e-5,
            rounds=1,
            l2_clip=1.0,
            adjacency="zero-out",
        )
    assert caught.value.rule == "arguments"


def test_a_mechanism_needs_noise_and_an_adjacency() -> None:
    with pytest.raises(secagg.PlanError) as caught:
        mechanism_of(plan_of(), adjacency="zero-out")
    assert (caught.value.rule, caught.value.field) == ("dp-noise", "stages")
    bare = dataclasses.replace(made(plan_of()), privacy=None)
    with pytest.raises(secagg.PlanError) as caught:
        mechanism_of(bare)
    assert (caught.value.rule, caught.value.field) == ("dp-adjacency", "privacy")
    zero, other = (mechanism_of(bare, adjacency=kind) for kind in ADJACENCIES)
    assert other.l2_levels == 2 * zero.l2_levels


def test_a_server_that_need_not_be_honest_adds_no_noise() -> None:
    plan = plan_of(7, threat="malicious-server", colluding=1)
    with pytest.raises(secagg.PlanError) as caught:
        made(plan, "central-discrete-gaussian")
    assert (caught.value.rule, caught.value.field) == ("noise-central", "threat")


def test_a_calibrated_plan_runs() -> None:
    """Zeros in, noise of the promised size out."""
    plan = made(plan_of(4, 2000), epsilon=8.0)
    zeros = {name: np.zeros(2000) for name in plan.roster.names}
    found = secagg.aggregate(plan, zeros)
    assert found.noise_variance == pytest.approx(plan.noise_variance)
    slack = 6 * math.sqrt(2 / 2000)
    # Rounding zeros adds nothing.
    assert np.mean(found.sum**2) == pytest.approx(found.noise_variance, rel=slack)
