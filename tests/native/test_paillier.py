"""Arithmetic modulo n^2, every variant that this host can run, against plain Python integers."""

import math
import random

import numpy as np
import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import features
from secagg_native.paillier import Factored, Squares, from_words, to_words
from support.bigints import (
    KEYS,
    SMALL_KEYS,
    edges,
    integers,
    nth_powers,
    primes,
    residues,
    units,
    words,
)

ROWS = (0, 1, 7, 8, 9, 17)


@pytest.fixture(params=features.bigint_variants())
def variant(request):
    return request.param


def named(keys):
    return pytest.mark.parametrize("key", keys, ids=lambda key: f"{key[0]}-{key[1]}")


def setting(key, variant):
    p, q = primes(*key)
    return p, q, Squares(p * q, variant=variant)


def check(rows, expected, count):
    """Compare rows with integers, and hold them to the form that every result has."""
    assert rows.dtype == np.uint64
    assert rows.shape == (len(expected), count)
    assert rows.flags.c_contiguous
    assert rows.flags.writeable
    assert integers(rows) == expected


def elements(squares, values):
    """Rows modulo n^2 that nobody can write to: no operation may change its operands."""
    rows = words(values, 2 * squares.words)
    rows.flags.writeable = False
    return rows


# --- words ---
@given(st.lists(st.integers(0, 2**192 - 1)), st.integers(3, 5))
def test_words_are_little_endian_rows(values, count):
    rows = to_words(values, count)
    check(rows, values, count)
    assert rows.tolist() == words(values, count).tolist()
    assert from_words(rows) == values


def test_words_of_nothing_and_at_the_limit():
    check(to_words([], 4), [], 4)
    assert from_words(np.zeros((0, 4), np.uint64)) == []
    assert from_words(np.zeros((2, 0), np.uint64)) == [0, 0]
    check(to_words([2**64 - 1, np.uint64(5)], 1), [2**64 - 1, 5], 1)


@pytest.mark.parametrize("value", [2**64, -1, 1.0, "1", None])
def test_words_that_do_not_fit_are_refused(value):
    with pytest.raises(ValueError, match="at most 64 bits"):
        to_words([1, value], 1)
    with pytest.raises(ValueError, match="words"):
        to_words([1], 0)


# --- power ---
@named(KEYS)
def test_power(key, variant):
    p, q, squares = setting(key, variant)
    modulus = (p * q) ** 2
    values = residues(p, q, 17 if key[0] <= 1024 else 9)
    bases = elements(squares, values)
    rng = random.Random(3)
    exponents = [0, 1, 2, 3, 31, 32, 2**64 - 1, rng.getrandbits(100)]
    exponents += [p * q, rng.getrandbits(2 * key[0] + 5)] if key[0] <= 576 else []
    for exponent in exponents:
        expected = [pow(value, exponent, modulus) for value in values]
        check(squares.power(bases, exponent), expected, 2 * squares.words)


@pytest.mark.parametrize("rows", ROWS)
def test_power_of_any_number_of_rows(rows, variant):
    p, q, squares = setting((512, "seeded"), variant)
    values = residues(p, q, rows)
    expected = [pow(value, 65537, (p * q) ** 2) for value in values]
    check(squares.power(elements(squares, values), 65537), expected, 2 * squares.words)


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(0, 2**130), seed=st.integers(0, 2**32))
def test_any_power(exponent, seed):
    p, q = primes(512)
    values = residues(p, q, 20, seed)[12:]
    expected = [pow(value, exponent, (p * q) ** 2) for value in values]
    for name in features.bigint_variants():
        squares = Squares(p * q, variant=name)
        check(squares.power(elements(squares, values), exponent), expected, 2 * squares.words)


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_grows_to_the_number_of_rows(threads, variant):
    p, q, squares = setting((512, "seeded"), variant)
    told = []
    bases = elements(squares, residues(p, q, 101))
    squares.power(bases, 3, threads=threads, progress=told.append)
    assert told == sorted(set(told))
    assert told[-1] == 101
    assert len(told) > 1


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_progress_ends_the_work(threads, variant):
    p, q, squares = setting((512, "seeded"), variant)

    def stop(done):
        raise KeyError(done)

    with pytest.raises(KeyError):
        squares.power(elements(squares, residues(p, q, 65)), 3, threads=threads, progress=stop)


