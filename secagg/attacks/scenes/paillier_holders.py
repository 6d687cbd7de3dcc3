"""Rows 23 and 28: holders that look, and holders that lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, cycle, islice
from typing import Any, ClassVar

import numpy as np

import secagg
from secagg.attacks import columns
from secagg.attacks.arena.controls import without
from secagg.attacks.arena.paillier_played import reload, rules_of
from secagg.attacks.arena.paillier_world import PaillierWorld
from secagg.attacks.attack import Frame, Keys, Transcript
from secagg.attacks.finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from secagg.attacks.paillier import BadDecryption, KeyHolder
from secagg.attacks.process import LabError
from secagg.attacks.scene import Ints, Lab, Scene
from secagg.attacks.statistics import rate
from secagg_protocols.paillier_sum import Holder, Server, messages
from secagg_protocols.plan import Plan

from .paillier_play import (
    LENGTH,
    MOST,
    SITES,
    VICTIM,
    as_frames,
    ask,
    claims,
    encrypted,
    key_parts,
    make_holder,
    masked,
    public_of,
    seal,
    world_of,
)
from .rounds import plain_round, transcript


def sized_plan(holders: int, threshold: int, **changes: Any) -> Plan:
    """A plan of threshold mode with this many holders; of one holder, in one-key mode."""
    return columns.plan(
        "paillier-threshold", SITES, LENGTH, holders=holders, threshold=threshold, **changes
    )


def any_plan(holders: int, threshold: int) -> Plan:
    """The same, also where two sets of holders could open: for a control, and for row 23."""
    return sized_plan(holders, threshold, kind=without(secagg.Plan, "one-opening"))


class KeyHolderScene(Scene):
    """Holders that look at single vectors, and a server that asks the others to help them."""

    attack = KeyHolder
    expected: ClassVar = {
        "plain": Verdict.LEAKS,
        **masked("Nobody holds a key; colluding holders of mask shares are rows 2 and 9."),
        "paillier-one": Verdict.LEAKS,
        "paillier-threshold": Verdict.PREVENTED,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Plain and one key: read everything. Threshold: the law, and requests that are refused."""
        vectors = lab.inputs(SITES, LENGTH, MOST)
        if column == "paillier-threshold":
            return self._threshold(lab, vectors)
        if column == "plain":
            plan = columns.plan(column, SITES, LENGTH)
            frames, _ = plain_round(plan, vectors)
            found = lab.attack(transcript(plan, frames, public={"protocol": "plain"}))
            tried = "The server of a plain sum read the messages of the sites."
            who = "The server has every site's vector: there is nothing to break."
        else:
            plan = columns.plan(column, SITES, LENGTH)
            world = world_of(plan, vectors)
            frames = as_frames(encrypted(world, plan.roster.names), to="h0")
            keys = Keys(values=key_parts(world, ["h0"]))
            found = lab.attack(Transcript(frames=frames, public=public_of(plan)), keys)
            tried = (
                "The holder of the one key decrypted the ciphertexts that every holder is given "
                "in every round, to compute the product itself."
            )
            who = (
                "It read every site's vector, without help from the server and without a trace. "
                "The server, which has no key, sees only sums: server and holder must be "
                "different organisations, and the holder one that may see all data. If that is "
                "not so, share the key among several holders."
            )
        read = sum(claims(found, f"s{i}", row) for i, row in enumerate(vectors))
        return Finding(
            verdict=Verdict.LEAKS if read else Verdict.PREVENTED,
            tried=tried,
            seen=f"{who} ({read} of {SITES} vectors, exactly.)",
            trials=SITES,
            successes=read,
            measures=[rate("vectors read exactly", read, SITES)],
            parameters={"n": SITES, "d": LENGTH, "holders": 1, "threshold": 1},
        )

    def _threshold(self, lab: Lab, vectors: Ints) -> Finding:
        cells = self._law(lab, vectors)
        below = [cell for cell in cells if cell[2] < cell[1]]
        above = [cell for cell in cells if cell[2] >= cell[1]]
        shut = [(h, t, c) for h, t, c, opened in above if not opened]
        if shut:
            raise LabError(f"holders, threshold, colluders that open nothing: {shut}")
        world = world_of(any_plan(3, 2), vectors)
        sent = encrypted(world, world.plan.roster.names)
        requests = list(_requests(list(sent), every=lab.full))
        met, helped = Counter[str](), 0
        for listed, given in requests:
            read, rules = self._asked(lab, world, sent, vectors, listed, given, Holder)
            helped += read
            met.update(f"holder.{rule}" for rule in rules)
        controls = self._request_controls(lab, world, sent, vectors)
        alone = [cell[3] for cell in cells if cell[1] == 1 <= cell[2]]
        if alone:
            controls.append(
                ControlRun(
                    overrides=("feature: threshold",),
                    trials=len(alone),
                    successes=sum(alone),
                    note="Threshold 1: every colluding holder opened the vector.",
                )
            )
        matters = {rule for each in controls if each.expected for rule in each.overrides}
        opened = sum(cell[3] for cell in below)
        won = opened + helped
        if not opened and below:
            met["feature: threshold"] += len(below)
        sets = "every set of colluding holders" if lab.full else "colluding holders"
        return Finding(
            verdict=Verdict.LEAKS if won else Verdict.PREVENTED,
            tried=(
                f"For up to {max(cell[0] for cell in cells)} holders and their thresholds, {sets} "
                f"({len(cells)} in all) tried to open a single site's ciphertext with their "
                "shares. Then a server with one colluding holder of three (threshold 2) asked an "
                f"honest holder for that ciphertext, in {len(requests)} ways: each names a set of "
                "sites and passes on the ciphertexts of a set."
            ),
            seen=(
                f"Sets below the threshold opened the vector in {opened} of {len(below)} cases, "
                f"sets that reach it in {len(above)} of {len(above)}. Of {len(requests)} requests "
                f"to the honest holder {helped} led to the vector. "
                "So it takes a threshold of colluding holders, and they should be of organisations "
                "that do not act together. Every holder is given all ciphertexts in every round, "
                "so nothing but the threshold stands between colluders and a vector."
            ),
            trials=len(below) + len(requests),
            successes=won,
            exhaustive=lab.full,
            stopped_by=tuple(sorted(rule for rule in met if rule in matters)),
            also_refused=tuple(sorted(rule for rule in met if rule not in matters)),
            measures=[
                Measure(
                    name="cases that differ from the law",
                    value=float(opened + len(shut)),
                    predicted=0.0,
                    law=f"{len(cells)} sets: opened if and only if colluders >= threshold",
                )
            ],
            controls=controls,
            figures=[cells_figure("Opening a single vector", cells, "threshold - colluders")],
            parameters={"n": SITES, "d": LENGTH, "holders": 3, "threshold": 2, "colluding": 1},
        )

    def _law(self, lab: Lab, vectors: Ints) -> list[tuple[int, int, int, bool]]:
        """(holders, threshold, colluders, opened) of every set of colluders."""
        sizes = [(h, t) for h in range(2, 6) for t in range(1, h + 1)]
        sizes = sizes if lab.full else [(2, 1), (3, 2)]
        cells = []
        for at, (h, t) in enumerate(sizes):
            plan = any_plan(h, t)
            world = world_of(plan, vectors)
            frames = as_frames(encrypted(world, [VICTIM]), to="h0")
            for c in range(h + 1):
                every = list(combinations(world.holders, c))
                for chosen in every if lab.full else every[:1]:
                    keys = Keys(values=key_parts(world, chosen))
                    found = lab.attack(Transcript(frames=frames, public=public_of(plan)), keys)
                    cells.append((h, t, c, claims(found, VICTIM, vectors[0])))
            lab.step(at + 1, len(sizes))
        return cells

    def _request_controls(
        self, lab: Lab, world: PaillierWorld, sent: dict[str, bytes], vectors: Ints
    ) -> list[ControlRun]:
        """One honest holder without one rule; the rule about the product is not what matters."""
        own = "The holder opened the product that it had computed itself, of all sites."
        everybody = list(sent)
        controls = []
        for rule, listed, given, expected, note in (
            ("cohort", [VICTIM], [VICTIM], True, "A cohort of one."),
            ("given", everybody, [VICTIM], True, "One ciphertext, under the names of all."),
            ("product", everybody, everybody, False, own),
        ):
            kind = without(Holder, rule)
            read, rules = self._asked(lab, world, sent, vectors, listed, given, kind)
            controls.append(
                ControlRun(
                    overrides=(f"holder.{rule}",),
                    trials=1,
                    successes=int(read),
                    expected=expected,
                    note=f"Refused by {', '.join(rules)}." if rules else note,
                )
            )
        return controls

    def _asked(
        self,
        lab: Lab,
        world: PaillierWorld,
        sent: dict[str, bytes],
        vectors: Ints,
        listed: list[str],
        given: list[str],
        kind: type[Holder],
    ) -> tuple[bool, list[str]]:
        """Whether h1, of class ``kind``, helped h0 to open the victim's ciphertext."""
        inputs = {site: sent[site] for site in given}
        holder = make_holder(world, "h1", kind)
        rules, answer = ask(world, holder, inputs, listed, {VICTIM: sent[VICTIM]})
        frames = as_frames({VICTIM: sent[VICTIM]}, to="h0")
        if answer:
            frames += as_frames({"h1": answer})
        public = public_of(world.plan) | {"asked": VICTIM}
        keys = Keys(values=key_parts(world, ["h0"]))
        found = lab.attack(Transcript(frames=frames, public=public), keys)
        return claims(found, VICTIM, vectors[0]), rules


