"""Transcripts: what one party sent and received, in a file that anybody can check
(``protocols/specs/transcript.md``).

A transcript holds only what travelled, the plan, and the hash of each round's model, so it has
no secret in it. What makes it evidence are the signatures of the frames themselves: the file is
the word of whoever recorded it, and its checksums only show where a crash or a fault cut it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec

from secagg_protocols.errors import DecodeError, MisuseError
from secagg_protocols.events import Aggregate, Step
from secagg_protocols.party import checked_model
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.plan_file import dump_plan, load_plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import DIGEST_SIZE, SIGNATURE_SIZE, Buffer, decode_header, split_frame

from .messages import ORDER, Order, Report, split_bundle

MAGIC: Final = b"secagg transcript 1\n"
#: Tails of more bytes than this are recorded by their SHA-256 unless the caller says otherwise.
KEEP_TAILS: Final = 1 << 16
_SIZE: Final = struct.Struct("<Q")
_HEAD_CHECK: Final = 8
_HEAD: Final = _SIZE.size + _HEAD_CHECK
_MOST_TEXT: Final = 256

Round = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=_MOST_TEXT)]
SessionName = Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what a transcript holds: fixed fields in a fixed order after a tag."""


class Whole(_Entry, frozen=True, tag="whole"):
    """A frame as it travelled. ``round`` is where to look for its context, and only a hint."""

    data: bytes
    round: Round | None = None


class Hashed(_Entry, frozen=True, tag="hashed"):
    """A frame without its tail: prefix and header, SHA-256 of the tail, trailer."""

    head: bytes
    tail_hash: Digest
    tail_size: Size
    trailer: bytes
    round: Round | None = None


class Opaque(_Entry, frozen=True, tag="opaque"):
    """Bytes that are no frame and too many to keep."""

    digest: Digest
    size: Size


Piece = Whole | Hashed | Opaque


class Head(_Entry, frozen=True, tag="head"):
    """The first entry: the whole plan, so that the file stands alone, and who recorded it."""

    plan: str
    plan_digest: Digest
    party: Text
    session: SessionName


class Moved(_Entry, frozen=True, tag="moved"):
    """One message: the frame of a single round, or all frames of a bundle in their order."""

    sent: bool
    peer: Text
    pieces: tuple[Piece, ...]


class Model(_Entry, frozen=True, tag="model"):
    """The model and the parameters of a round: without them its later frames have no context."""

    round: Round
    model: Digest
    parameters: bytes


class Outcome(_Entry, frozen=True, tag="outcome"):
    """What the recording server made of a round: its own word, to be held against the frames."""

    round: Round
    survivors: tuple[Text, ...]
    dropped: dict[Text, Text]
    left: dict[Text, Text]
    suspects: tuple[Text, ...]
    digest: Digest
    transcript: Digest


Entry = Moved | Model | Outcome
_DECODER: Final = msgspec.msgpack.Decoder(Head | Moved | Model | Outcome)
_ENCODER: Final = msgspec.msgpack.Encoder()


def trailer_size(plan: Plan) -> int:
    """Bytes of a trailer under this plan."""
    return SIGNATURE_SIZE if plan.signed else DIGEST_SIZE


def require_auditable(plan: Plan) -> None:
    """Raise :class:`MisuseError` (``protocol``) for a plan whose messages an audit cannot read."""
    if isinstance(plan.protocol, PaillierSum):
        raise MisuseError(
            "transcripts are of masked sums; those of a Paillier sum are not audited yet",
            rule="protocol",
        )


def _refuse(path: Path, what: str) -> MisuseError:
    return MisuseError(f"{path} {what}", rule="transcript-file")


# Records: size, a check of the size, body, a check of everything so far.


def _check(state: bytes, data: Buffer) -> bytes:
    return hashlib.sha256(state + hashlib.sha256(data).digest()).digest()


