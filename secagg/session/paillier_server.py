"""The server's side of a session over Paillier sums: two exchanges a round, and no setup.

The first exchange is with the sites, whose inputs are passed on to the holders as they come and
are not kept. The second is with the holders. An input that a holder lacks then, because its copy
was lost, is asked of its site once more: the same order brings the same report.
"""

from __future__ import annotations

from typing import Any, ClassVar

from secagg_protocols.errors import PeerError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.hub import ServerParty
from secagg_protocols.paillier_sum import Server
from secagg_protocols.paillier_sum.messages import ENCRYPTED
from secagg_protocols.plan import Plan

from . import messages
from .events import SessionEvent
from .messages import LACKS, Lacks, Part, Relay, Slot
from .pieces import Piece, PieceStore, unpack_pieces
from .server import ServerSession


class PaillierServerSession(ServerSession):
    """What ``ServerSession`` makes of a plan for a Paillier sum.

    ``receive`` returns messages to holders, and at times orders to sites: transmit them as any
    others. Memory is that of the round's party (one vector of ciphertexts, and the holders'
    shares of it once they come), and the result that waits for its sites.
    """

    kinds = messages.PAILLIER_KINDS
    _party_class: ClassVar[type[ServerParty]] = Server

    def __init__(self, plan: Plan, **common: Any) -> None:
        super().__init__(plan, **common)
        # Of the round's first exchange, while its second is open.
        self._asked: dict[int, tuple[bytes, ...]] = {}
        self._lacking: dict[int, set[int]] = {}  # sites whose inputs a holder says it lacks
        # Agreements on the result before the last one: sites hear of them with their next order.
        self._agreed: dict[int, Piece] = {}

    @property
    def warm(self) -> bool:
        """Always so between rounds: there is nothing to prepare."""
        return self._slot is None

    @property
    def silent(self) -> tuple[str, ...]:
        """Parties that the open exchange has an order for and no answer of, in roster order."""
        return self._names((set(self._orders) - self._reported) | self._wanted())

    def resume(self) -> list[SessionEvent]:
        """The orders of the open exchange once more, and those that ask for inputs that holders
        lack."""
        again = sorted(self._wanted() & set(self._asked))
        return [
            *super().resume(),
            *(Send(self._name(site), *self._asked[site]) for site in again),
        ]

    def _wanted(self) -> set[int]:
        """Sites whose inputs some holder lacks."""
        return set().union(*self._lacking.values())

    # Orders.

    def _recipients(self, slot: Slot) -> range:
        sites = self.plan.clients
        if slot == Slot.REVEAL:
            return range(sites, sites + len(self.plan.roster.holders))
        return range(sites)

    def _due_agreements(self, slot: Slot, exchange: int) -> dict[int, Piece]:
        if slot == Slot.REVEAL:
            return {}
        return self._agreed or self._agreements(exchange)

    def _sent_agreements(self) -> None:
        if self._agreed:
            self._agreed = {}
        else:
            self._outcome = None

    def _open_round(self, current: ServerParty) -> list[SessionEvent]:
        number, contexts = current.round, current.contexts
        events = self._open(Slot.INPUT, {}, number=number, everyone=True, contexts=contexts)
        self._retire(number - 1)
        return events

    def _close_inputs(self) -> list[SessionEvent]:
        requests, asked = self._close_current(), self._orders
        contexts = self._running().contexts
        events = self._open(
            Slot.REVEAL, requests, number=self.round, everyone=False, contexts=contexts
        )
        self._asked = asked
        return events

    def _close_reveals(self) -> list[SessionEvent]:
        agreed = self._agreements(self._exchange + 1)
        events = super()._close_reveals()
        self._agreed, self._asked, self._lacking = agreed, {}, {}
        return events

    def _abort(self, error: SecAggError) -> SessionEvent:
        self._asked, self._lacking = {}, {}
        return super()._abort(error)

    def _forget(self) -> None:
        super()._forget()
        self._asked, self._lacking, self._agreed = {}, {}, {}

    # Reports.

    def _take(self, site: int, number: int, part: memoryview) -> list[SessionEvent]:
        if part.nbytes > 3 and part[3] == LACKS.number:
            return self._take_lacks(site, part)
        events = super()._take(site, number, part)
        behind = [holder for holder, sites in self._lacking.items() if site in sites]
        if behind and number == self.round and part[3] == ENCRYPTED.number:
            rules = [event.error.rule for event in events if isinstance(event, Ignored)]
            if rules == ["step-order"]:
                # It is in the product, and the party has found it to be the same.
                for holder in behind:
                    self._lacking[holder].discard(site)
                return self._relays(number, bytes(part), behind)
        found: list[SessionEvent] = []
        frames = [event.parts[0] for event in events if isinstance(event, Send)]
        if frames:
            sites = self.plan.clients
            holders = range(sites, sites + len(self.plan.roster.holders))
            # One copy, which all of them share.
            found += self._relays(number, frames[0], [h for h in holders if h not in self._banned])
        return [*found, *(event for event in events if not isinstance(event, Send))]

    def _relays(self, number: int, frame: bytes, holders: list[int]) -> list[SessionEvent]:
        """One site's input, for these holders."""
        contexts = self._running().contexts
        part = Part.of(number, [frame], self._trailer_size)
        header = Relay(number, contexts.model_hash or b"", contexts.parameters, (part,))
        found: list[SessionEvent] = []
        for holder in holders:
            control, _ = self._frame(messages.RELAY, holder, header)
            found.append(Send(self._name(holder), control, frame))
        return found

    def _take_lacks(self, holder: int, part: memoryview) -> list[SessionEvent]:
        """Ask sites once more for the inputs that a holder was not given."""
        try:
            frame, _ = self._authenticate(part, self._name(holder))
        except PeerError as error:
            return [Ignored(error)]
        try:
            header = self._header(frame, Lacks)
            self._tail(frame, 0)
            sites = set(self._sites(frame, header.sites))
        except PeerError as error:
            self._ban(holder, error)
            return [Dropped(self._name(holder), error)]
        if self._slot != Slot.REVEAL or header.round != self.round:
            over = PeerError("its round is over", rule="round-over", sender=self._name(holder))
            return [Ignored(over)]
        self._reported.discard(holder)
        known = self._wanted()
        self._lacking[holder] = sites & set(self._running().survivors)
        again = sorted((self._lacking[holder] - known) & set(self._asked))
        return [Send(self._name(site), *self._asked[site]) for site in again]

    def _ban(self, site: int, error: SecAggError) -> None:
        self._lacking.pop(site, None)
        super()._ban(site, error)

    # Storage.

    def _state(self) -> dict[str, Any]:
        store = PieceStore()
        return super()._state() | {
            "asked": store.keep({site: (0, data) for site, data in self._asked.items()}),
            "agreed": store.keep(self._agreed),
            "lacking": [[holder, sorted(sites)] for holder, sites in self._lacking.items()],
            "more_blobs": store.blobs,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        blobs = state["more_blobs"]
        asked = unpack_pieces(state["asked"], blobs)
        self._asked = {site: data for site, (_, data) in asked.items()}
        self._agreed = unpack_pieces(state["agreed"], blobs)
        self._lacking = {holder: set(sites) for holder, sites in state["lacking"]}


__all__ = ["PaillierServerSession"]
