"""Sizes of the pytest-benchmark suites: small by default, those of the bars with ``--full``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secagg.bench import peers
from secagg.bench.sheet import Given, NotHereError


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option: how large."""
    parser.addoption("--full", action="store_true", help="sizes of the bars (minutes)")


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> str:
    """``full`` or ``tiny``, as the cases of ``secagg bench`` name their sizes."""
    return "full" if request.config.getoption("--full") else "tiny"


@pytest.fixture
def peer() -> Callable[[str], None]:
    """Skip a benchmark whose peer is not installed in the version that figures compare with."""

    def need(package: str) -> None:
        try:
            peers.need(Given(), package)
        except NotHereError as missing:
            pytest.skip(str(missing))

    return need
