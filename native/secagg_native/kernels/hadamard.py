"""Compiled bodies of `hadamard`: the fast Walsh-Hadamard transform with random signs.

Level j of the transform replaces every pair x[i], x[i + 2^j] (bit j of i clear) by its sum and its
difference. Ascending kernels run the levels from 0 up, descending ones from the highest down. How
many levels one pass over memory covers changes nothing in that graph of additions, so no blocking
and no number of threads changes a bit of the result.

The butterflies are emitted as LLVM vectors of 32 bytes, which LLVM splits on hosts with narrower
registers: the vectoriser gives up on eight rows of one array, whose distances it cannot tell. A
pass covers at most eight rows, because rows are powers of two apart: they share one set of the
caches, which have eight ways on common hosts, and sixteen rows would evict each other.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from ._jit import inlined, kernel

VECTOR_BYTES = 32
#: A tile is sixteen vectors, which stay in registers while its levels are run.
TILE_VECTORS = 16
TILE_BYTES = VECTOR_BYTES * TILE_VECTORS

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


@kernel
def ascend(x: Any, signs: Any, scale: Any) -> None:
    """Replace x by H·(scale·s·x), levels ascending, for x of 2^k tiles.

    `signs`: uint64, bit i % 64 of lane i // 64 set where s_i is -1. Blocks are finished depth
    first: a block of every size is completed while its parts are still in the cache that holds
    them, whatever the sizes of the caches.
    """
    tile = TILE_BYTES // x.itemsize
    odd = _odd_levels(len(x) // tile)
    for start in range(0, len(x), tile):
        _tile_up(x, start, signs, scale)
        end = start + tile
        half = tile
        if odd > 0 and end % (half << odd) == 0:
            _rows_up(x, end - (half << odd), half, odd, 0, half)
        half <<= odd
        while half < len(x) and end % (half << 3) == 0:
            _rows_up(x, end - (half << 3), half, 3, 0, half)
            half <<= 3


@kernel
def descend(x: Any, signs: Any, scale: Any) -> None:
    """Replace x by scale·s·(H·x), levels descending, for x of 2^k tiles; see `ascend`."""
    tile = TILE_BYTES // x.itemsize
    odd = _odd_levels(len(x) // tile)
    for start in range(0, len(x), tile):
        size = len(x)
        while size > tile << odd:
            if start % size == 0:
                _rows_down(x, start, size >> 3, 3, 0, size >> 3)
            size >>= 3
        if odd > 0 and start % size == 0:
            _rows_down(x, start, tile, odd, 0, tile)
        _tile_down(x, start, signs, scale)


@kernel
def sweep_up(x: Any, half: int, levels: int, first: int, last: int) -> None:
    """Run the `levels` (1 to 3) levels from that of distance `half` up, on columns [first, last).

    A column is a residue modulo `half`. Both ends are multiples of the elements of a vector.
    """
    for start in range(0, len(x), half << levels):
        _rows_up(x, start, half, levels, first, last)


@kernel
def sweep_down(x: Any, half: int, levels: int, first: int, last: int) -> None:
    """Run the same levels as `sweep_up`, the one of the largest distance first."""
    for start in range(0, len(x), half << levels):
        _rows_down(x, start, half, levels, first, last)


@inlined
def _odd_levels(tiles: int) -> int:
    """Return the levels that are left over when those above a tile are taken by three."""
    odd = 0
    while tiles > 1:
        odd = (odd + 1) % 3
        tiles >>= 1
    return odd


@inlined
def _rows_up(x: Any, start: int, half: int, levels: int, first: int, last: int) -> None:
    step = VECTOR_BYTES // x.itemsize
    if levels == 3:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 3, 0)
    elif levels == 2:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 2, 0)
    else:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 1, 0)


@inlined
def _rows_down(x: Any, start: int, half: int, levels: int, first: int, last: int) -> None:
    step = VECTOR_BYTES // x.itemsize
    if levels == 3:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 3, 1)
    elif levels == 2:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 2, 1)
    else:
        for at in range(start + first, start + last, step):
            _butterflies(x, at, half, 1, 1)


@intrinsic  # type: ignore[untyped-decorator]
def _butterflies(typing: Any, x: Any, at: Any, half: Any, levels: Any, down: Any) -> Any:
    """Run 1 to 3 levels on the vectors at `at`, `at + half`, ... (both in elements)."""
    if not (isinstance(levels, types.IntegerLiteral) and isinstance(down, types.IntegerLiteral)):
        raise RequireLiteralValue("the shape of a butterfly is fixed when it is compiled")
    rows = 1 << levels.literal_value
    order = _levels(levels.literal_value, down.literal_value)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[0], args[0])
        offsets = [args[1]]
        for _ in range(1, rows):
            offsets.append(builder.add(offsets[-1], args[2]))
        pointers = [vectors.pointer(offset) for offset in offsets]
        values = [vectors.load(pointer) for pointer in pointers]
        _run_levels(builder, values, order)
        for value, pointer in zip(values, pointers, strict=True):
            vectors.store(value, pointer)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, levels, down), emit


@intrinsic  # type: ignore[untyped-decorator]
def _tile_up(typing: Any, x: Any, at: Any, signs: Any, scale: Any) -> Any:
    """Multiply the tile at `at` by its signs and `scale`, then run its levels, ascending."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[0], args[0])
        pointers = vectors.tile(args[1])
        factors = vectors.factors(signature.args[2], args[2], args[1], args[3])
        values = [
            vectors.run_lanes(builder.fmul(vectors.load(pointer), factor), down=False)
            for pointer, factor in zip(pointers, factors, strict=True)
        ]
        _run_levels(builder, values, _levels(4, 0))
        for value, pointer in zip(values, pointers, strict=True):
            vectors.store(value, pointer)
        return context.get_dummy_value()

    return types.void(x, types.intp, signs, scale), emit


