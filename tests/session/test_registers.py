"""What a site's journal remembers over rounds: durable before anything is sent, whoever else writes
to it, whenever the process dies."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import secagg
from secagg.attacks.arena.played import refused, reload
from secagg.attacks.arena.world import MODEL, SESSION, World, make_plan, people
from secagg_protocols import site
from secagg_protocols.journal.format import HEAD_SIZE
from secagg_protocols.masked_sum import Client, messages
from secagg_protocols.registers import (
    MOST_MODELS,
    NOTHING_RELEASED,
    TAG_SIZE,
    Released,
    data_name,
    inputs_register,
    models_register,
    pack_count,
    pack_released,
    pack_tags,
    released_register,
    unpack_count,
    unpack_released,
    unpack_tags,
)
from support.releases import PLAN, N, play, rules


class Flaky(secagg.MemoryJournal):
    """A journal that fails, or is raced, before some ``swap``: the next, or one after that."""

    def __init__(self, before: list[Any]) -> None:
        super().__init__()
        self.before = before
        self.order: list[str] = []

    def swap(self, name: bytes, old: bytes, new: bytes) -> None:
        if self.before:
            self.before.pop(0)(self)
        self.order.append("swap")
        super().swap(name, old, new)

    def claim(self, key: bytes, step: int, *args: Any, **kwargs: Any) -> bytes:
        self.order.append(f"claim {step}")
        return super().claim(key, step, *args, **kwargs)


def full_disk(_: Any) -> None:
    raise OSError(28, "No space left on device")


def nothing(_: Any) -> None: ...


def shrink(journal: Any) -> None:
    """What another process of s0 does that confirms a sum of six sites."""
    register = released_register("s0", "")
    stored = journal.read(register)
    fewer = replace(unpack_released(stored), sites=frozenset(f"s{i}" for i in range(6)))
    secagg.MemoryJournal.swap(journal, register, stored, pack_released(fewer))


def patient(world: World, name: str, rule: str = "journal-io") -> list[str]:
    """Let a site try once more whenever its journal's disk fails."""
    tried: list[str] = []
    party = world.parties[name]
    receive = party.receive

    def again(*args: Any, **kwargs: Any) -> Any:
        try:
            return receive(*args, **kwargs)
        except secagg.MisuseError as error:
            assert error.rule == rule
            tried.append(error.rule)
            return receive(*args, **kwargs)

    party.receive = again
    return tried


def test_a_count_that_fails_under_submit_is_tried_again() -> None:
    """The keys are shared before the vector is there, and the disk fails when it comes."""
    journal = Flaky([full_disk])
    world = World(make_plan(max_inputs_per_model=1), journals={"s0": journal})
    party, vector = world.parties["s0"], world.vectors["s0"]
    submit, receive = party.submit, party.receive
    party.submit = lambda *_: []
    failed: list[str] = []

    def late(*args: Any, **kwargs: Any) -> Any:
        events = receive(*args, **kwargs)
        if party.awaits_input:
            failed.extend(refused(lambda: submit(vector)))
            events += submit(vector)
        return events

    party.receive = late
    world.run()
    assert failed == ["journal-io"]
    assert world.result is not None
    assert "s0" in world.result.survivors


@pytest.mark.parametrize(
    ("changes", "swaps"),
    [
        ({"fixed_data": True}, {3: 1, 4: 2}),  # the plan, then the survivors
        ({"max_inputs_per_model": 1}, {3: 3}),  # the plan, the number of models, the model
    ],
)
def test_the_registers_are_durable_before_anything_is_sent(
    changes: dict[str, Any], swaps: dict[int, int]
) -> None:
    world = World(make_plan(**changes), journals={"s0": (journal := Flaky([]))}).run()
    assert world.result is not None
    for step, count in swaps.items():
        assert journal.order[: journal.order.index(f"claim {step}")].count("swap") == count


@pytest.mark.parametrize(
    ("changes", "at"),
    [({"fixed_data": True}, at) for at in range(2)]
    + [({"max_inputs_per_model": 1}, at) for at in range(3)],
)
def test_a_register_that_is_not_written_is_tried_again(changes: dict[str, Any], at: int) -> None:
    journal = Flaky([nothing] * at + [full_disk])
    world = World(make_plan(**changes), journals={"s0": journal})
    tried = patient(world, "s0")
    world.run()
    assert tried == ["journal-io"]
    assert world.result is not None
    assert "s0" in world.result.survivors
    assert not world.result.left
    # The number of models is written first, so it can only be too large.
    counted = unpack_count(journal.read(models_register("s0", "")))
    assert counted == (0 if "fixed_data" in changes else 1 + (at == 2))


