"""A site's own privacy budget in a file, and the ledger that is held against it."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from secagg_protocols.errors import MisuseError
from secagg_protocols.journal import Journal, MemoryJournal

from .claims import Adjacency, Adversary

if TYPE_CHECKING:
    from .ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a site may spend over one data set, as its own file says; see ``secagg.dp.Ledger``."""

    epsilon: float
    delta: float
    adjacency: Adjacency = "zero-out"
    adversary: Adversary = "server"

    @classmethod
    def load(cls, path: Path) -> Budget:
        """Read a TOML file with the fields above; :class:`MisuseError` for anything else."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise _wrong(path, error) from error
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise _wrong(path, f"unknown fields {unknown}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
        if missing:
            raise _wrong(path, f"{' and '.join(missing)} missing")
        made = cls(**data)
        try:
            # A ledger knows what its numbers may be.
            made.ledger(MemoryJournal(), "site", "")
        except MisuseError as error:
            raise _wrong(path, str(error).removesuffix(" [arguments]")) from error
        return made

    def ledger(self, journal: Journal, site: str, data: str) -> Ledger:
        """The ledger of ``site`` over ``data`` that is held against this budget."""
        from .ledger import Ledger

        return Ledger(
            journal,
            site,
            data=data,
            epsilon=self.epsilon,
            delta=self.delta,
            adjacency=self.adjacency,
            adversary=self.adversary,
        )


def _wrong(path: Path, what: object) -> MisuseError:
    return MisuseError(f"{path}: {what}", rule="options")


__all__ = ["Budget"]
