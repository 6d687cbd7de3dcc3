"""Numbers for people: durations, rates, figures of bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .measure import Spread
from .results import Bar, Timed, Verdict

#: Waiting programs a core beyond which figures are not to be trusted without a look.
_BUSY: Final = 0.5


def significant(value: float, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, thousands grouped, no exponent."""
    if value == 0:
        return "0"
    whole = f"{abs(value):.{digits - 1}e}"
    exponent = int(whole.partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def duration(seconds: float) -> str:
    """Seconds in the unit in which they are read most easily."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def rate(timed: Timed) -> str:
    """Amount a second at the median, empty where the work has no amount."""
    if not timed.amount:
        return ""
    speed = timed.amount / timed.spread.median
    if timed.unit == "bytes":
        return f"{significant(speed / 1e9)} GB/s"
    return f"{significant(speed)} {timed.unit}/s"


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit; a ratio has none. A dash where nothing was measured."""
    if value is None:
        return "-"
    return f"{significant(value)} {unit}".strip()


def wanted(bar: Bar) -> str:
    """What a bar asks for, with its aim."""
    aim = f" (aim {figure(bar.aim, bar.unit)})" if bar.aim is not None else ""
    return f"{bar.sense} {figure(bar.bar, bar.unit)}{aim}"


def between(spread: Spread | None) -> str:
    """Quartiles and extremes, empty where there is no spread."""
    if spread is None:
        return ""
    ends = f"{significant(spread.lowest)} to {significant(spread.highest)}"
    return f"{significant(spread.first)} to {significant(spread.third)} ({ends})"


def outcome(verdict: Verdict) -> str:
    """``met``, ``missed``, or ``not measured`` with the reason."""
    return f"{verdict.word}: {verdict.reason}" if verdict.reason else verdict.word


def busy(load: Sequence[float], cores: int) -> str:
    """A warning where others kept the machine busy when a run began, otherwise empty.

    load: averages of 1, 5 and 15 minutes, of which the first counts.
    """
    if not load or load[0] <= _BUSY * cores:
        return ""
    return (
        f"the machine was busy when the run began: a load of {load[0]:g} on {cores} "
        f"core{'' if cores == 1 else 's'}; figures may be off"
    )


__all__ = ["between", "busy", "duration", "figure", "outcome", "rate", "significant", "wanted"]
