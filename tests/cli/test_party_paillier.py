"""party: a Paillier sum over files, with its holders, drops and commands that are run again."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app
from secagg.sim.holders import dealt
from secagg_native import features
from secagg_protocols.paillier import PrivateKey, modulus_proof
from support.paillier_keys import primes, short_keys

__all__ = ["short_keys"]

pytestmark = pytest.mark.usefixtures("short_keys")
runner = CliRunner()
COMMAND = typer.main.get_command(app)
SITES, HOLDERS = ("a", "b", "c", "d"), ("x", "y", "z")
LENGTH = 30


@pytest.fixture(autouse=True)
def built_once(monkeypatch):
    """Building the commands anew for every call would take most of the time."""
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND, raising=False)


@cache
def deal(holders=HOLDERS, threshold=2):
    secret = PrivateKey(*primes(1024))
    return dealt(secret, holders, threshold, 0, 1, proof=True)


def run(*args, code=0):
    result = runner.invoke(app, ["party", *(str(arg) for arg in args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


class Desks:
    """All parties of a round, each in its folder, and the mail between them."""

    def __init__(self, root, threat="malicious-server", holders=HOLDERS, threshold=2):
        self.root = root
        keys = deal(holders, threshold)
        roster, self.identities = secagg.Roster.generate(SITES, holders=holders)
        self.plan = secagg.Plan.recommend(
            roster, length=LENGTH, stages=(secagg.Integers(0, 100),), threat=threat, colluding=1,
            max_dropouts=1, min_honest=2, key=keys.key,
        )  # fmt: skip
        (root / "plan.toml").write_text(secagg.dump_plan(self.plan))
        for name, identity in self.identities.items():
            identity.save(root / f"{name}.key")
        for name, share in keys.shares.items():
            (root / f"{name}.share").write_bytes(share.to_bytes())
            (root / f"{name}.share").chmod(0o600)
        self.vectors = {name: np.arange(LENGTH) + i for i, name in enumerate(SITES)}
        for name, vector in self.vectors.items():
            np.save(root / f"{name}.npy", vector)
        self.read: set[Path] = set()

    def start(self, name, *more, code=0, share=True):
        extra = ["--share", self.root / f"{name}.share"] if name in dict(
            self.plan.roster.holders
        ) and share else []  # fmt: skip
        return run(
            "start", self.root / f"at-{name}", "--plan", self.root / "plan.toml", "--identity",
            self.root / f"{name}.key", "--session", "files", "--round", 0, *extra, *more, code=code,
        )  # fmt: skip

    def do(self, command, name, *args, code=0):
        key = ["--identity", self.root / f"{name}.key"]
        result = run(command, self.root / f"at-{name}", *args, *key, "--json", code=code)
        return json.loads(result.stdout) if result.stdout.startswith("{") else result

    def mail(self, name):
        """Letters to a party that it has not read yet, in order of their writing."""
        found = sorted(
            path for path in self.root.glob(f"at-*/outbox/*-to-{name}.msg") if path not in self.read
        )
        self.read |= set(found)
        return found

    def deliver(self, name):
        letters = self.mail(name)
        return self.do("receive", name, *letters) if letters else {}


@pytest.mark.parametrize("threat", ["malicious-server", "semi-honest"])
def test_a_round_over_files(tmp_path, threat):
    desks = Desks(tmp_path, threat)
    for name in ("server", *SITES, *HOLDERS):
        desks.start(name)
    assert desks.do("status", "x")["role"] == "holder"
    assert desks.do("status", "a")["waits"]["for"] == "submit"
    present = SITES[:-1]  # the last one never sends
    for name in present:
        assert desks.do("submit", name, tmp_path / f"{name}.npy")["waits"]["for"] == "server"
    seen = desks.deliver("server")
    assert len(seen["sent"]) == len(present) * len(HOLDERS)
    assert (seen["waits"]["for"], seen["waits"]["have"]) == ("sites", len(present))
    desks.do("close", "server")
    waits = desks.do("status", "server")["waits"]
    assert (waits["for"], waits["need"], waits["most"]) == ("holders", 2, 3)
    for name in HOLDERS[:2]:
        assert desks.do("status", name)["waits"]["have"] == 0
        told = desks.deliver(name)
        assert told["done"]
        assert [file["to"] for file in told["sent"]] == ["server"]
        assert told["result"] is None
    assert desks.deliver("server")["waits"]["have"] == 2
    assert desks.do("close", "server")["done"]
    expected = sum(desks.vectors[name] for name in present)
    for name in ("server", *present):
        if name != "server":
            assert desks.deliver(name)["done"]
        with np.load(tmp_path / f"at-{name}" / "result.npz") as data:
            assert np.array_equal(data["sum"], expected)
    text = run("status", tmp_path / "at-x", "--identity", tmp_path / "x.key").stdout
    assert "done; the answer is given" in text


def test_one_holder_with_the_whole_key(tmp_path):
    desks = Desks(tmp_path, holders=("only",), threshold=1)
    for name in ("server", *SITES, "only"):
        desks.start(name)
    assert desks.do("status", "only")["role"] == "holder"
    for name in SITES:
        desks.do("submit", name, tmp_path / f"{name}.npy")
    desks.deliver("server")
    desks.do("close", "server")
    desks.deliver("only")
    desks.deliver("server")
    desks.do("close", "server")
    with np.load(tmp_path / "at-server" / "result.npz") as data:
        assert np.array_equal(data["sum"], sum(desks.vectors.values()))


def test_commands_that_are_run_again_say_the_same(tmp_path):
    desks = Desks(tmp_path)
    for name in ("server", *SITES, *HOLDERS):
        desks.start(name)
    for name in SITES:
        desks.do("submit", name, tmp_path / f"{name}.npy")
    again = desks.do("submit", "a", tmp_path / "a.npy", code=2)
    assert "[input-once]" in again.stderr
    letters = desks.mail("server")
    desks.do("receive", "server", *letters)
    told = desks.do("receive", "server", *letters)
    assert {row["outcome"] for row in told["files"]} == {"ignored"}
    assert told["sent"] == []
    desks.do("close", "server")
    letters = desks.mail("x")
    before = (tmp_path / "at-x" / "state").read_bytes()
    first = desks.do("receive", "x", *letters)
    [answer] = first["sent"]
    data = Path(answer["file"]).read_bytes()
    # The state is lost, as by a crash before it was written: the journal allows the same answer.
    (tmp_path / "at-x" / "state").write_bytes(before)
    Path(answer["file"]).unlink()
    [answer] = desks.do("receive", "x", *letters)["sent"]
    assert Path(answer["file"]).read_bytes() == data
    assert {row["outcome"] for row in desks.do("receive", "x", *letters)["files"]} == {"ignored"}


def test_a_request_to_open_waits_for_the_inputs(tmp_path):
    desks = Desks(tmp_path)
    for name in ("server", *SITES, *HOLDERS):
        desks.start(name)
    for name in SITES:
        desks.do("submit", name, tmp_path / f"{name}.npy")
    desks.deliver("server")
    desks.do("close", "server")
    late, *inputs, request = desks.mail("x")
    told = desks.do("receive", "x", *inputs, request)
    row = told["files"][-1]
    assert (row["outcome"], row["rule"], told["sent"]) == ("ignored", "given", [])
    assert not told["done"]
    told = desks.do("receive", "x", late, request)
    assert told["done"]
    assert len(told["sent"]) == 1


def test_the_share_is_needed_at_every_command(tmp_path):
    desks = Desks(tmp_path)
    assert "x is a holder: give" in desks.start("x", share=False, code=2).stderr
    more = ["--share", tmp_path / "x.share"]
    assert "a is a site: leave --share out" in desks.start("a", *more, code=2).stderr
    assert "the server: leave --share out" in desks.start("server", *more, code=2).stderr
    desks.start("x")
    (tmp_path / "x.share").rename(tmp_path / "away.share")
    assert "No such file" in desks.do("status", "x", code=2).stderr
    (tmp_path / "y.share").rename(tmp_path / "x.share")
    assert "[own-share]" in desks.do("status", "x", code=2).stderr
    (tmp_path / "away.share").rename(tmp_path / "x.share")
    assert desks.do("status", "x")["role"] == "holder"


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        ("x", ["--data", "scans"], "a holder has none"),
        ("a", ["--transcript", "t"], "transcripts are of masked sums"),
        ("x", ["--transcript", "t"], "transcripts are of masked sums"),
    ],
)
def test_refusals(tmp_path, monkeypatch, name, more, text):
    monkeypatch.chdir(tmp_path)
    desks = Desks(tmp_path)
    assert text in desks.start(name, *more, code=2).stderr
    assert not (tmp_path / f"at-{name}").exists()
    assert not (tmp_path / "t").exists()


def test_a_masked_plan_takes_no_share(tmp_path):
    desks = Desks(tmp_path)
    masked = secagg.Plan.recommend(
        desks.plan.roster, length=LENGTH, stages=(secagg.Integers(0, 100),), threat="semi-honest",
        colluding=1, max_dropouts=0,
    )  # fmt: skip
    (tmp_path / "plan.toml").write_text(secagg.dump_plan(masked))
    for name, share in (("x", True), ("x", False)):
        told = desks.start(name, share=share, code=2).stderr
        assert "the plan is a masked sum and has no holders [protocol]" in told
    told = desks.start("a", "--share", tmp_path / "x.share", code=2).stderr
    assert "the plan is a masked sum and has no holders [protocol]" in told


def test_a_wrong_variant_is_a_line(tmp_path, monkeypatch):
    desks = Desks(tmp_path)
    desks.start("x")
    monkeypatch.setenv(features.BIGINT_ENVIRONMENT, "foo")
    features.bigint_variant.cache_clear()
    try:
        for command, *more in (("status",), ("receive", tmp_path / "plan.toml")):
            told = desks.do(command, "x", *more, code=2).stderr
            assert told.startswith("error: SECAGG_BIGINT must be one of ")
            assert told.endswith(" [kernel]\n")
            assert len(told.splitlines()) == 1
        for line in (
            ("paillier", "verify", str(tmp_path / "x.share")),
            ("simulate", "random", "--protocol", "paillier"),
        ):
            result = runner.invoke(app, line)
            assert result.exit_code == 2
            assert result.stderr.endswith(" [kernel]\n")
        # What needs no kernel goes on.
        assert runner.invoke(app, ["keygen", "n", "--out", str(tmp_path / "n.key")]).exit_code == 0
    finally:
        monkeypatch.undo()
        features.bigint_variant.cache_clear()


def test_an_interrupt_is_a_word(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("secagg.cli.paillier.generate", interrupted)
    result = runner.invoke(app, ["paillier", "keygen", "--out", str(tmp_path / "keys")])
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\n")
    assert not (tmp_path / "keys").exists()


def test_from_key_files_to_a_sum(tmp_path, monkeypatch):
    """The chain of docs/paillier.md, with a fixed key in place of a new one."""
    monkeypatch.chdir(tmp_path)

    def secagg_does(*words, code=0):
        result = runner.invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    p, q = primes(1024)
    secret = PrivateKey(p, q, proof=modulus_proof.prove(p, q))
    monkeypatch.setattr("secagg.cli.paillier.generate", lambda *_, **__: secret)
    secagg_does("paillier", "keygen", "--rounds", "--out", "keys")
    deal = ("--holders", 3, "--threshold", 2)
    secagg_does("paillier", "split", "--key", "keys/private.key", *deal, "--out", "dealt")
    for name in ("server", *SITES, *HOLDERS):
        secagg_does("keygen", name, "--out", f"{name}.key")
    sites = [word for name in SITES for word in ("--site", f"{name}.key.pub")]
    holders = [word for name in HOLDERS for word in ("--holder", f"{name}.key.pub")]
    build = ("roster", "build", "--server", "server.key.pub", *sites)
    plan = ("plan", "--length", LENGTH, "--integers", 0, 100, "--key", "dealt/public.key")
    assert "4 sites, epoch 0" in secagg_does(*build, "--out", "without.toml").stdout
    told = secagg_does(*plan, "--roster", "without.toml", "--toml", "no.toml", code=3).stderr
    assert "[key-holders]; hint: " in told
    assert "roster build --holder" in told
    told = secagg_does(*build, *holders, "--out", "roster.toml").stdout
    assert "4 sites, 3 holders, epoch 0" in told
    assert "holder 1" in secagg_does("roster", "show", "roster.toml").stdout
    secagg_does(*plan, "--roster", "roster.toml", "--toml", "plan.toml")

    def start(name, *more, code=0):
        common = ("--plan", "plan.toml", "--session", "files", "--round", 0)
        line = ("party", "start", f"at-{name}", "--identity", f"{name}.key", *common, *more)
        return secagg_does(*line, code=code)

    for name in ("server", *SITES):
        start(name)
    # Holder i of the roster has share i and no other.
    wrong = start(HOLDERS[0], "--share", "dealt/share-2.key", code=2)
    assert "[own-share]" in wrong.stderr
    for number, name in enumerate(HOLDERS, start=1):
        start(name, "--share", f"dealt/share-{number}.key")

    def do(command, name, *words):
        secagg_does("party", command, f"at-{name}", *words, "--identity", f"{name}.key")

    def mail(name):
        """Give a party all that was ever sent to it, in the order of the names, as ``*`` does."""
        found = tmp_path.glob(f"at-*/outbox/*-to-{name}.msg")
        do("receive", name, *sorted(found, key=lambda path: path.name))

    for number, name in enumerate(SITES):
        np.save(f"{name}.npy", np.arange(LENGTH) + number)
        do("submit", name, f"{name}.npy")
    mail("server")
    do("close", "server")
    for name in HOLDERS[1:]:  # the first one is away
        mail(name)
    mail("server")
    do("close", "server")
    mail("a")
    for name in ("server", "a"):
        with np.load(tmp_path / f"at-{name}" / "result.npz") as data:
            assert np.array_equal(data["sum"], 4 * np.arange(LENGTH) + 6)


def test_roles_keep_to_their_commands(tmp_path):
    desks = Desks(tmp_path)
    for name in ("server", "x", "a"):
        desks.start(name)
    for name in ("x", "server"):
        result = desks.do("submit", name, tmp_path / "a.npy", code=2)
        assert "only a site has a vector" in result.stderr
    for name in ("x", "a"):
        assert "only the server closes" in desks.do("close", name, code=2).stderr
    assert "nobody has answered" in desks.do("close", "server", code=2).stderr


def test_a_holder_has_floors_of_its_own(tmp_path):
    desks = Desks(tmp_path)
    (tmp_path / "floors.toml").write_text("smallest_cohort = 9\n")
    result = desks.start("x", "--floors", tmp_path / "floors.toml", code=2)
    assert "[floors]" in result.stderr
