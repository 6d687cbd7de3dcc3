"""Roster epochs: joining, leaving, revocation and rotation start a new epoch and a cold round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secagg
from secagg.session import Cold, ServerSession, SiteSession, Slot
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError
from secagg_protocols.signed_roster import SignedRoster
from support.sessions import SERVER, Played

NAMES = tuple(f"site-{i}" for i in range(5))


class World:
    """An enrolment key, its signed rosters, and parties with journals that outlive epochs."""

    def __init__(self) -> None:
        self.enrolment = secagg.Identity.generate("enrolment")
        roster, self.keys = secagg.Roster.generate(NAMES)
        self.signed = SignedRoster.first(roster, enrolment=self.enrolment)
        self.journals = {name: secagg.MemoryJournal() for name in (*NAMES, "site-5", SERVER)}

    def change(self, **changes: Any) -> None:
        self.signed = self.signed.change(enrolment=self.enrolment, **changes)

    def member(self, name: str) -> Membership:
        return Membership(
            self.enrolment.public,
            identity=self.keys[name],
            journal=self.journals[name],
            name=name,
        )

    def plan(self) -> secagg.Plan:
        return secagg.Plan.recommend(
            self.signed.roster,
            length=6,
            stages=(secagg.Integers(0, 100),),
            threat="malicious-server",
            colluding=1,
            max_dropouts=1,
            min_honest=2,
        )

    def play(self, plan: secagg.Plan) -> Played:
        """A session of the newest epoch, every party admitted by its own membership."""
        played = Played(plan, self.keys, session="study")
        names = (*plan.roster.names, SERVER)
        for name in names:
            self.member(name).accept(self.signed)
        played.journals = {name: self.journals[name] for name in names}
        common = {name: self.given(name) for name in names}
        played.hub = ServerSession(plan, **common[SERVER])
        played.sites = {
            name: SiteSession(plan, name, floors=None, **common[name]) for name in plan.roster.names
        }
        return played

    def given(self, name: str) -> dict[str, Any]:
        return {
            "identity": self.keys[name],
            "session": "study",
            "journal": self.journals[name],
            "membership": self.member(name),
        }


def exchanges(played: Played) -> list[Slot]:
    return [exchange.slot for exchange in played.exchanges]


STEADY = [Slot.INPUT, Slot.CONSENT, Slot.REVEAL]


def joins(world: World) -> None:
    world.keys["site-5"] = secagg.Identity.generate("site-5")
    world.change(join={"site-5": world.keys["site-5"].public})


def leaves(world: World) -> None:
    world.change(leave=["site-4"])


def is_revoked(world: World) -> None:
    world.change(revoke=["site-4"])


def rotates(world: World) -> None:
    world.keys["site-1"] = secagg.Identity.generate("site-1")
    world.change(rotate={"site-1": world.keys["site-1"].public})


def rotates_the_server(world: World) -> None:
    world.keys[SERVER] = secagg.Identity.generate(SERVER)
    world.change(server=world.keys[SERVER].public)


@pytest.mark.parametrize("change", [joins, leaves, is_revoked, rotates, rotates_the_server])
def test_a_change_starts_an_epoch_and_a_cold_round(change: Any) -> None:
    world = World()
    plan = world.plan()
    played = world.play(plan)
    for number in range(2):
        assert played.round(b"model %d" % number) is not None
    assert exchanges(played) == [Slot.ADVERTISE, Slot.SHARE, *STEADY, *STEADY]
    old_dump, old_hub = played.sites["site-0"].dump(), played.hub.dump()
    change(world)
    newer = world.plan()
    assert newer.roster.epoch == plan.roster.epoch + 1
    again = world.play(newer)
    done = again.round(b"model 2")
    assert done is not None and done.survivors == newer.roster.names
    assert np.array_equal(done.sum, again.expected(done.survivors, 0))
    assert exchanges(again) == [Slot.ADVERTISE, Slot.SHARE, *STEADY]
    assert not again.of(SERVER, Cold)
    # Nobody goes on in the epoch that is over, with a new session or an old dump.
    site, hub = world.given("site-0"), world.given(SERVER)
    with pytest.raises(MisuseError, match="plan-epoch"):
        SiteSession(plan, "site-0", floors=None, **site)
    del site["session"], hub["session"]
    with pytest.raises(MisuseError, match="plan-epoch"):
        SiteSession.load(old_dump, plan, **site)
    if change is not rotates_the_server:
        with pytest.raises(MisuseError, match="plan-epoch"):
            ServerSession.load(old_hub, plan, **hub)


def test_a_revoked_site_cannot_take_part() -> None:
    world = World()
    before = world.plan()
    gone = world.play(before)
    assert gone.round(b"one") is not None
    world.change(revoke=["site-4"])
    played = world.play(world.plan())
    events = played.note(SERVER, played.hub.begin_round(b"two"))
    assert "site-4" not in {send.to for send in events}
    # What it still sends, under its own key, is bound to the roster that is over.
    old = gone.sites["site-4"]
    gone.begin(b"two")
    for order in gone.orders:
        if order.to == "site-4":
            for report in gone.ask("site-4", order.data):
                found = played.hub.receive(report.data, sender="site-4")
                assert [type(event).__name__ for event in found] == ["Ignored"]
    assert old.round == 1


def test_inputs_per_model_are_counted_over_epochs_and_keys() -> None:
    world = World()
    played = world.play(world.plan())
    assert played.plan.max_inputs_per_model == 2
    assert played.round(b"one model") is not None
    rotates(world)
    played = world.play(world.plan())
    assert played.round(b"one model") is not None
    joins(world)
    played = world.play(world.plan())
    played.begin(b"one model")
    played.exchange()
    played.exchange()
    # The new site may still give its vector; the others gave two, one of them under another key.
    wanted = {order.to: order for order in played.orders}
    for name in world.signed.roster.names:
        site = played.sites[name]
        site.receive(wanted[name].data, sender=SERVER)
        vector = played.vector(name, 0)
        if name == "site-5":
            assert site.submit(vector, model=b"one model")
            continue
        with pytest.raises(MisuseError, match="inputs-per-model"):
            site.submit(vector, model=b"one model")
        assert site.skip()
