"""Adaptive clipping: the next clip follows from how many sites were within this one."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

from ..errors import MisuseError, PlanError
from .base import Array, Bounds, Encoder, Rand, Stage, Totals
from .clip import ClipL2, check_clip

#: The extra of the bit: how many sites were within the clip. Sites send 1 where they were beyond
#: it, so that a vector of zeros adds as much as no vector.
WITHIN: Final = "within"
_CLIP: Final = struct.Struct("<d")
#: Relative difference of two clips that are the same by the rule: libraries round exp differently.
_CLOSE: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClip:
    """An L2 clip that tracks a quantile of the sites' norms.

    clip: that of the first round. quantile: the share of sites that should be within it. rate:
    the step of C <- C exp(-rate (share - quantile)). lowest, highest: what a site accepts.

    The sites' bits travel as an extra of the same sum, under the same noise. A round's clip is
    its parameters (8 bytes, :func:`next_clip` of the round before). Source: Andrew, Thakkar,
    McMahan, Ramaswamy, "Differentially private learning with adaptive clipping", NeurIPS 2021.
    """

    clip: float
    quantile: float = 0.5
    rate: float = 0.2
    lowest: float = 1e-6
    highest: float = 1e6

    def __post_init__(self) -> None:
        for name in ("clip", "lowest", "highest"):
            object.__setattr__(self, name, check_clip(getattr(self, name)))
        if not self.lowest <= self.clip <= self.highest:
            raise PlanError("lowest <= clip <= highest", rule="clip-range", field="clip")
        for name in ("quantile", "rate"):
            value = getattr(self, name)
            if type(value) not in {int, float} or not 0 < value <= 1:
                raise PlanError("above 0 and at most 1", rule="clip-range", field=name)
            object.__setattr__(self, name, float(value))

    def bounds(self, given: Bounds) -> Bounds:
        """Those of the first clip; a level stays the same part of whatever clip a round has."""
        return ClipL2(self.clip).bounds(given)

    def at(self, context: bytes, parameters: bytes) -> Stage:
        """The clip that the round's parameters state."""
        return ClipL2(self.read(parameters))

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        """Outside a round the clip is the first one."""
        return ClipL2(self.clip).begin(x, rand, given)

    def decode(self, total: Array, totals: Totals, given: Bounds) -> Array:
        """Clipping is not undone."""
        return total

    def read(self, parameters: bytes) -> float:
        """The clip that parameters state, the first one where they are empty.

        Raises :class:`MisuseError` (``round-parameters``) for other bytes than a clip's. Whether
        it lies in the range is the party's to check.
        """
        if not parameters:
            return self.clip
        if len(parameters) == _CLIP.size:
            (clip,) = _CLIP.unpack(parameters)
            if 0 < clip < math.inf:
                return float(clip)
        raise MisuseError(
            "the parameters of a round with an adaptive clip are that clip: a positive float64, "
            "little-endian",
            rule="round-parameters",
        )

    def next(self, parameters: bytes, share: float) -> bytes:
        """Parameters of the next round; ``share``: noisy share of sites that were within."""
        if math.isnan(share):
            raise MisuseError("a share of sites is a number", rule="round-parameters")
        step = -self.rate * (share - self.quantile)
        # Noise may take the share far out of 0..1, so the step is held within a factor of e.
        clip = self.read(parameters) * math.exp(min(max(step, -1.0), 1.0))
        return _CLIP.pack(min(max(clip, self.lowest), self.highest))

    def same(self, left: bytes, right: bytes) -> bool:
        """Whether two parameters state one clip, but for the last digits of a float."""
        return math.isclose(self.read(left), self.read(right), rel_tol=_CLOSE)
