"""Values of b bits in wider slots of big integers, and sums of such values out of the slots.

A row is one integer in little-endian 64-bit words. Where a slot lies depends on its number alone
and every value costs the same operations, so that neither branches nor addresses tell anything
about the values.
"""

from typing import Any

import numpy as np

from ._jit import inlined, kernel

_ONE, _SIX, _LOW_SIX, _WIDTH = (np.uint64(n) for n in (1, 6, 63, 64))
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def _used(count: Any, row: Any, slots: Any) -> Any:
    """How many slots of a row hold coordinates of a vector of `count`."""
    return min(slots, count - row * slots)


@inlined
def _from(words: Any, row: Any, word: Any, shift: Any, last: Any) -> Any:
    """The 64 bits of a row from bit 64*word + shift on; those beyond the row are arbitrary."""
    low = words[row, min(word, last)] >> shift
    # In two steps, because a shift by 64 bits is not defined.
    return low | ((words[row, min(word + _ONE, last)] << _ONE) << (_LOW_SIX - shift))


@inlined
def _is_above(low: Any, high: Any, most_low: Any, most_high: Any) -> Any:
    """1 where high*2^64 + low exceeds most_high*2^64 + most_low, else 0."""
    over = np.uint64(high > most_high)
    level = np.uint64(high == most_high)
    return over | (level & np.uint64(low > most_low))


@kernel
def pack(ring: Any, words: Any, form: Any) -> None:
    """Write the values of uint lanes [n], offset by half the ring, into uint64 words [rows, W].

    `form`: uint64 (bits of the ring, bits of a slot, slots of a row). Every row has at least one
    value; the bits after the last one are zero.
    """
    bits, step, slots = form[0], form[1], form[2]
    count, rows, width = np.uint64(len(ring)), np.uint64(words.shape[0]), np.uint64(words.shape[1])
    mask = _ALL >> (_WIDTH - bits)
    # Adding half the ring modulo the ring turns the highest bit of a value over.
    half = _ONE << (bits - _ONE)
    for row in range(rows):
        for word in range(width):
            words[row, word] = np.uint64(0)
        for i in range(_used(count, row, slots)):
            value = (np.uint64(ring[row * slots + i]) ^ half) & mask
            word, shift = (i * step) >> _SIX, (i * step) & _LOW_SIX
            words[row, word] |= value << shift
            if shift + bits > _WIDTH:
                words[row, word + _ONE] |= value >> (_WIDTH - shift)


@kernel
def unpack(words: Any, ring: Any, form: Any) -> Any:
    """Write the slots of uint64 words [rows, W], less an offset, into uint lanes [n].

    `form`: uint64 (bits of the ring, bits of a slot, slots of a row, offset modulo 2^64, low and
    high word of the largest value of a slot). Returns the first row in which a slot exceeds that
    value or a bit is set after the last slot used, or -1. Every row is read in any case.
    """
    bits, step, slots, offset = form[0], form[1], form[2], form[3]
    most_low, most_high = form[4], form[5]
    count, rows, width = np.uint64(len(ring)), np.uint64(words.shape[0]), np.uint64(words.shape[1])
    last = width - _ONE
    mask = _ALL >> (_WIDTH - bits)
    # A slot has up to 128 bits, in two words.
    low_mask = _ALL >> (_WIDTH - min(step, _WIDTH))
    high_mask = ~_ALL if step <= _WIDTH else _ALL >> (_WIDTH + _WIDTH - step)
    # Signed from the start: numba takes an integer of either sign for a real.
    first = np.int64(-1)
    for back in range(rows):
        row = rows - _ONE - back
        used = _used(count, row, slots)
        bad = np.uint64(0)
        for i in range(used):
            word, shift = (i * step) >> _SIX, (i * step) & _LOW_SIX
            low = _from(words, row, word, shift, last) & low_mask
            high = _from(words, row, word + _ONE, shift, last) & high_mask
            bad |= _is_above(low, high, most_low, most_high)
            ring[row * slots + i] = (low - offset) & mask
        word, shift = (used * step) >> _SIX, (used * step) & _LOW_SIX
        for at in range(word, width):
            kept = (words[row, at] >> shift) << shift
            bad |= np.uint64(kept != np.uint64(0))
            shift = np.uint64(0)
        if bad:
            first = np.int64(row)
    return first
