"""What came of an attack on a protocol: the verdict, its measures, the control, the figures."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What an attack achieved."""

    #: Refused by a named rule, or there is nothing to find.
    PREVENTED = "prevented"
    #: It does damage, or could, and is noticed: the round ends, or there is evidence.
    DETECTED = "detected"
    #: The adversary learns of a site's data; the measures say how much.
    LEAKS = "leaks"
    #: The result is wrong and nobody is told.
    CORRUPTS = "corrupts"
    NOT_APPLICABLE = "n/a"


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with its 99 % interval, beside what a law predicts, or the most that it allows."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    bound: float | None = None
    law: str = ""
    unit: str = ""

    @property
    def within_bound(self) -> bool:
        """Whether there is a bound, and all of the interval is below it."""
        high = self.value if self.high is None else self.high
        return self.bound is not None and high <= self.bound


class ControlRun(msgspec.Struct, frozen=True, kw_only=True):
    """The same attack on a party that overrides exactly what is named.

    overrides: rules ("client.step-order") or one feature ("feature: self mask").
    expected: whether it should succeed; false where another rule is known to stop it too.
    """

    overrides: tuple[str, ...]
    trials: int
    successes: int
    expected: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the attack went as it should on this control."""
        return (self.successes > 0) == self.expected and self.trials > 0


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One curve or set of points; low and high are error bars. style: points, line or bars."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []
    style: str = "points"


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A true record and what the attack made of it, row by row, grey values within 0..1."""

    label: str
    shape: tuple[int, int]
    true: list[float]
    found: list[float]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as data: curves, or pictures side by side.

    x_names: of categories, in the place of numbers on the axis, from the least x in steps of one.
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    series: list[Series] = []
    pictures: list[Picture] = []
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    x_names: list[str] = []


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one scene found in one column.

    tried, seen: for people. trials, successes: of the attack on the full build. exhaustive: the
    trials were every view that there is. stopped_by: the rules and features that refused, as
    observed; also_refused: what refused other things that the cell tried beside it. bounded: what
    leaks is at most what the plan's noise allows, as measured. beyond: the attacker is stronger
    than the plan of this column says it withstands. parameters: sites, threshold, colluders,
    coordinates.
    """

    verdict: Verdict
    tried: str
    seen: str
    trials: int = 0
    successes: int = 0
    exhaustive: bool = False
    stopped_by: tuple[str, ...] = ()
    also_refused: tuple[str, ...] = ()
    bounded: bool = False
    beyond: bool = False
    measures: list[Measure] = []
    controls: list[ControlRun] = []
    figures: list[Figure] = []
    parameters: dict[str, int | float | str] = {}

    def problems(self, expected: Verdict) -> list[str]:
        """Why this is not what was expected; empty where all is well."""
        found = []
        if self.verdict != expected:
            found.append(f"verdict {self.verdict}, expected {expected}")
        for control in self.controls:
            if not control.holds:
                want = "succeed" if control.expected else "fail"
                found.append(f"the control without {', '.join(control.overrides)} should {want}")
        stopped = self.verdict in {Verdict.PREVENTED, Verdict.DETECTED}
        if stopped and not any(c.expected and c.successes for c in self.controls):
            found.append("no control succeeded")
        if stopped and not self.stopped_by:
            found.append("nothing is named that stopped it")
        if self.verdict == Verdict.PREVENTED and self.successes:
            found.append(f"{self.successes} of {self.trials} attempts succeeded")
        if self.verdict in {Verdict.LEAKS, Verdict.CORRUPTS} and not (
            self.successes or any(measure.low is not None for measure in self.measures)
        ):
            found.append("nothing shows what leaked or was corrupted")
        if self.bounded and not any(measure.within_bound for measure in self.measures):
            found.append("no measure is below a bound")
        if not self.trials:
            found.append("nothing was tried")
        return found


__all__ = ["ControlRun", "Figure", "Finding", "Measure", "Picture", "Series", "Verdict"]
