"""Rounds over the same data: who is told which set, and who answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import secagg
from secagg.attacks.arena.played import refused
from secagg.attacks.arena.world import MODEL, SESSION, World, make_plan, people
from secagg_protocols.masked_sum import Client

N, HONEST, COLLUDING = 10, 2, 1
BLOCK = HONEST + COLLUDING
PLAN = make_plan(
    N,
    fixed_data=True,
    max_dropouts=4,
    min_honest=HONEST,
    colluding=COLLUDING,
    protocol=secagg.MaskedSum(share_threshold=6, neighbours=N - 1),
)


def play(
    plan: secagg.Plan,
    sites: Iterable[int],
    number: int,
    journals: dict[str, Any],
    kind: type[Any] = Client,
    **how: Any,
) -> World:
    """A round in which exactly these sites send their vectors; ``result`` is ``None`` where the
    sites refuse."""
    names = plan.roster.names
    stay = {names[i] for i in sites}
    classes = dict.fromkeys(names, kind)
    world = World(plan, classes=classes, journals=journals, round=number, **how)
    try:
        world.run({3: [name for name in names if name not in stay]})
    except secagg.ThresholdError:
        assert world.result is None
    return world


def rules(world: World) -> dict[str, set[str]]:
    """Rules by which sites ended, by site."""
    names = world.plan.roster.names
    found = {n: {e.rule for e in world.errors(n) if e.rule != "late"} for n in names}
    return {name: rules for name, rules in found.items() if rules}


def plan_of(sites: Iterable[int], above: int) -> secagg.Plan | None:
    """A plan of fixed data over these sites, where they are enough for one. Its threshold is the
    smallest that is allowed, or ``above`` more, and it bears as many dropouts as that leaves."""
    names = [f"s{i}" for i in sorted(sites)]
    if len(names) < HONEST + COLLUDING + 1:
        return None
    keys = people(max(sites) + 1)[1]
    least = (len(names) + COLLUDING) // 2 + 1
    threshold = min(least + above, len(names))
    return make_plan(
        len(names),
        roster=secagg.Roster(
            sites=tuple((name, keys[name].public) for name in names),
            server=keys["server"].public,
        ),
        fixed_data=True,
        max_dropouts=len(names) - max(threshold, HONEST + COLLUDING),
        min_honest=HONEST,
        colluding=COLLUDING,
        protocol=secagg.MaskedSum(share_threshold=threshold, neighbours=len(names) - 1),
    )


def site_of(
    plan: secagg.Plan, site: int, kind: type[Client], journal: Any, number: int = 0
) -> Client:
    """One site of a plan, by the number in its name."""
    name = f"s{site}"
    return kind(
        plan,
        plan.roster.index(name),
        identity=people(site + 1)[1][name],
        session=SESSION,
        round=number,
        model=MODEL,
        floors=None,
        journal=journal,
    )


def sites_of(kind: type[Client] = Client) -> list[Client]:
    """All sites of the plan, each with an empty journal."""
    return [site_of(PLAN, i, kind, secagg.MemoryJournal()) for i in range(N)]


def accepts(site: Client, sites: frozenset[int]) -> bool:
    """Whether a site that was told these survivors would answer."""
    site._u3 = tuple(sorted(sites))
    return not refused(site._enter_release)
