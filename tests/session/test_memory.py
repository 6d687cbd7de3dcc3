"""Memory that does not grow with rounds, measured in a process of its own.

Small objects are counted exactly, in blocks of Python's allocator; vectors show in the process's
resident memory, and what lies between is traced in a smaller session. What is allowed to grow is
named and counted: each site's journal has one register for each model that it sent an input for
(``max_inputs_per_model``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).parents[1] / "support" / "session_memory.py"
#: Blocks of a register: its name and its value.
REGISTER = 2


@dataclass(frozen=True)
class Growth:
    """What a process held more after the last mark than after the first."""

    rounds: int
    sites: int
    blocks: int  # beside those of registers
    registers: int
    resident: int  # bytes
    traced: int  # bytes, or 0

    def small(self) -> bool:
        """Less than one object for every four rounds and sites."""
        return 4 * self.blocks < self.rounds * self.sites

    def large(self) -> bool:
        """More than an allocator's slack: forty inputs of 100,000 coordinates."""
        return self.resident > 8 << 20


def measure(*marks: int, **given: Any) -> tuple[Growth, dict[str, Any]]:
    """Play a session to the last mark; what grew since the first one."""
    given |= {"marks": marks, "rounds": marks[-1]}
    ran = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(given)], capture_output=True, text=True, check=True
    )
    held = json.loads(ran.stdout)
    (blocks, registers, resident, traced) = (
        held[name][-1] - held[name][0] for name in ("blocks", "registers", "resident", "traced")
    )
    growth = Growth(
        rounds=marks[-1] - marks[0],
        sites=given["sites"],
        blocks=blocks - REGISTER * registers,
        registers=registers,
        resident=resident,
        traced=traced,
    )
    return growth, held


@pytest.mark.slow
def test_a_hundred_rounds_of_twenty_sites_take_no_more_memory_than_ten(
    record_property: Any,
) -> None:
    """100 rounds x 20 sites x 100,000 coordinates."""
    growth, held = measure(10, 100, sites=20, length=100_000)
    record_property("histogram", f"{growth}, {held['seconds']:.1f} s")
    assert growth.small(), growth
    assert not growth.large(), growth
    assert growth.registers == 90 * 20


@pytest.mark.slow
def test_journals_on_disk_take_no_more_memory_either(tmp_path: Path) -> None:
    """Files are written anew before they hold more than they have to and some slack."""
    growth, held = measure(20, 40, 60, sites=6, length=100, folder=str(tmp_path))
    assert growth.small(), growth
    assert not growth.large(), growth
    early, late = held["disk"][0], held["disk"][2]
    assert late < 2 * early, held["disk"]


@pytest.mark.slow
def test_signed_rounds_take_no_more_memory_either() -> None:
    given = {"sites": 8, "length": 100, "threat": "malicious-server"}
    growth, _ = measure(10, 50, **given, trace=True)
    # A register and its place take 170 to 220 bytes, and a report many times that.
    assert 0 < growth.traced < 300 * growth.registers, growth


@pytest.mark.slow
def test_a_leak_of_one_header_a_report_would_be_seen() -> None:
    """A control: the caller keeps the header of each control frame, some forty bytes."""
    growth, held = measure(10, 30, sites=8, length=100, leak="heads")
    assert held["kept"] > 0
    assert not growth.small(), growth


@pytest.mark.slow
def test_a_leak_of_reports_would_be_seen() -> None:
    """A control: the caller keeps every report."""
    growth, held = measure(10, 30, sites=8, length=100_000, leak="reports")
    assert held["kept"] > 0
    assert not growth.small(), growth
    assert growth.large(), growth
