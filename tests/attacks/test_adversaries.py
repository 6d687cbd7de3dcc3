"""The cheating server against real sites: every behaviour does what it says, and repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks import columns
from secagg.attacks.adversaries.server import (
    AskAgain,
    AtRandom,
    Behaviour,
    CheatingServer,
    Declare,
    DifferentModels,
    Equivocate,
    HoldBack,
    Overstate,
    PassConsents,
    Replay,
    Shrink,
    SubstituteKeys,
)
from secagg.attacks.arena.cohort import Cohort, colluder_keys
from secagg.attacks.arena.world import people
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.reading import Reading, recovered
from secagg_protocols.events import Step
from secagg_protocols.masked_sum import messages
from secagg_protocols.plan_file import dump_plan

N = 6
EVERYBODY = frozenset(range(N))


def play(
    column: str = "semi-honest",
    *behaviours: Behaviour,
    colluding: tuple[int, ...] = (),
    seed: bytes = bytes(32),
    round: int = 0,
    **more: Any,
) -> tuple[Cohort, CheatingServer, Reading]:
    plan = columns.plan(column, N, 4)
    identities = people(plan.clients)[1]
    vectors = np.random.default_rng(5).integers(0, 1000, (plan.clients, 4))
    cohort = Cohort(plan, vectors, colluding=colluding, seed=seed, round=round, **more)
    server = CheatingServer(
        plan,
        identities["server"],
        cohort.deliver,
        behaviours=behaviours,
        colluders={i: identities[f"s{i}"] for i in colluding},
        seed=seed,
        round=round,
    )
    server.run(cohort.start())
    transcript = Transcript(
        plan=dump_plan(plan),
        session="laboratory",
        frames=server.frames,
        models={round: b"model"},
    )
    return cohort, server, Reading.of(transcript, Keys(values=cohort.keys), round=round)


def rules(cohort: Cohort) -> set[str]:
    return {rule for _, _, rule in cohort.refusals}


@pytest.mark.parametrize("column", ["semi-honest", "malicious-server", "sparse"])
def test_without_behaviours_it_is_the_honest_server(column: str) -> None:
    cohort, server, reading = play(column)
    assert cohort.refusals == []
    n = cohort.plan.clients
    assert sorted(server.revealed) == list(range(n))
    total = [sum(int(row[i]) for row in cohort.vectors) for i in range(4)]
    assert reading.open_sum(range(n)) == total
    assert [site for site in range(n) if reading.open_vector(site) is not None] == []


def test_colluding_sites_hand_over_what_they_hold() -> None:
    cohort, server, reading = play("malicious-server", colluding=(0, 3))
    party = cohort.parties[0]
    held = colluder_keys(party)
    assert held == {k: v for k, v in cohort.keys.items() if k.startswith("s0/")}
    assert secagg.Identity("s0", held["s0/identity"]).public == party._public(0)
    shares = {
        holder: cohort.keys[f"s{holder}/shares/s1"][:40] for holder in (0, 3)
    } | reading.self_shares[1]
    assert recovered(shares, cohort.plan.protocol.share_threshold) == reading.self_seed(1)
    # Their consents come from the server, and they are not asked for reveals.
    assert set(server.revealed) == EVERYBODY - {0, 3}
    # What the frames alone say of a colluding site's shares, opened with its channel key.
    assert reading.mask_shares[1] == {h: cohort.keys[f"s{h}/shares/s1"][40:] for h in (0, 3)}


@pytest.mark.parametrize(
    ("step", "field"), [(Step.ADVERTISE, "u1"), (Step.SHARE, "u2"), (Step.INPUT, "u3")]
)
def test_each_site_is_told_its_own_list(step: Step, field: str) -> None:
    _, _, reading = play("semi-honest", Equivocate(step, {2: EVERYBODY - {5}}))
    told = getattr(reading, field)
    own = {2} if step == Step.ADVERTISE else set()
    assert set(told[2]) == EVERYBODY - {5} - own
    own = {1} if step == Step.ADVERTISE else set()
    assert set(told[1]) == EVERYBODY - own


def test_a_site_that_is_declared_gone_is_late() -> None:
    cohort, server, reading = play("semi-honest", Declare([4]))
    assert cohort.refusals == [(4, messages.SURVIVORS.number, "late")]
    assert 4 in server.inputs
    assert reading.mask_seed(4) is not None
    assert reading.self_seed(4) is None


@pytest.mark.parametrize(
    ("column", "rule"), [("semi-honest", None), ("malicious-server", "advert-signatures")]
)
def test_other_keys_are_taken_where_nobody_signs(column: str, rule: str | None) -> None:
    cohort, _, _ = play(column, SubstituteKeys({3: bytes([9]) * 32 + bytes([5]) * 32}, to=[1]))
    met = {r for site, kind, r in cohort.refusals if kind == messages.ADVERTS.number and site == 1}
    assert met == ({rule} if rule else set())


def test_a_replay_is_ignored_and_nothing_else_changes() -> None:
    cohort, _, reading = play("semi-honest", Replay(messages.SURVIVORS.number))
    assert rules(cohort) == {"step-order"}
    assert reading.open_sum(range(N)) is not None
    old = play("semi-honest", round=0)[1].frames
    cohort, _, _ = play("semi-honest", Replay(messages.SURVIVORS.number, 1, old), round=1)
    assert rules(cohort) == {"trailer"}


def test_inputs_that_are_held_back_are_there_all_the_same() -> None:
    cohort, server, reading = play("semi-honest", HoldBack(messages.INPUT.number, [2]))
    assert server.held == [(2, messages.INPUT.number)]
    assert 2 not in server.inputs
    assert reading.masked(2) is not None
    assert (2, messages.SURVIVORS.number, "late") in cohort.refusals


def test_a_second_survivor_list_ends_the_sites() -> None:
    cohort, _, reading = play("semi-honest", AskAgain(EVERYBODY - {5}))
    assert rules(cohort) == {"equivocation"}
    assert list(reading.both_secrets()) == []


@pytest.mark.parametrize(
    ("filled", "rule"), [(False, "consent-count"), (True, "consent-signatures")]
)
def test_consents_are_chosen_for_each_site(filled: bool, rule: str) -> None:
    split = Equivocate(Step.INPUT, {1: EVERYBODY - {5}})
    cohort, server, _ = play("malicious-server", split, PassConsents(filled=filled))
    assert (1, messages.CONSENTS.number, rule) in cohort.refusals
    assert 1 not in server.revealed


def test_sites_with_another_model_do_not_fit_into_the_sum() -> None:
    crafted = {1: b"crafted"}
    cohort, _, reading = play("semi-honest", DifferentModels(crafted), models=crafted)
    assert cohort.refusals == []
    total = [sum(int(row[i]) for row in cohort.vectors) for i in range(4)]
    assert reading.open_sum(range(N)) != total


def test_cohorts_shrink_over_rounds() -> None:
    sizes = []
    for number in range(2):
        _, server, reading = play("semi-honest", Shrink([5]), round=number)
        sizes.append(len({*reading.u1[0], 0}))
        assert {frame.round for frame in server.frames} == {number}
    assert sizes == [N, N - 1]


def test_a_site_of_a_sparse_graph_believes_the_size_it_is_told() -> None:
    gone = Equivocate(Step.INPUT, {0: frozenset(range(12)) - {11, 10, 9, 8, 7}})
    honest, _, _ = play("sparse", gone)
    lied, _, reading = play("sparse", gone, Overstate(Step.INPUT))
    assert (0, messages.SURVIVORS.number, "survivor-cohort") in honest.refusals
    assert (0, messages.SURVIVORS.number, "survivor-cohort") not in lied.refusals
    assert reading.cohort[0] == 12


def test_a_run_repeats_from_its_seed() -> None:
    one, other, third = (
        play("malicious-server", AtRandom(Step.INPUT), seed=bytes([s]) * 32)[1].frames
        for s in (1, 1, 2)
    )
    assert one == other
    assert one != third


def test_all_that_was_delivered_is_in_the_frames() -> None:
    cohort, server, _ = play()
    seen: list[tuple[str, bytes]] = []
    again = Cohort(cohort.plan, cohort.vectors, seed=bytes(32))

    def deliver(site: int, data: bytes) -> list[bytes]:
        seen.append((f"s{site}", data))
        return again.deliver(site, data)

    other = CheatingServer(server.plan, server.identity, deliver)
    other.run(again.start())
    assert seen == [(f.to, f.data) for f in other.frames if f.sender == "server"]
    assert [f for f in other.frames if f.sender != "server"] == [
        f for f in server.frames if f.sender != "server"
    ]


def test_forks_go_different_ways_and_leave_the_first_alone() -> None:
    plan = columns.plan("semi-honest", N, 4)
    cohort = Cohort(plan, np.zeros((N, 4), dtype=np.int64))
    server = CheatingServer(plan, people(N)[1]["server"], cohort.deliver)
    server.collect(cohort.start())
    server.relay_adverts()
    server.relay_shares()
    frames = list(server.frames)
    revealed = []
    for gone in (set(), {1}, {2}):
        sites = cohort.fork()
        branch = server.fork(sites.deliver, [Declare(gone)])
        branch.announce()
        revealed.append(sorted(branch.revealed))
    assert revealed == [sorted(EVERYBODY - gone) for gone in (set(), {1}, {2})]
    assert server.frames == frames
    assert cohort.refusals == []


def test_a_site_does_not_start_from_a_state_that_is_older_than_its_journal() -> None:
    plan = columns.plan("malicious-server", N, 4)
    cohort = Cohort(plan, np.zeros((N, 4), dtype=np.int64))
    server = CheatingServer(plan, people(N)[1]["server"], cohort.deliver)
    server.collect(cohort.start())
    server.relay_adverts()
    server.relay_shares()
    cohort.save(0)
    server.announce()
    server.confirm()
    cohort.restart(0)
    assert cohort.refusals == [(0, 0, "dump-age")]
    assert cohort.deliver(0, server.frames[-1].data) == []
