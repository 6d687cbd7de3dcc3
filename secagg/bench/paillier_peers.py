"""Public packages for Paillier sums, and one for sums in lattices, as works to be timed.

All Paillier peers get the published test key, but for pypaillier's private one, which it only makes
itself. Every peer encrypts floats where it takes them, and integers of 32 bits where it does not.
Each is checked once to give the right sum before it is timed.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from . import works
from .measure import Work
from .paillier_key import PRIMES
from .paillier_works import FIXED, HOLDERS, THRESHOLD

#: What is timed of a peer, in the order of the table.
OPERATIONS: Final = ("encrypt", "add", "decrypt", "share", "whole opening")
_STEP: Final = 2.0**-FIXED.places
_SLACK: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer with a key and some encrypted numbers.

    works: operation -> what runs it, and how many numbers a call handles. size: bytes a number of
    what it encrypts. note: what the reader of the table should know.
    """

    works: Mapping[str, tuple[Work, int]]
    size: float
    note: str = ""


def _load(module: str) -> Any:
    """A module that the type checker's environment may lack."""
    return import_module(module)


def _primes(bits: int) -> tuple[int, int]:
    p, q = PRIMES[bits]
    return int(p, 16), int(q, 16)


def _numbers(count: int) -> list[float]:
    """Multiples of 2^-24, which every encoding takes exactly."""
    return [math.floor(float(x) / _STEP) * _STEP for x in works.vector(count)]


def _levels(count: int) -> list[int]:
    """The same as integers from 0 up, for peers that take no floats."""
    return [int(x / _STEP) + (1 << 28) for x in _numbers(count)]


def _require(name: str, found: float, wanted: float) -> None:
    if abs(found - wanted) > _SLACK * max(1.0, abs(wanted)):
        raise ValueError(f"{name} gave {found} for a sum of {wanted}")


def _quietly(work: Work) -> Work:
    """The same work with its warnings unsaid."""

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()

    return run


def phe(count: int, bits: int) -> Peer:
    """phe with gmpy2; one fixed precision, so that additions find equal exponents."""
    paillier = _load("phe.paillier")

    p, q = _primes(bits)
    key = paillier.PaillierPublicKey(p * q)
    private = paillier.PaillierPrivateKey(key, p, q)
    x = _numbers(count)
    made = [key.encrypt(value, precision=_STEP) for value in x]
    _require("phe", private.decrypt(made[0] + made[-1]), x[0] + x[-1])
    return Peer(
        {
            "encrypt": (lambda: [key.encrypt(value, precision=_STEP) for value in x], count),
            "add": (lambda: [one + one for one in made], count),
            "decrypt": (lambda: [private.decrypt(one) for one in made], count),
        },
        2 * bits / 8,
        "its ciphertexts carry an exponent that depends on the precision",
    )


def pypaillier(count: int, bits: int) -> Peer:
    """pypaillier on one core, under a key of its own: it takes no primes."""
    # Its threads are counted when the first work is given to them.
    os.environ["RAYON_NUM_THREADS"] = "1"
    paillier = _load("paillier")

    key, private = paillier.generate_keypair(bits)
    x = _numbers(count)
    made = [bytes(one) for one in paillier.encrypt_many(key, x)]
    total = bytes(paillier.add_many(key, [made[0], made[-1]]))
    _require("pypaillier", paillier.decrypt(private, total), x[0] + x[-1])
    return Peer(
        {
            "encrypt": (lambda: paillier.encrypt_many(key, x), count),
            "add": (lambda: paillier.add_many(key, made), count - 1),
            "decrypt": (lambda: [paillier.decrypt(private, one) for one in made], count),
        },
        len(made[0]),
        f"random exponents of {key.exponent_bits} bits; one thread (RAYON_NUM_THREADS)",
    )


