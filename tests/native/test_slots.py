"""Slots of big integers against plain Python integers."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native.slots import MAX_SLOT_BITS, SlotRangeError, pack, unpack

LANES = [np.uint16, np.uint32, np.uint64]


def narrowest(bits):
    return next(lane for lane in LANES if 8 * np.dtype(lane).itemsize >= bits)


def width(bits, most):
    """Bits of a slot that holds `most` values of the ring."""
    return (most * (2**bits - 1)).bit_length()


def integers(rows):
    return [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in rows]


def words(values, count):
    data = b"".join(value.to_bytes(8 * count, "little") for value in values)
    return np.frombuffer(data, "<u8").astype(np.uint64).reshape(len(values), count)


def oracle(values, bits, slot_bits, slots):
    """The integers of the rows, from values modulo 2^bits."""
    rows = [values[at : at + slots] for at in range(0, len(values), slots)]
    half = 2 ** (bits - 1)
    return [sum((v + half) % 2**bits << i * slot_bits for i, v in enumerate(row)) for row in rows]


def packed(values, bits, slot_bits, slots, count, lane=None):
    ring = np.array(values, lane or narrowest(bits))
    out = np.full((-(-len(values) // slots), count), 2**64 - 1, np.uint64)
    pack(ring, bits, slot_bits, slots, out)
    return out


def opened(rows, bits, slot_bits, slots, count, length, lane=None):
    out = np.full(length, 3, lane or narrowest(bits))
    unpack(rows, bits, slot_bits, slots, count, out)
    return out.tolist()


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width_of_ring_and_slot(bits):
    """Packed integers are the oracle's; a weighted sum of them opens to the sum of the ring."""
    rng = np.random.default_rng(bits)
    for most in (1, 2, 3, 100, 2**16 + 1, 2**32 - 1, 2**32, 2**64):
        slot_bits = width(bits, most)
        for count in (3, 16):
            slots = (64 * count - 1) // slot_bits
            for length in {1, slots, slots + 1, 3 * slots - 1}:
                values = [int(v) for v in rng.integers(0, 2**bits - 1, length, np.uint64, True)]
                values[0], values[-1] = 2**bits - 1, 2 ** (bits - 1)
                rows = packed(values, bits, slot_bits, slots, count)
                want = oracle(values, bits, slot_bits, slots)
                assert integers(rows) == want
                total = words([most * each for each in want], count)
                sums = [most * v % 2**bits for v in values]
                assert opened(total, bits, slot_bits, slots, most, length) == sums


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_integer_depends_on_the_signed_sum_and_the_count_alone(data):
    """However a sum is split into positive and negative addends, the opened integer is one."""
    bits = data.draw(st.integers(1, 64), label="bits")
    most = data.draw(st.integers(2, 2**32), label="most")
    addends = data.draw(st.integers(2, min(most, 6)), label="addends")
    slot_bits = width(bits, most)
    slots = (64 * 8 - 1) // slot_bits
    length = data.draw(st.integers(1, 2 * slots), label="length")
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    sums = data.draw(
        st.lists(
            st.integers(addends * low, addends * high) if addends < 3 else st.integers(low, high),
            min_size=length,
            max_size=length,
        ),
        label="sums",
    )

    def split():
        """One row of addends a coordinate, each in range, which add up to the sum."""
        columns = []
        for total in sums:
            parts = []
            for left in range(addends - 1, -1, -1):
                rest = total - sum(parts)
                least, greatest = max(low, rest - left * high), min(high, rest - left * low)
                parts.append(data.draw(st.integers(least, greatest)))
            assert sum(parts) == total
            columns.append(parts)
        return [[column[i] % 2**bits for column in columns] for i in range(addends)]

    def total_of(vectors):
        added = [0] * -(-length // slots)
        for vector in vectors:
            rows = integers(packed(vector, bits, slot_bits, slots, 8))
            added = [a + b for a, b in zip(added, rows, strict=True)]
        return added

    first, second = total_of(split()), total_of(split())
    assert first == second
    half = 2 ** (bits - 1)
    for row, at in zip(first, range(0, length, slots), strict=True):
        signed = sums[at : at + slots]
        assert row == sum((s + addends * half) << i * slot_bits for i, s in enumerate(signed))
    back = opened(words(first, 8), bits, slot_bits, slots, addends, length)
    assert back == [s % 2**bits for s in sums]


@pytest.mark.parametrize("lane", LANES)
def test_bits_of_a_lane_above_the_ring_are_ignored(lane):
    values = [0, 1, 2**12 - 1, 2**11, 77]
    dirty = [v | 0xF000 for v in values]
    clean = packed(values, 12, 15, 4, 2, lane)
    assert np.array_equal(packed(dirty, 12, 15, 4, 2, lane), clean)
    assert opened(clean, 12, 15, 4, 1, 5, lane) == values


def test_rows_are_independent():
    """A long vector may go in pieces of whole rows."""
    values = list(range(50))
    whole = packed(values, 16, 19, 13, 4)
    parts = [packed(values[at : at + 26], 16, 19, 13, 4) for at in (0, 26)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert opened(whole[2:], 16, 19, 13, 1, 24) == values[26:]


@pytest.mark.parametrize("bits", [1, 7, 16, 31, 33, 60, 64])
def test_the_largest_sum_opens_and_the_next_is_refused(bits):
    """The bound of every slot is exact, at every place of a row."""
    lane = narrowest(bits)
    for most, count in ((1, 1), (5, 5), (5, 3), (2**32, 2**32), (2**32, 2**31 + 1), (2**64, 2**64)):
        slot_bits = width(bits, most)
        slots = (64 * 9 - 1) // slot_bits
        largest = count * (2**bits - 1)
        length = 2 * slots - 1
        for at in range(length):
            full = [largest << at % slots * slot_bits if r == at // slots else 0 for r in (0, 1)]
            want = [(-count * 2 ** (bits - 1)) % 2**bits] * length
            want[at] = (largest - count * 2 ** (bits - 1)) % 2**bits
            assert opened(words(full, 9), bits, slot_bits, slots, count, length) == want
            if (largest + 1) >> slot_bits:
                continue
            full[at // slots] += 1 << at % slots * slot_bits
            out = np.full(length, 3, lane)
            with pytest.raises(SlotRangeError) as caught:
                unpack(words(full, 9), bits, slot_bits, slots, count, out)
            assert caught.value.row == at // slots
            assert not out.any()


def test_bits_beyond_the_slots_in_use_are_refused():
    """Of a full row, of a row that the vector ends in, and in the words after it."""
    slots, slot_bits, length = 5, 27, 8
    values = list(range(100, 108))
    good = integers(packed(values, 20, slot_bits, slots, 4))
    for row, first in ((0, slots * slot_bits), (1, 3 * slot_bits)):
        for bit in range(first, 256):
            rows = list(good)
            rows[row] |= 1 << bit
            with pytest.raises(SlotRangeError) as caught:
                opened(words(rows, 4), 20, slot_bits, slots, 1, length)
            assert caught.value.row == row
    assert opened(words(good, 4), 20, slot_bits, slots, 1, length) == values


def test_slots_that_fill_the_row_to_its_last_bit():
    values = [2**32 - 1, 2**31, 0, 1, 5, 2**31 - 1]
    rows = packed(values, 32, 32, 4, 2)
    assert integers(rows) == oracle(values, 32, 32, 4)
    assert opened(rows, 32, 32, 4, 1, 6) == values
    values = [2**64 - 1, 9, 2**63]
    rows = packed(values, 64, 128, 1, 2)
    assert opened(rows, 64, 128, 1, 1, 3) == values
    rows[1, 1] = 1
    with pytest.raises(SlotRangeError, match="row 1 holds"):
        opened(rows, 64, 128, 1, 1, 3)


def test_the_first_bad_row_is_named_and_travels():
    rows = np.zeros((6, 2), np.uint64)
    rows[2, 1] = rows[4, 1] = 1 << 63
    with pytest.raises(SlotRangeError) as caught:
        opened(rows, 8, 10, 12, 4, 72)
    assert caught.value.row == 2
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (type(again), again.row, str(again)) == (SlotRangeError, 2, str(caught.value))


GUARDED = """
import ctypes, mmap
import numpy as np
from secagg_native.slots import pack, unpack

page = mmap.PAGESIZE
pages = mmap.mmap(-1, 3 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
for at in (0, 2 * page):
    assert protect(start + at, page, 0) == 0
room = np.frombuffer(pages, np.uint64)[page // 8 : 2 * page // 8]
for bits in range(1, 65):
    lane = next(d for d in (np.uint16, np.uint32, np.uint64) if 8 * np.dtype(d).itemsize >= bits)
    for slot_bits in (bits, min(bits + 31, 96), 128):
        slots = 64 * 4 // slot_bits
        values = np.arange(2 * slots, dtype=lane) & lane(2**bits - 1)
        for words in (room[:8], room[-8:]):
            pack(values, bits, slot_bits, slots, words.reshape(2, 4))
            back = np.zeros(2 * slots, lane)
            unpack(words.reshape(2, 4), bits, slot_bits, slots, 1, back)
            assert np.array_equal(back, values)
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is of POSIX")
def test_no_word_beyond_the_rows_is_read_or_written():
    """The rows lie against pages that end the process (see the packing of ring elements)."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False
    )
    assert "done" in done.stdout, done.stderr


def good():
    return {
        "ring": np.zeros(5, np.uint32),
        "bits": 20,
        "slot_bits": 24,
        "slots": 5,
        "rows": np.zeros((1, 2), np.uint64),
    }


def frozen(array):
    array.flags.writeable = False
    return array


BOTH = {
    "wrong lanes": ({"ring": np.zeros(5, np.int32)}, "must have dtype"),
    "bytes": ({"ring": bytes(20)}, "numpy array"),
    "two dimensions": ({"ring": np.zeros((1, 5), np.uint32)}, "dimension"),
    "strided": ({"ring": np.zeros(10, np.uint32)[::2]}, "C-contiguous"),
    "empty": ({"ring": np.zeros(0, np.uint32), "rows": np.zeros((0, 2), np.uint64)}, "one row"),
    "narrow lanes": ({"ring": np.zeros(5, np.uint16)}, "width of a lane"),
    "no bits": ({"bits": 0}, "between 1 and 64"),
    "too many bits": ({"bits": 65}, "between 1 and 64"),
    "a real": ({"bits": 20.0}, "must be an integer"),
    "narrow slots": ({"slot_bits": 19}, "between 20 and 128"),
    "wide slots": ({"slot_bits": MAX_SLOT_BITS + 1}, "between 20 and 128"),
    "no slots": ({"slots": 0}, "slots must be"),
    "too many slots": ({"slots": 6, "ring": np.zeros(6, np.uint32)}, "fit the words"),
    "wrong words": ({"rows": np.zeros((1, 2), np.int64)}, "must have dtype"),
    "flat words": ({"rows": np.zeros(2, np.uint64)}, "dimension"),
    "too few rows": ({"ring": np.zeros(6, np.uint32)}, "one row"),
    "too many rows": ({"rows": np.zeros((2, 2), np.uint64)}, "one row"),
}


@pytest.mark.parametrize("case", BOTH)
def test_arguments_that_do_not_fit_are_refused(case):
    change, text = BOTH[case]
    form = {**good(), **change}
    how = form["bits"], form["slot_bits"], form["slots"]
    with pytest.raises(ValueError, match=text):
        pack(form["ring"], *how, form["rows"])
    with pytest.raises(ValueError, match=text):
        unpack(form["rows"], *how, 1, form["ring"])


def test_what_is_written_to_must_be_writable():
    form = good()
    with pytest.raises(ValueError, match="out must be writable"):
        pack(form["ring"], 20, 24, 5, frozen(form["rows"].copy()))
    with pytest.raises(ValueError, match="out must be writable"):
        unpack(form["rows"], 20, 24, 5, 1, frozen(form["ring"].copy()))
    pack(frozen(form["ring"]), 20, 24, 5, form["rows"])


def test_a_count_that_does_not_fit_the_slot_is_refused():
    form = good()
    out = np.full(5, 7, np.uint32)
    for count, text in ((0, "between 1"), (-1, "between 1"), (17, "fit a slot"), (1.0, "integer")):
        with pytest.raises(ValueError, match=text):
            unpack(form["rows"], 20, 24, 5, count, out)
    assert out.tolist() == [7] * 5
    unpack(form["rows"], 20, 24, 5, 16, out)
