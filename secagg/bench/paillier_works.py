"""Our own Paillier operations as works to be timed, under the published test keys.

A vector has 32-bit ring elements, and its sums are of ten sites: slots of 36 bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg_native import features, limits
from secagg_native.paillier import Squares
from secagg_protocols.paillier import (
    Ciphertexts,
    FixedPoint,
    KeyShare,
    Layout,
    encrypt,
    knowledge,
    open_with,
    split,
    threshold,
)
from secagg_protocols.paillier.keys import SHORT_EXPONENT

from . import measure, works
from .measure import Work
from .paillier_key import private
from .sheet import NotHereError

Words = npt.NDArray[np.uint64]

SITES: Final = 10
RING_BITS: Final = 32
#: Sums of ten values up to 8 in multiples of 2^-24 need 32 bits.
FIXED: Final = FixedPoint(places=24, limit=8.0)
#: Holders, and how many of them open together.
HOLDERS, THRESHOLD = 5, 4
CONTEXT: Final = bytes(range(32))


def layout(length: int, bits: int) -> Layout:
    """Slots of 36 bits for sums of ten sites."""
    return Layout(bits=RING_BITS, most=SITES, length=length, key_bits=bits)


def bytes_a_number(length: int, bits: int) -> tuple[float, float]:
    """Bytes of an encrypted vector over its numbers, and those that its slots cannot do without."""
    made = encrypted(length, bits)
    return len(made.to_bytes()) / length, made.layout.slot_bits * 2 / 8


def encrypted(length: int, bits: int) -> Ciphertexts:
    """One vector, encrypted."""
    at = layout(length, bits)
    ring = FIXED.encode(works.vector(length), at)
    return encrypt(private(bits).public, ring, at, context=CONTEXT, places=FIXED.places)


def encrypting(length: int, bits: int) -> Work:
    """From floats to bytes: rounding, packing, random exponents, ciphertexts, their check."""
    x, at = works.vector(length), layout(length, bits)
    key = private(bits).public
    _ = key.table

    def work() -> bytes:
        ring = FIXED.encode(x, at)
        made = encrypt(key, ring, at, context=CONTEXT, places=FIXED.places)
        return made.to_bytes()

    return work


def proving(length: int, bits: int) -> Work:
    """From floats to ciphertexts and a proof that their maker knows what is in them."""
    x, at = works.vector(length), layout(length, bits)
    key = private(bits, proofs=True).public
    _ = key.table

    def work() -> bytes:
        plain = at.pack(FIXED.encode(x, at))
        rows, exponents = key.encrypt_rows(plain)
        proof = knowledge.prove(key, rows, plain, exponents, context=CONTEXT)
        return rows.tobytes() + proof

    return work


def packing(length: int, bits: int) -> Work:
    """Rounding and packing alone."""
    x, at = works.vector(length), layout(length, bits)
    return lambda: at.pack(FIXED.encode(x, at))


def drawing(rows: int, bits: int) -> Work:
    """Random exponents alone."""
    key = private(bits).public
    return lambda: key.exponents(rows)


def checking(rows: int, bits: int) -> Work:
    """The check that rows are ciphertexts, alone."""
    key, made = private(bits).public, any_rows(rows, bits)
    return lambda: key.check_rows(made, sender=None)


def adding(length: int, bits: int) -> Work:
    """The encrypted sum of ten vectors: nine additions, and the check of the result.

    Ten times the same vector, under ten names: what is timed does not depend on the values.
    """
    made = encrypted(length, bits)
    vectors = [replace(made, parts=(site.to_bytes(16),)) for site in range(SITES)]
    return lambda: Ciphertexts.sum_of(vectors)


def multiplying(length: int, bits: int) -> Work:
    """One addition into a sum that goes on."""
    rows = encrypted(length, bits).rows
    running = private(bits).public.squares.product(rows)
    return lambda: running.multiply(rows)


def receiving(length: int, bits: int) -> Work:
    """An encrypted vector from its bytes, with every check."""
    key, data = private(bits).public, encrypted(length, bits).to_bytes()
    return lambda: Ciphertexts.from_bytes(key, data)


def opening(length: int, bits: int) -> Work:
    """Floats of an encrypted vector, with the private key.

    Raises ValueError where they are not those that were encrypted.
    """
    key, made = private(bits), encrypted(length, bits)

    def work() -> Any:
        return FIXED.decode(open_with(key, made, single=True), RING_BITS)

    if float(np.abs(work() - works.vector(length)).max()) > 2.0**-FIXED.places:
        raise ValueError("what was opened is not what was encrypted")
    return work


def key_share(bits: int) -> KeyShare:
    """One of five holders' share of the test key, dealt anew."""
    return split(private(bits), HOLDERS, THRESHOLD)[1][0]


def any_rows(count: int, bits: int) -> Words:
    """Ciphertexts of nothing in particular."""
    key = private(bits).public
    return key.table.encrypt(key.exponents(count))


