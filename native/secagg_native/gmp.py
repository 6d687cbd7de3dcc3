"""The portable twin of the big-integer kernels: GMP through gmpy2, or Python's own integers.

The only file that knows gmpy2. Neither GMP nor Python hides which numbers it works on: the time
and the addresses of a table look-up follow the exponent (docs/limitations.md). The arithmetic is
textbook: fixed-base windows (Brickell et al., EUROCRYPT 1992), simultaneous powers with buckets
(Pippenger, FOCS 1976), batched inversion (Montgomery, Math. Comp. 48, 1987), and Paillier's
decryption by the Chinese remainder theorem (Paillier, EUROCRYPT 1999, section 7).

Numbers are `Any` here: mpz behaves as int does, and mypy knows nothing about it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import _slices
from ._bigint import Progress, Words, no_inverse

try:
    import gmpy2  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:  # an optional dependency
    gmpy2 = None

# Rows between two calls of `progress`, and the least that is worth a thread.
_BATCH = 8


def available() -> bool:
    """Tell whether gmpy2 is here."""
    return gmpy2 is not None


def to_rows(values: Iterable[Any], words: int) -> Words:
    """Return non-negative integers as rows [count, words]; OverflowError if one does not fit."""
    size = 8 * words
    text = b"".join([int(value).to_bytes(size, "little") for value in values])
    # A copy, because what numpy makes of bytes is read-only.
    return np.frombuffer(text, "<u8").reshape(-1, words).astype(np.uint64)


def from_rows(rows: Words) -> list[int]:
    """Return the integers of rows [count, words]."""
    size = 8 * rows.shape[1]
    if not size:
        return [0] * len(rows)
    text = rows.astype("<u8", copy=False).tobytes()
    take = int.from_bytes
    return [take(text[at : at + size], "little") for at in range(0, len(text), size)]


class _Python:
    """Python's integers."""

    window = 4  # a table of 2^8 entries a window would take seconds to make
    number = staticmethod(int)

    @staticmethod
    def powers(bases: list[Any], exponent: Any, modulus: Any) -> list[Any]:
        return [pow(base, exponent, modulus) for base in bases]

    @staticmethod
    def invert(value: Any, modulus: Any) -> Any:
        """Return 1 / value; ValueError where there is none."""
        return pow(value, -1, modulus)


class _Gmp:
    """GMP's integers. Lists of powers are computed without the interpreter's lock."""

    window = 8

    @staticmethod
    def number(value: int) -> Any:
        return gmpy2.mpz(value)

    @staticmethod
    def powers(bases: list[Any], exponent: Any, modulus: Any) -> list[Any]:
        return list(gmpy2.powmod_base_list(bases, exponent, modulus))

    @staticmethod
    def invert(value: Any, modulus: Any) -> Any:
        """Return 1 / value; ValueError where there is none."""
        try:
            return gmpy2.invert(value, modulus)
        except ZeroDivisionError:
            raise ValueError("no inverse") from None


def _library(name: str) -> type[_Gmp] | type[_Python]:
    return _Gmp if name == "gmp" else _Python


class Squares:
    """`_bigint.Arithmetic` for "gmp" or "python"."""

    def __init__(self, n: int, variant: str) -> None:
        self._library = _library(variant)
        self._n = self._library.number(n)
        self._modulus = self._n * self._n
        self._words = n.bit_length() // 64

    def _numbers(self, rows: Words) -> list[Any]:
        return [self._library.number(value) for value in from_rows(rows)]

    def _rows(self, values: Iterable[Any]) -> Words:
        return to_rows(values, 2 * self._words)

    def power(self, bases: Words, exponent: int, threads: int, progress: Progress | None) -> Words:
        number = self._library.number(exponent)
        result = np.empty_like(bases)

        def work(low: int, high: int) -> None:
            for at in range(low, high, _BATCH):
                end = min(at + _BATCH, high)
                rows = self._numbers(bases[at:end])
                result[at:end] = self._rows(self._library.powers(rows, number, self._modulus))
                if progress is not None:
                    progress(end - at)

        _slices.run(work, len(bases), _BATCH, threads)
        return result

    def inverse(self, bases: Words) -> Words:
        values = self._numbers(bases)
        modulus, invert = self._modulus, self._library.invert
        before, product = [], self._library.number(1)
        for value in values:
            before.append(product)
            product = product * value % modulus
        try:
            rest = invert(product, modulus)
        except ValueError:
            raise no_inverse("bases", self._first_singular(values)) from None
        result = []
        for value, others in zip(reversed(values), reversed(before), strict=True):
            result.append(rest * others % modulus)
            rest = rest * value % modulus
        result.reverse()
        return self._rows(result)

    def _first_singular(self, values: list[Any]) -> int:
        for row, value in enumerate(values):
            try:
                self._library.invert(value, self._n)
            except ValueError:
                return row
        raise RuntimeError("every row has an inverse, but not their product")

    def multi_power(self, bases: Words, exponents: Words, threads: int) -> int:
        values, digits = self._numbers(bases), from_rows(exponents)
        bits = max((digit.bit_length() for digit in digits), default=0)
        modulus, result = self._modulus, self._library.number(1)
        window = _best_window(len(values), bits)
        for at in reversed(range(0, bits, window)):
            for _ in range(window):
                result = result * result % modulus
            result = result * self._buckets(values, digits, at, window) % modulus
        return int(result)

    def _buckets(self, values: list[Any], exponents: list[int], at: int, window: int) -> Any:
        """Return the product of values ** (their digit of `window` bits at bit `at`)."""
        mask, modulus = (1 << window) - 1, self._modulus
        buckets: list[Any] = [None] * (mask + 1)
        for value, exponent in zip(values, exponents, strict=True):
            digit = (exponent >> at) & mask
            held = buckets[digit]
            buckets[digit] = value if held is None else held * value % modulus
        # running is the product of the buckets from the top down to d; every bucket d is then
        # in d of the factors of `total`.
        total = running = self._library.number(1)
        for held in reversed(buckets[1:]):
            if held is not None:
                running = running * held % modulus
            total = total * running % modulus
        return total

    def fold(self, rows: Words, threads: int) -> int:
        n, product = self._n, self._library.number(1)
        for value in self._numbers(rows):
            product = product * value % n
        return int(product)

    def product(self, start: Words) -> "Running":
        return Running(self._numbers(start), self._modulus, self._library.number, 2 * self._words)

    def table(self, base: int, bits: int) -> "Table":
        """Return a table whose addresses follow the exponents."""
        return Table(self._library, self._n, base, bits)


