"""Montgomery arithmetic on eight numbers at once, with the 52-bit multipliers of AVX-512.

A number is a column of digits in radix 2^52; a row of eight 64-bit words (a `digit` below) holds
that digit of eight numbers, so that one instruction works on all eight. vpmadd52luq and vpmadd52huq
add the low and the high half of a product of two 52-bit numbers to a 64-bit sum. K is the number of
digits of a modulus n, R = 2^(52 K), and the callers choose an even K with R >= 256 n.

A number modulo n^2 is a pair x = x0 + x1 n, 2 K digits, which needs no arithmetic modulo n^2: with
x0 y0 + q n = r R (Montgomery, Math. Comp. 44, 1985), x y / R is r + n (x0 y1 + x1 y0 - q) / R. That
is five products of K digits in place of eight. Pairs are not unique, and are not reduced on the
way: operands with x0 < 8 n and x1 < 12 n give x0 < 64 n^2 / R + n < 2 n and
x1 < (192 n^2 + n R) / R + n < 3 n.

A sum is never carried on the way. It has 2 K halves below 2^52 for each product that is added, at
most three products, and K <= 160: fewer than 2^10 halves, so it stays below 2^62.

Which hosts may compile this is for `features` to say: LLVM ends the process on an instruction that
its target lacks. Nothing here branches on a digit or an exponent, or has it in an address, but for
`buckets`. Arrays of digits are flat uint64 and begin at a multiple of 64 bytes; `modulus` is the K
digits of n, -1 / n mod 2^52 and the pair R mod n^2, 3 K + 1 words; `work` is memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._jit import inlined, kernel

LANES = 8
DIGIT = 52
MASK = np.uint64((1 << DIGIT) - 1)
#: Digits of an entry that lie together in a table, so that a scan reads all of it in order.
RUN = 4

# Digits of one factor that stay in registers while the other passes by. Each loaded and stored
# digit of the sum then takes 20 multiplications, so that the multipliers are the limit. Ten
# divides K for keys of 1024, 2048, 3072 and 4096 bits; what is left over is done by twos.
_HELD = (10, 2)

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I64, LANES)
_NEITHER = ir.Constant(_VECTOR, ir.Undefined)
_FIRST = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _digits(context: Any, builder: Any, kind: Any, value: Any, at: Any) -> Any:
    """Return a pointer to digit `at` of an array."""
    data = context.make_array(kind)(context, builder, value).data
    return builder.gep(builder.bitcast(data, _VECTOR.as_pointer()), [at])


def _load(builder: Any, pointer: Any, index: Any) -> Any:
    loaded = builder.load(builder.gep(pointer, [index]))
    loaded.align = 8
    return loaded


def _store(builder: Any, value: Any, pointer: Any, index: Any) -> None:
    builder.store(value, builder.gep(pointer, [index])).align = 8


def _repeated(builder: Any, word: Any) -> Any:
    """Return a word in all lanes."""
    vector = builder.insert_element(_NEITHER, word, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, _NEITHER, _FIRST)


def _add_half(builder: Any, half: str, total: Any, x: Any, y: Any) -> Any:
    """Add the low ("l") or the high ("h") 52 bits of the products of two digits."""
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_VECTOR, [_VECTOR] * 3),
        f"llvm.x86.avx512.vpmadd52{half}.uq.512",
    )
    return builder.call(function, [total, x, y])


def _add_digits(builder: Any, sums: list[Any], digits: list[Any], factors: list[Any]) -> None:
    """Add digits[k] * factors[k] to sums[k] and sums[k + 1], low halves first."""
    for k, (digit, factor) in enumerate(zip(digits, factors, strict=True)):
        sums[k] = _add_half(builder, "l", sums[k], digit, factor)
    for k, (digit, factor) in enumerate(zip(digits, factors, strict=True)):
        sums[k + 1] = _add_half(builder, "h", sums[k + 1], digit, factor)


def _sweep(
    builder: Any, total: Any, sums: list[Any], digits: list[Any], factor: Any, bounds: Any
) -> None:
    """Add `digits` times factor(j) to `total` at j, j + 1 ... for all j within `bounds`.

    `sums` are the sums at the lowest j, one for each digit. They move up with j and stay in
    registers; a sum is loaded when the first digit reaches it, and stored when the last has left.
    """
    start, stop = bounds
    slots = [cgutils.alloca_once(builder, _VECTOR) for _ in digits]
    for slot, value in zip(slots, sums, strict=True):
        builder.store(value, slot)
    with cgutils.for_range(builder, stop, start=start) as loop:
        j = loop.index
        moving = [builder.load(slot) for slot in slots]
        moving.append(_load(builder, total, builder.add(j, _int(len(digits)))))
        _add_digits(builder, moving, digits, [factor(j)] * len(digits))
        _store(builder, moving[0], total, j)
        for slot, value in zip(slots, moving[1:], strict=True):
            builder.store(value, slot)
    for k, slot in enumerate(slots):
        _store(builder, builder.load(slot), total, builder.add(stop, _int(k)))


def _by_rows(builder: Any, size: Any, emit: Callable[[int, Any], None]) -> None:
    """Cover `size` digits: emit(count, first) for as many tens as there are, then for twos."""
    first = _int(0)
    for held in _HELD:
        many = builder.sdiv(builder.sub(size, first), _int(held))
        with cgutils.for_range(builder, many) as loop:
            emit(held, builder.add(first, builder.mul(loop.index, _int(held))))
        first = builder.add(first, builder.mul(many, _int(held)))


def _shared(builder: Any, emit: Callable[..., None], operands: list[Any]) -> None:
    """Emit a function once for a whole kernel, and call it: its code is long and often used.

    No two of the pointers that it gets are to the same memory, but for what is only read.
    """
    name = f"secagg.montgomery{emit.__name__}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in operands])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        for each in function.args[:-1]:
            each.add_attribute("noalias")
        inner = ir.IRBuilder(function.append_basic_block())
        emit(inner, *function.args)
        inner.ret_void()
    builder.call(function, operands)


def _product(builder: Any, sums: Any, left: Any, right: Any, size: Any) -> None:
    """Add to `size` * 2 sums the product of `size` digits each."""

    def emit(held: int, row: Any) -> None:
        base = builder.gep(sums, [row])
        digits = [_load(builder, left, builder.add(row, _int(k))) for k in range(held)]
        first = [_load(builder, base, _int(k)) for k in range(held)]
        _sweep(builder, base, first, digits, lambda j: _load(builder, right, j), (_int(0), size))

    _by_rows(builder, size, emit)


def _square(builder: Any, sums: Any, single: Any, double: Any, size: Any) -> None:
    """As `_product` of x by x, given x and the digits of 2 x: about half of the work.

    Digit k meets itself once and the digits above it twice. What is above k + 1, doubled, has the
    digits of 2 x; at k + 1 the lowest bit, which came out of digit k, is left away.
    """
    even = _all((1 << 64) - 2)

    def emit(held: int, row: Any) -> None:
        base = builder.gep(sums, [row])

        def at(k: int) -> Any:
            return builder.add(row, _int(k))

        digits = [_load(builder, single, at(k)) for k in range(held)]
        corner = [_load(builder, base, at(k)) for k in range(2 * held)]
        for k in range(held):
            factors = [digits[k]] + [_load(builder, double, at(j)) for j in range(k + 1, held)]
            if k + 1 < held:
                factors[1] = builder.and_(factors[1], even)
            part = corner[2 * k : k + held + 1]
            _add_digits(builder, part, [digits[k]] * len(factors), factors)
            corner[2 * k : k + held + 1] = part
        for k, value in enumerate(corner):
            _store(builder, value, base, at(k))
        after = at(held)
        with builder.if_then(builder.icmp_signed("<", after, size)):
            doubled = _load(builder, double, after)
            part = [_load(builder, base, at(held + k)) for k in range(held + 1)]
            factors = [doubled] * (held - 1) + [builder.and_(doubled, even)]
            _add_digits(builder, part, digits, factors)
            _store(builder, part[0], base, after)
            rest = (at(held + 1), size)
            _sweep(builder, base, part[1:], digits, lambda j: _load(builder, double, j), rest)

    _by_rows(builder, size, emit)


def _reduction(builder: Any, sums: Any, rest: Any, modulus: Any, size: Any) -> None:
    """Add q n to `size` * 2 sums, so that they are r R, and write R - 1 - q, `size` digits.

    The lower half of the sums is then without meaning; r is the upper half, to be carried.
    """

    def limb(j: Any) -> Any:
        return _repeated(builder, builder.load(builder.gep(modulus, [j])))

    inverse = limb(size)

    def emit(held: int, row: Any) -> None:
        base = builder.gep(sums, [row])
        low = [_load(builder, base, _int(k)) for k in range(2 * held)]
        digits: list[Any] = []

        def add(k: int, columns: range) -> None:
            """Add what digit k of q gives to columns k + 2 and above."""
            for c in columns:
                low[k + c] = _add_half(builder, "h", low[k + c], digits[k], limb(_int(c - 1)))
                if c < held:
                    low[k + c] = _add_half(builder, "l", low[k + c], digits[k], limb(_int(c)))

        for k in range(held):
            # The multiplier reads the low 52 bits of a sum, which are exact here. The digit of q
            # makes them zero, so that they carry one more if they were not.
            digits.append(_add_half(builder, "l", _all(0), low[k], inverse))
            over = builder.xor(digits[k], _all(int(MASK)))
            _store(builder, over, rest, builder.add(row, _int(k)))
            carry = builder.lshr(builder.add(low[k], _all(int(MASK))), _all(DIGIT))
            # The next digit waits for the sum above, so that gets first what it needs; the other
            # products of the digit before fill the time.
            if k:
                add(k - 1, range(2, 3))
            carry = _add_half(builder, "l", carry, digits[k], limb(_int(1)))
            low[k + 1] = _add_half(builder, "h", low[k + 1], digits[k], limb(_int(0)))
            low[k + 1] = builder.add(low[k + 1], carry)
            if k:
                add(k - 1, range(3, held + 1))
        add(held - 1, range(2, held + 1))
        _sweep(builder, base, low[held:], digits, limb, (_int(held), size))

    _by_rows(builder, size, emit)


def _make_add(emit: Callable[..., None]) -> Any:
    """Make (sums, at, x, at, y, at, size), which adds a product at those digits of the arrays."""

    @intrinsic
    def add(typing_context, sums, to, x, x_at, y, y_at, size):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            places = [
                _digits(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2, 4)
            ]
            _shared(builder, emit, [*places, args[6]])
            return context.get_dummy_value()

        i = types.int64
        return types.void(sums, i, x, i, y, i, i), generate

    return add


@intrinsic
def _reduce(typing_context, sums, to, rest, r_at, modulus, size):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = [_digits(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2)]
        places.append(context.make_array(sig.args[4])(context, builder, args[4]).data)
        _shared(builder, _reduction, [*places, args[5]])
        return context.get_dummy_value()

    i = types.int64
    return types.void(sums, i, rest, i, modulus, i), generate


@intrinsic
def _repeat(typing_context, out, at, words, start, size):  # type: ignore[no-untyped-def]
    """Write one number, `size` words from words[start] on, to all lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = _digits(context, builder, sig.args[0], args[0], args[1])
        source = context.make_array(sig.args[2])(context, builder, args[2]).data
        with cgutils.for_range(builder, args[4]) as loop:
            word = builder.load(builder.gep(source, [builder.add(args[3], loop.index)]))
            _store(builder, _repeated(builder, word), target, loop.index)
        return context.get_dummy_value()

    i = types.int64
    return types.void(out, i, words, i, i), generate


