"""Chi-square goodness of fit of noise against exact probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from secagg_protocols.errors import MisuseError

from .laws import Histogram, NoiseSum, Reals
from .report import FALSE_ALARM, Verdict, check_count, check_probability, special

#: Expected count of the outermost bins, and of the others at least.
_LEAST_EXPECTED: Final = 40.0
#: The limit law understates the far tail by less than this factor: at one in a million by 2 with 5
#: bins of 60 expected counts, by less with more (simulated, 10^6 to 10^7 samples each).
_MARGIN: Final = 2.5
_MOST_BINS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """Result of :func:`fit_test`.

    statistic: Pearson's X^2 over ``bins`` bins of ``samples`` integers. high: X^2 is at most that
    in a correct build, with probability 1 - false_alarm. p_value: one-sided.
    """

    statistic: float
    high: float
    p_value: float
    false_alarm: float
    bins: int
    samples: int
    test: Literal["fit"] = "fit"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where X^2 is above ``high``."""
        return "violates" if self.statistic > self.high else "consistent"

    def sentence(self) -> str:
        """X^2 against its limit."""
        return (
            f"X^2 {self.statistic:.1f} over {self.bins} bins of {self.samples} coordinates "
            f"(at most {self.high:.1f} in a correct build; p {self.p_value:.2g}, "
            f"false alarms {self.false_alarm:.3g})"
        )


def fit_test(
    samples: Any,
    law: NoiseSum | Histogram,
    *,
    false_alarm: float = FALSE_ALARM,
    most_bins: int = _MOST_BINS,
) -> FitResult:
    """Compare independent integers, in levels, of any shape, with their law bin by bin.

    Neighbouring bins are pooled until each expects the square root of the number of samples and
    1 / ``most_bins`` of them (40 at least, which is enough at the ends), so that X^2 nearly follows
    its limit law far out. It is compared, at 0.4 of the rate, with the multiple of a chi-square
    that has its exact mean and variance, k - 1 and 2 (k - 1) + (sum 1 / p_i - k^2 - 2 k + 2) / n.

    Raises :class:`~secagg.MisuseError` for too few samples, and for probabilities of which more
    than 1e-9 is missing.
    """
    check_probability(false_alarm, "false_alarm")
    check_count(most_bins, "most_bins", 2)
    histogram = law.histogram if isinstance(law, NoiseSum) else law
    missing = 1.0 - float(histogram.probabilities.sum())
    if abs(missing) > 1e-9 or float(histogram.probabilities.min()) < 0.0:
        raise MisuseError("the probabilities of the law add up to 1", rule="audit")
    counts = histogram.counts(samples)
    total = int(counts.sum())
    expected = histogram.probabilities * (total / (1.0 - missing))
    starts = _pool(expected, max(_LEAST_EXPECTED, math.sqrt(total), total / most_bins))
    if starts.size < 2:
        raise MisuseError(f"{total} samples are too few for two bins of this law", rule="audit")
    observed = np.add.reduceat(counts, starts).astype(np.float64)
    expected = np.add.reduceat(expected, starts)
    statistic = float((((observed - expected) ** 2) / expected).sum())
    k = starts.size
    mean = k - 1.0
    variance = 2.0 * mean + float((1.0 / expected).sum()) - (k * k + 2.0 * k - 2.0) / total
    factor, shape = variance / (2.0 * mean), mean * mean / variance
    functions = special()
    return FitResult(
        statistic=statistic,
        high=2.0 * factor * float(functions.gammainccinv(shape, false_alarm / _MARGIN)),
        p_value=min(1.0, _MARGIN * float(functions.gammaincc(shape, statistic / (2.0 * factor)))),
        false_alarm=false_alarm,
        bins=k,
        samples=total,
    )


def _pool(expected: Reals, enough: float) -> npt.NDArray[np.int64]:
    """First bin of every pool; those at the ends expect _LEAST_EXPECTED at least."""
    cumulated = np.concatenate([[0.0], np.cumsum(expected)])
    total = float(cumulated[-1])
    # The last pool begins where just enough is left for it.
    last = int(np.searchsorted(cumulated, total - _LEAST_EXPECTED, side="right")) - 1
    starts, need = [0], _LEAST_EXPECTED
    while True:
        following = int(np.searchsorted(cumulated, cumulated[starts[-1]] + need))
        if following > last:
            break
        starts.append(following)
        need = enough
    if len(starts) > 1:
        # What is left between the last whole pool and the tail joins that pool.
        starts[-1] = last
    return np.asarray(starts, dtype=np.int64)
