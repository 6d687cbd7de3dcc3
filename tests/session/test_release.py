"""What several sums over the same data show together, and the rules that bound it.

A rule that compares sets in pairs is not enough: sums are linear equations, and twelve sets of
twelve sites that all differ by many sites can still be solved for every site. Nested sets cannot:
whatever is combined of them, the blocks by which they shrink stay whole.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import secagg
from secagg.attacks.arena.played import refused
from secagg.attacks.arena.world import make_plan, sparse_plan
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.registers import (
    NOTHING_RELEASED,
    released_register,
    unpack_released,
)
from support.equations import rank, reduced
from support.releases import (
    BLOCK,
    COLLUDING,
    HONEST,
    PLAN,
    N,
    accepts,
    plan_of,
    play,
    rules,
    site_of,
    sites_of,
)


class Unruled(Client):
    """A site that does not compare sums."""

    def _check_fixed_nested(self, *_: Any) -> None: ...

    def _check_fixed_difference(self, *_: Any) -> None: ...


class Tireless(Client):
    """A site that lets a server go on after a set that it refused."""

    def _check_fixed_ended(self, *_: Any) -> None: ...


# The oracle: exact linear algebra over the rationals, of which integer combinations are a part.


def indicator(sites: Iterable[int], n: int) -> list[int]:
    return [int(i in set(sites)) for i in range(n)]


def isolated(sums: Sequence[frozenset[int]], n: int, fewer: int, known: Iterable[int] = ()) -> bool:
    """Whether some combination of the sums, less what the ``known`` sites can subtract, is a
    combination of fewer than ``fewer`` (and at least one) other sites' vectors."""
    rows = [indicator(s, n) for s in sums]
    others = [i for i in range(n) if i not in set(known)]
    honest = rank([[row[i] for i in others] for row in rows])
    return any(
        rank([[row[i] for i in others if i not in few] for row in rows]) < honest
        for few in itertools.combinations(others, fewer - 1)
    )


def twelve_sets(n: int = 12, size: int = 8, differ: int = 4) -> list[frozenset[int]]:
    """The first sets in lexicographic order that differ in pairs and are independent."""
    found: list[frozenset[int]] = []
    for sites in map(frozenset, itertools.combinations(range(n), size)):
        apart = all(len(sites ^ other) >= differ for other in found)
        if apart and rank([indicator(s, n) for s in (*found, sites)]) > len(found):
            found.append(sites)
        if len(found) == n:
            return found
    raise AssertionError("no such sets")


def fixed_twelve() -> secagg.Plan:
    """Twelve sites, three honest and one colluding in each block."""
    return make_plan(
        12,
        fixed_data=True,
        max_dropouts=4,
        min_honest=3,
        protocol=secagg.MaskedSum(share_threshold=7, neighbours=11),
    )


def test_twelve_sets_that_differ_by_four_isolate_every_site() -> None:
    plan, sets = fixed_twelve(), twelve_sets()
    assert plan.release_block == 4
    assert all(len(a ^ b) >= 4 for a, b in itertools.combinations(sets, 2))
    assert all(len(s) >= plan.min_survivors for s in sets)
    assert rank([indicator(s, 12) for s in sets]) == 12
    journals: dict[str, Any] = {}
    equations = []
    for number, sites in enumerate(sets):
        world = play(plan, sites, number, journals, Unruled)
        assert world.result is not None
        # All that the attacker uses: who was in the sum, and the sum.
        members = [plan.roster.index(name) for name in world.result.survivors]
        equations.append(indicator(members, 12) + world.result.sum.tolist())
    solved = {row.index(1): row[12:] for row in reduced(equations)}
    for i, name in enumerate(plan.roster.names):
        assert solved[i] == world.vectors[name].tolist()


