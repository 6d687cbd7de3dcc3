"""Threshold opening: t of l holders open a sum, fewer learn nothing.

Damgard and Jurik, "A generalisation, a simplification and some applications of Paillier's
probabilistic public-key system" (PKC 2001), section 4.1, with the verifiable shares of Shoup,
"Practical threshold signatures" (EUROCRYPT 2000). Let n = pq with safe primes p = 2p' + 1 and
q = 2q' + 1, m = p'q', and Delta = l!.

* *Dealing*: d = 0 mod m and d = 1 mod n; f is a polynomial of degree t - 1 over Z_nm with
  f(0) = d; holder i gets s_i = f(i). A base v of the squares modulo n^2, whose group is cyclic of
  order nm, and v_i = v^(Delta s_i) are public.
* *Share* of a ciphertext c: c_i = c^(2 Delta s_i) mod n^2.
* *Opening* by a set S of t holders: with the integers
  lambda_i = Delta prod_{j in S, j != i} j / (j - i), the sum of lambda_i s_i is Delta d mod nm, so
  that c' = prod c_i^(2 lambda_i) = c^(4 Delta^2 d) = 1 + 4 Delta^2 M n mod n^2.
* *Proof* of a vector of shares: every row gets a weight w_j of 128 bits; with C = prod c_j^(w_j)
  and D = prod c_ij^(w_j), the holder proves log_{C^4}(D^2) = log_v(v_i) (Chaum and Pedersen,
  CRYPTO 1992, made non-interactive by Fiat and Shamir). The squares have no element other than 1
  of an order below the smallest of p, q, p', q', so that both a wrong row under the weights and a
  wrong answer to a challenge of 256 bits pass with a chance that can be neglected.

A share whose sign was changed by its holder squares to the same, passes, and opens to the same
plaintext, since only squares of shares are used. Who deals knows the whole key: the dealer is
trusted to forget it, and to take n, v and v_i as said.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np

from secagg_native import paillier as native

from ..errors import MisuseError, PeerError, PlanError, SecAggError
from ..keys import digest_of, hkdf
from ._arguments import check_type
from ._weights import (
    check_ciphertexts,
    check_context,
    is_rows,
    number_bytes,
    row_bytes,
    row_weights,
)
from .keys import MOST_HOLDERS, PrivateKey, PublicKey, Words
from .primes import power

Progress = Callable[[int], None]

_MAGIC: Final = "secagg paillier key share 1"
_CHALLENGE_SIZE: Final = 32
#: Bits by which the mask of a proof is larger than what it hides: those of the challenge, and as
#: many again, so that an answer is within 2^-256 of one that does not depend on the secret.
_SLACK_BITS: Final = 2 * 8 * _CHALLENGE_SIZE
#: Rows that are combined at a time, so that what is held besides the shares stays small.
_BLOCK: Final = 2048


class _Fields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is stored of a key share: the secret as little-endian bytes of fixed length."""

    magic: str
    public: bytes
    index: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class KeyShare:
    """One holder's share of a private key. Valid once constructed.

    public: the key with its verification values. index: 1..l. secret: the value s_i of the
    dealer's polynomial.

    Raises :class:`PlanError` (``key-share``) unless v_i = v^(Delta s_i), so that a wrong file is
    found when it is read and not by another holder.
    """

    public: PublicKey
    index: int
    secret: int = field(repr=False, hash=False)

    def __post_init__(self) -> None:
        key = self.public
        if not isinstance(key, PublicKey) or not key.verification:
            raise _refuse("a share belongs to a key with verification values")
        if type(self.index) is not int or not 1 <= self.index <= key.holders:
            raise _refuse(f"the index of a share is from 1 to {key.holders}")
        if type(self.secret) is not int or not 0 <= self.secret < key.n**2:
            raise _refuse("the secret of a share is an int from 0 to n^2 - 1")
        (value,) = _powers(key, [key.base], _exponent(self))
        if value != key.verification[self.index - 1]:
            raise _refuse(f"this is not the share of holder {self.index} of this key")

    def to_bytes(self) -> bytes:
        """Canonical msgpack, *not encrypted*: to be stored through ``keys.seal``."""
        return msgspec.msgpack.encode(
            [
                _MAGIC,
                self.public.to_bytes(),
                self.index,
                number_bytes(self.secret, 16 * self.public.words),
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyShare:
        """Inverse of :meth:`to_bytes`.

        Raises :class:`MisuseError` (``key-bytes``) for other bytes, and what
        :meth:`PublicKey.from_bytes` and the constructor raise.
        """
        # The bytes hold the share, so no cause is chained.
        try:
            fields = msgspec.msgpack.decode(data, type=_Fields)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError, OverflowError):
            raise MisuseError("this is not a key share", rule="key-bytes") from None
        if fields.magic != _MAGIC:
            raise MisuseError("this is not a key share", rule="key-bytes")
        key = PublicKey.from_bytes(fields.public)
        if len(fields.secret) != 16 * key.words:
            raise MisuseError("a key share of another length than its key's", rule="key-bytes")
        share = cls(key, fields.index, int.from_bytes(fields.secret, "little"))
        if share.to_bytes() != data:
            raise MisuseError("a key share that is not canonically encoded", rule="key-bytes")
        return share

    def __repr__(self) -> str:
        digest = self.public.digest.hex()[:16]
        return f"KeyShare(index={self.index}, public={digest}..., secret=<secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key share is not pickled; use to_bytes() and seal it")


