"""What a round must give, in plain integers and fractions. Imports nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

#: Relative error that double arithmetic may make on the way to a level: a norm of a few hundred
#: squares, three products and a quotient, each within 2^-53.
SLACK = Fraction(1, 1 << 43)

Interval = tuple[int, int]


def integer_sum(
    vectors: Mapping[str, Sequence[int]], weights: Mapping[str, int], survivors: Sequence[str]
) -> tuple[list[int], int]:
    """Weighted sum of the survivors' integers, and their total weight."""
    length = len(next(iter(vectors.values())))
    total = [sum(weights[s] * vectors[s][i] for s in survivors) for i in range(length)]
    return total, sum(weights[s] for s in survivors)


def clipped(vector: Sequence[float], clips: Sequence[tuple[str, float]]) -> list[Fraction]:
    """The vector after its clips, exact but for square roots (128 bits beyond a double)."""
    exact = [Fraction(x) for x in vector]
    for kind, size in clips:
        limit = Fraction(size)
        if kind == "linf":
            exact = [min(max(x, -limit), limit) for x in exact]
            continue
        square = sum(x * x for x in exact)
        if square > limit * limit:
            norm = Fraction(math.isqrt(int(square * (1 << 512))), 1 << 256)
            exact = [x * limit / norm for x in exact]
    return exact


def level_intervals(
    vector: Sequence[float],
    weight: int,
    clips: Sequence[tuple[str, float]],
    levels: int,
    *,
    nearest: bool,
) -> list[Interval]:
    """Integers that a site may send per coordinate.

    Rounding to the nearest leaves one, but for a double within its own error of a tie; stochastic
    rounding leaves floor and ceiling.
    """
    unit = Fraction(clips[-1][1])
    found = []
    for x in clipped(vector, clips):
        y = x * weight * levels / unit
        low, high = y - abs(y) * SLACK, y + abs(y) * SLACK
        if nearest:
            found.append((round(low), round(high)))
        else:
            found.append((math.floor(low), math.ceil(high)))
    return found


def interval_sum(parts: Sequence[Sequence[Interval]]) -> list[Interval]:
    """Sum of intervals, coordinate by coordinate."""
    return [
        (sum(low for low, _ in column), sum(high for _, high in column))
        for column in zip(*parts, strict=True)
    ]


def level_of(value: float, levels: int, unit: float) -> Fraction:
    """A decoded coordinate in levels, without rounding."""
    return Fraction(value) * levels / Fraction(unit)
