"""party start --transcript: what parties over files recorded, and what `verify` makes of it."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
from cli.test_party import SITES, Round, built_once, crash, finish, rnd, run, runner

from secagg.cli.app import app
from secagg.session.transcript import Moved, Outcome, Transcript

ALL = ("server", *SITES)


@pytest.fixture
def told(rnd):
    """A round whose parties record it."""
    rnd.transcripts = True
    return rnd


def verify(rnd, *names, code=0):
    """The verdict on transcripts of these parties."""
    files = [str(rnd.transcript(name)) for name in names]
    plan = ["--plan", str(rnd.base / "plan.toml")]
    result = runner.invoke(app, ["verify", *files, *plan, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_an_honest_round_holds_and_its_sum_is_confirmed(told):
    told.to_inputs()
    digest = finish(told)
    verdict = verify(told, *ALL)
    (played,) = verdict["rounds"]
    assert (played["round"], played["replay"], played["result"]) == (3, "confirmed", digest)
    assert all(played["sets"][name] == list(SITES) for name in ("U1", "U2", "U3"))
    assert {t["party"]: t["frames"] for t in verdict["transcripts"]} == {
        "server": 40, **dict.fromkeys(SITES, 10),
    }  # fmt: skip
    for name in ALL:
        assert stat.S_IMODE(told.transcript(name).stat().st_mode) == 0o600
        assert verify(told, name)["holds"]
    outcomes = [
        [e for e in Transcript(told.transcript(name)).entries() if isinstance(e, Outcome)]
        for name in ALL
    ]
    assert [len(entries) for entries in outcomes] == [1, 0, 0, 0, 0]
    assert (outcomes[0][0].round, outcomes[0][0].digest.hex()) == (3, digest)
    said = b"".join(told.transcript(name).read_bytes() for name in ALL)
    for name in ALL:
        assert bytes.fromhex(told.key(name).read_text().split()[-1]) not in said


def test_a_site_drops_out(told):
    told.to_inputs()
    finish(told, SITES[1:])
    (played,) = verify(told, *ALL)["rounds"]
    assert played["replay"] == "confirmed"
    assert played["sets"]["U3"] == list(SITES[1:])


def test_rounds_of_a_session_share_a_file(told):
    told.to_inputs()
    first = finish(told)
    for name in ALL:
        told.dir(name).rename(told.base / f"old-{told.slot(name)}")
    start = told.start
    told.start = lambda name: start(name, "--round", 9)
    told.to_inputs()
    # The round before is not over for whoever asks for it again.
    run("status", told.base / "old-0", "--identity", told.key("a"))
    second = finish(told)
    rounds = verify(told, *ALL)["rounds"]
    assert [(r["round"], r["replay"], r["result"]) for r in rounds] == [
        (3, "confirmed", first), (9, "confirmed", second),
    ]  # fmt: skip


def test_rounds_that_take_turns_share_a_file(told):
    told.begin()
    folder = told.dir
    told.dir = lambda name: told.base / "later"
    told.start("a", "--round", 9)
    told.dir = folder
    told.step()
    told.do("close", "server")
    told.down()
    finish(told)
    assert verify(told, *ALL)["rounds"][0]["replay"] == "confirmed"


@pytest.mark.parametrize("receive", [True, False])
def test_semi_honest_rounds_prove_nothing(tmp_path, receive):
    rnd = Round(tmp_path, threat="semi-honest", receive=receive)
    rnd.transcripts = True
    rnd.to_inputs()
    finish(rnd)
    verdict = verify(rnd, *ALL)
    assert verdict["rounds"][0]["replay"] == "confirmed"
    assert "proves nothing" in verdict["notes"][0]


def two_stories(told):
    """The server answers the adverts, and once more with one of them left out: by recipient."""
    told.begin()
    told.do("close", "server")
    true = dict(told.mail("server"))
    adverts = sorted(told.base.glob("mail-[0-3]-0001*"))
    shutil.rmtree(told.dir("server"))
    (told.dir("server").parent / "server.journal").unlink()
    told.transcript("server").unlink()
    told.start("server")
    told.do("receive", "server", *adverts[:3])
    told.do("close", "server")
    return true, dict(told.mail("server"))


def test_a_server_with_two_stories_is_convicted_by_two_sites(told):
    true, other = two_stories(told)
    told.do("receive", "a", true["a"])
    told.do("receive", "d", other["d"])
    for site in ("a", "d"):
        assert verify(told, site)["convictions"] == []
    found = verify(told, "a", "d", code=6)["convictions"]
    assert {(c["party"], c["round"], c["rule"]) for c in found} == {("server", 3, "one-cohort")}


def test_a_server_with_two_stories_for_one_site_is_convicted_by_it_alone(told):
    true, other = two_stories(told)
    told.do("receive", "a", true["a"], other["a"], code=5)
    rules = {(c["party"], c["rule"]) for c in verify(told, "a", code=6)["convictions"]}
    assert rules == {("server", "equivocation"), ("server", "one-cohort")}


def test_what_a_party_ignores_is_recorded_too(told):
    """It may be what convicts."""
    true, other = two_stories(told)
    told.do("receive", "a", true["a"])
    junk = told.base / "junk"
    junk.write_bytes(b"junk")
    told.do("receive", "a", junk, other["d"])
    moved = [e for e in Transcript(told.transcript("a")).entries() if isinstance(e, Moved)]
    # Who sent it is what the transport says, or else what the message says.
    assert [e.peer for e in moved if not e.sent] == ["server", "", "server"]
    told.do("receive", "a", junk, "--sender", "d")
    verdict = verify(told, "a", code=6)
    assert len(verdict["transcripts"][0]["strangers"]) == 2


def test_bytes_of_nobody_prove_nothing(told):
    told.start("a")
    junk = told.base / "junk"
    junk.write_bytes(b"SA" + bytes(200))
    told.do("receive", "a", junk)
    verdict = verify(told, "a", code=7)
    assert verdict["convictions"] == []


def test_start_makes_the_file_or_leaves_none(told, monkeypatch):
    args = ["--plan", told.base / "plan.toml", "--session", "trial", "--round", 3]
    args += ["--transcript", told.transcript("a")]
    crash(told, monkeypatch, "start", "a", *args, at="outbox")
    assert not told.transcript("a").exists()
    told.start("a")
    shutil.rmtree(told.dir("a"))
    told.transcript("a").unlink()
    assert "[journal-once]" in told.start("a", code=2).stderr
    assert not told.transcript("a").exists()
    # A file of something or somebody else is refused and stays as it is.
    told.start("d")
    for path in (told.transcript("d"), told.base / "plan.toml", told.key("e")):
        before = path.read_bytes()
        told.transcript = lambda name, path=path: path
        assert "[transcript-file]" in told.start("e", code=2).stderr
        assert path.read_bytes() == before
        assert not told.dir("e").exists()
    told.transcript = lambda name: told.base / "absent" / "e"
    assert "No such file" in told.start("e", code=2).stderr


def test_a_transcript_that_is_gone_or_damaged_is_not_passed_over(told):
    told.begin()
    path = told.transcript("a")
    good = path.read_bytes()
    told.do("close", "server")
    file = dict(told.mail("server"))["a"]
    state = (told.dir("a") / "state").read_bytes()
    path.unlink()
    assert "is missing" in told.do("receive", "a", file, code=2).stderr
    path.write_bytes(good[:60] + b"x" + good[61:])
    assert "[transcript-file]" in told.do("receive", "a", file, code=2).stderr
    # Nothing was taken that would not be recorded.
    assert (told.dir("a") / "state").read_bytes() == state
    path.write_bytes(b"")
    told.do("receive", "a", file)
    assert [e.sent for e in Transcript(path).entries()] == [False, True]


def test_a_full_disk_loses_nothing_that_was_sent(told, monkeypatch):
    told.begin()
    told.do("close", "server")
    file = dict(told.mail("server"))["a"]

    def full(self, *_):
        raise OSError(28, "No space left on device", "there")

    with monkeypatch.context() as patch:
        patch.setattr("secagg.session.transcript.Recorder.sent", full)
        assert "No space" in told.do("receive", "a", file, code=2).stderr
        assert not told.mail("a")
    told.do("receive", "a", file)
    moved = [e for e in Transcript(told.transcript("a")).entries() if isinstance(e, Moved)]
    assert [e.sent for e in moved] == [True, False, True, False]
    assert len(told.mail("a")) == 1
    assert verify(told, "a")["holds"]


def test_vectors_are_kept_by_the_server_and_hashed_by_the_sites(tmp_path, monkeypatch):
    monkeypatch.setattr("cli.test_party.LENGTH", 70_000)
    big = Round(tmp_path)
    big.transcripts = True
    big.to_inputs()
    finish(big)
    assert verify(big, *ALL)["rounds"][0]["replay"] == "confirmed"
    sizes = {name: big.transcript(name).stat().st_size for name in ALL}
    assert sizes["server"] > 4 * 70_000  # nine bits a coordinate
    assert all(sizes[site] < 20_000 for site in SITES)


__all__ = ["built_once", "rnd"]
