"""Public keys of Paillier's scheme: checks, encryption of rows, canonical bytes.

Paillier (EUROCRYPT 1999) with g = n + 1: a ciphertext of m is ``(1 + m n) r^n mod n^2``. Rows are
encrypted with short exponents (Damgard, Jurik and Nielsen, Int. J. Inf. Secur. 9, 2010, section 4):
the n-th power is ``h_s^a`` for a random a of ``exponent_bits`` bits, where ``h_s = h^n`` and
``h = -x^2 mod n``. Such a ciphertext is an ordinary one of Paillier's. x follows from n by a hash;
h_s is never taken from a file, because its order cannot be checked.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from secagg_native.paillier import Factored, FixedBase, Squares, from_words, to_words

from ..errors import DecodeError, MisuseError
from ..keys import digest_of
from . import derived, modulus, modulus_proof, primes

Words = npt.NDArray[np.uint64]

#: Lengths of a modulus: 112 and 128 bits of security (NIST SP 800-57, part 1), and more.
BITS: Final = (2048, 3072, 4096)
#: A test may lower this to use shorter keys, whose length is then a multiple of 64 bits.
LEAST_BITS: int = BITS[0]
#: Bits of a random exponent. The best known attack on k bits takes 2^(k/2) steps, so these are
#: more than any modulus here needs; half of the modulus, also allowed, is the paper's choice.
SHORT_EXPONENT: Final = 512
MOST_HOLDERS: Final = 64
#: A proof about a modulus is far below this; the limit bounds what a peer makes one hash.
MOST_PROOF: Final = 1 << 20
_LEAST_PRODUCT: Final = 256

_LABEL: Final = b"secagg paillier key v1"
_MAGIC: Final = "secagg paillier public key 1"
_PRIVATE_MAGIC: Final = "secagg paillier private key 1"


class _Fields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels of a public key: numbers as little-endian bytes of fixed length."""

    magic: str
    n: bytes
    threshold: int
    base: bytes
    verification: list[bytes]
    proof: bytes
    exponent_bits: int
    knowledge_proofs: bool


