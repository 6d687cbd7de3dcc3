"""Which lists a server tells whom: every holder of a share votes on a site by what it was told.

A holder that was told that a site survived reveals a share of its self seed, one that was told
that it dropped a share of its mask seed. A server that tells them different things collects votes
of both kinds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

Sites = frozenset[int]


def lists(n: int, least: int) -> list[Sites]:
    """All site lists of ``least`` sites or more: what the sites of a plan may believe."""
    return [
        frozenset(part)
        for size in range(least, n + 1)
        for part in itertools.combinations(range(n), size)
    ]


def splits(n: int, colluding: int, least: int) -> Iterator[tuple[Sites, ...]]:
    """Every assignment of survivor lists to the honest sites, one of each class under renaming.

    Sites 0..colluding-1 collude. A site that is not in its own list was late and answers nothing,
    so only lists that hold the site matter. Honest sites are interchangeable, and so are
    colluding ones: of the assignments that a renaming maps to each other, the smallest is kept.
    """
    honest = range(colluding, n)
    options = [[s for s in lists(n, least) if h in s] for h in honest]
    masks = [np.array([sum(1 << x for x in s) for s in row]) for row in options]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*masks, indexing="ij")])
    smallest = np.full(grid.shape[1], np.iinfo(np.int64).max)
    for first in itertools.permutations(range(colluding)):
        for second in itertools.permutations(honest):
            move = (*first, *second)
            renamed = np.array(
                [sum(1 << move[x] for x in range(n) if m >> x & 1) for m in range(1 << n)]
            )
            code = np.zeros(grid.shape[1], dtype=np.int64)
            for row, h in enumerate(honest):
                code += renamed[grid[row]] << (n * (move[h] - colluding))
            smallest = np.minimum(smallest, code)
    for place in np.unique(smallest, return_index=True)[1]:
        chosen = np.unravel_index(place, [len(row) for row in options])
        yield tuple(row[int(i)] for row, i in zip(options, chosen, strict=True))


def two_lists(
    n: int, victim: int, holders: Collection[int], colluding: Collection[int], threshold: int
) -> dict[int, Sites]:
    """The best two lists against one site: as few as can be are told that it survived.

    holders: of the victim's shares, itself among them. Whoever colludes answers both ways, so
    the first list needs ``threshold`` less the colluding holders; all others hear the second.
    """
    everybody = frozenset(range(n))
    honest = sorted(set(holders) - set(colluding) - {victim})
    need = threshold - len(set(holders) & set(colluding))
    alive = {victim, *honest[: max(0, need - 1)]}
    told = {site: everybody - {victim} for site in everybody - set(colluding)}
    return told | dict.fromkeys(alive, everybody)


def two_list_law(holders: int, colluding: int, threshold: int) -> bool:
    """Whether two lists open a site: 2 t <= holders + colluding holders (CCS 2017, section 6)."""
    return 2 * threshold <= holders + colluding


def vote_split(
    holders: Sequence[Sites],
    target: Collection[int],
    colluding: Collection[int],
    threshold: int,
    most: Mapping[int, int],
) -> dict[int, Sites]:
    """Whom each honest site is told to have dropped, so that all but ``target`` can be removed.

    holders: by site, those who hold its shares. most: by site, the most sites it may miss. Each
    site outside the target needs ``threshold`` holders that miss it, colluding ones included.
    As many as possible are served (augmenting paths); those that are not lack votes.
    """
    missed: dict[int, set[int]] = {h: set() for h in most}
    for site in sorted(most):
        if site in target:
            continue
        need = threshold - len(holders[site] & frozenset(colluding))
        for _ in range(max(0, need)):
            _place(site, holders, missed, most, set())
    return {h: frozenset(sites) for h, sites in missed.items()}


def _place(
    site: int,
    holders: Sequence[Sites],
    missed: dict[int, set[int]],
    most: Mapping[int, int],
    tried: set[int],
) -> bool:
    """One more holder that misses ``site``, where need be by moving another site elsewhere."""
    able = [h for h in sorted(holders[site]) if h != site and h in missed and h not in tried]
    able = [h for h in able if site not in missed[h]]
    able.sort(key=lambda h: len(missed[h]) - most[h])
    for holder in able:
        if holder in tried:
            continue
        tried.add(holder)
        if len(missed[holder]) < most[holder]:
            missed[holder].add(site)
            return True
        for other in sorted(missed[holder]):
            if _place(other, holders, missed, most, tried):
                missed[holder].remove(other)
                missed[holder].add(site)
                return True
    return False


def smallest_isolated(n: int, colluding: int, threshold: int, least: int) -> int:
    """Fewest honest sites whose sum lists of ``least`` sites can isolate, on the complete graph.

    Each of the h = n - colluding honest sites may miss n - least of them, and a site is removed
    by threshold - colluding honest sites that miss it: h (1 - (n - least) / (t - c)) remain,
    rounded up, and one at least. Counting argument; a site never misses itself.
    """
    honest, votes = n - colluding, threshold - colluding
    if votes > honest - 1:
        return honest
    return max(1, math.ceil(honest - honest * (n - least) / votes))


__all__ = [
    "lists",
    "smallest_isolated",
    "splits",
    "two_list_law",
    "two_lists",
    "vote_split",
]
