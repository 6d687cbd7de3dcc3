"""Noise and privacy budgets under a static compute plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integrations.substra.experiment import NAMES, Experiment, out, plain_updates

import secagg
from secagg import dp
from secagg.integrations.folder import PartyFolder
from secagg.integrations.substra.assets import AssetFile, SiteOrders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

EPSILON, DELTA = 40.0, 1e-5


def noisy(plan: secagg.Plan) -> secagg.Plan:
    """Two rounds of one data set for EPSILON together."""
    return dp.calibrate(
        plan, epsilon=EPSILON, delta=DELTA, rounds=2, l2_clip=8.0, adjacency="zero-out"
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path, max_weight=1, alter=noisy)


def limit(experiment: Experiment, name: str, epsilon: float) -> None:
    text = f"epsilon = {epsilon}\ndelta = {DELTA}\n"
    (experiment.folders[name] / "budget.toml").write_text(text, encoding="utf-8")


def charges(experiment: Experiment, name: str) -> int:
    ledger = PartyFolder(experiment.folders[name]).ledger()
    assert ledger is not None
    return sum(entry.rounds for entry in ledger.entries())


def test_the_mean_is_that_of_the_updates_within_the_noise(experiment: Experiment) -> None:
    for name in NAMES:
        limit(experiment, name, EPSILON)
    experiment.run()
    assert [charges(experiment, name) for name in NAMES] == [2, 2, 2]
    found = [
        AssetFile.load(experiment.platform.path(task.shared or ""))
        for task in experiment.tasks("secagg_orders")
    ]
    orders = next(each for each in found if isinstance(each, SiteOrders) and each.arrays)
    assert orders.arrays is not None
    deviation = experiment.plan.noise_variance**0.5 / len(NAMES)
    assert deviation > 1e-3
    largest = 0.0
    for number, array in enumerate(orders.arrays):
        mean = np.mean([update[number] for update in plain_updates(experiment)], axis=0)
        largest = max(largest, float(np.abs(array.array() - mean).max()))
    print(f"noise of {deviation:.3g} in a coordinate of the mean, off by {largest:.3g}")
    assert 0 < largest < 8 * deviation


def test_a_budget_that_is_spent_ends_the_experiment(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    """It bears one round: the second input is not sent, and why is in the site's own log only."""
    limit(experiment, "west", 0.9 * EPSILON)
    limit(experiment, "north", EPSILON)
    out(experiment, lambda task: None, "substra-out")
    assert charges(experiment, "west") == 1
    assert "[budget]" in caplog.text
    assert len(experiment.tasks("secagg_orders")) > 0
    for path in experiment.platform.root.rglob("*"):
        if path.is_file() and "parties" not in path.parts:
            assert b"budget" not in path.read_bytes()
