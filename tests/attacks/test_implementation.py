"""Timings and rounding: cells in quick effort, and the statistics behind them.

Nothing here depends on how long anything takes but the controls, whose times differ by factors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.columns import COLUMNS, PAILLIER
from secagg.attacks.finding import Verdict
from secagg.attacks.implementation import LIMIT, Quantiser, Timing, cropped, welch
from secagg.attacks.lab import here
from secagg.attacks.scenes.implementation import Operation, timed
from secagg.attacks.scenes.quantiser import QuantiserScene
from secagg_native.quantise import Rounding
from secagg_protocols.keys import hkdf


@pytest.mark.parametrize("column", COLUMNS)
def test_every_cell_of_the_quantiser_comes_out_as_expected(column: str) -> None:
    cell = here("quantiser", column, separate=False)
    assert cell.problems == []
    assert cell.finding is not None
    assert "client.input-finite" in cell.finding.also_refused
    # A site whose seed is public is predicted, conditional rounding included.
    assert all(control.successes for control in cell.finding.controls)


def test_the_quantiser_in_a_process_of_its_own() -> None:
    assert here("quantiser", "semi-honest").problems == []


@pytest.mark.parametrize("column", ["plain", "malicious-server", "noise", *PAILLIER])
def test_timings_are_taken_and_the_early_exit_is_seen(column: str) -> None:
    # The verdict is that of this machine now; only what differs by factors is required of it.
    cell = here("timing", column, separate=False)
    assert cell.finding is not None
    assert cell.finding.trials >= 1
    assert all(control.successes for control in cell.finding.controls)
    if column in PAILLIER:
        assert cell.verdict == Verdict.LEAKS


# Welch's test.


def test_welch_agrees_with_its_formula() -> None:
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 4.0, 9.0])
    # Means 2.5 and 5, variances 5/3 and 13.
    assert welch(first, second) == pytest.approx(2.5 / math.sqrt(5 / 12 + 13 / 3))
    assert welch(second, first) == pytest.approx(-welch(first, second))
    assert welch(np.ones(5), np.ones(5)) == 0.0


def _times(rng: np.random.Generator, gap: float, batches: int = 5) -> dict[str, np.ndarray]:
    kinds = np.array([rng.permutation(np.arange(200) % 2) for _ in range(batches)])
    times = rng.normal(1000, 20, kinds.shape) + gap * kinds
    # One call in twenty is interrupted.
    times += np.where(rng.random(kinds.shape) < 0.05, 50_000.0, 0.0)
    return {"x": times, "x:kinds": kinds}


def test_equal_times_are_not_told_apart_and_unequal_ones_are() -> None:
    told = {}
    for gap in (0.0, 200.0):
        rng = np.random.default_rng(3)
        arrays = _times(rng, gap)
        told[gap] = Timing().run(Transcript(arrays=arrays), Keys()).values
    assert told[0.0]["told:x"] == 0.0
    assert told[200.0]["told:x"] == 1.0
    assert told[200.0]["t:x"] > LIMIT
    assert told[200.0]["ratio:x"] == pytest.approx(1.2, abs=0.02)


def test_a_difference_in_one_batch_alone_is_an_interruption() -> None:
    rng = np.random.default_rng(4)
    arrays = _times(rng, 0.0)
    arrays["x"][0] += 500 * arrays["x:kinds"][0]
    found = Timing().run(Transcript(arrays=arrays), Keys()).values
    assert found["told:x"] == 0.0
    assert abs(found["largest:x"]) > LIMIT


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(5)
    alarms = sum(
        Timing().run(Transcript(arrays=_times(rng, 0.0)), Keys()).values["told:x"]
        for _ in range(100)
    )
    assert alarms == 0


def test_cropping_leaves_interruptions_out() -> None:
    rng = np.random.default_rng(6)
    arrays = _times(rng, 30.0, batches=1)
    whole = abs(welch(*(arrays["x"][0][arrays["x:kinds"][0] == kind] for kind in (0, 1))))
    assert abs(cropped(arrays["x"][0], arrays["x:kinds"][0])) > max(whole, LIMIT)


def test_kinds_are_mixed_and_equally_many() -> None:
    calls: list[int] = []
    operation = Operation("x", [lambda: calls.append(0)], [lambda: calls.append(1)], 50)
    times, kinds = timed(operation, np.random.default_rng(0))
    assert calls[2:] == kinds.tolist()
    assert kinds.sum() == 25
    assert (times >= 0).all()
    assert 0 < np.abs(np.diff(kinds)).sum() < 49


# Rounding.


def _look(levels: np.ndarray, rounded: np.ndarray, **public: object) -> dict[str, float]:
    transcript = Transcript(
        public={"limit": 1e9} | public, arrays={"levels": levels, "rounded": rounded}
    )
    return Quantiser().run(transcript, Keys()).values


def test_bias_is_counted_in_standard_errors() -> None:
    levels = np.full(10_000, 0.25)
    rounded = np.zeros(10_000)
    rounded[:2600] = 1.0
    found = _look(levels, rounded)
    assert found["bias"] == pytest.approx(0.01)
    assert found["bias z"] == pytest.approx(0.01 / (math.sqrt(0.25 * 0.75) / 100))


def test_predictions_need_the_seed_of_the_rounding() -> None:
    levels = np.random.default_rng(7).uniform(-50, 50, 5000)
    secret = bytes(range(32))
    material = hkdf(secret, b"secagg stochastic rounding v1", 24)
    out = np.empty(5000, dtype=np.int64)
    Rounding(scale=1.0, limit=100, key=material[:16], nonce=material[16:], mode="stochastic").write(
        levels, out, 0
    )
    known = _look(levels, out.astype(float), strings=[bytes(32), secret])
    guessed = _look(levels, out.astype(float), strings=[bytes(32)])
    assert known["predicted"] == 1.0
    assert guessed["predicted"] < 0.8


def test_integers_beyond_the_limit_are_counted() -> None:
    assert _look(np.array([1.5, 9.5]), np.array([2.0, 10.0]), limit=5)["beyond"] == 1.0


def test_the_scene_says_corrupts_where_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        QuantiserScene, "_refusals", lambda *_: {"NaN": "", "infinity": "input-finite"}
    )
    cell = here("quantiser", "semi-honest", separate=False)
    assert cell.verdict == Verdict.CORRUPTS
    assert not cell.holds
