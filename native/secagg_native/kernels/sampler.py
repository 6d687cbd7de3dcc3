"""The choice of one column out of an alias table for each 128-bit draw: integers only.

A draw is the words (high, low) of one keystream block. The top `bits` bits of `high` name a
column; the other bits of `high`, then those of `low` but its last, are compared with the column's
threshold; the last bit of `low` is the sign. A row of the table is (threshold's high word with the
alias in its low `bits` bits, threshold's low word), see `_alias`. Nothing branches on a draw; the
row that is read depends on it.
"""

from typing import Any

import numpy as np

from ._jit import inlined, kernel

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_WORD = np.uint64(64)


@inlined
def _chosen(words: Any, i: int, table: Any, bits: Any) -> Any:
    """Return the signed column of draw i, as a uint64 modulo 2^64, and erase the draw."""
    high, low = words[2 * i], words[2 * i + 1]
    words[2 * i] = words[2 * i + 1] = _ZERO
    column = high >> (_WORD - bits)
    row, row_low = table[column, 0], table[column, 1]
    alias = row & ((_ONE << bits) - _ONE)
    threshold, rest = row ^ alias, high << bits
    below = np.uint64(rest < threshold) | (np.uint64(rest == threshold) & np.uint64(low < row_low))
    magnitude = alias ^ ((alias ^ column) & (~below + _ONE))
    sign = low & _ONE
    return (magnitude ^ (~sign + _ONE)) + sign


@kernel
def write(words: Any, table: Any, out: Any, factor: Any, bits: Any) -> None:
    """Write factor * choice into unsigned integers [n], modulo 2^lane.

    `words`: uint64 [2n], a high and a low word for each draw, which become 0; `table`: uint64
    [2^bits, 2]; `factor`, `bits`: uint64, bits from 1 to 63.
    """
    for i in range(len(out)):
        out[i] = factor * _chosen(words, i, table, bits)


@kernel
def add(words: Any, table: Any, out: Any, factor: Any, bits: Any) -> None:
    """As `write`, added to what `out` holds."""
    for i in range(len(out)):
        out[i] = np.uint64(out[i]) + factor * _chosen(words, i, table, bits)
