"""The parts that let a round stream: frames without copies, shared tails, tiles, kept keys."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg import MisuseError, Send
from secagg.attacks.arena.world import World, digest, make_plan
from secagg_protocols import keys, lift, result, wire
from secagg_protocols.masked_sum import Client
from secagg_protocols.stages.base import TILE

# Frames.


def test_a_finished_frame_is_the_buffer_itself() -> None:
    buffer, tail = wire.start_frame(5, 1, wire.SERVER, b"\x90", 1000, 32)
    tail[:] = b"t" * 1000
    tail.release()
    buffer[-32:] = b"d" * 32
    frame = bytes(buffer)
    assert frame == wire.frame_head(5, 1, wire.SERVER, b"\x90") + b"t" * 1000 + b"d" * 32
    assert bytes(buffer) is frame


def test_a_frame_that_was_taken_never_changes() -> None:
    buffer, tail = wire.start_frame(5, 1, wire.SERVER, b"\x90", 10, 32)
    early = bytes(buffer)
    tail[:] = b"t" * 10
    assert early[17:27] == bytes(10)
    tail.release()
    frame = bytes(buffer)
    buffer[-32:] = b"d" * 32
    assert frame[-32:] == bytes(32)
    assert bytes(buffer)[-32:] == b"d" * 32


def test_the_digest_of_a_frame_needs_only_the_hash_of_its_tail() -> None:
    whole = wire.frame_digest(bytes(32), 5, 1, 2, b"\x90", b"tail")
    hashed = hashlib.sha256(b"tail").digest()
    assert wire.digest_of_frame(bytes(32), 5, 1, 2, b"\x90", hashed) == whole


@given(st.sets(st.integers(0, 99)), st.integers(100, 120))
def test_site_lists_survive_their_bitmap(sites: set[int], clients: int) -> None:
    bitmap = wire.to_bitmap(sites, clients)
    assert int.from_bytes(bitmap, "little") == sum(1 << site for site in sites)
    assert wire.from_bitmap(bitmap, clients) == tuple(sorted(sites))
    for beyond in range(clients, 8 * len(bitmap)):
        spoilt = (int.from_bytes(bitmap, "little") | 1 << beyond).to_bytes(len(bitmap), "little")
        with pytest.raises(secagg.DecodeError):
            wire.from_bitmap(spoilt, clients)


# Events.


def test_a_message_in_parts_is_the_message() -> None:
    tail = b"shared" * 100
    whole, parts = Send("a", b"head" + tail + b"end"), Send("a", b"head", tail, b"end")
    assert parts.data == whole.data
    assert type(parts.data) is bytes
    assert parts.size == whole.size == len(whole.data)
    assert parts == whole
    assert hash(parts) == hash(whole)
    assert parts != Send("b", whole.data)
    assert parts != Send("a", whole.data + b"x")
    assert parts != "a"
    assert pickle.loads(pickle.dumps(parts)) == whole  # noqa: S301 - our own bytes
    match parts:
        case Send(to, data):
            assert (to, data) == ("a", whole.data)


def test_a_message_is_frozen_and_does_not_show_its_bytes() -> None:
    send = Send("a", b"secret bytes")
    assert repr(send) == "Send(to='a')"
    for name in ("to", "data", "_parts", "new"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(send, name, b"")
    with pytest.raises(dataclasses.FrozenInstanceError):
        del send._to


def test_results_to_many_sites_hold_one_copy_of_the_sum() -> None:
    plan = make_plan(length=5000, threat="semi-honest")
    sends: list[Any] = []
    world = World(plan)
    close = world.server.close_step

    def closing() -> list[Any]:
        events: list[Any] = close()
        sends[:] = [event for event in events if isinstance(event, Send)]
        return events

    world.server.close_step = closing
    world.run()
    assert len(sends) == 7
    tails = {id(part) for send in sends for part in send._parts if len(part) > 5000}
    assert len(tails) == 1
    assert len({send.data for send in sends}) == 7


def test_the_mean_of_an_aggregate_is_its_sum_over_its_weight() -> None:
    result = World(make_plan(max_weight=3)).run().result
    assert result is not None
    assert result.mean is not None
    assert result.mean.tolist() == (result.sum / result.weight).tolist()
    again = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own bytes
    assert again.mean.tolist() == result.mean.tolist()
    assert (again.digest, again.weight) == (result.digest, result.weight)
    assert dataclasses.replace(result, weight=0).mean is None
    assert "mean" not in {field.name for field in dataclasses.fields(result)}


# Tiles.

LENGTHS = (1, 7, TILE - 1, TILE, TILE + 1, 2 * TILE + 5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", [None, 23, 32, 47, 64])
def test_the_lifted_sum_is_the_one_in_plain_integers(length: int, bits: int | None) -> None:
    low, high, weight = -900, 300, 3
    plan = make_plan(
        length=length, stages=(secagg.Integers(low, high),), max_weight=weight, bits=bits
    )
    n, b = plan.clients, plan.wire_bits
    rng = np.random.default_rng(length)
    ring = rng.integers(0, 1 << b, plan.ring_length, dtype=np.uint64, endpoint=False)
    if b < 64:
        # What is above the ring's bits in a lane is of no account.
        ring |= rng.integers(0, 2, plan.ring_length, dtype=np.uint64) << np.uint64(b)
    ring = ring.astype(plan.lane)
    bounds = [n * weight * low] * length + [0]

    def expected(r: int, window: int) -> int:
        return window + (r - window) % (1 << b)

    wanted = [
        (expected(r, window) + (1 << 63)) % (1 << 64) - (1 << 63)
        for r, window in zip(ring.tolist(), bounds, strict=True)
    ]
    packed = result.pack_sum(plan, ring)
    assert lift.lift(plan, ring).tolist() == wanted
    assert lift.lift_packed(plan, packed).tolist() == wanted
    assert b"".join(bytes(piece) for piece in result.packed_tiles(plan, ring)) == packed
    assert len(packed) == result.ring_size(plan)


def test_a_digest_of_pieces_is_the_digest_of_the_whole() -> None:
    whole = keys.digest_of(b"label", b"one", b"two" * 100)
    pieces = [b"two" * 33, b"two" * 67]
    assert keys.digest_of_pieces(b"label", b"one", size=300, pieces=pieces) == whole
    for size in (0, 299, 301):
        with pytest.raises(ValueError, match="another size"):
            keys.digest_of_pieces(b"label", b"one", size=size, pieces=pieces)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_changes_no_byte(threads: int) -> None:
    plan = make_plan(4, length=150_001, bits=20)

    def frames(threads: int) -> tuple[list[Any], Any]:
        world = World(plan)
        for party in world.parties.values():
            party.threads = threads
        world.run({3: ["s1"]})
        assert world.result is not None
        assert world.result.sum.tolist() == world.expected()
        return world.frames, world.result.transcript

    assert frames(threads) == frames(1)


def test_threads_are_the_machine_s_and_not_in_a_dump() -> None:
    plan = make_plan(threat="semi-honest")
    common: dict[str, Any] = {"identity": None, "session": "s", "round": 0, "model": b""}
    journal = secagg.MemoryJournal()
    site = secagg.client(plan, "s0", floors=None, journal=journal, threads=3, **common)
    hub = secagg.server(plan, journal=journal, threads=3, **common)
    for party in (site, hub):
        assert party.threads == 3
        assert secagg.load(party.dump(), plan, None, journal).threads == 1
        assert secagg.load(party.dump(), plan, None, journal, threads=2).threads == 2


@pytest.mark.parametrize("threads", [0, -1, 1025, True, 2.0, None])
def test_a_senseless_number_of_threads_is_refused(threads: Any) -> None:
    plan = make_plan(threat="semi-honest")
    with pytest.raises(MisuseError) as caught:
        secagg.aggregate(plan, {}, threads=threads)
    assert caught.value.rule == "arguments"


# Keys.


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a private key is read, and how often two keys are agreed upon."""
    count: Counter[str] = Counter()
    for name in ("__init__", "exchange"):
        true = getattr(keys.ExchangeKey, name)

        def call(self: Any, *args: Any, name: str = name, true: Any = true) -> Any:
            count[name] += 1
            return true(self, *args)

        monkeypatch.setattr(keys.ExchangeKey, name, call)
    return count


