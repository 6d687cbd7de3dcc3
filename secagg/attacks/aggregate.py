"""Attacks on what a sum reveals: no protocol that gives the server the sum can stop them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from .attack import Array, Attack, Evidence, Keys, Transcript

_NORMAL = NormalDist()


def alone(records: int, bins: int) -> float:
    """Records that are alone in their bin, of so many that fall into equally likely bins.

    Expected number m (1 - 1/k)^(m - 1) (Fowl et al., ICLR 2022, section 4.1).
    """
    return float(records * (1 - 1 / bins) ** (records - 1))


def membership_area(norm: float, spread: float) -> float:
    """Area under the ROC curve of the best test for an update of L2 ``norm`` in a sum whose other
    addends are normal with standard deviation ``spread`` in each coordinate: Phi(norm / (sqrt(2)
    spread)) (the likelihood ratio of two normal distributions)."""
    return _NORMAL.cdf(norm / (math.sqrt(2) * spread))


def private_area(epsilon: float, delta: float, points: int = 20_000) -> float:
    """Largest area under any ROC curve that (epsilon, delta) allows.

    The curve is min(e^epsilon x + delta, 1 - e^-epsilon (1 - delta - x)) (Kairouz, Oh, Viswanath,
    ICML 2015, section 2).
    """
    x = (np.arange(points) + 0.5) / points
    up = np.minimum(math.exp(epsilon) * x + delta, 1 - math.exp(-epsilon) * (1 - delta - x))
    return float(np.clip(up, 0.0, 1.0).mean())


class Imprint(Attack):
    """Bins of a crafted layer: a record that is alone in its bin is the difference of two rows."""

    number = 14
    id = "imprint"
    title = "Imprinting a crafted layer"
    source = "Fowl et al., Robbing the Fed, ICLR 2022, section 4; Zhao et al. (LOKI), S&P 2024"
    adversary = "malicious server that broadcasts the same crafted model to all"
    sees = "the model it made, and the sum of the sites' gradients"
    tests = ("client.model-allowed", "feature: distributed noise")
    law = "m records in k equally likely bins: m (1 - 1/k)^(m - 1) are alone and recovered"
    remedy = (
        "Let each site list the models it takes part with (a policy file), or add noise. The sum "
        "protocol does not look into models."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Differences of neighbouring rows, divided by those of their biases."""
        weights, biases = transcript.arrays["weights"], transcript.arrays["biases"]
        floor = float(transcript.public["resolution"])
        rows = np.vstack([weights, np.zeros((1, weights.shape[1]))])
        ends = np.append(biases, 0.0)
        steps, shares = rows[:-1] - rows[1:], ends[:-1] - ends[1:]
        # Sums of rounding errors reach a few steps, so smaller differences are an empty bin.
        hit = np.flatnonzero(np.abs(shares) > floor)
        return Evidence(arrays={"bins": hit, "records": steps[hit] / shares[hit, None]})


class Membership(Attack):
    """Whether a known update is in the sum: its inner product with the sum."""

    number = 15
    id = "membership"
    title = "Membership inference on the sum"
    source = "Ngo et al., ECML PKDD 2024; law by the likelihood ratio of two normal distributions"
    adversary = "semi-honest server, or anybody who gets the sum"
    sees = "the sums, and the update whose presence it asks about"
    tests = ("feature: distributed noise",)
    law = "AUC = Phi(|update| / (sqrt(2) s)), s of the other addends and the noise; with noise at "
    law += "most what (epsilon, delta) allows"
    remedy = "Add distributed noise, take more sites, and publish fewer coordinates."

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """A score for each sum."""
        scores = transcript.arrays["sums"] @ transcript.arrays["update"]
        return Evidence(arrays={"scores": scores.astype(np.float64)})


class SparseCoordinates(Attack):
    """Coordinates to which one site alone contributes are that site's values."""

    number = 17
    id = "sparse-coordinates"
    title = "Coordinates of a single contributor"
    source = "arXiv 2508.04285; rare counts as in small-cell disclosure control"
    adversary = "semi-honest server, or anybody who gets the sum"
    sees = "sums of counts"
    tests = ("feature: distributed noise",)
    law = "n sites, each non-zero with chance p: n p (1 - p)^(n - 1) of the coordinates"
    remedy = (
        "Publish a count only if several sites contribute to it, use coarser categories, or add "
        "noise."
    )

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """A sum of counts that is one has one contributor: it claims those coordinates.

        Under noise of a known spread it claims those that are nearest to one.
        """
        total: Array = transcript.arrays["sum"]
        reach = max(0.5, transcript.public["spread"] / 4)
        return Evidence(arrays={"claimed": np.flatnonzero(np.abs(total - 1) < reach)})


__all__ = [
    "Imprint",
    "Membership",
    "SparseCoordinates",
    "alone",
    "membership_area",
    "private_area",
]