# --- inverse ---
@named(KEYS)
def test_inverse(key, variant):
    p, q, squares = setting(key, variant)
    for rows in ROWS if key[0] == 512 else (9,):
        values = units(p, q, rows)
        expected = [pow(value, -1, (p * q) ** 2) for value in values]
        check(squares.inverse(elements(squares, values)), expected, 2 * squares.words)


@named([(512, "seeded"), (832, "largest")])
def test_what_has_no_inverse_is_refused_with_its_row(key, variant):
    p, q, squares = setting(key, variant)
    n = p * q
    for bad in (0, p, q * (n - 1), n, n * n - n):
        for row in (0, 7, 8):
            values = units(p, q, 9)
            values[row] = values[8] = bad
            with pytest.raises(ValueError, match=f"^bases has no inverse in row {row}$"):
                squares.inverse(elements(squares, values))


# --- products of powers ---
@named(KEYS)
def test_multi_power(key, variant):
    p, q, squares = setting(key, variant)
    modulus = (p * q) ** 2
    rng = random.Random(5)
    for count in ROWS if key[0] == 512 else (9,):
        for size in (1, 2, 3) if key[0] <= 832 else (2,):
            values = units(p, q, count)
            exponents = [0, 2 ** (64 * size) - 1, 1, 2 ** (64 * size - 1)]
            exponents += [rng.getrandbits(64 * size - 7) for _ in range(count)]
            exponents = exponents[:count]
            got = squares.multi_power(elements(squares, values), words(exponents, size))
            powers = map(pow, values, exponents, [modulus] * count)
            assert type(got) is int
            assert got == math.prod(powers) % modulus


def test_multi_power_of_edges(variant):
    p, q, squares = setting((512, "seeded"), variant)
    n = p * q
    for value in edges(p, q):
        for exponent in (0, 1, 2, 2**64):
            pair = elements(squares, [value, n + 1])
            expected = pow(value, exponent, n * n) * pow(n + 1, 3, n * n) % (n * n)
            assert squares.multi_power(pair, words([exponent, 3], 2)) == expected
    zeros = np.zeros((3, 2), np.uint64)
    assert squares.multi_power(elements(squares, [0, p, 7]), zeros) == 1
    assert squares.multi_power(elements(squares, []), zeros[:0]) == 1


def test_multi_power_of_many_rows(variant):
    p, q, squares = setting((512, "seeded"), variant)
    modulus = (p * q) ** 2
    rng = random.Random(6)
    values = units(p, q, 300)
    exponents = [rng.getrandbits(128) for _ in values]
    expected = math.prod(map(pow, values, exponents, [modulus] * 300)) % modulus
    rows, digits = elements(squares, values), words(exponents, 2)
    assert squares.multi_power(rows, digits) == expected
    assert squares.multi_power(rows, digits, threads=2) == expected


# --- faulty rows ---
@named(SMALL_KEYS)
def test_no_row_is_faulty(key, variant):
    p, q, squares = setting(key, variant)
    for count in ROWS:
        assert squares.faulty(elements(squares, units(p, q, count))) is None


@named([(512, "seeded"), (576, "seeded"), (1024, "least"), (3072, "seeded")])
def test_the_first_faulty_row_is_found(key, variant):
    p, q, squares = setting(key, variant)
    n = p * q
    beyond = [n * n, n * n + 1, n * n + 2**64, 2 ** (128 * squares.words) - 1]
    singular = [0, n, p, q * q, n * n - n, p * (q + 1)]
    for bad in beyond + singular:
        for row in (0, 8, 16):
            values = units(p, q, 17)
            values[row] = bad
            assert squares.faulty(elements(squares, values)) == row
    for first, second in ((beyond[0], p), (p, beyond[0]), (0, q), (beyond[1], beyond[3])):
        values = units(p, q, 17)
        values[5], values[11] = first, second
        assert squares.faulty(elements(squares, values)) == 5


# --- running products ---
@named(KEYS)
def test_running_products(key, variant):
    p, q, squares = setting(key, variant)
    modulus = (p * q) ** 2
    for count in ROWS if key[0] <= 832 else (9,):
        start = residues(p, q, count)
        product = squares.product(elements(squares, start))
        assert len(product) == count
        expected = start
        for seed in range(4):
            # The edges meet random numbers, and in the last turn each other.
            factors = residues(p, q, count + 12, seed)[12:] if seed < 3 else start[::-1]
            product.multiply(elements(squares, factors))
            expected = [x * y % modulus for x, y in zip(expected, factors, strict=True)]
            if seed:
                check(product.value(), expected, 2 * squares.words)
                check(product.value(), expected, 2 * squares.words)


