"""Proof that a site knows the numbers in its ciphertexts: one challenge for a whole vector.

Without it a site could send another site's ciphertext again, or its negative or a multiple, and
so place in the sum what it does not know.

A row is ``c = (1 + n)^m h_s^x mod n^2`` with a short x (`keys`). The proof is that of Schnorr
(J. Cryptology 4, 1991) in both exponents at once, made non-interactive by hashing (Fiat and
Shamir, CRYPTO 1986), in the form of Damgard, Jurik and Nielsen's proofs (IJIS 9, 2010):

- for each row, alpha is uniform modulo n and beta has ``exponent_bits + 256`` bits, the top one 1;
  the commitment is ``A = (1 + n)^alpha h_s^beta``;
- e is 128 bits of the hash of the context, the key's id, the number of rows, the hash of all c and
  the hash of all A;
- ``z1 = alpha - e m mod n`` and ``z2 = beta - e x`` in the integers, which is never negative.

The proof is e, then all z1, then all z2, little-endian. The verifier computes
``A = (1 + n)^z1 h_s^z2 c^e`` for each row, and the hash must be e.

**It is sound for each row.** Two proofs with the same commitments and challenges e and e' give, for
every row, ``c^(e - e') = (1 + n)^(z1' - z1) h_s^(z2' - z2)``. As h_s is an n-th power, the
plaintext of c is (z1' - z1) / (e - e') modulo n: the difference of the challenges is below 2^128
and so coprime to n, whose factors are longer (`modulus_proof`). One challenge serves all rows
because two answers give the plaintexts of all: whoever lacks that of a single row can answer at
most one challenge. It shows knowledge of the plaintext and no more, neither that it is in a range
nor that its slots are.

**It shows nothing.** z1 is uniform modulo n. z2 depends on x by at most 2^-127 in statistical
distance, since beta is 2^127 times as long as e x. A simulator draws e, z1, z2 and computes A.

**It cannot be moved.** e binds the context, which must hold the round and the site
(:func:`site_context`): a vector that is copied, or derived from another site's, needs a new proof,
and whoever gives one knows its plaintexts. Answers to a given commitment and challenge are unique
modulo the order of h_s, which nobody but the owner of the key knows, so a proof cannot be altered
either (Faust, Kohlweiss, Marson and Venturi, INDOCRYPT 2012).

Only hashes of the rows are kept, and all masks follow from one seed of 32 bytes, so a vector is
proved and checked in batches. Masks and answers are computed in Python's integers, whose time
depends on the lengths of numbers (docs/limitations.md).
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from typing import Final

import numpy as np

from ..errors import DecodeError, MisuseError
from ..keys import SEED_SIZE, digest_of
from ..wire import Buffer
from . import derived
from ._weights import row_bytes
from .keys import PublicKey, Words

#: Bits of the challenge: a false proof passes with a chance of 2^-128 for each hash tried.
CHALLENGE_BITS: Final = 128
#: Bits by which the mask of an exponent exceeds what it hides; its top bit is not random.
MASK_BITS: Final = 128
_CHALLENGE_SIZE: Final = CHALLENGE_BITS // 8
#: Rows that :func:`prove` and :func:`check` take at a time: 0.8 MB of ciphertexts at 3072 bits.
BATCH: Final = 1024

_LABEL: Final = b"secagg paillier knowledge v1"
_SITE_LABEL: Final = b"secagg paillier site v1"
_MASK_LABEL: Final = b"secagg paillier knowledge masks v1"
_TOP: Final = np.uint64(1 << 63)


def _check_context(context: object) -> bytes:
    if not isinstance(context, bytes) or not context:
        raise MisuseError("the context of a proof is bytes, and not empty", rule="proof-context")
    return context


def _check_rows(name: str, rows: object, words: int) -> None:
    """Raise :class:`MisuseError` for another array: its maker is the caller, not a peer."""
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.dtype(np.uint64)
        or rows.ndim != 2
        or rows.shape[1] != words
        or not rows.flags.c_contiguous
    ):
        raise MisuseError(f"{name} must be contiguous uint64 rows of {words} words", rule="rows")


def site_context(context: bytes, site: int) -> bytes:
    """The context of one site's proof (32 bytes), from that of the round and the roster index."""
    return digest_of(_SITE_LABEL, _check_context(context), struct.pack("<I", site))


