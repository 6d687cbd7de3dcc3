"""Whose frame is it: signatures of recorded frames, each in the context that it is bound to."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from secagg_protocols.errors import AuthenticationError, DecodeError
from secagg_protocols.keys import verify
from secagg_protocols.kinds import Kind
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.party import Contexts
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import (
    SERVER,
    Header,
    decode_header,
    digest_of_frame,
    encode_header,
    frame_head,
    split_frame,
)

from . import messages
from .audit_rules import Signed, Stated
from .messages import session_context
from .transcript import Hashed, Opaque, Piece, trailer_size

KINDS: Final = {**inner.KINDS, **messages.KINDS}
#: Most models that are tried for one round, and rounds for a frame that names none.
_MOST_TRIED: Final = 8


class Frames:
    """Turns what was recorded under one plan and session into authentic frames.

    Candidates for a frame's context follow from the round that the recording names and from the
    models that were stated; both are hints, since only the right context makes the trailer fit.
    """

    def __init__(self, plan: Plan, session: bytes) -> None:
        self.plan, self.session = plan, session
        self._session_context = session_context(plan, session)
        self._setups: dict[int, bytes] = {}
        self._models: dict[int, dict[Stated, bytes]] = {}
        self._trailer_size = trailer_size(plan)

    def name(self, index: int) -> str:
        """Name of a party."""
        return SERVER_NAME if index == SERVER else self.plan.roster.names[index]

    def state_model(self, round: int, stated: Stated) -> None:
        """Try this model for frames of ``round``."""
        known = self._models.setdefault(round, {})
        if stated not in known and len(known) < _MOST_TRIED:
            contexts = Contexts(self.plan, self.session, round)
            contexts.model_hash, contexts.parameters = stated
            known[stated] = contexts.round

    def stated_rounds(self) -> list[int]:
        """The first rounds of which a model was stated: where to look without a hint."""
        return sorted(self._models)[:_MOST_TRIED]

    def authenticate(self, piece: Piece, rounds: Iterable[int], where: str) -> Signed:
        """The frame, once its trailer fits a context of one of ``rounds``.

        Raises :class:`DecodeError` for bytes that are no message of the protocol, and
        :class:`AuthenticationError` where the trailer vouches for no known context.
        """
        if isinstance(piece, Opaque):
            raise DecodeError("too many bytes for any frame", rule="frame")
        data = piece.head + piece.trailer if isinstance(piece, Hashed) else piece.data
        frame = split_frame(data, trailer_size=self._trailer_size)
        tail: bytes | None = bytes(frame.tail)
        if isinstance(piece, Hashed):
            if frame.tail.nbytes:
                raise DecodeError("a frame without its tail has none", rule="frame")
            tail, tail_hash, tail_size = None, piece.tail_hash, piece.tail_size
        else:
            tail_hash, tail_size = hashlib.sha256(frame.tail).digest(), frame.tail.nbytes
        kind = self._routed(frame.kind, frame.sender, frame.recipient)
        header = bytes(frame.header)
        contexts = self._contexts(kind, rounds)
        for number, context, stated in contexts:
            digest = digest_of_frame(
                context, kind.number, frame.sender, frame.recipient, header, tail_hash
            )
            if self._vouched(frame.sender, digest, frame.trailer):
                return Signed(
                    kind=kind,
                    signer=frame.sender,
                    recipient=frame.recipient,
                    round=number,
                    context=context,
                    stated=stated,
                    digest=digest,
                    head=data[: len(data) - self._trailer_size - frame.tail.nbytes],
                    header=_header(kind, header),
                    tail=tail,
                    tail_hash=tail_hash,
                    tail_size=tail_size,
                    trailer=frame.trailer,
                    where=where,
                )
        # A site that missed an order of its session does not know the model either.
        raise AuthenticationError(
            "the trailer fits no context that is known"
            if contexts
            else "the model of its round is stated nowhere, so its context is not known",
            rule="trailer",
        )

    def relayed(
        self, by: Signed, kind: Kind, site: int, header: Header, tail: bytes, signature: bytes
    ) -> Signed | None:
        """The site's frame of which the server relayed the signature; ``None`` if it is none."""
        encoded = encode_header(header)
        tail_hash = hashlib.sha256(tail).digest()
        context = by.context
        digest = digest_of_frame(context, kind.number, site, SERVER, encoded, tail_hash)
        if not self._vouched(site, digest, signature):
            return None
        return Signed(
            kind=kind,
            signer=site,
            recipient=SERVER,
            round=by.round,
            context=context,
            stated=by.stated,
            digest=digest,
            head=frame_head(kind.number, site, SERVER, encoded),
            header=header,
            tail=tail,
            tail_hash=tail_hash,
            tail_size=len(tail),
            trailer=signature,
            where=f"{by.where}, relayed",
        )

    def _routed(self, number: int, sender: int, recipient: int) -> Kind:
        """The kind, for a route on which parties exchange it: nobody takes any other."""
        kind = KINDS.get(number)
        if kind is None:
            raise DecodeError("no kind of message has this number", rule="frame")
        site, other = (sender, recipient) if kind.from_site else (recipient, sender)
        if site >= self.plan.clients or other != SERVER:
            raise DecodeError("sender or recipient does not fit", rule="route")
        return kind

    def _contexts(
        self, kind: Kind, rounds: Iterable[int]
    ) -> list[tuple[int, bytes, Stated | None]]:
        if kind.number in messages.KINDS:
            return [(-1, self._session_context, None)]
        wanted = [number for number in dict.fromkeys(rounds) if 0 <= number < 1 << 63]
        if kind.per_round:
            return [
                (number, context, stated)
                for number in wanted
                for stated, context in self._models.get(number, {}).items()
            ]
        return [(number, self._setup(number), None) for number in wanted]

    def _setup(self, round: int) -> bytes:
        if round not in self._setups:
            self._setups[round] = Contexts(self.plan, self.session, round).setup
        return self._setups[round]

    def _vouched(self, signer: int, digest: bytes, trailer: bytes) -> bool:
        if not self.plan.signed:
            return hmac.compare_digest(trailer, digest)
        roster = self.plan.roster
        public = roster.server if signer == SERVER else roster.sites[signer][1]
        try:
            verify(public, digest, trailer, rule="trailer", signer="", sender="")
        except AuthenticationError:
            return False
        return True


def _header(kind: Kind, data: bytes) -> Header | None:
    """The header in canonical form, or ``None`` where it is anything else."""
    try:
        header = decode_header(kind.header, data)
    except DecodeError:
        return None
    return header if encode_header(header) == data else None


__all__ = ["KINDS", "Frames"]
