"""`secagg verify`: tables, JSON, exit codes, evidence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import secagg
from secagg.attacks.arena.world import MODEL, SESSION, World, make_plan
from secagg.cli.app import app
from secagg.session.transcript import Recorder
from secagg_protocols.masked_sum import messages

runner = CliRunner()
PLAN = make_plan()


def run(*args, code=0):
    result = runner.invoke(app, ["verify", *map(str, args)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def honest():
    return World(PLAN).run({4: ["s5"]})


def record(path: Path, party: str, world: World, *more: bytes) -> Path:
    with Recorder(path, world.plan, party, SESSION) as recorder:
        recorder.model(0, MODEL)
        for _, sender, to, frame in world.frames:
            recorder.tap(secagg.Step.INPUT, sender, to, frame)
        for frame in more:
            recorder.received("server", frame)
        if party == "server":
            recorder.outcome(0, world.result)
    return path


@pytest.fixture
def transcripts(tmp_path, honest):
    return [
        record(tmp_path / f"{name}.transcript", name, honest) for name in ("server", "s0", "s1")
    ]


def lie(world: World) -> bytes:
    """Another survivor list for s1, signed by the server."""
    true = next(f for k, _, t, f in world.frames if k == messages.SURVIVORS.number and t == "s1")
    return world.reseal(true, header=messages.Survivors(world.bitmap(0, 1, 2, 3, 4, 5), 6))


def test_honest_transcripts_hold(transcripts):
    text = run(*transcripts).stdout
    assert "Everything holds" in text
    assert "confirmed" in text
    assert "Convicted" not in text
    data = json.loads(run(*transcripts, "--json").stdout)
    assert data["holds"]
    assert data["convictions"] == data["doubts"] == []
    (round_,) = data["rounds"]
    assert round_["replay"] == "confirmed"
    assert round_["sets"]["U3"] == [f"s{i}" for i in range(7)]
    assert [t["party"] for t in data["transcripts"]] == ["server", "s0", "s1"]
    assert (
        json.loads(run(transcripts[0], "--no-replay", "--json").stdout)["rounds"][0]["replay"] == ""
    )


def test_a_conviction_is_exit_code_6_and_its_evidence_stands_alone(tmp_path, transcripts, honest):
    bad = record(tmp_path / "bad", "s1", honest, lie(honest))
    proof = tmp_path / "evidence.json"
    result = run(transcripts[1], bad, "--evidence", proof, code=6)
    assert "Convicted by their own signatures: server" in result.stdout
    data = json.loads(run(transcripts[1], bad, "--json", code=6).stdout)
    assert {c["party"] for c in data["convictions"]} == {"server"}
    assert {c["round"] for c in data["convictions"]} == {0}
    pair = next(c for c in data["convictions"] if c["rule"] == "equivocation")["signatures"]
    assert len({row["digest"] for row in pair}) == 2
    # The evidence alone convicts again: in another place, without any transcript.
    for path in (transcripts[1], bad):
        path.unlink()
    again = json.loads(run(proof, "--json", code=6).stdout)
    assert again["convictions"][0]["party"] == "server"
    shown = json.loads(proof.read_text())
    assert shown["statements"][0].startswith("server (")
    survivors = [f["content"]["present"] for f in shown["frames"] if f["message"] == "Survivors"]
    assert [f"s{i}" for i in range(6)] in survivors
    # Written once, never over a file.
    assert "exists" in run(proof, "--evidence", proof, code=2).stderr


def test_evidence_that_was_edited_convicts_nobody(tmp_path, transcripts, honest):
    bad = record(tmp_path / "bad", "s1", honest, lie(honest))
    proof = tmp_path / "evidence.json"
    run(transcripts[1], bad, "--evidence", proof, code=6)
    data = json.loads(proof.read_text())
    for edit in (
        lambda d: d["frames"][0].update(trailer="00" * 64),
        lambda d: d["frames"].pop(0),
        lambda d: d.update(session=b"other".hex()),
    ):
        changed = json.loads(json.dumps(data))
        changed["frames"] = changed["frames"][:2]
        edit(changed)
        proof.write_text(json.dumps(changed))
        assert (
            json.loads(runner.invoke(app, ["verify", str(proof), "--json"]).stdout)["convictions"]
            == []
        )
    for text in ('{"secagg_evidence": 1}', "{", json.dumps(data | {"plan_digest": "00" * 32})):
        proof.write_text(text)
        assert "[transcript-file]" in run(proof, code=2).stderr


def test_no_evidence_is_written_where_nobody_is_convicted(tmp_path, transcripts):
    run(*transcripts, "--evidence", tmp_path / "evidence.json")
    assert not (tmp_path / "evidence.json").exists()


def test_what_proves_nothing_is_exit_code_7(tmp_path, transcripts, honest):
    cut = transcripts[1]
    cut.write_bytes(cut.read_bytes()[:-3])
    assert "cut at byte" in run(cut, code=7).stdout
    forged = bytearray(lie(honest))
    forged[-1] ^= 1
    text = run(record(tmp_path / "forged", "s1", honest, bytes(forged)), code=7).stdout
    assert "Attributed to nobody" in text
    assert "Nobody is convicted, but not everything holds" in text
    assert "Convicted" not in text


def test_files_of_another_plan_are_refused_or_their_keys_shown(tmp_path, transcripts):
    """Anybody can make a roster of these names with keys of their own, and convict it."""
    (tmp_path / "plan.toml").write_text(secagg.dump_plan(PLAN))
    (tmp_path / "other.toml").write_text(secagg.dump_plan(make_plan(length=6)))
    text = run(transcripts[1], "--plan", tmp_path / "plan.toml").stdout
    assert "the file's own" not in text
    assert "another plan" in run(transcripts[1], "--plan", tmp_path / "other.toml", code=2).stderr
    text = " ".join(run(transcripts[1]).stdout.split())
    assert f"roster {PLAN.roster.fingerprint}: these keys are the file's own" in text


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path, honest):
    path = tmp_path / "t"
    bad = dataclasses.replace(honest.result, left={"s5\x1b[2J": "\x1b[31m"})
    with Recorder(path, PLAN, "server", SESSION) as recorder:
        recorder.model(0, MODEL)
        for _, sender, to, frame in honest.frames:
            recorder.tap(secagg.Step.INPUT, sender, to, frame)
        recorder.received("\x1b]0;title\x07", b"junk")
        recorder.outcome(0, bad)
    text = run(path, code=7).stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "s5\\u001b[2J" in text


def test_a_semi_honest_transcript_says_that_it_proves_nothing(tmp_path):
    world = World(make_plan(threat="semi-honest")).run()
    text = run(record(tmp_path / "t", "server", world)).stdout
    assert "proves nothing about who sent what" in text
    assert "unsigned" in text


def test_other_files_are_exit_code_2(tmp_path):
    (tmp_path / "x").write_bytes(b"something else")
    assert "[transcript-file]" in run(tmp_path / "x", code=2).stderr
    (tmp_path / "empty").write_bytes(b"")
    run(tmp_path / "empty", code=2)
    run(tmp_path / "absent", code=2)
    run(tmp_path, code=2)
    run(code=2)


def test_help_lists_the_exit_codes():
    text = " ".join(run("--help").stdout.split())
    assert "Exit codes" in text
    assert "6 somebody is convicted" in text
