"""The server's end. ``SecAggGrid`` is the one line that secure aggregation adds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from secagg.integrations.flower import SecAggConfig, SecAggGrid

from . import task

PLAIN = os.environ.get("HOSPITALS_PLAIN") == "1"
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Federated averaging over all hospitals."""
    settings = context.run_config
    sites, rounds = int(settings["sites"]), int(settings["rounds"])
    if not PLAIN:
        config = SecAggConfig(
            folder=str(settings["folder"]),
            metrics={"train-loss": 2.0},
            timeout=float(settings["timeout"]),
            run_config=settings,
        )
        grid = SecAggGrid(grid, config)
    # At least three have to be there; a round goes on while the plan bears who is missing.
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({k: Array(v) for k, v in task.initial().items()}),
        num_rounds=rounds,
        train_config=ConfigRecord({"sites": sites}),
        timeout=float(settings["timeout"]),
    )
    out = Path(str(settings["out"]))
    np.savez(out / "model.npz", **{k: v.numpy() for k, v in result.arrays.items()})
    losses = {n: dict(record) for n, record in result.train_metrics_clientapp.items()}
    reports = [report.to_dict() for report in getattr(grid, "reports", [])]
    (out / "run.json").write_text(json.dumps({"losses": losses, "rounds": reports}, indent=1))
