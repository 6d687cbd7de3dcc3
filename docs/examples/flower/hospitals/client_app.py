"""A hospital's end. ``secagg_mod`` is the one line that secure aggregation adds."""

from __future__ import annotations

import os

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from secagg.integrations.flower import secagg_mod

from . import task

#: To compare: the same app without protection.
PLAIN = os.environ.get("HOSPITALS_PLAIN") == "1"
app = ClientApp()


@app.train(mods=[] if PLAIN else [secagg_mod])
def train(message: Message, context: Context) -> Message:
    """Train on this hospital's patients."""
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    sites = int(message.content["config"]["sites"])
    x, y = task.hospital(int(context.node_config["partition-id"]), sites)
    new, loss = task.train(model, x, y)
    records = {
        "arrays": ArrayRecord({name: Array(value) for name, value in new.items()}),
        "metrics": MetricRecord({"num-examples": len(y), "train-loss": loss}),
    }
    return Message(RecordDict(records), reply_to=message)