@intrinsic
def _carry(typing_context, out, o_at, sums, at, size):  # type: ignore[no-untyped-def]
    """Write `size` sums as digits of 52 bits. What the last would carry out is dropped."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = _digits(context, builder, sig.args[0], args[0], args[1])
        source = _digits(context, builder, sig.args[2], args[2], args[3])
        slot = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_all(0), slot)
        with cgutils.for_range(builder, args[4]) as loop:
            value = builder.add(builder.load(slot), _load(builder, source, loop.index))
            _store(builder, builder.and_(value, _all(int(MASK))), target, loop.index)
            builder.store(builder.lshr(value, _all(DIGIT)), slot)
        return context.get_dummy_value()

    i = types.int64
    return types.void(out, i, sums, i, i), generate


@intrinsic
def _scan(typing_context, out, o_at, table, t_at, choice, shape):  # type: ignore[no-untyped-def]
    """Copy entry `choice` of a table, reading all; `shape` is (entries, digits of one).

    RUN digits of every entry lie together, then the next RUN. The mask is computed, not compared,
    so that no masked load can be made of it.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = _digits(context, builder, sig.args[0], args[0], args[1])
        source = _digits(context, builder, sig.args[2], args[2], args[3])
        entries, size = cgutils.unpack_tuple(builder, args[5], 2)
        wanted, run = _repeated(builder, args[4]), _int(RUN)
        with cgutils.for_range(builder, builder.sdiv(size, run)) as outer:
            row = builder.mul(outer.index, entries)
            slots = [cgutils.alloca_once(builder, _VECTOR) for _ in range(RUN)]
            for slot in slots:
                builder.store(_all(0), slot)
            with cgutils.for_range(builder, entries) as loop:
                apart = builder.xor(_repeated(builder, loop.index), wanted)
                mask = builder.ashr(builder.sub(apart, _all(1)), _all(63))
                at = builder.mul(builder.add(row, loop.index), run)
                for k, slot in enumerate(slots):
                    value = _load(builder, source, builder.add(at, _int(k)))
                    builder.store(builder.or_(builder.load(slot), builder.and_(value, mask)), slot)
            for k, slot in enumerate(slots):
                at = builder.add(builder.mul(outer.index, run), _int(k))
                _store(builder, builder.load(slot), target, at)
        return context.get_dummy_value()

    i = types.int64
    return types.void(out, i, table, i, i, shape), generate


