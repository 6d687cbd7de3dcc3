"""Slots of big integers: how a vector of ring elements is held by few Paillier plaintexts.

A *row* is one integer of W 64-bit words, least significant word first. Slot i of a row is its
bits [i*slot_bits, (i+1)*slot_bits); slots run over the borders of words. A ring element x modulo
2^bits is packed as (x + 2^(bits-1)) mod 2^bits, which is its representative in
[-2^(bits-1), 2^(bits-1)) plus 2^(bits-1). So a sum of packed integers whose weights add up to
`count` holds, in each slot, the signed sum plus count*2^(bits-1): an integer that depends on the
signed sum and on `count` alone, not on how many addends were negative. No slot carries into the
next as long as count*(2^bits - 1) < 2^slot_bits.

The slots of the last row that no coordinate uses, and the bits above the last slot, are zero in
every packed integer, and so they are in a sum.
"""

import numpy as np
from numpy.typing import NDArray

from ._checks import LANE_DTYPES, Lanes, check_array, check_integer, read_only

MAX_SLOT_BITS = 128
"""Two words: enough for 64 bits of ring and sums of 2^64 of them."""

_UINT64 = (np.dtype(np.uint64),)
_MAX_SLOTS = 1 << 20
_WORD = (1 << 64) - 1


class SlotRangeError(ValueError):
    """A row that no sum within the bound opens to. `row` is its index, and nothing else is kept."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} holds a value out of the range of its slot")
        self.row = row

    def __reduce__(self) -> tuple[type["SlotRangeError"], tuple[int]]:
        """Let the error cross a process boundary with its row."""
        return type(self), (self.row,)


def pack(ring: Lanes, bits: int, slot_bits: int, slots: int, out: NDArray[np.uint64]) -> None:
    """Write the elements of `ring` into the slots of the rows of `out`.

    `ring`: uint16, uint32 or uint64 [n], n >= 1, with lanes of at least `bits` bits; bits above
    are ignored. `bits`: 1 to 64. `slot_bits`: `bits` to 128. `slots`: slots of a row, which must
    fit its words. `out`: uint64 [ceil(n/slots), W], overwritten. Rows are independent, so a long
    vector may be packed in pieces of a multiple of `slots` elements.

    Raises ValueError for a wrong dtype, shape, layout or argument.
    """
    check_array("ring", ring, LANE_DTYPES, 1)
    check_array("out", out, _UINT64, 2, writeable=True)
    form = _form(ring, bits, slot_bits, slots, out)

    from .kernels import slots as kernels

    kernels.pack(read_only(ring), np.asarray(out), read_only(np.array(form, np.uint64)))


def unpack(
    rows: NDArray[np.uint64], bits: int, slot_bits: int, slots: int, count: int, out: Lanes
) -> None:
    """Write the sums that `rows` hold, modulo 2^bits, into `out`: the inverse of `pack` for sums.

    `rows`: uint64 [ceil(n/slots), W]. `count`: the sum of the weights of what was added, from 1
    on; count*(2^bits - 1) must fit a slot. `out`: uint16, uint32 or uint64 [n], n >= 1.

    Raises SlotRangeError, a ValueError, for the first row in which a slot exceeds
    count*(2^bits - 1) or a bit is set beyond the slots in use; `out` is then all zero. Raises
    ValueError for a wrong dtype, shape, layout or argument; `out` is then unchanged.
    """
    check_array("rows", rows, _UINT64, 2)
    check_array("out", out, LANE_DTYPES, 1, writeable=True)
    form = _form(out, bits, slot_bits, slots, rows)
    count = check_integer("count", count, 1, 1 << MAX_SLOT_BITS)
    largest = count * ((1 << form[0]) - 1)
    if largest >> form[1]:
        raise ValueError("count values of the ring must fit a slot")
    form += [count << (form[0] - 1) & _WORD, largest & _WORD, largest >> 64]

    from .kernels import slots as kernels

    bad = kernels.unpack(read_only(rows), np.asarray(out), read_only(np.array(form, np.uint64)))
    if bad >= 0:
        out[:] = 0
        raise SlotRangeError(int(bad))


def _form(
    ring: Lanes, bits: int, slot_bits: int, slots: int, words: NDArray[np.uint64]
) -> list[int]:
    """Return (bits, slot_bits, slots) where they fit the lanes and the rows, or raise."""
    bits = check_integer("bits", bits, 1, 64)
    if bits > 8 * ring.dtype.itemsize:
        raise ValueError("bits must not exceed the width of a lane")
    slot_bits = check_integer("slot_bits", slot_bits, bits, MAX_SLOT_BITS)
    slots = check_integer("slots", slots, 1, _MAX_SLOTS)
    if slots * slot_bits > 64 * words.shape[1]:
        raise ValueError("the slots must fit the words of a row")
    if len(ring) < 1 or len(words) != -(-len(ring) // slots):
        raise ValueError("there must be one row for every `slots` elements, and at least one")
    return [bits, slot_bits, slots]
