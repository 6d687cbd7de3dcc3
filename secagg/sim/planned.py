"""Random data through a plan of the user's own, before it is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from secagg.sim.holders import Deal, dealt
from secagg.sim.recording import Transcripts
from secagg.sim.scenarios import Claim, Run, common_claims, make_schedule
from secagg.sim.secure import Observer, SecureSummation
from secagg.sim.settings import PaillierSettings, Settings
from secagg.sim.summing import Array
from secagg_protocols.paillier import generate
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.roster import Roster
from secagg_protocols.stages import ClipL2, ClipLinf, Integers, Quantise


def run_plan(
    settings: Settings,
    observer: Observer | None = None,
    *,
    plan: Plan,
    rounds: int = 1,
    transcripts: Transcripts | None = None,
) -> Run:
    """Run rounds of ``plan`` on random data within its bounds, weights included.

    The roster's names stay; its keys are replaced by fresh ones, since nobody has the private
    halves here. Threat, graph and limits are the plan's; of ``settings``, drops and seed count.
    Raises the protocol's errors.
    """
    names = plan.roster.names
    labels = [f"round-{i}" for i in range(1, rounds + 1)]
    holders = tuple(name for name, _ in plan.roster.holders)
    roster, identities = Roster.generate(names, holders=holders)
    schedule = make_schedule(
        names,
        labels,
        settings,
        signed=plan.signed,
        once=plan.fixed_data,
        holders=holders if isinstance(plan.protocol, PaillierSum) else (),
    )
    plan = replace(plan, roster=roster)
    made: Deal | None = None
    if isinstance(plan.protocol, PaillierSum):
        made = _deal(plan, plan.protocol, settings, observer or Observer())
        plan = replace(plan, protocol=replace(plan.protocol, key=made.key))
    secure = SecureSummation(
        roster,
        identities,
        threat=plan.threat,
        colluding=plan.colluding,
        max_dropouts=plan.max_dropouts,
        schedule=schedule,
        fixed_data=plan.fixed_data,
        session="plan",
        labels=labels,
        observer=observer,
        transcripts=transcripts,
        deal=made,
    )
    lines = []
    for number, label in enumerate(labels, 1):
        vectors, weights = planned_inputs(settings.seed, number, plan)
        summed = secure.sum_with(plan, vectors, weights, label, bound=_level(plan))
        sites = [name for name in vectors if name in set(summed.survivors)]
        total = sum(vectors[name][0] * weights.get(name, 1) for name in sites)
        lines.append(
            (f"coordinate 0 of the sum ({label})", f"{summed.total[0]:,.6g}", f"{total:,.6g}")
        )
        weight = sum(weights.get(name, 1) for name in sites)
        lines.append((f"total weight ({label})", f"{summed.weight:,}", f"{weight:,}"))
    secure.finish()
    worst = max(record.error for record in secure.records)
    claim = Claim(
        "the sum equals the plain sum, up to the plan's rounding",
        all(record.holds for record in secure.records),
        f"largest error {worst:.2g}",
    )
    return Run(
        scenario="plan",
        settings=settings,
        secure=secure,
        schedule=schedule,
        claims=(claim, *common_claims(secure)),
        result={"sites": len(names), "length": plan.length, "rounds": rounds},
        reference={"largest_error": worst},
        lines=tuple(lines),
        notes=("Fresh keys stand in for those of the roster, so the plan's digest differs.",),
    )


def _deal(plan: Plan, protocol: PaillierSum, settings: Settings, observer: Observer) -> Deal:
    """A key like the plan's in the hands of its holders."""
    key, asked = protocol.key, settings.paillier or PaillierSettings()
    private = asked.key
    if private is None:
        private = generate(
            key.bits,
            exponent_bits=key.exponent_bits,
            knowledge_proofs=key.knowledge_proofs,
            progress=observer.searched,
        )
    return dealt(
        private,
        tuple(name for name, _ in plan.roster.holders),
        key.threshold,
        protocol.colluding_holders,
        asked.threads,
        proof=plan.signed,
    )


def planned_inputs(seed: int, number: int, plan: Plan) -> tuple[dict[str, Array], dict[str, int]]:
    """(vectors, weights) by site within the bounds of a plan, the same for the same seed.

    Weights are empty where the plan has none. Nothing is clipped: reals stay within every clip.
    """
    # A seeded generator is right here and nowhere near keys or masks: it only deals demonstration
    # data, and a run has to be repeatable.
    rng = np.random.default_rng([seed, 2, number])
    vectors: dict[str, Array] = {}
    for name in plan.roster.names:
        # A skewed law: evenly drawn values could not be told from masks by any test.
        share = rng.beta(2, 5, plan.length)
        first = plan.stages[0]
        if isinstance(first, Integers):
            width = np.floor(share * (float(first.high) - float(first.low)))
            vectors[name] = np.clip(width.astype(np.int64) + first.low, first.low, first.high)
            continue
        x = 2 * share - 1
        limits = [s.clip for s in plan.stages if isinstance(s, ClipLinf)]
        x *= min(limits, default=1.0)
        for stage in plan.stages:
            if isinstance(stage, ClipL2):
                x *= min(1.0, 0.99 * stage.clip / float(np.linalg.norm(x)))
        vectors[name] = x
    if plan.max_weight == 1:
        return vectors, {}
    weights = {n: int(rng.integers(1, plan.max_weight, endpoint=True)) for n in vectors}
    return vectors, weights


def _level(plan: Plan) -> float:
    """What rounding may add to a coordinate of one site: 0 for integers."""
    before: Sequence[object] = (None, *plan.stages)
    for previous, stage in zip(before, plan.stages, strict=False):
        if isinstance(stage, Quantise) and isinstance(previous, (ClipL2, ClipLinf)):
            return previous.clip / stage.levels * (0.5 if stage.rounding == "nearest" else 1.0)
    return 0.0


__all__ = ["planned_inputs", "run_plan"]
