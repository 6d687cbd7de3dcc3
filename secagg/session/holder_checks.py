"""What a holder checks in a session, one method a rule (ids, attacks: ``rules.py``)."""

from __future__ import annotations

from secagg_protocols.errors import EquivocationError, PeerError
from secagg_protocols.roster import SERVER_NAME

from .desk import Desk
from .messages import Order

#: What the server states of a round: its model's digest and its parameters.
Stated = tuple[bytes, bytes]


class HolderChecks(Desk):
    """The rules of a holder's session, and the state they look at."""

    _at: tuple[int, int, int]  # exchange, round, slot of the last order
    _digest: bytes  # of the last order
    _stated: Stated

    def _check_order_once(self, order: Order, digest: bytes) -> None:
        if order.exchange == self._at[0]:
            raise EquivocationError(
                "the server sent two different orders for one exchange",
                rule="order-once",
                sender=SERVER_NAME,
                digests=(self._digest, digest),
            )

    def _check_order_sequence(self, order: Order) -> None:
        if (order.round, order.slot) <= self._at[1:]:
            raise PeerError(
                "an order asks for an earlier step of the session",
                rule="order-sequence",
                sender=SERVER_NAME,
            )

    def _check_one_model(self, stated: Stated) -> None:
        if stated != self._stated:
            raise EquivocationError(
                "the server stated two models, or parameters, for one round",
                rule="one-model",
                sender=SERVER_NAME,
                digests=(self._stated[0], stated[0]),
            )
