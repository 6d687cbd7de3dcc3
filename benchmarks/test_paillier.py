"""Paillier's operations one by one, ours and those of peers: ``pytest benchmarks``.

Keys are published test keys (``secagg.bench.paillier_key``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from secagg.bench import paillier_peers, paillier_works
from secagg.bench.catalogue import CASES
from secagg.bench.sheet import NotHereError
from secagg_native import features


def sizes(case: str, scale: str) -> dict[str, Any]:
    return CASES[case].at(scale)


@pytest.mark.benchmark(group="paillier, a vector")
@pytest.mark.parametrize(
    "make",
    [
        paillier_works.encrypting,
        paillier_works.proving,
        paillier_works.adding,
        paillier_works.multiplying,
        paillier_works.receiving,
    ],
)
def test_vector(benchmark: Any, scale: str, make: Callable[[int, int], Any]) -> None:
    at = sizes("paillier-peers", scale)
    benchmark(make(at["length"], at["bits"]))


@pytest.mark.benchmark(group="paillier, ciphertexts")
@pytest.mark.parametrize("make", [paillier_works.sharing, paillier_works.whole_opening])
def test_ciphertexts(benchmark: Any, scale: str, make: Callable[[int, int], Any]) -> None:
    at = sizes("paillier-peers", scale)
    benchmark(make(at["rows"], at["bits"]))


@pytest.mark.benchmark(group="paillier, the private key")
def test_opening(benchmark: Any, scale: str) -> None:
    at = sizes("paillier-decrypt", scale)
    benchmark(paillier_works.opening(at["length"], at["bits"]))


@pytest.mark.benchmark(group="paillier, a power")
@pytest.mark.parametrize("variant", features.BIGINT_VARIANTS)
def test_power(benchmark: Any, scale: str, variant: str) -> None:
    if variant not in features.bigint_variants():
        pytest.skip(f"{variant} is not here")
    bits = sizes("paillier-limit", scale)["bits"]
    benchmark(paillier_works.raising(8, bits, (1 << 512) - 1, variant))


@pytest.mark.benchmark(group="paillier, the limit")
def test_register_only_multiplications(benchmark: Any, scale: str) -> None:
    try:
        work = paillier_works.ifma_limit(sizes("paillier-limit", scale)["instructions"])
    except NotHereError as missing:
        pytest.skip(str(missing))
    benchmark(work)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.benchmark(group="paillier, peers")
@pytest.mark.parametrize("package", list(paillier_peers.MAKERS))
def test_encryption_of_peers(
    benchmark: Any, scale: str, package: str, peer: Callable[[str], None]
) -> None:
    peer(package)
    at = sizes("paillier-peers", scale)
    made = paillier_peers.make(package, at["peer_numbers"], at["bits"])
    benchmark(made.works["encrypt"][0])
