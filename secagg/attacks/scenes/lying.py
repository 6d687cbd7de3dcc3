"""Rounds with one lying site: it says what an attack made, and keeps to the protocol else.

The other parties are honest. What a lying site holds is its own, so it may sign whatever it likes:
no check of anybody else's looks behind a mask or into a ciphertext.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import secagg
from secagg_protocols import masked_sum, paillier_sum, wire
from secagg_protocols.errors import SecAggError
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.masked_sum import messages as masked
from secagg_protocols.masked_sum.rules import RULES as MASKED_RULES
from secagg_protocols.paillier_sum import messages as paillier
from secagg_protocols.paillier_sum.rules import RULES as PAILLIER_RULES
from secagg_protocols.plain_sum import PlainClient, PlainServer
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Quantise, Rotate
from secagg_protocols.stages.base import ArrayEncoder

from ..arena import controls, paillier_world
from ..arena.world import World, people
from ..columns import COLUMNS, PAILLIER, entropy
from ..finding import Verdict

Array = npt.NDArray[Any]
LIAR: Final = "s0"
SESSION: Final = "laboratory"


class _Said:
    """An encoder of integers that no stage has seen."""

    def __init__(self, ring: Array) -> None:
        self._ring = ring
        self.length, self.dtype = len(ring), np.dtype(np.uint64)

    def tile(self, out: Array, start: int) -> None:
        """Write the ring elements from ``start`` on, in the lanes of ``out``."""
        out[:] = self._ring[start : start + len(out)].astype(out.dtype)


@dataclass(frozen=True, slots=True)
class Unclipped:
    """A real vector that its site rotates and quantises as the plan says, but does not clip.

    limit: largest level of a coordinate that it dares to send.
    """

    vector: Array
    limit: float

    def levels(self, pipeline: Any, rand: Callable[[], bytes]) -> Array:
        """Integers int64[ring length] in the pipeline of a round."""
        source: Any = ArrayEncoder(self.vector)
        scale, length = 1.0, len(self.vector)
        for stage, given in zip(pipeline.stages, pipeline._bounds, strict=False):
            if isinstance(stage, Rotate):
                source = stage.begin(source, rand, given)
                length = source.length
            if isinstance(stage, Quantise):
                scale = stage.scale(given)
        reals = np.empty(length, dtype=np.float64)
        source.tile(reals, 0)
        return np.rint(np.clip(reals * scale, -self.limit, self.limit)).astype(np.int64)


class _Replaced:
    """A pipeline that encodes one lie, whatever it is given; all else as it is."""

    def __init__(self, pipeline: Any, lie: Array | Unclipped, bits: int) -> None:
        self._pipeline, self._lie, self._bits = pipeline, lie, bits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def begin(self, x: Any, weight: int, rand: Callable[[], bytes]) -> _Said:
        """The lie in the place of the vector."""
        lie = self._lie
        levels = lie.levels(self._pipeline, rand) if isinstance(lie, Unclipped) else lie
        mask = np.uint64((1 << self._bits) - 1)
        return _Said(np.asarray(levels).astype(np.int64).view(np.uint64) & mask)


def lying(kind: type[Any], plan: Plan, lie: Array | Unclipped) -> type[Any]:
    """A site of ``kind`` that sends ``lie`` in the place of its vector.

    lie: integers of the plan's ring length, taken modulo 2^bits, or an unclipped vector.
    """
    honest: Any = kind.pipeline

    def pipeline(site: Any) -> Any:
        return _Replaced(honest.fget(site), lie, plan.wire_bits)

    return controls.changed(kind, pipeline=property(pipeline))


SUM_RANGE: Final = "server.sum-range"
#: Columns whose server has no rule about the range of a sum.
UNBOUNDED: Final = ("plain", "noise")


def everywhere(verdict: Verdict, **other: Verdict | str) -> Mapping[str, Verdict | str]:
    """The same in every column, but for some."""
    found: dict[str, Verdict | str] = dict.fromkeys(COLUMNS, verdict)
    return found | {name.replace("_", "-"): value for name, value in other.items()}


def weaker(column: str, *rules: str) -> type[Any]:
    """The server of a column without some rules."""
    return controls.without(server_of(column), *rules)


def tolerance(plan: Plan, survivors: int) -> float:
    """How far an honest result may be from the exact one: six standard deviations of its noise."""
    return 6.0 * math.sqrt(plan.pipeline.noise_variance(survivors))


def sites_of(column: str) -> int:
    """Few for what takes long."""
    return 4 if column in PAILLIER else 7


@dataclass(slots=True)
class Played:
    """What came of a round.

    total: the delivered sum, ``None`` where there is none. rule: of the error that ended the
    round. dropped: parties that the server ended, with the rule. suspects: of the error or of the
    result. survivors: sites in the sum.
    """

    total: Array | None = None
    rule: str = ""
    survivors: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether there is a result, and nothing that speaks against it."""
        return self.total is not None and not self.suspects


