"""AES-128-CTR keystreams fused with their addition to an accumulator.

A keystream block is AES-128(key, nonce || counter): an 8-byte nonce and an 8-byte big-endian
counter that is 0 at lane 0. Keystream bytes are read as little-endian lanes of the accumulator's
width. Source: NIST SP 800-38A, section 6.5, with the counter block of appendix B.2.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._checks import LANE_DTYPES, Lanes, check_array, check_integer

# The last byte position is then below 2^66, so the block counter stays below 2^62 and never
# carries into the nonce.
MAX_POSITION = 1 << 63
# A slice shorter than this is not worth a thread.
MIN_LANES_PER_THREAD = 1 << 14
MAX_THREADS = 1024

_UINT8 = (np.dtype(np.uint8),)
_INT8 = (np.dtype(np.int8),)


def variant() -> str:
    """Name the implementation that this process uses ("openssl")."""
    return "openssl"


def add_keystreams(
    acc: Lanes,
    keys: NDArray[np.uint8],
    nonces: NDArray[np.uint8],
    signs: NDArray[np.int8],
    start: int = 0,
    *,
    threads: int = 1,
) -> None:
    """Add or subtract many keystreams to `acc`, in place, modulo 2^16, 2^32 or 2^64.

    `acc`: uint16, uint32 or uint64 [n]; `keys`: uint8 [k, 16]; `nonces`: uint8 [k, 8]; `signs`:
    int8 [k], each +1 or -1. Lane i of `acc` meets lane `start + i` of each keystream; `start` is
    in lanes, need not be a multiple of the block, and k = 0 changes nothing. At most `threads`
    threads share the lanes; the result does not depend on their number. Threads need arrays that
    nobody else writes during the call.

    Raises ValueError for a wrong dtype, shape, layout or sign, a read-only `acc`, a negative
    `start`, or lanes beyond position 2^63; `acc` is then unchanged.
    """
    check_array("acc", acc, LANE_DTYPES, 1, writeable=True)
    check_array("keys", keys, _UINT8, 2)
    check_array("nonces", nonces, _UINT8, 2)
    check_array("signs", signs, _INT8, 1)
    if keys.shape[1] != 16:
        raise ValueError("keys must have shape [k, 16]")
    if nonces.shape != (len(keys), 8):
        raise ValueError("nonces must have shape [k, 8], with one row for each key")
    if len(signs) != len(keys):
        raise ValueError("signs must have shape [k], with one sign for each key")
    if not np.all((signs == 1) | (signs == -1)):
        raise ValueError("signs must be +1 or -1")
    start = check_integer("start", start, 0, MAX_POSITION)
    threads = check_integer("threads", threads, 1, MAX_THREADS)
    if start + len(acc) > MAX_POSITION:
        raise ValueError("keystream positions must stay below 2^63 lanes")
    if len(keys) == 0 or len(acc) == 0:
        return

    from . import openssl

    workers = min(threads, -(-len(acc) // MIN_LANES_PER_THREAD))
    if workers == 1:
        openssl.add_keystreams(acc, keys, nonces, signs, start)
        return
    step = -(-len(acc) // workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(
                openssl.add_keystreams, acc[low : low + step], keys, nonces, signs, start + low
            )
            for low in range(0, len(acc), step)
        ]
    for job in jobs:
        job.result()


def keystream(
    key: bytes, nonce: bytes, count: int, dtype: DTypeLike, start: int = 0
) -> NDArray[Any]:
    """Return keystream lanes [start, start + count) as a new array of `dtype` [count].

    `key` is 16 bytes, `nonce` 8 bytes, `dtype` uint16, uint32 or uint64. Raises ValueError for
    other lengths or dtypes, a negative `count` or `start`, or positions beyond 2^63 lanes.
    """
    keys, nonces = key_row(key, nonce)
    lane = np.dtype(dtype)
    if lane not in LANE_DTYPES:
        raise ValueError("dtype must be uint16, uint32 or uint64")
    acc = np.zeros(check_integer("count", count, 0, MAX_POSITION), lane)
    add_keystreams(acc, keys, nonces, np.ones(1, np.int8), start)
    return acc


def key_row(key: bytes, nonce: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one key and one nonce as the arrays uint8 [1, 16] and uint8 [1, 8].

    Raises ValueError unless they are 16 and 8 bytes.
    """
    if not isinstance(key, bytes | bytearray | memoryview) or len(key) != 16:
        raise ValueError("key must be 16 bytes")
    if not isinstance(nonce, bytes | bytearray | memoryview) or len(nonce) != 8:
        raise ValueError("nonce must be 8 bytes")
    keys = np.frombuffer(bytes(key), np.uint8).reshape(1, 16)
    return keys, np.frombuffer(bytes(nonce), np.uint8).reshape(1, 8)
