"""Vectors in plaintexts: rings of any width, batches of rows, and what an opened integer tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.paillier_world import (
    BITS,
    PaillierWorld,
    make_plan,
    one_key_plan,
    private_key,
    trusting_plan,
)
from secagg_native.paillier import from_words
from secagg_protocols.paillier import Layout, threshold
from secagg_protocols.paillier_sum import client, costs, messages
from secagg_protocols.stages import Noise

QUICK = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("bits", [12, 16, 17, 31, 32, 33, 63, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_rings_of_any_width(bits: int, sign: int) -> None:
    """Sums at both ends of what the ring can hold."""
    most = ((1 << bits - 1) - 1) // 4
    stages = (secagg.Integers(-most, most),)
    plan = one_key_plan(stages=stages, bits=bits, length=3, max_weight=1)
    assert messages.layout_of(plan).bits == bits
    world = PaillierWorld(plan)
    for name in plan.roster.names:
        world.vectors[name] = np.array([sign * most, -sign * most, 0])
    world.run()
    assert world.result is not None
    assert world.result.sum.tolist() == [4 * sign * most, -4 * sign * most, 0]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_bytes_do_not_depend_on_the_batches(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: tuple[Any, ...] = (
        secagg.ClipL2(1.0),
        secagg.Rotate(),
        secagg.Quantise(1000),
        Noise(law="skellam", variance_levels2=100),
    )
    plan = make_plan(stages=stages, length=500)
    assert messages.layout_of(plan).rows == 4
    frames = []
    for size in (512, batch):
        monkeypatch.setattr(client, "BATCH", size)
        party = PaillierWorld(plan).parties["s0"]
        party.start()
        (send,) = party.submit(np.linspace(-1, 1, 500))
        frames.append(send.data)
    assert frames[0] == frames[1]


@pytest.mark.parametrize("plan", [one_key_plan(length=150), make_plan(length=150)])
def test_the_costs_are_those_of_a_round(plan: secagg.Plan) -> None:
    world = PaillierWorld(plan).run()
    cost = costs.round_cost(plan)
    assert cost.rows == messages.layout_of(plan).rows == 2

    def moved(kind: Any, *, to: str | None = None, sender: str | None = None) -> int:
        return sum(
            len(frame)
            for number, from_, at, frame in world.frames
            if number == kind.number and to in {None, at} and sender in {None, from_}
        )

    first, second = cost.steps
    assert first.site_sends == moved(messages.ENCRYPTED, sender="s0")
    assert first.server_receives == moved(messages.ENCRYPTED, to="server")
    assert first.holder_receives == moved(messages.ENCRYPTED, to="h0") + moved(
        messages.OPEN, to="h0"
    )
    assert second.holder_sends == moved(messages.OPENED, sender="h0")
    assert second.site_receives == cost.result == moved(messages.RESULT, to="s0")
    assert second.server_receives == moved(messages.OPENED)


# What is opened depends on the sum alone.


@QUICK
@given(
    st.lists(st.integers(-300, 300), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(-900, 900), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_the_opened_integer_does_not_tell_how_many_addends_were_negative(
    total: list[int], halves: list[list[int]]
) -> None:
    """The product of the protocol's own ciphertexts, opened as an integer by the tests' key."""
    plan = trusting_plan(
        3, stages=(secagg.Integers(-2200, 2200),), length=3, max_dropouts=0, min_honest=2
    )
    layout = messages.layout_of(plan)
    offset = 3 << layout.bits - 1
    expected = sum(
        (value + offset) << layout.slot_bits * place for place, value in enumerate(total)
    )
    a, b = halves
    splits = [
        (a, b, [t - x - y for t, x, y in zip(total, a, b, strict=True)]),
        (total, [0, 0, 0], [0, 0, 0]),
        ([-t for t in total], total, total),
    ]
    for parts in splits:
        world = PaillierWorld(plan)
        for name, part in zip(plan.roster.names, parts, strict=True):
            world.vectors[name] = np.array(part)
        world.send_inputs()
        product = world.server._product.value()
        assert from_words(private_key().decrypt(product)) == [expected]


@pytest.mark.parametrize("plan", [one_key_plan(), make_plan()], ids=["one key", "shares"])
def test_what_holders_see_is_the_sum_and_its_offset(plan: secagg.Plan) -> None:
    world = PaillierWorld(plan).run()
    layout = messages.layout_of(plan)
    assert layout == Layout(bits=plan.wire_bits, most=4, length=5, key_bits=BITS)
    opened = sum(
        (value + (4 << layout.bits - 1)) << layout.slot_bits * place
        for place, value in enumerate(world.weighed())
    )
    answers = {
        name: np.frombuffer(
            world.parts(world.frame(messages.OPENED, name))[1][: messages.opened_size(plan)], "<u8"
        )
        .astype(np.uint64)
        .reshape(layout.rows, -1)
        for name in world.holders
    }
    if len(world.holders) == 1:
        assert from_words(answers["h0"]) == [opened]
        return
    # Any two of the three answers give it, and one does not.
    for pair in ((1, 2), (1, 3), (2, 3)):
        rows = threshold.combine(world.key, {i: answers[f"h{i - 1}"] for i in pair})
        assert from_words(rows) == [opened]
    assert all(from_words(answer) != [opened] for answer in answers.values())
