"""Row 16: masks and random factors of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import secagg
from secagg_native import bitpack
from secagg_native.aes_ctr import Keystreams
from secagg_protocols import masked_sum
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.masked_sum import masks, messages
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.plan import Plan
from secagg_protocols.result import ring_size

from ..arena.controls import changed
from ..attack import Frame, Keys
from ..columns import MASKED, PAILLIER, entropy, plan
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..keys import WeakGenerator, weakened
from ..scene import Lab, Scene
from .rounds import (
    HIGH,
    VICTIM,
    arena,
    finish,
    frames_of,
    parameters_of,
    read_plain,
    rows_of,
    stopped,
    transcript,
    truth,
)


class WeakGeneratorScene(Scene):
    """A build whose masks follow from few bits, and the full one."""

    attack = WeakGenerator
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        column: stopped(column) for column in ("plain", *MASKED, *PAILLIER)
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        length = 24
        common: dict[str, Any] = {"stages": (secagg.Integers(0, HIGH),)}
        if column in PAILLIER:
            return self._factors(lab, plan(column, 4, 8, **common))
        made = plan(column, 3, length, **(common if column == "sparse" else _small(common)))
        if column == "plain":
            public = {"victim": VICTIM, "window": [0, HIGH], "bits": 0, "truncated": False}
            return read_plain(lab, made, public)
        unknown = 2 if column == "sparse" else 1
        bits = lab.trials(16, 20) // unknown
        runs = []
        for weak in (False, True):
            runs.append(self._scan(lab, made, bits, unknown, weak=weak))
            lab.step(len(runs), 2)
        (hit, values), (control, weak_values) = runs
        speed = values["tried"] / values["seconds"]
        return _scanned(made, hit, control, speed, bits, unknown, values, weak_values, "mask keys")

    def _scan(
        self, lab: Lab, made: Plan, bits: int, unknown: int, *, weak: bool
    ) -> tuple[bool, dict[str, float]]:
        seed = lab.digest("scan", weak)
        own = made.roster.index(VICTIM)
        kind = changed(masked_sum.Client, _make_input=weak_input(bits)) if weak else None
        seeds: dict[int, bytes] = {}

        def note(self: Any, site: int, secret: bytes, holders: Any) -> None:
            seeds[site] = secret
            masked_sum.Server._check_commitment(self, site, secret, holders)

        server = changed(masked_sum.Server, _check_commitment=note)
        world = arena(made, rows_of(lab, made, 0), seed=seed, sites=kind, server=server)
        want = truth(world, seed, VICTIM)
        setup = world.server.contexts.setup
        finish(world)
        peers = [int(p) for p in world.server._graph[own]]
        keys = {"self": seeds[own]}
        for peer in peers[: len(peers) - unknown]:
            secret = entropy(seed, made.roster.names[peer])(SEED_SIZE)
            keys[f"mask {peer}"] = masks.SiteSecrets.derive(secret, setup).mask_seed
        public = {
            "victim": VICTIM,
            "window": _window(made),
            "bits": bits,
            "truncated": weak,
            "peers": peers,
        }
        given = transcript(made, frames_of(world), public=public)
        found = lab.attack(given, Keys(values=keys))
        return found.vectors.get(VICTIM) == want.tolist(), found.values

    def _factors(self, lab: Lab, made: Plan) -> Finding:
        bits = lab.trials(13, 17)
        values = []
        for weak in (False, True):
            small = (
                changed(PaillierClient, _exponents=_small_exponents(bits, lab)) if weak else None
            )
            seed, rows = lab.digest("factors", weak), rows_of(lab, made, 0)
            party = arena(made, rows, seed=seed, sites=small).parties[VICTIM]
            frames = [
                Frame(0, VICTIM, "server", event.data)
                for event in party.start() + party.submit(rows[made.roster.index(VICTIM)])
            ]
            found = lab.attack(transcript(made, frames, public={"victim": VICTIM, "bits": bits}))
            right = rows[made.roster.index(VICTIM)].tolist()
            values.append((found.vectors.get(VICTIM) == right, found.values))
            lab.step(len(values), 2)
        (hit, full), (control, weak_values) = values
        speed = full["tried"] / full["seconds"]
        return _scanned(made, hit, control, speed, bits, 1, full, weak_values, "random factors")


def _scanned(
    made: Plan,
    hit: bool,
    control: bool,
    speed: float,
    bits: int,
    unknown: int,
    values: dict[str, float],
    weak: dict[str, float],
    what: str,
) -> Finding:
    feature = f"feature: {what} of full entropy"
    hours = 2.0**32 / speed / 3600
    # A pair takes one subtraction from a table of masks, and no mask of its own.
    each = "pairs of masks from a table" if unknown > 1 else "trials"
    space = (
        "the 2^32 pairs of two seeds of 16 bits (two of 32 bits have 2^64)"
        if unknown > 1
        else "all seeds of 32 bits"
    )
    scale = [float(b) for b in range(bits * unknown, 65, 4)]
    return Finding(
        verdict=Verdict.LEAKS if hit else Verdict.PREVENTED,
        tried=f"The server tried all {int(values['tried'])} {what} of {bits} bits"
        + (f", {unknown} at once" if unknown > 1 else "")
        + ", for one that leaves a vector within the agreed range.",
        seen=("One fits the full build. " if hit else "None fits the full build. ")
        + (
            f"In a weak build, whose {what} have {bits} bits, the vector was found. "
            if control
            else "In the weak build none was found either. "
        )
        + f"At the measured {speed:,.0f} {each} a second, in Python, one core goes through "
        f"{space} in {hours:,.1f} hours. The full keys have at least 128 bits.",
        trials=int(values["tried"]),
        successes=int(hit),
        stopped_by=() if hit else (feature,),
        measures=[
            Measure(name=f"{each} a second, one core", value=speed, unit="1/s"),
            Measure(name=f"{space} at this speed", value=hours, unit="core hours"),
            Measure(
                name="trials on the weak build",
                value=weak["tried"],
                predicted=float(1 << bits * unknown)
                if unknown > 1 or what != "random factors"
                else None,
                law="j unknown masks of s bits cost 2^(s j)",
            ),
        ],
        controls=[ControlRun(overrides=(feature,), trials=1, successes=int(control))],
        figures=[
            Figure(
                title=f"Time to try all {what}",
                x_label="bits of entropy",
                y_label="core hours",
                log_y=True,
                series=[
                    Series(
                        name="at the measured speed",
                        x=scale,
                        y=[2.0**b / speed / 3600 for b in scale],
                        style="line",
                    ),
                    Series(
                        name="measured",
                        x=[float(bits * unknown)],
                        y=[values["seconds"] / 3600],
                    ),
                ],
            )
        ],
        parameters=parameters_of(made) | {"bits": bits, "unknown": unknown},
    )


def _small(common: dict[str, Any]) -> dict[str, Any]:
    """Three sites, one of them the server's: what is left between two honest ones is one mask."""
    return common | {"max_dropouts": 0}


