"""What all tests share: printing histograms, also when they come from another process."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A first example loads or compiles kernels, and machines are shared: no example has a deadline.
settings.register_profile(
    "secagg", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("secagg")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as ``histogram``; output of pytest-xdist's workers is lost."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "histogram" and report.when == "call":
                    terminalreporter.section(f"histogram: {report.nodeid}")
                    terminalreporter.write_line(str(value))
