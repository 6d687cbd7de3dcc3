"""The kit is able to fail: adapters that are broken on purpose, each caught by the law named."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from integrations.core.reference_adapter import Direct

from secagg.integrations.conformance import (
    Adapter,
    Broken,
    Case,
    Conformance,
    Fault,
    Kind,
    Outcome,
    TrainingFailed,
    Wire,
    in_child,
    play,
)
from secagg.integrations.site import Contribution, SiteDesk
from secagg.session import Slot, Wanted
from secagg_protocols.errors import SecAggError

SEMI = "semi-honest"


@pytest.fixture(autouse=True)
def soft_disk(monkeypatch: Any) -> None:
    """Processes are killed here, and not the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def caught(adapter: type[Adapter[Any]], path: Path, *faults: Fault, rounds: int = 3) -> str:
    """The law that an adapter breaks."""
    with pytest.raises(Broken) as broken:
        play(adapter, path, SEMI, rounds=rounds, faults=faults)
    # The schedule, the outcomes and the deliveries are in the text.
    assert "faults:" in str(broken.value)
    assert "deliveries:" in str(broken.value)
    return broken.value.law


# What reaches the server.


class Clear(Adapter[bytes]):
    """No sum at all: clear vectors are added up."""

    def clear(self, x: Any) -> bytes:
        return np.asarray(x).tobytes()

    def vector(self, data: bytes) -> Any:
        return np.frombuffer(data)

    def run(self, case: Case, wire: Wire[bytes]) -> Iterator[Outcome]:
        def handle(node: str, request: bytes) -> bytes:
            return self.clear(case.train(node, wire.round).x)

        for number in range(case.rounds):
            asked = {node.key: b"train" for node in case.nodes}
            found = dict(wire.exchange(number, "input", asked, handle))
            weights = [case.weight(name, number) for name in found]
            vectors = [self.vector(data) for data in found.values()]
            total = np.average(vectors, axis=0, weights=weights)
            yield Outcome(total, sum(weights), tuple(found))


class ClearText(Clear):
    """The same as text."""

    def clear(self, x: Any) -> bytes:
        return " ".join(repr(float(value)) for value in x).encode()

    def vector(self, data: bytes) -> Any:
        return np.array([float(word) for word in data.split()])


class ClearFloat32(Clear):
    """The same in four bytes a coordinate."""

    rounding: ClassVar[float] = 1e-5

    def clear(self, x: Any) -> bytes:
        return np.asarray(x, dtype=np.float32).tobytes()

    def vector(self, data: bytes) -> Any:
        return np.frombuffer(data, dtype=np.float32).astype(np.float64)


@pytest.mark.parametrize("adapter", [Clear, ClearText, ClearFloat32])
def test_clear_vectors_are_found(adapter: type[Clear], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path) == "leaks"


class Framed(Direct):
    """A framework that sends something of its own beside our bytes."""

    def beside(self, node: str) -> bytes:
        return b""

    def everything(self, message: bytes) -> bytes:
        return message + self.more

    def begin(self, case: Case, wire: Wire[bytes]) -> None:
        self.more = b""
        super().begin(case, wire)

    def handle(self, node: str, request: bytes) -> bytes:
        self.more = b""
        with contextlib.suppress(TrainingFailed):
            self.more = self.beside(node)
        return super().handle(node, request)


class SendsReasons(Framed):
    """A framework that sends an exception's text to the server, as most do."""

    def beside(self, node: str) -> bytes:
        try:
            self.case.train(node, self.wire.round)
        except TrainingFailed as error:
            return f"error 500: {error}".encode()
        return b""


class SendsModels(Framed):
    """The trained model beside the sum, as an app's own reply would have it."""

    def beside(self, node: str) -> bytes:
        base = np.full(self.case.length, 0.25)
        update = self.case.train(node, self.wire.round, base)
        return (base + update.x).astype(np.float32).tobytes()


class SendsMetrics(Framed):
    """A site's own metric."""

    def beside(self, node: str) -> bytes:
        return repr(self.case.train(node, self.wire.round).metric).encode()


class SendsSeeds(Framed):
    """The party's key, as a state that is kept at the server would have it."""

    def beside(self, node: str) -> bytes:
        folder = next(each.folder for each in self.case.nodes if each.key == node)
        return bytes.fromhex((folder / "identity.key").read_text().split()[-1])


class SendsPaths(Framed):
    """Where the party's folder is."""

    def beside(self, node: str) -> bytes:
        return str(next(each.folder for each in self.case.nodes if each.key == node)).encode()


