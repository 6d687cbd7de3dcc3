"""What an attack is given, and what it claims: bytes in, bytes out, and no party in sight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import DecodeError

Array = npt.NDArray[Any]
T = TypeVar("T", "Transcript", "Keys", "Evidence")


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A message as it travelled: round, sender, recipient, bytes."""

    round: int
    sender: str
    to: str
    data: bytes


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """A numpy array on its way to another process."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Transcript(msgspec.Struct, kw_only=True):
    """What an adversary saw, with what is public. Nothing else reaches an attack but its keys.

    plan: in its file form, where the attack needs it; models: by round, as they were broadcast;
    public: sums the adversary received, cohorts, shapes of models, priors; arrays: the same, for
    what is long.
    """

    plan: str = ""
    session: str = ""
    frames: list[Frame] = []
    models: dict[int, bytes] = {}
    public: dict[str, Any] = {}
    arrays: dict[str, Array] = {}


class Keys(msgspec.Struct, kw_only=True):
    """What the adversary's role holds: identity seeds, channel keys, shares of those it owns."""

    values: dict[str, bytes] = {}


class Evidence(msgspec.Struct, kw_only=True):
    """What an attack claims. vectors: by victim; values: scores; note: why nothing was found."""

    vectors: dict[str, list[Any]] = {}
    values: dict[str, float] = {}
    arrays: dict[str, Array] = {}
    note: str = ""


class Attack:
    """One row of the catalogue. ``run`` is called in a process that holds its arguments alone."""

    #: Row of the catalogue, and a name of lower-case words.
    number: ClassVar[int]
    id: ClassVar[str]
    title: ClassVar[str]
    #: Paper and section.
    source: ClassVar[str]
    #: Who attacks, and what it is given.
    adversary: ClassVar[str]
    sees: ClassVar[str]
    #: Rules ("client.consent-signatures") and features that stand against it.
    tests: ClassVar[tuple[str, ...]]
    law: ClassVar[str]
    #: What to do about it.
    remedy: ClassVar[str]

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Make of the transcript and the keys what can be made of them."""
        raise NotImplementedError


def _to_wire(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            raise TypeError("arrays of objects do not travel")
        plain = np.ascontiguousarray(value)
        return _Packed(plain.dtype.str, plain.shape, plain.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} does not travel")


def _from_wire(kind: type, value: Any) -> Any:
    packed = msgspec.convert(value, _Packed)
    # A copy, since attacks calculate in place.
    return np.frombuffer(packed.data, dtype=packed.dtype).reshape(packed.shape).copy()


def encode(value: Transcript | Keys | Evidence) -> bytes:
    """Bytes of a transcript, of keys or of evidence."""
    return msgspec.msgpack.encode(value, enc_hook=_to_wire)


def decode(kind: type[T], data: bytes) -> T:
    """The inverse of :func:`encode`; `DecodeError` for anything else."""
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_from_wire)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DecodeError(f"no {kind.__name__.lower()}", rule="laboratory", sender="") from error


#: Modules that no attack may have in its process: those that hold what it is after.
BARRED = (
    "secagg_protocols.party",
    "secagg_protocols.site",
    "secagg_protocols.hub",
    "secagg_protocols.plain_sum",
    "secagg_protocols.masked_sum.client",
    "secagg_protocols.masked_sum.server",
    "secagg_protocols.paillier_sum.client",
    "secagg_protocols.paillier_sum.server",
    "secagg_protocols.paillier_sum.holder",
    "secagg.api",
    "secagg.session",
    "secagg.sim",
    "secagg.attacks.arena",
    "secagg.attacks.scenes",
    "secagg.attacks.adversaries",
)


def barred(modules: Mapping[str, Any]) -> list[str]:
    """Which of these modules hold parties, sorted."""
    return sorted(
        name for name in modules if any(name == b or name.startswith(b + ".") for b in BARRED)
    )


__all__ = [
    "BARRED",
    "Attack",
    "Evidence",
    "Frame",
    "Keys",
    "Transcript",
    "barred",
    "decode",
    "encode",
]
