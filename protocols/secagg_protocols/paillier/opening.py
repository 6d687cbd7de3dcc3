"""Opening with one key: plaintexts, and a proof that they are those of the ciphertexts.

Whoever holds the whole key decrypts, and shows that c_j = (1 + n)^(m_j) r_j^n for some r_j, for
all rows j at once: u_j = c_j (1 + n)^(-m_j) must be an n-th power modulo n^2, and so must
P = prod u_j^(w_j) under public weights w_j of 128 bits (``_weights.py``). The proof is the n-th
root rho of P below n: rho^n = P mod n^2. Nothing is hidden in it: the root is the product of the
r_j^(w_j), which every reader of the plaintexts could verify, and there is one only. Source: the
n-th-power relation of Damgard and Jurik (PKC 2001, section 4.2) with the root itself as witness.

*Soundness.* Let m_j be off by delta_j != 0 mod n. The class of u_j modulo n-th powers is delta_j
mod n, so P is an n-th power only if the sum of w_j delta_j is 0 mod n. Take a prime factor l of n
for which delta_j is not 0 modulo the power of l in n: whatever the other weights, the sum is 0
for one value of w_j mod l at most. If l > 2^128 that is one weight in 2^128. The weights follow
from a hash of rows and plaintexts, so that a cheater must try about 2^128 of them.

This assumes that n has no prime factor below 2^128, and no common factor with phi(n): else a
ciphertext would have several plaintexts. Who made the key could have arranged either, and the
proof about the modulus (``modulus_proof.py``) excludes both. Without that proof, a factor l of n
lets plaintexts that are off by multiples of n / l pass once in l trials.
"""

from __future__ import annotations

import math
from typing import Final

from secagg_native import paillier as native

from ..errors import PeerError, SecAggError
from ..keys import digest_of
from ._weights import (
    check_ciphertexts,
    check_context,
    is_rows,
    number_bytes,
    row_bytes,
    row_weights,
    weighted_sum,
)
from .keys import PrivateKey, PublicKey, Words
from .primes import power

_RULE: Final = "opening-proof"


def open_rows(
    private: PrivateKey, rows: Words, *, context: bytes, threads: int = 1
) -> tuple[Words, bytes]:
    """Plaintexts of ``rows`` and one proof for all of them.

    rows: ciphertexts uint64[c, 2W], c >= 1; ``context`` binds the proof to its round. Returns
    plaintexts uint64[c, W] and ``proof_size(private.public)`` bytes. Both follow from the
    arguments alone.

    Raises :class:`DecodeError` (``ciphertext``) for a row that is no ciphertext,
    :class:`MisuseError` for no rows, and :class:`SecAggError` where the arithmetic failed.
    """
    key = private.public
    check_context(context)
    rows = check_ciphertexts(key, rows)
    plain = private.decrypt(rows, threads=threads)
    residue = _residue(key, rows, plain, context, threads)
    root = private.nth_root(residue)
    # A root that is wrong modulo one prime only would give the factors away (Boneh, DeMillo and
    # Lipton, EUROCRYPT 1997), so a fault of the arithmetic must not leave this function.
    if power(root, key.n, key.n**2) != residue:
        raise SecAggError("the arithmetic of this host made a wrong opening", rule=_RULE)
    return plain, number_bytes(root, proof_size(key))


def check_opening(
    key: PublicKey,
    rows: Words,
    plain: Words,
    proof: bytes,
    *,
    context: bytes,
    sender: str,
    threads: int = 1,
) -> None:
    """Check what the key's holder made by :func:`open_rows` of ``rows`` under ``context``.

    rows: uint64[c, 2W]; plain: uint64[c, W]. Raises :class:`PeerError` (rule ``opening-proof``)
    naming ``sender`` for plaintexts or a proof that are wrong; for ``rows``, which are the
    caller's, as :func:`open_rows`.
    """
    check_context(context)
    rows = check_ciphertexts(key, rows)
    if not is_rows(plain, len(rows), key.words):
        raise PeerError(
            "there is one plaintext of the modulus's length for each row",
            rule=_RULE,
            sender=sender,
        )
    if any(value >= key.n for value in native.from_words(plain)):
        raise PeerError("a plaintext is not reduced modulo n", rule=_RULE, sender=sender)
    if not isinstance(proof, bytes) or len(proof) != proof_size(key):
        raise PeerError(
            f"an opening proof has {proof_size(key)} bytes",
            rule=_RULE,
            sender=sender,
        )
    root = int.from_bytes(proof, "little")
    if not 0 < root < key.n or math.gcd(root, key.n) != 1:
        raise PeerError("the root is no unit modulo n", rule=_RULE, sender=sender)
    if power(root, key.n, key.n**2) != _residue(key, rows, plain, context, threads):
        raise PeerError(
            f"the plaintexts of {sender} are not those of the ciphertexts",
            rule=_RULE,
            sender=sender,
        )


def proof_size(key: PublicKey) -> int:
    """Bytes of the proof that comes with an opening of any number of rows."""
    return 8 * key.words


def _residue(key: PublicKey, rows: Words, plain: Words, context: bytes, threads: int) -> int:
    """P, the product of (c_j (1 + n)^(-m_j))^(w_j) mod n^2."""
    statement = digest_of(
        b"secagg paillier opening v1", key.digest, context, row_bytes(rows), row_bytes(plain)
    )
    weights = row_weights(statement, len(rows))
    product = key.squares.multi_power(rows, weights, threads=threads)
    # (1 + n)^x is 1 + x n modulo n^2.
    exponent = -weighted_sum(weights, plain) % key.n
    return product * (1 + exponent * key.n) % key.n**2
