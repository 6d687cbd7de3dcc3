"""A vector that waits for the keys is the caller's own array: sent unchanged, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import MisuseError, Send
from secagg.attacks.arena.world import World, make_plan
from secagg_native import bitpack
from secagg_protocols.masked_sum import messages

VICTIM = "s2"


class Late:
    """A round in which the victim's call that would send its vector is made by the test."""

    def __init__(self, *, model: bool = True) -> None:
        self.world = World(make_plan())
        self.party = self.world.parties[VICTIM]
        self.held: list[bytes] = []
        if not model:
            self.party = secagg.client(
                self.world.plan,
                VICTIM,
                identity=self.world.identities[VICTIM],
                session="a test",
                round=0,
                model=None,
                floors=None,
                journal=self.world.journals[VICTIM],
            )
            self.world.parties[VICTIM] = self.party

        def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
            if kind == messages.SHARES_FOR.number and to == VICTIM:
                self.held.append(frame)
                return []
            return None

        self.world.edit = edit
        self.vector = self.world.vectors[VICTIM]

    def run(self, finish: Callable[[], list[Any]]) -> None:
        """The whole round; ``finish`` brings the victim's input in time for the survivors."""
        server = self.world.server
        close, calls = server.close_step, []

        def closing() -> list[Any]:
            calls.append(None)
            if len(calls) == 3:
                for event in finish():
                    if isinstance(event, Send):
                        self.world.deliver(event.data, VICTIM, "server")
            events: list[Any] = close()
            return events

        server.close_step = closing
        self.world.run()

    def receive(self) -> list[Any]:
        events: list[Any] = self.party.receive(self.held[0], sender="server")
        return events

    def changed(self, call: Callable[[], Any]) -> None:
        """``call`` refuses, sends nothing, claims nothing and ends nothing."""
        before = dict(self.world.journals[VICTIM]._records)
        with pytest.raises(MisuseError) as caught:
            call()
        assert caught.value.rule == "input-changed"
        assert self.world.journals[VICTIM]._records == before
        assert self.party._ended is None
        assert self.party._pending is None

    def assert_exact(self) -> None:
        assert self.world.result is not None
        assert VICTIM in self.world.result.survivors
        assert self.world.result.sum.tolist() == self.world.expected()


def test_an_unchanged_vector_is_sent_when_the_shares_come() -> None:
    late = Late()
    late.run(late.receive)
    late.assert_exact()


