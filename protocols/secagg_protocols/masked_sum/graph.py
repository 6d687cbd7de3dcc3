"""Who shares a mask with whom: the complete graph, or a random k-regular one (SecAgg+)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from secagg_native import keystream

from ..keys import hkdf
from ..plan import Plan, masked_of


def complete(site: int, clients: int) -> tuple[int, ...]:
    """Everybody else, in ascending order."""
    return (*range(site), *range(site + 1, clients))


class Complete(Sequence[tuple[int, ...]]):
    """The complete graph, row by row: its n (n - 1) entries are never stored."""

    def __init__(self, clients: int) -> None:
        self._clients = clients

    def __len__(self) -> int:
        return self._clients

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        sites = range(self._clients)[index]
        if isinstance(sites, range):
            return [complete(site, self._clients) for site in sites]
        return complete(sites, self._clients)


def draw(plan: Plan, seed: bytes) -> Sequence[tuple[int, ...]]:
    """Neighbours of every site of the roster, ascending.

    A Harary graph H(k, n) on a uniformly random permutation of the *whole* roster (Bell et al.,
    CCS 2020, section 3): a site that has not advertised is a dropout of this graph. Drawn over
    the advertisers only, early dropouts would raise the colluders' share.
    """
    n, k = plan.clients, masked_of(plan).neighbours
    if plan.complete:
        return Complete(n)
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
