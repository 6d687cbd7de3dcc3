"""A run as data: what is saved, and what every table, plot and page is made from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from .measure import Spread, spread

#: Names the layout of the file; a reader refuses any other.
FORMAT: Final = "secagg bench v1"

Sense = Literal["at least", "at most"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a file: plain, named, nothing unknown."""


class Bar(Record, frozen=True, kw_only=True):
    """One line that has to be reached.

    id: ``case/what``. unit: of bar and figure, empty for a ratio. aim: what was hoped for.
    peer: the public package without which it cannot be measured, or empty.
    """

    id: str
    text: str
    bar: float
    sense: Sense = "at least"
    unit: str = ""
    aim: float | None = None
    peer: str = ""

    @property
    def case(self) -> str:
        """The case that measures it."""
        return self.id.partition("/")[0]


class Verdict(Record, frozen=True, kw_only=True):
    """What was measured for a bar.

    figure: ``None`` where nothing was. spread: of pairwise ratios or of samples, where there is
    one. reason: why the figure does not count, or is missing; empty where it counts.
    """

    bar: Bar
    figure: float | None = None
    spread: Spread | None = None
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; ``None`` where that was not measured."""
        if self.reason or self.figure is None or not math.isfinite(self.figure):
            return None
        if self.bar.sense == "at least":
            return self.figure >= self.bar.bar
        return self.figure <= self.bar.bar

    @property
    def word(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


class Timed(Record, frozen=True, kw_only=True):
    """Samples of one work. amount: how much one call handles, in ``unit`` (bytes, secrets)."""

    name: str
    seconds: list[float]
    amount: float = 0.0
    unit: str = ""

    @property
    def spread(self) -> Spread:
        """Five numbers of the seconds."""
        return spread(self.seconds)


class Curve(Record, frozen=True, kw_only=True):
    """One line of a plot; ``low`` and ``high`` are its quartiles, or empty."""

    plot: str
    name: str
    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []
    dashed: bool = False


class Listing(Record, frozen=True, kw_only=True):
    """A table that a case adds to the report; ``numbers`` are the columns set flush right."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    numbers: list[int] = []


class CaseResult(Record, frozen=True, kw_only=True):
    """What one case gave.

    error: how it ended where it did not finish. failed: whether that was a fault, and not just
    something that is missing here.
    """

    id: str
    title: str
    sizes: dict[str, Any] = {}
    timings: list[Timed] = []
    verdicts: list[Verdict] = []
    curves: list[Curve] = []
    listings: list[Listing] = []
    notes: list[str] = []
    seconds: float = 0.0
    error: str = ""
    failed: bool = False


class Machine(Record, frozen=True, kw_only=True):
    """Where a run was made; nothing that names the machine or its owner."""

    cpu: str
    features: list[str]
    cores: int
    memory_gib: float
    system: str
    python: str
    openssl: str
    kernel: str
    packages: dict[str, str]
    load: list[float]


class Run(Record, frozen=True, kw_only=True):
    """Everything of one run."""

    format: str
    version: str
    date: str
    scale: str
    runs: int
    threads: int
    machine: Machine
    cases: list[CaseResult]
    left_out: dict[str, str]
    seconds: float

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, in the order of the cases."""
        return [verdict for case in self.cases for verdict in case.verdicts]


def encode(run: Run) -> bytes:
    """Indented JSON with a final line feed. Numbers that are not finite become ``null``."""
    return msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n"


def decode(data: bytes) -> Run:
    """The run of a file. Raises ValueError where it is not one of this version."""
    try:
        run = msgspec.json.decode(data, type=Run)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no result of secagg bench: {error}") from None
    if run.format != FORMAT:
        raise ValueError(f"results in the format {run.format!r}, {FORMAT!r} is needed")
    odd = _odd(run)
    if odd:
        raise ValueError(f"no result of secagg bench: {odd}")
    return run


def _odd(run: Run) -> str:
    """What no run can have measured, although its types are right; empty where all is well."""
    if not run.cases:
        return "it has no cases"
    for case in run.cases:
        for timed in case.timings:
            if not timed.seconds:
                return f"{case.id}: {timed.name!r} has no samples"
            if min(timed.seconds) <= 0:
                return f"{case.id}: {timed.name!r} has a sample that is not positive"
            # A rate has to be a number too.
            if not math.isfinite(timed.amount / min(timed.seconds)):
                return f"{case.id}: {timed.name!r} has a sample that is too short"
        for curve in case.curves:
            lengths = {len(curve.y), *(len(side) for side in (curve.low, curve.high) if side)}
            if not curve.x or lengths != {len(curve.x)}:
                return f"{case.id}: x and y of {curve.name!r} differ in length, or are empty"
            if min(curve.x) <= 0:
                return f"{case.id}: an x of {curve.name!r} is not positive"
    return ""


def load(path: Path) -> Run:
    """The run in a file. Raises OSError, and ValueError as :func:`decode`."""
    return decode(path.read_bytes())


__all__ = [
    "FORMAT",
    "Bar",
    "CaseResult",
    "Curve",
    "Listing",
    "Machine",
    "Run",
    "Timed",
    "Verdict",
    "decode",
    "encode",
    "load",
]
