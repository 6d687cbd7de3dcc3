"""Tests under a framework run where it is installed, which SECAGG_FRAMEWORKS=required demands;
the longest first."""

from __future__ import annotations

import importlib.util
import os

import pytest

MODULES = {"flower": "flwr", "substra": "substrafl", "flare": "nvflare", "declearn": "declearn"}
MISSING = sorted(folder for folder, name in MODULES.items() if not importlib.util.find_spec(name))

if MISSING and os.environ.get("SECAGG_FRAMEWORKS") == "required":
    raise RuntimeError(f"the frameworks of {', '.join(MISSING)} are not installed")
collect_ignore = MISSING

#: Tests of half a minute and more, the longest first: what begins last should not take long. The
#: others go on meanwhile, since the first of these mostly waits for its processes.
LONG = (
    "test_superlink.py::",
    "substra/test_platform.py::",
    "flare/test_simulator.py::test_a_process_for_each_task_is_enough",
    "flare/test_example.py::test_the_example_runs_in_one_command",
    "flare/test_conformance.py::TestFlare::test_several_faults",
    "flower/test_simulation.py::",
    "flare/test_example.py::",
    "declearn/test_runs.py::test_examples",
    "flare/test_simulator.py::",
    "declearn/test_runs.py::test_servers_without_secagg_are_refused",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, each followed by a short one: pytest-xdist's workers hold one in advance,
    and what is held behind a long test waits for it."""

    def place(item: pytest.Item) -> int:
        return next((at for at, part in enumerate(LONG) if part in item.nodeid), len(LONG))

    long = sorted((item for item in items if place(item) < len(LONG)), key=place)
    short = [item for item in items if place(item) == len(LONG)]
    paired = [item for pair in zip(long, short, strict=False) for item in pair]
    items[:] = [*paired, *long[len(short) :], *short[len(long) :]]
