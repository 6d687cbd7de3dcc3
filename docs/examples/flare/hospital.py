"""The data of a hospital, and the training on it. Nothing here knows of FLARE or secagg."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

STEPS, RATE = 20, 0.5
#: Largest value of each feature, from the description that comes with the data: a public scale,
#: since nobody may look at all patients at once.
# fmt: off
LARGEST = np.array([
    28.11, 39.28, 188.5, 2501, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097,
    2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03,
    36.04, 49.54, 251.2, 4254, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208,
])
# fmt: on
Model = dict[str, Any]


def initial() -> Model:
    """A model that knows nothing: 30 weights and a bias."""
    return {"weights": np.zeros(30), "bias": np.zeros(())}


def hospital(number: int, sites: int) -> tuple[Any, Any]:
    """Features and labels of the patients of one hospital; no patient is at two."""
    data = load_breast_cancer()
    mine = np.random.default_rng(7).permutation(len(data.target)) % sites == number
    return data.data[mine] / LARGEST - 0.4, data.target[mine].astype(float)


def train(model: Model, x: Any, y: Any) -> tuple[Model, float]:
    """Gradient steps from a model; the new model and its log-loss."""
    weights, bias = model["weights"].copy(), model["bias"].copy()
    for _ in range(STEPS):
        gap = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        weights -= RATE * (x.T @ gap) / len(y)
        bias = bias - RATE * gap.mean()
    return {"weights": weights, "bias": np.asarray(bias)}, loss(
        {"weights": weights, "bias": bias}, x, y
    )


def loss(model: Model, x: Any, y: Any) -> float:
    """Mean log-loss."""
    score = x @ model["weights"] + model["bias"]
    return float(np.mean(np.logaddexp(0, score) - y * score))


def accuracy(model: Model, x: Any, y: Any) -> float:
    """Part of the patients that the model gets right."""
    return float(np.mean((x @ model["weights"] + model["bias"] > 0) == (y > 0.5)))
