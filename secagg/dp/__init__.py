"""Differential privacy: mechanisms as values, accountants that interpret them, calibration.

Names are loaded when they are used; ``dp-accounting`` when an accountant runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accounting import compose, delta, epsilon
    from .calibration import calibrate
    from .gaussian import gaussian_multiplier
    from .ledger import Ledger
    from .mechanisms import (
        CentralDiscreteGaussian,
        DiscreteGaussianSum,
        DiscreteLaplaceSum,
        Mechanism,
        SkellamSum,
    )
    from .plan_noise import mechanism_of
    from .planning import Parameters, parameters
    from .report import Promise, Realised, noise_reasons, promise, realised
    from .shares import Provision, noise_components, provision, vector_multiplier

_HOMES = {
    "CentralDiscreteGaussian": "mechanisms",
    "DiscreteGaussianSum": "mechanisms",
    "DiscreteLaplaceSum": "mechanisms",
    "Ledger": "ledger",
    "Mechanism": "mechanisms",
    "Parameters": "planning",
    "Promise": "report",
    "Provision": "shares",
    "Realised": "report",
    "SkellamSum": "mechanisms",
    "calibrate": "calibration",
    "compose": "accounting",
    "delta": "accounting",
    "epsilon": "accounting",
    "gaussian_multiplier": "gaussian",
    "mechanism_of": "plan_noise",
    "noise_components": "shares",
    "noise_reasons": "report",
    "parameters": "planning",
    "promise": "report",
    "provision": "shares",
    "realised": "report",
    "vector_multiplier": "shares",
}

__all__ = [
    "CentralDiscreteGaussian",
    "DiscreteGaussianSum",
    "DiscreteLaplaceSum",
    "Ledger",
    "Mechanism",
    "Parameters",
    "Promise",
    "Provision",
    "Realised",
    "SkellamSum",
    "calibrate",
    "compose",
    "delta",
    "epsilon",
    "gaussian_multiplier",
    "mechanism_of",
    "noise_components",
    "noise_reasons",
    "parameters",
    "promise",
    "provision",
    "realised",
    "vector_multiplier",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
