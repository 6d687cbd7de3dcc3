"""Five hospitals train a logistic regression on breast-cancer data under Substra.

    python docs/examples/substra/run.py              with secure sums, compared with without
    python docs/examples/substra/run.py --plain      without
    python docs/examples/substra/run.py --processes  every task a process, as on the platform

Everything is on this machine, in a temporary folder: Substra's local backend, its five
organisations, and a party folder for each of them.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

import secagg
from secagg.integrations.folder import write_folders

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # substrafl imports distutils
    import substra
    from substrafl.algorithms.algo import Algo
    from substrafl.dependency import Dependency
    from substrafl.evaluation_strategy import EvaluationStrategy
    from substrafl.experiment import execute_experiment, simulate_experiment
    from substrafl.nodes import AggregationNode, TestDataNode, TrainDataNode
    from substrafl.remote import remote_data
    from substrafl.strategies import FedAvg
    from substrafl.strategies.schemas import FedAvgSharedState, StrategyName

    from secagg.integrations.substra import PARTY_FILE, SecAggAlgo, SecAggFedAvg

HOSPITALS = ["amiens", "bergen", "cork", "delft", "evora"]
ROUNDS = 5
RATE, STEPS = 0.3, 4
CLIP, LEVELS = 4.0, 1 << 20

#: What the platform runs at a hospital to read its data. The last line is what secagg asks for.
OPENER = """
import numpy as np
import substratools as tools
from pathlib import Path
from secagg.integrations.substra import with_party

class Opener(tools.Opener):
    def get_data(self, folders):
        with np.load(Path(folders[0]) / "data.npz") as found:
            return with_party(folders, {"x": found["x"], "y": found["y"]})

    def fake_data(self, n_samples=None):
        return {"x": np.zeros((4, 30)), "y": np.array([0, 1, 0, 1])}
"""


class LogisticRegression(Algo):
    """An ordinary algorithm of substrafl: nothing in it knows of secure sums."""

    def __init__(self, features: int) -> None:
        super().__init__(features=features)
        self.weights, self.base = np.zeros(features + 1), np.zeros(features + 1)

    @property
    def model(self) -> Any:
        return self.weights

    @property
    def strategies(self) -> list[Any]:
        return [StrategyName.FEDERATED_AVERAGING]

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> FedAvgSharedState:
        x, y = data_from_opener["x"], data_from_opener["y"]
        if shared_state is not None:
            self.base = self.base + shared_state.avg_parameters_update[0]
        self.weights = self.base.copy()
        for _ in range(STEPS):
            error = 1 / (1 + np.exp(-(x @ self.weights[1:] + self.weights[0]))) - y
            self.weights -= RATE * np.append(error.mean(), x.T @ error / len(y))
        return FedAvgSharedState(n_samples=len(y), parameters_update=[self.weights - self.base])

    def predict(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        return 1 / (1 + np.exp(-(data_from_opener["x"] @ self.weights[1:] + self.weights[0])))

    def save_local_state(self, path: Path) -> None:
        with Path(path).open("wb") as file:
            np.save(file, np.stack([self.weights, self.base]))

    def load_local_state(self, path: Path) -> Any:
        with Path(path).open("rb") as file:
            self.weights, self.base = np.load(file)
        return self


def log_loss(data_from_opener: Any, predictions: Any) -> float:
    y, p = data_from_opener["y"], np.clip(predictions, 1e-9, 1 - 1e-9)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def accuracy(data_from_opener: Any, predictions: Any) -> float:
    return float(np.mean((predictions > 0.5) == data_from_opener["y"]))


def hospitals() -> list[tuple[Any, Any]]:
    """The rows of each hospital, of different numbers."""
    found = load_breast_cancer()
    # In a real study the scale of a feature is agreed beforehand.
    x = (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    order = np.random.default_rng(7).permutation(len(x))
    parts = np.split(order, [70, 170, 290, 430])
    return [(x[part], found.target[part]) for part in parts]


def register(
    root: Path, data: list[tuple[Any, Any]], folders: dict[str, Path] | None
) -> tuple[Any, list[Any], list[Any]]:
    """Clients, train nodes and test nodes; with ``folders`` every sample names its party's."""
    clients = [substra.Client(backend_type="subprocess") for _ in HOSPITALS]
    orgs = [client.organization_info().organization_id for client in clients]
    permissions = substra.schemas.Permissions(public=False, authorized_ids=orgs)
    (root / "opener.py").write_text(OPENER)
    (root / "about.md").write_text("# Breast cancer\n")
    train, test = [], []
    for client, org, name, (x, y) in zip(clients, orgs, HOSPITALS, data, strict=True):
        sample = root / ("plain" if folders is None else "secure") / name
        sample.mkdir(parents=True)
        np.savez(sample / "data.npz", x=x, y=y)
        if folders is not None:
            (sample / PARTY_FILE).write_text(f"{folders[name]}\n")
        dataset = substra.schemas.DatasetSpec(
            name=name,
            data_opener=root / "opener.py",
            description=root / "about.md",
            permissions=permissions,
            logs_permission=substra.schemas.Permissions(public=False, authorized_ids=[org]),
        )
        manager = client.add_dataset(dataset)
        spec = substra.schemas.DataSampleSpec(data_manager_keys=[manager], path=sample)
        key = client.add_data_sample(spec, local=True)
        train.append(TrainDataNode(org, manager, [key]))
        test.append(TestDataNode(org, manager, [key]))
    return clients, train, test


