"""Rounds in which one site reveals a wrong share, and the decoder that servers use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import masked_sum, shamir
from secagg_protocols.masked_sum import messages as masked
from secagg_protocols.masked_sum.graph import draw
from secagg_protocols.plan import Plan
from secagg_protocols.shamir import SHARE_SIZE

from .. import columns, statistics
from ..arena import controls
from ..arena.world import World
from ..attack import Attack, Keys, Transcript
from ..clients import WrongShare
from ..columns import entropy
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from .lying import LIAR, Played, everywhere, named, play, tolerance, weaker

_STEP: Final = secagg.Step


def _without_spare(server: Any) -> Any:
    """In the place of closing: of each secret's shares only as many as the threshold are kept."""
    need = server.plan.protocol.share_threshold
    used: dict[int, int] = {}
    for holder, (tail, given) in sorted(server._reveals.items()):
        kept = [at for at, dealer in enumerate(given) if used.get(dealer, 0) < need]
        for at in kept:
            used[given[at]] = used.get(given[at], 0) + 1
        parts = [tail[SHARE_SIZE * at : SHARE_SIZE * (at + 1)] for at in kept]
        server._reveals[holder] = (b"".join(parts), tuple(given[at] for at in kept))
    return masked_sum.Server._close_reveals(server)


