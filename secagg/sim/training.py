"""Federated logistic regression on the Wisconsin breast-cancer data.

*Site side*: `TrainingSite`, whose methods see one site's examples and what was broadcast. *Server
side*: `standardisation` and `train`, which see weighted means, and the public held-out set.
*Reference*: plain federated averaging with the same steps in floating point, and centralised
training.

Data: Street, Wolberg and Mangasarian (1993), as shipped by scikit-learn: 569 tumours, 30 features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from secagg.sim.summing import Array, AsDict, Summation

FEATURE_LIMITS = {
    "radius": 50.0,
    "texture": 64.0,
    "perimeter": 400.0,
    "area": 8000.0,
    "smoothness": 0.5,
    "compactness": 2.0,
    "concavity": 2.0,
    "concave points": 0.5,
    "symmetry": 1.0,
    "fractal dimension": 0.5,
}
"""Public upper limits of the ten measured quantities, in their units (pixels and ratios); each of
mean, standard error and worst value lies within 0 and the limit. Features are divided by them, so
that one clip of 1 bounds every moment."""

MOMENT_RESOLUTION = 2.0**-30
"""Quantisation of a site's weighted moments, which are at most `MAX_EXAMPLES`. The smallest
variance in units of the limits is about 1e-5, and 10 sites err by 10 * 2^-30 / 398 = 2e-11."""

UPDATE_CLIP = 4.0
"""L2 bound of a site's update in one round. Training rarely reaches it; it bounds what one site can
do to the model, and it is the public bound that quantisation needs. A power of two: then
x * (clip / norm) cannot round past the clip, and the sum never refuses a clipped update."""

UPDATE_RESOLUTION = 2.0**-16
"""Quantisation of a site's weighted update, moving the mean of 398 examples by at most 4e-7."""

MAX_EXAMPLES = 512
"""Public limit of examples per site, hence of a weight."""


@dataclass(frozen=True, slots=True)
class Steps(AsDict):
    """What every site does in a round: `count` full-batch gradient steps of `rate`, ridge `l2`."""

    count: int = 5
    rate: float = 0.5
    l2: float = 1e-3


# --- Site side: one site's examples, and what was broadcast --------------------------------------


@dataclass(frozen=True, slots=True)
class TrainingSite:
    """One site's examples; its repr shows none.

    x: float64[n, 30] in units of the public limits, so within 0..1; y: float64[n], 1 = benign.
    ValueError, with the rule and no value, where a public bound is broken.
    """

    name: str
    x: Array = field(repr=False)
    y: Array = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.y) <= MAX_EXAMPLES:
            raise ValueError(f"a site holds 1..{MAX_EXAMPLES} examples")
        if not bool(np.all((self.x >= 0) & (self.x <= 1))):
            raise ValueError("a feature leaves its public range")

    @property
    def weight(self) -> int:
        """Number of examples."""
        return len(self.y)

    def moments(self) -> Array:
        """float64[60]: means of the features and of their squares, each within 0..1."""
        return np.concatenate([self.x.mean(axis=0), (self.x**2).mean(axis=0)])

    def update(
        self, weights: Array, scaler: Array, steps: Steps, clip: float = UPDATE_CLIP
    ) -> Array:
        """float64[31]: change of the broadcast weights[31] (bias last) by this site's steps.

        ClientUpdate of McMahan et al., "Communication-Efficient Learning of Deep Networks from
        Decentralized Data" (AISTATS 2017), Algorithm 1, with full batches; scaler[2, 30] is the
        broadcast mean and standard deviation. Clipped to ``clip`` in L2 norm.
        """
        x = _design(self.x, scaler)
        ridge = np.append(np.full(x.shape[1] - 1, steps.l2), 0.0)
        local = weights.copy()
        for _ in range(steps.count):
            gradient = x.T @ (_sigmoid(x @ local) - self.y) / len(self.y) + ridge * local
            local = local - steps.rate * gradient
        change = local - weights
        norm = float(np.linalg.norm(change))
        clipped: Array = change * (clip / norm) if norm > clip else change
        return clipped


