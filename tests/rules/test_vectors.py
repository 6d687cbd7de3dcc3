"""The committed vectors, replayed against the code: every byte of good rounds, every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum.rules import RULES
from support.make_vectors import FOLDER, ROOT, outcome, rule_page

GOOD = sorted((FOLDER / "good").glob("*.json"))
BAD = sorted((FOLDER / "bad").glob("*.json"))


def build(about: dict[str, Any]) -> Any:
    plan = secagg.load_plan(about["plan"])
    name = about["party"]
    entropy = bytes.fromhex(about["entropy"])
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
    return Client(plan, plan.roster.index(name), floors=None, **common)


def play(party: Any, script: list[dict[str, Any]]) -> None:
    dtype = np.int64 if party.plan.pipeline.stages[0].__class__.__name__ == "Integers" else float
    for entry in script:
        arguments: list[Any] = []
        options: dict[str, Any] = {}
        if entry["op"] == "receive":
            arguments, options = [bytes.fromhex(entry["frame"])], {"sender": entry["sender"]}
        if entry["op"] == "submit":
            arguments = [np.array(entry["vector"], dtype=dtype), entry["weight"]]
        call = getattr(party, entry["op"])
        if "raises" in entry:
            with pytest.raises(secagg.SecAggError) as caught:
                call(*arguments, **options)
            assert [type(caught.value).__name__, caught.value.rule] == entry["raises"]
        else:
            assert outcome(call(*arguments, **options)) == entry["brings"]


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_good_rounds_repeat_byte_for_byte(path: Path) -> None:
    vector = json.loads(path.read_text())
    for about in vector["parties"]:
        play(build(about), about["script"])


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_messages_are_refused_by_their_rule(path: Path) -> None:
    vector = json.loads(path.read_text())
    play(build(vector), vector["script"])
    last = vector["script"][-1]
    assert vector["rule"] in json.dumps(last.get("raises") or last["brings"]["refused"])


def test_every_rule_that_a_message_can_break_has_a_committed_vector() -> None:
    # These are broken by a constructor, a second submit, an older state or another round.
    elsewhere = {
        ("client", "floors"),
        ("client", "model-allowed"),
        ("client", "input-once"),
        ("client", "dump-age"),
        ("server", "dump-age"),
        ("party", "session"),
        ("party", "identity"),
        ("party", "round-clip"),
    }
    wanted = {(r.party, r.id) for r in RULES if r.party != "plan"} - elsewhere
    assert {f"{party}-{rule}" for party, rule in wanted} <= {path.stem for path in BAD}
    assert len(GOOD) >= 25


def test_the_rule_page_is_the_table() -> None:
    assert (ROOT / "specs" / "rules.md").read_text() == rule_page()
