"""party: whole rounds over files, crashes between state and outbox, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import secagg
from secagg.cli import party as party_module
from secagg.cli.app import app
from secagg.session.audit import audit
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
    return np.arange(LENGTH, dtype=np.int64) % 25 * (SITES.index(site) + 1)


class Round:
    """Parties in folders, and a mailbox that carries every file of an outbox once."""

    def __init__(self, base, *, threat="malicious-server", receive=True, dropouts=1, weight=1):
        self.base = base
        self.carried = 0
        self.transcripts = False
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

    def transcript(self, name):
        return self.base / f"{self.slot(name)}.transcript"

    def start(self, name, *more, code=0):
        if self.transcripts:
            more = ["--transcript", self.transcript(name), *more]
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
    """Each command of a round dies once, before or after the state is stored. What was recorded
    twice is the same, so that the transcripts still hold."""
    rnd.transcripts = True

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
    verdict = audit(rnd.transcript(name) for name in ("server", *SITES))
    assert verdict.holds, verdict.to_dict()
    assert [(r.replay, r.result) for r in verdict.rounds] == [("confirmed", digests[0])]


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
        # What stays is sealed, and lets the command that is run again say the same.
        (kept,) = rnd.base.glob(".party*")
        assert kept.name == ".party-0.a.seed"
        assert kept.read_bytes().startswith(b"secagg sealed")
    rnd.dir("a").mkdir()
    rnd.start("a")
    assert not list(rnd.base.glob(".party*"))
    assert [to for to, _ in rnd.mail("a")] == ["server"]


def test_a_seed_that_a_killed_start_left_goes_with_the_next_command(rnd, monkeypatch):
    true = Path.unlink

    def dying(path, **options):
        if path.suffix == ".seed":
            raise KeyboardInterrupt
        true(path, **options)

    monkeypatch.setattr(Path, "unlink", dying)
    args = ["--plan", rnd.base / "plan.toml", "--session", "s", "--round", 0]
    args += ["--identity", rnd.key("a")]
    result = runner.invoke(app, ["party", "start", str(rnd.dir("a")), *map(str, args)])
    assert result.exit_code == 130, result.output
    monkeypatch.setattr(Path, "unlink", true)
    (left,) = rnd.base.glob(".party*")
    assert left.name == ".party-0.a.seed"
    # Somebody else's command does not get so far.
    assert "[seal]" in run("status", rnd.dir("a"), "--identity", rnd.key("d"), code=2).stderr
    assert left.exists()
    monkeypatch.chdir(rnd.base)
    run("status", rnd.dir("a").name, "--identity", rnd.key("a"))
    assert not left.exists()
    assert [to for to, _ in rnd.mail("a")] == ["server"]


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
