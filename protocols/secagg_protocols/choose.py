"""Choosing the graph and the share threshold that a plan recommends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import PlanError
from .parameters import graph_parameters, graph_security

#: A recommended sparse graph fails for lack of shares with probability at most 2^-20 a round.
CORRECTNESS_BITS: Final = 20
#: Below this many sites the complete graph costs little and tolerates a server that turns.
SPARSE_FROM: Final = 65


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSum:
    """Pairwise masking (SecAgg, CCS 2017; SecAgg+, CCS 2020).

    ``share_threshold`` shares of one site's secrets rebuild them; ``neighbours`` is the degree
    of the graph, ``clients - 1`` for the complete one.
    """

    share_threshold: int
    neighbours: int


def complete(n: int, threat: str, colluding: int, max_dropouts: int) -> MaskedSum:
    # The two-list law also protects a semi-honest plan against a server that turns, and every
    # share beyond the threshold is one that may be wrong, so the threshold is not raised above.
    t = max((n + colluding) // 2 + 1, 2)
    if t > n - max_dropouts and threat == "semi-honest":
        t = max(n - max_dropouts, 2)
    if t > n - max_dropouts:
        raise PlanError(
            f"{n} sites with {colluding} colluding against a malicious server need {t} survivors "
            f"and so bear at most {max(0, n - t)} dropouts",
            rule="one-survivor-set",
            field="max_dropouts",
        )
    return MaskedSum(share_threshold=t, neighbours=n - 1)


def sparse(
    n: int, threat: str, colluding: int, max_dropouts: int, security_bits: int
) -> MaskedSum | None:
    if threat != "semi-honest" or n < SPARSE_FROM:
        return None
    try:
        found = graph_parameters(
            n, colluding / n, max_dropouts / n, threat="semi-honest", security_bits=security_bits
        )
    except (PlanError, ZeroDivisionError):
        return None
    security = graph_security(n, colluding, max_dropouts, found.neighbours, found.threshold)
    # The published search does not look at correctness again after raising a threshold of 1 to
    # 2, which for small cohorts gives graphs that mostly fail; those take the complete graph.
    if security.security_bits < security_bits or security.correctness_bits < CORRECTNESS_BITS:
        return None
    return MaskedSum(share_threshold=found.threshold, neighbours=found.neighbours)


def fitted(
    n: int, colluding: int, max_dropouts: int, neighbours: int, security_bits: int
) -> MaskedSum:
    # The lowest threshold that is safe leaves the most room for dropouts.
    for t in range(2, neighbours + 2):
        if graph_security(n, colluding, max_dropouts, neighbours, t).security_bits >= security_bits:
            return MaskedSum(share_threshold=t, neighbours=neighbours)
    raise PlanError(
        f"{neighbours} neighbours cannot give {security_bits} bits with {colluding} colluding "
        f"and {max_dropouts} dropouts",
        rule="sparse-security",
        field="neighbours",
    )