def run(root: Path, strategy: Any, nodes: tuple[Any, list[Any], list[Any]], processes: bool) -> Any:
    """Losses and accuracies after the last round, weighted by rows, and the seconds."""
    clients, train, test = nodes
    arguments: dict[str, Any] = {
        "client": clients[0],
        "strategy": strategy,
        "train_data_nodes": train,
        "aggregation_node": AggregationNode(train[0].organization_id),
        "evaluation_strategy": EvaluationStrategy(test_data_nodes=test, eval_rounds=[ROUNDS]),
        "num_rounds": ROUNDS,
        "experiment_folder": root / "experiments",
    }
    began = time.perf_counter()
    tasks = ""
    if processes:
        plan = execute_experiment(**arguments, dependencies=Dependency())
        found, tasks = clients[0].get_performances(plan.key), f"{plan.done_count} tasks, "
    else:
        found, _, _ = simulate_experiment(**arguments)
    print(f"  {tasks}{time.perf_counter() - began:.1f} s")
    rows = dict(zip((node.organization_id for node in test), ROWS, strict=True))
    mean = {
        metric: sum(
            rows[worker] * value
            for worker, name, value in zip(
                found.worker, found.identifier, found.performance, strict=True
            )
            if name == metric
        )
        / sum(ROWS)
        for metric in ("log_loss", "accuracy")
    }
    print(f"  log-loss {mean['log_loss']:.6f}, accuracy {mean['accuracy']:.4f}")
    return mean


def loss_bound(data: list[tuple[Any, Any]], length: int) -> float:
    """How far quantisation can move the log-loss.

    A mean is off by at most a level a site, over the total weight, in every coordinate. Descent
    steps of this rate bring two models no further apart, so that the errors of the rounds add up;
    and a log-loss moves by at most the mean norm of a row times the error of the model.
    """
    error = len(data) * CLIP / LEVELS / sum(ROWS) * np.sqrt(length)
    rows = np.concatenate([x for x, _ in data])
    return float(ROUNDS * error * np.sqrt((rows**2).sum(axis=1) + 1).mean())


DATA = hospitals()
ROWS = [len(y) for _, y in DATA]


def main() -> None:
    parser = argparse.ArgumentParser(description="Secure sums under Substra")
    parser.add_argument("--plain", action="store_true", help="without secure sums only")
    parser.add_argument("--processes", action="store_true", help="a process for every task")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    features = DATA[0][0].shape[1]
    metrics = [log_loss, accuracy]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the local backend keeps its files in the current folder
        root = Path(folder)
        print(f"{len(DATA)} hospitals, {ROUNDS} rounds, {sum(ROWS)} patients")
        print("without secagg: the aggregation node sees every hospital's model")
        plain = FedAvg(algo=LogisticRegression(features), metric_functions=metrics)
        without = run(root, plain, register(root, DATA, None), options.processes)
        if options.plain:
            os.chdir("/")
            return

        # What the consortium agrees on, once. Each hospital makes its own folder in a real one.
        roster, identities = secagg.Roster.generate(HOSPITALS)
        plan = secagg.Plan.recommend(
            roster,
            length=features + 1,
            stages=(secagg.ClipL2(CLIP), secagg.Quantise(LEVELS)),
            threat="malicious-server",
            colluding=1,
            max_dropouts=0,
            max_weight=200,
        )
        folders = write_folders(root / "parties", plan, identities)

        print(f"with secagg: secure sums of {plan.clients} hospitals, threat {plan.threat}")
        secure = SecAggFedAvg(
            algo=SecAggAlgo(LogisticRegression(features)),
            plan=plan,
            identity=identities["server"],
            num_rounds=ROUNDS,
            metric_functions=metrics,
        )
        with_it = run(root, secure, register(root, DATA, folders), options.processes)
        difference = abs(with_it["log_loss"] - without["log_loss"])
        bound = loss_bound(DATA, plan.length)
        print(f"log-losses differ by {difference:.1e}; quantisation may move them by {bound:.1e}")
        os.chdir("/")
        if difference > bound:
            raise SystemExit("the difference is above its bound")


if __name__ == "__main__":
    main()
