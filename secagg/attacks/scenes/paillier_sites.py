"""Rows 24 to 26: what a site sends, and what its ciphertexts show."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from itertools import cycle, product
from typing import Any, ClassVar

import numpy as np

import secagg
from secagg.attacks import columns
from secagg.attacks.arena.controls import changed, without
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_world import PaillierWorld
from secagg.attacks.attack import Evidence, Transcript
from secagg.attacks.finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from secagg.attacks.paillier import NoRerandomisation, RelatedCiphertexts, SlotOverflow
from secagg.attacks.process import LabError
from secagg.attacks.scene import Ints, Lab, Scene
from secagg.attacks.statistics import rate
from secagg_native.paillier import from_words
from secagg_protocols.paillier import Ciphertexts, Layout, PublicKey, encrypt
from secagg_protocols.paillier_sum import Client, Holder, Server, messages
from secagg_protocols.plan import Plan

from .paillier_play import (
    CHEAT,
    IN_CLEAR,
    LENGTH,
    MOST,
    SITES,
    VICTIM,
    as_frames,
    ask,
    cheating_site,
    claims,
    encrypted,
    make_holder,
    masked,
    open_all,
    public_of,
    submission,
    world_of,
)

_HOWS = ("power", "shifted", "cancel", "copy")
_PROOFS = ("theirs", "changed", "random")


class RelatedCiphertextsScene(Scene):
    """A server that shows all ciphertexts to a site that colludes with it."""

    attack = RelatedCiphertexts
    expected: ClassVar = {
        "plain": IN_CLEAR + "There is no ciphertext to make another from (see row 18 for scaling).",
        **masked(
            "A masked vector is no function of another site's: what a site can do to the sum is "
            "row 18, what the network can replay is row 22."
        ),
        "paillier-one": Verdict.PREVENTED,
        "paillier-threshold": Verdict.PREVENTED,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Submit related ciphertexts with every kind of proof; then to holders without rules."""
        plan = columns.plan(column, SITES, LENGTH)
        vectors = lab.inputs(SITES, LENGTH, MOST)
        older, world = (world_of(plan, vectors, round=r) for r in (0, 1))
        honest = {
            w.round: encrypted(w, [s for s in plan.roster.names if s != CHEAT])
            for w in (older, world)
        }
        total = lab.trials(12, 3000)
        met: Counter[str] = Counter()
        successes = accepted = 0
        seen: set[bytes] = set()
        for trial, (how, proof, number) in enumerate(cycle(product(_HOWS, _PROOFS, (1, 0)))):
            if len(seen) == total:
                break
            sent = self._forged(lab, world, honest[number], how, proof, number, trial)
            if sent in seen:
                # There is one exact copy of a message only: the same again is no other attempt.
                continue
            seen.add(sent)
            # A copy comes beside its original, so that the rule about copies could tell.
            given = [honest[1][VICTIM], sent] if how == "copy" else [sent]
            holder = make_holder(world, world.holders[0])
            refused = [rule for data in given for rule in _rules(holder, data)]
            if not refused:
                accepted += 1
                successes += self._read(lab, world, honest[1] | {CHEAT: sent}, how, vectors)
            met.update(f"holder.{rule}" for rule in refused)
            lab.step(len(seen), total)
        controls = list(self._controls(lab, world, honest, vectors))
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried=(
                f"A malicious server showed the ciphertexts of {SITES - 1} sites to a site that "
                f"colludes with it. In {total} attempts, no two alike, that site submitted what it "
                "made of them: the victim's ciphertext to a power of two, the same moved by a "
                "constant, the inverse of all other sites', an exact copy, each from this round "
                "or from the round before, with the victim's proof, with that proof changed "
                "in one bit, or with random bytes."
            ),
            seen=(
                f"Honest holders refused {total - accepted} of {total}. Nobody who cannot open "
                "the victim's ciphertext can prove that it knows what is in its own. Without the "
                "proof of knowledge the opened sum held the victim's vector in its high digits."
            ),
            trials=total,
            successes=successes,
            stopped_by=tuple(sorted(met)),
            also_refused=tuple(sorted(set(self._honest_server(lab, world, honest[1])))),
            measures=[
                rate("related ciphertexts accepted", accepted, total, predicted=0.0),
                rate("victims read", successes, total, predicted=0.0),
            ],
            controls=controls,
            parameters={"n": SITES, "colluding sites": 1, "d": LENGTH},
        )

    def _public(self, world: PaillierWorld, how: str) -> dict[str, Any]:
        return public_of(world.plan) | {"victim": VICTIM, "how": how, "count": SITES}

    def _forged(
        self,
        lab: Lab,
        world: PaillierWorld,
        honest: dict[str, bytes],
        how: str,
        proof: str = "theirs",
        round: int = 1,
        trial: int = 0,
    ) -> bytes:
        public = self._public(world, how) | {"proof": proof, "trial": trial}
        shown = honest if how == "cancel" else {VICTIM: honest[VICTIM]}
        found = lab.attack(Transcript(frames=as_frames(shown, round=round), public=public))
        return submission(world, found)

    def _honest_server(self, lab: Lab, world: PaillierWorld, honest: dict[str, bytes]) -> list[str]:
        """The rules by which an honest server refuses the same from a site on its own."""
        server = PaillierWorld(world.plan, round=world.round).server
        server.start()
        sent = self._forged(lab, world, honest, "power")
        server.receive(honest[VICTIM])
        return [f"server.{rule}" for rule in rules_of(lambda: server.receive(sent))]

    def _read(
        self,
        lab: Lab,
        world: PaillierWorld,
        sent: dict[str, bytes],
        how: str,
        vectors: Ints,
        kind: type[Holder] = Holder,
    ) -> bool:
        """Whether the answers to this product give the victim away (for a copy: count twice)."""
        refused, answers = open_all(world, sent, kind)
        if refused:
            return False
        public = self._public(world, how)
        frames = as_frames(answers, round=world.round)
        found = lab.attack(Transcript(frames=frames, public=public))
        if how == "copy":
            return claims(found, "sum", vectors.sum(axis=0) - vectors[1] + vectors[0])
        return claims(found, VICTIM, vectors[0])

    def _controls(
        self, lab: Lab, world: PaillierWorld, honest: dict[int, dict[str, bytes]], vectors: Ints
    ) -> Any:
        def run(how: str, rules: tuple[str, ...], round: int, expected: bool, note: str) -> Any:
            kind = without(Holder, *rules)
            sent = honest[1] | {CHEAT: self._forged(lab, world, honest[round], how, round=round)}
            refused: list[str] = []
            if not expected:
                refused, _ = ask(world, make_holder(world, world.holders[0], kind), sent)
                note += f" Refused by {', '.join(f'holder.{rule}' for rule in refused)}."
            won = not refused and self._read(lab, world, sent, how, vectors, kind)
            return ControlRun(
                overrides=tuple(f"holder.{rule}" for rule in rules),
                trials=1,
                successes=int(won),
                expected=expected,
                note=note,
            )

        high = "The high digits of the sum were the victim's vector."
        yield run("power", ("knowledge",), 1, True, high)
        if lab.full:
            yield run("cancel", ("knowledge",), 1, True, "The sum was the victim's vector.")
            earlier = "The sum held the victim's vector of the round before."
            yield run("power", ("knowledge",), 0, True, earlier)
        yield run("copy", ("knowledge",), 1, False, "An exact copy.")
        yield run("copy", ("repeated",), 1, False, "An exact copy.")
        twice = "An exact copy: the victim counted twice."
        yield run("copy", ("knowledge", "repeated"), 1, True, twice)


