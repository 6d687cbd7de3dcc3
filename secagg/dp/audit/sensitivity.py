"""Sensitivity check: is a site's integer vector ever longer than the noise was made for?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secagg_protocols.errors import MisuseError

from .report import Verdict, check_integers


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityResult:
    """Result of :func:`sensitivity_check`. Norms are in levels; a correct build is never accused.

    l1, l2: largest norms of ``vectors`` encoded vectors. claimed_l1, claimed_l2: what the plan's
    noise counts on for one site, ``None`` where it does not count on that norm.
    """

    l1: float
    l2: float
    claimed_l1: float | None
    claimed_l2: float | None
    vectors: int
    false_alarm: float = 0.0
    test: Literal["sensitivity"] = "sensitivity"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where one vector was longer than claimed."""
        # A claim is a rounded real; norms are roots of whole numbers.
        room = 1.0 + 1e-12
        too_long = (self.claimed_l1 is not None and self.l1 > self.claimed_l1 * room) or (
            self.claimed_l2 is not None and self.l2 > self.claimed_l2 * room
        )
        return "violates" if too_long else "consistent"

    def sentence(self) -> str:
        """Largest against claimed norms."""
        parts = [
            f"{name} norm {found:.6g} of at most {claimed:.6g} levels"
            for name, found, claimed in (
                ("L1", self.l1, self.claimed_l1),
                ("L2", self.l2, self.claimed_l2),
            )
            if claimed is not None
        ]
        return f"{' and '.join(parts)} over {self.vectors} vectors"


def sensitivity_check(
    vectors: Iterable[Any], *, l1_levels: float | None = None, l2_levels: float | None = None
) -> SensitivityResult:
    """Compare norms of encoded vectors without noise, integers in levels, with the claims.

    ``l1_levels`` and ``l2_levels``: of one site's vector; half of the sensitivity under
    replace-one adjacency. At least one is given.
    """
    if l1_levels is None and l2_levels is None:
        raise MisuseError("a norm to compare with is needed", rule="audit")
    most_l1, most_l2, count = 0.0, 0.0, 0
    for vector in vectors:
        reals = np.abs(check_integers(vector, "encoded vectors")).astype(np.float64)
        most_l1 = max(most_l1, float(reals.sum()))
        most_l2 = max(most_l2, math.sqrt(float(np.dot(reals, reals))))
        count += 1
    if count == 0:
        raise MisuseError("at least one encoded vector is needed", rule="audit")
    return SensitivityResult(
        l1=most_l1, l2=most_l2, claimed_l1=l1_levels, claimed_l2=l2_levels, vectors=count
    )