class _PrivateFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is stored of a private key: numbers as little-endian bytes of fixed length."""

    magic: str
    p: bytes
    q: bytes
    safe: bool
    proof: bytes
    exponent_bits: int
    knowledge_proofs: bool


@dataclass(frozen=True, slots=True, repr=False)
class PublicKey:
    """A modulus, and who can open what is encrypted under it. Valid once constructed.

    n: product of two primes, of 2048, 3072 or 4096 bits.
    threshold: how many holders open together; 1 in one-key mode.
    base: base of the verification values, a square modulo n^2; 0 in one-key mode.
    verification: each holder's verification value, a square modulo n^2; empty in one-key mode.
    proof: the owner's proof about the modulus, which ``modulus_proof`` checks; may be empty.
    exponent_bits: length of a ciphertext's random exponent: 512, or half of the modulus.
    knowledge_proofs: whether what is opened under this key comes with proofs that its senders
        know what they encrypted. It is of the key and not of a plan, since ciphertexts that one
        plan protects by proofs could be opened under another plan that asks for none.

    Raises :class:`PlanError` naming the broken rule: ``key-types``, ``modulus-bits``,
    ``exponent-bits``, those of ``modulus.py``, and ``key-threshold``.
    """

    n: int
    threshold: int = 1
    base: int = 0
    verification: tuple[int, ...] = ()
    proof: bytes = b""
    exponent_bits: int = SHORT_EXPONENT
    knowledge_proofs: bool = True

    def __post_init__(self) -> None:
        self._check_types()
        self._check_bits()
        modulus.check(self.n)
        self._check_threshold()

    def _check_types(self) -> None:
        # A bool is an int to isinstance, and arithmetic with numpy's integers overflows.
        numbers: Sequence[object] = (self.n, self.threshold, self.base, self.exponent_bits)
        if not isinstance(self.verification, tuple) or not isinstance(self.proof, bytes):
            raise modulus.refusal(
                "verification values are a tuple, and a proof is bytes", "key-types"
            )
        if type(self.knowledge_proofs) is not bool:
            raise modulus.refusal("knowledge_proofs is a bool", "key-types")
        if any(type(number) is not int for number in (*numbers, *self.verification)):
            raise modulus.refusal("the numbers of a key are ints", "key-types")
        if len(self.proof) > MOST_PROOF:
            raise modulus.refusal(
                f"a proof about the modulus has at most {MOST_PROOF} bytes", "key-types"
            )

    def _check_bits(self) -> None:
        bits = self.n.bit_length()
        tests_only = LEAST_BITS <= bits < BITS[0] and bits % 64 == 0
        if self.n <= 0 or (bits not in BITS and not tests_only):
            raise modulus.refusal(
                f"a modulus has {', '.join(map(str, BITS))} bits; this one has {bits}",
                "modulus-bits",
            )
        if self.exponent_bits not in (SHORT_EXPONENT, bits // 2):
            raise modulus.refusal(
                f"the exponents have {SHORT_EXPONENT} bits or half of the modulus, {bits // 2}, "
                f"not {self.exponent_bits}",
                "exponent-bits",
            )

    def _check_threshold(self) -> None:
        holders = len(self.verification)
        if not holders:
            if self.threshold != 1 or self.base != 0:
                raise modulus.refusal(
                    "without verification values there is one key: threshold 1 and no base",
                    "key-threshold",
                )
            return
        if holders > MOST_HOLDERS or not 1 <= self.threshold <= holders:
            raise modulus.refusal(
                f"{self.threshold} of {holders} holders: the threshold is from 1 to the number "
                f"of holders, which is at most {MOST_HOLDERS}",
                "key-threshold",
            )
        square = self.n * self.n
        for value in (self.base, *self.verification):
            # Nobody without the factors can tell squares; all have Jacobi symbol 1.
            # The symbol is 0 where the value is not coprime to n. 1 and -1 would verify nothing.
            if not 1 < value < square - 1 or modulus.jacobi(value, self.n) != 1:
                raise modulus.refusal(
                    "a verification value or its base is no square modulo n^2", "key-threshold"
                )
        # With threshold 1 all holders have the same share, and so the same value.
        if self.threshold > 1 and len(set(self.verification)) != holders:
            raise modulus.refusal("two holders have the same verification value", "key-threshold")

    @property
    def bits(self) -> int:
        """Length of the modulus in bits."""
        return self.n.bit_length()

    @property
    def words(self) -> int:
        """Words of 64 bits of the modulus; a ciphertext has twice as many."""
        return self.n.bit_length() // 64

    @property
    def exponent_words(self) -> int:
        """Words of 64 bits of a random exponent."""
        return self.exponent_bits // 64

    @property
    def holders(self) -> int:
        """Number of holders of the secret key's shares; 1 in one-key mode."""
        return len(self.verification) or 1

    @property
    def squares(self) -> Squares:
        """Arithmetic modulo n^2, made once for a modulus."""
        return derived.squares(self.n)

    @property
    def h(self) -> int:
        """h = -x^2 mod n of Damgard, Jurik and Nielsen, where x is a hash of n."""
        return derived.bases(self.n)[0]

    @property
    def h_s(self) -> int:
        """h^n mod n^2, whose powers are the random factors of ciphertexts."""
        return derived.bases(self.n)[1]

    @property
    def table(self) -> FixedBase:
        """Powers of ``h_s`` for exponents of ``exponent_bits`` bits, with constant addresses."""
        return derived.table(self.n, self.exponent_bits)

    @property
    def digest(self) -> bytes:
        """The key's id: SHA-256 over its canonical values, 32 bytes."""
        return digest_of(_LABEL, self.to_bytes())

    def check_rows(self, rows: Words, *, sender: str | None) -> None:
        """Raise :class:`DecodeError` unless every row is a ciphertext.

        That is a number below n^2 that shares no factor with n.

        rows: 2 W words each, from ``sender``, who is to blame.
        """
        if (
            not isinstance(rows, np.ndarray)
            or rows.dtype != np.uint64
            or rows.ndim != 2
            or rows.shape[1] != 2 * self.words
        ):
            raise DecodeError(
                f"ciphertexts are rows of {2 * self.words} words of 64 bits",
                rule="ciphertext",
                sender=sender,
            )
        bad = self.squares.faulty(np.ascontiguousarray(rows))
        if bad is not None:
            raise DecodeError(
                f"row {bad} is no ciphertext of this key", rule="ciphertext", sender=sender
            )

    def encrypt_int(self, message: int, r: int | None = None) -> int:
        """``(1 + message n) r^n mod n^2``, as Paillier's paper has it: one number, slowly.

        message: from 0 to n - 1. r: coprime to n and from 1 to n - 1; drawn afresh where absent,
        which is the only safe use but for known answers.
        """
        n = self.n
        if type(message) is not int or not 0 <= message < n:
            raise MisuseError("a message is an int from 0 to n - 1", rule="message")
        if r is None:
            r = 1 + secrets.randbelow(n - 1)
        if type(r) is not int or not 0 < r < n or math.gcd(r, n) != 1:
            raise MisuseError("r is an int from 1 to n - 1, coprime to n", rule="message")
        blind = from_words(self.squares.power(to_words([r], 2 * self.words), n))[0]
        return (1 + message * n) * blind % (n * n)

    def encrypt_rows(self, messages: Words, *, threads: int = 1) -> tuple[Words, Words]:
        """Ciphertexts of ``messages`` and the random exponents in them.

        messages: [rows, W] words, each row below n.
        Returns ([rows, 2 W], [rows, exponent_words]); the exponents are secret, and only the
        proof of knowledge has use for them.
        """
        if (
            not isinstance(messages, np.ndarray)
            or messages.dtype != np.uint64
            or messages.ndim != 2
            or messages.shape[1] != self.words
        ):
            raise MisuseError(f"messages are rows of {self.words} words of 64 bits", rule="message")
        exponents = self.exponents(len(messages))
        try:
            rows = self.table.encrypt(exponents, np.ascontiguousarray(messages), threads=threads)
        except ValueError as error:
            # The native text names no value, and the cause would hold the messages.
            raise MisuseError(str(error), rule="message") from None
        return rows, exponents

    def exponents(self, rows: int) -> Words:
        """Fresh random exponents: [rows, exponent_words], all bits from the system's generator."""
        words = self.exponent_words
        drawn = bytearray(secrets.token_bytes(8 * words * rows))
        return np.frombuffer(drawn, dtype=np.uint64).reshape(rows, words)

    def rerandomise(self, rows: Words, *, threads: int = 1) -> Words:
        """Fresh ciphertexts of the same messages, which nobody can link to ``rows``.

        rows: [rows, 2 W] words. Raises :class:`DecodeError` (``ciphertext``) where one is none.
        """
        self.check_rows(rows, sender=None)
        running = self.squares.product(np.ascontiguousarray(rows))
        running.multiply(self.table.encrypt(self.exponents(len(rows)), threads=threads))
        return running.value()

    def canonical(self) -> list[Any]:
        """Plain values whose msgpack form is the canonical encoding."""
        size = 16 * self.words
        return [
            _MAGIC,
            self.n.to_bytes(size // 2, "little"),
            self.threshold,
            self.base.to_bytes(size, "little") if self.verification else b"",
            [value.to_bytes(size, "little") for value in self.verification],
            self.proof,
            self.exponent_bits,
            self.knowledge_proofs,
        ]

    def to_bytes(self) -> bytes:
        """Canonical msgpack, which :meth:`from_bytes` reads."""
        return msgspec.msgpack.encode(self.canonical())

    @classmethod
    def from_bytes(cls, data: bytes) -> PublicKey:
        """The key in ``data``.

        Raises :class:`DecodeError` (``key-bytes``) where it is not the canonical encoding of a key,
        and :class:`PlanError` where the key is refused.
        """
        try:
            fields = msgspec.msgpack.decode(data, type=_Fields)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError, OverflowError):
            raise DecodeError("this is not a public key", rule="key-bytes") from None
        if fields.magic != _MAGIC or len(fields.n) > BITS[-1] // 8:
            raise DecodeError("this is not a public key", rule="key-bytes")
        if len(fields.verification) > MOST_HOLDERS:
            raise DecodeError("a public key with too many holders", rule="key-bytes")
        key = cls(
            n=int.from_bytes(fields.n, "little"),
            threshold=fields.threshold,
            base=int.from_bytes(fields.base, "little"),
            verification=tuple(int.from_bytes(v, "little") for v in fields.verification),
            proof=fields.proof,
            exponent_bits=fields.exponent_bits,
            knowledge_proofs=fields.knowledge_proofs,
        )
        if key.to_bytes() != data:
            raise DecodeError("a public key that is not canonically encoded", rule="key-bytes")
        return key

    def __repr__(self) -> str:
        return (
            f"PublicKey(bits={self.bits}, threshold={self.threshold}, holders={self.holders}, "
            f"digest={self.digest.hex()[:16]}...)"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # A key that is loaded is checked like any other.
        return _load, (self.to_bytes(),)


def _load(data: bytes) -> PublicKey:
    """Unpickle a key by its canonical bytes."""
    return PublicKey.from_bytes(data)


class PrivateKey:
    """The primes of a modulus, for one-key mode and for a dealer. Valid once constructed.

    p, q: different primes of equal length whose product has twice that length; safe primes unless
    ``safe`` is False, which is for keys made elsewhere: they open what was encrypted, but the
    arguments for short exponents and for the proofs need safe primes.
    exponent_bits, proof, knowledge_proofs: as of :class:`PublicKey`.

    Raises :class:`PlanError`: ``private-types``, ``private-length``, ``private-close``,
    ``private-prime``, ``private-safe``, or a rule of the public key.
    """

    __slots__ = ("_factored", "p", "public", "q", "safe")

    def __init__(
        self,
        p: int,
        q: int,
        *,
        exponent_bits: int = SHORT_EXPONENT,
        safe: bool = True,
        proof: bytes = b"",
        knowledge_proofs: bool = True,
    ) -> None:
        if type(p) is int and type(q) is int and (p * q).bit_length() < _LEAST_PRODUCT:
            # Whether primes are far enough apart has no meaning below.
            raise modulus.refusal("p and q are far too short for a key", "private-length")
        modulus.check_primes(p, q, BITS[-1], safe=safe)
        self.p: Final = p
        self.q: Final = q
        self.safe: Final = safe
        self.public: Final = PublicKey(
            p * q,
            exponent_bits=exponent_bits,
            proof=proof,
            knowledge_proofs=knowledge_proofs,
        )
        self._factored: Factored | None = None

    def decrypt(self, rows: Words, *, threads: int = 1) -> Words:
        """The messages of ciphertexts: [rows, 2 W] words to [rows, W].

        Raises :class:`DecodeError` (``ciphertext``) where a row is none.
        """
        self.public.check_rows(rows, sender=None)
        if self._factored is None:
            self._factored = Factored(self.p, self.q)
        return self._factored.decrypt(np.ascontiguousarray(rows), threads=threads)

    def decrypt_int(self, ciphertext: int) -> int:
        """The message of one ciphertext, from 0 to n - 1. Raises as :meth:`decrypt` does."""
        n = self.public.n
        if type(ciphertext) is not int or not 0 < ciphertext < n * n:
            raise DecodeError("a ciphertext is an int from 1 to n^2 - 1", rule="ciphertext")
        return from_words(self.decrypt(to_words([ciphertext], 2 * self.public.words)))[0]

    def nth_root(self, value: int) -> int:
        """The x below n with x^n = ``value`` mod n: the r of a ciphertext of 0.

        value: coprime to n; it is taken modulo n. Raises :class:`MisuseError` (``root``) otherwise.
        """
        n = self.public.n
        if type(value) is not int or math.gcd(value, n) != 1:
            raise MisuseError("only units have an n-th root", rule="root")
        p, q = self.p, self.q
        at_p = primes.secret_power(value % p, pow(n, -1, p - 1), p)
        at_q = primes.secret_power(value % q, pow(n, -1, q - 1), q)
        return at_q + q * ((at_p - at_q) * pow(q, -1, p) % p)

    def to_bytes(self) -> bytes:
        """Canonical msgpack, *not encrypted*: store it through ``secagg_protocols.keys.seal``."""
        size = self.public.words * 4
        return msgspec.msgpack.encode(
            [
                _PRIVATE_MAGIC,
                self.p.to_bytes(size, "little"),
                self.q.to_bytes(size, "little"),
                self.safe,
                self.public.proof,
                self.public.exponent_bits,
                self.public.knowledge_proofs,
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> PrivateKey:
        """Inverse of :meth:`to_bytes`; :class:`MisuseError` (``key-bytes``) for other bytes."""
        # The bytes hold the primes, so no cause is chained.
        try:
            fields = msgspec.msgpack.decode(data, type=_PrivateFields)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError, OverflowError):
            raise MisuseError("this is not a private key", rule="key-bytes") from None
        longest = BITS[-1] // 16
        if fields.magic != _PRIVATE_MAGIC or max(len(fields.p), len(fields.q)) > longest:
            raise MisuseError("this is not a private key", rule="key-bytes")
        key = cls(
            int.from_bytes(fields.p, "little"),
            int.from_bytes(fields.q, "little"),
            exponent_bits=fields.exponent_bits,
            safe=fields.safe,
            proof=fields.proof,
            knowledge_proofs=fields.knowledge_proofs,
        )
        if key.to_bytes() != data:
            raise MisuseError("a private key that is not canonically encoded", rule="key-bytes")
        return key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PrivateKey):
            return NotImplemented
        mine = (self.p, self.q, self.safe, self.public)
        return mine == (other.p, other.q, other.safe, other.public)

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"PrivateKey(bits={self.public.bits}, digest={self.public.digest.hex()[:16]}...)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not pickled; use to_bytes() and seal it")


def generate(
    bits: int = 3072,
    *,
    exponent_bits: int = SHORT_EXPONENT,
    knowledge_proofs: bool = True,
    progress: primes.Progress | None = None,
) -> PrivateKey:
    """A new key of two safe primes from the operating system's generator, with the proof about its
    modulus.

    ``progress`` gets the number of candidates tested so far, from time to time; a key of 3072 bits
    takes ten seconds on average with GMP, and a few minutes without.
    """
    # 2048.0 equals 2048, and would fail later.
    if type(bits) is not int or bits not in BITS:
        raise modulus.refusal(f"a modulus has {', '.join(map(str, BITS))} bits", "modulus-bits")
    p, q = primes.safe_primes(bits, progress=progress)
    proof = modulus_proof.prove(p, q)
    return PrivateKey(
        p, q, exponent_bits=exponent_bits, proof=proof, knowledge_proofs=knowledge_proofs
    )