def _rules(holder: Any, data: bytes) -> list[str]:
    return rules_of(lambda: holder.receive(data, sender="server"))


def _no_randomness(_self: Any, *_arguments: Any) -> Any:
    """In the place of a site's random exponents: r is 1."""
    return lambda start, rows: np.zeros((rows, 8), dtype=np.uint64)


def _one_randomness(_self: Any, *_arguments: Any) -> Any:
    """In the place of a site's random exponents: the same for all sites."""

    def of(start: int, rows: int) -> Any:
        return np.arange(start + 1, start + rows * 8 + 1, dtype=np.uint64).reshape(rows, 8)

    return of


def _zero_exponents(_self: Any, rows: int) -> Any:
    """In the place of a key's random exponents: r is 1."""
    return np.zeros((rows, 8), dtype=np.uint64)


class NoRerandomisationScene(Scene):
    """Ciphertexts of real sites, files, and sums of files, from sound and from weak code."""

    attack = NoRerandomisation
    expected: ClassVar = {
        "plain": IN_CLEAR + "There is no randomness to forget.",
        **masked("Masks that repeat are row 8, masks from a weak generator are row 16."),
        "paillier-one": Verdict.PREVENTED,
        "paillier-threshold": Verdict.PREVENTED,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Read the frames of sites, encrypted files and their sum; then those of weak code."""
        slots = messages.layout_of(columns.plan(column, SITES, LENGTH)).slots
        length = slots * lab.trials(4, 750)
        plan = columns.plan(column, SITES, length)
        vectors = lab.inputs(SITES, length, MOST)
        found = [self._frames(lab, plan, vectors, Client), self._files(lab, plan, vectors)]
        looked = int(sum(each.values["looked"] for each in found))
        hits = int(sum(each.values["ones"] + each.values["shared"] for each in found))
        hits += sum(len(each.vectors) for each in found)
        small = columns.plan(column, SITES, 2 * slots)
        return Finding(
            verdict=Verdict.LEAKS if hits else Verdict.PREVENTED,
            tried=(
                f"{looked} ciphertexts, as {SITES} sites sent them, as encrypted files and as the "
                "sum of such files, were searched for a random factor of 1 and for random factors "
                "that occur twice."
            ),
            seen=(
                f"{hits} of {looked} were found. "
                + ("" if hits else "Every ciphertext has a random factor of its own. ")
                + "Of code that forgets the factor, every number was read without any key; of "
                "sites that share one, all differences between them."
            ),
            trials=looked,
            successes=hits,
            stopped_by=() if hits else ("feature: random exponents",),
            measures=[rate("ciphertexts without fresh randomness", hits, looked, predicted=0.0)],
            controls=self._controls(lab, small, lab.inputs(SITES, 2 * slots, MOST)),
            parameters={"n": SITES, "d": length, "ciphertexts": looked},
        )

    def _frames(self, lab: Lab, plan: Plan, vectors: Ints, kind: type[Client]) -> Evidence:
        names = plan.roster.names
        world = world_of(plan, vectors, classes=dict.fromkeys(names, kind))
        frames = as_frames(encrypted(world, names))
        return lab.attack(Transcript(frames=frames, public=public_of(plan)))

    def _files(self, lab: Lab, plan: Plan, vectors: Ints, kind: type = PublicKey) -> Evidence:
        protocol, layout = messages.protocol_of(plan), messages.layout_of(plan)
        # Under a key that promises proofs no files are made.
        values = {f.name: getattr(protocol.key, f.name) for f in fields(protocol.key)}
        key = kind(**(values | {"knowledge_proofs": False}))
        made = [encrypt(key, row.astype(np.uint64), layout) for row in vectors]
        blobs = {f"s{i}": each.to_bytes() for i, each in enumerate(made)}
        blobs["sum"] = Ciphertexts.sum_of(made).to_bytes()
        arrays = {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}
        public = public_of(plan) | {"counts": {"sum": len(vectors)}}
        return lab.attack(Transcript(arrays=arrays, public=public))

    def _controls(self, lab: Lab, plan: Plan, vectors: Ints) -> list[ControlRun]:
        forgot = self._frames(lab, plan, vectors, changed(Client, _exponents=_no_randomness))
        shared = self._frames(lab, plan, vectors, changed(Client, _exponents=_one_randomness))
        files = self._files(lab, plan, vectors, changed(PublicKey, exponents=_zero_exponents))
        read = sum(claims(forgot, f"s{i}", row) for i, row in enumerate(vectors))
        gaps = sum(
            claims(shared, f"s{i} - s0", vectors[i] - vectors[0]) for i in range(1, len(vectors))
        )
        filed = sum(claims(files, f"s{i}", row) for i, row in enumerate(vectors))
        filed += claims(files, "sum", vectors.sum(axis=0))
        many = len(vectors)
        rows = (
            ("feature: random exponents of a site (all zero)", many, read, "Vectors as sent."),
            ("feature: random exponents of a site (shared)", many - 1, gaps, "Differences."),
            ("feature: random exponents of a key (all zero)", many + 1, filed, "Files and a sum."),
        )
        return [
            ControlRun(overrides=(what,), trials=trials, successes=won, note=note)
            for what, trials, won, note in rows
        ]


class SlotOverflowScene(Scene):
    """A site that encrypts numbers beyond their slots, in rounds of real parties."""

    attack = SlotOverflow
    expected: ClassVar = {
        "plain": "No slots: numbers are not packed. Numbers out of range are rows 18 and 19.",
        **masked("Coordinates do not share a number; values out of range are rows 18 and 19."),
        "paillier-one": Verdict.CORRUPTS,
        "paillier-threshold": Verdict.CORRUPTS,
    }

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Overflow by amounts of all sizes, and compare what was noticed with the law."""
        plan = columns.plan(column, SITES, LENGTH)
        vectors = lab.inputs(SITES, LENGTH, MOST)
        layout = messages.layout_of(plan)
        one = column == "paillier-one"
        draws = self._draws(lab, layout, vectors, lab.trials(4 if one else 2, 90 if one else 30))
        outcomes: list[tuple[str, int, str, int]] = []
        wrong: list[str] = []
        for at, (kind, amount) in enumerate(draws):
            rows = self._rows(lab, plan, vectors, kind, amount)
            rule, error = self._play(plan, vectors, rows, Server)
            expected = _law(vectors, rows, layout)
            if expected != rule:
                wrong.append(f"{kind} {amount}: {rule or 'nothing'}, the law says {expected}")
            outcomes.append((kind, amount, rule, error))
            lab.step(at + 1, len(draws))
        if wrong:
            raise LabError("; ".join(wrong))
        quiet = [each for each in outcomes if not each[2] and each[3]]
        noticed = Counter(f"server.{rule}" for _, _, rule, _ in outcomes if rule)
        neighbours = sum(kind == "carry" for kind, _, _, _ in quiet)
        reach = max((error for _, _, _, error in quiet), default=0)
        sums = vectors.sum(axis=0)
        furthest = max(int(sums.max()), SITES * MOST - int(sums.min()))
        if reach > furthest:
            raise LabError(f"a sum was off by {reach}, and honest sums by {furthest} at most")
        return Finding(
            verdict=Verdict.CORRUPTS if quiet else Verdict.DETECTED,
            tried=(
                f"One of {SITES} sites encrypted numbers that do not fit their slots, with good "
                f"proofs that it knows them: {len(draws)} rounds with amounts of all sizes, "
                "larger than a site may send, so large that the slot wraps and carries into its "
                "neighbour, and beyond all slots."
            ),
            seen=(
                f"In {len(quiet)} of {len(draws)} rounds a wrong sum was released and nobody was "
                f"told, in {neighbours} of them with a neighbour changed by the carry. In "
                f"{sum(noticed.values())} the server refused a sum that no honest sites could "
                "have, and could only name all sites as suspects. The proofs show that a site "
                "knows its numbers and not that they are in range, so a site moved a coordinate "
                f"by up to {reach} unnoticed; the range of honest sums allows {furthest} here. "
                "Little is noticed, because a slot is just as wide as honest sums need it."
            ),
            trials=len(draws),
            successes=len(quiet),
            also_refused=tuple(sorted(noticed)),
            measures=[
                rate("overflows that nobody noticed", len(quiet), len(outcomes)),
                Measure(
                    name="largest error that nobody noticed",
                    value=float(reach),
                    bound=float(furthest),
                    law="at most the distance to the end of the range of honest sums",
                ),
                Measure(
                    name="outcomes that differ from the law",
                    value=float(len(wrong)),
                    predicted=0.0,
                    law=SlotOverflow.law,
                ),
            ],
            controls=self._controls(lab, plan, vectors),
            figures=[_figure(outcomes)],
            parameters={
                "n": SITES,
                "d": LENGTH,
                "bits of a coordinate": layout.bits,
                "bits of a slot": layout.slot_bits,
            },
        )

    def _draws(self, lab: Lab, layout: Layout, vectors: Ints, total: int) -> list[tuple[str, int]]:
        # The first carries as the catalogue says; then one of each kind.
        fixed = [
            ("carry", min(100, int(vectors.sum(axis=0)[0]))),
            ("inside", _edge(vectors)),
            ("inside", MOST),
            ("top", 1),
        ]
        rng = lab.rng("amounts")
        most = layout.slot_bits - 1
        drawn = [
            (str(rng.choice(["inside", "carry"])), int(2 ** rng.uniform(0, most)))
            for _ in range(total - len(fixed))
        ]
        return (fixed + drawn)[:total]

    def _rows(self, lab: Lab, plan: Plan, vectors: Ints, kind: str, amount: int) -> list[int]:
        own = vectors[1].tolist()
        asked = {"own": own, "kind": kind, "amount": amount, "coordinate": 0}
        found = lab.attack(Transcript(public=public_of(plan) | asked))
        size = 8 * messages.protocol_of(plan).key.words
        data = found.arrays["rows"].tobytes()
        return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]

    def _play(
        self, plan: Plan, vectors: Ints, rows: list[int], kind: type[Server]
    ) -> tuple[str, int]:
        """(rule that ended the round or nothing, the largest error of a released sum)."""
        classes = {"server": kind, CHEAT: cheating_site(plan, rows)}
        world = world_of(plan, vectors, classes=classes)
        try:
            world.run()
        except secagg.PeerError as error:
            return error.rule, 0
        if world.result is None:
            raise LabError("a round without noise ends with a sum or an error")
        gap = np.abs(world.result.sum.astype(np.int64) - vectors.sum(axis=0))
        return "", int(gap.max())

    def _controls(self, lab: Lab, plan: Plan, vectors: Ints) -> list[ControlRun]:
        controls = []
        cases = (
            ("sum-range", "inside", _edge(vectors), "A sum that no honest sites have."),
            ("slot-range", "top", 1, "The slots are not read without the check: zeros came out."),
        )
        # A round of threshold mode is slow, and the second case is the same in both modes.
        few = cases if lab.full or messages.protocol_of(plan).holders == 1 else cases[:1]
        for rule, kind, amount, note in few:
            rows = self._rows(lab, plan, vectors, kind, amount)
            met, error = self._play(plan, vectors, rows, without(Server, rule))
            won = not met and error > 0
            controls.append(
                ControlRun(overrides=(f"server.{rule}",), trials=1, successes=int(won), note=note)
            )
        wrong = _carries(messages.layout_of(plan), vectors)
        note = "Sums of honest sites carried into their neighbours."
        controls.append(
            ControlRun(overrides=("feature: carry bits",), trials=1, successes=wrong, note=note)
        )
        return controls


