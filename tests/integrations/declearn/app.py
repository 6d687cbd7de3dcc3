"""A small declearn app on the breast-cancer data: real server, clients and websockets; and the
same parties without a network, for tests of the numbers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from declearn.communication.websockets import WebsocketsClient, WebsocketsServer
from declearn.dataset import InMemoryDataset
from declearn.main import FederatedClient, FederatedServer
from declearn.metrics import MetricSet
from declearn.model.sklearn import SklearnSGDModel
from sklearn.datasets import load_breast_cancer

import secagg
from secagg.integrations.declearn import agreement
from secagg.integrations.declearn.decrypter import ZeroSumDecrypter
from secagg.integrations.declearn.encrypter import ZeroSumEncrypter
from secagg.integrations.declearn.limits import Limits
from secagg.integrations.declearn.ring import Ring
from secagg.integrations.declearn.view import View
from secagg.integrations.folder import PartyFolder, write_folders

NAMES = ("north", "south", "east", "west")
LENGTH = 31
#: Wide enough for metrics; a level is 2^-30.
STAGES = (secagg.ClipLinf(float(1 << 20)), secagg.Quantise(1 << 50, rounding="nearest"))


def make_plan(names=NAMES, **changes: Any):
    """A plan over fresh identities."""
    roster, identities = secagg.Roster.generate(names)
    options: dict[str, Any] = {
        "length": LENGTH,
        "stages": STAGES,
        "threat": "malicious-server",
        "colluding": 1,
        "max_dropouts": 0,
        "min_honest": 2,
        "max_inputs_per_model": 1000,
        **changes,
    }
    return secagg.Plan.recommend(roster, **options), identities


def make_folders(parent: Path, names=NAMES, **changes: Any):
    plan, identities = make_plan(names, **changes)
    return plan, write_folders(parent, plan, identities)


def parts(count: int) -> list[tuple[Any, Any]]:
    """The breast-cancer data, standardised and split over the sites."""
    data = load_breast_cancer()
    x = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    order = np.random.default_rng(7).permutation(len(x))
    return [(x[part], data.target[part]) for part in np.array_split(order, count)]


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Run:
    weights: Any = None
    losses: list[float] = field(default_factory=list)
    errors: dict[str, BaseException] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    messages: int = 0


def make_server(port: int, guard: Any, optim: Any = None, **options: Any) -> FederatedServer:
    model = SklearnSGDModel.from_parameters(
        kind="classifier", loss="log_loss", penalty="l2", alpha=0.001
    )
    return FederatedServer(
        model=model,
        netwk=WebsocketsServer(host="127.0.0.1", port=port, heartbeat=0.005),
        optim=optim or {"aggregator": "averaging", "client_opt": 0.05, "server_opt": 1.0},
        metrics=MetricSet.from_specs(["binary-classif"]),
        secagg=guard,
        **options,
    )


def make_client(name: str, port: int, guard: Any, data: Any) -> FederatedClient:
    x, y = data
    return FederatedClient(
        netwk=WebsocketsClient(server_uri=f"ws://127.0.0.1:{port}", name=name),
        train_data=InMemoryDataset(x, y, expose_classes=True),
        secagg=guard,
        verbose=False,
    )


def config(sites: int, rounds: int, **options: Any) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "register": {"min_clients": sites, "max_clients": sites, "timeout": 60},
        "training": {"n_epoch": 1, "batch_size": 16},
        "evaluate": {"batch_size": 64},
        **options,
    }


def run(
    server_guard: Any,
    guards: dict[str, Any],
    *,
    rounds: int = 2,
    server: Any = None,
    prepare: Any = None,
    longest: float = 180,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """One training, all parties in one process over websockets on 127.0.0.1; ended after
    ``longest`` seconds."""
    port = free_port()
    made = (server or make_server)(port, server_guard, **options)
    data = parts(len(guards))
    clients = {
        name: make_client(name, port, guard, data[at])
        for at, (name, guard) in enumerate(guards.items())
    }
    if prepare is not None:
        prepare(made, clients)
    done = Run()
    count(clients.values(), done)
    begin = time.perf_counter()
    asyncio.run(_all(made, clients, config(len(guards), rounds, **(settings or {})), done, longest))
    done.seconds = time.perf_counter() - begin
    done.weights = made.model.get_weights(trainable=True)
    done.losses = list(made._losses)
    return done


def count(clients: Any, done: Run) -> None:
    """Count what the clients' network ends send and receive."""
    for client in clients:
        netwk = client.netwk
        send = netwk._send_message

        async def counted(data: bytes, send: Any = send) -> bytes:
            reply = await send(data)
            done.messages += 1
            done.bytes_up += len(data)
            done.bytes_down += len(reply)
            return reply

        netwk._send_message = counted


async def _all(
    server: Any, clients: dict[str, Any], settings: Any, done: Run, longest: float
) -> None:
    from declearn.main.config import FLRunConfig

    jobs = {"server": asyncio.create_task(server.async_run(FLRunConfig.from_params(**settings)))}
    await asyncio.sleep(0.05)
    for name, client in clients.items():
        jobs[name] = asyncio.create_task(client.async_run())
    # Where the server ends, clients that still wait are ended; where a client ends by itself, the
    # server goes on until it notices.
    await asyncio.wait([jobs["server"]], timeout=longest)
    _, waiting = await asyncio.wait(jobs.values(), timeout=5)
    for job in waiting:
        job.cancel()
    for name, job in jobs.items():
        (outcome,) = await asyncio.gather(job, return_exceptions=True)
        if isinstance(outcome, BaseException):
            done.errors[name] = outcome


def set_up(parent: Path, plan: Any, identities: Any, nonce: bytes = b"n" * 16, lists: Any = None):
    """The parties of one setup without a network. lists: what the server shows a site, by name,
    from the true list of adverts."""
    names = plan.roster.names
    views = {name: View() for name in names}
    made = {
        name: agreement.advertise(plan, identities[name], nonce, views[name].digest)
        for name in names
    }
    adverts = [made[name][1] for name in names]
    limits, sites = SimpleNamespace(enter=lambda model, tag: None), {}
    if parent is not None:
        folders = write_folders(parent, plan, identities)
    for name in names:
        told = views[name].digest
        shown = adverts if lists is None else lists(name, adverts)
        exchange, own = made[name]
        keys = agreement.check_adverts(plan, name, own, nonce, told, shown)
        context = agreement.setup_context(plan.digest, nonce, told, shown)
        masks = agreement.PairMasks(plan, name, exchange, keys, context)
        if parent is not None:
            limits = Limits(PartyFolder(folders[name]), plan)
        sites[name] = ZeroSumEncrypter(Ring(plan), masks, views[name], limits)
    return sites, views, ZeroSumDecrypter(Ring(plan))
