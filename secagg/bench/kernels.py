"""Cases of the kernels: each beside the hardware's limit and beside the peer's function."""

from __future__ import annotations

import os
from typing import Final

import secagg_native

from . import machine, measure, peers, works
from .measure import spread
from .results import Bar
from .sheet import Case, NotHereError, Sheet

_MASKS: Final = {"full": {"length": 1_000_000, "keys": 100}, "tiny": {"length": 1000, "keys": 4}}


def _mask_1m(sheet: Sheet) -> None:
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    size = 4 * length * keys
    group = {"secagg, all keys": works.mask(length, keys)}
    reason = ""
    try:
        group["register-only AES loop"] = works.aes_limit(size)
    except NotHereError as missing:
        reason = str(missing)
        sheet.leave_out("mask-1m/aes-limit", reason)
    found = sheet.alternate(group)
    for name, samples in found.items():
        sheet.timed(name, samples, size, "bytes")
    if not reason:
        # Speeds, not seconds: ours over the limit's is the limit's seconds over ours.
        sheet.compare(
            "mask-1m/aes-limit", found["register-only AES loop"], found["secagg, all keys"]
        )
    sheet.notes.append(f"mask kernel: {secagg_native.variant()}")
    peers.need(sheet.given, "flwr")
    flower = _against_flower(sheet)
    if not reason:
        limit = spread(found["register-only AES loop"]).median / keys
        sheet.notes.append(
            f"the register-only loop alone, which adds nothing to anything, is "
            f"{flower / limit:.0f} times as fast as Flower's expand and add in its client's loop: "
            "no AES-128 on this core can be faster than that"
        )


