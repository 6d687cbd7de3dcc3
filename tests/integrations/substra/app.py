"""Algorithms of a small experiment: logistic regression by numpy.

In a module of its own, because tasks in processes of their own import it by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from substrafl.algorithms.algo import Algo
from substrafl.remote import remote_data
from substrafl.strategies.schemas import FedAvgSharedState, StrategyName

FEATURES = 6


def log_loss(data_from_opener: Any, predictions: Any) -> float:
    y, p = data_from_opener["y"], np.clip(predictions, 1e-9, 1 - 1e-9)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


class NumpyAlgo(Algo):
    """Gradient descent; a matrix of float32 and a vector of float64."""

    def __init__(self, rate: float = 0.5, steps: int = 5) -> None:
        super().__init__(rate=rate, steps=steps)
        self.rate, self.steps = rate, steps
        self.arrays = [np.zeros((2, FEATURES // 2), np.float32), np.zeros(1)]

    @property
    def model(self) -> Any:
        return self.arrays

    @property
    def strategies(self) -> list[Any]:
        return [StrategyName.FEDERATED_AVERAGING]

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> FedAvgSharedState:
        x, y = data_from_opener["x"], data_from_opener["y"]
        if shared_state is not None:
            moves = shared_state.avg_parameters_update
            assert [m.dtype for m in moves] == [a.dtype for a in self.arrays]
            assert [m.shape for m in moves] == [a.shape for a in self.arrays]
            self.arrays = [a + m for a, m in zip(self.base, moves, strict=True)]
        self.base = [array.copy() for array in self.arrays]
        weights, shift = self.arrays[0].ravel().astype(float), float(self.arrays[1][0])
        for _ in range(self.steps):
            error = 1 / (1 + np.exp(-(x @ weights + shift))) - y
            weights = weights - self.rate * (x.T @ error) / len(y)
            shift -= self.rate * float(error.mean())
        self.arrays = [weights.reshape(2, -1).astype(np.float32), np.array([shift])]
        update = [new - old for new, old in zip(self.arrays, self.base, strict=True)]
        return FedAvgSharedState(n_samples=len(y), parameters_update=update)

    def predict(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        weights, shift = self.arrays
        return 1 / (1 + np.exp(-(data_from_opener["x"] @ weights.ravel() + shift[0])))

    def save_local_state(self, path: Path) -> None:
        base = getattr(self, "base", self.arrays)
        with Path(path).open("wb") as file:
            np.savez(file, a=self.arrays[0], b=self.arrays[1], c=base[0], d=base[1])

    def load_local_state(self, path: Path) -> Any:
        with np.load(path) as found:
            self.arrays, self.base = [found["a"], found["b"]], [found["c"], found["d"]]
        return self