# numba fills in the first argument of an intrinsic, which its type does not tell.
_mul, _sqr = _make_add(_product), _make_add(_square)
_redc: Any = _reduce
_spread: Any = _repeat
_settle: Any = _carry
_pick: Any = _scan


# Indices are unsigned here, so that numba has no negative ones to take care of and LLVM can work on
# vectors.
@inlined
def _clear(sums: Any, at: int, size: int) -> None:
    """Set `size` digits from digit `at` on to zero."""
    for i in range(np.uint64(LANES * at), np.uint64(LANES * (at + size))):
        sums[i] = np.uint64(0)


@inlined
def _double(out: Any, to: int, x: Any, at: int, size: int) -> None:
    """Write 2 x; x is below R / 2."""
    target, source = np.uint64(LANES * to), np.uint64(LANES * at)
    one, top, lanes = np.uint64(1), np.uint64(DIGIT - 1), np.uint64(LANES)
    for i in range(lanes):
        out[target + i] = (x[source + i] << one) & MASK
    for i in range(lanes, lanes * np.uint64(size)):
        out[target + i] = ((x[source + i] << one) & MASK) | (x[source + i - lanes] >> top)


# Scratch of a product of pairs, in units of K digits: the first sums from 0, the second sums from
# 2, twice a number from 4. It is kept small, because the first-level cache is.
@inlined
def _pair_middle(work: Any, modulus: Any, size: int) -> None:
    """Reduce the first sums and set the second to n R - q: -q modulo n, and not negative.

    R - 1 - q is every digit of q turned over, as it comes; (n - 1) R + 1 is what is left.
    """
    _redc(work, 0, work, 2 * size, modulus, size)
    _spread(work, 3 * size, modulus, 0, size)
    for i in range(LANES):
        work[2 * LANES * size + i] += np.uint64(1)
        work[3 * LANES * size + i] -= np.uint64(1)


