"""A party's desk: it answers whatever it is sent, and says nothing of the site's data."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integrations.core.world import (
    HELD,
    OPEN_POLICY,
    SERVER,
    World,
    open_reply,
    open_request,
    quick,
    small,
)

import secagg
from secagg.integrations.envelope import pack
from secagg.integrations.folder import MOST_SESSIONS, PartyFolder
from secagg.integrations.site import Answer, Contribution, SiteDesk, Withheld
from secagg.session import ServerSession, SiteSession, Slot, Wanted
from secagg_protocols.errors import MisuseError, PeerError, SecAggError
from secagg_protocols.events import Send
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.stages.noise import Noise

__all__ = ["quick"]
SITE = "site-1"
SECRET = "patient 4711 is HIV positive"  # noqa: S105 - what an exception might say
THREATS = ("semi-honest", "malicious-server")


def fail(_: Wanted) -> Contribution:
    raise ValueError(SECRET)


def never(_: Wanted) -> Contribution:
    raise AssertionError("this site was asked to train")


def rule_of(answer: Answer) -> str | None:
    return answer.error.rule if isinstance(answer.error, SecAggError) else None


# Bytes of the server.

SLOTS = (Slot.ADVERTISE, Slot.SHARE, Slot.INPUT, Slot.CONSENT, Slot.REVEAL, Slot.FINISH, Slot.CLOSE)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A session that was played to its end, with all its requests."""
    world = small(tmp_path_factory.mktemp("played") / "p", "malicious-server")
    world.run()
    world.run()
    world.rounds.finish(world.transport)
    assert {call.slot for call in world.calls} == set(SLOTS)
    return world


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=100))
def test_any_bytes_are_answered(played: World, data: bytes) -> None:
    answer = played.desk(SITE).answer(data, never)
    assert open_reply(answer.reply).refused == "out"
    assert open_reply(answer.reply).messages == ()
    assert answer.error is not None
    assert not answer.sent_input


@pytest.mark.parametrize("data", [None, "x", 3, [], object()])
def test_what_is_no_bytes_is_answered(played: World, data: Any) -> None:
    assert open_reply(played.desk(SITE).answer(data, never).reply).refused == "out"


def change(data: bytes, how: int, at: int, byte: int) -> bytes:
    """Bytes with one byte changed, cut off there, without it, or with one more."""
    at %= max(len(data), 1)
    return (
        data[:at] + bytes([byte]) + data[at + 1 :],
        data[:at],
        data[:at] + data[at + 1 :],
        data[:at] + bytes([byte]) + data[at:],
    )[how]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_changed_request_is_answered(played: World, data: st.DataObject) -> None:
    """Of each exchange: the envelope, or a message in it, changed anywhere; or a field of it."""
    slot = data.draw(st.sampled_from(SLOTS))
    request = played.of(SITE, slot)[-1].request
    how, at = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 1 << 16))
    byte = data.draw(st.integers(0, 255))
    found = open_request(request)
    if data.draw(st.booleans()):
        request = change(request, how, at, byte)
    else:
        messages = tuple(change(message, how, at, byte) for message in found.messages)
        fields: dict[str, Any] = {
            "messages": messages,
            "session": change(found.session, 0, at, byte),
            "task": "other",
            "digest": change(found.digest, 0, at, byte),
            "plan": "x = 1",
            "kind": "hello",
        }
        name = data.draw(st.sampled_from(sorted(fields)))
        request = pack(msgspec.structs.replace(found, **{name: fields[name]}))
    answer = played.desk(SITE).answer(request, never)
    reply = open_reply(answer.reply)
    assert not answer.sent_input
    assert answer.results == ()
    assert reply.refused or answer.error is None


@pytest.mark.parametrize(
    "slot", [Slot.ADVERTISE, Slot.SHARE, Slot.INPUT, Slot.CONSENT, Slot.REVEAL]
)
@pytest.mark.parametrize("threat", THREATS)
def test_garbage_before_each_request_costs_the_round_nothing(
    tmp_path: Path, threat: str, slot: Slot
) -> None:
    """Nobody without the server's key can take a site out of a session."""
    if slot == Slot.CONSENT and threat == "semi-honest":
        pytest.skip("there is no consent")
    world = small(tmp_path / "p", threat)
    carry = world.transport

    def transport(requests: Any, at: Slot) -> Any:
        if at == slot:
            request = requests[SITE]
            found = open_request(request)
            for position in range(0, len(found.messages[0]), 97):
                changed = change(found.messages[0], 0, position, found.messages[0][position] ^ 1)
                world.desk(SITE).answer(
                    pack(msgspec.structs.replace(found, messages=(changed,))), never
                )
            other = next(data for name, data in requests.items() if name != SITE)
            world.desk(SITE).answer(other, never)
        return carry(requests, at)

    world.model = b"model"
    found = world.rounds.run(world.model, transport)
    world.number = 0
    world.check(found)


