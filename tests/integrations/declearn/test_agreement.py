"""The setup's messages and the site's limits, one rule at a time."""

from __future__ import annotations

import dataclasses
import os
import pickle

import numpy as np
import pytest
from integrations.declearn.app import NAMES, STAGES, make_folders, make_plan, set_up

import secagg
from secagg.integrations.declearn import SecAggServer, SecAggSite, agreement, ring
from secagg.integrations.declearn.limits import Limits
from secagg.integrations.declearn.view import View
from secagg.integrations.folder import PartyFolder
from secagg_protocols.keys import ExchangeKey
from secagg_protocols.plan_file import dump_plan, dump_roster

NONCE, VIEW = b"n" * 16, b"v" * 32


@pytest.fixture(scope="module")
def plan_and_keys():
    return make_plan()


@pytest.fixture
def adverts(plan_and_keys):
    plan, identities = plan_and_keys
    return [agreement.advertise(plan, identities[name], NONCE, VIEW)[1] for name in NAMES]


def refused(rule, call, *arguments, kind=secagg.PeerError, **named):
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    assert caught.value.rule == rule
    return caught.value


def test_all_signatures_are_checked(plan_and_keys, adverts):
    plan, identities = plan_and_keys
    own = adverts[0]

    def check(shown, nonce=NONCE, view=VIEW, own=own):
        return agreement.check_adverts(plan, "north", own, nonce, view, shown)

    assert check(adverts) == [advert[:32] for advert in adverts]
    north, south, east, west = adverts
    for shown in ([south, north, east, west], [north, south, west, east], [*adverts[:3], north]):
        refused("zero-advert", check, shown)
    for at in (0, 31, 32, 95):
        flipped = bytearray(west)
        flipped[at] ^= 1
        refused("zero-advert", check, [*adverts[:3], bytes(flipped)])
    refused("zero-advert", check, adverts, nonce=b"m" * 16)
    refused("zero-advert", check, adverts, view=b"w" * 32)
    for shown in (adverts[:3], [*adverts, west], [], None, b"".join(adverts)):
        refused("zero-list", check, shown)
    for wrong in (west[:-1], west + b"\0", None, "text"):
        refused("zero-format", check, [*adverts[:3], wrong])
    # A second advert of this very site, as of a copy of it, is not the one that it sent.
    again = agreement.advertise(plan, identities["north"], NONCE, VIEW)[1]
    refused("zero-own", check, [again, *adverts[1:]])


def test_an_advert_of_another_plan_is_refused(plan_and_keys, adverts):
    plan, identities = plan_and_keys
    other = dataclasses.replace(plan, colluding=0, sites_receive=False)
    theirs = agreement.advertise(other, identities["west"], NONCE, VIEW)[1]
    shown = [*adverts[:3], theirs]
    refused("zero-advert", agreement.check_adverts, plan, "north", adverts[0], NONCE, VIEW, shown)


def test_the_query_is_the_servers_and_of_this_plan(plan_and_keys):
    plan, identities = plan_and_keys
    digest = agreement.query_digest(plan.digest, NONCE)
    signed = identities["server"].sign(digest)
    assert agreement.check_query(plan, plan.digest, NONCE, signed) == NONCE
    check = agreement.check_query
    refused("zero-plan", check, plan, bytes(32), NONCE, signed)
    refused("zero-server", check, plan, plan.digest, b"m" * 16, signed)
    refused("zero-server", check, plan, plan.digest, NONCE, identities["west"].sign(digest))
    refused("zero-format", check, plan, plan.digest, NONCE[:-1], signed)
    refused("zero-format", check, plan, plan.digest, "n" * 16, signed)


def test_ready_is_of_these_adverts(plan_and_keys):
    plan, identities = plan_and_keys
    context = b"c" * 32
    signed = identities["east"].sign(agreement.ready_digest(context, 2))
    agreement.check_ready(plan, context, 2, signed)
    refused("zero-ready", agreement.check_ready, plan, b"d" * 32, 2, signed)
    refused("zero-ready", agreement.check_ready, plan, context, 1, signed)


