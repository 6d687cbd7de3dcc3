"""Whole rounds in one process, with the plans and data of ``secagg bench``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import secagg
from secagg.bench import flower, rounds, works
from secagg.bench.catalogue import CASES


@pytest.mark.benchmark(group="round")
def test_round(benchmark: Any, scale: str) -> None:
    at = CASES["round-100"].at(scale)
    plan = rounds.flower_like_plan(at["clients"], at["threshold"], at["length"])
    given = dict.fromkeys(plan.roster.names, works.vector(at["length"]))
    gone = plan.roster.names[: at["clients"] // 10 or 1]
    result = benchmark(lambda: secagg.aggregate(plan, given, drop={"input": gone}))
    assert len(result.survivors) == at["clients"] - len(gone)


@pytest.mark.benchmark(group="round")
def test_small_round_of_flower(benchmark: Any, scale: str, peer: Callable[[str], None]) -> None:
    peer("flwr")
    at = CASES["round-100"].at(scale)
    shape = flower.Shape(at["real_clients"], 1, at["real_length"], at["real_threshold"])
    assert benchmark(lambda: flower.run(shape)).seconds > 0
