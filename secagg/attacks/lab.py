"""Runs one cell of the matrix: a scene in a column, with the attack in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from .catalogue import load_scene
from .columns import COLUMNS
from .finding import Finding, Verdict
from .process import Bench, Inside, LabError
from .scene import Effort, Lab, Study


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the matrix as it is written down.

    expected, verdict: as texts; problems: why this is not what was expected; transcripts: how
    many the attack was given, and the SHA-256 over them; seconds: of wall-clock time; data: within
    a study, whose vectors were attacked.
    """

    attack: str
    column: str
    effort: str
    seed: int
    expected: str
    verdict: str
    reason: str = ""
    data: str = ""
    finding: Finding | None = None
    problems: list[str] = []
    transcripts: int = 0
    digest: str = ""
    seconds: float = 0.0

    @property
    def said(self) -> str:
        """The verdict for people: a leak that noise keeps small is not the same as an open one."""
        bounded = (
            self.verdict == Verdict.LEAKS and self.finding is not None and self.finding.bounded
        )
        return f"{self.verdict}, bounded" if bounded else self.verdict

    @property
    def holds(self) -> bool:
        """Whether the cell came out as expected."""
        return not self.problems


def here(
    name: str,
    column: str,
    *,
    effort: Effort = "quick",
    seed: int = 0,
    separate: bool = True,
    study: Study | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cell:
    """Run a cell. ``separate=False`` runs the attack in this process, for tests and debuggers."""
    scene = load_scene(name)
    expected = scene.expected[column]
    cell = Cell(
        attack=name,
        column=column,
        effort=effort,
        seed=seed,
        expected=expected if isinstance(expected, Verdict) else Verdict.NOT_APPLICABLE,
        verdict="failed",
    )
    if not isinstance(expected, Verdict):
        return replace(cell, verdict=Verdict.NOT_APPLICABLE, reason=expected)
    began = time.perf_counter()
    with (Bench if separate else Inside)(scene.attack) as runner:
        lab = Lab(
            runner,
            attack=name,
            column=column,
            effort=effort,
            seed=seed,
            study=study,
            progress=progress,
        )
        try:
            finding = scene.investigate(lab, column)
        except LabError as error:
            seconds = time.perf_counter() - began
            return replace(cell, problems=[f"failed: {error}"], seconds=seconds)
    problems = finding.problems(expected)
    if not lab.given:
        problems.append("the attack was given nothing")
    return replace(
        cell,
        verdict=finding.verdict,
        finding=finding,
        problems=problems,
        transcripts=lab.given,
        digest=lab.seen,
        seconds=time.perf_counter() - began,
        data="" if study is None else study.use,
    )


__all__ = ["COLUMNS", "Cell", "here"]
