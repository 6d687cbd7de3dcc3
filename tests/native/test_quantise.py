"""Quantisation against exact fractions and an independent keystream."""

import importlib
import math
import os
import platform
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native.quantise import TILE_VALUES, dequantise, is_finite, quantise

KEY, NONCE = bytes(range(16)), bytes(range(8))
OUTS = [np.uint16, np.uint32, np.uint64, np.int64]


def keystream32(start, count):
    """The 32-bit lanes by single ECB blocks."""
    encryptor = Cipher(algorithms.AES128(KEY), modes.ECB()).encryptor()  # noqa: S305
    blocks = range(start // 4, -(-(start + count) // 4))
    stream = b"".join(encryptor.update(NONCE + b.to_bytes(8, "big")) for b in blocks)
    skip = 4 * (start % 4)
    return [int.from_bytes(stream[skip + 4 * i : skip + 4 * i + 4], "little") for i in range(count)]


def oracle(x, scale, limit, lanes):
    """One level; exact integers but for the two float64 operations that are part of the rule."""
    y = float(x) * float(scale)
    y = Fraction(limit if y > 0 else -limit) if math.isinf(y) else Fraction(y)
    # Python compares integers with floats exactly.
    top = float(limit)
    top = Fraction(top if top <= limit else math.nextafter(top, 0.0))
    y = max(-top, min(top, y))
    if lanes is None:
        return round(y)
    floor = math.floor(y)
    frac = Fraction(float(y) - float(floor))
    return floor + (lanes < math.floor(frac * 2**32))


def run(x, out=np.int64, *, scale=1.0, limit=1 << 40, start=0, mode="stochastic"):
    result = np.empty(len(x), out)
    quantise(x, result, scale=scale, limit=limit, key=KEY, nonce=NONCE, start=start, mode=mode)
    return result


REALS = st.floats(-1e6, 1e6) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(REALS | st.integers(-20, 20).map(lambda i: i / 2), max_size=12),
    single=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, 1000.0, 12345.678, 1e300, 5e-324]),
    limit=st.integers(1, 1 << 62) | st.sampled_from([1, (1 << 53) + 1, (1 << 62) - 1, 1 << 62]),
    start=st.integers(0, 40) | st.just((1 << 63) - 12),
    out=st.sampled_from(OUTS),
    mode=st.sampled_from(["stochastic", "nearest"]),
)
def test_against_the_oracle(values, single, scale, limit, start, out, mode):
    with np.errstate(over="ignore"):
        x = np.array(values, np.float32 if single else np.float64)
    x = x[np.isfinite(x)]
    lanes = keystream32(start, len(x)) if mode == "stochastic" else [None] * len(x)
    want = [oracle(v, scale, limit, z) for v, z in zip(x, lanes, strict=True)]
    assert all(abs(w) <= limit for w in want)
    got = run(x, out, scale=scale, limit=limit, start=start, mode=mode)
    modulus = 1 << 8 * got.itemsize
    assert [int(g) % modulus for g in got] == [w % modulus for w in want]


TINY = [5e-324, 2.0**-1074, 2.0**-1022, 1e-300, 2.0**-54, 2.0**-53, 2.0**-33, 2.0**-32]
NEAR = [math.nextafter(k, side) for k in (0.5, 1.0, 3.0, 2.0**20) for side in (0, math.inf)]
LARGE = [2.0**51 + 0.5, 2.0**52 - 0.5, 2.0**53 - 1, 2.0**61, 2.0**62, 1e19, 3e38, 1.7e308]
EDGES = [sign * v for v in (0.0, 0.5, 1.5, 2.5, *TINY, *NEAR, *LARGE) for sign in (1, -1)]


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-3, 2.0**40 / 3, 1.7e308, 5e-324])
@pytest.mark.parametrize("limit", [1, 1000, (1 << 53) + 1, (1 << 62) - 1, 1 << 62])
def test_edges_against_the_oracle(real, scale, limit):
    """Twice and a bit, so that the edges meet both the vector loop and what remains after it."""
    with np.errstate(over="ignore"):
        x = np.array(EDGES, real)
    x = np.resize(x[np.isfinite(x)], 2 * len(EDGES) + 3)
    for mode in ("stochastic", "nearest"):
        lanes = keystream32(9, len(x)) if mode == "stochastic" else [None] * len(x)
        want = [oracle(v, scale, limit, z) for v, z in zip(x, lanes, strict=True)]
        for out in OUTS:
            got = run(x, out, scale=scale, limit=limit, start=9, mode=mode)
            modulus = 1 << 8 * got.itemsize
            assert [int(g) % modulus for g in got] == [w % modulus for w in want]


