"""Saved runs: they come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from secagg.bench import results
from secagg.bench.results import Verdict
from support.made_bench import FAST, made_run


def test_there_and_back(tmp_path: Path) -> None:
    run = made_run()
    path = tmp_path / "results.json"
    path.write_bytes(results.encode(run))
    assert results.load(path) == run
    assert path.read_bytes().endswith(b"}\n")


def test_a_figure_that_is_not_finite_comes_back_as_none() -> None:
    case = msgspec.structs.replace(
        made_run().cases[0], verdicts=[Verdict(bar=FAST, figure=math.nan)]
    )
    run = msgspec.structs.replace(made_run(), cases=[case])
    (verdict,) = results.decode(results.encode(run)).verdicts
    assert (verdict.figure, verdict.met) == (None, None)


def changed(**values: object) -> bytes:
    data = json.loads(results.encode(made_run()))
    data.update(values)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        changed(format="secagg bench v0"),
        changed(extra=1),
        changed(seconds="long"),
        changed(cases=[{"id": "mask-1m"}]),
    ],
    ids=["empty", "list", "bare", "format", "unknown", "type", "case"],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no result of secagg bench|in the format"):
        results.decode(data)


def test_verdicts_in_order() -> None:
    assert [verdict.word for verdict in made_run().verdicts] == ["met", "missed", "not measured"]
