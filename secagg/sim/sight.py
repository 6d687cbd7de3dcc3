"""What the server saw of the sites' vectors, and whether it can be told from uniform bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from secagg.sim.summing import Array, AsDict
from secagg_native import pack, unpack
from secagg_protocols.masked_sum.messages import trailer_size
from secagg_protocols.paillier_sum.messages import ciphertext_size, input_size, layout_of
from secagg_protocols.plan import Plan
from secagg_protocols.result import ring_size
from secagg_protocols.wire import Buffer

#: A p value below this is no accident: one honest run in a billion falls below it.
SIGNIFICANCE = 1e-9
#: Coordinates kept for tables, figures and attacks; more would only hold memory.
_MOST_HELD = 1 << 18
_ENOUGH = 5  # Expected count per bin from which the chi-square law is a good approximation.


@dataclass(frozen=True, slots=True)
class Uniformity(AsDict):
    """Pearson's chi-square test of bytes (or half bytes, where there are few) against uniform.

    count: how many values were counted; bins: 256 for bytes, 16 for half bytes; statistic:
    chi-square with bins - 1 degrees of freedom; p_value: chance of a statistic as large, or
    larger, from uniform bytes.
    """

    count: int
    bins: int
    statistic: float
    p_value: float

    @property
    def uniform(self) -> bool:
        """Whether the bytes pass as uniform at :data:`SIGNIFICANCE`."""
        return self.p_value >= SIGNIFICANCE

    @property
    def p_text(self) -> str:
        """The p value for people."""
        return f"{self.p_value:.2g}" if self.p_value > 1e-300 else "< 1e-300"


def uniformity(histogram: Array) -> Uniformity | None:
    """Test of a histogram of byte values, int64[256]; ``None`` where there are fewer than 40."""
    total = int(histogram.sum())
    counts = histogram.astype(np.float64)
    if total < 256 * _ENOUGH:
        high, low = counts.reshape(16, 16).sum(axis=1), counts.reshape(16, 16).sum(axis=0)
        counts, total = high + low, 2 * total
    if total < counts.size * _ENOUGH:
        return None
    expected = total / counts.size
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return Uniformity(total, counts.size, statistic, chi_square_tail(statistic, counts.size - 1))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Chance that a chi-square variable of ``freedom`` degrees exceeds ``statistic``.

    The regularised incomplete gamma function Q(freedom / 2, statistic / 2): its series below the
    mean, Lentz's continued fraction above it (Numerical Recipes, 6.2).
    """
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1:
        term = total = 1.0 / a
        for k in range(1, 100_000):
            term *= x / (a + k)
            total += term
            if term < total * 1e-16:
                break
        return max(0.0, 1.0 - math.exp(scale) * total)
    b, c = x + 1.0 - a, 1e300
    d = fraction = 1.0 / b
    for k in range(1, 100_000):
        step = -k * (k - a)
        b += 2.0
        d = 1.0 / (step * d + b)
        c = b + step / c
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return min(1.0, math.exp(scale) * fraction)


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One site's vector in one round: the masked words and the true ones.

    words: uint64[d], what the server received; truth: int64[d], the integers before masking;
    bits: of a word. ciphertext: the words are those of ciphertexts with many coordinates each.
    """

    site: str
    label: str
    bits: int
    words: Array
    truth: Array
    ciphertext: bool = False

    def to_dict(self, count: int = 8) -> dict[str, object]:
        """JSON-able: the first ``count`` coordinates that are not zero in truth, or the first."""
        shown = self.interesting(count)
        return {
            "site": self.site,
            "round": self.label,
            "bits": self.bits,
            "coordinates": [int(i) for i in shown],
            "true_values": [int(self.truth[i]) for i in shown],
            "masked_words": [int(self.words[i]) for i in shown],
        }

    def interesting(self, count: int) -> Array:
        """Indices of up to ``count`` coordinates; those that are not zero come first.

        Of ciphertexts, the first coordinate of each.
        """
        if self.ciphertext:
            return np.sort(np.unique(self.words, return_index=True)[1])[:count]
        order = np.argsort(self.truth == 0, kind="stable")[:count]
        return np.sort(order)


class Sight:
    """Collects what the server receives at the input step, with the truth beside it.

    Only a simulation can do this: it holds both ends. ``masked`` and ``true`` are histograms of
    byte values over all sites and rounds, ``glimpses`` the vectors of the round with the longest.
    """

    def __init__(self) -> None:
        self.masked = np.zeros(256, dtype=np.int64)
        self.true = np.zeros(256, dtype=np.int64)
        self.glimpses: list[Glimpse] = []

    def see(
        self, plan: Plan, label: str, site: str, frame: Buffer, vector: Array, weight: int
    ) -> None:
        """Take one masked input as it travelled, and the vector that its site put in.

        The truth is encoded a second time; where a plan rounds at random, it may be off by one
        level.
        """
        bits, length = plan.wire_bits, plan.ring_length
        end = memoryview(frame).nbytes - trailer_size(plan)
        tail = memoryview(frame)[end - ring_size(plan) : end]
        words = np.zeros(length, dtype=plan.lane)
        unpack(tail, bits, words)
        truth = np.empty(length, dtype=np.int64)
        plan.pipeline.begin(vector, weight, lambda: bytes(32)).tile(truth, 0)
        packed = bytearray(ring_size(plan))
        pack(truth.astype(plan.lane), bits, packed)
        # The last byte may hold unused bits, which are zero by rule and not random.
        whole = length * bits // 8
        self.masked += _histogram(tail[:whole])
        self.true += _histogram(packed[:whole])
        self._keep(Glimpse(site, label, bits, words.astype(np.uint64), truth))

    def see_ciphertexts(
        self, plan: Plan, label: str, site: str, frame: Buffer, vector: Array, weight: int
    ) -> None:
        """The same for an input of a Paillier sum; a coordinate's word is its ciphertext's lowest.

        The top word of each ciphertext is not counted: it lies below that of n^2, so it is not
        uniform whatever is encrypted.
        """
        layout, size = layout_of(plan), ciphertext_size(plan)
        end = memoryview(frame).nbytes - trailer_size(plan)
        start = end - input_size(plan)
        data = memoryview(frame)[start : start + layout.rows * size]
        rows = np.frombuffer(data, dtype="<u8").reshape(layout.rows, size // 8)
        truth = np.empty(layout.length, dtype=np.int64)
        plan.pipeline.begin(vector, weight, lambda: bytes(32)).tile(truth, 0)
        packed = bytearray(ring_size(plan))
        pack(truth.astype(plan.lane), plan.wire_bits, packed)
        self.masked += _histogram(np.ascontiguousarray(rows[:, :-1]).view(np.uint8).ravel().data)
        self.true += _histogram(packed[: layout.length * plan.wire_bits // 8])
        words = np.repeat(rows[:, 0], layout.slots)[: layout.length]
        self._keep(Glimpse(site, label, 64, words.astype(np.uint64), truth, ciphertext=True))

    def _keep(self, glimpse: Glimpse) -> None:
        truth, label = glimpse.truth, glimpse.label
        if not self.glimpses or truth.size > self.glimpses[0].truth.size:
            self.glimpses = [glimpse]
        elif label == self.glimpses[0].label and self._held < _MOST_HELD:
            self.glimpses.append(glimpse)

    @property
    def _held(self) -> int:
        return sum(glimpse.truth.size for glimpse in self.glimpses)

    @property
    def seen(self) -> Uniformity | None:
        """The test on the bytes that the server received."""
        return uniformity(self.masked)

    @property
    def control(self) -> Uniformity | None:
        """The same test on the true values, packed the same way: it has to fail."""
        return uniformity(self.true)


def _histogram(data: memoryview | bytearray) -> Array:
    counts: Array = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    return counts


__all__ = ["SIGNIFICANCE", "Glimpse", "Sight", "Uniformity", "chi_square_tail", "uniformity"]
