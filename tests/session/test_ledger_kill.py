"""SIGKILL to a site around the charge of an input: the next life has nothing but its disk.

``python test_ledger_kill.py FOLDER THREAT WHAT`` plays sessions of which one site, with a ledger
in its journal file, is a process of its own, and prints what was found as JSON. One process holds
the server and the other sites and forks the lives of the site in danger. ``WHAT``: ``moments``
kills at each of :data:`MOMENTS`, in a session each whose budget bears a single input; ``calls``
kills before each system call in turn, in a round each of one session; ``again`` kills the k-th
life of one round before its k-th call, until one gets through, and each gives another vector than
the life before it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from session.crash_parties import SERVER, SESSION, SiteLife, identity, wrapped_calls
from session.crash_world import quick_folder

import secagg
from secagg.dp.ledger import Ledger
from secagg.session import Finished, ServerSession, SessionEvent, SiteSession, Wanted
from secagg_protocols.events import Send, Step
from secagg_protocols.journal import FileJournal
from secagg_protocols.masked_sum import messages
from secagg_protocols.stages.noise import Noise
from support.sessions import Parcel

VICTIM = "site-0"
MALICIOUS, HONEST = "malicious-server", "semi-honest"
DELTA = 1e-5
#: Where a site dies between the vector and its report, by what is on its disk or on the wire.
MOMENTS = [
    f"{when} {what}"
    for what in ("register", "charge", "input", "save", "send")
    for when in ("before", "after")
]


def noisy_plan(threat: str) -> secagg.Plan:
    """The plan of four sites; the same in every process. An input costs about epsilon 0.2."""
    names = [f"site-{i}" for i in range(4)]
    roster = secagg.Roster(
        sites=tuple((name, identity(name).public) for name in names),
        server=identity(SERVER).public,
    )
    return secagg.Plan.recommend(
        roster,
        threat=threat,
        length=12,
        stages=(
            secagg.Integers(0, 255),
            Noise(law="discrete-gaussian", variance_levels2=1 << 26),
        ),
        colluding=1,
        max_dropouts=1,
        min_honest=2,
    )


def vector(plan: secagg.Plan, site: str, number: int, other: bool = False) -> Any:
    return np.arange(plan.length) + 10 * plan.roster.index(site) + number % 100 + other


def model(number: int) -> bytes:
    return b"model %d" % number


# The site in danger.


@dataclass
class Danger:
    """Kills its process at a moment, or before a call, between the vector and its report."""

    end: socket.socket
    moment: str = ""
    left: int = 0  # calls until then
    armed: bool = False

    def call(self, name: str) -> None:
        """A system call is to be made."""
        if self.armed and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.die(f"call {name}")

    def at(self, moment: str) -> None:
        if self.armed and moment == self.moment:
            self.die(moment)

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        self.at(f"before {what}")
        yield
        self.at(f"after {what}")

    def die(self, where: str) -> None:
        self.armed = False
        self.end.send(msgspec.msgpack.encode(["dies", where, b""]))
        os.kill(os.getpid(), signal.SIGKILL)


class Book(FileJournal):
    """A journal that says what it is about to do, and what it has done."""

    danger: Danger
    charges: bytes  # the register of the ledger

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        with self.danger.around("charge" if name == self.charges else "register"):
            super().swap(name, old, new)

    def claim(self, key: bytes, step: int, *args: Any, **options: Any) -> bytes:
        if step != Step.INPUT:
            return super().claim(key, step, *args, **options)
        with self.danger.around("input"):
            return super().claim(key, step, *args, **options)


class LedgerLife(SiteLife):
    """One life of a site with a budget: it skips what that does not bear."""

    def __init__(self, folder: Path, plan: secagg.Plan, epsilon: float, danger: Danger) -> None:
        self.plan, self.name, self.do = plan, VICTIM, lambda act: act()
        self.danger = danger
        self.other = False
        self.said: list[SessionEvent] = []
        self.store = secagg.Store(folder, identity(VICTIM))
        book = Book(folder / "journal")
        self.store.journal = book
        ledger = ledger_of(book, epsilon)
        book.danger, book.charges = danger, ledger._register
        if self.store.saved:
            self.session = self.store.load_site(plan, ledger=ledger)
        else:
            self.session = site_session(plan, VICTIM, book, ledger)
        self.store.save(self.session)

    def _submit(self, wanted: Wanted) -> list[SessionEvent]:
        self.danger.armed = True
        x = vector(self.plan, VICTIM, wanted.round, self.other)
        try:
            events = list(self.session.submit(x, model=model(wanted.round)))
        except secagg.BudgetError as error:
            assert error.rule == "budget"
            events = self.session.skip()
        self.danger.at("before save")
        return events


def live(end: socket.socket, folder: Path, plan: secagg.Plan, epsilon: float) -> None:
    """One life, until it is killed, is refused its vector, or nobody asks any more."""
    danger = Danger(end)
    with wrapped_calls(danger.call):
        life = LedgerLife(folder, plan, epsilon, danger)
        while data := end.recv(1 << 20):
            danger.moment, danger.left, life.other, order = msgspec.msgpack.decode(data)
            try:
                (*_, report) = life.answer(order) or [b""]
            except secagg.MisuseError as error:
                # Nothing is saved: the life before this one gave another vector.
                end.send(msgspec.msgpack.encode(["refused", error.rule, b""]))
                return
            danger.at("after save")
            danger.at("before send")
            end.send(msgspec.msgpack.encode(["report", "", report]))
            danger.at("after send")
            danger.armed = False


def ledger_of(journal: secagg.Journal, epsilon: float = 1e6) -> Ledger:
    return Ledger(journal, VICTIM, data="", epsilon=epsilon, delta=DELTA)


def site_session(
    plan: secagg.Plan, name: str, journal: secagg.Journal, ledger: Ledger | None = None
) -> SiteSession:
    return SiteSession(
        plan,
        name,
        identity=identity(name) if plan.signed else None,
        session=SESSION,
        floors=None,
        journal=journal,
        ledger=ledger,
    )


# Everybody else.


@dataclass
class Found:
    """What was seen of one round."""

    deaths: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # rules
    #: At each death, and at the end: inputs of this round on the wire, charges in the journal.
    left: list[list[int]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)  # every copy of the masked input
    survivors: list[str] = field(default_factory=list)


class World:
    """A session whose first site is in a process of its own."""

    def __init__(self, folder: Path, plan: secagg.Plan, epsilon: float = 1e6) -> None:
        folder.mkdir(mode=0o700)
        self.folder, self.plan, self.epsilon = folder, plan, epsilon
        self.hub = ServerSession(
            plan,
            identity=identity(SERVER) if plan.signed else None,
            session=SESSION,
            journal=secagg.MemoryJournal(),
        )
        self.sites = {
            name: site_session(plan, name, secagg.MemoryJournal())
            for name in plan.roster.names
            if name != VICTIM
        }
        self.number = -1
        self.begin()

    def begin(self) -> None:
        """Fork a life of the site in danger."""
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child = os.fork()
        if self.child == 0:
            code = 1
            try:
                self.end.close()
                live(theirs, self.folder, self.plan, self.epsilon)
                code = 0
            finally:
                os._exit(code)
        theirs.close()

    def reap(self) -> int:
        """The signal that ended the life, 0 where it left by itself."""
        self.end.close()
        _, status = os.waitpid(self.child, 0)
        assert status in {0, int(signal.SIGKILL)}, status
        return status

    def charged(self) -> int:
        ledger = ledger_of(FileJournal(self.folder / "journal"))
        return sum(charge.rounds for charge in ledger.entries())

    def round(
        self,
        aim: Callable[[int], tuple[str, int, bool]] = lambda _: ("", 0, False),
        *,
        repeat: bool = False,
    ) -> Found:
        """Play one round; ``aim(life)``: moment, call, and whether it gives the other vector.

        repeat: the order that asks for the input comes once more when it was answered, as where
        the report is lost.
        """
        self.number += 1
        found, life = Found(), 0
        events = self.hub.begin_round(model(self.number))
        while self.hub.slot is not None:
            for order in [event for event in events if isinstance(event, Send)]:
                if order.to != VICTIM:
                    report = self.ask(order)
                    self.hub.receive(report, sender=order.to)
                    continue
                again = 1 + (repeat and self.hub.slot.name == "INPUT")
                while again:
                    report, life = self.ask_victim(order.data, aim, life, found)
                    if report:
                        self.note_inputs(report, found)
                        self.hub.receive(report, sender=VICTIM)
                        again -= 1
            events = self.hub.close_exchange()
        self.note_left(found)
        (done,) = [event for event in events if isinstance(event, Finished)]
        assert done.aggregate is not None
        found.survivors = list(done.aggregate.survivors)
        return found

    def ask(self, order: Send) -> bytes:
        session = self.sites[order.to]
        events = session.receive(order.data, sender=SERVER)
        for event in events:
            if isinstance(event, Wanted):
                x = vector(self.plan, order.to, event.round)
                events = session.submit(x, model=model(event.round))
        (report,) = [event.data for event in events if isinstance(event, Send)]
        return report

    def ask_victim(
        self, order: bytes, aim: Callable[[int], tuple[str, int, bool]], life: int, found: Found
    ) -> tuple[bytes, int]:
        """Give the site an order; its report, or nothing where this life is over."""
        kind = ""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.end.send(msgspec.msgpack.encode((*aim(life), order)))
        while data := self.heard():
            kind, text, report = msgspec.msgpack.decode(data)
            if kind == "report":
                return report, life
            (found.deaths if kind == "dies" else found.refused).append(text)
        killed = self.reap()
        assert killed == (0 if kind == "refused" else signal.SIGKILL)
        self.note_left(found)
        self.begin()
        return b"", life + 1

    def heard(self) -> bytes:
        """What the life says next; nothing where it is over."""
        while True:
            # A life that died with an order unread resets the socket: that error comes once, and
            # before what the life said last.
            with contextlib.suppress(ConnectionResetError):
                return self.end.recv(1 << 20)

    def note_inputs(self, report: bytes, found: Found) -> None:
        parcel = Parcel.of(report, 64 if self.plan.signed else 32)
        for inner in parcel.inner:
            if inner.kind == messages.INPUT.number:
                assert inner.round == self.number
                found.inputs.append(inner.data.hex())

    def note_left(self, found: Found) -> None:
        found.left.append([len(found.inputs), self.charged()])

    def close(self) -> None:
        """Nobody asks any more."""
        self.end.shutdown(socket.SHUT_WR)
        assert self.reap() == 0


def play_moments(folder: Path, plan: secagg.Plan) -> Any:
    """Each moment with the same vector in the next life, and with another one."""
    for moment in MOMENTS:
        for other in (False, True):
            world = World(folder / f"{moment}-{other}", plan, one_input(plan))

            def aim(life: int, moment: str = moment, other: bool = other) -> Any:
                # The third life is one that had to take the first vector.
                return moment if life == 0 else "", 0, other and life == 1

            rounds = [world.round(aim, repeat=True), world.round()]
            world.close()
            yield [asdict(found) for found in rounds]


def play_calls(folder: Path, plan: secagg.Plan) -> Any:
    world = World(folder / "calls", plan)
    world.round()  # so that the rounds in danger are warm ones, alike
    for k in itertools.count(1):
        found = world.round(lambda life, k=k: ("", k if life == 0 else 0, False))
        yield [asdict(found)]
        if not found.deaths:
            break
    world.close()


def play_again(folder: Path, plan: secagg.Plan) -> Any:
    world = World(folder / "again", plan, one_input(plan))
    rounds = [world.round(lambda life: ("", life + 1, life % 2 == 1), repeat=True), world.round()]
    world.close()
    yield [asdict(found) for found in rounds]


def one_input(plan: secagg.Plan) -> float:
    """A budget that bears one input, and not two."""
    ledger, costs = ledger_of(secagg.MemoryJournal()), []
    for number in range(2):
        ledger.charge(plan, bytes([number]) * 32)
        costs.append(ledger.spent())
    return sum(costs) / 2


def main(folder: Path, threat: str, what: str) -> None:
    plan = noisy_plan(threat)
    # Libraries and kernels are loaded once, and every fork has them.
    names = plan.roster.names
    keys = {name: identity(name) for name in (*names, SERVER)} if plan.signed else None
    secagg.aggregate(plan, {name: vector(plan, name, 0) for name in names}, identities=keys)
    one_input(plan)
    play = {"moments": play_moments, "calls": play_calls, "again": play_again}[what]
    json.dump(list(play(folder, plan)), sys.stdout)


# The tests.


def played(threat: str, what: str) -> list[list[Found]]:
    """The rounds of each session."""
    with quick_folder() as folder:
        run = subprocess.run(
            [sys.executable, __file__, folder, threat, what],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    return [[Found(**one) for one in rounds] for rounds in json.loads(run.stdout)]


def check(round_: Found, *, before: int = 0) -> None:
    """One input at most, charged before it left, and charged once whoever died."""
    assert len(set(round_.inputs)) == 1
    for inputs, charged in round_.left:
        assert charged - before <= 1
        assert not inputs or charged - before == 1
    assert round_.left[-1][1] == before + 1
    assert VICTIM in round_.survivors


@pytest.mark.parametrize("threat", [MALICIOUS])
def test_a_kill_at_each_moment_around_the_charge(threat: str) -> None:
    sessions = played(threat, "moments")
    expected = [moment for moment in MOMENTS for _ in range(2)]
    assert [rounds[0].deaths for rounds in sessions] == [[moment] for moment in expected]
    for index, (moment, (first, second)) in enumerate(zip(expected, sessions, strict=True)):
        check(first)
        # On the disk at death: the charge from its swap on, whether or not the input followed.
        charged = MOMENTS.index(moment) >= MOMENTS.index("after charge")
        assert first.left[0] == [moment == "after send", charged]
        # Another vector goes out where none was claimed, and under the charge that was made for
        # the first; where one was, it is refused, and the first vector has to come again.
        claimed = MOMENTS.index(moment) >= MOMENTS.index("after input")
        assert first.refused == (["journal-once"] if claimed and index % 2 == 1 else [])
        # The report, and the report once more.
        assert len(first.inputs) == 2
        # The budget is spent: whichever life asks, the next round is without this site.
        assert second.inputs == []
        assert second.left == [[0, 1]]
        assert VICTIM not in second.survivors
        assert len(second.survivors) == 3


@pytest.mark.slow
@pytest.mark.parametrize("threat", [MALICIOUS, HONEST])
def test_a_kill_before_every_call_is_charged_once(threat: str) -> None:
    rounds = [only for (only,) in played(threat, "calls")]
    for number, round_ in enumerate(rounds):
        # The rounds before, and a first one without danger.
        check(round_, before=number + 1)
        assert len(round_.deaths) == (number < len(rounds) - 1)
    assert len(rounds) >= 30
    met = {death.removeprefix("call ") for round_ in rounds for death in round_.deaths}
    assert met >= {"pwrite", "fsync", "flock", "replace"}


@pytest.mark.slow
@pytest.mark.parametrize("threat", [MALICIOUS, HONEST])
def test_lives_that_die_one_after_the_other_are_charged_once(threat: str) -> None:
    ((first, second),) = played(threat, "again")
    check(first)
    assert len(first.deaths) >= 10
    # Lives with the other vector come before and after the claim.
    assert set(first.refused) == {"journal-once"}
    assert second.inputs == []
    assert VICTIM not in second.survivors


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
