"""Threshold audit: a lower bound of epsilon from telling canary runs from empty ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from secagg_protocols.errors import MisuseError

from .laws import Reals
from .report import (
    FALSE_ALARM,
    Verdict,
    check_count,
    check_delta,
    check_epsilon,
    check_integers,
    check_probability,
    check_reals,
    special,
)

Direction = Literal["canary-above", "empty-below"]

#: Most thresholds that are tried on the first half.
_MOST_THRESHOLDS: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdResult:
    """Result of :func:`threshold_audit`.

    epsilon_lower: the mechanism's epsilon at ``delta`` is at least that, but for a probability of
    false_alarm (0 where nothing was learned). claimed_epsilon: of the plan, at the same delta.
    direction: ``"canary-above"`` tests P(canary > threshold) against P(empty > threshold),
    ``"empty-below"`` P(empty <= threshold) against P(canary <= threshold). hits of hit_runs: the
    first, misses of miss_runs: the second, counted on the half that did not choose the threshold.
    """

    epsilon_lower: float
    claimed_epsilon: float
    delta: float
    false_alarm: float
    threshold: float
    direction: Direction
    hits: int
    hit_runs: int
    misses: int
    miss_runs: int
    test: Literal["threshold"] = "threshold"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where the lower bound is above the claim."""
        return "violates" if self.epsilon_lower > self.claimed_epsilon else "consistent"

    @property
    def epsilon_resolved(self) -> float:
        """What ``epsilon_lower`` were if every run had been told apart: larger ones go unseen."""
        epsilon = clopper_pearson_epsilon(
            hits=self.hit_runs,
            hit_runs=self.hit_runs,
            misses=0,
            miss_runs=self.miss_runs,
            delta=self.delta,
            alpha=self.false_alarm,
        )
        return max(0.0, epsilon)

    def sentence(self) -> str:
        """Lower bound against the claim."""
        return (
            f"epsilon at least {self.epsilon_lower:.4g} at delta {self.delta:.3g}, claimed "
            f"{self.claimed_epsilon:.4g} ({self.hits} of {self.hit_runs} against {self.misses} of "
            f"{self.miss_runs}, which can show {self.epsilon_resolved:.4g} at most; "
            f"false alarms {self.false_alarm:.3g})"
        )


def canary_scores(sums: Any, directions: Any, *, norm_levels: float) -> Reals:
    """<sum, direction> / (|direction| norm_levels): near 1 with the canary, near 0 without.

    sums: integers[runs, length], in levels. directions: float[length] or float[runs, length], where
    the canary points. norm_levels: L2 norm of the canary in levels.
    """
    runs = np.asarray(sums)
    if runs.ndim != 2:
        raise MisuseError("sums are an array of runs by coordinates", rule="audit")
    flat = check_integers(runs, "sums").astype(np.float64).reshape(runs.shape)
    where = np.asarray(directions, dtype=np.float64)
    if where.shape not in {flat.shape, flat.shape[1:]} or not norm_levels > 0.0:
        raise MisuseError("a direction for every run and a norm above 0", rule="audit")
    lengths = np.sqrt(np.sum(where * where, axis=-1))
    if not np.all(lengths > 0.0):
        raise MisuseError("a direction is not 0", rule="audit")
    return np.asarray(np.sum(flat * where, axis=1) / (lengths * norm_levels))


def clopper_pearson_ratio(
    *, hits: int, hit_runs: int, misses: int, miss_runs: int, delta: float, alpha: float
) -> float:
    """Lower bound of (P(hit) - delta) / P(miss), with confidence 1 - alpha; 0 or more.

    Each probability is bounded by Clopper and Pearson (1934) at alpha / 2:
    lo = beta.ppf(alpha / 2, hits, hit_runs - hits + 1),
    hi = beta.ppf(1 - alpha / 2, misses + 1, miss_runs - misses).
    """
    check_probability(alpha, "alpha")
    check_count(hits, "hits")
    check_count(hit_runs, "hit_runs", max(1, hits))
    check_count(misses, "misses")
    check_count(miss_runs, "miss_runs", max(1, misses))
    ratios = _ratios(
        np.array([float(hits)]),
        float(hit_runs),
        np.array([float(misses)]),
        float(miss_runs),
        check_delta(delta),
        alpha,
    )
    return float(ratios[0])


