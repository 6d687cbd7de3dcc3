"""Attacks on the sum itself, and their laws."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.attacks import aggregate, lab
from secagg.attacks.attack import Keys, Transcript
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import Verdict

IDS = ("imprint", "membership", "sparse-coordinates")
CHEAP = [c for c in COLUMNS if not c.startswith("paillier")]


@pytest.mark.parametrize("column", CHEAP)
@pytest.mark.parametrize("name", IDS)
def test_quick_cells_are_as_expected(name: str, column: str) -> None:
    cell = lab.here(name, column, separate=False)
    assert cell.problems == []
    assert cell.transcripts


@pytest.mark.parametrize("column", ["paillier-one", "paillier-threshold"])
@pytest.mark.parametrize("name", IDS)
@pytest.mark.slow
def test_quick_cells_of_ciphertexts(name: str, column: str) -> None:
    assert lab.here(name, column, separate=False).problems == []


def test_the_figures_of_the_laws() -> None:
    assert aggregate.alone(64, 1024) == pytest.approx(60.2, abs=0.05)
    norm = np.sqrt(1000)
    assert aggregate.membership_area(norm, np.sqrt(99)) == pytest.approx(0.988, abs=5e-4)
    noisy = np.sqrt(99 + (2 * norm) ** 2)
    assert aggregate.membership_area(norm, noisy) == pytest.approx(0.637, abs=5e-4)
    assert aggregate.private_area(0.0, 0.0) == pytest.approx(0.5, abs=1e-6)
    # Pure epsilon: 1 - the area of the two triangles that the curve cuts off.
    assert aggregate.private_area(2.0, 0.0) == pytest.approx(0.8808, abs=1e-4)


def test_imprint_reads_what_is_alone_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    records = rng.random((3, 5))
    # Bins 0..3; record 0 in bin 1, records 1 and 2 together in bin 3.
    active = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).T
    pull = np.array([0.5, 0.25, 0.125])
    weights = (active * pull) @ records
    biases = (active * pull).sum(axis=1)
    found = aggregate.Imprint().run(
        Transcript(public={"resolution": 1e-9}, arrays={"weights": weights, "biases": biases}),
        Keys(),
    )
    assert found.arrays["bins"].tolist() == [1, 3]
    assert np.allclose(found.arrays["records"][0], records[0])
    assert not any(np.allclose(found.arrays["records"][1], record) for record in records)


def test_the_scores_of_another_update_say_nothing() -> None:
    """The attack needs the true update: given another one, it tells nothing apart."""
    rng = np.random.default_rng(5)
    update, other = rng.standard_normal((2, 200))
    sums = rng.standard_normal((400, 200)) * 3
    sums[:200] += update
    from secagg.attacks.statistics import auc

    def area(asked: np.ndarray) -> float:
        given = Transcript(arrays={"sums": sums, "update": asked})
        scores = aggregate.Membership().run(given, Keys()).arrays["scores"]
        return auc(scores[:200], scores[200:])[0]

    assert area(update) > 0.97
    assert abs(area(other) - 0.5) < 0.25


def test_cells_can_be_repeated_from_their_seed() -> None:
    first, again, other = (
        lab.here("sparse-coordinates", "semi-honest", seed=seed, separate=False)
        for seed in (1, 1, 2)
    )
    assert first.finding == again.finding and first.digest == again.digest
    assert first.digest != other.digest
    assert first.verdict == Verdict.LEAKS
