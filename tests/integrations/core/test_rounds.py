"""The server's end: rounds over a transport that loses, repeats, forges and fails."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from integrations.core.world import (
    OPEN_POLICY,
    SERVER,
    World,
    open_reply,
    open_request,
    quick,
    small,
)

import secagg
from secagg.integrations.envelope import Reply, pack
from secagg.integrations.rounds import Rounds
from secagg.integrations.site import Contribution
from secagg.session import Slot, Wanted
from secagg_protocols.errors import MisuseError, SecAggError, ThresholdError
from secagg_protocols.stages.noise import Noise
from support.sessions import session_plan

__all__ = ["quick"]
SITE = "site-1"
THREATS = ("semi-honest", "malicious-server")
WARM = {"semi-honest": 2, "malicious-server": 3}


def model_of(world: World) -> bytes:
    """The next model, known to the sites."""
    world.model = b"model %d" % len(world.rounds.reports)
    return world.model


# Reports.


@pytest.mark.parametrize("threat", THREATS)
def test_a_report_says_what_a_round_took(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    for number in range(3):
        world.calls.clear()
        world.check(world.run())
        report = world.rounds.reports[-1]
        assert (report.task, report.number, report.outcome, report.rule) == (
            "train",
            number,
            "done",
            "",
        )
        assert len(report.exchanges) == WARM[threat] + (2 if number == 0 else 0)
        assert report.survivors == world.names
        assert report.dropped == {}
        for exchange in report.exchanges:
            calls = [call for call in world.calls if call.slot.label == exchange.slot]
            assert exchange.asked == exchange.answered == tuple(call.name for call in calls)
            assert exchange.bytes_out == sum(len(call.request) for call in calls)
            assert exchange.bytes_in == sum(len(call.answer.reply) for call in calls)
            assert exchange.out == exchange.silent == ()
            assert exchange.seconds >= 0
        assert report.seconds >= max(exchange.seconds for exchange in report.exchanges)
    assert [report.number for report in world.rounds.reports] == [0, 1, 2]


def test_a_report_is_json(tmp_path: Path) -> None:
    world = small(tmp_path / "p", reach=lambda name, slot: (name != SITE, True))
    world.run()
    world.reach = lambda name, slot: (False, False)
    with pytest.raises(SecAggError):
        world.run()
    for report in world.rounds.reports:
        text = json.dumps(report.to_dict())
        back = json.loads(text)
        assert back["outcome"] == report.outcome
        assert back["exchanges"][0]["asked"] == list(report.exchanges[0].asked)
        assert SITE in text
        assert "\n" not in report.line() + report.exchanges[0].line()
    assert world.rounds.reports[0].dropped == {SITE: "advertise"}
    assert "without site-1 (advertise)" in world.rounds.reports[0].line()
    assert "aborted" in world.rounds.reports[1].line()


def test_who_is_silent_and_who_is_out_is_told(tmp_path: Path) -> None:
    world = small(tmp_path / "p", sites=8, max_dropouts=3)
    world.run()

    def fail(_: Wanted) -> Contribution:
        raise ValueError

    world.works["site-2"] = fail
    world.reach = lambda name, slot: (name != SITE, name != "site-4" or slot != Slot.REVEAL)
    found = world.run()
    first, second = world.rounds.reports[-1].exchanges
    assert (first.silent, first.out) == ((SITE,), ("site-2",))
    assert second.silent == (SITE, "site-4")
    assert set(found.survivors) == set(world.names) - {SITE, "site-2"}
    assert "silent: site-1" in first.line()
    assert "out: site-2" in first.line()


def test_the_log_has_no_numbers_of_anybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = small(tmp_path / "p")
    with caplog.at_level("DEBUG", logger="secagg.integrations"):
        world.run()
    assert "the sum of 4 sites" in caplog.text
    assert world.rounds.session.hex() not in caplog.text
    assert str(world.expected(world.names)[3]) not in caplog.text


# Aborts.


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("slot", [Slot.ADVERTISE, Slot.SHARE, Slot.INPUT, Slot.REVEAL])
def test_an_abort_is_reported_and_raised_and_the_next_round_works(
    tmp_path: Path, threat: str, slot: Slot
) -> None:
    world = small(tmp_path / "p", threat)
    world.reach = lambda name, at: (at != slot or name == SITE, True)
    with pytest.raises(ThresholdError) as caught:
        world.run()
    report = world.rounds.reports[-1]
    assert (report.outcome, report.rule) == ("aborted", caught.value.rule)
    assert report.survivors == ()
    assert [exchange.slot for exchange in report.exchanges][-1] == slot.label
    world.reach = lambda name, at: (True, True)
    world.check(world.run())
    assert len(world.rounds.reports[-1].exchanges) == WARM[threat] + 2
    world.check(world.run())
    assert len(world.rounds.reports[-1].exchanges) == WARM[threat]
    assert [r.outcome for r in world.rounds.reports] == ["aborted", "done", "done"]


@pytest.mark.parametrize("slot", [Slot.ADVERTISE, Slot.INPUT, Slot.REVEAL])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_transport_that_raises_ends_its_round_only(
    tmp_path: Path, slot: Slot, lazy: bool
) -> None:
    world = small(tmp_path / "p", THREATS[lazy])

    def breaks(requests: Any, at: Slot) -> Any:
        if at != slot:
            return world.transport(requests, at)
        if lazy:
            return half(requests, at)
        raise ConnectionError("the line is cut")

    def half(requests: Any, at: Slot) -> Any:
        for number, pair in enumerate(world.deliver(requests, at)):
            if number == 2:
                raise ConnectionError("the line is cut")
            yield pair

    with pytest.raises(ConnectionError):
        world.rounds.run(model_of(world), breaks)
    report = world.rounds.reports[-1]
    assert (report.outcome, report.rule) == ("aborted", "ConnectionError")
    world.check(world.run())


def test_an_interrupt_is_passed_on(tmp_path: Path) -> None:
    world = small(tmp_path / "p")

    def stop(requests: Any, slot: Slot) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.rounds.run(model_of(world), stop)
    assert world.rounds.reports[-1].rule == "KeyboardInterrupt"
    world.check(world.run())


def test_a_model_counts_its_inputs(tmp_path: Path) -> None:
    """Two sums over one model, and no third: every site stays out."""
    world = small(tmp_path / "p")
    for _ in range(2):
        world.check(world.run(model=b"the same"))
    with pytest.raises(ThresholdError):
        world.run(model=b"the same")
    assert set(world.rounds.reports[-1].exchanges[-1].out) == set(world.names)
    world.check(world.run())


@pytest.mark.parametrize("model", [None, "text", 3])
def test_a_model_is_bytes(tmp_path: Path, model: Any) -> None:
    world = small(tmp_path / "p")
    with pytest.raises(SecAggError):
        world.rounds.run(model, world.transport)
    assert world.rounds.reports[-1].outcome == "aborted"
    world.check(world.run())


# Replies that are none.


def replaced(
    world: World, slot: Slot, forge: Callable[[str, bytes], list[tuple[str, bytes]]]
) -> Any:
    """A transport that puts others in the place of a site's replies."""

    def transport(requests: Any, at: Slot) -> Any:
        for name, reply in world.deliver(requests, at):
            if (name, at) == (SITE, slot):
                yield from forge(name, reply)
            else:
                yield name, reply

    return transport


