"""What a simulation writes down: rounds, and the exchanges that they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secagg.session.costs import exchange_bytes, slots
from secagg.session.messages import Slot
from secagg.sim.summing import AsDict
from secagg_protocols.paillier_sum.costs import round_cost as paillier_cost
from secagg_protocols.plan import PaillierSum, Plan

COLD, WARM = "cold", "warm"


@dataclass(frozen=True, slots=True)
class ExchangeRecord(AsDict):
    """One exchange of a session, over all sites: an order to each site and a report back.

    exchange: its number in the session; step: what it asks for (``advertise`` ... ``reveal``,
    then ``finish`` and ``close`` at the end of a session). senders: sites whose report came;
    gone: sites that fell silent here (not those that were silent before). site_bytes: bytes of
    the reports; server_bytes: bytes of the orders that were heard; seconds: since the exchange
    before, all parties together. sender: who reports; in a Paillier sum holders answer at the
    reveal, and what the server sends goes to holders and sites.
    """

    exchange: int
    step: str
    senders: int
    gone: tuple[str, ...]
    site_bytes: int
    server_bytes: int
    seconds: float
    sender: str = "site"

    @property
    def total_bytes(self) -> int:
        """Bytes in both directions."""
        return self.site_bytes + self.server_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord(AsDict):
    """One round: what happened, what it cost, and whether the sum is right.

    sites: sites that had a vector. start: ``warm`` where the round before had carried this one's
    adverts and shares, else ``cold``, and why. survivors: sites in the sum; dropped: sites of the
    roster that are not, with the first step that the server missed; left: survivors that left
    after their input was counted. sat_out: sites that were there, but had missed the adverts or
    shares of this round; returned: sites in this sum that were not in the one before; refused:
    sites whose own rules said no, and why. alone: exchanges that the round would take if it shared
    none with its neighbours. error: largest difference from the plain sum over the
    survivors, in units of the vector (0 means exact); bound: the largest that quantisation
    allows, 0 for integers. planned: bytes that the plan foresees for one site, sent and received,
    where nobody is missing in this round and the one before, which ``undisturbed`` tells;
    planned_total: of all parties. holders: holders of a Paillier sum, with ``threshold`` the
    shares that open it, and ``ciphertexts`` of a vector. aborted: why the round has no result.
    """

    number: int
    label: str
    start: str
    why: str
    sites: int
    length: int
    bits: int
    threshold: int
    neighbours: int
    plan: str
    survivors: tuple[str, ...]
    dropped: dict[str, str]
    left: dict[str, str]
    sat_out: tuple[str, ...]
    returned: tuple[str, ...]
    refused: dict[str, str]
    weight: int
    exchanges: tuple[ExchangeRecord, ...]
    alone: int
    seconds: float
    planned: int
    planned_total: int
    undisturbed: bool
    error: float
    bound: float
    aborted: str | None = None
    holders: int = 0
    ciphertexts: int = 0

    @property
    def holds(self) -> bool:
        """Whether the sum over the survivors is the plain one, within the bound."""
        return self.aborted is None and self.error <= self.bound

    @property
    def total_bytes(self) -> int:
        """All bytes of the round, both directions."""
        return sum(exchange.total_bytes for exchange in self.exchanges)

    @property
    def gone(self) -> dict[str, str]:
        """Sites that fell silent in this round, with the exchange in which they did."""
        return {
            site: entry.step
            for entry in self.exchanges
            if entry.sender == "site"
            for site in entry.gone
        }

    @property
    def silent_holders(self) -> tuple[str, ...]:
        """Holders that did not answer in this round."""
        return tuple(
            name for entry in self.exchanges if entry.sender == "holder" for name in entry.gone
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the fields, and who fell silent when."""
        silent = list(self.silent_holders)
        return {**AsDict.to_dict(self), "gone": self.gone, "silent_holders": silent}


def planned_bytes(
    plan: Plan, number: int, exchanges: Sequence[ExchangeRecord], *, last: bool
) -> int:
    """Bytes that one site sends and receives in a session's round ``number`` (from 0) of these
    exchanges, exact where nobody is missing in it and in the round before. ``last``: it prepared
    no other."""
    if isinstance(plan.protocol, PaillierSum):
        return paillier_cost(plan).site_total
    total = 0
    for place, entry in enumerate(exchanges):
        # The result of a round travels with the next order, what the sites signed of it with the
        # order after that.
        cost = exchange_bytes(
            plan,
            Slot[entry.step.upper()],
            exchange=entry.exchange,
            round=number,
            result=number > 0 and place == 0,
            agreed=number > 0 and place == 1 and plan.signed,
            last=last,
        )
        total += cost.order + cost.report
    return total


def alone(plan: Plan) -> int:
    """Exchanges of a round of ``plan`` that shares none with another round."""
    if isinstance(plan.protocol, PaillierSum):
        return 2  # sites send, holders answer
    return len(slots(plan, cold=True))


__all__ = ["COLD", "WARM", "ExchangeRecord", "RoundRecord", "alone", "planned_bytes"]