def _requests(sites: list[str], *, every: bool) -> Iterator[tuple[list[str], list[str]]]:
    """(sites that a request names, sites whose ciphertexts were passed on) of all requests."""
    if not every:
        yield from (([VICTIM], [VICTIM]), (sites, [VICTIM]), (sites, sites))
        return
    sets = [list(each) for k in range(1, len(sites) + 1) for each in combinations(sites, k)]
    yield from ((listed, given) for listed in sets for given in sets)


class BadDecryptionScene(Scene):
    """A holder that answers wrongly."""

    attack = BadDecryption
    expected: ClassVar = {
        "plain": "Nothing is decrypted: whoever adds can state any sum.",
        **masked("A wrong share of a mask is row 20."),
        "paillier-one": Verdict.DETECTED,
        "paillier-threshold": Verdict.PREVENTED,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Change the answer of h0 in many ways; then let the others complete the round."""
        one = column == "paillier-one"
        plan = columns.plan(column, SITES, LENGTH)
        vectors = lab.inputs(SITES, LENGTH, MOST)
        world = world_of(plan, vectors).send_inputs()
        answers: dict[str, bytes] = {}
        for event in world.server.close_step():
            if isinstance(event, secagg.Send):
                events = world.parties[event.to].receive(event.data, sender="server")
                answers.update((event.to, bytes(e.data)) for e in events if _is_send(e))
        dump = world.server.dump()
        total = lab.trials(4, 3000 if one else 1000)
        sums = vectors.sum(axis=0).tolist()
        # Within the range of honest sums, so that nothing else notices.
        move = 100 if sums[0] < SITES * MOST - 100 else -100
        met, successes = Counter[str](), 0
        for trial, (how, slot, by) in enumerate(islice(_changes(sums, lab.rng("moves")), total)):
            bad = self._bad(lab, world, answers["h0"], how, trial, slot, by)
            server = reload(Server, world, "server", dump)
            refused = rules_of(lambda s=server, b=bad: s.receive(b))  # type: ignore[misc]
            met.update(f"server.{rule}" for rule in refused)
            successes += not refused
            lab.step(trial + 1, total)
        bad = self._bad(lab, world, answers["h0"], "shift", total, 0, move)
        rest = {name: data for name, data in answers.items() if name != "h0"}
        before = world.journals["server"].copy()
        named, outcome = self._round(world, reload(Server, world, "server", dump), bad, rest)
        right = outcome is not None and outcome == vectors.sum(axis=0).tolist()
        if one:
            seen = "No sum came out: the only holder had been ended, and the round with it."
            verdict = Verdict.DETECTED if named and outcome is None else Verdict.CORRUPTS
        else:
            seen = "The two other holders completed the round, with the right sum."
            verdict = Verdict.PREVENTED if named and right else Verdict.CORRUPTS
        weak = without(Server, "opening-proof" if one else "share-proof")
        # The control is a life of its own, from before the round was closed.
        server = reload(weak, world, "server", dump, before)
        _, wrong = self._round(world, server, bad, rest)
        moved = vectors.sum(axis=0)
        moved[0] += move
        control = ControlRun(
            overrides=("server.opening-proof" if one else "server.share-proof",),
            trials=1,
            successes=int(wrong == moved.tolist()),
            note="The released sum was off by the number that the holder chose.",
        )
        return Finding(
            verdict=Verdict.CORRUPTS if successes else verdict,
            tried=(
                f"The holder h0 answered in {total} wrong ways, no two alike: moved so that one "
                "coordinate of the sum changes by a number of its choice, with the old proof or "
                "with a random one, and with random numbers."
            ),
            seen=(
                f"The server refused {total - successes} of {total} and named h0. {seen} Without "
                "the check of the proof the wrong sum was released and nothing showed it."
            ),
            trials=total,
            successes=successes,
            stopped_by=tuple(sorted(met)),
            measures=[rate("wrong answers accepted", successes, total, predicted=0.0)],
            controls=[control],
            parameters={
                "n": SITES,
                "d": LENGTH,
                "holders": len(world.holders),
                "threshold": messages.protocol_of(plan).share_threshold,
            },
        )

    def _bad(
        self,
        lab: Lab,
        world: PaillierWorld,
        answer: bytes,
        how: str,
        trial: int,
        slot: int,
        move: int,
    ) -> bytes:
        header, tail = world.parts(answer)
        cut = messages.opened_size(world.plan)
        chosen = list(range(1, messages.protocol_of(world.plan).share_threshold + 1))
        asked = {
            "how": how,
            "trial": trial,
            "proof": tail[cut:],
            "row": 0,
            "slot": slot,
            "move": move,
            "with": chosen,
        }
        public = public_of(world.plan) | asked
        found = lab.attack(Transcript(frames=[Frame(0, "h0", "server", answer)], public=public))
        body = found.arrays["rows"].tobytes() + found.arrays["proof"].tobytes()
        return seal(world, messages.OPENED, "h0", "server", header, body)

    def _round(
        self, world: PaillierWorld, server: Server, bad: bytes, rest: dict[str, bytes]
    ) -> tuple[bool, list[int] | None]:
        """(whether h0 was named, the sum that came out or nothing)."""
        events = server.receive(bad)
        named = any(isinstance(e, secagg.Dropped) and e.site == "h0" for e in events)
        for data in rest.values():
            server.receive(data)
        try:
            done = [e for e in server.close_step() if isinstance(e, secagg.Done)]
        except secagg.ThresholdError:
            return named, None
        aggregate = done[0].aggregate
        return named, None if aggregate is None else aggregate.sum.tolist()


def _is_send(event: Any) -> bool:
    return isinstance(event, secagg.Send)


def _changes(sums: list[int], rng: np.random.Generator) -> Iterator[tuple[str, int, int]]:
    """(how, slot, move) without end, no two alike: each moves one sum within its range."""
    seen = set()
    for how in cycle(("shift", "random", "noise")):
        while True:
            slot = int(rng.integers(len(sums)))
            move = int(rng.integers(SITES * MOST + 1)) - sums[slot]
            if move and (slot, move) not in seen:
                break
        seen.add((slot, move))
        yield how, slot, move


def cells_figure(title: str, cells: list[tuple[int, int, int, bool]], x_label: str) -> Figure:
    """Cells of a law by their distance from its bound."""
    twice = x_label.startswith("2")
    series = []
    for name, wanted in (("opened", True), ("nothing", False)):
        points = [(h, t, c) for h, t, c, got in cells if got == wanted]
        x = [float(2 * t - h - c if twice else t - c) for h, t, c in points]
        series.append(Series(name=name, x=x, y=[float(wanted)] * len(x)))
    return Figure(title=title, x_label=x_label, y_label="opened", series=series)


__all__ = ["BadDecryptionScene", "KeyHolderScene", "any_plan", "cells_figure", "sized_plan"]