def _window(made: Plan) -> list[int]:
    """Where a site's integers lie, with ten standard deviations of its noise."""
    noise = made.pipeline.noise
    reach = 0 if noise is None else int(10 * np.sqrt(noise.variance_levels2))
    return [-reach, HIGH + reach]


def weak_input(bits: int) -> Any:
    """``_make_input`` of a build whose pair masks follow from seeds of ``bits`` bits."""

    def make(self: Any, array: Any, weight: int, check: Any) -> Any:
        made, own, context = self.plan, self._own(), self.contexts.round
        seeds = iter(range(1 << 32))
        encoder = self.pipeline.begin(array, weight, lambda: own.stage_seed(context, next(seeds)))
        keys, signs = [masks.self_mask(own.self_seed, self.index, context)], [1]
        for peer in self._u2:
            if peer != self.index:
                pair = masks.pair_mask(
                    own.mask_exchange,
                    (self.index, own.mask_key),
                    (peer, self._adverts[peer][:32]),
                    context,
                    sender=self._name(peer),
                )
                keys.append(weakened(pair, bits))
                signs.append(masks.pair_sign(self.index, peer))
        ring = np.zeros(made.ring_length, dtype=made.lane)
        encoder.tile(ring, 0)
        Keystreams(*masks.key_arrays(keys, signs)).add_to(ring)
        packed = bytearray(ring_size(made))
        bitpack.pack(ring, made.wire_bits, packed)
        events = self._send(messages.INPUT, messages.Input(), packed)
        # What a site that has sent its input waits for.
        self._at = 4
        return events

    return make


def _small_exponents(bits: int, lab: Lab) -> Any:
    """Random factors h^r with r below 2^bits."""
    rng = lab.rng("exponents")

    def exponents(self: Any, bound: bytes) -> Any:
        words = self.plan.protocol.key.exponent_words
        small = np.zeros((1024, words), dtype=np.uint64)
        small[:, 0] = rng.integers(0, 1 << bits, size=1024, dtype=np.uint64)
        return lambda start, rows: small[start : start + rows]

    return exponents


__all__ = ["WeakGeneratorScene", "weak_input"]
