"""What the hardware could do at best, for benchmarks to measure against."""

from . import _slices, features
from ._checks import check_integer

_BLOCK = 16


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
