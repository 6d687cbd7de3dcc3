"""What an adversary does with the numbers of a Paillier sum: plain integers, no party.

Frames are taken apart, plaintexts are split into slots, and whoever has the factors or enough
shares opens ciphertexts. Sources: Paillier (EUROCRYPT 1999); Damgard and Jurik (PKC 2001, section
4.1) with the integer Lagrange coefficients of Shoup (EUROCRYPT 2000).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secagg_protocols import wire
from secagg_protocols.paillier.primes import power

from .attack import Array, Frame

#: Number of the messages in which ciphertexts and openings travel (``paillier_sum.md``).
ENCRYPTED, OPENED = 16, 18


@dataclass(frozen=True, slots=True)
class Public:
    """What everybody knows: the modulus, where coordinates lie, and how many holders there are.

    bits, slot_bits, slots, length, rows: as of the layout; sites: of the roster; trailer: bytes
    at the end of a frame.
    """

    n: int
    bits: int
    slot_bits: int
    slots: int
    length: int
    rows: int
    sites: int
    holders: int
    threshold: int
    trailer: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Public:
        """From the public part of a transcript."""
        number = int.from_bytes(given["n"], "little")
        rest = {name: int(given[name]) for name in cls.__slots__ if name != "n"}
        return cls(n=number, **rest)

    @property
    def size(self) -> int:
        """Bytes of a ciphertext."""
        return 2 * (-(-self.n.bit_length() // 64)) * 8

    @property
    def row_bits(self) -> int:
        """Bits of the slots that the vector uses in one row."""
        return min(self.slots, self.length) * self.slot_bits


def numbers(data: bytes | memoryview, size: int) -> list[int]:
    """Little-endian integers of ``size`` bytes each."""
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def to_array(values: Iterable[int], size: int) -> Array:
    """Integers as bytes, uint8[count * size]: how evidence carries long numbers."""
    data = b"".join(value.to_bytes(size, "little") for value in values)
    return np.frombuffer(data, dtype=np.uint8)


def parts(frame: Frame, public: Public) -> tuple[int, int, memoryview]:
    """Kind, index of the sender, and tail of a frame."""
    found = wire.split_frame(frame.data, trailer_size=public.trailer)
    return found.kind, found.sender, found.tail


def ciphertexts(frames: Iterable[Frame], public: Public) -> dict[str, tuple[list[int], bytes]]:
    """By site: its ciphertexts, and the proof that came with them."""
    found = {}
    cut = public.rows * public.size
    for frame in frames:
        kind, _, tail = parts(frame, public)
        if kind == ENCRYPTED:
            found[frame.sender] = (numbers(tail[:cut], public.size), bytes(tail[cut:]))
    return found


def openings(frames: Iterable[Frame], public: Public) -> dict[int, list[int]]:
    """By number of the holder, from 1: shares of a decryption, or plaintexts of a whole key."""
    found = {}
    size = public.size if public.holders > 1 else public.size // 2
    for frame in frames:
        kind, sender, tail = parts(frame, public)
        if kind == OPENED:
            found[sender - public.sites + 1] = numbers(tail[: public.rows * size], size)
    return found


def product(vectors: Iterable[Sequence[int]], public: Public) -> list[int]:
    """The encrypted sum, row by row."""
    square = public.n**2
    total = [1] * public.rows
    for rows in vectors:
        total = [a * b % square for a, b in zip(total, rows, strict=True)]
    return total


def opened(shares: Mapping[int, Sequence[int]], public: Public) -> list[int] | None:
    """Plaintexts from openings of holders; None where they do not open the ciphertexts.

    As many shares as the threshold asks for are used, or all where there are fewer.
    """
    if public.holders == 1:
        return list(shares[1]) if 1 in shares else None
    n, square, delta = public.n, public.n**2, math.factorial(public.holders)
    chosen = sorted(shares)[: public.threshold]
    if not chosen:
        return None
    scale = pow(4 * delta**2, -1, n)
    plain = []
    for row in range(public.rows):
        value = 1
        for i in chosen:
            factor = power(shares[i][row], 2 * abs(lagrange(i, chosen, delta)), square)
            if lagrange(i, chosen, delta) < 0:
                factor = pow(factor, -1, square)
            value = value * factor % square
        quotient, rest = divmod(value, n)
        if rest != 1:
            return None
        plain.append(quotient * scale % n)
    return plain


def lagrange(i: int, chosen: Sequence[int], delta: int) -> int:
    """Delta times the coefficient of holder ``i`` at 0: an integer."""
    others = [j for j in chosen if j != i]
    return delta * math.prod(others) // math.prod(j - i for j in others)


def share_of(rows: Sequence[int], secret: int, public: Public) -> list[int]:
    """What a holder makes of ciphertexts with its share of the key."""
    exponent = 2 * math.factorial(public.holders) * secret
    return [power(row, exponent, public.n**2) for row in rows]


def decrypt(rows: Sequence[int], factors: Sequence[int], n: int) -> list[int]:
    """Plaintexts of ciphertexts under n, of which all prime factors are known, with repetition.

    Whatever these factors are, c^phi = 1 + m phi n modulo n^2. Where phi and n have a common
    factor g, this gives m modulo n / g, which is m itself where few slots are used.
    """
    phi = 1
    for prime in set(factors):
        phi *= (prime - 1) * prime ** (factors.count(prime) - 1)
    common = math.gcd(phi, n)
    rest = n // common
    inverse = pow(phi // common, -1, rest)
    return [(power(row, phi, n * n) - 1) // n // common * inverse % rest for row in rows]


def slots(plain: Iterable[int], count: int, public: Public) -> list[int]:
    """Sums of ``count`` signed numbers in the slots of plaintexts, coordinate by coordinate."""
    mask, offset = (1 << public.slot_bits) - 1, count << (public.bits - 1)
    found = [
        (number >> slot * public.slot_bits & mask) - offset
        for number in plain
        for slot in range(public.slots)
    ]
    return found[: public.length]


def packed(values: Sequence[int], public: Public) -> list[int]:
    """Plaintexts of one vector, as an honest site makes them."""
    offset = 1 << (public.bits - 1)
    rows = []
    for start in range(0, public.length, public.slots):
        part = values[start : start + public.slots]
        pairs = enumerate(part)
        rows.append(sum((value + offset) << slot * public.slot_bits for slot, value in pairs))
    return rows


__all__ = [
    "ENCRYPTED",
    "OPENED",
    "Public",
    "ciphertexts",
    "decrypt",
    "lagrange",
    "numbers",
    "opened",
    "openings",
    "packed",
    "parts",
    "product",
    "share_of",
    "slots",
    "to_array",
]