def _refuse(text: str) -> PlanError:
    return PlanError(text, rule="key-share", field="share")


def _delta(key: PublicKey) -> int:
    """Delta = l!, which turns the Lagrange coefficients into integers."""
    return math.factorial(key.holders)


def _powers(key: PublicKey, bases: list[int], exponent: int) -> list[int]:
    """``bases`` to one exponent modulo n^2, which may be secret."""
    words = 2 * key.words
    return native.from_words(key.squares.power(native.to_words(bases, words), exponent))


def _exponent(share: KeyShare) -> int:
    """Delta s_i, the logarithm of v_i."""
    return _delta(share.public) * share.secret


def split(private: PrivateKey, holders: int, threshold: int) -> tuple[PublicKey, list[KeyShare]]:
    """Deal a private key to ``holders``, any ``threshold`` of whom can open together.

    Returns the public key, with the verification values, and the shares of holders 1..l.
    The dealer must forget ``private`` afterwards. The base of the verification values is the
    square of a random unit: it generates the squares but for a chance of about
    1/p + 1/q + 1/p' + 1/q'.

    Raises :class:`PlanError`: ``key-types``, ``key-threshold``, or ``private-safe`` for primes
    that are not known to be safe. Raises :class:`MisuseError` (``arguments``) for no private key.
    """
    check_type("private", private, PrivateKey)
    public = private.public
    if not private.safe:
        raise PlanError("only a key of safe primes is split", rule="private-safe", field="key")
    if type(holders) is not int or type(threshold) is not int:
        raise PlanError("holders and threshold are ints", rule="key-types", field="key")
    if not 1 <= threshold <= holders <= MOST_HOLDERS:
        raise PlanError(
            f"{threshold} of {holders} holders: the threshold is from 1 to the number of "
            f"holders, which is at most {MOST_HOLDERS}",
            rule="key-threshold",
            field="key",
        )
    n, half = public.n, (private.p // 2) * (private.q // 2)
    order = n * half
    # 0 modulo p'q' and 1 modulo n: the two have no common factor, as the primes are safe.
    d = half * pow(half, -1, n)
    coefficients = [d, *(secrets.randbelow(order) for _ in range(threshold - 1))]
    values = [_evaluate(coefficients, index, order) for index in range(1, holders + 1)]
    base = _random_square(n)
    delta = math.factorial(holders)
    split_key = replace(
        public,
        threshold=threshold,
        base=base,
        verification=tuple(power(base, delta * value % order, n * n) for value in values),
    )
    return split_key, [KeyShare(split_key, i, value) for i, value in enumerate(values, 1)]


def _evaluate(coefficients: list[int], x: int, modulus: int) -> int:
    """A polynomial at ``x`` by Horner's rule; ``coefficients`` begin with the constant one."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % modulus
    return value


def _random_square(n: int) -> int:
    while True:
        root = secrets.randbelow(n * n)
        if math.gcd(root, n) == 1:
            return root * root % (n * n)


def partial(
    share: KeyShare,
    rows: Words,
    *,
    context: bytes,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[Words, bytes]:
    """A holder's shares of the decryption of ``rows``, and one proof for all of them.

    rows: ciphertexts uint64[c, 2W], c >= 1; ``context`` binds the proof to its round;
    ``progress`` gets the number of rows done. Returns rows c_j^(2 Delta s_i) mod n^2,
    uint64[c, 2W], and ``proof_size(share.public)`` bytes. A repeated call gives the same bytes.

    Raises :class:`DecodeError` (``ciphertext``) for a row that is no ciphertext,
    :class:`MisuseError` for no rows, and :class:`SecAggError` where the arithmetic failed.
    """
    check_type("share", share, KeyShare)
    key, squares = share.public, share.public.squares
    check_context(context)
    rows = check_ciphertexts(key, rows)
    shares = squares.power(rows, 2 * _exponent(share), threads=threads, progress=progress)
    statement = _Statement.of(key, share.index, rows, shares, context, threads)
    proof = _prove(share, statement)
    # Two answers with one mask would give the secret away, and a fault of the arithmetic could
    # make them: the second time, the same mask would meet another challenge.
    if not statement.holds(proof):
        raise SecAggError("the arithmetic of this host made a wrong share", rule="share-proof")
    return shares, proof


def check_partial(
    key: PublicKey,
    index: int,
    rows: Words,
    share: Words,
    proof: bytes,
    *,
    context: bytes,
    sender: str,
    threads: int = 1,
) -> None:
    """Check what holder ``index`` made by :func:`partial` of ``rows`` under ``context``.

    rows, share: uint64[c, 2W]. Raises :class:`PeerError` (rule ``share-proof``) naming
    ``sender`` for a share or a proof that is wrong; :class:`MisuseError` for an index that nobody
    has; for ``rows``, which are the caller's, as :func:`partial`.
    """
    check_type("key", key, PublicKey)
    check_context(context)
    _check_index(key, index)
    rows = check_ciphertexts(key, rows)
    if not isinstance(proof, bytes) or len(proof) != proof_size(key):
        raise _bad_share(f"a share proof has {proof_size(key)} bytes", sender)
    if not is_rows(share, len(rows), 2 * key.words):
        raise _bad_share("there is one share of a ciphertext's length for each row", sender)
    bad = key.squares.faulty(share)
    if bad is not None:
        raise _bad_share(f"the share of row {bad} is no unit modulo n^2", sender)
    statement = _Statement.of(key, index, rows, share, context, threads)
    if not statement.holds(proof):
        raise _bad_share(f"the shares of {sender} are not powers by its share of the key", sender)


def _bad_share(text: str, sender: str) -> PeerError:
    return PeerError(text, rule="share-proof", sender=sender)


def proof_size(key: PublicKey) -> int:
    """Bytes of the proof that comes with a vector of shares of any length."""
    return _CHALLENGE_SIZE + _mask_size(key) + 1


def _mask_size(key: PublicKey) -> int:
    """Bytes of a mask: those of n^2 Delta, which is above Delta s_i, and the slack."""
    bits = 2 * key.bits + _delta(key).bit_length() + _SLACK_BITS
    return -(-bits // 8)


@dataclass(frozen=True, slots=True)
class _Statement:
    """What a proof is about: log_g(h) = log_v(v_i), with g = C^4 and h = D^2.

    ``digest`` covers the key, the holder, the context and every bit of the rows and the shares.
    """

    key: PublicKey
    index: int
    digest: bytes
    g: int
    h: int

    @classmethod
    def of(
        cls,
        key: PublicKey,
        index: int,
        rows: Words,
        shares: Words,
        context: bytes,
        threads: int,
    ) -> _Statement:
        digest = digest_of(
            b"secagg paillier shares v1",
            key.digest,
            number_bytes(index, 4),
            context,
            row_bytes(rows),
            row_bytes(shares),
        )
        weights = row_weights(digest, len(rows))
        square = key.n**2
        c = key.squares.multi_power(rows, weights, threads=threads)
        d = key.squares.multi_power(shares, weights, threads=threads)
        return cls(key, index, digest, pow(c, 4, square), d * d % square)

    def challenge(self, commitments: list[int]) -> bytes:
        """The hash of the statement and the commitments v^r and g^r."""
        size = 16 * self.key.words
        return digest_of(
            b"secagg paillier share proof v1",
            self.digest,
            *(number_bytes(value, size) for value in commitments),
        )

    def holds(self, proof: bytes) -> bool:
        """Whether v^z / v_i^e and g^z / h^e are the commitments that give the challenge e."""
        key, square = self.key, self.key.n**2
        challenge = proof[:_CHALLENGE_SIZE]
        e = int.from_bytes(challenge, "little")
        z = int.from_bytes(proof[_CHALLENGE_SIZE:], "little")
        tops = _powers(key, [key.base, self.g], z)
        bottoms = _powers(key, [key.verification[self.index - 1], self.h], e)
        commitments = [
            top * pow(bottom, -1, square) % square
            for top, bottom in zip(tops, bottoms, strict=True)
        ]
        return hmac.compare_digest(self.challenge(commitments), challenge)


def _prove(share: KeyShare, statement: _Statement) -> bytes:
    """Challenge e of 32 bytes and answer z = r + e Delta s_i, little-endian, of fixed size."""
    key = share.public
    size = _mask_size(key)
    # Derived from the secret and the statement: no two statements share a mask, and no generator
    # is trusted with it. The top bit keeps the length of the exponent the same for all.
    secret = number_bytes(share.secret, 16 * key.words)
    info = b"secagg paillier share mask v1" + statement.digest
    mask = int.from_bytes(hkdf(secret, info, size), "little") | 1 << 8 * size - 1
    challenge = statement.challenge(_powers(key, [key.base, statement.g], mask))
    answer = mask + int.from_bytes(challenge, "little") * _exponent(share)
    return challenge + number_bytes(answer, size + 1)


def combine(
    key: PublicKey,
    shares: Mapping[int, Words],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Words:
    """Plaintexts uint64[c, W] from the shares of exactly ``key.threshold`` holders.

    shares: holder's index (1..l) to the rows uint64[c, 2W] that passed :func:`check_partial`;
    ``progress`` gets the number of rows done. Raises :class:`PeerError` (rule ``combine``) where
    the shares do not fit together, :class:`MisuseError` for another number of holders, for an
    index that nobody has and for shares of unequal shapes.
    """
    check_type("key", key, PublicKey)
    check_type("shares", shares, Mapping)
    if not key.verification:
        raise MisuseError("this key was not split", rule="combine")
    if len(shares) != key.threshold:
        raise MisuseError(
            f"{len(shares)} holders' shares were given and {key.threshold} are needed",
            rule="combine",
        )
    first = next(iter(shares.values()))
    count = first.shape[0] if isinstance(first, np.ndarray) and first.ndim == 2 else 0
    for index, rows in shares.items():
        _check_index(key, index)
        if not count or not is_rows(rows, count, 2 * key.words):
            raise MisuseError(
                f"the shares of holder {index} are not as many rows as the others'", rule="rows"
            )
        if key.squares.faulty(rows) is not None:
            raise PeerError(f"a share of holder {index} is no unit modulo n^2", rule="combine")
    lambdas = _lagrange(sorted(shares), _delta(key))
    plain = np.empty((count, key.words), np.uint64)
    for low in range(0, count, _BLOCK):
        block = {index: rows[low : low + _BLOCK] for index, rows in shares.items()}
        plain[low : low + _BLOCK] = _open_block(key, block, lambdas, low, threads)
        if progress is not None:
            progress(min(low + _BLOCK, count))
    return plain


def _open_block(
    key: PublicKey, shares: dict[int, Words], lambdas: dict[int, int], low: int, threads: int
) -> Words:
    """The plaintexts of a block of rows, of which the first is row ``low``."""
    squares, n = key.squares, key.n
    count = len(next(iter(shares.values())))
    one = native.to_words([1] * count, 2 * key.words)
    top, bottom = squares.product(one), squares.product(one)
    for index, rows in shares.items():
        powers = squares.power(rows, 2 * abs(lambdas[index]), threads=threads)
        (top if lambdas[index] > 0 else bottom).multiply(powers, threads=threads)
    # Lagrange coefficients have both signs: the negative ones share one inversion.
    top.multiply(squares.inverse(bottom.value()), threads=threads)
    scale = pow(4 * _delta(key) ** 2, -1, n)
    plain = []
    for row, value in enumerate(native.from_words(top.value()), low):
        quotient, rest = divmod(value, n)
        if rest != 1:
            raise PeerError(f"the shares of row {row} do not fit together", rule="combine")
        plain.append(quotient * scale % n)
    return native.to_words(plain, key.words)


def _lagrange(indices: list[int], delta: int) -> dict[int, int]:
    """Delta times the Lagrange coefficients at 0 of ``indices``: integers, as Delta = l!."""
    return {
        i: delta
        * math.prod(j for j in indices if j != i)
        // math.prod(j - i for j in indices if j != i)
        for i in indices
    }


def _check_index(key: PublicKey, index: object) -> None:
    if type(index) is not int or not 1 <= index <= len(key.verification):
        raise MisuseError("no holder of this key has this index", rule="holder-index")
