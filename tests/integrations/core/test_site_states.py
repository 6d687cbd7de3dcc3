"""A party's state between two requests: on disk, in a framework, of two processes, and too late."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integrations.core.world import HELD, Memory, open_reply, quick, small

from secagg.integrations import envelope
from secagg.integrations.folder import PartyFolder
from secagg.integrations.site import Contribution, SiteDesk
from secagg.session import Slot, Wanted

__all__ = ["quick"]
SITE = "site-1"
SECRET = "patient 4711 is HIV positive"  # noqa: S105 - what an exception might say
THREATS = ("semi-honest", "malicious-server")


# Memory and disk.


@pytest.mark.parametrize("lost", ["disk", "memory", "old disk", "old memory"])
def test_the_newest_copy_of_a_state_counts(tmp_path: Path, lost: str) -> None:
    world = small(tmp_path / "p", THREATS[lost.startswith("old")])
    memory = world.memories[SITE] = Memory()
    world.run()
    old_disk, old_memory = world.state(SITE).read_bytes(), dict(memory.kept)
    world.run()
    assert memory.kept[world.state(SITE).stem] == world.state(SITE).read_bytes()
    if lost == "disk":
        world.state(SITE).unlink()
    elif lost == "memory":
        memory.kept.clear()
    elif lost == "old disk":
        world.state(SITE).write_bytes(old_disk)
    else:
        memory.kept = old_memory
    world.check(world.run())
    world.check(world.run())


@pytest.mark.parametrize("threat", THREATS)
def test_a_site_that_lost_both_copies_sits_out_and_returns(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    world.memories[SITE] = Memory()
    world.run()
    world.state(SITE).unlink()
    world.memories[SITE].kept.clear()
    sets = []
    for _ in range(4):
        found = world.run()
        assert np.array_equal(found.sum, world.expected(found.survivors))
        sets.append(set(found.survivors))
    assert sets[0] == set(world.names) - {SITE}
    assert sets[-1] == set(world.names)


@pytest.mark.parametrize("threat", THREATS)
def test_an_older_state_gives_no_second_answer(tmp_path: Path, threat: str) -> None:
    """Both copies put back: the journal knows what was sent, and one vector stays hidden."""
    world = small(tmp_path / "p", threat)
    request = world.hold(Slot.INPUT, SITE)
    before = world.state(SITE).read_bytes()
    first = world.desk(SITE).answer(request, lambda _: Contribution(np.arange(10), 1, world.model))
    assert first.sent_input
    world.state(SITE).write_bytes(before)
    second = world.desk(SITE).answer(
        request, lambda _: Contribution(np.arange(10) + 1, 1, world.model)
    )
    assert not second.sent_input
    world.state(SITE).write_bytes(before)
    again = world.desk(SITE).answer(request, lambda _: Contribution(np.arange(10), 1, world.model))
    assert again.reply == first.reply


def test_a_kept_state_without_its_journal_is_not_used(tmp_path: Path) -> None:
    """The framework's copy would answer a second time what the journal has forgotten: two masked
    inputs under one mask give their difference away."""
    world = small(tmp_path / "p", "malicious-server")
    world.memories[SITE] = Memory()
    request = world.hold(Slot.INPUT, SITE)
    first = world.desk(SITE).answer(request, lambda _: Contribution(np.arange(10), 1, world.model))
    assert first.sent_input
    (world.folders[SITE] / "journal").unlink()
    for path in (world.folders[SITE] / "sessions").iterdir():
        path.unlink()
    second = world.desk(SITE).answer(
        request, lambda _: Contribution(np.arange(10)[::-1].copy(), 1, world.model)
    )
    assert not second.sent_input
    assert open_reply(second.reply).messages == ()


@pytest.mark.parametrize("data", [b"x", b"", b"secagg sealed 1\n" + bytes(99)])
def test_a_damaged_copy_does_not_stop_the_other(tmp_path: Path, data: bytes) -> None:
    world = small(tmp_path / "p", "malicious-server")
    memory = world.memories[SITE] = Memory()
    world.run()
    memory.kept = dict.fromkeys(memory.kept, data)
    world.check(world.run())


def test_another_partys_state_is_not_taken(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "malicious-server")
    world.run()
    world.state(SITE).write_bytes(world.state("site-0").read_bytes())
    world.check(world.run(), SITE)


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_memory_that_fails_is_answered(tmp_path: Path, method: str) -> None:
    """A framework's state may be a connection, and that breaks."""
    world = small(tmp_path / "p", "malicious-server")

    class Broken(Memory):
        pass

    def breaks(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    setattr(Broken, method, breaks)
    world.memories[SITE] = Broken()
    world.check(world.run(), SITE)
    assert all(SECRET.encode() not in call.answer.reply for call in world.calls)


def test_a_disk_that_fails_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.INPUT, SITE)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PartyFolder, "write_state", full)
        answer = world.desk(SITE).answer(request, world.train(SITE))
    assert not answer.sent_input
    reply = open_reply(answer.reply)
    assert (reply.refused, reply.messages) == ("out", ())
    assert isinstance(answer.error, OSError)
    # With room again, the same request is answered.
    assert world.desk(SITE).answer(request, world.train(SITE)).sent_input


