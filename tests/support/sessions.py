"""Sessions played in one process: those of the laboratory, for the tests."""

from secagg.attacks.arena.session_world import (
    SERVER,
    Exchange,
    Inner,
    Parcel,
    Played,
    Reach,
    everybody,
    session_plan,
)

__all__ = ["SERVER", "Exchange", "Inner", "Parcel", "Played", "Reach", "everybody", "session_plan"]
