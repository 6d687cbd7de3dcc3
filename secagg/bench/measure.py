"""Timing on machines that are shared: works take turns, medians are quoted, the spread is kept."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

#: Something to be timed. What it returns is thrown away.
Work = Callable[[], object]

#: Fewest runs of which a median is quoted as a result.
RUNS: Final = 7
#: No work is run more often than this, however short it is.
MOST_RUNS: Final = 25
#: A sample shorter than this is many calls: the clock and the caller's loop then do not count.
SAMPLE_SECONDS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Spread:
    """Five numbers of a sample: extremes, quartiles, median."""

    lowest: float
    first: float
    median: float
    third: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """The five numbers of ``values``; quartiles interpolate and include the extremes.

    Raises ValueError for an empty sample and for one that is not finite.
    """
    if not values:
        raise ValueError("a sample without values has no median")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a sample with infinite values or NaN has no median")
    if len(values) == 1:
        return Spread(*[values[0]] * 5)
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(min(values), first, median, third, max(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, Spread]:
    """Ratio of the medians, and the spread of the ratios of samples taken one after the other.

    The i-th samples of both are neighbours in time, so that noise of the machine that lasts
    longer than a sample moves both and not their ratio. Raises ValueError for samples of
    different lengths, or where ``below`` is not positive.
    """
    if len(above) != len(below):
        raise ValueError("paired samples have the same length")
    if not all(value > 0 for value in below):
        raise ValueError("a ratio needs positive values")
    figure = spread(above).median / spread(below).median
    return figure, spread([a / b for a, b in zip(above, below, strict=True)])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out of what is timed."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def alternate(
    works: Mapping[str, Work],
    *,
    runs: int = RUNS,
    seconds: float = 0.0,
    least: float = SAMPLE_SECONDS,
) -> dict[str, list[float]]:
    """Seconds of each work, sampled in turns (A B A B ...), so that all meet the same noise.

    Every work is first run once or twice, which compiles, fills caches, and decides how many
    calls make a sample. At least ``runs`` samples are taken, and more while all works together
    have taken fewer than ``seconds``, up to MOST_RUNS. A sample is as many calls as take
    ``least`` seconds.
    """
    calls = {name: calls_for(work, least) for name, work in works.items()}
    samples: dict[str, list[float]] = {name: [] for name in works}
    begun, done = time.perf_counter(), 0
    with undisturbed():
        while done < runs or (done < MOST_RUNS and time.perf_counter() - begun < seconds):
            for name, work in works.items():
                samples[name].append(sample(work, calls[name]))
            done += 1
    return samples


def sample(work: Work, calls: int = 1) -> float:
    """Seconds of one call, averaged over ``calls`` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def calls_for(work: Work, least: float = SAMPLE_SECONDS) -> int:
    """Calls that take about ``least`` seconds; the first call warms up, the second is looked at.

    A work that takes so long by itself is run only once for this: what a first call costs in
    addition (compiling, page faults) is then small.
    """
    once = sample(work)
    if once < 100 * least:
        once = sample(work)
    return 1 if once >= least else min(10_000, math.ceil(least / max(once, 1e-9)))


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent p of the best y = a * x^p (least squares of the logarithms).

    Raises ValueError for fewer than two points or values that are not positive.
    """
    if len(x) != len(y) or len(x) < 2 or min(*x, *y) <= 0:
        raise ValueError("an exponent needs two points with positive values")
    return line([math.log(value) for value in x], [math.log(value) for value in y])[1]


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(intercept, slope, R^2) of the best straight line through the points.

    Raises ValueError for fewer than two distinct places.
    """
    if len(set(x)) < 2:
        raise ValueError("a line needs two distinct places")
    middle, height = statistics.fmean(x), statistics.fmean(y)
    across = sum((a - middle) ** 2 for a in x)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / across
    intercept = height - slope * middle
    residual = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - height) ** 2 for b in y)
    return intercept, slope, 1.0 if total == 0 else 1 - residual / total


__all__ = [
    "RUNS",
    "Spread",
    "Work",
    "alternate",
    "calls_for",
    "line",
    "power",
    "ratio",
    "sample",
    "spread",
    "undisturbed",
]
