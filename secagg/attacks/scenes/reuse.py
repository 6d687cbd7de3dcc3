"""Row 8: two inputs under one mask, in two rounds or in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import secagg
from secagg_protocols import masked_sum
from secagg_protocols.keys import SEED_SIZE
from secagg_protocols.masked_sum import masks
from secagg_protocols.plan import Plan
from secagg_protocols.shared_rules import SITE_RULES

from ..arena.controls import changed, without
from ..attack import Frame
from ..columns import MASKED, PAILLIER, entropy, plan
from ..finding import ControlRun, Finding, Measure, Verdict
from ..keys import MaskReuse
from ..scene import Ints, Lab, Scene
from ..statistics import rate
from .rounds import (
    HIGH,
    INPUTS,
    VICTIM,
    arena,
    client_of,
    constant_contexts,
    encoded,
    finish,
    frames_of,
    parameters_of,
    plain_round,
    rows_of,
    server_of,
    stopped,
    transcript,
    truth,
)


class MaskReuseScene(Scene):
    """Rounds whose inputs are held against each other."""

    attack = MaskReuse
    expected: ClassVar[Mapping[str, Verdict | str]] = {
        column: stopped(column) for column in ("plain", *MASKED, *PAILLIER)
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        made = plan(column, 4, 8, stages=(secagg.Integers(0, HIGH),))
        if column == "plain":
            return self._plain(lab, made)
        client, server = client_of(column), server_of(column)
        rounds = lab.trials(3, 45)
        trials, successes = self._rounds(lab, made, column, rounds, None, None)
        controls = []
        if column in PAILLIER:
            weak = changed(client, _exponents=_same_exponents)
            ran, hit = self._rounds(lab, made, column, 2, weak, None)
            controls.append(
                ControlRun(overrides=("feature: fresh random factors",), trials=ran, successes=hit)
            )
        else:
            static = {"start": _static_keys}
            constant = {"use_model": constant_contexts(client)}
            center = changed(server, use_model=constant_contexts(server))
            fresh, bound = "feature: fresh keys each round", "feature: contexts in every key"
            for names, methods, hub in (
                ((fresh,), static, None),
                ((bound,), constant, center),
                ((fresh, bound), static | constant, center),
            ):
                weak = changed(client, **methods)
                ran, hit = self._rounds(lab, made, column, 2, weak, hub)
                controls.append(
                    ControlRun(overrides=names, trials=ran, successes=hit, expected=len(names) == 2)
                )
        once, again, rules = self._once(lab, made, column)
        controls += once
        trials, successes = trials + 1, successes + again
        features = (
            ("feature: fresh random factors",)
            if column in PAILLIER
            else ("feature: fresh keys each round", "feature: contexts in every key")
        )
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried=f"All pairs of inputs of each site in {rounds} rounds were subtracted, to see "
            "whether a mask or a random factor served twice; and a site was asked to send two "
            "vectors in one round.",
            seen=f"Of {trials - 1} differences {successes - again} were those of the vectors. A "
            "second vector in one round was refused by "
            f"{' and '.join(rules) if rules else 'nobody'}.",
            trials=trials,
            successes=successes,
            stopped_by=() if successes else (*features, *([] if column in PAILLIER else rules)),
            # A second Paillier ciphertext has other random factors whether it is refused or not.
            also_refused=tuple(rules) if successes or column in PAILLIER else (),
            measures=[
                Measure(
                    name="differences recovered exactly",
                    value=(successes - again) / (trials - 1),
                    law="pairs of a site share inputs, so that no interval is given",
                )
            ],
            controls=controls,
            parameters=parameters_of(made) | {"rounds": rounds},
        )

    def _plain(self, lab: Lab, made: Plan) -> Finding:
        frames, rows = list[Frame](), list[Ints]()
        for number in range(2):
            rows.append(rows_of(lab, made, number))
            frames += plain_round(made, rows[-1], round=number)[0]
        found = lab.attack(transcript(made, frames))
        hit = sum(
            found.vectors.get(f"{name} 0 1") == (rows[1] - rows[0])[i].tolist()
            for i, name in enumerate(made.roster.names)
        )
        return Finding(
            verdict=Verdict.LEAKS if hit else Verdict.PREVENTED,
            tried="The inputs of two rounds of a sum that is not protected were subtracted.",
            seen="There are no masks to reuse: every vector, and every change, is read as it is.",
            trials=made.clients,
            successes=hit,
            measures=[rate("differences recovered exactly", hit, made.clients)],
            parameters=parameters_of(made) | {"rounds": 2},
        )

    def _rounds(
        self,
        lab: Lab,
        made: Plan,
        column: str,
        rounds: int,
        sites: type[Any] | None,
        server: type[Any] | None,
    ) -> tuple[int, int]:
        """Differences claimed over rounds, and how many of them are right."""
        frames, inside = list[Frame](), list[dict[str, Ints]]()
        for number in range(rounds):
            seed = lab.digest("round", number)
            world = arena(
                made,
                rows_of(lab, made, number),
                seed=seed,
                round=number,
                sites=sites,
                server=server,
            )
            # A server that wants to compare rounds gives each site the same neighbours.
            world.server._entropy = entropy(lab.digest("graph"), "server")
            static = sites is not None and "start" in vars(sites)
            inside.append(
                {
                    name: encoded(world.parties[name], world.vectors[name], _static(world, name))
                    if static
                    else truth(world, seed, name)
                    for name in made.roster.names
                }
            )
            if column in PAILLIER:
                for name in made.roster.names:
                    party = world.parties[name]
                    for event in party.start() + party.submit(world.vectors[name]):
                        frames.append(Frame(number, name, "server", event.data))
            else:
                finish(world)
                frames += [f for f in frames_of(world) if f.data[3] in INPUTS]
            lab.step(number + 1, rounds)
        found = lab.attack(transcript(made, frames))
        trials = made.clients * rounds * (rounds - 1) // 2
        hits = sum(
            found.vectors.get(f"{name} {i} {j}") == (inside[j][name] - inside[i][name]).tolist()
            for name in made.roster.names
            for i in range(rounds)
            for j in range(i + 1, rounds)
        )
        return trials, hits

    def _once(self, lab: Lab, made: Plan, column: str) -> tuple[list[ControlRun], bool, list[str]]:
        """Two vectors in one round: controls without each rule; of an honest site, whether they
        were told apart and the rules that refused."""
        client = client_of(column)
        single = without(client, "input-once")
        journal = changed(secagg.MemoryJournal, _check_journal_once=_pass)
        first, second = "client.input-once", "journal.journal-once"
        again, rules = self._twice(lab, made, client, secagg.MemoryJournal)
        controls = []
        last = column not in PAILLIER
        for names, kind, book in (
            ((first,), single, secagg.MemoryJournal),
            ((second,), client, journal),
            ((first, second), single, journal),
        ):
            hit, said = self._twice(lab, made, kind, book)
            note = f"refused by {', '.join(said)}" if said else ""
            if not said and not hit:
                note = "two vectors left, under random factors that follow from the vector"
            expected = len(names) == 2 and last
            controls.append(
                ControlRun(
                    overrides=names, trials=1, successes=int(hit), expected=expected, note=note
                )
            )
        return controls, again, rules

    def _twice(
        self, lab: Lab, made: Plan, kind: type[Any], book: type[Any]
    ) -> tuple[bool, list[str]]:
        seed, rows = lab.digest("twice"), rows_of(lab, made, 0)
        world = arena(made, rows, seed=seed, sites=kind)
        victim, refused = world.parties[VICTIM], list[str]()
        victim.journal = book()
        other = (world.vectors[VICTIM] + 1) % (HIGH + 1)
        wanted = encoded(victim, other, entropy(seed, VICTIM)(SEED_SIZE)) - truth(
            world, seed, VICTIM
        )
        finish_inputs(world)
        sent = [f for f in frames_of(world) if f.sender == VICTIM and f.data[3] in INPUTS]
        try:
            for event in victim.submit(other):
                sent.append(Frame(0, VICTIM, "server", event.data))
        except secagg.SecAggError as error:
            once = any(rule.id == error.rule for rule in SITE_RULES)
            refused.append(f"{'client' if once else 'journal'}.{error.rule}")
        found = lab.attack(transcript(made, sent))
        return found.vectors.get(f"{VICTIM} 0 1") == wanted.tolist(), refused


def finish_inputs(world: Any) -> None:
    """Run until every site has sent its input, and no further."""
    held: list[str] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> Any:
        if kind in INPUTS and to == "server":
            held.append(sender)
            if len(held) == world.plan.clients:
                raise StopIteration
        return None

    world.edit = edit
    try:
        world.run()
    except StopIteration:
        world.edit = None


def _static_seed(index: int) -> bytes:
    return bytes([index]) + bytes(range(1, SEED_SIZE))


def _static(world: Any, name: str) -> bytes:
    return _static_seed(world.index(name))


def _static_keys(self: Any) -> Any:
    """A site whose keys of every round follow from one seed."""
    self._secrets = masks.SiteSecrets.derive(_static_seed(self.index), self.contexts.setup)
    return masked_sum.Client.start(self)


def _same_exponents(self: Any, bound: bytes) -> Any:
    """A site whose random factors are the same in every round."""
    words = self.plan.protocol.key.exponent_words

    def of(start: int, rows: int) -> Any:
        rng = np.random.default_rng([self.index, start])
        return rng.integers(0, 1 << 62, size=(rows, words), dtype=np.uint64)

    return of


def _pass(self: Any, *given: Any, **named: Any) -> None:
    """In the place of a check."""


__all__ = ["MaskReuseScene"]
