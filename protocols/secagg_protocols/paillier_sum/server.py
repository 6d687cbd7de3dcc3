"""The server's side of the Paillier sum: multiply, pass on to the holders, and open the sum."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import MisuseError, PeerError, SecAggError
from ..events import Dropped, Event, Ignored, Progress, Send, Step
from ..hub import Message
from ..journal import JOURNAL_IO_RULE
from ..keys import SEED_SIZE
from ..kinds import Kind
from ..paillier import threshold
from ..paillier.keys import Words
from ..plan import Plan
from ..wire import SERVER, Buffer, Frame, to_bitmap
from . import messages
from .product import Product
from .server_checks import ServerChecks


class Server(ServerChecks):
    """The aggregator of one round of a Paillier sum (``protocols/specs/paillier_sum.md``).

    Memory is one vector of ciphertexts, 20 bytes for each ciphertext that came, and the shares of
    the holders once they come: inputs are multiplied as they arrive, passed on and not kept.
    """

    kinds = messages.KINDS

    def __init__(self, plan: Plan, index: int = SERVER, **common: Any) -> None:
        super().__init__(plan, index, **common)
        self._product = Product(plan)
        self._closed = b""  # digest of the product, once the inputs are closed
        self._answers: dict[int, bytes] = {}  # rows of each holder, checked
        self._ring = np.zeros(0, dtype=plan.lane)

    # Contract.

    @property
    def survivors(self) -> tuple[int, ...]:
        """Roster indices of the sites in the sum, once the inputs are closed."""
        return tuple(self._product.sites)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Sites send, then holders answer."""
        return (Step.INPUT, Step.REVEAL)

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)

    def start(self) -> list[Event]:
        """Open the step of the inputs; nothing is sent."""
        self._require_alive()
        if self._step is not None:
            raise MisuseError("this party was started before", rule="start-once")
        self._step = Step.INPUT
        if self.plan.central_noise:
            self._noise_seed = self._entropy(SEED_SIZE)
        self._clock = time.monotonic()
        return []

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take one message of a site or a holder. Never raises for bytes.

        A site's input is multiplied in, and passed on to every holder at once. Authentic bad
        content is its sender's end (``Dropped``); anything else that does not fit is ``Ignored``
        and changes nothing.
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            frame, digest = self._authenticate(data, sender)
        except (PeerError, MisuseError) as error:
            return [Ignored(error)]
        try:
            self._check_equivocation(frame, digest)
            kind = self.kinds[frame.kind]
            try:
                self._check_step_order(kind, frame.sender)
            except PeerError as error:
                open_ = kind is messages.ENCRYPTED and self._step == Step.INPUT
                again = open_ and self._accepted.get((frame.kind, frame.sender)) == digest
                # What was passed on may have been lost with an earlier life of this server.
                return [*(self._passed_on(data) if again else []), Ignored(error)]
            size = memoryview(data).nbytes
            passed_on: list[Event] = []
            if kind is messages.ENCRYPTED:
                self._on_input(frame)
                passed_on = self._passed_on(data)
            else:
                self._on_answer(frame)
        except PeerError as error:
            return self._drop(frame.sender, error)
        self._accepted[frame.kind, frame.sender] = digest
        self._received += size
        self._sent += sum(event.size for event in passed_on if isinstance(event, Send))
        if kind is messages.ENCRYPTED:
            have, need, most = len(self._product.sites), self.plan.min_survivors, self.plan.clients
        else:
            protocol = messages.protocol_of(self.plan)
            have, need, most = len(self._answers), protocol.share_threshold, protocol.holders
        return [*passed_on, Progress(kind.step, have, need, most)]

    def _passed_on(self, data: Buffer) -> list[Event]:
        """A site's message as it is, for every holder."""
        frame = bytes(data)
        return [Send(name, frame) for name, _ in self.plan.roster.holders]

    def _drop(self, site: int, error: SecAggError) -> list[Event]:
        """End a site or a holder. An input that was multiplied in stays in the sum."""
        if site in self._faulty or self._done:
            return [Ignored(error)]
        self._faulty.add(site)
        self._answers.pop(site, None)
        return [Dropped(self._name(site), error)]

    def close_step(self) -> list[Event]:
        """Stop waiting: go on with what arrived.

        Raises :class:`ThresholdError` where too few sites or holders are left, and
        :class:`PeerError` for a sum that no honest sites have; both end the round.
        """
        self._require_alive()
        if self._step is None or self._done:
            raise MisuseError("there is no open step", rule="start-once")
        closing: dict[Step, Callable[[], list[Event]]] = {
            Step.INPUT: self._close_inputs,
            Step.REVEAL: self._close_answers,
        }
        try:
            return closing[self._step]()
        except SecAggError as error:
            if error.rule != JOURNAL_IO_RULE:
                self._end(error)
            raise

    # Inputs.

    def _close_inputs(self) -> list[Event]:
        plan = self.plan
        self._require(Step.INPUT, len(self._product.sites), plan.min_survivors)
        self._closed = self._product.digest(self.contexts.round)
        bitmap = to_bitmap(self._product.sites, plan.clients)
        header = messages.Open(bitmap, self._closed)
        holders = range(plan.clients, plan.clients + len(plan.roster.holders))
        out: list[Message] = [(holder, header, b"") for holder in holders]
        return self._announce(messages.OPEN, out, Step.REVEAL)

    # Answers of the holders.

    def _on_answer(self, frame: Frame) -> None:
        header = self._header(frame, messages.Opened)
        self._check_opened_product(frame.sender, header.product, self._closed)
        size = messages.opened_size(self.plan)
        tail = self._tail(frame, size + messages.answer_proof_size(self.plan))
        answer, proof = bytes(tail[:size]), bytes(tail[size:])
        self._verify(frame.sender, self._rows_of(answer), proof)
        self._answers[frame.sender] = answer

    def _rows_of(self, answer: bytes) -> Words:
        rows = messages.layout_of(self.plan).rows
        return np.frombuffer(answer, "<u8").reshape(rows, -1).astype(np.uint64)

    def _verify(self, holder: int, rows: Words, proof: bytes) -> None:
        if messages.protocol_of(self.plan).key.verification:
            self._check_share_proof(holder, self._product.value(), rows, proof, self._closed)
        else:
            self._check_opening_proof(holder, self._product.value(), rows, proof, self._closed)

    def _close_answers(self) -> list[Event]:
        protocol = messages.protocol_of(self.plan)
        survivors = tuple(self._product.sites)
        if not self._ring.size:
            need = protocol.share_threshold
            self._require(Step.REVEAL, len(self._answers), need, "holders")
            chosen = sorted(self._answers)[:need]
            ring = self._opened_ring(chosen, survivors)
            self._add_central_noise(ring, self._noise_seed)
            self._ring = ring
        # Else the journal's disk failed after the sum was opened, and the caller tries again.
        return self._release(messages.RESULT, self._ring, survivors, ())

    def _opened_ring(self, holders: list[int], survivors: tuple[int, ...]) -> Any:
        """The sum in the ring, from the answers of exactly as many holders as it takes."""
        plan, protocol = self.plan, messages.protocol_of(self.plan)
        layout = messages.layout_of(plan)
        if protocol.key.verification:
            shares = {
                holder - plan.clients + 1: self._rows_of(self._answers[holder])
                for holder in holders
            }
            plain = threshold.combine(protocol.key, shares, threads=self.threads)
        else:
            plain = self._rows_of(self._answers[holders[0]])
        ring = np.zeros(plan.ring_length, dtype=plan.lane)
        self._check_slot_range(lambda: layout.unpack(plain, len(survivors), ring), survivors)
        return ring

    def _departures(self) -> tuple[dict[str, str], dict[str, str]]:
        """Sites that are not in the sum, and survivors that were ended later, with their step."""
        inside = set(self._product.sites)
        absent = set(range(self.plan.clients)) - inside
        dropped, left = (
            dict.fromkeys(self._names(sites), Step.INPUT.label)
            for sites in (absent, inside & self._faulty)
        )
        return dropped, left

    def _forget(self) -> None:
        """Drop what the round needed and nothing after it does."""
        self._answers, self._noise_seed = {}, b""
        self._ring = np.zeros(0, dtype=self.plan.lane)

    # Storage.

    def _state(self) -> dict[str, Any]:
        return {
            **self._hub_state(),
            "product": self._product.state(),
            "closed": self._closed,
            "answers": list(self._answers.items()),
            "ring": self._ring.view(np.uint8).data,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._restore_hub(state)
        self._product = Product.of(self.plan, state["product"])
        self._closed = state["closed"]
        self._answers = dict(state["answers"])
        self._ring = np.frombuffer(state["ring"], dtype=self.plan.lane).copy()
        self._check_dump_age()


__all__ = ["Server"]
