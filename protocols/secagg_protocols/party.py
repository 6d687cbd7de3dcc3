"""Party: one role in one round, sans-I/O. What all protocols' parties share.

A party turns bytes into events and never touches a network, a clock that matters or a disk
(but for its journal). Bytes pass three gates before a protocol sees them: the frame is split
within the plan's limits, its trailer is verified, and its place in the round is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

from secagg_native import MAX_THREADS, features

from .dumps import DUMP_FAULTS, pack_dump
from .errors import (
    AuthenticationError,
    DecodeError,
    MisuseError,
    SecAggError,
    pack_error,
    unpack_error,
)
from .events import Event
from .journal import Journal, journal_calls
from .keys import Identity, digest_of, verify
from .kinds import Kind
from .plan import Plan
from .roster import SERVER_NAME
from .stages import Pipeline
from .wire import (
    DIGEST_SIZE,
    SERVER,
    SIGNATURE_SIZE,
    VERSION,
    Buffer,
    Frame,
    FrameBuffer,
    Header,
    decode_header,
    digest_of_frame,
    encode_header,
    frame_head,
    from_bitmap,
    split_frame,
)

Entropy = Callable[[int], bytes]
HeaderT = TypeVar("HeaderT", bound=Header)
_MOST_SESSION: Final = 64
_JOURNAL_METHODS: Final = ("claim", "newest", "retire", "floor", "read", "swap")


class Contexts:
    """The two contexts that bind every key, trailer and signature of a round."""

    __slots__ = ("model_hash", "parameters", "setup")

    def __init__(self, plan: Plan, session: bytes, round_number: int) -> None:
        self.setup = digest_of(
            b"secagg setup context v1",
            bytes([VERSION]),
            plan.digest,
            plan.roster.epoch.to_bytes(4, "little"),
            session,
            round_number.to_bytes(8, "little"),
        )
        self.model_hash: bytes | None = None
        self.parameters = b""

    @property
    def round(self) -> bytes:
        """The setup context, the broadcast model and the round's parameters."""
        if self.model_hash is None:
            raise MisuseError(
                "the model of this round is not set; give it at construction or use_model()",
                rule="model",
            )
        return digest_of(b"secagg round context v1", self.setup, self.model_hash, self.parameters)


