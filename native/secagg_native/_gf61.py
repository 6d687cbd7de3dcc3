"""Unchecked arithmetic over GF(2^61 - 1) on uint64 arrays; `field` holds the checked wrappers."""

import numpy as np
from numpy.typing import NDArray

Elements = NDArray[np.uint64]

PRIME = (1 << 61) - 1

_P = np.uint64(PRIME)
_ONE = np.uint64(1)
_LOW32 = np.uint64((1 << 32) - 1)
_LOW29 = np.uint64((1 << 29) - 1)
_LOW21 = np.uint64((1 << 21) - 1)
_3, _21, _29, _32, _42, _61 = (np.uint64(n) for n in (3, 21, 29, 32, 42, 61))

# Below this size a power is cheaper than another round of pairing.
_INVERSE_BY_POWER = 32
# 2^42 * 2^11 = 2^53: sums of so many products of 21-bit limbs are exact in float64.
_EXACT_TERMS = 1 << 11


def fold(s: Elements) -> Elements:
    """Reduce any uint64 to below p."""
    return last(np.add(s & _P, s >> _61))


def last(s: Elements) -> Elements:
    """Reduce s < 2p to below p: s + 1 reaches 2^61 exactly when s >= p."""
    return (s + ((s + _ONE) >> _61)) & _P


def mul_add(a: Elements, b: Elements, c: Elements | np.uint64) -> Elements:
    """Return a*b + c mod p, broadcast, for elements below p.

    With a = a1*2^32 + a0 and b likewise (a1, b1 < 2^29), 2^64 = 8 and 2^61 = 1 mod p. Every term
    of the final sum is below 2^61 or 2^33, five in all, so nothing wraps.
    """
    a0, a1 = a & _LOW32, a >> _32
    b0, b1 = b & _LOW32, b >> _32
    low = a0 * b0
    middle = a1 * b0
    middle += a0 * b1
    total = a1 * b1
    total <<= _3
    total += middle >> _29
    middle &= _LOW29
    middle <<= _32
    total += middle
    total += low & _P
    low >>= _61
    total += low
    return fold(total + c)


def mul(a: Elements, b: Elements) -> Elements:
    """Return a*b mod p, broadcast."""
    return mul_add(a, b, np.uint64(0))


def add(a: Elements, b: Elements) -> Elements:
    """Return a + b mod p, broadcast."""
    return last(a + b)


def sub(a: Elements, b: Elements) -> Elements:
    """Return a - b mod p, broadcast."""
    return last(a + (_P - b))


def inv(a: Elements) -> Elements:
    """Return 1/a mod p for a 1-D array without zeros: three products each, then a few powers.

    Montgomery's trick in a tree: the inverses of x and y follow from that of x*y.
    """
    if len(a) <= _INVERSE_BY_POWER:
        return _power(a)
    half = len(a) // 2
    x, y, odd = a[:half], a[half : 2 * half], a[2 * half :]
    both = inv(np.concatenate((mul(x, y), odd)))
    product = both[:half]
    return np.concatenate((mul(product, y), mul(product, x), both[half:]))


def _power(a: Elements) -> Elements:
    """Return a^(p-2): the exponent 2^61 - 3 is 59 ones, a zero and a one."""
    result = a
    for _ in range(58):
        result = mul(mul(result, result), a)
    result = mul(result, result)
    return mul(mul(result, result), a)


def product(a: Elements) -> Elements:
    """Return the product of `a` [k, ...] over its first axis, k >= 1."""
    while len(a) > 1:
        half = len(a) // 2
        a = np.concatenate((mul(a[:half], a[half : 2 * half]), a[2 * half :]))
    result: Elements = a[0]
    return result


def matmul(a: Elements, b: Elements) -> Elements:
    """Return the matrix product a [r, k] times b [k, c] mod p, as uint64 [r, c].

    Elements are cut into three limbs of 21, 21 and 19 bits and multiplied by the float64 matrix
    product, which is exact here in any order of summation.
    """
    total = np.zeros((a.shape[0], b.shape[1]), np.uint64)
    for low in range(0, a.shape[1], _EXACT_TERMS):
        left = _limbs(a[:, low : low + _EXACT_TERMS])
        right = _limbs(b[low : low + _EXACT_TERMS])
        for i in range(3):
            for j in range(3):
                part = (left[i] @ right[j]).astype(np.uint64)
                # part < 2^53, and a product with 2^s mod p is a rotation of 61 bits.
                shift = np.uint64(21 * (i + j) % 61)
                rotated = ((part << shift) & _P) | (part >> (_61 - shift))
                total = last(total + rotated)
    return total


def _limbs(a: Elements) -> list[NDArray[np.float64]]:
    return [(part & _LOW21).astype(np.float64) for part in (a, a >> _21, a >> _42)]
