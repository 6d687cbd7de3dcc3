"""Who shares a mask with whom: the complete graph, or a random k-regular one (SecAgg+)."""

from __future__ import annotations

import numpy as np

from secagg_native import keystream

from ..keys import hkdf
from ..plan import Plan


def complete(site: int, clients: int) -> tuple[int, ...]:
    """Everybody else, in ascending order."""
    return (*range(site), *range(site + 1, clients))


def draw(plan: Plan, seed: bytes) -> list[tuple[int, ...]]:
    """Neighbours of every site of the roster, ascending.

    A Harary graph H(k, n) on a uniformly random permutation of the *whole* roster (Bell et al.,
    CCS 2020, section 3): a site that has not advertised is a dropout of this graph. Drawn over
    the advertisers only, early dropouts would raise the colluders' share.
    """
    n, k = plan.clients, plan.protocol.neighbours
    if plan.complete:
        return [complete(site, n) for site in range(n)]
    material = hkdf(seed, b"secagg graph v1", 24)
    words = keystream(material[:16], material[16:], 2 * n, np.uint64)
    # Sorting by 128 random bits is a uniform permutation up to a tie, of probability n^2/2^129.
    order = np.lexsort((words[:n], words[n:]))
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    half = np.arange(1, k // 2 + 1)
    offsets = np.concatenate((half, -half))
    near = order[(place[:, None] + offsets[None, :]) % n]
    near.sort(axis=1)
    return [tuple(row) for row in near.tolist()]
