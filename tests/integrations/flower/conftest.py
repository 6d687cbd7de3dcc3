"""Fixtures for Flower's tests. Flower is imported once, under its own warnings."""

from __future__ import annotations

import importlib.util
import os
import warnings

import pytest

#: Nothing is reported or looked up anywhere, in this process and in those that it starts.
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

if importlib.util.find_spec("flwr") is None:
    collect_ignore_glob = ["*"]
else:
    os.environ.update(OFFLINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import flwr.clientapp
        import flwr.serverapp.strategy  # noqa: F401


@pytest.fixture(autouse=True)
def soft_disk(request, monkeypatch):
    """Nodes are killed here, not machines: without waits for the disk tests take half the time."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def world(tmp_path):
    """Makes worlds: a plan, party folders below a folder of the test, and a grid."""
    from integrations.flower.worlds import make_world

    return lambda **options: make_world(tmp_path / "parties", **options)