def test_a_vector_that_changes_while_it_is_encoded_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half old and half new it could be larger than its clip."""
    late = Late()
    pack = bitpack.pack

    def write_meanwhile(*arguments: Any) -> None:
        pack(*arguments)
        late.vector[0] += 1

    def finish() -> list[Any]:
        monkeypatch.setattr(bitpack, "pack", write_meanwhile)
        late.changed(late.receive)
        monkeypatch.undo()
        events: list[Any] = late.party.submit(late.vector)
        return events

    late.run(finish)
    late.assert_exact()


def test_the_message_can_be_taken_again_after_any_other_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = Late()

    def fail(*_: Any) -> None:
        raise MemoryError

    def finish() -> list[Any]:
        monkeypatch.setattr(bitpack, "pack", fail)
        with pytest.raises(MemoryError):
            late.receive()
        monkeypatch.undo()
        return late.receive()

    late.run(finish)
    late.assert_exact()


@pytest.mark.parametrize("again", [False, True])
def test_a_vector_that_changed_is_not_sent_and_can_be_given_again(again: bool) -> None:
    late = Late()

    def finish() -> list[Any]:
        late.vector[3] += 1
        late.changed(late.receive)
        events = []
        if again:
            # A transport that repeats what was not confirmed does no harm.
            (ignored,) = late.receive()
            assert isinstance(ignored, secagg.Ignored)
            assert ignored.error.rule == "step-order"
        events += late.party.submit(late.vector)
        assert [type(event) for event in events] == [Send]
        return events

    late.run(finish)
    late.assert_exact()


def test_a_vector_that_changed_before_the_model_came_is_given_again() -> None:
    late = Late(model=False)

    def finish() -> list[Any]:
        assert late.receive() == []
        late.vector[0] ^= 1
        late.changed(lambda: late.party.use_model(b"model"))
        assert late.party.use_model(b"model") == []
        events: list[Any] = late.party.submit(late.vector)
        return events

    late.run(finish)
    late.assert_exact()


def test_after_a_refusal_the_party_can_be_stored_and_loaded() -> None:
    late = Late()

    def finish() -> list[Any]:
        late.vector[3] += 1
        late.changed(late.receive)
        late.party = secagg.load(
            late.party.dump(),
            late.world.plan,
            late.world.identities[VICTIM],
            late.world.journals[VICTIM],
        )
        late.world.parties[VICTIM] = late.party
        events: list[Any] = late.party.submit(late.vector)
        return events

    late.run(finish)
    late.assert_exact()


def test_another_message_of_shares_after_a_refusal_is_an_equivocation() -> None:
    """The message of shares was taken; what was refused is the vector."""
    late = Late()

    def finish() -> list[Any]:
        late.vector[3] += 1
        late.changed(late.receive)
        header, tail = late.world.parts(late.held[0])
        other = late.world.reseal(late.held[0], header=header, tail=tail + b"x")
        with pytest.raises(secagg.EquivocationError):
            late.party.receive(other, sender="server")
        return []

    late.run(finish)
    assert late.world.result is not None
    assert VICTIM not in late.world.result.survivors


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.sort(),
        lambda x: x.__setitem__(slice(None), 0),
        lambda x: x.view(np.uint8).__setitem__(-1, 7),
    ],
)
def test_any_change_is_seen_in_whatever_way_it_was_made(change: Callable[[Any], None]) -> None:
    late = Late()

    def finish() -> list[Any]:
        late.vector[:] = [5, 4, 3, 2, 1]
        late.party._pending = None
        late.party.submit(late.vector)
        change(late.vector)
        late.changed(late.receive)
        return []

    late.run(finish)


def test_a_vector_with_gaps_was_copied_and_may_change() -> None:
    late = Late()
    wide = np.repeat(late.vector, 2)
    kept = late.vector.copy()
    late.world.vectors[VICTIM] = wide[::2]

    def finish() -> list[Any]:
        wide[:] = 1
        return late.receive()

    late.run(finish)
    late.world.vectors[VICTIM] = kept
    late.assert_exact()


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
def test_another_shape_or_dtype_of_the_same_array_object_changes_nothing() -> None:
    late = Late()

    def finish() -> list[Any]:
        late.vector.shape = (1, 5)
        late.vector.dtype = np.dtype(np.uint8)
        events = late.receive()
        late.vector.dtype = np.dtype(np.int64)
        late.vector.shape = (5,)
        return events

    late.run(finish)
    late.assert_exact()


def test_the_array_is_held_and_not_copied() -> None:
    late = Late()

    def finish() -> list[Any]:
        assert np.shares_memory(late.party._pending._vector, late.vector)
        return late.receive()

    late.run(finish)
    late.assert_exact()


def test_a_vector_that_turns_infinite_under_the_encoder_is_the_caller_s_fault() -> None:
    """Between the check and the encoding another thread may write; nothing is sent then."""
    plan = make_plan(stages=(secagg.ClipLinf(9.0), secagg.Quantise(9)), length=5)
    world = World(plan)
    world.vectors = {name: x.astype(float) for name, x in world.vectors.items()}
    party, vector = world.parties[VICTIM], world.vectors[VICTIM]
    true = party._enter_input

    def meanwhile() -> None:
        true()
        if not refused:
            vector[2] = np.nan

    refused: list[Any] = []
    party._enter_input = meanwhile
    receive = party.receive

    def receiving(*args: Any, **options: Any) -> Any:
        try:
            return receive(*args, **options)
        except MisuseError as error:
            refused.append(error.rule)
            assert "nan" not in str(error)
            vector[2] = 1.0
            return party.submit(vector)

    party.receive = receiving
    world.run()
    assert refused == ["input-changed"]
    assert world.result is not None
    assert VICTIM in world.result.survivors
