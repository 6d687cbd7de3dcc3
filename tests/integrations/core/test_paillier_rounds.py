"""Paillier sums: holders answer at desks of their own, and any two of three are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from integrations.core.world import SERVER, World, open_reply, open_request, quick

import secagg
from secagg.attacks.arena.paillier_world import people
from secagg.integrations.envelope import pack
from secagg.integrations.site import Contribution
from secagg.session import Slot, Wanted
from secagg_protocols.errors import SecAggError, ThresholdError
from support.paillier_keys import short_keys
from support.paillier_sessions import session_plan, shares_of

__all__ = ["quick", "short_keys"]
pytestmark = pytest.mark.usefixtures("short_keys")
HOLDERS = ("h0", "h1", "h2")
SITE = "s1"
PLANS: dict[str, dict[str, Any]] = {
    "malicious-server": {},
    "semi-honest": {"threat": "semi-honest", "knowledge_proofs": False},
    "one key": {"holders": 1, "threshold": 1},
    "sums stay at the server": {"sites_receive": False},
}


def paillier(path: Path, **options: Any) -> World:
    plan = session_plan(**options)
    _, identities = people(plan.clients, len(plan.roster.holders))
    return World(path, plan, identities, shares=shares_of(plan))


def never(_: Wanted) -> Contribution:
    raise AssertionError("this party was asked to train")


@pytest.mark.parametrize("kind", sorted(PLANS))
def test_rounds_are_two_exchanges_and_exact(tmp_path: Path, kind: str) -> None:
    world = paillier(tmp_path / "p", **PLANS[kind])
    holders = tuple(name for name, _ in world.plan.roster.holders)
    for _ in range(2):
        world.check(world.run())
        first, second = world.rounds.reports[-1].exchanges
        # Inputs are passed on to holders within the exchange of the sites.
        assert (first.slot, second.slot) == ("input", "reveal")
        assert set(first.asked) == {*world.names, *holders}
        assert second.asked == second.answered == holders
    world.rounds.finish(world.transport)
    assert all(call.answer.error is None for call in world.calls)
    for name in holders:
        assert world.desk(name).role == "holder"
    sums = [done.aggregate for call in world.calls for done in call.answer.results]
    assert any(found is not None for found in sums) == world.plan.sites_receive


def test_everybody_is_welcomed_by_name(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    assert world.rounds.parties == (*world.names, *HOLDERS)
    for name in world.rounds.parties:
        reply = world.desk(name).answer(world.rounds.greeting(name), never).reply
        assert world.rounds.welcome(name, reply) == name


@pytest.mark.parametrize("slot", [None, Slot.INPUT, Slot.REVEAL])
def test_a_lost_holder_is_done_without(tmp_path: Path, slot: Slot | None) -> None:
    world = paillier(tmp_path / "p")
    world.reach = lambda name, at: (name != "h1" or slot not in {None, at}, True)
    for number in range(2):
        world.check(world.run())
        second = world.rounds.reports[number].exchanges[1]
        assert second.silent == (("h1",) if slot != Slot.INPUT else ())
    # Back again, it is asked as the others are.
    world.reach = lambda name, at: (True, True)
    world.check(world.run())
    assert world.rounds.reports[-1].exchanges[1].silent == ()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("trains", ["always", "with inputs"])
def test_an_input_that_holders_lack_is_asked_for_again(
    tmp_path: Path, before: int, trains: str
) -> None:
    """What was passed on is lost on its way to two of three holders. Sites that can give their
    vector again repeat their report, and the sum is opened; an adapter that has them train in
    the exchange of inputs alone gets an abort, and the next round works."""
    world = paillier(tmp_path / "p")
    for _ in range(before):
        world.check(world.run())
    lost: list[str] = []

    def transport(requests: Any, slot: Slot) -> Any:
        for name, request in requests.items():
            if slot == Slot.INPUT and name in {"h0", "h1"}:
                lost.append(name)
                continue
            may = trains == "always" or slot == Slot.INPUT
            work = world.train(name) if name in world.names and may else None
            yield name, world.desk(name).answer(request, work).reply

    world.model = b"m"
    if trains == "always":
        found = world.rounds.run(b"m", transport)
        world.number = before
        world.check(found)
    else:
        with pytest.raises(ThresholdError):
            world.rounds.run(b"m", transport)
    assert set(lost) == {"h0", "h1"}
    assert set(world.rounds.reports[-1].exchanges[1].asked) == {*HOLDERS, *world.names}
    world.check(world.run())


def test_too_few_holders_are_an_abort_and_the_next_round_works(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    world.reach = lambda name, slot: (name not in {"h0", "h2"}, True)
    with pytest.raises(ThresholdError):
        world.run()
    report = world.rounds.reports[-1]
    assert report.outcome == "aborted"
    assert set(report.exchanges[-1].silent) == {"h0", "h2"}
    world.reach = lambda name, slot: (True, True)
    world.check(world.run())


def test_a_site_that_is_out_or_away_is_back_at_once(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")

    def fail(_: Wanted) -> Contribution:
        raise ValueError

    world.works[SITE] = fail
    world.check(world.run(), SITE)
    assert world.rounds.reports[-1].exchanges[0].out == (SITE,)
    world.works.clear()
    world.check(world.run())
    world.reach = lambda name, slot: (name != SITE, True)
    world.check(world.run(), SITE)
    world.reach = lambda name, slot: (True, True)
    world.check(world.run())


def test_a_holder_is_never_asked_to_train(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")

    def transport(requests: Any, slot: Slot) -> Any:
        for name, request in requests.items():
            work = never if name in HOLDERS else world.train(name)
            yield name, world.desk(name).answer(request, work).reply

    world.model = b"m"
    found = world.rounds.run(b"m", transport)
    world.number = 0
    world.check(found)


@pytest.mark.parametrize("wrong", ["gone", "another's", "open to others", "garbage"])
def test_a_holder_with_a_wrong_share_opens_nothing(tmp_path: Path, wrong: str) -> None:
    world = paillier(tmp_path / "p")
    path = world.folders["h0"] / "share.key"
    if wrong == "gone":
        path.unlink()
    elif wrong == "another's":
        path.write_bytes((world.folders["h1"] / "share.key").read_bytes())
    elif wrong == "garbage":
        path.write_bytes(b"share")
    else:
        path.chmod(0o644)
    answer = world.desk("h0").answer(world.rounds.greeting("h0"), never)
    with pytest.raises(SecAggError):
        world.rounds.welcome("h0", answer.reply)
    assert answer.error is not None or open_reply(answer.reply).refused
    # Two are left, which is enough.
    world.check(world.run())
    assert open_reply(world.of("h0", Slot.REVEAL)[-1].answer.reply).messages == ()


def test_no_share_is_in_a_reply_a_state_or_a_repr(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    world.run()
    share = (world.folders["h0"] / "share.key").read_bytes()
    secret = share[-64:]
    folder = world.desk("h0").folder
    assert repr(folder.share).find(secret.hex()) < 0
    states = [path.read_bytes() for path in (world.folders["h0"] / "sessions").iterdir()]
    for data in (*states, *(call.answer.reply for call in world.calls if call.name == "h0")):
        assert secret not in data


def test_garbage_at_a_holder_is_answered(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    world.run()
    for slot in (Slot.INPUT, Slot.REVEAL):
        request = open_request(world.of("h0", slot)[-1].request)
        message = request.messages[0]
        for at in range(0, len(message), max(len(message) // 8, 1)):
            for changed in (
                message[:at],
                message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :],
            ):
                fake = msgspec.structs.replace(request, messages=(changed,))
                answer = world.desk("h0").answer(pack(fake), never)
                assert not answer.sent_input
                assert open_reply(answer.reply).session == request.session
    world.check(world.run())
    assert world.rounds.reports[-1].exchanges[1].silent == ()


def test_a_holder_with_a_policy_refuses_another_key(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    policy = world.folders["h0"] / "policy.toml"
    policy.write_text(f'paillier_key = "{"ab" * 32}"\n', encoding="utf-8")
    answer = world.desk("h0").answer(world.rounds.greeting("h0"), never)
    assert open_reply(answer.reply).refused == "floors"
    world.check(world.run())
    assert "h0" in world.rounds.reports[-1].exchanges[1].out


def test_a_holders_state_is_its_folders(tmp_path: Path) -> None:
    """It loses its state in the middle: the others open the sum, and it is back in the next."""
    world = paillier(tmp_path / "p")
    world.run()

    def transport(requests: Any, slot: Slot) -> Any:
        if slot == Slot.REVEAL:
            for path in (world.folders["h2"] / "sessions").iterdir():
                path.unlink()
        return world.transport(requests, slot)

    world.model = b"other"
    found = world.rounds.run(world.model, transport)
    world.number = 1
    world.check(found)
    world.check(world.run())


def test_the_vector_is_checked_at_the_site(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    world.works[SITE] = lambda _: Contribution(np.full(3, 5000), 1, world.model)
    world.check(world.run(), SITE)
    assert isinstance(world.of(SITE, Slot.INPUT)[0].answer.error, SecAggError)


def test_the_server_takes_part_as_nobody_else(tmp_path: Path) -> None:
    world = paillier(tmp_path / "p")
    answer = world.desk(SERVER).answer(world.rounds.greeting("k"), never)
    with pytest.raises(secagg.SecAggError):
        world.rounds.welcome("k", answer.reply)
