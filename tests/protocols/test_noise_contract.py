"""What noise asks of every sum protocol: any pipeline with noise runs on it unchanged, and the sum
is exactly what the sites gave and what they injected. Later protocols inherit the contract."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.paillier_world import make_plan as paillier_plan
from secagg.attacks.arena.paillier_world import one_key_plan, shares_of, trusting_plan
from secagg.attacks.arena.paillier_world import people as people_and_holders
from secagg.attacks.arena.world import make_plan, people, sparse_plan
from secagg_protocols import plain_sum
from secagg_protocols.lift import lift
from secagg_protocols.stages import Noise
from support.noise import (
    CENTRAL,
    GAUSSIAN,
    LAPLACE,
    LAWS,
    SKELLAM,
    MaskedRound,
    PaillierRound,
    Played,
    Seeds,
    central_seed,
    drawn,
    known,
    play_plain,
)

LENGTH = 11
CLIP = 0.625
#: Name -> (stages before the noise, largest weight, parameters of the round).
KINDS: dict[str, tuple[tuple[Any, ...], int, bytes]] = {
    "counts": ((secagg.Integers(0, 50),), 1, b""),
    "weighted counts": ((secagg.Integers(-9, 50),), 6, b""),
    "real": ((secagg.ClipL2(CLIP), secagg.Rotate(), secagg.Quantise(700, "conditional")), 1, b""),
    "weighted": (
        (secagg.ClipL2(CLIP), secagg.Rotate(), secagg.Quantise(300, "conditional")),
        5,
        b"",
    ),
    "flat": ((secagg.ClipLinf(CLIP), secagg.Quantise(90)), 1, b""),
    "nearest": ((secagg.ClipL2(CLIP), secagg.Quantise(90, "nearest")), 2, b""),
    "adaptive": (
        (
            secagg.AdaptiveClip(clip=1.0, lowest=0.1, highest=10.0),
            secagg.Rotate(),
            secagg.Quantise(400, "conditional"),
        ),
        1,
        struct.pack("<d", CLIP),
    ),
    "adaptive weighted": (
        (
            secagg.AdaptiveClip(clip=CLIP, lowest=0.1, highest=10.0),
            secagg.Rotate(),
            secagg.Quantise(200, "conditional"),
        ),
        3,
        b"",
    ),
}


def with_noise(plan: secagg.Plan, kind: str, noise: Noise, **changes: Any) -> secagg.Plan:
    """``plan`` with one of the pipelines and a noise whose extras are worth 7 levels."""
    stages, weight, _ = KINDS[kind]
    noise = dataclasses.replace(noise, extra_levels=7)
    threat = "semi-honest" if noise.central else plan.threat
    fields = {"stages": (*stages, noise), "max_weight": weight, "length": LENGTH, "threat": threat}
    return dataclasses.replace(plan, **(fields | changes))


def inputs(plan: secagg.Plan) -> tuple[dict[str, Any], dict[str, int]]:
    """Vectors around the clip (some within, some beyond), and weights up to the largest."""
    rng = np.random.default_rng(31)
    vectors: dict[str, Any] = {}
    for i, name in enumerate(plan.roster.names):
        if isinstance(plan.stages[0], secagg.Integers):
            stage = plan.stages[0]
            vectors[name] = rng.integers(stage.low, stage.high + 1, plan.length)
        else:
            x = rng.normal(size=plan.length)
            vectors[name] = x / np.linalg.norm(x) * CLIP * (0.4 + 0.2 * i)
    weights = {name: 1 + i % plan.max_weight for i, name in enumerate(plan.roster.names)}
    return vectors, weights


def check_exact(played: Played, plan: secagg.Plan) -> None:
    """The aggregate is what the integers of the sites and their noise decode to, bit for bit."""
    found, pipeline = played.aggregate, played.pipeline
    count = len(found.survivors)
    assert np.count_nonzero(played.noise) > plan.ring_length // 2
    opened = pipeline.decode(played.integers.copy(), count)
    np.testing.assert_array_equal(found.sum, opened.sum)
    assert found.sum.shape == (plan.length,)
    if isinstance(plan.stages[0], secagg.Integers):
        # Without any decoder: integers less noise are the integers that went in.
        left = found.sum.astype(np.int64) - played.noise[: plan.length]
        assert left.tolist() == played.quiet[: plan.length].tolist()
    at = plan.pipeline.bounds.length
    if plan.max_weight > 1:
        assert found.weight == (int(played.quiet[at]) + int(played.noise[at])) / 7
        at += 1
    else:
        assert found.weight == count
    if plan.pipeline.adaptive is not None:
        bits = (int(played.quiet[at]) + int(played.noise[at])) / 7 / plan.max_weight
        assert found.extras == {"within": count - bits}
    else:
        assert found.extras == {}


def variance_of(plan: secagg.Plan, kind: str, sites: int) -> float:
    """Variance of each coordinate of the sum's noise, in units squared, from the definitions."""
    noise: Any = plan.stages[-1]
    if noise.law == "discrete-laplace":
        q = math.exp(-1 / noise.scale_levels)
        levels = 2 * q / (1 - q) ** 2 * sites / noise.shares
    else:
        levels = noise.variance_levels2 * (1 if noise.central else sites)
    quantise = [stage for stage in plan.stages if isinstance(stage, secagg.Quantise)]
    return levels * (CLIP / quantise[0].levels) ** 2 if quantise else levels


