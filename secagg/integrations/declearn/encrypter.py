"""The site's end of declearn's secure aggregation: values in, masked values out."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from declearn.aggregator import ModelUpdates
from declearn.model.api import Vector
from declearn.model.sklearn import NumpyVector
from declearn.secagg.api import Encrypter

from secagg.integrations.declearn import ring
from secagg_protocols.errors import MisuseError
from secagg_protocols.keys import digest_of

from .aggregate import ZeroSumAggregate, layout_of
from .agreement import PairMasks
from .limits import Limits
from .view import View

Array = npt.NDArray[Any]
log: Final = logging.getLogger("secagg.integrations")


class ZeroSumEncrypter(Encrypter):
    """Masks what one site sends after one setup.

    Real numbers are quantised by the plan's stages: the coordinates of a ``Vector`` beyond the
    plan's clip are clipped, which this site's log says; any other real number beyond it is
    refused, since a metric or a weight that is clipped is a wrong one. Whole numbers are summed
    exactly.

    Every value takes a keystream of its own from each pair of sites, bound to all that the server
    has said so far and to the kind, names, shapes and dtypes of what is masked.

    Errors: :class:`MisuseError` with the rules ``value-range``, ``input-finite``, ``value-kind``,
    ``update-length``, ``zero-closed``, ``zero-process`` and those of the site's limits.
    """

    def __init__(
        self,
        numbers: ring.Ring,
        masks: PairMasks,
        view: View,
        limits: Limits,
    ) -> None:
        super().__init__(bitsize=numbers.bits, clipval=numbers.clip)
        self._ring, self._masks, self._view, self._limits = numbers, masks, view, limits
        self._seen = -1

    def close(self) -> None:
        """Forget the secrets: a setup that follows has its own."""
        self._masks.close()

    # Single values: whole numbers that hold the value and its check lanes.

    def encrypt_uint(self, value: int) -> int:
        """Mask a whole number, 0 or more."""
        return self.encrypt_uint_list([value])[0]

    def encrypt_uint_list(self, values: Sequence[int]) -> list[int]:
        """Mask whole numbers, each on its own, with one keystream for all of them."""
        for value in values:
            if not isinstance(value, (int, np.integer)) or not 0 <= value <= self._ring.top:
                raise _out_of_range(self._ring.top)
        lanes = self._single(len(values))
        self._ring.integers(np.array(values, np.int64), lanes[:, 0])
        return self._numbers(lanes, "uint")

    def encrypt_float(self, value: float) -> int:
        """Mask a real number."""
        lanes = self._single(1)
        self._exact_reals(np.array([value], np.float64), lanes[:, 0])
        return self._numbers(lanes, "float")[0]

    def encrypt_numpy_array(self, value: Array) -> tuple[list[int], tuple[list[int], str]]:
        """Mask an array value by value. ``encrypt_aggregate`` masks whole arrays."""
        lanes = self._single(value.size)
        self._write_array(value, lanes[:, 0])
        spec = (list(value.shape), value.dtype.name)
        return self._numbers(lanes, f"array {spec}"), spec

    def encrypt_vector(self, value: Vector) -> tuple[list[int], Any]:
        """Mask a vector value by value. ``encrypt_aggregate`` masks whole vectors."""
        flat, spec = flatten(value)
        lanes = self._single(len(flat))
        self._write_vector(flat, lanes[:, 0])
        return self._numbers(lanes, "vector"), spec

    def _single(self, count: int) -> Array:
        return np.ones((count, 1 + self._ring.checks), self._ring.lane)

    def _numbers(self, lanes: Array, kind: str) -> list[int]:
        """Masked numbers from lanes [n, 1 + checks], whose check lanes hold 1."""
        layout = layout_of(kind, [("", len(lanes), False)], [])
        self._masks.draw(self._binding(layout)).add_to(lanes.reshape(-1))
        return [ring.to_number(row, self._ring.bits) for row in lanes]

    # Whole aggregates.

    def encrypt_aggregate(self, value: Any) -> ZeroSumAggregate:
        """Mask all fields of an ``Aggregate`` that declearn does not leave in clear, at once."""
        fields, clear = value.prepare_for_secagg()
        parts: list[tuple[Any, Any]] = []
        specs: list[tuple[str, int, Any]] = []
        for name, field in fields.items():
            part, size, spec = self._part(name, field)
            if isinstance(field, Vector) and isinstance(value, ModelUpdates):
                self._check_update_length(size)
            parts.append((field, part))
            specs.append((name, size, spec))
        total = sum(size for _, size, _ in specs)
        lanes = np.empty(total + self._ring.checks, self._ring.lane)
        at = 0
        for (field, part), (_, size, _) in zip(parts, specs, strict=True):
            self._write(field, part, lanes[at : at + size])
            at += size
        layout = layout_of(type(value).__name__, specs, list(clear or ()))
        self._ring.masked(lanes, self._masks, self._binding(layout))
        return self.wrap_into_secure_aggregate(lanes, specs, clear, type(value))

    def wrap_into_secure_aggregate(
        self, encrypted: Any, enc_specs: Any, cleartext: Any, agg_cls: Any
    ) -> ZeroSumAggregate:
        """The masked lanes with what declearn needs to make the sum an aggregate again."""
        return ZeroSumAggregate(
            encrypted=encrypted,
            enc_specs=enc_specs,
            cleartext=cleartext,
            agg_cls=agg_cls,
            n_aggrg=1,
            bits=self._ring.bits,
        )

    def _part(self, name: str, field: Any) -> tuple[Any, int, Any]:
        """What is to be written of a field, its number of values, and its specification."""
        if isinstance(field, Vector):
            flat, spec = flatten(field)
            return flat, len(flat), spec
        if isinstance(field, np.ndarray):
            return field, field.size, (list(field.shape), field.dtype.name)
        if isinstance(field, (float, np.floating)):
            return np.array([field], np.float64), 1, True
        if isinstance(field, (int, np.integer)):
            return np.array([field]), 1, False
        raise MisuseError(
            f"the field {name!r} is a {type(field).__name__}, of which there is no sum",
            rule="value-kind",
        )

    def _write(self, field: Any, part: Array, out: Array) -> None:
        if isinstance(field, Vector):
            self._write_vector(part, out)
        else:
            self._write_array(part, out)

    def _write_array(self, values: Array, out: Array) -> None:
        if values.dtype.kind in "iub":
            self._ring.integers(values, out)
        elif values.dtype.kind == "f":
            self._exact_reals(values, out)
        else:
            raise MisuseError(
                f"an array of {values.dtype}, of which there is no sum", rule="value-kind"
            )

    def _exact_reals(self, values: Array, out: Array) -> None:
        # Before they are clipped: NaN is refused there.
        if np.any(np.abs(values) > self._ring.clip):
            raise _out_of_range(self._ring.clip)
        self._ring.reals(values, out, secrets.token_bytes(ring.SEED_SIZE))

    def _write_vector(self, flat: Array, out: Array) -> None:
        if not self._ring.reals(flat, out, secrets.token_bytes(ring.SEED_SIZE)):
            log.warning("coordinates of an update were beyond the plan's clip and were clipped")

    def _check_update_length(self, size: int) -> None:
        if size != self._ring.length:
            raise MisuseError(
                f"an update has {size} coordinates, the plan says {self._ring.length}",
                rule="update-length",
            )

    def _binding(self, layout: bytes) -> bytes:
        """What all sites have to agree on for the masks of the next value to cancel."""
        view = self._view
        if view.messages != self._seen:
            # One reply is one input, whatever it consists of.
            tag = digest_of(b"secagg zero sum input v1", view.digest)
            self._limits.enter(view.model, tag)
            self._seen = view.messages
        return digest_of(b"secagg zero sum value v1", view.digest, layout)


def flatten(vector: Vector) -> tuple[Array, Any]:
    """The coordinates of a vector, float32 where all are float32 or narrower, else float64; and
    declearn's specification of it."""
    if not isinstance(vector, NumpyVector):
        values, spec = vector.flatten()
        return np.asarray(values, np.float64), spec
    spec = vector.get_vector_specs()
    arrays = [np.asarray(vector.coefs[name]) for name in spec.names]
    narrow = all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in arrays)
    kind = np.dtype(np.float32 if narrow else np.float64)
    if not arrays:
        return np.empty(0, kind), spec
    return np.concatenate([a.ravel().astype(kind, copy=False) for a in arrays]), spec


def _out_of_range(most: float) -> MisuseError:
    return MisuseError(
        f"a value is beyond {most:g}, which is what the plan's ring bears", rule="value-range"
    )


__all__ = ["ZeroSumEncrypter", "flatten"]
