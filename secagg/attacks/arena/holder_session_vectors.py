"""For every rule of a holder's session, the attack that it stops, played live."""

from __future__ import annotations

from typing import Any, Final

import secagg
from secagg.session import HolderSession, Opened, Slot, messages
from secagg_protocols.errors import SecAggError
from secagg_protocols.events import Dropped, Ignored

from .paillier_session_world import SERVER, Played, session_plan
from .played import STRUCTURE, Scenario, need

#: What an attack comes to: ids of rules that answered it, empty where it went through.
Answers = list[str]


class Cheating(Played):
    """A session whose server's frames are made up, with the server's own key."""

    def __init__(
        self, holder: type[HolderSession], plan: secagg.Plan | None = None, **more: Any
    ) -> None:
        super().__init__(plan or session_plan(), classes={"h0": holder, **more})

    def order(
        self, exchange: int, number: int, *parts: bytes, stated: tuple[bytes, bytes] | None = None
    ) -> bytes:
        """An order to h0 that the server signs."""
        model, parameters = stated or (bytes(32), b"")
        table = tuple(messages.Part.of(number, [data], 64) for data in parts)
        header = messages.Order(exchange, int(Slot.REVEAL), number, model, parameters, table)
        control, _ = self.hub._frame(messages.ORDER, self.plan.clients, header)
        return b"".join((control, *parts))

    def answers(self, data: bytes) -> Answers:
        """Rules that h0 names when it is given these bytes."""
        try:
            events = self.parties["h0"].receive(data, sender=SERVER)
        except SecAggError as error:
            need(self.parties["h0"].ended is error)
            return [error.rule]
        self.said += [("h0", event) for event in events]
        return [e.error.rule for e in events if isinstance(e, (Dropped, Ignored))]

    def inputs(self) -> bytes:
        """Play a round up to the order to open, which h0 has not been given."""
        self.begin()
        self.pump()
        self.close()
        return next(data for _, to, data in self.mail if to == "h0")


def two_orders_for_one_exchange(holder: type[HolderSession]) -> Answers:
    """Two orders with one number, for two rounds."""
    played = Cheating(holder)
    need(played.answers(played.order(1, 0)) == [])
    return played.answers(played.order(1, 5))


def the_same_round_again(holder: type[HolderSession]) -> Answers:
    """After its answer a holder is asked to open in the same round once more."""
    played = Cheating(holder)
    order = played.inputs()
    need(played.answers(order) == [])
    contexts = played.hub._current.contexts
    ((number, request),) = messages.read_bundle(order, trailer_size=64)
    stated = contexts.model_hash, contexts.parameters
    found = played.answers(
        played.order(played.hub.exchange + 1, number, bytes(request), stated=stated)
    )
    need(len(played.of("h0", Opened)) == 1)
    # A holder that looks at its product again finds none: it is erased once it is opened.
    return found or [STRUCTURE]


def two_models_for_one_round(holder: type[HolderSession]) -> Answers:
    """The order to open states another model than the inputs did."""
    played = Cheating(holder)
    order = played.inputs()
    ((number, request),) = messages.read_bundle(order, trailer_size=64)
    other = played.order(played.hub.exchange, number, bytes(request), stated=(bytes(32), b""))
    found = played.answers(other)
    # The request is bound to the true model: without the rule it is that one which is opened.
    need(bool(found) != bool(played.of("h0", Opened)))
    return found


ATTACKS: Final[dict[tuple[str, str], Scenario]] = {
    ("holder", "order-once"): two_orders_for_one_exchange,
    ("holder", "order-sequence"): the_same_round_again,
    ("holder", "one-model"): two_models_for_one_round,
}

__all__ = ["ATTACKS", "Cheating"]
