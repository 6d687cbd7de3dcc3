"""Colluding holders know at which points the shares of others lie. They must gain nothing by it.

Shares that differ from the dealt ones by a polynomial that is zero at honest holders pass for the
honest ones. If the secret that they shift were taken for the true one, the holders left over, who
told the truth, and the dealer would be the only suspects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from schedules.spec import Spec, people

import secagg
from secagg import Client, Done, Event, MemoryJournal, Send, Step
from secagg_protocols.shamir import LIMBS, PRIME, SHARE_SIZE
from support.network import SERVER, step_of


class Framing(Client):
    """A holder that moves its shares of one dealer's seed onto another polynomial."""

    dealer: int
    friends: Sequence[int]
    limb: int
    amount: int

    def _reveal(self) -> list[Event]:
        pair = self._shares[self.dealer]
        assert pair is not None
        row = np.frombuffer(pair, dtype="<u8").copy()
        start = 0 if self.dealer in self._u3 else SHARE_SIZE // 8
        row[start + self.limb] = (int(row[start + self.limb]) + self.shift()) % PRIME
        self._shares[self.dealer] = row.tobytes()
        return super()._reveal()

    def shift(self) -> int:
        """D(x) with D(0) = ``amount`` and D = 0 at the friends."""
        value = self.amount
        for friend in self.friends:
            value = value * (1 - (self.index + 1) * pow(friend + 1, -1, PRIME)) % PRIME
        return value


SEMI = Spec(7, 2, "semi-honest", 2, 1, 4, 6, False, 1, None, integers=(0, 9))
SIGNED = Spec(9, 2, "malicious-server", 2, 1, 6, 8, False, 1, None, integers=(0, 9))


@pytest.mark.parametrize("spec", [SEMI, SIGNED], ids=lambda spec: spec.threat)
@pytest.mark.parametrize(
    ("limb", "amount"), [(0, 1), (0, 2), (0, 4), (0, -1), (0, 8), (LIMBS - 1, 1 << 46)]
)
@pytest.mark.parametrize("leaves", [True, False], ids=["mask seed", "self seed"])
def test_colluding_holders_cannot_frame_honest_sites(
    spec: Spec, limb: int, amount: int, leaves: bool
) -> None:
    plan, (roster, identities) = spec.plan(), people(spec.clients)
    dealer, cheats = spec.clients - 1, {0, 1}
    rounds = 2  # a carry out of the low bits spoils the trick now and then
    for number in range(rounds):
        common = {"session": "framing", "round": number, "model": b""}
        keys = identities if plan.signed else {}
        hub = secagg.server(plan, identity=keys.get(SERVER), journal=MemoryJournal(), **common)
        clients = {}
        for index, name in enumerate(roster.names):
            kind = Framing if index in cheats else Client
            client = kind(
                plan,
                index,
                identity=keys.get(name),
                floors=None,
                journal=MemoryJournal(),
                **common,
            )
            if isinstance(client, Framing):
                client.dealer, client.limb, client.amount = dealer, limb, amount
                client.friends = range(2, 2 + spec.threshold - 1)
            client.submit(np.array([1, 2]))
            clients[name] = client
        hub.start()
        answers = {name: client.start() for name, client in clients.items()}
        names = {roster.names[i] for i in cheats}
        try:
            while True:
                for name, events in answers.items():
                    for event in events:
                        if not isinstance(event, Send):
                            continue  # the site that left is told that it is late
                        silent = leaves and clients[name].index == dealer
                        if not (silent and step_of(event.data) >= Step.INPUT):
                            hub.receive(event.data, sender=name)
                closed = hub.close_step()
                if isinstance(closed[-1], Done):
                    break
                answers = {
                    event.to: clients[event.to].receive(event.data, sender=SERVER)
                    for event in closed
                    if isinstance(event, Send)
                }
        except secagg.PeerError as error:
            assert names <= set(error.suspects)
        else:
            aggregate = closed[-1].aggregate
            assert aggregate is not None
            count = spec.clients - leaves
            assert aggregate.sum.tolist() == [count, 2 * count]
            assert names & set(aggregate.suspects)