def test_a_limit_counts_what_another_process_sent_meanwhile() -> None:
    def other(journal: Any) -> None:
        name = inputs_register("s0", "", plan_model)
        secagg.MemoryJournal.swap(journal, name, b"", bytes(16))

    for most, ends in ((1, ["inputs-per-model"]), (2, [])):
        journal = Flaky([nothing, nothing, other])
        world = World(make_plan(max_inputs_per_model=most), journals={"s0": journal})
        plan_model = world.parties["s0"].contexts.model_hash
        world.run()
        # The first is raised; what comes later meets the party that it ended.
        assert [e.rule for e in world.errors("s0")][:1] == ends
        stored = unpack_tags(journal.read(inputs_register("s0", "", plan_model)))
        assert len(stored) == most
        assert stored[0] == bytes(16)


def test_sums_are_compared_with_what_another_process_confirmed_meanwhile() -> None:
    journal = Flaky([nothing, shrink])
    world = play(PLAN, range(N), 0, {"s0": journal})
    assert rules(world) == {"s0": {"fixed-nested"}}


def test_an_input_that_is_sent_again_counts_once() -> None:
    """A site that lost its dump after the input sends the same bytes again, within the limit."""
    plan, journals = make_plan(max_inputs_per_model=1), dict[str, Any]()
    world = World(plan, journals=journals)
    dumps: list[bytes] = []

    def edit(kind: int, sender: str, to: str, frame: bytes) -> None:
        if kind == messages.SHARES_FOR.number and to == "s0":
            party = world.parties["s0"]
            dumps.append(party.dump())
            party.receive(frame, sender=sender)
            again = reload(Client, world, "s0", dumps[0])
            again.submit(world.vectors["s0"])
            world.parties["s0"] = again

    world.edit = edit
    world.run()
    assert dumps
    assert world.result is not None
    assert world.result.survivors == plan.roster.names
    model = world.parties["s0"].contexts.model_hash
    assert len(unpack_tags(journals["s0"].read(inputs_register("s0", "", model)))) == 1


@pytest.mark.parametrize("dies", ["before the answer", "after the answer"])
def test_a_crash_around_the_answer_is_no_conflict(dies: str) -> None:
    """The set is in the register; the same set is answered again, also after others shrank."""
    journals: dict[str, Any] = {}
    world = World(PLAN, journals=journals)

    def edit(kind: int, sender: str, to: str, frame: bytes) -> None:
        if kind == messages.SURVIVORS.number and to == "s0":
            party = world.parties["s0"]
            dump = party.dump()
            if dies == "before the answer":
                party._u3 = tuple(range(N))
                party._enter_release()
            else:
                party.receive(frame, sender=sender)
                # Meanwhile a later round of this site confirmed a smaller set.
                shrink(journals["s0"])
            world.parties["s0"] = reload(Client, world, "s0", dump)

    world.edit = edit
    world.run()
    assert rules(world) == {}
    assert world.result is not None
    assert not world.result.left


def test_a_refusal_whose_mark_is_not_written_stays_a_refusal() -> None:
    journals: dict[str, Any] = {"s0": Flaky([])}
    play(PLAN, range(N), 0, journals)
    journals["s0"].before = [nothing, full_disk]  # the plan, then the mark of the refusal
    world = World(PLAN, journals=journals, round=1)
    tried = patient(world, "s0")
    with pytest.raises(secagg.ThresholdError):
        world.run({3: ["s9"]})
    assert tried == ["journal-io"]
    stored = unpack_released(journals["s0"].read(released_register("s0", "")))
    assert stored.ended == "fixed-difference"
    assert stored.sites == set(PLAN.roster.names)


def test_the_name_of_the_data_goes_with_the_dump() -> None:
    plan, identity = make_plan(), people(7)[1]["s0"]
    common: dict[str, Any] = {"session": SESSION, "round": 0, "model": MODEL, "floors": None}
    journal = secagg.MemoryJournal()
    party = secagg.client(plan, "s0", identity=identity, journal=journal, data="trial 7", **common)
    again = secagg.load(party.dump(), plan, identity, journal)
    assert isinstance(again, secagg.Client)
    assert again.data == "trial 7"
    for wrong in (7, b"trial", "a\nb", "\ud800", "x" * 257):
        with pytest.raises(secagg.MisuseError) as caught:
            secagg.client(plan, "s0", identity=identity, journal=journal, data=wrong, **common)
        assert caught.value.rule == "arguments"


