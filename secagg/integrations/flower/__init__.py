"""Secure aggregation under Flower (``docs/integrations/flower.md``)."""

from .config import SecAggConfig
from .grid import SecAggGrid
from .inprocess import Delivery, Fault, InProcessGrid
from .mod import secagg_mod
from .records import model_bytes

__all__ = [
    "Delivery",
    "Fault",
    "InProcessGrid",
    "SecAggConfig",
    "SecAggGrid",
    "model_bytes",
    "secagg_mod",
]
