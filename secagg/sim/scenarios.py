"""The three simulations: survival analysis, federated training, random vectors.

Each runs the real protocol through `SecureSummation`, compares the result with a reference that
never saw it, and returns a `Run`: what came out, what it cost, and the claims that hold or not.
Where a run is given `Transcripts`, every party records what it sends and receives.
Nothing here prints; the commands do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secagg.sim import survival, training
from secagg.sim.claims import Claim, common_claims
from secagg.sim.holders import Deal, deal, holder_names, shape_of
from secagg.sim.recording import Transcripts
from secagg.sim.schedule import (
    Schedule,
    check_paillier_steps,
    draw_schedule,
    merge,
    parse_drops,
    parse_schedule,
)
from secagg.sim.secure import Observer, SecureSummation
from secagg.sim.settings import Settings, default_colluding, default_dropouts
from secagg.sim.summing import Array
from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Step
from secagg_protocols.roster import Roster

#: Sites that may leave in the survival demonstration, of its 18.
SURVIVAL_DROPOUTS = 4
#: Rounds of a Cox fit in which a drawn schedule lets sites leave; a fit takes about five.
_COX_ROUNDS_DRAWN = 3
#: What a survival analysis by Paillier sums lacks.
_UNCOMPARED = (
    "In a Paillier sum sites do not compare sums of fixed data, so the plan does not call these "
    "data fixed: that a site which left stays out is up to the server, and one that lets a single "
    "site leave between two sums can subtract them. Masked sums refuse that."
)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished simulation.

    result, reference: what the secure sums gave, and what pooled or plain data give, JSON-able.
    lines: pairs of numbers to set side by side: (what, secure, reference).
    draw: writes the figures of the scenario into a folder and returns their paths.
    """

    scenario: str
    settings: Settings
    secure: SecureSummation
    schedule: Schedule
    claims: tuple[Claim, ...]
    result: dict[str, Any]
    reference: dict[str, Any]
    lines: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...] = ()
    draw: Callable[[Path], list[Path]] = field(default=lambda folder: [], repr=False)

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def report(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        sight = self.secure.sight
        seen, control = sight.seen, sight.control
        return {
            "scenario": self.scenario,
            "settings": self.settings.to_dict(),
            "schedule": {
                label: {step.label: list(sites) for step, sites in sorted(steps.items())}
                for label, steps in self.schedule.items()
            },
            "unused_rounds_of_the_schedule": list(self.secure.unused()),
            "holds": self.holds,
            "claims": [claim.to_dict() for claim in self.claims],
            "rounds": [
                {**record.to_dict(), "agreed": self.secure.agreed(record)}
                for record in self.secure.records
            ],
            "closing": [exchange.to_dict() for exchange in self.secure.closing],
            "exchanges": {
                "rounds": self.secure.exchanges,
                "closing": len(self.secure.closing),
                "without_pipelining": self.secure.exchanges_alone,
            },
            "seconds": self.secure.seconds,
            "bytes": self.secure.total_bytes,
            "server_saw": {
                "example": sight.glimpses[0].to_dict() if sight.glimpses else None,
                "masked_bytes": seen.to_dict() if seen else None,
                "control_true_bytes": control.to_dict() if control else None,
            },
            "result": self.result,
            "reference": self.reference,
            "notes": list(self.notes),
        }

    def figures(self, folder: Path) -> list[Path]:
        """Write all figures into ``folder``; their paths."""
        return [*self.draw(folder), *masked_figure(self.secure, folder)]


def masked_figure(secure: SecureSummation, folder: Path) -> list[Path]:
    """Histogram of masked words beside true values; of one site where it has enough of them.

    None for ciphertexts, in which coordinates have no words of their own.
    """
    from secagg.sim.figures import histogram_figure

    glimpses = secure.sight.glimpses
    if not glimpses or glimpses[0].ciphertext:
        return []
    first, site = glimpses[0], glimpses[0].site
    words, truth = first.words, first.truth
    if truth.size < 512 and len(glimpses) > 1:
        words = np.concatenate([glimpse.words for glimpse in glimpses])
        truth = np.concatenate([glimpse.truth for glimpse in glimpses])
        site = f"{len(glimpses)} sites"
    path = folder / "masked-words.png"
    histogram_figure(words, truth, path, bits=first.bits, site=f"{site} (round {first.label})")
    return [path]


def make_schedule(
    names: Sequence[str],
    labels: Sequence[str],
    settings: Settings,
    *,
    signed: bool,
    once: bool,
    holders: Sequence[str] = (),
) -> Schedule:
    """The drawn drops of the settings with those of the file and of the options.

    signed: whether there is a consent step; once: a site leaves once in the run, and early.
    holders: of a Paillier sum, where sites leave with the input, and holders with the reveal.
    """
    steps = [step for step in Step if signed or step != Step.CONSENT]
    if holders:
        steps = [Step.INPUT]
    drawn_over = labels[: 1 + _COX_ROUNDS_DRAWN] if once else labels
    known = (*names, *holders)
    schedule = merge(
        draw_schedule(settings.drop_rate, settings.seed, drawn_over, names, steps, once=once),
        parse_schedule(settings.schedule, labels, known),
        parse_drops(settings.drops, labels, known),
    )
    if holders:
        check_paillier_steps(schedule, holders)
    return schedule


def limits(
    sites: int, settings: Settings, *, dropouts: int | None = None, share: int = 5
) -> tuple[int, int]:
    """(colluding sites, dropouts) of the settings, or defaults that a plan can keep."""
    most = settings.max_dropouts if settings.max_dropouts is not None else dropouts
    colluding = settings.colluding
    if colluding is None:
        colluding = default_colluding(sites, most, share=share)
    return colluding, default_dropouts(sites, colluding) if most is None else most


def check_holders(settings: Settings) -> tuple[str, ...]:
    """Names of the holders that the settings ask for, none for masked sums.

    Raises what :func:`shape_of` does, and :class:`MisuseError` for a graph.
    """
    if settings.paillier is None:
        return ()
    if settings.neighbours is not None:
        raise MisuseError("a Paillier sum has no graph: leave --neighbours out", rule="options")
    shape_of(settings.paillier, signed=settings.threat == "malicious-server")
    return holder_names(settings.paillier.holders)


def _prepare(
    names: Sequence[str],
    labels: Sequence[str],
    settings: Settings,
    *,
    fixed_data: bool,
    dropouts: int | None,
    share: int,
    session: str,
    observer: Observer | None,
    transcripts: Transcripts | None,
) -> tuple[SecureSummation, Schedule]:
    """The secure sum of a scenario, with fresh identities, and the schedule of its drops."""
    colluding, most = limits(len(names), settings, dropouts=dropouts, share=share)
    signed = settings.threat == "malicious-server"
    held = check_holders(settings)
    schedule = make_schedule(names, labels, settings, signed=signed, once=fixed_data, holders=held)
    roster, identities = Roster.generate(names, holders=held)
    dealt: Deal | None = None
    if settings.paillier is not None:
        # Last, since it takes its time: what is refused is refused before.
        watch = observer or Observer()
        dealt = deal(settings.paillier, signed=signed, searched=watch.searched)
    secure = SecureSummation(
        roster,
        identities,
        threat=settings.threat,
        colluding=colluding,
        max_dropouts=most,
        neighbours=settings.neighbours,
        schedule=schedule,
        fixed_data=fixed_data,
        session=session,
        labels=labels,
        observer=observer,
        transcripts=transcripts,
        deal=dealt,
    )
    return secure, schedule


def survival_labels() -> list[str]:
    """Rounds of a survival analysis, in order."""
    return ["counts", *(f"cox-{i}" for i in range(1, survival.MAX_ROUNDS + 1))]


def run_survival(
    settings: Settings,
    observer: Observer | None = None,
    *,
    transcripts: Transcripts | None = None,
) -> Run:
    """Kaplan-Meier, log-rank and Cox over the 18 institutions of the NCCTG lung data.

    The reference is lifelines on the pooled patients of the sites that stayed. Raises the
    protocol's errors, and ValueError where the sites that stay do not determine the fit.
    """
    tables = survival.load_sites()
    secure, schedule = _prepare(
        tuple(tables),
        survival_labels(),
        settings,
        fixed_data=True,
        dropouts=SURVIVAL_DROPOUTS,
        share=3,
        session="survival",
        observer=observer,
        transcripts=transcripts,
    )
    result = survival.analyse(tables, secure)
    secure.finish()
    pooled = survival.reference(result)
    found = survival.compare(result, pooled)
    log_rank = max(found.log_rank_statistic, found.log_rank_p_value)
    claims = (
        Claim(
            "event and at-risk counts equal the pooled ones exactly",
            found.counts_equal,
            f"{len(result.kaplan_meier.survivors)} sites, every day of {survival.GRID_DAYS}",
        ),
        Claim("the survival curve agrees to 1e-12", found.curve <= 1e-12, f"{found.curve:.2g}"),
        Claim(
            "confidence band and log-rank test agree to 1e-9",
            max(found.band, log_rank) <= 1e-9,
            f"{found.band:.2g} and {log_rank:.2g}",
        ),
        Claim(
            "Cox coefficients agree with lifelines' strata fit to 1e-4",
            found.coefficient <= 1e-4,
            f"{found.coefficient:.2g} ({len(result.cox.survivors)} sites)",
        ),
        Claim(
            "their standard errors agree to 1e-3",
            found.standard_error <= 1e-3,
            f"{found.standard_error:.2g} (relative)",
        ),
    )

    def draw(folder: Path) -> list[Path]:
        from secagg.sim import figures

        curve, forest = folder / "survival.png", folder / "cox.png"
        figures.survival_figure(result, pooled, curve)
        figures.forest_figure(result, pooled, forest)
        return [curve, forest]

    return Run(
        scenario="survival",
        settings=settings,
        secure=secure,
        schedule=schedule,
        claims=(*claims, *common_claims(secure)),
        result=result.to_dict(),
        reference={"comparison": found.to_dict(), "pooled": pooled.to_dict()},
        lines=_survival_lines(result, pooled),
        notes=result.notes if settings.paillier is None else (*result.notes, _UNCOMPARED),
        draw=draw,
    )


def _survival_lines(
    result: survival.Survival, pooled: survival.Survival
) -> tuple[tuple[str, str, str], ...]:
    lines: list[tuple[str, str, str]] = []
    for ours, theirs in zip(result.kaplan_meier.curves, pooled.kaplan_meier.curves, strict=True):
        for what, values in (
            ("patients", [int(c.at_risk[0]) for c in (ours, theirs)]),
            ("deaths", [int(c.deaths.sum()) for c in (ours, theirs)]),
            ("median survival (days)", [c.median for c in (ours, theirs)]),
            ("alive after 365 days", [f"{c.survival[365]:.6f}" for c in (ours, theirs)]),
        ):
            lines.append((f"{ours.group}: {what}", str(values[0]), str(values[1])))
    p_value, pooled_p = (part.kaplan_meier.log_rank.p_value for part in (result, pooled))
    lines.append(("log-rank p value", f"{p_value:.6f}", f"{pooled_p:.6f}"))
    for i, name in enumerate(result.cox.names):
        ours_ratio, pooled_ratio = (
            "{:.4f} ({:.3f} to {:.3f})".format(*fit.hazard_ratios()[i])
            for fit in (result.cox, pooled.cox)
        )
        lines.append((f"hazard ratio, {name}", ours_ratio, pooled_ratio))
    return tuple(lines)


def training_labels(rounds: int) -> list[str]:
    """Rounds of a federated training, in order."""
    return ["moments", *(f"training-{i}" for i in range(1, rounds + 1))]


def run_training(
    settings: Settings,
    observer: Observer | None = None,
    *,
    sites: int = 10,
    rounds: int = 10,
    transcripts: Transcripts | None = None,
) -> Run:
    """Federated logistic regression on the Wisconsin breast-cancer data.

    The references are plain federated averaging with the same sites in each round, and
    centralised training. Raises the protocol's errors, ValueError for sites outside 1..50.
    """
    dealt, held_out = training.load_training(sites, settings.seed)
    secure, schedule = _prepare(
        tuple(dealt),
        training_labels(rounds),
        settings,
        fixed_data=False,
        dropouts=None,
        share=5,
        session="training",
        observer=observer,
        transcripts=transcripts,
    )
    result = training.train(dealt, held_out, secure, rounds=rounds)
    secure.finish()
    plain = training.reference(dealt, held_out, result)
    claim = Claim(
        "AUC is within 0.002 of plain averaging after every round",
        plain.agrees,
        f"largest difference {plain.gap:.2g}",
    )

    def draw(folder: Path) -> list[Path]:
        from secagg.sim.figures import training_figure

        path = folder / "training.png"
        training_figure(result, plain, path)
        return [path]

    lines = [
        (f"AUC after round {entry.number} ({len(entry.survivors)} sites)", f"{entry.auc:.6f}", p)
        for entry, p in zip(result.rounds, (f"{auc:.6f}" for auc in plain.plain), strict=True)
    ]
    weights = float(np.abs(result.weights - plain.weights).max())
    lines.append(("largest difference of a model weight", f"{weights:.2g}", ""))
    lines.append(("AUC of centralised training", "", f"{plain.centralised:.6f}"))
    return Run(
        scenario="training",
        settings=settings,
        secure=secure,
        schedule=schedule,
        claims=(claim, *common_claims(secure)),
        result=result.to_dict(),
        reference=plain.to_dict(),
        lines=tuple(lines),
        notes=(
            "The server learns each round's averaged update and the cohort's feature means and "
            "variances; a model trained without noise can still reveal its training data.",
        ),
        draw=draw,
    )


def random_vectors(
    seed: int, number: int, names: Sequence[str], length: int, bits: int
) -> dict[str, Array]:
    """One int64[length] vector per site in 0..2^bits - 1, the same for the same seed and round."""
    # A seeded generator is right here and nowhere near keys or masks: it only deals demonstration
    # data, and a run has to be repeatable.
    rng = np.random.default_rng([seed, 0, number])
    most = (1 << bits) - 1
    # A skewed law: evenly drawn values could not be told from masks by any test.
    return {name: np.floor(rng.beta(2, 5, length) * most).astype(np.int64) for name in names}


def run_random(
    settings: Settings,
    observer: Observer | None = None,
    *,
    sites: int = 10,
    length: int = 1000,
    bits: int = 16,
    rounds: int = 1,
    transcripts: Transcripts | None = None,
) -> Run:
    """Sum random integer vectors of ``length`` coordinates of ``bits`` bits (1 to 48).

    The reference is the sum of plain integers over the survivors. Raises the protocol's errors.
    """
    names = tuple(f"site-{i:0{len(str(sites - 1))}d}" for i in range(sites))
    labels = [f"round-{i}" for i in range(1, rounds + 1)]
    secure, schedule = _prepare(
        names,
        labels,
        settings,
        fixed_data=False,
        dropouts=None,
        share=5,
        session="random",
        observer=observer,
        transcripts=transcripts,
    )
    equal, lines, differ = [], [], 0
    for number, label in enumerate(labels, 1):
        vectors = random_vectors(settings.seed, number, names, length, bits)
        summed = secure.counts(vectors, high=(1 << bits) - 1, label=label)
        plain = reference_sum(vectors, summed.survivors)
        equal.append(bool(np.array_equal(summed.total, plain)))
        for at in dict.fromkeys((0, length // 2, length - 1)) if number == 1 else ():
            what = f"coordinate {at} of the sum ({label})"
            lines.append((what, f"{summed.total[at]:,}", f"{plain[at]:,}"))
        differ += int((summed.total != plain).sum())
    lines.append(("coordinates that differ (all rounds)", f"{differ} of {length * rounds:,}", "0"))
    secure.finish()
    claim = Claim(
        "the sum equals the plain integer sum in every coordinate",
        all(equal),
        f"{sum(equal)} of {rounds} rounds",
    )
    return Run(
        scenario="random",
        settings=settings,
        secure=secure,
        schedule=schedule,
        claims=(claim, *common_claims(secure)),
        result={"sites": sites, "length": length, "bits": bits, "rounds": rounds},
        reference={"equal": equal},
        lines=tuple(lines),
    )


def reference_sum(vectors: dict[str, Array], survivors: Sequence[str]) -> Array:
    """The sum of plain integers over the survivors, int64."""
    total: Array = np.zeros(next(iter(vectors.values())).shape, dtype=np.int64)
    for site in survivors:
        total += vectors[site]
    return total


__all__ = [
    "Claim",
    "Run",
    "Settings",
    "common_claims",
    "limits",
    "make_schedule",
    "run_random",
    "run_survival",
    "run_training",
]
