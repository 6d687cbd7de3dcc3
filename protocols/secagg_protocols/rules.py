"""The form of a rule table: every security check by id."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One check.

    id: what errors, tests, specification and laboratory call it.
    party: ``"plan"``, ``"party"`` (both), ``"client"`` or ``"server"``.
    step: where it is applied.
    checks: what must hold.
    error: the error's class name.
    attack: what it stops.
    also: ids of rules that would still stop its negative vector were it switched off.
    """

    id: str
    party: str
    step: str
    checks: str
    error: str
    attack: str
    also: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Name of the one method that applies it."""
        return "_check_" + self.id.replace("-", "_")
