"""Parties in another process, spoken to over pipes, so that the one that is measured is alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from types import TracebackType
from typing import IO, Any, Final

import secagg

from . import child, works

#: Names of the sites of a hosted round.
SERVER: Final = "server"


def make_plan(clients: int, length: int, levels: int) -> secagg.Plan:
    """The plan of a hosted round. Its keys are not used, so that any process may make them."""
    roster, _ = secagg.Roster.generate(f"site-{i}" for i in range(clients))
    return secagg.Plan(
        roster=roster,
        length=length,
        stages=(secagg.ClipLinf(1.0), secagg.Quantise(levels)),
        protocol=secagg.MaskedSum(share_threshold=clients - 1, neighbours=clients - 1),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
        sites_receive=False,
        suite=secagg.SUITE,
        security_bits=40,
    )


def make_party(plan: secagg.Plan, name: str) -> Any:
    """One party of a hosted round: the server, or a site."""
    common: dict[str, Any] = {
        "identity": None,
        "session": "bench",
        "round": 0,
        "model": b"",
        "journal": secagg.MemoryJournal(),
    }
    if name == SERVER:
        return secagg.server(plan, **common)
    return secagg.client(plan, name, floors=None, **common)


class Host:
    """The parties ``names`` of a plan in a process of their own.

    Every method returns the messages that the party sends: (recipient, bytearray).
    """

    def __init__(self, plan: secagg.Plan, names: list[str]) -> None:
        arguments = {"plan": secagg.dump_plan(plan), "names": names}
        self._process = subprocess.Popen(
            child.command("host", arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes to the other process")
        self._to, self._from = self._process.stdin, self._process.stdout

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        # The other process answers once more when its pipe ends; a closed one would be an error.
        self._from.read()
        self._from.close()
        self._process.wait(60)

    def start(self, party: str) -> list[tuple[str, bytearray]]:
        """Start a party."""
        return self._ask({"do": "start", "party": party})

    def receive(self, party: str, sender: str, data: bytes | bytearray) -> list[Any]:
        """Give a party a message."""
        return self._ask({"do": "receive", "party": party, "sender": sender}, data)

    def submit(self, party: str) -> list[tuple[str, bytearray]]:
        """Let a site submit the vector that all hosted sites share."""
        return self._ask({"do": "submit", "party": party})

    def close_step(self) -> list[tuple[str, bytearray]]:
        """Let the server close its step."""
        return self._ask({"do": "close", "party": SERVER})

    def _ask(self, what: dict[str, Any], data: bytes | bytearray = b"") -> list[Any]:
        _write(self._to, {**what, "size": len(data)}, data)
        answer = _read_head(self._from)
        if answer is None:
            raise RuntimeError("the process with the other parties ended")
        return [(to, _read(self._from, size)) for to, size in answer["sent"]]


def serve(plan: str, names: list[str]) -> None:
    """Be the other process: answer until the pipe is closed."""
    agreed = secagg.load_plan(plan)
    parties = {name: make_party(agreed, name) for name in names}
    vector: Any = None
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while (what := _read_head(source)) is not None:
        party, data = parties[what["party"]], _read(source, what["size"])
        if what["do"] == "start":
            events = party.start()
        elif what["do"] == "receive":
            events = party.receive(data, sender=what["sender"])
        elif what["do"] == "close":
            events = party.close_step()
        else:
            if vector is None:
                vector = works.vector(agreed.length, 1.0)
            events = party.submit(vector)
        sent = [event for event in events if isinstance(event, secagg.Send)]
        _write(target, {"sent": [[event.to, len(event.data)] for event in sent]})
        for event in sent:
            target.write(event.data)
        target.flush()


def _write(pipe: IO[bytes], head: dict[str, Any], data: bytes | bytearray = b"") -> None:
    pipe.write(json.dumps(head).encode() + b"\n")
    pipe.write(data)
    pipe.flush()


def _read_head(pipe: IO[bytes]) -> dict[str, Any] | None:
    line = pipe.readline()
    head: dict[str, Any] | None = json.loads(line) if line else None
    return head


def _read(pipe: IO[bytes], size: int) -> bytearray:
    """``size`` bytes into one buffer: a message must not be in memory twice while it is read."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = pipe.readinto(view[filled:])  # type: ignore[attr-defined]  # buffered pipes have it
        if not count:
            raise RuntimeError("a message is cut")
        filled += count
    return data
