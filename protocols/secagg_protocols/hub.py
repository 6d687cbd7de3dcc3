"""What the servers of every sum protocol have in common: closing a step, releasing a sum."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from .errors import EquivocationError, PeerError, SecAggError, ThresholdError
from .events import Aggregate, Done, Event, Send, Step, StepCost
from .keys import digest_of
from .kinds import Kind
from .lift import lift
from .party import Party
from .plan import Plan
from .result import Result, aggregate_digest, pack_sum, packed_tiles, ring_size
from .wire import SERVER, Frame, Header, to_bitmap

#: One message of a step that closes: recipient, header, tail.
Message = tuple[int, Header, bytes]


class ServerParty(Party):
    """The aggregator of one round: steps that it opens and closes."""

    role = "server"

    def __init__(self, plan: Plan, index: int = SERVER, **common: Any) -> None:
        super().__init__(plan, index, **common)
        self._step: Step | None = None  # None: not started; a finished server has _done
        self._done = False
        self._faulty: set[int] = set()  # parties that were ended for bad content
        self._transcript = bytes(32)
        self._costs: list[StepCost] = []
        self._received = 0
        self._sent = 0  # before the step is closed
        self._clock = time.monotonic()
        self._noise_seed = b""  # of central noise; the same after a load, or two sums average it

    @property
    def step(self) -> Step | None:
        """The open step, ``None`` before the start and after the result."""
        return None if self._done else self._step

    @property
    def survivors(self) -> tuple[int, ...]:
        """Roster indices of the sites in the sum, once the inputs are closed."""
        raise NotImplementedError

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of a round, in order."""
        raise NotImplementedError

    def close_step(self) -> list[Event]:
        """Stop waiting for the messages of the open step, and go on."""
        raise NotImplementedError

    def exclude(self, site: int, error: SecAggError) -> None:
        """Treat ``site`` as one that left: it was caught cheating elsewhere in the session."""
        self._drop(site, error)

    def _drop(self, site: int, error: SecAggError) -> list[Event]:
        """End a site, and forget what it sent in the open step."""
        raise NotImplementedError

    def _departures(self) -> tuple[dict[str, str], dict[str, str]]:
        """Sites that are not in the sum, and survivors that left later, with their steps."""
        raise NotImplementedError

    def _announce(self, kind: Kind, out: list[Message], after: Step | None) -> list[Event]:
        """Send one message to each site that is not ended, once in this round's life."""
        closing = kind.step
        heard = sorted(
            (number, site, digest)
            for (number, site), digest in self._accepted.items()
            if self.kinds[number].step == closing and site not in self._faulty
        )
        sends: list[Event] = []
        sent = 0
        said: list[bytes] = []
        shared: tuple[bytes, bytes] | None = None  # a tail and its hash
        for site, header, tail in out:
            if site not in self._faulty:
                if shared is None or shared[0] is not tail:
                    shared = tail, hashlib.sha256(tail).digest()
                head, trailer, digest = self._around(kind, site, header, shared[1])
                send = Send(self._name(site), head, tail, trailer)
                sends.append(send)
                sent += send.size
                said.append(digest)
        transcript = digest_of(
            b"secagg transcript v1",
            self._transcript,
            *(bytes([number]) + site.to_bytes(4, "little") + d for number, site, d in heard),
            *said,
        )
        self._claim(int(closing), transcript, b"")
        self._transcript = transcript
        now = time.monotonic()
        sent += self._sent
        self._costs.append(StepCost(closing.label, self._received, sent, now - self._clock))
        self._received, self._sent, self._clock = 0, 0, now
        self._step, self._done = after, after is None
        return sends

    def _release(
        self, kind: Kind, ring: Any, survivors: tuple[int, ...], suspects: Iterable[int]
    ) -> list[Event]:
        """Announce the opened sum ``ring`` in messages of ``kind``, and end the round."""
        plan = self.plan
        total = lift(plan, ring)
        self._check_sum_range(total, survivors)
        bitmap = to_bitmap(survivors, plan.clients)
        # A site that receives the sum gets it packed; all share one copy. Without such sites no
        # copy is made, and what is signed is read tile by tile.
        packed = pack_sum(plan, ring) if plan.sites_receive else b""
        digest = aggregate_digest(
            self.contexts.round,
            bitmap,
            [packed] if plan.sites_receive else packed_tiles(plan, ring),
            ring_size(plan),
        )
        header = Result(digest, bitmap)
        out: list[Message] = [(site, header, packed) for site in survivors]
        events = self._announce(kind, out, None)
        opened = self._opened_sum(total, len(survivors))
        dropped, left = self._departures()
        aggregate = Aggregate(
            **opened,
            survivors=self._names(survivors),
            dropped=dropped,
            left=left,
            suspects=self._names(suspects),
            digest=digest,
            transcript=self._transcript,
            traffic=tuple(self._costs),
        )
        self._forget()
        return [*events, Done(aggregate, digest)]

    def _hub_state(self) -> dict[str, Any]:
        return {
            "step": None if self._step is None else int(self._step),
            "done": self._done,
            "noise_seed": self._noise_seed,
            "faulty": sorted(self._faulty),
            "transcript": self._transcript,
            "costs": [[c.step, c.received, c.sent, c.seconds] for c in self._costs],
            "received": self._received,
            "sent": self._sent,
        }

    def _restore_hub(self, state: dict[str, Any]) -> None:
        self._step = None if state["step"] is None else Step(state["step"])
        self._done = state["done"]
        self._noise_seed = state["noise_seed"]
        self._faulty = set(state["faulty"])
        self._transcript = state["transcript"]
        self._costs = [StepCost(*row) for row in state["costs"]]
        self._received = state["received"]
        self._sent = state["sent"]

    # Rules.

    def _check_equivocation(self, frame: Frame, digest: bytes) -> None:
        known = self._accepted.get((frame.kind, frame.sender))
        if known is not None and known != digest:
            raise EquivocationError(
                "two different messages of one site for one step",
                rule="equivocation",
                sender=self._name(frame.sender),
                digests=(known, digest),
            )

    def _check_enough(self, step: Step, have: int, need: int, who: str) -> None:
        if have < need:
            raise ThresholdError(
                f"too few {who} are left", rule="enough", step=step.label, have=have, need=need
            )

    def _check_sum_range(self, total: Any, survivors: tuple[int, ...]) -> None:
        at = 0
        if self.plan.pipeline.noise is not None:
            # Honest sums leave that window now and then, which wraps them and accuses nobody.
            return
        for span, count in self.plan.pipeline.sum_span(len(survivors)):
            part = total[at : at + count]
            if part.size and (int(np.min(part)) < span.low or int(np.max(part)) > span.high):
                raise PeerError(
                    "the sum lies outside the range of honest inputs; a survivor sent a vector "
                    "that the plan does not allow",
                    rule="sum-range",
                    suspects=self._names(survivors),
                )
            at += count

    def _require(self, step: Step, have: int, need: int, who: str = "sites") -> None:
        self._check_enough(step, have, need, who)
