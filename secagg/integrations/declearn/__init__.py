"""Secure aggregation for declearn 2.9 (``docs/integrations/declearn.md``)."""

from .setup import SecAggServer, SecAggSite

__all__ = ["SecAggServer", "SecAggSite"]
