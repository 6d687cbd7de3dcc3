"""Five hospitals train a logistic regression on breast-cancer data under declearn.

    python docs/examples/declearn/run.py              with secure sums, compared with without
    python docs/examples/declearn/run.py --plain      without
    python docs/examples/declearn/run.py --processes  every hospital a process of its own

Everything is on this machine: declearn's server and clients talk over websockets on 127.0.0.1, and
every party has a folder below a temporary one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import socket
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
    warnings.simplefilter("ignore")  # declearn's websockets are the legacy ones
    from declearn.communication.websockets import WebsocketsClient, WebsocketsServer
    from declearn.dataset import InMemoryDataset
    from declearn.main import FederatedClient, FederatedServer
    from declearn.main.config import FLRunConfig
    from declearn.metrics import MetricSet
    from declearn.model.sklearn import SklearnSGDModel

    from secagg.integrations.declearn import SecAggServer, SecAggSite

HOSPITALS = ["amiens", "bergen", "cork", "delft", "evora"]
ROUNDS, BATCH, RATE = 5, 16, 0.05
#: No weighted coordinate and no number of a metric is beyond the clip; a level is 2^-30.
CLIP, LEVELS = float(1 << 20), 1 << 50


def data() -> tuple[Any, Any, list[Any]]:
    """Standardised records, labels, and which of them each hospital has."""
    loaded = load_breast_cancer()
    x = (loaded.data - loaded.data.mean(axis=0)) / loaded.data.std(axis=0)
    order = np.random.default_rng(7).permutation(len(x))
    return x, loaded.target, np.array_split(order, len(HOSPITALS))


def make_server(port: int, folder: Path | None) -> FederatedServer:
    return FederatedServer(
        model=SklearnSGDModel.from_parameters(
            kind="classifier", loss="log_loss", penalty="l2", alpha=0.001
        ),
        netwk=WebsocketsServer(host="127.0.0.1", port=port, heartbeat=0.01),
        optim={"aggregator": "averaging", "client_opt": RATE, "server_opt": 1.0},
        metrics=MetricSet.from_specs(["binary-classif"]),
        secagg=None if folder is None else SecAggServer(folder),
    )


def make_client(name: str, port: int, folder: Path | None) -> FederatedClient:
    x, y, parts = data()
    mine = parts[HOSPITALS.index(name)]
    return FederatedClient(
        netwk=WebsocketsClient(server_uri=f"ws://127.0.0.1:{port}", name=name),
        train_data=InMemoryDataset(x[mine], y[mine], expose_classes=True),
        secagg=None if folder is None else SecAggSite(folder),
        verbose=False,
    )


def config() -> FLRunConfig:
    count = len(HOSPITALS)
    return FLRunConfig.from_params(
        rounds=ROUNDS,
        register={"min_clients": count, "max_clients": count, "timeout": 120},
        training={"n_epoch": 1, "batch_size": BATCH},
        evaluate={"batch_size": 64},
    )


def run_client(name: str, port: int, folder: Path | None) -> None:
    """What a hospital runs. It connects as soon as the server listens."""
    quiet()
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    make_client(name, port, folder).run()


def train(folders: dict[str, Path], *, processes: bool) -> Any:
    """One training; returns the final coefficients."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = make_server(port, folders.get("server"))
    if processes:
        context = multiprocessing.get_context("spawn")
        started = [
            context.Process(target=run_client, args=(name, port, folders.get(name)))
            for name in HOSPITALS
        ]
        for process in started:
            process.start()
        server.run(config())
        for process in started:
            process.join()
    else:
        clients = [make_client(name, port, folders.get(name)) for name in HOSPITALS]
        asyncio.run(together(server, clients))
    return server.model.get_weights(trainable=True).coefs


async def together(server: FederatedServer, clients: list[FederatedClient]) -> None:
    """All parties in one process. An error of any of them ends the program."""
    first = asyncio.create_task(server.async_run(config()))
    await asyncio.sleep(0.1)
    await asyncio.gather(first, *(client.async_run() for client in clients))


def make_folders(parent: Path) -> tuple[secagg.Plan, dict[str, Path]]:
    """A party folder each. In a deployment every party makes its own."""
    roster, identities = secagg.Roster.generate(HOSPITALS)
    plan = secagg.Plan.recommend(
        roster,
        length=31,
        stages=(secagg.ClipLinf(CLIP), secagg.Quantise(LEVELS, rounding="nearest")),
        threat="malicious-server",
        colluding=1,
        max_dropouts=0,
    )
    return plan, write_folders(parent, plan, identities)


def report(name: str, coefs: Any, seconds: float) -> None:
    x, y, _ = data()
    score = x @ coefs["coef"].ravel() + coefs["intercept"].ravel()[0]
    loss = float(np.mean(np.logaddexp(0.0, np.where(y == 1, -score, score))))
    accuracy = float(np.mean((score > 0) == (y == 1)))
    print(f"{name}: accuracy {accuracy:.4f}, log-loss {loss:.6f}, {seconds:.1f} s")


def quiet() -> None:
    """declearn reports every message; a program of a few lines says less."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plain", action="store_true", help="without secure sums")
    parser.add_argument("--processes", action="store_true", help="a process for each hospital")
    options = parser.parse_args()
    quiet()
    x, _, parts = data()
    print(f"{len(parts)} hospitals, {ROUNDS} rounds, {len(x)} patients")
    print("without secagg the server sees every hospital's update")
    begin = time.perf_counter()
    plain = train({}, processes=options.processes)
    report("without secagg", plain, time.perf_counter() - begin)
    if options.plain:
        return
    with tempfile.TemporaryDirectory() as parent:
        plan, folders = make_folders(Path(parent) / "parties")
        begin = time.perf_counter()
        safe = train(folders, processes=options.processes)
        report("with secagg   ", safe, time.perf_counter() - begin)
    print(f"secure sums of {plan.clients} hospitals, threat {plan.threat}")
    # The error of one round's mean: half a level of each site, over the steps that were taken.
    # Rounds add up and do not amplify, since a step of this size contracts.
    steps = sum(len(part) // BATCH for part in parts)
    bound = ROUNDS * plan.clients * 0.5 * CLIP / LEVELS / steps
    off = max(float(np.abs(plain[name] - safe[name]).max()) for name in plain)
    print(f"largest difference of a coefficient {off:.1e}, bound {bound:.1e}")
    if off > bound:
        raise SystemExit("the difference is beyond the bound")


if __name__ == "__main__":
    main()
