"""The tests that an adapter passes: a class to subclass in a test module of pytest.

    class TestMine(Conformance):
        adapter = MyAdapter

pytest is imported when a test runs, and hypothesis where it is installed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from secagg_protocols.errors import SecAggError
from secagg_protocols.plan import Threat

from . import laws
from .adapter import Adapter
from .case import Case
from .faults import (
    ALL_FEATURES,
    CONFIGURATION,
    FEATURES,
    HARMLESS,
    MESSAGE,
    STRATEGIES,
    TRAINING,
    WEIGHTS,
    Fault,
    Kind,
    unknown,
)
from .laws import Broken, Played
from .process import RECORDS
from .wire import ServerDied, Wire

THREATS: Final[tuple[Threat, ...]] = ("semi-honest", "malicious-server")
#: A party that has missed something is back within this many rounds.
_BACK: Final = 2
_ROUNDS: Final = 3
#: Faults of a message that cost something, and those that do not.
_LOSSES: Final = tuple(kind for kind in MESSAGE if kind not in HARMLESS)
_NUISANCES: Final = tuple(kind for kind in MESSAGE if kind in HARMLESS)


def steps(threat: Threat, number: int) -> tuple[str, ...]:
    """The exchanges of a round of an undisturbed session."""
    warm = ("input", "consent", "reveal") if threat == "malicious-server" else ("input", "reveal")
    return ("advertise", "share", *warm) if number == 0 else warm


def places(threat: Threat) -> list[tuple[int, str]]:
    """(round, slot) of every exchange of the first three rounds, the first question included."""
    found = [(0, "hello")]
    return found + [(n, slot) for n in range(_ROUNDS) for slot in steps(threat, n)]


def play(
    adapter: type[Adapter[Any]],
    path: Path,
    threat: Threat,
    *,
    rounds: int,
    faults: Sequence[Fault] = (),
    children: bool = False,
    **options: Any,
) -> Played:
    """Run one schedule in a new folder below ``path`` and check the laws; returns what came of it.

    options: of :class:`Case`. Errors: :class:`Broken`.
    """
    wrong = unknown(adapter.unsupported)
    if wrong:
        raise Broken("features", f"{wrong} are no features; those are {sorted(ALL_FEATURES)}")
    given = {"dropouts": adapter.dropouts, "weighted": WEIGHTS not in adapter.unsupported}
    with tempfile.TemporaryDirectory(dir=path) as folder:
        case = Case(
            Path(folder) / "parties", threat, rounds=rounds, faults=faults, **{**given, **options}
        )
        made = adapter()
        played = Played(case, made, Wire(case, made, children=children))
        try:
            for outcome in made.run(case, played.wire):
                played.outcomes.append(outcome)
        except (SecAggError, ServerDied) as error:
            played.error = error
        except Broken as broken:
            raise Broken(broken.law, f"{broken.text}\n\n{played.story()}") from None
        except Exception as error:
            raise Broken(
                "typed",
                f"the run ended with {error!r}, which is no SecAggError\n\n{played.story()}",
            ) from error
        laws.check(played)
        return played


class Conformance:
    """Tests of an adapter; subclass it under a name that pytest collects.

    adapter: the class under test. threats: of the plans. slow: a mark of pytest for what takes
    long (``pytest.mark.slow``). fast: kinds of a single fault whose tests do not get that mark.
    long: names of other tests that do. brief: kinds that are tried in the first two rounds only,
    of which the second is as the third. examples: schedules that hypothesis draws for each threat.
    """

    adapter: ClassVar[type[Adapter[Any]]]
    threats: ClassVar[tuple[Threat, ...]] = THREATS
    slow: ClassVar[Any] = ()
    fast: ClassVar[frozenset[Kind]] = frozenset(MESSAGE)
    long: ClassVar[frozenset[str]] = frozenset(
        {"test_every_record", "test_server_restart", "test_several_faults"}
    )
    brief: ClassVar[frozenset[Kind]] = frozenset()
    examples: ClassVar[int] = 25

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parameters of the tests below, by the names of their arguments."""
        import pytest

        names = metafunc.fixturenames
        threats = [
            pytest.param(threat, marks=self.slow if metafunc.definition.name in self.long else ())
            for threat in self.threats
        ]
        if "place" in names:
            cells = [
                pytest.param(
                    threat,
                    kind,
                    place,
                    id=f"{threat}-{kind}-{place[0]}-{place[1]}",
                    marks=() if kind in self.fast else self.slow,
                )
                for threat in self.threats
                for kind in _LOSSES
                for place in places(threat)
                if kind not in self.brief or place[0] < 2
            ]
            metafunc.parametrize(("threat", "kind", "place"), cells)
            return
        if "threat" in names:
            metafunc.parametrize("threat", threats)
        given = {
            "nuisance": [kind.value for kind in _NUISANCES],
            "training": [kind.value for kind in TRAINING],
            "wrong": [kind.value for kind in CONFIGURATION],
            "strategy": self.adapter.incompatible or [""],
        }
        for name, values in given.items():
            if name in names:
                metafunc.parametrize(name, values)

    # What subclasses may use too.

    def play(self, path: Path, threat: Threat, **options: Any) -> Played:
        """One schedule of this adapter, with all laws checked."""
        return play(self.adapter, path, threat, **options)

    def need(self, *features: str) -> None:
        """Skip the test, with the adapter's reason, where its framework cannot do this."""
        import pytest

        for feature in features:
            why = self.adapter.unsupported.get(feature)
            if why is not None:
                pytest.skip(f"{self.adapter.name} does not support {feature}: {why}")

    # The tests.

    def test_without_faults(self, tmp_path: Path, threat: Threat) -> None:
        """Every round is the exact sum of all sites, in the exchanges that it has to take."""
        played = self.play(tmp_path, threat, rounds=4)
        for number, outcome in enumerate(played.outcomes):
            if set(outcome.survivors) != set(played.case.names):
                raise Broken("survivors", f"round {number} lacks sites\n\n{played.story()}")

    def test_weights(self, tmp_path: Path, threat: Threat) -> None:
        """Sites count by their weights, and the total is reported."""
        self.need(WEIGHTS)
        played = self.play(tmp_path, threat, rounds=2, seed=1)
        if any(outcome.weight is None for outcome in played.outcomes):
            raise Broken("exact", f"a round has no total weight\n\n{played.story()}")

    def test_one_fault(
        self, tmp_path: Path, threat: Threat, kind: Kind, place: tuple[int, str]
    ) -> None:
        """Each loss of a message or a process in each exchange of the first three rounds."""
        number, slot = place
        self.need(FEATURES[kind], f"{kind} in {slot}")
        at = places(threat).index(place)
        # The party and the place within a message change from one exchange to the next.
        names = self._names()
        fault = Fault(kind, names[at % len(names)], number, slot, at=at * 0.37 % 1)
        if kind is Kind.KILL_JOURNAL:
            fault = replace(fault, at=0.0)  # test_every_record has the others
        played = self.play(tmp_path, threat, rounds=number + _BACK + 1, faults=[fault])
        if fault not in played.wire.applied and self.adapter.dropouts:
            raise Broken("faults", f"{fault} did not take place\n\n{played.story()}")

    def test_every_record(self, tmp_path: Path, threat: Threat) -> None:
        """A death after each record of the journal that an input takes."""
        self.need(FEATURES[Kind.KILL_JOURNAL])
        for number, record in itertools.product((0, 1), range(1, RECORDS)):
            fault = Fault(Kind.KILL_JOURNAL, "east", number, "input", at=record / RECORDS + 0.01)
            self.play(tmp_path, threat, rounds=number + _BACK + 1, faults=[fault])

    def test_nuisances(self, tmp_path: Path, threat: Threat, nuisance: str) -> None:
        """What costs nothing, in every exchange of the first three rounds: nobody is missing."""
        kind, names = Kind(nuisance), self._names()
        self.need(FEATURES[kind])
        faults = [
            Fault(kind, names[at % len(names)], number, slot)
            for at, (number, slot) in enumerate(places(threat))
        ]
        played = self.play(tmp_path, threat, rounds=_ROUNDS + 1, faults=faults)
        missed = set(faults) - set(played.wire.applied)
        if missed:
            raise Broken("faults", f"{missed.pop()} did not take place\n\n{played.story()}")

    def test_other_vector(self, tmp_path: Path, threat: Threat) -> None:
        """Training that never gives the same vector twice, asked twice for one round."""
        self.need(FEATURES[Kind.VARIES])
        for number in range(_ROUNDS):
            faults = [
                Fault(Kind.TWICE, "south", number, "input"),
                Fault(Kind.VARIES, "south", number),
            ]
            self.play(tmp_path, threat, rounds=number + 2, faults=faults)

    def test_bad_training(self, tmp_path: Path, threat: Threat, training: str) -> None:
        """A site whose training fails, or gives what the plan does not allow, is out of this sum
        and in the next one, and nobody learns why."""
        kind = Kind(training)
        self.need(FEATURES[kind], *((WEIGHTS,) if kind is Kind.HEAVY else ()))
        self.play(
            tmp_path, threat, rounds=4, faults=[Fault(kind, "east", 0), Fault(kind, "south", 2)]
        )

    def test_wrong_party(self, tmp_path: Path, threat: Threat, wrong: str) -> None:
        """A site with another plan or roster, or without its key."""
        kind = Kind(wrong)
        self.need(FEATURES[kind])
        self.play(tmp_path, threat, rounds=2, faults=[Fault(kind, "south")])

    def test_two_nodes_of_one_party(self, tmp_path: Path, threat: Threat) -> None:
        """A second node with the folder of the first is not counted twice."""
        self.need(FEATURES[Kind.TWIN])
        self.play(tmp_path, threat, rounds=3, faults=[Fault(Kind.TWIN, "south")])

    def test_stranger(self, tmp_path: Path, threat: Threat) -> None:
        """A node that the roster does not have changes nothing."""
        self.need(FEATURES[Kind.STRANGER])
        self.play(tmp_path, threat, rounds=2, faults=[Fault(Kind.STRANGER)])

    def test_more_dropouts_than_the_plan_bears(self, tmp_path: Path, threat: Threat) -> None:
        """The round fails by name, and the next ones are whole."""
        self.need(FEATURES[Kind.DROP])
        names = self._names()[: self.adapter.dropouts + 1]
        for number, kind in itertools.product((0, 1), (Kind.DROP, Kind.LOSE)):
            faults = [Fault(kind, name, number, "input") for name in names]
            played = self.play(tmp_path, threat, rounds=number + 4, faults=faults)
            if number < len(played.outcomes) and played.outcomes[number].done:
                raise Broken("success", f"round {number} was not enough\n\n{played.story()}")

    def test_server_restart(self, tmp_path: Path, threat: Threat) -> None:
        """The server's process ends in the first or the second round; a new one goes on."""
        self.need(FEATURES[Kind.SERVER_RESTART])
        for number, slot in places(threat)[1:]:
            if number < 2:
                faults = [Fault(Kind.SERVER_RESTART, "", number, slot)]
                self.play(tmp_path, threat, rounds=number + 3, faults=faults)

    def test_incompatible_strategy(self, tmp_path: Path, threat: Threat, strategy: str) -> None:
        """A strategy that needs single updates is refused before anybody trains."""
        self.need(STRATEGIES)
        if not strategy:
            raise Broken("strategies", "the adapter names none; say why in `unsupported`")
        self.play(tmp_path, threat, rounds=1, strategy=strategy)

    def test_several_faults(self, tmp_path: Path, threat: Threat) -> None:
        """Schedules of up to four faults, drawn by hypothesis."""
        import pytest

        pytest.importorskip("hypothesis", reason="hypothesis draws these schedules")
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        def able(kinds: Iterable[Kind]) -> list[Kind]:
            return [kind for kind in kinds if FEATURES[kind] not in self.adapter.unsupported]

        # After an abort a later round is cold too.
        cells = list(itertools.product(range(_ROUNDS), steps(threat, 0)))
        names = self._names()
        whole = (Kind.RAISES, Kind.NAN, Kind.VARIES)
        drawn = [
            *itertools.product(able(MESSAGE), names, cells),
            *itertools.product(able(whole), names, [(at, "") for at in range(_ROUNDS)]),
            *itertools.product(able([Kind.SERVER_RESTART]), [""], cells),
        ]
        if not drawn:
            pytest.skip(f"{self.adapter.name} supports none of these faults")
        one = st.builds(
            lambda what, at: Fault(what[0], what[1], what[2][0], what[2][1], at),
            st.sampled_from(drawn),
            st.floats(0, 1, width=16),
        )

        @settings(
            max_examples=self.examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(one, min_size=2, max_size=4))
        def some(faults: list[Fault]) -> None:
            self.play(tmp_path, threat, rounds=_ROUNDS + _BACK, faults=faults)

        some()

    def _names(self) -> tuple[str, ...]:
        from .case import NAMES

        return NAMES[:4]


__all__ = ["THREATS", "Conformance", "places", "play", "steps"]
