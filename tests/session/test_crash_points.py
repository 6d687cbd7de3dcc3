"""A round in which one party dies, or its disk fails, at each of its system calls in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from session.crash_parties import SERVER, identity
from session.crash_world import HONEST, MALICIOUS, SITES, World, quick_folder

from secagg import MisuseError
from secagg.session import Slot, Store


@pytest.fixture
def world(threat: str) -> Iterator[World]:
    with quick_folder() as folder:
        yield World(Path(folder), threat)


def all_points(world: World, victim: str, *, cold: bool, fails: bool = False) -> int:
    """Play rounds, each with its danger at the next call of ``victim``, until it makes no more.

    Returns the number of its calls. Each of the rounds has its sum, with all sites in it.
    """
    if not cold:
        world.round()
    k = 0
    while True:
        k += 1
        assert k < 500  # or a round grows with those before it
        if cold:
            world.abort()
        for life in (*world.sites.values(), world.hub):
            life.said.clear()
        assert world.hub.session.warm is not cold
        world.endanger(victim, k, fails=fails)
        world.round()
        world.check_round()
        world.check_said()
        if world.left > 0:
            world.endanger("", 0)
            world.round()
            return k - 1


def cases(fast: set[tuple[str, str, bool]], victims: dict[str, list[str]]) -> list[Any]:
    """Plan, victim, and whether the round is a cold one; all but ``fast`` take their time."""
    every = [
        (threat, v, cold) for threat in victims for v in victims[threat] for cold in (False, True)
    ]
    return [
        pytest.param(
            *case,
            id=f"{case[0]}-{case[1]}-{'cold' if case[2] else 'steady'}",
            marks=() if case in fast else pytest.mark.slow,
        )
        for case in every
    ]


SOME = ["site-1", SERVER]
ALL = [*(f"site-{i}" for i in range(SITES)), SERVER]
DEATHS = cases({(HONEST, "site-1", False)}, {MALICIOUS: ALL, HONEST: SOME})
ERRORS = cases({(HONEST, SERVER, False)}, {MALICIOUS: SOME, HONEST: [SERVER]})


@pytest.mark.parametrize(("threat", "victim", "cold"), DEATHS)
def test_death_at_every_call_costs_no_round(world: World, victim: str, cold: bool) -> None:
    points = all_points(world, victim, cold=cold)
    assert world.deaths == points >= 60
    transcript = world.check()
    cold_rounds = {o.round for o in transcript.orders.values() if o.slot == Slot.ADVERTISE}
    assert len(cold_rounds) == (points + 2 if cold else 1)


@pytest.mark.parametrize(("threat", "victim", "cold"), ERRORS)
def test_an_error_of_the_disk_at_every_call_is_told_and_the_same_call_again_goes_on(
    world: World, victim: str, cold: bool
) -> None:
    points = all_points(world, victim, cold=cold, fails=True)
    assert world.faults == points >= 30
    # What is done without (notes beside the file, a shorter file) fails unseen.
    assert points * 0.5 <= world.retries <= points
    world.check()


@pytest.mark.parametrize(("threat", "victim", "cold"), ERRORS)
def test_saved_after_an_error_of_the_disk_and_killed(world: World, victim: str, cold: bool) -> None:
    """The dump is one of a call that was not completed, or the one before where there is none."""
    world.then_dies = True
    points = all_points(world, victim, cold=cold, fails=True)
    assert world.retries >= 0.5 * points
    assert world.unsaved or victim != SERVER
    world.check()


@pytest.mark.parametrize("threat", [HONEST])
@pytest.mark.parametrize("victim", SOME)
def test_an_error_of_the_disk_while_a_session_is_loaded(world: World, victim: str) -> None:
    world.round()
    errors = k = 0
    while True:
        k += 1
        world.endanger(victim, k, fails=True)
        try:
            with world.danger(victim):
                store = Store(world.folder / victim, identity(victim))
                assert store.saved
                load = store.load_server if victim == SERVER else store.load_site
                load(world.plan)
        except MisuseError as error:
            assert error.rule in {"journal-io", "store"}
            errors += 1
        if world.left > 0:
            break
    assert errors >= 8
    world.died(victim)
    world.round()
    world.check_round()
    world.check()
