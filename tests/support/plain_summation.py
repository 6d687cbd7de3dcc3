"""The interface of the demonstrations without any protection: what the secure one is held to."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from secagg.sim.summing import Array, SiteSum


class PlainSummation:
    """`Summation` without any protection: integers added in one process, for tests and references.

    drop: round label -> sites lost in that round. A lost site stays out of all later rounds
        (an analysis of fixed data keeps one survivor set) unless `rejoin` is true, as in training.
    quantise: round reals to the nearest multiple of `resolution`, as the secure sum does; off, the
        sum is plain floating point.

    `labels` lists the rounds that were run, in order.
    """

    def __init__(
        self,
        *,
        drop: Mapping[str, Collection[str]] | None = None,
        rejoin: bool = False,
        quantise: bool = True,
    ) -> None:
        self._drop = {label: frozenset(sites) for label, sites in (drop or {}).items()}
        self._rejoin = rejoin
        self._quantise = quantise
        self._gone: frozenset[str] = frozenset()
        self.labels: list[str] = []

    def counts(self, vectors: Mapping[str, Array], *, high: int, label: str) -> SiteSum:
        """See `Summation.counts`; ValueError for another dtype, bound, shape, or no survivor."""
        for vector in vectors.values():
            if not np.issubdtype(vector.dtype, np.integer):
                raise ValueError("counts must be integers")
            if vector.size and (vector.min() < 0 or vector.max() > high):
                raise ValueError(f"a count is outside 0..{high}")
        return self._add({s: v.astype(np.int64) for s, v in vectors.items()}, label)

    def reals(
        self,
        vectors: Mapping[str, Array],
        *,
        clip: float,
        resolution: float,
        label: str,
        model: bytes = b"",
    ) -> SiteSum:
        """See `Summation.reals`; ValueError for a bound, NaN, shape, or no survivor."""
        self._check_reals(vectors, clip)
        return self._add_reals(vectors, resolution, label)

    def weighted_mean(
        self,
        vectors: Mapping[str, Array],
        weights: Mapping[str, int],
        *,
        clip: float,
        resolution: float,
        max_weight: int,
        label: str,
        model: bytes = b"",
    ) -> tuple[Array, SiteSum]:
        """See `Summation.weighted_mean`; ValueError also for a weight outside 1..max_weight."""
        self._check_reals(vectors, clip)
        if not all(1 <= weights[site] <= max_weight for site in vectors):
            raise ValueError(f"a weight is outside 1..{max_weight}")
        weighted = {site: vector * weights[site] for site, vector in vectors.items()}
        summed = self._add_reals(weighted, resolution, label)
        summed = summed._replace(weight=sum(weights[site] for site in summed.survivors))
        return summed.total / summed.weight, summed

    @staticmethod
    def _check_reals(vectors: Mapping[str, Array], clip: float) -> None:
        for vector in vectors.values():
            # Written so that a NaN, which compares false, is refused as well.
            if not bool(np.all(np.abs(vector) <= clip)):
                raise ValueError(f"a coordinate is not within ±{clip:g}")

    def _add_reals(self, vectors: Mapping[str, Array], resolution: float, label: str) -> SiteSum:
        if not self._quantise:
            return self._add(vectors, label)
        levels = {s: np.rint(v / resolution).astype(np.int64) for s, v in vectors.items()}
        summed = self._add(levels, label)
        return summed._replace(total=summed.total * resolution)

    def _add(self, vectors: Mapping[str, Array], label: str) -> SiteSum:
        self.labels.append(label)
        lost = self._drop.get(label, frozenset())
        self._gone = lost if self._rejoin else self._gone | lost
        survivors = tuple(site for site in vectors if site not in self._gone)
        if not survivors:
            raise ValueError("no site is left in the sum")
        if len({vectors[site].shape for site in survivors}) != 1:
            raise ValueError("the sites' vectors differ in shape")
        total = np.sum([vectors[site] for site in survivors], axis=0)
        return SiteSum(np.asarray(total), survivors, len(survivors))
