"""A server that cheats: it knows the protocol, its own key and what colluding sites tell it.

It tells every site what it likes, collects whatever honest sites reveal, and tries to open one
site's vector. Honest sites are the real clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import secagg
from secagg.attacks.arena.world import MODEL, SESSION, digest, people
from secagg_native import add_keystreams, bitpack
from secagg_protocols import shamir, wire
from secagg_protocols.lift import lift
from secagg_protocols.masked_sum import Client, masks, messages
from secagg_protocols.masked_sum.graph import draw

#: Site -> the set of sites that it is told.
Told = Callable[[int], frozenset[int]]


class Puppet:
    """One round under a cheating server; sites in ``colluding`` hand it all they have."""

    def __init__(
        self,
        plan: secagg.Plan,
        colluding: Iterable[int] = (),
        *,
        client: type[Any] = Client,
    ) -> None:
        self.plan = plan
        self.n = plan.clients
        self.colluding = frozenset(colluding)
        self.honest = [i for i in range(self.n) if i not in self.colluding]
        self.identities = people(self.n)[1]
        self.graph = [frozenset(row) for row in draw(plan, digest("graph"))]
        self.parties: list[Any] = [
            client(
                plan,
                i,
                identity=self.identities[f"s{i}"],
                session=SESSION,
                round=0,
                model=MODEL,
                floors=None,
                journal=secagg.MemoryJournal(),
                entropy=lambda size, i=i: digest("seed", i)[:size],
            )
            for i in range(self.n)
        ]
        self.vectors = [
            np.frombuffer(digest("x", i), dtype=np.uint8)[: plan.length].astype(np.int64)
            for i in range(self.n)
        ]
        self.adverts: dict[int, tuple[bytes, bytes]] = {}
        self.sealed: dict[int, dict[int, bytes]] = {}
        self.inputs: dict[int, bytes] = {}
        self.consents: dict[int, tuple[bytes, bytes]] = {}
        #: dealer -> holder -> share, by kind of secret.
        self.self_shares: dict[int, dict[int, bytes]] = {i: {} for i in range(self.n)}
        self.mask_shares: dict[int, dict[int, bytes]] = {i: {} for i in range(self.n)}
        #: Sites that revealed, with the survivors they revealed for.
        self.revealed: dict[int, frozenset[int]] = {}

    def seal(self, kind: Any, to: int, header: Any, tail: bytes = b"") -> bytes:
        """A frame of the server's, validly sealed."""
        party = self.parties[to]
        encoded = wire.encode_header(header)
        size = party._trailer_size
        buffer, view = wire.start_frame(kind.number, wire.SERVER, to, encoded, len(tail), size)
        view[:] = tail
        view.release()
        sealed = wire.frame_digest(
            party._context(kind), kind.number, wire.SERVER, to, encoded, tail
        )
        if self.plan.signed:
            sealed = self.identities["server"].sign(sealed)
        buffer[-size:] = sealed
        return bytes(buffer)

    def say(self, kind: Any, to: int, header: Any, tail: bytes = b"") -> list[bytes]:
        """Frames with which a site answers; none where it refuses."""
        try:
            events = self.parties[to].receive(self.seal(kind, to, header, tail))
        except secagg.SecAggError:
            return []
        return [event.data for event in events if isinstance(event, secagg.Send)]

    def split(self, frame: bytes) -> Any:
        return wire.split_frame(frame, trailer_size=self.parties[0]._trailer_size)

    def bitmap(self, sites: Iterable[int]) -> bytes:
        return wire.to_bitmap(sites, self.n)

    def near(self, site: int) -> frozenset[int]:
        return self.graph[site] | {site}

    def advertise(self, told: Told) -> None:
        """Step 1; ``told`` gives U1 as each site hears it."""
        for i, party in enumerate(self.parties):
            frame = self.split(party.start()[0].data)
            self.adverts[i] = (bytes(frame.tail), bytes(frame.trailer))
        for i in range(self.n):
            u1 = told(i)
            present = sorted((u1 & self.graph[i]) - {i})
            tail = b"".join(
                self.adverts[p][0] + (self.adverts[p][1] if self.plan.signed else b"")
                for p in present
            )
            header = messages.Adverts(self.bitmap(self.graph[i]), self.bitmap(present), len(u1))
            for frame in self.say(messages.ADVERTS, i, header, tail):
                rows = bytes(self.split(frame).tail)
                self.sealed[i] = {
                    holder: rows[at * 96 : (at + 1) * 96] for at, holder in enumerate(present)
                }

    def share(self, told: Told) -> None:
        """Step 2; ``told`` gives U2 as each site hears it. Every vector is then submitted."""
        for i in range(self.n):
            u2 = told(i)
            present = sorted(u2 & self.near(i))
            tail = b"".join(self.sealed.get(d, {}).get(i, bytes(96)) for d in present if d != i)
            header = messages.SharesFor(self.bitmap(present), len(u2))
            self.say(messages.SHARES_FOR, i, header, tail)
            try:
                events = self.parties[i].submit(self.vectors[i])
            except secagg.SecAggError:
                continue
            for event in events:
                if isinstance(event, secagg.Send):
                    self.inputs[i] = bytes(self.split(event.data).tail)
        for i in self.colluding:
            # What a colluding site holds: both shares of everybody.
            for dealer, shares in self.parties[i]._shares.items():
                if shares is not None:
                    self.self_shares[dealer][i] = shares[: shamir.SHARE_SIZE]
                    self.mask_shares[dealer][i] = shares[shamir.SHARE_SIZE :]

    def survive(self, told: Told) -> None:
        """Step 3; ``told`` gives U3 as each honest site hears it, and who then answers."""
        for i in self.honest:
            u3 = told(i)
            header = messages.Survivors(self.bitmap(u3 & self.near(i)), len(u3))
            for frame in self.say(messages.SURVIVORS, i, header):
                parts = self.split(frame)
                if parts.kind == messages.REVEAL.number:
                    self.keep(i, u3, frame)
                else:
                    self.consents[i] = (self.bitmap(u3), bytes(parts.trailer))

    def confirm(self, told: Told) -> None:
        """Step 4: each site gets the consents on its own set, colluders consenting to all."""
        need = self.plan.protocol.share_threshold
        for i in list(self.consents):
            u3 = told(i)
            bitmap = self.bitmap(u3)
            signed = {s: c for s, (b, c) in self.consents.items() if b == bitmap}
            for s in self.colluding & u3:
                signed[s] = self.colluder_consent(s, bitmap)
            signers = sorted(signed)[:need]
            if len(signers) < need:
                continue
            header = messages.Consents(self.bitmap(signers))
            tail = b"".join(signed[s] for s in signers)
            for frame in self.say(messages.CONSENTS, i, header, tail):
                self.keep(i, u3, frame)

    def colluder_consent(self, site: int, bitmap: bytes) -> bytes:
        party = self.parties[site]
        kind = messages.CONSENT
        header = messages.Consent(masks.survivors_digest(party.contexts.round, bitmap))
        encoded = wire.encode_header(header)
        what = wire.frame_digest(party._context(kind), kind.number, site, wire.SERVER, encoded, b"")
        return self.identities[f"s{site}"].sign(what)

    def keep(self, site: int, u3: frozenset[int], frame: bytes) -> None:
        """Take a reveal apart."""
        parts = self.split(frame)
        header = wire.decode_header(messages.Reveal, parts.header)
        missing = set(wire.from_bitmap(header.missing, self.n))
        given = [d for d in self.parties[site]._u2 if d not in missing]
        tail = bytes(parts.tail)
        self.revealed[site] = u3
        for at, dealer in enumerate(given):
            share = tail[at * shamir.SHARE_SIZE : (at + 1) * shamir.SHARE_SIZE]
            table = self.self_shares if dealer in u3 else self.mask_shares
            table[dealer][site] = share

    def opened(self, table: dict[int, dict[int, bytes]], dealer: int) -> bytes | None:
        """The secret of a dealer, where enough shares came together."""
        shares = table[dealer]
        need = self.plan.protocol.share_threshold
        if len(shares) < need:
            return None
        holders = sorted(shares)[:need]
        rows = shamir.decode_shares(b"".join(shares[h] for h in holders), sender="")
        secrets, _ = shamir.recover(holders, rows.reshape(need, 1, 5), need)
        return secrets[0]

    def both_secrets(self) -> list[int]:
        """Honest sites of which both secrets can be opened: their vectors are lost."""
        return [
            v
            for v in self.honest
            if self.opened(self.self_shares, v) and self.opened(self.mask_shares, v)
        ]

    def vector(self, victim: int) -> list[int] | None:
        """The victim's vector, unmasked from its input with both its secrets."""
        self_seed = self.opened(self.self_shares, victim)
        mask_seed = self.opened(self.mask_shares, victim)
        if self_seed is None or mask_seed is None or victim not in self.inputs:
            return None
        plan, context = self.plan, self.parties[victim].contexts.round
        keys, signs = [masks.self_mask(self_seed, victim, context)], [-1]
        own = (victim, self.adverts[victim][0][:32])
        for peer in self.parties[victim]._u2:
            if peer != victim:
                other = (peer, self.adverts[peer][0][:32])
                keys.append(masks.pair_mask(mask_seed, own, other, context, sender=""))
                signs.append(-masks.pair_sign(victim, peer))
        ring = np.zeros(plan.ring_length, dtype=plan.lane)
        bitpack.unpack(self.inputs[victim], plan.wire_bits, ring)
        add_keystreams(ring, *masks.key_arrays(keys, signs))
        return [int(x) for x in lift(plan, ring)]
