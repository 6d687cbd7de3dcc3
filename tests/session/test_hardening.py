"""What a cheating or unlucky peer could do to the other end, and no longer can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.session import (
    Aborted,
    Agreement,
    Finished,
    ServerSession,
    SiteSession,
    Slot,
    Wanted,
    messages,
)
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import MisuseError, ReleaseError
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.masked_sum import Server
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.wire import to_bitmap
from support.sessions import SERVER, Played, session_plan

THREATS = ["semi-honest", "malicious-server"]


def signed_order(
    played: Played, exchange: int, slot: Slot, number: int, *parts: tuple[int, bytes]
) -> bytes:
    """What the server signs for site-0."""
    table = tuple(messages.Part.of(n, [data], 64) for n, data in parts)
    model = bytes(32) if slot == Slot.INPUT else b""
    header = messages.Order(exchange, int(slot), number, model, b"", table)
    control, _ = played.hub._frame(messages.ORDER, 0, header)
    return control + b"".join(data for _, data in parts)


class TestFixedData:
    """A message that is lost does not end an analysis under a server that follows the protocol."""

    def played(self, reach: Any) -> Played:
        plan, identities = session_plan(
            "malicious-server", sites=10, fixed_data=True, max_dropouts=3, min_honest=2
        )
        assert plan.release_block == 3
        return Played(plan, identities, reach=reach)

    def alive(self, played: Played) -> bool:
        return not [site for site in played.sites.values() if site.ended]

    def test_a_site_that_missed_the_first_sum_stays_out(self) -> None:
        played = self.played(lambda e, r, slot, site: (True, (r, slot, site) != LOST))
        for number in range(3):
            done = played.round(b"%d" % number)
            assert done is not None
            assert done.survivors == played.plan.roster.names[:9]
        assert self.alive(played)

    def test_a_site_that_is_missing_later_is_waited_for(self) -> None:
        lost = {1}
        played = self.played(
            lambda e, r, slot, site: (True, not (r in lost and (slot, site) == LOST[1:]))
        )
        assert played.round(b"0") is not None
        assert played.round(b"1") is None
        (aborted,) = played.of(SERVER, Aborted)
        assert isinstance(aborted.error, ReleaseError)
        assert aborted.error.rule == "fixed-missing"
        # Nobody was told of a set, so the round may be tried again.
        done = played.round(b"1")
        assert done is not None and done.survivors == played.plan.roster.names
        assert self.alive(played)

    def test_enough_may_leave_together_and_do_not_return(self) -> None:
        away: set[str] = set()
        played = self.played(lambda e, r, slot, site: (site not in away, True))
        assert played.round(b"0") is not None
        away |= {"site-1", "site-2", "site-3"}
        done = played.round(b"1")
        assert done is not None and len(done.survivors) == 7
        away.clear()
        for number in (2, 3):
            done = played.round(b"%d" % number)
            assert done is not None and len(done.survivors) == 7
        assert self.alive(played)

    def test_too_few_inputs_shrink_nothing(self) -> None:
        away = {f"site-{i}" for i in range(5)}
        played = self.played(
            lambda e, r, slot, site: (True, not (r == 1 and slot == Slot.INPUT and site in away))
        )
        assert played.round(b"0") is not None
        assert played.round(b"1") is None
        (aborted,) = played.of(SERVER, Aborted)
        assert aborted.error.rule == "enough"
        done = played.round(b"1")
        assert done is not None and done.survivors == played.plan.roster.names
        assert self.alive(played)

    def test_the_server_remembers_over_sessions(self) -> None:
        played = self.played(lambda e, r, slot, site: (True, (r, slot, site) != LOST))
        assert played.round(b"0") is not None
        plan = played.plan
        again = Played(plan, played.keys, session="the next one")
        again.journals = played.journals
        again.hub = ServerSession(
            plan, identity=played.keys[SERVER], session="next", journal=played.journals[SERVER]
        )
        again.sites = {
            name: SiteSession(
                plan,
                name,
                identity=played.keys[name],
                session="next",
                floors=None,
                journal=played.journals[name],
            )
            for name in plan.roster.names
        }
        done = again.round(b"0")
        assert done is not None and done.survivors == plan.roster.names[:9]
        assert self.alive(again)


LOST = (0, Slot.INPUT, "site-9")


@pytest.mark.parametrize("threat", THREATS)
def test_a_dump_from_before_an_order_that_was_never_answered_loads(threat: str) -> None:
    """The site saves before it transmits, and `Wanted` is nothing to transmit."""
    plan, identities = session_plan(threat)
    played = Played(plan, identities)
    assert played.round(b"a") is not None
    saved = played.sites["site-0"].dump()
    played.begin(b"b")
    order = next(order for order in played.orders if order.to == "site-0")
    assert isinstance(played.sites["site-0"].receive(order.data)[-1], Wanted)
    played.hub.abort()
    played.begin(b"c")
    order = next(order for order in played.orders if order.to == "site-0")
    played.sites["site-0"].receive(order.data)
    # It dies before it saves what it would transmit now.
    common = {"identity": played.keys.get("site-0"), "journal": played.journals["site-0"]}
    played.sites["site-0"] = SiteSession.load(saved, plan, **common)
    assert played.sites["site-0"].dump()
    while played.hub.slot is not None:
        played.exchange()
    # Its journal has an advert whose keys are lost, so it sits this round out, and is back.
    done = played.of(SERVER, Finished)[-1]
    assert done.aggregate.survivors == plan.roster.names[1:]
    done = played.round(b"d")
    assert done is not None and done.survivors == plan.roster.names


@pytest.mark.parametrize("slow", [True, False], ids=["slow site", "lost report"])
def test_the_advert_and_the_agreement_outlive_a_late_input(slow: bool) -> None:
    """What came too late with the input comes with the consent."""
    plan, identities = session_plan("malicious-server")
    played = Played(
        plan,
        identities,
        reach=lambda e, r, slot, site: (True, (r, slot, site) != (1, Slot.INPUT, "site-3")),
    )
    assert played.round(b"0") is not None
    asked = played.ask

    def ask(site: str, data: bytes) -> list[Send]:
        if slow and site == "site-3" and (played.hub.round, played.hub.slot) == (1, Slot.INPUT):
            found = played.sites[site].receive(data)
            assert isinstance(found[-1], Wanted)  # it trains, and trains
            return []
        return asked(site, data)

    played.ask = ask  # type: ignore[method-assign]
    done = played.round(b"1")
    assert done is not None and done.survivors == plan.roster.names[:3]
    # Its agreement on round 0 counted, and it is back in the next sum and not the one after.
    assert played.hub._outcome is not None
    done = played.round(b"2")
    assert done is not None and done.survivors == plan.roster.names
    kinds = [
        part.kind
        for exchange in played.exchanges
        if (exchange.round, exchange.slot) == (1, Slot.CONSENT)
        for part in exchange.answered["site-3"].inner
    ]
    assert sorted(kinds) == [inner.ADVERT.number, messages.AGREE.number]


def test_a_site_keeps_nothing_of_a_part_that_no_round_has() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    site = played.sites["site-0"]
    site.receive(signed_order(played, 1, Slot.ADVERTISE, 0))
    before = len(site.dump())
    found = site.receive(signed_order(played, 2, Slot.SHARE, 0, (0, bytes(1_000_000))))
    assert [type(event) for event in found] == [Ignored]
    assert len(site.dump()) < before + 1000


@pytest.mark.parametrize("slot", [Slot.ADVERTISE, Slot.INPUT, Slot.CONSENT], ids=lambda s: s.label)
def test_no_order_of_orders_makes_a_journal_grow(slot: Slot, tmp_path: Path) -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    journal = secagg.FileJournal(tmp_path / "journal")
    site = SiteSession(
        plan,
        "site-0",
        identity=identities["site-0"],
        session="played",
        floors=None,
        journal=journal,
    )
    most = 0
    for count in range(150):
        site.receive(signed_order(played, count + 1, slot, 2 * count))
        most = max(most, len(journal._records))
    assert most <= 6


def test_a_server_of_an_older_dump_says_nothing_in_two_versions() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    assert played.round(b"a") is not None
    played.begin(b"b")
    old = played.hub.dump()
    played.exchange()
    played.deliver(played.orders)  # closed and transmitted, and never saved
    journal = played.journals[SERVER]
    played.hub = ServerSession.load(old, plan, identity=identities[SERVER], journal=journal)
    events = played.note(SERVER, played.hub.close_exchange())
    assert not events  # nobody's input is in the dump, so the round is given up
    refused = 1
    done = None
    while done is None:
        played.model = b"d"
        played.orders = played.note(SERVER, played.hub.begin_round(b"d"))
        while played.hub.slot is not None:
            played.exchange()
        done = next((e.aggregate for e in played.of(SERVER, Finished) if e.round > 1), None)
        refused += 1
        assert refused < 6
    assert done.survivors == plan.roster.names
    assert [e.error.rule for e in played.of(SERVER, Aborted)] == ["enough", "journal-once"]
    assert not [site for site in played.sites.values() if site.ended]


def test_a_second_result_ends_a_site_that_agreed_in_an_earlier_life() -> None:
    plan, identities = session_plan("malicious-server", sites_receive=False)
    played = Played(plan, identities)
    assert played.round(b"a") is not None
    saved = played.sites["site-0"].dump()
    played.begin(b"b")
    order = next(order for order in played.orders if order.to == "site-0")
    played.sites["site-0"].receive(order.data)  # agrees, and dies before it saves
    site = SiteSession.load(
        saved, plan, identity=identities["site-0"], journal=played.journals["site-0"]
    )
    forger = Server(
        plan,
        identity=identities[SERVER],
        session="played",
        round=0,
        model=b"a",
        journal=secagg.MemoryJournal(),
    )
    result, _ = forger._frame(inner.RESULT, 0, inner.Result(bytes(32), to_bitmap(range(4), 4)))
    data = signed_order(played, played.hub.exchange, Slot.ADVERTISE, 5, (0, result))
    with pytest.raises(MisuseError, match="journal-once"):
        site.receive(data)
    assert site.ended is not None
    assert [type(event) for event in site.receive(data)] == [Finished, Ignored]


def test_the_seed_of_a_revealed_round_is_in_no_object() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    played.begin(b"a")
    for _ in range(4):
        played.exchange()
    site = played.sites["site-1"]
    seeds = [client._secrets.seed for client in site._clients.values() if client._secrets]
    (client,) = [client for client in site._clients.values() if client.round == 0]
    held = client._secrets
    assert held is not None and held.seed in seeds
    played.deliver(played.orders)  # consents in, shares out
    assert client._secrets is None
    with pytest.raises(IndexError):
        client._entropy(32)
    assert held.seed not in site.dump()


class Refusing(secagg.MemoryJournal):
    """A disk that refuses what is asked of it, once it is told to."""

    full = False

    def claim(self, *args: Any, **more: Any) -> bytes:
        self.fail()
        return super().claim(*args, **more)

    def read(self, name: bytes) -> bytes:
        self.fail()
        return super().read(name)

    def fail(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")


def test_a_result_is_not_lost_to_a_disk_that_is_full() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    journal = Refusing()
    played.sites["site-0"] = SiteSession(
        plan,
        "site-0",
        identity=identities["site-0"],
        session="played",
        floors=None,
        journal=journal,
    )
    assert played.round(b"a") is not None
    played.begin(b"b")
    site = played.sites["site-0"]
    order = next(order for order in played.orders if order.to == "site-0")
    journal.full = True
    with pytest.raises(MisuseError, match="journal-io"):
        site.receive(order.data)
    # The result was read and not yet handed out: what is saved now would not have it.
    with pytest.raises(MisuseError, match="half-closed"):
        site.dump()
    journal.full = False
    assert [type(event) for event in site.receive(order.data)] == [Finished, Wanted]
    assert site.dump()


def test_a_disk_that_is_full_is_a_typed_error_of_a_membership_too() -> None:
    roster, identities = secagg.Roster.generate(["a", "b", "c"])
    enrolment = secagg.Identity.generate("enrolment")
    signed = secagg.SignedRoster.first(roster, enrolment=enrolment)
    journal = Refusing()
    member = Membership(enrolment.public, identity=identities["a"], journal=journal)
    journal.full = True
    for act in (lambda: member.accept(signed), lambda: member.newest):
        with pytest.raises(MisuseError, match="journal-io"):
            act()
    journal.full = False
    assert member.accept(signed) == roster


class TestArguments:
    @pytest.mark.parametrize("model", [None, "text", 5, memoryview(bytes(8))[::2]])
    def test_a_model_that_is_none(self, model: Any) -> None:
        plan, identities = session_plan("malicious-server")
        played = Played(plan, identities)
        with pytest.raises(MisuseError, match="model"):
            played.hub.begin_round(model)
        played.begin(b"m")
        played.exchange()
        played.exchange()
        site = played.sites["site-0"]
        site.receive(next(o.data for o in played.orders if o.to == "site-0"))
        with pytest.raises(MisuseError, match="model"):
            site.submit(np.zeros(10, dtype=np.int64), model=model)
        assert site.submit(np.zeros(10, dtype=np.int64), model=b"m")

    @pytest.mark.parametrize("view", [np.zeros(0), np.zeros((0, 3)), np.zeros((4, 4))[::2]])
    def test_views_without_bytes_or_in_pieces(self, view: Any) -> None:
        plan, identities = session_plan("malicious-server")
        played = Played(plan, identities)
        for party in (played.hub, played.sites["site-0"]):
            assert [type(e) for e in party.receive(memoryview(view))] == [Ignored]
        client = secagg.client(
            plan,
            "site-0",
            identity=identities["site-0"],
            session="s",
            round=0,
            model=b"",
            floors=None,
            journal=secagg.MemoryJournal(),
        )
        assert [type(e) for e in client.receive(memoryview(view))] == [Ignored]

    @pytest.mark.parametrize("data", [5, "a\nb", "x" * 1000])
    def test_data_that_has_no_name(self, data: Any) -> None:
        plan, identities = session_plan("malicious-server")
        with pytest.raises(MisuseError, match="arguments"):
            SiteSession(
                plan,
                "site-0",
                identity=identities["site-0"],
                session="s",
                floors=None,
                journal=secagg.MemoryJournal(),
                data=data,
            )


def test_a_store_checks_the_roster_too(tmp_path: Path) -> None:
    names = [f"site-{i}" for i in range(4)]
    roster, identities = secagg.Roster.generate(names)
    enrolment = secagg.Identity.generate("enrolment")
    signed = secagg.SignedRoster.first(roster, enrolment=enrolment)
    plan = secagg.Plan.recommend(
        roster,
        length=3,
        stages=(secagg.Integers(0, 9),),
        threat="malicious-server",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
    )
    store = secagg.Store(tmp_path / "a", identities["site-0"])
    book = secagg.FileJournal(tmp_path / "membership")
    member = Membership(enrolment.public, identity=identities["site-0"], journal=book)
    member.accept(signed)
    site = SiteSession(
        plan,
        "site-0",
        identity=identities["site-0"],
        session="s",
        floors=None,
        journal=store.journal,
        membership=member,
    )
    store.save(site)
    assert store.load_site(plan, membership=member).round == -1
    member.accept(signed.change(revoke=["site-3"], enrolment=enrolment))
    with pytest.raises(MisuseError, match="plan-epoch"):
        store.load_site(plan, membership=member)


def test_everybody_goes_through_a_dump_all_the_time() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    for number in range(2):
        played.begin(b"%d" % number)
        while played.hub.slot is not None:
            played.exchange()
            played.reload(SERVER, *plan.roster.names)
    played.finish()
    assert len(played.of(SERVER, Finished)) == 2
    for name in plan.roster.names:
        assert [e.round for e in played.of(name, Finished)] == [0, 1]
        assert [e.round for e in played.of(name, Agreement)] == [0, 1]
        assert not played.of(name, Dropped)
