"""Seconds and bytes of rounds under NVIDIA FLARE's simulator, with and without secure sums.

    python docs/examples/flare/measure.py [LENGTH]

Five clients on this machine add a constant to a float32 model. In all runs clients ask for tasks
every half a second.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.app_event_type import AppEventType

CLIENTS, ROUNDS, POLL = 5, 5, 0.5


class Adds(Executor):
    """A training that takes no time."""

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        model = from_shareable(shareable).data
        new = {n: (np.asarray(v) + 0.001).astype(np.float32) for n, v in model.items()}
        meta = {"NUM_STEPS_CURRENT_ROUND": 10}
        return DXO(DataKind.WEIGHTS, data=new, meta=meta).to_shareable()


class Clock(FLComponent):
    """Writes down how long each round takes at the server, until its model is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._began, self._seconds = 0.0, []

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        if event_type == AppEventType.ROUND_STARTED:
            self._began = time.perf_counter()
        elif event_type == AppEventType.AFTER_LEARNABLE_PERSIST:
            self._seconds.append(time.perf_counter() - self._began)
            run_dir = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())
            Path(run_dir, "seconds.json").write_text(json.dumps(self._seconds))


def run(out: Path, length: int, threat: str) -> str:
    """One job; a line about its rounds after the first."""
    from nvflare.app_common.np.np_model_persistor import NPModelPersistor
    from nvflare.app_common.workflows.fedavg import FedAvg
    from nvflare.job_config.api import FedJob

    import secagg
    from secagg.integrations.flare import SecAggFedAvg, add_secagg
    from secagg.integrations.folder import write_folders

    names = [f"site-{n}" for n in range(1, CLIENTS + 1)]
    job = FedJob(name="measured", min_clients=CLIENTS)
    job.to_clients(Adds(), tasks=["train"])
    key = job.to_server(NPModelPersistor(model=np.zeros(length).tolist()), id="persistor")
    job.to_server(Clock(), id="clock")
    if not threat:
        job.to_server(FedAvg(num_clients=CLIENTS, num_rounds=ROUNDS, persistor_id=key))
        job.to_server({"server": {"task_request_interval": POLL}})
    else:
        roster, identities = secagg.Roster.generate(names)
        plan = secagg.Plan.recommend(
            roster,
            length=length,
            stages=(secagg.ClipL2(8.0), secagg.Quantise(1 << 16)),
            threat=threat,
            colluding=1,
            max_dropouts=1,
            max_weight=10,
        )
        write_folders(out / "parties", plan, identities)
        os.environ["SECAGG_SIMULATION_FOLDER"] = str(out / "parties")
        add_secagg(job, SecAggFedAvg(num_rounds=ROUNDS, persistor_id=key), poll=POLL)
    began = time.perf_counter()
    if code := job.simulator_run(
        str(out / "run"), clients=names, threads=CLIENTS, log_config="ERROR"
    ):
        sys.exit(f"FLARE's simulator ended with {code}")
    whole = time.perf_counter() - began
    folder = out / "run" / "server" / "simulate_job"
    seconds = json.loads((folder / "seconds.json").read_text())
    size = 4 * length * CLIENTS
    sent, got = [size] * ROUNDS, [size] * ROUNDS
    if threat:
        rounds = json.loads((folder / "secagg_rounds.json").read_text())
        sent = [sum(each["bytes_out"] for each in found["exchanges"]) + size for found in rounds]
        got = [sum(each["bytes_in"] for each in found["exchanges"]) for found in rounds]
    return (
        f"{threat or 'plain':17} {median(seconds[1:]):.2f} s, {median(sent[1:-1]):.0f} B out, "
        f"{median(got[1:-1]):.0f} B in; first round {seconds[0]:.1f} s, {sent[0]} B out, "
        f"{got[0]} B in; run {whole:.0f} s"
    )


def main() -> None:
    """All runs."""
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{CLIENTS} clients, {length} float32, a round (median); whole arrays, envelopes")
    for threat in ("", "semi-honest", "malicious-server"):
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            print(run(Path(folder), length, threat), flush=True)


if __name__ == "__main__":
    main()