def test_the_second_of_those_sets_is_refused_by_every_site() -> None:
    plan, sets = fixed_twelve(), twelve_sets()
    journals: dict[str, Any] = {}
    first = play(plan, sets[0], 0, journals)
    assert first.result is not None
    second = play(plan, sets[1], 1, journals)
    assert second.result is None
    both = sets[0] & sets[1]
    assert rules(second) == {f"s{i}": {"fixed-nested"} for i in both}
    for i in both:
        party = second.parties[f"s{i}"]
        assert isinstance(party._ended, secagg.ReleaseError)
        assert party._secrets is None
    # The server saw no consent of theirs, so it has no quorum for any other set either.
    sent = {s for k, s, _, _ in second.frames if k == messages.CONSENT.number}
    assert sent == {f"s{i}" for i in sets[1] - sets[0]}
    assert len(sent) + plan.colluding < plan.protocol.share_threshold
    # It ended the analysis: the set that was taken before is not taken again.
    third = play(plan, sets[0], 2, journals)
    assert third.result is None
    assert [rules(third)[f"s{i}"] for i in both] == [{"fixed-ended"}] * len(both)


# Any sequence of sets.


def some_of(least: int, most: int) -> st.SearchStrategy[set[int]]:
    return st.sets(st.integers(1, N - 1), min_size=least, max_size=most)


#: Whether sites are taken away from the last set (or from all sites), and which.
GONE = st.tuples(st.integers(0, 3).map(bool), some_of(0, 2) | some_of(3, 4))


