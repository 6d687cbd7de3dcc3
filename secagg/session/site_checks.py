"""What a site checks in a session, one method a rule (ids, attacks: ``rules.py``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from secagg.api import AnyClient
from secagg_protocols.errors import EquivocationError, MisuseError, PeerError
from secagg_protocols.events import Done, next_parameters
from secagg_protocols.keys import verify
from secagg_protocols.masked_sum.messages import ADVERT, INPUT
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.paillier_sum.messages import ENCRYPTED
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import (
    SERVER,
    SIGNATURE_SIZE,
    Buffer,
    Frame,
    decode_header,
    encode_header,
    frame_digest,
)

from . import messages
from .desk import Desk
from .events import Agreement
from .messages import Agree, Agreed, Order, Slot, agreements_needed


@dataclass(slots=True)
class Answer:
    """The last order, what is left of it to take, and what answers it so far."""

    digest: bytes
    order: Order
    todo: list[tuple[int, Buffer]]
    oldest: int  # round that a dump from before this order may still need
    parts: list[tuple[int, bytes]] = field(default_factory=list)
    kept: list[tuple[int, bytes]] = field(default_factory=list)  # of the answer before
    waits: bool = False  # for the caller's vector
    sent: bool = False

    def dump(self) -> dict[str, Any]:
        """Plain values, without a protected input: it is large, and beside the seeds it would
        tell the vector. Its round waits for the same vector again where the order is repeated."""
        inputs = {INPUT.number, ENCRYPTED.number}
        kept = [[number, data] for number, data in self.parts if data[3] not in inputs]
        again = len(kept) < len(self.parts)
        return {
            "digest": self.digest,
            "order": encode_header(self.order),
            "todo": [[number, bytes(part)] for number, part in self.todo],
            "oldest": self.oldest,
            "parts": kept,
            "kept": [[number, data] for number, data in self.kept],
            "waits": self.waits or again,
            "sent": self.sent and not again,
        }

    @classmethod
    def load(cls, kept: dict[str, Any]) -> Self:
        """Inverse of :meth:`dump`."""
        return cls(
            kept["digest"],
            decode_header(Order, kept["order"]),
            [(number, part) for number, part in kept["todo"]],
            kept["oldest"],
            [(number, data) for number, data in kept["parts"]],
            [(number, data) for number, data in kept["kept"]],
            kept["waits"],
            kept["sent"],
        )

    def lasting(self, order: Order) -> list[tuple[int, bytes]]:
        """What of this answer counts in the next exchange of its round, should it be lost: the
        advert of the next round, and the agreement on the last result."""
        if self.order.slot != Slot.INPUT or self.order.round != order.round:
            return []
        kinds = {ADVERT.number, messages.AGREE.number}
        return [(number, data) for number, data in self.parts if data[3] in kinds]


@dataclass(slots=True)
class Outcome:
    """A result that this site was sent, and whether it said so."""

    round: int
    digest: bytes
    survivors: tuple[int, ...]
    agreed: bool = False


class SiteChecks(Desk):
    """The rules of a site's session, and the state they look at.

    progress: if set, called with (ciphertexts done, all of them) while ``submit`` encrypts.
    """

    progress: Callable[[int, int], None] | None = None
    _at: tuple[int, ...]
    _answer: Answer | None
    _outcome: Outcome | None
    _due: tuple[int, bytes] | None  # a round, and the parameters that it has to have

    # Rules. Ids, texts and attacks: rules.py.

    def _check_order_once(self, order: Order, digest: bytes) -> None:
        if self._answer is not None and order.exchange == self._at[0]:
            raise EquivocationError(
                "the server sent two different orders for one exchange",
                rule="order-once",
                sender=SERVER_NAME,
                digests=(self._answer.digest, digest),
            )

    def _check_order_sequence(self, order: Order) -> None:
        if (order.round, order.slot) <= self._at[1:]:
            raise PeerError(
                "an order asks for an earlier step of the session",
                rule="order-sequence",
                sender=SERVER_NAME,
            )

    def _check_order_clip(self, order: Order) -> None:
        adaptive = self.plan.pipeline.adaptive
        if adaptive is None:
            return
        due = self._due if self._due is not None and self._due[0] == order.round else None
        try:
            clip = adaptive.read(order.parameters)
            wrong = not adaptive.lowest <= clip <= adaptive.highest
            wrong = wrong or (due is not None and not adaptive.same(due[1], order.parameters))
        except MisuseError:
            wrong = True
        if wrong:
            raise self._blame("order-clip", "the round's clip is not what the plan's rule gives")

    def _check_stated_model(self, order: Order, model: Buffer) -> None:
        if hashlib.sha256(model).digest() != order.model:
            raise MisuseError(
                "the model given is not the one whose digest the server stated", rule="stated-model"
            )

    def _check_agreed_count(self, signers: tuple[int, ...]) -> None:
        need = agreements_needed(self.plan)
        if len(signers) != need:
            raise self._blame("agreed-count", f"{len(signers)} agreements, exactly {need} needed")

    def _check_agreed_members(self, signers: tuple[int, ...], outcome: Outcome) -> None:
        if not set(signers) <= set(outcome.survivors):
            raise self._blame("agreed-members", "an agreement comes from outside the survivors")

    def _check_agreed_signatures(self, agreements: dict[int, bytes], outcome: Outcome) -> None:
        header = encode_header(Agree(outcome.round, outcome.digest))
        kind = messages.AGREE
        for site, signature in agreements.items():
            verify(
                self._public(site),
                frame_digest(self._context(kind), kind.number, site, SERVER, header, b""),
                signature,
                rule="agreed-signatures",
                signer=self._name(site),
                sender=SERVER_NAME,
            )

    def _watch(self, client: AnyClient) -> None:
        if isinstance(client, PaillierClient):
            client.progress = self.progress

    def _keep(self, client: AnyClient, done: Done) -> None:
        """What later orders are checked against, of the result that this site was sent."""
        number, aggregate = client.round, done.aggregate
        if self.plan.signed:
            self._outcome = Outcome(number, done.digest, client.survivors)
        if aggregate is not None and self.plan.pipeline.adaptive is not None:
            # For the next round only: whether one was given up after it, a site cannot tell.
            following = next_parameters(self.plan, aggregate, client.contexts.parameters)
            self._due = number + 1, following

    def _blame(self, rule: str, text: str) -> PeerError:
        return PeerError(text, rule=rule, sender=SERVER_NAME)

    def _on_agreed(self, frame: Frame) -> Agreement | None:
        """What the server relays of other sites' agreements, checked against this site's result."""
        header = self._header(frame, Agreed)
        signers = self._sites(frame, header.signers)
        tail = bytes(self._tail(frame, SIGNATURE_SIZE * len(signers)))
        outcome = self._outcome
        if outcome is None or outcome.round != header.round:
            return None  # of a round whose result this site was not sent
        self._check_agreed_count(signers)
        self._check_agreed_members(signers, outcome)
        size = SIGNATURE_SIZE
        self._check_agreed_signatures(
            {site: tail[i * size : (i + 1) * size] for i, site in enumerate(signers)}, outcome
        )
        self._outcome = None
        return Agreement(outcome.round, outcome.digest, self._names(signers))
