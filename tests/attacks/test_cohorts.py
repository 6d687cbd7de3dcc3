"""Attacks on who is in a sum: rows 6, 7, 9, 10 and 11 of the catalogue."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.attacks import columns
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.cohorts import (
    Disaggregation,
    GraphPartition,
    NeighbourCapture,
    SmallCohort,
    Sybils,
    View,
    _secret,
    components,
    open_by_shares,
)
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import Cell, here
from secagg.attacks.process import Inside
from secagg.attacks.scene import Lab
from secagg.attacks.scenes import disaggregation
from secagg.attacks.scenes.cohort_rounds import (
    COLLUDER,
    frames,
    play,
    public,
    shares_of,
)
from secagg.attacks.scenes.sparse_graphs import at_least, recommended, sparse
from secagg_protocols.errors import PlanError
from secagg_protocols.masked_sum import messages
from secagg_protocols.shamir import encode_shares, split

NONE = Keys()


def lab(attack: Any, column: str = "semi-honest") -> Lab:
    return Lab(Inside(attack), attack=attack.id, column=column)


# Cells.


@cache
def cell(name: str, column: str) -> Cell:
    """A cell of the quick matrix, run once."""
    return here(name, column, separate=False)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *(("sybils", column) for column in ("plain", "malicious-server", "sparse")),
        *(("small-cohort", column) for column in ("plain", "semi-honest", "malicious-server")),
        *(("disaggregation", column) for column in ("plain", "semi-honest", "sparse")),
        ("graph-partition", "sparse"),
        ("neighbour-capture", "sparse"),
    ],
)
def test_a_cell_comes_out_as_expected(name: str, column: str) -> None:
    found = cell(name, column)
    assert found.problems == []
    assert found.finding is not None
    assert found.transcripts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sybils", "small-cohort", "disaggregation"])
@pytest.mark.parametrize("column", columns.COLUMNS)
def test_every_other_cell_comes_out_as_expected(name: str, column: str) -> None:
    assert cell(name, column).problems == []


def test_a_cell_in_a_process_of_its_own() -> None:
    found = here("graph-partition", "sparse")
    assert found.problems == []
    assert found.digest == cell("graph-partition", "sparse").digest


@pytest.mark.parametrize("name", ["neighbour-capture", "graph-partition"])
def test_complete_graphs_do_not_apply(name: str) -> None:
    for column in columns.COLUMNS:
        if column != "sparse":
            found = cell(name, column)
            assert found.verdict == Verdict.NOT_APPLICABLE
            assert found.reason


def test_the_rules_that_refused_are_the_observed_ones() -> None:
    found = cell("disaggregation", "semi-honest").finding
    assert found is not None
    assert found.stopped_by == ()
    assert found.also_refused == (
        "client.inputs-per-model",
        "client.fixed-difference",
        "client.fixed-nested",
    )
    found = cell("small-cohort", "malicious-server").finding
    assert found is not None
    assert found.stopped_by == ()
    assert found.also_refused == ("plan.honest-survivors", "client.survivor-cohort")
    found = cell("disaggregation", "sparse").finding
    assert found is not None
    assert found.also_refused == ("client.inputs-per-model", "plan.fixed-data-graph")
    assert "(plan.fixed-data-graph)" in found.seen


def test_a_rule_that_did_not_refuse_is_not_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disaggregation, "refusals", lambda _world: set())
    (problem,) = here("disaggregation", "semi-honest", separate=False).problems
    assert "inputs-per-model should have refused, and nobody did" in problem


def test_a_server_that_chooses_the_graph_is_a_leak_beyond_the_plan() -> None:
    found = cell("neighbour-capture", "sparse").finding
    assert found is not None
    assert (found.verdict, found.beyond, found.stopped_by) == (Verdict.LEAKS, True, ())
    assert found.successes == found.trials > 0
    waits, chooses = found.measures[:2]
    assert (waits.value, waits.bound) == (0.0, 2.0 ** -recommended().graph_security().capture_bits)
    assert chooses.value == 1.0
    assert "0 of 120 recommended graphs" in found.seen
    # Whoever is not weakened is no control.
    assert [one.overrides for one in found.controls] == [("plan.sparse-security",)]


def test_a_bound_is_not_told_as_a_prediction() -> None:
    found = cell("graph-partition", "sparse").finding
    assert found is not None
    assert found.stopped_by == ("plan.sparse-security",)
    bounds = [one for one in found.measures if one.bound is not None]
    assert len(bounds) >= 2
    for one in bounds:
        assert one.predicted is None
        assert one.bound is not None and one.value <= one.bound < 1


def test_noisy_leaks_say_why_they_are_leaks() -> None:
    found = cell("disaggregation", "noise").finding
    assert found is not None
    assert found.bounded and not found.successes
    assert "counts as a leak because" in found.seen
    found = cell("small-cohort", "noise").finding
    assert found is not None
    assert found.beyond and not found.bounded and not found.successes
    assert "counts as a leak because" in found.seen
    share = found.measures[-1]
    # The plan counts on the noise of three sites, and the interval shows that less is left.
    assert share.high is not None and share.high < 3


# Shares and masks.


@given(st.binary(min_size=32, max_size=32), st.integers(2, 6), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_shares_join_to_the_secret_from_the_threshold_on(
    secret: bytes, threshold: int, more: int
) -> None:
    sites = list(range(1, threshold + more + 1))
    table = encode_shares(split([secret], sites, threshold, bytes(32)))
    shares = {site: table[40 * i : 40 * i + 40] for i, site in enumerate(sites)}
    last = dict(itertools.islice(shares.items(), more, None))
    assert _secret(last, threshold) == secret
    few = dict(itertools.islice(shares.items(), threshold - 1))
    assert _secret(few, threshold - 1) != secret


def test_colluders_open_a_vector_from_the_threshold_on_and_not_before() -> None:
    room = lab(Sybils)
    plan = columns.plan("semi-honest", 5)
    colluding = ["s1", "s2", "s3", "s4"]
    world = play(plan, room, classes=dict.fromkeys(colluding, COLLUDER))
    sent = [f for f in frames(world, messages.INPUT) if f.sender == "s0"]
    view = View(Transcript(public=public(world)))
    for count in range(1, 5):
        found = open_by_shares(view, sent, shares_of(world, colluding[:count]))
        enough = count >= plan.protocol.share_threshold
        assert found == ({"s0": world.vectors["s0"].tolist()} if enough else {})
    # The shares of another site's secrets open nothing of this one.
    keys = shares_of(world, colluding)
    swapped = {
        label: keys.values[label.replace(":0", ":1")] if label.endswith(":0") else pair
        for label, pair in keys.values.items()
        if label.replace(":0", ":1") in keys.values
    }
    wrong = open_by_shares(view, sent, Keys(values=swapped))
    assert wrong.get("s0") != world.vectors["s0"].tolist()


def test_another_site_s_truth_is_not_what_is_found() -> None:
    vectors = np.arange(20).reshape(4, 5)
    given = {"sum": vectors.sum(axis=0), "own": vectors[1:]}
    found = Sybils().run(Transcript(public={"victim": "s0"}, arrays=given), NONE).vectors["s0"]
    assert found == vectors[0].tolist()
    assert found != vectors[1].tolist()


def test_two_honest_sites_hide_each_other() -> None:
    vectors = np.arange(20).reshape(4, 5)
    given = {"sum": vectors.sum(axis=0), "own": vectors[2:]}
    found = SmallCohort().run(Transcript(public={"honest": ["s0", "s1"]}, arrays=given), NONE)
    assert found.vectors == {}
    assert found.arrays["residual"].tolist() == (vectors[0] + vectors[1]).tolist()


# Graphs.


def test_golden_figures_of_neighbour_capture() -> None:
    assert round(at_least(99, 33, 10, 6), 4) == 0.0659
    assert f"{at_least(99, 33, 34, 29):.1e}" == "9.6e-16"
    protocol: Any = recommended().protocol
    assert (protocol.neighbours, protocol.share_threshold) == (34, 29)


def test_a_graph_that_is_too_sparse_is_no_plan() -> None:
    with pytest.raises(PlanError) as caught:
        sparse(100, 10, 6, colluding=33, max_dropouts=5)
    assert caught.value.rule == "sparse-security"


@given(st.integers(3, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_the_hypergeometric_law_against_every_draw(
    n: int, marked: int, drawn: int, least: int
) -> None:
    marked, drawn = min(marked, n), min(drawn, n)
    draws = list(itertools.combinations(range(n), drawn))
    hits = sum(sum(x < marked for x in draw) >= least for draw in draws)
    assert math.isclose(at_least(n, marked, drawn, least), hits / len(draws), abs_tol=1e-12)


@given(st.integers(4, 10), st.data())
def test_components_against_a_walk(n: int, data: st.DataObject) -> None:
    ring = [[(i - 1) % n, (i + 1) % n] for i in range(n)]
    gone = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    stays = np.array([i not in gone for i in range(n)])
    seen: set[int] = set()
    walked: list[list[int]] = []
    for start in range(n):
        if start in gone or start in seen:
            continue
        part, todo = {start}, [start]
        while todo:
            new = set(ring[todo.pop()]) - gone - part
            part |= new
            todo += sorted(new)
        seen |= part
        walked.append(sorted(part))
    assert sorted(components(np.array(ring), stays)) == walked


def test_captures_are_counted_of_honest_sites_only() -> None:
    graph = np.array([[[1, 2], [0, 2], [0, 1]]])
    found = NeighbourCapture().run(
        Transcript(public={"colluding": [0, 1]}, arrays={"graphs": graph}), NONE
    )
    assert found.arrays["held"].tolist() == [[0, 0, 2]]


def test_a_whole_graph_has_one_part_and_a_cut_ring_two() -> None:
    ring = np.array([[[(i - 1) % 6, (i + 1) % 6] for i in range(6)]] * 2)
    gone = np.zeros((2, 6), dtype=bool)
    gone[1, [0, 3]] = True
    found = GraphPartition().run(Transcript(arrays={"graphs": ring, "gone": gone}), NONE)
    assert found.arrays["parts"].tolist() == [1, 2]
    assert found.arrays["smallest"].tolist() == [6, 2]


# Disaggregation.


def cohorts(seed: int, rounds: int, sites: int) -> Any:
    rng = np.random.default_rng(seed)
    members = (rng.random((rounds, sites)) < 0.5).astype(np.int64)
    return members, rng.normal(size=(sites, 60))


def test_fifty_users_and_eighty_rounds() -> None:
    members, vectors = cohorts(1, 80, 50)
    found = Disaggregation().run(
        Transcript(arrays={"sums": members @ vectors, "members": members}), NONE
    )
    assert found.arrays["sure"].all()
    assert np.abs(found.arrays["found"] - vectors).max() < 1e-12


def test_fewer_rounds_than_sites_determine_no_single_site() -> None:
    members = np.array([[1, 1, 1, 0], [0, 1, 1, 1]])
    given = {"sums": members @ np.arange(8).reshape(4, 2), "members": members}
    found = Disaggregation().run(Transcript(arrays=given), NONE)
    assert not found.arrays["sure"].any()
    assert found.note


def test_one_lost_site_is_determined_and_no_other() -> None:
    members = np.array([[1, 1, 1, 1], [0, 1, 1, 1]])
    vectors = np.arange(8).reshape(4, 2)
    given = {"sums": members @ vectors, "members": members}
    found = Disaggregation().run(Transcript(arrays=given), NONE)
    assert found.arrays["sure"].tolist() == [True, False, False, False]
    assert np.allclose(found.arrays["found"][0], vectors[0])


@pytest.mark.parametrize(("sites", "rounds"), [(8, 80), (12, 80), (20, 120)])
def test_cohorts_follow_from_counts(sites: int, rounds: int) -> None:
    members, vectors = cohorts(sites, rounds, sites)
    given = {
        "sums": members @ vectors,
        "counts": members.reshape(-1, 10, sites).sum(axis=1),
    }
    found = Disaggregation().run(Transcript(public={"stretch": 10}, arrays=given), NONE)
    assert found.arrays["members"].tolist() == members.tolist()
    assert np.abs(found.arrays["found"] - vectors).max() < 1e-9


def test_wrong_counts_give_no_cohorts() -> None:
    members, vectors = cohorts(3, 80, 8)
    counts = members.reshape(-1, 10, 8).sum(axis=1)
    counts[0, 0] += 1
    given = {"sums": members @ vectors, "counts": counts}
    found = Disaggregation().run(Transcript(public={"stretch": 10}, arrays=given), NONE)
    assert (found.arrays["members"][:, 0] == -1).all()
    assert "found" not in found.arrays


def test_where_counts_are_too_few_the_attack_says_so() -> None:
    members, vectors = cohorts(4, 80, 50)
    given = {"sums": members @ vectors, "counts": members.reshape(-1, 10, 50).sum(axis=1)}
    found = Disaggregation().run(Transcript(public={"stretch": 10}, arrays=given), NONE)
    assert found.arrays == {}
    assert "integer program" in found.note
