"""The same schedules and the same bytes with every variant of the mask kernel forced."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from subprocess import run

import pytest
from schedules.many import play

from secagg_native import features

TESTS = Path(__file__).parents[1]
SCHEDULES = 200
#: Long enough for whole chunks of every variant, and for a part of one.
LENGTH = 300

_PLAY = f"""
import json, sys
sys.path.insert(0, {str(TESTS)!r})
from collections import Counter
from schedules.many import play
import secagg_native
happened = sum((play(seed, length={LENGTH}) for seed in range({SCHEDULES})), Counter())
print(json.dumps([secagg_native.variant(), happened]))
"""


@pytest.fixture(scope="module")
def unforced() -> Counter[str]:
    """What the schedules meet with the variant that this process chose."""
    return sum((play(seed, length=LENGTH) for seed in range(SCHEDULES)), Counter())


@pytest.mark.slow
@pytest.mark.parametrize("name", features.aes_variants())
def test_two_hundred_schedules_with_each_variant(name: str, unforced: Counter[str]) -> None:
    done = run(
        [sys.executable, "-c", _PLAY],
        env=os.environ | {"SECAGG_AES": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, happened = json.loads(done.stdout)
    assert used == name
    # Everything random follows from the seeds, so every decision of every party is the same.
    assert happened == unforced
    assert happened["outcome: exact sum"] >= SCHEDULES // 4


@pytest.mark.slow
@pytest.mark.parametrize("name", features.aes_variants())
def test_published_scripts_with_each_variant(name: str) -> None:
    """Every message of the vectors in ``protocols/vectors`` comes out byte for byte."""
    done = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "rules/test_vectors.py"],
        cwd=TESTS,
        env=os.environ | {"SECAGG_AES": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
