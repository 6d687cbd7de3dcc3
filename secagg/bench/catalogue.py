"""All cases and bars, and a run of some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

import secagg

from . import (
    child,
    cold,
    curves,
    kernels,
    machine,
    memory,
    noise,
    paillier,
    paillier_round,
    peers,
    rounds,
)
from .results import FORMAT, Bar, CaseResult, Run
from .sheet import Case, Given, NotHereError, Sheet, perform

CASES: Final[dict[str, Case]] = {
    case.id: case
    for case in (
        *kernels.CASES,
        *noise.CASES,
        *rounds.CASES,
        *memory.CASES,
        *cold.CASES,
        *curves.CASES,
        *paillier.CASES,
        *paillier_round.CASES,
    )
}
#: Cases that run in a process of their own, with the environment that forces a variant there.
FORCED: Final[dict[str, dict[str, str]]] = {
    **{case: {kernels.FORCE: variant} for case, variant in kernels.FORCED.items()},
    **{case: {paillier.FORCE: variant} for case, variant in paillier.FORCED.items()},
}
BARS: Final[tuple[Bar, ...]] = tuple(bar for case in CASES.values() for bar in case.bars)

#: Called with (id, position, number of cases) before each case, and with (None, number, number).
Watcher = Callable[[str | None, int, int], None]
#: Called after each case with the run as far as it has come.
Keeper = Callable[[Run], None]


def run(
    names: Sequence[str],
    given: Given,
    *,
    watch: Watcher = lambda name, done, most: None,
    keep: Keeper = lambda run: None,
) -> Run:
    """Run cases in the order of the catalogue. One that fails is recorded, and the rest goes on.

    Raises KeyError for an unknown name, and whatever ``watch`` and ``keep`` raise.
    """
    chosen = [CASES[name] for name in CASES if name in set(names)]
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise KeyError(unknown[0])
    start, date, where = time.perf_counter(), machine.now(), machine.describe()
    found: list[CaseResult] = []

    def so_far() -> Run:
        return Run(
            format=FORMAT,
            version=secagg.__version__,
            date=date,
            scale=given.scale,
            runs=given.runs,
            threads=given.threads,
            machine=where,
            cases=list(found),
            left_out=peers.left_out(given),
            seconds=time.perf_counter() - start,
        )

    latest = so_far()
    for position, case in enumerate(chosen):
        watch(case.id, position, len(chosen))
        found.append(_one(case, given))
        latest = so_far()
        keep(latest)
    watch(None, len(chosen), len(chosen))
    return latest


def _one(case: Case, given: Given) -> CaseResult:
    begun = time.perf_counter()
    sheet = Sheet(case, given)
    try:
        forced = FORCED.get(case.id)
        if forced is None:
            return perform(case, given)
        answer = child.call(
            "case",
            {"case": case.id, "given": msgspec.to_builtins(given)},
            forced,
        )
        return msgspec.convert(answer, CaseResult)
    except NotHereError as missing:
        return sheet.result(seconds=time.perf_counter() - begun, error=str(missing))
    except Exception as error:  # noqa: BLE001 - one case that fails must not cost the others
        said = f"{type(error).__name__}: {error}"
        return sheet.result(seconds=time.perf_counter() - begun, error=said, failed=True)


def case_in_child(case: str, given: dict[str, Any]) -> Any:
    """Run one case in this process, which :func:`run` has started for it."""
    return msgspec.to_builtins(perform(CASES[case], Given(**given)))


__all__ = ["BARS", "CASES", "FORCED", "case_in_child", "run"]
