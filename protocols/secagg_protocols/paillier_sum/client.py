"""The site's side of the Paillier sum: one message, and the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from secagg_native import aes_ctr

from ..errors import MisuseError, PeerError, SecAggError
from ..events import Event, Ignored, Send, Step
from ..keys import SEED_SIZE, hkdf, stage_seed
from ..kinds import Kind
from ..paillier import knowledge
from ..paillier.keys import Words
from ..plan import Plan
from ..result import Result, result_size
from ..roster import SERVER_NAME
from ..site import Input
from ..waiting import changed
from ..wire import SERVER, Buffer, Frame, encode_header, frame_digest, start_frame
from . import messages
from .client_checks import ENCRYPTED, FINISHED, NEW, READY, ClientChecks

#: Ciphertexts that are encoded, packed and encrypted at a time: what bounds a site's memory.
BATCH: Final = 512


class Client(ClientChecks):
    """One site in one round of a Paillier sum (``protocols/specs/paillier_sum.md``).

    progress: if set, called with (ciphertexts done, all of them) while a vector is encrypted.
    """

    kinds = messages.KINDS
    progress: Callable[[int, int], None] | None = None

    def __init__(self, plan: Plan, index: int, **common: Any) -> None:
        super().__init__(plan, index, **common)
        self._at = NEW
        self._seed = b""
        self.survivors: tuple[int, ...] = ()  # as the server announced them with the result

    # Where this party stands, for callers that run several rounds.

    @property
    def started(self) -> bool:
        """Whether the round was begun."""
        return self._at != NEW

    @property
    def awaits_input(self) -> bool:
        """Whether the vector is what is missing."""
        return self._at == READY and self._pending is None

    @property
    def sent_input(self) -> bool:
        """Whether the ciphertexts were sent."""
        return self._at >= ENCRYPTED

    @property
    def _input_at(self) -> Input:
        states = {NEW: Input.EARLY, READY: Input.AWAITED, ENCRYPTED: Input.SENT}
        return states.get(self._at, Input.OVER)

    # Contract.

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)

    def start(self) -> list[Event]:
        """Begin the round. Nothing is to be agreed on: a vector that waits is sent at once.

        Where the journal's disk fails at that, the vector still waits: start again.
        """
        self._require_alive()
        if self._at != NEW and (self._at != READY or self._pending is None):
            raise MisuseError("this party was started before", rule="start-once")
        if self._at == NEW:
            # The seed stays the same in a second attempt, and so do the ciphertexts.
            self._seed = self._entropy(SEED_SIZE)
            self._at = READY
        return self._send_pending()

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take the server's one message, the result.

        Bytes that are not authentic, early or repeated come back as ``Ignored``. Authentic bad
        content raises :class:`PeerError` and ends the party for good.
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            frame, digest = self._authenticate(data, sender)
        except (PeerError, MisuseError) as error:
            return [Ignored(error)]
        try:
            self._check_equivocation(frame, digest)
            try:
                self._check_step_order(frame)
            except PeerError as error:
                return [Ignored(error)]
            events = self._on_result(frame)
        except SecAggError as error:
            self._end(error)
            raise
        self._accepted[frame.kind, frame.sender] = digest
        return events

    def _forget(self) -> None:
        """Drop the secrets of this round: nothing after this point needs them."""
        self._seed = b""
        self._pending = None

    # The input.

    def _make_input(self, array: Any, weight: int, check: Callable[[], None] | None) -> list[Event]:
        plan, context = self.plan, self.contexts.round
        seeds = iter(range(1 << 32))
        encoder = self.pipeline.begin(
            array, weight, lambda: stage_seed(self._seed, context, next(seeds))
        )
        self._enter_input()
        kind, header = messages.ENCRYPTED, encode_header(messages.Encrypted())
        buffer, tail = start_frame(
            kind.number, self.index, SERVER, header, messages.input_size(plan), self._trailer_size
        )
        try:
            self._encrypt(encoder, tail)
            if check is not None:
                check()
            digest = frame_digest(context, kind.number, self.index, SERVER, header, tail)
        finally:
            tail.release()
        frame = self._seal_frame(buffer, digest)
        self._claim(int(Step.INPUT), digest, b"")
        self._at = ENCRYPTED
        return [Send(SERVER_NAME, frame)]

    def _encrypt(self, encoder: Any, tail: memoryview) -> None:
        """Write ciphertexts, and the proof where the plan asks for it, into the tail of a frame."""
        protocol = messages.protocol_of(self.plan)
        key, layout = protocol.key, messages.layout_of(self.plan)
        ciphertexts = np.frombuffer(tail, "<u8", count=2 * key.words * layout.rows)
        rows = ciphertexts.reshape(layout.rows, 2 * key.words)
        # Two vectors never share random factors, whatever was forgotten or rolled back: they
        # would show their difference, and with the masks of two proofs themselves.
        content = hashlib.sha256()
        for _, plain in self._batches(encoder):
            content.update(plain.astype("<u8").tobytes())
        bound = content.digest()
        exponents = self._exponents(bound)
        prover = None
        if protocol.knowledge_proofs:
            prover = knowledge.Prover(
                key,
                layout.rows,
                context=knowledge.site_context(self.contexts.round, self.index),
                threads=self.threads,
                seed=self._derived(b"proof", bound, SEED_SIZE),
            )
        again = hashlib.sha256()
        for start, plain in self._batches(encoder):
            again.update(plain.astype("<u8").tobytes())
            made = key.table.encrypt(exponents(start, len(plain)), plain, threads=self.threads)
            rows[start : start + len(made)] = made
            if prover is not None:
                prover.commit(made)
            self._tell(start + len(made), layout.rows)
        if again.digest() != bound:
            raise changed()
        if prover is not None:
            # The plaintexts are made again: to keep them would double what a site needs.
            for start, plain in self._batches(encoder):
                prover.respond(plain, exponents(start, len(plain)))
            tail[messages.vector_size(self.plan) :] = prover.finish()

    def _batches(self, encoder: Any) -> Iterator[tuple[int, Words]]:
        """(first row, plaintexts) of a batch of rows at a time, the same at each call."""
        plan, layout = self.plan, messages.layout_of(self.plan)
        for start in range(0, layout.rows, BATCH):
            low, high = layout.span(start, min(BATCH, layout.rows - start))
            ring = np.empty(high - low, dtype=plan.lane)
            try:
                encoder.tile(ring, low)
            except ValueError:
                # It was finite when it was checked. The cause could quote it and is not chained.
                raise changed() from None
            yield start, layout.pack(ring, start)

    def _exponents(self, bound: bytes) -> Callable[[int, int], Words]:
        """Random exponents of any rows of this vector, from the site's seed."""
        secret = self._derived(b"exponents", bound, 24)
        stream = aes_ctr.one(secret[:16], secret[16:])
        words = messages.protocol_of(self.plan).key.exponent_words

        def of(start: int, rows: int) -> Words:
            out = np.zeros(rows * words, dtype=np.uint64)
            stream.add_to(out, start * words)
            return out.reshape(rows, words)

        return of

    def _derived(self, label: bytes, bound: bytes, size: int) -> bytes:
        info = b"secagg paillier site secrets v1 " + label + self.contexts.round + bound
        return hkdf(self._seed, info, size)

    def _tell(self, done: int, most: int) -> None:
        if self.progress is not None:
            self.progress(done, most)

    # The result.

    def _on_result(self, frame: Frame) -> list[Event]:
        header = self._header(frame, Result)
        survivors = self._sites(frame, header.survivors)
        packed = self._tail(frame, result_size(self.plan))
        self._check_result_cohort(survivors)
        self._check_result_digest(header, packed)
        self.survivors = survivors
        self._at = FINISHED
        events = self._released(header, survivors, packed)
        self._forget()
        return events

    # Storage.

    def _state(self) -> dict[str, Any]:
        return {"at": self._at, "seed": self._seed, **self._site_state()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._at = state["at"]
        self._seed = state["seed"]
        self._restore_site(state)
        self._reloaded = True
        self._check_dump_age()
