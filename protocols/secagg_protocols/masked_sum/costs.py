"""Bytes of a round before it is run, exact where nobody drops out."""

from __future__ import annotations

from dataclasses import dataclass

from ..events import Step
from ..plan import Plan, masked_of
from ..result import Result, result_size, ring_size
from ..shamir import SHARE_SIZE
from ..wire import DIGEST_SIZE, SIGNATURE_SIZE, bitmap_size
from . import messages
from .messages import SEALED_SIZE, frame_size


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes of one step, for one site."""

    step: str
    site_sends: int
    site_receives: int


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Bytes of one round in which nobody drops out."""

    steps: tuple[StepBytes, ...]
    clients: int
    result: int  # bytes of the result message, counted in the last step's ``site_receives``
    plain_bits: int  # bits of the vector that a site would send without protection

    @property
    def site_total(self) -> int:
        """Bytes that a site sends and receives."""
        return sum(step.site_sends + step.site_receives for step in self.steps)

    @property
    def server_receives(self) -> int:
        """Bytes that the server receives from all sites."""
        return self.clients * sum(step.site_sends for step in self.steps)

    @property
    def server_sends(self) -> int:
        """Bytes that the server sends to all sites."""
        return self.clients * sum(step.site_receives for step in self.steps)

    @property
    def expansion(self) -> float:
        """Bytes sent and received over those of the unprotected vector, the result not counted:
        the factor that Bonawitz et al. (CCS 2017, section 7) report."""
        return 8 * (self.site_total - self.result) / self.plain_bits


def round_cost(plan: Plan) -> RoundCost:
    """Exact frame sizes of a round without dropouts, for one site of ``plan``."""
    n, k, t = plan.clients, masked_of(plan).neighbours, plan.protocol.share_threshold
    bitmap, digest = bytes(bitmap_size(n)), bytes(DIGEST_SIZE)
    advert = frame_size(plan, messages.Advert(), messages.ADVERT_SIZE)
    adverts = frame_size(
        plan, messages.Adverts(bitmap, bitmap, n), k * messages.relayed_advert_size(plan)
    )
    shares = frame_size(plan, messages.Shares(digest), k * SEALED_SIZE)
    shares_for = frame_size(plan, messages.SharesFor(bitmap, n), k * SEALED_SIZE)
    masked = frame_size(plan, messages.Input(), ring_size(plan))
    survivors = frame_size(plan, messages.Survivors(bitmap, n), 0)
    reveal = frame_size(plan, messages.Reveal(bitmap), (k + 1) * SHARE_SIZE)
    result = frame_size(
        plan,
        Result(digest, bitmap),
        result_size(plan),
    )
    steps = [
        StepBytes(Step.ADVERTISE.label, advert, adverts),
        StepBytes(Step.SHARE.label, shares, shares_for),
        StepBytes(Step.INPUT.label, masked, survivors),
    ]
    if plan.signed:
        consent = frame_size(plan, messages.Consent(digest), 0)
        consents = frame_size(plan, messages.Consents(bitmap), t * SIGNATURE_SIZE)
        steps.append(StepBytes(Step.CONSENT.label, consent, consents))
    steps.append(StepBytes(Step.REVEAL.label, reveal, result))
    span = plan.pipeline.vector
    # What a site would send without protection: its own integers, in as few bits as they need.
    plain_bits = plan.length * (span.high - span.low).bit_length()
    return RoundCost(tuple(steps), n, result, max(1, plain_bits))