def test_the_product_is_rounded_first():
    """At 2^50 levels a fused multiply and subtract would see more of the fraction than y has."""
    x = np.random.default_rng(8).normal(size=500)
    scale = 2.0**50 / 3
    lanes = keystream32(0, len(x))
    fused = []
    for v, z in zip(x.tolist(), lanes, strict=True):
        floor = math.floor(v * scale)
        fused.append(floor + (z < math.floor((Fraction(v) * Fraction(scale) - floor) * 2**32)))
    got = run(x, scale=scale, limit=1 << 60).tolist()
    assert got == [oracle(v, scale, 1 << 60, z) for v, z in zip(x, lanes, strict=True)]
    assert got != fused


@pytest.mark.parametrize("mode", ["stochastic", "nearest"])
def test_tiles_give_what_the_whole_gives(mode):
    x = np.random.default_rng(5).normal(size=2 * TILE_VALUES + 9_001).astype(np.float32)
    whole = run(x, np.uint32, scale=100.0, mode=mode, start=3)
    assert np.array_equal(whole, run(x, np.uint32, scale=100.0, mode=mode, start=3))
    parts = [
        run(x[low : low + 9_999], np.uint32, scale=100.0, mode=mode, start=3 + low)
        for low in range(0, len(x), 9_999)
    ]
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("fraction", [0.0, 2**-20, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("base", [-3, 0, 7])
def test_stochastic_rounding_is_unbiased(fraction, base):
    n = 200_000
    q = run(np.full(n, base + fraction))
    assert set(np.unique(q)) <= {base, base + 1}
    error = math.sqrt(fraction * (1 - fraction) / n)
    assert abs(q.mean() - (base + fraction)) <= 4.42 * error


def test_the_threshold_is_strict():
    """A lane equal to the threshold rounds down, one below it rounds up."""
    lanes = np.array(keystream32(0, 1000), np.float64)
    assert run(lanes / 2**32).tolist() == [0] * 1000
    assert run((lanes + 1) / 2**32).tolist() == [1] * 1000


def test_boundaries():
    x = np.array([-10.5, -10.0, -9.5, -0.5, 0.0, -0.0, 0.5, 1.5, 2.5, 9.5, 10.0, 10.5])
    assert run(x, limit=10, mode="nearest").tolist() == [
        -10,
        -10,
        -10,
        0,
        0,
        0,
        0,
        2,
        2,
        10,
        10,
        10,
    ]
    q = run(x, limit=10)
    assert q.min() >= -10
    assert q.max() <= 10
    assert run(np.array([-1.0, 1.0]), np.uint16, mode="nearest").tolist() == [65535, 1]
    assert run(np.array([-1e-300] * 1000)).tolist() == [0] * 1000
    huge = np.array([1e308, -1e308])
    assert run(huge, scale=1e10, limit=5).tolist() == [5, -5]
    for limit in ((1 << 53) + 1, (1 << 60) - 1, (1 << 62) - 1, 1 << 62):
        for mode in ("stochastic", "nearest"):
            high = int(run(huge, limit=limit, mode=mode)[0])
            assert high <= limit
            assert high == int(run(huge, limit=limit, mode=mode)[1]) * -1
            assert int(math.nextafter(float(high), math.inf)) > limit


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["stochastic", "nearest"])
def test_non_finite_is_refused_and_nothing_written(bad, real, mode):
    x = np.zeros(50_000, real)
    x[-1] = bad
    out = np.full(len(x), 7, np.uint32)
    with pytest.raises(ValueError, match="non-finite"):
        quantise(x, out, scale=1.0, limit=9, key=KEY, nonce=NONCE, start=0, mode=mode)
    assert np.all(out == 7)
    assert not is_finite(x)
    assert is_finite(x[:-1])
    assert is_finite(x[:0])


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_non_finite_is_found_anywhere(real):
    """Every place of the vector loop and of what remains after it, and every pattern of NaN."""
    word = np.dtype(f"u{np.dtype(real).itemsize}")
    infinity = int(np.array(math.inf, real).view(word))
    sign = 1 << (8 * word.itemsize - 1)
    largest = np.array([infinity - 1, infinity - 1 | sign, 0, sign, 1], word)
    for n in (1, 7, 64, 131):
        x = np.resize(largest, n).view(real)
        assert is_finite(x)
        for at in range(n):
            for bad in (infinity, infinity + 1, sign - 1):
                for pattern in (bad, bad | sign):
                    y = x.copy()
                    y.view(word)[at] = pattern
                    assert not is_finite(y)


def frozen(dtype):
    a = np.zeros(4, dtype)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", np.zeros(4, np.int64)),
        ("x", np.zeros(4, np.float16)),
        ("x", np.zeros(4, ">f8")),
        ("x", np.zeros((2, 2))),
        ("x", np.zeros(8)[::2]),
        ("x", np.zeros(5)),
        ("x", [0.0] * 4),
        ("out", np.zeros(4, np.int32)),
        ("out", np.zeros(4, np.float64)),
        ("out", np.zeros(8, np.uint32)[::2]),
        ("out", frozen(np.uint32)),
        ("scale", 0.0),
        ("scale", -1.0),
        ("scale", math.nan),
        ("scale", math.inf),
        ("scale", 10**400),
        ("scale", "1"),
        ("limit", 0),
        ("limit", (1 << 62) + 1),
        ("limit", 1.5),
        ("key", bytes(15)),
        ("key", None),
        ("nonce", bytes(7)),
        ("start", -1),
        ("start", (1 << 63) - 3),
        ("mode", "up"),
    ],
)
def test_bad_input_is_refused(name, value):
    out = np.full(4, 7, np.uint32)
    arguments = {
        "x": np.zeros(4), "out": out, "scale": 1.0, "limit": 10,
        "key": KEY, "nonce": NONCE, "start": 0, "mode": "stochastic",
    }  # fmt: skip
    with pytest.raises(ValueError, match=name):
        quantise(**(arguments | {name: value}))
    assert np.all(out == 7)


