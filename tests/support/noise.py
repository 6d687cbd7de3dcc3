"""Rounds with known seeds, and the noise that those seeds stand for, computed again beside them.

A test plays a round, adds up what every survivor must have added, and takes it off the sum.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import secagg
from secagg.attacks.arena import paillier_world
from secagg.attacks.arena.world import MODEL, SESSION, digest, people
from secagg_native import sampler
from secagg_protocols.keys import digest_of
from secagg_protocols.masked_sum.masks import SiteSecrets
from secagg_protocols.party import Contexts
from secagg_protocols.plain_sum import PlainClient, PlainServer
from secagg_protocols.stages import Noise, Pipeline

Ints = np.ndarray[Any, np.dtype[np.int64]]
#: (name of a party, round, count of the call) -> 32 bytes; the private entropy seam.
Seeds = Callable[[str, int, int], bytes]

GAUSSIAN = Noise(law="discrete-gaussian", variance_levels2=900)
SKELLAM = Noise(law="skellam", variance_levels2=900)
LAPLACE = Noise(law="discrete-laplace", scale_levels=20, shares=3)
CENTRAL = Noise(law="central-discrete-gaussian", variance_levels2=5000)
LAWS = (GAUSSIAN, SKELLAM, LAPLACE, CENTRAL)


def known(name: str, round: int, count: int) -> bytes:
    """Seeds that follow from who, when and which."""
    return digest("noise seed", name, round, count)


def entropy(seeds: Seeds, name: str, round: int) -> Callable[[int], bytes]:
    """A party's source of randomness under the private seam."""
    count = iter(range(1 << 30))
    return lambda size: seeds(name, round, next(count))[:size]


def expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt, from its definition."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    out, block = b"", b""
    while len(out) < size:
        block = hmac.digest(key, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256)
        out += block
    return out[:size]


def law_of(noise: Noise) -> sampler.Law:
    """The sampler's law that a noise stage stands for."""
    if noise.law == "skellam":
        return sampler.skellam(noise.variance_levels2)
    if noise.law == "discrete-laplace":
        return sampler.polya_difference(noise.scale_levels, noise.shares)
    return sampler.discrete_gaussian(noise.variance_levels2)


def drawn(noise: Noise, seed: bytes, length: int) -> Ints:
    """The noise of one vector, by the sampler and not by the stage."""
    out = np.empty(length, dtype=np.int64)
    draws = sampler.Draws(law_of(noise).tables, expand(seed, b"secagg noise v1", 32))
    draws.write(out, 0)
    return out


def pmf(noise: Noise) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probabilities of -bound .. bound of one draw, from the integer weights of its tables."""
    total = np.ones(1)
    for factor, table in law_of(noise).tables.parts:
        half = [float(w) / 2.0**128 for w in table.weights()]
        part = np.zeros(2 * table.bound * factor + 1)
        part[::factor] = [*half[:0:-1], *half]
        total = np.convolve(total, part)
    return total


def quiet(
    pipeline: Pipeline, x: Any, weight: int, stage_seed: Callable[[int], bytes]
) -> tuple[Ints, int]:
    """A site's integers as they are before its noise, and how many seeds they took.

    The stages are run one by one, by their own rules: nothing of the pipeline's chaining is used
    but the bounds that a stage is given.
    """
    array, weight = pipeline.check_input(np.asarray(x), weight)
    count = iter(range(100))
    used = 0

    def rand() -> bytes:
        nonlocal used
        used += 1
        return stage_seed(next(count))

    noise = pipeline.noise
    bare = Pipeline(
        pipeline.stages[: len(pipeline.stages) - (noise is not None)],
        pipeline.length,
        pipeline.max_weight,
    )
    encoder = bare.begin(array, weight, rand)
    vector = np.empty(bare.bounds.length, dtype=np.int64)
    encoder.tile(vector, 0)
    unit = 1 if noise is None else noise.extra_levels
    extras = []
    if "weight" in pipeline.extras:
        extras.append(weight * unit)
    if "within" in pipeline.extras:
        clip = next(s.clip for s in pipeline.stages if isinstance(s, secagg.ClipL2))
        inside = math.sqrt(math.fsum(float(v) ** 2 for v in array)) <= clip
        extras.append((0 if inside else 1) * pipeline.max_weight * unit)
    return np.concatenate([vector, np.array(extras, dtype=np.int64)]), used


@dataclass(frozen=True, kw_only=True)
class Played:
    """A round's result beside what it must have been made of."""

    aggregate: secagg.Aggregate
    pipeline: Pipeline  # of the round
    quiet: Ints  # sum of the survivors' integers without noise
    noise: Ints  # what was injected

    @property
    def integers(self) -> Ints:
        """The noisy sum, in levels."""
        return self.quiet + self.noise


def central_seed(seed: bytes, round_context: bytes) -> bytes:
    """Of what the server adds in one round (protocols/specs/stages.md)."""
    return digest_of(b"secagg central noise v1", seed, round_context)


