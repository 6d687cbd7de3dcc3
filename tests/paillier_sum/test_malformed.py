"""Bytes of any kind, authentic or not: a party answers with an error of ours, or not at all."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    make_plan,
    one_key_plan,
    trusting_plan,
)
from secagg_protocols import wire
from secagg_protocols.paillier_sum import messages

PLANS = {"malicious-server": make_plan, "semi-honest": trusting_plan, "one key": one_key_plan}
#: Kind -> who sends it, who receives it.
ENDS = {
    messages.ENCRYPTED: [("s1", "server"), ("server", "h0")],
    messages.OPEN: [("server", "h0")],
    messages.OPENED: [("h0", "server")],
    messages.RESULT: [("server", "s0")],
}
SETTINGS = settings(max_examples=60, deadline=None)


@cache
def done(kind: str) -> PaillierWorld:
    return PaillierWorld(PLANS[kind]()).run()


@cache
def dumps(kind: str) -> dict[tuple[str, int], bytes]:
    """(party, kind of message) -> the party's dump just before such a message."""
    found: dict[tuple[str, int], bytes] = {}
    world = PaillierWorld(PLANS[kind]())

    def edit(number: int, sender: str, to: str, frame: bytes) -> None:
        found.setdefault((to, number), world.parties[to].dump())

    world.edit = edit
    world.run()
    return found


def fresh(kind: str, name: str, number: int) -> Any:
    world = done(kind)
    dump, identity = dumps(kind)[name, number], world.identities[name]
    journal = secagg.MemoryJournal()
    if (name, number) == ("s0", messages.RESULT.number):
        journal = world.journals[name]  # it has sent its input
    if (name, number) == ("server", messages.OPENED.number):
        journal = world.journals[name]
    return secagg.load(dump, world.plan, identity, journal, share=world.shares.get(name))


def hear(party: Any, data: bytes, sender: str) -> None:
    """No other error than ours, and none at all at a server."""
    try:
        party.receive(data, sender=sender)
    except secagg.SecAggError:
        assert party.role != "server"
    party.dump()


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("message", ENDS, ids=lambda message: message.header.__name__)
def test_true_messages_are_taken(message: Any, kind: str) -> None:
    """Else the tests below would try nothing."""
    for sender, to in ENDS[message]:
        party = fresh(kind, to, message.number)
        events = party.receive(done(kind).frame(message, sender, to), sender=sender)
        assert events
        assert not [e for e in events if isinstance(e, secagg.Ignored | secagg.Dropped)]


@pytest.mark.parametrize("message", ENDS, ids=lambda message: message.header.__name__)
@SETTINGS
@given(st.data())
def test_authentic_messages_of_any_content(message: Any, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(PLANS)))
    sender, to = data.draw(st.sampled_from(ENDS[message]))
    world = done(kind)
    frame = world.frame(message, sender, to)
    header, tail = world.parts(frame)
    fields = list(msgspec.to_builtins(header, builtin_types=[bytes]))
    for place in range(len(fields)):
        if data.draw(st.booleans()):
            fields[place] = data.draw(
                st.binary(max_size=40) | st.integers() | st.none() | st.just([b""])
            )
    raw = data.draw(st.just(wire.encode_header(header)) | st.just(pack(fields)) | st.binary())
    cut = data.draw(st.sampled_from([0, 0, 1, 8]))
    body = bytearray(tail[cut:] if data.draw(st.booleans()) else tail + bytes(cut))
    for _ in range(data.draw(st.integers(0, 3)) if body else 0):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    bad = world.reseal(frame, raw=raw, tail=bytes(body))
    hear(fresh(kind, to, message.number), bad, sender)


def pack(fields: list[Any]) -> bytes:
    try:
        return msgspec.msgpack.encode(fields)
    except OverflowError:
        return b"\x90"


@SETTINGS
@given(st.data())
def test_messages_changed_on_their_way(data: st.DataObject) -> None:
    """Any byte, any cut: ignored, and the true message is taken afterwards."""
    kind = data.draw(st.sampled_from(sorted(PLANS)))
    message = data.draw(st.sampled_from(list(ENDS)))
    sender, to = data.draw(st.sampled_from(ENDS[message]))
    frame = done(kind).frame(message, sender, to)
    bad = bytearray(frame)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    bad = bad[: data.draw(st.just(len(bad)) | st.integers(0, len(bad)))]
    party = fresh(kind, to, message.number)
    before = party.dump()
    (event,) = party.receive(bytes(bad), sender=sender)
    assert isinstance(event, secagg.Ignored)
    assert party.dump() == before


@pytest.mark.parametrize("kind", ["malicious-server", "one key"])
def test_a_request_that_overtakes_inputs_is_answered_when_it_comes_again(kind: str) -> None:
    world = done(kind)
    party = PaillierWorld(world.plan).parties["h0"]
    request = world.frame(messages.OPEN, "server", "h0")
    for name in world.plan.roster.names:
        (early,) = party.receive(request, sender="server")
        assert isinstance(early, secagg.Ignored)
        assert early.error.rule == "given"
        party.receive(world.frame(messages.ENCRYPTED, name), sender="server")
    (send, _) = party.receive(request, sender="server")
    assert send.data == world.frame(messages.OPENED, "h0")
