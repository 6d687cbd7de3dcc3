"""Plots of noise and of epsilon, as PNG or SVG. matplotlib is loaded when one is drawn.

Every point comes from a calibration or an accountant. Drawn on a canvas of their own: pyplot and
its global state are never touched. Colours are Okabe and Ito's, which colour-blind readers can tell
apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secagg_protocols.errors import MisuseError, PlanError

#: What a file's suffix may be, each with what keeps the day out of the file.
SUFFIXES: Final[dict[str, dict[str, None]]] = {".png": {"Software": None}, ".svg": {"Date": None}}
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve: ``y`` at each of the places ``x``, both of one length."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves over one pair of logarithmic axes; ``marked``: the point that was asked for."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marked: tuple[float, float] | None = None


def line(name: str, places: Sequence[float], value: Callable[[float], float]) -> Line:
    """``value`` at each place; places at which no plan exists are left out."""
    points = []
    for place in places:
        try:
            points.append((place, value(place)))
        except PlanError:
            continue
    return Line(name=name, x=tuple(x for x, _ in points), y=tuple(y for _, y in points))


def around(middle: float, *, octaves: int = 2, steps: int = 2) -> list[float]:
    """Places from ``middle`` / 2^octaves to ``middle`` * 2^octaves, evenly by ratio."""
    most = octaves * steps
    return [middle * 2.0 ** (step / steps) for step in range(-most, most + 1)]


def rounds_up_to(most: int, *, points: int = 24) -> list[int]:
    """Whole numbers from 1 to ``most``, evenly by ratio, at most about ``points`` of them."""
    places = {round(most ** (step / points)) for step in range(points + 1)}
    return sorted(places | {1, most})


def check_path(path: Path) -> None:
    """Refuse what cannot be drawn into before anything is computed.

    Raises :class:`MisuseError` (``output-file``) for another suffix than those known or a folder
    that is not there; ``ModuleNotFoundError`` where matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise MisuseError(f"{path}: a plot is a {' or '.join(SUFFIXES)} file", rule="output-file")
    if path.is_dir() or not path.parent.is_dir():
        raise MisuseError(f"{path} cannot be written", rule="output-file")
    import matplotlib.figure  # noqa: F401


def figure(panels: Sequence[Panel]) -> Any:
    """A matplotlib figure with the panels side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(made)
    for panel, axes in zip(panels, made.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for index, drawn in enumerate(panel.lines):
            colour = _COLOURS[index % len(_COLOURS)]
            style = {"marker": "o", "ms": 3.5, "lw": 1.6}
            # A leading underscore would hide a name from the legend.
            axes.plot(drawn.x, drawn.y, color=colour, label=drawn.name.lstrip("_"), **style)
        if panel.marked is not None:
            axes.plot(*panel.marked, "o", ms=10, mfc="none", mec="black", label="as asked for")
        axes.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
        # Numbers as people write them, also between powers of ten on short axes.
        for axis, values in ((axes.xaxis, _all(panel, "x")), (axes.yaxis, _all(panel, "y"))):
            axis.set_major_formatter("{x:g}")
            if values and math.log10(max(values) / min(values)) < 1.5:
                axis.set_minor_formatter("{x:g}")
        axes.tick_params(which="both", labelsize=8)
        axes.set_title(panel.title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, which="both", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        if len(panel.lines) > 1 or panel.marked is not None:
            axes.legend(frameon=False, fontsize=9)
    return made


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels into ``path``; see :func:`check_path` for what is refused."""
    check_path(path)
    figure(panels).savefig(path, dpi=120, metadata=SUFFIXES[path.suffix.lower()])


def _all(panel: Panel, which: str) -> list[float]:
    return [value for drawn in panel.lines for value in getattr(drawn, which) if value > 0]


__all__ = [
    "SUFFIXES",
    "Line",
    "Panel",
    "around",
    "check_path",
    "draw",
    "figure",
    "line",
    "rounds_up_to",
]
