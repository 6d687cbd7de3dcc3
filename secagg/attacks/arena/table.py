"""One set of sites and one cheating server, led to the same end in as many ways as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

import secagg
from secagg_protocols import plain_sum
from secagg_protocols.events import Step
from secagg_protocols.masked_sum import Client
from secagg_protocols.plan_file import dump_plan

from ..adversaries.server import Behaviour, CheatingServer
from ..attack import Frame, Keys, Transcript
from ..scene import Lab
from .cohort import Cohort
from .world import people

SESSION, MODEL = "laboratory", b"model"
#: Given the sites of one view, what the server does in it.
Ways = Callable[[Cohort], Iterable[Behaviour]]
#: What an attack claims of one view: vectors by victim.
Claims = dict[str, list[Any]]


def encoded(party: Any, vector: Any) -> list[int]:
    """What a site puts into the sum: its vector after the plan's stages, noise included."""
    own, context = party._own(), party.contexts.round
    seeds = iter(range(1 << 32))
    array, weight = party.plan.pipeline.check_input(vector, 1)
    encoder = party.pipeline.begin(array, weight, lambda: own.stage_seed(context, next(seeds)))
    levels = np.empty(party.plan.ring_length, dtype=np.int64)
    encoder.tile(levels, 0)
    found: list[int] = levels.tolist()
    return found


class Table:
    """Sites and server up to one step; from there on each view is a fork of both.

    colluding: the first so many sites collude. branch: the step that views differ in; what comes
    before is played once, honestly. truth: what each site put into the sum, by name.
    """

    def __init__(
        self,
        plan: secagg.Plan,
        vectors: Any,
        *,
        colluding: Iterable[int] = (),
        classes: type[Any] | Mapping[int, type[Any]] = Client,
        journal: type[Any] = secagg.MemoryJournal,
        seed: bytes = bytes(32),
        branch: Step = Step.INPUT,
    ) -> None:
        self.plan, self.vectors, self.branch = plan, vectors, branch
        identities = people(plan.clients)[1]
        self.names = plan.roster.names
        owned = {site: identities[self.names[site]] for site in colluding}
        self.honest = [site for site in range(plan.clients) if site not in owned]
        self.cohort = Cohort(
            plan,
            vectors,
            classes=classes,
            journal=journal,
            colluding=owned,
            seed=seed,
            session=SESSION,
            model=MODEL,
        )
        self.server = CheatingServer(
            plan,
            identities["server"],
            self.cohort.deliver,
            session=SESSION,
            model=MODEL,
            colluders=owned,
            seed=seed,
        )
        adverts = self.cohort.start()
        self.truth = {
            self.names[site]: encoded(party, vectors[site])
            for site, party in self.cohort.parties.items()
        }
        self.server.collect(adverts)
        if branch >= Step.SHARE:
            self.server.relay_adverts()
        if branch >= Step.INPUT:
            self.server.relay_shares()
            for site in self.honest:
                self.cohort.save(site)
        self._views: list[list[Frame]] = []
        self._keys: dict[str, bytes] = {}
        #: Rules that refused something in any view.
        self.refused: set[str] = set()

    def view(self, ways: Ways) -> CheatingServer:
        """Play one view to its end; it is kept for :meth:`claims`."""
        sites = self.cohort.fork(self.honest if self.branch >= Step.INPUT else None)
        server = self.server.fork(sites.deliver)
        server.behaviours = list(ways(sites))
        if self.branch < Step.SHARE:
            server.relay_adverts()
        if self.branch < Step.INPUT:
            server.relay_shares()
        server.announce()
        server.confirm()
        for behaviour in server.behaviours:
            behaviour.ends(server)
        self._views.append(server.frames[len(self.server.frames) :])
        self._keys |= sites.keys
        self.refused |= {rule for _, _, rule in sites.refusals if rule != "late"}
        return server

    def transcript(self, frames: list[Frame], **public: Any) -> Transcript:
        """What the server has at the end, with what is public."""
        return Transcript(
            plan=dump_plan(self.plan),
            session=SESSION,
            frames=frames,
            models={0: MODEL},
            public=public,
        )

    def claims(self, lab: Lab) -> list[Claims]:
        """What the attack claims of each view since the last call, all in one transcript."""
        common = list(self.server.frames)
        frames, spans = list(common), []
        for view in self._views:
            spans.append([len(frames), len(frames) + len(view)])
            frames += view
        evidence = lab.attack(self.transcript(frames, views=spans), Keys(values=self._keys))
        found: list[Claims] = [{} for _ in spans]
        for label, vector in evidence.vectors.items():
            number, victim = label.split(":")
            found[int(number)][victim] = vector
        self._views = []
        return found


def plain_claims(lab: Lab, plan: secagg.Plan, vectors: Any) -> tuple[Claims, Claims]:
    """(what the attack claims, the truth) of one plain sum: its server's frames are the inputs."""
    common = {"session": SESSION, "round": 0, "model": MODEL, "journal": secagg.MemoryJournal()}
    identities = people(plan.clients)[1]
    frames = []
    for site, name in enumerate(plan.roster.names):
        party = plain_sum.PlainClient(plan, name, identity=identities[name], **common)
        for event in party.submit(vectors[site]):
            if isinstance(event, secagg.Send):
                frames.append(Frame(0, name, "server", event.data))
    transcript = Transcript(
        plan=dump_plan(plan),
        session=SESSION,
        frames=frames,
        models={0: MODEL},
        public={"protocol": "plain"},
    )
    truth = {name: list(map(int, vectors[i])) for i, name in enumerate(plan.roster.names)}
    return lab.attack(transcript).vectors, truth


__all__ = ["Claims", "Table", "Ways", "encoded", "plain_claims"]