def test_a_death_in_the_first_request_is_no_lost_journal(tmp_path: Path) -> None:
    """A journal that is not there yet is none that was lost: the party is not locked out."""
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.ADVERTISE, SITE)

    class Death(BaseException):
        pass

    def dies(*_: Any, **__: Any) -> Any:
        raise Death

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteSession, "receive", dies)
        with pytest.raises(Death):
            world.desk(SITE).answer(request)
    assert world.desk(SITE).answer(request).error is None
    world.rounds = world.new_rounds()
    world.check(world.run())


def test_garbage_of_other_sessions_erases_no_state(tmp_path: Path) -> None:
    """Bytes of nobody, under other sessions' names, cost a running session nothing."""
    world = small(tmp_path / "p", "malicious-server")
    world.check(world.run())
    kept = world.state(SITE)
    found = open_request(world.of(SITE, Slot.INPUT)[-1].request)
    for number in range(2 * MOST_SESSIONS):
        fake = msgspec.structs.replace(found, session=b"fake %d" % number)
        world.desk(SITE).answer(pack(fake), never)
    assert kept.exists()
    world.check(world.run())


def test_messages_for_another_site_change_nothing(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.INPUT, "site-0")
    before = world.state(SITE).read_bytes()
    answer = world.desk(SITE).answer(request, never)
    assert open_reply(answer.reply).messages == ()
    assert len(world.state(SITE).read_bytes()) == len(before)


# A site that cannot add to the sum.


def weird(**attributes: Any) -> Any:
    return type("Odd", (), attributes)()


class Explodes:
    """An array of a framework that fails when it is looked at."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)


def broken(good: Any) -> dict[str, Callable[[Wanted], Any] | None]:
    """Everything that may go wrong with a contribution."""
    model = HELD

    def gives(*parts: Any) -> Callable[[Wanted], Any]:
        return lambda _: Contribution(*parts)

    def leaves(_: Wanted) -> Any:
        raise Withheld(SECRET)

    return {
        "an exception": fail,
        "no work": None,
        "nothing to add": leaves,
        "nan": gives(np.full(10, math.nan), 1, model),
        "infinite": gives(np.full(10, math.inf), 1, model),
        "short": gives(good[:9], 1, model),
        "long": gives(np.arange(11), 1, model),
        "no shape": gives(np.ones((10, 1)), 1, model),
        "out of range": gives(good + 5000, 1, model),
        "text": gives(SECRET, 1, model),
        "objects": gives(np.array([SECRET] * 10, dtype=object), 1, model),
        "ragged": gives([[1], [1, 2]], 1, model),
        "explodes": gives(Explodes(), 1, model),
        "heavy": gives(good, 2, model),
        "weightless": gives(good, 0, model),
        "negative": gives(good, -1, model),
        "half": gives(good, 0.5, model),
        "text weight": gives(good, SECRET, model),
        "another model": gives(good, 1, SECRET.encode()),
        "no model": gives(good, 1, None),
        "text model": gives(good, 1, SECRET),
        "none": lambda _: None,
        "a bare array": lambda _: good,
        "a tuple": lambda _: (good, 1, model),
        "odd": lambda _: weird(x=good, weight=1),
    }


KINDS = tuple(broken(np.arange(10)))


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, bytes, bytes]:
    """A site that is asked for its vector: the world, its state, and the request."""
    world = small(tmp_path_factory.mktemp("waiting") / "p", "malicious-server")
    request = world.hold(Slot.INPUT, SITE)
    return world, world.state(SITE).read_bytes(), request


@pytest.mark.parametrize("kind", KINDS)
def test_every_reason_gives_the_same_reply(
    waiting: tuple[World, bytes, bytes], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Byte by byte: what the server is told does not depend on why."""
    world, before, request = waiting
    world.state(SITE).write_bytes(before)
    want = world.desk(SITE).answer(request, fail)
    world.state(SITE).write_bytes(before)
    answer = world.desk(SITE).answer(request, broken(world.vector(SITE, 0))[kind])
    assert answer.reply == want.reply
    assert open_reply(answer.reply).refused == "out"
    assert not answer.sent_input
    assert answer.error is not None
    assert SECRET.encode() not in answer.reply
    assert SECRET.encode() not in world.state(SITE).read_bytes()