def summed(
    plan: secagg.Plan,
    survivors: Iterable[str],
    vectors: Mapping[str, Any],
    weights: Mapping[str, int],
    pipeline: Pipeline,
    stage_seed: Callable[[str, int], bytes],
    central: bytes,
) -> tuple[Ints, Ints]:
    """(quiet sum, injected noise) over the survivors."""
    length = plan.ring_length
    total, noise = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.int64)
    stage = pipeline.noise
    for name in survivors:
        integers, used = quiet(
            pipeline, vectors[name], weights.get(name, 1), lambda i, name=name: stage_seed(name, i)
        )
        total += integers
        if stage is not None and not stage.central:
            noise += drawn(stage, stage_seed(name, used), length)
    if stage is not None and stage.central:
        noise += drawn(stage, central, length)
    return total, noise


def play_plain(
    plan: secagg.Plan,
    vectors: Mapping[str, Any],
    weights: Mapping[str, int],
    seeds: Seeds,
    *,
    round: int = 0,
    parameters: bytes = b"",
) -> Played:
    """One round of the plain sum."""
    identities = people(plan.clients)[1]
    common: dict[str, Any] = {
        "session": SESSION,
        "round": round,
        "model": None,
        "journal": secagg.MemoryJournal(),
    }
    hub = PlainServer(
        plan, identity=identities["server"], entropy=entropy(seeds, "server", round), **common
    )
    hub.use_model(MODEL, parameters)
    for name, x in vectors.items():
        site = PlainClient(
            plan, name, identity=identities[name], entropy=entropy(seeds, name, round), **common
        )
        site.use_model(MODEL, parameters)
        (send,) = site.submit(x, weights.get(name, 1))
        assert isinstance(send, secagg.Send)
        hub.receive(send.data, sender=name)
    (done,) = hub.close_step()
    assert isinstance(done, secagg.Done)
    assert done.aggregate is not None
    total, noise = summed(
        plan,
        done.aggregate.survivors,
        vectors,
        weights,
        hub.pipeline,
        lambda name, i: seeds(name, round, i),
        central_seed(seeds("server", round, 0), hub.contexts.round),
    )
    return Played(aggregate=done.aggregate, pipeline=hub.pipeline, quiet=total, noise=noise)


class MaskedRound:
    """All parties of a masked sum, stepped by a test that may swap the server for its dump."""

    def __init__(
        self,
        plan: secagg.Plan,
        vectors: Mapping[str, Any],
        weights: Mapping[str, int],
        seeds: Seeds,
        *,
        round: int = 0,
        parameters: bytes = b"",
        reload: bool = False,
    ) -> None:
        self.plan, self.vectors, self.weights = plan, vectors, weights
        self.seeds, self.round, self.reload = seeds, round, reload
        self.identities = people(plan.clients)[1]
        self.journals = {n: secagg.MemoryJournal() for n in ("server", *plan.roster.names)}
        common: dict[str, Any] = {"session": SESSION, "round": round, "model": None}
        self.server: Any = secagg.server(
            plan,
            identity=self.identities["server"],
            journal=self.journals["server"],
            _entropy=entropy(seeds, "server", round),
            **common,
        )
        self.clients: dict[str, Any] = {
            name: secagg.client(
                plan,
                name,
                identity=self.identities[name],
                floors=None,
                journal=self.journals[name],
                _entropy=entropy(seeds, name, round),
                **common,
            )
            for name in plan.roster.names
        }
        for party in (self.server, *self.clients.values()):
            party.use_model(MODEL, parameters)
        self.received: dict[str, secagg.Aggregate] = {}
        #: Dumps of the server, one before each step was closed.
        self.dumps: list[bytes] = []
        #: Called after the server took a message of a step from a site.
        self.tap: Callable[[secagg.Step, str], None] | None = None

    def load_server(self, dump: bytes) -> Any:
        """A server from a dump, on the same journal."""
        return secagg.load(dump, self.plan, self.identities["server"], self.journals["server"])

    def run(self, drop: Mapping[int, list[str]] | None = None) -> secagg.Aggregate:
        """Run to the end; ``drop`` maps a step to the sites that fall silent before it."""
        silent: set[str] = set()
        self.server.start()
        pending = [(name, party.start()) for name, party in self.clients.items()]
        for step in secagg.Step:
            silent |= set((drop or {}).get(int(step), ()))
            if step == secagg.Step.CONSENT and not self.plan.signed:
                continue
            for name, events in pending:
                for event in events:
                    if isinstance(event, secagg.Send) and name not in silent:
                        self.server.receive(event.data, sender=name)
                        if self.tap is not None:
                            self.tap(step, name)
            self.dumps.append(self.server.dump())
            if self.reload:
                self.server = self.load_server(self.dumps[-1])
            pending = []
            for event in self.server.close_step():
                if isinstance(event, secagg.Done):
                    assert event.aggregate is not None
                    return event.aggregate
                if not isinstance(event, secagg.Send):
                    continue
                site = self.clients[event.to]
                answer = site.receive(event.data, sender="server")
                if step == secagg.Step.SHARE and event.to not in silent:
                    answer += site.submit(self.vectors[event.to], self.weights.get(event.to, 1))
                for one in answer:
                    if isinstance(one, secagg.Done) and one.aggregate is not None:
                        self.received[event.to] = one.aggregate
                pending.append((event.to, answer))
        raise AssertionError("the round ended without a result")

    def played(self, aggregate: secagg.Aggregate) -> Played:
        """The result beside what the seeds say of it."""
        contexts: Contexts = self.server.contexts
        secrets = {
            name: SiteSecrets.derive(self.seeds(name, self.round, 0), contexts.setup)
            for name in self.plan.roster.names
        }
        pipeline = self.plan.pipeline.at(contexts.round, contexts.parameters)
        total, noise = summed(
            self.plan,
            aggregate.survivors,
            self.vectors,
            self.weights,
            pipeline,
            lambda name, i: secrets[name].stage_seed(contexts.round, i),
            # The first 32 bytes that a server asks for are those of its graph.
            central_seed(self.seeds("server", self.round, 1), contexts.round),
        )
        return Played(aggregate=aggregate, pipeline=pipeline, quiet=total, noise=noise)


