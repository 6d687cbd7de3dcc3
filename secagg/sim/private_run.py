"""The training with noise as a simulation: what was asked for, what came out, what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from secagg.dp import accounting
from secagg.dp.plan_noise import mechanism_of
from secagg.sim import training
from secagg.sim.private import STEPS, PrivateSummation, PrivateTraining, train_privately
from secagg.sim.recording import Transcripts
from secagg.sim.scenarios import Claim, Run, common_claims, limits, make_schedule, training_labels
from secagg.sim.secure import Observer
from secagg.sim.settings import Privacy, Settings
from secagg_protocols.plan import Plan
from secagg_protocols.roster import Roster


def run_private_training(
    settings: Settings,
    observer: Observer | None = None,
    *,
    privacy: Privacy,
    sites: int = 20,
    rounds: int = 5,
    transcripts: Transcripts | None = None,
) -> Run:
    """Train once for each epsilon of ``privacy``; rounds are epsilon-E-1, epsilon-E-2, ...

    Drops are those of rounds training-1, training-2, ... at every epsilon. Raises the protocol's
    errors; `PlanError` for a target that no plan reaches; ValueError for sites outside 1..50.
    """
    dealt, held_out = training.load_training(sites, settings.seed)
    names = tuple(dealt)
    base = training_labels(rounds)[1:]
    epsilons = tuple(dict.fromkeys(privacy.epsilons))
    labels = {e: [f"epsilon-{e:.15g}-{i}" for i in range(1, rounds + 1)] for e in epsilons}
    signed = settings.threat == "malicious-server"
    drops = make_schedule(names, base, settings, signed=signed, once=False)
    schedule = {
        own[base.index(label)]: steps for own in labels.values() for label, steps in drops.items()
    }
    colluding, most = limits(sites, settings)
    roster, identities = Roster.generate(names)
    secure = PrivateSummation(
        roster,
        identities,
        threat=settings.threat,
        colluding=colluding,
        max_dropouts=most,
        neighbours=settings.neighbours,
        schedule=schedule,
        session="training",
        labels=[label for own in labels.values() for label in own],
        observer=observer,
        transcripts=transcripts,
    )
    length = held_out.x.shape[1] + 1
    plan_at = partial(secure.private_plan, privacy, length=length, rounds=rounds)
    # All of them before anybody sends anything: a target that no plan reaches is refused here.
    plans = {epsilon: plan_at(epsilon) for epsilon in epsilons}
    results = [
        train_privately(dealt, held_out, secure, plan, labels[epsilon], clip=privacy.clip)
        for epsilon, plan in plans.items()
    ]
    secure.finish()

    def draw(folder: Path) -> list[Path]:
        from secagg.sim.figures import private_figure

        path = folder / "training-privacy.png"
        private_figure(results, path)
        return [path]

    return Run(
        scenario="training",
        settings=settings,
        secure=secure,
        schedule=schedule,
        claims=(*_claims(results), *common_claims(secure, allowed="noise and rounding")),
        result={
            "privacy": privacy.to_dict() | {"adversary": privacy.adversary},
            "steps": STEPS.to_dict(),
            "trainings": [result.to_dict() for result in results],
        },
        reference={
            "without_noise": [
                {
                    "auc": [entry.auc_without for entry in result.rounds],
                    "loss": [entry.loss_without for entry in result.rounds],
                }
                for result in results
            ]
        },
        lines=tuple(line for result in results for line in _lines(result)),
        notes=_notes(results, list(plans.values())),
        draw=draw,
    )


def _claims(results: Sequence[PrivateTraining]) -> list[Claim]:
    claims = [
        Claim(
            "no site spent more than its budget, at worst case",
            all(r.epsilon_realised <= r.epsilon_spent <= r.epsilon for r in results),
            "; ".join(
                f"epsilon {r.epsilon_spent:.4f} of {r.epsilon:g} by the ledgers, "
                f"{r.epsilon_realised:.4f} by the sites in the sums (delta {r.delta:g})"
                for r in results
            ),
        )
    ]
    # The squares of Laplace noise are no chi-square; its size is shown and not judged.
    judged = [r for r in results if r.mechanism != "discrete-laplace"]
    if judged:
        claims.append(
            Claim(
                "the noise in the sums has the variance that the plan says",
                all(r.noise_as_planned for r in judged),
                "; ".join(
                    f"epsilon {r.epsilon:g}: {r.noise_squares / r.noise_freedom:.3f} times as "
                    f"much over {r.noise_freedom} coordinates"
                    for r in judged
                ),
            )
        )
    return claims


def _lines(result: PrivateTraining) -> list[tuple[str, str, str]]:
    at = f"epsilon {result.epsilon:g}"
    lines = [
        (
            f"{at}: AUC after round {entry.number} ({len(entry.survivors)} sites)",
            f"{entry.auc:.6f}",
            f"{entry.auc_without:.6f}",
        )
        for entry in result.rounds
    ]
    measured = result.noise_std * math.sqrt(result.noise_squares / result.noise_freedom)
    lines += [
        (f"{at}: log loss of the last model", f"{result.loss:.4f}", f"{result.loss_without:.4f}"),
        (f"{at}: spent by the ledgers", f"{result.epsilon_spent:.4f}", ""),
        (f"{at}: spent by who was in the sums", f"{result.epsilon_realised:.4f}", ""),
        (f"{at}: delta", f"{result.delta:g}", ""),
        (f"{at}: adjacency", result.adjacency, ""),
        (f"{at}: adversary", result.adversary, ""),
        (f"{at}: mechanism", result.mechanism, ""),
        (f"{at}: L2 clip of an update", f"{result.clip:g}", ""),
        (f"{at}: noise of a coordinate of the mean (std)", f"{result.noise_std:.4g}", "0"),
        (f"{at}: the same, measured", f"{measured:.4g}", "0"),
        (f"{at}: bits a coordinate", f"{result.bits}", ""),
    ]
    return lines


def _notes(results: Sequence[PrivateTraining], plans: Sequence[Plan]) -> tuple[str, ...]:
    first, clients = results[0], plans[0].clients
    hidden = "zeros" if first.adjacency == "zero-out" else "any other update"
    notes = [
        f"Hidden is a whole site: its updates of all {first.inputs} rounds against {hidden} "
        f"({first.adjacency}), from the {first.adversary}. Every round is one masked input of a "
        "site and none is sent again: a retry would cost as much as a round.",
        "Features are standardised by the server's own held-out tumours, which are public here; "
        "all sites have weight 1.",
    ]
    if first.shares > 1:
        notes.append(
            f"The noise of {first.shares} honest sites has to be enough, since {clients} may lose "
            f"{plans[0].max_dropouts} and {plans[0].colluding} may collude: a full sum has "
            f"{clients / first.shares:.2f} times that variance."
        )
    notes += [warning for result in results for warning in _warnings(result, clients)]
    if len(results) > 1:
        total = accounting.compose(
            [(mechanism_of(p), r.inputs) for p, r in zip(plans, results, strict=True)],
            delta=first.delta,
        )
        notes.append(
            "The trainings are alternatives, each with its own budget; who sees all of them has "
            f"seen epsilon {total:.4g} at delta {first.delta:g}."
        )
    notes.append(
        "The true values below are a site's integers after rotation, with noise drawn anew; the "
        "noise comes from the operating system, so the AUC differs from run to run."
    )
    return tuple(notes)


def _warnings(result: PrivateTraining, clients: int) -> list[str]:
    """Where the noise is larger than what it hides, and where it took the model with it."""
    warnings = []
    drowned = [entry for entry in result.rounds if entry.drowned]
    if drowned:
        worst = max(drowned, key=lambda entry: entry.noise_norm / entry.update_norm)
        warnings.append(
            f"WARNING, epsilon {result.epsilon:g}: in {len(drowned)} of {len(result.rounds)} "
            f"rounds the noise is larger than the mean update (round {worst.number}: norm "
            f"{worst.noise_norm:.2g} against {worst.update_norm:.2g}); what the rounds have in "
            "common may still come through."
        )
    if result.ruined:
        warnings.append(
            f"WARNING, epsilon {result.epsilon:g}: the noise ruined the model (AUC "
            f"{result.auc:.3f} against {result.auc_without:.3f}, log loss {result.loss:.3g} "
            f"against {result.loss_without:.3g}, guessing {math.log(2):.3g}). To hide a whole "
            f"site among {clients} is expensive: its share of the noise falls as 1 / sites and "
            "grows with the root of the rounds. More sites, fewer rounds, fewer dropouts and "
            "colluding sites, or a larger epsilon help."
        )
    return warnings


__all__ = ["run_private_training"]
