"""AES-128-CTR by OpenSSL: the only file that imports `cryptography`.

Nothing here checks its input; the wrappers in `aes_ctr` do. Source: NIST SP 800-38A, section 6.5.
"""

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from ._checks import Lanes

BLOCK = 16
TILE_BYTES = 1 << 16
# A cipher context costs about as much to create as a tile costs to encrypt, so the contexts of a
# batch of keys stay open over all tiles; the batch bounds the memory that they hold.
KEYS_PER_PASS = 256

_ZEROS = memoryview(bytes(TILE_BYTES))


def ctr_encrypt(key: bytes, initial_block: bytes, data: bytes) -> bytes:
    """Encrypt `data` under AES-128-CTR from a full 16-byte initial counter block.

    The block is incremented as one big-endian 128-bit integer, as SP 800-38A appendix B.1 with
    m = 128 does.
    """
    return _open(key, initial_block).update(data)


def add_keystreams(
    acc: Lanes,
    keys: NDArray[np.uint8],
    nonces: NDArray[np.uint8],
    signs: NDArray[np.int8],
    start: int,
) -> None:
    """Body of `aes_ctr.add_keystreams` on inputs that are already checked."""
    width = acc.dtype.itemsize
    per_tile = TILE_BYTES // width
    buffer = bytearray(TILE_BYTES)
    # The keystream is defined as little-endian lanes whatever the byte order of the host.
    lanes: NDArray[Any] = np.frombuffer(buffer, acc.dtype.newbyteorder("<"))
    block, skip = divmod(start * width, BLOCK)
    counter = block.to_bytes(8, "big")
    for first in range(0, len(keys), KEYS_PER_PASS):
        batch = range(first, min(first + KEYS_PER_PASS, len(keys)))
        streams = [_open(keys[i].tobytes(), nonces[i].tobytes() + counter) for i in batch]
        negative = [int(signs[i]) < 0 for i in batch]
        for stream in streams if skip else ():
            stream.update_into(_ZEROS[:skip], buffer)
        for low in range(0, len(acc), per_tile):
            tile = acc[low : low + per_tile]
            zeros, stretch = _ZEROS[: tile.nbytes], lanes[: len(tile)]
            for stream, minus in zip(streams, negative, strict=True):
                stream.update_into(zeros, buffer)
                if minus:
                    np.subtract(tile, stretch, out=tile)
                else:
                    np.add(tile, stretch, out=tile)


def _open(key: bytes, initial_block: bytes) -> CipherContext:
    return Cipher(algorithms.AES128(key), modes.CTR(initial_block)).encryptor()