def clopper_pearson_epsilon(
    *, hits: int, hit_runs: int, misses: int, miss_runs: int, delta: float, alpha: float
) -> float:
    """ln of :func:`clopper_pearson_ratio`: a lower bound of epsilon. Below 0 it says nothing."""
    ratio = clopper_pearson_ratio(
        hits=hits,
        hit_runs=hit_runs,
        misses=misses,
        miss_runs=miss_runs,
        delta=delta,
        alpha=alpha,
    )
    return math.log(ratio) if ratio > 0.0 else -math.inf


def threshold_audit(
    canary: Any,
    empty: Any,
    *,
    claimed_epsilon: float,
    delta: float,
    false_alarm: float = FALSE_ALARM,
) -> ThresholdResult:
    """Lower bound of epsilon from scores of runs with and without the canary.

    canary, empty: real scores, one per independent run, high where the canary is suspected. The
    first half of each chooses threshold and direction, the second half is counted, once, so that
    the stated confidence needs no correction. The bound is far below the true epsilon where runs
    are few: some 100,000 are needed to come near it at one false alarm in a million.

    Raises :class:`~secagg.MisuseError` for fewer than two scores of a kind, or one that is not
    finite.
    """
    check_probability(false_alarm, "false_alarm")
    delta = check_delta(delta)
    claimed = check_epsilon(claimed_epsilon)
    with_it, without = check_reals(canary, "canary"), check_reals(empty, "empty")
    if with_it.size < 2 or without.size < 2:
        raise MisuseError("two scores of each kind at least", rule="audit")
    half_with, half_without = with_it.size // 2, without.size // 2
    direction, threshold = _choose(with_it[:half_with], without[:half_without], delta, false_alarm)
    rest_with, rest_without = with_it[half_with:], without[half_without:]
    if direction == "canary-above":
        hits, hit_runs = int((rest_with > threshold).sum()), rest_with.size
        misses, miss_runs = int((rest_without > threshold).sum()), rest_without.size
    else:
        hits, hit_runs = int((rest_without <= threshold).sum()), rest_without.size
        misses, miss_runs = int((rest_with <= threshold).sum()), rest_with.size
    epsilon = clopper_pearson_epsilon(
        hits=hits,
        hit_runs=hit_runs,
        misses=misses,
        miss_runs=miss_runs,
        delta=delta,
        alpha=false_alarm,
    )
    return ThresholdResult(
        epsilon_lower=max(0.0, epsilon),
        claimed_epsilon=claimed,
        delta=delta,
        false_alarm=false_alarm,
        threshold=threshold,
        direction=direction,
        hits=hits,
        hit_runs=hit_runs,
        misses=misses,
        miss_runs=miss_runs,
    )


def _choose(canary: Reals, empty: Reals, delta: float, alpha: float) -> tuple[Direction, float]:
    """Direction and threshold with the best bound on these scores."""
    values = np.unique(np.concatenate([canary, empty]))
    if values.size > _MOST_THRESHOLDS:
        # Evenly by rank, but every one near the ends, where the best threshold tends to be.
        edge = _MOST_THRESHOLDS // 4
        middle = np.linspace(edge, values.size - edge - 1, 2 * edge).astype(np.int64)
        values = np.concatenate([values[:edge], values[middle], values[-edge:]])
    on, off = float(canary.size), float(empty.size)
    above_canary = on - np.searchsorted(np.sort(canary), values, side="right").astype(np.float64)
    above_empty = off - np.searchsorted(np.sort(empty), values, side="right").astype(np.float64)
    above = _ratios(above_canary, on, above_empty, off, delta, alpha)
    below = _ratios(off - above_empty, off, on - above_canary, on, delta, alpha)
    if above.max() >= below.max():
        return "canary-above", float(values[int(above.argmax())])
    return "empty-below", float(values[int(below.argmax())])


def _ratios(
    hits: Reals, hit_runs: float, misses: Reals, miss_runs: float, delta: float, alpha: float
) -> Reals:
    functions = special()
    some, few = hits > 0.0, misses < miss_runs
    # Arguments of 0 have no beta law; the bounds there are 0 and 1.
    low = functions.betaincinv(np.where(some, hits, 1.0), hit_runs - hits + 1.0, alpha / 2.0)
    rest = np.where(few, miss_runs - misses, 1.0)
    high = functions.betainccinv(misses + 1.0, rest, alpha / 2.0)
    low, high = np.where(some, low, 0.0), np.where(few, high, 1.0)
    return np.asarray(np.maximum(low - delta, 0.0) / high)
