"""The audit of a plan: dry runs of its pipeline and protocol, and every test on them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secagg.dp import accounting
from secagg.dp.claims import Claims
from secagg.dp.mechanisms import (
    CentralDiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplaceSum,
    Mechanism,
    SkellamSum,
)
from secagg.dp.plan_noise import mechanism_of
from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan
from secagg_protocols.stages import Integers, Pipeline, Quantise

from .claim import claim_check
from .dry import DryRun
from .fit import fit_test
from .laws import NoiseSum
from .one_run import one_run_audit
from .report import FALSE_ALARM, Finding, Report, check_count, check_probability
from .reuse import repeat_test, reuse_test
from .sensitivity import SensitivityResult, sensitivity_check
from .threshold import threshold_audit
from .variance import variance_test

#: Coordinates of noise alone that the variance test and the fit see at least.
_COORDINATES: Final = 1 << 16
#: Rounds of noise alone at most: fewer coordinates are seen where vectors are very short.
_MOST_ROUNDS: Final = 1 << 12
#: Coordinates in which two rounds' noise is compared at least: in fewer than 100 even the same
#: noise twice would go unseen.
_COMPARED: Final = 256
#: Rounds of the protocol, times sites, that may be spent on it: some seconds of work.
_MOST_PARTIES: Final = 2048
#: Site coordinates that are encoded for canaries at most: some seconds of work.
_MOST_WORK: Final = 1 << 28
_LEAST_CANARIES: Final = 64
#: Rounds with canaries that go through the protocol.
_PROTOCOL_CANARIES: Final = 2
#: Encodings of each vector whose norm is checked: rounding exceeds a norm without its own
#: allowance in a large part of them.
_ENCODINGS: Final = 16
#: The one-run audit guesses about this part of its canaries, at a delta that is this part of
#: what it could bear (see one_run_audit).
_GUESSED: Final = 8
_DELTA_PART: Final = 1 / 100
_TESTS: Final = 6


def audit(plan: Plan, *, false_alarm: float = FALSE_ALARM, canaries: int = 8192) -> Report:
    """Audit a calibrated plan in this process, at its worst case (see :mod:`.dry`).

    Without chance: the accountant's epsilon against the claim, and the norms of encoded vectors
    without noise against the sensitivity that the accountant takes. On noise alone: its variance
    and its law against what the accountant takes, two rounds against each other, one vector
    against itself. On canaries, each in or out by its own coin: lower bounds of epsilon, from one
    threshold and from one run, against the accountant's for one round without sampling (the
    server sees who takes part). The first rounds of each kind go through the sum protocol, the
    rest through the pipeline alone, whose integers the protocol adds exactly.

    false_alarm: probability that a correct build is accused by any of the tests, shared among
        them; at least 1e-9.
    canaries: how many coins; fewer where vectors are long. Lower bounds of epsilon resolve little
    with few of them: the findings say how much.

    Keys, noise and coins come from the operating system, so that no two audits are the same.
    Raises :class:`~secagg.PlanError` (``dp-noise``, ``dp-claims``, ``dp-promise``) for a plan
    without noise, or whose claims are none or cannot be kept in kind.
    """
    if not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
    check_probability(false_alarm, "false_alarm")
    check_count(canaries, "canaries", _LEAST_CANARIES)
    claims = Claims.of(plan)
    mechanism, dry = mechanism_of(plan), DryRun(plan)
    each = check_probability(false_alarm / _TESTS, "false_alarm over the tests")
    findings: list[Finding] = [
        claim_check(
            mechanism,
            epsilon=claims.epsilon,
            delta=claims.delta,
            rounds=claims.rounds,
            sampling_rate=claims.sampling_rate,
        ),
        _sensitivity(dry, mechanism, claims.adjacency),
        *_noise(dry, law_of(plan, mechanism), each),
        *_canaries(dry, mechanism, claims, canaries, each),
    ]
    return Report(subject=f"plan {plan.digest.hex()[:16]}", findings=tuple(findings))


def law_of(plan: Plan, mechanism: Mechanism) -> NoiseSum:
    """Law of one coordinate of the noise that ``mechanism``, an accountant's view, counts on."""
    if isinstance(mechanism, CentralDiscreteGaussian):
        return NoiseSum(law="discrete-gaussian", parameter=mechanism.variance_levels2)
    if isinstance(mechanism, DiscreteLaplaceSum):
        noise = plan.pipeline.noise
        return NoiseSum(
            law="discrete-laplace",
            parameter=mechanism.scale_levels,
            sites=plan.min_survivors - plan.colluding,
            shares=noise.shares if noise is not None else 1,
        )
    return NoiseSum(
        law="skellam" if isinstance(mechanism, SkellamSum) else "discrete-gaussian",
        parameter=mechanism.local_variance_levels2,
        sites=mechanism.shares,
    )


