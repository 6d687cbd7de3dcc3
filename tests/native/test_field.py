"""GF(2^61 - 1), sharing and robust recovery against Python integers."""

import itertools
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import field
from secagg_native.field import (
    DecodingError,
    interpolate,
    lagrange,
    recover,
    recover_columns,
    reduce_uniform,
    split,
)

P = 2**61 - 1
EDGES = [0, 1, 2, 2**29 - 1, 2**29, 2**32 - 1, 2**32, 2**32 + 1, 2**60, P - 2, P - 1]
ELEMENTS = st.integers(0, P - 1) | st.sampled_from(EDGES)


def u64(values):
    return np.array(values, np.uint64)


def evaluate(coefficients, x):
    return sum(c * pow(x, j, P) for j, c in enumerate(coefficients)) % P


def instance(seed, n, t, m, points=None):
    rng = random.Random(seed)
    points = points or rng.sample(range(1, 4 * n), n)
    coefficients = [[rng.randrange(P) for _ in range(t)] for _ in range(m)]
    shares = [[evaluate(c, x) for c in coefficients] for x in points]
    return rng, u64(points), coefficients, u64(shares).reshape(n, m)


def spoil(rng, shares, rows, columns):
    bad = shares.copy()
    for i, j in itertools.product(rows, columns):
        bad[i, j] = (int(bad[i, j]) + rng.randrange(1, P)) % P
    return bad


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
    secret = interpolate(u64(points)[chosen], shares[chosen])
    assert secret.tolist() == [c[0] for c in coefficients]


def test_every_subset_of_a_small_sharing():
    _, points, coefficients, shares = instance(1, 7, 4, 3)
    for size in range(4, 8):
        for rows in itertools.combinations(range(7), size):
            secret, wrong = recover(points[list(rows)], shares[list(rows)], 4)
            assert secret.tolist() == [c[0] for c in coefficients]
            assert not wrong.any()


def test_split_in_tiles(monkeypatch):
    monkeypatch.setattr(field, "_TILE", 8)
    _, points, coefficients, shares = instance(2, 20, 5, 3)
    assert np.array_equal(split(u64(coefficients), points), shares)


@given(data=st.data(), t=st.integers(1, 6), at=ELEMENTS)
def test_lagrange(data, t, at):
    points = data.draw(st.lists(st.integers(1, 30), min_size=t, max_size=t, unique=True))
    at = data.draw(st.sampled_from([at, 0, points[0]]))
    coefficients = [data.draw(ELEMENTS) for _ in range(t)]
    weights = lagrange(u64(points), at).tolist()
    values = [evaluate(coefficients, x) for x in points]
    total = sum(w * v for w, v in zip(weights, values, strict=True)) % P
    assert total == evaluate(coefficients, at)


def test_matrix_product_in_blocks(monkeypatch):
    monkeypatch.setattr(field.gf, "_EXACT_TERMS", 7)
    rng = random.Random(3)
    a = [[rng.choice([rng.randrange(P), P - 1]) for _ in range(30)] for _ in range(4)]
    b = [[rng.choice([rng.randrange(P), P - 1]) for _ in range(5)] for _ in range(30)]
    want = [
        [sum(x * y for x, y in zip(r, c, strict=True)) % P for c in zip(*b, strict=True)] for r in a
    ]
    assert field.gf.matmul(u64(a), u64(b)).tolist() == want


def test_matrix_product_at_its_exact_limit():
    """Every limb at its largest, over as many terms as one float64 sum may hold, and more."""
    for k in (2048, 2049):
        a, b = np.full((1, k), P - 1, np.uint64), np.full((k, 1), P - 1, np.uint64)
        assert field.gf.matmul(a, b).tolist() == [[k]]


