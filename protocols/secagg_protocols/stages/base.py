"""What a stage is: a function, what it does to range and sensitivity, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Yields fresh 32-byte seeds and nothing else.
Rand = Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is known of one site's vector at a point of the pipeline.

    ``low`` and ``high`` bound each coordinate, ``l1`` and ``l2`` the norms of the vector (and
    so the effect of leaving the site out); ``unit`` is the size of one clipped coordinate at
    weight 1, to which quantisation levels refer. ``spread``: after a rotation, each coordinate is
    sub-Gaussian with this parameter over the public signs, but for ``moved``, which rounding may
    have added. ``None`` means unbounded, or no rotation.
    """

    length: int
    low: float | None = None
    high: float | None = None
    l1: float | None = None
    l2: float | None = None
    unit: float | None = None
    spread: float | None = None
    moved: float = 0.0
    integer: bool = False

    def weighted(self, most: int) -> Bounds:
        """The same after multiplication by a weight of at most ``most``."""

        def times(value: float | None) -> float | None:
            return None if value is None else value * most

        return Bounds(
            length=self.length,
            low=times(self.low),
            high=times(self.high),
            l1=times(self.l1),
            l2=times(self.l2),
            unit=self.unit,
            spread=times(self.spread),
            moved=self.moved * most,
            integer=self.integer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a decoder may know besides the sum: survivors, total weight, named extras."""

    count: int
    weight: float
    extras: Mapping[str, float] = field(default_factory=dict)


class Encoder(Protocol):
    """One vector on its way through the pipeline, readable in tiles."""

    @property
    def length(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, float64 or int64: what :meth:`tile` fills."""
        ...

    def tile(self, out: Array, start: int) -> None:
        """Write coordinates ``start .. start + len(out)`` into ``out``.

        ``out`` has the encoder's dtype. One of float32 fills float64 as well, and one of
        integers uint16, uint32 or uint64: with its integers modulo 2^16, 2^32, 2^64.
        """
        ...


@runtime_checkable
class Stage(Protocol):
    """One link of the pipeline. Stages are frozen values and know nothing of sum protocols.

    ``given`` is what is known before the stage, weights included. ``begin`` takes the encoder
    of the stage before, so that a chain never needs more than a tile of memory unless a stage
    asks for a whole-vector pass (``docs/adr/0001-stages-chain-through-encoders.md``).
    """

    def bounds(self, given: Bounds) -> Bounds:
        """Bounds after this stage; ``PlanError`` where it cannot follow what comes before."""
        ...

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Start one vector; whole-vector passes (a norm, a rotation) happen here."""
        ...

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Undo the stage on the sum. ``total`` is handed over: the answer may use its memory."""
        ...


class ArrayEncoder:
    """The start of a chain: the caller's own array."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def length(self) -> int:
        """Number of coordinates."""
        return int(self.array.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's own dtype."""
        return self.array.dtype

    def tile(self, out: Array, start: int) -> None:
        """Copy a slice: reals are widened, integers widened or reduced modulo 2^lane."""
        out[:] = self.array[start : start + out.shape[0]]


#: Coordinates a stage handles at a time: 128 KiB of doubles, within a second-level cache.
TILE = 16384


def tiles(length: int) -> list[tuple[int, int]]:
    """(start, stop) pairs that cover ``length`` coordinates."""
    return [(start, min(start + TILE, length)) for start in range(0, length, TILE)]
