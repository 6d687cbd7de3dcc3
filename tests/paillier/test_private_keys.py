"""Private keys: every rule refuses its case; roots, storage, generation."""

import copy
import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import MisuseError, PlanError
from secagg_protocols.keys import Identity, seal, unseal
from secagg_protocols.paillier import PrivateKey, generate, keys
from support.paillier_keys import prime_after, private_key, public_key, short_keys  # noqa: F401
from support.paillier_keys import primes as fixed_primes

pytestmark = pytest.mark.usefixtures("short_keys")

P, Q = fixed_primes(1024)
N = P * Q


@settings(max_examples=20, deadline=None)
@given(st.integers(2, N - 1))
def test_the_root_of_an_nth_power_is_found(x):
    key = private_key()
    assert key.nth_root(pow(x, N, N * N)) == x
    assert key.nth_root(pow(x, N, N)) == x


@pytest.mark.parametrize("value", [0, P, 5 * Q, N, 1.5])
def test_what_is_no_unit_has_no_root(value):
    with pytest.raises(MisuseError) as refused:
        private_key().nth_root(value)
    assert refused.value.rule == "root"


BLUM = prime_after(3 * 2**510 + 2**300)


BAD_PRIMES = [
    (float(7), 11, "private-types"),
    (P, str(Q), "private-types"),
    (True, 11, "private-types"),
    (P, prime_after(2**510), "private-length"),
    (P, -Q, "private-length"),
    (0, 0, "private-length"),
    (7, 7, "private-length"),
    (2**127 - 1, 2**127 - 735, "private-length"),
    (prime_after(2**511 + 2**500), prime_after(2**511 + 2**501), "private-length"),
    (prime_after(3 * 2**510), prime_after(3 * 2**510 + 2**411), "private-close"),
    (P, P, "private-close"),
    (P, 3 * 2**510 + 4, "private-prime"),
    (3 * prime_after(2**510), Q, "private-prime"),
    (P, BLUM, "private-safe"),
    (BLUM, Q, "private-safe"),
]


@pytest.mark.parametrize(
    ("p", "q", "rule"),
    BAD_PRIMES,
    ids=[f"{rule}-{i}" for i, (_, _, rule) in enumerate(BAD_PRIMES)],
)
def test_other_primes_are_refused(p, q, rule):
    with pytest.raises(PlanError) as refused:
        PrivateKey(p, q)
    assert refused.value.rule == rule
    assert str(P) not in str(refused.value)


def test_a_modulus_beyond_the_greatest_is_refused_before_its_primes_are_tested():
    with pytest.raises(PlanError) as refused:
        PrivateKey(2**2049 - 1, 2**2049 - 2**2000 - 1)
    assert refused.value.rule == "private-length"


def test_primes_that_are_not_safe_are_used_where_the_caller_says_so():
    key = PrivateKey(P, BLUM, safe=False)
    assert not key.safe
    assert key.decrypt_int(key.public.encrypt_int(99)) == 99
    assert key != PrivateKey(P, Q)


def test_a_private_key_says_nothing_and_is_not_pickled():
    key = private_key()
    for text in (repr(key), str(key), f"{key}"):
        assert str(P) not in text
        assert hex(P)[2:] not in text
        assert len(text) < 80
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            use(key)
    with pytest.raises(AttributeError):
        key.anything = 1


def test_private_keys_are_equal_by_what_they_hold():
    key = private_key()
    again = PrivateKey(P, Q, knowledge_proofs=False)
    assert key == again
    assert hash(key) == hash(again)
    assert key != PrivateKey(P, Q, knowledge_proofs=False, proof=b"proof")
    assert key != PrivateKey(P, Q, knowledge_proofs=False, safe=False)
    assert key != PrivateKey(P, Q)
    assert key != private_key(1024, 1)
    assert key != N


def test_a_private_key_is_stored_sealed():
    identity = Identity.generate("holder")
    key = PrivateKey(P, Q, proof=b"proof")
    sealed = seal(key.to_bytes(), identity)
    assert P.to_bytes(64, "little") not in sealed
    assert PrivateKey.from_bytes(unseal(sealed, identity)) == key
    for use in (True, False):
        read = PrivateKey.from_bytes(PrivateKey(P, Q, knowledge_proofs=use).to_bytes())
        assert read.public.knowledge_proofs is use
    imported = PrivateKey(P, BLUM, safe=False)
    assert PrivateKey.from_bytes(imported.to_bytes()) == imported


def altered_private(**fields):
    values = msgspec.msgpack.decode(private_key().to_bytes())
    names = ["magic", "p", "q", "safe", "proof", "exponent_bits", "knowledge_proofs"]
    return msgspec.msgpack.encode([fields.get(n, v) for n, v in zip(names, values, strict=True)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        private_key().to_bytes() + b"\0",
        private_key().to_bytes()[:-1],
        altered_private(magic="secagg paillier private key 2"),
        altered_private(p=P.to_bytes(65, "little")),
        altered_private(p=P.to_bytes(64, "little") + bytes(300)),
        altered_private(safe=1),
        altered_private(knowledge_proofs=0),
        altered_private(p=3),
        public_key().to_bytes(),
        "text",
    ],
    ids=range(12),
)
def test_other_bytes_are_no_private_key(data):
    with pytest.raises(MisuseError) as refused:
        PrivateKey.from_bytes(data)
    assert refused.value.rule == "key-bytes"
    assert refused.value.__cause__ is None


def test_a_stored_private_key_is_checked():
    with pytest.raises(PlanError) as refused:
        PrivateKey.from_bytes(altered_private(p=(P + 2).to_bytes(64, "little")))
    assert refused.value.rule == "private-prime"
    with pytest.raises(PlanError) as refused:
        PrivateKey.from_bytes(altered_private(p=BLUM.to_bytes(64, "little")))
    assert refused.value.rule == "private-safe"


def test_generated_keys_have_the_stated_length(monkeypatch):
    asked = []

    def safe_primes(bits, *, progress):
        asked.append((bits, progress))
        return fixed_primes(bits)

    monkeypatch.setattr(keys.primes, "safe_primes", safe_primes)
    assert generate().public.bits == 3072
    key = generate(2048, exponent_bits=1024, progress=print)
    assert (key.public.bits, key.public.exponent_bits) == (2048, 1024)
    assert key.public.knowledge_proofs
    assert not generate(2048, knowledge_proofs=False).public.knowledge_proofs
    assert asked == [(3072, None), (2048, print), (2048, None)]
    for bits in (1024, 2047, 8192, "2048"):
        with pytest.raises(PlanError) as refused:
            generate(bits)
        assert refused.value.rule == "modulus-bits"


@pytest.mark.slow
def test_a_key_is_generated():
    seen = []
    key = generate(2048, progress=seen.append)
    assert key.public.bits == 2048
    assert key.safe
    assert seen == sorted(seen)
    assert key.decrypt_int(key.public.encrypt_int(17)) == 17


@pytest.mark.parametrize("bits", [2048.0, "2048", None, True, 1024])
def test_only_some_lengths_are_generated(monkeypatch, bits):
    monkeypatch.setattr(keys.primes, "safe_primes", None)
    with pytest.raises(PlanError) as refused:
        generate(bits)
    assert refused.value.rule == "modulus-bits"
