"""What anybody can check of a modulus without its factors.

None of this shows that a modulus is the product of two safe primes: that needs the owner's proof
(``modulus_proof.py``) or trust in the dealer. It refuses what is broken by accident and the cheap
traps: moduli with small factors, from which a sender's secrets can be read
(CVE-2023-33241), prime moduli, powers, and primes that lie side by side.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Final

from ..errors import PlanError
from . import primes

#: No prime factor of a modulus may be below this limit.
SMOOTH_LIMIT: Final = 1 << 20
#: Steps of Fermat's factorisation: the first alone finds primes closer than 2^(bits/4).
_FERMAT_STEPS: Final = 64


def jacobi(value: int, modulus: int) -> int:
    """Jacobi symbol of ``value`` modulo an odd positive ``modulus``: 1, -1, or 0."""
    if primes.gmp:
        return int(primes.gmp.jacobi(value, modulus))
    value, symbol = value % modulus, 1
    while value:
        twos = (value & -value).bit_length() - 1
        value >>= twos
        if twos % 2 and modulus % 8 in (3, 5):
            symbol = -symbol
        if value % 4 == 3 and modulus % 4 == 3:
            symbol = -symbol
        value, modulus = modulus % value, value
    return symbol if modulus == 1 else 0


@cache
def _small_primes() -> int:
    """Product of all odd primes below ``SMOOTH_LIMIT``, about 1.5 million bits."""
    factors = primes.primes_below(SMOOTH_LIMIT)[1:].tolist()
    while len(factors) > 1:
        # In pairs, so that long numbers are multiplied with long ones only.
        odd = factors[-1:] if len(factors) % 2 else []
        pairs = zip(factors[0:-1:2], factors[1::2], strict=len(odd) == 0)
        factors = [a * b for a, b in pairs] + odd
    return int(factors[0])


def _root(value: int, degree: int) -> int:
    """Largest integer whose ``degree``-th power is at most ``value`` (Newton, from above)."""
    x = 1 << -(-value.bit_length() // degree)
    while True:
        lower = ((degree - 1) * x + value // x ** (degree - 1)) // degree
        if lower >= x:
            return x
        x = lower


def _is_power(n: int) -> bool:
    """Whether n without factors below ``SMOOTH_LIMIT`` is a power of another integer."""
    # Such a base has more than 20 bits, which bounds the exponent.
    exponents = primes.primes_below(max(3, n.bit_length() // 20 + 2)).tolist()
    return any(_root(n, k) ** k == n for k in exponents)


def _is_close(n: int) -> bool:
    """Whether a few steps of Fermat's factorisation split n."""
    middle = math.isqrt(n - 1) + 1
    for step in range(_FERMAT_STEPS):
        square = (middle + step) ** 2 - n
        if math.isqrt(square) ** 2 == square:
            return True
    return False


@lru_cache(maxsize=64)
def fault(n: int) -> tuple[str, str] | None:
    """The first rule that ``n`` breaks and its text, or None. Verdicts are kept.

    n: positive, of a length that was checked.
    """
    if n % 2 == 0:
        return "modulus-odd", "the modulus is even"
    if math.gcd(n, _small_primes() % n) != 1:
        return "modulus-factor", "the modulus has a prime factor below 2^20"
    if _is_power(n):
        return "modulus-square", "the modulus is a power of another integer"
    if primes.is_prime(n):
        return "modulus-prime", "the modulus is prime"
    if _is_close(n):
        return "modulus-close", "the factors of the modulus are so close that it is factored"
    return None


def refusal(text: str, rule: str) -> PlanError:
    """The error for a key that breaks ``rule``."""
    return PlanError(text, rule=rule, field="key")


def check(n: int) -> None:
    """Raise :class:`PlanError` for a modulus that anybody can see to be bad."""
    found = fault(n)
    if found is not None:
        raise refusal(found[1], found[0])


def check_primes(p: int, q: int, most_bits: int, *, safe: bool) -> None:
    """Raise :class:`PlanError` unless p and q make a private key of at most ``most_bits`` bits.

    Primes of equal length also have gcd(n, (p - 1)(q - 1)) = 1, without which nothing opens:
    neither can divide the other less one.
    """
    if type(p) is not int or type(q) is not int or type(safe) is not bool:
        raise refusal("p and q are ints, and safe is a bool", "private-types")
    bits = p.bit_length()
    if p <= 0 or q <= 0 or q.bit_length() != bits or (p * q).bit_length() != 2 * bits:
        raise refusal(
            "the primes have equal lengths, and their product twice that length", "private-length"
        )
    if 2 * bits > most_bits:
        raise refusal(f"a modulus has at most {most_bits} bits", "private-length")
    if not primes.apart(p, q, 2 * bits):
        raise refusal("the primes are so close that anybody can find them", "private-close")
    if not (safe and primes.is_safe_prime(p) and primes.is_safe_prime(q)):
        # Only now, as this is what takes a second without GMP.
        if not (primes.is_prime(p) and primes.is_prime(q)):
            raise refusal("p or q is not prime", "private-prime")
        if safe:
            raise refusal("p or q is not a safe prime", "private-safe")
