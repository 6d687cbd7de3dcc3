"""Sites that leave and return at every slot, against an oracle that knows only the rules.

The oracle (``support/session_oracle.py``) is written from the specification in plain Python and
imports nothing of ours. For every exchange it says which sites get an order, what each order and
each report holds, what every site and the server say, who is in the sum, where the round is
aborted and whether the next one is cold. All of it is compared in every exchange, and every sum
with plain integers (``support/session_walk.py``).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

import secagg
from secagg.session import Aborted, Cold, Finished, Slot
from secagg_protocols.events import Dropped
from support.session_oracle import ADVERTISE, CONSENT, DEAF, HERE, INPUT, MUTE, REVEAL, SHARE
from support.session_walk import Acts, Tree, Walk, plain_sum
from support.sessions import SERVER, Played, session_plan

THREATS = ("semi-honest", "malicious-server")
Choices = Callable[[Any], list[tuple[Acts, Any]]]


@functools.cache
def four(threat: str) -> tuple[secagg.Plan, dict[str, secagg.Identity]]:
    """Four sites, one of which may drop: threshold 3, so that two absent sites abort."""
    plan, identities = session_plan(threat, length=2)
    assert (plan.min_honest, plan.colluding, plan.max_dropouts) == (2, 1, 1)
    assert plan.protocol.share_threshold == plan.min_survivors == 3
    return plan, identities


def one_site(site: int, *ways: str) -> Choices:
    """In each exchange the site is there, or absent in one of these ways: every pattern."""
    return lambda _: [({site: act}, None) for act in (HERE, *ways)]


def two_intervals(first: int, second: int, way: str) -> Choices:
    """Each of two sites leaves once and returns once, or not: every pair of intervals."""
    there, away, back = range(3)
    follows = {there: (there, away), away: (away, back), back: (back,)}

    def choices(phases: tuple[int, int]) -> list[tuple[Acts, tuple[int, int]]]:
        return [
            ({first: way if a == away else HERE, second: way if b == away else HERE}, (a, b))
            for a, b in itertools.product(follows[phases[0]], follows[phases[1]])
        ]

    return choices


def grow(threat: str, choices: Choices, first: Any = None, **more: Any) -> Tree:
    """All sessions of four sites and three rounds that ``choices`` allows."""
    return Tree(*four(threat), choices, first, **more).grow()


# Every pattern of one site.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "exchanges", "site", "ways"),
    [
        *(("semi-honest", 10, site, (DEAF, MUTE)) for site in range(4)),
        *(("malicious-server", 13, site, (DEAF, MUTE)) for site in (0, 3)),
        # Between the first and the last there is nothing that tells sites apart.
        *(("malicious-server", 13, site, (DEAF,)) for site in (1, 2)),
    ],
)
def test_every_pattern_of_one_site(
    threat: str, exchanges: int, site: int, ways: tuple[str, ...]
) -> None:
    """There, not reached, or its report lost, in each exchange on its own: 3^10 sessions of a
    semi-honest plan, 3^13 of a signed one. One absent site aborts nothing."""
    tree = grow(threat, one_site(site, *ways))
    # Nobody answers the last order, and not to hear it is all the same a pattern of its own.
    assert tree.sessions == (1 + len(ways)) ** exchanges
    assert tree.aborted == 0
    assert tree.finished > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", [DEAF, MUTE])
def test_every_subset_of_exchanges_without_merging(way: str) -> None:
    """The same for all subsets, every one played to its end: a control of how the others
    recognise states that they have seen."""
    tree = grow("semi-honest", one_site(1, way), merge=False)
    assert tree.sessions == 2**10
    assert tree.exchanges == 2**11 - 2


# Every pair of absences.


def intervals(exchanges: int) -> int:
    """Ways to leave once and perhaps return, or to stay."""
    return 1 + exchanges * (exchanges + 1) // 2


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*itertools.combinations(range(4), 2)], ids=str)
def test_every_pair_of_absences(pair: tuple[int, int]) -> None:
    """Each of two sites is away for any stretch of exchanges."""
    tree = grow("semi-honest", two_intervals(*pair, DEAF), (0, 0))
    # Aborts make some sessions longer or shorter than ten exchanges; none makes them fewer.
    assert tree.sessions >= intervals(7) ** 2
    assert tree.aborted > 0
    assert tree.finished > 0


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(0, 3)], ids=str)
def test_every_pair_of_absences_where_the_plan_signs(pair: tuple[int, int]) -> None:
    """By symmetry one pair stands for all: the rules tell sites apart by nothing but that the
    first three that are there sign for the others. Of this pair one does and one does not while
    all are there. All patterns of each single site are played above."""
    tree = grow("malicious-server", two_intervals(*pair, DEAF), (0, 0))
    assert tree.sessions >= intervals(9) ** 2
    assert tree.aborted > 0
    assert tree.finished > 0


@pytest.mark.slow
def test_every_pair_of_stretches_of_lost_reports() -> None:
    """As above, but it is the reports that are lost."""
    tree = grow("semi-honest", two_intervals(0, 1, MUTE), (0, 0))
    assert tree.sessions >= intervals(7) ** 2
    assert tree.aborted > 0


# Any pattern of all sites, drawn.


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.25])
def test_drawn_patterns_of_all_sites(threat: str, share: float) -> None:
    """Nothing is merged or forked here, and any number of sites is away at a time."""
    draw = random.Random(f"{threat} {share}")
    aborted = finished = 0
    for _ in range(1 if share == 0 else 12):
        walk = Walk(*four(threat))
        walk.open(4)
        while True:
            acts = {s: draw.choice((DEAF, MUTE)) for s in range(4) if draw.random() < share}
            ended = {said[0] for said in walk.exchange(acts).closed}
            finished += "finished" in ended
            aborted += "aborted" in ended
            if walk.oracle.slot is None and not walk.open(4):
                break
        assert walk.numbers == sorted(set(walk.numbers))
    assert finished > 0
    assert (aborted > 0) == (share > 0)


@pytest.mark.parametrize("threat", THREATS)
def test_a_tree_of_patterns_in_one_round(threat: str) -> None:
    """The exhaustive walk in small: every pattern of one site, one round."""
    tree = grow(threat, one_site(2, DEAF, MUTE), rounds=1)
    assert tree.sessions == 3 ** (6 if threat == "semi-honest" else 7)


# What the rules come to, said one by one.


def absent(*sites: int, slots: set[int], rounds: set[int] | None = None) -> Any:
    """These sites are not reached in these slots of these rounds."""

    def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
        away = int(site.removeprefix("site-")) in sites and slot in slots
        return not (away and (rounds is None or number in rounds)), True

    return reach


def start(threat: str) -> Played:
    """A session that has had one whole round."""
    session = Played(*four(threat))
    assert session.round(b"model 0") is not None
    return session


def inside(aggregate: secagg.Aggregate | None) -> set[int]:
    assert aggregate is not None
    return {int(name.removeprefix("site-")) for name in aggregate.survivors}


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize(
    ("slot", "sums"),
    [
        # Away at the input exchange: not in this sum, no advert, so not in the next one.
        (INPUT, ({0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3})),
        # Away at the reveal: in this sum, but it dealt no shares for the next one.
        (REVEAL, ({0, 1, 2, 3}, {0, 1, 2}, {0, 1, 2, 3})),
    ],
)
def test_a_site_that_missed_one_slot_is_back_when_the_rules_say(
    threat: str, slot: int, sums: tuple[set[int], ...]
) -> None:
    session = start(threat)
    session.reach = absent(3, slots={slot}, rounds={1})
    found = tuple(inside(session.round(b"model %d" % number)) for number in (1, 2, 3))
    if threat == "malicious-server" and slot == INPUT:
        # The consent exchange has room for a late advert, so it is back one round earlier.
        sums = ({0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3})
    assert found == sums
    assert [e.round for e in session.of(SERVER, Finished)] == [0, 1, 2, 3]
    assert session.of(SERVER, Cold) == []


def test_a_site_that_missed_the_consent_is_in_both_sums() -> None:
    session = start("malicious-server")
    session.reach = absent(3, slots={CONSENT}, rounds={1})
    assert inside(session.round(b"model 1")) == {0, 1, 2, 3}
    assert inside(session.round(b"model 2")) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("threat", "slot"),
    [("semi-honest", slot) for slot in (INPUT, REVEAL)]
    + [("malicious-server", slot) for slot in (INPUT, CONSENT, REVEAL)],
)
def test_two_absent_sites_abort_and_the_next_round_is_cold(threat: str, slot: int) -> None:
    session = start(threat)
    session.reach = absent(1, 3, slots={slot}, rounds={1})
    assert session.round(b"model 1") is None
    (aborted,) = session.of(SERVER, Aborted)
    assert (aborted.round, aborted.error.rule) == (1, "enough")
    assert not session.hub.warm
    # Round 2 was prepared with round 1 and is erased with it.
    session.reach = absent(3, slots=set(Slot))
    assert inside(session.round(b"model 2")) == {0, 1, 2}
    assert session.hub.round == 3
    session.reach = absent(slots=set())
    assert inside(session.round(b"model 3")) == {0, 1, 2}  # it has no setup of this round
    assert inside(session.round(b"model 4")) == {0, 1, 2, 3}
    assert [e.round for e in session.of(SERVER, Finished)] == [0, 3, 4, 5]
    for finished in session.of(SERVER, Finished):
        expected = session.expected(finished.aggregate.survivors, finished.round)
        assert finished.aggregate.sum.tolist() == expected.tolist()


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("slot", [ADVERTISE, SHARE])
def test_two_absent_sites_abort_a_cold_round(threat: str, slot: int) -> None:
    session = Played(*four(threat))
    session.reach = absent(0, 2, slots={slot})
    assert session.round(b"model 0") is None
    assert session.round(b"model 0") is None
    session.reach = absent(0, slots={slot})
    assert inside(session.round(b"model 0")) == {1, 2, 3}
    # The number of an aborted round is never used again.
    assert [e.round for e in session.of(SERVER, Aborted)] == [0, 1]
    assert [e.round for e in session.of(SERVER, Finished)] == [2]


@pytest.mark.parametrize("threat", THREATS)
def test_too_few_setups_for_the_next_round_leave_the_one_under_way_alone(threat: str) -> None:
    """Of six sites four can reveal a sum, and five have to share before the next one."""
    plan, identities = session_plan(threat, sites=6, max_dropouts=1, length=2)
    need = plan.protocol.share_threshold
    assert need <= 4 < plan.min_survivors
    session = Played(plan, identities)
    session.reach = absent(0, 1, slots={REVEAL}, rounds={0})
    assert inside(session.round(b"model 0")) == set(range(6))
    assert not session.hub.warm
    (cold,) = session.of(SERVER, Cold)
    assert cold.error is not None
    assert cold.error.rule == "enough"
    assert inside(session.round(b"model 1")) == set(range(6))
    assert session.hub.round == 2


@pytest.mark.parametrize("threat", THREATS)
def test_a_late_advert_counts_until_the_list_is_frozen(threat: str) -> None:
    """A report of the input exchange that comes late: its input is lost, and its advert counts
    only under a plan that signs, whose list stays open during the consents."""
    session = start(threat)
    session.begin(b"model 1")
    late: list[bytes] = []

    def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
        return True, site != "site-3"

    ask = session.ask

    def keep(site: str, data: bytes) -> Any:
        sends = ask(site, data)
        if site == "site-3":
            late.extend(send.data for send in sends)
        return sends

    session.reach, session.ask = reach, keep  # type: ignore[method-assign]
    session.exchange()
    session.reach, session.ask = absent(slots=set()), ask  # type: ignore[method-assign]
    for data in late:
        session.note(SERVER, session.hub.receive(data, sender="site-3"))
    while session.hub.slot is not None:
        session.exchange()
    (_, second) = session.of(SERVER, Finished)
    assert inside(second.aggregate) == {0, 1, 2}
    (dropped,) = session.of("site-3", Dropped)
    assert dropped.error.rule == "late"
    third = inside(session.round(b"model 2"))
    assert third == ({0, 1, 2, 3} if threat == "malicious-server" else {0, 1, 2})
    assert inside(session.round(b"model 3")) == {0, 1, 2, 3}


def test_the_comparison_notices_what_is_not_so() -> None:
    """Controls: an oracle with one rule changed does not fit what the parties do."""

    def play(walk: Walk) -> None:
        walk.open(3)
        while walk.oracle.slot is not None or walk.open(3):
            walk.exchange({3: DEAF} if walk.oracle.slot == INPUT else {})

    play(Walk(*four("semi-honest")))
    for change in ({"least": 4}, {"signed": True}, {"threshold": 5}):
        wrong = Walk(*four("semi-honest"))
        for name, value in change.items():
            setattr(wrong.oracle, name, value)
        with pytest.raises(AssertionError):
            play(wrong)
    assert plain_sum({0, 1}, 2) != plain_sum({0, 2}, 2) != plain_sum({0, 2}, 1)
