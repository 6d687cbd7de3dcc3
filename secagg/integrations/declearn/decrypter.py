"""The server's end of declearn's secure aggregation: sums of masked values in, sums out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from declearn.model.api import Vector, VectorSpec
from declearn.model.sklearn import NumpyVector
from declearn.secagg.api import Decrypter

from secagg.integrations.declearn import ring
from secagg_protocols.errors import PeerError, ThresholdError

from .aggregate import ZeroSumAggregate

Array = npt.NDArray[Any]


class ZeroSumDecrypter(Decrypter):
    """Reads sums over all sites of one setup. It has no key: where all masks are in a sum they
    cancel, and where they are not, check lanes show it.

    Errors: :class:`ThresholdError` (``zero-missing``) for a sum of another number of sites,
    :class:`PeerError` with ``zero-sum``, ``sum-range`` or ``zero-layout``.
    """

    secure_aggregate_cls = ZeroSumAggregate

    def __init__(self, numbers: ring.Ring) -> None:
        super().__init__(numbers.sites, bitsize=numbers.bits, clipval=numbers.clip)
        self._ring = numbers
        self._width = 1 + numbers.checks

    # Single values.

    def sum_encrypted(self, values: list[int]) -> int:
        """The sum of masked numbers, still masked."""
        return ring.add_numbers(values, self._width, self._ring.bits)

    def decrypt_uint(self, value: int) -> int:
        """The sum of whole numbers, 0 or more."""
        total = int(self._opened([value])[0])
        if total < 0:
            raise PeerError("a sum of counts is negative", rule="sum-range")
        return total

    def decrypt_float(self, value: int) -> float:
        """The sum of real numbers."""
        return float(self._opened([value])[0]) / self._ring.scale

    def decrypt_numpy_array(self, values: list[int], specs: Any) -> Array:
        """The sum of arrays that were masked value by value."""
        return self._array(self._opened(values), specs)

    def decrypt_vector(self, values: list[int], specs: VectorSpec) -> Vector:
        """The sum of vectors that were masked value by value."""
        return self._vector(self._opened(values), specs)

    def _opened(self, numbers: list[int]) -> npt.NDArray[np.int64]:
        bits = self._ring.bits
        rows = [ring.from_number(number, self._width, bits) for number in numbers]
        opened = [self._ring.opened(row) for row in rows]
        return np.concatenate(opened) if opened else np.empty(0, np.int64)

    # Whole aggregates.

    def decrypt_aggregate(self, value: Any) -> Any:
        """The aggregate that the sum of masked ones stands for."""
        if type(value) is not ZeroSumAggregate or value.bits != self._ring.bits:
            raise PeerError("this is no sum of masked aggregates", rule="zero-layout")
        self._check_zero_missing(value.n_aggrg)
        total = self._ring.opened(value.encrypted)
        fields: dict[str, Any] = {}
        at = 0
        for name, size, specs in value.enc_specs:
            fields[name] = self._field(total[at : at + size], specs)
            at += size
        return value.agg_cls(**fields, **value.cleartext)

    def _check_zero_missing(self, summed: int) -> None:
        if summed != self._ring.sites:
            raise ThresholdError(
                "a sum is over all sites or over none",
                rule="zero-missing",
                step="sum",
                have=summed,
                need=self._ring.sites,
            )

    def _field(self, total: npt.NDArray[np.int64], specs: Any) -> Any:
        if isinstance(specs, VectorSpec):
            return self._vector(total, specs)
        if isinstance(specs, (tuple, list)):
            return self._array(total, specs)
        return float(total[0]) / self._ring.scale if specs else int(total[0])

    def _array(self, total: npt.NDArray[np.int64], specs: Any) -> Array:
        shape, kind = specs
        whole = np.dtype(kind).kind in "iub"
        values = total if whole else total / self._ring.scale
        # A sum of flags is a number of sites.
        return values.astype(np.int64 if kind == "bool" else kind).reshape(shape)

    def _vector(self, total: npt.NDArray[np.int64], specs: VectorSpec) -> Vector:
        reals = total / self._ring.scale
        if tuple(specs.v_type or ()) != _NUMPY:
            return Vector.build_from_specs(reals.tolist(), specs)
        coefs: dict[str, Array] = {}
        at = 0
        for name in specs.names:
            size = int(np.prod(specs.shapes[name], dtype=np.int64))
            kind = np.dtype(specs.dtypes[name])
            part = reals[at : at + size]
            part = np.rint(part) if kind.kind in "iu" else part
            coefs[name] = part.astype(kind).reshape(specs.shapes[name])
            at += size
        return NumpyVector(coefs)


_NUMPY = tuple(NumpyVector({}).get_vector_specs().v_type or ())

__all__ = ["ZeroSumDecrypter"]
