"""What a declearn client was told so far: a chain of hashes over the server's messages.

A server that gives one site another model, another number of steps or another kind of request than
the others gets a sum of unlike things, from which a single site's vector can be read. Masks are
therefore bound to everything that the server has said (ADR 0019). declearn hands its secure
aggregation neither the requests nor the messages that came before the setup, so what a client
receives is hashed where it is received: in ``NetworkClient.recv_message``, which importing this
package wraps once for the process. Where the wrapper did not see a client's messages from the
first, the setup is refused (``view``).

declearn's server waits for ever for a client that ended, and where the server ends by an error,
for clients that wait for it. ``__aexit__`` of both network ends is therefore wrapped too: a client
that ends by an error of this package tells the server first, in one text whatever the reason, and
the server cancels the training for all clients.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import weakref
from typing import Any, Final

import msgpack
from declearn.communication.api import NetworkClient, NetworkServer
from declearn.messaging import CancelTraining, Error, InitRequest, SerializedMessage

from secagg_protocols.errors import DecodeError, MisuseError, SecAggError
from secagg_protocols.keys import digest_of
from secagg_protocols.roster import SERVER_NAME

log: Final = logging.getLogger("secagg.integrations")
#: The one text that a site gives the server when it ends.
REFUSED: Final = "secagg: this site does not take part"
#: What the server tells clients where a sum cannot be opened.
NO_SUM: Final = "secagg: there is no sum"
#: Seconds that one end waits for the other to take note.
_PATIENCE: Final = 60.0
_LABEL: Final = b"secagg zero sum view v1"


class View:
    """The chain of one client. digest: of all messages so far. model: SHA-256 of the model that
    was broadcast last, as it travelled; of no bytes before there was one. messages: their
    number."""

    def __init__(self) -> None:
        self.digest = digest_of(_LABEL)
        self.model = hashlib.sha256(b"").digest()
        self.messages = 0
        self.begun = False

    def add(self, message: SerializedMessage[Any]) -> None:
        """Chain one message."""
        self.digest = digest_of(_LABEL, self.digest, message.bin_data)
        self.messages += 1
        first = issubclass(message.message_cls, InitRequest)
        self.begun = self.begun or first
        model = _field(message, "model" if first else "weights")
        if model is not None:
            self.model = hashlib.sha256(msgpack.packb(model)).digest()


_views: weakref.WeakKeyDictionary[NetworkClient, View] = weakref.WeakKeyDictionary()


def view_of(client: NetworkClient) -> View:
    """The view of a client; :class:`MisuseError` (``view``) where its first messages were not
    seen."""
    view = _views.get(client)
    if view is None or not view.begun:
        raise MisuseError(
            "what the server said before was not seen: import secagg.integrations.declearn before "
            "the client runs, and use a network client that receives by NetworkClient.recv_message",
            rule="view",
        )
    return view


def _field(message: SerializedMessage[Any], name: str) -> Any:
    """A field of a message as it travelled, without making objects of it."""
    try:
        data = msgpack.unpackb(memoryview(message.bin_data)[message.payload_start :])
        return data.get(name) if isinstance(data, dict) else None
    except (ValueError, msgpack.UnpackException):
        raise DecodeError(
            "a message of the server is not msgpack", rule="zero-format", sender=SERVER_NAME
        ) from None


def watch() -> None:
    """Wrap methods of ``NetworkClient`` and ``NetworkServer``, once for the process."""
    receive, leave, stop = (
        NetworkClient.recv_message,
        NetworkClient.__aexit__,
        NetworkServer.__aexit__,
    )
    if hasattr(receive, "_secagg_watched"):
        return

    @functools.wraps(receive)
    async def recv_message(
        self: NetworkClient, timeout: float | None = None
    ) -> SerializedMessage[Any]:
        message = await receive(self, timeout)
        _views.setdefault(self, View()).add(message)
        return message

    @functools.wraps(leave)
    async def leaves(self: NetworkClient, kind: Any, error: Any, trace: Any) -> None:
        if (ours := _ours(error)) is not None:
            log.error("this site ends: %s", ours)
            if ours.rule != "setup-cancelled":  # of which the server knows
                await _tell(self)
        await leave(self, kind, error, trace)

    @functools.wraps(stop)
    async def stops(self: NetworkServer, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, SecAggError):
            log.error("the server ends: %s", error)
            with contextlib.suppress(Exception):
                await self.broadcast_message(CancelTraining(NO_SUM), timeout=_PATIENCE)
        await stop(self, kind, error, trace)

    recv_message._secagg_watched = True  # type: ignore[attr-defined]
    NetworkClient.recv_message = recv_message
    NetworkClient.__aexit__ = leaves
    NetworkServer.__aexit__ = stops


def _ours(error: BaseException | None) -> SecAggError | None:
    """The error of this package that an error is, or that declearn wrapped in it."""
    while error is not None and not isinstance(error, SecAggError):
        error = error.__cause__
    return error


async def _tell(client: NetworkClient) -> None:
    # The network's own errors must not hide what was wrong. The server cancels the training for
    # all clients, and waits until this one has heard of it.
    with contextlib.suppress(Exception):
        await client.send_message(Error(REFUSED))
        await client.recv_message(timeout=_PATIENCE)


__all__ = ["REFUSED", "View", "view_of", "watch"]
