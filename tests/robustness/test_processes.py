"""Parties in processes of their own, killed after any message and resumed from their files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from robustness.malform import fields_of, pack
from robustness.party_process import read, write
from robustness.rounds import SERVER, Round, cut_frame, seal_frame, setup

from secagg_protocols.journal import FileJournal

SCRIPT = Path(__file__).with_name("party_process.py")
#: Arguments of ``setup``: three sites, who all have to stay, or four, of which one leaves.
PLANS: dict[str, tuple[list[Any], str | None]] = {
    "semi-honest": (["semi-honest", 3, 3, 1000, None, 1, 0], None),
    "malicious-server": (["malicious-server", 3, 3, 1000, None, 1, 0], None),
    "with a dropout": (["malicious-server", 4, 3, 1000, None, 1, 1], "site-2"),
}
POINTS = ("idle", "claimed", "saved")


class Process:
    """A worker, its two pipes, and nothing else of it but what it wrote to its folder."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        pipes = [pool.folder / f"{pool.started}.{way}" for way in ("commands", "replies")]
        for pipe in pipes:
            os.mkfifo(pipe)
        pool.started += 1
        self.id: int = pool.ask({"commands": str(pipes[0]), "replies": str(pipes[1])})["child"]
        # Each opening waits for the other side's; the child opens them in the same order.
        self.commands = pipes[0].open("wb")
        self.replies = pipes[1].open("rb")
        for pipe in pipes:
            pipe.unlink()

    def tell(self, command: dict[str, Any]) -> None:
        write(self.commands, command)

    def hear(self) -> dict[str, Any]:
        reply: dict[str, Any] = read(self.replies)
        return reply

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self.tell(command)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL: the process has no say in it."""
        assert self.pool.ask({"kill": self.id}) == {"signal": signal.SIGKILL}
        self.replies.close()
        # It may not have lived to read the last command.
        with contextlib.suppress(BrokenPipeError):
            self.commands.close()


class Pool:
    """Processes that serve one round after another; only killed ones are started anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.restarts = self.started = 0
        self.mother = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.mother.stdin is not None
        assert self.mother.stdout is not None
        write(self.mother.stdin, request)
        reply: dict[str, Any] = read(self.mother.stdout)
        return reply

    def of(self, name: str) -> Process:
        if name not in self.processes:
            self.processes[name] = Process(self)
        return self.processes[name]

    def restart(self, name: str) -> Process:
        self.processes.pop(name).kill()
        self.restarts += 1
        return self.of(name)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.mother.communicate()
        assert self.mother.returncode == 0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    found = Pool(tmp_path_factory.mktemp("pipes"))
    yield found
    found.end()


