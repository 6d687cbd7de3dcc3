"""Samples against a plain-Python oracle, and what the sampler refuses."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secagg_native import features, sampler
from secagg_native.kernels import sampler as kernels
from secagg_native.sampler import Draws

SEED = bytes(range(100, 132))
OUT = [np.int64, np.uint16, np.uint32, np.uint64]

#: One law of each kind, with one and with two parts.
LAWS = {
    "gaussian": sampler.discrete_gaussian(Fraction(49, 3)),
    "gaussian, two parts": sampler.discrete_gaussian(10**8),
    "skellam": sampler.skellam(25),
    "laplace": sampler.discrete_laplace(Fraction(7, 2)),
    "laplace, two parts": sampler.discrete_laplace(10**4),
    "polya": sampler.polya_difference(12, 5),
    "binomial": sampler.binomial(2),
}


@pytest.fixture(params=features.aes_variants())
def variant(request, monkeypatch):
    """Run a test with every keystream that this host has."""
    monkeypatch.setattr(features, "aes_variant", lambda: request.param)
    return request.param


# --- the oracle: OpenSSL's keystream and integers ---
def drawn(table, block):
    """One draw from a keystream block of 16 bytes, as the text of `_alias` has it."""
    high, low = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")
    bits = len(table.rows).bit_length() - 1
    column = high >> (64 - bits)
    rest = (high % (1 << (64 - bits))) * 2**63 + low // 2
    row_high, row_low = (int(word) for word in table.rows[column])
    threshold = (row_high >> bits) * 2**63 + row_low // 2
    magnitude = column if rest < threshold else row_high % (1 << bits)
    return -magnitude if low % 2 else magnitude


def expected(tables, seed, start, count):
    """Coordinates start, ..., start + count - 1 as plain integers."""
    total = [0] * count
    for part, (factor, table) in enumerate(tables.parts):
        nonce = bytearray(seed[16:24])
        nonce[7] ^= part
        counter = modes.CTR(bytes(nonce) + start.to_bytes(8, "big"))
        stream = Cipher(algorithms.AES128(seed[:16]), counter).encryptor().update(bytes(16 * count))
        for i in range(count):
            total[i] += factor * drawn(table, stream[16 * i : 16 * i + 16])
    return total


def lanes(values, dtype):
    if np.dtype(dtype) == np.int64:
        return np.array(values, np.int64)
    modulus = 1 << (8 * np.dtype(dtype).itemsize)
    return np.array([value % modulus for value in values], dtype)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("dtype", OUT)
def test_samples_are_those_of_the_oracle(law, dtype, variant):
    out = np.empty(301, dtype)
    Draws(law.tables, SEED).write(out, 77)
    want = expected(law.tables, SEED, 77, 301)
    assert np.array_equal(out, lanes(want, dtype))
    assert any(value < 0 for value in want)
    assert max(map(abs, want)) <= law.tables.bound


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("dtype", OUT)
def test_adding_is_modulo_the_lane(law, dtype):
    top = np.iinfo(dtype).max
    out = np.full(50, top - 1, dtype)
    Draws(law.tables, SEED).add(out, 3)
    want = [top - 1 + value for value in expected(law.tables, SEED, 3, 50)]
    if np.dtype(dtype) == np.int64:
        want = [(value + 2**63) % 2**64 - 2**63 for value in want]
    assert np.array_equal(out, lanes(want, dtype))


@pytest.mark.parametrize("name", ["gaussian", "gaussian, two parts"])
def test_borders_of_tiles_are_not_seen(name):
    tables, size = LAWS[name].tables, sampler._TILE
    draws = Draws(tables, SEED)
    for start, count in ((0, size - 1), (5, size), (size - 1, size + 2), (1, 3 * size + 7)):
        out = np.empty(count, np.int64)
        draws.write(out, start)
        near = {0, 1, size - 2, size - 1, size, size + 1, 2 * size, 3 * size, count - 1}
        for i in near & set(range(count)):
            assert [out[i]] == expected(tables, SEED, start + i, 1)
    out = np.empty(size + 9, np.int64)
    draws.write(out, 2**40)
    assert out.tolist() == expected(tables, SEED, 2**40, size + 9)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 2**62 - 400),
    count=st.integers(0, 300),
    cut=st.integers(0, 300),
    name=st.sampled_from(sorted(LAWS)),
    dtype=st.sampled_from(OUT),
    seed=st.binary(min_size=32, max_size=32),
)
def test_any_stretch_is_a_part_of_the_whole(start, count, cut, name, dtype, seed):
    draws, cut = Draws(LAWS[name].tables, seed), min(cut, count)
    out = np.zeros(count, dtype)
    draws.write(out[cut:], start + cut)
    draws.add(out[:cut], start)
    assert np.array_equal(out, lanes(expected(LAWS[name].tables, seed, start, count), dtype))


@pytest.mark.parametrize("name", ["gaussian", "laplace, two parts"])
@pytest.mark.parametrize("dtype", OUT)
def test_threads_change_nothing(name, dtype):
    count = 5 * sampler._TILE + 11
    one, many = np.full(count, 7, dtype), np.full(count, 7, dtype)
    draws = Draws(LAWS[name].tables, SEED)
    draws.add(one, 9)
    draws.add(many, 9, threads=3)
    assert np.array_equal(one, many)
    draws.write(many, 9, threads=2)
    assert np.array_equal(one, many + np.array(7, dtype))


def test_a_mapped_file_takes_samples(tmp_path):
    out = np.memmap(tmp_path / "lanes", np.uint32, "w+", shape=(100,))
    Draws(LAWS["skellam"].tables, SEED).write(out, 0)
    assert out.tolist() == lanes(expected(LAWS["skellam"].tables, SEED, 0, 100), np.uint32).tolist()


def test_a_tie_of_the_upper_words_is_decided_by_the_lower_ones():
    """It happens once in 2^59 draws here, so the words are made up."""
    table = LAWS["gaussian"].tables.parts[0][1]
    bits = table.bits
    column, (high, low) = next(
        (i, row) for i, row in enumerate(table.rows.tolist()) if row[0] >> bits and row[1] > 4
    )
    alias, upper = high % (1 << bits), high >> bits
    assert alias != column
    top = (column << (64 - bits)) | upper
    words, want = [], []
    for word, chosen in (
        (low - 2, column), (low - 1, -column), (low, alias), (low + 1, -alias), (0, column)
    ):  # fmt: skip
        words += [top, word]
        want.append(chosen)
    for step, chosen in ((-1, column), (1, alias)):  # no tie: the lower word decides nothing
        for word in (0, 2**64 - 2):
            words += [top + step, word]
            want.append(chosen)
    out = np.empty(len(want), np.uint64)
    one = np.uint64(1)
    kernels.write(np.array(words, np.uint64), table.rows, out, one, np.uint64(bits))
    assert out.view(np.int64).tolist() == want


def test_a_full_column_is_itself_whatever_is_drawn():
    table = LAWS["binomial"].tables.parts[0][1]
    assert table.bound == 1
    words = np.array([0, 0, 2**63 - 1, 2**64 - 1, 2**63, 0, 2**64 - 1, 2**64 - 1], np.uint64)
    out = np.empty(4, np.uint64)
    kernels.write(words, table.rows, out, np.uint64(1), np.uint64(table.bits))
    # P(0) = P(1) + P(-1) = 1/2: both columns are full.
    assert out.view(np.int64).tolist() == [0, 0, 1, -1]


def test_keystream_is_erased_and_what_an_exception_leaves_is_not_used(monkeypatch):
    law = LAWS["laplace, two parts"]
    want = lanes(expected(law.tables, SEED, 0, 100), np.uint32)
    scratch, out = sampler._Scratch(), np.empty(100, np.uint32)
    monkeypatch.setattr(sampler, "_scratch", scratch)
    draws = Draws(law.tables, SEED)
    draws.write(out, 0)
    words = scratch.take()
    assert not words.any()
    scratch.give(words)
    with monkeypatch.context() as patch:

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(kernels, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draws.write(out, 0)
    assert words.any()
    draws.write(out, 0)
    assert np.array_equal(out, want)
    assert scratch.take() is not words


def test_code_that_interrupts_a_draw_may_draw(monkeypatch):
    law, body, inner = LAWS["skellam"], kernels.write, np.empty(50, np.int64)
    outer = np.empty(70, np.int64)

    def nested(*args):
        monkeypatch.setattr(kernels, "write", body)
        Draws(law.tables, SEED).write(inner, 5)
        body(*args)

    monkeypatch.setattr(kernels, "write", nested)
    Draws(law.tables, SEED).write(outer, 0)
    assert kernels.write is body
    assert outer.tolist() == expected(law.tables, SEED, 0, 70)
    assert inner.tolist() == expected(law.tables, SEED, 5, 50)


# --- no floating point between seed and sample ---
def test_tables_hold_integers_only():
    for law in LAWS.values():
        for factor, table in law.tables.parts:
            assert type(factor) is int
            assert table.rows.dtype == np.uint64
            assert table.rows.shape == (1 << table.bits, 2)
            assert not table.rows.flags.writeable


@pytest.mark.parametrize("body", [kernels.write, kernels.add], ids=["write", "add"])
@pytest.mark.parametrize("lane", [np.uint16, np.uint32, np.uint64])
def test_compiled_kernels_have_no_floating_point(body, lane):
    import numba

    # Compiled anew, because a kernel that was read from disk does not know its types.
    anew = numba.njit(body.py_func)
    rows = sampler.binomial(2).tables.parts[0][1].rows
    anew(np.zeros(2, np.uint64), rows, np.zeros(1, lane), np.uint64(1), np.uint64(1))
    ((signature, compiled),) = anew.overloads.items()
    types = {str(kind) for kind in compiled.type_annotation.typemap.values()}
    types |= {str(kind) for kind in signature}
    assert "uint64" in types
    assert not [kind for kind in types if "float" in kind or "complex" in kind]


def forbidden(tree):
    """Nodes of a kernel's source that branch, or compute with anything but integers."""
    branches = (ast.If, ast.IfExp, ast.While, ast.BoolOp, ast.Match, ast.Break, ast.Continue)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, branches):
            found.append(type(node).__name__)
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div | ast.Pow):
            found.append(type(node.op).__name__)
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(repr(node.value))
        if isinstance(node, ast.Attribute) and "float" in node.attr:
            found.append(node.attr)
        if isinstance(node, ast.Name) and node.id in {"float", "min", "max"}:
            found.append(node.id)
    return found


