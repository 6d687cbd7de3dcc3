"""Keys: every rule refuses its case, and what a key computes agrees with plain integers."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_native import features
from secagg_native.paillier import from_words, to_words
from secagg_protocols.errors import DecodeError, MisuseError, PlanError
from secagg_protocols.keys import digest_of
from secagg_protocols.paillier import PrivateKey, PublicKey, derived, keys, modulus
from secagg_protocols.paillier.primes import primes_below
from support.paillier_keys import prime_after, private_key, public_key, short_keys  # noqa: F401
from support.paillier_keys import primes as fixed_primes

pytestmark = pytest.mark.usefixtures("short_keys")

P, Q = fixed_primes(1024)
N = P * Q
SQUARES = tuple(pow(x, 2, N * N) for x in (3, 5, 7, 11, 13))


def prime_for(factor, bits):
    """A prime whose product with ``factor`` has exactly ``bits`` bits."""
    return prime_after(3 * 2 ** (bits - 2) // factor)


def filled(factor, bits=1024):
    return factor * prime_for(factor, bits)


@pytest.fixture(params=["gmp", "python"])
def arithmetic(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(modulus.primes, "gmp", None)
    elif modulus.primes.gmp is None:
        pytest.skip("gmpy2 is not installed")
    modulus.fault.cache_clear()
    yield
    modulus.fault.cache_clear()


# ---- rules of the public key


CLOSE = prime_after(3 * 2**510)
BAD_MODULI = {
    "modulus-odd": [N + 1, N - 1],
    "modulus-factor": [
        filled(3),
        filled(1048573),  # the greatest prime below 2^20
        filled(math.prod(primes_below(1 << 20)[-16:].tolist())),
        filled(math.prod(primes_below(1 << 16)[-16:].tolist())),
        filled(5**16),
    ],
    "modulus-square": [
        CLOSE**2,
        prime_after(3 * 2**339) ** 3,
        prime_after(15 * 2**36) ** 25,
        prime_after(1 << 20) ** 47,
    ],
    "modulus-prime": [prime_after(3 * 2**1022)],
    "modulus-close": [  # found at the first step of Fermat's factorisation twice, and at the 11th
        CLOSE * prime_after(CLOSE + 2),
        CLOSE * prime_after(CLOSE + 2**255),
        CLOSE * prime_after(CLOSE + 2**259),
    ],
}


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(
    ("rule", "n"),
    [(rule, n) for rule, moduli in BAD_MODULI.items() for n in moduli],
    ids=[f"{rule}-{i}" for rule, moduli in BAD_MODULI.items() for i in range(len(moduli))],
)
def test_a_bad_modulus_is_refused(rule, n):
    assert n.bit_length() == 1024 or rule == "modulus-square"
    assert modulus.fault(n)[0] == rule
    if n.bit_length() == 1024:
        with pytest.raises(PlanError) as refused:
            PublicKey(n)
        assert (refused.value.rule, refused.value.field) == (rule, "key")


@pytest.mark.usefixtures("arithmetic")
def test_a_factor_above_the_limit_and_a_fixed_key_are_not_refused():
    assert modulus.fault(filled(prime_after(1 << 20))) is None
    assert modulus.fault(CLOSE * prime_after(CLOSE + 2**262)) is None
    assert modulus.fault(N) is None
    assert PublicKey(N).n == N


@pytest.mark.usefixtures("arithmetic")
def test_the_jacobi_symbol_agrees_with_eulers_criterion():
    for p, q in [(3, 5), (7, 11), (103, 107), (103, 103), (13, 17)]:
        for value in range(3 * p * q):
            symbols = [{0: 0, 1: 1}.get(pow(value, (r - 1) // 2, r), -1) for r in (p, q)]
            assert modulus.jacobi(value, p * q) == symbols[0] * symbols[1], (value, p, q)


@pytest.mark.parametrize(
    "n", [0, 1, -N, N >> 1, N << 64 | 1, 2**1023 - 1, 2**2047 - 1, 2**2050 + 1]
)
def test_a_modulus_of_another_length_is_refused(n):
    with pytest.raises(PlanError) as refused:
        PublicKey(n if n.bit_length() != 1088 else n >> 3)
    assert refused.value.rule == "modulus-bits"


def test_short_moduli_are_for_tests_only(monkeypatch):
    monkeypatch.setattr(keys, "LEAST_BITS", 2048)
    with pytest.raises(PlanError) as refused:
        PublicKey(N)
    assert refused.value.rule == "modulus-bits"
    assert {public_key(bits).bits for bits in keys.BITS} == {2048, 3072, 4096}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": float(2**1000)},
        {"n": str(N)},
        {"n": None},
        {"threshold": True},
        {"threshold": 1.0},
        {"exponent_bits": np.int64(512)},
        {"base": b""},
        {"verification": list(SQUARES)},
        {"verification": (3, "5")},
        {"proof": bytearray(3)},
        {"knowledge_proofs": 1},
        {"knowledge_proofs": None},
        {"knowledge_proofs": np.bool_(True)},
        {"proof": bytes(keys.MOST_PROOF + 1)},
    ],
    ids=str,
)
def test_fields_of_another_type_are_refused(fields):
    with pytest.raises(PlanError) as refused:
        PublicKey(**{"n": N, **fields})
    assert refused.value.rule == "key-types"


@pytest.mark.parametrize("bits", [0, 256, 448, 511, 513, 1024])
def test_other_exponents_are_refused(bits):
    with pytest.raises(PlanError) as refused:
        PublicKey(N, exponent_bits=bits)
    assert refused.value.rule == "exponent-bits"


def test_exponents_may_have_half_of_the_modulus():
    n = public_key(2048).n
    assert PublicKey(n, exponent_bits=1024).exponent_words == 16
    assert PublicKey(n).exponent_words == 8
    with pytest.raises(PlanError):
        PublicKey(n, exponent_bits=1536)


# 2 is no square modulo a Blum integer; a multiple of p has Jacobi symbol 0.
NO_SQUARE = next(x for x in range(2, 99) if modulus.jacobi(x, N) == -1)


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 2, "base": 0, "verification": ()},
        {"threshold": 1, "base": 9, "verification": ()},
        {"threshold": 0},
        {"threshold": -1},
        {"threshold": 5},
        {"base": 0},
        {"base": 1},
        {"base": N * N - 1},
        {"base": N * N + SQUARES[0]},
        {"base": -SQUARES[0]},
        {"base": NO_SQUARE},
        {"base": P * P},
        {"verification": (*SQUARES[1:4], 0)},
        {"verification": (*SQUARES[1:4], NO_SQUARE)},
        {"verification": (*SQUARES[1:4], N)},
        {"verification": (*SQUARES[1:4], 1)},
        {"verification": (*SQUARES[1:4], SQUARES[1])},
        {"verification": tuple(pow(9, x, N * N) for x in range(1, 66))},
    ],
    ids="-".join,
)
def test_a_threshold_that_cannot_be_is_refused(fields):
    good = {"threshold": 3, "base": SQUARES[0], "verification": SQUARES[1:]}
    assert PublicKey(N, **good).holders == 4
    with pytest.raises(PlanError) as refused:
        PublicKey(N, **{**good, **fields})
    assert refused.value.rule == "key-threshold"


def test_with_threshold_one_all_holders_have_one_verification_value():
    same = (SQUARES[1],) * 3
    assert PublicKey(N, threshold=1, base=SQUARES[0], verification=same).holders == 3
    most = tuple(pow(9, x, N * N) for x in range(1, 65))
    assert PublicKey(N, threshold=64, base=SQUARES[0], verification=most).holders == 64


# ---- what follows from a modulus


def test_the_base_is_minus_a_square_that_follows_from_the_modulus():
    for bits, number in [(1024, 0), (1024, 1), (2048, 0)]:
        key = public_key(bits, number)
        n = key.n
        seed = b"secagg paillier base v1" + n.to_bytes(bits // 8, "little")
        x = int.from_bytes(hashlib.shake_256(seed).digest(bits // 8 + 16), "little") % n
        assert key.h == -x * x % n
        assert key.h_s == pow(key.h, n, n * n)
        # Blum primes: -1 is no square modulo either, and so h is none; its symbol is 1.
        assert modulus.jacobi(key.h, n) == 1
        for prime in fixed_primes(bits, number):
            assert pow(key.h, (prime - 1) // 2, prime) == prime - 1


def test_a_modulus_that_its_hash_splits_is_refused(monkeypatch):
    class Hash:
        def __init__(self, data):
            pass

        def digest(self, size):
            return P.to_bytes(size, "little")

    monkeypatch.setattr(keys.derived.hashlib, "shake_256", Hash)
    with pytest.raises(PlanError) as refused:
        keys.derived.bases.__wrapped__(N)
    assert refused.value.rule == "modulus-factor"


def test_sizes_and_arithmetic():
    key = public_key()
    assert (key.bits, key.words, key.exponent_words, key.holders) == (1024, 16, 8, 1)
    assert key.squares is PublicKey(N).squares
    assert key.squares.n == N
    assert key.table is PublicKey(N, proof=b"another").table
    assert key.table.bits == 512


def test_the_digest_covers_every_field():
    base = {"threshold": 2, "base": SQUARES[0], "verification": SQUARES[1:3]}
    forms = [
        PublicKey(N),
        PublicKey(public_key(1024, 1).n),
        PublicKey(N, proof=b"proof"),
        PublicKey(N, **base),
        PublicKey(N, **{**base, "threshold": 1}),
        PublicKey(N, **{**base, "base": SQUARES[4]}),
        PublicKey(N, **{**base, "verification": SQUARES[1:4]}),
        PublicKey(N, **{**base, "verification": SQUARES[2:0:-1]}),
        PublicKey(public_key(2048).n),
        PublicKey(public_key(2048).n, exponent_bits=1024),
    ]
    assert len({form.digest for form in forms}) == len(forms) == len(set(forms))
    assert all(len(form.digest) == 32 for form in forms)
    assert PublicKey(N).digest == digest_of(b"secagg paillier key v1", PublicKey(N).to_bytes())


# ---- encryption


def opened(ciphertext, p=P, q=Q):
    """Paillier's decryption, literally."""
    n = p * q
    order = math.lcm(p - 1, q - 1)
    return (pow(ciphertext, order, n * n) - 1) // n * pow(order, -1, n) % n


