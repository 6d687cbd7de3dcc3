"""Write protocols/vectors/masked_sum/ and protocols/specs/rules.md anew (``make vectors``).

A vector is a script: what a party is built from, the operations on it in order, and what each
must bring. Good ones are whole rounds; bad ones end in one message that one rule refuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import secagg
from secagg.attacks.arena.site_vectors import SCENARIOS
from secagg.attacks.arena.world import World, digest, make_plan, sparse_plan
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum.rules import RULES
from secagg_protocols.paillier_sum.rules import RULES as PAILLIER_RULES
from secagg_protocols.registers import (
    inputs_register,
    ledger_register,
    models_register,
    released_register,
)
from secagg_protocols.rules import Rule
from secagg_protocols.shared_rules import HUB_RULES, PARTY_RULES, SITE_RULES
from secagg_protocols.site import SiteParty

ROOT = Path(__file__).parents[2] / "protocols"
FOLDER = ROOT / "vectors" / "masked_sum"


def outcome(events: list[Any]) -> dict[str, Any]:
    """What a call brought: frames to send, and rules that refused."""
    sent = [[e.to, e.data.hex()] for e in events if isinstance(e, secagg.Send)]
    refused = [
        [type(e).__name__, type(e.error).__name__, e.error.rule]
        for e in events
        if isinstance(e, secagg.Ignored | secagg.Dropped)
    ]
    found: dict[str, Any] = {"send": sent, "refused": refused}
    for event in events:
        if isinstance(event, secagg.Done):
            found["digest"] = event.digest.hex()
    return found


def recording(kind: type[Any], log: list[dict[str, Any]]) -> type[Any]:
    """A party that writes down what is done to it."""

    def wrap(name: str) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            entry: dict[str, Any] = {"op": name}
            if name == "receive":
                entry |= {"frame": bytes(args[0]).hex(), "sender": kwargs.get("sender")}
            if name == "submit":
                entry |= {"vector": args[0].tolist(), "weight": (*args, 1)[1]}
            log.append(entry)
            try:
                events = getattr(kind, name)(self, *args, **kwargs)
            except secagg.SecAggError as error:
                entry["raises"] = [type(error).__name__, error.rule]
                raise
            entry["brings"] = outcome(events)
            return events

        return call

    names = ["start", "receive"]
    names += [name for name in ("close_step", "submit") if hasattr(kind, name)]
    return type(f"Recorded{kind.__name__}", (kind,), {name: wrap(name) for name in names})


def registers(party: Any) -> dict[str, str]:
    """What earlier rounds left in a site's journal, by name of the register."""
    if not isinstance(party, SiteParty):
        return {}
    names = (
        ledger_register(party.name, party.data),
        released_register(party.name, party.data),
        models_register(party.name, party.data),
        inputs_register(party.name, party.data, party.contexts.model_hash or b""),
    )
    found = {name.hex(): party.journal.read(name).hex() for name in names}
    return {name: value for name, value in found.items() if value}


def header(plan: secagg.Plan, name: str, round: int = 0) -> dict[str, Any]:
    """What a party is built from; all of it is test material, none of it a secret."""
    return {
        "plan": secagg.dump_plan(plan),
        "party": name,
        "identity_seed": digest("identity", name).hex(),
        "session": "a test",
        "round": round,
        "model": b"model".hex(),
        "entropy": digest("seed", name, round).hex(),
    }


