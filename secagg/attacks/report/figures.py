"""Figures of findings as images within the page, drawn by matplotlib where it is installed."""

from __future__ import annotations

import base64
import io
import json
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from secagg.attacks.finding import Figure, Series

from .html import Html, tag

#: Colours that people who see few of them can tell apart (Okabe and Ito, 2008).
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKS: Final = "os^Dvx*"


def figure(drawn: Figure) -> Html:
    """A figure with its caption; where matplotlib is not installed, its numbers."""
    parts = [drawn.title, _labels(drawn), drawn.note]
    caption = " ".join(text if text.endswith(".") else f"{text}." for text in parts if text)
    try:
        data = svg(drawn)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        numbers = json.dumps(msgspec.to_builtins(drawn.series))
        return tag(
            "figure",
            tag("details", tag("summary", "Numbers of a figure"), tag("pre", numbers)),
            tag("figcaption", f"{caption} (drawn where matplotlib is installed)"),
        )
    source = "data:image/svg+xml;base64," + base64.b64encode(data).decode()
    return tag("figure", tag("img", src=source, alt=_spoken(drawn)), tag("figcaption", caption))


def worth_drawing(drawn: Figure) -> bool:
    """Whether there is something to see: pictures, or more than a single point."""
    return bool(drawn.pictures) or sum(len(series.x) for series in drawn.series) > 1


def _labels(drawn: Figure) -> str:
    """What the numbers above the pictures mean."""
    numbers: dict[str, list[str]] = {}
    for number, picture in enumerate(drawn.pictures, start=1):
        numbers.setdefault(picture.label, []).append(str(number))
    return "; ".join(f"{', '.join(at)}: {label}" for label, at in numbers.items())


def svg(drawn: Figure) -> bytes:
    """The figure as an SVG image."""
    return _drawn(msgspec.json.encode(drawn))


@lru_cache(maxsize=256)
def _drawn(data: bytes) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    drawn = msgspec.json.decode(data, type=Figure)
    # Equal figures give equal bytes: no date, and names that follow from the content.
    with matplotlib.rc_context({"svg.hashsalt": "secagg", "font.size": 9, "svg.fonttype": "none"}):
        if drawn.pictures and drawn.series:
            canvas = Canvas(figsize=(6.4, 5.2), layout="constrained")
            parts: Any = canvas.subfigures(2, 1, height_ratios=[3, 2])
            above, below = parts
            _curves(above.subplots(), drawn)
            _pictures(below, drawn)
        elif drawn.pictures:
            canvas = Canvas(figsize=(6.4, 2.2), layout="constrained")
            _pictures(canvas, drawn)
        else:
            canvas = Canvas(figsize=(5.4, 3.1), layout="constrained")
            _curves(canvas.subplots(), drawn)
        out = io.BytesIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _curves(axes: Any, drawn: Figure) -> None:
    bars = [s for s in drawn.series if s.style == "bars"]
    for number, series in enumerate(drawn.series):
        colour = COLOURS[number % len(COLOURS)]
        if series.style == "bars":
            _bars(axes, series, bars, colour)
        elif series.style == "line":
            axes.plot(series.x, series.y, label=series.name, color=colour, linewidth=1.4)
        else:
            mark = _MARKS[number % len(_MARKS)]
            axes.errorbar(
                series.x,
                series.y,
                yerr=_errors(series),
                fmt=mark,
                markersize=4,
                capsize=2,
                linewidth=1,
                label=series.name,
                color=colour,
            )
    axes.set_xlabel(drawn.x_label)
    axes.set_ylabel(drawn.y_label)
    if drawn.log_x:
        axes.set_xscale("log")
    if drawn.log_y:
        axes.set_yscale("log")
    _ticks(axes, drawn)
    axes.grid(alpha=0.25)
    if len(drawn.series) > 1:
        axes.legend(frameon=False, fontsize=8)


def _ticks(axes: Any, drawn: Figure) -> None:
    """Names of categories, or whole numbers where every x is one."""
    from matplotlib.ticker import MaxNLocator

    # Lines are drawn as limits beyond the first and the last category.
    marked = [x for series in drawn.series if series.style != "line" for x in series.x]
    if drawn.x_names and marked:
        places = min(marked) + np.arange(len(drawn.x_names))
        axes.set_xticks(places, drawn.x_names, rotation=30, ha="right")
    elif not drawn.log_x and all(float(x).is_integer() for s in drawn.series for x in s.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bars(axes: Any, series: Series, bars: list[Series], colour: str) -> None:
    gaps = np.diff(np.unique([x for s in bars for x in s.x]))
    slot = 0.8 * float(gaps.min() if gaps.size else 1.0) / len(bars)
    shift = (bars.index(series) - (len(bars) - 1) / 2) * slot
    axes.bar(
        np.asarray(series.x) + shift,
        series.y,
        slot,
        yerr=_errors(series),
        label=series.name,
        color=colour,
        capsize=2,
    )


def _errors(series: Series) -> Any:
    if not series.low:
        return None
    y = np.asarray(series.y)
    spread = np.stack([y - np.asarray(series.low), np.asarray(series.high) - y])
    # Rounding may put a bound on the wrong side of its value by a hair.
    return np.maximum(spread, 0.0)


def _pictures(canvas: Any, drawn: Figure) -> None:
    axes = canvas.subplots(2, len(drawn.pictures), squeeze=False)
    for column, picture in enumerate(drawn.pictures):
        for row, (name, values) in enumerate((("true", picture.true), ("found", picture.found))):
            place = axes[row][column]
            image = np.asarray(values, dtype=float).reshape(picture.shape)
            place.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="none")
            place.set_xticks([])
            place.set_yticks([])
            if not column:
                place.set_ylabel(name)
        axes[0][column].set_title(str(column + 1), fontsize=8)


def _spoken(drawn: Figure) -> str:
    """The figure for those who do not see it."""
    if drawn.pictures:
        return f"{drawn.title}: {len(drawn.pictures)} true records above what the attack found"
    names = ", ".join(series.name for series in drawn.series)
    return f"{drawn.title}: {names}; {drawn.y_label} against {drawn.x_label}"


__all__ = ["COLOURS", "figure", "svg", "worth_drawing"]
