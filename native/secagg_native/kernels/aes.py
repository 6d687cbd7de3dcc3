"""AES-128 in counter mode, fused with the addition of its keystreams to an accumulator.

The AES instructions are emitted as LLVM intrinsics. A chunk of the accumulator and its counter
blocks stay in registers while all keys pass by, so that apart from the ten rounds a vector of
keystream costs one exclusive-or and one addition. Every variant gives the same bytes; which of
them may be compiled here is for `features` to say, because LLVM ends the whole process on an
instruction that its target lacks.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._jit import kernel

BLOCK = 16
ROUNDS = 10
SCHEDULE = BLOCK * (ROUNDS + 1)
# A round takes a few cycles and one or two can start in each, so eight are under way at a time.
FLIGHT = 8

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_PAIR = ir.VectorType(_I64, 2)
_ROUND_CONSTANTS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1B, 0x36)


def _pointer(context: Any, builder: Any, kind: Any, value: Any, byte: Any) -> Any:
    """Return a byte pointer `byte` bytes into an array."""
    array = context.make_array(kind)(context, builder, value)
    return builder.gep(builder.bitcast(array.data, _I8.as_pointer()), [byte])


def _at(builder: Any, pointer: Any, count: int) -> Any:
    return builder.gep(pointer, [ir.Constant(_I64, count)])


def _load(builder: Any, pointer: Any, vector: ir.VectorType) -> Any:
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = 1
    return loaded


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 1


def _round(builder: Any, name: str, vector: ir.VectorType) -> Any:
    """Return the intrinsic aesenc or aesenclast for 128, 256 or 512 bits."""
    width = vector.count * 64
    kind = ir.FunctionType(vector, [vector, vector])
    suffix = "" if width == 128 else f".{width}"
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.aesni.{name}{suffix}")


def _encrypt(builder: Any, states: list[Any], keys: list[Any]) -> list[Any]:
    """Apply the ten rounds to states that the first round key was already added to."""
    vector = states[0].type
    inner, final = _round(builder, "aesenc", vector), _round(builder, "aesenclast", vector)
    for key in keys[:-1]:
        states = [builder.call(inner, [state, key]) for state in states]
    return [builder.call(final, [state, keys[-1]]) for state in states]


def _repeated(builder: Any, pair: Any, words: int) -> Any:
    """Repeat 128 bits over a vector of `words` 64-bit words."""
    if words == 2:
        return pair
    order = ir.Constant(ir.VectorType(_I32, words), [i % 2 for i in range(words)])
    return builder.shuffle_vector(pair, pair, order)


def _counters(builder: Any, first: Any, words: int) -> list[Any]:
    """Return the counter halves of FLIGHT vectors of blocks; the nonce halves are zero."""
    vector = ir.VectorType(_I64, words)
    base = ir.Constant(vector, [0] * words)
    for i in range(1, words, 2):
        base = builder.insert_element(base, first, ir.Constant(_I32, i))
    # The counter is big-endian: the bytes of each word change places.
    octets = ir.VectorType(_I8, 8 * words)
    swap = ir.Constant(
        ir.VectorType(_I32, 8 * words), [8 * (i // 8) + 7 - i % 8 for i in range(8 * words)]
    )
    out = []
    for j in range(FLIGHT):
        steps = [(j * words + i) // 2 if i % 2 else 0 for i in range(words)]
        plain = builder.bitcast(builder.add(base, ir.Constant(vector, steps)), octets)
        out.append(builder.bitcast(builder.shuffle_vector(plain, plain, swap), vector))
    return out


def _make_chunk(words: int) -> Any:
    """Make (acc, byte, schedules, plus, first block): one chunk and all keys, in place."""

    @intrinsic
    def chunk(typing_context, acc, byte, schedules, plus, block):  # type: ignore[no-untyped-def]
        lane = acc.dtype.bitwidth
        lanes = ir.VectorType(ir.IntType(lane), words * 64 // lane)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            target = _pointer(context, builder, sig.args[0], args[0], args[1])
            rows = context.make_array(sig.args[2])(context, builder, args[2])
            table = builder.bitcast(rows.data, _I8.as_pointer())
            total = cgutils.unpack_tuple(builder, rows.shape, 2)[0]
            counters = _counters(builder, args[4], words)
            places = [_at(builder, target, 8 * words * j) for j in range(FLIGHT)]
            # LLVM keeps these in registers: they are only ever loaded and stored whole.
            slots = [
                cgutils.alloca_once_value(builder, _load(builder, place, lanes)) for place in places
            ]
            parts = (
                (ir.Constant(_I64, 0), args[3], builder.add),
                (args[3], total, builder.sub),
            )
            for first, stop, combine in parts:
                with cgutils.for_range(builder, stop, start=first) as loop:
                    schedule = builder.gep(
                        table, [builder.mul(loop.index, ir.Constant(_I64, SCHEDULE))]
                    )
                    keys = [
                        _repeated(
                            builder, _load(builder, _at(builder, schedule, BLOCK * i), _PAIR), words
                        )
                        for i in range(ROUNDS + 1)
                    ]
                    states = [builder.xor(counter, keys[0]) for counter in counters]
                    for slot, state in zip(slots, _encrypt(builder, states, keys[1:]), strict=True):
                        stretch = builder.bitcast(state, lanes)
                        builder.store(combine(builder.load(slot), stretch), slot)
            for place, slot in zip(places, slots, strict=True):
                _store(builder, builder.load(slot), place)
            return context.get_dummy_value()

        signature = types.void(acc, types.int64, schedules, types.int64, types.uint64)
        return signature, generate

    return chunk


def _make_rounds(words: int) -> Any:
    """Make (seed, count): ten rounds on FLIGHT registers, `count` times, without memory."""
    vector = ir.VectorType(_I64, words)

    @intrinsic
    def rounds(typing_context, seed, count):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            key = ir.Constant(vector, [0] * words)
            for i in range(words):
                key = builder.insert_element(key, args[0], ir.Constant(_I32, i))
            slots = [
                cgutils.alloca_once_value(
                    builder, builder.add(key, ir.Constant(vector, [j] * words))
                )
                for j in range(FLIGHT)
            ]
            with cgutils.for_range(builder, args[1]):
                states = [builder.load(slot) for slot in slots]
                for slot, state in zip(
                    slots, _encrypt(builder, states, [key] * ROUNDS), strict=True
                ):
                    builder.store(state, slot)
            out = builder.load(slots[0])
            for slot in slots[1:]:
                out = builder.xor(out, builder.load(slot))
            return builder.extract_element(out, ir.Constant(_I32, 0))

        return types.uint64(types.uint64, types.int64), generate

    return rounds


@intrinsic
def _expand_key(typing_context, keys, row, schedules):  # type: ignore[no-untyped-def]
    """Write the eleven round keys of one key (FIPS 197, section 5.2), without table look-ups."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = builder.mul(args[1], ir.Constant(_I64, BLOCK))
        key = _load(builder, _pointer(context, builder, sig.args[0], args[0], size), _PAIR)
        size = builder.mul(args[1], ir.Constant(_I64, SCHEDULE))
        out = _pointer(context, builder, sig.args[2], args[2], size)
        assist = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_PAIR, [_PAIR, _I8]), "llvm.x86.aesni.aeskeygenassist"
        )
        quad = ir.VectorType(_I32, 4)
        zero = ir.Constant(quad, [0] * 4)
        words = builder.bitcast(key, quad)
        _store(builder, words, out)
        for i, constant in enumerate(_ROUND_CONSTANTS, 1):
            pair = builder.bitcast(words, _PAIR)
            helped = builder.call(assist, [pair, ir.Constant(_I8, constant)])
            helped = builder.bitcast(helped, quad)
            top = builder.shuffle_vector(helped, zero, ir.Constant(quad, [3] * 4))
            for shift in (1, 2):
                # Words move up by `shift` places and zeros follow: a running exclusive-or.
                order = [4 + i if i < shift else i - shift for i in range(4)]
                moved = builder.shuffle_vector(words, zero, ir.Constant(quad, order))
                words = builder.xor(words, moved)
            words = builder.xor(words, top)
            _store(builder, words, _at(builder, out, BLOCK * i))
        return context.get_dummy_value()

    return types.void(keys, types.int64, schedules), generate


