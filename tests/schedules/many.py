"""Seeded schedules in bulk, and what they must have met between them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from schedules.cheats import Deed
from schedules.scenario import Schedule
from schedules.spec import Seeded, draw_spec

from secagg import Step

THREATS = ("semi-honest", "malicious-server")
#: Everything that ten thousand schedules must meet at least this often.
LEAST = 50
STEPS = [step.label for step in Step]
REQUIRED = (
    *(f"threat: {threat}" for threat in THREATS),
    "graph: complete",
    "graph: sparse",
    "outcome: exact sum",
    # Departures at each step, survived and not.
    *(f"left at: {step}" for step in STEPS),
    *(f"outcome: threshold at {step}" for step in STEPS),
    # Every error that bytes or a closed step can give.
    "ignored: PeerError",
    "ignored: DecodeError",
    "ignored: AuthenticationError",
    "ignored: MisuseError",
    "dropped: PeerError",
    "dropped: DecodeError",
    "dropped: EquivocationError",
    "closed with: PeerError",
    "closed with: ThresholdError",
    "misuse: second vector",
    "misuse: closing after the end",
    # Every rule that ends a site.
    *(
        f"dropped by rule: {rule}"
        for rule in (
            "consent-set",
            "equivocation",
            "fresh-keys",
            "header",
            "low-order",
            "padding",
            "reveal-relations",
            "share-range",
            "tail-length",
        )
    ),
    # Every kind of suspect: survived, and ending the round.
    *(f"suspects: {kind}" for kind in ("dealer", "holder", "missing")),
    "suspects: withheld below the threshold",
    *(f"outcome: abort by {rule}" for rule in ("decoded", "commitment", "mask-key", "sum-range")),
    "site: late",
    "server restarted",
)


def play(seed: int, *deeds: Deed, length: int = 6) -> Counter[str]:
    """One schedule: the seed decides plan, network, lies and everything random within.

    Where ``deeds`` are given, there are cheats and these are their lies. ``length`` is that of
    the vectors.
    """
    rng = random.Random(f"schedule {seed}")
    threat = THREATS[seed % 2]
    cheats = rng.random() < 0.65 or bool(deeds)
    sparse = threat == "semi-honest" and rng.random() < 0.15
    n = rng.choice((3, 4, 5, 5, 6, 6) if cheats else (2, 3, 3, 4, 5, 7))
    spec = draw_spec(
        Seeded(rng), threat=threat, clients=(n, n), length=length, cheats=cheats, sparse=sparse
    )
    happened = Schedule(spec, seed, cheats=spec.colluding if cheats else 0, deeds=deeds).play()
    happened["schedules with lying sites" if cheats else "schedules of honest sites"] += 1
    return happened


def store(folder: Path, chunk: int, happened: Counter[str]) -> None:
    """Leave a chunk's histogram where the other test processes find it; never half of it."""
    part = folder / f"{chunk}.part"
    part.write_text(json.dumps(happened))
    part.rename(folder / f"{chunk}.json")


def merged(folder: Path, chunks: int) -> Counter[str] | None:
    """All histograms added up, or ``None`` while some are missing."""
    files = list(folder.glob("*.json"))
    if len(files) < chunks:
        return None
    return sum((Counter(json.loads(file.read_text())) for file in files), Counter())


def table(happened: Counter[str]) -> str:
    """The histogram as text."""
    return "\n".join(f"{count:9,}  {name}" for name, count in sorted(happened.items()))
