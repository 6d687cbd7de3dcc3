"""Orders: what an exchange asks of each site, and everything that travels with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Done, Event, Send
from secagg_protocols.hub import ServerParty
from secagg_protocols.keys import digest_of
from secagg_protocols.party import Contexts
from secagg_protocols.wire import to_bitmap

from . import messages
from .announced import Announced
from .desk import RETRY, Desk
from .events import SessionEvent
from .messages import Agreed, Order, Part, Slot, agreements_needed
from .pieces import Outcome, Piece


class Orders(Desk):
    """The server's side of an open exchange, and the state that its orders are made of."""

    _exchange: int
    _begun: int
    _slot: Slot | None
    _current: ServerParty | None
    _results: dict[int, Piece]
    _reported: set[int]
    _outcome: Outcome | None
    _banned: dict[int, SecAggError]
    _orders: dict[int, tuple[bytes, ...]]
    _half: dict[int, Piece] | None
    _other: tuple[dict[int, Piece], SecAggError | None] | None
    _done: Done | None
    _announced: Announced | None

    @property
    def exchange(self) -> int:
        """Number of the open or last exchange, from 1."""
        return self._exchange

    @property
    def slot(self) -> Slot | None:
        """What the open exchange asks for; ``None`` while no exchange is open."""
        return self._slot

    @property
    def silent(self) -> tuple[str, ...]:
        """Sites that the open exchange has an order for and no report of, in roster order."""
        return self._names(set(self._orders) - self._reported)

    def resume(self) -> list[SessionEvent]:
        """The orders of the open exchange once more, after a load or for sites that are silent."""
        return [Send(self._name(site), *pieces) for site, pieces in self._orders.items()]

    def _open(
        self,
        slot: Slot,
        parts: dict[int, Piece],
        *,
        number: int,
        everyone: bool,
        also: dict[int, Piece] | None = None,
        contexts: Contexts | None = None,
    ) -> list[SessionEvent]:
        """One order a site, in the next exchange, with everything that waits for delivery.

        number: the round that the orders are of. contexts: where they state its model. Nothing
        has changed where the journal's disk fails.
        """
        exchange = self._exchange + 1
        agreed = self._due_agreements(slot, exchange)
        lists = [agreed, self._results, parts, also or {}]
        model = parameters = b""
        if contexts is not None:
            model, parameters = contexts.model_hash or b"", contexts.parameters
        orders: dict[int, tuple[bytes, ...]] = {}
        said: list[bytes] = []
        for site in self._recipients(slot):
            pieces = [found[site] for found in lists if site in found]
            if site in self._banned or (not everyone and not pieces):
                continue
            table = tuple(Part.of(n, data, self._trailer_size) for n, data in pieces)
            header = Order(exchange, int(slot), number, model, parameters, table)
            control, digest = self._frame(messages.ORDER, site, header)
            orders[site] = (control, *(piece for _, data in pieces for piece in data))
            said.append(digest)
        self._claim_exchange(exchange, number, said)
        if agreed:
            self._sent_agreements()
        self.round, self._exchange, self._slot = number, exchange, slot
        self._orders, self._reported = orders, set()
        self._half, self._other, self._done = None, None, None
        return self.resume()

    def _recipients(self, slot: Slot) -> range:
        """Indices of the parties that an exchange is with."""
        return range(self.plan.clients)

    def _due_agreements(self, slot: Slot, exchange: int) -> dict[int, Piece]:
        """What the orders of this exchange say of who agreed on a result."""
        return self._agreements(exchange)

    def _sent_agreements(self) -> None:
        self._outcome = None

    def _claim_exchange(self, exchange: int, number: int, said: list[bytes]) -> None:
        """Orders of one exchange are given in one version, also by a server that comes back from
        an older dump: sites would take the second for a cheat, and it would be one."""
        key, series = digest_of(b"secagg orders v1", self._desk_context), self.series
        digest = digest_of(b"secagg orders of an exchange v1", *said)
        try:
            self._on_disk(
                lambda: self.journal.claim(key, exchange, digest, b"", series=series, number=number)
            )
        except MisuseError as error:
            if error.rule != RETRY:
                # Go on after what the journal knows: two rounds are begun above its floor.
                self._exchange = self._on_disk(lambda: self.journal.newest(key))
                floor = self._on_disk(lambda: self.journal.floor(series))
                self._begun = max(self._begun, number, floor + 2)
            raise

    def _agreements(self, exchange: int) -> dict[int, Piece]:
        """What tells the survivors of the last round that all got one result."""
        outcome, need = self._outcome, agreements_needed(self.plan)
        if outcome is None or not self.plan.signed or outcome.delivered >= exchange:
            return {}
        signers = sorted(site for site in outcome.agreed if site not in self._banned)[:need]
        if len(signers) < need:
            return {}
        header = Agreed(outcome.round, to_bitmap(signers, self.plan.clients))
        tail = b"".join(outcome.agreed[site] for site in signers)
        hashed = hashlib.sha256(tail).digest()
        found: dict[int, Piece] = {}
        for site in outcome.survivors:
            head, trailer, _ = self._around(messages.AGREED, site, header, hashed)
            found[site] = (outcome.round, (head, tail, trailer))
        return found

    def _pieces(self, party: ServerParty, events: Iterable[Event]) -> dict[int, Piece]:
        """A party's messages by the index of who gets them, with its round."""
        roster = self.plan.roster
        index = {name: i for i, (name, _) in enumerate((*roster.sites, *roster.holders))}
        sends = (event for event in events if isinstance(event, Send))
        return {index[send.to]: (party.round, send.parts) for send in sends}

    def _require_closed(self) -> None:
        self._require_alive()
        if self._slot not in {None, Slot.CLOSE}:
            raise MisuseError("close the open exchange first", rule="no-exchange")

    def _running(self) -> ServerParty:
        if self._current is None:
            raise MisuseError("no round is under way", rule="no-exchange")
        return self._current

    @staticmethod
    def _leave_out(party: ServerParty | None, site: int) -> None:
        if party is not None:
            party.exclude(site, MisuseError("it is in no further round", rule="left-out"))

    def _left_out(self) -> set[int]:
        """Sites that no further round can have: banned ones, and over fixed data those that a sum
        has been without, since every other site would refuse them."""
        announced = self._announced
        last = None if announced is None else self._on_disk(announced.sites)
        names = self.plan.roster.names
        gone = set() if last is None else {i for i, name in enumerate(names) if name not in last}
        return gone | set(self._banned)
