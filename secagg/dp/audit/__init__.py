"""Audit of noise: tests that a broken build fails and a correct one passes, at a stated rate."""

from __future__ import annotations

from .claim import ClaimResult, claim_check
from .fit import FitResult, fit_test
from .laws import Histogram, NoiseSum
from .one_run import OneRunResult, one_run_audit, one_run_epsilon, one_run_p_value
from .report import FALSE_ALARM, Finding, Report, Verdict
from .reuse import RepeatResult, ReuseResult, repeat_test, reuse_test
from .run import audit
from .sensitivity import SensitivityResult, sensitivity_check
from .threshold import (
    ThresholdResult,
    canary_scores,
    clopper_pearson_epsilon,
    clopper_pearson_ratio,
    threshold_audit,
)
from .variance import VarianceResult, variance_test

__all__ = [
    "FALSE_ALARM",
    "ClaimResult",
    "Finding",
    "FitResult",
    "Histogram",
    "NoiseSum",
    "OneRunResult",
    "RepeatResult",
    "Report",
    "ReuseResult",
    "SensitivityResult",
    "ThresholdResult",
    "VarianceResult",
    "Verdict",
    "audit",
    "canary_scores",
    "claim_check",
    "clopper_pearson_epsilon",
    "clopper_pearson_ratio",
    "fit_test",
    "one_run_audit",
    "one_run_epsilon",
    "one_run_p_value",
    "repeat_test",
    "reuse_test",
    "sensitivity_check",
    "threshold_audit",
    "variance_test",
]
