"""Five hospitals train a logistic regression on breast-cancer data under NVIDIA FLARE.

    python docs/examples/flare/run.py            with secure sums, compared with without
    python docs/examples/flare/run.py --plain    without

FLARE's simulator starts a process for each hospital, on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import hospital
import numpy as np

HERE = Path(__file__).parent
NAMES = ["amiens", "bergen", "cork", "delft", "evora"]
ROUNDS, CLIP, LEVELS = 3, 8.0, 1 << 20
POLL = 0.5  # seconds after which a hospital asks for its next task


def plan_and_folders(parent: Path) -> Any:
    """A plan for the five hospitals, and a folder for each party."""
    import secagg
    from secagg.integrations.folder import write_folders

    roster, identities = secagg.Roster.generate(NAMES)
    plan = secagg.Plan.recommend(
        roster,
        length=31 + 1,  # 30 weights, a bias, and the training loss
        stages=(secagg.ClipL2(CLIP), secagg.Quantise(LEVELS)),
        threat="malicious-server",
        colluding=1,
        max_dropouts=1,
        max_weight=1000,  # patients of the largest hospital
    )
    write_folders(parent, plan, identities)
    return plan


def job_of(*, plain: bool) -> Any:
    """The job. Secure sums are another workflow, and what ``add_secagg`` adds at the clients."""
    from nvflare.app_common.workflows.fedavg import FedAvg
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import ScriptRunner

    from secagg.integrations.flare import SecAggFedAvg, add_secagg

    job = FedJob(name="hospitals", min_clients=len(NAMES))
    job.to_clients(
        ScriptRunner(
            script=str(HERE / "client.py"), script_args=",".join(NAMES), framework="numpy"
        ),
        tasks=["train"],
    )
    job.to_clients(str(HERE / "hospital.py"))
    # Both ask for tasks as often, so that their seconds compare; FLARE's own interval is 2.
    job.to_server({"server": {"task_request_interval": POLL}})
    start = {name: value.tolist() for name, value in hospital.initial().items()}
    if plain:
        job.to_server(
            FedAvg(num_clients=len(NAMES), num_rounds=ROUNDS, persistor_id="", model=start)
        )
    else:
        controller = SecAggFedAvg(
            num_rounds=ROUNDS, persistor_id="", model=start, metrics={"loss": 2.0}
        )
        add_secagg(job, controller, poll=None)
    return job


def run(out: Path, *, plain: bool) -> dict[str, Any]:
    """Run the job in FLARE's simulator; its model, report and seconds."""
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.fuel.utils import fobs

    began = time.perf_counter()
    code = job_of(plain=plain).simulator_run(
        str(out), clients=NAMES, threads=len(NAMES), log_config="ERROR"
    )
    if code:
        sys.exit(f"FLARE's simulator ended with {code}")
    seconds = time.perf_counter() - began
    common_decomposers.register()
    folder = out / "server" / "simulate_job"
    (saved,) = folder.glob("FL_global_model.*")
    found = fobs.loadf(str(saved))
    report = folder / "secagg_rounds.json"
    return {
        "model": {name: np.asarray(value) for name, value in found.params.items()},
        "metrics": found.metrics,
        "rounds": json.loads(report.read_text()) if report.exists() else [],
        "seconds": seconds,
    }


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--plain", action="store_true", help="without secure sums")
    given = parser.parse_args()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        out = Path(folder)
        plan = plan_and_folders(out / "parties")
        os.environ["SECAGG_SIMULATION_FOLDER"] = str(out / "parties")
        plain = run(out / "plain", plain=True)
        found = plain if given.plain else run(out / "secagg", plain=False)
    x, y = hospital.hospital(0, 1)
    print(f"hospitals {len(NAMES)}, rounds {ROUNDS}, patients {len(y)}")
    print(f"accuracy {hospital.accuracy(found['model'], x, y):.4f}")
    print(f"log-loss {hospital.loss(found['model'], x, y):.6f}")
    print(f"mean training loss {found['metrics']['loss']:.6f}")
    if given.plain:
        print("no secure sums: the server saw every hospital's model")
        return
    for report in found["rounds"]:
        print(
            f"round {report['number']}: {len(report['survivors'])} hospitals in the sum, "
            f"{len(report['exchanges'])} exchanges, {report['seconds']:.2f} s, "
            f"{sum(e['bytes_out'] + e['bytes_in'] for e in report['exchanges'])} bytes of secagg"
        )
    print(f"whole run {found['seconds']:.1f} s, without secure sums {plain['seconds']:.1f} s")
    gap = max(float(np.abs(found["model"][n] - plain["model"][n]).max()) for n in plain["model"])
    # Stochastic rounding moves a coordinate of a weighted update by less than a level. Training
    # goes on from a model that far away; its steps bring two models no further apart, in norm.
    bound = np.sqrt(31) * ROUNDS * len(NAMES) * CLIP / LEVELS / len(y)
    print(f"largest difference to the model without secure sums: {gap:.2e}; bound {bound:.2e}")
    if gap > bound:
        sys.exit("the models differ by more than quantisation explains")
    print(f"{len(found['rounds'])} secure sums of {plan.clients} hospitals, threat {plan.threat}")


if __name__ == "__main__":
    main()
