"""Stages: the local pipeline between a site's vector and the ring."""

from .adaptive import WITHIN, AdaptiveClip
from .base import Array, Bounds, Encoder, Rand, Stage, Totals
from .clip import ClipL2, ClipLinf
from .integers import Integers
from .noise import Noise
from .pipeline import Decoded, Pipeline
from .quantise import Quantise
from .rotate import Rotate

__all__ = [
    "WITHIN",
    "AdaptiveClip",
    "Array",
    "Bounds",
    "ClipL2",
    "ClipLinf",
    "Decoded",
    "Encoder",
    "Integers",
    "Noise",
    "Pipeline",
    "Quantise",
    "Rand",
    "Rotate",
    "Stage",
    "Totals",
]