class NoiseContract:
    """Subclasses say which plan carries the pipelines and how a round is played."""

    #: A plan of the protocol; stages, length and weights are replaced.
    plan: ClassVar[secagg.Plan]
    #: Laws that such a plan may hold.
    laws: ClassVar[tuple[Noise, ...]] = LAWS

    def run(
        self,
        plan: secagg.Plan,
        vectors: Mapping[str, Any],
        weights: Mapping[str, int],
        seeds: Seeds,
        *,
        round: int = 0,
        parameters: bytes = b"",
    ) -> Played:
        """Play one round with the parties' seeds."""
        raise NotImplementedError

    def one(self, kind: str, noise: Noise, *, round: int = 0, **changes: Any) -> Played:
        plan = with_noise(self.plan, kind, noise, **changes)
        vectors, weights = inputs(plan)
        parameters = KINDS[kind][2]
        return self.run(plan, vectors, weights, known, round=round, parameters=parameters)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_sum_minus_the_injected_noise_is_exact(self, kind: str) -> None:
        for noise in self.laws:
            check_exact(self.one(kind, noise), with_noise(self.plan, kind, noise))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_noise_variance_is_that_of_the_sites_in_the_sum(self, kind: str) -> None:
        for noise in self.laws:
            found = self.one(kind, noise).aggregate
            plan = with_noise(self.plan, kind, noise)
            expected = variance_of(plan, kind, len(found.survivors))
            assert found.noise_variance == pytest.approx(expected, rel=1e-9)

    def test_the_noise_varies_as_much_as_it_says(self) -> None:
        """Over 4,096 coordinates of zeros; six standard deviations of a sample variance."""
        d = 4096
        for noise in self.laws:
            plan = with_noise(self.plan, "counts", noise, length=d)
            zeros = {name: np.zeros(d, dtype=np.int64) for name in plan.roster.names}
            found = self.run(plan, zeros, {}, known).aggregate
            fourth = 6.0 if noise.law == "discrete-laplace" else 3.0
            slack = 6 * math.sqrt((fourth - 1) / d)
            assert np.mean(found.sum**2.0) == pytest.approx(found.noise_variance, rel=slack)
            assert abs(np.mean(found.sum)) <= 6 * math.sqrt(found.noise_variance / d)

    def test_two_rounds_have_other_noise(self) -> None:
        for noise in self.laws:
            first, second = (self.one("counts", noise, round=r) for r in (0, 1))
            assert (first.noise != second.noise).any()
            assert (first.aggregate.sum != second.aggregate.sum).any()

    @pytest.mark.parametrize("kind", ["weighted counts", "weighted", "adaptive weighted"])
    def test_no_mean_below_the_floor_of_the_weight(self, kind: str) -> None:
        for noise in self.laws:
            found = self.one(kind, noise).aggregate
            assert found.weight_floor == 1
            assert (found.mean is None) == (found.weight < 1)
            near = max(1, math.floor(found.weight))
            for floor in (near, near + 1):
                again = self.one(kind, dataclasses.replace(noise, weight_floor=floor)).aggregate
                # Another plan has another context, and so another noise.
                assert again.weight_floor == floor
                assert (again.mean is None) == (again.weight < floor)
            above = self.one(kind, dataclasses.replace(noise, weight_floor=1 << 40)).aggregate
            assert above.mean is None
            below = self.one(kind, dataclasses.replace(noise, weight_floor=0)).aggregate
            if below.weight >= 1:
                np.testing.assert_array_equal(below.mean, below.sum / below.weight)

    def test_a_noisy_weight_of_nothing_gives_no_mean(self) -> None:
        """All sites weigh nothing, so what is left of the weight is noise around zero."""
        plan = with_noise(self.plan, "weighted counts", self.laws[0])
        vectors, weights = inputs(plan)
        nothing = dict.fromkeys(weights, 0)
        for number in range(64):  # every second noise is below one, so few rounds are needed
            found = self.run(plan, vectors, nothing, known, round=number).aggregate
            assert (found.mean is None) == (found.weight < 1)
            if found.weight < 1:
                break
        else:
            pytest.fail("no noise of 64 was below one")


