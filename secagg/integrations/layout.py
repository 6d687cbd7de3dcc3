"""A model's arrays as one vector, and metrics beside them in the same sum."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan
from secagg_protocols.stages import ClipL2, ClipLinf, Integers, Quantise

Array = npt.NDArray[Any]
log: Final = logging.getLogger("secagg.integrations")

#: A metric's largest value, as a part of an L2 clip that it shares with a model.
_L2_PART: Final = 1 / 16
#: Coordinates that are looked at together, in a cache.
_TILE: Final = 1 << 14
_NARROW: Final = (np.dtype(np.float16), np.dtype(np.float32))


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, shapes and dtypes of a model's arrays, in order: how they lie in a vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Self:
        """The layout of some arrays. :class:`MisuseError` (``layout``) for arrays that hold no real
        numbers."""
        try:
            found = {name: np.asarray(value) for name, value in arrays.items()}
        except ValueError:
            raise MisuseError("lists of unequal lengths are no arrays", rule="layout") from None
        for name, value in found.items():
            if value.dtype.kind not in "fiu" or value.dtype.itemsize > 8:
                raise MisuseError(
                    f"array {name!r} has dtype {value.dtype}; sums are of real numbers up to "
                    "64 bits",
                    rule="layout",
                )
        return cls(
            tuple(found),
            tuple(value.shape for value in found.values()),
            tuple(value.dtype for value in found.values()),
        )

    @property
    def size(self) -> int:
        """Coordinates of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def difference(self, new: Mapping[str, Array], base: Mapping[str, Array]) -> Array:
        """``new - base`` as one vector of ``size`` coordinates: what a site sends of a model.

        float32 where no array is wider, which rounds a difference by 2^-24 of itself; else float64.
        :class:`MisuseError` (``layout``) where names or shapes differ.
        """
        self._require(new)
        self._require(base)
        kinds = [*self.dtypes, *(np.asarray(new[name]).dtype for name in self.names)]
        narrow = all(dtype in _NARROW for dtype in kinds)
        out = np.empty(self.size, dtype=np.float32 if narrow else np.float64)
        at = 0
        for name in self.names:
            value, old = np.asarray(new[name]), np.asarray(base[name])
            part = out[at : at + value.size].reshape(value.shape)
            if value.dtype.kind in "iu" and old.dtype.kind in "iu":
                # Exact, where float64 would round either of them first.
                wrapped = value.astype(np.uint64) - old.astype(np.uint64)
                part[...] = np.asarray(wrapped).view(np.int64)
            else:
                np.subtract(value, old, out=part, dtype=out.dtype, casting="unsafe")
            at += value.size
        return out

    def apply(self, base: Mapping[str, Array], mean: Array) -> dict[str, Array]:
        """``base`` moved by the mean difference, in its own shapes and dtypes; whole numbers are
        rounded."""
        self._require(base)
        if mean.shape != (self.size,):
            raise MisuseError(f"the mean has shape {mean.shape}, not ({self.size},)", rule="layout")
        found, at = {}, 0
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            size = math.prod(shape)
            value, part = np.asarray(base[name]), mean[at : at + size].reshape(shape)
            if dtype.kind in "iu":
                found[name] = _moved(value, part, dtype)
            else:
                found[name] = np.asarray(value.astype(np.float64) + part).astype(dtype)
            at += size
        return found

    def _require(self, arrays: Mapping[str, Array]) -> None:
        other = Layout.of({name: arrays[name] for name in self.names if name in arrays})
        if len(arrays) != len(self.names) or other.names != self.names:
            raise MisuseError("the arrays have other names than the broadcast model", rule="layout")
        if other.shapes != self.shapes:
            raise MisuseError(
                "the arrays have other shapes than the broadcast model", rule="layout"
            )

    @staticmethod
    def encode(arrays: Mapping[str, Array]) -> bytes:
        """Canonical bytes of arrays, names and shapes included: what a session binds as its model.

        Equal for equal arrays whatever their memory order and the machine's byte order.
        """
        rows = []
        Layout.of(arrays)  # other objects have no bytes of their own
        for name, given in arrays.items():
            value = np.asarray(given)
            little = value.dtype.newbyteorder("<")
            rows.append([name, little.str, list(value.shape), value.astype(little).tobytes()])
        return msgspec.msgpack.encode(rows)