@settings(max_examples=20, deadline=None)
@given(st.integers(0, N - 1), st.integers(0, N - 1), st.integers(1, N - 1))
def test_sums_of_integers(first, second, r):
    key = private_key()
    a, b = key.public.encrypt_int(first, r), key.public.encrypt_int(second)
    assert a == (1 + first * N) * pow(r, N, N * N) % N**2
    assert opened(a) == key.decrypt_int(a) == first
    assert opened(a * b % N**2) == key.decrypt_int(a * b % N**2) == (first + second) % N


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, N - 1) | st.sampled_from([0, 1, N - 1]), max_size=9))
def test_rows_are_encrypted_with_powers_of_the_base(messages):
    key = private_key()
    words = to_words(messages, 16)
    rows, exponents = key.public.encrypt_rows(words)
    assert rows.shape == (len(messages), 32)
    assert exponents.shape == (len(messages), 8)
    expected = [
        (1 + m * N) * pow(key.public.h_s, a, N * N) % N**2
        for m, a in zip(messages, from_words(exponents), strict=True)
    ]
    assert from_words(rows) == expected
    np.testing.assert_array_equal(key.decrypt(rows), words)


def test_half_length_exponents_are_used():
    key = PrivateKey(*fixed_primes(2048), exponent_bits=1024)
    n, h_s = key.public.n, key.public.h_s
    rows, exponents = key.public.encrypt_rows(to_words([5], 32), threads=2)
    (exponent,) = from_words(exponents)
    assert exponent.bit_length() > 900
    assert from_words(rows) == [(1 + 5 * n) * pow(h_s, exponent, n * n) % (n * n)]
    assert from_words(key.decrypt(rows, threads=2)) == [5]


