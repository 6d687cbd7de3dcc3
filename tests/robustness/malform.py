"""Ways to malform a message whose trailer is right: headers, site lists, tails."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from robustness.rounds import (
    SERVER,
    SERVER_INDEX,
    Delivery,
    Parts,
    Round,
    clone,
    context_of,
    cut_frame,
    seal_frame,
)

PRIME = (1 << 61) - 1
#: Points of small order on Curve25519 and its twist, and non-canonical forms of them (RFC 7748;
#: https://cr.yp.to/ecdh.html lists them).
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ((1 << 255) - 20).to_bytes(32, "little"),
    ((1 << 255) - 19).to_bytes(32, "little"),
    ((1 << 255) - 18).to_bytes(32, "little"),
]
LOW_ORDER += [point[:31] + bytes([point[31] | 0x80]) for point in LOW_ORDER]

#: Fields of each header by what they hold: s(ite list), c(ount), d(igest).
FIELDS = {1: "", 2: "ssc", 3: "d", 4: "sc", 5: "", 6: "sc", 7: "d", 8: "s", 9: "s", 10: "ds"}

#: Rules that a validly sealed message of each kind may break. The tests demand that all but the
#: ones in ``RARE`` are in fact broken, so a mutation that never reaches a check is noticed.
BROKEN = {
    1: {"header", "canonical", "tail-length", "fresh-keys", "low-order"},
    2: {
        "header",
        "canonical",
        "tail-length",
        "graph",
        "adverts-within",
        "advert-cohort",
        "advert-holders",
        "advert-signatures",
        "distinct-keys",
        "low-order",
    },
    3: {"header", "canonical", "tail-length"},
    4: {
        "header",
        "canonical",
        "tail-length",
        "sharers-within",
        "sharer-cohort",
        "sharer-holders",
        "late",
    },
    5: {"header", "canonical", "tail-length", "padding"},
    6: {
        "header",
        "canonical",
        "tail-length",
        "survivors-within",
        "survivor-cohort",
        "survivor-holders",
        "late",
    },
    7: {"header", "canonical", "tail-length", "consent-set"},
    8: {
        "header",
        "canonical",
        "tail-length",
        "consent-count",
        "consent-members",
        "consent-signatures",
    },
    9: {"header", "canonical", "tail-length", "reveal-relations", "share-range"},
    10: {"header", "canonical", "tail-length", "result-survivors", "result-digest"},
}


@dataclass
class Station:
    """A party just before it takes one message, and all that is needed to forge others."""

    party: Any
    message: Delivery
    parts: Parts
    context: bytes
    round: Round
    others: list[Delivery]  # the rest of this step to the same party
    following: Delivery | None = None  # what this party gets after the step

    def seal(self, parts: Parts) -> bytes:
        identity = self.round.identities[self.message.sender]
        return seal_frame(self.round.plan, identity, self.context, parts)

    def fresh(self) -> Any:
        return clone(self.party)


def stations(round_: Round, *, place: int = 1) -> dict[int, Station]:
    """Run a round; for each kind the party before its message number ``place`` of the kind."""
    found: dict[int, Station] = {}
    seen: dict[int, list[Delivery]] = {}
    for message in round_.deliveries():
        kind, party = message.kind, round_.parties[message.recipient]
        seen.setdefault(kind, []).append(message)
        if len(seen[kind]) == place + 1:
            parts = cut_frame(round_.plan, message.data)
            context = context_of(party, kind)
            found[kind] = Station(clone(party), message, parts, context, round_, [])
    for kind, station in found.items():
        if station.message.recipient == SERVER:
            station.others = [m for m in seen[kind] if m.sender != station.message.sender]
        else:
            later = [k for k in seen if k > kind and k % 2 == 0]
            station.following = next(
                (
                    m
                    for k in sorted(later)
                    for m in seen[k]
                    if m.recipient == station.message.recipient
                ),
                None,
            )
    return found


def fields_of(header: bytes) -> list[Any]:
    return list(msgspec.msgpack.decode(header))


def pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def bad_headers(kind: int, header: bytes) -> Iterator[tuple[str, bytes]]:
    """Headers that are not the canonical encoding of the kind's fields."""
    values = fields_of(header)
    body = header[1:]
    yield "empty", b""
    yield "cut", header[:-1]
    yield "trailing byte", header + b"\xc0"
    yield "twice", header + header
    yield "long array form", b"\xdc" + struct.pack(">H", len(values)) + body
    yield "longest array form", b"\xdd" + struct.pack(">I", len(values)) + body
    yield "array that claims 2^32-1 fields", b"\xdd\xff\xff\xff\xff" + body
    yield "extra nil", pack([*values, None])
    yield "extra count", pack([*values, 0])
    yield "extra bytes", pack([*values, b"x"])
    yield "extra array", pack([*values, [[]]])
    yield "map", pack({"present": b"", "cohort": 1})
    yield "map of numbers", b"\x81\x00\x00"
    yield "nil", b"\xc0"
    yield "true", b"\xc3"
    yield "number", b"\x07"
    yield "bytes", pack(bytes(8))
    yield "reserved code", b"\xc1"
    yield "extension", b"\xc7\x01\x05x"
    yield "timestamp", b"\xd6\xff\x00\x00\x00\x00"
    yield "deep", b"\x91" * 24 + b"\xc0"
    yield "wrong text", b"\x91\xa2\xff\xfe"
    if values:
        yield "missing last", pack(values[:-1])
        yield "missing first", pack(values[1:])
        yield "no fields", b"\x90"
    for at, field in enumerate(FIELDS[kind]):
        for bad in (None, True, 1.5, "text", [], {}, -1, [values[at]], 1 << 64, -(1 << 63)):
            if bad == 1 << 64:
                encoded = b"\xcf" + b"\xff" * 8
            else:
                encoded = pack(bad)
            parts = [pack(v) for v in values]
            parts[at] = encoded
            yield f"field {at} is {bad!r}", bytes([0x90 | len(values)]) + b"".join(parts)
        parts = [pack(v) for v in values]
        if field == "c":
            count = values[at]
            for name, form in (
                ("uint8", struct.pack(">BB", 0xCC, count)),
                ("uint16", struct.pack(">BH", 0xCD, count)),
                ("uint32", struct.pack(">BI", 0xCE, count)),
                ("uint64", struct.pack(">BQ", 0xCF, count)),
                ("int8", struct.pack(">Bb", 0xD0, count)),
                ("int64", struct.pack(">Bq", 0xD3, count)),
                ("float", struct.pack(">Bd", 0xCB, count)),
                ("2^32", struct.pack(">BQ", 0xCF, 1 << 32)),
            ):
                parts[at] = form
                yield f"count as {name}", bytes([0x90 | len(values)]) + b"".join(parts)
        else:
            data = values[at]
            for name, form in (
                ("bin16", struct.pack(">BH", 0xC5, len(data)) + data),
                ("bin32", struct.pack(">BI", 0xC6, len(data)) + data),
                ("text", struct.pack(">BB", 0xD9, len(data)) + data),
                ("array", pack(list(data[:8]))),
                ("claims more", struct.pack(">BI", 0xC6, 0xFFFFFFFF) + data),
                ("empty", pack(b"")),
                ("longer", pack(data + b"\0")),
                ("shorter", pack(data[:-1])),
            ):
                parts[at] = form
                yield f"bytes {at} as {name}", bytes([0x90 | len(values)]) + b"".join(parts)


