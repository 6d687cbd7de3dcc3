"""For every rule of a privacy ledger, the attack that it stops: its negative vector.

It needs what ``secagg[dp]`` installs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import secagg
from secagg.dp import DiscreteGaussianSum, ledger
from secagg.dp.ledger import MOST_MECHANISMS, Ledger
from secagg_protocols.stages import Noise

from .played import Scenario, ended
from .world import make_plan

DELTA: Final = 1e-5


def _plan(law: Any = "discrete-gaussian", variance: int = 16_000_000, **more: Any) -> secagg.Plan:
    """Counts of up to 255 with noise; an input costs about a quarter of an epsilon."""
    noise = Noise(law=law, variance_levels2=variance)
    return make_plan(7, stages=(secagg.Integers(0, 255), noise), **more)


def _tag(number: int) -> bytes:
    """A round context."""
    return number.to_bytes(32, "little")


def made(kind: type[Ledger], journal: Any = None, **more: Any) -> Ledger:
    """A ledger of site s0."""
    given: dict[str, Any] = {"data": "", "epsilon": 1.0, "delta": DELTA} | more
    return kind(journal or secagg.MemoryJournal(), "s0", **given)


def another_owner(kind: type[Ledger]) -> bool:
    """The budget of other data, in another journal."""
    made(kind, data="other").serve(secagg.MemoryJournal(), "s0", "")
    return True


def another_adjacency(kind: type[Ledger]) -> bool:
    """Charges of one data set under two adjacencies."""
    journal = secagg.MemoryJournal()
    made(Ledger, journal).charge(_plan(), _tag(0))
    made(kind, journal, adjacency="replace-one").charge(_plan(), _tag(1))
    return True


def no_noise(kind: type[Ledger]) -> bool:
    """The server's own noise, which a calibration knows and the site's input has not."""
    central = _plan(law="central-discrete-gaussian", variance=1 << 30, threat="semi-honest")
    made(kind).charge(central, _tag(0))
    return True


def one_mechanism_more(kind: type[Ledger]) -> bool:
    """One more mechanism than a register holds."""
    charges: dict[Any, int] = {
        DiscreteGaussianSum(
            local_variance_levels2=1 << 60, shares=at, l2_levels=1.0, dimension=1
        ): 1
        for at in range(1, MOST_MECHANISMS + 1)
    }
    kept = made(kind)
    full = ledger._Kept(charges, (_tag(0),), (DELTA, 0.0))
    kept.journal.swap(kept._register, b"", ledger._pack(full, "zero-out"))
    kept.charge(_plan(), _tag(1))
    return True


def overspent(kind: type[Ledger]) -> bool:
    """An input that costs more than the whole budget."""
    made(kind, epsilon=0.01).charge(_plan(), _tag(0))
    return True


ATTACKS: Final[dict[str, Callable[[type[Ledger]], bool]]] = {
    "ledger-owner": another_owner,
    "ledger-adjacency": another_adjacency,
    "no-noise": no_noise,
    "ledger-full": one_mechanism_more,
    "budget": overspent,
}


def vector(rule: str) -> Scenario | None:
    """The negative vector of a rule, if it has one."""
    attack = ATTACKS.get(rule)
    return None if attack is None else lambda kind: ended(lambda: attack(kind))


__all__ = ["ATTACKS", "made", "vector"]
