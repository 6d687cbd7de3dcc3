"""A server that subtracts sums, over rounds or sessions: what it does, and what it is after.

It follows the protocol in each round; what it chooses is which sites it loses, when it gives up,
and under which plan, session, epoch, keys and model it comes back. All that it uses is what it
was sent: the sums, and who was in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import secagg
from secagg.attacks.arena.world import World, make_plan, people
from secagg.session import SiteSession, Slot
from secagg_protocols.masked_sum import Client
from support.equations import reduced
from support.sessions import Played

N = 10
NAMES = [f"s{i}" for i in range(N)]
VICTIM = "s9"


def without(rule: str) -> type[Client]:
    """A site with exactly one rule overridden."""
    method = "_check_" + rule.replace("-", "_")
    return type("Without", (Client,), {method: lambda *_, **__: None})


def plan_for(rule: str) -> secagg.Plan:
    """Ten sites, four may be missing: training with one input a model, or fixed data."""
    kind = {"max_inputs_per_model": 1} if rule == "inputs-per-model" else {"fixed_data": True}
    protocol = secagg.MaskedSum(share_threshold=6, neighbours=N - 1)
    return make_plan(N, max_dropouts=4, protocol=protocol, **kind)


class Adversary:
    """The server over several rounds. It keeps each sum with the sites that were in it."""

    def __init__(self, plan: secagg.Plan, kind: type[Client] = Client) -> None:
        self.plan = plan
        self.kind = kind
        self.journals: dict[str, Any] = {}
        self.number = 0
        self.seen: list[tuple[frozenset[str], list[int]]] = []
        #: Rules by which sites refused, of all rounds.
        self.refusals: set[str] = set()

    def round(
        self, lose: Iterable[str] = (), *, abort: bool = False, setup: Any = None, **how: Any
    ) -> World:
        """One round in which these sites are lost before their input, and which the server may
        give up once it has the inputs."""
        plan = how.pop("plan", self.plan)
        how.setdefault("round", self.number)
        classes = dict.fromkeys(plan.roster.names, self.kind)
        world = World(plan, classes=classes, journals=self.journals, **how)
        self.number += 1
        if setup is not None:
            setup(world)
        # Nobody's consent arrives: to the sites it is an abort like any other.
        gone = {3: list(lose)} | ({4: list(plan.roster.names)} if abort else {})
        try:
            world.run(gone)
        except secagg.ThresholdError:
            assert world.result is None
        if world.result is not None:
            self.seen.append((frozenset(world.result.survivors), world.result.sum.tolist()))
        for name in plan.roster.names:
            self.refusals |= {e.rule for e in world.errors(name) if e.rule != "late"}
        return world

    def solve(self, victim: str) -> list[int] | None:
        """The victim's vector, where the sums determine it."""
        others = sorted(set().union(*(sites for sites, _ in self.seen)) - {victim})
        rows = [[*(n in sites for n in (*others, victim)), *total] for sites, total in self.seen]
        for row in reduced(rows):
            if not any(row[: len(others)]) and row[len(others)]:
                return [int(x) for x in row[len(others) + 1 :]]
        return None


def truth(victim: str) -> list[int]:
    """What the server is after."""
    vector: list[int] = World(make_plan(12)).vectors[victim].tolist()
    return vector


def stopped(adversary: Adversary, rule: str, victims: Sequence[str] = (VICTIM,)) -> None:
    assert adversary.refusals == {rule}
    assert [adversary.solve(victim) for victim in victims] == [None] * len(victims)


def succeeded(adversary: Adversary, victims: Sequence[str] = (VICTIM,)) -> None:
    assert adversary.refusals == set()
    assert [adversary.solve(v) for v in victims] == [truth(v) for v in victims]


def of_sites(names: Sequence[str], threshold: int, **changes: Any) -> secagg.Plan:
    """A plan of fixed data over these sites, which bears a dropout if the threshold does."""
    keys = people(16)[1]
    roster = secagg.Roster(
        sites=tuple((name, keys[name].public) for name in names), server=keys["server"].public
    )
    fields: dict[str, Any] = {
        "roster": roster,
        "fixed_data": True,
        "max_dropouts": min(1, len(names) - threshold),
        "protocol": secagg.MaskedSum(share_threshold=threshold, neighbours=len(names) - 1),
    }
    return make_plan(len(names), **(fields | changes))


class Sessions(Played):
    """A session of which one site's reports are lost from a round on, at its input."""

    def __init__(
        self,
        plan: secagg.Plan,
        lost_from: int,
        lost: str = VICTIM,
        journals: dict[str, Any] | None = None,
    ) -> None:
        identities = people(12)[1]

        def reach(exchange: int, number: int, slot: Slot, site: str) -> tuple[bool, bool]:
            late = number >= lost_from and (slot == Slot.INPUT or number > lost_from)
            return True, not (site == lost and late)

        vectors = World(make_plan(12)).vectors
        super().__init__(plan, identities, reach=reach, vector=lambda site, number: vectors[site])
        self.refusals: set[str] = set()
        # It announces the set that it likes, and not only those that its sites will take.
        self.hub._announced = None
        if journals is not None:
            self.share(journals)

    def share(self, journals: dict[str, Any]) -> None:
        """Let the sites go on in the journals of earlier sessions."""
        for name in self.sites:
            journal = self.journals[name] = journals.setdefault(name, self.journals[name])
            self.sites[name] = SiteSession(
                self.plan,
                name,
                identity=self.keys.get(name),
                session=self.hub.session,
                floors=None,
                journal=journal,
            )

    def ask(self, site: str, data: bytes) -> list[Any]:
        try:
            return super().ask(site, data)
        except secagg.SecAggError as error:
            self.refusals.add(error.rule)
            party = self.sites[site]
            asked = party.waits
            return self.note(site, party.skip()) if asked else []

    def rounds(self, *models: bytes) -> list[Any]:
        """Sums of rounds over these models; ``None`` where the server got none."""
        found = [self.round(model) for model in models]
        return [None if each is None else each.sum for each in found]