@inlined
def _pair_end(out: Any, at: int, work: Any, modulus: Any, size: int) -> None:
    """Reduce the second sums, with no use for what is left of R, and write the pair."""
    _redc(work, 2 * size, work, 0, modulus, size)
    _settle(out, at, work, size, size)
    _settle(out, at + size, work, 3 * size, size)


@inlined
def _pair_multiply(
    out: Any, at: int, x: Any, x_at: int, y: Any, y_at: int, work: Any, modulus: Any, size: int
) -> None:
    """Write the pair x y / R; `out` may be x or y."""
    _clear(work, 0, 2 * size)
    _mul(work, 0, x, x_at, y, y_at, size)
    _pair_middle(work, modulus, size)
    _mul(work, 2 * size, x, x_at, y, y_at + size, size)
    _mul(work, 2 * size, x, x_at + size, y, y_at, size)
    _pair_end(out, at, work, modulus, size)


@inlined
def _pair_square(out: Any, at: int, x: Any, x_at: int, work: Any, modulus: Any, size: int) -> None:
    """Write the pair x x / R; `out` may be x. Twice x0 is below 16 n, hence below R."""
    _double(work, 4 * size, x, x_at, size)
    _clear(work, 0, 2 * size)
    _sqr(work, 0, x, x_at, work, 4 * size, size)
    _pair_middle(work, modulus, size)
    _mul(work, 2 * size, work, 4 * size, x, x_at + size, size)
    _pair_end(out, at, work, modulus, size)


