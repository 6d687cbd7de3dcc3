"""Statistics on synthetic timings: what a median, a ratio, a verdict and a slope are."""

from __future__ import annotations

import gc
import math

import pytest

from secagg.bench import measure
from secagg.bench.measure import Spread
from secagg.bench.results import Bar, Verdict


def test_five_numbers() -> None:
    assert measure.spread([5, 1, 4, 2, 3]) == Spread(1, 2, 3, 4, 5)
    # Quartiles interpolate: between 1 and 2 a quarter of the way, with the extremes included.
    assert measure.spread([1, 2]) == Spread(1, 1.25, 1.5, 1.75, 2)
    assert measure.spread([7.5]) == Spread(7.5, 7.5, 7.5, 7.5, 7.5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_sample_without_a_median(values: list[float]) -> None:
    with pytest.raises(ValueError, match="median"):
        measure.spread(values)


def test_a_ratio_is_of_medians_and_its_spread_of_neighbours() -> None:
    # The machine was half as fast during the second sample: both suffer, their ratio does not.
    peer, ours = [100.0, 200.0, 101.0], [10.0, 20.0, 10.0]
    figure, pairs = measure.ratio(peer, ours)
    assert figure == 10.1
    assert pairs == Spread(10, 10, 10, pytest.approx(10.05), 10.1)


def test_a_ratio_of_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same length"):
        measure.ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive"):
        measure.ratio([1.0], [0.0])


def test_works_take_turns_and_are_warmed_up() -> None:
    seen: list[str] = []
    found = measure.alternate(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, runs=3, least=0.0
    )
    assert "".join(seen) == "ab" + "ab" * 3
    assert {name: len(samples) for name, samples in found.items()} == {"a": 3, "b": 3}


def test_more_samples_while_there_is_time_but_not_without_end() -> None:
    found = measure.alternate({"a": lambda: None}, runs=2, seconds=60.0, least=0.0)
    assert len(found["a"]) == measure.MOST_RUNS


def test_a_short_work_is_called_often_enough_for_the_clock() -> None:
    # The machine may be elsewhere for a moment.
    assert max(measure.calls_for(lambda: None, 1e-3) for _ in range(5)) > 100
    assert measure.calls_for(lambda: sum(range(200_000)), 1e-6) == 1


def test_the_collector_is_off_while_timing_and_back_afterwards() -> None:
    states: list[bool] = []
    measure.alternate({"a": lambda: states.append(gc.isenabled())}, runs=2, least=0.0)
    assert states[-2:] == [False, False]
    assert gc.isenabled()
    gc.disable()
    try:
        with measure.undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_exponent_and_line() -> None:
    x = [10.0, 20.0, 50.0]
    assert measure.power(x, [3 * value**0.5 for value in x]) == pytest.approx(0.5)
    intercept, slope, fit = measure.line(x, [2 + 0.25 * value for value in x])
    assert (intercept, slope, fit) == (pytest.approx(2), pytest.approx(0.25), pytest.approx(1))
    assert measure.line([1, 2, 3, 4], [1, 3, 2, 4])[2] == pytest.approx(0.64)
    assert measure.line([1, 2], [5, 5]) == (5, 0, 1)


def test_slopes_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="two points"):
        measure.power([1.0], [1.0])
    with pytest.raises(ValueError, match="two points"):
        measure.power([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="two distinct"):
        measure.line([1.0, 1.0], [1.0, 2.0])


AT_LEAST = Bar(id="case/fast", text="as fast as that", bar=10.0)
AT_MOST = Bar(id="case/small", text="as small as that", bar=10.0, sense="at most", unit="MiB")


@pytest.mark.parametrize(
    ("bar", "figure", "met"),
    [
        (AT_LEAST, 10.0, True),
        (AT_LEAST, 9.99, False),
        (AT_MOST, 10.0, True),
        (AT_MOST, -1.0, True),
        (AT_MOST, 10.01, False),
        (AT_LEAST, None, None),
        (AT_LEAST, math.nan, None),
        (AT_LEAST, math.inf, None),
        (AT_MOST, -math.inf, None),
    ],
)
def test_met_missed_or_not_measured(bar: Bar, figure: float | None, met: bool | None) -> None:
    verdict = Verdict(bar=bar, figure=figure)
    assert verdict.met is met
    assert verdict.word == {True: "met", False: "missed", None: "not measured"}[met]


def test_a_figure_with_a_reason_does_not_count() -> None:
    assert Verdict(bar=AT_LEAST, figure=99.0, reason="sizes of a quick run").met is None
