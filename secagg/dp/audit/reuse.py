"""Reuse tests: are noises that should be independent related?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from secagg_protocols.errors import MisuseError

from .report import FALSE_ALARM, Verdict, check_integers, check_probability

#: Most coordinates of a vector that are compared with each other.
_MOST_LAGS: Final = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseResult:
    """Result of :func:`reuse_test`.

    statistic: correlation, sum x_i y_i / (|x| |y|): 1 where one noise was used twice, k / n where
    k of n equal sites did so. high: its absolute value is at most that in a correct build.
    p_value: an upper bound of the two-sided one.
    """

    statistic: float
    high: float
    p_value: float
    false_alarm: float
    coordinates: int
    test: Literal["reuse"] = "reuse"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where the correlation is above ``high`` on either side."""
        return "violates" if abs(self.statistic) > self.high else "consistent"

    def sentence(self) -> str:
        """Correlation against its limit."""
        return (
            f"correlation {self.statistic:+.4f} over {self.coordinates} coordinates "
            f"(within {self.high:.4f} in a correct build; p <= {self.p_value:.2g}, "
            f"false alarms {self.false_alarm:.3g})"
        )


def reuse_test(first: Any, second: Any, *, false_alarm: float = FALSE_ALARM) -> ReuseResult:
    """Correlate two noise vectors (of two rounds, two sites, two tiles), in levels, one shape.

    Where they are independent and one of them has coordinates that are symmetric and independent,
    sum x_i y_i is, given all absolute values, a sum of terms with random signs, so that
    P(|sum| > t sqrt(sum x_i^2 y_i^2)) <= 2 exp(-t^2 / 2) (Hoeffding, 1963, Theorem 2): for any
    law of the noise and any number of coordinates.
    """
    check_probability(false_alarm, "false_alarm")
    x = check_integers(first, "first").astype(np.float64)
    y = check_integers(second, "second").astype(np.float64)
    if x.shape != y.shape:
        raise MisuseError("two vectors of one length are compared", rule="audit")
    norms = math.sqrt(float(np.dot(x, x)) * float(np.dot(y, y)))
    products = x * y
    scale = math.sqrt(float(np.dot(products, products)))
    if scale == 0.0:
        # Nothing overlaps, so nothing is related.
        statistic, high, p_value = 0.0, 0.0, 1.0
    else:
        total = float(products.sum())
        statistic = total / norms
        high = math.sqrt(2.0 * math.log(2.0 / false_alarm)) * scale / norms
        p_value = min(1.0, 2.0 * math.exp(-0.5 * (total / scale) ** 2))
    return ReuseResult(
        statistic=statistic,
        high=high,
        p_value=p_value,
        false_alarm=false_alarm,
        coordinates=x.size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatResult:
    """Result of :func:`repeat_test`.

    statistic: the largest of the scaled autocorrelations |sum x_i x_(i + lag)| / sqrt(sum
    x_i^2 x_(i + lag)^2), found at ``lag``, of ``coordinates`` - 1 lags. high: it is at most that
    in a correct build. p_value: an upper bound.
    """

    statistic: float
    lag: int
    high: float
    p_value: float
    false_alarm: float
    coordinates: int
    test: Literal["repeat"] = "repeat"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where a lag's autocorrelation is above ``high``."""
        return "violates" if self.statistic > self.high else "consistent"

    def sentence(self) -> str:
        """The largest autocorrelation against its limit."""
        return (
            f"largest of {self.coordinates - 1} autocorrelations {self.statistic:.2f} deviations, "
            f"at lag {self.lag} (within {self.high:.2f} in a correct build; "
            f"p <= {self.p_value:.2g}, false alarms {self.false_alarm:.3g})"
        )


def repeat_test(samples: Any, *, false_alarm: float = FALSE_ALARM) -> RepeatResult:
    """Whether one noise vector, in levels, repeats itself at any lag: a stream begun anew.

    For independent symmetric coordinates the signs of x_i x_(i + lag), i = 0, 1, ..., are
    independent too, so the bound of :func:`reuse_test` holds at every lag, and all lags share the
    rate. Of a long vector the first 2^21 coordinates are looked at.
    """
    check_probability(false_alarm, "false_alarm")
    x = check_integers(samples).astype(np.float64)[:_MOST_LAGS]
    if x.size < 2:
        raise MisuseError("a vector of two coordinates at least", rule="audit")
    x /= max(1.0, float(np.abs(x).max()))
    size = 1 << (2 * x.size - 1).bit_length()

    def correlate(values: Any) -> Any:
        transform = np.fft.rfft(values, size)
        return np.fft.irfft(transform * transform.conj(), size)[1 : x.size]

    # Rounding of the transform is far below one term of a sum that has any.
    scale = correlate(x * x)
    some = scale > 1e-9 * float(np.dot(x * x, x * x))
    ratios = np.abs(correlate(x)) / np.sqrt(np.where(some, scale, 1.0))
    ratios[~some] = 0.0
    best = int(ratios.argmax())
    statistic = float(ratios[best])
    return RepeatResult(
        statistic=statistic,
        lag=best + 1,
        high=math.sqrt(2.0 * math.log(2.0 * ratios.size / false_alarm)),
        p_value=min(1.0, 2.0 * ratios.size * math.exp(-0.5 * statistic**2)),
        false_alarm=false_alarm,
        coordinates=x.size,
    )
