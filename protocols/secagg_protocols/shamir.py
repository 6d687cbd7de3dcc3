"""Shamir sharing of 32-byte secrets over GF(2^61-1) (Shamir, CACM 1979).

A secret is five limbs of 52 bits (the last of 48), each shared with a polynomial of its own.
A share is the five values at ``x = roster index + 1``, 40 bytes. Limbs are refused above
their size on recovery: honest sharing cannot produce them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from secagg_native import field, keystream

from .errors import DecodeError
from .keys import SEED_SIZE, hkdf

LIMBS: Final = 5
LIMB_BITS: Final = 52
SHARE_SIZE: Final = 8 * LIMBS
PRIME: Final = (1 << 61) - 1

Shares = npt.NDArray[np.uint64]


def _limbs(secret: bytes) -> list[int]:
    value = int.from_bytes(secret, "little")
    mask = (1 << LIMB_BITS) - 1
    return [(value >> (LIMB_BITS * i)) & mask for i in range(LIMBS)]


def split(secrets: Sequence[bytes], sites: Sequence[int], threshold: int, seed: bytes) -> Shares:
    """Shares of 32-byte ``secrets`` for ``sites`` (roster indices): uint64[site, secret, limb].

    The coefficients come from an AES-CTR stream under ``seed`` by rejection sampling, hence
    uniform in the field and reproducible from a dump.
    """
    rows = len(secrets) * LIMBS
    coefficients = np.empty((rows, threshold), dtype=np.uint64)
    coefficients[:, 0] = [limb for secret in secrets for limb in _limbs(secret)]
    coefficients[:, 1:] = _uniform(seed, rows * (threshold - 1)).reshape(rows, threshold - 1)
    shares = field.split(coefficients, points(sites))
    return shares.reshape(len(sites), len(secrets), LIMBS)


def _uniform(seed: bytes, count: int) -> npt.NDArray[np.uint64]:
    material = hkdf(seed, b"secagg shamir coefficients v1", 24)
    # One word in 2^61 is rejected, so a few spare words make a second pass all but impossible;
    # the loop is there because "all but" is not "never".
    spare = 8
    while True:
        words = keystream(material[:16], material[16:], count + spare, np.uint64)
        accepted = field.reduce_uniform(words)
        if accepted.size >= count:
            return accepted[:count]
        spare *= 2


def points(sites: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Evaluation points of roster indices: index + 1, because the secret sits at 0."""
    return np.asarray(sites, dtype=np.uint64) + np.uint64(1)


def encode_shares(shares: Shares) -> bytes:
    """Little-endian bytes of shares, 40 a secret."""
    return np.ascontiguousarray(shares, dtype="<u8").tobytes()


def decode_shares(data: bytes | memoryview, *, sender: str) -> Shares:
    """uint64[n, limb] from 40-byte shares; elements that are not reduced are refused."""
    if len(data) % SHARE_SIZE:
        raise DecodeError("a share is cut", rule="share-range", sender=sender)
    shares = np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(-1, LIMBS)
    if shares.size and int(shares.max()) >= PRIME:
        raise DecodeError("a share is not reduced", rule="share-range", sender=sender)
    return shares


def recover(
    sites: Sequence[int], shares: Shares, threshold: int
) -> tuple[list[bytes | None], npt.NDArray[np.bool_]]:
    """Secrets from ``shares`` uint64[site, secret, limb], and who gave wrong ones.

    Returns one 32-byte secret per column, ``None`` where nothing decodes or a limb is too
    large, and ``wrong`` bool[site, secret]. Up to half of the holders beyond the threshold may
    be wrong about a secret (Reed-Solomon decoding), whose five limbs count together; where
    nothing decodes, nobody is marked.
    """
    limbs, wrong, decoded = field.recover_secrets(
        points(sites), np.ascontiguousarray(shares), threshold
    )
    secrets = [
        _join(values) if found else None
        for values, found in zip(limbs.tolist(), decoded.tolist(), strict=True)
    ]
    return secrets, wrong


def _join(limbs: list[int]) -> bytes | None:
    value = 0
    for index, limb in enumerate(limbs):
        value |= limb << (LIMB_BITS * index)
        if limb >> LIMB_BITS:
            return None
    if value >> (8 * SEED_SIZE):
        return None
    return value.to_bytes(SEED_SIZE, "little")