@pytest.mark.parametrize(
    "adapter", [SendsReasons, SendsModels, SendsMetrics, SendsSeeds, SendsPaths]
)
def test_what_travels_beside_the_reports_is_searched(adapter: type[Framed], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path, Fault(Kind.RAISES, "east", 1)) == "leaks"


def test_the_same_frame_without_secrets_passes(tmp_path: Path) -> None:
    play(Framed, tmp_path, SEMI, rounds=2, faults=[Fault(Kind.RAISES, "east", 1)])


# What parties say.


class Forgets(Direct):
    """A site that begins from nothing when it is asked again: no journal, new randomness."""

    def begin(self, case: Case, wire: Wire[bytes]) -> None:
        self.seen: set[bytes] = set()
        super().begin(case, wire)

    def handle(self, node: str, request: bytes) -> bytes:
        folder = next(each.folder for each in self.case.nodes if each.key == node)
        if request in self.seen:
            (folder / "journal").unlink(missing_ok=True)
            shutil.rmtree(folder / "sessions", ignore_errors=True)
        self.seen.add(request)
        return super().handle(node, request)


def test_a_second_report_to_one_order_is_found(tmp_path: Path) -> None:
    assert caught(Forgets, tmp_path, Fault(Kind.TWICE, "east", 0, "advertise")) == "one-report"


# What is reported.


class Optimist(Direct):
    """A round without a sum is a success of the last one's sum."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        self.last = found if found.done else self.last
        return self.last


class Silent(Direct):
    """A round without a sum leaves the model as it was, without a word."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return found if found.done else Outcome(np.zeros(self.case.length), 0, ())


class Nothing(Direct):
    """The same, as a framework does that knows no failures: no result, and no error."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return found if found.done else Outcome()


class Everybody(Direct):
    """Who was asked is said to be in the sum."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return Outcome(found.mean, found.weight, self.case.names)


class Guesses(Direct):
    """Replies that are lost are made up at the server: they are asked for by another way."""

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        found = dict(super().transport(requests, slot))
        return [
            (name, found.get(name) or self.handle(self.nodes[name], data))
            for name, data in requests.items()
        ]


TWO = (Fault(Kind.DROP, "north", 1, "input"), Fault(Kind.LOSE, "east", 1, "input"))


@pytest.mark.parametrize(
    ("adapter", "law"),
    [(Optimist, "success"), (Silent, "success"), (Nothing, "success"), (Guesses, "success")],
)
def test_a_failed_round_that_passes_for_a_success_is_found(
    adapter: type[Direct], law: str, tmp_path: Path
) -> None:
    assert caught(adapter, tmp_path, *TWO, rounds=4) == law


@pytest.mark.parametrize("adapter", [Everybody, Guesses])
def test_a_drop_that_is_swallowed_is_found(adapter: type[Direct], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path, TWO[0]) == "success"


class Stale(Direct):
    """Every round has the first one's mean."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        self.first = found.mean if number == 0 else self.first
        return Outcome(self.first, found.weight, found.survivors)


class Unweighted(Direct):
    """Every site counts the same."""

    def handle(self, node: str, request: bytes) -> bytes:
        folder = next(each.folder for each in self.case.nodes if each.key == node)

        def work(wanted: Wanted) -> Contribution:
            update = self.case.train(node, self.wire.round)
            return Contribution(update.x, 1, self.case.model(self.wire.round))

        return SiteDesk(folder).answer(request, work).reply


class Unnormalised(Direct):
    """The mean is the sum by the number of sites."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        mean = found.mean * found.weight / len(found.survivors)
        return Outcome(mean, found.weight, found.survivors)


class Coarse(Direct):
    """The mean loses a few bits on its way into the framework."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return Outcome(found.mean.astype(np.float16), found.weight, found.survivors)


class WrongTotal(Direct):
    """The mean is right, and its weight is the number of sites."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return Outcome(found.mean, len(found.survivors), found.survivors)


@pytest.mark.parametrize("adapter", [Stale, Unweighted, Unnormalised, Coarse, WrongTotal])
def test_a_wrong_sum_is_found(adapter: type[Direct], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path) == "exact"


# How it fails.


class Untyped(Direct):
    """An error that is none of the package."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        if not found.done:
            raise ValueError("not enough shares")
        return found


class Talkative(Direct):
    """A failure with a sentence in place of a rule."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        return found if found.done else Outcome(rule="could not open 0x1f, giving up")


