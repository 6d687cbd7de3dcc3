"""Arithmetic over GF(p), p = 2^61 - 1, on arrays of elements below p.

An element is cut into a low limb of 31 bits and a high one of 30. Every multiplication is then one
of 32 by 32 bits, which vector units have, and four products can be summed before they are reduced:
with vectors of four or eight lanes that is three times as fast as the 64-bit multiplier with its
128-bit product. Inner loops run over whole slices because that is the form that the compiler turns
into vector code. No branch and no index depends on an element, except in `shortest_recurrence` and
for the zero weights of `lagrange`, which know only where the errors are.
"""

import numpy as np
from numpy.typing import NDArray

from ._jit import inlined, kernel

Elements = NDArray[np.uint64]

# Loops over points and columns go by tiles of this many elements, which stay in the nearest cache.
TILE = 256
# Rows up to this length, less than a vector, are multiplied element by element.
SHORT = 7
# Rows of the scratch space of `evaluate`: four powers of each point of a tile, and the values.
EVALUATE_ROWS = 5

_P = np.uint64((1 << 61) - 1)
_0, _1 = np.uint64(0), np.uint64(1)
_LOW29, _LOW30 = np.uint64((1 << 29) - 1), np.uint64((1 << 30) - 1)
_LOW31, _LOW32 = np.uint64((1 << 31) - 1), np.uint64((1 << 32) - 1)
_29, _30, _31, _32, _61 = (np.uint64(bits) for bits in (29, 30, 31, 32, 61))


@inlined
def _last(s: np.uint64) -> np.uint64:
    """Reduce s < 2p to below p: s + 1 reaches 2^61 exactly when s >= p."""
    return (s + ((s + _1) >> _61)) & _P


@inlined
def _high(a: np.uint64) -> np.uint64:
    """Return the high limb; the mask changes nothing, but shows that 32 bits hold it."""
    return (a >> _31) & _LOW32


@inlined
def _four(
    a: np.uint64,
    b: np.uint64,
    c: np.uint64,
    d: np.uint64,
    w: np.uint64,
    x: np.uint64,
    y: np.uint64,
    z: np.uint64,
    plus: np.uint64,
) -> np.uint64:
    """Return a*w + b*x + c*y + d*z + plus, congruent mod p and at most p + 7.

    Each may be up to p - 1, and one factor and `plus` up to p + 7. A product is
    high*2^62 + middle*2^31 + low, and 2^61 = 1 mod p. Each sum of four `low` is below 2^64, each
    of eight middle products is below 8 * 2^61, each of four `high` at most 2^62; so the last sum is
    below 2^63 + 2^34 + 3 * 2^61 + 16 < 2^64, and nothing wraps.
    """
    a0, a1, w0, w1 = a & _LOW31, _high(a), w & _LOW31, _high(w)
    b0, b1, x0, x1 = b & _LOW31, _high(b), x & _LOW31, _high(x)
    c0, c1, y0, y1 = c & _LOW31, _high(c), y & _LOW31, _high(y)
    d0, d1, z0, z1 = d & _LOW31, _high(d), z & _LOW31, _high(z)
    low = a0 * w0 + b0 * x0 + c0 * y0 + d0 * z0
    middle = a0 * w1 + a1 * w0 + b0 * x1 + b1 * x0 + c0 * y1 + c1 * y0 + d0 * z1 + d1 * z0
    high = a1 * w1 + b1 * x1 + c1 * y1 + d1 * z1
    s = (high + high) + (middle >> _30) + ((middle & _LOW30) << _31)
    s += (low & _P) + (low >> _61) + plus
    return (s & _P) + (s >> _61)


@inlined
def _mul(a: np.uint64, b: np.uint64) -> np.uint64:
    return _last(_four(a, _0, _0, _0, b, _0, _0, _0, _0))


@inlined
def _sub(a: np.uint64, b: np.uint64) -> np.uint64:
    return _last(a + (_P - b))


@inlined
def _inverse(a: np.uint64) -> np.uint64:
    """Return a^(p-2), the inverse of a where it has one: p - 2 is 59 ones, a zero and a one."""
    result, ones = a, 1
    for bit in range(4, -1, -1):
        # The number of ones grows as the binary digits of 59 tell: 1, 3, 7, 14, 29, 59.
        power = result
        for _ in range(ones):
            power = _mul(power, power)
        result, ones = _mul(power, result), 2 * ones
        if (59 >> bit) & 1:
            result, ones = _mul(_mul(result, result), a), ones + 1
    result = _mul(result, result)
    return _mul(_mul(result, result), a)