def beyond_roster(plan: Any, bitmap: bytes) -> bytes:
    """The same sites and one more, beyond the roster but within the bitmap's bytes."""
    return (int.from_bytes(bitmap, "little") | 1 << plan.clients).to_bytes(len(bitmap), "little")


# Random and structure-aware mutation.


def random_msgpack(random_: random.Random, depth: int = 0) -> bytes:
    """Any well-formed or nearly well-formed msgpack value."""
    pick = random_.randrange(14 if depth < 4 else 9)
    if pick < 5:
        edge = random_.choice([0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32])
        return pack(random_.choice([edge, -edge, None, True, False]))
    if pick == 5:
        return struct.pack(">Bd", 0xCB, random_.choice([0.0, 1.0, float("nan"), float("inf")]))
    if pick == 6:
        return pack(random_.randbytes(random_.choice([0, 1, 2, 31, 32, 33])))
    if pick == 7:
        return bytes([0xA0 | 3]) + random_.randbytes(3)
    if pick == 8:
        return random_.choice(
            [b"\xc1", b"\xc7\x01\x05x", b"\xd6\xff\0\0\0\0", b"\xcf" + b"\xff" * 8]
        )
    size = random_.randrange(4)
    inner = b"".join(random_msgpack(random_, depth + 1) for _ in range(size))
    if pick in {9, 10, 11, 12}:
        return bytes([0x90 | size]) + inner
    keys = b"".join(
        pack(f"k{i}") + random_msgpack(random_, depth + 1) for i in range(random_.randrange(3))
    )
    return bytes([0x80 | random_.randrange(3)]) + keys


