"""Openings with one key against an oracle in plain integers, and what a cheating holder can do."""

import hashlib
import math
import struct
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import features
from secagg_native.paillier import Squares, from_words, to_words
from secagg_protocols.errors import DecodeError, MisuseError, PeerError, SecAggError
from secagg_protocols.paillier import PrivateKey, PublicKey, keys, opening
from support.paillier_keys import primes, private_key, public_key

CONTEXT = bytes(range(32))


@pytest.fixture(autouse=True, scope="module")
def short_keys():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "LEAST_BITS", 512)
        yield


@cache
def _opened(bits):
    public = public_key(bits)
    messages = [1, public.n - 1, 0, 1000]
    values = [public.encrypt_int(m, 5 + i) for i, m in enumerate(messages)]
    rows = to_words(values, 2 * public.words)
    return (rows, *opening.open_rows(private_key(bits), rows, context=CONTEXT))


def opened(bits=1024):
    """Ciphertexts of four messages, their plaintexts and the proof."""
    return _opened(bits)


def check(rows=None, plain=None, proof=None, context=CONTEXT, key=None, threads=1):
    """Check the opening with some parts replaced."""
    good = opened()
    opening.check_opening(
        key or public_key(),
        good[0] if rows is None else rows,
        good[1] if plain is None else plain,
        good[2] if proof is None else proof,
        context=context,
        sender="holder",
        threads=threads,
    )


def refused(**parts):
    with pytest.raises(PeerError) as caught:
        check(**parts)
    assert (caught.value.rule, caught.value.sender) == ("opening-proof", "holder")


def changed(rows, row, value):
    """``rows`` with one row replaced by an integer."""
    copy = rows.copy()
    copy[row] = to_words([value], rows.shape[1])[0]
    return copy


def oracle_hash(label, *parts):
    return hashlib.sha256(
        label + b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    ).digest()


def oracle_residue(key, rows, plain, context):
    """P of the module's text in Python's integers."""
    n, square, size = key.n, key.n**2, key.bits // 8
    statement = oracle_hash(
        b"secagg paillier opening v1",
        key.digest,
        context,
        b"".join(c.to_bytes(2 * size, "little") for c in rows),
        b"".join(m.to_bytes(size, "little") for m in plain),
    )
    seed = oracle_hash(b"secagg paillier weights v1", statement)
    stream = hashlib.shake_256(seed).digest(16 * len(rows))
    product = 1
    for i, (c, m) in enumerate(zip(rows, plain, strict=True)):
        weight = int.from_bytes(stream[16 * i : 16 * i + 16], "little")
        product = product * pow(c * pow(1 + n, -m, square), weight, square) % square
    return product


@pytest.mark.parametrize("bits", [1024, 2048])
def test_an_opening_is_that_of_the_oracle(bits):
    p, q = primes(bits)
    public = public_key(bits)
    rows, plain, proof = opened(bits)
    n, order = p * q, math.lcm(p - 1, q - 1)
    values = from_words(rows)
    # Paillier 1999, scheme 1.
    messages = [(pow(c, order, n * n) - 1) // n * pow(order, -1, n) % n for c in values]
    assert from_words(plain) == messages == [1, n - 1, 0, 1000]
    residue = oracle_residue(public, values, messages, CONTEXT)
    root = int.from_bytes(proof, "little")
    assert root == pow(residue, pow(n, -1, (p - 1) * (q - 1)), n)
    assert pow(root, n, n * n) == residue
    assert len(proof) == opening.proof_size(public) == bits // 8
    opening.check_opening(public, rows, plain, proof, context=CONTEXT, sender="holder")


def test_the_root_is_made_of_the_randomness_of_the_ciphertexts():
    # One row of 0: the root is r to the weight, and tells nothing that m = 0 does not.
    public = public_key()
    rows = to_words([public.encrypt_int(0, 7)], 2 * public.words)
    _, proof = opening.open_rows(private_key(), rows, context=b"")
    size = public.bits // 8
    statement = oracle_hash(
        b"secagg paillier opening v1", public.digest, b"", rows.tobytes(), bytes(size)
    )
    seed = oracle_hash(b"secagg paillier weights v1", statement)
    weight = int.from_bytes(hashlib.shake_256(seed).digest(16), "little")
    assert int.from_bytes(proof, "little") == pow(7, weight, public.n)


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.fractions(0, 1, max_denominator=1 << 600), min_size=1, max_size=9),
    threads=st.integers(1, 2),
    data=st.data(),
)
def test_any_plaintexts_open_and_no_others_pass(parts, threads, data):
    public, n = public_key(), public_key().n
    messages = [int(part * (n - 1)) for part in parts]
    rows = to_words([public.encrypt_int(m) for m in messages], 2 * public.words)
    plain, proof = opening.open_rows(private_key(), rows, context=CONTEXT, threads=threads)
    assert from_words(plain) == messages
    check(rows=rows, plain=plain, proof=proof, threads=threads)
    row = data.draw(st.integers(0, len(rows) - 1))
    wrong = changed(plain, row, data.draw(st.integers(0, n - 1).filter(messages[row].__ne__)))
    refused(rows=rows, plain=wrong, proof=proof)
    refused(rows=rows, plain=wrong, proof=forged(rows, wrong))


def test_a_repeated_call_gives_the_same_bytes():
    rows, plain, proof = opened()
    again = opening.open_rows(private_key(), rows, context=CONTEXT, threads=2)
    assert np.array_equal(again[0], plain)
    assert again[1] == proof
    assert opening.open_rows(private_key(), rows, context=b"other")[1] != proof


