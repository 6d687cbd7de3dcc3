"""Plain sum: the same pipeline and frames without masks. An unprotected control.

For tests and the threat laboratory only: every attack must succeed here, or it measures
nothing. No public name of the package leads to it, and no plan can select it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from secagg_native import bitpack

from .errors import MisuseError, PeerError, ThresholdError
from .events import Aggregate, Done, Dropped, Event, Ignored, Progress, Send, Step, StepCost
from .journal import MemoryJournal
from .keys import SEED_SIZE, Identity, digest_of
from .kinds import Kind
from .lift import lift
from .masked_sum import messages
from .party import Party
from .plan import Plan
from .result import aggregate_digest, ring_size
from .roster import SERVER_NAME
from .wire import SERVER, Buffer, to_bitmap

KINDS: Final = {messages.INPUT.number: messages.INPUT}


class _PlainParty(Party):
    kinds = KINDS

    def _forget(self) -> None:
        """There are no secrets to drop."""

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)


class PlainClient(_PlainParty):
    """A site that sends its encoded vector as it is."""

    role = "client"

    def __init__(self, plan: Plan, site: str, **common: Any) -> None:
        super().__init__(plan, plan.roster.index(site), **common)
        self._sent = False

    def start(self) -> list[Event]:
        """Nothing to agree on."""
        return []

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """The server of a plain sum says nothing."""
        return [Ignored(PeerError("a plain sum has no replies", rule="step-order"))]

    def submit(self, x: Any, weight: int = 1) -> list[Event]:
        """Send the encoded vector."""
        if self._sent:
            raise MisuseError("this round has its input already", rule="input-once")
        plan = self.plan
        array, weight = plan.pipeline.check_input(x, weight)
        encoder = self.pipeline.begin(array, weight, lambda: self._entropy(SEED_SIZE))
        levels = np.empty(plan.ring_length, dtype=np.int64)
        encoder.tile(levels, 0)
        packed = bytearray(ring_size(plan))
        bitpack.pack(levels.astype(plan.lane), plan.wire_bits, packed)
        frame, _ = self._frame(messages.INPUT, SERVER, messages.Input(), packed)
        self._sent = True
        return [Send(SERVER_NAME, frame)]


class PlainServer(_PlainParty):
    """An aggregator that sees everything: ``inputs`` holds each site's integers."""

    role = "server"

    def __init__(self, plan: Plan, **common: Any) -> None:
        super().__init__(plan, SERVER, **common)
        self.inputs: dict[int, Any] = {}
        self._received = 0

    def start(self) -> list[Event]:
        """Nothing to agree on."""
        return []

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take one input; never raises for bytes."""
        try:
            frame, _ = self._authenticate(data, sender)
        except PeerError as error:
            return [Ignored(error)]
        if frame.sender in self.inputs:
            return [Ignored(PeerError("this input is here already", rule="step-order"))]
        try:
            self._header(frame, messages.Input)
            packed = self._tail(frame, ring_size(self.plan))
        except PeerError as error:
            return [Dropped(self._name(frame.sender), error)]
        ring = np.zeros(self.plan.ring_length, dtype=self.plan.lane)
        bitpack.unpack(packed, self.plan.wire_bits, ring)
        self.inputs[frame.sender] = lift(self.plan, ring)
        self._received += memoryview(data).nbytes
        have, need = len(self.inputs), self.plan.min_survivors
        return [Progress(Step.INPUT, have, need, self.plan.clients)]

    def close_step(self) -> list[Event]:
        """Add what arrived."""
        plan, survivors = self.plan, tuple(sorted(self.inputs))
        if len(survivors) < plan.min_survivors:
            raise ThresholdError(
                "too few sites are left",
                rule="enough",
                step=Step.INPUT.label,
                have=len(survivors),
                need=plan.min_survivors,
            )
        total = np.zeros(plan.ring_length, dtype=np.int64)
        for site in survivors:
            total += self.inputs[site]
        if plan.central_noise:
            self._add_central_noise(total, self._entropy(SEED_SIZE))
        packed = bytearray(ring_size(plan))
        bitpack.pack(total.astype(plan.lane), plan.wire_bits, packed)
        bitmap = to_bitmap(survivors, plan.clients)
        digest = aggregate_digest(self.contexts.round, bitmap, [packed], len(packed))
        opened = self._opened_sum(total, len(survivors))
        names = self._names(survivors)
        absent = [name for name in plan.roster.names if name not in names]
        aggregate = Aggregate(
            **opened,
            survivors=names,
            dropped=dict.fromkeys(absent, Step.INPUT.label),
            left={},
            suspects=(),
            digest=digest,
            transcript=digest_of(b"secagg plain transcript v1", digest),
            traffic=(StepCost(Step.INPUT.label, self._received, 0, 0.0),),
        )
        return [Done(aggregate, digest)]


def aggregate(
    plan: Plan,
    vectors: Mapping[str, Any],
    weights: Mapping[str, int] | None = None,
    identities: Mapping[str, Identity] | None = None,
) -> tuple[Aggregate, PlainServer]:
    """Run the control in memory; the server comes back with all it saw."""
    known = identities or {}
    common: dict[str, Any] = {"session": "plain", "round": 0, "model": b""}
    common["journal"] = MemoryJournal()
    hub = PlainServer(plan, identity=known.get(SERVER_NAME), **common)
    for name, x in vectors.items():
        site = PlainClient(plan, name, identity=known.get(name), **common)
        for event in site.submit(x, (weights or {}).get(name, 1)):
            if isinstance(event, Send):
                hub.receive(event.data, sender=name)
    (done,) = hub.close_step()
    if not isinstance(done, Done) or done.aggregate is None:
        raise MisuseError("the control ended without a result", rule="ended")
    return done.aggregate, hub
