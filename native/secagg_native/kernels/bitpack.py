"""Packing and unpacking of ring elements, eight coordinates at a time.

Eight values of b bits fill exactly b bytes, so that where value j of a group begins (byte
j*b // 8, bit j*b % 8) is the same for every group, whatever b is: the compiler computes it once,
before the loop. A group is then eight 64-bit loads (or stores) at those bytes and one vector
operation for each shift and mask. Only LLVM's generic vectors are used, which every target
has; numba has no name for them, and none for a load that is not aligned, hence the intrinsics.
The last groups, where a 64-bit access would reach beyond the stream, go one by one.
"""

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._jit import inlined, kernel

if sys.byteorder != "little":
    raise ImportError("the bit packing kernels need a little-endian host")

# The widest values that lie within the eight bytes from their first one, at any of its bits.
WITHIN_A_WORD = 57

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_EIGHT = ir.VectorType(_I64, 8)


def _each(values: list[int]) -> Any:
    return ir.Constant(_EIGHT, values)


def _repeated(builder: Any, value: Any) -> Any:
    """Repeat a 64-bit value over a vector of eight."""
    first = builder.insert_element(_each([0] * 8), value, ir.Constant(_I32, 0))
    order = ir.Constant(ir.VectorType(_I32, 8), [0] * 8)
    return builder.shuffle_vector(first, first, order)


