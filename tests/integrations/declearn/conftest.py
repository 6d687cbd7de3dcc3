"""declearn is imported once, under its own warnings."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("declearn")
    import declearn.communication.websockets
    import declearn.main
    import declearn.model.sklearn  # noqa: F401

    import secagg.integrations.declearn  # noqa: F401
