"""What follows from a modulus: arithmetic, the base of the random factors, and its table."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Final

from secagg_native import features
from secagg_native.paillier import FixedBase, Squares, from_words, to_words

from ..errors import MisuseError, PlanError

_LABEL: Final = b"secagg paillier base v1"


@lru_cache(maxsize=8)
def squares(n: int) -> Squares:
    """Arithmetic modulo n^2.

    Raises :class:`MisuseError` (``kernel``) where the environment asks for one that cannot run.
    """
    try:
        features.bigint_variant()
    except ValueError as error:
        raise MisuseError(str(error), rule="kernel") from None
    return Squares(n)


@lru_cache(maxsize=8)
def bases(n: int) -> tuple[int, int]:
    """(h, h_s): h = -x^2 mod n and h_s = h^n mod n^2, where x is a hash of n.

    Damgard, Jurik and Nielsen (2010, section 4.2) let the owner of the key draw x. As its hash,
    it can be chosen by nobody: whoever chose h_s freely could give it an order that betrays the
    random exponents.

    Raises :class:`PlanError` where x is not coprime to n, which then has a known factor.
    """
    # 128 bits more than n has: the remainder is uniform but for 2^-128.
    size = n.bit_length() // 8
    seed = hashlib.shake_256(_LABEL + n.to_bytes(size, "little")).digest(size + 16)
    x = int.from_bytes(seed, "little") % n
    if math.gcd(x, n) != 1:
        raise PlanError("the hash of the modulus splits it", rule="modulus-factor", field="key")
    h = -x * x % n
    row = to_words([h], n.bit_length() // 32)
    return h, from_words(squares(n).power(row, n))[0]


@lru_cache(maxsize=4)
def table(n: int, exponent_bits: int) -> FixedBase:
    """Powers of h_s for exponents of ``exponent_bits`` bits, read at constant addresses."""
    return squares(n).table(bases(n)[1], exponent_bits)
