"""The command line, loaded only by the entry point ``secagg``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command ``secagg``; an interrupt while it loads is told in one word."""
    try:
        # Loading takes most of a second, in which nothing else would catch the interrupt.
        from .app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


__all__ = ["main"]