def _against_flower(sheet: Sheet) -> float:
    """Ours per mask, over many masks, against Flower's one mask at a time, each in turns.

    Flower's loop as its client runs it is judged; the same on fresh memory is only timed. Returns
    the median seconds of its client's loop.
    """
    length, keys, case = sheet.sizes["length"], sheet.sizes["keys"], sheet.case.id
    runs = sheet.given.runs
    # A whole run starts one process a turn, a quick one takes all samples from a single process.
    turns = runs if sheet.given.scale == "full" else 1
    many, one = works.mask(length, keys), works.mask(length, 1)
    many()
    calls = measure.calls_for(one)
    loop: list[float] = []
    anew: list[float] = []
    ours: list[float] = []
    single: list[float] = []
    for _ in range(turns):
        for kept, fresh in ((loop, False), (anew, True)):
            found = peers.flower_masks(length, 2 * runs, fresh=fresh)
            kept.extend([spread(found).median] if turns > 1 else found[:runs])
        with measure.undisturbed():
            for _ in range(runs // turns):
                ours.append(measure.sample(many) / keys)
                single.append(measure.sample(one, calls))
    for name, samples in (
        (f"secagg, one of {keys} masks at once", ours),
        ("secagg, a single mask", single),
        ("Flower, one mask, in its client's loop", loop),
        ("Flower, one mask, every array mapped anew (MALLOC_MMAP_THRESHOLD_)", anew),
    ):
        sheet.timed(name, samples, 4 * length, "bytes")
    sheet.compare(f"{case}/flower", loop, ours)
    median = spread(ours).median
    sheet.notes.append(
        f"where every array of Flower is mapped anew, ours is {spread(anew).median / median:.0f} "
        "times as fast; that is not judged"
    )
    return spread(loop).median


def _mask_threads(sheet: Sheet) -> None:
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    size = 4 * length * keys
    if machine.cores() < 2:
        raise NotHereError("one core only")
    ours = {1: "secagg, 1 thread", 2: "secagg, 2 threads"}
    limit = {1: "register-only AES loop, 1 thread", 2: "register-only AES loop, 2 threads"}
    group = {name: works.mask(length, keys, threads=threads) for threads, name in ours.items()}
    try:
        group |= {name: works.aes_limit(size, threads=threads) for threads, name in limit.items()}
    except NotHereError as missing:
        sheet.notes.append(str(missing))
    found = sheet.alternate(group)
    for name, samples in found.items():
        sheet.timed(name, samples, size, "bytes")
    sheet.compare("mask-threads/one-thread", found[ours[1]], found[ours[2]])
    if limit[1] in found:
        scale = spread(found[limit[1]]).median / spread(found[limit[2]]).median
        sheet.notes.append(f"the register-only loop scales by {scale:.2f}x")


def _mask_aesni(sheet: Sheet) -> None:
    _forced("aesni")
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    size = 4 * length * keys
    found = sheet.alternate(
        {"secagg, AES-NI": works.mask(length, keys), **works.openssl_limits(size)}
    )
    for name, samples in found.items():
        sheet.timed(name, samples, size, "bytes")
    best = min(
        (name for name in found if name.startswith("OpenSSL")),
        key=lambda name: spread(found[name]).median,
    )
    sheet.notes.append(f"OpenSSL's best: {best}")
    sheet.compare("mask-aesni/openssl", found[best], found["secagg, AES-NI"])


def _mask_openssl(sheet: Sheet) -> None:
    _forced("openssl")
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    size = 4 * length * keys
    ours = "secagg, OpenSSL twin, all keys"
    found = sheet.alternate({ours: works.mask(length, keys), **works.openssl_limits(size)})
    for name, samples in found.items():
        sheet.timed(name, samples, size, "bytes")
    peers.need(sheet.given, "flwr")
    flower = _against_flower(sheet)
    bare = [spread(samples).median for name, samples in found.items() if name != ours]
    sheet.notes.append(
        f"OpenSSL's keystream alone, in its best piece size and without the addition, is "
        f"{flower / (min(bare) / keys):.0f} times as fast as Flower's expand and add in its "
        "client's loop"
    )


def _forced(variant: str) -> None:
    """Refuse to measure any other variant; :mod:`child` starts these cases with one forced."""
    try:
        found = secagg_native.variant()
    except ValueError as error:
        raise NotHereError(str(error)) from None
    if found != variant:
        forced = os.environ.get(FORCE, "nothing")
        raise NotHereError(f"{FORCE} is {forced}, yet the kernel is {found} and not {variant}")


#: The environment variable that forces a variant, read when a process first masks.
FORCE: Final = "SECAGG_AES"
#: Cases that run in a process of their own, with the variant that is forced there.
FORCED: Final = {"mask-aesni": "aesni", "mask-openssl": "openssl"}


def _mask_declearn(sheet: Sheet) -> None:
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    ours, peer = "secagg, all keys", "declearn, encrypt_uint_list"
    group = {ours: works.mask(length, keys)}
    reason = peers.left_out(sheet.given).get("declearn", "")
    if not reason:
        group[peer] = peers.declearn_mask(length, keys)
    found = sheet.alternate(group)
    for name, samples in found.items():
        sheet.timed(name, samples, 4 * length * keys, "bytes")
    if reason:
        raise NotHereError(reason)
    times = spread(found[peer]).median / spread(found[ours]).median
    sheet.notes.append(
        f"declearn takes {times:.0f} times as long. Its masks come from PCG64, which is no "
        "cryptographic generator, and it recovers no site that leaves."
    )


def _unpack_20(sheet: Sheet) -> None:
    length, bits = sheet.sizes["length"], sheet.sizes["bits"]
    size = 4 * length
    found = sheet.alternate(
        {"secagg, unpack_add": works.unpack_add(length, bits), "memory copy": works.copy(size)}
    )
    for name, samples in found.items():
        sheet.timed(name, samples, size, "bytes")
    sheet.compare("unpack-20/copy", found["memory copy"], found["secagg, unpack_add"])


def _quantise_1m(sheet: Sheet) -> None:
    length = sheet.sizes["length"]
    ours = "secagg, quantise"
    group = {ours: works.quantised(length)}
    reason = peers.left_out(sheet.given).get("flwr", "")
    if not reason:
        group["Flower, quantize"] = peers.flower_quantise(length)
    found = sheet.alternate(group)
    for name, samples in found.items():
        sheet.timed(name, samples, 4 * length, "bytes")
    if reason:
        raise NotHereError(reason)
    sheet.compare("quantise-1m/flower", found["Flower, quantize"], found[ours])


def _shamir(sheet: Sheet) -> None:
    n, t, batch = sheet.sizes["holders"], sheet.sizes["threshold"], sheet.sizes["batch"]
    reason = peers.left_out(sheet.given).get("flwr", "")
    for what, ours, many in (
        ("split", works.split(n, t), works.split(n, t, batch)),
        ("recover", works.recover(n, t, t), works.recover(n, t, t, batch)),
    ):
        group = {"ours": ours, "batch": many}
        if not reason:
            peer = peers.flower_split(n, t) if what == "split" else peers.flower_recover(n, t, t)
            group["Flower"] = peer
        found = sheet.alternate(group)
        sheet.timed(f"secagg, {what}", found["ours"], 1, "secrets")
        sheet.timed(f"secagg, {what}, {batch} at once", found["batch"], batch, "secrets")
        if not reason:
            name = {"split": "create_shares", "recover": "combine_shares"}[what]
            sheet.timed(f"Flower, {name}", found["Flower"], 1, "secrets")
            sheet.compare(f"shamir/{what}", found["Flower"], found["ours"])
    everything = sheet.alternate({"all": works.recover(n, t, n)}, seconds=0.0)["all"]
    sheet.timed(f"secagg, recover, all {n} shares checked", everything, 1, "secrets")
    if reason:
        raise NotHereError(reason)


CASES: Final = (
    Case(
        "mask-1m",
        "Mask and accumulate on one core",
        _mask_1m,
        _MASKS,
        (
            Bar(
                id="mask-1m/aes-limit",
                text="mask and accumulate, one core, 1M x 32-bit, 100 keys: speed over that of "
                "the register-only AES loop",
                bar=0.75,
                aim=0.85,
            ),
            Bar(
                id="mask-1m/flower",
                text="the same: times as fast as Flower's expand and add, in its client's loop",
                bar=150,
                peer="flwr",
            ),
        ),
    ),
    Case(
        "mask-threads",
        "Mask and accumulate with two threads",
        _mask_threads,
        _MASKS,
        (
            Bar(
                id="mask-threads/one-thread",
                text="mask and accumulate, two threads: times as fast as one",
                bar=1.8,
            ),
        ),
    ),
    Case(
        "mask-aesni",
        "AES-NI forced",
        _mask_aesni,
        _MASKS,
        (
            Bar(
                id="mask-aesni/openssl",
                text="AES-NI forced: speed over OpenSSL's own best keystream speed",
                bar=0.85,
            ),
        ),
    ),
    Case(
        "mask-openssl",
        "OpenSSL twin forced",
        _mask_openssl,
        _MASKS,
        (
            Bar(
                id="mask-openssl/flower",
                text="OpenSSL twin forced: times as fast as Flower's expand and add, in its "
                "client's loop",
                bar=40,
                peer="flwr",
            ),
        ),
    ),
    Case(
        "mask-declearn",
        "Masks beside declearn's",
        _mask_declearn,
        {**_MASKS, "quick": {"length": 100_000, "keys": 100}},
    ),
    Case(
        "unpack-20",
        "Unpack and accumulate messages of 20 bits",
        _unpack_20,
        {"full": {"length": 10_000_000, "bits": 20}, "tiny": {"length": 1001, "bits": 20}},
        (
            Bar(
                id="unpack-20/copy",
                text="unpack and accumulate 20-bit messages, 10M coordinates: accumulator bytes "
                "a second over a memory copy's",
                bar=0.5,
            ),
        ),
    ),
    Case(
        "quantise-1m",
        "Quantise float32, stochastic",
        _quantise_1m,
        {"full": {"length": 1_000_000}, "tiny": {"length": 1000}},
        (
            Bar(
                id="quantise-1m/flower",
                text="quantise 1M float32, stochastic: times as fast as Flower",
                bar=15,
                peer="flwr",
            ),
        ),
    ),
    Case(
        "shamir",
        "Shamir's sharing of 32-byte secrets",
        _shamir,
        {
            "full": {"holders": 100, "threshold": 67, "batch": 100},
            "tiny": {"holders": 6, "threshold": 4, "batch": 3},
        },
        (
            Bar(
                id="shamir/split",
                text="Shamir split, 32-byte secret, n = 100, t = 67: times as fast as Flower",
                bar=300,
                peer="flwr",
            ),
            Bar(
                id="shamir/recover",
                text="Shamir recover, 32-byte secret, n = 100, t = 67: times as fast as Flower",
                bar=300,
                peer="flwr",
            ),
        ),
    ),
)

__all__ = ["CASES", "FORCE", "FORCED"]
