"""One party in a process of its own: commands come in on a pipe, replies go out on another.

Started as a script, this is the mother of such processes: it has imported everything and forks
one child per request, because a fresh interpreter for each of a thousand restarts would take
minutes. It never holds a party itself, and it is the one that kills, because only a parent knows
that a process id is still that of its child.

What a careful caller does with a party stands in ``Worker.obey``: take a message, store the
sealed dump together with what is to be sent, and only then send. The controller can ask the
process to stop dead between any two of these, and kills it there.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from robustness.rounds import (
    MODEL,
    SERVER,
    SESSION,
    entropy_of,
    setup,
    vector_of,
    weight_of,
)

import secagg
from secagg import Done, Dropped, FileJournal, Ignored, Send


def write(pipe: BinaryIO, value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    pipe.write(struct.pack("<I", len(data)) + data)
    pipe.flush()


def read(pipe: BinaryIO) -> Any:
    head = pipe.read(4)
    if len(head) < 4:
        raise EOFError
    return msgspec.msgpack.decode(pipe.read(struct.unpack("<I", head)[0]))


class Worker:
    """One party, its journal and its stored state in one folder."""

    def __init__(self) -> None:
        self.party: Any = None
        self.last = 0
        self.out: list[Any] = []
        self.result: Any = None

    def open(self, folder: str, name: str, plan: list[Any]) -> dict[str, Any]:
        self.folder, self.name = Path(folder), name
        self.folder.mkdir(exist_ok=True)
        self.plan, identities = setup(*plan)
        self.identity = identities[name]
        journal = FileJournal(self.folder / "journal")
        identity = self.identity if self.plan.signed else None
        self.last, self.out, self.result = 0, [], None
        try:
            sealed = (self.folder / "state").read_bytes()
        except FileNotFoundError:
            common: dict[str, Any] = {
                "identity": identity,
                "session": SESSION,
                "round": 0,
                "model": MODEL,
                "journal": journal,
                "_entropy": entropy_of(name),
            }
            if name == SERVER:
                self.party = secagg.server(self.plan, **common)
            else:
                self.party = secagg.client(self.plan, name, floors=None, **common)
        else:
            stored = msgspec.msgpack.decode(secagg.unseal(sealed, self.identity))
            self.last, self.out, self.result = stored["last"], stored["out"], stored["result"]
            self.party = secagg.load(stored["dump"], self.plan, identity, journal)
            # A vector is never dumped, so it is submitted again; the answer is one that was
            # claimed before or goes out now.
            self.out += self.note(self.submit())
        return {"out": self.out, "result": self.result}

    def submit(self) -> list[Any]:
        if self.name == SERVER:
            return []
        try:
            vector, weight = vector_of(self.plan, self.name), weight_of(self.plan, self.name)
            return list(self.party.submit(vector, weight))
        except secagg.MisuseError as error:
            if error.rule not in {"input-once", "ended"}:
                raise
            return []

    def note(self, events: list[Any]) -> list[Any]:
        out = []
        for event in events:
            if isinstance(event, Send):
                out.append([event.to, event.data])
            if isinstance(event, Done) and event.aggregate is not None:
                found = event.aggregate
                self.result = {
                    "sum": found.sum.tolist(),
                    "survivors": list(found.survivors),
                    "transcript": found.transcript,
                    "digest": found.digest,
                }
        return out

    def save(self) -> None:
        """Replace the stored state in one step, on disk before anything is sent."""
        state = {
            "dump": self.party.dump(),
            "out": self.out,
            "last": self.last,
            "result": self.result,
        }
        target, fresh = self.folder / "state", self.folder / "state.new"
        with fresh.open("wb") as file:
            file.write(secagg.seal(msgspec.msgpack.encode(state), self.identity))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(target)

    def obey(self, command: dict[str, Any], stop: Any) -> dict[str, Any]:
        if command["do"] != "receive" and command["number"] <= self.last:
            # Start and close are the caller's own, so the caller knows that it did them.
            return {"out": self.out, "result": self.result}
        if command["do"] == "start":
            events = self.party.start() + self.submit()
        elif command["do"] == "close":
            events = self.party.close_step()
        else:
            events = self.party.receive(command["data"], sender=command["sender"])
        self.out = self.note(events)
        stop("claimed")
        self.last = command["number"]
        self.save()
        stop("saved")
        notes = [e.error.rule for e in events if isinstance(e, (Ignored, Dropped))]
        return {"out": self.out, "result": self.result, "notes": notes}


def serve(commands: BinaryIO, replies: BinaryIO) -> None:
    """Obey until the other side is gone."""
    worker = Worker()
    while True:
        try:
            command = read(commands)
        except EOFError:
            return

        def stop(point: str, wanted: str | None = command.get("stop")) -> None:
            if point == wanted:
                write(replies, {"stopped": point})
                time.sleep(3600)

        try:
            if command["do"] == "open":
                reply = worker.open(command["folder"], command["name"], command["plan"])
            else:
                reply = worker.obey(command, stop)
        except secagg.SecAggError as error:
            reply = {"error": type(error).__name__, "rule": error.rule}
        write(replies, reply)


def mother() -> None:
    """Fork a child per pair of named pipes, and kill children by their ids."""
    while True:
        try:
            request = read(sys.stdin.buffer)
        except EOFError:
            return
        if "kill" in request:
            os.kill(request["kill"], signal.SIGKILL)
            _, status = os.waitpid(request["kill"], 0)
            write(sys.stdout.buffer, {"signal": os.WTERMSIG(status)})
            continue
        child = os.fork()
        if child == 0:
            commands, replies = Path(request["commands"]), Path(request["replies"])
            with commands.open("rb") as incoming, replies.open("wb") as outgoing:
                serve(incoming, outgoing)
            os._exit(0)
        write(sys.stdout.buffer, {"child": child})


if __name__ == "__main__":
    mother()