GARBAGE: dict[str, Callable[[str, bytes], list[tuple[str, bytes]]]] = {
    "nothing": lambda name, reply: [(name, b"")],
    "noise": lambda name, reply: [(name, bytes(range(256)))],
    "cut": lambda name, reply: [(name, reply[:-1])],
    "longer": lambda name, reply: [(name, reply + b"\0")],
    "a request": lambda name, reply: [(name, b"\x98" + reply[1:])],
    "another session": lambda name, reply: [
        (name, pack(msgspec.structs.replace(open_reply(reply), session=b"x" * 16)))
    ],
    "another task": lambda name, reply: [
        (name, pack(msgspec.structs.replace(open_reply(reply), task="other")))
    ],
    "changed": lambda name, reply: [
        (name, pack(msgspec.structs.replace(open_reply(reply), messages=(b"x" * 500,))))
    ],
    "as another": lambda name, reply: [("site-2", reply)],
    "as nobody": lambda name, reply: [("site-9", reply)],
    "as the server": lambda name, reply: [(SERVER, reply)],
    "as no name": lambda name, reply: [("", reply)],
}


@pytest.mark.parametrize("kind", sorted(GARBAGE))
def test_a_reply_that_is_none_is_a_dropout(tmp_path: Path, kind: str) -> None:
    world = small(tmp_path / "p", THREATS[sorted(GARBAGE).index(kind) % 2])
    world.run()
    found = world.rounds.run(model_of(world), replaced(world, Slot.INPUT, GARBAGE[kind]))
    world.number = 1
    world.check(found, SITE)
    report = world.rounds.reports[-1].exchanges[0]
    assert set(report.answered) <= set(report.asked)
    for _ in range(2):
        last = world.run()
    world.check(last)


