"""What a variant of the big-integer arithmetic offers to `paillier`, which checks every argument.

A variant is a module with a factory for each of the two first protocols: `gmp` ("gmp" and
"python") and `_ifma` ("ifma": `SquaresIfma(n)` and `FactoredIfma(p, q)`). Nothing here checks
anything: rows are uint64, C-contiguous and aligned, little-endian words, and values are in the
ranges named. All variants return the same bits, in fresh writable arrays; c = 0 rows are allowed
everywhere. W is the number of words of n, whose length is exactly 64 * W bits.
"""

import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
"""Numbers as rows of little-endian 64-bit words, least significant word first."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of rows done since the last call; safe to call from any thread."""


class Arithmetic(Protocol):
    """Arithmetic modulo n^2."""

    def power(self, bases: Words, exponent: int, threads: int, progress: Progress | None) -> Words:
        """Return bases ** exponent, [c, 2W], for bases [c, 2W] < n^2 and one exponent >= 0.

        x ** 0 is 1 for every x, 0 included. `progress` is called with the rows done since the
        last call, after each batch of a few rows; an error that it raises ends the work.
        """

    def inverse(self, bases: Words) -> Words:
        """Return 1 / bases, [c, 2W] for [c, 2W]; ValueError if one is not invertible.

        The error is `no_inverse("bases", row)`, with the first row that has no inverse.
        """

    def multi_power(self, bases: Words, exponents: Words, threads: int) -> int:
        """Return the product of bases[i] ** exponents[i] mod n^2; bases [c, 2W], exponents [c, E].

        E >= 1. The exponents are public. The empty product is 1.
        """

    def fold(self, rows: Words, threads: int) -> int:
        """Return a number congruent modulo n to the product of all rows [c, 2W] < n^2."""

    def product(self, start: Words) -> "Running":
        """Return running products, one a row, that begin with `start` [c, 2W] < n^2 (copied)."""

    def table(self, base: int, bits: int) -> "Table":
        """Return a table of 0 <= base < n^2 for exponents below 2^bits, bits >= 1."""


class Running(Protocol):
    """Products modulo n^2, one a row."""

    def multiply(self, factors: Words, threads: int) -> None:
        """Multiply each row by that of `factors` [c, 2W] < n^2."""

    def value(self) -> Words:
        """Return the products [c, 2W], reduced; a copy."""


class Table(Protocol):
    """Powers of one base modulo n^2."""

    def encrypt(self, exponents: Words, messages: Words | None, threads: int) -> Words:
        """Return (1 + messages * n) * base ** exponents mod n^2, [c, 2W].

        exponents [c, E] < 2^bits, where E >= 1 may be more or fewer words than `bits` needs;
        messages [c, W] < n, or None for zeros.
        """


class Decryption(Protocol):
    """Decryption with the factors p and q of n, each of 32 * W bits."""

    def decrypt(self, ciphertexts: Words, threads: int) -> Words:
        """Return the plaintexts [c, W] of ciphertexts [c, 2W] < n^2.

        The error is `no_inverse("ciphertexts", row)`, with the first row that shares a factor
        with n: its power p - 1 is not 1 modulo p, or its power q - 1 not 1 modulo q.
        """


def no_inverse(name: str, row: int) -> ValueError:
    """Return the error of a row that shares a factor with n; rows are public."""
    return ValueError(f"{name} has no inverse in row {row}")


class Counted:
    """Turns the increments of many threads into the running total that a caller wants to see."""

    __slots__ = ("_lock", "_tell", "_total")

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._total, self._lock = tell, 0, threading.Lock()

    def __call__(self, rows: int) -> None:
        """Add `rows` and tell the total, one caller at a time, so that totals only grow."""
        with self._lock:
            self._total += rows
            self._tell(self._total)
