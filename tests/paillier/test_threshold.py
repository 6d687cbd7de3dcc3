"""Threshold opening against an oracle in plain integers, and what a cheating holder can do."""

import hashlib
import itertools
import math
import pickle
import struct
from fractions import Fraction
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import features
from secagg_native.paillier import Squares, from_words, to_words
from secagg_protocols.errors import DecodeError, MisuseError, PeerError, PlanError, SecAggError
from secagg_protocols.paillier import PrivateKey, PublicKey, keys, threshold
from support.paillier_keys import primes, private_key

CONTEXT = bytes(range(32))
SETS = [(1, 1), (1, 2), (2, 3), (3, 5), (5, 5)]


@pytest.fixture(autouse=True, scope="module")
def short_keys():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "LEAST_BITS", 512)
        yield


@cache
def _dealt(t, holders, bits):
    return threshold.split(private_key(bits), holders, t)


def dealt(t=2, holders=3, bits=1024):
    """One key for a set of holders and its shares, the same for all tests."""
    return _dealt(t, holders, bits)


@cache
def ciphertexts(count=4, bits=1024):
    """Rows of the messages 1, n - 1, 0, 1000, 1001, ... and the messages."""
    n = math.prod(primes(bits))
    messages = [1, n - 1, 0, *range(1000, 1000 + count)][:count]
    public = private_key(bits).public
    values = [public.encrypt_int(m, 3 + 2 * i) for i, m in enumerate(messages)]
    return to_words(values, 2 * bits // 64), messages


@cache
def vectors(t=2, holders=3, bits=1024):
    """What every holder makes of the rows of :func:`ciphertexts`: index -> (shares, proof)."""
    rows, _ = ciphertexts(bits=bits)
    _, shares = dealt(t, holders, bits)
    return {share.index: threshold.partial(share, rows, context=CONTEXT) for share in shares}


# The oracle: the formulas of the papers in Python's integers.


def oracle_decrypt(p, q, c):
    """Paillier 1999, scheme 1, with lambda and g = n + 1."""
    n, order = p * q, math.lcm(p - 1, q - 1)
    return (pow(c, order, n * n) - 1) // n * pow(order, -1, n) % n


def oracle_combine(n, holders, powers):
    """Damgard and Jurik 2001, section 4.1: powers {i: c^(2 Delta s_i)} to M."""
    delta, product = math.factorial(holders), 1
    for i, value in powers.items():
        coefficient = Fraction(delta)
        for j in powers.keys() - {i}:
            coefficient *= Fraction(-j, i - j)
        assert coefficient.denominator == 1
        product = product * pow(value, 2 * int(coefficient), n * n) % (n * n)
    assert product % n == 1
    return product // n * pow(4 * delta * delta, -1, n) % n


def oracle_hash(label, *parts):
    return hashlib.sha256(
        label + b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    ).digest()


def oracle_check(key, index, rows, shares, proof, context):
    """Whether a proof holds, from the text of the module."""
    square, size = key.n**2, key.bits // 4
    as_bytes = [b"".join(x.to_bytes(size, "little") for x in side) for side in (rows, shares)]
    statement = oracle_hash(
        b"secagg paillier shares v1", key.digest, struct.pack("<I", index), context, *as_bytes
    )
    seed = oracle_hash(b"secagg paillier weights v1", statement)
    stream = hashlib.shake_256(seed).digest(16 * len(rows))
    weights = [int.from_bytes(stream[16 * i : 16 * i + 16], "little") for i in range(len(rows))]
    c = math.prod(pow(x, w, square) for x, w in zip(rows, weights, strict=True))
    d = math.prod(pow(x, w, square) for x, w in zip(shares, weights, strict=True))
    e, z = int.from_bytes(proof[:32], "little"), int.from_bytes(proof[32:], "little")
    commitments = (
        pow(key.base, z, square) * pow(key.verification[index - 1], -e, square) % square,
        pow(c, 4 * z, square) * pow(d, -2 * e, square) % square,
    )
    challenge = oracle_hash(
        b"secagg paillier share proof v1",
        statement,
        *(x.to_bytes(size, "little") for x in commitments),
    )
    return challenge == proof[:32]


def interpolate(points, modulus):
    """The value at 0 of the polynomial through ``points``."""
    total = 0
    for i, value in points.items():
        others = points.keys() - {i}
        scale = math.prod(j for j in others) * pow(math.prod(j - i for j in others), -1, modulus)
        total += value * scale
    return total % modulus


# Dealing


@pytest.mark.parametrize(("t", "holders"), SETS)
def test_any_t_shares_hold_the_exponent_and_fewer_do_not(t, holders):
    p, q = primes(1024)
    half, order = (p // 2) * (q // 2), p * q * (p // 2) * (q // 2)
    public, shares = dealt(t, holders)
    assert (public.threshold, public.holders) == (t, holders)
    secrets = {share.index: share.secret for share in shares}
    assert sorted(secrets) == list(range(1, holders + 1))
    for size in range(1, t + 1):
        for some in itertools.combinations(secrets, size):
            d = interpolate({i: secrets[i] for i in some}, order)
            assert (d % half == 0 and d % (p * q) == 1) == (size == t)


def test_verification_values_are_powers_of_a_generator_of_the_squares():
    p, q = primes(1024)
    public, shares = dealt(3, 5)
    n, square = p * q, (p * q) ** 2
    order = n * (p // 2) * (q // 2)
    assert pow(public.base, order, square) == 1
    assert all(pow(public.base, order // r, square) != 1 for r in (p, q, p // 2, q // 2))
    for share in shares:
        assert public.verification[share.index - 1] == pow(public.base, 120 * share.secret, square)


@pytest.mark.parametrize("use", [True, False])
def test_a_dealt_key_keeps_its_use(use):
    """A dealer that dropped it would make a key by which protected rows are opened unproven."""
    private = PrivateKey(*primes(1024), knowledge_proofs=use)
    public, shares = threshold.split(private, 3, 2)
    assert public.knowledge_proofs is use
    again = threshold.KeyShare.from_bytes(shares[0].to_bytes())
    assert again.public.knowledge_proofs is use


def test_every_split_is_another():
    first, _ = dealt(2, 3)
    second, shares = threshold.split(private_key(), 3, 2)
    assert first.base != second.base
    assert {share.secret for share in dealt(2, 3)[1]}.isdisjoint(s.secret for s in shares)


@pytest.mark.parametrize(
    ("holders", "t"), [(0, 0), (3, 0), (3, 4), (3, -1), (65, 2), (3.0, 2), (3, True), ("3", 2)]
)
def test_what_is_no_threshold_is_refused(holders, t):
    with pytest.raises(PlanError) as caught:
        threshold.split(private_key(), holders, t)
    assert caught.value.rule in {"key-threshold", "key-types"}


def test_a_key_without_safe_primes_is_not_split():
    private = PrivateKey(*primes(1024), safe=False)
    with pytest.raises(PlanError, match="private-safe"):
        threshold.split(private, 3, 2)


# Key shares


def test_a_share_goes_through_bytes():
    _, shares = dealt()
    for share in shares:
        data = share.to_bytes()
        assert threshold.KeyShare.from_bytes(data) == share
        assert threshold.KeyShare.from_bytes(data).to_bytes() == data


def test_the_secret_is_not_shown():
    public, shares = dealt()
    share = shares[0]
    for text in (repr(share), str(share), f"{share!r:>10}"):
        assert str(share.secret) not in text
        assert hex(share.secret)[2:] not in text
    with pytest.raises(PlanError) as caught:
        threshold.KeyShare(public, 2, share.secret)
    assert str(share.secret) not in str(caught.value)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(share)


def test_a_wrong_share_is_found_when_it_is_made():
    public, shares = dealt()
    other, _ = threshold.split(private_key(), 3, 2)
    secret = shares[0].secret
    wrong = [
        (public, 1, secret + 1),
        (public, 1, -secret),
        (public, 1, shares[1].secret),
        (public, 2, secret),
        (other, 1, secret),
        (public, 0, secret),
        (public, 4, secret),
        (public, True, secret),
        (public, 1, float(1)),
        (public, 1, secret + public.n**2 * 4),
        (private_key().public, 1, secret),
        (None, 1, secret),
    ]
    for arguments in wrong:
        with pytest.raises(PlanError, match="key-share"):
            threshold.KeyShare(*arguments)
    assert threshold.KeyShare(public, 1, secret) == shares[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_makes_no_other_share_of_the_key(data):
    share = dealt()[1][1]
    packed = bytearray(share.to_bytes())
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    try:
        loaded = threshold.KeyShare.from_bytes(bytes(packed))
    except SecAggError:
        return
    # Another holder's verification value was changed, which is another key with another id.
    assert loaded.public.digest != share.public.digest
    assert (loaded.index, loaded.secret) == (2, share.secret)


def test_only_canonical_bytes_are_a_share():
    share = dealt()[1][0]
    data = share.to_bytes()
    magic, public, index, secret = msgspec.msgpack.decode(data)
    bad = [
        b"",
        data[:-1],
        data + b"\0",
        msgspec.msgpack.encode([magic, public, index, secret, 0]),
        msgspec.msgpack.encode([magic, public, index, secret + b"\0"]),
        msgspec.msgpack.encode([magic, public, index, secret.rstrip(b"\0")[:-1]]),
        msgspec.msgpack.encode(["secagg paillier private key 1", public, index, secret]),
        # The index in two bytes where one is enough.
        data.replace(b"\x01\xc5", b"\xcc\x01\xc5").replace(b"\x01\xc4", b"\xcc\x01\xc4"),
    ]
    for packed in bad:
        assert packed != data
        with pytest.raises(MisuseError, match="key-bytes"):
            threshold.KeyShare.from_bytes(packed)


# Opening


@pytest.mark.parametrize(("t", "holders"), SETS)
def test_all_sets_of_t_holders_open_the_same(t, holders):
    public, shares = dealt(t, holders)
    rows, messages = ciphertexts()
    values = from_words(rows)
    assert [oracle_decrypt(*primes(1024), c) for c in values] == messages
    made = vectors(t, holders)
    delta = math.factorial(holders)
    for share in shares:
        partials, proof = made[share.index]
        powers = [pow(c, 2 * delta * share.secret, public.n**2) for c in values]
        assert from_words(partials) == powers
        threshold.check_partial(
            public, share.index, rows, partials, proof, context=CONTEXT, sender="h"
        )
    for some in itertools.combinations(range(1, holders + 1), t):
        opened = threshold.combine(public, {i: made[i][0] for i in some})
        assert opened.shape == (len(rows), public.words)
        assert from_words(opened) == messages
        for row, message in enumerate(messages):
            powers = {i: from_words(made[i][0])[row] for i in some}
            assert oracle_combine(public.n, holders, powers) == message


def test_a_key_of_2048_bits():
    rows, messages = ciphertexts(bits=2048)
    public, _ = dealt(2, 3, 2048)
    made = vectors(2, 3, 2048)
    for index, (shares, proof) in made.items():
        threshold.check_partial(public, index, rows, shares, proof, context=CONTEXT, sender="h")
    opened = threshold.combine(public, {i: made[i][0] for i in (3, 1)})
    assert from_words(opened) == messages


@settings(max_examples=12, deadline=None)
@given(
    fractions=st.lists(
        st.tuples(st.fractions(0, 1, max_denominator=1 << 600), st.integers(1, 1 << 64)),
        min_size=1,
        max_size=3,
    ),
    some=st.sampled_from(list(itertools.combinations(range(1, 6), 3))),
)
def test_sums_of_any_plaintexts_open(fractions, some):
    public, shares = dealt(3, 5)
    n = public.n
    values = [(int(part * (n - 1)), weight) for part, weight in fractions]
    product = math.prod(pow(public.encrypt_int(m), w, n * n) for m, w in values) % (n * n)
    rows = to_words([product, public.encrypt_int(values[0][0])], 2 * public.words)
    made = {i: threshold.partial(shares[i - 1], rows, context=CONTEXT)[0] for i in reversed(some)}
    assert from_words(threshold.combine(public, made)) == [
        sum(m * w for m, w in values) % n,
        values[0][0],
    ]


def test_exactly_t_holders_open():
    public, _ = dealt(2, 3)
    made = {i: shares for i, (shares, _) in vectors().items()}
    for some in [(), (1,), (1, 2, 3)]:
        with pytest.raises(MisuseError, match="2 are needed"):
            threshold.combine(public, {i: made[i] for i in some})
    with pytest.raises(MisuseError, match="not split"):
        threshold.combine(private_key().public, {1: made[1]})


def test_fewer_than_t_shares_do_not_open_under_a_smaller_threshold():
    public, _ = dealt(3, 5)
    lower = PublicKey(public.n, threshold=2, base=public.base, verification=public.verification)
    made = vectors(3, 5)
    with pytest.raises(PeerError, match="combine"):
        threshold.combine(lower, {i: made[i][0] for i in (1, 2)})


def test_shares_that_do_not_fit_together_are_refused():
    public, _ = dealt()
    made = {i: shares for i, (shares, _) in vectors().items()}
    wrong = made[2].copy()
    wrong[3] = to_words([from_words(wrong)[3] * 2 % public.n**2], 2 * public.words)[0]
    with pytest.raises(PeerError, match="row 3") as caught:
        threshold.combine(public, {1: made[1], 2: wrong})
    assert caught.value.rule == "combine"
    for bad in [{1: made[1], 2: made[1]}, {1: made[2], 2: made[1]}, {1: made[1], 3: made[2]}]:
        with pytest.raises(PeerError, match="combine"):
            threshold.combine(public, bad)
    for value in (0, public.n, primes(1024)[0], public.n**2 + 1):
        wrong[3] = to_words([value], 2 * public.words + 1)[0][:-1]
        if value < 1 << (64 * 2 * public.words):
            with pytest.raises(PeerError, match="no unit"):
                threshold.combine(public, {1: made[1], 2: wrong})


def test_combine_refuses_other_shapes_and_indices():
    public, _ = dealt()
    made = {i: shares for i, (shares, _) in vectors().items()}
    for index in (0, 4, -1, True, "2", np.int64(2)):
        with pytest.raises(MisuseError, match="holder-index"):
            threshold.combine(public, {3: made[3], index: made[1]})
    good = made[1]
    for bad in (
        good[:3],
        good[:0],
        good[:, :-1],
        np.asfortranarray(good),
        good.astype(np.int64),
        good.tolist(),
        None,
    ):
        for order in ({1: bad, 2: made[2]}, {2: made[2], 1: bad}):
            with pytest.raises(MisuseError, match="rows"):
                threshold.combine(public, order)
    with pytest.raises(MisuseError, match="rows"):
        threshold.combine(public, {1: good[:0], 2: good[:0]})


def test_blocks_of_rows_open_like_all_at_once(monkeypatch):
    rows, messages = ciphertexts(5)
    public, shares = dealt()
    made = {s.index: threshold.partial(s, rows, context=b"")[0] for s in shares[1:]}
    done = []
    monkeypatch.setattr(threshold, "_BLOCK", 2)
    opened = threshold.combine(public, made, threads=2, progress=done.append)
    assert from_words(opened) == messages
    assert done == [2, 4, 5]
    made[2] = made[2].copy()
    made[2][4] = made[2][3]
    with pytest.raises(PeerError, match="row 4"):
        threshold.combine(public, made)


# Proofs


def check(index=1, rows=None, shares=None, proof=None, context=CONTEXT, key=None):
    """Check holder 1's vector with some parts replaced."""
    made, first = vectors()[1]
    threshold.check_partial(
        key or dealt()[0],
        index,
        ciphertexts()[0] if rows is None else rows,
        made if shares is None else shares,
        first if proof is None else proof,
        context=context,
        sender="holder-1",
    )


def refused(**parts):
    with pytest.raises(PeerError) as caught:
        check(**parts)
    assert (caught.value.rule, caught.value.sender) == ("share-proof", "holder-1")


def changed(rows, row, value):
    """``rows`` with one row replaced by an integer."""
    copy = rows.copy()
    copy[row] = to_words([value], rows.shape[1])[0]
    return copy


def test_a_proof_holds_by_the_oracle():
    public, _ = dealt()
    rows, _ = ciphertexts()
    values = from_words(rows)
    for index, (shares, proof) in vectors().items():
        powers = from_words(shares)
        assert oracle_check(public, index, values, powers, proof, CONTEXT)
        assert not oracle_check(public, index, values, powers[::-1], proof, CONTEXT)
        assert not oracle_check(public, index, values, powers, proof, b"other")
        assert len(proof) == threshold.proof_size(public)


def test_a_repeated_call_gives_the_same_bytes():
    rows, _ = ciphertexts()
    share = dealt()[1][0]
    shares, proof = vectors()[1]
    done = []
    again = threshold.partial(share, rows, context=CONTEXT, threads=2, progress=done.append)
    assert np.array_equal(again[0], shares)
    assert again[1] == proof
    assert done[-1] == len(rows)
    loaded = threshold.KeyShare.from_bytes(share.to_bytes())
    assert threshold.partial(loaded, rows, context=CONTEXT)[1] == proof


@pytest.mark.parametrize("variant", features.bigint_variants())
def test_all_variants_give_the_same_bytes(variant, monkeypatch):
    rows, messages = ciphertexts()
    public, shares = dealt()
    squares = Squares(public.n, variant=variant)
    monkeypatch.setattr(PublicKey, "squares", property(lambda key: squares))
    expected = vectors()
    made, proof = threshold.partial(shares[0], rows, context=CONTEXT)
    assert np.array_equal(made, expected[1][0])
    assert proof == expected[1][1]
    check()
    assert from_words(threshold.combine(public, {1: made, 3: expected[3][0]})) == messages


def test_no_two_statements_share_a_mask():
    rows, _ = ciphertexts()
    public, shares = dealt()
    size = threshold.proof_size(public) - 33
    masks = []
    for share, some, context in [
        (shares[0], rows, CONTEXT),
        (shares[0], rows, b"other"),
        (shares[0], rows[:2], CONTEXT),
        (shares[0], rows[1:], CONTEXT),
        (shares[1], rows, CONTEXT),
    ]:
        _, proof = threshold.partial(share, some, context=context)
        e, z = int.from_bytes(proof[:32], "little"), int.from_bytes(proof[32:], "little")
        masks.append(z - e * 6 * share.secret)
    assert len({mask >> 128 for mask in masks}) == len(masks)
    # All of one length, which hides 256 bits of challenge times n^2 Delta with 256 to spare.
    assert {mask.bit_length() for mask in masks} == {8 * size}
    assert 8 * size > 2 * 1024 + 3 + 512 - 1


def test_changed_proofs_are_refused():
    proof = vectors()[1][1]
    check()
    for place in (0, 15, 31, 32, 100, len(proof) - 2, len(proof) - 1):
        for bit in (1, 128):
            data = bytearray(proof)
            data[place] ^= bit
            refused(proof=bytes(data))
    other = vectors()[2][1]
    for data in (
        b"",
        proof[:-1],
        proof + b"\0",
        bytes(len(proof)),
        other,
        proof[:32] + other[32:],
        other[:32] + proof[32:],
        bytearray(proof),
        None,
    ):
        if data is not None:
            refused(proof=data)


def test_changed_shares_are_refused():
    public, _ = dealt()
    n, square = public.n, public.n**2
    shares = vectors()[1][0]
    values = from_words(shares)
    top = (1 << (64 * 2 * public.words)) - 1
    for value in (
        values[2] + 1,
        values[2] * (1 + n) % square,
        square - values[2],
        values[2] * values[2] % square,
        pow(values[2], -1, square),
        from_words(vectors()[2][0])[2],
        1,
        0,
        n,
        primes(1024)[1],
        square,
        top,
    ):
        refused(shares=changed(shares, 2, value))
    refused(shares=shares[::-1].copy())
    refused(shares=shares[[1, 0, 2, 3]])
    refused(shares=vectors()[2][0])
    refused(shares=shares[:3])
    refused(shares=np.vstack([shares, shares[:1]]))
    refused(shares=shares.astype(np.int64))
    refused(shares=shares.tolist())
    refused(shares=shares[:, :-1].copy())


def test_another_statement_is_refused():
    rows, _ = ciphertexts()
    refused(index=2)
    refused(context=b"")
    refused(context=CONTEXT[::-1])
    refused(rows=rows[[1, 0, 2, 3]])
    refused(rows=ciphertexts(5)[0][1:])
    refused(key=threshold.split(private_key(), 3, 2)[0])
    swapped = [1, 0, 2, 3]
    # Rows and shares together: the same pairs, but not the vector that was proved.
    refused(rows=rows[swapped], shares=vectors()[1][0][swapped])


def test_the_callers_faults_are_told_apart():
    rows, _ = ciphertexts()
    for index in (0, 4, True, 1.0, None):
        with pytest.raises(MisuseError, match="holder-index"):
            check(index=index)
    with pytest.raises(MisuseError, match="holder-index"):
        check(key=private_key().public)
    share = dealt()[1][0]
    for context in ("round", None, bytearray(32)):
        with pytest.raises(MisuseError, match="proof-context"):
            check(context=context)
        with pytest.raises(MisuseError, match="proof-context"):
            threshold.partial(share, rows, context=context)
    for value in (0, share.public.n, share.public.n**2):
        bad = changed(rows, 1, value)
        with pytest.raises(DecodeError, match="ciphertext"):
            check(rows=bad)
        with pytest.raises(DecodeError, match="ciphertext"):
            threshold.partial(share, bad, context=CONTEXT)
    with pytest.raises(MisuseError, match="rows"):
        threshold.partial(share, rows[:0], context=CONTEXT)
    with pytest.raises(MisuseError, match="rows"):
        check(rows=rows[:0])


# A cheating holder, who knows his secret and the code


def forged(shares, secret=None):
    """Holder 1's proof about ``shares``, made as an honest one is, without the last check."""
    public, dealt_shares = dealt()
    share = dealt_shares[0]
    if secret is not None:
        share = object.__new__(threshold.KeyShare)
        for name, value in (("public", public), ("index", 1), ("secret", secret)):
            object.__setattr__(share, name, value)
    rows, _ = ciphertexts()
    statement = threshold._Statement.of(public, 1, rows, shares, CONTEXT, 1)
    return threshold._prove(share, statement)


def test_the_forger_can_make_honest_proofs():
    shares, proof = vectors()[1]
    assert forged(shares) == proof


def test_a_share_of_the_other_sign_opens_to_the_same():
    public, _ = dealt()
    shares = vectors()[1][0]
    negated = changed(shares, 0, public.n**2 - from_words(shares)[0])
    refused(shares=negated)
    check(shares=negated, proof=forged(negated))
    opened = threshold.combine(public, {1: negated, 2: vectors()[2][0]})
    assert from_words(opened) == ciphertexts()[1]


def test_a_forger_cannot_prove_wrong_shares():
    public, shares = dealt()
    square = public.n**2
    made = vectors()[1][0]
    values = from_words(made)
    for factor in (1 + public.n, 2, 4, from_words(ciphertexts()[0])[0], public.base):
        wrong = changed(made, 2, values[2] * factor % square)
        refused(shares=wrong, proof=forged(wrong))
        # Errors that cancel in a product without weights.
        wrong = changed(wrong, 3, values[3] * pow(factor, -1, square) % square)
        refused(shares=wrong, proof=forged(wrong))
    swapped = made[[1, 0, 2, 3]]
    refused(shares=swapped, proof=forged(swapped))
    for secret in (shares[1].secret, shares[0].secret + 1, 0):
        values = [pow(c, 12 * secret, square) for c in from_words(ciphertexts()[0])]
        other = to_words(values, 2 * public.words)
        refused(shares=other, proof=forged(other, secret))
        refused(shares=other, proof=forged(other))
        refused(proof=forged(made, secret))


def test_a_fault_of_the_arithmetic_does_not_leave_the_host(monkeypatch):
    rows, _ = ciphertexts()
    share = dealt()[1][0]
    good = threshold._powers
    calls = []

    def faulty(key, bases, exponent):
        calls.append(exponent)
        values = good(key, bases, exponent)
        return [values[0] ^ 1, *values[1:]] if len(calls) == 1 else values

    monkeypatch.setattr(threshold, "_powers", faulty)
    with pytest.raises(SecAggError, match="share-proof") as caught:
        threshold.partial(share, rows, context=CONTEXT)
    assert type(caught.value) is SecAggError
    assert len(calls) > 1


def test_arguments_of_another_type_are_named():
    key, shares = dealt()
    rows, _ = ciphertexts()
    for says, call in (
        (
            "private: a PrivateKey is needed, not a PublicKey",
            lambda: threshold.split(private_key(1024).public, 3, 2),
        ),
        (
            "share: a KeyShare is needed, not a PublicKey",
            lambda: threshold.partial(key, rows, context=CONTEXT),
        ),
        (
            "key: a PublicKey is needed, not a KeyShare",
            lambda: threshold.check_partial(
                shares[0], 1, rows, rows, b"", context=CONTEXT, sender="h1"
            ),
        ),
        ("key: a PublicKey is needed, not None", lambda: threshold.combine(None, {1: rows})),
        ("shares: a Mapping is needed, not a list", lambda: threshold.combine(key, [rows])),
    ):
        with pytest.raises(MisuseError) as caught:
            call()
        assert str(caught.value) == f"{says} [arguments]"
