"""Safe primes, and the tests of primality that keys need.

A safe prime is a prime p for which p' = (p - 1) / 2 is prime as well. With two of them the squares
modulo n = pq have no element of small order but 1, which short exponents and the proofs rely on.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

#: GMP, an optional dependency: 20 times as fast as Python's integers.
gmp: Any
try:
    import gmpy2 as gmp  # type: ignore[import-not-found,import-untyped,unused-ignore,no-redef]
except ImportError:
    gmp = None

#: Random bases of the Miller-Rabin test: a composite passes with probability 4^-64 at most.
ROUNDS: Final = 64
#: Candidates are sieved by the primes below this limit.
_SIEVE: Final = 1 << 17
#: Shortest safe prime that is searched: the sieve must not strike out the primes themselves.
_LEAST: Final = 64

Progress = Callable[[int], None]


def power(base: int, exponent: int, modulus: int) -> int:
    """``base ** exponent % modulus`` for an exponent that is not negative."""
    return int(gmp.powmod(base, exponent, modulus)) if gmp else pow(base, exponent, modulus)


def secret_power(base: int, exponent: int, modulus: int) -> int:
    """:func:`power` for a secret exponent above 0 and an odd modulus.

    GMP then takes time and addresses that follow from the lengths only; Python does not.
    """
    return int(gmp.powmod_sec(base, exponent, modulus)) if gmp else pow(base, exponent, modulus)


@cache
def primes_below(limit: int) -> Integers:
    """All primes below ``limit`` (Eratosthenes), ascending, read-only."""
    marks = np.ones(limit, dtype=bool)
    marks[:2] = False
    for number in range(2, math.isqrt(limit - 1) + 1):
        if marks[number]:
            marks[number * number :: number] = False
    found = np.flatnonzero(marks).astype(np.int64)
    found.flags.writeable = False
    return found


def is_prime(number: int) -> bool:
    """Whether ``number`` is prime. A composite passes with probability 2^-80 at most.

    GMP runs Baillie-PSW and 40 Miller-Rabin rounds; without it, ``ROUNDS`` rounds of
    Miller-Rabin with bases of the operating system's generator, so that nobody can prepare a
    number for them.
    """
    if number < 4:
        return number in (2, 3)
    if number % 2 == 0:
        return False
    return bool(gmp.is_prime(number, ROUNDS)) if gmp else _miller_rabin(number)


def _miller_rabin(number: int) -> bool:
    """Miller-Rabin (Rabin 1980) with ``ROUNDS`` random bases; ``number`` is odd and above 4."""
    odd, halvings = number - 1, 0
    while odd % 2 == 0:
        odd, halvings = odd // 2, halvings + 1
    for _ in range(ROUNDS):
        x = pow(2 + secrets.randbelow(number - 3), odd, number)
        if x in (1, number - 1):
            continue
        for _ in range(halvings - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True


def is_safe_prime(number: int) -> bool:
    """Whether ``number`` is a safe prime above 7.

    Once p' is prime, one power proves that p = 2p' + 1 is: by Pocklington's criterion with base 2,
    as p' is greater than the square root of p and 3 does not divide p.
    """
    half = number // 2
    return (
        number > 7
        and number % 12 == 11
        and power(2, number - 1, number) == 1
        and power(2, half - 1, half) == 1
        and is_prime(half)
    )


def _residues(number: int, primes: Integers) -> Integers:
    """``number`` modulo each of the primes (below 2^31), in steps of 32 bits."""
    rest = np.zeros(len(primes), dtype=np.uint64)
    moduli = primes.astype(np.uint64)
    for place in reversed(range(0, number.bit_length(), 32)):
        rest = ((rest << np.uint64(32)) | np.uint64(number >> place & 0xFFFFFFFF)) % moduli
    return rest.astype(np.int64)


def _survivors(start: int, length: int) -> list[int]:
    """The i below ``length`` for which no sieving prime divides p' = start + 6 i or 2 p' + 1.

    start: congruent to 5 modulo 6, and above the sieving primes.
    """
    primes = primes_below(_SIEVE)[2:]  # 2 and 3 divide neither
    rest = _residues(start, primes)
    sixth = np.where(primes % 6 == 1, primes - primes // 6, primes // 6 + 1)
    # The first i with p' = 0, and the first with p' = (r - 1) / 2, modulo each prime r.
    struck = np.zeros(length, dtype=bool)
    for target in (0, (primes - 1) // 2):
        first = (target - rest) % primes * sixth % primes
        for place, prime in zip(first.tolist(), primes.tolist(), strict=True):
            struck[place::prime] = True
    found: list[int] = np.flatnonzero(~struck).tolist()
    return found


def safe_prime(bits: int, *, progress: Progress | None = None) -> int:
    """A safe prime of exactly ``bits`` bits whose square has ``2 * bits`` bits.

    It is above 2^(bits - 1/2), so that the product of any two has exactly ``2 * bits`` bits.
    ``progress`` gets the number of candidates tested so far, from time to time.

    A window of ``16 * bits`` candidates p' = 5 mod 6 starts at a place drawn by the operating
    system's generator, is sieved for p' and 2p' + 1 together, and what is left is tested in random
    order; the next window is drawn anew. So no prime is preferred for the gap that precedes it,
    as an ascending search would. What is left is the window: a safe prime that shares its windows
    with others is drawn less often. A window for a key's prime holds 0.3 of them or fewer on
    average, so this costs less than half a bit of the key's entropy.

    Raises ``ValueError`` for fewer than 64 bits.
    """
    if bits < _LEAST:
        raise ValueError(f"a safe prime has at least {_LEAST} bits")
    lowest = math.isqrt(1 << 2 * bits - 1) // 2 + 1
    highest = (1 << bits - 1) - 1
    shuffle = secrets.SystemRandom().shuffle
    tested = 0
    while True:
        start = lowest + secrets.randbelow(highest - lowest)
        start += 5 - start % 6
        places = _survivors(start, 16 * bits)
        shuffle(places)
        for place in places:
            half = start + 6 * place
            tested += 1
            if progress is not None and tested % 64 == 0:
                progress(tested)
            if power(2, half - 1, half) != 1:
                continue
            prime = 2 * half + 1
            if prime.bit_length() == bits and is_safe_prime(prime):
                return prime


def safe_primes(bits: int, *, progress: Progress | None = None) -> tuple[int, int]:
    """Two safe primes of ``bits // 2`` bits whose product has exactly ``bits`` bits.

    They differ by more than 2^(bits/2 - 100), as FIPS 186-5 (appendix A.1.1) asks.
    ``ValueError`` unless ``bits`` is even and at least 256.
    """
    if bits % 2 or bits < 256:
        raise ValueError("a modulus of two safe primes has an even number of bits, at least 256")
    tested = [0]  # by each search

    def count(done: int) -> None:
        tested[-1] = done
        if progress is not None:
            progress(sum(tested))

    p = safe_prime(bits // 2, progress=count)
    while True:
        tested.append(0)
        q = safe_prime(bits // 2, progress=count)
        if apart(p, q, bits):
            return p, q


def apart(p: int, q: int, bits: int) -> bool:
    """Whether two primes of a modulus of ``bits`` bits differ by more than 2^(bits/2 - 100)."""
    return abs(p - q) > 1 << bits // 2 - 100
