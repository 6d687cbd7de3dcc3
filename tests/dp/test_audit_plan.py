"""The audit of whole plans: correct builds pass, planted faults are caught by the named test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.dp.audit import Report, audit, variance_test
from secagg.dp.audit import run as run_module
from secagg.dp.audit.dry import DryRun
from secagg.dp.calibration import calibrate
from secagg.dp.plan_noise import mechanism_of
from secagg_protocols.stages import AdaptiveClip, ClipL2, Integers, Noise, Pipeline, Quantise
from secagg_protocols.stages.base import ArrayEncoder, Bounds, Encoder, Rand

SITES, LENGTH, CANARIES = 10, 1024, 512
TARGET: dict[str, Any] = {
    "epsilon": 2.0,
    "delta": 1e-5,
    "rounds": 1,
    "l2_clip": 1.0,
    "adjacency": "zero-out",
}


def draft(**changes: Any) -> secagg.Plan:
    """Ten sites, two of which may drop out and one colludes."""
    fields: dict[str, Any] = {
        "protocol": secagg.MaskedSum(share_threshold=7, neighbours=SITES - 1),
        "max_dropouts": 2,
        "length": LENGTH,
        "stages": (ClipL2(1.0), Quantise(100)),
    }
    return make_plan(SITES, **(fields | changes))


def calibrated(target: dict[str, Any] | None = None, **changes: Any) -> secagg.Plan:
    return calibrate(draft(**changes), **(TARGET | (target or {})))


def accused_by(report: Report) -> set[str]:
    return {finding.test for finding in report.violations}


TESTS = ["claim", "sensitivity", "variance", "fit", "reuse", "repeat", "threshold", "one-run"]
COUNTS = {"l2_clip": None}
CORRECT: dict[str, Callable[[], secagg.Plan]] = {
    "discrete-gaussian": calibrated,
    "skellam": lambda: calibrated({"mechanism": "skellam"}),
    "weights-and-replace-one": lambda: calibrated(
        {"adjacency": "replace-one", "rounds": 10}, length=300, max_weight=50
    ),
    "adaptive": lambda: calibrated(COUNTS, stages=(AdaptiveClip(clip=3.0), Quantise(100))),
    "central": lambda: calibrated(
        {"mechanism": "central-discrete-gaussian", "adversary": "model-consumer"},
        threat="semi-honest",
    ),
    "counts-laplace": lambda: calibrated(
        COUNTS | {"mechanism": "discrete-laplace"}, length=200, stages=(Integers(0, 3),)
    ),
    "counts-above-zero": lambda: calibrated(
        COUNTS | {"adjacency": "replace-one"}, length=300, stages=(Integers(1, 3),)
    ),
    "counts-below-zero": lambda: calibrated(COUNTS, length=300, stages=(Integers(-3, 1),)),
}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_build_passes(name: str) -> None:
    plan = CORRECT[name]()
    report = audit(plan, canaries=CANARIES)
    assert report.violations == (), report.lines()
    assert [finding.test for finding in report.findings] == TESTS
    assert report.false_alarm == pytest.approx(1e-6)
    assert report.subject == f"plan {plan.digest.hex()[:16]}"


@pytest.fixture(scope="module")
def plan() -> Iterator[secagg.Plan]:
    yield calibrated()


def test_noise_divided_by_the_root_of_n_once_too_often(
    plan: secagg.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the sampler's parameter: the plan and its accountant know nothing of it.
    tables = Noise.tables

    def less(self: Noise) -> Any:
        return tables(dataclasses.replace(self, variance_levels2=self.variance_levels2 // SITES))

    with monkeypatch.context() as fault:
        fault.setattr(Noise, "tables", less)
        report = audit(plan, canaries=CANARIES)
    assert {"variance", "fit"} <= accused_by(report)
    by_name = {finding.test: finding for finding in report.findings}
    assert by_name["variance"].statistic == pytest.approx(1 / SITES, rel=0.05)  # type: ignore[attr-defined]

    # In the calibration: the noise is as the plan says, and that is too little.
    noise = plan.stages[-1]
    assert isinstance(noise, Noise)
    small = dataclasses.replace(noise, variance_levels2=noise.variance_levels2 // SITES)
    wrong = dataclasses.replace(plan, stages=(*plan.stages[:-1], small))
    assert accused_by(audit(wrong, canaries=CANARIES)) == {"claim"}


def test_the_noise_of_dropped_sites_is_missing(
    plan: secagg.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calibrated as if nobody could drop out or collude.
    stages = calibrate(draft(max_dropouts=0, colluding=0, sites_receive=False), **TARGET).stages
    optimist = dataclasses.replace(plan, stages=stages)
    assert accused_by(audit(optimist, canaries=CANARIES)) == {"claim"}

    # The accountant makes the same mistake, and finds the claim to be true.
    def all_of_them(plan: secagg.Plan, **_: Any) -> Any:
        return dataclasses.replace(mechanism_of(plan), shares=SITES)

    with monkeypatch.context() as fault:
        fault.setattr(run_module, "mechanism_of", all_of_them)
        report = audit(optimist, canaries=CANARIES)
    assert {"variance", "fit"} <= accused_by(report)
    assert "claim" not in accused_by(report)


def test_the_clip_comes_after_rounding(plan: secagg.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(31)

    def unclipped(self: ClipL2, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        return x

    def late(self: Quantise, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        reals = np.empty(x.length, dtype=np.float64)
        x.tile(reals, 0)
        levels = np.floor(reals * self.scale(given) + rng.random(x.length))
        most = self.levels / max(1.0, math.sqrt(float(np.dot(levels, levels))))
        return ArrayEncoder(np.rint(levels * min(1.0, most)).astype(np.int64))

    with monkeypatch.context() as fault:
        fault.setattr(ClipL2, "begin", unclipped)
        fault.setattr(Quantise, "begin", late)
        report = audit(plan, canaries=CANARIES)
    assert accused_by(report) == {"sensitivity"}


def test_a_seed_is_used_in_two_rounds(plan: secagg.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each honest site has a seed of its own, and has it again in every round.
    honest, draws = len(DryRun(plan).honest), Noise.draws
    absent = plan.max_dropouts
    calls = iter(range(1 << 30))
    assert (honest, absent) == (7, 2)

    def again(self: Noise, seed: bytes) -> Any:
        return draws(self, bytes([next(calls) % honest]) * 32)

    with monkeypatch.context() as fault:
        fault.setattr(Noise, "draws", again)
        report = audit(plan, canaries=CANARIES)
    assert "reuse" in accused_by(report)
    by_name = {finding.test: finding for finding in report.findings}
    assert by_name["reuse"].statistic > 0.9  # type: ignore[attr-defined]


def test_rounding_is_left_out_of_the_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    def before_rounding(self: Pipeline) -> tuple[float, float]:
        (quantise,) = (stage for stage in self.stages if isinstance(stage, Quantise))
        norm = float(quantise.levels * self.max_weight)
        return norm * math.sqrt(self.total_length), norm

    with monkeypatch.context() as fault:
        fault.setattr(Pipeline, "sensitivity", property(before_rounding))
        report = audit(calibrated(), canaries=CANARIES)
    assert accused_by(report) == {"sensitivity"}


def test_sites_that_add_no_noise_show_their_canaries(
    plan: secagg.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Noise.tables

    def hardly(self: Noise) -> Any:
        return tables(dataclasses.replace(self, variance_levels2=1))

    with monkeypatch.context() as fault:
        fault.setattr(Noise, "tables", hardly)
        report = audit(plan, canaries=8192)
    assert {"variance", "fit", "threshold", "one-run"} <= accused_by(report)


def test_a_modulus_too_small_for_the_noise_is_refused(plan: secagg.Plan) -> None:
    assert plan.bits is not None
    with pytest.raises(secagg.PlanError) as caught:
        dataclasses.replace(plan, bits=plan.bits - 1)
    assert caught.value.rule == "modulus"


def test_protocol_and_pipeline_open_sums_of_the_same_law(plan: secagg.Plan) -> None:
    dry, law = DryRun(plan), run_module.law_of(plan, mechanism_of(plan))
    x = np.zeros(LENGTH)
    x[3] = 0.5
    for play in (dry.by_protocol, dry.by_pipeline):
        opened = play({dry.honest[0]: x, dry.honest[1]: x})
        assert opened.levels.shape == (plan.pipeline.total_length,)
        assert opened.sum.shape == (LENGTH,)
        # Two halves of a clip are in the sum, beside noise of two clips' deviation.
        deviation = math.sqrt(law.variance) / 500
        assert abs(opened.sum[3] - 1.0) < 6 * deviation
        assert variance_test(opened.levels, law, false_alarm=1e-6).statistic < 1.3
    # Whoever colludes adds no noise, and nobody is counted who may have dropped out.
    assert len(dry.honest) == plan.min_survivors - plan.colluding == law.sites
    assert (len(dry.insiders), len(dry.absent)) == (plan.colluding, plan.max_dropouts)


def test_what_claims_nothing_is_not_audited(plan: secagg.Plan) -> None:
    with pytest.raises(secagg.PlanError, match="no noise"):
        audit(draft())
    with pytest.raises(secagg.PlanError, match="calibrate"):
        audit(dataclasses.replace(plan, privacy=None))
    with pytest.raises(secagg.MisuseError, match="canaries"):
        audit(plan, canaries=10)
    with pytest.raises(secagg.MisuseError, match="false_alarm"):
        audit(plan, false_alarm=0.9)
    with pytest.raises(secagg.MisuseError, match="Plan"):
        audit("plan")  # type: ignore[arg-type]
    with pytest.raises(secagg.MisuseError, match="no noise"):
        DryRun(draft())
