"""A site's list of models reaches every round of its session, and holds nobody else up."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

import secagg
from secagg.attacks.arena import paillier_session_world as paillier
from secagg.attacks.arena.session_world import SERVER, Played, session_plan
from secagg.session import SiteSession, Slot, Wanted
from secagg_protocols.events import Dropped, Send

KNOWN = (b"first", b"second", b"third")
CRAFTED = (b"a crafted model", b"another one", b"a third one")
LISTED = secagg.Floors(models=tuple(hashlib.sha256(model).hexdigest() for model in KNOWN))
VICTIM = "site-0"


class Careful(Played):
    """Keeps which models a site was asked to train on."""

    asked: list[bytes]

    def ask(self, site: str, data: bytes) -> list[Send]:
        sends, party = [], self.sites[site]
        for event in party.receive(data, sender=SERVER):
            if isinstance(event, Wanted):
                if site == VICTIM:
                    self.asked.append(event.model)
                vector = self.vector(site, event.round)
                sends += self.note(site, party.submit(vector, model=self.model))
            else:
                sends += self.note(site, [event])
        if site == VICTIM and party.ended is None and sends:
            # The same order again: the same report, and still no question.
            again = party.receive(data, sender=SERVER)
            assert [bytes(e.data) for e in again if isinstance(e, Send)] == [
                bytes(e.data) for e in sends
            ]
            assert not any(isinstance(event, (Wanted, Dropped)) for event in again)
        return sends


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
@pytest.mark.parametrize("reload", [False, True], ids=["kept", "reloaded"])
def test_cold_and_warm_rounds_of_a_masked_session(threat: Any, reload: bool) -> None:
    plan, identities = session_plan(threat)
    played = Careful(plan, identities)
    played.asked = []
    played.sites[VICTIM] = SiteSession(
        plan,
        VICTIM,
        identity=played.keys.get(VICTIM),
        session="played",
        floors=LISTED,
        journal=played.journals[VICTIM],
    )
    survivors, slots = {}, {}
    models = [CRAFTED[0], *KNOWN[:2], *CRAFTED[1:], KNOWN[2]]
    for number, model in enumerate(models):
        before = len(played.exchanges)
        aggregate = played.round(model)
        assert aggregate is not None
        assert (aggregate.sum == played.expected(aggregate.survivors, number)).all()
        survivors[number] = VICTIM in aggregate.survivors
        slots[number] = {exchange.slot for exchange in played.exchanges[before:]}
        if reload:
            played.reload(VICTIM)
    assert survivors == {0: False, 1: True, 2: True, 3: False, 4: False, 5: True}
    # Nobody trains on a model that is refused: the session does not even ask.
    assert played.asked == [hashlib.sha256(model).digest() for model in KNOWN]
    dropped = played.of(VICTIM, Dropped)
    assert [each.error.rule for each in dropped] == ["model-allowed"] * 3
    # The first round was a cold one; the others found their setup made.
    cold = [number for number, found in slots.items() if Slot.ADVERTISE in found]
    assert cold == [0]


def test_rounds_of_a_paillier_session() -> None:
    played = paillier.Played(paillier.session_plan())
    party = played.parties["s0"] = played.fresh("s0", floors=LISTED)
    trained: list[bytes] = []
    real = party.submit

    def submit(x: Any, weight: int = 1, *, model: bytes) -> Any:
        trained.append(model)
        return real(x, weight, model=model)

    party.submit = submit
    inside = []
    for model in (KNOWN[0], CRAFTED[0], KNOWN[1]):
        aggregate = played.round(model=model)
        assert aggregate is not None
        inside.append("s0" in aggregate.survivors)
    assert inside == [True, False, True]
    assert trained == [KNOWN[0], KNOWN[1]]
    assert [each.error.rule for each in played.of("s0", Dropped)] == ["model-allowed"]


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_a_question_that_is_open_is_withdrawn_where_the_list_got_shorter(threat: Any) -> None:
    plan, identities = session_plan(threat)
    played = Played(plan, identities)
    orders: list[bytes] = []
    real = played.ask

    def ask(site: str, data: bytes) -> list[Send]:
        party = played.sites[site]
        if site == VICTIM:
            events = party.receive(data, sender=SERVER)
            if any(isinstance(event, Wanted) for event in events) and not orders:
                orders.append(data)
                played.sites[VICTIM] = SiteSession.load(
                    party.dump(),
                    plan,
                    identity=played.keys.get(VICTIM),
                    journal=played.journals[VICTIM],
                    floors=LISTED,
                )
        return real(site, data)

    played.ask = ask  # type: ignore[method-assign]
    aggregate = played.round(CRAFTED[0])
    assert aggregate is not None
    assert orders
    assert VICTIM not in aggregate.survivors
    assert [each.error.rule for each in played.of(VICTIM, Dropped)] == ["model-allowed"]
