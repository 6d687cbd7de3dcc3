"""Federated training with noise: what an (epsilon, delta) of the sites costs the model.

The training of `training`, under the plan that `secagg.dp.calibrate` gives, each site with a
ledger of its own; beside it the same training without noise, on the same data, with the same sites
in each round. What is hidden is a whole site: its update against zeros (or against another one).

*Two releases are saved.* Features are standardised by the server's own held-out tumours, which are
public here: means and variances of the sites' would be one more noisy sum to pay for. And weights
are 1, so that no site's number of examples has to be hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from secagg.dp import accounting
from secagg.dp.calibration import calibrate
from secagg.dp.claims import Claims, noise_of
from secagg.dp.ledger import Ledger
from secagg.dp.mechanisms import Mechanism
from secagg.dp.plan_noise import of_survivors
from secagg.session import SiteSession
from secagg.sim import training
from secagg.sim.local import LocalSessions, Played
from secagg.sim.recording import Transcripts
from secagg.sim.records import RoundRecord
from secagg.sim.secure import SecureSummation
from secagg.sim.settings import Privacy
from secagg.sim.sight import chi_square_tail
from secagg.sim.summing import Array, AsDict
from secagg.sim.training import HeldOut, Steps, TrainingSite
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.plan import Plan
from secagg_protocols.roster import Roster
from secagg_protocols.stages import ClipL2, Quantise

#: Much local work and few rounds: every round is paid for.
STEPS: Final = Steps(count=10, rate=0.5)
#: Noise and rounding leave the allowed gap with probability 2^-GAP_BITS in one round at most.
GAP_BITS: Final = 64
#: The noise as planned is as far from its variance as this once in a billion runs.
_RARE: Final = 1e-9
#: An AUC that is lower by this, or a loss that is no better than guessing, is called a failure.
_RUINED: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRound(AsDict):
    """One round with noise, beside the same round without.

    survivors: sites in the sum; clipped: how many of them had an update beyond the clip.
    auc, loss: of the model after it on the held-out set (loss: mean log loss); auc_without,
    loss_without: of the model that had no noise. epsilon_spent: of all rounds so far, the most that
    any site's ledger has been charged, at worst case; epsilon_realised: by the sites that were in
    the sums. noise_std: standard deviation of each coordinate of the mean; noise_norm: of the
    whole, root of its mean square; update_norm: norm of the mean update before noise, which only a
    simulation knows. error: largest difference of a coordinate of the sum from the plain one;
    allowed_gap: the largest that noise and rounding make, but for a probability of 2^-64.
    """

    number: int
    survivors: tuple[str, ...]
    clipped: int
    auc: float
    loss: float
    auc_without: float
    loss_without: float
    epsilon_spent: float
    epsilon_realised: float
    noise_std: float
    noise_norm: float
    update_norm: float
    error: float
    allowed_gap: float

    @property
    def drowned(self) -> bool:
        """Whether the noise of the round is larger than its update."""
        return self.noise_norm > self.update_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTraining(AsDict):
    """A training at one epsilon.

    epsilon, delta, adjacency, adversary, mechanism: of the plan; inputs: masked inputs of a site
    that they cover, retries included. clip: L2 bound of an update, in the units of the model's
    weights. bits: of a coordinate as it travels; shares: honest sites whose noise counts.
    noise_std: of each coordinate of the mean over all sites. epsilon_spent, epsilon_realised,
    auc, loss: after the last round. weights: float64[31], the model.
    noise_squares: squared differences of all rounds' sums from the plain ones over the planned
    variance, which are chi-square with noise_freedom degrees.
    """

    epsilon: float
    delta: float
    adjacency: str
    adversary: str
    mechanism: str
    inputs: int
    clip: float
    bits: int
    shares: int
    noise_std: float
    epsilon_spent: float
    epsilon_realised: float
    auc: float
    loss: float
    auc_without: float
    loss_without: float
    noise_squares: float
    noise_freedom: int
    rounds: tuple[PrivateRound, ...]
    weights: Array

    @property
    def noise_as_planned(self) -> bool:
        """Whether the noise that the sums had is as large as the plan says, neither less nor
        more: both tails of the chi-square law above 1e-9."""
        above = chi_square_tail(self.noise_squares, self.noise_freedom)
        return _RARE < above < 1 - _RARE

    @property
    def ruined(self) -> bool:
        """Whether the noise left no useful model."""
        return self.auc < self.auc_without - _RUINED or self.loss > math.log(2)


class _BudgetedSessions(LocalSessions):
    """Sessions whose sites charge a ledger; each plan has a budget and a name of the data."""

    def __init__(self, identities: Mapping[str, Identity], **options: Any) -> None:
        super().__init__(identities, **options)
        self.ledgers: dict[bytes, dict[str, Ledger]] = {}

    def _site(
        self, plan: Plan, name: str, identity: Identity | None, journal: MemoryJournal
    ) -> SiteSession:
        claims = Claims.of(plan)
        # Trainings at several epsilons are alternatives, so each has data of its own name.
        data = f"training at epsilon {claims.epsilon!r}"
        ledger = Ledger(
            journal,
            name,
            data=data,
            epsilon=claims.epsilon,
            delta=claims.delta,
            adjacency=claims.adjacency,
            adversary=claims.adversary,
        )
        self.ledgers.setdefault(plan.digest, {})[name] = ledger
        return SiteSession(
            plan,
            name,
            identity=identity,
            session=self._session,
            floors=None,
            journal=journal,
            data=data,
            ledger=ledger,
        )


class PrivateSummation(SecureSummation):
    """Secure sums with noise, each site with a ledger over the budget of its plan.

    Arguments: see `SecureSummation`. `BudgetError` where a site's ledger refuses.
    """

    def __init__(
        self,
        roster: Roster,
        identities: Mapping[str, Identity],
        *,
        session: str,
        transcripts: Transcripts | None = None,
        **options: Any,
    ) -> None:
        super().__init__(roster, identities, session=session, **options)
        self._budgets = _BudgetedSessions(
            identities, session=session, tap=self._tap, transcripts=transcripts
        )
        self._sessions = self._budgets

    def private_plan(self, privacy: Privacy, epsilon: float, *, length: int, rounds: int) -> Plan:
        """The plan of ``rounds`` rounds at ``epsilon``; `PlanError` where there is none.

        A site sends one input per model, since every retry would have to be paid for as well.
        """
        draft = Plan.recommend(
            self.roster,
            length=length,
            stages=(ClipL2(privacy.clip), Quantise(1)),
            threat=self._threat,
            colluding=self._colluding,
            max_dropouts=self._max_dropouts,
            min_honest=self._min_honest,
            neighbours=self._neighbours,
            security_bits=self._security_bits,
            max_inputs_per_model=1,
        )
        return calibrate(
            draft,
            epsilon=epsilon,
            delta=privacy.delta,
            rounds=rounds * (draft.max_inputs_per_model or 1),
            l2_clip=privacy.clip,
            adjacency=privacy.adjacency,
            mechanism=privacy.mechanism,
            adversary=privacy.adversary,
        )

    def ledgers(self, plan: Plan) -> Mapping[str, Ledger]:
        """The sites' ledgers over the budget of ``plan``; none before its first round."""
        return self._budgets.ledgers.get(plan.digest, {})

    def spent(self, plan: Plan) -> float:
        """The most that any site's ledger was charged under ``plan``."""
        # Sites that were charged alike have spent alike.
        alike = {ledger.entries(): ledger for ledger in self.ledgers(plan).values()}
        return max((ledger.spent() for ledger in alike.values()), default=0.0)

    def _record(
        self,
        plan: Plan,
        label: str,
        present: Mapping[str, Array],
        played: Played,
        gap: float,
        allowed: float,
    ) -> RoundRecord:
        if played.aggregate is not None:
            allowed += allowed_gap(plan, len(played.aggregate.survivors))
        return super()._record(plan, label, present, played, gap, allowed)


