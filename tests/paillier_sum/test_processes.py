"""Parties of a Paillier sum in processes of their own, which share nothing but messages."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.paillier_world import make_plan, people, shares_of
from secagg_protocols.paillier import KeyShare
from secagg_protocols.paillier_sum import messages
from secagg_protocols.plan_file import dump_plan

SCRIPT = Path(__file__).with_name("paillier_process.py")
_SPEC = importlib.util.spec_from_file_location("paillier_process", SCRIPT)
assert _SPEC is not None
assert _SPEC.loader is not None
pipes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pipes)


class Parties:
    """One process for each party, and the messages between them."""

    def __init__(self, folder: Path, plan: secagg.Plan) -> None:
        self.folder, self.plan = folder, plan
        self.sites, self.holders = plan.roster.names, [name for name, _ in plan.roster.holders]
        identities, shares = people(plan.clients, len(self.holders))[1], shares_of(plan)
        self.vectors = {
            name: np.random.default_rng(i).integers(0, 1001, plan.length)
            for i, name in enumerate(self.sites)
        }
        for name in ("server", *self.sites, *self.holders):
            own = folder / name
            own.mkdir()
            (own / "plan.toml").write_text(dump_plan(plan))
            identities[name].save(own / "identity")
            if name in self.vectors:
                np.save(own / "x.npy", self.vectors[name])
            share = shares.get(name)
            if isinstance(share, KeyShare):
                (own / "share").write_bytes(secagg.seal(share.to_bytes(), identities[name]))
        self.notes: list[tuple[str, str]] = []
        self.results: dict[str, Any] = {}
        self.mother = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        self.started = 0
        self.processes: dict[str, tuple[int, BinaryIO, BinaryIO]] = {}
        for name in ("server", *self.sites, *self.holders):
            self.begin(name)

    def tell_mother(self, request: dict[str, Any]) -> Any:
        pipes.write(self.mother.stdin, request)
        return pipes.read(self.mother.stdout)

    def begin(self, name: str) -> None:
        """Start a process for a party, with what it finds in its folder."""
        self.started += 1
        ways = [self.folder / f"{self.started}.{way}" for way in ("commands", "replies")]
        for way in ways:
            os.mkfifo(way)
        request = {"name": name, "commands": str(ways[0]), "replies": str(ways[1])}
        child = self.tell_mother(request)
        # Each opening waits for the other side's; the child opens them in the same order.
        self.processes[name] = child, ways[0].open("wb"), ways[1].open("rb")

    def ask(self, name: str, command: dict[str, Any]) -> dict[str, Any]:
        _, commands, replies = self.processes[name]
        pipes.write(commands, command)
        reply: dict[str, Any] = pipes.read(replies)
        assert "error" not in reply, (name, command["do"], reply)
        return reply

    def call(self, name: str, silent: tuple[str, ...] = (), **command: Any) -> None:
        """Have a party do something, and deliver what it sends, and what that brings forth."""
        reply = self.ask(name, command)
        self.notes += [(name, rule) for rule in reply["notes"]]
        if reply["result"] is not None:
            self.results[name] = reply["result"]
        for to, data in reply["out"] if name not in silent else []:
            self.call(to, silent, do="receive", data=data, sender=name)

    def kill(self, name: str) -> None:
        """SIGKILL, without a word to the process."""
        child, commands, replies = self.processes.pop(name)
        assert self.tell_mother({"kill": child}) == signal.SIGKILL
        commands.close()
        replies.close()

    def restart(self, name: str) -> None:
        """Kill a party, and start a new process from what the old one stored."""
        self.kill(name)
        self.begin(name)

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.mother.communicate()
        assert self.mother.returncode == 0


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    found = Parties(tmp_path, make_plan(length=200))
    yield found
    found.end()


def test_a_round_over_processes_some_of_which_are_killed(parties: Parties) -> None:
    parties.call("server", do="start")
    for name in parties.sites[:3]:
        parties.call(name, do="start")
        parties.call(name, do="submit")
    # A site, the server and a holder are lost between the steps.
    for name in ("s0", "server", "h2"):
        parties.restart(name)
    # What the site sent is not known to it to have arrived: it submits again, and sends the same.
    (repeated,) = parties.ask("s0", {"do": "submit"})["out"]
    again = parties.ask("server", {"do": "receive", "data": repeated[1], "sender": "s0"})
    parties.notes += [("server", rule) for rule in again["notes"]]
    assert parties.notes == [("server", "step-order")]
    # The server cannot know whether it passed that on before it died, so it does so again.
    assert [to for to, _ in again["out"]] == parties.holders
    parties.call("server", silent=("h0",), do="close_step")
    parties.restart("server")
    parties.call("server", do="close_step")
    sums, digest = parties.results["server"]
    columns = zip(*(parties.vectors[name].tolist() for name in parties.sites[:3]), strict=True)
    assert sums == [sum(column) for column in columns]
    # The sites of the sum hold the same; a holder holds the digest of its own answer.
    assert all(parties.results[name] == [sums, digest] for name in parties.sites[:3])
    assert "s3" not in parties.results
    assert all(parties.results[name][0] is None for name in parties.holders)
    assert messages.layout_of(parties.plan).rows == 2
