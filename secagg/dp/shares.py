"""Who carries the noise: dropouts, colluders, and the bit of an adaptive clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secagg_protocols.errors import MisuseError


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """Ways to have enough noise where sites may be missing or collude.

    Factors are variances of the noise in a full sum over that of a sum whose every site is
    honest and survives. over_provisioned: each site adds as much as the worst case needs; it is
    what this package does. removed: seeds of excess noise are revealed after the fact (XNoise),
    which leaves colluders alone to be paid for. left_if_split: where noise is split over all sites
    instead, what is left of it in the worst case.
    """

    over_provisioned: float
    removed: float
    left_if_split: float


def provision(clients: int, max_dropouts: int, colluding: int) -> Provision:
    """The excess of over-provisioning, beside its alternatives (all factors of variance)."""
    _check_sites(clients, max_dropouts, colluding)
    honest = clients - max_dropouts - colluding
    return Provision(
        over_provisioned=clients / honest,
        removed=clients / (clients - colluding),
        left_if_split=honest / clients,
    )


def noise_components(clients: int, max_dropouts: int) -> list[float]:
    """Variances that each site would add to remove some of them again (XNoise, EuroSys 2024).

    In units of the central variance: first the base ``1 / n``, then for j = 1, 2, ... the part
    ``1 / ((n - j)(n - j + 1))`` that stays only where j sites are missing. They add up to
    ``1 / (n - D)``, what over-provisioning adds at once. For comparison: no plan uses it.
    """
    _check_sites(clients, max_dropouts, 0)
    return [1 / clients] + [
        1 / ((clients - j) * (clients - j + 1)) for j in range(1, max_dropouts + 1)
    ]


def _check_sites(clients: int, max_dropouts: int, colluding: int) -> None:
    whole = all(type(value) is int for value in (clients, max_dropouts, colluding))
    if not whole or min(max_dropouts, colluding) < 0 or clients <= max_dropouts + colluding:
        raise MisuseError("numbers of sites, of which an honest one is left", rule="arguments")


def vector_multiplier(noise_multiplier: float, count_stddev: float) -> float:
    """Noise multiplier that is left for the vector where a count travels beside it.

    ``noise_multiplier``: of both together; ``count_stddev``: of the noise in the number of sites
    within an adaptive clip, whose sensitivity is half a site. Source: Andrew, Thakkar, McMahan,
    Ramaswamy (NeurIPS 2021), section 3.1, which takes a twentieth of the sites.
    """
    for value in (noise_multiplier, count_stddev):
        if not isinstance(value, (int, float)) or not value > 0:
            raise MisuseError(f"a positive number, not {value!r}", rule="arguments")
    left = (1 / noise_multiplier) ** 2 - (0.5 / count_stddev) ** 2
    if not left > 0:
        raise MisuseError("the count alone takes more than all of the noise", rule="arguments")
    return 1 / math.sqrt(left)
