"""Packing of ring elements: b bits a coordinate, least significant bit first.

Value i occupies bits [i*b, (i+1)*b) of the stream; bit j of the stream is bit j % 8 of byte
j // 8. `offset` always counts coordinates of the packed stream and is a multiple of 8, so that
it falls on a byte whatever b is.
"""

from collections.abc import Iterator
from math import gcd
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._checks import LANE_DTYPES, Lanes, check_array, check_integer

Readable: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
Writable: TypeAlias = bytearray | memoryview | NDArray[np.uint8]

MAX_COUNT = 1 << 56
# Tiles of about 65,536 values make each numpy call long enough to pay for itself, and keep the
# temporaries to a few times 512 KiB whatever the length of the vector.
TILE_VALUES = 1 << 16
_WHOLE_BYTES = {8: "u1", 16: "<u2", 32: "<u4", 64: "<u8"}


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` values of `bits` bits (1 to 64) need: ceil(count*bits/8).

    Raises ValueError for a negative count or for bits out of range.
    """
    count = check_integer("count", count, 0, MAX_COUNT)
    bits = check_integer("bits", bits, 1, 64)
    return -(-count * bits // 8)


def pack(values: Lanes, bits: int, out: Writable, offset: int = 0) -> None:
    """Write the low `bits` bits of each value into `out`, from stream coordinate `offset` on.

    `values`: uint16, uint32 or uint64 [n] with lanes of at least `bits` bits; bits above are
    ignored, since a ring element modulo 2^bits may be held in a wider lane. `out`: a writable
    buffer of bytes; the packed_size(n, bits) bytes from offset*bits/8 on are overwritten, unused
    bits of the last one with zeros, and no other byte is touched. So every call but the last of
    a tile-by-tile walk passes a multiple of 8 values.

    Raises ValueError for a wrong dtype, layout, bits or offset, or an `out` that is too short.
    """
    check_array("values", values, LANE_DTYPES, 1)
    bits = _lane_bits(values, bits)
    target = _stretch("out", _bytes("out", out, writeable=True), len(values), bits, offset)
    if bits in _WHOLE_BYTES:
        kind = _WHOLE_BYTES[bits]
        np.copyto(target.view(kind), values, casting="unsafe")
        return
    cols, _ = _group(bits)
    whole = len(values) // cols * cols
    step = max(1, TILE_VALUES // cols) * cols
    for low in range(0, whole, step):
        tile = values[low : min(low + step, whole)]
        at = low * bits // 8
        packed = _pack_groups(tile, bits)
        target[at : at + len(packed)] = packed
    if whole < len(values):
        tail = np.zeros(cols, np.uint64)
        tail[: len(values) - whole] = values[whole:]
        rest = target[whole * bits // 8 :]
        rest[:] = _pack_groups(tail, bits)[: len(rest)]


def unpack(data: Readable, bits: int, out: Lanes, offset: int = 0) -> None:
    """Read len(out) values of `bits` bits from `data` into `out`, from coordinate `offset` on.

    `data`: bytes, bytearray, memoryview or uint8 array, at least as long as the coordinates read
    need (bytes beyond are ignored: `check_padding` is the check of a whole message). `out`:
    uint16, uint32 or uint64 [n] with lanes of at least `bits` bits.

    Raises ValueError for a wrong dtype, layout, bits or offset, or `data` that is too short.
    """
    check_array("out", out, LANE_DTYPES, 1, writeable=True)
    for target, values in _tiles(out, data, bits, offset):
        np.copyto(target, values, casting="unsafe")


def unpack_add(acc: Lanes, data: Readable, bits: int, offset: int = 0) -> None:
    """Add the packed values of `data` to `acc`, in place, modulo 2^16, 2^32 or 2^64.

    As `unpack`, but acc[i] += value[offset + i]; memory stays at one tile whatever the length.
    Raises ValueError as `unpack` does; `acc` is then unchanged.
    """
    check_array("acc", acc, LANE_DTYPES, 1, writeable=True)
    for target, values in _tiles(acc, data, bits, offset):
        np.add(target, values, out=target, casting="unsafe")


def check_padding(data: Readable, count: int, bits: int) -> None:
    """Refuse `data` unless it is the one encoding of `count` values of `bits` bits.

    Raises ValueError when the length is not packed_size(count, bits) or when a bit after the
    last value is set.
    """
    size = packed_size(count, bits)
    stream = _bytes("data", data)
    if len(stream) != size:
        raise ValueError(f"packed data must be {size} bytes long, not {len(stream)}")
    used = count * bits % 8
    if used and int(stream[-1]) >> used:
        raise ValueError("unused bits of the packed data must be zero")


def _group(bits: int) -> tuple[int, int]:
    """Return the smallest (values, 64-bit words) that hold the same number of bits."""
    common = gcd(bits, 64)
    return 64 // common, bits // common


def _pack_groups(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack a whole number of groups: one column of values after the other, over all groups."""
    cols, words = _group(bits)
    groups = len(values) // cols
    columns = np.empty((cols, groups), np.uint64)
    np.copyto(columns, values.reshape(groups, cols).T)
    columns &= np.uint64((1 << bits) - 1)
    packed = np.zeros((words, groups), np.uint64)
    for j in range(cols):
        word, shift = divmod(j * bits, 64)
        packed[word] |= columns[j] << np.uint64(shift)
        if shift + bits > 64:
            packed[word + 1] |= columns[j] >> np.uint64(64 - shift)
    return np.ascontiguousarray(packed.T, "<u8").view(np.uint8).reshape(-1)


def _unpack_groups(stream: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Unpack a whole number of groups into uint64 [groups, values of a group]."""
    cols, words = _group(bits)
    packed = stream.view("<u8").reshape(-1, words).T.astype(np.uint64, order="C")
    columns = np.empty((cols, packed.shape[1]), np.uint64)
    for j in range(cols):
        word, shift = divmod(j * bits, 64)
        np.right_shift(packed[word], np.uint64(shift), out=columns[j])
        if shift + bits > 64:
            columns[j] |= packed[word + 1] << np.uint64(64 - shift)
    columns &= np.uint64((1 << bits) - 1)
    return columns.T


def _tiles(
    lanes: Lanes, data: Readable, bits: int, offset: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield (view of `lanes`, unpacked values of the same shape), tile by tile.

    All checks come before the first tile, so that a refused call has changed nothing.
    """
    bits = _lane_bits(lanes, bits)
    stream = _stretch("data", _bytes("data", data), len(lanes), bits, offset)
    if bits in _WHOLE_BYTES:
        yield lanes, stream.view(_WHOLE_BYTES[bits])
        return
    cols, _ = _group(bits)
    whole = len(lanes) // cols * cols
    step = max(1, TILE_VALUES // cols) * cols
    for low in range(0, whole, step):
        high = min(low + step, whole)
        tile = stream[low * bits // 8 : high * bits // 8]
        yield lanes[low:high].reshape(-1, cols), _unpack_groups(tile, bits)
    if whole < len(lanes):
        rest = stream[whole * bits // 8 :]
        tail = np.zeros(cols * bits // 8, np.uint8)
        tail[: len(rest)] = rest
        yield lanes[whole:], _unpack_groups(tail, bits)[0, : len(lanes) - whole]


def _lane_bits(lanes: Lanes, bits: int) -> int:
    width = check_integer("bits", bits, 1, 64)
    if width > 8 * lanes.dtype.itemsize:
        raise ValueError("bits must not exceed the width of a lane")
    return width


def _bytes(name: str, data: object, *, writeable: bool = False) -> NDArray[np.uint8]:
    """View a buffer of bytes as uint8 [n], or raise ValueError."""
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except (TypeError, BufferError, ValueError):
        raise ValueError(f"{name} must be bytes, a buffer of bytes or a uint8 array") from None
    if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
        raise ValueError(f"{name} must be a contiguous one-dimensional buffer of bytes")
    if writeable and view.readonly:
        raise ValueError(f"{name} must be writable")
    return np.frombuffer(view, np.uint8)


def _stretch(
    name: str, stream: NDArray[np.uint8], count: int, bits: int, offset: int
) -> NDArray[np.uint8]:
    """Return the bytes of `stream` that hold coordinates [offset, offset + count)."""
    offset = check_integer("offset", offset, 0, MAX_COUNT)
    if offset % 8:
        raise ValueError("offset must be a multiple of 8")
    low = offset * bits // 8
    high = low + packed_size(count, bits)
    if high > len(stream):
        raise ValueError(f"{name} is too short: {high} bytes needed, {len(stream)} given")
    return stream[low:high]
