"""The kernels under "ifma", one by one, against plain integers; as a whole: test_paillier.py."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import features, limits, paillier
from support.bigints import integers, words

if features.IFMA not in features.bigint_variants():
    pytest.skip("this host has no 52-bit multipliers", allow_module_level=True)

from secagg_native import _ifma
from secagg_native.kernels import digits, lookup, montgomery

BASE = 1 << 52
MODULI = range(512, 4097, 64)
#: K is ten, an odd and an even number of tens and twos, and the largest; each modulus all ones,
#: whose digits make the largest sums, or of no form.
SIZES = (492, 512, 576, 704, 1024, 3072, 4096)


def column(values, size):
    """Blocks of eight numbers as digits, one at a time; values is filled up with zeros."""
    padded = list(values) + [0] * (-len(values) % 8)
    out = _ifma._empty(len(padded) * size)
    for i, value in enumerate(padded):
        for j in range(size):
            out[(i // 8 * size + j) * 8 + i % 8] = value >> (52 * j) & (BASE - 1)
    return out


def numbers(array, size):
    """The integers of blocks of digits, which must all be below the base."""
    assert (array < BASE).all()
    shaped = array.reshape(-1, size, 8)
    return [
        sum(int(digit) << (52 * j) for j, digit in enumerate(block[:, i]))
        for block in shaped
        for i in range(8)
    ]


def halves(values, n):
    return [(value % n, value // n) for value in values]


def pair_column(pairs, size):
    """Blocks of pairs (x0, x1): x0 is the lower half of the digits."""
    return column([low + (high << (52 * size)) for low, high in pairs], 2 * size)


def pair_numbers(array, size):
    radix = 1 << (52 * size)
    return [(value % radix, value // radix) for value in numbers(array, 2 * size)]


def drawn(limit, count, seed):
    rng = random.Random(seed)
    return [rng.randrange(limit) for _ in range(count)]


def moduli(bits):
    some = drawn(1 << (bits - 1), 1, seed=bits)[0]
    return [(1 << bits) - 1, (1 << (bits - 1)) + 1, some | 1 << (bits - 1) | 1]


# --- how many digits ---
@pytest.mark.parametrize(
    "bits", [*MODULI, *(size // 2 for size in MODULI), *range(1024, 8193, 128)]
)
def test_digits_leave_eight_bits_and_are_as_few_as_can_be(bits):
    size = _ifma.digit_count(bits)
    assert size % 2 == 0
    assert 52 * size >= bits + 8
    assert 52 * (size - 2) < bits + 8


def test_the_sums_of_the_largest_modulus_fit():
    """Three products of K digits, a carry and a number, for moduli; one and that for squares."""
    largest = _ifma.digit_count(4096)
    assert (3 * 2 * largest + 2) * (BASE - 1) < 2**63
    assert (2 * 2 * _ifma.digit_count(8192) + 2) * (BASE - 1) < 2**63


def test_memory_begins_at_a_line():
    kept = [_ifma._empty(words) for words in range(1, 51)]
    assert [array.ctypes.data % 64 for array in kept] == [0] * 50
    assert [len(array) for array in kept] == list(range(1, 51))


# --- words and digits ---
@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**320 - 1), min_size=8, max_size=8),
    st.integers(0, 7),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_words_are_split_into_digits(values, first, size, more):
    out = _ifma._empty((size + more) * 8)
    out[:] = 2**64 - 1
    digits.split(words(values, 5), first, size, size + more, out)
    expected = [(value >> (52 * first)) & ((1 << (52 * size)) - 1) for value in values]
    assert numbers(out, size + more) == expected


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**312 - 1), min_size=8, max_size=8),
    st.integers(1, 7),
    st.integers(0, 2),
)
def test_digits_are_joined_to_words(values, count, first):
    """What does not fit the words is dropped; what is beyond the digits is zero."""
    stride = first + 7
    array = column([value << (52 * first) for value in values], stride)
    out = np.full((8, count), 2**64 - 1, np.uint64)
    digits.join(array, first, 6, stride, out)
    assert integers(out) == [value % 2 ** (64 * count) for value in values]


@pytest.mark.parametrize("bits", [64, 512, 832, 6144, 8192])
def test_words_survive_the_way_to_digits_and_back(bits):
    values = drawn(1 << bits, 16, seed=bits) if bits > 64 else [2**64 - 1, 2**52, 2**52 - 1] * 6
    values = [*values, 0, (1 << bits) - 1][-16:]
    size = -(-bits // 52)
    array = _ifma._empty(16 * size)
    digits.split(words(values, bits // 64), 0, size, size, array)
    out = np.empty((16, bits // 64), np.uint64)
    digits.join(array, 0, size, size, out)
    assert integers(out) == values


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63), min_size=24, max_size=24))
def test_sums_are_carried(sums):
    array = _ifma._aligned(np.array(sums, np.uint64).reshape(1, 3, 8))
    array[:, 2] >>= np.uint64(14)
    values = [sum(int(array[0, j, i]) << (52 * j) for j in range(3)) for i in range(8)]
    flat = array.reshape(-1)
    digits.settle(flat, 3)
    assert numbers(flat, 3) == values


# --- reduction ---
@pytest.mark.parametrize("bits", [52, 104, 512])
def test_a_modulus_is_subtracted_once(bits):
    n, size = (1 << bits) - 57, bits // 52 + 2
    values = [0, 1, n - 1, n, n + 1, 2 * n - 1, 1 << bits, 1 << (bits - 1)]
    array, work = column(values, size), _ifma._empty(8 * (size + 1))
    digits.subtract_once(array, _ifma._to_digits(n, size), size, work)
    assert numbers(array, size) == [value - n if value >= n else value for value in values]


def test_pairs_are_reduced():
    n, size = (1 << 200) + 235, 6
    lows = [0, 1, n - 1, n, n + 1, 2 * n - 1]
    highs = [0, 1, n - 2, n - 1, n, 2 * n - 1, 2 * n, 3 * n - 1, 3 * n, 4 * n - 2]
    pairs = [(low, high) for low in lows for high in highs] + [(0, 0)] * 4
    array, work = pair_column(pairs, size), _ifma._empty(8 * (size + 1))
    digits.canonical(array, _ifma._to_digits(n, size), size, work)
    expected = halves([(low + high * n) % n**2 for low, high in pairs], n)
    assert pair_numbers(array, size) == expected


# --- products ---
def operands(n):
    """The largest operands that the bounds allow, the least, and others: eight of each."""
    x = [(8 * n - 1, 12 * n - 1), (8 * n - 1, 0), (0, 12 * n - 1), (0, 0)]
    x += [(n, n - 1), (2 * n - 1, 3 * n - 1), (1, 1), *halves(drawn(n**2, 1, seed=1), n)]
    y = [(8 * n - 1, 12 * n - 1), (8 * n - 1, 12 * n - 1), (1, 0), (5, 5)]
    y += [(n - 1, n), (2 * n - 1, 3 * n - 1), (n - 1, n - 1), *halves(drawn(n**2, 1, seed=2), n)]
    return x[:8], y[:8]


@pytest.mark.parametrize("bits", SIZES)
def test_products_of_pairs(bits):
    for n in moduli(bits):
        pairs = _ifma.Pairs(n, bits // 32)
        radix = 1 << (52 * pairs.size)
        x, y = operands(n)
        left, right = pair_column(x + y, pairs.size), pair_column(y + x, pairs.size)
        work, out = pairs.scratch(), pairs.empty(2)
        montgomery.multiply(left, right, pairs.modulus, out, work)
        found = pair_numbers(out, pairs.size)
        assert all(low < 2 * n and high < 3 * n for low, high in found)
        inverse = pow(radix, -1, n**2)
        expected = [
            (a + b * n) * (c + d * n) * inverse % n**2
            for (a, b), (c, d) in zip(x + y, y + x, strict=True)
        ]
        assert [(low + high * n) % n**2 for low, high in found] == expected
        # One factor for all blocks, in the place of an operand.
        montgomery.multiply(left, right[: pairs.pair_words], pairs.modulus, left, work)
        again = pair_numbers(left, pairs.size)
        assert again[:8] == found[:8]
        assert [(low + high * n) % n**2 for low, high in again[8:]] == [
            (a + b * n) ** 2 * inverse % n**2 for a, b in y
        ]


@pytest.mark.parametrize("bits", SIZES)
def test_squares_of_pairs(bits):
    """A digit 0 of one bit after a digit 1 is a square, and a product by the pair of 1."""
    for n in moduli(bits):
        pairs = _ifma.Pairs(n, bits // 32)
        radix = 1 << (52 * pairs.size)
        x, _ = operands(n)
        array, work = pair_column(x, pairs.size), pairs.scratch(6)
        montgomery.power(array, np.array([1, 0], np.int64), 1, pairs.modulus, work)
        inverse = pow(radix, -1, n**2)
        found = [(low + high * n) % n**2 for low, high in pair_numbers(array, pairs.size)]
        assert found == [(low + high * n) ** 2 * inverse % n**2 for low, high in x]


@pytest.mark.parametrize("bits", [1024, 1152, 6144, 8192])
def test_plain_products(bits):
    for n in moduli(bits):
        size = _ifma.digit_count(bits)
        radix = 1 << (52 * size)
        inverse = -pow(n, -1, BASE) % BASE
        constants = np.append(_ifma._to_digits(n, size), np.uint64(inverse))
        x = [2 * n - 1, 2 * n - 1, 0, n, 1, *drawn(n, 3, seed=bits)]
        y = [n - 1, 1, n - 1, n - 1, 1, *drawn(n, 3, seed=bits + 1)]
        held, work = column(x, size), _ifma._empty(3 * 8 * size)
        montgomery.multiply_plain(held, column(y, size), constants, work)
        found = numbers(held, size)
        assert all(value < 2 * n for value in found)
        assert [value % n for value in found] == [
            a * b * pow(radix, -1, n) % n for a, b in zip(x, y, strict=True)
        ]


@pytest.mark.parametrize("bits", MODULI)
def test_powers_for_every_length_of_a_modulus(bits):
    n = moduli(bits)[bits // 64 % 3]
    values = [0, n**2 - 1, n, *drawn(n**2, 4, seed=bits)]
    squares = paillier.Squares(n, variant="ifma")
    exponent = 0b10_011_101
    rows = squares.power(words(values, 2 * squares.words), exponent)
    assert integers(rows) == [pow(value, exponent, n**2) for value in values]


@pytest.mark.parametrize("words_in", [1, 8, 9, 16, 24, 26])
def test_numbers_of_any_length_are_entered(words_in):
    """A number beyond n^2 is cut in pieces, as a ciphertext is for one prime."""
    n = moduli(512)[2]
    pairs = _ifma.Pairs(n, words_in)
    values = [0, 2 ** (64 * words_in) - 1, *drawn(2 ** (64 * words_in), 6, seed=3)]
    work, out = pairs.scratch(), np.empty((8, 16), np.uint64)
    array = pairs.enter(words(values, words_in), work)
    assert all(low < 8 * n and high < 12 * n for low, high in pair_numbers(array, pairs.size))
    pairs.leave(array, None, out, work)
    assert integers(out) == [value % n**2 for value in values]


# --- look-ups ---
@pytest.mark.parametrize("width", range(1, 7))
def test_a_scan_finds_every_entry(width):
    n = moduli(512)[2]
    pairs = _ifma.Pairs(n, 16)
    values = drawn(n**2, 8, seed=4)
    for digit in range(1 << width):
        out = np.empty((8, 16), np.uint64)
        pairs.power(words(values, 16), np.array([digit], np.int64), width, out)
        assert integers(out) == [pow(value, digit, n**2) for value in values]


def test_every_lane_chooses_every_entry():
    table = _ifma._aligned(np.arange(3 * lookup.ENTRIES, dtype=np.uint64) ** 2)
    for shift in range(lookup.ENTRIES):
        choices = (np.arange(16, dtype=np.uint64) * 37 + shift) % lookup.ENTRIES
        out = _ifma._empty(2 * 3 * 8)
        lookup.choose(_ifma._aligned(choices), table, out)
        found = out.reshape(2, 3, 8).transpose(0, 2, 1).reshape(16, 3)
        assert found.tolist() == [
            [(j * lookup.ENTRIES + int(choice)) ** 2 for j in range(3)] for choice in choices
        ]


@pytest.mark.parametrize("width", range(1, 9))
def test_exponents_are_cut_into_digits(width):
    values = [0, 2**192 - 1, *drawn(2**192, 3, seed=width)]
    found = _ifma._windows(words(values, 3), width, -(-192 // width))
    assert found.max() < 1 << width
    for i, value in enumerate(values):
        assert sum(int(digit) << (width * k) for k, digit in enumerate(found[:, i])) == value


@settings(deadline=None)
@given(st.integers(1, 2**400))
def test_an_exponent_is_cut_from_its_top(exponent):
    found, width = _ifma._exponent(exponent)
    total = 0
    for digit in found.tolist():
        assert 0 <= digit < 1 << width
        total = (total << width) + digit
    assert total == exponent
    assert len(found) == -(-exponent.bit_length() // width)


@pytest.mark.slow
def test_tables_are_read_by_no_gather_and_no_masked_load(tmp_path):
    """Every load of the compiled look-ups takes its address from public numbers only."""
    code = (
        "from secagg_native.kernels import lookup, montgomery\n"
        "from secagg_native import paillier\n"
        "squares = paillier.Squares(2**512 - 1, variant='ifma')\n"
        "squares.power(paillier.to_words([5], 16), 3)\n"
        "squares.table(5, 9).encrypt(paillier.to_words([65], 1))\n"
        "for each in (montgomery.power, lookup.choose):\n"
        "    print(*each.inspect_asm().values())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(re.findall("vpmadd52huq", done.stdout)) > 100
    assert "vpermi2q" in done.stdout or "vpermt2q" in done.stdout
    assert "gather" not in done.stdout
    masked = [line for line in done.stdout.splitlines() if "{%k" in line and "(" in line]
    assert masked == []


# --- batches ---
def test_more_rows_than_a_batch(monkeypatch):
    for name in ("_BATCH", "_POWER_BATCH", "_MULTI_BATCH"):
        monkeypatch.setattr(_ifma, name, 8)
    n = moduli(512)[2]
    squares = paillier.Squares(n, variant="ifma")
    values = drawn(n**2, 21, seed=5)
    rows, total, folded = words(values, 16), 1, 1
    for value in values:
        total, folded = total * pow(value, 3, n**2) % n**2, folded * value % n
    assert integers(squares.power(rows, 3)) == [pow(value, 3, n**2) for value in values]
    assert squares.multi_power(rows, words([3] * 21, 1)) == total
    assert squares._arithmetic.fold(rows, 1) % n == folded
    table = squares.table(values[0], 10)
    exponents = list(range(21))
    assert integers(table.encrypt(words(exponents, 1), words(exponents, 8))) == [
        (1 + e * n) * pow(values[0], e, n**2) % n**2 for e in exponents
    ]
    running = squares.product(rows)
    running.multiply(rows[::-1].copy())
    assert integers(running.value()) == [
        a * b % n**2 for a, b in zip(values, reversed(values), strict=True)
    ]


# --- the limit of the hardware ---
def test_the_multipliers_run_alone():
    limits.ifma_registers(0)
    limits.ifma_registers(1000)
    limits.ifma_registers(3_000_000, threads=2)


def test_what_the_limit_refuses(monkeypatch):
    with pytest.raises(ValueError, match="instructions"):
        limits.ifma_registers(-1)
    with pytest.raises(ValueError, match="threads"):
        limits.ifma_registers(1, threads=0)
    monkeypatch.setattr(features, "bigint_variants", lambda: ("python",))
    with pytest.raises(RuntimeError, match="52-bit"):
        limits.ifma_registers(1)
