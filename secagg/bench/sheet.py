"""A case, how large it is run, and the sheet on which it writes what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from . import measure
from .results import Bar, CaseResult, Curve, Listing, Timed, Verdict

#: ``full`` is what bars speak of; ``quick`` is a look; ``tiny`` only shows that a case works.
Scale = Literal["full", "quick", "tiny"]
_QUICK: Final = "sizes of a quick run"


class NotHereError(Exception):
    """Something that a case needs is not on this machine: a peer, an instruction, a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """How a run is made.

    runs: samples at least. seconds: more samples are taken until a group of works took so long.
    threads: most threads. peers: whether public peers take part where they are installed.
    """

    scale: Scale = "full"
    runs: int = measure.RUNS
    seconds: float = 2.0
    threads: int = 1
    peers: bool = True

    @classmethod
    def of(cls, scale: Scale, *, threads: int, peers: bool) -> Given:
        """Runs and seconds that go with a scale."""
        runs, seconds = {"full": (7, 2.0), "quick": (7, 0.0), "tiny": (2, 0.0)}[scale]
        return cls(scale=scale, runs=runs, seconds=seconds, threads=threads, peers=peers)


@dataclass(frozen=True, slots=True)
class Case:
    """Something that is measured.

    run: writes on the sheet; :class:`NotHereError` leaves the rest out. sizes: by scale; a scale
    that is absent is as large as ``full``.
    """

    id: str
    title: str
    run: Callable[[Sheet], None]
    sizes: Mapping[str, Mapping[str, Any]]
    bars: tuple[Bar, ...] = ()

    def at(self, scale: str) -> dict[str, Any]:
        """Sizes at a scale."""
        return dict(self.sizes.get(scale, self.sizes["full"]))


@dataclass(slots=True)
class Sheet:
    """What a case found so far."""

    case: Case
    given: Given
    sizes: dict[str, Any] = field(init=False)
    timings: list[Timed] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes = self.case.at(self.given.scale)

    def alternate(
        self, works: Mapping[str, measure.Work], *, seconds: float | None = None
    ) -> dict[str, list[float]]:
        """:func:`measure.alternate` with the runs of this sheet."""
        return measure.alternate(
            works,
            runs=self.given.runs,
            seconds=self.given.seconds if seconds is None else seconds,
        )

    def timed(
        self, name: str, seconds: Sequence[float], amount: float = 0.0, unit: str = ""
    ) -> None:
        """Write down samples; a call handled ``amount`` of ``unit``."""
        self.timings.append(
            Timed(name=name, seconds=list(seconds), amount=float(amount), unit=unit)
        )

    def judge(
        self,
        bar: str,
        figure: float | None,
        *,
        spread: measure.Spread | None = None,
        samples: int | None = None,
        reason: str = "",
    ) -> None:
        """Write down the figure for a bar; ``samples`` fewer than seven do not count."""
        if not reason and self.sizes != self.case.at("full"):
            reason = _QUICK
        if not reason and samples is not None and samples < measure.RUNS:
            reason = f"{samples} samples, {measure.RUNS} are needed"
        self.verdicts[bar] = Verdict(
            bar=self._bar(bar), figure=figure, spread=spread, reason=reason
        )

    def compare(self, bar: str, above: Sequence[float], below: Sequence[float]) -> None:
        """Judge a bar by the ratio of medians, with the spread of pairwise ratios."""
        figure, pairs = measure.ratio(above, below)
        self.judge(bar, figure, spread=pairs, samples=len(above))

    def leave_out(self, bar: str, reason: str) -> None:
        """Say why a bar was not measured."""
        self.verdicts[bar] = Verdict(bar=self._bar(bar), reason=reason)

    def curve(self, plot: str, name: str, points: Mapping[float, Sequence[float]]) -> None:
        """A line of a plot from the samples at each place: medians, with quartiles."""
        at = sorted(points)
        found = [measure.spread(points[x]) for x in at]
        self.curves.append(
            Curve(
                plot=plot,
                name=name,
                x=[float(x) for x in at],
                y=[value.median for value in found],
                low=[value.first for value in found],
                high=[value.third for value in found],
            )
        )

    def line(
        self, plot: str, name: str, points: Mapping[float, float], *, dashed: bool = False
    ) -> None:
        """A line of a plot from one value at each place."""
        at = sorted(points)
        self.curves.append(
            Curve(
                plot=plot,
                name=name,
                x=[float(x) for x in at],
                y=[float(points[x]) for x in at],
                dashed=dashed,
            )
        )

    def listing(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        numbers: Sequence[int] = (),
    ) -> None:
        """A table for the report."""
        self.listings.append(
            Listing(
                title=title,
                columns=list(columns),
                rows=[list(row) for row in rows],
                numbers=list(numbers),
            )
        )

    def _bar(self, name: str) -> Bar:
        for bar in self.case.bars:
            if bar.id == name:
                return bar
        raise KeyError(f"{self.case.id} has no bar {name}")

    def result(self, *, seconds: float, error: str = "", failed: bool = False) -> CaseResult:
        """Everything on the sheet; a bar without a verdict was not reached."""
        reason = error or "the case did not come to it"
        return CaseResult(
            id=self.case.id,
            title=self.case.title,
            sizes=self.sizes,
            timings=self.timings,
            verdicts=[
                self.verdicts.get(bar.id, Verdict(bar=bar, reason=reason)) for bar in self.case.bars
            ],
            curves=self.curves,
            listings=self.listings,
            notes=self.notes,
            seconds=seconds,
            error=error,
            failed=failed,
        )


def perform(case: Case, given: Given) -> CaseResult:
    """Run one case. What is missing leaves its bars out; any other exception is raised."""
    sheet = Sheet(case, given)
    start = time.perf_counter()
    reason = ""
    try:
        case.run(sheet)
    except NotHereError as missing:
        reason = str(missing)
        sheet.notes.append(f"left out: {reason}")
        for bar in case.bars:
            if bar.id not in sheet.verdicts:
                sheet.leave_out(bar.id, reason)
    return sheet.result(seconds=time.perf_counter() - start)


__all__ = ["Case", "Given", "NotHereError", "Scale", "Sheet", "perform"]
