"""A session in which one site has a privacy budget: it sits out what it cannot bear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dp.ledger_world import DELTA

import secagg
from secagg.dp.ledger import Ledger
from secagg.session import SiteSession, Wanted
from secagg_protocols.events import Send
from secagg_protocols.masked_sum import messages
from secagg_protocols.stages.noise import Noise
from support.sessions import SERVER, Played, session_plan

VICTIM = "site-0"
THREATS = ("semi-honest", "malicious-server")


class Limited(Played):
    """A session in which ``site-0`` has a ledger, and skips what that refuses."""

    def __init__(self, threat: str, epsilon: float = 0.45) -> None:
        noise = Noise(law="discrete-gaussian", variance_levels2=1 << 26)
        plan, keys = session_plan(threat, stages=(secagg.Integers(0, 255), noise))
        super().__init__(plan, keys)
        self.refusals: list[int] = []
        self.limit(epsilon)
        self.sites[VICTIM] = self.made()

    def limit(self, epsilon: float) -> None:
        self.ledger = Ledger(self.journals[VICTIM], VICTIM, data="", epsilon=epsilon, delta=DELTA)

    def made(self, **more: Any) -> SiteSession:
        given: dict[str, Any] = {
            "identity": self.keys.get(VICTIM),
            "session": "played",
            "floors": None,
            "journal": self.journals[VICTIM],
            "ledger": self.ledger,
        }
        return SiteSession(self.plan, VICTIM, **(given | more))

    def load(self, dump: bytes | None = None, **more: Any) -> SiteSession:
        """Another life of the site with the ledger."""
        given: dict[str, Any] = {
            "identity": self.keys.get(VICTIM),
            "journal": self.journals[VICTIM],
            "ledger": self.ledger,
        }
        return SiteSession.load(dump or self.sites[VICTIM].dump(), self.plan, **(given | more))

    def ask(self, site: str, data: bytes) -> list[Send]:
        try:
            return super().ask(site, data)
        except secagg.BudgetError as error:
            assert (site, error.rule) == (VICTIM, "budget")
            assert self.sites[site].waits
            self.refusals.append(self.sites[site].round)
            return self.note(site, self.sites[site].skip())

    @property
    def inputs(self) -> list[int]:
        """Rounds in which the site with the ledger sent a masked input."""
        return [
            inner.round
            for exchange in self.exchanges
            if VICTIM in exchange.answered
            for inner in exchange.answered[VICTIM].inner
            if inner.kind == messages.INPUT.number
        ]

    def play(self, number: int) -> set[str]:
        """Survivors of a round."""
        result = self.round(b"model %d" % number)
        assert result is not None
        return set(result.survivors)

    @property
    def charged(self) -> int:
        return sum(rounds for _, rounds in self.ledger.entries())


@pytest.mark.parametrize("threat", THREATS)
def test_a_site_sits_out_what_its_budget_does_not_bear(threat: str) -> None:
    played = Limited(threat)
    everybody = set(played.plan.roster.names)
    borne = played.ledger.rounds_left(played.plan)
    assert 2 <= borne <= 5
    for number in range(borne + 2):
        left = everybody if number < borne else everybody - {VICTIM}
        assert played.play(number) == left
    assert played.refusals == [borne, borne + 1]
    assert played.inputs == list(range(borne))
    assert played.charged == borne
    # It is still in the session, and where its owner allows more it takes part again.
    dump = played.sites[VICTIM].dump()
    played.limit(10.0)
    played.sites[VICTIM] = played.load(dump)
    assert played.play(borne + 2) == everybody
    assert played.inputs[-1] == borne + 2
    played.finish()
    assert all(site.ended is None for site in played.sites.values())


def test_another_session_has_no_new_budget() -> None:
    first = Limited("semi-honest")
    borne = first.ledger.rounds_left(first.plan)
    for number in range(borne):
        first.play(number)
    second = Limited("malicious-server")
    second.journals[VICTIM] = first.journals[VICTIM]
    second.limit(0.45)
    second.sites[VICTIM] = second.made(session="played")
    assert second.play(0) == set(second.plan.roster.names) - {VICTIM}
    assert second.refusals == [0]
    assert second.inputs == []


def waiting(played: Limited, number: int = 0) -> bytes:
    """Play until the site with the ledger is asked for its vector; the order that asks."""
    played.begin(b"model %d" % number)
    while True:
        order = next(o.data for o in played.orders if o.to == VICTIM)
        if played.hub.slot is not None and played.hub.slot.name == "INPUT":
            return order
        played.exchange()


class Death(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("dies", ["swap", "claim"])
def test_a_death_between_the_charge_and_the_report_is_charged_once(
    threat: str, dies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Limited(threat)
    order = waiting(played)
    [wanted] = played.sites[VICTIM].receive(order, sender=SERVER)
    assert isinstance(wanted, Wanted)
    dump, vector = played.sites[VICTIM].dump(), played.vector(VICTIM, 0)
    true = getattr(secagg.MemoryJournal, dies)

    def last(journal: Any, name: bytes, *args: Any, **kwargs: Any) -> Any:
        if dies == "swap":
            true(journal, name, *args, **kwargs)
            if name != played.ledger._register:
                return None
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(secagg.MemoryJournal, dies, last)
        with pytest.raises(Death):
            played.sites[VICTIM].submit(vector, model=played.model)
    assert played.charged == 1
    played.sites[VICTIM] = played.load(dump)
    # The same order again asks for the same vector, and the round has its sum.
    while played.hub.slot is not None:
        played.exchange()
    assert played.inputs == [0]
    assert played.charged == 1


def test_a_session_that_had_a_ledger_does_not_go_on_without() -> None:
    played = Limited("semi-honest")
    played.play(0)
    with pytest.raises(secagg.MisuseError) as caught:
        played.load(ledger=None)
    assert caught.value.rule == "ledger"
    other = Ledger(played.journals["site-1"], VICTIM, data="", epsilon=1.0, delta=DELTA)
    for make in (played.load, played.made):
        with pytest.raises(secagg.MisuseError) as caught:
            make(ledger=other)
        assert caught.value.rule == "ledger-owner"


def test_a_store_loads_a_session_with_the_ledger_in_its_journal(tmp_path: Path) -> None:
    plan, keys = session_plan(
        "malicious-server",
        stages=(
            secagg.Integers(0, 255),
            Noise(law="discrete-gaussian", variance_levels2=1 << 26),
        ),
    )

    def life() -> tuple[secagg.Store, Ledger]:
        store = secagg.Store(tmp_path, keys[VICTIM])
        return store, Ledger(store.journal, VICTIM, data="trial 7", epsilon=1.0, delta=DELTA)

    store, kept = life()
    session = SiteSession(
        plan,
        VICTIM,
        identity=keys[VICTIM],
        session="s",
        floors=None,
        journal=store.journal,
        data="trial 7",
        ledger=kept,
    )
    kept.charge(plan, bytes(32))
    store.save(session)
    store, again = life()
    assert again.spent() == kept.spent() > 0
    assert store.load_site(plan, ledger=again).ledger is again
    for wrong, rule in ((None, "ledger"), (kept, "ledger-owner")):
        with pytest.raises(secagg.MisuseError) as caught:
            store.load_site(plan, ledger=wrong)
        assert caught.value.rule == rule