class Metrics:
    """Real numbers that are summed beside a model, as further coordinates of its vector.

    bounds: name -> largest absolute value. A metric is scaled so that its bound takes a public
    part of the plan's clip, and the model's difference is clipped to what is left of an L2 norm, so
    that the plan's own clip never changes a metric. In the mean they are weighted as the model is.
    Resolution: see :meth:`steps`; ``bound * 16 / levels`` over an L2 clip for a few metrics,
    ``bound / levels`` over an Linf clip. Noise of the plan covers metrics as everything else.

    :class:`MisuseError` (``metrics``) for a bound that is no number above 0.
    """

    def __init__(self, bounds: Mapping[str, float] | None = None) -> None:
        self.bounds: dict[str, float] = {}
        for name, bound in (bounds or {}).items():
            real = isinstance(bound, (int, float)) and not isinstance(bound, bool)
            if not isinstance(name, str) or not real or not 0 < bound <= sys.float_info.max:
                raise MisuseError(f"metric {name!r} needs a bound above 0", rule="metrics")
            self.bounds[name] = float(bound)

    @property
    def size(self) -> int:
        """Coordinates that the metrics take."""
        return len(self.bounds)

    def encode(self) -> bytes:
        """Canonical bytes, bound to the round with the model."""
        return msgspec.msgpack.encode(list(self.bounds.items()))

    @classmethod
    def decode(cls, names: Sequence[str], bounds: Sequence[float]) -> Self:
        """From the two lists that a framework carries."""
        if len(names) != len(bounds) or len(set(names)) != len(names):
            raise MisuseError("every metric has one name and one bound", rule="metrics")
        return cls(dict(zip(names, bounds, strict=True)))

    def check(self, plan: Plan, layout: Layout) -> None:
        """:class:`MisuseError` (``layout``, ``metrics``) unless the plan's vector has just these
        coordinates, stages for real numbers, and a clip that metrics can share."""
        if isinstance(plan.stages[0], Integers):
            raise MisuseError(
                "the plan sums integers (its first stage is Integers), and a model's updates are "
                "real numbers; plan it with a clip (secagg plan --clip)",
                rule="layout",
            )
        if plan.length != layout.size + self.size:
            raise MisuseError(
                f"the plan sums vectors of length {plan.length}; this model has {layout.size} "
                f"coordinates and {self.size} metrics",
                rule="layout",
            )
        if self.size:
            self._part(plan, layout.size)

    def steps(self, plan: Plan, layout: Layout) -> dict[str, float]:
        """How finely each metric of a site is summed: the size of a quantisation level in its own
        unit, times the site's weight. A bound far above the real values leaves few levels."""
        if not self.size:
            return {}
        part, _ = self._part(plan, layout.size)
        clip = next(stage.clip for stage in plan.stages if isinstance(stage, ClipL2 | ClipLinf))
        levels = next(stage.levels for stage in plan.stages if isinstance(stage, Quantise))
        return {name: clip / levels / part * bound for name, bound in self.bounds.items()}

    def tell_steps(self, plan: Plan, layout: Layout) -> None:
        """Log :meth:`steps`, where the bounds were given."""
        for name, step in self.steps(plan, layout).items():
            log.info(
                "secagg: metric %r is summed in steps of %.2g of a site's weighted value; a lower "
                "bound than %g makes them finer",
                name,
                step,
                self.bounds[name],
            )

    def join(
        self, update: Array, values: Mapping[str, Any], plan: Plan, who: str = "this site"
    ) -> Array:
        """The site's vector: its update, and the named metrics out of ``values``.

        who: how the log calls the site and its round. :class:`MisuseError` (``metrics``) for a
        metric that is missing or no finite number. A value beyond its bound is sent as the bound,
        and logged here, as is an update that is clipped to make room for metrics.
        """
        if not self.size:
            return update
        part, clip = self._part(plan, update.size)
        found = []
        for name, bound in self.bounds.items():
            if name not in values:
                there = ", ".join(map(repr, values)) or "none"
                raise MisuseError(
                    f"the site has no metric {name!r}; there are {there}", rule="metrics"
                )
            try:
                if isinstance(values[name], (str, bytes)):
                    raise TypeError
                number = float(values[name])
            except (TypeError, ValueError, OverflowError):
                # Its text would show the value.
                raise MisuseError(f"metric {name!r} is no number", rule="metrics") from None
            if not math.isfinite(number):
                raise MisuseError(f"metric {name!r} is not finite", rule="metrics")
            if abs(number) > bound:
                log.warning("%s: metric %r is beyond its bound and is sent as the bound", who, name)
                number = math.copysign(bound, number)
            found.append(number / bound * part)
        if update.dtype.kind != "f":
            update = update.astype(np.float64)
        if isinstance(plan.stages[0], ClipL2) and update.size:
            room = math.sqrt(max(clip**2 - self.size * part**2, 0.0))
            update = _clipped(update, room, plan.stages[0].clip, who)
        return np.concatenate([update, np.asarray(found, dtype=update.dtype)])

    def split(self, mean: Array, plan: Plan) -> tuple[Array, dict[str, float]]:
        """The mean update, and the mean of each metric."""
        if not self.size:
            return mean, {}
        size = mean.size - self.size
        part, _ = self._part(plan, size)
        scaled = zip(self.bounds.items(), mean[size:].tolist(), strict=True)
        return mean[:size], {name: value / part * bound for (name, bound), value in scaled}

    def _part(self, plan: Plan, size: int) -> tuple[float, float]:
        """A metric's largest coordinate, and the clip."""
        clip = plan.stages[0]
        if isinstance(clip, ClipLinf):
            return clip.clip, clip.clip
        if not isinstance(clip, ClipL2):
            raise MisuseError(
                "metrics share the clip of ClipL2 or ClipLinf, and the plan begins with "
                f"{type(clip).__name__}",
                rule="metrics",
            )
        # Below the clip by a little, so that rounding never makes the plan clip a metric.
        part = _L2_PART if size else 0.999 / math.sqrt(self.size)
        if size and self.size * part**2 > 1 / 2:
            part = math.sqrt(0.5 / self.size)
        return clip.clip * part, clip.clip * (1 - 1e-6)


