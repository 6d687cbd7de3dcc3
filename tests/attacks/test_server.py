"""Rows 1 to 4: their cells, their laws, and what the attacks read."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.attacks import columns
from secagg.attacks.adversaries.votes import (
    lists,
    smallest_isolated,
    splits,
    two_list_law,
    two_lists,
    vote_split,
)
from secagg.attacks.arena.controls import changed, overrides, without
from secagg.attacks.arena.table import Table, plain_claims
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.catalogue import ATTACKS, load_attack, load_scene
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import ControlRun, Finding, Verdict
from secagg.attacks.lab import here
from secagg.attacks.process import Inside
from secagg.attacks.reading import (
    Reading,
    keystream,
    plan_of,
    recovered,
    round_context,
    setup_context,
    unpacked,
)
from secagg.attacks.scene import Lab
from secagg.attacks.scenes.asking import _forget_claims, _without_self_mask
from secagg.attacks.scenes.server import SplitViewScene
from secagg.attacks.scenes.views import assignments, plan_for, recommended_sparse, sizes, ways
from secagg.attacks.server import LateUpload, ShareBoth, SplitView, VoteSplitting
from secagg_native import bitpack
from secagg_native import keystream as native_keystream
from secagg_protocols import shamir
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan import masked_of
from secagg_protocols.plan_file import dump_plan

ROWS = ("share-both", "split-view", "vote-splitting", "late-upload")
CALIBRATES = {"share-both", "split-view"}
QUICK = [
    pytest.param(
        name,
        column,
        # Calibrating the plans takes most of the time; two rows do it in the fast tests.
        marks=pytest.mark.slow
        if column == "noise" and name in {"share-both", "split-view"}
        else (),
    )
    for name in ROWS
    for column in COLUMNS
]


@pytest.mark.parametrize(("name", "column"), QUICK)
def test_cells_come_out_as_expected(name: str, column: str) -> None:
    cell = here(name, column, effort="quick", seed=0, separate=False)
    assert cell.problems == []
    if column.startswith("paillier"):
        assert cell.verdict == Verdict.NOT_APPLICABLE
        assert "row 29" in cell.reason
    else:
        assert cell.finding is not None
        assert cell.transcripts > 0


def test_a_cell_in_a_process_of_its_own() -> None:
    cell = here("late-upload", "semi-honest", effort="quick", seed=0)
    assert cell.holds, cell.problems
    inside = here("late-upload", "semi-honest", effort="quick", seed=0, separate=False)
    assert (cell.digest, cell.finding) == (inside.digest, inside.finding)


def test_another_seed_is_another_run() -> None:
    cells = [here("late-upload", "semi-honest", seed=s, separate=False) for s in (0, 0, 1)]
    assert cells[0].digest == cells[1].digest != cells[2].digest
    assert all(cell.holds for cell in cells)


def test_rows_are_in_the_catalogue() -> None:
    for number, (name, kind) in enumerate(
        zip(ROWS[:4], (ShareBoth, SplitView, VoteSplitting, LateUpload), strict=True), 1
    ):
        assert load_attack(name) is kind
        assert kind.number == number
        assert load_scene(name).attack is kind
        assert set(load_scene(name).expected) == set(COLUMNS)
    assert list(ATTACKS)[:4] == list(ROWS)


@cache
def finding(name: str, column: str) -> Finding:
    """What a quick cell found, run once."""
    cell = here(name, column, effort="quick", seed=0, separate=False)
    assert cell.finding is not None
    return cell.finding


def test_only_what_decides_is_said_to_stop_two_lists() -> None:
    found = finding("split-view", "malicious-server")
    assert found.stopped_by == ("plan.one-survivor-set",)
    assert {"client.consent-count", "client.consent-signatures"} <= set(found.also_refused)
    # Each rule that stops it has a control that succeeds without it, and no other rule has.
    won = {rule for one in found.controls if one.successes for rule in one.overrides}
    assert won == set(found.stopped_by)


def test_without_its_control_nothing_is_said_to_stop_two_lists() -> None:
    def run(rule: str, successes: int) -> ControlRun:
        return ControlRun(overrides=(rule,), trials=1, successes=successes)

    rule, consent = "plan.one-survivor-set", "client.consent-count"
    decide = SplitViewScene._deciding
    assert decide([run(rule, 1), run(consent, 0)]) == (rule,)
    assert decide([run(rule, 0), run(consent, 0)]) == ()
    assert decide([run(rule, 1), run(consent, 1)]) == ()


def test_consents_are_what_stops_a_list_for_each_site() -> None:
    found = finding("vote-splitting", "malicious-server")
    assert found.stopped_by == ("client.consent-count", "client.consent-signatures")
    assert set(found.also_refused) == {"client.sharers-within", "client.survivors-within"}


@pytest.mark.parametrize(
    ("name", "column", "beyond"),
    [
        ("split-view", "plain", False),
        ("split-view", "semi-honest", True),
        ("split-view", "sparse", True),
        ("vote-splitting", "semi-honest", True),
        ("vote-splitting", "sparse", True),
        ("vote-splitting", "noise", True),
    ],
)
def test_an_active_server_is_beyond_a_semi_honest_plan(
    name: str, column: str, beyond: bool
) -> None:
    found = finding(name, column)
    assert found.verdict == Verdict.LEAKS
    assert found.beyond == beyond
    assert found.stopped_by == ()


def test_a_quick_run_is_not_called_exhaustive() -> None:
    for name in ("share-both", "split-view", "vote-splitting"):
        found = finding(name, "malicious-server")
        assert not found.exhaustive
        assert found.parameters["n"] == "3..4"
        assert found.parameters["c"] == "0..1"


def test_all_assignments_hold_each_site_or_are_common() -> None:
    for n, c, least in ((3, 0, 2), (4, 0, 3), (4, 1, 3)):
        known = lists(n, least)
        every = set(itertools.product(known, repeat=n - c))
        wanted = {
            told
            for told in every
            if len(set(told)) == 1 or all(h in s for h, s in zip(range(c, n), told, strict=True))
        }
        found = assignments(n, c, least)
        assert set(found) == wanted
        assert len(found) == len(wanted)


# Laws.


def test_golden_sizes_of_isolated_sets() -> None:
    assert smallest_isolated(30, 0, 16, 16) == 4
    assert smallest_isolated(30, 9, 20, 20) == 2


def fewest_by_trying(n: int, t: int, most: int) -> int:
    """Every choice of whom each site misses; sites that t others miss can be removed."""
    options = [
        [
            frozenset(part)
            for size in range(most + 1)
            for part in itertools.combinations([x for x in range(n) if x != site], size)
        ]
        for site in range(n)
    ]
    fewest = n
    for missed in itertools.product(*options):
        left = sum(sum(site in row for row in missed) < t for site in range(n))
        fewest = min(fewest, max(1, left))
    return fewest


@pytest.mark.parametrize(
    ("n", "t", "most"), [(3, 2, 1), (4, 2, 1), (4, 3, 1), (4, 2, 2), (5, 3, 1), (5, 4, 1)]
)
def test_the_law_of_votes_is_what_trying_all_gives(n: int, t: int, most: int) -> None:
    assert smallest_isolated(n, 0, t, n - most) == fewest_by_trying(n, t, most)


def test_votes_reach_the_law_and_not_below() -> None:
    for n, c in itertools.product(range(4, 12), range(3)):
        for t in range(max(2, c + 1), n):
            for m in range(t, n):
                honest, holders = range(c, n), [frozenset(range(n))] * n
                law = smallest_isolated(n, c, t, m)
                for size in {law, law - 1} - {0}:
                    most = dict.fromkeys(honest, n - m)
                    missed = vote_split(holders, honest[:size], range(c), t, most)
                    assert all(h not in gone for h, gone in missed.items())
                    assert all(len(gone) <= n - m for gone in missed.values())
                    votes = [sum(s in gone for gone in missed.values()) for s in honest[size:]]
                    assert all(v >= t - c for v in votes) == (size == law), (n, c, t, m, size)


def test_two_lists_follow_the_library() -> None:
    for n in range(2, 20):
        for c, t in itertools.product(range(n), range(1, n + 1)):
            assert two_list_law(n, c, t) == secagg.two_list_attack_possible(n, c, t)


def test_two_lists_are_the_best_two() -> None:
    told = two_lists(7, 2, range(7), (0, 1), 4)
    alive = [site for site, sites in told.items() if 2 in sites]
    assert 2 in alive
    assert len(alive) + 2 == 4
    assert len(told) == 5


def test_every_split_is_met_up_to_renaming() -> None:
    everything = set(itertools.product(*[[s for s in lists(3, 2) if h in s] for h in range(3)]))
    met = list(splits(3, 0, 2))
    reached = {
        tuple(frozenset(move[x] for x in told[move.index(h)]) for h in range(3))
        for told in met
        for move in itertools.permutations(range(3))
    }
    assert reached == everything
    assert len(met) < len(everything)


# What the attacks read.


@given(st.lists(st.integers(0, 2**13 - 1), min_size=1, max_size=40))
def test_unpacking_is_that_of_the_wire(values: list[int]) -> None:
    packed = bytearray(bitpack.packed_size(len(values), 13))
    bitpack.pack(np.array(values, dtype=np.uint16), 13, packed)
    assert unpacked(bytes(packed), len(values), 13).tolist() == values


@pytest.mark.parametrize("lane", [np.uint16, np.uint32, np.uint64])
def test_masks_are_those_of_the_kernels(lane: type[np.generic]) -> None:
    key = bytes(range(24))
    expected = native_keystream(key[:16], key[16:], 37, lane)
    assert keystream(key, 37, np.dtype(lane)).tolist() == expected.tolist()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_shares_open_as_they_were_dealt(secret: bytes, seed: bytes) -> None:
    table = shamir.split([secret], range(5), 3, seed)
    shares = {h: shamir.encode_shares(table[h]) for h in range(5)}
    for holders in itertools.combinations(range(5), 3):
        assert recovered({h: shares[h] for h in holders}, 3) == secret
    assert recovered({0: shares[0], 1: shares[1]}, 3) is None
    wrong = {0: shares[1], 1: shares[0], 2: shares[2]}
    assert recovered(wrong, 3) != secret


def test_contexts_are_those_of_the_sites() -> None:
    plan = columns.plan("semi-honest", 4)
    made = Table(plan, np.zeros((4, 5), dtype=np.int64))
    party = made.cohort.parties[0]
    setup = setup_context(plan, "laboratory", 0)
    assert setup == party.contexts.setup
    assert round_context(setup, b"model") == party.contexts.round


def test_a_plan_that_breaks_a_rule_is_read_all_the_same() -> None:
    weak = plan_for("malicious-server", 5, 1, 1, 3, kind=without(secagg.Plan, "one-survivor-set"))
    assert plan_of(dump_plan(weak)).digest == weak.digest
    with pytest.raises(secagg.DecodeError):
        plan_of("")


def weak_table(lab: Lab, column: str = "semi-honest") -> Table:
    plan = plan_for(column, 5, 1, 1, 3)
    return Table(plan, lab.inputs(5, 5, 1000), colluding=[0], seed=bytes(32))


def test_only_the_truth_of_the_victim_counts() -> None:
    with Inside(SplitView) as runner:
        lab = Lab(runner, attack="split-view", column="semi-honest")
        made = weak_table(lab)
        made.view(lambda _: ways(two_lists(5, 2, range(5), [0], 3)))
        (claims,) = made.claims(lab)
    assert set(claims) == {"s2"}
    assert sizes(claims, made.truth) == [1]
    assert sizes({"s3": claims["s2"]}, made.truth) == []
    assert made.truth["s2"] == made.vectors[2].tolist()


def test_without_the_shares_of_colluding_sites_the_same_frames_open_nothing() -> None:
    with Inside(SplitView) as runner:
        lab = Lab(runner, attack="split-view", column="semi-honest")
        made = weak_table(lab)
        made.view(lambda _: ways(two_lists(5, 2, range(5), [0], 3)))
        frames = [*made.server.frames, *made._views[0]]
        transcript = made.transcript(frames)
        with_keys = lab.attack(transcript, Keys(values=made._keys))
        without_keys = lab.attack(transcript)
        nothing = lab.attack(Transcript(plan=transcript.plan, session=transcript.session))
    assert set(with_keys.vectors) == {"s2"}
    assert without_keys.vectors == nothing.vectors == {}
    assert nothing.note


def test_noise_is_in_what_is_opened_and_it_is_the_site_s_own() -> None:
    with Inside(SplitView) as runner:
        lab = Lab(runner, attack="split-view", column="noise")
        made = weak_table(lab, "noise")
        made.view(lambda _: ways(two_lists(5, 2, range(5), [0], 3)))
        (claims,) = made.claims(lab)
    assert claims["s2"] == made.truth["s2"] != made.vectors[2].tolist()


def test_broken_frames_are_passed_over() -> None:
    made = Table(columns.plan("semi-honest", 4), np.zeros((4, 5), dtype=np.int64))
    transcript = made.transcript(
        [
            frame if at % 3 else type(frame)(0, frame.sender, frame.to, frame.data[:30])
            for at, frame in enumerate(made.server.frames)
        ]
    )
    reading = Reading.of(transcript, Keys())
    assert 0 < len(reading.adverts) < 4


def test_a_plain_sum_hides_nothing() -> None:
    with Inside(ShareBoth) as runner:
        lab = Lab(runner, attack="share-both", column="plain")
        claims, truth = plain_claims(lab, columns.plan("plain", 5), lab.inputs(5, 5, 1000))
    assert claims == truth


def test_controls_of_features_change_one_method() -> None:
    assert overrides(Client, changed(Client, _make_input=_without_self_mask)) == {"_make_input"}
    journal = changed(secagg.MemoryJournal, claim=_forget_claims)
    assert overrides(secagg.MemoryJournal, journal) == {"claim"}


def test_the_recommended_sparse_plan_is_within_the_law() -> None:
    protocol = masked_of(recommended_sparse())
    assert 2 * protocol.share_threshold <= protocol.neighbours + 1
