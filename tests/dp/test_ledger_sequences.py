"""Any sequence of charges against an oracle that adds up Gaussians and imports nothing of ours."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from dp.ledger_world import noisy_plan, tag
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.dp.ledger import Ledger

#: Plan -> shift over standard deviation of its worst sum: 5 coordinates of up to 255, and the
#: noise of the sites less one dropout less one colluding.
PLANS = {
    noisy_plan(): 255 * math.sqrt(5) / math.sqrt(5 * 16_000_000),
    noisy_plan(9): 255 * math.sqrt(5) / math.sqrt(7 * 16_000_000),
    noisy_plan(length=2): 255 * math.sqrt(2) / math.sqrt(5 * 16_000_000),
    noisy_plan(variance=4_000_000): 255 * math.sqrt(5) / math.sqrt(5 * 4_000_000),
}
DATA = ("", "trial 7")


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian shifted by ``mu`` standard deviations (Balle and Wang, ICML 2018)."""
    normal = NormalDist().cdf
    low, high = 0.0, 100.0
    for _ in range(200):
        epsilon = (low + high) / 2
        found = normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal(-mu / 2 - epsilon / mu)
        low, high = (epsilon, high) if found > delta else (low, epsilon)
    return high


class Oracle:
    """What a ledger is to do, in sums of squares."""

    def __init__(self) -> None:
        self.squares = dict.fromkeys(DATA, 0.0)
        self.rounds: dict[str, set[int]] = {data: set() for data in DATA}

    def total(self, data: str, more: float, delta: float) -> float:
        mu = math.sqrt(self.squares[data] + more**2)
        return gaussian_epsilon(mu, delta) if mu else 0.0

    def charge(self, data: str, round: int, mu: float, epsilon: float, delta: float) -> bool:
        """Whether the input may be sent."""
        if round in self.rounds[data]:
            return True
        if self.total(data, mu, delta) > epsilon:
            return False
        self.squares[data] += mu**2
        self.rounds[data].add(round)
        return True


CHARGE = st.tuples(
    st.sampled_from(DATA),
    st.integers(0, 12),
    st.sampled_from(list(PLANS)),
    st.sampled_from((0.2, 0.55, 1.05)),
    st.sampled_from((1e-5, 1e-8)),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(CHARGE, max_size=25))
def test_any_sequence_of_charges(charges: list[tuple[str, int, Any, float, float]]) -> None:
    """Budgets change as their owner likes, ledgers are made anew, rounds are repeated."""
    journal, oracle = secagg.MemoryJournal(), Oracle()
    for data, number, plan, epsilon, delta in charges:
        kept = Ledger(journal, "s0", data=data, epsilon=epsilon, delta=delta)
        before = dict(journal._registers)
        afforded = kept.affords(plan)
        known = number in oracle.rounds[data]
        expected = oracle.charge(data, number, PLANS[plan], epsilon, delta)
        try:
            kept.charge(plan, tag(number))
        except secagg.BudgetError as error:
            assert error.rule == "budget"
            assert not expected
        else:
            assert expected
        assert known or afforded == expected
        if known or not expected:
            assert journal._registers == before
        total = oracle.total(data, 0.0, delta)
        assert abs(kept.spent() - total) <= 1e-5 * max(1.0, total)
        assert sum(rounds for _, rounds in kept.entries()) == len(oracle.rounds[data])
