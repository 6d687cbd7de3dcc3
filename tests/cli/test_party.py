"""party: whole rounds over files, crashes between state and outbox, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import secagg
from secagg.cli import party as party_module
from secagg.cli.app import app
from secagg_protocols.keys import Identity, seal, unseal
from secagg_protocols.roster import Roster

runner = CliRunner()
COMMAND = typer.main.get_command(app)
LENGTH = 5
SITES = ("a", "b/c", "d", "e")


@pytest.fixture(autouse=True)
def built_once(monkeypatch):
    """Building the commands anew for every call would take most of the time."""
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND, raising=False)


def run(*args, code=0):
    """Run `secagg party ...`; exit code checked, no traceback, one line on stderr where refused."""
    result = runner.invoke(app, ["party", *map(str, args)], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert len([s for s in result.stderr.splitlines() if not s.startswith("note:")]) == 1
    return result


def vector(site):
    return np.arange(LENGTH, dtype=np.int64) * (SITES.index(site) + 1)


class Round:
    """Parties in folders, and a mailbox that carries every file of an outbox once."""

    def __init__(self, base, *, threat="malicious-server", receive=True, dropouts=1, weight=1):
        self.base = base
        self.carried = 0
        roster, self.identities = Roster.generate(SITES)
        self.plan = secagg.Plan.recommend(
            roster=roster, length=LENGTH, stages=(secagg.Integers(0, 100),), threat=threat,
            colluding=1, max_dropouts=dropouts, min_honest=2, sites_receive=receive,
            max_weight=weight,
        )  # fmt: skip
        (base / "plan.toml").write_text(secagg.dump_plan(self.plan))
        for name, identity in self.identities.items():
            identity.save(self.key(name))
        for site in SITES:
            np.save(base / f"{SITES.index(site)}.npy", vector(site))

    def key(self, name):
        return self.base / f"{self.slot(name)}.id"

    def dir(self, name):
        return self.base / f"party-{self.slot(name)}"

    @staticmethod
    def slot(name):
        return SITES.index(name) if name in SITES else "server"

    def start(self, name, *more, code=0):
        return run(
            "start", self.dir(name), "--plan", self.base / "plan.toml", "--identity",
            self.key(name), "--session", "trial", "--round", 3, *more, code=code,
        )  # fmt: skip

    def do(self, command, name, *more, code=0, json_=True):
        args = [command, self.dir(name), *more, "--identity", self.key(name)]
        result = run(*args, *(["--json"] if json_ else []), code=code)
        return json.loads(result.stdout) if json_ and result.stdout else result

    def mail(self, name):
        """(recipient, file) of each message not yet carried, in order, as the name says."""
        found = []
        for path in sorted((self.dir(name) / "outbox").glob("*.msg")):
            to = path.name.rsplit("-to-", 1)[1].removesuffix(".msg").replace("%2F", "/")
            self.carried += 1
            target = self.base / f"mail-{self.slot(name)}-{path.name}-{self.carried}"
            path.rename(target)
            found.append((to, target))
        return found

    def up(self, names=SITES):
        """What the sites wrote goes to the server."""
        files = [file for name in names for _, file in self.mail(name)]
        return self.do("receive", "server", *files) if files else None

    def down(self, names=SITES):
        """What the server wrote goes to the sites; what is for others is lost."""
        for to, file in self.mail("server"):
            if to in names:
                self.do("receive", to, file)

    def submit(self, site, *more, code=0):
        return self.do("submit", site, self.base / f"{SITES.index(site)}.npy", *more, code=code)

    def begin(self, names=SITES):
        for name in ("server", *names):
            self.start(name)
        self.up(names)

    def step(self, names=SITES):
        done = self.do("close", "server")
        self.down(names)
        self.up(names)
        return done

    def result(self, name):
        with np.load(self.dir(name) / "result.npz") as arrays:
            return dict(arrays), json.loads((self.dir(name) / "result.json").read_text())

    def to_inputs(self):
        """Up to where everybody may submit."""
        self.begin()
        self.step()
        self.do("close", "server")
        self.down()


@pytest.fixture
def rnd(tmp_path):
    return Round(tmp_path)


def finish(rnd, names=SITES):
    """From the inputs to the end, for the sites that are still there; the digest."""
    for site in names:
        rnd.submit(site)
    rnd.up(names)
    for _ in range(2 if rnd.plan.signed else 1):
        rnd.step(names)
    done = rnd.do("close", "server")
    assert done["done"]
    rnd.down(names)
    arrays, data = rnd.result("server")
    assert (arrays["sum"] == sum(vector(site) for site in names)).all()
    assert data["survivors"] == list(names)
    return data["digest"]


def test_a_round_over_files(rnd):
    rnd.to_inputs()
    digest = finish(rnd)
    arrays, data = rnd.result("server")
    assert set(arrays) == {"sum", "mean"}
    assert np.allclose(arrays["mean"], arrays["sum"] / 4)
    assert (data["weight"], data["dropped"], data["left"], data["suspects"]) == (4, {}, {}, [])
    assert len(bytes.fromhex(data["transcript"])) == 32
    assert [row["step"] for row in data["traffic"]] == [
        "advertise", "share", "input", "consent", "reveal",
    ]  # fmt: skip
    assert all(row["received"] and row["sent"] for row in data["traffic"])
    for site in SITES:
        theirs, stated = rnd.result(site)
        assert (theirs["sum"] == arrays["sum"]).all()
        assert stated["digest"] == digest
        assert stated["transcript"] is None
        view = rnd.do("status", site)
        assert (view["done"], view["waits"], view["ended"]) == (True, None, None)
        assert view["result"] == str(rnd.dir(site) / "result.npz")
    assert "no open step" in rnd.do("close", "server", code=2).stderr
    assert "done; " in rnd.do("status", "server", json_=False).stdout


@pytest.mark.parametrize("crash_at", [None, "state"])
def test_a_site_drops_out_and_closing_twice_after_a_crash(rnd, monkeypatch, crash_at):
    rnd.to_inputs()
    if crash_at:
        for site in SITES[1:]:
            rnd.submit(site)
        rnd.up(SITES[1:])
        # The journal has the step, the state does not: the same close gives the same messages.
        crash(rnd, monkeypatch, "close", "server", at="state")
        assert rnd.do("status", "server")["waits"]["step"] == "input"
        for _ in range(3):
            rnd.step(SITES[1:])
        assert rnd.do("status", "server")["done"]
    else:
        finish(rnd, SITES[1:])
    arrays, data = rnd.result("server")
    assert (arrays["sum"] == sum(vector(site) for site in SITES[1:])).all()
    assert data["dropped"] == {"a": "input"}
    assert data["weight"] == 3


def test_semi_honest_with_weights_and_no_sum_for_sites(tmp_path):
    rnd = Round(tmp_path, threat="semi-honest", receive=False, weight=10)
    rnd.begin()
    rnd.step()
    rnd.do("close", "server")
    rnd.down()
    for site in SITES:
        rnd.submit(site, "--weight", 2)
    rnd.up()
    rnd.step()
    rnd.do("close", "server")
    (to, file), *_ = rnd.mail("server")
    shown = rnd.do("receive", to, file, "--sender", "d")
    assert (shown["files"][0]["outcome"], shown["files"][0]["rule"]) == ("ignored", "route")
    shown = rnd.do("receive", to, file, "--sender", "server", json_=False)
    assert "not returned" in shown.stdout
    assert not (rnd.dir(to) / "result.npz").exists()
    arrays, data = rnd.result("server")
    assert data["weight"] == 8
    assert (arrays["sum"] == 2 * sum(map(vector, SITES))).all()
    assert "roster-member" in rnd.do("receive", to, file, "--sender", "x", code=2).stderr


def crash(rnd, monkeypatch, command, name, *more, at):
    """Let a command die where it writes to ``at`` (a folder or a file's name)."""
    true = party_module.write_durably

    def dying(path, data):
        if at in (path.parent.name, path.name):
            raise KeyboardInterrupt
        true(path, data)

    monkeypatch.setattr(party_module, "write_durably", dying)
    args = [command, rnd.dir(name), *more, "--identity", rnd.key(name)]
    result = runner.invoke(app, ["party", *map(str, args)])
    assert result.exit_code == 130, result.output
    monkeypatch.setattr(party_module, "write_durably", true)


@pytest.mark.parametrize("at", ["state", "outbox"])
def test_every_command_can_die_and_be_run_again(rnd, monkeypatch, at):
    """Each command of a round dies once, before or after the state is stored."""

    def twice(command, name, *more):
        crash(rnd, monkeypatch, command, name, *more, at=at)
        assert not list((rnd.dir(name) / "outbox").glob("*.msg"))
        shown = rnd.do(command, name, *more)
        written = sorted((rnd.dir(name) / "outbox").glob("*.msg"))
        assert [file["file"] for file in shown["sent"]] == [str(path) for path in written]
        return shown

    def twice_down():
        for to, file in rnd.mail("server"):
            if at == "outbox" and rnd.do("status", to)["waits"]["step"] in {"share", "reveal"}:
                rnd.do("receive", to, file)  # the shares and the sum: a site answers nothing
            else:
                twice("receive", to, file)

    rnd.begin()
    twice("close", "server")
    twice_down()
    rnd.up()
    twice("close", "server")
    twice_down()
    for site in SITES:
        twice("submit", site, rnd.base / f"{SITES.index(site)}.npy")
    rnd.up()
    for _ in range(2):
        twice("close", "server")
        twice_down()
        rnd.up()
    digests = []
    crash(rnd, monkeypatch, "close", "server", at=at)
    digests.append(rnd.result("server")[1]["digest"])
    rnd.do("close", "server")
    twice_down()
    for name in ("server", *SITES):
        arrays, data = rnd.result(name)
        digests.append(data["digest"])
        assert (arrays["sum"] == sum(map(vector, SITES))).all()
    assert len(set(digests)) == 1


def test_what_a_crash_left_goes_out_unchanged(rnd, monkeypatch):
    rnd.begin()
    crash(rnd, monkeypatch, "close", "server", at="outbox")
    # The machine dies again after the second of four files: all four come, the same bytes.
    true, written = party_module.write_durably, {}

    def dying(path, data):
        if path.parent.name == "outbox":
            if len(written) == 2:
                raise OSError(28, "No space left on device", str(path))
            written[path.name] = data
        true(path, data)

    monkeypatch.setattr(party_module, "write_durably", dying)
    assert "No space left" in rnd.do("status", "server", code=2).stderr
    monkeypatch.setattr(party_module, "write_durably", true)
    shown = rnd.do("status", "server", json_=False)
    assert shown.stderr == "note: the interrupted `close` is finished\n"
    assert shown.stdout.count("wrote ") == 4
    outbox = rnd.dir("server") / "outbox"
    assert sorted(p.name for p in outbox.iterdir()) == [
        f"000{i + 1}-from-server-to-{site.replace('/', '%2F')}.msg" for i, site in enumerate(SITES)
    ]
    assert all((outbox / name).read_bytes() == data for name, data in written.items())
    # It is over: to close again would close the next step, which nobody has answered.
    state = (rnd.dir("server") / "state").read_bytes()
    assert "nobody has answered" in rnd.do("close", "server", code=2).stderr
    assert (rnd.dir("server") / "state").read_bytes() == state


def test_start_is_whole_or_not_at_all(rnd, monkeypatch):
    for at in ("state", "outbox"):
        crash(
            rnd, monkeypatch, "start", "a", "--plan", rnd.base / "plan.toml", "--session", "trial",
            "--round", 3, at=at,
        )  # fmt: skip
        assert not rnd.dir("a").exists()
        assert not list(rnd.base.glob(".party*"))
    rnd.dir("a").mkdir()
    rnd.start("a")
    assert [to for to, _ in rnd.mail("a")] == ["server"]


def test_start_refuses(rnd, tmp_path, monkeypatch):
    rnd.dir("a").mkdir()
    (rnd.dir("a") / "notes.txt").write_text("mine")
    assert "not empty" in rnd.start("a", code=2).stderr
    assert (rnd.dir("a") / "notes.txt").read_text() == "mine"
    rnd.start("d")
    before = (rnd.dir("d") / "state").read_bytes()
    assert "not empty" in rnd.start("d", code=2).stderr
    assert (rnd.dir("d") / "state").read_bytes() == before
    stranger, imposter = tmp_path / "x.id", tmp_path / "e.id"
    Identity.generate("x").save(stranger)
    Identity.generate("e").save(imposter)

    def attempt(*more, key=stranger, plan=tmp_path / "plan.toml", session="s", folder="new"):
        args = ["--plan", plan, "--identity", key, "--session", session, "--round", 0]
        text = run("start", tmp_path / folder, *args, *more, code=2).stderr
        assert not (tmp_path / folder / "state").exists()
        return text

    assert "roster-member" in attempt()
    assert "[identity]" in attempt(key=imposter)
    assert "[session]" in attempt(key=rnd.key("e"), session="x" * 65)
    assert "[plan-file]" in attempt(key=rnd.key("e"), plan=rnd.dir("a") / "notes.txt")
    assert "[identity-file]" in attempt(key=rnd.dir("d") / "state")
    assert "No such file" in attempt(key=rnd.key("e"), folder="absent/new")
    assert "No such file" in attempt("--model", tmp_path / "absent", key=rnd.key("e"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "current one" in attempt(key=rnd.key("e"), folder="here")
    assert not list(tmp_path.glob(".*"))


def test_permissions_and_what_the_folder_holds(rnd):
    old = os.umask(0)
    try:
        rnd.to_inputs()
        text = rnd.do("submit", "a", rnd.base / "0.npy", json_=False).output
    finally:
        os.umask(old)
    folder = rnd.dir("a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "outbox").stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"plan.toml", "journal", "state", "lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    state = unseal((folder / "state").read_bytes(), rnd.identities["a"])
    seed = rnd.key("a").read_text().split()[-1]
    assert seed not in text
    assert bytes.fromhex(seed) not in state
    assert vector("a").tobytes() not in state


def test_submit_refuses(rnd, tmp_path):
    rnd.begin()
    assert "[step-order]" in rnd.submit("a", code=2).stderr
    rnd.step()
    rnd.do("close", "server")
    rnd.down()
    bad = tmp_path / "bad.npy"

    def attempt(data, *more):
        if isinstance(data, bytes):
            bad.write_bytes(data)
        else:
            np.save(bad, data, allow_pickle=True)
        return rnd.do("submit", "a", bad, *more, code=2).stderr

    with (tmp_path / "z.npz").open("wb") as file:
        np.savez(file, x=vector("a"))
    true = (tmp_path / "0.npy").read_bytes()
    executed = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return Path.touch, (executed,)

    for data in (
        np.array([Trap(), None], dtype=object), pickle.dumps(Trap()), b"",
        b"not an array", true[:40], true[:-3], (tmp_path / "z.npz").read_bytes(), b"PK\x03\x04",
        true.replace(b"(5,)", b"(5;)"), true.replace(b"(5,)", b"(-5)"),
    ):  # fmt: skip
        assert "[input-dtype]" in attempt(data)
    assert not executed.exists()
    assert "[input-shape]" in attempt(np.zeros(LENGTH + 1, dtype=np.int64))
    assert "[input-dtype]" in attempt(np.zeros(LENGTH))
    assert "[input-weight]" in attempt(vector("a"), "--weight", 2)
    assert "[input-range]" in attempt(np.full(LENGTH, 101))
    assert "No such file" in rnd.do("submit", "a", tmp_path / "absent", code=2).stderr
    assert "[options]" in rnd.do("submit", "server", bad, code=2).stderr
    assert "[options]" in rnd.do("close", "a", code=2).stderr
    assert rnd.do("status", "a")["waits"]["for"] == "submit"
    rnd.submit("a")
    assert len(rnd.mail("a")) == 1
    state = (rnd.dir("a") / "state").read_bytes()
    np.save(rnd.base / "0.npy", vector("a") + 1)
    assert "[input-once]" in rnd.submit("a", code=2).stderr
    assert not rnd.mail("a")
    assert (rnd.dir("a") / "state").read_bytes() == state


def test_a_second_life_cannot_send_another_input(rnd):
    rnd.to_inputs()
    shutil.copy(rnd.dir("a") / "state", rnd.base / "old")
    rnd.submit("a")
    shutil.copy(rnd.base / "old", rnd.dir("a") / "state")
    np.save(rnd.base / "0.npy", vector("a") + 1)
    assert rnd.submit("a", code=2)["ended"]["rule"] == "journal-once"
    assert rnd.do("status", "a")["ended"]["rule"] == "journal-once"
    (rnd.dir("a") / "journal").unlink()
    assert "journal is missing" in rnd.do("status", "a", code=2).stderr


def test_other_identities_and_changed_files(rnd):
    rnd.begin()
    folder = rnd.dir("a")
    for name in ("d", "server"):
        text = run("status", folder, "--identity", rnd.key(name), code=2).stderr
        assert "[seal]" in text
    good = (folder / "state").read_bytes()
    mine = rnd.identities["a"]
    for data in (b"", good[:-1], good[:50] + b"\0" + good[51:], seal(b"other", mine)):
        (folder / "state").write_bytes(data)
        rnd.do("status", "a", code=2)
    (folder / "state").write_bytes(good)
    text = (folder / "plan.toml").read_text()
    (folder / "plan.toml").write_text(text.replace("sites_receive = true", "sites_receive = false"))
    assert "[dump]" in rnd.do("status", "a", code=2).stderr
    (folder / "plan.toml").write_text(text)
    rnd.do("status", "a")
    assert "holds no party" in run("status", rnd.base, "--identity", rnd.key("a"), code=2).stderr


def test_tampered_repeated_and_strange_files_are_ignored(rnd):
    for name in ("server", *SITES):
        rnd.start(name)
    files = [rnd.mail(site)[0][1] for site in SITES]
    good = files[0].read_bytes()
    bad = rnd.base / "bad.msg"
    state = (rnd.dir("server") / "state").read_bytes()
    for data, rule in (
        (good[:-1] + bytes([good[-1] ^ 1]), "trailer"),
        (good[:30] + bytes([good[30] ^ 1]) + good[31:], "trailer"),
        (b"", "frame"),
        (good + bytes(10_000_000), "limits"),
    ):
        bad.write_bytes(data)
        row = rnd.do("receive", "server", bad)["files"][0]
        assert (row["outcome"], row["rule"]) == ("ignored", rule)
        assert row["file"] == str(bad)
    assert (rnd.dir("server") / "state").read_bytes() == state
    shown = rnd.do("receive", "server", files[0], files[0], files[1], json_=False).stdout
    assert "accepted; advertise: 1 of 3 needed, 4 can come" in shown
    assert "ignored" in shown
    assert "waits for sites, advertise: 2 of 3 needed" in shown
    assert rnd.do("receive", "server", bad, rnd.base / "absent", code=2).stdout == ""
    rows = rnd.do("receive", "server", files[2], "--sender", "e")["files"]
    assert rows[0]["rule"] == "route"
    assert rnd.do("receive", "server", *files[2:])["waits"]["have"] == 4


def test_a_site_that_equivocates_is_dropped(rnd):
    for name in ("server", *SITES):
        rnd.start(name)
    files = [rnd.mail(site)[0][1] for site in SITES]
    rnd.do("receive", "server", *files)
    # Without its journal a site can start one round twice, and is caught.
    shutil.rmtree(rnd.dir("a"))
    rnd.start("a")
    shown = rnd.do("receive", "server", rnd.dir("a") / "outbox" / "0001-from-a-to-server.msg")
    row = shown["files"][0]
    assert (row["outcome"], row["site"], row["rule"]) == ("dropped", "a", "equivocation")
    assert shown["waits"]["have"] == 3
    assert shown["ended"] is None


def test_a_lying_server_ends_a_site_for_good(rnd):
    rnd.begin()
    rnd.do("close", "server")
    true = dict(rnd.mail("server"))
    adverts = sorted(rnd.base.glob("mail-[0-3]-0001*"))
    # The server answers the same adverts once more, one of them left out.
    shutil.rmtree(rnd.dir("server"))
    rnd.start("server")
    rnd.do("receive", "server", *adverts[:3])
    rnd.do("close", "server")
    other = dict(rnd.mail("server"))
    shown = rnd.do("receive", "a", true["a"], other["a"], true["a"], code=5)
    assert [row["outcome"] for row in shown["files"]] == ["accepted", "ended", "ignored"]
    assert shown["files"][1]["rule"] == shown["ended"]["rule"] == "equivocation"
    assert rnd.do("status", "a")["ended"]["rule"] == "equivocation"
    assert "ended for good" in rnd.do("status", "a", json_=False).stdout
    assert "equivocation" in rnd.do("submit", "a", rnd.base / "0.npy", code=5, json_=False).stderr


def test_a_site_that_is_late_is_out_of_the_round(rnd):
    rnd.begin()
    rnd.do("close", "server")
    rnd.down()
    rnd.up(SITES[1:])
    rnd.do("close", "server")
    file = dict(rnd.mail("server"))["a"]
    shown = rnd.do("receive", "a", file, code=5)
    assert (shown["files"][0]["outcome"], shown["files"][0]["site"]) == ("dropped", "a")
    assert shown["ended"]["rule"] == "late"


def test_too_few_sites_abort_the_round_for_good(rnd):
    rnd.begin(SITES[:2])
    assert rnd.do("close", "server", code=5)["ended"]["rule"] == "enough"
    assert rnd.do("status", "server")["ended"]["rule"] == "enough"
    assert "round aborted" in rnd.do("close", "server", code=5, json_=False).stderr


def test_floors_are_checked_at_every_load(rnd, tmp_path):
    floors = tmp_path / "mine.toml"
    floors.write_text("smallest_cohort = 4\n")
    assert "[floors]" in rnd.start("a", "--floors", floors, code=2).stderr
    floors.write_text("most_inputs_per_model = 1\n")
    assert "--journal" in rnd.start("a", "--floors", floors, code=2).stderr
    assert "the server has none" in rnd.start("server", "--floors", floors, code=2).stderr
    floors.write_bytes(b"\xff")
    assert "[floors-file]" in rnd.start("a", "--floors", floors, code=2).stderr
    floors.write_text("smallest_cohort = 3\n")
    rnd.start("a", "--floors", floors)
    copy = rnd.dir("a") / "floors.toml"
    copy.write_text("smallest_cohort = 4\n")
    assert "[floors]" in rnd.do("status", "a", code=2).stderr
    copy.write_text("smallest_cohort = 3\n")
    rnd.do("status", "a")
    copy.unlink()
    rnd.do("status", "a")


def test_one_journal_for_all_rounds(rnd, tmp_path):
    shared = tmp_path / "journal"
    floors = tmp_path / "mine.toml"
    floors.write_text("most_inputs_per_model = 1\n")
    rnd.start("a", "--floors", floors, "--journal", shared)
    assert not (rnd.dir("a") / "journal").exists()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o600
    shutil.rmtree(rnd.dir("a"))
    # What the folder forgot, the journal knows.
    assert "[journal-once]" in rnd.start("a", "--journal", shared, code=2).stderr


def test_the_model_is_bound(rnd, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    rnd.start("server")
    for site in SITES:
        rnd.start(site, *(["--model", tmp_path / "model"] if site == "a" else []))
    rnd.up()
    rnd.step()
    rnd.do("close", "server")
    rnd.down()
    rnd.submit("a")
    rows = rnd.up(["a"])["files"]
    assert (rows[0]["outcome"], rows[0]["rule"]) == ("ignored", "trailer")


def test_two_commands_take_turns(rnd):
    rnd.start("a")
    entered = threading.Event()

    def second():
        with party_module.opened(rnd.dir("a"), rnd.key("a")):
            entered.set()

    with party_module.opened(rnd.dir("a"), rnd.key("a")) as desk:
        assert "sealed" in repr(desk.record)
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


@pytest.mark.parametrize("command", ["", "start", "receive", "submit", "close", "status"])
def test_help(command):
    text = run(*command.split(), "--help").stdout
    assert "Exit codes" in text
    if command == "start":
        assert "empty model" in text


def test_real_processes(rnd):
    def secagg_party(*args):
        code = "import sys; from secagg.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, "party", *map(str, args)],
            capture_output=True, text=True, check=False, cwd=rnd.base,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    common = ["--plan", "plan.toml", "--session", "s", "--round", 0]
    secagg_party("start", "hub", "--identity", rnd.key("server"), *common)
    assert "0001-from-a-to-server.msg" in secagg_party(
        "start", "site", "--identity", rnd.key("a"), *common
    )
    message = "site/outbox/0001-from-a-to-server.msg"
    shown = secagg_party("receive", "hub", message, "--identity", rnd.key("server"))
    assert "accepted; advertise: 1 of 3 needed" in shown
