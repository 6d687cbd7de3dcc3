"""One party of a Paillier sum in a process of its own, with nothing but the files in its folder.

It does what a careful caller does: store the sealed dump, and only then send. Commands come in on
a pipe, replies go out on another. As in ``robustness/party_process.py``, a mother that has
imported everything forks and kills such processes; it never holds a party itself.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

import secagg
from secagg_protocols.paillier import KeyShare
from secagg_protocols.plan_file import load_plan

SESSION, MODEL = "processes", b"model"


def write(pipe: BinaryIO, value: Any) -> None:
    """Send one message to the other end."""
    data = msgspec.msgpack.encode(value)
    pipe.write(struct.pack("<I", len(data)) + data)
    pipe.flush()


def read(pipe: BinaryIO) -> Any:
    """One message of the other end; :class:`EOFError` where there is none any more."""
    head = pipe.read(4)
    if len(head) < 4:
        raise EOFError
    return msgspec.msgpack.decode(pipe.read(struct.unpack("<I", head)[0]))


class Worker:
    """A party, made from its files or loaded from what it stored before."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        plan = load_plan((folder / "plan.toml").read_text())
        self.identity = secagg.Identity.load(folder / "identity")
        journal = secagg.FileJournal(folder / "journal")
        share = None
        if name in dict(plan.roster.holders):
            sealed = (folder / "share").read_bytes()
            share = KeyShare.from_bytes(secagg.unseal(sealed, self.identity))
        common: dict[str, Any] = {
            "identity": self.identity,
            "session": SESSION,
            "round": 0,
            "model": MODEL,
            "journal": journal,
        }
        self.party: Any
        if (folder / "dump").exists():
            dump = secagg.unseal((folder / "dump").read_bytes(), self.identity)
            self.party = secagg.load(dump, plan, self.identity, journal, share=share)
        elif name == "server":
            self.party = secagg.server(plan, **common)
        elif share is not None:
            self.party = secagg.holder(plan, name, share=share, floors=None, **common)
        else:
            self.party = secagg.client(plan, name, floors=None, **common)

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do one thing, store what came of it, and say what is to be sent."""
        if command["do"] == "receive":
            events = self.party.receive(command["data"], sender=command["sender"])
        elif command["do"] == "submit":
            events = self.party.submit(np.load(self.folder / "x.npy"))
        else:
            events = getattr(self.party, command["do"])()
        reply: dict[str, Any] = {"out": [], "notes": [], "result": None}
        for event in events:
            if isinstance(event, secagg.Send):
                reply["out"].append([event.to, event.data])
            if isinstance(event, secagg.Ignored | secagg.Dropped):
                reply["notes"].append(event.error.rule)
            if isinstance(event, secagg.Done):
                found = event.aggregate
                sums = None if found is None else found.sum.tolist()
                reply["result"] = [sums, event.digest]
        fresh = self.folder / "dump.new"
        fresh.write_bytes(secagg.seal(self.party.dump(), self.identity))
        fresh.rename(self.folder / "dump")
        return reply


def serve(folder: Path, name: str, commands: BinaryIO, replies: BinaryIO) -> None:
    """Obey until the other side is gone."""
    worker = Worker(folder, name)
    while True:
        try:
            command = read(commands)
        except EOFError:
            return
        try:
            reply = worker.obey(command)
        except secagg.SecAggError as error:
            reply = {"error": type(error).__name__, "rule": error.rule}
        write(replies, reply)


def mother(folder: Path) -> None:
    """Fork a party per pair of named pipes, and kill parties by their process ids."""
    # Checked once here, or each party would check the proof about the modulus on the first core.
    load_plan((folder / "server" / "plan.toml").read_text())
    while True:
        try:
            request = read(sys.stdin.buffer)
        except EOFError:
            return
        if "kill" in request:
            os.kill(request["kill"], signal.SIGKILL)
            _, status = os.waitpid(request["kill"], 0)
            write(sys.stdout.buffer, os.WTERMSIG(status))
            continue
        child = os.fork()
        if child == 0:
            commands, replies = Path(request["commands"]), Path(request["replies"])
            with commands.open("rb") as incoming, replies.open("wb") as outgoing:
                serve(folder / request["name"], request["name"], incoming, outgoing)
            os._exit(0)
        write(sys.stdout.buffer, child)


if __name__ == "__main__":
    mother(Path(sys.argv[1]))