def _noise(dry: DryRun, law: NoiseSum, each: float) -> list[Finding]:
    length = dry.plan.pipeline.total_length
    pairs = max(1, min(-(-_COMPARED // length), _MOST_PARTIES // (2 * dry.plan.clients)))
    rounds = [dry.by_protocol({}).levels for _ in range(2 * pairs)]
    more = max(0, min(_MOST_ROUNDS, -(-_COORDINATES // length)) - len(rounds))
    samples = np.stack([*rounds, *(dry.by_pipeline({}).levels for _ in range(more))])
    return [
        variance_test(samples, law, false_alarm=each),
        fit_test(samples, law, false_alarm=each),
        reuse_test(np.stack(rounds[::2]), np.stack(rounds[1::2]), false_alarm=each),
        # One after the other, so that short vectors have lags to look at, too.
        repeat_test(np.concatenate(rounds[::2]), false_alarm=each),
    ]


def _sensitivity(dry: DryRun, mechanism: Mechanism, adjacency: str) -> SensitivityResult:
    twice = 2.0 if adjacency == "replace-one" else 1.0
    l1 = (
        None
        if isinstance(mechanism, (DiscreteGaussianSum, CentralDiscreteGaussian))
        else (mechanism.l1_levels / twice)
    )
    l2 = None if isinstance(mechanism, DiscreteLaplaceSum) else mechanism.l2_levels / twice
    return sensitivity_check(_encoded(dry), l1_levels=l1, l2_levels=l2)


def _encoded(dry: DryRun) -> Iterator[npt.NDArray[np.int64]]:
    """Integers, without noise, of vectors that a stage may make too long."""
    for _ in range(_ENCODINGS):
        pipeline = dry.quiet.at(secrets.token_bytes(32), b"")
        for x in _long_vectors(dry.plan, pipeline):
            yield dry.encode(pipeline, x)


def _long_vectors(plan: Plan, pipeline: Pipeline) -> Iterator[npt.NDArray[Any]]:
    length, first = plan.length, plan.stages[0]
    if isinstance(first, Integers):
        for value in (first.low, first.high):
            yield np.full(length, value, dtype=np.int64)
        return
    clip = _unit(plan)
    spike = np.zeros(length)
    spike[0] = -clip
    flat = _half_levels(plan, pipeline)
    bits = np.frombuffer(secrets.token_bytes(4 * length), dtype=np.int32)
    rough = bits.astype(np.float64)
    rough *= clip / math.sqrt(float(np.dot(rough, rough)))
    for x in (spike, flat, rough):
        # Just within the clip, and far beyond it.
        yield x
        yield 1000.0 * x


def _half_levels(plan: Plan, pipeline: Pipeline) -> npt.NDArray[Any]:
    """A vector of the clip's norm whose levels before rounding lie half-way, or nearly so.

    It is m equal coordinates of (k + 1/2) levels, decoded: rotated back, scaled to the clip.
    Where the rotation pads, what lies in the padding is lost, and the rest is only long.
    """
    end = pipeline.bounds.length
    levels = plan.max_weight * max(
        (stage.levels for stage in plan.stages if isinstance(stage, Quantise)), default=1
    )
    k = max(0, round(levels / math.sqrt(end)))
    equal = max(1, min(end, math.floor((levels / (k + 0.5)) ** 2)))
    ring = np.zeros(pipeline.total_length, dtype=np.int64)
    ring[:equal] = 1 << 20
    x = np.asarray(pipeline.decode(ring, 1).sum, dtype=np.float64)
    return np.asarray(x * (_unit(plan) / math.sqrt(float(np.dot(x, x)))))


def _unit(plan: Plan) -> float:
    return plan.pipeline.bounds.unit or 1.0


def _canaries(
    dry: DryRun, mechanism: Mechanism, claims: Claims, wanted: int, each: float
) -> list[Finding]:
    plan = dry.plan
    replace = claims.adjacency == "replace-one"
    carry = (
        _CountCanary(dry, replace)
        if isinstance(plan.stages[0], Integers)
        else (_RealCanaries(dry, replace))
    )
    work = len(dry.honest) * plan.pipeline.total_length
    runs = min(-(-wanted // carry.size), max(1, _MOST_WORK // work))
    runs = max(runs, -(-_LEAST_CANARIES // carry.size))
    coins = np.array([secrets.randbits(1) for _ in range(runs * carry.size)], dtype=np.bool_)
    coins = coins.reshape(runs, carry.size)
    scores = np.empty(coins.shape, dtype=np.float64)
    for index, row in enumerate(coins):
        play = dry.by_protocol if index < _PROTOCOL_CANARIES else dry.by_pipeline
        scores[index] = carry.scores(play(carry.inputs(row)).sum)
    guesses = max(1, coins.size // _GUESSED)
    least = _DELTA_PART * each * guesses / (2.0 * coins.size)
    return [
        threshold_audit(
            scores[coins],
            scores[~coins],
            claimed_epsilon=accounting.epsilon(mechanism, delta=claims.delta),
            delta=claims.delta,
            false_alarm=each,
        ),
        one_run_audit(
            scores,
            coins,
            claimed_epsilon=accounting.epsilon(mechanism, delta=least),
            delta=least,
            guesses=guesses,
            false_alarm=each,
        ),
    ]


class _RealCanaries:
    """One canary per honest site and round, each on a coordinate of its own, as long as a clip
    allows. A site's input is far beyond the clip, so that a clip that fails is seen as well.

    The one-run audit takes scores of any joint law. For the threshold they have to be independent:
    coordinates of the noise are, and rotated back they are uncorrelated sums of so many that they
    are as good as Gaussian."""

    def __init__(self, dry: DryRun, replace: bool) -> None:
        self.sites = dry.honest[: dry.plan.length]
        self.size = len(self.sites)
        self._length = dry.plan.length
        self._step = self._length // self.size
        self._beyond = 1000.0 * _unit(dry.plan)
        self._scale = _unit(dry.plan) * dry.plan.max_weight
        self._outside = -self._beyond if replace else 0.0

    def inputs(self, coins: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
        """Vectors of a round, by site."""
        made = {}
        for index, name in enumerate(self.sites):
            x = np.zeros(self._length)
            x[index * self._step] = self._beyond if coins[index] else self._outside
            made[name] = x
        return made

    def scores(self, total: npt.NDArray[Any]) -> Any:
        """One per canary, higher where it is in."""
        return total[: self.size * self._step : self._step] / self._scale


class _CountCanary:
    """One canary a round: a site whose counts are all the most they may be. No smaller one has
    the sensitivity that counts are noised for."""

    size = 1

    def __init__(self, dry: DryRun, replace: bool) -> None:
        first = dry.plan.stages[0]
        low, high = (first.low, first.high) if isinstance(first, Integers) else (0, 0)
        self._name = dry.honest[0]
        far = high if abs(high) >= abs(low) else low
        self._inside = np.full(dry.plan.length, far, dtype=np.int64)
        self._outside = np.full_like(self._inside, low + high - far) if replace else dry.empty
        self._sign = 1.0 if far == high else -1.0

    def inputs(self, coins: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
        """Vectors of a round, by site."""
        return {self._name: self._inside if coins[0] else self._outside}

    def scores(self, total: npt.NDArray[Any]) -> Any:
        """One, higher where the canary is in."""
        return self._sign * total.astype(np.float64).mean(keepdims=True)
