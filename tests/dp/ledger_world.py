"""Plans with noise, and ledgers, for the tests of what they charge."""

from __future__ import annotations

import math
from typing import Any

import secagg
from secagg.attacks.arena.world import make_plan
from secagg.dp import DiscreteGaussianSum, compose
from secagg.dp.ledger import Ledger
from secagg_protocols.stages.noise import Noise

DELTA = 1e-5


def noisy_plan(n: int = 7, *, variance: int = 16_000_000, law: Any = None, **more: Any) -> Any:
    """Counts of up to 255 with noise; an input costs about a quarter of an epsilon."""
    noise = Noise(law=law or "discrete-gaussian", variance_levels2=variance)
    return make_plan(n, stages=(secagg.Integers(0, 255), noise), **more)


def tag(number: int) -> bytes:
    """A round context."""
    return number.to_bytes(32, "little")


def ledger(journal: Any = None, **more: Any) -> Ledger:
    """The ledger of site s0 over data that it calls nothing."""
    given: dict[str, Any] = {"site": "s0", "data": "", "epsilon": 1.0, "delta": DELTA} | more
    return Ledger(secagg.MemoryJournal() if journal is None else journal, **given)


def mechanism(plan: Any, adjacency: str) -> DiscreteGaussianSum:
    """What an input under :func:`noisy_plan` is, from the plan's numbers: the noise of the
    survivors that are sure to be there and honest, against one vector of counts, or two."""
    noise = plan.pipeline.noise
    norm = 255 * math.sqrt(plan.length)
    return DiscreteGaussianSum(
        local_variance_levels2=noise.variance_levels2,
        shares=plan.clients - plan.max_dropouts - plan.colluding,
        l2_levels=norm if adjacency == "zero-out" else 2 * norm,
        dimension=plan.length,
    )


def spent(plan: Any, rounds: int, delta: float = DELTA) -> float:
    """Epsilon of so many inputs under one plan."""
    return compose([(mechanism(plan, "zero-out"), rounds)], delta=delta) if rounds else 0.0