def test_a_running_product_keeps_its_own_numbers(variant):
    p, q, squares = setting((512, "seeded"), variant)
    start = words(units(p, q, 9), 2 * squares.words)
    before = integers(start)
    product = squares.product(start)
    start[:] = 0
    factors = words(before, 2 * squares.words)
    product.multiply(factors)
    factors[:] = 0
    product.value()[:] = 0
    check(product.value(), [x * x % (p * q) ** 2 for x in before], 2 * squares.words)


def test_products_of_edges_with_edges(variant):
    for key in SMALL_KEYS:
        p, q, squares = setting(key, variant)
        values = edges(p, q)
        for turn in range(len(values)):
            others = values[turn:] + values[:turn]
            product = squares.product(elements(squares, values))
            product.multiply(elements(squares, others))
            expected = [x * y % (p * q) ** 2 for x, y in zip(values, others, strict=True)]
            check(product.value(), expected, 2 * squares.words)


# --- one base ---
lookups = pytest.mark.parametrize("variant", features.bigint_variants())


def encrypted(n, base, exponents, messages):
    pairs = zip(exponents, messages, strict=True)
    return [(1 + m * n) * pow(base, e, n * n) % (n * n) for e, m in pairs]


@lookups
@named(KEYS)
def test_encryption_with_a_table(key, variant):
    p, q, squares = setting(key, variant)
    n, bits = p * q, 130 if key[0] <= 1024 else 40
    rng = random.Random(7)
    base = rng.randrange(n * n)
    table = squares.table(base, bits)
    exponents = [0, 1, 2**bits - 1, 2 ** (bits - 1)] + [rng.getrandbits(bits) for _ in range(13)]
    messages = [n - 1, 0, n - 1, 1, p] + [rng.randrange(n) for _ in range(12)]
    rows = 17 if key[0] <= 1024 else 9
    expected = encrypted(n, base, exponents[:rows], messages[:rows])
    powers = [pow(base, exponent, n * n) for exponent in exponents[:rows]]
    for count in ROWS if key[0] <= 832 else (rows,):
        chosen, plain = exponents[:count], messages[:count]
        for size in (3, 9):
            digits = words(chosen, size)
            digits.flags.writeable = False
            got = table.encrypt(digits, words(plain, squares.words))
            check(got, expected[:count], 2 * squares.words)
        check(table.encrypt(words(chosen, 3)), powers[:count], 2 * squares.words)


