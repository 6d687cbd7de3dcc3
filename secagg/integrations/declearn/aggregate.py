"""The masked form of one of declearn's ``Aggregate`` objects: lanes, packed when they travel."""

from __future__ import annotations

from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
from declearn.model.api import VectorSpec
from declearn.secagg.api import SecureAggregate

from secagg_protocols.errors import DecodeError, PeerError

from . import ring


class ZeroSumAggregate(SecureAggregate[Any]):
    """A masked ``Aggregate`` of one site, or the sum of several.

    encrypted: lanes uint16, uint32 or uint64 [values + check lanes]; the values are those of
    ``enc_specs``, in order. bits: of a ring element. The other arguments are declearn's.
    """

    def __init__(
        self,
        encrypted: npt.NDArray[Any],
        enc_specs: list[tuple[str, int, Any]],
        cleartext: dict[str, Any] | None,
        agg_cls: Any,
        n_aggrg: int = 1,
        bits: int = 64,
    ) -> None:
        super().__init__(encrypted, enc_specs, cleartext, agg_cls, n_aggrg)
        self.bits = bits

    def aggregate(self, other: Self) -> Self:
        """The sum with another one of the same fields. :class:`PeerError` (``zero-layout``)
        otherwise."""
        _check_zero_layout(self, other)
        total = super().aggregate(other)
        total.bits = self.bits
        return total

    def aggregate_encrypted(
        self, val_a: npt.NDArray[Any], val_b: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Lanes of the sum; they wrap modulo the lane, which the ring's modulus divides."""
        return np.add(val_a, val_b)

    def to_dict(self) -> dict[str, Any]:
        """What travels: as declearn's, with the lanes packed to ``bits`` bits each."""
        data = super().to_dict()
        data["encrypted"] = ring.pack(self.encrypted, self.bits)
        data["bits"] = self.bits
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; ``TypeError`` (declearn's) for anything else."""
        try:
            bits, specs = data["bits"], data["enc_specs"]
            if type(bits) is not int or not 1 <= bits <= 64:
                raise DecodeError("from 1 to 64 bits", rule="zero-format")
            sizes = [spec[1] for spec in specs]
            if any(type(size) is not int or size < 0 for size in sizes):
                raise DecodeError("the size of a field is a number", rule="zero-format")
            count = sum(sizes) + ring.checks_of(bits)
            lanes = ring.unpack(data["encrypted"], count, bits)
        except (KeyError, IndexError, ValueError, PeerError) as error:
            raise TypeError(f"this is no masked aggregate: {error}") from None
        return super().from_dict({**data, "encrypted": lanes})


def _check_zero_layout(one: ZeroSumAggregate, other: ZeroSumAggregate) -> None:
    if (
        type(other) is not type(one)
        or one.bits != other.bits
        or one.agg_cls is not other.agg_cls
        or one.enc_specs != other.enc_specs
        or set(one.cleartext) != set(other.cleartext)
    ):
        raise PeerError(
            "sites sent values of different kinds or shapes, of which there is no sum",
            rule="zero-layout",
        )


def layout_of(name: str, specs: list[tuple[str, int, Any]], clear: list[str]) -> bytes:
    """Canonical bytes of what is masked: masks cancel only where all sites mask the same."""
    fields = [[field, size, _plain(spec)] for field, size, spec in specs]
    return msgspec.msgpack.encode([name, fields, sorted(clear)])


def _plain(spec: Any) -> Any:
    if isinstance(spec, VectorSpec):
        shapes = [[int(n) for n in spec.shapes[name]] for name in spec.names]
        kinds = [str(spec.dtypes[name]) for name in spec.names]
        return [list(spec.names), shapes, kinds, list(spec.v_type or ())]
    if isinstance(spec, (tuple, list)):
        return [[int(n) for n in spec[0]], str(spec[1])]
    return bool(spec)


__all__ = ["ZeroSumAggregate", "layout_of"]
