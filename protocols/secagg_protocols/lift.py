"""From ring elements back to integers, tile by tile: memory is the result and nothing besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from secagg_native import bitpack

from .plan import Plan
from .stages.base import tiles
from .wire import Buffer


def lift(plan: Plan, ring: Any) -> Any:
    """The sum as int64 from ring elements modulo 2^wire_bits.

    The window is the range that a sum over all clients may have, so no honest sum wraps.
    """

    def read(out: Any, start: int) -> None:
        out[:] = ring[start : start + out.shape[0]]

    return _lifted(plan, read)


def lift_packed(plan: Plan, packed: Buffer) -> Any:
    """The same from the packed form that travels."""

    def read(out: Any, start: int) -> None:
        bitpack.unpack(packed, plan.wire_bits, out, start)

    return _lifted(plan, read)


def _lifted(plan: Plan, read: Callable[[Any, int], None]) -> Any:
    """``read(out, start)`` writes ring elements, from ``start`` on, into uint64[n]."""
    out = np.empty(plan.ring_length, dtype=np.int64)
    words = out.view(np.uint64)
    mask = np.uint64((1 << plan.wire_bits) - 1)
    windows = []
    at = 0
    for span, count in plan.pipeline.sum_span(plan.clients):
        windows.append((at, at + count, np.uint64(span.low % (1 << 64))))
        at += count
    for start, stop in tiles(plan.ring_length):
        read(words[start:stop], start)
        for first, last, low in windows:
            part = words[max(first, start) : min(last, stop)]
            part -= low
            part &= mask
            part += low
    return out
