"""The big-integer arithmetic of `_bigint` on eight numbers at once, with AVX-512 IFMA.

Only `features.bigint_variants` tells whether this host may use it: LLVM ends the process that
compiles an instruction which its host lacks. Rows are copied, eight by eight, into blocks of
digits (`kernels.digits`), whose arithmetic is `kernels.montgomery`; a last block is filled up
with zeros. What is rare or public and not worth a kernel is left to the twin, `gmp`. The last
steps of a decryption, on what is about to be its result, are Python's integers.
"""

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _slices, gmp
from ._bigint import Progress, Words, no_inverse
from .kernels import digits, lookup, montgomery

Chosen: TypeAlias = NDArray[np.int64]
"""Digits of an exponent, by which a kernel looks up a power."""

_LANES = digits.LANES
_DIGIT = digits.DIGIT
# Rows that are worked on at a time by a thread: a few megabytes of digits.
_BATCH = 256
# So many rows raised to a secret share take about a quarter of a second for keys of 3072 bits.
_POWER_BATCH = 32
# Rows of a product of powers, which are all held at once: 20 MB for the largest keys.
_MULTI_BATCH = 16384
# A modulus is below 2^-8 R, as the bounds of `kernels.montgomery` need.
_SPARE = 8


def digit_count(bits: int) -> int:
    """Return K, the digits of a modulus of `bits` bits: even, with R = 2^(52 K) >= 2^(bits + 8)."""
    return 2 * -(-(bits + _SPARE) // (2 * _DIGIT))


class Pairs:
    """Numbers modulo n^2 as pairs times R: to and from rows, powers and products.

    `n`: odd; `words`: of the rows that are entered, any value that they hold. Arrays of pairs are
    flat, 2 K digits a block.
    """

    def __init__(self, n: int, words: int) -> None:
        self.n, self.size = n, digit_count(n.bit_length())
        self.pair_words = 2 * self.size * _LANES
        radix = 1 << (_DIGIT * self.size)
        inverse = -pow(n, -1, 1 << _DIGIT) % (1 << _DIGIT)
        self.modulus = np.concatenate(
            [
                _to_digits(n, self.size),
                np.array([inverse], np.uint64),
                self._pair(radix % n**2),
            ]
        )
        # Piece k of a number, K digits, is multiplied by R^(k + 2) and divided by R.
        pieces = -(-64 * words // (_DIGIT * self.size))
        self._powers = [self._repeated(pow(radix, k + 2, n**2)) for k in range(pieces)]

    def _pair(self, value: int) -> Words:
        return np.concatenate([_to_digits(part, self.size) for part in divmod(value, self.n)[::-1]])

    def _repeated(self, value: int) -> Words:
        """Return one number in all lanes of a block."""
        return _aligned(np.repeat(self._pair(value), _LANES))

    def scratch(self, pairs: int = 4) -> Words:
        """Return memory for kernels: as many pairs, four of them for a product."""
        return _empty(pairs * self.pair_words)

    def empty(self, blocks: int) -> Words:
        return _empty(blocks * self.pair_words)

    def enter(self, rows: Words, work: Words) -> Words:
        """Return rows [8 b, words] as b blocks of pairs times R.

        For up to four pieces x0 < 8 n and x1 < 12 n: each is below 2 n and 3 n.
        """
        blocks = len(rows) // _LANES
        total = self.empty(blocks)
        total[:] = 0
        piece, part = self.empty(blocks), self.empty(blocks)
        for k, place in enumerate(self._powers):
            digits.split(rows, k * self.size, self.size, 2 * self.size, piece)
            montgomery.multiply(piece, place, self.modulus, part, work)
            total += part
        digits.settle(total, self.size)
        return total

    def leave(self, pairs: Words, messages: Words | None, out: Words, work: Words) -> None:
        """Write rows (1 + messages n) * pairs modulo n^2; `pairs` are overwritten.

        out [8 b, w], messages [8 b, w'] below n.
        """
        half = self.size * _LANES
        blocks = 1 if messages is None else len(messages) // _LANES
        factors = _empty((2 * blocks + 1) * half)
        if messages is None:
            factors[:] = 0
        else:
            # The messages are the upper halves of pairs (1, m), and what follows each is cleared.
            digits.split(messages, 0, self.size, 2 * self.size, factors[half:])
            factors[:half] = 0
        factors = factors[: blocks * self.pair_words]
        factors.reshape(blocks, -1)[:, :_LANES] = 1
        montgomery.multiply(pairs, factors, self.modulus, pairs, work)
        digits.canonical(pairs, self.modulus, self.size, work)
        montgomery.unite(pairs, self.modulus, work)
        digits.join(pairs, 0, 2 * self.size, 2 * self.size, out)

    def power(self, rows: Words, exponent: Chosen, width: int, out: Words) -> None:
        """Write rows ** exponent, digits of `width` bits; both [8 b, ...]."""
        work = self.scratch(4 + (1 << width))
        pairs = self.enter(rows, work)
        montgomery.power(pairs, exponent, width, self.modulus, work)
        self.leave(pairs, None, out, work)


class SquaresIfma:
    """`_bigint.Arithmetic` for "ifma"."""

    def __init__(self, n: int) -> None:
        self._n, self._words = n, n.bit_length() // 64
        self._pairs = Pairs(n, 2 * self._words)
        self._twin = gmp.Squares(n, "gmp" if gmp.available() else "python")

    def power(self, bases: Words, exponent: int, threads: int, progress: Progress | None) -> Words:
        result = np.empty_like(bases)
        if exponent == 0:
            result[:] = gmp.to_rows([1], bases.shape[1])
            return result
        chosen, width = _exponent(exponent)

        def work(low: int, high: int) -> None:
            for start, stop in _batches(low, high, _POWER_BATCH):
                rows = _padded(bases[start:stop])
                self._pairs.power(rows, chosen, width, rows)
                result[start:stop] = rows[: stop - start]
                if progress is not None:
                    progress(stop - start)

        _slices.run(work, len(bases), _LANES, threads)
        return result

    def inverse(self, bases: Words) -> Words:
        return self._twin.inverse(bases)

    def multi_power(self, bases: Words, exponents: Words, threads: int) -> int:
        result, lock = 1, threading.Lock()
        bits = _bit_length(exponents)
        if not bits:
            return 1

        def work(low: int, high: int) -> None:
            nonlocal result
            for start, stop in _batches(low, high, _MULTI_BATCH):
                part = self._buckets(bases[start:stop], exponents[start:stop], bits)
                with lock:
                    result = result * part % self._n**2

        # One slice a thread: each slice has buckets of its own.
        grain = _LANES * -(-len(bases) // (_LANES * threads))
        _slices.run(work, len(bases), grain, threads)
        return result

    def _buckets(self, bases: Words, exponents: Words, bits: int) -> int:
        blocks = -(-len(bases) // _LANES)
        width = min(range(1, 8), key=lambda w: -(-bits // w) * (blocks + (2 << w) + w))
        work, out = self._pairs.scratch(4 + (1 << width)), self._pairs.empty(1)
        pairs = self._pairs.empty(blocks)
        for start, stop in _batches(0, len(bases), _BATCH):
            part = self._pairs.enter(_padded(bases[start:stop]), work)
            at = start // _LANES * self._pairs.pair_words
            pairs[at : at + len(part)] = part
        # A number of the padding has digit 0, and bucket 0 is not used.
        chosen = _windows(_padded(exponents), width, -(-bits // width))[::-1]
        montgomery.buckets(pairs, _signed(chosen), width, self._pairs.modulus, out, work)
        rows = np.empty((_LANES, 2 * self._words), np.uint64)
        self._pairs.leave(out, None, rows, work)
        result = 1
        for value in gmp.from_rows(rows):
            result = result * value % self._n**2
        return result

    def fold(self, rows: Words, threads: int) -> int:
        if not len(rows):
            return 1
        whole = len(rows) - len(rows) % _BATCH if len(rows) > _BATCH else len(rows)
        running = self.product(rows[: min(whole, _BATCH)])
        for start in range(_BATCH, whole, _BATCH):
            running.multiply(rows[start : start + _BATCH], threads)
        return self._twin.fold(np.concatenate([running.value(), rows[whole:]]), 1)

    def product(self, start: Words) -> "Running":
        return Running(self._n**2, start)

    def table(self, base: int, bits: int) -> "Table":
        """Return a table; its addresses never depend on the exponents, which costs little."""
        return Table(self._pairs, self._twin, base, bits)


class Running:
    """`_bigint.Running`: numbers modulo n^2, in need of a factor of R for each multiplication."""

    def __init__(self, modulus: int, start: Words) -> None:
        self._modulus, self._words, self._rows = modulus, start.shape[1], len(start)
        self._size = digit_count(modulus.bit_length())
        self._block = self._size * _LANES
        self._radix = 1 << (_DIGIT * self._size)
        inverse = -pow(modulus, -1, 1 << _DIGIT) % (1 << _DIGIT)
        self._constants = np.append(_to_digits(modulus, self._size), np.uint64(inverse))
        self._divided = 0
        self._held = self._split(start)

    def _split(self, rows: Words) -> Words:
        padded = _padded(rows)
        out = _empty(len(padded) // _LANES * self._block)
        digits.split(padded, 0, self._size, self._size, out)
        return out

    def _part(self, start: int, stop: int) -> Words:
        """Return the blocks of rows `start` to `stop`."""
        first, end = start // _LANES, -(-stop // _LANES)
        return self._held[first * self._block : end * self._block]

    def multiply(self, factors: Words, threads: int) -> None:
        def work(low: int, high: int) -> None:
            scratch = _empty(3 * self._block)
            for start, stop in _batches(low, high, _BATCH):
                held = self._part(start, stop)
                montgomery.multiply_plain(
                    held, self._split(factors[start:stop]), self._constants, scratch
                )

        _slices.run(work, len(factors), _LANES, threads)
        self._divided += 1

    def value(self) -> Words:
        repair = pow(self._radix, self._divided + 1, self._modulus)
        factor = _aligned(np.repeat(_to_digits(repair, self._size), _LANES))
        result = np.empty((self._rows, self._words), np.uint64)
        scratch = _empty(3 * self._block)
        for start, stop in _batches(0, self._rows, _BATCH):
            part = _aligned(self._part(start, stop))
            montgomery.multiply_plain(part, factor, self._constants, scratch)
            digits.subtract_once(part, self._constants, self._size, scratch)
            rows = np.empty((len(part) // self._block * _LANES, self._words), np.uint64)
            digits.join(part, 0, self._size, self._size, rows)
            result[start:stop] = rows[: stop - start]
        return result


class Table:
    """`_bigint.Table`: for each place of `lookup.WIDTH` bits, the powers of the base there.

    A place is 2 K rows of `lookup.ENTRIES` words, digit by digit (Brickell et al., EUROCRYPT 1992).
    """

    def __init__(self, pairs: Pairs, twin: gmp.Squares, base: int, bits: int) -> None:
        self._pairs = pairs
        places = -(-bits // lookup.WIDTH)
        step = gmp.to_rows([base], pairs.n.bit_length() // 32)
        place_words = 2 * pairs.size * lookup.ENTRIES
        self._places = _empty(places * place_words).reshape(places, place_words)
        work = pairs.scratch()
        powers = _empty(lookup.ENTRIES * pairs.pair_words).reshape(lookup.ENTRIES, -1)
        for start in range(0, places, _LANES):
            stop = min(start + _LANES, places)
            steps = []
            for _ in range(start, stop):
                steps.append(step)
                step = twin.power(step, lookup.ENTRIES, 1, None)
            factor = pairs.enter(_padded(np.concatenate(steps)), work)
            powers[0] = np.repeat(pairs.modulus[pairs.size + 1 :], _LANES)
            for before, here in pairwise(powers):
                montgomery.multiply(before, factor, pairs.modulus, here, work)
            by_lane = powers.reshape(lookup.ENTRIES, 2 * pairs.size, _LANES).transpose(2, 1, 0)
            self._places[start:stop] = by_lane.reshape(_LANES, -1)[: stop - start]

    def encrypt(self, exponents: Words, messages: Words | None, threads: int) -> Words:
        result = np.empty((len(exponents), self._pairs.n.bit_length() // 32), np.uint64)

        def work(low: int, high: int) -> None:
            for start, stop in _batches(low, high, _BATCH):
                plain = None if messages is None else _padded(messages[start:stop])
                rows = self._batch(_padded(exponents[start:stop]), plain)
                result[start:stop] = rows[: stop - start]

        _slices.run(work, len(exponents), _LANES, threads)
        return result

    def _batch(self, exponents: Words, messages: Words | None) -> Words:
        pairs = self._pairs
        count = min(len(self._places), -(-64 * exponents.shape[1] // lookup.WIDTH))
        choices = _aligned(_windows(exponents, lookup.WIDTH, count))
        blocks = len(exponents) // _LANES
        work, held, factor = pairs.scratch(), pairs.empty(blocks), pairs.empty(blocks)
        lookup.choose(choices[0], self._places[0], held)
        # Every block passes one place of the table while that is near.
        for place, chosen in zip(self._places[1:count], choices[1:], strict=True):
            lookup.choose(chosen, place, factor)
            montgomery.multiply(held, factor, pairs.modulus, held, work)
        rows = np.empty((len(exponents), pairs.n.bit_length() // 32), np.uint64)
        pairs.leave(held, messages, rows, work)
        return rows


class FactoredIfma:
    """`_bigint.Decryption` for "ifma": x1 of c ** (p - 1) as a pair is L(c ** (p - 1) mod p^2)."""

    def __init__(self, p: int, q: int) -> None:
        self._p, self._q = p, q
        self._words = (p * q).bit_length() // 64
        self._halves = [
            # (1 + n) ** (p - 1) is 1 - q p modulo p^2, and decryption divides by -q.
            (prime, pow(-other, -1, prime), Pairs(prime, 2 * self._words), _exponent(prime - 1))
            for prime, other in ((p, q), (q, p))
        ]
        self._p_inverse = pow(p, -1, q)

    def decrypt(self, ciphertexts: Words, threads: int) -> Words:
        result = np.empty((len(ciphertexts), self._words), np.uint64)
        singular: list[int] = []

        def work(low: int, high: int) -> None:
            for start, stop in _batches(low, high, _POWER_BATCH):
                rows = _padded(ciphertexts[start:stop])
                of_p, of_q = ([*self._half(i, rows)][: stop - start] for i in (0, 1))
                plain = []
                for row, (mod_p, mod_q) in enumerate(zip(of_p, of_q, strict=True), start):
                    if mod_p is None or mod_q is None:
                        singular.append(row)
                        plain.append(0)
                    else:
                        above = (mod_q - mod_p) * self._p_inverse % self._q
                        plain.append(mod_p + self._p * above)
                result[start:stop] = gmp.to_rows(plain, self._words)

        _slices.run(work, len(ciphertexts), _LANES, threads)
        if singular:
            raise no_inverse("ciphertexts", min(singular))
        return result

    def _half(self, index: int, rows: Words) -> Iterator[int | None]:
        """Return the plaintexts modulo one prime, None where there is none."""
        prime, scale, pairs, (exponent, width) = self._halves[index]
        # p^2 has as many bits as n, or one less.
        powers = np.empty((len(rows), self._words), np.uint64)
        pairs.power(rows, exponent, width, powers)
        for value in gmp.from_rows(powers):
            quotient, rest = divmod(value, prime)
            yield quotient * scale % prime if rest == 1 else None


def _empty(words: int) -> Words:
    """Return memory that begins at a multiple of 64 bytes, so that no digit crosses such a line."""
    memory = np.empty(words + _LANES, np.uint64)
    start = -memory.ctypes.data % 64 // 8
    return memory[start : start + words]


def _aligned(array: Words) -> Words:
    """Return a copy whose memory begins at a multiple of 64 bytes."""
    copy = _empty(array.size).reshape(array.shape)
    copy[...] = array
    return copy


def _to_digits(value: int, size: int) -> Words:
    mask = (1 << _DIGIT) - 1
    return np.array([(value >> (_DIGIT * j)) & mask for j in range(size)], np.uint64)


def _padded(rows: Words) -> Words:
    """Return a copy of rows, filled up with zeros to a multiple of eight."""
    out = np.zeros((-(-len(rows) // _LANES) * _LANES, rows.shape[1]), np.uint64)
    out[: len(rows)] = rows
    return out


def _batches(low: int, high: int, rows: int) -> Iterator[tuple[int, int]]:
    for start in range(low, high, rows):
        yield start, min(start + rows, high)


def _exponent(exponent: int) -> tuple[Chosen, int]:
    """Return the digits of an exponent, the highest first, and their bits.

    A digit costs a multiplication and a scan of the table, about a 150th of one for each entry.
    """
    bits = exponent.bit_length()
    width = min(range(1, 7), key=lambda w: (1 << w) + -(-bits // w) * (1 + (1 << w) / 150))
    mask, count = (1 << width) - 1, -(-bits // width)
    found = [(exponent >> (width * k)) & mask for k in reversed(range(count))]
    return np.array(found, np.int64), width


def _bit_length(exponents: Words) -> int:
    """Return the bits of the longest of the exponents [c, E]."""
    longest = 0
    for word, column in enumerate(exponents.T):
        top = int(column.max(initial=0))
        if top:
            longest = 64 * word + top.bit_length()
    return longest


def _windows(rows: Words, width: int, count: int) -> Words:
    """Return `count` digits of `width` bits of numbers [c, words], the lowest first: [count, c]."""
    out = np.empty((count, len(rows)), np.uint64)
    for k in range(count):
        word, bit = divmod(width * k, 64)
        out[k] = rows[:, word] >> np.uint64(bit)
        if bit + width > 64 and word + 1 < rows.shape[1]:
            out[k] |= rows[:, word + 1] << np.uint64(64 - bit)
    out &= np.uint64((1 << width) - 1)
    return out


def _signed(array: Words) -> Chosen:
    return np.ascontiguousarray(array, np.int64)
