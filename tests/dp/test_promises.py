"""What a plan promises holds against those whom it names, or is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import dp
from secagg.attacks.arena.world import MODEL, SESSION, digest, make_plan, people
from secagg.dp import accounting
from secagg.dp.claims import Claims
from secagg.dp.plan_noise import graph_failure, mechanism_of
from secagg_protocols.stages import Pipeline

REAL = (secagg.ClipL2(2.0), secagg.Quantise(100))
ADAPTIVE = (secagg.AdaptiveClip(clip=1.0), secagg.Quantise(100))


def made(stages: Any = REAL, *, asked: Any = None, **fields: Any) -> secagg.Plan:
    given = {
        "epsilon": 2.0,
        "delta": 1e-5,
        "rounds": 3,
        "l2_clip": 2.0 if stages is REAL else None,
        "adjacency": "zero-out",
    }
    plan = make_plan(stages=stages, **({"length": 20} | fields))
    return dp.calibrate(plan, **(given | (asked or {})))


def encoded(pipeline: Pipeline, x: Any, weight: int) -> Any:
    """Integers of one vector without noise; rounding from one seed."""
    quiet = Pipeline(pipeline.stages[:-1], pipeline.length, pipeline.max_weight)
    unit = pipeline.stages[-1].extra_levels  # type: ignore[attr-defined]
    out = np.empty(quiet.total_length, dtype=np.int64)
    quiet.begin(*quiet.check_input(x, weight), lambda: digest("seed")).tile(out, 0)
    out[quiet.bounds.length :] *= unit
    return out


@pytest.mark.parametrize("max_weight", [1, 3])
@pytest.mark.parametrize("stages", [REAL, ADAPTIVE])
def test_zeros_and_nothing_are_as_far_from_any_input_as_the_sensitivity_says(
    stages: Any, max_weight: int
) -> None:
    """Zero-out compares with zeros, and a site that adds nothing is covered by the same number."""
    pipeline = made(stages, max_weight=max_weight, threat="semi-honest").pipeline
    l1, l2 = pipeline.sensitivity
    rng, far = np.random.default_rng(1), 0.0
    for size in (0.0, 0.5, 1.0, 2.0, 50.0):
        for weight in {1, max_weight}:
            x = rng.normal(size=20)
            x *= size / np.linalg.norm(x)
            found = encoded(pipeline, x, weight)
            for other in (np.zeros_like(found), encoded(pipeline, np.zeros(20), weight)):
                gap = (found - other).astype(float)
                assert np.linalg.norm(gap) <= l2 * (1 + 1e-12)
                assert np.abs(gap).sum() <= l1 * (1 + 1e-12)
                far = max(far, float(np.linalg.norm(gap)))
    assert far > 0.8 * l2  # the number is no idle one


def sparse(security_bits: int) -> secagg.Plan:
    roster, _ = secagg.Roster.generate([f"site-{i}" for i in range(200)])
    return secagg.Plan.recommend(
        roster,
        length=20,
        stages=REAL,
        threat="semi-honest",
        colluding=40,
        max_dropouts=20,
        security_bits=security_bits,
        sites_receive=False,
    )


def test_a_sparse_graph_that_may_fail_is_counted_in_delta() -> None:
    asked: dict[str, Any] = {"epsilon": 1.0, "rounds": 10, "l2_clip": 2.0, "adjacency": "zero-out"}
    plan = sparse(40)
    assert not plan.complete
    noisy = dp.calibrate(plan, delta=1e-6, **asked)
    failure = graph_failure(noisy)
    assert failure == 2.0 ** -plan.graph_security().security_bits
    mechanism = mechanism_of(noisy)
    whole = mechanism.shares * mechanism.dimension * mechanism.total_variation  # type: ignore[union-attr]
    assert whole >= failure
    # Less noise would do on a graph that cannot fail.
    ideal = dataclasses.replace(mechanism, total_variation=0.0)
    assert accounting.epsilon(ideal, delta=1e-6, rounds=10) < 1.0
    left = 1e-6 - 10 * failure * (1 + math.exp(1.0))
    assert accounting.epsilon(ideal, delta=left, rounds=10) <= 1.0
    with pytest.raises(secagg.PlanError, match="graph's failure") as caught:
        dp.calibrate(plan, delta=10 * failure, **asked)
    assert (caught.value.rule, caught.value.field) == ("dp-target", "security_bits")


def test_sampling_hides_nothing_from_sites_that_receive_the_sum() -> None:
    asked = {"sampling_rate": 0.2, "adversary": "model-consumer", "rounds": 20}
    with pytest.raises(secagg.PlanError) as caught:
        made(asked=asked)
    assert (caught.value.rule, caught.value.field) == ("dp-sampling", "sites_receive")
    good = made(asked=asked, sites_receive=False)
    assert dp.promise(good).epsilon_found <= 2.0
    with pytest.raises(secagg.PlanError) as caught:
        dp.promise(dataclasses.replace(good, sites_receive=True))
    assert caught.value.rule == "dp-promise"


@pytest.mark.parametrize(
    ("claims", "rule"),
    [
        ({"adjacency": "replace-one", "sampling_rate": 0.2, "adversary": "model-consumer"}, None),
        ({"mechanism": "skellam"}, None),
        ({"sampling_rate": 0.2}, None),
        ({"epsilon": 1.9}, None),
        ({"delta": 1.5}, "dp-claims"),
        ({"adversary": "nobody"}, "dp-claims"),
    ],
)
def test_claims_that_the_noise_does_not_keep(claims: dict[str, Any], rule: str | None) -> None:
    plan = made(sites_receive=False)
    odd = dataclasses.replace(plan, privacy=tuple((dict(plan.privacy or ()) | claims).items()))
    with pytest.raises(secagg.PlanError) as caught:
        dp.promise(odd)
    assert caught.value.rule == (rule or "dp-promise")


def test_a_budget_counts_the_colluders_that_its_site_fears() -> None:
    few = made(colluding=1, max_dropouts=1)
    plain = dp.Ledger(secagg.MemoryJournal(), "s0", data="", epsilon=9.0, delta=1e-5)
    wary = dp.Ledger(secagg.MemoryJournal(), "s0", data="", epsilon=9.0, delta=1e-5, colluding=4)
    for ledger in (plain, wary):
        ledger.charge(few, digest("round"))
    assert plain.spent() * 1.2 < wary.spent()
    nobody = dp.Ledger(secagg.MemoryJournal(), "s0", data="", epsilon=9.0, delta=1e-5, colluding=6)
    with pytest.raises(secagg.BudgetError) as caught:
        nobody.charge(few, digest("round"))
    assert caught.value.rule == "no-noise"
    with pytest.raises(secagg.MisuseError, match="colluding"):
        secagg.Floors(colluding=2).check(few, 0)
    secagg.Floors(colluding=1).check(few, 0)


def test_an_input_that_the_budget_does_not_bear_leaves_no_count() -> None:
    """A larger budget, and the same model may still be answered."""
    plan = made(max_inputs_per_model=1, threat="semi-honest")
    journal = secagg.MemoryJournal()

    def party(epsilon: float, number: int) -> secagg.Client:
        return secagg.client(
            plan,
            "s0",
            identity=people(7)[1]["s0"],
            session=SESSION,
            round=number,
            model=MODEL,
            floors=None,
            journal=journal,
            ledger=dp.Ledger(journal, "s0", data="", epsilon=epsilon, delta=1e-5),
        )

    poor = party(0.01, 0)
    with pytest.raises(secagg.BudgetError):
        poor._enter_input()
    party(9.0, 1)._enter_input()
    with pytest.raises(secagg.MisuseError) as caught:
        party(9.0, 2)._enter_input()
    assert caught.value.rule == "inputs-per-model"


def test_the_floor_of_the_noise_is_that_of_the_lowest_clip() -> None:
    stages = (secagg.AdaptiveClip(clip=1.0, lowest=0.1, highest=10.0), secagg.Quantise(100))
    plan = made(stages)
    assert math.isclose(plan.noise_variance, plan.pipeline.noise_variance(5) / 100)
    with pytest.raises(secagg.MisuseError, match="noise_variance"):
        secagg.Floors(noise_variance=plan.noise_variance * 1.01).check(plan, 0)


def test_the_noise_of_a_weight_is_told_and_floors_its_mean() -> None:
    plan = made(max_weight=50, threat="semi-honest", asked={"epsilon": 8.0})
    noise = plan.pipeline.noise
    assert noise is not None
    spread = math.sqrt(noise.variance(7)) / noise.extra_levels
    assert noise.weight_floor == math.ceil(3 * spread)
    assert any(
        "total weight" in line and str(noise.weight_floor) in line
        for line in dp.noise_reasons(plan)
    )
    result = secagg.aggregate(plan, {name: np.full(20, 0.1) for name in plan.roster.names})
    assert result.weight < 7 + 10 * spread
    assert result.mean is None or result.weight >= noise.weight_floor


@pytest.mark.parametrize("wrong", [None, "plan", 3])
def test_what_is_no_plan_is_said_to_be_none(wrong: Any) -> None:
    for ask in (dp.promise, dp.noise_reasons, mechanism_of, Claims.of):
        with pytest.raises(secagg.MisuseError, match="Plan"):
            ask(wrong)  # type: ignore[operator]
    with pytest.raises(secagg.MisuseError, match="Plan"):
        secagg.next_parameters(wrong, wrong)
    assert secagg.dp is dp
