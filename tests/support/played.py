"""How an attack is played: one victim, one changed message, and what the victim answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import secagg
from secagg_protocols import wire
from support.world import SESSION, World, make_plan

Scenario = Callable[[type[Any]], list[str]]
SCENARIOS: dict[tuple[str, str], Scenario] = {}
VICTIM = "s0"


def scenario(party: str, rule: str) -> Callable[[Scenario], Scenario]:
    def keep(function: Scenario) -> Scenario:
        SCENARIOS[party, rule] = function
        return function

    return keep


def refused(call: Callable[[], Any]) -> list[str]:
    """Rule of the error that ``call`` raises, or nothing."""
    try:
        call()
    except secagg.SecAggError as error:
        return [error.rule]
    return []


def play(
    victim: type[Any],
    kind: Any,
    change: Callable[[World, bytes], Any],
    *,
    plan: secagg.Plan | None = None,
    drop: dict[int, list[str]] | None = None,
    sender: str = "s1",
    classes: dict[str, type[Any]] | None = None,
    after: bool = False,
    journals: dict[str, Any] | None = None,
    round: int = 0,
) -> list[str]:
    """Run a round in which one frame of ``kind`` to the victim is changed; its answer.

    Site messages are changed when they come from ``sender``; server messages when they go to
    the victim. With ``after`` the true message is delivered first. The round ends there.
    ``journals`` are those of earlier rounds.
    """
    plan = plan or make_plan()
    name = "server" if kind.from_site else VICTIM
    answers: list[str] = []

    def edit(number: int, from_: str, to: str, frame: bytes) -> list[bytes] | None:
        if number != kind.number or to != name or (kind.from_site and from_ != sender):
            return None
        if after:
            world.parties[to].receive(frame, sender=from_)
        changed = change(world, frame)
        bad, claimed = changed if isinstance(changed, tuple) else (changed, from_)
        try:
            events = world.parties[to].receive(bad, sender=claimed)
        except secagg.SecAggError as error:
            answers.append(error.rule)
        else:
            answers.extend(
                e.error.rule for e in events if isinstance(e, secagg.Ignored | secagg.Dropped)
            )
        raise StopIteration

    world = World(
        plan,
        classes={name: victim, **(classes or {})},
        edit=edit,
        journals=journals,
        round=round,
    )
    try:
        world.run(drop)
    except StopIteration:
        return answers
    raise AssertionError("the attack was never played")


def members(frame_bitmap: bytes, n: int) -> list[int]:
    """Sites of a bitmap."""
    return list(wire.from_bitmap(frame_bitmap, n))


def changed(header: Any, **changes: Any) -> Any:
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    return type(header)(**(fields | changes))


def reload(kind: type[Any], world: World, name: str, dump: bytes) -> Any:
    """Load a dump into ``kind``, as ``secagg.load`` does for the real classes."""
    from secagg_protocols.dumps import read_dump

    common: dict[str, Any] = {
        "identity": world.identities[name],
        "session": SESSION,
        "round": world.round,
        "model": None,
        "journal": world.journals[name],
    }
    if name != "server":
        common["floors"] = None
    party = kind(world.plan, world.index(name), **common)
    party.restore(read_dump(dump, world.plan))
    return party
