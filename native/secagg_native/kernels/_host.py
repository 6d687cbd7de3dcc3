"""The processor that kernels are compiled for."""

import llvmlite.binding as llvm
from numba.core import config


def target_features() -> frozenset[str]:
    """Return the CPU features that compiled code may use: those of the target that are here.

    Empty where numba is told to compile for another CPU, or not to compile at all.
    """
    if config.DISABLE_JIT or config.CPU_NAME is not None:
        return frozenset()
    try:
        host = {name for name, here in llvm.get_host_cpu_features().items() if here}
    except RuntimeError:
        return frozenset()  # LLVM cannot tell on this system
    if config.CPU_FEATURES is not None:
        host &= {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if not config.ENABLE_AVX:
        # numba then takes every avx* feature from its target, and vaes is nothing without them.
        host -= {name for name in host if name.startswith("avx")} | {"vaes"}
    return frozenset(host)
