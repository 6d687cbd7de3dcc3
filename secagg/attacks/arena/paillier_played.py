"""How an attack on a party of a Paillier sum is played; for a masked sum: :mod:`.played`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import secagg
from secagg.attacks.arena.paillier_world import PaillierWorld, make_plan, one_key_plan
from secagg.attacks.arena.played import NotPlayedError, Scenario
from secagg.attacks.arena.world import SESSION
from secagg_protocols.dumps import read_dump
from secagg_protocols.paillier_sum import Holder, Server

#: (party, rule) -> the rule's negative vector. Filled by ``paillier_vectors``.
SCENARIOS: dict[tuple[str, str], Scenario] = {}


def scenario(party: str, rule: str) -> Callable[[Scenario], Scenario]:
    """Enter the negative vector of a rule into the table."""

    def keep(function: Scenario) -> Scenario:
        SCENARIOS[party, rule] = function
        return function

    return keep


def place(victim: type[Any]) -> str:
    """Name of the party that is played as the victim of its class."""
    if issubclass(victim, Server):
        return "server"
    return "h0" if issubclass(victim, Holder) else "s0"


def rules_of(call: Callable[[], Any]) -> list[str]:
    """Rules by which a call's bytes were refused: raised, ignored, or their sender dropped."""
    try:
        events = call()
    except secagg.SecAggError as error:
        return [error.rule]
    return [e.error.rule for e in events if isinstance(e, secagg.Ignored | secagg.Dropped)]


def play(
    victim: type[Any],
    kind: Any,
    change: Callable[[PaillierWorld, bytes], bytes],
    *,
    plan: secagg.Plan | None = None,
    sender: str = "",
    after: bool = False,
    keep: Callable[[str], bool] = lambda site: True,
) -> list[str]:
    """Run a round in which one frame of ``kind`` to the victim is changed; its answer.

    sender: who signed the frame; by default s1 and h1, where sites and holders send such frames.
    after: the true message is delivered first. keep: sites whose inputs reach the victim.
    """
    name = place(victim)
    if plan is None:
        # What sites get comes last, so the holders before it should be quick.
        plan = one_key_plan() if name == "s0" else make_plan()
    wanted = sender or {"client": "s1", "holder": "h1", "server": "server"}[kind.sender]
    answers: list[str] = []

    def edit(number: int, from_: str, to: str, frame: bytes) -> list[bytes] | None:
        signer = world.name(int.from_bytes(frame[4:8], "little"))
        if to != name:
            return None
        if number != kind.number or signer != wanted:
            return None if keep(signer) else []
        party = world.parties[to]
        if after:
            party.receive(frame, sender=from_)
        bad = change(world, frame)
        answers.extend(rules_of(lambda: party.receive(bad, sender=from_)))
        raise StopIteration

    world = PaillierWorld(plan, classes={name: victim}, edit=edit)
    try:
        world.run()
    except StopIteration:
        return answers
    raise NotPlayedError(f"no message of kind {kind.number} came to {name}")


def reload(
    kind: type[Any], world: PaillierWorld, name: str, dump: bytes, journal: Any = None
) -> Any:
    """Load a dump into ``kind``, as ``secagg.load`` does for the real classes."""
    common: dict[str, Any] = {
        "identity": world.identities[name],
        "session": SESSION,
        "round": world.round,
        "model": None,
        "journal": world.journals[name] if journal is None else journal,
    }
    if name != "server":
        common["floors"] = None
    if name in world.holders:
        common["share"] = world.shares[name]
    party = kind(world.plan, world.index(name), **common)
    party.restore(read_dump(dump, world.plan))
    return party
