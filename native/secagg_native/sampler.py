"""Exact samples of integer noise laws, from a seed: discrete Gaussian, Skellam, Laplace and more.

Coordinate i of a sample takes block i of an AES-128-CTR keystream for each table of its law, so
that it is a pure function of the seed and i. One 128-bit block decides one draw from an integer
alias table (`_alias`), whose probabilities are whole multiples of 2^-128.

Exactness. If the keystream were uniform, a draw would have exactly the probabilities of its table:
integers are compared and nothing is rounded, between parameters and table neither. What separates
a coordinate from its ideal law is then

- `Tables.total_variation`, a proven upper bound of the distance of the tables from their ideal
  laws, about the number of columns times 2^-127 (`_alias.build` has the proof). It is added to
  delta: (1 + e^epsilon) times itself times the number of coordinates;
- `Tables.log_ratio`, which is not 0 only for discrete Gaussians of large deviation: there the
  ideal law itself is a convolution, pointwise within e^(+-log_ratio) of the discrete Gaussian.

AES-128 as a source of uniform bits is the assumption of the masks too; that blocks of one key
never repeat is worth n^2 / 2^129 for n blocks.

Timing. A draw takes no branch on secrets, whatever is drawn, but it reads a row of its table at a
secret place: a program on the same core that watches the cache can learn of it. Tables of more
than a level of cache make this easier.

Sources: Walker, ACM TOMS 3(3), 1977 (alias tables); Canonne, Kamath and Steinke, "The discrete
Gaussian for differential privacy", NeurIPS 2020 (the law); Micciancio and Walter, "Gaussian
sampling over the integers", CRYPTO 2017 (convolutions for large deviations).
"""

import math
import operator
import secrets
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _alias, _laws, _slices
from ._alias import Table
from ._checks import LANE_DTYPES, check_array, check_integer
from .aes_ctr import MAX_POSITION, one

#: Bytes of a seed.
SEED_BYTES = 32
#: Largest parameters: what two tables of at most 2^16 columns, or one of 2^21, can give.
MAX_GAUSSIAN_VARIANCE = 1 << 44
MAX_SKELLAM_VARIANCE = 1 << 28
MAX_LAPLACE_SCALE = 1 << 24
MAX_POLYA_SCALE = 1 << 14
MAX_SHARES = 1 << 20
MAX_TRIALS = 1 << 30

# Up to these a single table has at most 2^16 columns: a mebibyte, which caches of the second
# level hold, and a tenth of a second of work.
_SINGLE_VARIANCE = 1 << 24
_SINGLE_SCALE = 1 << 9
# A tile's keystream takes 256 KiB: it stays in a core's second-level cache, and the tile is long
# enough that calling the kernels costs little beside it.
_TILE = 1 << 14
_WORDS = 2

_OUT = (np.dtype(np.int64), *LANE_DTYPES)
Name = Literal["discrete-gaussian", "skellam", "discrete-laplace", "polya-difference", "binomial"]


