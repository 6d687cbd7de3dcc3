"""The rotation against its definition: a matrix in plain integers, and radix 2 level by level."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import hadamard
from secagg_native.aes_ctr import keystream
from secagg_native.hadamard import SLICE, padded_size, rotate, unrotate

KEY = bytes(range(16))
NONCE = bytes(range(8))
REALS = [np.float32, np.float64]
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}


# --- oracles ---
def plain_signs(count, key=KEY, nonce=NONCE):
    """The signs as defined: bit i % 64 of lane i // 64, set for -1, in plain integers."""
    lanes = [int(lane) for lane in keystream(key, nonce, -(-count // 64), np.uint64)]
    return [-1 if lanes[i // 64] >> (i % 64) & 1 else 1 for i in range(count)]


def entry(i, j):
    return -1 if (i & j).bit_count() & 1 else 1


def factor(size, dtype):
    pairs, odd = divmod(size.bit_length() - 1, 2)
    return dtype(math.ldexp(math.sqrt(0.5) if odd else 1.0, -pairs))


def signs_array(count):
    """The same signs by way of bytes, for long vectors."""
    lanes = keystream(KEY, NONCE, -(-count // 64), np.uint64).astype("<u8")
    bits = np.unpackbits(lanes.view(np.uint8), bitorder="little")[:count]
    return np.where(bits == 1, -1, 1)


def radix_two(x, levels):
    """The plain order of operations: level by level, a + b and a - b."""
    for level in levels:
        pairs = x.reshape(-1, 2, 1 << level)
        a, b = pairs[:, 0].copy(), pairs[:, 1].copy()
        x = np.stack([a + b, a - b], axis=1).reshape(-1)
    return x


def plain_rotate(x):
    signed = x * (signs_array(len(x)).astype(x.dtype) * factor(len(x), x.dtype.type))
    return radix_two(signed, range(len(x).bit_length() - 1))


def plain_unrotate(x):
    summed = radix_two(x, reversed(range(len(x).bit_length() - 1)))
    return summed * (signs_array(len(x)).astype(x.dtype) * factor(len(x), x.dtype.type))


def normal(size, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


# --- the definition ---
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("level", [0, 2, 4, 6, 8, 10])
def test_rotation_is_the_matrix_in_exact_integers(dtype, level):
    """For an even log2, 1/sqrt(d') is a power of two, and small integers stay exact."""
    size = 1 << level
    values = np.random.default_rng(level).integers(-100, 100, size)
    signs, given_values = plain_signs(size), [int(v) for v in values]
    product = [
        sum(entry(i, j) * signs[j] * given_values[j] for j in range(size)) for i in range(size)
    ]
    x = values.astype(dtype)
    rotate(x, KEY, NONCE)
    assert [Fraction(float(v)) * 2 ** (level // 2) for v in x] == product

    inverse = [
        signs[i] * sum(entry(i, j) * given_values[j] for j in range(size)) for i in range(size)
    ]
    x = values.astype(dtype)
    unrotate(x, KEY, NONCE)
    assert [Fraction(float(v)) * 2 ** (level // 2) for v in x] == inverse


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("level", [1, 3, 5, 7, 9])
def test_rotation_is_the_matrix_up_to_rounding(dtype, level):
    """For an odd log2 the factor is rounded, and so is each of its products."""
    size = 1 << level
    values = normal(size, dtype)
    matrix = np.array([[entry(i, j) for j in range(size)] for i in range(size)], np.longdouble)
    signed = values.astype(np.longdouble) * np.array(plain_signs(size))
    exact = matrix @ signed / np.sqrt(np.longdouble(size))
    x = values.copy()
    rotate(x, KEY, NONCE)
    error = np.linalg.norm((x - exact).astype(np.float64))
    assert error <= 1.01 * (level + 2) * UNIT[dtype] * np.linalg.norm(values.astype(np.float64))


def test_the_first_coordinate_shows_the_signs():
    """A unit vector gives a column of H times its sign: known without any transform."""
    for place in (0, 1, 63, 64, 65, 1000, 4095):
        x = np.zeros(4096, np.float32)
        x[place] = 64.0
        rotate(x, KEY, NONCE)
        sign = plain_signs(4096)[place]
        assert x.tolist() == [sign * entry(i, place) for i in range(4096)]


def test_signs_follow_key_and_nonce():
    def first_row(key, nonce):
        x = np.ones(256)
        unrotate(x, key, nonce)  # H·1 is zero but for its first element
        y = np.zeros(256)
        y[0] = 1.0
        unrotate(y, key, nonce)
        assert x[0] == 16 * plain_signs(1, key, nonce)[0]
        return [int(v) for v in np.sign(y)]

    for key, nonce in ((KEY, NONCE), (bytes(16), NONCE), (KEY, bytes(8))):
        assert first_row(key, nonce) == plain_signs(256, key, nonce)
    assert len({tuple(first_row(k, n)) for k in (KEY, bytes(16)) for n in (NONCE, bytes(8))}) == 4


# --- the same bits, however it is blocked ---
#: Every number of levels modulo three, in numpy's part, in the kernels, and across slices.
LEVELS = [*range(17), 18, 19, 20]


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_bits_as_level_by_level(dtype, level):
    x = normal(1 << level, dtype, level)
    for run, plain in ((rotate, plain_rotate), (unrotate, plain_unrotate)):
        y = x.copy()
        run(y, KEY, NONCE)
        assert np.array_equal(y.view(np.uint8), plain(x).view(np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("level", [21, 22, 23])
def test_the_same_bits_for_long_vectors_and_threads(dtype, level):
    x = normal(1 << level, dtype, level)
    for run, plain in ((rotate, plain_rotate), (unrotate, plain_unrotate)):
        expected = plain(x)
        for threads in (1, 2, 5):
            y = x.copy()
            run(y, KEY, NONCE, threads=threads)
            assert np.array_equal(y, expected)


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_change_nothing(monkeypatch, threads):
    """With slices of 2^10, 2^16 elements take every path that long vectors take."""
    monkeypatch.setattr(hadamard, "SLICE", 1 << 10)
    for level in (10, 13, 14, 15, 16):
        x = normal(1 << level, np.float32, level)
        y, z = x.copy(), x.copy()
        rotate(y, KEY, NONCE, threads=threads)
        unrotate(z, KEY, NONCE, threads=threads)
        assert np.array_equal(y, plain_rotate(x))
        assert np.array_equal(z, plain_unrotate(x))


def test_parts_are_made_for_threads():
    assert hadamard._part(1 << 20, 1) == 1 << 20
    assert hadamard._part(SLICE * 8, 2) == SLICE
    assert hadamard._part(SLICE * 4, 2) == SLICE * 4
    assert hadamard._part(1 << 26, 9) == 1 << 20


@pytest.mark.parametrize("dtype", REALS)
def test_any_alignment_of_elements_will_do(dtype):
    room = normal((1 << 12) + 16, dtype)
    for offset in range(8):
        x = room[offset : offset + (1 << 12)].copy()
        view = room.copy()[offset : offset + (1 << 12)]
        rotate(view, KEY, NONCE)
        assert np.array_equal(view, plain_rotate(x))


def test_special_values():
    """Zeros keep the signs that IEEE 754 gives them, tiny numbers are not flushed to zero."""
    x = np.zeros(1 << 9, np.float32)
    y, z = x.copy(), x.copy()
    rotate(y, KEY, NONCE)
    assert np.array_equal(np.signbit(y), np.signbit(plain_rotate(x)))
    unrotate(z, KEY, NONCE)
    assert np.array_equal(np.signbit(z), np.signbit(plain_unrotate(x)))
    x = np.zeros(1 << 10, np.float32)
    x[3] = np.float32(2.0**-140)
    y = x.copy()
    rotate(y, KEY, NONCE)
    assert np.array_equal(np.abs(y), np.full(1 << 10, 2.0**-145, np.float32))


@pytest.mark.parametrize("run", [rotate, unrotate])
@pytest.mark.parametrize("level", [5, 9])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spreads_to_all(run, level, bad):
    """Whatever numpy would warn of: a length does not decide whether there are warnings."""
    x = normal(1 << level, np.float32)
    x[17], x[18] = bad, bad
    run(x, KEY, NONCE)
    assert not np.isfinite(x).any()


# --- what a rotation promises ---
@settings(max_examples=40)
@given(
    level=st.integers(0, 14),
    dtype=st.sampled_from(REALS),
    seed=st.integers(0, 2**32),
    key=st.binary(min_size=16, max_size=16),
    nonce=st.binary(min_size=8, max_size=8),
)
def test_unrotate_inverts_rotate_and_norms_are_kept(level, dtype, seed, key, nonce):
    x = normal(1 << level, dtype, seed)
    norm = np.linalg.norm(x.astype(np.float64))
    bound = 1.01 * (level + 2) * UNIT[dtype] * norm
    y = x.copy()
    rotate(y, key, nonce)
    # Both norms are themselves rounded.
    assert abs(np.linalg.norm(y.astype(np.float64)) - norm) <= bound + 8 * 2.0**-53 * norm
    unrotate(y, key, nonce)
    assert np.linalg.norm(y.astype(np.float64) - x) <= 2 * bound


def test_one_large_coordinate_is_spread():
    """What the rotation is for: no coordinate of the result is far above norm / sqrt(d')."""
    x = normal(1 << 14, np.float32) / 1000
    x[5] = 1000.0
    rotate(x, KEY, NONCE)
    assert np.abs(x).max() < 1.01 * 1000 / 2**7


def test_long_vectors_use_a_slice_of_memory():
    import tracemalloc

    x = normal(1 << 22, np.float32)
    rotate(x, KEY, NONCE)  # what is compiled and imported on the way is not counted
    unrotate(x, KEY, NONCE)
    tracemalloc.start()
    rotate(x, KEY, NONCE)
    unrotate(x, KEY, NONCE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Signs take 32 KiB, and the OpenSSL twin has a tile of 64 KiB of its own.
    assert peak < 128 << 10


# --- arguments ---
@pytest.mark.parametrize(
    ("d", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1025, 2048), (2**62, 2**62)]
)
def test_padded_size(d, size):
    assert padded_size(d) == size


@pytest.mark.parametrize("d", [-1, 2**62 + 1, 1.0, None, "8"])
def test_padded_size_refuses(d):
    with pytest.raises(ValueError, match="d must"):
        padded_size(d)


def read_only():
    x = np.zeros(8)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("run", [rotate, unrotate])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", [1.0, 2.0]),
        ("x", np.zeros(8, np.float16)),
        ("x", np.zeros(8, np.int64)),
        ("x", np.zeros(8, ">f8")),
        ("x", np.zeros((2, 4))),
        ("x", np.zeros(16)[::2]),
        ("x", np.zeros(0)),
        ("x", np.zeros(3)),
        ("x", np.zeros(1000)),
        ("x", read_only()),
        ("x", np.zeros(65, np.uint8)[1:].view(np.float64)),
        ("key", bytes(15)),
        ("key", "0" * 16),
        ("nonce", bytes(7)),
        ("nonce", None),
        ("threads", 0),
        ("threads", 1.5),
    ],
)
def test_bad_arguments_are_refused(run, name, value):
    x = np.arange(8.0)
    arguments = {"x": x, "key": KEY, "nonce": NONCE, "threads": 1} | {name: value}
    with pytest.raises(ValueError, match=name):
        run(arguments["x"], arguments["key"], arguments["nonce"], threads=arguments["threads"])
    assert x.tolist() == list(range(8))