def test_points_of_low_order_are_refused(plan_and_keys):
    plan, _ = plan_and_keys
    own = ExchangeKey(b"\1" * 32)
    keys = [own.public, bytes(32), own.public, own.public]
    error = refused("low-order", agreement.PairMasks, plan, "north", own, keys, b"c" * 32)
    assert error.sender == "south"


def test_no_keystream_is_drawn_twice(plan_and_keys):
    """Over draws, setups that are repeated, and restarts: every advert is of a fresh key."""
    plan, identities = plan_and_keys
    seen = set()
    for _ in range(3):
        made = [agreement.advertise(plan, identities[name], NONCE, VIEW) for name in NAMES]
        keys = [exchange.public for exchange, _ in made]
        masks = [
            agreement.PairMasks(plan, name, exchange, keys, b"c" * 32)
            for name, (exchange, _) in zip(NAMES, made, strict=True)
        ]
        for _ in range(5):
            total = np.zeros(8, np.uint64)
            for site in masks:
                own = np.zeros(8, np.uint64)
                site.draw(b"b").add_to(own)
                total += own
                seen.add(own.tobytes())
            assert not total.any()
    assert len(seen) == 3 * 5 * len(NAMES)


def test_masks_end_and_are_not_copied(plan_and_keys):
    plan, identities = plan_and_keys
    made = [agreement.advertise(plan, identities[name], NONCE, VIEW) for name in NAMES]
    keys = [exchange.public for exchange, _ in made]
    masks = agreement.PairMasks(plan, "north", made[0][0], keys, b"c" * 32)
    with pytest.raises(TypeError):
        pickle.dumps(masks)
    assert "secret" not in repr(masks) and repr(masks) == "PairMasks(3 peers, 0 drawn)"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            masks.draw(b"b")
            os.write(write, b"drawn")
        except secagg.MisuseError as error:
            os.write(write, error.rule.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 64) == b"zero-process"
    os.close(read)
    os.close(write)
    masks.close()
    refused("zero-closed", masks.draw, b"b", kind=secagg.MisuseError)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("max_dropouts", {"max_dropouts": 1, "colluding": 0, "sites_receive": False}),
        ("stages", {"stages": (secagg.ClipL2(1.0), secagg.Quantise(1 << 16))}),
        ("stages", {"stages": (secagg.Integers(0, 9),)}),
        ("max_weight", {"max_weight": 2, "stages": (STAGES[0], secagg.Quantise(1 << 20))}),
        ("sites_receive", {"sites_receive": False}),
        ("fixed_data", {"fixed_data": True, "max_inputs_per_model": None}),
    ],
)
def test_plans_that_one_message_cannot_keep_are_refused(tmp_path, field, changes):
    _, folders = make_folders(tmp_path / "p", **changes)
    for make in (lambda: SecAggServer(folders["server"]), lambda: SecAggSite(folders["north"])):
        error = refused("zero-plan-kind", make, kind=secagg.PlanError)
        assert error.field == field


def test_folders_are_the_partys_own(tmp_path):
    _, folders = make_folders(tmp_path / "p")
    refused("roster-member", SecAggServer, folders["north"], kind=secagg.MisuseError)
    refused("roster-member", SecAggSite, folders["server"], kind=secagg.MisuseError)
    _, others = make_folders(tmp_path / "q")
    (others["north"] / "plan.toml").write_text((folders["north"] / "plan.toml").read_text())
    refused("roster-member", SecAggSite, others["north"], kind=secagg.MisuseError)
    refused("party-folder", SecAggSite, tmp_path / "nowhere", kind=secagg.MisuseError)


