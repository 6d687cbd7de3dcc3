"""Numbers of a zero sum: quantised by the plan, masked in lanes, checked and read after the sum.

Nothing here imports declearn. A *masked vector* is lanes of the ring modulo 2^bits: the values,
then check lanes that hold 1 at every site. The sum of the check lanes is the number of sites, or
the sum is not one over all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import bitpack
from secagg_native.quantise import is_finite
from secagg_protocols.errors import DecodeError, MisuseError, PeerError, PlanError
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.plan import MaskedSum, Plan
from secagg_protocols.stages import ClipLinf, Quantise
from secagg_protocols.stages.base import tiles
from secagg_protocols.stages.pipeline import Pipeline

from .agreement import PairMasks

Array = npt.NDArray[Any]
#: A sum that is not one over all sites passes the check with a chance of 2^-64 at most.
CHECK_BITS: Final = 64
_PLAN_RULE: Final = "zero-plan-kind"


def check_plan(plan: Plan) -> None:
    """:class:`PlanError` (``zero-plan-kind``) for a plan that promises what one message cannot."""
    stages = plan.stages
    kinds = [type(stage) for stage in stages]
    for wrong, field, text in (
        (not isinstance(plan.protocol, MaskedSum), "protocol", "a MaskedSum is needed"),
        (
            plan.max_dropouts != 0,
            "max_dropouts",
            "0 is needed: one message a sum saves nobody",
        ),
        (kinds != [ClipLinf, Quantise], "stages", "ClipLinf and Quantise are needed, and no other"),
        (
            plan.max_weight != 1,
            "max_weight",
            "1 is needed: declearn weights before the clip",
        ),
        (
            not plan.sites_receive,
            "sites_receive",
            "true is needed: declearn sends the new model to all sites",
        ),
        (plan.fixed_data, "fixed_data", "false is needed: declearn trains"),
    ):
        if wrong:
            raise PlanError(text, rule=_PLAN_RULE, field=field)


class Ring:
    """The plan's quantisation and ring, for vectors of any length.

    bits: of a ring element. lane: the smallest of uint16, uint32, uint64 that holds one.
    checks: check lanes of a masked vector. top: largest integer of one site, in levels; whole
    numbers are summed exactly up to it. scale: levels per unit of a real number.
    """

    def __init__(self, plan: Plan) -> None:
        check_plan(plan)
        self.sites, self.bits, self.lane = plan.clients, plan.wire_bits, plan.lane
        self.length = plan.length
        self.checks = checks_of(self.bits)
        clip, quantise = plan.stages
        if not isinstance(clip, ClipLinf) or not isinstance(quantise, Quantise):
            raise PlanError("ClipLinf and Quantise", rule=_PLAN_RULE, field="stages")
        self.clip = clip.clip
        self.top = plan.pipeline.vector.high
        self.scale = quantise.levels / clip.clip
        self._stages = plan.stages
        self._mask = np.uint64((1 << self.bits) - 1)
        #: Largest error of a real coordinate of a sum, from rounding alone.
        self.error = plan.clients / self.scale * (0.5 if quantise.rounding == "nearest" else 1.0)

    def reals(self, x: Array, out: Array, seed: bytes) -> bool:
        """Quantise float32 or float64 [n] into the lanes ``out``; whether all were within the
        clip. :class:`MisuseError` (``input-finite``) for NaN or infinity.

        seed: 32 fresh bytes, for the rounding.
        """
        x = np.ascontiguousarray(x).ravel()
        if x.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            x = x.astype(np.float64)
        if not len(x):
            return True
        if not is_finite(x):
            raise MisuseError("a value is NaN or infinite", rule="input-finite")
        encoder = _pipeline(self._stages, len(x)).begin(x, 1, lambda: seed)
        levels = np.empty(len(x), np.int64)
        for start, stop in tiles(len(x)):
            encoder.tile(levels[start:stop], start)
        out[:] = levels.view(np.uint64) & self._mask
        return bool(np.max(np.abs(x)) <= self.clip)

    def integers(self, values: Array, out: Array) -> None:
        """Whole numbers [n] into the lanes ``out``, exactly; :class:`MisuseError`
        (``value-range``) beyond ``top``, where a sum could wrap."""
        if values.size and (int(values.max()) > self.top or int(values.min()) < -self.top):
            raise MisuseError(
                f"a whole number is beyond {self.top}, which is what the plan's ring bears",
                rule="value-range",
            )
        out[:] = values.ravel().astype(np.int64).view(np.uint64) & self._mask

    def masked(self, lanes: Array, masks: PairMasks, binding: bytes) -> None:
        """Mask lanes in place. Their last ``checks`` lanes are set to 1 before."""
        lanes[len(lanes) - self.checks :] = 1
        masks.draw(binding).add_to(lanes)

    def opened(self, lanes: Array) -> npt.NDArray[np.int64]:
        """The summed integers [n] of a masked vector [n + checks], as they lie in
        [-sites * top, sites * top].

        :class:`PeerError` (``zero-sum``) unless the masks cancelled: an input is missing, was
        changed or is of another setup, request or layout. Nothing can be read from it.
        """
        end = len(lanes) - self.checks
        words = lanes.astype(np.uint64) & self._mask
        self._check_zero_sum(words[end:])
        low = np.uint64(-self.sites * self.top % (1 << 64))
        words = words[:end]
        words -= low
        words &= self._mask
        words += low
        total = words.view(np.int64)
        self._check_sum_range(total)
        return total

    def _check_zero_sum(self, checks: Array) -> None:
        if not np.all(checks == np.uint64(self.sites)):
            raise PeerError(
                f"the masks do not cancel: this is no sum over the same {self.sites} sites for "
                "one request of the server, and nothing can be read from it",
                rule="zero-sum",
            )

    def _check_sum_range(self, total: npt.NDArray[np.int64]) -> None:
        if total.size and int(total.max()) > self.sites * self.top:
            raise PeerError("a sum is beyond what honest sites can make", rule="sum-range")


def checks_of(bits: int) -> int:
    """Check lanes of a masked vector whose elements have so many bits."""
    return math.ceil(CHECK_BITS / bits)


def lane_of(bits: int) -> np.dtype[Any]:
    """The lane of a ring element of so many bits."""
    return np.dtype(np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64)


def pack(lanes: Array, bits: int) -> bytes:
    """Lanes as they travel: ``bits`` bits each."""
    out = bytearray(bitpack.packed_size(len(lanes), bits))
    bitpack.pack(lanes, bits, out)
    return bytes(out)


def unpack(data: object, count: int, bits: int) -> Array:
    """Inverse of :func:`pack`; :class:`DecodeError` (``zero-format``) for another size."""
    if type(data) is not bytes or len(data) != bitpack.packed_size(count, bits):
        raise DecodeError("a masked vector has another size", rule="zero-format")
    lanes = np.empty(count, lane_of(bits))
    bitpack.unpack(data, bits, lanes)
    return lanes


def to_number(lanes: Array, bits: int) -> int:
    """Lanes as one whole number, the first lane lowest: how declearn carries a single value."""
    mask = (1 << bits) - 1
    return sum((int(lane) & mask) << (at * bits) for at, lane in enumerate(lanes))


def add_numbers(numbers: Sequence[int], count: int, bits: int) -> int:
    """The sum of such numbers, lane by lane; :class:`DecodeError` for what is none."""
    mask = (1 << bits) - 1
    for number in numbers:
        if type(number) is not int or not 0 <= number < 1 << (count * bits):
            raise DecodeError("a masked value is out of range", rule="zero-format")
    total = 0
    for at in range(count):
        lane = sum((number >> (at * bits)) & mask for number in numbers) & mask
        total |= lane << (at * bits)
    return total


def from_number(number: int, count: int, bits: int) -> Array:
    """Inverse of :func:`to_number`."""
    add_numbers([number], count, bits)
    mask = (1 << bits) - 1
    return np.array([(number >> (at * bits)) & mask for at in range(count)], lane_of(bits))


@functools.lru_cache(maxsize=256)
def _pipeline(stages: tuple[Any, ...], length: int) -> Pipeline:
    return Pipeline(stages, length, 1)


__all__ = ["SEED_SIZE", "Ring", "check_plan"]
