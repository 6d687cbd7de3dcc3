"""How kernels are compiled: without the interpreter's lock, and kept on disk where possible.

A kernel is one pure body over arrays and numbers: at most six arguments, no global state, no
allocation, no fast-math. It checks nothing; the wrappers do. `tests/project/test_kernels.py`
enforces what can be read from the source.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Body = TypeVar("Body", bound=Callable[..., Any])

_warned = False


class UncachedWarning(RuntimeWarning):
    """Kernels are compiled anew in every process, because no folder can hold them."""


def kernel(body: Body) -> Body:
    """Compile `body` at its first call, for the types of that call, releasing the lock."""
    try:
        compiled = numba.njit(nogil=True, cache=True)(body)
    except RuntimeError:
        # No folder is writable: neither the package's own nor the user's cache folder.
        _warn("no folder is writable")
        compiled = numba.njit(nogil=True)(body)
    else:
        _keep_running_when_saving_fails(compiled)
    return cast(Body, compiled)


def inlined(body: Body) -> Body:
    """Compile a small function that kernels call; it becomes part of its caller."""
    return cast(Body, numba.njit(nogil=True, inline="never")(body))


def _keep_running_when_saving_fails(compiled: Any) -> None:
    """A disk that fills up or turns read-only later costs time, never a call."""
    cache = compiled._cache
    save = cache.save_overload

    def save_or_warn(*args: Any) -> None:
        try:
            save(*args)
        except OSError as error:
            _warn(os.strerror(error.errno) if error.errno else "saving failed")

    cache.save_overload = save_or_warn


def _warn(reason: str) -> None:
    global _warned  # noqa: PLW0603 - one warning a process, however many kernels
    if not _warned:
        _warned = True
        warnings.warn(
            f"kernels cannot be kept on disk ({reason}), so each process compiles them anew; "
            "set NUMBA_CACHE_DIR to a folder that is writable and private",
            UncachedWarning,
            stacklevel=3,
        )
