"""Roster epochs: each rule refuses its attack, and the attack goes through once exactly that rule
is overridden; any sequence of changes keeps the invariants; hostile files are typed errors."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.enrolment_vectors import ATTACKS, OWNER, Stage, forge, key
from secagg.attacks.arena.tables import enrolment_table
from secagg.attacks.arena.world import digest, make_plan, people
from secagg.attacks.rulebook import play_rule
from secagg_protocols import enrolment
from secagg_protocols.enrolment import ENROLMENT_RULES, Membership, Succession, claim_epoch
from secagg_protocols.party import Contexts
from secagg_protocols.rules import Rule
from secagg_protocols.signed_roster import NOTHING, SignedRoster, dump_chain, load_chain

ROSTER, IDENTITIES = people(5)


@pytest.mark.parametrize("rule", ENROLMENT_RULES, ids=lambda rule: rule.id)
def test_the_rule_refuses_its_attack_with_its_own_error(rule: Rule) -> None:
    with pytest.raises(secagg.SecAggError) as caught:
        ATTACKS[rule.id](Stage())
    assert caught.value.rule == rule.id
    assert type(caught.value).__name__ == rule.error


@pytest.mark.parametrize("rule", ENROLMENT_RULES, ids=lambda rule: rule.id)
def test_without_the_rule_its_attack_goes_through(rule: Rule) -> None:
    assert play_rule(enrolment_table(), rule, Membership).why == ""
    assert not rule.also


def test_every_check_is_in_the_table_and_called_from_one_place() -> None:
    tree = ast.parse(inspect.getsource(enrolment))
    nodes = list(ast.walk(tree))
    defined = [n.name for n in nodes if isinstance(n, ast.FunctionDef) and "_check_" in n.name]
    called = [
        n.func.attr
        for n in nodes
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and n.func.attr.startswith("_check_")
    ]
    table = sorted(rule.method for rule in ENROLMENT_RULES)
    assert sorted(defined) == sorted(called) == table
    assert set(ATTACKS) == {rule.id for rule in ENROLMENT_RULES}


# What the rules mean beyond their one attack.


def refused(call: Callable[[], Any], rule: str, error: type[Exception]) -> Any:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.rule == rule  # type: ignore[attr-defined]
    return caught.value


def test_a_refusal_changes_nothing_and_the_same_roster_again_is_fine() -> None:
    stage = Stage()
    for change in ({"leave": ["s4"]}, {"rotate": {"s3": key("new")}}):
        stage.change(**change)
    party = stage.party()
    assert party.newest is None
    for one in stage.chain:
        assert party.accept(one) == one.roster
        assert party.accept(one) == one.roster
    stored = stage.journal.read(party._register)
    for older in stage.chain[:-1]:
        refused(lambda older=older: party.accept(older), "epoch-rollback", secagg.PeerError)
    fork = stage.chain[1].change(enrolment=OWNER, leave=["s2"])
    error = refused(lambda: party.accept(fork), "epoch-fork", secagg.EquivocationError)
    assert error.digests == (stage.chain[-1].digest, fork.digest)
    assert error.sender == "enrolment"
    assert stage.journal.read(party._register) == stored
    assert party.newest == stage.chain[-1]


def test_a_fork_is_noticed_one_epoch_later_too() -> None:
    stage = Stage()
    stage.party().accept([*stage.chain, stage.change(leave=["s4"])])
    other = stage.chain[0].change(enrolment=OWNER, leave=["s3"])
    late = other.change(enrolment=OWNER, leave=["s2"])
    error = refused(lambda: stage.party().accept(late), "epoch-chain", secagg.EquivocationError)
    assert error.digests == (stage.chain[1].digest, other.digest)


def test_a_party_that_missed_epochs_walks_the_whole_history() -> None:
    stage = Stage()
    stage.party().accept(stage.chain[0])
    stage.change(rotate={"s1": key("new")})
    stage.change(join={"s5": key("s5")})
    stage.change(server=key("server"))
    error = refused(lambda: stage.party().accept(stage.chain[-1]), "epoch-chain", secagg.PeerError)
    assert "between" in str(error)
    assert stage.party().accept(stage.chain) == stage.chain[-1].roster
    assert stage.party().accept(stage.chain) == stage.chain[-1].roster
    refused(lambda: stage.party().accept(stage.chain[:2]), "epoch-rollback", secagg.PeerError)
    refused(lambda: stage.party().accept([]), "arguments", secagg.MisuseError)


def test_a_chain_that_goes_back_within_itself_is_refused() -> None:
    stage = Stage()
    stage.change(leave=["s4"])
    shuffled = [stage.chain[1], stage.chain[0]]
    refused(lambda: stage.party().accept(shuffled), "epoch-rollback", secagg.PeerError)
    assert stage.party().newest is None


def test_the_epoch_is_remembered_by_the_journal_of_another_process(tmp_path: Any) -> None:
    stage = Stage()
    stage.change(leave=["s4"])
    path = tmp_path / "journal"
    stage.journal = secagg.FileJournal(path)
    stage.party().accept(stage.chain)
    stage.journal = secagg.FileJournal(path)
    assert stage.party().newest == stage.chain[-1]
    refused(lambda: stage.party().accept(stage.chain[0]), "epoch-rollback", secagg.PeerError)


def test_parties_of_one_machine_and_other_enrolment_keys_do_not_mix() -> None:
    stage = Stage()
    last = stage.change(leave=["s4"])
    stage.party("s0").accept(stage.chain)
    assert stage.party("s1").newest is None
    other = secagg.Identity("enrolment", digest("another"))
    elsewhere = Membership(other.public, identity=IDENTITIES["s0"], journal=stage.journal)
    assert elsewhere.newest is None
    refused(lambda: elsewhere.accept(last), "enrolment-signature", secagg.AuthenticationError)


class Raced(secagg.MemoryJournal):
    """Another process of the party accepts a roster between the read and the swap."""

    winner: SignedRoster | None = None

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        if self.winner is not None:
            winner, self.winner = self.winner, None
            super().swap(name, old, winner.encode())
        super().swap(name, old, new)


def test_a_race_of_two_processes_is_decided_by_the_journal() -> None:
    stage = Stage(journal=Raced())
    one, two = stage.change(leave=["s4"]), stage.change(leave=["s3"])
    fork = stage.chain[0].change(enrolment=OWNER, leave=["s2"])
    stage.party().accept(stage.chain[0])
    stage.journal.winner = one
    assert stage.party().accept([one, two]) == two.roster
    stage = Stage(journal=Raced())
    stage.party().accept(stage.chain[0])
    stage.journal.winner = one
    refused(lambda: stage.party().accept(fork), "epoch-fork", secagg.EquivocationError)
    assert stage.party().newest == one


class Stuck(secagg.MemoryJournal):
    """Refuses every swap, though nobody else wrote."""

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        raise secagg.MisuseError("no", rule="journal-swap")


def test_a_journal_that_refuses_for_no_reason_is_not_asked_for_ever() -> None:
    stage = Stage(journal=Stuck())
    refused(lambda: stage.party().accept(stage.chain), "journal-swap", secagg.MisuseError)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"leave": ["s0"]}, "left or never joined"),
        ({"revoke": ["s0"]}, "revoked the key"),
        ({"rotate": {"s0": key("new")}}, "another key"),
    ],
)
def test_who_is_out_is_told_why_and_cannot_be_brought_back(
    change: dict[str, Any], word: str
) -> None:
    stage = Stage()
    stage.party().accept(stage.chain)
    stage.change(**change)
    error = refused(lambda: stage.party().accept(stage.chain), "own-key", secagg.MisuseError)
    assert word in str(error)
    # The roster was accepted all the same, so the old one is gone.
    assert stage.party().newest == stage.chain[-1]
    refused(lambda: stage.party().accept(stage.chain[0]), "epoch-rollback", secagg.PeerError)


def test_rotated_members_keep_name_and_place() -> None:
    fresh = secagg.Identity("s1", digest("fresh"))
    first = SignedRoster.first(replace(ROSTER, holders=(("h", key("h")),)), OWNER)
    made = first.change(
        enrolment=OWNER, rotate={"s1": fresh.public, "h": key("h2")}, server=key("server2")
    )
    assert made.changes == (("rotated", "h"), ("rotated", "s1"), ("rotated", "server"))
    assert made.roster.names == ROSTER.names
    assert made.roster.sites[1] == ("s1", fresh.public)
    assert made.roster.holders == (("h", key("h2")),)
    assert set(made.revoked) == {ROSTER.sites[1][1], key("h"), ROSTER.server}
    journal = secagg.MemoryJournal()
    for name, identity in (("s1", fresh), ("h", secagg.Identity("h", digest("key", "h2")))):
        Membership(OWNER.public, identity=identity, journal=journal).accept([first, made])
        assert made.roster.key(name) == identity.public
    server = secagg.Identity("x", digest("key", "server2"))
    member = Membership(OWNER.public, identity=server, journal=journal, name="server")
    assert member.accept([first, made]) == made.roster


def test_a_revoked_name_comes_back_with_another_key_only() -> None:
    stage = Stage()
    last = stage.change(revoke=["s4"])
    old = ROSTER.sites[4][1]
    for changes in (
        {"join": {"s4": old}},
        {"join": {"other": old}},
        {"rotate": {"s1": old}},
        {"server": old},
        {"holders": {"h": old}},
    ):
        refused(
            lambda changes=changes: last.change(enrolment=OWNER, **changes),
            "revoked-key",
            secagg.MisuseError,
        )
    stage.change(join={"s4": key("again")})
    assert stage.party().accept(stage.chain).names[-1] == "s4"


def test_one_who_left_in_good_standing_may_return_with_its_key() -> None:
    stage = Stage()
    assert stage.change(leave=["s4"]).changes == (("left", "s4"),)
    assert stage.change(join={"s4": ROSTER.sites[4][1]}).changes == (("joined", "s4"),)
    assert stage.party("s4").accept(stage.chain).names == ROSTER.names


@pytest.mark.parametrize("revoked", [(), "rotated"])
def test_revocation_and_rotation_must_be_listed(revoked: Any) -> None:
    """An owner that forgets a revoked key, or the old key of a rotated site, is refused."""
    stage = Stage()
    last = stage.change(revoke=["s4"])
    stage.party().accept(stage.chain)
    if revoked == "rotated":
        roster = replace(last.roster, sites=(*last.roster.sites[:3], ("s3", key("new"))), epoch=2)
        evil = forge(last, roster=roster, previous=last.digest, changes=(("rotated", "s3"),))
    else:
        evil = forge(
            last,
            roster=replace(last.roster, epoch=2),
            previous=last.digest,
            changes=(),
            revoked=(),
        )
    refused(lambda: stage.party().accept(evil), "revoked-key", secagg.PeerError)


def test_a_plan_needs_the_newest_roster() -> None:
    stage = Stage()
    plan = make_plan(5, roster=ROSTER)
    party = stage.party()
    refused(lambda: party.admit(plan), "plan-epoch", secagg.MisuseError)
    party.accept(stage.chain)
    party.admit(plan)
    party.accept(stage.change(rotate={"s1": key("new")}))
    refused(lambda: party.admit(plan), "plan-epoch", secagg.MisuseError)
    party.admit(secagg.plan_for_epoch(plan, stage.chain[-1].roster))


# The owner's side.


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "roster"),
        ({"leave": ["nobody"]}, "leave"),
        ({"leave": "s0"}, "leave"),
        ({"leave": [7]}, "leave"),
        ({"revoke": ["nobody"]}, "revoke"),
        ({"revoke": ["server"]}, "revoke"),
        ({"revoke": ["s1"], "leave": ["s1"]}, "revoke"),
        ({"rotate": {"nobody": key(1)}}, "rotate"),
        ({"rotate": {"s1": b"short"}}, "roster"),
        ({"rotate": {"s1": ROSTER.sites[2][1]}}, "roster"),
        ({"rotate": {"s1": ROSTER.sites[1][1]}}, "roster"),
        ({"rotate": ["s1"]}, "rotate"),
        ({"join": {"s1": key(1)}}, "join"),
        ({"join": {"new": OWNER.public}}, "enrolment"),
        ({"join": {"new": ROSTER.server}}, "roster"),
        ({"join": {"server": key(1)}}, "roster"),
        ({"holders": {"s1": key(1)}}, "holders"),
        ({"server": b"short"}, "roster"),
        ({"server": ROSTER.server}, "roster"),
    ],
)
def test_a_change_that_makes_no_roster_is_refused(changes: dict[str, Any], where: str) -> None:
    first = SignedRoster.first(ROSTER, OWNER)
    error = refused(lambda: first.change(enrolment=OWNER, **changes), "roster", secagg.PlanError)
    assert error.field == where


def test_names_may_come_from_any_iterable() -> None:
    made = SignedRoster.first(ROSTER, OWNER).change(
        enrolment=OWNER, revoke=(n for n in ["s1"]), leave=iter(["s2"])
    )
    assert made.changes == (("left", "s2"), ("revoked", "s1"))
    assert made.revoked == (ROSTER.sites[1][1],)


def test_only_the_owner_of_the_chain_continues_it() -> None:
    first = SignedRoster.first(ROSTER, OWNER)
    other = secagg.Identity("enrolment", digest("another"))
    refused(
        lambda: first.change(enrolment=other, leave=["s4"]),
        "enrolment-signature",
        secagg.AuthenticationError,
    )
    refused(lambda: SignedRoster.first(ROSTER, b"k" * 32), "arguments", secagg.MisuseError)  # type: ignore[arg-type]


def test_the_owner_signs_one_roster_per_epoch() -> None:
    first = SignedRoster.first(ROSTER, OWNER)
    one, other = (first.change(enrolment=OWNER, leave=[name]) for name in ("s3", "s4"))
    journal = secagg.MemoryJournal()
    for signed in (first, one, one):
        claim_epoch(journal, signed)
    refused(lambda: claim_epoch(journal, other), "epoch-fork", secagg.MisuseError)
    claim_epoch(journal, one.change(enrolment=OWNER, leave=["s4"]))


# Any sequence of changes.

NAMES = st.sampled_from([f"s{i}" for i in range(8)])
CHANGE = st.tuples(
    st.sampled_from(["join", "leave", "revoke", "rotate", "server"]),
    NAMES,
    st.integers(0, 11),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(CHANGE, max_size=12))
def test_any_sequence_of_changes_keeps_the_invariants(steps: list[tuple[str, str, int]]) -> None:
    """Keys come from a small pool, so that used, pinned and revoked ones are tried again."""
    chain = [SignedRoster.first(ROSTER, OWNER)]
    gone: set[bytes] = set()
    pool = [member[1] for member in ROSTER.sites] + [key("pool", i) for i in range(7)]
    for kind, name, number in steps:
        last, fresh = chain[-1], pool[number]
        changes: dict[str, Any] = {
            "join": {"join": {name: fresh}},
            "leave": {"leave": [name]},
            "revoke": {"revoke": [name]},
            "rotate": {"rotate": {name: fresh}},
            "server": {"server": fresh},
        }[kind]
        try:
            made = last.change(enrolment=OWNER, **changes)
        except secagg.SecAggError as error:
            assert error.rule in {"roster", "revoked-key"}
            if error.rule == "revoked-key":
                assert fresh in gone
            continue
        assert kind not in {"join", "rotate", "server"} or fresh not in gone
        if kind in {"revoke", "rotate"}:
            gone.add(dict(last.roster.sites)[name])
        if kind == "server":
            gone.add(last.roster.server)
        chain.append(made)
    for before, after in itertools.pairwise(chain):
        assert after.epoch == before.epoch + 1
        assert after.previous == before.digest
        assert len(after.changes) == 1
        assert set(before.revoked) <= set(after.revoked)
    last = chain[-1]
    assert set(last.revoked) == gone
    assert not gone & last.roster.keys
    assert len(set(last.roster.names)) == len(last.roster.names)
    assert load_chain(dump_chain(chain)) == tuple(chain)
    assert all(SignedRoster.decode(one.encode()) == one for one in chain)
    assert Succession(OWNER.public).walk(None, chain) == last
    member = Membership(OWNER.public, identity=IDENTITIES["s0"], journal=secagg.MemoryJournal())
    if last.roster.key("s0") == IDENTITIES["s0"].public:
        assert member.accept(chain) == last.roster
    else:
        refused(lambda: member.accept(chain), "own-key", secagg.MisuseError)
    for older in chain[:-1]:
        refused(lambda older=older: member.accept(older), "epoch-rollback", secagg.PeerError)


# Hostile bytes and files.


def history() -> list[SignedRoster]:
    stage = Stage()
    stage.change(revoke=["s4"])
    stage.change(join={"ü": key("ü")}, holders={"h": key("h")})
    return stage.chain


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bytes_never_verify(data: st.DataObject) -> None:
    good = history()[-1].encode()
    at = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    party = Stage().party()
    try:
        party.accept(SignedRoster.decode(bad))
    except (secagg.DecodeError, secagg.AuthenticationError) as error:
        assert error.rule in {"roster", "enrolment-signature"}
    else:
        pytest.fail("accepted")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_typed_error(data: bytes) -> None:
    refused(lambda: SignedRoster.decode(data), "roster", secagg.DecodeError)


def test_a_second_encoding_is_refused() -> None:
    good = history()[-1]
    fields = [*good.canonical(), good.signature]
    for number, value in ((0, "other"), (1, 2), (1, 1.0), (4, list(reversed(fields[4])) or 1)):
        fields = [*good.canonical(), good.signature]
        fields[number] = value
        wrong = msgspec.msgpack.encode(fields)
        if wrong == good.encode():
            continue
        refused(lambda wrong=wrong: SignedRoster.decode(wrong), "roster", secagg.DecodeError)
    refused(lambda: SignedRoster.decode(good.encode() + b"\0"), "roster", secagg.DecodeError)


TEXT = dump_chain(history())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epochs = 1",
        "epochs = []",
        "epochs = [1]",
        "[[epochs]]\nroster = 1",
        TEXT + "\n[more]\n",
        TEXT.replace("previous", "prior", 1),
        TEXT.replace('signature = "', 'signature = "zz', 1),
        TEXT.replace('signature = "', 'signature = "00', 1),
        TEXT.replace('enrolment = "', 'enrolment = 7 # "', 1),
        TEXT.replace("revoked = []", "revoked = 7", 1),
        TEXT.replace("revoked = []", 'revoked = ["00"]', 1),
        TEXT.replace("revoked = []", "revoked = [1]", 1),
        TEXT.replace("changes = []", 'changes = "joined"', 1),
        TEXT.replace("changes = []", 'changes = [["blessed", "s0"]]', 1),
        TEXT.replace("changes = []", 'changes = [["joined", 1]]', 1),
        TEXT.replace("changes = []", 'changes = [["joined", "a\\u001b"]]', 1),
        TEXT.replace("changes = []", 'changes = [["left", "b"], ["left", "a"]]', 1),
        TEXT.replace("epoch = 1", "epoch = 2026-01-01", 1),
        TEXT.replace("epoch = 1", "epoch = 1.0", 1),
        TEXT.replace("epoch = 1", "epoch = true", 1),
        "epochs = " + "[" * 100_000,
    ],
)  # fmt: skip
def test_a_hostile_file_is_a_typed_error(text: str) -> None:
    assert text != TEXT
    with pytest.raises(secagg.PlanError) as caught:
        load_chain(text)
    assert caught.value.rule in {"roster", "plan-file"}


def test_a_file_whose_words_were_changed_is_refused() -> None:
    text = TEXT.replace('["revoked", "s4"]', '["left", "s4"]')
    assert text != TEXT
    chain = load_chain(text)
    refused(
        lambda: Stage().party().accept(chain), "enrolment-signature", secagg.AuthenticationError
    )


def test_a_roster_beyond_the_journals_register_is_refused() -> None:
    many = secagg.Roster(
        sites=tuple((f"{i:064}", i.to_bytes(32, "big")) for i in range(11_000)),
        server=bytes([9] * 32),
    )
    error = refused(lambda: SignedRoster.first(many, OWNER), "roster", secagg.PlanError)
    assert error.field == "roster"


def test_a_register_with_other_bytes_is_a_typed_error() -> None:
    stage = Stage()
    party = stage.party()
    stage.journal.swap(party._register, b"", b"other")
    refused(lambda: party.newest, "roster", secagg.DecodeError)


@pytest.mark.parametrize("pinned", [b"short", "00" * 32, None])
def test_a_membership_pins_a_key(pinned: Any) -> None:
    journal = secagg.MemoryJournal()
    refused(
        lambda: Membership(pinned, identity=IDENTITIES["s0"], journal=journal),
        "arguments",
        secagg.MisuseError,
    )


def test_no_private_key_is_in_what_is_shown() -> None:
    one = history()[-1]
    party = Stage().party()
    text = repr(one) + repr(party) + dump_chain([one])
    for identity in (OWNER, IDENTITIES["s0"]):
        assert bytes(identity._key).hex() not in text


# Plans.


def test_a_new_epoch_changes_every_context() -> None:
    stage = Stage()
    plan = make_plan(5, roster=ROSTER)
    later = secagg.plan_for_epoch(plan, stage.change(rotate={"s4": key("new")}).roster)
    assert later.digest != plan.digest
    # Also where all but the epoch is as before.
    same = secagg.plan_for_epoch(plan, replace(ROSTER, epoch=1))
    contexts = {Contexts(p, b"session", 0).setup for p in (plan, later, same)}
    assert len(contexts) == 3


def test_a_plan_follows_its_roster() -> None:
    stage = Stage()
    plan = make_plan(5, roster=ROSTER, colluding=0, max_dropouts=1, sites_receive=False,
                     protocol=secagg.MaskedSum(share_threshold=4, neighbours=4))  # fmt: skip
    assert secagg.plan_for_epoch(plan, ROSTER) is plan
    rotated = secagg.plan_for_epoch(plan, stage.change(rotate={"s4": key("new")}).roster)
    assert rotated.protocol == plan.protocol
    grown = secagg.plan_for_epoch(
        rotated, stage.change(join={f"n{i}": key(i) for i in range(4)}).roster
    )
    assert grown.clients == 9
    assert grown.protocol == secagg.MaskedSum(share_threshold=5, neighbours=8)
    assert (grown.min_honest, grown.max_dropouts) == (plan.min_honest, plan.max_dropouts)


def test_a_plan_that_cannot_follow_says_what_to_change() -> None:
    stage = Stage()
    plan = make_plan(5, roster=ROSTER)
    smaller = stage.change(leave=["s3", "s4"]).roster
    with pytest.raises(secagg.PlanError) as caught:
        secagg.plan_for_epoch(plan, smaller)
    assert caught.value.rule in {"honest-survivors", "one-survivor-set", "share-threshold"}
    assert caught.value.field
    claimed = make_plan(5, roster=ROSTER, privacy=(("sites", 5),))
    error = refused(
        lambda: secagg.plan_for_epoch(claimed, smaller), "epoch-privacy", secagg.PlanError
    )
    assert error.field == "privacy"
    later = secagg.plan_for_epoch(plan, replace(ROSTER, epoch=3))
    refused(lambda: secagg.plan_for_epoch(later, smaller), "epoch-order", secagg.PlanError)
    refused(lambda: secagg.plan_for_epoch(plan, "roster"), "field-types", secagg.PlanError)  # type: ignore[arg-type]


def test_the_first_roster_names_nothing_before_it() -> None:
    first = SignedRoster.first(replace(ROSTER, epoch=7), OWNER)
    assert (first.epoch, first.previous, first.changes) == (7, NOTHING, ())
    wordy = forge(first, changes=(("joined", "s0"),))
    refused(lambda: Stage().party().accept(wordy), "roster-changes", secagg.PeerError)
    assert Stage().party().accept(first).epoch == 7