def _sigmoid(score: Array) -> Array:
    value: Array = 0.5 * (1.0 + np.tanh(0.5 * score))  # Never overflows, unlike 1 / (1 + exp(-s)).
    return value


def _design(x: Array, scaler: Array) -> Array:
    return np.column_stack([(x - scaler[0]) / scaler[1], np.ones(len(x))])


# --- Server side: functions of weighted means, and the public held-out set -----------------------


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The test set, which no site trains on; the server may see it. Shapes as in `TrainingSite`."""

    x: Array = field(repr=False)
    y: Array = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrainingRound(AsDict):
    """One round: its number from 1, who took part, their examples, and the model's AUC after it."""

    number: int
    survivors: tuple[str, ...]
    weight: int
    auc: float


@dataclass(frozen=True, slots=True)
class Training(AsDict):
    """A federated training.

    rounds: one entry each; weights: float64[31] with the bias last, on the standardised features;
    scaler: float64[2, 30], mean and standard deviation in units of the public limits;
    moment_sites: the sites in the sum behind the scaler.
    """

    rounds: tuple[TrainingRound, ...]
    weights: Array
    scaler: Array
    moment_sites: tuple[str, ...]
    steps: Steps

    @property
    def auc(self) -> float:
        """AUC of the final model on the held-out set."""
        return self.rounds[-1].auc


def standardisation(moments: Array) -> Array:
    """float64[2, 30], mean and standard deviation, from the weighted mean of `moments` [60].

    ValueError if a feature has no variance beyond quantisation.
    """
    mean, square = moments.reshape(2, -1)
    variance = square - mean**2
    if np.any(variance <= MOMENT_RESOLUTION):
        raise ValueError("a feature is constant over the sites in the sum")
    return np.stack([mean, np.sqrt(variance)])


def train(
    sites: Mapping[str, TrainingSite],
    held_out: HeldOut,
    summation: Summation,
    *,
    rounds: int = 10,
    steps: Steps | None = None,
) -> Training:
    """Federated averaging through a secure sum: round "moments", then "training-1", ...

    A site that is lost in one round may return in the next, since each round is a sum of its own
    over another model. One sum of means and second moments standardises the features; it shows the
    cohort's feature means and variances, as any shared standardisation does. ValueError for no
    rounds.
    """
    if rounds < 1:
        raise ValueError("training takes at least one round")
    steps = steps or Steps()
    sizes = {name: site.weight for name, site in sites.items()}
    moments, first = summation.weighted_mean(
        {name: site.moments() for name, site in sites.items()},
        sizes,
        clip=1.0,
        resolution=MOMENT_RESOLUTION,
        max_weight=MAX_EXAMPLES,
        label="moments",
    )
    scaler = standardisation(moments)
    weights = np.zeros(scaler.shape[1] + 1)
    history = []
    for number in range(1, rounds + 1):
        mean, summed = summation.weighted_mean(
            {name: site.update(weights, scaler, steps) for name, site in sites.items()},
            sizes,
            clip=UPDATE_CLIP,
            resolution=UPDATE_RESOLUTION,
            max_weight=MAX_EXAMPLES,
            label=f"training-{number}",
            model=weights.tobytes(),
        )
        weights = weights + mean
        found = auc(scores(held_out, scaler, weights), held_out.y)
        history.append(TrainingRound(number, summed.survivors, summed.weight, found))
    return Training(tuple(history), weights, scaler, first.survivors, steps)


def scores(held_out: HeldOut, scaler: Array, weights: Array) -> Array:
    """float64[n]: log odds of "benign" that the model gives each held-out tumour."""
    score: Array = _design(held_out.x, scaler) @ weights
    return score


def log_loss(score: Array, y: Array) -> float:
    """Mean of -log p(y) over log odds score[n] and y[n] in {0, 1}; guessing gives log 2."""
    return float(np.logaddexp(0.0, np.where(y > 0.5, -score, score)).mean())


