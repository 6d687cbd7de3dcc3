"""Messages of the masked sum: headers, kinds, exact sizes (``protocols/specs/masked_sum.md``)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from ..events import Step
from ..keys import KEY_SIZE, TAG_SIZE
from ..kinds import Kind
from ..plan import Plan, masked_of
from ..result import Result, result_size, ring_size
from ..shamir import SHARE_SIZE
from ..wire import DIGEST_SIZE, PREFIX_SIZE, SIGNATURE_SIZE, Header, bitmap_size, encode_header

Count = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]


class Advert(Header, frozen=True):
    """Site to server. Tail: mask key, channel key."""


class Adverts(Header, frozen=True):
    """Server to site: its graph neighbours, those that advertised, and |U1|.

    Tail: per present neighbour its two keys, and its signature where the plan signs.
    """

    neighbours: bytes
    present: bytes
    cohort: Count


class Shares(Header, frozen=True):
    """Site to server. Tail: per present neighbour the sealed pair of shares."""

    commitment: Digest


class SharesFor(Header, frozen=True):
    """Server to site: U2 within its neighbours and itself, and |U2|. Tail: sealed shares."""

    present: bytes
    cohort: Count


class Input(Header, frozen=True):
    """Site to server. Tail: the packed masked vector."""


class Survivors(Header, frozen=True):
    """Server to site: U3 within its neighbours and itself, and |U3|."""

    present: bytes
    cohort: Count


class Consent(Header, frozen=True):
    """Site to server: the survivors it confirms. The trailer is the consent."""

    survivors: Digest


class Consents(Header, frozen=True):
    """Server to site. Tail: one signature per signer."""

    signers: bytes


class Reveal(Header, frozen=True):
    """Site to server: relations without a valid share. Tail: one share per other relation."""

    missing: bytes


ADVERT: Final = Kind(1, Step.ADVERTISE, Advert, from_site=True, per_round=False)
ADVERTS: Final = Kind(2, Step.ADVERTISE, Adverts, from_site=False, per_round=False)
SHARES: Final = Kind(3, Step.SHARE, Shares, from_site=True, per_round=False)
SHARES_FOR: Final = Kind(4, Step.SHARE, SharesFor, from_site=False, per_round=False)
INPUT: Final = Kind(5, Step.INPUT, Input, from_site=True, per_round=True)
SURVIVORS: Final = Kind(6, Step.INPUT, Survivors, from_site=False, per_round=True)
CONSENT: Final = Kind(7, Step.CONSENT, Consent, from_site=True, per_round=True)
CONSENTS: Final = Kind(8, Step.CONSENT, Consents, from_site=False, per_round=True)
REVEAL: Final = Kind(9, Step.REVEAL, Reveal, from_site=True, per_round=True)
RESULT: Final = Kind(10, Step.REVEAL, Result, from_site=False, per_round=True)

KINDS: Final = {
    kind.number: kind
    for kind in (
        ADVERT,
        ADVERTS,
        SHARES,
        SHARES_FOR,
        INPUT,
        SURVIVORS,
        CONSENT,
        CONSENTS,
        REVEAL,
        RESULT,
    )
}

#: Two X25519 public keys.
ADVERT_SIZE: Final = 2 * KEY_SIZE
#: Self-seed share and mask-seed share under one tag.
SEALED_SIZE: Final = 2 * SHARE_SIZE + TAG_SIZE


def trailer_size(plan: Plan) -> int:
    """Bytes of a trailer under this plan."""
    return SIGNATURE_SIZE if plan.signed else DIGEST_SIZE


def relayed_advert_size(plan: Plan) -> int:
    """Bytes of one advert as the server relays it: signed plans carry the signature along."""
    return ADVERT_SIZE + (SIGNATURE_SIZE if plan.signed else 0)


def largest_tail(plan: Plan, kind: Kind) -> int:
    """Most bytes that can follow the header of ``kind`` under ``plan``."""
    k, t = masked_of(plan).neighbours, plan.protocol.share_threshold
    return {
        ADVERT.number: ADVERT_SIZE,
        ADVERTS.number: k * relayed_advert_size(plan),
        SHARES.number: k * SEALED_SIZE,
        SHARES_FOR.number: k * SEALED_SIZE,
        INPUT.number: ring_size(plan),
        SURVIVORS.number: 0,
        CONSENT.number: 0,
        CONSENTS.number: t * SIGNATURE_SIZE,
        REVEAL.number: (k + 1) * SHARE_SIZE,
        RESULT.number: result_size(plan),
    }[kind.number]


def largest_frame(plan: Plan, kind: Kind) -> int:
    """Most bytes that a frame of ``kind`` can have under ``plan``."""
    # No header holds more than two site lists, one digest and one count.
    header = 2 * (bitmap_size(plan.clients) + 5) + DIGEST_SIZE + 16
    return PREFIX_SIZE + header + largest_tail(plan, kind) + trailer_size(plan)


def frame_size(plan: Plan, header: Header, tail: int) -> int:
    """Exact bytes of a frame with this header and a tail of ``tail`` bytes."""
    return PREFIX_SIZE + len(encode_header(header)) + tail + trailer_size(plan)