class WrongShareScene(Scene):
    """A wrong share with answers to spare, with none, of either secret; and the law of both."""

    attack: ClassVar[type[Attack]] = WrongShare
    expected: ClassVar[Mapping[str, Verdict | str]] = everywhere(
        Verdict.DETECTED,
        plain="Nothing is shared in a plain sum.",
        paillier_one="The key is not shared; see the attack bad-decryption for its holder.",
        paillier_threshold="Sites hold no shares; see the attack bad-decryption for holders.",
    )
    LENGTH: ClassVar[int] = 64

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Rounds on the full build and on each control, and the decoding law over a grid."""
        made = columns.plan(column, 7, self.LENGTH)
        trials = lab.trials(1, 20)
        outs: list[Played] = []
        wrong = exact = 0
        rules: set[str] = set()
        for trial in range(trials):
            lab.step(trial, trials)
            for sort in ("random", "shifted"):
                for spare, gone in ((True, False), (False, False), (False, True)):
                    out, right = self._round(lab, column, made, trial, sort, spare, gone, None)
                    outs.append(out)
                    wrong += out.total is not None and not right
                    exact += out.total is not None and right
                    if out.rule:
                        rules.add(named(column, out.rule))
                    if right and LIAR not in out.suspects:
                        raise LabError("a wrong share was corrected and nobody was told")
        noticed = sum(1 for out in outs if LIAR in out.suspects)
        aborted = sum(1 for out in outs if out.total is None)
        agree, cells, figure = self._grid(lab)
        if agree != cells:
            raise LabError(f"{cells - agree} of {cells} cells of the grid are against the law")
        decoding = ("feature: Reed-Solomon decoding",) if exact else ()
        return Finding(
            verdict=Verdict.CORRUPTS if wrong else Verdict.DETECTED,
            tried=(
                f"One of {made.clients} sites (threshold {made.protocol.share_threshold}) reveals "
                "a wrong share of another site's self seed or, after a dropout, of its mask seed: "
                "at random, and shifted so that the rebuilt secret differs in one limb and looks "
                "like any other. With two answers to spare, and with none."
            ),
            seen=(
                f"{exact} of {len(outs)} rounds corrected the share and gave the right sum, "
                f"{aborted} ended without a result; the lying site was among the suspects in "
                f"{noticed}. {wrong} wrong sums were delivered. In {agree} of {cells} settings of "
                "answers, threshold and wrong shares, shares were corrected as the law says."
            ),
            trials=len(outs),
            successes=wrong,
            stopped_by=() if wrong else tuple(sorted({*rules, *decoding})),
            also_refused=tuple(sorted({*rules, *decoding})) if wrong else (),
            measures=[
                statistics.rate("liar among the suspects", noticed, len(outs)),
                statistics.rate("rounds without a result", aborted, len(outs)),
                Measure(
                    name=f"settings of {cells} that were decoded as the law says",
                    value=agree / cells,
                    predicted=1.0,
                    law=WrongShare.law,
                ),
            ],
            controls=self._controls(lab, column, made),
            figures=[figure],
            parameters={"n": made.clients, "t": made.protocol.share_threshold, "d": self.LENGTH},
        )

    def _controls(self, lab: Lab, column: str, made: Plan) -> list[ControlRun]:
        """Each rule that stops a wrong share off alone, and all that stop it off together."""
        ranged = () if column == "noise" else ("sum-range",)
        plans: list[tuple[str, bool, tuple[str, ...], bool]] = [
            ("random", False, ("decoded",), False),
            ("random", False, ("decoded", "commitment", *ranged), True),
            ("shifted", False, ("commitment",), not ranged),
            ("shifted", True, ("mask-key",), not ranged),
        ]
        if ranged:
            plans += [
                ("shifted", False, ("commitment", "sum-range"), True),
                ("shifted", True, ("mask-key", "sum-range"), True),
            ]
        runs = []

        def run(
            overrides: tuple[str, ...],
            sort: str,
            spare: bool,
            gone: bool,
            server: type[Any],
            expected: bool,
        ) -> None:
            out, right = self._round(lab, column, made, 0, sort, spare, gone, server)
            note = "the right sum" if right else "a wrong sum without notice"
            if out.rule:
                note = f"stopped by {named(column, out.rule)}"
            elif out.suspects and not right:
                note = "a wrong sum with suspects"
            wrong = out.total is not None and not right
            runs.append(
                ControlRun(
                    overrides=overrides,
                    trials=1,
                    successes=int(wrong),
                    expected=expected,
                    note=note,
                )
            )

        for sort, gone, off, expected in plans:
            named_off = tuple(f"server.{rule}" for rule in off)
            run(named_off, sort, False, gone, weaker(column, *off), expected)
        # Of the answers to spare nothing is left where only as many as the threshold are used.
        rest = ("decoded", "commitment", *ranged)
        few = controls.changed(weaker(column, *rest), _close_reveals=_without_spare)
        off_too = tuple(f"server.{rule}" for rule in rest)
        run(("feature: Reed-Solomon decoding", *off_too), "random", True, False, few, True)
        # The same with decoding, which corrects the share.
        run(off_too, "random", True, False, weaker(column, *rest), False)
        return runs

    def _round(
        self,
        lab: Lab,
        column: str,
        made: Plan,
        trial: int,
        sort: str,
        spare: bool,
        gone: bool,
        server: type[Any] | None,
    ) -> tuple[Played, bool]:
        """One round; whether its sum is right. spare: nobody else falls silent at the end.
        gone: the site whose secret is rebuilt has left before its input."""
        seed = lab.digest("round", trial, sort, spare, gone)
        vectors = lab.inputs(made.clients, self.LENGTH, 1000, trial)
        graph = draw(made, entropy(seed, "server")(32))
        me = made.roster.index(LIAR)
        near = graph[me]
        target = near[0]
        holders = [*graph[target]] + ([] if gone else [target])
        t = made.protocol.share_threshold
        others = [site for site in holders if site != me]
        quiet = [] if spare else others[t - 1 :]
        names = made.roster.names
        drop: dict[int, list[str]] = {}
        if gone:
            drop[int(_STEP.INPUT)] = [names[target]]
        if quiet:
            drop[int(_STEP.REVEAL)] = [names[site] for site in quiet]
        told = {
            "me": me,
            "holders": sorted(set(holders) - set(quiet)),
            "at": sorted((*near, me)).index(target),
            "seed": int(lab.rng("shares", trial).integers(1 << 62)),
        }

        def edit(world: World, kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
            if kind != masked.REVEAL.number or sender != LIAR:
                return None
            _, tail = world.parts(frame)
            found = lab.attack(Transcript(public=told), Keys(values={"shares": tail}))
            return [world.reseal(frame, tail=found.arrays[sort].tobytes())]

        out = play(column, made, vectors, seed=seed, server=server, edit=edit, drop=drop)
        if out.total is None:
            return out, False
        rows = [row for name, row in zip(names, vectors, strict=True) if name in out.survivors]
        away = np.abs(out.total - np.sum(rows, axis=0)).max()
        return out, bool(away <= tolerance(made, len(out.survivors)))

    def _grid(self, lab: Lab) -> tuple[int, int, Figure]:
        """Wrong shares against the decoder that servers use: settings that agree with the law,
        all settings, and the curve."""
        rng = lab.rng("grid")
        most = lab.trials(5, 10)
        cells = agree = 0
        curve: dict[int, int] = {}
        for t in range(2, most + 1):
            for spare in range(most):
                have = t + spare
                for wrong in range(spare + 1):
                    cells += 1
                    right = self._corrected(rng, have, t, wrong)
                    agree += right == (wrong <= spare // 2)
                    if right:
                        curve[spare] = max(wrong, curve.get(spare, 0))
        x = [float(spare) for spare in sorted(curve)]
        law = [float(spare // 2) for spare in sorted(curve)]
        return (
            agree,
            cells,
            Figure(
                title="Wrong shares that are corrected",
                x_label="answers beyond the threshold",
                y_label="wrong shares",
                series=[
                    Series(name="measured", x=x, y=[float(curve[int(spare)]) for spare in x]),
                    Series(name="floor((have - t) / 2)", x=x, y=law, style="line"),
                ],
            ),
        )

    @staticmethod
    def _corrected(rng: np.random.Generator, have: int, t: int, wrong: int) -> bool:
        """Whether a secret survives so many wrong shares, and the right ones are marked."""
        secret = rng.bytes(32)
        sites = list(range(have))
        table = shamir.split([secret], sites, t, rng.bytes(32))
        bad = sorted(rng.choice(have, size=wrong, replace=False).tolist())
        table[bad] = rng.integers(0, shamir.PRIME, size=(wrong, 1, shamir.LIMBS), dtype=np.uint64)
        (found,), marked = shamir.recover(sites, table, t)
        return found == secret and np.flatnonzero(marked[:, 0]).tolist() == bad


__all__ = ["WrongShareScene"]