class TestPlainSum(NoiseContract):
    plan = make_plan(threat="semi-honest")

    def run(self, *args: Any, **options: Any) -> Played:
        return play_plain(*args, **options)

    def test_the_control_takes_a_plan_with_noise_by_itself(self) -> None:
        plan = with_noise(self.plan, "counts", GAUSSIAN)
        vectors, weights = inputs(plan)
        first, second = (plain_sum.aggregate(plan, vectors, weights)[0] for _ in range(2))
        assert (first.sum != second.sum).any()
        exact = sum(vectors.values())
        assert np.abs(first.sum - exact).max() <= 10 * math.sqrt(first.noise_variance)


class MaskedSumContract(NoiseContract):
    """The party-level play, with a server that is loaded from its dump at every step or not."""

    reload: ClassVar[bool] = False

    def run(
        self,
        plan: secagg.Plan,
        vectors: Mapping[str, Any],
        weights: Mapping[str, int],
        seeds: Seeds,
        *,
        round: int = 0,
        parameters: bytes = b"",
    ) -> Played:
        world = MaskedRound(
            plan,
            vectors,
            weights,
            seeds,
            round=round,
            parameters=parameters,
            reload=self.reload,
        )
        found = world.run()
        for told in world.received.values():
            # Sites open the same noisy sum, and nothing nearer to the truth.
            np.testing.assert_array_equal(told.sum, found.sum)
            assert (told.weight, told.extras) == (found.weight, found.extras)
            assert (told.noise_variance, told.mean is None) == (
                found.noise_variance,
                found.mean is None,
            )
        assert len(world.received) == (plan.clients if plan.sites_receive else 0)
        return world.played(found)

    @pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("kind", ["weighted counts", "adaptive"])
    def test_dropouts_take_their_own_noise_along(self, kind: str, step: int) -> None:
        if step == 4 and not self.plan.signed:
            return
        parameters = KINDS[kind][2]
        for noise in self.laws:
            plan = with_noise(self.plan, kind, noise)
            vectors, weights = inputs(plan)
            world = MaskedRound(
                plan, vectors, weights, known, parameters=parameters, reload=self.reload
            )
            found = world.run({step: ["s2"]})
            assert ("s2" in found.survivors) == (step > 3)
            check_exact(world.played(found), plan)
            expected = variance_of(plan, kind, len(found.survivors))
            assert found.noise_variance == pytest.approx(expected, rel=1e-9)


class TestMaskedSumMaliciousServer(MaskedSumContract):
    plan = make_plan()
    laws = (GAUSSIAN, SKELLAM, LAPLACE)

    def test_noise_of_the_server_is_refused(self) -> None:
        with pytest.raises(secagg.PlanError) as caught:
            with_noise(self.plan, "counts", CENTRAL, threat="malicious-server")
        assert (caught.value.rule, caught.value.field) == ("noise-central", "threat")


