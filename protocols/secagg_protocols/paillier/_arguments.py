"""Types of arguments of the public functions: a mix-up is named, and not met further down."""

from __future__ import annotations

from typing import Any

from ..errors import MisuseError


def check_type(name: str, value: object, kind: type[Any]) -> None:
    """Raise :class:`MisuseError` (``arguments``) unless ``value`` is a ``kind``.

    The text names types only: a value could be a secret.
    """
    if not isinstance(value, kind):
        found = "None" if value is None else _article(type(value).__name__)
        raise MisuseError(
            f"{name}: {_article(kind.__name__)} is needed, not {found}", rule="arguments"
        )


def _article(name: str) -> str:
    return f"an {name}" if name[0].lower() in "aeio" else f"a {name}"