def _best_window(count: int, bits: int) -> int:
    """Return the bits of a digit that cost the fewest multiplications in all."""

    def cost(window: int) -> int:
        return -(-bits // window) * (count + (2 << window))

    return min(range(1, 17), key=cost)


class Running:
    """`_bigint.Running`: mpz or int, one a row."""

    def __init__(self, values: list[Any], modulus: Any, number: Any, words: int) -> None:
        self._values, self._modulus, self._number, self._words = values, modulus, number, words

    def multiply(self, factors: Words, threads: int) -> None:
        number, modulus = self._number, self._modulus
        self._values = [
            held * number(factor) % modulus
            for held, factor in zip(self._values, from_rows(factors), strict=True)
        ]

    def value(self) -> Words:
        return to_rows(self._values, self._words)


class Table:
    """`_bigint.Table`: windows[i][d] is base ** (d * 2**(w * i))."""

    def __init__(self, library: type[_Gmp] | type[_Python], n: Any, base: int, bits: int) -> None:
        self._n, self._modulus, self._library = n, n * n, library
        self._window = library.window
        self._windows: list[Sequence[Any]] = []
        step = library.number(base)
        for _ in range(0, bits, self._window):
            entries = [library.number(1)]
            for _ in range(1 << self._window):
                entries.append(entries[-1] * step % self._modulus)
            step = entries.pop()
            self._windows.append(entries)

    def encrypt(self, exponents: Words, messages: Words | None, threads: int) -> Words:
        modulus, mask, number = self._modulus, (1 << self._window) - 1, self._library.number
        plain = [0] * len(exponents) if messages is None else from_rows(messages)
        result = []
        for exponent, message in zip(from_rows(exponents), plain, strict=True):
            value = 1 + number(message) * self._n
            for place, entries in enumerate(self._windows):
                value = value * entries[(exponent >> (self._window * place)) & mask] % modulus
            result.append(value)
        return to_rows(result, int(self._n.bit_length()) // 32)


class Factored:
    """`_bigint.Decryption` for "gmp" or "python"."""

    def __init__(self, p: int, q: int, variant: str) -> None:
        self._library = _library(variant)
        number = self._library.number
        self._p, self._q, self._words = number(p), number(q), (p * q).bit_length() // 64
        # L((1 + n) ** (p - 1) mod p^2) is -q mod p, and decryption divides by it.
        self._scale_p = number(pow(-q, -1, p))
        self._scale_q = number(pow(-p, -1, q))
        self._p_inverse = number(pow(p, -1, q))

    def decrypt(self, ciphertexts: Words, threads: int) -> Words:
        result = np.empty((len(ciphertexts), self._words), np.uint64)
        p, q = self._p, self._q
        singular: list[int] = []

        def work(low: int, high: int) -> None:
            for at in range(low, high, _BATCH):
                end = min(at + _BATCH, high)
                values = [self._library.number(value) for value in from_rows(ciphertexts[at:end])]
                halves = zip(
                    self._half(values, p, self._scale_p),
                    self._half(values, q, self._scale_q),
                    strict=True,
                )
                plain = []
                for row, (of_p, of_q) in enumerate(halves):
                    if of_p is None or of_q is None:
                        singular.append(at + row)
                        plain.append(0)
                    else:
                        plain.append(of_p + p * ((of_q - of_p) * self._p_inverse % q))
                result[at:end] = to_rows(plain, self._words)

        _slices.run(work, len(ciphertexts), _BATCH, threads)
        if singular:
            raise no_inverse("ciphertexts", min(singular))
        return result

    def _half(self, values: list[Any], prime: Any, scale: Any) -> list[Any]:
        """Return the plaintexts modulo one prime, None where there is none."""
        square = prime * prime
        raised = self._library.powers([value % square for value in values], prime - 1, square)
        return [value // prime * scale % prime if value % prime == 1 else None for value in raised]
