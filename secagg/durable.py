"""Files that are replaced in one step and survive a crash of the machine."""

from __future__ import annotations

import os
from pathlib import Path

from secagg_protocols.journal.file import sync_folder


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Replace ``path`` (mode 0600) by ``data`` in one step; on return it has reached the disk.

    After an error, or a crash at any moment, ``path`` holds what it held before or all of
    ``data``. Not for two writers of one path at once. Errors: ``OSError``.
    """
    draft = path.with_name(f".{path.name}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(path)
    sync_folder(path.parent)


__all__ = ["sync_folder", "write_durably"]
