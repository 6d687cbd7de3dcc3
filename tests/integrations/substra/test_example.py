"""The example of the documentation, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[3] / "docs" / "examples" / "substra" / "run.py"


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(RUN), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_with_and_without() -> None:
    found = run()
    losses = re.findall(r"log-loss (\S+), accuracy (\S+)", found)
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert float(losses[0][1]) > 0.95
    assert "quantisation may move them by" in found


def test_plain() -> None:
    assert "with secagg" not in run("--plain")
