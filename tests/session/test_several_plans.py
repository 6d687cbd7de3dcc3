"""Several plans over one data set: regions and totals, epochs, other promises, other kinds.

Each plan is sound by itself. What a site adds is that the sums of all of them are compared, by
some honest site that was told of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.world import World, make_plan, people
from secagg_protocols.masked_sum import Client, messages
from support.subtracting import (
    VICTIM,
    Adversary,
    Sessions,
    of_sites,
    plan_for,
    stopped,
    succeeded,
    truth,
    without,
)

TWELVE = [f"s{i}" for i in range(12)]
WHOLE, NORTH, SOUTH = TWELVE, TWELVE[:6], TWELVE[6:]
LAST = TWELVE[-1]


def parts(kind: type[Client], whole: int, *, first: bool = True) -> Adversary:
    """A total of all sites, first or last, and of two regions, of which one loses its last site.
    ``whole`` is the threshold of the total."""
    server = Adversary(of_sites(WHOLE, whole), kind)
    keys = people(12)[1]
    rounds: list[tuple[list[str], secagg.Plan]] = [
        ([], of_sites(NORTH, 4)),
        ([LAST], of_sites(SOUTH, 4)),
    ]
    rounds.insert(0 if first else 2, ([], server.plan))
    for lose, plan in rounds:
        server.round(lose, plan=plan, identities=keys)
    return server


# A threshold of all twelve meets that of each region in an honest site, yet the two regions are
# compared with each other by nobody.
@pytest.mark.parametrize("whole", [7, 12])
def test_regions_of_a_total_are_refused(whole: int) -> None:
    stopped(parts(Client, whole), "fixed-roster", [LAST])
    succeeded(parts(without("fixed-roster"), whole), [LAST])


def test_a_total_of_regions_is_refused() -> None:
    stopped(parts(Client, 7, first=False), "fixed-roster", [LAST])
    # Those who were in a region's sum also refuse a set that is not within it.
    stopped(parts(without("fixed-roster"), 7, first=False), "fixed-nested", [LAST])


def told(names: Iterable[str]) -> Any:
    """A server that tells these sites only who survived."""
    kinds = (messages.SURVIVORS, messages.CONSENTS, messages.RESULT)
    hidden = {kind.number for kind in kinds}
    return lambda kind, _, to, __: [] if kind in hidden and to not in names else None


def epochs(kind: type[Client]) -> Adversary:
    """The first sum is confirmed by seven sites. Two of them leave, and the next epoch's is
    confirmed by those who were not told; a colluder, who keeps no journal, confirms both."""
    server = Adversary(of_sites(WHOLE, 7), kind)
    keys = people(12)[1]
    server.round(identities=keys, edit=told(["s0", *WHOLE[6:]]))
    del server.journals["s0"]
    server.round(plan=of_sites(WHOLE[:10], 6), identities=keys, edit=told(WHOLE[:6]))
    return server


def test_an_epoch_that_nobody_can_compare_is_refused() -> None:
    server = epochs(Client)
    assert server.refusals == {"fixed-roster"}
    assert [len(sites) for sites, _ in server.seen] == [12]
    careless = epochs(without("fixed-roster"))
    assert careless.refusals == set()
    (all_sites, total), (fewer, less) = careless.seen
    # Two sites, where a block is three, one of them colluding.
    assert all_sites - fewer == {"s10", "s11"}
    both = np.add(truth("s10"), truth("s11"))
    assert np.subtract(total, less).tolist() == both.tolist()


def test_an_epoch_with_the_first_one_s_threshold_is_compared() -> None:
    """The same server, where the owner raised the threshold: the sets meet, and are refused."""
    server = Adversary(of_sites(WHOLE, 7))
    keys = people(12)[1]
    server.round(identities=keys, edit=told(["s0", *WHOLE[6:]]))
    del server.journals["s0"]
    later = of_sites(WHOLE[:10], 7)
    server.round(plan=later, identities=keys, edit=told(WHOLE[:7]))
    assert server.refusals == {"fixed-difference"}
    assert len(server.seen) == 1
    # The block that is missing leaves, and the analysis goes on, of whoever refused nothing.
    fresh = Adversary(of_sites(WHOLE, 7))
    fresh.round(identities=keys)
    fresh.round(plan=of_sites(WHOLE[:9], 7), identities=keys)
    assert fresh.refusals == set()
    assert [len(sites) for sites, _ in fresh.seen] == [12, 9]


def weaker(kind: type[Client], *, between: bool) -> Adversary:
    """A plan that promises blocks of six, and one that promises three, over the same sites."""
    names = [f"s{i}" for i in range(16)]
    strong = of_sites(names, 10, colluding=3, min_honest=3, max_dropouts=4)
    weak = of_sites(names, 10, max_dropouts=4)
    assert (strong.release_block, weak.release_block) == (6, 3)
    server = Adversary(weak if between else strong, kind)
    server.round()
    if between:
        server.round(plan=strong)
    server.round(names[13:], plan=weak)
    return server


@pytest.mark.parametrize("between", [False, True])
def test_the_largest_block_that_was_promised_is_kept(between: bool) -> None:
    server = weaker(Client, between=between)
    assert server.refusals == {"fixed-difference"}
    careless = weaker(without("fixed-difference"), between=between)
    assert careless.refusals == set()
    three = np.sum([World(make_plan(16)).vectors[f"s{i}"] for i in (13, 14, 15)], axis=0)
    (_, total), (_, less) = careless.seen[0], careless.seen[-1]
    assert np.subtract(total, less).tolist() == three.tolist()


def test_more_colluding_sites_than_were_planned_for_need_a_larger_threshold() -> None:
    """Three colluders, whom the second plan does not know of, could be all that two sums share."""
    names = [f"s{i}" for i in range(16)]
    server = Adversary(of_sites(names, 10, colluding=3, min_honest=3, max_dropouts=4))
    server.round()
    server.round(plan=of_sites(names, 9, max_dropouts=4))
    assert server.refusals == {"fixed-roster"}
    assert len(server.seen) == 1


def unfixed(kind: type[Client], *, first: bool) -> Adversary:
    """The same data under a plan that is not of fixed data, without one site; or that first."""
    fixed = plan_for("fixed-difference")
    loose = dataclasses.replace(fixed, fixed_data=False, max_inputs_per_model=2)
    server = Adversary(fixed, kind)
    rounds: list[tuple[list[str], secagg.Plan]] = [([], fixed), ([VICTIM], loose)]
    for lose, plan in rounds[::-1] if first else rounds:
        server.round(lose, plan=plan)
    return server


@pytest.mark.parametrize("first", [False, True])
def test_data_are_fixed_under_all_plans_or_none(first: bool) -> None:
    stopped(unfixed(Client, first=first), "fixed-data-plan")
    succeeded(unfixed(without("fixed-data-plan"), first=first))


def regions(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], set[str]]:
    """Three sessions over one data set, and the last loses a site: their sums and refusals."""
    if kind is not None:
        monkeypatch.setattr(Client, kind, lambda *_: None)
    journals: dict[str, Any] = {}
    sums: list[Any] = []
    refusals: set[str] = set()
    for names, threshold in ((WHOLE, 7), (NORTH, 4), (SOUTH, 4)):
        plan = of_sites(names, threshold)
        played = Sessions(plan, lost_from=0 if names is SOUTH else 1, lost=LAST, journals=journals)
        sums += played.rounds(b"model")
        refusals |= played.refusals
        ended = {str(site.ended) for site in played.sites.values() if site.ended is not None}
        assert all("[fixed-roster]" in text for text in ended)
    return sums, refusals


def test_sessions_over_regions_of_a_total_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, north, south), refusals = regions(None, monkeypatch)
    assert north is None
    assert south is None
    assert refusals == {"fixed-roster"}
    (total, north, south), refusals = regions("_check_fixed_roster", monkeypatch)
    assert refusals == set()
    assert (total - north - south).tolist() == truth(LAST)
