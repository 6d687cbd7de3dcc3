"""Rounds of the arena as the scenes of keys and networks need them, and the truth about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

import secagg
from secagg_protocols import masked_sum, paillier_sum, wire
from secagg_protocols.keys import SEED_SIZE, digest_of, stage_seed
from secagg_protocols.kinds import Kind
from secagg_protocols.lift import lift
from secagg_protocols.masked_sum import messages as masked_messages
from secagg_protocols.paillier_sum import messages as paillier_messages
from secagg_protocols.party import Party
from secagg_protocols.plain_sum import PlainClient
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan

from ..arena.paillier_world import PaillierWorld
from ..arena.world import MODEL, SESSION, World, people
from ..attack import Frame, Transcript
from ..columns import PAILLIER, entropy
from ..finding import Finding, Verdict
from ..scene import Ints, Lab
from ..statistics import rate

#: What a message of a site's input is, in either protocol.
INPUTS: Final = (
    masked_messages.INPUT.number,
    paillier_messages.ENCRYPTED.number,
)


def client_of(column: str) -> type[Any]:
    """The class of a column's sites."""
    return paillier_sum.Client if column in PAILLIER else masked_sum.Client


def server_of(column: str) -> type[Any]:
    """The class of a column's servers."""
    return paillier_sum.Server if column in PAILLIER else masked_sum.Server


def arena(
    made: Plan,
    vectors: Any,
    *,
    seed: bytes,
    round: int = 0,
    models: Mapping[str, bytes] | None = None,
    sites: type[Any] | None = None,
    server: type[Any] | None = None,
    holders: type[Any] | None = None,
    edit: Any = None,
) -> World:
    """Parties of a round before it begins, whose secrets follow from ``seed``.

    vectors: in roster order. models: by party, where one is sent another than the rest. sites,
    server, holders: classes, where they are not the honest ones.
    """
    kind: Any = PaillierWorld if isinstance(made.protocol, secagg.PaillierSum) else World
    classes: dict[str, Any] = {}
    if sites is not None:
        classes |= dict.fromkeys(made.roster.names, sites)
    if holders is not None:
        classes |= dict.fromkeys((name for name, _ in made.roster.holders), holders)
    if server is not None:
        classes["server"] = server
    world: World = kind(made, round=round, model=None, classes=classes, edit=edit)
    for place, name in enumerate(made.roster.names):
        world.vectors[name] = vectors[place]
    for name, party in world.parties.items():
        party._entropy = entropy(seed, name)
        # A model that comes later, so that a control may override how it is taken.
        party.use_model((models or {}).get(name, MODEL))
    return world


def finish(world: World) -> list[str]:
    """Run to the end, or to the error that ends it; the rules that refused, by party."""
    try:
        world.run()
    except secagg.SecAggError as error:
        world.log.append(("server", 0, error))
    return refusals(world)


def refusals(world: World) -> list[str]:
    """Rules by which the parties refused, as ``party.rule``, each once, in order."""
    found = [
        f"{world.parties[name].role}.{what.rule}"
        for name, _, what in world.log
        if isinstance(what, secagg.SecAggError) and what.rule != "ended"
    ]
    return list(dict.fromkeys(found))