@pytest.mark.parametrize("threat", THREATS)
def test_replies_come_twice_and_in_any_order(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    kept: list[tuple[str, bytes]] = []

    def transport(requests: Any, slot: Slot) -> Any:
        replies = world.transport(requests, slot)
        kept.extend(replies)
        # Everything that was ever said comes again, before and after what is new.
        return [*kept, *replies[::-1], *replies]

    for number in range(3):
        found = world.rounds.run(model_of(world), transport)
        world.number = number
        world.check(found)
        for exchange in world.rounds.reports[-1].exchanges:
            assert sorted(exchange.answered) == sorted(exchange.asked)


@pytest.mark.parametrize("threat", THREATS)
def test_garbage_beside_the_real_replies_changes_nothing(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)

    def transport(requests: Any, slot: Slot) -> Any:
        for name, reply in world.deliver(requests, slot):
            for forge in GARBAGE.values():
                yield from forge(name, reply)
            yield name, reply
            yield "stranger", b"hello"
            yield name, pack(Reply(1, world.rounds.session, "train", refused="out"))

    for number in range(2):
        found = world.rounds.run(model_of(world), transport)
        world.number = number
        world.check(found)
        for exchange in world.rounds.reports[-1].exchanges:
            assert set(exchange.answered) <= set(exchange.asked)


# Ways to run it.


@pytest.mark.parametrize("threat", THREATS)
def test_without_a_folder_everything_is_in_memory(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat, server_folder=False)
    for _ in range(3):
        world.check(world.run())
    world.rounds.finish(world.transport)
    assert not (world.folders[SERVER] / "journal").exists()


@pytest.mark.parametrize("threat", THREATS)
def test_the_last_round_prepares_none(tmp_path: Path, threat: str) -> None:
    world = small(tmp_path / "p", threat)
    world.check(world.run())
    world.check(world.run(last=True))
    world.calls.clear()
    world.rounds.finish(world.transport)
    assert {call.slot for call in world.calls} <= {Slot.FINISH, Slot.CLOSE}
    assert {call.name for call in world.calls} == set(world.names)
    results = [done for call in world.calls for done in call.answer.results]
    assert len(results) == 4
    for done in results:
        assert done.aggregate is not None
        assert np.array_equal(done.aggregate.sum, world.expected(world.names, 1))
    # It is over; ending it once more does nothing.
    world.calls.clear()
    world.rounds.finish(world.transport)
    assert world.calls == []


def test_a_round_after_the_last_one_starts_cold(tmp_path: Path) -> None:
    world = small(tmp_path / "p")
    world.check(world.run(last=True))
    world.check(world.run())
    assert len(world.rounds.reports[-1].exchanges) == 4
    world.rounds.finish(world.transport)


def test_finishing_what_was_never_begun_does_nothing(tmp_path: Path) -> None:
    world = small(tmp_path / "p")
    world.rounds.finish(world.transport)
    assert world.calls == []


@pytest.mark.parametrize("slot", [Slot.FINISH, Slot.CLOSE])
def test_an_end_that_fails_is_logged(
    tmp_path: Path, slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    """The results are out already, so a run does not end with an error of its last letter."""
    world = small(tmp_path / "p", "malicious-server")
    world.run()

    def breaks(requests: Any, at: Slot) -> Any:
        if at == slot:
            raise ConnectionError("the line is cut")
        return world.transport(requests, at)

    with caplog.at_level("WARNING", logger="secagg.integrations"):
        world.rounds.finish(breaks)
    assert "not ended" in caplog.text


def test_two_sessions_of_one_folder_are_two(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "malicious-server")
    world.check(world.run())
    first = world.rounds
    world.rounds = world.new_rounds()
    assert world.rounds.session != first.session
    world.check(world.run())
    other, world.rounds = world.rounds, first
    world.run()
    world.rounds = other
    world.run()


def test_two_tasks_have_two_plans(tmp_path: Path) -> None:
    plan, identities = session_plan("malicious-server")
    evaluate = secagg.Plan.recommend(
        plan.roster,
        length=2,
        stages=(secagg.Integers(0, 9),),
        threat="malicious-server",
        colluding=1,
        max_dropouts=1,
        min_honest=2,
    )
    world = World(tmp_path / "p", plan, identities, plans={"evaluate": evaluate})
    world.check(world.run())
    train, world.task = world.rounds, "evaluate"
    world.rounds = world.new_rounds()
    assert world.rounds.plan == evaluate
    for name in world.names:
        world.works[name] = lambda _: Contribution(np.array([1, 2]), 1, world.model)
    for _ in range(2):
        assert world.run().sum.tolist() == [4, 8]
    assert world.rounds.reports[-1].task == "evaluate"
    world.works.clear()
    world.rounds, world.task = train, "train"
    world.check(world.run())
    tasks = {open_request(call.request).task for call in world.calls}
    assert tasks == {"train", "evaluate"}


def test_arguments_are_checked(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "malicious-server")
    server = world.identities[SERVER]
    for wrong in (None, "plan", world.plan.to_dict() if hasattr(world.plan, "to_dict") else 3):
        with pytest.raises(MisuseError):
            Rounds(wrong, identity=server)  # type: ignore[arg-type]
    for identity in (None, world.identities[SITE], secagg.Identity.generate(SERVER)):
        with pytest.raises(SecAggError):
            Rounds(world.plan, identity=identity)
    with pytest.raises(MisuseError):
        Rounds(world.plan, identity=server, folder=tmp_path / "nowhere")
    for task in ("", "Train", "a b", "t" * 17, "../x", "train\n"):
        with pytest.raises(SecAggError):
            Rounds(world.plan, identity=server, task=task).greeting("k")


def test_a_servers_folder_is_not_that_of_a_site(tmp_path: Path) -> None:
    """A slip in a path would mix the server's journal with a site's."""
    world = small(tmp_path / "p", "malicious-server")
    with pytest.raises(MisuseError):
        Rounds(world.plan, identity=world.identities[SERVER], folder=world.folders[SITE])


# Plans with more in them.


@pytest.mark.parametrize("threat", THREATS)
def test_an_adaptive_clip_follows_over_rounds(tmp_path: Path, threat: str) -> None:
    """Sites refuse a clip that is not the rule's, so this runs only if it is carried on."""
    stages = (
        secagg.AdaptiveClip(clip=4.0, quantile=0.5, rate=0.5, lowest=0.5, highest=8.0),
        secagg.Quantise(1000, "nearest"),
    )
    world = small(tmp_path / "p", threat, stages=stages)
    clips: list[float] = []

    def train(name: str) -> Callable[[Wanted], Contribution]:
        def work(wanted: Wanted) -> Contribution:
            if name == SITE:
                clips.append(
                    struct.unpack("<d", wanted.parameters)[0] if wanted.parameters else 4.0
                )
            x = np.zeros(10)
            x[0] = 1.0 + int(name[-1])
            return Contribution(x, 1, world.model)

        return work

    world.works = {name: train(name) for name in world.names}
    clip, want = 4.0, []
    for _ in range(4):
        found = world.run()
        want.append(clip)
        assert set(found.survivors) == set(world.names)
        assert math.isclose(
            found.sum[0], sum(min(1.0 + i, clip) for i in range(4)), abs_tol=4 * clip / 1000
        )
        share = found.extras["within"] / 4
        clip = min(max(clip * math.exp(-0.5 * (share - 0.5)), 0.5), 8.0)
    assert clips == pytest.approx(want)
    # After a round that failed the clip is that of the last sum.
    world.reach = lambda name, slot: (slot != Slot.REVEAL, True)
    with pytest.raises(SecAggError):
        world.run()
    world.reach = lambda name, slot: (True, True)
    world.run()
    assert clips[-1] == pytest.approx(clip)


def test_noise_covers_the_sum(tmp_path: Path) -> None:
    noise = Noise(law="discrete-gaussian", variance_levels2=1 << 20)
    world = small(tmp_path / "p", stages=(secagg.Integers(0, 1000), noise), length=2000)
    found = world.run()
    error = (found.sum - world.expected(found.survivors)).astype(float)
    assert set(found.survivors) == set(world.names)
    # The mean square of 2000 draws is within 6 standard errors of the stated variance.
    assert abs(np.mean(error**2) / found.noise_variance - 1) < 6 * math.sqrt(2 / 2000)
    assert found.noise_variance >= 1 << 20


@pytest.mark.parametrize("threat", THREATS)
def test_weights_are_those_of_the_sites(tmp_path: Path, threat: str) -> None:
    stages = (secagg.ClipLinf(16.0), secagg.Quantise(1 << 20, "nearest"))
    world = small(tmp_path / "p", threat, stages=stages, max_weight=50)
    world.weights = {"site-0": 1, "site-1": 50, "site-2": 7, "site-3": 20}
    world.works = {
        name: lambda wanted, n=name: Contribution(
            world.vector(n, wanted.round).astype(np.float32), world.weights[n], world.model
        )
        for name in world.names
    }
    found = world.run()
    assert found.weight == 78
    assert np.allclose(found.mean, world.expected(world.names) / 78, atol=16 / (1 << 20))


def test_plans_of_a_proposal_are_carried_in_every_request(tmp_path: Path) -> None:
    world = small(tmp_path / "p", propose=True, policy=OPEN_POLICY)
    world.check(world.run())
    for call in world.calls:
        assert open_request(call.request).plan
    other = small(tmp_path / "q")
    other.run()
    assert not any(open_request(call.request).plan for call in other.calls)