def allowed_gap(plan: Plan, sites: int) -> float:
    """How far noise and rounding may take any coordinate of a sum over ``sites`` from the plain
    sum, in the vector's units, but for a probability of 2^-64.

    Chernoff's bound over the noise of all rotated coordinates. It holds as well for the
    coordinates of the vector, each of which is a combination of them with squares that add up to
    1: log E exp(x N) grows at least as fast as x^2 for each of these laws. Rounding moves each
    rotated coordinate of a site by less than a level, so any of the vector by less than sqrt(d).
    """
    pipeline = plan.pipeline
    noise = noise_of(plan)
    tail = replace(noise, wrap_bits=GAP_BITS).radius(sites, 0.0, pipeline.total_length)
    level = math.sqrt(pipeline.noise_variance(sites) / noise.variance(sites))
    return (tail + sites * math.sqrt(pipeline.bounds.length)) * level


def train_privately(
    sites: Mapping[str, TrainingSite],
    held_out: HeldOut,
    summation: PrivateSummation,
    plan: Plan,
    labels: Sequence[str],
    *,
    clip: float,
    steps: Steps = STEPS,
) -> PrivateTraining:
    """Federated averaging, a round of ``plan`` for each label, beside the same without noise.

    plan: as `PrivateSummation.private_plan` made it for as many rounds and this clip.
    """
    # The held-out tumours are the server's own, and so cost no site anything.
    scaler = np.stack([held_out.x.mean(axis=0), held_out.x.std(axis=0)])
    weights, without = np.zeros(plan.length), np.zeros(plan.length)
    claims = Claims.of(plan)
    delta = claims.delta
    happened: list[Mechanism] = []
    rounds: list[PrivateRound] = []
    squares = 0.0
    for number, label in enumerate(labels, 1):
        vectors = {n: site.update(weights, scaler, steps, clip) for n, site in sites.items()}
        summed = summation.sum_with(plan, vectors, {}, label, bound=0.0, model=weights.tobytes())
        count = len(summed.survivors)
        truth = np.sum([vectors[name] for name in summed.survivors], axis=0)
        variance = plan.pipeline.noise_variance(count)
        squares += float(((summed.total - truth) ** 2).sum()) / variance
        weights = weights + summed.total / count
        plain = [sites[n].update(without, scaler, steps, clip) for n in summed.survivors]
        without = without + np.mean(plain, axis=0)
        score, other = (training.scores(held_out, scaler, model) for model in (weights, without))
        happened.append(of_survivors(plan, count, claims.adjacency))
        record = summation.records[-1]
        norms = [float(np.linalg.norm(vectors[name])) for name in summed.survivors]
        rounds.append(
            PrivateRound(
                number=number,
                survivors=summed.survivors,
                # A clipped update's norm is the clip but for its last digits.
                clipped=sum(norm > clip * (1 - 1e-9) for norm in norms),
                auc=training.auc(score, held_out.y),
                loss=training.log_loss(score, held_out.y),
                auc_without=training.auc(other, held_out.y),
                loss_without=training.log_loss(other, held_out.y),
                epsilon_spent=summation.spent(plan),
                epsilon_realised=accounting.compose([(m, 1) for m in happened], delta=delta),
                noise_std=math.sqrt(variance) / count,
                noise_norm=math.sqrt(variance * plan.length) / count,
                update_norm=float(np.linalg.norm(truth)) / count,
                error=record.error,
                allowed_gap=record.bound,
            )
        )
    last = rounds[-1]
    central = noise_of(plan).central
    return PrivateTraining(
        epsilon=claims.epsilon,
        delta=delta,
        adjacency=claims.adjacency,
        adversary=claims.adversary,
        mechanism=noise_of(plan).law,
        inputs=claims.rounds,
        clip=clip,
        bits=plan.wire_bits,
        shares=1 if central else plan.min_survivors - plan.colluding,
        noise_std=math.sqrt(plan.pipeline.noise_variance(plan.clients)) / plan.clients,
        epsilon_spent=last.epsilon_spent,
        epsilon_realised=last.epsilon_realised,
        auc=last.auc,
        loss=last.loss,
        auc_without=last.auc_without,
        loss_without=last.loss_without,
        noise_squares=squares,
        noise_freedom=len(rounds) * plan.length,
        rounds=tuple(rounds),
        weights=weights,
    )


__all__ = [
    "PrivateRound",
    "PrivateSummation",
    "PrivateTraining",
    "allowed_gap",
    "train_privately",
]
