"""Tasks that are run again, and folders that are set back: the site's journal is what counts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from integrations.substra.experiment import Experiment, out
from integrations.substra.platform import Task

import secagg
from secagg.integrations.substra import PartyData

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_training_again_is_refused(experiment: Experiment) -> None:
    experiment.run()
    for task in experiment.tasks("secagg_train", "north")[:-1]:
        with pytest.raises(secagg.MisuseError) as caught:
            experiment.platform.execute(task, experiment.nodes[0].data)
        assert caught.value.rule == "substra-out"


def test_training_again_at_once_gives_the_same_bytes(experiment: Experiment) -> None:
    """While the server waits for that very report, and only of the same vector."""

    def tamper(task: Task) -> None:
        trained = experiment.tasks("secagg_train", "north")
        if task.method == "secagg_advance" and trained:
            path = experiment.platform.path(trained[-1].shared or "")
            if path.name in task.inputs["shared"]:
                before = path.read_bytes()
                experiment.platform.execute(trained[-1], experiment.nodes[0].data)
                assert path.read_bytes() == before

    experiment.run(tamper)


@pytest.mark.parametrize("wrong", ["secagg_train", "secagg_answer"])
def test_orders_at_the_wrong_task(experiment: Experiment, wrong: str) -> None:
    """Orders to consent at a training task, and orders for an input at a task that has no data."""
    right = {"secagg_train": "secagg_answer", "secagg_answer": "secagg_train"}[wrong]

    def tamper(task: Task) -> None:
        past = experiment.tasks(wrong, "south")
        if task.method == right and task.organisation == "org-south" and past:
            other = dataclasses.replace(past[-1], inputs={**past[-1].inputs, **task.inputs})
            experiment.platform.execute(other, experiment.nodes[1].data)

    out(experiment, tamper, "substra-out")


def test_exchange_again_gives_the_same_bytes_or_nothing(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.method == "secagg_advance" and experiment.tasks("secagg_answer", "north"):
            last = experiment.tasks("secagg_answer", "north")[-1]
            path = experiment.platform.path(last.shared or "")
            before = path.read_bytes()
            if path.name in task.inputs["shared"]:
                experiment.platform.execute(last, experiment.nodes[0].data)
                assert path.read_bytes() == before

    experiment.run(tamper)
    for task in experiment.tasks("secagg_answer", "north"):
        with pytest.raises(secagg.MisuseError, match="substra-out"):
            experiment.platform.execute(task, experiment.nodes[0].data)


def test_state_set_back(experiment: Experiment, tmp_path: Path) -> None:
    """The sealed session is put back to an older one; the journal knows better."""
    kept = tmp_path / "kept"

    def tamper(task: Task) -> None:
        if task.organisation != "org-north":
            return
        sessions = experiment.folders["north"] / "sessions"
        if task.method == "secagg_train" and not kept.exists():
            shutil.copytree(sessions, kept)
        elif task.method == "secagg_train":
            shutil.rmtree(sessions)
            shutil.copytree(kept, sessions)

    out(experiment, tamper, "substra-out")


def test_state_set_back_trains_no_second_vector(experiment: Experiment, tmp_path: Path) -> None:
    """With the state of before the input, and other data, the same task gives no other input."""
    kept = tmp_path / "kept"

    def tamper(task: Task) -> None:
        if task.organisation == "org-north" and task.method == "secagg_train":
            if not kept.exists():
                shutil.copytree(experiment.folders["north"] / "sessions", kept)
        elif task.method == "secagg_advance" and kept.exists():
            sessions = experiment.folders["north"] / "sessions"
            shutil.rmtree(sessions)
            shutil.copytree(kept, sessions)
            other = {**experiment.data[0], "y": 1 - experiment.data[0]["y"]}
            data = PartyData(other, experiment.folders["north"])
            experiment.platform.execute(experiment.tasks("secagg_train", "north")[-1], data)

    out(experiment, tamper, "substra-out")


def test_lost_journal(experiment: Experiment) -> None:
    def tamper(task: Task) -> None:
        if task.organisation == "org-north" and task.method == "secagg_train":
            (experiment.folders["north"] / "journal").unlink()

    out(experiment, tamper, "substra-out")
