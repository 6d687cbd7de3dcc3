"""What the scenes of Paillier sums share: the server and the sites are played by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import secagg
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_world import PaillierWorld, people
from secagg.attacks.arena.world import MODEL, SESSION, digest
from secagg.attacks.attack import Evidence, Frame
from secagg.attacks.scene import Ints
from secagg_native.paillier import to_words
from secagg_protocols import wire
from secagg_protocols.kinds import Kind
from secagg_protocols.paillier_sum import Client, Holder, messages
from secagg_protocols.paillier_sum.product import Product, read_rows
from secagg_protocols.plan import Plan

#: Sites of every scene; s1 colludes, s0 is the victim.
SITES: Final = 4
VICTIM: Final = "s0"
CHEAT: Final = "s1"
#: Largest coordinate of a site.
MOST: Final = 1000
LENGTH: Final = 8

NO_CIPHERTEXTS: Final = "No ciphertexts: sites hide their vectors by masks. "
IN_CLEAR: Final = "Nothing is encrypted: the server reads every vector as it comes. "


def masked(reason: str) -> dict[str, str]:
    """Why a row does not apply to the protocols that sum masked vectors."""
    columns = ("semi-honest", "malicious-server", "sparse", "noise")
    return dict.fromkeys(columns, NO_CIPHERTEXTS + reason)


def public_of(plan: Plan) -> dict[str, Any]:
    """What everybody knows of a plan, as attacks take it."""
    protocol, layout = messages.protocol_of(plan), messages.layout_of(plan)
    return {
        "n": protocol.key.n.to_bytes(8 * protocol.key.words, "little"),
        "bits": layout.bits,
        "slot_bits": layout.slot_bits,
        "slots": layout.slots,
        "length": layout.length,
        "rows": layout.rows,
        "sites": plan.clients,
        "holders": protocol.holders,
        "threshold": protocol.share_threshold,
        "trailer": wire.SIGNATURE_SIZE if plan.signed else wire.DIGEST_SIZE,
    }


def world_of(
    plan: Plan, vectors: Ints, *, round: int = 0, classes: Mapping[str, type[Any]] | None = None
) -> PaillierWorld:
    """All parties of a round, with these vectors of the sites."""
    world = PaillierWorld(plan, round=round, classes=classes)
    world.vectors = {f"s{i}": vectors[i] for i in range(len(vectors))}
    return world


def encrypted(world: PaillierWorld, sites: Iterable[str]) -> dict[str, bytes]:
    """The messages of these sites, each made once."""
    found = {}
    for name in sites:
        site = world.parties[name]
        (sent,) = site.start() + site.submit(world.vectors[name])
        found[name] = bytes(sent.data)
    return found


def lone_site(plan: Plan, name: str, vector: Any, kind: type[Client] = Client) -> bytes:
    """The message of one site under a plan whose key nobody has."""
    identity = people(plan.clients, len(plan.roster.holders))[1][name]
    site = kind(
        plan,
        plan.roster.index(name),
        identity=identity,
        session=SESSION,
        round=0,
        model=MODEL,
        journal=secagg.MemoryJournal(),
        entropy=lambda size: digest("seed", name)[:size],
        floors=None,
    )
    sent: Any
    (sent,) = site.start() + site.submit(vector)
    return bytes(sent.data)


def as_frames(sent: Mapping[str, bytes], to: str = "server", round: int = 0) -> list[Frame]:
    """Messages by sender, as an attack is given them."""
    return [Frame(round, sender, to, data) for sender, data in sent.items()]


def seal(
    world: PaillierWorld, kind: Kind, sender: str, recipient: str, header: Any, tail: bytes
) -> bytes:
    """A message of a party that is played, signed with its identity."""
    encoded = wire.encode_header(header)
    from_, to = world.index(sender), world.index(recipient)
    context = world.server._context(kind)
    sealed = wire.frame_digest(context, kind.number, from_, to, encoded, tail)
    if world.plan.signed:
        sealed = world.identities[sender].sign(sealed)
    return wire.frame_head(kind.number, from_, to, encoded) + tail + sealed


def submission(world: PaillierWorld, found: Evidence, site: str = CHEAT) -> bytes:
    """The ciphertexts and the proof that an attack made, sent by a site that colludes."""
    tail = found.arrays["rows"].tobytes() + found.arrays["proof"].tobytes()
    return seal(world, messages.ENCRYPTED, site, "server", messages.Encrypted(), tail)


def make_holder(
    world: PaillierWorld, name: str, kind: type[Any] = Holder, journal: Any = None
) -> Any:
    """One holder of the key, as it is after a start."""
    return kind(
        world.plan,
        world.index(name),
        share=world.shares[name],
        floors=None,
        identity=world.identities[name],
        session=SESSION,
        round=world.round,
        model=MODEL,
        journal=secagg.MemoryJournal() if journal is None else journal,
    )


def request(
    world: PaillierWorld, holder: str, sent: Mapping[str, bytes], listed: Collection[str]
) -> bytes:
    """The server's request to open the product of what was ``sent``, for the ``listed`` sites."""
    product = Product(world.plan)
    for site, data in sent.items():
        rows, _ = read_rows(world.plan, memoryview(world.parts(data)[1]))
        product.multiply(world.index(site), rows, threads=1)
    bitmap = world.bitmap(*sorted(world.index(site) for site in listed))
    stated = product.digest(world.server.contexts.round)
    return seal(world, messages.OPEN, "server", holder, messages.Open(bitmap, stated), b"")


