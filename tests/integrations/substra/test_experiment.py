"""Whole experiments by substrafl: the same model as without secure sums, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from integrations.substra import app
from integrations.substra.app import NumpyAlgo, log_loss
from integrations.substra.app_sklearn import SklearnAlgo
from integrations.substra.consortium import SIZES, Consortium
from substrafl.algorithms.algo import Algo
from substrafl.evaluation_strategy import EvaluationStrategy
from substrafl.experiment import simulate_experiment
from substrafl.nodes import TestDataNode as EvaluationNode
from substrafl.remote import remote_data
from substrafl.strategies import FedAvg
from substrafl.strategies.schemas import StrategyName

import secagg
from secagg.integrations.substra import PARTY_FILE, PartyData, SecAggAlgo, SecAggFedAvg, with_party

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def strategy(consortium: Consortium, algo: Algo, rounds: int = 3, **more: Any) -> SecAggFedAvg:
    fields: dict[str, Any] = {
        "algo": algo if isinstance(algo, SecAggAlgo) else SecAggAlgo(algo),
        "plan": consortium.plan,
        "identity": consortium.identities["server"],
        "num_rounds": rounds,
        "metric_functions": log_loss,
    }
    return SecAggFedAvg(**{**fields, **more})


def loss_bound(consortium: Consortium, rounds: int) -> float:
    """How far quantisation may move a loss: descent steps of these rates bring two models no
    further apart, so that errors of the means add up, and a loss moves by no more than the norm of
    a row times that of the model's error."""
    step = 8.0 / (1 << 20)
    error = len(SIZES) * step / sum(SIZES) * np.sqrt(consortium.plan.length)
    rows = max(np.linalg.norm(data["x"], axis=1).max() for data in consortium.data)
    # Arrays of float32 are rounded once more, at values below 4.
    narrow = np.sqrt(consortium.plan.length) * 4 * 2.0**-23
    return float(rounds * (error + narrow) * np.sqrt(rows**2 + 1))


@pytest.mark.parametrize("make", [NumpyAlgo, SklearnAlgo])
def test_same_losses_as_without(consortium: Consortium, make: Any) -> None:
    rounds = 3
    plain = FedAvg(algo=make(), metric_functions=log_loss)
    without, _, _ = simulate_experiment(**consortium.arguments(plain, rounds))
    secure = strategy(consortium, make(), rounds)
    with_it, states, _ = simulate_experiment(**consortium.arguments(secure, rounds))
    assert (with_it.worker, with_it.round_idx) == (without.worker, without.round_idx)
    worst = np.abs(np.subtract(with_it.performance, without.performance)).max()
    bound = loss_bound(consortium, rounds)
    print(f"{make.__name__}: losses differ by {worst:.2e}, bound {bound:.2e}")
    assert worst <= bound
    assert with_it.performance[-1] < 0.7 * with_it.performance[0]
    # Only the states of training are kept, one a site, as without.
    assert states.round_idx == [rounds] * 3


def test_one_round(consortium: Consortium) -> None:
    found, _, _ = simulate_experiment(
        **consortium.arguments(strategy(consortium, NumpyAlgo(), 1), 1)
    )
    assert len(found.performance) == 6


def test_adaptive_clip(consortium: Consortium) -> None:
    plan = secagg.Plan.recommend(
        consortium.plan.roster,
        length=7,
        stages=(
            secagg.AdaptiveClip(clip=1.0, lowest=0.1, highest=8.0),
            secagg.Quantise(1 << 20),
        ),
        threat="malicious-server",
        colluding=1,
        max_dropouts=0,
        max_weight=100,
        min_honest=2,
    )
    for name in ("north", "south", "west"):
        (consortium.folders[name] / "plan.toml").write_text(secagg.dump_plan(plan))
    made = strategy(consortium, NumpyAlgo(), 2, plan=plan)
    simulate_experiment(**consortium.arguments(made, 2))


# What is used twice.


