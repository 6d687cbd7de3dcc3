"""The roster: who takes part, under which pinned keys, in which epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from .errors import PlanError
from .keys import KEY_SIZE, Identity

#: Name of the server in rosters, events and ``drop`` schedules.
SERVER_NAME: Final = "server"
MOST_SITES: Final = 1 << 20
_MOST_NAME: Final = 64


def _members(value: object, group: str) -> tuple[tuple[str, bytes], ...]:
    """Pairs of name and key as the immutable form that the digest is taken of."""
    wrong = PlanError(
        f"{group} are (name, key) pairs of text and bytes", rule="roster", field="roster"
    )
    if not isinstance(value, (tuple, list)):
        raise wrong
    pairs = []
    for pair in value:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise wrong
        name, key = pair
        if type(name) is not str or type(key) is not bytes:
            raise wrong
        pairs.append((name, key))
    return tuple(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Names and Ed25519 public keys of sites, server and holders; ``epoch`` counts changes.

    The order of the sites is part of the roster: a site's index is its place in it.
    """

    sites: tuple[tuple[str, bytes], ...]
    server: bytes
    holders: tuple[tuple[str, bytes], ...] = ()
    epoch: int = 0

    def __post_init__(self) -> None:
        for group in ("sites", "holders"):
            object.__setattr__(self, group, _members(getattr(self, group), group))
        if not isinstance(self.server, bytes):
            raise PlanError("the server's key is bytes", rule="roster", field="roster")
        self._check_roster()

    def _check_roster(self) -> None:
        members = (*self.sites, *self.holders)
        names = [name for name, _ in members]
        keys = [key for _, key in members] + [self.server]
        if len(self.sites) > MOST_SITES:
            raise PlanError(f"at most {MOST_SITES} sites", rule="roster", field="roster")
        for name in names:
            if not name.isprintable() or not name.strip():
                raise PlanError("a name is printable text", rule="roster", field="roster")
            if len(name.encode()) > _MOST_NAME or name == SERVER_NAME:
                raise PlanError(
                    f"a name has at most {_MOST_NAME} bytes and is not {SERVER_NAME!r}",
                    rule="roster",
                    field="roster",
                )
        if len(set(names)) != len(names):
            raise PlanError("a name appears twice", rule="roster", field="roster")
        if any(len(key) != KEY_SIZE for key in keys):
            raise PlanError(f"a key has {KEY_SIZE} bytes", rule="roster", field="roster")
        if len(set(keys)) != len(keys):
            # One key under two names would let one party be counted twice.
            raise PlanError("a key appears twice", rule="roster", field="roster")
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int):
            raise PlanError("the epoch is an integer", rule="roster", field="roster")
        if not 0 <= self.epoch < 1 << 32:
            raise PlanError("the epoch lies in 0..2^32-1", rule="roster", field="roster")

    @classmethod
    def generate(
        cls, names: Iterable[str], *, holders: Iterable[str] = ()
    ) -> tuple[Roster, dict[str, Identity]]:
        """A roster with fresh identities, by name (the server's under ``"server"``).

        For tests and simulations: in a deployment every party makes its own identity and
        shows only the public half.
        """
        names, holders = tuple(names), tuple(holders)
        identities = {name: Identity.generate(name) for name in (*names, *holders, SERVER_NAME)}
        roster = cls(
            sites=tuple((name, identities[name].public) for name in names),
            server=identities[SERVER_NAME].public,
            holders=tuple((name, identities[name].public) for name in holders),
        )
        return roster, identities

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites in roster order."""
        return tuple(name for name, _ in self.sites)

    def index(self, name: str) -> int:
        """Place of a site in the roster; ``KeyError`` for a stranger."""
        for index, (other, _) in enumerate(self.sites):
            if other == name:
                return index
        raise KeyError(name)

    @property
    def keys(self) -> frozenset[bytes]:
        """Every pinned key: of sites, server and holders."""
        return frozenset([*(key for _, key in (*self.sites, *self.holders)), self.server])

    def key(self, name: str) -> bytes | None:
        """The key pinned for a site, a holder or the server; ``None`` for a stranger."""
        return {**dict(self.holders), **dict(self.sites), SERVER_NAME: self.server}.get(name)

    def canonical(self) -> list[Any]:
        """Plain values whose msgpack form is the canonical encoding."""
        return [
            "roster",
            self.epoch,
            [list(site) for site in self.sites],
            self.server,
            [list(holder) for holder in self.holders],
        ]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the roster in groups of four: what people read to each other."""
        digest = hashlib.sha256(msgspec.msgpack.encode(self.canonical())).hexdigest()
        return " ".join(digest[i : i + 4] for i in range(0, 64, 4))

    def to_dict(self) -> dict[str, Any]:
        """The form that files hold: names and hexadecimal keys."""
        return {
            "epoch": self.epoch,
            "server": self.server.hex(),
            "sites": [{"name": n, "key": k.hex()} for n, k in self.sites],
            "holders": [{"name": n, "key": k.hex()} for n, k in self.holders],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Roster:
        """Inverse of :meth:`to_dict`; :class:`PlanError` for anything else."""
        try:
            unknown = set(data) - {"epoch", "server", "sites", "holders"}
            if unknown:
                raise PlanError(f"unknown keys {sorted(unknown)}", rule="roster", field="roster")
            return cls(
                sites=tuple((s["name"], bytes.fromhex(s["key"])) for s in data["sites"]),
                server=bytes.fromhex(data["server"]),
                holders=tuple((h["name"], bytes.fromhex(h["key"])) for h in data["holders"]),
                epoch=data["epoch"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(
                "a roster has epoch, server, sites and holders, keys in hexadecimal",
                rule="roster",
                field="roster",
            ) from error
