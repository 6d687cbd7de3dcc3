"""What holds for every schedule, each with a name by which a failure is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from secagg_protocols.errors import SecAggError

from . import oracle
from .adapter import Adapter, Outcome
from .case import CLIP, LEVELS, Case
from .faults import CONFIGURATION, EXCHANGES, HARMLESS, MESSAGE, TRAINING, Kind
from .wire import ServerDied, Wire

#: After a fault with a message a site may be missing in its round and in the next one.
_AWAY: Final = 2
_COLD: Final = ("advertise", "share")
#: Exchanges that belong to no round's sum.
_AROUND: Final = ("hello", "finish", "close")


class Broken(AssertionError):  # noqa: N818 - it is a finding, as other assertions are
    """An adapter broke a law; ``law`` is its name."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(f"law {law!r}: {text}")
        self.law, self.text = law, text


@dataclass
class Played:
    """What a schedule came to. error: what ended the run before its last round."""

    case: Case
    adapter: Adapter[Any]
    wire: Wire[Any]
    outcomes: list[Outcome] = field(default_factory=list)
    error: SecAggError | ServerDied | None = None

    @property
    def affected(self) -> list[set[str]]:
        """By round, the sites that may be missing in its sum."""
        found: list[set[str]] = []
        for number in range(self.case.rounds):
            away = set()
            for fault in (*self.wire.applied, *self._standing()):
                if fault.kind in HARMLESS:
                    continue
                since = number - fault.round
                lasting = fault.kind in CONFIGURATION or fault.kind is Kind.TWIN
                most = _AWAY if fault.kind in MESSAGE else 1
                if lasting or 0 <= since < most:
                    away.add(fault.party)
            away |= {name for name in self.case.names if self.case.used_up(name, number)}
            found.append(away & set(self.case.names))
        return found

    def _standing(self) -> list[Any]:
        kinds = {*TRAINING, *CONFIGURATION, Kind.TWIN}
        return [fault for fault in self.case.faults if fault.kind in kinds]

    @property
    def died(self) -> set[int]:
        """Rounds in which the server's process ended."""
        return {f.round for f in self.wire.applied if f.kind is Kind.SERVER_RESTART}

    def story(self) -> str:
        """Schedule, outcomes and deliveries, for a failing test."""
        faults = [f"  {fault}" for fault in self.case.faults] or ["  none"]
        outcomes = [
            f"  round {at}: "
            + (f"sum of {', '.join(o.survivors)}" if o.done else f"no sum [{o.rule}]")
            for at, o in enumerate(self.outcomes)
        ]
        log = [f"  {entry.line()}" for entry in self.wire.log]
        head = f"{self.adapter.name}, {self.case.threat}, {self.case.rounds} rounds"
        error = [] if self.error is None else [f"ended by {type(self.error).__name__}"]
        return "\n".join(
            [head, "faults:", *faults, "outcomes:", *outcomes, *error, "deliveries:", *log]
        )


# The laws.


def typed(played: Played) -> None:
    """A round without a sum has the name of a rule and no result. There is one outcome a round."""
    for number, outcome in enumerate(played.outcomes):
        if outcome.done:
            continue
        if not outcome.named:
            raise Broken("typed", f"round {number} failed by {outcome.rule!r}, which names no rule")
        if outcome.mean is not None or outcome.survivors:
            raise Broken("typed", f"round {number} failed and has a result all the same")
    if played.error is None and len(played.outcomes) != played.case.rounds:
        raise Broken(
            "typed", f"{len(played.outcomes)} outcomes of {played.case.rounds} rounds, and no error"
        )


