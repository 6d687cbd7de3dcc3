"""Jobs in FLARE's simulator: the plan, folders, model and what plain FedAvg would come to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from integrations.flare import trainer

import secagg
from secagg.integrations.folder import write_folders

CLIP, LEVELS = 4.0, 1 << 20
SHAPES = {"w": (3, 4), "b": ()}
DTYPES = {"w": "float32", "b": "float64"}


def start() -> dict[str, np.ndarray]:
    """The initial model, of two dtypes."""
    return {
        "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "b": np.asarray(0.25),
    }


@dataclass
class Job:
    """A finished run."""

    code: int
    folder: Path
    parties: Path

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def reports(self) -> list[dict[str, Any]]:
        return json.loads((self.server / "simulate_job" / "secagg_rounds.json").read_text())

    def model(self) -> Any:
        from nvflare.app_common.decomposers import common_decomposers
        from nvflare.fuel.utils import fobs

        common_decomposers.register()
        return fobs.loadf(str(self.server / "simulate_job" / "FL_global_model.fobs"))


def make_folders(parent: Path, sites: int, **options: Any) -> Any:
    """A plan and folders; in the roster the sites are called otherwise than in FLARE."""
    names = [f"hospital-{chr(ord('a') + i)}" for i in range(sites)]
    roster, identities = secagg.Roster.generate(names)
    plan = secagg.Plan.recommend(
        roster,
        **{
            "length": 13 + 1,
            "stages": (secagg.ClipL2(CLIP), secagg.Quantise(LEVELS)),
            "threat": "semi-honest",
            "colluding": 1,
            "max_dropouts": 1,
            "max_weight": 100,
            **options,
        },
    )
    made = write_folders(parent, plan, identities)
    for number, name in enumerate(names, 1):
        made[name].rename(parent / f"site-{number}")
    return plan, identities


def run_job(tmp: Path, *, sites: int, threads: int, rounds: int, **options: Any) -> Job:
    """Run a job. FLARE ends its own processes; where it hangs they are ended here."""
    raises, diff = options.pop("raises", None), options.pop("diff", False)
    plan_options, installed = options.pop("plan", {}), options.pop("installed", False)
    parties, folder = tmp / "parties", tmp / "workspace"
    make_folders(parties, sites, **plan_options)
    wanted = {"sites": sites, "threads": threads, "rounds": rounds, "raises": raises}
    wanted |= {
        "installed": installed,
        "diff": diff,
        "controller": options,
        "workspace": str(folder),
    }
    program = Path(__file__).with_name("simulate.py")
    started = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program), json.dumps(wanted)],
        env={**os.environ, "SECAGG_SIMULATION_FOLDER": str(parties)},
        cwd=tmp,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        (tmp / "console").write_text(started.communicate(timeout=400)[0])
    finally:
        for process in [*psutil.Process().children(recursive=True)]:
            if started.poll() is None or str(folder) in " ".join(process.cmdline()):
                process.kill()
    return Job(started.returncode, folder, parties)


def fedavg(sites: int, rounds: int, out: dict[int, set[int]]) -> dict[str, np.ndarray]:
    """Plain weighted averages in float64. out: sites that are not in a round's sum."""
    model = {name: value.astype(np.float64) for name, value in start().items()}
    for round_ in range(rounds):
        inside = [n for n in range(1, sites + 1) if n not in out.get(round_, set())]
        total = sum(trainer.weight(n, round_) for n in inside)
        for name, value in model.items():
            steps = [
                trainer.weight(n, round_) * trainer.update(n, round_, name, value.shape)
                for n in inside
            ]
            model[name] = value + sum(steps) / total
    return model


def bound(sites: int, rounds: int) -> float:
    """How far quantisation may move a coordinate: less than a level a site and round, over the
    smallest total weight; and float32's own rounding of the model and its differences."""
    least = sum(trainer.weight(n, 0) for n in range(1, sites))
    return rounds * (sites * CLIP / LEVELS / least + 4 * np.finfo(np.float32).eps)
