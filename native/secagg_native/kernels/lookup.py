"""Look-ups in a table of numbers by secret choices, one for each of eight lanes.

The words that are chosen from lie side by side and are all read; the choice is made within
registers (vpermi2q, of AVX-512F). So the addresses do not depend on the choices, at the cost of
reading the table once for each eight numbers. Which hosts may compile this is for `features` to
say.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._jit import kernel

LANES = 8
#: Bits of a choice, and the entries to choose from.
WIDTH = 7
ENTRIES = 1 << WIDTH

# One instruction chooses from two vectors, by four bits.
_SELECTOR = 4

_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, LANES)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _vector(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
    """Return a pointer to vector `index` of an array of words."""
    data = context.make_array(kind)(context, builder, value).data
    return builder.gep(builder.bitcast(data, _VECTOR.as_pointer()), [index])


def _load(builder: Any, pointer: Any) -> Any:
    loaded = builder.load(pointer)
    loaded.align = 8
    return loaded


@intrinsic
def _choose(typing_context, out, to, table, row, choices, at):  # type: ignore[no-untyped-def]
    """Write vector `to` of `out`: of row `row` of the table, the words that vector `at` names."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = _vector(context, builder, sig.args[0], args[0], args[1])
        first = builder.mul(args[3], ir.Constant(_I64, ENTRIES // LANES))
        source = _vector(context, builder, sig.args[2], args[2], first)
        choice = _load(builder, _vector(context, builder, sig.args[4], args[4], args[5]))
        permute = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_VECTOR, [_VECTOR] * 3),
            "llvm.x86.avx512.vpermi2var.q.512",
        )
        vectors = [
            _load(builder, builder.gep(source, [ir.Constant(_I64, k)]))
            for k in range(ENTRIES // LANES)
        ]
        found = [
            builder.call(permute, [low, choice, high])
            for low, high in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        for bit in range(_SELECTOR, WIDTH):
            # All bits where that bit is set. It is computed and not compared, so that no masked
            # load can be made of it.
            mask = builder.ashr(builder.shl(choice, _all(63 - bit)), _all(63))
            found = [
                builder.xor(low, builder.and_(builder.xor(low, high), mask))
                for low, high in zip(found[::2], found[1::2], strict=True)
            ]
        builder.store(found[0], target).align = 8
        return context.get_dummy_value()

    i = types.int64
    return types.void(out, i, table, i, choices, i), generate


# numba fills in the first argument of an intrinsic, which its type does not tell.
_choose_one: Any = _choose


@kernel
def choose(choices: Any, table: Any, out: Any) -> None:
    """Write an entry for each of uint64 `choices` [8 b] < ENTRIES, as b blocks of digits.

    `table` has a row of ENTRIES words for each digit. All arrays are flat uint64.
    """
    size = len(table) // ENTRIES
    for block in range(len(choices) // LANES):
        for j in range(size):
            _choose_one(out, size * block + j, table, j, choices, block)
