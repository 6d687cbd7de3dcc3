"""The bytes of a dump: a party's state behind a digest, which notices a cut or changed file."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import msgspec

from .errors import MisuseError
from .plan import Plan
from .wire import DIGEST_SIZE, Buffer

_MAGIC: Final = b"secagg dump 1\n"

#: What hostile or foreign content of a dump can make the decoder raise.
DUMP_FAULTS: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
    OverflowError,
)


def read_dump(data: Buffer, plan: Plan) -> dict[str, Any]:
    """The checked content of a dump; :class:`MisuseError` where it is cut or of another plan."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise MisuseError("a dump is bytes", rule="dump")
    whole = memoryview(bytes(data))
    start = len(_MAGIC) + DIGEST_SIZE
    body = whole[start:]
    if bytes(whole[: len(_MAGIC)]) != _MAGIC or not hmac.compare_digest(
        whole[len(_MAGIC) : start], hashlib.sha256(body).digest()
    ):
        raise MisuseError("the dump is cut or changed", rule="dump")
    try:
        state: dict[str, Any] = msgspec.msgpack.decode(body)
        if state["plan"] != plan.digest:
            raise MisuseError("the dump belongs to another plan", rule="dump")
    except DUMP_FAULTS:
        raise MisuseError("the dump is not one of this version", rule="dump") from None
    return state


def pack_dump(state: dict[str, Any]) -> bytes:
    """The bytes of a dump with this content."""
    body = msgspec.msgpack.encode(state)
    return b"".join((_MAGIC, hashlib.sha256(body).digest(), body))
