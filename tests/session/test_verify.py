"""The audit: honest parties are never convicted, each cheat is, and nobody can be framed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.world import MODEL, SESSION, World, digest, make_plan, sparse_plan
from secagg.session import messages as control
from secagg.session.audit import Verdict, audit
from secagg.session.audit_checks import Checks
from secagg.session.audit_evidence import evidence_text
from secagg.session.audit_rules import AUDIT_RULES
from secagg.session.messages import session_context
from secagg.session.transcript import Hashed, Moved, Opaque, Recorder, Transcript, Whole
from secagg_protocols import wire
from secagg_protocols.masked_sum import Client, Server, messages
from secagg_protocols.result import aggregate_digest
from secagg_protocols.rules import Rule
from support.puppet import Puppet

PLAN = make_plan()
#: (kind number, sender, recipient, frame), as a world keeps them.
Frames = Iterable[tuple[int, str, str, bytes]]
ALL = [f"s{i}" for i in range(7)]


def record(
    path: Path,
    frames: Frames,
    party: str = "s0",
    *,
    plan: secagg.Plan = PLAN,
    models: Iterable[bytes] = (MODEL,),
    outcome: secagg.Aggregate | None = None,
    everything: bool = False,
    keep_tails: int | None = None,
) -> Path:
    """A transcript of what ``party`` saw of the frames, or (made up) of all of them."""
    with Recorder(path, plan, party, SESSION, keep_tails=keep_tails) as recorder:
        for model in models:
            recorder.model(0, model)
        for _, sender, to, frame in frames:
            if everything and party not in {sender, to}:
                recorder.received(sender, frame)
            recorder.tap(secagg.Step.INPUT, sender, to, frame)
        if outcome is not None:
            recorder.outcome(0, outcome)
    return path


def everybody(folder: Path, world: World, **options: Any) -> list[Path]:
    """The transcripts of all parties."""
    hub = record(folder / "server", world.frames, "server", outcome=world.result, **options)
    return [hub, *(record(folder / n, world.frames, n, **options) for n in world.plan.roster.names)]


@pytest.fixture(scope="module")
def honest() -> World:
    return World(PLAN).run()


def found(world: World, kind: Any, sender: str, to: str) -> bytes:
    return next(f for k, s, t, f in world.frames if (k, s, t) == (kind.number, sender, to))


def convicted(verdict: Verdict) -> set[tuple[str, str]]:
    return {(c.party, c.rule) for c in verdict.convictions}


# Honest parties.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_honest_rounds_hold_whoever_drops_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Schedules of drops and of repeated and late messages: all that parties record holds, and
    the replay of the server's transcript confirms sets, sum, blame and the chain of messages."""
    folder = tmp_path_factory.mktemp("round")
    n = data.draw(st.integers(4, 7))
    most = (n - 3) // 2 if n > 4 else 0
    plan = make_plan(
        n,
        max_dropouts=most,
        length=data.draw(st.integers(1, 30)),
        sites_receive=data.draw(st.booleans()),
        protocol=secagg.MaskedSum(share_threshold=(n + 1) // 2 + 1, neighbours=n - 1),
    )
    gone = data.draw(st.lists(st.sampled_from(plan.roster.names), max_size=most, unique=True))
    drop: dict[int, list[str]] = {}
    for name in gone:
        drop.setdefault(data.draw(st.integers(1, 5)), []).append(name)
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    world = World(plan)

    def again(kind: int, sender: str, to: str, frame: bytes) -> list[bytes]:
        old = rng.choice(world.frames)
        more = []
        if rng.random() < 0.2 and old[2] == to:
            world.frames.append(old)
            more.append(old[3])
        if rng.random() < 0.2:
            world.frames.append((kind, sender, to, frame))
            more.append(frame)
        return [frame, *more]

    world.edit = again
    world.run(drop)
    paths = everybody(folder, world, plan=plan)
    verdict = audit(paths)
    assert verdict.holds, verdict.to_dict()
    (report,) = verdict.rounds
    assert report.replay == "confirmed"
    assert world.result is not None
    assert report.sets["U3"] == world.result.survivors
    assert report.result == world.result.digest.hex()
    # Each transcript alone holds as well, and so does one without tails.
    assert all(audit([path]).holds for path in paths)
    short = record(folder / "short", world.frames, plan=plan, keep_tails=0)
    assert audit([short]).holds


def test_hashed_inputs_leave_only_the_sum_unchecked(tmp_path: Path) -> None:
    plan = make_plan(length=2000)
    world = World(plan).run({3: ["s2"]})
    options = {"plan": plan, "keep_tails": 1024}
    path = record(tmp_path / "t", world.frames, "server", outcome=world.result, **options)
    verdict = audit([path])
    assert verdict.holds
    assert verdict.rounds[0].replay == "confirmed but for the sum: inputs were recorded by hash"
    assert verdict.rounds[0].sets["U3"] == tuple(n for n in ALL if n != "s2")


def test_a_cut_transcript_and_a_missing_model_are_said(tmp_path: Path, honest: World) -> None:
    path = record(tmp_path / "t", honest.frames)
    path.write_bytes(path.read_bytes()[:-9])
    verdict = audit([path])
    assert not verdict.holds
    assert not verdict.convictions
    assert verdict.accounts[0].stopped.startswith("cut at byte")
    verdict = audit([record(tmp_path / "u", honest.frames, models=())])
    account = verdict.accounts[0]
    # Adverts and shares are bound to no model; the other six frames fit no context.
    assert (account.frames, account.authentic, len(account.strangers)) == (10, 4, 6)
    assert not verdict.holds
    assert not verdict.convictions


def test_rounds_need_no_hint_but_their_models(tmp_path: Path) -> None:
    worlds = [World(make_plan(4, max_dropouts=0), round=r).run() for r in (0, 1, 2)]
    for party in ("server", "s1"):
        path = tmp_path / party
        with Recorder(path, worlds[0].plan, party, SESSION) as recorder:
            for number, world in enumerate(worlds):
                for _, sender, to, frame in world.frames:
                    if frame[3] == messages.INPUT.number and sender == "s0":
                        recorder.model(number, MODEL)
                    recorder.tap(secagg.Step.INPUT, sender, to, frame)
    verdict = audit([tmp_path / "server", tmp_path / "s1"])
    assert verdict.holds, verdict.to_dict()
    assert [r.round for r in verdict.rounds] == [0, 1, 2]


def test_a_semi_honest_transcript_proves_nothing_and_says_so(tmp_path: Path) -> None:
    plan = make_plan(threat="semi-honest")
    world = World(plan).run({3: ["s1"]})
    paths = everybody(tmp_path, world, plan=plan)
    verdict = audit(paths)
    assert verdict.holds
    assert verdict.rounds[0].replay == "confirmed"
    assert any("proves nothing" in note for note in verdict.notes)
    # A contradiction is shown, and nobody is convicted by it.
    other = world.reseal(
        found(world, messages.SURVIVORS, "server", "s0"),
        header=messages.Survivors(world.bitmap(0, 2, 3, 4, 5), 6),
    )
    lie = record(tmp_path / "lie", [(6, "server", "s0", other)], plan=plan)
    verdict = audit([*paths, lie])
    assert not verdict.convictions
    assert {d.rule for d in verdict.doubts} >= {"equivocation", "one-cohort", "cohort"}


def test_a_sparse_graph_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    plan = sparse_plan()
    world = World(plan).run({3: ["s4"], 5: ["s5"]})
    verdict = audit(everybody(tmp_path, world, plan=plan))
    assert verdict.holds, verdict.to_dict()
    (report,) = verdict.rounds
    assert report.replay.startswith("not replayed")
    # Each site is told a part of the sets, so they are not compared.
    assert report.sets == {}
    assert len(report.result) == 64


def test_different_sessions_are_not_held_against_each_other(tmp_path: Path, honest: World) -> None:
    other = World(make_plan(5, max_dropouts=0)).run()
    paths = [
        record(tmp_path / "a", honest.frames),
        record(tmp_path / "b", other.frames, plan=other.plan),
    ]
    verdict = audit(paths)
    assert verdict.holds
    assert len(verdict.rounds) == 2
    assert any("different plans" in note for note in verdict.notes)


# One attack a rule.


@dataclass
class Case:
    """Transcripts that show one attack, and who is convicted where anybody is."""

    paths: list[Path]
    party: str = "server"


Attack = Callable[[Path, World], Case]
ATTACKS: dict[str, Attack] = {}


def attack(rule: str) -> Callable[[Attack], Attack]:
    def keep(function: Attack) -> Attack:
        ATTACKS[rule] = function
        return function

    return keep


def one(folder: Path, *frames: tuple[Any, str, str, bytes], party: str = "s0", **more: Any) -> Path:
    numbered = [(kind.number, s, t, f) for kind, s, t, f in frames]
    return record(folder / "t", numbered, party, everything=True, **more)


def told(world: World, kind: Any, to: str = "s0", **changes: Any) -> tuple[Any, str, str, bytes]:
    """The server's message of this kind, changed and signed."""
    return kind, "server", to, world.reseal(found(world, kind, "server", to), **changes)


def given_by(world: World, kind: Any, site: str, **changes: Any) -> tuple[Any, str, str, bytes]:
    return kind, site, "server", world.reseal(found(world, kind, site, "server"), **changes)


def flip(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def tail_of(world: World, kind: Any, sender: str, to: str) -> bytes:
    return world.parts(found(world, kind, sender, to))[1]


@attack("malformed")
def _(folder: Path, world: World) -> Case:
    return Case([one(folder, told(world, messages.SURVIVORS, tail=b"x"))])


@attack("advert-keys")
def _(folder: Path, world: World) -> Case:
    keys = tail_of(world, messages.ADVERT, "s1", "server")
    return Case(
        [one(folder, given_by(world, messages.ADVERT, "s1", tail=keys[:32] + bytes(32)))], "s1"
    )


@attack("input-padding")
def _(folder: Path, world: World) -> Case:
    packed = tail_of(world, messages.INPUT, "s1", "server")
    bad = packed[:-1] + bytes([packed[-1] | 0x80])
    return Case([one(folder, given_by(world, messages.INPUT, "s1", tail=bad))], "s1")


@attack("advert-list")
def _(folder: Path, world: World) -> Case:
    header, _ = world.parts(found(world, messages.ADVERTS, "server", "s0"))
    smaller = messages.Adverts(world.bitmap(1, 2, 3, 4, 5), header.present, header.cohort)
    return Case([one(folder, told(world, messages.ADVERTS, header=smaller))])


def relay(world: World, at: int, row: bytes) -> bytes:
    """The adverts that s0 was sent, one of them exchanged."""
    tail = tail_of(world, messages.ADVERTS, "server", "s0")
    return tail[: at * 128] + row + tail[(at + 1) * 128 :]


def advert_row(world: World, site: str, keys: bytes) -> bytes:
    """An advert with these keys, as a site that colludes signs it."""
    frame = world.reseal(found(world, messages.ADVERT, site, "server"), tail=keys)
    return keys + frame[-64:]


@attack("advert-relay")
def _(folder: Path, world: World) -> Case:
    row = tail_of(world, messages.ADVERTS, "server", "s0")[:128]
    forged = relay(world, 0, flip(row, 70))
    return Case([one(folder, told(world, messages.ADVERTS, tail=forged))])


@attack("advert-distinct")
def _(folder: Path, world: World) -> Case:
    keys = tail_of(world, messages.ADVERT, "s1", "server")
    twice = relay(world, 1, advert_row(world, "s2", keys))
    return Case([one(folder, told(world, messages.ADVERTS, tail=twice))])


@attack("cohort")
def _(folder: Path, world: World) -> Case:
    small = messages.Survivors(world.bitmap(0, 1, 2), 3)
    return Case([one(folder, told(world, messages.SURVIVORS, header=small))])


@attack("result-tail")
def _(folder: Path, world: World) -> Case:
    packed = tail_of(world, messages.RESULT, "server", "s0")
    return Case([one(folder, told(world, messages.RESULT, tail=flip(packed)))])


@attack("equivocation")
def _(folder: Path, world: World) -> Case:
    packed = tail_of(world, messages.INPUT, "s1", "server")
    first, second = (given_by(world, messages.INPUT, "s1", tail=t) for t in (packed, flip(packed)))
    return Case([one(folder, first, second)], "s1")


@attack("one-model")
def _(folder: Path, world: World) -> Case:
    other = World(PLAN, model=b"crafted").run()
    frames = told(world, messages.SURVIVORS), told(other, messages.SURVIVORS, "s1")
    return Case([one(folder, *frames, models=(MODEL, b"crafted"))])


@attack("one-advert")
def _(folder: Path, world: World) -> Case:
    other = relay(world, 1, advert_row(world, "s2", bytes(range(1, 65))))
    frames = told(world, messages.ADVERTS, tail=other), told(world, messages.ADVERTS, "s1")
    return Case([one(folder, *frames)])


@attack("one-cohort")
def _(folder: Path, world: World) -> Case:
    fewer = messages.Survivors(world.bitmap(0, 1, 2, 3, 4, 5), 6)
    second = told(world, messages.SURVIVORS, "s1", header=fewer)
    return Case([one(folder, told(world, messages.SURVIVORS), second)])


@attack("nested-sets")
def _(folder: Path, world: World) -> Case:
    tail = tail_of(world, messages.SHARES_FOR, "server", "s0")[:-96]
    fewer = messages.SharesFor(world.bitmap(0, 1, 2, 3, 4, 5), 6)
    second = told(world, messages.SHARES_FOR, header=fewer, tail=tail)
    return Case([one(folder, second, told(world, messages.SURVIVORS))])


@attack("one-result")
def _(folder: Path, world: World) -> Case:
    header, packed = world.parts(found(world, messages.RESULT, "server", "s0"))
    other = flip(packed)
    context = world.server.contexts.round
    digest = aggregate_digest(context, header.survivors, [other], len(other))
    lie = told(world, messages.RESULT, header=messages.Result(digest, header.survivors), tail=other)
    return Case([one(folder, lie, told(world, messages.RESULT, "s1"))])


@attack("consent-signers")
def _(folder: Path, world: World) -> Case:
    tail = tail_of(world, messages.CONSENTS, "server", "s0")
    fewer = messages.Consents(world.bitmap(0, 1, 2, 3))
    return Case([one(folder, told(world, messages.CONSENTS, header=fewer, tail=tail[:-64]))])


@attack("consent-relay")
def _(folder: Path, world: World) -> Case:
    bad = flip(tail_of(world, messages.CONSENTS, "server", "s0"), 70)
    frames = told(world, messages.SURVIVORS), told(world, messages.CONSENTS, tail=bad)
    return Case([one(folder, *frames)])


def in_session(
    world: World, kind: Any, sender: str, to: str, header: Any, tail: bytes = b""
) -> tuple[Any, str, str, bytes]:
    """A frame of the session, validly signed."""
    ends = world.index(sender), world.index(to)
    encoded = wire.encode_header(header)
    context = session_context(world.plan, SESSION.encode())
    what = wire.frame_digest(context, kind.number, *ends, encoded, tail)
    head = wire.frame_head(kind.number, *ends, encoded)
    return kind, sender, to, head + tail + world.identities[sender].sign(what)


def result_digest(world: World) -> bytes:
    assert world.result is not None
    return world.result.digest


@attack("agreed-relay")
def _(folder: Path, world: World) -> Case:
    said = [
        in_session(world, control.AGREE, n, "server", control.Agree(0, result_digest(world)))[3]
        for n in ALL[:5]
    ]
    tail = flip(b"".join(frame[-64:] for frame in said), 70)
    header = control.Agreed(0, world.bitmap(0, 1, 2, 3, 4))
    agreed = in_session(world, control.AGREED, "server", "s0", header, tail)
    return Case([one(folder, told(world, messages.RESULT), agreed)])


@attack("agreement")
def _(folder: Path, world: World) -> Case:
    agree = in_session(world, control.AGREE, "s1", "server", control.Agree(0, bytes(32)))
    return Case([one(folder, told(world, messages.RESULT), agree)])


class Deaf(Server):
    """A server that leaves a site out although its masked input arrived."""

    def _on_input(self, frame: wire.Frame) -> None:
        if frame.sender != 6:
            super()._on_input(frame)


@attack("replay")
def _(folder: Path, world: World) -> Case:
    cheated = World(PLAN, classes={"server": Deaf}).run()
    return Case([record(folder / "t", cheated.frames, "server")], "")


@attack("outcome")
def _(folder: Path, world: World) -> Case:
    assert world.result is not None
    lists = replace(world.result, suspects=("s1",), left={"s3": "reveal"})
    return Case([record(folder / "t", world.frames, "server", outcome=lists)], "")


def rule_name(rule: Rule) -> str:
    return rule.id


def shown(verdict: Verdict, party: str) -> set[str]:
    """Rules that convict the party; of doubts, all."""
    doubts = {doubt.rule for doubt in verdict.doubts}
    return {rule for name, rule in convicted(verdict) if name == party} | doubts


@pytest.mark.parametrize("rule", AUDIT_RULES, ids=rule_name)
def test_the_rule_finds_its_attack_and_nothing_else_does(
    rule: Rule, tmp_path: Path, honest: World
) -> None:
    case = ATTACKS[rule.id](tmp_path, honest)
    verdict = audit(case.paths)
    assert shown(verdict, case.party) == {rule.id, *rule.also}
    assert not verdict.holds
    if rule.error == "doubt":
        assert not verdict.convictions
    without = type("Without", (Checks,), {rule.method: lambda self, *_a, **_k: None})
    assert shown(audit(case.paths, checks=without), case.party) == set(rule.also)


def test_every_rule_has_an_attack_and_a_method() -> None:
    assert set(ATTACKS) == {rule.id for rule in AUDIT_RULES}
    methods = {name for name in vars(Checks) if name.startswith("_check_")}
    assert methods == {rule.method for rule in AUDIT_RULES}


@pytest.mark.parametrize(
    "rule", [rule for rule in AUDIT_RULES if rule.error == "conviction"], ids=rule_name
)
def test_evidence_convicts_alone(rule: Rule, tmp_path: Path, honest: World) -> None:
    case = ATTACKS[rule.id](tmp_path, honest)
    verdict = audit(case.paths)
    plan, session = verdict.cases[0]
    path = tmp_path / "evidence"
    path.write_text(evidence_text(plan, session, verdict.convictions))
    again = audit([path])
    assert convicted(again) == convicted(verdict)
    assert all(a.authentic == a.frames for a in again.accounts)
    proofs = [{f.digest for f in c.proof} for c in verdict.convictions]
    assert [{f.digest for f in c.proof} for c in again.convictions] == proofs


# Cheating servers with real sites.


class Recorded(Puppet):
    """A cheating server whose sites keep transcripts."""

    def __init__(self, folder: Path, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recorders = {}
        for name in self.plan.roster.names:
            self.recorders[name] = Recorder(folder / name, self.plan, name, SESSION)
            self.recorders[name].model(0, MODEL)

    def seal(self, kind: Any, to: int, header: Any, tail: bytes = b"") -> bytes:
        data = super().seal(kind, to, header, tail)
        self.recorders[f"s{to}"].received("server", data)
        return data

    def say(self, kind: Any, to: int, header: Any, tail: bytes = b"") -> list[bytes]:
        frames = super().say(kind, to, header, tail)
        for frame in frames:
            self.recorders[f"s{to}"].sent("server", frame)
        return frames

    def close(self) -> None:
        for recorder in self.recorders.values():
            recorder.close()


def test_two_survivor_lists_convict_the_server_once_sites_compare(tmp_path: Path) -> None:
    n = 5
    plan = make_plan(n, protocol=secagg.MaskedSum(share_threshold=4, neighbours=n - 1))
    puppet = Recorded(tmp_path, plan, [0])
    full, less = frozenset(range(n)), frozenset(range(n)) - {1}
    puppet.advertise(lambda i: full)
    puppet.share(lambda i: full)
    puppet.survive(lambda i: full if i in {1, 2} else less)
    puppet.confirm(lambda i: full if i in {1, 2} else less)
    puppet.close()
    paths = {name: tmp_path / name for name in plan.roster.names}
    # To each site alone the server looks honest.
    assert all(audit([path]).holds for path in paths.values())
    assert audit([paths["s1"], paths["s2"]]).holds
    verdict = audit([paths["s2"], paths["s3"]])
    assert convicted(verdict) == {("server", "one-cohort")}
    (conviction,) = verdict.convictions
    assert conviction.round == 0
    assert len({f.digest for f in conviction.proof}) == 2
    assert {f.name for f in conviction.proof} == {"Survivors"}
    assert conviction.text == "Survivors to s3 and Survivors to s2 disagree on whether s1 survived"


def test_a_server_that_announces_another_sum_is_contradicted(tmp_path: Path, honest: World) -> None:
    """A wrong result that is the same for everybody convicts nobody, and the replay shows it."""
    frames = []
    for kind, sender, to, frame in honest.frames:
        if kind == messages.RESULT.number:
            header, packed = honest.parts(frame)
            other, context = flip(packed), honest.server.contexts.round
            lie = aggregate_digest(context, header.survivors, [other], len(other))
            false = messages.Result(lie, header.survivors)
            frames.append((kind, sender, to, honest.reseal(frame, header=false, tail=other)))
        else:
            frames.append((kind, sender, to, frame))
    verdict = audit([record(tmp_path / "t", frames, "server")])
    assert not verdict.convictions
    assert {d.rule for d in verdict.doubts} == {"replay"}
    assert "another sum" in verdict.doubts[0].text
    assert verdict.rounds[0].replay == "contradicted"


def test_an_excluded_site_is_named_with_its_message(tmp_path: Path, honest: World) -> None:
    verdict = audit(ATTACKS["replay"](tmp_path, honest).paths)
    (doubt,) = verdict.doubts
    text = doubt.text
    assert "s6 is left out although its message arrived" in text
    number = int(text.partition(" #")[2].split(")")[0])
    entry = list(Transcript(tmp_path / "t").entries())[number - 1]
    assert entry.peer == "s6"


class Liar(Client):
    """A site that reveals a wrong share."""

    def _reveal(self) -> list[secagg.Event]:
        first = min(d for d in self._shares if d != self.index)
        wrong = self._shares[first]
        self._shares[first] = flip(wrong, 0)
        return super()._reveal()


def test_wrong_shares_make_suspects_and_convict_nobody(tmp_path: Path) -> None:
    world = World(PLAN, classes={"s3": Liar}).run()
    assert world.result is not None
    assert world.result.suspects
    verdict = audit(everybody(tmp_path, world))
    assert verdict.holds
    assert verdict.rounds[0].suspects == world.result.suspects == ("s0", "s3")


# Nobody is framed.


def test_flipped_bits_of_a_file_never_convict(tmp_path: Path, honest: World) -> None:
    path = record(tmp_path / "t", honest.frames, "s1")
    data, rng = path.read_bytes(), random.Random(5)
    for _ in range(250):
        at = rng.randrange(8 * len(data))
        path.write_bytes(
            data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
        )
        try:
            verdict = audit([path])
        except secagg.MisuseError as error:
            assert error.rule == "transcript-file"
            continue
        assert not verdict.holds
        assert not verdict.convictions


def test_flipped_bits_of_frames_are_attributed_to_nobody(tmp_path: Path, honest: World) -> None:
    rng = random.Random(6)
    frames = [row for row in honest.frames if "s1" in row[1:3]]
    assert {row[0] for row in frames} == set(range(1, 11))
    for count in range(150):
        kind, sender, to, frame = frames[count % len(frames)]
        at = rng.randrange(8 * len(frame))
        bad = frame[: at // 8] + bytes([frame[at // 8] ^ 1 << at % 8]) + frame[at // 8 + 1 :]
        path = record(tmp_path / f"t{count}", [*frames, (kind, sender, to, bad)], "s1")
        verdict = audit([path])
        assert not verdict.convictions, (kind, at)
        assert not verdict.doubts
        assert verdict.accounts[0].authentic == len(frames)
        path.unlink()


def forge(world: World, rng: random.Random, coalition: list[str]) -> tuple[Any, str, str, bytes]:
    """A frame that the coalition can sign: an honest one with something else in it."""
    kind, sender, to, frame = rng.choice([r for r in world.frames if r[1] in coalition])
    header, tail = world.parts(frame)
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    for name, value in fields.items():
        if rng.random() < 0.6 and isinstance(value, bytes) and value:
            fields[name] = flip(value, rng.randrange(len(value)))
        elif rng.random() < 0.3 and isinstance(value, int):
            fields[name] = max(0, value + rng.choice([-1, 1]))
    if tail and rng.random() < 0.5:
        tail = flip(tail, rng.randrange(len(tail)))
    elif tail and rng.random() < 0.2:
        tail = tail[: rng.randrange(len(tail))]
    number = messages.KINDS[kind]
    return number, sender, to, world.reseal(frame, header=type(header)(**fields), tail=tail)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 40),
    coalition=st.lists(st.sampled_from(["server", *ALL]), min_size=1, max_size=4, unique=True),
    recorder=st.sampled_from(["server", "s0", "s3"]),
)
def test_whatever_a_coalition_signs_and_records_convicts_itself_alone(
    tmp_path_factory: pytest.TempPathFactory,
    honest: World,
    seed: int,
    coalition: list[str],
    recorder: str,
) -> None:
    """A coalition makes a transcript up: honest frames (some left out, in any order) and whatever
    its members can sign. Convictions name members only; all of it holds with honest files too."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("framed")
    rows = [row for row in honest.frames if rng.random() < 0.8]
    rows += [
        (k.number, s, t, f) for k, s, t, f in (forge(honest, rng, coalition) for _ in range(6))
    ]
    rng.shuffle(rows)
    made_up = record(folder / "t", rows, recorder, everything=True)
    truth = record(folder / "truth", honest.frames, "server", outcome=honest.result)
    for paths in ([made_up], [made_up, truth]):
        verdict = audit(paths)
        assert {c.party for c in verdict.convictions} <= set(coalition), verdict.to_dict()
        for conviction in verdict.convictions:
            # The two signatures are the convicted party's own, and it alone could make them.
            assert all(honest.name(frame.signer) == conviction.party for frame in conviction.proof)


def test_a_site_cannot_frame_the_server_with_frames_that_it_made_up(
    tmp_path: Path, honest: World
) -> None:
    """It signs as the server with its own key, and has others sign what the server never got."""
    mine = honest.identities["s1"]
    header = messages.Survivors(honest.bitmap(0, 1, 2, 3, 4, 5), 6)
    encoded = wire.encode_header(header)
    kind = messages.SURVIVORS
    context = honest.server._context(kind)
    what = wire.frame_digest(context, kind.number, wire.SERVER, 1, encoded, b"")
    forged = wire.frame_head(kind.number, wire.SERVER, 1, encoded) + mine.sign(what)
    frames = [*honest.frames, (kind.number, "server", "s1", forged)]
    verdict = audit([record(tmp_path / "t", frames, "s1")])
    assert not verdict.convictions
    assert verdict.accounts[0].frames - verdict.accounts[0].authentic == 1
    # A second consent, input and reveal of its own: it convicts itself.
    own = [
        given_by(honest, kind, "s1", **change)
        for kind, change in (
            (messages.CONSENT, {"header": messages.Consent(digest("other"))}),
            (messages.INPUT, {"tail": flip(tail_of(honest, messages.INPUT, "s1", "server"))}),
        )
    ]
    rows = [*honest.frames, *((k.number, s, t, f) for k, s, t, f in own)]
    verdict = audit([record(tmp_path / "u", rows, "server")])
    assert convicted(verdict) == {("s1", "equivocation")}


def test_a_stated_size_of_a_tail_convicts_nobody(tmp_path: Path, honest: World) -> None:
    """The size is not signed, so whoever records a hash may state any."""
    with Recorder(tmp_path / "t", PLAN, "s0", SESSION) as recorder:
        recorder.model(0, MODEL)
        for _, sender, to, frame in honest.frames:
            if "s0" in {sender, to}:
                parts = wire.split_frame(frame, trailer_size=64)
                head = frame[: len(frame) - 64 - parts.tail.nbytes]
                tail_hash = hashlib.sha256(parts.tail).digest()
                piece = Hashed(head, tail_hash, 12345, parts.trailer, 0)
                recorder._append(Moved(False, "server", (piece,)))
    verdict = audit([tmp_path / "t"])
    assert verdict.holds
    assert verdict.accounts[0].authentic == 10


PIECES = st.one_of(
    st.builds(Whole, st.binary(max_size=300), st.none() | st.integers(0, (1 << 63) - 1)),
    st.builds(
        Hashed,
        st.binary(max_size=80),
        st.binary(min_size=32, max_size=32),
        st.integers(0, (1 << 63) - 1),
        st.binary(max_size=80),
        st.none() | st.integers(0, 3),
    ),
    st.builds(Opaque, st.binary(min_size=32, max_size=32), st.integers(0, 1 << 40)),
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(PIECES, max_size=3), max_size=5), st.randoms(use_true_random=False))
def test_whatever_entries_hold_is_attributed_to_nobody(
    tmp_path_factory: pytest.TempPathFactory, honest: World, rows: list[Any], rng: random.Random
) -> None:
    """Entries of the right form with anything in them, headers of real frames among it."""
    path = tmp_path_factory.mktemp("odd") / "t"
    with Recorder(path, PLAN, "server", SESSION) as recorder:
        recorder.model(0, MODEL)
        for pieces in rows:
            for at, piece in enumerate(pieces):
                if isinstance(piece, Whole) and rng.random() < 0.7:
                    frame = rng.choice(honest.frames)[3]
                    pieces[at] = Whole(frame[: rng.randrange(16, 60)] + piece.data, piece.round)
            recorder._append(Moved(rng.random() < 0.5, "s1", tuple(pieces)))
    verdict = audit([path])
    assert not verdict.convictions
    assert not verdict.doubts
    assert verdict.accounts[0].authentic == 0
    assert verdict.accounts[0].frames == sum(map(len, rows))
