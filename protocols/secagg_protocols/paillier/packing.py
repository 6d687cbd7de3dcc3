"""How a vector of ring elements lies in the plaintexts of a key: slots with exact carry bits.

A slot is as wide as the largest sum it may hold, so no sum within the layout's bound carries into
the next slot. It holds the representative of x in [-2^(b-1), 2^(b-1)) plus 2^(b-1): what is opened
is the sum of the signed values plus a known offset, so it tells their sum and not how many of
them were negative. The bytes of a row are described in ``secagg_native.slots``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import slots as native
from secagg_native.slots import SlotRangeError

from ..errors import MisuseError, PlanError

__all__ = ["MOST_LENGTH", "MOST_WEIGHT", "Layout", "SlotRangeError", "Words"]

Words = npt.NDArray[np.uint64]

#: Largest sum of weights of a layout: 32 carry bits are more than any cohort needs.
MOST_WEIGHT: Final = 1 << 32
MOST_LENGTH: Final = 1 << 40
_MOST_KEY_BITS: Final = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of one vector lie. Parties whose layouts differ cannot add.

    bits: bits b of the ring, 1 to 64; elements are integers modulo 2^b.
    most: largest sum of the integer weights of what is added, 1 to 2^32: the number of sites
        where all weights are 1.
    length: coordinates of the vector.
    key_bits: bits of the key's modulus, a multiple of 64.

    Raises :class:`PlanError` (``layout``) for a value out of range, and where not even one slot
    fits a plaintext.
    """

    bits: int
    most: int
    length: int
    key_bits: int

    def __post_init__(self) -> None:
        limits = {
            "bits": 64,
            "most": MOST_WEIGHT,
            "length": MOST_LENGTH,
            "key_bits": _MOST_KEY_BITS,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                raise PlanError(f"an integer from 1 to {limit}", rule="layout", field=name)
        if self.key_bits % 64:
            raise PlanError("a multiple of 64", rule="layout", field="key_bits")
        if not self.slots:
            raise PlanError(
                f"a plaintext of {self.key_bits} bits has no room for a slot of {self.slot_bits}",
                rule="layout",
                field="key_bits",
            )

    @property
    def slot_bits(self) -> int:
        """Bits of a slot: exactly those of ``most`` times the largest element."""
        return (self.most * ((1 << self.bits) - 1)).bit_length()

    @property
    def slots(self) -> int:
        """Slots of a plaintext, which is below 2^(key_bits - 1) and so below the modulus."""
        return (self.key_bits - 1) // self.slot_bits

    @property
    def rows(self) -> int:
        """Plaintexts, and so ciphertexts, of the vector."""
        return -(-self.length // self.slots)

    @property
    def words(self) -> int:
        """Words of 64 bits of a plaintext; a ciphertext has twice as many."""
        return self.key_bits // 64

    def canonical(self) -> list[int]:
        """Plain values whose msgpack form is the canonical encoding."""
        return [self.bits, self.most, self.length, self.key_bits]

    def span(self, start_row: int, rows: int) -> tuple[int, int]:
        """(start, stop): the coordinates that ``rows`` rows from ``start_row`` on hold.

        Raises :class:`MisuseError` (``layout``) unless they are rows of the vector, at least one.
        """
        if start_row < 0 or rows < 1 or start_row + rows > self.rows:
            raise MisuseError(f"the vector has {self.rows} rows", rule="layout")
        start = start_row * self.slots
        return start, min(start + rows * self.slots, self.length)

    def pack(self, ring: npt.NDArray[Any], start_row: int = 0) -> Words:
        """Plaintexts of a stretch of the vector, which begins with row ``start_row``.

        ring: uint16, uint32 or uint64 lanes modulo 2^bits (bits above are ignored), from
        coordinate start_row*slots on, up to the end of a row or of the vector.
        Returns uint64 [rows, words]. Raises :class:`MisuseError` (``layout``) for another array.
        """
        count = len(ring)
        rows = -(-count // self.slots)
        start, stop = self.span(start_row, rows)
        if stop - start != count:
            raise MisuseError("a stretch ends with a row or with the vector", rule="layout")
        out = np.empty((rows, self.words), np.uint64)
        try:
            native.pack(ring, self.bits, self.slot_bits, self.slots, out)
        except ValueError as error:
            # The text names a rule about arrays; the cause would hold the values.
            raise MisuseError(str(error), rule="layout") from None
        return out

    def unpack(self, rows: Words, count: int, out: npt.NDArray[Any], start_row: int = 0) -> None:
        """Write the sums in opened plaintexts into ``out``, modulo 2^bits.

        rows: uint64 [rows, words], the plaintexts from row ``start_row`` on.
        count: the sum of the weights of what was added, 1 to ``most``.
        out: uint16, uint32 or uint64 lanes, one for each coordinate of these rows.

        Raises :class:`SlotRangeError`, a ValueError, where a slot is above count*(2^bits - 1) or a
        bit is set beyond the slots in use: no honest sum has such a plaintext. Who knows whose
        fault it is turns it into an error with the rule ``slot-range``. Raises
        :class:`MisuseError` (``layout``, ``count``) for arguments that do not fit.
        """
        start, stop = self.span(start_row, len(rows))
        if len(out) != stop - start or rows.shape[1:] != (self.words,):
            raise MisuseError("rows and coordinates do not belong together", rule="layout")
        if type(count) is not int or not 1 <= count <= self.most:
            raise MisuseError(f"the weights add up to 1 to {self.most}", rule="count")
        try:
            native.unpack(rows, self.bits, self.slot_bits, self.slots, count, out)
        except SlotRangeError as error:
            raise SlotRangeError(start_row + error.row) from None
        except ValueError as error:
            raise MisuseError(str(error), rule="layout") from None