class Ends(Direct):
    """The run just ends."""

    def run(self, case: Case, wire: Wire[bytes]) -> Iterator[Outcome]:
        for outcome in super().run(case, wire):
            if not outcome.done:
                return
            yield outcome


@pytest.mark.parametrize("adapter", [Untyped, Talkative, Ends])
def test_a_failure_without_a_rule_is_found(adapter: type[Direct], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path, *TWO, rounds=4) == "typed"


# Who is in.


class Fragile(Direct):
    """One silent site ends the round, though the plan bears it."""

    def round(self, number: int) -> Outcome:
        found = super().round(number)
        missing = found.done and len(found.survivors) < len(self.case.names)
        return Outcome(rule="not-all") if missing else found


class Unforgiving(Direct):
    """Who was silent once is not asked again."""

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        kept = {name: data for name, data in requests.items() if name not in self.silent}
        found = super().transport(kept, slot)
        self.silent |= set(kept) - {name for name, _ in found}
        return found

    def begin(self, case: Case, wire: Wire[bytes]) -> None:
        self.silent: set[str] = set()
        super().begin(case, wire)


class AnyIdentity(Direct):
    """A node whose key is not the roster's is let in under its name."""

    def handle(self, node: str, request: bytes) -> bytes:
        own = next(each.folder for each in self.case.nodes if each.key == node)
        good = own.with_name(f"good {node}")
        if not good.exists():
            good.mkdir(mode=0o700)
            shutil.copy(own / "plan.toml", good)
            self.case._identities[node].save(good / "identity.key")
        self.case.nodes = tuple(
            type(each)(each.key, good if each.key == node else each.folder)
            for each in self.case.nodes
        )
        return super().handle(node, request)


def test_a_round_that_gives_up_too_early_is_found(tmp_path: Path) -> None:
    assert caught(Fragile, tmp_path, TWO[0]) == "survivors"


def test_a_site_that_never_comes_back_is_found(tmp_path: Path) -> None:
    assert caught(Unforgiving, tmp_path, Fault(Kind.LOSE, "east", 0, "share"), rounds=4) == "return"


def test_a_wrong_identity_that_is_let_in_is_found(tmp_path: Path) -> None:
    assert caught(AnyIdentity, tmp_path, Fault(Kind.WRONG_IDENTITY, "east")) == "outsiders"


# How it is carried.


class Cold(Direct):
    """A new session for every round."""

    def round(self, number: int) -> Outcome:
        self.begin(self.case, self.wire)
        return super().round(number)


class Repeats(Direct):
    """Every party is asked twice."""

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        super().transport(requests, slot)
        return super().transport(requests, slot)


class Bypass(Direct):
    """Messages go around the wire, so that no fault takes place."""

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        return [(name, self.handle(self.nodes[name], data)) for name, data in requests.items()]


class Mislabelled(Direct):
    """Exchanges under other names than their own: faults are looked for in vain."""

    def transport(self, requests: Mapping[str, bytes], slot: Slot) -> list[tuple[str, bytes]]:
        other = {Slot.CONSENT: Slot.REVEAL, Slot.REVEAL: Slot.CONSENT}
        return super().transport(requests, other.get(slot, slot))


@pytest.mark.parametrize("adapter", [Cold, Repeats, Mislabelled])
def test_other_exchanges_are_found(adapter: type[Direct], tmp_path: Path) -> None:
    assert caught(adapter, tmp_path) == "exchanges"


def test_messages_that_go_around_the_wire_are_found(tmp_path: Path) -> None:
    assert caught(Bypass, tmp_path, TWO[0]) == "success"


# Strategies, and what is not supported.


class AnyStrategy(Direct):
    """The strategy is not looked at."""

    unsupported: ClassVar = {}
    incompatible: ClassVar = ("median",)


class LateRefusal(AnyStrategy):
    """It is looked at when the sites have trained."""

    def round(self, number: int) -> Outcome:
        super().round(number)
        return Outcome(rule="strategy")


class NoRefusal(Direct):
    """Says that it refuses some, and names none."""

    unsupported: ClassVar = {}


class TimelyRefusal(AnyStrategy):
    """It is refused before anything is sent."""

    def begin(self, case: Case, wire: Wire[bytes]) -> None:
        raise SecAggError("the median is no mean", rule="strategy")


@pytest.mark.parametrize("kind", [AnyStrategy, LateRefusal, NoRefusal])
def test_a_strategy_that_is_not_refused_is_found(kind: type[Direct], tmp_path: Path) -> None:
    class Suite(Conformance):
        adapter = kind

    names = kind.incompatible or ("",)
    with pytest.raises(Broken) as broken:
        Suite().test_incompatible_strategy(tmp_path, SEMI, names[0])
    assert broken.value.law == "strategies"


