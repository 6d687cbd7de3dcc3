"""Dumps and journals that do not belong together, and disks that are gone."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from session.crash_checks import Transcript, journal_of
from session.crash_parties import SERVER, SESSION, identity
from session.crash_world import MALICIOUS, World, quick_folder

from secagg import EquivocationError, MisuseError
from secagg.session import Aborted, ServerSession, Slot
from secagg.session.messages import Order, Report
from secagg_protocols.events import Dropped, Ignored, Send
from secagg_protocols.journal.book import Book
from secagg_protocols.masked_sum import messages

SITE = "site-1"
INDEX = 1
#: The exchanges of a steady round of a signed plan.
STEADY = [Slot.INPUT, Slot.CONSENT, Slot.REVEAL]


@pytest.fixture
def world() -> Iterator[World]:
    with quick_folder() as folder:
        yield World(Path(folder), MALICIOUS)


def dump_of(world: World, name: str) -> Path:
    return world.folder / name / "session"


def survivors(world: World) -> list[str]:
    return list(world.outcome().get("survivors", []))


def others(world: World) -> list[str]:
    return [name for name in world.names if name != SITE]


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(MisuseError) as caught:
        load()
    return caught.value.rule


def play(world: World, at: tuple[Slot, bool], act: Callable[[], None]) -> None:
    """A round in which ``act`` happens in the exchange of a slot: before the site has its order,
    or when the server has its report."""
    slot, reported = at
    orders = world.hub.orders()
    while orders:
        here = world.hub.session.slot == slot
        # The site comes first, so that what becomes of it is before the others' reports.
        for order in sorted(orders, key=lambda order: order.to != SITE):
            if here and order.to == SITE and not reported:
                act()
            world.ask(order)
            if here and order.to == SITE and reported:
                act()
        orders = world.hub.close()


# A dump and a journal of different ages.


def test_a_dump_that_is_rounds_older_than_the_journal_says_nothing_again(
    world: World,
) -> None:
    world.round()
    old = dump_of(world, SITE).read_bytes()
    world.round()
    world.round()
    dump_of(world, SITE).write_bytes(old)
    # Its rounds are over and forgotten; what is not over, its journal has answered.
    world.sites[SITE] = world.site(SITE)
    assert not world.sites[SITE].session._clients
    world.round()
    assert survivors(world) == others(world)
    world.round()
    assert survivors(world) == list(world.names)
    world.check(one_report=False)


def test_the_servers_older_dump_is_refused_and_a_new_server_is_not_heard(world: World) -> None:
    world.round()
    old = dump_of(world, SERVER).read_bytes()
    world.round()
    dump_of(world, SERVER).write_bytes(old)
    assert refused(lambda: world.hub.store.load_server(world.plan)) == "dump-age"
    anew = ServerSession(
        world.plan, identity=identity(SERVER), session=SESSION, journal=world.hub.store.journal
    )
    # What its former life had said word for word is only said again, and nobody hears it.
    for order in anew.begin_round(b"model 0"):
        assert isinstance(order, Send)
        (answer,) = world.sites[order.to].session.receive(order.data, sender=SERVER)
        assert isinstance(answer, Ignored)
        assert answer.error.rule == "order-late"
    # Anything else it would say in a second version, and does not say.
    anew.abort()
    (aborted,) = anew.begin_round(b"model 0")
    assert isinstance(aborted, Aborted)
    assert aborted.error.rule == "journal-once"
    # After that it goes on where its former life had stopped, and is heard.
    for order in anew.begin_round(b"model 0"):
        assert isinstance(order, Send)
        answers = world.sites[order.to].session.receive(order.data, sender=SERVER)
        assert any(isinstance(event, Send) for event in answers)


@pytest.mark.parametrize("how", ["written back", "copied back", "gone"])
def test_a_dump_that_is_newer_than_the_journal_is_refused(world: World, how: str) -> None:
    path = world.folder / SITE / "journal"
    world.round()
    old = path.read_bytes()
    world.round()
    if how == "written back":
        path.write_bytes(old)
    else:
        path.unlink()
    if how == "copied back":
        path.write_bytes(old)
    rule = refused(lambda: world.site(SITE))
    # Where the platform says nothing of the file, the ages of the two still differ.
    assert rule in ({"dump-age"} if how == "gone" else {"journal-copy", "dump-age"})


# The dump is gone, the journal is there.


@pytest.mark.parametrize("slot", STEADY)
@pytest.mark.parametrize("reported", [False, True], ids=["before", "after"])
def test_a_site_that_lost_its_dump_sits_out_what_it_advertised_for_and_returns(
    world: World, slot: Slot, reported: bool
) -> None:
    world.round()

    def lose() -> None:
        dump_of(world, SITE).unlink()
        world.died(SITE)

    play(world, (slot, reported), lose)
    inside = [survivors(world)]
    for _ in range(3):
        world.round()
        inside.append(survivors(world))
    everybody = list(world.names)
    # Its input counts where it was sent; then it is without a setup for one or two rounds.
    sent = slot != Slot.INPUT or reported
    assert inside[0] == (everybody if sent else others(world))
    assert inside[-1] == everybody
    assert others(world) in inside
    transcript = world.check(one_report=False)
    adverts = {n for s, n, k in transcript.said if (s, k) == (INDEX, messages.ADVERT.number)}
    assert len(adverts) >= 4  # one version of each: the transcript was checked for that


# Everything is gone.


def restored(world: World) -> None:
    shutil.rmtree(world.folder / SITE)
    world.died(SITE)


def test_a_restored_machine_is_caught_where_its_advert_had_arrived(world: World) -> None:
    world.round()
    world.hub.said.clear()
    play(world, (Slot.INPUT, True), lambda: restored(world))
    # The input counts; the second advert for the next round convicts the site.
    assert survivors(world) == list(world.names)
    (dropped,) = [event for event in world.hub.said if isinstance(event, Dropped)]
    assert dropped.site == SITE
    assert isinstance(dropped.error, EquivocationError)
    assert len(set(dropped.error.digests)) == 2
    for _ in range(2):
        world.round()
        assert survivors(world) == others(world)
    assert all(world.sites[name].session.ended is None for name in others(world))
    adverts = Transcript(world.plan, world.log)
    with pytest.raises(AssertionError):
        adverts.check(one_report=False)  # which sees the two versions too


def test_a_restored_machine_returns_where_nothing_contradicts_it(world: World) -> None:
    world.round()
    world.hub.said.clear()
    restored(world)
    inside = []
    for _ in range(2):
        world.round()
        inside.append(survivors(world))
    assert inside == [others(world), list(world.names)]
    assert [event for event in world.hub.said if isinstance(event, Dropped)] == []


# Two lists.


def two_lists(world: World) -> tuple[bytes, bytes, bytes]:
    """A site's dump before the survivors were announced, and two orders with two lists, both
    signed by the server."""
    world.round()
    hub = world.hub
    for order in hub.orders():
        world.ask(order)
        if order.to == "site-2":  # enough for a list without the last one
            twin = ServerSession.load(
                hub.session.dump(),
                world.plan,
                identity=identity(SERVER),
                journal=journal_of(world.journal(SERVER)),
            )
    before = dump_of(world, SITE).read_bytes()

    def order_of(events: list[Any]) -> bytes:
        return next(e.data for e in events if isinstance(e, Send) and e.to == SITE)

    return before, order_of(hub.close()), order_of(twin.close_exchange())


def consents(world: World, reports: list[bytes]) -> list[bytes]:
    transcript = Transcript(world.plan, [])
    return [
        part.data
        for report in reports
        for part in transcript.split(report, Report)[1]
        if part.kind == messages.CONSENT.number
    ]


def answers(world: World) -> list[list[bytes]]:
    """What a site answers to two lists, to the second one from an older dump."""
    before, first, second = two_lists(world)
    assert Transcript(world.plan, []).split(first, Order)[0].slot == Slot.CONSENT
    found = [consents(world, world.sites[SITE].answer(first))]
    dump_of(world, SITE).write_bytes(before)
    world.sites[SITE] = world.site(SITE)
    return [*found, consents(world, world.sites[SITE].answer(second))]


def test_a_second_list_in_one_life_gets_no_second_answer(world: World) -> None:
    _, first, second = two_lists(world)
    assert first != second
    site = world.sites[SITE]
    reports = site.answer(first)
    with contextlib.suppress(EquivocationError):  # it may also end the session
        reports += site.answer(second)
    assert len(set(consents(world, reports))) == 1


def test_a_second_list_to_an_older_dump_gets_no_answer(world: World) -> None:
    first, second = answers(world)
    assert len(first) == 1
    assert second == []
    said = world.sites[SITE].said
    (dropped,) = [event for event in said if isinstance(event, Dropped)]
    assert dropped.error.rule == "journal-once"


def test_without_the_journals_rule_it_would_get_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Book, "_check_journal_once", lambda *_: None)
    first, second = answers(world)
    assert len(first) == len(second) == 1
