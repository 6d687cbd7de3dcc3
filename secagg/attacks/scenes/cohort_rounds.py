"""Rounds of real parties for the scenes about cohorts, and what their server sees of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

import secagg
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan import Plan

from .. import columns
from ..arena.controls import changed
from ..arena.paillier_world import PaillierWorld
from ..arena.world import World
from ..attack import Array, Frame, Keys
from ..columns import entropy
from ..process import LabError
from ..scene import Ints, Lab

#: Largest value of a coordinate.
MOST: Final = 1000
#: Coordinates over which noise and correlations are measured.
WIDE: Final = 400
#: The honest site that is left when all others collude.
VICTIM: Final = "s0"


def open_world(
    plan: Plan,
    lab: Lab,
    *,
    vectors: Ints | None = None,
    round: int = 0,
    **how: Any,
) -> World:
    """The parties of a round, whose randomness follows from the lab's seed; ``how``: see World."""
    kind = PaillierWorld if isinstance(plan.protocol, secagg.PaillierSum) else World
    world = kind(plan, round=round, **how)
    if vectors is None:
        vectors = lab.inputs(plan.clients, plan.length, MOST, round)
    for name, party in world.parties.items():
        party._entropy = entropy(lab.digest("round", round), name)
    for i, name in enumerate(plan.roster.names):
        world.vectors[name] = vectors[i]
    return world


def play(plan: Plan, lab: Lab, *, drop: Iterable[str] = (), **how: Any) -> World:
    """A round in which the sites in ``drop`` send no input. Raises what its parties raise."""
    return open_world(plan, lab, **how).run({int(secagg.Step.INPUT): list(drop)})


def sum_of(
    lab: Lab,
    column: str,
    plan: Plan,
    vectors: Any,
    *,
    round: int = 0,
    floors: Mapping[str, secagg.Floors] | None = None,
    quiet: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> tuple[Array, tuple[str, ...]]:
    """The sum of an honest round, and of whom; ``quiet`` sites add no noise."""
    if column == "plain":
        found = columns.honest_sum(
            plan, vectors, seed=lab.digest("plain", round), drop=tuple(drop), plain=True
        )
        return np.asarray(found.total), found.survivors
    how: dict[str, Any] = {"classes": by_name(quiet, QUIET)} if quiet else {}
    world = play(plan, lab, vectors=vectors, round=round, floors=floors, drop=drop, **how)
    if world.result is None:
        raise LabError("an honest round has a result")
    return np.asarray(world.result.sum), world.result.survivors


def refusals(world: World) -> set[str]:
    """Rules by which sites and holders refused, as "party.rule"; being late is no refusal."""
    found = set[str]()
    for name, _, what in world.log:
        if name != "server" and isinstance(what, secagg.SecAggError) and what.rule != "late":
            found.add(f"{'holder' if name.startswith('h') else 'client'}.{what.rule}")
    return found


def public(world: World) -> dict[str, Any]:
    """What the server of a masked round knows beside the frames: see ``cohorts.View``."""
    server, plan = world.server, world.plan
    return {
        "sites": list(plan.roster.names),
        "adverts": [server._adverts.get(i, b"") for i in range(plan.clients)],
        "graph": [list(row) for row in server._graph],
        "sharers": list(server._u2),
        "survivors": list(server._u3),
        "context": server.contexts.round,
        "bits": plan.wire_bits,
        "length": plan.ring_length,
        "threshold": plan.protocol.share_threshold,
        "trailer": server._trailer_size,
    }


def frames(world: World, *kinds: Any) -> list[Frame]:
    """The frames of some kinds that reached the server."""
    numbers = {kind.number for kind in kinds}
    return [
        Frame(world.round, sender, to, bytes(data))
        for kind, sender, to, data in world.frames
        if kind in numbers and to == "server"
    ]


def _keep(_self: Any) -> None:
    """A colluding site forgets nothing."""


#: A colluding site: it follows the protocol and keeps what it was dealt.
COLLUDER: Final = changed(Client, _forget=_keep)


def shares_of(world: World, colluding: Iterable[str]) -> Keys:
    """The shares that colluding sites were dealt, by "holder:dealer"."""
    held: dict[str, bytes] = {}
    for name in colluding:
        for dealer, pair in world.parties[name]._shares.items():
            if pair is not None:
                held[f"{world.plan.roster.index(name)}:{dealer}"] = bytes(pair)
    return Keys(values=held)


def _quiet(party: Any) -> Any:
    plan = party.plan
    stages = tuple(stage for stage in plan.stages if not isinstance(stage, secagg.Noise))
    silent = replace(plan, stages=stages, privacy=None, bits=plan.wire_bits)
    return silent.pipeline.at(party.contexts.round, party.contexts.parameters)


#: A colluding site that adds no noise: as good as one that tells what it added.
QUIET: Final = changed(Client, pipeline=property(_quiet))


def by_name(names: Iterable[str], kind: type[Any]) -> Mapping[str, type[Any]]:
    """The same class for some parties."""
    return dict.fromkeys(names, kind)
