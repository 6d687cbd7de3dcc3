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
    """A figure with its 99 % interval, beside what a law predicts."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    law: str = ""
    unit: str = ""


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
    """A figure as data: curves, or pictures side by side."""

    title: str
    x_label: str = ""
    y_label: str = ""
    series: list[Series] = []
    pictures: list[Picture] = []
    log_x: bool = False
    log_y: bool = False
    note: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one scene found in one column.

    tried, seen: for people. trials, successes: of the attack on the full build. exhaustive: the
    trials were every view that there is. stopped_by: the rules and features that refused, as
    observed. bounded: what leaks is at most what the plan's noise allows, as measured. parameters:
    sites, threshold, colluders, coordinates.
    """

    verdict: Verdict
    tried: str
    seen: str
    trials: int = 0
    successes: int = 0
    exhaustive: bool = False
    stopped_by: tuple[str, ...] = ()
    bounded: bool = False
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
        if self.verdict == Verdict.PREVENTED and self.successes:
            found.append(f"{self.successes} of {self.trials} attempts succeeded")
        if self.verdict != Verdict.NOT_APPLICABLE and not self.trials:
            found.append("nothing was tried")
        return found


__all__ = ["ControlRun", "Figure", "Finding", "Measure", "Picture", "Series", "Verdict"]
