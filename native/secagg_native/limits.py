"""What the hardware could do at best, for benchmarks to measure against."""

import numpy as np

from . import _slices, features
from ._checks import check_integer

_BLOCK = 16
IFMA_LANES = 8
"""Multiplications of 52 bits that one vector instruction does."""


def aes_registers(blocks: int, *, threads: int = 1) -> None:
    """Run AES-128's ten rounds on `blocks` 16-byte blocks that never leave the registers.

    It uses the widest AES instructions of the host and does nothing else, so no program encrypts
    or expands masks faster on these cores. `blocks` is rounded up to a few dozen.

    Raises ValueError for a bad argument, RuntimeError where the host has no AES instructions.
    """
    blocks = check_integer("blocks", blocks, 0, 1 << 56)
    threads = check_integer("threads", threads, 1, _slices.MAX_THREADS)
    name = features.aes_variants()[0]
    if name == features.OPENSSL:
        raise RuntimeError("this host has no AES instructions that kernels may use")
    from .kernels import aes

    body, chunk = {
        "vaes512": (aes.rounds_vaes512, 512),
        "vaes256": (aes.rounds_vaes256, 256),
        "aesni": (aes.rounds_aesni, 128),
    }[name]
    count = -(-blocks * _BLOCK // chunk)
    body(1, 0)  # compiled here, not by two threads at once
    _slices.run(lambda low, high: body(low, high - low), count, 1 << 14, threads)


def ifma_registers(instructions: int, *, threads: int = 1) -> None:
    """Run `instructions` 512-bit vpmadd52 instructions on operands that never leave the registers.

    Each multiplies IFMA_LANES pairs of 52-bit numbers and keeps one half of each product. It does
    nothing else, so no big-integer arithmetic by such instructions is faster on these cores.
    `instructions` is rounded up to a few dozen.

    Raises ValueError for a bad argument, RuntimeError where the host has no such instructions.
    """
    instructions = check_integer("instructions", instructions, 0, 1 << 56)
    threads = check_integer("threads", threads, 1, _slices.MAX_THREADS)
    if features.IFMA not in features.bigint_variants():
        raise RuntimeError("this host has no 52-bit multipliers that kernels may use")
    from .kernels import multipliers

    multipliers.spin(np.uint64(1), 0)  # compiled here, not by two threads at once
    turns = -(-instructions // multipliers.TURN)
    _slices.run(
        lambda low, high: multipliers.spin(np.uint64(1), high - low), turns, 1 << 14, threads
    )
