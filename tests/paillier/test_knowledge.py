"""Proofs of plaintext knowledge: honest ones pass, and nobody proves what is not known.

The oracle is the equation of the proof in Python's integers, with a hash written here.
"""

import hashlib
import pickle
import secrets
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native.paillier import from_words, to_words
from secagg_protocols.errors import DecodeError, MisuseError
from secagg_protocols.paillier import PublicKey, keys, knowledge
from secagg_protocols.paillier.knowledge import Prover, Verifier, check, proof_size, prove
from support.paillier_keys import primes as fixed_primes
from support.paillier_keys import private_key, public_key

KEY = public_key(1024)
N, W = KEY.n, KEY.words
#: Words of z2: an exponent of 512 bits, a challenge of 128 and a mask of 128 more.
E = 12
CONTEXT = knowledge.site_context(b"round 7", 3)
ROWS = 3


class Case:
    """One vector with its secrets, drawn once and deterministically."""

    def __init__(self, rows=ROWS, seed=0, key=KEY):
        stream = hashlib.shake_256(struct.pack("<II", rows, seed)).digest(rows * 512)
        each = [stream[512 * i : 512 * (i + 1)] for i in range(rows)]
        self.key = key
        self.m = [int.from_bytes(part[:300], "little") % key.n for part in each]
        self.x = [int.from_bytes(part[300:364], "little") for part in each]
        self.messages = to_words(self.m, key.words)
        self.exponents = to_words(self.x, key.exponent_words)
        self.rows = key.table.encrypt(self.exponents, self.messages)

    def prove(self, context=CONTEXT, **options):
        return prove(self.key, self.rows, self.messages, self.exponents, context=context, **options)


CASE = Case()
PROOF = CASE.prove()


def refused(rows, proof, *, key=KEY, context=CONTEXT, rule="knowledge"):
    with pytest.raises(DecodeError) as caught:
        check(key, rows, proof, context=context, sender="clinic-3")
    assert caught.value.rule == rule
    assert caught.value.sender == "clinic-3"


