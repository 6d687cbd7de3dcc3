"""Shares at a site: those that it deals, and those that it is dealt."""

from __future__ import annotations

from typing import Final

from ..errors import DecodeError, MisuseError, PeerError
from ..keys import KEY_SIZE, decrypt_once, encrypt_once
from ..shamir import SHARE_SIZE, decode_shares, encode_shares, split
from . import masks
from .client_checks import ClientChecks

_PAIR_SIZE: Final = 2 * SHARE_SIZE


class ClientShares(ClientChecks):
    """What a site does with the shares of both seeds, and the secrets that it needs for it."""

    _secrets: masks.SiteSecrets | None
    #: Dealer -> self-seed share and mask-seed share, or ``None`` where it gave no valid pair.
    _shares: dict[int, bytes | None]
    #: Dealer -> key that opens what it deals to this site. Not dumped: it can be agreed again.
    _opening: dict[int, bytes]

    def _own(self) -> masks.SiteSecrets:
        if self._secrets is None:
            raise MisuseError("the secrets of this round are gone", rule="ended")
        return self._secrets

    def _seal_shares(self, present: tuple[int, ...]) -> bytes:
        """Shares of both seeds for every present neighbour; the own ones are kept."""
        own, setup = self._own(), self.contexts.setup
        holders = sorted((*present, self.index))
        table = split(
            [own.self_seed, own.mask_seed],
            holders,
            self.plan.protocol.share_threshold,
            own.share_seed(setup),
        )
        plaintexts = encode_shares(table)
        sealed = bytearray()
        for place, holder in enumerate(holders):
            plaintext = plaintexts[place * _PAIR_SIZE : (place + 1) * _PAIR_SIZE]
            if holder == self.index:
                self._shares[holder] = plaintext
                continue
            # The key that opens what the holder deals in turn is kept until it does.
            key, self._opening[holder] = self._channel(holder)
            associated = masks.channel_info(setup, self.index, holder)
            sealed += encrypt_once(key, plaintext, associated)
        return bytes(sealed)

    def _channel(self, peer: int) -> tuple[bytes, bytes]:
        """Keys for what this site deals to ``peer``, and for what ``peer`` deals to it."""
        return masks.channel_keys(
            self._own().channel_exchange,
            self.index,
            (peer, self._adverts[peer][KEY_SIZE:]),
            self.contexts.setup,
            sender=self._name(peer),
        )

    def _open_shares(self, dealer: int, sealed: bytes) -> bytes | None:
        """The two shares, or ``None``: a site without a valid share reveals none, which takes
        nothing from the other holders and lists dealer and holder as suspects."""
        key = self._opening.pop(dealer, None) or self._channel(dealer)[1]
        associated = masks.channel_info(self.contexts.setup, dealer, self.index)
        try:
            return decrypt_once(key, sealed, associated, sender=self._name(dealer))
        except PeerError:
            return None

    def _valid_shares(self, opened: dict[int, bytes | None]) -> dict[int, bytes | None]:
        """The same with ``None`` for shares that are not reduced."""

        def valid(shares: bytes) -> bool:
            try:
                decode_shares(shares, sender="")
            except DecodeError:
                return False
            return True

        # One check for all, and one each only where somebody dealt wrong.
        if valid(b"".join(shares for shares in opened.values() if shares is not None)):
            return opened
        return {
            dealer: shares if shares is not None and valid(shares) else None
            for dealer, shares in opened.items()
        }