def named(column: str, rule: str) -> str:
    """A rule with its party, as reports name it: the server's, or that of every party."""
    table = PAILLIER_RULES if column in PAILLIER else MASKED_RULES
    parties = {each.party for each in table if each.id == rule}
    party = next((p for p in ("server", "party", "plan", "client") if p in parties), "server")
    return f"{party}.{rule}"


def server_of(column: str) -> type[Any]:
    """The class of the server of a column."""
    if column == "plain":
        return PlainServer
    return paillier_sum.Server if column in PAILLIER else masked_sum.Server


def client_of(column: str) -> type[Any]:
    """The class of a site of a column."""
    if column == "plain":
        return PlainClient
    return paillier_sum.Client if column in PAILLIER else masked_sum.Client


def play(
    column: str,
    plan: Plan,
    vectors: Array,
    *,
    seed: bytes,
    lie: Array | Unclipped | None = None,
    server: type[Any] | None = None,
    edit: Callable[[World, int, str, str, bytes], list[bytes] | None] | None = None,
    drop: Mapping[int, Collection[str]] | None = None,
) -> Played:
    """One round with real parties, of which ``LIAR`` sends ``lie`` in the place of its vector.

    vectors: of all sites, in roster order. lie: integers of the plan's ring length. server: its
    class, for a control. edit: (world, kind, sender, recipient, frame) -> frames instead. drop:
    step -> sites that fall silent before it.
    """
    if column == "plain":
        return _plain(plan, vectors, seed, lie, drop or {})
    classes: dict[str, type[Any]] = {}
    if lie is not None:
        classes[LIAR] = lying(client_of(column), plan, lie)
    if server is not None:
        classes["server"] = server
    kind = paillier_world.PaillierWorld if column in PAILLIER else World
    world = kind(plan, classes=classes, session=SESSION)
    if edit is not None:
        world.edit = lambda *what: edit(world, *what)
    for name, party in world.parties.items():
        party._entropy = entropy(seed, name)
    for name, row in zip(plan.roster.names, vectors, strict=True):
        world.vectors[name] = row
    played = Played()
    try:
        world.run({int(step): sorted(names) for step, names in (drop or {}).items()})
    except SecAggError as error:
        played.rule = error.rule
        played.suspects = tuple(getattr(error, "suspects", ()))
    for party, _, what in world.log:
        if party == "server" and isinstance(what, secagg.PeerError) and what.sender:
            played.dropped[what.sender] = what.rule
    if world.result is not None and not played.rule:
        played.total = np.asarray(world.result.sum)
        played.survivors = world.result.survivors
        played.suspects = world.result.suspects
    return played


def _plain(
    plan: Plan,
    vectors: Array,
    seed: bytes,
    lie: Array | Unclipped | None,
    drop: Mapping[int, Collection[str]],
) -> Played:
    """The same by the unprotected sum."""
    gone = {name for names in drop.values() for name in names}
    identities = people(plan.clients)[1]
    common: dict[str, Any] = {"session": SESSION, "round": 0, "model": b"model"}
    hub = PlainServer(plan, identity=identities["server"], journal=MemoryJournal(), **common)
    for name, row in zip(plan.roster.names, vectors, strict=True):
        if name in gone:
            continue
        kind = PlainClient
        if name == LIAR and lie is not None:
            kind = lying(PlainClient, plan, lie)
        site = kind(plan, name, identity=identities[name], journal=MemoryJournal(), **common)
        site._entropy = entropy(seed, name)
        for event in site.submit(row):
            if isinstance(event, secagg.Send):
                hub.receive(event.data, sender=name)
    try:
        (done,) = hub.close_step()
    except SecAggError as error:
        return Played(rule=error.rule)
    found = done.aggregate if isinstance(done, secagg.Done) else None
    if found is None:
        return Played()
    return Played(total=np.asarray(found.sum), survivors=found.survivors)


def input_frame(world: World, site: str, tail: bytes) -> bytes:
    """An input of a site with this tail, sealed by the site itself."""
    party = world.parties[site]
    encrypts = isinstance(world.plan.protocol, secagg.PaillierSum)
    kind = paillier.ENCRYPTED if encrypts else masked.INPUT
    header = paillier.Encrypted() if encrypts else masked.Input()
    made: bytes = party._frame(kind, wire.SERVER, header, tail)[0]
    return made


def is_input(kind: int) -> bool:
    """Whether a frame's kind is a site's input."""
    return kind in {masked.INPUT.number, paillier.ENCRYPTED.number}


__all__ = [
    "LIAR",
    "SUM_RANGE",
    "UNBOUNDED",
    "Array",
    "Played",
    "Unclipped",
    "client_of",
    "everywhere",
    "input_frame",
    "is_input",
    "lying",
    "named",
    "play",
    "server_of",
    "sites_of",
    "tolerance",
    "weaker",
]
