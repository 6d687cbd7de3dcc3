"""Integers: counts go in as they are. The stage refuses; it never clips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import MisuseError, PlanError
from .base import TILE, Array, Bounds, Encoder, Rand, Totals, tiles


@dataclass(frozen=True, slots=True)
class Integers:
    """Each coordinate is an integer in [low, high], summed exactly."""

    low: int
    high: int

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if type(value) is not int or abs(value) > 1 << 62:
                raise PlanError(
                    "an integer of at most 2^62 in size", rule="integer-range", field=name
                )
        if self.low > self.high:
            raise PlanError("low is above high", rule="integer-range", field="low")

    def bounds(self, given: Bounds) -> Bounds:
        """Range [low, high]; it is the first stage, so nothing comes before it."""
        if given.low is not None or given.integer:
            raise PlanError(
                "Integers is the first stage of a pipeline", rule="stage-order", field="stages"
            )
        most = max(abs(self.low), abs(self.high))
        return Bounds(
            length=given.length,
            low=self.low,
            high=self.high,
            l1=float(most) * given.length,
            l2=float(most) * math.sqrt(given.length),
            integer=True,
        )

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Check every coordinate before the first is used."""
        if x.dtype.kind not in "iu":
            raise MisuseError(
                f"this plan sums integers, the vector is {x.dtype}", rule="input-dtype"
            )
        buffer = np.empty(min(TILE, x.length), dtype=x.dtype)
        for start, stop in tiles(x.length):
            part = buffer[: stop - start]
            x.tile(part, start)
            if int(part.min()) < self.low or int(part.max()) > self.high:
                raise MisuseError(
                    f"a coordinate lies outside [{self.low}, {self.high}]", rule="input-range"
                )
        return x

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Integers stay integers."""
        return total
