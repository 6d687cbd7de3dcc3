"""What the sums must be, in whole numbers and fractions. Imports nothing of the library's."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

#: A coordinate is a whole number of these parts of 1, so that float64 and every rounding keep it.
PARTS: Final = 1 << 17
#: Most ways in which the vectors of one round may be chosen.
_MOST: Final = 256


def _bytes(*words: object) -> bytes:
    return hashlib.sha256(" ".join(map(str, words)).encode()).digest()


def coordinates(seed: int, site: str, number: int, length: int, version: int = 0) -> list[int]:
    """A site's vector in a round: odd numbers of parts, each of absolute value below one."""
    found = []
    for at in range(length):
        data = _bytes("coordinate", seed, site, number, at, version)
        value = int.from_bytes(data[:8], "little") % PARTS | 1
        found.append(-value if data[8] & 1 else value)
    return found


def weight(seed: int, site: str, number: int, largest: int) -> int:
    """A site's weight in a round, from 1."""
    return 1 + int.from_bytes(_bytes("weight", seed, site, number)[:8], "little") % largest


def metric(seed: int, site: str, number: int) -> float:
    """A number of a site that nobody may see, between 1 and 2, with all bits in use."""
    return 1 + int.from_bytes(_bytes("metric", seed, site, number)[:8], "little") % 2**52 / 2**52


def means(
    vectors: Mapping[str, Sequence[Sequence[int]]], weights: Mapping[str, int], sites: Iterable[str]
) -> list[list[Fraction]]:
    """Weighted means over ``sites``, one for each choice of one vector per site."""
    names = list(sites)
    total = sum(weights[name] for name in names)
    choices = itertools.islice(itertools.product(*(vectors[name] for name in names)), _MOST)
    return [
        [
            Fraction(sum(weights[n] * x for n, x in zip(names, column, strict=True)), total * PARTS)
            for column in zip(*chosen, strict=True)
        ]
        for chosen in choices
    ]


def distance(given: Sequence[float], wanted: Sequence[Fraction]) -> Fraction:
    """Largest difference of a coordinate."""
    return max(
        (abs(Fraction(a) - b) for a, b in zip(given, wanted, strict=True)), default=Fraction(0)
    )


__all__ = ["PARTS", "coordinates", "distance", "means", "metric", "weight"]
