"""A world of parties with known identities and seeds, and ways to tamper with their messages.

It plays any party of a masked sum: frames are taken apart, changed and sealed again under the key
of the party that is played. Everything is derived from names, so transcripts repeat, and nothing
here is secret: never use these identities for anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import secagg
from secagg_protocols import wire
from secagg_protocols.masked_sum import Client, Server, messages
from secagg_protocols.party import Party

SESSION, MODEL = "a test", b"model"
STAGES = (secagg.Integers(0, 1000),)


def digest(*parts: object) -> bytes:
    """32 bytes that follow from the parts."""
    return hashlib.sha256(repr(parts).encode()).digest()


def people(n: int) -> tuple[secagg.Roster, dict[str, secagg.Identity]]:
    """A roster of sites s0, s1, ... with identities that follow from their names."""
    names = [f"s{i}" for i in range(n)]
    identities = {x: secagg.Identity(x, digest("identity", x)) for x in [*names, "server"]}
    roster = secagg.Roster(
        sites=tuple((name, identities[name].public) for name in names),
        server=identities["server"].public,
    )
    return roster, identities


def make_plan(n: int = 7, *, kind: Any = secagg.Plan, **changes: Any) -> secagg.Plan:
    """A malicious-server plan for ``n`` sites, one of them colluding, one dropout.

    kind: the class of the plan, for a control. changes: fields that differ.
    """
    fields: dict[str, Any] = {
        "roster": people(n)[0],
        "length": 5,
        "stages": STAGES,
        "protocol": secagg.MaskedSum(share_threshold=(n + 1) // 2 + 1, neighbours=n - 1),
        "threat": "malicious-server",
        "colluding": 1,
        "max_dropouts": 1,
        "min_honest": 2,
        "sites_receive": True,
        "suite": secagg.SUITE,
        "security_bits": 40,
    }
    made: secagg.Plan = kind(**(fields | changes))
    return made


def sparse_plan() -> secagg.Plan:
    """Twelve sites with six neighbours each: the graph cannot split under four dropouts."""
    return make_plan(
        12,
        protocol=secagg.MaskedSum(share_threshold=5, neighbours=6),
        threat="semi-honest",
        colluding=0,
        max_dropouts=4,
        sites_receive=False,
    )


#: (kind number, sender, recipient, frame) -> frames to deliver instead.
Edit = Callable[[int, str, str, bytes], "list[bytes] | None"]


class World:
    """All parties of one round, run step by step with every message in reach."""

    def __init__(
        self,
        plan: secagg.Plan,
        *,
        classes: Mapping[str, type[Any]] | None = None,
        edit: Edit | None = None,
        floors: Mapping[str, secagg.Floors] | None = None,
        journals: dict[str, Any] | None = None,
        round: int = 0,
        model: bytes = MODEL,
        session: str = SESSION,
        identities: Mapping[str, secagg.Identity] | None = None,
        data: str = "",
    ) -> None:
        self.plan = plan
        self.identities = people(plan.clients)[1] | dict(identities or {})
        self.edit = edit
        self.round = round
        classes = classes or {}
        self.journals = journals if journals is not None else {}
        self.parties: dict[str, Any] = {}
        for name in ["server", *plan.roster.names]:
            journal = self.journals.setdefault(name, secagg.MemoryJournal())
            common: dict[str, Any] = {
                "identity": self.identities[name],
                "session": session,
                "round": round,
                "model": model,
                "journal": journal,
                "entropy": lambda size, name=name: digest("seed", name, round)[:size],
            }
            if name == "server":
                self.parties[name] = classes.get(name, Server)(plan, **common)
            else:
                kind = classes.get(name, Client)
                index = plan.roster.index(name)
                self.parties[name] = kind(
                    plan, index, floors=(floors or {}).get(name), data=data, **common
                )
        self.vectors = {
            name: np.resize(np.frombuffer(digest("x", name), dtype=np.uint8), plan.length).astype(
                np.int64
            )
            for name in plan.roster.names
        }
        #: What each party's ``receive`` brought back or raised, in order.
        self.log: list[tuple[str, int, Any]] = []
        self.frames: list[tuple[int, str, str, bytes]] = []
        self.result: secagg.Aggregate | None = None

    @property
    def server(self) -> Any:
        """The party that collects."""
        return self.parties["server"]

    def reseal(
        self,
        frame: bytes,
        *,
        header: Any = None,
        raw: bytes | None = None,
        tail: bytes | None = None,
        sender: str | None = None,
        recipient: str | None = None,
    ) -> bytes:
        """The frame with another header, tail, sender or recipient, validly sealed."""
        any_party: Party = self.server
        parts = wire.split_frame(frame, trailer_size=any_party._trailer_size)
        kind = messages.KINDS[parts.kind]
        encoded = bytes(parts.header) if raw is None else raw
        if header is not None:
            encoded = wire.encode_header(header)
        body = bytes(parts.tail) if tail is None else tail
        from_, to = parts.sender, parts.recipient
        if sender is not None:
            from_ = self.index(sender)
        if recipient is not None:
            to = self.index(recipient)
        buffer, view = wire.start_frame(
            parts.kind, from_, to, encoded, len(body), any_party._trailer_size
        )
        view[:] = body
        view.release()
        context = any_party._context(kind)
        sealed = wire.frame_digest(context, parts.kind, from_, to, encoded, body)
        if self.plan.signed:
            sealed = self.identities[self.name(from_)].sign(sealed)
        buffer[-len(sealed) :] = sealed
        return bytes(buffer)

    def parts(self, frame: bytes) -> tuple[Any, bytes]:
        """(header, tail) of a frame."""
        found = wire.split_frame(frame, trailer_size=self.server._trailer_size)
        kind = messages.KINDS[found.kind]
        return wire.decode_header(kind.header, found.header), bytes(found.tail)

    def index(self, name: str) -> int:
        """A party's index on the wire."""
        return wire.SERVER if name == "server" else self.plan.roster.index(name)

    def name(self, index: int) -> str:
        """The party of an index on the wire."""
        return "server" if index == wire.SERVER else self.plan.roster.names[index]

    def bitmap(self, *sites: int) -> bytes:
        """A set of sites as it travels."""
        return wire.to_bitmap(sites, self.plan.clients)

    def deliver(self, frame: bytes, sender: str, recipient: str) -> list[Any]:
        """Deliver one frame (or what the edit makes of it); errors are logged, not raised."""
        kind = frame[3]
        self.frames.append((kind, sender, recipient, frame))
        edited = self.edit(kind, sender, recipient, frame) if self.edit else None
        out: list[Any] = []
        for data in [frame] if edited is None else edited:
            try:
                events = self.parties[recipient].receive(data, sender=sender)
            except secagg.SecAggError as error:
                self.log.append((recipient, kind, error))
                continue
            for event in events:
                fault = getattr(event, "error", None)
                self.log.append((recipient, kind, event if fault is None else fault))
            out += events
        return out

    def run(self, drop: Mapping[int, list[str]] | None = None) -> World:
        """Run to the end; ``drop`` maps a step to the sites that fall silent before it."""
        drop = drop or {}
        silent: set[str] = set()
        for step in secagg.Step:
            silent |= set(drop.get(int(step), ()))
            if step == secagg.Step.ADVERTISE:
                self.server.start()
                pending = [(n, self.parties[n].start()) for n in self.plan.roster.names]
                for name in self.plan.roster.names:
                    self.parties[name].submit(self.vectors[name])
            if step == secagg.Step.CONSENT and not self.plan.signed:
                continue
            for name, events in pending:
                for event in events:
                    if isinstance(event, secagg.Send) and name not in silent:
                        self.deliver(event.data, name, "server")
            pending = []
            for event in self.server.close_step():
                if isinstance(event, secagg.Done):
                    self.result = event.aggregate
                if isinstance(event, secagg.Send):
                    pending.append((event.to, self.deliver(event.data, "server", event.to)))
        return self

    def errors(self, party: str, kind: int | None = None) -> list[Any]:
        """Errors that ``party`` met, in messages of ``kind`` or all."""
        return [
            what
            for name, number, what in self.log
            if name == party and kind in {None, number} and isinstance(what, secagg.SecAggError)
        ]

    @property
    def announced(self) -> tuple[str, ...]:
        """The survivors of the finished round. ``MisuseError`` before there is a result."""
        if self.result is None:
            raise secagg.MisuseError("this round has no result", rule="arguments")
        return self.result.survivors

    def expected(self) -> list[int]:
        """The exact sum over the announced survivors, in plain integers."""
        columns = zip(*(self.vectors[n].tolist() for n in self.announced), strict=True)
        return [sum(column) for column in columns]
