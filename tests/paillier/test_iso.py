"""The known answers of ISO/IEC 18033-6 (2048 bits): encryption, sum, decryption, root."""

import json
from pathlib import Path

import numpy as np
import pytest

from secagg_native.paillier import from_words, to_words
from secagg_protocols.paillier import PrivateKey

FILE = Path(__file__).parents[1] / "golden" / "paillier_iso18033_6.json"


@pytest.fixture(scope="module")
def vector():
    return {name: int(value, 16) for name, value in json.loads(FILE.read_text()).items()}


@pytest.fixture(scope="module")
def key(vector):
    return PrivateKey(vector["p"], vector["q"], safe=False)


def test_known_messages_encrypt_to_the_known_ciphertexts(vector, key):
    assert key.public.encrypt_int(vector["m1"], vector["r0"]) == vector["c1"]
    assert key.public.encrypt_int(vector["m2"], vector["r1"]) == vector["c2"]


def test_the_product_of_the_known_ciphertexts_is_the_known_one(vector, key):
    words = 2 * key.public.words
    running = key.public.squares.product(to_words([vector["c1"]], words))
    running.multiply(to_words([vector["c2"]], words))
    assert from_words(running.value()) == [vector["c1c2"]]


def test_the_known_ciphertexts_open_to_the_known_messages(vector, key):
    for ciphertext, message in [("c1", "m1"), ("c2", "m2"), ("c1c2", "m1m2")]:
        assert key.decrypt_int(vector[ciphertext]) == vector[message]
    rows = to_words([vector["c1"], vector["c2"]], 2 * key.public.words)
    expected = to_words([vector["m1"], vector["m2"]], key.public.words)
    np.testing.assert_array_equal(key.decrypt(rows), expected)
    assert vector["m1m2"] == vector["m1"] + vector["m2"]


def test_the_root_of_a_known_ciphertext_is_the_known_r(vector, key):
    n = key.public.n
    for ciphertext, message, r in [("c1", "m1", "r0"), ("c2", "m2", "r1")]:
        power = vector[ciphertext] * pow(1 + n, -vector[message], n * n) % (n * n)
        assert key.nth_root(power) == vector[r] % n
