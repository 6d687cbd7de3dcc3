"""What a simulation is asked for, and the defaults that a plan can keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secagg.sim.summing import AsDict
from secagg_protocols.paillier import PrivateKey
from secagg_protocols.plan import Threat

if TYPE_CHECKING:
    from secagg.dp.claims import Adjacency, Adversary
    from secagg_protocols.stages.noise import Law


@dataclass(frozen=True, slots=True, kw_only=True)
class PaillierSettings(AsDict):
    """Holders of a simulated Paillier sum, and their key.

    holders, threshold, colluding_holders: see `secagg_protocols.plan_paillier`; ``None`` takes
        the smallest threshold that is safe against a malicious server. key: dealt to the holders;
        ``None`` makes one of ``key_bits``. threads: cores that encrypting and opening may use.
    """

    holders: int = 5
    threshold: int | None = None
    colluding_holders: int = 0
    key_bits: int = 3072
    key: PrivateKey | None = field(default=None, repr=False)
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, and without the key: a report is no place for one."""
        values = {f: getattr(self, f) for f in ("holders", "threshold", "colluding_holders")}
        bits = self.key_bits if self.key is None else self.key.public.bits
        return {**values, "key_bits": bits, "threads": self.threads}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(AsDict):
    """What a simulation is asked for.

    threat, neighbours, colluding, max_dropouts: as in `Plan`; ``None`` takes a default that a
        plan can keep. drops: ``[ROUND/]STEP:SITE,SITE``; schedule: text of a TOML schedule.
    drop_rate: chance that a site leaves, per round (for fixed data: over the whole run).
    seed: of demonstration data and drawn schedules, and of nothing else.
    paillier: sums under Paillier's cryptosystem, opened by holders; ``None`` takes masked sums.
    """

    threat: Threat = "malicious-server"
    neighbours: int | None = None
    colluding: int | None = None
    max_dropouts: int | None = None
    drops: tuple[str, ...] = ()
    schedule: str = ""
    drop_rate: float = 0.0
    seed: int = 0
    paillier: PaillierSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy(AsDict):
    """Noise that a training is asked for; ``secagg.dp.calibrate`` checks and reaches it.

    epsilons: a training for each, with a budget of its own. delta: of each of them. clip: L2 bound
    of one site's update. adjacency, mechanism: see ``secagg.dp.calibrate``.
    """

    epsilons: tuple[float, ...]
    delta: float = 1e-5
    clip: float = 1.0
    adjacency: Adjacency = "zero-out"
    mechanism: Law = "discrete-gaussian"

    @property
    def adversary(self) -> Adversary:
        """Whom the budget is held against: noise of the server's own hides nothing from it."""
        central = self.mechanism == "central-discrete-gaussian"
        return "model-consumer" if central else "server"


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


__all__ = ["PaillierSettings", "Privacy", "Settings", "default_colluding", "default_dropouts"]
