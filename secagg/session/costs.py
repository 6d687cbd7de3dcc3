"""Bytes of an exchange before it is run, exact where nobody drops out."""

from __future__ import annotations

from dataclasses import dataclass

from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.masked_sum.costs import round_cost
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.wire import DIGEST_SIZE, SIGNATURE_SIZE, Header, bitmap_size

from .messages import Agree, Agreed, Order, Part, Report, Slot


@dataclass(frozen=True, slots=True)
class ExchangeBytes:
    """Bytes of one exchange, for one site."""

    order: int
    report: int


def slots(plan: Plan, *, cold: bool) -> tuple[Slot, ...]:
    """The exchanges of one round, in order."""
    if isinstance(plan.protocol, PaillierSum):
        return (Slot.INPUT, Slot.REVEAL)
    start = (Slot.ADVERTISE, Slot.SHARE) if cold else ()
    consent = (Slot.CONSENT,) if plan.signed else ()
    return (*start, Slot.INPUT, *consent, Slot.REVEAL)


def exchange_bytes(
    plan: Plan,
    slot: Slot,
    *,
    exchange: int,
    round: int,
    result: bool,
    agreed: bool,
    last: bool = False,
    parameters: int = 0,
) -> ExchangeBytes:
    """Exact sizes of order and report for one site, in a session of masked sums in which nobody
    drops out.

    exchange, round: their numbers, which take more bytes as they grow. result: whether the
    order carries the result of the round before. agreed: whether it carries its agreements.
    last: whether the round was begun as the last one, so that no other is prepared.
    parameters: bytes of the round's parameters.
    """
    cost = {step.step: step for step in round_cost(plan).steps}
    n, t, digest = plan.clients, plan.protocol.share_threshold, bytes(DIGEST_SIZE)
    bitmap = bytes(bitmap_size(n))
    down: list[tuple[int, int]] = []
    up: list[tuple[int, int]] = []
    if agreed:
        tail = t * SIGNATURE_SIZE
        down.append((round - 1, inner.frame_size(plan, Agreed(round - 1, bitmap), tail)))
    if result:
        ended = round - 1
        down.append((ended, cost["reveal"].site_receives))
        if plan.signed:
            up.append((ended, inner.frame_size(plan, Agree(ended, digest), 0)))
    if slot == Slot.ADVERTISE:
        up.append((round, cost["advertise"].site_sends))
    if slot == Slot.SHARE:
        down.append((round, cost["advertise"].site_receives))
        up.append((round, cost["share"].site_sends))
    if slot == Slot.INPUT:
        down.append((round, cost["share"].site_receives))
        up += [(round, cost["input"].site_sends), (round + 1, cost["advertise"].site_sends)]
    if slot == Slot.CONSENT:
        down.append((round, cost["input"].site_receives))
        up.append((round, cost["consent"].site_sends))
    if slot == Slot.REVEAL:
        before = "consent" if plan.signed else "input"
        down.append((round, cost[before].site_receives))
        up.append((round, cost["reveal"].site_sends))
        if not last:
            down.append((round + 1, cost["advertise"].site_receives))
            up.append((round + 1, cost["share"].site_sends))
    model, given = (digest, bytes(parameters)) if slot == Slot.INPUT else (b"", b"")
    order = Order(exchange, int(slot), round, model, given, _parts(plan, down))
    sent = _bundle(plan, order, down)
    if slot == Slot.CLOSE:
        return ExchangeBytes(sent, 0)
    return ExchangeBytes(sent, _bundle(plan, Report(exchange, _parts(plan, up)), up))


def _parts(plan: Plan, frames: list[tuple[int, int]]) -> tuple[Part, ...]:
    trailer = bytes(inner.trailer_size(plan))
    return tuple(Part(number, size, trailer) for number, size in frames)


def _bundle(plan: Plan, header: Header, frames: list[tuple[int, int]]) -> int:
    return inner.frame_size(plan, header, 0) + sum(size for _, size in frames)