def test_the_smaller_limit_counts() -> None:
    for planned, floor, most in ((1, 3, 1), (3, 1, 1), (2, None, 2), (None, 2, 2), (2, 0, 0)):
        plan, journals = make_plan(max_inputs_per_model=planned), dict[str, Any]()
        floors = {"s0": secagg.Floors(most_inputs_per_model=floor)}
        sent = []
        for number in range(4):
            world = World(plan, journals=journals, floors=floors, round=number)
            world.run()
            sent.append("s0" in (world.result.survivors if world.result else ()))
            if planned is not None and number + 1 == planned:
                break  # the other sites reach the plan's limit
        assert sent == [number < most for number in range(len(sent))]


def test_registers_are_of_one_form_and_their_names_differ() -> None:
    two = frozenset({"b", "a"})
    kept = Released(True, two | {"c"}, 3, 1, 4, two, "fixed-nested")
    assert unpack_released(pack_released(kept)) == kept
    assert unpack_released(pack_released(NOTHING_RELEASED)) == NOTHING_RELEASED
    assert unpack_released(b"") == NOTHING_RELEASED
    assert [unpack_count(data) for data in (b"", pack_count(MOST_MODELS))] == [0, MOST_MODELS]
    assert unpack_tags(pack_tags((bytes(16), bytes([1]) * 16))) == (bytes(16), bytes([1]) * 16)
    short = pack_released(kept).replace(b"\x97", b"\x96", 1)
    for wrong in (b"\x00", b"\x92\xc0\xa0", b"\x97" + b"\xc0" * 7, b"\xff", short):
        with pytest.raises(secagg.MisuseError) as caught:
            unpack_released(wrong)
        assert caught.value.rule == "journal-file"
    for unpack in (unpack_tags, unpack_count):
        with pytest.raises(secagg.MisuseError):
            unpack(bytes(15))
    names = [inputs_register(s, d, bytes(32)) for s, d in (("a", "bc"), ("ab", "c"), ("a", ""))]
    for register in (released_register, models_register):
        names += [register(s, d) for s, d in (("a", "bc"), ("ab", "c"), ("a", ""))]
    assert len(set(names)) == len(names)
    assert all(len(name) == 32 for name in names)
    assert data_name("") == ""


def test_models_are_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MOST_MODELS", 2)
    plan, journals = make_plan(max_inputs_per_model=2), dict[str, Any]()

    def summed(number: int, model: bytes, data: str = "") -> bool:
        world = World(plan, journals=journals, round=number, model=model, data=data)
        with contextlib.suppress(secagg.ThresholdError):
            world.run()
        first = {e.rule for e in world.errors("s0")[:1]}
        assert first == (set() if world.result else {"inputs-full"})
        return world.result is not None

    def models(data: str = "") -> int:
        return unpack_count(journals["s0"].read(models_register("s0", data)))

    # A retry is no new model, also once the limit is reached; other data have their own count.
    rounds = [(b"one", ""), (b"two", ""), (b"three", ""), (b"one", ""), (b"three", "other")]
    done = [summed(number, *what) for number, what in enumerate(rounds)]
    assert done == [True, True, False, True, True]
    assert (models(), models("other")) == (2, 1)


def test_what_a_limit_refuses_is_no_model_on_record() -> None:
    journals: dict[str, Any] = {}
    floors = {"s0": secagg.Floors(most_inputs_per_model=0)}
    world = World(make_plan(), journals=journals, floors=floors).run()
    assert [e.rule for e in world.errors("s0")][:1] == ["inputs-per-model"]
    assert journals["s0"].read(models_register("s0", "")) == b""


def test_a_journal_of_all_models_is_as_large_as_is_said(tmp_path: Path) -> None:
    """docs/limitations.md: 137 bytes a model and 16 an input."""
    file = tmp_path / "journal"
    journal = secagg.FileJournal(file)
    for model in range(3):
        journal.swap(inputs_register("s0", "", bytes([model]) * 32), b"", bytes(2 * TAG_SIZE))
    assert file.stat().st_size == HEAD_SIZE + 3 * (137 + 2 * 16)
    assert 11_000_000 < MOST_MODELS * (137 + 2 * 16) < 11_100_000