def test_each_key_is_read_once_and_each_agreement_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n = 7
    world = World(make_plan(n))
    count = counted(monkeypatch)
    world.run({3: ["s4"]})
    assert world.result is not None
    # Two keys of each site; of the site that left, the server reads the mask key it recovered.
    assert count["__init__"] == 2 * n + 1
    # Each site with each other: one channel for both directions, one mask where it sends an
    # input. Two trials of each advert at the server, and the lost site's masks with all others.
    assert count["exchange"] == n * (n - 1) + n * (n - 1) + 2 * n + (n - 1)


def test_keys_for_opening_shares_are_erased_when_used_and_never_dumped() -> None:
    seen: list[dict[int, bytes]] = []
    dumps: list[bytes] = []

    class Watched(Client):
        def _seal_shares(self, present: tuple[int, ...]) -> bytes:
            sealed = super()._seal_shares(present)
            seen.append(dict(self._opening))
            dumps.append(self.dump())
            return sealed

    world = World(make_plan(), classes={"s2": Watched}).run()
    (opening,) = seen
    assert len(opening) == 6
    for key in opening.values():
        assert len(key) == 56
        assert key[:16] not in dumps[0]
    assert world.parties["s2"]._opening == {}


def test_a_private_key_is_neither_shown_nor_pickled() -> None:
    seed = digest("private")
    key = keys.ExchangeKey(seed)
    assert key.public == keys.public_key(seed)
    assert seed.hex()[:16] not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="32"):
        keys.ExchangeKey(seed[:31])


def test_a_key_of_low_order_is_refused_however_the_own_key_is_held() -> None:
    seed = digest("private")
    for own in (seed, keys.ExchangeKey(seed)):
        with pytest.raises(secagg.PeerError) as caught:
            keys.agree(own, bytes(32), sender="s1")
        assert (caught.value.rule, caught.value.sender) == ("low-order", "s1")
        other = keys.public_key(digest("other"))
        assert keys.agree(own, other, sender="s1") == keys.agree(
            digest("other"), keys.public_key(seed), sender="s0"
        )