def good() -> Iterator[tuple[str, dict[str, Any]]]:
    """Whole rounds, every party's script in one file."""
    plans = {
        "malicious": make_plan(),
        "semi-honest": make_plan(threat="semi-honest", max_weight=3),
        "sparse": sparse_plan(),
        "real": make_plan(stages=(secagg.ClipL2(100.0), secagg.Quantise(50, "nearest"))),
        "64-bit": make_plan(5, bits=64),
        "fixed-data": make_plan(fixed_data=True, max_inputs_per_model=1),
    }
    for title, plan in plans.items():
        for step in range(6):
            gone = {step: [plan.roster.names[-1]]} if step else {}
            if step == secagg.Step.CONSENT and not plan.signed:
                continue
            logs: dict[str, list[dict[str, Any]]] = {
                name: [] for name in ("server", *plan.roster.names)
            }
            classes = {
                name: recording(Server if name == "server" else Client, log)
                for name, log in logs.items()
            }
            world = World(plan, classes=classes)
            if not isinstance(plan.stages[0], secagg.Integers):
                world.vectors = {n: v.astype(float) for n, v in world.vectors.items()}
            world.run(gone)
            assert world.result is not None
            yield (
                f"{title}-drop-{step}",
                {
                    "parties": [header(plan, n) | {"script": log} for n, log in logs.items()],
                    "sum": world.result.sum.tolist(),
                    "weight": world.result.weight,
                    "survivors": list(world.result.survivors),
                    "digest": world.result.digest.hex(),
                    "transcript": world.result.transcript.hex(),
                },
            )


def bad() -> Iterator[tuple[str, dict[str, Any]]]:
    """One file per rule that a message can break: the script up to the refusal."""
    for (party, rule), play in sorted(SCENARIOS.items()):
        kind = Server if party == "server" else Client
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
        named = rule in str(refused)
        if answers[:1] == [rule] and named and len(built) == 1:
            victim, left = built[0]
            about = header(victim.plan, victim.name, victim.round) | (
                {"registers": left} if left else {}
            )
            yield f"{party}-{rule}", about | {"rule": rule, "script": log}


def rule_page() -> str:
    """The rule tables as a page."""
    lines = [
        "# Rules of the sums",
        "",
        "Made from `shared_rules.py`, `masked_sum/rules.py` and `paillier_sum/rules.py` by",
        "`make vectors`; do not edit. Each rule is one method, `_check_<id>`, called from one",
        "place of a protocol. *Also* names rules that would still stop the negative vector with",
        "this one switched off; `structure` means that the attack would find no key to use.",
    ]
    shared = {*PARTY_RULES, *SITE_RULES, *HUB_RULES}
    tables: list[tuple[str, Iterable[Rule]]] = [
        ("Plan", (rule for rule in RULES if rule.party == "plan")),
        ("Plan of a Paillier sum", (rule for rule in PAILLIER_RULES if rule.party == "plan")),
        ("Every party", PARTY_RULES),
        ("Every site", SITE_RULES),
        ("Every server", HUB_RULES),
    ]
    for title, rules in (("masked", RULES), ("Paillier", PAILLIER_RULES)):
        for party, name in (("client", "Site"), ("server", "Server"), ("holder", "Holder")):
            own = [rule for rule in rules if rule.party == party and rule not in shared]
            if own:
                tables.append((f"{name} of a {title} sum", own))
    for title, rows in tables:
        lines += ["", f"## {title}", ""]
        lines += ["| id | step | what must hold | error | stops | also |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for rule in rows:
            also = ", ".join(f"`{a}`" for a in rule.also)
            checks, attack = (t.replace("|", "\\|") for t in (rule.checks, rule.attack))
            lines.append(
                f"| `{rule.id}` | {rule.step} | {checks} | {rule.error} | {attack} | {also} |"
            )
    return "\n".join(lines) + "\n"


def write() -> int:
    """Write all files; returns how many vectors there are."""
    count = 0
    for folder, vectors in (("good", good()), ("bad", bad())):
        target = FOLDER / folder
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.json"):
            old.unlink()
        for name, vector in vectors:
            (target / f"{name}.json").write_text(json.dumps(vector, separators=(",", ":")) + "\n")
            count += 1
    (ROOT / "specs").mkdir(exist_ok=True)
    (ROOT / "specs" / "rules.md").write_text(rule_page())
    return count


if __name__ == "__main__":
    from support import make_paillier_vectors

    print(f"{write()} and {make_paillier_vectors.write()} vectors, rules.md")
