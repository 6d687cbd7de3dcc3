"""What a server checks in a Paillier sum, one method a rule (ids and attacks: ``rules.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MisuseError, PeerError
from ..events import Step
from ..hub import ServerParty
from ..kinds import Kind
from ..paillier import opening, threshold
from ..paillier.keys import Words
from . import messages
from .inputs import InputChecks


class ServerChecks(InputChecks, ServerParty):
    """The rules of a server, and the state they look at."""

    def _check_step_order(self, kind: Kind, member: int) -> None:
        fits = not self._done and kind.step == self._step and member not in self._faulty
        if not fits or (kind.number, member) in self._accepted:
            raise PeerError(
                "this message comes early, late, again, or from a party that left",
                rule="step-order",
                sender=self._name(member),
            )

    def _check_opened_product(self, holder: int, stated: bytes, product: bytes) -> None:
        if stated != product:
            raise PeerError(
                "this holder opened something else",
                rule="opened-product",
                sender=self._name(holder),
            )

    def _check_share_proof(
        self, holder: int, rows: Words, share: Words, proof: bytes, context: bytes
    ) -> None:
        threshold.check_partial(
            messages.protocol_of(self.plan).key,
            holder - self.plan.clients + 1,
            rows,
            share,
            proof,
            context=context,
            sender=self._name(holder),
            threads=self.threads,
        )

    def _check_opening_proof(
        self, holder: int, rows: Words, plain: Words, proof: bytes, context: bytes
    ) -> None:
        opening.check_opening(
            messages.protocol_of(self.plan).key,
            rows,
            plain,
            proof,
            context=context,
            sender=self._name(holder),
            threads=self.threads,
        )

    def _check_slot_range(self, unpack: Callable[[], Any], survivors: tuple[int, ...]) -> None:
        try:
            unpack()
        except ValueError as error:
            raise PeerError(
                f"{error}; a survivor sent a vector that the plan does not allow",
                rule="slot-range",
                suspects=self._names(survivors),
            ) from None

    def _check_dump_age(self) -> None:
        """The journal holds every step that the dump has closed, and at most one more."""
        closed: Mapping[Step | None, int] = {None: 0, Step.INPUT: 0, Step.REVEAL: int(Step.INPUT)}
        known = int(Step.REVEAL) if self._done else closed[self._step]
        following = known if self._done else int(self._step or 0)
        newest = self._newest()
        if newest not in {known, following}:
            raise MisuseError(
                f"the journal's last step is {newest}, this dump needs {known} or {following}; "
                "one of them is an older copy",
                rule="dump-age",
            )
