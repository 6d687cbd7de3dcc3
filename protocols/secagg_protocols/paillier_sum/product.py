"""The product of the sites' ciphertexts, as the server and every holder make it."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final

import numpy as np

from ..errors import MisuseError
from ..keys import digest_of
from ..paillier.keys import Words
from ..plan import Plan
from ..wire import to_bitmap
from . import messages

#: Bytes of a ciphertext's hash by which two are told apart.
_TAG_SIZE: Final = 16


def read_rows(plan: Plan, tail: memoryview) -> tuple[Words, bytes]:
    """Ciphertexts and proof in the tail of a site's message."""
    size = messages.vector_size(plan)
    rows = np.frombuffer(tail[:size], "<u8").astype(np.uint64)
    return rows.reshape(messages.layout_of(plan).rows, -1), bytes(tail[size:])


class Product:
    """A running product, whose ciphertexts are in it, and a tag of each: 20 bytes a ciphertext."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._running: Any = None
        self._sites: set[int] = set()
        self._seen = _Seen()
        self._broken = False

    @property
    def sites(self) -> list[int]:
        """Roster indices of the sites in the product, ascending."""
        return sorted(self._sites)

    def multiply(self, site: int, rows: Words, *, threads: int) -> None:
        """Take one site's ciphertexts, which were checked, into the product.

        A call that is interrupted leaves a product that nobody can use, and that says so.
        """
        self._require_whole()
        self._broken = True
        if self._running is None:
            self._running = messages.protocol_of(self._plan).key.squares.product(rows)
        else:
            self._running.multiply(rows, threads=threads)
        self._seen.add(site, _tags(rows))
        self._sites.add(site)
        self._broken = False

    def known(self, rows: Words) -> set[int]:
        """Sites that sent one of these ciphertexts before; -1 stands for these rows themselves."""
        return self._seen.found(_tags(rows))

    def value(self) -> Words:
        """The product, one row a ciphertext."""
        self._require_whole()
        value: Words = self._running.value()
        return value

    def _require_whole(self) -> None:
        if self._broken:
            raise MisuseError("multiplying was interrupted", rule="interrupted")

    def digest(self, round_context: bytes) -> bytes:
        """What the server asks holders to open, and what they answer for."""
        return digest_of(
            b"secagg paillier product v1",
            round_context,
            to_bitmap(self._sites, self._plan.clients),
            struct.pack("<Q", messages.layout_of(self._plan).rows),
            self.value().astype("<u8").tobytes(),
        )

    def state(self) -> list[Any]:
        """Plain values that :meth:`of` takes."""
        if self._running is None or self._broken:
            # What was broken is stored as nothing: its party was ended.
            return [b"", [], []]
        return [self.value().astype("<u8").tobytes(), self.sites, self._seen.state()]

    @classmethod
    def of(cls, plan: Plan, state: list[Any]) -> Product:
        """The product with this state."""
        made, (value, sites, seen) = cls(plan), state
        if value:
            rows, _ = read_rows(plan, memoryview(value))
            made._running = messages.protocol_of(plan).key.squares.product(rows)
            made._sites = set(sites)
            made._seen = _Seen.of(seen)
        return made


def _tags(rows: Words) -> Words:
    """Two words of the hash of each row. Of a ciphertext itself, its sender can choose any bits."""
    size = 8 * rows.shape[1]
    data = rows.astype("<u8").tobytes()
    hashed = b"".join(
        hashlib.sha256(data[at : at + size]).digest()[:_TAG_SIZE]
        for at in range(0, len(data), size)
    )
    return np.frombuffer(hashed, "<u8").astype(np.uint64).reshape(-1, 2)


class _Seen:
    """Tags of all ciphertexts so far, sorted by their first words, with their sites."""

    def __init__(self) -> None:
        self._tags = np.empty((0, 2), np.uint64)
        self._sites = np.empty(0, np.uint32)

    def found(self, tags: Words) -> set[int]:
        firsts = self._tags[:, 0]
        start, stop = (np.searchsorted(firsts, tags[:, 0], side) for side in ("left", "right"))
        sites: set[int] = set()
        # Few rows, but for copies: tags with one first word can be found, and all must be compared.
        for row in np.flatnonzero(start < stop):
            near = slice(start[row], stop[row])
            same = (self._tags[near] == tags[row]).all(axis=1)
            sites.update(self._sites[near][same].tolist())
        return sites if len(np.unique(tags, axis=0)) == len(tags) else {*sites, -1}

    def add(self, site: int, tags: Words) -> None:
        tags = tags[np.argsort(tags[:, 0], kind="stable")]
        at = np.searchsorted(self._tags[:, 0], tags[:, 0])
        self._tags = np.insert(self._tags, at, tags, axis=0)
        self._sites = np.insert(self._sites, at, np.uint32(site))

    def state(self) -> list[bytes]:
        return [self._tags.astype("<u8").tobytes(), self._sites.astype("<u4").tobytes()]

    @classmethod
    def of(cls, state: list[bytes]) -> _Seen:
        made = cls()
        made._tags = np.frombuffer(state[0], "<u8").astype(np.uint64).reshape(-1, 2)
        made._sites = np.frombuffer(state[1], "<u4").astype(np.uint32)
        return made
