"""Shared states of the tasks: msgpack of a fixed shape, in place of substrafl's pickles.

Whoever can change an asset could make a reader that unpickles it run code, at a site with its party
folder within reach. Here a shared state that is not one of these three is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from substrafl.remote.operations import RemoteDataOperation, RemoteOperation
from substrafl.remote.remote_struct import RemoteStruct
from substrafl.remote.substratools_methods import RemoteMethod

from secagg_protocols.errors import DecodeError

_MOST_SITES: Final = 1 << 16
Orders = Annotated[dict[str, bytes], msgspec.Meta(max_length=_MOST_SITES)]
Dimension = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class Form(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Shape and dtype of an array."""

    shape: Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=32)]
    dtype: Annotated[str, msgspec.Meta(pattern=r"^[<|][fiu][1248]\Z")]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Form:
        """Of an array of real numbers."""
        return cls(array.shape, array.dtype.newbyteorder("<").str)


class Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array's form and its bytes, little endian."""

    form: Form
    data: bytes

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Array:
        """Of an array of real numbers."""
        form = Form.of(array)
        return cls(form, array.astype(form.dtype).tobytes())

    def array(self) -> npt.NDArray[Any]:
        """A writable array of this machine's byte order; :class:`DecodeError` (``asset``)."""
        dtype = np.dtype(self.form.dtype)
        if len(self.data) != math.prod(self.form.shape) * dtype.itemsize:
            raise DecodeError("an array has another size than its shape", rule="asset")
        found = np.frombuffer(self.data, dtype=dtype).reshape(self.form.shape)
        return found.astype(dtype.newbyteorder("="))


class SiteReport(
    msgspec.Struct, frozen=True, tag="report", array_like=True, forbid_unknown_fields=True
):
    """Site to aggregation node. forms: of the arrays whose mean is asked for, if there is one."""

    reply: bytes
    forms: tuple[Form, ...] = ()


class Entries(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a journal holds: (key, step, series, number, digest, reply), floors by series, and
    registers by name."""

    records: tuple[tuple[bytes, int, bytes, int, bytes, bytes], ...] = ()
    floors: dict[bytes, int] = {}
    registers: dict[bytes, bytes] = {}


class ServerState(
    msgspec.Struct, frozen=True, tag="state", array_like=True, forbid_unknown_fields=True
):
    """Aggregation node to itself: nobody else may read it.

    dump, journal: of the server's session. done: rounds that have their sum. model: bytes that
    stand for the model of the round under way. parameters: of that round. forms: of the arrays
    being summed. orders, arrays, last: what the sites get of it.
    """

    dump: bytes
    journal: Entries
    done: int
    model: bytes
    parameters: bytes
    forms: tuple[Form, ...]
    orders: Orders
    arrays: tuple[Array, ...] | None
    last: bool


class SiteOrders(
    msgspec.Struct, frozen=True, tag="orders", array_like=True, forbid_unknown_fields=True
):
    """Aggregation node to all sites. orders: an envelope for each. arrays: the mean of the round
    that ended. last: no sum follows."""

    orders: Orders
    arrays: tuple[Array, ...] | None = None
    last: bool = False


Asset = SiteReport | ServerState | SiteOrders
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Asset)


class AssetFile:
    """Writes and reads a shared state, as substrafl's serialisers do."""

    @staticmethod
    def save(state: Any, path: Path) -> None:
        """Write one of the three kinds of asset; nothing else is let out."""
        if not isinstance(state, Asset):
            raise DecodeError(f"a {type(state).__name__} is no asset of these tasks", rule="asset")
        Path(path).write_bytes(_ENCODER.encode(state))

    @staticmethod
    def load(path: Path) -> Asset:
        """Read one; :class:`DecodeError` (``asset``) for anything else."""
        try:
            found: Asset = _DECODER.decode(Path(path).read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise DecodeError("a shared state is no asset of these tasks", rule="asset") from None
        return found


class AssetMethod(RemoteMethod):
    """Runs a method at a node, with :class:`AssetFile` for what nodes share."""

    def __init__(self, instance: Any, method_name: str, method_parameters: dict[str, Any]) -> None:
        super().__init__(
            instance, method_name, method_parameters, shared_state_serializer=AssetFile
        )


def data_task(method: Callable[..., Any]) -> Callable[..., Any]:
    """As ``substrafl.remote.remote_data``: called, a method becomes a task of a train node."""

    @wraps(method)
    def operation(
        self: Any,
        data_samples: list[str] | None = None,
        shared_state: Any = None,
        *,
        _skip: bool = False,
        _algo_name: str | None = None,
        **parameters: Any,
    ) -> Any:
        if _skip:
            return method(self, shared_state=shared_state, **parameters)
        struct = _struct(self, method, parameters, _algo_name)
        return RemoteDataOperation(struct, data_samples, shared_state)

    return operation


def aggregate_task(method: Callable[..., Any]) -> Callable[..., Any]:
    """As ``substrafl.remote.remote``: called, a method becomes a task of the aggregation node."""

    @wraps(method)
    def operation(
        self: Any,
        shared_states: list[Any] | None = None,
        *,
        _skip: bool = False,
        _algo_name: str | None = None,
        **parameters: Any,
    ) -> Any:
        if _skip:
            return method(self, shared_states=shared_states, **parameters)
        return RemoteOperation(_struct(self, method, parameters, _algo_name), shared_states)

    return operation


def _struct(
    owner: Any, method: Callable[..., Any], parameters: Mapping[str, Any], name: str | None
) -> Any:
    return RemoteStruct(
        cls=type(owner),
        cls_args=owner.args,
        cls_kwargs=owner.kwargs,
        remote_cls=AssetMethod,
        method_name=method.__name__,
        method_parameters=dict(parameters),
        algo_name=name,
    )


__all__ = [
    "Array",
    "Asset",
    "AssetFile",
    "AssetMethod",
    "Entries",
    "Form",
    "ServerState",
    "SiteOrders",
    "SiteReport",
    "aggregate_task",
    "data_task",
]
