"""Arithmetic modulo n^2 on many numbers at once, as Paillier's cryptosystem needs it.

Numbers travel as `Words`: uint64 arrays [count, words], C-contiguous, one number a row, least
significant word first. W is the number of words of n, whose length is exactly 64 * W bits; an
element modulo n^2 has 2 * W words. Three variants give the same bits: "ifma" (eight lanes of
AVX-512 IFMA), "gmp" (gmpy2) and "python" (Python's integers); `features.bigint_variant` chooses.

Big-integer code does not hide everything about its operands (docs/limitations.md): "gmp" and
"python" hide nothing, "ifma" reads its tables at addresses that do not depend on an exponent.
Sources: Paillier, EUROCRYPT 1999; Damgard, Jurik and Nielsen, "A generalization of Paillier's
public-key system" (IJIS 9, 2010), sections 3 and 4.2.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _slices, features, gmp
from ._bigint import Arithmetic, Counted, Decryption, Running, Table, Words
from ._checks import check_array, check_integer

__all__ = ["Factored", "FixedBase", "Product", "Squares", "Words", "from_words", "to_words"]

MIN_BITS, MAX_BITS = 512, 4096
"""Least and greatest length of n."""
MAX_TABLE_BITS = MAX_BITS
"""Greatest length of the exponents of a table."""

_UINT64 = (np.dtype(np.uint64),)


def to_words(values: Sequence[int], words: int) -> Words:
    """Return integers as rows [len(values), words].

    Raises ValueError for words < 1 and where a value is negative or does not fit.
    """
    words = check_integer("words", words, 1, 1 << 20)
    try:
        return gmp.to_rows(map(operator.index, values), words)
    except (OverflowError, TypeError):
        raise ValueError(f"values must be integers of at most {64 * words} bits, >= 0") from None


def from_words(array: Words) -> list[int]:
    """Return the integers of rows [count, words]. Raises ValueError for another dtype or shape."""
    check_array("array", array, _UINT64, 2)
    return gmp.from_rows(array)


class Squares:
    """Arithmetic modulo n^2.

    `n`: odd, of 512 to 4096 bits, its length a multiple of 64; `variant`: one of
    `features.bigint_variants()`, by default `features.bigint_variant()`. `words` is W, the words
    of n. Raises ValueError for another n or variant. May be used by several threads at once.
    """

    __slots__ = ("_arithmetic", "_modulus", "_n", "n", "variant", "words")

    def __init__(self, n: int, *, variant: str | None = None) -> None:
        self.n = _modulus("n", n)
        self.words = self.n.bit_length() // 64
        self.variant = _variant(variant)
        self._n = gmp.to_rows([self.n], self.words)[0]
        self._modulus = gmp.to_rows([self.n**2], 2 * self.words)[0]
        self._arithmetic = _arithmetic(self.n, self.variant)

    def __repr__(self) -> str:
        return f"Squares({self.n.bit_length()} bits, {self.variant})"

    def __reduce__(self) -> tuple[type["Squares"], tuple[int]]:
        """Let the modulus travel; the process that receives it chooses its own variant."""
        return type(self), (self.n,)

    def power(
        self,
        bases: Words,
        exponent: int,
        *,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Words:
        """Return bases ** exponent mod n^2, uint64 [c, 2W].

        `bases`: uint64 [c, 2W], each < n^2; `exponent` >= 0, which may be secret: the work of
        "ifma" depends on its bit length only. 0 ** 0 is 1. `progress` is called with the number
        of rows done so far, from any of the threads, one call at a time; what it raises ends the
        work and is raised. Raises ValueError for a wrong dtype, shape, layout or range.
        """
        self._residues("bases", bases)
        number = _natural("exponent", exponent)
        threads = _threads(threads)
        told = None if progress is None else Counted(progress)
        return self._arithmetic.power(bases, number, threads, told)

    def inverse(self, bases: Words) -> Words:
        """Return 1 / bases mod n^2, uint64 [c, 2W], for uint64 [c, 2W], each < n^2.

        Raises ValueError where one has no inverse, and for a wrong dtype, shape, layout or range.
        """
        self._residues("bases", bases)
        return self._arithmetic.inverse(bases)

    def multi_power(self, bases: Words, exponents: Words, *, threads: int = 1) -> int:
        """Return the product of bases[i] ** exponents[i] mod n^2.

        `bases`: uint64 [c, 2W], each < n^2; `exponents`: uint64 [c, E], E >= 1, which are public:
        the time follows their digits. Raises ValueError for a wrong dtype, shape, layout or range.
        """
        self._residues("bases", bases)
        _exponents(exponents)
        _same_rows("bases", bases, "exponents", exponents)
        return self._arithmetic.multi_power(bases, exponents, _threads(threads))

    def faulty(self, rows: Words) -> int | None:
        """Return the first row that is no ciphertext, or None.

        `rows`: uint64 [c, 2W]. A row is faulty if it is 0, is >= n^2 or shares a factor with n.
        One greatest common divisor serves all rows when none is faulty. Raises ValueError for a
        wrong dtype, shape or layout.
        """
        self._elements("rows", rows)
        beyond = _not_below(rows, self._modulus)
        # The first of these bounds what is left to look at; a zero shares every factor with n.
        end = int(beyond[0]) if len(beyond) else len(rows)
        if math.gcd(self._arithmetic.fold(rows[:end], 1), self.n) != 1:
            for row, value in enumerate(gmp.from_rows(rows[:end])):
                if math.gcd(value, self.n) != 1:
                    return row
        return end if end < len(rows) else None

    def product(self, start: Words) -> "Product":
        """Return running products that begin with `start`, uint64 [c, 2W], each < n^2 (copied).

        Raises ValueError for a wrong dtype, shape, layout or range.
        """
        self._residues("start", start)
        return Product(self, self._arithmetic.product(start), len(start))

    def table(self, base: int, bits: int) -> "FixedBase":
        """Return the powers of `base` (0 <= base < n^2) for exponents below 2^bits.

        1 <= bits <= MAX_TABLE_BITS. "ifma" reads the same addresses for every exponent, at a few
        percent of the work; the other variants never do.
        Raises ValueError for a base or a length out of range.
        """
        base = check_integer("base", base, 0, self.n**2 - 1)
        bits = check_integer("bits", bits, 1, MAX_TABLE_BITS)
        return FixedBase(self, self._arithmetic.table(base, bits), bits)

    def _elements(self, name: str, rows: Words) -> None:
        check_array(name, rows, _UINT64, 2)
        _columns(name, rows, 2 * self.words)

    def _residues(self, name: str, rows: Words) -> None:
        self._elements(name, rows)
        _below(name, rows, self._modulus, "n^2")

    def _messages(self, messages: Words) -> None:
        check_array("messages", messages, _UINT64, 2)
        _columns("messages", messages, self.words)
        _below("messages", messages, self._n, "n")


class FixedBase:
    """Powers of one base modulo n^2, made by `Squares.table`. May be used by several threads.

    `bits` is the greatest length of an exponent.
    """

    __slots__ = ("_squares", "_table", "bits")

    def __init__(self, squares: Squares, table: Table, bits: int) -> None:
        self._squares, self._table, self.bits = squares, table, bits

    def __repr__(self) -> str:
        return f"FixedBase({self.bits} bits, {self._squares!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a table is made again where it is needed, and not pickled")

    def encrypt(
        self, exponents: Words, messages: Words | None = None, *, threads: int = 1
    ) -> Words:
        """Return (1 + messages * n) * base ** exponents mod n^2, uint64 [c, 2W].

        `exponents`: uint64 [c, E], E >= 1, each below 2^bits; `messages`: uint64 [c, W], each
        below n, or None for zeros. Raises ValueError for a wrong dtype, shape, layout or range.
        """
        _exponents(exponents)
        if _longer(exponents, self.bits):
            raise ValueError(f"exponents must be below 2^{self.bits}")
        if messages is not None:
            self._squares._messages(messages)
            _same_rows("messages", messages, "exponents", exponents)
        return self._table.encrypt(exponents, messages, _threads(threads))


class Product:
    """Running products modulo n^2, one a row, made by `Squares.product`. For one thread only."""

    __slots__ = ("_rows", "_running", "_squares")

    def __init__(self, squares: Squares, running: Running, rows: int) -> None:
        self._squares, self._running, self._rows = squares, running, rows

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"Product({self._rows} rows, {self._squares!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a running product is not pickled: pickle its value()")

    def multiply(self, factors: Words, *, threads: int = 1) -> None:
        """Multiply each product by its row of `factors`, uint64 [c, 2W], each < n^2.

        Raises ValueError for a wrong dtype, shape, layout or range, and then changes nothing.
        """
        self._squares._residues("factors", factors)
        if len(factors) != self._rows:
            raise ValueError(f"factors must have {self._rows} row(s), one for each product")
        self._running.multiply(factors, _threads(threads))

    def value(self) -> Words:
        """Return the products, uint64 [c, 2W], each reduced below n^2; a copy."""
        return self._running.value()


class Factored:
    """Decryption with the factors of n.

    `p`, `q`: odd, different, of the same length (32 * W bits), with n = p * q as `Squares` takes
    it. That they are prime is the caller's to know. `variant` as for `Squares`. Raises ValueError
    otherwise. May be used by several threads at once; not pickled, and says nothing about p and q.
    """

    __slots__ = ("_decryption", "_modulus", "variant", "words")

    def __init__(self, p: int, q: int, *, variant: str | None = None) -> None:
        p, q = _natural("p", p), _natural("q", q)
        if p == q or p % 2 == 0 or q % 2 == 0:
            raise ValueError("p and q must be odd and different")
        # Neither then divides the other less one, so that n is invertible modulo its group order.
        if p.bit_length() != q.bit_length() or math.gcd(p, q) != 1:
            raise ValueError("p and q must be primes of the same length")
        n = _modulus("p * q", p * q)
        self.words = n.bit_length() // 64
        self.variant = _variant(variant)
        self._modulus = gmp.to_rows([n**2], 2 * self.words)[0]
        self._decryption = _decryption(p, q, self.variant)

    def __repr__(self) -> str:
        return f"Factored(<secret>, {self.variant})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("the factors of a key are not pickled")

    def decrypt(self, ciphertexts: Words, *, threads: int = 1) -> Words:
        """Return the plaintexts, uint64 [c, W], of `ciphertexts`, uint64 [c, 2W], each < n^2.

        Raises ValueError where one shares a factor with n, and for a wrong dtype, shape, layout
        or range.
        """
        check_array("ciphertexts", ciphertexts, _UINT64, 2)
        _columns("ciphertexts", ciphertexts, 2 * self.words)
        _below("ciphertexts", ciphertexts, self._modulus, "n^2")
        return self._decryption.decrypt(ciphertexts, _threads(threads))


def _variant(name: str | None) -> str:
    if name is None:
        return features.bigint_variant()
    return features.check_bigint_variant(name, "variant")


def _arithmetic(n: int, variant: str) -> Arithmetic:
    if variant == features.IFMA:
        from . import _ifma

        return _ifma.SquaresIfma(n)
    return gmp.Squares(n, variant)


def _decryption(p: int, q: int, variant: str) -> Decryption:
    if variant == features.IFMA:
        from . import _ifma

        return _ifma.FactoredIfma(p, q)
    return gmp.Factored(p, q, variant)


def _modulus(name: str, value: object) -> int:
    n = _natural(name, value)
    bits = n.bit_length()
    if n % 2 == 0 or bits % 64 or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"{name} must be odd and of {MIN_BITS} to {MAX_BITS} bits, a multiple of 64"
        )
    return n


def _natural(name: str, value: object) -> int:
    """Return `value` as a Python integer >= 0, or raise ValueError."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be an integer") from None
    if number < 0:
        raise ValueError(f"{name} must not be negative")
    return number


