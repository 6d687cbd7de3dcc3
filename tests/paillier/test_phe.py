"""python-paillier opens our ciphertexts, and we open its: one scheme, two libraries."""

import numpy as np
import phe
import pytest

from secagg_native.paillier import from_words, to_words
from secagg_protocols.errors import PlanError
from secagg_protocols.paillier import PrivateKey
from support.paillier_keys import private_key, short_keys  # noqa: F401

pytestmark = pytest.mark.usefixtures("short_keys")

SCALE = 16**7
FLOATS = [0.0, 1.0, -1.0, 3.25, -7.999, 1e-6, 123456.75]


@pytest.fixture(scope="module", params=["ours", "theirs"])
def pair(request, short_keys):  # noqa: F811
    """(our key, its phe form): a fixed key of safe primes, and a key that phe generates."""
    if request.param == "ours":
        ours = private_key()
        public = phe.PaillierPublicKey(ours.public.n)
        return ours, phe.PaillierPrivateKey(public, ours.p, ours.q)
    _, theirs = phe.generate_paillier_keypair(n_length=1024)
    return PrivateKey(int(theirs.p), int(theirs.q), safe=False), theirs


def test_phe_opens_our_rows(pair):
    ours, theirs = pair
    n = ours.public.n
    messages = [0, 1, 2**64, n // 3, n - 1]
    rows, _ = ours.public.encrypt_rows(to_words(messages, ours.public.words))
    again = ours.public.rerandomise(rows)
    for form in (rows, again):
        assert [theirs.raw_decrypt(value) for value in from_words(form)] == messages
    assert theirs.raw_decrypt(ours.public.encrypt_int(n - 5)) == n - 5


def test_we_open_what_phe_encrypts(pair):
    ours, theirs = pair
    n = ours.public.n
    messages = [0, 1, 2**64, n // 3, n - 1]
    rows = [int(theirs.public_key.raw_encrypt(message)) for message in messages]
    opened = ours.decrypt(to_words(rows, 2 * ours.public.words))
    assert from_words(opened) == messages
    assert ours.decrypt_int(rows[3]) == n // 3


def test_the_same_r_gives_the_same_ciphertext(pair):
    ours, theirs = pair
    assert ours.public.encrypt_int(42, 1234567) == theirs.public_key.raw_encrypt(42, 1234567)


def test_phe_reads_our_scaled_floats_and_adds_its_own(pair):
    ours, theirs = pair
    n = ours.public.n
    scaled = [round(value * SCALE) % n for value in FLOATS]
    rows, _ = ours.public.encrypt_rows(to_words(scaled, ours.public.words))
    for value, ciphertext in zip(FLOATS, from_words(rows), strict=True):
        number = phe.EncryptedNumber(theirs.public_key, ciphertext, -7)
        assert theirs.decrypt(number) == pytest.approx(value, abs=0.5 / SCALE)
        total = number + theirs.public_key.encrypt(0.5, precision=1 / SCALE)
        assert theirs.decrypt(total) == pytest.approx(value + 0.5, abs=0.5 / SCALE)


def test_we_read_the_floats_of_phe(pair):
    ours, theirs = pair
    n = ours.public.n
    for value in FLOATS:
        number = theirs.public_key.encrypt(value, precision=1 / SCALE)
        assert number.exponent == -7
        opened = ours.decrypt_int(number.ciphertext())
        signed = opened - n if opened > n // 2 else opened
        assert signed == round(value * SCALE)


def test_sums_of_both_libraries_agree(pair):
    ours, theirs = pair
    words = ours.public.words
    first, _ = ours.public.encrypt_rows(to_words([11, 2**500], words))
    second = [int(theirs.public_key.raw_encrypt(message)) for message in (31, 7)]
    running = ours.public.squares.product(first)
    running.multiply(to_words(second, 2 * words))
    np.testing.assert_array_equal(ours.decrypt(running.value()), to_words([42, 2**500 + 7], words))
    assert [theirs.raw_decrypt(value) for value in from_words(running.value())] == [42, 2**500 + 7]


def test_a_key_of_phe_is_refused_as_a_key_of_safe_primes():
    _, theirs = phe.generate_paillier_keypair(n_length=1024)
    with pytest.raises(PlanError) as refused:
        PrivateKey(int(theirs.p), int(theirs.q))
    assert refused.value.rule == "private-safe"
