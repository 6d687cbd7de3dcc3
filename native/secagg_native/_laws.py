"""Weights of integer noise laws, as integers between proven bounds.

Every law here is symmetric about 0. Its weights g(x), x = 0, 1, 2, ..., are proportional to its
probabilities and g(0) is close to 1. A number is a pair (low, high) of integers in units of
2^-FRACTION with low <= true value * 2^FRACTION <= high: each operation rounds its lower end down
and its upper end up, so that the bounds hold whatever the rounding did, and no floating point
takes part. How far apart the ends came is counted in the distance that `_alias` states.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from math import isqrt

#: Bits behind the point. Weights below 2^-128 do not count, and the widest pair that a law within
#: the limits of `sampler` leads to stays below 2^-200.
FRACTION = 256
ONE = 1 << FRACTION

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a symmetric law: pairs for x = 0, 1, 2, ...; a finite law ends with (0, 0).

    `ratio` is at least every g(x+1) / g(x), in units of 2^-FRACTION. None says that these ratios
    never increase (the law is log-concave), so that the last one seen bounds those that follow.
    """

    pairs: Iterator[Pair]
    ratio: int | None = None


def exp_minus(y: Fraction) -> Pair:
    """Bound exp(-y) for y >= 0.

    With z = y / 2^s < 1/16, the partial sums of the alternating series of exp(-z), whose terms
    shrink, enclose it; s squarings follow.
    """
    extra = 64
    bits = FRACTION + extra
    halvings = max(0, 5 + y.numerator.bit_length() - y.denominator.bit_length())
    divisor = y.denominator << halvings
    low = high = term_low = term_high = 1 << bits
    n = 0
    while term_high > 1:
        n += 1
        term_low = term_low * y.numerator // (divisor * n)
        term_high = -(-term_high * y.numerator // (divisor * n))
        if n % 2:
            low, high = low - term_high, high - term_low
        else:
            low, high = low + term_low, high + term_high
    # What is left out is at most the last term.
    low, high = max(low - term_high, 0), min(high + term_high, 1 << bits)
    for _ in range(halvings):
        low, high = low * low >> bits, -(-high * high >> bits)
    return low >> extra, -(-high >> extra)


def times(a: Pair, b: Pair) -> Pair:
    """Bound the product of two numbers that are not negative."""
    return a[0] * b[0] >> FRACTION, -(-a[1] * b[1] >> FRACTION)


def products(ratios: Iterable[Pair]) -> Iterator[Pair]:
    """Give g(0) = 1 and g(x) = g(x-1) * ratio(x) for the ratios of x = 1, 2, ..."""
    weight = (ONE, ONE)
    yield weight
    for ratio in ratios:
        weight = times(weight, ratio)
        yield weight


def gaussian(variance: Fraction) -> Weights:
    """g(x) = exp(-x^2 / (2 variance)): Canonne, Kamath and Steinke, NeurIPS 2020, definition 1.

    The ratio at x is exp(-(2x - 1) / (2 variance)), which shrinks by exp(-1 / variance).
    """

    def ratios() -> Iterator[Pair]:
        ratio, step = exp_minus(1 / (2 * variance)), exp_minus(1 / variance)
        while True:
            yield ratio
            ratio = times(ratio, step)

    return Weights(products(ratios()))


def laplace(scale: Fraction) -> Weights:
    """g(x) = q^x with q = exp(-1 / scale)."""
    q = exp_minus(1 / scale)
    return Weights(products(repeat(q)))


def truncated_geometric_difference(scale: Fraction, size: int) -> Weights:
    """Weights of R - R' for independent R, R' with P(r) ~ q^r on [0, size), q = exp(-1 / scale).

    P(d) ~ sum of q^(2r + d) over 0 <= r < size - d, which is ~ q^d - q^(2 size - d). The
    difference of two log-concave variables is log-concave.
    """
    q = exp_minus(1 / scale)
    powers = products(repeat(q))
    table = [next(powers) for _ in range(2 * size + 1)]

    def pairs() -> Iterator[Pair]:
        for d in range(size):
            (low, high), (far_low, far_high) = table[d], table[2 * size - d]
            yield max(low - far_high, 0), high - far_low
        yield 0, 0

    return Weights(pairs())


def binomial(half: int) -> Weights:
    """g(x) = C(2 half, half + x) / C(2 half, half): ratios (half - x + 1) / (half + x)."""

    def ratios() -> Iterator[Pair]:
        for x in range(1, half + 2):
            scaled = (half - x + 1) << FRACTION
            yield scaled // (half + x), -(-scaled // (half + x))

    return Weights(products(ratios()))


def skellam(variance: int) -> Weights:
    """g(x) = I_x(variance) / I_0(variance), I the modified Bessel function of the first kind.

    Miller's backward recurrence in the form of ratios: I_(n-1) - I_(n+1) = (2n / variance) I_n
    (DLMF 10.29.1) gives ratio(n) = 1 / (2n / variance + ratio(n+1)), which decreases in
    ratio(n+1); so bounds pass from each ratio to the one before, and they come closer, from
    0 <= ratio <= 1 at the start, which lies behind the last weight that counts: 15 standard
    deviations for large variances, whose tail is Gaussian, and 96 for small ones.
    """
    last = 15 * isqrt(variance) + 96
    low, high = 0, ONE
    found: list[Pair] = []
    scale = variance << 2 * FRACTION
    for n in range(last, 0, -1):
        first = 2 * n << FRACTION
        low, high = scale // (first + variance * high), -(-scale // (first + variance * low))
        high = min(high, ONE)
        found.append((low, high))
    return Weights(products(_backwards(found)))


def polya_difference(scale: int, shares: int) -> Weights:
    """Weights of X - X', X and X' Polya(r, q) variables: r = 1 / shares, q = exp(-1 / scale).

    P(X = k) ~ q^k r (r+1) ... (r+k-1) / k!, the negative binomial law for any r > 0. The
    difference has the generating function h(z) ~ (1 + q^2 - q (z + 1/z))^-r. Comparing
    coefficients in (1 + q^2 - q (z + 1/z)) z h'(z) = r q (z - 1/z) h(z) gives
        (1 + q^2) d g(d) = q (d - 1 + r) g(d-1) + q (d + 1 - r) g(d+1),
    hence ratio(d) = q (d - 1 + r) / ((1 + q^2) d - q (d + 1 - r) ratio(d+1)), which increases in
    ratio(d+1); so bounds pass from each ratio to the one before, and they come closer. At the
    start q (d - 1 + r) / d <= ratio(d) <= q, since g(d) ~ sum over k of f(k) f(k+d) with
    f(k+d) / f(k+d-1) = q (k + d - 1 + r) / (k + d) and r <= 1. That upper bound holds everywhere.
    """
    q = q_low, q_high = exp_minus(Fraction(1, scale))
    square = times(q, q)
    last = 97 * scale + 96
    low, high = q_low * (shares * (last - 1) + 1) // (shares * last), q_high
    found = [(low, high)]
    one_low, one_high = (ONE + square[0]) * shares, (ONE + square[1]) * shares
    for d in range(last - 1, 0, -1):
        before, after = shares * (d - 1) + 1, shares * (d + 1) - 1
        under_high = one_high * d - (after * q_low * low >> FRACTION)
        under_low = one_low * d - (-(-after * q_high * high >> FRACTION))
        low = (q_low * before << FRACTION) // under_high
        high = min(-(-(q_high * before << FRACTION) // under_low), q_high)
        found.append((low, high))
    return Weights(products(_backwards(found)), q_high)


def _backwards(found: list[Pair]) -> Iterator[Pair]:
    """Give the last pair first, and let go of each: there may be a million of them."""
    while found:
        yield found.pop()
