"""Randomised Walsh-Hadamard rotation of a vector, in place.

Rotating spreads every coordinate over all others, so that the range of the result follows from
the norm of the vector and few levels are enough to quantise it. Source: Suresh, Yu, Kumar and
McMahan, "Distributed mean estimation with limited communication", ICML 2017, section 3.

The rotation is R = H·D / sqrt(d'), where H is the Walsh-Hadamard matrix of order d' = 2^m in its
natural order, H[i, j] = (-1)^popcount(i & j), and D = diag(s). The sign s_i is -1 where bit
i % 64 of the little-endian 64-bit lane i // 64 of an AES-128-CTR keystream is set, else +1. R is
orthogonal and its inverse is D·H / sqrt(d').

Every machine computes the same bits, because the sequence of operations is fixed. With c the
array's float type nearest to 2^(-m/2), `rotate` first replaces x_i by x_i·(s_i·c) and then, for
h = 1, 2, 4, ..., d'/2, each pair a = x_i, b = x_{i+h} (bit h of i clear) by a + b, a - b.
`unrotate` runs the same steps in reverse order, from h = d'/2 down to 1, and multiplies last.
Each operation is rounded once; c is exact where m is even.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _slices
from ._checks import check_array, check_integer
from .aes_ctr import MAX_POSITION, Keystreams, one

#: Elements whose signs are expanded at a time: 32 KiB of keystream, the only array besides x.
SLICE = 1 << 18
#: A vector is cut into as many parts as a radix-8 pass has rows, per eight threads.
_PARTS = 8
# As kernels.hadamard has it: vectors shorter than a tile are left to numpy.
_TILE_BYTES = 512

_REALS = (np.dtype(np.float32), np.dtype(np.float64))


def padded_size(d: int) -> int:
    """Return d', the smallest power of two that is at least `d`, and at least 1.

    Raises ValueError unless `d` is an integer from 0 to 2^62.
    """
    return 1 << max(check_integer("d", d, 0, MAX_POSITION // 2) - 1, 0).bit_length()


def rotate(x: NDArray[np.floating[Any]], key: bytes, nonce: bytes, *, threads: int = 1) -> None:
    """Replace `x` by H·diag(s)·x / sqrt(d'), in place.

    `x`: float32 or float64 [d'], d' a power of two (see `padded_size`); `key`: 16 bytes; `nonce`:
    8 bytes. The Euclidean norm is kept, but for rounding: with u = 2^-24 (float32) or 2^-53 and
    m = log2(d'), the result differs from the exact one by at most about (m + 2)·u times the norm
    of `x`, in norm: each level, the factor and its products add a relative error of at most u.
    NaN and infinity are not searched for and spread to all coordinates. The result does not
    depend on `threads`, the most threads that share the work; each needs 32 KiB beside `x`.

    Raises ValueError for a wrong dtype, shape or layout, a read-only `x`, a length that is no
    power of two, or a key or nonce of another length; `x` is then unchanged.
    """
    stream, scale, threads = _check(x, key, nonce, threads)
    if x.nbytes < _TILE_BYTES:
        with np.errstate(all="ignore"):  # as kernels do
            x *= _small_factors(x, stream, scale)
            for level in range(len(x).bit_length() - 1):
                _small_level(x, 1 << level)
        return
    from .kernels import hadamard

    part = _part(len(x), threads)

    def each(low: int, high: int) -> None:
        signs = np.empty(min(SLICE, part) // 64 or 1, np.uint64)
        for start in range(low * part, high * part, part):
            _ascend(hadamard, x[start : start + part], stream, start, signs, scale)

    _slices.run(each, len(x) // part, 1, threads)
    for half, levels in _passes(part, len(x)):
        _sweep(hadamard.sweep_up, x, half, levels, threads)


def unrotate(x: NDArray[np.floating[Any]], key: bytes, nonce: bytes, *, threads: int = 1) -> None:
    """Replace `x` by diag(s)·H·x / sqrt(d'), in place: the inverse of `rotate`.

    Arguments, errors and the bound on rounding are those of `rotate`. The sums before the last
    step are sqrt(d') times those of `rotate`, and must stay in the range of the float type.
    """
    stream, scale, threads = _check(x, key, nonce, threads)
    if x.nbytes < _TILE_BYTES:
        with np.errstate(all="ignore"):
            for level in reversed(range(len(x).bit_length() - 1)):
                _small_level(x, 1 << level)
            x *= _small_factors(x, stream, scale)
        return
    from .kernels import hadamard

    part = _part(len(x), threads)

    def each(low: int, high: int) -> None:
        signs = np.empty(min(SLICE, part) // 64 or 1, np.uint64)
        for start in range(low * part, high * part, part):
            _descend(hadamard, x[start : start + part], stream, start, signs, scale)

    for half, levels in reversed(_passes(part, len(x))):
        _sweep(hadamard.sweep_down, x, half, levels, threads)
    _slices.run(each, len(x) // part, 1, threads)


def _check(
    x: NDArray[np.floating[Any]], key: bytes, nonce: bytes, threads: int
) -> tuple[Keystreams, Any, int]:
    check_array("x", x, _REALS, 1, writeable=True)
    if len(x) == 0 or len(x) & (len(x) - 1):
        raise ValueError("x must have a power of two of elements")
    threads = check_integer("threads", threads, 1, _slices.MAX_THREADS)
    pairs, odd = divmod(len(x).bit_length() - 1, 2)
    scale = math.ldexp(math.sqrt(0.5) if odd else 1.0, -pairs)
    return one(key, nonce), x.dtype.type(scale), threads


def _part(length: int, threads: int) -> int:
    """Return the size of the parts that threads finish alone, before the levels across parts."""
    parts = 1
    while parts < threads and length // (parts * _PARTS) >= SLICE:
        parts *= _PARTS
    return length // parts


def _passes(size: int, length: int) -> list[tuple[int, int]]:
    """Return (distance, levels) of each pass that takes blocks of `size` to `length`, ascending.

    A pass covers three levels, but for the first, which takes what three does not divide while
    blocks are small.
    """
    found = []
    while size < length:
        levels = ((length // size).bit_length() - 1) % 3 or 3
        found.append((size, levels))
        size <<= levels
    return found


def _ascend(
    kernels: Any,
    x: NDArray[Any],
    stream: Keystreams,
    start: int,
    signs: NDArray[np.uint64],
    scale: Any,
) -> None:
    """Rotate the block `x` that begins at element `start`, depth first as the kernel does."""
    size = min(SLICE, len(x))
    passes = _passes(size, len(x))
    for low in range(0, len(x), size):
        _expand(stream, start + low, signs)
        kernels.ascend(x[low : low + size], signs, scale)
        high = low + size
        for half, levels in passes:
            if high % (half << levels):
                break
            kernels.sweep_up(x[high - (half << levels) : high], half, levels, 0, half)


def _descend(
    kernels: Any,
    x: NDArray[Any],
    stream: Keystreams,
    start: int,
    signs: NDArray[np.uint64],
    scale: Any,
) -> None:
    """Undo `_ascend`: split blocks from the largest down, each just before its parts."""
    size = min(SLICE, len(x))
    passes = _passes(size, len(x))
    for low in range(0, len(x), size):
        for half, levels in reversed(passes):
            if low % (half << levels) == 0:
                kernels.sweep_down(x[low : low + (half << levels)], half, levels, 0, half)
        _expand(stream, start + low, signs)
        kernels.descend(x[low : low + size], signs, scale)


def _sweep(body: Any, x: NDArray[Any], half: int, levels: int, threads: int) -> None:
    """Run one pass over all of `x`, its columns shared by threads."""
    _slices.run(lambda low, high: body(x, half, levels, low, high), half, SLICE // 64, threads)


def _expand(stream: Keystreams, start: int, signs: NDArray[np.uint64]) -> None:
    signs[:] = 0
    stream.add_to(signs, start // 64)


def _small_factors(x: NDArray[Any], stream: Keystreams, scale: Any) -> NDArray[Any]:
    lanes = np.zeros(-(-len(x) // 64), np.uint64)
    stream.add_to(lanes)
    places = np.arange(len(x), dtype=np.uint64)
    bits = lanes[places >> np.uint64(6)] >> (places & np.uint64(63)) & np.uint64(1)
    factors: NDArray[Any] = np.where(bits == 1, -scale, scale)
    return factors


def _small_level(x: NDArray[Any], half: int) -> None:
    pairs = x.reshape(-1, 2, half)
    total = pairs[:, 0] + pairs[:, 1]
    np.subtract(pairs[:, 0], pairs[:, 1], out=pairs[:, 1])
    pairs[:, 0] = total