class Network:
    """Carries messages between the processes, and kills them where it is told to."""

    def __init__(self, pool: Pool, plan: str | tuple[list[Any], str | None], folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.arguments, self.leaver = PLANS[plan] if isinstance(plan, str) else plan
        self.plan, _ = setup(*self.arguments)
        self.queue: list[tuple[str, str, bytes]] = []
        self.number = 0
        self.labels: list[str] = []
        self.result: dict[str, Any] | None = None
        #: Command number -> where to kill its process.
        self.kills: dict[int, str] = {}
        self.wild: random.Random | None = None
        self.notes: list[str] = []

    def open(self, name: str) -> None:
        reply = self.pool.of(name).ask(
            {
                "do": "open",
                "folder": str(self.folder / name),
                "name": name,
                "plan": self.arguments,
            }
        )
        self.take(name, reply)

    def take(self, name: str, reply: dict[str, Any]) -> None:
        assert "error" not in reply, (name, reply)
        self.notes += reply.get("notes", [])
        if name == SERVER:
            self.result = reply["result"] or self.result
        for to, data in reply["out"]:
            # The one that leaves does so before its masked input.
            if name != self.leaver or data[3] < 5:
                self.queue.append((name, to, data))

    def call(self, name: str, command: dict[str, Any]) -> None:
        self.number += 1
        command["number"] = self.number
        self.labels.append(f"{command['do']} {name}")
        point = self.kills.get(self.number - 1)
        process = self.pool.of(name)
        if self.wild is not None and self.wild.random() < 0.3:
            process.tell(command)
            time.sleep(self.wild.random() * 0.006)
            self.revive(name)
        elif point == "idle":
            self.revive(name)
        elif point is not None:
            assert process.ask(command | {"stop": point}) == {"stopped": point}
            self.revive(name)
        # What was not answered is said again; parties and workers bear repetition.
        self.take(name, self.pool.of(name).ask(command))

    def revive(self, name: str) -> None:
        self.pool.restart(name)
        self.open(name)

    def run(self) -> dict[str, Any]:
        names = (SERVER, *self.plan.roster.names)
        self.folder.mkdir()
        for name in names:
            self.open(name)
        for name in names:
            self.call(name, {"do": "start"})
        while self.result is None:
            while self.queue:
                sender, to, data = self.queue.pop(0)
                self.call(to, {"do": "receive", "data": data, "sender": sender})
            self.call(SERVER, {"do": "close"})
            assert self.number < 500
        # The results that the sites are sent.
        while self.queue:
            sender, to, data = self.queue.pop(0)
            self.call(to, {"do": "receive", "data": data, "sender": sender})
        return self.result


@pytest.fixture
def reference(request: pytest.FixtureRequest, pool: Pool, tmp_path: Path) -> Any:
    """The undisturbed round, in processes and in this one: they must agree already."""

    def run(plan: str) -> tuple[dict[str, Any], list[str]]:
        network = Network(pool, plan, tmp_path / "reference")
        result = network.run()
        arguments, leaver = PLANS[plan]
        round_ = Round(*setup(*arguments), silent={leaver: 5} if leaver else {})
        expected = round_.run()
        round_.assert_exact()
        assert result["sum"] == expected.sum.tolist()
        assert result["transcript"] == expected.transcript
        assert result["digest"] == expected.digest
        assert result["survivors"] == list(expected.survivors)
        assert network.notes == (["late"] if leaver else [])
        return result, network.labels

    return run


def killed_at(
    pool: Pool, plan: str, folder: Path, kills: dict[int, str], expected: dict[str, Any]
) -> Network:
    network = Network(pool, plan, folder)
    network.kills = kills
    before = pool.restarts
    assert network.run() == expected, kills
    assert pool.restarts == before + len(kills)
    # Repetitions are ignored and nothing worse: no party was dropped or ended.
    assert set(network.notes) <= {"step-order", "late"}
    shutil.rmtree(folder)
    return network


def spread(labels: list[str], kind: str) -> list[int]:
    """A few commands of every sort, from early to late in the round."""
    found = [i for i, label in enumerate(labels) if label.startswith(kind)]
    return found[:: max(1, len(found) // 2)][:2]


@pytest.mark.parametrize("plan", ["semi-honest", "malicious-server"])
def test_a_process_killed_at_some_messages_resumes(
    plan: str, pool: Pool, tmp_path: Path, reference: Any
) -> None:
    expected, labels = reference(plan)
    sorts = ("start site", "receive server", "receive site", "close")
    for number, sort in enumerate(sorts):
        # Two points for each sort of command; the slow test has all of them at every command.
        points = (POINTS[number % 2], POINTS[2 - number % 2])
        for point, index in zip(points, spread(labels, sort), strict=True):
            killed_at(pool, plan, tmp_path / f"{point}-{index}", {index: point}, expected)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("plan", PLANS)
def test_a_process_killed_at_any_message_resumes(
    plan: str, point: str, pool: Pool, tmp_path: Path, reference: Any
) -> None:
    """Every command of the round once."""
    expected, labels = reference(plan)
    for index in range(len(labels)):
        killed_at(pool, plan, tmp_path / str(index), {index: point}, expected)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_processes_killed_at_every_message_resume(
    plan: str, pool: Pool, tmp_path: Path, reference: Any
) -> None:
    """Nobody lives longer than one message."""
    expected, _ = reference(plan)
    random_ = random.Random(5)
    network = Network(pool, plan, tmp_path / "all")
    network.kills = {i: random_.choice(POINTS) for i in range(500)}
    assert network.run() == expected
    assert set(network.notes) <= {"step-order", "late"}


@pytest.mark.parametrize(
    ("plan", "seed"),
    [
        ("semi-honest", 0),
        *(
            pytest.param(plan, seed, marks=pytest.mark.slow)
            for plan in PLANS
            for seed in range(1, 6)
        ),
    ],
)
def test_processes_killed_at_any_moment_resume(
    plan: str, seed: int, pool: Pool, tmp_path: Path, reference: Any
) -> None:
    """Not at chosen points but after a random time, so also within a write."""
    expected, _ = reference(plan)
    network = Network(pool, plan, tmp_path / "wild")
    network.wild = random.Random(seed)
    before = pool.restarts
    assert network.run() == expected
    assert pool.restarts > before
    assert set(network.notes) <= {"step-order", "late"}


def up_to_survivors(network: Network, name: str) -> list[bytes]:
    """Run until ``name`` is about to get the survivors: that message, and another one."""
    true: list[bytes] = []
    call = network.call

    class Reached(Exception):  # noqa: N818 - it is a way out of a loop, not an error
        pass

    def watched(to: str, command: dict[str, Any]) -> None:
        if to == name and command["do"] == "receive" and command["data"][3] == 6:
            true.append(command["data"])
            raise Reached
        call(to, command)

    network.call = watched  # type: ignore[method-assign]
    with pytest.raises(Reached):
        network.run()
    plan, identities = setup(*network.arguments)
    parts = cut_frame(plan, true[0])
    values = fields_of(parts.header)
    # The server claims that one more site is gone.
    own, sites = plan.roster.index(name), int.from_bytes(values[0], "little")
    gone = next(s for s in range(plan.clients) if sites >> s & 1 and s != own)
    fewer = (sites & ~(1 << gone)).to_bytes(len(values[0]), "little")
    forged = replace(parts, header=pack([fewer, values[1] - 1]))
    context = Round(plan, identities).parties[SERVER].contexts.round
    return [true[0], seal_frame(plan, identities[SERVER], context, forged)]


def two_lists(
    pool: Pool, threat: str, tmp_path: Path, *, at_once: bool, one_journal: bool
) -> list[dict[str, Any]]:
    """What two processes with one dump reply to two lists of survivors."""
    # Four sites and room for one dropout, so that both lists are ones the plan allows.
    arguments: list[Any] = [threat, 4, 3, 1000, None, 1, 1]
    name = "site-1"
    network = Network(pool, (arguments, None), tmp_path / "round")
    lists = up_to_survivors(network, name)
    folder, copy = tmp_path / "round" / name, tmp_path / "copy"
    copy.mkdir()
    shutil.copy(folder / "state", copy / "state")
    if one_journal:
        # The state has a folder for each process; a hard link makes the journal the same file.
        (copy / "journal").hardlink_to(folder / "journal")
    else:
        # A plain copy would be refused, so the twin's is a journal of its own.
        book, twin_book = FileJournal(folder / "journal"), FileJournal(copy / "journal")
        book.newest(bytes(32))
        for key, step, series, place in book._places():
            record = book._records[key, step]
            twin_book.claim(key, step, *record, series=series, number=place)
    twins = [pool.of(name), pool.of("twin of site-1")]
    for twin, place in zip(twins, (folder, copy), strict=True):
        reply = twin.ask({"do": "open", "folder": str(place), "name": name, "plan": arguments})
        assert "error" not in reply
    commands = [{"do": "receive", "data": x, "sender": SERVER, "number": 900} for x in lists]
    if at_once:
        for twin, command in zip(twins, commands, strict=True):
            twin.tell(command)
        return [twin.hear() for twin in twins]
    return [twin.ask(command) for twin, command in zip(twins, commands, strict=True)]


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
def test_one_dump_in_two_processes_answers_one_survivor_list(
    threat: str, at_once: bool, pool: Pool, tmp_path: Path
) -> None:
    replies = two_lists(pool, threat, tmp_path, at_once=at_once, one_journal=True)
    answered = [reply for reply in replies if "error" not in reply]
    refused = [reply for reply in replies if "error" in reply]
    assert len(answered) == len(refused) == 1
    assert [data[3] for _, data in answered[0]["out"]] == [7 if threat != "semi-honest" else 9]
    assert refused[0] == {"error": "MisuseError", "rule": "journal-once"}


@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_two_journals_would_answer_both_lists(threat: str, pool: Pool, tmp_path: Path) -> None:
    """The control: it is the journal that stops the second answer, and nothing else does."""
    replies = two_lists(pool, threat, tmp_path, at_once=False, one_journal=False)
    answers = [data for reply in replies for _, data in reply["out"]]
    assert len(set(answers)) == 2
    assert {data[3] for data in answers} == {7 if threat != "semi-honest" else 9}


def test_a_copied_journal_is_refused(pool: Pool, tmp_path: Path) -> None:
    name = "site-1"
    network = Network(pool, "semi-honest", tmp_path / "round")
    network.run()
    folder, copy = tmp_path / "round" / name, tmp_path / "copy"
    shutil.copytree(folder, copy)
    reply = pool.of("twin").ask(
        {"do": "open", "folder": str(copy), "name": name, "plan": PLANS["semi-honest"][0]}
    )
    assert reply == {"error": "MisuseError", "rule": "journal-copy"}


@pytest.mark.parametrize("plan", ["semi-honest", "malicious-server"])
def test_a_backup_of_an_old_state_is_refused(plan: str, pool: Pool, tmp_path: Path) -> None:
    """A folder restored from yesterday's backup, next to a journal that remembers today."""
    name = "site-1"
    backup: list[bytes] = []
    network = Network(pool, plan, tmp_path / "round")
    call = network.call

    def watched(to: str, command: dict[str, Any]) -> None:
        call(to, command)
        if to == name and command["do"] == "start":
            backup.append((tmp_path / "round" / name / "state").read_bytes())

    network.call = watched  # type: ignore[method-assign]
    network.run()
    (tmp_path / "round" / name / "state").write_bytes(backup[0])
    reply = pool.restart(name).ask(
        {
            "do": "open",
            "folder": str(tmp_path / "round" / name),
            "name": name,
            "plan": PLANS[plan][0],
        }
    )
    assert reply == {"error": "MisuseError", "rule": "dump-age"}
