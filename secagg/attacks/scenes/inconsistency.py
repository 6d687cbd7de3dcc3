"""Row 12: a model that leaves one site alone in the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

import secagg
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.masked_sum import messages
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.plan import Plan

from ..arena.controls import changed, without
from ..arena.paillier_world import PaillierWorld
from ..arena.world import World
from ..attack import Frame
from ..columns import MASKED, PAILLIER, plan
from ..finding import ControlRun, Figure, Finding, Measure, Picture, Verdict
from ..keys import ModelInconsistency
from ..scene import Lab, Scene
from ..statistics import LEVEL, rate, within
from .networks import CLASSES, SIDE, Floats, Network, Shape, digits, gradient
from .rounds import (
    VICTIM,
    arena,
    client_of,
    encoded,
    finish,
    lifted,
    no_model_hash,
    plain_round,
    sealed,
    server_of,
    transcript,
)

SHAPE: Final = Shape(SIDE * SIDE, 4, CLASSES)
SAMPLES: Final = 8
LEVELS: Final = 1000
CLIP: Final = 8.0
_DEAD: Final = -1e6
#: Of the noise column: gradients are clipped to this, so that all have the same length, and the
#: plan that was calibrated for ``EPSILON`` has this part of its noise. Under the noise of a plan
#: in use nobody can tell one gradient of one round, and a control that recovers nothing would show
#: nothing of the full build either.
NOISY_CLIP: Final = 0.5
EPSILON: Final = 48.0
NOISE_PART: Final = 1 / 25


class Tried(NamedTuple):
    """One round. claim, right: the victim's gradient in the silent coordinates, or empty."""

    hit: bool
    rules: list[str]
    claim: Floats
    right: Floats
    #: Part of the coordinates in which a site with the dead model has no gradient at all.
    silent: float
    opened: bool


def judged(claim: Floats, right: Floats, others: list[Floats], unit: float, noise: float) -> bool:
    """Whether a claim is ``right``, and not as good a claim of nothing or of other gradients.

    claim, right, others: float64[coordinates]. unit: of the quantiser. noise: standard deviation
    of what the sites add to each coordinate; where it is 0 the claim has to be exact.
    """
    rivals = [np.zeros_like(right), *others]
    if claim.shape != right.shape:
        return False
    if noise == 0.0:
        # Rounding to the nearest level takes half a unit, and floats a little more.
        near = [float(np.abs(claim - one).max()) <= 0.5001 * unit for one in (right, *rivals)]
        return near[0] and not any(near[1:])
    squares = [float(np.square((claim - one) / noise).sum()) for one in (right, *rivals)]
    fits = within(squares[0] / right.size, 1.0, float(np.sqrt(2 / right.size)))
    # Logarithms of likelihood ratios: each rival has to be excluded at the level of all tests.
    return fits and (min(squares[1:]) - squares[0]) / 2 >= -float(np.log(LEVEL))


def noisy_plan(made: Plan) -> Plan:
    """The plan with a part of its noise, and no promise."""
    stages = tuple(
        replace(stage, variance_levels2=round(stage.variance_levels2 * NOISE_PART))
        if isinstance(stage, secagg.Noise)
        else stage
        for stage in made.stages
    )
    return replace(made, stages=stages, privacy=None)


