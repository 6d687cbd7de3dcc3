"""What an opener returns beside the data: where the site keeps its own party.

A task's assets are the platform's: it stores them, relays them and shows them to whoever has the
permission. A site's key, journal and open session must be in none of them, and so they lie in the
party folder, on storage of the site's own that its tasks can write to. A data sample never leaves
its organisation; a file in one names the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secagg_protocols.errors import MisuseError

#: A file in a data sample: one line, the path of the party folder as the site's tasks see it.
PARTY_FILE: Final = "secagg-party"
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class PartyData:
    """What the algorithm gets, and the folder of the site's party."""

    data: Any
    party: Path

    def __repr__(self) -> str:
        return f"PartyData(party={str(self.party)!r})"


def with_party(folders: Iterable[str | os.PathLike[str]], data: Any) -> Any:
    """The last line of an opener's ``get_data``: ``return with_party(folders, data)``.

    folders: paths of the data samples, as the opener got them. data: what the algorithm's
    ``train`` and ``predict`` get, and metric functions; returned as it is where no sample names a
    folder, as for tests or without secure sums. :class:`MisuseError` (``substra-party``) where
    samples name different folders, or one that is no absolute path.
    """
    read = (_read(Path(folder) / PARTY_FILE) for folder in folders)
    named = {found for found in read if found is not None}
    if len(named) > 1:
        raise MisuseError("the data samples name different party folders", rule="substra-party")
    return PartyData(data, named.pop()) if named else data


def plain_data(found: Any) -> Any:
    """What is meant for the algorithm, of an opener's data."""
    return found.data if isinstance(found, PartyData) else found


def party_of(found: Any) -> Path:
    """The party folder that came with the data; :class:`MisuseError` (``substra-party``)."""
    if not isinstance(found, PartyData):
        raise MisuseError(
            f"no data sample of this site has a {PARTY_FILE!r} file, or its opener does not end "
            "with with_party",
            rule="substra-party",
        )
    return found.party


def _read(path: Path) -> Path | None:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise MisuseError(f"{PARTY_FILE} cannot be read", rule="substra-party") from None
    if not Path(text).is_absolute() or not text.isprintable():
        raise MisuseError(
            f"{PARTY_FILE} holds the absolute path of the party folder", rule="substra-party"
        )
    return Path(text)


__all__ = ["PARTY_FILE", "PartyData", "party_of", "plain_data", "with_party"]
