"""Our own kernels, and the limits beside them, as works to be timed.

Data comes from fixed keystreams: benchmark keys protect nothing, and the same bytes are handled
in every run.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

import secagg_native
from secagg_native import bitpack
from secagg_native.quantise import dequantise, quantise

from .measure import Work
from .sheet import NotHereError

Array = npt.NDArray[Any]

_KEY: Final = bytes(range(16))
_NONCE: Final = bytes(8)
#: Sizes of the pieces in which OpenSSL is asked for keystream; its best one is the limit.
OPENSSL_PIECES: Final = (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
_TILE: Final = 1 << 20


def noise(count: int, dtype: Any = np.uint32) -> Array:
    """``count`` fixed lanes that look uniform."""
    return secagg_native.keystream(_KEY, _NONCE, count, dtype)


def fill(out: Array, reach: float) -> Array:
    """Fill a float vector with fixed values spread over [-reach, reach), tile by tile."""
    for start in range(0, len(out), _TILE):
        part = out[start : start + _TILE]
        lanes = secagg_native.keystream(_KEY, _NONCE, len(part), np.uint32, start)
        np.multiply(lanes, 2 * reach / (1 << 32), out=part, casting="unsafe")
        part -= part.dtype.type(reach)
    return out


def vector(length: int, reach: float = 8.0, dtype: Any = np.float32) -> Array:
    """A float vector [length] with fixed values spread over [-reach, reach)."""
    return fill(np.empty(length, dtype=dtype), reach)


def mask_keys(count: int) -> tuple[Array, Array, Array]:
    """Keys uint8 [k, 16], nonces uint8 [k, 8], signs int8 [k] in turns +1 and -1."""
    rows = noise(24 * count, np.uint16).astype(np.uint8).reshape(count, 24)
    signs = np.where(np.arange(count) % 2 == 0, 1, -1).astype(np.int8)
    return np.ascontiguousarray(rows[:, :16]), np.ascontiguousarray(rows[:, 16:]), signs


def mask(length: int, keys: int, *, threads: int = 1, dtype: Any = np.uint32) -> Work:
    """Expand ``keys`` keystreams and add them to ``length`` lanes."""
    ring = np.zeros(length, dtype=dtype)
    aes, nonces, signs = mask_keys(keys)
    return lambda: secagg_native.add_keystreams(ring, aes, nonces, signs, threads=threads)


def aes_limit(size: int, *, threads: int = 1) -> Work:
    """AES-128's rounds over ``size`` bytes that never leave the registers.

    Raises NotHereError where the host has no AES instructions.
    """
    try:
        from secagg_native import limits

        limits.aes_registers(16, threads=threads)
    except (ImportError, RuntimeError) as error:
        raise NotHereError(f"no register-only AES loop: {error}") from None
    return lambda: limits.aes_registers(size // 16, threads=threads)


def openssl_limits(size: int) -> dict[str, Work]:
    """OpenSSL's keystream alone over ``size`` bytes, for pieces of several sizes."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def one(piece: int) -> Work:
        zeros, out = bytes(piece), bytearray(piece)

        def work() -> None:
            stream = Cipher(algorithms.AES128(_KEY), modes.CTR(bytes(16))).encryptor()
            for _ in range(-(-size // piece)):
                stream.update_into(zeros, out)

        return work

    pieces = [piece for piece in OPENSSL_PIECES if piece <= size] or [size]
    return {f"OpenSSL, pieces of {piece // 1024 or 1} KiB": one(piece) for piece in pieces}


def copy(size: int) -> Work:
    """A copy of ``size`` bytes from one array to another."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return lambda: np.copyto(target, source)


def unpack_add(length: int, bits: int) -> Work:
    """Add a packed message of ``length`` coordinates to uint32 lanes."""
    data = noise(bitpack.packed_size(length, bits), np.uint16).astype(np.uint8)
    used = length * bits % 8
    if used:
        data[-1] &= (1 << used) - 1
    accumulator = np.zeros(length, np.uint32)
    return lambda: bitpack.unpack_add(accumulator, data, bits)


def pack(length: int, bits: int) -> Work:
    """Pack uint32 lanes into ``bits`` bits a coordinate."""
    values, out = noise(length), bytearray(bitpack.packed_size(length, bits))
    return lambda: bitpack.pack(values, bits, out)


def quantised(length: int, *, levels: int = 1 << 21, clip: float = 8.0) -> Work:
    """Round float32 coordinates to levels, stochastically, into uint32 lanes."""
    x, out = vector(length, clip), np.empty(length, np.uint32)
    return lambda: quantise(
        x,
        out,
        scale=levels / clip,
        limit=levels,
        key=_KEY,
        nonce=_NONCE,
        start=0,
        mode="stochastic",
    )


def dequantised(length: int, *, scale: float = 262144.0) -> Work:
    """Turn summed levels back into float64 coordinates."""
    total, out = noise(length).astype(np.int64), np.empty(length, np.float64)
    return lambda: dequantise(total, out, scale=scale)


def rotated(length: int) -> Work:
    """Rotate a float32 vector, and back, in place (so that values stay in range).

    Raises NotHereError where this version has no rotation.
    """
    try:
        from secagg_native import hadamard
    except ImportError:
        raise NotHereError("this version has no rotation") from None
    x = vector(1 << (length - 1).bit_length())

    def work() -> None:
        hadamard.rotate(x, _KEY, _NONCE)
        hadamard.unrotate(x, _KEY, _NONCE)

    return work


def secrets(count: int) -> list[bytes]:
    """Fixed secrets of 32 bytes."""
    data = noise(32 * count, np.uint16).astype(np.uint8).tobytes()
    return [data[32 * i : 32 * (i + 1)] for i in range(count)]


def split(holders: int, threshold: int, count: int = 1) -> Work:
    """Shares of ``count`` 32-byte secrets for every holder, coefficients drawn, in wire bytes."""
    from secagg_protocols import shamir

    given, sites = secrets(count), list(range(holders))
    return lambda: shamir.encode_shares(shamir.split(given, sites, threshold, bytes(32)))


def recover(holders: int, threshold: int, shown: int, count: int = 1) -> Work:
    """``count`` 32-byte secrets from the wire bytes of ``shown`` shares each.

    Raises ValueError where the secrets do not come back.
    """
    from secagg_protocols import shamir

    given = secrets(count)
    table = shamir.split(given, list(range(holders)), threshold, bytes(32))[:shown]
    sites, data = list(range(shown)), shamir.encode_shares(table)

    def work() -> list[bytes | None]:
        shares = shamir.decode_shares(data, sender="").reshape(shown, count, -1)
        return shamir.recover(sites, shares, threshold)[0]

    if work() != given:
        raise ValueError("the recovered secrets are not the shared ones")
    return work