# --- robust recovery ---
@pytest.mark.parametrize(("n", "t"), [(1, 1), (5, 5), (6, 5), (7, 5), (10, 4), (15, 1), (40, 27)])
def test_up_to_exactly_the_radius(n, t):
    radius = (n - t) // 2
    for errors in range(radius + 1):
        for seed in range(6):
            rng, points, coefficients, shares = instance(seed, n, t, 5)
            rows = rng.sample(range(n), errors)
            bad = spoil(rng, shares, rows, rng.sample(range(5), rng.randint(1, 5)))
            secret, wrong = recover(points, bad, t)
            assert secret.tolist() == [c[0] for c in coefficients]
            assert sorted(np.flatnonzero(wrong)) == sorted(rows)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), t=st.integers(1, 8), extra=st.integers(0, 8), seed=st.integers(0, 999))
def test_each_column_has_errors_of_its_own(data, t, extra, seed):
    n, m, radius = t + extra, 4, extra // 2
    rng, points, coefficients, shares = instance(seed, n, t, m)
    bad, want = shares.copy(), np.zeros((n, m), bool)
    for j in range(m):
        rows = data.draw(st.sets(st.integers(0, n - 1), max_size=radius))
        bad = spoil(rng, bad, rows, [j])
        want[list(rows), j] = True
    secret, wrong = recover_columns(points, bad, t)
    assert secret.tolist() == [c[0] for c in coefficients]
    assert np.array_equal(wrong, want)
    holders = want.any(axis=1)
    if holders.sum() <= radius:
        assert np.array_equal(recover(points, bad, t)[1], holders)
    else:
        with pytest.raises(DecodingError) as caught:
            recover(points, bad, t)
        assert caught.value.columns == tuple(np.flatnonzero(want.any(axis=0)))


def test_columns_whose_liars_together_leave_too_few():
    rng, points, coefficients, shares = instance(7, 12, 6, 4)
    bad, want = shares.copy(), np.zeros((12, 4), bool)
    for j in range(4):
        rows = [3 * j, 3 * j + 1, 3 * j + 2]
        bad = spoil(rng, bad, rows, [j])
        want[rows, j] = True
    secret, wrong = recover_columns(points, bad, 6)
    assert secret.tolist() == [c[0] for c in coefficients]
    assert np.array_equal(wrong, want)


