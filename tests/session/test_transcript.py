"""The transcript file: what it holds, cuts, damage, hostile bytes, a recorder's second life."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.world import MODEL, SESSION, World, make_plan, people
from secagg.session import transcript as module
from secagg.session.messages import ORDER, Order, Part, Slot, session_context
from secagg.session.transcript import (
    Hashed,
    Model,
    Moved,
    Opaque,
    Outcome,
    Recorder,
    Transcript,
    Whole,
)
from secagg_protocols import wire

PLAN = make_plan(4, length=2000, max_dropouts=0)


def entries(path: Path) -> list[object]:
    return list(Transcript(path).entries())


@pytest.fixture
def played() -> World:
    return World(PLAN).run()


def write(path: Path, world: World, party: str = "server", **options: object) -> None:
    with Recorder(path, PLAN, party, SESSION, **options) as recorder:
        recorder.model(0, MODEL)
        for _, sender, to, frame in world.frames:
            recorder.tap(secagg.Step.INPUT, sender, to, frame)
        assert world.result is not None
        recorder.outcome(0, world.result)


def test_a_file_stands_alone_and_gives_back_what_travelled(tmp_path: Path, played: World) -> None:
    path = tmp_path / "t"
    write(path, played, "s1")
    read = Transcript(path)
    assert (read.plan, read.party, read.session) == (PLAN, "s1", SESSION.encode())
    first, *moved, last = read.entries()
    assert read.stopped == ""
    assert isinstance(first, Model)
    assert first.model == module.hashlib.sha256(MODEL).digest()
    mine = [(s == "s1", t if s == "s1" else s, f) for _, s, t, f in played.frames if "s1" in (s, t)]
    assert len(mine) == 10
    assert moved == [Moved(sent, peer, (Whole(f, 0),)) for sent, peer, f in mine]
    assert isinstance(last, Outcome)
    assert last.survivors == ("s0", "s1", "s2", "s3")
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_in_it(tmp_path: Path, played: World) -> None:
    path = tmp_path / "t"
    write(path, played, keep_tails=None)
    data = path.read_bytes()
    for name, identity in people(4)[1].items():
        assert bytes(identity._key) not in data, name
    assert MODEL not in data.replace(b"model\x00", b"").replace(b"\xa5model", b"")
    for vector in played.vectors.values():
        assert vector.tobytes()[:64] not in data
    assert played.result is not None
    assert np.asarray(played.result.sum).tobytes()[:64] not in data


def test_long_tails_are_kept_by_their_hash(tmp_path: Path, played: World) -> None:
    whole, short = tmp_path / "whole", tmp_path / "short"
    write(whole, played, keep_tails=None)
    write(short, played, keep_tails=1024)
    assert short.stat().st_size < whole.stat().st_size / 2
    kept = [e.pieces[0] for e in entries(short) if isinstance(e, Moved)]
    hashed = [piece for piece in kept if isinstance(piece, Hashed)]
    # Four inputs and four results; everything else is short.
    assert len(hashed) == 8
    frames = [frame for _, _, _, frame in played.frames]
    for piece in hashed:
        frame = next(f for f in frames if f.startswith(piece.head) and f.endswith(piece.trailer))
        parts = wire.split_frame(frame, trailer_size=64)
        assert piece.tail_size == parts.tail.nbytes == 3000
        assert piece.tail_hash == module.hashlib.sha256(parts.tail).digest()


def test_a_bundle_is_recorded_frame_by_frame(tmp_path: Path, played: World) -> None:
    frames = [frame for kind, s, _, frame in played.frames if kind in (1, 5) and s == "s2"]
    server = people(4)[1]["server"]
    parts = tuple(Part.of(7 + at, [frame], 64) for at, frame in enumerate(frames))
    header = wire.encode_header(Order(3, int(Slot.INPUT), 7, bytes(32), b"", parts))
    head = wire.frame_head(ORDER.number, wire.SERVER, 2, header)
    digest = wire.frame_digest(
        session_context(PLAN, SESSION.encode()), ORDER.number, wire.SERVER, 2, header, b""
    )
    control = head + server.sign(digest)
    with Recorder(tmp_path / "t", PLAN, "s2", SESSION, keep_tails=1024) as recorder:
        recorder.received("server", control + b"".join(frames))
        recorder.received("server", control + b"".join(frames)[:-1])
    whole, torn = entries(tmp_path / "t")
    assert isinstance(whole, Moved)
    first, advert, masked = whole.pieces
    assert first == Whole(control, None)
    assert advert == Whole(frames[0], 7)
    assert isinstance(masked, Hashed)
    assert masked.round == 8
    # Parts that are not those stated: kept as one piece, for an audit to call not authentic.
    assert isinstance(torn, Moved)
    assert len(torn.pieces) == 1


def test_junk_is_recorded_as_it_is_unless_it_is_long(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", PLAN, "server", SESSION, keep_tails=10) as recorder:
        recorder.received("s0", b"junk")
        recorder.received("s0", b"junk" * 100)
        recorder.received("s0", b"")
    pieces = [e.pieces[0] for e in entries(tmp_path / "t") if isinstance(e, Moved)]
    digest = module.hashlib.sha256(b"junk" * 100).digest()
    assert pieces == [Whole(b"junk"), Opaque(digest, 400), Whole(b"")]


def test_a_cut_file_reads_up_to_the_cut_at_every_byte(tmp_path: Path, played: World) -> None:
    path = tmp_path / "t"
    write(path, played, "s1", keep_tails=100)
    data, all_entries = path.read_bytes(), entries(path)
    head = next(n for n in range(len(data)) if readable(tmp_path / "c", data[:n]))
    counts = set()
    for end in range(head, len(data), 7):
        (tmp_path / "c").write_bytes(data[:end])
        read = Transcript(tmp_path / "c")
        found = list(read.entries())
        assert found == all_entries[: len(found)]
        counts.add(len(found))
        # Whole only where the cut falls between two entries.
        assert read.stopped.startswith("cut at byte") or not read.stopped
    assert counts == set(range(len(all_entries)))
    (tmp_path / "c").write_bytes(data + bytes(4096))
    read = Transcript(tmp_path / "c")
    assert list(read.entries()) == all_entries
    assert read.stopped == f"cut at byte {len(data)}"


def readable(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        Transcript(path)
    except secagg.MisuseError:
        return False
    return True


def test_a_recorder_goes_on_after_a_crash_and_drops_the_torn_end(
    tmp_path: Path, played: World
) -> None:
    path = tmp_path / "t"
    write(path, played, "s1")
    before = entries(path)
    os.truncate(path, path.stat().st_size - 5)
    with Recorder(path, PLAN, "s1", SESSION) as recorder:
        # The round that was under way is known from the file.
        recorder.sent("server", b"after")
    assert entries(path) == [*before[:-1], Moved(True, "server", (Whole(b"after", 0),))]
    for end in (0, 3, 40, 500):
        os.truncate(path, end)
        with Recorder(path, PLAN, "s1", SESSION) as recorder:
            recorder.sent("server", b"anew")
        assert entries(path) == [Moved(True, "server", (Whole(b"anew"),))]


class FullDisk:
    """A file whose disk takes half of what is written, and then no more."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, view: memoryview) -> int:
        self.file.write(view[: len(view) // 2])
        raise OSError(28, "no space left")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_what_a_full_disk_took_in_part_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with Recorder(path, PLAN, "s1", SESSION) as recorder:
        recorder.sent("server", b"first")
        size, file = path.stat().st_size, recorder._file
        recorder._file = FullDisk(file)
        with pytest.raises(OSError, match="no space"):
            recorder.sent("server", b"x" * 5000)
        assert path.stat().st_size == size
        recorder._file = file
        recorder.sent("server", b"last")
    read = Transcript(path)
    assert [e.pieces[0].data for e in read.entries()] == [b"first", b"last"]
    assert read.stopped == ""


def test_a_recorder_refuses_what_is_not_its_file(tmp_path: Path) -> None:
    path = tmp_path / "t"
    open_one = Recorder(path, PLAN, "s1", SESSION)
    with open_one, pytest.raises(secagg.MisuseError, match="another process"):
        Recorder(path, PLAN, "s1", SESSION)
    for plan, party, session in (
        (PLAN, "s2", SESSION),
        (PLAN, "s1", "another"),
        (make_plan(5), "s1", SESSION),
    ):
        with pytest.raises(secagg.MisuseError, match="transcript") as caught:
            Recorder(path, plan, party, session)
        assert caught.value.rule == "transcript-file"
    data = bytearray(path.read_bytes())
    for text, bad in (("not a transcript", b"x" * 5000), ("damaged", bytes(data[:-1]) + b"x")):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(secagg.MisuseError, match=text):
            Recorder(tmp_path / "bad", PLAN, "s1", SESSION)
        # Nothing of it was overwritten.
        assert (tmp_path / "bad").read_bytes() == bad
    with pytest.raises(secagg.MisuseError, match="roster-member"):
        Recorder(tmp_path / "new", PLAN, "nobody", SESSION)
    with pytest.raises(secagg.MisuseError, match="session"):
        Recorder(tmp_path / "new", PLAN, "s1", "")


def test_a_model_is_its_bytes_or_its_hash(tmp_path: Path) -> None:
    digest = module.hashlib.sha256(MODEL).digest()
    with Recorder(tmp_path / "t", PLAN, "s1", SESSION) as recorder:
        recorder.model(1, MODEL)
        recorder.model(1, None, model_hash=digest)
        for bad in ({}, {"model_hash": b"short"}):
            with pytest.raises(secagg.MisuseError):
                recorder.model(1, None, **bad)
    assert entries(tmp_path / "t") == [Model(1, digest, b"")] * 2


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sample") / "t"
    plan = make_plan(3, max_dropouts=0)
    world = World(plan).run()
    with Recorder(path, plan, "s1", SESSION, keep_tails=100) as recorder:
        recorder.model(0, MODEL)
        for _, sender, to, frame in world.frames:
            recorder.tap(secagg.Step.INPUT, sender, to, frame)
    return path.read_bytes()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutations_raise_typed_errors_only(
    sample: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Flips, cuts, insertions and repetitions: what is read is a prefix, or a typed error."""
    mutated = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip" if mutated:
                mutated[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del mutated[at : at + data.draw(st.integers(1, 300))]
            case "insert":
                mutated[at:at] = data.draw(st.binary(min_size=1, max_size=40))
            case "repeat":
                mutated[at:at] = mutated[at : at + data.draw(st.integers(1, 600))]
    path = tmp_path / "m"
    path.write_bytes(sample)
    good = entries(path)
    path.write_bytes(mutated)
    try:
        found = entries(path)
    except secagg.SecAggError as error:
        assert error.rule == "transcript-file"
        return
    assert found == good[: len(found)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), shape=st.recursive(
    st.none() | st.integers(-5, (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=9)
    | st.sampled_from(["moved", "model", "outcome", "head", "whole", "hashed", "opaque"]),
    lambda inner: st.lists(inner, max_size=6), max_leaves=12))  # fmt: skip
def test_records_with_right_checks_and_wrong_content(
    sample: bytes, tmp_path: Path, body: bytes, shape: object
) -> None:
    """Whoever makes a file makes its checks too: content is refused by its form."""
    path = tmp_path / "m"
    for content in (body, msgspec.msgpack.encode(shape)):
        path.write_bytes(sample)
        with path.open("rb") as file:
            _, place = module._start(path, file)
        path.write_bytes(sample[: place.end] + module._record(place.state, content)[0])
        try:
            (found,) = entries(path)
        except secagg.SecAggError as error:
            assert error.rule == "transcript-file"
        else:
            # Rare, and then it is one of the three kinds, with every field within its bounds.
            again = msgspec.convert(msgspec.to_builtins(found), type(found))
            assert isinstance(found, Model | Moved | Outcome)
            assert again == found


def test_a_head_that_lies_is_refused(tmp_path: Path) -> None:
    text, digest = secagg.dump_plan(PLAN), PLAN.digest
    state = module.hashlib.sha256(module.MAGIC).digest()
    for head, why in (
        (module.Head(text, bytes(32), "s1", b"x"), "another plan"),
        (module.Head("not a plan", digest, "s1", b"x"), "no valid plan"),
        (module.Head(text.replace("= 2000", '= "2000"'), digest, "s1", b"x"), "no valid plan"),
        (module.Head(text, digest, "nobody", b"x"), "nobody of its roster"),
        (module.Model(0, bytes(32), b""), "not a transcript"),
    ):
        body = msgspec.msgpack.encode(head)
        (tmp_path / "t").write_bytes(module.MAGIC + module._record(state, body)[0])
        with pytest.raises(secagg.MisuseError, match=why) as caught:
            Transcript(tmp_path / "t")
        assert caught.value.rule == "transcript-file"


def test_the_tap_of_aggregate_records_one_party(tmp_path: Path) -> None:
    roster, identities = people(4)
    vectors = {name: np.arange(2000) % 7 for name in roster.names}
    with Recorder(tmp_path / "t", PLAN, "server", SESSION, keep_tails=None) as recorder:
        recorder.model(0, MODEL)
        result = secagg.aggregate(
            PLAN, vectors, identities=identities, session=SESSION, model=MODEL, tap=recorder.tap
        )
        recorder.outcome(0, result)
    moved = [e for e in entries(tmp_path / "t") if isinstance(e, Moved)]
    assert len(moved) == 4 * 10
