"""Exchanges and bytes of a session, counted against formulas and not against themselves.

The formulas are made of the exact frame sizes of one round (``round_cost``) and of the control
frames' headers. Where nobody drops, every site sends and receives exactly that.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from secagg.session import Slot
from secagg.session.messages import Agree, Agreed, Order, Part, Report
from secagg_protocols.masked_sum.costs import round_cost
from secagg_protocols.masked_sum.messages import frame_size
from support.sessions import Exchange, Played, session_plan

THREATS = ("semi-honest", "malicious-server")
SITES = 20
#: An inner frame as its bundle lists it: round and size.
Listed = tuple[int, int]


def played(threat: str, rounds: int, **more: Any) -> Played:
    """A session in which nobody drops."""
    given = {"sites": SITES, "length": 1000, "max_dropouts": 2, "min_honest": 3}
    plan, identities = session_plan(threat, **(given | more))
    session = Played(plan, identities)
    for number in range(rounds):
        assert session.round(b"model %d" % number) is not None
    session.finish()
    return session


class Sizes:
    """Bytes of every frame of one plan."""

    def __init__(self, session: Played) -> None:
        self.plan = plan = session.plan
        self.trailer = bytes(64 if plan.signed else 32)
        self.steps = {step.step: step for step in round_cost(plan).steps}

    def sent(self, step: str) -> int:
        """By a site, in one step of a round."""
        return self.steps[step].site_sends

    def got(self, step: str) -> int:
        """By a site, in answer to one step of a round."""
        return self.steps[step].site_receives

    def order(self, exchange: Exchange, parts: list[Listed]) -> int:
        """A whole order."""
        model = bytes(32) if exchange.slot == Slot.INPUT else b""
        listed = tuple(Part(number, size, self.trailer) for number, size in parts)
        header = Order(exchange.number, int(exchange.slot), exchange.round, model, b"", listed)
        return frame_size(self.plan, header, 0) + sum(size for _, size in parts)

    def report(self, exchange: Exchange, parts: list[Listed]) -> int:
        """A whole report."""
        listed = tuple(Part(number, size, self.trailer) for number, size in parts)
        header = Report(exchange.number, listed)
        return frame_size(self.plan, header, 0) + sum(size for _, size in parts)

    def agree(self, number: int) -> Listed:
        """A site's signature on a result."""
        return number, frame_size(self.plan, Agree(number, bytes(32)), 0)

    def agreed(self, number: int) -> Listed:
        """What the server relays of them."""
        bitmap = bytes((self.plan.clients + 7) // 8)
        tail = 64 * self.plan.protocol.share_threshold
        return number, frame_size(self.plan, Agreed(number, bitmap), tail)

    def parts(self, slot: Slot, r: int, *, last: int | None) -> tuple[list[Listed], list[Listed]]:
        """What an order and its report hold in round ``r``; ``last`` is the round whose result
        was sent last, if any."""
        signed = self.plan.signed
        result = [] if last is None else [(last, self.got("reveal"))]
        agree = [] if last is None or not signed else [self.agree(last)]
        agreed = [] if last is None or not signed else [self.agreed(last)]
        ahead = (r + 1, self.sent("advertise"))
        match slot:
            case Slot.ADVERTISE:
                return result, [*agree, (r, self.sent("advertise"))]
            case Slot.SHARE:
                return [*agreed, (r, self.got("advertise"))], [(r, self.sent("share"))]
            case Slot.INPUT:
                report = [(r, self.sent("input")), *agree, ahead]
                return [*result, (r, self.got("share"))], report
            case Slot.CONSENT:
                return [*agreed, (r, self.got("input"))], [(r, self.sent("consent"))]
            case Slot.REVEAL:
                told = (r, self.got("consent" if signed else "input"))
                adverts = (r + 1, self.got("advertise"))
                return [told, adverts], [(r, self.sent("reveal")), (r + 1, self.sent("share"))]
            case Slot.FINISH:
                return result, agree
            case Slot.CLOSE:
                return agreed, []


def compare(session: Played, exchange: Exchange, *, last: int | None) -> tuple[int, int]:
    """Assert the bytes of one exchange for each site; returns (order, report) of one site."""
    sizes = Sizes(session)
    told, said = sizes.parts(exchange.slot, exchange.round, last=last)
    order, report = sizes.order(exchange, told), sizes.report(exchange, said)
    names = session.plan.roster.names
    everybody = names if told or exchange.slot != Slot.CLOSE else ()
    assert exchange.orders == dict.fromkeys(everybody, order), exchange.slot
    if exchange.slot == Slot.CLOSE:
        assert exchange.reports == {}
        return order, 0
    assert exchange.reports == dict.fromkeys(names, report), exchange.slot
    return order, report


@pytest.mark.parametrize(
    ("threat", "sites_receive"),
    [("semi-honest", True), ("semi-honest", False), ("malicious-server", True)],
)
def test_every_byte_of_a_session_is_accounted_for(threat: str, sites_receive: bool) -> None:
    """Cold round, two steady ones, and the end."""
    session = played(threat, 3, sites_receive=sites_receive)
    consent = [Slot.CONSENT] if threat == "malicious-server" else []
    steady = [Slot.INPUT, *consent, Slot.REVEAL]
    cold = [Slot.ADVERTISE, Slot.SHARE, *steady]
    assert [e.slot for e in session.exchanges] == [
        *cold,
        *steady,
        *steady,
        Slot.FINISH,
        Slot.CLOSE,
    ]
    ends = len(session.exchanges) - 2
    for exchange in session.exchanges[:ends]:
        compare(session, exchange, last=exchange.round - 1 if exchange.round else None)
    for exchange in session.exchanges[ends:]:
        compare(session, exchange, last=2)
    assert [e.number for e in session.exchanges] == [*range(1, len(session.exchanges) + 1)]


@pytest.mark.parametrize(("threat", "steady"), [("semi-honest", 2), ("malicious-server", 3)])
def test_a_steady_round_takes_two_exchanges_and_three_with_consent(
    threat: str, steady: int
) -> None:
    """A cold one takes two more."""
    session = played(threat, 12, sites=4, length=2, max_dropouts=1, min_honest=2)
    taken = [sum(e.round == r and e.slot < Slot.FINISH for e in session.exchanges) for r in (0, 11)]
    assert taken == [steady + 2, steady]
    assert len(session.exchanges) == 2 + 12 * steady + 2


@pytest.mark.parametrize("threat", THREATS)
def test_a_round_begun_cold_again_carries_the_last_result(threat: str) -> None:
    """Two of twenty may drop; where three miss the adverts the next round is cold."""
    plan, identities = session_plan(threat, sites=SITES, length=1000, max_dropouts=2, min_honest=3)
    session = Played(plan, identities)
    assert session.round(b"model 0") is not None
    lost = plan.roster.names[:3]

    def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
        return not (slot == Slot.REVEAL and number == 1 and site in lost), True

    session.reach = reach
    aggregate = session.round(b"model 1")
    assert plan.protocol.share_threshold <= SITES - 3
    assert aggregate is not None
    assert set(aggregate.left) == set(lost)
    before = len(session.exchanges)
    session.reach = lambda *_: (True, True)
    assert session.round(b"model 2") is not None
    cold = session.exchanges[before:]
    assert [e.slot for e in cold][:2] == [Slot.ADVERTISE, Slot.SHARE]
    # Round 2 was prepared and given up, so the cold one is round 3. Those that revealed get the
    # result of round 1 with its first order, and agree on it.
    assert {e.round for e in cold} == {3}
    sizes = Sizes(session)
    for name in plan.roster.names:
        told, said = sizes.parts(Slot.ADVERTISE, 3, last=1)
        if name in lost:
            said = sizes.parts(Slot.ADVERTISE, 3, last=None)[1]
        assert cold[0].orders[name] == sizes.order(cold[0], told)
        assert cold[0].reports[name] == sizes.report(cold[0], said)


@pytest.mark.parametrize("threat", THREATS)
def test_a_session_saves_exchanges_and_costs_only_control_frames(threat: str) -> None:
    """Inner bytes of a steady round are those of a round played alone, agreement apart."""
    session = played(threat, 3)
    sizes = Sizes(session)
    steady = [e for e in session.exchanges if e.round == 1]
    name = session.plan.roster.names[0]
    inner = sum(
        parcel.size - parcel.control for e in steady for parcel in (e.heard[name], e.answered[name])
    )
    agreement = sizes.agree(0)[1] + sizes.agreed(0)[1] if session.plan.signed else 0
    assert inner == round_cost(session.plan).site_total + agreement
    parcels = [parcel for e in steady for parcel in (e.heard[name], e.answered[name])]
    # Prefix, trailer and a header of 50 bytes, and of each part its trailer and 12 bytes more.
    parts = sum(len(parcel.inner) for parcel in parcels)
    most = len(parcels) * (16 + session.trailer + 50) + parts * (session.trailer + 12)
    assert sum(parcel.control for parcel in parcels) <= most


def test_the_formula_notices_a_single_byte() -> None:
    """A control: what ``compare`` asserts is not true of an exchange that is a byte longer."""
    session = played("semi-honest", 1, length=2)
    exchange = session.exchanges[2]
    longer = dataclasses.replace(
        exchange, reports={name: size + 1 for name, size in exchange.reports.items()}
    )
    compare(session, exchange, last=None)
    with pytest.raises(AssertionError):
        compare(session, longer, last=None)
