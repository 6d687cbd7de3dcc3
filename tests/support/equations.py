"""Sums as linear equations, solved exactly over the rationals: what an attacker can compute."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction


def reduced(rows: Iterable[Iterable[int | Fraction]]) -> list[list[Fraction]]:
    """Reduced row echelon form, zero rows left out."""
    table = [[Fraction(x) for x in row] for row in rows]
    done: list[list[Fraction]] = []
    for column in range(len(table[0]) if table else 0):
        pivot = next((row for row in table if row[column]), None)
        if pivot is None:
            continue
        table.remove(pivot)
        pivot = [x / pivot[column] for x in pivot]
        for other in (*table, *done):
            factor = other[column]
            other[:] = [x - factor * y for x, y in zip(other, pivot, strict=True)]
        done.append(pivot)
    return done


def rank(rows: Iterable[Iterable[int]]) -> int:
    """How many of the rows are independent."""
    return len(reduced(rows))
