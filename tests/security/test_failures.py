"""What a failing disk, a lost journal, a slow site or a hostile file can do: nothing silent."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import secagg
from secagg.attacks.arena.site_vectors import VICTIM, play
from secagg.attacks.arena.world import MODEL, SESSION, World, digest, make_plan, people
from secagg_protocols import dumps
from secagg_protocols.masked_sum import masks, messages


def one_site(**changes: Any) -> Any:
    """The first site of the usual plan, with other arguments where asked."""
    arguments: dict[str, Any] = {
        "identity": people(7)[1]["s0"],
        "session": SESSION,
        "round": 0,
        "model": MODEL,
        "floors": None,
        "journal": secagg.MemoryJournal(),
    }
    return secagg.client(make_plan(), "s0", **(arguments | changes))


class FailingJournal(secagg.MemoryJournal):
    """A journal whose disk refuses once, at a chosen step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.failures = step, 0

    def claim(self, setup_context: bytes, step: int, *content: Any, **more: Any) -> bytes:
        if step == self.step and not self.failures:
            self.failures += 1
            raise OSError(28, "No space left on device")
        return super().claim(setup_context, step, *content, **more)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_close_that_could_not_be_written_is_tried_again(step: int) -> None:
    journal = FailingJournal(step)
    world = World(make_plan(bits=64), journals={"server": journal})
    close = world.server.close_step
    before: list[bytes] = []

    def patient() -> Any:
        try:
            return close()
        except secagg.MisuseError as error:
            assert error.rule == "journal-io"
            before.append(world.server.dump())
            return close()

    world.server.close_step = patient
    world.run({3: ["s4"]})
    assert journal.failures == 1
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()
    undisturbed = World(make_plan(bits=64)).run({3: ["s4"]}).result
    assert undisturbed is not None
    assert world.result.transcript == undisturbed.transcript


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_site_s_answer_that_could_not_be_written_is_tried_again(step: int) -> None:
    journal = FailingJournal(step)
    world = World(make_plan(), journals={VICTIM: journal})
    victim = world.parties[VICTIM]
    for name in ("start", "receive"):
        method = getattr(victim, name)

        def patient(*args: Any, call: Any = method, **options: Any) -> Any:
            try:
                return call(*args, **options)
            except secagg.MisuseError as error:
                assert error.rule == "journal-io"
                return call(*args, **options)

        setattr(victim, name, patient)
    world.run()
    assert journal.failures == 1
    assert world.result is not None
    assert VICTIM in world.result.survivors
    assert not world.result.left
    assert world.result.sum.tolist() == world.expected()


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_new_journal_file_that_failed_once_is_tried_again(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    real, failures = getattr(os, call), []

    def failing(*args: Any) -> Any:
        if not failures:
            failures.append(call)
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    journal = secagg.FileJournal(tmp_path / "journal")
    with pytest.raises(OSError, match="No space"):
        journal.claim(digest("key"), 1, digest("a"), b"reply")
    assert journal.claim(digest("key"), 1, digest("a"), b"reply") == b"reply"
    assert secagg.FileJournal(tmp_path / "journal").newest(digest("key")) == 1


def test_an_interrupted_claim_does_not_pass_for_a_durable_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    journal = secagg.FileJournal(tmp_path / "journal")
    journal.claim(digest("key"), 1, digest("a"), b"")

    def interrupted(*args: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "pwrite", interrupted)
        journal.claim(digest("key"), 2, digest("b"), b"")
    journal.claim(digest("key"), 2, digest("c"), b"")
    assert secagg.FileJournal(tmp_path / "journal").newest(digest("key")) == 2


def test_an_opening_that_was_interrupted_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(make_plan())
    from secagg_protocols.masked_sum import server as module

    real = module.add_keystreams

    def interrupted(accumulator: Any, *args: Any, **options: Any) -> None:
        real(accumulator, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "add_keystreams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    with pytest.raises(secagg.MisuseError) as caught:
        world.server.close_step()
    assert caught.value.rule == "ended"


def at_masked(threat: str = "malicious-server") -> tuple[World, dict[str, bytes]]:
    """A round whose parties were all dumped when the survivors were announced."""
    world = World(make_plan(threat=threat))
    dumps: dict[str, bytes] = {}

    def edit(kind: int, sender: str, to: str, frame: bytes) -> None:
        if kind == messages.SURVIVORS.number and not dumps:
            dumps.update({name: party.dump() for name, party in world.parties.items()})

    world.edit = edit
    world.run()
    return world, dumps


@pytest.mark.parametrize("name", ["s0", "server"])
@pytest.mark.parametrize("threat", ["semi-honest", "malicious-server"])
def test_a_dump_without_its_journal_is_refused(name: str, threat: str) -> None:
    """With an empty journal, sites could be made to answer a second survivor list."""
    world, dumps = at_masked(threat)
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.load(dumps[name], world.plan, world.identities[name], secagg.MemoryJournal())
    assert caught.value.rule == "dump-age"


def test_a_journal_file_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    journal = secagg.FileJournal(tmp_path / "journal")
    journal.claim(digest("key"), 1, digest("a"), b"")
    (tmp_path / "journal").unlink()
    with pytest.raises(secagg.MisuseError) as caught:
        journal.claim(digest("key"), 2, digest("b"), b"")
    assert caught.value.rule == "journal-file"
    assert not (tmp_path / "journal").exists()


def test_zeros_at_the_end_of_a_journal_are_a_crash_and_not_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    secagg.FileJournal(path).claim(digest("key"), 1, digest("a"), b"reply")
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(300))
    journal = secagg.FileJournal(path)
    assert journal.claim(digest("key"), 1, digest("a"), b"") == b"reply"
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", [messages.ADVERTS, messages.CONSENTS])
def test_a_bad_relayed_signature_is_the_server_s_fault(kind: Any) -> None:
    caught: list[Any] = []

    def change(world: World, frame: bytes) -> bytes:
        _, tail = world.parts(frame)
        bad = world.reseal(frame, tail=tail[:-1] + bytes([tail[-1] ^ 1]))
        with pytest.raises(secagg.AuthenticationError) as error:
            world.parties[VICTIM].receive(bad, sender="server")
        caught.append(error.value)
        return frame

    from secagg_protocols.masked_sum import Client

    play(Client, kind, change)
    assert caught[0].sender == "server"


def test_a_slow_site_learns_that_it_is_late_and_reveals_nothing() -> None:
    world = World(make_plan())
    victim = world.parties[VICTIM]
    submit, victim.submit = victim.submit, lambda *args: []
    world.run()
    assert world.result is not None
    assert VICTIM not in world.result.survivors
    assert [e.rule for e in world.errors(VICTIM)] == ["late"]
    with pytest.raises(secagg.MisuseError) as caught:
        submit(world.vectors[VICTIM])
    assert caught.value.rule == "ended"


def test_after_a_load_the_same_vector_is_sent_again_and_no_other() -> None:
    world, dumps = at_masked()
    (sent,) = [f for k, s, _, f in world.frames if k == messages.INPUT.number and s == VICTIM]

    def load() -> Any:
        journal = secagg.MemoryJournal()
        for (key, step), record in world.journals[VICTIM]._records.items():
            if step <= secagg.Step.INPUT:
                journal._records[key, step] = record
        return secagg.load(dumps[VICTIM], world.plan, world.identities[VICTIM], journal)

    (event,) = load().submit(world.vectors[VICTIM])
    assert event.data == sent
    party = load()
    with pytest.raises(secagg.MisuseError) as caught:
        party.submit(world.vectors["s1"])
    assert caught.value.rule == "journal-once"
    assert party._secrets is None


@pytest.mark.parametrize(
    "values",
    [
        {"smallest_cohort": float("nan")},
        {"smallest_cohort": 3.0},
        {"smallest_cohort": "9"},
        {"share_threshold": True},
        {"noise_variance": float("nan")},
        {"noise_variance": float("inf")},
        {"most_inputs_per_model": 1.0},
        {"most_rounds": -1},
        {"malicious_server": 1},
    ],
)
def test_a_floor_that_would_be_off_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.Floors(**values)
    assert caught.value.rule == "floors-file"


def test_floors_stay_with_the_dump() -> None:
    floors = secagg.Floors(smallest_cohort=6, most_inputs_per_model=1)
    plan, identity = make_plan(), people(7)[1]["s0"]
    party = one_site(floors=floors)
    again = secagg.load(party.dump(), plan, identity, secagg.MemoryJournal())
    assert isinstance(again, secagg.Client)
    assert again.floors == floors


@pytest.mark.parametrize(
    "build",
    [
        lambda: secagg.ClipLinf(1e-300),
        lambda: secagg.ClipL2(10**400),
        lambda: secagg.ClipL2(float("nan")),
        lambda: secagg.ClipL2(float("inf")),
        lambda: make_plan(
            stages=(secagg.ClipL2(1.0), secagg.Quantise(1 << 40)), max_weight=1 << 20
        ),
        lambda: make_plan(privacy=(("epsilon", 1 << 70),)),
        lambda: make_plan(privacy=(("epsilon", "\ud800"),)),
        lambda: make_plan(privacy=(("epsilon", [1]),)),
        lambda: make_plan(privacy=(("a", 1), ("a", 2))),
        lambda: make_plan(stages=None),
        lambda: make_plan(stages=5),
        lambda: make_plan(length=np.int64(5)),
        lambda: make_plan(threat=["semi-honest"]),
        lambda: secagg.Roster(sites=(("a", 32),), server=bytes(32)),  # type: ignore[arg-type]
        lambda: secagg.load_plan("a = " + "[" * 5000),
        lambda: secagg.load_plan("length = " + "9" * 5000),
        lambda: secagg.load_plan(
            secagg.dump_plan(make_plan()).replace('name = "Integers"', "name = []")
        ),
    ],
)
def test_extreme_plans_are_plan_errors(build: Any) -> None:
    with pytest.raises(secagg.PlanError) as caught:
        build()
    assert caught.value.rule


def test_equal_plans_have_equal_digests() -> None:
    whole, real = make_plan(privacy=(("e", 1),)), make_plan(privacy=(("e", 1.0),))
    assert (whole == real) == (whole.digest == real.digest)


@pytest.mark.parametrize("text", ["\xff".encode("latin-1"), b"", b"x" * 99, b"\x00" * 40])
def test_a_hostile_identity_file_is_refused_without_showing_it(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.Identity.load(path)
    assert caught.value.__cause__ is None
    with pytest.raises(secagg.MisuseError):
        secagg.Identity.load(tmp_path / "none")
    with pytest.raises(secagg.MisuseError):
        secagg.Identity("s0", b"short")


def resealed_dump(change: Any) -> bytes:
    """A dump whose checksum is right and whose content is not."""
    import hashlib

    party = one_site()
    head = len(dumps._MAGIC)
    state = msgspec.msgpack.decode(party.dump()[head + 32 :])
    body = msgspec.msgpack.encode(change(state))
    return party.dump()[:head] + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [],
        lambda s: {},
        lambda s: 5,
        lambda s: s | {"session": 1 << 45},
        lambda s: s | {"session": "x" * 99},
        lambda s: s | {"role": "queen"},
        lambda s: s | {"index": 99},
        lambda s: s | {"index": -1},
        lambda s: s | {"index": "s0"},
        lambda s: s | {"round": "x"},
        lambda s: s | {"ended": ["Nothing", "x", {}]},
        lambda s: s | {"ended": 3},
        lambda s: s | {"accepted": [[1]]},
        lambda s: s | {"state": {}},
        lambda s: s | {"state": s["state"] | {"shares": 5}},
        lambda s: s | {"state": s["state"] | {"seed": "x"}},
        lambda s: {k: v for k, v in s.items() if k != "model"},
    ],
)
def test_a_hostile_dump_is_a_misuse_and_nothing_else(change: Any) -> None:
    identity = people(7)[1]["s0"]
    with pytest.raises(secagg.MisuseError):
        secagg.load(resealed_dump(change), make_plan(), identity, secagg.MemoryJournal())


