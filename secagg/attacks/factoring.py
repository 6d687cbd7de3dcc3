"""Factors of badly made moduli: what anybody with a computer tries first.

Small primes by division; larger ones by Pollard's rho (BIT 15, 1975) in Brent's form; smooth p - 1
(Pollard, Proc. Camb. Phil. Soc. 76, 1974); primes in a simple ratio by Fermat's method with
Lehman's multipliers (Math. Comp. 28, 1974); powers by roots; and a prime modulus as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from secagg_protocols.paillier.primes import gmp, is_prime, power, primes_below

#: Primes below this are divided out: the BitForge moduli are made of primes of 16 to 20 bits.
TRIAL: Final = 1 << 20
#: Steps of Pollard's rho: enough for most factors of up to 30 bits.
RHO: Final = 1 << 16
#: Primes below this may divide p - 1.
SMOOTH: Final = 1 << 14
#: Ratios u : 1 of the two factors that are tried.
RATIOS: Final = 1 << 12


@cache
def _blocks() -> list[tuple[list[int], int]]:
    """The primes below ``TRIAL`` in blocks, each with its product: one division for a block."""
    primes = primes_below(TRIAL).tolist()
    blocks = [primes[start : start + 1024] for start in range(0, len(primes), 1024)]
    return [(block, math.prod(block)) for block in blocks]


def _divisors(n: int) -> Iterator[int]:
    """The primes below ``TRIAL`` that divide n, ascending."""
    for block, product in _blocks():
        common = math.gcd(product, n)
        if common > 1:
            yield from (prime for prime in block if common % prime == 0)


def _divided(n: int) -> int:
    return next(_divisors(n), 1)


def _root(n: int) -> int:
    """The integer of which n is a power, or 1."""
    for degree in primes_below(n.bit_length() // 20 + 2).tolist():
        low, high = 1, 1 << (n.bit_length() // degree + 1)
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**degree <= n else (low, middle)
        if low**degree == n:
            return low
    return 1


def _ratio(n: int) -> int:
    """A factor where the factors are about u : 1 for a small u, or lie side by side."""
    for u in range(1, RATIOS):
        # 4 u n = (p + u q)^2 - (p - u q)^2.
        target = 4 * u * n
        middle = math.isqrt(target - 1) + 1
        for step in range(64 if u == 1 else 2):
            rest = (middle + step) ** 2 - target
            root = math.isqrt(rest)
            if root * root == rest:
                found = math.gcd(middle + step + root, n)
                if 1 < found < n:
                    return found
    return 1


def _smooth(n: int) -> int:
    base = 3
    for start in range(0, SMOOTH, 1024):
        for prime in primes_below(SMOOTH).tolist():
            if start <= prime < start + 1024:
                base = power(base, prime ** (1 + int(math.log(SMOOTH, prime))), n)
        found = math.gcd(base - 1, n)
        if found > 1:
            return found % n or 1
    return 1


def _rho(n: int) -> int:
    # With GMP's integers a step takes a tenth of the time.
    n = gmp.mpz(n) if gmp else n
    x = y = n // n + 1
    done, length = 0, 1
    while done < 2 * RHO:
        x, product = y, 1
        for step in range(length):
            y = (y * y + 1) % n
            product = product * (x - y) % n
            if step % 256 == 255 or step == length - 1:
                found = math.gcd(product, n)
                if found == n:
                    return 1
                if found > 1:
                    return int(found)
                product = 1
        done, length = done + length, 2 * length
    return 1


_METHODS: Final[dict[str, Callable[[int], int]]] = {
    "division": _divided,
    "root": _root,
    "ratio": _ratio,
    "p - 1": _smooth,
    "rho": _rho,
}


def split(n: int) -> tuple[int, str]:
    """(a factor of n that is neither 1 nor n, how it was found), or (1, "")."""
    if is_prime(n):
        return 1, ""
    for name, method in _METHODS.items():
        found = method(n)
        if 1 < found < n:
            return found, name
    return 1, ""


def _parts(n: int) -> Iterator[int]:
    if n == 1:
        return
    found, _ = split(n)
    if found > 1:
        yield from _parts(found)
        yield from _parts(n // found)
    elif is_prime(n):
        yield n
    else:
        raise ValueError("a composite number that these methods do not split")


def factors(n: int) -> list[int]:
    """All prime factors of n, ascending, with repetition.

    `ValueError` where one of its parts resists.
    """
    small = []
    for prime in _divisors(n):
        while n % prime == 0:
            small.append(prime)
            n //= prime
    return [*small, *sorted(_parts(n))]


__all__ = ["RATIOS", "RHO", "SMOOTH", "TRIAL", "factors", "split"]
