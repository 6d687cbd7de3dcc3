"""Five hospitals train a logistic regression on breast-cancer data under Flower.

    python docs/examples/flower/run.py            with secure sums, compared with without
    python docs/examples/flower/run.py --plain    without
    python docs/examples/flower/run.py --folders DIR    the party folders for another way to run

All nodes run in this process. The same app runs in Flower's simulation and in a deployment:
docs/integrations/flower.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = ["amiens", "bergen", "cork", "delft", "evora"]
ROUNDS, CLIP, LEVELS = 3, 8.0, 1 << 20


def plan_and_folders(parent: Path) -> tuple[Any, dict[str, Path]]:
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
    return plan, write_folders(parent, plan, identities)


def run(folders: dict[str, Path], out: Path, *, plain: bool) -> dict[str, Any]:
    """Run the app, all nodes in this process; its model and report."""
    import numpy as np
    from flwr.app import Context, RecordDict

    from secagg.integrations.flower import InProcessGrid

    os.environ["HOSPITALS_PLAIN"] = "1" if plain else "0"
    for name in [name for name in sys.modules if name.startswith("hospitals")]:
        del sys.modules[name]  # the app decides at import whether it is protected
    from hospitals import client_app, server_app

    for name in ("flwr", "secagg"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the report below says what happened
    nodes = [{"secagg": str(folders[n]), "partition-id": i} for i, n in enumerate(NAMES)]
    settings = {"rounds": ROUNDS, "sites": 5, "timeout": 60.0, "out": str(out)}
    settings["folder"] = str(folders["server"])
    context = Context(1, 0, {}, RecordDict(), settings)
    server_app.app(InProcessGrid(client_app.app, nodes, run_config=settings), context)
    with np.load(out / "model.npz") as found:
        model = {name: found[name] for name in found.files}
    return {"model": model, **json.loads((out / "run.json").read_text())}


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--plain", action="store_true", help="without secure sums")
    parser.add_argument("--folders", type=Path, help="make the party folders here, and stop")
    given = parser.parse_args()
    if given.folders is not None:
        made = plan_and_folders(given.folders)[1]
        print("\n".join(str(path) for path in made.values()))
        return
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    sys.path.insert(0, str(HERE))
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        plan, folders = plan_and_folders(out / "parties")
        plain = run(folders, out, plain=True)
        found = plain if given.plain else run(folders, out, plain=False)
    from hospitals import task

    x, y = task.hospital(0, 1)
    print(f"hospitals {len(NAMES)}, rounds {ROUNDS}, patients {len(y)}")
    print(f"accuracy {task.accuracy(found['model'], x, y):.4f}")
    print(f"log-loss {task.loss(found['model'], x, y):.6f}")
    if given.plain:
        print("no secure sums: the server saw every hospital's model")
        return
    for report in found["rounds"]:
        print(
            f"round {report['number']}: {len(report['survivors'])} hospitals in the sum, "
            f"{len(report['exchanges'])} exchanges, {report['seconds']:.2f} s"
        )
    gap = max(float(np.abs(found["model"][n] - plain["model"][n]).max()) for n in plain["model"])
    # Stochastic rounding moves a hospital's coordinate by less than a level. Training then goes on
    # from a model that far away, and its steps here spread no two models apart in the 2-norm, which
    # may gather in one of the 31 coordinates.
    bound = 31**0.5 * ROUNDS * len(NAMES) * CLIP / LEVELS / len(y)
    print(f"largest difference to the model without secure sums: {gap:.2e}; bound {bound:.2e}")
    if gap > bound:
        sys.exit("the models differ by more than quantisation explains")
    print(f"{len(found['rounds'])} secure sums of {plan.clients} hospitals, threat {plan.threat}")


if __name__ == "__main__":
    main()
