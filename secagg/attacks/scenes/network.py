"""Row 22: rounds over a network that does what it likes, and sites that say two things."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

import numpy as np

import secagg
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.plan import Plan

from ..adversaries import network as faults
from ..adversaries.network import Fault, Network
from ..arena.controls import rules_of, without
from ..arena.paillier_world import PaillierWorld
from ..arena.world import World
from ..attack import Frame
from ..columns import MASKED, PAILLIER, entropy, plan
from ..finding import ControlRun, Figure, Finding, Measure, Series, Verdict
from ..keys import Replay
from ..process import LabError
from ..scene import Ints, Lab, Scene
from ..statistics import rate
from .rounds import (
    INPUTS,
    arena,
    client_of,
    finish,
    frames_of,
    lifted,
    plain_round,
    server_of,
    transcript,
    truth,
)

#: Largest integer of a site: half of the ring is no honest sum, so that one that is still masked
#: lies outside of the range in one of its coordinates.
HIGH: Final = 550
LIAR: Final = "s2"
#: Batches that one step may take: messages that answer messages, late ones included.
_MOST_BATCHES: Final = 12
#: The batch in which the inputs of a masked sum travel: adverts, their answer, shares and theirs
#: come before.
_INPUTS_TRAVEL: Final = 5


class Outcome(NamedTuple):
    """How a round ended. kind: exact, aborted or wrong; rules: ``party.rule`` with counts."""

    kind: str
    rules: Counter[str]
    seen: list[Frame]
    marks: int
    evidence: int


def weather(number: int) -> tuple[Fault, ...]:
    """The faults of a schedule: calm ones lose nothing, so that most rounds get through."""
    scale = (1, 1, 2, 5)[number % 4]
    lost = 0.0 if scale == 1 else 0.006 * scale
    return (
        faults.Replay(0.03 * scale),
        faults.Repeat(0.03 * scale),
        faults.Duplicate(0.05 * scale),
        faults.Flip(lost),
        faults.Misdirect(lost / 2),
        faults.Relabel(lost / 2),
        faults.Delay(lost),
        faults.Drop(lost),
        faults.Reorder(0.5),
    )


class Course:
    """One round over a network, from the first message to the sum or to what ends it."""

    def __init__(
        self, world: World, network: Network, truths: dict[str, list[Ints]], liar: Any = None
    ) -> None:
        self.world, self.network, self.truths, self.liar = world, network, truths, liar
        self.rules: Counter[str] = Counter()
        self.results: list[Any] = []
        self.evidence = 0

    def run(self) -> Outcome:
        """Play it. Every error of a party is what that party refused."""
        world = self.world
        world.server.start()
        first: list[Frame] = []
        for name in world.plan.roster.names:
            events = world.parties[name].start() + world.parties[name].submit(world.vectors[name])
            first += self._sent(events, name)
        if self.liar is not None:
            other = (world.vectors[LIAR] + 1) % (HIGH + 1)
            events = self.liar.start() + self.liar.submit(other)
            first += self._different(events, {frame.data for frame in first})
        self._settle(first)
        while world.server.step is not None:
            try:
                events = world.server.close_step()
            except secagg.SecAggError as error:
                self._refuse("server", error)
                break
            self._settle(self._sent(events, "server"))
        return Outcome(
            self._kind(),
            self.rules,
            self.network.seen,
            len(self.network.marks),
            self.evidence,
        )

    def _settle(self, frames: list[Frame]) -> None:
        for _ in range(_MOST_BATCHES):
            if not frames and not self.network.late:
                return
            answers: list[Frame] = []
            for frame in self.network.carry(frames):
                answers += self._deliver(frame)
            frames = answers

    def _deliver(self, frame: Frame) -> list[Frame]:
        said = self._receive(self.world.parties[frame.to], frame)
        answers = self._sent(said, frame.to)
        if self.liar is not None and frame.to == LIAR:
            twice = self._receive(self.liar, frame)
            answers += self._different(twice, {answer.data for answer in answers})
        return answers

    def _different(self, events: list[Any], known: set[bytes]) -> list[Frame]:
        return [frame for frame in self._sent(events, LIAR) if frame.data not in known]

    def _receive(self, party: Any, frame: Frame) -> list[Any]:
        try:
            events = list(party.receive(frame.data, sender=frame.sender))
        except secagg.SecAggError as error:
            self._refuse(party.role, error)
            return []
        for event in events:
            if isinstance(event, secagg.Ignored | secagg.Dropped):
                self._refuse(party.role, event.error)
        return events

    def _refuse(self, role: str, error: secagg.SecAggError) -> None:
        self.rules[f"{role}.{error.rule}"] += 1
        digests = getattr(error, "digests", ())
        self.evidence += len(set(digests)) == 2

    def _sent(self, events: list[Any], sender: str) -> list[Frame]:
        frames = []
        for event in events:
            if isinstance(event, secagg.Done) and event.aggregate is not None:
                self.results.append(event.aggregate)
            if isinstance(event, secagg.Send):
                frames.append(Frame(self.world.round, sender, event.to, event.data))
        return frames

    def _kind(self) -> str:
        if not self.results:
            return "aborted"
        return "exact" if all(self._exact(result) for result in self.results) else "wrong"

    def _exact(self, result: Any) -> bool:
        """Whether a sum is that of its survivors; a liar's first vector may be either of two."""
        sums: list[Any] = [0]
        for name in result.survivors:
            sums = [total + vector for total in sums for vector in self.truths[name]]
        found = np.asarray(result.sum, dtype=np.float64)
        return any(
            np.array_equal(found, lifted(self.world.plan, total).astype(np.float64))
            for total in sums
        )


