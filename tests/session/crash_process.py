"""Play sessions among processes that are killed, and write down every byte that they sent.

``python crash_process.py FOLDER THREAT SITES ROUNDS KILLS SEED...`` plays one session for each
seed. One process relays all messages and forks one process for each life of a party; a fork has
the libraries and kernels loaded, and nothing of any session. ``KILLS`` times a session, at a
message drawn from its seed, a party drawn from it gets SIGKILL: some milliseconds later, or at its
k-th system call from then on. Another process takes its place, from its folder alone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from session.crash_parties import (
    SERVER,
    HubLife,
    SiteLife,
    crash_plan,
    identity,
    vector,
    wrapped_calls,
)

import secagg
from secagg.session import Aborted, Finished
from secagg_protocols.errors import PeerError

#: In place of a recipient: what a process says to the test, not to a party.
NOTE = 255
#: Seconds: the server's patience with an exchange, and between repetitions of an order.
DEADLINE, AGAIN = 0.6, 0.12
#: Seconds that a site stays away which is to miss something.
AWAY = 1.0
#: Seconds after which a session that hangs is a failure.
MOST_SECONDS = 60.0


# A party's process.


class Channel:
    """One process's end of its only connection: whole messages, or the end of the session."""

    def __init__(self, end: socket.socket, before: Callable[[str], None]) -> None:
        self.end = end
        self.before = before

    def send(self, to: int, data: bytes) -> None:
        self.before("send")
        self.end.send(bytes([to]) + data)

    def note(self, what: Any) -> None:
        self.end.send(bytes([NOTE]) + msgspec.msgpack.encode(what))

    def receive(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """Sender and message; ``TimeoutError``; ``None`` where there is nobody any more."""
        self.end.settimeout(timeout)
        data = self.end.recv(1 << 20)
        return (data[0], data[1:]) if data else None


def tell(channel: Channel, said: list[Any]) -> None:
    """Results, for the test to compare."""
    for event in said:
        if isinstance(event, Finished) and event.aggregate is not None:
            sums = [int(value) for value in event.aggregate.sum]
            names = list(event.aggregate.survivors)
            channel.note(["finished", event.round, sums, names, event.digest])
        elif isinstance(event, (Aborted, secagg.Dropped)):
            channel.note(["event", repr(event)])
    said.clear()


def run_site(channel: Channel, folder: Path, plan: secagg.Plan, name: str) -> None:
    life = SiteLife(folder, plan, name)
    while (message := channel.receive()) is not None:
        try:
            reports = life.answer(message[1])
        except PeerError as error:
            channel.note(["ended", repr(error)])
            return
        for report in reports:
            channel.send(plan.clients, report)
        tell(channel, life.said)


def run_hub(channel: Channel, folder: Path, plan: secagg.Plan, rounds: int, eager: bool) -> None:
    """``eager``: saves after each report too."""
    life = HubLife(folder, plan, rounds)
    names = plan.roster.names
    orders = life.orders()
    while True:
        waiting = {order.to: order.data for order in orders}
        for name, data in waiting.items():
            channel.send(names.index(name), data)
        if life.over:
            return
        start = again = time.monotonic()
        while life.session.silent and time.monotonic() < start + DEADLINE:
            with contextlib.suppress(TimeoutError):
                message = channel.receive(AGAIN)
                if message is not None:
                    life.take(names[message[0]], message[1], save=eager)
            if time.monotonic() > again + AGAIN:
                again = time.monotonic()
                for name in life.session.silent:
                    channel.send(names.index(name), waiting[name])
        # A server that comes back from an older dump gives rounds up before they have orders.
        orders = (life.close() if life.session.slot is not None else []) or life.orders()
        tell(channel, life.said)


def run_party(end: socket.socket, number: int, relay: Relay) -> None:
    """One life, from its folder alone, until it dies or the session ends."""
    countdown, plan = relay.countdown, relay.plan
    folder = relay.folder / relay.names[number]

    def before(name: str) -> None:
        if countdown[number] > 0:
            countdown[number] -= 1
            if countdown[number] == 0:
                channel.note(["dies", name])
                os.kill(os.getpid(), signal.SIGKILL)

    channel = Channel(end, before)
    try:
        with wrapped_calls(before):
            if number == plan.clients:
                run_hub(channel, folder, plan, relay.rounds, relay.eager)
            else:
                run_site(channel, folder, plan, relay.names[number])
    except BaseException as error:
        # The session may be over while something is still to be said.
        if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
            channel.note(["broken", traceback.format_exc()])
        raise


# The process that relays.


@dataclass
class Kill:
    """A moment: at the ``message``-th message, ``target``, after ms or at a call of its own."""

    message: int
    target: int
    point: bool
    amount: int
    rest: float  # seconds until another process takes its place


def schedule(seed: int, sites: int, kills: int, messages: int) -> list[Kill]:
    """The kills of one session; the server dies more often than each of the sites.

    The last two are of two sites at one time, which stay away so long that a round is given up.
    """
    rng = random.Random(seed)
    found = []
    for _ in range(kills - 2):
        target = sites if rng.random() < 0.3 else rng.randrange(sites)
        point = rng.random() < 0.7
        amount = rng.randint(1, 90) if point else rng.randint(0, 12)
        rest = AWAY if target < sites and rng.random() < 0.15 else rng.uniform(0.0, 0.02)
        found.append(Kill(rng.randint(2, messages), target, point, amount, rest))
    both = rng.randint(2, messages * 3 // 4)
    for target in rng.sample(range(sites), 2):
        found.append(Kill(both, target, False, rng.randint(0, 12), AWAY))
    return sorted(found, key=lambda kill: kill.message)


@dataclass
class Relay:
    """Relays and logs one session."""

    folder: Path
    plan: secagg.Plan
    rounds: int
    eager: bool
    kills: list[Kill]

    def __post_init__(self) -> None:
        self.names = (*self.plan.roster.names, SERVER)
        self.log: list[Any] = []
        self.lives: dict[int, tuple[int, socket.socket]] = {}
        self.ended: set[int] = set()
        self.messages = 0
        self.due: list[tuple[float, str, int]] = []
        self.rests: dict[int, float] = {}  # of parties that are to die
        self.selector = selectors.DefaultSelector()
        # Shared with all lives: calls that a party may make until it dies, 0 for any number.
        self.countdown = memoryview(mmap.mmap(-1, 4 * len(self.names))).cast("i")

    def play(self) -> None:
        """Until the server's last orders are out, and nobody is away any more."""
        for number in range(len(self.names)):
            self.begin(number)
        stop = time.monotonic() + MOST_SECONDS
        while self.plan.clients not in self.ended or self.due:
            if time.monotonic() > stop:
                self.log.append(["hangs"])
                for child, _ in self.lives.values():
                    os.kill(child, signal.SIGKILL)
                break
            now = time.monotonic()
            for item in [item for item in self.due if item[0] <= now]:
                self.due.remove(item)
                if item[1] == "begin":
                    self.begin(item[2])
                elif item[2] in self.lives:
                    os.kill(self.lives[item[2]][0], signal.SIGKILL)
            wait = min([item[0] for item in self.due], default=now + 0.1) - time.monotonic()
            for key, _ in self.selector.select(max(0.0, min(wait, 0.1))):
                self.read(key.data)
        for number in list(self.lives):
            self.countdown[number] = 0
            self.lives[number][1].shutdown(socket.SHUT_WR)
        for number in list(self.lives):
            while number in self.lives:
                self.read(number)

    def begin(self, number: int) -> None:
        """Fork a life of a party."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _, other in self.lives.values():
                    other.close()
                ours.close()
                run_party(theirs, number, self)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        self.lives[number] = (child, ours)
        self.selector.register(ours, selectors.EVENT_READ, number)

    def read(self, number: int) -> None:
        """One message of a party, or its end."""
        end = self.lives[number][1]
        try:
            data = end.recv(1 << 20)
        except ConnectionResetError:
            # A party that died with a message unread: the error comes once, and before what the
            # party said last.
            return
        if not data:
            self.reap(number)
        elif data[0] == NOTE:
            self.log.append(["note", number, msgspec.msgpack.decode(data[1:])])
        else:
            self.pass_on(number, data[0], data[1:])

    def pass_on(self, sender: int, to: int, data: bytes) -> None:
        self.log.append(["wire", sender, to, data])
        if to in self.lives:
            # What cannot be delivered is lost, as a network loses it.
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self.lives[to][1].send(bytes([sender]) + data, socket.MSG_DONTWAIT)
        self.messages += 1
        for kill in [k for k in self.kills if k.message <= self.messages]:
            if kill.target in self.lives and kill.target not in self.rests:
                self.kills.remove(kill)
                self.rests[kill.target] = kill.rest
                if kill.point:
                    self.countdown[kill.target] = kill.amount
                else:
                    at = time.monotonic() + kill.amount / 1000
                    self.due.append((at, "kill", kill.target))

    def reap(self, number: int) -> None:
        """A life is over: note how, and what it left in its journal; begin the next one."""
        child, end = self.lives.pop(number)
        self.selector.unregister(end)
        end.close()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        journal = self.folder / self.names[number] / "journal"
        left = journal.read_bytes() if journal.exists() else b""
        self.log.append(["over", number, killed, status, left])
        rest = self.rests.pop(number, 0.0)
        if killed:
            self.due.append((time.monotonic() + rest, "begin", number))
        else:
            self.ended.add(number)


def main(folder: Path, threat: str, sites: int, rounds: int, kills: int, seeds: list[int]) -> None:
    plan = crash_plan(threat, sites)
    warm_up(plan)
    exchanges = rounds * (3 if plan.signed else 2)
    for seed in seeds:
        place = folder / f"session-{seed}"
        place.mkdir()
        planned = schedule(seed, sites, kills, 2 * sites * exchanges)
        relay = Relay(place, plan, rounds, bool(seed % 2), planned)
        relay.play()
        (place / "log").write_bytes(msgspec.msgpack.encode(relay.log))


def warm_up(plan: secagg.Plan) -> None:
    """Load what a round needs, kernels too, so that every fork has it."""
    names = plan.roster.names
    keys = {name: identity(name) for name in (*names, SERVER)} if plan.signed else None
    secagg.aggregate(plan, {name: vector(plan, name, 0) for name in names}, identities=keys)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]), [int(s) for s in sys.argv[6:]])
