"""Layouts against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.paillier.packing import Layout, SlotRangeError


def lane_of(bits):
    return next(d for d in (np.uint16, np.uint32, np.uint64) if 8 * np.dtype(d).itemsize >= bits)


def integers(rows):
    return [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in rows]


def words(values, count):
    data = b"".join(value.to_bytes(8 * count, "little") for value in values)
    return np.frombuffer(data, "<u8").astype(np.uint64).reshape(-1, count)


def carry_bits(most):
    """Bits that a sum of ``most`` may need beyond those of one element, found by counting."""
    return next(bits for bits in range(64) if most <= 2**bits)


@st.composite
def layouts(draw, longest=3):
    bits = draw(st.integers(1, 64))
    most = draw(st.one_of(st.integers(1, 50), st.integers(1, 2**32)))
    key_bits = 64 * draw(st.integers(2, 20))
    slots = Layout(bits, most, 1, key_bits).slots
    return Layout(bits, most, draw(st.integers(1, longest * slots)), key_bits)


@pytest.mark.parametrize(
    ("bits", "most", "key_bits", "slot_bits", "slots"),
    [
        (32, 10, 2048, 36, 56),  # 10 * (2^32 - 1) is below 2^36
        (32, 10, 3072, 36, 85),
        (1, 1, 2048, 1, 2047),
        (1, 3, 2048, 2, 1023),  # three bits add up to 3 and need two, not three
        (1, 4, 2048, 3, 682),
        (2, 5, 1024, 4, 255),  # 5 * 3 = 15 fits four bits; 5 alone needs three more than two
        (16, 1, 64, 16, 3),
        (64, 2**32, 128, 96, 1),
        (64, 1, 1024, 64, 15),  # 16 slots would fill the modulus to its highest bit
    ],
)
def test_slots_by_hand(bits, most, key_bits, slot_bits, slots):
    layout = Layout(bits, most, 1000, key_bits)
    assert (layout.slot_bits, layout.slots) == (slot_bits, slots)
    assert layout.rows == -(-1000 // slots)
    assert layout.words == key_bits // 64
    assert layout.canonical() == [bits, most, 1000, key_bits]


@given(layouts())
@settings(deadline=None)
def test_slots_are_as_narrow_as_the_largest_sum_allows(layout):
    largest = layout.most * (2**layout.bits - 1)
    assert 2 ** (layout.slot_bits - 1) <= largest < 2**layout.slot_bits
    assert layout.slot_bits <= layout.bits + carry_bits(layout.most)
    full = sum(largest << i * layout.slot_bits for i in range(layout.slots))
    assert full < 2 ** (layout.key_bits - 1)
    assert (layout.slots + 1) * layout.slot_bits > layout.key_bits - 1


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_weighted_sum_opens_to_the_weighted_sum_of_the_ring(data):
    layout = data.draw(layouts())
    modulus, half = 2**layout.bits, 2 ** (layout.bits - 1)
    weights = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    weights = [min(weight, layout.most) for weight in weights]
    while sum(weights) > layout.most:
        weights.pop()
    element = st.integers(0, modulus - 1) | st.sampled_from([0, half, half - 1, modulus - 1])
    length = st.lists(element, min_size=layout.length, max_size=layout.length)
    vectors = [data.draw(length) for _ in weights]
    total = [0] * layout.rows
    for vector, weight in zip(vectors, weights, strict=True):
        rows = layout.pack(np.array(vector, lane_of(layout.bits)))
        assert rows.shape == (layout.rows, layout.words)
        total = [t + weight * v for t, v in zip(total, integers(rows), strict=True)]

    def centred(value):
        return value - modulus if value >= half else value

    # The opened integers are those of the signed sums, and of nothing else.
    columns = list(zip(*vectors, strict=True))
    sums = [sum(w * centred(v) for w, v in zip(weights, c, strict=True)) for c in columns]
    parts = [sums[at : at + layout.slots] for at in range(0, layout.length, layout.slots)]
    offset = sum(weights) * half
    step = layout.slot_bits
    assert total == [sum(s + offset << i * step for i, s in enumerate(part)) for part in parts]

    out = np.full(layout.length, 1, lane_of(layout.bits))
    layout.unpack(words(total, layout.words), sum(weights), out)
    assert out.tolist() == [s % modulus for s in sums]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_rows_may_go_in_any_stretches(data):
    layout = data.draw(layouts(longest=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    top = 2**layout.bits - 1
    ring = rng.integers(0, top, layout.length, np.uint64, True).astype(lane_of(layout.bits))
    whole = layout.pack(ring)
    start = data.draw(st.integers(0, layout.rows - 1))
    rows = data.draw(st.integers(1, layout.rows - start))
    low, high = layout.span(start, rows)
    assert low == start * layout.slots
    assert high == min((start + rows) * layout.slots, layout.length)
    assert np.array_equal(layout.pack(ring[low:high], start), whole[start : start + rows])
    back = np.zeros(high - low, ring.dtype)
    layout.unpack(whole[start : start + rows], 1, back, start)
    assert np.array_equal(back, ring[low:high])


def test_a_plaintext_that_is_no_sum_is_refused_by_its_row():
    layout = Layout(bits=8, most=5, length=20, key_bits=128)
    assert (layout.slot_bits, layout.slots, layout.rows) == (11, 11, 2)
    good = integers(layout.pack(np.zeros(20, np.uint16)))
    most = 5 * 255
    for row, value in (
        (0, (most + 1) << 33),  # a slot above its largest sum
        (0, 1 << 121),  # above the last slot
        (0, 1 << 127),
        (1, 1 << 99),  # a slot of the last row that no coordinate uses
        (1, 128 << 99),  # the same with what a used slot of zero holds
    ):
        bad = list(good)
        bad[row] = value
        with pytest.raises(SlotRangeError) as caught:
            layout.unpack(words(bad, 2), 5, np.zeros(20, np.uint16))
        assert caught.value.row == row
        assert isinstance(caught.value, ValueError)
    last = words([1 << 99], 2)
    with pytest.raises(SlotRangeError) as caught:
        layout.unpack(last, 5, np.zeros(9, np.uint16), 1)
    assert caught.value.row == 1, "rows count from the start of the vector"
    # The bound is that of the weights that were added, not that of the layout.
    full = words([most << 33, 0], 2)
    layout.unpack(full, 5, np.zeros(20, np.uint16))
    with pytest.raises(SlotRangeError):
        layout.unpack(full, 4, np.zeros(20, np.uint16))


GOOD = {"bits": 32, "most": 10, "length": 100, "key_bits": 1024}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", 0),
        ("bits", 65),
        ("bits", 8.0),
        ("bits", True),
        ("most", 0),
        ("most", 2**32 + 1),
        ("most", np.int64(3)),
        ("length", 0),
        ("length", 2**40 + 1),
        ("length", "9"),
        ("key_bits", 0),
        ("key_bits", 1000),
        ("key_bits", 4160),
        ("key_bits", -64),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(PlanError) as caught:
        Layout(**{**GOOD, field: value})
    assert (caught.value.rule, caught.value.field) == ("layout", field)


def test_a_key_without_room_for_one_slot_is_refused():
    assert Layout(63, 1, 1, 64).slots == 1
    for bits, most in ((64, 1), (63, 2), (40, 2**32)):
        with pytest.raises(PlanError, match="no room for a slot") as caught:
            Layout(bits, most, 1, 64)
        assert (caught.value.rule, caught.value.field) == ("layout", "key_bits")


def test_the_ends_of_every_range_are_accepted():
    Layout(1, 1, 1, 64)
    Layout(64, 2**32, 2**40, 4096)


def test_stretches_that_do_not_end_with_a_row_are_refused():
    layout = Layout(32, 10, 70, 1024)  # 28 slots: rows of 28, 28 and 14
    ring = np.zeros(70, np.uint32)
    for part, row in (
        (ring[:27], 0),
        (ring[:29], 0),
        (ring[:13], 2),
        (ring[:15], 2),
        (ring[:28], 2),
        (ring[:28], 3),
        (ring[:28], -1),
        (ring[:0], 0),
        (ring, 1),
    ):
        with pytest.raises(MisuseError) as caught:
            layout.pack(part, row)
        assert caught.value.rule == "layout"
        rows = np.zeros((max(-(-len(part) // 28), 0), 16), np.uint64)
        with pytest.raises(MisuseError) as caught:
            layout.unpack(rows, 1, part.copy(), row)
        assert caught.value.rule == "layout"


def test_arrays_of_another_kind_are_refused():
    layout = Layout(32, 10, 28, 1024)
    rows = np.zeros((1, 16), np.uint64)
    for ring in (np.zeros(28, np.int32), np.zeros(28, np.uint16), np.zeros(56, np.uint32)[::2]):
        with pytest.raises(MisuseError) as caught:
            layout.pack(ring)
        assert caught.value.rule == "layout"
        with pytest.raises(MisuseError) as caught:
            layout.unpack(rows, 1, ring)
        assert caught.value.rule == "layout"
    out = np.zeros(28, np.uint32)
    for bad in (rows[:, :15], rows.astype(np.int64), rows[0], np.zeros((2, 16), np.uint64)):
        with pytest.raises(MisuseError) as caught:
            layout.unpack(bad, 1, out)
        assert caught.value.rule == "layout"
    for count in (0, 11, -1, 1.0, True):
        with pytest.raises(MisuseError) as caught:
            layout.unpack(rows, count, out)
        assert caught.value.rule == "count"
