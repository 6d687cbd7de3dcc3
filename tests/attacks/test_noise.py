"""Attacks on noise: cells in quick effort, and the laws behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.attacks import columns
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.catalogue import load_attack, load_scene
from secagg.attacks.finding import Verdict
from secagg.attacks.lab import here
from secagg.attacks.noise import (
    FIRST,
    NONE,
    OPEN,
    SECOND,
    FloatNoise,
    MissingNoise,
    NoiseReuse,
    NoiseWrap,
    UnderstatedSensitivity,
    laplace_reaches,
)
from secagg.attacks.scenes import noise, noise_rounds
from secagg.attacks.scenes.noise import FloatNoiseScene, naive_laplace, reached, tapped
from secagg.attacks.scenes.noise_sensitivity import (
    UncountedQuantise,
    encodings,
    worst_vectors,
)
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages import ClipL2, Integers, Pipeline, Quantise, Rotate

ROWS = (
    "float-noise",
    "understated-sensitivity",
    "missing-noise",
    "noise-reuse",
    "noise-wrap",
)


@pytest.mark.parametrize("row", ROWS)
def test_every_cell_of_noise_comes_out_as_expected(row: str) -> None:
    cell = here(row, "noise", separate=False)
    assert cell.problems == []
    assert cell.verdict == Verdict.PREVENTED
    assert cell.transcripts
    assert cell.finding is not None
    assert cell.finding.figures or row == "noise-reuse"


def test_another_seed_gives_the_same_verdict_and_other_transcripts() -> None:
    first, again, other = (here("noise-wrap", "noise", seed=s, separate=False) for s in (0, 0, 7))
    assert first.holds
    assert other.holds
    assert first.digest == again.digest != other.digest


def test_in_a_process_of_its_own() -> None:
    cell = here("float-noise", "noise")
    assert cell.problems == []
    assert cell.verdict == Verdict.PREVENTED


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("column", ["plain", "semi-honest", "sparse", "paillier-one"])
def test_without_noise_there_is_nothing_to_attack(row: str, column: str) -> None:
    cell = here(row, column, separate=False)
    assert (cell.verdict, cell.holds) == (Verdict.NOT_APPLICABLE, True)
    assert "no noise" in cell.reason


@pytest.mark.parametrize("row", ROWS)
def test_the_catalogue_finds_attack_and_scene(row: str) -> None:
    assert load_scene(row).attack is load_attack(row)


# Row 30.


def test_the_textbook_sampler_loses_what_the_facts_page_says() -> None:
    rng = np.random.default_rng(1)
    for true, other, share in ((0.0, 1.0, 0.668), (1.0, 0.0, 0.601)):
        outputs = naive_laplace(np.full(50_000, true), 1.0, rng)
        assert laplace_reaches(outputs, true, 1.0).all()
        impossible = 1 - laplace_reaches(outputs, other, 1.0).mean()
        assert abs(impossible - share) < 0.01
        assert abs(impossible - (1 - reached(outputs, other).mean())) < 0.01


def test_a_search_over_all_uniforms_of_few_bits_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.attacks.noise.UNIFORM_BITS", 10)
    every = -np.log(np.arange(1, 1025) * 2.0**-10)
    possible = {float(v) for v in [*(1.0 + every), *(1.0 - every)]}
    outputs = np.array(sorted(possible)[:200] + [float(e) for e in every[:200]])
    found = laplace_reaches(outputs, 1.0, 1.0)
    assert found.tolist() == [float(v) in possible for v in outputs]
    assert 0 < found.sum() < len(found)


def test_integer_noise_is_possible_under_both_inputs_and_a_fraction_under_none() -> None:
    plan = columns.plan("noise", 4, 8, stages=(Integers(0, 1),))
    others = np.zeros(4)
    found = FloatNoise().run(
        Transcript(
            plan=dump_plan(plan),
            public={"inputs": [0, 1], "sites": 4},
            arrays={
                "outputs": np.array([0.0, -100.0, 0.5, 1e12]),
                "others": others,
                "samples": np.array([0, 1, -3]),
            },
        ),
        Keys(),
    )
    assert found.arrays["says"].tolist() == [OPEN, OPEN, NONE, NONE]


def test_the_scene_takes_no_wrong_answer() -> None:
    scene = FloatNoiseScene()
    right = scene._right(np.array([FIRST, SECOND, OPEN]), np.array([0, 1, 1]))
    assert right.tolist() == [True, True, False]
    for says, truth in ((FIRST, 1), (SECOND, 0), (NONE, 0)):
        with pytest.raises(RuntimeError, match="rules out"):
            scene._right(np.array([says]), np.array([truth]))


# Row 31.


@settings(max_examples=40, deadline=None)
@given(
    levels=st.integers(1, 300),
    log_d=st.integers(2, 7),
    rounding=st.sampled_from(["nearest", "stochastic", "conditional"]),
    seed=st.binary(min_size=32, max_size=32),
)
def test_no_vector_is_longer_than_its_plan_says(
    levels: int, log_d: int, rounding: str, seed: bytes
) -> None:
    stages = (ClipL2(1.0), Rotate(), Quantise(levels, rounding))  # type: ignore[arg-type]
    pipeline = Pipeline(stages, 1 << log_d, 1).at(bytes(range(32)), b"")
    most = (pipeline.bounds.l2 or 0.0) ** 2 * (1 + 1e-12)
    for x in worst_vectors(pipeline, levels, np.random.default_rng(levels)):
        row = encodings(pipeline, x, [seed])[0]
        assert sum(int(v) ** 2 for v in row) <= most


def test_half_a_level_and_a_hair_doubles_a_norm_that_is_not_counted() -> None:
    pipeline = Pipeline((ClipL2(1.0), Rotate(), UncountedQuantise(2, "nearest")), 16, 1)
    pipeline = pipeline.at(bytes(range(32)), b"")
    assert pipeline.bounds.l2 == pytest.approx(2.0)
    halves = worst_vectors(pipeline, 2, np.random.default_rng(0))[-1]
    row = encodings(pipeline, halves, [bytes(32)])[0]
    assert math.sqrt(sum(int(v) ** 2 for v in row)) == pytest.approx(math.sqrt(15), abs=0.2)


def test_guesses_follow_the_sums() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, (400, 3))
    where = np.array([10.0, 0.0, 0.0])
    found = UnderstatedSensitivity().run(
        Transcript(
            arrays={
                "with": noise[:100] + where,
                "without": noise[100:200],
                "unknown": np.concatenate([noise[200:300] + where, noise[300:]]),
                "direction": where,
            }
        ),
        Keys(),
    )
    assert found.arrays["guess"].tolist() == [1] * 100 + [0] * 100


# Row 32.


def test_what_a_colluding_site_sent_is_all_that_is_taken_off() -> None:
    sums = np.array([[10, 20], [30, 40]])
    own = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    found = MissingNoise().run(Transcript(arrays={"sums": sums, "own": own}), Keys())
    assert found.arrays["estimate"].tolist() == [[6, 14], [18, 26]]


def test_a_tapped_site_sends_what_an_honest_one_does() -> None:
    plan = columns.plan("noise", 4, 8, stages=(Integers(0, 1),))
    vectors = np.ones((4, 8), dtype=np.int64)
    kept: list[np.ndarray] = []
    honest = columns.honest_sum(plan, vectors, seed=b"tapped")
    heard = columns.honest_sum(plan, vectors, seed=b"tapped", classes={"s1": tapped(kept)})
    assert heard.total.tolist() == honest.total.tolist()
    assert heard.frames == honest.frames
    assert len(kept) == 1
    assert kept[0].tolist() != [1] * 8
    assert issubclass(tapped(kept), Client)


# Row 33.


def test_one_round_alone_says_nothing() -> None:
    found = NoiseReuse().run(Transcript(arrays={"sums": np.array([[1, 2]])}), Keys())
    assert found.vectors == {}
    assert found.note


def test_noise_of_a_seed_that_is_not_guessed_stays() -> None:
    plan = columns.plan("noise", 3, 4, stages=(Integers(0, 9),), max_dropouts=0)
    vectors = np.arange(12, dtype=np.int64).reshape(3, 4) % 10
    played = columns.honest_sum(plan, vectors, seed=b"known")
    right = [columns.entropy(b"known", name)(32) for name in plan.roster.names]

    def claimed(guesses: list[bytes]) -> dict[str, list[int]]:
        transcript = Transcript(
            plan=dump_plan(plan),
            session="laboratory",
            frames=played.frames,
            models={0: b"model"},
            public={"guesses": guesses},
            arrays={"sums": played.total[None]},
        )
        return NoiseReuse().run(transcript, Keys()).vectors

    assert claimed([bytes(32), *right])["predicted"] == vectors.sum(axis=0).tolist()
    assert "predicted" not in claimed([bytes(32)])
    assert "predicted" not in claimed(right[:-1])


def test_the_controls_change_one_thing_each() -> None:
    from secagg.attacks.arena import controls
    from secagg_protocols.journal import MemoryJournal

    journal = noise_rounds.ForgetfulJournal
    assert controls.overrides(MemoryJournal, journal) == {"_check_journal_once"}
    assert controls.overrides(Client, noise_rounds.unbound(bytes(32))) == {"pipeline"}
    assert controls.overrides(Client, tapped([])) == {"pipeline"}
    assert controls.overrides(Quantise, UncountedQuantise) == {"bounds"}


# Row 34.


@given(
    true=st.lists(st.integers(-200, 200), min_size=1, max_size=20),
    bits=st.integers(9, 12),
)
def test_wraps_are_found_and_undone(true: list[int], bits: int) -> None:
    size = 1 << bits
    released = [(v + 5) % size - 5 for v in true]  # a window of -5 and above
    found = NoiseWrap().run(
        Transcript(
            public={"modulus": size},
            arrays={
                "released": np.array(released, dtype=np.int64),
                "expected": np.zeros(len(true), dtype=np.int64),
            },
        ),
        Keys(),
    )
    inside = [abs(v) < size // 2 for v in true]
    for i, sure in enumerate(inside):
        if sure:
            assert found.arrays["before"][i] == true[i]
            assert bool(found.arrays["wrapped"][i]) == (released[i] != true[i])


def test_a_share_of_none_has_its_exact_interval() -> None:
    none = noise_rounds.share("", 0, 1000)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high is not None
    assert (1 - none.high) ** 1000 == pytest.approx(0.005)


def test_a_cohort_that_opens_with_too_few_is_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise.MissingNoiseScene, "_one_too_few", lambda *_: "")
    cell = here("missing-noise", "noise", separate=False)
    assert cell.verdict == Verdict.LEAKS
    assert cell.finding is not None
    assert cell.finding.successes == 1


def test_a_sampler_of_even_integers_is_found() -> None:
    plan = columns.plan("noise", 4, 8, stages=(Integers(0, 1),))
    found = FloatNoise().run(
        Transcript(
            plan=dump_plan(plan),
            public={"inputs": [0, 1], "sites": 4},
            arrays={
                "outputs": np.array([4.0, -3.0]),
                "others": np.zeros(2),
                "samples": np.array([0, 2, -6]),
            },
        ),
        Keys(),
    )
    assert found.arrays["says"].tolist() == [FIRST, SECOND]
