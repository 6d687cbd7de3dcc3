"""A world of parties of a Paillier sum with known identities and seeds, as :mod:`.world`.

Keys are the fixed ones of :mod:`.paillier_keys`; the dealing of a key to holders is done once in
a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import secagg
from secagg.attacks.arena.paillier_keys import primes
from secagg.attacks.arena.world import MODEL, SESSION, STAGES, Edit, World, digest
from secagg_native.paillier import from_words, to_words
from secagg_protocols import wire
from secagg_protocols.paillier import KeyShare, PrivateKey, PublicKey, modulus_proof, split
from secagg_protocols.paillier_sum import Client, Holder, Server, messages
from secagg_protocols.plan import PAILLIER_SUITE

Share = KeyShare | PrivateKey
BITS = 2048


@cache
def private_key(bits: int = BITS, number: int = 0) -> PrivateKey:
    """A fixed key with the proof about its modulus."""
    p, q = primes(bits, number)
    return PrivateKey(p, q, proof=modulus_proof.prove(p, q))


def dealt(
    holders: int, threshold: int, bits: int = BITS, *, knowledge_proofs: bool = True
) -> tuple[PublicKey, tuple[Share, ...]]:
    """A public key and its holders' shares; of one holder with threshold 1, the key itself.

    Dealt once in a process, however it is asked for: another dealing would have other shares.
    """
    found = _dealt(holders, threshold, bits)
    return found if knowledge_proofs else without_proofs(*found)


@cache
def _dealt(holders: int, threshold: int, bits: int) -> tuple[PublicKey, tuple[Share, ...]]:
    private = private_key(bits)
    if holders == 1:
        return private.public, (private,)
    key, shares = split(private, holders, threshold)
    return key, tuple(shares)


def without_proofs(
    key: PublicKey, shares: tuple[Share, ...]
) -> tuple[PublicKey, tuple[Share, ...]]:
    """The same numbers as a key under which sites prove nothing."""
    other = replace(key, knowledge_proofs=False)
    return other, tuple(
        PrivateKey(share.p, share.q, proof=key.proof, knowledge_proofs=False)
        if isinstance(share, PrivateKey)
        else replace(share, public=other)
        for share in shares
    )


@cache
def people(n: int, holders: int) -> tuple[secagg.Roster, dict[str, secagg.Identity]]:
    """A roster of sites s0, s1, ... and holders h0, h1, ... with identities of their names."""
    sites, opening = [f"s{i}" for i in range(n)], [f"h{i}" for i in range(holders)]
    identities = {
        name: secagg.Identity(name, digest("identity", name))
        for name in [*sites, *opening, "server"]
    }
    roster = secagg.Roster(
        sites=tuple((name, identities[name].public) for name in sites),
        server=identities["server"].public,
        holders=tuple((name, identities[name].public) for name in opening),
    )
    return roster, identities


def make_plan(
    n: int = 4,
    *,
    holders: int = 3,
    threshold: int = 2,
    colluding_holders: int = 0,
    knowledge_proofs: bool = True,
    kind: Any = secagg.Plan,
    **changes: Any,
) -> secagg.Plan:
    """A malicious-server plan for ``n`` sites, one of them colluding, one dropout.

    kind: the class of the plan, for a control. changes: fields that differ.
    """
    fields: dict[str, Any] = {
        "roster": people(n, holders)[0],
        "length": 5,
        "stages": STAGES,
        "protocol": secagg.PaillierSum(
            key=dealt(holders, threshold, knowledge_proofs=knowledge_proofs)[0],
            colluding_holders=colluding_holders,
        ),
        "threat": "malicious-server",
        "colluding": 1,
        "max_dropouts": 1,
        "min_honest": 2,
        "sites_receive": True,
        "suite": PAILLIER_SUITE,
        "security_bits": 40,
    }
    made: secagg.Plan = kind(**(fields | changes))
    return made


def one_key_plan(n: int = 4, **changes: Any) -> secagg.Plan:
    """A plan whose key belongs to one holder."""
    return make_plan(n, holders=1, threshold=1, **changes)


def trusting_plan(n: int = 4, **changes: Any) -> secagg.Plan:
    """A semi-honest plan without proofs of knowledge."""
    return make_plan(n, threat="semi-honest", **({"knowledge_proofs": False} | changes))


def shares_of(plan: secagg.Plan) -> dict[str, Share]:
    """Each holder's share of the plan's key."""
    key = messages.protocol_of(plan).key
    dealing = dealt(key.holders, key.threshold, knowledge_proofs=key.knowledge_proofs)
    if dealing[0] != key:
        raise secagg.MisuseError("only plans under the fixed keys are played", rule="arguments")
    return {name: share for (name, _), share in zip(plan.roster.holders, dealing[1], strict=True)}


class PaillierWorld(World):
    """All parties of one round of a Paillier sum, run with every message in reach."""

    def __init__(
        self,
        plan: secagg.Plan,
        *,
        classes: Mapping[str, type[Any]] | None = None,
        edit: Edit | None = None,
        floors: Mapping[str, secagg.Floors] | None = None,
        journals: dict[str, Any] | None = None,
        round: int = 0,
        model: bytes | None = MODEL,
        session: str = SESSION,
        shares: Mapping[str, Share] | None = None,
        data: str = "",
        weights: Mapping[str, int] | None = None,
        threads: int = 1,
    ) -> None:
        self.plan, self.edit, self.round = plan, edit, round
        self.identities = people(plan.clients, len(plan.roster.holders))[1]
        self.holders = [name for name, _ in plan.roster.holders]
        self.shares: dict[str, Any] = {**shares_of(plan), **(shares or {})}
        self.weights = dict(weights or {})
        self.journals = journals if journals is not None else {}
        self.parties = {}
        kinds = classes or {}
        for name in ["server", *plan.roster.names, *self.holders]:
            common: dict[str, Any] = {
                "identity": self.identities[name],
                "session": session,
                "round": round,
                "model": model,
                "threads": threads,
                "journal": self.journals.setdefault(name, secagg.MemoryJournal()),
                "entropy": lambda size, name=name: digest("seed", name, round)[:size],
            }
            own: dict[str, Any] = {"floors": (floors or {}).get(name)}
            if name == "server":
                self.parties[name] = kinds.get(name, Server)(plan, **common)
            elif name in self.holders:
                self.parties[name] = kinds.get(name, Holder)(
                    plan, self.index(name), share=self.shares[name], **own, **common
                )
            else:
                self.parties[name] = kinds.get(name, Client)(
                    plan, self.index(name), data=data, **own, **common
                )
        self.vectors = {
            name: np.resize(np.frombuffer(digest("x", name), dtype=np.uint8), plan.length).astype(
                np.int64
            )
            for name in plan.roster.names
        }
        self.log, self.frames, self.result = [], [], None

    # Names and frames.

    def index(self, name: str) -> int:
        if name == "server":
            return wire.SERVER
        if name in self.holders:
            return self.plan.clients + self.holders.index(name)
        return self.plan.roster.index(name)

    def name(self, index: int) -> str:
        if index == wire.SERVER:
            return "server"
        return [*self.plan.roster.names, *self.holders][index]

    def parts(self, frame: bytes) -> tuple[Any, bytes]:
        """(header, tail) of a frame."""
        found = wire.split_frame(frame, trailer_size=self.server._trailer_size)
        header = wire.decode_header(messages.KINDS[found.kind].header, found.header)
        return header, bytes(found.tail)

    def reseal(
        self,
        frame: bytes,
        *,
        header: Any = None,
        raw: bytes | None = None,
        tail: bytes | None = None,
        sender: str | None = None,
        recipient: str | None = None,
    ) -> bytes:
        """The frame with another header, tail, sender or recipient, validly sealed."""
        parts = wire.split_frame(frame, trailer_size=self.server._trailer_size)
        kind = messages.KINDS[parts.kind]
        encoded = bytes(parts.header) if raw is None else raw
        if header is not None:
            encoded = wire.encode_header(header)
        body = bytes(parts.tail) if tail is None else tail
        from_ = parts.sender if sender is None else self.index(sender)
        to = parts.recipient if recipient is None else self.index(recipient)
        head = wire.frame_head(parts.kind, from_, to, encoded)
        context = self.server._context(kind)
        sealed = wire.frame_digest(context, parts.kind, from_, to, encoded, body)
        if self.plan.signed:
            sealed = self.identities[self.name(from_)].sign(sealed)
        return head + body + sealed

    # Ciphertexts, as plain integers.

    @property
    def key(self) -> PublicKey:
        """The plan's public key."""
        return messages.protocol_of(self.plan).key

    def ciphertexts(self, frame: bytes) -> list[int]:
        """The ciphertexts in a site's frame."""
        rows = np.frombuffer(self.parts(frame)[1][: messages.vector_size(self.plan)], "<u8")
        return from_words(rows.astype(np.uint64).reshape(-1, 2 * self.key.words))

    def with_ciphertexts(
        self, frame: bytes, values: Iterable[int], proof: bytes | None = None
    ) -> bytes:
        """The frame with other ciphertexts, and its own proof or another, validly sealed."""
        own = self.parts(frame)[1][messages.vector_size(self.plan) :]
        return self.reseal(frame, tail=self.bytes_of(values) + (own if proof is None else proof))

    def bytes_of(self, values: Iterable[int]) -> bytes:
        """Ciphertexts as they travel."""
        return to_words(list(values), 2 * self.key.words).astype("<u8").tobytes()

    # The round.

    def pump(self, events: list[Any], sender: str, silent: set[str] | None = None) -> None:
        """Deliver what was sent, and what that brings forth, until nobody says anything."""
        for event in events:
            if isinstance(event, secagg.Done) and sender == "server":
                self.result = event.aggregate
            if isinstance(event, secagg.Send):
                answer = self.deliver(event.data, sender, event.to)
                if event.to not in (silent or ()):
                    self.pump(answer, event.to, silent)

    def send_inputs(self, drop: Iterable[str] = ()) -> PaillierWorld:
        """All sites but ``drop`` send their vectors, and the server passes them on."""
        self.server.start()
        for name in self.plan.roster.names:
            if name not in drop:
                events = self.parties[name].start()
                x, weight = self.vectors[name], self.weights.get(name, 1)
                self.pump(events + self.parties[name].submit(x, weight), name)
        return self

    def run(self, drop: Mapping[Any, list[str]] | None = None) -> PaillierWorld:
        """Run to the end; ``drop`` maps a step to who falls silent before it."""
        gone = {secagg.Step.of(step): set(names) for step, names in (drop or {}).items()}
        self.send_inputs(gone.get(secagg.Step.INPUT, ()))
        return self.run_on(gone.get(secagg.Step.REVEAL, ()))

    def run_on(self, silent: Iterable[str] = ()) -> PaillierWorld:
        """Go on from the inputs; ``silent`` holders do not answer."""
        self.pump(self.server.close_step(), "server", set(silent))
        self.pump(self.server.close_step(), "server")
        return self

    def frame(self, kind: Any, sender: str, recipient: str | None = None) -> bytes:
        """The first frame of a kind that went from one party (to another)."""
        return next(
            frame
            for number, from_, to, frame in self.frames
            if (number, from_) == (kind.number, sender) and recipient in {None, to}
        )

    def weighed(self) -> list[int]:
        """The exact weighted sum over the announced survivors, in plain integers."""
        rows = [
            [self.weights.get(name, 1) * value for value in self.vectors[name].tolist()]
            for name in self.announced
        ]
        return [sum(column) for column in zip(*rows, strict=True)]