def ask(
    world: PaillierWorld,
    holder: Any,
    sent: Mapping[str, bytes],
    listed: Collection[str] | None = None,
    stated: Mapping[str, bytes] | None = None,
) -> tuple[list[str], bytes]:
    """What a holder answers to a server that passes these inputs on and asks for their product.

    listed: the sites that the request names, else those whose inputs were passed on; stated: the
    inputs of which the request states the product. Returns the rules that refused, and the
    answer or nothing.
    """
    refused: list[str] = []
    for data in sent.values():
        refused += rules_of(lambda data=data: holder.receive(data, sender="server"))  # type: ignore[misc]
    if refused:
        return refused, b""
    wanted = request(world, holder.name, stated or sent, sent if listed is None else listed)
    answers: list[bytes] = []

    def receive() -> list[Any]:
        events: list[Any] = holder.receive(wanted, sender="server")
        answers.extend(bytes(e.data) for e in events if isinstance(e, secagg.Send))
        return events

    return rules_of(receive), answers[0] if answers else b""


def open_all(
    world: PaillierWorld, sent: Mapping[str, bytes], kind: type[Any] = Holder
) -> tuple[list[str], dict[str, bytes]]:
    """As many holders as it takes, of class ``kind``, are asked for one product."""
    refused, answers = [], {}
    for name in world.holders[: messages.protocol_of(world.plan).share_threshold]:
        rules, answer = ask(world, make_holder(world, name, kind), sent)
        refused += rules
        if answer:
            answers[name] = answer
    return refused, answers


def key_parts(world: PaillierWorld, holders: Sequence[str]) -> dict[str, bytes]:
    """What these holders hold, as an attack takes it."""
    found = {}
    for name in holders:
        share, size = world.shares[name], 16 * world.key.words
        if hasattr(share, "p"):
            found["p"] = share.p.to_bytes(size, "little")
            found["q"] = share.q.to_bytes(size, "little")
        else:
            found[f"share:{share.index}"] = share.secret.to_bytes(size, "little")
    return found


def cheating_site(plan: Plan, rows: Sequence[int]) -> type[Client]:
    """A malicious site that encrypts these plaintexts, and proves that it knows them."""
    words = messages.protocol_of(plan).key.words
    plain = to_words(list(rows), words)

    class Cheat(Client):
        def _batches(self, encoder: Any) -> Any:
            for start, honest in super()._batches(encoder):
                yield start, plain[start : start + len(honest)]

    return Cheat


def claims(found: Evidence, site: str, truth: Any) -> bool:
    """Whether an attack claims exactly the truth about a site."""
    return found.vectors.get(site) == [int(x) for x in truth]


__all__ = [
    "CHEAT",
    "IN_CLEAR",
    "LENGTH",
    "MOST",
    "NO_CIPHERTEXTS",
    "SITES",
    "VICTIM",
    "as_frames",
    "ask",
    "cheating_site",
    "claims",
    "encrypted",
    "key_parts",
    "lone_site",
    "make_holder",
    "masked",
    "open_all",
    "public_of",
    "request",
    "seal",
    "submission",
    "world_of",
]
