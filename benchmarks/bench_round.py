"""First measurements: masks against the machine's own AES speed, and a whole round.

Run with ``python benchmarks/bench_round.py``. Every figure is a median of seven with its spread,
beside a limit that is measured in the same run, since machines are shared and seconds mean little.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import cryptography
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import secagg
import secagg_native

RUNS = 7


def measure(work: Callable[[], object]) -> tuple[float, float, float]:
    """(median, fastest, slowest) seconds of seven runs after one that warms up."""
    work()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), min(seconds), max(seconds)


def show(what: str, seconds: tuple[float, float, float], size: float, unit: str) -> None:
    median, fastest, slowest = seconds
    print(
        f"{what:58} {median * 1e3:9.1f} ms ({fastest * 1e3:.1f} to {slowest * 1e3:.1f})"
        f"  {size / median:8.2f} {unit}"
    )


def masks(length: int = 1_000_000, keys: int = 10) -> None:
    """Expand and add ``keys`` keystreams over ``length`` 32-bit lanes; OpenSSL alone beside it."""
    rows = np.frombuffer(os.urandom(24 * keys), dtype=np.uint8).reshape(keys, 24)
    aes, nonces = np.ascontiguousarray(rows[:, :16]), np.ascontiguousarray(rows[:, 16:])
    signs = np.ones(keys, dtype=np.int8)
    ring = np.zeros(length, dtype=np.uint32)
    gigabytes = keys * ring.nbytes / 1e9
    ours = measure(lambda: secagg_native.add_keystreams(ring, aes, nonces, signs))
    show(f"mask and add, {length:,} x 32 bits, {keys} keys", ours, gigabytes, "GB/s")

    tile = bytes(1 << 16)
    out = bytearray(1 << 16)

    def openssl() -> None:
        stream = Cipher(algorithms.AES(bytes(aes[0])), modes.CTR(bytes(16))).encryptor()
        for _ in range(keys * ring.nbytes // len(tile)):
            stream.update_into(tile, out)

    limit = measure(openssl)
    show("OpenSSL's keystream alone, same bytes", limit, gigabytes, "GB/s")
    print(f"{'ratio to that limit':58} {limit[0] / ours[0]:9.2f}")


def whole_round(clients: int = 20, length: int = 100_000) -> None:
    """All parties of one round in one process, one in ten sites dropped before its input."""
    roster, identities = secagg.Roster.generate(f"site-{i}" for i in range(clients))
    gone = list(roster.names[: clients // 10])
    for threat in ("semi-honest", "malicious-server"):
        plan = secagg.Plan.recommend(
            roster,
            length=length,
            stages=(secagg.ClipLinf(1.0), secagg.Quantise(1 << 16)),
            threat=threat,  # type: ignore[arg-type]
            colluding=clients // 5,
            max_dropouts=clients // 10,
        )
        vectors = {name: np.linspace(-1, 1, length) for name in roster.names}

        def work(plan: secagg.Plan = plan, vectors: dict[str, object] = vectors) -> None:
            secagg.aggregate(plan, vectors, drop={"input": gone}, identities=identities)

        what = f"round, {threat}, n = {clients}, d = {length:,}, 10 % dropped"
        show(what, measure(work), clients * length / 1e6, "M coordinates/s")


def main() -> None:
    print(
        f"secagg {secagg.__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"cryptography {cryptography.__version__}, {os.cpu_count()} cores, "
        f"kernels {secagg_native.variant()}, medians of {RUNS}"
    )
    masks()
    whole_round()


if __name__ == "__main__":
    sys.exit(main())
