"""How an attack is played: one victim, one changed message, and what the victim answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import secagg
from secagg.attacks.arena.world import SESSION, World, make_plan
from secagg_protocols import wire
from secagg_protocols.dumps import read_dump

#: Takes the class that the victim is built from; returns the rules that refused, in order.
Scenario = Callable[[type[Any]], list[str]]
#: (party, rule) -> the rule's negative vector. Filled by ``site_vectors`` and ``server_vectors``.
SCENARIOS: dict[tuple[str, str], Scenario] = {}
VICTIM = "s0"
#: Said by a vector, or in a table's ``also``: no rule refused, and yet there was nothing to use.
STRUCTURE = "structure"


class NotPlayedError(RuntimeError):
    """The round ended before the message that the attack changes: nothing was tested."""


def scenario(party: str, rule: str) -> Callable[[Scenario], Scenario]:
    """Enter the negative vector of a rule into the table."""

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


def need(holds: bool) -> None:
    """What has to hold before or beside an attack; :class:`NotPlayedError` where it does not."""
    if not holds:
        raise NotPlayedError("the attack did not run as it is written")


def ended(attack: Callable[[], bool]) -> list[str]:
    """Rules that refused an attack, or nothing where it went through, as it says itself."""
    through: list[bool] = []
    rules = refused(lambda: through.append(attack()))
    if not rules and through != [True]:
        raise NotPlayedError("nothing refused the attack, and it came to nothing")
    return rules


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
    raise NotPlayedError(f"no message of kind {kind.number} came to {name}")


def members(frame_bitmap: bytes, n: int) -> list[int]:
    """Sites of a bitmap."""
    return list(wire.from_bitmap(frame_bitmap, n))


def changed(header: Any, **changes: Any) -> Any:
    """A header with some fields changed."""
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    return type(header)(**(fields | changes))


def reload(kind: type[Any], world: World, name: str, dump: bytes) -> Any:
    """Load a dump into ``kind``, as ``secagg.load`` does for the real classes."""
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
