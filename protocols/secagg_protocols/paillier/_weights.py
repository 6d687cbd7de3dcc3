"""What the proofs about whole vectors share: digests of rows, and one public weight a row.

A proof about many rows is a proof about one: every row is raised to a weight and the results are
multiplied (Bellare, Garay, Rabin, "Fast batch verification", EUROCRYPT 1998, the small-exponents
test). The weights come from a hash of the whole statement (Fiat-Shamir), so that whoever changes
one bit of one row changes all of them.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from secagg_native import paillier as native

from ..errors import MisuseError
from ..keys import digest_of
from .keys import PublicKey, Words

#: Bits of a weight. A vector with a wrong row passes with a chance of 2^-128 at most, where no
#: group that is tested has an element other than 1 of an order below 2^128.
WEIGHT_BITS: Final = 128
_WEIGHT_WORDS: Final = WEIGHT_BITS // 64


def row_bytes(rows: Words) -> memoryview:
    """The words of rows in order, little-endian: a view, copied on big-endian hosts only."""
    return np.ascontiguousarray(rows, dtype="<u8").reshape(-1).view(np.uint8).data


def number_bytes(value: int, size: int) -> bytes:
    """A non-negative integer as ``size`` little-endian bytes."""
    return value.to_bytes(size, "little")


def row_weights(statement: bytes, count: int) -> Words:
    """Weights uint64[count, 2] of 128 bits, by SHAKE-256 from the digest of the statement."""
    stream = hashlib.shake_256(digest_of(b"secagg paillier weights v1", statement))
    words = np.frombuffer(stream.digest(8 * _WEIGHT_WORDS * count), dtype="<u8")
    return words.astype(np.uint64).reshape(count, _WEIGHT_WORDS)


def weighted_sum(weights: Words, values: Words) -> int:
    """The sum of weights times values (rows of words) in the integers."""
    pairs = zip(native.from_words(weights), native.from_words(values), strict=True)
    return sum(weight * value for weight, value in pairs)


def check_context(context: object) -> None:
    """Raise :class:`MisuseError` unless ``context`` is bytes."""
    if not isinstance(context, bytes):
        raise MisuseError("the context of a proof is bytes", rule="proof-context")


def check_ciphertexts(key: PublicKey, rows: Words) -> Words:
    """``rows`` without gaps in memory, once every one is known to be a ciphertext of ``key``.

    Raises :class:`DecodeError` (``ciphertext``) as :meth:`PublicKey.check_rows` does, naming
    nobody: whose they are is for the caller to know. :class:`MisuseError` where there are none.
    """
    key.check_rows(rows, sender=None)
    if not len(rows):
        raise MisuseError("there is nothing to open", rule="rows")
    return np.require(rows, requirements=["C", "A"])


def is_rows(rows: object, count: int, words: int) -> bool:
    """Whether ``rows`` is an aligned, C-contiguous uint64[count, words]."""
    return (
        isinstance(rows, np.ndarray)
        and rows.dtype == np.dtype(np.uint64)
        and rows.shape == (count, words)
        and rows.flags.c_contiguous
        and rows.flags.aligned
    )
