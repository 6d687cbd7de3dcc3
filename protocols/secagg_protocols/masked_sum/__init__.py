"""Masked sum: pairwise masking with dropout recovery (SecAgg and SecAgg+)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .client import Client
    from .server import Server

#: Loaded when they are used: who only reads messages has no party in its process.
_PARTIES: Final = {"Client": ".client", "Server": ".server"}


def __getattr__(name: str) -> Any:
    if name in _PARTIES:
        return getattr(importlib.import_module(_PARTIES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Client", "Server"]
