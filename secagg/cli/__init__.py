"""The command line, loaded only by the entry point ``secagg``."""

from .app import main

__all__ = ["main"]
