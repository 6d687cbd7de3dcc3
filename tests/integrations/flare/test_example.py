"""The example, as a reader starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "flare" / "run.py"


def run(folder: Path, *options: str) -> str:
    """What the example prints. It starts processes of its own, which end with FLARE's simulator."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *options],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_example_runs_in_one_command(tmp_path):
    said = run(tmp_path)
    assert "largest difference to the model without secure sums" in said
    assert "round 0: 5 hospitals in the sum, 5 exchanges" in said
    assert "round 2: 5 hospitals in the sum, 3 exchanges" in said


@pytest.mark.slow
def test_without_secure_sums_it_is_worth_as_much(tmp_path):
    said = run(tmp_path, "--plain")
    assert "accuracy 0.9244" in said
    assert "exchanges" not in said