def encoded(party: Any, x: Any, seed: bytes) -> Ints:
    """What a site puts into the sum, noise included: integers, nearest to zero.

    seed: of the site's round.
    """
    plan: Plan = party.plan
    context, count = party.contexts.round, itertools.count()
    array, weight = plan.pipeline.check_input(x, 1)
    encoder = party.pipeline.begin(array, weight, lambda: stage_seed(seed, context, next(count)))
    ring = np.zeros(plan.ring_length, dtype=plan.lane)
    encoder.tile(ring, 0)
    modulus = 1 << plan.wire_bits
    levels = ring.astype(np.int64) % modulus
    return np.where(levels >= modulus // 2, levels - modulus, levels)


def truth(world: World, seed: bytes, name: str) -> Ints:
    """What a site of the world puts in, where its randomness is that of :func:`arena`."""
    return encoded(world.parties[name], world.vectors[name], entropy(seed, name)(SEED_SIZE))


def lifted(plan: Plan, levels: Any) -> Any:
    """A sum of encoded vectors, as the server lifts it from the ring."""
    modulus = 1 << plan.wire_bits
    return lift(plan, (np.asarray(levels, dtype=np.int64) % modulus).astype(plan.lane))


def frames_of(world: World) -> list[Frame]:
    """All that travelled, as it was sent."""
    return [Frame(world.round, a, b, bytes(data)) for _, a, b, data in world.frames]


def transcript(made: Plan, frames: Sequence[Frame], **more: Any) -> Transcript:
    """A transcript of rounds with the arena's session and one model."""
    numbers = {frame.round for frame in frames} | {0}
    models = more.pop("models", dict.fromkeys(sorted(numbers), MODEL))
    return Transcript(
        plan=dump_plan(made), session=SESSION, frames=list(frames), models=models, **more
    )


def plain_round(
    made: Plan, vectors: Any, *, round: int = 0, model: bytes = MODEL
) -> tuple[list[Frame], dict[str, Any]]:
    """Messages of a round of the unprotected control, and its sites."""
    identities = people(made.clients)[1]
    frames, parties = [], {}
    for place, name in enumerate(made.roster.names):
        party = PlainClient(
            made,
            name,
            identity=identities[name],
            session=SESSION,
            round=round,
            model=model,
            journal=secagg.MemoryJournal(),
        )
        parties[name] = party
        for event in party.submit(vectors[place]):
            if isinstance(event, secagg.Send):
                frames.append(Frame(round, name, "server", event.data))
    return frames, parties


def sealed(
    party: Party,
    kind: Kind,
    sender: str,
    to: str,
    header: Any,
    tail: bytes,
    identity: secagg.Identity,
) -> bytes:
    """A message under the context of ``party``, sealed by ``identity``: that of who is played."""
    roster = party.plan.roster

    def index(name: str) -> int:
        return wire.SERVER if name == "server" else roster.index(name)

    body = wire.encode_header(header)
    digest = wire.frame_digest(
        party._context(kind), kind.number, index(sender), index(to), body, tail
    )
    trailer = identity.sign(digest) if party.plan.signed else digest
    return wire.frame_head(kind.number, index(sender), index(to), body) + tail + trailer


def constant_contexts(kind: type[Any]) -> Callable[..., Any]:
    """``use_model`` that binds keys and masks to nothing: not to session, round or model."""

    def use_model(self: Any, model: Any, parameters: bytes = b"") -> Any:
        self.contexts.setup = digest_of(b"one context for all rounds")
        return kind.use_model(self, b"", parameters)

    return use_model


def no_model_hash(kind: type[Any]) -> Callable[..., Any]:
    """``use_model`` that leaves the model out of the round context."""

    def use_model(self: Any, model: Any, parameters: bytes = b"") -> Any:
        return kind.use_model(self, b"", parameters)

    return use_model


HIGH: Final = 1000
VICTIM: Final = "s1"


def stopped(column: str) -> Verdict:
    """Prevented, but where nothing protects."""
    return Verdict.LEAKS if column == "plain" else Verdict.PREVENTED


def x_of(lab: Lab, made: Plan, trial: int = 0) -> Any:
    return rows_of(lab, made, trial)[made.roster.index(VICTIM)]


def rows_of(lab: Lab, made: Plan, trial: int) -> Ints:
    return lab.inputs(made.clients, made.length, HIGH, trial)


def parameters_of(made: Plan) -> dict[str, int | float | str]:
    return {
        "n": made.clients,
        "t": made.protocol.share_threshold,
        "c": made.colluding,
        "d": made.length,
    }


def read_plain(lab: Lab, made: Plan, public: dict[str, Any], what: str = "vector") -> Finding:
    """Without masks there is nothing to attack: the input is what was put in."""
    x = rows_of(lab, made, 0)
    frames, _ = plain_round(made, x)
    found = lab.attack(transcript(made, frames, public=public))
    right = found.vectors.get(VICTIM) == x[made.roster.index(VICTIM)].tolist()
    return Finding(
        verdict=Verdict.LEAKS if right else Verdict.PREVENTED,
        tried="The server read the messages of a sum that is not protected.",
        seen=f"Each site's {what} is in its message as it is: no key or mask is needed.",
        trials=1,
        successes=int(right),
        measures=[rate("inputs recovered exactly", int(right), 1)],
        parameters=parameters_of(made),
    )


__all__ = [
    "HIGH",
    "INPUTS",
    "VICTIM",
    "arena",
    "client_of",
    "constant_contexts",
    "encoded",
    "finish",
    "frames_of",
    "lifted",
    "no_model_hash",
    "parameters_of",
    "plain_round",
    "read_plain",
    "refusals",
    "rows_of",
    "sealed",
    "server_of",
    "stopped",
    "transcript",
    "truth",
    "x_of",
]