@pytest.mark.parametrize(
    "options",
    [
        {"session": 3},
        {"session": None},
        {"session": "x" * 65},
        {"model": "text"},
        {"identity": "s0.key"},
        {"floors": {"smallest_cohort": 3}},
        {"journal": "journal"},
        {"round": "0"},
    ],
)
def test_arguments_of_another_type_are_misuse(options: dict[str, Any]) -> None:
    with pytest.raises(secagg.MisuseError):
        one_site(**options)


def test_a_frame_may_come_in_any_contiguous_buffer() -> None:
    world = World(make_plan())
    world.server.start()
    (event,) = world.parties["s0"].start()
    strided = memoryview(np.frombuffer(event.data, dtype=np.uint8).repeat(2))[::2]
    (ignored,) = world.server.receive(strided)
    assert isinstance(ignored, secagg.Ignored)
    (taken,) = world.server.receive(memoryview(event.data).cast("c"))
    assert isinstance(taken, secagg.Progress)


@pytest.mark.parametrize("data", ["text", None, 5, ["bytes"]])
def test_a_message_that_is_not_bytes_is_ignored(data: Any) -> None:
    world = World(make_plan())
    world.server.start()
    for party in (world.server, world.parties["s0"]):
        (event,) = party.receive(data)
        assert isinstance(event, secagg.Ignored)
    with pytest.raises(secagg.MisuseError):
        secagg.load(data, make_plan(), None, secagg.MemoryJournal())


