"""Named malformations of each kind of message, with the rules that have to refuse them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from robustness.malform import (
    FIELDS,
    LOW_ORDER,
    PRIME,
    Station,
    bad_headers,
    beyond_roster,
    fields_of,
    pack,
)
from robustness.rounds import Parts, cut_frame

from secagg_protocols.masked_sum import messages

Variant = tuple[str, Parts, set[str]]
BAD_HEADER = {"header", "canonical"}


def general(station: Station) -> Iterator[Variant]:
    """What is wrong for every kind: the header's encoding, the lengths of lists and tails."""
    parts, plan, kind = station.parts, station.round.plan, station.message.kind
    most = messages.largest_frame(plan, messages.KINDS[kind])
    sealed = len(station.message.data) - len(parts.header)
    for name, header in bad_headers(kind, parts.header):
        if sealed + len(header) <= most:
            yield name, replace(parts, header=header), BAD_HEADER
    values = fields_of(parts.header)
    for at, field in enumerate(FIELDS[kind]):
        if field == "s":
            bad = [*values[:at], beyond_roster(plan, values[at]), *values[at + 1 :]]
            yield f"list {at} beyond the roster", replace(parts, header=pack(bad)), {"header"}
    for name, tail in {
        "one byte more": parts.tail + b"\0",
        "one byte less": parts.tail[:-1],
        "no tail": b"",
        "half": parts.tail[: len(parts.tail) // 2],
        "eight more": parts.tail + bytes(8),
    }.items():
        if tail != parts.tail:
            yield f"tail: {name}", replace(parts, tail=tail), {"tail-length"}


def particular(station: Station) -> Iterator[Variant]:
    """What is wrong for one kind only."""
    parts, plan, kind = station.parts, station.round.plan, station.message.kind
    values, tail, n = fields_of(parts.header), parts.tail, plan.clients
    own = parts.recipient

    def fields(*changed: Any) -> Parts:
        return replace(parts, header=pack(list(changed)))

    def body(data: bytes) -> Parts:
        return replace(parts, tail=data)

    def bits(*sites: int) -> bytes:
        return sum(1 << s for s in set(sites)).to_bytes((n + 7) // 8, "little")

    def without(bitmap: bytes, count: int) -> bytes:
        present = [s for s in range(n) if int.from_bytes(bitmap, "little") >> s & 1]
        return bits(*[s for s in present if s == own or s not in present[:count]])

    if kind == 1:
        for point in LOW_ORDER:
            yield f"low order {point.hex()}", body(tail[:32] + point), {"low-order"}
            yield f"low order {point.hex()} first", body(point + tail[32:]), {"low-order"}
        yield "one key twice", body(tail[:32] * 2), {"fresh-keys"}
        other = cut_frame(plan, station.others[0].data).tail
        yield "the keys of another site", body(other), {"fresh-keys"}
        yield "one key of another site", body(tail[:32] + other[:32]), {"fresh-keys"}
    if kind == 2:
        near, present, cohort = values
        row = messages.relayed_advert_size(plan)
        yield "itself a neighbour", fields(bits(own, *range(n)), present, cohort), {"graph"}
        yield "no neighbours", fields(bits(), present, cohort), {"graph"}
        yield "itself present", fields(near, bits(own), cohort), {"adverts-within"}
        few = replace(fields(near, bits(), 1), tail=b"")
        yield "nobody present", few, {"advert-cohort"}
        yield "cohort of none", fields(near, present, 0), {"advert-cohort"}
        yield "cohort beyond the roster", fields(near, present, n + 1), {"advert-cohort"}
        yield "largest cohort", fields(near, present, (1 << 32) - 1), {"advert-cohort"}
        if not plan.complete:
            few = replace(fields(near, bits(), n), tail=b"")
            yield "no holders", few, {"advert-holders"}
        if plan.signed:
            yield "changed key", body(bytes([tail[0] ^ 1]) + tail[1:]), {"advert-signatures"}
            yield "swapped rows", body(tail[row:] + tail[:row]), {"advert-signatures"}
            zeros = tail[:64] + bytes(64) + tail[row:]
            yield "zero signature", body(zeros), {"advert-signatures"}
        else:
            yield "one key twice", body(tail[:32] + tail[:32] + tail[64:]), {"distinct-keys"}
            yield (
                "one row twice",
                body(tail[:row] + tail[:row] + tail[2 * row :]),
                {"distinct-keys"},
            )
            for point in LOW_ORDER:
                yield f"low order {point.hex()}", body(tail[:32] + point + tail[64:]), {"low-order"}
    if kind == 4:
        present, cohort = values
        stranger = int.from_bytes(present, "little") | 1 << (n - 1)
        if n - 1 not in station.party._adverts:
            named = stranger.to_bytes(len(present), "little")
            yield "one without advert", fields(named, cohort), {"sharers-within"}
        yield "cohort of none", fields(present, 0), {"sharer-cohort"}
        yield "too few", fields(without(present, 2), plan.min_survivors - 1), {"sharer-cohort"}
        yield "cohort beyond the roster", fields(present, n + 1), {"sharer-cohort"}
        if not plan.complete:
            yield "no holders", fields(bits(own), n), {"sharer-holders"}
    if kind == 5:
        for bit in range(plan.wire_bits * plan.ring_length % 8, 8):
            yield f"padding bit {bit}", body(tail[:-1] + bytes([tail[-1] | 1 << bit])), {"padding"}
    if kind == 6:
        present, cohort = values
        stranger = int.from_bytes(present, "little") | 1 << (n - 1)
        if n - 1 not in station.party._u2:
            named = stranger.to_bytes(len(present), "little")
            yield "one without shares", fields(named, cohort), {"survivors-within"}
        yield "cohort of none", fields(present, 0), {"survivor-cohort"}
        yield "too few", fields(without(present, 2), plan.min_survivors - 1), {"survivor-cohort"}
        yield "cohort beyond the roster", fields(present, n + 1), {"survivor-cohort"}
        if not plan.complete:
            yield "no holders", fields(bits(own), n), {"survivor-holders"}
    if kind == 7:
        yield "other survivors", fields(bytes(32)), {"consent-set"}
        yield "no survivors' digest", fields(values[0][::-1]), {"consent-set"}
    if kind == 8:
        (signers,) = values
        one_less = without(signers, 1)
        yield "one consent less", replace(fields(one_less), tail=tail[64:]), {"consent-count"}
        yield "nobody", replace(fields(bits()), tail=b""), {"consent-count"}
        last = int.from_bytes(signers, "little").bit_length() - 1
        if last < n - 1:
            named = bits(*range(last), n - 1)
            wrong = {"consent-signatures", "consent-members"}
            yield "another signer", fields(named), wrong
        yield "changed signature", body(bytes([tail[0] ^ 1]) + tail[1:]), {"consent-signatures"}
        yield "one signature twice", body(tail[:64] * (len(tail) // 64)), {"consent-signatures"}
    if kind == 9:
        for at in range(0, len(tail), 8):
            for edge in (PRIME, PRIME + 1, 1 << 63, (1 << 64) - 1):
                changed = tail[:at] + struct.pack("<Q", edge) + tail[at + 8 :]
                yield f"share of {edge:x} at {at}", body(changed), {"share-range"}
        yield "lists all as missing", fields(bits(*range(n))), {"reveal-relations", "tail-length"}
        if not plan.complete:
            far = next(s for s in range(n) if s not in station.party._graph[parts.sender])
            if far != parts.sender:
                yield "a stranger missing", fields(bits(far)), {"reveal-relations"}
    if kind == 10:
        digest, survivors = values
        if plan.sites_receive:
            yield "another digest", fields(bytes(32), survivors), {"result-digest"}
            yield "another sum", body(bytes(len(tail))), {"result-digest"}
        yield "fewer survivors", fields(digest, without(survivors, 1)), {"result-survivors"}
        yield "no survivors", fields(digest, bits()), {"result-survivors"}
