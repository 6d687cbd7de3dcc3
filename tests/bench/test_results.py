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


def with_case(**values: object) -> bytes:
    data = json.loads(results.encode(made_run()))
    data["cases"][0].update(values)
    return json.dumps(data).encode()


def timed(*seconds: float, amount: float = 0.0) -> bytes:
    return with_case(timings=[{"name": "ours", "seconds": list(seconds), "amount": amount}])


def curve(x: list[float], y: list[float], **sides: list[float]) -> bytes:
    return with_case(curves=[{"plot": "threads", "name": "ours", "x": x, "y": y, **sides}])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(cases=[]), "no cases"),
        (timed(), "no samples"),
        (timed(0.0), "not positive"),
        (timed(1.0, -1.0), "not positive"),
        (timed(1e-300, amount=1e30), "too short"),
        (curve([1, 2], [1]), "differ in length"),
        (curve([1, 2], [1, 2], low=[1]), "differ in length"),
        (curve([], []), "empty"),
        (curve([0, 1], [1, 2]), "an x of 'ours' is not positive"),
    ],
)
def test_values_that_no_run_gives_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"no result of secagg bench.*{said}"):
        results.decode(data)


def test_values_beside_them_are_taken() -> None:
    assert results.decode(timed(1.0, 2.0)).cases[0].timings[0].spread.median == 1.5
    found = results.decode(curve([1, 2], [1, 2], low=[0, 1], high=[2, 3]))
    assert found.cases[0].curves[0].high == [2, 3]


def test_verdicts_in_order() -> None:
    assert [verdict.word for verdict in made_run().verdicts] == ["met", "missed", "not measured"]
