"""Which vectors are in a sum that was added by hand: the names that its header claims.

They find honest mistakes, such as one vector added twice or opened alone. Nothing vouches for them.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Final

from ..errors import MisuseError
from .packing import Words

#: Bytes of the name of a vector.
PART_SIZE: Final = 16
#: Most vectors of a sum.
MOST_PARTS: Final = 1 << 16


def name_of(rows: Words) -> bytes:
    """The name of a new vector: the start of SHA-256 over its rows, little-endian."""
    return hashlib.sha256(rows.astype("<u8", copy=False).data).digest()[:PART_SIZE]


def check_parts(parts: object, count: int) -> None:
    """Raise :class:`MisuseError` (``parts``) unless these can be in a sum with such weights."""
    if not isinstance(parts, tuple) or any(
        type(each) is not bytes or len(each) != PART_SIZE for each in parts
    ):
        raise MisuseError(f"vectors are named by {PART_SIZE} bytes each", rule="parts")
    if len(parts) > min(count, MOST_PARTS):
        raise MisuseError(
            f"{len(parts)} vectors with weights of {count} in all; at most {MOST_PARTS} are added",
            rule="parts",
        )
    if any(one >= other for one, other in pairwise(parts)):
        raise MisuseError("the names of vectors are sorted, and each is there once", rule="parts")


def check_apart(parts: set[bytes], other: tuple[bytes, ...]) -> None:
    """Raise :class:`MisuseError` (``parts``) where a vector would be added twice."""
    if not parts.isdisjoint(other):
        raise MisuseError("a vector in it was added already; each is added once", rule="parts")
    if len(parts) + len(other) > MOST_PARTS:
        raise MisuseError(f"at most {MOST_PARTS} vectors are added", rule="parts")
