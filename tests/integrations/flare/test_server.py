"""The workflow's settings, the job that is written of it, and its work with a server's engine."""

from __future__ import annotations

import json
import shutil
from typing import ClassVar

import numpy as np
import pytest
from integrations.flare import jobs, trainer
from integrations.flare.clients import Direct, Engine, Site
from nvflare.apis.client import Client
from nvflare.apis.dxo import from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.utils import fobs
from nvflare.job_config.api import FedJob

from secagg.integrations.flare import SecAggFedAvg, add_secagg, server
from secagg.integrations.flare.carrier import Clients, JobAborted
from secagg.integrations.rounds import Rounds
from secagg_protocols.errors import MisuseError, PlanError, ThresholdError

WRONG = [
    ({"timeout": 0}, "timeout"),
    ({"timeout": 1.5}, "timeout"),
    ({"train_timeout": True}, "train_timeout"),
    ({"num_rounds": 0}, "num_rounds"),
    ({"num_clients": 0}, "num_clients"),
    ({"on_failure": "ignore"}, "on_failure"),
    ({"task_name": "secagg"}, "task_name"),
    ({"metrics": {"loss": 0}}, "metrics"),
    ({"metrics": {"loss": float("nan")}}, "metrics"),
    ({"model": {}}, "model"),
    ({"model": {"w": "text"}}, "model"),
    ({"model": {"w": [1.0, float("inf")]}}, "model"),
]


@pytest.mark.parametrize(("options", "field"), WRONG)
def test_settings_that_cannot_be_meant(options, field):
    with pytest.raises(PlanError) as caught:
        SecAggFedAvg(**options)
    assert (caught.value.rule, caught.value.field) == ("config", field)


def test_a_job_is_written_with_all_its_arguments(tmp_path):
    job = FedJob(name="written", min_clients=3)
    job.to_clients(trainer.Trainer(), tasks=["train"])
    controller = SecAggFedAvg(
        num_clients=4,
        num_rounds=7,
        persistor_id="",
        model=jobs.start(),
        metrics={"loss": 1.0},
        on_failure="skip_round",
        timeout=11,
        train_timeout=12,
        propose=True,
        threads=2,
    )
    add_secagg(job, controller, threads=3, poll=0.25)
    job.export_job(str(tmp_path))
    config = tmp_path / "written" / "app" / "config"
    written = json.loads((config / "config_fed_server.json").read_text())
    assert written["server"] == {"task_request_interval": 0.25}
    (workflow,) = written["workflows"]
    assert workflow["path"] == "secagg.integrations.flare.server.SecAggFedAvg"
    assert workflow["args"] == {
        "num_clients": 4,
        "num_rounds": 7,
        "persistor_id": "",
        "model": {"w": jobs.start()["w"].tolist(), "b": 0.25},
        "dtypes": jobs.DTYPES,
        "metrics": {"loss": 1.0},
        "on_failure": "skip_round",
        "timeout": 11,
        "train_timeout": 12,
        "propose": True,
        "threads": 2,
    }
    again = SecAggFedAvg(**workflow["args"])
    first = again._first_model().params
    for name, value in jobs.start().items():
        assert first[name].dtype == value.dtype
        assert np.array_equal(first[name], value)
    clients = json.loads((config / "config_fed_client.json").read_text())
    (state,) = [each for each in clients["components"] if each["id"] == "secagg_state"]
    assert state["args"] == {"threads": 3}
    for kind, name in (
        ("task_data_filters", "SecAggOrderFilter"),
        ("task_result_filters", "SecAggFilter"),
    ):
        (chain,) = clients[kind]
        assert chain["tasks"] == ["train"]
        assert chain["filters"][-1]["path"] == f"secagg.integrations.flare.site.{name}"
    assert not list(tmp_path.rglob("custom/secagg*"))  # installed at the parties, not sent


def test_add_secagg_refuses_other_objects():
    with pytest.raises(MisuseError, match="arguments"):
        add_secagg(object(), SecAggFedAvg())
    with pytest.raises(MisuseError, match="arguments"):
        add_secagg(FedJob(name="x"), object())
    for poll in (0, -1, True, "fast", 100):
        with pytest.raises(MisuseError, match="poll"):
            add_secagg(FedJob(name="x"), SecAggFedAvg(), poll=poll)


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    """Makes a workflow over five clients in this process, by a server's engine."""
    parties = tmp_path / "parties"
    monkeypatch.setenv("SECAGG_SIMULATION_FOLDER", str(parties))

    def make(raises=None, plan=None, sites=5, **options):
        jobs.make_folders(parties, sites, **(plan or {}))
        names = [f"site-{n}" for n in range(1, sites + 1)]
        clients = {n: Site(tmp_path, n, trainer.Trainer(raises=raises)) for n in names}

        class Here(Direct):
            runners = clients
            replies: ClassVar[list[object]] = []

        monkeypatch.setattr(server, "Clients", Here)
        options = {"metrics": {"loss": 1.0}, "model": jobs.start(), **options}
        job = SecAggFedAvg(persistor_id="", **options)
        engine = Engine(tmp_path / "flare" / "server", "server", {}, [])
        engine.get_clients = lambda: [Client(name, name) for name in names]
        (tmp_path / "flare" / "server" / "job").mkdir()
        job.engine, job.fl_ctx, job.abort_signal = engine, engine.new_context(), Signal()
        return job

    return make


