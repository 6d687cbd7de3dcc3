"""What a demonstration asks of a secure sum, and the same thing in the clear.

The demonstrations (`survival`, `training`) see a sum over sites only through `Summation`.
The simulator plugs the real protocol in; `PlainSummation` is the unprotected reference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _public(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_public(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


class AsDict:
    """Base of the demonstrations' frozen result dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values: arrays and tuples become lists."""
        return {f.name: _public(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


class SiteSum(NamedTuple):
    """What a secure sum gives back: the sum over the survivors and nothing about one site.

    total: float64[d] or int64[d], the (weighted) sum over the survivors.
    survivors: the sites in the sum, in the order of the caller's mapping.
    weight: the total weight, which is the number of survivors where weights are 1.
    """

    total: Array
    survivors: tuple[str, ...]
    weight: int


class Summation(Protocol):
    """One secure sum per call; a site may be lost in any of them.

    Every method takes one vector per site, all of one shape, and a label that names the round in
    schedules and reports. A vector that breaks its bound is refused (`ValueError` or the
    protocol's own error), never clipped silently: clipping is the caller's decision.
    """

    def counts(self, vectors: Mapping[str, Array], *, high: int, label: str) -> SiteSum:
        """Sum integer vectors with 0 <= x <= high in every coordinate, exactly; total is int64."""
        ...

    def reals(
        self,
        vectors: Mapping[str, Array],
        *,
        clip: float,
        resolution: float,
        label: str,
        model: bytes = b"",
    ) -> SiteSum:
        """Sum real vectors with |x| <= clip, each quantised in steps of at most `resolution`.

        model: the bytes that the server broadcast and the vectors answer to.
        """
        ...

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
        """Mean of vectors with |x| <= clip under integer weights 1..max_weight.

        A site multiplies by its weight and then quantises once in steps of at most `resolution`,
        so each site moves the mean by at most resolution / total weight. Returns
        (mean float64[d], the weighted sum).
        """
        ...


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