def _item(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of an item of a one-dimensional C-contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _lanes_at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> tuple[Any, int]:
    """Return the address of eight lanes as a vector, and its alignment."""
    width = kind.dtype.bitwidth
    vector = ir.VectorType(ir.IntType(width), 8)
    item = _item(context, builder, kind, array, index)
    return builder.bitcast(item, vector.as_pointer()), width // 8


def _words_at(
    context: Any, builder: Any, kind: Any, stream: Any, byte: Any, bits: Any, further: int = 0
) -> list[Any]:
    """Return the addresses of the eight words that hold the values of the group at `byte`.

    `further` is added to each address, in bytes. The group's byte is added to the other terms,
    which the loop does not change, so that they are computed before it.
    """
    addresses = []
    for j in range(8):
        position = builder.mul(bits, ir.Constant(_I64, j))
        offset = builder.lshr(position, ir.Constant(_I64, 3))
        offset = builder.add(offset, ir.Constant(_I64, further))
        item = _item(context, builder, kind, stream, builder.add(byte, offset))
        addresses.append(builder.bitcast(item, _I64.as_pointer()))
    return addresses


def _load_words(builder: Any, addresses: list[Any]) -> Any:
    words = ir.Constant(_EIGHT, ir.Undefined)
    for j, address in enumerate(addresses):
        word = builder.load(address, align=1)
        words = builder.insert_element(words, word, ir.Constant(_I32, j))
    return words


def _shifts(builder: Any, bits: Any) -> Any:
    """Return the bit of its first byte at which each value of a group begins."""
    positions = builder.mul(_repeated(builder, bits), _each(list(range(8))))
    return builder.and_(positions, _each([7] * 8))


def _mask(builder: Any, bits: Any) -> Any:
    spare = builder.sub(ir.Constant(_I64, 64), bits)
    return _repeated(builder, builder.lshr(ir.Constant(_I64, -1), spare))


def _resized(builder: Any, values: Any, vector: ir.VectorType) -> Any:
    """Cut 64-bit values to the lanes of `vector`, or widen lanes to 64 bits."""
    have, want = values.type.element.width, vector.element.width
    if have == want:
        return values
    return (builder.trunc if want < have else builder.zext)(values, vector)


def _make_unpack_eight(within_a_word: bool) -> Any:
    """Make (lanes, index, keep, stream, byte, bits): lanes = (lanes & keep) + values, for eight.

    Reads nine bytes from the first byte of each value on, or eight `within_a_word`.
    """

    @intrinsic
    def unpack_eight(typing_context, lanes, index, keep, stream, byte, bits):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, index, keep, _, byte, bits = args
            shifts = _shifts(builder, bits)
            addresses = _words_at(context, builder, sig.args[3], args[3], byte, bits)
            values = builder.lshr(_load_words(builder, addresses), shifts)
            if not within_a_word:
                # The word one byte further on holds the same bits eight places lower, and the
                # bits that the first word lacks.
                addresses = _words_at(context, builder, sig.args[3], args[3], byte, bits, 1)
                up = builder.sub(_each([8] * 8), shifts)
                upper = builder.shl(_load_words(builder, addresses), up)
                values = builder.or_(values, upper)
            values = builder.and_(values, _mask(builder, bits))
            address, align = _lanes_at(context, builder, sig.args[0], args[0], index)
            old = builder.load(address, align=align)
            kept = builder.and_(old, _resized(builder, _repeated(builder, keep), old.type))
            total = builder.add(kept, _resized(builder, values, old.type))
            builder.store(total, address, align=align)
            return context.get_dummy_value()

        return types.void(lanes, index, keep, stream, byte, bits), generate

    return unpack_eight


_unpack_eight = _make_unpack_eight(within_a_word=True)
_unpack_eight_wide = _make_unpack_eight(within_a_word=False)


def _make_pack_eight(one_word: bool) -> Any:
    """Make (stream, byte, bits, lanes, index): pack eight lanes, each write eight bytes long.

    `one_word` is for at most 8 bits, the other form for 9 to 63 bits. What is written beyond the
    group's own bytes is for the next group to overwrite.
    """

    @intrinsic
    def pack_eight(typing_context, stream, byte, bits, lanes, index):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, byte, bits, _, index = args
            address, align = _lanes_at(context, builder, sig.args[3], args[3], index)
            values = _resized(builder, builder.load(address, align=align), _EIGHT)
            values = builder.and_(values, _mask(builder, bits))
            width = _repeated(builder, bits)
            if one_word:
                parts = builder.shl(values, builder.mul(width, _each(list(range(8)))))
                kind = ir.FunctionType(_I64, [_EIGHT])
                name = "llvm.vector.reduce.or.v8i64"
                join = cgutils.get_or_insert_function(builder.module, kind, name)
                target = _item(context, builder, sig.args[0], args[0], byte)
                target = builder.bitcast(target, _I64.as_pointer())
                builder.store(builder.call(join, [parts]), target, align=1)
                return context.get_dummy_value()
            shifts = _shifts(builder, bits)
            # The first byte of a value also holds the last bits of the value before it, and only
            # of that one, because each has more than 8 bits.
            order = ir.Constant(ir.VectorType(_I32, 8), [8, *range(7)])
            before = builder.shuffle_vector(values, _each([0] * 8), order)
            words = builder.or_(
                builder.shl(values, shifts), builder.lshr(before, builder.sub(width, shifts))
            )
            targets = _words_at(context, builder, sig.args[0], args[0], byte, bits)
            for j, target in enumerate(targets):
                word = builder.extract_element(words, ir.Constant(_I32, j))
                builder.store(word, target, align=1)
            return context.get_dummy_value()

        return types.void(stream, byte, bits, lanes, index), generate

    return pack_eight


_pack_eight = _make_pack_eight(one_word=False)
_pack_eight_narrow = _make_pack_eight(one_word=True)


@intrinsic
def _load_word(typing_context, stream, byte):  # type: ignore[no-untyped-def]
    """Load the 64-bit word at a byte of the stream, at any alignment."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _item(context, builder, sig.args[0], *args)
        return builder.load(builder.bitcast(address, _I64.as_pointer()), align=1)

    return types.uint64(stream, byte), generate


@inlined
def _groups(count: Any, size: Any, bits: Any) -> Any:
    """Return how many groups have nine bytes from the first byte of their last value on."""
    reach = (np.uint64(7) * bits >> np.uint64(3)) + np.uint64(9)
    if size < reach:
        return np.uint64(0)
    return min(count >> np.uint64(3), (size - reach) // bits + np.uint64(1))


@inlined
def _value(stream: Any, position: Any, bits: Any) -> Any:
    """Return the value that starts at a bit position, reading within the stream only."""
    size = np.uint64(len(stream))
    word, byte = np.uint64(0), np.uint64(0)
    if size < np.uint64(8):
        for k in range(size):
            word |= np.uint64(stream[k]) << (np.uint64(8) * k)
    else:
        byte = min(position >> np.uint64(3), size - np.uint64(8))
        word = _load_word(stream, byte)
    shift = position - np.uint64(8) * byte
    value = word >> shift
    if shift + bits > np.uint64(64):
        value |= np.uint64(stream[byte + np.uint64(8)]) << (np.uint64(64) - shift)
    return value & (~np.uint64(0) >> (np.uint64(64) - bits))


@kernel
def unpack(lanes: Any, stream: Any, width: int, add: bool) -> None:
    """Write the values of a stream into uint lanes [n], or add them to the lanes.

    `stream`: uint8, at least ceil(n*width/8) bytes; `width`: 1 to 64 bits a value, at most those
    of a lane. Of a lane, what it held is kept if `add` is set.
    """
    bits = np.uint64(width)
    keep = np.uint64(0) - np.uint64(add)
    count = np.uint64(len(lanes))
    groups = _groups(count, np.uint64(len(stream)), bits)
    if bits <= np.uint64(WITHIN_A_WORD):
        for g in range(groups):
            _unpack_eight(lanes, g << np.uint64(3), keep, stream, g * bits, bits)
    else:
        for g in range(groups):
            _unpack_eight_wide(lanes, g << np.uint64(3), keep, stream, g * bits, bits)
    for i in range(groups << np.uint64(3), count):
        lanes[i] = (np.uint64(lanes[i]) & keep) + _value(stream, i * bits, bits)


@kernel
def pack(lanes: Any, stream: Any, width: int) -> None:
    """Write the low bits of uint lanes [n] into a stream of exactly ceil(n*width/8) bytes.

    `width`: 1 to 63 bits a value, at most those of a lane. Unused bits are zero.
    """
    bits = np.uint64(width)
    count, size = np.uint64(len(lanes)), np.uint64(len(stream))
    groups = _groups(count, size, bits)
    if bits <= np.uint64(8):
        for g in range(groups):
            _pack_eight_narrow(stream, g * bits, bits, lanes, g << np.uint64(3))
    else:
        for g in range(groups):
            _pack_eight(stream, g * bits, bits, lanes, g << np.uint64(3))
    mask = ~np.uint64(0) >> (np.uint64(64) - bits)
    for at in range(groups * bits, size):
        low = at << np.uint64(3)
        i = low // bits
        total = np.uint64(0)
        while i < count and i * bits < low + np.uint64(8):
            value = np.uint64(lanes[i]) & mask
            if i * bits >= low:
                total |= value << (i * bits - low)
            else:
                total |= value >> (low - i * bits)
            i += np.uint64(1)
        stream[at] = total & np.uint64(255)