@dataclass(frozen=True, slots=True)
class Law:
    """A law of integer noise, symmetric about 0; made by the functions of this module.

    `parameter` is the variance, scale or number of trials that the law was made with; `shares`
    is 1 but for `polya_difference`. Laws are values: equal ones share their tables.
    """

    name: Name
    parameter: Fraction
    shares: int = 1

    @property
    def variance(self) -> float:
        """The variance of the ideal law, to the precision of a float.

        A discrete Gaussian's parameter is its variance only for large ones: at 0.09 the variance
        is 0.00767, from 2 on the two differ by less than 1e-13.
        """
        value = float(self.parameter)
        if self.name == "discrete-gaussian" and value < 4:
            weights = [math.exp(-x * x / (2 * value)) for x in range(80)]
            second = math.fsum(x * x * weight for x, weight in enumerate(weights))
            return 2 * second / (2 * math.fsum(weights) - 1)
        if self.name in ("discrete-laplace", "polya-difference"):
            # 2 q / (1 - q)^2 with q = exp(-1 / scale).
            return 1 / (2 * math.sinh(min(1 / (2 * value), 300.0)) ** 2) / self.shares
        return value / 4 if self.name == "binomial" else value

    @property
    def tables(self) -> "Tables":
        """The tables to draw from. The first use builds them: at most some seconds."""
        return _tables(self)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What a law is sampled with: a sample is the sum of factor * draw over the parts.

    `parts`: pairs of a factor and a table, whose draws are independent. `bound`: the largest
    |sample|. `total_variation` and `log_ratio`: how far one coordinate is from the ideal law, as
    the module's text says; both are upper bounds.
    """

    parts: tuple[tuple[int, Table], ...]
    log_ratio: float = 0.0

    @property
    def bound(self) -> int:
        """The largest magnitude of a sample."""
        return sum(abs(factor) * table.bound for factor, table in self.parts)

    @property
    def total_variation(self) -> float:
        """An upper bound of the distance of one coordinate from the law, or its convolution."""
        return sum(table.total_variation for _, table in self.parts) * (1 + 2.0**-50)


def discrete_gaussian(variance: int | Fraction) -> Law:
    """P(x) ~ exp(-x^2 / (2 variance)), variance in levels^2, an exact number up to 2^44.

    Raises ValueError for anything else; a float is not exact.
    """
    return Law("discrete-gaussian", _exact("variance", variance, MAX_GAUSSIAN_VARIANCE))


def skellam(variance: int) -> Law:
    """The difference of two Poisson variables of mean variance / 2, for 1 <= variance <= 2^28.

    `variance` is an integer in levels^2. Raises ValueError for anything else.
    """
    return Law("skellam", Fraction(check_integer("variance", variance, 1, MAX_SKELLAM_VARIANCE)))


def discrete_laplace(scale: int | Fraction) -> Law:
    """P(x) ~ exp(-|x| / scale), scale in levels, an exact number up to 2^24.

    Raises ValueError for anything else; a float is not exact.
    """
    return Law("discrete-laplace", _exact("scale", scale, MAX_LAPLACE_SCALE))


def polya_difference(scale: int, shares: int) -> Law:
    """One of `shares` independent parts whose sum is `discrete_laplace(scale)`.

    It is X - X' for two Polya (negative binomial) variables with r = 1 / shares and
    q = exp(-1 / scale): sums of these add their r, and at r = 1 they are geometric. `scale` is an
    integer in levels from 1 to 2^14, `shares` from 1 to 2^20. Raises ValueError for anything else.
    """
    return Law(
        "polya-difference",
        Fraction(check_integer("scale", scale, 1, MAX_POLYA_SCALE)),
        check_integer("shares", shares, 1, MAX_SHARES),
    )


def binomial(trials: int) -> Law:
    """Half the sum of `trials` signs: Binomial(trials, 1/2) - trials / 2, of variance trials / 4.

    `trials` is even, so that the law lies on the integers, from 2 to 2^30. Raises ValueError for
    anything else.
    """
    trials = check_integer("trials", trials, 2, MAX_TRIALS)
    if trials % 2:
        raise ValueError("trials must be even")
    return Law("binomial", Fraction(trials))


class Draws:
    """Samples of independent coordinates, which are a pure function of seed and coordinate.

    `tables`: those of a law; `seed`: 32 bytes, uniform and secret, for this use alone. Part p
    reads AES-128-CTR with key seed[0:16] and nonce seed[16:24], whose last byte is added to p by
    exclusive-or; coordinate i is block i, its first and last 8 bytes read as little-endian words,
    the upper and the lower one of the draw. seed[24:32] is not used.

    Raises ValueError for a seed of another type or length.
    """

    __slots__ = ("_parts",)

    def __init__(self, tables: Tables, seed: bytes) -> None:
        if not isinstance(seed, bytes | bytearray | memoryview) or len(seed) != SEED_BYTES:
            raise ValueError(f"seed must be {SEED_BYTES} bytes")
        seed = bytes(seed)
        self._parts = [
            (factor, table, one(seed[:16], seed[16:23] + bytes([seed[23] ^ part])))
            for part, (factor, table) in enumerate(tables.parts)
        ]

    def __repr__(self) -> str:
        return f"Draws({', '.join(f'{factor} * {table}' for factor, table, _ in self._parts)})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("draws hold keys and are not pickled")

    def write(self, out: NDArray[np.integer[Any]], start: int, *, threads: int = 1) -> None:
        """Write coordinates start, ..., start + n - 1 into `out`.

        `out`: int64, uint16, uint32 or uint64 [n]; in unsigned lanes a sample is taken modulo
        2^lane. At most `threads` threads share the work; the result does not depend on their
        number, nor on how a vector is cut into stretches.

        Raises ValueError for a wrong dtype, shape or layout, a read-only `out`, a negative
        `start`, or coordinates beyond 2^62; `out` is then unchanged.
        """
        self._run(out, start, threads, add=False)

    def add(self, out: NDArray[np.integer[Any]], start: int, *, threads: int = 1) -> None:
        """As `write`, but add to what `out` holds, modulo 2^lane (2^64 for int64)."""
        self._run(out, start, threads, add=True)

    def _run(self, out: NDArray[Any], start: int, threads: int, *, add: bool) -> None:
        check_array("out", out, _OUT, 1, writeable=True)
        start = check_integer("start", start, 0, MAX_POSITION // _WORDS - len(out))
        threads = check_integer("threads", threads, 1, _slices.MAX_THREADS)
        out = np.asarray(out)  # a kernel takes no subclass, such as a mapped file
        lanes = out.view(np.uint64) if out.dtype == np.int64 else out

        def work(low: int, high: int) -> None:
            words = _scratch.take()
            for at in range(low, high, _TILE):
                self._tile(words, lanes[at : min(at + _TILE, high)], start + at, add)
            _scratch.give(words)

        _slices.run(work, len(lanes), _TILE, threads)

    def _tile(self, words: NDArray[Any], lanes: NDArray[Any], start: int, add: bool) -> None:
        from .kernels import sampler as kernels

        words = words[: _WORDS * len(lanes)]
        for factor, table, stream in self._parts:
            stream.add_to(words, _WORDS * start)
            body = kernels.add if add else kernels.write
            body(words, table.rows, lanes, np.uint64(factor), np.uint64(table.bits))
            add = True  # the other parts are added to the first


class _Scratch(threading.local):
    """A tile of zeros for each thread, to which keystream is added and which kernels erase again.

    Whoever takes it owns it and gives it back erased. After an exception it is not given back, nor
    does code that interrupts its user meet it: they make a new one.
    """

    def __init__(self) -> None:
        self._words: NDArray[np.uint64] | None = None

    def take(self) -> NDArray[np.uint64]:
        words, self._words = self._words, None
        return np.zeros(_WORDS * _TILE, np.uint64) if words is None else words

    def give(self, words: NDArray[np.uint64]) -> None:
        self._words = words


_scratch = _Scratch()


def sample(law: Law, count: int, *, threads: int = 1) -> NDArray[np.int64]:
    """Return `count` independent samples of a law, int64 [count].

    Each call takes a fresh seed of the operating system and keeps no state, so that processes
    which forked draw different samples. Raises ValueError for a negative count.
    """
    out = np.empty(check_integer("count", count, 0, MAX_POSITION // _WORDS), np.int64)
    Draws(law.tables, secrets.token_bytes(SEED_BYTES)).write(out, 0, threads=threads)
    return out


@lru_cache(maxsize=16)
def _tables(law: Law) -> Tables:
    value = law.parameter
    match law.name:
        case "discrete-gaussian":
            if value > _SINGLE_VARIANCE:
                return _convolved_gaussian(value, _multiplier(value))
            weights = _laws.gaussian(value)
        case "discrete-laplace":
            if value > _SINGLE_SCALE:
                return _split_laplace(value, 1 << (89 * int(value)).bit_length() // 2)
            weights = _laws.laplace(value)
        case "skellam":
            weights = _laws.skellam(int(value))
        case "polya-difference":
            weights = _laws.polya_difference(int(value), law.shares)
        case "binomial":
            weights = _laws.binomial(int(value) // 2)
    return Tables(((1, _alias.build(weights)),))


def _multiplier(variance: Fraction) -> int:
    """Return the largest k with sigma >= 2 (k^2 + 1): see `_convolved_gaussian`."""
    return math.isqrt(math.isqrt(int(variance / 4)) - 1)


def _convolved_gaussian(variance: Fraction, k: int) -> Tables:
    """Return k * X1 + X2 for two discrete Gaussians of variance sigma1^2 = variance / (k^2 + 1).

    With sigma^2 = variance and j running over the integers,
        P(x) ~ sum_j exp(-(j^2 + (x - k j)^2) / (2 sigma1^2))
             = exp(-x^2 / (2 sigma^2)) * sum_j exp(-(j - c)^2 / (2 s^2)),
    c = k x / (k^2 + 1), s = sigma1 / sqrt(k^2 + 1) = sigma / (k^2 + 1). By Poisson's summation
    formula the last sum is s sqrt(2 pi) (1 + 2 sum_n exp(-2 pi^2 n^2 s^2) cos(2 pi n c)), n >= 1,
    which is within the factors 1 +- e of s sqrt(2 pi) for e = 2 t / (1 - t),
    t = exp(-2 pi^2 s^2). The normalising constant is an average of such sums, hence
    |log(P(x) / ideal(x))| <= log((1 + e) / (1 - e)), about 4 t. At s >= 2 that is below 2^-111.
    """
    part = variance / (k * k + 1)
    table = _alias.build(_laws.gaussian(part))
    t = math.exp(-2 * math.pi**2 * float(part / (k * k + 1)))
    e = 2 * t / (1 - t)
    # The factor covers the rounding of these few operations on floats.
    log_ratio = (math.log1p(e) - math.log1p(-e)) * (1 + 1e-9)
    return Tables(((k, table), (1, table)), log_ratio)


def _split_laplace(scale: Fraction, k: int) -> Tables:
    """Return k * (Q - Q') + (R - R'), which is the discrete Laplace law exactly.

    A geometric variable is X = k Q + R with Q geometric of ratio q^k and R on [0, k) with
    P(r) ~ q^r, independent of each other, because q^(k Q + R) is a product; and the discrete
    Laplace law is that of X - X'.
    """
    multiples = _alias.build(_laws.laplace(scale / k))
    rest = _alias.build(_laws.truncated_geometric_difference(scale, k))
    return Tables(((k, multiples), (1, rest)))


def _exact(name: str, value: object, high: int) -> Fraction:
    """Return a positive integer or Fraction as a Fraction, or raise ValueError."""
    if not isinstance(value, Fraction):
        try:
            value = Fraction(operator.index(value))  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(f"{name} must be an integer or a Fraction") from None
    if not 0 < value <= high:
        raise ValueError(f"{name} must be positive and at most {high}")
    return value


__all__ = [
    "MAX_GAUSSIAN_VARIANCE",
    "MAX_LAPLACE_SCALE",
    "MAX_POLYA_SCALE",
    "MAX_SHARES",
    "MAX_SKELLAM_VARIANCE",
    "MAX_TRIALS",
    "SEED_BYTES",
    "Draws",
    "Law",
    "Table",
    "Tables",
    "binomial",
    "discrete_gaussian",
    "discrete_laplace",
    "polya_difference",
    "sample",
    "skellam",
]