def _mask_words(key: PublicKey) -> int:
    """Words of beta and z2."""
    return -(-(key.exponent_bits + CHALLENGE_BITS + MASK_BITS) // 64)


def proof_size(key: PublicKey, rows: int) -> int:
    """Bytes of a proof about ``rows`` ciphertexts."""
    return _CHALLENGE_SIZE + 8 * rows * (key.words + _mask_words(key))


class _Statement:
    """What the challenge hashes: the rows and their commitments as they come, and the context."""

    __slots__ = ("_ciphertexts", "_commitments", "context", "done", "key", "rows")

    def __init__(self, key: PublicKey, rows: int, context: bytes) -> None:
        if type(rows) is not int or rows < 1:
            raise MisuseError("a proof is about at least one row", rule="rows")
        self.key, self.rows, self.context = key, rows, _check_context(context)
        self.done = 0
        self._ciphertexts, self._commitments = hashlib.sha256(), hashlib.sha256()

    def check(self, rows: Words) -> None:
        """Raise :class:`MisuseError` unless these rows can be the next ones."""
        _check_rows("ciphertexts", rows, 2 * self.key.words)
        if self.done + len(rows) > self.rows:
            raise MisuseError(f"the proof is about {self.rows} rows only", rule="proof-order")

    def add(self, rows: Words, commitments: Words) -> None:
        self._ciphertexts.update(row_bytes(rows))
        self._commitments.update(row_bytes(commitments))
        self.done += len(rows)

    def challenge(self) -> bytes:
        if self.done != self.rows:
            raise MisuseError(f"{self.done} of {self.rows} rows are there", rule="proof-order")
        return digest_of(
            _LABEL,
            self.context,
            self.key.digest,
            struct.pack("<Q", self.rows),
            self._ciphertexts.digest(),
            self._commitments.digest(),
        )[:_CHALLENGE_SIZE]


class Prover:
    """Proves one vector in two passes over its rows, in batches of any sizes, in order.

    First :meth:`commit` for all ciphertexts, then :meth:`respond` for all messages and exponents,
    whose batches may be other ones, then :meth:`finish`. It keeps the proof, a seed and two hashes.
    A prover answers one challenge and is then spent: two answers under one seed would show the
    messages. :class:`MisuseError` for another order, number or shape of rows.
    """

    __slots__ = ("_answered", "_challenge", "_proof", "_seed", "_statement", "_threads")

    def __init__(
        self,
        key: PublicKey,
        rows: int,
        *,
        context: bytes,
        threads: int = 1,
        seed: bytes | None = None,
    ) -> None:
        """``seed``: 32 secret bytes of this one statement, for a caller that must be able to make
        the same proof again; drawn afresh where absent, as it should be everywhere else."""
        self._statement = _Statement(key, rows, context)
        self._threads = threads
        self._seed = secrets.token_bytes(SEED_SIZE) if seed is None else seed
        if len(self._seed) != SEED_SIZE:
            raise MisuseError(f"a seed has {SEED_SIZE} bytes", rule="proof-order")
        self._challenge = b""
        self._answered = 0
        self._proof = bytearray()

    def __repr__(self) -> str:
        return f"Prover({self._statement.rows} rows, <secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        # A prover that is restored twice would answer two challenges with one seed.
        raise TypeError("a prover holds secrets of one use and is not pickled")

    def commit(self, rows: Words) -> None:
        """Take the next ciphertexts, uint64[c, 2 W]."""
        statement = self._statement
        if self._challenge:
            raise MisuseError("rows come before the answers", rule="proof-order")
        statement.check(rows)
        alphas, betas = self._masks(statement.done, len(rows))
        table = derived.table(statement.key.n, 64 * _mask_words(statement.key))
        statement.add(rows, table.encrypt(betas, alphas, threads=self._threads))

    def _masks(self, start: int, count: int) -> tuple[Words, Words]:
        """alpha [count, W] and beta [count, E] of rows from ``start`` on, the same at each call."""
        key = self._statement.key
        n, size = key.n, 8 * key.words
        # 128 bits more than n has: the remainder is uniform but for 2^-128.
        cut = size + 16
        length = cut + 8 * _mask_words(key)
        alphas, betas = [], []
        for row in range(start, start + count):
            index = struct.pack("<Q", row)
            stream = hashlib.shake_256(_MASK_LABEL + self._seed + index).digest(length)
            alphas.append((int.from_bytes(stream[:cut], "little") % n).to_bytes(size, "little"))
            betas.append(stream[cut:])
        beta = _to_rows(betas, _mask_words(key))
        beta[:, -1] |= _TOP
        return _to_rows(alphas, key.words), beta

    def respond(self, messages: Words, exponents: Words) -> None:
        """Answer for the next rows: messages uint64[c, W], exponents uint64[c, exponent_words]."""
        statement = self._statement
        key, count, start = statement.key, len(messages), self._answered
        _check_rows("messages", messages, key.words)
        _check_rows("exponents", exponents, key.exponent_words)
        if len(exponents) != count or start + count > statement.rows:
            raise MisuseError("one message and one exponent for each row", rule="proof-order")
        if not self._challenge:
            self._challenge = statement.challenge()
            self._proof = bytearray(proof_size(key, statement.rows))
            self._proof[:_CHALLENGE_SIZE] = self._challenge
        e, n = int.from_bytes(self._challenge, "little"), key.n
        alphas, betas = self._masks(start, count)
        size = 8 * key.words
        first = [
            ((alpha - e * message) % n).to_bytes(size, "little")
            for alpha, message in zip(_numbers(alphas), _numbers(messages), strict=True)
        ]
        place = _CHALLENGE_SIZE + start * size
        self._proof[place : place + count * size] = b"".join(first)
        wide = 8 * _mask_words(key)
        second = [
            # beta has its top bit and e x is 127 bits shorter: this is never negative.
            (beta - e * exponent).to_bytes(wide, "little")
            for beta, exponent in zip(_numbers(betas), _numbers(exponents), strict=True)
        ]
        place = _CHALLENGE_SIZE + statement.rows * size + start * wide
        self._proof[place : place + count * wide] = b"".join(second)
        self._answered += count

    def finish(self) -> bytes:
        """The proof, once every row is answered for."""
        if not self._challenge or self._answered != self._statement.rows:
            raise MisuseError("not every row has its answer", rule="proof-order")
        return bytes(self._proof)


class Verifier:
    """Checks the proof of one vector in batches of any sizes, in order.

    ``rows`` is the number of ciphertexts that the plan asks for. :class:`DecodeError` with rule
    ``knowledge`` that names ``sender``: at once for a proof of another size or with a number out
    of range, else by :meth:`finish`. :class:`MisuseError` for another number or shape of rows.
    """

    __slots__ = ("_proof", "_sender", "_statement", "_threads")

    def __init__(
        self,
        key: PublicKey,
        rows: int,
        proof: Buffer,
        *,
        context: bytes,
        sender: str,
        threads: int = 1,
    ) -> None:
        self._statement = _Statement(key, rows, context)
        self._sender, self._threads = sender, threads
        if len(proof) != proof_size(key, rows):
            raise self._refusal("has another size")
        self._proof = memoryview(proof)

    def _refusal(self, text: str) -> DecodeError:
        return DecodeError(
            f"the proof of knowledge of {self._sender} {text}",
            rule="knowledge",
            sender=self._sender,
        )

    def _part(self, start: int, row: int, count: int, words: int) -> Words:
        """Numbers of the proof as rows of ``words``, from ``row`` of the part at ``start`` on."""
        low = start + 8 * words * row
        return _to_rows([self._proof[low : low + 8 * words * count]], words)

    def add(self, rows: Words) -> None:
        """Take the next ciphertexts, uint64[c, 2 W].

        :class:`DecodeError` (rule ``ciphertext``) where one is none: of a row that is 0, every
        power is 0.
        """
        statement = self._statement
        key, done = statement.key, statement.done
        statement.check(rows)
        key.check_rows(rows, sender=self._sender)
        size = 8 * key.words
        z1 = self._part(_CHALLENGE_SIZE, done, len(rows), key.words)
        z2 = self._part(_CHALLENGE_SIZE + size * statement.rows, done, len(rows), _mask_words(key))
        if any(number >= key.n for number in _numbers(z1)):
            raise self._refusal("has an answer that is not below n")
        e = int.from_bytes(self._proof[:_CHALLENGE_SIZE], "little")
        table = derived.table(key.n, 64 * _mask_words(key))
        commitments = key.squares.product(key.squares.power(rows, e, threads=self._threads))
        commitments.multiply(table.encrypt(z2, z1, threads=self._threads), threads=self._threads)
        statement.add(rows, commitments.value())

    def finish(self) -> None:
        """Raise :class:`DecodeError` unless the proof is one of all rows that were added."""
        if self._statement.challenge() != self._proof[:_CHALLENGE_SIZE]:
            raise self._refusal("does not verify")


def _to_rows(parts: list[bytes] | list[memoryview], words: int) -> Words:
    """Little-endian bytes of numbers as writable rows [c, words]."""
    return np.frombuffer(bytearray().join(parts), "<u8").astype(np.uint64).reshape(-1, words)


def _numbers(rows: Words) -> list[int]:
    size, data = 8 * rows.shape[1], row_bytes(rows)
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def prove(
    key: PublicKey,
    rows: Words,
    messages: Words,
    exponents: Words,
    *,
    context: bytes,
    threads: int = 1,
) -> bytes:
    """The proof that its maker knows ``messages``, bound to ``context``.

    rows: the ciphertexts, uint64[c, 2 W]; messages: uint64[c, W], below n; exponents:
    uint64[c, exponent_words]; c >= 1. context: of the round and the site (:func:`site_context`).
    That rows are the encryptions of messages with exponents is not checked: the proof of others
    does not verify. Raises :class:`MisuseError` for other shapes.
    """
    _check_rows("ciphertexts", rows, 2 * key.words)
    if not len(rows) == len(messages) == len(exponents):
        raise MisuseError("one message and one exponent for each row", rule="proof-order")
    prover = Prover(key, len(rows), context=context, threads=threads)
    for start in range(0, len(rows), BATCH):
        prover.commit(rows[start : start + BATCH])
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        prover.respond(messages[part], exponents[part])
    return prover.finish()


def check(
    key: PublicKey,
    rows: Words,
    proof: Buffer,
    *,
    context: bytes,
    sender: str,
    threads: int = 1,
) -> None:
    """Raise :class:`DecodeError` unless ``proof`` is one for these ciphertexts and this context.

    rows: uint64[c, 2 W], c >= 1. The rule is ``knowledge``, or ``ciphertext`` where a row is none.
    """
    _check_rows("ciphertexts", rows, 2 * key.words)
    verifier = Verifier(key, len(rows), proof, context=context, sender=sender, threads=threads)
    for start in range(0, len(rows), BATCH):
        verifier.add(rows[start : start + BATCH])
    verifier.finish()
