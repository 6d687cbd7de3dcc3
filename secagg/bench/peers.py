"""Public peers, pinned and unmodified: what is installed, and their works beside ours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from . import child, measure, works
from .machine import installed
from .measure import Work
from .sheet import Given, NotHereError

#: The versions that figures compare with; the extra ``bench`` pins the same.
PINNED: Final = {
    "flwr": "1.41.0",
    "declearn": "2.9.1",
    "opendp": "0.16.0",
    "phe": "1.5.0",
    "pypaillier": "0.8.0",
    "tno-mpc-encryption-schemes-paillier": "4.1.0",
    "damgard-jurik": "0.0.3",
    "lightphe": "0.0.27",
    "tenseal": "0.3.18",
}
#: Without it these compute with Python's integers, several times as slowly.
_WITH_GMPY2: Final = ("phe", "damgard-jurik", "tno-mpc-encryption-schemes-paillier")
INSTALL: Final = "pip install 'secagg[bench]'"

#: Flower's defaults (SecAggPlusWorkflow), which our side of each comparison takes too.
CLIP: Final = 8.0
RANGE: Final = 1 << 22
MODULUS: Final = 1 << 32


def missing(package: str) -> str:
    """Why a peer cannot be measured, or an empty string where it can."""
    version, found = PINNED[package], installed(package)
    if found == version:
        if package in _WITH_GMPY2 and installed("gmpy2") is None:
            return f"{package} is slow without gmpy2; {INSTALL}"
        return ""
    if found is None:
        return f"{package} {version} is not installed; {INSTALL}"
    return f"{package} {found} is installed, figures compare with {version}; {INSTALL}"


def left_out(given: Given) -> dict[str, str]:
    """Peers that take no part in a run, with the reason."""
    if not given.peers:
        return dict.fromkeys(PINNED, "peers are switched off (--no-peers)")
    return {package: reason for package in PINNED if (reason := missing(package))}


def need(given: Given, package: str) -> None:
    """Raise NotHereError unless the peer takes part."""
    reason = left_out(given).get(package)
    if reason:
        raise NotHereError(reason)


@contextmanager
def _quietly() -> Iterator[None]:
    """Import a peer without the warnings that its own dependencies give to its authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def quiet_flower() -> None:
    """Load Flower. It neither reports home nor looks for updates while it is measured."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    with _quietly():
        import flwr.client.mod.secure_aggregation
        import flwr.server.workflow.secure_aggregation.secaggplus_workflow  # noqa: F401


def replacing(function: Work) -> Work:
    """Call ``function`` and keep its result until the next one is there.

    This is how Flower's loops use memory (``x = f(...)`` over and over): the new array is made
    while the old one lives, and its place is used again afterwards. Results that were all kept
    would make every call pay for pages that the system has never handed out before.
    """
    slot: list[object] = [None]

    def work() -> None:
        slot[0] = function()

    return work


def flower_mask(length: int) -> Work:
    """One mask as Flower's client adds it: ``pseudo_rand_gen``, then ``parameters_addition``."""
    quiet_flower()
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    seed, shapes = bytes(range(32)), [(length,)]
    state: list[Any] = [works.noise(length).astype(np.int64) % RANGE]

    def work() -> None:
        # As in the client's loop, the masked vector takes the place of the one before.
        nonlocal state
        state = parameters_addition(state, pseudo_rand_gen(seed, MODULUS, shapes))

    return work


#: glibc maps each array of more bytes than this anew, and leaves it at that. Its own threshold
#: starts as low and climbs, up to 32 MiB, as such arrays are given back.
_MAP_ANEW: Final = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def flower_masks(length: int, count: int, *, fresh: bool) -> list[float]:
    """Seconds of each of ``count`` masks in a fresh process, as a framework starts one a message.

    fresh: every array gets pages that the system has to find, as it is by default for arrays
    beyond 32 MiB (4M coordinates of int64) and for the first ones of a process.
    """
    answer = child.call(
        "flower-masks", {"length": length, "count": count}, _MAP_ANEW if fresh else None
    )
    return [float(seconds) for seconds in answer]


def time_flower_masks(length: int, count: int) -> list[float]:
    """What the child does: its client's loop, of which the first two masks do not count."""
    work = flower_mask(length)
    return [measure.sample(work) for _ in range(count + 2)][2:]


def flower_quantise(length: int) -> Work:
    """Flower's ``quantize`` of a float32 vector."""
    quiet_flower()
    from flwr.common.secure_aggregation.quantization import quantize

    x = [works.vector(length, CLIP)]
    return replacing(lambda: quantize(x, CLIP, RANGE))


def flower_split(holders: int, threshold: int) -> Work:
    """Flower's ``create_shares`` of one 32-byte secret."""
    quiet_flower()
    from flwr.common.secure_aggregation.crypto.shamir import create_shares

    (secret,) = works.secrets(1)
    return lambda: create_shares(secret, threshold, holders)


def flower_recover(holders: int, threshold: int, shown: int) -> Work:
    """Flower's ``combine_shares`` of one 32-byte secret from ``shown`` shares."""
    quiet_flower()
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares

    (secret,) = works.secrets(1)
    shares = create_shares(secret, threshold, holders)[:shown]
    if combine_shares(shares) != secret:
        raise ValueError("the peer did not recover its own secret")
    return lambda: combine_shares(shares)


def declearn_mask(length: int, keys: int) -> Work:
    """declearn's ``MaskingEncrypter.encrypt_uint_list``: ``keys`` masks over a list of integers."""
    with _quietly():
        from declearn.secagg.masking import MaskingEncrypter

    half = keys // 2
    seeds = list(range(1, keys + 1))
    encrypter = MaskingEncrypter(seeds[:half], seeds[half:], bitsize=32, clipval=CLIP)
    values = list(range(length))
    return lambda: encrypter.encrypt_uint_list(values)


def opendp_gaussian(count: int, sigma: int) -> Work:
    """OpenDP's discrete Gaussian mechanism over ``count`` integers that are 0.

    Raises ValueError where what it adds has another variance.
    """
    with _quietly():
        import opendp.prelude as dp
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    draw = dp.m.make_gaussian(*space, scale=float(sigma))
    zeros = [0] * count
    if not 0.5 < float(np.var(draw(zeros[:1000]))) / sigma**2 < 2:
        raise ValueError("the peer's noise has another variance than it was asked for")
    return lambda: draw(zeros)


def numpy_skellam(count: int, sigma: int) -> Work:
    """The difference of two vectors of NumPy's Poisson variables, of variance sigma^2 together."""
    draw, mean = np.random.default_rng(0), sigma**2 / 2
    return lambda: draw.poisson(mean, count) - draw.poisson(mean, count)


__all__ = [
    "CLIP",
    "INSTALL",
    "MODULUS",
    "PINNED",
    "RANGE",
    "declearn_mask",
    "flower_mask",
    "flower_masks",
    "flower_quantise",
    "flower_recover",
    "flower_split",
    "left_out",
    "missing",
    "need",
    "numpy_skellam",
    "opendp_gaussian",
    "quiet_flower",
    "replacing",
]