def test_declearns_dictionaries(tmp_path):
    from declearn.secagg import parse_secagg_config_client, parse_secagg_config_server

    _, folders = make_folders(tmp_path / "p")
    site = parse_secagg_config_client(secagg_type="secagg", id_keys=str(folders["north"]))
    assert isinstance(site, SecAggSite) and site.folder.name == "north"
    server = parse_secagg_config_server(secagg_type="secagg", folder=str(folders["server"]))
    assert isinstance(server, SecAggServer)
    # The plan decides; declearn's own settings may repeat it and not say anything else.
    assert (server.bitsize, server.clipval) == (54, float(1 << 20))
    SecAggServer(folders["server"], bitsize=54, clipval=float(1 << 20))
    for wrong in ({"bitsize": 32}, {"clipval": 1.0}):
        error = refused(
            "declearn-quantiser", SecAggServer, folders["server"], kind=secagg.PlanError, **wrong
        )
        assert error.field in wrong


def test_policies_hold(tmp_path):
    plan, folders = make_folders(tmp_path / "p")
    policy = folders["north"] / "policy.toml"
    policy.write_text("smallest_cohort = 5\n")
    refused("floors", SecAggSite, folders["north"], kind=secagg.MisuseError)
    policy.write_text("[censoring]\nq = 2\n")
    refused("policy-censoring", SecAggSite, folders["north"], kind=secagg.MisuseError)
    policy.write_text(f'models = ["{"ab" * 32}"]\nmost_rounds = 2\nmost_inputs_per_model = 1\n')
    limits = Limits(PartyFolder(folders["north"]), plan)
    refused("model-allowed", limits.enter, bytes(32), b"t" * 32, kind=secagg.MisuseError)
    listed = bytes.fromhex("ab" * 32)
    limits.enter(listed, b"t" * 32)
    refused("inputs-per-model", limits.enter, listed, b"u" * 32, kind=secagg.MisuseError)
    # What was counted stays counted, in another process too.
    again = Limits(PartyFolder(folders["north"]), plan)
    again.enter(listed, b"t" * 32)
    refused("inputs-per-model", again.enter, listed, b"u" * 32, kind=secagg.MisuseError)
    policy.write_text("most_rounds = 1\n")
    limits = Limits(PartyFolder(folders["north"]), plan)
    limits.enter(bytes(32), b"a" * 32)
    refused("floors", limits.enter, b"\1" * 32, b"b" * 32, kind=secagg.MisuseError)
    policy.unlink()
    (folders["north"] / "budget.toml").write_text("epsilon = 1.0\ndelta = 1e-5\n")
    refused("declearn-folder", SecAggSite, folders["north"], kind=secagg.MisuseError)


def test_inputs_are_counted_by_reply_and_model(tmp_path):
    plan, identities = make_plan(max_inputs_per_model=2, length=3)
    sites, views, _ = set_up(tmp_path / "p", plan, identities)
    site, view = sites["north"], views["north"]
    for reply in range(2):
        view.messages += 1
        view.digest = bytes([reply]) * 32
        for _ in range(3):  # one reply masks several values
            site.encrypt_uint(1)
    view.messages += 1
    view.digest = b"x" * 32
    refused("inputs-per-model", site.encrypt_uint, 1, kind=secagg.MisuseError)
    view.model = b"m" * 32
    site.encrypt_uint(1)


def test_a_pinned_roster_takes_the_servers_plan(tmp_path):
    plan, folders = make_folders(tmp_path / "p")
    north = folders["north"]
    (north / "plan.toml").unlink()
    (north / "roster.toml").write_text(dump_roster(plan.roster))
    site = SecAggSite(north)
    refused("plan-pinned", site._prepare, dump_plan(plan), kind=secagg.MisuseError)
    (north / "policy.toml").write_text("colluding = 1\nmin_honest = 2\nmalicious_server = true\n")
    site = SecAggSite(north)
    assert site._prepare(dump_plan(plan))[0] == plan
    refused("plan-pinned", site._prepare, "", kind=secagg.MisuseError)
    stranger, _ = make_plan()
    refused("roster-pinned", site._prepare, dump_plan(stranger), kind=secagg.MisuseError)
    weak = dataclasses.replace(plan, colluding=0, sites_receive=False)
    refused("floors", site._prepare, dump_plan(weak), kind=secagg.MisuseError)


def test_views_are_of_everything_that_was_received():
    assert View().digest == View().digest
    assert ring.checks_of(54) == 2 and ring.checks_of(64) == 1 and ring.checks_of(9) == 8
