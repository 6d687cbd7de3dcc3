"""The example, as a reader starts it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.flower_processes import EXAMPLE


@pytest.mark.slow
def test_the_example_runs_in_one_command(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "largest difference to the model without secure sums" in done.stdout
    assert "round 2: 5 hospitals in the sum, 3 exchanges" in done.stdout
    plain = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--plain"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    wanted = [line for line in plain.stdout.splitlines() if line.startswith("accuracy")]
    assert wanted
    assert wanted[0] in done.stdout