def test_exponents_come_whole_from_the_generator(monkeypatch):
    asked = []

    def token_bytes(size):
        asked.append(size)
        return bytes(range(64)) * (size // 64)

    monkeypatch.setattr(keys.secrets, "token_bytes", token_bytes)
    exponents = public_key().exponents(3)
    assert asked == [3 * 64]
    assert from_words(exponents) == [int.from_bytes(bytes(range(64)), "little")] * 3
    exponents[0] = 0  # writable, so that it can be erased


def test_ciphertexts_of_one_message_differ():
    key = public_key()
    rows, exponents = key.encrypt_rows(to_words([7] * 20, 16))
    again = key.rerandomise(rows)
    values = from_words(rows) + from_words(again)
    assert len(set(values)) == 40
    assert len(set(from_words(exponents))) == 20
    assert len({key.encrypt_int(7) for _ in range(3)}) == 3


def test_rerandomised_rows_hold_the_same_messages_and_leave_the_others():
    key = private_key()
    messages = to_words([0, 5, N - 1], 16)
    rows, _ = key.public.encrypt_rows(messages)
    kept = rows.copy()
    again = key.public.rerandomise(rows)
    np.testing.assert_array_equal(rows, kept)
    np.testing.assert_array_equal(key.decrypt(again), messages)
    # The factor between both is an n-th power, that of a power of h.
    ratio = from_words(again)[1] * pow(from_words(rows)[1], -1, N * N) % N**2
    root = key.nth_root(ratio)
    assert pow(root, N, N * N) == ratio


@pytest.mark.parametrize("message", [-1, N, 1.0, "1", True, None])
def test_other_messages_are_refused(message):
    with pytest.raises(MisuseError) as refused:
        public_key().encrypt_int(message)
    assert refused.value.rule == "message"


@pytest.mark.parametrize("r", [0, -1, N, P, 3 * Q, 1.0])
def test_other_randomness_is_refused(r):
    with pytest.raises(MisuseError) as refused:
        public_key().encrypt_int(1, r)
    assert refused.value.rule == "message"


@pytest.mark.parametrize(
    "messages",
    [
        to_words([N], 16),
        to_words([2**1024 - 1], 16),
        to_words([1], 15),
        to_words([1], 32),
        to_words([1], 16)[0],
        to_words([1], 16).astype(np.int64),
        [1],
    ],
    ids=["n", "full", "short", "long", "one", "signed", "list"],
)
def test_other_rows_of_messages_are_refused(messages):
    with pytest.raises(MisuseError) as refused:
        public_key().encrypt_rows(messages)
    assert refused.value.rule == "message"
    # What the native layer raised has the messages in its frames.
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_rows_need_not_be_contiguous():
    key = private_key()
    wide = to_words([1, 2, 3, 4], 16)
    rows, _ = key.public.encrypt_rows(wide[::2])
    np.testing.assert_array_equal(key.decrypt(rows[::-1]), wide[2::-2])
    key.public.check_rows(rows[::-1], sender="a")
    np.testing.assert_array_equal(key.decrypt(key.public.rerandomise(rows[::-1])), wide[2::-2])


BAD_ROWS = {
    "zero": 0,
    "modulus": N,
    "factor": P,
    "multiple": Q * 12345,
    "square": N * N,
    "above": N * N + 1,
    "full": 2**2048 - 1,
}


@pytest.mark.parametrize("value", BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("place", [0, 2])
def test_a_row_that_is_no_ciphertext_is_refused(value, place):
    key = private_key()
    rows, _ = key.public.encrypt_rows(to_words([1, 2, 3], 16))
    key.public.check_rows(rows, sender="site")
    rows[place] = to_words([value], 32)[0]
    with pytest.raises(DecodeError, match=f"row {place} ") as refused:
        key.public.check_rows(rows, sender="site")
    assert (refused.value.rule, refused.value.sender) == ("ciphertext", "site")
    for use in (key.decrypt, key.public.rerandomise):
        with pytest.raises(DecodeError) as refused:
            use(rows)
        assert refused.value.rule == "ciphertext"
    with pytest.raises(DecodeError):
        key.decrypt_int(value)


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((2, 31), np.uint64),
        np.ones((2, 33), np.uint64),
        np.ones((2, 16), np.uint64),
        np.ones(32, np.uint64),
        np.ones((1, 2, 32), np.uint64),
        np.ones((2, 32), np.int64),
        np.ones((2, 32), np.float64),
        [[1] * 32],
        b"",
        None,
    ],
    ids=str,
)
def test_rows_of_another_form_are_refused(rows):
    with pytest.raises(DecodeError) as refused:
        public_key().check_rows(rows, sender="site")
    assert (refused.value.rule, refused.value.sender) == ("ciphertext", "site")


@pytest.mark.parametrize("value", [-1, True, 1.0, None, 2**5000])
def test_other_ciphertexts_are_refused(value):
    with pytest.raises(DecodeError) as refused:
        private_key().decrypt_int(value)
    assert refused.value.rule == "ciphertext"


def test_arithmetic_that_cannot_run_is_refused_by_name(monkeypatch):
    key = public_key(2048)
    derived.squares.cache_clear()
    features.bigint_variant.cache_clear()
    monkeypatch.setenv("SECAGG_BIGINT", "abacus")
    with pytest.raises(MisuseError, match="SECAGG_BIGINT") as refused:
        key.squares  # noqa: B018 - the access itself is under test
    assert refused.value.rule == "kernel"
    monkeypatch.delenv("SECAGG_BIGINT")
    assert key.squares.variant == features.bigint_variants()[0]