def test_kernels_have_no_branch_and_no_float_in_their_source():
    assert forbidden(ast.parse(inspect.getsource(kernels))) == []


@pytest.mark.parametrize(
    "planted",
    [
        "if x < y: z = 1", "z = 1 if x else 2", "z = x and y", "z = x / y", "z /= x", "z = 0.5",
        "z = x ** 2", "z = np.float64(x)", "z = float(x)", "while x: x -= 1", "z = max(x, y)",
    ],
)  # fmt: skip
def test_planted_branches_and_floats_are_found(planted):
    assert forbidden(ast.parse(planted))


# --- fresh seeds ---
def test_each_call_draws_anew():
    first, second = (sampler.sample(LAWS["gaussian"], 1000) for _ in range(2))
    assert first.dtype == np.int64
    assert np.count_nonzero(first != second) > 500


FORKS = """
import os
import numpy as np
from secagg_native import sampler
law = sampler.discrete_gaussian(10**4)
sampler.sample(law, 100)  # whatever state there might be exists before the fork
pipes = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, sampler.sample(law, 100).tobytes())
        os._exit(0)
    pipes.append(read)
found = [sampler.sample(law, 100).tobytes()]
for read in pipes:
    with os.fdopen(read, "rb") as file:
        found.append(file.read(800))
    os.wait()
rows = [np.frombuffer(data, np.int64) for data in found]
assert all(len(row) == 100 for row in rows)
for i in range(3):
    for j in range(i):
        assert np.count_nonzero(rows[i] != rows[j]) > 80
print("all differ")
"""


