"""Three organisations on one machine; nothing is fetched."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # substrafl imports distutils
    import substrafl.experiment  # noqa: F401
    from integrations.substra.consortium import Consortium
    from integrations.substra.experiment import Experiment


@pytest.fixture
def consortium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consortium]:
    # The local backend keeps its files in the current folder, and its processes import the app.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made = Consortium(tmp_path)
    yield made
    for client in made.clients:
        # Else the folder waits for the garbage collector, which warns of it.
        client._backend._db._tmp_dir.cleanup()


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)