def parts(proof, rows=ROWS, words=W):
    """(e, z1, z2) of a proof."""
    e, rest = int.from_bytes(proof[:16], "little"), proof[16:]
    cut = 8 * words * rows

    def numbers(data, size):
        return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]

    return (
        e,
        numbers(rest[:cut], 8 * words),
        numbers(rest[cut:], 8 * (len(rest) - cut) // rows // 8),
    )


def joined(e, z1, z2):
    """A proof of these numbers, which need not be a true one."""
    return b"".join(
        [
            e.to_bytes(16, "little"),
            *(number.to_bytes(8 * W, "little") for number in z1),
            *((number % (1 << 64 * E)).to_bytes(8 * E, "little") for number in z2),
        ]
    )


def hashed(label, *pieces):
    state = hashlib.sha256(label)
    for piece in pieces:
        state.update(struct.pack("<Q", len(piece)) + piece)
    return state.digest()


def challenge_of(key, rows, commitments, context=CONTEXT):
    """The challenge as the module's text has it, in plain integers."""
    size = key.bits // 4

    def digest(values):
        return hashlib.sha256(b"".join(v.to_bytes(size, "little") for v in values)).digest()

    whole = hashed(
        b"secagg paillier knowledge v1",
        context,
        key.digest,
        struct.pack("<Q", len(rows)),
        digest(rows),
        digest(commitments),
    )
    return int.from_bytes(whole[:16], "little")


def commitments_of(key, rows, e, z1, z2):
    n, square = key.n, key.n**2
    return [
        (1 + a * n) * pow(key.h_s, b, square) * pow(c, e, square) % square
        for c, a, b in zip(rows, z1, z2, strict=True)
    ]


def fixed_seed(monkeypatch, seed=bytes(32)):
    monkeypatch.setattr(secrets, "token_bytes", lambda size: seed[:size])


def fixed_challenge(monkeypatch, e):
    monkeypatch.setattr(
        knowledge._Statement, "challenge", lambda self: e.to_bytes(16, "little"), raising=True
    )


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_an_honest_proof_passes_and_has_its_size(rows):
    case = Case(rows)
    proof = case.prove()
    assert len(proof) == proof_size(KEY, rows) == 16 + rows * (128 + 96)
    check(KEY, case.rows, proof, context=CONTEXT, sender="a")


def test_an_honest_proof_meets_the_equation_in_plain_integers():
    e, z1, z2 = parts(PROOF)
    rows = from_words(CASE.rows)
    assert all(z < N for z in z1)
    assert challenge_of(KEY, rows, commitments_of(KEY, rows, e, z1, z2)) == e


@pytest.mark.parametrize("half", [False, True])
def test_longer_keys_and_exponents_of_half_the_modulus(half):
    key = public_key(2048)
    if half:
        key = PublicKey(key.n, exponent_bits=1024)
    message = to_words([key.n - 1, 0], key.words)
    rows, exponents = key.encrypt_rows(message)
    proof = prove(key, rows, message, exponents, context=b"c")
    assert len(proof) == proof_size(key, 2) == 16 + 2 * (256 + (160 if half else 96))
    check(key, rows, proof, context=b"c", sender="a")
    other = public_key(2048) if half else PublicKey(key.n, exponent_bits=1024)
    refused(rows, proof, key=other, context=b"c")


def test_threads_and_batches_do_not_change_the_proof(monkeypatch):
    fixed_seed(monkeypatch)
    case = Case(9)
    proof = case.prove()
    assert case.prove(threads=2) == proof
    for batch in (1, 4, 9):
        monkeypatch.setattr(knowledge, "BATCH", batch)
        assert case.prove() == proof
        check(KEY, case.rows, proof, context=CONTEXT, sender="a", threads=2)
    prover = Prover(KEY, 9, context=CONTEXT)
    for low, high in ((0, 2), (2, 2), (2, 9)):
        prover.commit(case.rows[low:high])
    for low, high in ((0, 5), (5, 6), (6, 9)):
        prover.respond(case.messages[low:high], case.exponents[low:high])
    assert prover.finish() == proof
    verifier = Verifier(KEY, 9, memoryview(proof), context=CONTEXT, sender="a")
    for low, high in ((0, 3), (3, 3), (3, 9)):
        verifier.add(case.rows[low:high])
    verifier.finish()


def test_nothing_repeats_between_proofs_or_rows():
    case = Case(2)
    case.messages[1], case.exponents[1], case.rows[1] = (
        case.messages[0],
        case.exponents[0],
        case.rows[0],
    )
    found = [parts(case.prove(), 2) for _ in range(2)]
    numbers = [number for e, z1, z2 in found for number in (e, *z1, *z2)]
    assert len(set(numbers)) == len(numbers)


def test_the_longest_secrets_never_give_a_negative_answer(monkeypatch):
    # The shortest mask (of a stream of zeros) meets the longest exponent and challenge.
    most = (1 << 128) - 1

    class Zeros:
        def __init__(self, _data):
            pass

        def digest(self, size):
            return bytes(size)

    fixed_challenge(monkeypatch, most)
    monkeypatch.setattr(knowledge.hashlib, "shake_256", Zeros)
    messages, exponents = to_words([N - 1], W), to_words([(1 << 512) - 1], 8)
    rows = KEY.table.encrypt(exponents, messages)
    proof = prove(KEY, rows, messages, exponents, context=CONTEXT)
    assert parts(proof, 1) == (most, [most % N], [(1 << 767) - most * ((1 << 512) - 1)])


# What others try


def test_a_proof_is_of_one_site_and_one_round():
    assert knowledge.site_context(b"round 7", 4) != CONTEXT
    assert knowledge.site_context(b"round 8", 3) != CONTEXT
    refused(CASE.rows, PROOF, context=knowledge.site_context(b"round 7", 4))
    refused(CASE.rows, PROOF, context=knowledge.site_context(b"round 8", 3))
    check(KEY, CASE.rows, PROOF, context=knowledge.site_context(b"round 7", 3), sender="a")


def test_a_proof_is_of_one_key(monkeypatch):
    other = public_key(1024, 1)
    refused(CASE.rows, PROOF, key=other, rule="knowledge")
    with monkeypatch.context() as patch:
        patch.setattr(keys, "LEAST_BITS", 1024)
        same_modulus = PublicKey(N, proof=b"another id")
    refused(CASE.rows, PROOF, key=same_modulus)


def derived(change):
    """A vector that is made from another site's: (rows, e, z1, z2) by a cheat who has no m."""
    e, z1, z2 = parts(PROOF)
    square = N * N
    rows = from_words(CASE.rows)
    if change == "copied":
        return rows, e, z1, z2
    if change == "shifted":
        k = 1 << 40
        return [pow(c, k, square) for c in rows], e, [k * z % N for z in z1], [k * z for z in z2]
    if change == "doubled":
        return [c * c % square for c in rows], e, [2 * z % N for z in z1], [2 * z for z in z2]
    if change == "negated":
        return [pow(c, -1, square) for c in rows], e, [-z % N for z in z1], [-z for z in z2]
    if change == "rerandomised":
        # With e - e = 0 this has the same commitments: only the hash of the rows differs.
        step = 1 << 300
        rows = [c * pow(KEY.h_s, step, square) % square for c in rows]
        return rows, e, z1, [z - e * step for z in z2]
    if change == "added":
        rows = [c * (1 + 5 * N) % square for c in rows]
        return rows, e, [(z - 5 * e) % N for z in z1], z2
    assert change == "swapped"
    order = (1, 0, 2)
    return [rows[i] for i in order], e, [z1[i] for i in order], [z2[i] for i in order]


@pytest.mark.parametrize(
    "change", ["copied", "shifted", "doubled", "negated", "rerandomised", "added", "swapped"]
)
@pytest.mark.parametrize("context", [CONTEXT, knowledge.site_context(b"round 7", 4)])
def test_a_vector_made_from_another_sites_cannot_be_proved(change, context):
    rows, e, z1, z2 = derived(change)
    words = to_words(rows, 2 * W)
    if change == "copied" and context == CONTEXT:
        check(KEY, words, joined(e, z1, z2), context=context, sender="a")  # the honest one
        return
    refused(words, joined(e, z1, z2), context=context)
    # Nor with the right hash of what the cheat has, whose answers then fit another challenge.
    found = challenge_of(KEY, rows, commitments_of(KEY, rows, e, z1, z2), context)
    refused(words, joined(found, z1, z2), context=context)
    # Nor with the old proof, nor with a proof of a guess.
    if change != "copied":
        refused(words, PROOF, context=context)
    guess = prove(KEY, words, np.zeros_like(CASE.messages), CASE.exponents, context=context)
    refused(words, guess, context=context)


def test_one_unknown_row_spoils_the_vector():
    rows = CASE.rows.copy()
    rows[1] = KEY.rerandomise(rows[1:2])[0]
    refused(rows, prove(KEY, rows, CASE.messages, CASE.exponents, context=CONTEXT))
    wrong = CASE.messages.copy()
    wrong[2, 0] ^= np.uint64(1)
    refused(CASE.rows, prove(KEY, CASE.rows, wrong, CASE.exponents, context=CONTEXT))


@given(bit=st.integers(0, 8 * len(PROOF) - 1))
@settings(max_examples=80, deadline=None)
def test_a_proof_with_one_other_bit_is_refused(bit):
    changed = bytearray(PROOF)
    changed[bit // 8] ^= 1 << bit % 8
    refused(CASE.rows, bytes(changed))


@pytest.mark.parametrize("proof", [b"", PROOF[:-1], PROOF + b"\0", PROOF[:-224], bytes(len(PROOF))])
def test_a_proof_of_another_size_or_of_zeros_is_refused(proof):
    refused(CASE.rows, proof)


def test_fewer_or_more_rows_than_were_proved_are_refused():
    refused(CASE.rows[:2], PROOF)
    refused(
        CASE.rows[:2].copy(),
        joined(*(part[:2] if i else part for i, part in enumerate(parts(PROOF)))),
    )
    refused(np.concatenate([CASE.rows, CASE.rows[:1]]), PROOF)


def test_an_answer_of_n_or_more_is_refused(monkeypatch):
    # z1 + n verifies in the group as z1 does, so nothing but the range refuses it.
    room = (1 << 64 * W) - N
    for seed in range(200):
        fixed_seed(monkeypatch, struct.pack("<I", seed) * 8)
        e, z1, z2 = parts(CASE.prove())
        if z1[1] < room:
            break
    else:
        pytest.fail("no seed gives a small answer: use another key")
    check(KEY, CASE.rows, joined(e, z1, z2), context=CONTEXT, sender="a")
    rows = from_words(CASE.rows)
    z1[1] += N
    assert challenge_of(KEY, rows, commitments_of(KEY, rows, e, z1, z2)) == e
    refused(CASE.rows, joined(e, z1, z2))


@pytest.mark.parametrize("value", [0, N, fixed_primes(1024)[0], N * N, N * N + 1])
def test_what_is_no_ciphertext_is_refused_by_its_own_rule(value):
    rows = CASE.rows.copy()
    rows[1] = to_words([value], 2 * W)[0]
    refused(rows, PROOF, rule="ciphertext")


# Soundness and zero knowledge


def test_two_challenges_for_one_commitment_give_every_plaintext(monkeypatch):
    fixed_seed(monkeypatch)
    case = Case(5)
    answers = []
    for e in (0xC0FFEE, (1 << 128) - 5):
        fixed_challenge(monkeypatch, e)
        answers.append(parts(case.prove(), 5))
    (e, z1, z2), (e_, z1_, z2_) = answers
    rows = from_words(case.rows)
    assert commitments_of(KEY, rows, e, z1, z2) == commitments_of(KEY, rows, e_, z1_, z2_)
    found = [(b - a) * pow(e - e_, -1, N) % N for a, b in zip(z1, z1_, strict=True)]
    assert found == case.m
    opened = private_key(1024).decrypt(case.rows)
    assert from_words(opened) == found


def test_a_proof_for_a_known_challenge_needs_no_knowledge(monkeypatch):
    # The simulator: it chooses the answers and the challenge, and the hash is made to agree.
    e = 0x123456789ABCDEF0FEDCBA9876543210
    fixed_challenge(monkeypatch, e)
    stranger = KEY.rerandomise(CASE.rows)
    simulated = joined(e, [17, N - 1, 0], [1 << 767, 5, 0])
    check(KEY, stranger, simulated, context=CONTEXT, sender="a")
    monkeypatch.undo()
    refused(stranger, simulated)


def test_answers_do_not_show_the_secrets(monkeypatch):
    # With the challenge 1 an unmasked answer would be the secret or its negative.
    fixed_challenge(monkeypatch, 1)
    for _ in range(3):
        e, z1, z2 = parts(CASE.prove())
        for m, x, a, b in zip(CASE.m, CASE.x, z1, z2, strict=True):
            assert abs(a - (-e * m) % N) >> 900
            assert b >> 700
            assert abs(b + x - (1 << 767)) >> 650


# Use


def test_the_order_of_a_provers_calls():
    def fresh(rows=ROWS):
        return Prover(KEY, rows, context=CONTEXT)

    secret = CASE.messages, CASE.exponents
    for wrong in (
        lambda p: p.finish(),
        lambda p: p.respond(*secret),
        lambda p: (p.commit(CASE.rows[:2]), p.respond(*secret)),
        lambda p: (p.commit(CASE.rows), p.commit(CASE.rows[:1])),
        lambda p: (p.commit(CASE.rows), p.finish()),
        lambda p: (p.commit(CASE.rows), p.respond(*secret), p.commit(CASE.rows[:0])),
        lambda p: (p.commit(CASE.rows), p.respond(*secret), p.respond(*secret)),
        lambda p: (p.commit(CASE.rows), p.respond(CASE.messages[:2], CASE.exponents)),
        lambda p: (
            p.commit(CASE.rows),
            p.respond(CASE.messages[:1], CASE.exponents[:1]),
            p.finish(),
        ),
    ):
        with pytest.raises(MisuseError) as caught:
            wrong(fresh())
        assert caught.value.rule == "proof-order"


def test_a_verifier_wants_all_rows_and_no_more():
    verifier = Verifier(KEY, ROWS, PROOF, context=CONTEXT, sender="a")
    verifier.add(CASE.rows[:2])
    with pytest.raises(MisuseError, match="2 of 3 rows"):
        verifier.finish()
    with pytest.raises(MisuseError, match="3 rows only"):
        verifier.add(CASE.rows)
    verifier.add(CASE.rows[2:])
    verifier.finish()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": CASE.rows[:0]},
        {"rows": CASE.rows[:, :-1]},
        {"rows": CASE.rows.astype(np.int64)},
        {"rows": [1, 2, 3]},
        {"messages": CASE.messages[:, 1:]},
        {"messages": CASE.messages[:2]},
        {"exponents": CASE.exponents[:2]},
        {"exponents": CASE.exponents.astype(np.uint32)},
        {"context": b""},
        {"context": "round"},
    ],
    ids=str,
)
def test_wrong_arguments_are_the_callers_fault(change):
    given_ = {
        "rows": CASE.rows,
        "messages": CASE.messages,
        "exponents": CASE.exponents,
        "context": CONTEXT,
    } | change
    with pytest.raises(MisuseError):
        prove(
            KEY, given_["rows"], given_["messages"], given_["exponents"], context=given_["context"]
        )
    if "rows" in change or "context" in change:
        with pytest.raises(MisuseError):
            check(KEY, given_["rows"], PROOF, context=given_["context"], sender="a")


def test_a_prover_shows_nothing_and_does_not_travel():
    prover = Prover(KEY, ROWS, context=CONTEXT)
    assert repr(prover) == "Prover(3 rows, <secret>)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(prover)
