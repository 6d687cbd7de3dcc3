"""Keys of a round: seeds, pair masks, self masks, share channels, commitments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..keys import (
    ONE_TIME_SIZE,
    SEED_SIZE,
    ExchangeKey,
    agree,
    clamp,
    digest_of,
    hkdf,
    pair_info,
    stage_seed,
)

#: An AES-128 key and a 64-bit nonce: one keystream, used once.
MASK_KEY_SIZE = 24


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SiteSecrets:
    """All secrets of one site in one round; everything follows from ``seed``."""

    seed: bytes
    mask_seed: bytes
    channel_seed: bytes
    self_seed: bytes
    mask_exchange: ExchangeKey
    channel_exchange: ExchangeKey

    @property
    def mask_key(self) -> bytes:
        """Public key that belongs to the mask seed."""
        return self.mask_exchange.public

    @property
    def channel_key(self) -> bytes:
        """Public key that belongs to the channel seed."""
        return self.channel_exchange.public

    @classmethod
    def derive(cls, seed: bytes, setup_context: bytes) -> SiteSecrets:
        """Secrets of the round whose setup context is given."""

        def one(label: bytes) -> bytes:
            return hkdf(seed, b"secagg site secrets v1 " + label + setup_context, SEED_SIZE)

        mask_seed, channel_seed = clamp(one(b"mask")), one(b"channel")
        return cls(
            seed=seed,
            mask_seed=mask_seed,
            channel_seed=channel_seed,
            self_seed=one(b"self"),
            mask_exchange=ExchangeKey(mask_seed),
            channel_exchange=ExchangeKey(channel_seed),
        )

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("the secrets of a round are not pickled; use dump() and seal()")

    def share_seed(self, setup_context: bytes) -> bytes:
        """Seed of the Shamir coefficients."""
        return hkdf(self.seed, b"secagg site secrets v1 coefficients" + setup_context, SEED_SIZE)

    def stage_seed(self, round_context: bytes, count: int) -> bytes:
        """The ``count``-th seed for the stages of this round."""
        return stage_seed(self.seed, round_context, count)


def commitment(setup_context: bytes, site: int, self_seed: bytes) -> bytes:
    """What a site publishes about its self seed when it shares it."""
    return digest_of(
        b"secagg self seed commitment v1", setup_context, struct.pack("<I", site), self_seed
    )


def channel_info(setup_context: bytes, dealer: int, holder: int) -> bytes:
    """Associated data of the shares that ``dealer`` seals for ``holder``."""
    return b"secagg shares v1" + setup_context + struct.pack("<II", dealer, holder)


def channel_keys(
    own: ExchangeKey, site: int, peer: tuple[int, bytes], setup_context: bytes, *, sender: str
) -> tuple[bytes, bytes]:
    """Key and nonce for what ``site`` deals to ``peer``, and for what ``peer`` deals to it.

    ``own`` is the site's channel key pair, ``peer`` is (index, public channel key). One key per
    direction, each for one plaintext; one agreement serves both.
    """
    there, key = peer
    shared = agree(own, key, sender=sender)
    label = b"secagg channel v1"
    dealing = pair_info(label, setup_context, (own.public, key), (site, there))
    opening = pair_info(label, setup_context, (key, own.public), (there, site))
    return hkdf(shared, dealing, ONE_TIME_SIZE), hkdf(shared, opening, ONE_TIME_SIZE)


def pair_mask(
    own_seed: bytes | ExchangeKey,
    own: tuple[int, bytes],
    peer: tuple[int, bytes],
    round_context: bytes,
    *,
    sender: str,
) -> bytes:
    """Mask key of two sites, the same for both; ``own`` and ``peer`` are (index, public key)."""
    shared = agree(own_seed, peer[1], sender=sender)
    first, second = sorted((own, peer))
    info = pair_info(
        b"secagg pair mask v1", round_context, (first[1], second[1]), (first[0], second[0])
    )
    return hkdf(shared, info, MASK_KEY_SIZE)


def pair_sign(site: int, peer: int) -> int:
    """Sign with which ``site`` adds the mask it shares with ``peer``."""
    return 1 if site < peer else -1


def self_mask(self_seed: bytes, site: int, round_context: bytes) -> bytes:
    """Mask key of a site's own mask."""
    info = b"secagg self mask v1" + round_context + struct.pack("<I", site)
    return hkdf(self_seed, info, MASK_KEY_SIZE)


def key_arrays(
    keys: Sequence[bytes], signs: Sequence[int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Mask keys as the kernel takes them: AES keys, nonces, signs."""
    table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, MASK_KEY_SIZE)
    return (
        np.ascontiguousarray(table[:, :16]),
        np.ascontiguousarray(table[:, 16:]),
        np.asarray(signs, dtype=np.int8),
    )


def survivors_digest(round_context: bytes, survivors: bytes) -> bytes:
    """What a consent confirms; ``survivors`` is the bitmap of U3 over the roster."""
    return digest_of(b"secagg survivors v1", round_context, survivors)