def success(played: Played) -> None:
    """What is reported as a success has a sum, of as many sites as the plan needs, all of which
    sent an input that arrived in this round."""
    least = played.case.plan.min_survivors
    for number, outcome in enumerate(played.outcomes):
        if not outcome.done:
            continue
        if outcome.mean is None or not outcome.survivors:
            raise Broken("success", f"round {number} is a success without a result")
        if number in played.died:
            raise Broken("success", f"round {number} has a sum of a server that died in it")
        names = outcome.survivors
        if len(set(names)) != len(names) or not set(names) <= set(played.case.names):
            raise Broken("success", f"round {number} has survivors {names} that are no sites")
        if len(names) < least:
            raise Broken("success", f"round {number} is of {len(names)} sites, fewer than {least}")
        sent = {
            played.case.party(entry.node)
            for entry in played.wire.log
            if (entry.round, entry.slot) == (number, "input") and entry.arrived
        }
        silent = set(names) - sent
        if silent:
            raise Broken(
                "success", f"round {number} counts {sorted(silent)}, of whom no input arrived"
            )


def exact(played: Played) -> None:
    """The mean is that of the reported survivors by their weights, and the total is theirs."""
    case = played.case
    for number, outcome in enumerate(played.outcomes):
        names = outcome.survivors
        if not outcome.done or outcome.mean is None or not set(names) & set(case.names):
            continue  # another law's matter
        weights = {name: case.weight(name, number) for name in names}
        total = sum(weights.values())
        if outcome.weight is not None and outcome.weight != total:
            raise Broken("exact", f"round {number} has weight {outcome.weight}, not {total}")
        vectors = {name: case.vector(name, number) for name in names}
        given = [float(value) for value in outcome.mean]
        if len(given) != case.length or not all(abs(value) < 2 * CLIP for value in given):
            raise Broken("exact", f"round {number} has a mean that no sum of these sites has")
        nearest = min(
            oracle.distance(given, wanted) for wanted in oracle.means(vectors, weights, names)
        )
        # Vectors are whole numbers of levels, so that nothing is rounded but by the framework.
        level = Fraction(CLIP) / LEVELS * len(names) / total
        if nearest > min(level, Fraction(played.adapter.rounding)):
            raise Broken("exact", f"round {number} has a mean that is off by {float(nearest):.3g}")


def survivors(played: Played) -> None:
    """Where the plan bears what went wrong, the round has a sum with every site that nothing
    happened to; who missed a message is back within two rounds."""
    case = played.case
    affected = played.affected
    if case.strategy:
        return
    if any(f.kind in CONFIGURATION for f in case.faults) and not case.dropouts:
        return  # a framework that needs every site may refuse the whole run
    for number in range(case.rounds):
        if len(affected[number]) > case.dropouts or number in played.died:
            continue
        if number >= len(played.outcomes):
            raise Broken(
                "survivors", f"round {number} did not take place, though the plan bears it"
            )
        outcome = played.outcomes[number]
        if not outcome.done:
            raise Broken(
                "survivors",
                f"round {number} has no sum [{outcome.rule}], though the plan bears it",
            )
        missing = set(case.names) - affected[number] - set(outcome.survivors)
        for name in sorted(missing):
            before = [n for n in range(number) if name in affected[n]]
            law = "return" if before else "survivors"
            raise Broken(law, f"round {number} is without {name}, to whom nothing happened in it")


def strategies(played: Played) -> None:
    """A strategy that needs single updates is refused before anybody trains for it."""
    if not played.case.strategy:
        return
    if played.error is None and any(outcome.done for outcome in played.outcomes):
        raise Broken("strategies", f"{played.case.strategy} was not refused")
    if played.case.trainings:
        raise Broken("strategies", f"sites trained for {played.case.strategy}")


def outsiders(played: Played) -> None:
    """Who goes by another plan, roster or identity is in no sum."""
    wrong = {f.party for f in played.case.faults if f.kind in CONFIGURATION}
    for number, outcome in enumerate(played.outcomes):
        found = wrong & set(outcome.survivors)
        if found:
            raise Broken("outsiders", f"round {number} counts {sorted(found)}")


