"""Proof that a Paillier modulus is not a weak one, without interaction.

It shows that n

- has no factor below 2^20 and is neither a prime nor a power, which anybody can see (`modulus`);
- is coprime to phi(n), and so has no square factor, from 7 n-th roots (Goldberg, Reyzin, Sagga,
  Baldimtsi, "Efficient Noninteractive Certification of RSA Moduli and Beyond", ASIACRYPT 2019,
  ePrint 2018/057, section 3). If a prime r divides n and phi(n), at most one unit in r has an
  n-th root. As r is above 2^20, 7 hashed units all have one with a chance of 2^-140 at most; the
  same proof without this bound takes 128 of them;
- is the product of two primes that are 3 modulo 4, from 128 fourth roots (CGGMP, ePrint 2021/060,
  figure 16, after van de Graaf and Peralta, CRYPTO 1987). For each hashed y one of y, -y, wy, -wy
  is a fourth power, where w has Jacobi symbol -1. With more primes, or one that is 1 modulo 4,
  this holds for at most half of the units;
- is the product of two numbers of at least ``bits / 2 - 257`` bits (`no_small_factor`).

Two things differ from figure 16. Fourth roots and n-th roots are of different hashes of n, because
they are of different numbers; and w is the least positive number with Jacobi symbol -1, which the
verifier finds alone. So neither is for the prover to choose, and each of the two parts is
simulated by choosing the roots first.

What it is good for: a dealer who uses bad software or wants others to break the key, with a
modulus that is smooth, a square, a product of three primes, or has a small factor (the class of
CVE-2023-33241). It does not show that p and q are safe primes, and it is no protection against a
dealer who keeps p and q and can so decrypt everything.

Layout: flags a (16 bytes), flags b (16 bytes), 128 fourth roots, 7 n-th roots (each of the size
of n), the proof of no small factor. All numbers are little-endian; bit i of the flags belongs to
root i. Sizes are fixed by n.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from ..errors import PlanError
from . import modulus, no_small_factor
from .primes import power

#: Fourth roots: each is there for half of all units if n is not as claimed.
FOURTH_ROOTS: Final = 128
#: n-th roots: each is there for one unit in 2^20 (``modulus.SMOOTH_LIMIT``) if n is not as claimed.
NTH_ROOTS: Final = -(-128 // (modulus.SMOOTH_LIMIT.bit_length() - 1))
#: Below this, the bound on factors would say nothing.
LEAST_BITS: Final = 1024
_FLAG_BYTES: Final = FOURTH_ROOTS // 8
#: The least number with Jacobi symbol -1 has a few digits for every n that is not a square.
_TWIST_LIMIT: Final = 1 << 16


def proof_size(bits: int) -> int:
    """Bytes of a proof about a modulus of ``bits`` bits, a multiple of 64."""
    roots = FOURTH_ROOTS + NTH_ROOTS
    return 2 * _FLAG_BYTES + roots * (bits // 8) + no_small_factor.proof_size(bits)


def prove(p: int, q: int) -> bytes:
    """The proof about n = pq.

    p, q: different primes, 3 modulo 4, each of half of the bits of n; the caller vouches that they
    are prime. :class:`PlanError` for others, for which there is no proof.
    """
    n = p * q
    bits = n.bit_length()
    if bits < LEAST_BITS or bits % 64:
        raise _refusal(f"the modulus has {bits} bits, not a multiple of 64 from {LEAST_BITS} on")
    if p == q or p % 4 != 3 or q % 4 != 3 or p.bit_length() != q.bit_length():
        # With one length, neither prime divides the other minus 1: n is coprime to phi(n).
        raise _refusal("the factors must be different primes, 3 modulo 4, of one length")
    return _fourth_roots(n, p, q) + _nth_roots(n, p, q) + no_small_factor.prove(p, q)


def check(n: int, proof: bytes) -> None:
    """Raise :class:`PlanError` unless ``proof`` shows all that the module names, about n."""
    _check_alone(n)
    bits = n.bit_length()
    if not isinstance(proof, bytes) or len(proof) != proof_size(bits):
        raise _refusal(f"the proof must be {proof_size(bits)} bytes")
    size = bits // 8
    flags, rest = proof[: 2 * _FLAG_BYTES], proof[2 * _FLAG_BYTES :]
    roots = [
        int.from_bytes(rest[at * size : (at + 1) * size], "little")
        for at in range(FOURTH_ROOTS + NTH_ROOTS)
    ]
    if not all(0 < root < n for root in roots):
        raise _refusal("a root is not between 0 and n")
    _check_fourth_roots(n, flags, roots[:FOURTH_ROOTS])
    _check_nth_roots(n, roots[FOURTH_ROOTS:])
    try:
        no_small_factor.check(n, rest[(FOURTH_ROOTS + NTH_ROOTS) * size :])
    except ValueError as error:
        raise _refusal(str(error)) from None


def _refusal(text: str) -> PlanError:
    return PlanError(text, rule="modulus-proof", field="key")


def _check_alone(n: int) -> None:
    """What anybody sees of n without a proof."""
    if not isinstance(n, int) or n < 1:
        raise _refusal("the modulus must be a positive integer")
    bits = n.bit_length()
    if bits < LEAST_BITS or bits % 64:
        raise _refusal(f"the modulus has {bits} bits, not a multiple of 64 from {LEAST_BITS} on")
    found = modulus.fault(n)
    if found is not None:
        raise _refusal(found[1])


def _units(label: bytes, n: int, count: int) -> list[int]:
    """Hashes of n, uniform modulo n but for 2^-128. One that is no unit would factor n."""
    size = n.bit_length() // 8
    seed = hashlib.shake_256(label + struct.pack("<I", size) + n.to_bytes(size, "little"))
    step = size + 16
    stream = seed.digest(step * count)
    return [
        int.from_bytes(stream[at : at + step], "little") % n for at in range(0, len(stream), step)
    ]


def _fourth_units(n: int) -> list[int]:
    return _units(b"secagg modulus fourth roots v1", n, FOURTH_ROOTS)


def _nth_units(n: int) -> list[int]:
    return _units(b"secagg modulus n-th roots v1", n, NTH_ROOTS)


def _twist(n: int) -> int:
    """The least w > 0 with Jacobi symbol -1: what makes one of y, -y, wy, -wy a square."""
    for w in range(2, _TWIST_LIMIT):
        if modulus.jacobi(w, n) == -1:
            return w
    raise _refusal("no small number has Jacobi symbol -1")


def _twisted(y: int, a: int, b: int, w: int, n: int) -> int:
    """``(-1)^a w^b y`` modulo n."""
    value = y * w if b else y
    return (-value if a else value) % n


def _joined(of_p: int, of_q: int, p: int, q: int, inverse: int) -> int:
    """The number below pq with these residues; ``inverse`` is 1 / p modulo q."""
    return of_p + p * ((of_q - of_p) * inverse % q)


def _fourth_roots(n: int, p: int, q: int) -> bytes:
    """Flags and fourth roots: the roots that are themselves squares."""
    w, inverse = _twist(n), pow(p, -1, q)
    # For a prime r = 3 modulo 4, x^((r + 1) / 4) is the square root of a square that is a square.
    root_p, root_q = ((p + 1) // 4) ** 2 % (p - 1), ((q + 1) // 4) ** 2 % (q - 1)
    signs, twists, roots = 0, 0, []
    for i, y in enumerate(_fourth_units(n)):
        b = modulus.jacobi(y, n) == -1
        value = _twisted(y, 0, b, w, n)
        a = modulus.jacobi(value, p) == -1
        value = _twisted(value, a, 0, w, n)
        root = _joined(power(value, root_p, p), power(value, root_q, q), p, q, inverse)
        signs |= a << i
        twists |= b << i
        roots.append(root.to_bytes(n.bit_length() // 8, "little"))
    flags = signs.to_bytes(_FLAG_BYTES, "little") + twists.to_bytes(_FLAG_BYTES, "little")
    return flags + b"".join(roots)


def _check_fourth_roots(n: int, flags: bytes, roots: list[int]) -> None:
    w = _twist(n)
    signs = int.from_bytes(flags[:_FLAG_BYTES], "little")
    twists = int.from_bytes(flags[_FLAG_BYTES:], "little")
    for i, (y, root) in enumerate(zip(_fourth_units(n), roots, strict=True)):
        square = root * root % n
        if square * square % n != _twisted(y, signs >> i & 1, twists >> i & 1, w, n):
            raise _refusal("a fourth root is wrong: not two primes that are 3 modulo 4")


def _nth_roots(n: int, p: int, q: int) -> bytes:
    inverse = pow(p, -1, q)
    exponent_p, exponent_q = pow(n, -1, p - 1), pow(n, -1, q - 1)
    roots = [
        _joined(power(y % p, exponent_p, p), power(y % q, exponent_q, q), p, q, inverse)
        for y in _nth_units(n)
    ]
    return b"".join(root.to_bytes(n.bit_length() // 8, "little") for root in roots)


def _check_nth_roots(n: int, roots: list[int]) -> None:
    for y, root in zip(_nth_units(n), roots, strict=True):
        if power(root, n, n) != y:
            raise _refusal("an n-th root is wrong: the modulus is not coprime to phi(n)")