def test_nearest_needs_no_key():
    out = np.zeros(1, np.int64)
    quantise(np.array([2.6]), out, scale=1.0, limit=10, key=b"", nonce=b"", start=0, mode="nearest")
    assert out.tolist() == [3]


@given(
    totals=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=20),
    scale=st.floats(1e-6, 1e12),
)
def test_dequantise(totals, scale):
    out = np.empty(len(totals))
    dequantise(np.array(totals, np.int64), out, scale=scale)
    assert out.tolist() == [float(t) / scale for t in totals]


@pytest.mark.parametrize(
    ("total", "out", "scale"),
    [
        (np.zeros(4, np.int32), np.zeros(4), 1.0),
        (np.zeros(4, np.uint64), np.zeros(4), 1.0),
        (np.zeros(8, np.int64)[::2], np.zeros(4), 1.0),
        (np.zeros(4, np.int64), np.zeros(4, np.float32), 1.0),
        (np.zeros(4, np.int64), np.zeros(5), 1.0),
        (np.zeros(4, np.int64), frozen(np.float64), 1.0),
        (np.zeros(4, np.int64), np.zeros(4), 0.0),
    ],
)
def test_dequantise_refuses(total, out, scale):
    with pytest.raises(ValueError, match=r"total|out|scale"):
        dequantise(total, out, scale=scale)


def test_dequantise_in_place():
    """The same memory, from its first byte on, is the one overlap that is allowed."""
    for n in (0, 1, 7, 64, 1001):
        total = np.random.default_rng(n).integers(-(1 << 63), (1 << 63) - 1, n)
        want = [float(t) / 12.5 for t in total.tolist()]
        out = total.view(np.float64)
        dequantise(total, out, scale=12.5)
        assert out.tolist() == want


@pytest.mark.parametrize("skip", [1, 3])
def test_dequantise_refuses_other_overlaps(skip):
    memory = np.arange(20)
    for total, out in (
        (memory[skip:], memory[:-skip].view(np.float64)),
        (memory[:-skip], memory[skip:].view(np.float64)),
    ):
        with pytest.raises(ValueError, match="same memory"):
            dequantise(total, out, scale=1.0)
    assert memory.tolist() == list(range(20))
    dequantise(memory[:10], memory[10:].view(np.float64), scale=2.0)
    assert memory[10:].view(np.float64).tolist() == [i / 2 for i in range(10)]


def test_read_only_and_mapped_arrays(tmp_path):
    """They are quantised as others are, by the code compiled for those."""
    kernels = importlib.import_module("secagg_native.kernels.quantise")
    values = np.random.default_rng(2).normal(size=50)
    want = run(values, scale=10.0)
    before = [len(k.signatures) for k in (kernels.stochastic, kernels.largest)]
    fixed = values.copy()
    fixed.flags.writeable = False
    assert np.array_equal(run(fixed, scale=10.0), want)
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=(50,))
    mapped[:] = values
    assert np.array_equal(run(mapped, scale=10.0), want)
    assert [len(k.signatures) for k in (kernels.stochastic, kernels.largest)] == before
    assert values.flags.writeable


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86 target")
@pytest.mark.parametrize("name", ["bitpack", "quantise"])
def test_the_plainest_target_gives_the_same(name, tmp_path):
    """LLVM lays vectors out otherwise where it may use SSE2 alone, as on the oldest hosts."""
    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    here = {k: v for k, v in os.environ.items() if k != "SECAGG_AES"}
    file = __file__.replace("test_quantise", f"test_{name}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", file],
        env=here | plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_is_finite_refuses_other_arrays():
    for bad in (np.zeros(3, np.int64), np.zeros((2, 2)), np.zeros(4)[::2]):
        with pytest.raises(ValueError, match="x must"):
            is_finite(bad)
