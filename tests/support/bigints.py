"""Keys, operands and an oracle for Paillier's arithmetic in plain integers: nothing of ours."""

import functools
import hashlib
import math
import random

import numpy as np

#: Offsets that make primes of the numbers below, so that no test has to search for one.
_SEEDED = {
    512: (568, 0),
    576: (746, 92),
    832: (136, 108),
    1024: (296, 284),
    2048: (102, 74),
    3072: (1362, 460),
    4096: (3670, 108),
}
_LARGEST = {512: (189, 357), 832: (435, 453), 1024: (569, 629), 2048: (105, 179)}
_LEAST = {512: (44, 254), 832: (72, 388), 1024: (256, 328), 2048: (36, 558)}

#: 576 bits are an odd number of words, 832 exactly 16 digits of 52 bits.
SIZES = tuple(_SEEDED)
SMALL = (512, 576, 832, 1024)


def _start(label, bits):
    text = hashlib.shake_256(f"{label}{2 * bits}".encode()).digest(bits // 8)
    return int.from_bytes(text, "big") | 3 << (bits - 2) | 1


def primes(bits, kind="seeded"):
    """p and q of a modulus of `bits` bits: of no form, or making n almost 2^bits or 2^(bits-1)."""
    half = bits // 2
    if kind == "largest":
        return tuple(2**half - offset for offset in _LARGEST[bits])
    if kind == "least":
        return tuple((math.isqrt(2 ** (bits - 1)) + 1 | 1) + offset for offset in _LEAST[bits])
    return tuple(
        _start(label, half) + offset for label, offset in zip("pq", _SEEDED[bits], strict=True)
    )


KEYS = [(bits, "seeded") for bits in SIZES] + [
    (bits, kind) for kind in ("largest", "least") for bits in _LARGEST
]
SMALL_KEYS = [(bits, kind) for bits, kind in KEYS if bits in SMALL]


def words(values, count):
    """Integers as uint64 [len(values), count], one word at a time."""
    low = (1 << 64) - 1
    rows = [[value >> (64 * i) & low for i in range(count)] for value in values]
    return np.array(rows, np.uint64).reshape(len(rows), count)


def integers(rows):
    """The integers of uint64 rows, one word at a time."""
    return [sum(word << (64 * i) for i, word in enumerate(row)) for row in rows.tolist()]


def edges(p, q):
    """Residues modulo n^2 where arithmetic goes wrong: with units and without an inverse."""
    n = p * q
    return [0, 1, 2, n - 1, n, n + 1, n * n - 1, n * n - n, p, q * q, p * (n - 1), 2 * n + 1]


def residues(p, q, count, seed=1):
    """`count` residues modulo n^2, the edges first."""
    rng = random.Random(f"{seed}-{p}")
    drawn = [rng.randrange((p * q) ** 2) for _ in range(count)]
    return (edges(p, q) + drawn)[:count]


def units(p, q, count, seed=2):
    """`count` invertible residues modulo n^2, 1, n^2 - 1 and n + 1 first."""
    n = p * q
    rng = random.Random(f"{seed}-{p}")
    found = [1, n * n - 1, n + 1]
    while len(found) < count:
        value = rng.randrange(n * n)
        if math.gcd(value, n) == 1:
            found.append(value)
    return found[:count]


@functools.cache
def nth_powers(bits, kind):
    """17 n-th powers modulo n^2, what hides a plaintext: powers of one, which is long to make."""
    n = math.prod(primes(bits, kind))
    first = pow(3, n, n * n)
    return [pow(first, 7**i, n * n) for i in range(17)]
