"""Paillier sum: sites encrypt, the server multiplies, holders open only the sum."""

from .client import Client
from .holder import Holder
from .server import Server

__all__ = ["Client", "Holder", "Server"]