@lookups
@pytest.mark.parametrize("bits", [1, 2, 5, 7, 8, 9, 52, 64, 65, 128, 448, 512])
def test_tables_of_any_length(bits, variant):
    p, q, squares = setting((512, "seeded"), variant)
    n = p * q
    table = squares.table(n + 2, bits)
    assert table.bits == bits
    rng = random.Random(bits)
    exponents = [0, 1, 2**bits - 1, 2 ** (bits - 1), *(rng.getrandbits(bits) for _ in range(5))]
    least = -(-bits // 64)
    for size in (least, least + 1, 9):
        got = table.encrypt(words(exponents, size))
        check(got, encrypted(n, n + 2, exponents, [0] * 9), 2 * squares.words)
    # Fewer words than the table is long.
    short = [exponent % 2**64 for exponent in exponents]
    got = table.encrypt(words(short, 1))
    check(got, encrypted(n, n + 2, short, [0] * 9), 2 * squares.words)
    for size, one in ((least, bits), (9, bits), (9, 575)):
        if one < 64 * size:
            with pytest.raises(ValueError, match=f"exponents must be below 2\\^{bits}$"):
                table.encrypt(words([1, 1 << one], size))


@lookups
def test_tables_of_edges(variant):
    p, q, squares = setting((512, "seeded"), variant)
    n = p * q
    exponents, messages = [0, 1, 2, 3, 255, 256, 1023, 512, 31], [5, *([n - 1] * 8)]
    for base in edges(p, q):
        table = squares.table(base, 10)
        got = table.encrypt(words(exponents, 1), words(messages, squares.words))
        check(got, encrypted(n, base, exponents, messages), 2 * squares.words)


# --- decryption ---
@named(KEYS)
def test_decryption(key, variant):
    p, q = primes(*key)
    n, noise = p * q, nth_powers(*key)
    rng = random.Random(9)
    messages = [0, n - 1, 1, p, q, n // 2] + [rng.randrange(n) for _ in range(11)]
    values = [(1 + m * n) * r % (n * n) for m, r in zip(messages, noise, strict=True)]
    # Python alone takes seconds for a few long rows.
    long = (2,) if variant == "python" else (9,)
    for count in ROWS if key[0] == 512 else (9,) if key[0] <= 1024 else long:
        rows = words(values[:count], key[0] // 32)
        rows.flags.writeable = False
        for pair in ((p, q), (q, p)):
            factored = Factored(*pair, variant=variant)
            check(factored.decrypt(rows), messages[:count], key[0] // 64)


def test_decryption_agrees_with_phe(variant):
    p, q = primes(1024)
    public = phe.PaillierPublicKey(p * q)
    private = phe.PaillierPrivateKey(public, p, q)
    values = [value for value in units(p, q, 17) if value]
    rows = words(values, 32)
    got = integers(Factored(p, q, variant=variant).decrypt(rows))
    assert got == [private.raw_decrypt(value) for value in values]
    ours = Squares(p * q, variant=variant).table(pow(3, p * q, (p * q) ** 2), 8)
    theirs = [public.raw_encrypt(m, pow(3, 200, p * q)) for m in (0, 5, p * q - 1)]
    assert integers(ours.encrypt(words([200] * 3, 1), words([0, 5, p * q - 1], 16))) == theirs


def test_what_shares_a_factor_with_the_key_is_not_decrypted(variant):
    p, q = primes(512)
    n = p * q
    factored = Factored(p, q, variant=variant)
    for bad in (0, n, p, q, p * p, q * 5, n * n - n):
        for row in (0, 3, 8):
            values = units(p, q, 17)
            values[row] = values[16] = bad
            with pytest.raises(ValueError, match=f"^ciphertexts has no inverse in row {row}$"):
                factored.decrypt(words(values, 2 * factored.words), threads=2)


def test_factors_that_are_not_prime_decrypt_nothing(variant):
    p, q = (2**101 - 69) * (2**155 - 31), primes(512)[1]
    with pytest.raises(ValueError, match=r"^ciphertexts has no inverse in row 1$"):
        Factored(p, q, variant=variant).decrypt(words([1, 3, 5], 16))
    with pytest.raises(ValueError, match=r"^ciphertexts has no inverse in row 1$"):
        Factored(q, p, variant=variant).decrypt(words([1, 3, 5], 16))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**512 - 1), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_sums_and_multiples_under_encryption(messages, factor):
    p, q = primes(512)
    n = p * q
    messages = [message % n for message in messages]
    for name in features.bigint_variants():
        squares = Squares(n, variant=name)
        table = squares.table(pow(5, n, n * n), 16)
        product = squares.product(table.encrypt(words([1], 1)))
        for message in messages:
            product.multiply(table.encrypt(words([message % 65521], 1), words([message], 8)))
        scaled = squares.power(product.value(), factor)
        rows = np.concatenate([scaled, squares.inverse(scaled)])
        opened = integers(Factored(p, q, variant=name).decrypt(rows))
        total = sum(messages) * factor % n
        assert opened == [total, -total % n]


# --- threads ---
@pytest.mark.parametrize("rows", [0, 1, 9, 70])
def test_threads_give_the_same(rows, variant):
    p, q, squares = setting((512, "seeded"), variant)
    values = units(p, q, rows)
    bases, digits = elements(squares, values), words([7] * rows, 1)
    table = squares.table(3, 64)
    once, twice = squares.product(bases), squares.product(bases)
    once.multiply(bases)
    twice.multiply(bases, threads=2)
    factored = Factored(p, q, variant=variant)
    messages = words([value % (p * q) for value in values], squares.words)
    for one, two in (
        (squares.power(bases, 99), squares.power(bases, 99, threads=2)),
        (table.encrypt(digits, messages), table.encrypt(digits, messages, threads=2)),
        (factored.decrypt(bases), factored.decrypt(bases, threads=2)),
        (once.value(), twice.value()),
    ):
        assert one.tolist() == two.tolist()
    many = squares.multi_power(bases, digits, threads=2)
    assert many == squares.multi_power(bases, digits)