def test_forked_processes_draw_different_samples():
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "all differ\n", done.stderr


def test_parts_have_keystreams_of_their_own():
    """With one keystream for both parts of equal tables, samples would be multiples of k + 1."""
    law = sampler.discrete_gaussian(10**8)
    (k, first), (one, second) = law.tables.parts
    assert (one, first) == (1, second)
    out = np.empty(1000, np.int64)
    Draws(law.tables, SEED).write(out, 0)
    assert np.count_nonzero(out % (k + 1)) > 900


# --- what is refused ---
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sampler.discrete_gaussian(0), "variance must be positive"),
        (lambda: sampler.discrete_gaussian(-1), "variance must be positive"),
        (lambda: sampler.discrete_gaussian(2**44 + 1), "at most"),
        (lambda: sampler.discrete_gaussian(Fraction(2**45 + 1, 2)), "at most"),
        (lambda: sampler.discrete_gaussian(2.0), "integer or a Fraction"),
        (lambda: sampler.discrete_gaussian("4"), "integer or a Fraction"),
        (lambda: sampler.discrete_laplace(0), "scale must be positive"),
        (lambda: sampler.discrete_laplace(1.5), "integer or a Fraction"),
        (lambda: sampler.discrete_laplace(2**24 + 1), "at most"),
        (lambda: sampler.skellam(0), "variance must be between"),
        (lambda: sampler.skellam(2**28 + 1), "variance must be between"),
        (lambda: sampler.skellam(4.0), "variance must be an integer"),
        (lambda: sampler.skellam(Fraction(4)), "variance must be an integer"),
        (lambda: sampler.polya_difference(0, 2), "scale must be between"),
        (lambda: sampler.polya_difference(2**14 + 1, 2), "scale must be between"),
        (lambda: sampler.polya_difference(2, 0), "shares must be between"),
        (lambda: sampler.polya_difference(2, 2**20 + 1), "shares must be between"),
        (lambda: sampler.binomial(0), "trials must be between"),
        (lambda: sampler.binomial(3), "trials must be even"),
        (lambda: sampler.binomial(2**30 + 2), "trials must be between"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), "x" * 32, 32, None])
