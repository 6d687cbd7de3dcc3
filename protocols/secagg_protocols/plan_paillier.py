"""The Paillier sum as a plan names it, and the rules of such a plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .errors import PlanError
from .paillier import PublicKey, modulus_proof
from .plan_fields import PlanView, require_integer


@dataclass(frozen=True, slots=True, kw_only=True)
class PaillierSum:
    """Sums under the Paillier cryptosystem, opened by holders of decryption shares.

    key: the public key, with the threshold and the verification values of its holders; the
        roster names them in the key's order. A key without verification values belongs to one
        holder, which is not the server.
    colluding_holders: holders that may pool what they know with the server.
    """

    key: PublicKey
    colluding_holders: int

    @property
    def share_threshold(self) -> int:
        """Holders who open a sum together."""
        return self.key.threshold

    @property
    def knowledge_proofs(self) -> bool:
        """Whether a site proves that it knows what it encrypted, so that nobody can submit a
        ciphertext that was made from another site's. The key says so."""
        return self.key.knowledge_proofs

    @property
    def holders(self) -> int:
        """Holders of decryption shares."""
        return self.key.holders


def _paillier(plan: PlanView) -> bool:
    return isinstance(plan.protocol, PaillierSum)


class PaillierRules:
    """What a plan checks of a :class:`PaillierSum`; plans for another protocol pass."""

    __slots__ = ()

    def _check_paillier_fields(self: PlanView) -> None:
        if not _paillier(self):
            return
        if not isinstance(self.protocol.key, PublicKey):
            raise PlanError("a Paillier PublicKey", rule="paillier-fields", field="key")
        require_integer(self.protocol.colluding_holders, "protocol.colluding_holders")

    def _check_key_holders(self: PlanView) -> None:
        if _paillier(self) and len(self.roster.holders) != self.protocol.holders:
            raise PlanError(
                f"the roster names {len(self.roster.holders)} holders, the key is shared among "
                f"{self.protocol.holders}",
                rule="key-holders",
                field="roster",
            )

    def _check_holder_threshold(self: PlanView) -> None:
        if not _paillier(self):
            return
        t, colluding = self.protocol.share_threshold, self.protocol.colluding_holders
        if not 0 <= colluding < t:
            raise PlanError(
                f"from 0 to {t - 1}: {t} holders together open any one site's vector",
                rule="holder-threshold",
                field="colluding_holders",
            )

    def _check_one_opening(self: PlanView) -> None:
        if not _paillier(self) or not self.signed:
            return
        t, holders = self.protocol.share_threshold, self.protocol.holders
        colluding = self.protocol.colluding_holders
        if 2 * t <= holders + colluding:
            raise PlanError(
                f"twice {t} does not exceed {holders} holders + {colluding} colluding: a server "
                "could have two sets of sites opened and learn the vectors in which they differ "
                f"(it takes a threshold of {(holders + colluding) // 2 + 1})",
                rule="one-opening",
                field="key",
            )

    def _check_modulus_proof(self: PlanView) -> None:
        if _paillier(self) and (self.signed or self.protocol.key.proof):
            _check_proof(self.protocol.key.n, self.protocol.key.proof)

    def _check_knowledge_proofs(self: PlanView) -> None:
        if _paillier(self) and self.signed and not self.protocol.knowledge_proofs:
            raise PlanError(
                "against a malicious server every site proves that it knows what it encrypted, or "
                "one that colludes with it could submit a multiple of another's vector; this key "
                "was made without",
                rule="knowledge-proofs",
                field="key",
            )

    def _check_fixed_data_holders(self: PlanView) -> None:
        if _paillier(self) and self.fixed_data:
            raise PlanError(
                "sums of fixed data are compared by sites before they reveal, and in a Paillier "
                "sum sites reveal nothing; use MaskedSum",
                rule="fixed-data-holders",
                field="fixed_data",
            )


@lru_cache(maxsize=8)
def _check_proof(n: int, proof: bytes) -> None:
    """Check a proof once in a process: it takes a second, and plans are built often."""
    modulus_proof.check(n, proof)


def paillier_reasons(protocol: PaillierSum, *, signed: bool) -> list[str]:
    """Why a Paillier plan is what it is, one sentence each."""
    t, holders, colluding = (
        protocol.share_threshold,
        protocol.holders,
        protocol.colluding_holders,
    )
    bits = protocol.key.bits
    lines = [
        f"Paillier under a modulus of {bits} bits with short randomness of "
        f"{protocol.key.exponent_bits} bits (about {_strength(bits)} bits of security).",
        f"The key's id, to be compared with the holders: {protocol.key.digest.hex()}.",
    ]
    if protocol.key.verification:
        two = "exceeds" if 2 * t > holders + colluding else "does not exceed"
        lines.append(
            f"{t} of {holders} holders open a sum, so {holders - t} may be missing; {colluding} "
            f"may collude with the server, and 2 x {t} {two} {holders} + {colluding}, so "
            + (
                "no server can have two sets of sites opened."
                if 2 * t > holders + colluding and signed
                else "only a server that follows the protocol is safe."
            )
        )
    else:
        lines.append(
            "One holder has the whole key: it must not be the server, and it could open every "
            "single vector that it is given."
        )
    lines.append(
        "Every site proves that it knows what it encrypted."
        if protocol.knowledge_proofs
        else "Sites do not prove that they know what they encrypted: a site could submit a "
        "multiple of another's vector, if it sees it."
    )
    if not signed:
        lines.append("The holders trust the server to name the sites that sent what they open.")
    return lines


def _strength(bits: int) -> int:
    """Classical security of a modulus (NIST SP 800-57 part 1, table 2), at most that of the
    challenges and of the generator of exponents."""
    return {2048: 112}.get(bits, 128)