def _threads(threads: object) -> int:
    return check_integer("threads", threads, 1, _slices.MAX_THREADS)


def _columns(name: str, rows: NDArray[Any], words: int) -> None:
    if rows.shape[1] != words:
        raise ValueError(f"{name} must have {words} words a row, not {rows.shape[1]}")


def _same_rows(name: str, rows: Words, other: str, others: Words) -> None:
    if len(rows) != len(others):
        raise ValueError(f"{name} and {other} must have the same number of rows")


def _exponents(exponents: Words) -> None:
    check_array("exponents", exponents, _UINT64, 2)
    if exponents.shape[1] == 0:
        raise ValueError("exponents must have at least one word a row")


def _longer(rows: Words, bits: int) -> bool:
    """Tell whether any row is 2^bits or more."""
    word, bit = divmod(bits, 64)
    above = rows[:, word + (bit > 0) :].any()
    return bool(above or (bit and word < rows.shape[1] and np.any(rows[:, word] >> np.uint64(bit))))


def _below(name: str, rows: Words, limit: Words, what: str) -> None:
    beyond = _not_below(rows, limit)
    if len(beyond):
        raise ValueError(f"{name} must be below {what}, and row {beyond[0]} is not")


def _not_below(rows: Words, limit: Words) -> NDArray[np.intp]:
    """Return, in order, the rows that are >= `limit` (one row), from the top word down.

    The top word settles nearly all rows, so that a word or two of each is read.
    """
    open_rows = np.arange(len(rows))
    beyond = []
    for word in reversed(range(len(limit))):
        here = rows[open_rows, word]
        beyond.append(open_rows[here > limit[word]])
        open_rows = open_rows[here == limit[word]]
        if not len(open_rows):
            break
    # Rows that are open to the end equal the limit.
    return np.sort(np.concatenate([*beyond, open_rows]))
