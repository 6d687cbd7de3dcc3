"""The smallest adapter: a framework that is nothing but function calls.

``docs/integrations/adapting.md`` shows this file. Every request meets a new desk, which has the
party folder alone, as under a framework that starts a process for each message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from secagg.integrations.conformance import Adapter, Case, Outcome, ServerDied, Wire
from secagg.integrations.folder import PartyFolder
from secagg.integrations.rounds import Rounds
from secagg.integrations.site import Contribution, SiteDesk
from secagg.session import Slot, Wanted
from secagg_protocols.errors import SecAggError


class Direct(Adapter[bytes]):
    """Requests go straight to each party's desk."""

    name = "direct calls"
    unsupported: ClassVar = {"strategies": "nothing but a mean is offered"}

    def run(self, case: Case, wire: Wire[bytes]) -> Iterator[Outcome]:
        """All rounds of a schedule."""
        self.begin(case, wire)
        for number in range(case.rounds):
            try:
                yield self.round(number)
            except ServerDied as died:
                self.begin(case, wire)
                yield Outcome(rule=died.rule)
        self.rounds.finish(self.transport)

    def begin(self, case: Case, wire: Wire[bytes]) -> None:
        """The server's program, from its folder alone."""
        self.case, self.wire = case, wire
        self.folder = PartyFolder(case.server)
        self.rounds = Rounds(self.folder.plan(), identity=self.folder.identity, folder=self.folder)
        self.nodes: dict[str, str] = {}  # name in the roster -> node

    def round(self, number: int) -> Outcome:
        """One round, with whoever is there."""
        self.number = number
        try:
            self.greet()
            last = number + 1 == self.case.rounds
            found = self.rounds.run(self.case.model(number), self.transport, last=last)
        except SecAggError as error:
            return Outcome(rule=error.rule)
        return Outcome(found.mean, found.weight, found.survivors)

    def greet(self) -> None:
        """Ask the nodes that are not yet known who they are. One node stands for one party."""
        new = [node.key for node in self.case.nodes if node.key not in self.nodes.values()]
        asked = {key: self.rounds.greeting(key) for key in new}
        for node, reply in self.wire.exchange(self.number, "hello", asked, self.handle):
            try:
                self.nodes.setdefault(self.rounds.welcome(node, reply), node)
            except SecAggError:
                continue  # no party of this session: it is not asked for anything

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        """Carry requests to the parties whose nodes are known."""
        names = {node: name for name, node in self.nodes.items()}
        asked = {self.nodes[name]: data for name, data in requests.items() if name in self.nodes}
        replies = self.wire.exchange(self.number, slot.label, asked, self.handle)
        return [(names[node], reply) for node, reply in replies if node in names]

    def handle(self, node: str, request: bytes) -> bytes:
        """The node's end: a new process would do the same."""
        folder = next(each.folder for each in self.case.nodes if each.key == node)

        def work(wanted: Wanted) -> Contribution:
            update = self.case.train(node, self.wire.round)
            return Contribution(update.x, update.weight, self.case.model(self.wire.round))

        return SiteDesk(folder).answer(request, work).reply
