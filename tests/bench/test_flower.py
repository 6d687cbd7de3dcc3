"""Flower's round: the calls that the composition multiplies with, and the round itself."""

from __future__ import annotations

import pytest

from secagg.bench import flower, peers, rounds
from secagg.bench.sheet import Given

needs_flower = pytest.mark.skipif(bool(peers.missing("flwr")), reason=peers.missing("flwr"))


def test_calls_by_hand() -> None:
    """Three sites, one of which leaves after the keys are shared."""
    found = flower.calls(flower.Shape(clients=3, dropped=1, length=10, threshold=2))
    assert found["generate_key_pairs"] == 6
    assert found["create_shares"] == 6
    # 3 x 2 when shares are sealed, 2 x 2 when survivors mask, 1 x 2 at the server.
    assert found["generate_shared_key"] == 12
    assert (found["encrypt"], found["decrypt"]) == (6, 4)
    # Two survivors make 3 masks each; the server takes back 2 self masks and 2 pair masks.
    assert found["pseudo_rand_gen"] == 10
    # Each of them is added or subtracted, and the second vector is added to the first.
    assert found["parameters_addition or parameters_subtraction"] == 11
    assert found["combine_shares"] == 3
    assert found["quantize"] == 2


def test_every_counted_function_has_a_count() -> None:
    names = {
        part for name in flower.calls(flower.Shape(5, 1, 10, 3)) for part in name.split(" or ")
    }
    assert names == set(flower.COUNTED)


@needs_flower
@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_calls_are_those_of_a_real_round(dropped: int) -> None:
    shape = flower.Shape(clients=5, dropped=dropped, length=40, threshold=3)
    assert flower.check_calls(shape) == flower.calls(shape)


@needs_flower
def test_a_wrong_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = flower.calls

    def wrong(shape: flower.Shape) -> dict[str, int]:
        return {**real(shape), "encrypt": 1}

    monkeypatch.setattr(flower, "calls", wrong)
    with pytest.raises(ValueError, match="encrypt"):
        flower.check_calls(flower.Shape(5, 1, 40, 3))


@needs_flower
def test_parts_carry_every_call_of_the_round() -> None:
    """A function that is timed at two sizes is called as often as both together say."""
    shape = flower.Shape(clients=5, dropped=1, length=40, threshold=3)
    calls: dict[str, int] = {}
    for part in flower.parts(shape):
        calls[part.function] = calls.get(part.function, 0) + part.calls
        part.work()
    expected = flower.calls(shape)
    # The weight beside each vector is one number: its encoding is not worth a row.
    for name in ("ndarray_to_bytes", "bytes_to_ndarray"):
        assert 2 * calls.pop(name) == expected.pop(name)
    assert expected.pop("factor_extract") == 1
    assert calls == expected


@needs_flower
def test_functions_are_as_before_after_counting() -> None:
    from flwr.server.workflow.secure_aggregation import secaggplus_workflow as workflow

    before = workflow.combine_shares
    with flower.counting() as seen:
        assert workflow.combine_shares is not before
    assert workflow.combine_shares is before
    assert not seen


@needs_flower
def test_a_real_round_says_what_a_client_sends() -> None:
    ran = flower.run(flower.Shape(clients=4, dropped=0, length=1000, threshold=3))
    # Eight bytes a coordinate, and keys, sealed shares and shares beside them.
    assert 8000 < ran.sent < 8000 + 4 * 4000
    assert ran.seconds > 0


def test_a_composed_round_is_calls_times_seconds() -> None:
    parts = [
        flower.Part("one", "", 3, lambda: None),
        flower.Part("two", "", 10, lambda: None),
    ]
    assert rounds.composition(parts, [2.0, 0.5]) == 11.0
    assert len(rounds.one_turn(parts)) == 2
    assert all(seconds >= 0 for seconds in rounds.one_turn(parts))


def test_the_plan_beside_flower_has_its_step_and_modulus() -> None:
    plan = rounds.flower_like_plan(100, 67, 10)
    assert (plan.wire_bits, plan.complete, plan.protocol.share_threshold) == (32, True, 67)
    assert plan.pipeline.bounds.high == peers.RANGE // 2
    assert not plan.signed


@needs_flower
def test_whole_round_case_with_the_peer() -> None:
    from secagg.bench.catalogue import CASES
    from secagg.bench.sheet import perform

    result = perform(CASES["round-100"], Given.of("tiny", threads=1, peers=True))
    assert [verdict.figure is not None for verdict in result.verdicts] == [True, True]
    assert len(result.listings) == 2