class PaillierRound:
    """All parties of a Paillier sum, stepped as those of :class:`MaskedRound`.

    reload: every party that has sent something goes on as what its dump loads.
    """

    def __init__(
        self,
        plan: secagg.Plan,
        vectors: Mapping[str, Any],
        weights: Mapping[str, int],
        seeds: Seeds,
        *,
        round: int = 0,
        parameters: bytes = b"",
        reload: bool = False,
    ) -> None:
        self.plan, self.vectors, self.weights = plan, vectors, weights
        self.seeds, self.round, self.reload = seeds, round, reload
        names = plan.roster.names
        self.shares = paillier_world.shares_of(plan)
        self.identities = paillier_world.people(plan.clients, len(self.shares))[1]
        self.journals = {n: secagg.MemoryJournal() for n in ("server", *names, *self.shares)}
        self.parties: dict[str, Any] = {}
        for name in self.journals:
            common: dict[str, Any] = {
                "identity": self.identities[name],
                "session": SESSION,
                "round": round,
                "model": None,
                "journal": self.journals[name],
                "_entropy": entropy(seeds, name, round),
            }
            if name == "server":
                party: Any = secagg.server(plan, **common)
            elif name in self.shares:
                party = secagg.holder(plan, name, share=self.shares[name], floors=None, **common)
            else:
                party = secagg.client(plan, name, floors=None, **common)
            party.use_model(MODEL, parameters)
            self.parties[name] = party
        self.received: dict[str, secagg.Aggregate] = {}

    def again(self, name: str) -> None:
        """Put what a party's dump loads in its place, where that is asked for."""
        if self.reload:
            self.parties[name] = secagg.load(
                self.parties[name].dump(),
                self.plan,
                self.identities[name],
                self.journals[name],
                share=self.shares.get(name),
            )

    def pump(self, events: Iterable[Any], sender: str, silent: Iterable[str] = ()) -> Any:
        """Deliver what was sent and what follows from it; the server's result, if it is there."""
        found = None
        for event in events:
            if isinstance(event, secagg.Done) and event.aggregate is not None:
                found = event.aggregate
                if sender != "server":
                    self.received[sender] = event.aggregate
            if isinstance(event, secagg.Send):
                answer = self.parties[event.to].receive(event.data, sender=sender)
                self.again(event.to)
                if event.to not in silent:
                    self.pump(answer, event.to)
        return found

    def run(self, drop: Mapping[int, list[str]] | None = None) -> secagg.Aggregate:
        """Run to the end; ``drop`` maps a step to sites and holders that fall silent before it."""
        drop = drop or {}
        self.parties["server"].start()
        for name in self.plan.roster.names:
            if name not in drop.get(int(secagg.Step.INPUT), ()):
                self.parties[name].start()
                self.again(name)
                sent = self.parties[name].submit(self.vectors[name], self.weights.get(name, 1))
                self.pump(sent, name)
        self.again("server")
        silent = drop.get(int(secagg.Step.REVEAL), ())
        self.pump(self.parties["server"].close_step(), "server", silent)
        self.again("server")
        found = self.pump(self.parties["server"].close_step(), "server")
        assert isinstance(found, secagg.Aggregate)
        return found

    def played(self, aggregate: secagg.Aggregate) -> Played:
        """The result beside what the seeds say of it."""
        contexts: Contexts = self.parties["server"].contexts
        pipeline = self.plan.pipeline.at(contexts.round, contexts.parameters)

        def stage_seed(name: str, count: int) -> bytes:
            own = self.seeds(name, self.round, 0)
            info = b"secagg stage seed v1" + contexts.round + count.to_bytes(4, "little")
            return expand(own, info, 32)

        total, noise = summed(
            self.plan,
            aggregate.survivors,
            self.vectors,
            self.weights,
            pipeline,
            stage_seed,
            central_seed(self.seeds("server", self.round, 0), contexts.round),
        )
        return Played(aggregate=aggregate, pipeline=pipeline, quiet=total, noise=noise)
