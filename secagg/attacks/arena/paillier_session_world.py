"""Sessions over Paillier sums in one process: every message passes through one mailbox.

What is lost, and who dies when, is the caller's choice; every call of a party is followed by a
dump, and by a load of it where the caller wants that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import secagg
from secagg.attacks.arena.paillier_world import BITS, dealt, make_plan, people
from secagg.session import (
    Finished,
    HolderSession,
    ServerSession,
    SessionEvent,
    SiteSession,
    Slot,
    Wanted,
)
from secagg_protocols.events import Send
from secagg_protocols.paillier_sum import messages

SERVER = "server"
#: (sender, recipient, bytes): whether the message is lost.
Lost = Callable[[str, str, bytes], bool]


def session_plan(
    n: int = 4,
    *,
    holders: int = 3,
    threshold: int = 2,
    knowledge_proofs: bool = True,
    bits: int = BITS,
    **changes: Any,
) -> secagg.Plan:
    """A small plan that sessions may have, under a key of ``bits`` bits."""
    given: dict[str, Any] = {
        "stages": (secagg.Integers(0, 1000),),
        "length": 3,
        "max_inputs_per_model": 2,
        "protocol": secagg.PaillierSum(
            key=dealt(holders, threshold, bits, knowledge_proofs=knowledge_proofs)[0],
            colluding_holders=0,
        ),
    }
    return make_plan(n, holders=holders, threshold=threshold, **(given | changes))


def shares_of(plan: secagg.Plan) -> dict[str, Any]:
    """Each holder's share of the plan's key."""
    key = messages.protocol_of(plan).key
    proofs = key.knowledge_proofs
    shares = dealt(key.holders, key.threshold, key.bits, knowledge_proofs=proofs)[1]
    return {name: share for (name, _), share in zip(plan.roster.holders, shares, strict=True)}


def nothing(sender: str, to: str, data: bytes) -> bool:
    """Loses no message."""
    return False


class Played:
    """All parties of a session, with their journals, dumps and mail."""

    def __init__(
        self,
        plan: secagg.Plan,
        *,
        session: str = "played",
        reload: bool = False,
        classes: dict[str, type[Any]] | None = None,
    ) -> None:
        self.plan, self.session, self.reloads = plan, session, reload
        self.holders = [name for name, _ in plan.roster.holders]
        self.keys = people(plan.clients, len(self.holders))[1] if plan.signed else {}
        self.shares = shares_of(plan)
        self.names = [SERVER, *plan.roster.names, *self.holders]
        self.journals = {name: secagg.MemoryJournal() for name in self.names}
        self.classes = classes or {}
        self.parties: dict[str, Any] = {name: self.fresh(name) for name in self.names}
        self.saved = {name: party.dump() for name, party in self.parties.items()}
        self.said: list[tuple[str, SessionEvent]] = []
        self.mail: list[tuple[str, str, bytes]] = []
        self.models: dict[int, bytes] = {}
        self.sizes: list[tuple[str, str, int]] = []

    def common(self, name: str) -> dict[str, Any]:
        """What a party is built and loaded with."""
        given = {"identity": self.keys.get(name), "journal": self.journals[name]}
        return given | ({"share": self.shares[name]} if name in self.holders else {})

    def kind(self, name: str) -> type[Any]:
        """The class of a party."""
        usual: type[Any] = SiteSession
        if name == SERVER:
            usual = ServerSession
        elif name in self.holders:
            usual = HolderSession
        return self.classes.get(name, usual)

    def fresh(self, name: str, **more: Any) -> Any:
        """A party at the start of the session."""
        given = {"session": self.session, **self.common(name)}
        if name == SERVER:
            return self.kind(name)(self.plan, **(given | more))
        return self.kind(name)(self.plan, name, **({"floors": None} | given | more))

    @property
    def hub(self) -> Any:
        """The server."""
        return self.parties[SERVER]

    def vector(self, name: str, number: int) -> Any:
        """A site's vector in a round."""
        place = self.plan.roster.index(name)
        return (np.arange(self.plan.length) * (number + 2) + 11 * place + number) % 900

    def expected(self, survivors: tuple[str, ...], number: int) -> list[int]:
        """The plain sum, in Python's integers."""
        rows = [self.vector(name, number).tolist() for name in survivors]
        return [sum(column) for column in zip(*rows, strict=True)]

    # Calls.

    def load(self, name: str, dump: bytes) -> None:
        """Put an older state in the place of a party."""
        self.parties[name] = self.kind(name).load(dump, self.plan, **self.common(name))

    def call(self, name: str, act: Callable[[], list[Any]]) -> list[Any]:
        """One call of a party; it is saved, and only then its mail leaves."""
        events = act()
        self.saved[name] = self.parties[name].dump()
        if self.reloads:
            self.load(name, self.saved[name])
        self.note(name, events)
        return events

    def note(self, name: str, events: list[Any]) -> None:
        """Keep what a party said, and its mail."""
        for event in events:
            if isinstance(event, Send):
                self.mail.append((name, event.to, event.data))
            elif not isinstance(event, secagg.Progress):
                self.said.append((name, event))

    def of(self, name: str, kind: type[Any]) -> list[Any]:
        """What a party said of one kind."""
        return [event for who, event in self.said if who == name and isinstance(event, kind)]

    def deliver(self, sender: str, to: str, data: bytes) -> None:
        """Hand a message over, and answer what is wanted for it."""
        self.sizes.append((sender, to, len(data)))
        events = self.call(to, lambda: self.parties[to].receive(data, sender=sender))
        for event in events:
            if isinstance(event, Wanted):
                x, model = self.vector(to, event.round), self.models[event.round]
                self.call(to, partial(self.parties[to].submit, x, model=model))

    def pump(self, lost: Lost = nothing) -> None:
        """Deliver mail until there is none."""
        while self.mail:
            sender, to, data = self.mail.pop(0)
            if not lost(sender, to, data):
                self.deliver(sender, to, data)

    # Rounds.

    def begin(self, model: bytes | None = None, parameters: bytes = b"") -> None:
        """Open a round."""
        stated = b"model %d" % len(self.models) if model is None else model
        self.call(SERVER, lambda: self.hub.begin_round(stated, parameters))
        self.models[self.hub.round] = stated

    def close(self) -> list[Any]:
        """Close the open exchange."""
        return self.call(SERVER, self.hub.close_exchange)

    def round(self, lost: Lost = nothing, **more: Any) -> secagg.Aggregate | None:
        """A whole round; its aggregate, which is right, or ``None`` where it was aborted."""
        self.begin(**more)
        number, events = self.hub.round, []
        while self.hub.slot is not None:
            self.pump(lost)
            events = self.close()
        for event in events:
            if isinstance(event, Finished):
                aggregate = event.aggregate
                if aggregate is None:
                    raise ValueError("this party was not sent the sum")
                right = self.expected(aggregate.survivors, number)
                if aggregate.sum.tolist() != right:
                    raise ValueError("another sum than that of the survivors was opened")
                return aggregate
        return None

    def finish(self) -> None:
        """End the session, with the last result and agreements."""
        self.call(SERVER, self.hub.finish)
        self.pump()
        if self.hub.slot != Slot.FINISH:
            raise ValueError("the session did not come to its end")
        self.close()
        self.pump()


__all__ = ["SERVER", "Lost", "Played", "nothing", "session_plan", "shares_of"]
