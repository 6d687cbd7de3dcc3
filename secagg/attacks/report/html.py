"""A page that needs nothing but itself: elements, escaping, style and the little script it has."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import Final


class Html(str):
    """Text that is HTML already; any other text is escaped where it is put in."""

    __slots__ = ()


Content = str | None
_VOID: Final = frozenset({"meta", "img", "br"})


def tag(name: str, /, *content: Content, **attributes: str | None) -> Html:
    """An element. In names of attributes a trailing underscore goes, others become dashes."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: Content) -> Html:
    """One after the other, escaped where it is plain text; ``None`` is nothing."""
    return Html(
        "".join(
            part if isinstance(part, Html) else escape(part) for part in content if part is not None
        )
    )


def rows(header: list[str], body: list[list[Content]], klass: str = "") -> Html:
    """A table whose cells carry their column's title, for screens where rows become cards."""
    head = tag("tr", *(tag("th", title, scope="col") for title in header))
    lines = []
    for row in body:
        first, *rest = row
        cells = [tag("th", first, scope="row")]
        for title, cell in zip(header[1:], rest, strict=True):
            # Cells that bring their own element keep it.
            own = isinstance(cell, Html) and cell.startswith("<td")
            cells.append(cell if own else tag("td", cell, data_title=title))  # type: ignore[arg-type]
        lines.append(tag("tr", *cells))
    return tag("table", tag("thead", head), tag("tbody", *lines), class_=klass or None)


def filled(header: list[str], body: list[list[Content]]) -> tuple[list[str], list[list[Content]]]:
    """A table without the columns in which every cell is empty."""
    kept = [at for at in range(len(header)) if any(row[at] for row in body)]
    return [header[at] for at in kept], [[row[at] for at in kept] for row in body]


#: The page may load nothing; style and script are its own.
_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


@cache
def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def document(title: str, *content: Content) -> str:
    """A whole page, self-contained."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        # Without one a browser asks the server for an icon.
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(_read("style.css"))),
    )
    body = tag("body", tag("main", *content), tag("script", Html(_read("script.js"))))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


__all__ = ["Content", "Html", "document", "filled", "join", "rows", "tag"]
