"""The protocols of the matrix: a plan of each, and one honest round of each."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import secagg
from secagg_protocols import plain_sum
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Stage

from .arena import paillier_world
from .arena.world import World, digest, make_plan, people
from .attack import Frame
from .scene import Ints

#: By id, the title that people see, in the order of the matrix.
COLUMNS: Final = {
    "plain": "Plain sum",
    "semi-honest": "SecAgg, semi-honest",
    "malicious-server": "SecAgg, malicious server",
    "sparse": "SecAgg+",
    "paillier-one": "Paillier, one key",
    "paillier-threshold": "Paillier, threshold",
    "noise": "Masked sum with distributed noise",
}
MASKED: Final = ("semi-honest", "malicious-server", "sparse", "noise")
PAILLIER: Final = ("paillier-one", "paillier-threshold")
#: A sparse graph of fewer sites is hardly one.
LEAST_SPARSE: Final = 12
#: What the noise of the noise column promises, unless a scene asks for something else.
EPSILON: Final = 2.0
DELTA: Final = 1e-5


def threshold(n: int, colluding: int) -> int:
    """The smallest share threshold that no two survivor lists can meet (2t > n + c)."""
    return (n + colluding) // 2 + 1


def plan(
    column: str,
    n: int,
    length: int = 5,
    *,
    stages: tuple[Stage, ...] | None = None,
    epsilon: float = EPSILON,
    l2_clip: float | None = None,
    **changes: Any,
) -> Plan:
    """A plan of a column for sites s0, s1, ... of the arena.

    stages: integers within 0..1000 where none are given. One site colludes and one may drop out;
    ``changes`` are fields of the plan. In the noise column the plan is calibrated to ``epsilon``
    over one round, ``l2_clip`` as in :func:`secagg.dp.calibrate`.
    """
    if stages is None and l2_clip is not None:
        # What is calibrated for reals replaces these.
        stages = (secagg.ClipL2(l2_clip), secagg.Quantise(1 << 16))
    chosen = stages if stages is not None else (secagg.Integers(0, 1000),)
    fields: dict[str, Any] = {"length": length, "stages": chosen} | changes
    if column in {"plain", "malicious-server"}:
        few = {"max_dropouts": n - threshold(n, 1)} if n - threshold(n, 1) < 1 else {}
        return make_plan(n, **({"protocol": _complete(n)} | few | fields))
    if column in {"semi-honest", "noise"}:
        sure = {"threat": "semi-honest", "protocol": _complete(n)}
        made = make_plan(n, **(sure | fields))
        if column == "semi-honest":
            return made
        noisy: Plan = secagg.dp.calibrate(
            made,
            epsilon=epsilon,
            delta=DELTA,
            rounds=1,
            l2_clip=l2_clip,
            adjacency="zero-out",
        )
        return noisy
    if column == "sparse":
        common = {
            "threat": "semi-honest",
            "colluding": 0,
            "max_dropouts": 4,
            "sites_receive": False,
            "protocol": secagg.MaskedSum(share_threshold=5, neighbours=6),
        }
        return make_plan(max(n, LEAST_SPARSE), **(common | fields))
    if column == "paillier-one":
        return paillier_world.one_key_plan(n, **fields)
    if column == "paillier-threshold":
        return paillier_world.make_plan(n, **fields)
    raise ValueError(f"no column {column!r}")


def _complete(n: int) -> secagg.MaskedSum:
    return secagg.MaskedSum(share_threshold=threshold(n, 1), neighbours=n - 1)


def entropy(seed: bytes, name: str) -> Callable[[int], bytes]:
    """The randomness of one party of the laboratory: what it is asked for, it never repeats."""
    count = itertools.count()

    def draw(size: int) -> bytes:
        what = repr((seed, name, next(count))).encode()
        return hashlib.shake_256(what).digest(size)

    return draw


@dataclass(frozen=True, slots=True)
class Sum:
    """What the server of an honest round has: the sum, of whom, and all that travelled."""

    total: Any
    survivors: tuple[str, ...]
    frames: list[Frame]
    #: Of the noise in each coordinate, in units squared.
    variance: float = 0.0


def honest_sum(
    made: Plan,
    vectors: Any,
    *,
    seed: bytes,
    drop: Collection[str] = (),
    round: int = 0,
    session: str = "laboratory",
    model: bytes = b"model",
    plain: bool = False,
    classes: dict[str, Any] | None = None,
) -> Sum:
    """One honest round of a plan with real parties; sites in ``drop`` send no input.

    vectors: of all sites of the plan, in roster order. plain: by the unprotected control.
    seed: what all secrets of the parties follow from, so that a run can be repeated.
    """
    names = made.roster.names
    rows = {name: vectors[i] for i, name in enumerate(names)}
    if plain:
        given = {name: row for name, row in rows.items() if name not in drop}
        aggregate, _ = plain_sum.aggregate(made, given, identities=people(made.clients)[1])
        return Sum(aggregate.sum, aggregate.survivors, [])
    kind = paillier_world.PaillierWorld if isinstance(made.protocol, secagg.PaillierSum) else World
    world = kind(made, round=round, session=session, model=model, classes=classes)
    for name, party in world.parties.items():
        party._entropy = entropy(seed, name)
        if name in rows:
            world.vectors[name] = rows[name]
    world.run({int(secagg.Step.INPUT): sorted(drop)})
    if world.result is None:
        raise ValueError("an honest round has a result")
    frames = [Frame(round, sender, to, bytes(data)) for _, sender, to, data in world.frames]
    result = world.result
    return Sum(result.sum, result.survivors, frames, result.noise_variance)


__all__ = [
    "COLUMNS",
    "DELTA",
    "EPSILON",
    "LEAST_SPARSE",
    "MASKED",
    "PAILLIER",
    "Ints",
    "Sum",
    "digest",
    "entropy",
    "honest_sum",
    "plan",
    "threshold",
]