def sharing(count: int, bits: int) -> Work:
    """A holder's share of the decryption of ``count`` ciphertexts, with its proof."""
    share, rows = key_share(bits), any_rows(count, bits)
    return lambda: threshold.partial(share, rows, context=CONTEXT)


def whole_opening(count: int, bits: int) -> Work:
    """The opening of ``count`` ciphertexts by four holders, who are checked, on one core.

    All that holders and server compute for it: four shares, their checks, the combination.
    """
    key, shares = split(private(bits), HOLDERS, THRESHOLD)
    rows = any_rows(count, bits)

    def work() -> Words:
        found = {}
        for share in shares[:THRESHOLD]:
            made, proof = threshold.partial(share, rows, context=CONTEXT)
            threshold.check_partial(
                key, share.index, rows, made, proof, context=CONTEXT, sender="holder"
            )
            found[share.index] = made
        return threshold.combine(key, found)

    if work().any():
        raise ValueError("what was opened is not what was encrypted")
    return work


def time_sharing(rows: int, bits: int, count: int) -> list[float]:
    """What a child does: seconds of shares of ``rows`` ciphertexts, after a short one."""
    sharing(8, bits)()
    work = sharing(rows, bits)
    return [measure.sample(work) for _ in range(count)]


def exponent_of_share(bits: int) -> int:
    """The exponent to which a holder raises each ciphertext (2 Delta s_i)."""
    return 2 * math.factorial(HOLDERS) * key_share(bits).secret


def raising(count: int, bits: int, exponent: int, variant: str) -> Work:
    """``count`` ciphertexts to one power by one variant: the share of a decryption, unproved."""
    squares, rows = Squares(private(bits).public.n, variant=variant), any_rows(count, bits)
    return lambda: squares.power(rows, exponent)


def table_encrypting(count: int, bits: int, variant: str) -> Work:
    """``count`` ciphertexts from plaintexts and exponents by one variant, and nothing else."""
    key = private(bits).public
    table = Squares(key.n, variant=variant).table(key.h_s, key.exponent_bits)
    at = layout(count * layout(1, bits).slots, bits)
    plain = at.pack(FIXED.encode(works.vector(at.length), at))
    exponents = key.exponents(count)
    return lambda: table.encrypt(exponents, plain)


# The limit: instructions of the 52-bit multipliers, each for eight numbers.


def pair_multiply_adds(size: int) -> int:
    """Instructions of a product of pairs of ``size`` digits: three products, two reductions."""
    return 10 * size**2 + 2 * size


def pair_square_adds(size: int) -> int:
    """The same of a square: a triangle, one product, two reductions."""
    return 7 * size**2 + 3 * size


def power_adds(bits: int, exponent: int) -> int:
    """Instructions that raise eight numbers modulo n^2 to a power, conversions not counted."""
    from secagg_native import _ifma

    size = _ifma.digit_count(bits)
    digits, width = _ifma._exponent(exponent)
    products = (1 << width) - 1 + len(digits) - 1
    squares = width * (len(digits) - 1)
    return products * pair_multiply_adds(size) + squares * pair_square_adds(size)


def encrypt_adds(bits: int, exponent_bits: int = SHORT_EXPONENT) -> int:
    """Instructions that encrypt eight plaintexts by the table, conversions not counted."""
    from secagg_native import _ifma
    from secagg_native.kernels import lookup

    size = _ifma.digit_count(bits)
    # One product for each place of the table but the first, and one that attaches the plaintext.
    return -(-exponent_bits // lookup.WIDTH) * pair_multiply_adds(size)


def ifma_limit(instructions: int, *, threads: int = 1) -> Work:
    """52-bit multiplications that never leave the registers.

    Raises NotHereError where the host has no such instructions.
    """
    try:
        limits.ifma_registers(1, threads=threads)
    except RuntimeError as error:
        raise NotHereError(f"no register-only loop: {error}") from None
    return lambda: limits.ifma_registers(instructions, threads=threads)


def need_ifma() -> None:
    """Raise NotHereError unless this process computes with the 52-bit multipliers."""
    found = features.bigint_variant()
    if found != features.IFMA:
        raise NotHereError(f"big integers are computed by {found} and not by {features.IFMA}")


__all__ = [
    "CONTEXT",
    "FIXED",
    "HOLDERS",
    "RING_BITS",
    "SITES",
    "THRESHOLD",
    "adding",
    "any_rows",
    "bytes_a_number",
    "checking",
    "drawing",
    "encrypt_adds",
    "encrypted",
    "encrypting",
    "exponent_of_share",
    "ifma_limit",
    "key_share",
    "layout",
    "multiplying",
    "need_ifma",
    "opening",
    "packing",
    "power_adds",
    "proving",
    "raising",
    "receiving",
    "sharing",
    "table_encrypting",
    "time_sharing",
    "whole_opening",
]