def flip(random_: random.Random, data: bytes) -> bytes:
    """One to four random edits of single bytes."""
    out = bytearray(data)
    for _ in range(random_.randrange(1, 5)):
        what = random_.randrange(4)
        if what == 0 or not out:
            out.insert(random_.randrange(len(out) + 1), random_.randrange(256))
        elif what == 1:
            del out[random_.randrange(len(out))]
        else:
            out[random_.randrange(len(out))] ^= 1 << random_.randrange(8)
    return bytes(out)


class Mutator:
    """Random messages around one true message; most of them validly sealed."""

    def __init__(self, station: Station, random_: random.Random) -> None:
        self.station = station
        self.random = random_
        self.plan = station.round.plan
        self.kind = station.message.kind
        self.values = fields_of(station.parts.header)
        self.headers = [h for _, h in bad_headers(self.kind, station.parts.header)]
        self.unit = {1: 32, 2: 128 if self.plan.signed else 64, 3: 96, 4: 96, 8: 64, 9: 40}.get(
            self.kind, 8
        )
        self.elsewhere = [cut_frame(self.plan, m.data).tail for m in station.others]

    def next(self) -> bytes:
        """One input."""
        pick = self.random.random()
        if pick < 0.12:
            return self._unsealed()
        parts = self.station.parts
        if pick < 0.20:
            return self._misrouted()
        if pick < 0.45:
            parts = replace(parts, header=self._header())
        elif pick < 0.62:
            parts = replace(parts, header=pack(self._fields()))
        elif pick < 0.80:
            parts = replace(parts, tail=self._tail())
        elif pick < 0.97:
            # A site list that fits its tail comes past the length, to the rules behind it.
            parts = self._consistent()
        return self.station.seal(parts)

    def _unsealed(self) -> bytes:
        random_, data = self.random, self.station.message.data
        pick = random_.randrange(4)
        if pick == 0:
            return random_.randbytes(random_.randrange(2 * len(data)))
        if pick == 1:
            return data[: random_.randrange(len(data))]
        if pick == 2:
            start = b"SA\x01" + bytes([random_.randrange(12)])
            return start + random_.randbytes(random_.randrange(2 * len(data)))
        return flip(random_, data)

    def _misrouted(self) -> bytes:
        random_, parts = self.random, self.station.parts
        index = random_.choice([0, 1, self.plan.clients - 1, self.plan.clients, SERVER_INDEX])
        pick = random_.randrange(3)
        if pick == 0:
            parts = replace(parts, sender=index)
        elif pick == 1:
            parts = replace(parts, recipient=index)
        else:
            parts = replace(parts, kind=random_.randrange(256 if random_.random() < 0.2 else 12))
        return self.station.seal(parts)

    def _header(self) -> bytes:
        pick = self.random.randrange(4)
        if pick == 0:
            return self.random.choice(self.headers)
        if pick == 1:
            return random_msgpack(self.random)
        if pick == 2:
            inner = b"".join(random_msgpack(self.random, 2) for _ in self.values)
            return bytes([0x90 | len(self.values)]) + inner
        return flip(self.random, self.station.parts.header)

    def _fields(self) -> list[Any]:
        """Well-formed fields with other content."""
        random_, values = self.random, list(self.values)
        for at, field in enumerate(FIELDS[self.kind]):
            if random_.random() < 0.3 and len(values) > 1:
                continue
            if field == "s":
                values[at] = self._sites(values[at])
            elif field == "c":
                near = random_.randrange(-2, 3)
                values[at] = max(
                    0, random_.choice([values[at] + near, 0, self.plan.clients, (1 << 32) - 1])
                )
            else:
                values[at] = random_.choice(
                    [random_.randbytes(32), bytes(32), flip(random_, values[at])]
                )
        return values

    def _sites(self, bitmap: bytes) -> bytes:
        random_ = self.random
        pick = random_.randrange(6)
        if pick == 0:
            return flip(random_, bitmap)
        if pick == 1:
            return random_.randbytes(len(bitmap))
        value = int.from_bytes(bitmap, "little")
        if pick == 2:
            value &= random_.getrandbits(self.plan.clients)
        else:
            for _ in range(random_.randrange(1, 3)):
                value ^= 1 << random_.randrange(self.plan.clients)
        return value.to_bytes(len(bitmap), "little")

    def _tail(self) -> bytes:
        random_, tail, unit = self.random, self.station.parts.tail, self.unit
        pick = random_.randrange(8)
        if pick == 0:
            return flip(random_, tail)
        if pick == 1:
            return tail[: random_.randrange(len(tail) + 1)]
        if pick == 2:
            return tail + random_.randbytes(random_.choice([1, 8, unit]))
        if pick == 3 and self.elsewhere:
            return random_.choice(self.elsewhere)
        if pick == 4:
            return random_.choice([bytes(len(tail)), b"\xff" * len(tail)])
        out = bytearray(tail)
        if len(out) < unit or pick == 5:
            for _ in range(random_.randrange(1, 4) if out else 0):
                out[random_.randrange(len(out))] ^= random_.randrange(1, 256)
            return bytes(out)
        at = random_.randrange(len(out) // unit) * unit
        if pick == 6:
            other = random_.randrange(len(out) // unit) * unit
            out[at : at + unit] = out[other : other + unit]
        elif self.kind in {1, 2}:
            at = random_.choice([at, at + 32]) if self.kind == 2 else at
            out[at : at + 32] = random_.choice([*LOW_ORDER, random_.randbytes(32)])
        else:
            edge = random_.choice([PRIME, PRIME - 1, PRIME + 1, (1 << 64) - 1, 1 << 61, 0])
            at += 8 * random_.randrange(unit // 8)
            out[at : at + 8] = struct.pack("<Q", edge)
        return bytes(out)

    def _consistent(self) -> Parts:
        """Fields changed, and the tail made as long as they ask for."""
        parts, random_ = self.station.parts, self.random
        values = self._fields()
        tail = parts.tail
        if self.kind in {2, 4, 8, 9}:
            lists = [v for v, f in zip(values, FIELDS[self.kind], strict=True) if f == "s"]
            named = int.from_bytes(lists[-1], "little").bit_count()
            own = {2: 0, 4: 1, 8: 0, 9: 0}[self.kind]
            if self.kind == 9:
                before = int.from_bytes(self.values[0], "little").bit_count()
                named = len(parts.tail) // 40 + before - named
            count = max(0, named - own) % 64
            tail = (tail + random_.randbytes(self.unit * 8))[: count * self.unit]
            if self.kind in {2, 4, 6} and random_.random() < 0.7:
                values[-1] = named + (1 if self.kind == 2 else 0)
        if self.kind == 6 and random_.random() < 0.7:
            values[-1] = int.from_bytes(values[0], "little").bit_count()
        if self.kind == 10 and random_.random() < 0.5:
            values[1] = self.values[1]
        if random_.random() < 0.3:
            tail = flip(random_, tail) if random_.random() < 0.3 else self._tail()
        return replace(parts, header=pack(values), tail=tail)
