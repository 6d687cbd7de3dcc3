"""The reference values, by category."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secagg.dp.curves import REAL_ORDERS, Renyi

PATH = Path(__file__).parents[1] / "golden" / "dp_reference.json"
CASES: list[dict[str, Any]] = json.loads(PATH.read_text())["cases"]


def cases(*categories: str) -> pytest.MarkDecorator:
    """Run a test for every reference case of these categories, as argument ``case``."""
    found = [case for case in CASES if case["category"] in categories]
    missing = set(categories) - {case["category"] for case in found}
    if missing:
        raise ValueError(f"no reference values of {sorted(missing)}")
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def zero_concentrated(rho: float) -> Renyi:
    """``rho``-zCDP (Bun and Steinke, arXiv:1605.02065): divergence ``order * rho``."""
    return Renyi(lambda order: order * rho, REAL_ORDERS, continuous=True)