# Time.


def test_a_training_that_ends_too_late_adds_nothing(tmp_path: Path) -> None:
    """While a site trains the round goes on: its vector is kept back, and it returns."""
    world = small(tmp_path / "p", "malicious-server")
    world.run()
    late: list[bytes] = []

    def transport(requests: Any, slot: Slot) -> Any:
        if slot == Slot.INPUT:
            late.append(requests[SITE])
            requests = {name: data for name, data in requests.items() if name != SITE}
        elif late:
            # The site has begun, and gets the next order in another process.
            request = late.pop()

            def train(wanted: Wanted) -> Contribution:
                world.desk(SITE).answer(requests[SITE])
                return Contribution(world.vector(SITE, wanted.round), 1, world.model)

            answer = world.desk(SITE).answer(request, train)
            assert not answer.sent_input
            assert open_reply(answer.reply).refused == "out"
        return world.transport(requests, slot)

    world.model = b"slow"
    found = world.rounds.run(world.model, transport)
    assert set(found.survivors) == set(world.names) - {SITE}
    world.check(world.run())


@pytest.mark.parametrize("threat", THREATS)
def test_a_vector_that_comes_late_is_not_in_the_sum(tmp_path: Path, threat: str) -> None:
    """The reply to one exchange comes back in the next one."""
    world = small(tmp_path / "p", threat)
    world.run()
    late: list[tuple[str, bytes]] = []

    def transport(requests: Any, slot: Slot) -> Any:
        for name, reply in world.deliver(requests, slot):
            if (name, slot) == (SITE, Slot.INPUT):
                late.append((name, reply))
            else:
                yield name, reply
        if slot != Slot.INPUT:
            yield from late
            late.clear()

    world.model = b"slow"
    found = world.rounds.run(world.model, transport)
    world.number = 1
    world.check(found, SITE)
    for _ in range(2):
        last = world.run()
    world.check(last)


@pytest.mark.parametrize("threat", THREATS)
def test_an_order_that_comes_twice_is_answered_alike(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    request = world.hold(Slot.INPUT, SITE)
    one = world.desk(SITE).answer(request, world.train(SITE))
    two = world.desk(SITE).answer(request, world.train(SITE))
    assert one.sent_input
    assert two.sent_input
    assert one.reply == two.reply


@pytest.mark.parametrize("threat", THREATS)
def test_training_that_is_never_the_same_twice_survives_repetition(
    tmp_path: Path, threat: str
) -> None:
    """A framework delivers a message again; the second vector differs. The first one was sent, and
    what the site needs to finish its round is not thrown away for the second."""
    world = small(tmp_path / "p", threat)
    counts = dict.fromkeys(world.names, 0)

    def train(name: str) -> Callable[[Wanted], Contribution]:
        def work(wanted: Wanted) -> Contribution:
            counts[name] += 1
            return Contribution(world.vector(name, 0) + counts[name] - 1, 1, world.model)

        return work

    def transport(requests: Any, slot: Slot) -> Any:
        for name, request in requests.items():
            answers = [world.desk(name).answer(request, train(name)) for _ in range(2)]
            if slot == Slot.INPUT:
                assert answers[0].sent_input
                assert not answers[1].sent_input
            yield name, answers[0].reply

    world.model = b"m"
    found = world.rounds.run(world.model, transport)
    world.number = 0
    world.check(found)
    assert found.left == {}


# Two processes at once.


def process(folder: Path, request: bytes, vector: Any, ready: Any, results: Any) -> None:
    def work(_: Wanted) -> Contribution:
        ready.wait(60)  # both have begun before one submits
        return Contribution(vector, 1, HELD)

    answer = SiteDesk(folder).answer(request, work)
    results.put((answer.reply, answer.sent_input))


@pytest.mark.parametrize("same", [True, False])
def test_two_processes_of_one_site_say_one_thing(tmp_path: Path, same: bool) -> None:
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.INPUT, SITE)
    fork = multiprocessing.get_context("fork")
    ready, results = fork.Barrier(3), fork.Queue()
    vectors = [np.arange(10) + (0 if same else number) for number in range(3)]
    workers = [
        fork.Process(target=process, args=(world.folders[SITE], request, vector, ready, results))
        for vector in vectors
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    sent = {reply for reply, sent_input in found if sent_input}
    assert len(sent) == 1
    assert sum(sent_input for _, sent_input in found) == (3 if same else 1)


def test_processes_that_answer_one_after_the_other_agree(tmp_path: Path) -> None:
    """Twenty requests at once over four processes: the lock keeps one state."""
    world = small(tmp_path / "p", "malicious-server")
    request = world.hold(Slot.SHARE, SITE)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()

    def answers() -> None:
        for _ in range(5):
            results.put(SiteDesk(world.folders[SITE]).answer(request).reply)

    workers = [fork.Process(target=answers) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=120) for _ in range(20)}
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(found) == 1
    assert not envelope.unpack(envelope.Reply, found.pop()).refused