@dataclass(slots=True)
class _Place:
    """How far a file was read: the end of its last good record, and why nothing follows."""

    state: bytes
    end: int
    stopped: str = ""
    torn: bool = False


def _bodies(file: BinaryIO, place: _Place) -> Iterator[bytes]:
    """Bodies of the records up to the first that is not whole; ``place`` says where that is."""
    size = os.fstat(file.fileno()).st_size
    while place.end < size:
        file.seek(place.end)
        head = file.read(_HEAD)
        if len(head) < _HEAD or not any(head):
            # Also zeros: the file grew before its blocks were written.
            place.stopped, place.torn = f"cut at byte {place.end}", True
            return
        # The size has a check of its own, so damage to it cannot pose as a cut.
        if _check(place.state, head[: _SIZE.size])[:_HEAD_CHECK] != head[_SIZE.size :]:
            place.stopped = f"damaged at byte {place.end}"
            return
        (length,) = _SIZE.unpack_from(head)
        if length + DIGEST_SIZE > size - place.end - _HEAD:
            place.stopped, place.torn = f"cut at byte {place.end}", True
            return
        body = file.read(length)
        state = _check(place.state, head + body)
        if file.read(DIGEST_SIZE) != state:
            place.stopped = f"damaged at byte {place.end}"
            return
        place.state, place.end = state, place.end + _HEAD + length + DIGEST_SIZE
        yield body


def _record(state: bytes, body: bytes) -> tuple[bytes, bytes]:
    """A record after those that led to ``state``, and the state after it."""
    size = _SIZE.pack(len(body))
    head = size + _check(state, size)[:_HEAD_CHECK]
    after = _check(state, head + body)
    return head + body + after, after


def _decode(path: Path, body: bytes) -> Head | Entry:
    try:
        entry: Head | Entry = _DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _refuse(path, "holds an entry that is not of this version") from error
    return entry


def _start(path: Path, file: BinaryIO) -> tuple[Head, _Place]:
    """The head of a transcript, and the place after it."""
    if file.read(len(MAGIC)) != MAGIC:
        raise _refuse(path, "is not a transcript")
    place = _Place(hashlib.sha256(MAGIC).digest(), len(MAGIC))
    for body in _bodies(file, place):
        head = _decode(path, body)
        if isinstance(head, Head):
            return head, place
        break
    raise _refuse(path, "is not a transcript" if not place.stopped else place.stopped)


def load_plan_text(path: Path, text: str, digest: bytes) -> Plan:
    """The plan inside a file; :class:`MisuseError` unless it has this digest."""
    try:
        plan = load_plan(text)
    except (ValueError, TypeError, ArithmeticError, RecursionError, KeyError) as error:
        raise _refuse(path, "holds no valid plan") from error
    if plan.digest != digest:
        raise _refuse(path, "holds another plan than it says")
    return plan


