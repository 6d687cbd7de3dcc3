"""Whole jobs in FLARE's simulator, which starts a process for each client."""

from __future__ import annotations

import json

import numpy as np
import pytest
from integrations.flare import jobs, trainer
from integrations.flare.jobs import bound, fedavg, run_job

pytestmark = pytest.mark.slow


def logs(folder):
    return "".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*log*.txt")))


def everything(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def seed_of(folder):
    """An identity's seed, as text and as bytes."""
    text = (folder / "identity.key").read_text().splitlines()[-1].removeprefix("seed ")
    return text.encode(), bytes.fromhex(text)


def test_a_job_comes_to_fedavg_without_single_updates_at_the_server(tmp_path, capsys):
    job = run_job(
        tmp_path,
        sites=5,
        threads=5,
        rounds=3,
        raises={"site-5": [1]},
        plan={"threat": "malicious-server"},
    )
    assert job.code == 0, (tmp_path / "console").read_text()[-4000:]
    found, wanted = job.model(), fedavg(5, 3, {1: {5}})
    for name, value in jobs.start().items():
        assert found.params[name].dtype == value.dtype
        assert found.params[name].shape == value.shape
    gap = max(float(np.abs(found.params[name] - wanted[name]).max()) for name in wanted)
    with capsys.disabled():
        print(f"largest difference {gap:.2e}, bound {bound(5, 3):.2e}")
    assert gap <= bound(5, 3)
    reports = job.reports()
    assert [len(report["survivors"]) for report in reports] == [5, 4, 5]
    weights = [trainer.weight(n, 2) for n in range(1, 6)]
    loss = sum(w * n / 10 for n, w in enumerate(weights, 1)) / sum(weights)
    assert found.metrics.keys() == {"loss"}
    assert abs(found.metrics["loss"] - loss) < 1e-4
    kept = everything(job.server)
    text = f"{trainer.PRIVATE_TEXT} at site-5"
    assert text.encode() not in kept
    assert text in logs(job.folder / "site-5")  # where it belongs
    base = jobs.start()
    for number in range(1, 6):
        for seed in seed_of(job.parties / f"site-{number}"):
            assert seed not in kept
        assert repr(trainer.private(number)).encode() not in kept
        step = trainer.update(number, 0, "w", (3, 4))
        for array in (step, step.astype(np.float32), (base["w"] + step).astype(np.float32)):
            assert array.tobytes() not in kept
            assert repr(float(array.flat[0])).encode() not in kept


def test_a_process_for_each_task_is_enough(tmp_path):
    """Fewer threads than clients: the simulator ends a client's process after each task."""
    plan = {"max_dropouts": 0, "min_honest": 2}
    job = run_job(tmp_path, sites=3, threads=2, rounds=1, diff=True, plan=plan)
    assert job.code == 0, (tmp_path / "console").read_text()[-4000:]
    # A runner is made by every process of a client, and each of the three had several tasks.
    assert (tmp_path / "console").read_text().count("Initialize ClientRunner") >= 3 * 4
    found, wanted = job.model(), fedavg(3, 1, {})
    assert [report["outcome"] for report in job.reports()] == ["done"]
    gap = max(float(np.abs(found.params[name] - wanted[name]).max()) for name in wanted)
    assert gap <= bound(3, 1)


def test_a_job_without_a_sum_fails(tmp_path):
    raises = {"site-1": [0], "site-2": [0], "site-3": [0]}
    job = run_job(tmp_path, sites=5, threads=5, rounds=1, raises=raises, on_failure="skip_round")
    assert job.code != 0
    assert not (job.server / "simulate_job" / "FL_global_model.fobs").exists()
    assert job.reports()[0]["outcome"] == "aborted"
    assert "no-sum" in logs(job.server)


@pytest.mark.parametrize("listed", [True, False])
def test_a_party_allows_the_classes(tmp_path, listed):
    if listed:
        local = tmp_path / "workspace" / "local"
        local.mkdir(parents=True)
        allowed = {"class_allow_list": ["nvflare.", "secagg.integrations.flare."]}
        (local / "resources.json").write_text(json.dumps({"format_version": 2, **allowed}))
    plan = {"length": 9}
    job = run_job(tmp_path, sites=5, threads=5, rounds=1, installed=True, plan=plan)
    console = (tmp_path / "console").read_text()
    assert (job.code == 0) == listed, console[-4000:]
    assert ("ComponentNotAuthorized" in console) != listed
    if listed:
        # FLARE's example trainer adds 1 to each coordinate of 1 to 9.
        model = np.load(job.server / "simulate_job" / "models" / "server.npy")
        assert [report["outcome"] for report in job.reports()] == ["done"]
        assert model.shape == (3, 3)
        assert model.dtype == np.float32
        assert np.abs(model - np.arange(1, 10).reshape(3, 3) - 1).max() < 1e-4