@pytest.mark.parametrize(("n", "t"), [(6, 5), (8, 5), (10, 4), (40, 27)])
def test_random_errors_beyond_the_radius_are_refused(n, t):
    """Beyond the radius no decoder can promise the truth; random errors land near another
    codeword with a chance of about 2^-61 or less, so these fixed seeds must all be refused."""
    for seed in range(10):
        rng, points, _, shares = instance(seed, n, t, 3)
        rows = rng.sample(range(n), (n - t) // 2 + 1)
        with pytest.raises(DecodingError) as caught:
            recover(points, spoil(rng, shares, rows, [1]), t)
        assert caught.value.columns == (1,)


def test_chosen_errors_beyond_the_radius_decode_elsewhere():
    """The honest limit: enough holders that agree on another polynomial win. Whatever comes back
    is still a polynomial within the radius of what was given."""
    n, t = 9, 3
    _, points, coefficients, shares = instance(4, n, t, 1)
    other = [(coefficients[0][0] + 1) % P, *coefficients[0][1:]]
    bad = shares.copy()
    for i in range(6):
        bad[i, 0] = evaluate(other, int(points[i]))
    secret, wrong = recover(points, bad, t)
    assert secret.tolist() == [other[0]]
    assert np.flatnonzero(wrong).tolist() == [6, 7, 8]


@settings(max_examples=60, deadline=None)
@given(t=st.integers(1, 6), extra=st.integers(0, 8), errors=st.integers(0, 14), seed=st.integers())
def test_an_answer_is_always_within_the_radius(t, extra, errors, seed):
    """Never silently wrong about its own claim: what is not marked lies on one polynomial."""
    n = t + extra
    rng, points, _, shares = instance(seed, n, t, 1)
    # Small errors at consecutive points make agreement with another polynomial likely.
    bad = shares.copy()
    for i in rng.sample(range(n), min(errors, n)):
        bad[i, 0] = (int(bad[i, 0]) + rng.choice([1, P - 1])) % P
    try:
        secret, wrong = recover(points, bad, t)
    except DecodingError:
        assert errors > extra // 2
        return
    assert wrong.sum() <= extra // 2
    good = [(int(x), int(y)) for x, y, w in zip(points, bad[:, 0], wrong, strict=True) if not w]
    known = good[:t]
    for place, value in [(0, int(secret[0])), *good[t:]]:
        total = 0
        for xj, yj in known:
            term = yj
            for xk, _ in known:
                if xk != xj:
                    term = term * (place - xk) * pow(xj - xk, -1, P) % P
            total += term
        assert total % P == value


def test_mixed_columns_name_the_failing_ones():
    rng, points, _, shares = instance(5, 12, 6, 6)
    bad = spoil(rng, shares, [0, 1, 2], [0, 3])
    bad = spoil(rng, bad, [4, 5, 6, 7], [1, 4])
    with pytest.raises(DecodingError) as caught:
        recover_columns(points, bad, 6)
    assert caught.value.columns == (1, 4)
    assert isinstance(caught.value, ValueError)
    assert pickle.loads(pickle.dumps(caught.value)).columns == (1, 4)  # noqa: S301


def test_a_thousand_holders_at_the_radius():
    rng = np.random.default_rng(6)
    n, t = 1000, 667
    coefficients = rng.integers(0, P, (5, t), dtype=np.uint64)
    points = np.arange(1, n + 1, dtype=np.uint64)
    shares = split(coefficients, points)
    liars = np.sort(rng.choice(n, (n - t) // 2, replace=False))
    shares[liars] = rng.integers(0, P, (len(liars), 5), dtype=np.uint64)
    secret, wrong = recover(points, shares, t)
    assert np.array_equal(secret, coefficients[:, 0])
    assert np.array_equal(np.flatnonzero(wrong), liars)


def test_no_columns():
    secret, wrong = recover(u64([1, 2, 3]), np.zeros((3, 0), np.uint64), 2)
    assert secret.shape == (0,)
    assert wrong.tolist() == [False] * 3


ONES = np.ones((3, 2), np.uint64)


@pytest.mark.parametrize(
    ("points", "shares", "threshold"),
    [
        (u64([1, 2, 3]), ONES, 4),
        (u64([1, 2, 3]), ONES, 0),
        (u64([1, 2, 3]), ONES, 1.0),
        (u64([0, 2, 3]), ONES, 2),
        (u64([1, 2, 2]), ONES, 2),
        (u64([1, 2, P]), ONES, 2),
        (u64([1, 2]), ONES, 2),
        (np.array([1, 2, 3]), ONES, 2),
        (np.arange(1, 7, dtype=np.uint64)[::2], ONES, 2),
        (u64([1, 2, 3]), ONES.astype(np.int64), 2),
        (u64([1, 2, 3]), ONES * np.uint64(P), 2),
        (u64([1, 2, 3]), np.ones((2, 3), np.uint64).T, 2),
        (u64([1, 2, 3]), u64([1, 1, 1]), 2),
        (u64([]), np.ones((0, 2), np.uint64), 1),
    ],
)
def test_recover_refuses(points, shares, threshold):
    for call in (recover, recover_columns):
        with pytest.raises(ValueError, match=r"points|shares|threshold") as caught:
            call(points, shares, threshold)
        assert not isinstance(caught.value, DecodingError)


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


def test_interpolate_and_lagrange_refuse():
    for points, shares in [(u64([]), np.ones((0, 2), np.uint64)), (u64([1, 2]), ONES)]:
        with pytest.raises(ValueError, match="share"):
            interpolate(points, shares)
    for points, at in [(u64([0]), 0), (u64([1, 1]), 0), (u64([1]), P), (u64([1]), -1)]:
        with pytest.raises(ValueError, match=r"points|at"):
            lagrange(points, at)
    assert lagrange(u64([])).tolist() == []
