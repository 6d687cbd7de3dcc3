"""SRATTA: recovery, pursuit, grouping, what stops it, and the network that it is shown on."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import MisuseError
from secagg.attacks import columns, lab
from secagg.attacks._matching import decompose
from secagg.attacks.attack import Evidence, Keys, Transcript, encode
from secagg.attacks.finding import Finding, Verdict
from secagg.attacks.process import Inside, LabError
from secagg.attacks.scenes import networks
from secagg.attacks.scenes import sratta as scene
from secagg.attacks.scenes._sratta_tally import (
    Condition,
    Consortium,
    Tally,
    over_draws,
    part,
    student,
)
from secagg.attacks.scenes.networks import Network, Shape
from secagg.attacks.sratta import (
    GUESSES,
    Relation,
    Setting,
    Sratta,
    group,
    guess,
    recover,
    relate,
)

EXACT = Setting(grey=16, error=1e-9)
SMALL = scene.Size(consortia=1, trainings=2, rounds=2, hidden=300)


def finding_of(column: str, *, separate: bool = False) -> Finding:
    cell = lab.here("sratta", column, separate=separate)
    assert cell.problems == []
    assert cell.finding is not None
    return cell.finding


def value(finding: Finding, name: str) -> float:
    # Where an interval is that of independent images, the name goes on to say so.
    (found,) = [m.value for m in finding.measures if m.name.startswith(name)]
    return found


# The network.


@pytest.fixture
def batch() -> tuple[Network, Any, Any]:
    rng = np.random.default_rng(5)
    x, y = networks.digits()
    chosen = rng.permutation(len(x))[:6]
    return Network.initial(Shape(64, 12, 10), rng), x[chosen], y[chosen]


def test_gradients_are_those_of_finite_differences(batch: Any) -> None:
    net, x, y = batch
    exact = networks.gradient(net, x, y)[0].vector
    step = 1e-6
    for i in np.random.default_rng(1).permutation(net.shape.length)[:200]:
        ends = []
        for sign in (1, -1):
            moved = net.vector
            moved[i] += sign * step
            ends.append(Network.of(net.shape, moved).loss(x, y))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(exact[i], abs=1e-8)


def test_parts_of_samples_add_up_to_the_update(batch: Any) -> None:
    net, x, y = batch
    rng = np.random.default_rng(2)
    local = networks.local_training(net, x, y, networks.batches_of(6, 4, 5, rng), 0.5)
    assert np.allclose(local.parts.T @ x, local.update.W, atol=1e-15)
    assert np.allclose(local.parts.sum(axis=0), local.update.b, atol=1e-15)
    assert np.abs(local.update.W).max() > 1e-3


def test_a_model_is_one_vector_and_back(batch: Any) -> None:
    net, _, _ = batch
    again = Network.of(net.shape, net.vector)
    for name in ("W", "b", "V", "c"):
        assert np.array_equal(getattr(again, name), getattr(net, name))
    assert len(net.vector) == net.shape.length == 12 * 65 + 10 * 13
    with pytest.raises(ValueError, match="coordinates"):
        Network.of(net.shape, net.vector[1:])


def test_without_the_images_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MisuseError, match=r"secagg\[demo\]") as error:
        networks.digits.__wrapped__()
    assert error.value.rule == "extra"


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))
def test_batches_use_all_samples_before_any_again(samples: int, size: int, steps: int) -> None:
    found = networks.batches_of(samples, size, steps, np.random.default_rng(0))
    assert [len(one) for one in found] == [size] * steps
    counts = np.bincount(np.concatenate(found), minlength=samples)
    assert counts.max() - counts.min() <= 1


# Recovery.


def images(count: int, seed: int = 0) -> Any:
    x = networks.digits()[0]
    return x[np.random.default_rng(seed).permutation(len(x))[:count]]


def layer(parts: Any, samples: Any) -> Any:
    """The change of neurons, [neurons, inputs + 1], from parts [neurons, samples]."""
    parts = np.asarray(parts, dtype=float)
    return np.concatenate([parts @ samples, parts.sum(axis=1, keepdims=True)], axis=1)


def test_a_sample_that_was_alone_is_read_and_no_mixture() -> None:
    a, b, c = samples = images(3)
    change = layer([[0.01, 0, 0], [0.01, -0.02, 0], [0, 0, -3e-3], [0, 0, 0], [1, 1, 1]], samples)
    found = recover(change, EXACT)
    assert {row.tobytes() for row in found} == {
        np.rint(one * 16).astype(np.uint8).tobytes() for one in (a, c)
    }
    assert not any(np.array_equal(row, np.rint(b * 16)) for row in found)


@given(
    st.integers(0, 1796),
    st.floats(2**-12, 0.2),
    st.booleans(),
    st.integers(24, 40),
    st.integers(0, 2**32),
)
def test_rounding_never_makes_another_sample(
    index: int, part: float, negative: bool, bits: int, seed: int
) -> None:
    sample = networks.digits()[0][index]
    error = 2.5 / 2**bits
    off = np.random.default_rng(seed).uniform(-error, error, 65)
    change = layer([[-part if negative else part]], sample[None]) + off
    found = recover(change, Setting(grey=16, error=error))
    truth = np.rint(sample * 16)
    assert all(np.array_equal(row, truth) for row in found)
    # Beyond the floor of what rounding allows it must be found.
    if part > 130 * error + error:
        assert len(found) == 1


def test_too_small_a_change_is_left_alone() -> None:
    change = layer([[1e-7]], images(1))
    assert len(recover(change, EXACT)) == 1 - (1e-7 < 129e-9)
    assert len(recover(change, Setting(grey=16, error=1e-10))) == 1
    assert len(recover(change, Setting(grey=16, error=1e-10, noise=1e-7))) == 0


def test_what_leaves_the_range_is_no_sample() -> None:
    sample = images(1)
    low, high = sample.copy(), sample.copy()
    low[0, 20], high[0, 20] = -1 / 16, 17 / 16
    assert len(recover(layer([[0.1]], low), EXACT)) == 0
    assert len(recover(layer([[0.1]], high), EXACT)) == 0
    assert len(recover(layer([[0.1]], sample), EXACT)) == 1


def test_guesses_prefer_what_lies_in_the_range() -> None:
    samples = images(3)
    change = layer([[0.1, -0.09, 0], [0, 0, 0.01], [0, 0, 0]], samples)
    found = guess(change, 2)
    assert np.allclose(found[0], samples[2])
    assert found.min() >= 0
    assert found.max() <= 1


# The pursuit.


@given(st.integers(0, 10_000))
def test_pursuit_agrees_with_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = np.abs(rng.normal(size=(6, 9)))
    size = int(rng.integers(1, 4))
    chosen = rng.permutation(6)[:size]
    target = rng.uniform(0.5, 2, size) * rng.choice([-1, 1], size) @ atoms[chosen]
    target = np.stack([target, rng.normal(size=9)])
    found, explained = decompose(target, atoms, tolerance=1e-9, most=6)
    # The oracle: the smallest of all sets that leaves nothing.
    smallest = next(
        subset
        for length in range(1, 7)
        for subset in itertools.combinations(range(6), length)
        if np.linalg.norm(
            target[0]
            - np.linalg.lstsq(atoms[list(subset)].T, target[0], rcond=None)[0] @ atoms[list(subset)]
        )
        <= 1e-9
    )
    assert explained.tolist() == [True, False]
    assert tuple(np.flatnonzero(found[0])) == smallest
    assert np.allclose(found[0] @ atoms, target[0], atol=1e-8)
    assert not found[1].any()


def test_pursuit_without_atoms_or_with_the_same_one_twice() -> None:
    found, explained = decompose(np.ones((2, 3)), np.zeros((0, 3)), tolerance=1e-9)
    assert found.shape == (2, 0)
    assert not explained.any()
    twice = np.array([[1.0, 2, 3], [1.0, 2, 3], [0, 0, 1]])
    found, explained = decompose(np.array([[2.0, 4, 7]]), twice, tolerance=1e-9)
    assert explained.all()
    assert np.allclose(found @ twice, [[2, 4, 7]])


# Grouping.


def broadcast(active: Any, samples: Any) -> Any:
    """A layer, [neurons, inputs + 1], that each sample activates as the table says."""
    full = np.concatenate([samples, np.ones((len(samples), 1))], axis=1)
    signs = np.where(np.asarray(active), 1.0, -1.0)
    found, *_ = np.linalg.lstsq(full, signs.T, rcond=None)
    assert np.array_equal(full @ found > 0, signs.T > 0)
    return found.T


def test_relations_of_newly_active_and_newly_inactive_samples() -> None:
    samples = images(4)
    # Neuron 0: 1 is newly active beside 0. Neuron 1: 2 was active, took part in neuron 2, and did
    # not move it. Neuron 3: 0 and 3 moved it, 1 is newly active: one of two.
    parts = [[0.1, 0.02, 0, 0], [0, 0, 0, 0.1], [0, 0, 0.2, 0], [0.1, 0.03, 0, -0.2]]
    active = [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1]]
    found = relate(broadcast(active, samples), layer(parts, samples), samples, EXACT)
    assert set(found) == {
        Relation(frozenset({0}), frozenset({1})),
        Relation(frozenset({3}), frozenset({2})),
        Relation(frozenset({0, 3}), frozenset({1})),
    }
    groups = group(4, found)
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_a_neuron_with_an_unknown_sample_says_nothing() -> None:
    samples = images(3)
    parts, active = [[0.1, 0.02, 0.05]], [[1, 0, 1]]
    before, change = broadcast(active, samples), layer(parts, samples)
    assert relate(before, change, samples[:2], EXACT) == []
    assert len(relate(before, change, samples, EXACT)) == 1


def test_relations_with_several_movers_wait_for_their_link() -> None:
    open_ = [Relation(frozenset({0, 1}), frozenset({2}))]
    assert len(set(group(3, open_).tolist())) == 3
    linked = [*open_, Relation(frozenset({0}), frozenset({1}))]
    assert len(set(group(3, linked).tolist())) == 1
    assert group(0, []).shape == (0,)


@given(st.data())
def test_groups_of_true_relations_are_pure(data: st.DataObject) -> None:
    sites = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=12))
    everyone = st.sets(st.sampled_from(range(len(sites))), min_size=1, max_size=3)
    relations = []
    for movers in data.draw(st.lists(everyone, max_size=12)):
        homes = {sites[i] for i in movers}
        others = [i for i in range(len(sites)) if sites[i] in homes and i not in movers]
        if others:
            moved = data.draw(st.sets(st.sampled_from(others), min_size=1))
            relations.append(Relation(frozenset(movers), frozenset(moved)))
    groups = group(len(sites), relations)
    for label in set(groups.tolist()):
        assert len({sites[i] for i in np.flatnonzero(groups == label)}) == 1


# Whole trainings, on exact sums.


def attacked(condition: Condition, levels: int = 1 << 32, samples: int = 8) -> tuple[Tally, Any]:
    consortium = Consortium.drawn(5, samples, np.random.default_rng(11))
    size = replace(SMALL, hidden=500, rounds=3)
    pairs = [
        scene.Training(size, condition, consortium).run(
            lambda updates, *_: scene.quantised_sum(updates, levels), np.random.default_rng(t)
        )
        for t in range(size.trainings)
    ]
    before, change = (np.stack(part) for part in zip(*pairs, strict=True))
    setting = Setting(grey=16, error=2.5 / levels)
    with Inside(Sratta) as runner:
        evidence = runner.run(scene._transcript(before, change, setting), Keys())
    tally = Tally(condition)
    tally.add(evidence, consortium)
    return tally, evidence


@pytest.mark.parametrize("samples", [8, 16])
def test_samples_come_back_exactly_and_in_pure_groups(samples: int) -> None:
    tally, evidence = attacked(scene.BARE, samples=samples)
    assert tally.count("false") == 0
    assert tally.count("right") == len(evidence.arrays["samples"]) >= 12
    assert tally.count("grouped") == tally.count("pure") >= 2
    assert tally.count("joined") >= 1
    assert tally.count("wrongly") == 0


def test_censoring_leaves_nothing_to_recover() -> None:
    assert attacked(scene.BARE)[0].count("right") > 0
    tally, evidence = attacked(scene.CENSORED)
    assert tally.count("right") == tally.count("false") == 0
    assert evidence.note


def test_coarse_sums_show_fewer_samples_and_no_false_ones() -> None:
    fine, coarse, rough = (attacked(scene.BARE, 1 << bits)[0] for bits in (32, 16, 8))
    assert fine.count("right") > coarse.count("right") >= rough.count("right") == 0
    assert coarse.count("false") == rough.count("false") == 0


def test_another_consortium_is_not_what_was_found() -> None:
    _, evidence = attacked(scene.BARE)
    other = Consortium.drawn(5, 8, np.random.default_rng(12))
    mine = Consortium.drawn(5, 8, np.random.default_rng(11))
    shared = len(np.intersect1d(mine.held, other.held))
    tally = Tally(scene.BARE)
    tally.add(evidence, other)
    assert tally.count("right") <= shared
    assert tally.count("false") >= len(evidence.arrays["samples"]) - shared


def test_a_tally_counts_what_is_wrong() -> None:
    consortium = Consortium.drawn(2, 3, np.random.default_rng(0))
    grey = np.rint(networks.digits()[0] * 16).astype(np.uint8)
    false = np.zeros((1, 64), dtype=np.uint8)
    found = np.concatenate([grey[consortium.held[0][:2]], grey[consortium.held[1][:2]], false])
    evidence = Evidence(
        arrays={
            "samples": found,
            "groups": np.array([0, 0, 0, 1, 1]),
            "by": np.array([[1, 0, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=np.uint8),
            "guesses": np.full((1, GUESSES, 64), 0.5),
        }
    )
    tally = Tally(scene.BARE)
    tally.add(evidence, consortium)
    assert (tally.count("right"), tally.count("false"), tally.count("held")) == (4, 1, 6)
    assert tally.draws[0].each == [1 / 6, 0.0]
    assert tally.successes == 1
    # A group of three with two of one site, and a group of a true and a false sample.
    assert (tally.count("grouped"), tally.count("pure")) == (5, 3)
    assert (tally.count("pairs"), tally.count("joined"), tally.count("wrongly")) == (2, 1, 3)


# The cells.


@pytest.mark.parametrize("column", ["plain", "semi-honest", "malicious-server", "sparse"])
def test_sums_of_masked_rounds_leak(column: str) -> None:
    finding = finding_of(column)
    assert finding.verdict == Verdict.LEAKS
    assert value(finding, "samples recovered exactly (no protection)") > 0
    assert value(finding, "samples recovered exactly (censoring, q = 2)") == 0
    assert value(finding, "false samples (no protection)") == 0
    assert finding.figures[0].pictures


@pytest.mark.parametrize("column", columns.PAILLIER)
def test_sums_of_ciphertexts_leak(column: str) -> None:
    finding = finding_of(column)
    assert finding.verdict == Verdict.LEAKS
    assert finding.parameters["real rounds"] == 1


def test_noise_bounds_what_is_left_and_says_what_it_costs() -> None:
    finding = finding_of("noise", separate=True)
    assert finding.verdict == Verdict.LEAKS
    assert finding.bounded
    assert (finding.successes, finding.stopped_by) == (0, ())
    (control,) = finding.controls
    assert control.successes > 0
    for epsilon in (2, 8):
        under = f"(noise, epsilon {epsilon})"
        assert value(finding, f"samples recovered exactly {under}") == 0
        assert value(finding, f"samples recognisable {under}") == 0
        (area,) = [m for m in finding.measures if m.name == f"AUC of the closest guesses {under}"]
        assert area.within_bound
        price = value(finding, f"accuracy on other images {under}")
        assert price < value(finding, "accuracy on other images (no protection)") / 2
    assert value(finding, "samples recognisable (no protection)") > 0
    assert "The price" in finding.seen
    assert "useless" in Sratta.remedy


def evidence_of(guesses: Any, found: Any = None) -> Evidence:
    samples = np.zeros((0, 64), dtype=np.uint8) if found is None else found
    return Evidence(
        arrays={
            "samples": samples,
            "groups": np.arange(len(samples)),
            "by": np.ones((1, len(samples)), dtype=np.uint8),
            "guesses": guesses,
        }
    )


def test_guesses_that_see_the_images_fail_the_cell_under_noise() -> None:
    x = networks.digits()[0]
    consortium = Consortium.drawn(5, 8, np.random.default_rng(1))
    tally = Tally(scene.NOISY[1])
    for _ in range(4):
        tally.add(evidence_of(x[consortium.held.ravel()][None]), consortium)
    with pytest.raises(LabError, match="noise allows"):
        scene._guesses(tally)


def test_a_near_copy_counts_and_another_image_does_not() -> None:
    x = networks.digits()[0]
    rng = np.random.default_rng(4)
    consortium = Consortium.drawn(5, 8, rng)
    held = consortium.held.ravel()
    # One grey level off in every pixel: not equal, and plain to see.
    near = np.clip(x[held[:10]] + rng.choice([-1, 1], (10, 64)) / 16, 0, 1)
    others = x[consortium.rest[:5]]
    noise = rng.uniform(size=(20, 64))
    grey = np.full((1, 64), 0.5)
    mean = x[held].mean(axis=0, keepdims=True)
    tally = Tally(scene.BARE)
    tally.add(evidence_of(np.concatenate([near, others, noise, grey, mean])[None]), consortium)
    assert (tally.count("right"), tally.count("near"), tally.count("chance")) == (0, 10, 5)


def test_a_false_sample_fails_the_cell() -> None:
    consortium = Consortium.drawn(5, 8, np.random.default_rng(1))
    tally = Tally(scene.BARE)
    false = np.ones((1, 64), dtype=np.uint8)
    tally.add(evidence_of(np.full((1, 1, 64), 0.5), false), consortium, [0.5])
    with pytest.raises(LabError, match="no site held"):
        tally.measures()


def test_intervals_are_over_draws() -> None:
    # Tables of Student's t at 99.5 %.
    for freedom, table in ((1, 63.657), (2, 9.925), (3, 5.841), (4, 4.604), (9, 3.250)):
        assert student(freedom) == pytest.approx(table, abs=6e-4)
    found = part("x", [(30, 40), (20, 40), (40, 40), (34, 40)])
    values = np.array([0.75, 0.5, 1.0, 0.85])
    reach = 5.841 * values.std(ddof=1) / 2
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - reach, abs=1e-3)
    assert found.high == 1.0
    assert found.name == "x"
    # Draws that agree in nothing but zero do not tell their spread.
    none = part("x", [(0, 40)] * 5)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.005 ** (1 / 200))
    assert none.name.endswith("taken as independent")
    assert over_draws([0.4]) == (None, None)


def test_an_area_of_one_has_an_interval() -> None:
    consortium = Consortium.drawn(5, 8, np.random.default_rng(1))
    tally = Tally(scene.BARE)
    tally.add(evidence_of(networks.digits()[0][consortium.held.ravel()][None]), consortium)
    area = tally.area(None, "")
    assert (area.value, area.high) == (1.0, 1.0)
    assert area.low == pytest.approx(0.005 ** (1 / 40))


def test_the_bound_of_guesses_is_that_of_randomised_response() -> None:
    """Against the worst mechanism there is: a coin that keeps or turns who wins."""
    for epsilon in (0.1, 1.0, 2.0, 8.0):
        keep = np.exp(epsilon) / (1 + np.exp(epsilon))
        assert scene.most_of_guesses(epsilon, 0.0) >= keep
        assert scene.most_of_guesses(epsilon, 1e-5) > scene.most_of_guesses(epsilon, 0.0)
    assert scene.most_of_guesses(0.0, 0.0) == 0.5


def test_a_sum_that_is_not_the_exact_one_fails_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = columns.honest_sum

    def off_by_one(*arguments: Any, **named: Any) -> Any:
        found = honest(*arguments, **named)
        found.total[7] += scene.CLIP / scene.LEVELS
        return found

    monkeypatch.setattr(columns, "honest_sum", off_by_one)
    cell = lab.here("sratta", "semi-honest", separate=False)
    assert cell.verdict == "failed"
    assert "differs" in cell.problems[0]


@pytest.mark.parametrize(
    "transcript",
    [
        Transcript(),
        Transcript(public={"setting": {"grey": 16, "error": 0.0, "truth": 1}}),
        Transcript(
            public={"setting": {"grey": 16, "error": 0.0}},
            arrays={"before": np.zeros((1, 1, 2, 3)), "change": np.zeros((1, 2, 3))},
        ),
    ],
)
def test_a_transcript_without_rounds_gives_no_evidence(transcript: Transcript) -> None:
    assert encode(transcript)
    with Inside(Sratta) as runner:
        found = runner.run(transcript, Keys())
    assert found.note.startswith("DecodeError")
    assert not found.arrays