def test_seeds_are_32_bytes(seed):
    with pytest.raises(ValueError, match="seed must be 32 bytes"):
        Draws(LAWS["gaussian"].tables, seed)


@pytest.mark.parametrize("how", ["write", "add"])
def test_bad_arrays_and_positions_are_refused(how):
    draws = Draws(LAWS["gaussian"].tables, SEED)
    call = getattr(draws, how)
    fixed = np.zeros(4, np.uint32)
    fixed.flags.writeable = False
    for out, message in (
        (np.zeros(4, np.int32), "dtype"),
        (np.zeros(4, np.float64), "dtype"),
        (np.zeros(4, ">i8"), "dtype"),
        (np.zeros((2, 2), np.int64), "dimension"),
        (np.zeros(8, np.int64)[::2], "contiguous"),
        (fixed, "writable"),
        ([0, 0], "numpy array"),
    ):
        with pytest.raises(ValueError, match=message):
            call(out, 0)
    out = np.full(4, 9, np.int64)
    for start in (-1, 2**62 - 3, 0.5):
        with pytest.raises(ValueError, match="start"):
            call(out, start)
    for threads in (0, 1025):
        with pytest.raises(ValueError, match="threads"):
            call(out, 0, threads=threads)
    assert out.tolist() == [9] * 4
    call(out, 2**62 - 4)


def test_counts_are_not_negative():
    with pytest.raises(ValueError, match="count"):
        sampler.sample(LAWS["gaussian"], -1)
    assert len(sampler.sample(LAWS["gaussian"], 0)) == 0


def test_seeds_do_not_show_and_do_not_travel():
    draws = Draws(LAWS["gaussian, two parts"].tables, SEED)
    shown = repr(draws)
    assert "70 * Table" in shown
    assert SEED.hex()[:8] not in shown
    assert repr(SEED)[2:10] not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(draws)


def test_equal_laws_share_their_tables():
    assert sampler.skellam(9) == sampler.skellam(9) != sampler.skellam(10)
    assert sampler.skellam(9).tables is sampler.skellam(9).tables
    assert sampler.discrete_gaussian(9) == sampler.discrete_gaussian(Fraction(18, 2))
    assert sampler.skellam(9) != sampler.discrete_gaussian(9)
