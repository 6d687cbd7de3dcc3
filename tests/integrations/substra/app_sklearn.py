"""The same by scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from integrations.substra.app import FEATURES
from sklearn.linear_model import SGDClassifier
from substrafl.algorithms.algo import Algo
from substrafl.remote import remote_data
from substrafl.strategies.schemas import FedAvgSharedState, StrategyName


class SklearnAlgo(Algo):
    """``SGDClassifier.partial_fit``, its coefficients averaged."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.fit = SGDClassifier(
            loss="log_loss", learning_rate="constant", eta0=0.02, random_state=seed, shuffle=False
        )
        self.fit.coef_, self.fit.intercept_ = np.zeros((1, FEATURES)), np.zeros(1)
        self.fit.classes_, self.fit.t_ = np.array([0, 1]), 1.0
        self.base = [self.fit.coef_.copy(), self.fit.intercept_.copy()]

    model = property(lambda self: self.fit)
    strategies = property(lambda self: [StrategyName.FEDERATED_AVERAGING])

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> FedAvgSharedState:
        if shared_state is not None:
            moves = shared_state.avg_parameters_update
            self.base = [a + m for a, m in zip(self.base, moves, strict=True)]
        self.fit.coef_, self.fit.intercept_ = (array.copy() for array in self.base)
        for _ in range(3):
            self.fit.partial_fit(data_from_opener["x"], data_from_opener["y"], classes=[0, 1])
        new = [self.fit.coef_, self.fit.intercept_]
        update = [a - b for a, b in zip(new, self.base, strict=True)]
        return FedAvgSharedState(n_samples=len(data_from_opener["y"]), parameters_update=update)

    def predict(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        return self.fit.predict_proba(data_from_opener["x"])[:, 1]

    def save_local_state(self, path: Path) -> None:
        new = [self.fit.coef_, self.fit.intercept_]
        state = [array.tolist() for array in (*new, *self.base)] + [self.fit.t_]
        Path(path).write_text(json.dumps(state))

    def load_local_state(self, path: Path) -> Any:
        *found, self.fit.t_ = json.loads(Path(path).read_text())
        self.fit.coef_, self.fit.intercept_, *self.base = map(np.array, found)
        return self
