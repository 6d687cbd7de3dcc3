"""Plans in plain values, drawn by a seed or by Hypothesis, and vectors that fit them."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

import secagg
from support.network import SERVER

T = TypeVar("T")


class Choice(Protocol):
    """Where free choices come from: a seeded generator or Hypothesis."""

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        ...

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        ...


class Seeded:
    """Choices of a seeded generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return self.rng.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self.rng.choice(options)


@dataclass(frozen=True, slots=True)
class Spec:
    """A plan in plain values."""

    clients: int
    length: int
    threat: str
    colluding: int
    max_dropouts: int
    threshold: int
    neighbours: int
    sites_receive: bool
    max_weight: int
    bits: int | None
    integers: tuple[int, int] | None = None
    clips: tuple[tuple[str, float], ...] = ()
    levels: int = 0
    rounding: str = "nearest"

    @property
    def complete(self) -> bool:
        """Whether every two sites share a mask."""
        return self.neighbours == self.clients - 1

    @property
    def stages(self) -> tuple[secagg.Stage, ...]:
        """The pipeline."""
        if self.integers is not None:
            return (secagg.Integers(*self.integers),)
        kinds = {"l2": secagg.ClipL2, "linf": secagg.ClipLinf}
        clips = tuple(kinds[kind](size) for kind, size in self.clips)
        return (*clips, secagg.Quantise(self.levels, self.rounding))

    def plan(self) -> secagg.Plan:
        """The plan itself."""
        return secagg.Plan(
            roster=people(self.clients)[0],
            length=self.length,
            stages=self.stages,
            protocol=secagg.MaskedSum(share_threshold=self.threshold, neighbours=self.neighbours),
            threat=self.threat,
            colluding=self.colluding,
            max_dropouts=self.max_dropouts,
            min_honest=2,
            sites_receive=self.sites_receive,
            suite=secagg.SUITE,
            security_bits=20,
            max_weight=self.max_weight,
            bits=self.bits,
        )


@functools.cache
def people(n: int) -> tuple[secagg.Roster, dict[str, secagg.Identity]]:
    """A roster whose keys follow from the names, so that a seed replays a run to the byte."""
    names = [f"site {i:02}" for i in range(n)]
    identities = {
        name: secagg.Identity(name, hashlib.sha256(f"schedules {name}".encode()).digest())
        for name in (*names, SERVER)
    }
    roster = secagg.Roster(
        sites=tuple((name, identities[name].public) for name in names),
        server=identities[SERVER].public,
    )
    return roster, identities


@functools.cache
def sparse_graphs(n: int, colluding: int, dropouts: int) -> tuple[tuple[int, int], ...]:
    """(neighbours, threshold) of sparse graphs that a plan accepts at 20 bits."""
    return tuple(
        (k, t)
        for k in range(2, n - 1, 2)
        for t in range(2, k + 2)
        if secagg.graph_security(n, colluding, dropouts, k, t).security_bits >= 20
    )


def draw_spec(
    choice: Choice,
    *,
    threat: str,
    clients: tuple[int, int],
    length: int,
    sparse: bool = False,
    cheats: bool = False,
) -> Spec:
    """A plan that its own rules accept."""
    n = choice.integer(*clients)
    signed = threat == "malicious-server"
    if sparse:
        n = max(n, 5)
    if cheats:
        n = max(n, 4 if signed else 3)
    c = choice.integer(1 if cheats else 0, max(1 if cheats else 0, min(3, n - 2, n // 3)))
    # A threshold must fit between the two-list law and the sure survivors.
    lowest = (n + c) // 2 + 1 if signed else max(2, c + 1)
    most = max(0, min(n - c - 2, n - lowest, 4))
    d = choice.integer(0, most) if choice.pick((True, False)) else most
    # Low thresholds leave shares to spare, without which no wrong share can be survived.
    threshold = choice.integer(lowest, max(lowest, n - d))
    neighbours, threshold = n - 1, choice.pick((lowest, lowest, threshold))
    if sparse:
        graphs = sparse_graphs(n, c, d) or sparse_graphs(n, c, 0) or sparse_graphs(n, 0, 0)
        if graphs == sparse_graphs(n, c, 0):
            d = d if sparse_graphs(n, c, d) else 0
        neighbours, threshold = choice.pick(graphs)
    max_weight = choice.pick((1, 1, 2, 100, 1 << 20))
    spec = Spec(
        clients=n,
        length=choice.integer(1, length),
        threat=threat,
        colluding=c,
        max_dropouts=d,
        threshold=threshold,
        neighbours=neighbours,
        sites_receive=c > 0 and choice.pick((True, False)),
        max_weight=max_weight,
        bits=None,
    )
    room = ((1 << 63) - 1) // (n * max_weight)
    if choice.pick((True, False)):
        # A cheat's second input is one more on its first coordinate, so zero lies inside.
        top = choice.pick((1, 100, (1 << 30), room // 2, room))
        high = choice.integer(1, max(1, min(top, 1 << 62)))
        low = choice.pick((0, -high, -1, -min(room, 1 << 62)))
        if not cheats:
            low = choice.pick((low, high, max(1, high // 2)))
        spec = replace(spec, integers=(max(low, -min(room, 1 << 62)), min(high, room)))
    else:
        sizes = (0.001, 1.0, 2.5, 1000.0)
        kinds = choice.pick((("l2",), ("linf",), ("l2", "linf"), ("linf", "l2")))
        top = choice.pick((1, 15, 1000, 1 << 20, 1 << 35))
        spec = replace(
            spec,
            clips=tuple((kind, choice.pick(sizes)) for kind in kinds),
            levels=choice.integer(1, max(1, min(top, room // 4, (1 << 52) // max_weight))),
            rounding=choice.pick(("nearest", "stochastic")),
        )
    need = bits_needed(spec)
    if need > 64:  # both signs at full size
        spec = replace(spec, integers=(0, spec.integers[1])) if spec.integers else spec
        need = bits_needed(spec)
    return replace(spec, bits=choice.pick((None, None, 64, choice.integer(need, 64))))


def bits_needed(spec: Spec) -> int:
    """Bits of a sum, by plain arithmetic."""
    low, high = spec.integers or (-spec.levels, spec.levels)
    most = spec.clients * spec.max_weight
    width = (max(0, high) - min(0, low)) * most
    return max(1, width.bit_length(), most.bit_length() if spec.max_weight > 1 else 1)


def draw_vector(rng: random.Random, spec: Spec, *, cheat: bool) -> tuple[Any, list[Any]]:
    """A vector for a client, and the same in plain Python for the oracle."""
    if spec.integers is not None:
        low, high = spec.integers
        plain = [rng.choice((low, high, rng.randint(low, high))) for _ in range(spec.length)]
        if cheat:
            plain[0] = max(low, min(0, high))
        unsigned = low >= 0 and rng.random() < 0.3
        return np.array(plain, dtype=np.uint64 if unsigned else np.int64), plain
    size = spec.clips[0][1]
    kind = rng.choice((np.float32, np.float64))
    wide = rng.choice((0.1, 1.0, 3.0, 1e6))
    values = [
        rng.choice((rng.uniform(-wide, wide) * size, rng.gauss(0, 0.3) * size, size, -size, 0.0))
        for _ in range(spec.length)
    ]
    if cheat:
        values[0] = 0.0
    array = np.array(values, dtype=kind)
    return array, [float(x) for x in array]
