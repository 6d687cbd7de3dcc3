"""Small federations for tests: a plan, party folders, a toy app, and a grid in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import secagg
from secagg.integrations.flower import InProcessGrid, SecAggConfig, SecAggGrid, secagg_mod
from secagg.integrations.folder import write_folders

NAMES = ["north", "south", "east", "west", "centre"]
CLIP = 8.0
LEVELS = 1 << 20
WEIGHTS = [100, 37, 250, 5, 60]


@dataclass
class World:
    """A federation: ``folders`` by party name; ``settings`` as of ``--node-config``."""

    plan: Any
    folders: dict[str, Path]
    names: list[str]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    inner: Any = None

    def grid(self, app, *, strategy=None, fault=None, record=False, **config):
        """A SecAggGrid over the app at every node."""
        self.inner = InProcessGrid(app, self.nodes, fault=fault, record=record)
        settings = SecAggConfig(folder=self.folders["server"], **config)
        return SecAggGrid(self.inner, settings, strategy=strategy)

    def plain(self, app):
        """The same nodes without secagg."""
        return InProcessGrid(app, self.nodes)


def make_plan(
    roster,
    length,
    *,
    threat="semi-honest",
    dropouts=1,
    max_weight=1000,
    clip=CLIP,
    **more,
):
    """A plan over a roster, with room for one dropout."""
    return secagg.Plan.recommend(
        roster,
        length=length,
        stages=(secagg.ClipL2(clip), secagg.Quantise(LEVELS)),
        threat=threat,
        colluding=1,
        max_dropouts=dropouts,
        max_weight=max_weight,
        **more,
    )


def make_world(
    parent, *, n=5, length=5, holders=(), shares=None, alter=None, evaluate=0, **options
):
    """A world of ``n`` sites. alter: changes the plan. evaluate: length of an evaluation plan."""
    names = NAMES[:n]
    roster, identities = secagg.Roster.generate(names, holders=list(holders))
    plan = make_plan(roster, length, **options)
    if alter is not None:
        plan = alter(plan)
    plans = {"evaluate": make_plan(roster, evaluate, **options)} if evaluate else None
    folders = write_folders(parent, plan, identities, shares=shares, plans=plans)
    nodes = [
        {"secagg": str(folders[name]), "partition-id": index}
        for index, name in enumerate([*names, *holders])
    ]
    return World(plan, folders, names, nodes)


def start_arrays(dtype=np.float64):
    """A small model: a matrix and a scalar, five coordinates."""
    return ArrayRecord(
        {
            "w": Array(np.arange(4, dtype=dtype).reshape(2, 2)),
            "b": Array(np.asarray(0.5, dtype=dtype)),
        }
    )


def step_of(number, size):
    """The update that node ``number`` makes, whatever the model."""
    return 0.3 * np.cos(1.3 * number + np.arange(size)) + 0.1 * number


def toy_app(mods=(secagg_mod,), *, train=None, evaluate_mods=None, metrics=(), score=None):
    """A ClientApp that adds a fixed step to the model; ``train`` and ``score`` replace what it
    does."""
    app = ClientApp()

    def toy(message, context):
        number = int(context.node_config["partition-id"])
        (record,) = message.content.array_records.values()
        (config,) = message.content.config_records.values()
        shrink = 1 / (1 + float(config.get("proximal-mu", 0.0)))
        out = {}
        for name, array in record.items():
            value = array.numpy()
            step = step_of(number, value.size).reshape(value.shape) * shrink
            out[name] = Array(np.asarray(value + step.astype(value.dtype)))
        values = {"num-examples": WEIGHTS[number], **dict.fromkeys(metrics, 0.1 + 0.1 * number)}
        content = RecordDict({"arrays": ArrayRecord(out), "metrics": MetricRecord(values)})
        return Message(content, reply_to=message)

    app.train(mods=list(mods))(train or toy)

    def toy_score(message, context):
        number = int(context.node_config["partition-id"])
        values = {"num-examples": WEIGHTS[number], "loss": 1.0 + number, "accuracy": 0.5}
        return Message(RecordDict({"metrics": MetricRecord(values)}), reply_to=message)

    app.evaluate(mods=list(mods if evaluate_mods is None else evaluate_mods))(score or toy_score)
    return app


def fed_avg(n=5, kind=FedAvg, **options):
    """A strategy for all ``n`` sites that does not evaluate."""
    given = {"fraction_evaluate": 0.0, "min_train_nodes": n, "min_available_nodes": n}
    return kind(**{**given, **options})


def values_of(result):
    """The arrays of a result, as one vector."""
    arrays = result.arrays if hasattr(result, "arrays") else result
    return np.concatenate([np.ravel(array.numpy()) for array in arrays.values()])


def level_bound(plan, weights, rounds=1):
    """By how much quantisation may move a coordinate of the mean: stochastic rounding moves a
    site's weighted coordinate by less than one level."""
    return rounds * len(weights) * plan.stages[0].clip / plan.stages[1].levels / sum(weights)