def test_a_strategy_that_is_refused_passes(tmp_path: Path) -> None:
    class Suite(Conformance):
        adapter = TimelyRefusal

    Suite().test_incompatible_strategy(tmp_path, SEMI, "median")


class Modest(Direct):
    """A framework that cannot do much."""

    unsupported: ClassVar = {"late": "its messages have a deadline", "weights": "it has none"}


def test_what_is_not_supported_is_skipped_with_the_reason(tmp_path: Path) -> None:
    class Suite(Conformance):
        adapter = Modest

    with pytest.raises(pytest.skip.Exception, match="does not support late: its messages have"):
        Suite().test_one_fault(tmp_path, SEMI, Kind.LATE, (0, "input"))
    with pytest.raises(pytest.skip.Exception, match="does not support weights: it has none"):
        Suite().test_weights(tmp_path, SEMI)
    played = play(Modest, tmp_path, SEMI, rounds=1)
    assert played.case.plan.max_weight == 1
    assert played.outcomes[0].weight == len(played.case.names)


def test_an_unknown_feature_is_an_error(tmp_path: Path) -> None:
    class Mistyped(Direct):
        unsupported: ClassVar = {"restarts": "misspelt, so that nothing would be skipped"}

    with pytest.raises(Broken, match="restarts"):
        play(Mistyped, tmp_path, SEMI, rounds=1)


# The kit's own parts.


@pytest.mark.parametrize("kind", [Kind.KILL_BEFORE, Kind.KILL_JOURNAL, Kind.KILL_REPLY])
def test_a_killed_process_is_killed(kind: Kind, tmp_path: Path) -> None:
    done = tmp_path / "done"

    def act() -> bytes:
        done.write_text("done")
        return b"reply"

    said = in_child(act, kind)
    assert done.exists() == (kind is not Kind.KILL_BEFORE)
    assert said == (None if kind is Kind.KILL_BEFORE else b"reply")


def test_a_process_that_fails_otherwise_is_an_error(capfd: Any) -> None:
    def act() -> bytes:
        raise ValueError("a fault of the test itself")

    assert in_child(lambda: b"") == b""
    assert in_child(lambda: None) is None
    for kind in (None, Kind.KILL_REPLY):
        with pytest.raises(RuntimeError, match="ended with status"):
            in_child(act, kind)
    assert "a fault of the test itself" in capfd.readouterr().err


class Deaf(Direct):
    """The reference adapter, which notes where a journal and a state were when a party died."""

    found: ClassVar[list[tuple[bool, int]]] = []

    def restarted(self, node: str) -> None:
        folder = next(each.folder for each in self.case.nodes if each.key == node)
        states = list((folder / "sessions").glob("*.sealed"))
        Deaf.found.append(((folder / "journal").exists(), len(states)))


@pytest.mark.parametrize(
    ("kind", "state"), [(Kind.KILL_BEFORE, 0), (Kind.KILL_STATE, 1), (Kind.KILL_REPLY, 1)]
)
def test_a_party_dies_where_it_is_said(kind: Kind, state: int, tmp_path: Path) -> None:
    Deaf.found.clear()
    faults = [Fault(kind, "east", 0, "advertise")]
    play(Deaf, tmp_path, SEMI, rounds=3, faults=faults)
    assert [states for _, states in Deaf.found] == [state]


def test_the_kit_is_imported_without_pytest_and_hypothesis() -> None:
    code = (
        "import sys; sys.modules.update(pytest=None, _pytest=None, hypothesis=None); "
        "import secagg.integrations.conformance as kit; print(kit.Conformance.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Conformance", done.stderr


def test_a_server_that_goes_on_in_a_new_session_uses_the_same_folder(tmp_path: Path) -> None:
    """The reference adapter's new server is made from the folder alone."""
    faults = [Fault(Kind.SERVER_RESTART, "", 1, "input")]
    played = play(Direct, tmp_path, SEMI, rounds=3, faults=faults)
    assert [outcome.rule for outcome in played.outcomes] == ["", "server-died", ""]


@pytest.mark.slow
def test_every_message_in_a_process_of_its_own(tmp_path: Path) -> None:
    for threat in ("semi-honest", "malicious-server"):
        faults = [Fault(Kind.KILL_STATE, "east", 1, "input")]
        played = play(Direct, tmp_path, threat, rounds=4, faults=faults, children=True)
        assert all(outcome.done for outcome in played.outcomes)
