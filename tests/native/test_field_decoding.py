"""Decoding around wrong shares against an exhaustive search in Python integers."""

import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import _reed_solomon
from secagg_native.field import (
    DecodingError,
    recover,
    recover_columns,
    recover_secrets,
    split,
)
from support.shares import P, evaluate, instance, interpolate, nearest, spoil, u64


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
    known = zip(*good[:t], strict=True)
    xs, ys = (list(values) for values in known)
    for place, value in [(0, int(secret[0])), *good[t:]]:
        assert interpolate(xs, ys, place) == value


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


# --- many secrets ---
@settings(max_examples=80, deadline=None)
@given(data=st.data(), t=st.integers(1, 4), extra=st.integers(0, 4), seed=st.integers(0, 999))
def test_decoding_agrees_with_every_polynomial_tried(data, t, extra, seed):
    """Any errors, few or many, in any columns: each column and each secret has the outcome that an
    exhaustive search has, and columns that fail are named exactly."""
    n, count, limbs = t + extra, 3, 2
    _, points, _, shares = instance(seed, n, t, count * limbs)
    bad = shares.copy()
    for i, j in data.draw(
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, count * limbs - 1)), max_size=12)
    ):
        bad[i, j] = (int(bad[i, j]) + data.draw(st.sampled_from([1, P - 1, 2**40]))) % P
    places = points.tolist()
    alone = [nearest(places, bad[:, j].tolist(), t) for j in range(count * limbs)]

    failing = tuple(j for j, found in enumerate(alone) if found is None)
    if failing:
        with pytest.raises(DecodingError) as caught:
            recover_columns(points, bad, t)
        assert caught.value.columns == failing
    else:
        secret, wrong = recover_columns(points, bad, t)
        assert secret.tolist() == [found[0] for found in alone]
        assert wrong.T.tolist() == [found[1] for found in alone]

    values, wrong, decoded = recover_secrets(points, bad.reshape(n, count, limbs), t)
    for s in range(count):
        mine = alone[s * limbs : (s + 1) * limbs]
        together = None if None in mine else np.any([found[1] for found in mine], axis=0)
        fine = together is not None and together.sum() <= extra // 2
        assert decoded[s] == fine
        assert values[s].tolist() == ([found[0] for found in mine] if fine else [0] * limbs)
        assert wrong[:, s].tolist() == (together.tolist() if fine else [False] * n)
        columns = np.ascontiguousarray(bad[:, s * limbs : (s + 1) * limbs])
        if fine:
            assert recover(points, columns, t)[1].tolist() == together.tolist()
            continue
        with pytest.raises(DecodingError) as caught:
            recover(points, columns, t)
        if together is None:
            assert caught.value.columns == tuple(k for k in range(limbs) if mine[k] is None)
        else:
            assert caught.value.columns == tuple(k for k in range(limbs) if any(mine[k][1]))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 65, 200])
def test_the_same_liars_everywhere_are_located_once(count, monkeypatch):
    calls = counted(monkeypatch)
    rng, points, coefficients, shares = instance(count, 30, 18, count * 5)
    rows = sorted(rng.sample(range(30), 6))
    # They lie in most secrets, in some limbs.
    bad, want = shares.reshape(30, count, 5).copy(), np.zeros((30, count), bool)
    for i, s in itertools.product(rows, range(count)):
        if rng.random() < 0.8:
            want[i, s] = True
            for limb in rng.sample(range(5), rng.randint(1, 5)):
                bad[i, s, limb] = (int(bad[i, s, limb]) + rng.randrange(1, P)) % P
    values, wrong, decoded = recover_secrets(points, bad, 18)
    assert decoded.all()
    assert values.reshape(-1).tolist() == [c[0] for c in coefficients]
    assert np.array_equal(wrong, want)
    assert len(calls) == 1


def test_other_liars_for_every_secret_cost_a_bounded_number_of_locations(monkeypatch):
    calls = counted(monkeypatch)
    n, t, count = 24, 12, 100
    rng, points, coefficients, shares = instance(8, n, t, count * 2)
    bad, want = shares.reshape(n, count, 2).copy(), np.zeros((n, count), bool)
    spoilt = rng.sample(range(count), 10)
    for s in range(count):
        # Ten secrets are beyond the radius, the others at most at it.
        rows = rng.sample(range(n), 7 if s in spoilt else rng.randint(0, 6))
        want[rows, s] = s not in spoilt
        bad[rows, s] = (bad[rows, s] + np.uint64(1 + s)) % np.uint64(P)
    values, wrong, decoded = recover_secrets(points, bad, t)
    assert np.flatnonzero(~decoded).tolist() == sorted(spoilt)
    want_values = u64([c[0] for c in coefficients]).reshape(count, 2)
    want_values[spoilt] = 0
    assert np.array_equal(values, want_values)
    assert np.array_equal(wrong, want)
    assert len(calls) < 2 * count


