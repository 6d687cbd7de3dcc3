"""Masked sum: pairwise masking with dropout recovery (SecAgg and SecAgg+)."""

from .client import Client
from .server import Server

__all__ = ["Client", "Server"]
