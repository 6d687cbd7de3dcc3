"""Dry runs of a plan at its worst case, seen as the server and its insiders see them.

Every dropout that the plan bears has happened, and the colluding survivors send what they hold
without noise, which to those who collude is the same as knowing it. What is left is the noise of
``min_survivors - colluding`` honest sites: as much as any claim may count on.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg.api import run_round
from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Aggregate, Step
from secagg_protocols.journal import MemoryJournal
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME, Roster
from secagg_protocols.stages import Integers, Noise, Pipeline
from secagg_protocols.stages.base import Bounds, Encoder, Rand

Integers64 = npt.NDArray[np.int64]

_SESSION = "audit"
_SEED_SIZE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What one round opened. levels: int64[coordinates that travel], the sum before decoding,
    less what noise-free empty inputs give. sum: decoded, in the vector's units."""

    levels: Integers64
    sum: npt.NDArray[Any]


class DryRun:
    """The parties of ``plan`` in this process, with keys of their own.

    honest: names of the sites whose noise counts, in roster order; the others that remain are
    ``insiders``, and ``absent`` ones drop out before they send their input.
    """

    def __init__(self, plan: Plan) -> None:
        if plan.pipeline.noise is None:
            raise MisuseError("the plan has no noise to audit", rule="audit")
        roster, self._identities = Roster.generate(plan.roster.names)
        self.plan = dataclasses.replace(plan, roster=roster)
        count = plan.min_survivors - plan.colluding
        names = plan.roster.names
        self.honest = names[:count]
        self.insiders = names[count : plan.min_survivors]
        self.absent = names[plan.min_survivors :]
        self.quiet = without_noise(plan)
        first = plan.stages[0]
        if isinstance(first, Integers):
            value = min(max(0, first.low), first.high)
            self.empty: npt.NDArray[Any] = np.full(plan.length, value, dtype=np.int64)
        else:
            self.empty = np.zeros(plan.length, dtype=np.float64)
        # Nothing of an empty input is rounded at random, so that its levels are always these.
        self._empty_levels = self.encode(self.quiet, self.empty)
        self._rounds = 0

    def encode(self, pipeline: Pipeline, x: npt.NDArray[Any]) -> Integers64:
        """One site's integers, extras last, at the largest weight."""
        encoder = pipeline.begin(x, self.plan.max_weight, _fresh)
        levels = np.empty(pipeline.total_length, dtype=np.int64)
        encoder.tile(levels, 0)
        return levels

    def by_protocol(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Opened:
        """One round of the sum protocol, every message encoded and decoded.

        inputs: vectors of honest sites; the others' are empty.
        """
        plan, identities = self.plan, self._identities
        common: dict[str, Any] = {"session": _SESSION, "round": self._rounds, "model": b""}
        self._rounds += 1
        hub = _Watched(plan, identity=identities[SERVER_NAME], journal=MemoryJournal(), **common)
        clients = {
            name: (_Insider if name in self.insiders else Client)(
                plan,
                plan.roster.index(name),
                identity=identities[name],
                floors=None,
                journal=MemoryJournal(),
                **common,
            )
            for name in plan.roster.names
        }
        weight = plan.max_weight
        aggregate: Aggregate = run_round(
            hub,
            clients,
            {name: (inputs.get(name, self.empty), weight) for name in clients},
            silent=dict.fromkeys(self.absent, Step.INPUT),
        )
        return self._opened(hub.levels, aggregate.sum)

    def by_pipeline(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Opened:
        """The same sum without the protocol, which adds exactly: far faster."""
        plan = self.plan
        pipeline = plan.pipeline.at(secrets.token_bytes(32), b"")
        total = len(self.insiders) * self._empty_levels
        for name in self.honest:
            total += self.encode(pipeline, inputs.get(name, self.empty))
        noise = plan.pipeline.noise
        if noise is not None and noise.central:
            noise.draws(_fresh()).add(total, 0)
        decoded = pipeline.decode(total.copy(), plan.min_survivors)
        return self._opened(total, decoded.sum)

    def _opened(self, total: Integers64, decoded: npt.NDArray[Any]) -> Opened:
        return Opened(total - self.plan.min_survivors * self._empty_levels, decoded)


def without_noise(plan: Plan) -> Pipeline:
    """The plan's pipeline with everything but the noise."""
    noise = plan.pipeline.noise
    if noise is None:
        return plan.pipeline
    fields = {field.name: getattr(noise, field.name) for field in dataclasses.fields(noise)}
    return Pipeline((*plan.stages[:-1], _Silent(**fields)), plan.length, plan.max_weight)


class _Silent(Noise):
    """Noise that is not added; extras keep their levels."""

    __slots__ = ()

    def begin(self, x: Encoder, rand: Rand, given: Bounds) -> Encoder:
        return x


class _Insider(Client):
    """A site that shares what it knows with the server."""

    @property
    def pipeline(self) -> Pipeline:
        contexts = self.contexts
        return without_noise(self.plan).at(contexts.round, contexts.parameters)


class _Watched(Server):
    """A server that keeps the integers it opened."""

    levels: Integers64

    def _opened_sum(self, total: Any, count: int) -> dict[str, Any]:
        self.levels = total.copy()
        return super()._opened_sum(total, count)


def _fresh() -> bytes:
    return secrets.token_bytes(_SEED_SIZE)
