"""GF(2^61 - 1) and Shamir sharing against Python integers."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import _gf61, field
from secagg_native.field import lagrange, recover, reduce_uniform, split
from support.shares import EDGES, ELEMENTS, P, evaluate, instance, interpolate, u64

ONES = np.ones((3, 2), np.uint64)


# --- arithmetic ---
def test_edges():
    a, b = (u64(c) for c in zip(*itertools.product(EDGES, EDGES), strict=True))
    pairs = list(itertools.product(EDGES, EDGES))
    assert field.add(a, b).tolist() == [(x + y) % P for x, y in pairs]
    assert field.sub(a, b).tolist() == [(x - y) % P for x, y in pairs]
    assert field.mul(a, b).tolist() == [x * y % P for x, y in pairs]
    nonzero = u64(EDGES[1:] * 9)
    assert field.inv(nonzero).tolist() == [pow(x, -1, P) for x in EDGES[1:] * 9]


@settings(max_examples=200)
@given(st.lists(st.tuples(ELEMENTS, ELEMENTS), min_size=1, max_size=70))
def test_arithmetic(pairs):
    a, b = u64([x for x, _ in pairs]), u64([y for _, y in pairs])
    assert field.add(a, b).tolist() == [(x + y) % P for x, y in pairs]
    assert field.sub(a, b).tolist() == [(x - y) % P for x, y in pairs]
    assert field.mul(a, b).tolist() == [x * y % P for x, y in pairs]
    nonzero = [x for x, _ in pairs if x]
    assert field.inv(u64(nonzero)).tolist() == [pow(x, -1, P) for x in nonzero]


def test_shapes_broadcast():
    a, b = u64([[P - 1], [3]]), u64([P - 1, 5, 0])
    assert field.mul(a, b).tolist() == [[1, P - 5, 0], [P - 3, 15, 0]]
    assert field.add(a, u64(P - 1)).tolist() == [[P - 2], [2]]
    assert field.sub(u64(0), u64(1)).tolist() == P - 1
    assert field.inv(a).shape == (2, 1)
    assert field.mul(np.arange(6, dtype=np.uint64)[::2], u64([2, 2, 2])).tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    "bad", [u64([P]), u64([2**64 - 1]), np.array([1], np.int64), [1], np.array([1], ">u8")]
)
def test_arithmetic_refuses(bad):
    one = u64([1])
    for call in (
        lambda: field.add(one, bad),
        lambda: field.sub(bad, one),
        lambda: field.mul(bad, one),
        lambda: field.inv(bad),
    ):
        with pytest.raises(ValueError, match="operands"):
            call()


def test_arithmetic_refuses_shapes_and_zero():
    with pytest.raises(ValueError, match="shape"):
        field.mul(u64([1, 2]), u64([1, 2, 3]))
    with pytest.raises(ValueError, match="inverse"):
        field.inv(u64([1, 0]))


def test_reduce_uniform():
    words = u64([0, P, P - 1, 2**61, 2**64 - 1, 2**63 + 5])
    assert reduce_uniform(words).tolist() == [0, P - 1, 0, 5]
    for bad in (np.zeros(3, np.uint32), words[::2], words.reshape(2, 3)):
        with pytest.raises(ValueError, match="words"):
            reduce_uniform(bad)


# --- sharing ---
@settings(max_examples=60, deadline=None)
@given(data=st.data(), t=st.integers(1, 6), extra=st.integers(0, 5), m=st.integers(0, 4))
def test_split_and_any_subset(data, t, extra, m):
    n = t + extra
    points = data.draw(
        st.lists(st.integers(1, P - 1) | st.integers(1, 20), min_size=n, max_size=n, unique=True)
    )
    coefficients = [[data.draw(ELEMENTS) for _ in range(t)] for _ in range(m)]
    shares = split(u64(coefficients).reshape(m, t), u64(points))
    assert shares.tolist() == [[evaluate(c, x) for c in coefficients] for x in points]
    chosen = data.draw(st.permutations(range(n)))[:t]
    for values, c in zip(shares[chosen].T.tolist(), coefficients, strict=True):
        assert interpolate([points[i] for i in chosen], values) == c[0]


def test_every_subset_of_a_small_sharing():
    _, points, coefficients, shares = instance(1, 7, 4, 3)
    for size in range(4, 8):
        for rows in itertools.combinations(range(7), size):
            secret, wrong = recover(points[list(rows)], shares[list(rows)], 4)
            assert secret.tolist() == [c[0] for c in coefficients]
            assert not wrong.any()


@pytest.mark.parametrize("t", [1, 2, 3, 4, 5, 8, 9, 67])
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257, 600])
def test_split_over_tiles_of_points(n, t):
    """Every remainder of four coefficients and of a tile of points, at large points and edges."""
    rng = random.Random(n * t)
    points = [P - 1 - i if i % 3 else i + 1 for i in range(n)]
    coefficients = [[rng.choice([*EDGES, rng.randrange(P)]) for _ in range(t)] for _ in range(2)]
    coefficients.append([P - 1] * t)
    shares = split(u64(coefficients), u64(points))
    chosen = rng.sample(range(n), min(n, 40))
    want = [[evaluate(c, points[i]) for c in coefficients] for i in chosen]
    assert shares[chosen].tolist() == want
    assert shares.shape == (n, 3)
    assert shares.max() < P


def test_split_of_nothing():
    assert split(np.zeros((0, 3), np.uint64), u64([1, 2])).shape == (2, 0)
    assert split(u64([[1, 2]]), u64([])).shape == (0, 1)


@given(data=st.data(), t=st.integers(1, 6), at=ELEMENTS)
def test_lagrange(data, t, at):
    points = data.draw(st.lists(st.integers(1, 30), min_size=t, max_size=t, unique=True))
    at = data.draw(st.sampled_from([at, 0, points[0]]))
    coefficients = [data.draw(ELEMENTS) for _ in range(t)]
    weights = lagrange(u64(points), at).tolist()
    values = [evaluate(coefficients, x) for x in points]
    total = sum(w * v for w, v in zip(weights, values, strict=True)) % P
    assert total == evaluate(coefficients, at)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 7, 8, 30, 67])
@pytest.mark.parametrize("c", [0, 1, 5, 256, 260])
def test_matrix_product(k, c):
    rng = random.Random(k * c)
    a = [[rng.choice([rng.randrange(P), P - 1, 0]) for _ in range(k)] for _ in range(3)]
    b = [[rng.choice([rng.randrange(P), P - 1, 0]) for _ in range(c)] for _ in range(k)]
    want = [[sum(x * b[i][j] for i, x in enumerate(row)) % P for j in range(c)] for row in a]
    assert _gf61.matmul(u64(a).reshape(3, k), u64(b).reshape(k, c)).tolist() == want
    for j in range(min(c, 2)):
        column = u64([row[j] for row in b])
        assert _gf61.combine(u64(a).reshape(3, k), column).tolist() == [row[j] for row in want]


@pytest.mark.parametrize("value", [P - 1, P - 2, 2**31 - 1, 2**60, 2**61 - 2**31, 1])
def test_sums_of_products_at_their_limits(value):
    """Limbs at their largest, where a sum that is reduced late is closest to 2^64."""
    for k in (4, 2048, 2049):
        want = value * value * k % P
        a, b = np.full((1, k), value, np.uint64), np.full((k, 9), value, np.uint64)
        assert set(_gf61.matmul(a, b)[0].tolist()) == {want}
        assert _gf61.combine(a, b[:, 0].copy()).tolist() == [want]
        coefficients = np.full((1, k), value, np.uint64)
        at = (value * (pow(value, k, P) - 1) * pow(value - 1, -1, P) if value > 1 else k) % P
        assert split(coefficients, u64([value])).tolist() == [[at]]
        terms = np.full(k, value, np.uint64)
        sums = _gf61.syndromes(terms.copy(), terms.copy(), 3).tolist()
        assert sums == [k * pow(value, e, P) % P for e in (1, 2, 3)]


def minimal_recurrence(sequence):
    """The least L for which some recurrence of length L generates the sequence, and its number of
    solutions being one or more; by Gaussian elimination, for every L in turn."""
    n = len(sequence)
    for length in range(n + 1):
        rows = [
            [sequence[i - 1 - j] for j in range(length)] + [-sequence[i] % P]
            for i in range(length, n)
        ]
        rank = 0
        for column in range(length):
            pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
            if pivot is None:
                continue
            rows[rank], rows[pivot] = rows[pivot], rows[rank]
            scale = pow(rows[rank][column], -1, P)
            rows[rank] = [v * scale % P for v in rows[rank]]
            for r in range(len(rows)):
                if r != rank and rows[r][column]:
                    factor = rows[r][column]
                    rows[r] = [
                        (v - factor * w) % P for v, w in zip(rows[r], rows[rank], strict=True)
                    ]
            rank += 1
        if not any(row[length] for row in rows[rank:]):
            return length
    raise AssertionError


@settings(max_examples=150, deadline=None)
@given(
    sequence=st.lists(st.integers(0, 2) | st.sampled_from([0, P - 1]) | ELEMENTS, max_size=9),
    limit=st.integers(0, 9),
)
def test_shortest_recurrence(sequence, limit):
    found = _gf61.shortest_recurrence(u64(sequence), limit)
    least = minimal_recurrence(sequence)
    if found is None:
        assert least > limit
        return
    c = found.tolist()
    assert len(c) - 1 == least <= limit
    assert c[0] == 1
    for i in range(least, len(sequence)):
        assert sum(c[j] * sequence[i - j] for j in range(least + 1)) % P == 0


@pytest.mark.parametrize(
    ("coefficients", "points"),
    [
        (ONES, u64([1, 1])),
        (ONES, u64([0, 1])),
        (ONES, u64([P])),
        (ONES, u64([[1, 2]])),
        (ONES * np.uint64(P), u64([1])),
        (ONES.T, u64([1])),
        (ONES[0], u64([1])),
        (np.ones((3, 0), np.uint64), u64([1])),
        (ONES.astype(np.float64), u64([1])),
    ],
)
def test_split_refuses(coefficients, points):
    with pytest.raises(ValueError, match=r"coefficients|points"):
        split(coefficients, points)


def test_lagrange_refuses():
    for points, at in [(u64([0]), 0), (u64([1, 1]), 0), (u64([1]), P), (u64([1]), -1)]:
        with pytest.raises(ValueError, match=r"points|at"):
            lagrange(points, at)
    assert lagrange(u64([])).tolist() == []
