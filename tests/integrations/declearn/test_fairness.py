"""A setup that breaks off where fairness is set up next: declearn's client would send its counts
without protection."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from declearn import messaging
from declearn.aggregator import AveragingAggregator
from declearn.communication.api import NetworkClient
from declearn.communication.api.backend.actions import Recv, Reject, Send
from declearn.fairness.core import FairnessInMemoryDataset
from declearn.main import FederatedClient
from declearn.model.sklearn import SklearnSGDModel
from declearn.optimizer import Optimizer
from integrations.declearn.app import make_folders

import secagg
from secagg.integrations.declearn import SecAggServer, SecAggSite
from secagg.integrations.declearn.view import REFUSED

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:declearn"),
    pytest.mark.filterwarnings("ignore::UserWarning:declearn"),
]


class Wire(NetworkClient, register=False):
    """A server that says what it is told to, whatever the client answers."""

    protocol = "scripted"

    def __init__(self, says):
        super().__init__("nowhere", "north")
        self.says, self.sent = list(says), []

    def _setup_ssl_context(self, *_, **__):
        return None

    async def start(self):
        pass

    async def stop(self):
        pass

    async def _send_message(self, message):
        raise AssertionError("not used")

    async def register(self, *_, **__):
        return True

    async def send_message(self, message, *_, **__):
        self.sent.append(message)

    async def _exchange_action_messages(self, message):
        assert isinstance(message, Recv)
        if not self.says:
            raise ConnectionError("nothing more is said")
        said = self.says.pop(0)
        return Send(said.serialize()) if isinstance(said, messaging.Message) else said


def scene(tmp_path, change):
    """What a client sends where fairness is on, and the error that ends it."""
    _, folders = make_folders(tmp_path / "p", length=4)
    rng = np.random.default_rng(0)
    data = FairnessInMemoryDataset(
        rng.normal(size=(37, 3)),
        s_attr=(np.arange(37) < 5).astype(int).reshape(-1, 1),
        target=rng.integers(0, 2, 37),
        expose_classes=True,
    )
    model = SklearnSGDModel.from_parameters(kind="classifier")
    model.initialize({"features_shape": (3,), "classes": np.array([0, 1])})
    begin = messaging.InitRequest(
        model=model,
        optim=Optimizer(0.1),
        aggrg=AveragingAggregator(),
        metrics=[],
        dpsgd=False,
        secagg="secagg",
        fairness=True,
    )
    query = SecAggServer(folders["server"]).prepare_secagg_setup_query()
    fair = messaging.FairnessSetupQuery(
        algorithm="monitor", params={"f_type": "demographic_parity", "f_args": {}}
    )
    wire = Wire([begin, *change(query), fair, Reject("the end")])
    client = FederatedClient(wire, data, secagg=SecAggSite(folders["north"]))

    async def join():
        async with wire:
            await client.initialize()

    with pytest.raises((RuntimeError, secagg.SecAggError)) as caught:
        asyncio.run(join())
    error = caught.value
    while error is not None and not isinstance(error, secagg.SecAggError):
        error = error.__cause__
    return wire.sent, error


class Unknown(messaging.Message, register=False):
    """Of a type that the client does not know."""

    typekey = "unheard-of"


def unsigned(query):
    query.signature = bytes(64)
    return [query]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda query: [query, Reject("no")], "setup-broken"),
        (lambda query: [query, Unknown()], "setup-broken"),
        (lambda query: [query, messaging.CancelTraining("no")], "setup-cancelled"),
        (unsigned, "zero-server"),
    ],
)
def test_no_counts_leave_without_protection(tmp_path, change, rule):
    sent, error = scene(tmp_path, change)
    kinds = [type(message).__name__ for message in sent]
    assert not {"FairnessCounts", "FairnessGroups"} & set(kinds)
    assert error is not None and error.rule == rule
    if rule != "setup-cancelled":  # of which the server knows
        assert kinds[-1] == "Error" and sent[-1].message == REFUSED
