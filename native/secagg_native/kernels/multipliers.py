"""What the 52-bit multipliers of a core can do at best: nothing but multiplications."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ._jit import kernel

#: Multiply-adds of eight numbers in one turn of the loop: a low and a high half for each register.
#: They take a few cycles and at most two start in each, so sixteen sums are under way.
TURN = 32

_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, 8)


@intrinsic
def _spin(typing_context, seed, count):  # type: ignore[no-untyped-def]
    """Run TURN multiply-adds on registers, `count` times, without memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = ir.Constant(_VECTOR, [0] * 8)
        for i in range(8):
            factor = builder.insert_element(factor, args[0], ir.Constant(ir.IntType(32), i))
        slots = [
            cgutils.alloca_once_value(builder, builder.add(factor, ir.Constant(_VECTOR, [j] * 8)))
            for j in range(TURN // 2)
        ]
        with cgutils.for_range(builder, args[1]):
            for half in "lh":
                add = cgutils.get_or_insert_function(
                    builder.module,
                    ir.FunctionType(_VECTOR, [_VECTOR] * 3),
                    f"llvm.x86.avx512.vpmadd52{half}.uq.512",
                )
                for slot in slots:
                    builder.store(builder.call(add, [builder.load(slot), factor, factor]), slot)
        out = builder.load(slots[0])
        for slot in slots[1:]:
            out = builder.xor(out, builder.load(slot))
        return builder.extract_element(out, ir.Constant(ir.IntType(32), 0))

    return types.uint64(types.uint64, types.int64), generate


# numba fills in the first argument of an intrinsic, which its type does not tell.
_multiply_adds: Any = _spin


@kernel
def spin(seed: Any, count: int) -> Any:
    """Run `count` turns and return something that depends on all of them."""
    return _multiply_adds(seed, count)
