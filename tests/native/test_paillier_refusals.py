"""What Paillier's arithmetic refuses, what its objects tell, and which variant is chosen."""

import math
import os
import pickle
import sys
from subprocess import run

import numpy as np
import pytest

from secagg_native import features, paillier
from secagg_native.kernels import _host
from secagg_native.paillier import Factored, Squares
from support.bigints import integers, primes, units, words

KEY = primes(512)


@pytest.fixture(params=features.bigint_variants())
def variant(request):
    return request.param


# --- refusals ---
def calls(squares, factored, rows):
    table = squares.table(3, 64)
    digits = np.ones((2, 1), np.uint64)
    return [
        lambda: squares.power(rows, 3),
        lambda: squares.inverse(rows),
        lambda: squares.multi_power(rows, digits),
        lambda: squares.product(rows),
        lambda: squares.product(np.ones((2, 16), np.uint64)).multiply(rows),
        lambda: factored.decrypt(rows),
        lambda: squares.faulty(rows),
        lambda: table.encrypt(digits, np.ones((2, 8)) if rows is None else rows),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((2, 16), np.int64),
        np.ones((2, 16), np.uint32),
        np.ones((2, 16), ">u8"),
        np.ones((2, 17), np.uint64),
        np.ones((2, 15), np.uint64),
        np.ones((2, 32), np.uint64)[:, ::2],
        np.ones((16, 2), np.uint64).T,
        np.ones(16, np.uint64),
        np.ones((1, 2, 16), np.uint64),
        np.frombuffer(bytes(257), np.uint64, 32, 1).reshape(2, 16),
        [[1] * 16] * 2,
        None,
    ],
    ids=str,
)
def test_rows_of_a_wrong_form_are_refused(rows, variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    for call in calls(squares, Factored(p, q, variant=variant), rows):
        with pytest.raises(ValueError, match=r"bases|start|factors|ciphertexts|rows|messages"):
            call()


def test_numbers_out_of_range_are_refused(variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    factored = Factored(p, q, variant=variant)
    n = p * q
    for bad in (n * n, n * n + 1, n * n + 2**960, 2**1024 - 1):
        rows = words([n * n - 1, bad], 16)
        for call in calls(squares, factored, rows)[:-2]:
            with pytest.raises(ValueError, match=r"must be below n\^2, and row 1 is not"):
                call()
    table = squares.table(3, 64)
    digits = np.ones((2, 1), np.uint64)
    for bad in (n, n + 1, 2**512 - 1):
        with pytest.raises(ValueError, match=r"messages must be below n, and row 0 is not"):
            table.encrypt(digits, words([bad, n - 1], 8))


def test_a_refused_factor_changes_no_product(variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    product = squares.product(words([5, 6], 16))
    for rows in (words([1, (p * q) ** 2], 16), words([1], 16), words([2, 2, 2], 16)):
        with pytest.raises(ValueError, match="factors"):
            product.multiply(rows)
    assert integers(product.value()) == [5, 6]


def test_wrong_exponents_are_refused(variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    bases = words(units(p, q, 2), 16)
    for exponent, text in ((-1, "negative"), (1.0, "integer"), (None, "integer")):
        with pytest.raises(ValueError, match=f"exponent must .*{text}"):
            squares.power(bases, exponent)
    table = squares.table(3, 64)
    for digits in (np.ones((2, 0), np.uint64), np.ones(2, np.uint64), np.ones((2, 1))):
        for call in (
            lambda d=digits: squares.multi_power(bases, d),
            lambda d=digits: table.encrypt(d),
        ):
            with pytest.raises(ValueError, match="exponents"):
                call()
    with pytest.raises(ValueError, match="same number of rows"):
        squares.multi_power(bases, np.ones((3, 1), np.uint64))
    with pytest.raises(ValueError, match="same number of rows"):
        table.encrypt(np.ones((3, 1), np.uint64), np.ones((2, 8), np.uint64))


@pytest.mark.parametrize("threads", [0, -1, 1.5, 10**6])
def test_wrong_numbers_of_threads_are_refused(threads, variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    rows, digits = words(units(p, q, 2), 16), np.ones((2, 1), np.uint64)
    table, product = squares.table(3, 4), squares.product(rows)
    for call in (
        lambda: squares.power(rows, 3, threads=threads),
        lambda: squares.multi_power(rows, digits, threads=threads),
        lambda: table.encrypt(digits, threads=threads),
        lambda: product.multiply(rows, threads=threads),
        lambda: Factored(p, q, variant=variant).decrypt(rows, threads=threads),
    ):
        with pytest.raises(ValueError, match="threads"):
            call()


def test_wrong_tables_are_refused(variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    for base in (-1, (p * q) ** 2, 1.0):
        with pytest.raises(ValueError, match="base"):
            squares.table(base, 8)
    for bits in (0, -1, paillier.MAX_TABLE_BITS + 1, 2.0):
        with pytest.raises(ValueError, match="bits"):
            squares.table(3, bits)


@pytest.mark.parametrize(
    "n",
    [
        2**511,
        2**511 - 1,
        2**512 + 1,
        2**513 - 1,
        2**543 + 1,
        2**447 + 1,
        2**4159 + 1,
        -(2**511 + 1),
        9.0,
    ],
)
def test_wrong_moduli_are_refused(n):
    with pytest.raises(ValueError, match=r"^n must"):
        Squares(n)


def test_wrong_factors_are_refused():
    p, q = KEY
    other = primes(576)[0]
    for pair in ((p, p), (2 * p, q), (p, q + 1), (p, other), (3 * p, 3 * q), (p, -q), (p, 1.0)):
        with pytest.raises(ValueError, match=r"p and q|p \* q|q must"):
            Factored(*pair)
    # Other lengths, and a factor of 3 that both have, with a product of 512 bits.
    for pair in ((2**262 - 71, 2**250 - 207), (2**256 - 1, 2**256 - 7)):
        with pytest.raises(ValueError, match="primes of the same length"):
            Factored(*pair)
    # Half of the length, and n one bit short of whole words.
    for pair in ((2**127 + 29, 2**128 - 159), (2**255 + 95, 2**255 + 3)):
        with pytest.raises(ValueError, match=r"p \* q must be odd and of 512"):
            Factored(*pair)


# --- objects ---
def test_what_objects_tell_of_themselves(variant):
    p, q = KEY
    squares = Squares(p * q, variant=variant)
    factored = Factored(p, q, variant=variant)
    assert repr(squares) == f"Squares(512 bits, {variant})"
    assert repr(factored) == f"Factored(<secret>, {variant})"
    assert repr(squares.table(3, 40)) == f"FixedBase(40 bits, {squares!r})"
    assert repr(squares.product(words([1], 16))) == f"Product(1 rows, {squares!r})"
    assert (squares.n, squares.words, squares.variant) == (p * q, 8, variant)
    assert pickle.loads(pickle.dumps(squares)).n == p * q  # noqa: S301 - made here
    for held in (factored, squares.table(3, 40), squares.product(words([1], 16))):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(held)


# --- variants ---
def run_python(code, **environment):
    return run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_the_best_variant_is_chosen():
    assert set(features.bigint_variants()) <= set(features.BIGINT_VARIANTS)
    assert features.bigint_variants()[-1] == "python"
    if "SECAGG_BIGINT" not in os.environ:
        assert Squares(math.prod(KEY)).variant == features.bigint_variants()[0]
        assert Factored(*KEY).variant == features.bigint_variants()[0]


NINTH = """
import sys
{first}
from secagg_native import features, paillier
from secagg_native.kernels import _host
squares = paillier.Squares(2**512 - 569)
row = paillier.to_words([3], 16)
print(squares.variant, paillier.from_words(squares.power(row, 2)), *features.bigint_variants())
"""


@pytest.mark.parametrize("name", features.bigint_variants())
def test_the_environment_forces_a_variant(name):
    done = run_python(NINTH.format(first=""), SECAGG_BIGINT=name)
    assert done.stdout.split()[:2] == [name, "[9]"], done.stderr


def test_python_is_left_where_gmpy2_is_not():
    done = run_python(NINTH.format(first="sys.modules['gmpy2'] = None"), SECAGG_BIGINT="python")
    assert done.stdout.split()[:2] == ["python", "[9]"], done.stderr
    assert "gmp" not in done.stdout


def test_a_wrong_variant_is_refused():
    done = run_python(NINTH.format(first=""), SECAGG_BIGINT="fast")
    assert done.returncode == 1
    assert "ValueError: SECAGG_BIGINT must be one of ifma, gmp, python" in done.stderr
    for make in (
        lambda: Squares(2**512 - 569, variant="fast"),
        lambda: Factored(*KEY, variant=""),
    ):
        with pytest.raises(ValueError, match="variant must be one of"):
            make()


def test_the_environment_is_checked_before_anything_runs(monkeypatch):
    features.bigint_variant.cache_clear()
    try:
        monkeypatch.setenv("SECAGG_BIGINT", "python")
        features.check_environment()
        features.bigint_variant.cache_clear()
        monkeypatch.setenv("SECAGG_BIGINT", "openssl")
        with pytest.raises(ValueError, match="SECAGG_BIGINT must be one of"):
            features.check_environment()
    finally:
        features.bigint_variant.cache_clear()


@pytest.mark.parametrize("lacking", ["avx512f", "avx512ifma"])
def test_without_the_instructions_there_is_no_ifma(lacking, monkeypatch):
    here = frozenset({"avx512f", "avx512ifma"}) - {lacking}
    monkeypatch.setattr(_host, "target_features", lambda: here)
    assert "ifma" not in features.bigint_variants.__wrapped__()
    assert "python" in features.bigint_variants.__wrapped__()


def test_a_variant_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(features, "bigint_variants", lambda: ("python",))
    with pytest.raises(ValueError, match="which this host cannot run; it can run python"):
        Squares(2**512 - 569, variant="ifma")
