"""Write protocols/vectors/paillier_sum/ anew (part of ``make vectors``).

The keys are made once and kept beside the vectors, since no two dealings are alike; everything
else follows from them and from names. A vector is a script, as those of the masked sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import secagg
from secagg.attacks.arena import paillier_vectors, paillier_world
from secagg.attacks.arena.paillier_world import PaillierWorld
from secagg_protocols.paillier import KeyShare, PrivateKey, PublicKey
from secagg_protocols.paillier_sum import Client, Holder, Server
from support.make_vectors import ROOT, header, recording, registers

FOLDER = ROOT / "vectors" / "paillier_sum"
KEYS = FOLDER / "keys.json"
_deal = paillier_world.dealt
Dealing = tuple[PublicKey, tuple[KeyShare | PrivateKey, ...]]


@cache
def dealing(holders: int, threshold: int) -> Dealing:
    """A key and its shares from the file, dealt and added where they are not there yet."""
    known = json.loads(KEYS.read_text()) if KEYS.exists() else {}
    name = f"{threshold} of {holders}"
    if name not in known:
        key, shares = _deal(holders, threshold)
        known[name] = {
            "key": key.to_bytes().hex(),
            "shares": [share.to_bytes().hex() for share in shares],
        }
        KEYS.parent.mkdir(parents=True, exist_ok=True)
        KEYS.write_text(json.dumps(known, indent=1) + "\n")
    stored = known[name]
    kind = PrivateKey if holders == 1 else KeyShare
    shares = tuple(kind.from_bytes(bytes.fromhex(share)) for share in stored["shares"])
    return PublicKey.from_bytes(bytes.fromhex(stored["key"])), shares


@contextmanager
def stored_keys() -> Iterator[None]:
    """Worlds and vectors use the keys of the file."""

    def dealt(
        holders: int,
        threshold: int,
        bits: int = paillier_world.BITS,
        *,
        knowledge_proofs: bool = True,
    ) -> Dealing:
        if bits != paillier_world.BITS:
            return _deal(holders, threshold, bits, knowledge_proofs=knowledge_proofs)
        found = dealing(holders, threshold)
        return found if knowledge_proofs else paillier_world.without_proofs(*found)

    with (
        patch.object(paillier_world, "dealt", dealt),
        patch.object(paillier_vectors, "dealt", dealt),
    ):
        yield


def about(plan: secagg.Plan, name: str, round: int = 0) -> dict[str, Any]:
    """What a party is built from; the plan is in a file of its own, by its digest."""
    found = header(plan, name, round)
    text = found.pop("plan")
    place = FOLDER / "plans" / f"{plan.digest.hex()[:16]}.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return {"plan": place.name, **found}


def good() -> Iterator[tuple[str, dict[str, Any]]]:
    """Whole rounds, every party's script in one file."""
    plans = {
        "malicious": paillier_world.make_plan(),
        "one-key": paillier_world.one_key_plan(),
        "semi-honest": paillier_world.trusting_plan(max_weight=3, sites_receive=False),
        "real": paillier_world.make_plan(
            stages=(secagg.ClipL2(100.0), secagg.Quantise(50, "nearest")), length=200
        ),
    }
    for title, plan in plans.items():
        for step, gone in ((0, []), (3, ["s3"]), (5, ["h0"])):
            if step == secagg.Step.REVEAL and len(plan.roster.holders) == 1:
                continue
            holders = [name for name, _ in plan.roster.holders]
            kinds = dict.fromkeys(plan.roster.names, Client) | dict.fromkeys(holders, Holder)
            kinds["server"] = Server
            logs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
            classes = {name: recording(kind, logs[name]) for name, kind in kinds.items()}
            world = PaillierWorld(plan, classes=classes)
            if not isinstance(plan.stages[0], secagg.Integers):
                world.vectors = {n: v.astype(float) for n, v in world.vectors.items()}
            world.run({step: gone} if step else {})
            assert world.result is not None
            yield (
                f"{title}-drop-{step}",
                {
                    "parties": [about(plan, n) | {"script": log} for n, log in logs.items()],
                    "sum": world.result.sum.tolist(),
                    "survivors": list(world.result.survivors),
                    "digest": world.result.digest.hex(),
                    "transcript": world.result.transcript.hex(),
                },
            )


def bad() -> Iterator[tuple[str, dict[str, Any]]]:
    """One file per rule that a message can break: the script up to the refusal."""
    kinds = {"server": Server, "holder": Holder}
    for (party, rule), play in sorted(paillier_vectors.SCENARIOS.items()):
        kind = kinds.get(party, Client)
        log: list[dict[str, Any]] = []
        built: list[tuple[Any, dict[str, str]]] = []
        recorded = recording(kind, log)

        def remember(self: Any, *args: Any, _base: Any = recorded, **kwargs: Any) -> None:
            _base.__init__(self, *args, **kwargs)
            # Called before the next turn of the loop.
            built.append((self, registers(self)))  # noqa: B023

        answers = play(type("Recorded", (recorded,), {"__init__": remember}))
        last = log[-1] if log else {}
        refused = last.get("raises") or [r[1:] for r in last.get("brings", {}).get("refused", [])]
        if answers[:1] == [rule] and rule in str(refused) and len(built) == 1:
            victim, left = built[0]
            if victim.plan.fixed_data:
                continue  # a plan that is refused before: no file can hold it
            found = about(victim.plan, victim.name, victim.round)
            if left:
                found["registers"] = left
            yield f"{party}-{rule}", found | {"rule": rule, "script": log}


def write() -> int:
    """Write all files; returns how many vectors there are."""
    count = 0
    for folder in ("plans", "good", "bad"):
        for old in (FOLDER / folder).glob("*"):
            old.unlink()
    with stored_keys():
        for folder, vectors in (("good", good()), ("bad", bad())):
            target = FOLDER / folder
            target.mkdir(parents=True, exist_ok=True)
            for name, vector in vectors:
                text = json.dumps(vector, separators=(",", ":"))
                (target / f"{name}.json").write_text(text + "\n")
                count += 1
    return count
