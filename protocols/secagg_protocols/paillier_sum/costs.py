"""Bytes and work of a round before it is run, exact where nobody drops out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..events import Step
from ..paillier import Layout, PublicKey, knowledge, opening, threshold
from ..plan import PaillierSum, Plan
from ..result import Result, result_size
from ..wire import DIGEST_SIZE, bitmap_size
from . import messages
from .messages import frame_size

#: What a kernel is asked for; see :class:`Work`.
Kernel = Literal["fixed-base", "power", "multi-power", "product", "decrypt"]
#: Bits of the weights and challenges to which ciphertexts are raised when proofs are checked.
_SHORT = knowledge.CHALLENGE_BITS


@dataclass(frozen=True, slots=True)
class KeyShape:
    """What costs and rules of a plan depend on in a public key, for plans that have none yet.

    It stands in for a :class:`PublicKey` in a :class:`PaillierSum` that is only counted with.
    """

    bits: int
    holders: int
    threshold: int
    exponent_bits: int
    knowledge_proofs: bool = True

    @property
    def words(self) -> int:
        """Words of 64 bits of the modulus."""
        return self.bits // 64

    @property
    def exponent_words(self) -> int:
        """Words of 64 bits of a random exponent."""
        return self.exponent_bits // 64

    @property
    def verification(self) -> bool:
        """Whether holders have shares of the key, and verification values: one has all of it."""
        return self.holders > 1


@dataclass(frozen=True, slots=True)
class PartyBytes:
    """Bytes of one step: of each site, of each holder, and of the server with all of them."""

    step: str
    site_sends: int
    site_receives: int
    holder_sends: int
    holder_receives: int
    server_sends: int
    server_receives: int


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of operation modulo n^2 that a party does at a step, and how often.

    kernel: ``fixed-base``, a power of a fixed base by tables; ``power``, of any base;
        ``multi-power``, one factor of a product of powers; ``product``, a multiplication;
        ``decrypt``, with the whole key. exponent_bits: of each power, 0 where there is none.
    """

    party: Literal["site", "server", "holder"]
    step: Step
    what: str
    kernel: Kernel
    count: int
    exponent_bits: int

    @property
    def multiplications(self) -> float:
        """About how many multiplications modulo n^2 this comes to: textbook counts, no promise.

        By tables and windows of 5 bits; of a product of powers by Pippenger's buckets of 8 bits;
        decryption is two half-length powers at a quarter of the price.
        """
        bits = self.exponent_bits
        each = {
            "fixed-base": bits / 5,
            "power": bits * 6 / 5,
            "multi-power": bits / 8,
            "product": 1.0,
            "decrypt": bits * 6 / 5 / 4,
        }[self.kernel]
        return self.count * each


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Bytes and work of one round in which nobody drops out.

    rows: ciphertexts of a vector; slots: coordinates in one. work: of one site, of the server
    with all sites and holders, and of one holder. result: bytes of the result message.
    """

    steps: tuple[PartyBytes, ...]
    clients: int
    holders: int
    rows: int
    slots: int
    work: tuple[Work, ...]
    result: int
    plain_bits: int  # bits of the vector that a site would send without protection

    @property
    def site_total(self) -> int:
        """Bytes that a site sends and receives."""
        return sum(step.site_sends + step.site_receives for step in self.steps)

    @property
    def holder_total(self) -> int:
        """Bytes that a holder sends and receives."""
        return sum(step.holder_sends + step.holder_receives for step in self.steps)

    @property
    def server_receives(self) -> int:
        """Bytes that the server receives from all sites and holders."""
        return sum(step.server_receives for step in self.steps)

    @property
    def server_sends(self) -> int:
        """Bytes that the server sends to all sites and holders."""
        return sum(step.server_sends for step in self.steps)

    @property
    def expansion(self) -> float:
        """A site's bytes over those of its unprotected vector, the result not counted."""
        return 8 * (self.site_total - self.result) / self.plain_bits


