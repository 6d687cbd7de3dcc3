"""What an audit found: frozen values with a verdict, and the checks that all tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from secagg.dp.curves import library
from secagg_protocols.errors import MisuseError

Verdict = Literal["consistent", "violates"]

#: Probability that one test accuses a correct build, unless the caller says otherwise.
FALSE_ALARM: Final = 1e-6
#: Below it, double precision no longer separates a tail from rounding error.
_LEAST_FALSE_ALARM: Final = 1e-10


class Finding(Protocol):
    """What every test of the audit returns."""

    @property
    def test(self) -> str:
        """Name of the test."""
        ...

    @property
    def false_alarm(self) -> float:
        """Largest probability that a correct build is accused."""
        ...

    @property
    def verdict(self) -> Verdict:
        """Whether the observation can come from what the plan claims."""
        ...

    def sentence(self) -> str:
        """The finding in one line, with its numbers and units."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Findings of one audit. One accusation is enough for the verdict.

    subject: what was audited, as the reader knows it (a plan's digest, say).
    """

    subject: str
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        if not self.findings:
            raise MisuseError("a report needs at least one finding", rule="audit")

    @property
    def false_alarm(self) -> float:
        """Largest probability that a correct build is accused by any of the tests."""
        return min(1.0, sum(finding.false_alarm for finding in self.findings))

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where any test says so."""
        return _worst([finding.verdict for finding in self.findings])

    @property
    def violations(self) -> tuple[Finding, ...]:
        """Findings that accuse."""
        return tuple(f for f in self.findings if f.verdict == "violates")

    def lines(self) -> list[str]:
        """One line per finding, the verdict last."""
        rows = [f"{f.test}: {f.verdict}; {f.sentence()}" for f in self.findings]
        rows.append(
            f"{self.subject}: {self.verdict}; a correct build is accused "
            f"with probability at most {self.false_alarm:.3g}"
        )
        return rows


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return "violates" if "violates" in verdicts else "consistent"


def check_probability(value: float, name: str) -> float:
    """A false-alarm rate; :class:`MisuseError` outside 1e-10..0.5."""
    if not isinstance(value, float) or not _LEAST_FALSE_ALARM <= value <= 0.5:
        raise MisuseError(f"{name} is a float in 1e-10..0.5", rule="audit")
    return value


def check_delta(value: float) -> float:
    """A delta; :class:`MisuseError` unless 0 <= delta < 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise MisuseError("delta lies in 0..1, below 1", rule="audit")
    return float(value)


def check_epsilon(value: float) -> float:
    """A claimed epsilon; :class:`MisuseError` unless it is a number of at least 0 (inf is one)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0.0:
        raise MisuseError("a claimed epsilon is a number of at least 0", rule="audit")
    return float(value)


def check_count(value: int, name: str, least: int = 0) -> int:
    """A whole number of at least ``least``; :class:`MisuseError` otherwise."""
    if type(value) is not int or value < least:
        raise MisuseError(f"{name} is a whole number of at least {least}", rule="audit")
    return value


def check_integers(values: Any, name: str = "samples") -> npt.NDArray[np.int64]:
    """One flat int64 array of at least one integer; float64 holds each of them exactly."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.size == 0:
        raise MisuseError(f"{name} are integers, in levels, and not none", rule="audit")
    if int(array.max()) >= 1 << 52 or int(array.min()) <= -(1 << 52):
        raise MisuseError(f"{name} lie within 2^52 levels", rule="audit")
    return array.astype(np.int64).ravel()


def check_reals(values: Any, name: str) -> npt.NDArray[np.float64]:
    """One flat float64 array of finite numbers, at least one."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.size == 0 or not np.isfinite(array).all():
        raise MisuseError(f"{name} are finite numbers, and not none", rule="audit")
    return array.astype(np.float64).ravel()


def special() -> Any:
    """``scipy.special``, loaded when a test runs."""
    return library("scipy.special")
