"""What secure sums cost under declearn: without, with declearn's own masking, and with secagg.

    python docs/examples/declearn/measure.py            a whole training, and single messages
    python docs/examples/declearn/measure.py --largest 100000

All three in one run on one machine, medians of three. The training is that of ``run.py``, in one
process; bytes and messages are those of the clients' network ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import socket
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import run as app
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from declearn.aggregator import ModelUpdates
from declearn.messaging import SerializedMessage, TrainReply
from declearn.model.sklearn import NumpyVector
from declearn.secagg.masking import (
    MaskingDecrypter,
    MaskingEncrypter,
    MaskingSecaggConfigClient,
    MaskingSecaggConfigServer,
)
from declearn.secagg.messaging import SecaggTrainReply, aggregate_secagg_messages
from declearn.secagg.utils import IdentityKeys

import secagg
from secagg.integrations.declearn import SecAggServer, SecAggSite, agreement
from secagg.integrations.declearn.decrypter import ZeroSumDecrypter
from secagg.integrations.declearn.encrypter import ZeroSumEncrypter
from secagg.integrations.declearn.ring import Ring
from secagg.integrations.declearn.view import View

REPEATS = 3


def guards(kind: str, parent: Path) -> tuple[Any, dict[str, Any]]:
    """What the server and each client get as ``secagg=``."""
    if kind == "without":
        return None, dict.fromkeys(app.HOSPITALS)
    if kind == "masking":
        keys = {name: Ed25519PrivateKey.generate() for name in app.HOSPITALS}
        trusted = [key.public_key() for key in keys.values()]
        return MaskingSecaggConfigServer(bitsize=64, clipval=app.CLIP), {
            name: MaskingSecaggConfigClient(IdentityKeys(prv_key=key, trusted=trusted))
            for name, key in keys.items()
        }
    _, folders = app.make_folders(parent / secrets.token_hex(4))
    return SecAggServer(folders["server"]), {n: SecAggSite(folders[n]) for n in app.HOSPITALS}


def training(kind: str, parent: Path) -> tuple[float, int, int, int]:
    """Seconds, messages, and bytes up and down of one training."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    guard, sites = guards(kind, parent)
    server = app.make_server(port, None)
    server.secagg = guard
    clients, tally = [], [0, 0, 0]
    for name, site in sites.items():
        client = app.make_client(name, port, None)
        client.secagg = site
        clients.append(client)
        client.netwk._send_message = counted(client.netwk._send_message, tally)
    begin = time.perf_counter()
    asyncio.run(app.together(server, clients))
    return time.perf_counter() - begin, tally[0], tally[1], tally[2]


def counted(send: Any, tally: list[int]) -> Any:
    async def count(data: bytes) -> bytes:
        reply: bytes = await send(data)
        for at, more in enumerate((1, len(data), len(reply))):
            tally[at] += more
        return reply

    return count


def masking(sites: int, length: int) -> tuple[list[Any], Any]:
    seeds = {(i, j): secrets.randbits(256) for i in range(sites) for j in range(i + 1, sites)}
    made = [
        MaskingEncrypter(
            [seeds[i, j] for j in range(i + 1, sites)],
            [seeds[j, i] for j in range(i)],
            64,
            app.CLIP,
        )
        for i in range(sites)
    ]
    return made, MaskingDecrypter(sites, 64, app.CLIP)


def zero_sum(sites: int, length: int) -> tuple[list[Any], Any]:
    names = [f"site{at}" for at in range(sites)]
    roster, identities = secagg.Roster.generate(names)
    plan = secagg.Plan.recommend(
        roster,
        length=length,
        stages=(secagg.ClipLinf(app.CLIP), secagg.Quantise(app.LEVELS)),
        threat="malicious-server",
        colluding=1,
        max_dropouts=0,
    )
    nonce, view = bytes(16), View()
    keys = [agreement.advertise(plan, identities[name], nonce, view.digest) for name in names]
    public = [key.public for key, _ in keys]
    made = []
    for name, (key, _) in zip(names, keys, strict=True):
        masks = agreement.PairMasks(plan, name, key, public, bytes(32))
        # The journal's records of inputs are those of the training above, and not of a message.
        limits: Any = SimpleNamespace(enter=lambda model, tag: None)
        made.append(ZeroSumEncrypter(Ring(plan), masks, View(), limits))
    return made, ZeroSumDecrypter(Ring(plan))


def message(sites: list[Any], reader: Any, updates: list[Any]) -> tuple[float, float, int]:
    """Seconds of one site and of the server for one sum, and the bytes of a site's message."""
    begin = time.perf_counter()
    sent = []
    for site, x in zip(sites, updates, strict=True):
        reply = TrainReply(
            n_epoch=1,
            n_steps=8,
            t_spent=0.0,
            updates=ModelUpdates(NumpyVector({"w": x}), 8),
            aux_var={},
        )
        sent.append(SecaggTrainReply.from_cleartext_message(reply, site).serialize())
    half = time.perf_counter()
    back: dict[str, Any] = {
        str(at): SerializedMessage.from_bin_message(data).deserialize()
        for at, data in enumerate(sent)
    }
    out = aggregate_secagg_messages(back, reader)
    end = time.perf_counter()
    off = np.abs(out.updates.updates.coefs["w"] - sum(updates)).max()
    if off > 1e-6:
        raise SystemExit("the sum is wrong")
    return (half - begin) / len(sites), end - half, len(sent[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--largest", type=int, default=1_000_000)
    options = parser.parse_args()
    app.quiet()
    print(f"{len(app.HOSPITALS)} sites, {app.ROUNDS} rounds with evaluation, 31 coordinates")
    with tempfile.TemporaryDirectory() as parent:
        for kind in ("without", "masking", "secagg"):
            training(kind, Path(parent))  # warm
            runs = [training(kind, Path(parent)) for _ in range(REPEATS)]
            seconds = statistics.median(one[0] for one in runs)
            count, up, down = (int(statistics.median(one[at] for one in runs)) for at in (1, 2, 3))
            print(f"  {kind:8} {seconds:6.2f} s  {count} messages  {up} B up  {down} B down")
    rng = np.random.default_rng(0)
    for sites in (4, 10):
        for length in (31, 10_000, options.largest):
            updates = [rng.normal(size=length) for _ in range(sites)]
            print(f"one sum, {sites} sites, {length} coordinates")
            for kind, make in (("masking", masking), ("secagg", zero_sum)):
                made, reader = make(sites, length)
                message(made, reader, updates)
                runs = [message(made, reader, updates) for _ in range(REPEATS)]
                site, server = (1e3 * statistics.median(r[at] for r in runs) for at in (0, 1))
                print(f"  {kind:8} site {site:8.1f} ms  server {server:8.1f} ms  {runs[0][2]} B")


if __name__ == "__main__":
    main()
