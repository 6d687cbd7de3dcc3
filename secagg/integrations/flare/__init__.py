"""Secure aggregation under NVIDIA FLARE (``docs/integrations/flare.md``)."""

from .job import add_secagg
from .server import SecAggFedAvg
from .site import SecAggExecutor, SecAggFilter, SecAggOrderFilter, SecAggState

__all__ = [
    "SecAggExecutor",
    "SecAggFedAvg",
    "SecAggFilter",
    "SecAggOrderFilter",
    "SecAggState",
    "add_secagg",
]
