"""Attacks on the Paillier sum by sites: vectors made of another's, false vectors, two vectors.

As in ``test_attacks.py``, an attack is played to its end, also where a plan does without proofs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secagg
from secagg.attacks.arena.paillier_played import rules_of
from secagg.attacks.arena.paillier_vectors import Below, Beyond, stolen
from secagg.attacks.arena.paillier_world import (
    PaillierWorld,
    make_plan,
    one_key_plan,
    private_key,
    trusting_plan,
)
from secagg_native.paillier import from_words, to_words
from secagg_protocols.paillier import knowledge
from secagg_protocols.paillier_sum import Client, messages

#: Both threats, and one key.
PLANS = {
    "malicious-server": make_plan(),
    "semi-honest": trusting_plan(),
    "one key": one_key_plan(),
}


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> secagg.Plan:
    return PLANS[str(request.param)]


def sent(world: PaillierWorld, site: int) -> bytes:
    """What a site sent to the server."""
    return world.frame(messages.ENCRYPTED, f"s{site}", "server")


# A site that uses another site's ciphertexts. It has a valid identity, and sees what s0 sent.


def vector_of(world: PaillierWorld, change: Any, *, proof: str) -> list[str]:
    """Rules by which the server refuses what s1 makes of the vector of s0."""
    frame = sent(world, 1)
    theirs = world.ciphertexts(sent(world, 0))
    copied = world.parts(sent(world, 0))[1][messages.vector_size(world.plan) :]
    values = change(theirs, world.key)
    bad = world.with_ciphertexts(frame, values, copied if proof == "copied" else None)
    fresh = PaillierWorld(world.plan)
    fresh.server.start()
    fresh.server.receive(sent(world, 0), sender="s0")
    return rules_of(lambda: fresh.server.receive(bad, sender="s1"))


RELATED: dict[str, Any] = {
    "copied": lambda c, key: c,
    "negated": lambda c, key: [pow(v, -1, key.n**2) for v in c],
    "scaled": lambda c, key: [pow(v, 1 << 40, key.n**2) for v in c],
    "sign changed": lambda c, key: [key.n**2 - v for v in c],
    "shifted": lambda c, key: [v * (1 + 5 * key.n) % key.n**2 for v in c],
    "re-randomised": lambda c, key: from_words(key.rerandomise(to_words(c, 2 * key.words))),
}


@pytest.fixture(scope="module")
def sent_inputs() -> PaillierWorld:
    return PaillierWorld(make_plan(length=200)).send_inputs()


@pytest.mark.parametrize("proof", ["own", "copied"])
@pytest.mark.parametrize("how", RELATED)
def test_a_vector_made_of_another_sites_is_refused(
    how: str, proof: str, sent_inputs: PaillierWorld
) -> None:
    assert vector_of(sent_inputs, RELATED[how], proof=proof) == ["knowledge"]


def test_two_rows_in_another_order_are_refused(sent_inputs: PaillierWorld) -> None:
    def turned(values: list[int], key: Any) -> list[int]:
        assert len(values) == 2
        return values[::-1]

    assert vector_of(sent_inputs, turned, proof="copied") == ["knowledge"]


def test_one_row_twice_in_a_vector_is_refused(sent_inputs: PaillierWorld) -> None:
    """Even of a site that knows what is in it, and proves it."""
    plan, key = sent_inputs.plan, sent_inputs.key
    plain = to_words([5, 5], key.words)
    exponents = np.repeat(key.exponents(1), 2, axis=0)
    rows = key.table.encrypt(exponents, plain)
    world = PaillierWorld(plan)
    world.server.start()
    context = knowledge.site_context(world.server.contexts.round, 1)
    proof = knowledge.prove(key, rows, plain, exponents, context=context)
    bad = sent_inputs.reseal(sent(sent_inputs, 1), tail=rows.astype("<u8").tobytes() + proof)
    assert rules_of(lambda: world.server.receive(bad, sender="s1")) == ["repeated"]


def test_a_copy_that_comes_first_does_not_carry_a_proof(sent_inputs: PaillierWorld) -> None:
    """Nobody is taken for the copier of what an attacker was quick to send."""
    plan = sent_inputs.plan
    world = PaillierWorld(plan)
    world.server.start()
    copy = sent_inputs.reseal(sent(sent_inputs, 0), sender="s1")
    assert rules_of(lambda: world.server.receive(copy, sender="s1")) == ["knowledge"]
    assert rules_of(lambda: world.server.receive(sent(sent_inputs, 0), sender="s0")) == []


@pytest.mark.parametrize("change", ["session", "round", "model"])
def test_a_proof_is_of_one_round(change: str, sent_inputs: PaillierWorld) -> None:
    """A colluding site re-signs, for this round, what an honest one sent in another."""
    other: dict[str, Any] = {"session": "other", "round": 1, "model": b"other"}
    plan = sent_inputs.plan
    world = PaillierWorld(plan, **{change: other[change]})
    world.server.start()
    again = world.reseal(sent(sent_inputs, 1))
    assert rules_of(lambda: world.server.receive(again, sender="s1")) == ["knowledge"]


def test_a_proof_does_not_say_that_a_site_knows_only_one_vector(
    sent_inputs: PaillierWorld,
) -> None:
    """What a site does know it may send, here the vector of s1 again in fresh ciphertexts."""
    world, key = sent_inputs, sent_inputs.key
    plain = private_key().decrypt(to_words(world.ciphertexts(sent(world, 1)), 2 * key.words))
    rows, exponents = key.encrypt_rows(plain)
    context = knowledge.site_context(world.server.contexts.round, 2)
    proof = knowledge.prove(key, rows, plain, exponents, context=context)
    tail = rows.astype("<u8").tobytes() + proof
    fresh = PaillierWorld(world.plan)
    fresh.server.start()
    assert rules_of(lambda: fresh.server.receive(sent(world, 1), sender="s1")) == []
    bad = world.reseal(sent(world, 2), tail=tail)
    assert rules_of(lambda: fresh.server.receive(bad, sender="s2")) == []


# The same in a plan without proofs: what it costs, and what is still refused.


def unproved(how: str, **changes: Any) -> PaillierWorld:
    """A semi-honest round without proofs in which s1 sends what it makes of the vector of s0."""
    plan = trusting_plan(holders=1, threshold=1, **changes)
    world = PaillierWorld(plan)

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if (kind, sender) == (messages.ENCRYPTED.number, "s1"):
            values = RELATED[how](world.ciphertexts(sent(world, 0)), world.key)
            return [world.with_ciphertexts(frame, values)]
        return None

    world.edit = edit
    return world


def test_without_proofs_only_a_plain_copy_is_found() -> None:
    world = unproved("copied").run()
    (error,) = world.errors("server")
    assert (error.rule, set(error.suspects)) == ("repeated", {"s0", "s1"})
    assert world.result is not None
    assert world.result.dropped == {"s1": "input"}
    assert world.result.sum.tolist() == world.expected()


def test_without_proofs_a_fresh_looking_copy_counts_a_site_twice() -> None:
    world = unproved("re-randomised", min_honest=2).run()
    assert world.result is not None
    counted = ["s0", "s0", "s2", "s3"]
    columns = zip(*(world.vectors[name] for name in counted), strict=True)
    assert world.result.sum.tolist() == [sum(column) for column in columns]
    assert world.errors("server") == []


def test_without_proofs_a_negated_copy_takes_a_site_out() -> None:
    """Of four sites that are stated to be in the sum, it is that of two."""
    world = unproved("negated").run()
    assert world.result is not None
    assert world.result.survivors == ("s0", "s1", "s2", "s3")
    two = [a + b for a, b in zip(world.vectors["s2"], world.vectors["s3"], strict=True)]
    assert world.result.sum.tolist() == two


def test_without_proofs_a_multiple_brings_a_vector_to_the_holder() -> None:
    """One coordinate: 2^40 times it lies far above the slot. The server's check of slots finds
    the round spoilt, but a holder who colludes has read the vector off its plaintext by then."""
    world = unproved("scaled", length=1)
    with pytest.raises(secagg.PeerError) as caught:
        world.run()
    assert caught.value.rule == "slot-range"
    assert set(caught.value.suspects) == {"s0", "s1", "s2", "s3"}
    plan, layout = world.plan, messages.layout_of(world.plan)
    tail = world.parts(world.frame(messages.OPENED, "h0"))[1][: messages.opened_size(plan)]
    read = (int.from_bytes(tail, "little") >> 40) - (1 << layout.bits - 1)
    assert read == world.vectors["s0"].item()


def test_with_proofs_the_multiple_never_reaches_a_holder() -> None:
    world = PaillierWorld(one_key_plan(length=1))

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        return [stolen(world, frame, 1 << 40)] if (kind, sender) == (16, "s1") else None

    world.edit = edit
    world.run()
    assert [(e.rule, e.sender) for e in world.errors("server")] == [("knowledge", "s1")]
    assert world.result is not None
    assert world.result.dropped == {"s1": "input"}
    assert world.result.sum.tolist() == world.expected()


# Numbers that are no ciphertexts.


@pytest.mark.parametrize("party", ["server", "h0"])
@pytest.mark.parametrize(
    "number", ["0", "p", "multiple of q^2", "n", "n^2 - n", "n^2", "n^2 + 1", "all bits"]
)
@pytest.mark.parametrize("kind", ["malicious-server", "semi-honest"])
def test_a_number_that_is_no_ciphertext_is_refused(number: str, party: str, kind: str) -> None:
    plan = PLANS[kind]
    key = private_key()
    n = key.public.n
    value = {
        "0": 0,
        "p": key.p,
        "multiple of q^2": key.q**2 * 6,
        "n": n,
        "n^2 - n": n**2 - n,
        "n^2": n**2,
        "n^2 + 1": n**2 + 1,
        "all bits": (1 << 2 * n.bit_length()) - 1,
    }[number]
    world = PaillierWorld(plan)
    world.server.start()
    tail = world.bytes_of([value]) + bytes(messages.knowledge_size(plan))
    site = world.parties["s1"]
    site.start()
    (send,) = site.submit(world.vectors["s1"])
    bad = world.reseal(send.data, tail=tail)
    sender = "s1" if party == "server" else "server"
    assert rules_of(lambda: world.parties[party].receive(bad, sender=sender)) == ["ciphertext"]


def test_a_ciphertext_without_randomness_is_the_sites_own_loss() -> None:
    """1 is an encryption of 0 that everybody reads; a proof about it is one of knowledge."""
    world = PaillierWorld(one_key_plan(length=1))
    key = world.key
    plain, none = to_words([1 << 11], key.words), np.zeros((1, key.exponent_words), np.uint64)
    rows = key.table.encrypt(none, plain)
    context = knowledge.site_context(world.server.contexts.round, 1)
    proof = knowledge.prove(key, rows, plain, none, context=context)

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if (kind, sender) != (messages.ENCRYPTED.number, "s1"):
            return None
        assert messages.layout_of(world.plan).bits == 12
        return [world.reseal(frame, tail=rows.astype("<u8").tobytes() + proof)]

    world.edit = edit
    world.run()
    assert from_words(rows) == [1 + (1 << 11) * key.n]
    world.vectors["s1"][:] = 0
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()


# Randomness.


def test_ciphertexts_are_random_in_every_row_and_every_round() -> None:
    """Nothing is (1 + n)^m alone, not even where all plaintexts are equal."""
    plan = trusting_plan(holders=1, threshold=1, length=600, stages=(secagg.Integers(0, 1),))
    slots, n = messages.layout_of(plan).slots, private_key().public.n
    plan = trusting_plan(holders=1, threshold=1, length=3 * slots, stages=(secagg.Integers(0, 1),))
    seen: list[int] = []
    for changes in ({}, {"round": 1}, {"session": "another"}, {"model": b"another"}):
        world = PaillierWorld(plan, **changes)
        for vector in world.vectors.values():
            vector[:] = 1
        world.send_inputs()
        for site in range(4):
            rows = world.ciphertexts(sent(world, site))
            plain = private_key().decrypt(to_words(rows, 2 * world.key.words))
            assert len(rows) == 3
            assert len(set(from_words(plain))) == 1
            seen += rows
        seen += from_words(world.server._product.value())
    assert len(set(seen)) == len(seen) == 4 * (4 + 1) * 3
    assert all((c - 1) % n for c in seen)


# A site with a bad vector of its own.


class Neighbour(Client):
    """A site whose first slot is so large that it changes the second."""

    by = 0

    def _batches(self, encoder: Any) -> Any:
        slot = messages.layout_of(self.plan).slot_bits
        for start, plain in super()._batches(encoder):
            numbers = from_words(plain)
            numbers[0] += self.by << slot
            yield start, to_words(numbers, plain.shape[1])


@pytest.mark.parametrize("kind", ["malicious-server", "one key"])
@pytest.mark.parametrize(
    ("cheat", "rule"), [(Beyond, "slot-range"), (Below, "sum-range")], ids=["beyond", "below"]
)
def test_an_overflow_that_shows_ends_the_round_and_accuses_nobody_alone(
    cheat: type[Client], rule: str, kind: str
) -> None:
    # With a ring of 16 bits there is room for sums that no honest sites have.
    plan = {"malicious-server": make_plan, "one key": one_key_plan}[kind](bits=16)
    world = PaillierWorld(plan, classes={"s1": cheat})
    with pytest.raises(secagg.PeerError) as caught:
        world.run()
    error = caught.value
    assert (error.rule, error.sender) == (rule, None)
    assert error.suspects == ("s0", "s1", "s2", "s3")
    assert world.result is None
    assert rules_of(world.server.close_step) == ["ended"]


def test_an_overflow_within_the_slots_is_like_any_false_vector() -> None:
    """No proof of ranges: a site may add to the next coordinate, as by giving another vector."""
    cheat = type("Carry", (Neighbour,), {"by": 3})
    world = PaillierWorld(one_key_plan(), classes={"s1": cheat})
    world.run()
    assert world.result is not None
    changed = world.result.sum - np.array(world.expected())
    assert changed.tolist() == [0, 3, 0, 0, 0]


# Sites that say two things.


def test_a_site_that_says_two_things_is_out_and_its_first_input_stays(plan: secagg.Plan) -> None:
    world = PaillierWorld(plan)

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        if sender != "s1":
            return None
        other = PaillierWorld(plan)
        other.parties["s1"]._entropy = bytes
        other.parties["s1"].start()
        (send,) = other.parties["s1"].submit(world.vectors["s2"])
        return [frame, send.data]

    world.edit = edit
    world.run()
    (error,) = world.errors("server")
    assert isinstance(error, secagg.EquivocationError)
    assert (error.rule, error.sender) == ("equivocation", "s1")
    assert world.result is not None
    # The holders have its first input too; the site itself hears nothing any more.
    assert world.result.sum.tolist() == world.expected()
    assert world.result.survivors == ("s0", "s1", "s2", "s3")
    assert {to for kind, _, to, _ in world.frames if kind == messages.RESULT.number} == {
        "s0",
        "s2",
        "s3",
    }


def test_the_second_input_of_a_site_is_nothing_to_a_holder() -> None:
    """A colluding site signs two inputs, and the server passes both on: the first counts."""
    world = PaillierWorld(make_plan()).send_inputs()
    other = PaillierWorld(make_plan())
    other.parties["s1"]._entropy = bytes
    other.parties["s1"].start()
    (send,) = other.parties["s1"].submit(world.vectors["s2"])
    holder = world.parties["h0"]
    (event,) = holder.receive(send.data, sender="server")
    assert isinstance(event, secagg.Ignored)
    assert isinstance(event.error, secagg.EquivocationError)
    assert event.error.sender == "s1"
    world.run_on()
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()
    assert not world.errors("h0")


def test_holders_with_two_inputs_of_a_site_open_one_product_at_most() -> None:
    """Each holder gets another input of the colluding site: no two of three agree on a sum that
    both products could be read from, since a request names one product."""
    plan = make_plan()
    world = PaillierWorld(plan)
    other = PaillierWorld(plan)
    other.parties["s1"]._entropy = bytes
    other.parties["s1"].start()
    (send,) = other.parties["s1"].submit(world.vectors["s2"])

    def edit(kind: int, sender: str, to: str, frame: bytes) -> list[bytes] | None:
        signed = int.from_bytes(frame[4:8], "little")
        return [send.data] if (to, signed) == ("h2", 1) else None

    world.edit = edit
    world.run()
    assert [error.rule for error in world.errors("h2")] == ["product"]
    assert world.result is not None
    assert world.result.sum.tolist() == world.expected()
