"""A vector that waits at a site for the keys of the round."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from .errors import MisuseError

#: Rule of the error that says that a waiting vector was changed.
CHANGED_RULE: Final = "input-changed"


class Waiting:
    """The caller's own array with its digest: a copy would double what a site needs.

    array: the vector as it was checked. shared: whether the caller can reach its memory.
    """

    __slots__ = ("_digest", "_vector", "_weight")

    def __init__(self, array: Any, weight: int, *, shared: bool) -> None:
        # A view of our own: giving the caller's array another shape or dtype leaves it alone.
        self._vector = array.view()
        self._weight = weight
        self._digest = _digest(array) if shared else b""

    @property
    def vector(self) -> Any:
        """The vector as it is now; :meth:`check` tells whether that is what was submitted."""
        return self._vector

    @property
    def weight(self) -> int:
        """The weight that was submitted with it."""
        return self._weight

    def check(self) -> None:
        """Raise :class:`MisuseError` where the vector is not what it was."""
        if self._digest and _digest(self._vector) != self._digest:
            raise changed()

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a vector that waits is not pickled")


def changed() -> MisuseError:
    """Nothing was sent, and the party waits for a vector again."""
    return MisuseError(
        "the vector was changed between submit() and the moment it was to be sent; submit it again",
        rule=CHANGED_RULE,
    )


def _digest(array: Any) -> bytes:
    return hashlib.sha256(array).digest()