def auc(score: Array, y: Array) -> float:
    """Area under the ROC curve of score[n] for y[n] in {0, 1}: Mann-Whitney, ties count one half.

    ValueError unless both classes are present.
    """
    positive = y > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        raise ValueError("an AUC needs examples of both classes")
    _, place, tied = np.unique(score, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(tied) - (tied - 1) / 2
    above = float(mid_rank[place][positive].sum()) - ones * (ones + 1) / 2
    return above / (ones * zeros)


# --- Data and reference: the only functions that see pooled examples -----------------------------


def load_training(sites: int = 10, seed: int = 0) -> tuple[dict[str, TrainingSite], HeldOut]:
    """Split the data: 30 % held out, the rest over sites of different sizes, named site-00, ...

    `sites` is at most 50, so that each holds at least four examples; ValueError otherwise.
    """
    from sklearn.datasets import load_breast_cancer

    if not 1 <= sites <= 50:
        raise ValueError("the data are split over 1 to 50 sites")
    # A seeded generator is right here and nowhere near keys or masks: it only deals demonstration
    # data, and a run has to be repeatable.
    rng = np.random.default_rng(seed)
    data = load_breast_cancer()
    limits = np.array(
        [
            limit
            for name in data.feature_names
            for quantity, limit in FEATURE_LIMITS.items()
            if quantity in name
        ]
    )
    x, y = data.data / limits, data.target.astype(np.float64)
    order = rng.permutation(len(y))
    test, rest = order[: round(0.3 * len(y))], order[round(0.3 * len(y)) :]
    # Four examples each, then shares of the others in proportion to 1..3, so that sizes differ.
    share = rng.uniform(1.0, 3.0, sites)
    ends = 4 * np.arange(1, sites) + np.floor(
        (len(rest) - 4 * sites) * np.cumsum(share)[:-1] / share.sum()
    ).astype(np.int64)
    parts = np.split(rest, ends)
    dealt = {
        f"site-{i:02d}": TrainingSite(f"site-{i:02d}", x[p], y[p]) for i, p in enumerate(parts)
    }
    return dealt, HeldOut(x[test], y[test])


@dataclass(frozen=True, slots=True)
class TrainingReference(AsDict):
    """AUC of plain federated averaging after each round, of centralised training, and the gap.

    weights: float64[31] of plain averaging; gap: largest |AUC - plain AUC| over the rounds.
    """

    plain: tuple[float, ...]
    weights: Array
    centralised: float
    gap: float

    @property
    def agrees(self) -> bool:
        """Whether the AUC is within 0.002 of plain averaging after every round."""
        return self.gap <= 0.002


def reference(
    sites: Mapping[str, TrainingSite], held_out: HeldOut, result: Training
) -> TrainingReference:
    """The references of a result.

    Plain: FederatedAveraging of McMahan et al. (Algorithm 1) with the same sites, steps and clip in
    each round, in floating point, standardised by numpy on the pooled examples of the same sites.
    Centralised: scikit-learn's LogisticRegression on the pooled examples of *all* sites.
    """
    from sklearn.linear_model import LogisticRegression

    pooled = np.concatenate([sites[name].x for name in result.moment_sites])
    scaler = np.stack([pooled.mean(axis=0), pooled.std(axis=0)])
    weights, plain = np.zeros(scaler.shape[1] + 1), []
    for entry in result.rounds:
        taking = [sites[name] for name in entry.survivors]
        changes = [site.update(weights, scaler, result.steps) for site in taking]
        weights = weights + np.average(changes, axis=0, weights=[site.weight for site in taking])
        plain.append(auc(scores(held_out, scaler, weights), held_out.y))
    x, y = (np.concatenate([getattr(s, part) for s in sites.values()]) for part in ("x", "y"))
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(max_iter=1000).fit((x - mean) / deviation, y)
    central = auc(model.decision_function((held_out.x - mean) / deviation), held_out.y)
    gaps = [abs(a.auc - b) for a, b in zip(result.rounds, plain, strict=True)]
    return TrainingReference(tuple(plain), weights, central, max(gaps))
