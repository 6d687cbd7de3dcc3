"""Row 6: who is counted as a site, under which parameters.

Row 7 is in ``small_cohort``, rows 9 and 10 are in ``sparse_graphs``, row 11 in
``disaggregation``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

import secagg
from secagg_protocols import paillier_sum
from secagg_protocols.enrolment import Membership
from secagg_protocols.errors import SecAggError
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.paillier_sum import messages as paillier_messages
from secagg_protocols.plan import Plan
from secagg_protocols.signed_roster import SignedRoster

from .. import columns
from ..arena import paillier_world
from ..arena.controls import without
from ..arena.world import World, digest, people
from ..attack import Keys, Transcript
from ..cohorts import Sybils
from ..finding import ControlRun, Finding, Verdict
from ..process import LabError
from ..scene import Lab, Scene
from ..statistics import within
from .cohort_rounds import (
    COLLUDER,
    MOST,
    VICTIM,
    WIDE,
    by_name,
    frames,
    open_world,
    play,
    public,
    shares_of,
    sum_of,
)
from .disaggregation import DisaggregationScene
from .small_cohort import SmallCohortScene
from .sparse_graphs import GraphPartitionScene, NeighbourCaptureScene

#: Of an owner of the roster that is not the server, and of one that is.
OWNER: Final = secagg.Identity("enrolment", digest("laboratory", "enrolment"))
SERVER_OWNED: Final = secagg.Identity("mallory", digest("laboratory", "mallory"))


class SybilsScene(Scene):
    """Row 6: the plan's roster, or its parameters, are of the server's choosing."""

    attack = Sybils
    expected: ClassVar[Mapping[str, Verdict | str]] = {"plain": Verdict.LEAKS} | dict.fromkeys(
        (*columns.MASKED, *columns.PAILLIER), Verdict.PREVENTED
    )

    def investigate(self, lab: Lab, column: str) -> Finding:
        """Strangers, then weaker plans, each against the whole build and its control."""
        made = self._plan(column)
        if column == "plain":
            return self._plain(lab, made)
        controls, stopped = list[ControlRun](), list[str]()
        trials = successes = 0
        for accepted, rule in ((False, "enrolment-signature"), (True, "plan-epoch")):
            trials += 1
            refused, right = self._strangers(lab, column, made, Membership, accepted)
            successes += right
            stopped += [refused] if refused else []
            weak = without(Membership, rule)
            refused, right = self._strangers(lab, column, made, weak, accepted)
            controls.append(
                ControlRun(
                    overrides=(f"member.{rule}",),
                    trials=1,
                    successes=int(right),
                    note="the site's floors are on, and the strangers' plan meets all of them",
                )
            )
        lab.step(1, 3)
        if column in columns.MASKED:
            trials += 1
            refused, answered = self._switched(lab, column)
            successes += answered
            stopped += [refused] if refused else []
            controls += self._switched_controls(lab, column)
        lab.step(2, 3)
        tried, floor_rules, opened = self._downgrades(lab, column, made, Client)
        trials, successes = trials + tried, successes + opened
        stopped += floor_rules
        weak_trials, _, weak_opened = self._downgrades(
            lab, column, made, self._without_floors(column)
        )
        controls.append(
            ControlRun(
                overrides=("client.floors",),
                trials=weak_trials,
                successes=weak_opened,
                note="the server's plan, and colluding sites that the agreed threshold withstands"
                + ("; the plan without noise gives up the noise alone" if column == "noise" else "")
                if column not in columns.PAILLIER
                else "a Paillier key that the server has made",
            )
        )
        pinned = ""
        if column in columns.MASKED:
            pinned = "; a site that holds the agreed plan heard nothing that was said under another"
        lesser = "the weaker plan" if tried == 1 else f"all {tried} weaker plans"
        behind = ", among strangers behind its own noise" if column == "noise" else ""
        return Finding(
            verdict=Verdict.LEAKS if successes else Verdict.PREVENTED,
            tried=(
                f"The server wrote the roster of {made.clients} sites itself: one honest, the "
                "others its own. It showed it with a signature of its own, and without one after "
                "the true roster. "
                + (
                    "It spoke by another plan to a site that holds the agreed one. "
                    if column in columns.MASKED
                    else ""
                )
                + "Then it kept the true sites and proposed weaker plans: "
                + self._weaker(column)
            ),
            seen=(
                "A site that holds the consortium's enrolment key refused both rosters, and a "
                f"site with floors refused {lesser}{pinned}. Without the one "
                f"rule, the honest site's vector came out exactly{behind}. Floors alone do not "
                "stop strangers: they count sites and cannot know whose they are. A site that was "
                "given neither an enrolment key nor floors has neither protection."
            ),
            trials=trials,
            successes=successes,
            stopped_by=tuple(dict.fromkeys(stopped)),
            controls=controls,
            parameters={"n": made.clients, "t": made.protocol.share_threshold},
        )

    def _plan(self, column: str) -> Plan:
        length = WIDE if column == "noise" else 5
        return columns.plan(column, 4 if column in columns.PAILLIER else 7, length)

    def _weaker(self, column: str) -> str:
        if column in columns.PAILLIER:
            return "under a Paillier key of which it has the primes."
        noise = "without noise, and " if column == "noise" else ""
        return f"{noise}with every smaller share threshold, which colluding sites then reach."

    def _plain(self, lab: Lab, made: Plan) -> Finding:
        trials = lab.trials(2, 20)
        right = sum(self._subtract(lab, "plain", made, None, i) for i in range(trials))
        return Finding(
            verdict=Verdict.LEAKS if right else Verdict.PREVENTED,
            tried=f"{made.clients - 1} of {made.clients} sites are the server's own.",
            seen=(
                f"In {right} of {trials} rounds the honest site's vector was what is left. A plain "
                "sum does not even need the strangers: its server is sent every vector."
            ),
            trials=trials,
            successes=right,
            parameters={"n": made.clients},
        )

    def _subtract(
        self,
        lab: Lab,
        column: str,
        plan: Plan,
        floors: Mapping[str, secagg.Floors] | None,
        round: int = 0,
    ) -> bool:
        """Whether n - 1 made-up sites give the last one's vector."""
        vectors = lab.inputs(plan.clients, plan.length, MOST, round)
        strangers = plan.roster.names[1:]
        total, _ = sum_of(
            lab,
            column,
            plan,
            vectors,
            round=round,
            floors=floors,
            quiet=strangers if column == "noise" else (),
        )
        given = {"sum": total.astype(np.int64), "own": vectors[1:]}
        found = lab.attack(Transcript(public={"victim": VICTIM}, arrays=given)).vectors[VICTIM]
        if column == "noise":
            # The site's own share of the noise is left on it: it counts as read where the error
            # has the variance of this share and no more.
            error = np.asarray(found) - vectors[0]
            ratio = float((error.astype(float) ** 2).mean()) / plan.pipeline.noise_variance(1)
            return within(ratio, 1.0, math.sqrt(2 / plan.length))
        return bool(found == vectors[0].tolist())

    def _strangers(
        self, lab: Lab, column: str, plan: Plan, kind: type[Any], accepted: bool
    ) -> tuple[str, bool]:
        """Show the server's roster to a site: the rule that refuses, and whether it was read."""
        identity = (
            paillier_world.people(plan.clients, len(plan.roster.holders))[1][VICTIM]
            if column in columns.PAILLIER
            else people(plan.clients)[1][VICTIM]
        )
        member = kind(OWNER.public, identity=identity, journal=secagg.MemoryJournal())
        try:
            if accepted:
                # The true consortium, in which this site is with sites that it knows.
                known = [(f"hospital{i}", secagg.Identity("x", lab.digest(i))) for i in range(4)]
                sites = ((VICTIM, identity.public), *((name, x.public) for name, x in known))
                true = secagg.Roster(sites=sites, server=plan.roster.server)
                member.accept(SignedRoster.first(true, OWNER))
            else:
                member.accept(SignedRoster.first(plan.roster, SERVER_OWNED))
            member.admit(plan)
        except SecAggError as error:
            return f"member.{error.rule}", False
        return "", self._subtract(lab, column, plan, {VICTIM: self._floors(column, plan)})

    def _switched(self, lab: Lab, column: str, *rules: str) -> tuple[str, bool]:
        """The adverts of the server's plan to a site that holds the agreed one: the rule that
        refuses, and whether the site answered with shares of its secrets."""
        # The plans differ in one field, which the server would like to be lower.
        agreed, proposed = columns.plan(column, 7, min_honest=3), columns.plan(column, 7)
        classes = {VICTIM: without(Client, *rules)} if rules else {}
        victim = open_world(agreed, lab, classes=classes).parties[VICTIM]
        world = play(proposed, lab)
        adverts = next(
            data
            for kind, _, to, data in world.frames
            if (kind, to) == (messages.ADVERTS.number, VICTIM)
        )
        victim.start()
        try:
            events = victim.receive(adverts, sender="server")
        except SecAggError as error:
            return f"client.{error.rule}", False
        rule = next((e.error.rule for e in events if isinstance(e, secagg.Ignored)), "")
        # Every party checks the trailer, so that its rule is nobody's own.
        return rule and f"party.{rule}", any(isinstance(e, secagg.Send) for e in events)

    def _switched_controls(self, lab: Lab, column: str) -> list[ControlRun]:
        sets: list[tuple[str, ...]] = [("trailer",)]
        if column == "malicious-server":
            # Signatures over the sites' adverts are bound to the plan as well.
            sets.append(("trailer", "advert-signatures"))
        out = []
        for rules in sets:
            stopped, answered = self._switched(lab, column, *rules)
            out.append(
                ControlRun(
                    overrides=tuple(
                        f"party.{rule}" if rule == "trailer" else f"client.{rule}" for rule in rules
                    ),
                    trials=1,
                    successes=int(answered),
                    expected=rules == sets[-1],
                    note=f"stopped by {stopped}" if stopped else "a site answers another plan",
                )
            )
        return out

    def _floors(self, column: str, plan: Plan) -> secagg.Floors:
        """What a site insists on: exactly what the plan of the consortium gives."""
        paillier = column in columns.PAILLIER
        return secagg.Floors(
            smallest_cohort=plan.min_survivors,
            min_honest=plan.min_honest,
            share_threshold=plan.protocol.share_threshold,
            noise_variance=plan.noise_variance or None,
            colluding=plan.colluding,
            malicious_server=plan.signed,
            paillier_key=plan.protocol.key.digest.hex() if paillier else None,  # type: ignore[union-attr]
        )

    def _without_floors(self, column: str) -> type[Any]:
        kind = paillier_sum.Client if column in columns.PAILLIER else Client
        return without(kind, "floors")

    def _downgrades(
        self, lab: Lab, column: str, made: Plan, kind: type[Any]
    ) -> tuple[int, list[str], int]:
        """Weaker plans to a site with floors: how many, the rules that refuse, vectors read."""
        floors = self._floors(column, made)
        if column in columns.PAILLIER:
            # The plan's key is the server's here, and the consortium's is another one.
            other = digest("the consortium's key").hex()
            floors = secagg.Floors(paillier_key=other, malicious_server=True)
            return self._own_key(lab, made, floors, kind)
        # As many colluding sites as the agreed threshold withstands, and no more.
        threshold = made.protocol.share_threshold
        everybody = by_name(made.roster.names[1:], COLLUDER)
        if self._rebuilt(lab, play(made, lab, round=1000, classes=everybody), threshold - 1):
            raise LabError("fewer colluding sites than the threshold opened a vector")
        weaker = [self._weak_plan(column, made.clients, t) for t in range(2, threshold)]
        if column == "noise":
            weaker.append(columns.plan("semi-honest", made.clients))
        rules, opened = list[str](), 0
        for number, plan in enumerate(weaker):
            colluding = [f"s{i}" for i in range(1, plan.clients)]
            classes = dict(by_name(colluding, COLLUDER)) | {VICTIM: kind}
            try:
                world = play(plan, lab, round=number, classes=classes, floors={VICTIM: floors})
            except secagg.MisuseError as error:
                rules.append(f"client.{error.rule}")
                continue
            opened += self._rebuilt(lab, world, threshold - 1)
        return len(weaker), rules, opened

    def _weak_plan(self, column: str, n: int, threshold: int) -> Plan:
        changes: dict[str, Any] = {}
        if column == "sparse":
            changes = {"protocol": secagg.MaskedSum(share_threshold=threshold, neighbours=6)}
            return columns.plan("sparse", n, **changes)
        protocol = secagg.MaskedSum(share_threshold=threshold, neighbours=n - 1)
        return columns.plan("semi-honest", n, protocol=protocol)

    def _rebuilt(self, lab: Lab, world: World, colluding: int) -> bool:
        """Whether so many neighbours of the victim open its input with the shares they hold."""
        near = [world.plan.roster.names[i] for i in world.server._graph[0]][:colluding]
        sent = [f for f in frames(world, messages.INPUT) if f.sender == VICTIM]
        transcript = Transcript(public=public(world), frames=sent)
        found = lab.attack(transcript, shares_of(world, near)).vectors
        return bool(found.get(VICTIM) == world.vectors[VICTIM].tolist())

    def _own_key(
        self, lab: Lab, plan: Plan, floors: secagg.Floors, kind: type[Any]
    ) -> tuple[int, list[str], int]:
        if kind is Client:
            kind = paillier_sum.Client
        try:
            world: Any = open_world(plan, lab, classes={VICTIM: kind}, floors={VICTIM: floors})
        except secagg.MisuseError as error:
            return 1, [f"client.{error.rule}"], 0
        world.send_inputs()
        layout, private = paillier_messages.layout_of(plan), paillier_world.private_key()
        sent = [f for f in frames(world, paillier_messages.ENCRYPTED) if f.sender == VICTIM]
        transcript = Transcript(
            public={
                "victim": VICTIM,
                "bits": layout.bits,
                "slot_bits": layout.slot_bits,
                "slots": layout.slots,
                "rows": layout.rows,
                "length": layout.length,
                "trailer": world.server._trailer_size,
            },
            frames=sent,
        )
        size = private.public.bits // 8
        keys = {x: getattr(private, x).to_bytes(size, "little") for x in ("p", "q")}
        found = lab.attack(transcript, Keys(values=keys)).vectors[VICTIM]
        return 1, [], int(found == world.vectors[VICTIM].tolist())


__all__ = [
    "DisaggregationScene",
    "GraphPartitionScene",
    "NeighbourCaptureScene",
    "SmallCohortScene",
    "SybilsScene",
]
