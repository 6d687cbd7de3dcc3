"""Kernels, limits and peers, the works of ``secagg bench`` one by one: ``pytest benchmarks``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from secagg.bench import peers, works
from secagg.bench.catalogue import CASES
from secagg.bench.sheet import NotHereError


def sizes(case: str, scale: str) -> dict[str, Any]:
    return CASES[case].at(scale)


@pytest.mark.benchmark(group="mask")
@pytest.mark.parametrize("threads", [1, 2])
def test_mask(benchmark: Any, scale: str, threads: int) -> None:
    at = sizes("mask-1m", scale)
    benchmark(works.mask(at["length"], at["keys"], threads=threads))


@pytest.mark.benchmark(group="mask")
def test_register_only_aes(benchmark: Any, scale: str) -> None:
    at = sizes("mask-1m", scale)
    try:
        work = works.aes_limit(4 * at["length"] * at["keys"])
    except NotHereError as missing:
        pytest.skip(str(missing))
    benchmark(work)


@pytest.mark.benchmark(group="mask")
def test_openssl_keystream(benchmark: Any, scale: str) -> None:
    at = sizes("mask-1m", scale)
    *_, work = works.openssl_limits(4 * at["length"] * at["keys"]).values()
    benchmark(work)


@pytest.mark.benchmark(group="one mask")
def test_one_mask(benchmark: Any, scale: str) -> None:
    benchmark(works.mask(sizes("mask-1m", scale)["length"], 1))


@pytest.mark.benchmark(group="one mask")
def test_one_mask_of_flower(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("flwr")
    benchmark(peers.flower_mask(sizes("mask-1m", scale)["length"]))


@pytest.mark.benchmark(group="mask")
def test_masks_of_declearn(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("declearn")
    at = sizes("mask-declearn", scale)
    benchmark(peers.declearn_mask(at["length"], at["keys"]))


@pytest.mark.benchmark(group="pack")
def test_unpack_add(benchmark: Any, scale: str) -> None:
    at = sizes("unpack-20", scale)
    benchmark(works.unpack_add(at["length"], at["bits"]))


@pytest.mark.benchmark(group="pack")
def test_pack(benchmark: Any, scale: str) -> None:
    at = sizes("unpack-20", scale)
    benchmark(works.pack(at["length"], at["bits"]))


@pytest.mark.benchmark(group="pack")
def test_copy(benchmark: Any, scale: str) -> None:
    benchmark(works.copy(4 * sizes("unpack-20", scale)["length"]))


@pytest.mark.benchmark(group="quantise")
def test_quantise(benchmark: Any, scale: str) -> None:
    benchmark(works.quantised(sizes("quantise-1m", scale)["length"]))


@pytest.mark.benchmark(group="quantise")
def test_quantise_of_flower(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("flwr")
    benchmark(peers.flower_quantise(sizes("quantise-1m", scale)["length"]))


@pytest.mark.benchmark(group="quantise")
def test_dequantise(benchmark: Any, scale: str) -> None:
    benchmark(works.dequantised(sizes("quantise-1m", scale)["length"]))


@pytest.mark.benchmark(group="rotate")
def test_rotate_and_back(benchmark: Any, scale: str) -> None:
    try:
        work = works.rotated(sizes("quantise-1m", scale)["length"])
    except NotHereError as missing:
        pytest.skip(str(missing))
    benchmark(work)


@pytest.mark.benchmark(group="split")
@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_split(benchmark: Any, scale: str, batch: bool) -> None:
    at = sizes("shamir", scale)
    benchmark(works.split(at["holders"], at["threshold"], at["batch"] if batch else 1))


@pytest.mark.benchmark(group="split")
def test_split_of_flower(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("flwr")
    at = sizes("shamir", scale)
    benchmark(peers.flower_split(at["holders"], at["threshold"]))


@pytest.mark.benchmark(group="recover")
@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_recover(benchmark: Any, scale: str, batch: bool) -> None:
    at = sizes("shamir", scale)
    shown = at["threshold"]
    work = works.recover(at["holders"], shown, shown, at["batch"] if batch else 1)
    benchmark(work)


@pytest.mark.benchmark(group="recover")
def test_recover_of_flower(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("flwr")
    at = sizes("shamir", scale)
    benchmark(peers.flower_recover(at["holders"], at["threshold"], at["threshold"]))
