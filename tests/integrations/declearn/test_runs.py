"""declearn's own server and clients, over its websockets on 127.0.0.1."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declearn.main import FederatedServer
from declearn.secagg.masking import MaskingSecaggConfigServer
from integrations.declearn.app import (
    NAMES,
    make_folders,
    make_plan,
    make_server,
    parts,
    run,
)

import secagg
from secagg.integrations.declearn import SecAggServer, SecAggSite
from secagg.integrations.declearn.messages import ZeroSumAdverts
from secagg.integrations.declearn.ring import Ring
from secagg.integrations.declearn.view import REFUSED
from secagg.integrations.folder import write_folders

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:declearn"),
    pytest.mark.filterwarnings("ignore::UserWarning:declearn"),
]


def guards(folders, names=NAMES):
    return SecAggServer(folders["server"]), {name: SecAggSite(folders[name]) for name in names}


def rule_of(error: BaseException | None) -> Any:
    """The rule of the first of our errors in a chain."""
    while error is not None and not isinstance(error, secagg.SecAggError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.rule


def difference(one, other) -> float:
    return max(
        float(np.abs(one.weights.coefs[name] - other.weights.coefs[name]).max())
        for name in one.weights.coefs
    )


@pytest.mark.parametrize("names", [NAMES, NAMES[:3]])
def test_the_result_is_that_without_secagg(tmp_path, names, capsys):
    rounds = 3
    plain = run(None, dict.fromkeys(names), rounds=rounds)
    plan, folders = make_folders(tmp_path / "p", names)
    safe = run(*guards(folders, names), rounds=rounds)
    assert not plain.errors and not safe.errors
    # A round's mean is off by the error of the sum over the steps; an error of earlier rounds is
    # not amplified by more than the rounds' own (the loss is convex and the rate small).
    steps = sum(len(y) // 16 for _, y in parts(len(names)))
    bound = rounds * Ring(plan).error / steps
    with capsys.disabled():
        print(f"\n  difference {difference(plain, safe):.2e}, bound {bound:.2e}")
    assert difference(plain, safe) <= bound
    assert np.allclose(plain.losses, safe.losses, rtol=1e-8)
    assert len(safe.losses) == rounds and safe.losses[-1] < safe.losses[0]


def test_auxiliary_variables_are_summed_too(tmp_path):
    """SCAFFOLD: the sites' states stay at the sites, their sum goes to the server."""
    optim = {
        "aggregator": "averaging",
        "client_opt": {"lrate": 0.05, "modules": ["scaffold-client"]},
        "server_opt": {"lrate": 1.0, "modules": ["scaffold-server"]},
    }
    plain = run(None, dict.fromkeys(NAMES), optim=optim)
    _, folders = make_folders(tmp_path / "p")
    safe = run(*guards(folders), optim=optim)
    assert not plain.errors and not safe.errors
    assert difference(plain, safe) < 1e-7


def test_a_smaller_ring(tmp_path):
    stages = (secagg.ClipLinf(4096.0), secagg.Quantise(1 << 28, rounding="nearest"))
    plain = run(None, dict.fromkeys(NAMES), rounds=1)
    plan, folders = make_folders(tmp_path / "p", stages=stages)
    assert plan.lane == np.uint32
    safe = run(*guards(folders), rounds=1)
    assert not safe.errors
    assert difference(plain, safe) <= Ring(plan).error / 36


