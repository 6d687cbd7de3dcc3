"""Journal: what must happen at most once in a party's life, outside its dump.

A dump can be loaded twice; a journal cannot. Before a party sends anything that must not be
sent in two versions, it *claims* the step. One record per (key, step): the first claim is
stored durably, a repeated claim with the same digest gets the stored reply back, a claim with
another digest is refused, and the party that made it is ended. Records belong to a series, whose
older part is *retired* when it is over, so that a journal stays small.
"""

from .book import (
    JOURNAL_IO_RULE,
    JOURNAL_RULES,
    KEY_SIZE,
    MAX_REPLY,
    MAX_VALUE,
    Journal,
    MemoryJournal,
    journal_calls,
    journal_failed,
)
from .file import FileJournal

__all__ = [
    "JOURNAL_IO_RULE",
    "JOURNAL_RULES",
    "KEY_SIZE",
    "MAX_REPLY",
    "MAX_VALUE",
    "FileJournal",
    "Journal",
    "MemoryJournal",
    "journal_calls",
    "journal_failed",
]
