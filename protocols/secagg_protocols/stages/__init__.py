"""Stages: the local pipeline between a site's vector and the ring."""

from .base import Array, Bounds, Encoder, Rand, Stage, Totals
from .clip import ClipL2, ClipLinf
from .integers import Integers
from .pipeline import Pipeline
from .quantise import Quantise

__all__ = [
    "Array",
    "Bounds",
    "ClipL2",
    "ClipLinf",
    "Encoder",
    "Integers",
    "Pipeline",
    "Quantise",
    "Rand",
    "Stage",
    "Totals",
]
