"""Bit packing against one big Python integer."""

import importlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native.bitpack import check_padding, pack, packed_size, unpack, unpack_add

LANES = [np.uint16, np.uint32, np.uint64]


def oracle(values, bits):
    number = sum((int(v) % (1 << bits)) << (i * bits) for i, v in enumerate(values))
    return number.to_bytes(-(-len(values) * bits // 8), "little")


def random_lanes(rng, n, lane):
    return rng.integers(0, np.iinfo(lane).max, n, dtype=lane, endpoint=True)


def wide_enough(bits):
    return [lane for lane in LANES if 8 * np.dtype(lane).itemsize >= bits]


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width_and_odd_lengths(bits):
    rng = np.random.default_rng(bits)
    for lane in wide_enough(bits):
        for n in (0, 1, 2, 7, 8, 63, 64, 65, 127, 129, 333):
            values = random_lanes(rng, n, lane)
            low = [int(v) % (1 << bits) for v in values]
            out = bytearray(b"\xff" * packed_size(n, bits))
            pack(values, bits, out)
            assert bytes(out) == oracle(values, bits)
            check_padding(out, n, bits)
            back = np.full(n, 99, lane)
            unpack(bytes(out), bits, back)
            assert back.tolist() == low
            acc = random_lanes(rng, n, lane)
            want = [(int(a) + v) % (1 << 8 * acc.itemsize) for a, v in zip(acc, low, strict=True)]
            unpack_add(acc, memoryview(out), bits)
            assert acc.tolist() == want


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_count_and_nothing_outside(bits):
    """Each length of the last groups, which are those that a whole word would overrun."""
    lane = wide_enough(bits)[0]
    values = random_lanes(np.random.default_rng(bits), 100, lane)
    for n in range(100):
        size = packed_size(n, bits)
        buffer = np.full(size + 32, 0xA5, np.uint8)
        pack(values[:n], bits, buffer[16 : 16 + size])
        assert buffer[16 : 16 + size].tobytes() == oracle(values[:n], bits)
        assert set(buffer[:16]) | set(buffer[16 + size :]) == {0xA5}
        low = [int(v) % (1 << bits) for v in values[:n]]
        lanes = np.full(n + 2, 7, lane)
        unpack(buffer[16 : 16 + size], bits, lanes[1:-1])
        assert lanes.tolist() == [7, *low, 7]
        unpack_add(lanes[1:-1], buffer[16 : 16 + size], bits)
        assert lanes.tolist() == [7, *(2 * v % (1 << 8 * lanes.itemsize) for v in low), 7]


GUARDED = """
import ctypes, mmap
import numpy as np
from secagg_native.bitpack import pack, packed_size, unpack, unpack_add

page = mmap.PAGESIZE
pages = mmap.mmap(-1, 3 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
for at in (0, 2 * page):
    assert protect(start + at, page, 0) == 0
room = np.frombuffer(pages, np.uint8)[page : 2 * page]
if {touch}:
    print(room[-1:].ctypes.data, "then", np.frombuffer(pages, np.uint8)[2 * page])
for bits in range(1, 65):
    lane = next(d for d in (np.uint16, np.uint32, np.uint64) if 8 * np.dtype(d).itemsize >= bits)
    for n in (*range(20), 64, 77):
        size = packed_size(n, bits)
        values = np.arange(n, dtype=lane)
        for stream in (room[:size], room[page - size :]):
            pack(values, bits, stream)
            back = np.zeros(n, lane)
            unpack(stream, bits, back)
            unpack_add(back, stream, bits)
            assert np.array_equal(back, (values & lane(2 ** bits - 1)) * lane(2))
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is of POSIX")
@pytest.mark.parametrize("touch", [False, True])
def test_no_byte_beyond_the_stream_is_read_or_written(touch):
    """The stream lies against pages that end the process; `touch` shows that they do."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED.replace("{touch}", str(touch))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode < 0) is touch, done.stderr
    assert ("done" in done.stdout) is not touch, done.stderr


def test_each_width_of_lanes_is_compiled_once():
    """Bytes or bytearray, writable or not: a kernel is compiled for one kind of arrays a lane."""
    kernels = importlib.import_module("secagg_native.kernels.bitpack")
    values = np.arange(9, dtype=np.uint32)
    fixed = values.copy()
    fixed.flags.writeable = False
    pack(values, 11, out := bytearray(13))
    unpack(out, 11, values)
    before = len(kernels.pack.signatures), len(kernels.unpack.signatures)
    pack(fixed, 5, memoryview(out))
    unpack_add(values, bytes(out), np.int64(11))
    unpack(np.frombuffer(bytes(13), np.uint8), 7, values)
    assert (len(kernels.pack.signatures), len(kernels.unpack.signatures)) == before


def test_mapped_files_are_arrays_too(tmp_path):
    mapped = np.memmap(tmp_path / "lanes", np.uint32, "w+", shape=(40,))
    mapped[:] = np.arange(40)
    pack(mapped, 6, out := bytearray(30))
    assert bytes(out) == oracle(range(40), 6)
    unpack_add(mapped, out, 6)
    assert mapped.tolist() == [2 * i for i in range(40)]
    unpack(out, 6, mapped)
    assert mapped.tolist() == list(range(40))


def test_big_endian_hosts_are_refused(monkeypatch):
    """The kernels read words as the host orders them."""
    name = "secagg_native.kernels.bitpack"
    importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(ImportError, match="little-endian"):
        importlib.import_module(name)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), bits=st.integers(1, 64), count=st.integers(0, 300))
