"""Opening the sum: secrets from revealed shares, and the masks that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..keys import KEY_SIZE, ExchangeKey
from ..shamir import LIMBS, Shares, decode_shares, recover
from . import masks

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
