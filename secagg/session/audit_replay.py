"""Replay: what a server must have said, given what its transcript says that it received.

The recorded messages of the sites go, in their order, through a real server of the masked sum
that has no key; each step is closed where the recorded server sent its next messages, and what
the two said is compared digest by digest. A difference convicts nobody: the transcript is its
recorder's word, and one message left out of it or put into it changes what follows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from secagg_protocols.errors import PeerError, SecAggError, ThresholdError
from secagg_protocols.events import Aggregate, Done, Dropped, Step
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.kinds import Kind
from secagg_protocols.masked_sum import Server
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.plan import Plan
from secagg_protocols.result import Result, ring_size
from secagg_protocols.wire import Frame, Header, bitmap_size, from_bitmap

from .audit_rules import Signed, Stated
from .transcript import Outcome

#: The largest accumulator that a replay makes.
_MOST_BYTES: Final = 1 << 31

#: Kind of the sites' messages on which each announcement rests.
_SENT: Final = {
    inner.ADVERTS.number: inner.ADVERT.number,
    inner.SHARES_FOR.number: inner.SHARES.number,
    inner.SURVIVORS.number: inner.INPUT.number,
}


class KeylessServer(Server):
    """A server that computes what it would say and cannot sign it."""

    def __init__(self, plan: Plan, **common: Any) -> None:
        #: (kind, recipient) -> header and digest of each message said.
        self.said: dict[tuple[int, int], tuple[Header, bytes]] = {}
        self._stated_digest: bytes | None = None
        super().__init__(plan, identity=None, model=None, journal=MemoryJournal(), **common)

    def _check_identity(self) -> None:
        """Nothing to check: what this server says goes nowhere."""

    def _around(
        self, kind: Kind, recipient: int, header: Header, tail_hash: bytes
    ) -> tuple[bytes, bytes, bytes]:
        head, trailer, digest = super()._around(kind, recipient, header, tail_hash)
        self.said[kind.number, recipient] = header, digest
        return head, trailer, digest

    def _check_trailer(self, frame: Frame, digest: bytes) -> None:
        if self._stated_digest is None:
            super()._check_trailer(frame, digest)

    def _authenticate(self, data: Any, sender: str | None) -> tuple[Frame, bytes]:
        frame, digest = super()._authenticate(data, sender)
        return frame, self._stated_digest or digest

    def receive_without_tail(self, frame: Signed, *, sender: str) -> list[Any]:
        """Take a masked input of which only the hash is known, with zeros in its place."""
        self._stated_digest = frame.digest
        try:
            zeros = bytes(ring_size(self.plan))
            return self.receive(frame.head + zeros + frame.trailer, sender=sender)
        finally:
            self._stated_digest = None

    def set_model(self, stated: Stated) -> None:
        """Set the model by its hash."""
        self.contexts.model_hash, self.contexts.parameters = stated


class Replay:
    """One round of a server's transcript, as a key-less server lives through it.

    differences: what does not follow, in words; empty where all that was compared agrees.
    """

    def __init__(self, plan: Plan, session: bytes, round: int) -> None:
        self.plan, self.round = plan, round
        self.differences: list[str] = []
        self.compared = 0
        self.aggregate: Aggregate | None = None
        self.dropped: dict[str, str] = {}
        self.hashed = False
        self.failed = False
        self.only_prepared = False
        self.unreplayed = self._obstacle()
        self._heard: dict[tuple[int, str], str] = {}
        if not self.unreplayed:
            self._server = KeylessServer(plan, session=session, round=round)
            self._server.start()

    def _obstacle(self) -> str:
        if not self.plan.complete:
            return "the graph of a sparse plan is not recorded"
        if self.plan.ring_length * self.plan.lane.itemsize > _MOST_BYTES:
            return "the vectors are too long"
        return ""

    @property
    def running(self) -> bool:
        """Whether a server is kept for this round."""
        return not self.unreplayed and not self.failed and self._server.step is not None

    @property
    def status(self) -> str:
        """How the round stands, for people."""
        if self.unreplayed:
            return f"not replayed: {self.unreplayed}"
        if self.differences:
            return "contradicted"
        if self.aggregate is not None:
            return "confirmed"
        if self.hashed:
            return "confirmed but for the sum: inputs were recorded by hash"
        return "confirmed, without a result" if self.compared else "nothing to compare"

    def stop(self, reason: str = "it did not end") -> None:
        """Let the server go: nothing more will come of this round."""
        self.unreplayed = reason

    # What the transcript says, in its order.

    def model(self, stated: Stated) -> None:
        """The server learned the model here."""
        if not self.unreplayed and not self._server.contexts.model_hash:
            self._server.set_model(stated)

    def received(self, frame: Signed, sender: str) -> None:
        """The server received this."""
        if self.unreplayed or self.failed:
            return
        self._heard.setdefault((frame.kind.number, sender), frame.where)
        if frame.tail is not None:
            data = frame.head + frame.tail + frame.trailer
            events = self._server.receive(data, sender=sender)
        elif frame.kind is inner.INPUT and frame.tail_size == ring_size(self.plan):
            self.hashed = True
            events = self._server.receive_without_tail(frame, sender=sender)
        else:
            self.unreplayed = f"the tail of {frame.where} is not recorded"
            return
        for event in events:
            if isinstance(event, Dropped):
                self.dropped[event.site] = event.error.rule

    def sent(self, frame: Signed, name: str) -> None:
        """The server sent this, so it had closed the step before."""
        if self.unreplayed or self.failed:
            return
        if frame.kind is inner.RESULT and self.hashed:
            # The sum needs the inputs themselves.
            return
        self._leave_out(frame)
        try:
            self._close_until(frame.kind)
        except SecAggError as error:
            self.failed = True
            have = f"; {error.have} of {error.need}" if isinstance(error, ThresholdError) else ""
            self.differences.append(
                f"{frame.name} to {name} was sent, but what was received until then "
                f"ends in {error.rule}{have}"
            )
            return
        self.compared += 1
        found = self._server.said.get((frame.kind.number, frame.recipient))
        if found is None:
            self.differences.append(f"{frame.name} to {name} was sent to a site that had left")
        elif found[1] != frame.digest:
            self.differences.append(self._difference(frame, name, found[0]))
        # After the first difference, everything else only follows from it.
        self.failed = bool(self.differences)

    def _leave_out(self, frame: Signed) -> None:
        """Over fixed data, a server leaves out sites that an earlier sum was without; which those
        are is in its journal, and not in a transcript of a later session."""
        header, server = frame.header, self._server
        if not self.plan.fixed_data or not isinstance(header, inner.Adverts):
            return
        if server.step == Step.ADVERTISE and len(header.present) == bitmap_size(self.plan.clients):
            listed = {*from_bitmap(header.present, self.plan.clients), frame.recipient}
            for site in set(server.advertised) - listed:
                error = PeerError("left out", rule="left-out", sender=self.plan.roster.names[site])
                server.exclude(site, error)

    def settle(self, kind: Kind) -> None:
        """The server closed the step of ``kind`` here and sent what came of it later."""
        if not self.running or (kind is inner.RESULT and self.hashed):
            return
        try:
            self._close_until(kind)
        except SecAggError as error:
            self.stop(f"it ends in {error.rule}")
            self.only_prepared = not self.compared

    def exclude(self, site: str) -> None:
        """The server ended this site for what it did elsewhere in the session."""
        if self.running and self._server.step is not None:
            error = PeerError("ended elsewhere", rule="step-order", sender=site)
            self._server.exclude(self.plan.roster.index(site), error)

    def outcome(self, outcome: Outcome) -> list[str]:
        """How the server's own lists differ from what follows."""
        found = self.aggregate
        if found is None:
            return []
        wanted = {
            "survivors": (tuple(outcome.survivors), found.survivors),
            "sites that dropped out": (outcome.dropped, dict(found.dropped)),
            "sites that left later": (outcome.left, dict(found.left)),
            "suspects": (tuple(outcome.suspects), found.suspects),
            "digest of the sum": (outcome.digest.hex(), found.digest.hex()),
            "chain of messages": (outcome.transcript.hex(), found.transcript.hex()),
        }
        return [
            f"{what}: the server says {_text(said)}, its messages give {_text(follows)}"
            for what, (said, follows) in wanted.items()
            if said != follows
        ]

    # The server that lives through it.

    def _close_until(self, kind: Kind) -> None:
        server = self._server
        while server.step is not None and server.step <= kind.step:
            for event in server.close_step():
                if isinstance(event, Done) and event.aggregate is not None:
                    # Lists and digests are compared; the sum itself is of no use here.
                    self.aggregate = replace(event.aggregate, sum=np.zeros(0))

    def _difference(self, frame: Signed, name: str, follows: Header) -> str:
        text = f"{frame.name} to {name} is not what follows from what was received"
        sums = [h.digest for h in (frame.header, follows) if isinstance(h, Result)]
        if len(set(sums)) > 1:
            return f"{text}: it states another sum"
        said, due = (getattr(h, "present", None) for h in (frame.header, follows))
        if said is None or due is None or said == due:
            return text
        names = self.plan.roster.names
        parts = []
        for site, site_name in enumerate(names):
            told, right = (bool(b[site // 8] >> site % 8 & 1) for b in (said, due))
            if right and not told:
                at = self._heard.get((_SENT[frame.kind.number], site_name), "an earlier message")
                parts.append(f"{site_name} is left out although its message arrived ({at})")
            if told and not right:
                parts.append(f"{site_name} is listed without a valid message")
        return f"{text}: {', '.join(parts)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} ({v})" for k, v in sorted(value.items())) or "nobody"
    return (", ".join(value) or "nobody") if isinstance(value, tuple) else str(value)


__all__ = ["KeylessServer", "Replay"]