class Party:
    """Base of clients, servers and holders."""

    role: ClassVar[str] = ""
    #: What a dump says it is of, where that is not the role.
    dump_role: ClassVar[str] = ""
    kinds: ClassVar[Mapping[int, Kind]] = {}

    def __init__(
        self,
        plan: Plan,
        index: int,
        *,
        identity: Identity | None,
        session: bytes | str,
        round: int,
        model: Buffer | None,
        journal: Journal,
        threads: int = 1,
        entropy: Entropy | None = None,
    ) -> None:
        self.plan = plan
        self.index = index
        self.identity = identity
        encoded = session.encode(errors="surrogatepass") if isinstance(session, str) else session
        self.session = encoded
        self.round = round
        self.journal = journal
        if not all(callable(getattr(journal, name, None)) for name in _JOURNAL_METHODS):
            raise MisuseError(
                f"a journal has {', '.join(_JOURNAL_METHODS)} (FileJournal)", rule="arguments"
            )
        if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
            raise MisuseError(f"threads: an integer from 1 to {MAX_THREADS}", rule="arguments")
        #: Cores that keystreams may use. Of this machine, so it is not in a dump.
        self.threads = threads
        try:
            features.check_environment()
        except ValueError as error:
            raise MisuseError(str(error), rule="kernel") from None
        self._check_session()
        self._check_identity()
        self.contexts = Contexts(plan, self.session, round)
        self._entropy: Entropy = entropy or secrets.token_bytes
        self._ended: SecAggError | None = None
        # Digest of each authentic message that was accepted, by (kind, sender).
        self._accepted: dict[tuple[int, int], bytes] = {}
        # One journal may serve several parties of a machine, so its key names this one.
        self._journal_key = digest_of(
            b"secagg journal key v1", self.contexts.setup, index.to_bytes(4, "little")
        )
        if model is not None:
            Party.use_model(self, model)  # a subclass has nothing waiting for it yet

    # Rules that every party applies.

    def _check_session(self) -> None:
        if type(self.session) is not bytes or not 1 <= len(self.session) <= _MOST_SESSION:
            raise MisuseError(f"a session has 1 to {_MOST_SESSION} bytes", rule="session")
        if isinstance(self.round, bool) or not isinstance(self.round, int):
            raise MisuseError("a round is an integer", rule="session")
        if not 0 <= self.round < 1 << 63:
            raise MisuseError("a round lies in 0..2^63-1", rule="session")

    def _check_round_clip(self, parameters: bytes) -> None:
        adaptive = self.plan.pipeline.adaptive
        if adaptive is not None:
            clip = adaptive.read(parameters)
            if not adaptive.lowest <= clip <= adaptive.highest:
                raise MisuseError(
                    f"the round's clip is {clip:g}, the plan's lie in {adaptive.lowest:g}.."
                    f"{adaptive.highest:g}",
                    rule="round-clip",
                )

    def _check_identity(self) -> None:
        if self.identity is not None and not isinstance(self.identity, Identity):
            raise MisuseError(
                "the identity is an Identity (Identity.load reads one)", rule="identity"
            )
        if self.identity is None:
            if self.plan.signed:
                raise MisuseError(
                    "a malicious-server plan signs every message; give the identity",
                    rule="identity",
                )
        elif self.identity.public != self._public(self.index):
            raise MisuseError(
                f"the identity is not the one that the roster pins for {self.name}",
                rule="identity",
            )

    def _check_limits(self, frame: Frame, size: int) -> None:
        most = self._largest(self.kinds[frame.kind])
        if size > most:
            raise DecodeError(f"{size} bytes, at most {most} allowed", rule="limits")

    def _check_route(self, frame: Frame, sender: str | None) -> None:
        kind = self.kinds[frame.kind]
        known = self._role_of(frame.sender) == kind.sender
        if not known or frame.recipient != self._addressee(kind):
            raise AuthenticationError("sender or recipient does not fit", rule="route")
        if sender is not None and sender != self._carrier(frame):
            raise AuthenticationError(
                "the transport names another sender than the frame", rule="route", sender=sender
            )

    def _check_trailer(self, frame: Frame, digest: bytes) -> None:
        sender = self._name(frame.sender)
        if self.plan.signed:
            verify(
                self._public(frame.sender),
                digest,
                frame.trailer,
                rule="trailer",
                signer=sender,
                sender=sender,
            )
        elif not hmac.compare_digest(frame.trailer, digest):
            raise AuthenticationError(
                "the trailer does not match: bytes changed, or another plan, session, round or "
                "model",
                rule="trailer",
                sender=sender,
            )

    def _check_canonical(self, frame: Frame, header: Header) -> None:
        if encode_header(header) != frame.header:
            raise DecodeError(
                "the header is not in canonical form",
                rule="canonical",
                sender=self._name(frame.sender),
            )

    def _check_tail_length(self, frame: Frame, expected: int) -> None:
        if frame.tail.nbytes != expected:
            raise DecodeError(
                f"{frame.tail.nbytes} bytes after the header, {expected} expected",
                rule="tail-length",
                sender=self._name(frame.sender),
            )

    # What parties are built from.

    @property
    def name(self) -> str:
        """This party's name in the roster."""
        return self._name(self.index)

    @property
    def series(self) -> bytes:
        """The series of this party's claims in its journal: its part in the session's rounds."""
        return digest_of(
            b"secagg journal series v1",
            self.plan.digest,
            self.session,
            self.index.to_bytes(4, "little"),
        )

    # Indices: sites in roster order, then holders; the server has one of its own.

    def _member(self, index: int) -> tuple[str, bytes]:
        roster, sites = self.plan.roster, self.plan.clients
        if index == SERVER:
            return SERVER_NAME, roster.server
        return roster.sites[index] if index < sites else roster.holders[index - sites]

    def _role_of(self, index: int) -> str:
        if index == SERVER:
            return "server"
        if index < self.plan.clients:
            return "client"
        return "holder" if index < self.plan.clients + len(self.plan.roster.holders) else ""

    def _name(self, index: int) -> str:
        return self._member(index)[0]

    def _names(self, indices: Any) -> tuple[str, ...]:
        return tuple(self._name(i) for i in sorted(indices))

    def _public(self, index: int) -> bytes:
        return self._member(index)[1]

    def _takes(self, kind: Kind) -> bool:
        """Whether messages of ``kind`` are for this party's role."""
        return kind.to == self.role

    def _addressee(self, kind: Kind) -> int:
        """Index of the party that a message of ``kind`` names as its recipient."""
        return self.index

    def _carrier(self, frame: Frame) -> str:
        """Name of the party that the transport brings a frame from."""
        return self._name(frame.sender)

    @property
    def _trailer_size(self) -> int:
        return SIGNATURE_SIZE if self.plan.signed else DIGEST_SIZE

    def _largest(self, kind: Kind) -> int:
        """Bytes of the largest frame of ``kind`` that the plan allows."""
        raise NotImplementedError

    def use_model(self, model: Buffer, parameters: bytes = b"") -> list[Event]:
        """Set the broadcast model (its bytes) and the round's parameters, once.

        Returns what was waiting for it: a vector that was submitted before. Sites whose models
        differ derive different masks and cannot be summed, so a server that sends crafted
        models to some sites learns nothing from them.
        """
        if type(parameters) is not bytes:
            raise MisuseError("parameters are bytes", rule="model")
        self._check_round_clip(parameters)
        digest = hashlib.sha256(checked_model(model)).digest()
        contexts = self.contexts
        if contexts.model_hash is not None and (contexts.model_hash, contexts.parameters) != (
            digest,
            parameters,
        ):
            raise MisuseError("this round has another model already", rule="model")
        self._require_model(digest)
        contexts.model_hash, contexts.parameters = digest, parameters
        return []

    def _require_model(self, digest: bytes) -> None:
        """Raise where this party takes no part with the model of this SHA-256."""

    @property
    def pipeline(self) -> Pipeline:
        """The plan's stages as this round has them: its rotation, its clip."""
        contexts = self.contexts
        return self.plan.pipeline.at(contexts.round, contexts.parameters)

    def _add_central_noise(self, ring: Any, seed: bytes) -> None:
        """Add the noise that a plan lets the server add, to the sum in the ring."""
        noise = self.plan.pipeline.noise
        if noise is not None and noise.central:
            bound = digest_of(b"secagg central noise v1", seed, self.contexts.round)
            noise.draws(bound).add(ring, 0, threads=self.threads)

    def _opened_sum(self, total: Any, count: int) -> dict[str, Any]:
        """What an Aggregate says of the lifted sum over ``count`` sites, whose memory it takes."""
        found = self.pipeline.decode(total, count)
        noise = self.plan.pipeline.noise
        return {
            "sum": found.sum,
            "weight": found.weight,
            "extras": {name: value for name, value in found.extras.items() if name != "weight"},
            "noise_variance": found.noise_variance,
            "weight_floor": 1 if noise is None else noise.weight_floor,
        }

    def _context(self, kind: Kind) -> bytes:
        return self.contexts.round if kind.per_round else self.contexts.setup

    def _trailer(self, digest: bytes) -> bytes:
        """What proves a frame with this digest to be this party's."""
        if self.plan.signed and self.identity is not None:
            return self.identity.sign(digest)
        return digest

    def _seal_frame(self, buffer: FrameBuffer, digest: bytes) -> bytes:
        """Write the trailer into a frame whose other bytes are done."""
        trailer = self._trailer(digest)
        buffer[-len(trailer) :] = trailer
        return bytes(buffer)

    def _frame(
        self, kind: Kind, recipient: int, header: Header, tail: Buffer = b""
    ) -> tuple[bytes, bytes]:
        """A whole frame of this party, and its digest."""
        hashed = hashlib.sha256(tail).digest()
        head, trailer, digest = self._around(kind, recipient, header, hashed)
        return b"".join((head, tail, trailer)), digest

    def _around(
        self, kind: Kind, recipient: int, header: Header, tail_hash: bytes
    ) -> tuple[bytes, bytes, bytes]:
        """What stands before and after a tail of this hash in a frame, and the frame's digest."""
        encoded = encode_header(header)
        digest = digest_of_frame(
            self._context(kind), kind.number, self.index, recipient, encoded, tail_hash
        )
        head = frame_head(kind.number, self.index, recipient, encoded)
        return head, self._trailer(digest), digest

    def _authenticate(self, data: Buffer, sender: str | None) -> tuple[Frame, bytes]:
        """Frame and digest of authentic bytes; :class:`PeerError` for all others."""
        frame = split_frame(data, trailer_size=self._trailer_size)
        size = memoryview(data).nbytes
        kind = self.kinds.get(frame.kind)
        if kind is None or not self._takes(kind):
            raise DecodeError("not a message for this role", rule="frame")
        self._check_limits(frame, size)
        self._check_route(frame, sender)
        digest = frame.digest(self._context(kind))
        self._check_trailer(frame, digest)
        return frame, digest

    def _header(self, frame: Frame, kind: type[HeaderT]) -> HeaderT:
        try:
            header = decode_header(kind, frame.header)
        except DecodeError as error:
            error.sender = self._name(frame.sender)
            raise
        self._check_canonical(frame, header)
        return header

    def _sites(self, frame: Frame, bitmap: bytes) -> tuple[int, ...]:
        """Sites of a list in a frame's header, ascending."""
        try:
            return from_bitmap(bitmap, self.plan.clients)
        except DecodeError as error:
            error.sender = self._name(frame.sender)
            raise

    def _tail(self, frame: Frame, expected: int) -> memoryview:
        self._check_tail_length(frame, expected)
        return frame.tail

    def _claim(self, step: int, digest: bytes, reply: bytes) -> bytes:
        """Claim a step in the journal; a conflict ends this party."""
        with journal_calls():
            try:
                return self.journal.claim(
                    self._journal_key, step, digest, reply, series=self.series, number=self.round
                )
            except SecAggError as error:
                self._end(error)
                raise

    def _newest(self) -> int:
        """The last step of this round in the journal."""
        with journal_calls():
            return self.journal.newest(self._journal_key)

    def _end(self, error: SecAggError) -> None:
        """End this party for good, without what it no longer needs."""
        self._ended = error
        self._forget()

    def _forget(self) -> None:
        """Drop the secrets of the round."""
        raise NotImplementedError

    def _require_alive(self) -> None:
        if self._ended is not None:
            raise MisuseError(
                f"this party was ended by rule {self._ended.rule!r}", rule="ended"
            ) from self._ended

    # Contract.

    def start(self) -> list[Event]:
        """Begin the round."""
        raise NotImplementedError

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Any]:
        """Take one message; returns events (sessions have some of their own).

        ``sender`` is who the transport says it is from; without it, the claim in the frame stands
        (a semi-honest plan then relies on the caller).
        """
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def dump(self) -> bytes:
        """Everything but identity and journal, secrets included: store it sealed
        (:func:`secagg.seal`), before transmitting what the last call returned."""
        contexts = self.contexts
        state = {
            "role": self.dump_role or self.role,
            "plan": self.plan.digest,
            "index": self.index,
            "session": self.session,
            "round": self.round,
            "model": contexts.model_hash,
            "parameters": contexts.parameters,
            "ended": None if self._ended is None else pack_error(self._ended),
            "accepted": [[k, s, d] for (k, s), d in self._accepted.items()],
            "state": self._state(),
        }
        return pack_dump(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Take the content of a dump (:func:`secagg.load` calls this)."""
        try:
            self._restore_all(state)
        except DUMP_FAULTS:
            raise MisuseError("the dump is not one of this version", rule="dump") from None

    def _restore_all(self, state: dict[str, Any]) -> None:
        self.contexts.model_hash = state["model"]
        self.contexts.parameters = state["parameters"]
        if state["ended"] is not None:
            self._ended = unpack_error(state["ended"])
        self._accepted = {(k, s): d for k, s, d in state["accepted"]}
        self._restore(state["state"])


def checked_model(model: object) -> Buffer:
    """``model`` where it is contiguous bytes; :class:`MisuseError` otherwise."""
    if not isinstance(model, (bytes, bytearray, memoryview)) or not memoryview(model).contiguous:
        raise MisuseError("a model is bytes, in one piece", rule="model")
    return model
