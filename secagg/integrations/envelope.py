"""What an adapter carries: one request of the server to one party, one reply.

An envelope says which session its messages belong to, before any of them is believed. It is not
authenticated itself and nothing that decides security is taken from it: the messages within are
bound to plan, session and round, and a session that an envelope names falsely has none that fit.
It is msgpack of a fixed shape; unknown fields and trailing bytes are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec

from secagg_protocols.errors import DecodeError
from secagg_protocols.keys import Identity, digest_of, verify
from secagg_protocols.wire import DIGEST_SIZE, SIGNATURE_SIZE, Buffer

VERSION: Final = 1
HELLO: Final = "hello"
ORDERS: Final = "orders"
#: Most messages in one envelope: a holder is passed on every site's input.
MOST_MESSAGES: Final = 1 << 16
NONCE_SIZE: Final = 16

#: Most characters of a proposed plan.
MOST_PLAN: Final = 1 << 20

Session = Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
Task = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,16}\Z")]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Messages = Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MOST_MESSAGES)]


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Server to party.

    digest: of the session's plan. plan: a proposal as TOML, or empty. nonce: of a hello, drawn
    for one connection.
    """

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    kind: Annotated[str, msgspec.Meta(pattern=rf"^({HELLO}|{ORDERS})\Z")]
    session: Session
    task: Task
    digest: Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
    plan: Annotated[str, msgspec.Meta(max_length=MOST_PLAN)] = ""
    nonce: Annotated[bytes, msgspec.Meta(max_length=NONCE_SIZE)] = b""
    messages: Messages = ()


class Reply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Party to server.

    name, signature: of a hello. refused: empty, or the id of the rule by which a *configuration*
    was refused; where the reason may speak of data it is ``"out"``, whatever the reason.
    """

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    session: Session
    task: Task
    name: Name = ""
    signature: Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_SIZE)] = b""
    refused: Annotated[str, msgspec.Meta(pattern=r"^[a-z-]{0,64}\Z")] = ""
    messages: Messages = ()


Kind = TypeVar("Kind", Request, Reply)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[Any, Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (Request, Reply)
}


def pack(envelope: Request | Reply) -> bytes:
    """Bytes of an envelope."""
    return _ENCODER.encode(envelope)


def unpack(kind: type[Kind], data: Buffer) -> Kind:
    """The envelope in the bytes; :class:`DecodeError` (``envelope``) for anything else."""
    try:
        found: Kind = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        raise DecodeError("these bytes are no envelope", rule="envelope") from None
    return found


def sign_hello(identity: Identity, request: Request, refused: str = "") -> bytes:
    """A party's word that it has its name, and that it takes part or refuses; the nonce stands for
    the connection it is asked on."""
    return identity.sign(_hello(request, identity.name, refused))


def check_hello(public: bytes, request: Request, reply: Reply) -> None:
    """:class:`AuthenticationError` (``hello``) unless the reply is signed by ``public``."""
    digest = _hello(request, reply.name, reply.refused)
    verify(public, digest, reply.signature, rule="hello", signer=reply.name, sender=reply.name)


def _hello(request: Request, name: str, refused: str) -> bytes:
    return digest_of(
        b"secagg hello v2",
        request.session,
        request.task.encode(),
        request.digest,
        request.nonce,
        name.encode(),
        refused.encode(),
    )


__all__ = [
    "HELLO",
    "NONCE_SIZE",
    "ORDERS",
    "VERSION",
    "Reply",
    "Request",
    "check_hello",
    "pack",
    "sign_hello",
    "unpack",
]
