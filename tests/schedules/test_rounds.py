"""Any schedule of an unreliable network, any lie of a few sites: the exact sum or a named error.

Every example is one whole round over bytes; :mod:`schedules.scenario` says what is checked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedules.cheats import Deed
from schedules.many import play
from schedules.scenario import Schedule
from schedules.spec import Seeded, Spec, bits_needed, draw_spec

from secagg import Step
from secagg_protocols.masked_sum import masks, server, unmask
from secagg_protocols.masked_sum.client import Client
from secagg_protocols.masked_sum.server import Server
from support import oracle
from support.network import ForbiddenError

T = TypeVar("T")
THREATS = ("semi-honest", "malicious-server")
SEEDS = st.integers(0, 2**32)
ROUNDS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Drawn:
    """Choices of Hypothesis, so that a failing plan shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return self.data.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self.data.draw(st.sampled_from(options))


@settings(ROUNDS, max_examples=50)
@given(st.data(), st.sampled_from(THREATS), SEEDS)
def test_honest_rounds_give_the_exact_sum_or_too_few(
    data: st.DataObject, threat: str, seed: int
) -> None:
    spec = draw_spec(Drawn(data), threat=threat, clients=(2, 12), length=200)
    happened = Schedule(spec, seed, cheats=0).play()
    outcomes = [key for key in happened if key.startswith("outcome")]
    assert len(outcomes) == 1
    assert outcomes[0] == "outcome: exact sum" or "threshold" in outcomes[0]
    assert not any(key.startswith("dropped") for key in happened)


@settings(ROUNDS, max_examples=50)
@given(st.data(), SEEDS)
def test_sparse_rounds_give_the_exact_sum_or_too_few(data: st.DataObject, seed: int) -> None:
    spec = draw_spec(Drawn(data), threat="semi-honest", clients=(5, 14), length=50, sparse=True)
    assert not spec.complete
    happened = Schedule(spec, seed, cheats=0).play()
    outcomes = [key for key in happened if key.startswith("outcome")]
    assert outcomes[0] == "outcome: exact sum" or "threshold" in outcomes[0]


@settings(ROUNDS, max_examples=80)
@given(st.data(), st.sampled_from(THREATS), st.booleans(), SEEDS)
def test_lying_sites_are_outvoted_or_listed(
    data: st.DataObject, threat: str, sparse: bool, seed: int
) -> None:
    spec = draw_spec(
        Drawn(data),
        threat=threat,
        clients=(3, 10),
        length=40,
        sparse=sparse and threat == "semi-honest",
        cheats=True,
    )
    Schedule(spec, seed, cheats=spec.colluding).play()


@pytest.mark.parametrize("seed", range(60))
def test_seeded_schedules(seed: int) -> None:
    assert play(seed)["misuse: closing after the end"] == 1


def test_a_seed_replays_a_round() -> None:
    """A failure in ten thousand is worth nothing if its seed does not bring it back."""
    for seed in (3, 4, 11, 12):
        assert play(seed) == play(seed)


def full_range() -> Spec:
    """A plan whose sums need all 64 bits."""
    return Spec(
        clients=4,
        length=3,
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
        threshold=2,
        neighbours=3,
        sites_receive=True,
        max_weight=1,
        bits=None,
        integers=(-(1 << 61) + 1, (1 << 61) - 1),
    )


def test_sums_of_64_bits() -> None:
    spec = full_range()
    assert bits_needed(spec) == spec.plan().wire_bits == 64
    done = sum((Schedule(spec, seed, cheats=0).play() for seed in range(30)), Counter())
    assert done["outcome: exact sum"] >= 5


# The harness itself: each planted fault must be noticed, or its checks are hollow.


def no_self_mask(self_seeds: dict[int, bytes], *rest: Any) -> Any:
    """Unmasking that leaves out the self mask of one survivor."""
    kept = dict(list(self_seeds.items())[1:])
    return UNMASK_KEYS(kept, *rest)


def no_pair_masks(self_seeds: dict[int, bytes], mask_seeds: dict[int, bytes], *rest: Any) -> Any:
    """Unmasking that forgets the sites that left after step 2."""
    return UNMASK_KEYS(self_seeds, {}, *rest)