def test_session_is_used_once(consortium: Consortium, caplog: pytest.LogCaptureFixture) -> None:
    made = strategy(consortium, NumpyAlgo(), 1)
    simulate_experiment(**consortium.arguments(made, 1))
    with pytest.raises(secagg.MisuseError) as caught:
        simulate_experiment(**consortium.arguments(made, 1))
    assert caught.value.rule == "substra-out"
    simulate_experiment(**consortium.arguments(strategy(consortium, NumpyAlgo(), 1), 1))


def test_inputs_are_counted_by_start(consortium: Consortium) -> None:
    def run(start: bytes) -> None:
        made = strategy(consortium, SecAggAlgo(NumpyAlgo(), start=start), 1)
        simulate_experiment(**consortium.arguments(made, 1))

    assert consortium.plan.max_inputs_per_model == 2
    run(b"seed 1")
    run(b"seed 1")
    with pytest.raises(secagg.MisuseError, match="substra-out"):
        run(b"seed 1")
    run(b"seed 2")


# What is refused.


class Other(NumpyAlgo):
    strategies = property(lambda self: [StrategyName.SCAFFOLD])


class Loose(NumpyAlgo):
    """Says that it is for FedAvg, and returns its model."""

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        return {"weights": self.arrays}


class Broken(NumpyAlgo):
    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        raise ValueError(f"patient 17 has {data_from_opener['x'][0, 0]}")


class Wide(NumpyAlgo):
    """Its update is longer than the plan's vectors."""

    @remote_data
    def train(self, data_from_opener: Any, shared_state: Any = None) -> Any:
        found = super().train(
            data_from_opener=data_from_opener, shared_state=shared_state, _skip=True
        )
        found.parameters_update.append(np.zeros(3))
        return found


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"threat": "semi-honest"}, "substra-threat"),
        ({"fixed_data": True}, "substra-plan"),
        ({"sites_receive": False}, "substra-plan"),
    ],
)
def test_plans_that_are_refused(consortium: Consortium, change: dict[str, Any], rule: str) -> None:
    fields: dict[str, Any] = {
        "length": 7,
        "stages": consortium.plan.stages,
        "threat": "malicious-server",
        "colluding": 1,
        "max_dropouts": 0,
        "min_honest": 2,
    }
    plan = secagg.Plan.recommend(consortium.plan.roster, **{**fields, **change})
    with pytest.raises(secagg.PlanError) as caught:
        strategy(consortium, NumpyAlgo(), plan=plan)
    assert caught.value.rule == rule


def test_algorithms_that_are_refused(consortium: Consortium) -> None:
    with pytest.raises(secagg.PlanError, match=r"Other is made for \['Scaffold'\].*substra-algo"):
        SecAggAlgo(Other())
    with pytest.raises(secagg.PlanError, match="substra-algo"):
        SecAggAlgo(SecAggAlgo(NumpyAlgo()))
    with pytest.raises(secagg.PlanError, match="substra-algo"):
        SecAggAlgo("weights")
    with pytest.raises(secagg.PlanError, match="substra-algo"):
        SecAggAlgo(NumpyAlgo(), start="seed 1")  # type: ignore[arg-type]
    with pytest.raises(secagg.PlanError, match="substra-algo"):
        SecAggFedAvg(NumpyAlgo(), consortium.plan, consortium.identities["server"], 1)  # type: ignore[arg-type]


def test_algorithm_of_a_script(tmp_path: Path) -> None:
    """A class that a node cannot import travels by value, and its base class with it."""
    cloudpickle.register_pickle_by_value(app)
    try:
        SecAggAlgo(NumpyAlgo()).secagg_answer(["sample"]).remote_struct.save(tmp_path)
    finally:
        cloudpickle.unregister_pickle_by_value(app)
    code = (
        "from pathlib import Path; from substrafl.remote.remote_struct import RemoteStruct; "
        f"RemoteStruct.load(Path({str(tmp_path)!r})).get_remote_instance()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)


def test_wrapped_algorithm_runs_under_no_other_strategy(consortium: Consortium) -> None:
    plain = FedAvg(algo=SecAggAlgo(NumpyAlgo()), metric_functions=log_loss)
    with pytest.raises(secagg.MisuseError, match="substra-strategy"):
        simulate_experiment(**consortium.arguments(plain, 1))


@pytest.mark.parametrize(
    ("algo", "rule"), [(Loose, "substra-shared-state"), (Wide, "layout"), (Broken, "substra-out")]
)
def test_training_that_gives_no_update(
    consortium: Consortium, algo: Any, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR, "secagg.integrations"),
        pytest.raises(secagg.MisuseError) as caught,
    ):
        simulate_experiment(**consortium.arguments(strategy(consortium, algo()), 3))
    assert caught.value.rule == rule
    assert "patient 17" not in str(caught.value)
    assert ("patient 17" in caplog.text) == (algo is Broken)
    assert caught.value.__cause__ is None