def _moved(value: Array, by: Array, dtype: np.dtype[Any]) -> Array:
    """Whole numbers moved by a mean, rounded, and held within their dtype."""
    limits = np.iinfo(dtype)
    moves = np.rint(by)
    if not moves.any():
        return value.astype(dtype)
    # Python's integers, since neither float64 nor a wider dtype holds all of 64 bits.
    pairs = zip(value.ravel().tolist(), moves.ravel().tolist(), strict=True)
    found = [min(max(old + int(move), limits.min), limits.max) for old, move in pairs]
    return np.array(found, dtype=dtype).reshape(value.shape)


def tell_norm(x: Any, plan: Plan, who: str) -> None:
    """Log how large a site's vector is, at that site: a clip that bites changes what is summed."""
    clip, x = plan.stages[0], np.asarray(x)
    if isinstance(clip, ClipL2):
        with np.errstate(over="ignore"):
            parts = (_wide(x[at : at + _TILE]) for at in range(0, x.size, _TILE))
            squares = sum(float(np.einsum("i,i->", part, part)) for part in parts)
        _told(math.sqrt(squares), clip.clip, who, clip.clip)
    elif isinstance(clip, ClipLinf):
        _told(max(float(x.max()), -float(x.min())), clip.clip, who, clip.clip)


def _told(norm: float, room: float, who: str, clip: float) -> None:
    if norm > room:
        # Not by how much: logs travel, and a norm is a figure of one site's data.
        log.warning("%s: the update is beyond the plan's clip %.4g, and is clipped", who, clip)
    log.debug("%s: the update's norm is %.4g", who, norm)


def _wide(part: Array) -> Array:
    return part.astype(np.float64, copy=False)


def _clipped(update: Array, room: float, clip: float, who: str) -> Array:
    """The update scaled down to a norm of ``room``, a little less than the plan's clip; as it is
    where it holds no finite numbers, which the plan refuses."""
    wide = _wide(update)
    largest = float(np.abs(wide).max())
    if largest == 0.0 or not math.isfinite(largest):
        return update
    wide = wide / largest  # so that no square overflows
    root = math.sqrt(float(np.einsum("i,i->", wide, wide)))
    if largest <= room / root:
        return update
    _told(largest * root, room, who, clip)
    return (wide * (room / root)).astype(update.dtype)


__all__ = ["Layout", "Metrics", "tell_norm"]
