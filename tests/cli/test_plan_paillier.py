"""plan: Paillier plans, the comparison of both protocols, and counts that are those of a round."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app
from secagg.cli.plan_compare import compare
from secagg.sim import work as counted
from secagg.sim.holders import dealt, holder_names, least_threshold, shape_of
from secagg.sim.settings import PaillierSettings
from secagg_native.paillier import FixedBase, Product, Squares
from secagg_protocols.events import Step
from secagg_protocols.masked_sum import costs as masked_costs
from secagg_protocols.paillier import PrivateKey
from secagg_protocols.paillier_sum import costs
from secagg_protocols.plan_file import load_plan
from support.paillier_keys import primes, short_keys

__all__ = ["short_keys"]

pytestmark = pytest.mark.usefixtures("short_keys")
runner = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, short_keys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pub").write_bytes(_deal(5, 3).key.to_bytes())
    (tmp_path / "one.pub").write_bytes(_deal(1, 1).key.to_bytes())
    return tmp_path


@cache
def _deal(holders, threshold, proofs=True):
    key = PrivateKey(*primes(1024), knowledge_proofs=proofs)
    return dealt(key, holder_names(holders), threshold, 0, 1, proof=True)


def run(*args, code=0):
    result = runner.invoke(app, ["plan", *(str(arg) for arg in args)], env={"COLUMNS": "130"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def _plan(threat, holders, threshold, *, sites=5, length=300, **more):
    deal = _deal(holders, threshold, threat == "malicious-server")
    names = [f"site-{i}" for i in range(sites)]
    roster, identities = secagg.Roster.generate(names, holders=deal.holders)
    plan = secagg.Plan.recommend(
        roster, length=length, stages=(secagg.Integers(0, 1000),), threat=threat, colluding=1,
        max_dropouts=1, key=deal.key, **more,
    )  # fmt: skip
    return plan, identities, deal


def _round(plan, identities, deal, tap=None):
    vectors = {name: np.arange(plan.length) % 1001 for name in plan.roster.names}
    got = secagg.aggregate(plan, vectors, identities=identities, shares=deal.shares, tap=tap)
    assert np.array_equal(got.sum, plan.clients * (np.arange(plan.length) % 1001))
    return got


@pytest.mark.parametrize("receive", [True, False])
@pytest.mark.parametrize(("holders", "threshold"), [(5, 3), (1, 1)])
@pytest.mark.parametrize("threat", ["malicious-server", "semi-honest"])
def test_bytes_are_those_of_a_real_round(threat, holders, threshold, receive):
    plan, identities, deal = _plan(threat, holders, threshold, sites_receive=receive)
    sizes = Counter()

    def tap(step, sender, recipient, data):
        sizes[step.label, "sends", sender] += len(data)
        sizes[step.label, "receives", recipient] += len(data)

    traffic = {step.step: step for step in _round(plan, identities, deal, tap).traffic}
    cost = costs.round_cost(plan)
    assert [step.step for step in cost.steps] == [Step.INPUT.label, Step.REVEAL.label]
    for step in cost.steps:
        for kind, names in (("site", plan.roster.names), ("holder", deal.holders)):
            for name in names:
                for does in ("sends", "receives"):
                    assert sizes[step.step, does, name] == getattr(step, f"{kind}_{does}")
        assert sizes[step.step, "sends", "server"] == step.server_sends
        assert sizes[step.step, "receives", "server"] == step.server_receives
        assert traffic[step.step].sent == step.server_sends
        assert traffic[step.step].received == step.server_receives
    assert cost.site_total == sum(
        sizes[step.step, does, "site-0"] for step in cost.steps for does in ("sends", "receives")
    )
    assert cost.server_sends == sum(step.server_sends for step in cost.steps)
    # Only the size of the key counts, so a plan without a key can be counted with.
    secret = PrivateKey(*primes(1024), knowledge_proofs=plan.signed)
    shape = shape_of(PaillierSettings(key=secret, holders=holders), signed=plan.signed)
    assert costs.round_cost(plan, shape) == cost


@pytest.mark.parametrize(("holders", "threshold"), [(5, 3), (1, 1)])
@pytest.mark.parametrize("threat", ["malicious-server", "semi-honest"])
def test_work_is_what_the_kernels_are_asked_for(threat, holders, threshold, monkeypatch):
    plan, identities, deal = _plan(threat, holders, threshold)
    rows, clients = costs.round_cost(plan).rows, plan.clients
    done = Counter()
    monkeypatch.setattr(Squares, "power", _counting(done, "power", Squares.power))
    monkeypatch.setattr(Squares, "multi_power", _counting(done, "multi-power", Squares.multi_power))
    monkeypatch.setattr(FixedBase, "encrypt", _counting(done, "fixed-base", FixedBase.encrypt))
    monkeypatch.setattr(Product, "multiply", _counting(done, "product", Product.multiply))
    _round(plan, identities, deal)
    expected = Counter()
    for one in costs.round_cost(plan).work:
        times = {"site": clients, "server": 1, "holder": holders}[one.party]
        expected[one.kernel] += times * one.count
    expected.pop("decrypt", None)
    # A proof that is checked is multiplied out once, and so is every share that is combined.
    if threat == "malicious-server":
        expected["product"] += (1 + holders) * clients * rows
    if holders > 1:
        expected["product"] += threshold * rows
    # To put the sum together takes some more, and the first of a product is none.
    assert abs(done["product"] - expected.pop("product")) <= 2 * rows
    assert {kind: done[kind] for kind in expected} == expected


def _counting(done, kind, real):
    def call(self, rows, *args, **options):
        count = len(rows)
        if count > 2:  # proofs raise two numbers, whatever the length
            done[kind] += count
        return real(self, rows, *args, **options)

    return call


def test_exponents_are_as_long_as_counted():
    deal = _deal(5, 3)
    bits = costs.share_bits(deal.key)
    lengths = [(2 * 120 * share.secret).bit_length() for share in deal.shares.values()]
    assert bits - 30 < max(lengths) <= bits


def test_multiplications_follow_the_lengths():
    [one] = [w for w in costs.round_cost(_plan("semi-honest", 5, 3)[0]).work if w.party == "site"]
    assert one.multiplications == pytest.approx(one.count * one.exponent_bits / 5)


def test_a_plan_under_a_key_is_shown_written_and_read(elsewhere):
    fixed = ["-n", 6, "--length", 100, "--key", "key.pub"]
    text = " ".join(run(*fixed, "--toml", "plan.toml").stdout.split())
    for part in (
        "Paillier sum: sites encrypt, holders open the sum", "1024 bits", "3 of 5",
        "sites prove what they encrypt yes", "holder receives", "any 3 holders together",
        "dealer of the key", "from all sites and holders", "Every site proves that it knows",
    ):  # fmt: skip
        assert part in text, part
    made = load_plan((elsewhere / "plan.toml").read_text())
    assert isinstance(made.protocol, secagg.PaillierSum)
    data = json.loads(run("--from", "plan.toml", "--json").stdout)
    assert data["digest"] == made.digest.hex()
    assert data["protocol"] == "PaillierSum"
    assert (data["holders"], data["share_threshold"], data["key_bits"]) == (5, 3, 1024)
    assert data["bytes"]["holder_total"] == costs.round_cost(made).holder_total
    assert "comparison" not in data
    assert {view["party"] for view in data["sees"]} >= {"server", "dealer of the key", "network"}


def test_one_key_is_one_holders(elsewhere):
    data = json.loads(run("-n", 6, "--key", "one.pub", "--json").stdout)
    sees = {view["party"]: view for view in data["sees"]}
    assert "the sum in any case" in sees["the holder"]["sees"]
    assert "dealer of the key" not in sees


def test_comparison_of_both(elsewhere):
    fixed = ["-n", 10, "--length", 5000, "--holders", 5]
    data = json.loads(run(*fixed, "--json").stdout)
    masked, paillier = data["comparison"]["masked"], data["comparison"]["paillier"]
    assert (masked["exchanges"], masked["warm"], paillier["exchanges"]) == (5, 3, 2)
    assert masked["bytes"]["site_sends"] == sum(s["site_sends"] for s in data["bytes"]["steps"])
    assert masked["bytes"]["holder_receives"] == 0 < paillier["bytes"]["holder_receives"]
    assert masked["work"]["site"] == {
        "keystream_bytes": 10 * 5000 * 4, "key_agreements": 18,
    }  # fmt: skip
    kernels = {one["kernel"] for one in paillier["work"]["holder"]}
    assert kernels == {"power", "fixed-base", "product", "multi-power"}
    assert "dealer" in " ".join(paillier["trusts"])
    assert masked["seconds"] is None is paillier["seconds"]
    text = run(*fixed).stdout
    for part in ("Masked sum or Paillier sum", "work of a holder", "is trusted", "may be missing"):
        assert part in text, part


def test_comparison_from_either_side(elsewhere):
    run("-n", 6, "--key", "key.pub", "--toml", "plan.toml")
    data = json.loads(run("--from", "plan.toml", "--compare", "--json").stdout)["comparison"]
    assert data["paillier"]["bytes"]["ciphertexts"] > 0 < data["masked"]["exchanges"]
    run("-n", 6, "--toml", "masked.toml")
    twin = json.loads(run("--from", "masked.toml", "--compare", "--json").stdout)["comparison"]
    assert twin["masked"]["bytes"] == data["masked"]["bytes"]


def test_a_side_that_is_not_possible_says_why(elsewhere):
    text = run("-n", 10, "--fixed-data", "--holders", 5).stdout
    assert "No paillier sum" in text
    # Masked sums bear fewer dropouts, since a server could show sites two sets of survivors.
    wanted = ["-n", 8, "--dropout", 3, "--colluding", 2]
    assert "[one-survivor-set]" in run(*wanted, code=3).stderr
    data = json.loads(run(*wanted, "--key", "key.pub", "--compare", "--json").stdout)
    assert "one-survivor-set" in data["comparison"]["masked"]["impossible"]
    assert data["comparison"]["paillier"]["missing"].startswith("3 of 8 sites at the input")
    assert "No masked sum" in run(*wanted, "--key", "key.pub", "--compare").stdout


def test_measured_seconds_are_of_this_machine(monkeypatch):
    monkeypatch.setattr(counted, "_STREAM", 1 << 16)
    monkeypatch.setattr(counted, "_ROWS", 8)
    plan, _, _ = _plan("malicious-server", 5, 3, length=20)
    found = compare(
        plan, holders=None, threshold=None, colluding_holders=None, key_bits=None, measure=True
    )
    assert found.paillier.seconds.keys() == {"site", "server", "holder"}
    assert found.masked.seconds.keys() == {"site", "server", "server, most missing"}
    for side in (found.masked, found.paillier):
        assert all(seconds > 0 for seconds in side.seconds.values())
    alone, _, _ = _plan("semi-honest", 1, 1, length=20)
    speed = counted.PaillierSpeed(1024)
    for one in costs.round_cost(alone).work:
        assert speed.seconds(one) > 0


def test_masked_work_counts_pairs_of_the_missing():
    roster, _ = secagg.Roster.generate([f"s{i}" for i in range(10)])
    plan = secagg.Plan.recommend(
        roster, length=1000, stages=(secagg.Integers(0, 1000),), threat="semi-honest",
        colluding=1, max_dropouts=2, neighbours=9,
    )  # fmt: skip
    found = counted.masked_work(plan)
    lane = plan.lane.itemsize
    assert found["site"] == counted.MaskedWork(10 * 1000 * lane, 18)
    assert found["server"] == counted.MaskedWork(10 * 1000 * lane, 0)
    assert found["server, most missing"] == counted.MaskedWork((8 + 2 * 8) * 1000 * lane, 16)
    with pytest.raises(TypeError):
        costs.round_cost(plan)
    assert masked_costs.round_cost(plan).clients == 10


@pytest.mark.parametrize("holders", range(1, 12))
def test_least_threshold_is_the_least(holders):
    for colluding in range(holders):
        safe = [t for t in range(1, holders + 1) if 2 * t > holders + colluding]
        assert least_threshold(holders, colluding) == min(safe)


@pytest.mark.parametrize(
    ("args", "code", "rule"),
    [
        (["--holders", 0], 2, "options"),
        (["--holders", 65], 2, "options"),
        (["--holders", 3, "--threshold", 4], 2, "options"),
        (["--holders", 3, "--threshold", 1], 3, "one-opening"),
        (["--holders", 3, "--colluding-holders", 3], 3, "holder-threshold"),
        (["--key-bits", 1000], 2, "options"),
        (["--measure"], 2, "options"),
        (["--colluding-holders", 1], 2, "options"),
        (["--compare", "--toml", "-"], 2, "options"),
        (["--key", "key.pub", "--holders", 5], 2, "options"),
        (["--key", "key.pub", "--neighbours", 4], 2, "options"),
        (["--key", "key.pub", "--fixed-data"], 3, "fixed-data-holders"),
        (["--key", "key.pub", "--colluding-holders", 1], 3, "one-opening"),
        (["--key", "text"], 2, "key-bytes"),
    ],
)
def test_refusals(args, code, rule, elsewhere):
    (elsewhere / "text").write_text("no key")
    assert f"[{rule}]" in run("-n", 10, *args, code=code).stderr


def test_a_key_without_a_proof_is_for_servers_that_are_trusted(elsewhere):
    (elsewhere / "bare.pub").write_bytes(PrivateKey(*primes(1024)).public.to_bytes())
    error = run("-n", 10, "--key", "bare.pub", code=3).stderr
    assert "[modulus-proof]" in error
    assert "hint: use a key with a proof" in error
    run("-n", 10, "--key", "bare.pub", "--threat", "semi-honest")


def test_a_key_without_proofs_of_knowledge_is_too(elsewhere):
    bare = _deal(5, 3, proofs=False).key
    (elsewhere / "bare.pub").write_bytes(bare.to_bytes())
    assert "[knowledge-proofs]" in run("-n", 10, "--key", "bare.pub", code=3).stderr
    run("-n", 10, "--key", "bare.pub", "--threat", "semi-honest")


def test_a_plan_file_with_a_broken_key(elsewhere):
    run("-n", 6, "--key", "key.pub", "--toml", "plan.toml")
    text = (elsewhere / "plan.toml").read_text()
    start = text.index('key = "') + 7
    (elsewhere / "plan.toml").write_text(text[:start] + "AAAA" + text[start + 4 :])
    assert "[plan-file]" in run("--from", "plan.toml", code=2).stderr


def test_a_roster_needs_the_keys_holders(elsewhere):
    roster, _ = secagg.Roster.generate([f"site-{i}" for i in range(6)], holders=["h0", "h1"])
    from secagg_protocols.plan_file import dump_roster

    (elsewhere / "roster.toml").write_text(dump_roster(roster))
    error = run("--roster", "roster.toml", "--key", "key.pub", code=3).stderr
    assert "[key-holders]" in error