def test_experiments_that_the_plan_is_not_for(consortium: Consortium) -> None:
    with pytest.raises(secagg.PlanError, match="substra-rounds"):
        simulate_experiment(**consortium.arguments(strategy(consortium, NumpyAlgo(), 2), 3))
    with pytest.raises(secagg.PlanError, match="substra-rounds"):
        strategy(consortium, NumpyAlgo(), 0)
    with pytest.raises(secagg.PlanError, match="roster-member"):
        strategy(consortium, NumpyAlgo(), identity=secagg.Identity.generate("server"))
    with pytest.raises(secagg.PlanError, match="substra-plan"):
        strategy(consortium, NumpyAlgo(), plan=3)
    with pytest.raises(secagg.PlanError, match="roster-member"):
        strategy(consortium, NumpyAlgo(), identity="server")
    arguments = consortium.arguments(strategy(consortium, NumpyAlgo()), 3)
    with pytest.raises(secagg.PlanError, match="substra-sites"):
        simulate_experiment(**{**arguments, "train_data_nodes": consortium.train[:2]})
    with pytest.raises(secagg.PlanError, match="substra-sites"):
        simulate_experiment(**{**arguments, "aggregation_node": None})
    first = consortium.plain_tests[0]
    stranger = EvaluationNode("Elsewhere", first.data_manager_key, first.data_sample_keys)
    evaluation = EvaluationStrategy(test_data_nodes=[stranger], eval_frequency=1)
    with pytest.raises(secagg.PlanError, match=r"Elsewhere.*substra-test-org"):
        simulate_experiment(**{**arguments, "evaluation_strategy": evaluation})


def test_data_without_a_party(consortium: Consortium) -> None:
    arguments = consortium.arguments(strategy(consortium, NumpyAlgo()), 3)
    nodes = [*consortium.train[:2], consortium.plain_train[2]]
    with pytest.raises(secagg.MisuseError, match="substra-party"):
        simulate_experiment(**{**arguments, "train_data_nodes": nodes})


def test_sites_with_another_plan(consortium: Consortium) -> None:
    plan = secagg.Plan.recommend(
        consortium.plan.roster,
        length=7,
        stages=(secagg.ClipL2(1.0), secagg.Quantise(1 << 16)),
        threat="malicious-server",
        colluding=1,
        max_dropouts=0,
        min_honest=2,
    )
    made = strategy(consortium, NumpyAlgo(), plan=plan)
    with pytest.raises(secagg.MisuseError, match="plan-differs"):
        simulate_experiment(**consortium.arguments(made, 3))


def test_opener_helper(tmp_path: Path) -> None:
    one, two, none = (tmp_path / name for name in ("one", "two", "none"))
    for folder in (one, two, none):
        folder.mkdir()
    (one / PARTY_FILE).write_text("/party/one\n")
    (two / PARTY_FILE).write_text("/party/two\n")
    assert with_party([one, none], 5) == PartyData(5, Path("/party/one"))
    assert with_party([none], 5) == 5
    assert "5" not in repr(with_party([one], 5))
    with pytest.raises(secagg.MisuseError, match="different party folders"):
        with_party([one, two], 5)
    (two / PARTY_FILE).write_text("party\n")
    with pytest.raises(secagg.MisuseError, match="absolute path"):
        with_party([two], 5)
