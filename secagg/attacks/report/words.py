"""What the reports say in words: the study, who sees what, the verdicts."""

from __future__ import annotations

from typing import Final

from secagg.attacks.catalogue import ATTACKS
from secagg.attacks.columns import COLUMNS

STUDY: Final = (
    "Several hospitals or companies (sites) compute something together: counts for a survival "
    "analysis, or the updates of a model in training. Each site computes its own part on its own "
    "records, which never leave it. A server needs only the sum of the parts. Secure aggregation "
    "makes that sum without showing the parts: each site hides its part before it sends it, in "
    "such a way that the hiding cancels out in the sum, or opens only there."
)
_HOW: Final = (
    "by a program of its own that was given what such an attacker would have, and nothing else. "
    "To show that an attack is a real one, it was also carried out on a weakened copy, in which "
    "exactly the protection under test is switched off: there it has to succeed."
)
#: What a run with few attempts is good for.
QUICK: Final = "Quick run: few attempts, for a look and not for a decision."
#: Why the noise column has no protection against the server.
NOISE: Final = (
    "Noise is shown on a semi-honest plan, so that its effect is seen alone. It can be added to a "
    "malicious-server plan."
)
#: A mark behind verdicts, and what it means.
BEYOND: Final = "†"
STRONGER: Final = "The attacker is stronger than the plan of this column says it withstands."


def tested(attacks: int, protocols: int) -> str:
    """What was tested, as far as it was; empty where nothing was."""
    if not attacks:
        return ""
    said = (
        "This report does not argue that the parts stay hidden. It shows what happened when they "
        "were attacked. "
    )
    if (attacks, protocols) == (len(ATTACKS), len(COLUMNS)):
        return (
            f"{said}Every attack of a catalogue was carried out for real, on every protocol of "
            "the library to which it applies. The attacks are published, or derived from "
            f"published ones. Each was carried out {_HOW}"
        )
    return (
        f"{said}{attacks} of {len(ATTACKS)} attacks were carried out on {protocols} of "
        f"{len(COLUMNS)} protocols, {_HOW}"
    )


#: Role, what it sees, what it does not see.
SEES: Final = (
    (
        "A site",
        "Its own records and its own part. What the server returns to all: the result, and with "
        "most studies the next model.",
        "The parts of other sites.",
    ),
    (
        "The server",
        "Who takes part and who leaves, when, the hidden parts, the sum, and the total weight.",
        "The part of any single site, unless the sum itself shows it (see below).",
    ),
    (
        "A holder of a decryption share (Paillier only)",
        "The encrypted parts and the opened sum.",
        "Any part, as long as fewer holders than the threshold work together.",
    ),
    (
        "The network",
        "Who talks to whom, and sizes of messages.",
        "Contents, where the transport encrypts; parts in no case.",
    ),
)
MEANING: Final = {
    "prevented": "The attack got nothing: a rule refused it, there was nothing to get, or "
    "noise hid it.",
    "detected": "The attack did damage or could have, and the parties noticed.",
    "leaks": "The attacker learned something about a site's data. The measures say how much.",
    "leaks, bounded": "The same, and what was learned is at most what the study's noise allows.",
    "corrupts": "The result was wrong, and nobody was told.",
    "n/a": "The attack does not apply to this protocol.",
    "failed": "The laboratory could not decide this cell.",
}

__all__ = ["BEYOND", "MEANING", "NOISE", "QUICK", "SEES", "STRONGER", "STUDY", "tested"]
