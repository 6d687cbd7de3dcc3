"""Packing of ring elements: b bits a coordinate, least significant bit first.

Value i occupies bits [i*b, (i+1)*b) of the stream; bit j of the stream is bit j % 8 of byte
j // 8. `offset` always counts coordinates of the packed stream and is a multiple of 8, so that
it falls on a byte whatever b is.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._checks import LANE_DTYPES, Lanes, check_array, check_integer, read_only

Readable: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
Writable: TypeAlias = bytearray | memoryview | NDArray[np.uint8]

MAX_COUNT = 1 << 56


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
    if bits == 8 * values.dtype.itemsize:
        np.copyto(target.view(values.dtype.newbyteorder("<")), values)
        return

    from .kernels import bitpack as kernels

    kernels.pack(read_only(values), target, bits)


def unpack(data: Readable, bits: int, out: Lanes, offset: int = 0) -> None:
    """Read len(out) values of `bits` bits from `data` into `out`, from coordinate `offset` on.

    `data`: bytes, bytearray, memoryview or uint8 array, at least as long as the coordinates read
    need (bytes beyond are ignored: `check_padding` is the check of a whole message). `out`:
    uint16, uint32 or uint64 [n] with lanes of at least `bits` bits.

    Raises ValueError for a wrong dtype, layout, bits or offset, or `data` that is too short.
    """
    check_array("out", out, LANE_DTYPES, 1, writeable=True)
    bits = _lane_bits(out, bits)
    stream = _stretch("data", _bytes("data", data), len(out), bits, offset)
    if bits == 8 * out.dtype.itemsize:
        np.copyto(out, stream.view(out.dtype.newbyteorder("<")))
        return

    from .kernels import bitpack as kernels

    kernels.unpack(np.asarray(out), stream, bits, False)


def unpack_add(acc: Lanes, data: Readable, bits: int, offset: int = 0) -> None:
    """Add the packed values of `data` to `acc`, in place, modulo 2^16, 2^32 or 2^64.

    As `unpack`, but acc[i] += value[offset + i]; nothing is allocated, whatever the length.
    Raises ValueError as `unpack` does; `acc` is then unchanged.
    """
    check_array("acc", acc, LANE_DTYPES, 1, writeable=True)
    bits = _lane_bits(acc, bits)
    stream = _stretch("data", _bytes("data", data), len(acc), bits, offset)

    from .kernels import bitpack as kernels

    kernels.unpack(np.asarray(acc), stream, bits, True)


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


def _lane_bits(lanes: Lanes, bits: int) -> int:
    width = check_integer("bits", bits, 1, 64)
    if width > 8 * lanes.dtype.itemsize:
        raise ValueError("bits must not exceed the width of a lane")
    return width


def _bytes(name: str, data: object, *, writeable: bool = False) -> NDArray[np.uint8]:
    """View a buffer of bytes as uint8 [n], read-only unless `writeable`, or raise ValueError."""
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except (TypeError, BufferError, ValueError):
        raise ValueError(f"{name} must be bytes, a buffer of bytes or a uint8 array") from None
    if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
        raise ValueError(f"{name} must be a contiguous one-dimensional buffer of bytes")
    if writeable and view.readonly:
        raise ValueError(f"{name} must be writable")
    # A kernel is compiled once more for arrays that are writable, so none that it reads is.
    return np.frombuffer(view if writeable else view.toreadonly(), np.uint8)


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
