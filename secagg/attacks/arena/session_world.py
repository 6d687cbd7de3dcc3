"""Sessions played in one process: who hears what in which exchange is the caller's choice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

import secagg
from secagg.session import Finished, ServerSession, SessionEvent, SiteSession, Slot, Wanted
from secagg_protocols.events import Send
from secagg_protocols.plan import Threat

SERVER = "server"
#: Called with (exchange, round, slot, site): whether the order reaches the site, and whether its
#: report comes back in time.
Reach = Callable[[int, int, Slot, str], tuple[bool, bool]]


def everybody(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
    """All orders and reports arrive."""
    return True, True


@dataclass(frozen=True)
class Inner:
    """One inner frame of a bundle."""

    kind: int
    round: int
    data: bytes


@dataclass(frozen=True)
class Parcel:
    """A bundle, taken apart by what ``protocols/specs`` says of it and by no code of ours."""

    size: int
    control: int  # bytes of the control frame
    exchange: int
    inner: tuple[Inner, ...]

    @classmethod
    def of(cls, data: bytes, trailer: int) -> Parcel:
        """Split ``data``; ``trailer`` is the size of a trailer under the plan."""
        end = 16 + int.from_bytes(data[12:16], "little")
        header = msgspec.msgpack.decode(data[16:end])
        at = end + trailer
        inner = []
        for number, size, ending in header[-1]:
            inner.append(Inner(data[at + 3], number, data[at : at + size]))
            at += size
            if data[at - trailer : at] != ending:
                raise ValueError("a bundle's table does not name its frames")
        if at != len(data):
            raise ValueError("a bundle has left-over bytes")
        return cls(len(data), end + trailer, header[0], tuple(inner))


@dataclass
class Exchange:
    """What one exchange carried."""

    number: int
    round: int
    slot: Slot
    sent: tuple[str, ...] = ()  # sites that got an order, or would have
    orders: dict[str, int] = field(default_factory=dict)  # bytes by site
    reports: dict[str, int] = field(default_factory=dict)
    heard: dict[str, Parcel] = field(default_factory=dict)  # orders that arrived, by site
    answered: dict[str, Parcel] = field(default_factory=dict)  # reports, lost ones too


class Played:
    """A server and its sites, with their journals and everything that they said."""

    def __init__(
        self,
        plan: secagg.Plan,
        identities: dict[str, secagg.Identity],
        *,
        session: str = "played",
        reach: Reach = everybody,
        vector: Callable[[str, int], Any] | None = None,
        site: type[SiteSession] = SiteSession,
        server: type[ServerSession] = ServerSession,
    ) -> None:
        self.plan = plan
        self.keys = identities if plan.signed else {}
        self.reach = reach
        self.trailer = 64 if plan.signed else 32
        self.journals = {n: secagg.MemoryJournal() for n in (*plan.roster.names, SERVER)}
        self.hub = server(
            plan, identity=self.keys.get(SERVER), session=session, journal=self.journals[SERVER]
        )
        self.sites = {
            name: site(
                plan,
                name,
                identity=self.keys.get(name),
                session=session,
                floors=None,
                journal=self.journals[name],
            )
            for name in plan.roster.names
        }
        self.vector = vector or self.default_vector
        self.model = b""
        self.orders: list[Send] = []  # of the open exchange
        self.exchanges: list[Exchange] = []
        self.said: list[tuple[str, SessionEvent]] = []  # every event but Send and Progress

    def default_vector(self, site: str, number: int) -> Any:
        """A site's vector in a round."""
        return np.arange(self.plan.length) % 5 + self.plan.roster.index(site) + number

    def expected(self, survivors: tuple[str, ...], number: int) -> Any:
        """The plain sum over the survivors."""
        return sum(self.vector(site, number) for site in survivors)

    def note(self, who: str, events: list[SessionEvent]) -> list[Send]:
        """Keep what a party said; returns what it sends."""
        sends = [event for event in events if isinstance(event, Send)]
        kinds = (Send, secagg.Progress)
        self.said += [(who, event) for event in events if not isinstance(event, kinds)]
        return sends

    def of(self, who: str, kind: type[Any]) -> list[Any]:
        """What one party said of one kind."""
        return [event for name, event in self.said if name == who and isinstance(event, kind)]

    def ask(self, site: str, data: bytes) -> list[Send]:
        """Hand one order to a site and answer what it wants."""
        party, sends = self.sites[site], []
        for event in party.receive(data, sender=SERVER):
            if isinstance(event, Wanted):
                vector = self.vector(site, event.round)
                sends += self.note(site, party.submit(vector, model=self.model))
            else:
                sends += self.note(site, [event])
        return sends

    def deliver(self, orders: list[Send]) -> None:
        """One exchange: orders out, reports back; late reports are lost."""
        hub = self.hub
        if hub.slot is None:
            return
        sent = tuple(order.to for order in orders)
        exchange = Exchange(hub.exchange, hub.round, hub.slot, sent)
        self.exchanges.append(exchange)
        for order in orders:
            hears, answers = self.reach(hub.exchange, hub.round, hub.slot, order.to)
            if not hears:
                continue
            data = order.data
            exchange.orders[order.to] = len(data)
            exchange.heard[order.to] = Parcel.of(data, self.trailer)
            for report in self.ask(order.to, data):
                exchange.reports[order.to] = report.size
                exchange.answered[order.to] = Parcel.of(report.data, self.trailer)
                if answers:
                    self.note(SERVER, hub.receive(report.data, sender=order.to))

    def begin(self, model: bytes, parameters: bytes = b"") -> None:
        """Open a round; ``exchange`` plays it one exchange at a time."""
        self.model = model
        self.orders = self.note(SERVER, self.hub.begin_round(model, parameters))

    def exchange(self) -> list[SessionEvent]:
        """Play the open exchange; what the server said when it closed, orders apart."""
        self.deliver(self.orders)
        if self.hub.slot == Slot.CLOSE:
            self.orders = []
            return []
        events = self.hub.close_exchange()
        self.orders = self.note(SERVER, events)
        return [event for event in events if not isinstance(event, Send)]

    def round(self, model: bytes, parameters: bytes = b"") -> secagg.Aggregate | None:
        """Play one round to its end; its result, or ``None`` where it was aborted."""
        self.begin(model, parameters)
        while True:
            events = self.exchange()
            if self.hub.slot is None:
                return next((e.aggregate for e in events if isinstance(e, Finished)), None)

    def end(self) -> None:
        """Open the exchange that ends the session."""
        self.orders = self.note(SERVER, self.hub.finish())

    def finish(self) -> None:
        """Deliver the last result and agreements."""
        self.end()
        self.exchange()
        self.exchange()

    def fork(self) -> Played:
        """A twin that goes on by itself: every party through its dump, with a copied journal."""
        twin = copy.copy(self)
        twin.journals = {name: journal.copy() for name, journal in self.journals.items()}
        twin.exchanges, twin.said, twin.sites = [], [], dict(self.sites)
        twin.reload(*self.sites, SERVER)
        return twin

    def reload(self, *names: str) -> None:
        """Put parties through a dump."""
        for name in names:
            common: dict[str, Any] = {
                "identity": self.keys.get(name),
                "journal": self.journals[name],
            }
            if name == SERVER:
                self.hub = ServerSession.load(self.hub.dump(), self.plan, **common)
            else:
                dump = self.sites[name].dump()
                self.sites[name] = SiteSession.load(dump, self.plan, **common)


def session_plan(
    threat: Threat = "semi-honest", *, sites: int = 4, length: int = 10, **more: Any
) -> tuple[secagg.Plan, dict[str, secagg.Identity]]:
    """A small plan over sites ``site-0`` ...: for four, threshold 3 and one dropout."""
    roster, identities = secagg.Roster.generate([f"site-{i}" for i in range(sites)])
    given: dict[str, Any] = {
        "length": length,
        "stages": (secagg.Integers(0, 1000),),
        "colluding": 1,
        "max_dropouts": 1,
        "min_honest": 2,
    }
    return secagg.Plan.recommend(roster, threat=threat, **(given | more)), identities


__all__ = ["SERVER", "Exchange", "Inner", "Parcel", "Played", "Reach", "everybody", "session_plan"]
