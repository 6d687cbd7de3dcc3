"""The example under Flower's own simulation: a SuperLink that runs its nodes on Ray."""

from __future__ import annotations

import json

import numpy as np
import pytest

import secagg
from secagg.integrations.folder import write_folders
from support.flower_processes import (
    LOOPBACK,
    all_gone,
    app_copy,
    connection,
    family,
    free_ports,
    listening,
    listens,
    processes,
)

from .deployed import federate, plan_for, secrets_of

SITES, ROUNDS = 4, 3


@pytest.mark.slow
def test_four_sites_and_three_rounds_on_ray(tmp_path):
    names = ["amiens", "bergen", "cork", "delft"]
    roster, identities = secagg.Roster.generate(names)
    plan = plan_for(roster, dropouts=0)
    folders = write_folders(tmp_path / "parties", plan, identities)
    out = tmp_path / "out"
    out.mkdir()
    (port,) = free_ports(1)
    more = {"SECAGG_SIMULATION_FOLDER": str(tmp_path / "parties")}
    with processes(tmp_path, more) as tasks:
        link = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        tasks.start("superlink", "flower-superlink", *link)
        tasks.wait("the SuperLink", lambda: listens(port))
        connection(tmp_path / "flwr-home", "sim", f"127.0.0.1:{port}", None)
        settings = f'rounds={ROUNDS} sites={SITES} folder="{folders["server"]}" out="{out}"'
        nodes = f"num-supernodes={SITES} client-resources-num-cpus=1 init-args-num-cpus=2"
        run = ["flwr", "run", str(app_copy(tmp_path)), "sim", "--stream"]
        run += ["--run-config", settings, "--federation-config", nodes]
        started = tasks.start("run", *run)
        pids = set()

        def over():
            pids.update(family(tasks.running["superlink"].pid))
            return started.poll() is not None or (out / "run.json").exists()

        tasks.wait("the run", over, 420)
        tasks.wait("its report", (out / "run.json").exists, 30)
        assert listening(sorted(pids)) <= LOOPBACK
        log = tasks.log("superlink") + tasks.log("run")
    found = json.loads((out / "run.json").read_text())
    assert [report["outcome"] for report in found["rounds"]] == ["done"] * ROUNDS
    assert [report["survivors"] for report in found["rounds"]] == [names] * ROUNDS
    # Two exchanges more where the keys are made first, then three a round.
    assert [len(report["exchanges"]) for report in found["rounds"]] == [5, 3, 3]
    wanted, losses, bound = federate(plan, names, found["rounds"])
    with np.load(out / "model.npz") as model:
        gap = max(float(np.abs(model[name] - wanted[name]).max()) for name in wanted)
    print(f"largest difference {gap:.2e}, bound {bound:.2e}")
    assert gap <= bound
    assert [found["losses"][str(n + 1)]["train-loss"] for n in range(ROUNDS)] == pytest.approx(
        losses, abs=1e-5
    )
    for secret in secrets_of(identities):
        assert secret not in log
    assert all_gone(pids)
