"""Opening the sum: secrets from revealed shares, and the masks that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg_native import bitpack, packed_size

from ..keys import KEY_SIZE, ExchangeKey
from ..plan import Plan
from ..shamir import LIMBS, Shares, decode_shares, recover
from ..stages.base import TILE, tiles
from ..wire import FrameBuffer
from . import masks, messages

#: What one site revealed: the shares back to back, and whose they are.
Revealed = tuple[bytes, tuple[int, ...]]


class Recovery:
    """Revealed shares, grouped by who holds what so that many secrets decode at once."""

    def __init__(self, reveals: Mapping[int, Revealed]) -> None:
        self._given: dict[int, npt.NDArray[np.intp]] = {}
        self._shares: dict[int, Shares] = {}
        self._holders: dict[int, list[int]] = {}  # by dealer, ascending
        #: Dealers and holders of wrong shares: either may have lied.
        self.suspects: set[int] = set()
        for holder, (data, given) in sorted(reveals.items()):
            self._given[holder] = np.asarray(given, dtype=np.intp)  # ascending, as revealed
            self._shares[holder] = decode_shares(data, sender="")
            for dealer in given:
                self._holders.setdefault(dealer, []).append(holder)

    def groups(self, dealers: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
        """Dealers by the set of sites that revealed a share of theirs."""
        found: dict[tuple[int, ...], list[int]] = {}
        for dealer in dealers:
            found.setdefault(tuple(self._holders.get(dealer, ())), []).append(dealer)
        return found

    def recover(
        self, holders: tuple[int, ...], dealers: Sequence[int], threshold: int
    ) -> list[bytes | None]:
        """One secret per dealer, ``None`` where nothing decodes; notes suspects."""
        table = np.empty((len(holders), len(dealers), LIMBS), dtype=np.uint64)
        for row, holder in enumerate(holders):
            table[row] = self._shares[holder][np.searchsorted(self._given[holder], dealers)]
        secrets, wrong = recover(holders, table, threshold)
        self.suspects.update(holders[row] for row in np.flatnonzero(wrong.any(axis=1)).tolist())
        self.suspects.update(dealers[at] for at in np.flatnonzero(wrong.any(axis=0)).tolist())
        return secrets


def unmask_keys(
    self_seeds: Mapping[int, bytes],
    mask_seeds: Mapping[int, ExchangeKey],
    adverts: Mapping[int, bytes],
    survivors_near: Callable[[int], Sequence[int]],
    round_context: bytes,
    name: Callable[[int], str],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Mask keys that, added with their signs, leave the sum of the inputs.

    Self masks of survivors are subtracted; of each site that left, the masks that its surviving
    neighbours had added with it are taken back.
    """
    keys: list[bytes] = []
    signs: list[int] = []
    for site, seed in self_seeds.items():
        keys.append(masks.self_mask(seed, site, round_context))
        signs.append(-1)
    for site, exchange in mask_seeds.items():
        own = (site, adverts[site][:KEY_SIZE])
        for peer in survivors_near(site):
            other = (peer, adverts[peer][:KEY_SIZE])
            keys.append(masks.pair_mask(exchange, own, other, round_context, sender=name(peer)))
            signs.append(-masks.pair_sign(peer, site))
    return masks.key_arrays(keys, signs)


def pack_sum(plan: Plan, ring: Any) -> bytes:
    """The ring sum in the packed form that travels."""
    size = messages.input_size(plan)
    buffer = FrameBuffer(size)
    with buffer.view(0, size) as view:
        bitpack.pack(ring, plan.wire_bits, view)
    return bytes(buffer)


def packed_tiles(plan: Plan, ring: Any) -> Iterator[memoryview]:
    """The same piece by piece, in one small buffer: each piece is to be used up at once."""
    buffer = memoryview(bytearray(packed_size(TILE, plan.wire_bits)))
    for start, stop in tiles(plan.ring_length):
        piece = buffer[: packed_size(stop - start, plan.wire_bits)]
        bitpack.pack(ring[start:stop], plan.wire_bits, piece)
        yield piece
