"""What a demonstration asks of a secure sum, and the same thing in the clear.

The demonstrations (`survival`, `training`) see a sum over sites only through `Summation`.
The simulator plugs the real protocol in; the tests have an unprotected reference.
"""

from __future__ import annotations

from collections.abc import Mapping
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
