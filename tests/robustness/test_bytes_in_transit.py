"""A byte changed, cut or appended in transit is refused, and the true message still works."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from robustness.rounds import (
    GATES,
    PLANS,
    SERVER,
    Delivery,
    Round,
    clone,
    cut_frame,
    other_byte,
    seal_frame,
    setup,
)
from robustness.rounds import context_of as context

import secagg

#: Messages up to this size are damaged at every byte, longer ones at sampled positions.
SHORT = 2000
SAMPLED = 2000


def positions(size: int, random_: random.Random) -> list[int]:
    """Every byte of a short message; of a long one the two ends and 2,000 sampled bytes."""
    if size <= SHORT:
        return list(range(size))
    ends = [*range(100), *range(size - 100, size)]
    return sorted({*ends, *random_.sample(range(size), SAMPLED)})


def damaged(data: bytes, random_: random.Random) -> Iterator[bytes]:
    """Each position changed, removed, doubled and cut at; each bit of the prefix flipped."""
    for at in positions(len(data), random_):
        yield data[:at] + bytes([other_byte(random_, data[at])]) + data[at + 1 :]
        yield data[:at] + data[at + 1 :]
        yield data[:at] + bytes([random_.randrange(256)]) + data[at:]
        yield data[:at]
    for at in range(16):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    yield data + b"\0"
    yield data + random_.randbytes(1)
    yield data + random_.randbytes(64)
    yield data + data
    yield data[1:]
    yield data[::-1]


def refuse_all(round_: Round, message: Delivery, random_: random.Random) -> int:
    """Deliver every damaged form of ``message``; how many were tried."""
    party = round_.parties[message.recipient]
    before = party.dump()
    tried = 0
    for data in damaged(message.data, random_):
        if data == message.data:
            # Doubling a byte next to an equal one and then cutting gives the message itself.
            continue
        events = party.receive(data, sender=message.sender)
        assert len(events) == 1
        assert isinstance(events[0], secagg.Ignored), (message.kind, data.hex())
        assert isinstance(events[0].error, secagg.PeerError)
        assert events[0].error.rule in GATES
        assert party.dump() == before, (message.kind, data.hex())
        tried += 1
    return tried


def attack_round(round_: Round, *, every: bool, seed: int) -> dict[int, int]:
    """Run a round while damaging its messages; attempts by kind."""
    random_ = random.Random(seed)
    tried: dict[int, int] = {}
    for message in round_.deliveries():
        if every or message.kind not in tried:
            count = refuse_all(round_, message, random_)
            tried[message.kind] = tried.get(message.kind, 0) + count
    round_.assert_exact()
    return tried


@pytest.mark.parametrize("kind", PLANS)
def test_damage_in_transit_changes_nothing(kind: str) -> None:
    plan, identities = setup(kind)
    tried = attack_round(Round(plan, identities), every=False, seed=1)
    assert set(tried) == (set(range(1, 11)) if plan.signed else set(range(1, 11)) - {7, 8})
    # Four forms of every byte, and no message is shorter than its prefix and trailer.
    assert min(tried.values()) > 4 * 48


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANS)
def test_damage_to_every_message_of_a_round(kind: str) -> None:
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    tried = attack_round(round_, every=True, seed=2)
    assert sum(tried.values()) > 10_000
    assert len(round_.result().survivors) == plan.clients


@pytest.mark.parametrize(
    "kind", ["semi-honest", pytest.param("malicious-server", marks=pytest.mark.slow)]
)
def test_damage_to_long_messages(kind: str) -> None:
    plan, identities = setup(kind, length=1500, high=100_000)
    tried = attack_round(Round(plan, identities), every=False, seed=3)
    assert tried[5] > 4 * SAMPLED
    assert tried[10] > 4 * SAMPLED


@pytest.mark.parametrize("kind", PLANS)
def test_damage_while_sites_drop_out(kind: str) -> None:
    """With a site gone after its shares, survivors' lists are proper subsets."""
    plan, identities = setup(kind)
    gone = plan.roster.names[1]
    round_ = Round(plan, identities, silent={gone: 5})
    attack_round(round_, every=False, seed=4)
    assert round_.result().dropped == {gone: "input"}


