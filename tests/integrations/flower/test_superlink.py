"""The example in a deployment: a SuperLink and five SuperNodes over TLS, one killed on the way."""

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
    certificates,
    connection,
    family,
    free_ports,
    listening,
    listens,
    processes,
)

from .deployed import federate, plan_for, secrets_of

NAMES = ["amiens", "bergen", "cork", "delft", "evora"]
#: The one that is killed, and the exchange after which it is.
VICTIM, KILLED_AFTER = "delft", "train round 0, input"


class Deployment:
    """A SuperLink and its SuperNodes."""

    def __init__(self, tasks, folders, tls, port):
        self.tasks, self.folders, self.tls, self.port = tasks, folders, tls, port

    def link(self):
        """Start the SuperLink."""
        cert, key, ca = (str(self.tls[name]) for name in ("cert", "key", "ca"))
        arguments = ["--ssl-ca-certfile", ca, "--ssl-certfile", cert, "--ssl-keyfile", key]
        arguments += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.tasks.start(
            "superlink",
            "flower-superlink",
            *arguments,
            "--disable-runtime-dependency-installation",
        )

    def node(self, name):
        """Start a SuperNode; it takes a port of its own for its app's processes."""
        cert, key, ca = (str(self.tls[part]) for part in ("cert", "key", "ca"))
        (port,) = free_ports(1)
        config = f'secagg="{self.folders[name]}" partition-id={NAMES.index(name)}'
        arguments = ["--root-certificates", ca, "--superlink", f"127.0.0.1:{self.port}"]
        arguments += ["--host", "127.0.0.1", "--port", str(port), "--node-config", config]
        arguments += ["--ssl-certfile", cert, "--ssl-keyfile", key, "--ssl-ca-certfile", ca]
        self.tasks.start(name, "flower-supernode", *arguments)


@pytest.mark.slow
def test_a_killed_supernode_comes_back_from_its_disk(tmp_path):
    """Killed between the first round's input and consent, restarted from its folder alone.

    Round 0 has its masked input, and recovers its self mask; it is in a later sum again.
    """
    rounds = 3
    roster, identities = secagg.Roster.generate(NAMES)
    plan = plan_for(roster)
    folders = write_folders(tmp_path / "parties", plan, identities)
    out = tmp_path / "out"
    out.mkdir()
    tls = certificates(tmp_path)
    (port,) = free_ports(1)
    pids = set()
    with processes(tmp_path, {}) as tasks:
        deployment = Deployment(tasks, folders, tls, port)
        deployment.link()
        tasks.wait("the SuperLink", lambda: listens(port))
        for name in NAMES:
            deployment.node(name)
        connection(tmp_path / "flwr-home", "tls", f"127.0.0.1:{port}", tls["ca"])
        settings = f'rounds={rounds} sites=5 timeout=60.0 folder="{folders["server"]}" out="{out}"'
        run = ["flwr", "run", str(app_copy(tmp_path)), "tls", "--stream", "--run-config", settings]
        tasks.wait("the nodes", lambda: all("SuperNode ID" in tasks.log(n) for n in NAMES))
        started = tasks.start("run", *run)

        def logs():
            pids.update(pid for each in tasks.running.values() for pid in family(each.pid))
            return tasks.log("run") + tasks.log("superlink")

        tasks.wait("the first inputs", lambda: KILLED_AFTER in logs(), 400)
        tasks.kill(VICTIM)
        assert "train round 0, consent" not in logs(), "it was killed too late for this test"
        tasks.wait("the consent", lambda: "train round 0, consent" in logs(), 400)
        deployment.node(VICTIM)
        assert listening(sorted(pids)) <= LOOPBACK
        tasks.wait(
            "the end", lambda: (out / "run.json").exists() or started.poll() is not None, 600
        )
        tasks.wait("the report", (out / "run.json").exists, 30)
        log = logs() + "".join(tasks.log(name) for name in NAMES)
    found = json.loads((out / "run.json").read_text())
    for report in found["rounds"]:
        seconds = [f"{each['slot']} {each['seconds']:.1f}" for each in report["exchanges"]]
        print(report["number"], report["outcome"], report["survivors"], seconds)
    assert [report["outcome"] for report in found["rounds"]] == ["done"] * rounds
    assert found["rounds"][0]["survivors"] == NAMES
    assert VICTIM in found["rounds"][-1]["survivors"]
    assert all(len(report["survivors"]) >= 4 for report in found["rounds"])
    wanted, losses, bound = federate(plan, NAMES, found["rounds"])
    with np.load(out / "model.npz") as model:
        gap = max(float(np.abs(model[name] - wanted[name]).max()) for name in wanted)
    print(f"largest difference {gap:.2e}, bound {bound:.2e}")
    assert gap <= bound
    assert [found["losses"][str(n + 1)]["train-loss"] for n in range(rounds)] == pytest.approx(
        losses, abs=1e-5
    )
    for secret in secrets_of(identities):
        assert secret not in log
    assert all_gone(pids)