def test_one_spoilt_secret_leaves_the_others_alone(monkeypatch):
    calls = counted(monkeypatch)
    rng, points, coefficients, shares = instance(9, 20, 12, 300)
    bad = spoil(rng, shares, [3, 9], range(300))
    bad = spoil(rng, bad, [1, 2, 5], [123])
    with pytest.raises(DecodingError) as caught:
        recover_columns(points, bad, 12)
    assert caught.value.columns == (123,)
    # 300 secrets by parts of eight are three levels deep.
    assert len(calls) <= 1 + 3 * 8
    good = [j for j in range(300) if j != 123]
    secret, wrong = recover_columns(points, np.ascontiguousarray(bad[:, good]), 12)
    assert secret.tolist() == [coefficients[j][0] for j in good]
    assert [set(np.flatnonzero(w)) for w in wrong.T] == [{3, 9}] * 299


def test_limbs_within_the_radius_alone_but_not_together():
    rng, points, _, shares = instance(10, 10, 6, 3)
    bad = spoil(rng, shares, [0, 1], [0])
    bad = spoil(rng, bad, [1, 2], [2])
    assert recover_columns(points, bad, 6)[1].any(axis=1).sum() == 3
    assert not recover_secrets(points, bad[:, None], 6)[2][0]
    with pytest.raises(DecodingError) as caught:
        recover(points, bad, 6)
    assert caught.value.columns == (0, 2)


def test_verification_draws_anew_each_time(monkeypatch):
    """A cheat who knew the numbers could pass, so they come from the operating system, per call."""
    drawn = []

    def urandom(size):
        drawn.append(os.getrandom(size))
        return drawn[-1]

    monkeypatch.setattr(_reed_solomon.os, "urandom", urandom)
    _, points, _, shares = instance(11, 12, 6, 4)
    for _ in range(3):
        recover_columns(points, shares, 6)
    assert len(set(drawn)) == 3
    # Two dual codewords of 12 - 6 coefficients each.
    assert {len(bytes_) for bytes_ in drawn} == {8 * 2 * 6}


@pytest.mark.parametrize("word", [1, 2, 2**60, P - 1, P, 2**64 - 1])
def test_one_wrong_share_is_seen_whatever_is_drawn(word, monkeypatch):
    """With constants for the random numbers, a single error still cannot vanish."""

    def urandom(size):
        return np.full(size // 8, word, np.uint64).tobytes()

    monkeypatch.setattr(_reed_solomon.os, "urandom", urandom)
    rng, points, coefficients, shares = instance(12, 9, 5, 3, points=[*range(1, 10)])
    if word % P == 0:
        bad = spoil(rng, shares, [4], [1])
        assert recover_columns(points, bad, 5)[0].tolist() != [c[0] for c in coefficients]
        return
    secret, wrong = recover_columns(points, spoil(rng, shares, [4], [1]), 5)
    assert secret.tolist() == [c[0] for c in coefficients]
    assert np.argwhere(wrong).tolist() == [[4, 1]]


def counted(monkeypatch):
    calls = []
    locate = _reed_solomon._locate

    def count(*args):
        calls.append(args[3].shape)
        return locate(*args)

    monkeypatch.setattr(_reed_solomon, "_locate", count)
    return calls


BOUNDS = """
import itertools
import numpy as np
from secagg_native import _gf61, field
P = field.PRIME
rng = np.random.default_rng(0)
def draw(*shape):
    return rng.integers(0, P, shape, dtype=np.uint64)
for n, t, s, l in itertools.product((1, 2, 5, 12, 257), (1, 2, 4, 9), (0, 1, 3, 20), (0, 1, 5)):
    if t > n:
        continue
    points = rng.permutation(np.arange(1, n + 1, dtype=np.uint64))
    shares = field.split(draw(s * l, t), points).reshape(n, s, l)
    field.lagrange(points, int(points[0]))
    for wrong in {0, 1, (n - t) // 2, (n - t) // 2 + 1, n}:
        bad = shares.copy()
        bad[:wrong] = draw(*bad[:wrong].shape)
        field.recover_secrets(points, bad, t)
        for j in range(s):
            bad[rng.choice(n, min(n, wrong), replace=False), j] ^= np.uint64(1)
        field.recover_secrets(points, bad % np.uint64(P), t)
for k, limit in itertools.product(range(12), range(12)):
    for values in (draw(k), np.zeros(k, np.uint64), np.arange(k, dtype=np.uint64) // np.uint64(3)):
        _gf61.shortest_recurrence(values, limit)
print("within bounds")
"""


@pytest.mark.slow
def test_no_index_leaves_its_array(tmp_path):
    """Kernels check no index, so once they are compiled with checks, over every kind of shape."""
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", BOUNDS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "within bounds", done.stderr


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
    cubes = shares[:, None] if shares.ndim == 2 else shares
    for call, given_shares in (
        (recover, shares),
        (recover_columns, shares),
        (recover_secrets, cubes),
    ):
        with pytest.raises(ValueError, match=r"points|shares|threshold") as caught:
            call(points, given_shares, threshold)
        assert not isinstance(caught.value, DecodingError)