@pytest.mark.parametrize("kind", PLANS)
def test_a_message_of_another_round_session_model_or_plan_is_refused(kind: str) -> None:
    """Whole messages that are valid elsewhere are refused like damaged ones."""
    plan, identities = setup(kind)
    other_plan, _ = setup(kind, length=4)
    elsewhere = [
        {"round": 1},
        {"session": "another"},
        {"model": b"another model"},
        {"plan": other_plan},
    ]
    foreign: list[dict[tuple[int, str, str], bytes]] = []
    for change in elsewhere:
        other = Round(change.get("plan", plan), identities)  # type: ignore[arg-type]
        common = {"session": "robust", "round": 0, "model": b"broadcast model"} | change
        common.pop("plan", None)
        for name, party in other.parties.items():
            arguments = dict(common, identity=other.identity(name), journal=party.journal)
            arguments["_entropy"] = party._entropy
            other.parties[name] = (
                secagg.server(other.plan, **arguments)
                if name == "server"
                else secagg.client(other.plan, name, floors=None, **arguments)
            )
        foreign.append({(m.kind, m.sender, m.recipient): m.data for m in other.deliveries()})
    round_ = Round(plan, identities)
    refused = 0
    for message in round_.deliveries():
        party = round_.parties[message.recipient]
        for change, messages in zip(elsewhere, foreign, strict=True):
            data = messages[message.kind, message.sender, message.recipient]
            if data == message.data:
                # The setup messages know nothing of the model, by design.
                assert "model" in change
                assert message.kind < 5
                continue
            before = party.dump()
            (event,) = party.receive(data, sender=message.sender)
            assert isinstance(event, secagg.Ignored)
            assert event.error.rule in GATES
            assert party.dump() == before
            refused += 1
    round_.assert_exact()
    assert refused > 3 * plan.clients * 6


@pytest.mark.parametrize("kind", PLANS)
def test_messages_for_or_from_somebody_else_change_nothing(kind: str) -> None:
    """Every message of a round is shown to every party; only its recipient moves."""
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    for message in round_.deliveries():
        for name, party in round_.parties.items():
            before = party.dump()
            wrong = next(n for n in round_.parties if n != message.sender)
            for sender in (message.sender, None, wrong):
                if name == message.recipient and sender != wrong:
                    continue
                (event,) = party.receive(message.data, sender=sender)
                assert isinstance(event, secagg.Ignored)
            assert party.dump() == before
    round_.assert_exact()


@pytest.mark.parametrize("kind", PLANS)
def test_repeated_messages_change_nothing_but_are_not_an_offence(kind: str) -> None:
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    seen: list[Delivery] = []
    for message in round_.deliveries():
        for old in seen[-12:]:
            party = round_.parties[old.recipient]
            before = party.dump()
            (event,) = party.receive(old.data, sender=old.sender)
            assert isinstance(event, secagg.Ignored)
            assert event.error.rule == "step-order"
            assert party.dump() == before
        seen.append(message)
    round_.assert_exact()


@pytest.mark.parametrize("kind", PLANS)
def test_the_hand_made_frames_of_these_tests_are_the_real_ones(kind: str) -> None:
    """The tests' own sealing, written from the specification, gives the package's bytes."""
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    for message in round_.deliveries():
        parts = cut_frame(plan, message.data)
        party = round_.parties[message.recipient]
        identity = identities[message.sender]
        assert parts.kind == message.kind
        assert seal_frame(plan, identity, context(party, parts.kind), parts) == message.data


@pytest.mark.parametrize("kind", PLANS)
def test_clones_of_these_tests_are_what_a_dump_loads(kind: str) -> None:
    plan, identities = setup(kind)
    round_ = Round(plan, identities)
    for _ in round_.deliveries():
        for party in round_.parties.values():
            assert clone(party).dump() == party.dump()


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("role", ["server", "client"])
def test_a_huge_message_is_refused_before_anything_is_allocated(kind: str, role: str) -> None:
    """The plan knows every length, so a header or tail of 16 MiB is never copied."""
    plan, identities = setup(kind)
    party = Round(plan, identities).parties[SERVER if role == "server" else "site-0"]
    party.start()
    size = 1 << 24
    numbers = (1, 3, 5, 7, 9) if role == "server" else (2, 4, 6, 8, 10)
    for number, header in itertools.product(numbers, (0, 1, size - 80, 0xFFFFFFFF)):
        prefix = b"SA" + struct.pack("<BBIII", 1, number, 0, party.index, header)
        data = prefix + bytes(size - len(prefix))
        tracemalloc.start()
        try:
            (event,) = party.receive(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert isinstance(event, secagg.Ignored)
        assert event.error.rule in {"limits", "frame"}
        assert peak < 1 << 16