class TestMaskedSumSemiHonest(MaskedSumContract):
    plan = make_plan(threat="semi-honest")


class TestMaskedSumSparse(MaskedSumContract):
    plan = sparse_plan()


class TestMaskedSumFromDumps(MaskedSumContract):
    """The same sums when the server is a new object at every step: its noise is in its dump."""

    plan = make_plan(threat="semi-honest")
    reload = True


class PaillierSumContract(NoiseContract):
    """The same pipelines where sites encrypt and holders open."""

    reload: ClassVar[bool] = False

    def run(
        self,
        plan: secagg.Plan,
        vectors: Mapping[str, Any],
        weights: Mapping[str, int],
        seeds: Seeds,
        *,
        round: int = 0,
        parameters: bytes = b"",
    ) -> Played:
        world = PaillierRound(
            plan,
            vectors,
            weights,
            seeds,
            round=round,
            parameters=parameters,
            reload=self.reload,
        )
        found = world.run()
        for told in world.received.values():
            np.testing.assert_array_equal(told.sum, found.sum)
            assert (told.weight, told.extras) == (found.weight, found.extras)
            assert told.noise_variance == found.noise_variance
        assert len(world.received) == (plan.clients if plan.sites_receive else 0)
        return world.played(found)

    @pytest.mark.parametrize("kind", ["weighted counts", "adaptive"])
    def test_a_site_that_drops_takes_its_own_noise_along(self, kind: str) -> None:
        for noise in self.laws:
            plan = with_noise(self.plan, kind, noise)
            world = PaillierRound(
                plan, *inputs(plan), known, parameters=KINDS[kind][2], reload=self.reload
            )
            found = world.run({3: ["s2"]})
            assert "s2" not in found.survivors
            check_exact(world.played(found), plan)
            expected = variance_of(plan, kind, len(found.survivors))
            assert found.noise_variance == pytest.approx(expected, rel=1e-9)


class TestPaillierSumMaliciousServer(PaillierSumContract):
    """Sites read their stages twice, once for the ciphertexts and once for the proof."""

    plan = one_key_plan(5)
    # The others are tried from dumps, and with several holders: each needs 35 rounds.
    laws = (GAUSSIAN, LAPLACE)


@pytest.mark.slow
class TestPaillierSumFromDumps(PaillierSumContract):
    """Every party is a new object after each message; the noise of the server is in its dump."""

    plan = one_key_plan(5, threat="semi-honest", knowledge_proofs=False)
    reload = True


@pytest.mark.slow
class TestPaillierSumOfSeveralHolders(PaillierSumContract):
    plan = trusting_plan(5)


@pytest.mark.parametrize("kind", ["counts", "weighted", "adaptive"])
def test_central_noise_of_a_paillier_sum_is_that_of_the_dump(kind: str) -> None:
    plan = with_noise(trusting_plan(5, holders=1, threshold=1), kind, CENTRAL)
    world = PaillierRound(plan, *inputs(plan), known, parameters=KINDS[kind][2], reload=True)
    check_exact(world.played(world.run()), plan)
    assert known("server", 0, 0) not in world.parties["server"].dump()


@pytest.mark.parametrize("kind", ["counts", "real", "weighted"])
def test_the_public_entry_runs_pipelines_under_encryption(kind: str) -> None:
    plan = with_noise(paillier_plan(5), kind, SKELLAM)
    vectors, weights = inputs(plan)
    found = secagg.aggregate(
        plan,
        vectors,
        weights=weights,
        identities=people_and_holders(5, 3)[1],
        shares=shares_of(plan),
        drop={"reveal": ["h1"]},
    )
    if kind == "counts":
        exact = sum(vectors.values())
        assert np.abs(found.sum - exact).max() <= 12 * math.sqrt(found.noise_variance)
    assert found.noise_variance == pytest.approx(variance_of(plan, kind, 5), rel=1e-9)


