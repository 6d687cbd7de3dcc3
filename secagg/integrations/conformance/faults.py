"""What can go wrong in a schedule, in plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """One thing that goes wrong."""

    # With one message: ``round``, ``slot`` and ``party`` of the fault say which.
    DROP = "drop"  # the request never arrives
    LOSE = "lose"  # it is handled, and the reply is lost
    TWICE = "twice"  # the request arrives twice; both replies arrive
    REPEAT = "repeat"  # the reply arrives twice
    LATE = "late"  # the reply arrives in the next exchange
    GARBLE_REQUEST = "garble-request"  # one byte of the request is changed
    GARBLE_REPLY = "garble-reply"  # one byte of the reply is changed
    RESTART = "restart"  # after its reply the party's process ends
    # With the process that handles it, by SIGKILL: the next one has the party's folder alone.
    KILL_BEFORE = "kill-before"
    KILL_JOURNAL = "kill-journal"  # after a record of the journal, before the state is stored
    KILL_STATE = "kill-state"  # after the state was stored, while the reply is being made
    KILL_REPLY = "kill-reply"  # everything is stored, and the reply was not sent
    # With a site's training in one round.
    RAISES = "raises"  # an exception with a secret in its text
    NAN = "nan"
    HEAVY = "heavy"  # a weight above the plan's largest
    VARIES = "varies"  # another vector each time that it is asked
    # With a party from the beginning on.
    WRONG_PLAN = "wrong-plan"
    WRONG_ROSTER = "wrong-roster"
    WRONG_IDENTITY = "wrong-identity"
    TWIN = "twin"  # a second node with the party's folder
    STRANGER = "stranger"  # one more node, which the roster does not have
    # With the server's program, after an exchange whose replies it no longer takes.
    SERVER_RESTART = "server-restart"


#: With one message.
MESSAGE: Final = (
    Kind.DROP,
    Kind.LOSE,
    Kind.TWICE,
    Kind.REPEAT,
    Kind.LATE,
    Kind.GARBLE_REQUEST,
    Kind.GARBLE_REPLY,
    Kind.RESTART,
    Kind.KILL_BEFORE,
    Kind.KILL_JOURNAL,
    Kind.KILL_STATE,
    Kind.KILL_REPLY,
)
KILLS: Final = (Kind.KILL_BEFORE, Kind.KILL_JOURNAL, Kind.KILL_STATE, Kind.KILL_REPLY)
TRAINING: Final = (Kind.RAISES, Kind.NAN, Kind.HEAVY)
CONFIGURATION: Final = (Kind.WRONG_PLAN, Kind.WRONG_ROSTER, Kind.WRONG_IDENTITY)
NODES: Final = (Kind.TWIN, Kind.STRANGER)
#: A party that meets one of these has lost nothing, and has to be in the sum.
HARMLESS: Final = (Kind.TWICE, Kind.REPEAT, Kind.RESTART, Kind.VARIES)

#: What an adapter may say that its framework cannot do, by kind of fault.
FEATURES: Final = {
    Kind.DROP: "drop",
    Kind.LOSE: "drop",
    Kind.GARBLE_REQUEST: "garble",
    Kind.GARBLE_REPLY: "garble",
    Kind.TWICE: "duplicate",
    Kind.REPEAT: "duplicate",
    Kind.VARIES: "duplicate",
    Kind.LATE: "late",
    Kind.RESTART: "restart",
    **dict.fromkeys(KILLS, "kill"),
    **dict.fromkeys(TRAINING, "training"),
    **dict.fromkeys(CONFIGURATION, "configuration"),
    **dict.fromkeys(NODES, "nodes"),
    Kind.SERVER_RESTART: "server-restart",
}
#: Others, which are no faults.
WEIGHTS: Final = "weights"
STRATEGIES: Final = "strategies"
EXCHANGES: Final = "exchanges"
ALL_FEATURES: Final = frozenset({*FEATURES.values(), WEIGHTS, STRATEGIES, EXCHANGES})


def unknown(words: Iterable[str]) -> list[str]:
    """Those that are neither a feature nor a kind of fault in one exchange, ``"late in hello"``."""
    kinds = {kind.value for kind in MESSAGE}
    return sorted(
        word for word in words if word not in ALL_FEATURES and word.split(" in ")[0] not in kinds
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule.

    party: a name of the roster. round: from 0. slot: of a message, such as ``"input"``. at: from 0
    to 1, where there is a choice: which byte is changed, and at which record a process dies.
    """

    kind: Kind
    party: str = ""
    round: int = 0
    slot: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        place = f" in {self.slot} of round {self.round}" if self.slot else f" in round {self.round}"
        who = f" at {self.party}" if self.party else ""
        return f"{self.kind}{who}{place}{f', {self.at:g}' if self.at else ''}"


__all__ = [
    "ALL_FEATURES",
    "CONFIGURATION",
    "EXCHANGES",
    "FEATURES",
    "HARMLESS",
    "KILLS",
    "MESSAGE",
    "NODES",
    "STRATEGIES",
    "TRAINING",
    "WEIGHTS",
    "Fault",
    "Kind",
    "unknown",
]