def leaks(played: Played) -> None:
    """No vector, seed, metric, path or exception's text is in what reached the server."""
    sent = {data for entry in played.wire.log for data in (*entry.everything, *entry.replies)}
    text = b"\0".join(sent)
    for what, secret in played.case.secrets():
        if secret in text:
            entry = next(
                entry
                for entry in played.wire.log
                if any(secret in data for data in (*entry.everything, *entry.replies))
            )
            raise Broken("leaks", f"{what} is in a reply: {entry.line()}")


def one_report(played: Played) -> None:
    """No party answers one order with two different reports, whether or not they arrived."""
    said: dict[tuple[str, Hashable], set[Hashable]] = defaultdict(set)
    for entry in played.wire.log:
        key = played.case.party(entry.node), played.adapter.order(entry.request)
        said[key] |= {report for data in entry.replies if (report := played.adapter.report(data))}
        if len(said[key]) > 1 and entry.slot != "hello":
            raise Broken(
                "one-report", f"{entry.node} answered one order differently: {entry.line()}"
            )


def exchanges(played: Played) -> None:
    """Rounds take the exchanges that they have to, with one message to each party in each."""
    if EXCHANGES in played.adapter.unsupported:
        return
    warm = ("input", "consent", "reveal") if played.case.plan.signed else ("input", "reveal")
    cold = _COLD + warm
    calm = not played.case.faults
    counts: dict[tuple[int, str, str], int] = defaultdict(int)
    for entry in played.wire.log:
        if entry.slot not in _AROUND:
            counts[entry.round, entry.slot, entry.node] += 1
    more = [key for key, count in counts.items() if count > 1]
    if more:
        number, slot, node = more[0]
        raise Broken("exchanges", f"{node} was asked more than once in {slot} of round {number}")
    for number, outcome in enumerate(played.outcomes):
        seen = tuple(dict.fromkeys(slot for at, slot, _ in counts if at == number))
        begins = number == 0 or not played.outcomes[number - 1].done
        allowed = [cold] if begins else [warm] if calm else [warm, cold]
        if outcome.done and seen not in allowed:
            raise Broken("exchanges", f"round {number} took {', '.join(seen)}")
        if not outcome.done and not any(seen == way[: len(seen)] for way in (warm, cold)):
            raise Broken("exchanges", f"round {number} took {', '.join(seen)}")


def faults(played: Played) -> None:
    """What the schedule says went wrong did so, where the party was asked in that exchange; and
    the sites' messages do pass through the wire."""
    places = {(entry.round, entry.slot, entry.node) for entry in played.wire.log}
    met = {(fault.round, fault.slot, fault.party) for fault in played.wire.applied}
    places |= {(number, slot, "") for number, slot, _ in places}
    for fault in played.case.faults:
        place = (fault.round, fault.slot, fault.party)
        # Of two faults with one message the first takes place.
        if fault.slot and place in places and place not in met:
            raise Broken("faults", f"{fault} did not take place")
    asked = {(entry.round, entry.slot) for entry in played.wire.log}
    for number, outcome in enumerate(played.outcomes):
        if outcome.done and (number, "input") not in asked:
            raise Broken("faults", f"no message of round {number} passed through the wire")


#: Safety first: of several broken laws the first one is that of the error.
LAWS: Final[tuple[Callable[[Played], None], ...]] = (
    typed,
    leaks,
    one_report,
    strategies,
    success,
    exact,
    outsiders,
    faults,
    survivors,
    exchanges,
)


def check(played: Played) -> None:
    """Assert all laws of a schedule; :class:`Broken` with its whole story."""
    found = []
    for law in LAWS:
        try:
            law(played)
        except Broken as broken:
            found.append(broken)
    if found:
        more = [f"and law {each.law!r}: {each.text}" for each in found[1:]]
        raise Broken(found[0].law, "\n".join([found[0].text, *more, "", played.story()]))


__all__ = ["LAWS", "Broken", "Played", "check"]
