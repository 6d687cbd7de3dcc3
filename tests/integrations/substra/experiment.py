"""An experiment of three sites on the platform of :mod:`integrations.substra.platform`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integrations.substra.app import FEATURES, NumpyAlgo
from integrations.substra.platform import Platform, ServerNode, SiteNode, Task

import secagg
from secagg.integrations.folder import write_folders
from secagg.integrations.substra import PartyData, SecAggAlgo, SecAggFedAvg

NAMES = ("north", "south", "west")
SERVER = "aggregation"
SIZES = (40, 55, 70)


class Experiment:
    """Three sites, an aggregation node that is none of them, two rounds."""

    def __init__(
        self,
        root: Path,
        rounds: int = 2,
        *,
        policy: str | None = None,
        propose: bool = False,
        alter: Callable[[secagg.Plan], secagg.Plan] = lambda plan: plan,
        **plan: Any,
    ) -> None:
        roster, self.identities = secagg.Roster.generate(list(NAMES))
        fields: dict[str, Any] = {
            "length": FEATURES + 1,
            "stages": (secagg.ClipL2(8.0), secagg.Quantise(1 << 20)),
            "threat": "malicious-server",
            "colluding": 1,
            "max_dropouts": 0,
            "max_weight": 100,
            "min_honest": 2,
        }
        self.plan = alter(secagg.Plan.recommend(roster, **{**fields, **plan}))
        self.folders = write_folders(
            root / "parties", self.plan, self.identities, policy=policy, propose=propose
        )
        self.platform = Platform(root)
        self.data = []
        for number, size in enumerate(SIZES):
            rng = np.random.default_rng(number)
            x = rng.normal(size=(size, FEATURES))
            self.data.append({"x": x, "y": (x.sum(axis=1) > 0).astype(int)})
        self.nodes = [
            SiteNode(self.platform, f"org-{name}", PartyData(data, self.folders[name]))
            for name, data in zip(NAMES, self.data, strict=True)
        ]
        self.rounds = rounds
        self.strategy = self.made()

    def made(self, **more: Any) -> SecAggFedAvg:
        fields: dict[str, Any] = {
            "algo": SecAggAlgo(NumpyAlgo()),
            "plan": self.plan,
            "identity": self.identities["server"],
            "num_rounds": self.rounds,
        }
        return SecAggFedAvg(**{**fields, **more})

    def run(self, tamper: Callable[[Task], None] = lambda task: None) -> None:
        self.platform.tamper = tamper
        self.strategy.build_compute_plan(
            train_data_nodes=self.nodes,
            aggregation_node=ServerNode(self.platform, SERVER),
            evaluation_strategy=None,
            num_rounds=self.rounds,
        )

    def tasks(self, method: str, site: str = "") -> list[Task]:
        return [
            task
            for task in self.platform.tasks
            if task.method == method and site in {"", task.organisation.removeprefix("org-")}
        ]

    def final(self, site: str) -> list[Any]:
        """The site's model after its last training."""
        local = self.tasks("secagg_train", site)[-1].local
        assert local is not None
        algo = SecAggAlgo(NumpyAlgo()).load_local_state(self.platform.path(local))
        return list(algo.model)


def plain_updates(experiment: Experiment) -> list[list[Any]]:
    """What each site's first update is, in the clear."""
    found = []
    for data in experiment.data:
        state = NumpyAlgo().train(data_from_opener=data, _skip=True)
        found.append(state.parameters_update)
    return found


def out(experiment: Experiment, tamper: Callable[[Task], None], rule: str) -> None:
    with pytest.raises(secagg.SecAggError) as caught:
        experiment.run(tamper)
    assert caught.value.rule == rule
