"""A session in one process, where a party dies or its disk fails at a chosen system call."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from session.crash_checks import Transcript
from session.crash_parties import SERVER, HubLife, OwnDiskError, SiteLife, crash_plan, wrapped_calls

from secagg import MisuseError
from secagg.session import Aborted
from secagg_protocols.events import Dropped, Send

SITES = 4
MALICIOUS, HONEST = "malicious-server", "semi-honest"
#: Calls that a full or a broken disk makes fail, and how.
FAILING = {
    **dict.fromkeys(("open", "mkdir", "pwrite", "write", "setxattr"), errno.ENOSPC),
    **dict.fromkeys(("pread", "fsync", "ftruncate", "stat", "unlink", "getxattr"), errno.EIO),
    **dict.fromkeys(("rename", "replace"), errno.EIO),
    "flock": errno.ENOLCK,
}


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where the system has such a place: a process dies here, and not the machine."""
    memory = "/dev/shm"  # noqa: S108
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class Death(BaseException):
    """The process ends here: nothing of its memory is left, and nothing more is done."""


class World:
    """All parties of a session in one process, each with its folder; one of them in danger."""

    def __init__(self, folder: Path, threat: str) -> None:
        self.folder, self.plan = folder, crash_plan(threat, SITES)
        self.names = self.plan.roster.names
        self.log: list[Any] = []  # as the relay of the processes writes it
        self.victim = ""
        self.fails = False  # the disk, once; otherwise the process dies
        self.then_dies = False  # when it has saved what it can
        self.left = 0  # calls until then
        self.given_up: set[int] = set()
        self.deaths = self.faults = self.retries = self.unsaved = 0
        self.sites = {name: self.site(name) for name in self.names}
        self.hub = HubLife(folder / SERVER, self.plan, 10**6, self.patient)

    def site(self, name: str) -> SiteLife:
        return SiteLife(self.folder / name, self.plan, name, self.patient)

    # Danger.

    def endanger(self, victim: str, k: int, *, fails: bool = False) -> None:
        self.victim, self.left, self.fails = victim, k, fails

    def before(self, name: str) -> None:
        """A call of the one in danger."""
        if self.left <= 0 or (self.fails and name not in FAILING):
            return
        self.left -= 1
        if self.left == 0:
            if self.fails:
                self.faults += 1
                raise OSError(FAILING[name], os.strerror(FAILING[name]))
            # The dead make no further calls: whatever handles this exception dies too.
            self.left = 1
            raise Death

    @contextlib.contextmanager
    def danger(self, name: str) -> Iterator[None]:
        if name != self.victim or self.left <= 0:
            yield
            return
        with wrapped_calls(self.before):
            yield

    def patient(self, act: Callable[[], Any]) -> Any:
        """Does the same call again where the disk failed, and nothing else."""
        try:
            return act()
        except (MisuseError, OwnDiskError) as error:
            assert self.fails
            own = isinstance(error, OwnDiskError)
            assert own or error.rule in {"journal-io", "store"}, error
            self.retries += 1
            # The results of the program around it are not lost: it does not go on without.
            if self.then_dies and not own:
                life = self.hub if self.victim == SERVER else self.sites[self.victim]
                try:
                    life.store.save(life.session)
                except MisuseError as refused:
                    # One half of an exchange is closed: there is no dump of that.
                    assert refused.rule == "half-closed"
                    self.unsaved += 1
                raise Death from error
            return act()

    def died(self, name: str) -> None:
        """Another process takes its place, from the disk."""
        self.left = 0
        self.deaths += 1
        number = SITES if name == SERVER else self.names.index(name)
        self.log.append(["over", number, True, 9, self.journal(name)])
        if name == SERVER:
            self.hub = HubLife(self.folder / SERVER, self.plan, 10**6, self.patient)
        else:
            self.sites[name] = self.site(name)

    def journal(self, name: str) -> bytes:
        path = self.folder / name / "journal"
        return path.read_bytes() if path.exists() else b""

    # A session.

    def ask(self, order: Send) -> None:
        """Hand an order to a site and its report to the server. May be the server's death."""
        self.sending(SERVER)
        name, index, data = order.to, self.names.index(order.to), order.data
        self.log.append(["wire", SITES, index, data])
        for _ in range(2):  # a server repeats its order to a site that is silent
            try:
                with self.danger(name):
                    reports = self.sites[name].answer(data)
                for report in reports:
                    self.sending(name)
                    self.log.append(["wire", index, SITES, report])
                    with self.danger(SERVER):
                        # Saved now and then, so that it also dies with a part of the reports.
                        self.hub.take(name, report, save=name == self.names[1])
                return
            except Death:
                if self.victim == SERVER:
                    raise
                self.died(name)

    def sending(self, name: str) -> None:
        """A call as well, for the one in danger."""
        if name == self.victim and not self.fails:
            self.before("send")

    def round(self) -> None:
        """Play one round to its end, whoever dies in it."""
        before = len(self.hub.outcomes)
        while len(self.hub.outcomes) == before or self.hub.session.slot is not None:
            try:
                with self.danger(SERVER):
                    orders = self.hub.orders()
                while orders:
                    for order in orders:
                        self.ask(order)
                    with self.danger(SERVER):
                        orders = self.hub.close()
            except Death:
                self.died(SERVER)

    def abort(self) -> None:
        """Begin a round, and give it up when the inputs are in: the next one is cold."""
        for order in self.hub.orders():
            self.ask(order)
        self.given_up.add(self.hub.session.round)
        self.hub.abort()

    def outcome(self) -> dict[str, Any]:
        """Of the last round that is over."""
        return max(self.hub.outcomes.items())[1]

    def check_round(self) -> None:
        """The last round is whole: with all sites, whoever died."""
        assert self.outcome().get("survivors") == list(self.names), self.outcome()

    def check_said(self) -> None:
        """No party was excluded, was late or ended."""
        assert all(life.session.ended is None for life in self.sites.values())
        for life in (*self.sites.values(), self.hub):
            wrong = [e for e in life.said if isinstance(e, (Dropped, Aborted))]
            # Sites learn in the cold round that the one before it was given up.
            assert all(e.round in self.given_up for e in wrong if isinstance(e, Aborted))
            assert all(isinstance(e, Aborted) for e in wrong), wrong
            life.said.clear()

    def check(self, *, one_report: bool = True) -> Transcript:
        for name in self.names:
            self.log.append(["over", self.names.index(name), False, 0, self.journal(name)])
        transcript = Transcript(self.plan, self.log)
        transcript.check(one_report=one_report)
        transcript.check_results(self.hub.outcomes)
        return transcript