class ReplayScene(Scene):
    """Seeded schedules of faults, over rounds of real parties."""

    attack = Replay
    expected = (
        {"plain": Verdict.LEAKS}
        | dict.fromkeys((*MASKED, *PAILLIER), Verdict.DETECTED)
        # Digests without a key stop no attacker.
        | dict.fromkeys(("semi-honest", "sparse", "noise"), Verdict.CORRUPTS)
    )

    def investigate(self, lab: Lab, column: str) -> Finding:
        made = plan(column, 4, 64, stages=(secagg.Integers(0, HIGH),))
        if column == "plain":
            return self._plain(lab, made)
        schedules = {
            "sparse": lab.trials(6, 700),
            "malicious-server": lab.trials(12, 1200),
            "paillier-one": lab.trials(3, 150),
            "paillier-threshold": lab.trials(1, 40),
        }.get(column, lab.trials(12, 1500))
        earlier = self._earlier(lab, made)
        ends, rules, marks, evidence, leaks = Counter[str](), Counter[str](), 0, 0, 0
        for number in range(schedules):
            # Every third schedule has a site that sends two vectors.
            course = self._course(lab, made, column, number, earlier, liar=number % 3 == 0)
            outcome = course.run()
            ends[outcome.kind] += 1
            rules += outcome.rules
            marks, evidence = marks + outcome.marks, evidence + outcome.evidence
            leaks += self._read(lab, made, course, outcome)
            lab.step(number + 1, schedules)
        controls = self._controls(lab, made, column)
        forgeries, forged, said = self._forged(lab, made, column)
        if not made.signed and forged != forgeries:
            raise LabError(f"{forgeries - forged} forged digests were refused, and take no key")
        wrong = ends["wrong"]
        verdict = Verdict.DETECTED
        if wrong or forged:
            verdict = Verdict.CORRUPTS
        elif leaks:
            verdict = Verdict.LEAKS
        refused_forgery = f" ({', '.join(said)})" if said else ""
        named = [rule for rule, _ in rules.most_common() if _in_table(rule, column)]
        trusting = (
            f" A network that changed an input and signed it with a key of its own got {forged} of "
            f"{forgeries} through{refused_forgery}."
            if made.signed
            else " A network that is no accident but an attacker can compute the digests of this "
            f"plan anew, which have no key: {forged} of {forgeries} such forgeries counted in the "
            "sum. A semi-honest plan relies on an authenticated transport; a malicious-server "
            "plan signs."
        )
        return Finding(
            verdict=verdict,
            tried=f"{schedules} rounds over a network that lost, repeated, delayed, reordered, "
            "replayed, misdirected, relabelled and damaged messages by a seed; in every third a "
            f"site sent two different vectors. In {forgeries} more rounds it changed a bit of an "
            "input and computed what seals the message itself.",
            seen=f"{marks} faults: {ends['exact']} rounds ended in the exact sum of their "
            f"survivors, {ends['aborted']} in none, {wrong} in a wrong one. {leaks} vectors could "
            "be read off the wire. Sites that said two things were ended, with "
            f"{evidence} pairs of digests as evidence.{trusting}",
            trials=schedules + forgeries,
            successes=wrong + leaks + forged,
            stopped_by=tuple(named) if verdict == Verdict.DETECTED else (),
            also_refused=() if verdict == Verdict.DETECTED else tuple(named),
            # Of an unsigned plan the transport is trusted to pass messages on.
            beyond=not made.signed and not wrong and not leaks,
            measures=[
                rate("rounds with a wrong sum", wrong, schedules, predicted=0.0),
                rate("rounds that ended in the exact sum", ends["exact"], schedules),
                Measure(name="faults", value=float(marks)),
                rate(
                    "forgeries of an active network that counted in the sum",
                    forged,
                    forgeries,
                    predicted=0.0 if made.signed else 1.0,
                    law="digests have no key, signatures have",
                ),
            ],
            controls=controls,
            figures=[
                Figure(
                    title="Messages refused, by rule",
                    x_label="rule (in the order of the list)",
                    y_label="messages",
                    series=[
                        Series(name=name, x=[float(i + 1)], y=[float(rules[name])], style="bars")
                        for i, name in enumerate(named)
                    ],
                )
            ],
            parameters={
                "n": made.clients,
                "t": made.protocol.share_threshold,
                "c": made.colluding,
                "d": made.length,
                "schedules": schedules,
            },
        )

    def _plain(self, lab: Lab, made: Plan) -> Finding:
        x = lab.inputs(made.clients, made.length, HIGH)
        found = lab.attack(transcript(made, plain_round(made, x)[0]))
        right = sum(
            found.vectors.get(name) == x[i].tolist() for i, name in enumerate(made.roster.names)
        )
        return Finding(
            verdict=Verdict.LEAKS if right else Verdict.DETECTED,
            tried="Whoever carries the messages of a sum that is not protected read them.",
            seen=f"{right} of {made.clients} vectors were read as they are. Signed messages stop "
            "changes, and hide nothing.",
            trials=made.clients,
            successes=right,
            measures=[rate("inputs read", right, made.clients)],
            parameters={"n": made.clients, "d": made.length},
        )

    def _earlier(self, lab: Lab, made: Plan) -> list[Frame]:
        """The messages of an honest round before."""
        rows = lab.inputs(made.clients, made.length, HIGH, "earlier")
        world = arena(made, rows, seed=lab.digest("earlier"), round=0)
        if isinstance(world, PaillierWorld):
            world.send_inputs()  # what follows costs more than all the rest of this cell
        else:
            finish(world)
        return frames_of(world)

    def _course(
        self,
        lab: Lab,
        made: Plan,
        column: str,
        number: int,
        earlier: list[Frame],
        *,
        liar: bool,
        label: str = "full",
        server: type[Any] | None = None,
        holders: type[Any] | None = None,
        these: tuple[Fault, ...] | None = None,
    ) -> Course:
        seed = lab.digest(label, number)
        rows = lab.inputs(made.clients, made.length, HIGH, label, number)

        def build() -> World:
            return arena(made, rows, seed=seed, round=1, server=server, holders=holders)

        world = build()
        truths = {name: [truth(world, seed, name)] for name in made.roster.names}
        other: Any = None
        if liar:
            # The same site once more: the same keys, and another vector.
            twin = build()
            other = twin.parties[LIAR]
            twin.vectors[LIAR] = (twin.vectors[LIAR] + 1) % (HIGH + 1)
            truths[LIAR].append(truth(twin, seed, LIAR))
        schedule = int.from_bytes(seed[:8], "little")
        network = Network(schedule, *(weather(number) if these is None else these), earlier=earlier)
        return Course(world, network, truths, other)

    def _read(self, lab: Lab, made: Plan, course: Course, outcome: Outcome) -> int:
        """How many vectors of honest sites the network can tell."""
        frames = [f for f in outcome.seen if f.data[3] in INPUTS]
        if not frames:
            return 0
        found = lab.attack(transcript(made, frames))
        return sum(
            found.vectors.get(name) == known[0].tolist()
            for name, known in course.truths.items()
            if name != LIAR
        )

    def _controls(self, lab: Lab, made: Plan, column: str) -> list[ControlRun]:
        if column in PAILLIER:
            return self._paillier_controls(lab, made, column)
        twice = (faults.Duplicate(1.0, "server", _INPUTS_TRAVEL, "s1"),)
        flip = (faults.Flip(1.0, "server", _INPUTS_TRAVEL, "s1"),)
        order, span, both = "step-order", "sum-range", "equivocation"
        noisy = column == "noise"
        found = [
            self._control(lab, made, column, ("trailer",), flip, liar=False, expected=True),
            # With noise a sum may leave its range, so no rule looks at that.
            self._control(lab, made, column, (order,), twice, liar=False, expected=noisy),
            self._control(lab, made, column, (both,), (), liar=True, expected=False),
        ]
        if noisy:
            return [
                *found,
                self._control(lab, made, column, (both, order), (), liar=True, expected=True),
            ]
        return [
            *found,
            self._control(lab, made, column, (span,), twice, liar=False, expected=False),
            self._control(lab, made, column, (order, span), twice, liar=False, expected=True),
            self._control(lab, made, column, (both, order, span), (), liar=True, expected=True),
        ]

    def _paillier_controls(self, lab: Lab, made: Plan, column: str) -> list[ControlRun]:
        twice = (faults.Duplicate(1.0, "server", 1, "s1"),)
        flip = (faults.Flip(1.0, "server", 1, "s1"),)
        run = self._control
        order, again, span = "step-order", "repeated", "sum-range"
        return [
            run(lab, made, column, ("trailer",), flip, liar=False, expected=False),
            run(lab, made, column, (order,), twice, liar=False, expected=False),
            run(lab, made, column, (again,), twice, liar=False, expected=False),
            run(lab, made, column, (order, again, span), twice, liar=False, expected=True),
        ]

    def _control(
        self,
        lab: Lab,
        made: Plan,
        column: str,
        rules: tuple[str, ...],
        these: tuple[Fault, ...],
        *,
        liar: bool,
        expected: bool,
    ) -> ControlRun:
        """Rounds without some rules, at the server and, where they multiply too, at holders."""
        server = without(server_of(column), *rules)
        holders, names = None, [f"server.{rule}" for rule in rules]
        shared = [rule for rule in rules if rule in {"trailer", "step-order", "repeated"}]
        if column in PAILLIER and shared:
            holders = without(Holder, *shared)
            names += [f"holder.{rule}" for rule in shared]
        quick = 1 if column in PAILLIER else 3
        runs = lab.trials(quick, {"paillier-threshold": 4, "paillier-one": 12}.get(column, 60))
        wrong, said = 0, Counter[str]()
        for number in range(runs):
            course = self._course(
                lab,
                made,
                column,
                number,
                [],
                liar=liar,
                label=" ".join(rules),
                server=server,
                holders=holders,
                these=these,
            )
            outcome = course.run()
            wrong += outcome.kind == "wrong"
            said += outcome.rules
        note = f"refused by {', '.join(sorted(said))}" if said and not wrong else ""
        return ControlRun(
            overrides=tuple(names), trials=runs, successes=wrong, expected=expected, note=note
        )

    def _forged(self, lab: Lab, made: Plan, column: str) -> tuple[int, int, list[str]]:
        """Rounds in which the network changes an input and seals it, those with a wrong sum, and
        the rules that refused. Where messages are signed it has a key of its own only."""
        few = {"paillier-one": 12, "paillier-threshold": 4}
        runs, wrong, said = lab.trials(1, few.get(column, 100)), 0, dict[str, None]()
        for number in range(runs):
            seed = lab.digest("forged", number)
            rows = lab.inputs(made.clients, made.length, HIGH, "forged", number)
            world = arena(made, rows, seed=seed, round=1)
            truths = {name: [truth(world, seed, name)] for name in made.roster.names}
            fake = secagg.Identity("s1", entropy(seed, "network")(32))
            # Parties have the true identities already: this is who seals for the network.
            world.identities = dict(world.identities) | {"s1": fake}
            world.edit = _forging(world)
            said |= dict.fromkeys(finish(world))
            if world.result is not None:
                course = Course(world, Network(0), truths)
                wrong += not course._exact(world.result)
        return runs, wrong, list(said)


def _in_table(rule: str, column: str) -> bool:
    """Whether a refusal is by a rule of the tables, and not by the framing or an earlier end."""
    party, _, name = rule.partition(".")
    kind = {"client": client_of, "server": server_of}.get(party, lambda _: Holder)(column)
    return name in rules_of(kind)


def _forging(world: World) -> Any:
    """Changes the lowest bit of an input, and computes its digest anew: that takes no key."""

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if kind not in INPUTS or sender != "s1":
            return None
        tail = bytearray(world.parts(frame)[1])
        tail[0] ^= 1
        return [world.reseal(frame, tail=bytes(tail))]

    return edit


__all__ = ["Course", "Outcome", "ReplayScene", "weather"]
