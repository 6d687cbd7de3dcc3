"""Claim check: does the accountant find what the plan claims?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secagg.dp import accounting
from secagg.dp.mechanisms import Mechanism

from .report import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """Result of :func:`claim_check`; nothing is random, so a correct plan is never accused.

    epsilon_found: the accountant's, over ``rounds`` rounds at ``delta``, for the plan's own
    stages. claimed_epsilon: what the plan says.
    """

    epsilon_found: float
    claimed_epsilon: float
    delta: float
    rounds: int
    sampling_rate: float
    false_alarm: float = 0.0
    test: Literal["claim"] = "claim"

    @property
    def verdict(self) -> Verdict:
        """``"violates"`` where the accountant finds more than is claimed."""
        # The same numbers in another order of operations differ in their last digits.
        over = self.epsilon_found > self.claimed_epsilon * (1.0 + 1e-9)
        return "violates" if over else "consistent"

    def sentence(self) -> str:
        """Found against claimed epsilon."""
        return (
            f"the accountant finds epsilon {self.epsilon_found:.6g} for the plan's stages, claimed "
            f"{self.claimed_epsilon:.6g} (delta {self.delta:.3g}, {self.rounds} rounds, "
            f"sampling rate {self.sampling_rate:g})"
        )


def claim_check(
    mechanism: Mechanism, *, epsilon: float, delta: float, rounds: int, sampling_rate: float
) -> ClaimResult:
    """Compare a claimed ``epsilon`` over all rounds with the accountant's for ``mechanism``."""
    return ClaimResult(
        epsilon_found=accounting.epsilon(
            mechanism, delta=delta, rounds=rounds, sampling_rate=sampling_rate
        ),
        claimed_epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        sampling_rate=sampling_rate,
    )
