"""Rows of 64-bit words to columns of 52-bit digits and back, and reduction below a modulus.

A block holds eight numbers: digit j of number i is digits[8 j + i], in radix 2^52, which is what
`montgomery` works on. Arrays of digits are flat, block after block. These kernels need no special
instructions. They are linear in the digits, and neither branch on them nor index with them.
"""

from typing import Any

import numpy as np

from ._jit import inlined, kernel

LANES = 8
DIGIT = 52
MASK = np.uint64((1 << DIGIT) - 1)


@inlined
def _settle(digits: Any, start: int, size: int) -> None:
    """Carry eight numbers whose digits have grown beyond 52 bits, in place."""
    for j in range(size - 1):
        for i in range(start + LANES * j, start + LANES * (j + 1)):
            digits[i + LANES] += digits[i] >> np.uint64(DIGIT)
            digits[i] &= MASK


@inlined
def _subtract_once(digits: Any, start: int, modulus: Any, size: int, work: Any) -> None:
    """Subtract the modulus from those of eight numbers that are not below it.

    The last eight of `work`, 8 * (size + 1) words, are then 1 for those numbers, else 0.
    """
    end = LANES * size
    for i in range(LANES):
        work[end + i] = np.uint64(0)
    for j in range(size):
        for i in range(LANES):
            value = digits[start + LANES * j + i] - modulus[j] - work[end + i]
            work[LANES * j + i] = value & MASK
            work[end + i] = value >> np.uint64(63)
    for i in range(LANES):
        work[end + i] ^= np.uint64(1)
    for j in range(size):
        for i in range(LANES):
            mask = np.uint64(0) - work[end + i]
            old = digits[start + LANES * j + i]
            digits[start + LANES * j + i] = old ^ ((old ^ work[LANES * j + i]) & mask)


@kernel
def split(words: Any, first: int, size: int, stride: int, out: Any) -> None:
    """Write digits `first` to `first` + `size` - 1 of rows `words` [8 b, w].

    They are the first of the `stride` digits of each block; the others become zero, as do digits
    beyond the words.
    """
    last = words.shape[1] - 1
    for block in range(len(words) // LANES):
        start = LANES * stride * block
        for j in range(stride):
            word, bit = (DIGIT * (first + j)) >> 6, (DIGIT * (first + j)) & 63
            for i in range(LANES):
                value = np.uint64(0)
                if word <= last and j < size:
                    value = words[LANES * block + i, word] >> np.uint64(bit)
                    if bit > 64 - DIGIT and word < last:
                        value |= words[LANES * block + i, word + 1] << np.uint64(64 - bit)
                out[start + LANES * j + i] = value & MASK


@kernel
def join(digits: Any, first: int, size: int, stride: int, words: Any) -> None:
    """Write rows `words` [8 b, w] from `size` of the `stride` digits of each block.

    These begin at digit `first`. What is beyond them is zero, what is beyond the words is dropped.
    """
    for block in range(len(words) // LANES):
        for word in range(words.shape[1]):
            j, bit = 64 * word // DIGIT, 64 * word % DIGIT
            start = LANES * (stride * block + first + j)
            for i in range(start, start + LANES):
                value = np.uint64(0)
                if j < size:
                    value = digits[i] >> np.uint64(bit)
                if j + 1 < size:
                    value |= digits[i + LANES] << np.uint64(DIGIT - bit)
                if j + 2 < size and bit > 2 * DIGIT - 64:
                    value |= digits[i + 2 * LANES] << np.uint64(2 * DIGIT - bit)
                words[LANES * block + i - start, word] = value


@kernel
def settle(digits: Any, size: int) -> None:
    """Carry numbers of `size` digits, in place; the last digit takes what is left."""
    for start in range(0, len(digits), LANES * size):
        _settle(digits, start, size)


@kernel
def subtract_once(digits: Any, modulus: Any, size: int, work: Any) -> None:
    """Bring numbers of `size` digits below n which are below 2 n; `modulus` begins with n.

    `work`: `size` + 1 digits.
    """
    for start in range(0, len(digits), LANES * size):
        _subtract_once(digits, start, modulus, size, work)


@kernel
def canonical(pairs: Any, modulus: Any, size: int, work: Any) -> None:
    """Reduce pairs x0 + x1 n with x0 < 2 n, x1 < 4 n - 1 modulo n^2: both below n.

    `modulus` begins with n; `work`: `size` + 1 digits.
    """
    for start in range(0, len(pairs), 2 * LANES * size):
        upper = start + LANES * size
        _subtract_once(pairs, start, modulus, size, work)
        for i in range(LANES):
            pairs[upper + i] += work[LANES * size + i]
        _settle(pairs, upper, size)
        for _ in range(3):
            _subtract_once(pairs, upper, modulus, size, work)
