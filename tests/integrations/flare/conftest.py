"""FLARE is imported once, under its own warnings. Nothing of it needs the network."""

from __future__ import annotations

import importlib.util
import os
import warnings

import pytest

if importlib.util.find_spec("nvflare") is None:
    collect_ignore_glob = ["*"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nvflare.job_config.api
        import nvflare.private.fed.client.client_runner  # noqa: F401

        import secagg.integrations.flare  # noqa: F401


@pytest.fixture(autouse=True)
def soft_disk(monkeypatch):
    """Sites are killed here, not machines: without waits for the disk tests take half the time.
    Processes that a test starts do wait for it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
