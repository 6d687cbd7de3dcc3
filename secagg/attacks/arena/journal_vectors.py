"""For every rule of a journal, the attack that it stops: its negative vector, on a real file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from secagg_protocols.journal import FileJournal

from .played import Scenario, ended

Kind = type[Any]
KEY, SERIES, NAME = b"k" * 32, b"s" * 32, b"n" * 32
ONE, TWO = b"1" * 32, b"2" * 32


def once(kind: Kind, folder: Path) -> bool:
    """A dump that was loaded twice answers two survivor lists. (The reply that goes out is the
    stored one; a caller that makes its reply anew, as an input is, sends the second.)"""
    journal = kind(folder / "journal")
    journal.claim(KEY, 3, ONE, b"")
    kind(folder / "journal").claim(KEY, 3, TWO, b"")
    return True


def retired(kind: Kind, folder: Path) -> bool:
    """A round whose record was dropped answers another list."""
    journal = kind(folder / "journal")
    journal.claim(KEY, 5, ONE, b"one list", series=SERIES, number=1)
    journal.retire(SERIES, 2)
    reply = journal.claim(KEY, 5, TWO, b"another list", series=SERIES, number=1)
    return bool(reply == b"another list")


def swap(kind: Kind, folder: Path) -> bool:
    """Two handles both take the last release of a budget of one."""
    handles = [kind(folder / "journal") for _ in range(2)]
    seen = [handle.read(NAME) for handle in handles]
    for handle, old in zip(handles, seen, strict=True):
        handle.swap(NAME, old, b"spent 1")
    return seen == [b"", b""] and bool(handles[0].read(NAME) == b"spent 1")


def copy(kind: Kind, folder: Path) -> bool:
    """A restored backup answers the same step in another way."""
    path, backup = folder / "journal", folder / "backup"
    journal = FileJournal(path)
    journal.claim(KEY, 1, ONE, b"before")
    shutil.copy2(path, backup)
    journal.claim(KEY, 5, ONE, b"answered")
    backup.replace(path)
    return bool(kind(path).claim(KEY, 5, TWO, b"another answer") == b"another answer")


ATTACKS: Final[dict[str, Callable[[Kind, Path], bool]]] = {
    "journal-once": once,
    "journal-retired": retired,
    "journal-swap": swap,
    "journal-copy": copy,
}


def vector(rule: str) -> Scenario | None:
    """The negative vector of a rule, if it has one."""
    attack = ATTACKS.get(rule)
    if attack is None:
        return None

    def scenario(kind: Kind) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            return ended(lambda: attack(kind, Path(folder)))

    return scenario


__all__ = ["ATTACKS", "vector"]