def round_cost(plan: Plan, protocol: PaillierSum | None = None) -> RoundCost:
    """Exact frame sizes, and operations, of a round of ``plan`` without dropouts.

    protocol: counts the plan as one of this Paillier sum, whatever its own protocol is; its key
    may be a :class:`KeyShape`.
    """
    chosen = messages.protocol_of(plan) if protocol is None else protocol
    key, n, holders = chosen.key, plan.clients, chosen.key.holders
    layout = layout_for(plan, chosen)
    vector = layout.rows * 16 * key.words
    proof = knowledge.proof_size(key, layout.rows) if chosen.knowledge_proofs else 0
    answer, answer_proof = (
        (vector, threshold.proof_size(key))
        if key.verification
        else (vector // 2, opening.proof_size(key))
    )
    bitmap, digest = bytes(bitmap_size(n)), bytes(DIGEST_SIZE)
    sent = frame_size(plan, messages.Encrypted(), vector + proof)
    asked = frame_size(plan, messages.Open(bitmap, digest), 0)
    opened = frame_size(plan, messages.Opened(digest), answer + answer_proof)
    result = frame_size(plan, Result(digest, bitmap), result_size(plan))
    passed_on = n * sent + asked
    steps = (
        PartyBytes(Step.INPUT.label, sent, 0, 0, passed_on, holders * passed_on, n * sent),
        PartyBytes(Step.REVEAL.label, 0, result, opened, 0, n * result, holders * opened),
    )
    span = plan.pipeline.vector
    plain_bits = plan.length * (span.high - span.low).bit_length()
    return RoundCost(
        steps,
        n,
        holders,
        layout.rows,
        layout.slots,
        tuple(_work(chosen, n, layout.rows)),
        result,
        max(1, plain_bits),
    )


def layout_for(plan: Plan, protocol: PaillierSum) -> Layout:
    """Where the coordinates of ``plan`` would lie in ciphertexts of ``protocol``."""
    return Layout(
        bits=plan.wire_bits,
        most=plan.clients,
        length=plan.ring_length,
        key_bits=protocol.key.bits,
    )


def _work(protocol: PaillierSum, sites: int, rows: int) -> list[Work]:
    key, proofs = protocol.key, protocol.knowledge_proofs
    wide = key.exponent_bits + _SHORT + knowledge.MASK_BITS
    sent, opened, proved = Step.INPUT, Step.REVEAL, "check proofs of knowledge"
    work = [Work("site", sent, "encrypt", "fixed-base", rows, key.exponent_bits)]
    if proofs:
        work.append(Work("site", sent, "prove knowledge", "fixed-base", rows, wide))
    parties: tuple[Literal["server", "holder"], ...] = ("server", "holder")
    for who in parties:
        if proofs:
            work += [
                Work(who, sent, proved, "power", sites * rows, _SHORT),
                Work(who, sent, proved, "fixed-base", sites * rows, wide),
            ]
        work.append(Work(who, sent, "multiply inputs", "product", (sites - 1) * rows, 0))
    if key.verification:
        t, holders = key.threshold, key.holders
        work += [
            Work("holder", opened, "decryption shares", "power", rows, share_bits(key)),
            Work("holder", opened, "prove the shares", "multi-power", 2 * rows, _SHORT),
            Work("server", opened, "check shares", "multi-power", 2 * holders * rows, _SHORT),
            Work("server", opened, "combine shares", "power", t * rows, _lambda_bits(key)),
        ]
    else:
        work += [
            Work("holder", opened, "decrypt", "decrypt", rows, key.bits),
            Work("holder", opened, "prove the opening", "multi-power", rows, _SHORT),
            Work("server", opened, "check the opening", "multi-power", rows, _SHORT),
        ]
    return work


def share_bits(key: PublicKey | KeyShape) -> int:
    """Bits of the exponent of a decryption share, 2 Delta s_i with s_i below n p' q'."""
    return 2 * key.bits - 2 + (2 * math.factorial(key.holders)).bit_length()


def _lambda_bits(key: PublicKey | KeyShape) -> int:
    """Most bits of 2 |lambda_i|, over the holders 1..t."""
    delta, chosen = math.factorial(key.holders), range(1, key.threshold + 1)
    most = max(
        abs(delta * math.prod(j for j in chosen if j != i))
        // abs(math.prod(j - i for j in chosen if j != i))
        for i in chosen
    )
    return (2 * most).bit_length()


__all__ = ["Kernel", "KeyShape", "PartyBytes", "RoundCost", "Work", "layout_for", "round_cost"]
