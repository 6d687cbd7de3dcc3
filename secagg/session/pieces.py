"""What waits at a server for its sites, in pieces that many messages share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: One message to a site in pieces, with the round that it belongs to.
Piece = tuple[int, tuple[bytes, ...]]


@dataclass(slots=True)
class Outcome:
    """A round's result, and who signed that they were sent it."""

    round: int
    digest: bytes
    survivors: tuple[int, ...]
    delivered: int  # exchange whose orders carried it
    agreed: dict[int, bytes]


class PieceStore:
    """Pieces that many messages share, once each."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self._places: dict[int, int] = {}

    def keep(self, messages: Mapping[int, Piece]) -> list[list[Any]]:
        rows: list[list[Any]] = []
        for site, (number, pieces) in messages.items():
            places = []
            for piece in pieces:
                place = self._places.setdefault(id(piece), len(self.blobs))
                if place == len(self.blobs):
                    self.blobs.append(piece)
                places.append(place)
            rows.append([site, number, places])
        return rows


def unpack_pieces(rows: list[Any], blobs: list[bytes]) -> dict[int, Piece]:
    """Inverse of :meth:`PieceStore.keep`."""
    return {site: (number, tuple(blobs[at] for at in places)) for site, number, places in rows}