@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_public_entry_runs_every_pipeline(kind: str, noise: Noise) -> None:
    plan = with_noise(make_plan(), kind, noise)
    vectors, weights = inputs(plan)
    found = secagg.aggregate(plan, vectors, weights=weights, identities=people(7)[1])
    again = secagg.aggregate(plan, vectors, weights=weights, identities=people(7)[1])
    assert (found.sum != again.sum).any()
    if kind == "counts":
        exact = sum(vectors.values())
        assert np.abs(found.sum - exact).max() <= 12 * math.sqrt(found.noise_variance)


# Central noise is the server's, and a server can be loaded twice.


def central_round(**options: Any) -> MaskedRound:
    plan = with_noise(make_plan(threat="semi-honest"), "counts", CENTRAL)
    return MaskedRound(plan, *inputs(plan), known, **options)


def test_sites_add_nothing_where_the_server_adds_the_noise() -> None:
    world = central_round()
    world.run()
    inside = np.zeros(world.plan.ring_length, dtype=np.int64)
    contexts = world.server.contexts
    pipeline = world.plan.pipeline.at(contexts.round, b"")
    for name in world.plan.roster.names:
        out = np.empty_like(inside)
        pipeline.begin(world.vectors[name], 1, lambda: bytes(32)).tile(out, 0)
        np.testing.assert_array_equal(out[:LENGTH], world.vectors[name])


def test_the_seed_of_central_noise_is_in_every_dump_and_gone_after_the_round() -> None:
    world = central_round()
    found = world.run()
    seed = known("server", 0, 1)
    assert len(world.dumps) == 4
    assert all(seed in dump for dump in world.dumps)
    assert seed not in world.server.dump()
    bound = central_seed(seed, world.server.contexts.round)
    injected = drawn(world.plan.stages[-1], bound, world.plan.ring_length)  # type: ignore[arg-type]
    exact = sum(world.vectors.values())
    np.testing.assert_array_equal(found.sum - injected[:LENGTH], exact)


def test_a_server_that_opens_again_from_its_last_dump_publishes_the_same_sum() -> None:
    world = central_round()
    found = world.run()
    # It is not known whether the caller saw the result, so the last step may be closed again:
    # with other noise the difference of two results would halve what hides a site.
    again = world.load_server(world.dumps[-1])
    (*_, done) = again.close_step()
    assert isinstance(done, secagg.Done)
    assert done.aggregate is not None
    np.testing.assert_array_equal(done.aggregate.sum, found.sum)
    assert done.aggregate.digest == found.digest


@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("first", ["all", "fewer"])
def test_two_servers_of_one_dump_do_not_open_two_sums(noise: Noise, first: str) -> None:
    """The same central seed over other survivors would lay open the site by which they differ,
    and so would two sums of sites that sent their noisy input once."""
    plan = with_noise(make_plan(threat="semi-honest"), "counts", noise)
    world = MaskedRound(plan, *inputs(plan), known)
    twins: list[Any] = []

    def tap(step: secagg.Step, name: str) -> None:
        if (step, name) == (secagg.Step.INPUT, "s5"):
            twins.append(world.load_server(world.server.dump()))
            if first == "fewer":
                assert twins[0].close_step()

    world.tap = tap
    if first == "all":
        found = world.run()
        check_exact(world.played(found), plan)
        assert len(found.survivors) == 7
    closed_second = twins[0].close_step if first == "all" else world.run
    with pytest.raises(secagg.MisuseError) as caught:
        closed_second()
    assert caught.value.rule == "journal-once"
    assert len(twins) == 1


def test_lift_finds_the_noisy_sum_on_both_sides_of_zero() -> None:
    """Counts of zero with noise are negative half of the time; the window reaches below zero."""
    for noise in LAWS:
        plan = with_noise(make_plan(threat="semi-honest"), "counts", noise)
        ((span, _),) = plan.pipeline.sum_span(plan.clients)
        assert span.low < -100 < 7 * 50 < span.high
        values = np.resize([span.low, -1, 0, 1, span.high], plan.ring_length).astype(np.int64)
        np.testing.assert_array_equal(lift(plan, values.astype(plan.lane)), values)
