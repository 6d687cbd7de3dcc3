"""Substra's local backend with a process for every task: all assets are files on its disk."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integrations.substra.app import NumpyAlgo, log_loss
from integrations.substra.consortium import Consortium
from substrafl.dependency import Dependency
from substrafl.evaluation_strategy import EvaluationStrategy
from substrafl.experiment import execute_experiment, simulate_experiment
from substrafl.strategies import FedAvg

from secagg.integrations.substra import SecAggAlgo, SecAggFedAvg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
ROUNDS = 2


def last_round(arguments: dict[str, Any], nodes: Any) -> dict[str, Any]:
    evaluation = EvaluationStrategy(test_data_nodes=nodes, eval_rounds=[ROUNDS])
    return {**arguments, "evaluation_strategy": evaluation}


def test_tasks_in_processes(consortium: Consortium) -> None:
    client = consortium.clients[0]
    plain = FedAvg(algo=NumpyAlgo(), metric_functions=log_loss)
    arguments = consortium.arguments(plain, ROUNDS)
    without, _, _ = simulate_experiment(**last_round(arguments, consortium.plain_tests))
    secure = SecAggFedAvg(
        algo=SecAggAlgo(NumpyAlgo()),
        plan=consortium.plan,
        identity=consortium.identities["server"],
        num_rounds=ROUNDS,
        metric_functions=log_loss,
    )
    arguments = last_round(consortium.arguments(secure, ROUNDS), consortium.tests)
    ran = execute_experiment(**arguments, dependencies=Dependency())
    assert ran.done_count == ran.task_count == 3 + 2 * 5 + 15 * ROUNDS + 3 + 3
    with_it = client.get_performances(ran.key)
    worst = np.abs(np.subtract(with_it.performance, without.performance)).max()
    assert worst < 2e-5  # the bound of test_experiment.py is for three rounds
    check_assets(consortium, ran.key)


def check_assets(consortium: Consortium, key: str) -> None:
    """What an organisation may read of others has no update and no site's key."""
    seeds = {name: bytes(identity._key) for name, identity in consortium.identities.items()}
    updates = [
        array.tobytes()
        for data in consortium.data
        for array in NumpyAlgo().train(data_from_opener=data, _skip=True).parameters_update
    ]
    client = consortium.clients[0]
    found_own = reports = 0
    for task in client.list_task(filters={"compute_plan_key": [key]}):
        for output in client.list_task_output_assets(task.key):
            if output.kind == "performance" or not hasattr(output.asset, "address"):
                continue
            readers = set(task.outputs[output.identifier].permissions.process.authorized_ids)
            data = Path(output.asset.address.storage_address).read_bytes()
            for seed in seeds.values():
                assert seed not in data
                assert seed.hex().encode() not in data
            if any(update in data for update in updates):
                assert output.identifier == "local"
                assert readers == {task.worker}
                found_own += 1
            elif output.identifier == "shared" and task.tag == "train":
                assert readers == {task.worker, consortium.orgs[0]}
                reports += 1
    assert found_own == 3
    assert reports == 3 * (3 + 3 * ROUNDS)
    archives = list((consortium.root / "local-worker").rglob("*.tar.gz"))
    assert len(archives) >= 6
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
                assert not any(seeds[name] in data for name in consortium.names)