@inlined
def _total(low: np.uint64, high: np.uint64) -> np.uint64:
    """Return high*2^32 + low mod p, for high < 2^61."""
    s = ((high & _LOW29) << _32) + (high >> _29) + (low & _P) + (low >> _61)
    return _last((s & _P) + (s >> _61))


@inlined
def _dot(a: Elements, b: Elements) -> np.uint64:
    """Return the sum of a*b mod p over slices of one length, which is below 2^31."""
    low, high = _0, _0
    for i in range(len(a)):
        product = _four(a[i], _0, _0, _0, b[i], _0, _0, _0, _0)
        # The halves of a product are summed apart, so that no sum wraps.
        low += product & _LOW32
        high += product >> _32
    return _total(low, high)


@inlined
def _step(
    values: Elements,
    terms: tuple[np.uint64, np.uint64, np.uint64, np.uint64],
    first: Elements,
    second: Elements,
    third: Elements,
    fourth: Elements,
) -> None:
    """Replace v by v*fourth + terms[3]*third + terms[2]*second + terms[1]*first + terms[0]."""
    c0, c1, c2, c3 = terms
    for i in range(len(values)):
        values[i] = _four(c1, c2, c3, values[i], first[i], second[i], third[i], fourth[i], c0)


@inlined
def _accumulate(
    values: Elements,
    factors: tuple[np.uint64, np.uint64, np.uint64, np.uint64],
    first: Elements,
    second: Elements,
    third: Elements,
    fourth: Elements,
) -> None:
    """Add factors[0]*first + ... + factors[3]*fourth to the values."""
    a, b, c, d = factors
    for i in range(len(values)):
        values[i] = _four(a, b, c, d, first[i], second[i], third[i], fourth[i], values[i])


@kernel
def add(a: Elements, b: Elements, out: Elements) -> None:
    """Set out = a + b mod p; all [n]."""
    for i in range(len(out)):
        out[i] = _last(a[i] + b[i])


@kernel
def sub(a: Elements, b: Elements, out: Elements) -> None:
    """Set out = a - b mod p; all [n]."""
    for i in range(len(out)):
        out[i] = _sub(a[i], b[i])


@kernel
def mul(a: Elements, b: Elements, out: Elements) -> None:
    """Set out = a * b mod p; all [n]."""
    for i in range(len(out)):
        out[i] = _mul(a[i], b[i])


@kernel
def inv(a: Elements, out: Elements) -> None:
    """Set out = 1/a mod p, both [n], other arrays, without zeros: one power in all.

    Montgomery's trick: each inverse is the inverse of all before and up to it, times their product.
    """
    running = _1
    for i in range(len(a)):
        out[i] = running
        running = _mul(running, a[i])
    running = _inverse(running)
    for i in range(len(a) - 1, -1, -1):
        out[i] = _mul(out[i], running)
        running = _mul(running, a[i])


@kernel
def evaluate(coefficients: Elements, points: Elements, work: Elements, out: Elements) -> None:
    """Set out[i, j] to polynomial j at point i, by four steps of Horner's rule at a time.

    `coefficients`: [m, t], t >= 1, lowest first; `points`: [n]; `work`: [EVALUATE_ROWS, TILE];
    `out`: [n, m].
    """
    m, t = coefficients.shape
    head = (t - 1) % 4
    for low in range(0, len(points), TILE):
        x = points[low : low + TILE]
        w = len(x)
        square, cube, fourth, v = work[1, :w], work[2, :w], work[3, :w], work[4, :w]
        for i in range(w):
            square[i] = _mul(x[i], x[i])
            cube[i] = _mul(square[i], x[i])
            fourth[i] = _mul(square[i], square[i])
        for j in range(m):
            c = coefficients[j]
            v[:] = c[t - 1]
            for k in range(t - 2, t - 2 - head, -1):
                for i in range(w):
                    v[i] = _four(v[i], _0, _0, _0, x[i], _0, _0, _0, c[k])
            for k in range(t - 2 - head, -1, -4):
                _step(v, (c[k - 3], c[k - 2], c[k - 1], c[k]), x, square, cube, fourth)
            for i in range(w):
                out[low + i, j] = _last(v[i])


