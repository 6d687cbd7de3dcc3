"""One-run audit: a lower bound of epsilon from many canaries, each in or out by its own coin.

Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, Theorem 5.2
and the program of Appendix D. The canaries may be spread over several independent runs: together
they are one mechanism, in which every coin still enters once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secagg_protocols.errors import MisuseError

from .laws import Reals
from .report import (
    FALSE_ALARM,
    Verdict,
    check_count,
    check_delta,
    check_epsilon,
    check_probability,
    check_reals,
    special,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRunResult:
    """Result of :func:`one_run_audit`.

    epsilon_lower: epsilon at ``delta`` is at least that, but for a probability of false_alarm.
    p_value: of ``correct`` right guesses or more out of ``guesses``, were the claim true.
    canaries: how many coins were thrown.
    """

    epsilon_lower: float
    claimed_epsilon: float
    delta: float
    p_value: float
    false_alarm: float
    canaries: int
    guesses: int
    correct: int
    test: Literal["one-run"] = "one-run"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where so many right guesses are too unlikely under the claim."""
        return "violates" if self.p_value < self.false_alarm else "consistent"

    @property
    def epsilon_resolved(self) -> float:
        """What ``epsilon_lower`` were if every guess had been right: larger ones go unseen."""
        return one_run_epsilon(
            canaries=self.canaries,
            guesses=self.guesses,
            correct=self.guesses,
            delta=self.delta,
            alpha=self.false_alarm,
        )

    def sentence(self) -> str:
        """Right guesses and the bound that follows."""
        return (
            f"{self.correct} of {self.guesses} guesses about {self.canaries} canaries right: "
            f"epsilon at least {self.epsilon_lower:.4g} at delta {self.delta:.3g}, claimed "
            f"{self.claimed_epsilon:.4g} (all right can show {self.epsilon_resolved:.4g}; "
            f"p <= {self.p_value:.2g}, "
            f"false alarms {self.false_alarm:.3g})"
        )


def one_run_p_value(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Upper bound of P(``correct`` right guesses or more) under (epsilon, delta).

    P(B >= v) + 2 m delta max_i P(v > B >= v - i) / i with B ~ Binomial(guesses, 1 / (1 +
    exp(-epsilon))), m canaries, v right guesses, i = 1..v. Leaving out the second term, as some
    public ports do, accuses correct (epsilon, delta) mechanisms.
    """
    _check_guesses(canaries, guesses, correct)
    check_epsilon(epsilon)
    return _p_value(canaries, guesses, correct, epsilon, check_delta(delta))


def one_run_epsilon(
    *, canaries: int, guesses: int, correct: int, delta: float, alpha: float
) -> float:
    """Largest epsilon that :func:`one_run_p_value` refuses at ``alpha``; 0 where it refuses none.

    Bisection to 1e-12, from below.
    """
    _check_guesses(canaries, guesses, correct)
    check_probability(alpha, "alpha")
    delta = check_delta(delta)
    if _p_value(canaries, guesses, correct, 0.0, delta) >= alpha:
        return 0.0
    low, high = 0.0, 1.0
    while _p_value(canaries, guesses, correct, high, delta) < alpha:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        if _p_value(canaries, guesses, correct, middle, delta) < alpha:
            low = middle
        else:
            high = middle
    return low


def one_run_audit(
    scores: Any,
    included: Any,
    *,
    claimed_epsilon: float,
    delta: float,
    guesses: int | None = None,
    false_alarm: float = FALSE_ALARM,
) -> OneRunResult:
    """Guess the coins of the most telling scores and count how often that is right.

    scores: real, one per canary, high where it seems to be in. included: bool, the coins, which
    were fair and independent. guesses: how many are made, half of them "in" for the highest and
    half "out" for the lowest scores; chosen before the run, an eighth of the canaries by default.

    The p-value is never below 2 delta canaries / guesses, so that a claim at a small delta is the
    one to audit: any point (epsilon, delta) of the mechanism's curve is a claim.

    Raises :class:`~secagg.MisuseError` for scores that are not finite or not one per coin, and for
    a delta at which nothing could ever be accused.
    """
    check_probability(false_alarm, "false_alarm")
    claimed = check_epsilon(claimed_epsilon)
    delta = check_delta(delta)
    values = check_reals(scores, "scores")
    coins = np.asarray(included)
    if coins.dtype != np.bool_ or coins.size != values.size:
        raise MisuseError("one bool per score", rule="audit")
    coins = coins.ravel()
    if guesses is None:
        guesses = max(1, values.size // 8)
    check_count(guesses, "guesses", 1)
    if guesses > values.size:
        raise MisuseError("no more guesses than canaries", rule="audit")
    if 2.0 * delta * values.size / guesses >= false_alarm:
        raise MisuseError(
            f"at delta {delta:.3g} this test cannot fail; claim an epsilon at a delta below "
            f"{0.5 * false_alarm * guesses / values.size:.3g}",
            rule="audit",
        )
    order = np.argsort(values, kind="stable")
    inside, outside = order[values.size - (guesses + 1) // 2 :], order[: guesses // 2]
    correct = int(coins[inside].sum()) + int((~coins[outside]).sum())
    return OneRunResult(
        epsilon_lower=one_run_epsilon(
            canaries=values.size,
            guesses=guesses,
            correct=correct,
            delta=delta,
            alpha=false_alarm,
        ),
        claimed_epsilon=claimed,
        delta=delta,
        p_value=_p_value(values.size, guesses, correct, claimed, delta),
        false_alarm=false_alarm,
        canaries=values.size,
        guesses=guesses,
        correct=correct,
    )


def _check_guesses(canaries: int, guesses: int, correct: int) -> None:
    check_count(correct, "correct")
    check_count(guesses, "guesses", max(1, correct))
    check_count(canaries, "canaries", guesses)


def _p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    if correct == 0:
        return 1.0
    functions = special()
    # 1 - q, which stays exact where q is nearly 1.
    wrong = 1.0 / (1.0 + math.exp(min(epsilon, 700.0)))
    right = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(functions.betainc(correct, guesses - correct + 1.0, right))
    if delta == 0.0:
        return min(1.0, beta)
    hit = np.arange(correct, dtype=np.float64)
    log_mass = (
        functions.gammaln(guesses + 1.0)
        - functions.gammaln(hit + 1.0)
        - functions.gammaln(guesses - hit + 1.0)
        + hit * math.log(right)
        + (guesses - hit) * math.log(wrong)
    )
    # Entry i - 1 is P(v > B >= v - i) / i.
    slopes: Reals = np.cumsum(np.exp(log_mass)[::-1]) / np.arange(1.0, correct + 1.0)
    return min(1.0, beta + 2.0 * canaries * delta * float(slopes.max()))