@pytest.mark.parametrize(
    "options",
    [
        {"drop": ["s0"]},
        {"drop": {3: None}},
        {"drop": {"input": "s0"}},
        {"drop": {9: ["s0"]}},
        {"drop": {True: ["s0"]}},
        {"weights": [1, 2]},
        {"identities": ["s0"]},
        {"vectors": [np.zeros(5)]},
    ],
)
def test_plausible_mistakes_of_a_caller_are_misuse(options: dict[str, Any]) -> None:
    plan = make_plan()
    rows: Any = {name: np.zeros(5, dtype=np.int64) for name in plan.roster.names}
    arguments: dict[str, Any] = {"vectors": rows, "identities": people(7)[1]} | options
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.aggregate(plan, **arguments)
    assert caught.value.rule in {"arguments", "drop-schedule"}


@pytest.mark.parametrize(
    "options",
    [
        {"roster": "r.toml"},
        {"colluding": "1"},
        {"colluding": 0.1},
        {"max_dropouts": None},
        {"stages": secagg.Quantise(3)},
        {"stages": None},
        {"neighbours": 2.0},
    ],
)
def test_plausible_mistakes_in_recommend_are_plan_errors(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "roster": people(7)[0],
        "length": 5,
        "stages": (secagg.Integers(0, 9),),
        "threat": "malicious-server",
        "colluding": 1,
        "max_dropouts": 1,
    }
    with pytest.raises(secagg.PlanError) as caught:
        secagg.Plan.recommend(**(arguments | options))
    assert caught.value.rule == "field-types"


def test_a_path_where_text_is_needed_is_named_as_such(tmp_path: Path) -> None:
    for wrong in (tmp_path / "plan.toml", "plan.toml"):
        with pytest.raises(secagg.PlanError, match="not its name"):
            secagg.load_plan(wrong)  # type: ignore[arg-type]


def test_a_masked_array_does_not_hide_what_it_masks() -> None:
    plan = make_plan(stages=(secagg.ClipL2(1.0), secagg.Quantise(8)))
    hidden = np.ma.masked_invalid(np.array([1.0, np.nan, 1.0, 1.0, 1.0]))
    rows: dict[str, Any] = dict.fromkeys(plan.roster.names, np.ones(5)) | {"s1": hidden}
    with pytest.raises(secagg.MisuseError) as caught:
        secagg.aggregate(plan, rows, identities=people(7)[1])
    assert caught.value.rule == "input-dtype"


def test_the_secrets_of_a_round_are_neither_pickled_nor_shown() -> None:
    secrets = masks.SiteSecrets.derive(digest("seed"), bytes(32))
    with pytest.raises(TypeError):
        pickle.dumps(secrets)
    assert digest("seed").hex() not in repr(secrets)
    assert "self_seed" not in repr(secrets)
