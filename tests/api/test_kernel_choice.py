"""A variant of the mask kernel that cannot run is the caller's mistake, told before a round."""

from __future__ import annotations

import os
import sys
from subprocess import run

import pytest

CODE = """
import secagg
roster, _ = secagg.Roster.generate(["a", "b", "c", "d", "e"])
plan = secagg.Plan.recommend(
    roster, length=4, stages=(secagg.Integers(0, 9),), threat="semi-honest", colluding=1,
    max_dropouts=1)
common = dict(identity=None, session="s", round=0, model=b"", journal=secagg.MemoryJournal())
for make in (
    lambda: secagg.server(plan, **common),
    lambda: secagg.client(plan, "a", floors=None, **common),
):
    try:
        make()
    except secagg.MisuseError as error:
        print(error.rule, error)
"""


@pytest.mark.parametrize("name", ["fast", "VAES512", "aesni "])
def test_an_unknown_kernel_is_refused_when_a_party_is_made(name: str) -> None:
    done = run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"SECAGG_AES": name},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("kernel SECAGG_AES must be one of vaes512, vaes256, aesni, openssl")


def test_a_switched_off_compiler_is_refused_when_a_party_is_made() -> None:
    done = run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("kernel NUMBA_DISABLE_JIT is set") for line in lines)
