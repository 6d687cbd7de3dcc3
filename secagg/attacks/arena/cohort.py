"""The real sites of one round, one message at a time: what an active server talks to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import secagg
from secagg_protocols import shamir
from secagg_protocols.dumps import read_dump
from secagg_protocols.masked_sum import Client, messages

from .world import digest, people


def colluder_keys(party: Client) -> dict[str, bytes]:
    """What a colluding site holds, under its name: a server that owns the site owns all of it.

    Seed of its identity, private keys of its masks and of its share channels, its self seed, and
    the shares that it has opened. To be called before the site reveals, after which it holds
    nothing any more.
    """
    name, own = party.name, party._own()
    held = {
        f"{name}/mask": own.mask_seed,
        f"{name}/channel": own.channel_seed,
        f"{name}/self": own.self_seed,
    }
    if party.identity is not None:
        held[f"{name}/identity"] = bytes(party.identity._key)
    for dealer, shares in party._shares.items():
        if shares is not None and len(shares) == 2 * shamir.SHARE_SIZE:
            held[f"{name}/shares/{party.plan.roster.names[dealer]}"] = shares
    return held


class Cohort:
    """Real clients of one plan and round, each with its vector submitted.

    vectors: by roster index. classes: a class for all, or by index. colluding: sites whose keys
    are handed over in :attr:`keys`. models: by index, where a site got another than ``model``.
    seed: what all secrets follow from, so that a run can be repeated.
    """

    def __init__(
        self,
        plan: secagg.Plan,
        vectors: Any,
        *,
        classes: type[Any] | Mapping[int, type[Any]] = Client,
        journals: Mapping[int, Any] | None = None,
        journal: type[Any] = secagg.MemoryJournal,
        colluding: Collection[int] = (),
        seed: bytes = b"",
        session: str = "laboratory",
        round: int = 0,
        model: bytes = b"model",
        models: Mapping[int, bytes] | None = None,
    ) -> None:
        self.plan, self.vectors, self.session, self.round = plan, vectors, session, round
        self.classes, self.seed = classes, seed
        self.model, self.models = model, dict(models or {})
        self.colluding = frozenset(colluding)
        self.journals: dict[int, Any] = dict(journals or {})
        #: What colluding sites hold, as an attack gets it.
        self.keys: dict[str, bytes] = {}
        #: (site, kind of the message, rule) of all that was refused, in order.
        self.refusals: list[tuple[int, int, str]] = []
        self._identities = people(plan.clients)[1]
        self._dumps: dict[int, bytes] = {}
        # The same for forks, while the state is the one that was dumped.
        self._frozen: dict[int, bytes] = {}
        for site in range(plan.clients):
            self.journals.setdefault(site, journal())
        self.parties: dict[int, Any] = {site: self._made(site) for site in range(plan.clients)}

    def _kind(self, site: int) -> type[Any]:
        return self.classes if isinstance(self.classes, type) else self.classes.get(site, Client)

    def _made(self, site: int, *, loaded: bool = False) -> Any:
        from ..columns import entropy

        plan = self.plan
        name = plan.roster.names[site]
        return self._kind(site)(
            plan,
            site,
            identity=self._identities[name],
            session=self.session,
            round=self.round,
            model=None if loaded else self.models.get(site, self.model),
            floors=None,
            journal=self.journals[site],
            entropy=entropy(digest(self.seed, self.round), name),
        )

    def start(self) -> dict[int, bytes]:
        """The adverts of all sites; every vector is submitted and leaves when it may."""
        first = {}
        for site, party in self.parties.items():
            events = party.start()
            first[site] = next(e.data for e in events if isinstance(e, secagg.Send))
            party.submit(self.vectors[site])
        return first

    def deliver(self, site: int, data: bytes) -> list[bytes]:
        """Frames with which a site answers; what it refuses is noted in :attr:`refusals`."""
        party = self.parties[site]
        self._frozen.pop(site, None)
        if party is None:
            return []
        try:
            events = party.receive(data)
        except secagg.SecAggError as error:
            self.refusals.append((site, data[3], error.rule))
            return []
        for event in events:
            if isinstance(event, secagg.Ignored | secagg.Dropped):
                self.refusals.append((site, data[3], event.error.rule))
        if site in self.colluding and data[3] == messages.SHARES_FOR.number:
            self.keys |= colluder_keys(party)
        return [event.data for event in events if isinstance(event, secagg.Send)]

    def save(self, site: int) -> None:
        """Store a site's state, as a restart will find it."""
        self._dumps[site] = self.parties[site].dump()

    def restart(self, site: int) -> None:
        """Start a site again from what was stored last; its journal goes on where it was.

        A site that finds its dump older than its journal does not start, and answers nothing.
        """
        self.parties[site] = None
        try:
            self.parties[site] = self._loaded(site, self._dumps[site])
        except secagg.SecAggError as error:
            self.refusals.append((site, 0, error.rule))

    def _loaded(self, site: int, dump: bytes) -> Any:
        party = self._made(site, loaded=True)
        party.restore(read_dump(dump, self.plan))
        if not party.sent_input:
            party.submit(self.vectors[site])  # a vector is in no dump
        return party

    def fork(self, sites: Collection[int] | None = None) -> Cohort:
        """The same sites in the same state, to be led another way; their journals are copied.

        sites: those that go on, all by default; the others are the parties of this cohort.
        """
        chosen = range(self.plan.clients) if sites is None else sites
        other = object.__new__(Cohort)
        other.__dict__.update(self.__dict__)
        other.parties, other.journals = dict(self.parties), dict(self.journals)
        other.keys, other.refusals = dict(self.keys), []
        other._dumps, other._frozen = dict(self._dumps), dict(self._frozen)
        for site in chosen:
            if site not in self._frozen:
                self._frozen[site] = self.parties[site].dump()
            other.journals[site] = _copied(self.journals[site])
            other.parties[site] = other._loaded(site, self._frozen[site])
        return other


def _copied(journal: Any) -> Any:
    other = type(journal)()
    other._take(journal.copy())
    return other


__all__ = ["Cohort", "colluder_keys"]
