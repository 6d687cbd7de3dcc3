"""Messages of the Paillier sum: their headers, and the exact sizes of what follows them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

import msgspec

from ..events import Step
from ..kinds import Kind
from ..paillier import Layout, knowledge, opening, threshold
from ..plan import PaillierSum, Plan
from ..result import Result, result_size
from ..wire import (
    DIGEST_SIZE,
    PREFIX_SIZE,
    SIGNATURE_SIZE,
    Header,
    bitmap_size,
    encode_header,
)

Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]


class Encrypted(Header, frozen=True):
    """Site to server, and on to every holder. Tail: ciphertexts, then the proof of knowledge
    where the plan asks for it."""


class Open(Header, frozen=True):
    """Server to holder: open the product of the survivors' ciphertexts, which has this digest."""

    survivors: bytes
    product: Digest


class Opened(Header, frozen=True):
    """Holder to server: what :class:`Open` asked for. Tail: a share of each decryption, or the
    plaintexts where one holder has the whole key; then the proof."""

    product: Digest


ENCRYPTED: Final = Kind(16, Step.INPUT, Encrypted, from_site=True, per_round=True)
OPEN: Final = Kind(17, Step.INPUT, Open, from_site=False, per_round=True, to="holder")
OPENED: Final = Kind(
    18, Step.REVEAL, Opened, from_site=False, per_round=True, sender="holder", to="server"
)
RESULT: Final = Kind(19, Step.REVEAL, Result, from_site=False, per_round=True)

KINDS: Final = {kind.number: kind for kind in (ENCRYPTED, OPEN, OPENED, RESULT)}


def protocol_of(plan: Plan) -> PaillierSum:
    """The protocol of a plan that is known to be of a Paillier sum."""
    if not isinstance(plan.protocol, PaillierSum):
        raise TypeError("not the plan of a Paillier sum")
    return plan.protocol


@lru_cache(maxsize=64)
def layout_of(plan: Plan) -> Layout:
    """Where each coordinate of a plan's ring vector lies in the plaintexts."""
    return Layout(
        bits=plan.wire_bits,
        most=plan.clients,
        length=plan.ring_length,
        key_bits=protocol_of(plan).key.bits,
    )


def ciphertext_size(plan: Plan) -> int:
    """Bytes of one ciphertext."""
    return protocol_of(plan).key.words * 16


def vector_size(plan: Plan) -> int:
    """Bytes of a vector's ciphertexts."""
    return layout_of(plan).rows * ciphertext_size(plan)


def knowledge_size(plan: Plan) -> int:
    """Bytes of the proof that a site adds to its ciphertexts."""
    protocol = protocol_of(plan)
    if not protocol.knowledge_proofs:
        return 0
    return knowledge.proof_size(protocol.key, layout_of(plan).rows)


def input_size(plan: Plan) -> int:
    """Bytes of the tail of a site's message."""
    return vector_size(plan) + knowledge_size(plan)


def opened_size(plan: Plan) -> int:
    """Bytes of the rows in a holder's answer."""
    key = protocol_of(plan).key
    return vector_size(plan) // (1 if key.verification else 2)


def answer_proof_size(plan: Plan) -> int:
    """Bytes of the proof in a holder's answer."""
    key = protocol_of(plan).key
    return threshold.proof_size(key) if key.verification else opening.proof_size(key)


def largest_frame(plan: Plan, kind: Kind) -> int:
    """Most bytes that a frame of ``kind`` can have under ``plan``."""
    tail = {
        ENCRYPTED.number: input_size(plan),
        OPEN.number: 0,
        OPENED.number: opened_size(plan) + answer_proof_size(plan),
        RESULT.number: result_size(plan),
    }[kind.number]
    # No header holds more than one list of sites and one digest.
    header = bitmap_size(plan.clients) + 5 + DIGEST_SIZE + 16
    trailer = SIGNATURE_SIZE if plan.signed else DIGEST_SIZE
    return PREFIX_SIZE + header + tail + trailer


def frame_size(plan: Plan, header: Header, tail: int) -> int:
    """Exact bytes of a frame with this header and a tail of ``tail`` bytes."""
    trailer = SIGNATURE_SIZE if plan.signed else DIGEST_SIZE
    return PREFIX_SIZE + len(encode_header(header)) + tail + trailer
