"""What a simulation is asked for, and the defaults that a plan can keep."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.sim.summing import AsDict
from secagg_protocols.plan import Threat


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(AsDict):
    """What a simulation is asked for.

    threat, neighbours, colluding, max_dropouts: as in `Plan`; ``None`` takes a default that a
        plan can keep. drops: ``[ROUND/]STEP:SITE,SITE``; schedule: text of a TOML schedule.
    drop_rate: chance that a site leaves, per round (for fixed data: over the whole run).
    seed: of demonstration data and drawn schedules, and of nothing else.
    """

    threat: Threat = "malicious-server"
    neighbours: int | None = None
    colluding: int | None = None
    max_dropouts: int | None = None
    drops: tuple[str, ...] = ()
    schedule: str = ""
    drop_rate: float = 0.0
    seed: int = 0


def default_colluding(clients: int, most: int | None = None, *, share: int = 5) -> int:
    """Colluders that a plan counts with: one site in ``share``, fewer where it cannot bear them.

    most: sites that may be missing, where that is settled.
    """
    wanted = max(1, clients // share)
    if most is not None:
        # Malicious server: a threshold t with 2t > n + c and t <= n - most; three honest stay.
        wanted = min(wanted, clients - 2 * most - 1, clients - most - 3)
    return max(1, wanted)


def default_dropouts(clients: int, colluding: int) -> int:
    """Dropouts that a plan bears: three sites in ten, fewer where the threshold allows fewer."""
    threshold = (clients + colluding) // 2 + 1
    return max(0, min(3 * clients // 10, clients - threshold, clients - colluding - 3))


__all__ = ["Settings", "default_colluding", "default_dropouts"]
