"""The network adversary: what it does follows from its seed, and a round over it is judged."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns
from secagg.attacks.adversaries import network
from secagg.attacks.adversaries.network import Network
from secagg.attacks.arena.controls import without
from secagg.attacks.attack import Frame
from secagg.attacks.finding import Verdict
from secagg.attacks.keys import Replay
from secagg.attacks.lab import here
from secagg.attacks.process import Inside
from secagg.attacks.scene import Lab
from secagg.attacks.scenes.network import HIGH, LIAR, Course, ReplayScene, weather
from secagg.attacks.scenes.rounds import arena, truth
from secagg_protocols.masked_sum import Server

ALL = (
    network.Replay(0.2),
    network.Repeat(0.2),
    network.Duplicate(0.2),
    network.Flip(0.2),
    network.Misdirect(0.2),
    network.Relabel(0.2),
    network.Delay(0.2),
    network.Drop(0.2),
    network.Reorder(0.5),
)
NAMES = ("a", "b", "c")


def frames(payloads: list[bytes]) -> list[Frame]:
    return [Frame(1, NAMES[i % 3], NAMES[(i + 1) % 3], data) for i, data in enumerate(payloads)]


payloads = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=12)


@given(st.integers(0, 2**63), payloads, payloads)
def test_a_schedule_is_the_same_each_time(seed: int, first: list[bytes], then: list[bytes]) -> None:
    def play() -> tuple[list[list[Frame]], list[Any]]:
        net = Network(seed, *ALL, earlier=frames([b"old"] * 3))
        return [net.carry(frames(first)), net.carry(frames(then)), net.carry([])], net.marks

    assert play() == play()


@given(st.integers(0, 2**63), st.integers(1, 30))
def test_decisions_do_not_depend_on_what_messages_hold(seed: int, count: int) -> None:
    fault = network.Drop(0.5)
    nets = [Network(seed, fault) for _ in range(2)]
    kept = [
        [frame.data[0] for frame in net.carry(frames([bytes([i]) * size for i in range(count)]))]
        for net, size in zip(nets, (1, 9), strict=True)
    ]
    assert kept[0] == kept[1]
    assert nets[0].marks == nets[1].marks


def test_other_seeds_are_other_schedules() -> None:
    batch = frames([bytes([i]) for i in range(40)])
    outcomes = {
        tuple(f.data for f in Network(seed, network.Drop(0.5)).carry(batch)) for seed in range(50)
    }
    assert len(outcomes) == 50


@given(st.integers(0, 2**63), payloads)
def test_what_each_fault_does_to_every_message(seed: int, data: list[bytes]) -> None:
    batch = frames(data)

    def through(fault: Any, **more: Any) -> list[Frame]:
        return Network(seed, fault, **more).carry(batch)

    assert through(network.Drop(1.0)) == []
    assert through(network.Drop(0.0)) == batch
    assert through(network.Duplicate(1.0)) == [f for f in batch for _ in range(2)]
    assert Counter(through(network.Reorder(1.0))) == Counter(batch)
    for before, after in zip(batch, through(network.Flip(1.0)), strict=True):
        changed = int.from_bytes(before.data, "big") ^ int.from_bytes(after.data, "big")
        assert changed.bit_count() == 1
        assert (before.sender, before.to) == (after.sender, after.to)
    for before, after in zip(batch, through(network.Misdirect(1.0)), strict=True):
        assert (before.data, before.sender) == (after.data, after.sender)
        assert before.to != after.to or len({f.to for f in batch} | {f.sender for f in batch}) < 2
    old = frames([b"x", b"y", b"z"])
    for at, frame in enumerate(through(network.Replay(1.0), earlier=old)):
        if at % 2 == 0:
            assert frame in old
            assert frame.to == batch[at // 2].to
        else:
            assert frame == batch[at // 2]


def test_late_messages_come_with_the_next_batch() -> None:
    batch = frames([b"1", b"2"])
    net = Network(0, network.Delay(1.0))
    assert net.carry(batch) == []
    assert net.carry([]) == batch
    assert net.carry([]) == []


def test_faults_are_bound_to_places() -> None:
    batch = frames([b"1", b"2", b"3"])
    assert [f.data for f in Network(0, network.Drop(1.0, "b")).carry(batch)] == [b"2", b"3"]
    assert [f.data for f in Network(0, network.Drop(1.0, sender="b")).carry(batch)] == [b"1", b"3"]
    net = Network(0, network.Drop(1.0, batch=2))
    assert (net.carry(batch), net.carry(batch), net.carry(batch)) == (batch, [], batch)


def test_a_rate_is_a_chance() -> None:
    with pytest.raises(ValueError, match="rate"):
        network.Drop(1.5)
    net = Network(7, network.Drop(0.3))
    kept = len(net.carry(frames([b"x"] * 4000)))
    assert abs(kept - 2800) < 5 * (4000 * 0.3 * 0.7) ** 0.5


# Rounds.


def course(column: str, number: int, *faults: Any, server: Any = None, length: int = 16) -> Course:
    made = columns.plan(column, 4, length, stages=(secagg.Integers(0, 500),))
    rows = np.random.default_rng(number).integers(0, 501, (made.clients, length))
    world = arena(made, rows, seed=b"s", server=server)
    truths = {name: [truth(world, b"s", name)] for name in made.roster.names}
    return Course(world, Network(number, *faults), truths)


@pytest.mark.parametrize("column", columns.MASKED)
def test_a_quiet_network_gives_the_exact_sum(column: str) -> None:
    outcome = course(column, 1).run()
    assert (outcome.kind, outcome.marks) == ("exact", 0)


@pytest.mark.slow
@pytest.mark.parametrize("column", columns.PAILLIER)
def test_a_quiet_network_with_ciphertexts(column: str) -> None:
    assert course(column, 1).run().kind == "exact"


def test_a_sum_that_is_not_the_truth_is_wrong() -> None:
    played = course("semi-honest", 1)
    played.truths["s1"][0] = played.truths["s1"][0] + 1
    assert played.run().kind == "wrong"


def test_a_round_without_messages_is_aborted() -> None:
    outcome = course("semi-honest", 1, network.Drop(1.0)).run()
    assert (outcome.kind, set(outcome.rules)) == ("aborted", {"server.enough"})


def test_a_damaged_input_counts_only_where_no_trailer_is_checked() -> None:
    flip = network.Flip(1.0, "server", 5, "s1")
    blind = without(Server, "trailer")
    ends = Counter(
        course("semi-honest", i, flip, server=blind, length=128).run().kind for i in range(6)
    )
    assert ends["wrong"] > 0
    honest = [course("semi-honest", i, flip, length=128).run() for i in range(6)]
    assert {outcome.kind for outcome in honest} == {"exact"}
    # A bit of the prefix makes it another message, or none.
    assert sum("server.trailer" in outcome.rules for outcome in honest) >= 3


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**40))
def test_any_schedule_ends_in_the_exact_sum_or_in_none(number: int) -> None:
    for column in ("semi-honest", "malicious-server"):
        assert course(column, number, *weather(number)).run().kind in {"exact", "aborted"}


@pytest.mark.slow
@pytest.mark.parametrize("column", columns.MASKED)
def test_many_schedules(column: str) -> None:
    ends = Counter(course(column, i, *weather(i)).run().kind for i in range(250))
    assert ends["wrong"] == 0
    assert ends["exact"] > 50
    assert ends["aborted"] > 10


@pytest.mark.parametrize("column", ["semi-honest", "malicious-server"])
def test_a_site_that_says_two_things_is_ended_with_evidence(column: str) -> None:
    made = columns.plan(column, 4, 16, stages=(secagg.Integers(0, HIGH),))
    with Inside(Replay) as runner:
        lab = Lab(runner, attack="replay", column=column)
        played = ReplayScene()._course(lab, made, column, 0, [], liar=True, these=())
        outcome = played.run()
    assert outcome.rules == {"server.equivocation": 1}
    assert (outcome.kind, outcome.evidence) == ("exact", 1)
    sent = {f.data for f in outcome.seen if f.sender == LIAR and f.data[3] == 5}
    assert len(sent) == 2


@pytest.mark.parametrize("column", columns.MASKED)
def test_forgeries_count_in_the_verdict(column: str) -> None:
    finding = here("replay", column, separate=False).finding
    assert finding is not None
    forged = next(m for m in finding.measures if "forgeries" in m.name)
    if column == "malicious-server":
        assert (finding.verdict, forged.value, finding.beyond) == (Verdict.DETECTED, 0.0, False)
        assert "server.trailer" in finding.stopped_by
    else:
        assert (finding.verdict, forged.value, finding.beyond) == (Verdict.CORRUPTS, 1.0, True)
        assert finding.successes >= 1 and finding.stopped_by == ()


@pytest.mark.parametrize("row", ["replay", "mask-reuse"])
def test_a_cell_is_the_same_each_time(row: str) -> None:
    first, again = (here(row, "semi-honest", seed=3, separate=False) for _ in range(2))
    assert (first.digest, first.finding) == (again.digest, again.finding)
    assert here(row, "semi-honest", seed=4, separate=False).digest != first.digest
