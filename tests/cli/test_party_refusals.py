"""What a party over files refuses, and what it keeps safe while it does."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
from cli.test_party import LENGTH, SITES, built_once, rnd, run, vector

from secagg.cli import party as party_module
from secagg_protocols.keys import Identity, seal, unseal


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
    assert {path.name for path in files} >= {"plan.toml", "state", "lock"}
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
    (rnd.dir("a").parent / "a.journal").unlink()
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
    # Its journal keeps a site from starting one round twice; without it, the site is caught.
    shutil.rmtree(rnd.dir("a"))
    assert "[journal-once]" in rnd.start("a", code=2).stderr
    (rnd.dir("a").parent / "a.journal").unlink()
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
    (rnd.dir("server").parent / "server.journal").unlink()
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
    assert not (rnd.dir("a").parent / "a.journal").exists()
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


__all__ = ["built_once", "rnd"]
