"""A server that cheats: the masked sum as the server speaks it, with behaviours put into it.

It holds the plan, its own identity, session, round and model, and whatever identities of colluding
sites it is given; it knows messages and wire, and no party. It reaches sites through one function
that takes a frame and brings back what the site answers. Without behaviours it is the honest
server but for the sum, which it never opens: what can be opened from the frames that it saw is
for the attack to find.

A behaviour changes one thing; several are applied one after the other. All that they draw comes
from a generator of the server's, so a run follows from its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from secagg_protocols import wire
from secagg_protocols.events import Step
from secagg_protocols.keys import Identity
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.masked_sum.graph import draw
from secagg_protocols.plan import Plan

from ..attack import Frame
from ..reading import round_context, setup_context

Sites = frozenset[int]
#: Gives a frame to a site; the frames with which it answers, none where it refuses.
Deliver = Callable[[int, bytes], Sequence[bytes]]
#: Signatures on one survivor list, by site.
Signed = dict[int, bytes]
_NO_SEED: Final = bytes(32)


class Behaviour:
    """What an honest server does at each point where it could do otherwise. Override what cheats.

    Every method gets the server, whose ``rng`` is there for what is drawn.
    """

    def told(self, server: CheatingServer, step: Step, site: int, sites: Sites) -> Sites:
        """The sites that ``site`` is told are in: U1, U2 or U3, by step."""
        return sites

    def stated(self, server: CheatingServer, step: Step, site: int, size: int) -> int:
        """How many sites ``site`` is told there are: on a sparse graph it sees a part only."""
        return size

    def advert(self, server: CheatingServer, site: int, peer: int, advert: bytes) -> bytes:
        """The advert of ``peer`` as ``site`` gets it: keys, and a signature where plans sign."""
        return advert

    def neighbours(self, server: CheatingServer, site: int, near: Sites) -> Sites:
        """The graph as ``site`` is told it."""
        return near

    def consents(
        self, server: CheatingServer, site: int, own: Signed, others: Signed
    ) -> Signed | None:
        """The consents that ``site`` gets; ``None`` for no message.

        own: those on the list that the site was told; others: those on other lists.
        """
        need = server.plan.protocol.share_threshold
        return {s: own[s] for s in sorted(own)[:need]} if len(own) >= need else None

    def model(self, server: CheatingServer, site: int, model: bytes) -> bytes:
        """The model that was broadcast to ``site``."""
        return model

    def sends(self, server: CheatingServer, site: int, kind: int, frame: bytes) -> list[bytes]:
        """What is sent to ``site`` in the place of a frame of this kind, in order."""
        return [frame]

    def hears(self, server: CheatingServer, site: int, kind: int, frame: bytes) -> bool:
        """Whether a site's frame counts as arrived; what does not is held back, and kept."""
        return True

    def ends(self, server: CheatingServer) -> None:
        """After the last step."""


