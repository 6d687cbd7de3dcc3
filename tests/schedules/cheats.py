"""Sites of a run that hold valid keys and lie.

A cheat is the package's own client with some of its answers changed, sealed or signed afresh.
It notes what it lied about, so that a test can demand that the lie is noticed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import secagg
from secagg import Client, Event, Send, Step
from secagg_native import bitpack
from secagg_protocols import wire
from secagg_protocols.keys import encrypt_once
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.result import ring_size
from secagg_protocols.shamir import PRIME, SHARE_SIZE, encode_shares, split
from support.network import SERVER, ForbiddenError, Parcel, step_of

#: Points of Curve25519 of low order (RFC 7748, section 6.1; cr.yp.to/ecdh.html), both signs of
#: the ignored top bit.
LOW_ORDER = tuple(
    (value | top << 255).to_bytes(32, "little")
    for value in (
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
    for top in (0, 1)
)


_LENGTH = struct.Struct("<I")


def parts(plan: secagg.Plan, data: bytes) -> tuple[int, bytes, bytes]:
    """Kind, header and tail of a frame, whatever they hold (``protocols/specs/wire.md``)."""
    (size,) = _LENGTH.unpack_from(data, wire.PREFIX_SIZE - _LENGTH.size)
    begin = wire.PREFIX_SIZE + size
    return data[3], data[wire.PREFIX_SIZE : begin], data[begin : -messages.trailer_size(plan)]


@dataclass(frozen=True, slots=True)
class Deed:
    """One lie, and the step at which it is told."""

    name: str
    step: Step


#: What a cheat can do at which step; what is listed often is rarely seen otherwise.
DEEDS = {
    Step.ADVERTISE: ("low-order", "one key twice", "copied key"),
    Step.SHARE: (
        *["deal wrong"] * 6,
        "deal unopenable",
        "deal unreduced",
        "deal other self seed",
        *["deal other mask seed"] * 3,
        "other commitment",
    ),
    Step.INPUT: ("poison", "padding", "padding"),
    Step.CONSENT: ("other consent",),
    Step.REVEAL: (
        *["reveal wrong"] * 5,
        "reveal swapped",
        "reveal missing",
        "reveal unreduced",
        *["reveal bitmap"] * 3,
    ),
}
ANYWHERE = ("bad header", "bad tail", "twice", "forge", "quit")


@dataclass
class Lies:
    """What a cheat lied about, by dealer or holder index and by message."""

    dealt: dict[int, set[str]] = field(default_factory=dict)  # holder -> {"self", "mask"}
    sealed: set[int] = field(default_factory=set)  # holders that got nothing they can open
    revealed: dict[bytes, set[int]] = field(default_factory=dict)  # frame -> dealers
    withheld: dict[bytes, set[int]] = field(default_factory=dict)  # frame -> dealers
    added: dict[bytes, int] = field(default_factory=dict)  # frame -> levels on coordinate 0
    committed: set[bytes] = field(default_factory=set)
    poison: set[bytes] = field(default_factory=set)


class CheatingClient(Client):
    """A client that deals shares as its deeds say."""

    rng: random.Random
    deeds: tuple[Deed, ...] = ()
    lies: Lies
    #: Dealer -> the share that an honest site in this place would reveal.
    truth: dict[int, bytes]

    def _reveal(self) -> list[Event]:
        survivors = set(self._u3)
        held = {dealer: self._shares.get(dealer) for dealer in self._u2}
        self.truth = {
            dealer: pair[:SHARE_SIZE] if dealer in survivors else pair[SHARE_SIZE:]
            for dealer, pair in held.items()
            if pair is not None
        }
        return super()._reveal()

    def does(self, name: str) -> bool:
        """Whether a deed of this name was chosen."""
        return any(deed.name == name for deed in self.deeds)

    def _seal_shares(self, present: tuple[int, ...]) -> bytes:
        own, setup, rng = self._own(), self.contexts.setup, self.rng
        holders = sorted((*present, self.index))
        secrets = [own.self_seed, own.mask_seed]
        if self.does("deal other self seed"):
            secrets[0] = rng.randbytes(32)
        if self.does("deal other mask seed"):
            secrets[1] = rng.randbytes(32)
        table = split(secrets, holders, self.plan.protocol.share_threshold, own.share_seed(setup))
        some = rng.choice((1, 1, 1, 2, len(present)))
        targets = set(rng.sample(present, min(some, len(present))))
        how = rng.choice(("random", "off by one", "swapped"))
        which = rng.choice(({"self"}, {"mask"}, {"self", "mask"}, {"self", "mask"}))
        out = bytearray()
        for holder, row in zip(holders, table, strict=True):
            if holder == self.index:
                self._shares[holder] = encode_shares(row)
                continue
            given = row
            if self.does("deal wrong") and holder in targets:
                given = row[::-1] if how == "swapped" else row.copy()
                for place, part in enumerate(("self", "mask")):
                    if how != "swapped" and part in which:
                        given[place] = wrong_share(rng, row[place], how, holder)
                self.lies.dealt[holder] = {"self", "mask"} if how == "swapped" else which
            plaintext = encode_shares(given)
            if self.does("deal unreduced") and holder in targets:
                cut = bytearray(plaintext)
                at = 8 * rng.randrange(len(cut) // 8)
                cut[at : at + 8] = rng.choice((PRIME, 1 << 61, (1 << 64) - 1)).to_bytes(8, "little")
                plaintext = bytes(cut)
                self.lies.sealed.add(holder)
            key, self._opening[holder] = self._channel(holder)
            box = encrypt_once(key, plaintext, masks.channel_info(setup, self.index, holder))
            if self.does("deal unopenable") and holder in targets:
                box = rng.randbytes(len(box))
                self.lies.sealed.add(holder)
            out += box
        return bytes(out)


def wrong_share(rng: random.Random, share: Any, how: str, holder: int) -> Any:
    """Another reduced share: every limb at random, or one limb too large."""
    out = share.copy()
    if how == "random":
        return np.array([rng.randrange(PRIME) for _ in share], dtype=np.uint64)
    at = rng.randrange(len(out))
    # Errors of one size can cancel: together they are another sharing of the same secret, which
    # nobody can tell from the right one and which harms nobody. These do not.
    out[at] = (int(out[at]) + pow(holder + 1, 50, PRIME)) % PRIME
    return out


class CheatingSite:
    """A cheat and its caller."""

    honest = False

    def __init__(
        self,
        rng: random.Random,
        client: CheatingClient,
        vector: Any,
        weight: int,
        deeds: tuple[Deed, ...],
        friends: list[CheatingSite],
    ) -> None:
        self.rng, self.client, self.vector, self.weight = rng, client, vector, weight
        self.name, self.deeds, self.friends = client.name, deeds, friends
        self.events: list[Event] = []
        self.lies = Lies()
        client.rng, client.deeds, client.lies = rng, deeds, self.lies
        self.keys = b""
        self.gone = False

    def start(self) -> list[Parcel]:
        """Advertise, perhaps falsely."""
        self.client.submit(self.vector, self.weight)
        return self.send(self.client.start())

    def nudge(self) -> list[Parcel]:
        """A cheat owes nothing."""
        return []

    def deliver(self, data: bytes, sender: str | None) -> list[Parcel]:
        """Receive as an honest client would, answer as a cheat."""
        if self.gone:
            return []
        try:
            events = self.client.receive(data, sender=sender)
        except secagg.SecAggError as error:
            # Its own client follows the protocol with an honest server; only its answers lie.
            raise ForbiddenError(f"{self.name} was ended by an honest server: {error!r}") from error
        self.events += events
        return self.send(events)

    def send(self, events: Sequence[Event]) -> list[Parcel]:
        out: list[Parcel] = []
        for event in events:
            if isinstance(event, Send):
                out += self.lie(event.data)
        return out

    def lie(self, data: bytes) -> list[Parcel]:
        """The messages that go out instead of this one."""
        step = step_of(data)
        deeds = [deed for deed in self.deeds if deed.step == step]
        if self.gone or any(deed.name == "quit" for deed in deeds):
            self.gone = True
            return []
        kind, header, tail = parts(self.client.plan, data)
        never, extra = False, list[Parcel]()
        for deed in deeds:
            header, tail, never, more = self.apply(deed, kind, header, tail, never)
            extra += more
        sealed = self.seal(kind, header, tail)
        out = [self.parcel(sealed, deeds, never), *extra]
        self.note(sealed, deeds, header, tail)
        if self.rng.random() < 0.3:
            self.rng.shuffle(out)
        return out

    def parcel(self, data: bytes, deeds: Sequence[Deed], never: bool) -> Parcel:
        return Parcel(self.name, SERVER, data, ", ".join(d.name for d in deeds), never)

    def seal(self, kind: int, header: bytes, tail: bytes, sender: int | None = None) -> bytes:
        """A frame with a valid trailer of this site, whatever it holds."""
        client = self.client
        index = client.index if sender is None else sender
        context = client.contexts.round if messages.KINDS[kind].per_round else client.contexts.setup
        digest = wire.frame_digest(context, kind, index, wire.SERVER, header, tail)
        size = messages.trailer_size(client.plan)
        buffer, view = wire.start_frame(kind, index, wire.SERVER, header, len(tail), size)
        view[:] = tail
        view.release()
        return client._seal_frame(buffer, digest)

    def apply(
        self, deed: Deed, kind: int, header: bytes, tail: bytes, never: bool
    ) -> tuple[bytes, bytes, bool, list[Parcel]]:
        """One deed on one message: header, tail, whether it must be refused, other messages."""
        rng, more = self.rng, list[Parcel]()
        match deed.name:
            case "low-order":
                bad = rng.choice(LOW_ORDER)
                tail = rng.choice((bad + tail[32:], tail[:32] + bad, bad + bad))
                never = True
            case "one key twice":
                tail, never = tail[:32] * 2, True
            case "copied key":
                # Only keys of friends: an honest site's keys are seen once they are accepted.
                known = [f.keys for f in self.friends if f.keys and f is not self]
                if known:
                    tail = rng.choice(
                        (known[0], known[0][32:] + tail[32:], tail[:32] + known[0][:32])
                    )
            case "other commitment":
                header = wire.encode_header(messages.Shares(rng.randbytes(32)))
            case "poison":
                plan = self.client.plan
                ring = np.array(
                    [rng.randrange(1 << plan.wire_bits) for _ in range(plan.ring_length)],
                    dtype=plan.lane,
                )
                tail = pack(plan, ring)
            case "padding":
                unused = -self.client.plan.ring_length * self.client.plan.wire_bits % 8
                if unused:
                    tail = tail[:-1] + bytes([tail[-1] | 0x80 >> rng.randrange(unused)])
                    never = True
            case "other consent":
                header, never = wire.encode_header(messages.Consent(rng.randbytes(32))), True
            case "bad header":
                bad_headers = [
                    b"",
                    b"\xc0",
                    header + b"\x00",
                    header[:-1],
                    b"\xdc" + len(header).to_bytes(2, "big") + header[1:],
                    b"\x92\xc4\x01\x00\x00",
                    b"\x91" * 60,
                    rng.randbytes(len(header) + 3),
                ]
                header, never = rng.choice([h for h in bad_headers if h != header]), True
            case "bad tail":
                longer = tail + rng.randbytes(rng.choice((1, 8, SHARE_SIZE)))
                tail, never = rng.choice((longer, tail[:-1])) if tail else longer, True
            case "twice":
                more.append(self.second(kind, header, tail))
            case "forge":
                other = rng.choice(
                    [i for i in range(self.client.plan.clients) if i != self.client.index]
                )
                data = self.seal(kind, header, tail, sender=other)
                more.append(Parcel(self.name, SERVER, data, "forge", never=True))
            case name if name.startswith("reveal"):
                header, tail, never = self.reveal(name, header, tail, never)
        return header, tail, never, more

    def second(self, kind: int, header: bytes, tail: bytes) -> Parcel:
        """Another message for the same step, valid by itself where one can be made."""
        rng, never = self.rng, False
        step = messages.KINDS[kind].step
        if step == Step.ADVERTISE:
            tail = rng.randbytes(64)
        elif step == Step.SHARE:
            header = wire.encode_header(messages.Shares(rng.randbytes(32)))
        elif step == Step.CONSENT:
            header, never = wire.encode_header(messages.Consent(rng.randbytes(32))), True
        elif step == Step.INPUT:
            plan = self.client.plan
            ring = np.zeros(plan.ring_length, dtype=plan.lane)
            bitpack.unpack(tail, plan.wire_bits, ring)
            ring[0] = (int(ring[0]) + 1) % (1 << plan.wire_bits)
            tail = pack(plan, ring)
        else:
            shares = np.frombuffer(tail, dtype="<u8").copy()
            if shares.size:
                shares[0] = (int(shares[0]) + 1) % PRIME
                tail = shares.tobytes()
        data = self.seal(kind, header, tail)
        if step == Step.ADVERTISE:
            # Masks made with other keys than those advertised do not cancel.
            self.lies.poison.add(data)
        if step == Step.SHARE:
            self.lies.committed.add(data)
        if step == Step.INPUT:
            self.lies.added[data] = 1
        if step == Step.REVEAL:
            self.lies.revealed[data] = set(self.given(header)[:1])
        return Parcel(self.name, SERVER, data, f"twice, second {step.label}", never)

    def given(self, header: bytes) -> list[int]:
        """Dealers of whom a reveal with this header holds a share."""
        missing = wire.from_bitmap(
            wire.decode_header(messages.Reveal, header).missing, self.client.plan.clients
        )
        return [dealer for dealer in self.client._u2 if dealer not in missing]

    def reveal(
        self, name: str, header: bytes, tail: bytes, never: bool
    ) -> tuple[bytes, bytes, bool]:
        """A false reveal. What is false is noted by :meth:`note`."""
        rng, n = self.rng, self.client.plan.clients
        try:
            given = self.given(header)
        except secagg.DecodeError:
            return header, tail, never  # another deed has spoilt the header already
        if not given or len(tail) != SHARE_SIZE * len(given):
            return header, tail, never
        rows = np.frombuffer(tail, dtype="<u8").reshape(len(given), -1).copy()
        some = rng.sample(range(len(given)), rng.choice((1, 1, min(2, len(given)), len(given))))
        if name == "reveal wrong":
            how = rng.choice(("random", "off by one"))
            for row in some:
                rows[row] = wrong_share(rng, rows[row], how, row)
        elif name == "reveal swapped":
            rows = np.roll(rows, 1, axis=0)
        elif name == "reveal missing":
            kept = [row for row in range(len(given)) if row not in some]
            lost = set(range(n)) & ({given[row] for row in some} | self.missing(header))
            header = wire.encode_header(messages.Reveal(wire.to_bitmap(lost, n)))
            rows = rows[kept]
        elif name == "reveal unreduced":
            rows[some[0], rng.randrange(5)] = rng.choice((PRIME, 1 << 61, (1 << 64) - 1))
            never = True
        elif name == "reveal bitmap":
            outside = [i for i in range(n) if i not in self.client._u2]
            lists = [b"", bytes(wire.bitmap_size(n) + 1)]
            if n % 8:
                lists.append((1 << n).to_bytes(wire.bitmap_size(n), "little"))
            if outside and rng.random() < 0.8:
                lists = [wire.to_bitmap([rng.choice(outside)], n)]
            header = wire.encode_header(messages.Reveal(rng.choice(lists)))
            never = True
        return header, rows.tobytes(), never

    def missing(self, header: bytes) -> set[int]:
        return set(self.client._u2) - set(self.given(header))

    def note(self, data: bytes, deeds: Sequence[Deed], header: bytes, tail: bytes) -> None:
        """Remember what the message that goes out is false about."""
        names = {deed.name for deed in deeds}
        step = step_of(data)
        if step == Step.ADVERTISE:
            self.keys = tail
            own = self.client._own()
            if tail != own.mask_key + own.channel_key:
                self.lies.poison.add(data)
        if names & {"other commitment", "deal other self seed"} and step == Step.SHARE:
            self.lies.committed.add(data)
        if "poison" in names:
            self.lies.poison.add(data)
        if step == Step.REVEAL and names:
            self.compare(data, header, tail)

    def compare(self, data: bytes, header: bytes, tail: bytes) -> None:
        try:
            given = self.given(header)
        except secagg.DecodeError:
            return
        truth = self.client.truth
        if len(tail) != SHARE_SIZE * len(given):
            return
        said = {d: tail[i * SHARE_SIZE : (i + 1) * SHARE_SIZE] for i, d in enumerate(given)}
        self.lies.revealed[data] = {d for d, share in said.items() if truth.get(d) != share}
        self.lies.withheld[data] = {d for d in truth if d not in said}


def pack(plan: secagg.Plan, ring: Any) -> bytes:
    """A ring vector as it travels."""
    out = bytearray(ring_size(plan))
    bitpack.pack(ring, plan.wire_bits, out)
    return bytes(out)
