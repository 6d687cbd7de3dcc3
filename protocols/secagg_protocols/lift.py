"""From ring elements back to integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .plan import Plan


def lift(plan: Plan, ring: Any) -> Any:
    """The sum as int64 from ring elements modulo 2^wire_bits.

    The window is the range that a sum over all clients may have, so no honest sum wraps.
    """
    bits = plan.wire_bits
    out = np.empty(plan.ring_length, dtype=np.int64)
    at = 0
    for span, count in plan.pipeline.sum_span(plan.clients):
        part = ring[at : at + count].astype(np.uint64)
        low = np.uint64(span.low % (1 << 64))
        part -= low
        if bits < 64:
            part &= np.uint64((1 << bits) - 1)
        part += low
        out[at : at + count] = part.view(np.int64)
        at += count
    return out
