"""Cases without bars: speed over length, and over threads."""

from __future__ import annotations

from typing import Final

from . import machine, measure, peers, works
from .sheet import Case, NotHereError, Sheet

_GIGA: Final = 1e9


def _speed(samples: list[float], size: float) -> list[float]:
    """Gigabytes a second of each sample."""
    return [size / seconds / _GIGA for seconds in samples]


def _masks_over_length(sheet: Sheet) -> None:
    keys = sheet.sizes["keys"]
    with_flower = not peers.left_out(sheet.given).get("flwr")
    curves: dict[str, dict[float, list[float]]] = {}
    for length in sheet.sizes["lengths"]:
        size = 4 * length * keys
        group = {"secagg": works.mask(length, keys)}
        try:
            group["register-only AES loop"] = works.aes_limit(size)
        except NotHereError as missing:
            if str(missing) not in sheet.notes:
                sheet.notes.append(str(missing))
        amounts = dict.fromkeys(group, size)
        if with_flower and length <= sheet.sizes["peer_most"]:
            group["Flower"] = peers.flower_mask(length)
            amounts["Flower"] = 4 * length
        for name, samples in sheet.alternate(group, seconds=0.0).items():
            curves.setdefault(name, {})[length] = _speed(samples, amounts[name])
    for name, points in curves.items():
        sheet.curve("mask-speed", name, points)


def _kernels_over_length(sheet: Sheet) -> None:
    curves: dict[str, dict[float, list[float]]] = {}
    for length in sheet.sizes["lengths"]:
        # Bytes: of the accumulator, of the float32 input, of the float64 output.
        group = {
            "unpack and add, 20 bits": (works.unpack_add(length, 20), 4 * length),
            "pack, 20 bits": (works.pack(length, 20), 4 * length),
            "quantise float32": (works.quantised(length), 4 * length),
            "dequantise to float64": (works.dequantised(length), 8 * length),
            "memory copy": (works.copy(4 * length), 4 * length),
        }
        try:
            # There and back are two rotations of the padded vector.
            padded = 1 << (length - 1).bit_length()
            group["rotate float32"] = (works.rotated(length), 2 * 4 * padded)
        except NotHereError as missing:
            if str(missing) not in sheet.notes:
                sheet.notes.append(str(missing))
        found = sheet.alternate({name: work for name, (work, _) in group.items()}, seconds=0.0)
        for name, samples in found.items():
            curves.setdefault(name, {})[length] = _speed(samples, group[name][1])
    for name, points in curves.items():
        sheet.curve("kernel-speed", name, points)


def _threads(sheet: Sheet) -> None:
    length, keys = sheet.sizes["length"], sheet.sizes["keys"]
    size, most = 4 * length * keys, min(sheet.given.threads, machine.cores())
    wanted = sorted({1, *(2**i for i in range(most.bit_length()) if 2**i <= most), most})
    works_by_count = {str(count): works.mask(length, keys, threads=count) for count in wanted}
    found = sheet.alternate(works_by_count)
    base = measure.spread(found["1"]).median
    sheet.curve(
        "threads",
        "secagg",
        {int(name): [base / seconds for seconds in samples] for name, samples in found.items()},
    )
    sheet.line("threads", "ideal", {count: float(count) for count in wanted}, dashed=True)
    for name, samples in found.items():
        sheet.timed(f"mask, {name} thread{'s' if name != '1' else ''}", samples, size, "bytes")


_LENGTHS: Final = [1000, 4000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000, 16_000_000]

CASES: Final = (
    Case(
        "mask-speed",
        "Speed of masking over length",
        _masks_over_length,
        {
            "full": {"lengths": _LENGTHS, "keys": 10, "peer_most": 1_000_000},
            "quick": {"lengths": [1000, 30_000, 1_000_000], "keys": 10, "peer_most": 1_000_000},
            "tiny": {"lengths": [100, 1000], "keys": 2, "peer_most": 1000},
        },
    ),
    Case(
        "kernel-speed",
        "Speed of the other kernels over length",
        _kernels_over_length,
        {
            "full": {"lengths": _LENGTHS},
            "quick": {"lengths": [1000, 30_000, 1_000_000]},
            "tiny": {"lengths": [100, 1000]},
        },
    ),
    Case(
        "thread-scaling",
        "Masking over threads",
        _threads,
        {
            "full": {"length": 4_000_000, "keys": 50},
            "quick": {"length": 1_000_000, "keys": 20},
            "tiny": {"length": 40_000, "keys": 2},
        },
    ),
)

__all__ = ["CASES"]
