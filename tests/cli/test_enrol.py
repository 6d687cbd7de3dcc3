"""roster sign, add, remove, revoke, rotate, history, check, replan: a year of rosters in files."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

import secagg
from secagg.cli.app import app

runner = CliRunner()


def run(*args, code=0):
    """Run a command; its result, whose exit code is checked and whose output has no traceback."""
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
    return result


@pytest.fixture
def home(tmp_path):
    for name in ("server", "a", "b", "c", "d", "enrolment"):
        run("keygen", name, "--out", tmp_path / f"{name}.key")
    sites = [part for name in "abc" for part in ("--site", tmp_path / f"{name}.key.pub")]
    server = tmp_path / "server.key.pub"
    run("roster", "build", "--server", server, *sites, "--out", tmp_path / "roster.toml")
    return tmp_path


@pytest.fixture
def signed(home):
    path = home / "rosters.toml"
    run("roster", "sign", home / "roster.toml", "--key", home / "enrolment.key", "--out", path)
    return path


def own(signed, command, *args, code=0):
    """A command of the owner of the enrolment key."""
    return run(
        "roster", command, signed, *args, "--key", signed.parent / "enrolment.key", code=code
    )


def check(signed, name, *args, enrolment="enrolment", code=0):
    """`roster check` as one party."""
    home = signed.parent
    return run(
        "roster", "check", signed, "--enrolment", home / f"{enrolment}.key.pub",
        "--identity", home / f"{name}.key", "--journal", home / f"{name}.journal", *args, code=code,
    )  # fmt: skip


def test_every_command_has_help_and_exit_codes():
    for command in ("sign", "add", "remove", "revoke", "rotate", "history", "check", "replan"):
        text = run("roster", command, "--help").stdout
        assert "Exit codes" in text


def test_a_roster_changes_and_a_party_follows(signed):
    home = signed.parent
    assert "epoch 0" in check(signed, "a").stdout
    assert "joined: d" in own(signed, "add", "--site", home / "d.key.pub").stdout
    assert "epoch 1 with 4 sites" in check(signed, "a").stdout
    assert "revoked: c" in own(signed, "revoke", "c").stdout
    run("keygen", "b", "--out", home / "b2.key")
    assert "rotated: b" in own(signed, "rotate", home / "b2.key.pub").stdout
    run("keygen", "server", "--out", home / "server2.key")
    assert "rotated: server" in own(signed, "rotate", f"server={home}/server2.key.pub").stdout
    done = check(signed, "a", "--out", home / "new.toml", "--json")
    assert json.loads(done.stdout)["epoch"] == 4
    made = secagg.Roster.from_dict
    shown = json.loads(run("roster", "show", home / "new.toml", "--json").stdout)
    fingerprint = shown.pop("fingerprint")
    assert made(shown).names == ("a", "b", "d")
    assert json.loads(done.stdout)["fingerprint"] == fingerprint
    assert "left: d" in own(signed, "remove", "d").stdout
    assert "epoch 5 with 2 sites" in check(signed, "a").stdout
    # The new identities are in, the old ones are out.
    assert "server is in epoch 5" in check(signed, "server2").stdout
    assert "[own-key]" in check(signed, "b", code=2).stderr
    assert "has revoked the key of c" in check(signed, "c", code=2).stderr
    assert "left or never joined" in check(signed, "d", code=2).stderr


def test_holders_are_built_in_the_order_of_the_shares(home):
    server, site = home / "server.key.pub", home / "a.key.pub"
    key = (home / "c.key.pub").read_text().split()[1]
    build = ("roster", "build", "--server", server, "--site", site, "--site", home / "b.key.pub")
    holders = ("--holder", f"z={key}", "--holder", home / "d.key.pub")
    out = home / "held.toml"
    assert "2 sites, 2 holders, epoch 0" in run(*build, *holders, "--out", out).stdout
    shown = json.loads(run("roster", "show", out, "--json").stdout)
    assert secagg.Roster.from_dict(
        {name: value for name, value in shown.items() if name != "fingerprint"}
    ).holders[0] == ("z", bytes.fromhex(key))
    text = run("roster", "show", out).stdout
    assert text.index("holder 1") < text.index("holder 2")
    path = home / "held-rosters.toml"
    done = run("roster", "sign", out, "--key", home / "enrolment.key", "--out", path)
    assert "2 sites, 2 holders" in done.stdout
    assert "2 sites, 2 holders" in check(path, "a").stdout
    for wrong, text in (
        (("--holder", key), "NAME=KEY is needed"),
        (("--holder", f"z={home}/d.key.pub"), "the file names 'd'"),
        (("--holder", f"a={key}"), "[roster]"),
        (("--holder", f"z={key}", "--holder", f"z={key}"), "[roster]"),
    ):
        assert text in run(*build, *wrong, code=2).stderr


def test_history_is_verified_and_shown(signed):
    home = signed.parent
    own(signed, "add", "--site", home / "d.key.pub", "--holder", f"h={'11' * 32}")
    own(signed, "revoke", "c", "h")
    text = run("roster", "history", signed, "--enrolment", home / "enrolment.key.pub").stdout
    assert "first roster" in text
    assert "joined: d, h" in text
    assert "revoked: c, h" in text
    assert "pinned enrolment key" in text
    text = run("roster", "history", signed).stdout
    assert "compare this key" in text
    key = (home / "enrolment.key.pub").read_text().split()[1]
    assert key in text
    data = json.loads(run("roster", "history", signed, "--json").stdout)
    assert data["enrolment"] == key
    assert [epoch["epoch"] for epoch in data["epochs"]] == [0, 1, 2]
    assert data["epochs"][2]["previous"] == data["epochs"][1]["digest"]
    assert len(data["epochs"][2]["revoked"]) == 2
    stranger = home / "d.key.pub"
    done = run("roster", "history", signed, "--enrolment", stranger, code=5)
    assert done.stderr.startswith("refused: ")
    assert "[enrolment-signature]" in done.stderr


def test_a_rollback_a_fork_and_a_gap_are_refused(signed):
    home = signed.parent
    old, other = home / "old.toml", home / "other.toml"
    shutil.copy(signed, old)
    own(signed, "remove", "c")
    check(signed, "a")
    done = check(old, "a", code=5)
    assert "refused: epoch 0 was replaced" in done.stderr
    assert "[epoch-rollback]" in done.stderr
    # The owner is stopped from a second epoch 1 by its journal; without that, sites notice.
    shutil.copy(old, other)
    assert "[epoch-fork]" in own(other, "remove", "b", code=2).stderr
    own(other, "remove", "b", "--journal", home / "lost.journal")
    assert "[epoch-fork]" in check(other, "a", code=5).stderr
    # A file with an epoch left out.
    own(signed, "add", "--site", home / "d.key.pub")
    text = signed.read_text().split("[[epochs]]")
    gap = home / "gap.toml"
    gap.write_text("[[epochs]]".join([text[0], text[1], text[3]]))
    assert "[epoch-chain]" in check(gap, "d", code=5).stderr
    assert "epoch 2" in check(signed, "a").stdout


def test_a_forged_or_changed_file_is_refused(signed):
    home = signed.parent
    assert "[enrolment-signature]" in check(signed, "a", enrolment="d", code=5).stderr
    text = signed.read_text()
    key = (home / "c.key.pub").read_text().split()[1]
    stranger = (home / "d.key.pub").read_text().split()[1]
    signed.write_text(text.replace(key, stranger))
    assert signed.read_text() != text
    assert "[enrolment-signature]" in check(signed, "a", code=5).stderr
    assert "[enrolment-signature]" in own(signed, "remove", "b", code=5).stderr
    assert "[enrolment-signature]" in run("roster", "history", signed, code=5).stderr


def test_an_owner_repeats_a_command_that_died_before_it_wrote(signed):
    before = signed.read_text()
    own(signed, "remove", "c")
    after = signed.read_text()
    signed.write_text(before)
    own(signed, "remove", "c")
    assert signed.read_text() == after


def test_revoked_and_rotated_keys_stay_out(signed):
    home = signed.parent
    own(signed, "revoke", "c")
    assert "[revoked-key]" in own(signed, "add", "--site", home / "c.key.pub", code=2).stderr
    text = (home / "c.key.pub").read_text().split()[1]
    assert "[revoked-key]" in own(signed, "add", "--site", f"new={text}", code=2).stderr
    assert "[revoked-key]" in own(signed, "rotate", f"b={text}", code=2).stderr


@pytest.mark.parametrize(
    ("args", "where"),
    [
        (["remove", "nobody"], "leave: "),
        (["revoke", "server"], "revoke: "),
        (["rotate", "nobody=" + "22" * 32], "rotate: "),
        (["rotate", "22" * 32], "NAME=KEY"),
        (["rotate", "a=zz"], "64 hexadecimal digits"),
        (["rotate", "a=" + "22" * 32, "a=" + "23" * 32], "twice"),
        (["add", "--site", "a=" + "22" * 32], "join: "),
        (["add"], "nothing changes"),
    ],
)
def test_bad_input_is_one_line_with_rule_and_field(signed, args, where):
    before = signed.read_text()
    done = own(signed, *args, code=2)
    assert where in done.stderr
    assert "[roster]" in done.stderr
    assert signed.read_text() == before


def test_files_of_other_kinds_are_refused(signed):
    home = signed.parent
    own(home / "roster.toml", "remove", "c", code=2)
    (home / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "[roster]" in own(home / "bytes.toml", "remove", "c", code=2).stderr
    own(home / "absent.toml", "remove", "c", code=2)
    run("roster", "show", signed, code=2)
    # Nothing that exists is overwritten.
    again = ["roster", "sign", home / "roster.toml", "--key", home / "enrolment.key"]
    assert "[output-file]" in run(*again, "--out", signed, code=2).stderr
    # One enrolment key signs one first roster.
    run(
        "roster", "sign", home / "roster.toml", "--key", home / "a.key", "--out", home / "x", code=2
    )
    sites = ["--site", home / "a.key.pub", "--site", home / "d.key.pub"]
    other = home / "another.toml"
    run("roster", "build", "--server", home / "server.key.pub", *sites, "--out", other)
    again[2] = other
    assert "[epoch-fork]" in run(*again, "--out", home / "second.toml", code=2).stderr


def test_a_plan_follows(signed):
    home = signed.parent
    for name in "ef":
        run("keygen", name, "--out", home / f"{name}.key")
    new = [part for name in "def" for part in ("--site", home / f"{name}.key.pub")]
    own(signed, "add", *new)
    check(signed, "a", "--out", home / "one.toml")
    run(
        "plan", "--roster", home / "one.toml", "--dropout", 1, "--colluding", 1,
        "--integers", 0, 9, "--length", 4, "--toml", home / "plan.toml",
    )  # fmt: skip
    own(signed, "remove", "f")
    check(signed, "a", "--out", home / "two.toml")
    done = run("roster", "replan", home / "plan.toml", home / "two.toml", "--out", home / "p2.toml")
    made = secagg.load_plan((home / "p2.toml").read_text())
    assert made.roster.epoch == 2
    assert made.protocol == secagg.MaskedSum(share_threshold=4, neighbours=4)
    assert made.digest.hex() in done.stdout
    # Going back is refused, and so is a roster too small for the promise.
    back = run("roster", "replan", home / "p2.toml", home / "one.toml", "--out", home / "x", code=3)
    assert "[epoch-order]" in back.stderr
    own(signed, "remove", "b", "c")
    check(signed, "a", "--out", home / "three.toml")
    run("roster", "replan", home / "p2.toml", home / "three.toml", "--out", home / "x", code=3)
    assert not (home / "x").exists()


def test_no_command_shows_a_private_key(signed):
    home = signed.parent
    text = own(signed, "remove", "c").output + check(signed, "a").output
    text += run("roster", "history", signed, "--json").output + signed.read_text()
    for name in ("enrolment", "a"):
        seed = (home / f"{name}.key").read_text().split("seed ")[1].strip()
        assert seed not in text