@kernel
def matmul(a: Elements, b: Elements, out: Elements) -> None:
    """Set out [r, c] to the matrix product of a [r, k] and b [k, c]."""
    r, k = a.shape
    whole = k - k % 4
    for low in range(0, b.shape[1], TILE):
        high = min(low + TILE, b.shape[1])
        out[:, low:high] = _0
        for j in range(0, whole, 4):
            first, second = b[j, low:high], b[j + 1, low:high]
            third, fourth = b[j + 2, low:high], b[j + 3, low:high]
            for i in range(r):
                row = (a[i, j], a[i, j + 1], a[i, j + 2], a[i, j + 3])
                _accumulate(out[i, low:high], row, first, second, third, fourth)
        for j in range(whole, k):
            only = b[j, low:high]
            for i in range(r):
                _accumulate(out[i, low:high], (a[i, j], _0, _0, _0), only, only, only, only)
        for i in range(r):
            values = out[i, low:high]
            for j in range(len(values)):
                values[j] = _last(values[j])


@kernel
def combine(rows: Elements, factors: Elements, out: Elements) -> None:
    """Set out [n] to rows [n, k] times factors [k]."""
    n, k = rows.shape
    if k > SHORT:
        for i in range(n):
            out[i] = _dot(rows[i], factors)
        return
    # Rows shorter than a few vectors overlap in time better than they fill vectors.
    for i in range(n):
        total = _0
        for j in range(k % 4):
            total = _four(rows[i, j], _0, _0, _0, factors[j], _0, _0, _0, total)
        for j in range(k % 4, k, 4):
            a, b, c, d = rows[i, j], rows[i, j + 1], rows[i, j + 2], rows[i, j + 3]
            w, x, y, z = factors[j], factors[j + 1], factors[j + 2], factors[j + 3]
            total = _four(a, b, c, d, w, x, y, z, total)
        out[i] = _last(total)


@kernel
def derivatives(points: Elements, out: Elements) -> None:
    """Set out[i] to the product of all points[i] - points[j], j != i; both [n].

    The products are zero where a point is repeated, and nowhere else.
    """
    out[:] = _1
    for j in range(len(points)):
        point = points[j]
        for i in range(len(points)):
            # A point's difference with itself, and no other zero, counts as one.
            out[i] = _mul(out[i], _sub(points[i], point) + np.uint64(i == j))


@kernel
def lagrange(points: Elements, weights: Elements, targets: Elements, out: Elements) -> None:
    """Set out [r, n] to the matrix that takes values at the points [n] to values at targets [r].

    `weights` [n] holds 1 / prod_{k != i}(x_i - x_k) over the points that are used, and zero for the
    others. A target may be one of the points.
    """
    n = len(points)
    for row in range(len(targets)):
        target, basis = targets[row], out[row]
        running = _1
        for i in range(n):
            basis[i] = running
            if weights[i] != _0:
                running = _mul(running, _sub(target, points[i]))
        running = _1
        for i in range(n - 1, -1, -1):
            basis[i] = _mul(_mul(basis[i], running), weights[i])
            if weights[i] != _0:
                running = _mul(running, _sub(target, points[i]))


@kernel
def syndromes(points: Elements, terms: Elements, out: Elements) -> None:
    """Set out[k] to the sum of terms[i] * points[i]^k; the terms [n] are used up."""
    for k in range(len(out)):
        low, high = _0, _0
        for i in range(len(points)):
            term = terms[i]
            low += term & _LOW32
            high += term >> _32
            terms[i] = _mul(term, points[i])
        out[k] = _total(low, high)


@kernel
def shortest_recurrence(backwards: Elements, work: Elements) -> int:
    """Find the least L and c with s_n + c_1 s_(n-1) + ... + c_L s_(n-L) = 0, L <= n.

    `backwards` is s [N] with its last element first; `work` is [3, limit + 1]. Returns L, with
    1, c_1, ..., c_L at the start of work[0], or -1 where L would exceed the limit.
    Berlekamp-Massey over GF(p).
    """
    current, previous, spare = work[0], work[1], work[2]
    width, count = len(current), len(backwards)
    for i in range(width):
        current[i] = previous[i] = _0
    current[0] = previous[0] = inverse = _1
    length, gap = 0, 1
    for n in range(count):
        here = count - 1 - n
        discrepancy = _dot(current[: length + 1], backwards[here : here + length + 1])
        if discrepancy == _0:
            gap += 1
            continue
        longer = n + 1 - length
        if longer > length:
            if longer >= width:
                return -1
            for i in range(width):
                spare[i] = current[i]
        factor = _mul(_P - discrepancy, inverse)
        # The degree of `previous`, and `gap`, are together at most max(length, longer) < width.
        for i in range(width - gap):
            current[gap + i] = _last(current[gap + i] + _mul(factor, previous[i]))
        if longer > length:
            length, gap, inverse = longer, 1, _inverse(discrepancy)
            for i in range(width):
                previous[i] = spare[i]
        else:
            gap += 1
    return length
