"""Integer alias tables: a law whose probabilities are whole multiples of 2^-128.

Source: Walker, "An efficient method for generating discrete random variables with general
distributions", ACM TOMS 3(3), 1977; the table is built as in Vose, IEEE TSE 17(9), 1991, but with
integers, so that it gives every weight exactly.

A table is that of a symmetric law, folded: its 2^m columns are the magnitudes 0, 1, ..., and the
weights f of the magnitudes are integers that sum to 2^127. Each column holds 2^(127-m) of them: its
own magnitude below a threshold, and one other magnitude, the alias, from there on. So m bits of a
draw choose a column, 127 - m bits meet its threshold, and one bit is the sign: together 128 bits
decide exactly, with nothing to draw again. A row is two words: the threshold's upper 64 - m bits
with the alias below them, and its lower 63 bits shifted by one, beneath which lies the sign.
"""

from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._laws import ONE, Weights

#: Probabilities are multiples of 2^-PRECISION.
PRECISION = 128
_FOLDED = 1 << (PRECISION - 1)
_LOW = (1 << 63) - 1


class Table:
    """An alias table of a symmetric law on -bound, ..., bound.

    `rows`: uint64 [2^bits, 2], read-only; `bits` >= 1. `total_variation`: an upper bound of the
    distance from the ideal law (see `build`). A table never changes.
    """

    __slots__ = ("bits", "bound", "rows", "total_variation")

    def __init__(self, magnitudes: list[int], total_variation: float) -> None:
        self.bound = len(magnitudes) - 1
        self.bits = max(1, self.bound.bit_length())
        self.rows = _fill(magnitudes, self.bits)
        self.total_variation = total_variation

    def __repr__(self) -> str:
        return f"Table(-{self.bound}..{self.bound}, 2^{self.bits} columns)"

    def weights(self) -> list[int]:
        """Return w with P(x) = P(-x) = w[x] / 2^128, x = 0, ..., bound, read off the rows.

        They are exact: w[0] + 2 * (w[1] + ... + w[bound]) == 2^128.
        """
        capacity, mask = _FOLDED >> self.bits, (1 << self.bits) - 1
        folded = [0] * len(self.rows)
        for column, (high, low) in enumerate(self.rows.tolist()):
            own = (high >> self.bits << 63) | (low >> 1)
            folded[column] += own
            folded[high & mask] += capacity - own
        return [2 * folded[0], *islice(folded, 1, self.bound + 1)]


def build(given: Weights) -> Table:
    """Round weights to multiples of 2^-128 and make their table.

    Let g be the ideal weights and G <= g the lower ends of their pairs on the support
    |x| <= M, S the sum of G over it. P(x) = floor(2^128 G(x) / S) / 2^128 for x != 0, and P(0) is
    what is left. M is the last x before the first one whose weight cannot reach 2^-128. The
    distance is the sum of three parts, of which `total_variation` is an upper bound:

    - flooring moves less than 2^-128 from each of 2M points to the mode;
    - G in place of g, with the tail left out: the distance between two normalised measures is at
      most the L1 distance of the measures divided by either total, which is at most the sum over
      the support of (upper end - lower end), plus the tail of g, over S;
    - that tail is at most 2 g(M+1) / (1 - r), where r bounds the ratios of weights beyond M.

    Raises ArithmeticError where the weights end before they are small, or are not bounded well.
    """
    low: list[int] = []
    wide = total = 0
    for x, (lower, upper) in enumerate(given.pairs):
        if x and upper << PRECISION < total:
            break
        low.append(lower)
        share = 1 if x == 0 else 2
        total += share * lower
        wide += share * (upper - lower)
    else:
        raise ArithmeticError("the weights end before they are small")
    bound = len(low) - 1
    ratio = Fraction(upper, low[-1]) if given.ratio is None else Fraction(given.ratio, ONE)
    if not ratio < 1:
        raise ArithmeticError("the tail of the weights has no bound")
    tail = 2 * upper / (1 - ratio)
    distance = Fraction(2 * bound, 1 << PRECISION) + (wide + tail) / total
    others = [(lower << PRECISION) // total for lower in islice(low, 1, None)]
    # The factor covers the rounding of the fraction to a float.
    return Table([_FOLDED - sum(others), *others], float(distance) * (1 + 2.0**-50))


def _fill(magnitudes: list[int], bits: int) -> NDArray[np.uint64]:
    """Return the rows of weights that sum to 2^127; columns without a magnitude weigh nothing.

    A column that has less than its capacity is topped up from one that has more, until all are
    full. Each step fills one column for good. The order of the steps is fixed, because samples
    must be the same on every machine.
    """
    count, capacity = 1 << bits, _FOLDED >> bits
    own = magnitudes + [0] * (count - len(magnitudes))
    alias = list(range(count))
    small = [column for column in range(count) if own[column] < capacity]
    large = [column for column in range(count) if own[column] > capacity]
    while small:
        column, donor = small.pop(), large[-1]
        alias[column] = donor
        left = own[donor] - (capacity - own[column])
        own[donor] = left
        if left <= capacity:
            large.pop()
            if left < capacity:
                small.append(donor)
    rows: NDArray[Any] = np.empty((count, 2), np.uint64)
    # A full column is its own alias: its threshold decides nothing, and one below 2^(127-m) fits.
    kept = [0 if alias[column] == column else own[column] for column in range(count)]
    rows[:, 0] = [(share >> 63 << bits) | other for share, other in zip(kept, alias, strict=True)]
    rows[:, 1] = [(share & _LOW) << 1 for share in kept]
    rows.flags.writeable = False
    return rows
