"""Public keys as bytes: one encoding for each, everything else is refused."""

import copy
import dataclasses
import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import DecodeError, PlanError, SecAggError
from secagg_protocols.paillier import PublicKey, keys
from support.paillier_keys import prime_after, private_key, public_key, short_keys  # noqa: F401
from support.paillier_keys import primes as fixed_primes

pytestmark = pytest.mark.usefixtures("short_keys")

P, Q = fixed_primes(1024)
N = P * Q
SQUARES = tuple(pow(x, 2, N * N) for x in (3, 5, 7, 11, 13))


FORMS = [
    PublicKey(public_key(2048).n),
    PublicKey(public_key(2048).n, exponent_bits=1024, proof=b"proof"),
    public_key(4096),
    PublicKey(public_key(2048).n, knowledge_proofs=True),
]


def threshold_key():
    return PublicKey(N, threshold=3, base=SQUARES[0], verification=SQUARES[1:], proof=bytes(99))


@pytest.mark.parametrize(
    "form", [*FORMS, None], ids=["2048", "half", "4096", "proofs", "threshold"]
)
def test_public_keys_travel(form):
    key = form or threshold_key()
    for again in (
        PublicKey.from_bytes(key.to_bytes()),
        pickle.loads(pickle.dumps(key)),  # noqa: S301
        copy.deepcopy(key),
        dataclasses.replace(key),
    ):
        assert again == key
        assert hash(again) == hash(key)
        assert again.digest == key.digest
    assert key.to_bytes() == msgspec.msgpack.encode(key.canonical())


def test_a_public_key_is_frozen_and_its_text_is_short():
    key = threshold_key()
    with pytest.raises(dataclasses.FrozenInstanceError):
        key.n = 5
    assert repr(key).startswith("PublicKey(bits=1024, threshold=3, holders=4, digest=")
    assert len(repr(key)) < 90


def test_a_pickled_key_is_checked(monkeypatch):
    data = pickle.dumps(public_key())
    monkeypatch.setattr(keys, "LEAST_BITS", 2048)
    with pytest.raises(PlanError):
        pickle.loads(data)  # noqa: S301


NAMES = [
    "magic", "n", "threshold", "base", "verification", "proof", "exponent_bits", "knowledge_proofs",
]  # fmt: skip


def altered(**fields):
    values = threshold_key().canonical()
    return [fields.get(name, value) for name, value in zip(NAMES, values, strict=True)]


SIZE = 256
ALTERED = {
    "magic": {"magic": "secagg paillier public key 2"},
    "long-n": {"n": N.to_bytes(129, "little")},
    "very-long-n": {"n": N.to_bytes(600, "little")},
    "long-base": {"base": SQUARES[0].to_bytes(SIZE + 1, "little")},
    "short-base": {"base": SQUARES[0].to_bytes(2, "little")},
    "long-value": {"verification": [v.to_bytes(SIZE + 1, "little") for v in SQUARES[1:]]},
    "too-many": {"verification": [v.to_bytes(SIZE, "little") for v in SQUARES] * 20},
    "bool": {"threshold": True},
    "float": {"threshold": 3.0},
    "number": {"verification": [1, 2, 3, 4]},
    "text": {"proof": "x" * 99},
    "nil": {"base": None},
    "use-number": {"knowledge_proofs": 1},
    "use-nil": {"knowledge_proofs": None},
}


@pytest.mark.parametrize("fields", ALTERED.values(), ids=ALTERED)
def test_other_encodings_of_public_keys_are_refused(fields):
    PublicKey.from_bytes(msgspec.msgpack.encode(altered()))
    with pytest.raises(DecodeError) as refused:
        PublicKey.from_bytes(msgspec.msgpack.encode(altered(**fields)))
    assert refused.value.rule == "key-bytes"


def test_a_key_for_another_use_is_another_key():
    """What one use protects the other would open, so their ids and their bytes differ."""
    proven = threshold_key()
    by_hand = dataclasses.replace(proven, knowledge_proofs=False)
    assert proven.knowledge_proofs  # the safe use is the default
    assert (proven.n, proven.verification) == (by_hand.n, by_hand.verification)
    assert proven != by_hand
    assert proven.digest != by_hand.digest
    assert altered(knowledge_proofs=False) == by_hand.canonical()
    read = PublicKey.from_bytes(by_hand.to_bytes())
    assert (read, read.knowledge_proofs, read.digest) == (by_hand, False, by_hand.digest)


def test_an_older_encoding_without_the_use_is_refused():
    """It comes last, so that nothing is read as a key for a use that it was not made for."""
    assert NAMES[-1] == "knowledge_proofs"
    with pytest.raises(DecodeError) as refused:
        PublicKey.from_bytes(msgspec.msgpack.encode(altered()[:-1]))
    assert refused.value.rule == "key-bytes"


def test_bytes_that_are_no_canonical_public_key_are_refused():
    data = threshold_key().to_bytes()
    # 0xcd 0x00 0x03 is a longer form of the number 3.
    modulus_end = N.to_bytes(128, "little")[-8:]
    longer = data.replace(modulus_end + b"\x03", modulus_end + b"\xcd\x00\x03")
    assert len(longer) == len(data) + 2
    wrong = [b"", b"\x90", data[:-1], data + b"\0", longer, private_key().to_bytes(), "text"]
    wrong.append(msgspec.msgpack.encode([*altered(), 5]))
    wrong.append(msgspec.msgpack.encode(altered()[:-1]))
    for changed in wrong:
        with pytest.raises(DecodeError) as refused:
            PublicKey.from_bytes(changed)
        assert refused.value.rule == "key-bytes"


def test_a_stored_public_key_is_checked():
    for fields, rule in [
        ({"n": (N + 1).to_bytes(128, "little")}, "modulus-odd"),
        ({"threshold": 9}, "key-threshold"),
        ({"threshold": -1}, "key-threshold"),
        ({"exponent_bits": 448}, "exponent-bits"),
    ]:
        with pytest.raises(PlanError) as refused:
            PublicKey.from_bytes(msgspec.msgpack.encode(altered(**fields)))
        assert refused.value.rule == rule


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_another_key(data):
    key = threshold_key()
    good = key.to_bytes()
    place = data.draw(st.integers(0, len(good) - 1) | st.integers(0, 40))
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        read = PublicKey.from_bytes(bytes(changed))
    except SecAggError as error:
        assert error.rule
    else:
        assert read.to_bytes() == changed
        assert read != key
        assert read.digest != key.digest