def _edge(vectors: Ints) -> int:
    """What takes the first coordinate of the sum just above all honest sums."""
    return SITES * MOST + 50 - int(vectors.sum(axis=0)[0])


def _law(vectors: Ints, rows: list[int], layout: Layout) -> str:
    """The rule that notices, or nothing: by plain integers, from the definition of a layout."""
    offset, width = 1 << layout.bits - 1, layout.slot_bits
    total = sum(rows)
    for i, vector in enumerate(vectors.tolist()):
        if i != 1:
            total += sum((x + offset) << slot * width for slot, x in enumerate(vector))
    count = len(vectors)
    if total >> width * layout.length:
        return "slot-range"
    sums = [total >> slot * width & ((1 << width) - 1) for slot in range(layout.length)]
    if max(sums) > count * ((1 << layout.bits) - 1):
        return "slot-range"
    # Modulo 2^b, with representatives from 0 on: honest sums are within 0..n most.
    found = [(each - count * offset) % (1 << layout.bits) for each in sums]
    return "sum-range" if max(found) > count * MOST else ""


def _carries(layout: Layout, vectors: Ints) -> int:
    """Whether honest vectors add up wrongly in slots without carry bits (1 or 0)."""
    narrow = changed(Layout, slot_bits=property(lambda self: self.bits))
    made = narrow(layout.bits, layout.most, layout.length, layout.key_bits)
    # As large as the ring has them, so that sums need the bits that are not there.
    ring = vectors.astype(np.uint64) + np.uint64(MOST // 2)
    total = sum(number for row in ring for number in from_words(made.pack(row)))
    mask = (1 << layout.bits) - 1
    sums = [total >> slot * layout.bits & mask for slot in range(layout.length)]
    honest = [sum(column) for column in zip(*ring.tolist(), strict=True)]
    offset = len(vectors) << layout.bits - 1
    return int(any((got - offset - want) & mask for got, want in zip(sums, honest, strict=True)))


def _figure(outcomes: list[tuple[str, int, str, int]]) -> Figure:
    series = []
    for name, level in (
        ("unnoticed", ""),
        ("sum-range", "sum-range"),
        ("slot-range", "slot-range"),
    ):
        points = [float(amount) for _, amount, rule, _ in outcomes if rule == level]
        heights = {"": 0.0, "sum-range": 1.0, "slot-range": 2.0}
        series.append(Series(name=name, x=points, y=[heights[level]] * len(points)))
    return Figure(
        title="What the server notices of an overflow",
        x_label="amount",
        y_label="0 nothing, 1 sum-range, 2 slot-range",
        series=series,
        log_x=True,
    )


__all__ = ["NoRerandomisationScene", "RelatedCiphertextsScene", "SlotOverflowScene"]
