"""What the server's session tells its caller, and what it keeps for sites that were away."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import secagg
from secagg.session import Aborted, Cold, Finished, ServerSession, Slot
from secagg.session.costs import exchange_bytes, slots
from secagg_protocols.errors import MisuseError
from support.sessions import SERVER, Played, session_plan

THREATS = ["semi-honest", "malicious-server"]


@pytest.mark.parametrize("threat", THREATS)
def test_who_is_silent(threat: str) -> None:
    plan, identities = session_plan(threat)
    played = Played(plan, identities, reach=lambda e, r, slot, site: (site != "site-2", True))
    played.begin(b"m")
    assert played.hub.silent == plan.roster.names
    played.deliver(played.orders)
    assert played.hub.silent == ("site-2",)
    # Whoever comes back from the disk knows it too, and asks only whom it has to.
    played.reload(SERVER)
    assert played.hub.silent == ("site-2",)
    again = {order.to: order.data for order in played.note(SERVER, played.hub.resume())}
    assert again == {order.to: order.data for order in played.orders}


@pytest.mark.parametrize("threat", THREATS)
def test_a_last_round_prepares_no_other(threat: str) -> None:
    plan, identities = session_plan(threat)
    played = Played(plan, identities)
    assert played.round(b"0") is not None
    played.model = b"1"
    played.orders = played.note(SERVER, played.hub.begin_round(b"1", last=True))
    while played.hub.slot is not None:
        events = played.exchange()
    assert [type(event) for event in events] == [Finished]
    assert not played.hub.warm
    (reveal,) = [e for e in played.exchanges if (e.round, e.slot) == (1, Slot.REVEAL)]
    wanted = exchange_bytes(
        plan, Slot.REVEAL, exchange=reveal.number, round=1, result=False, agreed=False, last=True
    )
    assert set(reveal.orders.values()) == {wanted.order}
    assert set(reveal.reports.values()) == {wanted.report}
    # Should one follow all the same, it starts cold, under a number that nobody has heard of.
    before = len(played.exchanges)
    assert played.round(b"2") is not None
    assert [e.slot for e in played.exchanges[before:]] == list(slots(plan, cold=True))
    assert played.hub.round == 3


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("hears", [True, False])
def test_a_result_waits_until_a_site_has_answered(threat: str, hears: bool) -> None:
    away = {Slot.INPUT}
    plan, identities = session_plan(threat)
    played = Played(
        plan,
        identities,
        reach=lambda e, r, slot, site: (
            (hears, False) if r == 1 and site == "site-3" and slot in away else (True, True)
        ),
    )
    assert played.round(b"0") is not None
    assert played.round(b"1") is not None
    # It came with the next order that the site heard, and counts once.
    assert [event.round for event in played.of("site-3", Finished)] == [0]
    assert not [event for event in played.of("site-3", Aborted) if event.round == 0]
    order = next(e for e in played.exchanges if e.round == 1 and e.slot != Slot.INPUT)
    kinds = [part.kind for part in order.heard["site-3"].inner]
    assert 10 in kinds
    others = [part.kind for part in order.heard["site-0"].inner]
    assert 10 not in others


def test_a_result_outlives_an_abort() -> None:
    plan, identities = session_plan()
    played = Played(
        plan, identities, reach=lambda e, r, slot, site: (r != 1 or site != "site-3", True)
    )
    assert played.round(b"0") is not None
    played.begin(b"1")
    played.deliver(played.orders)
    played.note(SERVER, played.hub.abort("no more"))
    assert played.round(b"1") is not None
    assert [event.round for event in played.of("site-3", Finished)] == [0]
    (aborted,) = played.of(SERVER, Aborted)
    assert (aborted.round, aborted.error.rule) == (1, "abort")


def test_why_the_next_round_is_cold_is_said_once() -> None:
    plan, identities = session_plan()
    gone = {"site-2", "site-3"}
    played = Played(
        plan,
        identities,
        # Two are there to the end of round 0, but their adverts of round 1 are lost with it.
        reach=lambda e, r, slot, site: (True, not (slot == Slot.REVEAL and site in gone)),
    )
    done = played.round(b"0")
    assert done is None
    assert not played.of(SERVER, Cold)
    played.reach = lambda e, r, slot, site: (True, True)
    assert played.round(b"0") is not None
    gone.clear()
    played.reach = lambda e, r, slot, site: (True, not (slot == Slot.REVEAL and site == "site-1"))
    assert played.round(b"1") is not None
    # Of four, one is missing: three shares are enough, so the next round is warm.
    assert played.hub.warm
    assert not played.of(SERVER, Cold)


class RefusingJournal(secagg.MemoryJournal):
    """A disk that is full at the chosen claim."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1

    def claim(self, *args: Any, **more: Any) -> bytes:
        if self.left == 0:
            self.left = -1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return super().claim(*args, **more)


@pytest.mark.parametrize(
    ("threat", "at"),
    [("semi-honest", at) for at in range(5)] + [("malicious-server", at) for at in range(7)],
)
def test_a_close_that_was_refused_half_way_is_closed_again(threat: str, at: int) -> None:
    plan, identities = session_plan(threat)
    played = Played(plan, identities)
    journal = played.journals[SERVER] = RefusingJournal()
    played.hub = ServerSession(
        plan, identity=played.keys.get(SERVER), session="played", journal=journal
    )
    assert played.round(b"0") is not None
    played.begin(b"1")
    journal.left = at
    halves = 0
    while played.hub.slot is not None:
        played.deliver(played.orders)
        before = played.hub.exchange
        try:
            events = played.hub.close_exchange()
        except MisuseError as error:
            assert error.rule == "journal-io"
            assert played.hub.exchange == before
            try:
                played.hub.dump()
            except MisuseError as refused:
                # One of the two rounds was closed and the other was not.
                assert refused.rule == "half-closed"
                halves += 1
            events = played.hub.close_exchange()
        played.orders = played.note(SERVER, events)
    second = played.of(SERVER, Finished)[-1]
    assert (second.aggregate.sum == played.expected(second.aggregate.survivors, 1)).all()
    assert played.hub.dump()
    assert journal.left < 0
    # In one exchange: the inputs, the next round's adverts, orders; then reveals and shares. Where
    # the plan signs: the inputs, orders; the consents, adverts, orders; then reveals and shares.
    assert halves == (at in ({1, 3, 4, 6} if plan.signed else {1, 2, 4}))
