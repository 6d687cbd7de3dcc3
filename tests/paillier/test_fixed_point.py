"""Reals as integers of a ring, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import MisuseError, PlanError, SecAggError
from secagg_protocols.paillier.packing import Layout
from secagg_protocols.paillier.vector import Ciphertexts, FixedPoint, encrypt, open_with, signed
from support.paillier_keys import private_key, public_key

BITS = 1024
POINT = FixedPoint(places=8, limit=100.0)
ROOM = Layout(bits=POINT.bits(10), most=10, length=60, key_bits=BITS)


def refused(rule, kind, call, *args):
    """The error of a call that must be refused by ``rule``."""
    with pytest.raises(SecAggError) as caught:
        call(*args)
    assert type(caught.value) is kind
    assert caught.value.rule == rule
    return caught.value


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_reals_are_rounded_as_fractions_are(data):
    """Half to even at 2^-places, by exact fractions, for every float within the limit."""
    places = data.draw(st.integers(0, 70))
    top = 2.0 ** data.draw(st.integers(-10, 30)) * data.draw(st.floats(1, 2))
    levels = round(Fraction(top) * 2**places)
    if not 1 <= levels <= 2**58:
        if not 1 <= levels <= 2**62:
            refused("precision", PlanError, FixedPoint, places, top)
        return
    point = FixedPoint(places, top)
    assert point.levels == levels
    layout = Layout(point.bits(3), 3, 6, BITS)
    ties = st.integers(-levels, levels - 1).map(lambda k: math.ldexp(2 * k + 1, -places - 1))
    values = data.draw(
        st.lists(
            st.floats(-top, top) | ties.filter(lambda x: abs(x) <= top), min_size=6, max_size=6
        )
    )
    for kind in (np.float64, np.float32):
        x = np.array(values, kind)
        # Rounded to float32, a value may lie beyond the limit.
        x[np.abs(x.astype(np.float64)) > top] = 0
        got = signed(point.encode(x, layout), layout.bits)
        want = [round(Fraction(float(v)) * 2**places) for v in x]
        assert got.tolist() == want
        back = point.decode(point.encode(x, layout), layout.bits)
        assert back.tolist() == [float(Fraction(w, 2**places)) for w in want]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("places", [0, 3])
def test_integers_are_taken_as_they_are(kind, places):
    point = FixedPoint(places, 100)
    layout = Layout(point.bits(2), 2, 4, BITS)
    low = 0 if np.dtype(kind).kind == "u" else -100
    x = np.array([low, 1, 7, 100], kind)
    assert signed(point.encode(x, layout), layout.bits).tolist() == [int(v) << places for v in x]
    assert point.decode(point.encode(x, layout), layout.bits).tolist() == x.tolist()
    for beyond in (101, np.iinfo(kind).max, np.iinfo(kind).min):
        if -100 <= int(beyond) <= 100:
            continue
        x[2] = beyond
        assert "index 2 " in str(refused("input-range", MisuseError, point.encode, x, layout))


def test_large_integers_keep_every_bit():
    point = FixedPoint(0, 2**62)
    layout = Layout(point.bits(1), 1, 3, BITS)
    assert layout.bits == 64
    x = np.array([-(2**62), 2**62 - 1, 2**53 + 1])
    assert signed(point.encode(x, layout), 64).tolist() == x.tolist()
    odd = FixedPoint(0, 2**62 - 1)
    exact = np.array([math.nextafter(2.0**62, 0), 0.0, -1.0])
    assert signed(odd.encode(exact, layout), 64).tolist() == [2**62 - 2**9, 0, -1]
    refused("input-range", MisuseError, odd.encode, np.full(3, 2.0**62), layout)


def test_a_sum_of_reals_is_that_of_the_rounded():
    rng = np.random.default_rng(8)
    vectors = [rng.uniform(-100, 100, 60) for _ in range(3)]
    encrypted = [
        encrypt(public_key(), POINT.encode(x, ROOM), ROOM, places=POINT.places, weight=w)
        for x, w in zip(vectors, (1, 2, 7), strict=True)
    ]
    total = Ciphertexts.sum_of(encrypted)
    got = POINT.decode(open_with(private_key(), total), ROOM.bits)
    want = sum(w * np.rint(x * 256) for x, w in zip(vectors, (1, 2, 7), strict=True)) / 256
    assert np.array_equal(got, want)


def test_the_ring_has_room_for_the_largest_sum_and_not_more():
    for places, limit, most in ((0, 1, 1), (8, 100.0, 10), (3, 15.875, 7), (0, 2**31 - 1, 2**31)):
        point = FixedPoint(places, limit)
        bits = point.bits(most)
        assert most * point.levels <= 2 ** (bits - 1) - 1
        assert most * point.levels > 2 ** (bits - 2) - 1
        x = np.array([limit, -limit])
        layout = Layout(bits, most, 2, BITS)
        total = most * signed(point.encode(x, layout), bits).astype(object)
        ringed = np.array([int(v) % 2**bits for v in total], np.uint64)
        assert signed(ringed, bits).tolist() == total.tolist()
        if bits > 1:
            small = Layout(bits - 1, most, 2, BITS)
            refused("precision", MisuseError, point.encode, x, small)
    refused("precision", PlanError, FixedPoint(0, 2**62).bits, 2)


@pytest.mark.parametrize(
    ("rule", "index", "value"),
    [
        ("input-finite", 3, math.nan),
        ("input-finite", 0, math.inf),
        ("input-finite", 59, -math.inf),
        ("input-range", 7, math.nextafter(100.0, 101)),
        ("input-range", 8, -123.4375),
    ],
)
def test_a_number_is_refused_by_its_index_and_not_by_its_value(rule, index, value):
    x = np.zeros(60)
    x[index:] = value
    error = refused(rule, MisuseError, POINT.encode, x, ROOM)
    assert f"index {index} " in str(error)
    assert "123" not in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("rule", "x"),
    [
        ("input-dtype", np.zeros(60, bool)),
        ("input-dtype", np.zeros(60, complex)),
        ("input-dtype", np.zeros(60, object)),
        ("input-dtype", np.full(60, "1")),
        ("input-dtype", [0.0] * 60),
        ("input-shape", np.zeros(61)),
        ("input-shape", np.zeros((60, 1))),
    ],
)
def test_an_array_of_another_kind_is_refused(rule, x):
    refused(rule, MisuseError, POINT.encode, x, ROOM)


def test_extended_floats_are_refused_where_there_are_any():
    if np.dtype(np.longdouble).itemsize > 8:
        refused("input-dtype", MisuseError, POINT.encode, np.zeros(60, np.longdouble), ROOM)
    assert not POINT.encode(np.zeros(60, np.float16), ROOM).any()


@pytest.mark.parametrize(
    ("places", "limit", "field"),
    [
        (-1, 1.0, "places"),
        (1023, 1.0, "places"),
        (8.0, 1.0, "places"),
        (True, 1.0, "places"),
        (8, 0, "limit"),
        (8, -1.0, "limit"),
        (8, math.nan, "limit"),
        (8, math.inf, "limit"),
        (8, "1", "limit"),
        (8, True, "limit"),
        (8, 2.0**-10, "limit"),
        (0, 0.5, "limit"),
        (0, 2**62 + 1, "limit"),
        (0, 10**400, "limit"),
        (0, 1e300, "limit"),
        (1, 2.0**62, "limit"),
        (63, 1.0, "limit"),
        (1022, 2.0**62, "limit"),
    ],
)
def test_precisions_out_of_range_are_refused(places, limit, field):
    with pytest.raises(PlanError) as caught:
        FixedPoint(places, limit)
    assert (caught.value.rule, caught.value.field) == ("precision", field)


def test_the_smallest_places():
    point = FixedPoint(1022, 2.0**-970)
    layout = Layout(point.bits(2), 2, 3, BITS)
    x = np.array([2.0**-970, -(2.0**-1022), 5e-324])
    assert signed(point.encode(x, layout), layout.bits).tolist() == [2**52, -1, 0]
    assert point.decode(point.encode(x, layout), layout.bits).tolist() == [
        2.0**-970,
        -(2.0**-1022),
        0,
    ]


@pytest.mark.parametrize("bits", [1, 2, 13, 32, 63, 64])
def test_signed_representatives(bits):
    half = 2 ** (bits - 1)
    values = [0, half - 1, half, 2 * half - 1]
    for lane in (np.uint16, np.uint32, np.uint64):
        if 8 * np.dtype(lane).itemsize >= bits:
            got = signed(np.array(values, lane), bits)
            assert got.dtype == np.int64
            assert got.tolist() == [0, half - 1, -half, -1]


@pytest.mark.parametrize("most", [0, -1, 2**32 + 1, 1.0, True, "x", None])
def test_a_bound_of_weights_is_an_integer(most):
    assert refused("precision", PlanError, POINT.bits, most).field == "most"


def test_arguments_of_another_type_are_named():
    error = refused("arguments", MisuseError, POINT.encode, np.zeros(60), None)
    assert "layout: a Layout is needed, not None" in str(error)
    sums = np.zeros(3, np.uint64)
    for ring, bits in (
        (None, 8), ([0], 8), (sums.astype(float), 8),
        (sums, 0), (sums, 65), (sums, 8.0), (sums, None),
    ):  # fmt: skip
        refused("arguments", MisuseError, POINT.decode, ring, bits)
