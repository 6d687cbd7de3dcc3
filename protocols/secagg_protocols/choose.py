"""Choosing what a plan recommends: graph, share threshold, and the reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from .errors import PlanError
from .parameters import GraphSecurity, graph_parameters, graph_security

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


def recommended(
    n: int,
    threat: str,
    colluding: int,
    max_dropouts: int,
    neighbours: int | None,
    security_bits: int,
    fixed_data: bool,
) -> MaskedSum:
    """Graph and share threshold for ``neighbours``, or the best ones for ``None``."""
    one_set = fixed_data or threat == "malicious-server"
    if neighbours is None:
        found = None if one_set else sparse(n, colluding, max_dropouts, security_bits)
        return found or complete(n, colluding, max_dropouts, one_set)
    if neighbours == n - 1:
        return complete(n, colluding, max_dropouts, one_set)
    if one_set or neighbours % 2:
        # The plan itself names what is wrong with such a graph.
        return MaskedSum(share_threshold=2, neighbours=neighbours)
    return fitted(n, colluding, max_dropouts, neighbours, security_bits)


def complete(n: int, colluding: int, max_dropouts: int, one_set: bool) -> MaskedSum:
    # The two-list law also protects a semi-honest plan against a server that turns, and every
    # share beyond the threshold is one that may be wrong, so the threshold is not raised above.
    t = max((n + colluding) // 2 + 1, 2)
    if t > n - max_dropouts and not one_set:
        t = max(n - max_dropouts, 2)
    if t > n - max_dropouts:
        raise PlanError(
            f"{n} sites with {colluding} colluding, against a malicious server or over fixed data, "
            f"need {t} survivors and so bear at most {max(0, n - t)} dropouts",
            rule="one-survivor-set",
            field="max_dropouts",
        )
    return MaskedSum(share_threshold=t, neighbours=n - 1)


def sparse(n: int, colluding: int, max_dropouts: int, security_bits: int) -> MaskedSum | None:
    if n < SPARSE_FROM:
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


def graph_reasons(
    n: int, c: int, survive: int, chosen: MaskedSum, found: GraphSecurity | None, rounds: int
) -> list[str]:
    """Why graph and share threshold do; ``found`` is the security of a sparse graph."""
    k, t = chosen.neighbours, chosen.share_threshold
    if found is None:
        law = "exceeds" if 2 * t > n + c else "does not exceed"
        return [
            f"Complete graph: every site shares a mask with all {k} others.",
            f"share_threshold {t}: above the {c} colluding, at most the {survive} sure survivors, "
            f"and 2 x {t} {law} {n} + {c}, so "
            + (
                "no server can have two survivor sets revealed."
                if 2 * t > n + c
                else "only a server that follows the protocol is safe."
            ),
        ]
    return [
        f"Sparse graph of {k} neighbours, redrawn each round: {in_bits(found.capture_bits)} "
        f"against captured neighbours, {in_bits(found.connectivity_bits)} against a split graph, "
        f"together {in_bits(found.security_bits)} a round; over {rounds} round(s) "
        f"{in_bits(found.security_bits - math.log2(max(1, rounds)))} remain.",
        f"share_threshold {t}: {in_bits(found.correctness_bits)} against a round that fails for "
        "lack of shares.",
    ]


def in_bits(value: float) -> str:
    """A number of bits for people."""
    return "certainty" if math.isinf(value) else f"{value:.1f} bits"


def release_reasons(
    most_inputs: int | None, *, fixed_data: bool, min_honest: int, colluding: int
) -> list[str]:
    """What several sums of one model, or of the same data, may show."""
    lines = []
    if fixed_data:
        lines.append(
            "Fixed data: a site confirms a sum only if all its sites were in the sum before, and "
            f"if at least {min_honest + colluding} sites ({min_honest} honest + {colluding} "
            "colluding) have left where any have. Otherwise the analysis ends, so a site that "
            "leaves alone ends it. A later plan over these data needs a share threshold t with "
            "2 t above all sites that any of their plans names, plus the colluding ones."
        )
    if most_inputs is None and not fixed_data:
        lines.append(
            "max_inputs_per_model is not stated: retries are not limited, and two sums of one "
            "model may differ in a single site. A session refuses such a plan."
        )
    elif most_inputs == 1:
        lines.append(
            "max_inputs_per_model 1, no retry: a round that is aborted after the inputs loses "
            "that model's step."
        )
    elif most_inputs is not None:
        retries = "one retry" if most_inputs == 2 else f"{most_inputs - 1} retries"
        charged = "twice" if most_inputs == 2 else f"up to {most_inputs} times"
        lines.append(
            f"max_inputs_per_model {most_inputs}, {retries}. Price: two sums of one model may "
            "differ in as little as one site, so their difference can be that site's vector, up "
            f"to what noise hides; and a privacy ledger is charged {charged} for the model. With "
            "1, an aborted round loses that model's step instead."
        )
    return lines
