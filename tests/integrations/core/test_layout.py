"""Arrays as one vector and back, and metrics beside them in a sum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from integrations.core.world import World, quick

import secagg
from secagg.integrations.layout import Layout, Metrics, tell_norm
from secagg.integrations.site import Contribution
from secagg_protocols.errors import MisuseError
from support.sessions import session_plan

__all__ = ["quick"]
FLOATS = {np.float16: 100.0, np.float32: 1e6, np.float64: 1e12}
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def refused(rule: str, act: Any, *args: Any, **more: Any) -> None:
    with pytest.raises(MisuseError) as caught:
        act(*args, **more)
    assert caught.value.rule == rule


@st.composite
def pairs(draw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two models of one layout: arrays of any shape, scalars and empty ones among them."""
    names = draw(st.lists(st.text(max_size=5), max_size=4, unique=True))
    new, base = {}, {}
    for name in names:
        kind = np.dtype(draw(st.sampled_from([*FLOATS, *INTEGERS])))
        shape = draw(SHAPES)
        if kind.kind == "f":
            most = FLOATS[kind.type]
            width = 8 * kind.itemsize
            limit = float(np.array(most, dtype=kind))
            elements: Any = st.floats(-limit, limit, width=width, allow_subnormal=False)
        else:
            limits = np.iinfo(kind)
            elements = st.integers(int(limits.min), int(limits.max))
        arrays = hnp.arrays(kind, shape, elements=elements)
        new[name], base[name] = draw(arrays), draw(arrays)
    return new, base


@given(pairs())
def test_a_difference_that_is_applied_gives_the_model_back(
    models: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    new, base = models
    layout = Layout.of(base)
    found = layout.difference(new, base)
    narrow = all(a.dtype in (np.float16, np.float32) for a in base.values())
    assert found.shape == (layout.size,)
    assert found.dtype == (np.float32 if narrow else np.float64)
    back = layout.apply(base, found)
    assert list(back) == list(base)
    for name, want in new.items():
        got = back[name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            # Rounded twice: the difference, and the result in the array's own type.
            scale = np.maximum(np.abs(want), np.abs(base[name])).astype(np.float64)
            eps = max(np.finfo(want.dtype).eps, np.finfo(found.dtype).eps)
            wide = np.abs(got.astype(np.float64) - want.astype(np.float64))
            assert np.all(wide <= 3 * eps * scale + np.finfo(want.dtype).tiny)
        else:
            assert np.array_equal(got, want)


@given(pairs())
def test_nothing_is_changed_by_a_mean_of_zero_or_in_its_place(
    models: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    new, base = models
    kept = {name: array.copy() for name, array in base.items()}
    layout = Layout.of(base)
    layout.difference(new, base)
    back = layout.apply(base, np.zeros(layout.size))
    for name, array in base.items():
        assert np.array_equal(array, kept[name])
        assert np.array_equal(back[name], array)
        assert not np.shares_memory(back[name], array) or array.size == 0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_wide_integers_stay_what_they_are(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    values = [limits.min, limits.max, limits.max - 1, (1 << 53) + 1, 7]
    base = {"steps": np.array(values, dtype=dtype)}
    layout = Layout.of(base)
    back = layout.apply(base, np.zeros(len(values)))
    assert back["steps"].tolist() == values


def test_whole_numbers_are_rounded_within_their_type() -> None:
    base = {"a": np.array([250, 3, 0], dtype=np.uint8), "b": np.array(-100, dtype=np.int8)}
    layout = Layout.of(base)
    back = layout.apply(base, np.array([300.0, 0.6, -5.0, -1e9]))
    assert back["a"].tolist() == [255, 4, 0]
    assert back["b"].tolist() == -128


def test_the_order_of_names_is_the_layouts() -> None:
    base = {"b": np.array([1.0, 2.0]), "a": np.array(3.0)}
    layout = Layout.of(base)
    assert layout.names == ("b", "a")
    new = {"a": np.array(5.0), "b": np.array([1.0, 4.0])}
    assert layout.difference(new, base).tolist() == [0.0, 2.0, 2.0]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"a": np.zeros(3)},
        {"a": np.zeros(3), "c": np.zeros(2)},
        {"a": np.zeros(3), "b": np.zeros(3)},
        {"a": np.zeros((3, 1)), "b": np.zeros(2)},
        {"a": np.zeros(3), "b": np.zeros(2), "c": np.zeros(0)},
        {"a": np.zeros(3), "b": np.array(["x", "y"])},
        {"a": np.zeros(3), "b": np.array([1j, 2])},
        {"a": np.zeros(3), "b": np.array([None, 1], dtype=object)},
    ],
)
def test_another_model_is_refused(other: dict[str, Any]) -> None:
    base = {"a": np.zeros(3), "b": np.zeros(2)}
    layout = Layout.of(base)
    refused("layout", layout.difference, other, base)
    refused("layout", layout.difference, base, other)
    refused("layout", layout.apply, other, np.zeros(5))


@pytest.mark.parametrize(
    "value",
    [
        np.array([True]),
        np.array([1j]),
        np.array(["x"]),
        np.array([None]),
        np.array([1], dtype="m8[s]"),
        np.zeros(2, dtype=np.longdouble),
        np.zeros(2, dtype=[("x", "f4")]),
        [[1, 2], "x"],
    ],
)
def test_arrays_of_no_real_numbers_are_refused(value: Any) -> None:
    with pytest.raises((MisuseError, ValueError)):
        Layout.of({"a": value})


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), ()])
def test_a_mean_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    base = {"a": np.zeros(3), "b": np.zeros(2)}
    refused("layout", Layout.of(base).apply, base, np.zeros(shape))


