"""The site's side of the masked sum: five steps, each a method, each check a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from secagg_native import bitpack
from secagg_native.aes_ctr import Keystreams

from ..errors import (
    MisuseError,
    PeerError,
    SecAggError,
)
from ..events import Dropped, Event, Ignored, Send, Step
from ..journal import JOURNAL_IO_RULE
from ..keys import (
    KEY_SIZE,
    SEED_SIZE,
)
from ..kinds import Kind
from ..plan import Plan
from ..result import Result, result_size, ring_size
from ..roster import SERVER_NAME
from ..shamir import SHARE_SIZE
from ..site import Input
from ..waiting import CHANGED_RULE, changed
from ..wire import (
    SERVER,
    SIGNATURE_SIZE,
    Buffer,
    Frame,
    encode_header,
    frame_digest,
    start_frame,
    to_bitmap,
)
from . import masks, messages
from .client_checks import (
    ADVERTISED,
    CONSENTED,
    FINISHED,
    MASKED,
    NEW,
    READY,
    REVEALED,
    SHARED,
)
from .client_shares import ClientShares
from .messages import SEALED_SIZE

#: Coordinates that are encoded, masked and packed at a time; a multiple of 8, so that each
#: stretch is packed from a whole byte on.
MASK_TILE: Final = 1 << 16
#: Most such stretches at a time, whatever the number of threads: 16 MiB of buffers.
_MOST_TILES: Final = 16
#: Errors of the caller's that end nothing.
_KEEPS_GOING: Final = frozenset({JOURNAL_IO_RULE, CHANGED_RULE})


class Client(ClientShares):
    """One site in one round of a masked sum (``protocols/specs/masked_sum.md``)."""

    kinds = messages.KINDS

    def __init__(self, plan: Plan, index: int, **common: Any) -> None:
        super().__init__(plan, index, **common)
        self._at = NEW
        self._secrets = None
        self._neighbours: tuple[int, ...] = ()
        self._adverts: dict[int, bytes] = {}  # present neighbour -> mask key, channel key
        self._u2: tuple[int, ...] = ()  # within neighbours and itself
        self._shares = {}
        self._u3: tuple[int, ...] = ()
        self._cohort = 0
        self._opening = {}

    # Where this party stands, for callers that run several rounds.

    @property
    def started(self) -> bool:
        """Whether the keys were advertised."""
        return self._at != NEW

    @property
    def awaits_input(self) -> bool:
        """Whether the keys are shared and the vector is what is missing."""
        return self._at == READY and self._pending is None

    @property
    def sent_input(self) -> bool:
        """Whether the masked input was sent."""
        return self._at >= MASKED

    @property
    def survivors(self) -> tuple[int, ...]:
        """Roster indices of the announced survivors, within this site's neighbours and itself."""
        return self._u3

    @property
    def _input_at(self) -> Input:
        if self._at < READY:
            return Input.EARLY
        return {READY: Input.AWAITED, MASKED: Input.SENT}.get(self._at, Input.OVER)

    # Contract.

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)

    def start(self) -> list[Event]:
        """Advertise two fresh keys."""
        self._require_alive()
        if self._at != NEW:
            raise MisuseError("this party was started before", rule="start-once")
        if self._secrets is None:  # else the journal's disk failed, and the caller tries again
            seed = self._entropy(SEED_SIZE)
            self._secrets = masks.SiteSecrets.derive(seed, self.contexts.setup)
        tail = self._secrets.mask_key + self._secrets.channel_key
        events = self._send(messages.ADVERT, messages.Advert(), tail)
        self._at = ADVERTISED
        return events

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take one message of the server.

        Bytes that are not authentic, early, late or repeated come back as ``Ignored``.
        Authentic bad content raises :class:`PeerError` and ends the party for good.
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            frame, digest = self._authenticate(data, sender)
        except PeerError as error:
            return [Ignored(error)]
        except MisuseError as error:
            # The model is not known yet, so no message of the round can be verified.
            return [Ignored(error)]
        try:
            self._check_equivocation(frame, digest)
            try:
                self._check_step_order(frame)
            except PeerError as error:
                return [Ignored(error)]
            events = self._dispatch(frame)
        except SecAggError as error:
            if error.rule not in _KEEPS_GOING:
                self._end(error)
            if error.rule == CHANGED_RULE:
                # The message was taken in full; what is missing is a vector.
                self._accepted[frame.kind, frame.sender] = digest
            raise
        self._accepted[frame.kind, frame.sender] = digest
        return events

    def _dispatch(self, frame: Frame) -> list[Event]:
        if frame.kind == messages.ADVERTS.number:
            return self._on_adverts(frame)
        if frame.kind == messages.SHARES_FOR.number:
            return self._on_shares(frame)
        if frame.kind == messages.SURVIVORS.number:
            return self._on_survivors(frame)
        if frame.kind == messages.CONSENTS.number:
            return self._on_consents(frame)
        return self._on_result(frame)

    def _forget(self) -> None:
        """Drop the secrets of this round: nothing after this point needs them."""
        self._secrets = None
        self._shares = {}
        self._opening = {}
        self._pending = None

    def _send(
        self, kind: Any, header: Any, tail: Buffer = b"", *, claim: bytes | None = None
    ) -> list[Event]:
        """Claim a step and send its message; a repeated claim sends the stored bytes."""
        frame, digest = self._frame(kind, SERVER, header, tail)
        return [Send(SERVER_NAME, self._claim(int(kind.step), claim or digest, frame))]

    # Step 2: adverts come in, shares go out.

    def _on_adverts(self, frame: Frame) -> list[Event]:
        plan, own = self.plan, self._own()
        header = self._header(frame, messages.Adverts)
        neighbours = self._sites(frame, header.neighbours)
        self._check_graph(neighbours)
        self._neighbours = neighbours
        present = self._sites(frame, header.present)
        self._check_adverts_within(present)
        self._check_advert_cohort(present, header.cohort)
        self._check_advert_holders(present)
        size = messages.relayed_advert_size(plan)
        tail = bytes(self._tail(frame, size * len(present)))
        rows = [tail[i * size : (i + 1) * size] for i in range(len(present))]
        cut = messages.ADVERT_SIZE
        self._check_advert_signatures(
            {site: (row[:cut], row[cut:]) for site, row in zip(present, rows, strict=True)}
        )
        adverts = {site: row[:cut] for site, row in zip(present, rows, strict=True)}
        self._check_distinct_keys(adverts, own.mask_key + own.channel_key)
        self._adverts = adverts
        sealed = self._seal_shares(present)
        commitment = masks.commitment(self.contexts.setup, self.index, own.self_seed)
        events = self._send(messages.SHARES, messages.Shares(commitment), sealed)
        self._at = SHARED
        return events

    # Step 3: sealed shares come in, the masked input goes out.

    def _on_shares(self, frame: Frame) -> list[Event]:
        header = self._header(frame, messages.SharesFor)
        present = self._sites(frame, header.present)
        self._check_sharers_within(present)
        self._check_sharer_cohort(present, header.cohort)
        if self.index not in present:
            self._tail(frame, 0)
            return self._late()
        self._check_sharer_holders(present)
        dealers = [site for site in present if site != self.index]
        tail = bytes(self._tail(frame, SEALED_SIZE * len(dealers)))
        self._shares |= self._valid_shares(
            {
                dealer: self._open_shares(dealer, tail[at : at + SEALED_SIZE])
                for dealer, at in zip(dealers, range(0, len(tail), SEALED_SIZE), strict=True)
            }
        )
        self._opening = {}  # those of sites that dealt nothing
        self._u2 = present
        self._at = READY
        try:
            return self._send_pending()
        except BaseException as error:
            if not isinstance(error, MisuseError) or error.rule != CHANGED_RULE:
                self._at = SHARED  # so that the same message may be taken again
            raise

    def _late(self) -> list[Event]:
        error = PeerError(
            "this site's message came too late; it is not in this round's sum",
            rule="late",
            sender=self.name,
        )
        self._end(error)
        return [Dropped(self.name, error)]

    def _make_input(self, array: Any, weight: int, check: Callable[[], None] | None) -> list[Event]:
        plan, own, context = self.plan, self._own(), self.contexts.round
        seeds = iter(range(1 << 32))
        pipeline = self.pipeline
        encoder = pipeline.begin(array, weight, lambda: own.stage_seed(context, next(seeds)))
        keys = [masks.self_mask(own.self_seed, self.index, context)]
        signs = [1]
        for peer in self._u2:
            if peer != self.index:
                keys.append(
                    masks.pair_mask(
                        own.mask_exchange,
                        (self.index, own.mask_key),
                        (peer, self._adverts[peer][:KEY_SIZE]),
                        context,
                        sender=self._name(peer),
                    )
                )
                signs.append(masks.pair_sign(self.index, peer))
        self._enter_input()
        streams = Keystreams(*masks.key_arrays(keys, signs))
        kind, header = messages.INPUT, encode_header(messages.Input())
        buffer, tail = start_frame(
            kind.number, self.index, SERVER, header, ring_size(plan), self._trailer_size
        )
        length, bits = plan.ring_length, plan.wire_bits
        # Threads share the lanes of a tile, so each should find enough of them.
        tile = MASK_TILE * min(self.threads, _MOST_TILES)
        ring = np.empty(min(tile, length), dtype=plan.lane)
        for start in range(0, length, tile):
            part = ring[: length - start]
            try:
                encoder.tile(part, start)
            except ValueError:
                # It was finite when it was checked. The cause could quote it and is not chained.
                raise changed() from None
            streams.add_to(part, start, threads=self.threads)
            bitpack.pack(part, bits, tail, start)
        if check is not None:
            check()
        digest = frame_digest(context, kind.number, self.index, SERVER, header, tail)
        tail.release()
        frame = self._seal_frame(buffer, digest)
        self._claim(int(Step.INPUT), digest, b"")
        self._at = MASKED
        return [Send(SERVER_NAME, frame)]

    # Steps 4 and 5: survivors, consents, reveal.

    def _on_survivors(self, frame: Frame) -> list[Event]:
        plan = self.plan
        header = self._header(frame, messages.Survivors)
        self._tail(frame, 0)
        present = self._sites(frame, header.present)
        self._check_survivors_within(present)
        self._check_survivor_cohort(present, header.cohort)
        if self.index not in present:
            return self._late()
        self._check_survivor_sent()
        self._check_survivor_holders(present)
        self._u3, self._cohort = present, header.cohort
        if plan.fixed_data:
            self._enter_release()
        if not plan.signed:
            return self._reveal()
        digest = self._survivors_digest()
        events = self._send(messages.CONSENT, messages.Consent(digest), claim=digest)
        self._at = CONSENTED
        return events

    def _on_consents(self, frame: Frame) -> list[Event]:
        header = self._header(frame, messages.Consents)
        signers = self._sites(frame, header.signers)
        self._check_consent_count(signers)
        self._check_consent_members(signers)
        tail = bytes(self._tail(frame, SIGNATURE_SIZE * len(signers)))
        self._check_consent_signatures(
            {
                site: tail[i * SIGNATURE_SIZE : (i + 1) * SIGNATURE_SIZE]
                for i, site in enumerate(signers)
            }
        )
        return self._reveal()

    def _reveal(self) -> list[Event]:
        """One share per relation: of the self seed for survivors, of the mask seed for others."""
        survivors = set(self._u3)
        revealed = bytearray()
        missing = []
        for dealer in self._u2:
            shares = self._shares.get(dealer)
            if shares is None:
                missing.append(dealer)
            elif dealer in survivors:
                revealed += shares[:SHARE_SIZE]
            else:
                revealed += shares[SHARE_SIZE:]
        header = messages.Reveal(to_bitmap(missing, self.plan.clients))
        events = self._send(
            messages.REVEAL, header, bytes(revealed), claim=self._survivors_digest()
        )
        self._forget()
        self._at = REVEALED
        return events

    def _on_result(self, frame: Frame) -> list[Event]:
        header = self._header(frame, Result)
        survivors = self._sites(frame, header.survivors)
        self._check_result_survivors(survivors)
        packed = self._tail(frame, result_size(self.plan))
        self._check_result_digest(header, packed)
        self._at = FINISHED
        return self._released(header, survivors, packed)

    # Storage.

    def _state(self) -> dict[str, Any]:
        return {
            "at": self._at,
            "seed": None if self._secrets is None else self._secrets.seed,
            "neighbours": list(self._neighbours),
            "adverts": [[site, keys] for site, keys in self._adverts.items()],
            "u2": list(self._u2),
            "shares": [[site, shares] for site, shares in self._shares.items()],
            "u3": list(self._u3),
            "cohort": self._cohort,
            **self._site_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._at = state["at"]
        if state["seed"] is not None:
            self._secrets = masks.SiteSecrets.derive(state["seed"], self.contexts.setup)
        self._neighbours = tuple(state["neighbours"])
        self._adverts = dict(state["adverts"])
        self._u2 = tuple(state["u2"])
        self._shares = dict(state["shares"])
        self._u3 = tuple(state["u3"])
        self._cohort = state["cohort"]
        self._restore_site(state)
        self._reloaded = True
        self._check_dump_age()
