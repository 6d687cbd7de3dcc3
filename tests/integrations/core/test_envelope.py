"""Envelopes: bytes of anybody's, and who is behind a connection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrations.core.world import World, open_reply, open_request, quick, small

import secagg
from secagg.integrations import envelope
from secagg.integrations.envelope import HELLO, ORDERS, Reply, Request, pack, unpack
from secagg_protocols.errors import AuthenticationError, DecodeError, MisuseError, PeerError

__all__ = ["quick"]
FULL = Request(1, ORDERS, b"s" * 16, "train", b"d" * 32, plan="x = 1", messages=(b"a", b""))
ANSWER = Reply(1, b"s" * 16, "train", name="site-0", signature=b"z" * 64, refused="out")
KINDS = (Request, Reply)

requests = st.builds(
    Request,
    st.just(1),
    st.sampled_from([HELLO, ORDERS]),
    st.binary(min_size=1, max_size=64),
    st.from_regex(r"[a-z]{1,16}", fullmatch=True),
    st.binary(min_size=32, max_size=32),
    st.text(max_size=50),
    st.binary(max_size=16),
    st.lists(st.binary(max_size=40), max_size=5).map(tuple),
)
replies = st.builds(
    Reply,
    st.just(1),
    st.binary(min_size=1, max_size=64),
    st.from_regex(r"[a-z]{1,16}", fullmatch=True),
    st.text(max_size=255),
    st.binary(max_size=64),
    st.from_regex(r"[a-z-]{0,64}", fullmatch=True),
    st.lists(st.binary(max_size=40), max_size=5).map(tuple),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def refused(kind: Any, data: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        unpack(kind, data)
    assert caught.value.rule == "envelope"


def try_open(data: bytes) -> None:
    """Either an envelope whose fields are within their limits, or an error of one kind."""
    for kind in KINDS:
        try:
            found = unpack(kind, data)
        except DecodeError as error:
            assert error.rule == "envelope"
        else:
            assert unpack(kind, pack(found)) == found
            assert 1 <= len(found.session) <= 64
            assert re.fullmatch("[a-z]{1,16}", found.task)


@given(requests | replies)
def test_what_is_packed_is_unpacked(found: Request | Reply) -> None:
    assert unpack(type(found), pack(found)) == found
    assert unpack(type(found), memoryview(bytearray(pack(found)))) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    try_open(data)


@given(plain)
def test_any_msgpack_is_an_envelope_or_refused(value: Any) -> None:
    try_open(msgspec.msgpack.encode(value))


@settings(max_examples=200)
@given(requests | replies, st.integers(0), st.integers(0, 255), st.integers(0, 3))
def test_changed_bytes_are_an_envelope_or_refused(
    found: Request | Reply, at: int, byte: int, how: int
) -> None:
    data = bytearray(pack(found))
    at %= len(data)
    if how == 0:
        data[at] = byte
    elif how == 1:
        del data[at:]
    elif how == 2:
        del data[at]
    else:
        data.insert(at, byte)
    try_open(bytes(data))


@given(requests | replies, st.binary(min_size=1, max_size=5))
def test_trailing_bytes_are_refused(found: Request | Reply, more: bytes) -> None:
    refused(type(found), pack(found) + more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,  # nested deeper than any stack
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xd9\x01\xff",
    ],
)
def test_hostile_heads_are_refused(kind: Any, data: bytes) -> None:
    refused(kind, data)
    refused(kind, pack(FULL if kind is Request else ANSWER)[:-1] + data)


@pytest.mark.parametrize("data", [None, "text", 3, [b"x"], object()])
def test_what_is_no_bytes_is_refused(data: Any) -> None:
    for kind in KINDS:
        refused(kind, data)


def row(found: Request | Reply, **changes: Any) -> bytes:
    """Bytes of an envelope with fields that its class does not allow."""
    values = msgspec.structs.asdict(found) | changes
    return msgspec.msgpack.encode(list(values.values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"kind": "order"},
        {"kind": "hello\n"},
        {"kind": "helloorders"},
        {"kind": ""},
        {"session": b""},
        {"session": b"s" * 65},
        {"session": "s"},
        {"task": ""},
        {"task": "t" * 17},
        {"task": "../train"},
        {"task": "Train"},
        {"task": "train\n"},
        {"task": "tr/ain"},
        {"task": "träin"},
        {"digest": b"d" * 31},
        {"digest": b"d" * 33},
        {"plan": b"plan"},
        {"plan": None},
        {"nonce": b"n" * 17},
        {"messages": b"m"},
        {"messages": ["m"]},
        {"messages": None},
        {"messages": [b""] * ((1 << 16) + 1)},
        {"more": b""},
    ],
)
def test_fields_of_a_request_have_limits(changes: dict[str, Any]) -> None:
    assert unpack(Request, row(FULL)) == FULL
    refused(Request, row(FULL, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"session": b""},
        {"session": b"s" * 65},
        {"task": "t" * 17},
        {"task": "train\n"},
        {"name": "n" * 256},
        {"name": b"n"},
        {"signature": b"s" * 65},
        {"refused": "r" * 65},
        {"refused": "the mean of age is 71"},
        {"refused": "out\n"},
        {"refused": "Out"},
        {"messages": [b""] * ((1 << 16) + 1)},
        {"more": 1},
    ],
)
def test_fields_of_a_reply_have_limits(changes: dict[str, Any]) -> None:
    assert unpack(Reply, row(ANSWER)) == ANSWER
    refused(Reply, row(ANSWER, **changes))


def test_a_request_is_no_reply() -> None:
    refused(Reply, pack(FULL))
    refused(Request, pack(ANSWER))
    as_map = msgspec.msgpack.encode(msgspec.structs.asdict(FULL))
    refused(Request, as_map)


# Hello.


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small(tmp_path / "parties", "malicious-server")


def test_a_party_is_welcomed_by_its_name(world: World) -> None:
    for name in world.names:
        reply = world.desk(name).answer(world.rounds.greeting(f"node {name}")).reply
        assert world.rounds.welcome(f"node {name}", reply) == name


def test_semi_honest_plans_greet_as_well(tmp_path: Path) -> None:
    world = small(tmp_path / "p", "semi-honest")
    reply = world.desk("site-0").answer(world.rounds.greeting("k")).reply
    assert world.rounds.welcome("k", reply) == "site-0"


def test_a_hello_is_welcomed_once_and_only_where_it_was_asked(world: World) -> None:
    rounds, desk = world.rounds, world.desk("site-0")
    reply = desk.answer(rounds.greeting("one")).reply
    with pytest.raises(MisuseError) as misuse:
        rounds.welcome("two", reply)
    assert misuse.value.rule == "hello"
    assert rounds.welcome("one", reply) == "site-0"
    with pytest.raises(MisuseError):
        rounds.welcome("one", reply)
    # The same answer again, under the nonce of a later greeting or of another connection.
    for key in ("one", "two"):
        rounds.greeting(key)
        with pytest.raises(AuthenticationError) as caught:
            rounds.welcome(key, reply)
        assert caught.value.rule == "hello"


def test_a_hello_of_another_session_is_refused(world: World) -> None:
    other = world.new_rounds()
    request = world.rounds.greeting("k")
    reply = world.desk("site-0").answer(request).reply
    other.greeting("k")
    other._nonces["k"] = open_request(request).nonce
    for given_ in (reply, pack(msgspec.structs.replace(open_reply(reply), session=other.session))):
        with pytest.raises(AuthenticationError):
            other.welcome("k", given_)
        other._nonces["k"] = open_request(request).nonce


@pytest.mark.parametrize("field", ["session", "task", "digest", "nonce"])
def test_the_signature_holds_for_one_greeting(world: World, field: str) -> None:
    greeting = open_request(world.rounds.greeting("k"))
    value = {"session": b"q" * 16, "task": "other", "digest": b"q" * 32, "nonce": b"q" * 16}[field]
    changed = msgspec.structs.replace(greeting, **{field: value})
    identity = world.identities["site-0"]
    signature = envelope.sign_hello(identity, changed)
    reply = Reply(1, greeting.session, greeting.task, name="site-0", signature=signature)
    with pytest.raises(AuthenticationError):
        envelope.check_hello(identity.public, greeting, reply)
    envelope.check_hello(identity.public, changed, reply)


@pytest.mark.parametrize(("said", "read"), [("", "floors"), ("floors", ""), ("floors", "hello")])
def test_a_refusal_is_the_partys_own_word(world: World, said: str, read: str) -> None:
    """Whoever carries a hello can neither make a refusal of it nor take one away."""
    greeting = open_request(world.rounds.greeting("k"))
    identity = world.identities["site-0"]
    signature = envelope.sign_hello(identity, greeting, said)
    reply = Reply(1, greeting.session, greeting.task, "site-0", signature, said)
    envelope.check_hello(identity.public, greeting, reply)
    with pytest.raises(AuthenticationError):
        envelope.check_hello(
            identity.public, greeting, msgspec.structs.replace(reply, refused=read)
        )
    with pytest.raises(AuthenticationError):
        world.rounds.welcome("k", pack(msgspec.structs.replace(reply, refused=read)))


def test_nobody_says_hello_for_another(world: World) -> None:
    rounds = world.rounds
    for name, wrong in (("site-0", AuthenticationError), ("server", PeerError), ("x", PeerError)):
        reply = open_reply(world.desk("site-1").answer(rounds.greeting("k")).reply)
        with pytest.raises(wrong):
            rounds.welcome("k", pack(msgspec.structs.replace(reply, name=name)))
    # A stranger with a key of its own and a name of the roster.
    greeting = rounds.greeting("k")
    stranger = secagg.Identity.generate("site-0")
    signature = envelope.sign_hello(stranger, open_request(greeting))
    forged = Reply(1, rounds.session, "train", name="site-0", signature=signature)
    with pytest.raises(AuthenticationError):
        rounds.welcome("k", pack(forged))


@pytest.mark.parametrize("reply", [b"", b"\x00", pack(FULL), b"\xc1" * 99])
def test_bytes_that_are_no_hello_are_a_peers_error(world: World, reply: bytes) -> None:
    world.rounds.greeting("k")
    with pytest.raises(PeerError):
        world.rounds.welcome("k", reply)


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_short_signature_is_refused(world: World, size: int) -> None:
    reply = open_reply(world.desk("site-1").answer(world.rounds.greeting("k")).reply)
    cut = msgspec.structs.replace(reply, signature=reply.signature[:size])
    with pytest.raises(AuthenticationError):
        world.rounds.welcome("k", pack(cut))


def test_a_hello_changes_nothing_at_the_party(world: World) -> None:
    world.run()
    folder = world.folders["site-0"]
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    world.desk("site-0").answer(world.rounds.greeting("k"))
    other = world.new_rounds()
    world.desk("site-0").answer(other.greeting("k"))
    after = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert before == after
    world.check(world.run())


def test_a_hello_says_which_configuration_differs(world: World) -> None:
    greeting = open_request(world.rounds.greeting("k"))
    for changes, rule in (({"digest": b"q" * 32}, "plan-differs"), ({"task": "q"}, "plan-pinned")):
        changed = msgspec.structs.replace(greeting, **changes)
        answer = world.desk("site-0").answer(pack(changed))
        reply = open_reply(answer.reply)
        assert reply.refused == rule
        assert str(world.path) not in repr(reply)
        envelope.check_hello(world.identities["site-0"].public, changed, reply)