# numba fills in the first argument of an intrinsic, which its type does not tell.
_expand_one: Any = _expand_key
_chunk_512, _chunk_256, _chunk_128 = _make_chunk(8), _make_chunk(4), _make_chunk(2)
_rounds_512, _rounds_256, _rounds_128 = _make_rounds(8), _make_rounds(4), _make_rounds(2)


@kernel
def expand(keys: Any, nonces: Any, schedules: Any) -> None:
    """Expand `keys` uint8 [k, 16] into `schedules` uint8 [k, 176], the nonces folded in.

    `nonces`: uint8 [k, 8]. A counter block is the nonce beside the counter, so the nonce is added
    to the first round key, once for all blocks.
    """
    for row in range(len(keys)):
        _expand_one(keys, row, schedules)
        for i in range(nonces.shape[1]):
            schedules[row, i] ^= nonces[row, i]


@kernel
def add_vaes512(acc: Any, schedules: Any, plus: int, first_block: Any) -> None:
    """Add the keystreams of rows below `plus` to `acc`, and subtract those of the others.

    `acc` is a whole number of chunks (512 bytes) from `first_block` on.
    """
    chunk, block = 512, np.uint64(first_block)
    for byte in range(0, acc.nbytes, chunk):
        _chunk_512(acc, byte, schedules, plus, block)
        block += np.uint64(chunk // BLOCK)


@kernel
def add_vaes256(acc: Any, schedules: Any, plus: int, first_block: Any) -> None:
    """As `add_vaes512`, in chunks of 256 bytes."""
    chunk, block = 256, np.uint64(first_block)
    for byte in range(0, acc.nbytes, chunk):
        _chunk_256(acc, byte, schedules, plus, block)
        block += np.uint64(chunk // BLOCK)


@kernel
def add_aesni(acc: Any, schedules: Any, plus: int, first_block: Any) -> None:
    """As `add_vaes512`, in chunks of 128 bytes."""
    chunk, block = 128, np.uint64(first_block)
    for byte in range(0, acc.nbytes, chunk):
        _chunk_128(acc, byte, schedules, plus, block)
        block += np.uint64(chunk // BLOCK)


@kernel
def rounds_vaes512(seed: Any, count: int) -> Any:
    """Encrypt `count` times 512 bytes of blocks without touching memory: the limit of a core."""
    return _rounds_512(seed, count)


@kernel
def rounds_vaes256(seed: Any, count: int) -> Any:
    """As `rounds_vaes512`, 256 bytes."""
    return _rounds_256(seed, count)


@kernel
def rounds_aesni(seed: Any, count: int) -> Any:
    """As `rounds_vaes512`, 128 bytes."""
    return _rounds_128(seed, count)