@intrinsic  # type: ignore[untyped-decorator]
def _tile_down(typing: Any, x: Any, at: Any, signs: Any, scale: Any) -> Any:
    """Run the levels of the tile at `at`, descending, then multiply by its signs and `scale`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(context, builder, signature.args[0], args[0])
        pointers = vectors.tile(args[1])
        values = [vectors.load(pointer) for pointer in pointers]
        _run_levels(builder, values, _levels(4, 1))
        factors = vectors.factors(signature.args[2], args[2], args[1], args[3])
        for value, factor, pointer in zip(values, factors, pointers, strict=True):
            vectors.store(builder.fmul(vectors.run_lanes(value, down=True), factor), pointer)
        return context.get_dummy_value()

    return types.void(x, types.intp, signs, scale), emit


def _levels(count: int, down: int) -> range:
    return range(count - 1, -1, -1) if down else range(count)


def _run_levels(builder: Any, values: list[Any], order: range) -> None:
    """Run levels across vectors: level j pairs vector i with vector i + 2^j."""
    for level in order:
        for i in range(len(values)):
            j = i + (1 << level)
            if not i >> level & 1:
                a, b = values[i], values[j]
                values[i], values[j] = builder.fadd(a, b), builder.fsub(a, b)


class _Vectors:
    """Emits loads, stores and arithmetic on the vectors of one float32 or float64 array."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any) -> None:
        single = array_type.dtype == types.float32
        self._context, self._builder = context, builder
        self._bytes = 4 if single else 8
        self.lanes = VECTOR_BYTES // self._bytes
        self._element = ir.IntType(8 * self._bytes)
        self._bits = ir.VectorType(self._element, self.lanes)
        self._reals = ir.VectorType(ir.FloatType() if single else ir.DoubleType(), self.lanes)
        self._data = context.make_array(array_type)(context, builder, array).data

    def pointer(self, offset: Any) -> Any:
        return self._builder.bitcast(
            self._builder.gep(self._data, [offset]), self._reals.as_pointer()
        )

    def tile(self, start: Any) -> list[Any]:
        step = self.lanes
        return [
            self.pointer(self._builder.add(start, ir.Constant(_I64, i * step)))
            for i in range(TILE_VECTORS)
        ]

    def load(self, pointer: Any) -> Any:
        # numpy promises the alignment of an element, not that of a vector.
        return self._builder.load(pointer, align=self._bytes)

    def store(self, value: Any, pointer: Any) -> None:
        self._builder.store(value, pointer, align=self._bytes)

    def run_lanes(self, value: Any, *, down: bool) -> Any:
        """Run the levels within a vector, where level j pairs lane i with lane i + 2^j.

        a - b is computed as a + (-b), which is the same number in IEEE 754.
        """
        builder, lanes = self._builder, self.lanes
        for level in _levels(lanes.bit_length() - 1, down):
            partners = ir.Constant(
                ir.VectorType(_I32, lanes), [i ^ (1 << level) for i in range(lanes)]
            )
            other = builder.shuffle_vector(value, ir.Constant(self._reals, ir.Undefined), partners)
            upper = [self._top_bit() if i >> level & 1 else 0 for i in range(lanes)]
            flipped = builder.xor(
                builder.bitcast(value, self._bits), ir.Constant(self._bits, upper)
            )
            value = builder.fadd(other, builder.bitcast(flipped, self._reals))
        return value

    def factors(self, signs_type: Any, signs: Any, start: Any, scale: Any) -> list[Any]:
        """Return scale or -scale for each lane of the tile that starts at element `start`."""
        builder = self._builder
        data = self._context.make_array(signs_type)(self._context, builder, signs).data
        words = builder.lshr(start, ir.Constant(_I64, 6))
        plus = builder.bitcast(self._splat(scale, self._reals), self._bits)
        top = ir.Constant(self._bits, [self._top_bit()] * self.lanes)
        found, chunk = [], None
        for bit in range(0, TILE_VECTORS * self.lanes, self.lanes):
            inside = bit % (8 * self._bytes)
            if inside == 0:
                # As many signs as an element has bits, in every lane; each lane shifts its own up.
                at = builder.gep(data, [builder.add(words, ir.Constant(_I64, bit // 64))])
                word = builder.lshr(builder.load(at), ir.Constant(_I64, bit % 64))
                if self._element != _I64:
                    word = builder.trunc(word, self._element)
                chunk = self._splat(word, self._bits)
            shifts = [8 * self._bytes - 1 - inside - i for i in range(self.lanes)]
            raised = builder.shl(chunk, ir.Constant(self._bits, shifts))
            factor = builder.xor(plus, builder.and_(raised, top))
            found.append(builder.bitcast(factor, self._reals))
        return found

    def _splat(self, value: Any, vector: Any) -> Any:
        empty = ir.Constant(vector, ir.Undefined)
        first = self._builder.insert_element(empty, value, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self._builder.shuffle_vector(first, empty, zeros)

    def _top_bit(self) -> int:
        return 1 << (8 * self._bytes - 1)
