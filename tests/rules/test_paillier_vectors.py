"""The committed vectors of the Paillier sum, replayed: every byte of good rounds, every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rules.test_vectors import play

import secagg
from secagg.attacks.arena.paillier_world import without_proofs
from secagg_protocols.paillier_sum import Client, Holder, Server
from secagg_protocols.paillier_sum.rules import RULES
from support.make_paillier_vectors import FOLDER, dealing

GOOD = sorted((FOLDER / "good").glob("*.json"))
BAD = sorted((FOLDER / "bad").glob("*.json"))


def build(about: dict[str, Any]) -> Any:
    plan = secagg.load_plan((FOLDER / "plans" / about["plan"]).read_text())
    name, entropy = about["party"], bytes.fromhex(about["entropy"])
    journal = secagg.MemoryJournal()
    for register, value in about.get("registers", {}).items():
        journal.swap(bytes.fromhex(register), b"", bytes.fromhex(value))
    common: dict[str, Any] = {
        "identity": secagg.Identity(name, bytes.fromhex(about["identity_seed"])),
        "session": about["session"],
        "round": about["round"],
        "model": bytes.fromhex(about["model"]),
        "journal": journal,
        "entropy": lambda size: entropy[:size],
    }
    if name == "server":
        return Server(plan, **common)
    holders = [holder for holder, _ in plan.roster.holders]
    if name in holders:
        place = holders.index(name)
        key = plan.protocol.key
        found = dealing(key.holders, key.threshold)
        share = (found if key.knowledge_proofs else without_proofs(*found))[1][place]
        return Holder(plan, plan.clients + place, share=share, floors=None, **common)
    return Client(plan, plan.roster.index(name), floors=None, **common)


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_good_rounds_repeat_byte_for_byte(path: Path) -> None:
    for about in json.loads(path.read_text())["parties"]:
        play(build(about), about["script"])


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_messages_are_refused_by_their_rule(path: Path) -> None:
    vector = json.loads(path.read_text())
    play(build(vector), vector["script"])
    last = vector["script"][-1]
    assert vector["rule"] in json.dumps(last.get("raises") or last["brings"]["refused"])


def test_every_rule_that_a_message_can_break_has_a_committed_vector() -> None:
    # These are broken by a constructor, an older state or another way of reading bytes.
    elsewhere = {
        ("client", "floors"),
        ("client", "model-allowed"),
        ("client", "dump-age"),
        # Fixed data are refused by the plan, so that no message can break this.
        ("client", "fixed-roster"),
        ("server", "dump-age"),
        ("holder", "floors"),
        ("holder", "own-share"),
        ("holder", "dump-age"),
        ("party", "session"),
        ("party", "identity"),
        ("party", "round-clip"),
    }
    wanted = {(r.party, r.id) for r in RULES if r.party != "plan"} - elsewhere
    assert {f"{party}-{rule}" for party, rule in wanted} <= {path.stem for path in BAD}
    assert len(GOOD) >= 10