@kernel
def multiply(x: Any, y: Any, modulus: Any, out: Any, work: Any) -> None:
    """Write the pairs x y / R: y one pair for all blocks, or one a block. `work`: 5 K digits."""
    size = len(modulus) // 3
    step = 2 * size if len(y) > 2 * size * LANES else 0
    for block in range(len(x) // (2 * size * LANES)):
        at = 2 * size * block
        _pair_multiply(out, at, x, at, y, step * block, work, modulus, size)


@kernel
def power(pairs: Any, exponent: Any, width: int, modulus: Any, work: Any) -> None:
    """Raise pairs times R to one exponent, in place.

    `exponent`: int64, digits of `width` bits, the highest first; a table of 2^width powers is
    scanned for each. `work`: 8 K + 2 K 2^width digits.
    """
    size = len(modulus) // 3
    entries, pair = 1 << width, 2 * size
    chosen, table = 3 * pair, 4 * pair
    for at in range(0, len(pairs) // LANES, pair):
        _spread(work, chosen, modulus, size + 1, pair)
        for e in range(entries):
            if e > 0:
                _pair_multiply(work, chosen, work, chosen, pairs, at, work, modulus, size)
            for j in range(pair):
                to = table + RUN * (j // RUN * entries + e) + j % RUN
                for i in range(LANES):
                    work[LANES * to + i] = work[LANES * (chosen + j) + i]
        _pick(pairs, at, work, table, exponent[0], (entries, pair))
        for k in range(1, len(exponent)):
            for _ in range(width):
                _pair_square(pairs, at, pairs, at, work, modulus, size)
            _pick(work, chosen, work, table, exponent[k], (entries, pair))
            _pair_multiply(pairs, at, pairs, at, work, chosen, work, modulus, size)


@kernel
def buckets(pairs: Any, exponents: Any, width: int, modulus: Any, out: Any, work: Any) -> None:
    """Write the products of pairs times R to their public exponents, lane by lane: one pair.

    `exponents`: int64 [digits, 8 b], digits of `width` bits, the highest first. A bucket for each
    digit collects the pairs that have it (Pippenger, FOCS 1976). `work`: 8 K + 2 K 2^width digits.
    """
    size = len(modulus) // 3
    entries, pair = 1 << width, 2 * size
    held, first = 3 * pair, 4 * pair
    # Not the constant 0, for which numba would compile the products once more.
    begin = 0 * size
    _spread(out, begin, modulus, size + 1, pair)
    for k in range(len(exponents)):
        for _ in range(width):
            _pair_square(out, begin, out, begin, work, modulus, size)
        for e in range(entries):
            _spread(work, first + e * pair, modulus, size + 1, pair)
        for block in range(exponents.shape[1] // LANES):
            for i in range(LANES):
                bucket = LANES * (first + pair * exponents[k, LANES * block + i]) + i
                for j in range(0, LANES * pair, LANES):
                    work[LANES * held + i + j] = work[bucket + j]
            _pair_multiply(work, held, work, held, pairs, pair * block, work, modulus, size)
            for i in range(LANES):
                bucket = LANES * (first + pair * exponents[k, LANES * block + i]) + i
                for j in range(0, LANES * pair, LANES):
                    work[bucket + j] = work[LANES * held + i + j]
        # A bucket d is in d of the products of the buckets from the top down.
        _spread(work, held, modulus, size + 1, pair)
        for e in range(entries - 1, 0, -1):
            _pair_multiply(work, held, work, held, work, first + e * pair, work, modulus, size)
            _pair_multiply(out, begin, out, begin, work, held, work, modulus, size)


@kernel
def unite(pairs: Any, modulus: Any, work: Any) -> None:
    """Write x0 + x1 n, 2 K digits below R^2, in the place of each pair. `work`: 3 K digits."""
    size = len(modulus) // 3
    _spread(work, 2 * size, modulus, 0, size)
    for at in range(0, len(pairs) // LANES, 2 * size):
        for i in range(LANES * size):
            work[i] = pairs[LANES * at + i]
        _clear(work, size, size)
        _mul(work, 0, pairs, at + size, work, 2 * size, size)
        _settle(pairs, at, work, 0, 2 * size)


@kernel
def multiply_plain(x: Any, y: Any, modulus: Any, work: Any) -> None:
    """Write x y / R in the place of x: numbers, not pairs; y one for all blocks, or one a block.

    Below 2 n for x < 2 n and y < n. `modulus`: K digits and -1 / n. `work`: 3 K digits.
    """
    size = len(modulus) - 1
    step = size if len(y) > size * LANES else 0
    for block in range(len(x) // (size * LANES)):
        _clear(work, 0, 2 * size)
        _mul(work, 0, x, size * block, y, step * block, size)
        _redc(work, 0, work, 2 * size, modulus, size)
        _settle(x, size * block, work, size, size)
