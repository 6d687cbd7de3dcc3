"""Bytes on their way: whoever changes them changes nothing, and the right ones still work."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.session import ServerSession, SiteSession, Wanted
from secagg.session.messages import read_bundle
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.events import Dropped, Ignored, Progress, Send
from support.sessions import Played, session_plan

THREATS = ["semi-honest", "malicious-server"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Something near ``data``: bits flipped, cut, grown, a stretch repeated or swapped."""
    way, at = rng.randrange(5), rng.randrange(len(data))
    if way == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if way == 1:
        return data[:at]
    if way == 2:
        return data + rng.randbytes(rng.randrange(1, 40))
    if way == 3:
        return data[:at] + data[at // 2 : at] + data[at:]
    return data[:at] + rng.randbytes(min(8, len(data) - at)) + data[at + 8 :]


class Disturbed(Played):
    """Before each order and each report, changed copies of it arrive."""

    def __init__(self, threat: str, seed: int, copies: int) -> None:
        plan, identities = session_plan(threat)
        super().__init__(plan, identities)
        self.rng = random.Random(seed)
        self.copies = copies
        self.tried = 0

    def ask(self, site: str, data: bytes) -> list[Send]:
        party = self.sites[site]
        for _ in range(self.copies):
            self.tried += 1
            bad = mutated(data, self.rng)
            if bad != data:
                found = party.receive(bad, sender="server")
                # Parts that came whole are taken, so of an order with several, two changed
                # copies may make one. Nothing is answered before all are there.
                if len(read_bundle(data, trailer_size=self.trailer)) < 2:
                    assert not [e for e in found if isinstance(e, (Send, Wanted))]
                    assert any(isinstance(e, Ignored) for e in found)
        return super().ask(site, data)

    def deliver(self, orders: list[Send]) -> None:
        hub, true = self.hub, self.hub.receive

        def receive(data: Any, *, sender: str | None = None) -> Any:
            for _ in range(self.copies):
                self.tried += 1
                bad = mutated(bytes(data), self.rng)
                if bad != data:
                    found = true(bad, sender=sender)
                    kinds = (Ignored, Progress)
                    assert found == [] or all(isinstance(e, kinds) for e in found), found
            return true(data, sender=sender)

        hub.receive = receive  # type: ignore[method-assign]
        try:
            super().deliver(orders)
        finally:
            del hub.receive  # type: ignore[method-assign]


@pytest.mark.parametrize("threat", THREATS)
def test_changed_bytes_change_nothing(threat: str) -> None:
    played = Disturbed(threat, 1, copies=20)
    for number in range(2):
        done = played.round(b"model %d" % number)
        assert done is not None
        assert done.survivors == played.plan.roster.names
        assert (done.sum == played.expected(done.survivors, number)).all()
    played.finish()
    assert played.tried > 1000
    assert not played.of("server", Dropped)


@pytest.mark.slow
@pytest.mark.parametrize("threat", THREATS)
def test_changed_bytes_change_nothing_at_length(threat: str) -> None:
    played = Disturbed(threat, 2, copies=700)
    assert played.round(b"model") is not None
    assert played.tried > 20_000


@pytest.mark.parametrize("threat", THREATS)
def test_bytes_of_another_session_plan_or_party_are_ignored(threat: str) -> None:
    plan, identities = session_plan(threat)
    other_plan, other_identities = session_plan(threat)
    here = Played(plan, identities)
    strangers = [
        Played(plan, identities, session="another"),
        Played(other_plan, other_identities),
    ]
    orders = here.note("server", here.hub.begin_round(b"m"))
    for stranger in strangers:
        for order in stranger.note("server", stranger.hub.begin_round(b"m")):
            assert only_ignored(here.sites[order.to].receive(order.data, sender="server"))
            for report in stranger.ask(order.to, order.data):
                assert only_ignored(here.hub.receive(report.data, sender=order.to))
    first, second = orders[:2]
    assert only_ignored(here.sites[second.to].receive(first.data, sender="server"))
    (report,) = here.ask(first.to, first.data)
    assert only_ignored(here.hub.receive(report.data, sender=second.to))
    assert only_ignored(here.hub.receive(first.data, sender=first.to))
    assert only_ignored(here.sites[first.to].receive(report.data, sender="server"))
    here.deliver(orders)
    assert here.hub.close_exchange()


def only_ignored(events: list[Any]) -> bool:
    return len(events) == 1 and isinstance(events[0], Ignored)


@pytest.mark.parametrize("junk", [b"", b"SA", bytes(100), 7, None, "text", [1], memoryview(b"x")])
def test_what_is_no_bundle_is_ignored(junk: Any) -> None:
    plan, _ = session_plan()
    played = Played(plan, {})
    assert only_ignored(played.hub.receive(junk))
    assert only_ignored(played.sites["site-0"].receive(junk))


def test_the_same_order_gets_the_same_report() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    seen = 0
    asked = played.ask

    def twice(site: str, data: bytes) -> list[Send]:
        nonlocal seen
        first = asked(site, data)
        assert [send.data for send in asked(site, data)] == [send.data for send in first]
        seen += 1
        return first

    played.ask = twice  # type: ignore[method-assign]
    for number in range(3):
        assert played.round(b"%d" % number) is not None
    assert seen > 40


def test_an_older_order_is_ignored() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    old: list[bytes] = []
    asked = played.ask

    def keep(site: str, data: bytes) -> list[Send]:
        if site == "site-1":
            old.append(data)
        return asked(site, data)

    played.ask = keep  # type: ignore[method-assign]
    for number in range(2):
        assert played.round(b"%d" % number) is not None
    site = played.sites["site-1"]
    before = site.dump()
    for data in old[:-1]:
        assert only_ignored(site.receive(data, sender="server"))
    assert site.dump() == before


def test_a_watcher_reads_a_bundle_without_keys() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    orders = played.note("server", played.hub.begin_round(b"m"))
    (report,) = played.ask(orders[0].to, orders[0].data)
    ((number, frame),) = read_bundle(report.data, trailer_size=64)
    assert (number, frame[3]) == (0, 1)


class TestMisuse:
    """Calls out of order and wrong arguments are typed errors that change nothing."""

    def made(self) -> Played:
        plan, identities = session_plan("malicious-server")
        return Played(plan, identities)

    def test_closing_what_is_not_open(self) -> None:
        with pytest.raises(MisuseError, match="no-exchange"):
            self.made().hub.close_exchange()

    def test_a_round_inside_a_round(self) -> None:
        played = self.made()
        played.hub.begin_round(b"m")
        with pytest.raises(MisuseError, match="no-exchange"):
            played.hub.begin_round(b"m")
        with pytest.raises(MisuseError, match="no-exchange"):
            played.hub.finish()
        assert played.hub.exchange == 1

    def test_finishing_what_was_not_begun(self) -> None:
        played = self.made()
        with pytest.raises(MisuseError, match="no-exchange"):
            played.hub.finish()
        assert played.round(b"m") is not None
        played.finish()
        with pytest.raises(MisuseError, match="no-exchange"):
            played.hub.finish()
        # A round may follow, and be finished in turn.
        assert played.round(b"n") is not None
        played.finish()
        assert not [site for site in played.sites.values() if site.ended]

    @pytest.mark.parametrize(
        ("model", "parameters"), [("text", b""), (b"m", "p"), (b"m", bytes(257))]
    )
    def test_a_model_that_is_none(self, model: Any, parameters: Any) -> None:
        played = self.made()
        with pytest.raises(MisuseError, match="model"):
            played.hub.begin_round(model, parameters)
        assert played.hub.begin_round(b"m")

    def test_a_vector_that_nobody_wants(self) -> None:
        site = self.made().sites["site-0"]
        with pytest.raises(MisuseError, match="input-wanted"):
            site.submit([1] * 10, model=b"m")
        with pytest.raises(MisuseError, match="input-wanted"):
            site.skip()

    def test_a_stranger_a_wrong_key_a_plan_that_is_none(self) -> None:
        plan, identities = session_plan("malicious-server")
        given: dict[str, Any] = {"session": "s", "journal": secagg.MemoryJournal()}
        with pytest.raises(MisuseError, match="roster-member"):
            SiteSession(plan, "nobody", identity=identities["site-0"], floors=None, **given)
        with pytest.raises(MisuseError, match="identity"):
            SiteSession(plan, "site-1", identity=identities["site-0"], floors=None, **given)
        with pytest.raises(MisuseError, match="arguments"):
            SiteSession("plan", "site-1", identity=None, floors=None, **given)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="arguments"):
            ServerSession("plan", identity=None, **given)  # type: ignore[arg-type]

    def test_a_dump_of_something_else(self) -> None:
        played = self.made()
        hub, site = played.hub, played.sites["site-0"]
        with pytest.raises(MisuseError, match="dump"):
            SiteSession.load(hub.dump(), played.plan, identity=site.identity, journal=site.journal)
        with pytest.raises(MisuseError, match="dump"):
            ServerSession.load(site.dump(), played.plan, identity=hub.identity, journal=hub.journal)
        with pytest.raises(MisuseError, match="dump"):
            secagg.load(site.dump(), played.plan, site.identity, site.journal)

    def test_a_bad_vector_can_be_followed_by_a_good_one(self) -> None:
        played = self.made()
        events = played.hub.begin_round(b"m")
        for _ in range(2):
            played.deliver(played.note("server", events))
            events = played.hub.close_exchange()
        order = played.note("server", events)[0]
        site = played.sites[order.to]
        (wanted,) = site.receive(order.data)
        assert isinstance(wanted, Wanted)
        good = np.ones(10, dtype=np.int64)
        for bad in (good * 1.5, good * 2000, good[:9], [1] * 10):
            with pytest.raises(SecAggError):
                site.submit(bad, model=b"m")
        with pytest.raises(MisuseError, match="stated-model"):
            site.submit(good, model=b"another")
        assert [type(e) for e in site.submit(good, model=b"m")] == [Send]