def test_any_walk_of_tiles(data, bits, count):
    """Tiles at offsets give the bytes of one call, and touch no byte outside."""
    lane = data.draw(st.sampled_from(wide_enough(bits)))
    values = random_lanes(np.random.default_rng(count), count, lane)
    cuts = sorted({0, count} | {8 * c for c in data.draw(st.sets(st.integers(0, count // 8)))})
    size = packed_size(count, bits)
    out = np.full(size + 3, 0xAA, np.uint8)
    for low, high in pairwise(cuts):
        pack(values[low:high], bits, out, low)
    assert out[:size].tobytes() == oracle(values, bits)
    assert out[size:].tolist() == [0xAA] * 3
    back, acc = np.zeros(count, lane), np.ones(count, lane)
    for low, high in pairwise(cuts):
        unpack(out, bits, back[low:high], low)
        unpack_add(acc[low:high], out.tobytes(), bits, low)
    assert back.tolist() == [int(v) % (1 << bits) for v in values]
    assert np.array_equal(acc, back + lane(1) if count else back)


def test_a_middle_tile_leaves_its_neighbours():
    out = bytearray(b"\xff" * packed_size(24, 5))
    pack(np.zeros(8, np.uint16), 5, out, 8)
    assert bytes(out) == b"\xff" * 5 + bytes(5) + b"\xff" * 5


@pytest.mark.parametrize("bits", [1, 8, 13, 16, 24, 33, 57, 58, 63, 64])
def test_long_vectors_and_unaligned_buffers(bits):
    rng = np.random.default_rng(3)
    values = random_lanes(rng, 150_001, np.uint64)
    size = packed_size(len(values), bits)
    aligned, shifted = bytearray(size), memoryview(bytearray(size + 1))[1:]
    pack(values, bits, aligned)
    pack(values, bits, shifted)
    assert aligned == shifted
    assert (
        bytes(aligned)
        == np.packbits(
            (values[:, None] >> np.arange(bits, dtype=np.uint64) & np.uint64(1)).astype(np.uint8),
            bitorder="little",
        ).tobytes()
    )
    back = np.zeros(len(values), np.uint64)
    unpack(shifted, bits, back)
    low = values & np.uint64((1 << bits) - 1)
    assert np.array_equal(back, low)
    unpack_add(back, shifted, bits)
    assert np.array_equal(back, low + low)


def test_packed_size():
    assert [packed_size(n, b) for n, b in [(0, 1), (1, 1), (8, 1), (9, 1), (3, 64)]] == [
        0,
        1,
        1,
        2,
        24,
    ]


@pytest.mark.parametrize(("count", "bits"), [(-1, 8), (1, 0), (1, 65), (1.5, 8), (1, None)])
def test_packed_size_refuses(count, bits):
    with pytest.raises(ValueError, match=r"count|bits"):
        packed_size(count, bits)


@settings(max_examples=100)
@given(bits=st.integers(1, 64), count=st.integers(0, 40), data=st.data())
def test_check_padding(bits, count, data):
    full = bytearray(oracle([(1 << bits) - 1] * count, bits))
    check_padding(full, count, bits)
    for other in (full + b"\0", full[:-1]):
        if len(other) != len(full):
            with pytest.raises(ValueError, match="bytes long"):
                check_padding(other, count, bits)
    spare = -count * bits % 8
    if spare:
        bit = data.draw(st.integers(8 - spare, 7))
        full[-1] |= 1 << bit
        with pytest.raises(ValueError, match="unused bits"):
            check_padding(full, count, bits)


BAD_LANES = [
    np.zeros(8, np.int32),
    np.zeros(8, np.uint8),
    np.zeros(8, ">u4"),
    np.zeros((2, 4), np.uint32),
    np.zeros(16, np.uint32)[::2],
    [1, 2, 3],
]


@pytest.mark.parametrize("lanes", BAD_LANES)
def test_bad_lanes_are_refused(lanes):
    for call in (
        lambda: pack(lanes, 4, bytearray(64)),
        lambda: unpack(bytes(64), 4, lanes),
        lambda: unpack_add(lanes, bytes(64), 4),
    ):
        with pytest.raises(ValueError, match=r"values|out|acc"):
            call()


@pytest.mark.parametrize(
    ("bits", "offset", "match"),
    [(0, 0, "bits"), (33, 0, "bits"), (4, 4, "multiple"), (4, -8, "offset"), (4, 128, "too short")],
)
def test_bad_bits_and_offsets_are_refused(bits, offset, match):
    lanes = np.zeros(8, np.uint32)
    for call in (
        lambda: pack(lanes, bits, bytearray(64), offset),
        lambda: unpack(bytes(64), bits, lanes, offset),
        lambda: unpack_add(lanes, bytes(64), bits, offset),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize(
    "buffer",
    [
        np.zeros(64, np.uint16),
        np.zeros((8, 8), np.uint8),
        memoryview(bytearray(64))[::2],
        "text",
        None,
        5,
        bytearray(3),
    ],
)
def test_bad_buffers_are_refused(buffer):
    lanes = np.ones(8, np.uint32)
    for call in (
        lambda: pack(lanes, 4, buffer),
        lambda: unpack(buffer, 4, lanes),
        lambda: unpack_add(lanes, buffer, 4),
    ):
        with pytest.raises(ValueError, match=r"buffer|bytes"):
            call()
    assert lanes.tolist() == [1] * 8


def test_read_only_targets_are_refused():
    lanes = np.zeros(8, np.uint32)
    lanes.flags.writeable = False
    for call in (
        lambda: pack(np.zeros(8, np.uint32), 4, bytes(4)),
        lambda: unpack(bytes(4), 4, lanes),
        lambda: unpack_add(lanes, bytes(4), 4),
    ):
        with pytest.raises(ValueError, match="writable"):
            call()