def taken_twice(self: Server, kind: Any, frame: Any) -> None:
    """A server that adds an input twice."""
    TAKE(self, kind, frame)
    if kind.number == 5:
        TAKE(self, kind, frame)


def unchecked(self: Server, *_: Any) -> None:
    """A rule that is switched off."""


def one_sign(site: int, peer: int) -> int:
    """Pair masks that do not cancel."""
    return 1


def no_suspects(self: unmask.Recovery, *rest: Any) -> Any:
    """Wrong shares are decoded around and nobody is told."""
    found = RECOVER(self, *rest)
    self.suspects.clear()
    return found


def never_late(self: Client) -> list[Any]:
    """A client that ends in an error when it comes late."""
    raise self._blame("late", "planted")


UNMASK_KEYS = unmask.unmask_keys
TAKE = Server._take
RECOVER = unmask.Recovery.recover


def deed(name: str, step: Step) -> tuple[Deed, ...]:
    """The lie that a planted fault lets through."""
    return (Deed(name, step),)


@pytest.mark.parametrize(
    ("where", "name", "fault", "deeds"),
    [
        (server, "unmask_keys", no_self_mask, ()),
        (server, "unmask_keys", no_pair_masks, ()),
        (masks, "pair_sign", one_sign, ()),
        (Server, "_take", taken_twice, ()),
        (Client, "_late", never_late, ()),
        (Server, "_check_commitment", unchecked, deed("other commitment", Step.SHARE)),
        (Server, "_check_low_order", unchecked, deed("low-order", Step.ADVERTISE)),
        (Server, "_check_fresh_keys", unchecked, deed("one key twice", Step.ADVERTISE)),
        (Server, "_check_padding", unchecked, deed("padding", Step.INPUT)),
        (Server, "_check_equivocation", unchecked, deed("twice", Step.SHARE)),
        (Server, "_check_consent_set", unchecked, deed("other consent", Step.CONSENT)),
        (Server, "_check_reveal_relations", unchecked, deed("reveal bitmap", Step.REVEAL)),
        (Server, "_check_route", unchecked, deed("forge", Step.SHARE)),
        (unmask.Recovery, "recover", no_suspects, deed("reveal wrong", Step.REVEAL)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_planted_faults_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    fault: Callable[..., Any],
    deeds: tuple[Deed, ...],
) -> None:
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(ForbiddenError):
        for seed in range(200):
            play(seed, *deeds)


def test_the_oracle_on_sums_done_by_hand() -> None:
    vectors = {"a": [1, -2], "b": [10, 20], "c": [100, 200]}
    weights = {"a": 1, "b": 3, "c": 2}
    assert oracle.integer_sum(vectors, weights, ["a", "b"]) == ([31, 58], 4)
    # (3, 4) has norm 5 and is halved by a clip of 2.5; one level is 0.25.
    clips = [("l2", 2.5)]
    assert oracle.level_intervals([3.0, 4.0], 1, clips, 10, nearest=True) == [(6, 6), (8, 8)]
    found = oracle.level_intervals([0.3, -7.0], 2, [("linf", 1.0)], 4, nearest=False)
    assert found == [(2, 3), (-9, -7)]  # 2.4, and -8 give or take a double's error
    assert oracle.interval_sum([[(1, 2)], [(-5, 5)]]) == [(-4, 7)]


def test_specs_span_what_the_tests_claim() -> None:
    rng = random.Random(1)
    specs = [
        draw_spec(Seeded(rng), threat=threat, clients=(2, 12), length=200)
        for threat in THREATS
        for _ in range(300)
    ]
    assert {spec.clients for spec in specs} == set(range(2, 13))
    widths = {spec.plan().wire_bits for spec in specs}
    assert {64} < widths and min(widths) <= 4
    assert any(spec.plan().bits not in {None, 64} for spec in specs)
    assert {spec.rounding for spec in specs if spec.levels} == {"nearest", "stochastic"}
    assert {len(spec.clips) for spec in specs} == {0, 1, 2}
    assert max(spec.length for spec in specs) > 150
    assert {spec.colluding for spec in specs} == {0, 1, 2, 3}