@pytest.mark.slow
def test_servers_without_secagg_are_refused(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    _, sites = guards(folders)
    for server in (None, MaskingSecaggConfigServer(bitsize=64, clipval=1e3)):
        # declearn's clients end, and its server waits for them for ever.
        done = run(server, sites, longest=5)
        assert set(done.errors) == {"server", *NAMES}
        assert not done.losses


@pytest.mark.slow
def test_one_site_without_secagg_ends_the_run(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)
    done = run(server, {**sites, "west": None}, longest=5)
    assert "west" in done.errors and "server" in done.errors and not done.losses


def test_wrong_plan(tmp_path, caplog):
    plan, identities = make_plan()
    folders = write_folders(tmp_path / "p", plan, identities)
    theirs = secagg.Plan.recommend(
        plan.roster,
        length=plan.length,
        stages=plan.stages,
        threat=plan.threat,
        colluding=2,
        max_dropouts=0,
        min_honest=2,
    )
    write_folders(tmp_path / "r", theirs, identities)
    server, sites = guards(folders)
    sites["west"] = SecAggSite(tmp_path / "r" / "west")
    done = run(server, sites)
    assert rule_of(done.errors["west"]) == "zero-plan"
    assert rule_of(done.errors["server"]) == "refused"
    assert {rule_of(done.errors[name]) for name in NAMES[:3]} == {"setup-cancelled"}
    assert not done.losses


def test_wrong_server(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)
    server._party.identity = secagg.Identity.generate("server")
    done = run(server, sites)
    assert {rule_of(done.errors[name]) for name in NAMES} == {"zero-server"}
    assert rule_of(done.errors["server"]) == "refused"


def test_wrong_site(tmp_path):
    """One whose identity is not the roster's, and the same site twice."""
    plan, identities = make_plan()
    folders = write_folders(tmp_path / "p", plan, identities)
    server, sites = guards(folders)
    sites["west"].folder.identity = secagg.Identity.generate("west")
    done = run(server, sites)
    assert rule_of(done.errors["server"]) == "zero-advert"
    assert not done.losses
    server, sites = guards(folders)
    done = run(server, {**sites, "west": SecAggSite(folders["north"])})
    assert rule_of(done.errors["server"]) == "zero-site"


def test_a_missing_site_is_no_setup(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)
    sites.pop("west")
    done = run(server, sites)
    assert rule_of(done.errors["server"]) == "zero-cohort"
    assert {rule_of(error) for name, error in done.errors.items() if name != "server"} == {
        "setup-cancelled"
    }


def test_a_sample_of_the_sites_is_no_setup(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    done = run(*guards(folders), client_sampler={"strategy": "uniform", "n_samples": 3})
    assert rule_of(done.errors["server"]) == "zero-cohort" and not done.losses


def test_a_site_that_refuses_a_value_ends_the_run(tmp_path, caplog):
    """The server hears one text; the reason is in the site's own log."""
    stages = (secagg.ClipLinf(1.0), secagg.Quantise(1 << 16))
    _, folders = make_folders(tmp_path / "p", stages=stages)
    with caplog.at_level(logging.INFO):
        done = run(*guards(folders))
    refused = [name for name in NAMES if rule_of(done.errors[name]) == "value-range"]
    assert refused and "server" in done.errors and not done.losses
    assert "value-range" in caplog.text
    assert "value-range" not in str(done.errors["server"])
    assert REFUSED in caplog.text


def test_a_run_repeated_counts_the_same_model(tmp_path):
    _, folders = make_folders(tmp_path / "p", max_inputs_per_model=2)
    for _ in range(2):
        done = run(*guards(folders), rounds=1, settings={"evaluate": {"frequency": 2}})
        assert not done.errors
    done = run(*guards(folders), rounds=1)
    assert {rule_of(done.errors[name]) for name in NAMES} & {"inputs-per-model"}
    assert not done.losses


class SetUpEachRound(FederatedServer):
    async def training_round(self, round_i, train_cfg, clients):
        self._secagg_peers = set()
        await super().training_round(round_i, train_cfg, clients)


def other_class(kind):
    def make(port, guard, **options):
        made = make_server(port, guard, **options)
        made.__class__ = kind
        return made

    return make


def test_setups_that_are_repeated(tmp_path):
    plain = run(None, dict.fromkeys(NAMES), rounds=3)
    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)
    ended = []

    def watch(made, clients):
        setup = sites["north"].setup_encrypter

        async def noted(netwk, query):
            ended.append(sites["north"]._encrypter)
            return await setup(netwk, query)

        sites["north"].setup_encrypter = noted

    done = run(server, sites, rounds=3, server=other_class(SetUpEachRound), prepare=watch)
    assert not done.errors and difference(plain, done) < 1e-7
    assert len(ended) == 3 and ended[0] is None
    for encrypter in ended[1:]:
        with pytest.raises(secagg.MisuseError) as caught:
            encrypter.encrypt_uint(1)
        assert caught.value.rule == "zero-closed"


class OtherModelForOne(FederatedServer):
    """Sends one site a model of zeros and asks it for no step: what it returns would be known,
    and the sum of the others told apart."""

    async def _send_training_instructions(self, clients, round_i, train_cfg):
        send = self.netwk.send_messages
        self.netwk.send_messages = lambda messages, timeout=None: send(
            {c: self.changed(m) if c == "west" else m for c, m in messages.items()}, timeout
        )
        try:
            await super()._send_training_instructions(clients, round_i, train_cfg)
        finally:
            self.netwk.send_messages = send

    def changed(self, message):
        other = copy.copy(message)
        other.weights = message.weights * 0.0 + 1.0
        return other


class OtherStepsForOne(OtherModelForOne):
    def changed(self, message):
        other = copy.copy(message)
        other.batches = {**message.batches, "batch_size": 100}
        return other


class OtherStartForOne(FederatedServer):
    """Tells one site another initial model, before any setup."""

    async def initialization(self, config):
        broadcast = self.netwk.broadcast_message

        async def changed(message, clients=None, timeout=None):
            if type(message).__name__ != "InitRequest":
                return await broadcast(message, clients, timeout)
            other = copy.copy(message)
            other.metrics = []
            return await self.netwk.send_messages(
                {c: other if c == "west" else message for c in self.netwk.client_names}
            )

        self.netwk.broadcast_message = changed
        await super().initialization(config)
        self.netwk.broadcast_message = broadcast


@pytest.mark.parametrize("kind", [OtherModelForOne, OtherStepsForOne])
def test_another_request_for_one_site_is_no_sum(tmp_path, kind):
    _, folders = make_folders(tmp_path / "p")
    done = run(*guards(folders), server=other_class(kind))
    assert rule_of(done.errors["server"]) == "zero-sum" and not done.losses


def test_another_start_for_one_site_is_no_setup(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    done = run(*guards(folders), server=other_class(OtherStartForOne))
    assert rule_of(done.errors["server"]) == "zero-view" and not done.losses


@pytest.mark.parametrize("change", ["swap", "flip", "drop"])
def test_adverts_that_were_tampered_with(tmp_path, change):
    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)

    def tamper(made, clients):
        broadcast = made.netwk.broadcast_message

        async def changed(message, clients=None, timeout=None):
            if isinstance(message, ZeroSumAdverts):
                a, b, *rest = message.adverts
                flipped = bytes([a[0] ^ 1]) + a[1:]
                message = ZeroSumAdverts(
                    {"swap": [b, a, *rest], "flip": [flipped, b, *rest], "drop": [a, b, *rest[:1]]}[
                        change
                    ]
                )
            await broadcast(message, clients, timeout)

        made.netwk.broadcast_message = changed

    done = run(server, sites, prepare=tamper)
    wanted = "zero-list" if change == "drop" else "zero-advert"
    assert {rule_of(done.errors[name]) for name in NAMES} == {wanted}
    assert rule_of(done.errors["server"]) == "refused"


def test_a_client_whose_first_messages_were_not_seen_is_refused(tmp_path, monkeypatch):
    from secagg.integrations.declearn import view

    _, folders = make_folders(tmp_path / "p")
    server, sites = guards(folders)
    monkeypatch.setattr(view.View, "add", lambda self, message: None)
    done = run(server, sites)
    assert {rule_of(done.errors[name]) for name in NAMES} == {"view"}


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "declearn"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run.py"], "bound"),
        (["run.py", "--plain"], "without secagg"),
        (["run.py", "--processes"], "bound"),
        (["measure.py", "--largest", "2000"], "2000 coordinates"),
    ],
)
def test_examples(arguments, says):
    name, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *rest],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
