"""The plain fields of a plan."""

from __future__ import annotations

import math
from typing import Any, Protocol

from .errors import PlanError
from .roster import Roster


class PlanView(Protocol):
    """The fields of a plan that the rules of a protocol look at."""

    @property
    def roster(self) -> Roster: ...
    @property
    def protocol(self) -> Any: ...
    @property
    def threat(self) -> str: ...
    @property
    def colluding(self) -> int: ...
    @property
    def max_dropouts(self) -> int: ...
    @property
    def security_bits(self) -> int: ...
    @property
    def fixed_data(self) -> bool: ...
    @property
    def clients(self) -> int: ...
    @property
    def min_survivors(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def signed(self) -> bool: ...
    def graph_security(self) -> Any: ...


def claims_of(value: object) -> tuple[tuple[str, str | int | float], ...]:
    """Sorted (name, value) pairs, names once, values text or finite numbers."""
    wrong = PlanError(
        "(name, value) pairs of text and text or finite numbers",
        rule="field-types",
        field="privacy",
    )
    if not isinstance(value, (tuple, list)):
        raise wrong
    pairs: dict[str, str | int | float] = {}
    for pair in value:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or type(pair[0]) is not str:
            raise wrong
        name, claim = pair
        if type(claim) not in {str, int, float} or name in pairs:
            raise wrong
        if isinstance(claim, float) and not math.isfinite(claim):
            raise wrong
        if isinstance(claim, int) and abs(claim) >= 1 << 63:
            raise wrong
        if not (name.isprintable() and (not isinstance(claim, str) or claim.isprintable())):
            raise wrong
        pairs[name] = claim
    return tuple(sorted(pairs.items()))


def require_integer(value: object, name: str) -> None:
    """:class:`PlanError` for anything but an integer."""
    if type(value) is not int:
        raise PlanError("an integer", rule="field-types", field=name)
