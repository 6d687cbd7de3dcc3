"""Ten thousand seeded schedules over both threats, with a histogram of what happened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from schedules.many import LEAST, REQUIRED, merged, play, store, table

CHUNKS, CHUNK = 20, 500


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run see, and no other run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "schedules"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_ten_thousand_schedules(
    chunk: int, shared: Path, record_property: Callable[[str, object], None]
) -> None:
    happened = Counter[str]()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        happened += play(seed)
    store(shared, chunk, happened)
    total = merged(shared, CHUNKS)
    if total is None:
        return
    # This chunk is the last to finish, in whichever process, so it answers for all of them.
    # Its report carries the histogram to the terminal (tests/conftest.py prints it).
    record_property("histogram", f"{CHUNKS * CHUNK:,} schedules\n{table(total)}")
    rare = {name: total[name] for name in REQUIRED if total[name] < LEAST}
    assert not rare, f"met fewer than {LEAST} times: {rare}"
