"""One schedule: who takes part with which folder, what sites train, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from secagg.integrations.folder import write_folders
from secagg_protocols.keys import Identity
from secagg_protocols.plan import Plan, Threat
from secagg_protocols.roster import SERVER_NAME, Roster
from secagg_protocols.stages import ClipL2, Quantise

from . import oracle
from .faults import CONFIGURATION, Fault, Kind

NAMES: Final = ("north", "south", "east", "west", "centre", "coast", "hills", "lakes")
LENGTH: Final = 6
CLIP: Final = 4.0
LEVELS: Final = 1 << 20
MOST_WEIGHT: Final = 1000
#: What a failing training says. It must not be found anywhere else.
CANARY: Final = "patient 4711 of ward Kestrel"


class TrainingFailed(Exception):  # noqa: N818 - as a site's own code names things
    """What a site's training raises."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node that the framework starts. key: its name in a schedule. folder: of its party."""

    key: str
    folder: Path


@dataclass(frozen=True)
class Update:
    """What a site's training gives: the difference to the model, float64 of shape ``(length,)``,
    its weight, and a metric that must not leave the site."""

    x: Any
    weight: int
    metric: float


class Case:
    """Folders, plan and training of one schedule.

    path: an empty folder. rounds: how many are run. sites: how many there are. dropouts: how many
    the plan bears in a round. weighted: whether sites count by weights. strategy: name of an
    incompatible strategy, else empty.

    ``plan``; ``names`` of the sites; ``server``: the server's folder; ``nodes``: those to start;
    ``base``: the first model, float64 of shape ``(length,)``.
    """

    def __init__(
        self,
        path: Path,
        threat: Threat,
        *,
        rounds: int,
        faults: Sequence[Fault] = (),
        sites: int = 4,
        dropouts: int = 1,
        weighted: bool = True,
        strategy: str = "",
        seed: int = 0,
    ) -> None:
        self.path, self.threat, self.rounds = path, threat, rounds
        self.faults, self.strategy, self.seed = tuple(faults), strategy, seed
        self.dropouts, self.length = dropouts, LENGTH
        self.names = NAMES[:sites]
        self.most_weight = MOST_WEIGHT if weighted else 1
        roster, self._identities = Roster.generate(list(self.names))
        self.plan = self._plan(roster, CLIP)
        self._folders: dict[str, Path] = {}
        self._write(SERVER_NAME, self.plan)
        for name in self.names:
            self._write_site(name, roster)
        self.server = self._folders[SERVER_NAME]
        self.nodes = tuple(Node(name, self._folders[name]) for name in self.names)
        self.nodes += tuple(self._more())
        self.base = np.arange(LENGTH) / 8.0
        #: (site, round) -> the vectors that its training gave, in parts of 1.
        self.vectors: dict[tuple[str, int], list[list[int]]] = {}
        self.trainings = 0
        self._bases: dict[int, dict[bytes, Any]] = {}
        self._trained: dict[str, dict[int, set[bytes]]] = {}

    # Folders.

    def _plan(self, roster: Roster, clip: float) -> Plan:
        return Plan.recommend(
            roster,
            length=LENGTH,
            stages=(ClipL2(clip), Quantise(LEVELS)),
            threat=self.threat,
            colluding=1,
            max_dropouts=self.dropouts,
            min_honest=2,
            max_weight=self.most_weight,
        )

    def _write(self, name: str, plan: Plan, identity: Identity | None = None) -> None:
        given = {name: identity or self._identities[name]}
        self._folders[name] = write_folders(self.path, plan, given)[name]

    def _write_site(self, name: str, roster: Roster) -> None:
        wrong = {fault.kind for fault in self.faults if fault.party == name} & set(CONFIGURATION)
        plan, identity = self.plan, None
        if Kind.WRONG_PLAN in wrong:
            plan = self._plan(roster, 2 * CLIP)
        if Kind.WRONG_ROSTER in wrong:
            other = next(each for each in self.names if each != name)
            keys = {**dict(roster.sites), other: Identity.generate(other).public}
            plan = self._plan(Roster(sites=tuple(keys.items()), server=roster.server), CLIP)
        if Kind.WRONG_IDENTITY in wrong:
            identity = Identity.generate(name)
        self._write(name, plan, identity)

    def _more(self) -> list[Node]:
        found = []
        for fault in self.faults:
            if fault.kind is Kind.TWIN:
                found.append(Node(f"twin of {fault.party}", self._folders[fault.party]))
            elif fault.kind is Kind.STRANGER:
                self._write("stranger", self.plan, Identity.generate("stranger"))
                found.append(Node("stranger", self._folders["stranger"]))
        return found

    def party(self, node: str) -> str:
        """Name of the party at a node."""
        return node.removeprefix("twin of ")

    # Training.

    def model(self, number: int) -> bytes:
        """Bytes of the broadcast model, for adapters whose framework has none."""
        return b"model %d" % number

    def weight(self, name: str, number: int) -> int:
        """A site's weight in a round."""
        return oracle.weight(self.seed, name, number, self.most_weight)

    def vector(self, name: str, number: int) -> list[list[int]]:
        """The vectors that a site may have put into a round's sum, in parts of 1."""
        first = oracle.coordinates(self.seed, name, number, LENGTH)
        return self.vectors.get((name, number)) or [first]

    def train(self, node: str, number: int, base: Any = None) -> Update:
        """A site's training in a round: what the adapter's app calls.

        base: the model that the site received, where the framework sends one; what the app then
        returns to the framework is ``base + x``, and must not leave the site either.
        """
        name = self.party(node)
        self.trainings += 1
        wrong = {
            fault.kind
            for fault in self.faults
            if fault.party == name and fault.round == number and not fault.slot
        }
        if Kind.RAISES in wrong:
            raise TrainingFailed(f"no scan for {CANARY}")
        known = self.vectors.setdefault((name, number), [])
        version = len(known) if Kind.VARIES in wrong else 0
        parts = oracle.coordinates(self.seed, name, number, LENGTH, version)
        if parts not in known:
            known.append(parts)
        if base is not None:
            kept = np.array(base, dtype=np.float64)
            self._bases.setdefault(number, {})[kept.tobytes()] = kept
            self._trained.setdefault(name, {}).setdefault(number, set()).add(kept.tobytes())
        x = np.array(parts) / oracle.PARTS
        if Kind.NAN in wrong:
            x[0] = np.nan
        heavy = Kind.HEAVY in wrong
        weight = self.most_weight + 1 if heavy else self.weight(name, number)
        return Update(x, weight, oracle.metric(self.seed, name, number))

    def used_up(self, name: str, number: int) -> bool:
        """Whether a site has trained on a round's model as often before as the plan lets it send
        inputs for one: where rounds fail, a framework goes on with the same model."""
        most = self.plan.max_inputs_per_model
        trained = self._trained.get(name, {})
        before = [models for at, models in trained.items() if at < number]
        return most is not None and any(
            sum(model in models for models in before) >= most for model in trained.get(number, ())
        )

    # What must not be seen.

    def secrets(self) -> list[tuple[str, bytes]]:
        """(what it is, bytes) of everything that may not reach the server."""
        found = [("the text of an exception", CANARY.encode())]
        for name, folder in self._folders.items():
            if name != SERVER_NAME:
                text = (folder / "identity.key").read_text(encoding="utf-8").split()[-1]
                found += [
                    (f"the seed of {name}", text.encode()),
                    (f"the seed of {name}", bytes.fromhex(text)),
                    (f"the folder of {name}", str(folder).encode()),
                ]
        for name in (*self.names, "stranger"):
            for number in range(self.rounds):
                what = f"the vector of {name} in round {number}"
                bases = list(self._bases.get(number, {}).values())
                for parts in self.vector(name, number):
                    found += [
                        (what, data) for data in _forms(parts, self.weight(name, number), bases)
                    ]
                metric = oracle.metric(self.seed, name, number)
                what = f"the metric of {name} in round {number}"
                found += [(what, np.float64(metric).tobytes()), (what, repr(metric).encode())]
        return found


def _forms(parts: list[int], weight: int, bases: list[Any]) -> list[bytes]:
    """A vector as it might lie in a message: every two neighbours, as numbers and as text."""
    x = np.array(parts) / oracle.PARTS
    level = oracle.PARTS * CLIP / LEVELS
    rows = [x, weight * x, *(base + x for base in bases)]
    arrays = [row.astype(kind) for row in rows for kind in ("<f8", "<f4", ">f8")]
    levels = np.array(parts) / level
    arrays += [(scale * levels).astype(kind) for scale in (1, weight) for kind in ("<i8", "<i4")]
    found = []
    for row in arrays:
        data, size = row.tobytes(), 2 * row.itemsize
        found += [data[at : at + size] for at in range(0, len(data) - size + 1, row.itemsize)]
    return found + [repr(float(value)).encode() for value in x]


__all__ = [
    "CANARY",
    "CLIP",
    "LENGTH",
    "LEVELS",
    "NAMES",
    "Case",
    "Node",
    "TrainingFailed",
    "Update",
]
