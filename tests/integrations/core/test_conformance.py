"""The conformance kit against the reference adapter, which has no framework."""

from __future__ import annotations

import ast
import os
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from integrations.core import reference_adapter
from integrations.core.reference_adapter import Direct

from secagg.integrations.conformance import ALL_FEATURES, Conformance, Kind, laws, oracle, suite


@pytest.fixture(autouse=True)
def soft_disk(monkeypatch: Any) -> None:
    """Processes are killed here, and not the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_the_page_shows_the_reference_adapter() -> None:
    source = Path(reference_adapter.__file__).read_text().split('"""', 2)[2].strip()
    page = Path(__file__).parents[3] / "docs" / "integrations" / "adapting.md"
    assert source in page.read_text()


def test_the_page_names_every_law_and_feature() -> None:
    page = (Path(__file__).parents[3] / "docs" / "integrations" / "adapting.md").read_text()
    code = Path(laws.__file__).read_text() + Path(suite.__file__).read_text()
    named = set(re.findall(r'Broken\(\s*"([a-z-]+)"', code)) | {"return"}
    assert set(re.findall(r"^\| `([a-z-]+)` \| ", page, re.MULTILINE)) == named
    assert all(f"`{feature}`" in page for feature in ALL_FEATURES)


def test_the_oracle_knows_nothing_of_the_library() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    found = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert found <= sys.stdlib_module_names | {"__future__"}


def test_the_oracle_is_right_about_a_small_sum() -> None:
    vectors = {"a": [[1, -3]], "b": [[5, 7], [-1, 7]]}
    (first, second) = oracle.means(vectors, {"a": 2, "b": 1}, ["a", "b"])
    assert first == [Fraction(7, 3 * oracle.PARTS), Fraction(1, 3 * oracle.PARTS)]
    assert second == [Fraction(1, 3 * oracle.PARTS), Fraction(1, 3 * oracle.PARTS)]
    assert oracle.distance([0.5, 0.25], [Fraction(1, 2), Fraction(0)]) == Fraction(1, 4)


class TestDirect(Conformance):
    """Function calls in place of a framework."""

    adapter = Direct
    slow = pytest.mark.slow
    fast = frozenset({Kind.DROP})
