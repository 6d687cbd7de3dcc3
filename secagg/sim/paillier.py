"""Rounds of Paillier sums in one process: sites, server and holders over bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from secagg import api
from secagg.session.messages import Slot
from secagg.sim.holders import Deal
from secagg.sim.local import Inputs, Played, Silent, Tap
from secagg.sim.records import COLD, ExchangeRecord
from secagg_protocols.errors import PeerError, ReleaseError, ThresholdError
from secagg_protocols.events import Aggregate, Step
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.paillier_sum import Client, Holder
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME

#: Called with (party, ciphertexts done, all of them) while one encrypts or opens.
Work = Callable[[str, int, int], None]


class PaillierRounds:
    """What `LocalSessions` is for masked sums: every round stands alone, and starts cold.

    One journal a party serves all rounds. A site that is silent at the input sends nothing in this
    round, a holder that is silent at the reveal hears nothing and does not answer.
    """

    def __init__(
        self,
        identities: Mapping[str, Identity],
        deal: Deal,
        *,
        session: str,
        tap: Tap,
        work: Work,
    ) -> None:
        self._identities = identities
        self._deal = deal
        self._session = session
        self._tap = tap
        self._work = work
        self._journals: dict[str, MemoryJournal] = {}
        self._numbers: dict[bytes, int] = {}
        self._exchanges = 0

    def play(
        self,
        plan: Plan,
        inputs: Inputs,
        model: bytes,
        silent: Silent,
        *,
        last: bool = False,
        label: str = "round",
    ) -> Played:
        """Run one round of ``plan`` over the broadcast ``model``; see `LocalSessions.play`.

        Errors that end a round are in what is returned: too few sites or holders, or a peer's.
        """
        number = self._numbers.get(plan.digest, -1) + 1
        self._numbers[plan.digest] = number
        quiet = {
            name: Step(int(slot))
            for slot in (Slot.REVEAL, Slot.INPUT)  # the earlier one is the last to be entered
            for name in silent(slot)
        }
        meter = _Meter(self._tap)
        clients, holders = self._parties(plan, number, inputs, model)
        quiet = {name: quiet[name] for name in (*clients, *holders) if name in quiet}
        begun = time.monotonic()
        aggregate, error = None, None
        hub = api.server(plan, **self._common(plan, SERVER_NAME, number, model))
        try:
            aggregate = api.run_round(
                hub, clients, dict(inputs), silent=quiet, tap=meter.tap, holders=holders
            )
        except (ThresholdError, PeerError, ReleaseError) as ended:
            error = ended
        seconds = _seconds(aggregate, time.monotonic() - begun)
        return Played(
            number=number,
            start=COLD,
            why="",
            exchanges=tuple(self._exchange(step, meter, quiet, seconds) for step in hub.steps),
            sat_out=(),
            refused={},
            aggregate=aggregate,
            error=error,
        )

    def warm(self, plan: Plan) -> bool:
        """No round prepares the next one: there is nothing to prepare."""
        return False

    def finish(self, silent: object) -> tuple[ExchangeRecord, ...]:
        """Nothing is left to be said."""
        return ()

    def agreed(self, plan: bytes, number: int) -> int:
        """Sites do not confirm results to each other: holders open one product in a round."""
        return 0

    def _parties(
        self, plan: Plan, number: int, inputs: Inputs, model: bytes
    ) -> tuple[dict[str, api.AnyClient], dict[str, Holder]]:
        clients: dict[str, api.AnyClient] = {}
        for name in plan.roster.names:
            if name in inputs:
                common = self._common(plan, name, number, model)
                clients[name] = api.client(plan, name, floors=None, **common)
        holders = {
            name: api.holder(
                plan, name, share=share, floors=None, **self._common(plan, name, number, model)
            )
            for name, share in self._deal.shares.items()
        }
        for name, party in (*clients.items(), *holders.items()):
            if isinstance(party, (Client, Holder)):
                party.progress = lambda done, most, name=name: self._work(name, done, most)
        return clients, holders

    def _common(self, plan: Plan, name: str, number: int, model: bytes) -> dict[str, Any]:
        return {
            "identity": self._identities.get(name) if plan.signed else None,
            "session": self._session,
            "round": number,
            "model": model,
            "journal": self._journals.setdefault(name, MemoryJournal()),
            "threads": self._deal.threads,
        }

    def _exchange(
        self, step: Step, meter: _Meter, quiet: Mapping[str, Step], seconds: Mapping[str, float]
    ) -> ExchangeRecord:
        self._exchanges += 1
        return ExchangeRecord(
            exchange=self._exchanges,
            step=step.label,
            senders=len(meter.senders[step]),
            gone=tuple(name for name, at in quiet.items() if at == step),
            site_bytes=meter.up[step],
            server_bytes=meter.down[step],
            seconds=seconds.get(step.label, 0.0),
            sender="site" if step == Step.INPUT else "holder",
        )


class _Meter:
    """Counts what is delivered, and passes it on to whoever watches."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self.senders: dict[Step, set[str]] = {step: set() for step in Step}
        self.up = dict.fromkeys(Step, 0)
        self.down = dict.fromkeys(Step, 0)

    def tap(self, step: Step, sender: str, recipient: str, data: bytes) -> None:
        if recipient == SERVER_NAME:
            self.senders[step].add(sender)
            self.up[step] += len(data)
        else:
            self.down[step] += len(data)
        self._tap(Slot(int(step)), sender, recipient, data)


def _seconds(aggregate: Aggregate | None, elapsed: float) -> dict[str, float]:
    """Seconds by step; all of them at the first where the round was not finished."""
    if aggregate is None:
        return {Step.INPUT.label: elapsed}
    return {cost.step: cost.seconds for cost in aggregate.traffic}


__all__ = ["PaillierRounds", "Work"]