@given(steps=st.lists(GONE, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_what_one_site_accepts_never_isolates_a_block(
    steps: list[tuple[bool, set[int]]],
) -> None:
    # Not even if a refusal did not end the analysis, and the server went on to try.
    site = sites_of(Tireless)[0]
    taken: list[frozenset[int]] = []
    for relative, gone in steps:
        before = taken[-1] if relative and taken else frozenset(range(N))
        sites = before - gone
        if accepts(site, sites):
            taken.append(sites)
    distinct = sorted(set(taken), key=len, reverse=True)
    event(f"{len(distinct)} different sums")
    assert list(dict.fromkeys(taken)) == distinct
    blocks = [a - b for a, b in itertools.pairwise(distinct)] + distinct[-1:]
    assert all(len(block) >= BLOCK for block in blocks)
    # The sums span what the disjoint blocks span, so any combination is constant on blocks.
    rows, parts = ([indicator(s, N) for s in each] for each in (distinct, blocks))
    assert rank(rows) == rank(parts) == rank([*rows, *parts]) == len(blocks)
    assert not isolated(distinct, N, BLOCK)


@given(steps=st.lists(st.tuples(GONE, some_of(0, 3)), min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_a_server_that_tells_whom_it_likes_never_isolates_honest_sites(
    steps: list[tuple[tuple[bool, set[int]], set[int]]],
) -> None:
    """Each set is told to a part of its sites only; colluders confirm anything. What a quorum
    confirms can be opened, and then colluders subtract their own vectors."""
    sites, colluding = sites_of(Tireless), range(N - COLLUDING, N)
    opened: list[frozenset[int]] = []
    for (relative, gone), untold in steps:
        before = opened[-1] if relative and opened else frozenset(range(N))
        told = before - gone
        if len(told) < PLAN.min_survivors:
            continue
        confirmed = sum(
            i in colluding or (i not in untold and accepts(sites[i], told)) for i in told
        )
        if confirmed >= PLAN.protocol.share_threshold:
            opened.append(told)
    event(f"{len(set(opened))} different sums")
    assert not isolated(list(set(opened)), N, BLOCK)
    assert not isolated(list(set(opened)), N, HONEST, known=colluding)


# Any sequence of plans: rosters that overlap, each with a threshold of its own.

SITES = 10
COLLUDER = SITES - 1
NOBODY = frozenset[int]()
WHOLE = frozenset(range(SITES))


class Attempt(NamedTuple):
    """What a server does in one round, under a plan of its own."""

    roster: frozenset[int]
    #: By how much the threshold is above the smallest.
    above: int = 0
    #: Sites that are lost before their input, and whether those are that the last sum lacks.
    gone: frozenset[int] = NOBODY
    again: bool = False
    #: Sites that are not told who survived.
    untold: frozenset[int] = NOBODY


def some_sites(least: int = 0, most: int = SITES) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(0, SITES - 1), min_size=least, max_size=most)


NORTH, SOUTH = frozenset(range(4)), frozenset(range(4, SITES))
#: Rosters of all sites, of a part, of all but a few, and of any.
ROSTERS = st.one_of(
    st.sampled_from([WHOLE, NORTH, SOUTH]),
    some_sites(1, 4).map(lambda gone: WHOLE - gone),
    some_sites(4),
)
FEW = st.one_of(st.just(NOBODY), st.sampled_from([frozenset({i}) for i in WHOLE]), some_sites(3, 4))
ATTEMPTS = st.lists(
    st.builds(Attempt, ROSTERS, st.integers(0, 3), FEW, st.booleans(), FEW | some_sites(2, 5)),
    min_size=3,
    max_size=7,
)


def opened_sums(kind: type[Client], attempts: Iterable[Attempt]) -> list[frozenset[int]]:
    """What a server can open: sites that refuse their input are lost, colluders answer anything
    and remember nothing, and a sum is opened where a threshold of those who are told answers."""
    journals = {i: secagg.MemoryJournal() for i in range(SITES)}
    opened: list[frozenset[int]] = []
    for number, (roster, above, gone, again, untold) in enumerate(attempts):
        plan = plan_of(roster, above)
        if plan is None:
            continue
        journals[COLLUDER] = secagg.MemoryJournal()
        there = roster & opened[-1] if again and opened else roster
        parties = {i: site_of(plan, i, kind, journals[i], number) for i in there - gone}
        sent = frozenset(i for i, party in parties.items() if not refused(party._enter_input))
        if len(sent) < plan.min_survivors:
            continue
        names = {plan.roster.index(f"s{i}") for i in sent}
        answers = sum(
            accepts(parties[i], frozenset(names)) for i in sent - untold | {COLLUDER} & sent
        )
        if answers >= plan.protocol.share_threshold:
            opened.append(sent)
    return opened


#: A sum of all, then of both parts, of which one lacks a site. The second has a threshold for the
#: whole that meets that of either part, but the parts are not compared with each other.
PARTS = [
    [Attempt(WHOLE, above), Attempt(NORTH), Attempt(SOUTH, gone=frozenset({4}))] for above in (0, 3)
]
#: A sum that some sites confirm, and the next epoch, confirmed by those who never heard of it.
EPOCHS = [
    Attempt(WHOLE, untold=frozenset({0, 1, 2, 3})),
    Attempt(WHOLE - {4, 5}, untold=frozenset({6, 7, 8})),
]


@given(attempts=ATTEMPTS)
@example(attempts=PARTS[0])
@example(attempts=PARTS[1])
@example(attempts=EPOCHS)
@settings(max_examples=300, deadline=None)
def test_no_sequence_of_plans_isolates_honest_sites(attempts: list[Attempt]) -> None:
    opened = list(dict.fromkeys(opened_sums(Tireless, attempts)))
    event(f"{len(opened)} different sums")
    assert not isolated(opened, SITES, BLOCK)
    assert not isolated(opened, SITES, HONEST, known=[COLLUDER])
    # What the proof says: any two are nested and a block apart, or share no honest site.
    for a, b in itertools.combinations(opened, 2):
        assert len(a & b - {COLLUDER}) == 0 or ((a <= b or b <= a) and len(a ^ b) >= BLOCK)


class Unrostered(Client):
    """A site that compares sets and not the rosters that they are of."""

    def _check_fixed_roster(self, *_: Any) -> None: ...


@pytest.mark.parametrize("attempts", [*PARTS, EPOCHS])
def test_without_the_rule_of_rosters_sets_that_pass_isolate_sites(attempts: list[Attempt]) -> None:
    opened = opened_sums(Unrostered, attempts)
    assert len(opened) == len(attempts)
    assert isolated(opened, SITES, BLOCK)
    assert not isolated(opened_sums(Client, attempts), SITES, BLOCK)


def test_a_later_roster_goes_on_where_its_threshold_allows_it() -> None:
    """Three sites leave for good; the threshold stays that of the whole, or is refused."""
    whole = Attempt(WHOLE, 1)
    for above, sums in ((0, 1), (2, 2)):
        later = Attempt(WHOLE - {1, 2, 3}, above)
        assert len(opened_sums(Client, [whole, later])) == sums


def test_the_oracle_tells_what_the_rules_refuse() -> None:
    """The same sequences without the rules: a site that leaves alone, and sets that return."""
    everyone = frozenset(range(N))
    alone = [everyone, everyone - {3}]
    # Four triples of four sites, all sites in between: pairs differ by two and more blocks.
    triples = [frozenset(t) for t in itertools.combinations((1, 2, 3, 4), 3)]
    returning = [s for t in triples for s in (everyone, everyone - t)]
    for told in (alone, returning):
        assert isolated(told, N, BLOCK)
        assert isolated(told, N, 2)
        ruled, free = sites_of()[0], sites_of(Unruled)[0]
        assert [accepts(free, s) for s in told] == [True] * len(told)
        assert not all(accepts(ruled, s) for s in told)
    chain = [everyone, everyone - {1, 2, 3}, everyone - {1, 2, 3, 4, 5, 6}]
    ruled = sites_of()[0]
    assert all(accepts(ruled, s) for s in chain)
    assert not isolated(chain, N, BLOCK)
    assert isolated(chain, N, BLOCK + 1)


def test_a_site_that_leaves_alone_ends_the_analysis() -> None:
    """The honest price of the policy, named in ``explain()``."""
    journals: dict[str, Any] = {}
    assert play(PLAN, range(N), 0, journals).result is not None
    world = play(PLAN, range(N - 1), 1, journals)
    assert world.result is None
    assert rules(world) == {f"s{i}": {"fixed-difference"} for i in range(N - 1)}
    assert any("leaves alone ends it" in line for line in PLAN.explain())


def test_the_same_set_again_and_a_block_less_go_on() -> None:
    journals: dict[str, Any] = {}
    for number, stay in enumerate((N, N, N - BLOCK, N - BLOCK)):
        world = play(PLAN, range(stay), number, journals)
        assert world.result is not None
        assert world.result.sum.tolist() == world.expected()
    # A site that was left out may not come back, by whoever was in the last sum.
    back = play(PLAN, range(N), 4, journals)
    assert back.result is None
    assert rules(back) == {f"s{i}": {"fixed-nested"} for i in range(N - BLOCK)}


def test_a_semi_honest_plan_compares_before_it_reveals() -> None:
    plan = make_plan(
        N,
        threat="semi-honest",
        fixed_data=True,
        max_dropouts=4,
        protocol=secagg.MaskedSum(share_threshold=6, neighbours=N - 1),
    )
    journals: dict[str, Any] = {}
    assert play(plan, range(N), 0, journals).result is not None
    world = play(plan, range(N - 1), 1, journals)
    assert world.result is None
    assert rules(world) == {f"s{i}": {"fixed-difference"} for i in range(N - 1)}
    assert not [f for k, _, _, f in world.frames if k == messages.REVEAL.number]


def test_other_data_and_other_sites_of_one_journal_are_counted_apart() -> None:
    journal = secagg.MemoryJournal()
    journals: dict[str, Any] = {f"s{i}": journal for i in range(N)}
    assert play(PLAN, range(N), 0, journals, data="before 2020").result is not None
    assert play(PLAN, range(N - 1), 1, journals, data="since 2020").result is not None
    assert play(PLAN, range(N - 1), 2, journals, data="before 2020").result is None


def test_a_plan_that_is_not_of_fixed_data_compares_nothing() -> None:
    journals: dict[str, Any] = {}
    plan = make_plan(max_inputs_per_model=2)
    for number, stay in enumerate((7, 6)):
        assert play(plan, range(stay), number, journals).result is not None
    kept = unpack_released(journals["s0"].read(released_register("s0", "")))
    # What is kept is that such a sum can have been opened.
    assert kept == replace(NOTHING_RELEASED, fixed=False)


def test_a_set_that_is_too_small_is_refused_whatever_let_it_come_so_far() -> None:
    class Lax(Client):
        def _check_survivor_cohort(self, *_: Any) -> None: ...

    site = sites_of(Lax)[0]
    assert accepts(site, frozenset(range(BLOCK)))
    site = sites_of(Lax)[0]
    site._u3 = tuple(range(BLOCK - 1))
    assert refused(site._enter_release) == ["fixed-difference"]


def test_a_sparse_plan_cannot_be_of_fixed_data() -> None:
    """A site of a sparse graph is told its neighbours' part of a sum only."""
    with pytest.raises(secagg.PlanError) as caught:
        dataclasses.replace(sparse_plan(), fixed_data=True)
    assert (caught.value.rule, caught.value.field) == ("fixed-data-graph", "neighbours")
