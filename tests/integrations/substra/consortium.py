"""Three organisations: clients, data, parties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import substra
from integrations.substra.app import FEATURES
from substrafl.evaluation_strategy import EvaluationStrategy
from substrafl.nodes import AggregationNode, TestDataNode, TrainDataNode

import secagg
from secagg.integrations.folder import write_folders
from secagg.integrations.substra import PARTY_FILE, SecAggFedAvg

SIZES = (40, 55, 70)
OPENER = """
import numpy as np
import substratools as tools
from pathlib import Path
from secagg.integrations.substra import with_party

class Opener(tools.Opener):
    def get_data(self, folders):
        found = [np.load(Path(folder) / "data.npz") for folder in folders]
        x = np.concatenate([part["x"] for part in found])
        y = np.concatenate([part["y"] for part in found])
        return with_party(folders, {"x": x, "y": y})

    def fake_data(self, n_samples=None):
        return {"x": np.zeros((4, 6)), "y": np.array([0, 1, 0, 1])}
"""


class Consortium:
    """Clients, data and parties of three organisations below ``root``, the current folder."""

    def __init__(self, root: Path, **plan: Any) -> None:
        self.root = root
        self.clients = [substra.Client(backend_type="subprocess") for _ in SIZES]
        self.orgs = [client.organization_info().organization_id for client in self.clients]
        roster, self.identities = secagg.Roster.generate(["north", "south", "west"])
        fields: dict[str, Any] = {
            "length": FEATURES + 1,
            "stages": (secagg.ClipL2(8.0), secagg.Quantise(1 << 20)),
            "threat": "malicious-server",
            "colluding": 1,
            "max_dropouts": 0,
            "max_weight": 100,
            "min_honest": 2,
        }
        self.plan = secagg.Plan.recommend(roster, **{**fields, **plan})
        self.folders = write_folders(root / "parties", self.plan, self.identities)
        self.names = list(roster.names)
        self.data = [self._sample(number, size) for number, size in enumerate(SIZES)]
        self.train, self.tests = self._nodes(party=True)
        self.plain_train, self.plain_tests = self._nodes(party=False)

    def _nodes(self, *, party: bool) -> tuple[list[TrainDataNode], list[TestDataNode]]:
        train, tests = [], []
        for number, org in enumerate(self.orgs):
            keys = self._register(number, party)
            train.append(TrainDataNode(org, keys[0], [keys[1]]))
            tests.append(TestDataNode(org, keys[0], [keys[1]]))
        return train, tests

    def _sample(self, number: int, size: int) -> dict[str, Any]:
        rng = np.random.default_rng(number)
        x = rng.normal(size=(size, FEATURES))
        truth = np.linspace(-2, 2, FEATURES)
        y = (x @ truth + rng.normal(size=size) > 0.3 * number).astype(int)
        return {"x": x, "y": y}

    def _register(self, number: int, party: bool) -> tuple[str, str]:
        client, name = self.clients[number], self.names[number]
        folder = self.root / f"sample-{name}-{party}"
        folder.mkdir()
        np.savez(folder / "data.npz", **self.data[number])
        if party:
            (folder / PARTY_FILE).write_text(f"{self.folders[name]}\n")
        opener = self.root / "opener.py"
        opener.write_text(OPENER)
        (self.root / "description.md").write_text("# data\n")
        nobody = substra.schemas.Permissions(public=False, authorized_ids=self.orgs)
        manager = client.add_dataset(
            substra.schemas.DatasetSpec(
                name=name,
                data_opener=opener,
                description=self.root / "description.md",
                permissions=nobody,
                logs_permission=nobody,
            )
        )
        sample = client.add_data_sample(
            substra.schemas.DataSampleSpec(data_manager_keys=[manager], path=folder), local=True
        )
        return manager, sample

    @property
    def server(self) -> AggregationNode:
        return AggregationNode(self.orgs[0])

    def arguments(self, strategy: Any, rounds: int) -> dict[str, Any]:
        """Of ``simulate_experiment`` and ``execute_experiment``."""
        secure = isinstance(strategy, SecAggFedAvg)
        tests = self.tests if secure else self.plain_tests
        return {
            "client": self.clients[0],
            "strategy": strategy,
            "train_data_nodes": self.train if secure else self.plain_train,
            "aggregation_node": self.server,
            "evaluation_strategy": EvaluationStrategy(test_data_nodes=tests, eval_frequency=1),
            "num_rounds": rounds,
            "experiment_folder": self.root / "experiments",
        }