@pytest.mark.parametrize("kind", ["an exception", "explodes", "nothing to add", "text", "objects"])
def test_the_reason_is_in_no_repr(waiting: tuple[World, bytes, bytes], kind: str) -> None:
    world, before, request = waiting
    world.state(SITE).write_bytes(before)
    answer = world.desk(SITE).answer(request, broken(world.vector(SITE, 0))[kind])
    assert SECRET not in repr(answer)
    assert SECRET not in str(answer)


def test_a_weight_above_the_plans_is_named_at_the_site(
    waiting: tuple[World, bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    world, before, request = waiting
    world.state(SITE).write_bytes(before)
    x = world.vector(SITE, 0)
    answer = world.desk(SITE).answer(request, lambda _: Contribution(x, 4711, world.model))
    assert rule_of(answer) == "weight-range"
    assert "the weight is above the plan's max_weight 1" in caplog.text
    assert "4711" not in caplog.text


def test_a_contribution_shows_nothing() -> None:
    part = Contribution(np.array([4711.0]), 31, b"model")
    assert "4711" not in repr(part)
    assert "31" not in repr(part)


def test_a_refused_vector_is_not_in_the_log(
    waiting: tuple[World, bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    world, before, request = waiting
    world.state(SITE).write_bytes(before)
    vector = np.arange(10) + 471100
    with caplog.at_level("DEBUG", logger="secagg.integrations"):
        answer = world.desk(SITE).answer(request, lambda _: Contribution(vector, 1, HELD))
    assert answer.error is not None
    assert "4711" not in caplog.text + str(answer.error)


@pytest.mark.parametrize("threat", THREATS)
def test_a_site_that_failed_is_back_in_the_next_round(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    world.check(world.run())
    for work in (fail, lambda _: Contribution(np.ones(3), 1, world.model)):
        world.works[SITE] = work
        world.check(world.run(), SITE)
        assert world.rounds.reports[-1].exchanges[0].out == (SITE,)
        del world.works[SITE]
        world.check(world.run())
        assert len(world.rounds.reports[-1].exchanges) == (2 if threat == "semi-honest" else 3)


@pytest.mark.parametrize("threat", THREATS)
def test_a_site_without_work_stays_in_the_session(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)

    def transport(requests: Any, slot: Slot) -> Any:
        for name, request in requests.items():
            work = world.train(name) if name != SITE else None
            answer = world.desk(name).answer(request, work)
            yield name, answer.reply

    world.model = b"m"
    found = world.rounds.run(b"m", transport)
    assert set(found.survivors) == set(world.names) - {SITE}
    world.check(world.run())


def test_the_reason_of_a_spent_budget_is_not_told(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    noise = Noise(law="discrete-gaussian", variance_levels2=1 << 26)
    world = small(tmp_path / "p", stages=(secagg.Integers(0, 255), noise))
    budget = world.folders[SITE] / "budget.toml"
    budget.write_text("epsilon = 0.001\ndelta = 1e-5\n", encoding="utf-8")
    request = world.hold(Slot.INPUT, SITE)
    before = world.state(SITE).read_bytes()
    want = world.desk(SITE).answer(request, fail).reply
    world.state(SITE).write_bytes(before)
    answer = world.desk(SITE).answer(request, world.train(SITE))
    assert rule_of(answer) == "budget"
    assert answer.reply == want


def test_a_model_that_the_policy_does_not_list_is_not_trained_on(tmp_path: Path) -> None:
    listed = hashlib.sha256(b"model 1").hexdigest()
    world = small(tmp_path / "p", "malicious-server")
    policy = world.folders[SITE] / "policy.toml"
    policy.write_text(f'[models]\nallowed = ["{listed}"]\n', encoding="utf-8")
    world.works[SITE] = never
    world.check(world.run(), SITE)
    call = world.of(SITE, Slot.INPUT)[-1]
    assert not call.answer.sent_input
    # The site took no part, and both its owner and the server's report say so.
    assert rule_of(call.answer) == "model-allowed"
    assert open_reply(call.answer.reply).refused == "out"
    del world.works[SITE]
    world.check(world.run())


# Plans.


def test_an_unsigned_plan_is_played_without_identities(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "semi-honest")
    world.rounds = world.new_rounds(identity=None)
    for _ in range(2):
        world.check(world.run())
    world.rounds.finish(world.transport)
    assert all(call.answer.error is None for call in world.calls)


@pytest.mark.parametrize("threat", THREATS)
def test_a_session_with_another_plan_is_refused(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    world.run()
    # The site's owner pins another plan: the server's is no longer this party's.
    path = world.folders[SITE] / "plan.toml"
    changed = dataclasses.replace(world.plan, length=world.plan.length + 1)
    kept = path.read_text(encoding="utf-8")
    path.write_text(dump_plan(changed), encoding="utf-8")
    world.check(world.run(), SITE)
    assert rule_of(world.of(SITE, Slot.INPUT)[-1].answer) == "plan-differs"
    with pytest.raises(MisuseError) as caught:
        world.desk(SITE).plan_for(world.of(SITE, Slot.INPUT)[-1].request)
    assert caught.value.rule == "plan-differs"
    path.write_text(kept, encoding="utf-8")
    world.run()
    world.check(world.run())


def test_a_session_goes_on_with_the_plan_that_it_began_with(tmp_path: Path) -> None:
    """A server that proposes plans does not change them within a session."""
    world = small(tmp_path / "p", "malicious-server", propose=True, policy=OPEN_POLICY)
    request = world.hold(Slot.INPUT, SITE)
    other = dataclasses.replace(world.plan, length=world.plan.length + 1)
    found = open_request(request)
    changed = msgspec.structs.replace(found, plan=dump_plan(other), digest=other.digest)
    answer = world.desk(SITE).answer(pack(changed), never)
    assert rule_of(answer) == "plan-differs"
    assert open_reply(answer.reply).messages == ()


def test_the_plan_of_a_request_is_told(tmp_path: Path) -> None:
    world = small(tmp_path / "p")
    request = world.hold(Slot.INPUT, SITE)
    assert world.desk(SITE).plan_for(request) == world.plan
    for wrong in (b"", b"\xc1", request[:-1]):
        with pytest.raises(PeerError):
            world.desk(SITE).plan_for(wrong)


def test_the_servers_folder_is_no_site(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.INPUT, SITE)
    for data in (request, world.rounds.greeting("k")):
        answer = SiteDesk(world.folders[SERVER]).answer(data, never)
        assert answer.error is not None or open_reply(answer.reply).refused


def test_a_desk_is_of_a_folder(tmp_path: Path) -> None:
    world = small(tmp_path / "p")
    desk = SiteDesk(PartyFolder(world.folders[SITE]))
    assert (desk.name, desk.role) == (SITE, "site")
    for wrong in (None, 3, tmp_path / "nowhere"):
        with pytest.raises(MisuseError):
            SiteDesk(wrong)  # type: ignore[arg-type]


def test_a_server_that_says_two_things_gets_nothing_more(tmp_path: Path) -> None:
    """Two models for one round: the session ends at this site, and every later answer says so."""
    world = small(tmp_path / "p", "malicious-server", server_folder=False)
    world.run()
    server = world.rounds._server
    twin = ServerSession.load(
        server.dump(), world.plan, identity=world.identities[SERVER], journal=server.journal.copy()
    )
    request = world.hold(Slot.INPUT, SITE)
    assert world.desk(SITE).answer(request, world.train(SITE)).sent_input
    orders = twin.begin_round(b"another model")
    message = next(event.data for event in orders if isinstance(event, Send) and event.to == SITE)
    cheat = pack(msgspec.structs.replace(open_request(request), messages=(message,)))
    answer = world.desk(SITE).answer(cheat, never)
    assert rule_of(answer) == "order-once"
    assert open_reply(answer.reply).messages == ()
    for again in (request, cheat):
        answer = world.desk(SITE).answer(again, never)
        assert open_reply(answer.reply).messages == ()
        assert open_reply(answer.reply).refused == "out"
        assert rule_of(answer) == "order-once"
    # Another session of the same server is another matter.
    world.rounds = world.new_rounds()
    world.check(world.run())
