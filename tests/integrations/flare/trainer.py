"""A site's training for the tests: it travels with the job, so it knows FLARE and numpy only."""

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.app_common.app_constant import AppConstants

#: What a site's exception says; it must not reach the server.
PRIVATE_TEXT = "patient 4711 has a rare finding"


def update(number, round_, name, shape):
    """The difference that site ``number`` comes to, from a seed."""
    rng = np.random.default_rng([number, round_, len(name)])
    return rng.uniform(-0.5, 0.5, size=shape)


def private(number):
    """A metric that nobody asked for."""
    return 0.1234567 + number / 1000


def weight(number, round_):
    """The number of examples."""
    return 10 + 3 * number + round_


class Trainer(Executor):
    """Adds ``update`` to the model. raises: {site: rounds} in which it fails. diff: send the
    difference and not the model."""

    def __init__(self, raises=None, diff=False):
        super().__init__()
        self.raises = raises or {}
        self.diff = diff

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        site = fl_ctx.get_identity_name()
        number = int(site.rsplit("-", 1)[1])
        round_ = shareable.get_header(AppConstants.CURRENT_ROUND)
        if round_ in self.raises.get(site, []):
            raise ValueError(f"{PRIVATE_TEXT} at {site}")
        model = from_shareable(shareable).data
        new = {}
        for name, value in model.items():
            step = update(number, round_, name, value.shape)
            new[name] = np.asarray(step if self.diff else value + step, dtype=value.dtype)
        kind = DataKind.WEIGHT_DIFF if self.diff else DataKind.WEIGHTS
        meta = {
            MetaKey.NUM_STEPS_CURRENT_ROUND: weight(number, round_),
            MetaKey.INITIAL_METRICS: {"loss": number / 10, "private": private(number)},
        }
        return DXO(kind, data=new, meta=meta).to_shareable()
