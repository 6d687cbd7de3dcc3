"""No command prints a secret: what a whole round over files and the other commands print is
searched for every seed and key, raw, in hexadecimal and in base64."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cli.test_party import SITES, Round, finish
from robustness.leaks import search
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app
from secagg_protocols.dumps import read_dump
from secagg_protocols.masked_sum.masks import SiteSecrets
from secagg_protocols.party import Contexts


def round_secrets(rnd: Round, name: str) -> dict[str, bytes]:
    """Seeds of a site, taken from its sealed state in the middle of a round."""
    identity = rnd.identities[name]
    record = msgspec.msgpack.decode(secagg.unseal((rnd.dir(name) / "state").read_bytes(), identity))
    (dump,) = [v for v in record.values() if isinstance(v, bytes) and v.startswith(b"secagg dump")]
    state = read_dump(dump, rnd.plan)
    contexts = Contexts(rnd.plan, state["session"], state["round"])
    own = SiteSecrets.derive(state["state"]["seed"], contexts.setup)
    return {
        f"{name} {label}": getattr(own, label)
        for label in ("seed", "mask_seed", "channel_seed", "self_seed")
    }


def test_commands_print_no_secret(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: dict[str, bytes] = {}
    invoke = CliRunner.invoke

    def listening(self: Any, *args: Any, **options: Any) -> Any:
        result = invoke(self, *args, **options)
        printed[f"output {len(printed)}"] = result.output.encode() + result.stderr.encode()
        return result

    monkeypatch.setattr(CliRunner, "invoke", listening)
    rnd = Round(tmp_path)
    rnd.to_inputs()
    secrets = {f"identity {n}": bytes(i._key) for n, i in rnd.identities.items()}
    for name in SITES:
        secrets |= round_secrets(rnd, name)
        rnd.do("status", name, json_=False)
    tampered = tmp_path / "bad.msg"
    tampered.write_bytes(b"SA" + bytes(200))
    rnd.do("receive", SITES[0], tampered, json_=False)
    finish(rnd)
    runner = CliRunner()
    made = tmp_path / "new.key"
    for arguments in (
        ["keygen", "north", "--out", str(made)],
        ["keygen", "north", "--out", str(made)],
        ["info"],
        ["plan", "--from", str(tmp_path / "plan.toml"), "--json"],
        ["roster", "show", str(rnd.key(SITES[0]))],
        ["party", "status", str(rnd.dir(SITES[0])), "--identity", str(rnd.key(SITES[2]))],
    ):
        runner.invoke(app, arguments)
    secrets["new identity"] = bytes(secagg.Identity.load(made)._key)
    for path in tmp_path.rglob("*"):
        if path.suffix in {".msg", ".json", ".toml", ".pub", ".npz"}:
            printed[path.name] = path.read_bytes()
    assert len(printed) > 40
    assert len(secrets) > 20
    assert search(printed, secrets) == []
    # The search finds what it looks for: the same secrets, planted in one more output.
    leak = json.dumps({"debug": secrets["a seed"].hex()}).encode()
    assert search(printed | {"planted": leak}, secrets)
