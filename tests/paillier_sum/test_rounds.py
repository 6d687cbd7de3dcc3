"""Rounds of the Paillier sum against sums in plain integers: who is in, who is missing, in any
order, and what becomes of messages that are late, repeated or wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_vectors import one_more
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    dealt,
    make_plan,
    one_key_plan,
    private_key,
)
from secagg.attacks.arena.world import MODEL
from secagg_native.paillier import from_words
from secagg_protocols.paillier import split, threshold
from secagg_protocols.paillier_sum import messages
from secagg_protocols.paillier_sum.product import read_rows

THREATS = ("malicious-server", "semi-honest")
QUICK = settings(max_examples=15, deadline=None)


def check(world: PaillierWorld) -> PaillierWorld:
    """The result, at the server and at every site in it, is the sum in plain integers."""
    found, plan = world.result, world.plan
    assert found is not None
    assert found.sum.tolist() == world.weighed()
    assert found.weight == sum(world.weights.get(name, 1) for name in found.survivors)
    assert set(found.survivors) | set(found.dropped) == set(plan.roster.names)
    told = {
        name: what
        for name, kind, what in world.log
        if kind == messages.RESULT.number and isinstance(what, secagg.Done)
    }
    assert set(told) == set(found.survivors)
    for done in told.values():
        assert done.digest == found.digest
        assert (done.aggregate is not None) == plan.sites_receive
        if done.aggregate is not None:
            assert done.aggregate.sum.tolist() == world.weighed()
    return world


def slots_of(stages: tuple[Any, ...], sites: int, **changes: Any) -> int:
    """Coordinates of such a plan that one plaintext holds."""
    return messages.layout_of(make_plan(sites, stages=stages, max_dropouts=0, **changes)).slots


@st.composite
def worlds(draw: Any) -> tuple[PaillierWorld, dict[str, list[str]]]:
    """A one-key round with any bounds, lengths around a whole plaintext, weights and dropouts."""
    sites = draw(st.integers(3, 5))
    low = draw(st.integers(-(1 << 20), 0))
    stages = (secagg.Integers(low, draw(st.integers(0, 1 << 20)) + low + 1),)
    most = draw(st.sampled_from([1, 1, 7]))
    slots = slots_of(stages, sites, max_weight=most)
    # The weight is a coordinate of its own after the others.
    length = draw(st.sampled_from([1, slots - 1, slots, slots + 1, 2 * slots]))
    receive = draw(st.booleans())
    plan = one_key_plan(
        sites,
        stages=stages,
        length=length,
        max_weight=most,
        threat=draw(st.sampled_from(THREATS)),
        sites_receive=receive,
        colluding=int(receive),
        max_dropouts=sites - 2 - int(receive),
    )
    names = list(plan.roster.names)
    weights = {name: draw(st.integers(1, most)) for name in names}
    world = PaillierWorld(plan, weights=weights)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    for name in names:
        ends = draw(st.booleans())
        x = rng.integers(stages[0].low, stages[0].high + 1, length)
        world.vectors[name] = np.where(x > low, stages[0].high, low) if ends else x
    gone = draw(st.lists(st.sampled_from(names), max_size=plan.max_dropouts, unique=True))
    return world, {"input": gone}


@QUICK
@given(worlds())
def test_every_sum_is_exact(case: tuple[PaillierWorld, dict[str, list[str]]]) -> None:
    world, drop = case
    check(world.run(drop))
    assert set(world.result.dropped) == set(drop["input"])  # type: ignore[union-attr]


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize(
    ("holders", "need", "silent"),
    [(2, 2, []), (3, 2, ["h1"]), (5, 3, ["h0", "h3"]), (4, 4, [])],
)
def test_any_threshold_of_the_holders_opens_the_sum(
    holders: int, need: int, silent: list[str], threat: str
) -> None:
    receive = threat == "semi-honest"
    plan = make_plan(
        holders=holders,
        threshold=need,
        threat=threat,
        knowledge_proofs=not receive,
        sites_receive=receive,
        length=slots_of((secagg.Integers(0, 1000),), 4) + 1,
    )
    assert messages.layout_of(plan).rows == 2
    check(PaillierWorld(plan).run({"input": ["s2"], "reveal": silent}))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_holders_and_any_dropouts(data: st.DataObject) -> None:
    holders = data.draw(st.integers(2, 6))
    need = data.draw(st.integers(holders // 2 + 1, holders))
    plan = make_plan(5, holders=holders, threshold=need, max_dropouts=2, length=7)
    opening = [f"h{i}" for i in range(holders)]
    silent = data.draw(st.lists(st.sampled_from(opening), max_size=holders - need, unique=True))
    gone = data.draw(st.lists(st.sampled_from(plan.roster.names), max_size=2, unique=True))
    check(PaillierWorld(plan).run({"input": gone, "reveal": silent}))


def test_one_holder_may_have_a_share_of_its_own_key() -> None:
    """A key that is shared among one is no whole key: it has verification values."""
    key, shares = split(private_key(), 1, 1)
    protocol = secagg.PaillierSum(key=key, colluding_holders=0)
    plan = make_plan(holders=1, threshold=1, protocol=protocol)

    class Dealt(PaillierWorld):
        def __init__(self) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    "secagg.attacks.arena.paillier_world.shares_of", lambda plan: {"h0": shares[0]}
                )
                super().__init__(plan)

    check(Dealt().run())


# Too few.


def test_one_holder_less_than_the_threshold_cannot_open() -> None:
    world = PaillierWorld(make_plan())
    with pytest.raises(secagg.ThresholdError) as caught:
        world.run({"reveal": ["h0", "h2"]})
    error = caught.value
    assert (error.step, error.have, error.need) == ("reveal", 1, 2)
    with pytest.raises(secagg.MisuseError) as ended:
        world.server.close_step()
    assert ended.value.rule == "ended"
    assert world.result is None


def test_one_site_less_than_agreed_and_nothing_is_asked_of_holders() -> None:
    world = PaillierWorld(one_key_plan())
    with pytest.raises(secagg.ThresholdError) as caught:
        world.run({"input": ["s0", "s2"]})
    error = caught.value
    assert (error.step, error.have, error.need) == ("input", 2, 3)
    assert {kind for kind, *_ in world.frames} == {messages.ENCRYPTED.number}


# Late, repeated, in another order.


def test_the_order_of_the_inputs_changes_nothing() -> None:
    plan = make_plan()
    first = check(PaillierWorld(plan).run())
    frames = {name: first.frame(messages.ENCRYPTED, name) for name in plan.roster.names}
    again = PaillierWorld(plan)
    again.server.start()
    orders = {"server": "3021", "h0": "1230", "h1": "2103", "h2": "0321"}
    for name, order in orders.items():
        for site in order:
            answers = again.parties[name].receive(
                frames[f"s{site}"], sender=f"s{site}" if name == "server" else "server"
            )
            assert not rules_of(lambda answers=answers: answers)
    again.run_on()
    assert again.result is not None
    assert again.result.digest == first.result.digest  # type: ignore[union-attr]
    for kind, sender in ((messages.OPEN, "server"), (messages.OPENED, "h1")):
        assert again.frame(kind, sender) == first.frame(kind, sender)


def test_every_message_twice_is_the_same_round() -> None:
    plan = make_plan()
    first = check(PaillierWorld(plan).run())
    twice = PaillierWorld(plan, edit=lambda kind, sender, to, frame: [frame, frame])
    check(twice.run())
    assert twice.result.digest == first.result.digest  # type: ignore[union-attr]
    rules = {e.rule for name in twice.parties for e in twice.errors(name)}
    assert rules == {"step-order"}
    # A repeated input is passed on again, as it may have been lost; a request is answered once.
    assert len(twice.frames) == len(first.frames) + 4 * 3


def test_a_late_input_is_left_out_and_not_passed_on() -> None:
    world = PaillierWorld(make_plan())
    world.send_inputs(drop=["s3"])
    world.parties["s3"].start()
    (late,) = world.parties["s3"].submit(world.vectors["s3"])
    world.pump(world.server.close_step(), "server")
    events = world.server.receive(late.data, sender="s3")
    assert rules_of(lambda: events) == ["step-order"]
    assert len(events) == 1
    world.pump(world.server.close_step(), "server")
    check(world)
    assert world.result is not None
    assert world.result.dropped == {"s3": "input"}
    assert rules_of(lambda: world.server.receive(late.data, sender="s3")) == ["step-order"]


def test_answers_before_and_after_their_time_are_ignored() -> None:
    plan = one_key_plan()
    done = check(PaillierWorld(plan).run())
    answer = done.frame(messages.OPENED, "h0")
    result = done.frame(messages.RESULT, "server", "s0")
    world = PaillierWorld(plan)
    world.send_inputs()
    assert rules_of(lambda: world.server.receive(answer, sender="h0")) == ["step-order"]
    early = PaillierWorld(plan).parties["s0"]
    early.start()
    assert rules_of(lambda: early.receive(result, sender="server")) == ["step-order"]
    world.run_on()
    check(world)
    assert rules_of(lambda: world.server.receive(answer, sender="h0")) == ["step-order"]


def test_nothing_of_another_session_round_model_or_plan_is_taken() -> None:
    plan = make_plan()
    done = PaillierWorld(plan).run()
    changes: list[dict[str, Any]] = [
        {"session": "another"},
        {"round": 1},
        {"model": b"another"},
        {"plan": make_plan(length=5, max_dropouts=0)},
    ]
    for change in changes:
        other = PaillierWorld(change.pop("plan", plan), **change).send_inputs()
        for _, sender, to, frame in done.frames:
            party = other.parties[to]
            assert rules_of(lambda f=frame, s=sender, p=party: p.receive(f, sender=s)) == [
                "trailer"
            ]


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    plan = make_plan(length=400)
    assert messages.layout_of(plan).rows == 3
    one, two = (PaillierWorld(plan, threads=threads).run() for threads in (1, 2))
    assert one.frames == two.frames


# A vector that waits.


def test_a_vector_that_is_changed_while_it_waits_is_not_sent() -> None:
    world = PaillierWorld(make_plan(), model=None)
    site, x = world.parties["s0"], world.vectors["s0"]
    site.submit(x)
    site.start()
    x[0] += 1
    assert rules_of(lambda: site.use_model(MODEL)) == ["input-changed"]
    assert site.awaits_input
    (send,) = site.submit(x)
    server = PaillierWorld(world.plan).server
    server.start()
    assert rules_of(lambda: server.receive(send.data, sender="s0")) == []


def test_a_vector_that_is_changed_while_it_is_encrypted_is_not_sent() -> None:
    world = PaillierWorld(make_plan())
    site, x = world.parties["s0"], world.vectors["s0"]
    site.submit(x)

    def change(done: int, most: int) -> None:
        x[0] += 1

    site.progress = change
    assert rules_of(site.start) == ["input-changed"]
    assert world.journals["s0"].newest(site._journal_key) == 0
    site.progress = None
    (send,) = site.submit(x)
    server = PaillierWorld(world.plan).server
    server.start()
    assert rules_of(lambda: server.receive(send.data, sender="s0")) == []


# Wrong answers of holders.


def altered(world: PaillierWorld, change: Any) -> PaillierWorld:
    """A round in which the answer of h1 is changed."""

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        return [change(world, frame)] if (kind, sender) == (messages.OPENED.number, "h1") else None

    world.edit = edit
    return world


def of_another_vector(world: PaillierWorld, frame: bytes) -> bytes:
    sent, _ = read_rows(
        world.plan, memoryview(world.parts(world.frame(messages.ENCRYPTED, "s0"))[1])
    )
    header, _ = world.parts(frame)
    rows, proof = threshold.partial(world.shares["h1"], sent, context=header.product)
    return world.reseal(frame, tail=rows.astype("<u8").tobytes() + proof)


def under_another_context(world: PaillierWorld, frame: bytes) -> bytes:
    """The right rows, with a proof that was made for another round."""
    product = world.server._product.value()
    rows, proof = threshold.partial(world.shares["h1"], product, context=b"another round")
    return world.reseal(frame, tail=rows.astype("<u8").tobytes() + proof)


def of_another_holder(world: PaillierWorld, frame: bytes) -> bytes:
    _, tail = world.parts(world.frame(messages.OPENED, "h0"))
    return world.reseal(frame, tail=tail)


def naught(world: PaillierWorld, frame: bytes) -> bytes:
    _, tail = world.parts(frame)
    size = messages.opened_size(world.plan)
    return world.reseal(frame, tail=bytes(size) + tail[size:])


@pytest.mark.parametrize(
    "change", [one_more, of_another_vector, under_another_context, of_another_holder, naught]
)
def test_a_wrong_share_is_named_and_left_out(change: Any) -> None:
    world = altered(PaillierWorld(make_plan()), change)
    check(world.run())
    dropped = [what for *_, what in world.log if getattr(what, "rule", "") == "share-proof"]
    assert [error.sender for error in dropped] == ["h1"]
    assert world.errors("server") == dropped
    assert world.result is not None
    assert world.result.dropped == {}


def test_too_few_are_left_beside_a_wrong_share() -> None:
    world = altered(PaillierWorld(make_plan()), one_more)
    with pytest.raises(secagg.ThresholdError) as caught:
        world.run({"reveal": ["h2"]})
    assert (caught.value.have, caught.value.need) == (1, 2)


def test_an_answer_with_its_sign_changed_is_refused() -> None:
    """It would open to the same, but the proof is about every bit of an answer."""

    def negate(world: PaillierWorld, frame: bytes) -> bytes:
        header, _ = world.parts(frame)
        product = world.server._product.value()
        rows, proof = threshold.partial(world.shares["h1"], product, context=header.product)
        values = [world.key.n**2 - v for v in from_words(rows)]
        return world.reseal(frame, tail=world.bytes_of(values) + proof)

    world = altered(PaillierWorld(make_plan()), negate)
    check(world.run())
    assert [error.rule for error in world.errors("server")] == ["share-proof"]


def test_a_holder_that_answers_twice_differently_is_left_out() -> None:
    world = PaillierWorld(make_plan())

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if (kind, sender) == (messages.OPENED.number, "h0"):
            return [frame, one_more(world, frame)]
        return None

    world.edit = edit
    check(world.run())
    (error,) = world.errors("server")
    assert isinstance(error, secagg.EquivocationError)
    assert error.sender == "h0"
    assert len(set(error.digests)) == 2


@pytest.mark.parametrize("what", ["plaintext", "proof", "unreduced"])
def test_a_wrong_opening_of_the_one_key_is_named(what: str) -> None:
    plan = one_key_plan()

    def change(world: PaillierWorld, frame: bytes) -> bytes:
        if what == "plaintext":
            return one_more(world, frame)
        _, tail = world.parts(frame)
        if what == "proof":
            return world.reseal(frame, tail=tail[:-1] + bytes([tail[-1] ^ 1]))
        size = messages.opened_size(plan)
        value = int.from_bytes(tail[:size], "little") % world.key.n + world.key.n
        most = (1 << 8 * size) - 1
        return world.reseal(frame, tail=min(value, most).to_bytes(size, "little") + tail[size:])

    world = PaillierWorld(plan)

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        return [change(world, frame)] if kind == messages.OPENED.number else None

    world.edit = edit
    with pytest.raises(secagg.ThresholdError) as caught:
        world.run()
    assert (caught.value.step, caught.value.have) == ("reveal", 0)
    (error,) = world.errors("server")
    assert (error.rule, error.sender) == ("opening-proof", "h0")


def test_a_holder_needs_its_own_share_of_the_plans_own_key() -> None:
    plan = make_plan()
    (_, first), other = dealt(3, 2)[1][:2], split(private_key(), 3, 2)[1]
    bad: list[Any] = [first, other[0], dealt(2, 2)[1][0], private_key(), None, b"share"]
    for share in bad:
        with pytest.raises(secagg.MisuseError) as caught:
            PaillierWorld(plan, shares={"h0": share})
        assert caught.value.rule == "own-share"
    for share in (dealt(3, 2)[1][0], private_key(number=1), None):
        with pytest.raises(secagg.MisuseError) as caught:
            PaillierWorld(one_key_plan(), shares={"h0": share})  # type: ignore[dict-item]
        assert caught.value.rule == "own-share"


def test_traffic_is_counted_to_the_byte() -> None:
    world = check(PaillierWorld(make_plan()).run())
    assert world.result is not None
    first, second = world.result.traffic
    sizes: dict[tuple[int, str], int] = {}
    for kind, sender, to, frame in world.frames:
        way = "in" if to == "server" else "out"
        sizes[kind, way] = sizes.get((kind, way), 0) + len(frame)
        assert sender != to
    encrypted, opening = messages.ENCRYPTED.number, messages.OPEN.number
    assert first.received == sizes[encrypted, "in"]
    assert first.sent == sizes[encrypted, "out"] + sizes[opening, "out"]
    assert sizes[encrypted, "out"] == 3 * sizes[encrypted, "in"]
    assert second.received == sizes[messages.OPENED.number, "in"]
    assert second.sent == sizes[messages.RESULT.number, "out"]