class Transcript:
    """A transcript that is read: its head at once, its entries one by one.

    Raises :class:`MisuseError` (rule ``transcript-file``) for what is not a transcript, and
    ``OSError`` for a file that cannot be read.

    plan, party, session: as the head states them. stopped: empty, or where and why reading
    ended before the end of the file; known after :meth:`entries` is used up.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            head, self._place = _start(self.path, file)
        self.plan = load_plan_text(self.path, head.plan, head.plan_digest)
        self.party, self.session = head.party, head.session
        if self.party not in {SERVER_NAME, *self.plan.roster.names}:
            raise _refuse(self.path, "was recorded by nobody of its roster")
        self.stopped = ""

    def entries(self) -> Iterator[Entry]:
        """What happened, in order; may be called again."""
        place = _Place(self._place.state, self._place.end)
        with self.path.open("rb") as file:
            for body in _bodies(file, place):
                entry = _decode(self.path, body)
                if isinstance(entry, Head):
                    raise _refuse(self.path, "has two heads")
                yield entry
        self.stopped = place.stopped


def _checked_round(round: object) -> int:
    if type(round) is not int or not 0 <= round < 1 << 63:
        raise MisuseError("a round is an integer from 0 to 2^63-1", rule="arguments")
    return round


class Recorder:
    """Appends to the transcript of one party as things happen.

    path: a new file, or the one that an earlier life of the same party left; what a crash cut
    off at its end is dropped. party: a site of the plan, or ``"server"``.
    keep_tails: frames with a longer tail are recorded with its SHA-256 in its place, which
    keeps their signatures checkable; ``None`` keeps everything, which a replay of sums needs.

    Record a message that came in before the party takes it, and what goes out right after the
    call that returned it: the order of the entries is the order of the events. Writes reach the
    operating system at once and the disk when it likes (:meth:`sync` waits): a transcript may
    lose its end in a crash, which is why it is no journal.

    Raises :class:`MisuseError` for a file of another plan, party or session, for one that is
    damaged, and for one that another recorder has open; for a plan of a Paillier sum, which no
    audit can read yet; and ``OSError`` of the disk, after which the file holds what it held before
    the call.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: Plan,
        party: str,
        session: bytes | str,
        *,
        keep_tails: int | None = KEEP_TAILS,
    ) -> None:
        if not isinstance(plan, Plan):
            raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
        if keep_tails is not None and (type(keep_tails) is not int or keep_tails < 0):
            raise MisuseError("keep_tails is a number of bytes, or None", rule="arguments")
        require_auditable(plan)
        self.path, self.plan, self.party = Path(path), plan, party
        if party not in {SERVER_NAME, *plan.roster.names}:
            raise MisuseError(f"{party!r} is not in the roster", rule="roster-member")
        encoded = session.encode(errors="surrogatepass") if isinstance(session, str) else session
        if type(encoded) is not bytes or not 1 <= len(encoded) <= 64:
            raise MisuseError("a session has 1 to 64 bytes", rule="session")
        self._keep = keep_tails
        self._round: int | None = None
        self._trailer_size = trailer_size(plan)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Unbuffered: what was recorded survives the process.
        self._file: Any = os.fdopen(handle, "r+b", buffering=0)
        try:
            self._lock()
            self._resume(Head(dump_plan(plan), plan.digest, party, encoded))
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refuse(self.path, "is being recorded by another process") from None

    def _resume(self, head: Head) -> None:
        """Begin the file, or go to the end of what it holds."""
        size = os.fstat(self._file.fileno()).st_size
        first = MAGIC + _record(hashlib.sha256(MAGIC).digest(), _ENCODER.encode(head))[0]
        if size < len(first):
            # A crash while the file was begun leaves a part of its start.
            if self._file.read(size) != first[:size]:
                raise _refuse(self.path, "is the transcript of something else")
            self._file.seek(0)
            self._put(first)
        self._file.seek(0)
        known, self._place = _start(self.path, self._file)
        if known != head:
            raise _refuse(self.path, "is the transcript of another plan, party or session")
        for body in _bodies(self._file, self._place):
            entry = _decode(self.path, body)
            if isinstance(entry, Model):
                self._round = entry.round
        if self._place.stopped and not self._place.torn:
            raise _refuse(self.path, f"is {self._place.stopped}")
        self._file.truncate(self._place.end)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _peer(self, name: str) -> str:
        if not isinstance(name, str):
            raise MisuseError("a peer is named by text", rule="arguments")
        return name[:_MOST_TEXT]

    def _append(self, entry: Entry) -> None:
        if self._file.closed:
            raise MisuseError("the recorder was closed", rule="ended")
        record, state = _record(self._place.state, _ENCODER.encode(entry))
        self._file.seek(self._place.end)
        try:
            self._put(record)
        except BaseException:
            # What a full disk or an interrupt left would stand behind the next, shorter record.
            with contextlib.suppress(OSError):
                self._file.truncate(self._place.end)
            raise
        self._place.state, self._place.end = state, self._place.end + len(record)

    # What is recorded.

    def begin(self, round: int) -> None:
        """Say which round the next messages are of. Needed only before the first ``model`` of
        a transcript with several single rounds; bundles name their rounds themselves."""
        self._round = _checked_round(round)

    def model(
        self,
        round: int,
        model: Buffer | None,
        parameters: bytes = b"",
        *,
        model_hash: bytes | None = None,
    ) -> None:
        """State the round's model (its bytes, or their SHA-256) and parameters, when the party
        gets them."""
        if (model is None) == (model_hash is None):
            raise MisuseError("either the model or its hash", rule="arguments")
        _checked_round(round)
        digest = model_hash if model is None else hashlib.sha256(checked_model(model)).digest()
        if type(parameters) is not bytes:
            raise MisuseError("parameters are bytes", rule="arguments")
        if type(digest) is not bytes or len(digest) != DIGEST_SIZE:
            raise MisuseError("the hash of a model has 32 bytes", rule="arguments")
        self._round = round
        self._append(Model(round, digest, parameters))

    def sent(self, to: str, data: Buffer) -> None:
        """Record a message of this party's: a frame or a bundle."""
        self._append(Moved(True, self._peer(to), self._pieces(data)))

    def received(self, sender: str, data: Buffer) -> None:
        """Record a message as it came in, whatever it is."""
        self._append(Moved(False, self._peer(sender), self._pieces(data)))

    def tap(self, step: Step, sender: str, recipient: str, data: Buffer) -> None:
        """Record a message if it is this party's: the ``tap`` of :func:`secagg.aggregate`."""
        if sender == self.party:
            self.sent(recipient, data)
        elif recipient == self.party:
            self.received(sender, data)

    def outcome(self, round: int, aggregate: Aggregate) -> None:
        """Record what a server made of the round: who left when, suspects, digests; no sum.

        To be called when ``Done`` or ``Finished`` brings the aggregate: a session sends the
        result later, and a replay has to know when it was closed.
        """
        if not isinstance(aggregate, Aggregate):
            raise MisuseError("the outcome is an Aggregate", rule="arguments")
        self._append(
            Outcome(
                _checked_round(round),
                aggregate.survivors,
                dict(aggregate.dropped),
                dict(aggregate.left),
                aggregate.suspects,
                aggregate.digest,
                aggregate.transcript,
            )
        )

    def sync(self) -> None:
        """Wait until everything recorded has reached the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Frames.

    def _pieces(self, data: Buffer) -> tuple[Piece, ...]:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise MisuseError("a message is bytes", rule="arguments")
        view = memoryview(bytes(data) if isinstance(data, memoryview) else data)
        try:
            bundle = split_bundle(view, trailer_size=self._trailer_size)
            control = split_frame(bundle.control, trailer_size=self._trailer_size)
            kind: type[Order] | type[Report] = Order if control.kind == ORDER.number else Report
            parts = bundle.parts(decode_header(kind, control.header).parts)
        except DecodeError:
            # One frame, or nothing that anybody will accept.
            return (self._piece(view, self._round),)
        inner = [self._piece(part, number) for number, part in parts]
        return (self._piece(bundle.control, None), *inner)

    def _piece(self, view: memoryview, round: int | None) -> Piece:
        if self._keep is None or view.nbytes <= self._keep:
            return Whole(bytes(view), round)
        try:
            frame = split_frame(view, trailer_size=self._trailer_size)
        except DecodeError:
            return Opaque(hashlib.sha256(view).digest(), view.nbytes)
        if frame.tail.nbytes <= self._keep:
            return Whole(bytes(view), round)
        head = bytes(view[: view.nbytes - frame.tail.nbytes - self._trailer_size])
        digest = hashlib.sha256(frame.tail).digest()
        return Hashed(head, digest, frame.tail.nbytes, frame.trailer, round)


__all__ = [
    "KEEP_TAILS",
    "Hashed",
    "Model",
    "Moved",
    "Opaque",
    "Outcome",
    "Recorder",
    "Transcript",
    "Whole",
]
