"""Intervals and tests, against SciPy and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secagg.attacks import statistics as s
from secagg.attacks.finding import ControlRun, Finding, Measure, Verdict


@pytest.mark.parametrize("case", [(0, 3000), (1, 10), (5, 10), (10, 10), (37, 400), (2999, 3000)])
def test_clopper_pearson_is_scipys(case: tuple[int, int]) -> None:
    successes, trials = case
    exact = stats.binomtest(successes, trials).proportion_ci(0.99, method="exact")
    assert s.clopper_pearson(successes, trials) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_no_success_in_three_thousand_is_below_two_in_a_thousand() -> None:
    assert s.clopper_pearson(0, 3000, 0.95)[1] == pytest.approx(0.00123, abs=1e-5)
    with pytest.raises(ValueError, match="at least one trial"):
        s.clopper_pearson(1, 0)


@pytest.mark.parametrize("case", [(3, 20, 0.1), (0, 5, 0.5), (5, 5, 0.5), (6, 5, 0.5), (1, 9, 0.0)])
def test_binomial_tail_is_scipys(case: tuple[int, int, float]) -> None:
    k, n, p = case
    assert s.binomial_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), abs=1e-12)


def test_a_law_that_holds_passes_and_one_that_does_not_fails() -> None:
    assert s.consistent(66, 1000, 0.0659)
    assert not s.consistent(120, 1000, 0.0659)
    assert s.consistent(0, 100, 0.0) and not s.consistent(1, 100, 0.0)
    assert s.within(60.6, 60.2, 0.2)
    assert not s.within(70.0, 60.2, 0.2)


def test_area_and_curve_agree() -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(1, 1, 400), rng.normal(0, 1, 300)
    area, error = s.auc(inside, outside)
    exact = stats.mannwhitneyu(inside, outside).statistic / (400 * 300)
    assert area == pytest.approx(exact)
    assert abs(area - stats.norm.cdf(1 / np.sqrt(2))) < 4 * error
    false, true = s.roc(inside, outside)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(area)
    assert s.auc([1, 1], [1, 1])[0] == 0.5
    with pytest.raises(ValueError, match="both kinds"):
        s.auc([], [1])


def _finding(**changes: object) -> Finding:
    good = ControlRun(overrides=("client.x",), trials=3, successes=3)
    fields: dict[str, object] = {
        "verdict": Verdict.PREVENTED,
        "tried": "",
        "seen": "",
        "trials": 3,
        "stopped_by": ("client.x",),
        "controls": [good],
    }
    return Finding(**(fields | changes))  # type: ignore[arg-type]


def test_a_finding_knows_what_is_wrong_with_it() -> None:
    assert _finding().problems(Verdict.PREVENTED) == []
    assert "expected leaks" in _finding().problems(Verdict.LEAKS)[0]
    for bad, text in (
        (_finding(stopped_by=()), "nothing is named that stopped it"),
        (_finding(verdict=Verdict.LEAKS), "nothing shows what leaked"),
        (_finding(bounded=True), "no measure is below a bound"),
        (_finding(controls=[]), "no control succeeded"),
        (_finding(successes=1), "1 of 3 attempts succeeded"),
        (_finding(trials=0), "nothing was tried"),
        (
            _finding(
                controls=[
                    ControlRun(overrides=("client.x",), trials=3, successes=3),
                    ControlRun(overrides=("client.y",), trials=3, successes=0),
                ]
            ),
            "without client.y should succeed",
        ),
        (
            _finding(
                controls=[
                    ControlRun(overrides=("a", "b"), trials=3, successes=3),
                    ControlRun(overrides=("a",), trials=3, successes=1, expected=False),
                ]
            ),
            "without a should fail",
        ),
    ):
        assert any(text in problem for problem in bad.problems(Verdict.PREVENTED))
    inside = Measure(name="AUC", value=0.6, low=0.5, high=0.7, bound=0.88)
    wide = Measure(name="AUC", value=0.6, low=0.3, high=0.9, bound=0.88)
    for measure, holds in ((inside, True), (wide, False)):
        leak = _finding(verdict=Verdict.LEAKS, bounded=True, measures=[measure])
        assert (leak.problems(Verdict.LEAKS) == []) == holds
    # A leak is its own control.
    assert _finding(verdict=Verdict.LEAKS, successes=3, controls=[]).problems(Verdict.LEAKS) == []
