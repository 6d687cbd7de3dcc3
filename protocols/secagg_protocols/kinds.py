"""What a message type is. Who only reads messages needs no party for it."""

from __future__ import annotations

from dataclasses import dataclass

from .events import Step
from .wire import Header


@dataclass(frozen=True, slots=True)
class Kind:
    """One message type: who sends it, in which step, under which context."""

    number: int
    step: Step
    header: type[Header]
    from_site: bool
    per_round: bool  # False: bound to the setup context, which no model has touched
    #: Roles; by default what a site sends is for the server, and everything else is its answer.
    sender: str = ""
    to: str = ""

    def __post_init__(self) -> None:
        site = self.from_site
        object.__setattr__(self, "sender", self.sender or ("client" if site else "server"))
        object.__setattr__(self, "to", self.to or ("server" if site else "client"))


__all__ = ["Kind"]
