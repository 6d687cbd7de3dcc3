"""Which node is which party."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from secagg.integrations.folder import TRAIN
from secagg.integrations.rounds import Rounds, SessionRefusedError
from secagg_protocols.errors import PeerError, SecAggError, ThresholdError

T = TypeVar("T")

log: Final = logging.getLogger("secagg.integrations")

#: Sends a greeting to each of some nodes; returns the replies by node, ``None`` for one that is no
#: reply of ours. Nodes that say nothing are left out.
Greet = Callable[[Mapping[int, bytes]], Mapping[int, bytes | None]]
#: A node that was silent this often is not waited for again until it has been away.
_MOST_SILENCES: Final = 3
#: Who is missing is logged again after this long.
_REMIND_SECONDS: Final = 60.0


class Nodes:
    """The parties behind a grid's node ids, each proven by its identity key.

    ``find`` asks the nodes that are not yet known; the others cost nothing. What is not a party
    of the roster is kept out with one warning, as is a second node with the name of another that
    is still there.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._names: dict[int, str] = {}
        self._out: dict[int, str] = {}  # and why
        self._refused: dict[int, str] = {}  # those of them that proved which party they are
        self._second: dict[int, str] = {}
        self._silences: dict[int, int] = {}
        self._told = time.monotonic()
        roster = rounds.plan.roster
        self._sites = frozenset(name for name, _ in roster.sites)

    def find(self, listed: Iterable[int], greet: Greet) -> None:
        """Bring the book up to date with the nodes that are there."""
        there = set(listed)
        self._out = _among(there, self._out)
        self._refused = _among(there, self._refused)
        self._silences = _among(there, self._silences)
        taken = {name for node, name in self._names.items() if node in there}
        second = _among(there, self._second)
        self._second = {node: name for node, name in second.items() if name in taken}
        new = sorted(there - self._names.keys() - self._out.keys() - self._second.keys())
        if not new:
            self._remind(there)
            return
        task = "" if self._rounds.task == TRAIN else f" for {self._rounds.task}"
        log.info("secagg: asking node %s who they are%s", ", ".join(map(str, new)), task)
        replies = greet({node: self._rounds.greeting(str(node)) for node in new})
        for node in new:
            if node not in replies:
                self._silent(node, f"its own log may say why, or its app has no {self._mod}")
                continue
            try:
                self._claim(node, self._welcome(node, replies[node]), there)
            except SessionRefusedError as refusal:
                self._refused[node] = refusal.party
                self._keep_out(node, f"{refusal}{self._advice(refusal)}")
            except SecAggError as error:
                if isinstance(error, PeerError) and error.rule in {"hello", "envelope"}:
                    # A disk may have been full, or bytes damaged on their way: asked again.
                    self._silent(node, str(error))
                else:
                    self._keep_out(node, str(error))
        self._tell_missing()

    @property
    def _mod(self) -> str:
        return f"@app.{self._rounds.task}(mods=[secagg_mod])"

    def _advice(self, refusal: SessionRefusedError) -> str:
        if refusal.rule != "plan-pinned":
            return ""
        if self._rounds.task != TRAIN:
            return f"; it needs a plan-{self._rounds.task}.toml in its folder"
        if self._rounds.propose:
            return "; its log says what its folder lacks"
        return "; where sites pin a roster only, the server proposes: SecAggConfig(propose=True)"

    def _welcome(self, node: int, reply: bytes | None) -> str:
        if reply is None:
            raise PeerError(
                f"it answers without protection; its app needs {self._mod}, that mod first",
                rule="unprotected",
            )
        return self._rounds.welcome(str(node), reply)

    def _keep_out(self, node: int, why: str) -> None:
        self._out[node] = why
        log.warning("secagg: node %d is kept out: %s", node, why)

    def _silent(self, node: int, why: str) -> None:
        count = self._silences[node] = self._silences.get(node, 0) + 1
        log.warning("secagg: node %d did not say who it is; %s", node, why)
        if count >= _MOST_SILENCES:
            self._out[node] = f"did not say who it is; {why}"

    def _claim(self, node: int, name: str, there: set[int]) -> None:
        for other in [n for n, known in self._names.items() if known == name]:
            if other in there:
                self._second[node] = name
                log.warning(
                    "secagg: node %d is kept out: node %d is %s already [one-node]",
                    node,
                    other,
                    name,
                )
                return
            del self._names[other]  # it came back under another id
        self._names[node] = name
        log.info("secagg: node %d is %s", node, name)

    def _tell_missing(self) -> None:
        self._told = time.monotonic()
        known = self._names.values()
        missing = [name for name in self._rounds.parties if name not in known]
        if missing:
            log.info("secagg: no node yet for %s", ", ".join(missing))

    def _remind(self, there: set[int]) -> None:
        """Strategies wait for nodes without end: say now and then for whom."""
        if time.monotonic() - self._told < _REMIND_SECONDS or len(self.sites) == len(self._sites):
            return
        self._tell_missing()
        for node, why in _among(there, self._out).items():
            log.info("secagg: node %d is kept out: %s", node, why)

    def check_enough(self, listed: Iterable[int], *, begun: bool) -> bool:
        """Whether enough sites for a sum are there.

        begun: whether the run has had a round: from then on, missing sites are waited for. Before,
        :class:`ThresholdError` (``no-parties``) where no sum can come of this session: so many
        sites refuse it, or as many nodes as there are parties answered, and no site is among them.
        Nodes that prove nothing decide nothing else: on a link that others use too, strangers may
        be many, and a site may be about to come.
        """
        there = set(listed)
        present = len({name for node, name in self.sites.items() if node in there})
        need = self._rounds.plan.min_survivors
        refusing = set(self._refused.values()) - set(self._names.values())
        possible = len(self._sites - refusing)
        hopeless = (
            not self._names
            and len(there) >= len(self._rounds.parties)
            and there <= self._out.keys()
        )
        if begun or (possible >= need and not hopeless):
            return present >= need
        raise ThresholdError(
            f"{self._rounds.task}: the plan's sums are of {need} sites at least, and "
            f"{present} of the nodes are sites that take part ({self._reasons()})",
            rule="no-parties",
            step="hello",
            have=present,
            need=need,
        )

    def _reasons(self) -> str:
        found: dict[str, list[str]] = {}
        for node, why in sorted(self._out.items()):
            found.setdefault(why, []).append(str(node))
        for node, name in sorted(self._second.items()):
            found.setdefault(f"a second {name}", []).append(str(node))
        return "; ".join(f"node {', '.join(nodes)}: {why}" for why, nodes in found.items())

    @property
    def sites(self) -> dict[int, str]:
        """Names of the sites by node id; holders are not in it."""
        return {node: name for node, name in self._names.items() if name in self._sites}

    def node(self, name: str) -> int | None:
        """The node of a party."""
        return next((node for node, known in self._names.items() if known == name), None)


def _among(there: set[int], found: Mapping[int, T]) -> dict[int, T]:
    return {node: value for node, value in found.items() if node in there}


__all__ = ["Greet", "Nodes"]