def test_rounds_in_which_sites_fail_are_skipped_where_it_is_said(workflow, tmp_path):
    job = workflow(raises={"site-1": [0], "site-2": [0]}, num_rounds=2, on_failure="skip_round")
    job.run()
    assert [report.outcome for report in job.reports] == ["aborted", "done"]
    written = json.loads((tmp_path / "flare" / "server" / "job" / server.REPORTS).read_text())
    assert [report["rule"] for report in written] == ["enough", ""]


def test_a_round_without_a_sum_ends_the_job(workflow):
    job = workflow(raises={"site-1": [0], "site-2": [0]}, num_rounds=2)
    with pytest.raises(ThresholdError, match="too few"):
        job.run()
    assert len(job.reports) == 1


def test_a_job_without_any_sum_fails(workflow):
    raises = {"site-1": [0, 1], "site-2": [0, 1]}
    job = workflow(raises=raises, num_rounds=2, on_failure="skip_round")
    with pytest.raises(ThresholdError) as caught:
        job.run()
    assert caught.value.rule == "no-sum"


def test_a_draw_of_sites_and_an_early_stop(workflow):
    job = workflow(num_clients=4, num_rounds=5, stop_cond="loss <= 0.9")
    job.run()
    (report,) = job.reports
    assert len(report.survivors) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"model": {"w": [0.0] * 5}},  # the plan is of another length
        {"metrics": None},
        {"metrics": {"loss": 1.0, "other": 1.0}},
        {"model": None},
    ],
)
def test_a_model_that_the_plan_is_not_of(workflow, options):
    job = workflow(**options)
    if options.get("model", 1) is None:
        job._persistor_id, job.save_filename = "", "none"
    with pytest.raises(MisuseError, match="layout"):
        job.run()
    assert job.reports == []


def test_the_total_weight_is_not_broadcast(workflow, tmp_path):
    job = workflow(num_rounds=2)
    seen = []

    def change(clients, name, task, data):
        if task == "train":
            seen.append(from_shareable(data).meta)

    server.Clients.change = change
    job.run()
    assert len(seen) == 10
    assert all("NUM_STEPS_CURRENT_ROUND" not in meta for meta in seen)
    saved = fobs.loadf(str(tmp_path / "flare" / "server" / "job" / "FL_global_model.fobs"))
    assert saved.meta["NUM_STEPS_CURRENT_ROUND"] == sum(trainer.weight(n, 1) for n in range(1, 6))
    assert saved.meta["nr_aggregated"] == 5


def test_an_aborted_job_ends_quietly(workflow):
    job = workflow(num_rounds=1)

    def aborted(*_):
        raise JobAborted

    server.Clients._results = aborted
    job.run()
    assert job.reports == []


def test_strangers_and_second_clients_are_kept_out(workflow, tmp_path, caplog):
    job = workflow(num_rounds=1)
    names = [f"site-{n}" for n in range(1, 6)]
    (tmp_path / "parties" / "copy").mkdir(mode=0o700)
    for file in (tmp_path / "parties" / "site-1").iterdir():
        if file.is_file():
            shutil.copy2(file, tmp_path / "parties" / "copy")
    server.Clients.runners["copy"] = Site(tmp_path, "copy", trainer.Trainer())
    server.Clients.runners["nobody"] = Site(tmp_path, "nobody", trainer.Trainer())
    job.engine.get_clients = lambda: [Client(n, n) for n in [*names, "copy", "nobody"]]
    job.run()
    assert "client copy is kept out: client site-1 is hospital-a already" in caplog.text
    assert "client nobody did not say who it is" in caplog.text
    assert len(job.reports[0].survivors) == 5


def test_late_results_are_left_alone(workflow):
    job = workflow(num_rounds=1)
    job.process_result_of_unknown_task(Client("x", "x"), "train", "1", Shareable(), job.fl_ctx)


def test_tasks_of_flare(tmp_path):
    """The task board is FLARE's; this is what is put on it."""
    plan, identities = jobs.make_folders(tmp_path / "p", 5)
    rounds = Rounds(plan, identity=identities["server"])
    clients = Clients(None, rounds, timeout=5, train_timeout=9)
    content = Shareable({"entry": 1})
    plain, train = clients._task(b"order"), clients._task(b"order", ("train", content))
    assert (plain.name, plain.timeout, plain.data["secagg.order"]) == ("secagg", 5, b"order")
    assert (train.name, train.timeout, train.data["entry"]) == ("train", 9, 1)
    assert "secagg.order" not in content
