"""Sessions over Paillier sums: those of the laboratory, under the short keys of the tests."""

from __future__ import annotations

from typing import Any

import secagg
from secagg.attacks.arena import paillier_session_world
from secagg.attacks.arena.paillier_session_world import SERVER, Lost, Played, nothing, shares_of

#: Bits of the keys; a module whose tests use them needs the fixture ``short_keys``.
BITS = 1024


def session_plan(n: int = 4, **changes: Any) -> secagg.Plan:
    """A small plan that sessions may have."""
    return paillier_session_world.session_plan(n, **({"bits": BITS} | changes))


__all__ = ["BITS", "SERVER", "Lost", "Played", "nothing", "session_plan", "shares_of"]
