"""Fixed keys of safe primes. They are published here: never use them for anything but tests."""

from functools import cache

import pytest

from secagg.attacks.arena.paillier_keys import primes
from secagg_protocols.paillier import PrivateKey, keys
from secagg_protocols.paillier.primes import is_prime


@cache
def private_key(bits=1024, number=0):
    """The fixed key as a PrivateKey, for use by hand; short ones need :func:`short_keys`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "LEAST_BITS", min(bits, keys.LEAST_BITS))
        return PrivateKey(*primes(bits, number), knowledge_proofs=False)


def public_key(bits=1024, number=0):
    """The public half of :func:`private_key`."""
    return private_key(bits, number).public


def prime_after(number):
    """The least odd prime that is not below ``number``."""
    number |= 1
    while not is_prime(number):
        number += 2
    return number


@pytest.fixture(scope="module")
def short_keys():
    """Let a module's tests use keys of 512 bits and more. Import it into the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "LEAST_BITS", 512)
        yield
