"""AES-128-CTR keystreams fused with their addition to an accumulator.

A keystream block is AES-128(key, nonce || counter): an 8-byte nonce and an 8-byte big-endian
counter that is 0 at lane 0. Keystream bytes are read as little-endian lanes of the accumulator's
width. Source: NIST SP 800-38A, section 6.5, with the counter block of appendix B.2.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _slices, features
from ._checks import LANE_DTYPES, Lanes, check_array, check_integer

# The last byte position is then below 2^66, so the block counter stays below 2^62 and never
# carries into the nonce.
MAX_POSITION = 1 << 63
# A slice shorter than this is not worth a thread.
MIN_LANES_PER_THREAD = 1 << 14

_BLOCK = 16
_SCHEDULE = 176
# Bytes that each kernel takes at a time, as kernels.aes has it.
_CHUNKS = {"vaes512": 512, "vaes256": 256, "aesni": 128}
_UINT8 = (np.dtype(np.uint8),)
_INT8 = (np.dtype(np.int8),)


def variant() -> str:
    """Name the implementation that this process uses: vaes512, vaes256, aesni or openssl.

    All give the same bytes. The best one that the host can run is chosen, or the one that the
    environment variable SECAGG_AES names; ValueError where that one cannot run.
    """
    return features.aes_variant()


class Keystreams:
    """Many keystreams whose keys are expanded once, to be added to any stretch of lanes.

    `keys`: uint8 [k, 16]; `nonces`: uint8 [k, 8]; `signs`: int8 [k], each +1 or -1; k may be 0.
    `variant`: one of `features.aes_variants()`, by default `variant()`.

    Raises ValueError for a wrong dtype, shape, layout or sign.
    """

    __slots__ = ("_count", "_keys", "_nonces", "_plus", "_schedules", "_signs", "variant")

    def __init__(
        self,
        keys: NDArray[np.uint8],
        nonces: NDArray[np.uint8],
        signs: NDArray[np.int8],
        *,
        variant: str | None = None,
    ) -> None:
        check_array("keys", keys, _UINT8, 2)
        check_array("nonces", nonces, _UINT8, 2)
        check_array("signs", signs, _INT8, 1)
        if keys.shape[1] != 16:
            raise ValueError("keys must have shape [k, 16]")
        if nonces.shape != (len(keys), 8):
            raise ValueError("nonces must have shape [k, 8], with one row for each key")
        if len(signs) != len(keys):
            raise ValueError("signs must have shape [k], with one sign for each key")
        positive = signs == 1
        if not np.all(positive | (signs == -1)):
            raise ValueError("signs must be +1 or -1")
        if variant is None:
            self.variant = features.aes_variant()
        else:
            self.variant = features.check_aes_variant(variant, "variant")
        self._count = len(keys)
        # Those to add come first, so that the kernel has one loop for each sign. Copies, which
        # are writable: a kernel is compiled once more for arrays that are not.
        order = np.argsort(~positive, kind="stable")
        self._keys, self._nonces = np.asarray(keys)[order], np.asarray(nonces)[order]
        self._signs = np.asarray(signs)[order]
        self._plus = int(np.count_nonzero(positive))
        self._expand()

    def _expand(self) -> None:
        self._schedules = np.empty((0, _SCHEDULE), np.uint8)
        if self.variant != features.OPENSSL:
            from .kernels import aes

            self._schedules = np.empty((self._count, _SCHEDULE), np.uint8)
            aes.expand(self._keys, self._nonces, self._schedules)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Keystreams({self._count} keys, {self.variant})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("keystreams hold keys and are not pickled")

    def add_to(self, acc: Lanes, start: int = 0, *, threads: int = 1) -> None:
        """Add (or subtract, where the sign is -1) all keystreams to `acc`, in place.

        `acc`: uint16, uint32 or uint64 [n]; sums are modulo 2^16, 2^32 or 2^64. Lane i of `acc`
        meets lane `start + i` of each keystream; `start` is in lanes and need not be a multiple
        of the block. At most `threads` threads share the lanes; the result does not depend on
        their number. Threads need an `acc` that nobody else writes during the call.

        Raises ValueError for a wrong dtype, shape or layout, a read-only `acc`, a negative
        `start`, or lanes beyond position 2^63; `acc` is then unchanged.
        """
        check_array("acc", acc, LANE_DTYPES, 1, writeable=True)
        start = check_integer("start", start, 0, MAX_POSITION)
        threads = check_integer("threads", threads, 1, _slices.MAX_THREADS)
        if start + len(acc) > MAX_POSITION:
            raise ValueError("positions must lie below 2^63 lanes")
        if not self._count:
            return
        acc = np.asarray(acc)  # a kernel takes no subclass, such as a mapped file
        if self.variant == features.OPENSSL:
            from . import openssl

            def add(low: int, high: int) -> None:
                openssl.add_keystreams(
                    acc[low:high], self._keys, self._nonces, self._signs, start + low
                )
        else:

            def add(low: int, high: int) -> None:
                self._add(acc[low:high], start + low)

        _slices.run(add, len(acc), MIN_LANES_PER_THREAD, threads)

    def _fill(self, out: Lanes, start: int) -> None:
        """Write the sum of the keystreams into `out`, an array that meets `add_to`'s rules.

        Nothing is checked: this is for small tiles, where checks would cost as much as the rest.
        """
        out.fill(0)
        if self.variant == features.OPENSSL:
            self.add_to(out, start)
        else:
            self._add(out, start)

    def _add(self, acc: Lanes, start: int) -> None:
        """Walk whole chunks in place; what does not fill one goes through a chunk of its own."""
        from .kernels import aes

        body = getattr(aes, f"add_{self.variant}")
        width = acc.dtype.itemsize
        chunk = _CHUNKS[self.variant] // width
        block, skip = divmod(start * width, _BLOCK)
        blocks = _CHUNKS[self.variant] // _BLOCK
        done = 0
        if skip and len(acc):
            before = skip // width
            done = min(len(acc), chunk - before)
            self._add_part(body, acc[:done], before, block)
            block += blocks
        whole = (len(acc) - done) // chunk * chunk
        if whole:
            body(acc[done : done + whole], self._schedules, self._plus, np.uint64(block))
            block += whole // chunk * blocks
            done += whole
        if done < len(acc):
            self._add_part(body, acc[done:], 0, block)

    def _add_part(self, body: Any, part: Lanes, before: int, block: int) -> None:
        """Add to fewer lanes than a chunk, which begin `before` lanes into `block`."""
        whole = np.zeros(_CHUNKS[self.variant] // part.dtype.itemsize, part.dtype)
        whole[before : before + len(part)] = part
        body(whole, self._schedules, self._plus, np.uint64(block))
        part[:] = whole[before : before + len(part)]


def add_keystreams(
    acc: Lanes,
    keys: NDArray[np.uint8],
    nonces: NDArray[np.uint8],
    signs: NDArray[np.int8],
    start: int = 0,
    *,
    threads: int = 1,
) -> None:
    """Add or subtract many keystreams to `acc`, in place: `Keystreams` for one stretch.

    Arguments and errors are those of `Keystreams` and of its `add_to`; k = 0 changes nothing.
    """
    Keystreams(keys, nonces, signs).add_to(acc, start, threads=threads)


def keystream(
    key: bytes, nonce: bytes, count: int, dtype: DTypeLike, start: int = 0
) -> NDArray[Any]:
    """Return keystream lanes [start, start + count) as a new array of `dtype` [count].

    `key` is 16 bytes, `nonce` 8 bytes, `dtype` uint16, uint32 or uint64. Raises ValueError for
    other lengths or dtypes, a negative `count` or `start`, or positions beyond 2^63 lanes.
    """
    stream = one(key, nonce)
    lane = np.dtype(dtype)
    if lane not in LANE_DTYPES:
        raise ValueError("dtype must be uint16, uint32 or uint64")
    acc = np.zeros(check_integer("count", count, 0, MAX_POSITION), lane)
    stream.add_to(acc, start)
    return acc


def one(key: bytes, nonce: bytes) -> Keystreams:
    """Return the one keystream of a key of 16 bytes and a nonce of 8, to be added.

    Raises ValueError unless they are 16 and 8 bytes.
    """
    keys, nonces = key_row(key, nonce)
    # Made without the checks and the sorting of many, which a single key does not need.
    stream = object.__new__(Keystreams)
    stream.variant = features.aes_variant()
    stream._count = stream._plus = 1
    stream._keys, stream._nonces, stream._signs = keys, nonces, np.ones(1, np.int8)
    stream._expand()
    return stream


def key_row(key: bytes, nonce: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one key and one nonce as new, writable arrays uint8 [1, 16] and uint8 [1, 8].

    Raises ValueError unless they are 16 and 8 bytes.
    """
    if not isinstance(key, bytes | bytearray | memoryview) or len(key) != 16:
        raise ValueError("key must be 16 bytes")
    if not isinstance(nonce, bytes | bytearray | memoryview) or len(nonce) != 8:
        raise ValueError("nonce must be 8 bytes")
    keys = np.frombuffer(bytearray(key), np.uint8).reshape(1, 16)
    return keys, np.frombuffer(bytearray(nonce), np.uint8).reshape(1, 8)
