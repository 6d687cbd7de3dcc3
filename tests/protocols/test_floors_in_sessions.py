"""A site's list of models reaches every round of its session, and holds nobody else up."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

import secagg
from secagg.attacks.arena import paillier_session_world as paillier
from secagg.attacks.arena.session_world import SERVER, Played, session_plan
from secagg.session import SiteSession, Slot, Wanted
from secagg_protocols.events import Send

KNOWN = (b"first", b"second", b"third")
CRAFTED = (b"a crafted model", b"another one", b"a third one")
LISTED = secagg.Floors(models=tuple(hashlib.sha256(model).hexdigest() for model in KNOWN))
VICTIM = "site-0"


class Careful(Played):
    """Sites that answer without a vector where the model is refused."""

    refused: list[tuple[str, int, str]]

    def ask(self, site: str, data: bytes) -> list[Send]:
        sends, party = [], self.sites[site]
        for event in party.receive(data, sender=SERVER):
            if isinstance(event, Wanted):
                try:
                    vector = self.vector(site, event.round)
                    events = party.submit(vector, model=self.model)
                except secagg.MisuseError as error:
                    self.refused.append((site, event.round, error.rule))
                    events = party.skip()
                sends += self.note(site, events)
            else:
                sends += self.note(site, [event])
        return sends


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
@pytest.mark.parametrize("reload", [False, True], ids=["kept", "reloaded"])
def test_cold_and_warm_rounds_of_a_masked_session(threat: Any, reload: bool) -> None:
    plan, identities = session_plan(threat)
    played = Careful(plan, identities)
    played.refused = []
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
    assert played.refused == [(VICTIM, number, "model-allowed") for number in (0, 3, 4)]
    # The first round was a cold one; the others found their setup made.
    cold = [number for number, found in slots.items() if Slot.ADVERTISE in found]
    assert cold == [0]


def test_rounds_of_a_paillier_session() -> None:
    played = paillier.Played(paillier.session_plan())
    party = played.parties["s0"] = played.fresh("s0", floors=LISTED)
    held: list[str] = []
    real = party.submit

    def submit(x: Any, weight: int = 1, *, model: bytes) -> Any:
        try:
            return real(x, weight, model=model)
        except secagg.MisuseError as error:
            held.append(error.rule)
            return party.skip()

    party.submit = submit
    inside = []
    for model in (KNOWN[0], CRAFTED[0], KNOWN[1]):
        aggregate = played.round(model=model)
        assert aggregate is not None
        inside.append("s0" in aggregate.survivors)
    assert inside == [True, False, True]
    assert held == ["model-allowed"]
