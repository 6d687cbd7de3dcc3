"""Starts one job in FLARE's simulator, in a process of its own."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[2]))

import trainer
from integrations.flare.jobs import start
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.np.np_trainer import NPTrainer
from nvflare.job_config.api import FedJob

from secagg.integrations.flare import SecAggFedAvg, add_secagg


def own_code(job: FedJob, wanted: dict) -> SecAggFedAvg:
    """The trainer of these tests travels with the job."""
    trains = trainer.Trainer(raises=wanted["raises"], diff=wanted["diff"])
    job.to_clients(trains, tasks=["train"])
    return SecAggFedAvg(
        num_rounds=wanted["rounds"],
        persistor_id="",
        model=start(),
        metrics={"loss": 1.0},
        **wanted["controller"],
    )


def flares_code(job: FedJob, wanted: dict) -> SecAggFedAvg:
    """Nothing but installed classes: a party's allow-list decides."""
    job.to_clients(NPTrainer(sleep_time=0), tasks=["train"])
    persistor = job.to_server(NPModelPersistor(), id="persistor")
    return SecAggFedAvg(num_rounds=wanted["rounds"], persistor_id=persistor)


def main() -> None:
    wanted = json.loads(sys.argv[1])
    job = FedJob(name="test", min_clients=wanted["sites"])
    made = flares_code if wanted["installed"] else own_code
    add_secagg(job, made(job, wanted))
    sys.exit(
        job.simulator_run(wanted["workspace"], n_clients=wanted["sites"], threads=wanted["threads"])
    )


main()
