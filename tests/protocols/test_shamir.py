"""Sharing of 32-byte secrets: golden shares, an oracle in plain integers, cheating holders."""

from __future__ import annotations

import hashlib
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols import shamir
from secagg_protocols.errors import DecodeError

P = 2**61 - 1
SEED = bytes(range(32))


def opened(sites: list[int], shares: np.ndarray) -> list[int]:
    """Limbs of one secret from exactly a threshold of shares [site, limb], in plain integers."""
    limbs = []
    for values in shares.T.tolist():
        total = 0
        for a, value in zip(sites, values, strict=True):
            factors = [(b + 1) * pow(b - a, -1, P) for b in sites if b != a]
            total += value * math.prod(factors)
        limbs.append(total % P)
    return limbs


@pytest.mark.parametrize(
    ("n", "t", "count", "digest"),
    [
        (1, 1, 1, "009a5bd9ba063c3ac90bb3ca90765f1c08975767593f6a0453a6dee7c7e841c1"),
        (5, 3, 2, "5c1a5ae6663fec05502e3a975e747c85bd33a143dc8cbf847b7a6e99f1a9f816"),
        (100, 67, 1, "bf8f10e30b901e6eb939bd6b3ccce1f53577f7d36e3258314c23e011b5442fe6"),
        (300, 90, 3, "8e8b9b2e062cf628f56b5f699321bed6e2bf940c250e5bc8736f9be93ccb6fa2"),
    ],
)
def test_golden_shares(n: int, t: int, count: int, digest: str) -> None:
    """Parties that hold dumps must go on dealing the same shares from the same seed."""
    secrets = [bytes([i + 1]) * 32 for i in range(count)]
    shares = shamir.split(secrets, range(3, n + 3), t, SEED)
    assert hashlib.sha256(shamir.encode_shares(shares)).hexdigest() == digest


@settings(max_examples=40, deadline=None)
@given(
    secrets=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3),
    sites=st.lists(st.integers(0, 2000), min_size=1, max_size=9, unique=True),
    data=st.data(),
)
def test_any_threshold_of_shares_opens(
    secrets: list[bytes], sites: list[int], data: st.DataObject
) -> None:
    t = data.draw(st.integers(1, len(sites)))
    shares = shamir.split(secrets, sites, t, SEED)
    assert shares.shape == (len(sites), len(secrets), shamir.LIMBS)
    chosen = data.draw(st.permutations(range(len(sites))))[:t]
    places = [sites[i] for i in chosen]
    for column, secret in enumerate(secrets):
        limbs = opened(places, shares[chosen, column])
        assert sum(limb << (52 * i) for i, limb in enumerate(limbs)) == int.from_bytes(
            secret, "little"
        )
    found, wrong = shamir.recover(places, shares[chosen], t)
    assert found == secrets
    assert not wrong.any()


@pytest.mark.parametrize(
    "secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x80", b"\x01" + bytes(31)]
)
def test_secrets_at_the_edges(secret: bytes) -> None:
    shares = shamir.split([secret], range(7), 4, SEED)
    assert shamir.recover(range(7), shares, 4)[0] == [secret]


def test_seeds_and_secrets_matter() -> None:
    first = shamir.split([bytes(32)], range(4), 3, SEED)
    other = shamir.split([bytes(32)], range(4), 3, bytes(32))
    assert not np.any(first == other)


@pytest.mark.parametrize("liars", range(4))
def test_cheating_holders_are_marked_by_secret(liars: int) -> None:
    """Up to the radius of three; each liar in one limb of its own, of one secret or of both."""
    rng = random.Random(liars)
    secrets = [rng.randbytes(32) for _ in range(6)]
    sites = rng.sample(range(100), 12)
    shares = shamir.split(secrets, sites, 6, SEED)
    want = np.zeros((12, 6), bool)
    for column in range(6):
        for row in rng.sample(range(12), liars):
            want[row, column] = True
            limb = rng.randrange(5)
            shares[row, column, limb] = (int(shares[row, column, limb]) + rng.randrange(1, P)) % P
    found, wrong = shamir.recover(sites, shares, 6)
    assert found == secrets
    assert np.array_equal(wrong, want)


def test_secrets_beyond_the_radius_are_none_and_the_others_open() -> None:
    rng = random.Random(5)
    secrets = [rng.randbytes(32) for _ in range(20)]
    shares = shamir.split(secrets, range(10), 6, SEED)
    # Two wrong holders are the radius. Secret 3 has three, in one limb; secret 7 has them in
    # three limbs, one each; secret 9 has two.
    for secret, row, limb in [
        *((3, row, 0) for row in range(3)),
        *((7, row, row) for row in range(3)),
        *((9, row, 4) for row in range(2)),
    ]:
        shares[row, secret, limb] ^= np.uint64(1)
    found, wrong = shamir.recover(range(10), shares, 6)
    assert found == [None if i in (3, 7) else secret for i, secret in enumerate(secrets)]
    assert np.argwhere(wrong).tolist() == [[0, 9], [1, 9]]


@pytest.mark.parametrize(("limb", "bits"), [*((limb, 52) for limb in range(4)), (4, 48)])
def test_limbs_above_their_size_are_refused(limb: int, bits: int) -> None:
    """A dealer can share any field element; constant polynomials share these."""
    limbs = [0] * shamir.LIMBS
    limbs[limb] = 2**bits - 1
    shares = np.tile(np.array(limbs, np.uint64), (5, 1, 1))
    assert shamir.recover(range(5), shares, 1)[0] == [
        sum(v << (52 * i) for i, v in enumerate(limbs)).to_bytes(32, "little")
    ]
    shares[:, 0, limb] = 2**bits
    assert shamir.recover(range(5), shares, 1)[0] == [None]


def test_no_secrets() -> None:
    found, wrong = shamir.recover(range(3), np.zeros((3, 0, 5), np.uint64), 2)
    assert found == []
    assert wrong.shape == (3, 0)


def test_shares_in_any_layout() -> None:
    secrets = [bytes([i]) * 32 for i in range(4)]
    shares = shamir.split(secrets, range(6), 3, SEED)
    assert shamir.recover(range(6), np.asfortranarray(shares), 3)[0] == secrets
    assert shamir.recover(range(0, 6, 2), shares[::2, 1:3], 3)[0] == secrets[1:3]


def test_encoded_shares() -> None:
    shares = shamir.split([bytes(32), SEED], range(2), 2, SEED)
    for row in shares:
        data = shamir.encode_shares(row)
        assert len(data) == 2 * shamir.SHARE_SIZE
        assert np.array_equal(shamir.decode_shares(data, sender="a"), row)
    whole = bytes(40)
    for bad in (whole[:-1], (P).to_bytes(8, "little") * 5, whole + b"\xff" * 40):
        with pytest.raises(DecodeError):
            shamir.decode_shares(bad, sender="a")


def test_every_set_of_holders_of_a_small_sharing() -> None:
    shares = shamir.split([SEED], range(6), 3, bytes(32))
    for size in range(3, 7):
        for rows in itertools.combinations(range(6), size):
            assert shamir.recover(rows, shares[list(rows)], 3)[0] == [SEED]