@pytest.mark.parametrize("variant", features.bigint_variants())
def test_all_variants_check_the_same(variant, monkeypatch):
    squares = Squares(public_key().n, variant=variant)
    monkeypatch.setattr(PublicKey, "squares", property(lambda key: squares))
    rows, plain, proof = opened()
    check()
    assert opening.open_rows(private_key(), rows, context=CONTEXT)[1] == proof
    refused(plain=changed(plain, 0, 2))


def test_changed_proofs_are_refused():
    n, (p, _) = public_key().n, primes(1024)
    proof = opened()[2]
    size = len(proof)
    root = int.from_bytes(proof, "little")
    for value in (0, 1, p, n, n - root, root + 1, n - 1, (1 << 8 * size) - 1):
        refused(proof=value.to_bytes(size, "little"))
    for place in (0, size // 2, size - 1):
        data = bytearray(proof)
        data[place] ^= 1
        refused(proof=bytes(data))
    for data in (b"", proof[:-1], proof + b"\0", bytearray(proof), root):
        refused(proof=data)


def test_a_root_has_one_form_only():
    # root + n has the same n-th power modulo n^2; it fits into the proof if the root is small.
    n, rows = public_key().n, opened()[0][:1]
    size = opening.proof_size(public_key())
    for number in range(500):
        context = number.to_bytes(2, "little")
        plain, proof = opening.open_rows(private_key(), rows, context=context)
        other = int.from_bytes(proof, "little") + n
        if other < 1 << 8 * size:
            break
    assert pow(other, n, n * n) == oracle_residue(
        public_key(), from_words(rows), from_words(plain), context
    )
    check(rows=rows, plain=plain, proof=proof, context=context)
    data = other.to_bytes(size, "little")
    refused(rows=rows, plain=plain, proof=data, context=context)


def test_changed_plaintexts_are_refused():
    n = public_key().n
    _, plain, _ = opened()
    values = from_words(plain)
    refused(plain=changed(plain, 0, values[0] + 1))
    refused(plain=changed(plain, 2, n))  # 0 in a form that is not reduced
    refused(plain=changed(plain, 2, (1 << 1024) - 1))
    refused(plain=plain[[1, 0, 2, 3]])
    refused(plain=plain[:3])
    refused(plain=np.vstack([plain, plain[:1]]))
    refused(plain=plain[:, :-1].copy())
    refused(plain=plain.astype(np.int64))
    refused(plain=plain.tolist())


def test_another_statement_is_refused():
    rows, plain, _ = opened()
    refused(context=b"")
    refused(rows=rows[[1, 0, 2, 3]])
    refused(rows=rows[[1, 0, 2, 3]], plain=plain[[1, 0, 2, 3]])
    public = public_key()
    fresh = public.rerandomise(rows)
    refused(rows=fresh)
    other = PublicKey(public.n, proof=b"another key id")
    refused(key=other)


def forged(rows, plain):
    """A proof about ``plain`` as the holder of the key would make it, without the last check."""
    residue = opening._residue(public_key(), rows, plain, CONTEXT, 1)
    root = private_key().nth_root(residue)
    return root.to_bytes(opening.proof_size(public_key()), "little")


def test_a_forger_cannot_prove_wrong_plaintexts():
    rows, plain, proof = opened()
    assert forged(rows, plain) == proof
    n, (p, q) = public_key().n, primes(1024)
    values = from_words(plain)
    for delta in (1, n - 1, p, q, 1 << 500):
        wrong = changed(plain, 0, (values[0] + delta) % n)
        refused(plain=wrong, proof=forged(rows, wrong))
        # Errors that cancel in a sum without weights.
        wrong = changed(wrong, 3, (values[3] - delta) % n)
        refused(plain=wrong, proof=forged(rows, wrong))
    # 0 in a form that is not reduced is right modulo n, and still no plaintext.
    wrong = changed(plain, 2, n)
    refused(plain=wrong, proof=forged(rows, wrong))


def test_the_callers_faults_are_told_apart():
    rows, _, _ = opened()
    n = public_key().n
    for context in ("round", None, bytearray(32)):
        with pytest.raises(MisuseError, match="proof-context"):
            opening.open_rows(private_key(), rows, context=context)
        with pytest.raises(MisuseError, match="proof-context"):
            check(context=context)
    for bad in (
        changed(rows, 1, 0),
        changed(rows, 1, n),
        changed(rows, 1, n * n),
        rows[:, 1:].copy(),
        rows.astype(np.float64),
    ):
        with pytest.raises(DecodeError, match="ciphertext"):
            opening.open_rows(private_key(), bad, context=CONTEXT)
        with pytest.raises(DecodeError, match="ciphertext"):
            check(rows=bad)
    with pytest.raises(MisuseError, match="rows"):
        opening.open_rows(private_key(), rows[:0], context=CONTEXT)


@pytest.mark.parametrize("name", ["nth_root", "decrypt"])
def test_a_fault_of_the_arithmetic_does_not_leave_the_host(name, monkeypatch):
    rows, plain, _ = opened()
    p, _ = primes(1024)
    good = getattr(PrivateKey, name)

    def faulty(self, value, **options):
        # Right modulo one prime and wrong modulo the other, as a fault in one half makes it.
        result = good(self, value, **options)
        if isinstance(result, int):
            return (result + p) % (self.public.n)
        return changed(result, 0, (from_words(plain)[0] + p) % self.public.n)

    monkeypatch.setattr(PrivateKey, name, faulty)
    with pytest.raises(SecAggError, match="opening-proof") as caught:
        opening.open_rows(private_key(), rows, context=CONTEXT)
    assert type(caught.value) is SecAggError