# Canonical bytes.


@given(pairs())
def test_bytes_do_not_depend_on_how_arrays_lie_in_memory(
    models: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    arrays, _ = models
    want = Layout.encode(arrays)
    swapped = {n: a.astype(a.dtype.newbyteorder(">")) for n, a in arrays.items()}
    fortran = {n: np.asfortranarray(a).reshape(a.shape, order="F") for n, a in arrays.items()}
    strided = {n: np.repeat(a[..., None], 2, axis=-1)[..., 0] for n, a in arrays.items()}
    for others in (swapped, fortran, strided):
        assert Layout.encode(others) == want


def test_bytes_tell_different_models_apart() -> None:
    zero = np.zeros(4, dtype=np.float32)
    models: list[dict[str, Any]] = [
        {},
        {"a": zero},
        {"b": zero},
        {"a": zero, "b": zero},
        {"b": zero, "a": zero},
        {"a": zero.reshape(2, 2)},
        {"a": zero.reshape(4, 1)},
        {"a": zero.astype(np.float64)},
        {"a": zero.view(np.int32)},
        {"a": zero[:2], "b": zero[2:]},
        {"a": np.zeros((0, 3))},
        {"a": np.zeros((3, 0))},
        {"a": np.array([0, 0, 0, 1e-45], dtype=np.float32)},
    ]
    assert len({Layout.encode(model) for model in models}) == len(models)


def test_objects_have_no_canonical_bytes() -> None:
    """Their bytes would be addresses in memory: different at every site, and nobody's business."""
    refused("layout", Layout.encode, {"a": np.array([None, "text"], dtype=object)})


# Metrics.


def plan_of(length: int, clip: Any, levels: int = 1 << 16, max_weight: int = 1) -> secagg.Plan:
    stages = (clip, secagg.Quantise(levels, "nearest"))
    return session_plan(length=length, stages=stages, max_weight=max_weight)[0]


clips = st.sampled_from([secagg.ClipL2(0.25), secagg.ClipL2(1e6), secagg.ClipLinf(2.0)])
values = st.floats(-1.0, 1.0)


@given(clips, st.integers(0, 6), st.lists(values, min_size=1, max_size=5), st.floats(-5, 12))
def test_metrics_come_through_whatever_the_update_is(
    clip: Any, length: int, ratios: list[float], power: float
) -> None:
    """The plan's own first stage changes no metric, also where it would clip the update."""
    bounds = {f"m{i}": 10.0 ** (i - 2) for i in range(len(ratios))}
    metrics = Metrics(bounds)
    plan = plan_of(length + metrics.size, clip)
    given_ = {
        name: ratio * bound for ratio, (name, bound) in zip(ratios, bounds.items(), strict=True)
    }
    update = np.linspace(-1, 1, length) * 10.0**power
    vector = metrics.join(update, given_, plan)
    assert vector.shape == (plan.length,)
    tail = vector[length:]
    if isinstance(clip, secagg.ClipL2):
        assert np.linalg.norm(vector) <= clip.clip
        if length and np.any(update):
            # Clipped in its length and not in its direction.
            head = vector[:length]
            cosine = head @ update / (np.linalg.norm(head) * np.linalg.norm(update))
            assert cosine > 1 - 1e-9
    else:
        assert np.all(np.abs(tail) <= clip.clip)
        assert np.array_equal(vector[:length], update)
    rest, found = metrics.split(vector, plan)
    assert rest.shape == (length,)
    for name, value in given_.items():
        assert math.isclose(found[name], value, rel_tol=1e-12, abs_tol=1e-12 * bounds[name])


@pytest.mark.parametrize("count", [1, 100, 129, 1000])
@pytest.mark.parametrize("length", [0, 1, 50])
def test_many_metrics_leave_room_for_the_update(count: int, length: int) -> None:
    metrics = Metrics({f"m{i}": 1.0 for i in range(count)})
    plan = plan_of(length + count, secagg.ClipL2(3.0))
    vector = metrics.join(np.full(length, 1e9), dict.fromkeys(metrics.bounds, -1.0), plan)
    assert np.linalg.norm(vector) <= 3.0
    if length:
        assert np.linalg.norm(vector[:length]) >= 2.0
    found = metrics.split(vector, plan)[1]
    assert all(math.isclose(value, -1.0, rel_tol=1e-12) for value in found.values())


def test_without_metrics_nothing_is_touched() -> None:
    plan = plan_of(3, secagg.ClipL2(1.0))
    update = np.array([9.0, 9.0, 9.0])
    assert Metrics().join(update, {"loss": 1.0}, plan) is update
    assert Metrics({}).split(update, plan) == (update, {})


@pytest.mark.parametrize(
    "value",
    [None, "0.5", b"1", [0.5], (0.5,), math.nan, math.inf, -math.inf, {}, object(), 1j, np.ones(2)],
)
def test_a_metric_that_is_no_number_is_refused(value: Any) -> None:
    plan = plan_of(3, secagg.ClipL2(1.0))
    refused("metrics", Metrics({"loss": 1.0}).join, np.zeros(2), {"loss": value}, plan)
    refused("metrics", Metrics({"loss": 1.0}).join, np.zeros(2), {}, plan)


def test_a_metric_beyond_its_bound_is_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(3, secagg.ClipLinf(1.0))
    metrics = Metrics({"loss": 2.0})
    with caplog.at_level("WARNING", logger="secagg.integrations"):
        vector = metrics.join(np.zeros(2), {"loss": -7.25}, plan)
    assert metrics.split(vector, plan)[1] == {"loss": -2.0}
    assert "this site: metric 'loss' is beyond its bound" in caplog.text
    assert "7.25" not in caplog.text
    caplog.clear()
    metrics.join(np.zeros(2), {"loss": -7.25}, plan, "north: round 4")
    assert "north: round 4: metric 'loss' is beyond its bound" in caplog.text


@pytest.mark.parametrize("clip", [secagg.ClipL2(0.5), secagg.ClipLinf(0.5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_a_clip_that_bites_is_said_and_by_how_much_is_not(
    caplog: pytest.LogCaptureFixture, clip: Any, dtype: Any
) -> None:
    plan = plan_of(40_000, clip)
    x = np.zeros(40_000, dtype=dtype)
    with caplog.at_level("INFO", logger="secagg.integrations"):
        tell_norm(x, plan, "north: round 4")
        assert caplog.text == ""
        x[[1, 20_000, -1]] = [2, -6, 3]  # norm 7, largest 6
        tell_norm(x, plan, "north: round 4")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["north: round 4: the update is beyond the plan's clip 0.5, and is clipped"]
    with caplog.at_level("DEBUG", logger="secagg.integrations"):
        tell_norm(x, plan, "north: round 4")
    norm = 7 if isinstance(clip, secagg.ClipL2) else 6
    assert f"north: round 4: the update's norm is {norm}\n" in caplog.text


def test_a_norm_beyond_all_numbers_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    tell_norm(np.full(3, 1e300), plan_of(3, secagg.ClipL2(0.5)), "north")
    assert "is clipped" in caplog.text


def test_an_update_that_makes_room_for_metrics_says_so(caplog: pytest.LogCaptureFixture) -> None:
    plan, metrics = plan_of(3, secagg.ClipL2(1.0)), Metrics({"loss": 2.0})
    metrics.join(np.array([0.5, 0.5]), {"loss": 1.0}, plan, "north")
    assert caplog.text == ""
    vector = metrics.join(np.array([5.0, 5.0]), {"loss": 1.0}, plan, "north")
    assert "north: the update is beyond the plan's clip" in caplog.text
    caplog.clear()
    tell_norm(vector, plan, "north")  # once is enough
    assert caplog.text == ""


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), 1, True])
def test_numbers_of_all_kinds_are_metrics(value: Any) -> None:
    plan = plan_of(3, secagg.ClipLinf(1.0))
    metrics = Metrics({"m": 1})
    found = metrics.split(metrics.join(np.zeros(2), {"m": value}, plan), plan)[1]
    assert found == {"m": float(value)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_huge_update_keeps_its_direction(dtype: Any) -> None:
    """A model that diverged is clipped, as the plan would clip it, and not erased."""
    plan = plan_of(3, secagg.ClipL2(1.0))
    huge = (
        np.array([3e38, -3e38], dtype=dtype) if dtype == np.float32 else np.array([1e200, -1e200])
    )
    vector = Metrics({"m": 1.0}).join(huge, {"m": 0.5}, plan)
    assert np.linalg.norm(vector[:2]) > 0.9
    assert vector[0] == -vector[1]


def test_whole_numbers_beside_metrics_do_not_round_them_away() -> None:
    plan = plan_of(3, secagg.ClipL2(1.0))
    metrics = Metrics({"m": 1.0})
    found = metrics.split(metrics.join(np.zeros(2, dtype=int), {"m": 0.5}, plan), plan)[1]
    assert math.isclose(found["m"], 0.5, rel_tol=1e-12)


@pytest.mark.parametrize(
    "bounds",
    [
        {"m": 0},
        {"m": -1.0},
        {"m": math.nan},
        {"m": math.inf},
        {"m": "1"},
        {"m": None},
        {"m": True},
        {3: 1.0},
        {"m": 10**400},
    ],
)
def test_a_bound_is_a_number_above_zero(bounds: Any) -> None:
    refused("metrics", Metrics, bounds)


def test_two_lists_are_metrics() -> None:
    assert Metrics.decode(["a", "b"], [1.0, 2.0]).bounds == {"a": 1.0, "b": 2.0}
    refused("metrics", Metrics.decode, ["a"], [1.0, 2.0])
    refused("metrics", Metrics.decode, ["a", "a"], [1.0, 2.0])
    assert Metrics({"a": 1}).encode() == Metrics({"a": 1.0}).encode()
    assert Metrics({"a": 1}).encode() != Metrics({"a": 2}).encode()
    assert Metrics({"a": 1, "b": 1}).encode() != Metrics({"b": 1, "a": 1}).encode()


def test_plan_and_layout_and_metrics_have_to_fit() -> None:
    layout = Layout.of({"w": np.zeros(4)})
    Metrics({"m": 1.0}).check(plan_of(5, secagg.ClipL2(1.0)), layout)
    Metrics().check(plan_of(4, secagg.ClipL2(1.0)), layout)
    refused("layout", Metrics().check, plan_of(5, secagg.ClipL2(1.0)), layout)
    refused("layout", Metrics({"m": 1.0}).check, plan_of(4, secagg.ClipL2(1.0)), layout)
    whole = session_plan(length=5)[0]
    refused("layout", Metrics().check, session_plan(length=4)[0], layout)
    refused("layout", Metrics({"m": 1.0}).check, whole, layout)
    refused("metrics", Metrics({"m": 1.0}).join, np.zeros(4), {"m": 1.0}, whole)


@pytest.mark.parametrize("clip", [secagg.ClipL2(1.0), secagg.ClipLinf(0.5)])
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_the_means_of_a_round_are_weighted(tmp_path: Path, clip: Any, rounding: Any) -> None:
    """Weighted means of model and metrics, through a real round, within the stated resolution."""
    levels, bound = 1 << 16, 8.0
    base: dict[str, Any] = {"w": np.ones((2, 2), dtype=np.float32), "b": np.zeros(1)}
    layout, metrics = Layout.of(base), Metrics({"loss": bound, "correct": 1.0})
    plan, identities = session_plan(
        "semi-honest",
        length=layout.size + metrics.size,
        stages=(clip, secagg.Quantise(levels, rounding)),
        max_weight=100,
    )
    metrics.check(plan, layout)
    weights = {"site-0": 1, "site-1": 100, "site-2": 37, "site-3": 5}
    rng = np.random.default_rng(8)
    moved = {
        n: {k: v + 0.05 * rng.standard_normal(v.shape) for k, v in base.items()} for n in weights
    }
    # One site's update is far beyond the clip, and its metrics count as they are.
    moved["site-2"] = {k: v + 1e6 for k, v in base.items()}
    told = {n: {"loss": float(rng.uniform(-8, 8)), "correct": i / 4} for i, n in enumerate(weights)}
    vectors = {n: metrics.join(layout.difference(moved[n], base), told[n], plan) for n in weights}
    world = World(tmp_path / "p", plan, identities)
    for name, vector in vectors.items():
        world.works[name] = lambda _, v=vector, n=name: Contribution(v, weights[n], world.model)
    found = world.run()
    total = sum(weights.values())
    assert found.weight == total
    mean, shown = metrics.split(found.mean, plan)
    part = 16 if isinstance(clip, secagg.ClipL2) else 1
    for name, most in metrics.bounds.items():
        want = sum(weights[n] * told[n][name] for n in weights) / total
        assert abs(shown[name] - want) <= most * part / levels
    limit = clip.clip / levels
    clipped = np.stack([np.clip(v[: layout.size], -clip.clip, clip.clip) for v in vectors.values()])
    want = np.average(clipped, axis=0, weights=list(weights.values()))
    assert np.all(np.abs(mean - want) <= limit * (1 + 1e-6))
    after = layout.apply(base, mean)
    assert after["w"].dtype == np.float32
    assert after["b"].shape == (1,)


@pytest.mark.parametrize("clip", [secagg.ClipL2(3.0), secagg.ClipLinf(0.5)])
@pytest.mark.parametrize(("size", "count"), [(0, 1), (0, 5), (7, 1), (7, 3), (7, 40)])
def test_a_metric_is_summed_in_the_steps_that_are_told(
    clip: Any, size: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One quantisation level more or less in a metric's coordinate moves the metric by a step."""
    plan, layout = plan_of(size + count, clip), Layout.of({"w": np.zeros(size)})
    metrics = Metrics({f"m{number}": 10.0**number for number in range(count)})
    (levels,) = [stage.levels for stage in plan.stages if isinstance(stage, secagg.Quantise)]
    found = metrics.steps(plan, layout)
    for at, name in enumerate(metrics.bounds):
        vector = np.zeros(size + count)
        vector[size + at] = clip.clip / levels
        assert metrics.split(vector, plan)[1][name] == pytest.approx(found[name], rel=1e-9)
    with caplog.at_level("INFO", logger="secagg.integrations"):
        metrics.tell_steps(plan, layout)
    assert len(caplog.records) == count
    assert f"metric 'm0' is summed in steps of {found['m0']:.2g} " in caplog.text
    assert Metrics().steps(plan_of(7, clip), Layout.of({"w": np.zeros(7)})) == {}


def test_a_wider_result_of_a_narrow_model_keeps_its_precision() -> None:
    base = {"w": np.full(3, 1e6, np.float32)}
    new = {"w": np.full(3, 1e6 + 0.01)}
    moved = Layout.of(base).difference(new, base)
    assert moved.dtype == np.float64
    np.testing.assert_allclose(moved, 0.01, rtol=1e-6)


def test_ragged_lists_are_no_arrays() -> None:
    with pytest.raises(MisuseError) as caught:
        Layout.of({"w": [[1.0], [2.0, 3.0]]})  # type: ignore[dict-item]
    assert caught.value.rule == "layout"
