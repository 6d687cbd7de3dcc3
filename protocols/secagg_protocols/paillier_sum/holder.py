"""The side of a holder of decryption shares: recompute the product, and help to open it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..errors import EquivocationError, MisuseError, PeerError, SecAggError
from ..events import Done, Event, Ignored, Progress, Send, Step
from ..floors import Floors
from ..journal import JOURNAL_IO_RULE
from ..keys import digest_of
from ..kinds import Kind
from ..paillier import KeyShare, PrivateKey, opening, threshold
from ..plan import Plan
from ..roster import SERVER_NAME
from ..wire import SERVER, Buffer, Frame
from . import messages
from .holder_checks import HolderChecks
from .product import Product


class Holder(HolderChecks):
    """One holder in one round of a Paillier sum (``protocols/specs/paillier_sum.md``).

    It multiplies what the sites signed, and answers for that product once. It sees no sum, unless
    one holder is enough to open one. Memory is one vector of ciphertexts, and 20 bytes for each
    ciphertext that came.

    progress: if set, called with (ciphertexts done, all of them) while the answer is computed.
    """

    role = "holder"
    kinds = messages.KINDS
    progress: Callable[[int, int], None] | None = None

    def __init__(
        self,
        plan: Plan,
        index: int,
        *,
        share: KeyShare | PrivateKey,
        floors: Floors | None,
        **common: Any,
    ) -> None:
        super().__init__(plan, index, **common)
        if floors is not None and not isinstance(floors, Floors):
            raise MisuseError("floors are Floors (Floors.load reads them)", rule="floors")
        self.floors = floors
        self.share = share
        self._require_floors()
        self._check_own_share()
        self._product = Product(plan)
        self._opened = False

    def _require_floors(self) -> None:
        self._check_floors()

    # Where this party stands, for callers that run several rounds.

    @property
    def given(self) -> tuple[int, ...]:
        """Roster indices of the sites whose inputs it has multiplied."""
        return tuple(self._product.sites)

    def named(self, request: Buffer) -> tuple[int, ...]:
        """Sites that the server's request wants opened; :class:`PeerError` if it is not one."""
        frame, _ = self._authenticate(request, SERVER_NAME)
        return self._sites(frame, self._header(frame, messages.Open).survivors)

    # Contract.

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)

    def _takes(self, kind: Kind) -> bool:
        # Sites address the server, which passes their messages on as they are.
        return kind in {messages.ENCRYPTED, messages.OPEN}

    def _addressee(self, kind: Kind) -> int:
        return SERVER if kind is messages.ENCRYPTED else self.index

    def _carrier(self, frame: Frame) -> str:
        return SERVER_NAME

    def start(self) -> list[Event]:
        """Nothing to say: a holder answers."""
        self._require_alive()
        return []

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take a site's input that the server passed on, or the server's request to open.

        Bytes that are not authentic, late or repeated come back as ``Ignored``. Authentic bad
        content raises :class:`PeerError` and ends the party for good, and so does a second product
        in one round: :class:`MisuseError` (``journal-once``).
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            frame, digest = self._authenticate(data, sender)
        except (PeerError, MisuseError) as error:
            return [Ignored(error)]
        try:
            events: list[Event]
            passed_on = frame.kind == messages.ENCRYPTED.number
            try:
                self._check_equivocation(frame, digest)
                self._check_step_order(frame)
            except PeerError as error:
                # A site that says two things is no reason to end a holder: the first counts, and
                # a server that passed on the other elsewhere is found by its product.
                if isinstance(error, EquivocationError) and not passed_on:
                    raise
                return [Ignored(error)]
            if passed_on:
                self._on_input(frame)
                have = len(self._product.sites)
                events = [Progress(Step.INPUT, have, self.plan.min_survivors, self.plan.clients)]
            else:
                header, survivors = self._request(frame)
                try:
                    self._check_given(survivors)
                except PeerError as error:
                    # An input may have been lost on its way here: it can still come, and the
                    # request again.
                    return [Ignored(error)]
                events = self._on_open(header)
        except SecAggError as error:
            if error.rule != JOURNAL_IO_RULE:
                self._end(error)
            raise
        self._accepted[frame.kind, frame.sender] = digest
        return events

    def _request(self, frame: Frame) -> tuple[messages.Open, tuple[int, ...]]:
        """What the server asks for, and the sites that it names."""
        header = self._header(frame, messages.Open)
        self._tail(frame, 0)
        survivors = self._sites(frame, header.survivors)
        self._check_cohort(survivors)
        return header, survivors

    def _on_open(self, header: messages.Open) -> list[Event]:
        product = self._product.digest(self.contexts.round)
        self._check_product(header.product, product)
        # One product in the life of this setup, whatever the model: the journal's key knows none.
        claim = digest_of(b"secagg paillier opening claim v1", self.contexts.round, product)
        self._claim(int(Step.REVEAL), claim, b"")
        rows, proof = self._answer(product)
        tail = rows.astype("<u8").tobytes() + proof
        answer, digest = self._frame(messages.OPENED, SERVER, messages.Opened(product), tail)
        self._opened = True
        self._forget()
        return [Send(SERVER_NAME, answer), Done(None, digest)]

    def _answer(self, product: bytes) -> tuple[Any, bytes]:
        """Share of the decryption, or the plaintexts, of every row, and the proof.

        Both follow from the product alone, so an answer that was lost is the same when it is
        asked for again.
        """
        rows = self._product.value()
        if isinstance(self.share, PrivateKey):
            return opening.open_rows(self.share, rows, context=product, threads=self.threads)

        def tell(done: int) -> None:
            if self.progress is not None:
                self.progress(done, len(rows))

        return threshold.partial(
            self.share, rows, context=product, threads=self.threads, progress=tell
        )

    def _forget(self) -> None:
        """Drop the ciphertexts."""
        self._product = Product(self.plan)

    # Storage. The share is no part of a dump, as an identity is not.

    def _state(self) -> dict[str, Any]:
        return {
            "product": self._product.state(),
            "opened": self._opened,
            "floors": None if self.floors is None else asdict(self.floors),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._product = Product.of(self.plan, state["product"])
        self._opened = state["opened"]
        if self.floors is None and state["floors"] is not None:
            self.floors = Floors(**state["floors"])
            self._require_floors()
        self._check_dump_age()