def damgard_jurik(count: int, bits: int) -> Peer:
    """damgard-jurik with s = 1, four of five shares of the key. It takes integers."""
    crypto, shamir = _load("damgard_jurik.crypto"), _load("damgard_jurik.shamir")

    p, q = _primes(bits)
    n, half = p * q, (p // 2) * (q // 2)
    key = crypto.PublicKey(n=n, s=1, m=half, threshold=THRESHOLD, delta=math.factorial(HOLDERS))
    dealt = shamir.share_secret(
        secret=half * pow(half, -1, n), modulus=n * half, threshold=THRESHOLD, n_shares=HOLDERS
    )
    shares = [crypto.PrivateKeyShare(public_key=key, i=i, s_i=value) for i, value in dealt]
    ring = crypto.PrivateKeyRing(private_key_shares=shares[:THRESHOLD])
    x = _levels(count)
    made = key.encrypt_list(x)
    _require("damgard-jurik", int(ring.decrypt(made[0] + made[-1])), x[0] + x[-1])
    return Peer(
        {
            "encrypt": (lambda: key.encrypt_list(x), count),
            "add": (lambda: [one + one for one in made], count),
            "share": (lambda: [shares[0].decrypt(one) for one in made], count),
            "whole opening": (lambda: ring.decrypt_list(made), count),
        },
        2 * bits / 8,
        "integers; no proofs of shares; its public key holds p'q', which opens everything",
    )


def lightphe(count: int, bits: int) -> Peer:
    """LightPHE's Paillier. Integers: its tensors of floats take about twice as long."""
    # It logs to the terminal what it was asked for.
    os.environ.setdefault("LIGHTPHE_LOG_LEVEL", "40")
    library = _load("lightphe")

    p, q = _primes(bits)
    n = p * q
    keys = {"private_key": {"phi": (p - 1) * (q - 1)}, "public_key": {"g": n + 1, "n": n}}
    scheme = library.LightPHE("Paillier", keys=keys)
    x = _levels(count)
    made = [scheme.encrypt(value) for value in x]
    _require("lightphe", scheme.decrypt(made[0] + made[-1]), x[0] + x[-1])
    return Peer(
        {
            "encrypt": (lambda: [scheme.encrypt(value) for value in x], count),
            "add": (lambda: [one + one for one in made], count),
            "decrypt": (lambda: [scheme.decrypt(one) for one in made], count),
        },
        2 * bits / 8,
        "integers; randomness from Python's random module",
    )


def tno(count: int, bits: int) -> Peer:
    """TNO's Paillier, which rounds to decimal places and decrypts without the two primes."""
    library = _load("tno.mpc.encryption_schemes.paillier")

    p, q = _primes(bits)
    n, order = p * q, (p - 1) * (q - 1)
    scheme = library.Paillier(
        library.PaillierPublicKey(n, n + 1),
        library.PaillierSecretKey(order, pow(order, -1, n), n),
        precision=8,
    )
    x = _numbers(count)

    with warnings.catch_warnings():
        # It warns where numbers are drawn or added one by one, as they are here.
        warnings.simplefilter("ignore")
        made = [scheme.encrypt(value) for value in x]
        _require("tno", float(scheme.decrypt(made[0] + made[-1])), x[0] + x[-1])
    return Peer(
        {
            "encrypt": (_quietly(lambda: [scheme.encrypt(value) for value in x]), count),
            "add": (_quietly(lambda: [one + one for one in made]), count),
            "decrypt": (lambda: [scheme.decrypt(one) for one in made], count),
        },
        2 * bits / 8,
        "decimal places; primes from sympy's generator",
    )


def tenseal(count: int, bits: int) -> Peer:
    """TenSEAL's CKKS: approximate sums in a lattice, one key. ``bits`` says nothing here."""
    library = _load("tenseal")

    context = library.context(
        library.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 60],
        n_threads=1,
    )
    context.global_scale = 2**40
    x = _numbers(4096)
    made = library.ckks_vector(context, x)
    _require("tenseal", (made + made).decrypt()[0], 2 * x[0])
    return Peer(
        {
            "encrypt": (lambda: library.ckks_vector(context, x), len(x)),
            "add": (lambda: made + made, len(x)),
            "decrypt": (made.decrypt, len(x)),
        },
        len(made.serialize()) / len(x),
        "CKKS 8192 [60, 40, 60]: a lattice, sums are approximate, one key opens",
    )


#: Package -> what makes a peer of it from a count of numbers and the bits of the key.
MAKERS: Final[dict[str, Callable[[int, int], Peer]]] = {
    "phe": phe,
    "pypaillier": pypaillier,
    "tno-mpc-encryption-schemes-paillier": tno,
    "damgard-jurik": damgard_jurik,
    "lightphe": lightphe,
    "tenseal": tenseal,
}
#: Numbers a sample, where that is fewer than others': these take a quarter of a second a number.
FEWER: Final = {"lightphe": 2, "damgard-jurik": 2}


def make(package: str, count: int, bits: int) -> Peer:
    """A peer, imported without the warnings that its dependencies give to its authors.

    Raises ValueError where it gives a wrong sum.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = MAKERS[package](min(count, FEWER.get(package, count)), bits)
    # TNO's scheme says so when it is deleted, which is long after this.
    warnings.filterwarnings("ignore", message="Generated .* randomness on the fly")
    return made


__all__ = ["FEWER", "MAKERS", "OPERATIONS", "Peer", "make"]
