"""Proof that a modulus n = pq has no small factor, without interaction.

CGGMP (Canetti, Gennaro, Goldfeder, Makriyannis, Peled, "UC Non-Interactive, Proactive, Threshold
ECDSA with Identifiable Aborts", ePrint 2021/060), figure 28. The prover commits to both factors
with Pedersen commitments modulo a number whose factors nobody knows, and shows that their product
is n and that neither is longer than ``bits / 2 + 256`` bits. Then neither is shorter than
``bits / 2 - 257`` bits.

Two things differ from the figure. The challenge is a hash of n and all commitments (Fiat-Shamir),
and the proof holds this challenge in place of the commitments A, B and T, which the verifier
computes from it. And nobody generates parameters for the verifier: the modulus is RSA-2048 of the
RSA Factoring Challenge, and both bases are squares of hashes.

It is sound where nobody can take roots modulo RSA-2048 (the strong RSA assumption). Whoever knows
its factors could forge this proof, but no other part of `modulus_proof`.
The commitments hide p and q from everybody where s is a power of t. For random squares this fails
only by primes r that divide a factor of RSA-2048 minus 1, each with a chance of about 1/r; whoever
knows that factor then learns p and q modulo r.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from typing import Final

from ..keys import digest_of
from .primes import power

#: RSA-2048 of the RSA Factoring Challenge (RSA Laboratories, 2001): a product of two primes that
#: its makers say they destroyed. The challenge gave the 617 decimal digits, their sum, 2738, and
#: its residue modulo 991889, 543967; a test checks both.
RSA_2048: Final = int(
    "c7970ceedcc3b0754490201a7aa613cd73911081c790f5f1a8726f463550bb5b"
    "7ff0db8e1ea1189ec72f93d1650011bd721aeeacc2acde32a04107f0648c2813"
    "a31f5b0b7765ff8b44b4b6ffc93384b646eb09c7cf5e8592d40ea33c80039f35"
    "b4f14a04b51f7bfd781be4d1673164ba8eb991c2c4d730bbbe35f592bdef524a"
    "f7e8daefd26c66fc02c479af89d64d373f442709439de66ceb955f3ea37d5159"
    "f6135809f85334b5cb1813addc80cd05609f10ac6a95ad65872c909525bdad32"
    "bc729592642920f24c61dc5b3c3b7923e56b16a4d9d373d8721f24a3fc0f1b31"
    "31f55615172866bccc30f95054c824e733a5eb6817f7bc16399d48c6361cc7e5",
    16,
)
_MODULUS_BITS: Final = 2048
#: Bits of the challenge: a prover of a false statement is caught but with a chance of 2^-128.
CHALLENGE_BITS: Final = 128
#: Bits by which a mask exceeds what it hides: an answer shows it with a bias of 2^-128.
MASK_BITS: Final = 128
_GAP: Final = CHALLENGE_BITS + MASK_BITS
_LABEL: Final = b"secagg no small factor v1"


def _square(name: bytes) -> int:
    """A square modulo RSA-2048 whose logarithm to any other base nobody knows."""
    seed = hashlib.shake_256(b"secagg pedersen base v1 " + name).digest(_MODULUS_BITS // 8 + 16)
    return int.from_bytes(seed, "little") ** 2 % RSA_2048


BASE_S: Final = _square(b"s")
BASE_T: Final = _square(b"t")


def least_bits(bits: int) -> int:
    """A modulus of ``bits`` bits that passes has no factor below 2 to the power of this."""
    return bits // 2 - _GAP - 1


def _sizes(bits: int) -> tuple[int, ...]:
    """Bits of the nine numbers of a proof: e, P, Q, sigma, z1, z2, w1, w2, v."""
    opening = _MODULUS_BITS + MASK_BITS
    return (
        CHALLENGE_BITS,
        _MODULUS_BITS,
        _MODULUS_BITS,
        bits + opening,
        bits // 2 + _GAP,
        bits // 2 + _GAP,
        opening + _GAP,
        opening + _GAP,
        bits + opening + _GAP,
    )


def proof_size(bits: int) -> int:
    """Bytes of a proof about a modulus of ``bits`` bits, a multiple of 16."""
    return sum(_sizes(bits)) // 8


def _commit(x: int, y: int, base: int = BASE_S) -> int:
    return power(base, x, RSA_2048) * power(BASE_T, y, RSA_2048) % RSA_2048


def _challenge(n: int, numbers: tuple[int, ...], sigma: int) -> int:
    bits = n.bit_length()
    parts = [value.to_bytes(_MODULUS_BITS // 8, "little") for value in numbers]
    digest = digest_of(
        _LABEL,
        n.to_bytes(bits // 8, "little"),
        *parts,
        sigma.to_bytes(_sizes(bits)[3] // 8, "little"),
    )
    return int.from_bytes(digest[: CHALLENGE_BITS // 8], "little")


def prove(p: int, q: int) -> bytes:
    """The proof about n = pq, for two factors below ``2^(bits / 2)``.

    ``ValueError`` for longer factors, whose answers do not fit.
    """
    n = p * q
    bits = n.bit_length()
    if max(p, q).bit_length() > bits // 2:
        raise ValueError("a factor is longer than half of the modulus")
    sizes = _sizes(bits)
    opening = _MODULUS_BITS + MASK_BITS
    while True:
        alpha, beta = secrets.randbits(sizes[4]), secrets.randbits(sizes[5])
        mu, nu = secrets.randbits(opening), secrets.randbits(opening)
        x, y = secrets.randbits(sizes[6]), secrets.randbits(sizes[7])
        sigma, r = secrets.randbits(sizes[3]), secrets.randbits(sizes[8])
        P, Q = _commit(p, mu), _commit(q, nu)
        A, B, T = _commit(alpha, x), _commit(beta, y), _commit(alpha, r, Q)
        e = _challenge(n, (P, Q, A, B, T), sigma)
        answers = (
            alpha - e * p,
            beta - e * q,
            x - e * mu,
            y - e * nu,
            r - e * (sigma - nu * p),
        )
        numbers = (e, P, Q, sigma, *answers)
        # An answer outside its range, with a chance of 2^-120, would show a part of the secret.
        if all(0 <= a < 1 << size for a, size in zip(answers, sizes[4:], strict=True)):
            return _pack(numbers, sizes)


def _pack(numbers: tuple[int, ...], sizes: tuple[int, ...]) -> bytes:
    return b"".join(
        number.to_bytes(size // 8, "little") for number, size in zip(numbers, sizes, strict=True)
    )


def _unpack(proof: bytes, sizes: tuple[int, ...]) -> list[int]:
    numbers, at = [], 0
    for size in sizes:
        numbers.append(int.from_bytes(proof[at : at + size // 8], "little"))
        at += size // 8
    return numbers


def check(n: int, proof: bytes) -> None:
    """Raise ``ValueError`` unless ``proof`` shows that n has no factor below ``least_bits``.

    n: positive, its bits a multiple of 16. The fields have fixed sizes, and these sizes are the
    ranges of the answers.
    """
    bits = n.bit_length()
    if len(proof) != proof_size(bits):
        raise ValueError("the proof of no small factor has another size")
    e, P, Q, sigma, z1, z2, w1, w2, v = _unpack(proof, _sizes(bits))
    for commitment in (P, Q):
        # With a commitment to 0 every equation below would read 0 = 0.
        if commitment >= RSA_2048 or math.gcd(commitment, RSA_2048) != 1:
            raise ValueError("a commitment of the proof of no small factor is no unit")
    R = _commit(n, sigma)
    A = _commit(z1, w1) * power(P, e, RSA_2048) % RSA_2048
    B = _commit(z2, w2) * power(Q, e, RSA_2048) % RSA_2048
    T = _commit(z1, v, Q) * power(R, e, RSA_2048) % RSA_2048
    if e != _challenge(n, (P, Q, A, B, T), sigma):
        raise ValueError("the proof of no small factor does not verify")
