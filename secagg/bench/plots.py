"""Plots of a run, as PNG. matplotlib is loaded when the first is drawn.

Drawn on a canvas of their own: pyplot and its global state are never touched. Colours are Okabe
and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .results import Curve, Run, Verdict

BARS: Final = "bars"
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


@dataclass(frozen=True, slots=True)
class _Look:
    title: str
    x: str
    y: str
    log_y: bool = False


_LOOKS: Final = {
    "mask-speed": _Look(
        "Masking on one core: speed over length", "coordinates of 32 bits", "GB/s", log_y=True
    ),
    "kernel-speed": _Look(
        "The other kernels on one core: speed over length", "coordinates", "GB/s", log_y=True
    ),
    "threads": _Look("Masking with several threads", "threads", "times as fast as one"),
    "paillier-keys": _Look(
        "Paillier on one core: time over the length of the key",
        "bits of the key",
        "microseconds a number",
        log_y=True,
    ),
    "client-seconds": _Look(
        "What a client computes in a round", "clients in the round", "CPU seconds a client"
    ),
    "client-bytes": _Look(
        "What a client sends and receives in a round", "clients in the round", "bytes a client"
    ),
}
_BARS_TITLE: Final = "What was measured, in multiples of each bar"


def title(name: str) -> str:
    """Title of a plot."""
    return _BARS_TITLE if name == BARS else _LOOKS[name].title


def file_name(name: str) -> str:
    """File of a plot."""
    return f"bench-{name}.png"


def named(run: Run) -> list[str]:
    """Plots for which a run has data."""
    found = {curve.plot for case in run.cases for curve in case.curves}
    bars = [BARS] if _counting(run) else []
    return bars + [name for name in _LOOKS if name in found]


def draw(run: Run, folder: Path) -> list[Path]:
    """Write every plot into ``folder``, which is made. Raises ModuleNotFoundError, OSError."""
    # Loaded before anything is written, so that its absence leaves nothing behind.
    import matplotlib.figure  # noqa: F401

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in named(run):
        path = folder / file_name(name)
        if name == BARS:
            _draw_bars(_counting(run), path)
        else:
            curves = [curve for case in run.cases for curve in case.curves if curve.plot == name]
            _draw_curves(_LOOKS[name], curves, path)
        written.append(path)
    return written


def _counting(run: Run) -> list[Verdict]:
    """Verdicts that can be drawn as a multiple of their bar."""
    return [
        verdict
        for verdict in run.verdicts
        if verdict.met is not None and verdict.bar.bar > 0 and (verdict.figure or 0) > 0
    ]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    # Neither date nor version: the same data gives the same file with the same matplotlib.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _short(value: float) -> str:
    """A count with its last zeros as a letter: 16k, 4M."""
    for letter, size in (("M", 1_000_000), ("k", 1000)):
        if value >= size and value % size == 0:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _draw_curves(look: _Look, curves: list[Curve], path: Path) -> None:
    figure = _figure(8.0, 4.5)
    axes = figure.subplots()
    for position, curve in enumerate(curves):
        colour = _COLOURS[position % len(_COLOURS)]
        style = {"ls": "--", "lw": 1.1} if curve.dashed else {"marker": "o", "ms": 4, "lw": 1.6}
        axes.plot(curve.x, curve.y, color=colour, label=curve.name, **style)
        if curve.low and curve.high:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
    axes.set_xscale("log")
    places = sorted({x for curve in curves for x in curve.x})
    axes.set_xticks(places, [_short(x) for x in places])
    axes.minorticks_off()
    if look.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(look.x)
    axes.set_ylabel(look.y)
    axes.set_title(f"{look.title} (medians, quartiles shaded)", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    _finish(figure, axes, path)


def _draw_bars(verdicts: list[Verdict], path: Path) -> None:
    figure = _figure(8.0, 1.2 + 0.32 * len(verdicts))
    axes = figure.subplots()
    for row, verdict in enumerate(reversed(verdicts)):
        figures = [verdict.figure or 0.0]
        if verdict.spread is not None:
            figures += [verdict.spread.first, verdict.spread.third]
        # A multiple above 1 is on the good side, whichever side the bar asks for.
        bar, least = verdict.bar.bar, verdict.bar.sense == "at least"
        good = [value / bar if least else bar / value for value in figures if value > 0]
        colour = _COLOURS[0] if verdict.met else _COLOURS[1]
        if len(good) == 3:
            axes.plot(good[1:], [row, row], color=colour, lw=2.5, alpha=0.5)
        axes.plot(good[0], row, "o", color=colour, ms=6)
    axes.axvline(1.0, color="black", lw=1.0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(verdicts)), [verdict.bar.id for verdict in reversed(verdicts)])
    axes.set_xlabel("times the bar (right of the line: met; zero or less is met and not drawn)")
    axes.set_title(_BARS_TITLE, fontsize=11)
    _finish(figure, axes, path)


__all__ = ["BARS", "draw", "file_name", "named", "title"]