class ModelInconsistencyScene(Scene):
    """Sites that train a small network on handwritten digits, under models of two kinds."""

    attack = ModelInconsistency
    expected: ClassVar[Mapping[str, Verdict | str]] = {"plain": Verdict.LEAKS} | dict.fromkeys(
        (*MASKED, *PAILLIER), Verdict.PREVENTED
    )

    def investigate(self, lab: Lab, column: str) -> Finding:
        stages = (secagg.ClipL2(CLIP), secagg.Quantise(LEVELS, "nearest"))
        if column == "noise":
            made = noisy_plan(plan(column, 4, SHAPE.length, l2_clip=NOISY_CLIP, epsilon=EPSILON))
        else:
            made = plan(column, 4, SHAPE.length, stages=stages)
        trials = {
            "plain": 1,
            "paillier-one": lab.trials(1, 120),
            "paillier-threshold": lab.trials(1, 40),
            "sparse": lab.trials(2, 1000),
            "noise": lab.trials(3, 3000),
        }.get(column, lab.trials(3, 3000))
        successes, refused, tried = 0, dict[str, None](), list[Tried]()
        for trial in range(trials):
            tried.append(self._try(lab, made, column, "full", trial))
            successes += tried[-1].hit
            refused |= dict.fromkeys(tried[-1].rules)
            lab.step(trial + 1, trials)
        controls, shown = ([], []) if column == "plain" else self._controls(lab, made, column)
        opened = sum(one.opened for one in tried)
        pictures = [*_pictures("without protection" if column == "plain" else "full build", tried)]
        pictures += _pictures("control", shown)
        feature = "feature: model hash in the contexts"
        stopping = [rule for rule in refused if rule.startswith("holder.")]
        seen = (
            f"In {successes} of {trials} rounds the sum was the victim's gradient: the others had "
            "none but that of the last bias."
            if successes
            else "Sites with different models did not share a context. "
            f"The server opened a sum in {opened} of {trials} rounds, and in none was it the "
            "victim's gradient rather than nothing, or the gradient of another site."
            + (f" Refused by {', '.join(refused)}." if refused else " No rule refused.")
        )
        if column == "noise":
            seen += (
                f" The noise is {100 * NOISE_PART:.0f} % in variance of what epsilon "
                f"{EPSILON:.0f} takes, so that the control can tell a gradient of one round; "
                "under more noise the attack has less to find."
            )
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried=f"The server sent one of {made.clients} sites the model, and all others one "
            "whose hidden units are dead, so that their gradients are zero; it then ran the round "
            "with both, each under the context of its model.",
            seen=seen,
            trials=trials,
            successes=successes,
            stopped_by=() if successes else (feature, *stopping),
            # What refuses a sum that was opened comes too late for the victim.
            also_refused=tuple(rule for rule in refused if successes or rule not in stopping),
            measures=[
                rate("gradients of the victim recovered", successes, trials),
                Measure(
                    name="part of the coordinates in which the other sites have no gradient",
                    value=min(one.silent for one in tried),
                    predicted=1 - CLASSES / SHAPE.length,
                    law="all but the last bias",
                ),
            ],
            controls=controls,
            figures=[
                Figure(
                    title="Gradient of the first hidden unit: the victim's, and what was claimed",
                    pictures=pictures,
                )
            ]
            if pictures
            else [],
            parameters={
                "n": made.clients,
                "t": made.protocol.share_threshold,
                "c": made.colluding,
                "d": made.length,
                "samples": SAMPLES,
            },
        )

    def _controls(self, lab: Lab, made: Plan, column: str) -> tuple[list[ControlRun], list[Tried]]:
        feature = "feature: model hash in the contexts"
        kind, paillier = client_of(column), column in PAILLIER
        blind = changed(kind, use_model=no_model_hash(kind))
        # Without the hash there is one context for all, holders and server included.
        others = changed(Holder, use_model=no_model_hash(Holder)) if paillier else None
        runs = lab.trials(1, 3 if paillier else 10)
        tried = [
            self._try(lab, made, column, "blind", i, sites=blind, holders=others)
            for i in range(runs)
        ]
        hits = sum(one.hit for one in tried)
        controls = [ControlRun(overrides=(feature,), trials=runs, successes=hits)]
        for rules in (("trailer",), ("knowledge",), ("trailer", "knowledge")) if paillier else ():
            weak = without(Holder, *rules)
            one = self._try(lab, made, column, "rules", 0, holders=weak)
            controls.append(
                ControlRun(
                    overrides=tuple(f"holder.{rule}" for rule in rules),
                    trials=1,
                    successes=int(one.hit),
                    expected=len(rules) == 2,
                    note="" if one.hit else f"refused by {', '.join(one.rules)}",
                )
            )
        return controls, tried

    def _try(
        self,
        lab: Lab,
        made: Plan,
        column: str,
        label: str,
        trial: int,
        *,
        sites: type[Any] | None = None,
        holders: type[Any] | None = None,
    ) -> Tried:
        """One round: what was claimed, what would be right, and who refused what."""
        rng, names = lab.rng(label, trial), made.roster.names
        alive = Network.initial(SHAPE, rng)
        dead = Network(alive.W * 0.0, alive.b * 0.0 + _DEAD, alive.V, alive.c)
        x, y = digits()
        vectors, batches = list[Floats](), list[Any]()
        for name in names:
            batch = rng.choice(len(x), size=SAMPLES, replace=False)
            batches.append(batch)
            net = alive if name == VICTIM else dead
            vectors.append(gradient(net, x[batch], y[batch])[0].vector)
        at, seed = names.index(VICTIM), lab.digest(label, trial)
        models = dict.fromkeys([*names, "server", *(n for n, _ in made.roster.holders)], dead)
        model = {name: net.vector.tobytes() for name, net in (models | {VICTIM: alive}).items()}
        rules: list[str] = []
        spread = 0.0
        if column == "plain":
            _, parties = plain_round(made, vectors)
            party = parties[VICTIM]
            inside = [
                encoded(parties[name], vector, bytes(SEED_SIZE))
                for name, vector in zip(names, vectors, strict=True)
            ]
            total = party.pipeline.decode(lifted(made, sum(inside)), made.clients).sum
        else:
            # The server is the adversary, and overlooks what would stop its own round.
            server = _overlooking(column, blind=sites is not None)
            world = arena(
                made,
                vectors,
                seed=seed,
                models=model,
                sites=sites,
                holders=holders,
                server=server,
            )
            world.edit = _both_contexts(world)
            rules = [rule for rule in finish(world) if not rule.startswith("server.")]
            total = None if world.result is None else world.result.sum
            if world.result is not None:
                spread = float(np.sqrt(world.result.noise_variance))
        silent = dead_coordinates(SHAPE)
        zeros = min(float((v == 0.0).mean()) for i, v in enumerate(vectors) if i != at)
        arrays = {"silent": silent} | ({} if total is None else {"sum": np.asarray(total)})
        given = transcript(
            made,
            [Frame(0, "server", name, model[name]) for name in (VICTIM, names[0])],
            public={"victim": VICTIM},
            models={0: model[VICTIM]},
            arrays=arrays,
        )
        right = _clipped(made, vectors[at])[silent]
        claim = np.asarray(lab.attack(given).vectors.get(VICTIM, []), dtype=np.float64)
        # What other sites would have sent, had they the victim's model.
        rivals = [
            _clipped(made, gradient(alive, x[batch], y[batch])[0].vector)[silent]
            for i, batch in enumerate(batches)
            if i != at and claim.size
        ]
        unit = CLIP / next(s.levels for s in made.stages if isinstance(s, secagg.Quantise))
        hit = judged(claim, right, rivals, unit, spread)
        return Tried(hit, rules, claim, right, zeros, total is not None)