class CheatingServer:
    """One round of a masked sum as a server plays it. All that it saw and sent is in ``frames``.

    colluders: identities of sites that it owns, for their consents; such sites are not asked
    to reveal, since what they hold is known already. graph: the sparse graph, drawn from the
    seed where none is given.
    """

    def __init__(
        self,
        plan: Plan,
        identity: Identity,
        deliver: Deliver,
        *,
        session: str = "laboratory",
        round: int = 0,
        model: bytes = b"model",
        behaviours: Iterable[Behaviour] = (),
        colluders: Mapping[int, Identity] | None = None,
        seed: bytes = _NO_SEED,
    ) -> None:
        self.plan, self.identity, self.session, self.round = plan, identity, session, round
        self.broadcast = model
        self.behaviours = list(behaviours)
        self.colluders = dict(colluders or {})
        self.rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
        self.deliver = deliver
        self.graph = [frozenset(row) for row in draw(plan, seed)]
        self.frames: list[Frame] = []
        #: What arrived: adverts as they are relayed, sealed shares by dealer and holder.
        self.adverts: dict[int, bytes] = {}
        self.sealed: dict[int, dict[int, bytes]] = {}
        self.inputs: set[int] = set()
        #: By site: the survivor list (a bitmap) that it consented to, and its signature.
        self.consented: dict[int, tuple[bytes, bytes]] = {}
        self.revealed: list[int] = []
        #: What each site was last told to be U3.
        self.announced: dict[int, Sites] = {}
        #: (site, kind) of frames that were held back.
        self.held: list[tuple[int, int]] = []
        self._dealt_to: dict[int, list[int]] = {}
        self._setup = setup_context(plan, session, round)

    def fork(self, deliver: Deliver, behaviours: Iterable[Behaviour] = ()) -> CheatingServer:
        """This server as it stands, to go on with other behaviours and (forked) sites."""
        other = object.__new__(CheatingServer)
        other.__dict__.update(self.__dict__)
        other.deliver, other.behaviours = deliver, list(behaviours)
        other.frames, other.held = list(self.frames), list(self.held)
        other.adverts, other.sealed = dict(self.adverts), dict(self.sealed)
        other.inputs, other.consented = set(self.inputs), dict(self.consented)
        other.revealed, other.announced = list(self.revealed), dict(self.announced)
        return other

    # The steps.

    def run(self, adverts: Mapping[int, bytes]) -> CheatingServer:
        """The whole round, from the adverts with which the sites began."""
        self.collect(adverts)
        self.relay_adverts()
        self.relay_shares()
        self.announce()
        self.confirm()
        for behaviour in self.behaviours:
            behaviour.ends(self)
        return self

    def collect(self, adverts: Mapping[int, bytes]) -> None:
        """Step 1: what sites advertise."""
        for site, frame in sorted(adverts.items()):
            self._hear(site, frame)

    def relay_adverts(self) -> None:
        """Step 1: the adverts, as each site is told them."""
        advertised = frozenset(self.adverts)
        for site in sorted(advertised):
            near = self.near(site)
            u1 = self._told(Step.ADVERTISE, site, advertised)
            present = sorted((u1 & near) - {site})
            self._dealt_to[site] = present
            tail = b""
            for peer in present:
                row = self.adverts.get(peer, bytes(messages.relayed_advert_size(self.plan)))
                for behaviour in self.behaviours:
                    row = behaviour.advert(self, site, peer, row)
                tail += row
            header = messages.Adverts(
                self.bitmap(near), self.bitmap(present), self._size(Step.ADVERTISE, site, u1)
            )
            self.say(messages.ADVERTS, site, header, tail)

    def relay_shares(self) -> None:
        """Step 2: the sealed shares, as each site is told who dealt."""
        sharers = frozenset(self.sealed)
        for site in sorted(self.adverts):
            near = self.near(site)
            u2 = self._told(Step.SHARE, site, sharers)
            dealers = sorted((u2 & near) - {site})
            nothing = bytes(messages.SEALED_SIZE)
            tail = b"".join(self.sealed.get(d, {}).get(site, nothing) for d in dealers)
            present = [*dealers, site] if site in u2 else dealers
            header = messages.SharesFor(self.bitmap(present), self._size(Step.SHARE, site, u2))
            self.say(messages.SHARES_FOR, site, header, tail if site in u2 else b"")

    def announce(self) -> None:
        """Step 3: the survivors, as each site is told them."""
        survivors = frozenset(self.inputs)
        for site in sorted(self.sealed):
            if site not in self.colluders:
                self.announce_to(site, self._told(Step.INPUT, site, survivors))

    def announce_to(self, site: int, u3: Sites) -> None:
        """Tell one site who survived."""
        self.announced[site] = u3
        part = u3 & (self.near(site) | {site})
        header = messages.Survivors(self.bitmap(part), self._size(Step.INPUT, site, u3))
        self.say(messages.SURVIVORS, site, header)

    def confirm(self) -> None:
        """Step 4, where the plan has it: consents, as behaviours choose them for each site."""
        if not self.plan.signed:
            return
        for site in sorted(self.consented):
            self.confirm_to(site)

    def confirm_to(self, site: int) -> None:
        """Relay consents to one site."""
        bitmap = self.consented[site][0]
        own: Signed = {}
        others: Signed = {}
        for signer, (on, signature) in self.consented.items():
            (own if on == bitmap else others)[signer] = signature
        for signer in self.colluders:
            if bitmap[signer // 8] >> (signer % 8) & 1:
                own[signer] = self._colluding_consent(signer, bitmap)
        chosen: Signed | None = Behaviour.consents(Behaviour(), self, site, own, others)
        for behaviour in self.behaviours:
            if type(behaviour).consents is not Behaviour.consents:
                chosen = behaviour.consents(self, site, own, others)
        if chosen is not None:
            signers = sorted(chosen)
            tail = b"".join(chosen[s] for s in signers)
            self.say(messages.CONSENTS, site, messages.Consents(self.bitmap(signers)), tail)

    # Frames.

    def say(self, kind: Any, site: int, header: wire.Header, tail: bytes = b"") -> None:
        """Send a message to a site and hear what it answers."""
        self.send(site, self.sealed_frame(kind, site, header, tail))

    def send(self, site: int, frame: bytes) -> None:
        """Send a frame, or what behaviours make of it."""
        number = frame[3]
        frames = [frame]
        for behaviour in self.behaviours:
            frames = [made for one in frames for made in behaviour.sends(self, site, number, one)]
        for made in frames:
            self.frames.append(Frame(self.round, "server", self.name(site), made))
            for answer in self.deliver(site, made):
                self._hear(site, answer)

    def sealed_frame(self, kind: Any, site: int, header: wire.Header, tail: bytes = b"") -> bytes:
        """A message of this server's, with its trailer."""
        encoded = wire.encode_header(header)
        sealed = wire.frame_digest(
            self.context(kind, site), kind.number, wire.SERVER, site, encoded, tail
        )
        trailer = self.identity.sign(sealed) if self.plan.signed else sealed
        return wire.frame_head(kind.number, wire.SERVER, site, encoded) + tail + trailer

    def context(self, kind: Any, site: int) -> bytes:
        """What binds a message of this kind to session, round and model, as ``site`` has it."""
        if not kind.per_round:
            return self._setup
        model = self.broadcast
        for behaviour in self.behaviours:
            model = behaviour.model(self, site, model)
        return round_context(self._setup, model)

    def _hear(self, site: int, frame: bytes) -> None:
        self.frames.append(Frame(self.round, self.name(site), "server", frame))
        parts = wire.split_frame(frame, trailer_size=messages.trailer_size(self.plan))
        counted = [b.hears(self, site, parts.kind, frame) for b in self.behaviours]
        if not all(counted):
            self.held.append((site, parts.kind))
            return
        tail = bytes(parts.tail)
        if parts.kind == messages.ADVERT.number:
            self.adverts[site] = tail + (parts.trailer if self.plan.signed else b"")
        elif parts.kind == messages.SHARES.number:
            size = messages.SEALED_SIZE
            self.sealed[site] = {
                holder: tail[at * size : (at + 1) * size]
                for at, holder in enumerate(self._dealt_to[site])
            }
        elif parts.kind == messages.INPUT.number:
            self.inputs.add(site)
        elif parts.kind == messages.CONSENT.number:
            self.consented[site] = (self.bitmap(self.announced[site]), parts.trailer)
        elif parts.kind == messages.REVEAL.number:
            self.revealed.append(site)

    def _told(self, step: Step, site: int, sites: Sites) -> Sites:
        for behaviour in self.behaviours:
            sites = behaviour.told(self, step, site, sites)
        return sites

    def _size(self, step: Step, site: int, sites: Sites) -> int:
        size = len(sites)
        for behaviour in self.behaviours:
            size = behaviour.stated(self, step, site, size)
        return size

    def _colluding_consent(self, site: int, bitmap: bytes) -> bytes:
        kind, context = messages.CONSENT, self.context(messages.CONSENT, site)
        encoded = wire.encode_header(messages.Consent(masks.survivors_digest(context, bitmap)))
        what = wire.frame_digest(context, kind.number, site, wire.SERVER, encoded, b"")
        return self.colluders[site].sign(what)

    def near(self, site: int) -> Sites:
        """Neighbours of a site, as it is told them."""
        near = self.graph[site]
        for behaviour in self.behaviours:
            near = behaviour.neighbours(self, site, near)
        return near

    def name(self, site: int) -> str:
        """Of a site in the roster."""
        return self.plan.roster.names[site]

    def bitmap(self, sites: Iterable[int]) -> bytes:
        """A set of sites as it travels."""
        return wire.to_bitmap(sites, self.plan.clients)


class Equivocate(Behaviour):
    """Tells each site another list in one step. told: by site; who is not in it hears the truth."""

    def __init__(self, step: Step, told: Mapping[int, Collection[int]]) -> None:
        self.step, self._told = step, {site: frozenset(sites) for site, sites in told.items()}

    def told(self, server: CheatingServer, step: Step, site: int, sites: Sites) -> Sites:
        """The list for this site."""
        return self._told.get(site, sites) if step == self.step else sites


class Overstate(Behaviour):
    """Says in one step that the whole roster is in, where a site cannot see that it is not."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def stated(self, server: CheatingServer, step: Step, site: int, size: int) -> int:
        """The size of the roster, in this step."""
        return server.plan.clients if step == self.step else size


class Declare(Behaviour):
    """Lies to all sites alike: ``gone`` have dropped out by this step."""

    def __init__(self, gone: Collection[int], step: Step = Step.INPUT) -> None:
        self.gone, self.step = frozenset(gone), step

    def told(self, server: CheatingServer, step: Step, site: int, sites: Sites) -> Sites:
        """The list without them."""
        return sites - self.gone if step == self.step else sites


class SubstituteKeys(Behaviour):
    """Gives sites other keys for their peers. adverts: by peer, mask key and channel key."""

    def __init__(self, adverts: Mapping[int, bytes], to: Collection[int] | None = None) -> None:
        self._adverts, self.to = dict(adverts), None if to is None else frozenset(to)

    def advert(self, server: CheatingServer, site: int, peer: int, advert: bytes) -> bytes:
        """The other keys, with the signature of the true ones: it has no better one."""
        meant = self.to is None or site in self.to
        keys = self._adverts.get(peer) if meant else None
        return advert if keys is None else keys + advert[messages.ADVERT_SIZE :]


class Replay(Behaviour):
    """Sends each frame of one kind several times, or frames of earlier rounds before it."""

    def __init__(self, kind: int, times: int = 2, before: Iterable[Frame] = ()) -> None:
        self.kind, self.times = kind, times
        self._before = [f for f in before if f.sender == "server" and f.data[3] == kind]

    def sends(self, server: CheatingServer, site: int, kind: int, frame: bytes) -> list[bytes]:
        """Old frames to this site first, then the frame as often as said."""
        if kind != self.kind:
            return [frame]
        name = server.name(site)
        return [f.data for f in self._before if f.to == name] + [frame] * self.times


class HoldBack(Behaviour):
    """Acts as if messages of one kind from these sites had not come; it has them all the same."""

    def __init__(self, kind: int, sites: Collection[int]) -> None:
        self.kind, self.sites = kind, frozenset(sites)

    def hears(self, server: CheatingServer, site: int, kind: int, frame: bytes) -> bool:
        """Whether this one counts."""
        return kind != self.kind or site not in self.sites


class AskAgain(Behaviour):
    """After the reveals, tells sites another survivor list and asks for consent and reveal again.

    told: by site, or one list for all who revealed. before: called with the site before it is
    asked again, where the server can also make it start again from its stored state.
    """

    def __init__(
        self,
        told: Mapping[int, Collection[int]] | Collection[int],
        before: Callable[[int], None] | None = None,
    ) -> None:
        self._told, self._before = told, before

    def ends(self, server: CheatingServer) -> None:
        """The second asking."""
        asked = sorted(set(server.revealed))
        server.consented = {}
        for site in asked:
            told = self._told.get(site) if isinstance(self._told, Mapping) else self._told
            if told is None or site not in told:
                continue
            if self._before is not None:
                self._before(site)
            server.announce_to(site, frozenset(told))
        server.confirm()


class PassConsents(Behaviour):
    """Chooses which consents a site gets where lists differ.

    few: all that there are on the site's own list, however few. filled: the threshold is filled
    up with consents on other lists.
    """

    def __init__(self, *, filled: bool = False) -> None:
        self.filled = filled

    def consents(
        self, server: CheatingServer, site: int, own: Signed, others: Signed
    ) -> Signed | None:
        """See the class."""
        need = server.plan.protocol.share_threshold
        chosen = {s: own[s] for s in sorted(own)[:need]}
        if self.filled:
            for signer in sorted(set(others) & set(server.announced[site]) - set(chosen)):
                if len(chosen) < need:
                    chosen[signer] = others[signer]
        return chosen


class DifferentModels(Behaviour):
    """Broadcast another model to some sites. models: by site."""

    def __init__(self, models: Mapping[int, bytes]) -> None:
        self.models = dict(models)

    def model(self, server: CheatingServer, site: int, model: bytes) -> bytes:
        """What this site got."""
        return self.models.get(site, model)


class Shrink(Behaviour):
    """Leaves out one more site each round, as if it had dropped out. order: who goes, in turn."""

    def __init__(self, order: Sequence[int], *, per_round: int = 1) -> None:
        self.order, self.per_round = tuple(order), per_round

    def told(self, server: CheatingServer, step: Step, site: int, sites: Sites) -> Sites:
        """U1 without those whose turn has come."""
        if step != Step.ADVERTISE:
            return sites
        return sites - frozenset(self.order[: server.round * self.per_round])


class AtRandom(Behaviour):
    """Draws a list of its own for each site in one step: any that is long enough for the plan."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def told(self, server: CheatingServer, step: Step, site: int, sites: Sites) -> Sites:
        """A list that holds the site, drawn anew for each."""
        if step != self.step:
            return sites
        others = sorted(sites - {site})
        least = min(server.plan.min_survivors, len(others) + 1)
        size = int(server.rng.integers(least, len(others) + 1, endpoint=True))
        drawn = server.rng.choice(others, size=size - 1, replace=False)
        return frozenset({site, *drawn.tolist()})


__all__ = [
    "AskAgain",
    "AtRandom",
    "Behaviour",
    "CheatingServer",
    "Declare",
    "Deliver",
    "DifferentModels",
    "Equivocate",
    "HoldBack",
    "Overstate",
    "PassConsents",
    "Replay",
    "Shrink",
    "SubstituteKeys",
]
