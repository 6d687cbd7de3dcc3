"""A hospital's training script, as FLARE's Client API has it. It is the same without secagg."""

from __future__ import annotations

import sys

import hospital
import numpy as np
import nvflare.client as flare

NAMES = sys.argv[1].split(",")


def main() -> None:
    """Train on this hospital's patients for as long as the job runs."""
    flare.init()
    x, y = hospital.hospital(NAMES.index(flare.get_site_name()), len(NAMES))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        model = {name: np.asarray(value) for name, value in received.params.items()}
        new, loss = hospital.train(model, x, y)
        flare.send(
            flare.FLModel(
                params=new, metrics={"loss": loss}, meta={"NUM_STEPS_CURRENT_ROUND": len(y)}
            )
        )


main()