def _clipped(made: Plan, vector: Floats) -> Floats:
    """A vector after the plan's clipping."""
    clip = next(stage.clip for stage in made.stages if isinstance(stage, secagg.ClipL2))
    found: Floats = vector * min(1.0, clip / max(float(np.linalg.norm(vector)), 1e-300))
    return found


def _pictures(label: str, tried: list[Tried]) -> list[Picture]:
    """The weights of the first hidden unit as an image, for the first round that has a claim."""
    for one in tried:
        if one.claim.shape == one.right.shape:
            size = SIDE * SIDE
            images = []
            for values in (one.right[:size], one.claim[:size]):
                reach = float(np.abs(values).max()) or 1.0
                images.append((0.5 + values / (2 * reach)).tolist())
            return [Picture(label=label, shape=(SIDE, SIDE), true=images[0], found=images[1])]
    return []


def dead_coordinates(shape: Shape) -> Any:
    """Which coordinates of an update dead hidden units silence: all but the last bias."""
    ones = np.ones(shape.classes)
    last = Network(
        np.zeros((shape.hidden, shape.inputs)),
        np.zeros(shape.hidden),
        np.zeros((shape.classes, shape.hidden)),
        ones,
    )
    return last.vector == 0.0


def _overlooking(column: str, *, blind: bool) -> type[Any]:
    kind = server_of(column)
    rules = ("trailer", "knowledge") if column in PAILLIER else ("trailer", "consent-set")
    weak = without(kind, *rules, "sum-range")
    return changed(weak, use_model=no_model_hash(kind)) if blind else weak


def _both_contexts(world: World) -> Any:
    """The server's messages to the victim, sealed under the context of the victim's own model."""

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if to != VICTIM or isinstance(world, PaillierWorld):
            return None
        header, tail = world.parts(frame)
        identity, victim = world.identities["server"], world.parties[VICTIM]
        return [sealed(victim, messages.KINDS[kind], "server", VICTIM, header, tail, identity)]

    return edit


__all__ = ["ModelInconsistencyScene", "dead_coordinates", "judged", "noisy_plan"]
