"""The keys of a simulated Paillier sum: one key, dealt to holders, or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from secagg.sim.settings import PaillierSettings
from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.paillier import (
    KeyShare,
    PrivateKey,
    PublicKey,
    generate,
    modulus_proof,
    split,
)
from secagg_protocols.paillier.keys import BITS, MOST_HOLDERS, SHORT_EXPONENT
from secagg_protocols.paillier_sum.costs import KeyShape
from secagg_protocols.plan import PaillierSum
from secagg_protocols.plan_paillier import PaillierRules

#: Called with the candidates for a prime that were tested so far.
Searched = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Deal:
    """A public key and what opens it, by holder: a simulation is its own dealer.

    shares: a share of the key for each holder, or all of it where there is one holder.
    """

    key: PublicKey
    shares: Mapping[str, KeyShare | PrivateKey] = field(repr=False)
    colluding_holders: int = 0
    threads: int = 1

    @property
    def holders(self) -> tuple[str, ...]:
        """Names of the holders, in the key's order."""
        return tuple(self.shares)


def holder_names(count: int) -> tuple[str, ...]:
    """Names of so many holders, padded to one width."""
    return tuple(f"holder-{i:0{len(str(count - 1))}d}" for i in range(count))


def least_threshold(holders: int, colluding: int) -> int:
    """Fewest holders whose shares open a sum such that no other set can open another one."""
    return min(holders, (holders + colluding) // 2 + 1)


def shape_of(settings: PaillierSettings, *, signed: bool, fixed_data: bool = False) -> PaillierSum:
    """The protocol that the settings ask for, to count with and to check, before there is a key.

    Raises :class:`MisuseError` (``options``) for numbers that no key has, and the
    :class:`PlanError` with which a plan would refuse the holders.
    """
    holders, colluding = settings.holders, settings.colluding_holders
    if not 1 <= holders <= MOST_HOLDERS:
        raise MisuseError(f"--holders is from 1 to {MOST_HOLDERS}", rule="options")
    if settings.key is None and settings.key_bits not in BITS:
        raise MisuseError(f"--key-bits is {', '.join(map(str, BITS))}", rule="options")
    t = settings.threshold
    if t is None:
        t = least_threshold(holders, colluding)
    if not 1 <= t <= holders:
        raise MisuseError(
            f"--threshold {t} is not among {holders} holders: it is from 1 to --holders",
            rule="options",
        )
    public = None if settings.key is None else settings.key.public
    shape = KeyShape(
        bits=settings.key_bits if public is None else public.bits,
        holders=holders,
        threshold=t,
        exponent_bits=SHORT_EXPONENT if public is None else public.exponent_bits,
        knowledge_proofs=signed if public is None else public.knowledge_proofs,
    )
    protocol = PaillierSum(key=cast(PublicKey, shape), colluding_holders=colluding)
    view = cast(Any, SimpleNamespace(protocol=protocol, signed=signed, fixed_data=fixed_data))
    PaillierRules._check_holder_threshold(view)
    PaillierRules._check_one_opening(view)
    PaillierRules._check_knowledge_proofs(view)
    PaillierRules._check_fixed_data_holders(view)
    return protocol


def deal(settings: PaillierSettings, *, signed: bool, searched: Searched | None = None) -> Deal:
    """A key for the holders of the settings, and their shares of it.

    signed: the plan asks for a proof about the modulus. Errors as of :func:`shape_of`.
    """
    protocol = shape_of(settings, signed=signed)
    private = settings.key or generate(
        settings.key_bits, knowledge_proofs=signed, progress=searched
    )
    t, holders = protocol.key.threshold, holder_names(settings.holders)
    return dealt(private, holders, t, protocol.colluding_holders, settings.threads, proof=signed)


def dealt(
    private: PrivateKey,
    holders: tuple[str, ...],
    threshold: int,
    colluding: int,
    threads: int,
    *,
    proof: bool,
) -> Deal:
    """A private key in the hands of the named holders; with the proof, where that is lacking."""
    if not private.safe and (proof or len(holders) > 1):
        raise PlanError(
            "only a key of safe primes is dealt to holders, or proved to be well made",
            rule="private-safe",
            field="key",
        )
    if proof and not private.public.proof:
        private = PrivateKey(
            private.p,
            private.q,
            exponent_bits=private.public.exponent_bits,
            proof=modulus_proof.prove(private.p, private.q),
            knowledge_proofs=private.public.knowledge_proofs,
        )
    if len(holders) == 1:
        return Deal(private.public, {holders[0]: private}, colluding, threads)
    key, shares = split(private, len(holders), threshold)
    return Deal(key, dict(zip(holders, shares, strict=True)), colluding, threads)


__all__ = [
    "Deal",
    "deal",
    "dealt",
    "holder_names",
    "least_threshold",
    "shape_of",
]
